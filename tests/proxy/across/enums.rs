//! Enums, whose order only the catalogue tells, and jsonb, of which equal values are written apart.

use super::super::shards::Shards;
use super::super::support::Postgres;
use super::{filled, same_in_both_formats};

#[test]
fn enums_are_ordered_as_they_were_declared() {
    let (mut one, shards) = filled("across_enums");
    let mut client = shards.client();
    for sql in [
        "SELECT id, mood FROM users ORDER BY mood, id",
        "SELECT id, mood FROM users ORDER BY mood DESC NULLS LAST, id LIMIT 30 OFFSET 3",
        "SELECT mood, count(*), min(id) FROM users GROUP BY mood ORDER BY mood",
        "SELECT DISTINCT mood FROM users ORDER BY 1 DESC",
        "SELECT DISTINCT ON (mood) mood, id FROM users ORDER BY mood, id DESC",
        "SELECT min(mood), max(mood), count(DISTINCT mood) FROM users",
        "SELECT country, max(mood) FROM users GROUP BY country ORDER BY max(mood), country",
        "SELECT id, rank() OVER (ORDER BY mood) FROM users ORDER BY 2, 1",
        "SELECT mood, id, row_number() OVER (ORDER BY mood, id) FROM users ORDER BY id",
        "SELECT id FROM users WHERE mood > (SELECT min(mood) FROM users) ORDER BY id",
    ] {
        same_in_both_formats(&mut one, &mut client, sql);
    }
    // The elements of an array in binary format have the OIDs of their shard.
    for sql in [
        "SELECT DISTINCT ARRAY[mood, 'sad'] AS m FROM users ORDER BY m",
        "SELECT array_agg(mood ORDER BY mood, id) FROM users",
    ] {
        assert_eq!(client.query(sql), one.query(sql), "{sql}");
    }

    // Labels that came later, in the middle.
    for sql in [
        "ALTER TYPE mood ADD VALUE 'glad' BEFORE 'merry'",
        "UPDATE users SET mood = 'glad' WHERE id % 6 = 0",
    ] {
        assert_eq!(client.query(sql), one.query(sql), "{sql}");
    }
    same_in_both_formats(
        &mut one,
        &mut client,
        "SELECT id, mood FROM users ORDER BY mood, id",
    );
    shards.pgdog.stop();
}

/// On whichever shard a client's questions are asked, and whatever types have made another number there.
#[test]
fn enums_are_told_apart_by_their_shards_numbers() {
    const TABLE: &str = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\ndata_type = \"bigint\"\n";
    for general in ["", "canonicalize_type_information = true"] {
        let label = if general.is_empty() { "own" } else { "first" };
        let shards = Shards::start(&format!("enums_{label}"), general, TABLE);
        let types = [
            ("a", "CREATE TYPE a AS ENUM ('x', 'y', 'z')"),
            ("b", "CREATE TYPE b AS ENUM ('z', 'y', 'x')"),
            ("c", "CREATE TYPE c AS ENUM ('y', 'x', 'z')"),
        ];
        for number in 0..3 {
            let mut shard = shards.shard(number);
            // What is the first type here is another one there.
            for turn in 0..3 {
                let (_, sql) = types[(turn + number) % 3];
                assert_eq!(shard.query(sql), "C:CREATE_TYPE Z:I");
            }
            // One that is declared otherwise elsewhere.
            let order = if number == 2 { "'z', 'x'" } else { "'x', 'z'" };
            shard.query(&format!("CREATE TYPE odd AS ENUM ({order})"));
            shard.query("CREATE TABLE t (id int8, a a, b b, c c, odd odd)");
            shard.query("ALTER TABLE t OWNER TO alice");
        }
        let postgres = Postgres::shared();
        let mut one = postgres.admin(&postgres.database(&format!("enums_{label}_alone")));
        for (_, sql) in types {
            one.query(sql);
        }
        one.query("CREATE TYPE odd AS ENUM ('x', 'z')");
        one.query("CREATE TABLE t (id int8, a a, b b, c c, odd odd)");
        let mut client = shards.client();
        for id in 0..30 {
            let label = |step: usize| ["x", "y", "z"][(id / step) % 3];
            let [a, b, c] = [label(1), label(3), label(9)];
            let sql = format!("INSERT INTO t VALUES ({id}, '{a}', '{b}', '{c}', 'x')");
            assert_eq!(client.query(&sql), one.query(&sql));
        }
        // Each client has a shard of its own for what any shard may answer.
        for _ in 0..4 {
            let mut client = shards.client();
            for sql in [
                "SELECT id, a FROM t ORDER BY a, b, c, id",
                "SELECT b, c, count(*) FROM t GROUP BY 1, 2 ORDER BY 1 DESC, 2",
                "SELECT max(a), min(b), max(c) FROM t",
                "SELECT id, a, b, c, rank() OVER (ORDER BY a, b, c) FROM t ORDER BY id",
            ] {
                same_in_both_formats(&mut one, &mut client, sql);
            }
            let sql = "SELECT id, odd FROM t ORDER BY id";
            assert_eq!(client.query(sql), one.query(sql));
            for sql in [
                "SELECT id FROM t ORDER BY odd, id",
                "SELECT DISTINCT odd FROM t",
                "SELECT max(odd) FROM t",
            ] {
                assert_eq!(client.query(sql), "E:0A000 Z:I", "{sql}");
            }
        }
        shards.pgdog.stop();
    }
}

#[test]
fn values_of_jsonb_are_equal_whatever_their_numbers_look_like() {
    let (mut one, shards) = filled("across_jsonb");
    let mut client = shards.client();
    let change = r#"UPDATE users SET tags = (ARRAY['1.0', '1.00', '1', '{"a": [2.50, "1.0"]}', '{"a": [2.5, "1.0"]}', '{"a": [2.5, "1.00"]}', '[1]', '"1"', 'null', NULL, '"a\"1.0"', '-0.0'])[1 + id % 12]::jsonb"#;
    let sql = "SELECT tags, count(*), min(id) FROM users GROUP BY tags ORDER BY 3";
    same_in_both_formats(&mut one, &mut client, sql);
    assert_eq!(client.query(change), one.query(change));
    for sql in [
        "SELECT count(*), min(id), max(id) FROM users GROUP BY tags ORDER BY 2",
        "SELECT count(DISTINCT tags) FROM users",
        "SELECT count(*) FROM (SELECT DISTINCT tags FROM users) d",
        "SELECT min(id) FROM users GROUP BY ARRAY[tags, '1'] ORDER BY 1",
        "SELECT (tags -> 'a') IS NULL AS none, count(*) FROM users GROUP BY 1, tags ->> 0 ORDER BY 1, 2",
    ] {
        same_in_both_formats(&mut one, &mut client, sql);
    }
    assert_eq!(
        client.query("SELECT id FROM users ORDER BY tags, id"),
        "E:0A000 Z:I"
    );
    shards.pgdog.stop();
}
