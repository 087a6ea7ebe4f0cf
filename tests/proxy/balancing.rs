//! Reads spread over replicas with configured roles, which are slow, hang, refuse connections or are not there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::process::{free_port, poll, PATIENCE};
use crate::support::scripted::{one_row, serve};
use crate::support::wire::{query, tagged};
use crate::support::{Config, Pgdog, Wire};

/// A server that answers every query with its name, and nothing at all while it hangs.
struct Named {
    port: u16,
    hangs: Arc<AtomicBool>,
}

fn named(name: &'static str) -> Named {
    let hangs = Arc::new(AtomicBool::new(false));
    let stuck = Arc::clone(&hangs);
    let port = serve(move |mut peer| {
        let wait = || {
            while stuck.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        wait();
        if peer.log_in(true).is_none() {
            return;
        }
        while let Some(message) = peer.read() {
            wait();
            match (message.tag, &*message.body) {
                (b'Q', b"\0") => peer.send(&[tagged(b'I', b""), tagged(b'Z', b"I")].concat()),
                (b'Q', _) => peer.send(&one_row(name)),
                // Settings of a client, in front of its query.
                (b'P', _) => peer.send(&tagged(b'1', b"")),
                (b'B', _) => peer.send(&tagged(b'2', b"")),
                (b'E', _) => peer.send(&tagged(b'C', b"SET\0")),
                (b'S', _) => peer.send(&tagged(b'Z', b"I")),
                (b'X', _) => return,
                _ => {}
            }
        }
    });
    Named { port, hangs }
}

/// A primary and replicas with these ports and lines.
fn start(general: &str, primary: u16, replicas: &[(u16, &str)]) -> Pgdog {
    let mut config = Config::empty()
        .admin()
        .general(general)
        .server("d", primary, "");
    for (port, lines) in replicas {
        config = config.server("d", *port, &format!("role = \"replica\"\n{lines}"));
    }
    config.user("alice", "d", "password = \"hunter2\"").start()
}

const READ: &str = "SELECT now()";
const WRITE: &str = "INSERT INTO t VALUES (1)";

/// Who served so many reads.
fn readers(client: &mut Wire, reads: usize) -> BTreeMap<String, usize> {
    let mut readers = BTreeMap::new();
    for _ in 0..reads {
        *readers.entry(client.value(READ)).or_insert(0) += 1;
    }
    readers
}

fn shares(shares: &[(&str, usize)]) -> BTreeMap<String, usize> {
    shares
        .iter()
        .map(|(name, share)| ((*name).to_owned(), *share))
        .collect()
}

#[test]
fn reads_are_spread_as_the_strategy_says_and_writes_go_to_the_primary() {
    let [p, a, b, spare] = ["p", "a", "b", "spare"].map(named);
    for (general, expected) in [
        ("load_balancing_strategy = \"round_robin\"", shares(&[("p", 100), ("a", 100), ("b", 100)])),
        (
            "load_balancing_strategy = \"round_robin\"\nread_write_split = \"exclude_primary\"",
            shares(&[("a", 150), ("b", 150)]),
        ),
        (
            "load_balancing_strategy = \"weighted_round_robin\"\nread_write_split = \"exclude_primary\"",
            shares(&[("a", 200), ("b", 100)]),
        ),
        ("read_write_split = \"prefer_primary\"", shares(&[("p", 300)])),
        (
            "load_balancing_strategy = \"round_robin\"\nread_write_split = \"include_primary_if_replica_banned\"",
            shares(&[("a", 150), ("b", 150)]),
        ),
    ] {
        let weights = [(a.port, "lb_weight = 200"), (b.port, "lb_weight = 100"), (spare.port, "lb_weight = 0")];
        let pgdog = start(general, p.port, &weights);
        let mut client = pgdog.client("d");
        let got = readers(&mut client, 300);
        // A round may have begun elsewhere.
        let near = |(name, share): (&String, &usize)| {
            got.get(name).is_some_and(|got| got.abs_diff(*share) <= 2)
        };
        assert!(expected.iter().all(near) && got.len() == expected.len(), "{general}: {got:?}");
        assert_eq!(client.value(WRITE), "p");
        // A hint asks for a replica, whatever the split is.
        client.query("SET pgdog.role = 'replica'");
        assert!(!readers(&mut client, 30).contains_key("p"), "{general}");
        pgdog.stop();
    }
}

/// Edge case 67.
#[test]
fn a_replica_that_refuses_connections_is_banned_and_no_client_hears_of_it() {
    let (p, a) = (named("p"), named("a"));
    let down = free_port();
    let general = "read_write_split = \"exclude_primary\"\nidle_healthcheck_interval = 0";
    let pgdog = start(general, p.port, &[(a.port, ""), (down, "")]);
    let mut client = pgdog.client("d");
    assert_eq!(readers(&mut client, 100), shares(&[("a", 100)]));
    let bans = pgdog.admin().rows("SHOW BANS");
    assert_eq!(bans.len(), 1, "{bans:?}");
    assert_eq!(
        (&*bans[0][4], &*bans[0][7]),
        (&*down.to_string(), "cannot connect")
    );
    assert!(bans[0][8].parse::<u64>().is_ok_and(|left| left <= 300_000));
    pgdog.stop();
}

#[test]
fn a_spare_replica_and_the_primary_serve_when_nothing_else_is_left() {
    let [p, a, spare] = ["p", "a", "spare"].map(named);
    let general =
        "read_write_split = \"include_primary_if_replica_banned\"\nidle_healthcheck_delay = 0\n\
         idle_healthcheck_interval = 200\nhealthcheck_timeout = 1000\nconnect_timeout = 1000";
    let pgdog = start(
        general,
        p.port,
        &[(a.port, ""), (spare.port, "lb_weight = 0")],
    );
    let mut client = pgdog.client("d");
    assert_eq!(readers(&mut client, 20), shares(&[("a", 20)]));
    a.hangs.store(true, Ordering::Relaxed);
    poll(PATIENCE, "the primary to serve in its place", || {
        let bans = pgdog.admin().rows("SHOW BANS");
        (bans.len() == 1).then_some(())
    });
    assert_eq!(
        readers(&mut client, 20),
        shares(&[("p", 20)]),
        "it has a weight, the spare one has not"
    );
    a.hangs.store(false, Ordering::Relaxed);
    poll(PATIENCE, "the ban to end", || {
        pgdog.admin().rows("SHOW BANS").is_empty().then_some(())
    });
    assert_eq!(readers(&mut client, 20), shares(&[("a", 20)]));
    pgdog.stop();
}

#[test]
fn a_connection_is_checked_before_it_is_used_and_another_server_serves() {
    let [p, a, b] = ["p", "a", "b"].map(named);
    let general =
        "read_write_split = \"exclude_primary\"\nload_balancing_strategy = \"round_robin\"\n\
         healthcheck_interval = 0\nhealthcheck_timeout = 1000\nidle_healthcheck_interval = 0";
    let pgdog = start(general, p.port, &[(a.port, ""), (b.port, "")]);
    let mut client = pgdog.client("d");
    assert_eq!(readers(&mut client, 10), shares(&[("a", 5), ("b", 5)]));
    let checks = pgdog.admin().rows("SHOW SERVERS");
    let checks = checks
        .iter()
        .map(|row| row[14].parse::<usize>().expect("a count"));
    assert!(
        checks.sum::<usize>() >= 8,
        "all but what had just been opened"
    );
    b.hangs.store(true, Ordering::Relaxed);
    let began = Instant::now();
    assert_eq!(readers(&mut client, 20), shares(&[("a", 20)]));
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "one client waited for the check"
    );
    let bans = pgdog.admin().rows("SHOW BANS");
    assert_eq!((bans.len(), &*bans[0][7]), (1, "health check timed out"));
    b.hangs.store(false, Ordering::Relaxed);
    pgdog.stop();
}

#[test]
fn it_starts_with_servers_down() {
    let a = named("a");
    let (primary, replica) = (free_port(), free_port());
    let general =
        "client_connection_recovery = \"recover\"\nread_write_split = \"exclude_primary\"";
    let pgdog = start(general, primary, &[(a.port, ""), (replica, "")]);
    let mut client = pgdog.client("d");
    assert_eq!(readers(&mut client, 20), shares(&[("a", 20)]));
    assert_eq!(client.query(WRITE), "E:08001 Z:I");
    assert_eq!(
        readers(&mut client, 20),
        shares(&[("a", 20)]),
        "the session goes on"
    );
    pgdog.stop();
    // None that may be read from.
    let p = named("p");
    let pgdog = start(general, p.port, &[(primary, ""), (replica, "")]);
    let mut client = pgdog.client("d");
    assert_eq!(client.query(READ), "E:57P03 Z:I");
    assert_eq!(client.value(WRITE), "p");
    pgdog.stop();
}

#[test]
fn what_the_administrator_bans_is_not_read_and_hears_why() {
    let [p, a] = ["p", "a"].map(named);
    let general =
        "client_connection_recovery = \"recover\"\nread_write_split = \"exclude_primary\"";
    let pgdog = start(general, p.port, &[(a.port, "")]);
    let (mut client, mut admin) = (pgdog.client("d"), pgdog.admin());
    assert_eq!(readers(&mut client, 5), shares(&[("a", 5)]));
    assert_eq!(admin.query("BAN"), "C:BAN Z:I");
    assert_eq!(client.query(READ), "E:57P03 Z:I");
    assert_eq!(client.value(WRITE), "p", "writes go on");
    // A reload keeps what is known.
    assert_eq!(admin.query("RELOAD"), "C:RELOAD Z:I");
    assert_eq!(client.query(READ), "E:57P03 Z:I");
    assert_eq!(admin.query("UNBAN"), "C:UNBAN Z:I");
    assert_eq!(readers(&mut client, 5), shares(&[("a", 5)]));
    pgdog.stop();
}

/// A server that answers what is asked of `t` when it has been asked three times.
fn patient() -> u16 {
    serve(|mut peer| {
        if peer.log_in(true).is_none() {
            return;
        }
        let mut asked = 0;
        while let Some(message) = peer.read() {
            let text = String::from_utf8_lossy(&message.body).into_owned();
            match message.tag {
                b'Q' if text == "\0" => {
                    peer.send(&[tagged(b'I', b""), tagged(b'Z', b"I")].concat());
                }
                b'Q' if text.ends_with(" t\0") => {
                    asked += 1;
                    if asked % 3 == 0 {
                        let answer = [tagged(b'C', b"DONE\0"), tagged(b'Z', b"I")].concat();
                        peer.send(&answer.repeat(3));
                    }
                }
                b'Q' => peer.send(&one_row("x")),
                b'X' => return,
                _ => {}
            }
        }
    })
}

#[test]
fn requests_of_a_pipeline_that_want_the_same_do_not_wait_for_each_other() {
    let general = "read_write_split = \"exclude_primary\"";
    let pgdog = start(general, patient(), &[(patient(), "")]);
    let mut client = pgdog.client("d");
    for sql in ["DELETE FROM t", "SELECT a FROM t", "DELETE FROM t"] {
        client.send(&query(sql).repeat(3));
        assert_eq!(
            client.batches(3),
            "C:DONE Z:I C:DONE Z:I C:DONE Z:I",
            "{sql}"
        );
    }
    pgdog.stop();
}
