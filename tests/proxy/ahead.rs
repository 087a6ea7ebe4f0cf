//! A client's settings travel ahead of its request, in the same write; the request runs with them or not at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::cancel::wait_until_running;
use crate::support::postgres::ALICE;
use crate::support::scripted::{one_row, serve, Peer};
use crate::support::wire::{
    bind, copy_data, copy_done, describe, execute, flush, parse, query, run, sync, tagged,
};
use crate::support::{Config, Pgdog, Postgres, Wire};

/// One server for everybody.
fn one_server(general: &str) -> (Pgdog, String) {
    let database = Postgres::shared().database("ahead");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1")
        .general(general)
        .start();
    (pgdog, database)
}

/// Answers to messages of the extended protocol are kept back until a Query has come: whoever waited for them would
/// wait for ever.
fn answer_late(mut peer: Peer) {
    if peer.log_in(true).is_none() {
        return;
    }
    // What the clients send themselves, and each transition when it is made for the first time.
    let mut changes = 0;
    let mut kept = Vec::new();
    while let Some(message) = peer.read() {
        let text = String::from_utf8_lossy(&message.body).replace('\0', "");
        match message.tag {
            b'P' => kept.extend(tagged(b'1', b"")),
            b'B' => kept.extend(tagged(b'2', b"")),
            b'E' => kept.extend(tagged(b'C', b"SET\0")),
            b'Q' if text.contains("SET") => {
                changes += 1;
                if changes > 5 {
                    return;
                }
                let done = [tagged(b'C', b"SET\0"), tagged(b'Z', b"I")].concat();
                peer.send(&done);
            }
            b'Q' => {
                peer.send(&std::mem::take(&mut kept));
                peer.send(&one_row(&text));
            }
            _ => return,
        }
    }
}

/// Two clients whose settings a scripted server has taken, in turns.
fn taking_turns(port: u16) -> (Pgdog, Wire, Wire) {
    let pgdog = Config::empty()
        .general("default_pool_size = 1")
        .server("app", port, "")
        .user(ALICE, "app", "password = \"hunter2\"")
        .start();
    let (mut one, mut other) = (pgdog.client("app"), pgdog.client("app"));
    assert_eq!(one.query("SET work_mem = '1MB'"), "C:SET Z:I");
    assert_eq!(other.query("SET work_mem = '2MB'"), "C:SET Z:I");
    for _ in 0..5 {
        assert_eq!(one.value("SELECT 1"), "SELECT 1");
        assert_eq!(other.value("SELECT 2"), "SELECT 2");
    }
    (pgdog, one, other)
}

#[test]
fn settings_cost_no_round_trip_once_they_are_known_to_be_taken() {
    let port = serve(answer_late);
    let (pgdog, _, _) = taking_turns(port);
    pgdog.stop();
}

#[test]
fn requests_of_every_kind_run_with_their_clients_settings() {
    let (pgdog, database) = one_server("");
    let mut clients = ["1MB", "2MB"].map(|work_mem| {
        let mut client = pgdog.client(&database);
        client.query(&format!(
            "SET work_mem = '{work_mem}'; SET search_path = 'a;b', \"c'd\"; SET my.own = 'é'"
        ));
        client.ask(&[parse("named", "SHOW work_mem"), sync()]);
        client
    });
    clients[0].query("CREATE TABLE public.t (v text)");
    let look = "SHOW work_mem";
    for round in 0..20 {
        for (client, work_mem) in clients.iter_mut().zip(["1MB", "2MB"]) {
            let mut values = Vec::new();
            let mut ask = |messages: &[Vec<u8>]| {
                client.send(&messages.concat());
                let messages = client.read_until(b'Z');
                let rows = messages.iter().filter(|message| message.tag == b'D');
                values.extend(rows.map(|row| row.values()[0].clone().unwrap()));
                crate::support::wire::transcript(&messages)
            };
            match round % 8 {
                0 => drop(ask(&[query(look)])),
                1 => drop(ask(&[run(look, &[]), sync()])),
                2 => drop(ask(&[bind("", "named", &[]), execute("", 0), sync()])),
                3 => {
                    let reply = ask(&[query("BEGIN; SHOW work_mem; ROLLBACK")]);
                    assert!(reply.ends_with("C:ROLLBACK Z:I"), "{reply}");
                }
                4 => {
                    assert_eq!(ask(&[query("BEGIN")]), "C:BEGIN Z:T");
                    ask(&[query(look)]);
                    assert_eq!(ask(&[query("SELECT 1/0")]), "E:22012 Z:E");
                    assert_eq!(ask(&[query("ROLLBACK")]), "C:ROLLBACK Z:I");
                }
                5 => {
                    let batch = [run("SELECT 1/0", &[]), sync(), run(look, &[]), sync()];
                    let reply = ask(&batch);
                    assert!(reply.ends_with("E:22012 Z:I"), "{reply}");
                    ask(&[]);
                }
                6 => {
                    client.send(&[parse("", look), describe(b'S', ""), flush()].concat());
                    assert_eq!(client.expect(3), "1 t T");
                    client.send(&[bind("", "", &[]), execute("", 0), sync()].concat());
                    let messages = client.read_until(b'Z');
                    let row = messages.iter().find(|message| message.tag == b'D').unwrap();
                    values.push(row.values()[0].clone().unwrap());
                }
                _ => {
                    let copy = [
                        query("COPY public.t FROM STDIN"),
                        copy_data(b"x\n"),
                        copy_done(),
                    ];
                    client.send(&copy.concat());
                    assert!(client.batches(1).ends_with("C:COPY_1 Z:I"));
                    values.push(client.value(look));
                }
            }
            assert_eq!(values, [work_mem], "round {round}");
            assert_eq!(client.value("SHOW search_path"), "\"a;b\", \"c'd\"");
            assert_eq!(client.value("SHOW my.own"), "é");
        }
    }
    pgdog.stop();
}

/// A client whose settings are refused, when it asks for this; `recovery`: it may go on after it.
fn check_refused(recovery: bool, request: &[Vec<u8>], batches: usize) {
    let value = if recovery { "recover" } else { "drop" };
    let (pgdog, database) = one_server(&format!("client_connection_recovery = {value:?}"));
    let (role, superuser) = (format!("role_of_{database}"), Postgres::shared());
    let sql = |sql: &str| superuser.admin(&database).query(sql);
    sql(&format!(
        "CREATE ROLE {role}; GRANT {role} TO alice; CREATE TABLE t (v int); GRANT ALL ON t TO PUBLIC"
    ));
    let (mut client, mut other) = (pgdog.client(&database), pgdog.client(&database));
    client.query(&format!("SET ROLE {role}"));
    for _ in 0..3 {
        assert_eq!(other.value("SELECT current_user"), ALICE);
        assert_eq!(client.value("SELECT current_user"), role);
    }
    let backend = other.value("SELECT pg_backend_pid()");
    sql(&format!("REVOKE {role} FROM alice"));
    client.send(&request.concat());
    if recovery {
        let reply = client.batches(batches);
        let expected = vec!["E:22023 Z:I"; batches].join(" ");
        assert_eq!(reply, expected);
    } else {
        assert_eq!(client.rest(), "E:22023");
    }
    assert_eq!(
        other.value("SELECT count(*) FROM t"),
        "0",
        "nothing has run"
    );
    assert_ne!(
        other.value("SELECT pg_backend_pid()"),
        backend,
        "it was closed"
    );
    assert_eq!(other.value("SELECT current_user"), ALICE);
    if recovery {
        sql(&format!("GRANT {role} TO alice"));
        assert_eq!(client.value("SELECT current_user"), role);
    }
    pgdog.stop();
}

/// PostgreSQL says that the settings are made when it answers the request, too.
#[test]
fn a_request_behind_settings_is_cancelled_by_its_client() {
    let (pgdog, database) = one_server("");
    let mut clients = [pgdog.client(&database), pgdog.client(&database)];
    for (client, work_mem) in clients.iter_mut().zip(["1MB", "2MB"]) {
        client.query(&format!("SET work_mem = '{work_mem}'"));
    }
    let sleep = "SELECT pg_sleep(60)";
    for request in [query(sleep), [run(sleep, &[]), sync()].concat()] {
        for _ in 0..2 {
            for (client, work_mem) in clients.iter_mut().zip(["1MB", "2MB"]) {
                assert_eq!(client.value("SHOW work_mem"), work_mem);
            }
        }
        let client = &mut clients[0];
        client.send(&request);
        wait_until_running(client, pgdog.port());
        let reply = client.batches(1);
        assert!(reply.ends_with("E:57014 Z:I"), "{reply}");
        assert_eq!(client.value("SHOW work_mem"), "1MB");
    }
    pgdog.stop();
}

/// The cancel request arrives while the server makes the settings.
#[test]
fn settings_that_are_cancelled_are_the_request_that_is() {
    let cancelled = Arc::<AtomicBool>::default();
    let port = serve(move |mut peer: Peer| {
        if peer.log_in(true).is_none() {
            return cancelled.store(true, Ordering::SeqCst);
        }
        let mut kept = Vec::new();
        while let Some(message) = peer.read() {
            let text = String::from_utf8_lossy(&message.body).replace('\0', "");
            match message.tag {
                b'P' => kept.extend(tagged(b'1', b"")),
                b'B' => kept.extend(tagged(b'2', b"")),
                b'E' => kept.extend(tagged(b'C', b"SET\0")),
                b'Q' if text.contains("SET") => {
                    peer.send(&[tagged(b'C', b"SET\0"), tagged(b'Z', b"I")].concat());
                }
                b'Q' if text == "SELECT 3" && !kept.is_empty() => {
                    while !cancelled.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    peer.send(&tagged(b'E', b"SERROR\0VERROR\0C57014\0Mcancelled\0\0"));
                }
                b'Q' => {
                    peer.send(&std::mem::take(&mut kept));
                    peer.send(&one_row(&text));
                }
                _ => return,
            }
        }
    });
    let (pgdog, mut one, _other) = taking_turns(port);
    one.send(&query("SELECT 3"));
    wait_until_running(&mut one, pgdog.port());
    assert_eq!(one.batches(1), "E:57014 Z:I");
    assert_eq!(one.value("SELECT 1"), "SELECT 1");
    pgdog.stop();
}

#[test]
fn a_request_behind_refused_settings_does_not_run() {
    let insert = "INSERT INTO t VALUES (1)";
    let requests: [(Vec<Vec<u8>>, usize); 6] = [
        (vec![query(insert)], 1),
        (vec![query(&format!("COMMIT; {insert}"))], 1),
        (vec![query(&format!("ROLLBACK; {insert}"))], 1),
        (vec![run(insert, &[]), sync()], 1),
        (vec![run("COMMIT", &[]), run(insert, &[]), sync()], 1),
        (
            vec![run("ROLLBACK", &[]), sync(), run(insert, &[]), sync()],
            2,
        ),
    ];
    for recovery in [true, false] {
        for (request, batches) in &requests {
            check_refused(recovery, request, *batches);
        }
    }
}
