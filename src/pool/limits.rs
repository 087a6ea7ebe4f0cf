//! Upkeep of one slice: deadlines of waiters, age and idle time of connections, the minimum, pace of connecting.

use std::time::{Duration, Instant};

use super::slice::Place;
use super::{signed, Action, CloseReason, ConnectFailure, Lease, Pool, State, WaitError};

/// Connections being opened at the same time by one slice. Each costs the server a fork and a login;
/// further ones follow as these arrive.
const CONNECTING_MAX: usize = 8;

/// First pause after a failed connection, doubled up to `BACKOFF_MAX` while the failures go on.
const BACKOFF_MIN: Duration = Duration::from_millis(20);

/// Longest pause between two attempts at connecting, before jitter.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// `connect_attempt_delay` above this counts as this.
const ATTEMPT_DELAY_MAX: Duration = Duration::from_secs(3_600);

/// How often idle connections are looked through; lifetimes and idle times are this precise.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Limits of one pool, for all cores together. `Duration::MAX` means never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Server connections at most, of whatever state, on all cores together.
    pub pool_size: usize,
    /// Server connections kept open on all cores together; above `pool_size` it counts as `pool_size`.
    pub min_pool_size: usize,
    /// Longest wait of a client, not counting time in which the pool was paused.
    pub checkout_timeout: Duration,
    /// Attempts at connecting in a row before the waiting clients are told; 0 counts as 1.
    pub connect_attempts: u32,
    /// Pause between two such attempts.
    pub connect_attempt_delay: Duration,
    /// A connection above the minimum that was not used for so long is closed.
    pub idle_timeout: Duration,
    /// A connection older than this is closed at check-in, or while idle.
    pub server_lifetime: Duration,
    /// Each connection's lifetime is longer or shorter by a random part of this, drawn once; more than
    /// `server_lifetime` counts as `server_lifetime`.
    pub server_lifetime_jitter: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pool_size: 10,
            min_pool_size: 1,
            checkout_timeout: Duration::from_millis(5_000),
            connect_attempts: 1,
            connect_attempt_delay: Duration::ZERO,
            idle_timeout: Duration::from_millis(60_000),
            server_lifetime: Duration::from_millis(86_400_000),
            server_lifetime_jitter: Duration::ZERO,
        }
    }
}

impl Limits {
    /// Permits that `place` begins with.
    pub(super) fn share(&self, place: Place) -> usize {
        place.share(self.pool_size)
    }

    /// Connections that `place` keeps open at first.
    pub(super) fn duty(&self, place: Place) -> isize {
        let kept = self.min_pool_size.min(self.pool_size);
        signed(place.share(kept))
    }
}

/// Numbers for jitter: SplitMix64, good enough to spread things and small enough to own.
///
/// Source: <https://doi.org/10.1145/2714064.2660195>
#[derive(Debug)]
pub(super) struct Jitter(pub(super) u64);

impl Jitter {
    /// Evenly spread over `0..=max`.
    fn up_to(&mut self, max: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        let part = (u128::from(z) * u128::from(nanos)) >> 64;
        Duration::from_nanos(u64::try_from(part).expect("a part of a u64"))
    }
}

/// Pace of connecting while the server does not let us in.
///
/// ```text
/// Steady ──failure──► Retrying{n} ──n = connect_attempts──► Backoff{2^k} ──┐
///    ▲                    │                                     ▲          │ failure
///    └──────connected─────┴────────────connected────────────────┴──────────┘
/// ```
#[derive(Debug)]
pub(super) struct Pace {
    /// Failed attempts since the waiting clients were last told.
    attempts: u32,
    /// Doublings of the pause so far; 0 when the last attempt succeeded.
    doublings: u32,
    /// No attempt before this.
    not_before: Option<Instant>,
}

impl Pace {
    pub(super) const STEADY: Self = Self {
        attempts: 0,
        doublings: 0,
        not_before: None,
    };

    /// Connections that may be in the making now: one at a time until the server has let us in again.
    pub(super) fn connecting_max(&self, now: Instant) -> usize {
        match self.not_before {
            None => CONNECTING_MAX,
            Some(then) if now < then => 0,
            Some(_) => 1,
        }
    }

    /// Pauses for at least half of the doubled time, so that slices and pools do not march in step.
    fn back_off(&mut self, now: Instant, jitter: &mut Jitter) {
        if self.not_before.is_some_and(|then| now < then) {
            return; // one of several attempts of the same moment: counted already
        }
        let pause = BACKOFF_MIN
            .saturating_mul(1 << self.doublings.min(16))
            .min(BACKOFF_MAX);
        self.doublings += 1;
        self.not_before = Some(now + pause / 2 + jitter.up_to(pause / 2));
    }
}

impl<C> Pool<C> {
    /// Does what time demands: waiters past their deadline fail, old and surplus connections close, the minimum
    /// is opened, permits drift to where clients wait. Call it every 10 to 100 ms, or at `next_deadline()`.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        self.expire_waiters(now, out);
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.sweep(now, out);
        }
        self.settle(now, out);
        self.drift(now, out);
    }

    /// When `tick` has something to do next; `None` while only events matter.
    pub fn next_deadline(&self) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut at = |then: Option<Instant>| {
            if let Some(then) = then {
                next = Some(next.map_or(then, |next| next.min(then)));
            }
        };
        if let (Some(oldest), State::Open) = (self.waiters.oldest(), self.state) {
            let counted = oldest.max(self.resumed);
            at(counted.checked_add(self.limits.checkout_timeout));
        }
        at(self.nudge_due());
        if self.free > 0 && self.wants_connection() && self.connecting == 0 {
            at(self.pace.not_before);
        }
        let raised = self.home.as_ref().is_some_and(|home| home.has_told());
        if raised || self.wants_connection() || self.overburdened() {
            at(Some(self.next_sweep));
        }
        at(self.next_expiry().map(|then| then.max(self.next_sweep)));
        next
    }

    /// When the first idle connection will be too old, or unused for too long.
    fn next_expiry(&self) -> Option<Instant> {
        let oldest = self.idle.iter().map(|rest| rest.lease.born).min()?;
        let aged = oldest.checked_add(self.limits.server_lifetime);
        let surplus = signed(self.servers()) > self.duty;
        let unused = self.idle.front().filter(|_| surplus);
        let unused = unused.and_then(|rest| rest.since.checked_add(self.limits.idle_timeout));
        aged.into_iter().chain(unused).min()
    }

    /// The connection that `Action::Connect` asked for is there, logged in and at rest.
    /// `generation` is the one that came with the action.
    pub fn connected(
        &mut self,
        server: C,
        generation: u32,
        now: Instant,
        out: &mut Vec<Action<C>>,
    ) {
        debug_assert!(self.connecting > 0, "nobody asked for this connection");
        self.connecting -= 1;
        self.pace = Pace::STEADY;
        self.connected = Some(now);
        let spread = self
            .limits
            .server_lifetime_jitter
            .min(self.limits.server_lifetime);
        // Drawn as a shift of the birthday, so that a lifetime changed by a reload applies to old connections.
        let shift = self.jitter.up_to(spread.saturating_mul(2));
        let born = (now + shift).checked_sub(spread).unwrap_or(now);
        self.rest(Lease::new(server, born, generation), now, out);
        self.settle(now, out);
    }

    /// The connection that `Action::Connect` asked for did not come about.
    ///
    /// Waiting clients are kept when the server will let us in later, or was not asked, and while this slice has live connections
    /// that may serve them; otherwise they fail: at once if the failure is `Fatal`, after `connect_attempts`
    /// attempts if the server is `Unreachable`. Further attempts are spaced by `connect_attempt_delay` or by a
    /// pause that doubles up to a second, with jitter.
    pub fn connect_failed(
        &mut self,
        failure: ConnectFailure,
        now: Instant,
        out: &mut Vec<Action<C>>,
    ) {
        debug_assert!(self.connecting > 0, "nobody asked for this connection");
        self.connecting -= 1;
        self.free += 1;
        self.failed = Some(now);
        match failure {
            ConnectFailure::Retryable | ConnectFailure::Ours(_) | ConnectFailure::Full(_) => {
                self.pace.back_off(now, &mut self.jitter)
            }
            ConnectFailure::Fatal(error) => {
                self.pace.back_off(now, &mut self.jitter);
                self.fail_waiters(&WaitError::Connect(error), out);
            }
            ConnectFailure::Unreachable(error) => {
                self.pace.attempts += 1;
                if self.pace.attempts < self.limits.connect_attempts {
                    let delay = self.limits.connect_attempt_delay.min(ATTEMPT_DELAY_MAX);
                    self.pace.not_before = Some(now + delay);
                } else {
                    self.pace.attempts = 0;
                    self.pace.back_off(now, &mut self.jitter);
                    if self.active + self.idle.len() == 0 {
                        self.fail_waiters(&WaitError::Connect(error), out);
                    }
                }
            }
        }
        self.settle(now, out);
    }

    /// There is room for one connection on a server that had none left: one attempt need not wait.
    pub fn try_one(&mut self, out: &mut Vec<Action<C>>) {
        if self.free > 0 && self.lacking() > 0 {
            self.free -= 1;
            self.connecting += 1;
            out.push(Action::Connect {
                generation: self.generation,
            });
        }
    }

    /// Connections that clients of this slice wait for, and that are not on their way.
    pub fn lacking(&self) -> usize {
        match self.state {
            State::Open => self.waiters.len().saturating_sub(self.connecting),
            State::Paused | State::Drained => 0,
        }
    }

    /// Since when those idle connections have not been used that this slice does not keep for the minimum, the one that
    /// was not used for longest in front.
    pub fn spares(&self) -> impl Iterator<Item = Instant> + '_ {
        let surplus = usize::try_from(signed(self.servers()) - self.duty).unwrap_or_default();
        self.idle.iter().take(surplus).map(|rest| rest.since)
    }

    /// Checks out the first of those, to be closed because another pool needs its place on the server. It comes back by
    /// `discard`.
    pub fn take_spare(&mut self) -> Option<Lease<C>> {
        self.spares().next()?;
        self.take_idle(|_| true)
    }

    /// What kept servers from letting us in may be over: the next attempt need not wait.
    pub fn try_again(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        self.pace = Pace::STEADY;
        self.settle(now, out);
    }

    /// Everybody who waits on this core hears `why`.
    pub(super) fn fail_waiters(&mut self, why: &WaitError, out: &mut Vec<Action<C>>) {
        while let Some((ticket, waiter)) = self.waiters.pop() {
            out.push(Action::Fail {
                client: waiter.client,
                ticket,
                why: why.clone(),
            });
        }
    }

    /// True when a connection should be opened for a waiter that none is coming for, or for the minimum.
    pub(super) fn wants_connection(&self) -> bool {
        self.state == State::Open
            && (self.waiters.len() > self.connecting || signed(self.servers()) < self.duty)
    }

    /// Is `born` too long ago?
    pub(super) fn expired(&self, born: Instant) -> bool {
        self.retired.is_some_and(|retired| born <= retired)
    }

    fn expire_waiters(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        if self.state != State::Open {
            return;
        }
        while let Some(oldest) = self.waiters.oldest() {
            let counted = oldest.max(self.resumed);
            if now.saturating_duration_since(counted) < self.limits.checkout_timeout {
                break;
            }
            let (ticket, waiter) = self.waiters.pop().expect("the queue has an oldest");
            out.push(Action::Fail {
                client: waiter.client,
                ticket,
                why: WaitError::Timeout {
                    waited: now.saturating_duration_since(oldest),
                },
            });
        }
    }

    fn sweep(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        self.retired = now.checked_sub(self.limits.server_lifetime);
        for _ in 0..self.idle.len() {
            let rest = self.idle.pop_front().expect("counted above");
            if self.expired(rest.lease.born) {
                self.close(rest.lease, CloseReason::Lifetime, out);
            } else {
                self.idle.push_back(rest);
            }
        }
        // The front was not used for longest.
        while let Some(rest) = self.idle.front() {
            let surplus = signed(self.servers()) > self.duty;
            let unused = now.saturating_duration_since(rest.since);
            if !surplus || unused < self.limits.idle_timeout {
                break;
            }
            let rest = self.idle.pop_front().expect("seen above");
            self.close(rest.lease, CloseReason::Idle, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_in_range_and_spreads() {
        let mut jitter = Jitter(7);
        let max = Duration::from_millis(100);
        let drawn: Vec<_> = (0..1_000).map(|_| jitter.up_to(max)).collect();
        assert!(drawn.iter().all(|d| *d <= max));
        for tenth in 0..10 {
            let from = max / 10 * tenth;
            let hits = drawn
                .iter()
                .filter(|d| **d >= from && **d < from + max / 10)
                .count();
            assert!((50..200).contains(&hits), "{hits} of 1000 in tenth {tenth}");
        }
        assert_eq!(jitter.up_to(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn pauses_double_up_to_a_second() {
        let mut now = crate::pool::tests::start();
        let mut pace = Pace::STEADY;
        let mut jitter = Jitter(1);
        assert_eq!(pace.connecting_max(now), CONNECTING_MAX);
        let mut longest = Duration::ZERO;
        for failure in 0..40 {
            pace.back_off(now, &mut jitter);
            let then = pace.not_before.expect("a pause");
            let full = (BACKOFF_MIN * 2u32.pow(failure.min(6))).min(BACKOFF_MAX);
            assert!(then - now >= full / 2 && then - now <= full);
            assert_eq!(pace.connecting_max(now), 0);
            assert_eq!(pace.connecting_max(then), 1);
            pace.back_off(now, &mut jitter);
            assert_eq!(
                pace.not_before,
                Some(then),
                "failures of one moment count once"
            );
            longest = longest.max(then - now);
            now = then;
        }
        assert!(longest > BACKOFF_MAX / 2);
    }
}
