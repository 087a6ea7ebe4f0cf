//! Reading one statement word by word, for the few statements that are looked into.

use super::keyword::Keyword as K;
use super::lexer::{continuation, Dialect, Kind, Lexer, Token};
use super::quote;

/// A name as PostgreSQL stores it: unquoted ones in lower case. Bytes in the client's encoding.
pub type Name = Box<[u8]>;

/// PostgreSQL cuts names after this many bytes (`NAMEDATALEN - 1`).
const NAME_BYTES_MAX: usize = 63;

/// The solid tokens of a statement, one ahead.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    lexer: Lexer<'a>,
    dialect: Dialect,
    next: Option<Token>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8], dialect: Dialect) -> Self {
        let mut lexer = Lexer::new(text, dialect);
        let next = lexer.next_solid();
        Self {
            lexer,
            dialect,
            next,
        }
    }

    /// The next token, not yet taken.
    pub(super) fn peek(&self) -> Option<Token> {
        self.next
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        self.next.map(|token| token.kind)
    }

    /// The next token as a word; Unknown for anything else.
    pub(super) fn keyword(&self) -> K {
        match self.next {
            Some(token) if token.kind == Kind::Word => K::find(token.of(self.lexer.text())),
            _ => K::Unknown,
        }
    }

    /// The bytes of the next token.
    pub(super) fn bytes(&self) -> &'a [u8] {
        let text = self.lexer.text();
        self.next.map_or(b"", |token| token.of(text))
    }

    pub(super) fn at_end(&self) -> bool {
        self.next.is_none()
    }

    pub(super) fn advance(&mut self) {
        self.next = self.lexer.next_solid();
    }

    /// The cursor behind the next token.
    pub(super) fn after(&self) -> Self {
        let mut after = self.clone();
        after.advance();
        after
    }

    /// Takes this word if it is next.
    pub(super) fn eat(&mut self, word: K) -> bool {
        let found = self.keyword() == word;
        if found {
            self.advance();
        }
        found
    }

    /// Takes a token of this kind if it is next.
    pub(super) fn eat_kind(&mut self, kind: Kind) -> bool {
        let found = self.kind() == Some(kind);
        if found {
            self.advance();
        }
        found
    }

    /// Takes a word by its spelling.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found =
            self.kind() == Some(Kind::Word) && self.bytes().eq_ignore_ascii_case(word.as_bytes());
        if found {
            self.advance();
        }
        found
    }

    /// Takes this operator if it is next.
    pub(super) fn eat_operator(&mut self, operator: &[u8]) -> bool {
        let found = self.kind() == Some(Kind::Operator) && self.bytes() == operator;
        if found {
            self.advance();
        }
        found
    }

    /// Takes a name. None if there is none, or one that we cannot spell as PostgreSQL would: `U&"…"`, or one
    /// that is cut and not plain ASCII.
    pub(super) fn name(&mut self) -> Option<Name> {
        let bytes = self.bytes();
        let mut name = match self.kind()? {
            Kind::Word => bytes.to_ascii_lowercase(),
            Kind::QuotedName => {
                let mut name = Vec::with_capacity(bytes.len());
                let mut inner = bytes.get(1..bytes.len().saturating_sub(1))?.iter();
                while let Some(&byte) = inner.next() {
                    if byte == b'"' {
                        inner.next(); // the second of two
                    }
                    name.push(byte);
                }
                name
            }
            _ => return None,
        };
        if name.len() > NAME_BYTES_MAX {
            if !name.is_ascii() {
                return None;
            }
            name.truncate(NAME_BYTES_MAX);
        }
        self.advance();
        Some(name.into())
    }

    /// Takes a string literal and spells it so that `standard_conforming_strings` and `backslash_quote` make no
    /// difference: `'…'` without backslashes or `E'…'`. None if there is none, or it is of another form.
    pub(super) fn literal(&mut self) -> Option<Vec<u8>> {
        let bytes = self.bytes();
        let literal = match self.kind()? {
            Kind::String => plain_literal(bytes, self.dialect.backslashes)?,
            Kind::EscapeString => plain_literal(bytes.get(1..)?, true)?,
            Kind::DollarString => {
                let tag = bytes.iter().skip(1).position(|&b| b == b'$')? + 2;
                quote::literal(bytes.get(tag..bytes.len().checked_sub(tag)?)?)
            }
            _ => return None,
        };
        if self.dialect.overlapping && literal.contains(&b'\\') {
            return None; // the backslash may be half of a character
        }
        self.advance();
        Some(literal)
    }
}

/// From a literal that begins with its quote; `escapes` says what a backslash in it means.
fn plain_literal(bytes: &[u8], escapes: bool) -> Option<Vec<u8>> {
    let mut body = Vec::with_capacity(bytes.len() + 1);
    let mut at = 1;
    if bytes.first() != Some(&b'\'') {
        return None; // N'…' is not a value of SET
    }
    loop {
        match *bytes.get(at)? {
            b'\\' if escapes => {
                match *bytes.get(at + 1)? {
                    b'\'' => body.extend(b"''"),
                    escaped => body.extend([b'\\', escaped]),
                }
                at += 2;
            }
            b'\\' => {
                body.extend(b"\\\\");
                at += 1;
            }
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => {
                body.extend(b"''");
                at += 2;
            }
            b'\'' => match continuation(bytes, at + 1) {
                Some(next) => at = next,
                None => break,
            },
            byte => {
                body.push(byte);
                at += 1;
            }
        }
    }
    let mut literal = Vec::with_capacity(body.len() + 3);
    if body.contains(&b'\\') {
        literal.push(b'E');
    }
    literal.push(b'\'');
    literal.extend(body);
    literal.push(b'\'');
    Some(literal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_as_postgresql_stores_them() {
        let long = "X".repeat(70);
        let cases = [
            ("Foo", Some("foo".to_owned())),
            ("\"Foo\"\"Bar\"", Some("Foo\"Bar".to_owned())),
            ("É1", Some("É1".to_owned())),
            ("U&\"a\"", None),
            ("'a'", None),
            ("", None),
            (&long, Some("x".repeat(63))),
            (&format!("\"{}é\"", "a".repeat(62)), None),
        ];
        for (text, expected) in cases {
            let name = Cursor::new(text.as_bytes(), Dialect::default()).name();
            assert_eq!(
                name.as_deref(),
                expected.as_deref().map(str::as_bytes),
                "{text}"
            );
        }
    }

    #[test]
    fn literals_mean_the_same_under_all_settings() {
        let backslashes = Dialect {
            backslashes: true,
            ..Dialect::default()
        };
        let overlapping = Dialect {
            overlapping: true,
            ..Dialect::default()
        };
        let standard = Dialect::default();
        let cases = [
            (standard, "'a''b'", Some("'a''b'")),
            (standard, r"'a\'", Some(r"E'a\\'")),
            (backslashes, r"'a\n\''", Some(r"E'a\n'''")),
            (backslashes, "'a'", Some("'a'")),
            (standard, r"E'a\'b'", Some("'a''b'")),
            (standard, r"e'a\\b'", Some(r"E'a\\b'")),
            (standard, "'a' -- x\n'b'", Some("'ab'")),
            (standard, "$x$a'b\\$x$", Some(r"E'a''b\\'")),
            (standard, "$$$$", Some("''")),
            (overlapping, r"'a\'", None),
            (standard, "N'a'", None),
            (standard, "B'1'", None),
            (standard, "a", None),
        ];
        for (dialect, text, expected) in cases {
            let literal = Cursor::new(text.as_bytes(), dialect).literal();
            assert_eq!(literal.as_deref(), expected.map(str::as_bytes), "{text}");
        }
    }
}
