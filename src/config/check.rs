//! Settings that contradict each other, over both files.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::choice::{
    AuthType, LoadBalancingStrategy, PassthroughAuth, PrimaryKeyRewrite, QueryParser, RewriteMode,
    Role, ServerAuth, TlsVerify, VaultAuthMethod,
};
use super::document::Entry;
use super::file::{Database, File};
use super::problem::Problems;
use super::rds;
use super::section::Section;
use super::sharding;
use super::users::{UserEntry, UsersFile};
use super::value::Millis;

/// Largest `statement_timeout` and `lock_timeout` that PostgreSQL takes, in milliseconds.
const POSTGRES_TIMEOUT_MAX: u64 = i32::MAX as u64;
/// Largest pool, far beyond what any server takes. Sizes are added up and subtracted.
const POOL_SIZE_MAX: usize = 1_000_000;
/// What Linux takes for TCP_KEEPIDLE and TCP_KEEPINTVL, in whole seconds.
const KEEPALIVE_TIMES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(32_767);
/// The same for TCP_KEEPCNT.
const KEEPALIVE_RETRIES: RangeInclusive<u32> = 1..=127;
/// Largest TCP_USER_TIMEOUT, in milliseconds.
const USER_TIMEOUT_MAX: u64 = i32::MAX as u64;

/// Reports all contradictions. Nothing is concluded from sections that could not be read.
pub(super) fn check(file: &File, users: &UsersFile, problems: &mut Problems) {
    let names = file
        .databases
        .iter()
        .map(|database| database.value.name.as_str());
    let mut check = Check {
        file,
        names: names.collect(),
        problems,
    };
    check.general();
    check.small_sections();
    check.tcp();
    check.databases();
    check.references();
    check.users(users);
    check.auth_users(users);
    for table in &file.sharded_tables {
        sharding::check(table, problems);
    }
}

struct Check<'a> {
    file: &'a File,
    /// Of all databases.
    names: BTreeSet<&'a str>,
    problems: &'a mut Problems,
}

impl Check<'_> {
    fn error<S: Section>(&mut self, entry: &Entry<S>, key: &str, reason: impl Into<String>) {
        if !entry.place.broken {
            self.problems.errors.push(entry.problem(key, reason));
        }
    }

    fn warn<S: Section>(&mut self, entry: &Entry<S>, key: &str, reason: impl Into<String>) {
        self.problems.warnings.push(entry.problem(key, reason));
    }

    fn general(&mut self) {
        let entry = &self.file.general;
        let general = &entry.value;
        if general.connect_attempts == 0 {
            self.error(entry, "connect_attempts", "must be at least 1");
        }
        let size = ("default_pool_size", Some(general.default_pool_size));
        let size_min = ("min_pool_size", Some(general.min_pool_size));
        self.sizes(entry, [size, size_min]);
        let pairs = [
            (
                "tls_certificate",
                &general.tls_certificate,
                "tls_private_key",
                &general.tls_private_key,
            ),
            (
                "tls_server_certificate",
                &general.tls_server_certificate,
                "tls_server_private_key",
                &general.tls_server_private_key,
            ),
        ];
        for (certificate_key, certificate, private_key, key) in pairs {
            match (certificate, key) {
                (Some(_), None) => self.warn(
                    entry,
                    certificate_key,
                    format!("without {private_key} it has no effect"),
                ),
                (None, Some(_)) => self.warn(
                    entry,
                    private_key,
                    format!("without {certificate_key} it has no effect"),
                ),
                _ => {}
            }
        }
        let tls = general.tls_certificate.is_some() && general.tls_private_key.is_some();
        if !tls
            && matches!(
                general.passthrough_auth,
                PassthroughAuth::Enabled | PassthroughAuth::EnabledAllowChange
            )
        {
            let reason = "passwords would travel in clear text: set tls_certificate and tls_private_key, or choose a value with \"plain\"";
            self.error(entry, "passthrough_auth", reason);
        }
        if !tls && general.tls_client_required {
            self.error(
                entry,
                "tls_client_required",
                "needs tls_certificate and tls_private_key",
            );
        }
        if general.two_phase_commit_auto && !general.two_phase_commit {
            self.warn(
                entry,
                "two_phase_commit_auto",
                "without two_phase_commit it has no effect",
            );
        }
        if general.query_parser_enabled {
            self.warn(
                entry,
                "query_parser_enabled",
                "deprecated, write query_parser = \"on\"",
            );
            if entry.given("query_parser") && general.query_parser != QueryParser::On {
                self.warn(entry, "query_parser", "query_parser_enabled overrules it");
            }
        }
        let Millis(interval) = general.idle_healthcheck_interval;
        let Millis(ban) = general.ban_timeout;
        if ban > 0 && interval >= ban {
            self.warn(
                entry,
                "idle_healthcheck_interval",
                format!("keep it below ban_timeout ({ban} ms), or bans end unchecked"),
            );
        }
    }

    fn small_sections(&mut self) {
        let rewrite = &self.file.rewrite;
        if !rewrite.value.enabled {
            let reason = "has no effect while rewrite.enabled is false";
            if rewrite.value.split_inserts == RewriteMode::Rewrite {
                self.warn(rewrite, "split_inserts", reason);
            }
            if rewrite.value.shard_key == RewriteMode::Rewrite {
                self.warn(rewrite, "shard_key", reason);
            }
            if matches!(
                rewrite.value.primary_key,
                PrimaryKeyRewrite::Rewrite | PrimaryKeyRewrite::RewriteOmni
            ) {
                self.warn(rewrite, "primary_key", reason);
            }
        }
        if rewrite.value.shard_key == RewriteMode::Ignore {
            let reason = "has the effect of \"rewrite\": each row moves to the shard of its key";
            self.warn(rewrite, "shard_key", reason);
        }
        if rewrite.value.split_inserts == RewriteMode::Ignore {
            self.warn(
                rewrite,
                "split_inserts",
                "has the effect of \"rewrite\": each row goes to its own shard",
            );
        }
        if let Some(lag) = &self.file.replica_lag {
            self.warn(lag, "", "legacy, prefer ban_replica_lag in [general]");
            if lag.value.max_age.is_none() && lag.given("check_interval") {
                self.error(lag, "check_interval", "needs max_age");
            }
        }
        if let Some(vault) = &self.file.vault {
            let value = &vault.value;
            let (key, missing) = match value.auth_method {
                VaultAuthMethod::Kubernetes => ("kubernetes_role", value.kubernetes_role.is_none()),
                VaultAuthMethod::Approle => ("approle_role_id", value.approle_role_id.is_none()),
            };
            if missing {
                self.error(
                    vault,
                    key,
                    format!("required by auth_method = \"{}\"", value.auth_method),
                );
            }
        }
    }

    /// What the kernel would refuse with each new connection.
    fn tcp(&mut self) {
        let entry = &self.file.tcp;
        let tcp = &entry.value;
        for (key, time) in [("time", tcp.time), ("interval", tcp.interval)] {
            let time = time.and_then(Millis::limit).filter(|_| tcp.keepalive);
            if time.is_some_and(|time| !KEEPALIVE_TIMES.contains(&time)) {
                self.error(entry, key, "must be from 1000 to 32767000 ms");
            }
        }
        let retries = tcp.retries.filter(|_| tcp.keepalive);
        if retries.is_some_and(|retries| !KEEPALIVE_RETRIES.contains(&retries)) {
            self.error(entry, "retries", "must be from 1 to 127");
        }
        let timeout = tcp.user_timeout;
        if timeout.is_some_and(|timeout| timeout.limit().is_some() && timeout.0 > USER_TIMEOUT_MAX)
        {
            let reason = format!("must be at most {USER_TIMEOUT_MAX} ms");
            self.error(entry, "user_timeout", reason);
        }
    }

    fn databases(&mut self) {
        let file = self.file;
        let mut clusters: BTreeMap<&str, Vec<&Entry<Database>>> = BTreeMap::new();
        for entry in &file.databases {
            self.limits(
                entry,
                [
                    ("pool_size", entry.value.pool_size),
                    ("pool_size_primary", entry.value.pool_size_primary),
                    ("pool_size_replica", entry.value.pool_size_replica),
                    ("min_pool_size", entry.value.min_pool_size),
                    ("min_pool_size_primary", entry.value.min_pool_size_primary),
                    ("min_pool_size_replica", entry.value.min_pool_size_replica),
                ],
                [
                    ("statement_timeout", entry.value.statement_timeout),
                    ("lock_timeout", entry.value.lock_timeout),
                ],
            );
            if !entry.place.broken {
                clusters.entry(&entry.value.name).or_default().push(entry);
            }
            if entry.value.name == file.admin.value.name {
                self.error(entry, "name", "is the name of the admin database");
            }
            let weighted = file.general.value.load_balancing_strategy
                == LoadBalancingStrategy::WeightedRoundRobin;
            // A spare server is one whatever the strategy is.
            if entry.value.lb_weight > 0 && entry.given("lb_weight") && !weighted {
                self.warn(
                    entry,
                    "lb_weight",
                    "only used by load_balancing_strategy = \"weighted_round_robin\"",
                );
            }
        }
        for entries in clusters.into_values() {
            self.cluster(&entries);
        }
    }

    /// All entries of one name, at least one.
    fn cluster(&mut self, entries: &[&Entry<Database>]) {
        let Some(first) = entries.first() else {
            return;
        };
        let mut shards: BTreeMap<u32, Vec<&Entry<Database>>> = BTreeMap::new();
        for entry in entries {
            shards.entry(entry.value.shard).or_default().push(entry);
            if entry.value.pooler_mode != first.value.pooler_mode {
                self.warn(
                    entry,
                    "pooler_mode",
                    format!("differs from other entries of \"{}\"", entry.value.name),
                );
            }
            let own = entry.value.read_your_writes;
            if own.is_some() && own != first.value.read_your_writes {
                let text = format!("differs from the first entry of \"{}\"", entry.value.name);
                self.warn(entry, "read_your_writes", text);
            }
        }
        for (expected, number) in (0..).zip(shards.keys()) {
            if expected != *number {
                self.warn(
                    first,
                    "shard",
                    format!(
                        "shards of \"{}\" have a gap: {expected} is missing",
                        first.value.name
                    ),
                );
                break;
            }
        }
        for servers in shards.values() {
            self.shard(servers);
        }
    }

    /// Servers of one shard.
    fn shard(&mut self, servers: &[&Entry<Database>]) {
        let with = |role: Role| servers.iter().filter(move |entry| entry.value.role == role);
        let name = |entry: &Entry<Database>| {
            format!("shard {} of \"{}\"", entry.value.shard, entry.value.name)
        };
        for second in with(Role::Primary).skip(1) {
            self.error(
                second,
                "role",
                format!("{} has a primary already", name(second)),
            );
        }
        if let (Some(auto), true) = (
            with(Role::Auto).next(),
            with(Role::Auto).count() < servers.len(),
        ) {
            self.error(
                auto,
                "role",
                format!("{} mixes auto with fixed roles", name(auto)),
            );
        }
        if let (Some(auto), None) = (
            with(Role::Auto).next(),
            self.file.general.value.lsn_check_delay.limit(),
        ) {
            self.warn(
                auto,
                "role",
                "auto needs checks: without lsn_check_delay they begin at once",
            );
        }
        let mut seen = BTreeSet::new();
        let mut primaries = 0;
        for entry in servers {
            let value = &entry.value;
            let address = (
                &value.host,
                value.port,
                value.database_name.as_deref().unwrap_or(&value.name),
            );
            primaries += usize::from(value.role == Role::Primary);
            // Of a second primary more has been said.
            let told = value.role == Role::Primary && primaries > 1;
            if !seen.insert(address) && !told {
                self.error(
                    entry,
                    "host",
                    format!("{} has this server already", name(entry)),
                );
            }
        }
    }

    /// Limits that databases and users share.
    fn limits<S: Section>(
        &mut self,
        entry: &Entry<S>,
        sizes: [(&str, Option<usize>); 6],
        timeouts: [(&str, Option<Millis>); 2],
    ) {
        self.sizes(entry, sizes);
        for (key, timeout) in timeouts {
            let over =
                |timeout: &Millis| timeout.limit().is_some() && timeout.0 > POSTGRES_TIMEOUT_MAX;
            if timeout.as_ref().is_some_and(over) {
                self.error(
                    entry,
                    key,
                    format!("PostgreSQL takes {POSTGRES_TIMEOUT_MAX} ms at most"),
                );
            }
        }
    }

    /// Sizes of pools; those that are kept open may be none.
    fn sizes<S: Section, const N: usize>(
        &mut self,
        entry: &Entry<S>,
        sizes: [(&str, Option<usize>); N],
    ) {
        for (key, size) in sizes {
            if size == Some(0) && !key.starts_with("min_") {
                self.error(entry, key, "must be at least 1");
            }
            if size.is_some_and(|size| size > POOL_SIZE_MAX) {
                self.error(entry, key, format!("must be at most {POOL_SIZE_MAX}"));
            }
        }
    }

    /// Names of databases in sections other than `[[databases]]`.
    fn references(&mut self) {
        let file = self.file;
        for entry in &file.query_parsers {
            self.known(entry, "database", &entry.value.database);
        }
        for entry in &file.mirroring {
            self.known(entry, "source_db", &entry.value.source_db);
            self.known(entry, "destination_db", &entry.value.destination_db);
        }
        for entry in &file.sharded_tables {
            self.known(entry, "database", &entry.value.database);
        }
        for entry in &file.sharded_schemas {
            self.known(entry, "database", &entry.value.database);
        }
        for entry in &file.omnisharded_tables {
            self.known(entry, "database", &entry.value.database);
        }
    }

    /// Is there a database of this name? Not asked while some of them could not be read; only a warning where
    /// databases given by URL took the place of those that the files speak of.
    fn known<S: Section>(&mut self, entry: &Entry<S>, key: &str, name: &str) {
        let databases = &self.file.databases;
        if self.names.contains(name) || databases.iter().any(|database| database.place.broken) {
            return;
        }
        let reason = format!("database \"{name}\" is not configured");
        let from_files =
            |database: &Entry<Database>| database.place.file == self.file.general.place.file;
        if databases.iter().all(from_files) {
            self.error(entry, key, reason);
        } else {
            self.warn(entry, key, reason);
        }
    }

    /// `server_auth = "rds_iam"`, which this build may not have.
    fn rds_iam(&mut self, entry: &Entry<UserEntry>) {
        let user = &entry.value;
        if user.server_auth != ServerAuth::RdsIam {
            return;
        }
        if cfg!(all(feature = "runtime", not(feature = "rds-iam"))) {
            self.error(
                entry,
                "server_auth",
                "this build has no RDS IAM (feature rds-iam)",
            );
        }
        let file = self.file;
        let names = user.database_names(file);
        let databases = file.databases.iter().map(|database| &database.value);
        for database in databases.filter(|database| names.contains(&*database.name)) {
            if let Some(Err(reason)) = rds::region(user, database) {
                self.error(entry, "server_iam_region", reason);
            }
        }
    }

    /// `auth_user` runs a query, and needs a pool for it.
    fn auth_users(&mut self, users: &UsersFile) {
        let is_there = |name: &str, database: Option<&str>| {
            users.users.iter().any(|entry| {
                let databases = entry.value.database_names(self.file);
                entry.value.name == name && database.is_none_or(|name| databases.contains(name))
            })
        };
        let general = &self.file.general;
        let mut missing = Vec::new();
        if let Some(name) = &general.value.auth_user {
            if !is_there(name, None) {
                missing.push(
                    general.problem("auth_user", format!("no user \"{name}\" in users.toml")),
                );
            }
        }
        for database in &self.file.databases {
            let value = &database.value;
            if let Some(name) = &value.auth_user {
                if !is_there(name, Some(&value.name)) {
                    let reason = format!("no user \"{name}\" for this database in users.toml");
                    missing.push(database.problem("auth_user", reason));
                }
            }
        }
        if !general.value.auth_query.contains("$1") {
            missing.push(general.problem("auth_query", "asks for nobody: it has no $1"));
        }
        self.problems.errors.extend(missing);
    }

    fn users(&mut self, users: &UsersFile) {
        let general = &self.file.general.value;
        let passthrough = general.passthrough_auth != PassthroughAuth::Disabled;
        let mut seen: BTreeMap<(&str, &str), &Entry<UserEntry>> = BTreeMap::new();
        for entry in &users.users {
            let user = &entry.value;
            self.limits(
                entry,
                [
                    ("pool_size", user.pool_size),
                    ("pool_size_primary", user.pool_size_primary),
                    ("pool_size_replica", user.pool_size_replica),
                    ("min_pool_size", user.min_pool_size),
                    ("min_pool_size_primary", user.min_pool_size_primary),
                    ("min_pool_size_replica", user.min_pool_size_replica),
                ],
                [
                    ("statement_timeout", user.statement_timeout),
                    ("lock_timeout", user.lock_timeout),
                ],
            );
            let databases = user.database_names(self.file);
            if databases.is_empty() && !user.all_databases {
                self.error(
                    entry,
                    "database",
                    "no database: give database, databases or all_databases = true",
                );
            }
            for database in databases {
                if !user.all_databases {
                    let key = if user.database.is_empty() {
                        "databases"
                    } else {
                        "database"
                    };
                    self.known(entry, key, database);
                }
                if !entry.place.broken && seen.insert((&user.name, database), entry).is_some() {
                    self.error(
                        entry,
                        "name",
                        format!(
                            "\"{}\" has an entry for database \"{database}\" already",
                            user.name
                        ),
                    );
                }
            }
            let looked_up = general.auth_user.is_some()
                || self
                    .file
                    .databases
                    .iter()
                    .any(|database| database.value.auth_user.is_some());
            if user.credentials().is_empty()
                && !passthrough
                && !looked_up
                && general.auth_type != AuthType::Trust
            {
                self.warn(
                    entry,
                    "password",
                    "no password, nobody can log in as this user",
                );
            }
            if user
                .password_hash
                .as_ref()
                .is_some_and(|hash| !hash.expose().starts_with("SCRAM-SHA-256$"))
            {
                self.error(
                    entry,
                    "password_hash",
                    "expected a verifier that begins with SCRAM-SHA-256$",
                );
            }
            if user.identity.is_some() && general.tls_client_ca_certificate.is_none() {
                self.warn(
                    entry,
                    "identity",
                    "without tls_client_ca_certificate nobody can log in as this user",
                );
            }
            if user.server_auth != ServerAuth::Password {
                if passthrough {
                    self.error(entry, "server_auth", "excludes passthrough_auth");
                }
                if general.tls_verify == TlsVerify::Disabled {
                    self.error(
                        entry,
                        "server_auth",
                        "needs TLS to servers, but tls_verify is \"disabled\"",
                    );
                }
            }
            self.rds_iam(entry);
            if !(1..=80).contains(&user.vault_refresh_percent) {
                self.error(entry, "vault_refresh_percent", "must be from 1 to 80");
            }
            let needs_vault = user.vault_path.is_some()
                || matches!(
                    user.server_auth,
                    ServerAuth::VaultDynamic | ServerAuth::VaultStatic
                );
            if needs_vault && self.file.vault.is_none() {
                self.error(entry, "vault_path", "needs a section [vault] in pgdog.toml");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{errors, files, warnings, Case};

    /// Contradictions that are errors: lines of `[general]`, the database and the user, and the one message.
    #[test]
    fn contradictions() {
        for (general, database, user, error) in [
            ("default_pool_size = 0", "", "pool_size = 1", "p.toml:2: general.default_pool_size: must be at least 1"),
            ("default_pool_size = 1000001", "", "pool_size = 1", "p.toml:2: general.default_pool_size: must be at most 1000000"),
            ("min_pool_size = 9223372036854775807", "", "min_pool_size = 1", "p.toml:2: general.min_pool_size: must be at most 1000000"),
            ("", "pool_size_replica = 9223372036854775808", "", "p.toml:6: databases.pool_size_replica: must be at most 1000000"),
            ("", "", "pool_size = 9223372036854775808", "u.toml:5: users.pool_size: must be at most 1000000"),
            ("", "[tcp]\ntime = 999", "", "p.toml:7: tcp.time: must be from 1000 to 32767000 ms"),
            ("", "[tcp]\ninterval = 32768000", "", "p.toml:7: tcp.interval: must be from 1000 to 32767000 ms"),
            ("", "[tcp]\nretries = 0", "", "p.toml:7: tcp.retries: must be from 1 to 127"),
            ("", "[tcp]\nretries = 128", "", "p.toml:7: tcp.retries: must be from 1 to 127"),
            ("", "[tcp]\nuser_timeout = 2147483648", "", "p.toml:7: tcp.user_timeout: must be at most 2147483647 ms"),
            ("connect_attempts = 0", "", "", "p.toml:2: general.connect_attempts: must be at least 1"),
            ("", "pool_size = 0", "pool_size = 1", "p.toml:6: databases.pool_size: must be at least 1"),
            ("", "", "pool_size_primary = 0", "u.toml:5: users.pool_size_primary: must be at least 1"),
            ("", "statement_timeout = 2147483648", "", "p.toml:6: databases.statement_timeout: PostgreSQL takes 2147483647 ms at most"),
            ("", "", "lock_timeout = 2147483648", "u.toml:5: users.lock_timeout: PostgreSQL takes 2147483647 ms at most"),
            ("passthrough_auth = \"enabled\"", "", "", "p.toml:2: general.passthrough_auth: passwords would travel in clear text: set tls_certificate and tls_private_key, or choose a value with \"plain\""),
            ("tls_client_required = true", "", "", "p.toml:2: general.tls_client_required: needs tls_certificate and tls_private_key"),
            ("", "[[databases]]\nname = \"d\"\nhost = \"i\"", "", "p.toml:6: databases.role: shard 0 of \"d\" has a primary already"),
            ("", "[[databases]]\nname = \"d\"\nhost = \"i\"\nrole = \"auto\"", "", "p.toml:9: databases.role: shard 0 of \"d\" mixes auto with fixed roles"),
            ("", "[[databases]]\nname = \"d\"\nhost = \"h\"\nrole = \"replica\"", "", "p.toml:8: databases.host: shard 0 of \"d\" has this server already"),
            ("", "role = \"replica\"\n[[databases]]\nname = \"d\"\nhost = \"h\"", "", "p.toml:9: databases.host: shard 0 of \"d\" has this server already"),
            ("", "[[databases]]\nname = \"admin\"\nhost = \"h\"", "", "p.toml:7: databases.name: is the name of the admin database"),
            ("", "[[sharded_tables]]\ndatabase = \"x\"", "", "p.toml:7: sharded_tables.database: database \"x\" is not configured"),
            ("", "[replica_lag]\ncheck_interval = 5", "", "p.toml:7: replica_lag.check_interval: needs max_age"),
            ("", "[multi_tenant]", "", "p.toml:6: multi_tenant.column: required, but missing"),
            ("", "[vault]\nurl = \"u\"\nauth_method = \"approle\"", "", "p.toml:6: vault.approle_role_id: required by auth_method = \"approle\""),
            ("", "", "[[users]]\nname = \"v\"\ndatabase = \"x\"", "u.toml:7: users.database: database \"x\" is not configured"),
            ("", "", "[[users]]\nname = \"v\"\ndatabases = [\"d\", \"x\"]", "u.toml:7: users.databases: database \"x\" is not configured"),
            ("", "", "[[users]]\nname = \"v\"", "u.toml:5: users.database: no database: give database, databases or all_databases = true"),
            ("", "", "[[users]]\nname = \"u\"\nall_databases = true", "u.toml:6: users.name: \"u\" has an entry for database \"d\" already"),
            ("", "", "password_hash = \"md5abc\"", "u.toml:5: users.password_hash: expected a verifier that begins with SCRAM-SHA-256$"),
            ("", "", "vault_refresh_percent = 81", "u.toml:5: users.vault_refresh_percent: must be from 1 to 80"),
            ("tls_verify = \"none\"", "", "server_auth = \"rds_iam\"\nserver_iam_region = \"r\"", "u.toml:5: users.server_auth: needs TLS to servers, but tls_verify is \"disabled\""),
            ("passthrough_auth = \"enabled_plain\"", "", "server_auth = \"rds_iam\"\nserver_iam_region = \"r\"", "u.toml:5: users.server_auth: excludes passthrough_auth"),
            ("", "", "server_auth = \"rds_iam\"", "u.toml:1: users.server_iam_region: unset, and \"h\" names no region"),
            ("", "", "server_auth = \"rds_iam\"\nserver_iam_region = \"r\"\n[[users]]\nname = \"v\"\ndatabase = \"d\"\nserver_auth = \"rds_iam\"", "u.toml:7: users.server_iam_region: unset, and \"h\" names no region"),
            ("", "", "server_auth = \"vault_static\"", "u.toml:1: users.vault_path: needs a section [vault] in pgdog.toml"),
        ] {
            let (config, users) = files(general, database, user);
            assert_eq!(errors(&config, &users), [error]);
        }
    }

    /// The same for warnings; the configuration stands.
    #[test]
    fn doubts() {
        for (general, database, user, warning) in [
            ("tls_certificate = \"c\"", "", "", "p.toml:2: general.tls_certificate: without tls_private_key it has no effect"),
            ("", "", "identity = \"a\"", "u.toml:5: users.identity: without tls_client_ca_certificate nobody can log in as this user"),
            ("tls_private_key = \"c\"", "", "", "p.toml:2: general.tls_private_key: without tls_certificate it has no effect"),
            ("two_phase_commit_auto = true", "", "", "p.toml:2: general.two_phase_commit_auto: without two_phase_commit it has no effect"),
            ("query_parser_enabled = true", "", "", "p.toml:2: general.query_parser_enabled: deprecated, write query_parser = \"on\""),
            ("ban_timeout = 1000", "", "", "p.toml:1: general.idle_healthcheck_interval: keep it below ban_timeout (1000 ms), or bans end unchecked"),
            ("", "lb_weight = 5", "", "p.toml:6: databases.lb_weight: only used by load_balancing_strategy = \"weighted_round_robin\""),
            ("", "shard = 1", "", "p.toml:6: databases.shard: shards of \"d\" have a gap: 0 is missing"),
            ("", "role = \"auto\"", "", "p.toml:6: databases.role: auto needs checks: without lsn_check_delay they begin at once"),
            ("", "[[databases]]\nname = \"d\"\nhost = \"r\"\nrole = \"replica\"\npooler_mode = \"session\"", "", "p.toml:10: databases.pooler_mode: differs from other entries of \"d\""),
            ("", "[rewrite]\nsplit_inserts = \"rewrite\"", "", "p.toml:7: rewrite.split_inserts: has no effect while rewrite.enabled is false"),
            ("", "[rewrite]\nshard_key = \"rewrite\"", "", "p.toml:7: rewrite.shard_key: has no effect while rewrite.enabled is false"),
            ("", "[rewrite]\nshard_key = \"ignore\"", "", "p.toml:7: rewrite.shard_key: has the effect of \"rewrite\": each row moves to the shard of its key"),
            ("", "[rewrite]\nsplit_inserts = \"ignore\"", "", "p.toml:7: rewrite.split_inserts: has the effect of \"rewrite\": each row goes to its own shard"),
            ("", "[replica_lag]\nmax_age = 5", "", "p.toml:6: replica_lag: legacy, prefer ban_replica_lag in [general]"),
            ("", "[replication]\nother = 5", "", "p.toml:7: replication.other: unknown key"),
            ("", "[[omnisharded_tables]]\ndatabase = \"d\"\ntables = [\"t\"]\nother = 5", "", "p.toml:9: omnisharded_tables.other: unknown key"),
            ("", "[qos]\nenabled = true", "", "p.toml:6: qos: out of scope of this program, ignored"),
            ("", "", "min_pool_size = 20", "u.toml:1: users: min_pool_size 20 is above pool_size 10 for database \"d\", using 10"),
            ("", "", "[[users]]\nname = \"v\"\ndatabase = \"d\"", "u.toml:5: users.password: no password, nobody can log in as this user"),
        ] {
            let (config, users) = files(general, database, user);
            assert_eq!(warnings(&config, &users), [warning]);
        }
    }

    #[test]
    fn urls_may_take_away_databases_that_the_files_speak_of() {
        let config =
            "[[databases]]\nname = \"d\"\nhost = \"h\"\n[[sharded_tables]]\ndatabase = \"d\"\n";
        let environment = [("PGDOG_DATABASE_URL_1", "postgres://u:p@h/other")];
        let case = Case {
            config,
            environment: &environment,
            ..Case::default()
        };
        let warning = "p.toml:5: sharded_tables.database: database \"d\" is not configured";
        assert_eq!(case.resolve().unwrap().warnings, [warning]);
    }
}
