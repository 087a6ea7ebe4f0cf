//! How deep the tree of a text can be, told from its tokens: never less than it is.
//!
//! Parentheses and brackets nest. Within them operators and words do (`a + b + c`, `NOT NOT a`), up to a comma, AND,
//! OR or the next clause, where a sibling begins; JOIN, UNION and CASE nest beyond those.

use super::lexer::{Dialect, Kind, Lexer, Token};

/// Levels that a query, a list or an expression in parentheses has by itself.
const BASE: usize = 6;
/// Levels that JOIN, UNION and CASE may add.
const SPINE: usize = 2;

/// No tree of the text is deeper.
pub(super) fn levels(text: &[u8], dialect: Dialect) -> usize {
    let mut depth = Depth::default();
    let solid = Lexer::new(text, dialect).filter(|token| !token.kind.is_blank());
    solid.for_each(|token| depth.take(token, text));
    depth.most.max(BASE)
}

#[derive(Debug, Default)]
struct Depth {
    /// Of the parentheses around the innermost ones.
    outer: Vec<Nest>,
    /// Sum of the levels of `outer`.
    below: usize,
    inner: Nest,
    most: usize,
}

/// Within one pair of parentheses.
#[derive(Clone, Copy, Debug, Default)]
struct Nest {
    /// Words that nest beyond siblings.
    spine: usize,
    /// Tokens that may nest since the last sibling.
    chain: usize,
}

impl Nest {
    fn levels(self) -> usize {
        BASE + SPINE * self.spine + self.chain
    }
}

impl Depth {
    /// Takes a token in that is neither white space nor a comment.
    fn take(&mut self, token: Token, text: &[u8]) {
        match token.kind {
            Kind::Word => {
                self.inner.chain += 1;
                self.word(token.of(text));
            }
            // `+-+-` is one token here and four for PostgreSQL.
            Kind::Operator => self.inner.chain += token.end - token.start,
            Kind::Open => self.open(),
            Kind::Close => self.close(),
            Kind::Other => match token.of(text) {
                b"[" => self.open(),
                b"]" => self.close(),
                _ => self.inner.chain += 1,
            },
            Kind::Comma | Kind::Semicolon => self.inner.chain = 0,
            _ => return,
        }
        self.most = self.most.max(self.below + self.inner.levels());
    }

    fn word(&mut self, word: &[u8]) {
        let is = |other: &[u8]| word.eq_ignore_ascii_case(other);
        match word.len() {
            2 if is(b"or") => self.inner.chain = 0,
            3 if is(b"and") => self.inner.chain = 0,
            5 if is(b"where") || is(b"group") || is(b"order") || is(b"limit") => {
                self.inner.chain = 0;
            }
            4 if is(b"join") || is(b"case") => self.inner.spine += 1,
            5 if is(b"union") => self.inner.spine += 1,
            6 if is(b"except") => self.inner.spine += 1,
            9 if is(b"intersect") => self.inner.spine += 1,
            _ => {}
        }
    }

    fn open(&mut self) {
        self.below += self.inner.levels();
        self.outer.push(self.inner);
        self.inner = Nest::default();
    }

    fn close(&mut self) {
        if let Some(nest) = self.outer.pop() {
            self.below -= nest.levels();
            self.inner = nest;
            // `(…)` may be followed by `.a`, `[1]` or an operator: it is an operand like any other.
            self.inner.chain += 1;
        }
    }
}
