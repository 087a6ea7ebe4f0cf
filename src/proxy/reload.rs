//! A core takes a new configuration: pools that stay are adjusted, new ones made, those that are gone drained.
//!
//! Two rounds of mail from the control thread. After **prepare** every core has a slice of every new pool, so that
//! none is surprised by mail of one that it does not know. **Adopt** puts the configuration in force; sessions follow
//! when they are between two transactions, which they find out by comparing one number.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::mpsc::Sender;

use cores::Core;

use crate::orders::Of;
use crate::pool::{Pool, PoolId};

use super::cluster::Cluster;
use super::core_state::{Activity, CoreState, Notice};
use super::mail::{Act, Done, Whom};
use super::pools::PoolSlot;
use super::setup::Setup;

/// One core's slices of all pools. Replaced as a whole, so that whoever looks at it sees one moment.
pub(crate) struct Pools {
    /// All of them, those on their way in or out too, by number.
    all: Vec<Rc<PoolSlot>>,
    /// Those of the configuration, by user and database.
    clusters: Vec<Rc<Cluster>>,
}

impl Pools {
    pub(super) fn first(setup: &Setup, core: &Core) -> Self {
        let slots = setup.pools();
        let slots = slots.map(|(id, pool)| Rc::new(PoolSlot::new(id, pool, setup, core)));
        let slots: Vec<_> = slots.collect();
        let clusters = clusters(&slots);
        Self::new(slots, clusters)
    }

    fn new(mut all: Vec<Rc<PoolSlot>>, clusters: Vec<Rc<Cluster>>) -> Self {
        all.sort_by_key(|slot| slot.id);
        Self { all, clusters }
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

/// The pools of a configuration, in its order, by user and database.
fn clusters(configured: &[Rc<PoolSlot>]) -> Vec<Rc<Cluster>> {
    let mut sorted = configured.to_vec();
    let key = |slot: &PoolSlot| (slot.names.user.clone(), slot.names.database.clone());
    sorted.sort_by_cached_key(|slot| key(slot));
    let clusters = sorted.chunk_by(|a, b| a.names == b.names);
    clusters.map(|pools| Rc::new(Cluster::new(pools))).collect()
}

/// Does what the control thread asks for, and tells it so.
pub(super) fn act(state: &Rc<CoreState>, act: Act, done: &Sender<Done>) {
    let (mut count, mut in_use) = (0, Vec::new());
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
    }
    let core = state.core.index();
    // Otherwise the control thread has given up on this core.
    let _ = done.send(Done {
        core,
        count,
        in_use,
    });
}

/// Makes the slices of pools that are new in `setup`. They are not used yet.
fn prepare(state: &CoreState, setup: &Setup) {
    let pools = state.pools();
    let new = setup.pools().filter(|(id, _)| pools.get(*id).is_none());
    let new = new.map(|(id, pool)| Rc::new(PoolSlot::new(id, pool, setup, &state.core)));
    let all = pools.all.iter().cloned().chain(new).collect();
    let pools = Pools::new(all, pools.clusters.clone());
    state.pools.replace(Rc::new(pools));
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
    let pools = Pools::new(before.all.clone(), clusters(&configured));
    state.pools.replace(Rc::new(pools));
    if !setup.looks_up_as(&state.config()) {
        state.looked_up.borrow_mut().clear();
    }
    state.setup.replace(Rc::new(setup.clone()));
    // From here on whoever is turned away by a pool looks for its successor.
    state.generation.set(setup.generation);
    for (slot, pool) in &known {
        slot.reconfigure(state, pool, setup);
    }
    for slot in gone {
        slot.decide(state, Pool::drain);
    }
    tell_sessions(state);
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
            scope.covers(&slot.names.user, &slot.names.database)
        }
    });
    killed.map(|(_, link)| link.notify(Notice::Killed)).count()
}

/// Forgets drained slices that have no connections any more.
pub(super) fn forget_drained(state: &CoreState) {
    let pools = state.pools();
    let is_over = |slot: &&Rc<PoolSlot>| slot.leaves.get() && slot.is_drained();
    if pools.iter().any(|slot| is_over(&slot)) {
        let all = pools.iter().filter(|slot| !is_over(slot));
        let pools = Pools {
            all: all.cloned().collect(),
            clusters: pools.clusters.clone(),
        };
        state.pools.replace(Rc::new(pools));
    }
}
