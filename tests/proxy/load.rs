//! pgbench with many more clients than servers: no errors, and never a server connection too many.

use crate::support::programs::{pgbench, pgbench_tables};
use crate::support::sampler::Sampler;
use crate::support::{Config, Postgres};

/// Runs `clients` with `each` transactions on a pool and checks the most server connections ever seen.
fn check(pool_size: usize, clients: &str, each: &str, arguments: &[&str]) {
    let postgres = Postgres::shared();
    let database = postgres.database("load");
    pgbench_tables(&database);
    let pgdog = Config::of(&database)
        .general(&format!(
            "default_pool_size = {pool_size}\ncheckout_timeout = 60000"
        ))
        .start();
    let sampler = Sampler::start(&database);
    let arguments = [&["-c", clients, "-j", "2", "-t", each], arguments].concat();
    let transactions = pgbench(pgdog.port(), &database, &arguments);
    let most = sampler.stop();
    assert!(
        most <= pool_size,
        "{most} server connections, the pool has {pool_size}"
    );
    assert_eq!(most, pool_size, "a pool in demand is used to its size");
    assert!(transactions > 200, "only {transactions} transactions");
    assert!(postgres.connections(&database) <= pool_size);
    pgdog.stop();
}

#[test]
fn two_hundred_clients_select_simple() {
    check(10, "200", "100", &["-S", "-M", "simple"]);
}

#[test]
fn two_hundred_clients_select_extended() {
    check(10, "200", "100", &["-S", "-M", "extended"]);
}

#[test]
fn two_hundred_clients_select_prepared() {
    check(10, "200", "100", &["-S", "-M", "prepared"]);
}

#[test]
fn two_hundred_clients_tpcb_simple() {
    check(10, "200", "10", &["-M", "simple"]);
}

#[test]
fn two_hundred_clients_tpcb_extended() {
    check(10, "200", "10", &["-M", "extended"]);
}

#[test]
fn one_server_for_clients_on_every_core_select() {
    check(1, "50", "100", &["-S", "-M", "extended"]);
}

#[test]
fn one_server_for_clients_on_every_core_tpcb() {
    check(1, "20", "20", &["-M", "simple"]);
}

#[test]
fn clients_that_reconnect_for_every_transaction() {
    let database = Postgres::shared().database("load");
    pgbench_tables(&database);
    let pgdog = Config::of(&database).start();
    let sampler = Sampler::start(&database);
    pgbench(
        pgdog.port(),
        &database,
        &["-S", "-C", "-c", "10", "-j", "2", "-t", "30"],
    );
    assert!(sampler.stop() <= 10);
    pgdog.stop();
}

#[test]
fn two_pools_keep_their_own_sizes() {
    let postgres = Postgres::shared();
    let (small, large) = (postgres.database("load"), postgres.database("load"));
    let password = "password = \"hunter2\"";
    let pgdog = Config::empty()
        .database(&small, "pool_size = 2")
        .database(&large, "pool_size = 5")
        .user("alice", &small, password)
        .user("alice", &large, password)
        .start();
    for database in [&small, &large] {
        pgbench_tables(database);
    }
    let samplers = [(2, Sampler::start(&small)), (5, Sampler::start(&large))];
    std::thread::scope(|scope| {
        for database in [&small, &large] {
            scope.spawn(|| pgbench(pgdog.port(), database, &["-S", "-c", "20", "-T", "2"]));
        }
    });
    for (pool_size, sampler) in samplers {
        assert!(sampler.stop() <= pool_size);
    }
    for (pool_size, database) in [(2, &small), (5, &large)] {
        let mut clients: Vec<_> = (0..pool_size).map(|_| pgdog.client(database)).collect();
        for client in &mut clients {
            assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        }
        assert_eq!(postgres.connections(database), pool_size);
    }
    pgdog.stop();
}
