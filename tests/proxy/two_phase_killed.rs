//! kill -9 at every step of a two-phase commit, of pgdog and of a shard: then all shards agree, nothing is left prepared, and
//! the client was not told otherwise.
//!
//! A step is a statement on its way to a shard, or its answer on the way back: the log's records are written in between.

use rustix::process::Signal;

use super::support::pgdog::{Config, Pgdog};
use super::support::postgres::{Postgres, ALICE, PASSWORD};
use super::support::process::{poll, Folder, PATIENCE};
use super::support::turnstile::{Step, Turnstile};
use super::support::wire::{query, transcript, Message, Wire};

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
            let table = "CREATE TABLE t (id int); ALTER TABLE t OWNER TO alice";
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

    fn prepared(&self) -> Vec<usize> {
        let of = |shard: &usize| {
            let sql = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()";
            self.shard(*shard).value(sql) != "0"
        };
        (0..3).filter(of).collect()
    }

    #[track_caller]
    fn wait_for_prepared(&self, shards: &[usize]) {
        poll(PATIENCE, &format!("{shards:?} to be prepared"), || {
            (self.prepared() == shards).then_some(())
        });
    }

    /// A transaction with a row on every shard, when none is on a connection to what was there before the crash.
    fn begin(&self, pgdog: &Pgdog, id: usize) -> Wire {
        poll(PATIENCE, "a transaction on all shards", || {
            let mut client = pgdog.client(&self.name);
            let mut done = tried(&mut client, "BEGIN") == "C:BEGIN Z:T";
            for shard in 0..3 {
                let sql = format!("/* pgdog_shard: {shard} */ INSERT INTO t VALUES ({id})");
                done = done && tried(&mut client, &sql) == "C:INSERT_0_1 Z:T";
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

/// What a statement is answered; as far as it comes, if the session ends.
fn tried(client: &mut Wire, sql: &str) -> String {
    let mut answer: Vec<Message> = Vec::new();
    let mut goes_on = client.try_send(&query(sql)).is_ok();
    while goes_on && answer.last().is_none_or(|last| last.tag != b'Z') {
        goes_on = client
            .try_read()
            .map(|message| answer.push(message))
            .is_ok();
    }
    transcript(&answer)
}

fn commit(client: &mut Wire) {
    client.send(&query("COMMIT"));
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
    assert_eq!(shards.prepared(), [0, 1, 2]);
    kill(&mut pgdog);
    std::fs::rename(&away, &log).unwrap();
    let pgdog = shards.config.start();
    shards.wait_for_prepared(&[]);
    let counts = shards.counts(1);
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
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
