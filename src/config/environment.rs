//! Settings from outside of the files: the environment, flags, database URLs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::choice::PoolerMode;
use super::database_url::{pairs, DatabaseUrl};
use super::document::Entry;
use super::file::{Database, File, Mirroring};
use super::problem::{Problem, Problems};
use super::secret::Secret;
use super::section::{Section, Setting};
use super::users::{UserEntry, UsersFile};

/// Variables of the process, names and values.
pub type Environment = BTreeMap<String, String>;

/// What the flags of `run` say over the files.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--database-url`, each a database and a user.
    pub database_urls: Vec<Secret>,
    /// `--pool-size`.
    pub pool_size: Option<usize>,
    /// `--min-pool-size`.
    pub pool_size_min: Option<usize>,
    /// `--session-mode`.
    pub session_mode: Option<bool>,
}

/// Fills settings that the files leave open. What cannot be read is warned about and ignored.
pub(super) fn apply(file: &mut File, environment: &Environment, problems: &mut Problems) {
    defaults(&mut file.general, Some("PGDOG_"), environment, problems);
    defaults(&mut file.admin, None, environment, problems);
    defaults(&mut file.otel, None, environment, problems);
}

fn defaults<S: Section>(
    section: &mut Entry<S>,
    prefix: Option<&str>,
    environment: &Environment,
    problems: &mut Problems,
) {
    for setting in S::SETTINGS {
        if section.given(setting.name) {
            continue;
        }
        let regular = prefix.map(|prefix| format!("{prefix}{}", setting.name.to_ascii_uppercase()));
        let names = regular
            .as_deref()
            .into_iter()
            .chain(setting.environment.iter().copied());
        for name in names {
            let Some(word) = environment.get(name) else {
                continue;
            };
            match section.set_from(&Arc::from(name), setting, word) {
                Ok(()) => break,
                Err(problem) => {
                    let reason = format!("{}; ignored", problem.reason);
                    problems.warnings.push(Problem { reason, ..problem });
                }
            }
        }
    }
}

/// Flags are stronger than anything else.
pub(super) fn apply_overrides(file: &mut File, overrides: &Overrides, problems: &mut Problems) {
    let mode = |session| {
        if session {
            PoolerMode::Session
        } else {
            PoolerMode::Transaction
        }
    };
    let flags = [
        (
            "--pool-size",
            "default_pool_size",
            overrides.pool_size.map(|size| size.to_string()),
        ),
        (
            "--min-pool-size",
            "min_pool_size",
            overrides.pool_size_min.map(|size| size.to_string()),
        ),
        (
            "--session-mode",
            "pooler_mode",
            overrides
                .session_mode
                .map(|session| mode(session).to_string()),
        ),
    ];
    for (flag, key, word) in flags {
        if let Some(word) = word {
            set(&mut file.general, &Arc::from(flag), key, &word, problems);
        }
    }
}

/// Databases and users given by URL replace all others: those of the flags, else those of the environment.
pub(super) fn replace_databases(
    file: &mut File,
    users: &mut UsersFile,
    overrides: &Overrides,
    environment: &Environment,
    problems: &mut Problems,
) {
    let mut urls: Vec<(String, &str)> = Vec::new();
    for url in &overrides.database_urls {
        urls.push(("--database-url".to_owned(), url.expose()));
    }
    let from_flags = !urls.is_empty();
    if !from_flags {
        urls = numbered(environment, "PGDOG_DATABASE_URL_");
    }
    if urls.is_empty() {
        return;
    }
    file.databases.clear();
    users.users.clear();
    for (source, url) in urls {
        let (database, user) = match DatabaseUrl::parse(url) {
            Ok(url) => entries(&source, url, problems),
            Err(reason) => {
                problems.errors.push(problem(&source, "", reason));
                continue;
            }
        };
        file.databases.push(database);
        if !users.users.iter().any(|known| known.value == user.value) {
            users.users.push(user);
        }
    }
    if !from_flags {
        let mirrors = numbered(environment, "PGDOG_MIRRORING_");
        file.mirroring.extend(
            mirrors
                .into_iter()
                .filter_map(|(source, text)| mirror(&source, text, problems)),
        );
    }
}

/// Variables with this prefix and a number, in the order of the numbers.
fn numbered<'e>(environment: &'e Environment, prefix: &str) -> Vec<(String, &'e str)> {
    let mut found: Vec<(u32, String, &str)> = environment
        .iter()
        .filter_map(|(name, value)| {
            let number = name.strip_prefix(prefix)?.parse().ok()?;
            Some((number, name.clone(), value.as_str()))
        })
        .collect();
    found.sort();
    found
        .into_iter()
        .map(|(_, name, value)| (name, value))
        .collect()
}

/// Keys of a URL's query and the settings of `[[databases]]` they stand for.
const URL_KEYS: [&str; 13] = [
    "database_name",
    "role",
    "shard",
    "user",
    "password",
    "pool_size",
    "min_pool_size",
    "pooler_mode",
    "statement_timeout",
    "idle_timeout",
    "read_only",
    "server_lifetime",
    "server_lifetime_jitter",
];

/// A database and its user. Bad values are errors, unknown keys warnings.
pub(super) fn entries(
    source: &str,
    url: DatabaseUrl,
    problems: &mut Problems,
) -> (Entry<Database>, Entry<UserEntry>) {
    let place: Arc<str> = Arc::from(source);
    let mut database = Entry::<Database>::absent(&place);
    let port = url.port.map(|port| ("port".to_owned(), port));
    let given = [
        ("name".to_owned(), url.name.clone()),
        ("host".to_owned(), url.host),
    ];
    for (key, word) in given.into_iter().chain(port) {
        set(&mut database, &place, &key, &word, problems);
    }
    for (key, word) in &url.query {
        if URL_KEYS.contains(&key.as_str()) {
            set(&mut database, &place, key, word, problems);
        } else {
            problems.warnings.push(problem(
                source,
                key,
                "unknown key of a database URL, ignored",
            ));
        }
    }
    let user = UserEntry {
        name: url.user,
        database: url.name,
        password: url.password.map(Secret::from),
        ..UserEntry::default()
    };
    (database, Entry::new(user, &place, None))
}

fn mirror(source: &str, text: &str, problems: &mut Problems) -> Option<Entry<Mirroring>> {
    let pairs = match pairs(text) {
        Ok(pairs) => pairs,
        Err(reason) => {
            problems.errors.push(problem(source, "", reason));
            return None;
        }
    };
    let place: Arc<str> = Arc::from(source);
    let mut entry = Entry::<Mirroring>::absent(&place);
    for (key, word) in &pairs {
        if setting::<Mirroring>(key).is_some() {
            set(&mut entry, &place, key, word, problems);
        } else {
            problems.errors.push(entry.problem(key, "unknown key"));
        }
    }
    for key in ["source_db", "destination_db"] {
        if !entry.given(key) {
            problems
                .errors
                .push(entry.problem(key, "required, but missing"));
            entry.place.broken = true;
        }
    }
    Some(entry)
}

fn setting<S: Section>(key: &str) -> Option<&'static Setting> {
    S::SETTINGS
        .iter()
        .find(|setting| setting.name == key || setting.aliases.contains(&key))
}

fn set<S: Section>(
    entry: &mut Entry<S>,
    source: &Arc<str>,
    key: &str,
    word: &str,
    problems: &mut Problems,
) {
    let Some(setting) = setting::<S>(key) else {
        return;
    };
    if let Err(problem) = entry.set_from(source, setting, word) {
        problems.errors.push(problem);
        entry.place.broken = true;
    }
}

/// A problem with something that is not a line of a file.
pub(super) fn problem(source: &str, key: &str, reason: impl Into<String>) -> Problem {
    Problem {
        file: Arc::from(source),
        line: None,
        key: key.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::choice::PoolerMode;
    use super::super::general::General;
    use super::super::section::Initial;
    use super::super::tests::{files, Case, DATABASE, USER};
    use super::*;

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
        for setting in General::SETTINGS {
            let name = format!("PGDOG_{}", setting.name.to_ascii_uppercase());
            let set = |word: &str| {
                let (mut file, mut problems) = File::read(&Arc::from("p.toml"), "");
                apply(
                    &mut file,
                    &Environment::from([(name.clone(), word.to_owned())]),
                    &mut problems,
                );
                (file.general, problems.warnings)
            };
            let (Initial::Default(word) | Initial::Unset(word) | Initial::Required(word)) =
                setting.initial;
            let (general, warnings) = set(word);
            assert!(general.given(setting.name) && warnings.is_empty(), "{name}");
            let (general, warnings) = set("\u{1}");
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
        let otlp = config
            .observation
            .otlp
            .as_ref()
            .expect("it has an endpoint");
        assert_eq!(
            (otlp.endpoint.as_str(), otlp.namespace.as_str()),
            ("http://o", "n")
        );
        let headers = otlp.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.as_str(), value.expose()))
            .collect();
        assert_eq!(headers, [("DD-API-KEY", "k"), ("a", "b")]);
        // Five milliseconds is less than is worth it.
        assert_eq!(otlp.interval, std::time::Duration::from_millis(100));
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
}
