//! COPY over shards: the same data into one PostgreSQL and into three shards give the same tables and tags, each row on the
//! shard of its key; what fails leaves nothing anywhere.

use std::time::Duration;

use super::sharding::Pair;
use super::support::postgres::LOCK_WAITS;
use super::support::process::poll;
use super::support::wire::{
    bind, copy_data, copy_done, copy_fail, describe, execute, flush, parse, query, run, sync,
    transcript, Wire,
};

/// Sends data in pieces of so many bytes; the answer.
fn copy_in(client: &mut Wire, sql: &str, data: &[u8], piece: usize) -> String {
    assert_eq!(client.begin_copy(sql), "G", "{sql}");
    let messages: Vec<_> = data.chunks(piece).map(copy_data).collect();
    client.ask(&[messages.concat(), copy_done()])
}

/// What COPY TO gives: its messages but the data, and the data.
fn copy_out(client: &mut Wire, sql: &str) -> (String, Vec<Vec<u8>>) {
    client.send(&query(sql));
    let mut messages = client.read_until(b'Z');
    let data = messages.iter().filter(|message| message.tag == b'd');
    let data = data.map(|message| message.body.clone()).collect();
    messages.retain(|message| message.tag != b'd');
    (transcript(&messages), data)
}

impl Pair {
    /// Both take the same data, and have the same rows then, where their keys say.
    fn copies(&mut self, sql: &str, data: &[u8]) {
        for piece in [data.len().max(1), 1, 7] {
            let expected = copy_in(&mut self.one, sql, data, data.len().max(1));
            let found = copy_in(&mut self.many, sql, data, piece);
            assert_eq!(found, expected, "{sql} in pieces of {piece}");
            self.same("SELECT * FROM users ORDER BY id");
            let ids = self.one.rows("SELECT id FROM users");
            for id in ids {
                self.same(&format!("SELECT * FROM users WHERE id = {}", id[0]));
            }
            self.same("DELETE FROM users");
        }
    }

    fn counts(&self, table: &str) -> Vec<u64> {
        let counts = self.shards.each(&format!("SELECT count(*) FROM {table}"));
        counts.iter().map(|count| count.parse().unwrap()).collect()
    }
}

#[test]
fn rows_of_every_form_reach_the_shards_of_their_keys() {
    let mut pair = Pair::start("copy_forms", "", "");
    for (sql, data) in [
        ("COPY users FROM STDIN", "1\ta\t10\n2\tb\\tc\t\\N\n3\t\\N\t7\n77\tx\\\ny\t1\n"),
        // A key in escapes, a last line without an end, ends of lines of another kind.
        ("COPY users FROM STDIN", "\\x31\\062\ta\t1\n\\65\tb\t2"),
        ("COPY users FROM STDIN", "1\ta\t1\r\n2\tb\t2\r\n"),
        ("COPY users FROM STDIN", "1\ta\t1\n2\tb\t2\n\\.\n"),
        ("COPY users FROM STDIN", ""),
        ("COPY users (age, id) FROM STDIN", "7\t1\n\\N\t2\n9\t3\n"),
        ("COPY users FROM STDIN WITH (DELIMITER '|', NULL '-')", "1|-|5\n2|\\-|-\n3|c|-\n"),
        ("COPY users FROM STDIN WITH (HEADER)", "id\tname\tage\n1\ta\t1\n2\tb\t2\n3\tc\t3\n"),
        ("COPY users FROM STDIN WITH (HEADER match)", "id\tname\tage\n5\ta\t1\n6\tb\t2\n"),
        ("COPY users FROM STDIN CSV", "1,a,1\n\"2\",\"b,\"\"\nc\",2\n3,\"\",\n4,,4"),
        (
            "COPY users FROM STDIN (FORMAT csv, HEADER, DELIMITER ';', QUOTE '''', ESCAPE '\\', NULL 'none')",
            "id;name;age\n'1';'a\\'b';none\n2;none;3\n",
        ),
        (
            "COPY users (name, id) FROM STDIN (FORMAT csv, FORCE_NOT_NULL (name))",
            ",1\n\"\",2\nx,3\n",
        ),
        ("COPY users FROM STDIN (FORMAT csv, FORCE_NULL (name))", "1,\"\",1\n2,x,2\n"),
        ("COPY users FROM STDIN WHERE age > 1", "1\ta\t1\n2\tb\t2\n3\tc\t3\n"),
        ("COPY users FROM STDIN (ENCODING 'UTF8')", "1\tgrün\t1\n2\t東京\t2\n"),
        ("COPY public.users FROM STDIN (FREEZE off)", "-9223372036854775808\ta\t1\n9223372036854775807\tb\t2\n"),
    ] {
        pair.copies(sql, data.as_bytes());
    }
    // Columns that are computed are not in the data, and stand in front of the key.
    for sql in [
        "DROP TABLE payments",
        "DROP TABLE users",
        "CREATE TABLE users (twice int GENERATED ALWAYS AS (age * 2) STORED, gone int, name text, id bigint, age int)",
        "ALTER TABLE users DROP COLUMN gone",
    ] {
        pair.same(sql);
    }
    pair.copies("COPY users FROM STDIN", b"a\t1\t5\nb\t2\t6\nc\t3\t7\n");
    pair.copies("COPY users FROM STDIN", b"a\t\\N\t5\n");
    pair.shards.pgdog.stop();
}

#[test]
fn a_table_that_was_changed_elsewhere_is_read_by_the_names_of_its_columns() {
    let mut pair = Pair::start("copy_changed", "", "");
    let begin = [
        "DROP TABLE payments",
        "DROP TABLE users",
        "CREATE TABLE users (gone int, id bigint, age int)",
    ];
    for sql in begin {
        pair.same(sql);
    }
    pair.many.query("SELECT * FROM users WHERE id = 1");
    for shard in 0..3 {
        let mut direct = pair.shards.shard(shard);
        direct.query("ALTER TABLE users DROP COLUMN gone; ALTER TABLE users ADD COLUMN late int");
    }
    let sql = "COPY users FROM STDIN";
    assert_eq!(pair.many.query(sql), "E:42703 Z:I");
    // Now it is known.
    let tag = copy_in(&mut pair.many, sql, b"1\t10\t100\n2\t20\t200\n", 9);
    assert_eq!(tag, "C:COPY_2 Z:I");
    let row = pair
        .many
        .rows("SELECT id, age, late FROM users WHERE id = 2");
    assert_eq!(row, [["2", "20", "200"]]);
    pair.shards.pgdog.stop();
}

#[test]
fn a_hundred_thousand_rows_are_spread_and_none_is_lost() {
    let mut pair = Pair::start("copy_many", "", "");
    let rows: String = (0..100_000)
        .map(|id| format!("{id}\tname {id}\t{}\n", id % 90))
        .collect();
    let tag = copy_in(
        &mut pair.many,
        "COPY users FROM STDIN",
        rows.as_bytes(),
        50_000,
    );
    assert_eq!(tag, "C:COPY_100000 Z:I");
    let counts = pair.counts("users");
    assert_eq!(counts.iter().sum::<u64>(), 100_000);
    assert!(counts.iter().all(|count| *count > 30_000), "{counts:?}");
    let sums = "SELECT count(*), sum(id), sum(age), min(name), max(name) FROM users";
    copy_in(
        &mut pair.one,
        "COPY users FROM STDIN",
        rows.as_bytes(),
        50_000,
    );
    pair.same(sums);
    for number in 0..3 {
        // PostgreSQL's own opinion: a table partitioned by hash into as many parts.
        let mut direct = pair.shards.shard(number);
        direct.query("CREATE TABLE parts (k bigint) PARTITION BY HASH (k)");
        let misplaced = format!(
            "SELECT count(*) FROM users \
             WHERE NOT satisfies_hash_partition('parts'::regclass, 3, {number}, id)"
        );
        assert_eq!(direct.value(&misplaced), "0", "shard {number}");
    }
    // And back, in binary, into empty tables.
    let (answer, data) = copy_out(&mut pair.many, "COPY users TO STDOUT (FORMAT binary)");
    assert_eq!(answer, "H c C:COPY_100000 Z:I");
    for client in [&mut pair.one, &mut pair.many] {
        client.query("DELETE FROM users");
        let tag = copy_in(
            client,
            "COPY users FROM STDIN (FORMAT binary)",
            &data.concat(),
            33_333,
        );
        assert_eq!(tag, "C:COPY_100000 Z:I");
    }
    pair.same(sums);
    assert_eq!(pair.counts("users"), counts);
    pair.shards.pgdog.stop();
}

#[test]
fn what_fails_leaves_nothing_on_any_shard() {
    let mut pair = Pair::start("copy_fails", "", "");
    pair.same("INSERT INTO users VALUES (50, 'there', 1)");
    let good =
        |ids: std::ops::Range<u32>| -> String { ids.map(|id| format!("{id}\tn\t1\n")).collect() };
    let (before, behind) = (good(100..400), good(500..800));
    for (sql, end, code) in [
        ("COPY users FROM STDIN", copy_fail("no more"), "57014"),
        (
            "COPY users FROM STDIN",
            copy_data(b"x\tbad key\t1\n"),
            "22P02",
        ),
        (
            "COPY users FROM STDIN",
            copy_data(b"1e3\tbad key\t1\n"),
            "22P02",
        ),
        // The servers' own errors: the key exists, a value is none, a row is too long or too short.
        (
            "COPY users FROM STDIN",
            copy_data(b"50\tagain\t1\n"),
            "23505",
        ),
        (
            "COPY users FROM STDIN",
            copy_data(b"51\tn\tmany\n"),
            "22P02",
        ),
        (
            "COPY users FROM STDIN",
            copy_data(b"51\tn\t1\t1\n"),
            "22P04",
        ),
        ("COPY users FROM STDIN", copy_data(b"51\tn\n"), "22P04"),
        (
            "COPY users (name, age, id) FROM STDIN",
            copy_data(b"n\t1\n"),
            "22P04",
        ),
        (
            "COPY users (name, age, id) FROM STDIN CSV",
            copy_data(b"\"n,1,1\n"),
            "22P04",
        ),
        (
            "COPY users FROM STDIN (FORMAT binary)",
            copy_data(b"no such file"),
            "22P04",
        ),
    ] {
        for in_transaction in [false, true] {
            if in_transaction {
                pair.many.query("BEGIN");
            }
            let status = if in_transaction { "E" } else { "I" };
            assert_eq!(pair.many.begin_copy(sql), "G");
            let (before, behind) = match sql {
                "COPY users FROM STDIN" => (before.as_bytes(), behind.as_bytes()),
                _ => (&b""[..], &b""[..]),
            };
            // The client goes on after the error, as it has not read it.
            let rest = [copy_data(behind), copy_done()].concat();
            let answer = pair.many.ask(&[copy_data(before), end.clone(), rest]);
            assert_eq!(answer, format!("E:{code} Z:{status}"), "{sql}");
            if in_transaction {
                assert_eq!(pair.many.query("COMMIT"), "C:ROLLBACK Z:I");
            }
            pair.same("SELECT * FROM users");
        }
    }
    let answer = |client: &mut Wire| client.query("COPY users (nothing, id) FROM STDIN");
    assert_eq!(answer(&mut pair.many), answer(&mut pair.one));
    assert_eq!(pair.counts("users").iter().sum::<u64>(), 1);
    pair.shards.pgdog.stop();
}

#[test]
fn a_malformed_row_is_named_by_its_number() {
    let mut pair = Pair::start("copy_number", "", "");
    pair.many.begin_copy("COPY users (age, id) FROM STDIN");
    pair.many.send(&copy_data(b"1\t1\n2\t2\n3\n4\t4\n"));
    let error = pair.many.read();
    assert_eq!(error.field(b'C'), "22P04");
    assert!(
        error.field(b'M').starts_with("bad COPY row 3: "),
        "{error:?}"
    );
    assert_eq!(transcript(&pair.many.read_until(b'Z')), "Z:I");
    pair.many.begin_copy("COPY users (age, id) FROM STDIN");
    pair.many.send(&copy_data(b"1\t1\n2\tx\n"));
    let error = pair.many.read();
    assert_eq!(error.field(b'C'), "22P02");
    assert_eq!(error.field(b'D'), "COPY row 2");
    pair.shards.pgdog.stop();
}

#[test]
fn a_client_or_server_that_goes_away_leaves_nothing() {
    let pair = Pair::start("copy_gone", "", "");
    let data: String = (0..20_000).map(|id| format!("{id}\tn\t1\n")).collect();
    for cut in [0, 3] {
        let mut client = pair.shards.client();
        client.begin_copy("COPY users FROM STDIN");
        let message = copy_data(data.as_bytes());
        client.send(&message[..message.len() - cut]);
        drop(client);
    }
    let mut client = pair.shards.client();
    client.begin_copy("COPY users FROM STDIN");
    client.send(&copy_data(data.as_bytes()));
    pair.shards.shard(1).query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'COPY%'",
    );
    let rest = client.rest();
    assert!(rest.starts_with("E:") && !rest.contains('C'), "{rest}");
    for shard in 0..3 {
        let mut direct = pair.shards.shard(shard);
        direct.query("BEGIN");
        // Waits for whoever still writes.
        assert_eq!(direct.query("LOCK TABLE users"), "C:LOCK_TABLE Z:T");
        assert_eq!(direct.value("SELECT count(*) FROM users"), "0");
    }
    pair.shards.pgdog.stop();
}

#[test]
fn a_shard_that_waits_for_a_lock_does_not_hold_an_error_up() {
    let mut pair = Pair::start("copy_lock", "", "");
    // Somebody has rows of the same keys that are not committed yet.
    let mut holders: Vec<_> = (0..3).map(|shard| pair.shards.shard(shard)).collect();
    for holder in &mut holders {
        holder.query("BEGIN");
        holder.query("INSERT INTO users SELECT id, 'held', 0 FROM generate_series(1, 5) id");
    }
    pair.many.begin_copy("COPY users FROM STDIN");
    let rows: String = (1..6_000).map(|id| format!("{id}\tn\t1\n")).collect();
    pair.many.send(&copy_data(rows.as_bytes()));
    poll(Duration::from_secs(20), "a COPY that waits", || {
        (pair.shards.shard(0).value(LOCK_WAITS) != "0").then_some(())
    });
    assert_eq!(
        pair.many.ask(&[copy_data(b"x\tn\t1\n"), copy_done()]),
        "E:22P02 Z:I"
    );
    for holder in &mut holders {
        holder.query("ROLLBACK");
    }
    assert_eq!(pair.counts("users"), [0, 0, 0]);
    pair.shards.pgdog.stop();
}

#[test]
fn copies_are_part_of_transactions() {
    let mut pair = Pair::start("copy_tx", "", "");
    let data = b"1\ta\t1\n2\tb\t2\n3\tc\t3\n4\td\t4\n";
    let sql = "COPY users FROM STDIN";
    for end in ["ROLLBACK", "COMMIT"] {
        for client in [&mut pair.one, &mut pair.many] {
            client.query("BEGIN");
            client.query("INSERT INTO users VALUES (10, 'first', 1)");
            assert_eq!(copy_in(client, sql, data, 5), "C:COPY_4 Z:T");
            assert_eq!(client.value("SELECT count(*) FROM users"), "5");
            client.query(end);
        }
        pair.same("SELECT * FROM users ORDER BY id");
    }
    // One for one shard, whatever its keys, where others are in the transaction.
    let before = pair.counts("users");
    let many = &mut pair.many;
    many.query("BEGIN");
    assert_eq!(many.value("SELECT count(*) FROM users"), "5");
    let hinted = "/* pgdog_shard: 2 */ COPY users (id) FROM STDIN";
    assert_eq!(copy_in(many, hinted, b"6\n", 3), "C:COPY_1 Z:T");
    many.query("ROLLBACK");
    assert_eq!(pair.counts("users"), before);
    // Several in one text, and one that is sent without waiting.
    for client in [&mut pair.one, &mut pair.many] {
        client.send(&query(
            "DELETE FROM users; COPY users FROM STDIN; COPY users FROM STDIN",
        ));
        assert_eq!(client.expect(2), "C:DELETE_5 G");
        client.send(&[copy_data(b"1\ta\t1\n"), copy_done()].concat());
        assert_eq!(client.expect(2), "C:COPY_1 G");
        assert_eq!(
            client.ask(&[copy_data(b"2\ta\t1\n"), copy_done()]),
            "C:COPY_1 Z:I"
        );
        let all = [
            query(sql),
            copy_data(b"3\ta\t1\n4\tb\t2"),
            copy_done(),
            query("SELECT 'then'"),
        ];
        client.send(&all.concat());
        assert_eq!(client.batches(2), "G C:COPY_2 Z:I T D:then C:SELECT_1 Z:I");
    }
    pair.same("SELECT * FROM users ORDER BY id");
    pair.shards.pgdog.stop();
}

#[test]
fn the_extended_protocol_copies_too() {
    let mut pair = Pair::start("copy_ext", "", "");
    let sql = "COPY users FROM STDIN";
    for client in [&mut pair.one, &mut pair.many] {
        // As libpq does: Sync goes out with Execute, is ignored during the copy, and sent again after it.
        let begin = [
            parse("", sql),
            bind("", "", &[]),
            describe(b'P', ""),
            execute("", 0),
        ]
        .concat();
        client.send(&[&begin[..], &sync()].concat());
        assert_eq!(client.expect(4), "1 2 n G");
        let data = [copy_data(b"1\ta\t1\n2\tb\t2\n"), copy_done(), sync()];
        assert_eq!(client.ask(&data), "C:COPY_2 Z:I");
        // With Flush, and with nothing in between.
        client.send(&[run(sql, &[]), flush()].concat());
        assert_eq!(client.expect(3), "1 2 G");
        assert_eq!(
            client.ask(&[copy_data(b"3\ta\t1\n"), copy_done(), sync()]),
            "C:COPY_1 Z:I"
        );
        let all = [run(sql, &[]), copy_data(b"4\ta\t1\n"), copy_done(), sync()];
        assert_eq!(client.ask(&all), "1 2 G C:COPY_1 Z:I");
        // An error: everything up to Sync is skipped.
        client.send(&[run(sql, &[]), sync()].concat());
        assert_eq!(client.expect(3), "1 2 G");
        client.send(&copy_data(b"5\ta\t1\n1\tagain\t1\n6\tb\t1\n"));
        client.send(&copy_fail("enough"));
        let error = client.expect(1);
        assert!(error == "E:57014" || error == "E:23505", "{error}");
        assert_eq!(client.ask(&[run("SELECT 'skipped'", &[]), sync()]), "Z:I");
        assert_eq!(
            client.ask(&[run("COPY users (no, id) FROM STDIN", &[]), sync()]),
            "1 2 E:42703 Z:I"
        );
        // For one shard.
        let hinted = "/* pgdog_shard: 1 */ COPY payments FROM STDIN";
        client.send(&[run(hinted, &[]), sync()].concat());
        assert_eq!(client.expect(3), "1 2 G");
        assert_eq!(
            client.ask(&[copy_data(b"1\t\\N\t2\t\\N\n"), copy_done(), sync()]),
            "C:COPY_1 Z:I"
        );
    }
    assert_eq!(pair.counts("payments"), [0, 1, 0]);
    pair.same("SELECT * FROM users ORDER BY id");
    let batch = [
        run("COPY users TO STDOUT (FORMAT csv, HEADER)", &[]),
        sync(),
    ];
    let sorted = |answer: String| {
        let mut words: Vec<_> = answer.split(' ').map(str::to_owned).collect();
        words.sort();
        words
    };
    assert_eq!(sorted(pair.many.ask(&batch)), sorted(pair.one.ask(&batch)));
    pair.shards.pgdog.stop();
}

#[test]
fn tables_that_are_the_same_everywhere() {
    let mut pair = Pair::start("copy_omni", "", "");
    let data = b"de\tGermany\nfr\tFrance\nit\tItaly\n";
    for client in [&mut pair.one, &mut pair.many] {
        let tag = copy_in(client, "COPY countries FROM STDIN", data, 4);
        assert_eq!(tag, "C:COPY_3 Z:I");
    }
    assert_eq!(pair.counts("countries"), [3, 3, 3]);
    pair.same("COPY countries TO STDOUT CSV HEADER");
    pair.same("COPY (SELECT code FROM countries ORDER BY code) TO STDOUT");
    // One shard has the key already: none takes the others.
    pair.shards
        .shard(2)
        .query("INSERT INTO countries VALUES ('es', 'there')");
    let tag = copy_in(
        &mut pair.many,
        "COPY countries FROM STDIN",
        b"be\tx\nes\tSpain\n",
        9,
    );
    assert_eq!(tag, "E:23505 Z:I");
    assert_eq!(pair.counts("countries"), [3, 3, 4]);
    // One shard has it, and leaves it out.
    let skip = "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.code = 'es' AND EXISTS \
        (SELECT FROM countries WHERE code = 'es') THEN RETURN NULL; END IF; RETURN NEW; END$$; \
        CREATE TRIGGER skip BEFORE INSERT ON countries FOR EACH ROW EXECUTE FUNCTION skip()";
    (0..3).for_each(|shard| drop(pair.shards.shard(shard).query(skip)));
    let tag = copy_in(
        &mut pair.many,
        "COPY countries FROM STDIN",
        b"be\tx\nes\tSpain\n",
        9,
    );
    assert_eq!(tag, "E:XX001 Z:I");
    assert_eq!(pair.counts("countries"), [3, 3, 4]);
    pair.shards.pgdog.stop();
}

#[test]
fn rows_come_from_all_shards_and_headers_once() {
    let mut pair = Pair::filled("copy_out");
    for sql in [
        "COPY users TO STDOUT",
        "COPY users TO STDOUT WITH (HEADER)",
        "COPY users (name, id) TO STDOUT (FORMAT csv, HEADER, FORCE_QUOTE *)",
        "COPY users TO STDOUT CSV",
        "COPY payments TO STDOUT (FORMAT binary)",
    ] {
        let (expected, mut rows) = copy_out(&mut pair.one, sql);
        let (found, mut others) = copy_out(&mut pair.many, sql);
        assert_eq!(found, expected, "{sql}");
        assert_eq!(others.concat().len(), rows.concat().len(), "{sql}");
        if sql.contains("binary") {
            let start = b"PGCOPY\n\xff\r\n\0";
            let headers = |rows: &[Vec<u8>]| {
                let data = rows.concat();
                data.windows(start.len())
                    .filter(|part| part == start)
                    .count()
            };
            assert_eq!((headers(&rows), headers(&others)), (1, 1));
            assert!(others.concat().ends_with(b"\xff\xff"));
        } else {
            if sql.contains("HEADER") {
                assert_eq!(others.first(), rows.first());
            }
            rows.sort();
            others.sort();
            assert_eq!(others, rows, "{sql}");
        }
    }
    for sql in [
        "COPY (SELECT * FROM users WHERE id = 7) TO STDOUT",
        "COPY (SELECT name FROM users WHERE id = 8) TO STDOUT CSV HEADER",
        "COPY users (nothing) TO STDOUT",
        "COPY nowhere TO STDOUT",
        "COPY nowhere FROM STDIN",
    ] {
        pair.same(sql);
    }
    pair.same("DELETE FROM payments");
    for sql in [
        "COPY payments TO STDOUT",
        "COPY payments TO STDOUT CSV HEADER",
        "COPY payments TO STDOUT (FORMAT binary)",
    ] {
        let (one, many) = (copy_out(&mut pair.one, sql), copy_out(&mut pair.many, sql));
        assert_eq!(many.0, one.0);
        assert_eq!(many.1.concat(), one.1.concat());
    }
    pair.shards.pgdog.stop();
}

#[test]
fn what_cannot_be_spread_is_refused_by_name() {
    let mut pair = Pair::start("copy_refused", "", "");
    pair.same("CREATE VIEW everybody AS SELECT * FROM users");
    for sql in [
        "COPY users FROM '/tmp/nothing'",
        "COPY users TO '/tmp/nothing'",
        "COPY users FROM PROGRAM 'true'",
        "COPY countries FROM '/tmp/nothing'",
        "COPY users FROM STDIN (DELIMITER 'ab')",
        "COPY users FROM STDIN (ENCODING 'GB18030')",
        "COPY everybody FROM STDIN",
    ] {
        pair.refused(sql);
    }
    let answer = pair.many.query("COPY users (name) FROM STDIN");
    assert_eq!(answer, "E:22P04 Z:I");
    pair.shards.pgdog.stop();
}
