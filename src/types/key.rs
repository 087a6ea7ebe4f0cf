//! Keys: bytes that compare as the values do.
//!
//! A key of one value is self-delimiting (no key is the beginning of another), so that keys of several values can be
//! written one behind the other, and inverted for a descending order. Comparing and hashing rows is then comparing and
//! hashing bytes, whatever their types are.

use std::sync::Arc;

use super::array::{element_type, walk};
use super::datetime::{self, Interval};
use super::enums::{Enum, Enums, UserType};
use super::network::{lsn, mac, uuid, Network};
use super::{
    json, numeric, oid, read_bool, read_float4, read_float8, read_integer, text, Format, Invalid,
    Session,
};

/// How the values of a column are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// bool
    Bool,
    /// int2, int4, int8 of so many bytes
    Integer(usize),
    /// oid
    Oid,
    /// float4
    Float4,
    /// float8
    Float8,
    /// numeric
    Numeric,
    /// text, varchar: by bytes
    Text,
    /// char(n): by bytes without the spaces at the end
    Padded,
    /// name, which always has the collation C
    Name,
    /// "char"
    Char,
    /// bytea
    Bytea,
    /// bit, varbit in text format
    Bits,
    /// uuid
    Uuid,
    /// date
    Date,
    /// time
    Time,
    /// timetz
    TimeTz,
    /// timestamp
    Timestamp,
    /// timestamptz
    TimestampTz,
    /// interval
    Interval,
    /// inet, cidr
    Network,
    /// macaddr, macaddr8 of so many bytes
    Mac(usize),
    /// pg_lsn
    Lsn,
    /// money in binary format; its text depends on the server's locale
    Money,
    /// jsonb: only equality
    Json,
    /// an enum: as its labels were declared
    Enum(Arc<Enum>),
    /// an array, by its elements
    Array(Arc<Self>),
}

/// What keys are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// ORDER BY, min, max.
    Order,
    /// DISTINCT, GROUP BY.
    Equality,
}

impl Kind {
    /// How values of this type in this format are compared. `None` where that cannot be known here: types of users,
    /// types without an order, text under a collation that is not known to compare bytes.
    ///
    /// `enums` are those of the server that has described the values.
    pub fn of(
        type_oid: u32,
        format: Format,
        purpose: Purpose,
        session: &Session,
        enums: &Enums,
    ) -> Option<Self> {
        let by_bytes = match purpose {
            Purpose::Order => session.text_ordered_by_bytes,
            Purpose::Equality => session.text_equal_by_bytes,
        };
        let exact = format == Format::Binary || session.floats_exact;
        Some(match type_oid {
            oid::BOOL => Self::Bool,
            oid::INT2 => Self::Integer(2),
            oid::INT4 => Self::Integer(4),
            oid::INT8 => Self::Integer(8),
            oid::OID => Self::Oid,
            oid::FLOAT4 if exact => Self::Float4,
            oid::FLOAT8 if exact => Self::Float8,
            oid::NUMERIC => Self::Numeric,
            oid::TEXT | oid::VARCHAR if by_bytes => Self::Text,
            oid::BPCHAR if by_bytes => Self::Padded,
            oid::NAME => Self::Name,
            oid::CHAR => Self::Char,
            oid::BYTEA => Self::Bytea,
            oid::BIT | oid::VARBIT if format == Format::Text => Self::Bits,
            oid::UUID => Self::Uuid,
            oid::DATE => Self::Date,
            oid::TIME => Self::Time,
            oid::TIMETZ => Self::TimeTz,
            oid::TIMESTAMP => Self::Timestamp,
            oid::TIMESTAMPTZ => Self::TimestampTz,
            oid::INTERVAL => Self::Interval,
            oid::INET | oid::CIDR => Self::Network,
            oid::MACADDR => Self::Mac(6),
            oid::MACADDR8 => Self::Mac(8),
            oid::PG_LSN => Self::Lsn,
            oid::MONEY if format == Format::Binary => Self::Money,
            oid::JSONB if purpose == Purpose::Equality => Self::Json,
            other => match (element_type(other), enums.get(other)) {
                (Some(element), _) => {
                    Self::Array(Self::of(element, format, purpose, session, enums)?.into())
                }
                (None, Some(UserType::Enum(described))) => Self::Enum(Arc::clone(described)),
                (None, Some(UserType::Array(described))) => {
                    Self::Array(Self::Enum(Arc::clone(described)).into())
                }
                (None, None) => return None,
            },
        })
    }

    /// Appends the key of one value that is not NULL.
    ///
    /// Errors: a value that is not written as its type and format are. What was appended is then of no use.
    pub fn put(&self, format: Format, value: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
        match self {
            Self::Bool => out.push(read_bool(format, value)?.into()),
            Self::Integer(bytes) => put_signed(out, read_integer(format, *bytes, value)?),
            Self::Oid => {
                let oid = match format {
                    Format::Text => u32::try_from(super::integer(value)?).map_err(|_| Invalid)?,
                    Format::Binary => super::fixed(value).map(u32::from_be_bytes)?,
                };
                out.extend_from_slice(&oid.to_be_bytes());
            }
            Self::Float4 => put_float(out, f64::from(read_float4(format, value)?)),
            Self::Float8 => put_float(out, read_float8(format, value)?),
            Self::Numeric => numeric::put_key(format, value, out)?,
            Self::Text | Self::Name => put_bytes(out, value),
            Self::Padded => {
                let spaces = value.iter().rev().take_while(|byte| **byte == b' ').count();
                put_bytes(out, value.get(..value.len() - spaces).unwrap_or_default());
            }
            Self::Bits => put_bytes(out, value),
            Self::Char => out.push(match format {
                Format::Text => text::single_char(value)?,
                Format::Binary => super::fixed::<1>(value)?[0],
            }),
            Self::Bytea => match format {
                Format::Text => put_bytes(out, &text::bytea(value)?),
                Format::Binary => put_bytes(out, value),
            },
            Self::Uuid => out.extend_from_slice(&uuid(format, value)?),
            Self::Date => put_signed(out, datetime::date(format, value)?.into()),
            Self::Time => put_signed(out, datetime::time(format, value)?),
            Self::TimeTz => {
                let (utc, west) = datetime::timetz(format, value)?;
                put_signed(out, utc);
                put_signed(out, west.into());
            }
            Self::Timestamp => put_signed(out, datetime::timestamp(format, false, value)?),
            Self::TimestampTz => put_signed(out, datetime::timestamp(format, true, value)?),
            Self::Interval => {
                let span = Interval::read(format, value)?.span();
                out.extend_from_slice(&(span ^ i128::MIN).to_be_bytes());
            }
            Self::Network => Network::read(format, value)?.put_key(out),
            Self::Mac(bytes) => out.extend_from_slice(&mac(format, *bytes, value)?),
            Self::Lsn => out.extend_from_slice(&lsn(format, value)?.to_be_bytes()),
            Self::Money => put_signed(out, super::fixed(value).map(i64::from_be_bytes)?),
            Self::Json => json::put_equality(format, value, out)?,
            Self::Enum(described) => {
                out.extend_from_slice(&described.place(value)?.to_be_bytes());
            }
            Self::Array(element) => put_array(element, format, value, out)?,
        }
        Ok(())
    }
}

/// Element by element, NULL behind all values, the shorter array before the longer one; then the dimensions.
///
/// Source: `array_cmp` in <https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/arrayfuncs.c>
fn put_array(kind: &Kind, format: Format, value: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    let dimensions = walk(format, value, |element| match element {
        Some(element) => {
            out.push(1);
            kind.put(format, element, out)
        }
        None => {
            out.push(2);
            Ok(())
        }
    })?;
    out.push(0);
    out.push(u8::try_from(dimensions.len()).map_err(|_| Invalid)?);
    let lengths = dimensions.iter().map(|dimension| dimension.length);
    let firsts = dimensions.iter().map(|dimension| dimension.first);
    lengths
        .chain(firsts)
        .for_each(|number| put_signed(out, number.into()));
    Ok(())
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&(value ^ i64::MIN).to_be_bytes());
}

/// -Infinity, numbers (both zeros the same), Infinity, NaN (all the same).
fn put_float(out: &mut Vec<u8>, value: f64) {
    let bits = if value.is_nan() {
        u64::MAX
    } else {
        // Adding a zero makes -0 a 0.
        let bits = (value + 0.0).to_bits();
        if bits >> 63 == 1 {
            !bits
        } else {
            bits | 1 << 63
        }
    };
    out.extend_from_slice(&bits.to_be_bytes());
}

/// Bytes with a zero byte escaped, and two zeros behind them.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(zero) = memchr::memchr(0, rest) {
        let (before, after) = rest.split_at(zero);
        out.extend_from_slice(before);
        out.extend_from_slice(&[0, 0xff]);
        rest = after.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Known;

    const BYTES: Session = Session {
        known: Known::Yes,
        text_ordered_by_bytes: true,
        text_equal_by_bytes: true,
        floats_exact: true,
    };

    fn key(type_oid: u32, text: &[u8]) -> Vec<u8> {
        let kind = Kind::of(type_oid, Format::Text, Purpose::Order, &BYTES, Enums::NONE).unwrap();
        let mut key = Vec::new();
        kind.put(Format::Text, text, &mut key)
            .unwrap_or_else(|_| panic!("{}", text.escape_ascii()));
        key
    }

    #[test]
    fn keys_have_postgresqls_order() {
        let check = |type_oid, ordered: &[&[u8]]| {
            for pair in ordered.windows(2) {
                let [a, b] = [key(type_oid, pair[0]), key(type_oid, pair[1])];
                assert!(
                    a < b,
                    "{} {}",
                    pair[0].escape_ascii(),
                    pair[1].escape_ascii()
                );
                assert!(!b.starts_with(&a), "a key that begins another");
            }
        };
        check(oid::BOOL, &[b"f", b"t"]);
        check(oid::INT4, &[b"-2147483648", b"-1", b"0", b"10", b"9999"]);
        check(
            oid::FLOAT8,
            &[
                b"-Infinity",
                b"-1e+300",
                b"-1",
                b"0",
                b"5e-324",
                b"1",
                b"Infinity",
                b"NaN",
            ],
        );
        check(oid::FLOAT4, &[b"-1.5", b"0", b"0.1", b"1e+06", b"NaN"]);
        check(
            oid::TEXT,
            &[b"", b"A", b"B", b"a", b"a ", b"aa", "ä".as_bytes()],
        );
        check(oid::BPCHAR, &[b"a   ", b"a b ", b"b   "]);
        check(
            oid::BYTEA,
            &[b"\\x", b"\\x00", b"\\x0000", b"\\x0001", b"\\x01", b"\\xff"],
        );
        check(
            oid::UUID,
            &[
                b"00000000-0000-0000-0000-000000000001",
                b"a0000000-0000-0000-0000-000000000000",
            ],
        );
        check(
            oid::DATE,
            &[
                b"-infinity",
                b"0044-03-15 BC",
                b"1999-12-31",
                b"10000-01-01",
                b"infinity",
            ],
        );
        check(
            oid::TIMETZ,
            &[b"01:00:00+02", b"00:00:00+00", b"00:00:00-01"],
        );
        check(
            oid::TIMETZ,
            &[b"12:00:00+01", b"11:00:00+00", b"10:00:00-01"],
        );
        check(
            oid::INTERVAL,
            &[
                b"-1 days",
                b"00:00:00",
                b"23:59:59",
                b"1 day",
                b"1 mon",
                b"31 days",
            ],
        );
        check(oid::BIT, &[b"0", b"00", b"01", b"1", b"10"]);
        check(oid::CHAR, &[b"", b"a", b"\\351"]);
    }

    #[test]
    fn values_that_are_equal_have_equal_keys() {
        let check = |type_oid, a: &[u8], b: &[u8]| {
            assert_eq!(key(type_oid, a), key(type_oid, b), "{}", a.escape_ascii());
        };
        check(oid::FLOAT8, b"0", b"-0");
        check(oid::NUMERIC, b"1.0", b"1.000");
        check(oid::BPCHAR, b"a", b"a  ");
        check(oid::INTERVAL, b"1 day", b"24:00:00");
        check(
            oid::TIMESTAMPTZ,
            b"2000-01-01 00:00:00+00",
            b"2000-01-01 02:00:00+02",
        );
        check(oid::BYTEA, b"\\x61", b"a");
    }

    #[test]
    fn text_and_binary_have_the_same_keys() {
        let check = |type_oid, text: &[u8], binary: &[u8]| {
            let kind = Kind::of(
                type_oid,
                Format::Binary,
                Purpose::Order,
                &BYTES,
                Enums::NONE,
            )
            .unwrap();
            let mut found = Vec::new();
            kind.put(Format::Binary, binary, &mut found).unwrap();
            assert_eq!(found, key(type_oid, text), "{}", text.escape_ascii());
        };
        check(oid::INT2, b"-2", &[0xff, 0xfe]);
        check(oid::FLOAT4, b"0.1", &0.1f32.to_be_bytes());
        check(
            oid::TIMESTAMP,
            b"2000-01-01 00:00:01",
            &1_000_000i64.to_be_bytes(),
        );
        check(oid::DATE, b"infinity", &i32::MAX.to_be_bytes());
        check(oid::INET, b"10.0.0.1/8", b"\x02\x08\0\x04\x0a\0\0\x01");
        let interval = [
            &1_000_000i64.to_be_bytes()[..],
            &2i32.to_be_bytes(),
            &3i32.to_be_bytes(),
        ]
        .concat();
        check(oid::INTERVAL, b"3 mons 2 days 00:00:01", &interval);
    }

    #[test]
    fn what_cannot_be_known_has_no_keys() {
        let of = |type_oid, session| {
            Kind::of(type_oid, Format::Text, Purpose::Order, session, Enums::NONE)
        };
        assert_eq!(of(oid::TEXT, &Session::DEFAULT), None);
        assert_eq!(of(oid::NAME, &Session::DEFAULT), Some(Kind::Name));
        assert_eq!(of(oid::FIRST_OF_USERS, &BYTES), None);
        assert_eq!(of(oid::MONEY, &BYTES), None);
        assert_eq!(of(oid::JSON, &BYTES), None, "json has no order");
        assert_eq!(of(oid::JSONB, &BYTES), None, "nor has jsonb here");
        let rounded = Session {
            floats_exact: false,
            ..BYTES
        };
        assert_eq!(of(oid::FLOAT8, &rounded), None);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut out = Vec::new();
        for value in [
            &b""[..],
            b"\0",
            b"-",
            b"999999999999999999999",
            b"\xff\xff",
            b"0000-00-00",
            b"12:",
            b"1 ",
        ] {
            for type_oid in 0..4_000 {
                for format in [Format::Text, Format::Binary] {
                    if let Some(kind) =
                        Kind::of(type_oid, format, Purpose::Order, &BYTES, Enums::NONE)
                    {
                        let _ = kind.put(format, value, &mut out);
                    }
                }
            }
        }
    }
}
