//! INSERT of a list in FROM, as SQLAlchemy writes it for many objects: its rows go where their keys belong.

use super::shards::{all, Shards};
use super::support::programs::python;
use super::support::wire::{bind, describe, execute, parse, sync, tagged, Wire};
use super::support::Postgres;

const TABLES: &str =
    "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"item\"\ncolumn = \"owner\"\n\
    [[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"member\"\ncolumn = \"id\"\n\
    [[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"typed\"\ncolumn = \"owner\"\n\
    [rewrite]\nenabled = true\nsplit_inserts = \"rewrite\"\nprimary_key = \"rewrite\"\n";

const MADE: [&str; 3] = [
    "CREATE TABLE item (id bigint PRIMARY KEY, owner int NOT NULL, name varchar(5), at timestamptz DEFAULT now())",
    "CREATE TABLE member (id bigserial PRIMARY KEY, name varchar(40))",
    "CREATE TABLE place (id bigserial PRIMARY KEY, name text)",
];

fn started(label: &str) -> (Shards, Wire) {
    let shards = Shards::start_through(&["env", "NODE_ID=pgdog-5"], label, "", TABLES);
    let mut client = shards.client();
    all(&mut client, &MADE);
    (shards, client)
}

/// Rows of these values, with their numbers behind them.
fn list(rows: usize, of: impl Fn(usize) -> String) -> String {
    let rows: Vec<_> = (0..rows)
        .map(|row| format!("({}, {row})", of(row)))
        .collect();
    format!(
        "FROM (VALUES {}) AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter",
        rows.join(", ")
    )
}

fn insert(list: &str) -> String {
    format!(
        "INSERT INTO item (owner, name) SELECT p0::INTEGER, p1::VARCHAR(5) {list} RETURNING item.owner, item.name, item.id > 0"
    )
}

#[test]
fn rows_of_a_list_go_to_their_shards() {
    let (shards, mut client) = started("listed");
    let literals = insert(&list(20, |row| match row % 4 {
        3 => format!("{row}, NULL"),
        _ => format!("{row}, 'name {row}'"),
    }));
    let rows = |from: usize| -> String {
        let rows = (from..from + 20).map(|row| match row % 4 {
            3 => format!("D:{row}|null|t "),
            _ => format!("D:{row}|name |t "),
        });
        rows.collect()
    };
    assert_eq!(
        client.query(&literals),
        format!("T {}C:INSERT_0_20 Z:I", rows(0))
    );
    // The same with parameters, described first.
    let parameters = insert(&list(20, |row| {
        format!("${}, ${}", row * 2 + 1, row * 2 + 2)
    }));
    let values: Vec<Option<String>> = (20..40)
        .flat_map(|row| {
            let name = (row % 4 != 3).then(|| format!("name {row}"));
            [Some(row.to_string()), name]
        })
        .collect();
    let values: Vec<_> = values.iter().map(Option::as_deref).collect();
    let answer = client.ask(&[
        parse("many", &parameters),
        describe(b'S', "many"),
        bind("", "many", &values),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(answer, format!("1 t T 2 {}C:INSERT_0_20 Z:I", rows(20)));
    // Each row is where its key is looked for, once.
    let counts = shards.each("SELECT count(*) FROM item");
    assert!(counts.iter().all(|count| count != "0"), "{counts:?}");
    for owner in 0..40 {
        let sql = format!("SELECT count(*) FROM item WHERE owner = {owner}");
        assert_eq!(client.value(&sql), "1", "{owner}");
    }
    assert_eq!(client.value("SELECT count(DISTINCT id) FROM item"), "40");
    // EXPLAIN and `pgdog route` tell that.
    let one = "INSERT INTO member (id, name) SELECT p0::INT, p1::TEXT FROM (VALUES (7, 'x')) AS i(p0, p1)";
    let plain = "INSERT INTO member (id, name) VALUES (7, 'x')";
    let ask = |client: &mut Wire, sql: &str| client.query(&format!("EXPLAIN (COSTS OFF) {sql}"));
    let explained = ask(&mut client, one);
    assert_eq!(explained, ask(&mut client, plain));
    assert!(explained.starts_with("T D:"), "{explained}");
    let told = |sql: &str| {
        let names = ["route", "--user", "alice", "--database", &shards.name, sql];
        let told = shards.pgdog.call(&names);
        told.lines().last().expect("where it goes").to_owned()
    };
    assert_eq!(told(one), told(plain));
    assert!(told(one).contains("shards: shard "), "{}", told(one));
    // What is everywhere is so again.
    let everywhere = "INSERT INTO place (name) SELECT p0::TEXT FROM (VALUES ('a', 0), ('b', 1)) AS i(p0, n) ORDER BY n RETURNING name";
    assert_eq!(client.query(everywhere), "T D:a D:b C:INSERT_0_2 Z:I");
    let stored = shards.each("SELECT string_agg(concat(id, name), ' ' ORDER BY id) FROM place");
    assert_eq!(stored, vec![stored[0].clone(); 3]);
    shards.pgdog.stop();
}

/// The same statements on one PostgreSQL.
#[test]
fn values_are_read_as_in_the_list() {
    let (shards, mut client) = started("listed_read");
    let postgres = Postgres::shared();
    let mut one = postgres.admin(&postgres.database("listed_one"));
    for client in [&mut client, &mut one] {
        all(client, &["CREATE TABLE typed (id int, owner int, v text)"]);
    }
    let constants = [
        "'1'",
        "' 1 '",
        "'2024-01-02 03:04:05.678+02'",
        "'2 days 03:04:05.5'",
        "'abc  '",
        "'101010'",
        "'t'",
        "'{1,2}'",
        "'{\"a\": 1}'",
        "E'\\\\x41'",
        "NULL",
        "7",
        "-7.25",
        "1e3",
        "12345678901",
        "true",
        "'7'::int2",
        "'7.5'::float8",
        "'2024-01-02'::date",
        "$$x'y$$",
    ];
    let types = [
        "int",
        "int8",
        "numeric(5, 1)",
        "float4",
        "text",
        "varchar(3)",
        "char(3)",
        "bool",
        "date",
        "timestamptz",
        "timestamp(0)",
        "interval",
        "bit(3)",
        "varbit",
        "int[]",
        "jsonb",
        "bytea",
        "name",
        "\"char\"",
        "money",
        "oid",
    ];
    let (mut rewritten, mut id) = (0, 0);
    for (turn, of) in types.into_iter().enumerate() {
        for pair in constants
            .iter()
            .flat_map(|first| constants.map(|second| [*first, second]))
            .skip(turn % 3)
            .step_by(3)
        {
            id += 2;
            let sql = format!(
                "INSERT INTO typed (id, owner, v) SELECT p0::int, p1::int, p2::{of} FROM (VALUES ({id}, 1, {}), ({}, 2, {})) AS i(p0, p1, p2)",
                pair[0],
                id + 1,
                pair[1],
            );
            let alone = one.query(&sql);
            let sharded = client.query(&sql);
            if sharded == "E:0A000 Z:I" {
                let undo = format!("DELETE FROM typed WHERE id IN ({id}, {})", id + 1);
                one.query(&undo);
                continue;
            }
            rewritten += 1;
            // Several values may be wrong.
            let both_fail = sharded.starts_with("E:22") && alone.starts_with("E:22");
            assert!(
                both_fail || sharded == alone,
                "{sql}: {sharded}, not {alone}"
            );
        }
    }
    let rows = "SELECT id, owner, v FROM typed ORDER BY id";
    assert_eq!(client.query(rows), one.query(rows));
    assert!(rewritten > 500, "{rewritten}");
    shards.pgdog.stop();
}

#[test]
fn a_list_that_could_mean_something_else_is_refused() {
    let (shards, mut client) = started("listed_not");
    for sql in [
        "INSERT INTO item (owner, name) SELECT p0::int, p1::text FROM (VALUES (1, '05'), (2, 5)) AS i(p0, p1)",
        "INSERT INTO item (owner) SELECT p0::int FROM (VALUES (1, 2), (2, 1)) AS i(p0, n) ORDER BY n",
        "INSERT INTO item (owner) SELECT p0::int + 1 FROM (VALUES (1), (2)) AS i(p0)",
    ] {
        assert_eq!(client.query(sql), "E:0A000 Z:I", "{sql}");
    }
    // Four bytes that are a text in the list, and would be a number without it.
    let sql =
        "INSERT INTO item (owner) SELECT p0::INTEGER FROM (VALUES ($1, 0)) AS i(p0, n) ORDER BY n";
    let answer = client.ask(&[
        parse("", sql),
        tagged(b'B', b"\0\0\0\x01\0\x01\0\x01\0\0\0\x041234\0\0"),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(answer, "1 2 E:0A000 Z:I");
    let counts = shards.each("SELECT count(*) FROM item");
    assert_eq!(counts, ["0", "0", "0"]);
    shards.pgdog.stop();
}

#[test]
fn sqlalchemy_inserts_many_objects() {
    let (shards, mut client) = started("listed_sqlalchemy");
    let out = python("sqlalchemy_shards.py", shards.pgdog.port(), &shards.name).ok();
    assert!(out.ends_with("all well\n"), "{out}");
    for table in ["item", "member"] {
        let counts = shards.each(&format!("SELECT count(*) FROM {table}"));
        assert!(
            counts.iter().all(|count| count != "0"),
            "{table}: {counts:?}"
        );
        let sql = format!("SELECT count(*) FROM {table}");
        assert_eq!(client.value(&sql), "150", "{table}");
    }
    shards.pgdog.stop();
}
