//! Session state through the pipeline and through transactions: settings go where their client goes, ties to one
//! server last exactly as long as their cause.

use crate::support::forwarder::Forwarder;
use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::wire::{
    bind, close, describe, execute, parse, query, startup, sync, terminate, VERSION_3_0,
};
use crate::support::{Config, Pgdog, Postgres, Wire};

const ONE: &str = "T D:1 C:SELECT_1 Z:I";

/// Two clients on one server.
fn two_clients(general: &str) -> (Pgdog, Wire, Wire) {
    let database = Postgres::shared().database("state");
    let pgdog = Config::of(&database)
        .general(&format!("default_pool_size = 1\n{general}"))
        .start();
    let (one, other) = (pgdog.client(&database), pgdog.client(&database));
    (pgdog, one, other)
}

/// After `statements` the client has `expected` for `look`, whoever else uses the server, who has what he had; and
/// the server is free for him.
fn follows(statements: &[&str], look: &str, expected: &str) {
    let (pgdog, mut client, mut other) = two_clients("");
    let before = other.value(look);
    for statement in statements {
        client.query(statement);
    }
    for _ in 0..3 {
        assert_eq!(other.value(look), before, "{statements:?}: leaks");
        assert_eq!(client.value(look), expected, "{statements:?}: {look}");
    }
    client.send(&terminate());
    assert_eq!(
        other.value(look),
        before,
        "{statements:?}: leaks at the end"
    );
    pgdog.stop();
}

#[test]
fn settings_that_are_not_reported_follow_their_client() {
    follows(
        &["SET statement_timeout = '5s'"],
        "SHOW statement_timeout",
        "5s",
    );
    follows(
        &["/* a */ SET /* b */ search_path TO pg_catalog, \"Odd, one\""],
        "SHOW search_path",
        "pg_catalog, \"Odd, one\"",
    );
    follows(
        &["SELECT 1; SET work_mem = '1MB'; SELECT 2"],
        "SHOW work_mem",
        "1MB",
    );
    follows(
        &["SELECT pg_catalog.set_config('lock_timeout', '7s', false)"],
        "SHOW lock_timeout",
        "7s",
    );
    follows(
        &[r#"SET app.tenant = '{"a": "it''s \\ \"here\""}'"#],
        "SELECT coalesce(current_setting('app.tenant', true), '')",
        r#"{"a": "it's \\ \"here\""}"#,
    );
    follows(
        &["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"],
        "SHOW transaction_read_only",
        "on",
    );
}

#[test]
fn settings_end_as_their_transactions_do() {
    let look = "SHOW statement_timeout";
    let cases: [(&[&str], &str); 9] = [
        (&["BEGIN", "SET statement_timeout = '5s'", "COMMIT"], "5s"),
        (&["BEGIN", "SET statement_timeout = '5s'", "ROLLBACK"], "0"),
        (
            &[
                "BEGIN; SET statement_timeout = '5s'",
                "SELECT 1/0",
                "COMMIT",
            ],
            "0",
        ),
        (&["SET statement_timeout = '5s'; SELECT 1/0"], "0"),
        (
            &[
                "SET statement_timeout = '5s'",
                "BEGIN; SET LOCAL statement_timeout = '6s'; COMMIT",
            ],
            "5s",
        ),
        (
            &[
                "BEGIN",
                "SET statement_timeout = '5s'",
                "SAVEPOINT s",
                "SET statement_timeout = '6s'",
                "ROLLBACK TO s",
                "COMMIT",
            ],
            "5s",
        ),
        (
            &[
                "BEGIN",
                "SAVEPOINT s",
                "SET statement_timeout = '6s'",
                "ROLLBACK TO s",
                "COMMIT",
            ],
            "0",
        ),
        (
            &[
                "BEGIN",
                "SAVEPOINT s",
                "SET statement_timeout = '6s'",
                "RELEASE s",
                "COMMIT",
            ],
            "6s",
        ),
        (
            &["SET statement_timeout = '5s'", "BEGIN; RESET ALL; ROLLBACK"],
            "5s",
        ),
    ];
    for (statements, expected) in cases {
        follows(statements, look, expected);
    }
}

#[test]
fn roles_follow_their_client() {
    let database = Postgres::shared().database("state");
    let mut admin = Postgres::shared().admin(&database);
    admin.query("DO $$BEGIN CREATE ROLE state_role; EXCEPTION WHEN duplicate_object THEN END$$");
    admin.query("GRANT state_role TO alice");
    follows(
        &["SET ROLE state_role"],
        "SELECT current_user",
        "state_role",
    );
    follows(
        &["BEGIN; SET ROLE state_role", "ROLLBACK"],
        "SELECT current_user",
        "alice",
    );
    follows(
        &["SET ROLE state_role", "RESET ROLE"],
        "SELECT current_user",
        "alice",
    );
    follows(
        &["SET ROLE state_role", "RESET ALL"],
        "SELECT current_user",
        "state_role",
    );
    follows(
        &["SET ROLE state_role", "DISCARD ALL"],
        "SELECT current_user",
        "alice",
    );
}

/// Only a superuser may become another one.
#[test]
fn a_session_authorization_follows_its_client() {
    let database = Postgres::shared().database("state");
    let mut admin = Postgres::shared().admin(&database);
    admin.query("DO $$BEGIN CREATE ROLE state_owner SUPERUSER LOGIN PASSWORD 'hunter2'; EXCEPTION WHEN duplicate_object THEN END$$");
    admin.query("DO $$BEGIN CREATE ROLE state_guest; EXCEPTION WHEN duplicate_object THEN END$$");
    let pgdog = Config::empty()
        .general("default_pool_size = 1")
        .database(&database, "")
        .user(
            "state_owner",
            &database,
            &format!("password = {PASSWORD:?}"),
        )
        .start();
    let log_in = || Wire::connect(pgdog.port(), "state_owner", &database, PASSWORD);
    let look = "SELECT concat_ws(' ', session_user, current_user)";
    let (owner, guest) = ("state_owner state_owner", "state_guest state_guest");
    let set = "SET SESSION AUTHORIZATION state_guest";
    let cases: [(&[&str], &str); 9] = [
        (&[set], guest),
        (&["SET SESSION AUTHORIZATION 'state_guest'"], guest),
        (
            &["SELECT set_config('session_authorization', 'state_guest', false)"],
            guest,
        ),
        (&["BEGIN", set, "COMMIT"], guest),
        (&["BEGIN", set, "ROLLBACK"], owner),
        (
            &[
                "BEGIN",
                "SET LOCAL SESSION AUTHORIZATION state_guest",
                "COMMIT",
            ],
            owner,
        ),
        (&[set, "RESET ALL"], guest),
        (&[set, "RESET SESSION AUTHORIZATION"], owner),
        (&[set, "SET SESSION AUTHORIZATION DEFAULT"], owner),
    ];
    let mut other = log_in();
    for (statements, expected) in cases {
        for extended in [false, true] {
            let mut client = log_in();
            for statement in statements {
                match extended {
                    true => client.ask(&[once(statement), sync()]),
                    false => client.query(statement),
                };
            }
            for _ in 0..3 {
                assert_eq!(other.value(look), owner, "{statements:?}: leaks");
                assert_eq!(client.value(look), expected, "{statements:?}");
            }
            // What needs the rights of who logged in is refused to the guest, wherever that is.
            let makes = client.query("CREATE ROLE state_owner");
            let refused = if expected == guest {
                "E:42501 Z:I"
            } else {
                "E:42710 Z:I"
            };
            assert_eq!(makes, refused, "{statements:?}");
            client.send(&terminate());
            assert_eq!(other.value(look), owner, "{statements:?}: leaks at the end");
        }
    }
    // Who is killed as somebody else leaves no trace either.
    let mut client = log_in();
    client.query("BEGIN");
    client.query(set);
    drop(client);
    assert_eq!(other.value(look), owner);
    pgdog.stop();
}

#[test]
fn a_reported_setting_made_by_a_function_follows_its_client() {
    let make = "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS \
        $$BEGIN PERFORM set_config('TimeZone', 'Asia/Tokyo', false); END$$";
    follows(&[make, "SELECT f()"], "SHOW TimeZone", "Asia/Tokyo");
    let utc = "Etc/UTC";
    follows(&[make, "BEGIN; SELECT f(); ROLLBACK"], "SHOW TimeZone", utc);
}

/// Everything that the extended protocol sends for one statement.
fn once(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), execute("", 0)].concat()
}

#[test]
fn settings_in_the_extended_protocol() {
    let (pgdog, mut client, mut other) = two_clients("");
    let look = "SHOW statement_timeout";
    // Unnamed, in one batch; an error undoes the whole batch.
    client.ask(&[once("SET statement_timeout = '5s'"), sync()]);
    assert_eq!(
        (other.value(look), client.value(look)),
        ("0".into(), "5s".into())
    );
    let reply = client.ask(&[
        once("SET statement_timeout = '6s'"),
        once("SELECT 1/0"),
        sync(),
    ]);
    assert_eq!(reply, "1 2 C:SET 1 E:22012 Z:I");
    assert_eq!(
        (other.value(look), client.value(look)),
        ("0".into(), "5s".into())
    );
    // What comes after the error was never done.
    client.ask(&[
        once("SELECT 1/0"),
        once("SET statement_timeout = '7s'"),
        sync(),
    ]);
    assert_eq!(
        (other.value(look), client.value(look)),
        ("0".into(), "5s".into())
    );
    // Named, prepared in one batch and executed in another; pipelined batches.
    client.ask(&[parse("set", "SET statement_timeout = '8s'"), sync()]);
    assert_eq!(
        (other.value(look), client.value(look)),
        ("0".into(), "5s".into())
    );
    client.send(
        &[
            bind("", "set", &[]),
            execute("", 0),
            sync(),
            query("SELECT 1"),
        ]
        .concat(),
    );
    assert_eq!(client.batches(2), "2 C:SET Z:I T D:1 C:SELECT_1 Z:I");
    assert_eq!(
        (other.value(look), client.value(look)),
        ("0".into(), "8s".into())
    );
    // set_config() whose arguments come with Bind.
    client.ask(&[parse("config", "SELECT set_config($1, $2, false)"), sync()]);
    let reply = client.ask(&[
        bind("p", "config", &[Some("statement_timeout"), Some("9s")]),
        execute("p", 0),
        sync(),
    ]);
    assert_eq!(reply, "2 D:9s C:SELECT_1 Z:I");
    assert_eq!(
        (other.value(look), client.value(look)),
        ("0".into(), "9s".into())
    );
    // A driver that wants one row asks for one: the portal is suspended, and the call has been made.
    let reply = client.ask(&[
        bind("", "config", &[Some("statement_timeout"), Some("10s")]),
        execute("", 1),
        sync(),
    ]);
    assert_eq!(reply, "2 D:10s s Z:I");
    assert_eq!(
        (other.value(look), client.value(look)),
        ("0".into(), "10s".into())
    );
    pgdog.stop();
}

#[test]
fn reset_goes_back_to_the_start_of_the_session_or_not_if_it_is_undone() {
    let database = Postgres::shared().database("state");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1")
        .start();
    let mut other = pgdog.client(&database);
    for (name, came_with, set) in [
        ("TimeZone", "Asia/Tokyo", "UTC"),
        ("statement_timeout", "11s", "12s"),
    ] {
        let mut client = Wire::open(pgdog.port());
        let parameters = [("user", ALICE), ("database", &*database), (name, came_with)];
        client.send(&startup(VERSION_3_0, &parameters));
        client.authenticate(ALICE, PASSWORD).unwrap();
        let look = format!("SHOW {name}");
        assert_eq!(client.value(&look), came_with);
        for reset in [&format!("RESET {name}"), "RESET ALL", "DISCARD ALL"] {
            client.query(&format!("SET {name} = '{set}'"));
            other.query("SELECT 1");
            assert_eq!(client.value(&look), set);
            if reset != "DISCARD ALL" {
                client.query(&format!("BEGIN; {reset}; ROLLBACK"));
                assert_eq!(client.value(&look), set, "{reset} undone");
            }
            client.query(reset);
            assert_eq!(client.value(&look), came_with, "{reset}");
            other.query("SELECT 1");
            assert_eq!(client.value(&look), came_with, "{reset}");
        }
        client.send(&terminate());
        assert_ne!(other.value(&look), came_with);
    }
    pgdog.stop();
}

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

const LOCKS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";

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
fn an_unnamed_statement_is_the_clients_own() {
    let database = Postgres::shared().database("state");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1")
        .start();
    let (mut client, mut other) = (pgdog.client(&database), pgdog.client(&database));
    let all = |client: &mut Wire| client.ask(&[bind("", "", &[]), execute("", 0), sync()]);
    // Parsed in one batch, bound in the next, with another client in between.
    assert_eq!(
        client.ask(&[parse("", "SELECT 1"), describe(b'S', ""), sync()]),
        "1 t T Z:I"
    );
    assert_eq!(
        other.ask(&[once("SELECT 2"), sync()]),
        "1 2 D:2 C:SELECT_1 Z:I"
    );
    assert_eq!(all(&mut client), "2 D:1 C:SELECT_1 Z:I");
    assert_eq!(client.ask(&[describe(b'S', ""), sync()]), "t T Z:I");
    // Never another client's.
    let mut third = pgdog.client(&database);
    assert_eq!(all(&mut third), "E:26000 Z:I");
    assert_eq!(third.ask(&[describe(b'S', ""), sync()]), "E:26000 Z:I");
    // Nor one that was to be parsed, and was skipped.
    third.send(&[once("SELECT 1/0"), parse("", "SELECT 3"), sync()].concat());
    third.send(&[bind("", "", &[]), execute("", 0), sync()].concat());
    let replies = third.batches(2);
    assert!(!replies.contains("D:"), "{replies}");
    // Within a transaction the server keeps it.
    client.query("BEGIN");
    client.ask(&[once("SELECT 4"), sync()]);
    assert_eq!(all(&mut client), "2 D:4 C:SELECT_1 Z:T");
    client.query("COMMIT");
    // On the server they are unnamed, too.
    let named = "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''";
    assert_eq!(client.value(named), "0");
    assert_eq!(client.ask(&[parse("", "SELECT 5"), sync()]), "1 Z:I");
    assert_eq!(client.ask(&[close(b'S', ""), sync()]), "3 Z:I");
    assert_eq!(all(&mut client), "E:26000 Z:I");
    pgdog.stop();
}

#[test]
fn anonymous_statements_are_shared_if_so_configured() {
    let (pgdog, mut client, mut other) =
        two_clients("prepared_statements = \"extended_anonymous\"");
    for _ in 0..3 {
        for (n, client) in [&mut client, &mut other].into_iter().enumerate() {
            let sql = format!("SELECT {n}");
            assert_eq!(
                client.ask(&[parse("", &sql), bind("", "", &[]), execute("", 0), sync()]),
                format!("1 2 D:{n} C:SELECT_1 Z:I")
            );
        }
    }
    let prepared = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE '\\_\\_pgdog%'";
    assert_eq!(other.value(prepared), "2");
    client.ask(&[
        parse("", "SET statement_timeout = '5s'"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(other.value("SHOW statement_timeout"), "0");
    assert_eq!(client.value("SHOW statement_timeout"), "5s");
    pgdog.stop();
}

#[test]
fn deallocate_and_discard_in_both_protocols_clear_what_came_before() {
    let (pgdog, mut client, _other) = two_clients("");
    let run_s = [bind("", "s", &[]), execute("", 0), sync()].concat();
    for forget in ["DEALLOCATE s", "DEALLOCATE ALL", "DISCARD ALL"] {
        for extended in [false, true] {
            assert_eq!(client.ask(&[parse("s", "SELECT 1"), sync()]), "1 Z:I");
            let forgets = match extended {
                true => [once(forget), sync()].concat(),
                false => query(forget),
            };
            // Pipelined: what follows is not touched.
            client.send(&[forgets, parse("t", "SELECT 2"), sync(), run_s.clone()].concat());
            let replies = client.batches(3);
            assert!(
                replies.ends_with("1 Z:I E:26000 Z:I"),
                "{forget}: {replies}"
            );
            assert_eq!(
                client.ask(&[bind("", "t", &[]), execute("", 0), sync()]),
                "2 D:2 C:SELECT_1 Z:I",
                "{forget}"
            );
            assert_eq!(client.ask(&[close(b'S', "t"), sync()]), "3 Z:I");
        }
    }
    pgdog.stop();
}

#[test]
fn a_statement_means_what_its_clients_settings_say() {
    let (pgdog, mut client, mut other) = two_clients("");
    let sql = "SELECT timestamptz '2026-01-01 00:00' AT TIME ZONE 'UTC'";
    let prepare = [parse("s", sql), sync()].concat();
    let run_s = [bind("", "s", &[]), execute("", 0), sync()].concat();
    // The time zone changes in the same pipeline, before the statement is parsed.
    client.send(
        &[
            query("SET TimeZone = 'Asia/Tokyo'"),
            prepare.clone(),
            run_s.clone(),
        ]
        .concat(),
    );
    let replies = client.batches(3);
    assert!(replies.contains("D:2025-12-31 15:00:00"), "{replies}");
    other.send(&[query("SET TimeZone = 'UTC'"), prepare, run_s.clone()].concat());
    let replies = other.batches(3);
    assert!(replies.contains("D:2026-01-01 00:00:00"), "{replies}");
    for _ in 0..3 {
        assert!(client
            .ask(std::slice::from_ref(&run_s))
            .contains("D:2025-12-31 15:00:00"));
        assert!(other
            .ask(std::slice::from_ref(&run_s))
            .contains("D:2026-01-01 00:00:00"));
    }
    pgdog.stop();
}

#[test]
fn a_stale_plan_is_made_anew_where_the_client_asks_what_it_gets() {
    let (pgdog, mut client, mut other) = two_clients("");
    client.query("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    assert_eq!(
        client.ask(&[parse("s", "SELECT * FROM t"), sync()]),
        "1 Z:I"
    );
    let lone = [
        bind("", "s", &[]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ]
    .concat();
    assert_eq!(
        client.ask(std::slice::from_ref(&lone)),
        "2 T D:1 C:SELECT_1 Z:I"
    );
    other.query("ALTER TABLE t ADD COLUMN b int DEFAULT 2");
    assert_eq!(
        client.ask(std::slice::from_ref(&lone)),
        "2 T D:1|2 C:SELECT_1 Z:I"
    );
    other.query("ALTER TABLE t ADD COLUMN c int DEFAULT 3");
    // Pipelined twice it is not alone.
    client.send(&[lone.clone(), lone.clone()].concat());
    assert_eq!(client.batches(2), "E:0A000 Z:I E:0A000 Z:I");
    assert_eq!(
        client.ask(std::slice::from_ref(&lone)),
        "2 T D:1|2|3 C:SELECT_1 Z:I"
    );
    // In a transaction it is an error, as ever.
    other.query("ALTER TABLE t DROP COLUMN b");
    client.query("BEGIN");
    assert_eq!(client.ask(std::slice::from_ref(&lone)), "E:0A000 Z:E");
    client.query("ROLLBACK");
    for _ in 0..3 {
        assert_eq!(
            client.ask(std::slice::from_ref(&lone)),
            "2 T D:1|3 C:SELECT_1 Z:I"
        );
    }
    // Without Describe the client would take the rows for what they were.
    other.query("ALTER TABLE t DROP COLUMN c");
    let blind = [bind("", "s", &[]), execute("", 0), sync()].concat();
    assert_eq!(client.ask(std::slice::from_ref(&blind)), "E:0A000 Z:I");
    assert_eq!(
        client.ask(std::slice::from_ref(&blind)),
        "2 D:1 C:SELECT_1 Z:I"
    );
    pgdog.stop();
}

/// Two clients take turns on one server: round trips that pgdog made to it meanwhile.
fn take_turns(turns: usize, settings: [&[(&str, &str)]; 2]) -> usize {
    let database = Postgres::shared().database("state");
    let mut admin = Postgres::shared().admin(&database);
    admin.query("DO $$BEGIN CREATE ROLE state_role; EXCEPTION WHEN duplicate_object THEN END$$");
    admin.query("GRANT state_role TO alice");
    let network = Forwarder::to(Postgres::shared().port());
    let pgdog = Config::empty()
        .general("default_pool_size = 1")
        .server(&database, network.port(), "")
        .user(ALICE, &database, &format!("password = {PASSWORD:?}"))
        .start();
    let mut clients = settings.map(|settings| {
        let mut client = pgdog.client(&database);
        for (name, value) in settings {
            client.query(&format!("SET {name} TO {value}"));
        }
        client
    });
    let look = "SELECT current_setting('search_path'), current_setting('TimeZone'), \
        current_setting('statement_timeout'), current_user, ";
    for (client, own) in clients.iter_mut().zip(["'one'", "'other'"]) {
        client.ask(&[parse("s", &format!("{look}{own}")), sync()]);
    }
    let run_s = [bind("", "s", &[]), execute("", 0), sync()].concat();
    let expected = clients
        .each_mut()
        .map(|client| client.ask(std::slice::from_ref(&run_s)));
    assert_ne!(expected[0], expected[1]);
    let before = network.round_trips();
    for turn in 0..turns {
        for (client, expected) in clients.iter_mut().zip(&expected) {
            assert_eq!(
                client.ask(std::slice::from_ref(&run_s)),
                *expected,
                "turn {turn}"
            );
        }
    }
    let made = network.round_trips() - before;
    println!("{made} round trips for {} requests", 2 * turns);
    assert!(made >= 2 * turns, "they were counted");
    pgdog.stop();
    made
}

/// With `PGDOG_TEST_LONG`; a tenth of it without.
#[test]
fn clients_with_all_kinds_of_different_state_alternate_a_hundred_thousand_times() {
    let turns = match std::env::var_os("PGDOG_TEST_LONG") {
        Some(_) => 50_000,
        None => 5_000,
    };
    let made = take_turns(
        turns,
        [
            &[
                ("search_path", "pg_catalog, \"Odd, one\""),
                ("TimeZone", "'Asia/Tokyo'"),
                ("statement_timeout", "'71s'"),
                ("ROLE", "state_role"),
            ],
            &[
                ("search_path", "public"),
                ("TimeZone", "'America/New_York'"),
                ("statement_timeout", "'72s'"),
            ],
        ],
    );
    // One for the query and at most one to switch, each turn of each client.
    assert!(made <= 4 * turns, "{made}");
}

#[test]
fn clients_with_equal_settings_cost_no_round_trip() {
    let turns = 2_000;
    let same: &[(&str, &str)] = &[("statement_timeout", "'71s'"), ("TimeZone", "'Asia/Tokyo'")];
    assert_eq!(take_turns(turns, [same, same]), 2 * turns);
}

#[test]
fn sql_prepare_shares_servers_if_so_configured() {
    let (pgdog, mut client, mut other) = two_clients("prepared_statements = \"full\"");
    client.query("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)");
    for _ in 0..2 {
        assert_eq!(
            client.query("PREPARE p (int) AS SELECT a FROM t WHERE a = $1;"),
            "C:PREPARE Z:I"
        );
        assert_eq!(other.query("PREPARE p AS SELECT 7"), "C:PREPARE Z:I");
        for _ in 0..3 {
            assert_eq!(client.query("EXECUTE p (2)"), "T D:2 C:SELECT_1 Z:I");
            assert_eq!(other.query("EXECUTE p"), "T D:7 C:SELECT_1 Z:I");
            assert_eq!(
                client.value("SELECT 1; EXPLAIN (COSTS off) EXECUTE p (1)"),
                "1"
            );
        }
        assert_eq!(
            client.query("CREATE TEMP TABLE u ON COMMIT DROP AS EXECUTE p (1)"),
            "C:SELECT_1 Z:I"
        );
        // One namespace with those of the protocol, in both directions.
        assert_eq!(client.query("PREPARE p AS SELECT 8"), "E:42P05 Z:I");
        assert_eq!(client.ask(&[parse("p", "SELECT 8"), sync()]), "E:42P05 Z:I");
        assert_eq!(
            client.ask(&[bind("", "p", &[Some("1")]), execute("", 0), sync()]),
            "2 D:1 C:SELECT_1 Z:I"
        );
        assert_eq!(client.ask(&[parse("s", "SELECT 9"), sync()]), "1 Z:I");
        assert_eq!(other.query("EXECUTE s"), "E:26000 Z:I");
        assert_eq!(client.query("EXECUTE s"), "T D:9 C:SELECT_1 Z:I");
        assert_eq!(
            client.ask(&[once("EXECUTE p (2)"), sync()]),
            "1 2 D:2 C:SELECT_1 Z:I"
        );
        // What fails is not there, and leaves everybody in step.
        assert_eq!(
            client.query("PREPARE bad AS SELECT a FROM nothing"),
            "E:42P01 Z:I"
        );
        assert_eq!(client.query("EXECUTE bad"), "E:26000 Z:I");
        assert_eq!(client.query("DEALLOCATE p"), "C:DEALLOCATE Z:I");
        assert_eq!(client.query("EXECUTE p (1)"), "E:26000 Z:I");
        assert_eq!(other.query("EXECUTE p"), "T D:7 C:SELECT_1 Z:I");
        assert_eq!(other.query("DEALLOCATE ALL"), "C:DEALLOCATE_ALL Z:I");
        assert_eq!(client.query("DEALLOCATE s"), "C:DEALLOCATE Z:I");
    }
    pgdog.stop();
}

#[test]
fn a_statement_that_can_no_longer_be_prepared_is_an_error_and_no_more() {
    let (pgdog, mut client, mut other) =
        two_clients("prepared_statements = \"full\"\nprepared_statements_limit = 1");
    client.query("CREATE TABLE t (a int)");
    assert_eq!(
        client.ask(&[parse("s", "SELECT a FROM t"), sync()]),
        "1 Z:I"
    );
    assert_eq!(
        client.query("PREPARE p AS SELECT a FROM t"),
        "C:PREPARE Z:I"
    );
    other.query("DROP TABLE t");
    // The limit of one has put both out of the server by now, or soon.
    for forgotten in ["x", "y"] {
        assert_eq!(other.ask(&[parse(forgotten, "SELECT 1"), sync()]), "1 Z:I");
    }
    assert_eq!(client.query("EXECUTE s"), "E:26000 Z:I");
    assert_eq!(client.query("EXECUTE p"), "E:26000 Z:I");
    assert_eq!(
        client.ask(&[bind("", "s", &[]), execute("", 0), sync()]),
        "E:42P01 Z:I"
    );
    assert_eq!(
        client.ask(&[bind("", "p", &[]), execute("", 0), sync()]),
        "E:42P01 Z:I"
    );
    assert_eq!(client.query("DEALLOCATE s"), "C:DEALLOCATE Z:I");
    assert_eq!(
        client.query("DEALLOCATE p; SELECT 1"),
        format!("C:DEALLOCATE {ONE}")
    );
    assert_eq!(client.query("DEALLOCATE p"), "E:26000 Z:I");
    assert_eq!(client.query("SELECT 1"), ONE);
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
