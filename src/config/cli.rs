//! The command line.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand};

use super::environment::Overrides;
use super::secret::Secret;

/// PostgreSQL connection pooler, load balancer and sharder.
#[derive(Clone, Debug, Parser)]
#[command(name = "pgdog", version, about)]
pub struct Cli {
    #[command(flatten)]
    files: Files,

    /// What to do; without it, serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Where the configuration is.
#[derive(Clone, Debug, Default, Args)]
pub struct Files {
    /// Settings and databases [default: pgdog.toml]
    #[arg(short, long, value_name = "PATH")]
    config: Option<PathBuf>,

    /// Users [default: users.toml]
    #[arg(short, long, value_name = "PATH")]
    users: Option<PathBuf>,

    /// Database and user instead of those of the files; can be repeated
    #[arg(short, long, value_name = "URL")]
    database_url: Vec<Secret>,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve
    Run(Run),
    /// Check both files
    Configcheck(Files),
    /// Print the SCRAM verifier of a password, for password_hash
    Hash {
        /// The password
        password: Secret,
    },
    /// Print where queries would go
    Route {
        /// Log in as
        #[arg(short, long)]
        user: String,
        /// Database
        #[arg(short, long)]
        database: String,
        /// File of queries
        #[arg(short, long, required_unless_present = "queries")]
        file: Option<PathBuf>,
        /// Queries
        queries: Vec<String>,
    },
    /// Copy the schema to another database
    SchemaSync {
        /// Source and target
        #[command(flatten)]
        databases: Databases,
        /// Print the statements only
        #[arg(long)]
        dry_run: bool,
        /// Go on after failed statements
        #[arg(long)]
        ignore_errors: bool,
        /// The phase after the data is there: indexes, constraints
        #[arg(long, conflicts_with = "cutover")]
        data_sync_complete: bool,
        /// The phase at cutover: sequences
        #[arg(long)]
        cutover: bool,
    },
    /// Copy the data to another database, then follow its changes
    DataSync {
        /// Source and target
        #[command(flatten)]
        databases: Databases,
        /// Name of the slot
        #[arg(long)]
        replication_slot: Option<String>,
        /// Follow changes only
        #[arg(long, conflicts_with = "sync_only")]
        replicate_only: bool,
        /// Copy only
        #[arg(long)]
        sync_only: bool,
        /// Leave the schema alone
        #[arg(long)]
        skip_schema_sync: bool,
    },
    /// Schema, data, changes and cutover in one go
    ReplicateAndCutover {
        /// Source and target
        #[command(flatten)]
        databases: Databases,
        /// Name of the slot
        #[arg(long)]
        replication_slot: Option<String>,
    },
    /// Install what sharding needs on every shard
    Setup {
        /// Database
        #[arg(long)]
        database: String,
    },
    /// Print the shape of statements
    Fingerprint {
        /// One statement
        #[arg(long, required_unless_present = "path", conflicts_with = "path")]
        query: Option<String>,
        /// File of statements
        #[arg(long)]
        path: Option<PathBuf>,
    },
}

/// Flags of `run`.
#[derive(Clone, Debug, Default, Args)]
pub struct Run {
    #[command(flatten)]
    files: Files,

    /// Overrides default_pool_size
    #[arg(short, long)]
    pool_size: Option<usize>,

    /// Overrides min_pool_size
    #[arg(short, long)]
    min_pool_size: Option<usize>,

    /// Overrides pooler_mode: session, or transaction if false
    #[arg(short, long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    session_mode: Option<bool>,
}

/// Source and target of a copy.
#[derive(Clone, Debug, Args)]
pub struct Databases {
    /// Source
    #[arg(long)]
    pub from_database: String,
    /// Target
    #[arg(long)]
    pub to_database: String,
    /// Publication on the source
    #[arg(long)]
    pub publication: String,
}

impl Cli {
    /// Path of pgdog.toml.
    pub fn config_path(&self) -> &Path {
        let inner = self.inner_files().and_then(|files| files.config.as_deref());
        inner
            .or(self.files.config.as_deref())
            .unwrap_or_else(|| Path::new("pgdog.toml"))
    }

    /// Path of users.toml.
    pub fn users_path(&self) -> &Path {
        let inner = self.inner_files().and_then(|files| files.users.as_deref());
        inner
            .or(self.files.users.as_deref())
            .unwrap_or_else(|| Path::new("users.toml"))
    }

    /// What the flags say over the files.
    pub fn overrides(&self) -> Overrides {
        let inner = self
            .inner_files()
            .map_or(&[][..], |files| &files.database_url);
        let run = match &self.command {
            Some(Command::Run(run)) => run.clone(),
            _ => Run::default(),
        };
        Overrides {
            database_urls: [&self.files.database_url, inner].concat(),
            pool_size: run.pool_size,
            pool_size_min: run.min_pool_size,
            session_mode: run.session_mode,
        }
    }

    /// Flags of [`Files`] are taken before and after `run` and `configcheck`.
    fn inner_files(&self) -> Option<&Files> {
        match &self.command {
            Some(Command::Run(run)) => Some(&run.files),
            Some(Command::Configcheck(files)) => Some(files),
            _ => None,
        }
    }
}

impl Command {
    /// The answer to a command that is not built yet; it ends the program with status 1.
    pub fn unavailable(&self) -> Option<String> {
        let name = match self {
            Self::Run(_) | Self::Configcheck(_) | Self::Hash { .. } | Self::Route { .. } => {
                return None
            }
            Self::SchemaSync { .. } => "schema-sync",
            Self::DataSync { .. } => "data-sync",
            Self::ReplicateAndCutover { .. } => "replicate-and-cutover",
            Self::Setup { .. } => "setup",
            Self::Fingerprint { .. } => "fingerprint",
        };
        Some(format!("{name} is not available yet"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    #[test]
    fn consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn files_before_and_after_the_command() {
        for (line, config, users, urls) in [
            ("pgdog", "pgdog.toml", "users.toml", 0),
            ("pgdog -c a -u b", "a", "b", 0),
            ("pgdog --config a --users b run", "a", "b", 0),
            ("pgdog run -c a -u b -d postgres://u@h/d", "a", "b", 1),
            (
                "pgdog -c a -d x configcheck -c c -d y",
                "c",
                "users.toml",
                2,
            ),
        ] {
            let cli = parse(line);
            assert_eq!(cli.config_path(), Path::new(config), "{line}");
            assert_eq!(cli.users_path(), Path::new(users), "{line}");
            assert_eq!(cli.overrides().database_urls.len(), urls, "{line}");
        }
    }

    #[test]
    fn flags_of_run() {
        for (line, size, min, session) in [
            ("pgdog run", None, None, None),
            ("pgdog run -p 5 -m 2 -s true", Some(5), Some(2), Some(true)),
            (
                "pgdog run --pool-size 5 --session-mode false",
                Some(5),
                None,
                Some(false),
            ),
            ("pgdog run -s", None, None, Some(true)),
        ] {
            let overrides = parse(line).overrides();
            let found = (
                overrides.pool_size,
                overrides.pool_size_min,
                overrides.session_mode,
            );
            assert_eq!(found, (size, min, session), "{line}");
        }
    }

    #[test]
    fn every_command_parses_and_unbuilt_ones_say_so() {
        for (line, unavailable) in [
            ("pgdog run", None),
            ("pgdog configcheck", None),
            ("pgdog hash secret", None),
            ("pgdog route -u u -d d -f f", None),
            ("pgdog schema-sync --from-database a --to-database b --publication p --dry-run --ignore-errors --cutover", Some("schema-sync is not available yet")),
            ("pgdog data-sync --from-database a --to-database b --publication p --replication-slot s --sync-only --skip-schema-sync", Some("data-sync is not available yet")),
            ("pgdog replicate-and-cutover --from-database a --to-database b --publication p", Some("replicate-and-cutover is not available yet")),
            ("pgdog setup --database d", Some("setup is not available yet")),
            ("pgdog fingerprint --query x", Some("fingerprint is not available yet")),
        ] {
            let command = parse(line).command.unwrap();
            assert_eq!(command.unavailable().as_deref(), unavailable, "{line}");
        }
        assert!(Cli::try_parse_from(["pgdog", "nonsense"]).is_err());
    }

    #[test]
    fn passwords_stay_hidden() {
        for line in ["pgdog hash hunter2", "pgdog -d postgres://u:hunter2@h/d"] {
            assert!(!format!("{:?}", parse(line)).contains("hunter2"), "{line}");
        }
    }
}
