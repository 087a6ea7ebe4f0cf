//! One throw-away PostgreSQL cluster per test binary, on a free loopback port.
//!
//! `PG_BIN` names the folder of its programs; without it Debian's PostgreSQL 15 is used.

use std::cell::RefCell;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;

use rustix::process::Signal;

use super::certificates::Certificates;
use super::process::{free_port, poll, wait_for_port, Folder, Process, PATIENCE};
use super::wire::Wire;

/// Password of every role but `postgres`.
pub(crate) const PASSWORD: &str = "hunter2";

/// Roles whose login the server checks by scram-sha-256, md5, cleartext password, and not at all.
pub(crate) const ALICE: &str = "alice";
pub(crate) const MD5_USER: &str = "md5_user";
pub(crate) const PLAIN_USER: &str = "plain_user";
pub(crate) const TRUSTED_USER: &str = "trusted_user";

const HBA: &str = "
local all all                        trust
host  all postgres     127.0.0.1/32  trust
host  all trusted_user 127.0.0.1/32  trust
host  all plain_user   127.0.0.1/32  password
host  all md5_user     127.0.0.1/32  md5
host  all all          127.0.0.1/32  scram-sha-256
";

const ROLES: &str = "
CREATE ROLE alice LOGIN PASSWORD 'hunter2';
CREATE ROLE plain_user LOGIN PASSWORD 'hunter2';
CREATE ROLE trusted_user LOGIN;
SET password_encryption = 'md5';
CREATE ROLE md5_user LOGIN PASSWORD 'hunter2';
";

/// In front of the others on the cluster that encrypts.
const HBA_TLS: &str = "
hostssl   all cert_user 127.0.0.1/32  cert
hostssl   all tls_only  127.0.0.1/32  scram-sha-256
hostnossl all tls_only  127.0.0.1/32  reject
hostssl   all checked   127.0.0.1/32  scram-sha-256 clientcert=verify-ca
";

const ROLES_TLS: &str = "
SET password_encryption = 'scram-sha-256';
CREATE ROLE cert_user LOGIN;
CREATE ROLE tls_only LOGIN PASSWORD 'hunter2';
CREATE ROLE checked LOGIN PASSWORD 'hunter2';
";

const SETTINGS_TLS: &str = "
ssl = on
ssl_ca_file = 'authority.crt'
";

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 200
max_prepared_transactions = 100
password_encryption = 'scram-sha-256'
shared_buffers = '128MB'
max_wal_size = '256MB'
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
log_min_messages = fatal
";

/// How many wait for a lock in the database where it is asked, outside of a transaction: in one, the activity that was seen first
/// is seen again. Of `pg_locks`, those who wait for a row cannot be told from those of other tests.
pub(crate) const LOCK_WAITS: &str = "SELECT count(*) FROM pg_stat_activity \
     WHERE datname = current_database() AND wait_event_type = 'Lock'";

thread_local! {
    /// The databases of the test that this thread runs.
    static MADE: RefCell<Made> = const { RefCell::new(Made(Vec::new())) };
}

/// Databases by their cluster's port, dropped when their test has ended: 7 MB each, of which a run makes over a thousand.
struct Made(Vec<(u16, String)>);

impl Drop for Made {
    fn drop(&mut self) {
        for (port, name) in self.0.drain(..) {
            // Ignored: nobody would hear of it, and the cluster's folder goes away at the end.
            let _ = std::panic::catch_unwind(|| {
                Wire::connect(port, "postgres", "postgres", "")
                    .query(&format!("DROP DATABASE {name} WITH (FORCE)"))
            });
        }
    }
}

/// A running cluster.
pub(crate) struct Postgres {
    port: u16,
    bin: PathBuf,
    owner: Owner,
    /// Do other tests use it after the one that runs now?
    outlives: bool,
    // The server first: it is killed before its folder is removed.
    server: Process,
    folder: Folder,
}

impl Postgres {
    /// The cluster that all tests of this binary share; each takes a database of its own.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(None).outliving())
    }

    /// Another one, with the certificate `server` and roles that need TLS.
    pub(crate) fn encrypted() -> &'static Self {
        static ENCRYPTED: OnceLock<Postgres> = OnceLock::new();
        ENCRYPTED.get_or_init(|| Self::start(Some(Certificates::shared())).outliving())
    }

    /// A cluster for one test alone, that it may restart.
    pub(crate) fn own() -> Self {
        Self::start(None)
    }

    fn outliving(self) -> Self {
        let outlives = true;
        Self { outlives, ..self }
    }

    fn start(tls: Option<&Certificates>) -> Self {
        let folder = Folder::new("postgres");
        let owner = Owner::find();
        let bin = programs(&owner);
        let data = folder.path().join("data");
        owner.take(folder.path());

        let made = owner
            .command(&bin.join("initdb"))
            .arg("-D")
            .arg(&data)
            .args([
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ])
            .output()
            .expect("run initdb");
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );

        let port = free_port();
        let conf = data.join("postgresql.conf");
        let defaults = std::fs::read_to_string(&conf).expect("initdb wrote it");
        let sockets = folder.path().display();
        let (hba, settings, roles) = match tls {
            None => ("", "", ""),
            Some(_) => (HBA_TLS, SETTINGS_TLS, ROLES_TLS),
        };
        for (from, to) in [
            ("authority.crt", "authority.crt"),
            ("server.crt", "server.crt"),
            ("server.key", "server.key"),
        ] {
            if let Some(certificates) = tls {
                let to = data.join(to);
                std::fs::copy(certificates.path(from), &to).expect("copy a certificate");
                owner.take(&to);
            }
        }
        std::fs::write(
            conf,
            format!("{defaults}{SETTINGS}{settings}port = {port}\nunix_socket_directories = '{sockets}'\n"),
        )
        .expect("write postgresql.conf");
        std::fs::write(data.join("pg_hba.conf"), format!("{hba}{HBA}")).expect("write pg_hba.conf");

        let postgres = Self {
            port,
            outlives: false,
            server: launch(&owner, &bin, folder.path(), port),
            bin,
            owner,
            folder,
        };
        postgres.admin("postgres").query(&format!("{ROLES}{roles}"));
        postgres
    }

    /// Shuts it down as `pg_ctl restart` does, then starts it again.
    pub(crate) fn restart(&mut self) {
        self.restart_by(Signal::INT);
    }

    /// The same by another signal: `QUIT` is `pg_ctl restart -m immediate`.
    pub(crate) fn restart_by(&mut self, signal: Signal) {
        self.server.signal(signal);
        self.server.wait(PATIENCE);
        self.launch();
    }

    /// Kills it with all of its processes, as a power switch would.
    pub(crate) fn crash(&mut self) {
        kill_all(&mut self.server);
    }

    /// Sends its postmaster a signal: stopped, that lets nobody in, and passes no cancel request on.
    pub(crate) fn signal(&self, signal: Signal) {
        self.server.signal(signal);
    }

    /// Starts it again.
    pub(crate) fn launch(&mut self) {
        self.server = launch(&self.owner, &self.bin, self.folder.path(), self.port);
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Folder with `psql`, `pgbench` and the server's programs.
    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// Makes an empty database owned by `alice` and returns its name. It is dropped when the calling test has ended.
    pub(crate) fn database(&self, label: &str) -> String {
        self.database_with(label, "")
    }

    /// The same with more options of CREATE DATABASE.
    pub(crate) fn database_with(&self, label: &str, options: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{label}_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let sql = format!("CREATE DATABASE {name} OWNER alice {options}");
        assert_eq!(
            self.admin("postgres").query(&sql),
            "C:CREATE_DATABASE Z:I",
            "{sql}"
        );
        if self.outlives {
            MADE.with_borrow_mut(|made| made.0.push((self.port, name.clone())));
        }
        name
    }

    /// A superuser's connection that does not pass through pgdog.
    pub(crate) fn admin(&self, database: &str) -> Wire {
        Wire::connect(self.port, "postgres", database, "")
    }

    /// First value of the first row of a superuser's query.
    pub(crate) fn value(&self, database: &str, sql: &str) -> String {
        self.admin(database).value(sql)
    }

    /// Number of server connections that clients of any kind hold to `database`, but for checks of pgdog.
    pub(crate) fn connections(&self, database: &str) -> usize {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND backend_type = 'client backend' AND application_name <> 'pgdog check'"
        );
        self.value("postgres", &sql).parse().expect("a count")
    }
}

/// Starts the server, and waits until it lets clients in.
pub(crate) fn launch(owner: &Owner, bin: &Path, folder: &Path, port: u16) -> Process {
    let log = std::fs::File::create(folder.join("log")).expect("create the log");
    let mut server = Process::start(
        "postgres",
        "QUIT",
        owner
            .command(&bin.join("postgres"))
            .arg("-D")
            .arg(folder.join("data"))
            .stdout(Stdio::null())
            .stderr(log),
    );
    wait_for_port(port, || server.is_running());
    poll(PATIENCE, "PostgreSQL to accept logins", || {
        Wire::login(port, "postgres", "postgres", "").ok()
    });
    server
}

/// Kills a server and all of its processes at once.
pub(crate) fn kill_all(server: &mut Process) {
    let children = children(server.id());
    server.signal(Signal::KILL);
    signal_all(&children, Signal::KILL);
    server.wait(PATIENCE);
    // Until the last one is gone the server would not start again.
    let gone = |child: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat"));
        // One that nobody has waited for yet holds nothing any more.
        stat.map_or(true, |stat| stat.contains(") Z "))
    };
    poll(PATIENCE, "its processes to be gone", || {
        children.iter().all(gone).then_some(())
    });
}

/// Signals these processes, as far as they are there.
pub(crate) fn signal_all(processes: &[i32], signal: Signal) {
    for process in processes {
        let pid = rustix::process::Pid::from_raw(*process).expect("not zero");
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The processes that a process has started.
pub(crate) fn children(parent: u32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Who runs the server: PostgreSQL refuses to be started by root.
pub(crate) struct Owner(Option<(u32, u32)>);

impl Owner {
    pub(crate) fn find() -> Self {
        if !rustix::process::getuid().is_root() {
            return Self(None);
        }
        let users = std::fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
        let fields = users
            .lines()
            .find_map(|line| line.strip_prefix("postgres:"))
            .expect("a user postgres");
        let mut numbers = fields
            .split(':')
            .skip(1)
            .map(|field| field.parse::<u32>().expect("an id"));
        let uid = numbers.next().expect("a user id");
        Self(Some((uid, numbers.next().expect("a group id"))))
    }

    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").stdin(Stdio::null());
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid);
        }
        command
    }

    pub(crate) fn take(&self, folder: &Path) {
        if let Some((uid, gid)) = self.0 {
            std::os::unix::fs::chown(folder, Some(uid), Some(gid)).expect("root may");
        }
    }
}

/// The folder of the programs, which their user must be able to run.
pub(crate) fn programs(owner: &Owner) -> PathBuf {
    let bin = std::env::var_os("PG_BIN").map_or_else(
        || PathBuf::from("/usr/lib/postgresql/15/bin"),
        PathBuf::from,
    );
    let postgres = bin.join("postgres");
    let runs = owner.command(&postgres).arg("--version").output();
    assert!(
        runs.is_ok_and(|output| output.status.success()),
        "cannot run {}: is it installed (`make test` does), and may the user postgres get there?",
        postgres.display()
    );
    bin
}
