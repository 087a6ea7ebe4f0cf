//! Names and texts as they are written into statements, so that they mean the same under all settings.

use super::lexer::Dialect;

/// A text as a string literal, whatever `standard_conforming_strings` is. In an encoding in which a backslash may be half
/// of a character the text must be ASCII.
///
/// Source: PostgreSQL's documentation, "String Constants with C-Style Escapes".
pub fn literal(text: &[u8]) -> Vec<u8> {
    let mut literal = Vec::with_capacity(text.len() + 3);
    if text.contains(&b'\\') {
        literal.push(b'E');
    }
    literal.push(b'\'');
    for &byte in text {
        if matches!(byte, b'\'' | b'\\') {
            literal.push(byte);
        }
        literal.push(byte);
    }
    literal.push(b'\'');
    literal
}

/// A value as it is written into a statement: NULL, or a literal. `None`: it cannot be, in an encoding in which a backslash may be half of a
/// character.
pub fn value(value: Option<&[u8]>, dialect: Dialect) -> Option<Vec<u8>> {
    match value {
        None => Some(b"NULL".to_vec()),
        Some(value) if dialect.overlapping && !value.is_ascii() => None,
        Some(value) => Some(literal(value)),
    }
}

/// A name as an identifier in quotes.
///
/// Source: PostgreSQL's documentation, "Identifiers and Key Words".
pub fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_are_doubled() {
        assert_eq!(literal(b"it's"), b"'it''s'");
        assert_eq!(literal(br"a\b"), br"E'a\\b'");
        assert_eq!(name("a \"b"), "\"a \"\"b\"");
    }

    #[test]
    fn values_are_null_or_literals() {
        let overlapping = Dialect {
            overlapping: true,
            ..Dialect::default()
        };
        for (text, dialect, expected) in [
            (None, overlapping, Some(&b"NULL"[..])),
            (Some(&b"a"[..]), overlapping, Some(b"'a'")),
            (Some(b"\x83\x5c"), overlapping, None),
            (Some(b"\xe4"), Dialect::default(), Some(b"'\xe4'")),
        ] {
            assert_eq!(value(text, dialect).as_deref(), expected);
        }
    }
}
