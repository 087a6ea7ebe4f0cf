//! INSERT that leaves the primary key of its table to the servers, each of which would count for itself
//! (`rewrite.primary_key`).

use crate::config::choice::PrimaryKeyRewrite;
use crate::sharding::{ShardingTables, TableKind};
use crate::sql::gaps::Gap;
use crate::sql::keys::{Change, Operand, Overriding, Rows, Write};
use crate::sql::statement::Statement;
use crate::types::oid;

use super::route::{schema_of, Schema};

/// A primary key that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingKey<'s> {
    /// The column.
    pub column: &'s str,
    /// How it is missing. `None`: in a form in which it cannot be added.
    pub gap: Option<Gap>,
}

/// Does a statement add rows, at any level?
pub fn inserts(statement: &Statement) -> bool {
    let writes = statement.keys.iter().flat_map(|keys| &keys.writes);
    let mut changes = writes.map(|write| &write.change);
    changes.any(|change| matches!(change, Change::Insert { .. } | Change::Merge { .. }))
}

/// The first INSERT of a statement, at any level, without the primary key of a table that `mode` is for. Keys are columns of
/// type `bigint` that are alone a primary key, and can be given a value.
pub fn missing_key<'s>(
    statement: &Statement,
    mode: PrimaryKeyRewrite,
    tables: &ShardingTables,
    schema: &'s dyn Schema,
) -> Option<MissingKey<'s>> {
    if mode == PrimaryKeyRewrite::Ignore {
        return None;
    }
    let keys = statement.keys.as_deref()?;
    keys.writes.iter().find_map(|write| {
        let reference = keys.references.get(usize::from(write.target))?;
        let (in_schema, name) = (reference.schema.as_deref(), &*reference.name);
        let columns = schema.columns(in_schema, name)?;
        let position = columns.iter().position(|column| {
            column.primary && column.type_oid == oid::INT8 && !column.generated && !column.always
        })?;
        if mode == PrimaryKeyRewrite::RewriteOmni {
            let has_column = |wanted: &str| columns.iter().any(|column| *column.name == *wanted);
            let found = schema_of((in_schema, name), tables, schema);
            let kind = tables.table(found, name, has_column);
            if !matches!(kind, TableKind::Omnisharded { .. }) {
                return None;
            }
        }
        let column = &*columns.get(position)?.name;
        let gap = gap(write, column, position)?;
        Some(MissingKey {
            column,
            // What is not the statement itself is left to who writes it.
            gap: gap.filter(|_| write.level == 0 && keys.writes.len() == 1),
        })
    })
}

/// How a column is missing, which is in this position of its table. `None`: it is not. `Some(None)`: in a form in which it cannot be added.
pub(super) fn gap(write: &Write, column: &str, position: usize) -> Option<Option<Gap>> {
    match &write.change {
        // Whether it is an identity nobody has asked.
        Change::Insert {
            overriding: Overriding::User,
            ..
        } => Some(None),
        Change::Insert { columns, rows, .. } => {
            let Some(at) = given_at(columns, column, position) else {
                let values = matches!(rows, Rows::Values { .. });
                return Some(values.then_some(Gap::Unnamed));
            };
            match rows {
                Rows::Defaults => Some(Some(Gap::Everything)),
                Rows::Values { width, .. } if at >= *width => Some(match columns.is_empty() {
                    true => Some(Gap::Behind(at - width)),
                    false => None,
                }),
                Rows::Values { width, operands } => {
                    let mut rows = operands.chunks((*width).max(1));
                    let lacks = rows.any(|row| row.get(at) == Some(&Operand::Default));
                    lacks.then_some(Some(Gap::Default(at)))
                }
                // What is not known of its outputs may be anything.
                Rows::Select { outputs, .. } if outputs.open || !outputs.may_lack(at) => None,
                Rows::Select { .. } => Some(None),
            }
        }
        Change::Merge { inserts, .. } => {
            let given = |insert: &Vec<(Box<str>, Operand)>| {
                let mut values = insert.iter();
                values.any(|(name, value)| **name == *column && *value != Operand::Default)
            };
            (!inserts.iter().all(given)).then_some(None)
        }
        Change::Update { .. } | Change::Delete => None,
    }
}

/// Where in its rows an INSERT that names these columns, or none, has a column that has this position in its table.
pub(super) fn given_at(named: &[Box<str>], column: &str, position: usize) -> Option<usize> {
    match named.is_empty() {
        true => Some(position),
        false => named.iter().position(|name| **name == *column),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::route::{Maker, TableColumn};
    use crate::sql::cache::Cache;
    use crate::sql::lexer::Dialect;

    /// `t (n, id)` with the key `id`, and what has none that could be given.
    struct Tables(Vec<TableColumn>, Vec<TableColumn>);

    impl Schema for Tables {
        fn columns(&self, _schema: Option<&str>, table: &str) -> Option<&[TableColumn]> {
            match table {
                "t" => Some(&self.0),
                "always" => Some(&self.1),
                _ => None,
            }
        }
    }

    fn column(name: &str, primary: bool, always: bool) -> TableColumn {
        TableColumn {
            number: 0,
            name: name.into(),
            maker: Maker::Sequence,
            default: None,
            generated: false,
            always,
            type_oid: oid::INT8,
            primary,
            ..TableColumn::default()
        }
    }

    fn missing(sql: &str) -> Option<Option<Gap>> {
        let schema = Tables(
            vec![column("n", false, false), column("id", true, false)],
            vec![column("id", true, true)],
        );
        let mut cache = Cache::new(0, 0);
        let analysed = cache.analyse(sql.as_bytes(), Dialect::default());
        let statements = analysed.analysis.statements.as_ref().unwrap();
        let tables = ShardingTables::default();
        let mode = PrimaryKeyRewrite::Rewrite;
        let found = missing_key(&statements[0], mode, &tables, &schema);
        found.inspect(|found| assert_eq!(found.column, "id"))?;
        Some(found?.gap)
    }

    #[test]
    fn how_keys_are_missing() {
        for (sql, expected) in [
            ("INSERT INTO t (n) VALUES (1)", Some(Some(Gap::Unnamed))),
            ("INSERT INTO t VALUES (1), (2)", Some(Some(Gap::Behind(0)))),
            ("INSERT INTO t VALUES (1, 2)", None),
            ("INSERT INTO t VALUES (1, 2), (3, DEFAULT)", Some(Some(Gap::Default(1)))),
            ("INSERT INTO t (id, n) VALUES (DEFAULT, 1)", Some(Some(Gap::Default(0)))),
            ("INSERT INTO t (id) VALUES ($1)", None),
            ("INSERT INTO t DEFAULT VALUES", Some(Some(Gap::Everything))),
            ("INSERT INTO t (n) SELECT 1", Some(None)),
            ("INSERT INTO t (n, id) SELECT 1, 2", None),
            ("INSERT INTO t SELECT 1", Some(None)),
            ("INSERT INTO t (id) OVERRIDING USER VALUE VALUES (1)", Some(None)),
            ("INSERT INTO t (id) OVERRIDING SYSTEM VALUE VALUES (1)", None),
            ("WITH a AS (INSERT INTO t (n) VALUES (1) RETURNING n) SELECT * FROM a", Some(None)),
            (
                "MERGE INTO t USING s ON t.id = s.id WHEN NOT MATCHED THEN INSERT (n) VALUES (1)",
                Some(None),
            ),
            (
                "MERGE INTO t USING s ON t.id = s.id WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)",
                None,
            ),
            ("INSERT INTO always DEFAULT VALUES", None),
            ("INSERT INTO unknown DEFAULT VALUES", None),
            ("UPDATE t SET n = 1", None),
            ("SELECT * FROM t", None),
        ] {
            assert_eq!(missing(sql), expected, "{sql}");
        }
    }
}
