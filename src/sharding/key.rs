//! Sharding keys: what a client wrote, made canonical.
//!
//! A key is read as PostgreSQL's input function of its type reads it, so that `007`, ` 7` and `7` are one key, and a
//! UUID is one with and without dashes. What PostgreSQL would not take is [`BadKey::Invalid`]; what it takes but we
//! cannot evaluate (a `float8` parameter) is [`BadKey::Unsupported`], and the statement is sent to all shards or
//! refused.

use std::borrow::Cow;

use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;

use super::number::{constant, integer, Number};
use super::schema::Width;

/// Type of a key, as `data_type` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// `smallint`, `integer`, `bigint`: PostgreSQL hashes equal ones alike.
    Bigint,
    /// `uuid`.
    Uuid,
    /// `text`, `varchar`. Bytes in the database's encoding, compared and hashed as bytes: columns with a
    /// nondeterministic collation are not for this, and `char(n)`, `citext` and `name` are refused.
    Varchar,
    /// `vector` of pgvector.
    Vector,
}

/// The canonical value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Key<'a> {
    /// NULL.
    Null,
    /// An integer of any size.
    Integer(i64),
    /// The sixteen bytes of a UUID.
    Uuid([u8; 16]),
    /// The bytes of a text.
    Text(Cow<'a, [u8]>),
    /// The numbers of a vector.
    Vector(Vec<f32>),
}

/// What a constant is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// `key = constant`: compared without changing it.
    Comparison,
    /// A value of INSERT or UPDATE: cast to the type of the column.
    Assignment,
}

/// Why something is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadKey {
    /// PostgreSQL would not take it as a value of this type.
    Invalid(KeyType),
    /// Its shard cannot be told from it, for this reason.
    Unsupported(&'static str),
}

impl From<BadKey> for Error {
    fn from(bad: BadKey) -> Self {
        match bad {
            BadKey::Invalid(key_type) => Self::error(
                Fault::Client,
                SqlState::INVALID_TEXT_REPRESENTATION,
                format!("invalid sharding key for type {key_type}"),
            ),
            BadKey::Unsupported(what) => Self::error(
                Fault::Client,
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("{what} as sharding key is not supported"),
            ),
        }
    }
}

/// The word of `data_type`.
impl std::fmt::Display for KeyType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bigint => "bigint",
            Self::Uuid => "uuid",
            Self::Varchar => "varchar",
            Self::Vector => "vector",
        })
    }
}

/// OIDs of the types that a parameter can be declared with. 0 leaves the choice to the server, which takes the column's.
///
/// Source: `pg_type.dat` of PostgreSQL, or `SELECT oid, typname FROM pg_type`.
mod oid {
    pub(super) const UNSPECIFIED: u32 = 0;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const UNKNOWN: u32 = 705;
    pub(super) const INT2S: u32 = 1005;
    pub(super) const INT4S: u32 = 1007;
    pub(super) const TEXTS: u32 = 1009;
    pub(super) const VARCHARS: u32 = 1015;
    pub(super) const INT8S: u32 = 1016;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const UUID: u32 = 2950;
    pub(super) const UUIDS: u32 = 2951;
    /// Types of extensions, `vector` among them, begin here.
    pub(super) const FIRST_OF_USERS: u32 = 16_384;
}

/// Most dimensions of a vector that pgvector stores.
const VECTOR_DIMENSIONS_MAX: usize = 16_000;

impl KeyType {
    /// Reads a literal in quotes, a parameter in text format of an unspecified type, or a field of COPY in text or CSV
    /// format, without its quoting.
    pub fn text<'a>(self, text: &'a [u8]) -> Result<Key<'a>, BadKey> {
        let key = match self {
            Self::Bigint => integer(text).map(Key::Integer),
            Self::Uuid => uuid(text).map(Key::Uuid),
            Self::Varchar => Some(Key::Text(Cow::Borrowed(text))),
            Self::Vector => vector(text).map(Key::Vector),
        };
        key.ok_or(BadKey::Invalid(self))
    }

    /// Reads a numeric constant without quotes, with a sign at most: `7`, `-7.0`, `1e3`.
    ///
    /// `None`: the constant equals no key (`id = 7.5`), so the comparison is true nowhere.
    pub fn number(self, text: &str, usage: Usage) -> Result<Option<Key<'static>>, BadKey> {
        let number = constant(text).ok_or(BadKey::Invalid(self))?;
        match (self, usage, number) {
            (Self::Bigint, _, Number::Integer(value)) => Ok(Some(Key::Integer(value))),
            (Self::Bigint, Usage::Comparison, _) => Ok(None),
            (Self::Bigint, Usage::Assignment, Number::Fraction(rounded)) => {
                Ok(Some(Key::Integer(rounded)))
            }
            (Self::Varchar, Usage::Assignment, Number::Integer(value))
                if integer(text.as_bytes()).is_some() =>
            {
                Ok(Some(Key::Text(value.to_string().into_bytes().into())))
            }
            (Self::Bigint | Self::Uuid | Self::Vector, Usage::Assignment, _) => {
                Err(BadKey::Invalid(self))
            }
            (Self::Varchar, ..) => Err(BadKey::Unsupported("a number for a text")),
            (Self::Uuid | Self::Vector, Usage::Comparison, _) => Err(BadKey::Invalid(self)),
        }
    }

    /// Reads a parameter in text format that was declared with this type; 0 is none.
    pub fn text_parameter<'a>(
        self,
        type_oid: u32,
        text: &'a [u8],
        usage: Usage,
    ) -> Result<Option<Key<'a>>, BadKey> {
        match (self, type_oid) {
            (_, oid::UNSPECIFIED | oid::UNKNOWN)
            | (Self::Bigint, oid::INT2 | oid::INT4 | oid::INT8)
            | (Self::Uuid, oid::UUID)
            | (Self::Varchar, oid::TEXT | oid::VARCHAR)
            | (Self::Vector, oid::FIRST_OF_USERS..) => self.text(text).map(Some),
            (Self::Bigint, oid::NUMERIC) => {
                let text = std::str::from_utf8(text).map_err(|_| BadKey::Invalid(self))?;
                match (self.number(text, usage), usage) {
                    // `NaN`: no constant is written so, but the type has it.
                    (Err(BadKey::Invalid(_)), Usage::Comparison) => {
                        Err(BadKey::Unsupported("a parameter of this form"))
                    }
                    (found, _) => found,
                }
            }
            _ => Err(BadKey::Unsupported("a parameter of another type")),
        }
    }

    /// Are values of the type with this name keys of this kind, and hashed like them? The empty name is of one that is not known.
    pub fn is_of_column(self, type_name: &str) -> bool {
        match (self, type_name) {
            (_, "") => true,
            (Self::Bigint, name) => matches!(name, "int2" | "int4" | "int8"),
            (Self::Uuid, name) => name == "uuid",
            (Self::Varchar, name) => matches!(name, "text" | "varchar"),
            (Self::Vector, name) => name == "vector",
        }
    }

    /// Are the elements of an array keys that was declared with this type? 0 is none, for which the server takes that of
    /// the column.
    pub fn is_of_array(self, type_oid: u32) -> bool {
        match self {
            _ if matches!(type_oid, oid::UNSPECIFIED | oid::UNKNOWN) => true,
            Self::Bigint => matches!(type_oid, oid::INT2S | oid::INT4S | oid::INT8S),
            Self::Uuid => type_oid == oid::UUIDS,
            Self::Varchar => matches!(type_oid, oid::TEXTS | oid::VARCHARS),
            Self::Vector => type_oid >= oid::FIRST_OF_USERS,
        }
    }

    /// Reads a parameter in binary format that was declared with this type, or a field of COPY in binary format, whose
    /// type is the column's; 0 is none.
    pub fn binary<'a>(self, type_oid: u32, bytes: &'a [u8]) -> Result<Key<'a>, BadKey> {
        let invalid = BadKey::Invalid(self);
        let small = |bytes: &[u8]| {
            let value = i16::from_be_bytes(bytes.try_into().ok()?);
            Some(Key::Integer(value.into()))
        };
        let medium = |bytes: &[u8]| {
            let value = i32::from_be_bytes(bytes.try_into().ok()?);
            Some(Key::Integer(value.into()))
        };
        let large = |bytes: &[u8]| {
            let value = i64::from_be_bytes(bytes.try_into().ok()?);
            Some(Key::Integer(value))
        };
        let key = match (self, type_oid) {
            (Self::Bigint, oid::INT2) => small(bytes),
            (Self::Bigint, oid::INT4) => medium(bytes),
            (Self::Bigint, oid::INT8) => large(bytes),
            (Self::Bigint, oid::UNSPECIFIED | oid::UNKNOWN) => small(bytes)
                .or_else(|| medium(bytes))
                .or_else(|| large(bytes)),
            (Self::Uuid, oid::UUID | oid::UNSPECIFIED | oid::UNKNOWN) => {
                bytes.try_into().ok().map(Key::Uuid)
            }
            (Self::Varchar, oid::TEXT | oid::VARCHAR | oid::UNSPECIFIED | oid::UNKNOWN) => {
                Some(Key::Text(Cow::Borrowed(bytes)))
            }
            (Self::Vector, oid::UNSPECIFIED | oid::UNKNOWN | oid::FIRST_OF_USERS..) => {
                binary_vector(bytes).map(Key::Vector)
            }
            _ => return Err(BadKey::Unsupported("a parameter of another type")),
        };
        key.ok_or(invalid)
    }
}

impl Key<'_> {
    /// Its text as PostgreSQL writes it, for `$1` of a lookup query. `None` for NULL.
    pub fn to_text(&self) -> Option<Vec<u8>> {
        Some(match self {
            Self::Null => return None,
            Self::Integer(value) => value.to_string().into_bytes(),
            Self::Text(text) => text.to_vec(),
            Self::Uuid(bytes) => uuid_text(bytes).into_bytes(),
            Self::Vector(numbers) => {
                let numbers: Vec<_> = numbers.iter().map(f32::to_string).collect();
                format!("[{}]", numbers.join(",")).into_bytes()
            }
        })
    }

    /// Is it a text that a column may store shortened?
    pub fn ends_in_blanks(&self) -> bool {
        matches!(self, Self::Text(text) if text.last() == Some(&b' '))
    }

    /// What a column of this width stores of it. PostgreSQL cuts blanks off that are too many, and takes nothing else that
    /// is too long.
    ///
    /// Errors: how many are too many cannot be told.
    pub fn stored(self, width: Width) -> Result<Self, BadKey> {
        let Self::Text(text) = &self else {
            return Ok(self);
        };
        let most = match width {
            _ if !self.ends_in_blanks() => return Ok(self),
            Width::Any => return Ok(self),
            Width::Characters(most) if text.len() <= most => return Ok(self),
            Width::Characters(most) if text.is_ascii() => most,
            Width::Characters(_) | Width::Unknown => {
                return Err(BadKey::Unsupported("a text with blanks at its end"));
            }
        };
        let blanks = text.iter().rev().take_while(|byte| **byte == b' ');
        let kept = most.max(text.len() - blanks.count());
        let kept = text.get(..kept).unwrap_or(text).to_vec();
        Ok(Self::Text(kept.into()))
    }

    /// Is it the same in whatever encoding?
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Text(text) => text.is_ascii(),
            Self::Null | Self::Integer(_) | Self::Uuid(_) | Self::Vector(_) => true,
        }
    }

    /// The same key with its own copy of its text.
    pub fn into_owned(self) -> Key<'static> {
        match self {
            Self::Null => Key::Null,
            Self::Integer(value) => Key::Integer(value),
            Self::Uuid(bytes) => Key::Uuid(bytes),
            Self::Text(text) => Key::Text(Cow::Owned(text.into_owned())),
            Self::Vector(numbers) => Key::Vector(numbers),
        }
    }
}

/// Reads a UUID as PostgreSQL does: 32 hexadecimal digits, a hyphen allowed after every fourth, all in braces or not.
///
/// Source: <https://www.postgresql.org/docs/current/datatype-uuid.html>
pub(super) fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    let mut rest = match text {
        [b'{', inside @ .., b'}'] => inside,
        _ => text,
    };
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        let [high, low, tail @ ..] = rest else {
            return None;
        };
        let digit = |digit: &u8| char::from(*digit).to_digit(16);
        *byte = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
        rest = match tail {
            [b'-', tail @ ..] if at % 2 == 1 && at < 15 => tail,
            _ => tail,
        };
    }
    rest.is_empty().then_some(bytes)
}

/// The canonical text of a UUID.
pub(super) fn uuid_text(bytes: &[u8; 16]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Reads `[1, 2.5, -3]`.
fn vector(text: &[u8]) -> Option<Vec<f32>> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    let number = |word: &str| {
        word.trim_ascii()
            .parse()
            .ok()
            .filter(|n: &f32| n.is_finite())
    };
    let numbers = inside.split(',').map(number);
    let numbers: Vec<f32> = numbers.collect::<Option<_>>()?;
    (numbers.len() <= VECTOR_DIMENSIONS_MAX).then_some(numbers)
}

/// Reads a vector in binary format: the number of dimensions, a zero, the numbers.
fn binary_vector(bytes: &[u8]) -> Option<Vec<f32>> {
    let (dimensions, rest) = bytes.split_first_chunk()?;
    let (_unused, numbers) = rest.split_first_chunk::<2>()?;
    let dimensions = usize::try_from(i16::from_be_bytes(*dimensions)).ok()?;
    if dimensions == 0 || dimensions > VECTOR_DIMENSIONS_MAX || numbers.len() != dimensions * 4 {
        return None;
    }
    let number = |part: &[u8]| Some(f32::from_be_bytes(part.try_into().ok()?));
    let numbers = numbers.chunks_exact(4).map(number);
    numbers
        .map(|n| n.filter(|n| n.is_finite()))
        .collect::<Option<_>>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: [u8; 16] = *b"\xa0\xee\xbc\x99\x9c\x0b\x4e\xf8\xbb\x6d\x6b\xb9\xbd\x38\x0a\x11";

    #[test]
    fn uuids_in_every_spelling() {
        for text in [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
        ] {
            assert_eq!(
                KeyType::Uuid.text(text.as_bytes()),
                Ok(Key::Uuid(UUID)),
                "{text}"
            );
        }
        assert_eq!(uuid_text(&UUID), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
    }

    #[test]
    fn what_is_no_uuid() {
        for text in [
            "",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-",
            "a0e-ebc999c0b4ef8bb6d6bb9bd380a11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11}",
            " a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc99--9c0b4ef8bb6d6bb9bd380a11",
            "g0eebc999c0b4ef8bb6d6bb9bd380a11",
        ] {
            let bad = Err(BadKey::Invalid(KeyType::Uuid));
            assert_eq!(KeyType::Uuid.text(text.as_bytes()), bad, "{text}");
        }
    }

    #[test]
    fn constants_compared_and_assigned() {
        use Usage::{Assignment, Comparison};
        let integer = |value| Ok(Some(Key::Integer(value)));
        for (text, usage, expected) in [
            ("1e3", Comparison, integer(1000)),
            ("7.5", Comparison, Ok(None)),
            ("7.5", Assignment, integer(8)),
            ("1e30", Comparison, Ok(None)),
            ("1e30", Assignment, Err(BadKey::Invalid(KeyType::Bigint))),
        ] {
            assert_eq!(KeyType::Bigint.number(text, usage), expected, "{text}");
        }
        let text = Key::Text(Cow::Borrowed(b"7"));
        assert_eq!(KeyType::Varchar.number("007", Assignment), Ok(Some(text)));
        assert!(KeyType::Varchar.number("1e3", Assignment).is_err());
        assert!(KeyType::Varchar.number("7", Comparison).is_err());
    }

    #[test]
    fn blanks_are_cut_as_columns_cut_them() {
        for (text, width, expected) in [
            ("abcde   ", Width::Characters(5), Some("abcde")),
            ("ab      ", Width::Characters(5), Some("ab   ")),
            ("abcdef  ", Width::Characters(5), Some("abcdef")), // an error of the server
            ("ab ", Width::Characters(5), Some("ab ")),
            ("abcdefg", Width::Characters(5), Some("abcdefg")),
            ("   ", Width::Characters(0), Some("")),
            ("abcde   ", Width::Any, Some("abcde   ")),
            ("abcde   ", Width::Unknown, None),
            ("abcde", Width::Unknown, Some("abcde")),
            // Seven bytes, and nobody asks of how many characters.
            ("éé   ", Width::Characters(5), None),
            ("éé   ", Width::Characters(7), Some("éé   ")),
        ] {
            let found = Key::Text(text.as_bytes().into()).stored(width);
            let expected = expected.map(|text| Key::Text(text.as_bytes().into()));
            assert_eq!(found.ok(), expected, "{text} {width:?}");
        }
    }

    #[test]
    fn parameters_of_declared_types() {
        let seven = || Ok(Key::Integer(7));
        for (type_oid, bytes, expected) in [
            (oid::INT2, &[0, 7][..], seven()),
            (oid::INT4, &[0, 0, 0, 7], seven()),
            (oid::INT8, &[0, 0, 0, 0, 0, 0, 0, 7], seven()),
            (oid::UNSPECIFIED, &[0, 7], seven()),
            (oid::UNSPECIFIED, &[0, 0, 0, 7], seven()),
            (
                oid::UNSPECIFIED,
                &[7],
                Err(BadKey::Invalid(KeyType::Bigint)),
            ),
            (oid::INT4, &[0, 7], Err(BadKey::Invalid(KeyType::Bigint))),
        ] {
            assert_eq!(KeyType::Bigint.binary(type_oid, bytes), expected);
        }
        // Eight bytes of a float are no integer, nor is a text.
        for type_oid in [701, oid::TEXT, oid::NUMERIC] {
            let found = KeyType::Bigint.binary(type_oid, &[0; 8]);
            assert!(matches!(found, Err(BadKey::Unsupported(_))), "{type_oid}");
        }
        let numeric = KeyType::Bigint.text_parameter(oid::NUMERIC, b"7.00", Usage::Comparison);
        assert_eq!(numeric, Ok(Some(Key::Integer(7))));
        for text in ["NaN", "Infinity"] {
            let bytes = text.as_bytes();
            let found = KeyType::Bigint.text_parameter(oid::NUMERIC, bytes, Usage::Comparison);
            assert!(matches!(found, Err(BadKey::Unsupported(_))), "{text}");
        }
    }

    #[test]
    fn vectors_in_both_formats() {
        let expected = Ok(Key::Vector(vec![1.0, -2.5]));
        assert_eq!(KeyType::Vector.text(b" [1, -2.5] "), expected);
        let binary = b"\0\x02\0\0\x3f\x80\0\0\xc0\x20\0\0";
        assert_eq!(KeyType::Vector.binary(16_400, binary), expected);
        for text in ["", "[]", "[1", "[1,]", "[NaN]", "[inf]", "1,2"] {
            assert!(KeyType::Vector.text(text.as_bytes()).is_err(), "{text}");
        }
        for bytes in [&binary[..4], &binary[..11], b"\0\0\0\0", b"\xff\xff\0\0"] {
            assert!(KeyType::Vector.binary(0, bytes).is_err());
        }
    }
}
