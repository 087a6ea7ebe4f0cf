//! What a table with rows is for routing does not change behind its back: partitions and tables that inherit are sharded like
//! their relatives, and definitions after which rows would be looked for elsewhere are for empty tables.

use super::shards::{all, Shards};
use super::support::wire::{run, sync};

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
const OTHERS: [(&str, &[&str]); 14] = [
    (
        "DROP DOMAIN number CASCADE",
        &[
            "CREATE DOMAIN number AS bigint",
            "ALTER TABLE orders ALTER tenant TYPE number",
        ],
    ),
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
    ("ALTER TABLE orders ALTER tenant TYPE text", &[]),
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
        let answer = client.query(sql);
        assert!(answer.ends_with("E:0A000 Z:E"), "{sql}: {answer}");
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
            "ALTER TABLE bills ALTER tenant TYPE int",
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
        let answer = client.query(sql);
        let done = ["C:ALTER_TABLE Z:T", "C:DROP_DOMAIN Z:T"];
        assert!(
            done.iter().any(|done| answer.ends_with(done)),
            "{sql}: {answer}"
        );
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
    // In the transaction that makes it another it is used by its key or not at all.
    all(
        &mut client,
        &["BEGIN", "ALTER TABLE people ADD tenant bigint"],
    );
    for tenant in 0..6 {
        let sql = format!("INSERT INTO people (id, tenant) VALUES (1, {tenant})");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:T");
    }
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(client.value("SELECT count(*) FROM people"), "6");
    for (change, sql) in [
        (
            "ALTER TABLE parent ADD tenant bigint",
            "SELECT count(*) FROM parent",
        ),
        (
            "TRUNCATE plain; ALTER TABLE plain DROP tenant",
            "INSERT INTO plain (k) VALUES (1)",
        ),
    ] {
        all(&mut client, &["BEGIN", change]);
        assert_eq!(client.query(sql), "E:0A000 Z:E", "{change}; {sql}");
        assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    }
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

/// A row is where the key says that its default makes.
#[test]
fn rows_are_where_the_keys_of_their_defaults_are_looked_for() {
    let shards = Shards::start("shapes_keys", "workers = 2", TABLES);
    let mut client = shards.client();
    all(
        &mut client,
        &[
            "CREATE TABLE seven (tenant bigint DEFAULT 7, v int)",
            "CREATE TABLE numbered (tenant bigserial, v int)",
            "CREATE TABLE identified (tenant bigint GENERATED BY DEFAULT AS IDENTITY, v int)",
            "CREATE TABLE timed (tenant bigint DEFAULT extract(epoch FROM now()), v int)",
            "CREATE TABLE taken (tenant bigint, v int)",
        ],
    );
    for table in ["seven", "numbered", "identified", "timed", "taken"] {
        for sql in [
            format!("INSERT INTO {table} (v) VALUES (1) RETURNING tenant"),
            format!("INSERT INTO {table} VALUES (DEFAULT, 1) RETURNING tenant"),
        ] {
            let answer = client.query(&sql);
            if table == "taken" {
                assert_eq!(answer, "E:0A000 Z:I", "{sql}: it has none");
                continue;
            }
            let key = answer.split(' ').find_map(|word| word.strip_prefix("D:"));
            let key = key.unwrap_or_else(|| panic!("{sql}: {answer}"));
            let count = format!("SELECT count(*) > 0 FROM {table} WHERE tenant = {key}");
            assert_eq!(client.value(&count), "t", "{sql}: {answer}");
        }
        let sql = format!("INSERT INTO {table} VALUES (7, 1)");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I", "{sql}");
    }
    // Each shard has a function that gives a key of its own.
    let mut own = [None; 3];
    for key in 100..200 {
        let sql = format!("INSERT INTO taken VALUES ({key})");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
        let here = shards.each(&format!("SELECT count(*) FROM taken WHERE tenant = {key}"));
        let shard = here.iter().position(|count| count == "1").unwrap();
        own[shard].get_or_insert(key);
        if own.iter().all(Option::is_some) {
            break;
        }
    }
    for (shard, key) in own.iter().enumerate() {
        let function = |schema: &str| {
            let body = format!("'SELECT {}::bigint'", key.unwrap());
            format!("CREATE FUNCTION {schema}.own_key() RETURNS bigint LANGUAGE sql AS {body}")
        };
        let mut shard = shards.shard(shard);
        all(
            &mut shard,
            &[
                "CREATE SCHEMA pgdog",
                "GRANT USAGE ON SCHEMA pgdog TO PUBLIC",
                &function("pgdog"),
                &function("public"),
            ],
        );
    }
    // Those of our schema run where the row is to be, others on the first shard.
    for (schema, spreads) in [("pgdog", true), ("public", false)] {
        let table = format!("made_{schema}");
        let create =
            format!("CREATE TABLE {table} (tenant bigint DEFAULT {schema}.own_key(), v int)");
        all(&mut client, &[&create]);
        for _ in 0..30 {
            let sql = format!("INSERT INTO {table} (v) VALUES (1)");
            assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
        }
        let found = own.map(|key| {
            let sql = format!(
                "SELECT count(*) FROM {table} WHERE tenant = {}",
                key.unwrap()
            );
            client.value(&sql).parse::<usize>().unwrap()
        });
        assert_eq!(found.iter().sum::<usize>(), 30, "{schema}: {found:?}");
        assert_eq!(found[0] < 30, spreads, "{schema}: {found:?}");
    }
    shards.pgdog.stop();
}

/// What goes with something else is not named: what has its name then is nobody's guess until the transaction has ended.
#[test]
fn names_that_a_cascade_uncovers_are_refused() {
    let shards = Shards::start("shapes_cascade", "workers = 2", TABLES);
    let mut client = shards.client();
    all(
        &mut client,
        &[
            "CREATE SCHEMA s",
            "CREATE TABLE base (tenant bigint, v int)",
            "CREATE VIEW s.b AS SELECT * FROM base",
            "CREATE TABLE b (v int)",
            "INSERT INTO b VALUES (1)",
        ],
    );
    assert_eq!(client.query("SET search_path = s, public"), "C:SET Z:I");
    assert_eq!(client.value("SELECT count(*) FROM b"), "0");
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    let dropped = client.query("DROP TABLE base CASCADE");
    assert!(dropped.ends_with("C:DROP_TABLE Z:T"), "{dropped}");
    assert_eq!(client.value("SELECT count(*) FROM public.b"), "1");
    assert_eq!(client.query("SELECT count(*) FROM b"), "E:0A000 Z:E");
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    let dropped = client.query("DROP TABLE base CASCADE");
    assert!(dropped.ends_with("C:DROP_TABLE Z:I"), "{dropped}");
    assert_eq!(client.value("SELECT count(*) FROM b"), "1");
    shards.pgdog.stop();
}

/// A transaction that changes what a view reads has locks that whoever asks for the view's definition would wait for.
#[test]
fn a_definition_under_way_holds_nobody_up() {
    let shards = Shards::start("shapes_locks", "workers = 2", TABLES);
    let (mut client, mut other) = (shards.client(), shards.client());
    all(
        &mut client,
        &[
            "CREATE TABLE base (tenant bigint, v int)",
            "CREATE TABLE beside (tenant bigint)",
            "CREATE VIEW seen AS SELECT * FROM base",
            "CREATE VIEW twice AS SELECT * FROM seen",
            "CREATE VIEW apart AS SELECT * FROM beside",
        ],
    );
    assert_eq!(client.value("SELECT count(*) FROM twice"), "0");
    all(
        &mut client,
        &["BEGIN", "ALTER TABLE base ALTER v SET DEFAULT 5"],
    );
    // Forgets what is known, on all cores.
    all(&mut other, &["CREATE TABLE another (tenant bigint)"]);
    let mut third = shards.client();
    for table in ["beside", "apart", "another"] {
        let sql = format!("SELECT count(*) FROM {table}");
        for asking in [&mut other, &mut third] {
            assert_eq!(asking.value(&sql), "0", "{table}");
        }
    }
    // Nor itself.
    assert_eq!(client.query("SELECT count(*) FROM nothing"), "E:0A000 Z:E");
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    all(&mut client, &["BEGIN", "DROP VIEW twice", "COMMIT"]);
    assert_eq!(other.value("SELECT count(*) FROM seen"), "0");
    shards.pgdog.stop();
}
