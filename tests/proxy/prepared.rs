//! Prepared statements that several clients share: where one comes from, what it means, when it goes.

use crate::support::postgres::LOCK_WAITS;
use crate::support::process::{poll, PATIENCE};
use crate::support::wire::{bind, describe, execute, parse, query, sync, Message};
use crate::support::{Config, Pgdog, Postgres, Wire};

/// Two clients on one server.
fn two_clients(general: &str) -> (Pgdog, Wire, Wire) {
    let database = Postgres::shared().database("prepared");
    let pgdog = Config::of(&database)
        .general(&format!("default_pool_size = 1\n{general}"))
        .start();
    let (one, other) = (pgdog.client(&database), pgdog.client(&database));
    (pgdog, one, other)
}

/// The types of a statement's parameters, by their OIDs.
fn parameter_types(replies: &[Message]) -> Vec<u32> {
    let described = replies.iter().find(|message| message.tag == b't');
    let body = &described.expect("a ParameterDescription").body[2..];
    let oid = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    body.chunks_exact(4).map(oid).collect()
}

#[test]
fn a_fresh_parse_after_ddl_has_fresh_types() {
    let (pgdog, mut client, mut other) = two_clients("");
    client.query("CREATE TABLE t (a int)");
    let prepare = |client: &mut Wire, name: &str, sql: &str| {
        client.send(&[parse(name, sql), describe(b'S', name), sync()].concat());
        client.read_until(b'Z')
    };
    let (insert, select) = ("INSERT INTO t VALUES ($1)", "SELECT * FROM t WHERE a = $1");
    for sql in [insert, select] {
        assert_eq!(parameter_types(&prepare(&mut client, sql, sql)), [23]);
    }
    client.query("ALTER TABLE t ALTER COLUMN a TYPE text");
    for (again, sql) in [("insert again", insert), ("select again", select)] {
        // Neither to the client that has it under another name already, nor to another client.
        assert_eq!(parameter_types(&prepare(&mut client, again, sql)), [25]);
        assert_eq!(parameter_types(&prepare(&mut other, sql, sql)), [25]);
    }
    let run = [bind("", insert, &[Some("text")]), execute("", 0), sync()];
    assert_eq!(other.ask(&run), "2 C:INSERT_0_1 Z:I");
    pgdog.stop();
}

#[test]
fn rows_are_as_they_were_described_or_refused() {
    let (pgdog, mut client, mut other) = two_clients("");
    client.query("CREATE TABLE t (a int, b text)");
    client.query("INSERT INTO t VALUES (1, 'x')");
    let sql = "SELECT * FROM t";
    let prepare = |name: &str| [parse(name, sql), describe(b'S', name), sync()];
    for client in [&mut client, &mut other] {
        assert_eq!(client.ask(&prepare("s")), "1 t T Z:I");
    }
    // The other's Parse had the server parse it anew: it is asked what rows there are, once for all.
    let twice = [&again("s")[..], &again("s")].concat();
    for _ in 0..2 {
        let rows = "2 D:1|x C:SELECT_1 Z:I";
        client.send(&twice.concat());
        assert_eq!(client.batches(2), format!("{rows} {rows}"));
    }
    other.query("ALTER TABLE t ADD COLUMN c int DEFAULT 3");
    assert_eq!(other.ask(&prepare("anew")), "1 t T Z:I");
    assert_eq!(other.ask(&again("anew")), "2 D:1|x|3 C:SELECT_1 Z:I");
    for _ in 0..2 {
        client.send(&again("s").concat());
        let replies = client.read_until(b'Z');
        assert_eq!(replies[0].field(b'C'), "0A000");
        let text = "cached plan must not change result type";
        assert_eq!(replies[0].field(b'M'), text);
        // pgjdbc looks at it, and prepares anew.
        assert_eq!(replies[0].field(b'R'), "RevalidateCachedQuery");
    }
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(client.ask(&again("s")), "E:0A000 Z:E");
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    // Who asks for the description each time, or anew, knows what comes.
    let described = [
        bind("", "s", &[]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    assert_eq!(client.ask(&described), "2 T D:1|x|3 C:SELECT_1 Z:I");
    assert_eq!(client.ask(&[describe(b'S', "s"), sync()]), "t T Z:I");
    assert_eq!(client.ask(&again("s")), "2 D:1|x|3 C:SELECT_1 Z:I");
    assert_eq!(other.ask(&again("anew")), "2 D:1|x|3 C:SELECT_1 Z:I");
    pgdog.stop();
}

#[test]
fn deallocate_by_a_simple_query_names_the_clients_statement() {
    let (pgdog, mut client, mut other) = two_clients("");
    for client in [&mut client, &mut other] {
        assert_eq!(client.ask(&[parse("s", "SELECT 1"), sync()]), "1 Z:I");
    }
    assert_eq!(client.query("DEALLOCATE s"), "C:DEALLOCATE Z:I");
    assert_eq!(client.query("DEALLOCATE s"), "E:26000 Z:I");
    assert_eq!(client.query("DEALLOCATE PREPARE \"s\""), "E:26000 Z:I");
    let run = [bind("", "s", &[]), execute("", 0), sync()];
    assert_eq!(client.ask(&run), "E:26000 Z:I");
    assert_eq!(
        other.ask(&run),
        "2 D:1 C:SELECT_1 Z:I",
        "it is another's, too"
    );
    pgdog.stop();
}

/// Executes a statement that was prepared by that name.
fn again(name: &str) -> [Vec<u8>; 3] {
    [bind("", name, &[]), execute("", 0), sync()]
}

#[test]
fn deallocate_within_a_named_statement_names_the_clients_statement() {
    let (pgdog, mut client, mut other) = two_clients("");
    for client in [&mut client, &mut other] {
        assert_eq!(client.ask(&[parse("s", "SELECT 1"), sync()]), "1 Z:I");
        assert_eq!(
            client.ask(&[parse("drop", "DEALLOCATE s"), sync()]),
            "1 Z:I"
        );
        assert_eq!(client.ask(&[describe(b'S', "drop"), sync()]), "t n Z:I");
    }
    assert_eq!(client.ask(&again("drop")), "2 C:DEALLOCATE Z:I");
    assert_eq!(
        other.ask(&again("s")),
        "2 D:1 C:SELECT_1 Z:I",
        "another's, too"
    );
    assert_eq!(client.ask(&again("s")), "E:26000 Z:I");
    assert_eq!(client.ask(&again("drop")), "2 E:26000 Z:I");
    // What the name means when it is executed, not when that was prepared.
    assert_eq!(client.ask(&[parse("s", "SELECT 2"), sync()]), "1 Z:I");
    let behind = [&again("s")[..2], &again("drop")].concat();
    assert_eq!(client.ask(&behind), "2 D:2 C:SELECT_1 2 C:DEALLOCATE Z:I");
    assert_eq!(client.ask(&again("s")), "E:26000 Z:I");
    assert_eq!(other.ask(&again("drop")), "2 C:DEALLOCATE Z:I");
    pgdog.stop();
}

#[test]
fn execute_within_a_named_statement_names_the_clients_statement() {
    let (pgdog, mut client, mut other) = two_clients("prepared_statements = \"full\"");
    assert_eq!(client.query("PREPARE p AS SELECT 1"), "C:PREPARE Z:I");
    assert_eq!(other.query("PREPARE p AS SELECT 2"), "C:PREPARE Z:I");
    for (client, value) in [(&mut client, "1"), (&mut other, "2")] {
        assert_eq!(client.ask(&[parse("run", "EXECUTE p"), sync()]), "1 Z:I");
        let described = client.ask(&[describe(b'S', "run"), sync()]);
        assert_eq!(described, "t T Z:I");
        assert_eq!(
            client.ask(&again("run")),
            format!("2 D:{value} C:SELECT_1 Z:I")
        );
    }
    pgdog.stop();
}

#[test]
fn the_unnamed_statement_is_bound_again_in_a_later_batch() {
    let (pgdog, mut client, mut other) = two_clients("");
    let long = format!("SELECT length('{}')", "x".repeat(20_000));
    for (text, value) in [("SELECT 1", "1"), (&*long, "20000")] {
        let first = [&[parse("", text)][..], &again("")].concat();
        assert_eq!(client.ask(&first), format!("1 2 D:{value} C:SELECT_1 Z:I"));
        for _ in 0..3 {
            let others = [&[parse("", "SELECT 2")][..], &again("")].concat();
            assert_eq!(other.ask(&others), "1 2 D:2 C:SELECT_1 Z:I");
            assert_eq!(
                client.ask(&again("")),
                format!("2 D:{value} C:SELECT_1 Z:I")
            );
        }
        // An execution that fails leaves it, a Parse that is skipped takes nothing away, a Query does.
        let fails = [
            parse("", "SELECT 1/$1::int"),
            bind("", "", &[Some("0")]),
            execute("", 0),
            sync(),
        ];
        assert_eq!(client.ask(&fails), "1 E:22012 Z:I");
        assert_eq!(other.query("SELECT 2"), "T D:2 C:SELECT_1 Z:I");
        let one = [bind("", "", &[Some("1")]), execute("", 0), sync()];
        assert_eq!(client.ask(&one), "2 D:1 C:SELECT_1 Z:I");
        client.query("SELECT 3");
        assert_eq!(client.ask(&again("")), "E:26000 Z:I");
    }
    // In one write, where the second batch waits for the first.
    let both = [&[parse("", "SELECT 5")][..], &again(""), &again("")].concat();
    client.send(&both.concat());
    assert_eq!(
        client.batches(2),
        "1 2 D:5 C:SELECT_1 Z:I 2 D:5 C:SELECT_1 Z:I"
    );
    pgdog.stop();
}

#[test]
fn a_lower_limit_closes_what_open_servers_have_prepared() {
    let database = Postgres::shared().database("prepared");
    let with = |limit| {
        let general = format!("default_pool_size = 1\nprepared_statements_limit = {limit}");
        Config::of(&database).general(&general)
    };
    let pgdog = with(100).start();
    let mut client = pgdog.client(&database);
    for n in 0..20 {
        let name = format!("s{n}");
        let prepare = [parse(&name, &format!("SELECT {n}")), sync()];
        assert_eq!(client.ask(&prepare), "1 Z:I");
    }
    let kept = "SELECT pg_backend_pid() || ' ' || count(*) FROM pg_prepared_statements \
        WHERE name LIKE '\\_\\_pgdog%'";
    let before = client.value(kept);
    let process = before.strip_suffix(" 20").expect("twenty statements");
    pgdog.reload(&with(3));
    assert_eq!(client.value(kept), format!("{process} 3"));
    assert_eq!(client.ask(&again("s0")), "2 D:0 C:SELECT_1 Z:I");
    assert_eq!(client.value(kept), format!("{process} 3"));
    pgdog.reload(&with(100));
    for n in 0..20 {
        let reply = format!("2 D:{n} C:SELECT_1 Z:I");
        assert_eq!(client.ask(&again(&format!("s{n}"))), reply);
    }
    assert_eq!(client.value(kept), format!("{process} 20"));
    pgdog.stop();
}

#[test]
fn eviction_closes_on_the_server_within_the_pipeline() {
    let (pgdog, mut client, _other) = two_clients("prepared_statements_limit = 2");
    // One write: each of these statements makes room for itself, and none waits for another.
    let mut pipeline = Vec::new();
    for n in 0..50 {
        let name = format!("s{n}");
        pipeline.extend(parse(&name, &format!("SELECT {n}")));
        pipeline.extend(bind("", &name, &[]));
        pipeline.extend(execute("", 0));
    }
    pipeline.extend(sync());
    client.send(&pipeline);
    let expected = (0..50).map(|n| format!("1 2 D:{n} C:SELECT_1 "));
    let replies = client.batches(1);
    assert_eq!(replies, expected.collect::<String>() + "Z:I");
    let kept = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE '\\_\\_pgdog%'";
    assert_eq!(client.value(kept), "2");
    pgdog.stop();
}

#[test]
fn a_batch_whose_plan_is_stale_is_not_sent_again_behind_another() {
    let database = Postgres::shared().database("stale");
    let pgdog = Config::of(&database)
        .general("workers = 1\ndefault_pool_size = 2")
        .start();
    let (mut client, mut other) = (pgdog.client(&database), pgdog.client(&database));
    client.query("CREATE TABLE t (a int)");
    assert_eq!(
        client.ask(&[parse("s", "SELECT * FROM t"), sync()]),
        "1 Z:I"
    );
    let batch = [
        bind("", "s", &[]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    assert_eq!(client.ask(&batch), "2 T C:SELECT_0 Z:I");
    let mut direct = Postgres::shared().admin(&database);
    direct.query("BEGIN; ALTER TABLE t ADD b int");
    client.send(&batch.concat());
    poll(PATIENCE, "the batch to wait", || {
        (Postgres::shared().value(&database, LOCK_WAITS) == "1").then_some(())
    });
    client.send(&query("SELECT 42"));
    assert_eq!(other.value("SELECT 1"), "1"); // by then that has been passed on
    direct.query("COMMIT");
    assert_eq!(client.batches(1), "E:0A000 Z:I");
    assert_eq!(client.batches(1), "T D:42 C:SELECT_1 Z:I");
    pgdog.stop();
}
