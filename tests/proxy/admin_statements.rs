//! The admin database on statements: how many, how long, which are analysed and prepared; PROBE.

use super::admin::{one, show, start, values};
use crate::support::postgres::PASSWORD;
use crate::support::process::{poll, PATIENCE};
use crate::support::wire::{bind, execute, parse, query, run, sync};
use crate::support::{Config, Postgres, Wire};

#[test]
fn queries_and_transactions_are_counted_exactly() {
    let (pgdog, database) = start("admin", "stats_period = 200");
    let mut clients: Vec<_> = (0..5).map(|_| pgdog.client(&database)).collect();
    for client in &mut clients {
        for _ in 0..10 {
            client.query("SELECT 1");
        }
        client.query("BEGIN");
        client.query("SELECT 1");
        client.query("COMMIT");
        client.ask(&[run("SELECT 1", &[]), sync()]);
    }
    let mut admin = pgdog.admin();
    let stats = one(&mut admin, "STATS");
    let names = "database user total_query_count total_xact_count total_bind_count total_errors";
    assert_eq!(values(&stats, names), format!("{database} alice 70 60 5 0"));
    let totals = one(&mut admin, "STATS_TOTALS");
    let names = "query_count xact_count client_parse_count bind_count client_login_count";
    assert_eq!(values(&totals, names), "70 60 5 5 5");
    let sums = show(&mut admin, "TOTALS");
    let sum = sums
        .iter()
        .find(|row| row["name"] == "query_count")
        .unwrap();
    assert_eq!(sum["value"], "70");
    // Averages are those of a whole period: they come, and go when nothing goes on.
    poll(PATIENCE, "an average", || {
        clients[0].query("SELECT 1");
        (one(&mut admin, "STATS")["avg_query_count"] != "0.000").then_some(())
    });
    poll(PATIENCE, "a quiet period", || {
        (one(&mut admin, "STATS")["avg_query_count"] == "0.000").then_some(())
    });
    let latencies = show(&mut admin, "LATENCIES TOTAL");
    let query = latencies
        .iter()
        .find(|row| row["metric"] == "query")
        .unwrap();
    let queries = one(&mut admin, "STATS")["total_query_count"].clone();
    assert_eq!(query["count"], queries);
}

#[test]
fn analysed_statements_are_listed_with_where_they_went_and_forgotten() {
    let postgres = Postgres::shared();
    let shards = [0, 1].map(|shard| postgres.database(&format!("analysed{shard}")));
    let mut config = Config::empty();
    for (number, shard) in shards.iter().enumerate() {
        let lines = format!("shard = {number}\ndatabase_name = {shard:?}");
        config = config.database("analysed", &lines);
        postgres
            .admin(shard)
            .query("CREATE TABLE t (id bigint); GRANT ALL ON t TO alice");
    }
    let pgdog = config
        .more("[[sharded_tables]]\ndatabase = \"analysed\"\nname = \"t\"\ncolumn = \"id\"\n")
        .user("alice", "analysed", &format!("password = {PASSWORD:?}"))
        .admin()
        .start();
    let mut client = pgdog.client("analysed");
    for id in 1..=3 {
        client.query(&format!("SELECT id FROM t WHERE id = {id}"));
    }
    client.query("SELECT count(*) FROM t");
    let mut admin = pgdog.admin();
    let mut listed = |filter: &str| -> Vec<String> {
        let rows = show(&mut admin, &format!("QUERY_CACHE {filter}"));
        let row = |row| values(row, "query hits direct multi");
        rows.iter().map(row).collect()
    };
    let found = listed("'FROM T'");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("where id = ?") || found[0].contains("WHERE id = ?"),
        "{found:?}"
    );
    assert!(found[0].ends_with(" 2 3 0"), "{found:?}");
    assert!(found[1].ends_with(" 0 0 1"), "{found:?}");
    assert_eq!(admin.query("RESET QUERY_CACHE"), "C:RESET_QUERY_CACHE Z:I");
    assert!(show(&mut admin, "QUERY CACHE 'from t'").is_empty());
}

#[test]
fn a_probe_says_how_soon_a_server_answers() {
    let (pgdog, database) = start("probe", "");
    let mut admin = pgdog.admin();
    let port = Postgres::shared().port();
    let url = |password: &str| format!("'postgres://alice:{password}@127.0.0.1:{port}/{database}'");
    admin.send(&query(&format!("PROBE {}", url(PASSWORD))));
    let messages = admin.read_until(b'Z');
    assert_eq!(messages[0].columns(), [("latency".to_owned(), 20)]);
    let latency = messages[1].values()[0].clone().expect("a number");
    assert!(latency.parse::<u64>().is_ok(), "{latency}");
    for (url, reason) in [
        (url("wrong"), "password authentication failed"),
        ("'postgres://alice@127.0.0.1:1/x'".to_owned(), "refused"),
        ("nonsense".to_owned(), "begins with postgres://"),
    ] {
        admin.send(&query(&format!("PROBE {url}")));
        let error = &admin.read_until(b'Z')[0];
        assert_eq!(error.field(b'C'), "08001", "{url}");
        let said = error.field(b'M');
        assert!(
            said.starts_with("probe failed: ") && said.contains(reason),
            "{said}"
        );
    }
}

#[test]
fn prepared_statements_that_nobody_has_are_forgotten_above_the_limit() {
    let (pgdog, database) = start("forget", "prepared_statements_limit = 2\nworkers = 1");
    let mut client = pgdog.client(&database);
    let mut admin = pgdog.admin();
    for number in 0..5 {
        let name = format!("s{number}");
        client.ask(&[parse(&name, &format!("SELECT {number}")), sync()]);
    }
    let known = |admin: &mut Wire| show(admin, "PREPARED").len();
    assert_eq!(admin.query("RESET PREPARED"), "C:RESET_PREPARED Z:I");
    assert_eq!(known(&mut admin), 5, "each is the client's");
    drop(client);
    poll(PATIENCE, "the client to be gone", || {
        let clients = show(&mut admin, "CLIENTS");
        let gone = clients.iter().all(|row| row["user"] != "alice");
        gone.then_some(())
    });
    admin.query("RESET PREPARED");
    assert_eq!(known(&mut admin), 2);
}

#[test]
fn equal_statements_of_several_cores_are_one() {
    let (pgdog, database) = start("admin", "");
    let mut clients: Vec<_> = (0..8).map(|_| pgdog.client(&database)).collect();
    for client in &mut clients {
        client.ask(&[
            parse("mine", "SELECT 'shared'"),
            bind("", "mine", &[]),
            execute("", 0),
            sync(),
        ]);
    }
    let mut admin = pgdog.admin();
    let statement = one(&mut admin, "PREPARED");
    assert_eq!(values(&statement, "statement used_by"), "SELECT 'shared' 8");
    assert!(statement["name"].starts_with("__pgdog_"));
    let clients = show(&mut admin, "CLIENTS prepared_statements");
    let ones = clients
        .iter()
        .filter(|row| row["prepared_statements"] == "1")
        .count();
    assert_eq!(ones, 8);
}
