//! Clients that change the same rows on several shards wait for each other, and none for ever: no server would see that
//! two wait for each other on two of them.

use std::sync::Barrier;

use super::shards::Shards;
use super::support::postgres::LOCK_WAITS;
use super::support::process::{poll, PATIENCE};
use super::support::wire::query;
use super::support::Wire;

const TABLE: &str = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\ndata_type = \"bigint\"\n";
const CLIENTS: usize = 6;

fn started(label: &str) -> Shards {
    let shards = Shards::start(label, "workers = 2\ndefault_pool_size = 8", TABLE);
    let mut client = shards.client();
    for sql in [
        "CREATE TABLE o (id int PRIMARY KEY, v int)",
        "INSERT INTO o SELECT g, 0 FROM generate_series(1, 10) g",
        "CREATE TABLE t (id bigint PRIMARY KEY, v int)",
    ] {
        assert!(client.query(sql).starts_with("C:"), "{sql}");
    }
    for id in 0..60 {
        client.query(&format!("INSERT INTO t VALUES ({id}, 0)"));
    }
    shards
}

/// Every client does this so many times, all at once.
fn at_once(shards: &Shards, times: usize, each: impl Fn(&mut Wire) + Sync) {
    let barrier = Barrier::new(CLIENTS);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = shards.client();
                barrier.wait();
                for _ in 0..times {
                    each(&mut client);
                }
            });
        }
    });
}

#[test]
fn rows_that_are_everywhere_are_changed_by_one_after_the_other() {
    let shards = started("order_everywhere");
    at_once(&shards, 40, |client| {
        let answer = client.query("UPDATE o SET v = v + 1 WHERE id = 1");
        assert_eq!(answer, "C:UPDATE_1 Z:I");
    });
    let all = (40 * CLIENTS).to_string();
    let count = "SELECT v FROM o WHERE id = 1";
    assert_eq!(shards.each(count), [&*all; 3]);

    // Read, and then changed by what was read.
    at_once(&shards, 15, |client| {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        let read = client.value("SELECT v FROM o WHERE id = 2 FOR UPDATE");
        let next = read.parse::<usize>().unwrap() + 1;
        let sql = format!("UPDATE o SET v = {next} WHERE id = 2");
        assert_eq!(client.query(&sql), "C:UPDATE_1 Z:T");
        assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    });
    let all = (15 * CLIENTS).to_string();
    assert_eq!(shards.each("SELECT v FROM o WHERE id = 2"), [&*all; 3]);
    shards.pgdog.stop();
}

#[test]
fn rows_of_several_shards_are_changed_by_one_after_the_other() {
    let shards = started("order_several");
    at_once(&shards, 10, |client| {
        // PostgreSQL itself finds rows in another order when they were changed meanwhile; that it sees.
        let mut answer = "E:40P01 Z:I".to_owned();
        while answer == "E:40P01 Z:I" {
            answer = client.query("UPDATE t SET v = v + 1");
        }
        assert_eq!(answer, "C:UPDATE_60 Z:I");
    });
    let mut client = shards.client();
    let all = (10 * CLIENTS).to_string();
    let found = client.query("SELECT min(v), max(v), count(*) FROM t");
    assert_eq!(found, format!("T D:{all}|{all}|60 C:SELECT_1 Z:I"));
    at_once(&shards, 10, |client| {
        let answer =
            client.query("BEGIN; LOCK TABLE t; UPDATE t SET v = v - 1 RETURNING 1; COMMIT");
        assert!(answer.ends_with("C:UPDATE_60 C:COMMIT Z:I"), "{answer}");
    });
    assert_eq!(client.value("SELECT sum(v) FROM t"), "0");

    // Where the first says no, the others are not asked.
    let (shard, sql) = (&mut shards.shard(0), "UPDATE t SET v = 1 / (id - id)");
    let before = shard.value("SELECT count(*) FROM t");
    assert_ne!(before, "0");
    assert_eq!(client.query(sql), "E:22012 Z:I");
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(client.query("SAVEPOINT s"), "C:SAVEPOINT Z:T");
    assert_eq!(client.query(sql), "E:22012 Z:E");
    assert_eq!(client.query("ROLLBACK TO s"), "C:ROLLBACK Z:T");
    assert_eq!(client.query("UPDATE t SET v = 5"), "C:UPDATE_60 Z:T");
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(client.value("SELECT sum(v) FROM t"), "300");
    shards.pgdog.stop();
}

/// A circle over two shards, and one over three clients, of whom one has but one server.
#[test]
fn of_clients_that_wait_for_each_other_one_gives_up() {
    let shards = started("order_circle");
    let on = |shard: usize| shards.shard(shard).value("SELECT min(id) FROM t");
    let keys: Vec<String> = (0..2).map(on).collect();
    let change = |key: &str| format!("UPDATE t SET v = v + 1 WHERE id = {key}");
    // Some of them are on the same core, and some are not.
    for round in 1..=4 {
        let mut clients: Vec<_> = (0..2).map(|_| shards.client()).collect();
        for (client, key) in clients.iter_mut().zip(&keys) {
            assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
            assert_eq!(client.query(&change(key)), "C:UPDATE_1 Z:T");
        }
        let mut third = shards.client();
        third.send(&query(&change(&keys[0])));
        for (client, key) in clients.iter_mut().zip(keys.iter().rev()) {
            client.send(&query(&change(key)));
        }
        // Who gives up has to say so before the other goes on: the rest of its transaction is as it was.
        let end = |client: &mut Wire| {
            let answer = client.expect(2);
            let ended = client.query("COMMIT");
            format!("{answer} {ended}")
        };
        let mut ends: Vec<String> = std::thread::scope(|scope| {
            let ends = clients.iter_mut().map(|client| scope.spawn(|| end(client)));
            let ends: Vec<_> = ends.collect();
            ends.into_iter().map(|end| end.join().unwrap()).collect()
        });
        ends.sort();
        let expected = ["C:UPDATE_1 Z:T C:COMMIT Z:I", "E:40P01 Z:E C:ROLLBACK Z:I"];
        assert_eq!(ends, expected);
        assert_eq!(third.expect(2), "C:UPDATE_1 Z:I");
        let mut client = shards.client();
        let sum = client.value("SELECT sum(v) FROM t");
        assert_eq!(
            sum,
            (3 * round).to_string(),
            "two of who went on, one of the third"
        );
    }
    shards.pgdog.stop();
}

/// A table that is everywhere, a sharded one whose rows may move, and a key of it on each of the first two shards.
fn with_steps(label: &str, general: &str) -> (Shards, [String; 2]) {
    let rewrite = "[rewrite]\nenabled = true\nshard_key = \"rewrite\"\n";
    let shards = Shards::start(label, general, &format!("{TABLE}{rewrite}"));
    let mut client = shards.client();
    for sql in [
        "CREATE TABLE o (id int PRIMARY KEY, v float)",
        "CREATE TABLE t (id bigint PRIMARY KEY, v int)",
    ] {
        assert!(client.query(sql).starts_with("C:"), "{sql}");
    }
    for id in 0..60 {
        client.query(&format!("INSERT INTO t VALUES ({id}, 0)"));
    }
    let keys = [0, 1].map(|shard| shards.shard(shard).value("SELECT min(id) FROM t"));
    (shards, keys)
}

/// What waits for a row that somebody has for itself, and that row.
fn steps(first: &str) -> [(String, String); 2] {
    [
        (
            "INSERT INTO o SELECT 100, random()".to_owned(),
            "INSERT INTO o VALUES (100, 0)".to_owned(),
        ),
        (
            format!("UPDATE t SET id = 1000000 WHERE id = {first}"),
            format!("UPDATE t SET v = 1 WHERE id = {first}"),
        ),
    ]
}

#[test]
fn statements_of_several_steps_do_not_wait_for_ever() {
    let (shards, [first, second]) = with_steps("order_steps", "workers = 2");
    // One has what the other wants on the first shard, and waits for it on the second.
    for (wants, held) in steps(&first) {
        let (mut holder, mut other) = (shards.client(), shards.client());
        let change = format!("UPDATE t SET v = 2 WHERE id = {second}");
        assert_eq!(holder.query("BEGIN"), "C:BEGIN Z:T");
        assert!(holder.query(&held).starts_with("C:"), "{held}");
        assert_eq!(other.query("BEGIN"), "C:BEGIN Z:T");
        assert_eq!(other.query(&change), "C:UPDATE_1 Z:T");
        holder.send(&query(&change));
        poll(PATIENCE, "the holder to wait", || {
            (shards.shard(1).value(LOCK_WAITS) != "0").then_some(())
        });
        assert_eq!(other.query(&wants), "E:40P01 Z:E", "{wants}");
        assert_eq!(other.query("ROLLBACK"), "C:ROLLBACK Z:I");
        assert_eq!(holder.expect(2), "C:UPDATE_1 Z:T");
        assert_eq!(holder.query("ROLLBACK"), "C:ROLLBACK Z:I");
        assert!(other.query(&wants).starts_with("C:"), "{wants}");
    }
    shards.pgdog.stop();
}

#[test]
fn statements_of_several_steps_do_not_wait_for_too_long() {
    let (shards, [first, _]) = with_steps("order_timeout", "query_timeout = 2000");
    let mut client = shards.client();
    for (wants, held) in steps(&first) {
        let mut holder = shards.shard(0);
        holder.query("BEGIN");
        assert!(holder.query(&held).starts_with("C:"), "{held}");
        assert_eq!(client.query(&wants), "E:57014 Z:I", "{wants}");
        holder.query("ROLLBACK");
        assert!(client.query(&wants).starts_with("C:"), "{wants}");
    }
    shards.pgdog.stop();
}
