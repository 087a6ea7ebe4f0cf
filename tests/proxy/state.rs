//! Session state through the pipeline and through transactions: settings go where their client goes.

use crate::support::forwarder::Forwarder;
use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::wire::{bind, execute, parse, query, startup, sync, terminate, VERSION_3_0};
use crate::support::{Config, Pgdog, Postgres, Wire};

/// Two clients on one server.
pub(super) fn two_clients(general: &str) -> (Pgdog, Wire, Wire) {
    let database = Postgres::shared().database("state");
    let pgdog = Config::of(&database)
        .general(&format!("default_pool_size = 1\n{general}"))
        .start();
    let (one, other) = (pgdog.client(&database), pgdog.client(&database));
    (pgdog, one, other)
}

/// After `statements` the client has `expected` for `look`, whoever else uses the server, who has what he had; and
/// the server is free for him.
pub(super) fn follows(statements: &[&str], look: &str, expected: &str) {
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
pub(super) fn once(sql: &str) -> Vec<u8> {
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
fn what_a_function_has_set_stays_with_its_client_though_the_next_transaction_is_cut_off() {
    let (pgdog, mut client, mut other) = two_clients("");
    client.query(
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM set_config('TimeZone', 'Asia/Tokyo', false); END $$",
    );
    let before = other.value("SHOW TimeZone");
    client.send(&[query("SELECT f()"), query("BEGIN")].concat());
    assert_eq!(client.batches(2), "T D: C:SELECT_1 Z:I C:BEGIN Z:T");
    client.reset();
    assert_eq!(other.value("SHOW TimeZone"), before);
    pgdog.stop();
}
