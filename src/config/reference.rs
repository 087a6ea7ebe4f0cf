//! The shipped pgdog.toml and users.toml: written from the tables of settings, compared with the files here.
//!
//! Each setting's text lives once, as the doc comment of its line in a table. After a change run
//! `PGDOG_BLESS=1 cargo test --lib --no-default-features reference`.

use std::fmt::Write as _;
use std::path::Path;

use super::file::{
    Admin, Database, DatabaseQueryParser, Memory, Mirroring, MultiTenant, Otel, Plugin, ReplicaLag,
    Replication, Rewrite, Tcp, Vault,
};
use super::general::General;
use super::section::{Effect, Initial, Reload, Section, Setting};
use super::sharding::{OmnishardedTables, ShardedMapping, ShardedSchema, ShardedTable};
use super::users::UserEntry;

/// How a section stands in a file.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// `[name]`, active.
    Active,
    /// `[name]`, commented out.
    Section,
    /// `[[name]]`, active.
    ActiveList,
    /// `[[name]]`, commented out.
    List,
}

const PGDOG_HEADER: &str = "\
# pgdog.toml: every setting, commented out at its default.
#
# Times are whole milliseconds, sizes bytes; 9223372036854775807 disables a limit of either kind. A pool has 1000000
# connections at most. \"e.g.\" marks an example of a setting that is unset by default. After a change: RELOAD or SIGHUP;
# \"restart\" and \"new connections\" mark what waits for that. \"not yet\" marks what is read and checked, but has no effect
# in this version. Users are in users.toml.
";

const USERS_HEADER: &str = "\
# users.toml: who may log in. Every setting, commented out at its default; the rules of pgdog.toml apply.
# Changes apply after RELOAD or SIGHUP. The file holds secrets: nobody but the program should read it.
";

/// Settings that the shipped files set, with their words.
const ACTIVE: [(&str, &str, &str); 7] = [
    ("general", "port", "6432"),
    ("general", "default_pool_size", "10"),
    ("databases", "name", "pgdog"),
    ("databases", "host", "127.0.0.1"),
    ("users", "name", "alice"),
    ("users", "database", "pgdog"),
    ("users", "password", "hunter2"),
];

fn pgdog_toml() -> String {
    let mut text = PGDOG_HEADER.to_owned();
    section::<General>(&mut text, Shape::Active);
    section::<Database>(&mut text, Shape::ActiveList);
    section::<Tcp>(&mut text, Shape::Section);
    section::<Memory>(&mut text, Shape::Section);
    section::<Admin>(&mut text, Shape::Section);
    section::<Otel>(&mut text, Shape::Section);
    section::<Mirroring>(&mut text, Shape::List);
    section::<ShardedTable>(&mut text, Shape::List);
    section::<ShardedMapping>(&mut text, Shape::List);
    section::<ShardedSchema>(&mut text, Shape::List);
    section::<OmnishardedTables>(&mut text, Shape::List);
    section::<Rewrite>(&mut text, Shape::Section);
    section::<MultiTenant>(&mut text, Shape::Section);
    section::<DatabaseQueryParser>(&mut text, Shape::List);
    section::<Plugin>(&mut text, Shape::List);
    section::<Replication>(&mut text, Shape::Section);
    section::<ReplicaLag>(&mut text, Shape::Section);
    section::<Vault>(&mut text, Shape::Section);
    text
}

fn users_toml() -> String {
    let mut text = USERS_HEADER.to_owned();
    section::<UserEntry>(&mut text, Shape::ActiveList);
    section::<Admin>(&mut text, Shape::Section);
    text
}

fn section<S: Section>(text: &mut String, shape: Shape) {
    let header = match shape {
        Shape::Active => format!("[{}]", S::NAME),
        Shape::Section => format!("# [{}]", S::NAME),
        Shape::ActiveList => format!("[[{}]]", S::NAME),
        Shape::List => format!("# [[{}]]", S::NAME),
    };
    let rule = "-".repeat(100 - S::NAME.len());
    writeln!(
        text,
        "\n# {} {rule}\n#{}\n\n{header}",
        S::NAME,
        S::ABOUT.join("\n#")
    )
    .unwrap();
    for setting in S::SETTINGS {
        let active = ACTIVE
            .iter()
            .find(|(section, name, _)| *section == S::NAME && *name == setting.name);
        let (mark, word) = match (active, setting.initial) {
            (Some((_, _, word)), _) => ("", *word),
            (None, Initial::Default(word) | Initial::Unset(word) | Initial::Required(word)) => {
                ("# ", word)
            }
        };
        // Examples of secrets are not secret.
        let literal = match ((setting.literal)(word), setting.kind) {
            (_, "secret") => format!("\"{word}\""),
            (masked, "list") if masked.contains("***") => word.to_owned(),
            (literal, _) => literal,
        };
        writeln!(
            text,
            "\n#{}{}\n{mark}{} = {literal}",
            setting.doc.join("\n#"),
            notes(setting),
            setting.name
        )
        .unwrap();
    }
}

/// ` (ms, unset, e.g.; restart; not yet)`: unit, and what the line itself does not say.
fn notes(setting: &Setting) -> String {
    let kind = setting.kind.replace("one of ", "").replace(' ', ", ");
    let mut notes = match setting.kind {
        "ms" | "bytes" | "0 to 1" => vec![setting.kind.to_owned()],
        words if words.starts_with("one of ") => vec![kind],
        _ => Vec::new(),
    };
    match setting.initial {
        Initial::Default(_) => {}
        Initial::Unset(_) => notes.push("unset, e.g.".to_owned()),
        Initial::Required(_) => notes.push("required, e.g.".to_owned()),
    }
    if !setting.aliases.is_empty() {
        notes.push(format!("also {}", setting.aliases.join(", ")));
    }
    match setting.reload {
        Reload::Live => {}
        Reload::Next => notes.push("new connections".to_owned()),
        Reload::Restart => notes.push("restart".to_owned()),
    }
    if setting.effect == Effect::Later {
        notes.push("not yet".to_owned());
    }
    if notes.is_empty() {
        String::new()
    } else {
        format!(" ({})", notes.join("; "))
    }
}

/// The same file with all settings active.
fn uncommented(text: &str) -> String {
    let is_setting = |line: &str| {
        let key = |(key, _): (&str, &str)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        line.starts_with('[') || line.split_once(" = ").is_some_and(key)
    };
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(inside) if is_setting(inside) => inside,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

mod tests {
    use std::sync::Arc;

    use super::super::document::Entry;
    use super::super::file::File;
    use super::super::users::UsersFile;
    use super::super::{resolve, Overrides, Source, Sources};
    use super::*;

    fn shipped(name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn shipped_files_are_what_the_tables_say() {
        for (name, expected) in [("pgdog.toml", pgdog_toml()), ("users.toml", users_toml())] {
            if std::env::var_os("PGDOG_BLESS").is_some() {
                std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), &expected)
                    .unwrap();
            }
            let found = shipped(name);
            for (at, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
                assert_eq!(found, expected, "{name}:{}", at + 1);
            }
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn shipped_files_are_the_default_configuration() {
        let (config, users) = (shipped("pgdog.toml"), shipped("users.toml"));
        let resolved = resolve(&Sources {
            config: Source {
                path: "pgdog.toml",
                text: Some(&config),
            },
            users: Source {
                path: "users.toml",
                text: Some(&users),
            },
            environment: &Default::default(),
            overrides: &Overrides::default(),
        })
        .unwrap();
        assert_eq!(resolved.warnings, [""; 0]);
        assert_eq!(resolved.config.not_in_effect(), [""; 0]);
        let pool = &resolved.config.pools[0];
        assert_eq!(
            (
                pool.user.as_str(),
                pool.address.to_string().as_str(),
                pool.limits.size
            ),
            ("alice", "127.0.0.1:5432/pgdog", 10)
        );
        assert_eq!(resolved.config.file.general.value, General::default());
    }

    /// Every setting of the table is in the file, and those with a default have it.
    fn compare<S: Section + std::fmt::Debug>(entry: &Entry<S>) {
        for (setting, differs) in S::SETTINGS.iter().zip(entry.value.differing(&S::default())) {
            let name = format!("{}.{}", S::NAME, setting.name);
            assert!(entry.given(setting.name), "{name} is missing");
            assert!(
                !differs || !matches!(setting.initial, Initial::Default(_)),
                "{name} is not at its default"
            );
            assert!(
                differs || !matches!(setting.initial, Initial::Unset(_)),
                "{name} has no example"
            );
        }
    }

    #[test]
    fn uncommented_files_hold_every_setting_once_at_its_default() {
        let (file, problems) = File::read(
            &Arc::from("pgdog.toml"),
            &uncommented(&shipped("pgdog.toml")),
        );
        assert!(problems.errors.is_empty(), "{:#?}", problems.errors);
        assert!(problems.warnings.is_empty(), "{:#?}", problems.warnings);
        compare(&file.general);
        compare(&file.memory);
        compare(&file.tcp);
        compare(&file.admin);
        compare(&file.multi_tenant.unwrap());
        compare(&file.rewrite);
        compare(&file.replication);
        compare(&file.replica_lag.unwrap());
        compare(&file.otel);
        compare(&file.vault.unwrap());
        compare(&file.query_parsers[0]);
        compare(&file.plugins[0]);
        compare(&file.mirroring[0]);
        compare(&file.databases[0]);
        compare(&file.sharded_tables[0]);
        compare(&file.sharded_mappings[0]);
        compare(&file.sharded_schemas[0]);
        compare(&file.omnisharded_tables[0]);

        let (users, problems) = UsersFile::read(
            &Arc::from("users.toml"),
            &uncommented(&shipped("users.toml")),
        );
        assert!(problems.errors.is_empty(), "{:#?}", problems.errors);
        compare(&users.users[0]);
        compare(&users.admin.unwrap());
    }
}
