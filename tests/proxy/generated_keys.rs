//! INSERT without the primary key of its table: `rewrite.primary_key`.

use std::collections::BTreeSet;

use super::shards::Shards;
use super::support::wire::{bind, describe, execute, parse, query, run, sync, Wire};

fn started(label: &str, mode: &str) -> (Shards, Wire) {
    let more = format!(
        "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\n\
        [[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"parts\"\ncolumn = \"owner\"\n\
        [rewrite]\nenabled = true\nsplit_inserts = \"rewrite\"\nprimary_key = {mode:?}\n"
    );
    let node = ["env", "NODE_ID=pgdog-5"];
    let shards = Shards::start_through(&node, label, "", &more);
    let mut client = shards.client();
    for sql in [
        "CREATE TABLE t (n int, id bigint PRIMARY KEY)",
        "CREATE TABLE parts (id bigserial PRIMARY KEY, owner bigint, n int DEFAULT 0)",
        "CREATE TABLE notes (id bigserial PRIMARY KEY, n int DEFAULT 0)",
        "CREATE TABLE own (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int)",
        "CREATE TABLE small (id serial PRIMARY KEY, n int)",
    ] {
        assert_eq!(client.query(sql), "C:CREATE_TABLE Z:I", "{sql}");
    }
    (shards, client)
}

fn ids(shards: &Shards, table: &str) -> Vec<Vec<i64>> {
    let of = |shard| {
        let rows = shards
            .shard(shard)
            .rows(&format!("SELECT id FROM {table} ORDER BY id"));
        rows.iter().map(|row| row[0].parse().unwrap()).collect()
    };
    (0..3).map(of).collect()
}

#[test]
fn rows_get_keys_that_no_other_shard_gives() {
    let (shards, mut client) = started("generated_keys", "rewrite");
    for sql in [
        "INSERT INTO t (n) VALUES (1)",
        "INSERT INTO t VALUES (2)",
        "INSERT INTO t (n, id) VALUES (3, DEFAULT)",
        "INSERT INTO parts (owner) VALUES (7)",
        "INSERT INTO parts VALUES (DEFAULT, 8, 9)",
        "INSERT INTO notes DEFAULT VALUES",
        "INSERT INTO notes (n) VALUES (1); INSERT INTO notes (n) VALUES (2)",
    ] {
        assert!(client.query(sql).starts_with("C:INSERT_0_1 "), "{sql}");
    }
    let before = ids(&shards, "t");
    for sql in [
        "EXPLAIN INSERT INTO t (n) VALUES (1)",
        "SELECT 1; EXPLAIN (COSTS OFF) INSERT INTO t VALUES (1)",
    ] {
        let explained = client.query(sql);
        assert!(explained.contains("Insert on t"), "{sql}: {explained}");
    }
    assert_eq!(ids(&shards, "t"), before);
    assert_eq!(
        client.query("INSERT INTO t (n) VALUES (10), (11), (12), (13) RETURNING n"),
        "T D:10 D:11 D:12 D:13 C:INSERT_0_4 Z:I"
    );
    assert_eq!(
        client.query("INSERT INTO parts (owner, n) VALUES (1, 1), (2, 1), (3, 1) RETURNING owner"),
        "T D:1 D:2 D:3 C:INSERT_0_3 Z:I"
    );
    // Prepared once, another key with every execution.
    let sql = "INSERT INTO t (n) VALUES ($1) RETURNING n";
    let answer = client.ask(&[parse("i", sql), describe(b'S', "i"), sync()]);
    assert_eq!(answer, "1 t T Z:I");
    for n in ["20", "21", "22"] {
        let batch = [bind("", "i", &[Some(n)]), execute("", 0), sync()];
        assert_eq!(client.ask(&batch), format!("2 D:{n} C:INSERT_0_1 Z:I"));
    }
    let batch = [
        run("INSERT INTO notes (n) VALUES ($1)", &[Some("5")]),
        run("INSERT INTO notes (n) VALUES ($1)", &[Some("6")]),
        sync(),
    ];
    assert_eq!(client.ask(&batch), "1 2 C:INSERT_0_1 1 2 C:INSERT_0_1 Z:I");
    // A row is where a look for its key goes, and no key is there twice.
    for table in ["t", "parts"] {
        let found = ids(&shards, table).concat();
        let different: BTreeSet<_> = found.iter().collect();
        assert_eq!(different.len(), found.len(), "{table}: {found:?}");
        assert!(found.iter().all(|id| id >> 12 & 1023 == 5), "{found:?}");
        for id in found {
            let sql = format!("SELECT count(*) FROM {table} WHERE id = {id}");
            assert_eq!(client.value(&sql), "1", "{table}");
        }
    }
    assert_eq!(client.value("SELECT count(*) FROM t"), "10");
    // The same on every shard.
    let notes = ids(&shards, "notes");
    assert_eq!(notes[0].len(), 5);
    assert!(notes.iter().all(|ids| *ids == notes[0]), "{notes:?}");
    shards.pgdog.stop();
}

#[test]
fn what_has_its_key_or_cannot_have_ours_is_as_it_was() {
    let (shards, mut client) = started("generated_not", "rewrite");
    for sql in [
        "INSERT INTO t VALUES (1, 1)",
        "INSERT INTO parts (id, owner) VALUES (5, 7)",
        "INSERT INTO small (n) VALUES (1)",
        "INSERT INTO own (n) VALUES (1)",
    ] {
        assert!(!client.query(sql).contains("E:"), "{sql}");
    }
    for table in ["small", "own"] {
        assert_eq!(client.value(&format!("SELECT id FROM {table}")), "1");
    }
    for sql in [
        "INSERT INTO notes (n) SELECT n FROM small",
        "WITH a AS (INSERT INTO notes (n) VALUES (1) RETURNING n) SELECT * FROM a",
        "PREPARE p AS INSERT INTO notes (n) VALUES ($1)",
    ] {
        let answer = match sql.starts_with("PREPARE") {
            true => {
                client.query(sql);
                client.query("EXECUTE p (1)")
            }
            false => client.query(sql),
        };
        assert_eq!(answer, "E:0A000 Z:I", "{sql}");
    }
    assert_eq!(client.value("SELECT count(*) FROM notes"), "0");
    shards.pgdog.stop();
}

#[test]
fn only_omnisharded_tables_get_keys_or_none_does() {
    let (shards, mut client) = started("generated_omni", "rewrite_omni");
    assert_eq!(
        client.query("INSERT INTO notes (n) VALUES (1)"),
        "C:INSERT_0_1 Z:I"
    );
    let notes = ids(&shards, "notes");
    assert!(notes.iter().all(|ids| *ids == notes[0] && ids[0] > 1 << 40));
    client.query("INSERT INTO parts (owner) VALUES (7)");
    assert_eq!(ids(&shards, "parts").concat(), [1], "its shard has counted");
    shards.pgdog.stop();

    let (shards, mut client) = started("generated_error", "error");
    for sql in [
        "INSERT INTO notes (n) VALUES (1)",
        "INSERT INTO notes DEFAULT VALUES",
        "INSERT INTO parts (owner) VALUES (7)",
        "INSERT INTO notes (n) SELECT 1",
        "INSERT INTO notes (id, n) VALUES (1, 1), (DEFAULT, 2)",
    ] {
        client.send(&query(sql));
        let answer = client.read_until(b'Z');
        assert_eq!(answer[0].field(b'C'), "23502", "{sql}");
        assert_eq!(answer[0].field(b'M'), "primary key \"id\" is missing");
    }
    let text = "INSERT INTO notes (n) VALUES ($1)";
    let answer = client.ask(&[run(text, &[Some("1")]), sync()]);
    assert!(answer.ends_with("E:23502 Z:I"), "{answer}");
    assert_eq!(
        client.query("INSERT INTO notes (id, n) VALUES (1, 1)"),
        "C:INSERT_0_1 Z:I"
    );
    shards.pgdog.stop();
}
