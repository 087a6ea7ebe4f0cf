//! An UPDATE that gives a row a sharding key of another shard moves it there.

use super::sharding::Pair;
use super::support::wire::Wire;
use super::writes::{Form, Sql, Value, FORMS, REWRITE};

const THINGS: &str = "
[[sharded_tables]]
database = \"$DATABASE\"
name = \"things\"
column = \"id\"
data_type = \"bigint\"
";

/// Keys of the shards 0, 1 and 2.
fn keys(pair: &mut Pair) -> [i64; 3] {
    let mut found = [None; 3];
    for id in 1_000..1_100 {
        pair.many.query(&format!("INSERT INTO users VALUES ({id})"));
        for (shard, count) in pair
            .shards
            .each("SELECT count(*) FROM users")
            .iter()
            .enumerate()
        {
            if count != "0" {
                found[shard].get_or_insert(id);
            }
        }
        pair.many.query("DELETE FROM users");
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found.map(Option::unwrap)
}

#[test]
fn a_row_whose_key_changes_is_on_the_shard_of_the_new_one() {
    let mut pair = Pair::start("moves_rows", "", REWRITE);
    let [a, b, c] = keys(&mut pair);
    pair.same(&format!("INSERT INTO users VALUES ({a}, 'it''s', 1)"));
    let mut at = a;
    for (form, to) in FORMS.into_iter().zip([b, c, a, b]) {
        let mut sql = Sql::of("UPDATE users AS u SET name = u.name || ");
        sql.value(Value::Text("x'\\".to_owned()));
        sql.add(", id = ");
        sql.value(Value::Big(to));
        sql.add(", age = age + ");
        sql.value(Value::Int(1));
        sql.add(" WHERE id = ");
        sql.value(Value::Big(at));
        sql.add(" RETURNING u.*, u.id + ");
        sql.value(Value::Big(1));
        sql.add(" AS next");
        pair.alike(&sql, form);
        pair.tables_are_alike("moved");
        // It is not where it was.
        pair.alike(&sql, form);
        at = to;
    }
    for sql in [
        // By another column, from all shards.
        &format!("UPDATE users SET id = {a} WHERE age = 5"),
        &format!("UPDATE users SET id = {b} WHERE age = 99"),
        &format!("UPDATE users SET id = {b} WHERE age = 99 RETURNING name, id"),
        // To where it is.
        &format!("UPDATE users SET id = {a}, age = 7 WHERE age = 5 RETURNING id, age"),
        // Signs that are written together with the equals sign.
        &format!("UPDATE users SET id=-(-{b}) WHERE id = {a}"),
        &format!("UPDATE users SET age = 7, id=- -{a} WHERE id = {b} RETURNING id"),
        "BEGIN",
        &format!("UPDATE users SET id = {c} WHERE id = {a}"),
        &format!("SELECT * FROM users WHERE id = {c}"),
        &format!("SELECT * FROM users WHERE id = {a}"),
        "SAVEPOINT s",
        &format!("UPDATE users SET id = {b} WHERE id = {c}"),
        "ROLLBACK TO s",
        "SELECT * FROM users",
        "ROLLBACK",
        "SELECT * FROM users",
        // Its place is taken.
        &format!("INSERT INTO users VALUES ({b}, 'there', 8)"),
        &format!("UPDATE users SET id = {b} WHERE id = {a}"),
        "SELECT * FROM users ORDER BY id",
        &format!("UPDATE users SET id = 'x' WHERE id = {a}"),
        &format!("UPDATE users SET id = {c}, age = 1 / 0 WHERE id = {a}"),
        &format!("UPDATE users SET id = {c}, age = 'x' WHERE id = {a}"),
        &format!("UPDATE users SET id = {c}, nothing = 1 WHERE id = {a}"),
    ] {
        pair.same(sql);
        if !sql.contains("BEGIN") && pair.many.query("SELECT 1").ends_with("Z:I") {
            pair.tables_are_alike(sql);
        }
    }
    pair.shards.pgdog.stop();
}

#[test]
fn a_row_that_cannot_move_alone_stays() {
    let mut pair = Pair::start("moves_limits", "", &format!("{THINGS}{REWRITE}"));
    let [a, b, c] = keys(&mut pair);
    pair.same(&format!(
        "INSERT INTO users VALUES ({a}, 'a', 1), ({b}, 'b', 1), ({c}, 'c', 2)"
    ));
    pair.same(&format!(
        "INSERT INTO payments VALUES (1, {a}, 1), (2, {a}, 1), (3, {b}, 1)"
    ));
    // What refers to it refuses.
    pair.same(&format!(
        "UPDATE users SET id = {} WHERE id = {a}",
        b + 1_000_000
    ));
    // A row that refers to one that is on the other shard moves to it, and not to where there is none.
    pair.same(&format!(
        "UPDATE payments SET user_id = {b} WHERE id = 1 RETURNING *"
    ));
    pair.same(&format!(
        "UPDATE payments SET user_id = {} WHERE id = 3",
        c + 2_000_000
    ));
    pair.tables_are_alike("");
    let more = |pair: &mut Pair, sql: &str| pair.many.query(sql);
    pair.same(&format!(
        "INSERT INTO payments VALUES (4, {c}, 1), (5, {c}, 1)"
    ));
    assert_eq!(
        more(
            &mut pair,
            &format!("UPDATE payments SET user_id = {b} WHERE user_id = {c}")
        ),
        "E:21000 Z:I"
    );
    // One on the shard that it goes to, too.
    assert_eq!(
        more(
            &mut pair,
            &format!("UPDATE payments SET user_id = {b} WHERE id IN (3, 4)")
        ),
        "E:21000 Z:I"
    );
    for sql in [
        format!("UPDATE users SET id = id + 1 WHERE id = {a}"),
        format!("UPDATE users SET id = {b} WHERE id = (SELECT max(user_id) FROM payments)"),
        format!("UPDATE payments SET user_id = {b} FROM users WHERE users.id = user_id AND users.id = {c}"),
    ] {
        pair.refused(&sql);
    }
    pair.tables_are_alike("refused");
    // What would be deleted or changed with it.
    pair.same("CREATE TABLE things (id bigint REFERENCES users ON DELETE CASCADE, n int)");
    pair.same(
        "CREATE TABLE marks (owner bigint REFERENCES users ON UPDATE CASCADE ON DELETE SET NULL)",
    );
    pair.same("DELETE FROM payments");
    pair.same(&format!("INSERT INTO things VALUES ({a}, 1)"));
    let answer = pair.many.query(&format!(
        "UPDATE users SET id = {c}, age = 5 WHERE id = {a}"
    ));
    assert_eq!(answer, "E:0A000 Z:I", "before the other shard is asked");
    pair.tables_are_alike("cascades");
    // Nothing hangs on it.
    pair.same("DELETE FROM things");
    pair.same(&format!("DELETE FROM users WHERE id = {c}"));
    pair.same(&format!(
        "UPDATE users SET id = {c}, age = 5 WHERE id = {a} RETURNING *"
    ));
    pair.tables_are_alike("free");
    pair.shards.pgdog.stop();
}

/// What a row is, under settings that hide nothing.
fn text_of(server: &mut Wire) -> Vec<Vec<String>> {
    server.rows(
        "SELECT (f4, n, f8, d, t, v, c, b, j, js, arr, at, at0, dt, tm, iv, u, bo, bits, net, r, mood, two, pt, q, \
         \"Sel\"\"ect\", empty, nothing)::text FROM things",
    )
}

#[test]
fn every_type_moves_whole_whatever_the_settings_of_its_client() {
    let mut pair = Pair::start("moves_types", "", &format!("{THINGS}{REWRITE}"));
    let [a, b, c] = keys(&mut pair);
    for sql in [
        "CREATE TYPE mood AS ENUM ('so so', 'it''s \\ good')",
        "CREATE TYPE pair AS (at timestamptz, f real)",
        "CREATE DOMAIN short AS varchar(7)",
        "CREATE TABLE things (f4 real, id bigint PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, twice bigint GENERATED ALWAYS AS (id * 2) STORED, \
         f8 double precision, d numeric(12,3), t text, v short, c char(5), b bytea, j jsonb, js json, arr text[], at timestamptz, at0 timestamp, \
         dt date, tm timetz, iv interval, u uuid, bo bool, bits bit varying, net inet, r tstzrange, mood mood, two pair, pt point, q tsvector, \
         \"Sel\"\"ect\" \"char\", empty text, nothing int)",
    ] {
        let answer = pair.many.query(sql);
        assert!(answer.starts_with("C:"), "{sql}: {answer}");
    }
    // One server has its columns in another order, and one more.
    let mut last = pair.shards.shard(2);
    for change in [
        "DROP COLUMN f8",
        "ADD COLUMN f8 double precision",
        "ADD COLUMN later int DEFAULT 5",
    ] {
        let answer = last.query(&format!("ALTER TABLE things {change}"));
        assert_eq!(answer, "C:ALTER_TABLE Z:I");
    }
    let answer = pair.many.query(&format!(
        "INSERT INTO things (id, f4, f8, d, t, v, c, b, j, js, arr, at, at0, dt, tm, iv, u, bo, bits, net, r, mood, two, pt, q, \"Sel\"\"ect\", empty) VALUES \
         ({a}, 0.1, 1e-307::float8 / 3, 'NaN', E'it''s \\\\ \\n $1 {{}}', 'abcdefg', 'ab', '\\x00ff5c27', '{{\"a\": [1, \"\\\\\"]}}', '{{ \"a\":1,  \"a\":2 }}', \
         ARRAY['x,y', NULL, 'NULL', '\"', '\\'], '2026-03-04 05:06:07.891234+00', '0044-03-04 05:06:07 BC', '2026-03-04', '05:06:07+03', \
         '-1 years 2 mons -3 days +04:05:06.7', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', true, B'101', '10.1.2.3/8', \
         '[2026-03-04 00:00:00+00,)', 'it''s \\ good', ROW('2026-04-03 01:02:03+00', 0.3), '(1e-300,2)', 'a:1 b:2', 'x', '')"
    ));
    assert_eq!(answer, "C:INSERT_0_1 Z:I");
    let before = text_of(&mut pair.shards.shard(0));
    assert_eq!(before.len(), 1);
    for setting in [
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'sql_standard'",
        "extra_float_digits = -9",
        "bytea_output = 'escape'",
        "timezone = 'Asia/Kolkata'",
        "standard_conforming_strings = off",
    ] {
        assert_eq!(pair.many.query(&format!("SET {setting}")), "C:SET Z:I");
    }
    for (from, to, shard) in [(a, b, 1), (b, c, 2), (c, a, 0)] {
        let mut sql = Sql::of("UPDATE things SET id = ");
        sql.value(Value::Big(to));
        sql.add(" WHERE id = ");
        sql.value(Value::Big(from));
        sql.add(" RETURNING id, twice, dt::text");
        if shard == 0 {
            // A column that the other shard does not have is not left behind.
            assert_eq!(sql.ask(&mut pair.many, Form::Text), "E:42703 Z:I");
            last.query("ALTER TABLE things DROP COLUMN later");
        }
        let answer = sql.ask(&mut pair.many, Form::Text);
        assert!(
            answer.contains(&format!("D:{to}|{}|04/03/2026 C:UPDATE_1 Z:I", 2 * to)),
            "to shard {shard}: {answer}"
        );
        let after = text_of(&mut pair.shards.shard(shard));
        assert_eq!(after, before, "on shard {shard}");
        let counts = pair.shards.each("SELECT count(*) FROM things");
        assert_eq!(counts.iter().filter(|count| *count == "1").count(), 1);
    }
    // The client's settings are as they were.
    pair.many.query("BEGIN");
    pair.many
        .query(&format!("UPDATE things SET id = {b} WHERE id = {a}"));
    let shown = pair
        .many
        .rows("SELECT current_setting('datestyle'), current_setting('extra_float_digits')");
    assert_eq!(shown, [["SQL, DMY", "-9"]]);
    pair.many.query("COMMIT");
    pair.shards.pgdog.stop();
}

#[test]
fn triggers_and_conditions_have_their_say() {
    let mut pair = Pair::start("moves_triggers", "", REWRITE);
    let [a, b, _] = keys(&mut pair);
    for sql in [
        "CREATE TABLE log (what text)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN \
         INSERT INTO log VALUES (TG_OP); IF TG_OP = 'INSERT' AND NEW.name = 'never' THEN RETURN NULL; END IF; \
         IF TG_OP = 'UPDATE' AND NEW.age = 13 THEN RETURN NULL; END IF; \
         IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END$$",
        "CREATE TRIGGER noted BEFORE INSERT OR UPDATE OR DELETE ON users FOR EACH ROW EXECUTE FUNCTION note()",
    ] {
        pair.same(sql);
    }
    pair.same(&format!("INSERT INTO users VALUES ({a}, 'a', 1)"));
    // One that the trigger keeps from changing stays.
    pair.same(&format!(
        "UPDATE users SET id = {b}, age = 13 WHERE id = {a} RETURNING id"
    ));
    pair.tables_are_alike("kept");
    // One that the other shard would not have is not lost.
    let answer = pair.many.query(&format!(
        "UPDATE users SET id = {b}, name = 'never' WHERE id = {a}"
    ));
    assert_eq!(answer, "E:XX000 Z:I");
    pair.tables_are_alike("not stored");
    pair.same(&format!(
        "UPDATE users SET id = {b}, name = 'b' WHERE id = {a} RETURNING id"
    ));
    pair.tables_are_alike("moved");
    let log = "SELECT string_agg(what, ' ') FROM log";
    let logs = pair.shards.each(&format!("SELECT coalesce(({log}), '')"));
    assert_eq!(logs, ["INSERT UPDATE UPDATE DELETE", "INSERT", ""]);
    pair.shards.pgdog.stop();
}

#[test]
fn keys_stay_where_moving_is_not_allowed() {
    let mut pair = Pair::start("moves_refused", "", "");
    let [a, b, _] = keys(&mut pair);
    pair.same(&format!("INSERT INTO users VALUES ({a}, 'a', 1)"));
    pair.refused(&format!("UPDATE users SET id = {b} WHERE id = {a}"));
    pair.same(&format!(
        "UPDATE users SET id = {a}, age = 2 WHERE id = {a} RETURNING *"
    ));
    pair.tables_are_alike("");
    pair.shards.pgdog.stop();
}
