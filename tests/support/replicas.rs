//! Three PostgreSQL servers, one of which replicates to the other two, and what happens to such servers.
//!
//! A commit is answered when a replica has it too: what a client was told to be committed is still there after the
//! primary was killed and the replica that has come further was promoted.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;

use super::postgres::{children, kill_all, launch, programs, signal_all, Owner, ALICE, PASSWORD};
use super::process::{free_port, poll, Folder, Process, PATIENCE};
use super::wire::Wire;

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 60
max_wal_senders = 10
max_prepared_transactions = 10
wal_level = replica
hot_standby = on
wal_keep_size = '256MB'
wal_receiver_status_interval = 1
wal_retrieve_retry_interval = '100ms'
synchronous_standby_names = 'ANY 1 (*)'
password_encryption = 'scram-sha-256'
shared_buffers = '32MB'
min_wal_size = '32MB'
max_wal_size = '1GB'
fsync = off
full_page_writes = off
autovacuum = off
log_min_messages = fatal
";

const HBA: &str = "
local all         all      trust
local replication all      trust
host  replication postgres 127.0.0.1/32 trust
host  all         postgres 127.0.0.1/32 trust
host  all         all      127.0.0.1/32 scram-sha-256
";

/// How many servers there are.
pub(crate) const SERVERS: usize = 3;

/// One at a time: three servers are load enough.
static TURN: Mutex<()> = Mutex::new(());

/// A primary and two replicas. Which is which changes.
pub(crate) struct Trio {
    owner: Owner,
    bin: PathBuf,
    nodes: Vec<Node>,
    // The last one: others begin when the servers are gone.
    _turn: MutexGuard<'static, ()>,
}

struct Node {
    port: u16,
    folder: Folder,
    /// `None` while it is down.
    server: Option<Process>,
}

impl Trio {
    /// Server 0 is the primary. There are alice and a database `app` of hers.
    pub(crate) fn start() -> Self {
        // A test that failed has left nothing behind.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = Owner::find();
        let bin = programs(&owner);
        let node = |_| {
            let folder = Folder::new("replica");
            owner.take(folder.path());
            Node {
                port: free_port(),
                folder,
                server: None,
            }
        };
        let nodes = (0..SERVERS).map(node).collect();
        let mut trio = Self {
            owner,
            bin,
            nodes,
            _turn: turn,
        };
        let data = trio.data(0);
        trio.run(
            "initdb",
            &[
                "-D",
                &data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ],
        );
        std::fs::write(format!("{data}/pg_hba.conf"), HBA).expect("write pg_hba.conf");
        trio.configure(0);
        trio.launch(0);
        let mut admin = trio.admin(0, "postgres");
        // Nobody follows yet who could confirm a commit.
        admin.query("SET synchronous_commit = local; CREATE ROLE alice LOGIN PASSWORD 'hunter2'");
        admin.query("SET synchronous_commit = local");
        admin.query("CREATE DATABASE app OWNER alice");
        for replica in 1..SERVERS {
            trio.copy(replica, 0);
            trio.launch(replica);
        }
        trio
    }

    pub(crate) fn port(&self, server: usize) -> u16 {
        self.nodes[server].port
    }

    /// A superuser's connection to one server.
    pub(crate) fn admin(&self, server: usize, database: &str) -> Wire {
        Wire::connect(self.port(server), "postgres", database, "")
    }

    /// Alice's own connection to one server.
    pub(crate) fn alice(&self, server: usize) -> Wire {
        Wire::connect(self.port(server), ALICE, "app", PASSWORD)
    }

    /// Stops a server as `pg_ctl stop -m fast` does: replicas get all that it has written.
    pub(crate) fn stop(&mut self, server: usize) {
        if let Some(mut process) = self.nodes[server].server.take() {
            process.signal(Signal::INT);
            process.wait(PATIENCE);
        }
    }

    /// Kills all of a server at once.
    pub(crate) fn kill(&mut self, server: usize) {
        let Some(mut process) = self.nodes[server].server.take() else {
            return;
        };
        kill_all(&mut process);
    }

    /// Makes a server hang, connections and all.
    pub(crate) fn freeze(&self, server: usize) {
        self.signal(server, Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self, server: usize) {
        self.signal(server, Signal::CONT);
    }

    /// To the server and its processes.
    fn signal(&self, server: usize, signal: Signal) {
        let process = self.nodes[server].server.as_ref().expect("it runs");
        let children = children(process.id());
        process.signal(signal);
        signal_all(&children, signal);
    }

    /// Starts a server as what it was.
    pub(crate) fn launch(&mut self, server: usize) {
        let node = &self.nodes[server];
        let process = launch(&self.owner, &self.bin, node.folder.path(), node.port);
        self.nodes[server].server = Some(process);
    }

    /// Makes a replica the primary; returns when it accepts writes.
    pub(crate) fn promote(&self, server: usize) {
        let promoted = self
            .admin(server, "postgres")
            .value("SELECT pg_promote(true, 60)");
        assert_eq!(promoted, "t");
    }

    /// Has a running replica follow another primary.
    pub(crate) fn follow(&self, server: usize, primary: usize) {
        let mut admin = self.admin(server, "postgres");
        let source = self.source(server, primary);
        admin.query(&format!("ALTER SYSTEM SET primary_conninfo = '{source}'"));
        admin.query("SELECT pg_reload_conf()");
    }

    /// Starts a server that is down as a replica. It must not have written what the primary lacks.
    pub(crate) fn rejoin(&mut self, server: usize, primary: usize) {
        let data = self.data(server);
        let auto = format!("{data}/postgresql.auto.conf");
        let source = self.source(server, primary);
        std::fs::write(&auto, format!("primary_conninfo = '{source}'\n")).expect("write settings");
        self.owner.take(auto.as_ref());
        let signal = format!("{data}/standby.signal");
        std::fs::write(&signal, "").expect("write a file");
        self.owner.take(signal.as_ref());
        self.launch(server);
    }

    /// Gives a server that is down the primary's data, whatever it had, and starts it as a replica.
    pub(crate) fn rebuild(&mut self, server: usize, primary: usize) {
        let _ = std::fs::remove_dir_all(self.data(server));
        self.copy(server, primary);
        self.launch(server);
    }

    /// The replica that has received most; `None` of the two that are up.
    pub(crate) fn furthest(&self, candidates: [usize; 2]) -> usize {
        let position = |server: usize| {
            let sql = "SELECT (coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0')::text";
            let bytes = self.admin(server, "postgres").value(sql);
            bytes.parse::<u64>().expect("a number of bytes")
        };
        let [a, b] = candidates;
        if position(a) >= position(b) {
            a
        } else {
            b
        }
    }

    /// Waits until a replica streams from its primary.
    pub(crate) fn streams(&self, server: usize) {
        let sql = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        poll(PATIENCE, "a replica to stream", || {
            (self.admin(server, "postgres").value(sql) == "1").then_some(())
        });
    }

    /// Waits until two servers have replayed what the third has written.
    pub(crate) fn caught_up(&self, primary: usize) {
        let sql = "SELECT (pg_current_wal_lsn() - '0/0')::text";
        let written: u64 = self
            .admin(primary, "postgres")
            .value(sql)
            .parse()
            .expect("a number");
        let sql = "SELECT (pg_last_wal_replay_lsn() - '0/0')::text";
        for replica in (0..SERVERS).filter(|server| *server != primary) {
            poll(PATIENCE, "a replica to catch up", || {
                let replayed = self.admin(replica, "postgres").value(sql);
                (replayed.parse::<u64>().expect("a number") >= written).then_some(())
            });
        }
    }

    fn source(&self, server: usize, primary: usize) -> String {
        let port = self.port(primary);
        format!("host=127.0.0.1 port={port} user=postgres application_name=server_{server}")
    }

    fn copy(&self, server: usize, primary: usize) {
        let (data, port) = (self.data(server), self.port(primary).to_string());
        let source = format!("host=127.0.0.1 port={port} user=postgres");
        self.run(
            "pg_basebackup",
            &[
                "-D",
                &data,
                "-d",
                &source,
                "-X",
                "stream",
                "-R",
                "--checkpoint=fast",
                "--no-sync",
            ],
        );
        self.configure(server);
    }

    /// Writes the server's own settings, in place of those that may have come with its data.
    fn configure(&self, server: usize) {
        let node = &self.nodes[server];
        let sockets = node.folder.path().display();
        let conf = format!("{}/postgresql.conf", self.data(server));
        let port = node.port;
        let lines = format!("{SETTINGS}port = {port}\nunix_socket_directories = '{sockets}'\n");
        std::fs::write(&conf, lines).expect("write postgresql.conf");
        self.owner.take(conf.as_ref());
    }

    fn data(&self, server: usize) -> String {
        format!("{}/data", self.nodes[server].folder.path().display())
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = self.owner.command(&self.bin.join(program));
        let output = command
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {said}");
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        // A process that is stopped does not end.
        for server in 0..SERVERS {
            if self.nodes[server].server.is_some() {
                self.thaw(server);
            }
        }
    }
}
