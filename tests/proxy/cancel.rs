//! Cancel requests: they stop what they were sent for and nothing else.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::process::{poll, PATIENCE};
use crate::support::wire::{is_cancelled, query, transcript};
use crate::support::{Config, Postgres, Wire};

#[test]
fn a_thousand_cancels_raced_against_short_queries_of_others() {
    const CANCELS: usize = 1_000;
    let database = Postgres::shared().database("cancel");
    // Two servers for seven clients: a server is lent to somebody else the moment a query ends.
    let pgdog = Config::of(&database)
        .general("default_pool_size = 2\ncheckout_timeout = 60000")
        .start();
    let port = pgdog.port();
    let over = AtomicBool::new(false);
    let answers = AtomicUsize::new(0);
    let cancelled = std::thread::scope(|scope| {
        let _stop = SetAtEnd(&over);
        for _ in 0..5 {
            let mut bystander = pgdog.client(&database);
            let (over, answers) = (&over, &answers);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(bystander.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
                    assert_eq!(
                        bystander.query("SELECT pg_sleep(0.0005)"),
                        "T D: C:SELECT_1 Z:I"
                    );
                    answers.fetch_add(2, Ordering::Relaxed);
                }
            });
        }
        let racers = (0..2).map(|_| {
            let mut target = pgdog.client(&database);
            scope.spawn(move || {
                let mut cancelled = 0;
                for number in 0..CANCELS / 2 {
                    // Every tenth is long: that cancel must arrive. The others end at about the same time.
                    let long = number % 10 == 0;
                    target.send(&query(if long {
                        "SELECT pg_sleep(60)"
                    } else {
                        "SELECT pg_sleep(0.001)"
                    }));
                    if long {
                        wait_until_running(&mut target, port);
                    }
                    Wire::cancel(port, &target.key());
                    let reply = transcript(&target.read_until(b'Z'));
                    // A short one may have given its row by then, and not yet its end.
                    let late = !long && reply == "T D: E:57014 Z:I";
                    if late || is_cancelled(&reply, 'I') {
                        cancelled += 1;
                    } else {
                        assert!(!long && reply == "T D: C:SELECT_1 Z:I", "{reply}");
                    }
                }
                cancelled
            })
        });
        let racers = racers.collect::<Vec<_>>();
        racers
            .into_iter()
            .map(|racer| racer.join().unwrap())
            .sum::<usize>()
    });
    println!(
        "{cancelled} cancelled, {} answers to others",
        answers.load(Ordering::Relaxed)
    );
    assert!(cancelled >= CANCELS / 10, "the long ones at least");
    assert!(
        answers.load(Ordering::Relaxed) > 100,
        "the others ran all the time"
    );
    pgdog.stop();
}

/// Sets the flag when it goes out of scope, by a panic too.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A cancel that comes before its query has a server finds nothing to cancel, so it is repeated until it does.
pub(super) fn wait_until_running(target: &mut Wire, port: u16) {
    target.patience(Duration::from_millis(20));
    let start = Instant::now();
    while target.peek().is_none() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "a long query was never cancelled"
        );
        Wire::cancel(port, &target.key());
    }
    target.patience(PATIENCE);
}

#[test]
fn a_running_query_is_cancelled_and_its_client_goes_on() {
    let database = Postgres::shared().database("cancel");
    let pgdog = Config::of(&database).start();
    let mut client = pgdog.client(&database);
    client.send(&query("SELECT pg_sleep(60)"));
    wait_until_running(&mut client, pgdog.port());
    let messages = client.read_until(b'Z');
    assert!(is_cancelled(&transcript(&messages), 'I'), "{messages:?}");
    assert_eq!(
        messages[messages.len() - 2].field(b'M'),
        "canceling statement due to user request"
    );
    assert_eq!(client.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    pgdog.stop();
}

/// The request lies in the socket of a postmaster that is slow, and is passed on long after it was given up.
#[test]
fn a_cancel_that_was_given_up_hits_nobody_else() {
    let postgres = Postgres::own();
    let database = postgres.database("cancel");
    let pgdog = Config::empty()
        .server(&database, postgres.port(), "")
        .user(ALICE, &database, &format!("password = {PASSWORD:?}"))
        .general("default_pool_size = 1\ncheckout_timeout = 60000\nconnect_timeout = 60000")
        .start();
    let (mut target, mut other) = (pgdog.client(&database), pgdog.client(&database));
    assert_eq!(target.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    let mut onlooker = postgres.admin(&database);
    target.send(&query("SELECT pg_sleep(3)"));
    poll(PATIENCE, "the query to run", || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3)'";
        (onlooker.value(running) == "1").then_some(())
    });
    postgres.signal(Signal::STOP);
    Wire::cancel(pgdog.port(), &target.key());
    assert_eq!(transcript(&target.read_until(b'Z')), "T D: C:SELECT_1 Z:I");
    other.send(&query("SELECT pg_sleep(1)"));
    pgdog.logged("a cancel request was not answered");
    std::thread::sleep(Duration::from_millis(300)); // time for the other client to get that server
    postgres.signal(Signal::CONT);
    assert_eq!(transcript(&other.read_until(b'Z')), "T D: C:SELECT_1 Z:I");
    assert_eq!(target.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    pgdog.stop();
}

#[test]
fn a_cancel_inside_a_transaction_leaves_it_failed() {
    let database = Postgres::shared().database("cancel");
    let pgdog = Config::of(&database).start();
    let mut client = pgdog.client(&database);
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    client.send(&query("SELECT pg_sleep(60)"));
    wait_until_running(&mut client, pgdog.port());
    client.expect_cancelled('E');
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    pgdog.stop();
}

#[test]
fn cancels_that_mean_nobody_are_ignored() {
    let database = Postgres::shared().database("cancel");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1")
        .start();
    let mut client = pgdog.client(&database);
    let mut other = pgdog.client(&database);
    let wrong_secret = {
        let mut key = client.key();
        *key.last_mut().unwrap() ^= 1;
        key
    };
    client.send(&query("SELECT pg_sleep(0.5)"));
    Wire::cancel(pgdog.port(), &wrong_secret);
    Wire::cancel(pgdog.port(), &[0; 8]);
    Wire::cancel(pgdog.port(), &[255; 8]);
    assert_eq!(transcript(&client.read_until(b'Z')), "T D: C:SELECT_1 Z:I");

    // Of an idle client, while somebody else uses the only server.
    let idle = client.key();
    other.send(&query("SELECT pg_sleep(0.5)"));
    for _ in 0..10 {
        Wire::cancel(pgdog.port(), &idle);
    }
    assert_eq!(transcript(&other.read_until(b'Z')), "T D: C:SELECT_1 Z:I");

    // Of a client that is gone.
    let gone = pgdog.client(&database).key();
    other.send(&query("SELECT pg_sleep(0.2)"));
    Wire::cancel(pgdog.port(), &gone);
    assert_eq!(transcript(&other.read_until(b'Z')), "T D: C:SELECT_1 Z:I");
    pgdog.stop();
}

#[test]
fn every_client_has_a_key_of_its_own() {
    let database = Postgres::shared().database("cancel");
    let pgdog = Config::of(&database).start();
    let clients = (0..50).map(|_| pgdog.client(&database)).collect::<Vec<_>>();
    let mut keys = clients.iter().map(Wire::key).collect::<Vec<_>>();
    assert!(
        keys.iter().all(|key| key.len() == 8),
        "protocol 3.0 has keys of eight bytes"
    );
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), clients.len());
}
