//! The sharding tables of one database, resolved: what `[[sharded_tables]]` and its siblings say, checked against the
//! shards that there are.

use std::collections::BTreeSet;
use std::path::Path;

use crate::sharding::hash::Hasher as Hash;
use crate::sharding::{
    Centroids, Function, KeyType, Lookup, LookupAnswer, ShardedColumn, ShardingTables, Shards,
};

use super::choice::{Hasher, LookupResult, ShardingKeyType};
use super::document::Entry;
use super::file::File;
use super::problem::Problems;
use super::section::Section;
use super::sharding::ShardedTable;

/// Reads a file that a setting names. Errors: why it cannot.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> Result<String, String>;

/// Puts the numbers of every `centroids_path` in the place of `centroids`.
pub(super) fn load_centroids(file: &mut File, read: ReadFile<'_>, problems: &mut Problems) {
    for table in &mut file.sharded_tables {
        let Some(path) = table.value.centroids_path.as_ref() else {
            continue;
        };
        let parsed = read(path).and_then(|text| {
            serde_json::from_str::<serde_json::Value>(&text)
                .ok()
                .as_ref()
                .and_then(vectors)
                .ok_or_else(|| "expected a JSON array of arrays of numbers".to_owned())
        });
        match parsed {
            Ok(centroids) => table.value.centroids = centroids,
            Err(reason) => {
                let reason = format!("{}: {reason}", path.display());
                problems
                    .errors
                    .push(table.problem("centroids_path", reason));
                table.place.broken = true;
            }
        }
    }
}

fn vectors(json: &serde_json::Value) -> Option<Vec<Vec<f64>>> {
    let vector = |vector: &serde_json::Value| {
        let numbers = vector.as_array()?.iter();
        numbers.map(serde_json::Value::as_f64).collect()
    };
    json.as_array()?.iter().map(vector).collect()
}

/// What is sharded in the database of this name, whose shards have these numbers.
pub(super) fn sharding_tables(
    file: &File,
    database: &str,
    numbers: &BTreeSet<u32>,
    problems: &mut Problems,
) -> ShardingTables {
    let shards = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
    let gap = (0..)
        .zip(numbers)
        .any(|(expected, number)| expected != *number);
    let mut builder = Builder {
        database,
        shards,
        gap,
        problems,
    };
    let mut tables = ShardingTables {
        shards,
        ..ShardingTables::default()
    };
    for entry in &file.sharded_tables {
        if entry.value.database == database && builder.admits(entry) {
            builder.column(entry, &mut tables);
        }
    }
    for entry in &file.sharded_schemas {
        let value = &entry.value;
        if value.database != database || !builder.admits(entry) {
            continue;
        }
        let on = match value.all {
            true => Shards::all(shards),
            false if builder.exists(entry, "shard", value.shard) => Shards::one(value.shard),
            false => continue,
        };
        let name = value.name.as_ref().map(|name| name.0.clone());
        if let Err(reason) = tables.schemas.insert(name, on) {
            builder.error(entry, "name", reason);
        }
    }
    for entry in &file.omnisharded_tables {
        if entry.value.database == database {
            let names = entry.value.tables.iter().map(|name| name.0.clone());
            tables
                .omnisharded
                .extend(names.map(|name| (name, entry.value.sticky)));
        }
    }
    tables
}

struct Builder<'a> {
    database: &'a str,
    shards: u32,
    /// Numbers of shards are missing, so that keys would be on shards that do not exist.
    gap: bool,
    problems: &'a mut Problems,
}

impl Builder<'_> {
    fn error<S: Section>(&mut self, entry: &Entry<S>, key: &str, reason: impl Into<String>) {
        self.problems.errors.push(entry.problem(key, reason));
    }

    /// Can anything be concluded from this entry?
    fn admits<S: Section>(&mut self, entry: &Entry<S>) -> bool {
        if self.gap && !entry.place.broken {
            let reason = format!(
                "shards of \"{}\" must be numbered from 0 without gaps",
                self.database
            );
            self.error(entry, "database", reason);
        }
        !self.gap && !entry.place.broken
    }

    fn exists<S: Section>(&mut self, entry: &Entry<S>, key: &str, shard: u32) -> bool {
        if shard >= self.shards {
            let reason = format!(
                "there is no shard {shard}, \"{}\" has {}",
                self.database, self.shards
            );
            self.error(entry, key, reason);
        }
        shard < self.shards
    }

    fn column(&mut self, entry: &Entry<ShardedTable>, tables: &mut ShardingTables) {
        let value = &entry.value;
        if value.column.0.is_empty() {
            return self.error(
                entry,
                "column",
                "required: the column with the sharding key",
            );
        }
        let Some(function) = self.function(entry) else {
            return;
        };
        let name =
            |name: &Option<super::value::Identifier>| name.as_ref().map(|name| name.0.clone());
        let (schema, table) = (name(&value.schema), name(&value.name));
        let twin = |column: &&ShardedColumn| column.schema == schema && column.table == table;
        let by_table = value.name.is_some();
        if let Some(first) = tables.columns.iter().filter(|_| by_table).find(twin) {
            let reason = format!(
                "the table is sharded by \"{}\" already, this entry has no effect",
                first.column
            );
            self.problems.warnings.push(entry.problem("column", reason));
            return;
        }
        if value.primary && table.is_none() {
            let reason = "takes a name: other tables follow a table, this has no effect";
            self.problems
                .warnings
                .push(entry.problem("primary", reason));
        }
        tables.columns.push(ShardedColumn {
            schema,
            table,
            column: value.column.0.clone(),
            primary: value.primary,
            key_type: key_type(value.data_type),
            function,
            lookup: value.lookup_query.as_ref().map(|query| Lookup {
                query: query.clone(),
                answer: match value.lookup_result {
                    LookupResult::Value => LookupAnswer::Value,
                    LookupResult::Shard => LookupAnswer::Shard,
                },
            }),
            shards: self.shards,
        });
    }

    /// `None`: an error was reported, here or by `check`.
    fn function(&mut self, entry: &Entry<ShardedTable>) -> Option<Function> {
        let value = &entry.value;
        let by_number = value.lookup_query.is_some() && value.lookup_result == LookupResult::Shard;
        if value.data_type == ShardingKeyType::Vector && !by_number {
            if !value.mapping.is_empty() {
                self.error(entry, "mapping", "vectors are sharded by centroids");
                return None;
            }
            let key = match value.centroids_path {
                Some(_) => "centroids_path",
                None => "centroids",
            };
            let points = value.centroids.iter().map(|point| narrow(point)).collect();
            return match Centroids::new(points, value.centroid_probes) {
                Ok(centroids) => Some(Function::Centroids(centroids)),
                Err(reason) => {
                    self.error(entry, key, reason);
                    None
                }
            };
        }
        if !value.centroids.is_empty() {
            self.error(
                entry,
                "centroids",
                "only vectors have centroids: data_type = \"vector\"",
            );
            return None;
        }
        if !value.mapping.is_empty() {
            let rules = value.rules().ok()?;
            let highest = rules.shard_max();
            let fits = highest.is_none_or(|shard| self.exists(entry, "mapping", shard));
            return fits.then_some(Function::Rules(rules));
        }
        match value.hasher {
            Hasher::Postgres => Some(Function::Hash(Hash::Postgres)),
            Hasher::Sha1 if value.data_type == ShardingKeyType::Varchar => {
                Some(Function::Hash(Hash::Sha1))
            }
            Hasher::Sha1 => {
                let reason = "\"sha1\" is supported with data_type = \"varchar\" only";
                self.error(entry, "hasher", reason);
                None
            }
        }
    }
}

/// Vectors of pgvector have single precision.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounds; what becomes infinite is refused"
)]
fn narrow(point: &[f64]) -> Vec<f32> {
    point.iter().map(|number| *number as f32).collect()
}

pub(super) fn key_type(data_type: ShardingKeyType) -> KeyType {
    match data_type {
        ShardingKeyType::Bigint => KeyType::Bigint,
        ShardingKeyType::Uuid => KeyType::Uuid,
        ShardingKeyType::Varchar => KeyType::Varchar,
        ShardingKeyType::Vector => KeyType::Vector,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{errors, warnings, Case, USER};
    use super::super::{resolve_with, Environment, Overrides, Source, Sources};
    use super::*;
    use crate::sharding::{Key, Placement, TableKind};

    /// Three shards and what is said of them; entries are of `[[sharded_tables]]` unless they say what they are.
    fn file(entries: &[&str]) -> String {
        let mut text: String = (0..3)
            .map(|shard| {
                format!("[[databases]]\nname = \"d\"\nhost = \"h{shard}\"\nshard = {shard}\n")
            })
            .collect();
        for entry in entries {
            let header = if entry.starts_with("[[") {
                ""
            } else {
                "[[sharded_tables]]\n"
            };
            text.push_str(&format!("{header}{entry}\ndatabase = \"d\"\n"));
        }
        text
    }

    fn tables(entries: &[&str]) -> ShardingTables {
        let case = Case {
            config: &file(entries),
            users: USER,
            ..Case::default()
        };
        case.config().cluster("d").unwrap().sharding.clone()
    }

    #[test]
    fn a_database_without_entries_is_omnisharded() {
        let tables = tables(&[]);
        assert_eq!(tables.shards, 3);
        let kind = tables.table(None, "t", |_| true);
        assert_eq!(kind, TableKind::Omnisharded { sticky: None });
    }

    #[test]
    fn entries_become_columns() {
        let tables = tables(&[
            "name = \"Users\"\ncolumn = \"id\"",
            "column = \"code\"\ndata_type = \"varchar\"\nhasher = \"sha1\"",
            "name = \"docs\"\ncolumn = \"embedding\"\ndata_type = \"vector\"\ncentroids = [[0.0], [1.0], [2.0]]",
            "name = \"regions\"\ncolumn = \"id\"\nmapping = [{ values = [1], shard = 2 }, { shard = 0 }]",
            "[[sharded_schemas]]\nname = \"tenant\"\nshard = 1",
            "[[sharded_schemas]]\nname = \"shared\"\nall = true",
            "[[omnisharded_tables]]\ntables = [\"countries\"]\nsticky = true",
        ]);
        let names: Vec<_> = tables.columns.iter().map(ShardedColumn::name).collect();
        assert_eq!(
            names,
            ["users.id", "*.code", "docs.embedding", "regions.id"]
        );
        let place = |at: usize, key| tables.columns[at].place(&key);
        assert_eq!(place(2, Key::Vector(vec![1.2])), Placement::Shard(1));
        assert_eq!(place(3, Key::Integer(1)), Placement::Shard(2));
        assert_eq!(place(3, Key::Integer(9)), Placement::Shard(0));
        assert_eq!(tables.schemas.named("tenant"), Some(Shards::one(1)));
        assert_eq!(tables.schemas.named("shared"), Some(Shards::all(3)));
        assert_eq!(tables.omnisharded.get("countries"), Some(&true));
    }

    /// UUIDs of rules are canonical too.
    #[test]
    fn rules_of_uuids() {
        let tables = tables(&[
            "column = \"id\"\ndata_type = \"uuid\"\nmapping = [{ values = [\"A0EEBC999C0B4EF8BB6D6BB9BD380A11\"], shard = 1 }]",
        ]);
        let column = &tables.columns[0];
        let key = column
            .key_type
            .text(b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
        assert_eq!(column.place(&key.unwrap()), Placement::Shard(1));
    }

    #[test]
    fn what_cannot_be_meant() {
        let found = |entry: &str| {
            let all = errors(&file(&[entry]), USER);
            let [one] = &all[..] else { panic!("{all:?}") };
            one.split_once(": ").unwrap().1.to_owned()
        };
        for (entry, error) in [
            (
                "name = \"t\"",
                "sharded_tables.column: required: the column with the sharding key",
            ),
            (
                "column = \"c\"\nhasher = \"sha1\"",
                "sharded_tables.hasher: \"sha1\" is supported with data_type = \"varchar\" only",
            ),
            (
                "column = \"c\"\ndata_type = \"vector\"",
                "sharded_tables.centroids: a vector is sharded by centroids, but there are none",
            ),
            (
                "column = \"c\"\ncentroids = [[1.0]]",
                "sharded_tables.centroids: only vectors have centroids: data_type = \"vector\"",
            ),
            (
                "column = \"c\"\ndata_type = \"vector\"\nmapping = [{ shard = 0 }]",
                "sharded_tables.mapping: vectors are sharded by centroids",
            ),
            (
                "column = \"c\"\nmapping = [{ shard = 3 }]",
                "sharded_tables.mapping: there is no shard 3, \"d\" has 3",
            ),
            (
                "column = \"c\"\ndata_type = \"uuid\"\nmapping = [{ values = [\"x\"], shard = 0 }]",
                "sharded_tables.mapping: \"x\" is not of data_type uuid",
            ),
            (
                "[[sharded_schemas]]\nname = \"s\"\nshard = 7",
                "sharded_schemas.shard: there is no shard 7, \"d\" has 3",
            ),
        ] {
            assert_eq!(found(entry), error);
        }
        let twice = ["[[sharded_schemas]]\nname = \"s\""; 2];
        let found = errors(&file(&twice), USER);
        assert!(
            found[0].ends_with("schema \"s\" has an entry already"),
            "{found:?}"
        );
    }

    #[test]
    fn a_second_key_of_a_table_has_no_effect() {
        let found = warnings(
            &file(&[
                "name = \"t\"\ncolumn = \"a\"",
                "name = \"t\"\ncolumn = \"b\"",
            ]),
            USER,
        );
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert!(one.ends_with("sharded by \"a\" already, this entry has no effect"));
    }

    /// With a gap, the remainder of a hash would name a shard that does not exist.
    #[test]
    fn sharded_databases_have_no_gaps() {
        let config = file(&["column = \"id\""]).replace("shard = 2", "shard = 3");
        let found = errors(&config, USER);
        let reason =
            "sharded_tables.database: shards of \"d\" must be numbered from 0 without gaps";
        assert!(found[0].ends_with(reason), "{found:?}");
    }

    #[test]
    fn centroids_from_a_file() {
        let entry = "column = \"v\"\ndata_type = \"vector\"\ncentroids_path = \"c.json\"";
        let config = file(&[entry]);
        let resolved = |content: Result<&str, &str>| {
            let source = |path, text| Source {
                path,
                text: Some(text),
            };
            let sources = Sources {
                config: source("p.toml", &config),
                users: source("u.toml", USER),
                environment: &Environment::new(),
                overrides: &Overrides::default(),
            };
            let read = |path: &Path| {
                assert_eq!(path, Path::new("c.json"));
                content.map(str::to_owned).map_err(str::to_owned)
            };
            resolve_with(&sources, &read)
        };
        let config = resolved(Ok("[[0, 1.5], [1, 0]]")).unwrap().config;
        let column = &config.cluster("d").unwrap().sharding.columns[0];
        let key = Key::Vector(vec![0.9, 0.1]);
        assert_eq!(column.place(&key), Placement::Shard(1));
        for (content, reason) in [
            (Err("no such file"), "c.json: no such file"),
            (
                Ok("[1, 2]"),
                "c.json: expected a JSON array of arrays of numbers",
            ),
            (
                Ok("[["),
                "c.json: expected a JSON array of arrays of numbers",
            ),
            (
                Ok("[]"),
                "a vector is sharded by centroids, but there are none",
            ),
        ] {
            let errors = resolved(content).unwrap_err();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!(errors[0].reason, reason);
        }
    }
}
