//! A core takes a new configuration: pools that stay are adjusted, new ones made, those that are gone drained.
//!
//! Two rounds of mail from the control thread. After **prepare** every core has a slice of every new pool, so that
//! none is surprised by mail of one that it does not know. **Adopt** puts the configuration in force; sessions follow
//! when they are between two transactions, which they find out by comparing one number.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::sync::Arc;

use cores::Core;

use crate::config::Host;
use crate::orders::Of;
use crate::pool::{Pool, PoolId};

use super::cluster::{Cluster, Shard};
use super::core_state::{Activity, CoreState};
use super::link::Notice;
use super::mail::{Act, Done, Whom};
use super::pools::PoolSlot;
use super::setup::Setup;
use super::{client, news, prober, snapshot};

/// One core's slices of all pools. Replaced as a whole, so that whoever looks at it sees one moment.
pub(crate) struct Pools {
    /// All of them, those on their way in or out too, by number. Those that are out stay until they are over on all
    /// cores: they may come back.
    all: Vec<Rc<PoolSlot>>,
    /// Those of the configuration, by user and database.
    clusters: Vec<Rc<Cluster>>,
    /// Where in `clusters` the pool of this number is.
    places: HashMap<PoolId, Place>,
    /// The pools of each server.
    instances: HashMap<Arc<Instance>, Vec<PoolId>>,
}

/// A PostgreSQL server, whatever pools there are for its databases.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Instance {
    pub(crate) host: Host,
    pub(crate) port: u16,
}

/// Where a pool is.
pub(crate) struct Place {
    pub(crate) cluster: Rc<Cluster>,
    shard: usize,
    /// In the shard.
    pub(crate) server: usize,
    pub(crate) instance: Arc<Instance>,
}

impl Place {
    /// The shard that the server has a part of.
    pub(crate) fn shard(&self) -> &Shard {
        let shard = self.cluster.shard(self.shard);
        shard.expect("places are made of what is there")
    }

    /// The pool.
    pub(crate) fn slot(&self) -> Option<&Rc<PoolSlot>> {
        self.shard().servers().get(self.server)
    }
}

impl Pools {
    pub(super) fn first(setup: &Setup, core: &Core) -> Self {
        let slots = setup.pools();
        let slots = slots.map(|(id, pool)| Rc::new(PoolSlot::new(id, pool, setup, core)));
        let slots: Vec<_> = slots.collect();
        let clusters = clusters(&slots, None, setup, core);
        Self::new(slots, clusters)
    }

    fn new(mut all: Vec<Rc<PoolSlot>>, clusters: Vec<Rc<Cluster>>) -> Self {
        all.sort_by_key(|slot| slot.id);
        let mut places = HashMap::new();
        let mut instances: HashMap<Arc<Instance>, Vec<PoolId>> = HashMap::new();
        for cluster in &clusters {
            for (shard, part) in cluster.parts().enumerate() {
                for (server, slot) in part.servers().iter().enumerate() {
                    let pool = slot.config();
                    let instance = Arc::new(Instance {
                        host: pool.address.host.clone(),
                        port: pool.address.port,
                    });
                    instances
                        .entry(Arc::clone(&instance))
                        .or_default()
                        .push(slot.id);
                    let cluster = Rc::clone(cluster);
                    let place = Place {
                        cluster,
                        shard,
                        server,
                        instance,
                    };
                    places.insert(slot.id, place);
                }
            }
        }
        Self {
            all,
            clusters,
            places,
            instances,
        }
    }

    /// Each user's database.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &Rc<Cluster>> {
        self.clusters.iter()
    }

    /// Every user's of this database.
    pub(super) fn clusters_of<'a>(
        &'a self,
        database: &'a str,
    ) -> impl Iterator<Item = &'a Rc<Cluster>> {
        let clusters = self.clusters();
        clusters.filter(move |cluster| cluster.names.database == database)
    }

    /// The same clusters, with other pools on their way in or out.
    fn with(&self, all: Vec<Rc<PoolSlot>>) -> Self {
        Self::new(all, self.clusters.clone())
    }

    /// Where a pool of the configuration is.
    pub(crate) fn place(&self, pool: PoolId) -> Option<&Place> {
        self.places.get(&pool)
    }

    /// Where all of them are, in the order of their numbers.
    pub(crate) fn all_places(&self) -> impl Iterator<Item = &Place> {
        self.all.iter().filter_map(|slot| self.place(slot.id))
    }

    /// Where the pools of a server are.
    pub(crate) fn places(&self, instance: &Instance) -> impl Iterator<Item = &Place> {
        let pools = self.instances.get(instance);
        pools
            .into_iter()
            .flatten()
            .filter_map(|pool| self.place(*pool))
    }

    /// All servers.
    pub(crate) fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.keys()
    }

    /// All slices that this core has.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rc<PoolSlot>> {
        self.all.iter()
    }

    pub(crate) fn get(&self, id: PoolId) -> Option<&Rc<PoolSlot>> {
        let at = self.all.binary_search_by_key(&id, |slot| slot.id).ok()?;
        self.all.get(at)
    }

    /// The pools of this user and database.
    pub(super) fn of(&self, user: &str, database: &str) -> Option<&Rc<Cluster>> {
        let key = |cluster: &Rc<Cluster>| {
            let names = &cluster.names;
            (names.user.as_str(), names.database.as_str()).cmp(&(user, database))
        };
        let at = self.clusters.binary_search_by(key).ok()?;
        self.clusters.get(at)
    }
}

/// The pools of a configuration, in its order, by user and database. What `before` knows of their servers is kept.
fn clusters(
    configured: &[Rc<PoolSlot>],
    before: Option<&Pools>,
    setup: &Setup,
    core: &Core,
) -> Vec<Rc<Cluster>> {
    let mut sorted = configured.to_vec();
    let key = |slot: &PoolSlot| (slot.names.user.clone(), slot.names.database.clone());
    sorted.sort_by_cached_key(|slot| key(slot));
    let clusters = sorted.chunk_by(|a, b| a.names == b.names);
    let cluster = |pools: &[Rc<PoolSlot>]| {
        let names = pools.first().map(|slot| &slot.names);
        let before = names.and_then(|names| before?.of(&names.user, &names.database));
        Rc::new(Cluster::new(pools, before.map(Rc::as_ref), setup, core))
    };
    clusters.map(cluster).collect()
}

/// Does what the control thread asks for, and tells it so.
pub(super) fn act(state: &Rc<CoreState>, act: Act, done: &Sender<Done>) {
    let (mut count, mut in_use, mut former) = (0, Vec::new(), Vec::new());
    match act {
        Act::Prepare(setup) => prepare(state, &setup),
        Act::Adopt(setup) => adopt(state, &setup),
        Act::Reconnect(scope) => reconnect(state, &scope),
        Act::Kill(whom) => count = kill(state, &whom),
        Act::Census => {
            let links = state.links.borrow();
            let pools: HashSet<_> = links.values().map(|link| link.slot.borrow().id).collect();
            in_use.extend(pools);
        }
        Act::Review => {
            let pools = state.pools();
            let left = pools.iter().filter(|slot| slot.leaves.get());
            former.extend(left.map(|slot| (slot.id, slot.leftover())));
        }
        Act::Ban(pool) => count = news::set_ban(state, pool, true),
        Act::Unban(pool) => count = news::set_ban(state, pool, false),
        Act::Check(pool) => count = prober::check_now(state, pool),
        Act::ForgetPrepared => {
            let most = state.prepared_max().div_ceil(state.core.count());
            state.statements.borrow_mut().forget_unused(most);
        }
        Act::ForgetAnalyses => {
            let pools = state.pools();
            let caches = pools.clusters().map(|cluster| &cluster.analyses);
            caches.for_each(|cache| cache.borrow_mut().clear());
        }
    }
    let core = state.core.index();
    // Otherwise the control thread has given up on this core.
    let _ = done.send(Done {
        core,
        count,
        in_use,
        former,
    });
}

/// Makes the slices of pools that are new in `setup`. They are not used yet.
fn prepare(state: &CoreState, setup: &Setup) {
    let pools = state.pools();
    let new = setup.pools().filter(|(id, _)| pools.get(*id).is_none());
    let new = new.map(|(id, pool)| Rc::new(PoolSlot::new(id, pool, setup, &state.core)));
    let all = pools.all.iter().cloned().chain(new).collect();
    state.pools.replace(Rc::new(pools.with(all)));
}

/// Puts `setup` in force, which was prepared.
fn adopt(state: &Rc<CoreState>, setup: &Setup) {
    let before = state.pools();
    let known = setup.pools();
    let known: Vec<_> = known
        .filter_map(|(id, pool)| Some((Rc::clone(before.get(id)?), pool)))
        .collect();
    let stay: HashSet<PoolId> = known.iter().map(|(slot, _)| slot.id).collect();
    let gone = before.iter().filter(|slot| !stay.contains(&slot.id));
    let gone: Vec<_> = gone.filter(|slot| !slot.leaves.replace(true)).collect();
    let configured: Vec<_> = known.iter().map(|(slot, _)| Rc::clone(slot)).collect();
    if !setup.looks_up_as(&state.config()) {
        state.looked_up.borrow_mut().clear();
    }
    state.setup.replace(Rc::new(setup.clone()));
    state.upkeep.stir();
    // From here on whoever is turned away by a pool looks for its successor.
    let generation = state.generation.replace(setup.generation);
    for (slot, pool) in &known {
        slot.reconfigure(state, pool, setup);
    }
    let clusters = match generation == setup.generation {
        // Other orders only: sessions go on with the clusters that they have.
        true => before.clusters.clone(),
        false => {
            let clusters = clusters(&configured, Some(&before), setup, &state.core);
            // The others have given their caches to their successors.
            let left = before.clusters();
            left.for_each(|cluster| snapshot::keep_counts(state, cluster));
            clusters
        }
    };
    // Those that are over have said so on all cores.
    let former = setup.former();
    let all = before
        .iter()
        .filter(|slot| !slot.is_gone() || former.contains(&slot.id));
    let pools = Pools::new(all.cloned().collect(), clusters);
    state.pools.replace(Rc::new(pools));
    for slot in gone {
        slot.decide(state, Pool::drain);
    }
    tell_sessions(state);
    prober::adapt(state);
    if generation != setup.generation && state.core.index() == 0 {
        state.core.spawn(client::derive_ahead(Rc::clone(state)));
    }
}

/// Those that wait for something else than their pool, or for nothing.
fn tell_sessions(state: &CoreState) {
    let mut waiting = Vec::new();
    for link in state.links.borrow().values() {
        let slot = link.slot.borrow();
        match link.activity.get() {
            Activity::Waiting if slot.leaves.get() || !slot.is_held() => {
                waiting.push(Rc::clone(link));
            }
            Activity::Idle
                if slot.leaves.get()
                    && link.notice().is_none()
                    && state
                        .cluster_of(&slot.names.user, &slot.names.database)
                        .is_none() =>
            {
                link.notify(Notice::Removed);
            }
            _ => {}
        }
    }
    // Who has waited for longest goes first.
    waiting.sort_by_key(|link| link.since.get());
    waiting.iter().for_each(|link| link.wake());
}

/// RECONNECT: every server connection of these pools is replaced.
fn reconnect(state: &Rc<CoreState>, scope: &Of) {
    for slot in state.pools().iter() {
        if scope.covers(&slot.names.user, &slot.names.database) {
            slot.decide(state, Pool::reconnect);
        }
    }
}

/// KILL and KILL_CLIENT: ends sessions where they are. How many.
fn kill(state: &CoreState, whom: &Whom) -> usize {
    match whom {
        Whom::All(scope) => state.remember_kill(scope),
        Whom::Client(id) => {
            if let Some(admin) = state.admins.borrow().get(id) {
                admin.kill();
                return 1;
            }
        }
    }
    let links = state.links.borrow();
    let killed = links.iter().filter(|(process_id, link)| match whom {
        Whom::Client(id) => id == *process_id,
        Whom::All(scope) => {
            let slot = link.slot.borrow();
            let names = &slot.names;
            scope.covers(&names.user, &names.database) && link.notice() != Some(Notice::Killed)
        }
    });
    killed.map(|(_, link)| link.notify(Notice::Killed)).count()
}
