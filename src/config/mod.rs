//! The configuration: validated, immutable, one part per owner.
//!
//! [`resolve()`] turns the texts of pgdog.toml and users.toml, the environment and the flags into one [`Config`]; all
//! inheritance ends there. An `Arc<Config>` is what a reload sends to the cores, and modules receive the part that is
//! theirs. Each setting is one line in the table of its section (`general.rs`, `file.rs`, `sharding.rs`, `users.rs`),
//! from which reading, environment names, `SHOW CONFIG`, [`diff()`] and the text of the shipped files follow.

pub mod amend;
mod balancing;
mod check;
pub mod choice;
pub mod cli;
mod database_url;
pub mod diff;
mod document;
mod environment;
mod file;
mod general;
pub mod guests;
pub mod listing;
mod not_in_effect;
mod observation;
mod problem;
mod rds;
#[cfg(test)]
mod reference;
pub mod resolve;
mod routing;
mod secret;
mod section;
mod sharding;
mod sharding_tables;
mod users;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::sharding::ShardingTables;
use choice::{
    AuthType, ClientRecovery, ConnectionRecovery, LogFormat, MirrorLevel, PassthroughAuth,
    PoolerMode, PreparedStatements, QueryParser, QuerySizeAction, Role, TlsVerify,
};
use database_url::DatabaseUrl;
use document::Entry;
use file::File;
use problem::Problems;
use section::Section;
use users::UsersFile;

pub use balancing::{Balancing, Pace};
pub use diff::{diff, Change};
pub use environment::{Environment, Overrides};
pub use guests::{Guest, GuestSecret};
pub use problem::Problem;
pub use resolve::{resolve, resolve_with, Resolved, Source, Sources};
pub use routing::Routing;
pub use secret::Secret;
pub use section::Reload;
pub use sharding_tables::ReadFile;

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: Listen,
    /// How many cores serve them; `None` means all that the process may use.
    pub workers: Option<NonZeroUsize>,
    /// Certificates, and what is demanded of others'.
    pub tls: TlsSettings,
    /// Login and limits of clients.
    pub clients: ClientLimits,
    /// Limits of server connections, the same for all pools.
    pub servers: ServerLimits,
    /// How long a shutdown may take.
    pub shutdown: ShutdownLimits,
    /// How servers are chosen, checked and banned.
    pub balancing: Balancing,
    /// Prepared statements.
    pub prepared: PreparedLimits,
    /// How statements are read and routed.
    pub routing: Routing,
    /// Log lines.
    pub log: LogSettings,
    /// Averages are those of the last whole period.
    pub stats_period: Duration,
    /// Who may watch, and how.
    pub observation: Observation,
    /// Socket options, both sides.
    pub tcp: TcpOptions,
    /// The admin database and who may use it.
    pub admin: AdminIdentity,
    /// Who this process is among its siblings.
    pub instance: Instance,
    /// The log of two-phase commits; `None`: there is none, and a crash leaves prepared transactions.
    pub commit_log: Option<CommitLogSettings>,
    /// Databases as clients see them, in the order of their names.
    pub clusters: Vec<Cluster>,
    /// One for each user, database and server; in the order of user, database, shard, file.
    pub pools: Vec<PoolConfig>,
    /// Who may use which database.
    pub users: Users,
    /// Databases whose traffic is copied.
    pub mirrors: Vec<Mirror>,
    /// What the files say, for `SHOW CONFIG` and for [`diff()`].
    file: File,
    users_file: UsersFile,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address or name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Where certificates and keys are, and what is demanded of others'. All files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Our certificate and key for clients; `None`: no TLS for them.
    pub clients: Option<CertificateFiles>,
    /// CAs of client certificates; `None`: none are asked for.
    pub client_ca: Option<PathBuf>,
    /// Towards servers.
    pub servers: TlsVerify,
    /// CAs of servers; `None`: those of the system.
    pub server_ca: Option<PathBuf>,
    /// Our certificate and key for servers.
    pub server_identity: Option<CertificateFiles>,
}

/// Files of a certificate, with those that lead to its CA, and of its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Certificates.
    pub certificate: PathBuf,
    /// Private key.
    pub private_key: PathBuf,
}

/// Login and limits of clients. A `None` limit is disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// How they prove who they are.
    pub auth_type: AuthType,
    /// May servers be asked about their passwords?
    pub passthrough: PassthroughAuth,
    /// Asks a server for the verifier of a user who has no password here; its `$1` is the user's name.
    pub auth_query: String,
    /// Those who do not encrypt are refused.
    pub tls_required: bool,
    /// Time to finish logging in.
    pub login_timeout: Option<Duration>,
    /// So many per core in use, before one more serves any: [`spread`](crate::spread).
    pub per_core: usize,
    /// Silence allowed outside of transactions.
    pub idle_timeout: Option<Duration>,
    /// Silence allowed inside of transactions.
    pub idle_in_transaction_timeout: Option<Duration>,
    /// Largest `Query` or `Parse` message in bytes, header included.
    pub query_bytes_max: Option<u64>,
    /// What happens to a larger one.
    pub query_size_action: QuerySizeAction,
    /// What happens after an error of the pool.
    pub recovery: ClientRecovery,
}

/// Limits of server connections, the same for all pools. A `None` limit is disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Time to connect and log in, per try.
    pub connect_timeout: Option<Duration>,
    /// Tries, at least 1.
    pub connect_attempts: usize,
    /// Pause between them.
    pub connect_attempt_delay: Duration,
    /// Time to clean up an abandoned transaction.
    pub rollback_timeout: Option<Duration>,
    /// Time for one response.
    pub query_timeout: Option<Duration>,
    /// What happens when a client leaves abruptly.
    pub recovery: ConnectionRecovery,
}

/// How long a shutdown may take. A `None` limit is disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownLimits {
    /// Grace for transactions.
    pub timeout: Option<Duration>,
    /// If set: afterwards running queries are cancelled, and waited for this long at most.
    pub termination_timeout: Option<Duration>,
}

/// Prepared statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedLimits {
    /// Which ones work. Session mode forces them off: see [`PoolConfig::mode`].
    pub level: PreparedStatements,
    /// Statements per server connection, and soft cap of the shared cache.
    pub statements_max: Option<u64>,
}

/// Log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Their format.
    pub format: LogFormat,
    /// Filter directives in the syntax of `RUST_LOG`.
    pub level: String,
    /// One line for each login.
    pub connections: bool,
    /// One line for each exit.
    pub disconnections: bool,
    /// Window for collapsing repeated lines, and repeats allowed in it; `None` is off.
    pub dedup: Option<(Duration, usize)>,
    /// Texts whose analysis is slower than this are warned about.
    pub min_duration_parse: Option<Duration>,
    /// Queries that are slower than this are warned about.
    pub min_duration_query: Option<Duration>,
    /// Every query is appended to this file.
    pub queries_file: Option<PathBuf>,
    /// Every query is printed.
    pub queries_to_stdout: bool,
    /// Characters of SQL shown.
    pub query_sample_chars: usize,
}

/// Socket options, both sides. `None` leaves them to the operating system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Send keep-alive probes.
    pub keepalive: bool,
    /// Idle time before probing.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
    /// Failed probes before closing.
    pub retries: Option<u32>,
    /// Time that sent data may stay unacknowledged (Linux).
    pub user_timeout: Option<Duration>,
    /// Name of the algorithm (Linux).
    pub congestion_control: Option<String>,
}

/// The admin database and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminIdentity {
    /// Its name.
    pub name: String,
    /// Its only user.
    pub user: String,
    /// `None`: nobody can log in.
    pub password: Option<Secret>,
    /// It has to show a certificate, if clients are asked for one.
    pub certificate_required: bool,
}

/// Who may watch, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// HTTP port for metrics.
    pub metrics_port: Option<u16>,
    /// In front of each metric's name.
    pub namespace: String,
    /// HTTP port for health checks.
    pub health_port: Option<u16>,
    /// Export of metrics.
    pub otlp: Option<Otlp>,
}

/// Export of metrics by OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// URL.
    pub endpoint: String,
    /// In front of each metric's name, with a dot between.
    pub namespace: String,
    /// Additional headers.
    pub headers: Vec<(String, Secret)>,
    /// Time between exports.
    pub interval: Duration,
    /// `OTEL_SERVICE_NAME`.
    pub service: String,
    /// `OTEL_RESOURCE_ATTRIBUTES`, decoded.
    pub attributes: Vec<(String, String)>,
}

/// Who this process is among its siblings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// `NODE_ID`; unset, the process draws eight hexadecimal digits.
    pub node_id: Option<String>,
    /// `DEPLOYMENT_ID`, part of names in two-phase commit.
    pub deployment_id: Option<String>,
}

/// The log of two-phase commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitLogSettings {
    /// Where its segments are.
    pub folder: PathBuf,
    /// A segment of so many bytes is followed by another one.
    pub segment_bytes: u64,
    /// How long more records are waited for before they are synchronised.
    pub gather: Duration,
    /// Age at which a segment is followed by another one.
    pub checkpoint: Duration,
}

/// A database as clients see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Name that clients use.
    pub name: String,
    /// Its shards in the order of their numbers, at least one.
    pub shards: Vec<Shard>,
    /// How its tables are spread over them.
    pub sharding: ShardingTables,
    /// Reads of a client see what it has committed.
    pub read_your_writes: bool,
    /// When its statements are parsed.
    pub parser: QueryParser,
}

/// One part of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Number, from 0.
    pub number: u32,
    /// Its servers in the order of the file, at least one.
    pub servers: Vec<Server>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: ServerAddress,
    /// What it does.
    pub role: Role,
    /// Weight under `weighted_round_robin`.
    pub weight: u8,
    /// Is ordinary traffic kept away?
    pub resharding_only: bool,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress {
    /// Host or socket directory.
    pub host: Host,
    /// Port, also part of a Unix socket's name.
    pub port: u16,
    /// Name of the database on the server.
    pub database_name: String,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// IP address or DNS name.
    Tcp(String),
    /// Directory of a Unix socket: the setting begins with `/`.
    Unix(PathBuf),
}

impl From<&str> for Host {
    fn from(host: &str) -> Self {
        if host.starts_with('/') {
            Self::Unix(PathBuf::from(host))
        } else {
            Self::Tcp(host.to_owned())
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host) => f.write_str(host),
            Self::Unix(directory) => directory.display().fmt(f),
        }
    }
}

impl ServerAddress {
    /// Path of the socket, for a Unix host: `<directory>/.s.PGSQL.<port>`.
    ///
    /// Source: <https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-UNIX-SOCKET-DIRECTORIES>
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.host {
            Host::Tcp(_) => None,
            Host::Unix(directory) => Some(directory.join(format!(".s.PGSQL.{}", self.port))),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database_name)
    }
}

/// The pool of one user on one server, with all inheritance done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Login name of the clients.
    pub user: String,
    /// Database that they ask for.
    pub database: String,
    /// Shard of the server.
    pub shard: u32,
    /// Role of the server.
    pub role: Role,
    /// Where the server is.
    pub address: ServerAddress,
    /// As whom to log in there.
    pub login: ServerLogin,
    /// How long a client keeps its connection.
    pub mode: PoolerMode,
    /// How many connections, and for how long.
    pub limits: PoolLimits,
    /// Parameters for the startup packet, in the order of their names.
    pub startup: Vec<(&'static str, String)>,
}

/// As whom to log in to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLogin {
    /// User on the server.
    pub user: String,
    /// Passwords to try in turn; none with an external identity.
    pub passwords: Vec<Secret>,
    /// What stands for a password that is not known: as of [`GuestSecret::Keys`].
    pub keys: Option<Secret>,
    /// The password is a token of AWS IAM for RDS, signed for this region.
    pub iam_region: Option<String>,
}

/// How many connections a pool may have, and for how long. A `None` limit is disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Most connections, over all cores; at least 1.
    pub size: usize,
    /// Connections kept open, over all cores; at most `size`.
    pub size_min: usize,
    /// Longest wait for a connection.
    pub checkout_timeout: Option<Duration>,
    /// Idle connections above `size_min` are closed after this.
    pub idle_timeout: Option<Duration>,
    /// Older connections are retired at checkin.
    pub lifetime: Option<Duration>,
    /// Each lifetime is drawn once from `lifetime` ± this.
    pub lifetime_jitter: Duration,
}

/// Who may use which database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    by_database: BTreeMap<String, BTreeMap<String, User>>,
}

impl Users {
    /// The entry of this user for this database.
    pub fn find(&self, user: &str, database: &str) -> Option<&User> {
        self.by_database.get(database)?.get(user)
    }

    /// All entries, in the order of database and user.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.by_database.values().flat_map(BTreeMap::values)
    }

    /// Puts an entry in the place of the one that there may be.
    fn replace(&mut self, user: User) {
        let users = self.by_database.entry(user.database.clone()).or_default();
        users.insert(user.name.clone(), user);
    }

    fn insert(&mut self, user: User) -> Result<(), User> {
        let users = self.by_database.entry(user.database.clone()).or_default();
        match users.contains_key(&user.name) {
            true => Err(user),
            false => {
                users.insert(user.name.clone(), user);
                Ok(())
            }
        }
    }
}

/// A user of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Name of the database.
    pub database: String,
    /// How this user may prove to be that user.
    pub credentials: Credentials,
    /// Refuse clients without a certificate, where those are asked for.
    pub certificate_required: bool,
    /// Refuse statements that need several shards.
    pub cross_shard_disabled: bool,
    /// Two-phase commit for writes to several shards.
    pub two_phase_commit: TwoPhaseCommit,
    /// Used for loading the schema.
    pub schema_admin: bool,
    /// Who says that there is this user.
    pub origin: Origin,
}

/// Who says that there is a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The files.
    Files,
    /// A server.
    Guest(Box<Guest>),
}

/// When writes to several shards are committed in two phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwoPhaseCommit {
    /// Never.
    Off,
    /// In explicit transactions.
    Transactions,
    /// For single statements too.
    Statements,
}

/// How a client may prove to be a user. Any of them is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Accepted passwords, the first one first.
    pub passwords: Vec<Secret>,
    /// SCRAM verifier, `SCRAM-SHA-256$…`.
    pub password_hash: Option<Secret>,
    /// Name in the client's TLS certificate; replaces the two above.
    pub identity: Option<String>,
}

impl Credentials {
    /// No way to log in, except under `trust` or by passthrough.
    pub fn is_empty(&self) -> bool {
        self.passwords.is_empty() && self.password_hash.is_none() && self.identity.is_none()
    }
}

/// A copy of one database's traffic for another.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Whose traffic.
    pub source: String,
    /// For whom.
    pub destination: String,
    /// Transactions queued.
    pub queue_max: usize,
    /// Share of transactions, 0 to 1.
    pub exposure: f64,
    /// Which statements.
    pub level: MirrorLevel,
}

impl Config {
    /// The cluster of this name.
    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        let at = self
            .clusters
            .binary_search_by(|cluster| cluster.name.as_str().cmp(name))
            .ok()?;
        self.clusters.get(at)
    }

    /// Pools of one user on one database.
    pub fn pools_of<'a>(
        &'a self,
        user: &'a str,
        database: &'a str,
    ) -> impl Iterator<Item = &'a PoolConfig> {
        self.pools
            .iter()
            .filter(move |pool| pool.user == user && pool.database == database)
    }

    /// How many cores serve, given how many there are, and what to tell the operator about it.
    pub fn workers(&self, available: NonZeroUsize) -> (NonZeroUsize, Option<String>) {
        match self.workers {
            None => (available, None),
            Some(workers) if workers > available => (
                available,
                Some(format!(
                    "workers = {workers} is more than the {available} cores available"
                )),
            ),
            Some(workers) if workers < available => {
                let hint = format!("workers = {workers} leaves cores unused, there are {available}; workers = 0 uses all");
                (workers, Some(hint))
            }
            Some(workers) => (workers, None),
        }
    }

    /// Rows of `SHOW CONFIG`, names and values: `[general]` by name, then `tcp_*`, then `memory_*`.
    pub fn show(&self) -> Vec<(String, String)> {
        fn rows<S: Section>(prefix: &str, section: &Entry<S>) -> Vec<(String, String)> {
            let names = S::SETTINGS
                .iter()
                .map(|setting| format!("{prefix}{}", setting.name));
            let mut rows: Vec<_> = names.zip(section.value.shown()).collect();
            rows.sort();
            rows
        }
        let mut all = rows("", &self.file.general);
        all.extend(rows("tcp_", &self.file.tcp));
        all.extend(rows("memory_", &self.file.memory));
        all
    }

    /// How to connect to the server of a URL, for PROBE. Errors: what is wrong with it, without a part of it.
    pub fn probe(&self, url: &str) -> Result<PoolConfig, String> {
        let mut problems = Problems::default();
        let url = DatabaseUrl::parse(url)?;
        let (database, user) = environment::entries("url", url, &mut problems);
        if let Some(problem) = problems.errors.first() {
            return Err(problem.to_string());
        }
        Ok(resolve::pool(
            &self.file.general.value,
            &database,
            &user,
            &mut problems,
        ))
    }
}

#[cfg(test)]
mod tests;
