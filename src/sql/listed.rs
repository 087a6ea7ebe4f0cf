//! `INSERT … SELECT a::t, … FROM (VALUES …) AS v(a, …) ORDER BY n`, as SQLAlchemy inserts many objects, made an INSERT of that
//! list: its rows can go to several shards.

mod columns;

use std::ops::Range;

use super::cursor::{Cursor, Name};
use super::explain;
use super::keyword::Keyword as K;
use super::lexer::{Dialect, Kind, Token};
use crate::protocol::wire::FormatCodes;
use crate::types::oid;

use columns::{is_named, names_of, spelled, Column, Kindred};

/// PostgreSQL has no query with more columns (`MaxTupleAttributeNumber`).
const COLUMNS_MAX: usize = 1_664;

/// Parameters of a statement.
#[derive(Clone, Copy, Default)]
pub struct Parameters<'a> {
    /// Their types as Parse has declared them, 0 for an open one; there may be fewer.
    pub types: &'a [u32],
    /// Formats of the values; none before there are any.
    pub formats: Option<FormatCodes<'a>>,
}

impl Parameters<'_> {
    /// The declared type of `$n`. `None`: the value may be read otherwise than in the list, where an open one is a text.
    fn get(&self, parameter: &[u8]) -> Option<u32> {
        let number = std::str::from_utf8(parameter.strip_prefix(b"$")?).ok()?;
        let index = number.parse::<usize>().ok()?.checked_sub(1)?;
        let declared = self.types.get(index).copied();
        let declared = declared.filter(|of| ![0, oid::UNKNOWN].contains(of));
        let is_text = self
            .formats
            .is_none_or(|formats| formats.of(index) == Some(0));
        declared.or_else(|| is_text.then_some(0))
    }
}

/// The same statement, or EXPLAIN of it, as an INSERT with a list of rows.
///
/// `None`: it has another form, or could mean something else then. Each output must be a column of the list cast to a type,
/// and PostgreSQL must read the values of a column before that cast as it does without the list around them.
pub fn listed(text: &[u8], dialect: Dialect, parameters: Parameters<'_>) -> Option<Vec<u8>> {
    let Some(explain) = explain::divide(text, dialect) else {
        return insert(text, dialect, parameters);
    };
    let made = insert(explain.statement, dialect, parameters)?;
    Some([explain.head, &made].concat())
}

/// How a column's values are written.
enum Becomes {
    /// They have the wanted type.
    Itself,
    Cast,
    /// Those of another type than this, which is called so, become it before they are cast.
    First(u32, &'static str),
}

fn insert(text: &[u8], dialect: Dialect, parameters: Parameters<'_>) -> Option<Vec<u8>> {
    let mut cursor = Cursor::new(text, dialect);
    let start = behind_target(&mut cursor)?;
    let outputs = outputs(&mut cursor)?;
    cursor.eat_kind(Kind::Open).then_some(())?;
    cursor.eat_word("values").then_some(())?;
    let rows = rows(&mut cursor)?;
    cursor.eat_kind(Kind::Close).then_some(())?;
    cursor.eat_word("as");
    let list = cursor.name()?;
    let columns = names(&mut cursor)?;
    let order = order(&mut cursor)?;
    let end = rest(cursor, text.len())?;

    let position = |wanted: &Reference| {
        let of_list = wanted.list.as_ref().is_none_or(|named| *named == list);
        let mut found = columns
            .iter()
            .enumerate()
            .filter(|(_, name)| of_list && **name == wanted.column);
        let (position, _) = found.next()?;
        found.next().is_none().then_some(position)
    };
    let order = match &order {
        Some(order) => Some(position(order)?),
        None => None,
    };
    let mut used = vec![false; columns.len()];
    let mut written = Vec::with_capacity(outputs.len());
    for output in &outputs {
        let position = position(&output.of)?;
        // A value that is used twice would be made twice.
        if std::mem::replace(&mut used[position], true) {
            return None;
        }
        let cast = text.get(output.cast.clone())?;
        let column = Column::of(text, dialect, &rows, position, columns.len(), parameters)?;
        let becomes = match column {
            Column::Cast(of) if of == spelled(cast) => Becomes::Itself,
            Column::Common(of) if !is_named(of, cast) => Becomes::First(of, names_of(of).first()?),
            _ => Becomes::Cast,
        };
        written.push((position, cast, becomes));
    }
    for (position, used) in used.iter().enumerate() {
        // What is not inserted may only be the number by which rows are ordered.
        if order == Some(position) || !used {
            is_counted(text, &rows, position, columns.len()).then_some(())?;
        }
    }

    let mut out = text.get(..start)?.to_vec();
    out.extend_from_slice(b"VALUES ");
    for (number, row) in rows.iter().enumerate() {
        out.extend_from_slice(if number == 0 { b"(" } else { b", (" });
        for (number, (position, cast, becomes)) in written.iter().enumerate() {
            if number > 0 {
                out.extend_from_slice(b", ");
            }
            let tokens = row.get(*position)?;
            let value = text.get(span(tokens)?)?;
            if matches!(becomes, Becomes::Itself) {
                out.extend_from_slice(value);
                continue;
            }
            out.push(b'(');
            out.extend_from_slice(value);
            if let Becomes::First(of, name) = becomes {
                if Kindred::of(text, dialect, tokens, parameters)?.is_other(*of) {
                    out.extend_from_slice(b"::");
                    out.extend_from_slice(name.as_bytes());
                }
            }
            out.extend_from_slice(b")::");
            out.extend_from_slice(cast);
        }
        out.push(b')');
    }
    out.push(b' ');
    out.extend_from_slice(text.get(end..)?);
    Some(out)
}

/// Takes everything before the outputs of its SELECT. Where that SELECT begins.
fn behind_target(cursor: &mut Cursor<'_>) -> Option<usize> {
    cursor.eat_word("insert").then_some(())?;
    cursor.eat_word("into").then_some(())?;
    let mut depth = 0_usize;
    loop {
        let token = cursor.peek()?;
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.checked_sub(1)?,
            Kind::Word if depth == 0 => match cursor.keyword() {
                // The usual list, or none.
                K::Values | K::Default | K::With => return None,
                K::Select => {
                    cursor.advance();
                    return Some(token.start);
                }
                _ => {}
            },
            _ => {}
        }
        cursor.advance();
    }
}

/// A column by its name, with that of its list if it says so.
struct Reference {
    list: Option<Name>,
    column: Name,
}

struct Output {
    of: Reference,
    /// Where the type is.
    cast: Range<usize>,
}

fn reference(cursor: &mut Cursor<'_>) -> Option<Reference> {
    let first = cursor.name()?;
    Some(match cursor.eat_kind(Kind::Dot) {
        true => Reference {
            list: Some(first),
            column: cursor.name()?,
        },
        false => Reference {
            list: None,
            column: first,
        },
    })
}

/// Takes `a::t, …` and the FROM behind it.
fn outputs(cursor: &mut Cursor<'_>) -> Option<Vec<Output>> {
    let mut outputs = Vec::new();
    loop {
        let of = reference(cursor)?;
        let cast = cast(cursor)?;
        outputs.push(Output { of, cast });
        (outputs.len() <= COLUMNS_MAX).then_some(())?;
        if cursor.eat_word("from") {
            return Some(outputs);
        }
        cursor.eat_kind(Kind::Comma).then_some(())?;
    }
}

/// Takes `::` and a type. Where the type is.
fn cast(cursor: &mut Cursor<'_>) -> Option<Range<usize>> {
    eat_colons(cursor)?;
    let start = cursor.peek()?.start;
    let mut end = cursor.peek()?.start;
    let interval = cursor.bytes().eq_ignore_ascii_case(b"interval");
    let mut words = 0;
    loop {
        let token = cursor.peek();
        let of_type = token.filter(|token| match token.kind {
            Kind::Word => cursor.keyword() != K::From,
            Kind::QuotedName | Kind::Dot => true,
            Kind::Other => matches!(cursor.bytes(), b"[" | b"]"),
            Kind::Number => words > 0, // within brackets
            _ => false,
        });
        let Some(token) = of_type else {
            // Lengths and the like.
            if words == 0 || !cursor.eat_kind(Kind::Open) {
                break;
            }
            loop {
                let token = cursor.peek()?;
                cursor.advance();
                match token.kind {
                    Kind::Number | Kind::Comma => {}
                    Kind::Close => {
                        end = token.end;
                        break;
                    }
                    _ => return None,
                }
            }
            words += 1;
            continue;
        };
        words += 1;
        end = token.end;
        cursor.advance();
    }
    // What fields an interval has decides how a literal is read, but not how a text is.
    (words > 0 && (!interval || words == 1)).then_some(start..end)
}

fn eat_colons(cursor: &mut Cursor<'_>) -> Option<()> {
    let colon = |cursor: &Cursor<'_>| {
        let token = cursor.peek()?;
        (token.kind == Kind::Other && cursor.bytes() == b":").then_some(token)
    };
    let first = colon(cursor)?;
    cursor.advance();
    let second = colon(cursor)?;
    cursor.advance();
    (first.end == second.start).then_some(())
}

/// The tokens of one value.
type Value = Vec<Token>;

/// Takes `(…), (…)`: the values of each row.
fn rows(cursor: &mut Cursor<'_>) -> Option<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    loop {
        cursor.eat_kind(Kind::Open).then_some(())?;
        let (mut row, mut value, mut depth) = (Vec::new(), Vec::new(), 0_usize);
        loop {
            let token = cursor.peek()?;
            cursor.advance();
            match token.kind {
                Kind::Comma | Kind::Close if depth == 0 => {
                    row.push(std::mem::take(&mut value));
                    if token.kind == Kind::Close {
                        break;
                    }
                    continue;
                }
                Kind::Open => depth += 1,
                Kind::Close => depth -= 1,
                _ => {}
            }
            value.push(token);
        }
        rows.push(row);
        if !cursor.eat_kind(Kind::Comma) {
            return Some(rows);
        }
    }
}

/// Takes `(a, …)`.
fn names(cursor: &mut Cursor<'_>) -> Option<Vec<Name>> {
    cursor.eat_kind(Kind::Open).then_some(())?;
    let mut names = Vec::new();
    loop {
        names.push(cursor.name()?);
        (names.len() <= COLUMNS_MAX).then_some(())?;
        if !cursor.eat_kind(Kind::Comma) {
            return cursor.eat_kind(Kind::Close).then_some(names);
        }
    }
}

/// Takes `ORDER BY n`, if it is there.
fn order(cursor: &mut Cursor<'_>) -> Option<Option<Reference>> {
    if !cursor.eat_word("order") {
        return Some(None);
    }
    cursor.eat_word("by").then_some(())?;
    let by = reference(cursor)?;
    cursor.eat_word("asc");
    Some(Some(by))
}

/// Where what is left begins, which may be ON CONFLICT and RETURNING. `length`: of the text.
fn rest(mut cursor: Cursor<'_>, length: usize) -> Option<usize> {
    let Some(first) = cursor.peek() else {
        return Some(length);
    };
    let may_follow = ["on", "returning"]
        .iter()
        .any(|word| cursor.clone().eat_word(word));
    (may_follow || first.kind == Kind::Semicolon).then_some(())?;
    // One statement, to its end.
    while let Some(token) = cursor.peek() {
        cursor.advance();
        match token.kind {
            Kind::Semicolon if !cursor.at_end() => return None,
            Kind::Unterminated => return None,
            _ => {}
        }
    }
    Some(first.start)
}

/// Does the column count its rows: integers that rise?
fn is_counted(text: &[u8], rows: &[Vec<Value>], position: usize, columns: usize) -> bool {
    let number = |row: &Vec<Value>| match row.get(position)?.as_slice() {
        [one] if one.kind == Kind::Number && row.len() == columns => {
            std::str::from_utf8(one.of(text)).ok()?.parse::<u32>().ok()
        }
        _ => None,
    };
    let numbers: Option<Vec<_>> = rows.iter().map(number).collect();
    numbers.is_some_and(|numbers| numbers.is_sorted_by(|one, next| one < next))
}

/// From the first token to the last.
fn span(value: &[Token]) -> Option<Range<usize>> {
    Some(value.first()?.start..value.last()?.end)
}

#[cfg(test)]
mod tests;
