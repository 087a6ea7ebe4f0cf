//! PostgreSQL's values by type, in text and binary format: read, compared in the server's order, added.
//!
//! Values that are only compared are not decoded into Rust values but into **keys** ([`key`]): bytes whose plain order
//! is the type's order and whose equality is the type's equality. Values that are computed with are integers, floats
//! and [`numeric`]s.
//!
//! Text is read as PostgreSQL writes it with its default settings (`DateStyle` ISO, `IntervalStyle` postgres,
//! `bytea_output` either). Each of those forms can be told from the forms of the other settings, so that a session with
//! another setting gets an error here, never another order. The exception is `extra_float_digits` below 1, which rounds
//! before we see the value: [`Session`] says whether that may be.

pub mod array;
pub mod canonical;
pub mod contents;
pub mod datetime;
pub mod enums;
mod float;
mod json;
pub mod key;
pub mod network;
pub mod numeric;
pub mod shape;
pub mod text;

use crate::protocol::sqlstate::SqlState;

pub use float::{put_float4_text, put_float8_text};

/// OIDs of the types that PostgreSQL itself defines.
///
/// Source: <https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat>
pub mod oid {
    #![expect(missing_docs, reason = "named as the types are")]
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const CHAR: u32 = 18;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const CIDR: u32 = 650;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const UNKNOWN: u32 = 705;
    pub const MACADDR8: u32 = 774;
    pub const MONEY: u32 = 790;
    pub const MACADDR: u32 = 829;
    pub const INET: u32 = 869;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const INTERVAL: u32 = 1186;
    pub const TIMETZ: u32 = 1266;
    pub const BIT: u32 = 1560;
    pub const VARBIT: u32 = 1562;
    pub const MONEY_ARRAY: u32 = 791;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
    pub const PG_LSN: u32 = 3220;
    pub const JSON: u32 = 114;
    pub const JSONB: u32 = 3802;

    /// From here on OIDs are given to types of users, each server in its own way.
    pub const FIRST_OF_USERS: u32 = 16384;
}

/// How a value is written on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// As the type's output function writes it.
    Text,
    /// As the type's send function writes it.
    Binary,
}

impl Format {
    /// The format of a code in RowDescription or Bind. Others than 0 and 1 do not exist.
    pub const fn of(code: i16) -> Option<Self> {
        match code {
            0 => Some(Self::Text),
            1 => Some(Self::Binary),
            _ => None,
        }
    }
}

/// A value that is not written as its type and format are: by a broken server, or under a setting that we do not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// Has the catalogue told what depends on it?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Known {
    /// Each shard has been asked.
    Yes,
    /// One could not be asked, or did not answer: it may later.
    NotYet,
    /// One refuses to tell, with this code, for as long as the user may not read its catalogue.
    Refused(SqlState),
}

/// What is known of the sessions on the shards, which all have the same settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// Has the catalogue told what values are compared by? Otherwise nothing is known of collations, and of types of users maybe nothing.
    pub known: Known,
    /// Is text of the default collation ordered by its bytes (C, POSIX, C.UTF-8, a builtin collation), and does no
    /// column have another collation? Also needs the client's encoding to be the server's.
    pub text_ordered_by_bytes: bool,
    /// Is text equal only when its bytes are (every collation that a column may have is deterministic)?
    pub text_equal_by_bytes: bool,
    /// Is a float written with all its digits (`extra_float_digits` from 1, the default)?
    pub floats_exact: bool,
}

/// Asks a server, connected to a database, for [`Session::text_ordered_by_bytes`] and
/// [`Session::text_equal_by_bytes`], both `f` when a column or type has a collation that may differ, and whether no table
/// or type of users has another collation than the database's: three booleans.
///
/// Source: <https://www.postgresql.org/docs/current/catalog-pg-collation.html>
pub const COLLATIONS_QUERY: &str = "
WITH used AS (
    SELECT attcollation AS id FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped AND attcollation <> 0
    UNION SELECT typcollation FROM pg_type WHERE typcollation <> 0
), known AS (
    SELECT c.collprovider = 'd' AND coalesce(to_jsonb(d)->>'datlocprovider', 'c') IN ('c', 'b')
           AND d.datcollate IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8')
           OR c.collprovider IN ('c', 'b') AND coalesce(c.collcollate, 'C') IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8')
           AS by_bytes,
           coalesce((to_jsonb(c)->>'collisdeterministic')::bool, true) AS deterministic
    FROM used JOIN pg_collation c ON c.oid = used.id, pg_database d
    WHERE d.datname = current_database()
)
SELECT coalesce(bool_and(by_bytes), false), coalesce(bool_and(deterministic), false), NOT EXISTS (
    SELECT FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid
    WHERE r.oid >= 16384 AND r.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped
          AND a.attcollation NOT IN (0, 100) AND a.atttypid <> 'name'::regtype
) AND NOT EXISTS (
    SELECT FROM pg_type t WHERE t.oid >= 16384 AND t.typcollation NOT IN (0, 100) AND t.typbasetype <> 'name'::regtype
) FROM known";

impl Session {
    /// Nothing is known of the collations; everything else is PostgreSQL's default.
    pub const DEFAULT: Self = Self {
        known: Known::Yes,
        text_ordered_by_bytes: false,
        text_equal_by_bytes: false,
        floats_exact: true,
    };
}

/// Reads `text` as a decimal integer of at most 19 digits with an optional minus.
fn integer(text: &[u8]) -> Result<i64, Invalid> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return Err(Invalid);
    }
    let value = digits.iter().try_fold(0i64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        let value = value.checked_mul(10)?;
        // Downwards for negative values: the least has no positive counterpart.
        if negative {
            value.checked_sub(digit)
        } else {
            value.checked_add(digit)
        }
    });
    value.ok_or(Invalid)
}

/// Reads an integer of a type with this many bytes: 2, 4 or 8.
pub fn read_integer(format: Format, bytes: usize, value: &[u8]) -> Result<i64, Invalid> {
    match (format, bytes) {
        (Format::Text, _) => integer(value),
        (Format::Binary, 2) => fixed(value).map(|b| i64::from(i16::from_be_bytes(b))),
        (Format::Binary, 4) => fixed(value).map(|b| i64::from(i32::from_be_bytes(b))),
        (Format::Binary, _) => fixed(value).map(i64::from_be_bytes),
    }
}

/// Reads a float4; its text form is the shortest that gives it back.
pub fn read_float4(format: Format, value: &[u8]) -> Result<f32, Invalid> {
    match format {
        Format::Binary => fixed(value).map(f32::from_be_bytes),
        Format::Text => float_text(value)?.parse().map_err(|_| Invalid),
    }
}

/// Reads a float8.
pub fn read_float8(format: Format, value: &[u8]) -> Result<f64, Invalid> {
    match format {
        Format::Binary => fixed(value).map(f64::from_be_bytes),
        Format::Text => float_text(value)?.parse().map_err(|_| Invalid),
    }
}

/// Rust reads what PostgreSQL writes, and more (`inf`, `+1`): the first byte tells.
fn float_text(value: &[u8]) -> Result<&str, Invalid> {
    let text = std::str::from_utf8(value).map_err(|_| Invalid)?;
    match text.strip_prefix('-').unwrap_or(text).as_bytes() {
        [b'0'..=b'9', ..] | b"NaN" | b"Infinity" => Ok(text),
        _ => Err(Invalid),
    }
}

/// Reads a bool.
pub const fn read_bool(format: Format, value: &[u8]) -> Result<bool, Invalid> {
    match (format, value) {
        (Format::Text, b"t") | (Format::Binary, [1]) => Ok(true),
        (Format::Text, b"f") | (Format::Binary, [0]) => Ok(false),
        _ => Err(Invalid),
    }
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Invalid> {
    value.try_into().map_err(|_| Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_in_full_or_not_at_all() {
        let check = |text: &str, expected| assert_eq!(integer(text.as_bytes()), expected, "{text}");
        check("0", Ok(0));
        check("-9223372036854775808", Ok(i64::MIN));
        check("9223372036854775807", Ok(i64::MAX));
        for text in [
            "9223372036854775808",
            "",
            "-",
            "+1",
            " 1",
            "1.0",
            "1e3",
            "--1",
        ] {
            check(text, Err(Invalid));
        }
        assert_eq!(read_integer(Format::Binary, 2, &[0xff, 0xfe]), Ok(-2));
        assert_eq!(read_integer(Format::Binary, 4, &[0xff, 0xfe]), Err(Invalid));
    }

    #[test]
    fn floats_are_read_in_their_own_spelling_only() {
        let read = |text: &str| read_float8(Format::Text, text.as_bytes());
        assert_eq!(read("1e+15"), Ok(1e15));
        assert_eq!(read("-Infinity"), Ok(f64::NEG_INFINITY));
        assert!(read("NaN").unwrap().is_nan());
        for text in ["inf", "nan", "+1", "", "-", ".5", "Infinityx"] {
            assert_eq!(read(text), Err(Invalid), "{text}");
        }
    }
}
