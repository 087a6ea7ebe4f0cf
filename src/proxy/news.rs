//! What becomes known of servers: taken note of here, told to all cores, and to the requests that wait for it.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::balance::{BanReason, Epoch, Event, News, Observation};
use crate::pool::PoolId;
use crate::snapshot::Names;

use super::cluster::{Cluster, Shard, Turn};
use super::core_state::{Activity, CoreState};
use super::link::Notice;
use super::mail::Mail;
use super::pools::PoolSlot;
use super::prober;
use super::reload::{Instance, Place};

/// What a check of a server has shown.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    /// Which server.
    pub(crate) instance: Arc<Instance>,
    /// When it was asked.
    pub(crate) at: Instant,
    /// What that means for bans, if anything.
    pub(crate) event: Option<Event>,
    /// What it said of its role, if it was asked; `None` within: nothing.
    pub(crate) role: Option<Option<Observation>>,
    /// The same on all cores.
    pub(crate) random: u64,
}

/// What happened to a server of one pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incident {
    /// Whose.
    pub(crate) pool: PoolId,
    /// When.
    pub(crate) at: Instant,
    /// What.
    pub(crate) event: Event,
    /// The same on all cores.
    pub(crate) random: u64,
}

/// Who has found it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// This core, which says and counts what follows.
    Here,
    /// The same, and it has been said for another pool of the same server.
    Also,
    /// Another core.
    Elsewhere,
}

/// A client or an attempt to connect had this to do with a server of `pool`. All cores are told if it matters.
pub(crate) fn happened(state: &CoreState, pool: PoolId, event: Event) {
    let pools = state.pools();
    let Some(place) = pools.place(pool) else {
        return; // on its way out
    };
    let now = state.core.now();
    if place.shard().is_old_news(place.server, event, now) {
        if says_gone(event) {
            forget_evidence(state, place, now);
        }
        return;
    }
    let incident = Incident {
        pool,
        at: now,
        event,
        random: u64::from_ne_bytes(state.random()),
    };
    for other in state.others() {
        // A core that does not hear of it finds out by itself.
        let _ = state.send(other, Mail::Incident(incident));
    }
    take_incident(state, place, &incident, Source::Here);
}

/// A server was found to be in recovery, which is to be the primary.
pub(crate) fn is_no_primary(state: &CoreState, pool: PoolId) {
    let pools = state.pools();
    let Some(place) = pools.place(pool) else {
        return;
    };
    forget_evidence(state, place, state.core.now());
    happened(state, pool, Event::Lost);
}

/// What the server of a pool said of its role is no evidence any more.
fn forget_evidence(state: &CoreState, place: &Place, at: Instant) {
    apply(state, place, Source::Here, |shard| {
        shard.balance().borrow_mut().unreached(place.server, at);
        None
    });
}

/// Is a server that this happens with not there?
fn says_gone(event: Event) -> bool {
    matches!(event, Event::Failed(BanReason::Connect))
}

/// Another core has had something to do with a server.
pub(super) fn heard_incident(state: &CoreState, incident: &Incident) {
    if let Some(place) = state.pools().place(incident.pool) {
        take_incident(state, place, incident, Source::Elsewhere);
    }
}

fn take_incident(state: &CoreState, place: &Place, incident: &Incident, source: Source) {
    let (at, event) = (incident.at, incident.event);
    apply(state, place, source, |shard| {
        let mut balance = shard.balance().borrow_mut();
        if says_gone(event) {
            balance.unreached(place.server, at);
        }
        balance.happened(place.server, event, at, incident.random);
        None
    });
    if event != Event::Passed {
        prober::hurry(state, &place.instance);
    }
}

/// A definition of a database has changed: what is known of it is out of date, for all its users, here and elsewhere.
pub(super) fn definitions_changed(state: &CoreState, names: &Arc<Names>) {
    heard_definitions(state, names);
    for other in state.others() {
        // Where it does not arrive it is known a minute later.
        let _ = state.send(other, Mail::Defined(Arc::clone(names)));
    }
}

/// A definition of the database of `names` has changed.
pub(super) fn heard_definitions(state: &CoreState, names: &Names) {
    let pools = state.pools();
    let same = pools.clusters_of(&names.database);
    same.for_each(|cluster| cluster.forget_facts());
}

/// A check of a server is done: all cores are told.
pub(super) fn checked(state: &CoreState, checked: &Checked) {
    for other in state.others() {
        // Evidence that does not arrive is evidence that grows old: the next check brings more.
        let _ = state.send(other, Mail::Checked(Box::new(checked.clone())));
    }
    take_check(state, checked, Source::Here);
}

/// Another core has checked a server.
pub(super) fn heard_check(state: &CoreState, checked: &Checked) {
    take_check(state, checked, Source::Elsewhere);
}

fn take_check(state: &CoreState, checked: &Checked, source: Source) {
    let (at, random) = (checked.at, checked.random);
    for (first, place) in state.pools().places(&checked.instance).enumerate() {
        let source = match source {
            Source::Here if first > 0 => Source::Also,
            source => source,
        };
        apply(state, place, source, |shard| {
            let mut balance = shard.balance().borrow_mut();
            if let Some(event) = checked.event {
                balance.happened(place.server, event, at, random);
            }
            match checked.role? {
                Some(observation) => balance.observe(place.server, observation),
                None => {
                    balance.unreached(place.server, at);
                    None
                }
            }
        });
        // Whether or not it was banned before, and for what.
        let hangs = checked.event == Some(Event::Failed(BanReason::CheckTimeout));
        if hangs && place.shard().is_replica(place.server) {
            give_up(state, place.shard(), place.server, Notice::Hung);
        }
    }
}

/// Changes what is known of a server; says and counts what that means, and wakes whom it concerns.
fn apply(
    state: &CoreState,
    place: &Place,
    source: Source,
    change: impl FnOnce(&Shard) -> Option<News>,
) {
    let Some(slot) = place.slot() else { return };
    let shard = place.shard();
    let now = state.core.now();
    let reason = |shard: &Shard| {
        let ban = shard.balance().borrow().ban(place.server, now);
        ban.map(|ban| ban.reason)
    };
    let before = reason(shard);
    let news = change(shard);
    let after = reason(shard);
    if before != after {
        if source == Source::Here {
            tell_ban(slot, before, after);
        }
        if let (Some(reason), Source::Here | Source::Also) = (after, source) {
            slot.count_ban(reason);
        }
    }
    if let (Some(news), Source::Here) = (news, source) {
        tell_news(shard, news);
    }
    let turn = shard.turn(now);
    if let Turn::Superseded(server) = turn {
        give_up(state, shard, server, Notice::Superseded);
    }
    if turn != Turn::None || before != after {
        place.cluster.announce();
        wake_waiting(state, &place.cluster);
    }
}

/// Ends what is under way on a server that was the primary, or on a replica that hangs. What the one would still commit may
/// not be known to the next primary, so nobody is told that it was; what the other would answer another replica can. Who keeps
/// its connection to the one ends with it, also between transactions: it would go on writing there.
fn give_up(state: &CoreState, shard: &Shard, server: usize, notice: Notice) {
    let Some(slot) = shard.servers().get(server) else {
        return;
    };
    let mut held = HashSet::new();
    slot.registry.each(|server| {
        held.insert(Rc::as_ptr(&server.target));
    });
    for link in state.links.borrow().values() {
        // Over shards it has several, and its pool is that of the last one.
        let targets = link.targets.borrow();
        let mut targets = targets.as_slice().iter().map(Rc::as_ptr);
        let has = targets.any(|one| held.contains(&one));
        let concerned = match link.activity.get() {
            Activity::Active | Activity::IdleInTransaction => {
                has || Rc::ptr_eq(&link.slot.borrow(), slot)
            }
            // For another shard's server.
            Activity::Waiting => has,
            Activity::Idle => has && notice == Notice::Superseded,
        };
        if concerned && link.notice().is_none() {
            link.notify(notice);
        }
    }
}

/// Is it known that a connection to a server of `pool`, opened under `epoch`, is to one that is written to no more?
pub(super) fn is_superseded(state: &CoreState, pool: PoolId, epoch: Option<Epoch>) -> bool {
    let pools = state.pools();
    let place = pools.place(pool);
    place.is_some_and(|place| {
        let now = state.core.now();
        place.shard().is_superseded(place.server, epoch, now)
    })
}

fn tell_ban(slot: &PoolSlot, before: Option<BanReason>, after: Option<BanReason>) {
    let (pool, config) = (slot.id, slot.config());
    let address = &config.address;
    match (before, after) {
        (_, Some(reason)) => {
            tracing::warn!(%pool, %address, "server is banned: {}", reason.text());
        }
        (_, None) => tracing::info!(%pool, %address, "server is not banned any more"),
    }
}

fn tell_news(shard: &Shard, news: News) {
    let address = |server: usize| {
        let slot = shard.servers().get(server);
        slot.map_or_else(String::new, |slot| slot.config().address.to_string())
    };
    match news {
        News::Crowned { server, epoch } => {
            let (address, timeline) = (address(server), epoch.timeline);
            tracing::info!(%address, timeline, "server is the primary");
        }
        News::Stepped { server } => {
            tracing::warn!(address = %address(server), "server is not the primary any more");
        }
        News::Rival { server, other } => {
            let (primary, other) = (address(server), address(other));
            tracing::error!(%primary, %other, "two servers are primaries on one timeline or of different data; the second one is not used");
        }
        News::Outdated { server } => {
            tracing::error!(address = %address(server), "server is a primary on a timeline that others have left; it is not used");
        }
        News::Fenced { by } => {
            tracing::error!(address = %address(by), "a server configured as a replica was promoted; the configured primary is not written to any more");
        }
    }
}

/// Requests of this database that wait ask again where to go.
pub(super) fn wake_waiting(state: &CoreState, cluster: &Rc<Cluster>) {
    let mut waiting = Vec::new();
    for link in state.links.borrow().values() {
        let ours = link.slot.borrow().names == cluster.names;
        if ours && link.activity.get() == Activity::Waiting {
            waiting.push(Rc::clone(link));
        }
    }
    // Who has waited for longest goes first.
    waiting.sort_by_key(|link| link.since.get());
    waiting.iter().for_each(|link| link.wake());
}

/// BAN and UNBAN, on every core: one pool, or all. How many there are.
pub(super) fn set_ban(state: &CoreState, pool: Option<PoolId>, banned: bool) -> usize {
    let pools = state.pools();
    let now = state.core.now();
    let mut count = 0;
    for place in pools.all_places() {
        let id = place.slot().map(|slot| slot.id);
        if pool.is_some_and(|pool| Some(pool) != id) {
            continue;
        }
        count += 1;
        // All cores do this; one says it.
        let source = match state.core.index() {
            0 => Source::Here,
            _ => Source::Elsewhere,
        };
        apply(state, place, source, |shard| {
            let mut balance = shard.balance().borrow_mut();
            match banned {
                true => balance.bar(place.server),
                false => balance.unbar(place.server, now),
            }
            None
        });
    }
    count
}
