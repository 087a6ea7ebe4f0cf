//! Sharding keys are what PostgreSQL makes of what a client sends: rows are stored and looked for where it has them.

use super::shards::{all, Shards};
use super::support::wire::{bind, copy_data, copy_done, execute, parse, query, sync, tagged, Wire};
use super::writes::REWRITE;

fn table(name: &str, column: &str, data_type: &str) -> String {
    let name = match name {
        "" => String::new(),
        name => format!("name = \"{name}\"\n"),
    };
    format!(
        "[[sharded_tables]]\ndatabase = \"$DATABASE\"\n{name}column = \"{column}\"\ndata_type = \"{data_type}\"\n"
    )
}

/// Parse with the type of its one parameter, Bind and Execute.
fn with(client: &mut Wire, sql: &str, (type_oid, value): (u32, &str)) -> String {
    let types = [&[0, 1][..], &type_oid.to_be_bytes()].concat();
    let parse = tagged(b'P', &[b"\0", sql.as_bytes(), b"\0", &types].concat());
    client.ask(&[parse, bind("", "", &[Some(value)]), execute("", 0), sync()])
}

const NOT_SUPPORTED: &str = "E:0A000 Z:I";

#[test]
fn a_text_in_another_encoding_is_no_key() {
    let shards = Shards::start("keys_encoding", "", &table("tags", "name", "varchar"));
    let mut client = shards.client();
    all(&mut client, &["CREATE TABLE tags (name text, n int)"]);
    // What a client of LATIN1 means by the bytes of these, and enough of them for all shards.
    let sent = ["é", "è", "ê", "ü", "ö"];
    let meant = |text: &str| text.bytes().map(char::from).collect::<String>();
    for text in sent {
        let sql = format!("INSERT INTO tags VALUES ('{}', 1)", meant(text));
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
    }
    all(&mut client, &["INSERT INTO tags VALUES ('plain', 1)"]);
    let mut latin = shards.client();
    all(&mut latin, &["SET client_encoding = 'LATIN1'"]);
    for text in sent {
        let select = "SELECT n FROM tags WHERE name = $1";
        let batch = |sql: &str, value: &str| {
            [
                parse("", sql),
                bind("", "", &[Some(value)]),
                execute("", 0),
                sync(),
            ]
        };
        assert_eq!(latin.ask(&batch(select, text)), "1 2 D:1 C:SELECT_1 Z:I");
        let any = "SELECT n FROM tags WHERE name = ANY ($1)";
        let array = format!("{{x,{text}}}");
        assert_eq!(latin.ask(&batch(any, &array)), "1 2 D:1 C:SELECT_1 Z:I");
        let literal = format!("SELECT n FROM tags WHERE name = '{text}'");
        assert_eq!(latin.value(&literal), "1");
        for sql in [
            "INSERT INTO tags VALUES ($1, 2)",
            "UPDATE tags SET name = $1 WHERE name = 'plain'",
        ] {
            assert!(latin.ask(&batch(sql, text)).contains("E:0A000"), "{sql}");
        }
        let insert = format!("INSERT INTO tags VALUES ('{text}', 2)");
        assert_eq!(latin.query(&insert), NOT_SUPPORTED);
        let hinted = format!("/* pgdog_sharding_key: {text} */ SELECT n FROM tags");
        assert_eq!(latin.query(&hinted), NOT_SUPPORTED);
        all(&mut latin, &[&format!("SET pgdog.sharding_key = '{text}'")]);
        assert_eq!(latin.query("SELECT n FROM tags"), NOT_SUPPORTED);
        all(&mut latin, &["RESET pgdog.sharding_key"]);
    }
    assert_eq!(
        latin.query("INSERT INTO tags VALUES ('a', 2)"),
        "C:INSERT_0_1 Z:I"
    );
    // The server's encoding, under another name.
    all(&mut latin, &["SET client_encoding = 'Unicode'"]);
    assert_eq!(
        latin.query("INSERT INTO tags VALUES ('é', 2)"),
        "C:INSERT_0_1 Z:I"
    );
    shards.pgdog.stop();
}

#[test]
fn a_number_that_a_cast_rounds_is_looked_for_where_it_may_be() {
    const FLOAT8: u32 = 701;
    const NUMERIC: u32 = 1700;
    const FLOAT8S: u32 = 1022;
    const NUMERICS: u32 = 1231;
    let shards = Shards::start("keys_rounded", "", &table("users", "id", "bigint"));
    let mut client = shards.client();
    all(&mut client, &["CREATE TABLE users (id bigint, name text)"]);
    for id in 0..10 {
        let sql = format!("INSERT INTO users VALUES ({id}, 'x')");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
    }
    let mut found = |condition: &str, value| {
        with(
            &mut client,
            &format!("SELECT id FROM users WHERE {condition}"),
            value,
        )
    };
    let six = "1 2 D:6 C:SELECT_1 Z:I";
    let none = "1 2 C:SELECT_0 Z:I";
    for (condition, value, expected) in [
        ("id = $1::bigint", (NUMERIC, "5.5"), six),
        ("id = $1::bigint", (NUMERIC, "6.0"), six),
        ("id = $1::bigint", (FLOAT8, "5.7"), six),
        ("id = $1", (NUMERIC, "5.5"), none),
        ("id = $1", (NUMERIC, "6.0"), six),
        ("id = $1", (NUMERIC, "NaN"), none),
        ("id = ANY ($1)", (NUMERICS, "{6.0,5.5}"), six),
        ("id = ANY ($1::bigint[])", (NUMERICS, "{5.5}"), six),
        ("id = ANY ($1)", (FLOAT8S, "{6}"), six),
        ("id = ANY ($1)", (0, "{6}"), six),
    ] {
        assert_eq!(found(condition, value), expected, "{condition} {value:?}");
    }
    // Two texts of one shape.
    for id in ["5", "6", "7"] {
        let sql = format!("SELECT -id FROM users WHERE -(-({id})) = id");
        assert_eq!(client.value(&sql), format!("-{id}"));
        let sql = format!("SELECT id FROM users WHERE id = - -({id})");
        assert_eq!(client.value(&sql), id);
    }
    shards.pgdog.stop();
}

#[test]
fn blanks_that_a_column_cuts_off_are_no_part_of_a_key() {
    let tables = table("docs", "k", "varchar") + &table("longer", "k", "varchar") + REWRITE;
    let shards = Shards::start("keys_blanks", "", &tables);
    let mut client = shards.client();
    all(
        &mut client,
        &[
            "CREATE DOMAIN short AS varchar(5)",
            "CREATE DOMAIN shorter AS short",
            "CREATE TABLE longer (k text)",
        ],
    );
    for of_type in ["varchar(5)", "shorter"] {
        all(
            &mut client,
            &[&format!("CREATE TABLE docs (k {of_type}, v text)")],
        );
        for key in ["abcde", "fghij", "klmno", "pqrst", "uv   "] {
            let literal = format!("INSERT INTO docs VALUES ('{key}   ', 'x'), ('{key}  ', 'y')");
            assert_eq!(client.query(&literal), "C:INSERT_0_2 Z:I");
            let insert = "INSERT INTO docs (v, k) VALUES ('z', $1)";
            let inserted = with(&mut client, insert, (0, &format!("{key}    ")));
            assert_eq!(inserted, "1 2 C:INSERT_0_1 Z:I");
            client.begin_copy("COPY docs FROM STDIN");
            let copied = client.ask(&[
                copy_data(format!("{key} \tcopied\n").as_bytes()),
                copy_done(),
            ]);
            assert_eq!(copied, "C:COPY_1 Z:I");
            let moved = format!("UPDATE docs SET k = '{key}  ' WHERE k = 'other'");
            all(&mut client, &["INSERT INTO docs VALUES ('other', 'moved')"]);
            assert_eq!(client.query(&moved), "C:UPDATE_1 Z:I");
            let upper = format!(
                "INSERT INTO docs VALUES (lower('{}  '), 'made')",
                key.to_uppercase()
            );
            assert_eq!(client.query(&upper), "C:INSERT_0_1 Z:I");
            let count = format!("SELECT count(*) FROM docs WHERE k = '{key}'");
            assert_eq!(client.value(&count), "6", "{key}");
        }
        // Of how many characters this is depends on the encoding.
        assert_eq!(
            client.query("INSERT INTO docs VALUES ('ééé  ', 'x')"),
            NOT_SUPPORTED
        );
        let shorter = "INSERT INTO docs (k) SELECT k FROM longer";
        assert_eq!(client.query(shorter), NOT_SUPPORTED);
        let copied = client.query("INSERT INTO longer SELECT k FROM docs");
        assert_eq!(copied, "C:INSERT_0_30 Z:I");
        all(&mut client, &["DROP TABLE docs"]);
    }
    shards.pgdog.stop();
}

#[test]
fn a_column_of_another_type_is_no_key() {
    let entries = table("", "user_id", "bigint") + &table("docs", "k", "varchar");
    let shards = Shards::start("keys_types", "", &entries);
    let mut client = shards.client();
    all(
        &mut client,
        &[
            "CREATE DOMAIN number AS int",
            "CREATE TABLE small (user_id smallint)",
            "CREATE TABLE domains (user_id number)",
            "CREATE TABLE rounded (user_id numeric)",
            "CREATE TABLE texts (user_id text)",
            "CREATE TABLE docs (k char(5))",
            "CREATE VIEW numbers AS SELECT user_id::numeric AS user_id FROM small",
        ],
    );
    for good in ["small", "domains"] {
        let sql = format!("INSERT INTO {good} VALUES (7)");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
        let sql = format!("SELECT user_id FROM {good} WHERE user_id = 7");
        assert_eq!(client.value(&sql), "7");
    }
    let binary = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\0\0\0\x08\xff\xff";
    client.send(&query("COPY domains FROM STDIN (FORMAT binary)"));
    assert_eq!(client.expect(1), "G");
    let answer = client.ask(&[copy_data(binary), copy_done()]);
    assert_eq!(answer, "C:COPY_1 Z:I");
    let found = "SELECT user_id FROM domains WHERE user_id = 8";
    assert_eq!(client.value(found), "8");
    for bad in [
        "INSERT INTO rounded VALUES (7.4)",
        "SELECT * FROM rounded WHERE user_id = 7",
        "SELECT * FROM rounded",
        "DELETE FROM texts WHERE user_id = '7'",
        "SELECT * FROM texts JOIN small USING (user_id)",
        "INSERT INTO docs VALUES ('a')",
        "SELECT * FROM numbers WHERE user_id = 7",
        "COPY rounded FROM STDIN",
    ] {
        assert_eq!(client.query(bad), NOT_SUPPORTED, "{bad}");
    }
    all(
        &mut client,
        &[
            "ALTER TABLE rounded ALTER COLUMN user_id TYPE bigint",
            "INSERT INTO rounded VALUES (7)",
        ],
    );
    let sql = "SELECT user_id FROM rounded WHERE user_id = 7";
    assert_eq!(client.value(sql), "7");
    shards.pgdog.stop();
}

#[test]
fn tables_of_users_may_be_named_like_those_of_the_system() {
    let shards = Shards::start("keys_names", "", &table("pg_users", "id", "bigint"));
    let mut client = shards.client();
    all(
        &mut client,
        &[
            "CREATE TABLE pg_users (id bigint)",
            "CREATE TABLE pg_notes (id int)",
            "INSERT INTO pg_notes VALUES (1)",
        ],
    );
    for id in 1..9 {
        all(
            &mut client,
            &[&format!("INSERT INTO pg_users VALUES ({id})")],
        );
        let sql = format!("SELECT id FROM pg_users WHERE id = {id}");
        assert_eq!(client.value(&sql), id.to_string());
    }
    assert_eq!(client.value("SELECT count(*) FROM pg_users"), "8");
    assert_eq!(shards.each("SELECT count(*) FROM pg_notes"), ["1"; 3]);
    let sql = "SELECT count(*) FROM pg_class WHERE relname = 'pg_users'";
    assert_eq!(client.value(sql), "1");
    shards.pgdog.stop();
}
