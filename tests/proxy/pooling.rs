//! Who gets which server connection, for how long, and what happens to those that break.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::admin::show;
use crate::shards::Shards;
use crate::support::process::{poll, PATIENCE};
use crate::support::sampler::Sampler;
use crate::support::scripted::{one_row, serve};
use crate::support::wire::{bind, execute, parse, query, run, sync, tagged, transcript, Message};
use crate::support::{Config, Postgres, Wire};

const ONE: &str = "T D:1 C:SELECT_1 Z:I";
const BACKEND: &str = "SELECT pg_backend_pid()";

#[test]
fn transaction_mode_shares_servers_between_transactions() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 2")
        .start();
    let mut clients = (0..6).map(|_| pgdog.client(&database)).collect::<Vec<_>>();
    let mut backends = BTreeSet::new();
    for client in &mut clients {
        client.query("BEGIN");
        let backend = client.value(BACKEND);
        assert_eq!(
            client.value(BACKEND),
            backend,
            "a transaction stays on its server"
        );
        client.query("COMMIT");
        backends.insert(backend);
    }
    assert!(backends.len() <= 2, "{backends:?}");
    pgdog.stop();
}

#[test]
fn session_mode_keeps_a_server_until_the_client_leaves() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .general("pooler_mode = \"session\"\ndefault_pool_size = 2\ncheckout_timeout = 20000")
        .start();
    let mut first = pgdog.client(&database);
    let mut second = pgdog.client(&database);
    let backends = [first.value(BACKEND), second.value(BACKEND)];
    assert_ne!(backends[0], backends[1]);
    assert_eq!(first.query("SET statement_timeout = 12345"), "C:SET Z:I");
    assert_eq!(
        first.query("CREATE TEMP TABLE mine (id int)"),
        "C:CREATE_TABLE Z:I"
    );
    assert_eq!([first.value(BACKEND), second.value(BACKEND)], backends);
    assert_eq!(first.value("SHOW statement_timeout"), "12345ms");
    std::thread::scope(|scope| {
        let third = scope.spawn(|| {
            let mut third = pgdog.client(&database);
            assert_eq!(
                third.value("SHOW statement_timeout"),
                "0",
                "a session's settings end with it"
            );
            assert_eq!(third.query("SELECT * FROM mine"), "E:42P01 Z:I");
        });
        drop(first);
        third.join().unwrap();
    });
    pgdog.stop();
}

#[test]
fn statement_mode_has_no_transactions() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .general("pooler_mode = \"statement\"")
        .start();
    let mut client = pgdog.client(&database);
    assert_eq!(client.query("SELECT 1"), ONE);
    assert_eq!(client.query("BEGIN"), "E:0A000 Z:I");
    assert_eq!(client.query("SELECT 1"), ONE);
    assert_eq!(client.ask(&[run("BEGIN", &[]), sync()]), "E:0A000 Z:I");
    assert_eq!(client.query("SELECT 1"), ONE);
    begins_nowhere(&mut client);
    // What is text depends on the session.
    client.query("SET standard_conforming_strings = off");
    let answer = client.query(r"SELECT 'it\'s; BEGIN; --'");
    assert!(answer.contains("D:it's; BEGIN; --"), "{answer}");
    pgdog.stop();
    let shards = Shards::start("statement_mode", "pooler_mode = \"statement\"", "");
    begins_nowhere(&mut shards.client());
    shards.pgdog.stop();
}

/// BEGIN behind other messages of one pipeline is refused as it is in front of all.
fn begins_nowhere(client: &mut Wire) {
    client.query("CREATE TABLE kept (v text)");
    let insert = || run("INSERT INTO kept VALUES ('a')", &[]);
    let begin = || run("BEGIN", &[]);
    let inserted = "1 2 C:INSERT_0_1";
    let batch = [insert(), begin(), insert(), run("COMMIT", &[]), sync()];
    let refused = format!("{inserted} E:0A000 Z:I");
    assert_eq!(client.ask(&batch), refused, "it undoes its batch");
    assert_eq!(client.value("SELECT count(*) FROM kept"), "0");
    let batches = [insert(), sync(), begin(), sync(), insert(), sync()];
    assert_eq!(client.ask(&batches), format!("{inserted} Z:I"));
    assert_eq!(transcript(&client.read_until(b'Z')), "E:0A000 Z:I");
    let last = transcript(&client.read_until(b'Z'));
    assert_eq!(last, format!("{inserted} Z:I"));
    let insert = || query("INSERT INTO kept VALUES ('b')");
    let queries = [insert(), query("BEGIN"), insert(), query("ROLLBACK")];
    assert_eq!(client.ask(&queries), "C:INSERT_0_1 Z:I");
    for answer in ["E:0A000 Z:I", "C:INSERT_0_1 Z:I", "N:25P01 C:ROLLBACK Z:I"] {
        assert_eq!(transcript(&client.read_until(b'Z')), answer);
    }
    assert_eq!(client.value("SELECT count(*) FROM kept"), "4");
    // One that is parsed and not bound before the next batch.
    let parses = [parse("a", "SELECT 1"), parse("b", "BEGIN"), sync()];
    assert_eq!(client.ask(&parses), "1 E:0A000 Z:I");
    let bound = [bind("", "b", &[]), execute("", 0), sync()];
    assert_eq!(client.ask(&bound), "E:26000 Z:I");
}

#[test]
fn sixty_four_cold_session_clients() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .general("pooler_mode = \"session\"\ndefault_pool_size = 100")
        .start();
    let backends = std::thread::scope(|scope| {
        let threads = (0..64).map(|_| {
            scope.spawn(|| {
                let mut client = pgdog.client(&database);
                (client.value(BACKEND), client)
            })
        });
        let threads = threads.collect::<Vec<_>>();
        let served = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>();
        served
            .iter()
            .map(|(backend, _)| backend.clone())
            .collect::<BTreeSet<_>>()
    });
    assert_eq!(backends.len(), 64, "each has a server of its own");
    pgdog.stop();
}

#[test]
fn waiting_clients_are_served_in_order() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1\nworkers = 1\ncheckout_timeout = 20000")
        .start();
    let mut holder = pgdog.client(&database);
    holder.query("CREATE TABLE served (at serial, who int); BEGIN");
    let mut waiting = (0..8).map(|_| pgdog.client(&database)).collect::<Vec<_>>();
    for (number, client) in waiting.iter_mut().enumerate() {
        client.send(&query(&format!(
            "INSERT INTO served (who) VALUES ({number})"
        )));
        // Nothing outside shows that it has queued; it needs a moment of one busy core.
        std::thread::sleep(Duration::from_millis(50));
    }
    holder.query("COMMIT");
    for client in &mut waiting {
        assert_eq!(transcript(&client.read_until(b'Z')), "C:INSERT_0_1 Z:I");
    }
    let order = Postgres::shared().value(
        &database,
        "SELECT string_agg(who::text, '' ORDER BY at) FROM served",
    );
    assert_eq!(order, "01234567");
    pgdog.stop();
}

#[test]
fn one_server_serves_waiting_clients_of_all_cores() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1\ncheckout_timeout = 20000")
        .start();
    let sampler = Sampler::start(&database);
    let mut holder = pgdog.client(&database);
    holder.query("BEGIN");
    let mut waiting = (0..40).map(|_| pgdog.client(&database)).collect::<Vec<_>>();
    for client in &mut waiting {
        client.send(&query("SELECT 1 FROM pg_sleep(0.01)"));
    }
    holder.query("COMMIT");
    for client in &mut waiting {
        assert_eq!(transcript(&client.read_until(b'Z')), ONE);
    }
    assert_eq!(sampler.stop(), 1);
    pgdog.stop();
}

#[test]
fn a_waiter_that_leaves_is_dequeued_at_once() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1\ncheckout_timeout = 20000")
        .start();
    let mut holder = pgdog.client(&database);
    holder.query("CREATE TABLE t (id int); BEGIN");
    let leavers = (0..10).map(|_| pgdog.client(&database)).collect::<Vec<_>>();
    let mut last = pgdog.client(&database);
    for mut leaver in leavers {
        leaver.send(&query("INSERT INTO t SELECT 66 FROM pg_sleep(5)"));
        leaver.reset();
    }
    last.send(&query("SELECT 1"));
    let start = Instant::now();
    holder.query("COMMIT");
    assert_eq!(transcript(&last.read_until(b'Z')), ONE);
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "it waited for those who had left"
    );
    assert_eq!(
        Postgres::shared().value(&database, "SELECT count(*) FROM t"),
        "0"
    );
    pgdog.stop();
}

/// Ends the servers that there are of a database, so many. Others may take their places at once.
fn end_backends(database: &str, count: usize) {
    let postgres = Postgres::shared();
    let sql = format!("SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND application_name <> 'pgdog check'");
    let ended = postgres.admin("postgres").rows(&sql);
    assert_eq!(ended.len(), count);
    let pids: Vec<_> = ended.iter().map(|row| row[0].as_str()).collect();
    let left = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid IN ({})",
        pids.join(",")
    );
    poll(PATIENCE, "the backends to end", || {
        (postgres.value("postgres", &left) == "0").then_some(())
    });
}

#[test]
fn a_backend_closed_while_idle_is_replaced_without_an_error() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 4\nmin_pool_size = 0")
        .admin()
        .start();
    for _ in 0..5 {
        let mut clients = (0..4).map(|_| pgdog.client(&database)).collect::<Vec<_>>();
        clients
            .iter_mut()
            .for_each(|client| assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T"));
        clients
            .iter_mut()
            .for_each(|client| assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I"));
        end_backends(&database, 4);
        for client in &mut clients {
            assert_eq!(client.query("SELECT 1"), ONE);
        }
    }
    // Nor is it listed for long where nobody wants one.
    let mut admin = pgdog.admin();
    let listed = admin.rows("SHOW SERVERS").len();
    assert!(listed > 0);
    end_backends(&database, listed);
    poll(PATIENCE, "an empty list", || {
        admin.rows("SHOW SERVERS").is_empty().then_some(())
    });
    pgdog.stop();
}

/// As soon as they are in the pool, whether nobody has had them yet or they were reset behind a client.
#[test]
fn a_backend_closed_before_the_next_client_is_replaced_without_an_error() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .general("workers = 1\ndefault_pool_size = 2\nmin_pool_size = 2\npooler_mode = \"session\"")
        .admin()
        .start();
    let mut admin = pgdog.admin();
    for _ in 0..5 {
        poll(PATIENCE, "two idle servers", || {
            let servers = show(&mut admin, "SERVERS");
            let idle = servers.iter().all(|server| server["state"] == "idle");
            (servers.len() == 2 && idle).then_some(())
        });
        end_backends(&database, 2);
        let mut clients = [(); 2].map(|()| pgdog.client(&database));
        for client in &mut clients {
            assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
            assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
        }
    }
    pgdog.stop();
}

/// It warns its clients of that, and is gone.
#[test]
fn a_server_that_restarts_at_once_is_replaced_without_an_error() {
    let mut postgres = Postgres::own();
    let database = postgres.database("pooling");
    let pgdog = Config::empty()
        .server(&database, postgres.port(), "")
        .general("workers = 1\nmin_pool_size = 0")
        .user("alice", &database, "password = \"hunter2\"")
        .start();
    for _ in 0..5 {
        let mut clients = [(); 4].map(|()| pgdog.client(&database));
        for sql in ["BEGIN", "COMMIT"] {
            for client in &mut clients {
                assert!(client.query(sql).starts_with(&format!("C:{sql} ")));
            }
        }
        postgres.restart_by(Signal::QUIT);
        for client in &mut clients {
            assert_eq!(client.query("SELECT 1"), ONE);
        }
    }
    pgdog.stop();
}

#[test]
fn a_server_that_dies_mid_query_is_one_error() {
    let postgres = Postgres::shared();
    for recovery in ["drop", "recover"] {
        let database = postgres.database("pooling");
        let pgdog = Config::of(&database)
            .general(&format!(
                "default_pool_size = 1\nclient_connection_recovery = {recovery:?}"
            ))
            .start();
        let mut client = pgdog.client(&database);
        client.send(&query("SELECT 1 FROM pg_sleep(60)"));
        let sleeping = format!(
            "FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
        );
        poll(PATIENCE, "the query to run", || {
            (postgres.value("postgres", &format!("SELECT count(*) {sleeping}")) == "1")
                .then_some(())
        });
        postgres.value(
            "postgres",
            &format!("SELECT pg_terminate_backend(pid) {sleeping}"),
        );
        // The row may have been described already; then one error, and an end or a client that goes on.
        let mut seen = Vec::new();
        while seen
            .last()
            .is_none_or(|message: &Message| message.tag != b'Z')
        {
            let Ok(message) = client.try_read() else {
                break;
            };
            seen.push(message);
        }
        let seen = transcript(&seen);
        assert_eq!(seen.matches("E:").count(), 1, "{seen}");
        if seen.ends_with("Z:I") {
            assert_eq!(client.query("SELECT 1"), ONE);
        }
        assert_eq!(
            pgdog.client(&database).query("SELECT 1"),
            ONE,
            "the pool is not banned"
        );
        pgdog.stop();
    }
}

#[test]
fn a_server_that_closes_mid_reply_is_one_error() {
    let port = serve(|mut peer| {
        let Some(()) = peer.log_in(true) else { return };
        while let Some(message) = peer.read() {
            let reply = one_row("1");
            if message.body.starts_with(b"SELECT 1") {
                peer.send(&reply);
            } else if message.body.starts_with(b"DIE") {
                return peer.send(reply.get(..reply.len() / 2).unwrap());
            }
        }
    });
    let pgdog = Config::empty()
        .server("scripted", port, "")
        .user("alice", "scripted", "password = \"hunter2\"")
        .start();
    let mut client = pgdog.client("scripted");
    assert_eq!(client.query("SELECT 1"), ONE);
    client.send(&query("DIE"));
    let rest = client.rest();
    assert_eq!(rest.matches("E:").count(), 1, "{rest}");
    assert!(rest.ends_with("E:08006"), "{rest}");
    assert_eq!(pgdog.client("scripted").query("SELECT 1"), ONE);
}

/// The server closes, and says so in the same breath as it answers: the client has its answer, and goes on with another.
#[test]
fn a_farewell_behind_an_answer_is_no_answer() {
    let port = serve(|mut peer| {
        let Some(()) = peer.log_in(true) else { return };
        while let Some(message) = peer.read() {
            let mut reply = one_row("1");
            if message.body.starts_with(b"LAST") {
                reply.extend(tagged(b'E', b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0"));
                return peer.send(&reply);
            }
            peer.send(&reply);
        }
    });
    let pgdog = Config::empty()
        .general("default_pool_size = 1")
        .server("scripted", port, "")
        .user("alice", "scripted", "password = \"hunter2\"")
        .start();
    let mut client = pgdog.client("scripted");
    for _ in 0..3 {
        assert_eq!(client.query("LAST"), ONE);
        assert_eq!(client.query("SELECT 1"), ONE);
    }
    pgdog.stop();
}

/// The server closes as soon as it has the client's settings: the request, which has not been sent, has its answer all the same.
#[test]
fn a_server_that_is_gone_before_the_request_is_one_error() {
    let port = serve(|mut peer| {
        let Some(()) = peer.log_in(true) else { return };
        while let Some(message) = peer.read() {
            let ready = tagged(b'Z', b"I");
            match message.tag {
                b'Q' if message.body.starts_with(b"SET") => {
                    peer.send(&[tagged(b'C', b"SET\0"), ready].concat());
                }
                b'Q' if message.body.starts_with(b"SELECT") => peer.send(&one_row("1")),
                b'S' => peer.send(&[tagged(b'C', b"SELECT 1\0"), ready].concat()),
                // Of the pool: settings of nobody.
                b'Q' => return peer.send_last(&[tagged(b'C', b"RESET\0"), ready].concat()),
                _ => {}
            }
        }
    });
    let pgdog = Config::empty()
        .general("default_pool_size = 1\nclient_connection_recovery = \"recover\"")
        .server("scripted", port, "")
        .user("alice", "scripted", "password = \"hunter2\"")
        .start();
    let mut one = pgdog.client("scripted");
    let requests = [query("SELECT 1"), [run("SELECT 1", &[]), sync()].concat()];
    for request in requests {
        // What comes on a busy connection is taken at once, its end with the answer.
        for _ in 0..40 {
            assert_eq!(one.query("SELECT 1"), ONE);
        }
        let mut other = pgdog.client("scripted");
        assert_eq!(one.query("SET work_mem = '1MB'"), "C:SET Z:I");
        assert_eq!(other.ask(&[request]), "E:08006 Z:I");
        assert_eq!(other.query("SELECT 1"), ONE);
    }
    pgdog.stop();
}

#[test]
fn a_server_without_backend_key_data_is_usable() {
    let (told, cancels) = mpsc::channel();
    let port = serve(move |mut peer| {
        if peer.log_in(false).is_none() {
            let _ = told.send(());
            return;
        }
        while let Some(message) = peer.read() {
            if message.tag == b'Q' {
                peer.send(&one_row("1"));
            }
        }
    });
    let pgdog = Config::empty()
        .server("scripted", port, "")
        .user("alice", "scripted", "password = \"hunter2\"")
        .start();
    let mut client = pgdog.client("scripted");
    assert_eq!(client.query("SELECT 1"), ONE);
    Wire::cancel(pgdog.port(), &client.key());
    assert_eq!(client.query("SELECT 1"), ONE);
    assert!(
        cancels.try_recv().is_err(),
        "there is no key to cancel with"
    );
}

#[test]
fn min_pool_size_is_opened_ahead_and_idle_surplus_closed() {
    let postgres = Postgres::shared();
    let database = postgres.database("pooling");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 6\nmin_pool_size = 2\nidle_timeout = 300")
        .start();
    poll(PATIENCE, "two servers", || {
        (postgres.connections(&database) == 2).then_some(())
    });
    let mut clients = (0..6).map(|_| pgdog.client(&database)).collect::<Vec<_>>();
    clients
        .iter_mut()
        .for_each(|client| assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T"));
    assert_eq!(postgres.connections(&database), 6);
    clients
        .iter_mut()
        .for_each(|client| assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I"));
    poll(PATIENCE, "the surplus to be closed", || {
        (postgres.connections(&database) == 2).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(postgres.connections(&database), 2, "the minimum stays");
    pgdog.stop();
}

#[test]
fn old_servers_are_replaced_without_an_error() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 2\nserver_lifetime = 200")
        .start();
    let mut client = pgdog.client(&database);
    let mut backends = BTreeSet::new();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        backends.insert(client.value(BACKEND));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(backends.len() >= 4, "{backends:?}");
    pgdog.stop();
}

#[test]
fn a_low_soft_limit_of_open_files_is_raised() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .general("auth_type = \"plain\"")
        .through(&["sh", "-c", "ulimit -Sn 64; exec \"$0\" \"$@\""])
        .start();
    let mut clients = (0..200)
        .map(|_| pgdog.client(&database))
        .collect::<Vec<_>>();
    for client in &mut clients {
        assert_eq!(client.query("SELECT 1"), ONE);
    }
    pgdog.stop();
}

#[test]
fn a_low_hard_limit_of_open_files_is_warned_of_with_numbers() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .through(&["sh", "-c", "ulimit -n 200; exec \"$0\" \"$@\""])
        .start();
    assert_eq!(pgdog.client(&database).query("SELECT 1"), ONE);
    let log = pgdog.log();
    let warned = log
        .lines()
        .any(|line| line.contains("WARN") && line.contains("open files") && line.contains("200"));
    assert!(warned, "{log}");
    pgdog.stop();
}

#[test]
fn a_missing_database_fails_the_login_and_nothing_else() {
    let database = Postgres::shared().database("pooling");
    let pgdog = Config::of(&database)
        .database("missing", "")
        .user("alice", "missing", "password = \"hunter2\"")
        .start();
    let refused = Wire::login(pgdog.port(), "alice", "missing", "hunter2")
        .err()
        .expect("it does not exist");
    assert_eq!(refused.0.last().unwrap().field(b'C'), "57P03");
    assert_eq!(pgdog.client(&database).query("SELECT 1"), ONE);
    pgdog.stop();
}
