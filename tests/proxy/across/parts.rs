//! Queries that are asked in parts: parameters, errors, limits, transactions.

use super::super::support::wire::{bind, describe, execute, parse, sync, tagged};
use super::filled;

#[test]
fn parts_of_a_query_take_their_parameters() {
    let (mut one, shards) = filled("parts");
    let mut client = shards.client();
    for (sql, values) in [
        (
            "SELECT id, name FROM users WHERE age > (SELECT avg(age) FROM users WHERE id < $1) AND id < $2 ORDER BY id LIMIT $3",
            [Some("60"), Some("70"), Some("7")],
        ),
        (
            "SELECT x.n, count(*) FROM (SELECT age, count(*) AS n FROM users WHERE name = $1 OR id > $2 GROUP BY age) x WHERE n < $3 GROUP BY 1 ORDER BY 1",
            [Some("a0"), Some("20"), Some("100")],
        ),
        (
            "SELECT id, rank() OVER (ORDER BY age) + $1 AS r FROM users WHERE id < $2 AND name > $3 ORDER BY 2, 1",
            [Some("5"), Some("50"), Some("a")],
        ),
        (
            "SELECT id FROM users WHERE country IN (SELECT max(country) FROM users WHERE $1::text IS NULL GROUP BY level) AND id BETWEEN $2 AND $3 ORDER BY 1",
            [None, Some("3"), Some("40")],
        ),
    ] {
        let messages = [parse("", sql), bind("", "", &values), describe(b'P', ""), execute("", 0), sync()];
        assert_eq!(client.ask(&messages), one.ask(&messages), "{sql}");
        let named = [parse("s", sql), describe(b'S', "s"), sync()];
        assert_eq!(client.ask(&named), one.ask(&named), "{sql}");
        let executed = [bind("", "s", &values), execute("", 0), sync()];
        for _ in 0..2 {
            assert_eq!(client.ask(&executed), one.ask(&executed), "{sql}");
        }
        let closed = [super::super::support::wire::close(b'S', "s"), sync()];
        assert_eq!(client.ask(&closed), one.ask(&closed));
    }
    shards.pgdog.stop();
}

#[test]
fn numbers_of_rows_are_of_the_type_that_they_are_cast_to() {
    let (mut one, shards) = filled("parts_limits");
    let mut client = shards.client();
    for (sql, value) in [
        ("SELECT id FROM users ORDER BY id LIMIT $1::int", &[0, 0, 0, 3][..]),
        ("SELECT id FROM users ORDER BY id OFFSET $1::smallint", &[0, 80]),
        ("SELECT id FROM users ORDER BY id LIMIT $1", &[0, 0, 0, 0, 0, 0, 0, 4]),
        ("SELECT id FROM users ORDER BY id OFFSET $1::int LIMIT $1", &[0, 0, 0, 5]),
        ("SELECT level, count(*) FROM users GROUP BY level ORDER BY level LIMIT $1::int", &[0, 0, 0, 2]),
        ("SELECT id FROM users WHERE age > (SELECT avg(age) FROM users) ORDER BY id LIMIT $1::int", &[0, 0, 0, 3]),
    ] {
        // One value, in binary format, and rows in text format.
        let mut body = b"\0\0\0\x01\0\x01\0\x01\0\0\0".to_vec();
        body.push(u8::try_from(value.len()).unwrap());
        body.extend_from_slice(value);
        body.extend_from_slice(&[0, 0]);
        let messages = [parse("", sql), describe(b'S', ""), tagged(b'B', &body), execute("", 0), sync()];
        let expected = one.ask(&messages);
        assert!(!expected.contains("E:"), "{sql}: {expected}");
        assert_eq!(client.ask(&messages), expected, "{sql}");
    }
    shards.pgdog.stop();
}

#[test]
fn what_is_wrong_with_a_query_of_parts_is_told_in_postgresqls_words() {
    let (mut one, shards) = filled("parts_wrong");
    let mut client = shards.client();
    for sql in [
        "SELECT count(*) FROM (SELECT nothing, count(*) FROM users GROUP BY 1) x",
        "SELECT id FROM users WHERE age > (SELECT max(age), 1 FROM users)",
        "SELECT id FROM users WHERE age = (SELECT age FROM users)",
        "SELECT rank() OVER (ORDER BY age), id / 0 FROM users",
        "SELECT note::json FROM orders UNION SELECT name::json FROM users",
        "SELECT DISTINCT to_json(name) FROM users",
        "SELECT array_agg(age ORDER BY id) / 2 FROM users",
    ] {
        // Rows are described before or after it turns out.
        let told = |answer: String| answer.trim_start_matches("T ").to_owned();
        assert_eq!(told(client.query(sql)), told(one.query(sql)), "{sql}");
        assert_eq!(client.query("SELECT 1"), one.query("SELECT 1"));
        client.query("BEGIN");
        one.query("BEGIN");
        assert_eq!(told(client.query(sql)), told(one.query(sql)), "{sql}");
        assert_eq!(
            client.query("SELECT count(*) FROM users"),
            one.query("SELECT count(*) FROM users")
        );
        assert_eq!(client.query("ROLLBACK"), one.query("ROLLBACK"));
    }
    shards.pgdog.stop();
}

#[test]
fn parts_see_what_their_transaction_did() {
    let (mut one, shards) = filled("parts_inside");
    let mut client = shards.client();
    let sql = "SELECT id, age FROM users WHERE age = (SELECT max(age) FROM users) ORDER BY id";
    for wire in [&mut client, &mut one] {
        wire.query("BEGIN");
        wire.query("UPDATE users SET age = age + id WHERE id < 50");
    }
    assert_eq!(client.query(sql), one.query(sql));
    for wire in [&mut client, &mut one] {
        wire.query("ROLLBACK");
    }
    assert_eq!(client.query(sql), one.query(sql));
    let explained =
        client.query("EXPLAIN SELECT id FROM users WHERE age = (SELECT max(age) FROM users)");
    assert!(explained.contains("gathered_0"), "{explained}");
    shards.pgdog.stop();
}

#[test]
fn parts_that_take_too_much_memory_are_an_error_and_harm_nobody() {
    let (_, shards) = filled("parts_large");
    let (mut client, mut other) = (shards.client(), shards.client());
    let sql = "SELECT count(*) FROM (SELECT repeat(name, 200000) || id AS v, count(*) FROM users GROUP BY 1) x";
    other.query("BEGIN");
    for _ in 0..2 {
        assert!(client.query(sql).starts_with("E:53200"), "of too many rows");
        assert_eq!(
            other.query("SELECT count(*) FROM users"),
            "T D:90 C:SELECT_1 Z:T"
        );
        assert_eq!(
            client.query("SELECT count(*) FROM users"),
            "T D:90 C:SELECT_1 Z:I"
        );
    }
    assert_eq!(other.query("COMMIT"), "C:COMMIT Z:I");
    shards.pgdog.stop();
}

#[test]
fn names_and_orders_mean_what_they_do_on_one_server() {
    let (mut one, shards) = filled("parts_named");
    let mut client = shards.client();
    for sql in [
        "SELECT (SELECT -u.id AS id) FROM users u WHERE u.id < 9 ORDER BY id",
        "SELECT id, (SELECT max(o.id) AS age FROM orders o WHERE o.user_id = u.id) FROM users u ORDER BY age DESC, id LIMIT 10",
        "SELECT EXISTS (SELECT FROM orders o WHERE o.user_id = u.id), id FROM users u ORDER BY exists, id LIMIT 20",
        "SELECT ARRAY (SELECT o.id FROM orders o WHERE o.user_id = u.id ORDER BY 1), id FROM users u ORDER BY \"array\" DESC, id LIMIT 20",
        "SELECT current_schema, id FROM users ORDER BY current_schema, id LIMIT 5",
        "SELECT avg(x) FROM (SELECT '-0'::float8 AS x, id FROM users) y",
        "SELECT DISTINCT ON (country) * FROM users ORDER BY country, id",
        "SELECT count(*) FROM (SELECT DISTINCT ON (level) id FROM users ORDER BY level, id) x",
        "SELECT DISTINCT ON (lower(country)) country, id FROM users ORDER BY lower(country), level DESC, id LIMIT 3",
        "SELECT DISTINCT ON (u.level) level, id FROM users u ORDER BY level, id",
        "SELECT DISTINCT ON (level) level AS x, id FROM users ORDER BY x, id",
        "SELECT DISTINCT ON (level) generate_series(1, 2), id FROM users ORDER BY level, id",
        "SELECT upper(name), count(*) FROM users GROUP BY upper ORDER BY 1",
        "WITH w AS MATERIALIZED (SELECT array_agg(id) AS v FROM users) SELECT x.v = y.v FROM w x, w y",
        "WITH w AS (SELECT id, row_number() OVER () AS r FROM users) SELECT count(*) FROM w x JOIN w y ON x.id = y.id AND x.r = y.r",
    ] {
        assert_eq!(client.rows(sql), one.rows(sql), "{sql}");
    }
    let sql = "SELECT DISTINCT ON (level, country) level, country FROM users ORDER BY level";
    let sorted = |wire: &mut super::Wire| {
        let mut rows = wire.rows(sql);
        assert!(rows.is_sorted_by_key(|row| row[0].parse::<i32>().unwrap()));
        rows.sort();
        rows
    };
    assert_eq!(sorted(&mut client), sorted(&mut one));
    // A primary key: here the column is meant.
    let of_key = "SELECT level AS id, count(*) FROM users GROUP BY id";
    assert_eq!(one.rows(of_key).len(), 90);
    assert_eq!(client.query(of_key), "E:0A000 Z:I");
    shards.pgdog.stop();
}

#[test]
fn what_only_the_merge_finds_wrong_ends_the_statement() {
    let (_, shards) = filled("parts_ends");
    let mut client = shards.client();
    for (sql, code) in [
        (
            "SELECT sum(1.7e308::float8) FROM users WHERE id IN (1, 2, 3)",
            "22003",
        ),
        (
            "SELECT count(DISTINCT ARRAY[level, age]) FROM users",
            "0A000",
        ),
        (
            "SELECT count(DISTINCT CASE WHEN level > 2 THEN ARRAY[age] ELSE '{}' END) FROM users",
            "0A000",
        ),
        (
            "SELECT count(DISTINCT CASE WHEN level > 2 THEN ARRAY[age] END) FROM users",
            "0A000",
        ),
    ] {
        let answer = client.query(sql);
        assert!(
            answer.ends_with(&format!("E:{code} Z:I")),
            "{sql}: {answer}"
        );
        assert_eq!(client.value("SELECT count(*) FROM users"), "90");
    }
    shards.pgdog.stop();
}

/// They are put where they are named, and see other tables there.
#[test]
fn columns_of_a_query_of_with_are_those_of_its_own_tables() {
    let (mut one, shards) = filled("with_columns");
    let mut client = shards.client();
    let sql = "WITH w AS (SELECT name FROM countries) \
        SELECT id FROM users WHERE EXISTS (SELECT 1 FROM w) ORDER BY id";
    assert_eq!(one.query(sql), "E:42703 Z:I");
    assert_eq!(client.query(sql), "E:42703 Z:I");
    shards.pgdog.stop();
}

/// Other styles than ISO name time zones by abbreviations, which may be read as those of others.
#[test]
fn dates_are_gathered_in_a_style_that_says_all_of_them() {
    let (mut one, shards) = filled("parts_dates");
    let mut client = shards.client();
    let gathered = "SELECT created, born, rank() OVER (ORDER BY age, id) FROM users ORDER BY id";
    for sql in [
        "SET timezone = 'Asia/Kolkata'",
        "SET datestyle = 'ISO, DMY'",
        gathered,
    ] {
        assert_eq!(client.query(sql), one.query(sql), "{sql}");
    }
    for (style, gathers) in [
        ("SQL, DMY", false),
        ("'SQL, DMY'", false),
        ("german", false),
        ("'iso'", true),
        ("ISO, YMD", true),
        ("'Postgres'", false),
        ("'DMY'", false),
        ("DEFAULT", true),
    ] {
        let set = format!("SET datestyle = {style}");
        assert_eq!(client.query(&set), one.query(&set), "{set}");
        let expected = if gathers {
            &one.query(gathered)
        } else {
            "E:0A000 Z:I"
        };
        assert_eq!(client.query(gathered), expected, "{style}");
        let counted = "SELECT age, count(*), rank() OVER (ORDER BY age) FROM users WHERE created > '2024-01-02 00:00:00+00' GROUP BY age ORDER BY age";
        assert_eq!(client.query(counted), one.query(counted), "{style}");
    }
    shards.pgdog.stop();
}

/// What a database or role has by default counts as what a session sets.
#[test]
fn floats_that_are_written_without_their_last_digits_are_not_compared() {
    let (mut one, shards) = filled("parts_digits");
    for number in 0..3 {
        let mut shard = shards.shard(number);
        let name = shard.value("SELECT current_database()");
        let set = format!("ALTER DATABASE \"{name}\" SET extra_float_digits = 0");
        assert_eq!(shard.query(&set), "C:ALTER_DATABASE Z:I");
    }
    assert_eq!(shards.pgdog.admin().query("RECONNECT"), "C:RECONNECT Z:I");
    let mut client = shards.client();
    // Everything is asked for anew after a definition.
    assert_eq!(
        client.query("CREATE TABLE other (id int)"),
        "C:CREATE_TABLE Z:I"
    );
    let update =
        "UPDATE users SET score = CASE WHEN id % 2 = 0 THEN 0.3 ELSE 0.1::float8 + 0.2 END";
    assert_eq!(client.query(update), one.query(update));
    for sql in [
        "SELECT count(DISTINCT score) FROM users",
        "SELECT score, count(*) FROM users GROUP BY score ORDER BY score",
        "SELECT id, rank() OVER (ORDER BY score) FROM users ORDER BY id",
    ] {
        assert_eq!(client.query(sql), "E:0A000 Z:I", "{sql}");
        assert_eq!(client.query("SET extra_float_digits = 1"), "C:SET Z:I");
        assert_eq!(client.query(sql), one.query(sql), "{sql}");
        assert_eq!(client.query("RESET extra_float_digits"), "C:RESET Z:I");
    }
    shards.pgdog.stop();
}
