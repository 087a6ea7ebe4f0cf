//! Keys that a query translates (`lookup_query`): rows are where it says, or nowhere.

use super::shards::Shards;
use super::support::process::{poll, PATIENCE};
use super::support::wire::{bind, copy_data, copy_done, describe, execute, parse, run, sync, Wire};

fn table(query: &str, more: &str) -> String {
    format!(
        "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"orders\"\ncolumn = \"tenant\"\n\
        data_type = \"varchar\"\nlookup_query = \"{query}\"\n{more}\n\
        [rewrite]\nenabled = true\nsplit_inserts = \"rewrite\"\nshard_key = \"rewrite\"\n"
    )
}

const BY_NUMBER: &str = "SELECT shard FROM public.tenants WHERE name = $1";

/// Tenants a, b and c on shards 2, 0 and 1.
fn started(label: &str, general: &str, query: &str, more: &str) -> (Shards, Wire) {
    let shards = Shards::start(label, general, &table(query, more));
    let mut client = shards.client();
    for sql in [
        "CREATE TABLE tenants (name text, shard text)",
        "CREATE TABLE orders (tenant text, n int)",
        "INSERT INTO tenants VALUES ('a', '2'), ('b', '0'), ('c', '1')",
    ] {
        assert!(client.query(sql).starts_with("C:"), "{sql}");
    }
    (shards, client)
}

fn by_number(label: &str, general: &str) -> (Shards, Wire) {
    started(label, general, BY_NUMBER, "lookup_result = \"shard\"")
}

fn stored(shards: &Shards) -> Vec<String> {
    shards.each("SELECT coalesce(string_agg(tenant || n, ' ' ORDER BY tenant, n), '') FROM orders")
}

#[test]
fn rows_are_where_the_query_says() {
    let (shards, mut client) = by_number("lookups", "");
    assert_eq!(
        client.query("INSERT INTO orders VALUES ('a', 1)"),
        "C:INSERT_0_1 Z:I"
    );
    let text = "INSERT INTO orders VALUES ($1, 2)";
    assert_eq!(
        client.ask(&[run(text, &[Some("b")]), sync()]),
        "1 2 C:INSERT_0_1 Z:I"
    );
    // Rows for several shards, and a statement of the protocol that is prepared once.
    assert_eq!(
        client.query("INSERT INTO orders VALUES ('c', 3), ('a', 4), ('b', 5) RETURNING n"),
        "T D:3 D:4 D:5 C:INSERT_0_3 Z:I"
    );
    let insert = "INSERT INTO orders (n, tenant) VALUES ($1, $2)";
    assert_eq!(client.ask(&[parse("i", insert), sync()]), "1 Z:I");
    let each = |n: &'static str, tenant| bind("", "i", &[Some(n), Some(tenant)]);
    let batch = [
        each("6", "c"),
        describe(b'P', ""),
        execute("", 0),
        each("7", "b"),
        execute("", 0),
        sync(),
    ];
    assert_eq!(client.ask(&batch), "2 n C:INSERT_0_1 2 C:INSERT_0_1 Z:I");
    assert_eq!(stored(&shards), ["b2 b5 b7", "c3 c6", "a1 a4"]);
    for (sql, found) in [
        ("SELECT n FROM orders WHERE tenant = 'a' ORDER BY n", "1 4"),
        (
            "SELECT n FROM orders WHERE tenant IN ('a', 'c') ORDER BY n",
            "1 3 4 6",
        ),
        (
            "SELECT n FROM orders WHERE tenant = 'a' OR tenant = 'b' ORDER BY n",
            "1 2 4 5 7",
        ),
        (
            "/* pgdog_sharding_key: a */ SELECT count(*) FROM orders",
            "2",
        ),
    ] {
        let rows = client.rows(sql);
        let numbers: Vec<_> = rows.iter().map(|row| &*row[0]).collect();
        assert_eq!(numbers.join(" "), found, "{sql}");
    }
    let plan = client.rows("EXPLAIN SELECT * FROM orders WHERE tenant IN ('b', 'c')");
    let told = plan
        .iter()
        .any(|line| line[0].contains("pgdog: shards 0, 1"));
    assert!(told, "{plan:?}");
    // A row moves, an EXECUTE finds its own.
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(
        client.query("UPDATE orders SET tenant = 'b' WHERE tenant = 'a' AND n = 1"),
        "C:UPDATE_1 Z:T"
    );
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    client.query("PREPARE p AS DELETE FROM orders WHERE tenant = $1");
    assert_eq!(client.query("EXECUTE p ('c')"), "C:DELETE_2 Z:I");
    assert_eq!(stored(&shards), ["b1 b2 b5 b7", "", "a4"]);
    shards.pgdog.stop();
}

#[test]
fn a_value_is_hashed_like_any_key() {
    let query = "SELECT lower(name) FROM public.tenants WHERE name = $1";
    let (shards, mut client) = started("lookups_value", "", query, "");
    for (n, tenant) in ["Up", "Down", "Left", "Right"].into_iter().enumerate() {
        let sql = format!("INSERT INTO tenants VALUES ('{tenant}')");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
        let sql = format!("INSERT INTO orders VALUES ('{tenant}', {n})");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
    }
    let mut admin = shards.shard(0);
    admin.query("CREATE TABLE hashed (t text) PARTITION BY HASH (t)");
    for shard in 0..3 {
        let rows = shards.shard(shard).rows("SELECT lower(tenant) FROM orders");
        for row in rows {
            let sql = format!(
                "SELECT satisfies_hash_partition('hashed'::regclass, 3, {shard}, '{}'::text)",
                row[0]
            );
            assert_eq!(admin.value(&sql), "t", "{} on {shard}", row[0]);
        }
    }
    assert_eq!(client.value("SELECT count(*) FROM orders"), "4");
    shards.pgdog.stop();
}

#[test]
fn what_the_query_does_not_say_is_an_error() {
    let (shards, mut client) = by_number("lookups_errors", "");
    client.query(
        "INSERT INTO tenants VALUES ('three', '3'), ('word', 'x'), ('null', NULL), ('twice', '0'), ('twice', '1')",
    );
    for (tenant, code) in [
        ("nobody", "22023"),
        ("null", "22023"),
        ("three", "58000"),
        ("word", "58000"),
        ("twice", "58000"),
        ("it''s \\ one", "22023"),
    ] {
        for sql in [
            format!("INSERT INTO orders VALUES ('{tenant}', 1)"),
            format!("SELECT * FROM orders WHERE tenant = '{tenant}'"),
            format!("INSERT INTO orders VALUES ('a', 1), ('{tenant}', 2)"),
        ] {
            assert_eq!(client.query(&sql), format!("E:{code} Z:I"), "{sql}");
        }
    }
    let batch = [
        run("INSERT INTO orders VALUES ($1, 1)", &[Some("a")]),
        run("INSERT INTO orders VALUES ($1, 1)", &[Some("nobody")]),
        sync(),
    ];
    assert!(client.ask(&batch).ends_with("E:22023 Z:I"));
    // Within a transaction it fails it, as any error.
    client.query("BEGIN");
    client.query("INSERT INTO orders VALUES ('a', 1)");
    assert_eq!(
        client.query("INSERT INTO orders VALUES ('nobody', 1)"),
        "E:22023 Z:E"
    );
    client.query("ROLLBACK");
    for shard in 0..3 {
        shards.shard(shard).query("DROP TABLE tenants");
    }
    let sql = "INSERT INTO orders VALUES ('unheard of', 1)";
    assert_eq!(client.query(sql), "E:58000 Z:I");
    assert_eq!(stored(&shards), ["", "", ""]);
    shards.pgdog.stop();
}

#[test]
fn translations_are_remembered_until_a_change_passes() {
    let (shards, mut client) = by_number("lookups_known", "");
    let asked = |client: &mut Wire| {
        client.query("INSERT INTO orders VALUES ('a', 1)");
    };
    asked(&mut client);
    // Behind pgdog's back: it goes on as it has learnt, for a while.
    for shard in 0..3 {
        shards
            .shard(shard)
            .query("UPDATE tenants SET shard = '1' WHERE name = 'a'");
    }
    asked(&mut client);
    assert_eq!(stored(&shards), ["", "", "a1 a1"]);
    // Through pgdog: the next one is told.
    client.query("BEGIN");
    client.query("UPDATE tenants SET shard = '0' WHERE name = 'a'");
    asked(&mut client);
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    client.query("DELETE FROM orders");
    asked(&mut client);
    assert_eq!(stored(&shards), ["a1", "", ""]);
    shards.pgdog.stop();
}

#[test]
fn copied_rows_are_looked_up_too() {
    let (shards, mut client) = by_number("lookups_copy", "");
    let copy = |client: &mut Wire, data: &str, piece: usize| {
        assert_eq!(client.begin_copy("COPY orders FROM STDIN"), "G");
        let messages: Vec<_> = data.as_bytes().chunks(piece).map(copy_data).collect();
        client.ask(&[messages.concat(), copy_done()])
    };
    for piece in [1, 5, 1000] {
        client.query("UPDATE tenants SET name = name"); // all is forgotten
        let data = "a\t1\nb\t2\nc\t3\na\t4\nb\t5";
        assert_eq!(copy(&mut client, data, piece), "C:COPY_5 Z:I");
        assert_eq!(stored(&shards), ["b2 b5", "c3", "a1 a4"]);
        assert_eq!(client.query("DELETE FROM orders"), "C:DELETE_5 Z:I");
    }
    for data in ["a\t1\nnobody\t2\nb\t3\n", "a\t1\nnobody\t2"] {
        assert_eq!(copy(&mut client, data, 1000), "E:22023 Z:I");
    }
    assert_eq!(stored(&shards), ["", "", ""]);
    assert_eq!(copy(&mut client, "c\t1\n", 2), "C:COPY_1 Z:I");
    shards.pgdog.stop();
}

#[test]
fn a_lookup_that_takes_too_long_is_given_up() {
    let query = "SELECT shard FROM public.tenants, \
        pg_sleep(CASE name WHEN 'b' THEN 60 ELSE 0 END) WHERE name = $1";
    let general = "sharding_lookup_timeout = 3000";
    let more = "lookup_result = \"shard\"";
    let (shards, mut client) = started("lookups_slow", general, query, more);
    let insert = |tenant: &str| format!("INSERT INTO orders VALUES ('{tenant}', 1)");
    assert_eq!(client.query(&insert("b")), "E:57014 Z:I");
    // Its connection was given up, the session was not.
    poll(PATIENCE, "another key", || {
        (client.query(&insert("a")) == "C:INSERT_0_1 Z:I").then_some(())
    });
    assert_eq!(stored(&shards), ["", "", "a1"]);
    shards.pgdog.stop();
}
