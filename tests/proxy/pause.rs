//! PAUSE, RESUME, MAINTENANCE, RECONNECT, KILL, DISABLE and the ways to shut down, exact to the transaction.

use std::time::Duration;

use crate::support::load::Load;
use crate::support::process::{poll, PATIENCE};
use crate::support::wire::{parse, query, sync, transcript};
use crate::support::{Config, Pgdog, Postgres, Wire};

const ALICE: &str = "password = \"hunter2\"";
const BACKEND: &str = "SELECT pg_backend_pid()";
const ONE: &str = "T D:1 C:SELECT_1 Z:I";

/// One database, one connection, and pgdog with an administrator in front of it.
fn start(general: &str) -> (Pgdog, String, Wire) {
    let database = Postgres::shared().database("pause");
    let pgdog = Config::of(&database)
        .general(&format!("default_pool_size = 1\n{general}"))
        .admin()
        .start();
    let admin = pgdog.admin();
    (pgdog, database, admin)
}

/// Has the server of this test no client any more?
fn is_empty(database: &str) -> bool {
    Postgres::shared().connections(database) == 0
}

/// Waits until this many clients wait for a server.
fn waiting(admin: &mut Wire, clients: &str) {
    poll(PATIENCE, "clients to wait", || {
        let rows = admin.rows("SHOW POOLS");
        let waiting: u32 = rows.iter().map(|row| row[7].parse::<u32>().unwrap()).sum();
        (waiting.to_string() == clients).then_some(())
    });
}

#[test]
fn pause_lets_transactions_finish_and_others_wait() {
    let (pgdog, database, mut admin) = start("checkout_timeout = 2000");
    let mut busy = pgdog.client(&database);
    let mut other = pgdog.client(&database);
    assert_eq!(busy.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(admin.query("PAUSE"), "C:PAUSE Z:I");
    admin.send(&query("PAUSE WAIT"));
    other.send(&query("SELECT 1"));
    // What has begun goes on, for as long as it likes.
    assert_eq!(busy.query("SELECT 1"), "T D:1 C:SELECT_1 Z:T");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(busy.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(transcript(&admin.read_until(b'Z')), "C:PAUSE Z:I");
    assert!(
        is_empty(&database),
        "PAUSE WAIT is over when the last server has gone"
    );
    // Nothing opens a connection, and checkout_timeout stands still.
    busy.send(&query("SELECT 1"));
    waiting(&mut admin, "2");
    std::thread::sleep(Duration::from_millis(2500));
    assert!(is_empty(&database));
    assert_eq!(admin.query("RESUME"), "C:RESUME Z:I");
    for client in [&mut busy, &mut other] {
        assert_eq!(transcript(&client.read_until(b'Z')), ONE);
    }
    pgdog.stop();
}

#[test]
fn pause_may_concern_one_database_or_user() {
    let (first, second) = (
        Postgres::shared().database("pause"),
        Postgres::shared().database("pause"),
    );
    let mut config = Config::empty().admin();
    for database in [&first, &second] {
        config = config
            .database(database, "pool_size = 2")
            .user("alice", database, ALICE)
            .user("plain_user", database, ALICE);
    }
    let pgdog = config.start();
    let mut admin = pgdog.admin();
    let connect = |user, database| Wire::connect(pgdog.port(), user, database, "hunter2");
    let mut alice = connect("alice", &first);
    let mut bob = connect("plain_user", &first);
    let mut elsewhere = connect("alice", &second);
    assert_eq!(admin.query(&format!("PAUSE alice {first}")), "C:PAUSE Z:I");
    alice.send(&query("SELECT 1"));
    assert_eq!(bob.query("SELECT 1"), ONE);
    assert_eq!(elsewhere.query("SELECT 1"), ONE);
    waiting(&mut admin, "1");
    assert_eq!(admin.query(&format!("PAUSE {first}")), "C:PAUSE Z:I");
    bob.send(&query("SELECT 1"));
    waiting(&mut admin, "2");
    assert_eq!(elsewhere.query("SELECT 1"), ONE);
    assert_eq!(
        admin.query(&format!("RESUME plain_user {first}")),
        "C:RESUME Z:I"
    );
    assert_eq!(transcript(&bob.read_until(b'Z')), ONE);
    waiting(&mut admin, "1");
    // What is paused stays so, whatever is reloaded.
    assert_eq!(admin.query("RELOAD"), "C:RELOAD Z:I");
    waiting(&mut admin, "1");
    assert_eq!(admin.query(&format!("RESUME {first}")), "C:RESUME Z:I");
    assert_eq!(transcript(&alice.read_until(b'Z')), ONE);
    for (command, code) in [
        ("PAUSE nowhere", "E:3D000 Z:I".to_owned()),
        ("KILL nowhere", "E:3D000 Z:I".to_owned()),
        (&format!("PAUSE nobody {first}"), "E:42704 Z:I".to_owned()),
        ("BAN 99", "E:42704 Z:I".to_owned()),
        ("UNBAN 99", "E:42704 Z:I".to_owned()),
    ] {
        assert_eq!(admin.query(command), code, "{command}");
    }
    pgdog.stop();
}

#[test]
fn a_pool_that_comes_while_all_are_paused_is_paused() {
    let (pgdog, database, mut admin) = start("");
    let second = Postgres::shared().database("pause");
    let mut known = pgdog.client(&database);
    assert_eq!(admin.query("PAUSE WAIT"), "C:PAUSE Z:I");
    let config = || {
        Config::of(&database)
            .general("default_pool_size = 1")
            .admin()
    };
    pgdog.reload(
        &config()
            .database(&second, "min_pool_size = 1")
            .user("alice", &second, ALICE),
    );
    std::thread::scope(|scope| {
        // Nothing is known of what the server says at login: the client waits for it.
        let client = scope.spawn(|| pgdog.client(&second).value(BACKEND));
        // What was paused before is so still.
        known.send(&query("SELECT 1"));
        waiting(&mut admin, "2");
        assert!(is_empty(&database) && is_empty(&second));
        assert_eq!(admin.query("RESUME"), "C:RESUME Z:I");
        client.join().expect("it was served");
        assert_eq!(known.batches(1), ONE);
    });
    pgdog.stop();
}

/// The server counts what it committed, the clients what they were told.
#[test]
fn a_restart_of_postgresql_in_a_pause_loses_nothing() {
    let rounds = match std::env::var_os("PGDOG_TEST_LONG") {
        Some(_) => 20,
        None => 2,
    };
    let mut postgres = Postgres::own();
    let database = postgres.database("pause");
    postgres.admin(&database).query(
        "CREATE TABLE done (client int, number int, PRIMARY KEY (client, number)); \
         GRANT ALL ON done TO alice",
    );
    let pgdog = Config::empty()
        .general("default_pool_size = 5\nmin_pool_size = 2\ncheckout_timeout = 20000\nclient_connection_recovery = \"drop\"")
        .server(&database, postgres.port(), "")
        .user("alice", &database, ALICE)
        .admin()
        .start();
    let mut admin = pgdog.admin();
    let load = Load::start(
        pgdog.port(),
        &database,
        20,
        |client, number, transaction| {
            let sql = format!("INSERT INTO done VALUES ({number}, {transaction})");
            match (number + transaction) % 3 {
                0 => assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I"),
                1 => {
                    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
                    assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:T");
                    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
                }
                _ => {
                    let name = format!("insert_{transaction}");
                    assert_eq!(client.ask(&[parse(&name, &sql), sync()]), "1 Z:I");
                    let run = [
                        crate::support::wire::bind("", &name, &[]),
                        crate::support::wire::execute("", 0),
                        crate::support::wire::close(b'S', &name),
                        sync(),
                    ];
                    assert_eq!(client.ask(&run), "2 C:INSERT_0_1 3 Z:I");
                }
            }
        },
    );
    for _ in 0..rounds {
        load.go_on(200);
        assert_eq!(admin.query("PAUSE WAIT"), "C:PAUSE Z:I");
        let connections = postgres.connections(&database);
        assert_eq!(connections, 0, "PostgreSQL is free to go");
        postgres.restart();
        assert!(!load.has_failed());
        assert_eq!(admin.query("RESUME"), "C:RESUME Z:I");
    }
    load.go_on(200);
    let told = load.stop();
    let there = postgres.value(&database, "SELECT count(*) FROM done");
    assert_eq!(there, told.to_string());
    println!("{rounds} restarts, {told} transactions, none lost, none twice");
    pgdog.stop();
}

#[test]
fn maintenance_holds_what_has_not_begun_and_keeps_connections() {
    let (pgdog, database, mut admin) = start("checkout_timeout = 2000");
    let mut busy = pgdog.client(&database);
    let mut other = pgdog.client(&database);
    assert_eq!(busy.query("BEGIN"), "C:BEGIN Z:T");
    let backend = busy.value(BACKEND);
    let on = format!("MAINTENANCE ON {database}");
    assert_eq!(admin.query(&on), format!("C:{} Z:I", on.replace(' ', "_")));
    other.send(&query(BACKEND));
    assert_eq!(busy.query("COMMIT"), "C:COMMIT Z:I");
    busy.send(&query(BACKEND));
    assert_eq!(admin.query("RELOAD"), "C:RELOAD Z:I");
    // RESUME is about something else.
    assert_eq!(admin.query("RESUME"), "C:RESUME Z:I");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(Postgres::shared().connections(&database), 1);
    for client in [&mut busy, &mut other] {
        assert!(client.is_silent(), "held");
    }
    assert_eq!(admin.query("MAINTENANCE OFF"), "C:MAINTENANCE_OFF Z:I");
    for client in [&mut busy, &mut other] {
        let answer = client.read_until(b'Z');
        assert_eq!(answer[1].values(), [Some(backend.clone())]);
    }
    pgdog.stop();
}

#[test]
fn reconnect_replaces_servers_between_transactions() {
    let (pgdog, database, mut admin) = start("");
    let mut client = pgdog.client(&database);
    let first = client.value(BACKEND);
    assert_eq!(admin.query("RECONNECT"), "C:RECONNECT Z:I");
    let second = client.value(BACKEND);
    assert_ne!(first, second);
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(client.value(BACKEND), second);
    assert_eq!(
        admin.query(&format!("RECONNECT {database}")),
        "C:RECONNECT Z:I"
    );
    assert_eq!(client.value(BACKEND), second, "not within a transaction");
    // Whoever wants to know when it is done asks so.
    admin.send(&query("WAIT_CLOSE"));
    std::thread::sleep(Duration::from_millis(200));
    assert!(admin.is_silent());
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(transcript(&admin.read_until(b'Z')), "C:WAIT_CLOSE Z:I");
    assert_ne!(client.value(BACKEND), second);
    pgdog.stop();
}

#[test]
fn kill_ends_clients_and_servers_at_once() {
    let (pgdog, database, mut admin) = start("");
    let mut busy = pgdog.client(&database);
    let mut idle = pgdog.client(&database);
    let mut waits = pgdog.client(&database);
    busy.send(&query("SELECT pg_sleep(600)"));
    poll(PATIENCE, "the statement to run", || {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND state = 'active'");
        (Postgres::shared().value("postgres", &sql) == "1").then_some(())
    });
    waits.send(&query("SELECT 1"));
    waiting(&mut admin, "1");
    assert_eq!(admin.query(&format!("KILL {database}")), "C:KILL Z:I");
    for client in [&mut busy, &mut idle, &mut waits] {
        let error = client.read();
        assert_eq!(error.field(b'S'), "FATAL");
        assert_eq!(error.field(b'C'), "57P01");
        assert_eq!(error.field(b'M'), "terminated by administrator");
        assert_eq!(client.rest(), "");
    }
    poll(PATIENCE, "its server to go, too", || {
        is_empty(&database).then_some(())
    });
    // New clients are let in, and wait.
    let mut new = pgdog.client(&database);
    new.send(&query("SELECT 1"));
    waiting(&mut admin, "1");
    assert_eq!(admin.query("RESUME"), "C:RESUME Z:I");
    assert_eq!(transcript(&new.read_until(b'Z')), ONE);
    pgdog.stop();
}

#[test]
fn kill_client_ends_one() {
    let (pgdog, database, mut admin) = start("");
    let mut victim = pgdog.client(&database);
    let mut other = pgdog.client(&database);
    assert_eq!(victim.query("BEGIN"), "C:BEGIN Z:T");
    let backend = victim.value(BACKEND);
    let key = victim.key();
    let id = i32::from_be_bytes(key[..4].try_into().unwrap());
    assert_eq!(
        admin.query(&format!("KILL_CLIENT {id}")),
        "C:KILL_CLIENT Z:I"
    );
    assert_eq!(victim.rest(), "E:57P01");
    assert_ne!(other.value(BACKEND), backend, "its server was closed");
    assert_eq!(admin.query(&format!("KILL_CLIENT {id}")), "E:42704 Z:I");
    assert_eq!(admin.query("KILL_CLIENT 99999999999"), "E:42704 Z:I");
    assert_eq!(other.query("SELECT 1"), ONE);
    pgdog.stop();
}

#[test]
fn disable_keeps_new_clients_out() {
    let (pgdog, database, mut admin) = start("");
    let mut client = pgdog.client(&database);
    assert_eq!(admin.query(&format!("DISABLE {database}")), "C:DISABLE Z:I");
    let refused = Wire::login(pgdog.port(), "alice", &database, "hunter2");
    let error = refused.err().unwrap().0.pop().unwrap();
    assert_eq!(error.field(b'C'), "57P03");
    assert_eq!(
        error.field(b'M'),
        format!("database \"{database}\" is disabled")
    );
    // Who does not know the password is not told.
    let refused = Wire::login(pgdog.port(), "alice", &database, "wrong");
    assert_eq!(refused.err().unwrap().0.pop().unwrap().field(b'C'), "28P01");
    assert_eq!(client.query("SELECT 1"), ONE);
    assert_eq!(admin.query(&format!("ENABLE {database}")), "C:ENABLE Z:I");
    assert_eq!(pgdog.client(&database).query("SELECT 1"), ONE);
    pgdog.stop();
}

#[test]
fn reload_says_what_is_wrong() {
    let (pgdog, database, mut admin) = start("");
    pgdog.rewrite(&Config::of(&database).general("prot = 1").admin());
    admin.send(&query("RELOAD"));
    let answer = admin.read_until(b'Z');
    assert_eq!(transcript(&answer), "E:F0000 Z:I");
    assert_eq!(answer[0].field(b'M'), "configuration not changed");
    let detail = answer[0].field(b'D');
    assert!(
        detail.contains("pgdog.toml:4") && detail.contains("prot"),
        "{detail}"
    );
    pgdog.rewrite(
        &Config::of(&database)
            .general("default_pool_size = 3")
            .admin(),
    );
    assert_eq!(admin.query("RELOAD"), "C:RELOAD Z:I");
    assert!(pgdog
        .log()
        .contains("general.default_pool_size changed from 1 to 3"));
    pgdog.stop();
}

#[test]
fn shutdown_waits_for_whom_it_is_told_to() {
    // As SIGINT: transactions may finish.
    let (mut pgdog, database, mut admin) = start("");
    let mut busy = pgdog.client(&database);
    let mut idle = pgdog.client(&database);
    assert_eq!(busy.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(admin.query("SHUTDOWN"), "C:SHUTDOWN Z:I");
    assert_eq!(idle.rest(), "E:57P01");
    assert_eq!(busy.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(busy.rest(), "E:57P01");
    assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));

    // The same, but they may take longer than shutdown_timeout.
    let (mut pgdog, database, mut admin) = start("shutdown_timeout = 1");
    let mut busy = pgdog.client(&database);
    assert_eq!(busy.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(admin.query("SHUTDOWN WAIT_FOR_SERVERS"), "C:SHUTDOWN Z:I");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(busy.query("SELECT 1"), "T D:1 C:SELECT_1 Z:T");
    assert_eq!(busy.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(busy.rest(), "E:57P01");
    assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));

    // Clients go on as they like, and nobody else comes in.
    let (mut pgdog, database, mut admin) = start("shutdown_timeout = 1");
    let mut client = pgdog.client(&database);
    assert_eq!(admin.query("SHUTDOWN WAIT_FOR_CLIENTS"), "C:SHUTDOWN Z:I");
    poll(PATIENCE, "logins to be refused", || {
        let refused = Wire::login(pgdog.port(), "alice", &database, "hunter2").err()?;
        (refused.0.last()?.field(b'C') == "57P03").then_some(())
    });
    for _ in 0..20 {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(client);
    assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));

    // A signal does not wait any longer than a signal does.
    let (mut pgdog, database, mut admin) = start("");
    let mut client = pgdog.client(&database);
    assert_eq!(admin.query("SHUTDOWN WAIT_FOR_CLIENTS"), "C:SHUTDOWN Z:I");
    assert_eq!(client.query("SELECT 1"), ONE);
    pgdog.signal(rustix::process::Signal::TERM);
    assert_eq!(client.rest(), "E:57P01");
    assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));
}
