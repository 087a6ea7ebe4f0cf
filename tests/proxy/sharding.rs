//! Sharded tables: the same statements on one PostgreSQL and on three shards give the same answers, or a refusal; and each
//! row is on the shard of its key.

use super::shards::Shards;
use super::support::postgres::{Postgres, ALICE, PASSWORD};
use super::support::wire::{bind, describe, execute, parse, run, startup, sync, Wire, VERSION_3_0};

const TABLES: &str = "
[[sharded_tables]]
database = \"$DATABASE\"
name = \"users\"
column = \"id\"
data_type = \"bigint\"

[[sharded_tables]]
database = \"$DATABASE\"
name = \"payments\"
column = \"user_id\"
data_type = \"bigint\"
";

const SCHEMA: [&str; 3] = [
    "CREATE TABLE users (id bigint PRIMARY KEY, name text COLLATE \"C\", age int)",
    "CREATE TABLE payments (id bigint, user_id bigint REFERENCES users, amount numeric(10, 2), at timestamptz)",
    "CREATE TABLE countries (code text PRIMARY KEY, name text)",
];

/// The same database on three shards, and on one server.
pub(super) struct Pair {
    pub(super) shards: Shards,
    pub(super) one: Wire,
    pub(super) many: Wire,
}

impl Pair {
    pub(super) fn start(label: &str, general: &str, more: &str) -> Self {
        let shards = Shards::start(label, general, &format!("{TABLES}{more}"));
        let database = Postgres::shared().database(&format!("{label}_one"));
        let one = Postgres::shared().admin(&database);
        let many = shards.client();
        let mut pair = Self { shards, one, many };
        for sql in SCHEMA {
            pair.same(sql);
        }
        pair
    }

    /// With 40 users, three payments of each, and some countries.
    pub(super) fn filled(label: &str) -> Self {
        let mut pair = Self::start(label, "", "");
        for id in 0..40 {
            let age = if id % 7 == 0 {
                "NULL".to_owned()
            } else {
                (20 + id % 5).to_string()
            };
            pair.same(&format!(
                "INSERT INTO users (id, name, age) VALUES ({id}, 'name {}', {age})",
                id % 9
            ));
            for number in 0..3 {
                let amount = f64::from(id * 7 + number * 13) / 4.0 - 20.0;
                pair.same(&format!(
                    "INSERT INTO payments VALUES ({}, {id}, {amount}, '2026-01-{:02} 12:00:00+00')",
                    id * 3 + number,
                    1 + (id + number) % 28
                ));
            }
        }
        pair.same(
            "INSERT INTO countries VALUES ('de', 'Germany'), ('fr', 'France'), ('it', 'Italy')",
        );
        pair
    }

    /// Both answer a simple query alike.
    pub(super) fn same(&mut self, sql: &str) {
        let (expected, found) = (self.one.query(sql), self.many.query(sql));
        assert_eq!(found, expected, "{sql}");
    }

    /// Both answer a statement with values alike.
    pub(super) fn same_with(&mut self, sql: &str, values: &[Option<&str>]) {
        let batch = [
            parse("", sql),
            bind("", "", values),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ];
        let (expected, found) = (self.one.ask(&batch), self.many.ask(&batch));
        assert_eq!(found, expected, "{sql} {values:?}");
    }

    /// Both answer a batch alike.
    fn same_batch(&mut self, what: &str, batch: &[Vec<u8>]) {
        let (expected, found) = (self.one.ask(batch), self.many.ask(batch));
        assert_eq!(found, expected, "{what}");
    }

    pub(super) fn refused(&mut self, sql: &str) {
        let answer = self.many.query(sql);
        assert!(answer.starts_with("E:0A000 Z:"), "{sql}: {answer}");
    }
}

#[test]
fn rows_are_on_the_shards_of_their_keys() {
    let mut pair = Pair::start("sharding_keys", "expanded_explain = true", "");
    for id in [-5_i64, 0, 1, 2, 3, 77, 4_000_000_000, i64::MAX] {
        pair.same(&format!("INSERT INTO users VALUES ({id}, 'x', 1)"));
        pair.same_with(
            "INSERT INTO payments (amount, user_id) VALUES ($1, $2)",
            &[Some("1.5"), Some(&id.to_string())],
        );
    }
    for (number, misplaced) in (0..3).map(|shard| {
        let sql =             "SELECT (SELECT count(*) FROM users WHERE NOT here(id)) + (SELECT count(*) FROM payments WHERE NOT here(user_id)) \
             FROM (SELECT 1) s";
        // PostgreSQL's own opinion: a table partitioned by hash into as many parts.
        let mut direct = pair.shards.shard(shard);
        direct.query("CREATE TABLE parts (k bigint) PARTITION BY HASH (k)");
        direct.query(&format!(
            "CREATE FUNCTION here(bigint) RETURNS bool LANGUAGE sql AS \
             $$SELECT satisfies_hash_partition('parts'::regclass, 3, {shard}, $1)$$"
        ));
        (shard, direct.value(sql))
    }) {
        assert_eq!(misplaced, "0", "shard {number}");
    }
    assert!(pair
        .shards
        .each("SELECT count(*) FROM users")
        .iter()
        .all(|count| count != "8"));
    for sql in [
        "SELECT name FROM users WHERE id = 77",
        "SELECT name FROM users WHERE 77 = id AND age = 1",
        "SELECT u.name, p.amount FROM users u JOIN payments p ON p.user_id = u.id WHERE u.id = 3",
        "UPDATE users SET name = 'y' WHERE id = 2",
        "SELECT name FROM users WHERE id = 2 FOR UPDATE",
        "DELETE FROM payments WHERE user_id = 1",
        "SELECT count(*) FROM payments WHERE user_id = 1",
        "SELECT * FROM users WHERE id = 12345",
        "SELECT * FROM users WHERE id = '077'",
        "INSERT INTO users VALUES (77, 'z', 2)",
        "INSERT INTO users VALUES (77, 'z', 2) ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING *",
        "WITH u AS (SELECT * FROM users WHERE id = 77) SELECT name FROM u",
    ] {
        pair.same(sql);
    }
    let shard_of = |client: &mut Wire, id: i64| {
        let plan = client.rows(&format!(
            "EXPLAIN (COSTS off) SELECT * FROM users WHERE id = {id}"
        ));
        plan.last().unwrap()[0].clone()
    };
    let told: std::collections::BTreeSet<_> =
        (0..20).map(|id| shard_of(&mut pair.many, id)).collect();
    assert_eq!(
        told.into_iter().collect::<Vec<_>>(),
        ["pgdog: shard 0", "pgdog: shard 1", "pgdog: shard 2"]
    );
    let plan = pair.many.rows("EXPLAIN SELECT count(*) FROM users");
    assert!(
        plan.iter().any(|row| row[0] == "pgdog: shards 0, 1, 2"),
        "{plan:?}"
    );
    pair.shards.pgdog.stop();
}

#[test]
fn queries_over_shards_answer_as_one_server() {
    let mut pair = Pair::filled("sharding_select");
    for sql in [
        "SELECT count(*) FROM users",
        "SELECT count(*), count(age), sum(age), avg(age), min(name), max(age) FROM users",
        "SELECT id, name FROM users ORDER BY id",
        "SELECT id FROM users ORDER BY id DESC LIMIT 5",
        "SELECT id, age FROM users ORDER BY age NULLS FIRST, id LIMIT 7 OFFSET 3",
        "SELECT name FROM users ORDER BY age DESC, id",
        "SELECT age, count(*) FROM users GROUP BY age ORDER BY age",
        "SELECT name, sum(age) FROM users GROUP BY name ORDER BY name DESC",
        "SELECT DISTINCT age FROM users ORDER BY age",
        "SELECT id FROM users WHERE id IN (1, 5, 9) ORDER BY id",
        "SELECT sum(amount), avg(amount), min(at), max(at) FROM payments",
        "SELECT u.id, p.amount FROM users u JOIN payments p ON p.user_id = u.id WHERE p.amount > 50 ORDER BY p.id",
        "SELECT count(*) FROM users WHERE false",
        "SELECT * FROM users WHERE false",
        "SELECT name FROM countries ORDER BY code",
        "SELECT 1 + 1 AS two, current_user = 'nobody' AS me",
    ] {
        pair.same(sql);
    }
    pair.same_with(
        "SELECT id, name FROM users WHERE age = $1 ORDER BY id LIMIT $2",
        &[Some("22"), Some("3")],
    );
    pair.same_with(
        "SELECT count(*) FROM payments WHERE amount < $1",
        &[Some("10")],
    );
    pair.same_with("SELECT name FROM users WHERE id = $1", &[Some("17")]);
    pair.same_with(
        "SELECT name FROM users WHERE id = ANY($1) ORDER BY id",
        &[Some("{3,4,5}")],
    );
    // Without an order any will do: as many as there should be.
    assert_eq!(pair.many.rows("SELECT id FROM users LIMIT 4").len(), 4);
    pair.shards.pgdog.stop();
}

#[test]
fn changes_over_shards_are_done_by_all_or_by_none() {
    let mut pair = Pair::filled("sharding_write");
    for sql in [
        "UPDATE users SET age = age + 1 WHERE age > 22",
        "DELETE FROM payments WHERE amount < 0",
        "SELECT count(*), sum(age) FROM users",
        "INSERT INTO countries VALUES ('es', 'Spain') RETURNING code, name",
        "UPDATE countries SET name = upper(name) WHERE code IN ('de', 'es')",
        "SELECT * FROM countries ORDER BY code",
        "BEGIN",
        "UPDATE users SET name = 'all'",
        "INSERT INTO users VALUES (1000, 'new', 1)",
        "SELECT count(*) FROM users WHERE name = 'all'",
        "ROLLBACK",
        "SELECT count(*) FROM users WHERE name = 'all'",
        // One shard refuses it.
        "UPDATE users SET age = 1 / (id - 5)",
        "SELECT sum(age) FROM users",
        "TRUNCATE payments",
        "SELECT count(*) FROM payments",
    ] {
        pair.same(sql);
    }
    assert_eq!(
        pair.shards
            .each("SELECT string_agg(code, ',' ORDER BY code) FROM countries"),
        ["de,es,fr,it"; 3]
    );
    pair.same("CREATE FUNCTION everybody() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) FROM users'");
    for sql in [
        "UPDATE users SET id = id + 1 WHERE id = 3",
        "UPDATE users SET id = 4711 WHERE id = 3",
        "INSERT INTO users (id, name) VALUES (5001, 'a'), (5002, 'b'), (5003, 'c'), (5004, 'd')",
        "INSERT INTO users (name) VALUES ('nobody')",
        "INSERT INTO users SELECT user_id + 9000, 'x', 1 FROM payments",
        "SELECT everybody()",
        "SELECT everybody() + count(*) FROM users",
    ] {
        pair.refused(sql);
    }
    pair.same("SELECT count(*), min(id), max(id) FROM users");
    pair.same("SELECT u.id FROM users u JOIN payments p ON p.id = u.id ORDER BY 1");
    pair.same("SELECT id, row_number() OVER (ORDER BY id) FROM users ORDER BY id");
    pair.shards.pgdog.stop();
}

#[test]
fn rows_of_one_insert_are_split_where_that_is_allowed() {
    let rewrite = "\n[rewrite]\nenabled = true\nsplit_inserts = \"rewrite\"\n";
    let mut pair = Pair::start("sharding_split", "", rewrite);
    let rows: Vec<_> = (0..50)
        .map(|id| format!("({id}, 'n;{id}', {id})"))
        .collect();
    pair.same(&format!("INSERT INTO users VALUES {}", rows.join(", ")));
    pair.same("SELECT count(*), sum(age) FROM users");
    assert!(pair
        .shards
        .each("SELECT count(*) FROM users")
        .iter()
        .all(|count| count != "50" && count != "0"));
    // A row that one shard refuses is refused by all.
    pair.same(
        "INSERT INTO users VALUES (100, 'a', 1), (101, 'b', 2), (102, 'c', 3), (7, 'again', 4)",
    );
    pair.same("SELECT count(*) FROM users");
    pair.shards.pgdog.stop();
}

#[test]
fn a_statement_is_parsed_once_and_routed_by_its_values() {
    let mut pair = Pair::filled("sharding_prepared");
    let sql = "SELECT id, name FROM users WHERE id = $1";
    for client in [&mut pair.one, &mut pair.many] {
        client.ask(&[parse("by_id", sql), describe(b'S', "by_id"), sync()]);
    }
    for id in ["1", "2", "3", "4", "39"] {
        let batch = [bind("", "by_id", &[Some(id)]), execute("", 0), sync()];
        let (expected, found) = (pair.one.ask(&batch), pair.many.ask(&batch));
        assert_eq!(found, expected, "{id}");
    }
    let batch = [bind("", "by_id", &[None]), execute("", 0), sync()];
    assert_eq!(pair.many.ask(&batch), "2 C:SELECT_0 Z:I");
    // Several in one batch, on several shards, are one transaction.
    let update = |id: &str, age: &str| {
        run(
            "UPDATE users SET age = $2 WHERE id = $1",
            &[Some(id), Some(age)],
        )
    };
    let batch = [
        update("1", "50"),
        update("2", "51"),
        update("3", "x"),
        sync(),
    ];
    let answer = pair.many.ask(&batch);
    assert_eq!(answer, "1 2 C:UPDATE_1 1 2 C:UPDATE_1 1 2 E:22P02 Z:I");
    assert_eq!(
        pair.many
            .value("SELECT count(*) FROM users WHERE age >= 50"),
        "0"
    );
    let batch = [
        update("1", "50"),
        update("2", "51"),
        update("3", "52"),
        sync(),
    ];
    assert_eq!(
        pair.many.ask(&batch),
        "1 2 C:UPDATE_1 1 2 C:UPDATE_1 1 2 C:UPDATE_1 Z:I"
    );
    assert_eq!(
        pair.many
            .value("SELECT count(*) FROM users WHERE age >= 50"),
        "3"
    );
    pair.shards.pgdog.stop();
}

#[test]
fn a_session_may_name_the_shard_or_the_key_however_it_is_spelt() {
    let table = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"tags\"\ncolumn = \"name\"\ndata_type = \"varchar\"\n";
    let shards = Shards::start("sharding_hints", "", table);
    let mut client = shards.client();
    client.query("CREATE TABLE tags (name text, n int)");
    client.query("CREATE TABLE notes (id int)");
    let names = [
        "plain",
        "O'Brien",
        "''",
        "a\\b",
        "\"Two\" Words",
        "é",
        "x",
        "y",
    ];
    let literal = |name: &str| format!("'{}'", name.replace('\'', "''"));
    for (n, name) in names.iter().enumerate() {
        let sql = format!("INSERT INTO tags VALUES ({}, {n})", literal(name));
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
    }
    let full = shards.each("SELECT count(*) FROM tags");
    assert!(full.iter().all(|count| count != "8"), "{full:?}");
    for (n, name) in names.iter().enumerate() {
        client.query(&format!("SET pgdog.sharding_key = {}", literal(name)));
        let sql = format!("SELECT count(*) FROM tags WHERE n = {n}");
        assert_eq!(client.value(&sql), "1", "{name}");
    }
    // What every shard has to have is not for one of them.
    assert_eq!(client.query("INSERT INTO notes VALUES (1)"), "E:0A000 Z:I");
    client.query("RESET pgdog.sharding_key");
    assert_eq!(
        client.query("INSERT INTO notes VALUES (1)"),
        "C:INSERT_0_1 Z:I"
    );
    // However it is hidden.
    for sql in [
        "/* pgdog_shard: 1 */ WITH a AS (SELECT * FROM notes FOR UPDATE), \
         b AS (UPDATE notes SET id = 2 RETURNING *) SELECT * FROM b",
        "SELECT * INTO others FROM notes FOR UPDATE",
    ] {
        assert_eq!(client.query(sql), "E:0A000 Z:I", "{sql}");
    }
    assert_eq!(shards.each("SELECT count(*) FROM notes"), ["1", "1", "1"]);
    // Said when it logs in.
    let mut begun = Wire::open(shards.pgdog.port());
    begun.send(&startup(
        VERSION_3_0,
        &[
            ("user", ALICE),
            ("database", &shards.name),
            ("options", "-c pgdog.shard=2"),
        ],
    ));
    begun.authenticate(ALICE, PASSWORD).unwrap();
    let database = begun.value("SELECT current_database()");
    assert_eq!(database, shards.shard(2).value("SELECT current_database()"));
    shards.pgdog.stop();
}

#[test]
fn what_needs_a_transaction_block_is_refused_in_pipelines_too() {
    let mut pair = Pair::start("sharding_blocks", "", "");
    let insert = |id: usize| run(&format!("INSERT INTO users VALUES ({id}, 'x', 1)"), &[]);
    for (at, last) in [
        "SAVEPOINT a",
        "RELEASE a",
        "ROLLBACK TO a",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "BEGIN READ ONLY",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
    ]
    .into_iter()
    .enumerate()
    {
        let at = 10 * at;
        let batch = [insert(at), insert(at + 1), run(last, &[]), sync()];
        pair.same_batch(last, &batch);
        pair.same(&format!("INSERT INTO users VALUES ({}, 'x', 1)", at + 2));
        pair.same("ROLLBACK");
        pair.same("SELECT id FROM users ORDER BY id");
        let behind = [insert(at + 3), run(last, &[]), insert(at + 4), sync()];
        pair.same_batch(last, &behind);
        pair.same("ROLLBACK");
        pair.same("SELECT id FROM users ORDER BY id");
    }
    pair.shards.pgdog.stop();
}

#[test]
fn a_chained_transaction_has_the_modes_of_the_one_before() {
    let mut pair = Pair::start("sharding_chain", "", "");
    for texts in [
        &[
            "SET TRANSACTION READ ONLY",
            "SELECT count(*) FROM users",
            "COMMIT AND CHAIN",
        ][..],
        &[
            "SET TRANSACTION READ ONLY",
            "ROLLBACK AND CHAIN",
            "COMMIT AND CHAIN",
        ],
        &["SET LOCAL transaction_read_only = on", "COMMIT AND CHAIN"],
        &[
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "COMMIT AND CHAIN",
        ],
        &[
            "SET LOCAL transaction_isolation = 'repeatable read'",
            "COMMIT AND CHAIN",
        ],
        &[
            "SET TRANSACTION READ ONLY",
            "SET TRANSACTION READ WRITE",
            "COMMIT AND CHAIN",
        ],
        &[
            "SET LOCAL lock_timeout = '7s'",
            "SELECT count(*) FROM users",
            "COMMIT AND CHAIN",
        ],
    ] {
        pair.same("BEGIN");
        for sql in texts {
            pair.same(sql);
        }
        for sql in [
            "SHOW transaction_isolation",
            "SHOW lock_timeout",
            "INSERT INTO users VALUES (1, 'x', 1)",
            "ROLLBACK",
            "SELECT count(*) FROM users",
        ] {
            pair.same(sql);
        }
    }
    pair.shards.pgdog.stop();
}

#[test]
fn modes_of_a_begin_in_a_transaction_are_in_effect() {
    let mut pair = Pair::start("sharding_modes", "", "");
    for id in 0..9 {
        pair.same(&format!("INSERT INTO users VALUES ({id}, 'x', 1)"));
    }
    for sql in [
        "SELECT 1; BEGIN READ ONLY; DELETE FROM users",
        "ROLLBACK",
        "SELECT count(*) FROM users; BEGIN READ ONLY",
        "COMMIT AND CHAIN",
        "DELETE FROM users WHERE id = 2",
        "ROLLBACK",
        "SELECT count(*) FROM users; BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1",
        "DELETE FROM users WHERE id = 3; START TRANSACTION READ WRITE, NOT DEFERRABLE; DELETE FROM users WHERE id = 4",
        "ROLLBACK",
        "BEGIN",
        "BEGIN READ ONLY",
        "UPDATE users SET age = 2",
        "ROLLBACK",
        "BEGIN",
        "SELECT count(*) FROM users",
        "BEGIN READ ONLY",
        "UPDATE users SET age = 2",
        "ROLLBACK",
        "SELECT count(*), sum(age) FROM users",
    ] {
        pair.same(sql);
    }
    pair.shards.pgdog.stop();
}
