//! Settings from outside of the files: the environment, flags, database URLs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::choice::PoolerMode;
use super::database_url::{pairs, DatabaseUrl};
use super::file::{Database, File, Mirroring};
use super::secret::Secret;
use super::section::{Entry, Problem, Problems, Section, Setting};
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
fn entries(
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
