//! INSERT that leaves columns out, or says DEFAULT: where their values would stand.

use std::ops::Range;

use super::insert_rows::InsertRows;
use super::lexer::{Dialect, Kind, Lexer, Token};
use super::quote;
use crate::error::Error;

/// How a column is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// It is not among the columns that are named.
    Unnamed,
    /// No columns are named, and each row ends before it; so many columns are between.
    Behind(usize),
    /// This value of some rows, from 0, is DEFAULT.
    Default(usize),
    /// `DEFAULT VALUES`
    Everything,
}

/// A column that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing<'c> {
    /// Its name.
    pub column: &'c str,
    /// How.
    pub gap: Gap,
}

/// What stands in a place of the text from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// This.
    Text(String),
    /// A value for the missing column with this index, another one each time.
    Value(usize),
}

/// A place, and what stands there.
pub type Edit = (Range<usize>, Vec<Slot>);

/// The places of columns that are missing, which are in the order of their table; in order of the text. `overrides`: one of them is an identity that takes values of others only if
/// it is told to. `None`: the statement is not in a form in which that could be said.
pub fn edits(
    text: &[u8],
    dialect: Dialect,
    missing: &[Missing<'_>],
    overrides: bool,
) -> Option<Vec<Edit>> {
    let of = |wanted: fn(Gap) -> bool| {
        let all = missing.iter().enumerate();
        all.filter(move |(_, missing)| wanted(missing.gap))
    };
    let names = |wanted: fn(Gap) -> bool| {
        let names = of(wanted).map(|(_, missing)| quote::name(missing.column));
        names.collect::<Vec<_>>().join(", ")
    };
    let text_slot = |text: &str| Slot::Text(text.to_owned());
    let everything = |gap| gap == Gap::Everything;
    if of(everything).next().is_some() {
        let place = default_values(text, dialect)?;
        let overriding = if overrides { OVERRIDING } else { "" };
        let names = names(everything);
        let mut row = vec![Slot::Text(format!("({names}) {overriding}VALUES ("))];
        for (at, (index, _)) in of(everything).enumerate() {
            row.extend((at > 0).then(|| text_slot(", ")));
            row.push(Slot::Value(index));
        }
        row.push(text_slot(")"));
        return Some(vec![(place, row)]);
    }
    let rows = InsertRows::find(text, dialect)?;
    let first = rows.ranges().first()?.start;
    let unnamed = |gap| gap == Gap::Unnamed;
    let behind = |gap| matches!(gap, Gap::Behind(_));
    let list = list_end(text, dialect, first);
    let mut edits: Vec<Edit> = Vec::new();
    match (list, of(unnamed).next(), of(behind).next()) {
        (Some(end), Some(_), None) => {
            let names = format!(", {}", names(unnamed));
            edits.push((end..end, vec![Slot::Text(names)]));
        }
        (Some(_), _, Some(_)) | (None, Some(_), _) => return None,
        _ => {}
    }
    if overrides && !says_overriding(text, dialect, first) {
        let place = values_start(text, dialect, first)?;
        edits.push((place..place, vec![text_slot(OVERRIDING)]));
    }
    let mut added = Vec::new();
    let mut columns = 0;
    for (index, missing) in missing.iter().enumerate() {
        let between = match missing.gap {
            Gap::Unnamed => 0,
            Gap::Behind(between) => between.checked_sub(columns)?,
            Gap::Default(_) | Gap::Everything => continue,
        };
        columns += between + 1;
        added.extend((0..between).map(|_| text_slot(", DEFAULT")));
        added.extend([text_slot(", "), Slot::Value(index)]);
    }
    let mut found = !added.is_empty();
    for row in rows.ranges() {
        let mut places: Vec<Edit> = Vec::new();
        for (index, missing) in missing.iter().enumerate() {
            if let Gap::Default(position) = missing.gap {
                let place = default_at(text, dialect, row, position);
                places.extend(place.map(|place| (place, vec![Slot::Value(index)])));
            }
        }
        places.sort_by_key(|(place, _)| place.start);
        found |= !places.is_empty();
        edits.append(&mut places);
        if !added.is_empty() {
            let end = row.end - 1;
            edits.push((end..end, added.clone()));
        }
    }
    found.then_some(edits)
}

const OVERRIDING: &str = "OVERRIDING SYSTEM VALUE ";

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
    let missing = Missing { column, gap };
    let Some(edits) = edits(text, dialect, &[missing], false) else {
        return Ok(None);
    };
    let mut out = Vec::with_capacity(text.len() + edits.len() * 24);
    let mut copied = 0;
    for (place, slots) in edits {
        out.extend_from_slice(text.get(copied..place.start).unwrap_or_default());
        for slot in slots {
            match slot {
                Slot::Text(text) => out.extend_from_slice(text.as_bytes()),
                Slot::Value(_) => out.extend_from_slice(next()?.to_string().as_bytes()),
            }
        }
        copied = place.end;
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    Ok(Some(out))
}

fn solid(text: &[u8], dialect: Dialect) -> impl Iterator<Item = Token> + '_ {
    Lexer::new(text, dialect).filter(|token| !token.kind.is_blank())
}

/// What stands in front of the first row.
fn ahead(text: &[u8], dialect: Dialect, first_row: usize) -> impl Iterator<Item = Token> + '_ {
    solid(text, dialect).take_while(move |token| token.start < first_row)
}

/// Where the list of columns ends, if there is one before the first row: at its last parenthesis.
fn list_end(text: &[u8], dialect: Dialect, first_row: usize) -> Option<usize> {
    let ends = ahead(text, dialect, first_row).filter(|token| token.kind == Kind::Close);
    ends.last().map(|token| token.start)
}

/// Where the word VALUES is that is in front of the first row.
fn values_start(text: &[u8], dialect: Dialect, first_row: usize) -> Option<usize> {
    let last = ahead(text, dialect, first_row).last();
    last.filter(|token| token.is_word(text, "values"))
        .map(|token| token.start)
}

/// Is there an OVERRIDING clause in front of the first row?
fn says_overriding(text: &[u8], dialect: Dialect, first_row: usize) -> bool {
    ahead(text, dialect, first_row).any(|token| token.is_word(text, "overriding"))
}

/// `DEFAULT VALUES` in an INSERT that begins with that word.
fn default_values(text: &[u8], dialect: Dialect) -> Option<Range<usize>> {
    let tokens: Vec<_> = solid(text, dialect).collect();
    tokens
        .first()
        .filter(|token| token.is_word(text, "insert"))?;
    // DEFAULT is reserved: no name without quotes can be it.
    tokens.windows(2).find_map(|pair| match pair {
        [one, other] if one.is_word(text, "default") && other.is_word(text, "values") => {
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
    let place = value_at(text, dialect, row, position)?;
    let mut tokens = solid(text.get(place.clone())?, dialect);
    let (only, none) = (tokens.next()?, tokens.next());
    let within = text.get(place.clone())?;
    (none.is_none() && only.is_word(within, "default")).then_some(place)
}

/// Where the value at this position of a row is, without what is blank around it.
pub fn value_at(
    text: &[u8],
    dialect: Dialect,
    row: &Range<usize>,
    position: usize,
) -> Option<Range<usize>> {
    let within = text.get(row.clone())?;
    let (mut depth, mut at) = (0_usize, 0);
    let mut value: Option<Range<usize>> = None;
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
            value = None;
        } else if !(depth == 1 && token.kind == Kind::Open) {
            let start = value.map_or(token.start, |value| value.start);
            value = Some(start..token.end);
        }
    }
    let value = value.filter(|_| at == position)?;
    Some(row.start + value.start..row.start + value.end)
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
                Gap::Behind(0),
                "INSERT INTO t VALUES (1),(2) ",
                "INSERT INTO t VALUES (1, 1),(2, 2) ",
            ),
            (
                Gap::Behind(2),
                "INSERT INTO t VALUES (1)",
                "INSERT INTO t VALUES (1, DEFAULT, DEFAULT, 1)",
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
    fn several_columns_get_their_values() {
        let told = |text: &str, missing: &[(&str, Gap)], overrides| {
            let missing = missing.iter().map(|&(column, gap)| Missing { column, gap });
            let missing: Vec<_> = missing.collect();
            let mut out = String::new();
            let mut copied = 0;
            for (place, slots) in edits(text.as_bytes(), Dialect::default(), &missing, overrides)? {
                out.push_str(&text[copied..place.start]);
                for slot in slots {
                    match slot {
                        Slot::Text(text) => out.push_str(&text),
                        Slot::Value(of) => out.push_str(&format!("<{of}>")),
                    }
                }
                copied = place.end;
            }
            Some(out + &text[copied..])
        };
        let unnamed = [("x", Gap::Unnamed), ("y", Gap::Unnamed)];
        let behind = [("x", Gap::Behind(0)), ("z", Gap::Behind(2))];
        let mixed = [
            ("b", Gap::Default(1)),
            ("a", Gap::Default(0)),
            ("x", Gap::Unnamed),
        ];
        let everything = [("x", Gap::Everything), ("y", Gap::Everything)];
        for (text, missing, overrides, expected) in [
            (
                "INSERT INTO t (a) VALUES (1), (2)",
                &unnamed[..],
                false,
                Some("INSERT INTO t (a, \"x\", \"y\") VALUES (1, <0>, <1>), (2, <0>, <1>)"),
            ),
            (
                "INSERT INTO t VALUES (1)",
                &behind,
                true,
                Some("INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1, <0>, DEFAULT, <1>)"),
            ),
            (
                "INSERT INTO t (a, b) OVERRIDING SYSTEM VALUE VALUES (DEFAULT, DEFAULT), (1, 2)",
                &mixed,
                true,
                Some("INSERT INTO t (a, b, \"x\") OVERRIDING SYSTEM VALUE VALUES (<1>, <0>, <2>), (1, 2, <2>)"),
            ),
            (
                "INSERT INTO t DEFAULT VALUES",
                &everything,
                true,
                Some("INSERT INTO t (\"x\", \"y\") OVERRIDING SYSTEM VALUE VALUES (<0>, <1>)"),
            ),
            ("INSERT INTO t VALUES (1)", &unnamed, false, None),
            ("INSERT INTO t (a, b) VALUES (1, 2)", &mixed[..2], true, None),
        ] {
            assert_eq!(told(text, missing, overrides).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn other_forms_are_left_alone() {
        for (gap, text) in [
            (Gap::Unnamed, "INSERT INTO t VALUES (1)"),
            (Gap::Behind(0), "INSERT INTO t (a) VALUES (1)"),
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
