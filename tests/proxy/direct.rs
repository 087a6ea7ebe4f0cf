//! Statements that one value sends to one shard, again and again: what is known of them must not outlive what it follows
//! from.

use super::admin::{show, values};
use super::shards::Shards;
use super::support::postgres::LOCK_WAITS;
use super::support::process::{poll, PATIENCE};
use super::support::wire::{bind, describe, execute, parse, query, run, sync, Wire};

/// Key 0 is on the first of these shards, key 1 on the second, all others are on the last of all.
fn lists(column: &str, first: u32, second: u32) -> String {
    format!(
        "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nschema = \"public\"\nname = \"t\"\ncolumn = \"{column}\"\n\
        [[sharded_tables.mapping]]\nvalues = [0]\nshard = {first}\n\
        [[sharded_tables.mapping]]\nvalues = [1]\nshard = {second}\n\
        [[sharded_tables.mapping]]\nshard = 2\n"
    )
}

/// Each shard has a row of every key, which says where it is.
fn started(label: &str) -> (Shards, Wire) {
    let shards = Shards::start(
        label,
        "workers = 1\nreload_schema_on_ddl = true",
        &lists("id", 0, 1),
    );
    let mut client = shards.client();
    client.query("CREATE TABLE t (id bigint, other bigint, place text)");
    for shard in 0..3 {
        let rows = format!(
            "INSERT INTO t SELECT id, 2 - id, 'shard {shard}' FROM generate_series(0, 2) id"
        );
        assert_eq!(shards.shard(shard).query(&rows), "C:INSERT_0_3 Z:I");
    }
    (shards, client)
}

/// Where a row with this key is read, in all ways to ask for it; each more than once.
#[track_caller]
fn place(client: &mut Wire, key: u32) -> String {
    let text = key.to_string();
    let mut places = Vec::new();
    for _ in 0..3 {
        places.push(client.value(&format!("SELECT place FROM t WHERE id = {key}")));
        let sql = "SELECT place FROM t WHERE id = $1";
        places.push(answer(client, &[run(sql, &[Some(&text)]), sync()]));
        assert_eq!(client.ask(&[parse("named", sql), sync()]), "1 Z:I");
        let bound = [
            bind("", "named", &[Some(&text)]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ];
        places.push(answer(client, &bound));
        let close = super::support::wire::close(b'S', "named");
        assert_eq!(client.ask(&[close, sync()]), "3 Z:I");
    }
    places.dedup();
    places.join(", ")
}

/// The value of the only row.
#[track_caller]
fn answer(client: &mut Wire, messages: &[Vec<u8>]) -> String {
    client.send(&messages.concat());
    let answer = client.read_until(b'Z');
    let mut rows = answer.iter().filter(|message| message.tag == b'D');
    let row = rows.next().expect("a row");
    assert!(rows.next().is_none(), "one row");
    row.values()[0].clone().expect("not null")
}

#[track_caller]
fn is_on(client: &mut Wire, places: [u32; 3]) {
    for (key, shard) in (0..).zip(places) {
        assert_eq!(place(client, key), format!("shard {shard}"), "key {key}");
    }
}

#[test]
fn a_key_is_looked_for_where_its_rows_are() {
    let (shards, mut client) = started("direct_keys");
    is_on(&mut client, [0, 1, 2]);
    for key in 0..3 {
        let changed = client.query(&format!("UPDATE t SET place = 'changed' WHERE id = {key}"));
        assert_eq!(changed, "C:UPDATE_1 Z:I");
        let changed = client.ask(&[
            run(
                "DELETE FROM t WHERE id = $1 AND place = 'changed'",
                &[Some("7")],
            ),
            sync(),
        ]);
        assert_eq!(changed, "1 2 C:DELETE_0 Z:I");
    }
    let changed = "SELECT string_agg(id::text, ' ') FROM t WHERE place = 'changed'";
    assert_eq!(shards.each(changed), ["0", "1", "2"]);
    // An error is the server's own, and the session goes on.
    assert_eq!(
        client.query("SELECT 1 / (id - id) FROM t WHERE id = 1"),
        "E:22012 Z:I".replace("E", "T E")
    );
    assert_eq!(
        client.query("SELECT 1 / (id - id) FROM t WHERE id = 2"),
        "E:22012 Z:I".replace("E", "T E")
    );
    // They are counted like others.
    let mut admin = shards.pgdog.admin();
    let listed = show(&mut admin, "QUERY_CACHE 'update t'");
    assert_eq!(values(&listed[0], "hits direct multi"), "2 3 0");
    let listed = show(&mut admin, "QUERY_CACHE 'delete from t'");
    assert_eq!(values(&listed[0], "hits direct multi"), "2 3 0");
    shards.pgdog.stop();
}

#[test]
fn what_the_session_asks_for_counts_more() {
    let (shards, mut client) = started("direct_session");
    is_on(&mut client, [0, 1, 2]);
    client.query("SET pgdog.shard = 2");
    is_on(&mut client, [2, 2, 2]);
    client.query("RESET pgdog.shard");
    is_on(&mut client, [0, 1, 2]);
    client.query("SET pgdog.sharding_key = '1'");
    is_on(&mut client, [1, 1, 1]);
    client.query("RESET pgdog.sharding_key");
    assert_eq!(
        client.value("/* pgdog_shard: 1 */ SELECT place FROM t WHERE id = 2"),
        "shard 1"
    );
    is_on(&mut client, [0, 1, 2]);
    // Another table of that name, which is everywhere.
    for sql in [
        "CREATE SCHEMA s",
        "CREATE TABLE s.t (id bigint, place text)",
        "INSERT INTO s.t VALUES (0, 'everywhere')",
    ] {
        assert!(client.query(sql).starts_with("C:"), "{sql}");
    }
    client.query("SET search_path = s, public");
    assert_eq!(place(&mut client, 0), "everywhere");
    assert_eq!(
        client.query("UPDATE t SET place = 'all of them' WHERE id = 0"),
        "C:UPDATE_1 Z:I"
    );
    assert_eq!(shards.each("SELECT place FROM s.t"), ["all of them"; 3]);
    client.query("RESET search_path");
    is_on(&mut client, [0, 1, 2]);
    shards.pgdog.stop();
}

#[test]
fn in_a_transaction_it_is_a_part_of_that() {
    let (shards, mut client) = started("direct_transaction");
    is_on(&mut client, [0, 1, 2]);
    for sql in [
        "BEGIN",
        "UPDATE t SET place = 'mine' WHERE id = 0",
        "UPDATE t SET place = 'mine' WHERE id = 1",
    ] {
        assert!(client.query(sql).starts_with("C:"), "{sql}");
    }
    let read = |key: u32| query(&format!("SELECT place FROM t WHERE id = {key}"));
    for key in 0..2 {
        assert_eq!(client.ask(&[read(key)]), "T D:mine C:SELECT_1 Z:T");
    }
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    is_on(&mut client, [0, 1, 2]);
    // What it has of its own on a server it keeps, and goes there.
    client.query("SET pgdog.shard = 1");
    client.query("CREATE TEMPORARY TABLE t (id bigint, place text)");
    client.query("INSERT INTO t VALUES (1, 'temporary')");
    assert_eq!(place(&mut client, 1), "temporary");
    client.query("DROP TABLE pg_temp.t");
    client.query("RESET pgdog.shard");
    is_on(&mut client, [0, 1, 2]);
    shards.pgdog.stop();
}

#[test]
fn a_table_that_has_become_another_is_another() {
    let (shards, mut client) = started("direct_changed");
    let mut other = shards.client();
    is_on(&mut client, [0, 1, 2]);
    for sql in [
        "DROP TABLE t",
        "CREATE TABLE u (id bigint, place text)",
        "CREATE VIEW t AS SELECT id, place FROM u",
    ] {
        assert!(other.query(sql).starts_with("C:"), "{sql}");
    }
    let viewed = client.query("SELECT place FROM t WHERE id = 1");
    assert_eq!(
        viewed,
        other.query("/* anew */ SELECT t.place FROM t WHERE t.id = 1")
    );
    shards.pgdog.stop();
}

#[test]
fn rows_are_looked_for_elsewhere_after_a_reload() {
    let (shards, mut client) = started("direct_reload");
    is_on(&mut client, [0, 1, 2]);
    shards.reload(&lists("id", 1, 0));
    is_on(&mut client, [1, 0, 2]);
    // By another column: this one says nothing any more.
    shards.reload(&lists("other", 0, 1));
    assert_eq!(
        client
            .rows("SELECT place FROM t WHERE id = 1 ORDER BY place")
            .len(),
        3
    );
    assert_eq!(
        client.value("SELECT place FROM t WHERE other = 1"),
        "shard 1"
    );
    shards.reload(&lists("id", 0, 1));
    is_on(&mut client, [0, 1, 2]);
    shards.pgdog.stop();
}

#[test]
fn it_is_cancelled_like_any_other() {
    let (shards, mut client) = started("direct_cancel");
    let key = client.key();
    for _ in 0..3 {
        assert_eq!(
            client.query("DELETE FROM t WHERE id = 1 AND place = 'x'"),
            "C:DELETE_0 Z:I"
        );
    }
    let mut holder = shards.shard(1);
    holder.query("BEGIN; LOCK TABLE t");
    client.send(&query("DELETE FROM t WHERE id = 1 AND place = 'y'"));
    poll(PATIENCE, "it to wait", || {
        (shards.shard(1).value(LOCK_WAITS) == "1").then_some(())
    });
    Wire::cancel(shards.pgdog.port(), &key);
    assert_eq!(client.batches(1), "E:57014 Z:I");
    holder.query("ROLLBACK");
    assert_eq!(
        client.query("DELETE FROM t WHERE id = 1 AND place = 'y'"),
        "C:DELETE_0 Z:I"
    );
    shards.pgdog.stop();
}
