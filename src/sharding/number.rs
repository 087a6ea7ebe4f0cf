//! Numbers as PostgreSQL reads them: `int8in`, and numeric constants of a statement.

/// What a numeric constant is, compared with integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// This integer, however it is spelled: `7`, `007`, `7.0`, `0.7e1`.
    Integer(i64),
    /// Between two integers; assigned to an integer column it becomes this one.
    Fraction(i64),
    /// No integer of 64 bits, rounded or not.
    TooLarge,
}

/// Digits of an exponent that are looked at: more of them make a number too large or zero anyway.
const EXPONENT_MAX: i64 = 100_000;

/// Reads an integer as the input function of `bigint` does in PostgreSQL 16 and later, which also takes `0x`, `0o`,
/// `0b` and underscores; a server that does not reports it itself. `None`: not an integer of 64 bits.
///
/// Source: <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-CONSTANTS-NUMERIC>
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let text = trim(text);
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let magnitude = magnitude(digits)?;
    match negative {
        true => 0_i64.checked_sub_unsigned(magnitude),
        false => i64::try_from(magnitude).ok(),
    }
}

/// The white space of C's `isspace` in the C locale, from both ends.
fn trim(mut text: &[u8]) -> &[u8] {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    while let [first, rest @ ..] = text {
        if !space(first) {
            break;
        }
        text = rest;
    }
    while let [rest @ .., last] = text {
        if !space(last) {
            break;
        }
        text = rest;
    }
    text
}

fn magnitude(digits: &[u8]) -> Option<u64> {
    let (radix, digits, prefixed) = match digits {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest, true),
        [b'0', b'o' | b'O', rest @ ..] => (8, rest, true),
        [b'0', b'b' | b'B', rest @ ..] => (2, rest, true),
        _ => (10, digits, false),
    };
    let mut value: Option<u64> = None;
    let mut after_underscore = false;
    for byte in digits {
        if *byte == b'_' {
            // Between two digits, or behind a prefix.
            if after_underscore || (value.is_none() && !prefixed) {
                return None;
            }
            after_underscore = true;
            continue;
        }
        after_underscore = false;
        let digit = char::from(*byte).to_digit(radix)?;
        value = Some(
            value
                .unwrap_or_default()
                .checked_mul(u64::from(radix))?
                .checked_add(u64::from(digit))?,
        );
    }
    value.filter(|_| !after_underscore)
}

/// Reads a numeric constant of a statement, with a sign in front at most. `None`: it is none.
pub(super) fn constant(text: &str) -> Option<Number> {
    if let Some(value) = integer(text.as_bytes()) {
        return Some(Number::Integer(value));
    }
    let text = text.trim_ascii();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest.trim_ascii_start()),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, self::exponent(exponent)?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'_')
    };
    let digits = || {
        whole
            .bytes()
            .chain(fraction.bytes())
            .filter(u8::is_ascii_digit)
            .map(|digit| digit - b'0')
    };
    if !is_digits(whole) || !is_digits(fraction) || digits().next().is_none() {
        return None;
    }
    // Digits in front of the point, once the exponent has moved it.
    let count = |part: &str| i64::try_from(part.bytes().filter(u8::is_ascii_digit).count()).ok();
    let whole_digits = count(whole)?.saturating_add(exponent);
    let mut value: i128 = 0;
    let mut half = false;
    let mut exact = true;
    let mut seen = 0_i64;
    for digit in digits() {
        if seen < whole_digits {
            value = value * 10 + i128::from(digit);
            if value > i128::from(u64::MAX) {
                return Some(Number::TooLarge);
            }
        } else {
            if seen == whole_digits {
                half = digit >= 5;
            }
            exact &= digit == 0;
        }
        seen += 1;
    }
    while seen < whole_digits && value != 0 {
        value *= 10;
        if value > i128::from(u64::MAX) {
            return Some(Number::TooLarge);
        }
        seen += 1;
    }
    // Numeric rounds halves away from zero.
    let rounded = value + i128::from(half);
    let signed = if negative { -rounded } else { rounded };
    Some(match (i64::try_from(signed), exact) {
        (Ok(value), true) => Number::Integer(value),
        (Ok(value), false) => Number::Fraction(value),
        (Err(_), _) => Number::TooLarge,
    })
}

fn exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value = 0_i64;
    for byte in digits.bytes().filter(|byte| *byte != b'_') {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = (value * 10 + i64::from(byte - b'0')).min(EXPONENT_MAX);
    }
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        for (text, expected) in [
            ("7", Some(7)),
            ("007", Some(7)),
            ("-0", Some(0)),
            ("+5", Some(5)),
            (" \t5\n", Some(5)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("0x1F", Some(31)),
            ("-0o17", Some(-15)),
            ("0b101", Some(5)),
            ("1_000", Some(1000)),
            ("0x_1f", Some(31)),
            ("_1", None),
            ("1_", None),
            ("1__0", None),
            ("0x", None),
            ("1e3", None),
            ("7.0", None),
            ("- 5", None),
            ("5 5", None),
            ("", None),
            ("  ", None),
            ("-", None),
            ("\u{a0}5", None),
        ] {
            assert_eq!(integer(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn constants() {
        use Number::{Fraction, Integer, TooLarge};
        for (text, expected) in [
            ("1e3", Some(Integer(1000))),
            ("1E+3", Some(Integer(1000))),
            ("7.0", Some(Integer(7))),
            ("7.", Some(Integer(7))),
            ("0.7e1", Some(Integer(7))),
            (".5", Some(Fraction(1))),
            ("-0.5", Some(Fraction(-1))),
            ("0.49", Some(Fraction(0))),
            ("2.5", Some(Fraction(3))),
            ("-2.5", Some(Fraction(-3))),
            ("1500e-3", Some(Fraction(2))),
            ("15e-5", Some(Fraction(0))),
            ("700e-2", Some(Integer(7))),
            ("0e999999999999", Some(Integer(0))),
            ("0.000e-9", Some(Integer(0))),
            ("1e999999999999", Some(TooLarge)),
            ("1e-999999999999", Some(Fraction(0))),
            ("9223372036854775807.4", Some(Fraction(i64::MAX))),
            ("9223372036854775807.5", Some(TooLarge)),
            ("9223372036854775808", Some(TooLarge)),
            ("-9223372036854775808.0", Some(Integer(i64::MIN))),
            ("1_000.5", Some(Fraction(1001))),
            ("", None),
            (".", None),
            ("e5", None),
            ("1e", None),
            ("1x", None),
            ("NaN", None),
        ] {
            assert_eq!(constant(text), expected, "{text:?}");
        }
    }
}
