//! Tables sharded by vectors: rows are stored at the nearest centroid, and searched for at several.
//!
//! pgvector is not needed: a domain over text and an operator `<->` stand for its type.

use super::shards::Shards;
use super::support::wire::{run, sync, Wire};

/// Three shards, each with one centroid.
fn started(label: &str, probes: usize) -> (Shards, Wire) {
    let more = format!(
        "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"points\"\ncolumn = \"place\"\ndata_type = \"vector\"\n\
         centroids = [[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]]\ncentroid_probes = {probes}\n"
    );
    let shards = Shards::start(label, "expanded_explain = true", &more);
    let mut client = shards.client();
    for sql in [
        "CREATE DOMAIN vector AS text",
        "CREATE FUNCTION distance(text, text) RETURNS float8 LANGUAGE sql IMMUTABLE AS \
         'SELECT sqrt(sum((a - b) ^ 2)) FROM ROWS FROM (json_array_elements_text($1::json), \
         json_array_elements_text($2::json)) AS p(x, y), LATERAL (SELECT x::float8 AS a, y::float8 AS b) n'",
        "CREATE OPERATOR <-> (LEFTARG = text, RIGHTARG = text, FUNCTION = distance)",
        "CREATE TABLE points (id int, place vector)",
    ] {
        let done = client.query(sql);
        assert!(done.starts_with("C:CREATE_") && done.ends_with(" Z:I"), "{sql}: {done}");
    }
    for id in 0..=20 {
        let sql = format!("INSERT INTO points VALUES ({id}, '[{id},0]')");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I", "{sql}");
    }
    (shards, client)
}

/// The first column, and where the statement goes.
fn found(client: &mut Wire, sql: &str) -> (String, String) {
    let column = |rows: Vec<Vec<String>>| {
        let first = rows.into_iter().map(|row| row[0].clone());
        first.collect::<Vec<_>>()
    };
    let rows = column(client.rows(sql));
    let plan = column(client.rows(&format!("EXPLAIN (COSTS off) {sql}")));
    let told = plan.iter().find_map(|line| line.strip_prefix("pgdog: "));
    let told = told.unwrap_or_default();
    let to: String = told
        .chars()
        .take_while(|letter| "shards ,0123456789".contains(*letter))
        .collect();
    (rows.join(" "), to.trim_end_matches(", ").to_owned())
}

#[test]
fn the_nearest_are_looked_for_at_the_nearest_centroids() {
    let (shards, mut client) = started("vectors_probes", 1);
    assert_eq!(shards.each("SELECT count(*) FROM points"), ["6", "10", "5"]);
    for (sql, rows, to) in [
        ("SELECT id FROM points ORDER BY place <-> '[1.2,0]' LIMIT 3", "1 2 0", "shard 0"),
        ("SELECT id FROM points ORDER BY '[19.9,0]' <-> place, id LIMIT 2", "20 19", "shard 2"),
        ("SELECT id, place <-> '[9.9,1]' AS far FROM points p ORDER BY far FETCH FIRST 2 ROWS ONLY", "10 9", "shard 1"),
        // What is asked for is an approximation: 5 is stored elsewhere.
        ("SELECT id FROM points WHERE id < 7 ORDER BY place <-> '[5.9,0]' LIMIT 2", "6", "shard 1"),
    ] {
        assert_eq!(found(&mut client, sql), (rows.to_owned(), to.to_owned()), "{sql}");
    }
    // All rows, or not the nearest.
    for (sql, rows) in [
        ("SELECT id FROM points WHERE id > 17 ORDER BY place <-> '[1,0]'", "18 19 20"),
        ("SELECT id FROM points WHERE id > 17 ORDER BY place <-> '[1,0]' LIMIT NULL", "18 19 20"),
        ("SELECT id FROM points ORDER BY place <-> '[1,0]' DESC LIMIT 1", "20"),
        ("SELECT id FROM points ORDER BY id DESC, place <-> '[1,0]' LIMIT 1", "20"),
        ("SELECT max(id) FROM points LIMIT 1", "20"),
        ("SELECT id FROM (SELECT id, place <-> '[1,0]' AS far FROM points) p ORDER BY far DESC LIMIT 1", "20"),
    ] {
        let (got, to) = found(&mut client, sql);
        assert_eq!((&*got, &*to), (rows, "shards 0, 1, 2"), "{sql}");
    }
    let text = "SELECT id FROM points ORDER BY place <-> $1 LIMIT $2::bigint";
    for (limit, rows) in [(Some("2"), 2), (None, 21)] {
        let messages = [run(text, &[Some("[20,0]"), limit]), sync()];
        let answer = client.ask(&messages);
        assert_eq!(
            answer.matches("D:").count(),
            rows,
            "LIMIT {limit:?}: {answer}"
        );
    }
    shards.pgdog.stop();
}

#[test]
fn functions_of_users_are_computed_by_the_shards_if_they_are_immutable() {
    let (shards, mut client) = started("vectors_functions", 1);
    for (sql, rows) in [
        ("SELECT id FROM points WHERE distance(place, '[9,0]') < 2 ORDER BY distance(place, '[9,0]'), id", "9 8 10"),
        ("SELECT max(public.distance(place, '[4,0]')) FROM points", "16"),
        ("SELECT count(*) FROM points GROUP BY distance(place, '[10,0]') > 5 ORDER BY 1", "10 11"),
    ] {
        let (got, to) = found(&mut client, sql);
        assert_eq!((&*got, &*to), (rows, "shards 0, 1, 2"), "{sql}");
    }
    // One that is not may read what other shards have, an aggregate only what its own has.
    for (definition, call) in [
        ("CREATE FUNCTION volatile_one(text) RETURNS text LANGUAGE sql AS 'SELECT $1'", "volatile_one(place)"),
        ("CREATE FUNCTION stable_one(text) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1'", "stable_one(place)"),
        ("CREATE FUNCTION rows_of(text) RETURNS SETOF text LANGUAGE sql IMMUTABLE AS 'SELECT $1'", "rows_of(place)"),
        ("CREATE AGGREGATE biggest(text) (SFUNC = text_larger, STYPE = text)", "biggest(place)"),
        ("ALTER FUNCTION distance(text, text) STABLE", "distance(place, place)"),
    ] {
        let done = client.query(definition);
        assert!(done.starts_with("C:"), "{definition}: {done}");
        assert_eq!(client.query(&format!("SELECT {call} FROM points")), "E:0A000 Z:I", "{call}");
    }
    shards.pgdog.stop();
}

#[test]
fn as_many_centroids_as_the_square_root_of_all_are_searched_by_default() {
    let (shards, mut client) = started("vectors_root", 0);
    let sql = "SELECT id FROM points ORDER BY place <-> '[5.4,0]' LIMIT 3";
    assert_eq!(
        found(&mut client, sql),
        ("5 6 4".to_owned(), "shards 0, 1".to_owned())
    );
    // Vectors of another length are for PostgreSQL to refuse.
    let other = "SELECT id FROM points ORDER BY place <-> '[1,2,3]', id LIMIT 1";
    assert_eq!(found(&mut client, other).1, "shards 0, 1, 2");
    shards.pgdog.stop();
}
