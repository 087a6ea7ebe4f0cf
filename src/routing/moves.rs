//! An UPDATE of a sharding key that moves a row to another shard: what the servers are told.
//!
//! ```text
//! old shard   the UPDATE, but for the key, which stays; it says where the row is
//!             do foreign keys hold the row? which columns has it?
//!             DELETE … RETURNING all columns, as texts that mean the same under all settings
//! new shard   INSERT of these with the key that the UPDATE gives, and its RETURNING
//! ```
//!
//! So expressions, triggers, and what PostgreSQL refuses are as they are without shards, but that triggers of the
//! UPDATE see the old key. One row is moved by a statement; more are refused.

use super::plainly::plainly;
use super::values::is_open;
use crate::error::{Error, Fault};
use crate::merge::refused;
use crate::protocol::sqlstate::SqlState;
use crate::sql::insert_rows::{renumber, InsertPart};
use crate::sql::lexer::{Dialect, Kind, Lexer};
use crate::sql::quote;
use crate::sql::update_parts::{assigned, UpdateParts};

/// What it takes to move a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moving {
    /// Where it goes.
    pub to: usize,
    /// The UPDATE without the key, which says where its rows are.
    pub update: InsertPart,
    /// The key's column.
    column: Box<str>,
    /// What it becomes, as it is written.
    value: Vec<u8>,
    table: String,
    alias: Option<String>,
    returning: Vec<u8>,
    dialect: Dialect,
}

/// The table that a change names.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// None: the search path decides.
    pub schema: Option<&'a str>,
    /// The table.
    pub name: &'a str,
    /// The name that its columns are qualified with, if it is another.
    pub alias: Option<&'a str>,
}

impl Target<'_> {
    /// The table, as it is written into statements.
    pub(super) fn quoted(&self) -> String {
        match self.schema {
            Some(schema) => format!("{}.{}", quote::name(schema), quote::name(self.name)),
            None => quote::name(self.name),
        }
    }
}

impl Moving {
    /// For an UPDATE of this text. `types`: those of its parameters, as far as they are declared.
    ///
    /// Errors: 0A000 where RETURNING and the key's value cannot be divided from the rest.
    pub fn new(
        text: &[u8],
        dialect: Dialect,
        target: Target<'_>,
        types: &[u32],
        (to, column): (usize, &str),
    ) -> Result<Self, Error> {
        let parts = UpdateParts::of(text, dialect);
        let parts = parts.ok_or_else(|| refused("RETURNING of an UPDATE that moves rows"))?;
        let returning = parts.returning.unwrap_or_default();
        let change = parts.change;
        let key = assigned(change, dialect, column);
        let key = key.ok_or_else(|| refused("this form of an UPDATE that moves rows"))?;
        let value = change.get(key.clone()).unwrap_or_default();
        let update = [
            change.get(..key.start).unwrap_or_default(),
            quote::name(column).as_bytes(),
            change.get(key.end..).unwrap_or_default(),
            b"\nRETURNING tableoid, ctid",
        ]
        .concat();
        // What PostgreSQL makes of an open type depends on where it stands first.
        for parameter in parameters(value, dialect).chain(parameters(returning, dialect)) {
            let digits = std::str::from_utf8(parameter.get(1..).unwrap_or_default());
            let number = digits.ok().and_then(|digits| digits.parse().ok());
            let open = number.is_none_or(|number| is_open(types, number));
            if open && parameters(&update, dialect).any(|other| other == parameter) {
                let what =
                    "a parameter of no declared type at several places of an UPDATE that moves rows";
                return Err(refused(what));
            }
        }
        Ok(Self {
            to,
            column: column.into(),
            value: value.to_vec(),
            update: renumber(&update, dialect),
            table: target.quoted(),
            alias: target.alias.map(quote::name),
            returning: returning.to_vec(),
            dialect,
        })
    }

    /// Asks the old shard for the columns of the table, in order: their names, whether their texts may mean something
    /// else elsewhere, and whether the row's table is one that inherits from the table, which is no partition.
    pub fn columns(&self, place: &Place) -> String {
        let table = quote::literal(self.table.as_bytes());
        let table = String::from_utf8_lossy(&table);
        format!(
            "SELECT a.attname, a.atttypid IN (790, 791), c.oid <> a.attrelid AND NOT c.relispartition \
             FROM pg_catalog.pg_attribute a, pg_catalog.pg_class c WHERE a.attrelid = {table}::pg_catalog.regclass \
             AND c.oid = {} AND a.attnum > 0 AND NOT a.attisdropped \
             AND coalesce(pg_catalog.to_jsonb(a) ->> 'attgenerated', '') = '' ORDER BY a.attnum",
            place.table
        )
    }

    /// Asks the old shard for foreign keys that do something to other rows when this one is deleted or its key changes:
    /// the name of each, and a query that says whether there are such rows.
    pub fn references(place: &Place) -> String {
        format!(
            "SELECT f.conname, 'SELECT EXISTS (SELECT 1 FROM ' || f.conrelid::pg_catalog.regclass || ' r, ' \
             || f.confrelid::pg_catalog.regclass || ' t WHERE t.tableoid = {table} AND t.ctid = ''{row}'' AND ' \
             || (SELECT pg_catalog.string_agg(pg_catalog.format('r.%I = t.%I', m.attname, n.attname), ' AND ') \
             FROM ROWS FROM (pg_catalog.unnest(f.conkey), pg_catalog.unnest(f.confkey)) k (mine, theirs) \
             JOIN pg_catalog.pg_attribute m ON m.attrelid = f.conrelid AND m.attnum = k.mine \
             JOIN pg_catalog.pg_attribute n ON n.attrelid = f.confrelid AND n.attnum = k.theirs) || ')' \
             FROM pg_catalog.pg_constraint f \
             WHERE f.contype = 'f' AND f.confrelid = {table} AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'))",
            table = place.table,
            row = place.row
        )
    }

    /// Takes the row from the old shard. Between two rows of settings it gives the row, all in text.
    pub fn take(&self, place: &Place, columns: &[Box<str>]) -> String {
        let names: Vec<_> = columns.iter().map(|column| quote::name(column)).collect();
        plainly(&format!(
            "DELETE FROM {} WHERE tableoid = {} AND ctid = '{}' RETURNING {}",
            self.table,
            place.table,
            place.row,
            names.join(", ")
        ))
    }

    /// Puts it onto the new shard.
    ///
    /// Errors: 0A000 for texts that cannot be quoted in the client's encoding.
    pub fn put(
        &self,
        columns: &[Box<str>],
        values: &[Option<Vec<u8>>],
    ) -> Result<InsertPart, Error> {
        let names: Vec<_> = columns.iter().map(|column| quote::name(column)).collect();
        let alias = self.alias.as_ref();
        let alias = alias.map_or_else(String::new, |alias| format!(" AS {alias}"));
        let mut text = format!(
            "INSERT INTO {}{alias} ({}) OVERRIDING SYSTEM VALUE VALUES (",
            self.table,
            names.join(", ")
        )
        .into_bytes();
        for (at, (value, column)) in values.iter().zip(columns).enumerate() {
            if at > 0 {
                text.extend_from_slice(b", ");
            }
            match value {
                _ if **column == *self.column => text.extend_from_slice(&self.value),
                _ => {
                    let value = quote::value(value.as_deref(), self.dialect);
                    let what = "a row that moves, in this client_encoding,";
                    text.extend(value.ok_or_else(|| refused(what))?);
                }
            }
        }
        text.extend_from_slice(b") ");
        text.extend_from_slice(&self.returning);
        Ok(renumber(&text, self.dialect))
    }
}

/// Where a row is on its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) table: u32,
    pub(super) row: String,
}

impl Place {
    /// Of `tableoid` and `ctid` as text; `None` for what these are not.
    pub fn parse(table: &[u8], row: &[u8]) -> Option<Self> {
        let row = std::str::from_utf8(row).ok()?;
        let of_place = |byte: u8| byte.is_ascii_digit() || b"(,)".contains(&byte);
        Some(Self {
            table: std::str::from_utf8(table).ok()?.parse().ok()?,
            row: row.bytes().all(of_place).then(|| row.to_owned())?,
        })
    }
}

/// More than one row has another key now.
pub fn too_many(rows: usize) -> Error {
    let text = format!("sharding key update matches {rows} rows");
    Error::error(Fault::Client, SqlState::CARDINALITY_VIOLATION, text)
}

/// What hangs on the row would not move with it.
pub fn held(foreign_key: &str) -> Error {
    let text = format!("row cannot move: referenced by foreign key \"{foreign_key}\"");
    Error::error(Fault::Client, SqlState::FEATURE_NOT_SUPPORTED, text)
}

pub(super) fn parameters(text: &[u8], dialect: Dialect) -> impl Iterator<Item = &[u8]> {
    let tokens = Lexer::new(text, dialect);
    tokens
        .filter(|token| token.kind == Kind::Parameter)
        .map(move |token| token.of(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: Target<'_> = Target {
        schema: Some("s"),
        name: "Us\"ers",
        alias: Some("u"),
    };

    fn moving(text: &str, types: &[u32]) -> Result<Moving, Error> {
        let to = (1, "id");
        Moving::new(text.as_bytes(), Dialect::default(), USERS, types, to)
    }

    #[test]
    fn a_row_is_taken_and_put() {
        let text = "UPDATE s.\"Us\"\"ers\" u SET id = $3 WHERE id = $2 RETURNING u.id, $1::int;";
        let moving = moving(text, &[]).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&moving.update.text),
            "UPDATE s.\"Us\"\"ers\" u SET id = \"id\" WHERE id = $1\nRETURNING tableoid, ctid"
        );
        assert_eq!(moving.update.parameters, [2]);
        let place = Place::parse(b"16384", b"(0,7)").unwrap();
        let columns = ["id".into(), "a b".into(), "c".into(), "d".into()];
        let taken = moving.take(&place, &columns);
        let delete = "; DELETE FROM \"s\".\"Us\"\"ers\" WHERE tableoid = 16384 AND ctid = '(0,7)' RETURNING \"id\", \"a b\", \"c\", \"d\"; SELECT ";
        assert!(taken.contains(delete), "{taken}");
        let values = [
            Some(b"5".to_vec()),
            None,
            Some(b"it's $1".to_vec()),
            Some(b"\\x00".to_vec()),
        ];
        let put = moving.put(&columns, &values).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&put.text),
            "INSERT INTO \"s\".\"Us\"\"ers\" AS \"u\" (\"id\", \"a b\", \"c\", \"d\") OVERRIDING SYSTEM VALUE \
             VALUES ($2, NULL, 'it''s $1', E'\\\\x00') RETURNING u.id, $1::int"
        );
        assert_eq!(put.parameters, [1, 3]);
    }

    #[test]
    fn what_cannot_be_divided_is_refused() {
        for (text, types, fits) in [
            (
                "UPDATE t SET id = 5, b = $1 RETURNING a, $1",
                &[][..],
                false,
            ),
            ("UPDATE t SET id = 5, b = $1 RETURNING a, $1", &[20], true),
            ("UPDATE t SET id = $1 RETURNING a, $1", &[], true),
            ("UPDATE t SET id = $1 WHERE id < $1", &[], false),
            ("UPDATE t SET id = $1 WHERE id < $1", &[20], true),
            ("UPDATE t SET id = 5 RETURNING old.id", &[], false),
        ] {
            assert_eq!(moving(text, types).is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn only_places_are_places() {
        assert!(Place::parse(b"1", b"(0,1)").is_some());
        assert!(Place::parse(b"x", b"(0,1)").is_none());
        assert!(Place::parse(b"1", b"(0,1)' OR ''='").is_none());
    }
}
