//! What a reload changes, for the log, and which changes wait for a restart.

use std::fmt;

use super::document::Entry;
use super::file::Database;
use super::section::{Reload, Section};
use super::users::UserEntry;
use super::Config;

/// One difference between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `general.port`, or `users "alice"` for an entry of a list, with its key when that changed.
    pub name: String,
    /// What happened.
    pub kind: ChangeKind,
    /// When it applies.
    pub reload: Reload,
}

/// What happened to a setting or an entry. Values are as in a file, secrets as `***`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It has another value.
    Changed {
        /// Before; `None` was unset.
        from: Option<String>,
        /// Now; `None` is unset.
        to: Option<String>,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.kind {
            ChangeKind::Added => f.write_str(" added")?,
            ChangeKind::Removed => f.write_str(" removed")?,
            ChangeKind::Changed { from, to } if from == to => f.write_str(" changed")?,
            ChangeKind::Changed { from, to } => {
                let text =
                    |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".to_owned());
                write!(f, " changed from {} to {}", text(from), text(to))?;
            }
        }
        match self.reload {
            Reload::Live => Ok(()),
            Reload::Next => f.write_str(" (for new connections)"),
            Reload::Restart => f.write_str(" (needs a restart)"),
        }
    }
}

/// All differences, in the order of the files' sections.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Changes::default();
    let (a, b) = (&old.file, &new.file);
    changes.section(&a.general, &b.general);
    changes.section(&a.memory, &b.memory);
    changes.section(&a.tcp, &b.tcp);
    changes.section(&a.admin, &b.admin);
    changes.list(&a.multi_tenant, &b.multi_tenant, |_| String::new());
    changes.section(&a.rewrite, &b.rewrite);
    changes.section(&a.replication, &b.replication);
    changes.list(&a.replica_lag, &b.replica_lag, |_| String::new());
    changes.section(&a.otel, &b.otel);
    changes.list(&a.vault, &b.vault, |_| String::new());
    changes.list(&a.query_parsers, &b.query_parsers, |entry| {
        format!(" \"{}\"", entry.database)
    });
    changes.list(&a.plugins, &b.plugins, |entry| {
        format!(" \"{}\"", entry.name)
    });
    changes.list(&a.mirroring, &b.mirroring, |entry| {
        format!(" \"{}\" to \"{}\"", entry.source_db, entry.destination_db)
    });
    changes.list(&a.databases, &b.databases, database_name);
    changes.list(&a.sharded_tables, &b.sharded_tables, |entry| {
        let table = entry.name.as_ref().map_or("*", |name| name.0.as_str());
        format!(" \"{}\" {table}.{}", entry.database, entry.column.0)
    });
    changes.list(&a.sharded_schemas, &b.sharded_schemas, |entry| {
        format!(
            " \"{}\" {}",
            entry.database,
            entry.name.as_ref().map_or("*", |name| name.0.as_str())
        )
    });
    changes.list(&a.omnisharded_tables, &b.omnisharded_tables, |entry| {
        format!(" \"{}\"", entry.database)
    });
    changes.list(&old.users_file.users, &new.users_file.users, user_name);
    changes.found
}

/// What makes a server the same one: its place, not its limits.
fn database_name(entry: &Database) -> String {
    format!(
        " \"{}\" shard {} {} {}:{}",
        entry.name, entry.shard, entry.role, entry.host, entry.port
    )
}

fn user_name(entry: &UserEntry) -> String {
    if entry.all_databases {
        format!(" \"{}\"", entry.name)
    } else if entry.database.is_empty() {
        format!(" \"{}\" for {}", entry.name, entry.databases.join(", "))
    } else {
        format!(" \"{}\" for {}", entry.name, entry.database)
    }
}

#[derive(Default)]
struct Changes {
    found: Vec<Change>,
}

impl Changes {
    fn section<S: Section>(&mut self, old: &Entry<S>, new: &Entry<S>) {
        self.fields("", &old.value, &new.value);
    }

    fn fields<S: Section>(&mut self, entry: &str, old: &S, new: &S) {
        let values = old.literals().into_iter().zip(new.literals());
        let fields = S::SETTINGS.iter().zip(old.differing(new)).zip(values);
        for ((setting, _), (from, to)) in fields.filter(|((_, differs), _)| *differs) {
            let separator = if entry.is_empty() { "." } else { ": " };
            self.found.push(Change {
                name: format!("{}{entry}{separator}{}", S::NAME, setting.name),
                kind: ChangeKind::Changed { from, to },
                reload: setting.reload,
            });
        }
    }

    /// Pairs entries of the same name, in order; what has no partner was added or removed.
    fn list<'a, S: Section + 'a>(
        &mut self,
        old: impl IntoIterator<Item = &'a Entry<S>>,
        new: impl IntoIterator<Item = &'a Entry<S>>,
        name: impl Fn(&S) -> String,
    ) {
        // An entry applies when all of its settings do.
        let reload = S::SETTINGS
            .iter()
            .map(|setting| setting.reload)
            .max()
            .unwrap_or(Reload::Live);
        let mut gone: Vec<(String, &S)> = old
            .into_iter()
            .map(|entry| (name(&entry.value), &entry.value))
            .collect();
        let mut added = Vec::new();
        for entry in new {
            let key = name(&entry.value);
            match gone.iter().position(|(other, _)| *other == key) {
                Some(at) => {
                    let (_, before) = gone.remove(at);
                    self.fields(&key, before, &entry.value);
                }
                None => added.push(Change {
                    name: format!("{}{key}", S::NAME),
                    kind: ChangeKind::Added,
                    reload,
                }),
            }
        }
        for (key, _) in gone {
            self.found.push(Change {
                name: format!("{}{key}", S::NAME),
                kind: ChangeKind::Removed,
                reload,
            });
        }
        self.found.append(&mut added);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

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
}
