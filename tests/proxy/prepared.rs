//! Prepared statements that several clients share: where one comes from, what it means, when it goes.

use crate::support::wire::{bind, describe, execute, parse, sync, Message};
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
