//! INSERT of a query's rows into a table that is everywhere, where each server would find or make others: the first one does it, and
//! the others store what it has stored.
//!
//! ```text
//! first shard   the INSERT, which says where its rows are
//!               SELECT of all their columns, as texts that mean the same under all settings
//! all others    INSERT of these
//! first shard   SELECT of what is to be returned, in the order of the INSERT
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use crate::error::{Error, Fault};
use crate::merge::refused;
use crate::protocol::sqlstate::SqlState;
use crate::sql::insert_rows::{renumber, InsertPart};
use crate::sql::keys::{Change, Rows, Write};
use crate::sql::lexer::Dialect;
use crate::sql::quote;
use crate::sql::update_parts::{UpdateParts, RETURNING};
use crate::types::oid;

use super::moves::{parameters, Place, Target};
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
    /// The table with its alias, and what is returned of it.
    returning: Option<(String, Vec<u8>)>,
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
    /// Errors: what it returns has parameters, or values have a type whose text means something else elsewhere (0A000).
    pub fn new(
        text: &[u8],
        dialect: Dialect,
        target: Target<'_>,
        columns: &[TableColumn],
    ) -> Result<Self, Error> {
        let what = "RETURNING of an INSERT … SELECT that each shard would do otherwise";
        let parts = UpdateParts::of(text, dialect).ok_or_else(|| refused(what))?;
        // What type an open one has depends on where it stands first.
        let has_parameter = |text| parameters(text, dialect).next().is_some();
        if parts.returning.is_some_and(has_parameter) {
            return Err(refused(what));
        }
        let table = target.quoted();
        let alias = target
            .alias
            .map(|alias| format!(" AS {}", quote::name(alias)));
        let named = format!("{table}{}", alias.unwrap_or_default());
        let returned = parts
            .returning
            .and_then(|returning| returning.get(RETURNING.len()..));
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
        let insert = [parts.change, b"\nRETURNING tableoid, ctid"].concat();
        Ok(Self {
            insert: renumber(&insert, dialect),
            table,
            columns: names.join(", "),
            returning: returned.map(|returned| (named, returned.to_vec())),
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

    /// What the first server gives back of these rows, in their order. `None`: nothing.
    pub fn returning(&self, places: &[Place]) -> Option<InsertPart> {
        let (table, returned) = self.returning.as_ref()?;
        let mut numbers = String::new();
        let mut tables: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (at, place) in places.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(numbers, "{comma}\"{} {}\":{at}", place.table, place.row);
            let rows = tables.entry(place.table).or_default();
            rows.push(format!("\"{}\"", place.row));
        }
        let mut text = [b"SELECT", &**returned].concat();
        let _ = write!(text, "\nFROM {table} WHERE false");
        for (table, rows) in &tables {
            let rows = rows.join(",");
            let _ = write!(
                text,
                " OR tableoid = {table} AND ctid = ANY ('{{{rows}}}'::pg_catalog.tid[])"
            );
        }
        let _ = write!(
            text,
            " ORDER BY ('{{{numbers}}}'::pg_catalog.jsonb ->> (tableoid || ' ' || ctid))::pg_catalog.int8"
        );
        Some(renumber(&text, self.dialect))
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
                let value = quote::value(value.as_deref(), self.dialect);
                let what = "a value that a server gives, in this client_encoding,";
                text.extend(value.ok_or_else(|| refused(what))?);
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
            maker: Maker::Nothing,
            default: None,
            generated,
            always: false,
            type_oid,
            primary: false,
            ..TableColumn::default()
        }
    }

    const TARGET: Target<'_> = Target {
        schema: Some("s"),
        name: "t",
        alias: None,
    };

    fn echo(text: &str) -> Result<Echo, Error> {
        let columns = [
            column("a", oid::INT8, false),
            column("b", 0, true),
            column("C", 0, false),
        ];
        Echo::new(text.as_bytes(), Dialect::default(), TARGET, &columns)
    }

    #[test]
    fn the_others_store_what_the_first_has_stored() {
        let plain = echo("INSERT INTO t SELECT $1, now() -- all;\n ; -- done").unwrap();
        assert_eq!(
            String::from_utf8_lossy(&plain.insert.text),
            "INSERT INTO t SELECT $1, now()\nRETURNING tableoid, ctid"
        );
        let place =
            |table: &str, row: &str| Place::parse(table.as_bytes(), row.as_bytes()).unwrap();
        let places = [
            place("7", "(0,2)"),
            place("5", "(1,1)"),
            place("7", "(0,1)"),
        ];
        let texts = plain.read(&places);
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
        let text = plain.put(&rows).unwrap().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&text),
            "INSERT INTO \"s\".\"t\" (\"a\", \"C\") OVERRIDING SYSTEM VALUE VALUES ('1', NULL), ('1', NULL)"
        );
        assert_eq!(plain.put(&[]).unwrap(), None);
        assert_eq!(plain.returning(&places), None);
        let echo = echo("INSERT INTO t SELECT 1 RETURNING a, now() AS \"n\";").unwrap();
        let returned = echo.returning(&places[..2]).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&returned.text),
            "SELECT a, now() AS \"n\"\nFROM \"s\".\"t\" WHERE false OR tableoid = 5 AND ctid = ANY ('{\"(1,1)\"}'::pg_catalog.tid[]) \
            OR tableoid = 7 AND ctid = ANY ('{\"(0,2)\"}'::pg_catalog.tid[]) \
            ORDER BY ('{\"7 (0,2)\":0,\"5 (1,1)\":1}'::pg_catalog.jsonb ->> (tableoid || ' ' || ctid))::pg_catalog.int8"
        );
        let many = vec![place("5", "(1,1)"); ROWS_MAX + 1];
        assert_eq!(plain.read(&many).len(), 2);
    }

    #[test]
    fn what_returns_or_changes_rows_is_left_alone() {
        assert!(echo("INSERT INTO t SELECT 1 RETURNING a + $1").is_err());
        assert!(echo(
            "INSERT INTO t SELECT (WITH x AS (DELETE FROM u RETURNING a) SELECT a FROM x)"
        )
        .is_ok());
        let money = [column("a", oid::MONEY, false)];
        assert!(Echo::new(
            b"INSERT INTO t SELECT 1",
            Dialect::default(),
            TARGET,
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
