//! What a core does now and then: its slices' deadlines, and clients that have been silent for too long.

use std::cell::Cell;
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::pool::Pool;

use super::client::CANCEL_PATIENCE;
use super::core_state::{Activity, CoreState};
use super::doors;
use super::link::Notice;

/// Coarse: time-outs are late by this much at most.
const TICK: Duration = Duration::from_millis(50);

/// However pressing it is.
const TICK_MIN: Duration = Duration::from_millis(2);

/// While nothing happens to the pools.
const TICK_MAX: Duration = Duration::from_secs(1);

/// So often idle servers are listened to: one that has gone is no longer counted then.
const LISTEN: Duration = Duration::from_secs(1);

/// Whether anything happens to the pools, so that a core where nothing does is left in peace.
#[derive(Default)]
pub(super) struct Upkeep {
    stirred: Cell<bool>,
    /// A client has come that has been silent for a while.
    silent_arrived: Cell<bool>,
    dozing: Cell<Option<Waker>>,
}

impl Upkeep {
    /// Something has happened that may bring a deadline.
    #[inline]
    pub(super) fn stir(&self) {
        if !self.stirred.replace(true) {
            if let Some(waker) = self.dozing.take() {
                waker.wake();
            }
        }
    }

    /// A client has come from another core, and may have been silent for long.
    pub(super) fn silent_arrived(&self) {
        self.silent_arrived.set(true);
    }

    /// Until `deadline`, or something happens.
    async fn doze(&self, deadline: impl Future<Output = ()>) {
        let mut deadline = pin!(deadline);
        poll_fn(|cx| {
            if self.stirred.get() {
                return Poll::Ready(());
            }
            self.dozing.set(Some(cx.waker().clone()));
            deadline.as_mut().poll(cx)
        })
        .await;
        self.dozing.set(None);
    }
}

/// Ticks for as long as the core runs.
pub(super) async fn tick(state: Rc<CoreState>) {
    let mut sweeps = Sweeps::default();
    let mut heard = state.core.now();
    loop {
        let quiet = !state.upkeep.stirred.get();
        let pools = state.pools();
        let listens = state.core.now().saturating_duration_since(heard) >= LISTEN;
        if listens {
            heard = state.core.now();
        }
        for slot in pools.iter() {
            if listens {
                slot.bury(&state);
            }
            slot.decide(&state, Pool::tick);
        }
        state.upkeep.stirred.set(false);
        let sweep = sweeps.next(&state);
        doors::look(&state);
        let now = state.core.now();
        let latest = now + if quiet { TICK_MAX } else { TICK };
        let deadlines = pools.iter().filter_map(|slot| slot.next_deadline());
        let next = deadlines
            .chain(sweep)
            .min()
            .unwrap_or(latest)
            .clamp(now + TICK_MIN, latest);
        drop(pools);
        let sleep = state.core.sleep_until(next);
        match quiet {
            true => state.upkeep.doze(sleep).await,
            false => sleep.await,
        }
    }
}

/// Looks at all clients only when one of them may have been silent for too long.
#[derive(Default)]
struct Sweeps {
    generation: Option<u32>,
    due: Option<Instant>,
}

impl Sweeps {
    /// Sweeps if it is time. When it will be next: a client that begins to be silent later has its whole limit before it.
    fn next(&mut self, state: &CoreState) -> Option<Instant> {
        let now = state.core.now();
        let generation = Some(state.generation());
        let arrived = state.upkeep.silent_arrived.take();
        if arrived || self.generation != generation || self.due.is_some_and(|due| due <= now) {
            self.generation = generation;
            self.due = sweep(state, now).map(|due| due.max(now + TICK));
        }
        self.due
    }
}

/// Tells clients that have been silent for too long. The earliest time at which another may be; `None`: no time is too long.
fn sweep(state: &CoreState, now: Instant) -> Option<Instant> {
    let config = state.config();
    let clients = &config.clients;
    let limits = [
        (Activity::Idle, clients.idle_timeout, Notice::IdleTimeout),
        (
            Activity::IdleInTransaction,
            clients.idle_in_transaction_timeout,
            Notice::IdleInTransactionTimeout,
        ),
        (
            Activity::Active,
            config.servers.query_timeout,
            Notice::QueryTimeout,
        ),
    ];
    let shortest = limits.iter().filter_map(|(_, limit, _)| *limit).min()?;
    // Who was told and goes on has no more than this.
    let mut due = now + shortest.min(CANCEL_PATIENCE);
    for link in state.links.borrow().values() {
        let found = limits
            .iter()
            .find(|(activity, ..)| *activity == link.activity.get());
        let Some(&(_, Some(limit), notice)) = found else {
            continue;
        };
        let silent = now.saturating_duration_since(link.since.get());
        if let Some(left) = limit.checked_sub(silent).filter(|left| !left.is_zero()) {
            due = due.min(now + left.min(CANCEL_PATIENCE));
            continue;
        }
        due = now;
        if link.notice().is_none() {
            link.notify(notice);
        }
    }
    Some(due)
}
