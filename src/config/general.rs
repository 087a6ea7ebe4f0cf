//! `[general]` of pgdog.toml: one line a setting.

use std::path::PathBuf;

use super::choice::{
    AuthType, ClientRecovery, ConnectionRecovery, CopyFormat, CutoverAction, LoadBalancingStrategy,
    LoadSchema, LogFormat, PassthroughAuth, PoolerMode, PreparedStatements, QueryParser,
    QueryParserEngine, QuerySizeAction, ReadWriteSplit, ReadWriteStrategy, SystemCatalogs,
    TlsVerify, UniqueIdFunction,
};
use super::section::section;
use super::value::{Bytes, Fraction, Millis};

section! {
    /// Settings of the whole program, and defaults of databases and users. Each can also come from the
    /// environment as PGDOG_<NAME>; the file wins.
    General = "general";

    /// Listen address.
    host: String = default "0.0.0.0", Restart, Now;
    /// Listen port.
    port: u16 = default "6432", Restart, Now;
    /// Cores to serve on, one executor each. 0 means all that the process may use; more are clamped.
    workers: usize = default "0", Restart, Now;
    /// Clients that the cores in use have before one more serves any, as long as these have little to do; with 1 all do soon.
    /// Ours, not PgDog's.
    clients_per_core: usize = default "64", Live, Now;
    /// IPv4 multicast or broadcast group for finding sibling instances.
    broadcast_address: Option<String> = unset "224.0.0.1", Restart, Later;
    /// UDP port for the same.
    broadcast_port: u16 = default "6433", Restart, Later;
    /// Cache host names this long instead of the record's own TTL.
    dns_ttl: Option<Millis> = unset "60000", Live, Later;
    /// HTTP port for liveness checks.
    healthcheck_port: Option<u16> = unset "8080", Restart, Now;
    /// HTTP port for metrics.
    openmetrics_port: Option<u16> = unset "9090", Restart, Now;
    /// Prefix of each metric's name; no separator is added.
    openmetrics_namespace: Option<String> = unset "pgdog_", Live, Now;

    /// Largest number of server connections in a pool. The total over all cores.
    default_pool_size | max_pool_size: usize = default "10", Live, Now;
    /// Server connections kept open in a pool. The total over all cores.
    min_pool_size: usize = default "1", Live, Now;
    /// How long a client keeps its server connection: a transaction, a session or a statement.
    pooler_mode: PoolerMode = default "transaction", Live, Now;
    /// Longest wait of a client for a server connection.
    checkout_timeout: Millis = default "5000", Live, Now;
    /// Longest time for connecting and logging in to a server.
    connect_timeout: Millis = default "5000", Live, Now;
    /// Login tries before the pool reports failure.
    connect_attempts: usize = default "1", Live, Now;
    /// Pause between tries.
    connect_attempt_delay: Millis = default "0", Live, Now;
    /// Close server connections above min_pool_size that are idle for longer.
    idle_timeout: Millis = default "60000", Live, Now;
    /// Retire server connections older than this when they come back.
    server_lifetime: Millis = default "86400000", Live, Now;
    /// Each lifetime is drawn once from the range of this much below to this much above.
    server_lifetime_jitter: Millis = default "0", Next, Now;
    /// Longest time for cleaning up an abandoned transaction.
    rollback_timeout: Millis = default "5000", Live, Now;
    /// Longest wait for one server response. 9223372036854775807 disables any timeout.
    query_timeout: Millis = default "9223372036854775807", Live, Now;
    /// Server side after a client left abruptly: drain and roll back, only roll back, or close.
    connection_recovery: ConnectionRecovery = default "recover", Live, Now;
    /// Client side after errors of its pool: recover sends ERROR, drop closes.
    client_connection_recovery: ClientRecovery = default "drop", Live, Now;
    /// Window of averages in SHOW STATS.
    stats_period: Millis = default "15000", Live, Now;

    /// How clients log in.
    auth_type: AuthType = default "scram", Next, Now;
    /// Let clients log in with what the server accepts. Without "plain" this needs tls_certificate.
    passthrough_auth: PassthroughAuth = default "disabled", Next, Now;
    /// User of users.toml that auth_query runs as; unset: there is no look-up. Ours, not PgDog's.
    auth_user: Option<String> = unset "pgdog_auth", Live, Now;
    /// Where clients without a password here are looked up: name and verifier of $1, run in the client's database.
    /// A verifier that is null lets nobody in. Ours, not PgDog's.
    auth_query: String = default "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin", Live, Now;
    /// Longest time for logging in, from the first bytes, or a second after connecting if none came.
    client_login_timeout: Millis = default "60000", Next, Now, env "PGDOG_CLIENT_LOG_TIMEOUT";
    /// Close clients silent for longer outside of transactions.
    client_idle_timeout: Millis = default "9223372036854775807", Live, Now;
    /// Close clients silent for longer inside of transactions.
    client_idle_in_transaction_timeout: Millis = default "9223372036854775807", Live, Now;
    /// Largest Query or Parse message, header included.
    query_size_limit: Option<Bytes> = unset "1048576", Live, Now;
    /// What happens above it: warn logs, block refuses before buffering.
    query_size_limit_action: QuerySizeAction = default "warn", Live, Now;
    /// Grace for transactions at shutdown.
    shutdown_timeout: Millis = default "60000", Live, Now;
    /// If set: afterwards cancel running queries and wait this long at most.
    shutdown_termination_timeout: Option<Millis> = unset "5000", Live, Now;

    /// Certificate shown to clients; with tls_private_key it turns on TLS for clients.
    tls_certificate: Option<PathBuf> = unset "/etc/pgdog/server.crt", Next, Now;
    /// Its key.
    tls_private_key: Option<PathBuf> = unset "/etc/pgdog/server.key", Next, Now;
    /// Refuse clients without TLS.
    tls_client_required: bool = default "false", Next, Now;
    /// CA bundle for client certificates; turns them on.
    tls_client_ca_certificate: Option<PathBuf> = unset "/etc/pgdog/clients.crt", Next, Now;
    /// TLS towards servers: none, unchecked if offered, chain checked, chain and name checked.
    tls_verify: TlsVerify = default "prefer", Next, Now;
    /// CA bundle for servers.
    tls_server_ca_certificate: Option<PathBuf> = unset "/etc/pgdog/servers.crt", Next, Now;
    /// Certificate shown to servers.
    tls_server_certificate: Option<PathBuf> = unset "/etc/pgdog/client.crt", Next, Now;
    /// Its key.
    tls_server_private_key: Option<PathBuf> = unset "/etc/pgdog/client.key", Next, Now;

    /// Check a connection at checkout if its last check is older.
    healthcheck_interval: Millis = default "30000", Live, Now;
    /// Time between background checks of a pool; 0 disables them. Keep it below ban_timeout.
    idle_healthcheck_interval: Millis = default "30000", Live, Now;
    /// Wait after start before background checks.
    idle_healthcheck_delay: Millis = default "5000", Live, Now;
    /// Longest time for one check.
    healthcheck_timeout: Millis = default "5000", Live, Now;
    /// Length of an automatic ban; 0 disables banning.
    ban_timeout: Millis = default "300000", Live, Now;
    /// Ban replicas further behind in time.
    ban_replica_lag: Millis = default "9223372036854775807", Live, Now;
    /// Ban replicas further behind in WAL.
    ban_replica_lag_bytes: Bytes = default "9223372036854775807", Live, Now;
    /// Which replica a read goes to.
    load_balancing_strategy: LoadBalancingStrategy = default "random", Live, Now;
    /// conservative: explicit transactions are writes; aggressive: their first statement decides.
    read_write_strategy: ReadWriteStrategy = default "conservative", Live, Now;
    /// Does the primary serve reads too? prefer_primary uses replicas only on an explicit hint.
    read_write_split: ReadWriteSplit = default "include_primary", Live, Now;
    /// Reads of a client see what it has committed: on a replica that has it, or on the primary. Turns checks of LSN
    /// and role on.
    read_your_writes: bool = default "false", Live, Now;
    /// Longest wait of such a read for a replica, before the primary serves it; at most 60000.
    read_your_writes_wait: Millis = default "50", Live, Now;
    /// Start checks of LSN and role after this; 9223372036854775807 turns them off.
    lsn_check_delay: Millis = default "9223372036854775807", Live, Now;
    /// Time between those checks.
    lsn_check_interval: Millis = default "5000", Live, Now;
    /// Longest time for one of them.
    lsn_check_timeout: Millis = default "5000", Live, Now;

    /// When statements are parsed to tell reads from writes. auto: where there are replicas; on a database with shards
    /// always. Where they are not, all go to the primary but for what a hint asks for.
    query_parser: QueryParser = default "auto", Live, Now;
    /// Deprecated: true means query_parser = "on".
    query_parser_enabled: bool = default "false", Live, Now;
    /// Accepted, without effect.
    query_parser_engine: QueryParserEngine = default "pg_query_protobuf", Live, Later;
    /// Longest query tried by the cheap pre-parser.
    regex_parser_limit: Bytes = default "1000", Live, Later;
    /// Entries in the cache of parsed statements; the least recently used goes first.
    query_cache_limit: usize = default "1000", Live, Now;
    /// Which prepared statements work: none, named ones, unnamed ones too, SQL PREPARE too.
    /// Forced off in session mode. Over several shards all work, whatever is set here.
    prepared_statements: PreparedStatements = default "extended", Live, Now;
    /// Statements kept prepared on a server connection; soft cap of the shared cache.
    prepared_statements_limit: u64 = default "9223372036854775807", Live, Now;
    /// Queue length for LISTEN and NOTIFY; 0 disables.
    pub_sub_channel_size: usize = default "0", Live, Later;
    /// Transactions queued for a mirror.
    mirror_queue: usize = default "128", Live, Later;
    /// Share of transactions mirrored.
    mirror_exposure: Fraction = default "1.0", Live, Later;

    /// Parse unsharded traffic and record where it would go.
    dry_run: bool = default "false", Live, Now;
    /// Refuse statements that need several shards.
    cross_shard_disabled: bool = default "false", Live, Now;
    /// Memory for rows that statements over several shards hold, all together; each core has its part. What needs more
    /// fails with 53200. Ours, not PgDog's.
    cross_shard_memory: Bytes = default "1073741824", Live, Now;
    /// Add routing notes to the output of EXPLAIN.
    expanded_explain: bool = default "false", Live, Now;
    /// Where system catalogs are read on a sharded database.
    system_catalogs: SystemCatalogs = default "omnisharded_sticky", Live, Now;
    /// Pin unlisted omnisharded tables to one shard per client.
    omnisharded_sticky: bool = default "false", Live, Now;
    /// Load the schema; auto: with several shards, or multi-tenant.
    load_schema: LoadSchema = default "auto", Live, Later;
    /// Load it again after DDL seen here.
    reload_schema_on_ddl: bool = default "true", Live, Now, env "PGDOG_SCHEMA_RELOAD_ON_DDL";
    /// Map OIDs of custom types to those of shard 0.
    canonicalize_type_information: bool = default "false", Live, Now;
    /// Cache of lookup_query results, per cluster.
    sharding_lookup_cache_size: Bytes = default "67108864", Live, Now;
    /// Longest time for one lookup.
    sharding_lookup_timeout: Millis = default "5000", Live, Now;
    /// Generated IDs: 64 bits, or 53 bits.
    unique_id_function: UniqueIdFunction = default "standard", Restart, Now;
    /// Lowest generated ID.
    unique_id_min: u64 = default "0", Restart, Now;
    /// Two-phase commit for writes to several shards.
    two_phase_commit: bool = default "false", Live, Now;
    /// For single statements too; needs the former.
    two_phase_commit_auto: bool = default "false", Live, Now;
    /// Directory of the recovery log; without it there is no recovery after a crash.
    two_phase_commit_wal_dir: Option<PathBuf> = unset "/var/lib/pgdog/wal", Restart, Now;
    /// Size at which a new segment of the log begins.
    two_phase_commit_wal_segment_size: Bytes = default "16777216", Restart, Now;
    /// Extra wait, so that one fsync serves many.
    two_phase_commit_wal_fsync_interval: Millis = default "0", Restart, Now;
    /// Time between checkpoints.
    two_phase_commit_wal_checkpoint_interval: Millis = default "15000", Restart, Now;

    /// Format of table copies; text is needed when integer widths change.
    resharding_copy_format: CopyFormat = default "binary", Live, Later;
    /// Tables copied at a time.
    resharding_parallel_copies: usize = default "1", Live, Later;
    /// Retries for a table.
    resharding_copy_retry_max_attempts: usize = default "5", Live, Later;
    /// First delay between them; it doubles, up to 32 times.
    resharding_copy_retry_min_delay: Millis = default "1000", Live, Later;
    /// Consecutive failures of a stream that are tolerated; 0 means any number.
    resharding_replication_retry_max_attempts: usize = default "5", Live, Later;
    /// Constant delay between those.
    resharding_replication_retry_min_delay: Millis = default "1000", Live, Later;
    /// Lag at which traffic pauses.
    cutover_traffic_stop_threshold: Bytes = default "1000000", Live, Later;
    /// Lag required before the swap.
    cutover_replication_lag_threshold: Bytes = default "0", Live, Later;
    /// Quiet time required before the swap.
    cutover_last_transaction_delay: Millis = default "1000", Live, Later;
    /// Longest time for reaching both.
    cutover_timeout: Millis = default "30000", Live, Later;
    /// What happens after it.
    cutover_timeout_action: CutoverAction = default "abort", Live, Later;
    /// Write the swapped files, keeping *.bak.toml.
    cutover_save_config: bool = default "false", Live, Later;

    /// Format of log lines; json puts the message under "fields".
    log_format: LogFormat = default "text", Restart, Now;
    /// Filter directives, in the syntax of RUST_LOG.
    log_level: String = default "info", Restart, Now, env "RUST_LOG";
    /// One line for each login.
    log_connections: bool = default "true", Live, Now;
    /// One line for each exit.
    log_disconnections: bool = default "true", Live, Now;
    /// Window for collapsing repeated lines; 0 disables.
    log_dedup_window: Millis = default "0", Restart, Now;
    /// Repeats allowed in a window; 0 disables.
    log_dedup_threshold: usize = default "0", Restart, Now;
    /// Warn about texts whose analysis takes longer than this.
    log_min_duration_parse: Option<Millis> = unset "10", Live, Now;
    /// Warn about queries, or whole batches, that take longer than this to be answered; 0 is every one.
    log_min_duration_query: Option<Millis> = unset "1000", Live, Now;
    /// Characters of SQL in log lines, also in those of query_log; passwords in it are hidden.
    log_query_sample_length: usize = default "1000", Live, Now;
    /// Append every query to this file, with user and database; opened anew on a reload.
    query_log: Option<PathBuf> = unset "/var/log/pgdog/queries.log", Live, Now;
    /// Print every query with user and database.
    query_log_stdout: bool = default "false", Live, Now;
}
