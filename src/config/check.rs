//! Settings that contradict each other, over both files.

use std::collections::{BTreeMap, BTreeSet};

use super::choice::{
    AuthType, LoadBalancingStrategy, PassthroughAuth, PrimaryKeyRewrite, QueryParser, RewriteMode,
    Role, ServerAuth, TlsVerify, VaultAuthMethod,
};
use super::file::{Database, File};
use super::section::{Entry, Problems, Section};
use super::sharding;
use super::users::{UserEntry, UsersFile};
use super::value::Millis;

/// Largest `statement_timeout` and `lock_timeout` that PostgreSQL takes, in milliseconds.
const POSTGRES_TIMEOUT_MAX: u64 = i32::MAX as u64;

/// Reports all contradictions. Nothing is concluded from sections that could not be read.
pub(super) fn check(file: &File, users: &UsersFile, problems: &mut Problems) {
    let mut check = Check { file, problems };
    check.general();
    check.small_sections();
    check.databases();
    check.references();
    check.users(users);
    for table in &file.sharded_tables {
        sharding::check(table, problems);
    }
}

struct Check<'a> {
    file: &'a File,
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
        for (key, size) in [
            ("default_pool_size", general.default_pool_size),
            ("connect_attempts", general.connect_attempts),
        ] {
            if size == 0 {
                self.error(entry, key, "must be at least 1");
            }
        }
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
            for (key, mode) in [
                ("shard_key", rewrite.value.shard_key),
                ("split_inserts", rewrite.value.split_inserts),
            ] {
                if mode == RewriteMode::Rewrite {
                    self.warn(rewrite, key, reason);
                }
            }
            if matches!(
                rewrite.value.primary_key,
                PrimaryKeyRewrite::Rewrite | PrimaryKeyRewrite::RewriteOmni
            ) {
                self.warn(rewrite, "primary_key", reason);
            }
        }
        if rewrite.value.split_inserts == RewriteMode::Ignore {
            self.warn(
                rewrite,
                "split_inserts",
                "every shard will get every row of an INSERT of several rows",
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
            if entry.given("lb_weight") && !weighted {
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
            self.warn(auto, "role", "auto needs lsn_check_delay in [general]");
        }
        let mut seen = BTreeSet::new();
        for entry in servers {
            let value = &entry.value;
            let address = (
                &value.host,
                value.port,
                value.database_name.as_deref().unwrap_or(&value.name),
            );
            if !seen.insert(address) && value.role != Role::Primary {
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
        sizes: [(&str, Option<usize>); 3],
        timeouts: [(&str, Option<Millis>); 2],
    ) {
        for (key, size) in sizes {
            if size == Some(0) {
                self.error(entry, key, "must be at least 1");
            }
        }
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

    /// Is there a database of this name? Not asked while some of them could not be read.
    fn known<S: Section>(&mut self, entry: &Entry<S>, key: &str, name: &str) {
        let databases = &self.file.databases;
        let doubtful = databases.iter().any(|database| database.place.broken);
        if !doubtful && !databases.iter().any(|database| database.value.name == name) {
            self.error(entry, key, format!("database \"{name}\" is not configured"));
        }
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
            if user.credentials().is_empty() && !passthrough && general.auth_type != AuthType::Trust
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
