//! Values of which each shard would have its own: one server is asked for them first, and all store the same, where it is looked for.

use super::across::{setting, Random};
use super::shards::{all, Shards};
use super::support::wire::{bind, describe, execute, parse, run, sync, Wire};

/// Two tables are sharded, by keys that have defaults; what else there is is the same everywhere.
const TABLES: &str = r#"
[[sharded_tables]]
database = "$DATABASE"
name = "users"
column = "id"
data_type = "bigint"

[[sharded_tables]]
database = "$DATABASE"
name = "things"
column = "id"
data_type = "uuid"

[rewrite]
enabled = true
split_inserts = "rewrite"
"#;

/// What all shards have of a table, which is the same.
#[track_caller]
pub(crate) fn same(shards: &Shards, table: &str, after: &str) -> String {
    let sql =
        format!("SELECT coalesce(string_agg(t::text, ' ' ORDER BY t::text), '') FROM {table} t");
    let [first, others @ ..] = &*shards.each(&sql) else {
        panic!("there are shards");
    };
    for other in others {
        assert_eq!(other, first, "{table} after {after}");
    }
    first.clone()
}

pub(crate) fn started(label: &str) -> (Shards, Wire) {
    let shards = Shards::start(label, "workers = 2", TABLES);
    let mut client = shards.client();
    all(
        &mut client,
        &[
            "CREATE SEQUENCE numbers",
            "CREATE DOMAIN moment AS timestamptz DEFAULT clock_timestamp()",
            "CREATE TABLE notes (id bigserial PRIMARY KEY, v int DEFAULT 7, at timestamptz DEFAULT now(), \
                token uuid DEFAULT gen_random_uuid(), day date DEFAULT CURRENT_DATE, \
                r double precision DEFAULT random(), half int GENERATED ALWAYS AS (v / 2) STORED, m moment)",
            "CREATE TABLE always (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int)",
            "CREATE TABLE plain (a bigint, b text)",
            "CREATE TABLE long (n numeric(9, 3) DEFAULT random() * 1000, c char(8) DEFAULT left(md5(random()::text), 8), \
                v varchar(40) DEFAULT md5(random()::text), b bit(9) DEFAULT (random() * 255 + 256)::int::bit(9), \
                t timestamp(2) DEFAULT clock_timestamp(), i interval DEFAULT random() * interval '1 day', \
                a int[] DEFAULT ARRAY[random() * 9, 300], x text COLLATE \"C\" DEFAULT gen_random_uuid(), z int)",
            "CREATE TABLE users (id bigserial PRIMARY KEY, name text, at timestamptz DEFAULT now())",
            "CREATE TABLE things (name text, id uuid DEFAULT gen_random_uuid() PRIMARY KEY)",
        ],
    );
    // As after years: each shard's sequence is elsewhere.
    for shard in 0..3 {
        for sequence in ["numbers", "notes_id_seq", "always_id_seq", "users_id_seq"] {
            let sql = format!("SELECT setval('{sequence}', {})", 100 * (3 - shard));
            shards.shard(shard).query(&sql);
        }
    }
    (shards, client)
}

#[test]
fn what_is_everywhere_is_the_same_everywhere() {
    let (shards, mut client) = started("asked_same");
    for (sql, expected) in [
        ("INSERT INTO notes DEFAULT VALUES", "INSERT_0_1"),
        ("INSERT INTO notes (v) VALUES (1), (2), (3)", "INSERT_0_3"),
        ("INSERT INTO notes VALUES (DEFAULT, 4)", "INSERT_0_1"),
        ("INSERT INTO notes VALUES (5), (6, DEFAULT, now() - interval '1 day')", ""),
        ("INSERT INTO notes VALUES (5, 5), (6, DEFAULT)", "INSERT_0_2"),
        ("INSERT INTO notes (at, v, id) VALUES (DEFAULT, 1, DEFAULT), (now(), 2, 8)", "INSERT_0_2"),
        ("INSERT INTO notes (v, token) VALUES (9, gen_random_uuid()) ON CONFLICT DO NOTHING", "INSERT_0_1"),
        (
            "INSERT INTO notes (id, v) VALUES (5, 50), (nextval('numbers'), 51) \
                ON CONFLICT (id) DO UPDATE SET v = excluded.v, at = statement_timestamp()",
            "INSERT_0_2",
        ),
        ("INSERT INTO always (v) VALUES (1), (2)", "INSERT_0_2"),
        ("INSERT INTO always VALUES (DEFAULT, 3)", "INSERT_0_1"),
        ("INSERT INTO always (id, v) OVERRIDING SYSTEM VALUE VALUES (DEFAULT, 4), (7, 5)", "INSERT_0_2"),
        ("UPDATE notes SET at = current_timestamp(3), day = Current_Date - 1 WHERE v < 3", "UPDATE_4"),
        ("UPDATE notes SET r = extract(epoch FROM clock_timestamp())", ""),
        ("DELETE FROM notes WHERE v = 3 AND at < pg_catalog.now() + interval '1 day'", "DELETE_1"),
        (
            "WITH a AS (INSERT INTO plain VALUES (1, now()::text) RETURNING b) SELECT count(*) FROM a",
            "SELECT_1",
        ),
        ("INSERT INTO plain SELECT 2, now()", "INSERT_0_1"),
        ("INSERT INTO plain VALUES (3, current_database()), (4, CURRENT_CATALOG)", "INSERT_0_2"),
        ("INSERT INTO plain SELECT oid::bigint, relname FROM pg_class WHERE relname = 'plain'", "INSERT_0_1"),
        ("INSERT INTO plain SELECT 5, ctid::text || tableoid FROM plain RETURNING ctid", "INSERT_0_5"),
        ("UPDATE plain SET b = (SELECT oid::text FROM pg_class WHERE relname = 'plain')", ""),
        ("UPDATE plain SET b = ctid::text", ""),
        ("INSERT INTO plain VALUES (6, inet_client_port()::text)", ""),
    ] {
        let answer = client.query(sql);
        match expected {
            "" => assert!(answer.starts_with("E:"), "{sql}: {answer}"),
            tag => assert!(answer.contains(&format!("C:{tag} ")), "{sql}: {answer}"),
        }
        for table in ["notes", "always", "plain"] {
            same(&shards, table, sql);
        }
    }
    // Partitions have their root's identity from PostgreSQL 17 on.
    all(
        &mut client,
        &[
            "CREATE TABLE parts (id bigint GENERATED ALWAYS AS IDENTITY, v int) PARTITION BY LIST (v)",
            "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)",
            "INSERT INTO parts (v) VALUES (1), (1)",
            "INSERT INTO parts_1 (v) SELECT 1 FROM generate_series(1, 0)",
        ],
    );
    let answer = client.query("INSERT INTO parts_1 (v) VALUES (1)");
    assert!(
        ["E:0A000 Z:I", "E:23502 Z:I"].contains(&&*answer),
        "{answer}"
    );
    assert_eq!(same(&shards, "parts", "its identity"), "(1,1) (2,1)");
    // Values are as their columns have them, none is cut off.
    all(&mut client, &["INSERT INTO long (z) VALUES (1), (2)"]);
    same(&shards, "long", "its defaults");
    let lengths = "SELECT min(length(c)), min(length(v)), min(length(b)), min(length(x)), min(b::int) > 255, max(a[2]) FROM long";
    assert_eq!(client.rows(lengths), [["8", "32", "9", "36", "t", "300"]]);
    assert_eq!(
        client.value(
            "SELECT count(DISTINCT token) = count(*) AND count(DISTINCT r) = count(*) FROM notes"
        ),
        "t"
    );
    // Numbers are those of the first shard.
    assert_eq!(
        client.rows("SELECT id FROM always WHERE v < 4 ORDER BY v"),
        [["301"], ["302"], ["303"]]
    );
    shards.pgdog.stop();
}

#[test]
fn a_transaction_has_one_moment() {
    let (shards, mut client) = started("asked_moment");
    all(
        &mut client,
        &[
            "BEGIN",
            "SET LOCAL TimeZone = 'Asia/Kolkata'",
            "SET LOCAL DateStyle = 'SQL, DMY'",
        ],
    );
    all(&mut client, &["INSERT INTO notes (v, id) VALUES (1, 1)"]);
    // Of that time zone's name there is another one.
    let late = "SELECT m BETWEEN at AND clock_timestamp() FROM notes";
    assert_eq!(client.value(late), "t");
    all(&mut client, &["UPDATE notes SET m = now()"]);
    assert_eq!(
        client.value("SELECT at = now() AND m = now() FROM notes"),
        "t"
    );
    assert_eq!(
        client.query("INSERT INTO notes (v, id) VALUES (2, 2) RETURNING at = now(), now() - at"),
        "T D:t|00:00:00 C:INSERT_0_1 Z:T"
    );
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    same(&shards, "notes", "the transaction");
    // A text of several statements is one, too.
    let answer = client.query(
        "SET TimeZone = 'America/New_York'; INSERT INTO notes (id, at) VALUES (3, DEFAULT); \
        INSERT INTO notes (id, m) VALUES (4, now()); SELECT count(DISTINCT at) FROM notes WHERE id > 2",
    );
    assert!(answer.contains("D:1 "), "{answer}");
    same(&shards, "notes", "the text");
    assert_eq!(
        client.query("INSERT INTO notes (id) VALUES (10), (10)"),
        "E:23505 Z:I"
    );
    assert_eq!(
        client.value("SELECT count(*) FROM notes WHERE id = 10"),
        "0"
    );
    shards.pgdog.stop();
}

#[test]
fn prepared_statements_ask_with_each_execution() {
    let (shards, mut client) = started("asked_prepared");
    let sql = "INSERT INTO notes (v) VALUES ($1) RETURNING id";
    let answer = client.ask(&[parse("i", sql), describe(b'S', "i"), sync()]);
    assert_eq!(answer, "1 t T Z:I");
    for (v, id) in [("1", "301"), ("2", "302")] {
        let batch = [
            bind("", "i", &[Some(v)]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ];
        assert_eq!(client.ask(&batch), format!("2 T D:{id} C:INSERT_0_1 Z:I"));
    }
    let batch = [
        run("INSERT INTO notes (v, at) VALUES ($1, now())", &[Some("3")]),
        run("UPDATE notes SET at = now() WHERE v = $1", &[Some("3")]),
        sync(),
    ];
    assert_eq!(client.ask(&batch), "1 2 C:INSERT_0_1 1 2 C:UPDATE_1 Z:I");
    same(&shards, "notes", "batches");
    let insert = "INSERT INTO users (name) VALUES ($1) RETURNING id";
    assert_eq!(client.ask(&[parse("u", insert), sync()]), "1 Z:I");
    for id in 301..311 {
        let name = format!("user {id}");
        let batch = [bind("", "u", &[Some(&name)]), execute("", 0), sync()];
        assert_eq!(client.ask(&batch), format!("2 D:{id} C:INSERT_0_1 Z:I"));
        let found = client.value(&format!("SELECT name FROM users WHERE id = {id}"));
        assert_eq!(found, name);
    }
    let spread = shards.each("SELECT count(*) FROM users");
    assert!(
        spread.iter().filter(|count| *count != "0").count() > 1,
        "{spread:?}"
    );
    shards.pgdog.stop();
}

#[test]
fn keys_that_a_default_makes_are_where_they_are_looked_for() {
    let (shards, mut client) = started("asked_keys");
    for (sql, rows) in [
        ("INSERT INTO users (name) VALUES ('a') RETURNING id", 1),
        ("INSERT INTO users (name, id) VALUES ('b', DEFAULT), ('c', 7), ('d', nextval('numbers') + 5000) RETURNING id", 3),
        ("INSERT INTO users DEFAULT VALUES RETURNING id", 1),
        ("INSERT INTO users VALUES (1000 + 1, 'e') RETURNING id", 1),
        ("INSERT INTO users (id) VALUES (extract(epoch FROM now())), (7 / 2.0 + 2000 -- a comment\n) RETURNING id", 2),
        ("INSERT INTO users VALUES (DEFAULT, 'f'), (DEFAULT, 'g'), (DEFAULT, 'h'), (DEFAULT, 'i') RETURNING id", 4),
        ("BEGIN; INSERT INTO users (name) VALUES ('j') RETURNING id; COMMIT", 1),
    ] {
        let answer = client.query(sql);
        let ids: Vec<_> = answer.split(' ').filter_map(|word| word.strip_prefix("D:")).collect();
        assert_eq!(ids.len(), rows, "{sql}: {answer}");
        for id in ids {
            let found = client.query(&format!("SELECT id FROM users WHERE id = {id}"));
            assert_eq!(found, format!("T D:{id} C:SELECT_1 Z:I"), "{sql}");
        }
    }
    for name in 0..8 {
        let answer = client.query(&format!(
            "INSERT INTO things VALUES ('{name}') RETURNING id"
        ));
        let id = answer
            .split(' ')
            .find_map(|word| word.strip_prefix("D:"))
            .unwrap();
        let found = client.value(&format!("SELECT name FROM things WHERE id = '{id}'"));
        assert_eq!(found, name.to_string());
    }
    let spread = shards.each("SELECT count(*) FROM things");
    assert!(
        spread.iter().filter(|count| *count != "0").count() > 1,
        "{spread:?}"
    );
    // In a transaction the number is the session's, too.
    all(
        &mut client,
        &["BEGIN", "INSERT INTO users (name) VALUES ('k')"],
    );
    let id = client.value("SELECT currval('users_id_seq')");
    assert_eq!(
        client.value(&format!("SELECT name FROM users WHERE id = {id}")),
        "k"
    );
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    shards.pgdog.stop();
}

/// Whatever rules say of keys: one sequence makes them all.
#[test]
fn keys_of_a_sequence_are_unique_where_rules_place_them() {
    let mapping = "mapping = [{ values = [1, 2, 3], shard = 1 }, { start = 5, end = 7, shard = 2 }, { shard = 0 }]\n";
    let bigint = "data_type = \"bigint\"\n";
    let tables = TABLES.replace(bigint, &format!("{bigint}{mapping}"));
    let shards = Shards::start("asked_rules", "", &tables);
    let mut client = shards.client();
    all(
        &mut client,
        &["CREATE TABLE users (id bigserial PRIMARY KEY, name text)"],
    );
    for id in 1..=8 {
        let insert = format!("INSERT INTO users (name) VALUES ('{id}') RETURNING id");
        assert_eq!(client.value(&insert), id.to_string());
        let found = format!("SELECT name FROM users WHERE id = {id}");
        assert_eq!(client.value(&found), id.to_string());
    }
    let spread = shards.each("SELECT string_agg(id::text, ' ' ORDER BY id) FROM users");
    assert_eq!(spread, ["4 7 8", "1 2 3", "5 6"]);
    shards.pgdog.stop();
}

/// Outside of one its server may be any of its shard's.
#[test]
fn sequences_are_asked_in_a_transaction() {
    let (shards, mut client) = started("asked_outside");
    client.query("INSERT INTO users (name) VALUES ('u')");
    for sql in [
        "SELECT currval('users_id_seq')",
        "SELECT lastval()",
        "INSERT INTO users (id, name) VALUES (7, lastval()::text)",
        "INSERT INTO notes (v) VALUES (lastval())",
        "INSERT INTO users (name) VALUES ('v'); SELECT lastval()",
        "SELECT 1; SELECT lastval()",
        "EXPLAIN ANALYZE SELECT lastval()",
        "PREPARE p AS SELECT lastval(); EXECUTE p",
    ] {
        let answer = client.query(sql);
        assert!(answer.ends_with("E:55000 Z:I"), "{sql}: {answer}");
        let batch = [run(sql, &[]), sync()];
        if !sql.contains(';') {
            assert!(client.ask(&batch).ends_with("E:55000 Z:I"), "{sql}");
        }
    }
    // Prepared it may be.
    let sql = "SELECT lastval() IS NOT NULL";
    assert_eq!(
        client.ask(&[parse("last", sql), describe(b'S', "last"), sync()]),
        "1 t T Z:I"
    );
    let last = [bind("", "last", &[]), execute("", 0), sync()];
    assert_eq!(client.ask(&last), "E:55000 Z:I");
    all(
        &mut client,
        &["BEGIN", "INSERT INTO users (name) VALUES ('w')"],
    );
    assert_eq!(client.ask(&last), "2 D:t C:SELECT_1 Z:T");
    all(&mut client, &["ROLLBACK"]);
    // Who keeps a server is told what that knows.
    client.query("SELECT pg_advisory_lock(1)");
    let number = client.value("SELECT nextval('numbers')");
    let first = "/* pgdog_shard: 0 */ SELECT lastval()";
    assert_eq!(client.value(first), number);
    shards.pgdog.stop();
}

/// In a transaction a client is told of its own numbers, or that nobody knows.
#[test]
fn sequences_are_remembered_where_they_have_counted() {
    let (shards, mut client) = started("asked_recalled");
    all(
        &mut client,
        &[
            "DROP TABLE things",
            "CREATE TABLE things (id uuid, number bigserial)",
        ],
    );
    for shard in 0..3 {
        let sql = format!("SELECT setval('things_number_seq', {})", 1000 * (shard + 1));
        shards.shard(shard).query(&sql);
    }
    for n in 0..20 {
        // A number of the shard that has the row.
        let id = format!("00000000-0000-0000-0000-0000000000{n:02}");
        all(
            &mut client,
            &[
                "BEGIN",
                "DELETE FROM users WHERE id = 5",
                "DELETE FROM users WHERE id = 6",
            ],
        );
        let number = client.value(&format!(
            "INSERT INTO things (id) VALUES ('{id}') RETURNING number"
        ));
        for recalled in ["currval('things_number_seq')", "lastval()"] {
            assert_eq!(client.value(&format!("SELECT {recalled}")), number, "{id}");
            let insert =
                format!("INSERT INTO users (id, name) VALUES ({n}, {recalled}) RETURNING name");
            assert_eq!(client.value(&insert), number, "{id}");
            client.query(&format!("DELETE FROM users WHERE id = {n}"));
        }
        all(&mut client, &["ROLLBACK"]);
        // One of the first shard, for what is elsewhere.
        all(
            &mut client,
            &["BEGIN", "INSERT INTO users (name) VALUES ('x')"],
        );
        let number = client.value("SELECT currval('users_id_seq')");
        assert_eq!(client.value("SELECT max(id) FROM users"), number);
        let insert = format!("INSERT INTO users (id, name) VALUES ({n}, lastval()) RETURNING name");
        assert_eq!(client.value(&insert), number, "{n}");
        all(&mut client, &["ROLLBACK"]);
        all(
            &mut client,
            &[
                "BEGIN",
                "INSERT INTO notes (v) SELECT n FROM generate_series(1, 3) n",
            ],
        );
        let number = client.value("SELECT max(id) FROM notes");
        assert_eq!(client.value("SELECT currval('notes_id_seq')"), number);
        all(&mut client, &["ROLLBACK"]);
        // In one text with what has counted.
        let elsewhere = format!("DELETE FROM users WHERE id = {n}");
        all(&mut client, &["BEGIN", &elsewhere]);
        let number = client.value(&format!(
            "INSERT INTO things (id) VALUES ('{id}'); SELECT lastval()"
        ));
        let stored = format!("SELECT number FROM things WHERE id = '{id}'");
        assert_eq!(client.value(&stored), number, "{id}");
        all(&mut client, &["ROLLBACK"]);
        // Of both nobody knows which is the last.
        all(&mut client, &["BEGIN", "INSERT INTO notes DEFAULT VALUES"]);
        client.query(&format!("INSERT INTO things (id) VALUES ('{id}')"));
        let answer = client.query("SELECT lastval()");
        assert!(
            answer == "E:0A000 Z:E" || answer.starts_with("T D:1"),
            "{answer}"
        );
        all(&mut client, &["ROLLBACK"]);
    }
    shards.pgdog.stop();
}

#[test]
fn definitions_leave_rows_the_same_everywhere() {
    let (shards, mut client) = started("asked_definitions");
    let fills = [
        "ALTER TABLE plain ADD at timestamptz DEFAULT now()",
        "ALTER TABLE plain ADD id bigserial",
        "ALTER TABLE plain ALTER b TYPE text USING random()::text",
    ];
    for sql in fills {
        all(&mut client, &["BEGIN", sql, "ROLLBACK"]); // while it is empty
    }
    all(
        &mut client,
        &[
            "INSERT INTO plain VALUES (1, 'a')",
            "INSERT INTO users (name) VALUES ('a'), ('b')",
        ],
    );
    for sql in fills {
        assert_eq!(client.query(sql), "E:0A000 Z:I", "{sql}");
    }
    for sql in [
        "ALTER TABLE plain ADD n int DEFAULT 7",
        "ALTER TABLE plain ADD at timestamptz",
        "ALTER TABLE plain ALTER at SET DEFAULT now()",
        "UPDATE plain SET at = now()",
        "INSERT INTO plain (a) VALUES (2)",
        "ALTER TABLE users ADD seen timestamptz DEFAULT now()", // each row is on one shard
    ] {
        all(&mut client, &[sql]);
        same(&shards, "plain", sql);
    }
    // Nobody knows of a default before it is committed.
    for (definition, insert, refused) in [
        (
            "ALTER TABLE plain ALTER at SET DEFAULT '2020-01-01'",
            "INSERT INTO plain (a) VALUES (3)",
            true,
        ),
        (
            "ALTER TABLE plain ALTER at SET DEFAULT '2020-01-01'",
            "INSERT INTO plain (a, at) VALUES (3, now())",
            false,
        ),
        (
            "ALTER TABLE users ALTER id SET DEFAULT 7",
            "INSERT INTO users (name) VALUES ('c')",
            true,
        ),
        (
            "CREATE TABLE made (a int, at timestamptz DEFAULT now())",
            "INSERT INTO made (a) VALUES (1)",
            true,
        ),
        (
            "CREATE TABLE made (id serial, a int)",
            "INSERT INTO made (a) VALUES (1)",
            false,
        ),
    ] {
        all(&mut client, &["BEGIN", definition]);
        let answer = client.query(insert);
        assert_eq!(
            answer == "E:0A000 Z:E",
            refused,
            "{definition}; {insert}: {answer}"
        );
        assert_eq!(
            answer.contains("C:INSERT_0_1 "),
            !refused,
            "{definition}; {insert}: {answer}"
        );
        client.query("ROLLBACK");
    }
    // Nor of a key that a table has which is new.
    all(
        &mut client,
        &[
            "DROP TABLE users",
            "BEGIN",
            "CREATE TABLE users (id bigserial, name text)",
        ],
    );
    assert_eq!(
        client.query("INSERT INTO users (name) VALUES ('x')"),
        "E:0A000 Z:E"
    );
    all(
        &mut client,
        &["ROLLBACK", "CREATE TABLE users (id bigserial, name text)"],
    );
    all(
        &mut client,
        &["INSERT INTO users (name) VALUES ('x'), ('y'), ('z'), ('u')"],
    );
    for id in 1..5 {
        assert_eq!(
            client.value(&format!("SELECT count(*) FROM users WHERE id = {id}")),
            "1"
        );
    }
    shards.pgdog.stop();
}

#[test]
fn values_that_nobody_can_be_asked_for_are_refused() {
    let (shards, mut client) = started("asked_refused");
    all(
        &mut client,
        &[
            "CREATE VIEW recent AS SELECT id, v FROM notes",
            "CREATE VIEW copied AS SELECT * FROM plain",
        ],
    );
    all(
        &mut client,
        &[
            "INSERT INTO copied VALUES (0, now()::text)",
            "DELETE FROM copied",
        ],
    );
    all(
        &mut client,
        &[
            "INSERT INTO plain VALUES (1, 'a'), (2, 'b')",
            "INSERT INTO notes (id) VALUES (1)",
            "CREATE VIEW also_users AS SELECT id, name, id AS also FROM users",
        ],
    );
    for sql in [
        "UPDATE plain SET b = gen_random_uuid()::text",
        "UPDATE plain SET a = nextval('numbers')",
        "DELETE FROM plain WHERE random() < 0.5",
        "INSERT INTO plain SELECT setval('numbers', 1), b FROM plain",
        "INSERT INTO notes (id) SELECT 1 ON CONFLICT (id) DO UPDATE SET v = 1",
        "INSERT INTO plain VALUES ((SELECT max(a) + random() FROM plain), 'x')",
        "INSERT INTO plain VALUES (nextval('num' || 'bers'), 'x')",
        "INSERT INTO plain VALUES (1, 'x') RETURNING random()",
        "INSERT INTO recent (v) SELECT a FROM plain",
        "WITH a AS (INSERT INTO notes (v) VALUES (1) RETURNING v) SELECT * FROM a",
        "UPDATE notes SET at = DEFAULT",
        "INSERT INTO notes (id, at) VALUES (1, now()) ON CONFLICT (id) DO UPDATE SET token = DEFAULT",
        "INSERT INTO always OVERRIDING USER VALUE VALUES (1, 1)",
        "INSERT INTO users OVERRIDING USER VALUE VALUES (1, 'x')",
        "UPDATE also_users SET also = 3 WHERE id = 1",
        "INSERT INTO also_users (also, name) VALUES (1, 'x')",
        "COPY notes (v) FROM STDIN",
        "COPY plain FROM STDIN WHERE b < now()::text",
        "COPY plain FROM STDIN WHERE b = current_database()",
        "COPY plain FROM STDIN WHERE a = inet_client_port()",
        "INSERT INTO recent (v) VALUES (1)",
        "INSERT INTO users VALUES ((SELECT max(a) FROM plain), 'x')",
        "INSERT INTO users (name) SELECT b FROM plain",
        "EXPLAIN ANALYZE INSERT INTO users (name) VALUES ('x')",
    ] {
        assert_eq!(client.query(sql), "E:0A000 Z:I", "{sql}");
    }
    for sql in [
        "INSERT INTO always VALUES (DEFAULT, 1), (5, 2)",
        "INSERT INTO always (v, id) VALUES (1, 5), (2, DEFAULT)",
    ] {
        assert_eq!(client.query(sql), "E:428C9 Z:I", "{sql}");
    }
    for sql in ["VALUES ($1)", "SELECT $1"] {
        let prepare = format!("PREPARE p AS INSERT INTO notes (v) {sql}");
        all(&mut client, &[&prepare]);
        assert_eq!(client.query("EXECUTE p(1)"), "E:0A000 Z:I", "{sql}");
        all(&mut client, &["DEALLOCATE p"]);
    }
    let batch = [
        run(
            "INSERT INTO users (id, name) VALUES ($1::bigint + 1, 'x')",
            &[Some("1")],
        ),
        sync(),
    ];
    assert_eq!(client.ask(&batch), "E:0A000 Z:I");
    // What a server says of it is the client's, and fails its transaction.
    assert_eq!(
        client.query("INSERT INTO plain VALUES (currval('numbers'), 'x')"),
        "E:55000 Z:I"
    );
    all(&mut client, &["BEGIN READ ONLY"]);
    assert_eq!(
        client.query("INSERT INTO notes (v) VALUES (1)"),
        "E:25006 Z:E"
    );
    assert_eq!(
        client.query("INSERT INTO notes (v) VALUES (1)"),
        "E:25P02 Z:E"
    );
    all(&mut client, &["ROLLBACK"]);
    assert_eq!(
        client.query("INSERT INTO users (id) VALUES (1 / 0)"),
        "E:22012 Z:I"
    );
    assert_eq!(same(&shards, "plain", "refusals"), "(1,a) (2,b)");
    assert_eq!(client.value("SELECT count(*) FROM notes"), "1");
    assert_eq!(client.value("SELECT count(*) FROM users"), "0");
    shards.pgdog.stop();
}

/// An expression that may be something else on each shard.
fn expression(random: &mut Random) -> &'static str {
    random.pick(&[
        "now()",
        "pg_catalog.now() - interval '1 day'",
        "current_timestamp(2)",
        "DEFAULT",
        "DEFAULT",
        "localtimestamp",
        "CURRENT_DATE",
        "clock_timestamp()",
        "greatest(now(), statement_timestamp())",
        "(SELECT now())",
        "(SELECT clock_timestamp())",
        "'2020-01-01'",
        "coalesce(NULL, transaction_timestamp())",
        "to_timestamp(random() * 1000000)",
        "to_timestamp(nextval('numbers'))",
        "$1",
    ])
}

fn change(random: &mut Random) -> String {
    let (id, v) = (random.below(30), random.below(9));
    let at = expression(random);
    let rows = match random.below(10) {
        0 => format!("(id, v) VALUES ({id}, {v})"),
        1 => format!("(v) VALUES ({v})"),
        2 => format!(
            "(v, at) VALUES ({v}, {at}), ({v} + 1, {})",
            expression(random)
        ),
        3 => format!("VALUES (DEFAULT, {v})"),
        4 => format!("VALUES ({id} + 100, {v}, {at})"),
        5 => format!("(id, token, at) VALUES ({id}, gen_random_uuid(), {at})"),
        6 => "DEFAULT VALUES".to_owned(),
        7 => {
            format!("(id, v, at, token, day, r, m) SELECT {id}, {v}, {at}, NULL, NULL, NULL, NULL")
        }
        8 => format!("(v, at) SELECT v + 1, {at} FROM notes WHERE v = {v} LIMIT 3"),
        _ => format!("(id, r) SELECT nextval('numbers'), random() FROM generate_series(1, {v})"),
    };
    let conflict = random.pick(&[
        " ON CONFLICT DO NOTHING",
        " ON CONFLICT (id) DO UPDATE SET v = excluded.v, at = now()",
        " ON CONFLICT (id) DO UPDATE SET at = excluded.at, m = DEFAULT",
        "",
    ]);
    let returning = random.pick(&["", " RETURNING id, at = now()", " RETURNING now(), v"]);
    match random.below(8) {
        0..=3 => format!("INSERT INTO notes {rows}{conflict}{returning}"),
        4 => format!("UPDATE notes SET at = {at}, v = v + 1 WHERE v = {v}{returning}"),
        5 => format!("DELETE FROM notes WHERE at < {at} AND v = {v}{returning}"),
        6 => format!("WITH x AS (UPDATE notes SET at = {at} WHERE id = {id} RETURNING at) SELECT count(*) FROM x"),
        _ => format!("UPDATE notes SET m = x.at FROM (SELECT max(at) AS at FROM notes WHERE at < {at}) x WHERE id = {id}"),
    }
}

/// Whatever is done to it, or refused: a table that is everywhere has the same rows everywhere.
#[test]
fn random_changes_leave_the_same_everywhere() {
    let (shards, mut client) = started("asked_random");
    let mut random = Random(setting("PGDOG_TEST_SEED", 7));
    let steps = setting("PGDOG_TEST_STEPS", 150);
    let (mut done, mut refused, mut open) = (0, 0, false);
    let mut last = String::new();
    for step in 0..steps {
        let sql = match random.below(12) {
            0 if !open => "BEGIN".to_owned(),
            0..=1 if open => random.pick(&["COMMIT", "COMMIT", "ROLLBACK"]).to_owned(),
            2 => random
                .pick(&[
                    "SET TimeZone = 'Asia/Tokyo'",
                    "SET DateStyle = 'SQL, DMY'",
                    "RESET ALL",
                ])
                .to_owned(),
            3 => format!("{}; {}", change(&mut random), change(&mut random)),
            _ => change(&mut random),
        };
        let answer = match sql.contains("; ") || random.one_in(2) {
            true => client.query(&sql),
            false => {
                let values = [Some("2021-01-01")];
                let values = &values[..usize::from(sql.contains("$1"))];
                client.ask(&[run(&sql, values), sync()])
            }
        };
        refused += u64::from(answer.contains("E:0A000"));
        done += u64::from(answer.contains("C:"));
        last.push_str(&format!("{sql} -> {answer}\n"));
        open = !answer.ends_with("Z:I");
        if answer.ends_with("Z:E") {
            client.query("ROLLBACK");
            open = false;
        }
        if !open {
            same(&shards, "notes", &format!("step {step}:\n{last}"));
            last.clear();
        }
    }
    client.query("ROLLBACK");
    eprintln!("{done} done, {refused} refused");
    assert!(
        done > refused && refused > 0,
        "{done} done, {refused} refused"
    );
    shards.pgdog.stop();
}
