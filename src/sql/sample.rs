//! SQL as it may stand in a log: on one line, cut to a length, and without passwords.

use super::lexer::{Dialect, Kind, Lexer};

/// In place of a literal that is or may hold a password.
const HIDDEN: &str = "'***'";

/// The first characters of a text, at most `chars_max` of them; `…` at the end says that there is more.
///
/// Literals behind the word PASSWORD (`CREATE ROLE`, `ALTER ROLE`, user mappings), and literals and comments in which
/// that word stands (connection strings, bodies of functions), are hidden. White space becomes one blank, control
/// characters are escaped. What a client writes into its own tables is shown.
pub fn sample(text: &[u8], dialect: Dialect, chars_max: usize) -> String {
    let mut out = String::new();
    let mut left = chars_max;
    let mut password_next = false;
    for token in Lexer::new(text, dialect) {
        let bytes = token.of(text);
        let hidden = match token.kind {
            Kind::String
            | Kind::EscapeString
            | Kind::UnicodeString
            | Kind::BitString
            | Kind::DollarString
            | Kind::Unterminated => password_next || names_password(bytes),
            Kind::Comment => names_password(bytes),
            _ => false,
        };
        let whole = match token.kind {
            Kind::Space => put(&mut out, &mut left, " ".chars()),
            _ if hidden => put(&mut out, &mut left, HIDDEN.chars()),
            // No character has more than four bytes: what cannot be shown is not decoded.
            _ => {
                let shown = bytes.get(..left.saturating_mul(4)).unwrap_or(bytes);
                put(&mut out, &mut left, String::from_utf8_lossy(shown).chars())
                    && shown.len() == bytes.len()
            }
        };
        if !whole {
            out.push('…');
            return out;
        }
        password_next = match token.kind {
            Kind::Word if password_next && bytes.eq_ignore_ascii_case(b"to") => true,
            Kind::Word => bytes.eq_ignore_ascii_case(b"password"),
            Kind::Space | Kind::Comment | Kind::Operator => password_next,
            _ => false,
        };
    }
    out
}

/// False: there was no room for all of them.
fn put(out: &mut String, left: &mut usize, chars: impl Iterator<Item = char>) -> bool {
    for char in chars {
        if *left == 0 {
            return false;
        }
        *left -= 1;
        match char.is_control() {
            true => out.extend(char.escape_default()),
            false => out.push(char),
        }
    }
    true
}

fn names_password(bytes: &[u8]) -> bool {
    const WORD: &[u8] = b"password";
    memchr::memchr2_iter(b'p', b'P', bytes).any(|at| {
        let word = bytes.get(at..at + WORD.len());
        word.is_some_and(|word| word.eq_ignore_ascii_case(WORD))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_so_many_characters() {
        for (text, shown) in [
            ("SELECT 1", "SELECT 1"),
            ("SELECT\n\t 'a\nb'", "SELECT 'a\\nb'"),
            ("", ""),
            ("SELECT 'äöü', 1234567890123", "SELECT 'äöü', 123456…"),
            ("SELECT '\u{1b}[2J'", "SELECT '\\u{1b}[2J'"),
        ] {
            assert_eq!(sample(text.as_bytes(), Dialect::default(), 20), shown);
        }
        assert_eq!(sample(b"SELECT 1", Dialect::default(), 0), "…");
        assert_eq!(sample(b"\xff\x00", Dialect::default(), 9), "\u{fffd}\\u{0}");
    }

    #[test]
    fn passwords_are_never_shown() {
        for text in [
            "ALTER ROLE r PASSWORD 's3cret'",
            "alter role r encrypted password\n/* to be */ 's3cret' valid until 'tomorrow'",
            "CREATE USER MAPPING FOR u SERVER s OPTIONS (user 'u', password 's3cret')",
            "ALTER ROLE r PASSWORD $$s3cret$$",
            "ALTER ROLE r PASSWORD E's3cret\\''",
            "ALTER ROLE r PASSWORD 's3cret",
            "CREATE SUBSCRIPTION s CONNECTION 'host=h Password=s3cret' PUBLICATION p",
            "SELECT dblink('host=h password=''s3cret''', 'SELECT 1')",
            "DO $$ BEGIN EXECUTE 'ALTER ROLE r PASSWORD ''s3cret'''; END $$",
            "SELECT 1 -- password: s3cret",
            "SET my.password = 's3cret'",
            "SET my.password TO 's3cret'",
        ] {
            let shown = sample(text.as_bytes(), Dialect::default(), 1000);
            assert!(!shown.contains("s3cret"), "{shown}");
            assert!(shown.contains(HIDDEN), "{shown}");
        }
        let plain = "SELECT password, 'x' FROM accounts WHERE password_set AND name = 'y'";
        assert_eq!(sample(plain.as_bytes(), Dialect::default(), 1000), plain);
    }
}
