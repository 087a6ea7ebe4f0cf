//! The sharding tables of pgdog.toml: shapes, the legacy form of rules, and what contradicts itself.

use std::path::PathBuf;

use crate::sharding::{self, KeyType, Rule, RuleKey, Rules};

use super::choice::{Hasher, LookupResult, MappingKind, ShardingKeyType};
use super::document::{nested_literal, read_nested, Entry};
use super::file::File;
use super::problem::Problems;
use super::section::section;
use super::sharding_tables::key_type;
use super::value::{quoted, Flaw, Identifier, Input, Value};

section! {
    /// Tables whose rows are spread over shards.
    ShardedTable = "sharded_tables";

    /// Name of the database.
    database: String = required "pgdog", Live, Now;
    /// Table without its schema; unset: any table that has the column.
    name: Option<Identifier> = unset "orders", Live, Now;
    /// Schema; unset: any.
    schema: Option<Identifier> = unset "public", Live, Now;
    /// Column with the sharding key.
    column: Identifier = unset "customer_id", Live, Now;
    /// Anchor for reasoning about foreign keys.
    primary: bool = default "false", Live, Now;
    /// Type of the key.
    data_type: ShardingKeyType = default "bigint", Live, Now;
    /// Hash of the key.
    hasher: Hasher = default "postgres", Live, Now;
    /// For vectors: one centroid a shard.
    centroids: Vec<Vec<f64>> = unset "[[0.0, 1.0], [1.0, 0.0]]", Live, Now;
    /// JSON file that replaces centroids.
    centroids_path: Option<PathBuf> = unset "centroids.json", Live, Now;
    /// Centroids searched; 0 means the square root of their number, rounded up.
    centroid_probes: usize = default "0", Live, Now;
    /// Rules that replace the hash: lists, ranges (start inclusive, end exclusive) and a default.
    mapping: Vec<MappingRule> = unset "[{ values = [1, 2], shard = 0 }, { start = 100, end = 200, shard = 1 }, { shard = 2 }]", Live, Now;
    /// SQL with one $1 that translates the key; no row fails the statement.
    lookup_query: Option<String> = unset "SELECT id FROM customers WHERE name = $1", Live, Now;
    /// What it returns: a value that is then hashed, or the number of the shard.
    lookup_result: LookupResult = default "value", Live, Now;
}

section! {
    /// One rule of `[[sharded_tables.mapping]]`.
    MappingRule = "mapping";

    /// Keys of a list rule.
    values: Vec<Key> = unset "[1, 2]", Live, Now;
    /// First key of a range, inclusive.
    start: Option<Key> = unset "100", Live, Now;
    /// End of a range, exclusive.
    end: Option<Key> = unset "200", Live, Now;
    /// Shard of these keys.
    shard: u32 = required "0", Live, Now;
}

section! {
    /// Deprecated: rules of one column. Use `[[sharded_tables.mapping]]`.
    ShardedMapping = "sharded_mappings";

    /// Name of the database.
    database: String = required "pgdog", Live, Now;
    /// Column with the sharding key.
    column: Identifier = required "customer_id", Live, Now;
    /// Shard of these keys.
    shard: u32 = required "0", Live, Now;
    /// Table without its schema; unset: any.
    table: Option<Identifier> = unset "orders", Live, Now;
    /// Schema; unset: any.
    schema: Option<Identifier> = unset "public", Live, Now;
    /// Kind of the rule; unset: what its keys say.
    kind: Option<MappingKind> = unset "list", Live, Now;
    /// Keys of a list.
    values: Vec<Key> = unset "[1, 2]", Live, Now;
    /// First key of a range, inclusive.
    start: Option<Key> = unset "100", Live, Now;
    /// End of a range, exclusive.
    end: Option<Key> = unset "200", Live, Now;
}

section! {
    /// Schemas that live on one shard.
    ShardedSchema = "sharded_schemas" tolerant;

    /// Name of the database.
    database: String = required "pgdog", Live, Now;
    /// Schema; unset: all that have no entry.
    name: Option<Identifier> = unset "tenant_1", Live, Now;
    /// Its shard.
    shard: u32 = default "0", Live, Now;
    /// It exists on every shard.
    all: bool = default "false", Live, Now;
}

section! {
    /// Tables with the same rows on every shard. Tables listed nowhere are treated so anyway.
    OmnishardedTables = "omnisharded_tables" tolerant;

    /// Name of the database.
    database: String = required "pgdog", Live, Now;
    /// The tables.
    tables: Vec<Identifier> = required "[\"countries\", \"currencies\"]", Live, Now;
    /// Read them from one shard per client.
    sticky: bool = default "false", Live, Now;
}

/// A key of a rule: an integer, a UUID or a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Integer(i64),
    Text(String),
}

impl Value for Key {
    const KIND: &'static str = "integer or text";

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        let Input::File(value) = input else {
            return input.text("a key").map(|text| match text.parse() {
                Ok(integer) => Self::Integer(integer),
                Err(_) => Self::Text(text.to_owned()),
            });
        };
        match value.get_ref() {
            toml::de::DeValue::Integer(integer) => {
                i64::from_str_radix(integer.as_str(), integer.radix())
                    .map(Self::Integer)
                    .map_err(|_| input.flaw("a key has 64 bits at most"))
            }
            _ => input
                .text("an integer or a string")
                .map(|text| Self::Text(text.to_owned())),
        }
    }

    fn literal(&self) -> Option<String> {
        Some(match self {
            Self::Integer(integer) => integer.to_string(),
            Self::Text(text) => quoted(text),
        })
    }
}

impl Value for MappingRule {
    const KIND: &'static str = "table";

    fn read(input: Input<'_>) -> Result<Self, Vec<Flaw>> {
        read_nested(input)
    }

    fn literal(&self) -> Option<String> {
        Some(nested_literal(self))
    }
}

impl MappingRule {
    fn kind(&self) -> MappingKind {
        if !self.values.is_empty() {
            MappingKind::List
        } else if self.start.is_some() || self.end.is_some() {
            MappingKind::Range
        } else {
            MappingKind::Default
        }
    }
}

/// Turns `[[sharded_mappings]]` into rules of the tables they speak of, adding tables where there are none.
pub(super) fn convert_legacy(file: &mut File, problems: &mut Problems) {
    if let Some(first) = file.sharded_mappings.first() {
        let reason = "deprecated, write [[sharded_tables.mapping]] instead";
        problems.warnings.push(first.problem("", reason));
    }
    for legacy in &file.sharded_mappings {
        let from = &legacy.value;
        let rule = MappingRule {
            values: from.values.clone(),
            start: from.start.clone(),
            end: from.end.clone(),
            shard: from.shard,
        };
        if from.kind.is_some_and(|kind| kind != rule.kind()) && !legacy.place.broken {
            let reason = "list needs values, range needs start or end, default needs none of them";
            problems.errors.push(legacy.problem("kind", reason));
        }
        let same = |table: &&mut Entry<ShardedTable>| {
            let to = &table.value;
            to.database == from.database
                && to.column == from.column
                && to.name == from.table
                && to.schema == from.schema
        };
        if let Some(table) = file.sharded_tables.iter_mut().find(same) {
            table.value.mapping.push(rule);
            continue;
        }
        file.sharded_tables.push(Entry {
            value: ShardedTable {
                database: from.database.clone(),
                name: from.table.clone(),
                schema: from.schema.clone(),
                column: from.column.clone(),
                mapping: vec![rule],
                ..ShardedTable::default()
            },
            place: legacy.place.clone(),
        });
    }
}

/// Contradictions within one table.
pub(super) fn check(table: &Entry<ShardedTable>, problems: &mut Problems) {
    if table.place.broken {
        return;
    }
    let value = &table.value;
    let mut error = |key: &str, reason: String| problems.errors.push(table.problem(key, reason));
    if let Some(query) = &value.lookup_query {
        let parameters = query.match_indices('$').filter_map(|(at, _)| {
            let digits: String = query
                .get(at + 1..)?
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            (!digits.is_empty()).then_some(digits)
        });
        if parameters.collect::<Vec<_>>() != ["1"] {
            error(
                "lookup_query",
                "must contain exactly one parameter, $1".to_owned(),
            );
        }
    }
    if value.lookup_result == LookupResult::Shard {
        if value.lookup_query.is_none() {
            error("lookup_result", "needs lookup_query".to_owned());
        }
        let has_centroids = !value.centroids.is_empty() || value.centroids_path.is_some();
        if !value.mapping.is_empty() || has_centroids || value.hasher != Hasher::Postgres {
            error(
                "lookup_result",
                "\"shard\" excludes mapping, centroids and hasher".to_owned(),
            );
        }
    }
    // Vectors with rules are refused whole, in `sharding_tables.rs`.
    if value.data_type != ShardingKeyType::Vector {
        for reason in value.rules().err().into_iter().flatten() {
            error("mapping", reason);
        }
    }
}

impl ShardedTable {
    /// Its rules with keys of its type. Errors: keys of another type, or what contradicts itself.
    pub(super) fn rules(&self) -> Result<Rules, Vec<String>> {
        let mut flaws = Vec::new();
        let mut key = |key: &Key| {
            let canonical = match (key, key_type(self.data_type)) {
                (Key::Integer(value), KeyType::Bigint) => Some(RuleKey::Integer(*value)),
                (Key::Text(text), KeyType::Varchar) => Some(RuleKey::Text(text.clone())),
                (Key::Text(text), KeyType::Uuid) => match KeyType::Uuid.text(text.as_bytes()) {
                    Ok(sharding::Key::Uuid(bytes)) => Some(RuleKey::Uuid(bytes)),
                    _ => None,
                },
                _ => None,
            };
            if canonical.is_none() {
                let key = key.literal().unwrap_or_default();
                flaws.push(format!("{key} is not of data_type {}", self.data_type));
            }
            canonical
        };
        let mut rules = Vec::new();
        for rule in &self.mapping {
            rules.push(Rule {
                values: rule.values.iter().filter_map(&mut key).collect(),
                start: rule.start.as_ref().and_then(&mut key),
                end: rule.end.as_ref().and_then(&mut key),
                shard: rule.shard,
            });
        }
        if flaws.is_empty() {
            return Rules::new(rules);
        }
        Err(flaws)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Messages of errors in a file made of these sections.
    fn errors(text: &str) -> Vec<String> {
        let (mut file, mut problems) = File::read(&Arc::from("p.toml"), text);
        convert_legacy(&mut file, &mut problems);
        for table in &file.sharded_tables {
            check(table, &mut problems);
        }
        problems.errors.iter().map(ToString::to_string).collect()
    }

    /// Errors of the rules, each written as an inline table.
    fn rules(data_type: &str, rules: &str) -> Vec<String> {
        let text = format!("[[sharded_tables]]\ndatabase = \"d\"\ncolumn = \"c\"\ndata_type = \"{data_type}\"\nmapping = [{rules}]\n");
        errors(&text)
            .iter()
            .map(|error| error.replace("p.toml:5: sharded_tables.mapping: ", ""))
            .collect()
    }

    #[test]
    fn rules_that_fit() {
        for (data_type, text) in [
            ("bigint", "{ values = [1, 2], shard = 0 }, { values = [3], shard = 1 }, { shard = 2 }"),
            ("bigint", "{ end = 0, shard = 0 }, { start = 0, end = 10, shard = 1 }, { start = 10, shard = 2 }"),
            ("varchar", "{ start = \"a\", end = \"m\", shard = 0 }, { start = \"m\", shard = 1 }"),
            ("bigint", "{ values = [5], shard = 0 }, { start = 0, end = 10, shard = 1 }"),
        ] {
            assert_eq!(rules(data_type, text), [""; 0], "{text}");
        }
    }

    #[test]
    fn rules_that_do_not() {
        for (text, reason) in [
            (
                "{ start = 0, end = 10, shard = 0 }, { start = 9, shard = 1 }",
                "ranges of shards 0 and 1 overlap",
            ),
            (
                "{ end = 5, shard = 0 }, { end = 9, shard = 1 }",
                "ranges of shards 0 and 1 overlap",
            ),
            (
                "{ start = 5, end = 5, shard = 3 }",
                "the range of shard 3 ends before it starts",
            ),
            (
                "{ values = [1, 2], shard = 0 }, { values = [2], shard = 1 }",
                "2 is in two lists",
            ),
            ("{ shard = 0 }, { shard = 1 }", "two default rules"),
            (
                "{ values = [1], start = 4, shard = 0 }",
                "a rule has either values or start and end (shard 0)",
            ),
            (
                "{ values = [\"x\"], shard = 0 }",
                "\"x\" is not of data_type bigint",
            ),
        ] {
            assert_eq!(rules("bigint", text), [reason], "{text}");
        }
    }

    #[test]
    fn errors_inside_of_rules_have_lines() {
        let text = "[[sharded_tables]]\ndatabase = \"d\"\n\n[[sharded_tables.mapping]]\nvalues = [1, true]\n";
        assert_eq!(
            errors(text),
            [
                "p.toml:5: sharded_tables.mapping.values: expected an integer or a string, found a boolean",
                "p.toml:4: sharded_tables.mapping.shard: required, but missing",
            ]
        );
    }

    #[test]
    fn lookups() {
        for (lines, expected) in [
            ("lookup_query = \"SELECT $1\"", None),
            (
                "lookup_query = \"SELECT 1\"",
                Some("lookup_query: must contain exactly one parameter, $1"),
            ),
            (
                "lookup_query = \"SELECT $1 + $2\"",
                Some("lookup_query: must contain exactly one parameter, $1"),
            ),
            (
                "lookup_query = \"SELECT $10\"",
                Some("lookup_query: must contain exactly one parameter, $1"),
            ),
            (
                "lookup_result = \"shard\"",
                Some("lookup_result: needs lookup_query"),
            ),
            (
                "lookup_query = \"SELECT $1\"\nlookup_result = \"shard\"\nhasher = \"sha1\"",
                Some("lookup_result: \"shard\" excludes mapping, centroids and hasher"),
            ),
        ] {
            let found = errors(&format!("[[sharded_tables]]\ndatabase = \"d\"\n{lines}\n"));
            match expected {
                None => assert_eq!(found, [""; 0], "{lines}"),
                Some(expected) => assert!(
                    found.len() == 1 && found[0].ends_with(expected),
                    "{lines}: {found:?}"
                ),
            }
        }
    }

    #[test]
    fn legacy_rules_join_their_table() {
        let text = r#"
            [[sharded_tables]]
            database = "d"
            column = "ID"
            [[sharded_mappings]]
            database = "d"
            column = "id"
            shard = 1
            kind = "list"
            values = [1]
            [[sharded_mapping]]
            database = "e"
            column = "id"
            shard = 0
            kind = "default"
        "#;
        let (mut file, mut problems) = File::read(&Arc::from("p.toml"), text);
        convert_legacy(&mut file, &mut problems);
        assert!(problems.errors.is_empty(), "{problems:?}");
        assert_eq!(problems.warnings.len(), 1);
        let found: Vec<_> = file
            .sharded_tables
            .iter()
            .map(|table| (table.value.database.as_str(), table.value.mapping.len()))
            .collect();
        assert_eq!(found, [("d", 1), ("e", 1)]);
    }
}
