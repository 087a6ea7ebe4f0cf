//! INSERT of a query's rows into tables that are everywhere, where each shard would find or make others.

use super::asked::{same, started};
use super::shards::all;
use super::support::wire::{bind, describe, execute, parse, run, sync, Wire};

/// Rows of a query are those that the first shard has found and made.
#[test]
fn rows_of_a_query_are_stored_alike() {
    let (shards, mut client) = started("asked_echo");
    all(
        &mut client,
        &[
            "INSERT INTO plain SELECT n, 'x' FROM generate_series(1, 30) n",
            "SET DateStyle = 'SQL, DMY'",
            "SET IntervalStyle = 'sql_standard'",
            "SET extra_float_digits = 0",
            "SET TimeZone = 'Asia/Kolkata'",
            "CREATE TABLE typed (n bigint GENERATED ALWAYS AS IDENTITY, d timestamptz, f double precision, g real, \
                i interval, b bytea, a text[], j jsonb, t text, c char(5), l int, w bigint GENERATED ALWAYS AS (l * 2) STORED) \
                PARTITION BY LIST (t)",
            "CREATE TABLE typed_x PARTITION OF typed FOR VALUES IN ('x')",
            "CREATE TABLE typed_other PARTITION OF typed DEFAULT",
        ],
    );
    for (sql, tag) in [
        ("INSERT INTO notes (v) SELECT a FROM plain WHERE a < 9", "INSERT_0_8"),
        ("INSERT INTO notes (v, r) SELECT a, random() FROM plain ORDER BY random() LIMIT 5;", "INSERT_0_5"),
        ("INSERT INTO notes (v) SELECT count(*) FROM plain GROUP BY a % 3", "INSERT_0_3"),
        ("INSERT INTO notes (id, v) SELECT id, v FROM notes ON CONFLICT DO NOTHING", "INSERT_0_0"),
        ("INSERT INTO notes (id, v) SELECT id + (v % 2), 77 FROM notes ON CONFLICT (id) DO NOTHING -- some", ""),
        (
            "INSERT INTO plain SELECT nextval('numbers'), gen_random_uuid()::text FROM generate_series(1, 2500)",
            "INSERT_0_2500",
        ),
        ("INSERT INTO plain SELECT 1, 'y' WHERE false AND random() > 2", "INSERT_0_0"),
        (
            "INSERT INTO typed (d, f, g, i, b, a, j, t, c, l) SELECT clock_timestamp(), random() / 3, random() / 3, \
                n * interval '1 month 1 hour', decode('00ff5c27', 'hex'), ARRAY['a\"b', NULL, E'\\\\'], \
                '{\"k\": \"it''s\"}', CASE WHEN n % 2 = 0 THEN 'x' ELSE E'a\\\\b''c' END, 'ab', n FROM generate_series(1, 40) n",
            "INSERT_0_40",
        ),
    ] {
        let answer = client.query(sql);
        match tag {
            "" => assert!(answer.starts_with("C:INSERT_0_"), "{sql}: {answer}"),
            tag => assert_eq!(answer, format!("C:{tag} Z:I"), "{sql}"),
        }
        for table in ["notes", "plain", "typed"] {
            same(&shards, table, sql);
        }
    }
    let sums = (0..3).map(|shard| {
        let mut shard = shards.shard(shard);
        shard.query("SET extra_float_digits = 3");
        shard.value("SELECT concat(sum(f), ' ', sum(g), ' ', max(d), ' ', count(*) FILTER (WHERE t = 'x')) FROM typed")
    });
    let sums: Vec<_> = sums.collect();
    assert!(
        sums.windows(2).all(|pair| pair[0] == pair[1]),
        "to the last bit: {sums:?}"
    );
    // What it returns, in its order, as SQLAlchemy asks for many rows at once.
    let many = "INSERT INTO notes AS n (v, r) SELECT p0::int, random() FROM (VALUES (7, 2), (8, 0), (9, 1)) s (p0, counter) \
        ORDER BY counter RETURNING n.v, half, at = now() AS at, id > 0";
    let expected = "D:8|4|t|t D:9|4|t|t D:7|3|t|t C:INSERT_0_3";
    assert_eq!(client.query(many), format!("T {expected} Z:I"));
    let ask = |client: &mut Wire, rows| {
        client.ask(&[
            parse("", many),
            bind("", "", &[]),
            describe(b'P', ""),
            execute("", rows),
            sync(),
        ])
    };
    assert_eq!(ask(&mut client, 0), format!("1 2 T {expected} Z:I"));
    assert_eq!(ask(&mut client, 2), "1 2 T D:8|4|t|t D:9|4|t|t s Z:I");
    let parts = "INSERT INTO typed (t, l) SELECT CASE WHEN n % 2 = 0 THEN 'x' ELSE 'y' END, n FROM generate_series(1, 4) n \
        ORDER BY random() * 0, n DESC LIMIT 3 RETURNING typed.l, w";
    assert_eq!(client.query(parts), "T D:4|8 D:3|6 D:2|4 C:INSERT_0_3 Z:I");
    let none = "INSERT INTO plain SELECT 1, 'y' WHERE random() > 2 RETURNING *";
    assert_eq!(client.query(none), "T C:INSERT_0_0 Z:I");
    same(&shards, "typed", parts);
    same(&shards, "notes", many);
    let open = "INSERT INTO notes (v, r) SELECT 1, random() RETURNING v + $1";
    assert_eq!(
        client.ask(&[run(open, &[Some("1")]), sync()]),
        "E:0A000 Z:I"
    );
    // Settings are the client's again.
    assert_eq!(client.value("SHOW DateStyle"), "SQL, DMY");
    // In both protocols, and undone with its transaction.
    let insert = "INSERT INTO notes (v, at) SELECT $1::int + n, $2 FROM generate_series(1, 3) n";
    let values = [Some("100"), Some("01/02/2003 04:05:06")];
    assert_eq!(
        client.ask(&[run(insert, &values), sync()]),
        "1 2 C:INSERT_0_3 Z:I"
    );
    let batch = [
        parse("", insert),
        bind("", "", &values),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    assert_eq!(client.ask(&batch), "1 2 n C:INSERT_0_3 Z:I");
    let count = "SELECT count(*) FROM notes WHERE at = '2003-02-01 04:05:06+05:30'";
    assert_eq!(client.value(count), "6");
    all(
        &mut client,
        &["BEGIN", "INSERT INTO notes (v) SELECT 1000", "ROLLBACK"],
    );
    assert_eq!(
        client.value("SELECT count(*) FROM notes WHERE v = 1000"),
        "0"
    );
    let twice = "INSERT INTO notes (id) SELECT 1 + n * 0 FROM generate_series(1, 2) n";
    assert_eq!(client.query(twice), "E:23505 Z:I");
    same(&shards, "notes", "all");
    shards.pgdog.stop();
}
