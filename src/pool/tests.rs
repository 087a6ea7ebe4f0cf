//! One core's slice, event by event. Several cores: `tests/sim`.

use super::limits::SWEEP_INTERVAL;
use super::*;
use crate::error::Fault;
use crate::protocol::sqlstate::SqlState;

const MS: Duration = Duration::from_millis(1);

#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as the beginning of a test's clock"
)]
pub(super) fn start() -> Instant {
    Instant::now()
}

/// A pool on the only core, its clock and what it last asked for.
struct Bench {
    pool: Pool<u32>,
    now: Instant,
    out: Vec<Action<u32>>,
    opened: u32,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let place = Place {
            core: 0,
            cores: 1,
            offset: 0,
        };
        let now = start();
        Self {
            pool: Pool::new(place, limits, 1, now),
            now,
            out: Vec::new(),
            opened: 0,
        }
    }

    fn of_size(pool_size: usize) -> Self {
        Self::new(Limits {
            pool_size,
            min_pool_size: 0,
            ..Limits::default()
        })
    }

    fn checkout(&mut self, client: u64) -> Checkout<u32> {
        self.pool
            .checkout(ClientId(client), self.now, &mut self.out)
    }

    fn ready(&mut self, client: u64) -> Lease<u32> {
        match self.checkout(client) {
            Checkout::Ready(lease) => lease,
            other => panic!("not ready: {other:?}"),
        }
    }

    fn wait(&mut self, client: u64) -> Ticket {
        match self.checkout(client) {
            Checkout::Wait(ticket) => ticket,
            other => panic!("does not wait: {other:?}"),
        }
    }

    fn checkin(&mut self, lease: Lease<u32>) {
        self.pool.checkin(lease, self.now, &mut self.out);
    }

    fn discard(&mut self, lease: Lease<u32>) {
        let (_, lease) = lease.take();
        self.pool.discard(&lease, self.now, &mut self.out);
    }

    /// What waiting clients got since the last call; nothing else must have happened.
    fn served(&mut self) -> Vec<Lease<u32>> {
        let served = self.out.drain(..).map(|action| match action {
            Action::Serve { lease, .. } => lease,
            other => panic!("{other:?}"),
        });
        served.collect()
    }

    fn connected(&mut self) {
        self.opened += 1;
        let generation = self.pool.generation;
        self.pool
            .connected(self.opened, generation, self.now, &mut self.out);
    }

    fn failed(&mut self, failure: ConnectFailure) {
        self.pool.connect_failed(failure, self.now, &mut self.out);
    }

    fn tick(&mut self) {
        self.pool.tick(self.now, &mut self.out);
    }

    fn after(&mut self, time: Duration) {
        self.now += time;
        self.tick();
    }

    fn resize(&mut self, limits: Limits) {
        self.pool.resize(limits, self.now, &mut self.out);
    }

    /// The actions since the last call, in short: `connect`, `serve 3 #1`, `fail 3 timeout`, `close #1 idle`.
    fn done(&mut self) -> Vec<String> {
        let short = |action: Action<u32>| match action {
            Action::Connect { .. } => "connect".to_owned(),
            Action::Serve { client, lease, .. } => format!("serve {} #{}", client.0, *lease),
            Action::Fail { client, why, .. } => match why {
                WaitError::Timeout { waited } => {
                    format!("fail {} after {} ms", client.0, waited.as_millis())
                }
                WaitError::Connect(error) => format!("fail {} {}", client.0, error.message),
                WaitError::Closed => format!("fail {} closed", client.0),
            },
            Action::Close { server, reason } => format!("close #{server} {reason:?}"),
            Action::Mail { .. } => "mail".to_owned(),
        };
        self.out.drain(..).map(short).collect()
    }

    /// Connections that came to rest by themselves, opened one after the other.
    fn open(&mut self, count: u64) {
        for client in 0..count {
            self.wait(client);
        }
        let leases: Vec<_> = (0..count)
            .flat_map(|_| {
                self.connected();
                self.out.drain(..).collect::<Vec<_>>()
            })
            .filter_map(|action| match action {
                Action::Serve { lease, .. } => Some(lease),
                _ => None,
            })
            .collect();
        assert_eq!(leases.len() as u64, count);
        for lease in leases {
            self.checkin(lease);
        }
        self.out.clear();
    }
}

fn unreachable() -> ConnectFailure {
    ConnectFailure::Unreachable(error("cannot connect"))
}

fn error(message: &'static str) -> Error {
    Error::error(Fault::Server, SqlState::PROTOCOL_VIOLATION, message)
}

#[test]
fn a_cold_pool_opens_what_its_clients_need_and_no_more() {
    let mut bench = Bench::of_size(3);
    for client in 0..5 {
        bench.wait(client);
    }
    assert_eq!(bench.done(), ["connect", "connect", "connect"]);
    bench.connected();
    assert_eq!(bench.done(), ["serve 0 #1"]);
    let stats = bench.pool.stats(bench.now);
    let counts = (stats.connecting, stats.active, stats.waiting, stats.permits);
    assert_eq!(counts, (2, 1, 4, 3));
}

#[test]
fn connections_are_opened_a_few_at_a_time() {
    let mut bench = Bench::of_size(100);
    for client in 0..64 {
        bench.wait(client);
    }
    let first = bench.done().len();
    assert!(first < 64, "{first} at once");
    for _ in 0..64 {
        bench.connected();
    }
    let served = bench
        .done()
        .iter()
        .filter(|a| a.starts_with("serve"))
        .count();
    assert_eq!(served, 64);
    let stats = bench.pool.stats(bench.now);
    assert_eq!((stats.active, stats.connecting, stats.waiting), (64, 0, 0));
}

#[test]
fn the_most_recently_used_connection_is_next() {
    let mut bench = Bench::of_size(3);
    bench.open(3);
    let lease = bench.ready(1);
    assert_eq!(*lease, 3);
    let other = bench.ready(2);
    assert_eq!(*other, 2);
    bench.checkin(lease);
    bench.checkin(other);
    assert_eq!(*bench.ready(3), 2);
    assert_eq!(bench.done(), [""; 0]);
}

#[test]
fn waiters_are_served_in_order_and_may_leave() {
    let mut bench = Bench::of_size(1);
    bench.open(1);
    let lease = bench.ready(0);
    let tickets: Vec<_> = (1..5).map(|client| bench.wait(client)).collect();
    assert!(bench.pool.cancel(tickets[1], bench.now, &mut bench.out));
    assert!(!bench.pool.cancel(tickets[1], bench.now, &mut bench.out));
    bench.checkin(lease);
    let mut served = bench.served();
    assert_eq!(served.len(), 1);
    assert!(!bench.pool.cancel(tickets[0], bench.now, &mut bench.out));
    bench.discard(served.pop().expect("client 1 has it"));
    assert_eq!(bench.done(), ["connect"]);
    bench.connected();
    assert_eq!(bench.done(), ["serve 3 #2"]);
}

#[test]
fn a_client_waits_for_checkout_timeout_and_no_longer() {
    let mut bench = Bench::of_size(1);
    bench.open(1);
    let lease = bench.ready(0);
    bench.wait(1);
    bench.now += 10 * MS;
    bench.wait(2);
    bench.after(4_989 * MS);
    assert_eq!(bench.done(), [""; 0]);
    bench.after(MS);
    assert_eq!(bench.done(), ["fail 1 after 5000 ms"]);
    // A reload applies to those who wait already.
    let shorter = Limits {
        checkout_timeout: 100 * MS,
        ..bench.pool.limits().clone()
    };
    bench.resize(shorter);
    bench.tick();
    assert_eq!(bench.done(), ["fail 2 after 4990 ms"]);
    bench.checkin(lease);
    assert_eq!(bench.pool.stats(bench.now).idle, 1);
}

#[test]
fn what_a_client_has_waited_elsewhere_counts() {
    let mut bench = Bench::of_size(1);
    bench.open(1);
    let _lease = bench.ready(0);
    let begun = bench.now;
    bench.after(3_000 * MS);
    bench.wait(1);
    let (pool, now, out) = (&mut bench.pool, bench.now, &mut bench.out);
    let checkout = pool.checkout_since(ClientId(2), begun, now, out);
    assert!(matches!(checkout, Checkout::Wait(_)));
    bench.after(1_999 * MS);
    assert_eq!(bench.done(), [""; 0]);
    bench.after(MS);
    assert_eq!(bench.done(), ["fail 2 after 5000 ms"]);
    bench.after(3_000 * MS);
    assert_eq!(bench.done(), ["fail 1 after 5000 ms"]);
}

#[test]
fn an_unreachable_server_is_tried_a_few_times_then_left_in_peace() {
    let mut bench = Bench::new(Limits {
        pool_size: 1,
        connect_attempts: 3,
        connect_attempt_delay: 50 * MS,
        ..Limits::default()
    });
    bench.wait(1);
    assert_eq!(bench.done(), ["connect"]);
    bench.failed(unreachable());
    assert_eq!(bench.done(), [""; 0]);
    bench.after(49 * MS);
    assert_eq!(bench.done(), [""; 0]);
    bench.after(MS);
    assert_eq!(bench.done(), ["connect"]);
    bench.failed(unreachable());
    bench.after(50 * MS);
    assert_eq!(bench.done(), ["connect"]);
    bench.failed(unreachable());
    assert_eq!(bench.done(), ["fail 1 cannot connect"]);
    // In an outage of ten seconds with a client at all times, attempts are few.
    let mut attempts = 0;
    for client in 0..1_000 {
        bench.wait(client);
        bench.after(10 * MS);
        for action in bench.done() {
            if action == "connect" {
                attempts += 1;
                bench.failed(unreachable());
            }
        }
    }
    assert!((10..100).contains(&attempts), "{attempts} attempts");
}

#[test]
fn failures_tell_waiters_or_keep_them() {
    // (failure, another connection is live, what the waiting client hears)
    let fatal = || ConnectFailure::Fatal(error("no such database"));
    type Case = (fn() -> ConnectFailure, bool, &'static [&'static str]);
    let cases: [Case; 6] = [
        (|| ConnectFailure::Retryable, false, &[]),
        (|| ConnectFailure::Retryable, true, &[]),
        (fatal, false, &["fail 7 no such database"]),
        (fatal, true, &["fail 7 no such database"]),
        (unreachable, false, &["fail 7 cannot connect"]),
        (unreachable, true, &[]),
    ];
    for (failure, live, expected) in cases {
        let mut bench = Bench::of_size(2);
        if live {
            bench.open(1);
            let _busy = bench.ready(0);
        }
        bench.wait(7);
        assert_eq!(bench.done(), ["connect"]);
        bench.failed(failure());
        assert_eq!(bench.done(), expected, "{:?}, live: {live}", failure());
        assert_eq!(bench.pool.stats(bench.now).permits, 2);
        // Who stays is served when the server lets us in again.
        bench.after(20 * MS);
        if expected.is_empty() {
            assert_eq!(bench.done(), ["connect"]);
            bench.connected();
            assert_eq!(bench.done().len(), 1);
        }
    }
}

#[test]
fn surplus_connections_age_out_down_to_the_minimum() {
    let mut bench = Bench::new(Limits {
        pool_size: 4,
        min_pool_size: 2,
        idle_timeout: 1_000 * MS,
        ..Limits::default()
    });
    bench.open(4);
    bench.after(600 * MS);
    let lease = bench.ready(0);
    bench.checkin(lease);
    bench.after(600 * MS);
    assert_eq!(bench.done(), ["close #1 Idle", "close #2 Idle"]);
    // A permit is used again only after its socket is closed.
    let stats = bench.pool.stats(bench.now);
    assert_eq!((stats.closing, stats.free, stats.permits), (2, 0, 4));
    bench.pool.closed(bench.now, &mut bench.out);
    assert_eq!(bench.pool.stats(bench.now).free, 1);
    bench.after(10_000 * MS);
    assert_eq!(bench.done(), [""; 0]);
}

#[test]
fn the_minimum_is_opened_in_the_background() {
    let mut bench = Bench::new(Limits {
        pool_size: 4,
        min_pool_size: 2,
        ..Limits::default()
    });
    bench.tick();
    assert_eq!(bench.done(), ["connect", "connect"]);
    bench.connected();
    bench.failed(ConnectFailure::Retryable);
    bench.tick();
    assert_eq!(bench.done(), [""; 0]);
    bench.after(20 * MS);
    assert_eq!(bench.done(), ["connect"]);
    bench.connected();
    bench.after(60_000 * MS);
    assert_eq!(bench.done(), [""; 0]);
    // One that the server closed is replaced.
    let lease = bench.pool.take_idle(|server| *server == 1);
    bench.discard(lease.expect("it is idle"));
    assert_eq!(bench.done(), ["connect"]);
}

#[test]
fn old_connections_retire_and_not_all_at_once() {
    let mut bench = Bench::new(Limits {
        pool_size: 50,
        min_pool_size: 0,
        server_lifetime: 10_000 * MS,
        server_lifetime_jitter: 2_000 * MS,
        idle_timeout: Duration::MAX,
        ..Limits::default()
    });
    bench.open(50);
    bench.after(7_999 * MS);
    assert_eq!(bench.done(), [""; 0]);
    let mut per_second = Vec::new();
    for _ in 0..4 {
        bench.after(1_001 * MS);
        per_second.push(bench.done().len());
    }
    assert_eq!(per_second.iter().sum::<usize>(), 50, "{per_second:?}");
    assert!(
        per_second.iter().all(|closed| *closed < 25),
        "{per_second:?}"
    );

    let mut bench = Bench::new(Limits {
        server_lifetime: 10_000 * MS,
        ..bench.pool.limits().clone()
    });
    bench.open(1);
    let lease = bench.ready(0);
    bench.after(12_000 * MS);
    bench.checkin(lease);
    assert_eq!(
        bench.done(),
        ["close #1 Lifetime"],
        "checked at check-in, too"
    );
}

#[test]
fn a_smaller_pool_gives_up_connections_as_they_come_back() {
    let mut bench = Bench::of_size(4);
    bench.open(4);
    let busy: Vec<_> = (0..3).map(|client| bench.ready(client)).collect();
    bench.resize(Limits {
        pool_size: 2,
        ..bench.pool.limits().clone()
    });
    assert_eq!(bench.done(), ["close #1 Shrunk"]);
    bench.pool.closed(bench.now, &mut bench.out);
    let stats = bench.pool.stats(bench.now);
    assert_eq!((stats.permits, stats.debt), (3, 1));
    let mut busy = busy.into_iter();
    bench.checkin(busy.next().expect("three"));
    assert_eq!(bench.done(), ["close #4 Shrunk"]);
    bench.wait(9);
    busy.for_each(|lease| bench.checkin(lease));
    assert_eq!(bench.done(), ["serve 9 #3"]);
    bench.pool.closed(bench.now, &mut bench.out);
    let stats = bench.pool.stats(bench.now);
    assert_eq!((stats.permits, stats.debt, stats.idle), (2, 0, 1));
    bench.resize(Limits {
        pool_size: 5,
        ..bench.pool.limits().clone()
    });
    assert_eq!(bench.pool.stats(bench.now).free, 3);
}

#[test]
fn reconnect_counts_those_that_have_not_come_back() {
    let mut bench = Bench::of_size(3);
    bench.open(3);
    let outdated = |bench: &Bench| bench.pool.stats(bench.now).outdated;
    let (first, second) = (bench.ready(1), bench.ready(2));
    bench.pool.reconnect(bench.now, &mut bench.out);
    assert_eq!(bench.done(), ["close #1 Reconnect"]);
    assert_eq!(outdated(&bench), 2);
    bench.pool.reconnect(bench.now, &mut bench.out);
    assert_eq!(outdated(&bench), 2);
    let mut both = bench.pool.stats(bench.now);
    both.add(&bench.pool.stats(bench.now));
    assert_eq!(both.outdated, 4);
    bench.checkin(first);
    assert_eq!(outdated(&bench), 1);
    bench.discard(second);
    assert_eq!(outdated(&bench), 0);
    // A core that hears of RECONNECT later than the one that opened the connection.
    bench.done();
    bench.pool.closed(bench.now, &mut bench.out);
    bench.wait(4);
    bench.pool.connected(9, 3, bench.now, &mut bench.out);
    let ahead = bench.out.drain(..).find_map(|action| match action {
        Action::Serve { lease, .. } => Some(lease),
        _ => None,
    });
    assert_eq!(outdated(&bench), 0);
    bench.pool.reconnect(bench.now, &mut bench.out);
    assert_eq!(outdated(&bench), 0);
    bench.checkin(ahead.expect("served"));
    assert_eq!(bench.pool.stats(bench.now).idle, 1);
}

#[test]
fn a_paused_pool_closes_everything_and_time_stands_still() {
    let mut bench = Bench::of_size(2);
    bench.open(2);
    let lease = bench.ready(0);
    bench.pool.pause(bench.now, &mut bench.out);
    assert_eq!(bench.done(), ["close #1 Paused"]);
    bench.pool.closed(bench.now, &mut bench.out);
    bench.wait(1);
    bench.checkin(lease);
    assert_eq!(bench.done(), ["close #2 Paused"]);
    bench.pool.closed(bench.now, &mut bench.out);
    bench.after(60_000 * MS);
    assert_eq!(bench.done(), [""; 0]);
    assert!(bench.pool.stats(bench.now).paused);
    bench.pool.resume(bench.now, &mut bench.out);
    assert_eq!(bench.done(), ["connect"]);
    bench.after(4_999 * MS);
    assert_eq!(bench.done(), [""; 0]);
    bench.after(MS);
    assert_eq!(bench.done(), ["fail 1 after 65000 ms"]);
}

#[test]
fn reconnect_replaces_every_connection() {
    let mut bench = Bench::of_size(3);
    bench.open(2);
    let lease = bench.ready(0);
    let _other = bench.ready(1);
    bench.wait(2);
    let begun_before = bench.pool.generation;
    bench.done();
    bench.pool.reconnect(bench.now, &mut bench.out);
    bench.checkin(lease);
    assert_eq!(bench.done(), ["close #2 Reconnect"]);
    bench
        .pool
        .connected(9, begun_before, bench.now, &mut bench.out);
    assert_eq!(bench.done(), ["close #9 Reconnect"]);
    bench.pool.closed(bench.now, &mut bench.out);
    bench.connected();
    assert_eq!(bench.done(), ["connect", "serve 2 #3"]);
}

#[test]
fn what_a_full_server_has_to_spare_is_tried_for_once() {
    let mut bench = Bench::of_size(2);
    bench.wait(0);
    bench.wait(1);
    assert_eq!(bench.done(), ["connect", "connect"]);
    bench.failed(ConnectFailure::Full(Crowd::Server));
    bench.failed(ConnectFailure::Full(Crowd::Server));
    // They go on waiting, and nothing is tried for a while.
    assert_eq!((bench.done(), bench.pool.lacking()), (vec![], 2));
    bench.pool.try_one(&mut bench.out);
    assert_eq!(
        (bench.done(), bench.pool.lacking()),
        (vec!["connect".to_owned()], 1)
    );
    bench.connected();
    assert_eq!(bench.done(), ["serve 0 #1", "connect"]);
    // Nobody is left to try for.
    bench.pool.try_one(&mut bench.out);
    assert_eq!((bench.done(), bench.pool.lacking()), (vec![], 0));
}

#[test]
fn what_the_minimum_does_not_keep_is_given_up_for_others() {
    let mut bench = Bench::new(Limits {
        pool_size: 3,
        min_pool_size: 1,
        ..Limits::default()
    });
    bench.open(3);
    let spares: Vec<_> = bench.pool.spares().collect();
    assert_eq!(spares.len(), 2);
    for number in [1, 2] {
        let lease = bench.pool.take_spare().expect("one above the minimum");
        assert_eq!(*lease, number, "the one that was not used for longest");
        bench.discard(lease);
    }
    assert!(bench.pool.take_spare().is_none());
    assert_eq!(bench.done(), [""; 0]);
}

#[test]
fn a_drained_pool_lets_nobody_in_and_ends() {
    let mut bench = Bench::of_size(1);
    bench.open(1);
    let lease = bench.ready(0);
    bench.wait(1);
    bench.pool.drain(bench.now, &mut bench.out);
    assert_eq!(bench.done(), ["fail 1 closed"]);
    assert!(matches!(bench.checkout(2), Checkout::Closed));
    assert!(!bench.pool.is_drained());
    bench.checkin(lease);
    assert_eq!(bench.done(), ["close #1 Drained"]);
    bench.pool.closed(bench.now, &mut bench.out);
    assert!(bench.pool.is_drained());
    bench.after(60_000 * MS);
    assert_eq!(bench.done(), [""; 0]);
}

#[test]
fn a_drained_pool_that_comes_back_counts_what_is_still_there() {
    let mut bench = Bench::of_size(2);
    bench.open(2);
    let lease = bench.ready(0);
    bench.pool.drain(bench.now, &mut bench.out);
    assert_eq!(bench.done(), ["close #1 Drained"]);
    assert_eq!(bench.pool.leftover(), None);
    bench.pool.revive(bench.now, &mut bench.out);
    // One is still in use, the other is not closed yet.
    bench.wait(1);
    bench.wait(2);
    assert_eq!(bench.done(), [""; 0]);
    bench.pool.closed(bench.now, &mut bench.out);
    assert_eq!(bench.done(), ["connect"]);
    bench.checkin(lease);
    assert_eq!(bench.done(), ["serve 1 #2"]);
    // Smaller when it comes back than when it went.
    let mut bench = Bench::of_size(2);
    bench.open(2);
    let leases = [bench.ready(0), bench.ready(1)];
    bench.pool.drain(bench.now, &mut bench.out);
    bench.pool.revive(bench.now, &mut bench.out);
    let smaller = Limits {
        pool_size: 1,
        ..bench.pool.limits().clone()
    };
    bench.pool.resize(smaller, bench.now, &mut bench.out);
    bench.wait(2);
    for lease in leases {
        bench.checkin(lease);
    }
    assert_eq!(bench.done(), ["close #2 Shrunk", "serve 2 #1"]);
}

#[test]
fn the_next_deadline_is_when_something_is_due() {
    let mut bench = Bench::of_size(1);
    assert_eq!(bench.pool.next_deadline(), None);
    bench.open(1);
    let lease = bench.ready(0);
    assert_eq!(bench.pool.next_deadline(), None);
    bench.wait(1);
    for _ in 0..1_000 {
        let Some(then) = bench.pool.next_deadline() else {
            break;
        };
        bench.now = bench.now.max(then);
        bench.tick();
        if !bench.out.is_empty() {
            break;
        }
    }
    assert_eq!(bench.done(), ["fail 1 after 5000 ms"]);
    bench.checkin(lease);
    // Not before it is unused for too long.
    let then = bench.pool.next_deadline().expect("it will be closed");
    assert_eq!(then, bench.now + bench.pool.limits.idle_timeout);
    bench.now = then - Duration::from_millis(1);
    bench.tick();
    assert_eq!(bench.done(), [""; 0]);
    bench.now = bench.pool.next_deadline().expect("it will be closed");
    assert!(bench.now < then + SWEEP_INTERVAL);
    bench.tick();
    assert_eq!(bench.done(), ["close #1 Idle"]);
    assert_eq!(bench.pool.next_deadline(), None);
}
