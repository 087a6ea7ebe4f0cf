//! A configuration as the cores take it: numbered, with its pools identified, and under the operator's orders.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;

use crate::config::{Config, Guest, PoolConfig, ServerAddress};
use crate::orders::Orders;
use crate::pool::PoolId;

use super::tls::Tls;

/// One generation of the configuration. Made by the control thread, the same on all cores.
#[derive(Clone)]
pub(crate) struct Setup {
    /// Counts the configurations of this process, from 1.
    pub(crate) generation: u32,
    /// What is paused, and the like.
    pub(crate) orders: Arc<Orders>,
    config: Arc<Config>,
    /// Certificates as they were when this configuration was read.
    pub(crate) certificates: Arc<Tls>,
    /// Of the pools of `config`, in their order.
    ids: Arc<[PoolId]>,
    /// Pools of earlier configurations that may still have connections.
    former: Arc<HashMap<Identity, PoolId>>,
    /// No pool has had this number yet, nor a higher one.
    next_id: u32,
}

/// What makes a pool the same one: whose it is, and where its servers are. Its sizes and passwords may change.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    user: String,
    database: String,
    shard: u32,
    /// Another number of shards is another database.
    shards: usize,
    address: ServerAddress,
    server_user: String,
}

impl Setup {
    /// The configuration that the process starts with.
    pub(crate) fn first(config: Config, certificates: Tls) -> Self {
        Self {
            generation: 1,
            orders: Arc::default(),
            former: Arc::default(),
            ids: (1..).map(PoolId).take(config.pools.len()).collect(),
            next_id: number(config.pools.len() + 1),
            config: Arc::new(config),
            certificates: Arc::new(certificates),
        }
    }

    /// The configuration after this one. Pools that stay keep their numbers, and so do those that come back before all
    /// of their connections were closed; of former ones, `over` have none any more. New ones get new numbers.
    pub(crate) fn next(&self, config: Config, certificates: Tls, over: &HashSet<PoolId>) -> Self {
        self.followed_by(config, Arc::new(certificates), over)
    }

    /// The same with guests whom it did not know.
    pub(crate) fn with_guest(&self, guest: &Guest) -> Self {
        let config = Config::clone(&self.config).with_guests([guest]);
        self.followed_by(config, Arc::clone(&self.certificates), &HashSet::new())
    }

    fn followed_by(&self, config: Config, certificates: Arc<Tls>, over: &HashSet<PoolId>) -> Self {
        let mut former = HashMap::clone(&self.former);
        former.retain(|_, id| !over.contains(id));
        former.extend(identities(&self.config).zip(self.ids.iter().copied()));
        let mut next_id = self.next_id;
        let ids = identities(&config).map(|identity| {
            former.remove(&identity).unwrap_or_else(|| {
                next_id += 1;
                PoolId(next_id - 1)
            })
        });
        Self {
            generation: self.generation + 1,
            orders: Arc::clone(&self.orders),
            ids: ids.collect(),
            former: Arc::new(former),
            next_id,
            config: Arc::new(config),
            certificates,
        }
    }

    /// The same configuration under other orders.
    pub(crate) fn under(&self, orders: Orders) -> Self {
        Self {
            orders: Arc::new(orders),
            ..self.clone()
        }
    }

    /// `other` was given up, but its numbers may be known somewhere: they are not used again.
    pub(crate) fn skip_ids_of(&mut self, other: &Self) {
        self.next_id = self.next_id.max(other.next_id);
    }

    /// Pools of earlier configurations that may still have connections, or come back.
    pub(crate) fn former(&self) -> HashSet<PoolId> {
        self.former.values().copied().collect()
    }

    /// The configuration's pools, in its order.
    pub(crate) fn pools(&self) -> impl Iterator<Item = (PoolId, &PoolConfig)> {
        self.ids.iter().copied().zip(&self.config.pools)
    }
}

impl Deref for Setup {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

/// No two are the same: a configuration that names a server of a shard twice is not valid.
fn identities(config: &Config) -> impl Iterator<Item = Identity> + '_ {
    config.pools.iter().map(|pool| {
        let cluster = config.cluster(&pool.database);
        Identity {
            user: pool.user.clone(),
            database: pool.database.clone(),
            shard: pool.shard,
            shards: cluster.map_or(0, |cluster| cluster.shards.len()),
            address: pool.address.clone(),
            server_user: pool.login.user.clone(),
        }
    })
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("far fewer pools than numbers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{resolve, Source, Sources};

    fn config(databases: &[&str], users: &[&str]) -> Config {
        let databases = databases
            .iter()
            .map(|lines| format!("[[databases]]\n{lines}\n"))
            .collect::<String>();
        let users = users
            .iter()
            .map(|lines| format!("[[users]]\npassword = \"p\"\n{lines}\n"))
            .collect::<String>();
        let source = |path, text| Source {
            path,
            text: Some(text),
        };
        resolve(&Sources {
            config: source("pgdog.toml", &databases),
            users: source("users.toml", &users),
            environment: &Default::default(),
            overrides: &Default::default(),
        })
        .expect("a valid configuration")
        .config
    }

    fn ids(setup: &Setup) -> Vec<(String, u32)> {
        let name =
            |pool: &PoolConfig| format!("{} {} {}", pool.user, pool.database, pool.address.port);
        setup.pools().map(|(id, pool)| (name(pool), id.0)).collect()
    }

    fn expected(pools: &[(&str, u32)]) -> Vec<(String, u32)> {
        pools
            .iter()
            .map(|(name, id)| ((*name).to_owned(), *id))
            .collect()
    }

    #[test]
    fn a_pool_keeps_its_number_while_address_and_user_stay() {
        let a = "name = \"a\"\nhost = \"h\"\nport = 1";
        let b = "name = \"b\"\nhost = \"h\"\nport = 2";
        let (u, v) = (
            "name = \"u\"\nall_databases = true",
            "name = \"v\"\ndatabase = \"a\"",
        );
        let first = Setup::first(config(&[a, b], &[u]), Tls::default());
        assert_eq!(ids(&first), expected(&[("u a 1", 1), ("u b 2", 2)]));
        let second = first.next(config(&[a, b], &[u, v]), Tls::default(), &HashSet::new());
        assert_eq!(
            ids(&second),
            expected(&[("u a 1", 1), ("u b 2", 2), ("v a 1", 3)])
        );
        // Its size and its password are not what makes it.
        let larger = format!("{a}\npool_size = 99\npassword = \"q\"");
        let third = second.next(config(&[&larger], &[u]), Tls::default(), &HashSet::new());
        assert_eq!(ids(&third), expected(&[("u a 1", 1)]));
        let fourth = third.next(
            config(&[&b.replace('2', "3"), a], &[u]),
            Tls::default(),
            &HashSet::new(),
        );
        assert_eq!(ids(&fourth), expected(&[("u a 1", 1), ("u b 3", 4)]));
        assert_eq!(fourth.generation, 4);
        // Who was gone is the same again, unless nothing was left of it.
        assert_eq!(fourth.former(), HashSet::from([PoolId(2), PoolId(3)]));
        let fifth = fourth.next(
            config(&[a, b], &[u, v]),
            Tls::default(),
            &HashSet::from([PoolId(2)]),
        );
        assert_eq!(
            ids(&fifth),
            expected(&[("u a 1", 1), ("u b 2", 5), ("v a 1", 3)])
        );
        assert_eq!(fifth.former(), HashSet::from([PoolId(4)]));
    }

    #[test]
    fn another_user_on_the_server_or_number_of_shards_is_another_pool() {
        let a = "name = \"a\"\nhost = \"h\"";
        let first = Setup::first(
            config(&[a], &["name = \"u\"\ndatabase = \"a\""]),
            Tls::default(),
        );
        for (databases, user) in [
            (vec![a], "server_user = \"w\""),
            (vec!["name = \"a\"\nhost = \"i\""], ""),
            (vec![a, "name = \"a\"\nhost = \"h\"\nshard = 1"], ""),
        ] {
            let user = format!("name = \"u\"\ndatabase = \"a\"\n{user}");
            let next = first.next(
                config(&databases, &[&user]),
                Tls::default(),
                &HashSet::new(),
            );
            assert!(ids(&next).iter().all(|(_, id)| *id > 1), "{:?}", ids(&next));
        }
    }
}
