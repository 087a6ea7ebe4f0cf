//! Cases of effects: every form of every statement that matters.

use proptest::prelude::*;

use super::*;
use crate::sql::set::{Scope, Value};

fn name(name: &str) -> Name {
    name.as_bytes().into()
}

fn set(scope: Scope, setting: &str, value: &str) -> Effect {
    Effect::Setting(Change::Set {
        scope,
        name: name(setting),
        value: Some(Value::Words(value.as_bytes().into())),
    })
}

fn session(setting: &str, value: &str) -> Effect {
    set(Scope::Session, setting, value)
}

fn default(scope: Scope, setting: &str) -> Effect {
    Effect::Setting(Change::Set {
        scope,
        name: name(setting),
        value: None,
    })
}

fn at(text: &str, start: usize, end: usize) -> NameAt {
    NameAt {
        name: name(text),
        start,
        end,
    }
}

fn read(text: &str) -> Effects {
    effects(text.as_bytes(), Dialect::default())
}

fn check(text: &str, traits: Traits, expected: &[Effect]) {
    let found = read(text);
    let steps: Vec<Effect> = found
        .steps()
        .iter()
        .map(|step| step.effect.clone())
        .collect();
    assert_eq!(steps, expected, "{text}");
    assert_eq!(found.traits, traits, "{text}");
}

#[test]
fn plain_statements_have_no_effects() {
    for text in [
        "",
        "SELECT abalance FROM pgbench_accounts WHERE aid = 1",
        "INSERT INTO t (a) VALUES ($1) RETURNING id",
        "UPDATE t SET a = 1 WHERE b = 2",
        "WITH x AS (SELECT 1) DELETE FROM t USING x",
        "VALUES (1)",
        "(SELECT 1) UNION (SELECT 2)",
        "SHOW ALL",
        "FETCH ALL FROM c",
        "LOCK TABLE t",
        "CREATE TABLE t (a int)",
        "CREATE INDEX ON t (lower(a))",
        "CREATE FUNCTION f() RETURNS int SET search_path TO pg_catalog LANGUAGE sql AS 'SELECT 1'",
        "CREATE TRIGGER t AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE TEMP TABLE t (a int) ON COMMIT DROP",
        "ALTER TABLE t SET (fillfactor = 10)",
        "ALTER ROLE r SET search_path TO a",
        "EXPLAIN (ANALYZE, COSTS OFF) SELECT 1",
    ] {
        assert!(read(text).is_plain(), "{text}: {:?}", read(text));
    }
}

#[test]
fn settings_in_every_form() {
    let cases = [
        ("SET a.b = 'c'", session("a.b", "'c'")),
        (
            "/* x */ set -- y\n Work_Mem to 64 ;",
            session("work_mem", "64"),
        ),
        ("SET SESSION x TO -1.5", session("x", "-1.5")),
        ("SET LOCAL x = On", set(Scope::Local, "x", "on")),
        ("SET local = 1", session("local", "1")),
        ("SET session TO a", session("session", "a")),
        (
            "SET search_path TO a, \"B\" , 'c d'",
            session("search_path", "a, \"B\", 'c d'"),
        ),
        ("SET search_path = ''", session("search_path", "''")),
        (
            "SET x TO '{\"a\": \"it''s\"}'",
            session("x", "'{\"a\": \"it''s\"}'"),
        ),
        (r"SET x TO 'a\b'", session("x", r"E'a\\b'")),
        ("SET \"TimeZone\" TO 'UTC'", session("timezone", "'UTC'")),
        ("SET TIME ZONE 'UTC'", session("timezone", "'UTC'")),
        ("SET TIME ZONE -7", session("timezone", "-7")),
        (
            "SET LOCAL TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE",
            set(Scope::Local, "timezone", "interval '-08:00' hour to minute"),
        ),
        ("SET TIME ZONE LOCAL", default(Scope::Session, "timezone")),
        ("SET TIME ZONE DEFAULT", default(Scope::Session, "timezone")),
        ("SET NAMES 'LATIN1'", session("client_encoding", "'LATIN1'")),
        ("SET NAMES", default(Scope::Session, "client_encoding")),
        ("SET names TO 1", session("names", "1")),
        ("SET SCHEMA 'a'", session("search_path", "'a'")),
        ("SET ROLE Bob", session("role", "bob")),
        ("SET ROLE \"Bob\"", session("role", "\"Bob\"")),
        ("SET LOCAL ROLE 'none'", set(Scope::Local, "role", "'none'")),
        ("SET role = x", session("role", "x")),
        ("RESET ROLE", default(Scope::Session, "role")),
        (
            "SET SESSION AUTHORIZATION bob",
            session("session_authorization", "bob"),
        ),
        (
            "SET SESSION SESSION AUTHORIZATION 'bob'",
            session("session_authorization", "'bob'"),
        ),
        (
            "SET LOCAL SESSION AUTHORIZATION DEFAULT",
            default(Scope::Local, "session_authorization"),
        ),
        (
            "RESET SESSION AUTHORIZATION",
            default(Scope::Session, "session_authorization"),
        ),
        ("SET XML OPTION DOCUMENT", session("xmloption", "document")),
        ("SET x TO DEFAULT", default(Scope::Session, "x")),
        ("RESET a.\"B\"", default(Scope::Session, "a.b")),
        ("RESET TIME ZONE", default(Scope::Session, "timezone")),
        ("RESET ALL", Effect::Setting(Change::ResetAll)),
        (
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            Effect::TransactionMode,
        ),
        (
            "SET LOCAL transaction_read_only = on",
            Effect::TransactionMode,
        ),
        ("SET CONSTRAINTS ALL DEFERRED", Effect::TransactionMode),
        ("RESET transaction_isolation", Effect::TransactionMode),
    ];
    for (text, expected) in cases {
        check(text, Traits::NONE, &[expected]);
    }
    check(
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY NOT DEFERRABLE",
        Traits::NONE,
        &[
            session("default_transaction_isolation", "'repeatable read'"),
            session("default_transaction_read_only", "on"),
            session("default_transaction_deferrable", "off"),
        ],
    );
    check(
        "SET search_path TO pg_temp, a",
        Traits::NONE,
        &[Effect::Temporary, session("search_path", "pg_temp, a")],
    );
}

#[test]
fn what_is_not_understood_is_said_to_be() {
    for text in [
        "SET",
        "SET x",
        "SET seed TO 0.5",
        "SET U&\"x\" TO 1",
        "SET x TO $1",
        "RESET",
        "RESET a b",
    ] {
        check(text, Traits::OPAQUE, &[Effect::SettingsUnknown]);
    }
    for text in [
        "UPDATE pg_settings SET setting = 'x' WHERE name = 'a'",
        "UPDATE ONLY (pg_settings) SET setting = 'x'",
        "UPDATE U&\"pg\\005fsettings\" SET setting = 'x'",
    ] {
        check(text, Traits::SETTINGS, &[Effect::SettingsUnknown]);
    }
    for text in [
        "DO $$ BEGIN END $$",
        "CALL p(1)",
        "COMMIT x",
        "PREPARE",
        "DISCARD x",
    ] {
        check(text, Traits::OPAQUE, &[]);
    }
    check("SELECT f()", Traits::CALLS, &[]);
}

#[test]
fn everything_else_that_a_session_keeps() {
    let cases = [
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", Effect::Begin),
        ("START TRANSACTION READ ONLY", Effect::Begin),
        ("COMMIT", Effect::Commit { chain: false }),
        ("END WORK AND NO CHAIN", Effect::Commit { chain: false }),
        (
            "COMMIT TRANSACTION AND CHAIN",
            Effect::Commit { chain: true },
        ),
        ("ABORT AND CHAIN", Effect::Rollback { chain: true }),
        ("ROLLBACK", Effect::Rollback { chain: false }),
        (
            "ROLLBACK WORK TO SAVEPOINT A",
            Effect::RollbackTo(name("a")),
        ),
        ("ROLLBACK TO \"A\"", Effect::RollbackTo(name("A"))),
        (
            "ROLLBACK TO savepoint",
            Effect::RollbackTo(name("savepoint")),
        ),
        ("SAVEPOINT a", Effect::Savepoint(name("a"))),
        ("RELEASE SAVEPOINT a", Effect::Release(name("a"))),
        ("PREPARE TRANSACTION 'x'", Effect::PrepareTransaction),
        ("COMMIT PREPARED 'x'", Effect::FinishPrepared),
        ("DISCARD ALL", Effect::DiscardAll),
        ("DISCARD TEMPORARY", Effect::DiscardTemporary),
        ("DISCARD PLANS", Effect::DiscardPlans),
        ("DISCARD SEQUENCES", Effect::DiscardSequences),
        (
            "PREPARE a (int) AS SELECT set_config('x', f($1), false)",
            Effect::Prepare(at("a", 8, 9)),
        ),
        ("DEALLOCATE \"A\"", Effect::Deallocate(at("A", 11, 14))),
        ("DEALLOCATE PREPARE a", Effect::Deallocate(at("a", 19, 20))),
        (
            "DEALLOCATE prepare",
            Effect::Deallocate(at("prepare", 11, 18)),
        ),
        ("DEALLOCATE ALL", Effect::DeallocateAll),
        (
            "DECLARE c BINARY NO SCROLL CURSOR WITH HOLD FOR SELECT 1",
            Effect::Declare {
                name: name("c"),
                hold: true,
            },
        ),
        (
            "DECLARE c CURSOR FOR SELECT 1",
            Effect::Declare {
                name: name("c"),
                hold: false,
            },
        ),
        (
            "DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1",
            Effect::Declare {
                name: name("c"),
                hold: false,
            },
        ),
        ("CLOSE c", Effect::Close(name("c"))),
        ("CLOSE ALL", Effect::CloseAll),
        ("LISTEN \"Ch\"", Effect::Listen(name("Ch"))),
        ("UNLISTEN ch", Effect::Unlisten(name("ch"))),
        ("UNLISTEN *", Effect::UnlistenAll),
        ("NOTIFY ch, 'x'", Effect::Notify(name("ch"))),
        ("LOAD 'x'", Effect::Load),
        ("DROP TABLE t", Effect::Drop),
    ];
    for (text, expected) in cases {
        check(text, Traits::NONE, &[expected]);
    }
    for text in [
        "CREATE TEMP TABLE t (a int)",
        "CREATE LOCAL TEMPORARY TABLE IF NOT EXISTS t AS SELECT 1",
        "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
        "CREATE TEMP SEQUENCE s",
        "CREATE TEMP TABLE t (a int) ON COMMIT DELETE ROWS",
        "CREATE TABLE pg_temp.t (a int)",
        "CREATE TABLE pg_temp_3.t (a int)",
        "EXPLAIN ANALYZE CREATE TABLE pg_temp.t AS SELECT 1",
        "SELECT 1 INTO U&\"pg_t\\0065mp\".t",
        "SELECT 1 INTO TEMP t",
        "EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1",
    ] {
        check(text, Traits::TEMPORARY, &[Effect::Temporary]);
    }
    for text in [
        "SELECT 1 INTO UNLOGGED t FROM u",
        "WITH a AS (INSERT INTO u VALUES (1)) SELECT 1 INTO unlogged TABLE t",
        "CREATE TABLE t AS SELECT 1",
        "CREATE UNLOGGED TABLE IF NOT EXISTS t AS VALUES (1)",
        "CREATE MATERIALIZED VIEW v AS SELECT 1",
    ] {
        check(text, Traits::NONE, &[Effect::MakesTable]);
    }
    for text in ["INSERT INTO unlogged VALUES (1)", "CREATE TABLE t (a int)"] {
        check(text, Traits::NONE, &[]);
    }
    for (text, name) in [
        ("EXECUTE a (1)", at("a", 8, 9)),
        ("EXPLAIN (ANALYZE, FORMAT json) EXECUTE a", at("a", 39, 40)),
        ("EXPLAIN ANALYZE VERBOSE EXECUTE a", at("a", 32, 33)),
        ("CREATE TABLE t AS EXECUTE a", at("a", 26, 27)),
    ] {
        check(text, Traits::OPAQUE, &[Effect::Execute(name)]);
    }
    check("COPY t (a) FROM STDIN", Traits::COPY, &[]);
    check("SELECT pg_advisory_lock(1)", Traits::LOCKS, &[]);
}

#[test]
fn statements_are_told_apart() {
    let found = read("BEGIN; ; SELECT 1; SET x = 1; EXECUTE a; COMMIT");
    let steps: Vec<(u32, Effect)> = found
        .steps()
        .iter()
        .map(|step| (step.statement, step.effect.clone()))
        .collect();
    assert_eq!(
        steps,
        [
            (0, Effect::Begin),
            (2, session("x", "1")),
            (3, Effect::Execute(at("a", 38, 39))),
            (4, Effect::Commit { chain: false }),
        ]
    );
    assert_eq!(found.statements, 5);
    assert_eq!(found.verb, K::Begin);
}

proptest! {
    #[test]
    fn hostile_texts_have_effects_or_none(data in any::<Vec<u8>>()) {
        fuzz_effects(&data);
    }

    #[test]
    fn hostile_statements_have_effects_or_none(text in "(SET|PREPARE|BEGIN|;|'|\\\\|\\$a\\$|/\\*|--|E'|[a-z( =,)\"]){0,40}") {
        fuzz_effects(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_read_without_panic(data: Vec<u8>) {
        effects(&data, Dialect::default());
    }

    #[test]
    fn any_words_are_read_without_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            "SET", "RESET", "SESSION", "LOCAL", "TO", "=", "a", "\"b\"", "'c'", ",", "(", ")", ".", "1",
            "ALL", "SELECT", "set_config", "::", "text", "$1", "true", "NULL", "PREPARE", "EXECUTE", "AS",
            "CREATE", "TEMP", "TABLE", "ON", "COMMIT", "DROP", "DECLARE", "CURSOR", "WITH", "HOLD", "AND",
            "CHAIN", "ROLLBACK", "EXPLAIN", "DEALLOCATE", "TRANSACTION", ";", "E'\\'", "[", "TIME", "ZONE",
        ]), 0..14)
    ) {
        let text = words.join(" ");
        for dialect in [Dialect::default(), Dialect { backslashes: true, overlapping: true }] {
            effects(text.as_bytes(), dialect);
        }
    }

    /// Blanks between tokens change nothing but offsets.
    #[test]
    fn comments_between_words_change_nothing(
        text in prop::sample::select(vec![
            "SET a . b = 'c'", "SELECT set_config ( 'a' , 'b' , false )", "RESET ALL",
            "CREATE TEMP TABLE t ( a int )", "COMMIT AND CHAIN", "SET SESSION AUTHORIZATION x",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        ]),
        blank in prop::sample::select(vec!["  ", "/* ; */", "/* /* ' */ */", "-- SET\n", "\n\t"]),
    ) {
        let spaced = format!("{blank}{}{blank}", text.replace(' ', blank));
        prop_assert_eq!(read(&spaced), read(text));
    }
}
