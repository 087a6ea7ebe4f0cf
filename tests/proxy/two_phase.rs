//! Two-phase commit over three shards: servers that refuse, that are lost, and what others have prepared.
//!
//! Where a step has to last, a deferred trigger holds PREPARE TRANSACTION up on a shard, at a table that the test locks.

use rustix::process::Signal;

use super::support::pgdog::{Config, Pgdog};
use super::support::postgres::{Postgres, ALICE, PASSWORD};
use super::support::process::{poll, Folder, PATIENCE};
use super::support::wire::{execute, parse, query, run, sync, transcript, Wire};

/// Three shards with a table `t`, whose deferred trigger waits for `gate` and refuses negative numbers, and one like it
/// that is the same everywhere.
pub(super) struct Shards {
    pub(super) name: String,
    pub(super) names: Vec<String>,
    pub(super) config: Config,
    pub(super) log: Folder,
}

const SCHEMA: &str = "
CREATE TABLE t (id int);
CREATE TABLE gate ();
ALTER TABLE t OWNER TO alice;
ALTER TABLE gate OWNER TO alice;
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM gate;
  IF NEW.id < 0 THEN RAISE EXCEPTION 'too small' USING ERRCODE = '23514'; END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER look AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look();
CREATE TABLE same (id int);
ALTER TABLE same OWNER TO alice;
CREATE CONSTRAINT TRIGGER look AFTER INSERT ON same DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look();
";

impl Shards {
    /// `log`: with the log of two-phase commits.
    pub(super) fn new(label: &str, general: &str, log: bool) -> Self {
        let postgres = Postgres::shared();
        let names: Vec<_> = (0..3)
            .map(|shard| postgres.database(&format!("{label}{shard}")))
            .collect();
        let name = format!("{label}_sharded");
        let folder = Folder::new("commits");
        let mut config = Config::empty()
            .general(general)
            .general("two_phase_commit = true");
        if log {
            let place = folder.path().join("log");
            config = config.general(&format!("two_phase_commit_wal_dir = {place:?}"));
        }
        for (shard, database) in names.iter().enumerate() {
            let lines = format!("shard = {shard}\ndatabase_name = {database:?}");
            config = config.database(&name, &lines);
            postgres.admin(database).query(SCHEMA);
        }
        let table = "[[sharded_tables]]\nname = \"t\"\ncolumn = \"id\"\n";
        let config = config.more(&format!("{table}database = {name:?}\n"));
        let config = config
            .admin()
            .user(ALICE, &name, &format!("password = {PASSWORD:?}"));
        Self {
            name,
            names,
            config,
            log: folder,
        }
    }

    pub(super) fn start(&self) -> Pgdog {
        self.config.start()
    }

    pub(super) fn shard(&self, shard: usize) -> Wire {
        Postgres::shared().admin(&self.names[shard])
    }

    /// How many rows each shard has.
    pub(super) fn counts(&self) -> [String; 3] {
        self.counts_of("t")
    }

    fn counts_of(&self, table: &str) -> [String; 3] {
        let sql = format!("SELECT count(*) FROM {table}");
        [0, 1, 2].map(|shard| self.shard(shard).value(&sql))
    }

    /// Which shards have something prepared.
    pub(super) fn prepared(&self) -> Vec<usize> {
        prepared(|shard| self.shard(shard))
    }

    #[track_caller]
    pub(super) fn wait_for_prepared(&self, shards: &[usize]) {
        wait_for_prepared(|shard| self.shard(shard), shards);
    }

    /// Until no backend of a shard is preparing.
    pub(super) fn wait_until_over(&self, shard: usize) {
        poll(PATIENCE, "the backend to end", || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'PREPARE TRANSACTION%' AND state = 'active'";
            (self.shard(shard).value(sql) == "0").then_some(())
        });
    }

    /// Holds PREPARE TRANSACTION up on a shard until this is reset.
    pub(super) fn hold(&self, shard: usize) -> Wire {
        let mut holder = self.shard(shard);
        holder.query("BEGIN; LOCK gate IN ACCESS EXCLUSIVE MODE");
        holder
    }

    /// A transaction with a row on every shard, and the process ids of its servers.
    pub(super) fn transaction(&self, client: &mut Wire, id: i32) -> Vec<u32> {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        (0..3)
            .map(|shard| {
                let on = format!("/* pgdog_shard: {shard} */");
                let sql = format!("{on} INSERT INTO t VALUES ({id})");
                assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:T");
                let pid = client.value(&format!("{on} SELECT pg_backend_pid()"));
                pid.parse().unwrap()
            })
            .collect()
    }
}

pub(super) const FINISHED: &str = "prepared transaction is finished";
pub(super) const LEFT: &str = "of an earlier process are to be finished";

pub(super) fn commit(client: &mut Wire) {
    client.send(&query("COMMIT"));
}

#[test]
fn a_transaction_on_three_shards_is_prepared_and_committed() {
    let shards = Shards::new("two_phase_ok", "", true);
    let pgdog = shards.start();
    let mut client = pgdog.client(&shards.name);
    shards.transaction(&mut client, 1);
    let holder = shards.hold(1);
    commit(&mut client);
    // Nothing is visible while one is not prepared.
    shards.wait_for_prepared(&[0, 2]);
    assert_eq!(shards.counts(), ["0", "0", "0"]);
    drop(holder);
    assert_eq!(client.batches(1), "C:COMMIT Z:I");
    assert_eq!(shards.counts(), ["1", "1", "1"]);
    assert!(shards.prepared().is_empty());
    // By the extended protocol, and with another one that follows.
    let insert = |shard: usize| {
        let sql = format!("/* pgdog_shard: {shard} */ INSERT INTO t VALUES ($1)");
        run(&sql, &[Some("2")])
    };
    let batch = [
        run("BEGIN", &[]),
        insert(0),
        insert(2),
        run("COMMIT AND CHAIN", &[]),
        sync(),
    ];
    let answer = client.ask(&batch);
    assert_eq!(
        answer,
        "1 2 C:BEGIN 1 2 C:INSERT_0_1 1 2 C:INSERT_0_1 1 2 C:COMMIT Z:T"
    );
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    assert_eq!(shards.counts(), ["2", "1", "2"]);
    pgdog.stop();
}

/// Nor is one of no shard.
#[test]
fn a_transaction_of_one_shard_is_not_prepared() {
    let shards = Shards::new("two_phase_one", "", true);
    let pgdog = shards.start();
    let mut client = pgdog.client(&shards.name);
    client.query("BEGIN");
    assert_eq!(
        client.query("/* pgdog_shard: 1 */ INSERT INTO t VALUES (1)"),
        "C:INSERT_0_1 Z:T"
    );
    let holder = shards.hold(1);
    commit(&mut client);
    poll(PATIENCE, "COMMIT to wait", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'COMMIT' AND wait_event_type = 'Lock'";
        (shards.shard(1).value(sql) == "1").then_some(())
    });
    drop(holder);
    assert_eq!(client.batches(1), "C:COMMIT Z:I");
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(shards.counts(), ["0", "1", "0"]);
    pgdog.stop();
}

/// Servers that have only read commit at once; if one of them is lost, nothing is stored on the others.
#[test]
fn what_has_only_read_is_not_prepared() {
    let shards = Shards::new("two_phase_read", "", true);
    let pgdog = shards.start();
    let mut client = pgdog.client(&shards.name);
    let on = |shard: usize, sql: &str| format!("/* pgdog_shard: {shard} */ {sql}");
    let write = |client: &mut Wire, shard: usize| {
        let sql = on(shard, "INSERT INTO t VALUES (1)");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:T");
    };
    // Two write, one reads.
    client.query("BEGIN");
    write(&mut client, 0);
    assert_eq!(client.value(&on(2, "SELECT count(*) FROM t")), "0");
    write(&mut client, 1);
    let holder = shards.hold(1);
    commit(&mut client);
    shards.wait_for_prepared(&[0]);
    drop(holder);
    assert_eq!(client.batches(1), "C:COMMIT Z:I");
    assert_eq!(shards.counts(), ["1", "1", "0"]);
    // One writes, two read: nothing is prepared at all.
    client.query("BEGIN");
    assert_eq!(client.value("SELECT count(*) FROM t"), "2");
    write(&mut client, 2);
    let holder = shards.hold(2);
    commit(&mut client);
    poll(PATIENCE, "COMMIT to wait", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'COMMIT' AND wait_event_type = 'Lock'";
        (shards.shard(2).value(sql) == "1").then_some(())
    });
    drop(holder);
    assert_eq!(client.batches(1), "C:COMMIT Z:I");
    // What locks rows, or calls what may do anything, is more than a read.
    client.query("BEGIN");
    client.query(&on(0, "SELECT * FROM t FOR UPDATE"));
    client.query(&on(1, "SELECT pg_advisory_xact_lock(1)"));
    write(&mut client, 2);
    let holder = shards.hold(2);
    commit(&mut client);
    shards.wait_for_prepared(&[0, 1]);
    drop(holder);
    assert_eq!(client.batches(1), "C:COMMIT Z:I");
    // A reader that is gone cannot vote.
    client.query("BEGIN");
    write(&mut client, 0);
    write(&mut client, 1);
    assert_eq!(client.value(&on(2, "SELECT count(*) FROM t")), "2");
    let reader = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                  WHERE datname = current_database() AND state = 'idle in transaction'";
    assert_eq!(shards.shard(2).value(reader), "t");
    let answer = client
        .try_send(&query("COMMIT"))
        .is_ok()
        .then(|| client.rest());
    assert!(!answer.unwrap_or_default().contains("C:COMMIT"));
    poll(PATIENCE, "the others to be rolled back", || {
        (shards.counts() == ["1", "1", "2"] && shards.prepared().is_empty()).then_some(())
    });
    pgdog.stop();
}

#[test]
fn a_constraint_that_fails_at_prepare_undoes_all() {
    for mode in ["transaction", "session"] {
        let general = format!("pooler_mode = {mode:?}");
        let shards = Shards::new(&format!("two_phase_no_{mode}"), &general, true);
        let pgdog = shards.start();
        let mut client = pgdog.client(&shards.name);
        for shard in 0..3 {
            client.query("BEGIN; SET application_name = 'changed'");
            for other in 0..3 {
                let id = if other == shard { -1 } else { 1 };
                let sql = format!("/* pgdog_shard: {other} */ INSERT INTO t VALUES ({id})");
                assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:T");
            }
            assert_eq!(client.query("COMMIT"), "E:23514 Z:I", "{mode}");
            assert_eq!(shards.counts(), ["0", "0", "0"]);
            assert!(shards.prepared().is_empty());
            // PREPARE TRANSACTION has kept the setting on the others.
            for other in 0..3 {
                let sql = format!("/* pgdog_shard: {other} */ SHOW application_name");
                assert_ne!(client.value(&sql), "changed", "{mode}");
            }
        }
        // What follows in a pipeline does not run.
        let batch = [
            run("BEGIN", &[]),
            run("/* pgdog_shard: 0 */ INSERT INTO t VALUES (1)", &[]),
            run("/* pgdog_shard: 1 */ INSERT INTO t VALUES (-1)", &[]),
            run("COMMIT", &[]),
            run("/* pgdog_shard: 0 */ INSERT INTO t VALUES (1)", &[]),
            sync(),
        ];
        let answer = client.ask(&batch);
        assert_eq!(
            answer,
            "1 2 C:BEGIN 1 2 C:INSERT_0_1 1 2 C:INSERT_0_1 1 2 E:23514 Z:I"
        );
        assert_eq!(shards.counts(), ["0", "0", "0"]);
        shards.transaction(&mut client, 1);
        assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
        assert_eq!(shards.counts(), ["1", "1", "1"]);
        pgdog.stop();
    }
}

/// The row is on one of the shards, whichever of them is asked to prepare what it cannot.
#[test]
fn a_row_that_moves_is_committed_in_two_phases() {
    let more = "two_phase_commit_auto = true";
    let mut shards = Shards::new("two_phase_move", more, true);
    shards.config = shards
        .config
        .general("expanded_explain = true")
        .more("[rewrite]\nenabled = true\nshard_key = \"rewrite\"\n");
    let mut pgdog = shards.start();
    let mut client = pgdog.client(&shards.name);
    // Keys of the shards 0 and 1, and a negative one of shard 2, which is refused when it is prepared there.
    let mut key = |shard: usize, mut keys: std::ops::Range<i32>| {
        let found = keys.find(|id| {
            let plan = client.rows(&format!(
                "EXPLAIN (COSTS off) SELECT * FROM t WHERE id = {id}"
            ));
            let on = format!("pgdog: shard {shard}");
            plan.iter().any(|line| line[0] == on)
        });
        found.expect("a key of each shard among so many")
    };
    let (from, to, refused) = (key(0, 1..100), key(1, 1..100), key(2, -100..0));
    let update = |from: i32, to: i32| format!("UPDATE t SET id = {to} WHERE id = {from}");
    assert_eq!(
        client.query(&format!("INSERT INTO t VALUES ({from})")),
        "C:INSERT_0_1 Z:I"
    );
    let answer = client.query(&update(from, refused));
    assert!(answer.ends_with("E:23514 Z:I"), "{answer}");
    assert_eq!(shards.counts(), ["1", "0", "0"]);
    // In a transaction of its own, or of the client.
    let holder = shards.hold(1);
    client.send(&query(&update(from, to)));
    shards.wait_for_prepared(&[0]);
    assert_eq!(shards.counts(), ["1", "0", "0"]);
    drop(holder);
    assert_eq!(client.batches(1), "C:UPDATE_1 Z:I");
    assert_eq!(shards.counts(), ["0", "1", "0"]);
    client.query("BEGIN");
    assert_eq!(client.query(&update(to, from)), "C:UPDATE_1 Z:T");
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(shards.counts(), ["1", "0", "0"]);
    client.query("BEGIN");
    assert_eq!(client.query(&update(from, refused)), "C:UPDATE_1 Z:T");
    assert_eq!(client.query("COMMIT"), "E:23514 Z:I");
    assert_eq!(shards.counts(), ["1", "0", "0"]);
    assert!(shards.prepared().is_empty());
    // Killed while its new place prepares: it is where it was.
    let holder = shards.hold(1);
    client.send(&query(&update(from, to)));
    shards.wait_for_prepared(&[0]);
    pgdog.signal(Signal::KILL);
    pgdog.wait(PATIENCE);
    let pgdog = shards.start();
    shards.wait_for_prepared(&[]);
    drop(holder);
    shards.wait_until_over(1);
    shards.wait_for_prepared(&[]);
    assert_eq!(shards.counts(), ["1", "0", "0"]);
    pgdog.stop();
}

/// Only `two_phase_commit_auto` covers transactions that the client did not ask for.
#[test]
fn a_statement_for_all_shards_is_committed_in_two_phases_if_wanted() {
    for (general, prepared) in [("", vec![]), ("two_phase_commit_auto = true", vec![0, 2])] {
        let label = format!("two_phase_auto{}", prepared.len());
        let shards = Shards::new(&label, general, false);
        let pgdog = shards.start();
        let mut client = pgdog.client(&shards.name);
        let holder = shards.hold(1);
        let sql = "INSERT INTO same VALUES (1)";
        client.send(&query(sql));
        match prepared.is_empty() {
            true => poll(PATIENCE, "two to commit", || {
                (shards.counts_of("same") == ["1", "0", "1"]).then_some(())
            }),
            false => {
                shards.wait_for_prepared(&prepared);
                assert_eq!(shards.counts_of("same"), ["0", "0", "0"]);
            }
        }
        drop(holder);
        assert_eq!(client.batches(1), "C:INSERT_0_1 Z:I");
        assert_eq!(shards.counts_of("same"), ["1", "1", "1"]);
        pgdog.logged("without two_phase_commit_wal_dir");
        pgdog.stop();
    }
}

#[test]
fn clients_cannot_prepare_transactions_themselves() {
    let shards = Shards::new("two_phase_reserved", "", false);
    let pgdog = shards.start();
    let mut client = pgdog.client(&shards.name);
    for sql in [
        "PREPARE TRANSACTION 'x'",
        "COMMIT PREPARED 'x'",
        "/* pgdog_shard: 0 */ ROLLBACK PREPARED 'x'",
    ] {
        client.send(&query(sql));
        let answer = client.read_until(b'Z');
        assert_eq!(transcript(&answer), "E:0A000 Z:I", "{sql}");
        let text = "two-phase statements are reserved by two_phase_commit";
        assert_eq!(answer[0].field(b'M'), text);
    }
    let batch = [parse("", "COMMIT PREPARED 'x'"), execute("", 0), sync()];
    assert!(client.ask(&batch).contains('E'));
    pgdog.stop();
}

/// Which of three shards have something prepared.
pub(super) fn prepared(shard: impl Fn(usize) -> Wire) -> Vec<usize> {
    let sql = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()";
    (0..3).filter(|at| shard(*at).value(sql) != "0").collect()
}

#[track_caller]
pub(super) fn wait_for_prepared(shard: impl Fn(usize) -> Wire, shards: &[usize]) {
    poll(PATIENCE, &format!("{shards:?} to be prepared"), || {
        (prepared(&shard) == shards).then_some(())
    });
}

/// Waits until it has finished a transaction on all shards, and has that on disk.
pub(super) fn stop_when_done(shards: &Shards, pgdog: Pgdog) {
    pgdog.logged("two-phase commit is done");
    assert_eq!(pgdog.log().matches(FINISHED).count(), 3);
    // Another one goes through the same log, behind what was noted.
    let mut client = pgdog.client(&shards.name);
    shards.transaction(&mut client, 7);
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    pgdog.stop();
}

/// A server connection that is lost when its shard has prepared: it is committed over another one.
#[test]
fn a_connection_lost_between_prepare_and_commit_is_made_up_for() {
    for log in [true, false] {
        let shards = Shards::new(&format!("two_phase_lost_{log}"), "", log);
        let pgdog = shards.start();
        let mut client = pgdog.client(&shards.name);
        let servers = shards.transaction(&mut client, 1);
        let holder = shards.hold(2);
        commit(&mut client);
        shards.wait_for_prepared(&[0, 1]);
        let sql = format!("SELECT pg_terminate_backend({}, 30000)", servers[1]);
        assert_eq!(shards.shard(1).value(&sql), "t");
        drop(holder);
        let answer = client.read_until(b'Z');
        assert_eq!(transcript(&answer), "E:08007 Z:I");
        let text = "commit will be completed in background, some shards may lag";
        assert_eq!(answer[0].field(b'M'), text);
        shards.wait_for_prepared(&[]);
        assert_eq!(shards.counts(), ["1", "1", "1"]);
        // The client goes on.
        shards.transaction(&mut client, 2);
        assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
        assert_eq!(shards.counts(), ["2", "2", "2"]);
        pgdog.stop();
    }
}

/// What is prepared belongs to the role of that moment, and nobody else may finish it but a superuser.
#[test]
fn what_another_role_has_prepared_is_finished() {
    let shards = Shards::new("two_phase_role", "", true);
    let role = "\"Two \\ phase's\"";
    for shard in 0..3 {
        let mut admin = shards.shard(shard);
        admin.query(&format!(
            "DO $$BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object OR unique_violation THEN END$$"
        ));
        admin.query(&format!("GRANT ALL ON t, gate TO {role}"));
    }
    let granted = format!("GRANT {role} TO alice");
    assert_eq!(shards.shard(0).query(&granted), "C:GRANT_ROLE Z:I");
    let pgdog = shards.start();
    let mut client = pgdog.client(&shards.name);
    let insert = |client: &mut Wire, local: &str, ids: [i32; 3]| {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        assert_eq!(client.query(local), "C:SET Z:T");
        for (shard, id) in ids.into_iter().enumerate() {
            let sql = format!("/* pgdog_shard: {shard} */ INSERT INTO t VALUES ({id})");
            assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:T");
        }
    };
    let is = |client: &mut Wire, role: &str| {
        for shard in 0..3 {
            let sql = format!("/* pgdog_shard: {shard} */ SELECT current_user");
            assert_eq!(client.value(&sql), role);
        }
    };
    // For the transaction only: its servers are nobody but alice when it is prepared.
    let local = format!("SET LOCAL ROLE {role}");
    insert(&mut client, &local, [1, 1, 1]);
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(shards.prepared(), [0; 0]);
    assert_eq!(shards.counts(), ["1", "1", "1"]);
    is(&mut client, "alice");
    insert(&mut client, &local, [2, -2, 2]);
    assert_eq!(client.query("COMMIT"), "E:23514 Z:I");
    assert_eq!(shards.prepared(), [0; 0]);
    assert_eq!(shards.counts(), ["1", "1", "1"]);
    is(&mut client, "alice");
    // The other way round.
    assert_eq!(client.query(&format!("SET ROLE {role}")), "C:SET Z:I");
    insert(&mut client, "SET LOCAL ROLE NONE", [3, 3, 3]);
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(shards.prepared(), [0; 0]);
    assert_eq!(shards.counts(), ["2", "2", "2"]);
    is(&mut client, "Two \\ phase's");
    // A connection that is lost: the one that makes up for it knows nothing of the session's role.
    for (victim, id, answer, rows) in [(1, 4, "E:08007 Z:I", "3"), (2, 5, "E:08006 Z:I", "3")] {
        let servers = shards.transaction(&mut client, id);
        let holder = shards.hold(2);
        commit(&mut client);
        shards.wait_for_prepared(&[0, 1]);
        let sql = format!("SELECT pg_terminate_backend({}, 30000)", servers[victim]);
        assert_eq!(shards.shard(victim).value(&sql), "t");
        drop(holder);
        assert_eq!(client.batches(1), answer);
        shards.wait_for_prepared(&[]);
        assert_eq!(shards.counts(), [rows; 3]);
    }
    is(&mut client, "Two \\ phase's");
    pgdog.stop();
}

/// A shard that lets nobody in when pgdog is stopped: the next one has to do it, or the operator, and the log says so.
#[test]
fn what_cannot_be_finished_before_the_end_is_named() {
    for (log, said) in [
        (true, "the next start has to"),
        (false, "the operator has to"),
    ] {
        let shards = Shards::new(&format!("two_phase_end_{log}"), "", log);
        let mut pgdog = shards.start();
        let mut client = pgdog.client(&shards.name);
        let servers = shards.transaction(&mut client, 1);
        let (holder, mut lost) = (shards.hold(2), shards.shard(1));
        commit(&mut client);
        shards.wait_for_prepared(&[0, 1]);
        let admit = |admit: bool| {
            let sql = format!(
                "ALTER DATABASE {} ALLOW_CONNECTIONS {admit}",
                shards.names[1]
            );
            shards.shard(0).query(&sql)
        };
        admit(false);
        let sql = format!("SELECT pg_terminate_backend({}, 30000)", servers[1]);
        assert_eq!(lost.value(&sql), "t");
        drop(holder);
        assert_eq!(client.batches(1), "E:08007 Z:I");
        drop(client);
        pgdog.signal(Signal::TERM);
        pgdog.wait(PATIENCE);
        pgdog.logged(&format!(
            "{said} finish what is prepared: COMMIT PREPARED 'pgdog.-."
        ));
        admit(true);
        assert_eq!(shards.prepared(), [1]);
        if log {
            let pgdog = shards.start();
            shards.wait_for_prepared(&[]);
            assert_eq!(shards.counts(), ["1", "1", "1"]);
            pgdog.stop();
        } else {
            let log = pgdog.log();
            let sql = log.rsplit("is prepared: ").next().unwrap();
            assert_eq!(
                lost.query(sql.lines().next().unwrap()),
                "C:COMMIT_PREPARED Z:I"
            );
        }
    }
}

/// One that is lost while it prepares: nobody knows whether it has, and all is rolled back.
#[test]
fn a_connection_lost_while_it_prepares_undoes_all() {
    let shards = Shards::new("two_phase_lost_early", "", true);
    let pgdog = shards.start();
    let mut client = pgdog.client(&shards.name);
    let servers = shards.transaction(&mut client, 1);
    let holder = shards.hold(1);
    commit(&mut client);
    shards.wait_for_prepared(&[0, 2]);
    let sql = format!("SELECT pg_terminate_backend({}, 30000)", servers[1]);
    assert_eq!(shards.shard(1).value(&sql), "t");
    assert_eq!(client.batches(1), "E:08006 Z:I");
    shards.wait_for_prepared(&[]);
    drop(holder);
    assert_eq!(shards.counts(), ["0", "0", "0"]);
    pgdog.stop();
}

/// It may be another pgdog's to finish, so it is told and left.
#[test]
fn what_nobody_here_has_prepared_is_told_and_left_alone() {
    let shards = Shards::new("two_phase_orphan", "", true);
    let gid = "pgdog.-.other.00000000000000ab.0.1.1";
    let mut direct = shards.shard(1);
    direct.query("BEGIN; CREATE TABLE orphan ()");
    assert_eq!(
        direct.query(&format!("PREPARE TRANSACTION '{gid}'")),
        "C:PREPARE_TRANSACTION Z:I"
    );
    let pgdog = shards.start();
    pgdog.logged(gid);
    let told = vec![
        shards.name.clone(),
        String::new(),
        gid.to_owned(),
        "prepared elsewhere".to_owned(),
    ];
    assert_eq!(pgdog.admin().rows("SHOW TRANSACTIONS"), [told]);
    assert_eq!(shards.prepared(), [1]);
    let sql = format!("ROLLBACK PREPARED '{gid}'");
    assert_eq!(direct.query(&sql), "C:ROLLBACK_PREPARED Z:I");
    poll(PATIENCE, "that it is gone to be noticed", || {
        let listed = pgdog.admin().rows("SHOW TRANSACTIONS");
        listed.is_empty().then_some(())
    });
    pgdog.stop();
}

/// What cannot be logged is not begun; what was decided when the log failed is committed once it can be written.
#[test]
fn a_log_that_cannot_be_written_for_a_while() {
    let shards = Shards::new(
        "two_phase_log",
        "two_phase_commit_wal_segment_size = 1",
        true,
    );
    let pgdog = shards.start();
    let (log, away) = (
        shards.log.path().join("log"),
        shards.log.path().join("away"),
    );
    let mut client = pgdog.client(&shards.name);
    // Each record is followed by another segment, which has no place from here on.
    std::fs::rename(&log, &away).unwrap();
    shards.transaction(&mut client, 1);
    assert_eq!(client.query("COMMIT"), "E:08007 Z:I");
    assert_eq!(shards.prepared(), [0, 1, 2]);
    assert_eq!(shards.counts(), ["0", "0", "0"]);
    shards.transaction(&mut client, 2);
    assert_eq!(client.query("COMMIT"), "E:58030 Z:I");
    assert_eq!(shards.prepared(), [0, 1, 2]);
    std::fs::rename(&away, &log).unwrap();
    shards.wait_for_prepared(&[]);
    for shard in 0..3 {
        assert_eq!(shards.shard(shard).rows("SELECT id FROM t"), [["1"]]);
    }
    shards.transaction(&mut client, 3);
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(shards.counts(), ["2", "2", "2"]);
    pgdog.stop();
}

/// It is asked first, and the row belongs to another one.
#[test]
fn a_shard_whose_default_has_written_commits_with_the_others() {
    let shards = Shards::new("two_phase_asked", "", true);
    for shard in 0..3 {
        shards.shard(shard).query(
            "CREATE TABLE given (id int);
            CREATE SEQUENCE numbers;
            ALTER TABLE given OWNER TO alice;
            ALTER SEQUENCE numbers OWNER TO alice;
            CREATE FUNCTION give() RETURNS int LANGUAGE sql AS
            $$INSERT INTO given VALUES (-nextval('numbers')) RETURNING id$$;
            ALTER TABLE t ALTER id SET DEFAULT give()",
        );
    }
    let pgdog = shards.start();
    let mut client = pgdog.client(&shards.name);
    for _ in 0..8 {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        let inserted = client.query("INSERT INTO t DEFAULT VALUES");
        assert_eq!(inserted, "C:INSERT_0_1 Z:T");
        assert_eq!(client.query("COMMIT"), "E:23514 Z:I");
        assert_eq!(shards.counts_of("given"), ["0", "0", "0"]);
    }
    assert_eq!(shards.counts(), ["0", "0", "0"]);
    pgdog.stop();
}
