//! What type PostgreSQL gives to the values of a list in FROM before they are cast.

use super::{cast, span, Parameters, Value};
use crate::sql::cursor::Cursor;
use crate::sql::lexer::{Dialect, Kind, Token};
use crate::types::oid;

/// How PostgreSQL reads the values of one column of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// As if each were alone.
    Alone,
    /// As of this type: those that are not are made so first.
    Common(u32),
    /// Each is cast to this type.
    Cast(Vec<u8>),
}

/// One value of a column, by what its type depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kindred {
    /// NULL fits to all.
    Null,
    Text,
    Bool,
    /// A number, of this type.
    Number(u32),
    /// A parameter as it is declared, 0 for an open one.
    Parameter(u32),
    Cast(Vec<u8>),
}

impl Column {
    pub(super) fn of(
        text: &[u8],
        dialect: Dialect,
        rows: &[Vec<Value>],
        position: usize,
        columns: usize,
        parameters: Parameters<'_>,
    ) -> Option<Self> {
        let mut known = Kindred::Null;
        let mut differ = false;
        for row in rows {
            let value = row.get(position).filter(|_| row.len() == columns)?;
            let found = Kindred::of(text, dialect, value, parameters)?;
            match (&mut known, found) {
                (_, Kindred::Null) => {}
                (Kindred::Null, found) => known = found,
                (Kindred::Number(known), Kindred::Number(found))
                | (Kindred::Parameter(known), Kindred::Parameter(found)) => {
                    differ |= *known != found;
                    *known = common(*known, found)?;
                }
                (known, found) if *known == found => {}
                _ => return None,
            }
        }
        Some(match known {
            Kindred::Cast(of) => Self::Cast(of),
            Kindred::Number(of) | Kindred::Parameter(of) if differ => Self::Common(of),
            _ => Self::Alone,
        })
    }
}

impl Kindred {
    /// Has it another type than this?
    pub(super) fn is_other(&self, of: u32) -> bool {
        matches!(self, Self::Number(own) | Self::Parameter(own) if *own != of)
    }

    pub(super) fn of(
        text: &[u8],
        dialect: Dialect,
        value: &[Token],
        parameters: Parameters<'_>,
    ) -> Option<Self> {
        let word = |token: &Token, word: &str| token.is_word(text, word);
        match value {
            [one] => Some(match one.kind {
                // N'…' has a type.
                Kind::String if one.of(text).first() != Some(&b'\'') => return None,
                Kind::String | Kind::EscapeString | Kind::UnicodeString | Kind::DollarString => {
                    Self::Text
                }
                Kind::Number => Self::Number(type_of(one.of(text))?),
                Kind::Parameter => Self::Parameter(parameters.get(one.of(text))?),
                _ if word(one, "null") => Self::Null,
                _ if word(one, "true") || word(one, "false") => Self::Bool,
                _ => return None,
            }),
            [sign, number]
                if sign.kind == Kind::Operator
                    && sign.of(text) == b"-"
                    && number.kind == Kind::Number =>
            {
                Some(Self::Number(type_of(number.of(text))?))
            }
            // A constant or parameter with its type.
            [one, colon, other, ..] if colon.of(text) == b":" && other.of(text) == b":" => {
                let constant = matches!(
                    one.kind,
                    Kind::String
                        | Kind::EscapeString
                        | Kind::UnicodeString
                        | Kind::DollarString
                        | Kind::BitString
                        | Kind::Number
                        | Kind::Parameter
                );
                (constant || word(one, "null")).then_some(())?;
                let all = text.get(span(value)?)?;
                let mut cursor = Cursor::new(all, dialect);
                cursor.advance();
                let of = cast(&mut cursor)?;
                cursor.at_end().then_some(())?;
                Some(Self::Cast(spelled(all.get(of)?)))
            }
            _ => None,
        }
    }
}

/// A type, so that equal ones are spelled alike.
pub(super) fn spelled(name: &[u8]) -> Vec<u8> {
    match name.contains(&b'"') {
        true => name.to_vec(),
        false => name.to_ascii_lowercase(),
    }
}

/// The type of a number without sign.
///
/// Source: PostgreSQL's documentation, "Numeric Constants".
fn type_of(number: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(number).ok()?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Not 0x10 nor 1_000, which not all releases have.
        let decimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
        return text.bytes().all(decimal).then_some(oid::NUMERIC);
    }
    Some(if text.parse::<i32>().is_ok() {
        oid::INT4
    } else if text.parse::<i64>().is_ok() {
        oid::INT8
    } else {
        oid::NUMERIC
    })
}

/// The type of a column that has values of both; 0 is open.
///
/// Source: PostgreSQL's documentation, "UNION, CASE, and Related Constructs", which VALUES is.
fn common(one: u32, other: u32) -> Option<u32> {
    const WIDER: [u32; 4] = [oid::INT2, oid::INT4, oid::INT8, oid::NUMERIC];
    let place = |of: u32| WIDER.iter().position(|known| *known == of);
    match (one, other) {
        (one, other) if one == other => Some(one),
        (0, declared) | (declared, 0) => Some(declared),
        _ => WIDER.get(place(one)?.max(place(other)?)).copied(),
    }
}

/// Is the type called so?
pub(super) fn is_named(of: u32, name: &[u8]) -> bool {
    let name = spelled(name);
    names_of(of).iter().any(|known| known.as_bytes() == name)
}

/// What a type of PostgreSQL's own is called; none if it is not known here.
pub(super) fn names_of(of: u32) -> &'static [&'static str] {
    match of {
        oid::BOOL => &["bool", "boolean"],
        oid::BYTEA => &["bytea"],
        oid::INT2 => &["int2", "smallint"],
        oid::INT4 => &["int4", "int", "integer"],
        oid::INT8 => &["int8", "bigint"],
        oid::TEXT => &["text"],
        oid::VARCHAR => &["varchar"],
        oid::FLOAT4 => &["float4", "real"],
        oid::FLOAT8 => &["float8", "double precision"],
        oid::NUMERIC => &["numeric", "decimal"],
        oid::DATE => &["date"],
        oid::TIME => &["time"],
        oid::TIMETZ => &["timetz"],
        oid::TIMESTAMP => &["timestamp"],
        oid::TIMESTAMPTZ => &["timestamptz", "timestamp with time zone"],
        oid::INTERVAL => &["interval"],
        oid::UUID => &["uuid"],
        oid::JSON => &["json"],
        oid::JSONB => &["jsonb"],
        _ => &[],
    }
}
