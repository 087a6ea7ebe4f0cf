//! The programs people use PostgreSQL with: psql, pgbench, Python.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

use super::postgres::{Postgres, ALICE, PASSWORD};

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// Its output, provided that it ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }
}

/// A program of PostgreSQL's, set to log in as alice.
pub(crate) fn client_program(name: &str, port: u16, database: &str) -> Command {
    let mut command = Command::new(Postgres::shared().bin().join(name));
    as_alice(&mut command, port, database);
    command
}

/// Runs SQL in psql, unaligned and without headers, stopping at the first error.
pub(crate) fn psql(port: u16, database: &str, sql: &str) -> Said {
    psql_with(port, database, &["-c", sql])
}

/// Runs psql with these arguments.
pub(crate) fn psql_with(port: u16, database: &str, arguments: &[&str]) -> Said {
    let mut command = client_program("psql", port, database);
    command
        .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
        .args(arguments);
    Said::new(&command.output().expect("run psql"))
}

/// Runs SQL in psql as another user, with these settings of libpq's on top.
pub(crate) fn psql_as(
    user: &str,
    port: u16,
    database: &str,
    settings: &[(&str, &str)],
    sql: &str,
) -> Said {
    let mut command = client_program("psql", port, database);
    command
        .env("PGUSER", user)
        // Only what is named: what the home folder may hold is not for the tests.
        .env("PGSSLCERT", "none")
        .envs(settings.iter().copied())
        .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
    Said::new(&command.output().expect("run psql"))
}

/// Creates pgbench's tables, not through pgdog.
pub(crate) fn pgbench_tables(database: &str) {
    let mut command = client_program("pgbench", Postgres::shared().port(), database);
    command.args(["-i", "-q", "-s", "1"]);
    Said::new(&command.output().expect("run pgbench")).ok();
}

/// Runs pgbench on those tables; every transaction must succeed. Returns their number.
#[track_caller]
pub(crate) fn pgbench(port: u16, database: &str, arguments: &[&str]) -> u64 {
    let mut command = client_program("pgbench", port, database);
    let said = Said::new(
        &command
            .arg("-n")
            .args(arguments)
            .output()
            .expect("run pgbench"),
    );
    assert!(
        !said.err.contains("error") && !said.err.contains("aborted"),
        "{}",
        said.err
    );
    let out = said.ok();
    let line = |name: &str| {
        out.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|rest| rest.trim().to_owned())
    };
    let failed = line("number of failed transactions:").expect("pgbench 15 counts them");
    assert!(failed.starts_with("0 "), "failed transactions: {failed}");
    let done = line("number of transactions actually processed:").expect("pgbench says so");
    done.split('/')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

/// Runs a script of `tests/drivers` with the drivers that `make test` installs.
pub(crate) fn python(script: &str, port: u16, database: &str) -> Said {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("PGDOG_TEST_PYTHON")
        .map_or_else(|| folder.join("target/venv/bin/python"), PathBuf::from);
    assert!(
        python.exists(),
        "no Python at {}: run `make test` once or set PGDOG_TEST_PYTHON",
        python.display()
    );
    let mut command = within_patience(python);
    as_alice(&mut command, port, database);
    command.arg(folder.join("tests/drivers").join(script));
    Said::new(&command.output().expect("run Python"))
}

/// A program that ends after five minutes, whatever it waits for.
fn within_patience(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg("300").arg(program);
    command
}

/// Runs a script of `tests/drivers` with this program and these arguments in front of it.
pub(crate) fn script(
    program: &str,
    arguments: &[&str],
    script: &str,
    port: u16,
    database: &str,
) -> Said {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut command = within_patience(program);
    as_alice(&mut command, port, database);
    command
        .env("NODE_PATH", folder.join("target/node/node_modules"))
        .args(arguments)
        .arg(folder.join("tests/drivers").join(script));
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; run `make test` once"));
    Said::new(&output)
}

fn as_alice(command: &mut Command, port: u16, database: &str) {
    command
        .envs([
            ("PGHOST", "127.0.0.1"),
            ("PGUSER", ALICE),
            ("PGPASSWORD", PASSWORD),
            ("PGDATABASE", database),
        ])
        .env("PGPORT", port.to_string())
        .env("PGCONNECT_TIMEOUT", "30")
        .env_remove("PGSSLMODE")
        .env_remove("PGOPTIONS");
}
