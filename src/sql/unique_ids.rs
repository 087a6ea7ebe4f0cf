//! Calls of `pgdog.unique_id()` in a text, each of which becomes a number: no server has that function.

use super::lexer::{Dialect, Kind, Lexer, Token};
use crate::error::Error;
use crate::merge::refused;

const SCHEMA: &[u8] = b"pgdog";
const FUNCTION: &[u8] = b"unique_id";
/// Statements in which calls are replaced: in definitions they would become constants.
const STATEMENTS: [&str; 8] = [
    "select", "insert", "update", "delete", "merge", "with", "values", "explain",
];

/// May the text call it? Cheap, and never no when it does.
pub fn mentions(text: &[u8]) -> bool {
    memchr::memchr_iter(b'_', text).any(|at| {
        let name = at
            .checked_sub(6)
            .and_then(|start| text.get(start..start + FUNCTION.len()));
        name.is_some_and(|name| name.eq_ignore_ascii_case(FUNCTION))
    })
}

/// The text with a number from `next` in the place of each call. `None`: there is none.
///
/// Errors: those of `next`; 0A000 for an INSERT of a query's rows, each of which would have the same number.
pub fn replace(
    text: &[u8],
    dialect: Dialect,
    mut next: impl FnMut() -> Result<i64, Error>,
) -> Result<Option<Vec<u8>>, Error> {
    let tokens: Vec<_> = Lexer::new(text, dialect)
        .filter(|token| !token.kind.is_blank())
        .collect();
    let mut out = Vec::with_capacity(text.len() + 32);
    let mut copied = 0;
    let mut scan = Scan::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let previous = at.checked_sub(1).and_then(|before| tokens.get(before));
        let qualified = previous.is_some_and(|token| token.kind == Kind::Dot);
        let call = tokens.get(at..).and_then(|rest| call(text, rest));
        match call {
            Some(length) if scan.replaces == Some(true) && !qualified => {
                let end = tokens
                    .get(at + length - 1)
                    .map_or(token.end, |last| last.end);
                scan.called();
                out.extend_from_slice(text.get(copied..token.start).unwrap_or_default());
                out.extend_from_slice(next()?.to_string().as_bytes());
                copied = end;
                at += length;
            }
            _ => {
                scan.see(*token, text);
                at += 1;
            }
        }
        if scan.is_for_each_row() {
            return Err(refused(
                "pgdog.unique_id() for each row of an INSERT … SELECT",
            ));
        }
    }
    if copied == 0 {
        return Ok(None);
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    Ok(Some(out))
}

/// How many tokens a call has that begins here.
fn call(text: &[u8], tokens: &[Token]) -> Option<usize> {
    let [schema, dot, function, open, close, ..] = tokens else {
        return None;
    };
    let is = |token: &Token, name: &[u8]| match token.kind {
        Kind::Word => token.of(text).eq_ignore_ascii_case(name),
        Kind::QuotedName => token.of(text) == [b"\"", name, b"\""].concat(),
        _ => false,
    };
    let kinds = [dot.kind, open.kind, close.kind];
    let fits = is(schema, SCHEMA)
        && is(function, FUNCTION)
        && kinds == [Kind::Dot, Kind::Open, Kind::Close];
    fits.then_some(5)
}

/// What of a statement has been seen.
#[derive(Default)]
struct Scan {
    /// Its first word, and whether calls are replaced after that.
    replaces: Option<bool>,
    inserts: bool,
    query: Query,
    reads: bool,
}

#[derive(Default, PartialEq, Eq)]
enum Query {
    #[default]
    None,
    /// It has one.
    Begun,
    /// It calls the function in one, or behind it.
    Calls,
}

impl Scan {
    fn see(&mut self, token: Token, text: &[u8]) {
        if token.kind == Kind::Semicolon {
            *self = Self::default();
            return;
        }
        if token.kind != Kind::Word {
            return;
        }
        let is = |word: &str| token.of(text).eq_ignore_ascii_case(word.as_bytes());
        self.replaces
            .get_or_insert_with(|| STATEMENTS.iter().any(|word| is(word)));
        self.inserts |= is("insert");
        self.reads |= is("from") || is("table");
        if is("select") && self.query == Query::None {
            self.query = Query::Begun;
        }
    }

    fn called(&mut self) {
        if self.query == Query::Begun {
            self.query = Query::Calls;
        }
    }

    fn is_for_each_row(&self) -> bool {
        self.inserts && self.reads && self.query == Query::Calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> Result<Option<String>, Error> {
        let mut last = 0;
        let next = || {
            last += 1;
            Ok(last)
        };
        let out = replace(text.as_bytes(), Dialect::default(), next)?;
        Ok(out.map(|out| String::from_utf8(out).unwrap()))
    }

    #[test]
    fn calls_become_numbers() {
        for (text, expected) in [
            (
                "INSERT INTO t VALUES (pgdog.unique_id(), 'pgdog.unique_id()')",
                "INSERT INTO t VALUES (1, 'pgdog.unique_id()')",
            ),
            (
                "select PgDog . \"unique_id\" ( )::text, pgdog.unique_id() -- pgdog.unique_id()",
                "select 1::text, 2 -- pgdog.unique_id()",
            ),
            (
                "SELECT 1; EXPLAIN SELECT * FROM t WHERE a = pgdog.unique_id()",
                "SELECT 1; EXPLAIN SELECT * FROM t WHERE a = 1",
            ),
            (
                "INSERT INTO t SELECT pgdog.unique_id(), 'x'",
                "INSERT INTO t SELECT 1, 'x'",
            ),
            (
                "UPDATE t SET a = $1 + pgdog.unique_id() WHERE b = $2",
                "UPDATE t SET a = $1 + 1 WHERE b = $2",
            ),
        ] {
            assert!(mentions(text.as_bytes()), "{text}");
            assert_eq!(replaced(text).unwrap().as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_no_call_stays() {
        for text in [
            "SELECT unique_id()",
            "SELECT a.pgdog.unique_id()",
            "SELECT pgdog.unique_id(1)",
            "SELECT pgdog.unique_id",
            "CREATE TABLE t (a bigint DEFAULT pgdog.unique_id())",
            "SELECT $$ pgdog.unique_id() $$",
            "",
        ] {
            assert_eq!(replaced(text).unwrap(), None, "{text}");
        }
        assert!(!mentions(b"SELECT unique__id, _, unique_i"));
    }

    #[test]
    fn rows_of_a_query_would_share_a_number() {
        let text = "INSERT INTO t SELECT pgdog.unique_id(), a FROM u";
        assert!(replaced(text).is_err());
        assert!(replaced("SELECT pgdog.unique_id() FROM t").is_ok());
    }
}
