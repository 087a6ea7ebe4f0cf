//! What a two-phase commit has left prepared is finished where it is, whatever has become of the configuration and of its user.

use rustix::process::Signal;

use super::support::pgdog::{Config, Pgdog};
use super::support::postgres::{ALICE, PASSWORD};
use super::support::process::{poll, PATIENCE};
use super::two_phase::{commit, Shards};

impl Shards {
    /// pgdog with these shards, in this order, and no users.
    fn arranged(&self, order: &[usize]) -> Config {
        let log = self.log.path().join("log");
        let mut config = Config::empty()
            .admin()
            .general("two_phase_commit = true")
            .general("passthrough_auth = \"enabled_plain\"")
            .general(&format!("two_phase_commit_wal_dir = {log:?}"));
        for (number, shard) in order.iter().enumerate() {
            let database = &self.names[*shard];
            let lines = format!("shard = {number}\ndatabase_name = {database:?}");
            config = config.database(&self.name, &lines);
        }
        let table = "[[sharded_tables]]\nname = \"t\"\ncolumn = \"id\"\n";
        config.more(&format!("{table}database = {:?}\n", self.name))
    }

    /// The second shard stays prepared: it lets nobody in since, and pgdog has ended.
    fn leave(&self, config: &Config) {
        let pgdog = config.start();
        let mut client = pgdog.client(&self.name);
        let servers = self.transaction(&mut client, 1);
        let (holder, mut lost) = (self.hold(2), self.shard(1));
        commit(&mut client);
        self.wait_for_prepared(&[0, 1]);
        self.admits(false);
        let sql = format!("SELECT pg_terminate_backend({}, 30000)", servers[1]);
        assert_eq!(lost.value(&sql), "t");
        drop(holder);
        assert_eq!(client.batches(1), "E:08007 Z:I");
        drop(client);
        end(pgdog);
    }

    fn admits(&self, admits: bool) {
        let name = &self.names[1];
        let sql = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {admits}");
        assert_eq!(self.shard(0).query(&sql), "C:ALTER_DATABASE Z:I");
    }

    /// Until the transaction is listed as this.
    fn wait_until_told(&self, pgdog: &Pgdog, state: &str) {
        poll(PATIENCE, state, || {
            let listed = pgdog.admin().rows("SHOW TRANSACTIONS");
            let [row] = &*listed else { return None };
            assert_eq!((&row[0], &*row[1]), (&self.name, ALICE));
            (row[3] == state).then_some(())
        });
    }

    fn is_finished(&self, pgdog: &Pgdog) {
        self.wait_for_prepared(&[]);
        assert_eq!(self.counts(), ["1", "1", "1"]);
        pgdog.logged("two-phase commit is done");
        assert!(pgdog.admin().rows("SHOW TRANSACTIONS").is_empty());
    }
}

fn end(mut pgdog: Pgdog) {
    pgdog.signal(Signal::TERM);
    pgdog.wait(PATIENCE);
}

/// Another configuration has it under another number, or not at all.
#[test]
fn a_shard_is_found_by_its_server_and_not_by_its_number() {
    let shards = Shards::new("two_phase_renumbered", "", true);
    let user = format!("password = {PASSWORD:?}");
    let arranged = |order: &[usize]| shards.arranged(order).user(ALICE, &shards.name, &user);
    shards.leave(&arranged(&[0, 1, 2]));
    shards.admits(true);
    let pgdog = arranged(&[0, 2]).start();
    pgdog.logged("is not in the configuration");
    shards.wait_until_told(&pgdog, "committing, server not configured");
    assert_eq!(shards.prepared(), [1]);
    // It is there again, after a reload as after a start.
    pgdog.reload(&arranged(&[1, 2, 0]));
    shards.is_finished(&pgdog);
    pgdog.stop();
}

/// Nobody here knows the password of a user who comes with it.
#[test]
fn the_login_of_its_user_or_of_another_who_may_is_awaited() {
    for other in [false, true] {
        let shards = Shards::new(&format!("two_phase_guest_{other}"), "", true);
        let config = shards.arranged(&[0, 1, 2]);
        shards.leave(&config);
        shards.admits(true);
        let pgdog = config.start();
        pgdog.logged("its user's login is awaited");
        shards.wait_until_told(&pgdog, "committing, awaiting login of its user");
        assert_eq!(shards.prepared(), [1]);
        match other {
            false => drop(pgdog.client(&shards.name)),
            true => pgdog.reload(&config.user("postgres", &shards.name, "password = \"p\"")),
        }
        shards.is_finished(&pgdog);
        end(pgdog);
    }
}
