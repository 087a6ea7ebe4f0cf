//! Databases whose texts are not ordered by their bytes: servers compare what must be compared.

use super::super::support::wire::{bind, describe, execute, parse, sync};
use super::super::support::Wire;
use super::{check_random, filled_with, setting};

/// As most databases are: `a` beside `A`, and both before `b`.
const ICU: &str = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
/// The same of glibc, which `.ci/setup` makes.
const GLIBC: &str = "TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'en_US.utf8'";

const NAMES: &str = "UPDATE users SET name = (ARRAY['apple', 'Apple', 'Äpfel', 'banana', 'Zoë', 'zoe', 'ZOE', 'éclair', 'Eclair', 'b-a', 'ba', ' b'])[1 + id % 12], country = (ARRAY['de', 'DE', 'Fr', 'fr'])[1 + id % 4]";

/// The same answer from both.
#[track_caller]
fn same(one: &mut Wire, client: &mut Wire, sql: &str) {
    assert_eq!(client.query(sql), one.query(sql), "{sql}");
}

#[test]
fn texts_are_ordered_as_the_databases_collation_says() {
    check_order("icu", ICU);
}

#[test]
fn texts_are_ordered_as_glibc_says() {
    check_order("glibc", GLIBC);
}

fn check_order(name: &str, options: &str) {
    let (mut one, shards) = filled_with(name, options, "");
    let mut client = shards.client();
    let differs = "SELECT 'a' < 'B' AND NOT 'B' < 'a'";
    assert_eq!(one.value(differs), "t", "the order of bytes is another");
    let count = "T D:90 C:SELECT_1 Z:I";
    same(&mut one, &mut client, NAMES);
    assert_eq!(client.query("SELECT count(*) FROM users"), count);
    for sql in [
        "SELECT name, id FROM users ORDER BY name, id",
        "SELECT id FROM users ORDER BY name DESC NULLS LAST, id LIMIT 7 OFFSET 3",
        "SELECT name AS n, id FROM users WHERE id > 20 ORDER BY n, 2 LIMIT 9",
        "SELECT id, upper(name) FROM users ORDER BY 2, 1 OFFSET 80",
        "SELECT * FROM users ORDER BY country, name, id LIMIT 5",
        "SELECT id FROM users ORDER BY lower(name) || country, id DESC LIMIT 12",
        "SELECT u.name, o.id FROM users u JOIN orders o ON o.user_id = u.id ORDER BY u.name, o.id LIMIT 20",
        "SELECT min(name), max(name), count(DISTINCT name) FROM users",
        "SELECT country, min(name), count(*) FROM users GROUP BY country ORDER BY country",
        "SELECT DISTINCT name FROM users ORDER BY name",
        "SELECT DISTINCT ON (name) name, id FROM users ORDER BY name, id LIMIT 4",
        "SELECT name FROM users UNION SELECT note FROM orders ORDER BY 1",
        "SELECT id, row_number() OVER (ORDER BY name, id) FROM users ORDER BY name, id LIMIT 6",
        "SELECT id FROM users WHERE age > (SELECT avg(age) FROM users) ORDER BY name, id",
        "SELECT name FROM users WHERE id IN (SELECT user_id FROM orders WHERE total > 40) ORDER BY name LIMIT 8",
        "SELECT * FROM (SELECT name, id FROM users ORDER BY name, id) s LIMIT 5",
        "SELECT upper(s.name), id FROM (SELECT name, id FROM users ORDER BY 1 DESC, 2) s OFFSET 3",
        "SELECT name COLLATE \"C\" FROM users ORDER BY name COLLATE \"C\", id LIMIT 30",
        "SELECT name FROM users ORDER BY name COLLATE \"de-x-icu\", id LIMIT 30",
        // These need no server for the order.
        "SELECT name FROM users ORDER BY id",
        "SELECT country, count(*) FROM users GROUP BY country ORDER BY count(*), max(id)",
    ] {
        same(&mut one, &mut client, sql);
    }
    let sql = "SELECT array_agg(name) FROM (SELECT name, id FROM users ORDER BY name, id) s";
    let (expected, found) = (one.query(sql), client.query(sql));
    assert!(found == expected || found == "E:0A000 Z:I", "{found}");
    let sql = "SELECT id, name FROM users WHERE id > $1 ORDER BY name, id LIMIT $2";
    let values = [Some("10"), Some("15")];
    for rows in [0, 4] {
        let messages = [
            parse("", sql),
            bind("", "", &values),
            describe(b'P', ""),
            execute("", rows),
            sync(),
        ];
        assert_eq!(client.ask(&messages), one.ask(&messages), "{rows} rows");
    }
    let seed = setting("PGDOG_TEST_SEED", 3);
    check_random(
        &mut one,
        &mut client,
        seed,
        setting("PGDOG_TEST_QUERIES", 300) / 3,
    );
    shards.pgdog.stop();
}

/// What a column's own collation says is lost with the column: nobody orders such values but who has them.
#[test]
fn texts_of_a_collation_of_their_own_are_ordered_by_their_shard_or_not_at_all() {
    let (mut one, shards) = filled_with("icu_own", ICU, "");
    let mut client = shards.client();
    for sql in [
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "ALTER TABLE users ALTER name TYPE text COLLATE loose",
    ] {
        same(&mut one, &mut client, sql);
    }
    same(&mut one, &mut client, NAMES);
    for sql in [
        "SELECT name FROM users WHERE id = 7 ORDER BY name",
        "SELECT id, name FROM users ORDER BY id",
        "SELECT count(*) FROM users WHERE name = 'APPLE'",
        "SELECT id, count(DISTINCT name) FROM users GROUP BY id ORDER BY id",
    ] {
        same(&mut one, &mut client, sql);
    }
    for sql in [
        "SELECT name FROM users ORDER BY name, id LIMIT 5",
        "SELECT DISTINCT name FROM users",
        "SELECT name, count(*) FROM users GROUP BY name",
        "SELECT max(name) FROM users",
        "SELECT country FROM users ORDER BY country LIMIT 1",
        "SELECT count(DISTINCT name) FROM users",
    ] {
        assert_eq!(client.query(sql), "E:0A000 Z:I", "{sql}");
    }
    shards.pgdog.stop();
}
