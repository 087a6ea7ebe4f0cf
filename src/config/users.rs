//! Shape of users.toml, one to one.

use std::sync::Arc;

use super::choice::{PoolerMode, ServerAuth};
use super::document::{Document, Entry};
use super::file::Admin;
use super::problem::Problems;
use super::secret::Secret;
use super::section::section;
use super::value::Millis;

/// Everything that users.toml says.
#[derive(Clone, Debug)]
pub(super) struct UsersFile {
    pub(super) admin: Option<Entry<Admin>>,
    pub(super) users: Vec<Entry<UserEntry>>,
}

impl UsersFile {
    /// Reads the text, reporting all that is wrong with its shape.
    pub(super) fn read(path: &Arc<str>, text: &str) -> (Self, Problems) {
        let mut document = Document::parse(path, text);
        let file = Self {
            admin: document.optional(),
            users: document.list(None),
        };
        (file, document.finish(&[]))
    }
}

section! {
    /// Who may use which database, and as whom they appear on its servers.
    UserEntry = "users";

    /// Login name.
    name: String = required "alice", Live, Now;
    /// Name of a database of pgdog.toml. Wins over databases.
    database: String = unset "pgdog", Live, Now;
    /// Names of several databases.
    databases: Vec<String> = unset "[\"pgdog\", \"other\"]", Live, Now;
    /// Every database. Wins over both.
    all_databases: bool = default "false", Live, Now;
    /// Password, also tried on servers.
    password: Option<Secret> = unset "hunter2", Live, Now;
    /// Further accepted passwords, for rotation.
    passwords: Vec<Secret> = unset "[\"old\", \"older\"]", Live, Now;
    /// SCRAM verifier, made by "pgdog hash". It cannot log in to servers: give server_password.
    password_hash: Option<Secret> = unset "SCRAM-SHA-256$4096:salt$stored:server", Live, Now;
    /// Name that the client's TLS certificate must have, as common name or subjectAltName; replaces passwords.
    identity: Option<String> = unset "alice@example.com", Live, Now;
    /// Require a certificate. Only with tls_client_ca_certificate.
    tls_client_certificate_required: bool = default "true", Live, Now;
    /// User on the servers; unset: name.
    server_user: Option<String> = unset "app", Live, Now;
    /// Password on the servers; unset: the passwords above, in turn.
    server_password: Option<Secret> = unset "secret", Live, Now;
    /// Where the password for servers comes from. Azure and Vault are not there yet: no password then.
    server_auth: ServerAuth = default "password", Live, Now;
    /// RDS region; unset: taken from the host.
    server_iam_region: Option<String> = unset "eu-west-1", Live, Now;
    /// Vault path of the credentials for servers.
    server_vault_path: Option<String> = unset "database/creds/app", Live, Later;
    /// Vault path of the passwords of clients.
    vault_path: Option<String> = unset "database/static-creds/alice", Live, Later;
    /// Share of a lease, in percent from 1 to 80, after which it is renewed.
    vault_refresh_percent: u8 = default "80", Live, Later;
    /// Overrides pool_size of the database.
    pool_size: Option<usize> = unset "10", Live, Now;
    /// Overrides min_pool_size of the database.
    min_pool_size: Option<usize> = unset "1", Live, Now;
    /// Overrides pooler_mode of the database.
    pooler_mode: Option<PoolerMode> = unset "session", Live, Now;
    /// Overrides statement_timeout of the database.
    statement_timeout: Option<Millis> = unset "30000", Live, Now;
    /// Overrides lock_timeout of the database.
    lock_timeout: Option<Millis> = unset "5000", Live, Now;
    /// Overrides idle_timeout of the database.
    idle_timeout: Option<Millis> = unset "60000", Live, Now;
    /// Overrides server_lifetime of the database.
    server_lifetime: Option<Millis> = unset "86400000", Live, Now;
    /// Overrides server_lifetime_jitter of the database.
    server_lifetime_jitter: Option<Millis> = unset "60000", Live, Now;
    /// Pool size on a primary.
    pool_size_primary: Option<usize> = unset "10", Live, Now;
    /// Pool size on a replica.
    pool_size_replica: Option<usize> = unset "20", Live, Later;
    /// Connections kept open to a primary.
    min_pool_size_primary: Option<usize> = unset "1", Live, Now;
    /// Connections kept open to a replica.
    min_pool_size_replica: Option<usize> = unset "1", Live, Later;
    /// Idle time of connections to a primary.
    idle_timeout_primary: Option<Millis> = unset "60000", Live, Now;
    /// Idle time of connections to a replica.
    idle_timeout_replica: Option<Millis> = unset "60000", Live, Later;
    /// Overrides read_only of the database.
    read_only: Option<bool> = unset "true", Live, Now;
    /// Log in to servers with replication=database.
    replication_mode: bool = default "false", Live, Later;
    /// Database whose sharding splits a replication stream.
    replication_sharding: Option<String> = unset "pgdog", Live, Later;
    /// Use this user for loading the schema and for setup.
    schema_admin: bool = default "false", Live, Later;
    /// Overrides cross_shard_disabled of [general].
    cross_shard_disabled: Option<bool> = unset "true", Live, Now;
    /// Overrides two_phase_commit of [general].
    two_phase_commit: Option<bool> = unset "true", Live, Now;
    /// Overrides two_phase_commit_auto of [general].
    two_phase_commit_auto: Option<bool> = unset "true", Live, Now;
}
