//! Statements over shards that are no queries: PREPARE and EXECUTE, LISTEN and NOTIFY, what may do anything.

use super::sharding::Pair;
use super::shards::Shards;
use super::support::postgres::Postgres;
use super::support::wire::{
    bind, copy_data, copy_done, describe, execute, parse, query, run, sync, transcript, Wire,
};

/// `[shard, key of a user who lives there]`.
fn keys(pair: &Pair) -> Vec<String> {
    let first = "SELECT min(id) FROM users";
    pair.shards.each(first)
}

#[test]
fn execute_is_routed_like_the_statement_itself() {
    let mut pair = Pair::filled("sql_execute");
    for sql in [
        "PREPARE one AS SELECT id, name, age FROM users WHERE id = $1",
        "PREPARE typed (int, text) AS SELECT name FROM users WHERE id = $1 AND name = $2",
        "PREPARE some (bigint) AS SELECT id, name FROM users WHERE id < $1 ORDER BY age, id LIMIT $2",
        "PREPARE sums AS SELECT age, count(*), sum(id) FROM users GROUP BY age HAVING count(*) > 1 ORDER BY 1",
        "PREPARE put (bigint, text) AS INSERT INTO users VALUES ($1, $2, 77)",
        "PREPARE age AS UPDATE users SET age = $1 WHERE age = $2",
        "PREPARE country AS INSERT INTO countries VALUES ($1, $2) RETURNING code",
    ] {
        pair.same(sql);
    }
    for id in 0..12 {
        pair.same(&format!("EXECUTE one({id})"));
        pair.same(&format!("execute one ( '{id}' )"));
        pair.same(&format!("EXECUTE typed({id}, 'name {}')", id % 9));
    }
    for sql in [
        "EXECUTE one(NULL)",
        "EXECUTE one(-3)",
        "EXECUTE one(3::bigint)",
        "EXECUTE some(20, 5)",
        "EXECUTE some('17', NULL)",
        "EXECUTE some(20, -1)",
        "EXECUTE sums",
        "EXECUTE put(1000, 'thousand')",
        "EXECUTE put(1001, 'one more')",
        "EXECUTE put(1001, 'again')",
        "SELECT * FROM users WHERE id >= 1000 ORDER BY id",
        "EXECUTE age(78, 77)",
        "EXECUTE country('es', 'Spain')",
        "EXECUTE country('es', 'Spain')",
        "SELECT * FROM countries ORDER BY 1",
        // Errors, as from one server.
        "EXECUTE nobody(1)",
        "EXECUTE one",
        "EXECUTE one(1, 2)",
        "EXECUTE one('x')",
        "PREPARE one AS SELECT 1",
        "PREPARE broken AS SELECT * FROM nowhere",
        "EXECUTE broken",
        "DEALLOCATE nobody",
    ] {
        pair.same(sql);
    }
    // The rows are where keyed reads look.
    pair.same("SELECT name, age FROM users WHERE id = 1001");
    // A server that has prepared it for somebody has forgotten it.
    let left = "SELECT count(*) FROM pg_prepared_statements";
    for shard in 0..3 {
        let sql = format!("/* pgdog_shard: {shard} */ {left}");
        assert_eq!(pair.many.value(&sql), "0");
    }
    // In a transaction, over several shards, and after an error of it.
    for sql in [
        "BEGIN",
        "EXECUTE put(2000, 'a')",
        "EXECUTE put(2001, 'b')",
        "EXECUTE put(2002, 'c')",
        "SAVEPOINT s",
        "EXECUTE put(2002, 'c')",
        "EXECUTE one(2000)",
        "ROLLBACK TO s",
        "EXECUTE one(2000)",
        "COMMIT",
        "EXECUTE one(2002)",
        // In one text; the names are those that it will have given by then.
        "PREPARE a AS SELECT 1; EXECUTE a; DEALLOCATE a; PREPARE a AS SELECT 2; EXECUTE a",
        "DEALLOCATE one",
        "EXECUTE one(1)",
        "DEALLOCATE ALL",
        "EXECUTE sums",
        "PREPARE sums AS SELECT count(*) FROM payments",
        "EXECUTE sums",
        "DISCARD ALL",
        "EXECUTE sums",
    ] {
        pair.same(sql);
    }
    pair.shards.pgdog.stop();
}

#[test]
fn rows_are_as_they_were_described_or_refused_everywhere() {
    let mut pair = Pair::filled("sql_stale");
    let texts = [
        "SELECT * FROM users WHERE id < $1 ORDER BY id",
        "SELECT * FROM users WHERE id = $1",
        "UPDATE users SET age = age + 1 WHERE id < $1 RETURNING *",
        "SELECT count(*) FROM users WHERE id < $1",
        "DELETE FROM countries WHERE length($1) = 1 RETURNING *",
    ];
    let same = |pair: &mut Pair, batch: &[Vec<u8>]| {
        let (expected, found) = (pair.one.ask(batch), pair.many.ask(batch));
        // Over several it turns out when it is executed.
        let found = found.replace("2 E:0A000", "E:0A000");
        // In whatever order its rows come.
        let sorted = |text: &str| {
            let mut all: Vec<_> = text.chars().collect();
            all.sort_unstable();
            all
        };
        assert_eq!(sorted(&found), sorted(&expected), "{found}, {expected}");
        expected
    };
    for sql in texts {
        let batch = [parse(sql, sql), describe(b'S', sql), sync()];
        assert_eq!(same(&mut pair, &batch), "1 t T Z:I");
    }
    let again = |sql: &str, value: &str| [bind("", sql, &[Some(value)]), execute("", 0), sync()];
    for sql in texts {
        for value in ["3", "4", "5", "6"] {
            same(&mut pair, &again(sql, value));
        }
    }
    pair.same("ALTER TABLE users ADD COLUMN more int DEFAULT 3");
    pair.same("ALTER TABLE countries ADD COLUMN more int DEFAULT 3");
    for sql in texts {
        for value in ["3", "4", "5", "6"] {
            same(&mut pair, &again(sql, value));
        }
    }
    // Nothing was done, and who asks anew knows.
    pair.same("SELECT * FROM users ORDER BY id");
    pair.same("SELECT * FROM countries ORDER BY 1");
    pair.same("BEGIN");
    assert_eq!(same(&mut pair, &again(texts[0], "3")), "E:0A000 Z:E");
    pair.same("ROLLBACK");
    let next = [parse("", "SELECT 1"), bind("", "", &[]), execute("", 0)];
    let amid = [&next[..], &again(texts[2], "3")].concat();
    assert!(same(&mut pair, &amid).ends_with("E:0A000 Z:I"));
    for sql in texts {
        let anew = format!("{sql} ");
        let batch = [parse(&anew, &anew), describe(b'S', &anew), sync()];
        assert_eq!(same(&mut pair, &batch), "1 t T Z:I");
        same(&mut pair, &again(&anew, "5"));
    }
    pair.shards.pgdog.stop();
}

#[test]
fn statements_of_parse_and_of_prepare_share_their_names() {
    let mut pair = Pair::filled("sql_names");
    let sql = "SELECT name FROM users WHERE id = $1";
    for wire in [&mut pair.one, &mut pair.many] {
        assert_eq!(wire.ask(&[parse("p", sql), sync()]), "1 Z:I");
    }
    for sql in [
        "EXECUTE p(7)",
        "PREPARE p AS SELECT 1",
        "EXECUTE p(8)",
        "DEALLOCATE p",
        "EXECUTE p(8)",
    ] {
        pair.same(sql);
    }
    // EXECUTE by the extended protocol, in binary too.
    pair.same("PREPARE q (bigint) AS SELECT id, name FROM users WHERE id > $1 ORDER BY id");
    pair.same_with("EXECUTE q(30)", &[]);
    for wire in [&mut pair.one, &mut pair.many] {
        let batch = [
            run("PREPARE r AS SELECT count(*) FROM users", &[]),
            run("EXECUTE r", &[]),
            sync(),
        ];
        assert_eq!(wire.ask(&batch), "1 2 C:PREPARE 1 2 D:40 C:SELECT_1 Z:I");
    }
    // It is described as what it names.
    for sql in ["EXECUTE q(30)", "EXECUTE r"] {
        let of_statement = [parse("", sql), describe(b'S', ""), sync()];
        let of_portal = [
            parse("", sql),
            bind("", "", &[]),
            describe(b'P', ""),
            sync(),
        ];
        for batch in [&of_statement[..], &of_portal] {
            let described = |wire: &mut Wire| {
                wire.send(&batch.concat());
                let replies = wire.read_until(b'Z');
                let columns = replies.iter().find(|reply| reply.tag == b'T');
                let columns = columns.map(|reply| reply.columns());
                (transcript(&replies), columns)
            };
            assert_eq!(described(&mut pair.many), described(&mut pair.one), "{sql}");
        }
    }
    // What is not there yet says so.
    let answer = pair.many.ask(&[
        bind("", "q", &[Some("1")]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ]);
    assert!(answer.ends_with("E:0A000 Z:I"), "{answer}");
    pair.refused("EXECUTE q(random()::int)");
    pair.refused("EXECUTE q(1 + 2)");
    pair.refused("EXPLAIN EXECUTE q(1)");
    pair.shards.pgdog.stop();
}

/// Hints of the EXECUTE, or those that the statement was prepared with.
#[test]
fn a_hint_is_for_a_prepared_statement_too() {
    let mut pair = Pair::filled("sql_hints");
    let database = "SELECT current_database()";
    let names: Vec<String> = (0..3)
        .map(|shard| {
            pair.many
                .value(&format!("/* pgdog_shard: {shard} */ {database}"))
        })
        .collect();
    for (shard, key) in keys(&pair).into_iter().enumerate() {
        let hinted = format!("PREPARE h{shard} AS /* pgdog_sharding_key: {key} */ {database}");
        assert_eq!(pair.many.query(&hinted), "C:PREPARE Z:I");
        assert_eq!(pair.many.value(&format!("EXECUTE h{shard}")), names[shard]);
        let other = (shard + 1) % 3;
        let elsewhere = format!("/* pgdog_shard: {other} */ EXECUTE h{shard}");
        assert_eq!(pair.many.value(&elsewhere), names[other]);
    }
    pair.shards.pgdog.stop();
}

#[test]
fn those_who_listen_hear_those_who_notify() {
    let shards = Shards::start("sql_notify", "", "");
    let (mut listener, mut other) = (shards.client(), shards.client());
    for channel in ["alpha", "beta", "gamma", "delta"] {
        assert_eq!(listener.query(&format!("LISTEN {channel}")), "C:LISTEN Z:I");
        assert_eq!(
            other.query(&format!("NOTIFY {channel}, 'x'")),
            "C:NOTIFY Z:I"
        );
        // It hears at once, and not only when it says something.
        let heard = listener.read();
        assert_eq!(heard.tag, b'A', "{channel}");
        assert_eq!(
            listener.query(&format!("UNLISTEN {channel}")),
            "C:UNLISTEN Z:I"
        );
        assert_eq!(other.query(&format!("NOTIFY {channel}")), "C:NOTIFY Z:I");
        assert_eq!(listener.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    }
    shards.pgdog.stop();
}

#[test]
fn what_may_do_anything_is_refused_with_a_word_on_hints() {
    let shards = Shards::start("sql_hinted", "", "");
    let mut client = shards.client();
    for sql in ["CALL p()", "DO $$BEGIN NULL; END$$", "CHECKPOINT"] {
        client.send(&query(sql));
        let error = client.read();
        assert_eq!(error.field(b'C'), "0A000", "{sql}");
        assert!(error.field(b'H').contains("pgdog_shard"), "{sql}");
        client.batches(1);
    }
    assert_eq!(
        client.query("/* pgdog_shard: 1 */ DO $$BEGIN NULL; END$$"),
        "C:DO Z:I"
    );
    shards.pgdog.stop();
}

#[test]
fn maintenance_and_resets_reach_every_shard() {
    let mut pair = Pair::filled("sql_maintenance");
    for sql in [
        "VACUUM users",
        "VACUUM (ANALYZE) users, payments",
        "ANALYZE users",
        "REINDEX TABLE users",
        "CREATE TABLE parted (v int) PARTITION BY LIST (v)",
        "CREATE TABLE part PARTITION OF parted FOR VALUES IN (1)",
        "CREATE INDEX by_v ON parted (v)",
        "REINDEX TABLE parted",
        "REINDEX INDEX by_v",
        "DROP TABLE parted",
        "CREATE INDEX CONCURRENTLY by_age ON users (age)",
        "REINDEX INDEX CONCURRENTLY by_age",
        "DROP INDEX CONCURRENTLY by_age",
        "SET work_mem = '5MB'",
        "SHOW work_mem",
        "RESET ALL",
        "SHOW work_mem",
        "SET work_mem = '6MB'",
        "DISCARD ALL",
        "SHOW work_mem",
        "DISCARD PLANS",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SHOW default_transaction_isolation",
        // Not within a transaction, which fails by it.
        "BEGIN",
        "VACUUM users",
        "SELECT 1",
        "ROLLBACK",
        "BEGIN",
        "CREATE INDEX CONCURRENTLY by_age ON users (age)",
        "ROLLBACK",
        "SELECT count(*) FROM users",
    ] {
        pair.same(sql);
    }
    let analysed = "SELECT count(*) FROM pg_stat_user_tables WHERE last_analyze IS NOT NULL";
    for count in pair.shards.each(analysed) {
        assert_ne!(count, "0");
    }
    pair.shards.pgdog.stop();
}

/// SQL does not promise it, and everybody relies on it.
#[test]
fn the_order_of_a_subquery_is_kept() {
    let mut pair = Pair::filled("sql_order_below");
    for sql in [
        "SELECT id FROM (SELECT id, age FROM users ORDER BY id DESC) s LIMIT 5",
        "SELECT * FROM (SELECT * FROM users u WHERE age > 21 ORDER BY u.age DESC, u.id) s OFFSET 3 LIMIT 9",
        "WITH s AS (SELECT id AS n, name FROM users ORDER BY n) SELECT name, n FROM s OFFSET 2",
        "SELECT array_agg(id), string_agg(name, ',') FROM (SELECT id, name FROM users ORDER BY id DESC) s",
        "SELECT id, row_number() OVER (), lag(id) OVER () FROM (SELECT id FROM users ORDER BY -id) s",
        "SELECT id, row_number() OVER () FROM (SELECT id FROM users ORDER BY id DESC) s LIMIT 7",
        "SELECT a FROM (SELECT n AS a, user_id FROM (SELECT user_id, count(*) AS n FROM payments GROUP BY user_id ORDER BY n, 1) x) y",
        "SELECT u FROM (SELECT user_id, sum(amount) FROM payments GROUP BY 1 ORDER BY 2 DESC, 1) s(u, total) LIMIT 6",
        "SELECT count(*) FROM (SELECT name FROM users ORDER BY id) s",
    ] {
        if sql.contains("ORDER BY -id") {
            pair.refused(sql);
        } else {
            pair.same(sql);
        }
    }
    pair.refused("SELECT * FROM (SELECT name FROM users ORDER BY lower(name)) s");
    pair.shards.pgdog.stop();
}

/// Whoever notices the error: we, who parse the text, or a server.
#[test]
fn a_syntax_error_fails_the_transaction_on_every_shard() {
    let mut pair = Pair::filled("sql_syntax");
    for end in ["ROLLBACK", "COMMIT"] {
        for broken in [
            "SELEC 1",
            "SELECT * FROM users WHERE",
            "SELECT 1 1; SELECT 2",
            "SELECT nothing FROM users",
        ] {
            for sql in [
                "BEGIN",
                "UPDATE users SET age = 1",
                "SAVEPOINT s",
                broken,
                "SELECT 1",
                "SELECT name FROM users WHERE id = 3",
                "UPDATE users SET age = 2",
                "INSERT INTO countries VALUES ('no', 'Norway')",
                "ROLLBACK TO s",
                "SELECT count(*) FROM users WHERE age = 1",
                broken,
                end,
                "SELECT count(*) FROM users WHERE age = 1",
            ] {
                pair.same(sql);
            }
        }
    }
    // By the extended protocol.
    for wire in [&mut pair.one, &mut pair.many] {
        wire.query("BEGIN; UPDATE users SET age = 1");
        let found = wire.ask(&[
            parse("", "SELEC 1"),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ]);
        assert_eq!(found, "E:42601 Z:E");
        assert_eq!(wire.ask(&[run("SELECT 1", &[]), sync()]), "E:25P02 Z:E");
        assert_eq!(wire.query("ROLLBACK"), "C:ROLLBACK Z:I");
    }
    assert_eq!(
        pair.shards.each("SELECT count(*) FROM users WHERE age = 1"),
        ["0", "0", "0"]
    );
    pair.shards.pgdog.stop();
}

/// Whoever reads a command tag takes it for done: of the last statement of a text it comes when that is committed.
#[test]
fn what_the_commit_refuses_has_no_command_tag() {
    let shards = Shards::start("sql_tags", "", "");
    let mut client = shards.client();
    let mut one = Postgres::shared().admin(&Postgres::shared().database("sql_tags_one"));
    let table = "CREATE TABLE o (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)";
    for wire in [&mut client, &mut one] {
        assert_eq!(wire.query(table), "C:CREATE_TABLE Z:I");
    }
    for sql in [
        "INSERT INTO o VALUES (1), (1)",
        "INSERT INTO o VALUES (2); INSERT INTO o VALUES (3), (3)",
        "INSERT INTO o VALUES (5), (5) RETURNING id",
        "INSERT INTO o VALUES (6) RETURNING id; SELECT 6",
        "BEGIN; INSERT INTO o VALUES (6); SELECT 6; COMMIT",
        "INSERT INTO o VALUES (7)",
    ] {
        assert_eq!(client.query(sql), one.query(sql), "{sql}");
    }
    for rows in ["8\n8\n", "9\n"] {
        let replies = [&mut client, &mut one].map(|wire| {
            assert_eq!(wire.begin_copy("COPY o FROM STDIN"), "G");
            wire.ask(&[copy_data(rows.as_bytes()), copy_done()])
        });
        assert_eq!(replies[0], replies[1], "{rows}");
    }
    assert_eq!(
        shards.each("SELECT string_agg(id::text, ',' ORDER BY id) FROM o"),
        ["6,7,9"; 3]
    );
    shards.pgdog.stop();
}

/// On all servers that are at work, as on one.
#[test]
fn query_timeout_cancels_the_statement_on_every_shard() {
    let shards = Shards::start(
        "sql_timeout",
        "query_timeout = 2000\ndefault_pool_size = 1",
        "",
    );
    let mut client = shards.client();
    client.query("CREATE TABLE o (id int)");
    let mut holder = shards.shard(1);
    holder.query("BEGIN; LOCK TABLE o");
    let told = |client: &mut Wire| {
        let messages = client.read_until(b'Z');
        let error = messages
            .iter()
            .find(|message| message.tag == b'E')
            .expect("an error");
        [b'S', b'C', b'M'].map(|name| error.field(name)).join(" ")
    };
    let text = "ERROR 57014 statement cancelled by query_timeout (2000 ms)";
    client.send(&query("INSERT INTO o VALUES (1)"));
    assert_eq!(told(&mut client), text);
    assert_eq!(client.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    // In a transaction, which goes on from its savepoint.
    client.query("BEGIN; SAVEPOINT s");
    client.send(&[run("INSERT INTO o VALUES (2)", &[]), sync()].concat());
    assert_eq!(told(&mut client), text);
    assert_eq!(client.query("SELECT 1"), "E:25P02 Z:E");
    assert_eq!(client.query("ROLLBACK TO s"), "C:ROLLBACK Z:T");
    holder.query("ROLLBACK");
    assert_eq!(client.query("INSERT INTO o VALUES (3)"), "C:INSERT_0_1 Z:T");
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    // A COPY.
    holder.query("BEGIN; LOCK TABLE o");
    client.send(&query("COPY o FROM STDIN"));
    assert_eq!(told(&mut client), text);
    holder.query("ROLLBACK");
    assert_eq!(
        shards.each("SELECT string_agg(id::text, ',') FROM o"),
        ["3"; 3]
    );
    assert_eq!(client.query("INSERT INTO o VALUES (4)"), "C:INSERT_0_1 Z:I");
    shards.pgdog.stop();
}

#[test]
fn query_size_limit_is_for_what_runs_on_several_shards_too() {
    let general = "query_size_limit = 200\nquery_size_limit_action = \"block\"";
    let shards = Shards::start("sql_size", general, "");
    let mut client = shards.client();
    assert_eq!(
        client.query("CREATE TABLE o (t text)"),
        "C:CREATE_TABLE Z:I"
    );
    let long = format!("INSERT INTO o VALUES ('{}')", "x".repeat(200));
    let batches = [
        query(&long),
        [
            run("INSERT INTO o VALUES ('y')", &[]),
            run(&long, &[]),
            sync(),
        ]
        .concat(),
        // Before all of it is there.
        query(&long)[..64].to_vec(),
    ];
    for batch in batches {
        let mut client = shards.client();
        client.send(&batch);
        let error = client.read();
        assert_eq!(error.field(b'S'), "FATAL");
        assert_eq!(error.field(b'C'), "54000");
    }
    assert_eq!(shards.each("SELECT count(*) FROM o"), ["0"; 3]);
    assert_eq!(
        client.query("INSERT INTO o VALUES ('y')"),
        "C:INSERT_0_1 Z:I"
    );
    shards.pgdog.stop();
}

/// Views, functions and common table expressions: by what they contain, or not at all.
#[test]
fn what_hides_a_sharded_table_is_seen_through_or_refused() {
    let mut pair = Pair::filled("sql_hidden");
    for sql in [
        "CREATE VIEW shown AS SELECT id, name FROM users",
        "CREATE VIEW nested AS SELECT * FROM shown WHERE id > 3",
        "CREATE FUNCTION counted() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM users'",
        "CREATE FUNCTION rows_of() RETURNS SETOF users LANGUAGE plpgsql AS 'BEGIN RETURN QUERY TABLE users; END'",
        "CREATE FUNCTION plain(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'",
        "WITH one AS (SELECT name FROM users WHERE id = 7) SELECT * FROM one",
        "WITH one AS (SELECT id FROM users WHERE id = 7) SELECT p.id FROM payments p JOIN one ON p.user_id = one.id WHERE p.user_id = 7 ORDER BY 1",
    ] {
        pair.same(sql);
    }
    for shard in 0..3 {
        pair.shards.shard(shard).query("CREATE MATERIALIZED VIEW stored AS SELECT * FROM users; ALTER MATERIALIZED VIEW stored OWNER TO alice");
    }
    // What is known of the catalogue does not know it: a definition that passes by brings that up to date.
    pair.same("COMMENT ON VIEW shown IS 'x'");
    for sql in [
        "SELECT count(*) FROM shown",
        "SELECT name FROM shown WHERE id = 7",
        "SELECT * FROM nested",
        "SELECT count(*) FROM stored",
        "SELECT u.name FROM users u JOIN shown s ON s.id = u.id WHERE u.id = 7",
        "SELECT counted()",
        "SELECT * FROM rows_of()",
        "SELECT id FROM users WHERE id < counted()",
        "WITH every AS (SELECT * FROM users) SELECT count(*) FROM every",
        "WITH RECURSIVE n AS (SELECT id FROM users UNION ALL SELECT id + 100 FROM n WHERE id < 10) SELECT count(*) FROM n",
        "INSERT INTO countries SELECT name, name FROM users",
        "UPDATE shown SET name = 'x' WHERE id = 7",
    ] {
        let (expected, found) = (pair.one.query(sql), pair.many.query(sql));
        assert!(found == expected || found == "E:0A000 Z:I", "{sql}: {found}, {expected}");
    }
    pair.shards.pgdog.stop();
}
