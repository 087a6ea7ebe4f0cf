//! What checks of servers find out: roles, bans and lag, and who hears of it.

use std::collections::HashSet;

use crate::failover::{create_table, pgdog, ports, trio_roles};
use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::process::{poll, Stopped, PATIENCE};
use crate::support::wire::{query, transcript};
use crate::support::{Config, Postgres, Trio, Wire};

#[test]
fn roles_bans_and_lag_are_shown() {
    let mut trio = Trio::start();
    let pgdog = pgdog(&trio, "ban_replica_lag_bytes = 100000");
    let mut admin = pgdog.admin();
    let ports = ports(&trio);
    poll(PATIENCE, "roles to be found out", || {
        let roles = trio_roles(&mut admin, &ports);
        (roles == ["primary", "replica", "replica"]).then_some(())
    });
    create_table(&pgdog);
    // BAN and UNBAN of one, which alice's own reads tell.
    let id = |admin: &mut Wire, port: u16| {
        let rows = admin.rows("SHOW POOLS");
        rows.into_iter()
            .find(|row| row[4] == port.to_string())
            .expect("a pool")[0]
            .clone()
    };
    let mut reader = pgdog.client("app");
    reader.query("SET pgdog.role = 'replica'");
    let mut ports_read = |count: usize| -> HashSet<u16> {
        let ports = (0..count).map(|_| reader.value("SELECT inet_server_port()"));
        ports.map(|port| port.parse().expect("a port")).collect()
    };
    assert_eq!(ports_read(100), HashSet::from([ports[1], ports[2]]));
    let banned = id(&mut admin, ports[1]);
    assert_eq!(admin.query(&format!("BAN {banned}")), "C:BAN Z:I");
    assert_eq!(ports_read(50), HashSet::from([ports[2]]));
    let bans = admin.rows("SHOW BANS");
    assert_eq!(bans.len(), 1);
    assert_eq!(
        bans[0][6..],
        ["replica", "administrator", ""].map(str::to_owned)
    );
    assert_eq!(admin.query(&format!("UNBAN {banned}")), "C:UNBAN Z:I");
    assert_eq!(ports_read(100), HashSet::from([ports[1], ports[2]]));
    // One stays behind.
    trio.admin(2, "postgres")
        .query("SELECT pg_wal_replay_pause()");
    let mut writer = pgdog.client("app");
    writer.query("INSERT INTO t SELECT 1, n FROM generate_series(1, 20000) n");
    poll(PATIENCE, "the replica to be banned", || {
        let bans = admin.rows("SHOW BANS");
        bans.iter()
            .any(|row| row[4] == ports[2].to_string() && row[7] == "replica lag")
            .then_some(())
    });
    assert_eq!(ports_read(50), HashSet::from([ports[1]]));
    let rows = admin.rows("SHOW REPLICATION");
    let row = rows
        .iter()
        .find(|row| row[4] == ports[2].to_string())
        .expect("a pool");
    assert!(
        row[7].parse::<u64>().is_ok() && row[8].contains('/') && row[10] == "t",
        "{row:?}"
    );
    trio.admin(2, "postgres")
        .query("SELECT pg_wal_replay_resume()");
    poll(PATIENCE, "the ban to end", || {
        admin.rows("SHOW BANS").is_empty().then_some(())
    });
    // One is away: connection refused counts.
    trio.kill(1);
    assert_eq!(ports_read(50), HashSet::from([ports[2]]));
    poll(PATIENCE, "the ban", || {
        let bans = admin.rows("SHOW BANS");
        bans.iter()
            .any(|row| row[4] == ports[1].to_string())
            .then_some(())
    });
    trio.launch(1);
    poll(PATIENCE, "it to serve again", || {
        (ports_read(20).len() == 2).then_some(())
    });
    assert_eq!(trio.alice(0).value("SELECT count(*) FROM t"), "20000");
    pgdog.stop();
}

/// What the server says is nothing new then, but writes have waited for it.
#[test]
fn writes_go_on_when_a_proof_comes_that_is_late() {
    let database = Postgres::shared().database("late");
    let pgdog = Config::empty()
        .admin()
        .general(
            "lsn_check_delay = 0\nlsn_check_interval = 1000\nlsn_check_timeout = 60000\n\
             idle_healthcheck_interval = 0\ncheckout_timeout = 60000",
        )
        .database(&database, "role = \"auto\"")
        .user(ALICE, &database, &format!("password = {PASSWORD:?}"))
        .start();
    let mut client = pgdog.client(&database);
    assert_eq!(client.query("CREATE TABLE t (a int)"), "C:CREATE_TABLE Z:I");
    // The one that proves the server's role, right after it has done so: amid its work it may hold a lock.
    let mut direct = Postgres::shared().admin(&database);
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
               AND application_name = 'pgdog check' AND state = 'idle' AND clock_timestamp() - state_change < '300 ms'";
    let stopped = poll(PATIENCE, "a check that is done", || {
        let pid = direct.rows(sql).first()?[0].parse().unwrap();
        let stopped = Stopped::new(pid);
        let at_rest =
            format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'idle'");
        (direct.value(&at_rest) == "1").then_some(stopped)
    });
    let mut admin = pgdog.admin();
    let waits = |admin: &mut Wire| {
        let rows = admin.rows("SHOW CLIENTS state");
        rows.iter()
            .any(|row| row.iter().any(|value| value == "waiting"))
    };
    // The proof is good for a while.
    poll(PATIENCE, "a write that has to wait", || {
        client.send(&query("INSERT INTO t VALUES (1)"));
        let answered = poll(PATIENCE, "an answer, or a wait", || {
            let answered = !client.is_silent();
            (answered || waits(&mut admin)).then_some(answered)
        });
        if answered {
            assert_eq!(client.batches(1), "C:INSERT_0_1 Z:I");
        }
        (!answered).then_some(())
    });
    drop(stopped);
    assert_eq!(client.batches(1), "C:INSERT_0_1 Z:I");
    pgdog.stop();
}

/// Waits until the server at this port is checked again.
fn await_check(admin: &mut Wire, port: u16) {
    let mut age = || {
        let rows = admin.rows("SHOW REPLICATION");
        let row = rows.iter().find(|row| row[4] == port.to_string());
        row.expect("a pool")[9].parse::<u64>().ok()
    };
    // It grows until there is one.
    let mut last = age();
    poll(PATIENCE, "another check", || {
        let before = std::mem::replace(&mut last, age());
        (last < before).then_some(())
    });
}

#[test]
fn who_is_there_before_an_order_goes_on_hearing_of_checks() {
    let database = Postgres::shared().database("ordered");
    let pgdog = Config::empty()
        .admin()
        .general(
            "lsn_check_delay = 0\nlsn_check_interval = 500\nidle_healthcheck_interval = 0\n\
             checkout_timeout = 10000",
        )
        .database(&database, "role = \"auto\"")
        .user(ALICE, &database, &format!("password = {PASSWORD:?}"))
        .start();
    let mut client = pgdog.client(&database);
    assert_eq!(client.query("CREATE TABLE t (a int)"), "C:CREATE_TABLE Z:I");
    let mut admin = pgdog.admin();
    for order in ["PAUSE", "RESUME"] {
        assert_eq!(admin.query(order), format!("C:{order} Z:I"));
    }
    // For longer than what was known then is good.
    (0..4).for_each(|_| await_check(&mut admin, Postgres::shared().port()));
    assert_eq!(client.query("INSERT INTO t VALUES (1)"), "C:INSERT_0_1 Z:I");
    pgdog.stop();
}

#[test]
fn a_pool_that_is_full_does_not_hold_checks_up() {
    let trio = Trio::start();
    let pgdog = pgdog(&trio, "default_pool_size = 1");
    let mut admin = pgdog.admin();
    // Every server's only connection is in use for longer than evidence of roles is good for.
    let mut holder = pgdog.client("app");
    assert_eq!(holder.query("BEGIN"), "C:BEGIN Z:T");
    (0..3).for_each(|_| await_check(&mut admin, trio.port(0)));
    let mut waiting = pgdog.client("app");
    waiting.send(&query("CREATE TABLE t (client int, number int)"));
    assert_eq!(holder.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(transcript(&waiting.read_until(b'Z')), "C:CREATE_TABLE Z:I");
    pgdog.stop();
}

/// The proof of who is the primary holds for one interval.
#[test]
fn whoever_a_shutdown_waits_for_goes_on_hearing_who_is_the_primary() {
    let postgres = Postgres::shared();
    let database = postgres.database("checks_ending");
    let mut pgdog = Config::empty()
        .admin()
        .general("lsn_check_delay = 0\nlsn_check_interval = 300\ncheckout_timeout = 2000")
        .database(
            "app",
            &format!("database_name = {database:?}\nrole = \"auto\""),
        )
        .user(ALICE, "app", &format!("password = {PASSWORD:?}"))
        .start();
    let mut client = pgdog.client("app");
    let write = "CREATE TABLE IF NOT EXISTS t ()";
    assert!(client.query(write).ends_with("C:CREATE_TABLE Z:I"));
    let mut admin = pgdog.admin();
    assert_eq!(admin.query("SHUTDOWN WAIT_FOR_CLIENTS"), "C:SHUTDOWN Z:I");
    poll(PATIENCE, "the shutdown to begin", || {
        let late = Wire::login(pgdog.port(), ALICE, "app", PASSWORD);
        late.is_err().then_some(())
    });
    let began = std::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_millis(900) {
        assert!(client.query(write).ends_with("C:CREATE_TABLE Z:I"));
    }
    drop(client);
    assert!(pgdog.wait(PATIENCE).is_some_and(|ended| ended.success()));
}
