//! Rows that are asked for before the query that needs them, as a table expression for its text.
//!
//! ```text
//! (SELECT a0::int8 AS "id", a1::text AS "name"
//!  FROM ROWS FROM (pg_catalog.unnest(E'{"1","2"}'::text[]), pg_catalog.unnest(E'{"o''k",NULL}'::text[])) AS g(a0, a1))
//! ```
//!
//! Values are in PostgreSQL's own text form, which its types read as they write it. Types that are not known here, and
//! forms that may not be read back, are refused.

use std::sync::Arc;

use super::{not_known, refused};
use crate::error::{Error, Fault};
use crate::protocol::backend::tag;
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::rows::{DataRow, Field, RowDescription};
use crate::protocol::sqlstate::SqlState;
use crate::types::array::element_type;
use crate::types::enums::{Enums, UserType};
use crate::types::{oid, Known};

/// Bytes of a type's modifier that are not the type's own.
const MODIFIER_BYTES: i32 = 4;

/// What bounds, and what must be known to read values back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Terms {
    /// Has the catalogue told of types and collations?
    pub known: Known,
    /// Bytes of the expression.
    pub bytes_max: usize,
    /// Dates are written in ISO style.
    pub iso_dates: bool,
    /// Floats are written with all digits.
    pub floats_exact: bool,
    /// Texts have the database's collation, or all collations compare bytes: what a value carries with it is enough.
    pub plain_collations: bool,
    /// A backslash may be the second byte of a character.
    pub overlapping: bool,
}

/// Rows that are being gathered.
#[derive(Debug)]
pub struct Gathered {
    terms: Terms,
    enums: Arc<Enums>,
    columns: Vec<Column>,
    bytes: usize,
    /// What cannot be done otherwise.
    why: Option<Error>,
}

#[derive(Debug)]
struct Column {
    /// As an identifier in quotes.
    name: Vec<u8>,
    type_name: String,
    /// Inside of `E'{…}'`.
    array: Vec<u8>,
}

impl Gathered {
    /// No rows yet. `enums` are those of the server that describes them.
    pub const fn new(terms: Terms, enums: Arc<Enums>) -> Self {
        Self {
            terms,
            enums,
            columns: Vec::new(),
            bytes: 0,
            why: None,
        }
    }

    /// This is told where rows cannot be gathered for their types.
    #[must_use]
    pub fn because(self, why: Option<Error>) -> Self {
        Self { why, ..self }
    }

    /// Takes a whole message of a merged reply: the description of rows, a row, or another.
    ///
    /// Errors: 0A000 for a type that is not known, 53200 for too many rows.
    pub fn take(&mut self, message: &[u8]) -> Result<(), Error> {
        let body = message.get(HEADER_BYTES..).unwrap_or_default();
        match message.first() {
            Some(&tag::ROW_DESCRIPTION) => {
                let description = RowDescription::parse(body)?;
                for field in description.fields() {
                    self.columns.push(self.column(field?)?);
                }
                if self.columns.is_empty() {
                    return Err(refused("a subquery without columns"));
                }
            }
            Some(&tag::DATA_ROW) => {
                let row = DataRow::parse(body)?;
                for (column, value) in self.columns.iter_mut().zip(row.values()) {
                    let before = column.array.len();
                    column.put(value?, self.terms.overlapping)?;
                    self.bytes += column.array.len() - before;
                }
                if self.bytes > self.terms.bytes_max {
                    return Err(too_many(self.terms.bytes_max));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn column(&self, field: Field<'_>) -> Result<Column, Error> {
        let unknown = || {
            let why = self.why.clone();
            let error = why.unwrap_or_else(|| refused("gathering values of this type"));
            error.detail(format!(
                "Type {} cannot be written into a query by pgdog.",
                field.type_oid
            ))
        };
        let type_name = match self.enums.get(field.type_oid) {
            Some(UserType::Enum(described)) => Some(described.name().to_owned()),
            Some(UserType::Array(described)) => Some(format!("{}[]", described.name())),
            None => type_name(field.type_oid, field.type_modifier),
        };
        let is_known = self.terms.known == Known::Yes;
        let not_yet = || not_known("how values are written into a query", self.terms.known);
        let type_name =
            type_name.ok_or_else(|| match is_known || field.type_oid < oid::FIRST_OF_USERS {
                true => unknown(),
                false => not_yet(),
            })?;
        let element = element_type(field.type_oid).unwrap_or(field.type_oid);
        let known = match element {
            oid::FLOAT4 | oid::FLOAT8 => self.terms.floats_exact,
            oid::DATE | oid::TIMESTAMP | oid::TIMESTAMPTZ => self.terms.iso_dates,
            oid::TEXT | oid::VARCHAR | oid::BPCHAR if is_known => self.terms.plain_collations,
            oid::TEXT | oid::VARCHAR | oid::BPCHAR => return Err(not_yet()),
            _ => true,
        };
        if !known {
            return Err(refused(
                "gathering values that are written under these settings or collations",
            ));
        }
        let mut name = vec![b'"'];
        for byte in field.name {
            name.push(*byte);
            if *byte == b'"' {
                name.push(b'"');
            }
        }
        name.push(b'"');
        Ok(Column {
            name,
            type_name,
            array: Vec::new(),
        })
    }

    /// Bytes of memory.
    pub const fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Appends the table expression.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"(SELECT ");
        for (index, column) in self.columns.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            out.extend_from_slice(format!("{comma}a{index}::{} AS ", column.type_name).as_bytes());
            out.extend_from_slice(&column.name);
        }
        out.extend_from_slice(b" FROM ROWS FROM (");
        for (index, column) in self.columns.iter().enumerate() {
            let comma: &[u8] = if index > 0 { b", " } else { b"" };
            out.extend_from_slice(comma);
            out.extend_from_slice(b"pg_catalog.unnest(E'{");
            out.extend_from_slice(&column.array);
            out.extend_from_slice(b"}'::text[])");
        }
        out.extend_from_slice(b") AS g(");
        for index in 0..self.columns.len() {
            let comma = if index > 0 { ", " } else { "" };
            out.extend_from_slice(format!("{comma}a{index}").as_bytes());
        }
        out.extend_from_slice(b"))");
    }
}

impl Column {
    /// An element of an array in a string with escapes.
    fn put(&mut self, value: Option<&[u8]>, overlapping: bool) -> Result<(), Error> {
        let out = &mut self.array;
        if !out.is_empty() {
            out.push(b',');
        }
        let Some(value) = value else {
            out.extend_from_slice(b"NULL");
            return Ok(());
        };
        if overlapping && !value.is_ascii() {
            return Err(refused("gathering texts in this encoding"));
        }
        out.push(b'"');
        for &byte in value {
            match byte {
                b'"' => out.extend_from_slice(br#"\\""#),
                b'\\' => out.extend_from_slice(br"\\\\"),
                b'\'' => out.extend_from_slice(b"''"),
                byte => out.push(byte),
            }
        }
        out.push(b'"');
        Ok(())
    }
}

fn too_many(bytes_max: usize) -> Error {
    Error::error(
        Fault::Proxy,
        SqlState::OUT_OF_MEMORY,
        "rows that the query needs from other shards take too much memory",
    )
    .detail(format!("They need more than {bytes_max} bytes."))
}

/// The text of a query in which the rows of `gathered[i]` stand where `name(i)` does.
pub fn with_rows(text: &str, gathered: &[Gathered], name: impl Fn(usize) -> String) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    let prefix = name(0);
    let prefix = prefix.trim_end_matches('0');
    while let Some(at) = memchr::memmem::find(rest, prefix.as_bytes()) {
        let (before, found) = rest.split_at(at);
        out.extend_from_slice(before);
        let digits = found.get(prefix.len()..).unwrap_or_default();
        let count = digits
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let number = std::str::from_utf8(digits.get(..count).unwrap_or_default());
        let number = number.ok().and_then(|number| number.parse::<usize>().ok());
        if let Some(rows) = number.and_then(|number| gathered.get(number)) {
            rows.put(&mut out);
        }
        rest = digits.get(count..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

/// What a type is called in SQL, with its modifier. `None` for those that are not known to read what they write.
///
/// Source: <https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat>
fn type_name(type_oid: u32, modifier: i32) -> Option<String> {
    let array = element_type(type_oid).map(|element| (element, "[]"));
    let (type_oid, dimensions) = array.unwrap_or((type_oid, ""));
    let length = |name: &str| match modifier {
        -1 => name.to_owned(),
        modifier => format!("{name}({})", modifier - MODIFIER_BYTES),
    };
    let digits = |name: &str, rest: &str| match modifier {
        -1 => format!("{name}{rest}"),
        modifier => format!("{name}({modifier}){rest}"),
    };
    let plain = |name: &str| (modifier == -1).then(|| name.to_owned());
    let name = match type_oid {
        oid::BOOL => plain("bool")?,
        oid::BYTEA => plain("bytea")?,
        oid::CHAR => plain("\"char\"")?,
        oid::NAME => plain("name")?,
        oid::INT8 => plain("int8")?,
        oid::INT2 => plain("int2")?,
        oid::INT4 => plain("int4")?,
        oid::TEXT => plain("text")?,
        oid::OID => plain("oid")?,
        oid::FLOAT4 => plain("float4")?,
        oid::FLOAT8 => plain("float8")?,
        oid::DATE => plain("date")?,
        oid::INTERVAL => plain("interval")?,
        oid::UUID => plain("uuid")?,
        oid::INET => plain("inet")?,
        oid::MACADDR => plain("macaddr")?,
        oid::CIDR => plain("cidr")?,
        oid::MACADDR8 => plain("macaddr8")?,
        oid::JSON => plain("json")?,
        oid::JSONB => plain("jsonb")?,
        3904 => plain("int4range")?,
        3906 => plain("numrange")?,
        3926 => plain("int8range")?,
        oid::VARCHAR => length("varchar"),
        oid::BPCHAR => length("bpchar"),
        oid::TIME => digits("time", ""),
        oid::TIMETZ => digits("time", " with time zone"),
        oid::TIMESTAMP => digits("timestamp", ""),
        oid::TIMESTAMPTZ => digits("timestamp", " with time zone"),
        oid::NUMERIC if modifier == -1 => "numeric".to_owned(),
        oid::NUMERIC => {
            let modifier = modifier.checked_sub(MODIFIER_BYTES)?;
            let (precision, scale) = (modifier >> 16 & 0xffff, modifier & 0x7ff);
            // 11 bits with a sign, since 15.
            let scale = (scale ^ 1024) - 1024;
            format!("numeric({precision},{scale})")
        }
        _ => return None,
    };
    Some(format!("{name}{dimensions}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        known: Known::Yes,
        bytes_max: 100,
        iso_dates: true,
        floats_exact: true,
        plain_collations: true,
        overlapping: false,
    };

    fn gathered(
        fields: &[(&str, u32, i32)],
        rows: &[&[Option<&str>]],
        terms: Terms,
    ) -> Result<Gathered, Error> {
        let mut gathered = Gathered::new(terms, Arc::default());
        let mut message = Vec::new();
        let field = |(name, type_oid, type_modifier): &(&'static str, u32, i32)| Field {
            type_oid: *type_oid,
            type_modifier: *type_modifier,
            ..Field::text(name.as_bytes())
        };
        let fields: Vec<(&'static str, u32, i32)> = fields
            .iter()
            .map(|(name, a, b)| (&*name.to_string().leak(), *a, *b))
            .collect();
        RowDescription::encode(&mut message, fields.iter().map(field));
        gathered.take(&message)?;
        for row in rows {
            let mut message = Vec::new();
            DataRow::encode(
                &mut message,
                row.iter().map(|value| value.map(str::as_bytes)),
            );
            gathered.take(&message)?;
        }
        Ok(gathered)
    }

    #[test]
    fn rows_stand_where_their_name_does() {
        let fields = [("a \"b\"", oid::INT4, -1), ("t", oid::TEXT, -1)];
        let rows: [&[Option<&str>]; 2] = [&[Some("1"), Some("o'\\\"")], &[None, Some("")]];
        let first = gathered(&fields, &rows, TERMS).unwrap();
        let second = gathered(&[("n", oid::NUMERIC, 655_366)], &[], TERMS).unwrap();
        let text = with_rows("FROM x1 y, x0", &[first, second], |index| {
            format!("x{index}")
        });
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "FROM (SELECT a0::numeric(10,2) AS \"n\" FROM ROWS FROM (pg_catalog.unnest(E'{}'::text[])) AS g(a0)) y, \
             (SELECT a0::int4 AS \"a \"\"b\"\"\", a1::text AS \"t\" FROM ROWS FROM (pg_catalog.unnest(E'{\"1\",NULL}'::text[]), \
             pg_catalog.unnest(E'{\"o''\\\\\\\\\\\\\"\",\"\"}'::text[])) AS g(a0, a1))"
        );
    }

    #[test]
    fn what_may_not_be_read_back_is_refused() {
        let check = |type_oid, modifier, terms: Terms, expected: Option<&str>| {
            let found = gathered(&[("x", type_oid, modifier)], &[], terms);
            let found = found.map(|found| found.columns[0].type_name.clone());
            assert_eq!(found.ok().as_deref(), expected, "{type_oid}");
        };
        check(oid::VARCHAR, 24, TERMS, Some("varchar(20)"));
        check(1231, 655_366, TERMS, Some("numeric(10,2)[]"));
        check(
            oid::TIMESTAMPTZ,
            3,
            TERMS,
            Some("timestamp(3) with time zone"),
        );
        check(oid::INTERVAL, 3, TERMS, None);
        check(oid::FIRST_OF_USERS, -1, TERMS, None);
        check(oid::MONEY, -1, TERMS, None);
        let terms = Terms {
            iso_dates: false,
            floats_exact: false,
            plain_collations: false,
            ..TERMS
        };
        for type_oid in [oid::DATE, 1185, oid::FLOAT4, oid::TEXT, 1015] {
            check(type_oid, -1, terms, None);
        }
        check(oid::INT8, -1, terms, Some("int8"));
    }

    #[test]
    fn too_many_rows_are_an_error() {
        let row: &[Option<&str>] = &[Some("123456789")];
        let error = gathered(&[("x", oid::TEXT, -1)], &[row; 9], TERMS).unwrap_err();
        assert_eq!(error.code.as_str(), "53200");
    }
}
