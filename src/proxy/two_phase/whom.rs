//! Which logins may finish what a shard has prepared: its user's, or others' to the same server.
//!
//! A shard is found by its servers' addresses, not by its number, which may be another one's since. "No such prepared
//! transaction" (42704) means that it is finished only if a server says so that stands in one shard with those named: servers of
//! one shard are copies of each other, and whoever is its primary has what was prepared there.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::balance::Written;
use crate::routing::two_phase::log::Participant;
use crate::snapshot::Names;

use super::super::cluster::{Choice, Cluster, Want};
use super::super::core_state::CoreState;
use super::super::pools::PoolSlot;
use super::finish::{Trouble, Waits};

/// Other users who are tried where a transaction's own is not known. PostgreSQL admits its owner, members of that role, and
/// superusers.
const OTHERS_MAX: usize = 8;

/// A login to the primary of a shard.
pub(super) struct Login {
    pub(super) slot: Rc<PoolSlot>,
    /// Is it that of the transaction's user?
    pub(super) is_own: bool,
}

/// A shard of the configuration.
struct Spot {
    cluster: Rc<Cluster>,
    shard: usize,
    /// Whose place among the servers that are named it has.
    rank: usize,
}

/// Who may finish it, in the order in which they are to be tried. Errors: nobody at the moment, and why.
pub(super) fn logins(
    state: &CoreState,
    names: &Names,
    at: &Participant,
) -> Result<Vec<Login>, Trouble> {
    if at.servers.is_empty() {
        // An old log has no more than the number.
        let cluster = state.cluster_of(&names.user, &names.database);
        let shard = usize::try_from(at.shard).unwrap_or(usize::MAX);
        let known = cluster.filter(|cluster| shard < cluster.shards());
        let Some(cluster) = known else {
            return Err(unknown(
                "user, database or shard is not in the configuration",
            ));
        };
        let rank = 0;
        let spot = Spot {
            cluster,
            shard,
            rank,
        };
        return Ok(vec![login(state, &spot, true)?]);
    }
    let spots = spots(state, at);
    let Some(best) = spots.iter().map(|spot| spot.rank).min() else {
        return Err(nobody(state, at));
    };
    let own = |spot: &&Spot| spot.cluster.names.user == names.user;
    let mut ours: Vec<_> = spots.iter().filter(own).collect();
    ours.sort_by_key(|spot| (spot.rank, spot.cluster.names.database != names.database));
    let mut others = BTreeMap::new();
    for spot in spots.iter().filter(|spot| spot.rank == best && !own(spot)) {
        others.entry(&*spot.cluster.names.user).or_insert(spot);
    }
    let ours = ours
        .into_iter()
        .take(1)
        .map(|spot| login(state, spot, true));
    let others = others.into_values().take(OTHERS_MAX);
    ours.chain(others.map(|spot| login(state, spot, false)))
        .collect()
}

/// The shards that have one of the named servers.
fn spots(state: &CoreState, at: &Participant) -> Vec<Spot> {
    let pools = state.pools();
    let shards = pools.clusters().flat_map(|cluster| {
        let shards = cluster.parts().enumerate();
        shards.map(move |(shard, part)| (cluster, shard, part))
    });
    let spots = shards.filter_map(|(cluster, shard, part)| {
        let servers = part.servers().iter();
        let ranks = servers.filter_map(|slot| {
            let address = &slot.config().address;
            at.servers.iter().position(|named| named == address)
        });
        Some(Spot {
            cluster: Rc::clone(cluster),
            shard,
            rank: ranks.min()?,
        })
    });
    spots.collect()
}

fn login(state: &CoreState, spot: &Spot, is_own: bool) -> Result<Login, Trouble> {
    let want = (Want::Write, Written::Nothing);
    let now = state.core.now();
    let choice = spot
        .cluster
        .pick(spot.shard, want, &[], now, || state.chance());
    match choice {
        Choice::Pool { slot, .. } => Ok(Login { slot, is_own }),
        Choice::Wait | Choice::Refused(_) => Err("no server to write to".to_owned().into()),
    }
}

/// No user of the named servers is known.
fn nobody(state: &CoreState, at: &Participant) -> Trouble {
    let config = state.config();
    let shards = config.clusters.iter().flat_map(|cluster| &cluster.shards);
    let mut servers = shards.flat_map(|shard| &shard.servers);
    if servers.any(|server| at.servers.contains(&server.address)) {
        return awaited();
    }
    let server = at.servers.first().map(ToString::to_string);
    let server = server.unwrap_or_default();
    unknown(&format!("{server} is not in the configuration"))
}

/// Nobody but the user may, of those who are known.
pub(super) fn awaited() -> Trouble {
    let why = "its user's login is awaited: no other that is known here may finish them";
    Trouble {
        waits: Waits::User,
        why: why.to_owned(),
    }
}

fn unknown(why: &str) -> Trouble {
    Trouble {
        waits: Waits::Configuration,
        why: why.to_owned(),
    }
}
