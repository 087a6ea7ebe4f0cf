//! kill -9 at every step of a two-phase commit, of pgdog and of a shard: then all shards agree, nothing is left prepared, and
//! the client was not told otherwise.
//!
//! A step is a statement on its way to a shard, or its answer on the way back: the log's records are written in between.

use std::sync::Mutex;

use rustix::process::Signal;

use super::support::pgdog::{Config, Pgdog};
use super::support::postgres::{Postgres, ALICE, PASSWORD};
use super::support::process::{poll, Folder, Stopped, PATIENCE};
use super::support::turnstile::{Step, Turnstile};
use super::support::wire::Wire;
use super::two_phase::{self, commit, prepared, stop_when_done, Shards as Gated, FINISHED, LEFT};

const PREPARE: &str = "PREPARE TRANSACTION 'pgdog";
const COMMIT: &str = "COMMIT PREPARED 'pgdog";

/// In their order, and whether the transaction is there in the end.
const STEPS: [(Step, bool); 4] = [
    (Step::Before(PREPARE), false),
    (Step::After(PREPARE), false),
    (Step::Before(COMMIT), true),
    (Step::After(COMMIT), true),
];

/// Three shards, each behind a turnstile.
struct Shards {
    ports: [u16; 3],
    databases: Vec<String>,
    turnstiles: Vec<Turnstile>,
    name: String,
    config: Config,
    log: Folder,
}

impl Shards {
    fn new(label: &str, clusters: [&Postgres; 3], general: &str) -> Self {
        let name = format!("{label}_sharded");
        let log = Folder::new("commits");
        let place = log.path().join("log");
        let mut config = Config::empty()
            .general(general)
            .general("two_phase_commit = true")
            .general(&format!("two_phase_commit_wal_dir = {place:?}"));
        let (mut databases, mut turnstiles) = (Vec::new(), Vec::new());
        for (shard, postgres) in clusters.iter().enumerate() {
            let database = postgres.database(&format!("{label}{shard}"));
            // It is there after a crash: clusters of tests commit before anything is written.
            let table = "BEGIN; SET LOCAL synchronous_commit = on; CREATE TABLE t (id int); \
                ALTER TABLE t OWNER TO alice; COMMIT";
            postgres.admin(&database).query(table);
            let turnstile = Turnstile::to(postgres.port());
            let lines = format!("shard = {shard}\ndatabase_name = {database:?}");
            config = config.server(&name, turnstile.port(), &lines);
            databases.push(database);
            turnstiles.push(turnstile);
        }
        let table = "[[sharded_tables]]\nname = \"t\"\ncolumn = \"id\"\n";
        let config = config
            .more(&format!("{table}database = {name:?}\n"))
            .admin()
            .user(ALICE, &name, &format!("password = {PASSWORD:?}"));
        Self {
            ports: clusters.map(Postgres::port),
            databases,
            turnstiles,
            name,
            config,
            log,
        }
    }

    fn shard(&self, shard: usize) -> Wire {
        Wire::connect(self.ports[shard], "postgres", &self.databases[shard], "")
    }

    /// How many rows of this transaction each shard has.
    fn counts(&self, id: usize) -> [String; 3] {
        let sql = format!("SELECT count(*) FROM t WHERE id = {id}");
        [0, 1, 2].map(|shard| self.shard(shard).value(&sql))
    }

    #[track_caller]
    fn wait_for_prepared(&self, shards: &[usize]) {
        two_phase::wait_for_prepared(|shard| self.shard(shard), shards);
    }

    /// A transaction with a row on every shard, when none is on a connection to what was there before the crash.
    fn begin(&self, pgdog: &Pgdog, id: usize) -> Wire {
        poll(PATIENCE, "a transaction on all shards", || {
            let mut client = pgdog.client(&self.name);
            let mut done = client.tried("BEGIN") == "C:BEGIN Z:T";
            for shard in 0..3 {
                let sql = format!("/* pgdog_shard: {shard} */ INSERT INTO t VALUES ({id})");
                done = done && client.tried(&sql) == "C:INSERT_0_1 Z:T";
            }
            done.then_some(client)
        })
    }

    fn arm(&self, held: &[usize], step: Step) {
        held.iter()
            .for_each(|shard| self.turnstiles[*shard].arm(step));
    }

    /// Until the step is reached where it is held, and the others are past it.
    fn wait_for(&self, held: &[usize], step: Step, id: usize) {
        held.iter().for_each(|shard| self.turnstiles[*shard].wait());
        let free = |shard: &usize| !held.contains(shard);
        match step {
            Step::Before(PREPARE) => {
                self.wait_for_prepared(&(0..3).filter(free).collect::<Vec<_>>());
            }
            Step::After(PREPARE) => self.wait_for_prepared(&[0, 1, 2]),
            _ => {
                let expected = [0, 1, 2].map(|shard| {
                    let here = free(&shard) || matches!(step, Step::After(_));
                    u8::from(here).to_string()
                });
                poll(PATIENCE, "the others to commit", || {
                    (self.counts(id) == expected).then_some(())
                });
            }
        }
    }

    fn agree(&self, id: usize, committed: bool) {
        self.wait_for_prepared(&[]);
        let expected = u8::from(committed).to_string();
        assert_eq!(self.counts(id), [(); 3].map(|()| expected.clone()));
    }
}

fn kill(pgdog: &mut Pgdog) {
    pgdog.signal(Signal::KILL);
    pgdog.wait(PATIENCE);
}

#[test]
fn pgdog_is_killed_at_every_step() {
    let shared = Postgres::shared();
    let shards = Shards::new("killed_pgdog", [shared; 3], "");
    let held: &[&[usize]] = match std::env::var_os("PGDOG_TEST_LONG") {
        Some(_) => &[&[0], &[1], &[2], &[0, 1], &[1, 2], &[0, 2], &[0, 1, 2]],
        // One alone, and none of them before another.
        None => &[&[1], &[0, 1, 2]],
    };
    let cases = held
        .iter()
        .flat_map(|held| STEPS.map(|(step, committed)| (*held, step, committed)));
    for (id, (held, step, committed)) in cases.enumerate() {
        let mut pgdog = shards.config.start();
        let mut client = shards.begin(&pgdog, id);
        shards.arm(held, step);
        commit(&mut client);
        shards.wait_for(held, step, id);
        kill(&mut pgdog);
        shards.turnstiles.iter().for_each(Turnstile::disarm);
        let told = client.rest();
        assert!(!told.contains("C:"), "{held:?} {step:?}: {told}");
        let pgdog = shards.config.start();
        shards.agree(id, committed);
        pgdog.stop();
    }
}

/// Those of the others are finished meanwhile.
#[test]
fn a_server_that_hangs_holds_up_its_own_transactions_only() {
    let shards = Shards::new("killed_hanging", [Postgres::shared(); 3], "");
    let mut pgdog = shards.config.start();
    let mut client = shards.begin(&pgdog, 1);
    let (all, step) = ([0, 1, 2], Step::Before(COMMIT));
    shards.arm(&all, step);
    commit(&mut client);
    all.iter()
        .for_each(|shard| shards.turnstiles[*shard].wait());
    kill(&mut pgdog);
    shards.turnstiles.iter().for_each(Turnstile::disarm);
    shards.arm(&[0], step);
    let pgdog = shards.config.start();
    shards.turnstiles[0].wait();
    shards.wait_for_prepared(&[0]);
    assert!(!pgdog.log().contains("it takes too long"));
    shards.turnstiles[0].disarm();
    shards.agree(1, true);
    pgdog.stop();
}

/// All have prepared, and the decision is not on disk: it was not made.
#[test]
fn pgdog_is_killed_before_its_decision_is_on_disk() {
    let shared = Postgres::shared();
    let general = "two_phase_commit_wal_segment_size = 1";
    let shards = Shards::new("killed_undecided", [shared; 3], general);
    let (log, away) = (
        shards.log.path().join("log"),
        shards.log.path().join("away"),
    );
    let mut pgdog = shards.config.start();
    let mut client = shards.begin(&pgdog, 1);
    // The first record has a place, what follows has none.
    std::fs::rename(&log, &away).unwrap();
    assert_eq!(client.query("COMMIT"), "E:08007 Z:I", "nobody knows");
    assert_eq!(prepared(|shard| shards.shard(shard)), [0, 1, 2]);
    kill(&mut pgdog);
    std::fs::rename(&away, &log).unwrap();
    let pgdog = shards.config.start();
    shards.agree(1, false);
    pgdog.stop();
}

/// A server that has prepared, and says goodbye in the same breath: that is no refusal.
#[test]
fn a_farewell_behind_an_answer_is_not_taken_for_it() {
    let shards = Shards::new("killed_farewell", [Postgres::shared(); 3], "");
    let pgdog = shards.config.start();
    let mut client = shards.begin(&pgdog, 1);
    let server = client.value("/* pgdog_shard: 1 */ SELECT pg_backend_pid()");
    shards.arm(&[1], Step::AtTheEnd(PREPARE));
    commit(&mut client);
    shards.wait_for(&[1], Step::After(PREPARE), 1);
    let sql = format!("SELECT pg_terminate_backend({server}, 30000)");
    assert_eq!(shards.shard(1).value(&sql), "t");
    assert_eq!(client.batches(1), "E:08007 Z:I");
    shards.turnstiles[1].disarm();
    shards.agree(1, true);
    pgdog.stop();
}

#[test]
fn a_shard_is_killed_at_every_step() {
    let shared = Postgres::shared();
    let mut own = Postgres::own();
    for (id, (step, committed)) in STEPS.into_iter().enumerate() {
        let clusters = [shared, &own, shared];
        let shards = Shards::new(&format!("killed_shard{id}"), clusters, "");
        let pgdog = shards.config.start();
        let mut client = shards.begin(&pgdog, id);
        shards.arm(&[1], step);
        commit(&mut client);
        shards.wait_for(&[1], step, id);
        own.crash();
        shards.turnstiles[1].disarm();
        let expected = match committed {
            true => "E:08007 Z:I",
            false => "E:08006 Z:I",
        };
        assert_eq!(client.batches(1), expected, "{step:?}");
        own.launch();
        shards.agree(id, committed);
        // The client goes on.
        shards.begin(&pgdog, 10 + id).query("ROLLBACK");
        pgdog.stop();
    }
}

/// Killed while one shard is not prepared: nothing was decided, so nothing is left. The shard prepares it even after that.
#[test]
fn pgdog_killed_while_preparing_leaves_nothing() {
    let shards = Gated::new("two_phase_kill_1", "", true);
    let mut pgdog = shards.start();
    let mut client = pgdog.client(&shards.name);
    shards.transaction(&mut client, 1);
    let holder = shards.hold(1);
    commit(&mut client);
    shards.wait_for_prepared(&[0, 2]);
    let listed = pgdog.admin().rows("SHOW TRANSACTIONS");
    let [database, user, name, state] = &*listed[0] else {
        panic!("{listed:?}");
    };
    assert_eq!(
        (database, &**user, &**state),
        (&shards.name, ALICE, "preparing")
    );
    assert!(name.starts_with("pgdog."), "{name}");
    pgdog.signal(Signal::KILL);
    pgdog.wait(PATIENCE);
    assert_eq!(shards.prepared(), [0, 2]);
    let pgdog = shards.start();
    shards.wait_for_prepared(&[]);
    // The shard in between may still prepare it, and that is not forgotten.
    poll(PATIENCE, "two to be finished", || {
        (pgdog.log().matches(FINISHED).count() == 2).then_some(())
    });
    drop(holder);
    shards.wait_until_over(1);
    shards.wait_for_prepared(&[]);
    assert_eq!(shards.counts(), ["0", "0", "0"]);
    // Done is done: the next one has nothing to do.
    stop_when_done(&shards, pgdog);
    let pgdog = shards.start();
    assert!(!pgdog.log().contains(LEFT));
    pgdog.stop();
}

/// Killed when two of three shards have committed: the third follows.
#[test]
fn pgdog_killed_while_committing_commits_the_rest() {
    let shards = Gated::new("two_phase_kill_2", "", true);
    let mut pgdog = shards.start();
    let mut client = pgdog.client(&shards.name);
    let servers = shards.transaction(&mut client, 1);
    let holder = shards.hold(2);
    commit(&mut client);
    shards.wait_for_prepared(&[0, 1]);
    // It does not hear of the decision. At rest it holds no lock that the other tests' backends wait for.
    poll(PATIENCE, "the backend to be at rest", || {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND state = 'idle' AND wait_event = 'ClientRead'",
            servers[1]
        );
        (shards.shard(1).value(&sql) == "1").then_some(())
    });
    let stopped = Stopped::new(servers[1]);
    drop(holder);
    poll(PATIENCE, "two shards to commit", || {
        (shards.counts() == ["1", "0", "1"]).then_some(())
    });
    assert_eq!(shards.prepared(), [1]);
    pgdog.signal(Signal::KILL);
    pgdog.wait(PATIENCE);
    // The next one draws another instance id, and goes by what was recorded.
    let pgdog = shards.start();
    pgdog.logged(LEFT);
    let unfinished = pgdog.admin().rows("SHOW TRANSACTIONS");
    assert!(
        unfinished.iter().all(|row| row[3] == "committing"),
        "{unfinished:?}"
    );
    shards.wait_for_prepared(&[]);
    assert_eq!(shards.counts(), ["1", "1", "1"]);
    drop(stopped);
    stop_when_done(&shards, pgdog);
    let pgdog = shards.start();
    assert!(!pgdog.log().contains(LEFT));
    pgdog.stop();
}

/// Wherever the four commits under way are: the shards agree, and with what clients were told.
#[test]
fn pgdog_killed_at_any_moment_leaves_all_or_nothing() {
    const CLIENTS: i32 = 4;
    let shards = Gated::new("two_phase_kill_any", "", true);
    let told = Mutex::new(Vec::new());
    for (round, target) in (0_i32..).zip([1, 2, 3, 5, 8, 13, 21, 34]) {
        let mut pgdog = shards.start();
        let before = told.lock().unwrap().len();
        let clients: Vec<_> = (0..CLIENTS).map(|_| pgdog.client(&shards.name)).collect();
        std::thread::scope(|scope| {
            for (number, client) in (0..).zip(clients) {
                let (told, first) = (&told, (round * CLIENTS + number) * 1_000_000);
                scope.spawn(move || commit_on_and_on(client, first, told));
            }
            poll(PATIENCE, "commits", || {
                (told.lock().unwrap().len() >= before + target).then_some(())
            });
            pgdog.signal(Signal::KILL);
            pgdog.wait(PATIENCE);
        });
    }
    let pgdog = shards.start();
    shards.wait_for_prepared(&[]);
    let ids = [0, 1, 2].map(|shard| {
        let rows = shards.shard(shard).rows("SELECT id FROM t ORDER BY id");
        rows.concat()
    });
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[0], ids[2]);
    for id in told.into_inner().unwrap() {
        assert!(ids[0].contains(&id.to_string()), "{id} was lost");
    }
    pgdog.stop();
}

/// Commits transactions with a row for each shard until the connection ends; `told` are those that are confirmed.
fn commit_on_and_on(mut client: Wire, first: i32, told: &Mutex<Vec<i32>>) {
    for id in first.. {
        let insert = |shard| format!("/* pgdog_shard: {shard} */ INSERT INTO t VALUES ({id})");
        for sql in [
            "BEGIN".to_owned(),
            insert(0),
            insert(1),
            insert(2),
            "COMMIT".to_owned(),
        ] {
            let answer = client.tried(&sql);
            if !answer.contains("Z:") {
                return;
            }
            assert!(!answer.contains("E:"), "{sql}: {answer}");
        }
        told.lock().unwrap().push(id);
    }
}
