//! How far a replica is behind: positions in the WAL, compared in the right direction.
//!
//! A replica says what it has replayed, and how old the last transaction in that is. Alone that says little: the
//! age grows while nobody writes. So what the primary had written at an earlier time is the measure: a replica that
//! has replayed at least that is not behind. Positions are seen at different times; nothing is held against a replica
//! that the primary wrote after the replica was asked.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// Positions of the primary that are remembered: a minute's worth of checks every five seconds.
const TRAIL_MAX: usize = 12;

/// A position in the WAL, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// From PostgreSQL's form, `16/B374D848`.
    pub fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let digits = |half: &str| {
            let plain = !half.is_empty() && half.len() <= 8 && !half.starts_with('+');
            plain.then(|| u64::from_str_radix(half, 16).ok()).flatten()
        };
        Some(Self(digits(high)? << 32 | digits(low)?))
    }

    /// Bytes from `earlier` to this position; 0 if it is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// What a replica said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// When it was asked.
    pub at: Instant,
    /// Up to here what it reads is true.
    pub lsn: Lsn,
    /// Age of the last transaction that it has replayed, by its own clock; `None` before the first one.
    pub age: Option<Duration>,
}

/// How far behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// WAL that the primary had written and the replica had not replayed.
    pub bytes: u64,
    /// Age of the oldest thing that the replica lacks, at most.
    pub time: Duration,
}

/// Limits of it; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LagLimits {
    /// `ban_replica_lag`.
    pub time: Option<Duration>,
    /// `ban_replica_lag_bytes`.
    pub bytes: Option<u64>,
}

impl LagLimits {
    /// Is this too much?
    pub fn exceeded(&self, lag: Lag) -> bool {
        self.time.is_some_and(|limit| lag.time > limit)
            || self.bytes.is_some_and(|limit| lag.bytes > limit)
    }
}

/// Where the primary was, and when.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// The oldest one in front.
    steps: VecDeque<(Instant, Lsn)>,
}

impl Trail {
    /// The primary was asked at `at` and had written up to `lsn`.
    pub fn step(&mut self, at: Instant, lsn: Lsn) {
        if self.steps.back().is_some_and(|(last, _)| *last >= at) {
            return;
        }
        if self.steps.len() == TRAIL_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back((at, lsn));
    }

    /// There is another primary, whose positions go on from elsewhere.
    pub fn clear(&mut self) {
        self.steps.clear();
    }

    /// How far behind a replica was when it was asked. `None`: the primary was not asked before that.
    pub fn lag(&self, replica: Replayed) -> Option<Lag> {
        let earlier = self.steps.iter().rev().find(|(at, _)| *at <= replica.at);
        let (_, written) = earlier?;
        let bytes = written.since(replica.lsn);
        if bytes == 0 {
            return Some(Lag::default());
        }
        // All that was written by the time of this step is there, so what is missing is younger than it.
        let known = self.steps.iter().rev().find(|(_, lsn)| *lsn <= replica.lsn);
        let known = known.map(|(at, _)| replica.at.saturating_duration_since(*at));
        let time = match (known, replica.age) {
            (Some(known), Some(age)) => known.min(age),
            (Some(time), None) | (None, Some(time)) => time,
            // It never replayed a transaction, and was behind at every step.
            (None, None) => {
                let oldest = self.steps.front().map_or(replica.at, |(at, _)| *at);
                replica.at.saturating_duration_since(oldest)
            }
        };
        Some(Lag { bytes, time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn trail(start: Instant, steps: &[(u32, u64)]) -> Trail {
        let mut trail = Trail::default();
        for (second, lsn) in steps {
            trail.step(start + SECOND * *second, Lsn(*lsn));
        }
        trail
    }

    #[test]
    fn positions_are_read_as_postgresql_writes_them() {
        for (text, lsn) in [
            ("0/0", Some(0)),
            ("16/B374D848", Some(0x16_b374_d848)),
            ("FFFFFFFF/FFFFFFFF", Some(u64::MAX)),
            ("1/1", Some(0x1_0000_0001)),
            ("", None),
            ("/", None),
            ("1", None),
            ("1/", None),
            ("+1/1", None),
            ("1/123456789", None),
            ("g/1", None),
        ] {
            assert_eq!(Lsn::parse(text), lsn.map(Lsn), "{text}");
            if let Some(lsn) = lsn {
                assert_eq!(Lsn(lsn).to_string(), text);
            }
        }
    }

    /// Edge case 69: a sign the wrong way round makes the best replica the worst.
    #[test]
    fn behind_is_behind_and_ahead_is_not() {
        let start = crate::balance::tests::start();
        let trail = trail(start, &[(0, 1_000), (5, 5_000), (10, 9_000)]);
        let lag = |second, lsn, age: Option<u32>| {
            let replica = Replayed {
                at: start + SECOND * second,
                lsn: Lsn(lsn),
                age: age.map(|age| SECOND * age),
            };
            trail
                .lag(replica)
                .map(|lag| (lag.bytes, lag.time.as_secs()))
        };
        assert_eq!(lag(11, 9_000, Some(3)), Some((0, 0)), "level");
        assert_eq!(
            lag(11, 9_500, Some(3)),
            Some((0, 0)),
            "saw what the primary wrote since"
        );
        assert_eq!(
            lag(11, 8_999, Some(3)),
            Some((1, 3)),
            "its own word is the better one"
        );
        assert_eq!(
            lag(11, 8_999, Some(99)),
            Some((1, 6)),
            "it had 5000, seen 6 s before"
        );
        assert_eq!(lag(11, 8_999, None), Some((1, 6)));
        assert_eq!(
            lag(11, 500, Some(60)),
            Some((8_500, 60)),
            "further behind than we remember"
        );
        assert_eq!(lag(11, 500, None), Some((8_500, 11)));
        // Asked before the primary wrote on: nobody writes for a minute, then once; the age is the quiet minute.
        assert_eq!(lag(9, 5_000, Some(60)), Some((0, 0)));
        assert_eq!(
            trail.lag(Replayed {
                at: start - SECOND,
                lsn: Lsn(0),
                age: None
            }),
            None
        );
    }

    #[test]
    fn the_one_further_behind_has_the_larger_lag() {
        let start = crate::balance::tests::start();
        let trail = trail(start, &[(0, 0), (1, 100), (2, 200), (3, 300), (4, 400)]);
        let mut last = Lag {
            bytes: u64::MAX,
            time: Duration::MAX,
        };
        for lsn in [0, 50, 100, 250, 300, 399, 400] {
            let at = start + SECOND * 4;
            let lag = trail
                .lag(Replayed {
                    at,
                    lsn: Lsn(lsn),
                    age: None,
                })
                .unwrap();
            assert!(
                lag.bytes < last.bytes && lag.time <= last.time,
                "{lsn}: {lag:?}, {last:?}"
            );
            last = lag;
        }
        assert_eq!(last, Lag::default());
    }

    #[test]
    fn limits_are_exceeded_above_and_not_at_them() {
        let lag = Lag {
            bytes: 10,
            time: SECOND,
        };
        for (time, bytes, exceeded) in [
            (None, None, false),
            (Some(SECOND), Some(10), false),
            (Some(SECOND / 2), None, true),
            (None, Some(9), true),
            (Some(SECOND * 2), Some(11), false),
        ] {
            assert_eq!(LagLimits { time, bytes }.exceeded(lag), exceeded);
        }
    }

    #[test]
    fn the_trail_is_bounded_and_in_order() {
        let start = crate::balance::tests::start();
        let mut trail = trail(start, &[(1, 10)]);
        trail.step(start, Lsn(99));
        assert_eq!(trail.steps.len(), 1, "old news");
        for second in 2..100 {
            trail.step(start + SECOND * second, Lsn(u64::from(second)));
        }
        assert_eq!(trail.steps.len(), TRAIL_MAX);
        assert_eq!(trail.steps.back().unwrap().1, Lsn(99));
    }
}
