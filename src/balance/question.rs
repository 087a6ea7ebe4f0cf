//! What a server is asked for its role and position, and what its answer means.

use std::time::{Duration, Instant};

use super::{Epoch, Lsn, Observation, Standing};

/// Answered with one text: `p`, identity of the data, position written, timeline in hexadecimal digits; or `s`,
/// identity, position replayed, a timeline that it follows for certain, and the age of the last transaction replayed in
/// milliseconds if there was one.
///
/// A standby says which timeline it replays only indirectly: its control file does, when it was last written, and the
/// receiver of its WAL, which asks for none that does not contain what was replayed (it tells members of
/// `pg_read_all_stats` only).
/// Everybody may ask this, of PostgreSQL 10 and later. The name of the current WAL file begins with the timeline that is
/// written to, from the moment of a promotion on.
/// Source: <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-RECOVERY-CONTROL>
pub const ROLE_QUESTION: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.concat_ws(' ', 's', \
(SELECT system_identifier FROM pg_catalog.pg_control_system()), \
coalesce(pg_catalog.pg_last_wal_replay_lsn()::text, '0/0'), \
greatest((SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), \
(SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()), \
(SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver), 0), \
floor(date_part('epoch', pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) * 1000)::bigint) \
ELSE pg_catalog.concat_ws(' ', 'p', (SELECT system_identifier FROM pg_catalog.pg_control_system()), \
pg_catalog.pg_current_wal_lsn(), \
substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)) END";

impl Observation {
    /// From the answer to [`ROLE_QUESTION`], asked at `at`. `None`: it makes no sense.
    pub fn parse(at: Instant, answer: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(answer).ok()?.split(' ');
        let letter = words.next()?;
        // PostgreSQL shows its 64 bits with a sign.
        let system = words.next()?.parse::<i64>().ok()?.cast_unsigned();
        let lsn = Lsn::parse(words.next()?)?;
        let timeline = words.next()?;
        let last = words.next();
        if words.next().is_some() {
            return None;
        }
        let standing = match letter {
            "p" => {
                if last.is_some() {
                    return None;
                }
                let timeline = u32::from_str_radix(timeline, 16).ok()?;
                let epoch = Epoch { system, timeline };
                Standing::Primary { epoch, lsn }
            }
            "s" => {
                let age = match last {
                    None => None,
                    // Clocks of two hosts differ: an age below zero is none.
                    Some(age) => {
                        let age = age.parse::<i64>().ok()?;
                        Some(Duration::from_millis(u64::try_from(age).unwrap_or(0)))
                    }
                };
                Standing::Standby {
                    system,
                    lsn,
                    timeline: timeline.parse().ok()?,
                    age,
                }
            }
            _ => return None,
        };
        Some(Self { at, standing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let at = crate::balance::tests::start();
        let primary = |system, lsn, timeline| {
            let epoch = Epoch { system, timeline };
            Some(Standing::Primary {
                epoch,
                lsn: Lsn(lsn),
            })
        };
        let standby = |system, lsn, timeline, age: Option<u64>| {
            let age = age.map(Duration::from_millis);
            Some(Standing::Standby {
                system,
                lsn: Lsn(lsn),
                timeline,
                age,
            })
        };
        for (answer, expected) in [
            ("p 7404 0/3000148 00000001", primary(7404, 0x300_0148, 1)),
            (
                "p -1 16/B374D848 0000001F",
                primary(u64::MAX, 0x16_b374_d848, 31),
            ),
            (
                "s 7404 0/3000148 12 1500",
                standby(7404, 0x300_0148, 12, Some(1_500)),
            ),
            ("s 7404 0/0 0", standby(7404, 0, 0, None)),
            ("s 7404 0/0 1 -3", standby(7404, 0, 1, Some(0))),
            ("s 7404 0/0", None),
            ("s 7404 0/0 -1", None),
            ("p 7404 0/3000148", None),
            ("p 7404 0/3000148 xyz", None),
            ("p 7404 0/3000148 00000001 2", None),
            ("s 7404", None),
            ("s 7404 zero 1 1", None),
            ("s 7404 0/0 1 1 1", None),
            ("x 7404 0/0 1 1", None),
            ("", None),
        ] {
            let got = Observation::parse(at, answer.as_bytes());
            assert_eq!(
                got.map(|observation| observation.standing),
                expected,
                "{answer}"
            );
        }
        assert_eq!(Observation::parse(at, b"\xff"), None);
    }
}
