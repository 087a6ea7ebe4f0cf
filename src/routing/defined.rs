//! What a transaction has changed of the catalogue: nobody can be asked about it before it is committed.

use std::collections::HashMap;
use std::sync::Arc;

use crate::sharding::ShardingTables;
use crate::sql::keys::Change;
use crate::sql::statement::{Created, Kind, Need, Statement, TableUse};

use super::reshape::Reshaping;

/// Names that are remembered; with more of them, nothing is known of any table or function.
const NAMES_MAX: usize = 1024;

/// What was changed. To be forgotten when the transaction ends, however it does.
#[derive(Debug, Default)]
pub struct Defined {
    any: bool,
    /// Something went that was not named: a name without a schema may be that of another table.
    shadowed: bool,
    /// Nothing is known of what is not among `names`.
    lost: bool,
    /// Tables and functions.
    names: HashMap<Box<str>, Changed>,
    /// Tables, and their columns whose default is another one, or may have another value on each server.
    defaults: HashMap<Box<str>, Vec<Box<str>>>,
}

/// What has become of a table or function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is new, unless it was there.
    Made(Arc<Created>),
    /// It may have other columns.
    Altered,
    /// Its name is that of something else.
    Unknown,
}

impl Defined {
    /// Takes note of a statement that is going to be run.
    pub fn heed(&mut self, statement: &Statement, tables: &ShardingTables) {
        // A temporary table is nobody else's, and only a hint leads to it.
        if !statement.kind.defines() || statement.needs_primary == Some(Need::Temporary) {
            return;
        }
        self.any = true;
        let reshape = statement.reshapes.as_deref();
        self.shadowed |= reshape.is_some_and(|reshape| reshape.cascades || reshape.names);
        let reshaping = Reshaping::of(statement, tables);
        if reshaping.as_ref().is_some_and(|reshaping| reshaping.others) {
            self.lost = true;
            self.names.clear();
        }
        let moves = reshaping.is_some_and(|reshaping| reshaping.moves);
        for table in &statement.tables {
            let changed = match (table.usage, &statement.created) {
                (TableUse::Creation, Some(created)) => Changed::Made(Arc::clone(created)),
                (TableUse::Redefinition | TableUse::Creation, _) => Changed::Unknown,
                (TableUse::Alteration, _) if moves => Changed::Unknown,
                (TableUse::Alteration, _) => match self.named(&table.name) {
                    // It may refer to others now.
                    Some(Changed::Made(created)) => Changed::Made(Arc::new(Created {
                        open: true,
                        ..Created::clone(created)
                    })),
                    Some(Changed::Unknown) => continue,
                    Some(Changed::Altered) | None => Changed::Altered,
                },
                _ => continue,
            };
            let created = statement.created.iter().flat_map(|one| &one.varying);
            let altered = reshape.into_iter().flat_map(|one| &one.defaults);
            let mut new = created.chain(altered).peekable();
            if new.peek().is_some() && self.defaults.len() < NAMES_MAX {
                let columns = self.defaults.entry(table.name.clone()).or_default();
                columns.extend(new.cloned());
            }
            if self.names.len() < NAMES_MAX {
                self.names.insert(table.name.clone(), changed);
            }
        }
    }

    /// Was a definition changed?
    pub fn any(&self) -> bool {
        self.any
    }

    /// What has become of what has this name, if it was not left as it is; in any schema.
    pub fn named(&self, name: &str) -> Option<&Changed> {
        match self.names.get(name) {
            None if self.lost || self.names.len() >= NAMES_MAX => Some(&Changed::Unknown),
            changed => changed,
        }
    }

    /// Columns of a table of this name whose default is another one, or may have another value on each server.
    pub fn defaults(&self, name: &str) -> &[Box<str>] {
        self.defaults.get(name).map_or(&[], Vec::as_slice)
    }

    /// May a name without a schema be that of another table than it was?
    pub fn is_shadowed(&self) -> bool {
        self.shadowed
    }

    /// Does a table of this name have the same rows on every shard? `false` also where that is not known.
    pub fn is_everywhere(&self, name: &str, tables: &ShardingTables) -> bool {
        let Some(Changed::Made(created)) = self.named(name) else {
            return false;
        };
        let is_key = |column: &str| {
            let mut keys = tables.columns.iter();
            keys.any(|key| key.table.is_none() && *key.column == *column)
        };
        let mut columns = created.columns.iter();
        let follows = created.open || created.refers && tables.has_anchors();
        !tables.depend_on_schema() || !follows && !columns.any(|column| is_key(column))
    }

    /// Is what this name means, of a table or function, nobody's but the transaction's?
    pub fn is_another(&self, name: &str) -> bool {
        self.named(name) == Some(&Changed::Unknown)
    }

    /// A table that may have other columns, and into which rows go without a list of columns.
    pub fn positions<'s>(&self, statement: &'s Statement) -> Option<&'s str> {
        let unlisted = match (&statement.kind, &statement.keys) {
            (Kind::Copy(copy), _) => copy.from && copy.columns.is_empty(),
            (_, Some(keys)) => {
                let mut changes = keys.writes.iter().map(|write| &write.change);
                changes.any(
                    |change| matches!(change, Change::Insert { columns, .. } if columns.is_empty()),
                )
            }
            _ => false,
        };
        let mut tables = statement.tables.iter();
        let altered = tables.find(|table| {
            table.usage == TableUse::Insert && self.named(&table.name) == Some(&Changed::Altered)
        });
        altered.filter(|_| unlisted).map(|table| &*table.name)
    }
}

/// What a transaction has changed of the catalogue, as far as command tags say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Redefined {
    /// Nothing that matters.
    #[default]
    Nothing,
    /// Tables, which may have been temporary ones.
    Tables,
    /// More than that.
    Anything,
}

impl Redefined {
    /// What a statement with this tag has changed. Indexes are no matter of ours.
    pub fn by(tag: &[u8]) -> Self {
        let mut words = tag.split(|byte| *byte == b' ');
        match (words.next(), words.next()) {
            (Some(b"CREATE" | b"DROP"), Some(b"TABLE")) => Self::Tables,
            (Some(b"CREATE" | b"ALTER" | b"DROP"), Some(what)) if what != b"INDEX" => {
                Self::Anything
            }
            _ => Self::Nothing,
        }
    }
}

/// May a statement with this command tag have changed a definition? Looked at for every statement.
#[inline]
pub fn is_definition(tag: &[u8]) -> bool {
    matches!(tag, [b'C' | b'D', b'R', ..] | [b'A', b'L', ..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sharding::ShardedColumn;
    use crate::sql::cache::Cache;
    use crate::sql::lexer::Dialect;

    fn defined(texts: &[&str]) -> Defined {
        let mut cache = Cache::new(0, 0);
        let mut defined = Defined::default();
        for text in texts {
            let analysed = cache.analyse(text.as_bytes(), Dialect::default());
            let statements = analysed.analysis.statements.as_ref().expect("valid");
            let tables = by_tenant();
            statements.iter().for_each(|one| defined.heed(one, &tables));
        }
        defined
    }

    fn by_tenant() -> ShardingTables {
        ShardingTables {
            shards: 3,
            columns: vec![ShardedColumn::hashed(None, None, "tenant")],
            ..ShardingTables::default()
        }
    }

    #[test]
    fn tables_that_are_made_are_known_by_their_columns() {
        let check = |texts: &[&str], everywhere: bool| {
            let found = defined(texts).is_everywhere("t", &by_tenant());
            assert_eq!(found, everywhere, "{texts:?}");
        };
        check(&["CREATE TABLE t (a int)"], true);
        check(&["DROP TABLE t", "CREATE TABLE t (a int)"], true);
        check(&["CREATE TABLE t (a int)", "CREATE INDEX ON t (a)"], true);
        check(&["CREATE TABLE t (a int, tenant bigint)"], false);
        check(
            &["CREATE TABLE t (a int)", "ALTER TABLE t ADD tenant bigint"],
            false,
        );
        check(&["CREATE TABLE t (a int REFERENCES u)"], true);
        check(&["CREATE TABLE t (a int) INHERITS (u)"], false);
        check(
            &["CREATE TABLE t (a int)", "ALTER TABLE t RENAME TO u"],
            false,
        );
        check(&["CREATE VIEW t AS SELECT 1"], false);
        check(&["SELECT FROM t"], false);
        let by_name = ShardingTables::default();
        let made = defined(&["CREATE TABLE t (a int, tenant bigint)"]);
        assert!(made.is_everywhere("t", &by_name), "no column decides");
    }

    #[test]
    fn what_becomes_another_table_is_not_known_any_more() {
        let unknown = |texts: &[&str], name: &str| defined(texts).is_another(name);
        let key = "ALTER TABLE t ADD tenant bigint";
        assert!(unknown(&[key], "t") && !unknown(&[key], "u"));
        assert!(!unknown(&["ALTER TABLE t ADD v bigint"], "t"));
        for text in [
            "ALTER TABLE t ATTACH PARTITION u DEFAULT",
            "ALTER TABLE t NO INHERIT u",
        ] {
            assert!(unknown(&[text], "t") && unknown(&[text], "u"), "{text}");
        }
        assert!(!unknown(&["CREATE TABLE t PARTITION OF u DEFAULT"], "u"));
        assert!(unknown(&["ALTER TABLE t SET SCHEMA s"], "t"));
        for (text, shadows) in [
            ("DROP TABLE t CASCADE", true),
            ("ALTER SCHEMA s RENAME TO r", true),
            ("DROP TABLE t", false),
            (key, false),
        ] {
            assert_eq!(defined(&[text]).is_shadowed(), shadows, "{text}");
        }
    }

    #[test]
    fn names_of_something_else_are_told() {
        let changed = defined(&[
            "CREATE VIEW v AS SELECT 1",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "ALTER TABLE t DROP a",
            "DROP TABLE d",
        ]);
        for name in ["v", "f", "d"] {
            assert!(changed.is_another(name), "{name}");
        }
        assert!(!changed.is_another("t") && !changed.is_another("other"));
        assert_eq!(changed.named("t"), Some(&Changed::Altered));
        assert!(!defined(&["SELECT 1", "TRUNCATE t", "CREATE TEMP TABLE t (a int)"]).any());
        let many: Vec<_> = (0..=NAMES_MAX)
            .map(|n| format!("DROP TABLE t{n}"))
            .collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(defined(&many).is_another("other"));
    }

    #[test]
    fn rows_without_a_list_of_columns_need_their_order() {
        let changed = defined(&["ALTER TABLE t DROP a"]);
        let check = |text: &str, expected: Option<&str>| {
            let mut cache = Cache::new(0, 0);
            let analysed = cache.analyse(text.as_bytes(), Dialect::default());
            let statements = analysed.analysis.statements.as_ref().expect("valid");
            assert_eq!(changed.positions(&statements[0]), expected, "{text}");
        };
        check("INSERT INTO t VALUES (1)", Some("t"));
        check("COPY t FROM STDIN", Some("t"));
        check("INSERT INTO t (b) VALUES (1)", None);
        check("COPY t (b) FROM STDIN", None);
        check("COPY t TO STDOUT", None);
        check("INSERT INTO u VALUES (1)", None);
        check("UPDATE t SET b = 1", None);
    }
}
