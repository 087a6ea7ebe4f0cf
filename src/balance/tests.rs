//! Which server a request goes to, in one situation after the other.

mod written;

use super::*;
use ReadWriteSplit::{
    ExcludePrimary, IncludePrimary, IncludePrimaryIfReplicaBanned, PreferPrimary,
};

#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as the beginning of a test's clock"
)]
pub(super) fn start() -> Instant {
    Instant::now()
}

/// Random numbers: xorshift, from any seed.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        let mut x = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15) | 1;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0 = x;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(300);

struct Bench {
    balance: Balance,
    now: Instant,
    numbers: Numbers,
}

/// `p`, `r`, `a`: a primary, a replica, one whose role is found out. Capitals have weight 0, `x` is for resharding.
fn members(servers: &str) -> Vec<Member> {
    let member = |letter: char| Member {
        role: match letter.to_ascii_lowercase() {
            'p' => Role::Primary,
            'r' | 'x' => Role::Replica,
            'a' => Role::Auto,
            other => panic!("no such server: {other}"),
        },
        weight: if letter.is_ascii_uppercase() { 0 } else { 255 },
        resharding_only: letter == 'x',
    };
    servers.chars().map(member).collect()
}

fn policy(split: ReadWriteSplit) -> Policy {
    Policy {
        split,
        strategy: LoadBalancingStrategy::Random,
        ban_timeout: TIMEOUT,
        lag: LagLimits::default(),
        role_checks: None,
    }
}

impl Bench {
    fn new(servers: &str, split: ReadWriteSplit) -> Self {
        Self::under(servers, policy(split))
    }

    fn under(servers: &str, policy: Policy) -> Self {
        Self {
            balance: Balance::new(members(servers), policy, 0, 1),
            now: start(),
            numbers: Numbers(4),
        }
    }

    fn fail(&mut self, server: usize) -> bool {
        let event = Event::Failed(BanReason::Connect);
        let news = !self.balance.is_old_news(server, event, self.now);
        self.balance.happened(server, event, self.now, 0);
        news
    }

    /// All servers that a request may go to next, or why it goes nowhere: `0,2`, `wait`, `NoPrimary`.
    fn all(&mut self, want: Want, tried: &[usize]) -> String {
        let mut found = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let random = self.numbers.next();
            match self.balance.pick(
                want,
                Written::Nothing,
                |server| tried.contains(&server),
                |_| 0,
                self.now,
                random,
            ) {
                Pick::Server { server, .. } => found.insert(server.to_string()),
                Pick::Wait => return "wait".to_owned(),
                Pick::Refused(refusal) => return format!("{refusal:?}"),
            };
        }
        Vec::from_iter(found).join(",")
    }

    /// The same servers under another policy.
    fn reconfigure(&mut self, policy: Policy) {
        let members: Vec<_> = self.balance.members().collect();
        let places: Vec<_> = (0..members.len()).map(Some).collect();
        self.balance = self.balance.reconfigured(members, policy, &places);
    }

    fn check(&mut self, want: Want, expected: &str) {
        assert_eq!(self.all(want, &[]), expected, "{want:?}");
    }

    fn primary(&mut self, server: usize, timeline: u32, lsn: u64) -> Option<News> {
        let standing = Standing::Primary {
            epoch: Epoch {
                system: 1,
                timeline,
            },
            lsn: Lsn(lsn),
        };
        self.balance.observe(
            server,
            Observation {
                at: self.now,
                standing,
            },
        )
    }

    fn standby(&mut self, server: usize, lsn: u64, age: Duration) -> Option<News> {
        let standing = Standing::Standby {
            system: 1,
            lsn: Lsn(lsn),
            timeline: 1,
            age: Some(age),
        };
        self.balance.observe(
            server,
            Observation {
                at: self.now,
                standing,
            },
        )
    }
}

#[test]
fn who_serves_what() {
    let (w, r, h) = (Want::Write, Want::Read, Want::Replica);
    for (servers, split, want, expected) in [
        ("prr", IncludePrimary, w, "0"),
        ("prr", IncludePrimary, r, "0,1,2"),
        ("prr", IncludePrimary, h, "1,2"),
        ("prr", ExcludePrimary, r, "1,2"),
        ("prr", IncludePrimaryIfReplicaBanned, r, "1,2"),
        ("prr", PreferPrimary, r, "0"),
        ("prr", PreferPrimary, h, "1,2"),
        ("p", IncludePrimary, r, "0"),
        ("p", IncludePrimary, h, "0"),
        ("p", IncludePrimaryIfReplicaBanned, r, "0"),
        ("p", PreferPrimary, h, "0"),
        ("p", ExcludePrimary, r, "NoReplica"),
        ("p", ExcludePrimary, w, "0"),
        ("rr", IncludePrimary, r, "0,1"),
        ("rr", IncludePrimary, w, "NoPrimary"),
        ("rr", PreferPrimary, r, "NoneAvailable"),
        ("", IncludePrimary, r, "NoServers"),
        ("", IncludePrimary, w, "NoServers"),
        // Spare servers only when nothing else is left.
        ("PRr", IncludePrimary, r, "2"),
        ("pRR", ExcludePrimary, r, "1,2"),
        ("prx", IncludePrimary, r, "0,1"),
        ("px", ExcludePrimary, r, "NoReplica"),
    ] {
        let got = Bench::new(servers, split).all(want, &[]);
        assert_eq!(got, expected, "{servers} {split:?} {want:?}");
    }
}

#[test]
fn a_banned_replica_gets_no_reads_and_the_primary_keeps_its_writes() {
    let mut bench = Bench::new("prr", IncludePrimary);
    assert!(bench.fail(1), "banned by that");
    assert!(!bench.fail(1), "only once");
    bench.check(Want::Read, "0,2");
    assert!(bench.fail(0));
    bench.check(Want::Read, "2");
    bench.check(Want::Write, "0");
    bench.now += TIMEOUT;
    bench.check(Want::Read, "0,1,2");
}

#[test]
fn bans_by_failures_never_leave_nobody() {
    for (servers, split, expected) in [
        ("prr", IncludePrimary, "0,1,2"),
        ("prr", ExcludePrimary, "1,2"),
        ("prr", IncludePrimaryIfReplicaBanned, "0,1,2"),
        ("prR", ExcludePrimary, "1"),
        ("p", IncludePrimary, "0"),
        ("prr", PreferPrimary, "0"),
    ] {
        let mut bench = Bench::new(servers, split);
        (0..servers.len()).for_each(|server| assert!(bench.fail(server)));
        assert_eq!(bench.all(Want::Read, &[]), expected, "{servers} {split:?}");
    }
}

#[test]
fn a_request_does_not_try_the_same_server_twice() {
    let mut bench = Bench::new("prr", ExcludePrimary);
    assert_eq!(bench.all(Want::Read, &[1]), "2");
    assert_eq!(bench.all(Want::Read, &[1, 2]), "NoneAvailable");
    assert_eq!(bench.all(Want::Write, &[0]), "0", "there is no other");
    let mut bench = Bench::new("prR", IncludePrimary);
    assert_eq!(bench.all(Want::Read, &[0, 1]), "2");
    assert_eq!(bench.all(Want::Replica, &[1, 2]), "0");
}

#[test]
fn the_primary_helps_out_when_a_replica_is_banned() {
    let mut bench = Bench::new("prr", IncludePrimaryIfReplicaBanned);
    bench.fail(2);
    bench.check(Want::Read, "0,1");
    bench.fail(1);
    bench.check(Want::Read, "0");
    assert_eq!(bench.all(Want::Read, &[0]), "1,2");
    bench.now += TIMEOUT;
    bench.check(Want::Read, "1,2");
}

#[test]
fn what_the_administrator_bans_stays_banned() {
    let mut bench = Bench::new("prr", IncludePrimary);
    bench.balance.bar(1);
    bench.now += TIMEOUT * 100;
    bench.check(Want::Read, "0,2");
    bench.fail(0);
    bench.fail(2);
    bench.check(Want::Read, "0,2");
    bench.balance.bar(0);
    bench.balance.bar(2);
    bench.check(Want::Read, "NoneAvailable");
    bench.check(Want::Write, "0");
    let ban = bench.balance.ban(0, bench.now).unwrap();
    assert_eq!((ban.reason, ban.until), (BanReason::Administrator, None));
    (0..3).for_each(|server| bench.balance.unbar(server, bench.now));
    bench.check(Want::Read, "0,1,2");
    let mut bench = Bench::new("pr", ExcludePrimary);
    bench.balance.bar(1);
    bench.check(Want::Read, "Banned(Administrator)");
}

#[test]
fn a_suspect_waits_behind_the_others_until_it_is_checked() {
    let mut bench = Bench::new("prr", ExcludePrimary);
    bench.balance.happened(1, Event::Lost, bench.now, 0);
    bench.check(Want::Read, "2");
    assert_eq!(bench.balance.ban(1, bench.now), None);
    bench.balance.happened(1, Event::Passed, bench.now, 0);
    bench.check(Want::Read, "1,2");
    bench.balance.happened(1, Event::Lost, bench.now, 0);
    bench.balance.happened(2, Event::Lost, bench.now, 0);
    bench.check(Want::Read, "1,2");
}

#[test]
fn a_replica_too_far_behind_is_not_read_not_even_when_it_is_the_last() {
    let limits = LagLimits {
        time: Some(SECOND),
        bytes: Some(1_000),
    };
    let checked = |split| Policy {
        lag: limits,
        role_checks: Some(SECOND * 5),
        ..policy(split)
    };
    for (split, expected) in [(IncludePrimary, "0"), (ExcludePrimary, "NoneAvailable")] {
        let mut bench = Bench::under("prr", checked(split));
        bench.primary(0, 1, 5_000);
        bench.now += SECOND;
        bench.standby(1, 4_500, SECOND / 2);
        bench.standby(2, 3_999, SECOND / 2);
        assert_eq!(bench.all(Want::Replica, &[]), "1", "{split:?}");
        let ban = bench.balance.ban(2, bench.now).unwrap();
        assert_eq!((ban.reason, ban.until), (BanReason::Lag, None));
        bench.now += SECOND * 2;
        bench.standby(1, 4_500, SECOND * 2);
        bench.check(Want::Read, expected);
        // It catches up.
        bench.now += SECOND;
        bench.standby(2, 5_000, SECOND * 9);
        assert_eq!(bench.all(Want::Replica, &[]), "2");
        assert_eq!(bench.balance.lag(2), Some(Lag::default()));
        // Without limits it is back, too.
        bench.reconfigure(policy(split));
        assert_eq!(bench.all(Want::Replica, &[]), "1,2");
    }
    let mut bench = Bench::under(
        "pr",
        Policy {
            ban_timeout: Duration::ZERO,
            ..checked(ExcludePrimary)
        },
    );
    bench.primary(0, 1, 5_000);
    bench.now += SECOND;
    bench.standby(1, 0, TIMEOUT);
    bench.check(Want::Read, "1");
    let mut bench = Bench::under("pr", checked(ExcludePrimary));
    bench.primary(0, 1, 5_000);
    bench.now += SECOND;
    bench.standby(1, 0, TIMEOUT);
    bench.check(Want::Read, "Banned(Lag)");
    // Without checks nobody would see it catch up.
    bench.reconfigure(Policy {
        role_checks: None,
        ..checked(ExcludePrimary)
    });
    bench.check(Want::Read, "1");
}

#[test]
fn writes_wait_while_roles_are_not_known_or_change() {
    let checked = |split| Policy {
        role_checks: Some(SECOND * 5),
        ..policy(split)
    };
    for (split, before, after) in [
        (IncludePrimary, "0,1,2", "1,2"),
        (ExcludePrimary, "wait", "2"),
        (PreferPrimary, "wait", "1"),
    ] {
        let mut bench = Bench::under("aaa", checked(split));
        bench.check(Want::Write, "wait");
        bench.check(Want::Read, before);
        bench.primary(0, 1, 1);
        bench.standby(1, 1, SECOND);
        bench.standby(2, 1, SECOND);
        bench.check(Want::Write, "0");
        // It dies. Who reads from the primary only waits as well.
        bench.now += SECOND;
        bench.balance.unreached(0, bench.now);
        bench.fail(0);
        bench.check(Want::Write, "wait");
        if split == PreferPrimary {
            assert_eq!(bench.all(Want::Read, &[0]), "wait");
        }
        bench.now += SECOND;
        let news = bench.primary(1, 2, 1);
        assert!(matches!(news, Some(News::Crowned { server: 1, .. })));
        bench.check(Want::Write, "1");
        bench.check(Want::Read, after);
        // The ex-primary is back and does not know: edge case 65.
        bench.now += TIMEOUT;
        bench.primary(1, 2, 1);
        bench.primary(0, 1, 9);
        bench.check(Want::Write, "1");
        bench.check(Want::Read, after);
        // As a replica.
        bench.now += SECOND;
        bench.standby(0, 9, SECOND);
        bench.check(Want::Write, "1");
        if split != PreferPrimary {
            assert!(bench.all(Want::Read, &[]).starts_with('0'));
        }
        // Edge case 66: what was learnt outlives a reload.
        bench.reconfigure(checked(split));
        bench.check(Want::Write, "1");
    }
}

#[test]
fn refusals_are_those_of_the_contract() {
    for (refusal, code, message, by_recovery) in [
        (Refusal::NoServers, "57P03", "shard 3 has no servers", false),
        (
            Refusal::NoPrimary,
            "25006",
            "no primary configured for database \"d\"",
            false,
        ),
        (
            Refusal::NoReplica,
            "0A000",
            "no replica configured and read_write_split excludes the primary",
            false,
        ),
        (
            Refusal::NoneAvailable,
            "57P03",
            "no replica available for database \"d\"",
            true,
        ),
        (
            Refusal::Banned(BanReason::Administrator),
            "57P03",
            "server is banned: administrator",
            true,
        ),
    ] {
        let error = refusal.error("d", 3);
        assert_eq!((error.code.as_str(), &*error.message), (code, message));
        assert_eq!(refusal.by_recovery(), by_recovery);
    }
}

#[test]
fn a_reload_keeps_what_is_known_of_servers_that_stay() {
    let checked = Policy {
        role_checks: Some(SECOND * 5),
        ..policy(IncludePrimary)
    };
    let mut bench = Bench::under("aaa", checked);
    bench.primary(1, 3, 10);
    bench.standby(0, 10, SECOND);
    bench.standby(2, 10, SECOND);
    bench.balance.bar(2);
    bench.fail(0);
    // One is new, one is gone, the order is another.
    bench.balance = bench
        .balance
        .reconfigured(members("aaa"), checked, &[Some(2), None, Some(1)]);
    bench.check(Want::Write, "wait");
    bench.balance.unreached(1, bench.now);
    bench.check(Want::Write, "2");
    bench.check(Want::Read, "1,2");
    let ban = bench.balance.ban(0, bench.now).unwrap();
    assert_eq!(ban.reason, BanReason::Administrator);
    // The primary is taken out: who comes next needs no newer timeline.
    bench.balance = bench
        .balance
        .reconfigured(members("aa"), checked, &[Some(0), Some(1)]);
    bench.check(Want::Write, "wait");
    bench.now += SECOND;
    bench.primary(1, 1, 1);
    bench.check(Want::Write, "1");
}
