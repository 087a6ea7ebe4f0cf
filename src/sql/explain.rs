//! EXPLAIN: where the statement begins that it explains.

use super::lexer::{Dialect, Kind, Lexer};

/// An EXPLAIN in two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explain<'a> {
    /// The word and its options.
    pub head: &'a [u8],
    /// What is explained.
    pub statement: &'a [u8],
    /// Its output is text, one column of lines.
    pub is_text: bool,
}

/// Divides an EXPLAIN; `None` if it is something else.
pub fn divide(text: &[u8], dialect: Dialect) -> Option<Explain<'_>> {
    let mut lexer = Lexer::new(text, dialect);
    let first = lexer.next_solid()?;
    if !first.of(text).eq_ignore_ascii_case(b"explain") {
        return None;
    }
    let (mut depth, mut is_text, mut format) = (0_u32, true, false);
    // Options in parentheses follow the word at once; other parentheses belong to a query.
    let mut at_once = true;
    while let Some(token) = lexer.next_solid() {
        let word = token.of(text);
        let may_be_options = std::mem::take(&mut at_once) && is_options(text, token.end);
        match token.kind {
            Kind::Open if depth == 0 && !may_be_options => {
                return split(text, token.start, is_text);
            }
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.checked_sub(1)?,
            _ if depth > 0 => {
                if format && !word.eq_ignore_ascii_case(b"text") {
                    is_text = false;
                }
                format = word.eq_ignore_ascii_case(b"format");
            }
            _ if is_option(word) => {}
            _ => return split(text, token.start, is_text),
        }
    }
    None
}

fn split(text: &[u8], at: usize, is_text: bool) -> Option<Explain<'_>> {
    let (head, statement) = text.split_at_checked(at)?;
    Some(Explain {
        head,
        statement,
        is_text,
    })
}

fn is_option(word: &[u8]) -> bool {
    [&b"analyze"[..], b"analyse", b"verbose"]
        .iter()
        .any(|option| word.eq_ignore_ascii_case(option))
}

/// Is what follows an opening parenthesis a list of options? `EXPLAIN (SELECT 1)` explains a query in parentheses.
fn is_options(text: &[u8], from: usize) -> bool {
    let inner = text.get(from..).unwrap_or_default().trim_ascii_start();
    let end = inner.iter().position(|byte| !byte.is_ascii_alphabetic());
    let word = inner.get(..end.unwrap_or(inner.len())).unwrap_or_default();
    let queries = [&b"select"[..], b"with", b"values", b"table"];
    !inner.starts_with(b"(") && !queries.iter().any(|query| word.eq_ignore_ascii_case(query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_explained_is_found() {
        for (text, statement, is_text) in [
            ("EXPLAIN SELECT 1", "SELECT 1", true),
            ("explain analyze verbose SELECT (1)", "SELECT (1)", true),
            (
                "EXPLAIN (ANALYZE, COSTS off) DELETE FROM t",
                "DELETE FROM t",
                true,
            ),
            ("EXPLAIN (FORMAT json) SELECT 1", "SELECT 1", false),
            ("EXPLAIN (format Text, verbose) SELECT 1", "SELECT 1", true),
            (
                "EXPLAIN (SELECT 1) UNION (SELECT 2)",
                "(SELECT 1) UNION (SELECT 2)",
                true,
            ),
            ("EXPLAIN ((SELECT 1))", "((SELECT 1))", true),
            ("EXPLAIN ANALYZE (SELECT 1)", "(SELECT 1)", true),
            (
                "/* a */ EXPLAIN -- b\n (COSTS off) VALUES (1)",
                "VALUES (1)",
                true,
            ),
        ] {
            let found = divide(text.as_bytes(), Dialect::default()).unwrap();
            assert_eq!(found.statement, statement.as_bytes(), "{text}");
            assert_eq!(found.is_text, is_text, "{text}");
        }
        for text in ["SELECT 1", "", "EXPLAIN", "EXPLAIN (", "EXPLAIN )"] {
            assert_eq!(divide(text.as_bytes(), Dialect::default()), None, "{text}");
        }
    }
}
