//! Clients that vanish, in every state: the next one finds a clean session and committed data only.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::postgres::LOCK_WAITS;
use crate::support::process::{poll, Process, PATIENCE};
use crate::support::programs::client_program;
use crate::support::wire::{
    bind, copy_data, describe, execute, flush, parse, query, run, startup, terminate, VERSION_3_0,
};
use crate::support::{Config, Pgdog, Postgres, Wire};

/// How a client goes.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The kernel resets the connection: the process was killed with unread data.
    Reset,
    /// The kernel closes the connection: the process was killed with nothing unread.
    Close,
}

/// Brings a client into a state by `begin`, ends it, and looks at what the next client gets from the only server.
fn check(begin: impl Fn(&mut Wire)) {
    for end in [End::Reset, End::Close] {
        let database = Postgres::shared().database("killed");
        let pgdog = Config::of(&database)
            .general("default_pool_size = 1\ncheckout_timeout = 20000")
            .start();
        pgdog
            .client(&database)
            .query("CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
        let mut client = pgdog.client(&database);
        begin(&mut client);
        match end {
            End::Reset => client.reset(),
            End::Close => drop(client),
        }
        expect_clean(&pgdog, &database);
        pgdog.stop();
    }
}

/// The next client sees the committed row and no trace of a transaction, lock, setting or reply of another.
fn expect_clean(pgdog: &Pgdog, database: &str) {
    let mut next = pgdog.client(database);
    assert_eq!(next.query("SELECT id FROM t"), "T D:1 C:SELECT_1 Z:I");
    assert_eq!(next.value("SHOW statement_timeout"), "0");
    assert_eq!(
        next.value("SELECT pg_current_xact_id_if_assigned() IS NULL"),
        "t"
    );
    assert_eq!(next.query("INSERT INTO t VALUES (2)"), "C:INSERT_0_1 Z:I");
    assert_eq!(
        next.query("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; ROLLBACK"),
        "C:BEGIN C:LOCK_TABLE C:ROLLBACK Z:I"
    );
    let rows = Postgres::shared().value(
        database,
        "SELECT string_agg(id::text, ',' ORDER BY id) FROM t",
    );
    assert_eq!(rows, "1,2");
    // A server that was closed instead of cleaned must be gone, not left running what nobody waits for.
    poll(PATIENCE, "one server connection only", || {
        (Postgres::shared().connections(database) <= 1).then_some(())
    });
}

#[test]
fn while_logging_in() {
    check(|client| {
        let half = startup(VERSION_3_0, &[("user", "alice"), ("database", "postgres")]);
        client.send(half.get(..20).unwrap());
    });
}

#[test]
fn while_idle() {
    check(|client| assert_eq!(client.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I"));
}

#[test]
fn in_a_transaction() {
    check(|client| {
        client.query(
            "BEGIN; SET LOCAL statement_timeout = 12345; INSERT INTO t VALUES (66); LOCK TABLE t",
        );
    });
}

#[test]
fn in_a_failed_transaction() {
    check(|client| {
        assert_eq!(
            client.query("BEGIN; INSERT INTO t VALUES (66); SELECT 1/0"),
            "C:BEGIN C:INSERT_0_1 E:22012 Z:E"
        )
    });
}

#[test]
fn with_a_setting_of_the_transaction() {
    check(|client| {
        assert_eq!(
            client.query("BEGIN; SET statement_timeout = 12345"),
            "C:BEGIN C:SET Z:T"
        )
    });
}

#[test]
fn mid_result() {
    check(|client| {
        client.send(&query(
            "SELECT repeat('x', 1000) FROM generate_series(1, 200000)",
        ));
        assert_eq!(client.expect(1), "T");
    });
}

#[test]
fn mid_result_of_a_transaction_that_has_written() {
    check(|client| {
        client.query("BEGIN; INSERT INTO t VALUES (66)");
        client.send(&query(
            "SELECT repeat('x', 1000) FROM generate_series(1, 200000)",
        ));
        assert_eq!(client.expect(1), "T");
    });
}

#[test]
fn before_any_byte_of_the_reply() {
    check(|client| {
        client.send(&query(
            "BEGIN; INSERT INTO t VALUES (66); SELECT pg_sleep(0.3)",
        ))
    });
}

#[test]
fn mid_copy_in() {
    check(|client| {
        assert_eq!(client.begin_copy("COPY t FROM STDIN"), "G");
        client.send(&copy_data(b"66\n"));
    });
}

#[test]
fn in_the_middle_of_a_copy_data_message() {
    check(|client| {
        assert_eq!(client.begin_copy("COPY t FROM STDIN"), "G");
        let frame = copy_data(&b"66\n".repeat(100_000));
        client.send(frame.get(..100_000).unwrap());
    });
}

#[test]
fn mid_copy_in_by_the_extended_protocol() {
    check(|client| {
        client.send(&[run("COPY t FROM STDIN", &[]), flush()].concat());
        assert_eq!(client.expect(3), "1 2 G");
        client.send(&copy_data(b"66\n"));
    });
}

#[test]
fn mid_copy_out() {
    check(|client| {
        client.send(&query(
            "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 200000)) TO STDOUT",
        ));
        assert_eq!(client.expect(1), "H");
    });
}

#[test]
fn before_sync_after_an_executed_insert() {
    check(|client| {
        client.send(&[run("INSERT INTO t VALUES (66)", &[]), flush()].concat());
        assert_eq!(client.expect(3), "1 2 C:INSERT_0_1");
    });
}

#[test]
fn before_sync_and_without_flush() {
    check(|client| client.send(&run("INSERT INTO t VALUES (66)", &[])));
}

#[test]
fn before_sync_with_a_suspended_portal() {
    check(|client| {
        let bound = [
            parse("", "SELECT g FROM generate_series(1, 10) g"),
            bind("", "", &[]),
        ]
        .concat();
        client.send(&[bound, execute("", 2), flush()].concat());
        assert_eq!(client.expect(5), "1 2 D:1 D:2 s");
    });
}

#[test]
fn before_sync_after_an_error() {
    check(|client| {
        client.send(&[run("SELECT 1/0", &[]), flush()].concat());
        assert_eq!(client.expect(2), "1 E:22012");
    });
}

#[test]
fn between_describe_and_execute() {
    check(|client| {
        let bound = [
            parse("", "INSERT INTO t VALUES (66)"),
            bind("", "", &[]),
            describe(b'P', ""),
            flush(),
        ];
        client.send(&bound.concat());
        assert_eq!(client.expect(3), "1 2 n");
    });
}

#[test]
fn in_the_middle_of_a_query_message() {
    check(|client| {
        let insert = query("INSERT INTO t VALUES (66)");
        client.send(insert.get(..15).unwrap());
    });
}

#[test]
fn in_the_middle_of_a_batch() {
    check(|client| {
        let batch = [run("INSERT INTO t VALUES (66)", &[]), parse("", "SELECT 1")].concat();
        client.send(batch.get(..batch.len() - 4).unwrap());
    });
}

#[test]
fn terminate_inside_a_transaction() {
    check(|client| {
        client.query("BEGIN; INSERT INTO t VALUES (66)");
        client.send(&terminate());
    });
}

#[test]
fn terminate_right_behind_a_query() {
    check(|client| client.send(&[query("BEGIN; INSERT INTO t VALUES (66)"), terminate()].concat()));
}

#[test]
fn a_server_waiting_for_a_lock_is_not_waited_for_in_vain() {
    let database = Postgres::shared().database("killed");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1\ncheckout_timeout = 20000")
        .start();
    pgdog
        .client(&database)
        .query("CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    let mut holder = Postgres::shared().admin(&database);
    holder.query("BEGIN; LOCK TABLE t");
    let mut client = pgdog.client(&database);
    client.send(&query("INSERT INTO t VALUES (66)"));
    poll(PATIENCE, "the insert to wait", || {
        (Postgres::shared().value(&database, LOCK_WAITS) != "0").then_some(())
    });
    client.reset();
    // The abandoned insert may not keep the pool's only server for as long as the lock is held.
    let mut next = pgdog.client(&database);
    next.patience(Duration::from_secs(15));
    assert_eq!(next.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    holder.query("ROLLBACK");
}

#[test]
fn psql_killed_in_a_transaction() {
    let database = Postgres::shared().database("killed");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1\ncheckout_timeout = 20000")
        .start();
    pgdog
        .client(&database)
        .query("CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    let sql = "BEGIN; INSERT INTO t VALUES (66); SELECT pg_sleep(60)";
    let mut command = client_program("psql", pgdog.port(), &database);
    command
        .args(["-X", "-c", sql])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let psql = Process::start("psql", "KILL", &mut command);
    poll(PATIENCE, "psql's statement to run", || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        (Postgres::shared().value(&database, running) == "1").then_some(())
    });
    psql.signal(Signal::KILL);
    drop(psql);
    expect_clean(&pgdog, &database);
    pgdog.stop();
}
