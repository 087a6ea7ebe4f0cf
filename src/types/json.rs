//! jsonb: values that are equal have equal keys.

use super::{numeric, Format, Invalid};

/// Appends a key for equality: the text as PostgreSQL writes a jsonb, in which every number stands as its value, since
/// `1.0` and `1.00` are written apart and are equal. Objects are written with their keys in one order, each once.
///
/// Errors: a string without end, a number that is none. Nothing else is looked at.
///
/// Source: <https://www.postgresql.org/docs/current/datatype-json.html>
pub(super) fn put_equality(format: Format, value: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    let mut rest = match (format, value) {
        (Format::Text, text) | (Format::Binary, [1, text @ ..]) => text,
        (Format::Binary, _) => return Err(Invalid),
    };
    while let Some(first) = rest.first() {
        let length = match first {
            b'"' => string_bytes(rest).ok_or(Invalid)?,
            b'-' | b'0'..=b'9' => {
                let digits = |byte: &u8| matches!(byte, b'-' | b'.' | b'0'..=b'9');
                rest.iter().take_while(|byte| digits(byte)).count()
            }
            _ => 1,
        };
        let (token, tail) = rest.split_at(length);
        match first {
            b'-' | b'0'..=b'9' => {
                // No byte of a text.
                out.push(0);
                numeric::put_key(Format::Text, token, out)?;
            }
            _ => out.extend_from_slice(token),
        }
        rest = tail;
    }
    Ok(())
}

/// Bytes of the string at the beginning, with both quotes.
fn string_bytes(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        match text.get(at)? {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<Vec<u8>, Invalid> {
        let mut out = Vec::new();
        put_equality(Format::Text, text.as_bytes(), &mut out).map(|()| out)
    }

    #[test]
    fn numbers_are_equal_by_value_and_strings_by_bytes() {
        for (a, b) in [
            ("1.0", "1.00"),
            (r#"{"a": [1, 2.50]}"#, r#"{"a": [1.0, 2.5]}"#),
            (r#"[-0.5, "1.0"]"#, r#"[-0.50, "1.0"]"#),
        ] {
            assert_eq!(key(a).unwrap(), key(b).unwrap(), "{a} {b}");
        }
        let values = [
            "1",
            "-1",
            "10",
            "[1]",
            "[[1]]",
            "[1, 1]",
            "[11]",
            "\"1\"",
            "\"1.0\"",
            "\"1.00\"",
            r#""\"1""#,
            r#""\\""#,
            r#"["\\", "1"]"#,
            r#"["\\\", ", 1]"#,
            "true",
            "false",
            "null",
            "{}",
            "[]",
            r#"{"a": 1}"#,
            r#"{"a": "1"}"#,
            r#"{"a": 1, "b": 1}"#,
        ];
        for (at, a) in values.iter().enumerate() {
            for b in &values[at + 1..] {
                let [a, b] = [key(a).unwrap(), key(b).unwrap()];
                assert!(!a.starts_with(&b) && !b.starts_with(&a), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn what_is_cut_off_is_no_value() {
        for text in ["\"", "\"a", r#""a\""#, r#""a\"#, "-", "1.2.3", "1-2"] {
            assert_eq!(key(text), Err(Invalid), "{text}");
        }
        let mut out = Vec::new();
        let mut binary = |value: &[u8]| put_equality(Format::Binary, value, &mut out);
        assert_eq!(binary(b"\x01[]"), Ok(()));
        assert_eq!(binary(b"\x02[]"), Err(Invalid));
        assert_eq!(binary(b""), Err(Invalid));
    }
}
