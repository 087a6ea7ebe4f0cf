//! COPY of queries over shards: the data are those of the same COPY on one server, byte by byte, or it is refused by name.

use std::time::Duration;

use super::sharding::Pair;
use super::support::postgres::LOCK_WAITS;
use super::support::process::poll;
use super::support::programs::psql_with;
use super::support::wire::{
    bind, copy_data, copy_done, describe, execute, parse, query, run, sync, transcript, Wire,
};

/// One message: its word, and of what a COPY consists of all bytes.
type Told = (String, Vec<u8>);

/// What a client gets for these messages, up to one ReadyForQuery.
fn ask(client: &mut Wire, messages: &[u8]) -> Vec<Told> {
    client.send(messages);
    let mut messages = client.read_until(b'Z');
    messages.retain(|message| message.tag != b'S');
    let told = messages.into_iter().map(|message| match message.tag {
        b'd' | b'H' => (char::from(message.tag).to_string(), message.body),
        _ => (message.to_string(), Vec::new()),
    });
    told.collect()
}

/// The words alone, without the data.
fn words(told: &[Told]) -> String {
    let words = told.iter().map(|(word, _)| &**word);
    let words: Vec<_> = words.filter(|word| *word != "d").collect();
    words.join(" ")
}

impl Pair {
    /// Both give the same data in the same messages, and there is some.
    #[track_caller]
    fn copies_out(&mut self, sql: &str) {
        for messages in [query(sql), [run(sql, &[]), sync()].concat()] {
            let expected = ask(&mut self.one, &messages);
            let found = ask(&mut self.many, &messages);
            assert_eq!(found, expected, "{sql}");
            assert!(words(&found).contains("H c C:COPY_"), "{sql}: {found:?}");
        }
    }

    /// The same, in whatever order the rows come.
    #[track_caller]
    fn copies_out_unordered(&mut self, sql: &str) {
        let expected = ask(&mut self.one, &query(sql));
        let found = ask(&mut self.many, &query(sql));
        assert_eq!(words(&found), words(&expected), "{sql}");
        assert!(words(&found).contains("H c C:COPY_"), "{sql}: {found:?}");
        let header = usize::from(sql.contains("HEADER") && !sql.contains("HEADER false"));
        let data = |told: &[Told]| {
            let data = told.iter().filter(|(word, _)| word == "d");
            let mut data: Vec<_> = data.map(|(_, data)| data.clone()).collect();
            data[header..].sort();
            data
        };
        assert_eq!(data(&found), data(&expected), "{sql}");
        assert_eq!(found[0], expected[0], "{sql}");
    }
}

/// Options that change how rows are written.
const OPTIONS: [&str; 12] = [
    "",
    "(HEADER)",
    "(DELIMITER '|', NULL '')",
    "(DELIMITER E'\\b', NULL 'name')",
    "CSV",
    "CSV HEADER",
    "CSV HEADER NULL 'a' FORCE QUOTE *",
    "(FORMAT csv, DELIMITER ';', QUOTE '''', ESCAPE '\\', NULL 'none', FORCE_QUOTE (name))",
    "(FORMAT csv, DELIMITER E'\\t', ESCAPE 'a', HEADER on)",
    "(FORMAT csv, ENCODING 'utf-8')",
    "(FORMAT text, HEADER false)",
    "(FORMAT binary)",
];

/// Users whose names are hostile.
fn hostile(label: &str) -> Pair {
    let mut pair = Pair::filled(label);
    let names = [
        "",
        "\\.",
        "\\N",
        ".",
        "a",
        "none",
        "\t",
        "\n",
        "\r\n",
        "\r",
        "\\",
        "\\\\n",
        "\"",
        "\"\"",
        "'",
        "''",
        ",",
        ";",
        "|",
        "a,b",
        "a;\\'b",
        "tab\there",
        "\u{8}\u{b}\u{c}\u{1}\u{7f}",
        "grün 東京 \u{1f600}",
        " ",
        "NULL",
        "null",
        "\"quoted\"",
        "a\\",
        "\\t",
    ];
    for (index, name) in names.iter().enumerate() {
        let name = name.replace('\'', "''");
        pair.same(&format!(
            "INSERT INTO users VALUES ({}, '{name}', 7)",
            100 + index
        ));
    }
    pair.same("INSERT INTO users VALUES (200, NULL, 7)");
    pair
}

#[test]
fn merged_rows_are_written_as_by_one_server() {
    let mut pair = hostile("copyq_merged");
    for options in OPTIONS {
        for sql in [
            "SELECT * FROM users ORDER BY id",
            "SELECT name FROM users ORDER BY id DESC",
            "SELECT name, id AS \"a,\"\"b\" FROM users ORDER BY name NULLS FIRST, id OFFSET 3 LIMIT 30",
            "SELECT name, age FROM users ORDER BY age + 1 DESC NULLS LAST, id",
            "SELECT DISTINCT name FROM users ORDER BY name",
            "SELECT name, count(*), sum(age), avg(age), min(id) FROM users GROUP BY name ORDER BY name",
            "SELECT max(name) AS name, count(*) FROM users",
            "SELECT name, amount, at FROM users u JOIN payments p ON p.user_id = u.id ORDER BY p.id LIMIT 7",
            // Over gathered rows.
            "SELECT string_agg(name, '-' ORDER BY id) AS name FROM users",
            "SELECT id, name, lag(name) OVER (ORDER BY id) FROM users ORDER BY id",
            "SELECT name, id FROM users WHERE id > (SELECT avg(id) FROM users) ORDER BY id",
            "(SELECT name FROM users UNION VALUES ('x'), (NULL)) ORDER BY 1",
            "WITH u AS (SELECT * FROM users) SELECT name, id FROM u ORDER BY id LIMIT 5",
            "SELECT name FROM (SELECT * FROM users ORDER BY id) u LIMIT 4",
            "SELECT id, name FROM users WHERE id < 0 ORDER BY id",
            "SELECT FROM users ORDER BY id LIMIT 3",
            "SELECT id AS name, name, name FROM users ORDER BY id FOR UPDATE",
        ] {
            pair.copies_out_if(sql, options);
        }
    }
    pair.shards.pgdog.stop();
}

impl Pair {
    /// A COPY with these options; one without the column that they name is an error of both.
    #[track_caller]
    fn copies_out_if(&mut self, sql: &str, options: &str) {
        let sql = format!("COPY ({sql}) TO STDOUT {options}");
        let expected = ask(&mut self.one, &query(&sql));
        match words(&expected).starts_with('E') {
            true => assert_eq!(ask(&mut self.many, &query(&sql)), expected, "{sql}"),
            false => self.copies_out(&sql),
        }
    }
}

#[test]
fn rows_that_are_only_put_together_come_from_all_shards() {
    let mut pair = hostile("copyq_passed");
    for options in OPTIONS {
        for sql in [
            "SELECT * FROM users",
            "SELECT name, id + 1 AS \"Next\" FROM users WHERE age > 20 OR name IS NULL",
            "SELECT u.name, p.amount FROM users u JOIN payments p ON p.user_id = u.id",
            "SELECT name, count(*) FROM users GROUP BY id, name",
            "TABLE users",
            "SELECT id, name FROM users WHERE id < 0",
        ] {
            if options.contains("binary") {
                let sql = format!("COPY ({sql}) TO STDOUT {options}");
                let expected = ask(&mut pair.one, &query(&sql));
                let found = ask(&mut pair.many, &query(&sql));
                let bytes = |told: &[Told]| told.iter().map(|(_, data)| data.len()).sum::<usize>();
                assert_eq!(words(&found), words(&expected), "{sql}");
                assert_eq!(bytes(&found), bytes(&expected), "{sql}");
            } else {
                pair.copies_out_unordered(&format!("COPY ({sql}) TO STDOUT {options}"));
            }
        }
    }
    // A name in quotes is that of a column.
    let sql = "COPY (SELECT name, id AS \"*\" FROM users ORDER BY users.id) TO STDOUT";
    pair.copies_out(&format!(
        "{sql} (FORMAT csv, HEADER 1, FORCE_QUOTE (\"*\"))"
    ));
    // Whatever a server can write, it writes.
    let sql = "COPY (SELECT id, replace(name, '東京 \u{1f600}', '') FROM users WHERE name <> '') TO STDOUT";
    pair.copies_out_unordered(&format!("{sql} (ENCODING 'latin1')"));
    pair.shards.pgdog.stop();
}

#[test]
fn values_of_all_types_are_written_as_they_are_sent() {
    let mut pair = Pair::filled("copyq_types");
    let sql = "SELECT id, id % 2 = 0 AS bool, id::int2, id::float4 / 3, id::float8 / 7, id::numeric / 7, name::bytea, name::varchar, \
        name::char(9), name::\"char\", ARRAY[name, NULL, 'a,b'], ARRAY[[id, 1], [2, NULL]], to_jsonb(name), \
        '2024-02-29'::date + age, '2024-02-29 12:34:56.789'::timestamp + age * '1 day'::interval, '04:05:06'::time, \
        '2024-02-29 12:34:56+02'::timestamptz, age * '1 day 2 hours'::interval, md5(name)::uuid, '10.0.0.1/8'::inet, B'101', \
        int4range(1, age), NULL::text, '{}'::int[], ''::text \
        FROM users u ORDER BY u.id";
    for setting in [
        "SET DateStyle = ISO",
        "SET DateStyle = 'German, DMY'",
        "SET bytea_output = escape",
        "SET extra_float_digits = -3",
        "SET IntervalStyle = iso_8601",
        "SET TimeZone = 'Asia/Tokyo'",
    ] {
        pair.same(setting);
        for options in ["", "CSV HEADER", "BINARY"] {
            pair.copies_out(&format!("COPY ({sql}) TO STDOUT {options}"));
        }
    }
    pair.same("SET escape_string_warning = off");
    pair.same("SET standard_conforming_strings = off");
    for options in [
        "(DELIMITER '\\b', NULL '\\\\N')",
        "(FORMAT csv, NULL '\\\\', DELIMITER '\\t')",
    ] {
        let sql = "SELECT id, age, 'a\\\\b', name FROM users ORDER BY id";
        pair.copies_out(&format!("COPY ({sql}) TO STDOUT {options}"));
        let sql = "SELECT id, age, 'a\\\\b\\n', name FROM users";
        pair.copies_out_unordered(&format!("COPY ({sql}) TO STDOUT {options}"));
    }
    pair.same("SET standard_conforming_strings = on");
    // Texts travel in the client's encoding.
    pair.same("INSERT INTO users VALUES (77, 'grün', 1)");
    pair.same("SET client_encoding = latin1");
    pair.copies_out("COPY (SELECT name FROM users ORDER BY id) TO STDOUT CSV");
    pair.copies_out("COPY (SELECT name FROM users ORDER BY id) TO STDOUT (ENCODING 'latin1')");
    pair.refused("COPY (SELECT name FROM users ORDER BY id) TO STDOUT (ENCODING 'utf8')");
    pair.shards.pgdog.stop();
}

#[test]
fn a_copy_of_a_query_is_part_of_transactions_and_texts() {
    let mut pair = Pair::filled("copyq_tx");
    let sorted = "COPY (SELECT * FROM users ORDER BY id) TO STDOUT";
    let gathered = "COPY (SELECT string_agg(name, ',' ORDER BY id) FROM users) TO STDOUT CSV";
    let fails = "COPY (SELECT 1 / (id - 17) FROM users ORDER BY id) TO STDOUT";
    let texts = [
        "BEGIN",
        "INSERT INTO users VALUES (1000, 'mine', 1)",
        sorted,
        gathered,
        "SAVEPOINT s",
        "DELETE FROM users WHERE id < 20",
        sorted,
        "ROLLBACK TO s",
        sorted,
        "SAVEPOINT t",
    ];
    let both = |pair: &mut Pair, sql: &str| {
        let expected = ask(&mut pair.one, &query(sql));
        let found = ask(&mut pair.many, &query(sql));
        assert_eq!(found, expected, "{sql}");
    };
    for sql in texts {
        both(&mut pair, sql);
    }
    let error = |client: &mut Wire| {
        let told = ask(client, &query(fails));
        let words = told.into_iter().map(|(word, _)| word);
        words.rev().take(2).collect::<Vec<_>>()
    };
    assert_eq!(error(&mut pair.many), ["Z:E", "E:22012"]);
    assert_eq!(error(&mut pair.one), ["Z:E", "E:22012"]);
    for sql in [sorted, "ROLLBACK TO t", sorted, "COMMIT", sorted] {
        both(&mut pair, sql);
    }
    // Several statements of one text are one transaction; what waits for its commit is told then.
    let text =
        format!("UPDATE users SET age = 1; {sorted}; {gathered}; DELETE FROM users WHERE id = 3");
    both(&mut pair, &text);
    both(
        &mut pair,
        &format!("DELETE FROM users WHERE id = 4; {sorted}"),
    );
    let unknown = "COPY (SELECT nothing FROM users ORDER BY id) TO STDOUT";
    let text = format!("DELETE FROM users; {unknown}; SELECT 'never'");
    both(&mut pair, &text);
    assert_eq!(error(&mut pair.many), ["Z:I", "E:22012"]);
    both(&mut pair, sorted);
    pair.shards.pgdog.stop();
}

#[test]
fn the_extended_protocol_copies_queries_too() {
    let mut pair = Pair::filled("copyq_ext");
    let sorted = "COPY (SELECT id, name FROM users ORDER BY id LIMIT 5) TO STDOUT CSV HEADER";
    let binary = "COPY (SELECT count(*) FROM users) TO STDOUT (FORMAT binary)";
    let passed = "COPY (SELECT 1 FROM users WHERE id IN (1, 2, 3)) TO STDOUT";
    let fails = "COPY (SELECT nothing FROM users ORDER BY id) TO STDOUT";
    for sql in [sorted, binary, passed] {
        for batch in [
            [parse("s", sql), describe(b'S', "s"), sync()].concat(),
            [
                bind("", "s", &[]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]
            .concat(),
            [bind("p", "s", &[]), execute("p", 2), sync()].concat(),
            [
                run("SELECT 1", &[]),
                bind("", "s", &[]),
                execute("", 0),
                run("UPDATE users SET age = age", &[]),
                run(sql, &[]),
                sync(),
            ]
            .concat(),
            // Of a portal that has been run nothing is left.
            [bind("", "s", &[]), execute("", 0), execute("", 0), sync()].concat(),
            [run("SELECT 'then'", &[]), sync()].concat(),
            [
                parse("", fails),
                bind("", "", &[]),
                execute("", 0),
                run(sql, &[]),
                sync(),
            ]
            .concat(),
            [super::support::wire::close(b'S', "s"), sync()].concat(),
        ] {
            let expected = ask(&mut pair.one, &batch);
            assert_eq!(ask(&mut pair.many, &batch), expected, "{sql}");
        }
    }
    // It has no rows to describe, also where it fails.
    let unknown = sorted.replace("CSV HEADER", "(FORMAT csv, FORCE_QUOTE (nothing))");
    for sql in [sorted, fails, &unknown] {
        for (batch, start) in [
            (vec![describe(b'P', ""), execute("", 0)], "1 2 n "),
            (vec![execute("", 0)], "1 2 "),
            (vec![describe(b'P', "")], "1 2 n Z"),
        ] {
            let batch = [parse("", sql), bind("", "", &[]), batch.concat(), sync()].concat();
            let found = ask(&mut pair.many, &batch);
            assert_eq!(found, ask(&mut pair.one, &batch), "{sql}");
            assert!(words(&found).starts_with(start), "{sql}: {found:?}");
        }
    }
    // Nor may it ask for one.
    let sql = "COPY (SELECT id + $1 FROM users ORDER BY id) TO STDOUT";
    let batch = [parse("", sql), bind("", "", &[]), execute("", 0), sync()].concat();
    let found = ask(&mut pair.many, &batch);
    assert_eq!(found, ask(&mut pair.one, &batch));
    assert_eq!(words(&found), "1 2 E:42P02 Z:I");
    // A value for a COPY is too much.
    for sql in [sorted, passed] {
        let batch = [
            parse("", sql),
            bind("", "", &[Some("1")]),
            execute("", 0),
            sync(),
        ]
        .concat();
        let found = ask(&mut pair.many, &batch);
        assert!(words(&found).contains("E:08P01"), "{found:?}");
    }
    // Many of them, sent without waiting.
    let texts = [
        query(sorted),
        query(binary),
        query(passed),
        query("SELECT 1"),
    ]
    .concat();
    pair.one.send(&texts);
    pair.many.send(&texts);
    for _ in 0..4 {
        let expected = transcript(&pair.one.read_until(b'Z'));
        assert_eq!(transcript(&pair.many.read_until(b'Z')), expected);
    }
    pair.shards.pgdog.stop();
}

#[test]
fn what_one_shard_answers_is_its_own() {
    let mut pair = hostile("copyq_one");
    for sql in [
        "COPY (SELECT * FROM users WHERE id = 7) TO STDOUT (FORMAT csv, HEADER, FORCE_QUOTE *)",
        "COPY (SELECT code FROM countries ORDER BY code) TO STDOUT BINARY",
        "COPY (SELECT u.*, c.name FROM users u, countries c WHERE u.id = 7 AND c.code = 'de') TO STDOUT",
        "COPY (VALUES (1, 'a'), (2, NULL)) TO STDOUT (FORMAT text, DELIMITER ';')",
        "COPY (UPDATE users SET age = 3 WHERE id = 7 RETURNING id, age) TO STDOUT",
    ] {
        pair.copies_out(sql);
    }
    pair.same("COPY (INSERT INTO users VALUES (900, 'new', 1) RETURNING *) TO STDOUT CSV");
    pair.same("COPY (DELETE FROM users WHERE id = 900 RETURNING *) TO STDOUT CSV");
    let mut found = pair
        .many
        .query("/* pgdog_shard: 1 */ COPY (SELECT count(*) FROM users) TO STDOUT");
    let counts = pair.shards.each("SELECT count(*) FROM users");
    assert_eq!(found, format!("H d:{}\n c C:COPY_1 Z:I", counts[1]));
    found = pair.many.query("/* pgdog_sharding_key: 7 */ COPY (SELECT name FROM users WHERE id = 7 ORDER BY 1) TO STDOUT");
    assert_eq!(found, "H d:name_7\n c C:COPY_1 Z:I");
    pair.shards.pgdog.stop();
}

#[test]
fn what_sequences_have_done_is_known_after_a_copy() {
    let made = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"made\"\ncolumn = \"id\"\ndata_type = \"bigint\"\n";
    let mut pair = Pair::start("copyq_sequences", "", made);
    pair.same("INSERT INTO users VALUES (1, 'a', 1)");
    pair.same("INSERT INTO users VALUES (2, 'b', 1)");
    pair.same("INSERT INTO users VALUES (3, 'c', 1)");
    pair.same("CREATE SEQUENCE s");
    pair.same("CREATE TABLE made (id bigint DEFAULT nextval('s') PRIMARY KEY, v int)");
    for sql in [
        "BEGIN",
        "SELECT nextval('s')",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT",
        "SELECT currval('s')",
        "COPY (SELECT currval('s')) TO STDOUT",
        // Of the shards of these rows one alone has counted.
        "COPY (SELECT name, currval('s') FROM users WHERE id = 1) TO STDOUT",
        "COPY (SELECT name, currval('s') FROM users WHERE id = 2) TO STDOUT CSV",
        "COPY (SELECT name, currval('s') FROM users WHERE id = 3) TO STDOUT BINARY",
        "COMMIT",
    ] {
        pair.same(sql);
    }
    // A key that a server is to be asked for.
    pair.refused("COPY (INSERT INTO made (v) VALUES (7) RETURNING id, v) TO STDOUT");
    pair.shards.pgdog.stop();
}

#[test]
fn a_copy_is_cancelled_and_its_servers_are_free() {
    let mut pair = Pair::filled("copyq_cancel");
    let key = pair.many.key();
    let mut holder = pair.shards.shard(1);
    holder.query("BEGIN");
    holder.query("LOCK TABLE users");
    let sql = "COPY (SELECT * FROM users ORDER BY id) TO STDOUT";
    pair.many.send(&query(sql));
    poll(Duration::from_secs(20), "a COPY that waits", || {
        (pair.shards.shard(1).value(LOCK_WAITS) != "0").then_some(())
    });
    Wire::cancel(pair.shards.pgdog.port(), &key);
    let answer = transcript(&pair.many.read_until(b'Z'));
    assert!(answer.ends_with("E:57014 Z:I"), "{answer}");
    holder.query("ROLLBACK");
    pair.same("COPY (SELECT * FROM users ORDER BY id) TO STDOUT");
    // One that goes away amid the data.
    pair.same("UPDATE users SET name = repeat('long', 1000000)");
    let mut other = pair.shards.client();
    other.send(&query("COPY (SELECT * FROM users ORDER BY id) TO STDOUT"));
    assert_eq!(other.expect(1), "H");
    drop(other);
    pair.same("UPDATE users SET name = 'short'");
    pair.same("COPY (SELECT * FROM users ORDER BY id) TO STDOUT");
    pair.shards.pgdog.stop();
}

#[test]
fn what_is_not_known_to_be_right_is_refused() {
    let mut pair = Pair::filled("copyq_refused");
    for sql in [
        "COPY (UPDATE users SET age = 1 RETURNING id) TO STDOUT",
        "COPY (DELETE FROM users RETURNING id) TO STDOUT",
        "COPY (INSERT INTO countries VALUES ('xx', 'X') RETURNING code) TO STDOUT",
        "COPY (INSERT INTO users VALUES (901, 'a', 1), (902, 'b', 2), (903, 'c', 3) RETURNING id) TO STDOUT",
        "COPY (WITH c AS (DELETE FROM countries RETURNING code) SELECT * FROM c) TO STDOUT",
        "COPY (WITH u AS (DELETE FROM users RETURNING id) SELECT * FROM u ORDER BY id) TO STDOUT",
        "COPY (SELECT * FROM users u, LATERAL (SELECT count(*) FROM users v WHERE v.id < u.id) c) TO STDOUT",
        "COPY (WITH RECURSIVE r AS (SELECT id FROM users UNION SELECT id FROM r) SELECT * FROM r) TO STDOUT",
        "COPY (SELECT pg_advisory_lock(id) FROM users ORDER BY id) TO STDOUT",
        "COPY (SELECT * FROM users ORDER BY id) TO '/tmp/nothing'",
        "COPY (SELECT * FROM users ORDER BY id) TO PROGRAM 'true'",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (FORMAT parquet)",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (DELIMITER 'ab')",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (DELIMITER 'a')",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (QUOTE '''')",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (HEADER match)",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (HEADER '1')",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (NULL (a, b))",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (FORMAT csv, FORCE_QUOTE name)",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (FORMAT csv, FORCE_QUOTE (name, name))",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (ENCODING 'latin1')",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (FORMAT binary, HEADER)",
        "COPY (SELECT * FROM users) TO STDOUT (ENCODING 'SJIS')",
    ] {
        pair.refused(sql);
        pair.same("SELECT count(*), sum(age) FROM users");
        pair.same("SELECT * FROM countries ORDER BY code");
    }
    // What one server refuses is refused in its words.
    for sql in [
        "COPY (SELECT nothing FROM users) TO STDOUT",
        "COPY (SELECT nothing FROM users ORDER BY id) TO STDOUT",
        "COPY (SELECT id FROM nowhere ORDER BY id) TO STDOUT",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (FORMAT csv, FORCE_QUOTE (nothing))",
        "COPY (SELECT * FROM users ORDER BY id) TO STDOUT (FORMAT csv, FORCE_QUOTE (\"*\"))",
        "COPY users TO STDOUT (FORMAT csv, FORCE_QUOTE name)",
        "COPY users TO STDOUT (FORMAT csv, FORCE_QUOTE (\"*\"))",
        "COPY users FROM STDIN (FORMAT csv, FORCE_NULL id)",
        "COPY users FROM STDIN (FORMAT csv, FORCE_NULL (\"*\"))",
        "COPY users FROM STDIN (FORMAT csv, FORCE_NOT_NULL (id, id))",
        "COPY (SELECT * INTO other FROM users WHERE id = 1) TO STDOUT",
        "COPY (SELECT $1 FROM users WHERE id = 1) TO STDOUT",
        "COPY (SELECT id + $1 FROM users ORDER BY id) TO STDOUT",
        "COPY (SELECT 1 TO STDOUT",
    ] {
        pair.same(sql);
    }
    pair.shards.pgdog.stop();
}

#[test]
fn errors_are_where_the_client_has_them() {
    let mut pair = Pair::filled("copyq_where");
    for sql in [
        "COPY (SELECT nothing FROM users) TO STDOUT",
        "COPY (SELECT nothing FROM users ORDER BY id) TO STDOUT",
        "copy /* für (alle) */ ( SELECT 'größer', nothing FROM users ORDER BY id) TO STDOUT CSV",
        "COPY (SELECT string_agg(nothing, ',' ORDER BY id) FROM users) TO STDOUT",
        "COPY (SELECT id FROM nowhere ORDER BY id) TO STDOUT BINARY",
        "COPY (SELECT 1 / (id - 17) FROM users ORDER BY id) TO STDOUT",
    ] {
        for messages in [query(sql), [run(sql, &[]), sync()].concat()] {
            let position = |client: &mut Wire| {
                client.send(&messages);
                let told = client.read_until(b'Z');
                let error = told.iter().find(|message| message.tag == b'E');
                error.expect("an error").field(b'P')
            };
            assert_eq!(position(&mut pair.many), position(&mut pair.one), "{sql}");
        }
    }
    pair.shards.pgdog.stop();
}

#[test]
fn a_hundred_thousand_ordered_rows_come_in_order() {
    let mut pair = Pair::start("copyq_many", "", "");
    let rows: String = (0..100_000)
        .map(|id| format!("{id}\tname\\t{id}\t{}\n", id % 90))
        .collect();
    let fill = |client: &mut Wire| {
        client.begin_copy("COPY users FROM STDIN");
        assert_eq!(
            client.ask(&[copy_data(rows.as_bytes()), copy_done()]),
            "C:COPY_100000 Z:I"
        );
    };
    fill(&mut pair.one);
    fill(&mut pair.many);
    pair.copies_out("COPY (SELECT * FROM users ORDER BY id) TO STDOUT");
    pair.copies_out(
        "COPY (SELECT name, id FROM users ORDER BY age DESC, id) TO STDOUT (FORMAT csv, HEADER)",
    );
    // Groups that other cores have a part of.
    pair.copies_out("COPY (SELECT id % 30000 AS n, count(*), max(name) FROM users GROUP BY 1 ORDER BY 1) TO STDOUT BINARY");
    // One row is longer than what is read at a time.
    pair.same("UPDATE users SET name = repeat(E'long\\t', 400000) WHERE id IN (5, 6, 7)");
    pair.copies_out("COPY (SELECT * FROM users WHERE id < 10 ORDER BY id) TO STDOUT");
    // And back, what binary data are, into the shards.
    let told = ask(
        &mut pair.many,
        &query("COPY (SELECT * FROM users ORDER BY id) TO STDOUT BINARY"),
    );
    let data: Vec<u8> = told
        .iter()
        .filter(|(word, _)| word == "d")
        .flat_map(|(_, data)| data.clone())
        .collect();
    let sums = "SELECT count(*), sum(id), sum(length(name)), sum(age) FROM users";
    let expected = pair.one.query(sums);
    pair.many.query("DELETE FROM users");
    pair.many.begin_copy("COPY users FROM STDIN BINARY");
    let messages: Vec<_> = data.chunks(1 << 20).map(copy_data).collect();
    assert_eq!(
        pair.many.ask(&[messages.concat(), copy_done()]),
        "C:COPY_100000 Z:I"
    );
    assert_eq!(pair.many.query(sums), expected);
    pair.shards.pgdog.stop();
}

#[test]
fn psql_exports_queries() {
    let pair = hostile("copyq_psql");
    let port = pair.shards.pgdog.port();
    let export =
        "\\copy (SELECT id, name FROM users WHERE id > 100 ORDER BY id DESC) TO STDOUT CSV HEADER";
    let found = psql_with(port, &pair.shards.name, &["-c", export]).ok();
    assert!(
        found.starts_with("id,name\n200,\n129,\\t\n128,a\\\n127,\"\"\"quoted\"\"\"\n"),
        "{found}"
    );
    pair.shards.pgdog.stop();
}
