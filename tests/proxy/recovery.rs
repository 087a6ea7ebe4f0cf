//! What becomes of a server whose client has vanished, by `connection_recovery` and `rollback_timeout`.

use std::time::{Duration, Instant};

use crate::support::process::{poll, PATIENCE};
use crate::support::scripted::{one_row, serve};
use crate::support::wire::{copy_data, query, tagged};
use crate::support::{Config, Postgres, Wire};

const BACKEND: &str = "SELECT pg_backend_pid()";

/// Rows without end. In FROM the series would be stored as a whole before the first row is sent.
const ENDLESS: &str = "SELECT repeat('x', 1000), generate_series(1, 100000000)";

/// A name, and how a client gets there.
type State = (&'static str, fn(&mut Wire));

/// What a client was doing when it vanished.
const STATES: [State; 5] = [
    ("idle", |_| {}),
    ("in a transaction", |client| {
        assert_eq!(
            client.query("BEGIN; INSERT INTO t VALUES (66)"),
            "C:BEGIN C:INSERT_0_1 Z:T"
        );
    }),
    ("amid a result", |client| {
        client.send(&query(ENDLESS));
        assert_eq!(client.expect(1), "T");
    }),
    ("amid COPY FROM STDIN", |client| {
        assert_eq!(client.begin_copy("COPY t FROM STDIN"), "G");
        client.send(&copy_data(b"66\n"));
    }),
    ("amid COPY TO STDOUT", |client| {
        let copy = format!("COPY ({ENDLESS}) TO STDOUT");
        assert_eq!(client.begin_copy(&copy), "H");
    }),
];

/// Which of [`STATES`] the server survives.
fn check(recovery: &str, survives: [bool; 5]) {
    let postgres = Postgres::shared();
    let database = postgres.database("recovery");
    let pgdog = Config::of(&database)
        .general(&format!(
            "default_pool_size = 1\ncheckout_timeout = 20000\nconnection_recovery = {recovery:?}"
        ))
        .start();
    pgdog.client(&database).query("CREATE TABLE t (id int)");
    for ((state, begin), survives) in STATES.into_iter().zip(survives) {
        let mut client = pgdog.client(&database);
        let before = client.value(BACKEND);
        begin(&mut client);
        client.reset();
        let mut next = pgdog.client(&database);
        let after = next.value(BACKEND);
        assert_eq!(before == after, survives, "{recovery}, {state}");
        assert_eq!(next.value("SELECT count(*) FROM t"), "0", "{state}");
        poll(PATIENCE, "the other server to be gone", || {
            (postgres.connections(&database) == 1).then_some(())
        });
    }
    pgdog.stop();
}

#[test]
fn recover_drains_and_rolls_back() {
    check("recover", [true; 5]);
}

#[test]
fn rollback_only_rolls_back_and_drains_nothing() {
    check("rollback_only", [true, true, false, false, false]);
}

#[test]
fn drop_closes_what_is_not_at_rest() {
    check("drop", [true, false, false, false, false]);
}

#[test]
fn rollback_timeout_ends_a_server_that_does_not_roll_back() {
    let port = serve(|mut peer| {
        if peer.log_in(true).is_none() {
            return;
        }
        while let Some(message) = peer.read() {
            if message.body.starts_with(b"BEGIN") {
                peer.send(&[tagged(b'C', b"BEGIN\0"), tagged(b'Z', b"T")].concat());
            } else if message.body.starts_with(b"SELECT") {
                peer.send(&one_row("1"));
            } else if message.body.starts_with(b"ROLLBACK") {
                // Only the end of the connection is heeded.
                while peer.read().is_some_and(|message| message.tag != b'X') {}
                return;
            }
        }
    });
    let pgdog = Config::empty()
        .general("default_pool_size = 1\ncheckout_timeout = 20000\nrollback_timeout = 300")
        .server("odd", port, "")
        .user("alice", "odd", "password = \"hunter2\"")
        .start();
    let mut client = pgdog.client("odd");
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    let start = Instant::now();
    client.reset();
    let mut next = pgdog.client("odd");
    assert_eq!(next.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    assert!(
        start.elapsed() >= Duration::from_millis(250),
        "a new server"
    );
}
