//! One server's failures: healthy, suspect, banned, recovering.
//!
//! ```text
//!            lost                       failed
//!  Healthy ────────► Suspect ────────────────────► Banned{until} ◄──────────────┐
//!     ▲ ▲               │                              │                        │ failed
//!     │ └───passed──────┘        until, UNBAN, passed after a pause that grows  │
//!     └──────── quiet for a minute ────── Recovering ◄─┘ ───────────────────────┘
//! ```
//!
//! A lost connection may be anything, so it only makes a server suspect: it is checked at once, and others go first
//! meanwhile. A check that fails, a server that refuses us or does not answer bans at once. Events carry their time
//! and randomness, so that all cores, told of the same, come to the same.

use std::time::{Duration, Instant};

/// Others go before a suspect server for this long, unless a check clears it earlier.
const SUSPECT_FOR: Duration = Duration::from_secs(1);
/// After this long without failure a server that was banned is as good as any.
const QUIET: Duration = Duration::from_secs(60);
/// First pause before a passed check lifts a ban, or before a server that failed is checked again. It doubles.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Doublings at most: some two minutes.
const DOUBLINGS_MAX: u32 = 8;

/// Why a server is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BanReason {
    /// Nobody answers there.
    Connect,
    /// It does not let us in.
    Login,
    /// A check failed.
    Check,
    /// A check took longer than its limit.
    CheckTimeout,
    /// Behind the primary by more than `ban_replica_lag` or `ban_replica_lag_bytes`.
    Lag,
    /// BAN.
    Administrator,
}

impl BanReason {
    /// All of them, for metrics.
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::Login,
        Self::Check,
        Self::CheckTimeout,
        Self::Lag,
        Self::Administrator,
    ];

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Connect => "cannot connect",
            Self::Login => "login refused",
            Self::Check => "health check failed",
            Self::CheckTimeout => "health check timed out",
            Self::Lag => "replica lag",
            Self::Administrator => "administrator",
        }
    }

    /// For labels of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Login => "login",
            Self::Check => "healthcheck",
            Self::CheckTimeout => "healthcheck_timeout",
            Self::Lag => "replica_lag",
            Self::Administrator => "manual",
        }
    }
}

/// What happened to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It answered a check, or let us in.
    Passed,
    /// For one of the reasons that are failures.
    Failed(BanReason),
    /// A connection broke while it was in use.
    Lost,
}

/// How one server is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Nothing is known against it.
    #[default]
    Healthy,
    /// It failed, which was not enough for a ban, or bans are disabled.
    Suspect {
        /// Of the last failure.
        since: Instant,
        /// Was it more than the loss of a connection? Then bans are disabled.
        failed: bool,
    },
    /// It gets no reads while there are others.
    Banned(Ban),
    /// It was banned until a moment ago.
    Recovering {
        /// End of the ban.
        since: Instant,
        /// Bans so far, without a quiet time in between.
        bans: u32,
    },
}

/// A ban made by a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Why.
    pub reason: BanReason,
    /// Its beginning.
    pub since: Instant,
    /// Its end, unless a passed check ends it earlier.
    pub until: Instant,
    /// Before this a passed check does not end it: the server seems to go up and down.
    pub firm_until: Instant,
    bans: u32,
}

impl Health {
    /// The state after `event`, which happened at `at`.
    ///
    /// `ban_timeout` of zero disables bans. `random` is any number, the same on all cores for the same event.
    #[must_use]
    pub fn after(self, event: Event, at: Instant, ban_timeout: Duration, random: u64) -> Self {
        let now = self.at(at);
        match (event, now) {
            (Event::Passed, Self::Suspect { .. } | Self::Healthy) => Self::Healthy,
            (Event::Passed, Self::Banned(ban)) if at >= ban.firm_until => ban.ended(at),
            (Event::Passed | Event::Lost, Self::Banned(_)) => now,
            (Event::Passed | Event::Lost, Self::Recovering { .. }) => now,
            (Event::Lost, Self::Healthy) => Self::Suspect {
                since: at,
                failed: false,
            },
            (Event::Lost, Self::Suspect { failed, .. }) => Self::Suspect { since: at, failed },
            (Event::Failed(_), _) if ban_timeout.is_zero() => Self::Suspect {
                since: at,
                failed: true,
            },
            // One failure is not told by one client only: counted once.
            (Event::Failed(_), Self::Banned(_)) => now,
            (Event::Failed(reason), Self::Healthy | Self::Suspect { .. }) => {
                Self::ban(reason, at, ban_timeout, 1, random)
            }
            (Event::Failed(reason), Self::Recovering { bans, .. }) => {
                Self::ban(reason, at, ban_timeout, bans.saturating_add(1), random)
            }
        }
    }

    fn ban(reason: BanReason, at: Instant, timeout: Duration, bans: u32, random: u64) -> Self {
        // A time-out too long to be added is as good as a year.
        let until = at
            .checked_add(timeout)
            .unwrap_or(at + Duration::from_secs(31_536_000));
        let firm_until = (at + pause(bans - 1, random)).min(until);
        Self::Banned(Ban {
            reason,
            since: at,
            until,
            firm_until,
            bans,
        })
    }

    /// UNBAN.
    #[must_use]
    pub fn unbanned(self, now: Instant) -> Self {
        match self {
            Self::Banned(ban) => ban.ended(now),
            Self::Healthy | Self::Suspect { .. } | Self::Recovering { .. } => self,
        }
    }

    /// What has become of it by `now`, if nothing happened.
    #[must_use]
    pub fn at(self, now: Instant) -> Self {
        match self {
            Self::Banned(ban) if now >= ban.until => ban.ended(ban.until).at(now),
            Self::Recovering { since, .. } if now.saturating_duration_since(since) >= QUIET => {
                Self::Healthy
            }
            Self::Healthy | Self::Suspect { .. } | Self::Banned(_) | Self::Recovering { .. } => {
                self
            }
        }
    }

    /// The ban in force.
    pub fn ban_at(&self, now: Instant) -> Option<Ban> {
        match self {
            Self::Banned(ban) if now < ban.until => Some(*ban),
            Self::Healthy | Self::Suspect { .. } | Self::Banned(_) | Self::Recovering { .. } => {
                None
            }
        }
    }

    /// Should others go first for the moment?
    pub fn is_suspect(&self, now: Instant) -> bool {
        match self {
            Self::Suspect { since, .. } => now.saturating_duration_since(*since) < SUSPECT_FOR,
            Self::Healthy | Self::Banned(_) | Self::Recovering { .. } => false,
        }
    }

    /// Was its last check or connection a success?
    pub fn is_healthy(&self) -> bool {
        match self {
            Self::Healthy | Self::Recovering { .. } => true,
            Self::Suspect { failed, .. } => !failed,
            Self::Banned(_) => false,
        }
    }

    /// Would a success change nothing?
    pub fn is_clear(&self) -> bool {
        match self {
            Self::Healthy | Self::Recovering { .. } => true,
            Self::Suspect { .. } | Self::Banned(_) => false,
        }
    }
}

impl Ban {
    fn ended(self, at: Instant) -> Health {
        Health::Recovering {
            since: at,
            bans: self.bans,
        }
    }
}

/// The pause after so many failures in a row: at least half of the doubled time, so that nobody marches in step.
fn pause(failures: u32, random: u64) -> Duration {
    let full = PAUSE_MIN * (1 << failures.min(DOUBLINGS_MAX));
    full / 2 + part(full / 2, random)
}

/// An evenly spread part of `max`.
fn part(max: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
    let part = (u128::from(nanos) * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(part).expect("a part of a u64"))
}

/// When a server is checked in the background: at an interval while that goes well, soon and then less and less often
/// while it does not, and at once when a client had trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    next: Instant,
    last: Option<Instant>,
    failures: u32,
}

impl Schedule {
    /// The first check is at `first`.
    pub fn new(first: Instant) -> Self {
        Self {
            next: first,
            last: None,
            failures: 0,
        }
    }

    /// When the next check is due.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// When the last check was.
    pub fn last(&self) -> Option<Instant> {
        self.last
    }

    /// The interval may have changed: the next check is now.
    pub fn reconsider(&mut self, now: Instant) {
        self.next = self.next.min(now);
    }

    /// A check has passed. The next one follows a little earlier than `interval` says, so that checks spread.
    pub fn passed(&mut self, now: Instant, interval: Duration, random: u64) {
        self.failures = 0;
        self.last = Some(now);
        let early = part(interval / 8, random);
        self.next = now
            .checked_add(interval - early)
            .unwrap_or(now + interval / 2);
    }

    /// A check has failed: the next one is soon, but never later than at the usual interval.
    pub fn failed(&mut self, now: Instant, interval: Duration, random: u64) {
        self.last = Some(now);
        self.next = now + pause(self.failures, random).min(interval);
        self.failures = self.failures.saturating_add(1);
    }

    /// Somebody had trouble with this server. It is checked at once, unless that was done a moment ago.
    pub fn hurry(&mut self, now: Instant) {
        let soon = self.last.map_or(now, |last| last + PAUSE_MIN / 2);
        self.next = self.next.min(soon.max(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(300);
    const MS: Duration = Duration::from_millis(1);

    fn start() -> Instant {
        crate::balance::tests::start()
    }

    fn banned(health: Health, now: Instant) -> bool {
        health.ban_at(now).is_some()
    }

    #[test]
    fn a_refused_connection_counts_at_once() {
        let now = start();
        for reason in [
            BanReason::Connect,
            BanReason::Check,
            BanReason::CheckTimeout,
        ] {
            let health = Health::Healthy.after(Event::Failed(reason), now, TIMEOUT, 0);
            assert_eq!(health.ban_at(now).unwrap().reason, reason);
            assert!(banned(health, now + TIMEOUT - MS));
            assert!(!banned(health, now + TIMEOUT), "it expires");
            assert!(!health.is_healthy());
        }
    }

    #[test]
    fn a_lost_connection_is_only_suspicious() {
        let now = start();
        let health = Health::Healthy.after(Event::Lost, now, TIMEOUT, 0);
        assert!(!banned(health, now) && health.is_suspect(now) && health.is_healthy());
        assert!(!health.is_suspect(now + SUSPECT_FOR));
        let again = health.after(Event::Lost, now + MS, TIMEOUT, 0);
        assert!(!banned(again, now + MS));
        let cleared = again.after(Event::Passed, now + 2 * MS, TIMEOUT, 0);
        assert_eq!(cleared, Health::Healthy);
        let refused = again.after(Event::Failed(BanReason::Connect), now + MS, TIMEOUT, 0);
        assert!(banned(refused, now + MS));
    }

    #[test]
    fn without_a_ban_timeout_nobody_is_banned() {
        let now = start();
        let health = Health::Healthy.after(Event::Failed(BanReason::Check), now, Duration::ZERO, 0);
        assert!(!banned(health, now) && !health.is_healthy());
        assert!(health
            .after(Event::Passed, now, Duration::ZERO, 0)
            .is_healthy());
    }

    #[test]
    fn a_passed_check_ends_a_ban_sooner_the_first_time_than_the_fifth() {
        let mut now = start();
        let mut health = Health::Healthy;
        let mut last = Duration::ZERO;
        for round in 0..5 {
            health = health.after(Event::Failed(BanReason::Connect), now, TIMEOUT, u64::MAX);
            let ban = health.ban_at(now).unwrap();
            let firm = ban.firm_until - now;
            assert!(firm > last && firm <= PAUSE_MIN * (1 << round), "{firm:?}");
            let early = health.after(Event::Passed, ban.firm_until - MS, TIMEOUT, 0);
            assert!(banned(early, ban.firm_until - MS));
            health = health.after(Event::Passed, ban.firm_until, TIMEOUT, 0);
            assert!(!banned(health, ban.firm_until) && health.is_healthy());
            (last, now) = (firm, ban.firm_until + MS);
        }
        // A quiet minute later all is forgotten.
        now += QUIET;
        assert_eq!(health.at(now), Health::Healthy);
        health = health.after(Event::Failed(BanReason::Connect), now, TIMEOUT, u64::MAX);
        assert!(health.ban_at(now).unwrap().firm_until - now <= PAUSE_MIN);
    }

    #[test]
    fn a_ban_is_never_firmer_than_it_is_long() {
        let now = start();
        let short = Duration::from_millis(10);
        let health = Health::Healthy.after(Event::Failed(BanReason::Check), now, short, u64::MAX);
        assert_eq!(health.ban_at(now).unwrap().firm_until, now + short);
        let endless = Health::Healthy.after(Event::Failed(BanReason::Check), now, Duration::MAX, 0);
        assert!(banned(endless, now + QUIET * 1000));
    }

    #[test]
    fn unban_ends_it_and_failures_while_banned_do_not_prolong_it() {
        let now = start();
        let failed = Event::Failed(BanReason::Check);
        let health = Health::Healthy.after(failed, now, TIMEOUT, 0);
        assert_eq!(health.after(failed, now + MS, TIMEOUT, 0), health);
        assert_eq!(health.after(Event::Lost, now + MS, TIMEOUT, 0), health);
        assert!(!banned(health.unbanned(now), now));
        // After it has expired, the next failure bans anew.
        let later = now + TIMEOUT + MS;
        assert!(banned(health.after(failed, later, TIMEOUT, 0), later));
    }

    #[test]
    fn checks_back_off_with_jitter_up_to_the_interval() {
        let mut now = start();
        let interval = Duration::from_secs(30);
        let mut schedule = Schedule::new(now);
        let mut spread = std::collections::HashSet::new();
        for failure in 0..20_u32 {
            let random = u64::from(failure).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            schedule.failed(now, interval, random);
            let wait = schedule.next() - now;
            let full = (PAUSE_MIN * (1 << failure.min(DOUBLINGS_MAX))).min(interval * 2);
            assert!(
                wait >= (full / 2).min(interval) && wait <= interval,
                "{failure}: {wait:?}"
            );
            spread.insert(wait);
            now = schedule.next();
        }
        assert!(spread.len() > 5);
        schedule.passed(now, interval, u64::MAX);
        let wait = schedule.next() - now;
        assert!(wait <= interval && wait >= interval * 7 / 8);
        schedule.hurry(now);
        assert!(
            schedule.next() - now <= PAUSE_MIN / 2,
            "but not in the same moment"
        );
        schedule.hurry(now + interval / 2);
        assert!(schedule.next() <= now + interval / 2);
    }
}
