//! How servers are chosen, checked and banned.

use std::time::Duration;

use super::choice::{LoadBalancingStrategy, ReadWriteSplit};
use super::general::General;
use super::value::{Millis, DISABLED};

/// Checks more often than this are not worth it.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Longer than this no read waits for a replica.
const WRITTEN_WAIT_MAX: Duration = Duration::from_secs(60);

/// How servers are chosen, checked and banned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancing {
    /// Who serves reads.
    pub split: ReadWriteSplit,
    /// Which of several.
    pub strategy: LoadBalancingStrategy,
    /// Length of a ban; zero disables them.
    pub ban_timeout: Duration,
    /// Replicas further behind in time are banned.
    pub lag_max: Option<Duration>,
    /// Replicas further behind in WAL are banned.
    pub lag_bytes_max: Option<u64>,
    /// A connection is checked at checkout if its last check is older; `None`: never.
    pub check_after: Option<Duration>,
    /// Longest time for one check.
    pub check_timeout: Option<Duration>,
    /// Checks of servers in the background; `None`: there are none.
    pub checks: Option<Pace>,
    /// Checks of role and LSN; `None`: there are none, but of servers whose role is found out.
    pub role_checks: Option<Pace>,
    /// Of checks of role and LSN, if there are any.
    pub role_interval: Duration,
    /// Longest time for one check of role and LSN.
    pub role_timeout: Option<Duration>,
    /// Longest wait for a replica to have replayed what a read has to see.
    pub written_wait: Duration,
}

/// When checks begin, and how often they are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the start of the program, or of its knowledge of the server.
    pub delay: Duration,
    /// Between two of them.
    pub interval: Duration,
}

impl Balancing {
    pub(super) fn of(general: &General) -> Self {
        let interval = |millis: Millis| millis.duration().max(INTERVAL_MIN);
        let idle = general.idle_healthcheck_interval;
        let idle = idle.limit().filter(|interval| !interval.is_zero());
        let delay = general.idle_healthcheck_delay.limit();
        let role_interval = interval(general.lsn_check_interval);
        Self {
            split: general.read_write_split,
            strategy: general.load_balancing_strategy,
            ban_timeout: general.ban_timeout.duration(),
            lag_max: general.ban_replica_lag.limit(),
            lag_bytes_max: Some(general.ban_replica_lag_bytes.0).filter(|limit| *limit < DISABLED),
            check_after: general.healthcheck_interval.limit(),
            check_timeout: general.healthcheck_timeout.limit(),
            checks: idle.zip(delay).map(|(idle, delay)| Pace {
                delay,
                interval: idle.max(INTERVAL_MIN),
            }),
            role_checks: general.lsn_check_delay.limit().map(|delay| Pace {
                delay,
                interval: role_interval,
            }),
            role_interval,
            role_timeout: general.lsn_check_timeout.limit(),
            written_wait: general
                .read_your_writes_wait
                .duration()
                .min(WRITTEN_WAIT_MAX),
        }
    }

    /// Checks of role and LSN, which are `needed` where roles are found out and for `read_your_writes`.
    pub fn roles(&self, needed: bool) -> Option<Pace> {
        let needed = needed.then_some(Pace {
            delay: Duration::ZERO,
            interval: self.role_interval,
        });
        self.role_checks.or(needed)
    }
}
