//! Permits drift to where clients wait for longer, slowly enough not to follow chance.
//!
//! A core that holds permits, but too few, sends a **nudge** from core to core, now and then. Permits that were
//! not used in the last moments are given to it at once. Otherwise the first core whose clients would still wait
//! less after giving one **promises** its next, and the nudge ends there: at most one permit per nudge moves
//! between cores that both work at full load.
//!
//! A promise goes from a shorter wait to a longer one, and only if the shorter one, after the move, would still be
//! shorter by a margin. The way back would have to overcome that margin again, so nothing bounces, and at steady
//! load nothing moves. A nudge that found nobody leaves no trace.
//!
//! After a resize, what a core has to give up may meanwhile be elsewhere: that **burden** goes round likewise. So does
//! **growth**, which must not add permits while others are still to be given up. Mail keeps its order between two
//! cores, so growth never passes a burden that goes round before it, and meets every debt.

use std::time::{Duration, Instant};

use super::mail::{Gift, PoolMail};
use super::{signed, Action, Pool, Rest, State};

/// A core that has permits asks for more once a client waited this long.
const PATIENCE: Duration = Duration::from_millis(2);

/// Least time between two nudges of one core; also how long a promise is good for.
const NUDGE_INTERVAL: Duration = Duration::from_millis(50);

/// A connection used more recently than this is not "unused".
const RECENT: Duration = Duration::from_millis(50);

/// A nudged core promises only if its clients would, after giving, still wait this much less.
const NUDGE_MARGIN: Duration = Duration::from_millis(2);

/// Waiting times are compared as averages over about this long, so that chance moves nothing.
const SMOOTHING: Duration = Duration::from_millis(200);

/// A permit pledged to a core whose clients wait longer than ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    core: usize,
    wait: Duration,
    until: Instant,
}

impl<C> Pool<C> {
    /// The slow part of lending. Called by `tick`, after `settle`.
    pub(super) fn drift(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        self.sample_wait(now);
        self.promise.take_if(|promise| now >= promise.until);
        if self.wanted().is_none() {
            self.spread(None, |told| told.is_some(), out);
        }
        // While a mail of ours looks for debts, none may overtake it.
        if self.overburdened() && self.growing == 0 {
            let debt = self.debt.saturating_sub(self.permits());
            let duty = self.duty - self.duty.clamp(0, signed(self.permits()));
            self.debt -= debt;
            self.duty -= duty;
            self.pass_on(PoolMail::Burden { debt, duty }, out);
        }
        if self.nudge_due().is_some_and(|due| now >= due) {
            self.next_nudge = now + NUDGE_INTERVAL;
            let asker = self.place.core;
            let wait = self.usual_wait;
            let want = self.waiters.len() - self.connecting;
            self.pass_on(PoolMail::Nudge { asker, wait, want }, out);
        }
    }

    /// New permits: free when there is no debt anywhere that they have to pay.
    pub(super) fn grow(&mut self, permits: usize, out: &mut Vec<Action<C>>) {
        let grower = self.place.core;
        let permits = self.pay(permits);
        if self.place.cores == 1 {
            self.free += permits;
        } else if permits > 0 {
            self.growing += 1;
            self.pass_on(PoolMail::Growth { grower, permits }, out);
        }
    }

    /// New permits of `grower` come by, or, if that is us, come back.
    pub(super) fn hear_growth(&mut self, grower: usize, permits: usize, out: &mut Vec<Action<C>>) {
        let permits = self.pay(permits);
        if grower == self.place.core {
            self.growing -= 1;
            self.free += permits;
        } else {
            // Also when nothing is left: the grower counts them.
            self.pass_on(PoolMail::Growth { grower, permits }, out);
        }
    }

    /// Pays debts with permits that do not exist yet. Returns how many of them are left.
    fn pay(&mut self, permits: usize) -> usize {
        let paid = permits.min(self.debt);
        self.debt -= paid;
        permits - paid
    }

    /// When this core asks for a further permit, if it has some, but too few.
    pub(super) fn nudge_due(&self) -> Option<Instant> {
        let oldest = self.waiters.oldest()?.max(self.resumed);
        let short = self.state == State::Open
            && self.place.cores > 1
            && self.free == 0
            && self.usable() > 0
            && self.waiters.len() > self.connecting;
        short.then(|| self.next_nudge.max(oldest + PATIENCE))
    }

    /// Does this core owe permits, or the upkeep of connections, for which it has no permits?
    pub(super) fn overburdened(&self) -> bool {
        let permits = self.permits();
        self.debt > permits || self.duty < 0 || self.duty > signed(permits)
    }

    /// Another core has too few permits.
    pub(super) fn hear_nudge(
        &mut self,
        asker: usize,
        wait: Duration,
        mut want: usize,
        now: Instant,
        out: &mut Vec<Action<C>>,
    ) {
        if self.state == State::Open && self.debt == 0 {
            while want > 0 {
                let Some(gift) = self.unused(now) else {
                    break;
                };
                self.send(asker, PoolMail::Donate { gift }, out);
                want -= 1;
            }
            let local = self.waiters.oldest();
            let promised = self.promise.is_some_and(|promise| now < promise.until);
            if want > 0 && !promised && self.lends(wait, local, now) {
                let until = now + NUDGE_INTERVAL;
                self.promise = Some(Promise {
                    core: asker,
                    wait,
                    until,
                });
                want = 0;
            }
        }
        if want > 0 && self.place.next() != asker {
            self.pass_on(PoolMail::Nudge { asker, wait, want }, out);
        }
    }

    /// The core that our next permit is promised to, if that is still right.
    pub(super) fn promised(&self, local: Option<Instant>, now: Instant) -> Option<usize> {
        let promise = self.promise?;
        let holds = now < promise.until && self.lends(promise.wait, local, now);
        holds.then_some(promise.core)
    }

    /// A permit that was not needed here in the last moments.
    fn unused(&mut self, now: Instant) -> Option<Gift<C>> {
        let unused = |rest: &Rest<C>| now.saturating_duration_since(rest.since) >= RECENT;
        if self.idle.front().is_some_and(unused) {
            self.wrap_idle()
        } else {
            self.wrap_surplus()
        }
    }

    /// Would our clients, with one permit fewer, still wait less than `wait`, with a margin?
    fn lends(&self, wait: Duration, local: Option<Instant>, now: Instant) -> bool {
        let permits = self.usable();
        if permits < 2 {
            return false;
        }
        let ours = self.waited(local, now).max(self.usual_wait);
        // Time spent waiting is inversely proportional to permits; a quarter more against noise.
        let with_one_less = ours.as_nanos() * permits as u128 / (permits as u128 - 1);
        wait.as_nanos() > with_one_less * 5 / 4 + NUDGE_MARGIN.as_nanos()
    }

    /// How long `since` is ago, not counting a pause.
    fn waited(&self, since: Option<Instant>, now: Instant) -> Duration {
        since.map_or(Duration::ZERO, |since| {
            now.saturating_duration_since(since.max(self.resumed))
        })
    }

    fn sample_wait(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.sampled).min(SMOOTHING);
        self.sampled = now;
        let weight = passed.as_secs_f64() / SMOOTHING.as_secs_f64();
        let wait = self.waited(self.waiters.oldest(), now);
        self.usual_wait = self.usual_wait.mul_f64(1.0 - weight) + wait.mul_f64(weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::tests::start;
    use crate::pool::{Checkout, ClientId, ConnectFailure, Lease, Limits, Place};

    const MS: Duration = Duration::from_millis(1);

    /// The slice of core 0 of 2, with four permits.
    fn slice(now: Instant) -> Pool<u32> {
        let place = Place {
            core: 0,
            cores: 2,
            offset: 0,
        };
        let limits = Limits {
            pool_size: 8,
            min_pool_size: 0,
            ..Limits::default()
        };
        Pool::new(place, limits, 1, now)
    }

    /// Checks `count` connections out.
    fn busy(pool: &mut Pool<u32>, count: u32, now: Instant) -> Vec<Lease<u32>> {
        let mut out = Vec::new();
        for id in 0..count {
            assert!(matches!(
                pool.checkout(ClientId(0), now, &mut out),
                Checkout::Wait(_)
            ));
            pool.connected(id, 0, now, &mut out);
        }
        let served = out.into_iter().filter_map(|action| match action {
            Action::Serve { lease, .. } => Some(lease),
            _ => None,
        });
        served.collect()
    }

    /// What core 1 gets for its nudge: servers, then bare permits.
    fn nudge(pool: &mut Pool<u32>, wait: Duration, want: usize, now: Instant) -> (usize, usize) {
        let mut out = Vec::new();
        let asker = 1;
        pool.receive(PoolMail::Nudge { asker, wait, want }, now, &mut out);
        donated(&out)
    }

    fn donated(out: &[Action<u32>]) -> (usize, usize) {
        let gifts = out.iter().filter_map(|action| match action {
            Action::Mail {
                to: 1,
                mail: PoolMail::Donate { gift },
            } => Some(gift.lease.is_some()),
            _ => None,
        });
        let (servers, bare): (Vec<_>, Vec<_>) = gifts.partition(|with_server| *with_server);
        (servers.len(), bare.len())
    }

    #[test]
    fn what_was_not_used_lately_is_given() {
        let now = start();
        let mut out = Vec::new();
        for (idle_for, wait, want, expected) in [
            // Two permits free, two connections idle.
            (RECENT, MS, 9, (2, 2)),
            (RECENT, MS, 3, (2, 1)),
            (RECENT / 2, MS, 9, (0, 2)),
            // Waiting for longer than the margin is worth one that was used just now, but not the last.
            (RECENT / 2, 5 * MS, 9, (1, 2)),
        ] {
            let mut pool = slice(now);
            for lease in busy(&mut pool, 2, now) {
                pool.checkin(lease, now, &mut out);
            }
            let given = nudge(&mut pool, wait, want, now + idle_for);
            assert_eq!(given, expected, "{idle_for:?} {wait:?} {want}");
        }
    }

    #[test]
    fn what_waiting_clients_need_is_kept() {
        let now = start();
        let mut pool = slice(now);
        let mut out = Vec::new();
        let _ = pool.checkout(ClientId(1), now, &mut out);
        pool.connect_failed(ConnectFailure::Retryable, now, &mut out);
        assert_eq!(nudge(&mut pool, MS, 9, now), (0, 3));
        assert_eq!(pool.stats(now).free, 1);
    }

    #[test]
    fn a_promise_is_kept_once_and_only_to_those_who_wait_longer() {
        for (wait, expected) in [(100 * MS, 1), (20 * MS, 0)] {
            let mut now = start();
            let mut pool = slice(now);
            let mut out = Vec::new();
            let leases = busy(&mut pool, 4, now);
            for client in 0..9 {
                let _ = pool.checkout(ClientId(client), now, &mut out);
            }
            now += 20 * MS;
            assert_eq!(nudge(&mut pool, wait, 9, now), (0, 0));
            out.clear();
            for lease in leases {
                pool.checkin(lease, now, &mut out);
            }
            assert_eq!(donated(&out), (expected, 0), "{wait:?}");
        }
    }

    #[test]
    fn a_short_core_nudges_but_not_often() {
        let mut now = start();
        let mut pool = slice(now);
        let mut out = Vec::new();
        let _leases = busy(&mut pool, 4, now);
        let _ = pool.checkout(ClientId(1), now, &mut out);
        let mut nudges = 0;
        out.clear();
        for _ in 0..1_000 {
            now += MS;
            pool.tick(now, &mut out);
            nudges += out.drain(..).count();
        }
        assert_eq!(nudges, 20, "one in {NUDGE_INTERVAL:?}");
    }
}
