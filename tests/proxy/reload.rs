//! SIGHUP and RELOAD: what changed is put in force, and nothing else is touched.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::load::Load;
use crate::support::process::{poll, PATIENCE};
use crate::support::sampler::Sampler;
use crate::support::wire::{bind, execute, parse, query, sync, transcript};
use crate::support::{Config, Postgres, Wire};

const ALICE: &str = "password = \"hunter2\"";
const BACKEND: &str = "SELECT pg_backend_pid()";

fn log_in(port: u16, user: &str, database: &str) -> Result<Wire, String> {
    Wire::login(port, user, database, "hunter2").map_err(|refused| {
        let error = refused.0.last().expect("a reason");
        format!("{} {}", error.field(b'C'), error.field(b'M'))
    })
}

#[test]
fn users_and_databases_come_and_go() {
    let (first, second) = (
        Postgres::shared().database("reload"),
        Postgres::shared().database("reload"),
    );
    let one = || {
        Config::empty()
            .database(&first, "pool_size = 1")
            .user("alice", &first, ALICE)
    };
    let both = || one().database(&second, "").user("alice", &second, ALICE);
    let pgdog = one().start();
    let mut stays = pgdog.client(&first);
    let backend = stays.value(BACKEND);
    assert!(log_in(pgdog.port(), "alice", &second).is_err());

    pgdog.reload(&both());
    let mut idle = log_in(pgdog.port(), "alice", &second).unwrap();
    let mut busy = log_in(pgdog.port(), "alice", &second).unwrap();
    let mut kept = log_in(pgdog.port(), "alice", &second).unwrap();
    assert_eq!(busy.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(kept.query("LISTEN news"), "C:LISTEN Z:I");

    // Idle clients are told at once, the others when their transaction has ended.
    pgdog.reload(&one());
    for client in [&mut idle, &mut kept] {
        let error = client.read();
        assert_eq!(error.field(b'S'), "FATAL");
        assert_eq!(error.field(b'C'), "57P01");
        let text = format!("database \"{second}\" was removed from the configuration");
        assert_eq!(error.field(b'M'), text);
        assert_eq!(client.rest(), "");
    }
    assert!(log_in(pgdog.port(), "alice", &second).is_err());
    assert_eq!(busy.query("SELECT 1"), "T D:1 C:SELECT_1 Z:T");
    assert_eq!(busy.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(busy.rest(), "E:57P01");
    poll(PATIENCE, "its servers to be closed", || {
        (Postgres::shared().connections(&second) == 0).then_some(())
    });
    // Whose database stayed has noticed nothing.
    assert_eq!(stays.value(BACKEND), backend);
    pgdog.stop();
}

#[test]
fn a_database_that_goes_and_comes_back_stays_within_its_size() {
    let (first, second) = (
        Postgres::shared().database("reload"),
        Postgres::shared().database("reload"),
    );
    let without = || {
        Config::empty()
            .general("checkout_timeout = 60000")
            .database(&first, "")
            .user("alice", &first, ALICE)
    };
    let with = |size: usize| {
        without()
            .admin()
            .database(&second, &format!("pool_size = {size}\nmin_pool_size = 0"))
            .user("alice", &second, ALICE)
    };
    let pgdog = with(3).start();
    let mut admin = pgdog.admin();
    for size in [3, 2] {
        let mut busy = [(); 3].map(|()| pgdog.client(&second));
        let sampler = Sampler::start(&second);
        for client in &mut busy {
            assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        }
        pgdog.reload(&without().admin());
        pgdog.reload(&with(size));
        // Their connections are still those of the pool.
        let mut new = [(); 3].map(|()| pgdog.client(&second));
        for client in &mut new {
            client.send(&query("SELECT pg_sleep(0.01)"));
        }
        poll(PATIENCE, "all of them to wait", || {
            let clients = admin.rows("SHOW CLIENTS").concat();
            let waiting = clients.iter().filter(|value| *value == "waiting");
            (waiting.count() == 3).then_some(())
        });
        for client in &mut busy {
            assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
        }
        for client in &mut new {
            assert_eq!(client.batches(1), "T D: C:SELECT_1 Z:I");
        }
        // Who had one when the database was away has one from now on like everybody else.
        for client in &mut busy {
            assert_eq!(client.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
        }
        sampler.look(20);
        assert_eq!(sampler.stop(), 3);
        let settled = Sampler::start(&second);
        settled.look(20);
        assert!(settled.stop() <= size);
        pgdog.reload(&without().admin());
        poll(PATIENCE, "its servers to be closed", || {
            (Postgres::shared().connections(&second) == 0).then_some(())
        });
        // What is over is forgotten by the next reload, and comes back as another.
        pgdog.reload(&with(3));
    }
    pgdog.stop();
}

#[test]
fn a_database_that_moves_takes_its_clients_along() {
    let (first, second) = (
        Postgres::shared().database("reload"),
        Postgres::shared().database("reload"),
    );
    let config = |target: &str| {
        Config::empty()
            .general("default_pool_size = 1\ncheckout_timeout = 20000")
            .database("app", &format!("database_name = {target:?}"))
            .user("alice", "app", ALICE)
    };
    let pgdog = config(&first).start();
    let mut busy = pgdog.client("app");
    let mut waiting = pgdog.client("app");
    let mut idle = pgdog.client("app");
    assert_eq!(busy.query("BEGIN"), "C:BEGIN Z:T");
    waiting.send(&query("SELECT current_database()"));
    pgdog.reload(&config(&second));
    // It waited for the old pool, and is served by the new one.
    let messages = waiting.read_until(b'Z');
    assert_eq!(messages[1].values(), [Some(second.clone())]);
    assert_eq!(idle.value("SELECT current_database()"), second);
    assert_eq!(busy.value("SELECT current_database()"), first);
    assert_eq!(busy.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(busy.value("SELECT current_database()"), second);
    poll(PATIENCE, "the old servers to be closed", || {
        (Postgres::shared().connections(&first) == 0).then_some(())
    });
    pgdog.stop();
}

#[test]
fn a_new_password_closes_nothing() {
    let database = Postgres::shared().database("reload");
    let with = |password: &str| {
        Config::empty()
            .general("default_pool_size = 1")
            .database(&database, &format!("user = \"alice\"\n{ALICE}"))
            .user("alice", &database, &format!("password = {password:?}"))
    };
    let pgdog = with("hunter2").start();
    let mut client = pgdog.client(&database);
    let backend = client.value(BACKEND);
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    pgdog.reload(&with("hunter3"));
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(client.value(BACKEND), backend);
    let refused = log_in(pgdog.port(), "alice", &database).err().unwrap();
    assert!(refused.starts_with("28P01"), "{refused}");
    let mut new = Wire::connect(pgdog.port(), "alice", &database, "hunter3");
    assert_eq!(new.value(BACKEND), backend);
    assert!(!pgdog.log().contains("hunter"), "no password in the log");
    pgdog.stop();
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let database = Postgres::shared().database("reload");
    let pgdog = Config::of(&database).start();
    let mut client = pgdog.client(&database);
    let backend = client.value(BACKEND);
    let unknown_algorithm = Config::of(&database).more("[tcp]\ncongestion_control = \"nosuch\"");
    pgdog.reload(&unknown_algorithm);
    pgdog.logged("congestion_control = \"nosuch\"");
    assert!(log_in(pgdog.port(), "alice", &database).is_ok());
    pgdog.reload(&Config::of(&database).general("default_pool_size = 3\nprot = 1"));
    let log = pgdog.log();
    let line = log
        .lines()
        .rfind(|line| line.contains("configuration not changed"));
    let line = line.expect("said so");
    assert!(
        line.contains("pgdog.toml:5") && line.contains("prot"),
        "{line}"
    );
    assert_eq!(client.value(BACKEND), backend);
    assert!(log_in(pgdog.port(), "alice", &database).is_ok());
    pgdog.stop();
}

#[test]
fn a_missing_file_changes_nothing_and_is_named() {
    let database = Postgres::shared().database("reload");
    let config = Config::of(&database).admin();
    let pgdog = config.start();
    let mut admin = pgdog.admin();
    for file in ["users.toml", "pgdog.toml"] {
        pgdog.remove(file);
        assert_eq!(admin.query("RELOAD"), "E:F0000 Z:I");
        let text = format!("{file}: no such file any more");
        pgdog.logged(&text);
        assert!(log_in(pgdog.port(), "alice", &database).is_ok());
        pgdog.rewrite(&config);
    }
    assert_eq!(admin.query("RELOAD"), "C:RELOAD Z:I");
    pgdog.stop();
}

#[test]
fn startup_parameters_and_lifetimes_reach_servers_that_are_there() {
    let database = Postgres::shared().database("reload");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1")
        .start();
    let mut client = pgdog.client(&database);
    let backend = client.value(BACKEND);
    assert_eq!(client.value("SHOW statement_timeout"), "0");
    let config = || {
        Config::empty()
            .database(&database, "statement_timeout = 4321")
            .user("alice", &database, ALICE)
    };
    pgdog.reload(&config().general("default_pool_size = 1"));
    assert_eq!(client.value("SHOW statement_timeout"), "4321ms");
    let second = client.value(BACKEND);
    assert_ne!(
        second, backend,
        "a server says at login only what it is told then"
    );
    assert!(pgdog
        .log()
        .contains("statement_timeout changed from unset to 4321"));
    // An old connection is retired by a lifetime that is news to it.
    pgdog.reload(&config().general("default_pool_size = 1\nserver_lifetime = 1"));
    poll(PATIENCE, "another server", || {
        (client.value(BACKEND) != second).then_some(())
    });
    pgdog.stop();
}

#[test]
fn what_needs_a_restart_is_named() {
    let database = Postgres::shared().database("reload");
    let pgdog = Config::of(&database).start();
    pgdog.reload(&Config::of(&database).general("workers = 1"));
    let log = pgdog.log();
    assert!(
        log.contains("general.workers changed from 0 to 1 (needs a restart)"),
        "{log}"
    );
    pgdog.stop();
}

#[test]
fn prepared_statements_outlive_a_change_of_how_they_are_treated() {
    let database = Postgres::shared().database("reload");
    let config = |level: &str| {
        Config::of(&database).general(&format!(
            "default_pool_size = 2\nprepared_statements = {level:?}"
        ))
    };
    let pgdog = config("extended").start();
    let mut client = pgdog.client(&database);
    assert_eq!(client.ask(&[parse("mine", BACKEND), sync()]), "1 Z:I");
    let mut backends = BTreeSet::new();
    for level in ["disabled", "extended", "full", "disabled"] {
        pgdog.reload(&config(level));
        // Another client takes one of the two servers meanwhile.
        let mut other = pgdog.client(&database);
        other.query("BEGIN");
        client.send(&[bind("", "mine", &[]), execute("", 0), sync()].concat());
        let answer = client.read_until(b'Z');
        backends.extend(answer.iter().flat_map(|message| match message.tag {
            b'D' => message.values(),
            _ => Vec::new(),
        }));
        assert_eq!(transcript(&answer).split(' ').next(), Some("2"));
        other.query("COMMIT");
    }
    assert!(!backends.is_empty());
    pgdog.stop();
}

/// Ten times a second for a minute with `PGDOG_TEST_LONG`, for some seconds without.
#[test]
fn reloads_under_load_are_not_noticed() {
    const SIZE: usize = 4;
    let reloads = match std::env::var_os("PGDOG_TEST_LONG") {
        Some(_) => 600,
        None => 30,
    };
    let database = Postgres::shared().database("reload");
    // What alternates is real, and is no reason to touch a connection.
    let config = |odd: bool| {
        let (idle, hash) = if odd {
            (50_000, "hunter3")
        } else {
            (60_000, "hunter2")
        };
        Config::of(&database)
            .general(&format!(
                "default_pool_size = {SIZE}\nmin_pool_size = {SIZE}\nidle_timeout = {idle}\nlog_connections = {odd}"
            ))
            .user("bob", &database, &format!("password = {hash:?}"))
    };
    let pgdog = config(false).start();
    let backends = || -> BTreeSet<String> {
        let sql = format!(
            "SELECT coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_activity WHERE datname = '{database}' AND usename = 'alice' AND application_name <> 'pgdog check'"
        );
        let pids = Postgres::shared().value("postgres", &sql);
        pids.split(' ').map(str::to_owned).collect()
    };
    let load = Load::start(
        pgdog.port(),
        &database,
        12,
        |client, number, transaction| {
            if transaction == 0 {
                assert_eq!(
                    client.ask(&[parse("mine", "SELECT $1::int"), sync()]),
                    "1 Z:I"
                );
            }
            let value = Some("17");
            match (number + transaction) % 3 {
                0 => assert_eq!(client.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I"),
                1 => {
                    let batch = [bind("", "mine", &[value]), execute("", 0), sync()];
                    assert_eq!(client.ask(&batch), "2 D:17 C:SELECT_1 Z:I");
                }
                _ => {
                    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
                    let batch = [bind("", "mine", &[value]), execute("", 0), sync()];
                    assert_eq!(client.ask(&batch), "2 D:17 C:SELECT_1 Z:T");
                    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
                }
            }
        },
    );
    let before = poll(PATIENCE, "the pool to be full", || {
        Some(backends()).filter(|backends| backends.len() == SIZE)
    });
    let sampler = Sampler::start(&database);
    let begun = Instant::now();
    for number in 1..=reloads {
        pgdog.reload(&config(number % 2 == 1));
        let due = begun + Duration::from_millis(100) * number;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        assert!(!load.has_failed(), "after {number} reloads");
    }
    let took = begun.elapsed();
    load.go_on(100);
    assert_eq!(sampler.stop(), SIZE);
    assert_eq!(backends(), before, "nobody's server was replaced");
    let done = load.stop();
    println!(
        "{reloads} reloads in {took:?}, {done} transactions, no error, the same {SIZE} backends"
    );
    let log = pgdog.log();
    assert_eq!(
        log.matches("configuration reloaded").count(),
        reloads as usize
    );
    assert!(log.contains("general.idle_timeout changed from 60000 to 50000"));
    assert!(!log.contains("hunter"));
    pgdog.stop();
}

#[test]
fn pools_shrink_and_grow_under_load_and_never_pass_their_limit() {
    let database = Postgres::shared().database("reload");
    let config = |size: usize| {
        Config::of(&database).general(&format!(
            "default_pool_size = {size}\ncheckout_timeout = 60000\nlog_connections = false"
        ))
    };
    let pgdog = config(8).start();
    let load = Load::start(pgdog.port(), &database, 24, |client, _, _| {
        assert_eq!(
            client.query("SELECT pg_sleep(0.002)"),
            "T D: C:SELECT_1 Z:I"
        );
    });
    load.go_on(100);
    let mut before = 8;
    for size in [2, 8, 1, 3, 12, 5, 6] {
        let moving = Sampler::start(&database);
        pgdog.reload(&config(size));
        // What one core has to give up may be with another, which hears of it some moments later.
        poll(PATIENCE, "the pool to get smaller for good", || {
            let sampler = Sampler::start(&database);
            sampler.look(30);
            (sampler.stop() <= size).then_some(())
        });
        let most = moving.stop();
        assert!(
            most <= before.max(size),
            "{most} on the way from {before} to {size}"
        );
        poll(
            PATIENCE,
            "as many as are allowed, when there is demand",
            || {
                let settled = Sampler::start(&database);
                load.go_on(100);
                settled.look(20);
                let most = settled.stop();
                assert!(most <= size, "{most} where {size} are allowed");
                (most == size).then_some(())
            },
        );
        before = size;
    }
    // Back and forth faster than connections come back.
    let moving = Sampler::start(&database);
    for size in [1, 6, 2, 5, 1, 6, 3, 6] {
        pgdog.reload(&config(size));
    }
    load.go_on(200);
    moving.look(20);
    assert!(moving.stop() <= 6);
    load.stop();
    pgdog.stop();
}
