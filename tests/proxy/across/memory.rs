//! What statements over shards may hold: each, all together, and beside clients that are slow.

use super::super::shards::Shards;
use super::super::support::process::{poll, PATIENCE};
use super::super::support::wire::{bind, execute, parse, query, sync};
use super::filled_with;

/// Rows that are all here until the last is fetched, of about 9 MB.
const WIDE: &str = "UPDATE users SET age = age RETURNING id, repeat('x', 100000)";

#[test]
fn all_statements_together_have_a_budget() {
    let general = "workers = 1\ncross_shard_memory = 36000000";
    let (_, shards) = filled_with("memory", "", general);
    let (mut first, mut second) = (shards.client(), shards.client());
    let hold = [parse("", WIDE), bind("c", "", &[]), execute("c", 1), sync()].concat();
    // What follows the last row.
    let ends = |reply: String| match reply.rsplit_once("D:") {
        Some((_, row)) => row
            .split_once(' ')
            .map_or_else(String::new, |(_, end)| end.to_owned()),
        None => reply,
    };
    for begin in [&mut first, &mut second] {
        assert_eq!(begin.query("BEGIN"), "C:BEGIN Z:T");
    }
    assert_eq!(ends(first.ask(&[hold])), "s Z:T");
    let sql =
        "SELECT DISTINCT u.id + 0, n, repeat('x', 1000) FROM users u, generate_series(1, 300) n";
    assert!(second.query(sql).ends_with("E:53200 Z:E"));
    assert_eq!(second.query("ROLLBACK"), "C:ROLLBACK Z:I");
    // Who needs little is served, and so is who waits for rows.
    assert_eq!(
        second.query("SELECT count(*) FROM users"),
        "T D:90 C:SELECT_1 Z:I"
    );
    let sorted =
        "SELECT u.id, repeat('x', 1000) FROM users u, generate_series(1, 200) ORDER BY u.id";
    second.send(&query(sorted));
    let rows = second.read_until(b'Z');
    assert_eq!(rows.iter().filter(|row| row.tag == b'D').count(), 18_000);
    // What is held is given back.
    let rest = ends(first.ask(&[[execute("c", 0), sync()].concat()]));
    assert_eq!(rest, "C:UPDATE_89 Z:T");
    assert_eq!(first.query("ROLLBACK"), "C:ROLLBACK Z:I");
    second.send(&query(sql));
    let rows = second.read_until(b'Z');
    assert_eq!(rows.iter().filter(|row| row.tag == b'D').count(), 27_000);
    shards.pgdog.stop();
}

#[test]
fn values_of_bound_portals_count() {
    let general = "workers = 1\ncross_shard_memory = 36000000";
    let (_, shards) = filled_with("memory_bound", "", general);
    let mut client = shards.client();
    let value = "x".repeat(10_000_000);
    let sql = "SELECT count(*) FROM users WHERE name <> $1";
    let hold = |portal| [parse("", sql), bind(portal, "", &[Some(&value)]), sync()];
    for _ in 0..2 {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        for portal in ["a", "b", "c"] {
            assert_eq!(client.ask(&hold(portal)), "1 2 Z:T");
        }
        assert_eq!(client.ask(&hold("d")), "1 E:53200 Z:E");
        // What was held is given back.
        assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    }
    shards.pgdog.stop();
}

const TABLE: &str =
    "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"wide\"\ncolumn = \"id\"\n";

/// Bytes of the sorted result, and what pgdog may grow by meanwhile, in kB: a gigabyte under PGDOG_TEST_LONG.
fn sizes() -> (usize, u64) {
    match std::env::var_os("PGDOG_TEST_LONG") {
        Some(_) => (1 << 30, 64 * 1024),
        None => (96 << 20, 32 * 1024),
    }
}

#[test]
fn a_sorted_result_streams_to_a_client_that_is_slow() {
    const ROW: usize = 8_000;
    let (bytes, growth_max_kb) = sizes();
    let shards = Shards::start("memory_sorted", "", TABLE);
    let mut client = shards.client();
    client.query("CREATE TABLE wide (id int PRIMARY KEY, word text)");
    let rows = bytes / ROW;
    for number in 0..3 {
        let sql = format!("INSERT INTO wide SELECT n, md5(n::text) FROM generate_series(1, {rows}) n WHERE n % 3 = {number}");
        shards.shard(number).query(&sql);
    }
    let before_kb = shards.pgdog.forget_peak();
    let sql = format!(
        "SELECT id, repeat(word, {}) FROM wide ORDER BY id",
        ROW / 32
    );
    client.send(&query(&sql));
    // Until nothing can be sent any more.
    for number in 0..3 {
        let mut shard = shards.shard(number);
        let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'ClientWrite'";
        poll(PATIENCE, "a server that waits to send", || {
            (shard.value(blocked) == "1").then_some(())
        });
    }
    let mut expected = 1;
    loop {
        let message = client.read();
        match message.tag {
            b'D' => {
                assert_eq!(
                    message.body.len(),
                    2 + 4 + expected.to_string().len() + 4 + ROW
                );
                let id = &message.body[6..6 + expected.to_string().len()];
                assert_eq!(id, expected.to_string().as_bytes());
                expected += 1;
            }
            b'E' => panic!("{message:?} after {expected} rows"),
            b'Z' => break,
            _ => {}
        }
    }
    assert_eq!(expected, rows + 1);
    let growth_kb = shards.pgdog.peak_kb().saturating_sub(before_kb);
    println!("{bytes} bytes, sorted: pgdog grew by {growth_kb} kB");
    assert!(growth_kb < growth_max_kb, "grew by {growth_kb} kB");
    shards.pgdog.stop();
}
