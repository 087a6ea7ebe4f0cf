//! Typed columns and rows, as text and in PostgreSQL's binary format.

use std::borrow::Cow;
use std::time::Duration;

use crate::protocol::rows::{DataRow, Field, RowDescription};

/// Types of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `int4`.
    Int4,
    /// `int8`.
    Int8,
    /// `numeric`.
    Numeric,
    /// `text`.
    Text,
    /// `bool`.
    Bool,
}

impl Type {
    /// Source: `src/include/catalog/pg_type.dat` of PostgreSQL.
    const fn oid(self) -> u32 {
        match self {
            Self::Bool => 16,
            Self::Int8 => 20,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Numeric => 1700,
        }
    }

    const fn bytes(self) -> i16 {
        match self {
            Self::Bool => 1,
            Self::Int4 => 4,
            Self::Int8 => 8,
            Self::Text | Self::Numeric => -1,
        }
    }
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Type of its values.
    pub of: Type,
}

/// Columns of one type.
pub(super) fn columns(of: Type, names: &[&'static str]) -> impl Iterator<Item = Column> + use<> {
    let names = names.to_vec();
    names.into_iter().map(move |name| Column {
        name: Cow::Borrowed(name),
        of,
    })
}

/// A value. It goes into a column of its type; whole numbers go into numeric ones, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Not known, or not applicable.
    Null,
    /// A whole number.
    Int(i64),
    /// A number of thousandths.
    Milli(i64),
    /// A text.
    Text(Cow<'static, str>),
    /// True or false.
    Bool(bool),
}

impl Value {
    /// Milliseconds with three decimals.
    pub(super) fn millis(time: Duration) -> Self {
        Self::Milli(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
    }

    /// A quotient with three decimals, rounded down; 0 if there is nothing to divide by.
    pub(super) fn ratio(of: u128, by: u128) -> Self {
        let milli = (of * 1000).checked_div(by).unwrap_or(0);
        Self::Milli(i64::try_from(milli).unwrap_or(i64::MAX))
    }

    /// A number with three decimals. Beyond their range, and where there is no number, it is the nearest or zero.
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    pub(super) fn decimal(number: f64) -> Self {
        Self::Milli((number * 1000.0).round() as i64)
    }

    /// The nearest whole number.
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    pub(super) fn whole(number: f64) -> Self {
        Self::Int(number.round() as i64)
    }

    /// As text, the first format.
    fn text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Null => return None,
            Self::Int(number) => number.to_string().into(),
            Self::Milli(number) => {
                let sign = if *number < 0 { "-" } else { "" };
                let number = number.unsigned_abs();
                format!("{sign}{}.{:03}", number / 1000, number % 1000).into()
            }
            Self::Text(text) => Cow::Borrowed(text),
            Self::Bool(true) => "t".into(),
            Self::Bool(false) => "f".into(),
        })
    }

    /// As the second format writes this type.
    fn binary(&self, of: Type) -> Option<Vec<u8>> {
        Some(match (self, of) {
            (Self::Null, _) => return None,
            (Self::Int(number), Type::Int4) => i32::try_from(*number)
                .unwrap_or(i32::MAX)
                .to_be_bytes()
                .to_vec(),
            (Self::Int(number), Type::Int8) => number.to_be_bytes().to_vec(),
            (Self::Int(number), Type::Numeric) => numeric(i128::from(*number) * 10_000, 0),
            (Self::Milli(number), _) => numeric(i128::from(*number) * 10, 3),
            (Self::Bool(value), Type::Bool) => vec![u8::from(*value)],
            _ => self.text()?.into_owned().into_bytes(),
        })
    }
}

impl<T: Into<i64>> From<T> for Value {
    fn from(number: T) -> Self {
        Self::Int(number.into())
    }
}

/// A count as a value. Numbers beyond `int8` are shown as its largest.
pub(super) fn count(number: impl TryInto<i64>) -> Value {
    Value::Int(number.try_into().unwrap_or(i64::MAX))
}

/// A text as a value.
pub(super) fn text(text: impl Into<Cow<'static, str>>) -> Value {
    Value::Text(text.into())
}

/// A number of ten-thousandths as numeric: count of base-10000 digits, weight of the first one, sign, decimals shown,
/// digits. Source: `numeric_send` of PostgreSQL.
fn numeric(ten_thousandths: i128, decimals: u16) -> Vec<u8> {
    let sign: u16 = if ten_thousandths < 0 { 0x4000 } else { 0 };
    let mut rest = ten_thousandths.unsigned_abs();
    let mut digits = Vec::new(); // the last one first; that is the fraction
    while rest > 0 {
        digits.push(u16::try_from(rest % 10_000).expect("below 10,000"));
        rest /= 10_000;
    }
    let weight = i16::try_from(digits.len()).expect("ten digits at most") - 2;
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    digits.drain(..zeros);
    let length = u16::try_from(digits.len()).expect("ten digits at most");
    let weight = if digits.is_empty() { 0 } else { weight };
    let mut bytes = Vec::with_capacity(8 + 2 * digits.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&weight.to_be_bytes());
    bytes.extend_from_slice(&sign.to_be_bytes());
    bytes.extend_from_slice(&decimals.to_be_bytes());
    for digit in digits.iter().rev() {
        bytes.extend_from_slice(&digit.to_be_bytes());
    }
    bytes
}

/// A result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Its columns.
    pub columns: Vec<Column>,
    /// As many values per row as there are columns.
    pub rows: Vec<Vec<Value>>,
}

/// What a client asked for each column: 0 text, 1 binary. None: all text; one: all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formats(pub Vec<i16>);

impl Formats {
    fn of(&self, column: usize) -> i16 {
        match self.0.as_slice() {
            [] => 0,
            [all] => *all,
            each => each.get(column).copied().unwrap_or(0),
        }
    }

    /// Is it one for all, or one for each of so many columns?
    pub fn fit(&self, columns: usize) -> bool {
        (self.0.len() < 2 || self.0.len() == columns)
            && self.0.iter().all(|format| matches!(format, 0 | 1))
    }
}

/// Appends a RowDescription.
pub fn put_description(out: &mut Vec<u8>, columns: &[Column], formats: &Formats) {
    let fields = columns.iter().enumerate().map(|(at, column)| Field {
        type_oid: column.of.oid(),
        type_bytes: column.of.bytes(),
        format: formats.of(at),
        ..Field::text(column.name.as_bytes())
    });
    RowDescription::encode(out, fields);
}

impl Rows {
    /// Appends one row.
    pub fn put_row(&self, out: &mut Vec<u8>, row: &[Value], formats: &Formats) {
        debug_assert_eq!(row.len(), self.columns.len(), "{:?}", self.columns);
        let values: Vec<Option<Cow<'_, [u8]>>> = row
            .iter()
            .zip(&self.columns)
            .enumerate()
            .map(|(at, (value, column))| match formats.of(at) {
                0 => value.text().map(|text| match text {
                    Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                    Cow::Owned(text) => Cow::Owned(text.into_bytes()),
                }),
                _ => value.binary(column.of).map(Cow::Owned),
            })
            .collect();
        DataRow::encode(out, values.iter().map(Option::as_deref));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_both_formats() {
        // As `SELECT encode(numeric_send(x), 'hex')` shows them.
        for (value, text, binary) in [
            (Value::Int(0), "0", "0000000000000000"),
            (Value::Int(1), "1", "00010000000000000001"),
            (Value::Int(-12_345), "-12345", "000200014000000000010929"),
            (Value::Int(10_000), "10000", "00010001000000000001"),
            (Value::Milli(1), "0.001", "0001ffff00000003000a"),
            (Value::Milli(1_500), "1.500", "000200000000000300011388"),
            (Value::Milli(-2_000), "-2.000", "00010000400000030002"),
            (Value::Milli(0), "0.000", "0000000000000003"),
        ] {
            assert_eq!(value.text().unwrap(), text);
            let bytes = value.binary(Type::Numeric).unwrap();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, binary, "{text}");
        }
        let int8 = Value::Int(258).binary(Type::Int8).unwrap();
        assert_eq!(int8, [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(Value::Bool(true).binary(Type::Bool).unwrap(), [1]);
        assert_eq!(Value::Bool(false).text().unwrap(), "f");
        assert_eq!(Value::Null.binary(Type::Text), None);
    }

    #[test]
    fn quotients() {
        assert_eq!(Value::ratio(1, 3), Value::Milli(333));
        assert_eq!(Value::ratio(7, 0), Value::Milli(0));
        assert_eq!(
            Value::ratio(u128::from(u64::MAX), 1),
            Value::Milli(i64::MAX)
        );
    }

    #[test]
    fn formats_are_one_for_all_or_one_for_each() {
        assert!(Formats(vec![]).fit(3) && Formats(vec![1]).fit(3) && Formats(vec![0, 1, 0]).fit(3));
        assert!(!Formats(vec![0, 1]).fit(3) && !Formats(vec![2]).fit(3));
    }
}
