//! Values of a statement as keys: literals of its text, parameters of Bind.

use std::borrow::Cow;

use crate::error::{Error, Fault};
use crate::protocol::frontend::Arguments;
use crate::protocol::sqlstate::SqlState;
use crate::sharding::{BadKey, Key, KeyType, Usage};
use crate::sql::keys::{Member, Operand};
use crate::sql::lexer::Kind;
use crate::sql::shape::Literal;
use crate::types::oid;

/// What a statement is run with.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Its text.
    pub text: &'a [u8],
    /// The literals that were lifted out of it.
    pub literals: &'a [Literal],
    /// `standard_conforming_strings` is off.
    pub backslashes: bool,
    /// Texts are in the database's encoding, which is what a key is hashed in.
    pub encoded_as_stored: bool,
    /// Values of `$1`, `$2` …; in a simple query there are none.
    pub parameters: &'a [Parameter<'a>],
}

/// The value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter<'a> {
    /// NULL
    Null,
    /// In text format.
    Text {
        /// Type that Parse declared, 0 for none.
        type_oid: u32,
        /// Its bytes.
        value: &'a [u8],
    },
    /// In binary format.
    Binary {
        /// Type that Parse declared, 0 for none.
        type_oid: u32,
        /// Its bytes.
        value: &'a [u8],
    },
    /// An expression, which only a server can evaluate.
    Unknown,
}

/// An argument of EXECUTE: what the parameter will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// NULL
    Null,
    /// A constant that is the same in whatever type the parameter has.
    Text {
        /// Of its type, 0 if the statement decides.
        type_oid: u32,
        /// As text.
        value: Box<[u8]>,
    },
    /// Anything else.
    Unknown,
}

impl Argument {
    /// As a parameter.
    pub fn parameter(&self) -> Parameter<'_> {
        match self {
            Self::Null => Parameter::Null,
            Self::Text { type_oid, value } => Parameter::Text {
                type_oid: *type_oid,
                value,
            },
            Self::Unknown => Parameter::Unknown,
        }
    }
}

/// The OIDs of types that keys can have; 0 for all others.
///
/// Source: `pg_type.dat` of PostgreSQL.
pub fn type_oid(name: &str) -> u32 {
    match name {
        "int8" => oid::INT8,
        "int2" => oid::INT2,
        "int4" => oid::INT4,
        "text" => oid::TEXT,
        "varchar" => oid::VARCHAR,
        "numeric" => oid::NUMERIC,
        "uuid" => oid::UUID,
        _ => 0,
    }
}

/// Does PostgreSQL find out the type of this parameter, which counts from 1, by where it stands? `types`: those that Parse
/// declared, in order; there may be fewer.
pub fn is_open(types: &[u32], number: usize) -> bool {
    let declared = number.checked_sub(1).and_then(|at| types.get(at));
    matches!(declared, None | Some(0 | &oid::UNKNOWN))
}

impl<'a> Parameter<'a> {
    /// The values of a Bind. `types`: those that Parse declared, in order; there may be fewer.
    pub fn of(arguments: &Arguments<'a>, types: impl IntoIterator<Item = u32>) -> Vec<Self> {
        let mut types = types.into_iter();
        let values = arguments.values().enumerate();
        let values = values.map(|(index, value)| {
            let type_oid = types.next().unwrap_or(0);
            match (value, arguments.formats.of(index)) {
                (None, _) => Self::Null,
                (Some(value), Some(1)) => Self::Binary { type_oid, value },
                (Some(value), _) => Self::Text { type_oid, value },
            }
        });
        values.collect()
    }
}

/// Why a value is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// Its shard cannot be told: an expression, another type.
    Unknown(&'static str),
    /// PostgreSQL would not take it.
    Bad(BadKey),
    /// Bind has no such parameter.
    Missing(u32),
}

impl NoKey {
    /// What the client is told where the shard must be known.
    pub(super) fn error(self) -> Error {
        match self {
            Self::Unknown(what) => BadKey::Unsupported(what).into(),
            Self::Bad(bad) => bad.into(),
            Self::Missing(number) => Error::error(
                Fault::Client,
                SqlState::PROTOCOL_VIOLATION,
                format!("parameter ${number} is missing"),
            ),
        }
    }
}

impl From<BadKey> for NoKey {
    fn from(bad: BadKey) -> Self {
        match bad {
            BadKey::Unsupported(what) => Self::Unknown(what),
            BadKey::Invalid(_) => Self::Bad(bad),
        }
    }
}

/// Why a text is no key whose bytes a server has in another encoding.
pub(super) const OTHER_ENCODING: &str = "a text in another encoding";

/// A cast gives a fraction another value.
const ROUNDED: NoKey = NoKey::Unknown("a cast");

const EXPRESSION: NoKey = NoKey::Unknown("an expression");

impl<'a> Values<'a> {
    /// A value. `None`: it equals no key (a fraction).
    pub(super) fn key<'s>(
        &'s self,
        operand: &'s Operand,
        key_type: KeyType,
        usage: Usage,
    ) -> Result<Option<Key<'s>>, NoKey> {
        match self.read(operand, key_type, usage)? {
            Some(key) if !self.stores(&key) => Err(NoKey::Unknown(OTHER_ENCODING)),
            key => Ok(key),
        }
    }

    /// Has a server the same bytes for this key?
    fn stores(&self, key: &Key<'_>) -> bool {
        self.encoded_as_stored || key.is_ascii()
    }

    fn read<'s>(
        &'s self,
        operand: &'s Operand,
        key_type: KeyType,
        usage: Usage,
    ) -> Result<Option<Key<'s>>, NoKey> {
        match operand {
            Operand::Literal {
                index,
                negative,
                cast,
            } => {
                let literal = usize::try_from(*index)
                    .ok()
                    .and_then(|index| self.literals.get(index))
                    .ok_or(EXPRESSION)?;
                let written = literal.of(self.text);
                if literal.kind == Kind::Number {
                    let number = std::str::from_utf8(written).map_err(|_| EXPRESSION)?;
                    let number: Cow<'_, str> = match negative {
                        true => format!("-{number}").into(),
                        false => number.into(),
                    };
                    return numeric(&number, key_type, cast.as_deref(), usage);
                }
                let content = self.content(literal.kind, written).ok_or(EXPRESSION)?;
                quoted(content, key_type, cast.as_deref())
            }
            Operand::Constant {
                value,
                number: true,
                cast,
            } => numeric(value, key_type, cast.as_deref(), usage),
            Operand::Constant { value, cast, .. } => {
                quoted(value.as_bytes().into(), key_type, cast.as_deref())
            }
            Operand::Parameter { number, cast } => {
                fits(key_type, cast.as_deref())?;
                match self.parameter(*number)? {
                    Parameter::Null => Ok(Some(Key::Null)),
                    Parameter::Text { type_oid, value } => {
                        match key_type.text_parameter(type_oid, value, usage)? {
                            None if cast.is_some() => Err(ROUNDED),
                            key => Ok(key),
                        }
                    }
                    Parameter::Binary { type_oid, value } => {
                        Ok(Some(key_type.binary(type_oid, value)?))
                    }
                    Parameter::Unknown => Err(EXPRESSION),
                }
            }
            Operand::Null => Ok(Some(Key::Null)),
            Operand::Default | Operand::Column(_) | Operand::Other => Err(EXPRESSION),
        }
    }

    /// Calls `each` with every value of a member that a column can equal.
    pub(super) fn each(
        &self,
        member: &Member,
        key_type: KeyType,
        each: &mut dyn FnMut(Key<'_>),
    ) -> Result<(), NoKey> {
        if !member.array {
            if let Some(key) = self.key(&member.operand, key_type, Usage::Comparison)? {
                each(key);
            }
            return Ok(());
        }
        let mut stored = true;
        let mut each = |key: Key<'_>| {
            stored &= self.stores(&key);
            each(key);
        };
        self.each_of_array(&member.operand, key_type, &mut each)?;
        match stored {
            true => Ok(()),
            false => Err(NoKey::Unknown(OTHER_ENCODING)),
        }
    }

    fn each_of_array(
        &self,
        operand: &Operand,
        key_type: KeyType,
        each: &mut dyn FnMut(Key<'_>),
    ) -> Result<(), NoKey> {
        match operand {
            Operand::Null => Ok(()),
            Operand::Literal { index, cast, .. } => {
                let index = usize::try_from(*index).ok();
                let literal = index.and_then(|index| self.literals.get(index));
                let literal = literal.ok_or(EXPRESSION)?;
                let content = self.content(literal.kind, literal.of(self.text));
                fits(key_type, cast.as_deref())?;
                text_array(&content.ok_or(EXPRESSION)?, key_type, each)
            }
            Operand::Constant {
                value,
                number: false,
                cast,
            } => {
                fits(key_type, cast.as_deref())?;
                text_array(value.as_bytes(), key_type, each)
            }
            Operand::Parameter { number, cast } => {
                fits(key_type, cast.as_deref())?;
                match self.parameter(*number)? {
                    Parameter::Null => Ok(()),
                    Parameter::Text { type_oid, value } if key_type.is_of_array(type_oid) => {
                        text_array(value, key_type, each)
                    }
                    Parameter::Text { .. } => Err(NoKey::Unknown("an array of another type")),
                    Parameter::Binary { value, .. } => {
                        binary_array(value, key_type, each).ok_or(NoKey::Unknown("an array"))?
                    }
                    Parameter::Unknown => Err(EXPRESSION),
                }
            }
            _ => Err(EXPRESSION),
        }
    }

    /// An argument of EXECUTE for a parameter that was declared with the type of this OID, if with any; 0 is a type that no
    /// key has.
    pub fn argument(&self, operand: &Operand, declared: Option<u32>) -> Argument {
        let (content, number, cast) = match operand {
            Operand::Null => return Argument::Null,
            Operand::Constant {
                value,
                number,
                cast,
            } => (Some(value.as_bytes().into()), *number, cast),
            Operand::Literal {
                index,
                negative,
                cast,
            } => {
                let index = usize::try_from(*index).ok();
                let Some(literal) = index.and_then(|index| self.literals.get(index)) else {
                    return Argument::Unknown;
                };
                let written = literal.of(self.text);
                match literal.kind == Kind::Number {
                    true if *negative => (Some([b"-", written].concat().into()), true, cast),
                    true => (Some(written.into()), true, cast),
                    false => (self.content(literal.kind, written), false, cast),
                }
            }
            _ => return Argument::Unknown,
        };
        let Some(content): Option<Cow<'_, [u8]>> = content else {
            return Argument::Unknown;
        };
        // Cast on its way to the parameter a value may become another; an integer does not.
        let type_oid = match (declared, cast.as_deref().map(type_oid)) {
            (None, None) => 0,
            (Some(0), _) | (_, Some(0)) => return Argument::Unknown,
            (Some(declared), None) => declared,
            (None, Some(cast)) => cast,
            (Some(declared), Some(cast)) if declared == cast => declared,
            _ => return Argument::Unknown,
        };
        let value = match number {
            false => content.into_owned().into(),
            true => {
                let number = std::str::from_utf8(&content).ok();
                let Some(number) = number.and_then(|number| number.parse::<i64>().ok()) else {
                    return Argument::Unknown;
                };
                number.to_string().into_bytes().into()
            }
        };
        Argument::Text { type_oid, value }
    }

    fn parameter(&self, number: u32) -> Result<Parameter<'a>, NoKey> {
        let index = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
        let found = index.and_then(|index| self.parameters.get(index));
        found.copied().ok_or(NoKey::Missing(number))
    }

    /// What stands between the quotes; none if it takes more than doubled quotes to tell.
    fn content<'t>(&self, kind: Kind, written: &'t [u8]) -> Option<Cow<'t, [u8]>> {
        let inner = match kind {
            Kind::String => written.strip_prefix(b"'")?.strip_suffix(b"'")?,
            Kind::EscapeString => written.get(1..)?.strip_prefix(b"'")?.strip_suffix(b"'")?,
            Kind::DollarString => {
                let tag = written.iter().skip(1).position(|&byte| byte == b'$')? + 2;
                return written
                    .get(tag..written.len().checked_sub(tag)?)
                    .map(Cow::Borrowed);
            }
            _ => return None,
        };
        let escapes = kind == Kind::EscapeString || self.backslashes;
        if escapes && inner.contains(&b'\\') {
            return None;
        }
        if !inner.contains(&b'\'') {
            return Some(inner.into());
        }
        let mut content = Vec::with_capacity(inner.len());
        let mut bytes = inner.iter();
        while let Some(&byte) = bytes.next() {
            // A single quote ends the first of several parts.
            if byte == b'\'' && bytes.next() != Some(&b'\'') {
                return None;
            }
            content.push(byte);
        }
        Some(content.into())
    }
}

/// A cast that changes no key of this type.
fn fits(key_type: KeyType, cast: Option<&str>) -> Result<(), NoKey> {
    let Some(cast) = cast else { return Ok(()) };
    let same = match key_type {
        KeyType::Bigint => matches!(cast, "int2" | "int4" | "int8"),
        KeyType::Uuid => cast == "uuid",
        KeyType::Varchar => matches!(cast, "text" | "varchar"),
        KeyType::Vector => cast == "vector",
    };
    same.then_some(()).ok_or(NoKey::Unknown("a cast"))
}

fn numeric(
    number: &str,
    key_type: KeyType,
    cast: Option<&str>,
    usage: Usage,
) -> Result<Option<Key<'static>>, NoKey> {
    fits(key_type, cast)?;
    let digits = number.strip_prefix('-').unwrap_or(number);
    if cast.is_some() && !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ROUNDED);
    }
    Ok(key_type.number(number, usage)?)
}

fn quoted<'t>(
    content: Cow<'t, [u8]>,
    key_type: KeyType,
    cast: Option<&str>,
) -> Result<Option<Key<'t>>, NoKey> {
    fits(key_type, cast)?;
    Ok(Some(match content {
        Cow::Borrowed(content) => key_type.text(content)?,
        Cow::Owned(content) => key_type.text(&content)?.into_owned(),
    }))
}

/// `{1,2,3}` without quotes, nesting and dimensions.
fn text_array(text: &[u8], key_type: KeyType, each: &mut dyn FnMut(Key<'_>)) -> Result<(), NoKey> {
    let inner = text.trim_ascii().strip_prefix(b"{");
    let inner = inner.and_then(|inner| inner.strip_suffix(b"}"));
    let inner = inner.ok_or(NoKey::Unknown("an array"))?;
    if inner.iter().any(|byte| b"{}\"\\".contains(byte)) {
        return Err(NoKey::Unknown("an array"));
    }
    if inner.trim_ascii().is_empty() {
        return Ok(());
    }
    for element in inner.split(|&byte| byte == b',') {
        let element = element.trim_ascii();
        if !element.eq_ignore_ascii_case(b"null") {
            each(key_type.text(element)?);
        }
    }
    Ok(())
}

/// Dimensions, flags and type of elements; of each dimension its length and lower bound; then the elements.
///
/// Source: `array_send` of PostgreSQL.
fn binary_array(
    mut bytes: &[u8],
    key_type: KeyType,
    each: &mut dyn FnMut(Key<'_>),
) -> Option<Result<(), NoKey>> {
    let next = |bytes: &mut &[u8]| {
        let (word, rest) = bytes.split_first_chunk::<4>()?;
        *bytes = rest;
        Some(i32::from_be_bytes(*word))
    };
    let dimensions = next(&mut bytes)?;
    let _flags = next(&mut bytes)?;
    let type_oid = u32::try_from(next(&mut bytes)?).ok()?;
    match dimensions {
        0 => return Some(Ok(())),
        1 => {}
        _ => return None,
    }
    let length = next(&mut bytes)?;
    let _lower = next(&mut bytes)?;
    for _ in 0..length {
        let Ok(size) = usize::try_from(next(&mut bytes)?) else {
            continue; // NULL
        };
        let (element, rest) = bytes.split_at_checked(size)?;
        bytes = rest;
        match key_type.binary(type_oid, element) {
            Ok(key) => each(key),
            Err(bad) => return Some(Err(bad.into())),
        }
    }
    Some(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &[u8]) -> Option<Vec<i64>> {
        let mut found = Vec::new();
        let mut each = |key: Key<'_>| match key {
            Key::Integer(value) => found.push(value),
            other => panic!("{other:?}"),
        };
        text_array(text, KeyType::Bigint, &mut each).ok()?;
        Some(found)
    }

    #[test]
    fn arrays_in_text_format() {
        assert_eq!(members(b"{1, 2,NULL,-3}"), Some(vec![1, 2, -3]));
        assert_eq!(members(b"{}"), Some(vec![]));
        for text in [
            &b"{\"1\"}"[..],
            b"{{1},{2}}",
            b"1",
            b"[0:1]={1,2}",
            b"{1,x}",
        ] {
            assert_eq!(members(text), None);
        }
    }

    #[test]
    fn arrays_in_binary_format() {
        let mut bytes = Vec::new();
        for word in [1_i32, 1, 20, 3, 1, 8] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(7_i64.to_be_bytes());
        bytes.extend((-1_i32).to_be_bytes());
        bytes.extend(8_i32.to_be_bytes());
        bytes.extend(9_i64.to_be_bytes());
        let mut found = Vec::new();
        let mut each = |key: Key<'_>| found.push(key.into_owned());
        assert_eq!(
            binary_array(&bytes, KeyType::Bigint, &mut each),
            Some(Ok(()))
        );
        assert_eq!(found, [Key::Integer(7), Key::Integer(9)]);
        for cut in 0..bytes.len() {
            let cut = bytes.get(..cut).unwrap();
            assert_eq!(binary_array(cut, KeyType::Bigint, &mut |_| {}), None);
        }
    }

    #[test]
    fn parameters_are_keys_only_as_what_they_are_declared() {
        let keys = |member: &Member, key_type, parameter| {
            let values = Values {
                text: b"",
                literals: &[],
                backslashes: false,
                encoded_as_stored: false,
                parameters: &[parameter],
            };
            let mut found = Vec::new();
            let mut each = |key: Key<'_>| found.push(key.into_owned());
            values.each(member, key_type, &mut each).map(|()| found)
        };
        let cast = |cast: &str, array| Member {
            operand: Operand::Parameter {
                number: 1,
                cast: (!cast.is_empty()).then(|| cast.into()),
            },
            array,
        };
        let text = |type_oid, value| Parameter::Text { type_oid, value };
        let seven = Ok(vec![Key::Integer(7)]);
        const FLOATS: u32 = 1022;
        const NUMERICS: u32 = 1231;
        for (name, array, parameter, expected) in [
            (
                "int8",
                false,
                text(oid::NUMERIC, b"7.0"),
                Some(seven.clone()),
            ),
            ("int8", false, text(oid::NUMERIC, b"5.5"), None),
            ("", false, text(oid::NUMERIC, b"5.5"), Some(Ok(vec![]))),
            ("", true, text(1016, b"{7}"), Some(seven.clone())),
            ("int8", true, text(0, b"{7}"), Some(seven)),
            ("", true, text(NUMERICS, b"{7.0}"), None),
            ("int8", true, text(NUMERICS, b"{7.4}"), None),
            ("", true, text(FLOATS, b"{7}"), None),
        ] {
            let found = keys(&cast(name, array), KeyType::Bigint, parameter);
            match expected {
                Some(expected) => assert_eq!(found, expected, "{parameter:?}"),
                None => assert!(matches!(found, Err(NoKey::Unknown(_))), "{parameter:?}"),
            }
        }
        // One of a LATIN1 client is stored as other bytes.
        for (array, value) in [(false, &b"caf\xe9"[..]), (true, b"{a,caf\xe9}")] {
            let found = keys(&cast("", array), KeyType::Varchar, text(0, value));
            assert_eq!(found, Err(NoKey::Unknown(OTHER_ENCODING)));
            let ascii = &value[..value.len() / 2];
            let found = keys(&cast("", false), KeyType::Varchar, text(0, ascii));
            assert!(found.is_ok());
        }
    }

    #[test]
    fn parameters_of_bind_have_their_formats_and_types() {
        use crate::protocol::frame::Frames;
        use crate::protocol::frontend::Bind;
        let mut out = Vec::new();
        let values = [Some(&b"5"[..]), None, Some(&[0, 0, 0, 7])];
        Bind::encode(&mut out, b"", b"", [0, 0, 1], values, []);
        let frame = Frames::new(&out, 1 << 16).flatten().next().unwrap();
        let bind = Bind::parse(frame.body).unwrap();
        assert_eq!(
            Parameter::of(&bind.arguments().unwrap(), [20, 20]),
            [
                Parameter::Text {
                    type_oid: 20,
                    value: b"5"
                },
                Parameter::Null,
                Parameter::Binary {
                    type_oid: 0,
                    value: &[0, 0, 0, 7]
                },
            ]
        );
    }

    #[test]
    fn arguments_of_execute_are_what_their_parameters_will_be() {
        let values = Values {
            text: b"",
            literals: &[],
            backslashes: false,
            encoded_as_stored: true,
            parameters: &[],
        };
        let constant = |value: &str, number: bool, cast: Option<&str>| Operand::Constant {
            value: value.into(),
            number,
            cast: cast.map(Into::into),
        };
        let text = |type_oid, value: &str| Argument::Text {
            type_oid,
            value: value.as_bytes().into(),
        };
        for (operand, declared, expected) in [
            (constant("007", true, None), None, text(0, "7")),
            (constant("-7", true, None), Some("int4"), text(23, "-7")),
            (constant("7.5", true, None), Some("int8"), Argument::Unknown),
            (constant("007", false, None), None, text(0, "007")),
            (constant("007", false, None), Some("int8"), text(20, "007")),
            (constant("007", false, Some("int4")), None, text(23, "007")),
            (
                constant("007", false, Some("int4")),
                Some("text"),
                Argument::Unknown,
            ),
            (
                constant("a", false, None),
                Some("bpchar"),
                Argument::Unknown,
            ),
            (constant("a", false, None), Some(""), Argument::Unknown),
            (Operand::Null, Some("date"), Argument::Null),
            (Operand::Other, None, Argument::Unknown),
        ] {
            let found = values.argument(&operand, declared.map(type_oid));
            assert_eq!(found, expected, "{operand:?} {declared:?}");
        }
    }

    #[test]
    fn contents_of_strings() {
        let values = Values {
            text: b"",
            literals: &[],
            backslashes: false,
            encoded_as_stored: true,
            parameters: &[],
        };
        for (kind, written, expected) in [
            (Kind::String, "'a''b'", Some("a'b")),
            (Kind::String, "''", Some("")),
            (Kind::String, "'a'\n'b'", None),
            (Kind::String, r"'a\b'", Some(r"a\b")),
            (Kind::EscapeString, "E'a'", Some("a")),
            (Kind::EscapeString, r"E'\x41'", None),
            (Kind::DollarString, "$q$a'b$q$", Some("a'b")),
            (Kind::DollarString, "$$$$", Some("")),
        ] {
            let found = values.content(kind, written.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{written}");
        }
    }
}
