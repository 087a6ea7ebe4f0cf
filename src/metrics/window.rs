//! Averages and latencies over the last `stats_period`, from what was counted at its beginning and its end.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::{Distributions, Stat, Totals};

/// What a pool did in one period.
#[derive(Clone, Debug, Default)]
pub struct Period {
    /// Per second, or per what it is counted for: see [`average`].
    pub averages: Averages,
    /// Of what ended in the period.
    pub latencies: Distributions,
}

/// One average for each counter. All zero while nothing is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Averages([f64; Stat::COUNT]);

impl Default for Averages {
    fn default() -> Self {
        Self([0.0; Stat::COUNT])
    }
}

impl Averages {
    /// Of what was counted in this time.
    pub fn new(counted: &Totals, time: Duration) -> Self {
        Self(Stat::ALL.map(|stat| average(stat, counted, time)))
    }

    /// Of one counter.
    pub fn get(&self, stat: Stat) -> f64 {
        self.0[stat as usize]
    }
}

/// Times: milliseconds per transaction, gap between two statements of one, query, assignment or connection. Reads and
/// writes: checkouts per transaction. All else: per second. Nothing per nothing is zero.
fn average(stat: Stat, counted: &Totals, time: Duration) -> f64 {
    let value = counted[stat] as f64;
    let per = |count: u64| match count {
        0 => 0.0,
        count => value / count as f64,
    };
    let ms_per = |count| per(count) / 1e6;
    match stat {
        Stat::XactTime => ms_per(counted[Stat::XactCount]),
        Stat::IdleXactTime => {
            ms_per(counted[Stat::QueryCount].saturating_sub(counted[Stat::XactCount]))
        }
        Stat::QueryTime => ms_per(counted[Stat::QueryCount]),
        Stat::WaitTime => ms_per(counted[Stat::ServerAssignmentCount]),
        Stat::ConnectTime => ms_per(counted[Stat::ConnectCount]),
        Stat::Reads | Stat::Writes => per(counted[Stat::XactCount]),
        _ if time.is_zero() => 0.0,
        _ => value / time.as_secs_f64(),
    }
}

/// The last period of every pool, by what identifies one.
#[derive(Debug)]
pub struct Windows<K> {
    began: Option<Instant>,
    before: HashMap<K, (Totals, Distributions)>,
    last: HashMap<K, Period>,
}

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self {
            began: None,
            before: HashMap::new(),
            last: HashMap::new(),
        }
    }
}

impl<K: Copy + Eq + Hash> Windows<K> {
    /// A period is over, with these totals of all pools; pools that are not among them are forgotten. The first call
    /// begins the first period. A pool that is new has done everything in this period.
    pub fn close(
        &mut self,
        now: Instant,
        pools: impl IntoIterator<Item = (K, Totals, Distributions)>,
    ) {
        let time = self.began.map(|began| now.saturating_duration_since(began));
        self.began = Some(now);
        let mut before = std::mem::take(&mut self.before);
        self.last.clear();
        for (pool, totals, latencies) in pools {
            if let Some(time) = time {
                let (old_totals, old_latencies) = before.remove(&pool).unwrap_or_default();
                let period = Period {
                    averages: Averages::new(&(totals - &old_totals), time),
                    latencies: &latencies - &old_latencies,
                };
                self.last.insert(pool, period);
            }
            self.before.insert(pool, (totals, latencies));
        }
    }

    /// What the pool did in the last period that is over; `None` before that.
    pub fn last(&self, pool: K) -> Option<&Period> {
        self.last.get(&pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Counters, Latencies, Phase};

    fn counted(counts: &[(Stat, u64)]) -> Totals {
        let counters = Counters::default();
        for (stat, count) in counts {
            counters.add(*stat, *count);
        }
        counters.totals()
    }

    #[test]
    fn nothing_done_is_zero_whatever_it_is_divided_by() {
        for time in [Duration::ZERO, Duration::from_secs(15)] {
            assert_eq!(Averages::new(&Totals::default(), time), Averages::default());
        }
        // Time without a count: a transaction that has not ended, a clock that stands.
        let open = counted(&[
            (Stat::IdleXactTime, 5_000_000),
            (Stat::QueryCount, 3),
            (Stat::XactCount, 4),
        ]);
        let averages = Averages::new(&open, Duration::ZERO);
        assert!(Stat::ALL.iter().all(|stat| averages.get(*stat).is_finite()));
        assert_eq!(averages.get(Stat::IdleXactTime), 0.0);
    }

    #[test]
    fn averages_are_per_second_or_per_what_they_belong_to() {
        let counts = [
            (Stat::XactCount, 30),
            (Stat::QueryCount, 90),
            (Stat::ServerAssignmentCount, 40),
            (Stat::Received, 3000),
            (Stat::XactTime, 60_000_000),
            (Stat::IdleXactTime, 30_000_000),
            (Stat::QueryTime, 45_000_000),
            (Stat::WaitTime, 20_000_000),
            (Stat::Writes, 45),
        ];
        let averages = Averages::new(&counted(&counts), Duration::from_secs(15));
        let expected = [
            (Stat::XactCount, 2.0),
            (Stat::QueryCount, 6.0),
            (Stat::Received, 200.0),
            (Stat::XactTime, 2.0),
            (Stat::IdleXactTime, 0.5),
            (Stat::QueryTime, 0.5),
            (Stat::WaitTime, 0.5),
            (Stat::Writes, 1.5),
            (Stat::Reads, 0.0),
            (Stat::ConnectTime, 0.0),
        ];
        for (stat, value) in expected {
            assert_eq!(averages.get(stat), value, "{}", stat.name());
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_window_shows_the_last_period_only() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let latencies = Latencies::default();
        let count = |count| counted(&[(Stat::XactCount, count)]);
        let mut windows = Windows::default();
        windows.close(at(0), [('a', count(100), latencies.read())]);
        assert!(windows.last('a').is_none());
        latencies.record(Phase::QueryOther, 1_000_000);
        windows.close(
            at(10),
            [
                ('a', count(150), latencies.read()),
                ('b', count(20), latencies.read()),
            ],
        );
        let average = |windows: &Windows<char>, pool| {
            windows
                .last(pool)
                .map(|period| period.averages.get(Stat::XactCount))
        };
        assert_eq!(average(&windows, 'a'), Some(5.0));
        assert_eq!(average(&windows, 'b'), Some(2.0), "new in this period");
        assert_eq!(
            windows.last('a').unwrap().latencies[Phase::QueryOther].count(),
            1
        );
        windows.close(at(20), [('a', count(150), latencies.read())]);
        assert_eq!(average(&windows, 'a'), Some(0.0));
        assert_eq!(average(&windows, 'b'), None, "gone");
        assert!(windows.last('a').unwrap().latencies[Phase::QueryOther].is_empty());
        // A counter that began anew.
        windows.close(at(30), [('a', count(10), Latencies::default().read())]);
        assert_eq!(average(&windows, 'a'), Some(0.0));
    }
}
