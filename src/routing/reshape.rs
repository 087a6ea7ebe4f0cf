//! Definitions that may make other tables, for routing, of some that have rows.

use crate::error::Error;
use crate::merge::refused;
use crate::sharding::families::kind;
use crate::sharding::schema::Schema;
use crate::sharding::{reshaped::reshaped, ShardedColumn, ShardingTables, TableKind};
use crate::sql::quote;
use crate::sql::statement::{Statement, TableUse};

/// What is to be looked at when such a definition was run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a definition may do all of it"
)]
pub struct Reshaping {
    /// The table of which columns are computed anew.
    table: Box<str>,
    /// Those.
    computed: Vec<Box<str>>,
    /// Its rows get values of which each shard has its own.
    fills: bool,
    /// It may make another table of some.
    pub moves: bool,
    /// Foreign keys are of interest, too.
    pub references: bool,
    /// It may concern tables that it does not name, and that were there before.
    pub others: bool,
}

impl Reshaping {
    /// `None`: the statement leaves all tables that have rows where they are.
    pub fn of(statement: &Statement, tables: &ShardingTables) -> Option<Self> {
        let reshape = statement.reshapes.as_deref()?;
        let table = statement.tables.first();
        let name = table.map_or("", |table| &*table.name);
        let any = |matches: &dyn Fn(&ShardedColumn) -> bool| tables.columns.iter().any(matches);
        let is_key = |column: &str| any(&|key| *key.column == *column);
        let columns = reshape.columns.iter().chain(&reshape.computed);
        let columns = columns.chain(&reshape.typed);
        let mut keys = columns.filter(|column| is_key(column));
        let references = tables.has_anchors();
        let by_name = any(&|key| key.table.is_some() || key.schema.is_some())
            || !tables.schemas.is_empty()
            || !tables.omnisharded.is_empty();
        // A new table has no rows, but those that it inherits from may.
        let families = match table.map(|table| table.usage) {
            Some(TableUse::Creation) => any(&|key| key.table.as_deref() == Some(name)),
            _ => any(&|_| true),
        };
        // With a type its columns go.
        let matters = keys.next().is_some()
            || references && (reshape.references || !reshape.columns.is_empty())
            || by_name && reshape.names
            || families && reshape.families
            || reshape.cascades && any(&|_| true);
        let others = reshape.families
            || references && reshape.references
            || reshape.names && statement.tables.is_empty();
        (matters || reshape.fills).then(|| Self {
            table: name.into(),
            fills: reshape.fills,
            moves: matters,
            computed: reshape.computed.clone(),
            references,
            others: others && statement.created.is_none(),
        })
    }

    /// Which tables must have no rows: what it has made other tables of, as the catalogue was before it and is now, and those that are
    /// everywhere and get other values on each shard.
    pub fn tables(&self, tables: &ShardingTables, before: &Schema, after: &Schema) -> Vec<Another> {
        let computed = |table: &str, key: &str| {
            *table == *self.table && self.computed.iter().any(|column| **column == *key)
        };
        let found = reshaped(tables, before, after, computed).into_iter();
        let moved = found.map(|(schema, name)| Another {
            schema,
            name,
            parts: false,
        });
        let all = before.all().into_iter();
        let filled = all.filter(|(name, table)| {
            let named = self.fills && **name == *self.table;
            named && !matches!(kind(tables, name, table), TableKind::Sharded(_))
        });
        let filled = filled.map(|(name, table)| Another {
            schema: table.schema.to_string(),
            name: name.to_owned(),
            parts: true,
        });
        moved.chain(filled).collect()
    }
}

/// A table that is another one for routing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Another {
    schema: String,
    name: String,
    /// Its shards would have other values in the same row.
    parts: bool,
}

impl Another {
    /// Asks a server whether it may have rows: one row, a boolean. It does where nobody can see them: for a snapshot that is older
    /// than the lock, or a policy.
    pub fn question(&self) -> String {
        let name = self.quoted();
        let literal = quote::literal(name.as_bytes());
        let literal = String::from_utf8_lossy(&literal);
        format!(
            "SELECT pg_catalog.current_setting('transaction_isolation') NOT LIKE 'read %' OR EXISTS (SELECT FROM {name}) \
            OR (SELECT relforcerowsecurity FROM pg_catalog.pg_class WHERE oid = {literal}::pg_catalog.regclass)"
        )
    }

    /// Why it is not done.
    pub fn refused(&self) -> Error {
        let name = self.quoted();
        if self.parts {
            let what = format!("a definition after which rows of table {name} would have other values on each shard");
            return refused(&what)
                .hint("add the column without its default, set that, and UPDATE the rows");
        }
        refused(&format!(
            "a definition after which rows of table {name} would be looked for elsewhere"
        ))
        .hint("it can be done while the table is empty; its rows can be copied to another one")
    }

    fn quoted(&self) -> String {
        let [schema, name] = [&self.schema, &self.name].map(|name| quote::name(name));
        format!("{schema}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::cache::Cache;
    use crate::sql::lexer::Dialect;

    fn tables(columns: &[(Option<&str>, &str, bool)]) -> ShardingTables {
        let entry = |&(table, column, primary): &(Option<&str>, &str, bool)| ShardedColumn {
            primary,
            ..ShardedColumn::hashed(None, table, column)
        };
        ShardingTables {
            shards: 3,
            columns: columns.iter().map(entry).collect(),
            ..ShardingTables::default()
        }
    }

    #[test]
    fn most_definitions_are_run_without_looking() {
        let by_any = tables(&[(None, "tenant", false)]);
        let by_name = tables(&[(Some("users"), "id", false)]);
        let anchored = tables(&[(Some("users"), "id", true)]);
        for (text, expected) in [
            ("ALTER TABLE t ADD tenant bigint", [true, false, true]),
            ("ALTER TABLE t ADD a int", [false, false, true]),
            ("ALTER TABLE t RENAME id TO a", [false, true, true]),
            (
                "ALTER TABLE t ALTER id TYPE int USING 1",
                [false, true, true],
            ),
            ("ALTER TABLE t ALTER a TYPE int USING 1", [false; 3]),
            ("ALTER TABLE t RENAME TO u", [false, true, true]),
            ("ALTER TABLE t DROP CONSTRAINT c", [false, false, true]),
            ("ALTER TABLE t ATTACH PARTITION u DEFAULT", [true; 3]),
            (
                "CREATE TABLE users PARTITION OF t DEFAULT",
                [false, true, true],
            ),
            ("CREATE TABLE u PARTITION OF t DEFAULT", [false; 3]),
            ("CREATE TABLE u (tenant bigint, id bigint)", [false; 3]),
            ("DROP TYPE t CASCADE", [true; 3]),
            ("DROP TABLE t", [false; 3]),
            ("CREATE INDEX ON t (tenant)", [false; 3]),
            ("ALTER TABLE t ADD a date DEFAULT now()", [true; 3]),
            ("ALTER TABLE t ALTER a SET DEFAULT now()", [false; 3]),
        ] {
            let mut cache = Cache::new(0, 0);
            let analysed = cache.analyse(text.as_bytes(), Dialect::default());
            let statements = analysed.analysis.statements.as_ref().expect("valid");
            let looked = [&by_any, &by_name, &anchored]
                .map(|tables| Reshaping::of(&statements[0], tables).is_some());
            assert_eq!(looked, expected, "{text}");
        }
    }
}
