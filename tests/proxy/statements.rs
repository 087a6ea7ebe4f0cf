//! Named and unnamed statements in transaction mode: whose they are, and what ends or changes them.

use super::state::{once, two_clients};
use crate::support::wire::{bind, close, describe, execute, parse, query, sync};
use crate::support::{Config, Postgres, Wire};

const ONE: &str = "T D:1 C:SELECT_1 Z:I";

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
    let closed = [parse("", "SELECT 5"), close(b'S', ""), sync()];
    assert_eq!(client.ask(&closed), "1 3 Z:I");
    assert_eq!(all(&mut client), "E:26000 Z:I");
    pgdog.stop();
}

#[test]
fn a_statement_too_large_to_be_read_is_not_mistaken_for_the_one_before_it() {
    let large = format!("SELECT length('{}')", "x".repeat(17 << 20));
    let (bound, row) = (&again("")[..], "D:17825792 C:SELECT_1");
    for general in ["", "prepared_statements = \"extended_anonymous\""] {
        let (pgdog, mut client, _other) = two_clients(general);
        for small in ["SELECT 1", "SET statement_timeout = '5s'"] {
            let first = [&[parse("", small)][..], bound].concat();
            assert!(client.ask(&first).ends_with(" Z:I"), "{small}");
            let second = [&[parse("", &large)][..], bound].concat();
            assert_eq!(client.ask(&second), format!("1 2 {row} Z:I"), "{small}");
        }
        // Not in the next batch either.
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        client.ask(&[&[parse("", "SELECT 1")][..], bound].concat());
        client.send(&[&[parse("", &large), sync()][..], bound].concat().concat());
        assert_eq!(client.batches(2), format!("1 Z:T 2 {row} Z:T"));
        client.query("COMMIT");
        // A Query drops it, a name that is taken is refused.
        if general.is_empty() {
            client.ask(&[&[parse("", "SELECT 1")][..], bound].concat());
            assert_eq!(client.query(&large), format!("T {row} Z:I"));
            assert_eq!(client.ask(bound), "E:26000 Z:I");
        }
        assert_eq!(client.ask(&[parse("s", "SELECT 1"), sync()]), "1 Z:I");
        let twice = [&[parse("s", &large)][..], &again("s")].concat();
        assert_eq!(client.ask(&twice), "E:42P05 Z:I");
        assert_eq!(client.ask(&again("s")), "2 D:1 C:SELECT_1 Z:I");
        pgdog.stop();
    }
}

fn again(statement: &str) -> [Vec<u8>; 3] {
    [bind("", statement, &[]), execute("", 0), sync()]
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
