//! Where statements go, as it is told: SHOW QUERY_CACHE, `dry_run`, `pgdog route`; and where reads of what is the same
//! everywhere go.

use std::collections::BTreeSet;

use super::shards::Shards;
use super::support::pgdog::Config;
use super::support::postgres::Postgres;
use super::support::wire::{bind, execute, parse, run, sync, Wire};

const TABLE: &str = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\n";

/// How often texts with this in them went to one shard, and to several.
fn told(admin: &mut Wire, wanted: &str) -> Vec<[String; 3]> {
    let rows = admin.rows(&format!("SHOW QUERY_CACHE '{wanted}'"));
    let row = |row: Vec<String>| {
        let [query, _hits, direct, multi] = row.try_into().expect("four columns");
        [query, direct, multi]
    };
    let mut rows: Vec<_> = rows.into_iter().map(row).collect();
    rows.sort();
    rows
}

#[test]
fn the_query_cache_tells_how_often_texts_went_where() {
    let shards = Shards::start("told_cache", "", TABLE);
    let (mut client, mut admin) = (shards.client(), shards.pgdog.admin());
    client.query("CREATE TABLE t (id bigint, v int)");
    for id in 0..5 {
        client.query(&format!("SELECT v FROM t WHERE id = {id}"));
        client.query("SELECT count(*) FROM t");
    }
    assert_eq!(
        told(&mut admin, "FROM T"),
        [
            ["SELECT count(*) FROM t", "0", "5"],
            ["SELECT v FROM t WHERE id = ?", "5", "0"],
        ]
    );
    // Passwords are nobody's business.
    client.query("ALTER ROLE told_nobody PASSWORD 'hush'");
    let all = admin.rows("SHOW QUERY_CACHE");
    assert!(all.iter().any(|row| row[0].contains("told_nobody")));
    assert!(!all.iter().any(|row| row[0].contains("hush")));
    assert_eq!(admin.query("RESET QUERY_CACHE"), "C:RESET_QUERY_CACHE Z:I");
    assert_eq!(told(&mut admin, "").len(), 0);
    shards.pgdog.stop();
}

#[test]
fn a_dry_run_tells_what_statements_would_do() {
    let database = Postgres::shared().database("told_dry_run");
    let pgdog = Config::of(&database)
        .general("dry_run = true")
        .more(&TABLE.replace("$DATABASE", &database))
        .admin()
        .start();
    let (mut client, mut admin) = (pgdog.client(&database), pgdog.admin());
    client.query("CREATE TABLE t (id bigint, v int)");
    client.query("BEGIN");
    client.query("INSERT INTO t VALUES (1, 2)");
    client.query("UPDATE t SET v = 3");
    client.query("COMMIT");
    assert_eq!(client.value("SELECT v FROM t WHERE id = 1"), "3");
    let keyed = "SELECT v FROM t WHERE id = $1";
    client.ask(&[run(keyed, &[Some("1")]), sync()]);
    client.ask(&[parse("s", keyed), sync()]);
    client.ask(&[bind("", "s", &[Some("2")]), execute("", 0), sync()]);
    client.query("SELECT * FROM t EXCEPT SELECT * FROM t");
    let told = told(&mut admin, " t");
    let of = |text: &str| {
        let found = told.iter().find(|row| row[0] == text);
        found.map(|row| [&*row[1], &*row[2]]).expect(text)
    };
    assert_eq!(of("INSERT INTO t VALUES (?, ?)"), ["1", "0"]);
    assert_eq!(of("UPDATE t SET v = ?"), ["0", "1"]);
    assert_eq!(of("SELECT v FROM t WHERE id = ?"), ["1", "0"]);
    assert_eq!(of(keyed), ["2", "0"]);
    assert_eq!(of("SELECT * FROM t EXCEPT SELECT * FROM t"), ["0", "1"]);
    pgdog.stop();
}

#[test]
fn pgdog_route_tells_where_statements_would_go() {
    let shards = Shards::start("told_route", "", TABLE);
    let ask = |queries: &[&str]| {
        let names = ["route", "--user", "alice", "--database", &shards.name];
        shards.pgdog.call(&[&names, queries].concat())
    };
    // The shard that it names is where the statement goes.
    let mut client = shards.client();
    client.query("CREATE TABLE t (id bigint, v int)");
    for id in 0..4 {
        client.query(&format!("INSERT INTO t VALUES ({id}, {id})"));
        let answer = ask(&[&format!("SELECT v FROM t WHERE id = {id}")]);
        let shard = answer.lines().last().expect("three lines");
        let shard: usize = shard
            .trim()
            .strip_prefix("shards: shard ")
            .expect(shard)
            .parse()
            .expect(shard);
        let count = format!("SELECT count(*) FROM t WHERE id = {id}");
        assert_eq!(shards.shard(shard).value(&count), "1");
    }
    let answer = ask(&["UPDATE t SET v = 1; SELECT 1", "SELEC"]);
    assert_eq!(
        answer,
        "UPDATE t SET v = 1\n    server: primary: changes data\n    shards: shards 0, 1, 2\n\
         SELECT 1\n    server: any: reads only\n    shards: any shard\n\
         SELEC\n    refused: syntax error at or near \"SELEC\"\n"
    );
    shards.pgdog.stop();
}

/// The shards that a client's reads of a table have come from, which is not the same everywhere, to tell.
fn read_from(client: &mut Wire, table: &str) -> BTreeSet<String> {
    (0..40)
        .map(|_| client.value(&format!("SELECT at FROM {table}")))
        .collect()
}

#[test]
fn reads_of_what_is_the_same_everywhere_are_balanced_or_stick() {
    let listed =
        "[[omnisharded_tables]]\ndatabase = \"$DATABASE\"\ntables = [\"sticks\"]\nsticky = true\n";
    for (general, spread) in [("", 3), ("omnisharded_sticky = true", 1)] {
        let shards = Shards::start("told_sticky", general, &format!("{TABLE}{listed}"));
        let mut client = shards.client();
        client.query("CREATE TABLE roams (at int); CREATE TABLE sticks (at int)");
        for shard in 0..3 {
            let sql =
                format!("INSERT INTO roams VALUES ({shard}); INSERT INTO sticks VALUES ({shard})");
            shards.shard(shard).query(&sql);
        }
        assert_eq!(read_from(&mut client, "roams").len(), spread, "{general}");
        assert_eq!(read_from(&mut client, "sticks").len(), 1);
        // A transaction stays where it is.
        client.query("BEGIN");
        assert_eq!(read_from(&mut client, "roams").len(), 1);
        client.query("COMMIT");
        // Catalogues stick, as does what reads no table.
        let names: BTreeSet<_> = (0..20)
            .map(|_| {
                client.value(
                    "SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()",
                )
            })
            .collect();
        assert_eq!(names.len(), 1);
        shards.pgdog.stop();
    }
}
