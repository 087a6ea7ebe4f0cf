//! SIGTERM and SIGINT: transactions finish, clients are told, a second signal ends it at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::process::{poll, PATIENCE};
use crate::support::wire::{query, startup, transcript, VERSION_3_0};
use crate::support::{Config, Pgdog, Postgres, Wire};

const TERMINATED: &str = "E:57P01";

/// A database with a table, and pgdog in front of it.
fn start(general: &str) -> (Pgdog, String) {
    let database = Postgres::shared().database("shutdown");
    let pgdog = Config::of(&database).general(general).start();
    pgdog.client(&database).query("CREATE TABLE t (id int)");
    (pgdog, database)
}

fn rows(database: &str) -> String {
    Postgres::shared().value(database, "SELECT count(*) FROM t")
}

#[test]
fn idle_clients_are_told_and_the_process_ends_well() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut pgdog, database) = start("");
        let mut clients = (0..20).map(|_| pgdog.client(&database)).collect::<Vec<_>>();
        pgdog.signal(signal);
        for client in &mut clients {
            let error = client.read();
            assert_eq!(error.field(b'C'), "57P01");
            assert_eq!(error.field(b'S'), "FATAL");
            assert_eq!(error.field(b'M'), "terminating connection: shutting down");
            assert_eq!(client.rest(), "");
        }
        assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));
        assert_eq!(Postgres::shared().connections(&database), 0);
    }
}

#[test]
fn orders_are_carried_out_meanwhile() {
    let database = Postgres::shared().database("shutdown");
    let mut pgdog = Config::of(&database).admin().start();
    let mut client = pgdog.client(&database);
    let mut admin = pgdog.admin();
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    assert!(!admin.query("SHUTDOWN").starts_with("E:"));
    pgdog.logged("shutting down");
    for order in ["PAUSE", "RESUME", "MAINTENANCE ON", "MAINTENANCE OFF"] {
        let answer = admin.query(order);
        assert!(!answer.starts_with("E:"), "{order}: {answer}");
    }
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));
    assert!(!pgdog.log().contains("panicked"), "{}", pgdog.log());
}

#[test]
fn a_connection_that_does_not_log_in_holds_nothing_up() {
    let (mut pgdog, _) = start("shutdown_timeout = 3600000");
    let silent = (0..10).map(|_| {
        let mut stream = TcpStream::connect(("127.0.0.1", pgdog.port())).unwrap();
        stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap(); // SSLRequest
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"N");
        stream
    });
    let silent: Vec<_> = silent.collect();
    pgdog.signal(Signal::TERM);
    assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));
    drop(silent);
}

#[test]
fn a_transaction_finishes_first() {
    let (mut pgdog, database) = start("");
    let mut client = pgdog.client(&database);
    assert_eq!(
        client.query("BEGIN; INSERT INTO t VALUES (1)"),
        "C:BEGIN C:INSERT_0_1 Z:T"
    );
    pgdog.signal(Signal::TERM);
    refuses_logins(&pgdog, &database);
    assert_eq!(client.query("INSERT INTO t VALUES (2)"), "C:INSERT_0_1 Z:T");
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(client.rest(), TERMINATED);
    assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));
    assert_eq!(rows(&database), "2");
}

/// Either nothing listens any more or the login ends with 57P03.
fn refuses_logins(pgdog: &Pgdog, database: &str) {
    poll(PATIENCE, "logins to be refused", || {
        if TcpStream::connect(("127.0.0.1", pgdog.port())).is_err() {
            return Some(());
        }
        let mut wire = Wire::open(pgdog.port());
        wire.try_send(&startup(
            VERSION_3_0,
            &[("user", "alice"), ("database", database)],
        ))
        .ok()?;
        let refused = wire.authenticate("alice", "hunter2").err()?.0;
        // Without an error the connection was still in the backlog of a closed listener.
        refused
            .last()
            .is_none_or(|error| error.field(b'C') == "57P03")
            .then_some(())
    });
}

#[test]
fn a_running_statement_finishes_first() {
    let (mut pgdog, database) = start("");
    let mut client = pgdog.client(&database);
    client.send(&query("INSERT INTO t SELECT 1 FROM pg_sleep(1)"));
    poll(PATIENCE, "the statement to run", || {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'");
        (Postgres::shared().value("postgres", &sql) == "1").then_some(())
    });
    pgdog.signal(Signal::TERM);
    assert_eq!(transcript(&client.read_until(b'Z')), "C:INSERT_0_1 Z:I");
    assert_eq!(client.rest(), TERMINATED);
    assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));
    assert_eq!(rows(&database), "1");
}

#[test]
fn a_transaction_that_does_not_finish_is_ended_after_shutdown_timeout() {
    let (mut pgdog, database) = start("shutdown_timeout = 700");
    let mut client = pgdog.client(&database);
    client.query("BEGIN; INSERT INTO t VALUES (1)");
    let start = Instant::now();
    pgdog.signal(Signal::TERM);
    assert_eq!(client.rest(), TERMINATED);
    assert!(
        start.elapsed() >= Duration::from_millis(650),
        "after {:?}",
        start.elapsed()
    );
    assert_eq!(pgdog.wait(Duration::from_secs(10)).unwrap().code(), Some(0));
    assert_eq!(rows(&database), "0");
}

#[test]
fn a_statement_that_does_not_finish_is_cancelled_on_the_server() {
    let (mut pgdog, database) = start("shutdown_timeout = 300");
    let mut client = pgdog.client(&database);
    client.send(&query("SELECT pg_sleep(600)"));
    poll(PATIENCE, "the statement to run", || {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'");
        (Postgres::shared().value("postgres", &sql) == "1").then_some(())
    });
    pgdog.signal(Signal::TERM);
    assert!(client.rest().ends_with(TERMINATED));
    assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));
    // PostgreSQL would notice the closed connection only when the statement ends.
    assert_eq!(Postgres::shared().connections(&database), 0);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (mut pgdog, database) = start("");
    let mut client = pgdog.client(&database);
    client.query("BEGIN; INSERT INTO t VALUES (1)");
    pgdog.signal(Signal::TERM);
    refuses_logins(&pgdog, &database);
    let start = Instant::now();
    pgdog.signal(Signal::TERM);
    pgdog.wait(Duration::from_secs(5));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "after {:?}",
        start.elapsed()
    );
    poll(PATIENCE, "the server to notice", || {
        (Postgres::shared().connections(&database) == 0).then_some(())
    });
    assert_eq!(rows(&database), "0");
}

#[test]
fn in_hot_traffic_every_client_ends_after_a_whole_transaction() {
    let (mut pgdog, database) = start("default_pool_size = 4");
    let clients = (0..30).map(|_| pgdog.client(&database)).collect::<Vec<_>>();
    let so_far = AtomicUsize::new(0);
    let committed = std::thread::scope(|scope| {
        let run = |mut client: Wire| {
            let mut committed = 0_usize;
            loop {
                if client
                    .try_send(&query("BEGIN; INSERT INTO t VALUES (1); COMMIT"))
                    .is_err()
                {
                    return committed;
                }
                match client.try_read() {
                    Ok(first) if first.tag == b'C' => {
                        assert_eq!(
                            transcript(&client.read_until(b'Z')),
                            "C:INSERT_0_1 C:COMMIT Z:I"
                        );
                        committed += 1;
                        so_far.fetch_add(1, Ordering::Relaxed);
                    }
                    // Between transactions: this one was not begun.
                    Ok(first) => {
                        assert_eq!(first.field(b'C'), "57P01");
                        return committed;
                    }
                    // The notice was lost to the reset that our late query caused.
                    Err(_) => return committed,
                }
            }
        };
        let threads = clients
            .into_iter()
            .map(|client| scope.spawn(move || run(client)))
            .collect::<Vec<_>>();
        poll(PATIENCE, "clients to be at work", || {
            (so_far.load(Ordering::Relaxed) > 100).then_some(())
        });
        pgdog.signal(Signal::TERM);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum::<usize>()
    });
    assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));
    assert_eq!(rows(&database), committed.to_string());
}
