//! What a table with rows is for routing does not change behind its back: partitions and tables that inherit are sharded like
//! their relatives, and definitions after which rows would be looked for elsewhere are for empty tables.

use super::shards::Shards;
use super::support::wire::{run, sync};
use super::support::Wire;

/// One table is named; others are sharded where they have a tenant.
const TABLES: &str = r#"
[[sharded_tables]]
database = "$DATABASE"
name = "users"
column = "id"
data_type = "bigint"

[[sharded_tables]]
database = "$DATABASE"
column = "tenant"
data_type = "bigint"
"#;

#[track_caller]
fn all(client: &mut Wire, texts: &[&str]) {
    for sql in texts {
        let answer = client.query(sql);
        assert!(answer.starts_with("C:"), "{sql}: {answer}");
    }
}

/// How many rows each shard has of a table, least first.
fn spread(shards: &Shards, table: &str) -> Vec<usize> {
    let counts = shards.each(&format!("SELECT count(*) FROM {table}"));
    let mut counts: Vec<usize> = counts.iter().map(|count| count.parse().unwrap()).collect();
    counts.sort_unstable();
    counts
}

#[test]
fn partitions_have_their_rows_where_their_table_has_them() {
    let shards = Shards::start("shapes_parts", "workers = 2", TABLES);
    let client = &mut shards.client();
    all(
        client,
        &[
            "CREATE TABLE users (id bigint, year int, v int) PARTITION BY RANGE (year)",
            "CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (1) TO (2)",
            "CREATE TABLE users_2 PARTITION OF users FOR VALUES FROM (2) TO (3) PARTITION BY LIST (v)",
            "CREATE TABLE users_2_a PARTITION OF users_2 DEFAULT",
        ],
    );
    for id in 0..20 {
        let table = ["users", "users_1", "users", "users_2", "users_2_a"][id % 5];
        let year = ["1", "1", "2", "2", "2"][id % 5];
        let sql = format!("INSERT INTO {table} VALUES ({id}, {year}, {id})");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I", "{sql}");
    }
    for (table, rows) in [
        ("users", "20"),
        ("users_1", "8"),
        ("users_2", "12"),
        ("users_2_a", "12"),
    ] {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(client.value(&count), rows, "{table}");
    }
    let stored = spread(&shards, "users");
    assert_eq!(
        stored.iter().sum::<usize>(),
        20,
        "each row once: {stored:?}"
    );
    assert_eq!(client.value("SELECT v FROM users_1 WHERE id = 11"), "11");
    // One that was made past pgdog.
    for shard in 0..3 {
        let create = "CREATE TABLE users_3 PARTITION OF users FOR VALUES FROM (3) TO (4)";
        all(&mut shards.shard(shard), &["SET ROLE alice", create]);
    }
    for id in 0..6 {
        let sql = format!("INSERT INTO users VALUES ({id}, 3, 0)");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
    }
    assert_eq!(client.value("SELECT count(*) FROM users_3"), "6");
    assert_eq!(client.query("UPDATE users_3 SET v = 1"), "C:UPDATE_6 Z:I");
    shards.pgdog.stop();
}

#[test]
fn a_table_of_parts_that_are_sharded_otherwise_is_refused() {
    let shards = Shards::start("shapes_base", "workers = 2", TABLES);
    let client = &mut shards.client();
    all(
        client,
        &[
            "CREATE TABLE base (v int)",
            "CREATE TABLE child (tenant bigint) INHERITS (base)",
            "INSERT INTO child VALUES (1, 1)",
            "INSERT INTO child VALUES (1, 2)",
        ],
    );
    for sql in [
        "SELECT count(*) FROM base",
        "INSERT INTO base VALUES (1)",
        "UPDATE base SET v = 2",
        "COPY base TO STDOUT",
    ] {
        assert_eq!(client.query(sql), "E:0A000 Z:I", "{sql}");
    }
    assert_eq!(client.value("SELECT count(*) FROM child"), "2");
    assert_eq!(
        client.value("/* pgdog_shard: 0 */ SELECT count(*) < 3 FROM base"),
        "t"
    );
    shards.pgdog.stop();
}

/// What there is, for definitions that change it.
const MADE: [&str; 8] = [
    "CREATE TABLE users (id bigint, v int)",
    "CREATE TABLE orders (tenant bigint, v int)",
    "CREATE TABLE plain (k bigint, v int)",
    "CREATE TABLE yearly (id bigint, year int) PARTITION BY RANGE (year)",
    "CREATE TABLE year_1 PARTITION OF yearly FOR VALUES FROM (1) TO (2)",
    "CREATE TABLE parent (k bigint)",
    "CREATE SCHEMA s",
    "CREATE TABLE people (id bigint, v int)",
];

const ROWS: [&str; 6] = [
    "INSERT INTO users VALUES (1, 1)",
    "INSERT INTO orders VALUES (1, 1)",
    "INSERT INTO plain VALUES (1, 1)",
    "INSERT INTO yearly VALUES (1, 1)",
    "INSERT INTO parent VALUES (1)",
    "INSERT INTO people VALUES (1, 1)",
];

/// Each makes another table of one that there is; what is to be made before it.
const OTHERS: [(&str, &[&str]); 12] = [
    ("ALTER TABLE orders DROP tenant", &[]),
    ("ALTER TABLE orders RENAME tenant TO customer", &[]),
    (
        "ALTER TABLE orders DROP tenant, ADD tenant bigint DEFAULT 7",
        &[],
    ),
    (
        "ALTER TABLE orders ALTER tenant TYPE bigint USING tenant + 1",
        &[],
    ),
    ("ALTER TABLE plain ADD tenant bigint", &[]),
    ("ALTER TABLE plain RENAME k TO tenant", &[]),
    ("ALTER TABLE users RENAME TO persons", &[]),
    ("ALTER TABLE users RENAME id TO number", &[]),
    (
        "ALTER TABLE people RENAME TO users",
        &["DROP TABLE users CASCADE"],
    ),
    (
        "ALTER TABLE yearly RENAME TO users",
        &["DROP TABLE users CASCADE"],
    ),
    ("ALTER TABLE people INHERIT users", &[]),
    (
        "ALTER TABLE yearly ATTACH PARTITION users FOR VALUES FROM (7) TO (8)",
        &["ALTER TABLE users DROP v, ADD year int DEFAULT 7"],
    ),
];

#[test]
fn definitions_do_not_part_rows_from_their_shards() {
    let shards = Shards::start("shapes_rows", "workers = 2", TABLES);
    let mut client = shards.client();
    all(&mut client, &MADE);
    all(&mut client, &ROWS);
    for (sql, before) in OTHERS {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        for sql in before {
            let answer = client.query(sql);
            assert!(answer.starts_with("C:"), "{sql}: {answer}");
        }
        assert_eq!(client.query(sql), "E:0A000 Z:E", "{sql}");
        assert_eq!(client.query("COMMIT"), "C:ROLLBACK Z:I");
        if before.is_empty() {
            assert_eq!(client.query(sql), "E:0A000 Z:I", "{sql}");
            assert_eq!(
                client.ask(&[run(sql, &[]), sync()]),
                "1 2 E:0A000 Z:I",
                "{sql}"
            );
            let text = format!("INSERT INTO plain VALUES (2, 2); {sql}");
            assert_eq!(client.query(&text), "C:INSERT_0_1 E:0A000 Z:I", "{sql}");
        }
    }
    // Nothing of it was done anywhere.
    for (table, rows) in [
        ("users", "1"),
        ("orders", "1"),
        ("plain", "1"),
        ("people", "1"),
    ] {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(client.value(&count), rows, "{table}");
    }
    assert_eq!(spread(&shards, "users"), [0, 0, 1]);
    assert_eq!(spread(&shards, "plain"), [1, 1, 1]);
    assert_eq!(
        client.value("SELECT v FROM users JOIN people USING (v) WHERE users.id = 1"),
        "1"
    );
    // What has nothing to do with keys is done, rows or not.
    all(
        &mut client,
        &[
            "ALTER TABLE users ADD w int, ALTER v TYPE bigint USING v + 1",
            "ALTER TABLE orders RENAME v TO w",
            "ALTER TABLE orders RENAME TO bills",
            "ALTER TABLE bills ALTER tenant TYPE text",
            "ALTER TABLE plain RENAME TO simple",
            "ALTER TABLE simple SET SCHEMA s",
            "ALTER TABLE yearly DETACH PARTITION year_1",
        ],
    );
    assert_eq!(client.value("SELECT count(*) FROM bills"), "1");
    assert_eq!(client.value("SELECT count(*) FROM s.simple"), "1");
    shards.pgdog.stop();
}

#[test]
fn empty_tables_may_become_others() {
    let shards = Shards::start("shapes_empty", "workers = 2", TABLES);
    let mut client = shards.client();
    all(&mut client, &MADE);
    for (sql, before) in OTHERS {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        all(&mut client, before);
        assert_eq!(client.query(sql), "C:ALTER_TABLE Z:T", "{sql}");
        assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    }
    // Alone, and then it is what its columns say.
    all(&mut client, &["ALTER TABLE plain ADD tenant bigint"]);
    for tenant in 0..9 {
        let sql = format!("INSERT INTO plain (tenant) VALUES ({tenant})");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
    }
    assert_eq!(client.value("SELECT count(*) FROM plain"), "9");
    assert_eq!(spread(&shards, "plain").iter().sum::<usize>(), 9);
    // An older snapshot does not see whether it is empty.
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
    assert_eq!(client.query(begin), "C:BEGIN Z:T");
    assert_eq!(
        client.query("ALTER TABLE orders DROP tenant"),
        "E:0A000 Z:E"
    );
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    shards.pgdog.stop();
}
