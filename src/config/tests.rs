//! Texts in, configuration or errors out: inheritance, environment, contradictions, reloads.

use std::sync::Arc;
use std::time::Duration;

use super::section::Initial;
use super::*;

const DATABASE: &str = "[[databases]]\nname = \"d\"\nhost = \"h\"\n";
const USER: &str = "[[users]]\nname = \"u\"\ndatabase = \"d\"\npassword = \"p\"\n";

/// What goes into a configuration.
#[derive(Default)]
struct Case<'a> {
    config: &'a str,
    users: &'a str,
    environment: &'a [(&'a str, &'a str)],
    overrides: Overrides,
}

impl Case<'_> {
    fn resolve(&self) -> Result<Resolved, Vec<String>> {
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

    fn config(&self) -> Config {
        self.resolve().unwrap().config
    }
}

/// Files with one database and one user, and more lines for `[general]`, the database and the user.
fn files(general: &str, database: &str, user: &str) -> (String, String) {
    (
        format!("[general]\n{general}\n{DATABASE}{database}\n"),
        format!("{USER}{user}\n"),
    )
}

fn config(general: &str, database: &str, user: &str) -> Config {
    let (config, users) = files(general, database, user);
    Case {
        config: &config,
        users: &users,
        ..Case::default()
    }
    .config()
}

/// The only pool of such files.
fn pool(general: &str, database: &str, user: &str) -> PoolConfig {
    config(general, database, user).pools.remove(0)
}

fn errors(config: &str, users: &str) -> Vec<String> {
    Case {
        config,
        users,
        ..Case::default()
    }
    .resolve()
    .map(|resolved| resolved.warnings)
    .unwrap_err()
}

fn warnings(config: &str, users: &str) -> Vec<String> {
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
    limit.map_or("9223372036854775807".to_owned(), |limit| {
        limit.as_millis().to_string()
    })
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
        ("password = \"dp\"", "server_auth = \"rds_iam\"", "u"),
    ] {
        let login = pool("", database, user).login;
        let mut found = vec![login.user.as_str()];
        found.extend(login.passwords.iter().map(Secret::expose));
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

#[test]
fn flag_then_file_then_environment_then_default() {
    let flag = || Overrides {
        pool_size: Some(4),
        ..Overrides::default()
    };
    let size = |config: &str, environment: &[(&str, &str)], overrides| {
        let config = format!("{config}\n{DATABASE}");
        Case {
            config: &config,
            users: USER,
            environment,
            overrides,
        }
        .config()
        .pools[0]
            .limits
            .size
    };
    let (file, environment) = (
        "[general]\ndefault_pool_size = 3\n",
        [("PGDOG_DEFAULT_POOL_SIZE", "2")],
    );
    assert_eq!(size("", &[], Overrides::default()), 10);
    assert_eq!(size("", &environment, Overrides::default()), 2);
    assert_eq!(
        size(
            "[general]\nmax_pool_size = 3\n",
            &environment,
            Overrides::default()
        ),
        3
    );
    assert_eq!(size(file, &environment, Overrides::default()), 3);
    assert_eq!(size(file, &environment, flag()), 4);

    let overrides = Overrides {
        pool_size_min: Some(5),
        session_mode: Some(true),
        ..Overrides::default()
    };
    let (config, users) = files("pooler_mode = \"statement\"", "", "");
    let pool = Case {
        config: &config,
        users: &users,
        overrides,
        ..Case::default()
    }
    .config()
    .pools
    .remove(0);
    assert_eq!((pool.limits.size_min, pool.mode), (5, PoolerMode::Session));
}

#[test]
fn every_general_setting_has_a_variable() {
    for setting in general::General::SETTINGS {
        let name = format!("PGDOG_{}", setting.name.to_ascii_uppercase());
        let apply = |word: &str| {
            let (mut file, mut problems) = File::read(&Arc::from("p.toml"), "");
            environment::apply(
                &mut file,
                &Environment::from([(name.clone(), word.to_owned())]),
                &mut problems,
            );
            (file.general, problems.warnings)
        };
        let (Initial::Default(word) | Initial::Unset(word) | Initial::Required(word)) =
            setting.initial;
        let (general, warnings) = apply(word);
        assert!(general.given(setting.name) && warnings.is_empty(), "{name}");
        let (general, warnings) = apply("\u{1}");
        let takes_anything = matches!(setting.kind, "text" | "path");
        assert_eq!(general.given(setting.name), takes_anything, "{name}");
        assert_eq!(warnings.is_empty(), takes_anything, "{name}: {warnings:?}");
    }
}

#[test]
fn irregular_variables() {
    for (name, value, setting, shown) in [
        (
            "PGDOG_SCHEMA_RELOAD_ON_DDL",
            "no",
            "reload_schema_on_ddl",
            "false",
        ),
        (
            "PGDOG_CLIENT_LOG_TIMEOUT",
            "1000",
            "client_login_timeout",
            "1s",
        ),
        (
            "RUST_LOG",
            "debug,cores=trace",
            "log_level",
            "debug,cores=trace",
        ),
        (
            "PGDOG_CONNECTION_RECOVERY",
            "rollbackonly",
            "connection_recovery",
            "rollback_only",
        ),
        ("PGDOG_POOLER_MODE", "session", "pooler_mode", "session"),
    ] {
        // A section in the file does not hide the variable.
        let case = Case {
            config: "[general]\nport = 1\n",
            environment: &[(name, value)],
            ..Case::default()
        };
        let rows = case.config().show();
        assert!(
            rows.contains(&(setting.to_owned(), shown.to_owned())),
            "{name}: {rows:?}"
        );
    }
    let otel = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://o"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "5"),
        ("DD_API_KEY", "k"),
        ("PGDOG_OTEL_NAMESPACE", "n"),
    ];
    let config = Case {
        environment: &otel,
        ..Case::default()
    }
    .config();
    assert_eq!(
        config.not_in_effect(),
        [
            "otel.endpoint",
            "otel.namespace",
            "otel.headers",
            "otel.datadog_api_key",
            "otel.push_interval"
        ]
    );
    let instance = Case {
        environment: &[("NODE_ID", "pgdog-3"), ("DEPLOYMENT_ID", "x")],
        ..Case::default()
    }
    .config()
    .instance;
    assert_eq!(
        (
            instance.node_id.as_deref(),
            instance.deployment_id.as_deref()
        ),
        (Some("pgdog-3"), Some("x"))
    );
}

#[test]
fn a_bad_variable_is_warned_about_and_ignored() {
    let resolved = Case {
        environment: &[("PGDOG_PORT", "many")],
        ..Case::default()
    }
    .resolve()
    .unwrap();
    assert_eq!(resolved.config.listen.port, 6432);
    assert_eq!(
        resolved.warnings,
        ["PGDOG_PORT: general.port: expected a whole number, found `many`; ignored"]
    );
}

#[test]
fn errors_name_the_variable_or_flag() {
    let (config, users) = files("default_pool_size = 5", "", "");
    let overrides = Overrides {
        pool_size: Some(0),
        ..Overrides::default()
    };
    let environment = [("PGDOG_CONNECT_ATTEMPTS", "0")];
    let case = Case {
        config: &config,
        users: &users,
        environment: &environment,
        overrides,
    };
    assert_eq!(
        case.resolve().unwrap_err(),
        [
            "--pool-size: general.default_pool_size: must be at least 1",
            "PGDOG_CONNECT_ATTEMPTS: general.connect_attempts: must be at least 1",
        ]
    );
}

#[test]
fn database_urls_replace_all_databases_and_users() {
    let url = "postgres://bob:se%20cret@db.example:6000/shop?pool_size=3&pooler_mode=session&user=app&password=x&sslmode=off";
    let environment = [
        (
            "PGDOG_DATABASE_URL_2",
            "postgres://bob:se%20cret@replica/shop?role=replica",
        ),
        ("PGDOG_DATABASE_URL_10", "postgres://eve@h/other"),
        ("PGDOG_DATABASE_URL_1", url),
        (
            "PGDOG_MIRRORING_1",
            "source_db=shop&destination_db=other&queue_length=5&exposure=0.5&level=dml",
        ),
    ];
    let case = Case {
        config: DATABASE,
        users: USER,
        environment: &environment,
        ..Case::default()
    };
    let resolved = case.resolve().unwrap();
    let pools: Vec<String> = resolved
        .config
        .pools
        .iter()
        .map(|pool| {
            format!(
                "{} {} {} {} {}",
                pool.user, pool.address, pool.login.user, pool.limits.size, pool.mode
            )
        })
        .collect();
    assert_eq!(
        pools,
        [
            "bob db.example:6000/shop app 3 session",
            "bob replica:5432/shop bob 10 transaction",
            "eve h:5432/other eve 10 transaction",
        ]
    );
    assert_eq!(
        resolved
            .config
            .users
            .find("bob", "shop")
            .unwrap()
            .credentials
            .passwords,
        [Secret::from("se cret")]
    );
    assert_eq!(resolved.config.mirrors[0].queue_max, 5);
    assert!(resolved.warnings.iter().any(|warning| warning
        == "PGDOG_DATABASE_URL_1: sslmode: unknown key of a database URL, ignored"));

    let overrides = Overrides {
        database_urls: vec![Secret::from("postgres://amy:p@h/flag")],
        ..Overrides::default()
    };
    let config = Case { overrides, ..case }.config();
    assert_eq!(config.clusters.len(), 1);
    assert_eq!(config.pools[0].user, "amy");
    assert!(
        config.mirrors.is_empty(),
        "mirrors come only with databases of the environment"
    );
}

#[test]
fn bad_urls_are_errors_without_passwords() {
    let environment = [
        ("PGDOG_DATABASE_URL_1", "postgres://u:hunter2@h"),
        (
            "PGDOG_DATABASE_URL_2",
            "postgres://u:hunter2@h:99999/d?shard=x",
        ),
        ("PGDOG_MIRRORING_1", "source_db=d"),
    ];
    assert_eq!(
        Case {
            environment: &environment,
            ..Case::default()
        }
        .resolve()
        .unwrap_err(),
        [
            "PGDOG_DATABASE_URL_1: the name of the database is missing",
            "PGDOG_DATABASE_URL_2: databases.port: 99999 is too large, the largest value is 65535",
            "PGDOG_DATABASE_URL_2: databases.shard: expected a whole number, found `x`",
            "PGDOG_MIRRORING_1: mirroring.destination_db: required, but missing",
        ]
    );
}

#[test]
fn all_errors_of_both_files_at_once() {
    let config = "[general]\nport = \"6432\"\npooler_mode = \"fast\"\nidle_timeout = 5.5\nprot = 1\n\n[[databases]]\nname = \"d\"\nshard = -1\n\n[extra]\n";
    let users = "[[users]]\nname = 5\ndatabase = \"d\"\npasswords = [\"a\", 2]\n\n[general]\n";
    assert_eq!(
        errors(config, users),
        [
            "p.toml:2: general.port: expected a whole number, found a string",
            "p.toml:3: general.pooler_mode: expected one of transaction, session, statement, found `fast`",
            "p.toml:4: general.idle_timeout: expected a whole number of milliseconds, found a float",
            "p.toml:5: general.prot: unknown key, did you mean `port`?",
            "p.toml:7: databases.host: required, but missing",
            "p.toml:9: databases.shard: expected a whole number, found a negative number",
            "p.toml:11: extra: unknown section",
            "u.toml:2: users.name: expected a string, found an integer",
            "u.toml:4: users.passwords: expected a string, found an integer",
            "u.toml:6: general: unknown section",
        ]
    );
}

#[test]
fn a_syntax_error_hides_only_its_own_file() {
    let found = errors(
        "[general\nport = 1\n",
        "[[users]]\nname = \"u\"\ndatabase = \"d\"\nnaem = 1\n",
    );
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("p.toml:1: not TOML: "), "{}", found[0]);
    assert_eq!(
        found[1],
        "u.toml:4: users.naem: unknown key, did you mean `name`?"
    );
}

/// Contradictions that are errors: lines of `[general]`, the database and the user, and the one message.
#[test]
fn contradictions() {
    for (general, database, user, error) in [
        ("default_pool_size = 0", "", "pool_size = 1", "p.toml:2: general.default_pool_size: must be at least 1"),
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
        ("tls_verify = \"none\"", "", "server_auth = \"rds_iam\"", "u.toml:5: users.server_auth: needs TLS to servers, but tls_verify is \"disabled\""),
        ("passthrough_auth = \"enabled_plain\"", "", "server_auth = \"rds_iam\"", "u.toml:5: users.server_auth: excludes passthrough_auth"),
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
        ("tls_private_key = \"c\"", "", "", "p.toml:2: general.tls_private_key: without tls_certificate it has no effect"),
        ("two_phase_commit_auto = true", "", "", "p.toml:2: general.two_phase_commit_auto: without two_phase_commit it has no effect"),
        ("query_parser_enabled = true", "", "", "p.toml:2: general.query_parser_enabled: deprecated, write query_parser = \"on\""),
        ("ban_timeout = 1000", "", "", "p.toml:1: general.idle_healthcheck_interval: keep it below ban_timeout (1000 ms), or bans end unchecked"),
        ("", "lb_weight = 5", "", "p.toml:6: databases.lb_weight: only used by load_balancing_strategy = \"weighted_round_robin\""),
        ("", "shard = 1", "", "p.toml:6: databases.shard: shards of \"d\" have a gap: 0 is missing"),
        ("", "role = \"auto\"", "", "p.toml:6: databases.role: auto needs lsn_check_delay in [general]"),
        ("", "[[databases]]\nname = \"d\"\nhost = \"r\"\nrole = \"replica\"\npooler_mode = \"session\"", "", "p.toml:10: databases.pooler_mode: differs from other entries of \"d\""),
        ("", "[rewrite]\nshard_key = \"rewrite\"", "", "p.toml:7: rewrite.shard_key: has no effect while rewrite.enabled is false"),
        ("", "[rewrite]\nsplit_inserts = \"ignore\"", "", "p.toml:7: rewrite.split_inserts: every shard will get every row of an INSERT of several rows"),
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
fn a_missing_file_is_a_warning() {
    let sources = Sources {
        config: Source {
            path: "p.toml",
            text: None,
        },
        users: Source {
            path: "u.toml",
            text: None,
        },
        environment: &Environment::new(),
        overrides: &Overrides::default(),
    };
    let warnings = resolve(&sources).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "p.toml: no such file, using defaults",
            "u.toml: no such file, using defaults"
        ]
    );
}

#[test]
fn workers_are_clamped_with_a_word() {
    let four = NonZeroUsize::new(4).unwrap();
    for (workers, count, told) in [
        ("0", 4, false),
        ("4", 4, false),
        ("2", 2, true),
        ("9", 4, true),
    ] {
        let (found, message) = config(&format!("workers = {workers}"), "", "").workers(four);
        assert_eq!((found.get(), message.is_some()), (count, told), "{workers}");
    }
}

#[test]
fn settings_without_effect_are_listed_once() {
    let database = "shard = 0\nlb_weight = 1\n[[databases]]\nname = \"d\"\nhost = \"r\"\nrole = \"replica\"\nlb_weight = 2\n[[plugins]]\nname = \"x\"";
    let found = config("ban_timeout = 300000\nhealthcheck_interval = 1\nquery_timeout = 5\ntls_verify = \"disabled\"", database, "schema_admin = true");
    assert_eq!(
        found.not_in_effect(),
        [
            "general.tls_verify",
            "general.healthcheck_interval",
            "plugins.name",
            "databases.lb_weight",
            "databases.role",
            "users.schema_admin"
        ]
    );
}

#[test]
fn show_config() {
    let rows = config("query_timeout = 1500\nlog_level = \"a\\\"b\"", "", "").show();
    let value = |name: &str| {
        rows.iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    };
    for (name, shown) in [
        ("host", "0.0.0.0"),
        ("port", "6432"),
        ("checkout_timeout", "5s"),
        ("idle_timeout", "1m"),
        ("server_lifetime", "1d"),
        ("query_timeout", "1500ms"),
        ("client_idle_timeout", "9223372036854775807ms"),
        ("query_size_limit", "default"),
        ("pooler_mode", "transaction"),
        ("log_level", "a\"b"),
        ("tcp_keepalive", "true"),
        ("tcp_time", "default"),
        ("memory_net_buffer", "4096"),
    ] {
        assert_eq!(value(name), Some(shown), "{name}");
    }
    let groups: Vec<u8> = rows
        .iter()
        .map(|(name, _)| {
            if name.starts_with("tcp_") {
                1
            } else if name.starts_with("memory_") {
                2
            } else {
                0
            }
        })
        .collect();
    assert!(groups.is_sorted());
}

#[test]
fn a_reload_names_every_change() {
    let secret = "password = \"hunter2\"";
    let old = config("port = 1\nidle_timeout = 5", secret, "pool_size = 3");
    assert_eq!(diff(&old, &old), []);
    let new = config(
        "port = 2\nserver_lifetime_jitter = 9",
        "password = \"hunter3\"\n[[databases]]\nname = \"e\"\nhost = \"h\"",
        "pool_size = 4\n[[users]]\nname = \"v\"\ndatabase = \"e\"\npassword = \"hunter4\"",
    );
    let shown: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "general.port changed from 1 to 2 (needs a restart)",
            "general.idle_timeout changed from 5 to 60000",
            "general.server_lifetime_jitter changed from 0 to 9 (for new connections)",
            "databases \"d\" shard 0 primary h:5432: password changed",
            "databases \"e\" shard 0 primary h:5432 added",
            "users \"u\" for d: pool_size changed from 3 to 4",
            "users \"v\" for e added",
        ]
    );
    let back: Vec<String> = diff(&new, &old).iter().map(ToString::to_string).collect();
    assert!(
        back.contains(&"users \"v\" for e removed".to_owned()),
        "{back:?}"
    );
}

#[test]
fn secrets_are_never_printed() {
    let config = config("", "password = \"hunter2\"", "server_password = \"hunter3\"\npasswords = [\"hunter4\"]\npassword_hash = \"SCRAM-SHA-256$hunter5\"");
    for text in [format!("{config:?}"), format!("{:?}", config.show())] {
        assert!(!text.contains("hunter"), "{text}");
    }
    let wrong = errors(
        "[admin]\npassword = 5\n[otel]\nheaders = { a = 1 }\n",
        "[[users]]\nname = \"u\"\npassword = [\"hunter2\"]\n",
    );
    assert!(!wrong.join(" ").contains("hunter"), "{wrong:?}");
}
