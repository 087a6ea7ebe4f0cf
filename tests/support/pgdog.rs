//! Starts the built pgdog with a configuration of the test's own, and stops it.
//!
//! With `PGDOG_TEST_DIRECT=1` clients get PostgreSQL's own port instead: a test of plain PostgreSQL
//! behaviour that fails there expects the wrong thing.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::postgres::{Postgres, ALICE, PASSWORD};
use super::process::{free_port, poll, wait_for_port, Folder, Process, PATIENCE};
use super::wire::Wire;

/// Password of the admin database.
pub(crate) const ADMIN_PASSWORD: &str = "sesame";

/// What the two configuration files shall say.
#[derive(Clone)]
pub(crate) struct Config {
    general: String,
    databases: String,
    users: String,
    wrapper: Vec<String>,
}

impl Config {
    /// One database on the shared cluster and the user alice; everything else by default.
    pub(crate) fn of(database: &str) -> Self {
        Self::empty().database(database, "").user(
            ALICE,
            database,
            &format!("password = {PASSWORD:?}"),
        )
    }

    pub(crate) fn empty() -> Self {
        Self {
            general: String::new(),
            databases: String::new(),
            users: String::new(),
            wrapper: Vec::new(),
        }
    }

    /// Adds lines to `[general]`.
    pub(crate) fn general(mut self, lines: &str) -> Self {
        self.general += &format!("{lines}\n");
        self
    }

    /// Has no other lines in `[general]` than these.
    pub(crate) fn only_general(mut self, lines: &str) -> Self {
        self.general.clear();
        self.general(lines)
    }

    /// Adds a database of the shared cluster, with more lines for its entry.
    pub(crate) fn database(self, name: &str, lines: &str) -> Self {
        self.server(name, Postgres::shared().port(), lines)
    }

    /// Adds a database of any server on this machine.
    pub(crate) fn server(self, name: &str, port: u16, lines: &str) -> Self {
        self.host(name, "127.0.0.1", port, lines)
    }

    /// Adds a database of a server by its name, address or the folder of its Unix socket.
    pub(crate) fn host(mut self, name: &str, host: &str, port: u16, lines: &str) -> Self {
        self.databases +=
            &format!("[[databases]]\nname = {name:?}\nhost = {host:?}\nport = {port}\n{lines}\n");
        self
    }

    /// Adds other sections to pgdog.toml.
    pub(crate) fn more(mut self, lines: &str) -> Self {
        self.databases += lines;
        self
    }

    /// Adds a user, with more lines for its entry.
    pub(crate) fn user(mut self, name: &str, database: &str, lines: &str) -> Self {
        self.users += &format!("[[users]]\nname = {name:?}\ndatabase = {database:?}\n{lines}\n");
        self
    }

    /// Gives the admin database a password: the one that [`Pgdog::admin`] knows.
    pub(crate) fn admin(mut self) -> Self {
        self.users += &format!("[admin]\npassword = {ADMIN_PASSWORD:?}\n");
        self
    }

    /// Starts pgdog through a program that ends in `exec`, say a shell that sets limits.
    pub(crate) fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// Starts pgdog and waits until it accepts connections.
    pub(crate) fn start(&self) -> Pgdog {
        let mut pgdog = self.begin();
        pgdog.await_port();
        pgdog
    }

    /// The same where it listens on a port that somebody else has opened for it.
    pub(crate) fn start_on(&self, port: u16) -> Pgdog {
        let mut pgdog = self.begin();
        pgdog.port = port;
        poll(PATIENCE, "pgdog to listen", || {
            pgdog.log().contains("listens on").then_some(())
        });
        pgdog
    }

    /// Starts pgdog, and waits for nothing.
    pub(crate) fn begin(&self) -> Pgdog {
        Pgdog::begin(self)
    }

    fn write(&self, folder: &Path, port: u16) {
        let Self {
            general,
            databases,
            users,
            ..
        } = self;
        let pgdog =
            format!("[general]\nhost = \"127.0.0.1\"\nport = {port}\n{general}\n{databases}");
        std::fs::write(folder.join("pgdog.toml"), pgdog).expect("write pgdog.toml");
        std::fs::write(folder.join("users.toml"), users).expect("write users.toml");
    }
}

/// A running pgdog.
pub(crate) struct Pgdog {
    port: u16,
    folder: Folder,
    /// None in direct mode.
    process: Option<Process>,
}

impl Pgdog {
    fn begin(config: &Config) -> Self {
        let folder = Folder::new("pgdog");
        if std::env::var_os("PGDOG_TEST_DIRECT").is_some() {
            return Self {
                port: Postgres::shared().port(),
                folder,
                process: None,
            };
        }
        let port = free_port();
        config.write(folder.path(), port);
        let log = std::fs::File::create(folder.path().join("log")).expect("create the log");
        let mut command = match config.wrapper.split_first() {
            None => Command::new(program()),
            Some((wrapper, arguments)) => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(program());
                command
            }
        };
        command
            .args(["--config", "pgdog.toml", "--users", "users.toml"])
            .current_dir(folder.path())
            // Otherwise the first core would serve all the clients that most tests have.
            .env("PGDOG_CLIENTS_PER_CORE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate the log"))
            .stderr(log);
        let process = Process::start("pgdog", "KILL", &mut command);
        Self {
            port,
            folder,
            process: Some(process),
        }
    }

    /// Runs a subcommand with the same files: what it prints.
    pub(crate) fn call(&self, arguments: &[&str]) -> String {
        let output = Command::new(program())
            .args(["--config", "pgdog.toml", "--users", "users.toml"])
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .expect("run pgdog");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn await_port(&mut self) {
        if let Some(process) = &mut self.process {
            wait_for_port(self.port, || process.is_running());
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Logs in as alice.
    pub(crate) fn client(&self, database: &str) -> Wire {
        Wire::connect(self.port, ALICE, database, PASSWORD)
    }

    /// Logs in to the admin database.
    pub(crate) fn admin(&self) -> Wire {
        Wire::connect(self.port, "admin", "admin", ADMIN_PASSWORD)
    }

    /// Gives it other files, without telling it so.
    pub(crate) fn rewrite(&self, config: &Config) {
        config.write(self.folder.path(), self.port);
    }

    /// Takes one of its configuration files away.
    pub(crate) fn remove(&self, file: &str) {
        std::fs::remove_file(self.folder.path().join(file)).expect("it was there");
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until it has logged this: the log is written by a thread of its own.
    #[track_caller]
    pub(crate) fn logged(&self, text: &str) {
        poll(PATIENCE, text, || self.log().contains(text).then_some(()));
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Gives it another configuration and sends SIGHUP; waits until it has said what came of it.
    pub(crate) fn reload(&self, config: &Config) {
        self.rewrite(config);
        let said = |log: &str| {
            log.matches("configuration reloaded").count()
                + log.matches("configuration not changed").count()
        };
        let before = said(&self.log());
        self.signal(Signal::HUP);
        poll(PATIENCE, "the reload", || {
            (said(&self.log()) > before).then_some(())
        });
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.as_mut().map(|process| process.wait(limit))
    }

    /// Stops it as an operator would; it must end well.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        if let Some(status) = self.wait(PATIENCE) {
            assert_eq!(status.code(), Some(0), "exit after SIGTERM");
        }
    }

    /// Resident memory in kB: the most since `forget_peak`.
    pub(crate) fn peak_kb(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Resident memory in kB now; peaks are counted from here on.
    pub(crate) fn forget_peak(&self) -> u64 {
        if let Some(process) = &self.process {
            std::fs::write(format!("/proc/{}/clear_refs", process.id()), "5")
                .expect("reset the peak");
        }
        self.status("VmRSS:")
    }

    /// Descriptors that it has.
    pub(crate) fn open_files(&self) -> usize {
        let process = self.process.as_ref().map_or(0, |process| process.id());
        let files = std::fs::read_dir(format!("/proc/{process}/fd")).expect("it runs");
        files.count()
    }

    fn status(&self, name: &str) -> u64 {
        let Some(process) = &self.process else {
            return 0;
        };
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the kernel tells");
        line.trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number of kB")
    }
}

impl Drop for Pgdog {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(40).collect::<Vec<_>>();
            eprintln!("--- pgdog's log, its end:");
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// The pgdog built for these tests.
pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pgdog"))
}
