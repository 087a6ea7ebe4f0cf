//! Two-phase commits that wait: for each other, for as long as their clients want it, and for shards whose primary changes.

use super::failover::ports;
use super::support::pgdog::Config;
use super::support::postgres::{Postgres, ALICE, PASSWORD};
use super::support::process::{poll, Folder, PATIENCE};
use super::support::replicas::Trio;
use super::support::wire::{query, Wire};
use super::two_phase::{commit, Shards};

/// Deferred foreign keys are looked at when the transaction is prepared, which one of the other client's keeps from it.
#[test]
fn commits_that_wait_for_each_other() {
    let mut shards = Shards::new("two_phase_circle", "workers = 2", true);
    for (table, key) in [("parent", "id"), ("child", "parent")] {
        let name = &shards.name;
        let lines = format!(
            "[[sharded_tables]]\ndatabase = {name:?}\nname = {table:?}\ncolumn = {key:?}\n"
        );
        shards.config = shards.config.more(&lines);
    }
    for shard in 0..3 {
        let tables = "CREATE TABLE parent (id int PRIMARY KEY);
            CREATE TABLE child (parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
            INSERT INTO parent VALUES (1), (2);
            ALTER TABLE parent OWNER TO alice; ALTER TABLE child OWNER TO alice";
        shards.shard(shard).query(tables);
    }
    let pgdog = shards.start();
    for _ in 0..3 {
        let mut clients = [pgdog.client(&shards.name), pgdog.client(&shards.name)];
        for (at, client) in clients.iter_mut().enumerate() {
            let (here, there) = (at, 1 - at);
            client.query("BEGIN");
            let sql = format!("/* pgdog_shard: {here} */ INSERT INTO child VALUES ({here} + 1)");
            assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:T");
            let sql =
                format!("/* pgdog_shard: {there} */ DELETE FROM parent WHERE id = {there} + 1");
            assert_eq!(client.query(&sql), "C:DELETE_1 Z:T");
        }
        clients.iter_mut().for_each(commit);
        let mut ends = clients.each_mut().map(|client| client.batches(1));
        ends.sort();
        assert_eq!(ends, ["C:COMMIT Z:I", "E:40P01 Z:I"]);
        assert!(shards.prepared().is_empty());
        // As it was.
        for shard in 0..2 {
            let again =
                "DELETE FROM child; INSERT INTO parent VALUES (1), (2) ON CONFLICT DO NOTHING";
            shards.shard(shard).query(again);
        }
    }
    pgdog.stop();
}

/// Until it is decided a commit is undone for whoever does not wait for it.
#[test]
fn a_commit_that_nobody_waits_for_is_undone() {
    let shards = Shards::new("two_phase_undone", "query_timeout = 3000", true);
    let pgdog = shards.start();
    let begin = |client: &mut Wire| {
        shards.transaction(client, 1);
        let holder = shards.hold(1);
        commit(client);
        shards.wait_for_prepared(&[0, 2]);
        holder
    };
    let undone = |holder: Wire| {
        shards.wait_for_prepared(&[]);
        shards.wait_until_over(1);
        drop(holder);
        assert_eq!(shards.counts(), ["0", "0", "0"]);
    };
    let mut client = pgdog.client(&shards.name);
    let holder = begin(&mut client);
    Wire::cancel(pgdog.port(), &client.key());
    assert_eq!(client.batches(1), "E:57014 Z:I");
    undone(holder);
    let holder = begin(&mut client);
    let answer = client.read_until(b'Z');
    assert!(answer[0].field(b'M').contains("query_timeout"));
    undone(holder);
    let holder = begin(&mut client);
    let id = i32::from_be_bytes(*client.key().first_chunk::<4>().unwrap());
    pgdog.admin().query(&format!("KILL_CLIENT {id}"));
    assert_eq!(client.rest(), "E:57P01");
    undone(holder);
    let mut client = pgdog.client(&shards.name);
    let holder = begin(&mut client);
    client.reset();
    undone(holder);
    // Its servers are as good as before.
    let mut client = pgdog.client(&shards.name);
    shards.transaction(&mut client, 2);
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(shards.counts(), ["1", "1", "1"]);
    pgdog.stop();
}

/// The only server of a shard is written to whatever is known of it.
#[test]
fn shards_of_one_server_commit_while_roles_are_checked() {
    let general = "lsn_check_delay = 0\nlsn_check_interval = 1000\nmin_pool_size = 1";
    let shards = Shards::new("two_phase_roles", general, true);
    let pgdog = shards.start();
    for id in 0..3 {
        let mut client = pgdog.client(&shards.name);
        shards.transaction(&mut client, id);
        assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    pgdog.stop();
}

/// A shard has prepared, and its standby is promoted before the other one has: nothing is committed on the old primary.
#[test]
fn a_shard_whose_primary_is_replaced_before_the_decision() {
    const SCHEMA: &str = "CREATE TABLE t (id int);
        CREATE TABLE gate ();
        CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM FROM gate; RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER look AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look();
        ALTER TABLE t OWNER TO alice; ALTER TABLE gate OWNER TO alice;";
    let trio = Trio::start();
    let other = Postgres::shared().database("two_phase_replaced");
    let mut gate = Postgres::shared().admin(&other);
    gate.query(SCHEMA);
    trio.admin(0, "app").query(SCHEMA);
    let log = Folder::new("commits");
    let mut config = Config::empty().admin().general(&format!(
        "two_phase_commit = true\ntwo_phase_commit_wal_dir = {:?}\nlsn_check_delay = 0\nlsn_check_interval = 500\n\
         lsn_check_timeout = 1000\ncheckout_timeout = 20000",
        log.path().join("log")
    ));
    for port in ports(&trio) {
        config = config.server("app", port, "shard = 0\nrole = \"auto\"");
    }
    let pgdog = config
        .database("app", &format!("shard = 1\ndatabase_name = {other:?}"))
        .more("[[sharded_tables]]\ndatabase = \"app\"\nname = \"t\"\ncolumn = \"id\"\n")
        .user(ALICE, "app", &format!("password = {PASSWORD:?}"))
        .start();
    let mut client = pgdog.client("app");
    client.query("BEGIN");
    for shard in 0..2 {
        let sql = format!("/* pgdog_shard: {shard} */ INSERT INTO t VALUES (7)");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:T");
    }
    gate.query("BEGIN; LOCK gate IN ACCESS EXCLUSIVE MODE");
    client.send(&query("COMMIT"));
    let prepared = |server: usize| {
        let mut admin = trio.admin(server, "app");
        admin.value("SELECT count(*) FROM pg_prepared_xacts")
    };
    poll(PATIENCE, "the shard to prepare", || {
        (prepared(0) == "1").then_some(())
    });
    trio.caught_up(0);
    trio.promote(1);
    // It has to have somebody who confirms what it commits.
    trio.follow(2, 1);
    pgdog.logged("timeline=2");
    gate.query("COMMIT");
    assert_eq!(client.batches(1), "E:08006 Z:I");
    poll(PATIENCE, "it to be rolled back on the new primary", || {
        (prepared(1) == "0").then_some(())
    });
    for mut admin in [trio.admin(1, "app"), gate] {
        assert_eq!(admin.value("SELECT count(*) FROM t"), "0");
    }
    pgdog.stop();
}
