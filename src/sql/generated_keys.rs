//! INSERT with a key that its client has left out: a new number for each row, in the place where it belongs.

use std::ops::Range;

use super::insert_rows::InsertRows;
use super::lexer::{Dialect, Kind, Lexer, Token};
use super::quote;
use crate::error::Error;

/// How a key is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// It is not among the columns that are named.
    Unnamed,
    /// No columns are named, and each row ends just before it.
    Behind,
    /// This value of some rows, from 0, is DEFAULT.
    Default(usize),
    /// `DEFAULT VALUES`
    Everything,
}

/// The statement with a number from `next` for the column in each row that lacks it. `None`: it is not in a form in which
/// that could be done.
///
/// Errors: those of `next`.
pub fn with_key(
    text: &[u8],
    dialect: Dialect,
    column: &str,
    gap: Gap,
    mut next: impl FnMut() -> Result<i64, Error>,
) -> Result<Option<Vec<u8>>, Error> {
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    if gap == Gap::Everything {
        let Some(place) = default_values(text, dialect) else {
            return Ok(None);
        };
        let row = format!("({}) VALUES ({})", quote::name(column), next()?);
        return Ok(Some(edited(text, &[(place, row)])));
    }
    let Some(rows) = InsertRows::find(text, dialect) else {
        return Ok(None);
    };
    let list = rows
        .ranges()
        .first()
        .and_then(|row| list_end(text, dialect, row.start));
    match (gap, list) {
        (Gap::Unnamed, Some(end)) => edits.push((end..end, format!(", {}", quote::name(column)))),
        (Gap::Unnamed, None) | (Gap::Behind, Some(_)) => return Ok(None),
        _ => {}
    }
    for row in rows.ranges() {
        match gap {
            Gap::Default(position) => {
                if let Some(place) = default_at(text, dialect, row, position) {
                    edits.push((place, next()?.to_string()));
                }
            }
            _ => {
                let end = row.end - 1;
                edits.push((end..end, format!(", {}", next()?)));
            }
        }
    }
    Ok((!edits.is_empty()).then(|| edited(text, &edits)))
}

/// The text with these places replaced, which are in order.
fn edited(text: &[u8], edits: &[(Range<usize>, String)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + edits.len() * 24);
    let mut copied = 0;
    for (place, instead) in edits {
        out.extend_from_slice(text.get(copied..place.start).unwrap_or_default());
        out.extend_from_slice(instead.as_bytes());
        copied = place.end;
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    out
}

fn solid(text: &[u8], dialect: Dialect) -> impl Iterator<Item = Token> + '_ {
    Lexer::new(text, dialect).filter(|token| !token.kind.is_blank())
}

fn is(text: &[u8], token: Token, word: &str) -> bool {
    token.kind == Kind::Word && token.of(text).eq_ignore_ascii_case(word.as_bytes())
}

/// Where the list of columns ends, if there is one before the first row: at its last parenthesis.
fn list_end(text: &[u8], dialect: Dialect, first_row: usize) -> Option<usize> {
    let before = solid(text, dialect).take_while(|token| token.start < first_row);
    let ends = before.filter(|token| token.kind == Kind::Close);
    ends.last().map(|token| token.start)
}

/// `DEFAULT VALUES` in an INSERT that begins with that word.
fn default_values(text: &[u8], dialect: Dialect) -> Option<Range<usize>> {
    let tokens: Vec<_> = solid(text, dialect).collect();
    tokens.first().filter(|token| is(text, **token, "insert"))?;
    // DEFAULT is reserved: no name without quotes can be it.
    tokens.windows(2).find_map(|pair| match pair {
        [one, other] if is(text, *one, "default") && is(text, *other, "values") => {
            Some(one.start..other.end)
        }
        _ => None,
    })
}

/// The value at this position of a row, if it is DEFAULT.
fn default_at(
    text: &[u8],
    dialect: Dialect,
    row: &Range<usize>,
    position: usize,
) -> Option<Range<usize>> {
    let within = text.get(row.clone())?;
    let (mut depth, mut at) = (0_usize, 0);
    let mut value: Vec<Token> = Vec::new();
    for token in solid(within, dialect) {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 1 && token.kind == Kind::Comma || depth == 0 {
            if at == position {
                break;
            }
            at += 1;
            value.clear();
        } else if !(depth == 1 && token.kind == Kind::Open) {
            value.push(token);
        }
    }
    match value.as_slice() {
        [only] if is(within, *only, "default") => {
            Some(row.start + only.start..row.start + only.end)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(text: &str, gap: Gap) -> Option<String> {
        let mut last = 0;
        let next = || {
            last += 1;
            Ok(last)
        };
        let out = with_key(text.as_bytes(), Dialect::default(), "id", gap, next).unwrap();
        out.map(|out| String::from_utf8(out).unwrap())
    }

    #[test]
    fn keys_stand_where_they_belong() {
        for (gap, text, expected) in [
            (
                Gap::Unnamed,
                "INSERT INTO t (a, b) VALUES ($1, 'x)'), (f(2, (3)), $2) RETURNING (id)",
                "INSERT INTO t (a, b, \"id\") VALUES ($1, 'x)', 1), (f(2, (3)), $2, 2) RETURNING (id)",
            ),
            (
                Gap::Unnamed,
                "insert into s.t as u (a /* ) */) overriding user value values (DEFAULT) on conflict (a) do nothing",
                "insert into s.t as u (a /* ) */, \"id\") overriding user value values (DEFAULT, 1) on conflict (a) do nothing",
            ),
            (
                Gap::Behind,
                "INSERT INTO t VALUES (1),(2) ",
                "INSERT INTO t VALUES (1, 1),(2, 2) ",
            ),
            (
                Gap::Default(0),
                "INSERT INTO t (id, a) VALUES (default, 1), (7, DEFAULT), ( DEFAULT , (2))",
                "INSERT INTO t (id, a) VALUES (1, 1), (7, DEFAULT), ( 2 , (2))",
            ),
            (
                Gap::Default(1),
                "INSERT INTO t VALUES ((1, 2), DEFAULT, 3)",
                "INSERT INTO t VALUES ((1, 2), 1, 3)",
            ),
            (
                Gap::Everything,
                "INSERT INTO \"default\" DEFAULT VALUES RETURNING id",
                "INSERT INTO \"default\" (\"id\") VALUES (1) RETURNING id",
            ),
        ] {
            assert_eq!(keyed(text, gap).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_forms_are_left_alone() {
        for (gap, text) in [
            (Gap::Unnamed, "INSERT INTO t VALUES (1)"),
            (Gap::Behind, "INSERT INTO t (a) VALUES (1)"),
            (Gap::Unnamed, "INSERT INTO t (a) SELECT 1"),
            (
                Gap::Unnamed,
                "WITH x AS (SELECT 1) INSERT INTO t (a) VALUES (1)",
            ),
            (Gap::Default(0), "INSERT INTO t VALUES (1), (f(DEFAULT))"),
            (
                Gap::Everything,
                "WITH x AS (SELECT 1) INSERT INTO t DEFAULT VALUES",
            ),
        ] {
            assert_eq!(keyed(text, gap), None, "{text}");
        }
    }
}
