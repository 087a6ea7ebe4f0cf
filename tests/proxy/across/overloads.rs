//! Aggregates that users have made of types of theirs, called like those of PostgreSQL, as pgvector's `avg(vector)`.

use super::super::shards::{all, Shards};
use super::super::support::wire::query;
use super::super::support::Postgres;

const TABLE: &str = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\n";

/// Of which the answer over shards is not put together as that of PostgreSQL's own.
const MADE: [&str; 13] = [
    "CREATE TYPE point2 AS (x int, y int)",
    "CREATE DOMAIN score AS int",
    "CREATE FUNCTION add(point2, point2) RETURNS point2 LANGUAGE sql IMMUTABLE STRICT \
        AS 'SELECT ($1.x + $2.x, $1.y + $2.y)::public.point2'",
    "CREATE FUNCTION first_of(numeric, point2) RETURNS numeric LANGUAGE sql IMMUTABLE \
        AS 'SELECT COALESCE($1, 0) * 10 + $2.x'",
    "CREATE FUNCTION longest(text, text) RETURNS text LANGUAGE sql IMMUTABLE \
        AS 'SELECT CASE WHEN length($1) >= length($2) THEN $1 ELSE $2 END'",
    "CREATE FUNCTION least_of(int, score) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT COALESCE($1, 0) + 1'",
    // Whose answer looks like a sum of integers, an average, a sum of texts that PostgreSQL has not, a count.
    "CREATE AGGREGATE avg(point2) (SFUNC = first_of, STYPE = numeric)",
    "CREATE AGGREGATE sum(point2) (SFUNC = add, STYPE = point2)",
    "CREATE AGGREGATE concat(text) (SFUNC = longest, STYPE = text)",
    "CREATE AGGREGATE min(score) (SFUNC = least_of, STYPE = int)",
    "CREATE DOMAIN flag AS bool",
    "CREATE FUNCTION counted(int, flag) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT COALESCE($1, 0) + 1'",
    "CREATE AGGREGATE max(flag) (SFUNC = counted, STYPE = int)",
];

#[test]
fn aggregates_of_users_are_not_taken_for_those_of_the_same_name() {
    let shards = Shards::start("across_overloads", "", TABLE);
    let mut client = shards.client();
    let postgres = Postgres::shared();
    let mut one = postgres.admin(&postgres.database("across_overloads_alone"));
    let mut made = MADE.to_vec();
    made.push("CREATE TABLE t (id int, n int, s text, p point2, score score, f float4, b bool)");
    for sql in &made {
        for shard in 0..3 {
            let answer = shards.shard(shard).query(sql);
            assert!(answer.starts_with("C:"), "{sql}: {answer}");
        }
        one.query(sql);
    }
    for shard in 0..3 {
        shards.shard(shard).query("ALTER TABLE t OWNER TO alice");
    }
    all(&mut client, &["CREATE TABLE other (id int)"]); // what was made before is asked for
    for id in 0..20 {
        let text = "x".repeat(id);
        let sql =
            format!("INSERT INTO t VALUES ({id}, {id}, '{text}', ({id}, 1), {id}, {id}, true)");
        assert_eq!(client.query(&sql), one.query(&sql));
    }
    // PostgreSQL's own are merged, or computed by one server, as before.
    for sql in [
        "SELECT avg(n), sum(n), count(*), min(n) FROM t",
        "SELECT avg(n * 2 + 1), min(s) FROM t",
        "SELECT avg(m) FROM (SELECT n AS m FROM t) u",
        "SELECT min(n), min(n + 1), min(s), min(id) FROM t",
        "SELECT n % 3, min(f) FROM t GROUP BY 1 ORDER BY 1",
        "SELECT avg(p) FROM t WHERE id = 7",
        "SELECT id, avg(p), sum(p), min(score) FROM t GROUP BY id ORDER BY id",
        "SELECT concat(s) FROM t",
        "SELECT avg((id, n)::point2) FROM t WHERE id = 3",
        "SELECT concat(s, 'y') FROM t WHERE id = 3",
    ] {
        let expected = one.query(sql);
        assert!(expected.starts_with("T "), "{sql}: {expected}");
        assert_eq!(client.query(sql), expected, "{sql}");
    }
    for sql in [
        "SELECT avg(p) FROM t",
        "SELECT sum(p) FROM t",
        "SELECT n % 2, avg(p) FROM t GROUP BY 1",
        "SELECT avg(q) FROM (SELECT p AS q FROM t) u",
        "SELECT n FROM t GROUP BY n HAVING avg(p) > 1",
        "SELECT n FROM t GROUP BY n ORDER BY avg(p)",
        "SELECT min(score) FROM t",
        "SELECT min(n::score) FROM t",
        // PostgreSQL has none for these: they become of the domain.
        "SELECT max(b) FROM t",
        "SELECT avg(DISTINCT p) FROM t",
    ] {
        let expected = one.query(sql);
        assert!(expected.starts_with("T "), "{sql}: {expected}");
        assert_eq!(client.query(sql), "E:0A000 Z:I", "{sql}");
    }
    // The message names what it is about.
    client.send(&query("SELECT avg(p) FROM t"));
    let refused = client.read_until(b'Z');
    let text = "the aggregate avg of types that users may have made is not supported across shards";
    assert_eq!(refused[0].field(b'M'), text);
    shards.pgdog.stop();
}
