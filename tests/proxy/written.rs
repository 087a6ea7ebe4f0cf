//! `read_your_writes`: a client's reads see what it has committed, wherever they run, while replicas are behind.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::process::{poll, PATIENCE};
use crate::support::replicas::SERVERS;
use crate::support::wire::{bind, copy_data, copy_done, execute, parse, run, sync};
use crate::support::{Config, Pgdog, Trio, Wire};

/// Clients that write and read at the same time.
const CLIENTS: usize = 4;

/// pgdog in front of the three, whose roles it finds out.
fn pgdog(trio: &Trio, general: &str) -> Pgdog {
    let mut config = Config::empty().admin().general(&format!(
        "lsn_check_interval = 1000\nlsn_check_timeout = 5000\ncheckout_timeout = 20000\n\
         client_connection_recovery = \"recover\"\nload_balancing_strategy = \"round_robin\"\n{general}"
    ));
    for server in 0..SERVERS {
        config = config.server("app", trio.port(server), "role = \"auto\"");
    }
    config
        .user(ALICE, "app", &format!("password = {PASSWORD:?}"))
        .start()
}

/// The three, and what the tests write to.
fn servers() -> Trio {
    let trio = Trio::start();
    let mut alice = trio.alice(0);
    alice.query("CREATE TABLE t (client int, number int)");
    alice.query(
        "CREATE FUNCTION put(client int, number int) RETURNS int LANGUAGE sql \
         AS 'INSERT INTO t VALUES ($1, $2) RETURNING number'",
    );
    // Stable, and so no reason to ask the primary.
    alice.query("CREATE FUNCTION here() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_setting('port') $$");
    alice.query("CREATE INDEX ON t (client, number)");
    trio.caught_up(0);
    trio
}

/// Has a replica replay nothing until it is resumed.
pub(crate) fn pause(trio: &Trio, server: usize) {
    let mut admin = trio.admin(server, "postgres");
    admin.query("SELECT pg_wal_replay_pause()");
    poll(PATIENCE, "replay to pause", || {
        (admin.value("SELECT pg_get_wal_replay_pause_state()") == "paused").then_some(())
    });
}

pub(crate) fn resume(trio: &Trio, server: usize) {
    let resumed = trio
        .admin(server, "postgres")
        .query("SELECT pg_wal_replay_resume()");
    assert!(resumed.contains("Z:I"), "{resumed}");
}

/// Has a replica replay every commit so much later.
fn delay(trio: &Trio, server: usize, delay: &str) {
    let mut admin = trio.admin(server, "postgres");
    admin.query(&format!(
        "ALTER SYSTEM SET recovery_min_apply_delay = '{delay}'"
    ));
    admin.query("SELECT pg_reload_conf()");
}

/// The ways to write a row, each of which is committed when it is answered.
const WAYS: usize = 9;

fn write(wire: &mut Wire, client: usize, number: usize) {
    let (c, n) = (client.to_string(), number.to_string());
    let values = [Some(c.as_str()), Some(n.as_str())];
    let insert = "INSERT INTO t VALUES ($1::int, $2::int)";
    let literal = format!("INSERT INTO t VALUES ({client}, {number})");
    let answer = match number % WAYS {
        0 => wire.query(&literal),
        1 => wire.ask(&[run(insert, &values), sync()]),
        2 => {
            wire.query("BEGIN");
            wire.query(&literal);
            wire.query("COMMIT")
        }
        3 => wire.query(&format!("SELECT 1; {literal}; SELECT 2")),
        4 => {
            assert_eq!(wire.begin_copy("COPY t FROM STDIN"), "G");
            wire.ask(&[
                copy_data(format!("{client}\t{number}\n").as_bytes()),
                copy_done(),
            ])
        }
        5 => wire.query(&format!("SELECT put({client}, {number})")),
        6 => wire.ask(&[
            parse("", insert),
            bind("", "", &values),
            execute("", 0),
            sync(),
        ]),
        7 => wire.query(&format!("BEGIN; {literal}; COMMIT")),
        _ => {
            // Prepared in one batch, run in another.
            let prepared = wire.ask(&[parse("put", insert), sync()]);
            assert!(prepared.ends_with("1 Z:I"), "{prepared}");
            let done = wire.ask(&[bind("", "put", &values), execute("", 0), sync()]);
            wire.query("DEALLOCATE ALL");
            done
        }
    };
    assert!(
        answer.ends_with("Z:I") && !answer.contains("E:"),
        "{answer}"
    );
}

/// How often the row is there, and the port of the server that says so.
fn read(wire: &mut Wire, client: usize, number: usize) -> (String, String) {
    let sql = "SELECT count(*), here() FROM t WHERE client = $1::int AND number = $2::int";
    let (c, n) = (client.to_string(), number.to_string());
    match number % 3 {
        0 => {
            wire.send(&[run(sql, &[Some(&c), Some(&n)]), sync()].concat());
            let messages = wire.read_until(b'Z');
            let row = messages.iter().find(|message| message.tag == b'D');
            let row = row.unwrap_or_else(|| panic!("{messages:?}")).values();
            (row[0].clone().unwrap(), row[1].clone().unwrap())
        }
        1 => {
            wire.query("BEGIN READ ONLY");
            let row = wire
                .rows(&sql.replace("$1", &c).replace("$2", &n))
                .remove(0);
            wire.query("COMMIT");
            (row[0].clone(), row[1].clone())
        }
        _ => {
            let row = wire
                .rows(&sql.replace("$1", &c).replace("$2", &n))
                .remove(0);
            (row[0].clone(), row[1].clone())
        }
    }
}

/// What became of reads right after writes.
struct Seen {
    /// The row was there once.
    hits: usize,
    /// It was not.
    misses: usize,
    /// Reads that each server answered.
    by_server: [usize; SERVERS],
}

impl Seen {
    fn by_replicas(&self, primary: usize) -> usize {
        let reads: usize = self.by_server.iter().sum();
        reads - self.by_server[primary]
    }
}

/// Clients that write a row and read it, so often each; `amid` runs meanwhile, and gets the number of rounds so far.
fn insert_then_read(
    trio: &Trio,
    port: u16,
    greeting: &'static str,
    (first, rounds): (usize, usize),
    amid: impl FnOnce(&dyn Fn() -> usize),
) -> Seen {
    let done = Arc::new(AtomicUsize::new(0));
    let ports: Vec<_> = (0..SERVERS).map(|server| trio.port(server)).collect();
    let threads = (0..CLIENTS).map(|client| {
        let (done, ports) = (Arc::clone(&done), ports.clone());
        std::thread::spawn(move || {
            let mut wire = Wire::connect(port, ALICE, "app", PASSWORD);
            if !greeting.is_empty() {
                wire.query(greeting);
            }
            let mut seen = Seen {
                hits: 0,
                misses: 0,
                by_server: [0; SERVERS],
            };
            for number in first..first + rounds {
                write(&mut wire, client, number);
                // The second read finds the replica known, or another one.
                for _ in 0..2 {
                    let (count, port) = read(&mut wire, client, number);
                    match &*count {
                        "1" => seen.hits += 1,
                        _ => seen.misses += 1,
                    }
                    let server = ports.iter().position(|known| known.to_string() == port);
                    seen.by_server[server.expect("one of the three")] += 1;
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            seen
        })
    });
    let threads: Vec<_> = threads.collect();
    amid(&|| done.load(Ordering::Relaxed));
    let mut all = Seen {
        hits: 0,
        misses: 0,
        by_server: [0; SERVERS],
    };
    for thread in threads {
        let seen = thread.join().expect("no client fails");
        all.hits += seen.hits;
        all.misses += seen.misses;
        let sums = all.by_server.iter_mut().zip(seen.by_server);
        sums.for_each(|(sum, count)| *sum += count);
    }
    all
}

/// Rounds of each client: 100,000 reads in all under PGDOG_TEST_LONG, few otherwise.
fn rounds() -> usize {
    match std::env::var_os("PGDOG_TEST_LONG") {
        Some(_) => 100_000 / CLIENTS,
        None => 20 * WAYS,
    }
}

#[test]
fn a_clients_reads_see_what_it_has_just_committed_and_most_of_them_run_on_replicas() {
    let trio = servers();
    delay(&trio, 2, "20ms");
    let pgdog = pgdog(
        &trio,
        "read_your_writes = true\nread_your_writes_wait = 1000\nread_write_split = \"exclude_primary\"",
    );
    let rounds = rounds();
    // One replica is behind all the time; for a while it replays nothing, and then the other one does not either.
    let seen = insert_then_read(&trio, pgdog.port(), "", (0, rounds), |done| {
        let all = rounds * CLIENTS;
        let at = |part: usize| {
            poll(PATIENCE * 100, "clients to go on", || {
                (done() >= part).then_some(())
            })
        };
        at(all * 6 / 10);
        pause(&trio, 2);
        at(all * 8 / 10);
        pause(&trio, 1);
        at(all * 85 / 100);
        resume(&trio, 1);
        at(all * 9 / 10);
        resume(&trio, 2);
    });
    println!(
        "{} reads, {} misses, by server {:?}",
        seen.hits + seen.misses,
        seen.misses,
        seen.by_server
    );
    assert_eq!(seen.misses, 0, "of {}", seen.hits);
    assert!(
        seen.by_replicas(0) > seen.by_server[0],
        "{:?}",
        seen.by_server
    );
    pgdog.stop();
}

#[test]
fn without_the_setting_the_same_reads_do_miss() {
    let trio = servers();
    pause(&trio, 2);
    let pgdog = pgdog(&trio, "read_write_split = \"exclude_primary\"");
    let seen = insert_then_read(&trio, pgdog.port(), "", (0, 2 * WAYS), |_| {});
    assert!(seen.misses > 0, "the test above can fail");
    // The setting may be given to one database, and while it runs.
    let answer = pgdog.admin().query("SET read_your_writes TO 'true'");
    assert_eq!(answer, "C:SET Z:I");
    let seen = insert_then_read(&trio, pgdog.port(), "", (2 * WAYS, 2 * WAYS), |_| {});
    assert_eq!(seen.misses, 0, "of {}", seen.hits);
    resume(&trio, 2);
    pgdog.stop();
}

#[test]
fn transactions_that_their_first_statement_decides_see_it_too() {
    let trio = servers();
    pause(&trio, 2);
    let pgdog = pgdog(
        &trio,
        "read_your_writes = true\nread_your_writes_wait = 200\nread_write_strategy = \"aggressive\"",
    );
    let seen = insert_then_read(&trio, pgdog.port(), "", (0, 4 * WAYS), |_| {});
    assert_eq!(seen.misses, 0, "of {}", seen.hits);
    assert!(seen.by_server[1] > 0, "{:?}", seen.by_server);
    // A transaction that reads first, on whatever server, and another that writes after it.
    let mut client = pgdog.client("app");
    for number in 1_000..1_020 {
        client.query("BEGIN");
        client.query(&format!("INSERT INTO t VALUES (0, {number})"));
        client.query("COMMIT");
        client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        let sql = format!("SELECT count(*) FROM t WHERE client = 0 AND number = {number}");
        assert_eq!(client.value(&sql), "1");
        client.query("COMMIT");
    }
    resume(&trio, 2);
    pgdog.stop();
}

#[test]
fn no_wait_is_a_choice_and_leaves_what_is_not_there_yet_to_the_primary() {
    let trio = servers();
    pause(&trio, 1);
    pause(&trio, 2);
    let pgdog = pgdog(
        &trio,
        "read_your_writes = true\nread_your_writes_wait = 0\nread_write_split = \"exclude_primary\"",
    );
    let mut client = pgdog.client("app");
    let port = |server: usize| trio.port(server).to_string();
    let (_, before) = read(&mut client, 0, 2);
    assert_ne!(before, port(0), "nothing is written yet");
    write(&mut client, 0, 0);
    assert_eq!(read(&mut client, 0, 0), ("1".to_owned(), port(0)));
    // Another session has written nothing.
    assert_ne!(read(&mut pgdog.client("app"), 0, 2).1, port(0));
    resume(&trio, 1);
    poll(PATIENCE, "the replica that has it to be read", || {
        let (count, by) = read(&mut client, 0, 0);
        assert_eq!(count, "1");
        (by == port(1)).then_some(())
    });
    resume(&trio, 2);
    pgdog.stop();
}

/// After a promotion a replica may have replayed more of the old timeline than the new primary has written.
#[test]
fn positions_of_a_timeline_that_was_left_prove_nothing() {
    let mut trio = servers();
    // What a replica follows it tells only to those who may see that.
    trio.admin(0, "postgres")
        .query("GRANT pg_read_all_stats TO alice");
    trio.caught_up(0);
    let pgdog = pgdog(
        &trio,
        "read_your_writes = true\nread_write_split = \"exclude_primary\"",
    );
    let mut client = pgdog.client("app");
    write(&mut client, 0, 0);
    assert_eq!(read(&mut client, 0, 0).0, "1");
    // Server 1 does not get what server 2 replays beyond it.
    let mut admin = trio.admin(1, "postgres");
    admin.query("ALTER SYSTEM SET primary_conninfo = ''");
    admin.query("SELECT pg_reload_conf()");
    let port = trio.port(0);
    poll(PATIENCE, "server 1 to be cut off", || {
        let sql = "SELECT count(*) FROM pg_stat_wal_receiver";
        (admin.value(sql) == "0").then_some(())
    });
    let mut alice = Wire::connect(port, ALICE, "app", PASSWORD);
    alice.query("CREATE TABLE lost AS SELECT generate_series(1, 50000) n");
    poll(PATIENCE, "server 2 to have replayed that", || {
        let sql = "SELECT to_regclass('lost') IS NOT NULL";
        (trio.admin(2, "app").value(sql) == "t").then_some(())
    });
    drop(alice);
    trio.kill(0);
    trio.promote(1);
    // Nobody confirms commits any more.
    admin.query("ALTER SYSTEM SET synchronous_standby_names = ''");
    admin.query("SELECT pg_reload_conf()");
    let ahead = trio
        .admin(2, "postgres")
        .value("SELECT (pg_last_wal_replay_lsn() - '0/0')::text");
    // What it had on the one that died.
    poll(PATIENCE, "writes to go on", || {
        client
            .query("INSERT INTO t VALUES (9, 9)")
            .starts_with("C:")
            .then_some(())
    });
    for number in 1..20 {
        write(&mut client, 0, number);
        let written = admin.value("SELECT (pg_current_wal_lsn() - '0/0')::text");
        assert!(written.parse::<u64>().unwrap() < ahead.parse().unwrap());
        assert_eq!(
            read(&mut client, 0, number),
            ("1".to_owned(), trio.port(1).to_string()),
            "server 2 is on the old timeline"
        );
    }
    // With the data of the new primary it serves reads again.
    trio.stop(2);
    trio.rebuild(2, 1);
    poll(PATIENCE, "the replica to be read", || {
        write(&mut client, 0, 20 * WAYS);
        let (count, by) = read(&mut client, 0, 20 * WAYS);
        assert_ne!(count, "0");
        (by == trio.port(2).to_string()).then_some(())
    });
    pgdog.stop();
}
