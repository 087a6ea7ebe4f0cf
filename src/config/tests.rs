//! Texts in, configuration out: inheritance, credentials, pools; helpers for tests beside.

use std::time::Duration;

use super::*;

pub(super) const DATABASE: &str = "[[databases]]\nname = \"d\"\nhost = \"h\"\n";
pub(super) const USER: &str = "[[users]]\nname = \"u\"\ndatabase = \"d\"\npassword = \"p\"\n";

mod files;

/// What goes into a configuration.
#[derive(Default)]
pub(super) struct Case<'a> {
    pub(super) config: &'a str,
    pub(super) users: &'a str,
    pub(super) environment: &'a [(&'a str, &'a str)],
    pub(super) overrides: Overrides,
}

impl Case<'_> {
    pub(super) fn resolve(&self) -> Result<Resolved, Vec<String>> {
        let environment = self
            .environment
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let sources = Sources {
            config: Source {
                path: "p.toml",
                text: Some(self.config),
            },
            users: Source {
                path: "u.toml",
                text: Some(self.users),
            },
            environment: &environment,
            overrides: &self.overrides,
        };
        resolve(&sources).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    pub(super) fn config(&self) -> Config {
        self.resolve().unwrap().config
    }
}

/// Files with one database and one user, and more lines for `[general]`, the database and the user.
pub(super) fn files(general: &str, database: &str, user: &str) -> (String, String) {
    (
        format!("[general]\n{general}\n{DATABASE}{database}\n"),
        format!("{USER}{user}\n"),
    )
}

pub(super) fn config(general: &str, database: &str, user: &str) -> Config {
    let (config, users) = files(general, database, user);
    Case {
        config: &config,
        users: &users,
        ..Case::default()
    }
    .config()
}

/// The only pool of such files.
pub(super) fn pool(general: &str, database: &str, user: &str) -> PoolConfig {
    config(general, database, user).pools.remove(0)
}

pub(super) fn errors(config: &str, users: &str) -> Vec<String> {
    Case {
        config,
        users,
        ..Case::default()
    }
    .resolve()
    .map(|resolved| resolved.warnings)
    .unwrap_err()
}

pub(super) fn warnings(config: &str, users: &str) -> Vec<String> {
    Case {
        config,
        users,
        ..Case::default()
    }
    .resolve()
    .unwrap()
    .warnings
}

#[test]
fn shared_between_cores() {
    fn check<T: Send + Sync>() {}
    check::<Config>();
}

#[test]
fn defaults() {
    let config = Case::default().config();
    assert_eq!(
        config.listen,
        Listen {
            host: "0.0.0.0".to_owned(),
            port: 6432
        }
    );
    assert_eq!(config.workers, None);
    assert_eq!(config.clients.login_timeout, Some(Duration::from_secs(60)));
    assert_eq!(config.clients.idle_timeout, None);
    assert_eq!(config.clients.query_bytes_max, None);
    assert_eq!(config.servers.query_timeout, None);
    assert_eq!(config.servers.connect_attempts, 1);
    assert_eq!(config.shutdown.termination_timeout, None);
    assert_eq!(config.prepared.statements_max, None);
    assert_eq!(config.log.dedup, None);
    assert!(config.clusters.is_empty() && config.pools.is_empty());
    assert_eq!(config.not_in_effect(), [""; 0]);
}

/// Each line: a key, a type of look at the pool, and the values of the three levels. The strongest one given wins.
#[test]
fn user_then_database_then_general() {
    type Look = fn(&PoolConfig) -> String;
    let rows: [(&str, &str, Look, [&str; 3]); 7] = [
        (
            "default_pool_size",
            "pool_size",
            |pool| pool.limits.size.to_string(),
            ["21", "22", "23"],
        ),
        (
            "min_pool_size",
            "min_pool_size",
            |pool| pool.limits.size_min.to_string(),
            ["2", "3", "4"],
        ),
        (
            "pooler_mode",
            "pooler_mode",
            |pool| format!("\"{}\"", pool.mode),
            ["\"session\"", "\"statement\"", "\"transaction\""],
        ),
        (
            "idle_timeout",
            "idle_timeout",
            |pool| millis(pool.limits.idle_timeout),
            ["1", "2", "9223372036854775807"],
        ),
        (
            "server_lifetime",
            "server_lifetime",
            |pool| millis(pool.limits.lifetime),
            ["1", "2", "3"],
        ),
        (
            "server_lifetime_jitter",
            "server_lifetime_jitter",
            |pool| millis(Some(pool.limits.lifetime_jitter)),
            ["1", "2", "3"],
        ),
        (
            "checkout_timeout",
            "",
            |pool| millis(pool.limits.checkout_timeout),
            ["7", "", ""],
        ),
    ];
    for (general_key, key, look, [general, database, user]) in rows {
        let general_line = format!("{general_key} = {general}");
        let database_line = if key.is_empty() {
            String::new()
        } else {
            format!("{key} = {database}")
        };
        let user_line = if key.is_empty() {
            String::new()
        } else {
            format!("{key} = {user}")
        };
        assert_eq!(
            look(&pool(&general_line, "", "")),
            general,
            "{key}: general"
        );
        if !key.is_empty() {
            assert_eq!(
                look(&pool(&general_line, &database_line, "")),
                database,
                "{key}: database over general"
            );
            assert_eq!(
                look(&pool(&general_line, &database_line, &user_line)),
                user,
                "{key}: user over all"
            );
            assert_eq!(look(&pool("", "", &user_line)), user, "{key}: user alone");
        }
    }
}

fn millis(limit: Option<Duration>) -> String {
    limit.map_or_else(
        || "9223372036854775807".to_owned(),
        |limit| limit.as_millis().to_string(),
    )
}

#[test]
fn limits_of_a_role_are_stronger_than_plain_ones() {
    // Plain values everywhere, then the role's value of the database, then that of the user.
    for (role, database, user, expected) in [
        ("primary", "", "", "30"),
        ("primary", "pool_size_primary = 5", "", "5"),
        (
            "primary",
            "pool_size_primary = 5",
            "pool_size_primary = 6",
            "6",
        ),
        (
            "primary",
            "pool_size_replica = 5",
            "pool_size_replica = 6",
            "30",
        ),
        ("replica", "pool_size_replica = 5", "", "5"),
        (
            "replica",
            "pool_size_replica = 5",
            "pool_size_replica = 6",
            "6",
        ),
        (
            "replica",
            "pool_size_primary = 5",
            "pool_size_primary = 6",
            "30",
        ),
        (
            "auto",
            "pool_size_primary = 5\npool_size_replica = 5",
            "",
            "30",
        ),
    ] {
        let database = format!("role = \"{role}\"\npool_size = 20\n{database}");
        let found = pool(
            "default_pool_size = 10",
            &database,
            &format!("pool_size = 30\n{user}"),
        );
        assert_eq!(
            found.limits.size.to_string(),
            expected,
            "{database} / {user}"
        );
    }
    let found = pool(
        "",
        "min_pool_size_primary = 3\nidle_timeout_primary = 4",
        "min_pool_size = 1\nidle_timeout = 1",
    );
    assert_eq!(
        (found.limits.size_min, millis(found.limits.idle_timeout)),
        (3, "4".to_owned())
    );
}

#[test]
fn startup_parameters() {
    for (database, user, expected) in [
        ("", "", ""),
        ("statement_timeout = 5000", "", "statement_timeout=5000"),
        (
            "statement_timeout = 5000",
            "statement_timeout = 7",
            "statement_timeout=7",
        ),
        (
            "statement_timeout = 5000",
            "statement_timeout = 9223372036854775807",
            "",
        ),
        (
            "lock_timeout = 1\nread_only = true",
            "",
            "default_transaction_read_only=on lock_timeout=1",
        ),
        ("read_only = true", "read_only = false", ""),
        ("", "read_only = true", "default_transaction_read_only=on"),
        ("statement_timeout = 0", "", "statement_timeout=0"),
    ] {
        let startup = pool("", database, user).startup;
        let found: Vec<String> = startup
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(found.join(" "), expected, "{database} / {user}");
    }
}

#[test]
fn server_credentials_are_strongest_at_the_database() {
    for (database, user, expected) in [
        ("", "", "u p"),
        ("", "passwords = [\"q\", \"r\"]", "u p q r"),
        (
            "",
            "server_user = \"su\"\nserver_password = \"sp\"",
            "su sp",
        ),
        (
            "user = \"du\"\npassword = \"dp\"",
            "server_user = \"su\"\nserver_password = \"sp\"",
            "du dp",
        ),
        ("user = \"du\"", "server_password = \"sp\"", "du sp"),
        (
            "password = \"dp\"",
            "server_auth = \"rds_iam\"\nserver_iam_region = \"r\"",
            "u @r",
        ),
    ] {
        let login = pool("", database, user).login;
        let mut found = vec![login.user.as_str()];
        found.extend(login.passwords.iter().map(Secret::expose));
        let region = login.iam_region.map(|region| format!("@{region}"));
        found.extend(region.as_deref());
        assert_eq!(found.join(" "), expected, "{database} / {user}");
    }
}

#[test]
fn user_then_general_without_the_database() {
    use TwoPhaseCommit::{Off, Statements, Transactions};
    for (general, user, disabled, two_phase) in [
        ("", "", false, Off),
        (
            "cross_shard_disabled = true\ntwo_phase_commit = true",
            "",
            true,
            Transactions,
        ),
        (
            "cross_shard_disabled = true\ntwo_phase_commit = true",
            "cross_shard_disabled = false\ntwo_phase_commit = false",
            false,
            Off,
        ),
        (
            "two_phase_commit = true",
            "two_phase_commit_auto = true",
            false,
            Statements,
        ),
        ("two_phase_commit_auto = true", "", false, Off),
    ] {
        let config = config(general, "", user);
        let found = config.users.find("u", "d").unwrap();
        assert_eq!(
            (found.cross_shard_disabled, found.two_phase_commit),
            (disabled, two_phase),
            "{general} / {user}"
        );
    }
}

#[test]
fn mirrors_inherit() {
    let databases =
        "[[databases]]\nname = \"a\"\nhost = \"h\"\n[[databases]]\nname = \"b\"\nhost = \"h\"\n";
    let text = |more: &str| {
        format!("[general]\nmirror_queue = 7\nmirror_exposure = 0.5\n{databases}[[mirroring]]\nsource_db = \"a\"\ndestination_db = \"b\"\n{more}\n")
    };
    for (more, queue, exposure) in [
        ("", 7, 0.5),
        ("queue_length = 3", 3, 0.5),
        ("queue_depth = 4\nexposure = 1", 4, 1.0),
    ] {
        let mirror = Case {
            config: &text(more),
            ..Case::default()
        }
        .config()
        .mirrors
        .remove(0);
        assert_eq!(
            (mirror.queue_max, mirror.exposure),
            (queue, exposure),
            "{more}"
        );
    }
}

#[test]
fn the_admin_of_users_toml_replaces_the_other() {
    let case = Case {
        config: "[admin]\nname = \"boss\"\nuser = \"a\"\npassword = \"x\"\n",
        users: "[admin]\npassword = \"y\"\n",
        environment: &[("PGDOG_ADMIN_PASSWORD", "z")],
        ..Case::default()
    };
    let admin = case.config().admin;
    assert_eq!(
        (admin.name.as_str(), admin.user.as_str(), admin.password),
        ("admin", "admin", Some(Secret::from("y")))
    );
    let admin = Case {
        environment: &[("PGDOG_ADMIN_PASSWORD", "z")],
        ..Case::default()
    }
    .config()
    .admin;
    assert_eq!(admin.password, Some(Secret::from("z")));
    assert_eq!(Case::default().config().admin.password, None);
}

#[test]
fn addresses() {
    for (database, address, socket) in [
        ("", "h:5432/d", None),
        (
            "port = 6000\ndatabase_name = \"other\"",
            "h:6000/other",
            None,
        ),
    ] {
        let found = pool("", database, "").address;
        assert_eq!(
            (found.to_string().as_str(), found.socket_path()),
            (address, socket)
        );
    }
    let text = "[[databases]]\nname = \"d\"\nhost = \"/run/postgresql\"\n";
    let found = Case {
        config: text,
        users: USER,
        ..Case::default()
    }
    .config()
    .pools
    .remove(0)
    .address;
    assert_eq!(found.host, Host::Unix(PathBuf::from("/run/postgresql")));
    assert_eq!(
        found.socket_path(),
        Some(PathBuf::from("/run/postgresql/.s.PGSQL.5432"))
    );
}

#[test]
fn clusters_shards_and_pools() {
    let text = "
[[databases]]
name = \"b\"
host = \"b0\"
[[databases]]
name = \"a\"
host = \"a1\"
shard = 1
[[databases]]
name = \"a\"
host = \"a0\"
[[databases]]
name = \"a\"
host = \"a0r\"
role = \"replica\"
";
    let users = "
[[users]]
name = \"all\"
password = \"p\"
all_databases = true
database = \"nowhere\"
[[users]]
name = \"some\"
password = \"p\"
databases = [\"b\", \"b\"]
[[users]]
name = \"one\"
password = \"p\"
database = \"a\"
databases = [\"b\"]
";
    let config = Case {
        config: text,
        users,
        ..Case::default()
    }
    .config();
    let names: Vec<_> = config
        .clusters
        .iter()
        .map(|cluster| (cluster.name.as_str(), cluster.shards.len()))
        .collect();
    assert_eq!(names, [("a", 2), ("b", 1)]);
    assert_eq!(config.cluster("a").unwrap().shards[0].servers.len(), 2);
    assert!(config.cluster("c").is_none());
    let pools: Vec<String> = config
        .pools
        .iter()
        .map(|pool| {
            format!(
                "{} {} {} {}",
                pool.user, pool.database, pool.shard, pool.address.host
            )
        })
        .collect();
    assert_eq!(
        pools,
        [
            "all a 0 a0",
            "all a 0 a0r",
            "all a 1 a1",
            "all b 0 b0",
            "one a 0 a0",
            "one a 0 a0r",
            "one a 1 a1",
            "some b 0 b0",
        ]
    );
    for (user, database, found) in [
        ("all", "a", true),
        ("some", "a", false),
        ("one", "b", false),
        ("x", "a", false),
        ("one", "x", false),
    ] {
        assert_eq!(
            config.users.find(user, database).is_some(),
            found,
            "{user} {database}"
        );
    }
    assert_eq!(config.pools_of("one", "a").count(), 3);
    assert_eq!(config.users.iter().count(), 4);
}

#[test]
fn credentials_of_clients() {
    for (lines, passwords, hash, identity, size_min) in [
        (
            "password = \"a\"\npasswords = [\"b\"]\npassword_hash = \"SCRAM-SHA-256$x\"",
            "a b",
            true,
            false,
            1,
        ),
        ("password_hash = \"SCRAM-SHA-256$x\"", "", true, false, 1),
        ("password = \"a\"\nidentity = \"cn\"", "", false, true, 1),
        ("", "", false, false, 0),
    ] {
        let users = format!("[[users]]\nname = \"u\"\ndatabase = \"d\"\n{lines}\n");
        let config = Case {
            config: DATABASE,
            users: &users,
            ..Case::default()
        }
        .config();
        let found = &config.users.find("u", "d").unwrap().credentials;
        let texts: Vec<_> = found.passwords.iter().map(Secret::expose).collect();
        assert_eq!(texts.join(" "), passwords, "{lines}");
        assert_eq!(
            (found.password_hash.is_some(), found.identity.is_some()),
            (hash, identity),
            "{lines}"
        );
        assert_eq!(config.pools[0].limits.size_min, size_min, "{lines}");
    }
}
