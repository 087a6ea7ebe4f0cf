//! `COPY (query) TO`: where the query begins and ends.

use super::lexer::{Dialect, Kind, Lexer};

/// A COPY of a query, in three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied<'a> {
    /// What is in front of the query's first token.
    pub head: &'a [u8],
    /// The query.
    pub query: &'a [u8],
    /// The parenthesis behind it, and what follows.
    pub tail: &'a [u8],
}

/// Divides a COPY of a query; `None` if it is something else.
pub fn divide(text: &[u8], dialect: Dialect) -> Option<Copied<'_>> {
    let mut lexer = Lexer::new(text, dialect);
    let first = lexer.next_solid()?;
    let open = lexer.next_solid()?;
    if !first.of(text).eq_ignore_ascii_case(b"copy") || open.kind != Kind::Open {
        return None;
    }
    let mut depth = 1_u32;
    let mut start = None;
    while let Some(token) = lexer.next_solid() {
        let start = *start.get_or_insert(token.start);
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(Copied {
                head: text.get(..start)?,
                query: text.get(start..token.start)?,
                tail: text.get(token.start..)?,
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_a_query() {
        let check = |text: &'static str, expected: Option<[&str; 3]>| {
            let found = divide(text.as_bytes(), Dialect::default());
            let parts = |found: Copied<'static>| [found.head, found.query, found.tail];
            let found = found.map(|found| parts(found).map(|part| str::from_utf8(part).unwrap()));
            assert_eq!(found, expected, "{text}");
        };
        check(
            "COPY (SELECT 1) TO STDOUT",
            Some(["COPY (", "SELECT 1", ") TO STDOUT"]),
        );
        check(
            "COPY ( /* 1 */ SELECT 1 ) TO STDOUT",
            Some(["COPY ( /* 1 */ ", "SELECT 1 ", ") TO STDOUT"]),
        );
        check(
            "/* ( */ copy/**/((SELECT ')', $$)$$, \")\" FROM t) UNION (VALUES (1)) -- )\n) TO STDOUT (FORMAT csv)",
            Some([
                "/* ( */ copy/**/(",
                "(SELECT ')', $$)$$, \")\" FROM t) UNION (VALUES (1)) -- )\n",
                ") TO STDOUT (FORMAT csv)",
            ]),
        );
        for text in [
            "COPY t (a) TO STDOUT",
            "SELECT (1)",
            "COPY",
            "COPY (SELECT 1",
            "",
        ] {
            check(text, None);
        }
    }
}
