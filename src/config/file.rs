//! Shape of pgdog.toml, one to one. `[general]` is in `general.rs`, the sharding tables in `sharding.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::choice::{
    MirrorLevel, PoolerMode, PrimaryKeyRewrite, QueryParser, QueryParserEngine, RewriteMode, Role,
    VaultAuthMethod,
};
use super::document::{Document, Entry};
use super::general::General;
use super::problem::Problems;
use super::secret::Secret;
use super::section::section;
use super::sharding::{OmnishardedTables, ShardedMapping, ShardedSchema, ShardedTable};
use super::value::{Bytes, Fraction, Millis};

/// Sections of the Enterprise edition and its control plane: a file with them still loads.
const OUT_OF_SCOPE: [&str; 4] = ["control", "qos", "query_stats", "autodiscovery"];

/// Everything that pgdog.toml says.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) general: Entry<General>,
    pub(super) memory: Entry<Memory>,
    pub(super) tcp: Entry<Tcp>,
    pub(super) admin: Entry<Admin>,
    pub(super) multi_tenant: Option<Entry<MultiTenant>>,
    pub(super) rewrite: Entry<Rewrite>,
    pub(super) replication: Entry<Replication>,
    pub(super) replica_lag: Option<Entry<ReplicaLag>>,
    pub(super) otel: Entry<Otel>,
    pub(super) vault: Option<Entry<Vault>>,
    pub(super) query_parsers: Vec<Entry<DatabaseQueryParser>>,
    pub(super) plugins: Vec<Entry<Plugin>>,
    pub(super) mirroring: Vec<Entry<Mirroring>>,
    pub(super) databases: Vec<Entry<Database>>,
    pub(super) sharded_tables: Vec<Entry<ShardedTable>>,
    pub(super) sharded_mappings: Vec<Entry<ShardedMapping>>,
    pub(super) sharded_schemas: Vec<Entry<ShardedSchema>>,
    pub(super) omnisharded_tables: Vec<Entry<OmnishardedTables>>,
}

impl File {
    /// Reads the text, reporting all that is wrong with its shape.
    pub(super) fn read(path: &Arc<str>, text: &str) -> (Self, Problems) {
        let mut document = Document::parse(path, text);
        let file = Self {
            general: document.section(),
            memory: document.section(),
            tcp: document.section(),
            admin: document.section(),
            multi_tenant: document.optional(),
            rewrite: document.section(),
            replication: document.section(),
            replica_lag: document.optional(),
            otel: document.section(),
            vault: document.optional(),
            query_parsers: document.list(None),
            plugins: document.list(None),
            mirroring: document.list(None),
            databases: document.list(None),
            sharded_tables: document.list(None),
            sharded_mappings: document.list(Some("sharded_mapping")),
            sharded_schemas: document.list(None),
            omnisharded_tables: document.list(None),
        };
        (file, document.finish(&OUT_OF_SCOPE))
    }
}

section! {
    /// Buffers of a connection, and stacks.
    Memory = "memory";

    /// Socket read buffer.
    net_buffer: Bytes = default "4096", Next, Later;
    /// Buffer in which a message is assembled.
    message_buffer: Bytes = default "4096", Next, Later;
    /// Stack of executor and parser threads.
    stack_size: Bytes = default "2097152", Restart, Later;
}

section! {
    /// TCP options of clients and servers. What is unset is left to the operating system.
    Tcp = "tcp";

    /// Send keep-alive probes.
    keepalive: bool = default "true", Next, Now;
    /// Idle time before probing.
    time: Option<Millis> = unset "7200000", Next, Now;
    /// Time between probes.
    interval: Option<Millis> = unset "75000", Next, Now;
    /// Failed probes before closing.
    retries: Option<u32> = unset "9", Next, Now;
    /// Linux: longest time that sent data may stay unacknowledged.
    user_timeout: Option<Millis> = unset "30000", Next, Now;
    /// Linux: name of the congestion control algorithm.
    congestion_control: Option<String> = unset "bbr", Next, Now;
}

section! {
    /// The admin database. `[admin]` in users.toml replaces this one.
    Admin = "admin";

    /// Name of the admin database.
    name: String = default "admin", Next, Now;
    /// Name of the admin user.
    user: String = default "admin", Next, Now;
    /// Its password. Unset: random, nobody can log in.
    password: Option<Secret> = unset "secret", Next, Now, env "PGDOG_ADMIN_PASSWORD";
    /// Require a certificate of it, too. Only with tls_client_ca_certificate.
    tls_client_certificate_required: bool = default "true", Next, Now;
}

section! {
    /// Refuse statements that lack the tenant's column.
    MultiTenant = "multi_tenant" tolerant;

    /// The column.
    column: String = required "tenant_id", Live, Later;
}

section! {
    /// Statements that must be rewritten on a sharded database: error, rewrite or ignore.
    Rewrite = "rewrite";

    /// Allow the mode "rewrite" below.
    enabled: bool = default "false", Live, Now;
    /// UPDATE that changes a sharding key; rewrite moves the row.
    shard_key: RewriteMode = default "error", Live, Now;
    /// INSERT of several rows; rewrite splits it.
    split_inserts: RewriteMode = default "error", Live, Now;
    /// INSERT without its BIGINT key; rewrite generates one, rewrite_omni on omnisharded tables only.
    primary_key: PrimaryKeyRewrite = default "ignore", Live, Now;
}

section! {
    /// Schema synchronisation.
    Replication = "replication" tolerant;

    /// Tool that reads the schema.
    pg_dump_path: PathBuf = default "pg_dump", Live, Later;
}

section! {
    /// Legacy. Prefer `ban_replica_lag`.
    ReplicaLag = "replica_lag" tolerant;

    /// Largest lag.
    max_age: Option<Millis> = unset "5000", Live, Later;
    /// Time between checks; needs max_age.
    check_interval: Millis = default "1000", Live, Later;
}

section! {
    /// Export of metrics by OTLP over HTTP.
    Otel = "otel";

    /// URL that receives metrics; unset disables the export.
    endpoint: Option<String> = unset "http://127.0.0.1:4318/v1/metrics", Restart, Now, env "OTEL_EXPORTER_OTLP_ENDPOINT";
    /// Prefix of metric names, joined with a dot.
    namespace: String = default "pgdog", Restart, Now, env "PGDOG_OTEL_NAMESPACE";
    /// Extra request headers.
    headers: BTreeMap<String, Secret> = unset "api-key=secret", Restart, Now, env "OTEL_EXPORTER_OTLP_HEADERS";
    /// Sent as DD-API-KEY.
    datadog_api_key: Option<Secret> = unset "secret", Restart, Now, env "DD_API_KEY";
    /// Time between exports.
    push_interval: Millis = default "10000", Restart, Now, env "OTEL_METRIC_EXPORT_INTERVAL";
}

section! {
    /// HashiCorp Vault, for `vault_path` and `server_vault_path` of users.
    Vault = "vault";

    /// Address of Vault.
    url: String = required "https://vault.example.com:8200", Restart, Later;
    /// How to log in there.
    auth_method: VaultAuthMethod = required "kubernetes", Restart, Later;
    /// Vault namespace.
    namespace: Option<String> = unset "admin", Restart, Later;
    /// Where the method is mounted; unset: the name of the method.
    auth_mount: Option<String> = unset "kubernetes", Restart, Later;
    /// Role for kubernetes.
    kubernetes_role: Option<String> = unset "pgdog", Restart, Later;
    /// Token of the service account.
    kubernetes_jwt_path: PathBuf = default "/var/run/secrets/kubernetes.io/serviceaccount/token", Restart, Later;
    /// Role for approle.
    approle_role_id: Option<String> = unset "pgdog", Restart, Later;
    /// File with its secret; unset: the variable VAULT_SECRET_ID.
    approle_secret_id_file: Option<PathBuf> = unset "/etc/pgdog/secret-id", Restart, Later;
    /// Seconds before expiry at which to log in again.
    client_token_ttl: u64 = default "60", Restart, Later;
}

section! {
    /// Parser settings of one database.
    DatabaseQueryParser = "query_parsers";

    /// Name of the database.
    database: String = required "pgdog", Live, Now;
    /// As query_parser in [general].
    level: QueryParser = default "auto", Live, Now;
    /// As query_parser_engine in [general].
    engine: Option<QueryParserEngine> = unset "pg_query_raw", Live, Later;
}

section! {
    /// Plugins that take part in routing.
    Plugin = "plugins";

    /// Name or path of the library.
    name: String = required "my_plugin", Restart, Later;
    /// File handed to the plugin.
    config: Option<PathBuf> = unset "my_plugin.toml", Restart, Later;
}

section! {
    /// Copies of one database's traffic for another database.
    Mirroring = "mirroring";

    /// Database whose traffic is copied.
    source_db: String = required "pgdog", Live, Later;
    /// Database that receives the copy.
    destination_db: String = required "pgdog_mirror", Live, Later;
    /// Overrides mirror_queue.
    queue_length | queue_depth: Option<usize> = unset "128", Live, Later;
    /// Overrides mirror_exposure.
    exposure: Option<Fraction> = unset "0.5", Live, Later;
    /// Which statements are copied.
    level: MirrorLevel = default "all", Live, Later;
}

section! {
    /// Servers. Entries of the same name form one cluster.
    Database = "databases";

    /// Name that clients use.
    name: String = required "pgdog", Live, Now;
    /// Address or name of the server; with a leading / the directory of its Unix socket.
    host: String = required "127.0.0.1", Live, Now;
    /// Port of the server.
    port: u16 = default "5432", Live, Now;
    /// What the server does; auto asks it, which needs lsn_check_delay.
    role: Role = default "primary", Live, Now;
    /// Overrides read_your_writes of [general], for the whole database.
    read_your_writes: Option<bool> = unset "true", Live, Now;
    /// Number of the shard, from 0 without gaps.
    shard: u32 = default "0", Live, Now;
    /// Name of the database on the server; unset: name.
    database_name: Option<String> = unset "postgres", Live, Now;
    /// User for the server, stronger than what users.toml says.
    user: Option<String> = unset "pgdog", Live, Now;
    /// Its password.
    password: Option<Secret> = unset "secret", Live, Now;
    /// Overrides auth_user of [general].
    auth_user: Option<String> = unset "pgdog_auth", Live, Now;
    /// Overrides default_pool_size.
    pool_size | max_pool_size: Option<usize> = unset "10", Live, Now;
    /// Overrides min_pool_size of [general].
    min_pool_size: Option<usize> = unset "1", Live, Now;
    /// Overrides pooler_mode of [general].
    pooler_mode: Option<PoolerMode> = unset "session", Live, Now;
    /// Set on server connections at login.
    statement_timeout: Option<Millis> = unset "30000", Live, Now;
    /// Set on server connections at login.
    lock_timeout: Option<Millis> = unset "5000", Live, Now;
    /// Overrides idle_timeout of [general].
    idle_timeout: Option<Millis> = unset "60000", Live, Now;
    /// Overrides server_lifetime of [general].
    server_lifetime: Option<Millis> = unset "86400000", Live, Now;
    /// Overrides server_lifetime_jitter of [general].
    server_lifetime_jitter: Option<Millis> = unset "60000", Live, Now;
    /// Make transactions read-only, by default_transaction_read_only.
    read_only: bool = default "false", Live, Now;
    /// Weight under weighted_round_robin.
    lb_weight: u8 = default "255", Live, Now;
    /// Keep ordinary traffic away.
    resharding_only: bool = default "false", Live, Now;
    /// Pool size of a primary.
    pool_size_primary: Option<usize> = unset "10", Live, Now;
    /// Pool size of a replica.
    pool_size_replica: Option<usize> = unset "20", Live, Later;
    /// Connections kept open to a primary.
    min_pool_size_primary: Option<usize> = unset "1", Live, Now;
    /// Connections kept open to a replica.
    min_pool_size_replica: Option<usize> = unset "1", Live, Later;
    /// Idle time of connections to a primary.
    idle_timeout_primary: Option<Millis> = unset "60000", Live, Now;
    /// Idle time of connections to a replica.
    idle_timeout_replica: Option<Millis> = unset "60000", Live, Later;
}
