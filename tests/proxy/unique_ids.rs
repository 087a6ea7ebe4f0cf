//! `pgdog.unique_id()` on sharded databases.

use std::collections::BTreeSet;

use super::shards::Shards;
use super::support::wire::{bind, describe, execute, parse, run, sync, Wire};

const TABLE: &str = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\n\
    [rewrite]\nenabled = true\nsplit_inserts = \"rewrite\"\n";

fn started(label: &str, node: &str, general: &str) -> (Shards, Wire) {
    let node = format!("NODE_ID={node}");
    let shards = Shards::start_through(&["env", &node], label, general, TABLE);
    let mut client = shards.client();
    client.query("CREATE TABLE t (id bigint PRIMARY KEY, n int)");
    client.query("CREATE TABLE notes (id bigint PRIMARY KEY, n int)");
    (shards, client)
}

/// All keys; each is on the shard where a look for it goes.
fn keys(shards: &Shards, client: &mut Wire) -> BTreeSet<i64> {
    let mut found = BTreeSet::new();
    for number in 0..3 {
        let rows = shards.shard(number).rows("SELECT id, n FROM t");
        for row in rows {
            let sql = format!("SELECT n FROM t WHERE id = {}", row[0]);
            assert_eq!(client.value(&sql), row[1]);
            assert!(found.insert(row[0].parse().unwrap()), "{} twice", row[0]);
        }
    }
    found
}

#[test]
fn each_call_is_an_id_of_its_own_and_a_row_is_on_its_shard() {
    let (shards, mut client) = started("unique_ids", "pgdog-7", "");
    for n in 0..12 {
        let sql = format!("INSERT INTO t (n, id) VALUES ({n}, pgdog.unique_id())");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
    }
    // Several rows, with what they got in their order.
    let rows = client.rows(
        "INSERT INTO t VALUES (pgdog.unique_id(), 20), (pgdog.unique_id(), 21), (pgdog.unique_id(), 22), (pgdog.unique_id(), 23) RETURNING n, id",
    );
    let numbers: Vec<_> = rows.iter().map(|row| &*row[0]).collect();
    assert_eq!(numbers, ["20", "21", "22", "23"]);
    let ids: Vec<i64> = rows.iter().map(|row| row[1].parse().unwrap()).collect();
    assert!(ids.is_sorted());
    assert!(ids.iter().all(|id| id >> 12 & 1023 == 7), "{ids:?}");
    // Prepared once, another with every execution; parameters keep their numbers and types.
    let sql = "INSERT INTO t (id, n) VALUES (pgdog.unique_id(), $1) RETURNING n";
    let answer = client.ask(&[parse("new", sql), describe(b'S', "new"), sync()]);
    assert_eq!(answer, "1 t T Z:I");
    for n in 100..110 {
        let batch = [
            bind("", "new", &[Some(&n.to_string())]),
            execute("", 0),
            sync(),
        ];
        assert_eq!(client.ask(&batch), format!("2 D:{n} C:INSERT_0_1 Z:I"));
    }
    let several = "INSERT INTO t VALUES (pgdog.unique_id(), $1), (pgdog.unique_id(), $2)";
    let batch = [run(several, &[Some("200"), Some("201")]), sync()];
    assert_eq!(client.ask(&batch), "1 2 C:INSERT_0_2 Z:I");
    assert_eq!(keys(&shards, &mut client).len(), 12 + 4 + 10 + 2);
    // The same on every shard, in a transaction too.
    client.query("BEGIN");
    assert_eq!(
        client.query("INSERT INTO notes VALUES (pgdog.unique_id(), 1)"),
        "C:INSERT_0_1 Z:T"
    );
    client.query("COMMIT");
    let notes = shards.each("SELECT id FROM notes");
    assert!(notes.iter().all(|id| *id == notes[0]), "{notes:?}");
    let found = client.rows("SELECT pgdog.unique_id() AS a, pgdog.unique_id() AS b");
    assert_ne!(found[0][0], found[0][1]);
    assert_eq!(
        client.query("SELECT n FROM t WHERE id = pgdog.unique_id()"),
        "T C:SELECT_0 Z:I"
    );
    // Each row of a query would have the same.
    let sql = "INSERT INTO notes SELECT pgdog.unique_id(), n FROM notes";
    assert_eq!(client.query(sql), "E:0A000 Z:I");
    shards.pgdog.stop();
}

#[test]
fn clients_of_all_cores_get_different_ids() {
    let (shards, mut client) = started(
        "unique_ids_many",
        "a-63",
        "unique_id_function = \"compact\"",
    );
    std::thread::scope(|scope| {
        for worker in 0..6 {
            let shards = &shards;
            scope.spawn(move || {
                let mut client = shards.client();
                for _ in 0..20 {
                    let sql = format!("INSERT INTO t VALUES (pgdog.unique_id(), {worker})");
                    assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
                }
            });
        }
    });
    let found = keys(&shards, &mut client);
    assert_eq!(found.len(), 120);
    assert!(found.iter().all(|id| *id < 1 << 53 && id >> 6 & 63 == 63));
    shards.pgdog.stop();
}

#[test]
fn without_a_node_there_are_none() {
    let (shards, mut client) = started("unique_ids_none", "nobody", "");
    let sql = "INSERT INTO t VALUES (pgdog.unique_id(), 1)";
    assert_eq!(client.query(sql), "E:F0000 Z:I");
    assert_eq!(client.ask(&[run(sql, &[]), sync()]), "1 E:F0000 Z:I");
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    shards.pgdog.stop();
}
