//! Clients change cores, with all that they have, and notice nothing.

use std::collections::BTreeMap;
use std::process::Stdio;

use crate::support::load::Load;
use crate::support::process::{poll, Process, PATIENCE};
use crate::support::programs::{client_program, pgbench_tables};
use crate::support::wire::{bind, execute, parse, query, sync};
use crate::support::{Certificates, Config, Pgdog, Postgres, Wire};

use super::shards::{all, Shards};

/// What the first core serves alone, and what two share.
const ONE: &str = "workers = 2\nclients_per_core = 64";
const BOTH: &str = "workers = 2\nclients_per_core = 1";

/// Clients of each core, that of an administrator left out; and how many have come from the other one.
fn cores(admin: &mut Wire) -> Vec<(usize, usize)> {
    let rows = admin.rows("SHOW CORES");
    let number = |text: &String| text.parse::<usize>().unwrap();
    let mut cores: Vec<_> = rows
        .iter()
        .map(|row| (number(&row[2]), number(&row[10])))
        .collect();
    cores[0].0 -= 1; // this one came first
    cores
}

fn start(general: &str) -> (Pgdog, Config, String, Wire) {
    let database = Postgres::shared().database("spread");
    let config = Config::of(&database).admin();
    let pgdog = config.clone().general(general).start();
    let admin = pgdog.admin();
    (pgdog, config, database, admin)
}

/// Waits until so many have moved to the second core.
fn await_moves(admin: &mut Wire, count: usize) {
    poll(PATIENCE, "clients to move", || {
        (cores(admin)[1].1 >= count).then_some(())
    });
}

#[test]
fn few_clients_have_the_first_core_and_many_have_all() {
    let (pgdog, config, database, mut admin) = start(ONE);
    let mut clients: Vec<_> = (0..10).map(|_| pgdog.client(&database)).collect();
    assert_eq!(cores(&mut admin), [(10, 0), (0, 0)]);
    pgdog.reload(&config.general(BOTH));
    poll(PATIENCE, "clients to spread", || {
        let cores = cores(&mut admin);
        // An administrator of the first core counts as a client of it.
        (cores[0].0.abs_diff(cores[1].0) <= 2).then_some(())
    });
    for client in &mut clients {
        assert_eq!(client.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    }
    pgdog.stop();
}

#[test]
fn a_client_takes_along_what_it_has_set_and_prepared() {
    let full = "prepared_statements = \"full\"";
    let (pgdog, config, database, mut admin) = start(&format!("{ONE}\n{full}"));
    let mut clients: Vec<_> = (0..6).map(|_| pgdog.client(&database)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.query(&format!("SET work_mem = '{}kB'", 100 + n));
        client.query(&format!("SET application_name = 'app{n}'"));
        client.query(&format!("PREPARE q (int) AS SELECT $1 * {n}"));
        let named = parse("p", &format!("SELECT $1::int + {n}"));
        assert_eq!(client.ask(&[named, sync()]), "1 Z:I");
        let unnamed = parse("", &format!("SELECT $1::int - {n}"));
        assert_eq!(client.ask(&[unnamed, sync()]), "1 Z:I");
    }
    pgdog.reload(&config.general(BOTH).general(full));
    await_moves(&mut admin, 3);
    for (n, client) in clients.iter_mut().enumerate() {
        let run = |name: &str| [bind("", name, &[Some("100")]), execute("", 0), sync()];
        let answer = |value: usize| format!("2 D:{value} C:SELECT_1 Z:I");
        assert_eq!(client.ask(&run("")), answer(100 - n));
        assert_eq!(client.ask(&run("p")), answer(100 + n));
        assert_eq!(client.value("EXECUTE q (100)"), (100 * n).to_string());
        assert_eq!(client.value("SHOW work_mem"), format!("{}kB", 100 + n));
        client.query("RESET work_mem");
        assert_eq!(client.value("SHOW work_mem"), "4MB");
    }
    let mut names = BTreeMap::new();
    for client in admin.rows("SHOW CLIENTS") {
        *names.entry(client[18].clone()).or_insert(0) += 1;
    }
    for n in 0..6 {
        assert_eq!(names.get(&format!("app{n}")), Some(&1), "{names:?}");
    }
    pgdog.stop();
}

#[test]
fn a_client_that_has_moved_is_found_by_its_key_and_its_number() {
    let (pgdog, config, database, mut admin) = start(ONE);
    let mut clients: Vec<_> = (0..6).map(|_| pgdog.client(&database)).collect();
    pgdog.reload(&config.general(BOTH));
    await_moves(&mut admin, 3);
    for client in &mut clients {
        client.send(&query("SELECT pg_sleep(60)"));
        poll(PATIENCE, "the statement to be cancelled", || {
            Wire::cancel(pgdog.port(), &client.key());
            (!client.is_silent()).then_some(())
        });
        client.expect_cancelled('I');
    }
    let ids = admin.rows("SHOW CLIENTS");
    let ids = ids.iter().filter(|row| row[2] == database);
    let ids: Vec<_> = ids.map(|row| row[0].clone()).collect();
    assert_eq!(ids.len(), 6);
    for id in ids {
        assert_eq!(
            admin.query(&format!("KILL_CLIENT {id}")),
            "C:KILL_CLIENT Z:I"
        );
    }
    for mut client in clients {
        assert_eq!(client.rest(), "E:57P01");
    }
    // Whoever is gone is forgotten at home, too, and others come.
    assert_eq!(pgdog.client(&database).value("SELECT 1"), "1");
    pgdog.stop();
}

#[test]
fn a_client_stays_while_a_transaction_or_a_server_is_its_own() {
    let (pgdog, config, database, mut admin) = start(ONE);
    let mut clients: Vec<_> = (0..6).map(|_| pgdog.client(&database)).collect();
    let mut wishes = clients.iter_mut();
    let (first, second) = (wishes.next().unwrap(), wishes.next().unwrap());
    assert_eq!(
        first.query("BEGIN; SET LOCAL work_mem = '99kB'"),
        "C:BEGIN C:SET Z:T"
    );
    assert_eq!(
        second.query("CREATE TEMPORARY TABLE mine (id int)"),
        "C:CREATE_TABLE Z:I"
    );
    for other in wishes {
        assert_eq!(other.query("BEGIN"), "C:BEGIN Z:T");
    }
    pgdog.reload(&config.general(BOTH));
    // The second core takes new clients meanwhile.
    let mut late: Vec<_> = (0..4).map(|_| pgdog.client(&database)).collect();
    poll(PATIENCE, "the second core to serve", || {
        (cores(&mut admin)[1].0 > 0).then_some(())
    });
    assert_eq!(clients[0].value("SHOW work_mem"), "99kB");
    assert_eq!(clients[0].query("COMMIT"), "C:COMMIT Z:I");
    for client in &mut clients[2..] {
        assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    }
    drop(late.drain(..2));
    assert_eq!(clients[1].query("SELECT * FROM mine"), "T C:SELECT_0 Z:I");
    for client in clients.iter_mut().chain(&mut late) {
        assert_eq!(client.value("SELECT 1"), "1");
    }
    pgdog.stop();
}

/// In session mode a client keeps its server from its first request on: it is spread before that.
#[test]
fn clients_in_session_mode_are_spread_as_they_come() {
    let general = format!("{ONE}\npooler_mode = \"session\"");
    let (pgdog, _, database, mut admin) = start(&general);
    let mut clients: Vec<_> = (0..10).map(|_| pgdog.client(&database)).collect();
    for client in &mut clients {
        assert_eq!(
            client.query("CREATE TEMPORARY TABLE t (id int)"),
            "C:CREATE_TABLE Z:I"
        );
    }
    let cores = cores(&mut admin);
    assert!(cores[0].0 >= 3 && cores[1].0 >= 3, "{cores:?}");
    for client in &mut clients {
        assert_eq!(client.query("SELECT * FROM t"), "T C:SELECT_0 Z:I");
    }
    pgdog.stop();
}

/// To the second core and back while they work, plain and encrypted, and while others come and go.
#[test]
fn clients_at_work_change_cores() {
    let certificates = Certificates::shared();
    let encrypts = format!(
        "tls_certificate = {:?}\ntls_private_key = {:?}",
        certificates.path("server.crt"),
        certificates.path("server.key")
    );
    let (one, both) = (format!("{ONE}\n{encrypts}"), format!("{BOTH}\n{encrypts}"));
    let (pgdog, config, database, mut admin) = start(&one);
    pgbench_tables(&database);
    let plain = Load::start(pgdog.port(), &database, 6, |client, number, count| {
        let value = 1000 * number + count;
        if count == 0 {
            let text = "SELECT $1::int, pg_sleep(0.03)";
            assert_eq!(client.ask(&[parse("p", text), sync()]), "1 Z:I");
        }
        let value = value.to_string();
        let bound = bind("", "p", &[Some(&value)]);
        let answer = client.ask(&[bound, execute("", 0), sync()]);
        assert_eq!(answer, format!("2 D:{value}| C:SELECT_1 Z:I"));
    });
    let mut pgbench = client_program("pgbench", pgdog.port(), &database);
    pgbench.env("PGSSLMODE", "require").stderr(Stdio::null());
    pgbench.args([
        "-n", "-S", "-c", "6", "-M", "prepared", "-R", "60", "-T", "600",
    ]);
    let mut encrypted = Process::start("pgbench", "KILL", &mut pgbench);
    plain.go_on(50);
    poll(PATIENCE, "all clients to be there", || {
        (cores(&mut admin)[0].0 >= 12).then_some(())
    });
    pgdog.reload(&config.clone().general(&both));
    await_moves(&mut admin, 5);
    plain.go_on(50);
    // Nobody needs the second core any more: after a while the first has all again, unless logins keep both at work.
    pgdog.reload(&config.general(&one));
    let mut looks = 0;
    poll(PATIENCE, "the second core to be parked", || {
        if looks % 50 == 0 {
            assert_eq!(pgdog.client(&database).value("SELECT 1"), "1");
        }
        looks += 1;
        assert!(!plain.has_failed());
        assert!(encrypted.is_running(), "pgbench has failed");
        (cores(&mut admin)[1].0 == 0).then_some(())
    });
    plain.go_on(50);
    assert!(encrypted.is_running(), "pgbench has failed");
    drop(encrypted);
    plain.stop();
    pgdog.stop();
}

#[test]
fn clients_of_shards_change_cores() {
    let tables = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\ndata_type = \"bigint\"\n";
    let shards = Shards::start("spread", ONE, tables);
    let mut clients: Vec<_> = (0..6).map(|_| shards.client()).collect();
    all(&mut clients[0], &["CREATE TABLE t (id bigint, n int)"]);
    for (n, client) in clients.iter_mut().enumerate() {
        let insert = format!("INSERT INTO t VALUES ({n}, {n})");
        assert_eq!(client.query(&insert), "C:INSERT_0_1 Z:I");
        assert_eq!(client.query("SET statement_timeout = '77s'"), "C:SET Z:I");
        let text = parse("p", "SELECT n FROM t WHERE id = $1");
        assert_eq!(client.ask(&[text, sync()]), "1 Z:I");
    }
    let mut admin = shards.pgdog.admin();
    shards.reload_general(BOTH, tables);
    await_moves(&mut admin, 3);
    for (n, client) in clients.iter_mut().enumerate() {
        let key = n.to_string();
        let run = [bind("", "p", &[Some(&key)]), execute("", 0), sync()];
        assert_eq!(client.ask(&run), format!("2 D:{n} C:SELECT_1 Z:I"));
        assert_eq!(client.value("SELECT count(*) FROM t"), "6");
        assert_eq!(client.value("SHOW statement_timeout"), "77s");
        all(client, &["BEGIN", "UPDATE t SET n = n + 0", "COMMIT"]);
    }
    shards.pgdog.stop();
}
