//! Two files, the environment and the flags to one [`Config`]: inheritance, defaults, all errors at once.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::sharding::SHARDS_MAX;

use super::balancing::Balancing;
use super::check::check;
use super::choice::{PassthroughAuth, QueryParser, Role, ServerAuth};
use super::document::Entry;
use super::environment::{self, Environment, Overrides};
use super::file::{Admin, Database, File};
use super::general::General;
use super::observation::observation;
use super::problem::{Problem, Problems};
use super::rds;
use super::secret::Secret;
use super::sharding::convert_legacy;
use super::sharding_tables::{load_centroids, sharding_tables, ReadFile};
use super::users::{UserEntry, UsersFile};
use super::value::{Millis, DISABLED};
use super::{
    AdminIdentity, CertificateFiles, ClientLimits, Cluster, CommitLogSettings, Config, Credentials,
    Host, Instance, Listen, LogSettings, Mirror, Origin, PoolConfig, PoolLimits, PreparedLimits,
    Routing, Server, ServerAddress, ServerLimits, ServerLogin, Shard, ShutdownLimits, TcpOptions,
    TlsSettings, TwoPhaseCommit, User, Users,
};

/// One file, already read.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its path, for messages.
    pub path: &'a str,
    /// Its text; `None` if there is no such file.
    pub text: Option<&'a str>,
}

/// All that a configuration is made of.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// pgdog.toml.
    pub config: Source<'a>,
    /// users.toml.
    pub users: Source<'a>,
    /// Variables of the process.
    pub environment: &'a Environment,
    /// Flags.
    pub overrides: &'a Overrides,
}

/// A configuration and what should be said about it.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Valid.
    pub config: Config,
    /// Each a line: where, and what will not do what its writer may expect.
    pub warnings: Vec<String>,
}

/// Builds the configuration where no setting may name a further file.
///
/// Errors: those of [`resolve_with`].
pub fn resolve(sources: &Sources<'_>) -> Result<Resolved, Vec<Problem>> {
    resolve_with(sources, &|_| Err("no file can be read here".to_owned()))
}

/// Builds the configuration; `read` reads the files that settings name.
///
/// Errors: all that were found in both files and in the flags, in the order of files and lines. A syntax error hides
/// the others of its file.
pub fn resolve_with(sources: &Sources<'_>, read: ReadFile<'_>) -> Result<Resolved, Vec<Problem>> {
    let mut problems = Problems::default();
    let config_path: Arc<str> = Arc::from(sources.config.path);
    let users_path: Arc<str> = Arc::from(sources.users.path);
    for source in [sources.config, sources.users] {
        if source.text.is_none() {
            problems.warnings.push(environment::problem(
                source.path,
                "",
                "no such file, using defaults",
            ));
        }
    }
    let (mut file, found) = File::read(&config_path, sources.config.text.unwrap_or_default());
    problems.merge(found);
    let (mut users, found) = UsersFile::read(&users_path, sources.users.text.unwrap_or_default());
    let doubtful = problems.syntax_error || found.syntax_error;
    problems.merge(found);

    environment::apply(&mut file, sources.environment, &mut problems);
    environment::apply_overrides(&mut file, sources.overrides, &mut problems);
    environment::replace_databases(
        &mut file,
        &mut users,
        sources.overrides,
        sources.environment,
        &mut problems,
    );
    if let Some(admin) = &users.admin {
        file.admin = admin.clone();
    }
    convert_legacy(&mut file, &mut problems);
    load_centroids(&mut file, read, &mut problems);
    if !doubtful {
        check(&file, &users, &mut problems);
    }
    if file.general.value.query_parser_enabled {
        file.general.value.query_parser = QueryParser::On; // once: SET may say otherwise
    }
    let config = build(file, users, sources.environment, &mut problems);
    if problems.errors.is_empty() {
        let warnings = problems.warnings.iter().map(ToString::to_string).collect();
        return Ok(Resolved { config, warnings });
    }
    let order = |problem: &Problem| {
        (
            problem.file == users_path,
            problem.file.clone(),
            problem.line,
        )
    };
    problems.errors.sort_by_key(order);
    problems.errors.dedup();
    Err(problems.errors)
}

/// Splits the files into parts. Sees invalid files too, then its result is dropped.
pub(super) fn build(
    file: File,
    users_file: UsersFile,
    environment: &Environment,
    problems: &mut Problems,
) -> Config {
    let general = &file.general.value;
    let (users, pools) = users_and_pools(&file, &users_file, problems);
    let clusters = clusters(&file, problems);
    Config {
        listen: Listen {
            host: general.host.clone(),
            port: general.port,
        },
        workers: NonZeroUsize::new(general.workers),
        tls: tls_settings(general),
        clients: client_limits(general),
        servers: server_limits(general),
        shutdown: ShutdownLimits {
            timeout: general.shutdown_timeout.limit(),
            termination_timeout: general.shutdown_termination_timeout.and_then(Millis::limit),
        },
        balancing: Balancing::of(general),
        prepared: PreparedLimits {
            level: general.prepared_statements,
            statements_max: Some(general.prepared_statements_limit)
                .filter(|limit| *limit < DISABLED),
        },
        routing: Routing::of(&file),
        log: log_settings(general),
        stats_period: general.stats_period.limit().unwrap_or(Duration::MAX),
        observation: observation(&file, environment),
        tcp: tcp_options(&file),
        admin: admin_identity(&file.admin.value),
        instance: Instance {
            node_id: environment.get("NODE_ID").cloned(),
            deployment_id: environment.get("DEPLOYMENT_ID").cloned(),
        },
        commit_log: commit_log(general),
        clusters,
        pools,
        users,
        mirrors: mirrors(&file),
        file,
        users_file,
    }
}

fn client_limits(general: &General) -> ClientLimits {
    ClientLimits {
        auth_type: general.auth_type,
        passthrough: general.passthrough_auth,
        auth_query: general.auth_query.clone(),
        tls_required: general.tls_client_required,
        login_timeout: general.client_login_timeout.limit(),
        per_core: general.clients_per_core.max(1),
        idle_timeout: general.client_idle_timeout.limit(),
        idle_in_transaction_timeout: general.client_idle_in_transaction_timeout.limit(),
        query_bytes_max: general
            .query_size_limit
            .map(|limit| limit.0)
            .filter(|limit| *limit < DISABLED),
        query_size_action: general.query_size_limit_action,
        recovery: general.client_connection_recovery,
    }
}

fn commit_log(general: &General) -> Option<CommitLogSettings> {
    Some(CommitLogSettings {
        folder: general.two_phase_commit_wal_dir.clone()?,
        segment_bytes: general.two_phase_commit_wal_segment_size.0,
        gather: general.two_phase_commit_wal_fsync_interval.duration(),
        checkpoint: general
            .two_phase_commit_wal_checkpoint_interval
            .limit()
            .unwrap_or(Duration::MAX),
    })
}

fn tls_settings(general: &General) -> TlsSettings {
    let files = |certificate: &Option<PathBuf>, private_key: &Option<PathBuf>| {
        Some(CertificateFiles {
            certificate: certificate.clone()?,
            private_key: private_key.clone()?,
        })
    };
    TlsSettings {
        clients: files(&general.tls_certificate, &general.tls_private_key),
        client_ca: general.tls_client_ca_certificate.clone(),
        servers: general.tls_verify,
        server_ca: general.tls_server_ca_certificate.clone(),
        server_identity: files(
            &general.tls_server_certificate,
            &general.tls_server_private_key,
        ),
    }
}

fn server_limits(general: &General) -> ServerLimits {
    ServerLimits {
        connect_timeout: general.connect_timeout.limit(),
        connect_attempts: general.connect_attempts,
        connect_attempt_delay: general.connect_attempt_delay.duration(),
        rollback_timeout: general.rollback_timeout.limit(),
        query_timeout: general.query_timeout.limit(),
        recovery: general.connection_recovery,
    }
}

fn log_settings(general: &General) -> LogSettings {
    let window = general
        .log_dedup_window
        .limit()
        .filter(|window| !window.is_zero());
    LogSettings {
        format: general.log_format,
        level: general.log_level.clone(),
        connections: general.log_connections,
        disconnections: general.log_disconnections,
        dedup: window.zip(Some(general.log_dedup_threshold).filter(|repeats| *repeats > 0)),
        min_duration_parse: general.log_min_duration_parse.and_then(Millis::limit),
        min_duration_query: general.log_min_duration_query.and_then(Millis::limit),
        queries_file: general.query_log.clone(),
        queries_to_stdout: general.query_log_stdout,
        query_sample_chars: general.log_query_sample_length,
    }
}

fn tcp_options(file: &File) -> TcpOptions {
    let tcp = &file.tcp.value;
    TcpOptions {
        keepalive: tcp.keepalive,
        time: tcp.time.and_then(Millis::limit),
        interval: tcp.interval.and_then(Millis::limit),
        retries: tcp.retries,
        user_timeout: tcp.user_timeout.and_then(Millis::limit),
        congestion_control: tcp.congestion_control.clone(),
    }
}

fn admin_identity(admin: &Admin) -> AdminIdentity {
    AdminIdentity {
        name: admin.name.clone(),
        user: admin.user.clone(),
        password: admin.password.clone(),
        certificate_required: admin.tls_client_certificate_required,
    }
}

fn clusters(file: &File, problems: &mut Problems) -> Vec<Cluster> {
    let mut clusters: BTreeMap<&str, BTreeMap<u32, Vec<Server>>> = BTreeMap::new();
    for entry in &file.databases {
        let value = &entry.value;
        let shards = clusters.entry(&value.name).or_default();
        let known = u32::try_from(shards.len()).unwrap_or(u32::MAX);
        if known >= SHARDS_MAX && !shards.contains_key(&value.shard) {
            let reason = format!("\"{}\" has more than {SHARDS_MAX} shards", value.name);
            problems.errors.push(entry.problem("shard", reason));
            continue;
        }
        shards.entry(value.shard).or_default().push(Server {
            address: value.address(),
            role: value.role,
            weight: value.lb_weight,
            resharding_only: value.resharding_only,
        });
    }
    let shard = |(number, servers)| Shard { number, servers };
    // That of the first entry which says anything.
    let reads_own = |name: &str| {
        let entries = file.databases.iter().map(|entry| &entry.value);
        let mut named = entries.filter(|entry| entry.name == name);
        named.find_map(|entry| entry.read_your_writes)
    };
    let parser = |name: &str| {
        let entries = file.query_parsers.iter().map(|entry| &entry.value);
        let mut named = entries.filter(|entry| entry.database == name);
        named.next_back().map(|entry| entry.level)
    };
    let mut cluster = |(name, shards): (&str, BTreeMap<_, _>)| {
        let numbers = shards.keys().copied().collect();
        Cluster {
            name: name.to_owned(),
            sharding: sharding_tables(file, name, &numbers, problems),
            shards: shards.into_iter().map(shard).collect(),
            parser: parser(name).unwrap_or(file.general.value.query_parser),
            read_your_writes: reads_own(name).unwrap_or(file.general.value.read_your_writes),
        }
    };
    clusters.into_iter().map(&mut cluster).collect()
}

fn mirrors(file: &File) -> Vec<Mirror> {
    let general = &file.general.value;
    let mirror = |Entry { value, .. }: &Entry<super::file::Mirroring>| Mirror {
        source: value.source_db.clone(),
        destination: value.destination_db.clone(),
        queue_max: value.queue_length.unwrap_or(general.mirror_queue),
        exposure: value.exposure.unwrap_or(general.mirror_exposure).0,
        level: value.level,
    };
    file.mirroring.iter().map(mirror).collect()
}

/// Everyone's entry for each of their databases, and a pool for each of its servers.
fn users_and_pools(
    file: &File,
    users_file: &UsersFile,
    problems: &mut Problems,
) -> (Users, Vec<PoolConfig>) {
    let mut servers: BTreeMap<&str, Vec<&Entry<Database>>> = BTreeMap::new();
    for database in &file.databases {
        servers
            .entry(&database.value.name)
            .or_default()
            .push(database);
    }
    let mut users = Users::default();
    let mut pools = Vec::new();
    for entry in &users_file.users {
        for database in entry.value.database_names(file) {
            if users
                .insert(user(&entry.value, database, &file.general.value))
                .is_err()
            {
                continue; // reported by `check`
            }
            for server in servers.get(database).into_iter().flatten() {
                pools.push(pool(&file.general.value, server, entry, problems));
            }
        }
    }
    sort(&mut pools);
    (users, pools)
}

/// Puts pools in the order of [`Config::pools`]; those of one shard stay in that of the file.
pub(super) fn sort(pools: &mut [PoolConfig]) {
    pools.sort_by_key(|pool| (pool.user.clone(), pool.database.clone(), pool.shard));
}

pub(super) fn user(entry: &UserEntry, database: &str, general: &General) -> User {
    let two_phase = entry.two_phase_commit.unwrap_or(general.two_phase_commit);
    let two_phase_auto = entry
        .two_phase_commit_auto
        .unwrap_or(general.two_phase_commit_auto);
    User {
        name: entry.name.clone(),
        database: database.to_owned(),
        credentials: entry.credentials(),
        certificate_required: entry.tls_client_certificate_required,
        cross_shard_disabled: entry
            .cross_shard_disabled
            .unwrap_or(general.cross_shard_disabled),
        two_phase_commit: match (two_phase, two_phase_auto) {
            (false, _) => TwoPhaseCommit::Off,
            (true, false) => TwoPhaseCommit::Transactions,
            (true, true) => TwoPhaseCommit::Statements,
        },
        schema_admin: entry.schema_admin,
        origin: Origin::Files,
    }
}

/// All inheritance of one pool: the user's entry, then the database's, then `[general]`.
pub(super) fn pool(
    general: &General,
    server: &Entry<Database>,
    entry: &Entry<UserEntry>,
    problems: &mut Problems,
) -> PoolConfig {
    let (database, user) = (&server.value, &entry.value);
    // Limits of the server's role are stronger than plain ones, the user's stronger than the database's.
    let (size, size_min, idle_timeout) = match database.role {
        Role::Primary => (
            user.pool_size_primary.or(database.pool_size_primary),
            user.min_pool_size_primary
                .or(database.min_pool_size_primary),
            user.idle_timeout_primary.or(database.idle_timeout_primary),
        ),
        Role::Replica => (
            user.pool_size_replica.or(database.pool_size_replica),
            user.min_pool_size_replica
                .or(database.min_pool_size_replica),
            user.idle_timeout_replica.or(database.idle_timeout_replica),
        ),
        Role::Auto => (None, None, None),
    };
    let size = size
        .or(user.pool_size)
        .or(database.pool_size)
        .unwrap_or(general.default_pool_size);
    let size_min = size_min
        .or(user.min_pool_size)
        .or(database.min_pool_size)
        .unwrap_or(general.min_pool_size);
    let idle_timeout = idle_timeout
        .or(user.idle_timeout)
        .or(database.idle_timeout)
        .unwrap_or(general.idle_timeout);
    let lifetime = user
        .server_lifetime
        .or(database.server_lifetime)
        .unwrap_or(general.server_lifetime);
    let jitter = user
        .server_lifetime_jitter
        .or(database.server_lifetime_jitter)
        .unwrap_or(general.server_lifetime_jitter);
    let login = server_login(database, user);
    let size_min = match awaits_password(general, user, &login) {
        true => 0,
        false => size_min,
    };
    if size_min > size {
        let reason = format!(
            "min_pool_size {size_min} is above pool_size {size} for database \"{}\", using {size}",
            database.name
        );
        problems.warnings.push(entry.problem("", reason));
    }

    let timeout = |user: Option<Millis>, database: Option<Millis>| {
        let timeout = user.or(database).and_then(Millis::limit)?;
        Some(timeout.as_millis().to_string())
    };
    let read_only = user
        .read_only
        .unwrap_or(database.read_only)
        .then(|| "on".to_owned());
    let startup = [
        ("default_transaction_read_only", read_only),
        (
            "lock_timeout",
            timeout(user.lock_timeout, database.lock_timeout),
        ),
        (
            "statement_timeout",
            timeout(user.statement_timeout, database.statement_timeout),
        ),
    ];
    PoolConfig {
        user: user.name.clone(),
        database: database.name.clone(),
        shard: database.shard,
        role: database.role,
        address: database.address(),
        login,
        mode: user
            .pooler_mode
            .or(database.pooler_mode)
            .unwrap_or(general.pooler_mode),
        limits: PoolLimits {
            size,
            size_min: size_min.min(size),
            checkout_timeout: general.checkout_timeout.limit(),
            idle_timeout: idle_timeout.limit(),
            lifetime: lifetime.limit(),
            lifetime_jitter: jitter.duration(),
        },
        startup: startup
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect(),
    }
}

/// Can connections be opened only once a client has shown its password?
fn awaits_password(general: &General, user: &UserEntry, login: &ServerLogin) -> bool {
    let proven_here = user.identity.is_some()
        || user.password_hash.is_some() && general.passthrough_auth == PassthroughAuth::Disabled;
    login.passwords.is_empty() && login.iam_region.is_none() && !proven_here
}

/// The first that is given; for server credentials the database's entry is stronger than the user's.
fn server_login(database: &Database, user: &UserEntry) -> ServerLogin {
    let name = database
        .user
        .as_ref()
        .or(user.server_user.as_ref())
        .unwrap_or(&user.name);
    let passwords: Vec<Secret> = if user.server_auth != ServerAuth::Password {
        Vec::new()
    } else if let Some(password) = database.password.as_ref().or(user.server_password.as_ref()) {
        vec![password.clone()]
    } else {
        user.password
            .iter()
            .chain(&user.passwords)
            .cloned()
            .collect()
    };
    ServerLogin {
        user: name.clone(),
        passwords,
        keys: None,
        iam_region: rds::region(user, database).and_then(Result::ok),
    }
}

impl Database {
    pub(super) fn address(&self) -> ServerAddress {
        ServerAddress {
            host: Host::from(self.host.as_str()),
            port: self.port,
            database_name: self.database_name.as_ref().unwrap_or(&self.name).clone(),
        }
    }
}

impl UserEntry {
    /// The databases that this entry is for, each once.
    pub(super) fn database_names<'a>(&'a self, file: &'a File) -> BTreeSet<&'a str> {
        if self.all_databases {
            file.databases
                .iter()
                .map(|database| database.value.name.as_str())
                .collect()
        } else if self.database.is_empty() {
            self.databases.iter().map(String::as_str).collect()
        } else {
            BTreeSet::from([self.database.as_str()])
        }
    }

    /// How a client may prove to be this user.
    pub(super) fn credentials(&self) -> Credentials {
        match &self.identity {
            Some(identity) => Credentials {
                identity: Some(identity.clone()),
                ..Credentials::default()
            },
            None => Credentials {
                passwords: self
                    .password
                    .iter()
                    .chain(&self.passwords)
                    .cloned()
                    .collect(),
                password_hash: self.password_hash.clone(),
                identity: None,
            },
        }
    }
}

/// Feeds hostile text to the reader of both files: it answers with a configuration or with what is wrong.
#[cfg(any(test, fuzzing))]
pub fn fuzz_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let source = |path, text| Source {
        path,
        text: Some(text),
    };
    let outcome = resolve(&Sources {
        config: source("pgdog.toml", &text),
        users: source("users.toml", &text),
        environment: &Environment::default(),
        overrides: &Overrides::default(),
    });
    if let Err(problems) = outcome {
        assert!(!problems.is_empty(), "refused without a reason");
    }
}
