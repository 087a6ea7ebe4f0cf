//! An UPDATE cut in two: what it does, and its RETURNING; and the value that it gives a column.

use std::ops::Range;

use super::lexer::{Dialect, Kind, Lexer};
use super::quote;

/// The word.
pub const RETURNING: &[u8] = b"returning";

/// The parts of a text, without what stands behind its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateParts<'t> {
    /// Up to RETURNING.
    pub change: &'t [u8],
    /// From RETURNING on.
    pub returning: Option<&'t [u8]>,
}

impl<'t> UpdateParts<'t> {
    /// Cuts the text of one statement. `None`: it is not one, or RETURNING speaks of old and new rows.
    pub fn of(text: &'t [u8], dialect: Dialect) -> Option<Self> {
        let mut depth = 0_usize;
        let (mut end, mut returning) = (0, None);
        let mut lexer = Lexer::new(text, dialect).filter(|token| !token.kind.is_blank());
        for token in lexer.by_ref() {
            let is = |word: &[u8]| token.of(text).eq_ignore_ascii_case(word);
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.checked_sub(1)?,
                Kind::Semicolon => break,
                Kind::Unterminated => return None,
                Kind::Word | Kind::QuotedName if returning.is_some() => {
                    let begins = end == returning.map_or(0, |at: usize| at + RETURNING.len());
                    let name = token.of(text).trim_ascii();
                    let name = name.strip_prefix(b"\"").unwrap_or(name);
                    let name = name.strip_suffix(b"\"").unwrap_or(name);
                    let of_version = [&b"old"[..], b"new"]
                        .iter()
                        .any(|version| name.eq_ignore_ascii_case(version));
                    if of_version || begins && is(b"with") {
                        return None;
                    }
                }
                Kind::Word if depth == 0 && is(RETURNING) => returning = Some(token.start),
                _ => {}
            }
            end = token.end;
        }
        if lexer.next().is_some() || depth > 0 {
            return None;
        }
        Some(Self {
            change: text.get(..returning.unwrap_or(end))?.trim_ascii_end(),
            returning: match returning {
                Some(at) => Some(text.get(at..end)?),
                None => None,
            },
        })
    }
}

/// Where the value is that the text of an UPDATE without RETURNING assigns to this column. `None`: it is not found, or may
/// be more than a value.
pub fn assigned(text: &[u8], dialect: Dialect, column: &str) -> Option<Range<usize>> {
    let tokens: Vec<_> = Lexer::new(text, dialect)
        .filter(|token| !token.kind.is_blank())
        .collect();
    let mut depth = 0_usize;
    let mut depths = Vec::with_capacity(tokens.len());
    for token in &tokens {
        depth = match token.kind {
            Kind::Close => depth.checked_sub(1)?,
            _ => depth,
        };
        depths.push(depth);
        depth += usize::from(token.kind == Kind::Open);
    }
    let is = |at: usize, word: &[u8]| {
        let token = tokens.get(at).filter(|token| token.kind == Kind::Word);
        let here = depths.get(at) == Some(&0);
        here && token.is_some_and(|token| token.of(text).eq_ignore_ascii_case(word))
    };
    let set = (0..tokens.len()).find(|at| is(*at, b"set"))?;
    let end = (set..tokens.len()).find(|at| is(*at, b"where"));
    let end = end.unwrap_or(tokens.len());
    let mut found = None;
    let mut begin = set + 1;
    while begin < end {
        let comma = |at: &usize| {
            depths.get(*at) == Some(&0)
                && tokens
                    .get(*at)
                    .is_some_and(|token| token.kind == Kind::Comma)
        };
        let next = (begin..end).find(comma).unwrap_or(end);
        let [name, equals, first, ..] = tokens.get(begin..next)? else {
            return None;
        };
        let written = name.of(text);
        let same = match name.kind {
            Kind::Word => written.eq_ignore_ascii_case(column.as_bytes()) && column.is_ascii(),
            Kind::QuotedName => written == quote::name(column).as_bytes(),
            _ => false,
        };
        if same {
            let last = tokens.get(next.checked_sub(1)?)?;
            let from = (begin..next).any(|at| is(at, b"from"));
            if equals.of(text) != b"=" || from || found.is_some() {
                return None;
            }
            found = Some(first.start..last.end);
        }
        begin = next + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_their_own_returning() {
        let check = |text: &str, expected: Option<(&str, Option<&str>)>| {
            let parts = UpdateParts::of(text.as_bytes(), Dialect::default());
            let text_of = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let found = parts.map(|parts| (text_of(parts.change), parts.returning.map(text_of)));
            let expected =
                expected.map(|(change, returning)| (change.into(), returning.map(Into::into)));
            assert_eq!(found, expected, "{text}");
        };
        let change = "UPDATE t SET id = 1 WHERE a = '(returning'";
        check(change, Some((change, None)));
        check(&format!("{change} ; -- end"), Some((change, None)));
        check(
            &format!("{change} /* c */ Returning id AS returning, (a) -- end"),
            Some((
                &format!("{change} /* c */"),
                Some("Returning id AS returning, (a)"),
            )),
        );
        let nested = "UPDATE t SET a = (SELECT b AS returning FROM u)";
        check(nested, Some((nested, None)));
        check("UPDATE t SET a = 1 RETURNING old.a", None);
        check("UPDATE t SET a = 1 RETURNING id, \"new\" . a", None);
        check("UPDATE t SET a = 1 RETURNING WITH (OLD AS o) o.a", None);
        check("UPDATE t SET a = 1 RETURNING old", None);
        check("UPDATE t SET a = 1; SELECT 1", None);
        check("UPDATE t SET a = 'x", None);
    }

    #[test]
    fn values_of_a_column() {
        for (text, expected) in [
            ("UPDATE t SET id = 5", Some("5")),
            ("UPDATE t AS \"set\" SET a = f(1, id = 2), ID = $1 :: int8 /* c */ , b = 2 WHERE id = 3", Some("$1 :: int8")),
            ("UPDATE t SET (a, b) = (1, 2), \"id\" = -4 WHERE true", Some("-4")),
            ("UPDATE t SET a = 1 IS DISTINCT FROM 2, id = 'x''y'", Some("'x''y'")),
            ("UPDATE t SET id = 5 FROM generate_series(1, 2)", None),
            ("UPDATE t SET id=-4, a = 1", Some("-4")),
            ("UPDATE t SET id=- 4", Some("- 4")),
            ("UPDATE t SET id =~ 4", None),
            ("UPDATE t SET a = id", None),
            ("UPDATE t SET \"ID\" = 1", None),
        ] {
            let found = assigned(text.as_bytes(), Dialect::default(), "id");
            assert_eq!(found.and_then(|range| text.get(range)), expected, "{text}");
        }
    }
}
