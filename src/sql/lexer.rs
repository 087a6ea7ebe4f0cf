//! Tokens of PostgreSQL's SQL: one pass over the text, nothing allocated, nothing copied.
//!
//! The lexer finds where tokens begin and end and what kind they are; it does not check them. Where the text
//! is not valid SQL, PostgreSQL refuses all of it before it runs any of it (a simple query is parsed whole), so
//! a token cut differently there has no effect that we could miss.
//!
//! Source: <https://www.postgresql.org/docs/current/sql-syntax-lexical.html>

use memchr::{memchr, memchr2};

use super::encodings;
use super::set::boolean;

/// Reads the tokens of one text, in order and without gaps: their bytes, put together, are the text.
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    /// What is read; bytes in the client's encoding, without the protocol's terminating zero.
    text: &'a [u8],
    /// `0 <= at <= text.len()`: everything before it has been returned.
    at: usize,
    dialect: Dialect,
}

/// One token: `text[start..end]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Offset of its first byte.
    pub start: usize,
    /// Offset past its last byte, above `start`.
    pub end: usize,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// White space, as much as there is.
    Space,
    /// `-- …` up to the end of the line, or `/* … */`, which nests.
    Comment,
    /// A key word or an unquoted name.
    Word,
    /// `"…"`, doubled quotes within.
    QuotedName,
    /// `U&"…"`.
    UnicodeName,
    /// `'…'` or `N'…'`, with its continuations on further lines.
    String,
    /// `E'…'`, with its continuations.
    EscapeString,
    /// `U&'…'`, with its continuations.
    UnicodeString,
    /// `B'…'` or `X'…'`.
    BitString,
    /// `$$…$$` or `$tag$…$tag$`.
    DollarString,
    /// An integer or decimal number without sign.
    Number,
    /// `$1`
    Parameter,
    /// One or more of `~!@#^&|?+-*/%<>=` and the backquote.
    Operator,
    /// `,`
    Comma,
    /// `.`
    Dot,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `;`
    Semicolon,
    /// A byte of any other meaning: brackets, colons, and what PostgreSQL would refuse.
    Other,
    /// A string, quoted name or comment whose end cannot be told: the text ends within it, or a backslash may
    /// be half of a character (see [`Dialect::overlapping`]). It extends to the end of the text.
    Unterminated,
}

/// What the session's settings change about the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    /// `standard_conforming_strings` is off: a backslash escapes in `'…'` as it does in `E'…'`.
    pub backslashes: bool,
    /// The client's encoding has characters whose second byte may be a backslash (Shift JIS, Big5, GBK, …).
    /// PostgreSQL converts before it reads; we do not, and give up at a backslash that may be such a byte.
    pub overlapping: bool,
}

impl Dialect {
    /// The dialect for two run-time parameters, as the server reports them or a client has spelt them.
    pub fn of(standard_conforming_strings: &[u8], client_encoding: &[u8]) -> Self {
        Self {
            backslashes: standard_conforming_strings != b"on"
                && boolean(standard_conforming_strings) == Some(false),
            overlapping: encodings::is_overlapping(client_encoding),
        }
    }
}

impl Token {
    /// Is it this word, in whatever case, without quotes?
    pub fn is_word(&self, text: &[u8], word: &str) -> bool {
        self.kind == Kind::Word && self.of(text).eq_ignore_ascii_case(word.as_bytes())
    }

    /// The bytes of the token in the text that it was read from.
    pub fn of<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

impl Kind {
    /// White space and comments.
    pub fn is_blank(self) -> bool {
        matches!(self, Kind::Space | Kind::Comment)
    }
}

/// Bytes of an operator; PostgreSQL refuses more, so how they are divided does not matter.
const OPERATOR_MAX: usize = 64;

impl<'a> Lexer<'a> {
    /// Starts at the beginning of a text.
    pub fn new(text: &'a [u8], dialect: Dialect) -> Self {
        Self {
            text,
            at: 0,
            dialect,
        }
    }

    /// The whole text that is being read.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// The token that begins there, if one does and has an end.
    #[inline]
    pub(super) fn token_at(&self, start: usize) -> Option<Token> {
        let (kind, end) = self.token(start, *self.text.get(start)?);
        let end = end?;
        Some(Token { kind, start, end })
    }

    /// The next token that is neither white space nor a comment.
    #[inline]
    pub fn next_solid(&mut self) -> Option<Token> {
        self.find(|token| !token.kind.is_blank())
    }

    #[inline]
    fn byte(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    fn from(&self, at: usize) -> &'a [u8] {
        self.text.get(at..).unwrap_or_default()
    }

    /// Past the last byte of a run of bytes of the given class.
    #[inline]
    fn run(&self, from: usize, class: u8) -> usize {
        let rest = self.from(from);
        let len = rest.iter().position(|&b| !is(b, class));
        from + len.unwrap_or(rest.len())
    }

    /// Finds the end of the token that starts at `at` with `first`; none if it has no end.
    #[inline]
    fn token(&self, at: usize, first: u8) -> (Kind, Option<usize>) {
        let kind = match first {
            b' ' | b'\t'..=b'\r' => return (Kind::Space, Some(self.run(at + 1, SPACE))),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => return self.word(at, first),
            b'0'..=b'9' => return (Kind::Number, Some(self.number(at))),
            b'.' if self.byte(at + 1).is_ascii_digit() => {
                return (Kind::Number, Some(self.number(at)))
            }
            b'-' if self.byte(at + 1) == b'-' => {
                return (Kind::Comment, Some(self.line_end(at + 2)))
            }
            b'/' if self.byte(at + 1) == b'*' => return (Kind::Comment, self.comment_end(at + 2)),
            b'\'' => return (Kind::String, self.string(at + 1, self.dialect.backslashes)),
            b'"' => return (Kind::QuotedName, self.quoted_name(at + 1)),
            b'$' => return self.dollar(at),
            b',' => Kind::Comma,
            b'.' => Kind::Dot,
            b'(' => Kind::Open,
            b')' => Kind::Close,
            b';' => Kind::Semicolon,
            _ if is(first, OPERATOR) => return (Kind::Operator, Some(self.operator(at))),
            _ => Kind::Other,
        };
        (kind, Some(at + 1))
    }

    #[inline]
    fn word(&self, at: usize, first: u8) -> (Kind, Option<usize>) {
        match (first | 0x20, self.byte(at + 1)) {
            (b'e', b'\'') => (Kind::EscapeString, self.string(at + 2, true)),
            (b'b' | b'x', b'\'') => (Kind::BitString, self.string(at + 2, false)),
            (b'n', b'\'') => (Kind::String, self.string(at + 2, self.dialect.backslashes)),
            (b'u', b'&') if self.byte(at + 2) == b'\'' => {
                (Kind::UnicodeString, self.string(at + 3, false))
            }
            (b'u', b'&') if self.byte(at + 2) == b'"' => {
                (Kind::UnicodeName, self.quoted_name(at + 3))
            }
            _ => (Kind::Word, Some(self.run(at + 1, WORD))),
        }
    }

    fn number(&self, start: usize) -> usize {
        let mut at = start;
        if self.byte(at) == b'0' && matches!(self.byte(at + 1) | 0x20, b'x' | b'o' | b'b') {
            let digits = self.run(at + 2, HEX);
            if digits > at + 2 {
                return digits;
            }
        }
        at = self.run(at, DIGIT);
        if self.byte(at) == b'.' {
            at = self.run(at + 1, DIGIT);
        }
        if self.byte(at) | 0x20 == b'e' {
            let sign = usize::from(matches!(self.byte(at + 1), b'+' | b'-'));
            if self.byte(at + 1 + sign).is_ascii_digit() {
                at = self.run(at + 1 + sign, DIGIT);
            }
        }
        at
    }

    /// An operator ends where a comment begins within it. Signs at its end are those of what follows, as in `=-1`, unless it has a
    /// character that no operator of the SQL standard has.
    fn operator(&self, start: usize) -> usize {
        let mut at = start + 1;
        while at - start < OPERATOR_MAX
            && is(self.byte(at), OPERATOR)
            && !matches!(
                (self.byte(at), self.byte(at + 1)),
                (b'-', b'-') | (b'/', b'*')
            )
        {
            at += 1;
        }
        let text = self.text.get(start..at).unwrap_or_default();
        if !text.iter().any(|byte| b"~!@#%^&|`?".contains(byte)) {
            let signs = text.iter().rev().take_while(|byte| b"+-".contains(byte));
            at = (at - signs.count()).max(start + 1);
        }
        at
    }

    fn line_end(&self, from: usize) -> usize {
        let rest = self.from(from);
        from + memchr2(b'\n', b'\r', rest).unwrap_or(rest.len())
    }

    fn comment_end(&self, from: usize) -> Option<usize> {
        let mut depth = 1_usize;
        let mut at = from;
        loop {
            at += memchr2(b'*', b'/', self.from(at))?;
            match (self.byte(at), self.byte(at + 1)) {
                (b'*', b'/') => {
                    at += 2;
                    depth -= 1;
                    if depth == 0 {
                        return Some(at);
                    }
                }
                (b'/', b'*') => {
                    at += 2;
                    depth += 1;
                }
                _ => at += 1,
            }
        }
    }

    fn quoted_name(&self, mut at: usize) -> Option<usize> {
        loop {
            at += memchr(b'"', self.from(at))? + 1;
            if self.byte(at) != b'"' {
                return Some(at);
            }
            at += 1;
        }
    }

    /// Past a string whose first byte after the opening quote is at `at`, continuations included.
    fn string(&self, mut at: usize, escapes: bool) -> Option<usize> {
        loop {
            if escapes {
                at += memchr2(b'\'', b'\\', self.from(at))?;
                if self.byte(at) == b'\\' {
                    let half = self.dialect.overlapping && self.byte(at.wrapping_sub(1)) >= 0x80;
                    if half || at + 1 >= self.text.len() {
                        return None;
                    }
                    at += 2;
                    continue;
                }
            } else {
                at += memchr(b'\'', self.from(at))?;
            }
            at += 1;
            if self.byte(at) == b'\'' {
                at += 1;
            } else if let Some(next) = continuation(self.text, at) {
                at = next;
            } else {
                return Some(at);
            }
        }
    }

    /// `$1`, `$$…$$`, `$tag$…$tag$`, or a lone dollar sign.
    fn dollar(&self, at: usize) -> (Kind, Option<usize>) {
        let next = self.byte(at + 1);
        if next.is_ascii_digit() {
            let rest = self.from(at + 1);
            let digits = rest.iter().position(|b| !b.is_ascii_digit());
            return (Kind::Parameter, Some(at + 1 + digits.unwrap_or(rest.len())));
        }
        let tag_end = self.run(at + 1, TAG);
        if self.byte(tag_end) != b'$' {
            return (Kind::Other, Some(at + 1));
        }
        let tag = self.text.get(at..=tag_end).unwrap_or_default();
        let mut end = tag_end + 1;
        loop {
            let Some(dollar) = memchr(b'$', self.from(end)) else {
                return (Kind::DollarString, None);
            };
            end += dollar;
            if self.from(end).starts_with(tag) {
                return (Kind::DollarString, Some(end + tag.len()));
            }
            end += 1;
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    #[inline]
    fn next(&mut self) -> Option<Token> {
        let start = self.at;
        let first = *self.text.get(start)?;
        let (kind, end) = self.token(start, first);
        let (kind, end) = match end {
            Some(end) => (kind, end),
            None => (Kind::Unterminated, self.text.len()),
        };
        self.at = end;
        Some(Token { kind, start, end })
    }
}

/// A string literal goes on if, after its closing quote, white space with a line break and another quote
/// follow. Answers the offset past that quote. Comments of the `--` kind count as white space.
pub(super) fn continuation(text: &[u8], closed: usize) -> Option<usize> {
    let mut at = closed;
    let mut new_line = false;
    loop {
        match *text.get(at)? {
            b'\n' | b'\r' => new_line = true,
            b' ' | b'\t' | 0x0b | 0x0c => {}
            b'-' if text.get(at + 1) == Some(&b'-') => {
                at += memchr2(b'\n', b'\r', text.get(at..)?)?;
                continue;
            }
            b'\'' if new_line => return Some(at + 1),
            _ => return None,
        }
        at += 1;
    }
}

const WORD: u8 = 1;
const SPACE: u8 = 2;
const DIGIT: u8 = 4;
const HEX: u8 = 8;
const OPERATOR: u8 = 16;
const TAG: u8 = 32;

#[inline]
fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

const CLASSES: [u8; 256] = {
    let mut classes = [0_u8; 256];
    let mut byte = 0_u8;
    loop {
        classes[byte as usize] = match byte {
            b'0'..=b'9' => WORD | DIGIT | HEX | TAG,
            b'a'..=b'f' | b'A'..=b'F' => WORD | HEX | TAG,
            b'_' => WORD | DIGIT | HEX | TAG,
            b'a'..=b'z' | b'A'..=b'Z' | 0x80..=0xff => WORD | TAG,
            b'$' => WORD,
            b' ' | b'\t'..=b'\r' => SPACE,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*'
            | b'/' | b'%' | b'<' | b'>' | b'=' => OPERATOR,
            _ => 0,
        };
        if byte == u8::MAX {
            break classes;
        }
        byte += 1;
    }
};

/// Fuzz entry: any bytes are cut into tokens without gaps, in every dialect.
#[cfg(any(test, fuzzing))]
pub fn fuzz_lexer(data: &[u8]) {
    for bits in 0..4_u8 {
        let dialect = Dialect {
            backslashes: bits & 1 != 0,
            overlapping: bits & 2 != 0,
        };
        let mut at = 0;
        for token in Lexer::new(data, dialect) {
            assert_eq!(token.start, at, "tokens leave no gap");
            assert!(token.end > token.start, "a token has a byte");
            if token.kind == Kind::Unterminated {
                assert_eq!(
                    token.end,
                    data.len(),
                    "nothing follows an unterminated token"
                );
            }
            at = token.end;
        }
        assert_eq!(at, data.len(), "tokens cover the text");
    }
}

#[cfg(test)]
mod tests;
