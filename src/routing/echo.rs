//! INSERT of a query's rows into a table that is everywhere, where each server would find or make others: the first one does it, and
//! the others store what it has stored.
//!
//! ```text
//! first shard   the INSERT, which says where its rows are
//!               SELECT of all their columns, as texts that mean the same under all settings
//! all others    INSERT of these
//! ```

use crate::error::{Error, Fault};
use crate::merge::refused;
use crate::protocol::sqlstate::SqlState;
use crate::sql::insert_rows::{renumber, InsertPart};
use crate::sql::keys::{Change, Rows, Write};
use crate::sql::lexer::{Dialect, Kind, Lexer};
use crate::sql::quote;
use crate::types::oid;

use super::moves::Place;
use super::plainly::plainly;
use super::route::TableColumn;

/// Rows that one statement of ours reads or stores.
const ROWS_MAX: usize = 1000;

/// A row's values, NULL or text.
pub type Row = Vec<Option<Vec<u8>>>;

/// What it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echo {
    /// The INSERT for the first server: it answers with the place of each row.
    pub insert: InsertPart,
    table: String,
    columns: String,
    dialect: Dialect,
}

/// Is this an INSERT of a query's rows of which others could store the same?
pub fn may_be_echoed(write: &Write) -> bool {
    // Rows that were there and are changed by it do not tell that they were.
    let inserts = matches!(
        &write.change,
        Change::Insert { rows: Rows::Select { .. }, conflict_sets, .. } if conflict_sets.is_empty()
    );
    inserts && write.level == 0
}

impl Echo {
    /// For an INSERT of this text into a table, with its schema, that has these columns.
    ///
    /// Errors: it returns something, or values have a type whose text means something else elsewhere (0A000).
    pub fn new(
        text: &[u8],
        dialect: Dialect,
        (schema, name): (&str, &str),
        columns: &[TableColumn],
    ) -> Result<Self, Error> {
        let (mut depth, mut end) = (0_usize, 0);
        for token in Lexer::new(text, dialect).filter(|token| !token.kind.is_blank()) {
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                Kind::Semicolon => break,
                Kind::Word if depth == 0 && token.of(text).eq_ignore_ascii_case(b"returning") => {
                    return Err(refused(
                        "RETURNING of an INSERT … SELECT that each shard would do otherwise",
                    ));
                }
                _ => {}
            }
            end = token.end;
        }
        let stored: Vec<_> = columns.iter().filter(|column| !column.generated).collect();
        let of_money =
            |column: &&TableColumn| matches!(column.type_oid, oid::MONEY | oid::MONEY_ARRAY);
        if stored.is_empty() || stored.iter().any(of_money) {
            return Err(refused(
                "an INSERT … SELECT that each shard would do otherwise, of money,",
            ));
        }
        let names: Vec<_> = stored
            .iter()
            .map(|column| quote::name(&column.name))
            .collect();
        let insert = text.get(..end).unwrap_or_default();
        let insert = [insert, b"\nRETURNING tableoid, ctid"].concat();
        Ok(Self {
            insert: renumber(&insert, dialect),
            table: format!("{}.{}", quote::name(schema), quote::name(name)),
            columns: names.join(", "),
            dialect,
        })
    }

    /// Asks the first server for these rows: a text for some of them each. Their rows come between two of settings.
    pub fn read(&self, places: &[Place]) -> Vec<String> {
        let mut places: Vec<&Place> = places.iter().collect();
        places.sort_by_key(|place| place.table); // those of one table stay in their order
        let same = places.chunk_by(|one, other| one.table == other.table);
        let some = same.flat_map(|same| same.chunks(ROWS_MAX));
        let texts = some.map(|some| {
            let table = some.first().map_or(0, |place| place.table);
            let rows: Vec<_> = some.iter().map(|place| format!("\"{}\"", place.row)).collect();
            plainly(&format!(
                "SELECT {} FROM {} WHERE tableoid = {table} AND ctid = ANY ('{{{}}}'::pg_catalog.tid[])",
                self.columns,
                self.table,
                rows.join(",")
            ))
        });
        texts.collect()
    }

    /// Stores these rows on another server. `None`: there are none.
    ///
    /// Errors: 0A000 for texts that cannot be quoted in the client's encoding.
    pub fn put(&self, rows: &[Row]) -> Result<Option<Vec<u8>>, Error> {
        let head = format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ",
            self.table, self.columns
        );
        let mut text = head.into_bytes();
        for (at, row) in rows.iter().enumerate() {
            text.extend_from_slice(if at > 0 { b", (" } else { b"(" });
            for (at, value) in row.iter().enumerate() {
                if at > 0 {
                    text.extend_from_slice(b", ");
                }
                match value {
                    None => text.extend_from_slice(b"NULL"),
                    Some(value) if self.dialect.overlapping && !value.is_ascii() => {
                        let what = "a value that a server gives, in this client_encoding,";
                        return Err(refused(what));
                    }
                    Some(value) => text.extend_from_slice(&quote::literal(value)),
                }
            }
            text.push(b')');
        }
        Ok((!rows.is_empty()).then_some(text))
    }
}

/// The rows are not there any more, or others are.
pub fn vanished() -> Error {
    Error::error(
        Fault::Server,
        SqlState::INTERNAL_ERROR,
        "rows of an INSERT … SELECT are not where the first shard has stored them",
    )
    .hint("does a trigger change or keep them?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::route::Maker;
    use crate::sql::cache::Cache;

    fn column(name: &str, type_oid: u32, generated: bool) -> TableColumn {
        TableColumn {
            number: 0,
            name: name.into(),
            has_default: false,
            maker: Maker::Nothing,
            default: None,
            generated,
            always: false,
            type_oid,
            primary: false,
        }
    }

    fn echo(text: &str) -> Result<Echo, Error> {
        let columns = [
            column("a", oid::INT8, false),
            column("b", 0, true),
            column("C", 0, false),
        ];
        Echo::new(text.as_bytes(), Dialect::default(), ("s", "t"), &columns)
    }

    #[test]
    fn the_others_store_what_the_first_has_stored() {
        let echo = echo("INSERT INTO t SELECT $1, now() -- all;\n ; -- done").unwrap();
        assert_eq!(
            String::from_utf8_lossy(&echo.insert.text),
            "INSERT INTO t SELECT $1, now()\nRETURNING tableoid, ctid"
        );
        let place =
            |table: &str, row: &str| Place::parse(table.as_bytes(), row.as_bytes()).unwrap();
        let places = [
            place("7", "(0,2)"),
            place("5", "(1,1)"),
            place("7", "(0,1)"),
        ];
        let texts = echo.read(&places);
        let [five, seven] = &*texts else {
            panic!("{texts:?}")
        };
        let of = |text: &String| text.split("; ").nth(1).unwrap().to_owned();
        assert_eq!(
            [of(five), of(seven)],
            [
                "SELECT \"a\", \"C\" FROM \"s\".\"t\" WHERE tableoid = 5 AND ctid = ANY ('{\"(1,1)\"}'::pg_catalog.tid[])",
                "SELECT \"a\", \"C\" FROM \"s\".\"t\" WHERE tableoid = 7 AND ctid = ANY ('{\"(0,2)\",\"(0,1)\"}'::pg_catalog.tid[])",
            ]
        );
        let rows = vec![vec![Some(b"1".to_vec()), None]; 2];
        let text = echo.put(&rows).unwrap().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&text),
            "INSERT INTO \"s\".\"t\" (\"a\", \"C\") OVERRIDING SYSTEM VALUE VALUES ('1', NULL), ('1', NULL)"
        );
        assert_eq!(echo.put(&[]).unwrap(), None);
        let many = vec![place("5", "(1,1)"); ROWS_MAX + 1];
        assert_eq!(echo.read(&many).len(), 2);
    }

    #[test]
    fn what_returns_or_changes_rows_is_left_alone() {
        assert!(echo("INSERT INTO t SELECT 1 RETURNING a").is_err());
        assert!(echo(
            "INSERT INTO t SELECT (WITH x AS (DELETE FROM u RETURNING a) SELECT a FROM x)"
        )
        .is_ok());
        let money = [column("a", oid::MONEY, false)];
        assert!(Echo::new(
            b"INSERT INTO t SELECT 1",
            Dialect::default(),
            ("s", "t"),
            &money
        )
        .is_err());
        for (sql, may) in [
            ("INSERT INTO t SELECT 1", true),
            ("INSERT INTO t SELECT 1 ON CONFLICT DO NOTHING", true),
            (
                "INSERT INTO t SELECT 1 ON CONFLICT (a) DO UPDATE SET a = 1",
                false,
            ),
            ("INSERT INTO t VALUES (1)", false),
            ("WITH x AS (INSERT INTO t SELECT 1) SELECT 1", false),
            ("UPDATE t SET a = 1", false),
        ] {
            let mut cache = Cache::new(0, 0);
            let analysed = cache.analyse(sql.as_bytes(), Dialect::default());
            let statements = analysed.analysis.statements.as_ref().unwrap();
            let keys = statements[0].keys.as_deref().unwrap();
            assert_eq!(may_be_echoed(&keys.writes[0]), may, "{sql}");
        }
    }
}
