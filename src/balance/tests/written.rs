//! Who may serve a read that has to see what its session has written.

use super::*;
use crate::balance::{Asks, Mark, Written};

const INTERVAL: Duration = Duration::from_secs(5);

/// A primary and two replicas whose roles are found out.
struct Trio(Bench);

impl Trio {
    /// Server 0 is the primary on timeline 2 and at 1000, the others have replayed up to 900 and 1000.
    fn new(split: ReadWriteSplit) -> Self {
        let mut trio = Self(Bench::under(
            "aaa",
            Policy {
                role_checks: Some(INTERVAL),
                ..policy(split)
            },
        ));
        trio.say([(900, 2), (1_000, 2)]);
        trio
    }

    /// All answer a check: the primary, and the replicas with position and timeline.
    fn say(&mut self, replicas: [(u64, u32); 2]) {
        self.0.now += SECOND;
        self.0.primary(0, 2, 1_000);
        for (server, (lsn, timeline)) in (1..).zip(replicas) {
            self.standby(server, 1, lsn, timeline);
        }
    }

    fn standby(&mut self, server: usize, system: u64, lsn: u64, timeline: u32) {
        let standing = Standing::Standby {
            system,
            lsn: Lsn(lsn),
            timeline,
            age: None,
        };
        let at = self.0.now;
        self.0.balance.observe(server, Observation { at, standing });
    }

    /// Who may get a read after `written`: `1?900` has to say that it has replayed so far, `0!2` is read over connections
    /// of that timeline only, and `0!2*` has to say where it is.
    fn all(&mut self, want: Want, written: Written) -> String {
        let mut found = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let random = self.0.numbers.next();
            let now = self.0.now;
            let pick = self
                .0
                .balance
                .pick(want, written, |_| false, |_| 0, now, random);
            found.insert(match pick {
                Pick::Server {
                    server,
                    epoch,
                    asks,
                } => {
                    let epoch = epoch.map(|epoch| format!("!{}", epoch.timeline));
                    let asks = match asks {
                        Asks::Nothing => String::new(),
                        Asks::Replayed(lsn) => format!("?{}", lsn.0),
                        Asks::Mark => "*".to_owned(),
                    };
                    format!("{server}{}{asks}", epoch.unwrap_or_default())
                }
                Pick::Wait => "wait".to_owned(),
                Pick::Refused(refusal) => format!("{refusal:?}"),
            });
        }
        Vec::from_iter(found).join(",")
    }

    fn check(&mut self, written: Written, expected: &str) {
        assert_eq!(self.all(Want::Read, written), expected, "{written:?}");
    }
}

fn up_to(lsn: u64, timeline: u32) -> Written {
    Written::UpTo(Mark {
        epoch: Epoch {
            system: 1,
            timeline,
        },
        lsn: Lsn(lsn),
    })
}

#[test]
fn a_replica_has_it_says_so_or_is_not_asked_at_all() {
    let mut trio = Trio::new(ExcludePrimary);
    trio.check(Written::Nothing, "1,2");
    trio.check(up_to(900, 2), "1,2");
    trio.check(up_to(901, 2), "1?901,2");
    trio.check(up_to(1_001, 2), "1?1001,2?1001");
    trio.check(Written::Somewhere, "0!2*");
    assert_eq!(trio.all(Want::Replica, up_to(901, 2)), "1?901,2");
    assert_eq!(trio.all(Want::Write, up_to(901, 2)), "0!2");
}

#[test]
fn what_a_replica_said_to_one_read_is_good_for_others() {
    let mut trio = Trio::new(ExcludePrimary);
    let now = trio.0.now;
    trio.0.balance.replayed(1, now, Lsn(1_500));
    trio.check(up_to(1_500, 2), "1,2?1500");
    // As long as any evidence.
    trio.0.now += INTERVAL + SECOND;
    trio.0.primary(0, 2, 1_000);
    trio.check(up_to(1_500, 2), "0!2");
    trio.say([(900, 2), (1_000, 2)]);
    trio.check(up_to(1_500, 2), "1?1500,2?1500");
}

#[test]
fn evidence_grows_old() {
    let mut trio = Trio::new(ExcludePrimary);
    trio.0.now += INTERVAL;
    trio.check(up_to(900, 2), "1,2");
    trio.0.now += Duration::from_millis(1);
    trio.0.primary(0, 2, 1_000);
    trio.check(up_to(900, 2), "0!2");
    trio.say([(900, 2), (1_000, 2)]);
    let now = trio.0.now + SECOND;
    trio.0.balance.unreached(2, now);
    trio.check(up_to(900, 2), "1");
}

#[test]
fn positions_of_another_timeline_or_other_data_prove_nothing() {
    let mut trio = Trio::new(ExcludePrimary);
    // It has replayed more of the old timeline than the new one has of it.
    trio.say([(5_000, 1), (1_000, 2)]);
    trio.check(up_to(900, 2), "2");
    // Written before the promotion: the new primary may not have it either, and tells where it is now.
    trio.check(up_to(900, 1), "0!2*");
    trio.standby(1, 8, 5_000, 2);
    trio.check(up_to(900, 2), "2");
    // A replica that is ahead in timelines has all of this one that counts.
    trio.say([(5_000, 3), (1_000, 2)]);
    trio.check(up_to(900, 2), "1,2");
    // A server that does not say which timeline it follows.
    trio.say([(5_000, 0), (5_000, 0)]);
    trio.check(up_to(900, 2), "0!2");
}

#[test]
fn the_primary_serves_such_reads_where_it_serves_reads_and_where_nobody_else_can() {
    let mut trio = Trio::new(IncludePrimary);
    trio.check(up_to(901, 2), "0!2,1?901,2");
    trio.check(Written::Nothing, "0,1,2");
    let mut trio = Trio::new(PreferPrimary);
    trio.check(up_to(901, 2), "0!2");
    let mut trio = Trio::new(ExcludePrimary);
    trio.0.balance.bar(1);
    trio.0.balance.bar(2);
    trio.check(up_to(900, 2), "0!2");
    // While nobody is known to be the primary, such a read waits as a write does; one that a replica has proved goes on.
    let mut trio = Trio::new(ExcludePrimary);
    let now = trio.0.now + SECOND;
    trio.0.balance.unreached(0, now);
    trio.check(Written::Somewhere, "wait");
    trio.check(up_to(1_000, 2), "1?1000,2");
}

#[test]
fn a_replica_that_was_waited_for_in_vain_is_left_alone_for_a_while() {
    let mut trio = Trio::new(ExcludePrimary);
    let now = trio.0.now;
    trio.0.balance.stalled(1, now, SECOND / 50);
    trio.check(up_to(901, 2), "2");
    trio.check(up_to(900, 2), "1,2");
    trio.check(Written::Nothing, "1,2");
    trio.0.balance.stalled(2, now, SECOND / 5);
    trio.check(up_to(2_000, 2), "0!2");
    trio.0.now += SECOND;
    trio.check(up_to(2_000, 2), "1?2000");
    trio.0.now += SECOND;
    trio.check(up_to(2_000, 2), "1?2000,2?2000");
}
