//! What lives in a session: it follows its client or keeps its server, and is never seen by another client.

use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::wire::{
    bind, close, describe, execute, parse, query, startup, sync, terminate, VERSION_3_0,
};
use crate::support::{Config, Pgdog, Postgres, Wire};

/// One server for everybody: what one client leaves behind the next one would see.
fn one_server() -> (Pgdog, String) {
    let database = Postgres::shared().database("session");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1")
        .start();
    (pgdog, database)
}

/// What `leave` does in a session that ends is not there for the next client, who gets the same value for `look`.
fn leaves_nothing(leave: &str, look: &str) {
    let (pgdog, database) = one_server();
    let mut first = pgdog.client(&database);
    let before = first.value(look);
    let reply = first.query(leave);
    assert!(!reply.contains("E:"), "{leave}: {reply}");
    first.send(&terminate());
    let mut second = pgdog.client(&database);
    assert_eq!(second.value(look), before, "after {leave}");
    pgdog.stop();
}

#[test]
fn a_setting_that_is_not_reported_does_not_leak() {
    leaves_nothing("SET statement_timeout = '5s'", "SHOW statement_timeout");
    leaves_nothing(
        "/* comment */ SET /* before */ search_path TO pg_catalog",
        "SHOW search_path",
    );
    leaves_nothing("SELECT 1; SET work_mem = '1MB'; SELECT 2", "SHOW work_mem");
    leaves_nothing(
        "UPDATE pg_settings SET setting = 'x' WHERE name = 'search_path'",
        "SHOW search_path",
    );
    leaves_nothing(
        "SELECT pg_catalog.set_config('lock_timeout', '7s', false)",
        "SHOW lock_timeout",
    );
    leaves_nothing(
        "SET default_transaction_read_only = on",
        "SHOW default_transaction_read_only",
    );
}

#[test]
fn a_setting_made_by_code_does_not_leak() {
    leaves_nothing(
        "DO $$ BEGIN PERFORM set_config('work_mem', '2MB', false); END $$",
        "SHOW work_mem",
    );
}

#[test]
fn default_transaction_read_only_does_not_leak() {
    leaves_nothing(
        "SET default_transaction_read_only = on",
        "SHOW transaction_read_only",
    );
}

#[test]
fn set_transaction_is_not_replayed_as_a_setting() {
    let (pgdog, database) = one_server();
    let (mut client, mut other) = (pgdog.client(&database), pgdog.client(&database));
    let look = "SELECT current_setting('transaction_isolation') || current_setting('transaction_read_only')";
    for begin in [
        "BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
    ] {
        client.query(begin);
        assert_eq!(client.value(look), "serializableon");
        client.query("COMMIT");
        for _ in 0..2 {
            assert_eq!(client.value(look), "read committedoff", "{begin}");
            assert_eq!(other.value(look), "read committedoff", "{begin}");
        }
    }
    pgdog.stop();
}

#[test]
fn a_startup_parameter_that_is_not_reported_is_undone_before_reuse() {
    let (pgdog, database) = one_server();
    let mut other = pgdog.client(&database);
    let mut client = Wire::open(pgdog.port());
    let parameters = [
        ("user", ALICE),
        ("database", &*database),
        ("options", "-c statement_timeout=11s"),
        ("work_mem", "1MB"),
    ];
    client.send(&startup(VERSION_3_0, &parameters));
    client.authenticate(ALICE, PASSWORD).unwrap();
    let look = "SELECT current_setting('statement_timeout') || current_setting('work_mem')";
    for _ in 0..3 {
        assert_eq!(client.value(look), "11s1MB");
        assert_eq!(other.value(look), "04MB");
    }
    drop(client);
    assert_eq!(other.value(look), "04MB");
    pgdog.stop();
}

#[test]
fn a_role_does_not_leak() {
    leaves_nothing("SET ROLE alice", "SHOW role");
}

#[test]
fn a_temporary_table_does_not_leak() {
    for create in [
        "CREATE TEMP TABLE t (a int)",
        "CREATE TABLE U&\"pg\\005ftemp\".t (a int)",
    ] {
        leaves_nothing(create, "SELECT count(*) FROM pg_class WHERE relname = 't'");
    }
}

#[test]
fn a_held_cursor_does_not_leak() {
    leaves_nothing(
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "SELECT count(*) FROM pg_cursors WHERE name = 'c'",
    );
}

#[test]
fn an_sql_prepared_statement_does_not_leak() {
    leaves_nothing(
        "PREPARE p AS SELECT 1",
        "SELECT count(*) FROM pg_prepared_statements WHERE name = 'p'",
    );
}

#[test]
fn an_advisory_lock_of_a_killed_client_is_released() {
    let (pgdog, database) = one_server();
    let mut first = pgdog.client(&database);
    first.query("SELECT pg_advisory_lock(42)");
    first.reset();
    let mut second = pgdog.client(&database);
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42";
    assert_eq!(second.value(held), "0");
    pgdog.stop();
}

#[test]
fn state_that_needs_its_server_keeps_it() {
    let database = Postgres::shared().database("session");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 2")
        .start();
    let (mut keeper, mut other) = (pgdog.client(&database), pgdog.client(&database));
    keeper.query("CREATE TEMP TABLE mine (a int); INSERT INTO mine VALUES (7)");
    for _ in 0..20 {
        assert_eq!(other.value("SELECT 1"), "1");
        assert_eq!(keeper.value("SELECT a FROM mine"), "7");
    }
    pgdog.stop();
}

#[test]
fn reported_settings_follow_their_client_over_one_server() {
    let (pgdog, database) = one_server();
    let (mut first, mut second) = (pgdog.client(&database), pgdog.client(&database));
    first.query("SET TimeZone = 'Asia/Tokyo'");
    second.query("SET TimeZone = 'America/New_York'");
    first.query("SET application_name = 'it''s \"first\"'");
    for _ in 0..100 {
        assert_eq!(first.value("SHOW TimeZone"), "Asia/Tokyo");
        assert_eq!(second.value("SHOW TimeZone"), "America/New_York");
        assert_eq!(first.value("SHOW application_name"), "it's \"first\"");
    }
    // Half of it is said, as it is already.
    first.query("SET DateStyle = 'German'");
    first.query("SET DateStyle = 'DMY'");
    assert_eq!(second.value("SHOW TimeZone"), "America/New_York");
    assert_eq!(first.value("SHOW DateStyle"), "German, DMY");
    let mut third = pgdog.client(&database);
    assert_ne!(third.value("SHOW TimeZone"), "Asia/Tokyo");
    assert_ne!(third.value("SHOW TimeZone"), "America/New_York");
    pgdog.stop();
}

#[test]
fn set_in_a_rolled_back_transaction_is_undone() {
    let (pgdog, database) = one_server();
    let (mut client, mut other) = (pgdog.client(&database), pgdog.client(&database));
    client.query("SET TimeZone = 'Asia/Tokyo'");
    client.query("BEGIN; SET TimeZone = 'UTC'");
    assert_eq!(client.value("SHOW TimeZone"), "UTC");
    client.query("ROLLBACK");
    other.query("SELECT 1");
    assert_eq!(client.value("SHOW TimeZone"), "Asia/Tokyo");
    client.query("BEGIN; SET LOCAL TimeZone = 'UTC'");
    client.query("COMMIT");
    other.query("SELECT 1");
    assert_eq!(client.value("SHOW TimeZone"), "Asia/Tokyo");
    pgdog.stop();
}

#[test]
fn reset_goes_back_to_the_start_of_the_session() {
    let (pgdog, database) = one_server();
    let mut client = Wire::open(pgdog.port());
    let parameters = [
        ("user", ALICE),
        ("database", &*database),
        ("TimeZone", "Asia/Tokyo"),
    ];
    client.send(&startup(VERSION_3_0, &parameters));
    client.authenticate(ALICE, PASSWORD).unwrap();
    for reset in ["RESET TimeZone", "RESET ALL", "DISCARD ALL"] {
        client.query("SET TimeZone = 'UTC'");
        assert_eq!(client.value("SHOW TimeZone"), "UTC");
        client.query(reset);
        assert_eq!(client.value("SHOW TimeZone"), "Asia/Tokyo", "{reset}");
    }
    pgdog.stop();
}

/// Parse, bind and run a named statement in batches of their own.
fn prepare(client: &mut Wire, name: &str, sql: &str) -> String {
    client.ask(&[parse(name, sql), sync()])
}

fn run_prepared(client: &mut Wire, name: &str) -> String {
    client.ask(&[bind("", name, &[]), execute("", 0), sync()])
}

#[test]
fn same_name_different_sql_two_clients() {
    let (pgdog, database) = one_server();
    let (mut first, mut second) = (pgdog.client(&database), pgdog.client(&database));
    assert_eq!(prepare(&mut first, "s", "SELECT 1"), "1 Z:I");
    assert_eq!(prepare(&mut second, "s", "SELECT 2"), "1 Z:I");
    for _ in 0..20 {
        assert_eq!(run_prepared(&mut first, "s"), "2 D:1 C:SELECT_1 Z:I");
        assert_eq!(run_prepared(&mut second, "s"), "2 D:2 C:SELECT_1 Z:I");
    }
    pgdog.stop();
}

#[test]
fn unknown_closed_and_doubly_prepared_statements_are_errors_as_ever() {
    let (pgdog, database) = one_server();
    let mut client = pgdog.client(&database);
    assert_eq!(run_prepared(&mut client, "none"), "E:26000 Z:I");
    assert_eq!(prepare(&mut client, "s", "SELECT 1"), "1 Z:I");
    assert_eq!(prepare(&mut client, "s", "SELECT 2"), "E:42P05 Z:I");
    assert_eq!(run_prepared(&mut client, "s"), "2 D:1 C:SELECT_1 Z:I");
    assert_eq!(client.ask(&[close(b'S', "s"), sync()]), "3 Z:I");
    assert_eq!(run_prepared(&mut client, "s"), "E:26000 Z:I");
    assert_eq!(prepare(&mut client, "s", "SELEC"), "E:42601 Z:I");
    assert_eq!(prepare(&mut client, "s", "SELECT 3"), "1 Z:I");
    assert_eq!(client.query("DEALLOCATE s"), "C:DEALLOCATE Z:I");
    assert_eq!(run_prepared(&mut client, "s"), "E:26000 Z:I");
    assert_eq!(prepare(&mut client, "s", "SELECT 4"), "1 Z:I");
    assert_eq!(client.query("DEALLOCATE ALL"), "C:DEALLOCATE_ALL Z:I");
    assert_eq!(run_prepared(&mut client, "s"), "E:26000 Z:I");
    // PostgreSQL cuts names after 63 bytes.
    let (long, longer) = ("n".repeat(64), "n".repeat(100_000));
    assert_eq!(prepare(&mut client, &longer, "SELECT 5"), "1 Z:I");
    assert_eq!(prepare(&mut client, &long, "SELECT 5"), "E:42P05 Z:I");
    assert_eq!(run_prepared(&mut client, &long), "2 D:5 C:SELECT_1 Z:I");
    pgdog.stop();
}

#[test]
fn evicted_statements_are_prepared_again() {
    let database = Postgres::shared().database("session");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1\nprepared_statements_limit = 3")
        .start();
    let mut client = pgdog.client(&database);
    for n in 0..10 {
        assert_eq!(
            prepare(&mut client, &format!("s{n}"), &format!("SELECT {n}")),
            "1 Z:I"
        );
    }
    for round in 0..3 {
        for n in 0..10 {
            let reply = run_prepared(&mut client, &format!("s{n}"));
            assert_eq!(reply, format!("2 D:{n} C:SELECT_1 Z:I"), "round {round}");
        }
    }
    let kept = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE '\\_\\_pgdog%'";
    assert_eq!(client.value(kept), "3");
    pgdog.stop();
}

#[test]
fn a_lost_server_loses_no_statement() {
    let (pgdog, database) = one_server();
    let mut client = pgdog.client(&database);
    assert_eq!(prepare(&mut client, "s", "SELECT 5"), "1 Z:I");
    let mut admin = Postgres::shared().admin("postgres");
    let kill = format!("SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = '{database}' AND application_name <> 'pgdog check'");
    assert_eq!(admin.value(&kill), "1");
    // The statement finds a new server, or is told once that the old one is gone.
    let reply = run_prepared(&mut client, "s");
    assert_eq!(reply, "2 D:5 C:SELECT_1 Z:I");
    pgdog.stop();
}

#[test]
fn ddl_between_executions_is_an_error_once() {
    let (pgdog, database) = one_server();
    let mut client = pgdog.client(&database);
    client.query("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    assert_eq!(prepare(&mut client, "s", "SELECT * FROM t"), "1 Z:I");
    assert_eq!(run_prepared(&mut client, "s"), "2 D:1 C:SELECT_1 Z:I");
    client.query("ALTER TABLE t ADD COLUMN b int DEFAULT 2");
    assert_eq!(run_prepared(&mut client, "s"), "E:0A000 Z:I");
    assert_eq!(run_prepared(&mut client, "s"), "2 D:1|2 C:SELECT_1 Z:I");
    let described = client.ask(&[describe(b'S', "s"), sync()]);
    assert_eq!(described, "t T Z:I");
    pgdog.stop();
}

/// A request that comes byte by byte to a client that keeps its server must not keep the core from others.
fn slow_request(general: &str, first: &str) {
    let database = Postgres::shared().database("session");
    let pgdog = Config::of(&database)
        .general(&format!("workers = 1\ndefault_pool_size = 2\n{general}"))
        .start();
    let (mut slow, mut other) = (pgdog.client(&database), pgdog.client(&database));
    assert!(!slow.query(first).contains("E:"));
    for byte in query("SELECT 7") {
        slow.send(&[byte]);
        assert_eq!(other.value("SELECT 1"), "1");
    }
    assert_eq!(slow.expect(4), "T D:7 C:SELECT_1 Z:I");
    pgdog.stop();
}

#[test]
fn a_slow_request_in_session_mode_keeps_nobody_waiting() {
    slow_request("pooler_mode = \"session\"", "SELECT 1");
}

#[test]
fn a_slow_request_of_a_client_that_keeps_its_server_keeps_nobody_waiting() {
    slow_request("", "CREATE TEMP TABLE t (a int)");
}

#[test]
fn names_too_long_to_be_names_keep_nobody_waiting() {
    let database = Postgres::shared().database("session");
    let pgdog = Config::of(&database).general("workers = 1").start();
    let (mut odd, mut other) = (pgdog.client(&database), pgdog.client(&database));
    let endless = "x".repeat(200_000);
    let whole = [bind("", &endless, &[]), sync()].concat();
    for cut in [65_540, 65_541, 65_542] {
        let (head, tail) = whole.split_at(cut);
        odd.send(head);
        assert_eq!(other.value("SELECT 1"), "1");
        odd.send(tail);
        assert_eq!(odd.expect(2), "E:26000 Z:I");
    }
    pgdog.stop();
}

#[test]
fn a_query_between_an_error_and_its_sync_leaves_statements_in_step() {
    let (pgdog, database) = one_server();
    let mut client = pgdog.client(&database);
    assert_eq!(
        client.ask(&[parse("bad", "SELEC"), query("SELECT 1"), sync()]),
        "E:42601 Z:I"
    );
    for n in 0..3 {
        let name = format!("s{n}");
        assert_eq!(prepare(&mut client, &name, &format!("SELECT {n}")), "1 Z:I");
        assert_eq!(client.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
        for _ in 0..2 {
            assert_eq!(
                run_prepared(&mut client, &name),
                format!("2 D:{n} C:SELECT_1 Z:I")
            );
        }
    }
    pgdog.stop();
}

#[test]
fn reset_tells_the_client_what_it_has_again() {
    let (pgdog, database) = one_server();
    let mut client = Wire::open(pgdog.port());
    let parameters = [
        ("user", ALICE),
        ("database", &*database),
        ("TimeZone", "Asia/Tokyo"),
    ];
    client.send(&startup(VERSION_3_0, &parameters));
    client.authenticate(ALICE, PASSWORD).unwrap();
    client.query("SET TimeZone = 'UTC'");
    client.send(&[query("RESET ALL"), query("SELECT 1")].concat());
    let mut told = Vec::new();
    for _ in 0..2 {
        let replies = client.read_until(b'Z');
        let statuses = replies.iter().filter(|message| message.tag == b'S');
        told.extend(statuses.map(|message| String::from_utf8_lossy(&message.body).into_owned()));
    }
    client.send(&query("SELECT 2"));
    let replies = client.read_until(b'Z');
    told.extend(
        replies
            .iter()
            .filter(|message| message.tag == b'S')
            .map(|message| String::from_utf8_lossy(&message.body).into_owned()),
    );
    let last = told.iter().rfind(|status| status.starts_with("TimeZone"));
    assert_eq!(
        last.map(String::as_str),
        Some("TimeZone\0Asia/Tokyo\0"),
        "{told:?}"
    );
    assert_eq!(client.value("SHOW TimeZone"), "Asia/Tokyo");
    pgdog.stop();
}

#[test]
fn a_login_given_up_while_it_asks_a_server_loses_no_permit() {
    let (pgdog, database) = one_server();
    // Settings that no server was asked about yet, on connections that are gone at once.
    for n in 0..50 {
        let mut client = Wire::open(pgdog.port());
        let parameters = [
            ("user", ALICE),
            ("database", &*database),
            ("application_name", &format!("a{n}")),
        ];
        client.send(&startup(VERSION_3_0, &parameters));
        if n % 2 == 0 {
            drop(client);
        } else {
            let _ = client.authenticate(ALICE, PASSWORD);
            client.reset();
        }
    }
    let mut last = pgdog.client(&database);
    assert_eq!(last.value("SELECT 1"), "1");
    pgdog.stop();
}
