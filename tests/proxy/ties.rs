//! What only a server can keep of a session, and how long its client is kept there.

use super::state::two_clients;
use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::wire::{describe, function_call, parse, query, sync, terminate};
use crate::support::{Config, Postgres};

const ONE: &str = "T D:1 C:SELECT_1 Z:I";

/// While `begin` holds, `look` is what only the server of this client knows; another client has to wait, and gets
/// the server as soon as `end` is done, without a trace of it.
fn ties(begin: &[&str], look: &str, expected: &str, end: &[&str], trace: &str) {
    let (pgdog, mut client, mut other) = two_clients("checkout_timeout = 60000");
    for statement in begin {
        let reply = client.query(statement);
        assert!(!reply.contains("E:"), "{statement}: {reply}");
    }
    other.send(&query("SELECT 1"));
    for _ in 0..3 {
        assert_eq!(client.value(look), expected, "{begin:?}");
    }
    for statement in end {
        client.query(statement);
    }
    assert_eq!(other.batches(1), ONE, "{end:?}");
    assert_eq!(other.value(trace), "0", "{end:?}");
    assert_eq!(client.value("SELECT 1"), "1");
    pgdog.stop();
}

/// In this database: others of the cluster are used by other tests.
const LOCKS: &str = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database \
    WHERE locktype = 'advisory' AND datname = current_database()";

#[test]
fn an_advisory_lock_keeps_the_server_until_the_last_is_released() {
    let ours =
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
    ties(
        &["SELECT pg_advisory_lock(1)"],
        ours,
        "1",
        &["SELECT pg_advisory_unlock(1)"],
        LOCKS,
    );
    ties(
        &["SELECT pg_advisory_lock(1), pg_advisory_lock(1), pg_try_advisory_lock(2)"],
        ours,
        "2",
        &[
            "SELECT pg_advisory_unlock(1)",
            "SELECT pg_advisory_unlock(2)",
            "BEGIN; SELECT pg_advisory_unlock(1); ROLLBACK",
        ],
        LOCKS,
    );
    ties(
        &["BEGIN; SELECT pg_advisory_lock(1); ROLLBACK"],
        ours,
        "1",
        &["SELECT pg_advisory_unlock_all()"],
        LOCKS,
    );
}

#[test]
fn a_function_that_is_called_by_its_number_leaves_nothing_behind() {
    let (pgdog, mut client, mut other) = two_clients("checkout_timeout = 60000");
    let pg_advisory_lock = 2880;
    assert_eq!(client.ask(&[function_call(pg_advisory_lock, "1")]), "V Z:I");
    other.send(&query("SELECT 1"));
    assert_eq!(client.value(LOCKS), "1");
    assert_eq!(client.value("SELECT pg_advisory_unlock(1)"), "t");
    assert_eq!(other.batches(1), ONE);

    client.query(
        "CREATE FUNCTION sets(text) RETURNS text LANGUAGE sql AS \
        $$SELECT set_config('search_path', $1, false)$$",
    );
    let sets = client.value("SELECT 'sets'::regproc::oid").parse().unwrap();
    let look = "SHOW search_path";
    let before = other.value(look);
    assert_eq!(client.ask(&[function_call(sets, "leaked")]), "V Z:I");
    assert_eq!(other.value(look), before);
    assert_eq!(client.ask(&[function_call(sets, "leaked")]), "V Z:I");
    client.send(&terminate());
    assert_eq!(other.value(look), before);
    pgdog.stop();
}

#[test]
fn a_lock_that_was_not_granted_ties_nobody() {
    let database = Postgres::shared().database("state");
    let mut holder = Postgres::shared().admin(&database);
    holder.query("SELECT pg_advisory_lock(99)");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1")
        .start();
    let (mut client, mut other) = (pgdog.client(&database), pgdog.client(&database));
    assert_eq!(client.value("SELECT pg_try_advisory_lock(99)"), "f");
    assert_eq!(other.value("SELECT 1"), "1");
    client.query("SELECT pg_advisory_xact_lock(98)");
    assert_eq!(other.value("SELECT 1"), "1");
    pgdog.stop();
}

#[test]
fn temporary_objects_keep_the_server_until_the_last_is_dropped() {
    let trace = "SELECT count(*) FROM pg_class WHERE relname IN ('mine', 'pin')";
    ties(
        &[
            "CREATE TEMP TABLE mine (a int)",
            "INSERT INTO mine VALUES (7)",
        ],
        "SELECT a FROM mine",
        "7",
        &["DROP TABLE mine"],
        trace,
    );
    ties(
        &["CREATE TEMP TABLE mine AS SELECT 7 AS a"],
        "SELECT a FROM mine",
        "7",
        &["DISCARD TEMP"],
        trace,
    );
    ties(
        &["DO $$BEGIN CREATE TEMP TABLE mine AS SELECT 7 AS a; END$$"],
        "SELECT a FROM mine",
        "7",
        &["DISCARD ALL"],
        trace,
    );
    ties(
        &[
            "SELECT 7 AS a INTO TEMP mine",
            "CREATE TEMP VIEW pin AS SELECT 1",
        ],
        "SELECT a FROM mine",
        "7",
        &["DROP TABLE mine", "DROP VIEW pin"],
        trace,
    );
}

#[test]
fn cursors_listeners_and_sql_statements_keep_the_server_until_they_end() {
    ties(
        &["BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 5 FROM generate_series(1, 9); COMMIT"],
        "FETCH c",
        "5",
        &["CLOSE c"],
        "SELECT count(*) FROM pg_cursors WHERE is_holdable",
    );
    ties(
        &["LISTEN a; LISTEN b"],
        "SELECT count(*) FROM pg_listening_channels()",
        "2",
        &["UNLISTEN a; UNLISTEN b"],
        "SELECT count(*) FROM pg_listening_channels()",
    );
    ties(
        &["PREPARE p AS SELECT 5"],
        "EXECUTE p",
        "5",
        &["DEALLOCATE p"],
        "SELECT count(*) FROM pg_prepared_statements WHERE name = 'p'",
    );
}

#[test]
fn what_a_rolled_back_transaction_began_ties_nobody() {
    let (pgdog, mut client, mut other) = two_clients("");
    for statement in [
        "CREATE TEMP TABLE mine (a int)",
        "LISTEN a",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "CREATE TEMP TABLE mine (a int) ON COMMIT DROP",
    ] {
        client.query(&format!("BEGIN; {statement}"));
        client.query("ROLLBACK");
        assert_eq!(other.value("SELECT 1"), "1", "{statement}");
    }
    pgdog.stop();
}

#[test]
fn a_listener_hears_at_once() {
    let database = Postgres::shared().database("state");
    for mode in ["transaction", "session"] {
        let pgdog = Config::of(&database)
            .general(&format!("pooler_mode = {mode:?}"))
            .start();
        let (mut listener, mut other) = (pgdog.client(&database), pgdog.client(&database));
        for _ in 0..30 {
            // Asked whether it listens, the server may answer with a notification.
            assert_eq!(listener.query("LISTEN news"), "C:LISTEN Z:I");
            other.query("NOTIFY news, 'hello'");
            assert_eq!(listener.read().tag, b'A');
            assert_eq!(listener.query("SELECT 1"), ONE);
        }
        pgdog.stop();
    }
}

#[test]
fn the_same_channel_of_two_databases_is_two() {
    let databases = [(); 2].map(|()| Postgres::shared().database("state"));
    let mut config = Config::empty();
    for database in &databases {
        config = config.database(database, "").user(
            ALICE,
            database,
            &format!("password = {PASSWORD:?}"),
        );
    }
    let pgdog = config.start();
    let mut listeners = databases.each_ref().map(|database| pgdog.client(database));
    for listener in &mut listeners {
        assert_eq!(listener.query("LISTEN news"), "C:LISTEN Z:I");
    }
    for (at, database) in databases.iter().enumerate() {
        let mut other = pgdog.client(database);
        assert_eq!(other.query("NOTIFY news, 'hello'"), "C:NOTIFY Z:I");
        assert_eq!(listeners[at].read().tag, b'A');
        assert_eq!(listeners[1 - at].query("SELECT 1"), ONE);
    }
    pgdog.stop();
}

/// As psql's `\gdesc` describes an EXECUTE: Parse and Describe in two batches, between which the server is asked.
#[test]
fn a_question_to_the_server_leaves_the_client_its_unnamed_statement() {
    let (pgdog, mut client, _) = two_clients("");
    client.query("PREPARE ours AS SELECT 1 AS one, 2 AS two");
    for text in ["EXECUTE ours", "EXPLAIN EXECUTE ours", "DEALLOCATE ours"] {
        assert_eq!(client.ask(&[parse("", text), sync()]), "1 Z:I", "{text}");
        let described = client.ask(&[describe(b'S', ""), sync()]);
        let rows = if text.starts_with("DEALLOCATE") {
            "n"
        } else {
            "T"
        };
        assert_eq!(described, format!("t {rows} Z:I"), "{text}");
    }
    pgdog.stop();
}
