//! Room on a server that has no connection left: one that another pool does not use is closed.
//!
//! A server whose `max_connections`, or the limit of a database or user, is reached refuses a login (53300). The clients
//! that wait for it go on waiting, unless another server may serve them, and a **search** goes round the cores for connections that count against the same
//! limit, are idle, and are above their pool's minimum. For each refusal the one that was not used for longest is
//! closed; once the server has closed it, too, the core that was refused tries again.
//!
//! ```text
//!   [0] refused ──Search──► [1] idle for 2 s ──Search──► [2] idle for 9 s ──Search──► [0]
//!                                                        [2] ◄──────────Close────────
//!                                                        [2] ───────────Made────────► [0] tries again
//! ```

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::config::PoolConfig;
use crate::pool::{Crowd, PoolId};

use super::core_state::CoreState;
use super::mail::Mail;
use super::news::wake_waiting;
use super::pools::PoolSlot;
use super::reload::Place;

/// A search that is not back by then was lost: a core had too much mail.
const SEARCH_MAX: Duration = Duration::from_secs(1);

/// A server that has refused a slice is taken for full for so long, unless it lets it in before: longer than the pause between two
/// attempts grows.
const FULL_FOR: Duration = Duration::from_secs(2);

/// Connections that one search looks for; further refusals begin another.
const WANT_MAX: usize = 8;

/// What cores tell each other of it. Whatever gets lost, the next refusal says again.
#[derive(Debug)]
pub(crate) enum Room {
    /// On its way round.
    Search(Search),
    /// Close an idle connection of this pool, if it can still do without.
    Close {
        /// Which pool.
        pool: PoolId,
        /// For whom.
        wanted: Wanted,
    },
    /// One was closed.
    Made(Wanted),
}

/// Who was refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    core: usize,
    pool: PoolId,
}

/// Which connections there are that nobody uses.
#[derive(Debug)]
pub(crate) struct Search {
    wanted: Wanted,
    crowd: Crowd,
    /// How many were refused.
    want: usize,
    /// At most `want`, those that were not used for longest in front.
    found: Vec<Spare>,
}

/// A connection that nobody uses.
#[derive(Clone, Copy, Debug)]
struct Spare {
    since: Instant,
    core: usize,
    pool: PoolId,
}

impl Search {
    /// Adds connections of one core, and keeps those that were not used for longest.
    fn add(&mut self, spares: Vec<Spare>) {
        self.found.extend(spares);
        self.found.sort_by_key(|spare| spare.since);
        self.found.truncate(self.want);
    }
}

/// What a slice has been refused since its last search began.
#[derive(Default)]
pub(crate) struct Refusals {
    count: Cell<usize>,
    searching: Cell<Option<Instant>>,
    /// The last one, if nobody was let in since.
    last: Cell<Option<Instant>>,
}

impl Refusals {
    /// Is a request that needs another connection better served elsewhere?
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        let last = self.last.get();
        last.is_some_and(|last| now.saturating_duration_since(last) < FULL_FOR)
    }

    /// The server has let this slice in.
    pub(crate) fn admitted(&self) {
        self.last.set(None);
    }
}

/// A server has too many connections to let this slice have another.
pub(crate) fn refused(state: &Rc<CoreState>, slot: &Rc<PoolSlot>, crowd: Crowd) {
    let Refusals {
        count, searching, ..
    } = &slot.refusals;
    count.set(count.get() + 1);
    let now = state.core.now();
    slot.refusals.last.set(Some(now));
    if let Some(place) = state.pools().place(slot.id) {
        if place.shard().servers().len() > 1 {
            place.cluster.announce();
            wake_waiting(state, &place.cluster);
        }
    }
    let lost = |since: Instant| now.saturating_duration_since(since) > SEARCH_MAX;
    if searching.get().is_none_or(lost) {
        search(state, slot, crowd);
    }
}

/// Begins a search, if anybody has been refused who still waits.
fn search(state: &Rc<CoreState>, slot: &Rc<PoolSlot>, crowd: Crowd) {
    let Refusals {
        count, searching, ..
    } = &slot.refusals;
    let want = count.take().min(slot.lacking()).min(WANT_MAX);
    if want == 0 {
        return searching.set(None);
    }
    searching.set(Some(state.core.now()));
    let (core, pool) = (state.core.index(), slot.id);
    let search = Search {
        wanted: Wanted { core, pool },
        crowd,
        want,
        found: Vec::new(),
    };
    pass_on(state, search);
}

/// Adds what this core has to a search, and sends it to the next one.
fn pass_on(state: &Rc<CoreState>, mut search: Search) {
    let spares = spares(state, &search);
    search.add(spares);
    let next = (state.core.index() + 1) % state.core.count();
    send(state, next, Room::Search(search));
}

/// A search has been to all cores.
fn finish(state: &Rc<CoreState>, search: &Search) {
    let Some(slot) = state.pool(search.wanted.pool) else {
        return;
    };
    for spare in search.found.iter().take(slot.lacking()) {
        let (pool, wanted) = (spare.pool, search.wanted);
        send(state, spare.core, Room::Close { pool, wanted });
    }
    // Those that were refused meanwhile.
    self::search(state, &slot, search.crowd);
}

/// Another core's word, or our own.
pub(crate) fn heard(state: &Rc<CoreState>, room: Room) {
    match room {
        Room::Search(search) if search.wanted.core == state.core.index() => finish(state, &search),
        Room::Search(search) => pass_on(state, search),
        Room::Close { pool, wanted } => close(state, pool, wanted),
        Room::Made(wanted) => {
            if let Some(slot) = state.pool(wanted.pool) {
                slot.decide(state, |pool, _, out| pool.try_one(out));
            }
        }
    }
}

fn send(state: &Rc<CoreState>, to: usize, room: Room) {
    if to == state.core.index() {
        heard(state, room);
    } else {
        // Who does not get it does without, and so does a search whose core is too busy.
        let _ = state.send(to, Mail::Room(room));
    }
}

/// What this core has for a search.
fn spares(state: &CoreState, search: &Search) -> Vec<Spare> {
    let (core, pools) = (state.core.index(), state.pools());
    let Some(place) = pools.place(search.wanted.pool) else {
        return Vec::new();
    };
    let Some(wanting) = place.slot().map(|slot| slot.config()) else {
        return Vec::new();
    };
    let slots = pools.places(&place.instance).filter_map(Place::slot);
    let slots = slots.filter(|slot| counts(search.crowd, &wanting, &slot.config()));
    let spares = slots.flat_map(|slot| {
        let pool = slot.id;
        let since = slot.spares(search.want).into_iter();
        since.map(move |since| Spare { since, core, pool })
    });
    spares.collect()
}

/// Do connections of `other` count against the limit that keeps `wanting` out?
fn counts(crowd: Crowd, wanting: &PoolConfig, other: &PoolConfig) -> bool {
    match crowd {
        Crowd::Server => true,
        Crowd::Database => wanting.address.database_name == other.address.database_name,
        Crowd::User => wanting.login.user == other.login.user,
    }
}

/// Closes a connection that nobody uses, and tells who waits for it.
fn close(state: &Rc<CoreState>, pool: PoolId, wanted: Wanted) {
    let Some(slot) = state.pool(pool) else {
        return;
    };
    let Some(lease) = slot.take_spare() else {
        return;
    };
    tracing::info!(pool = %slot.id, for_pool = %wanted.pool, "server has no connection left, closing an idle one");
    let context = Rc::clone(state);
    state.core.spawn(async move {
        let (server, lease) = lease.take();
        server.close(&context).await;
        slot.decide(&context, |pool, now, out| pool.discard(&lease, now, out));
        send(&context, wanted.core, Room::Made(wanted));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_finds_those_that_were_not_used_for_longest() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let spare = |millis, core| Spare {
            since: start + Duration::from_millis(millis),
            core,
            pool: PoolId(7),
        };
        let mut search = Search {
            wanted: Wanted {
                core: 0,
                pool: PoolId(1),
            },
            crowd: Crowd::Server,
            want: 3,
            found: Vec::new(),
        };
        search.add(vec![spare(5, 0), spare(9, 0)]);
        search.add(Vec::new());
        search.add(vec![spare(1, 2), spare(7, 2), spare(8, 2)]);
        let found: Vec<_> = search.found.iter().map(|spare| spare.core).collect();
        assert_eq!(found, [2, 0, 2]);
    }
}
