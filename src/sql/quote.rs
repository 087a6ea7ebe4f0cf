//! Names and texts as they are written into statements, so that they mean the same under all settings.

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
}
