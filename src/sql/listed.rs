//! `INSERT … SELECT a::t, … FROM (VALUES …) AS v(a, …) ORDER BY n`, as SQLAlchemy inserts many objects, made an INSERT of that
//! list: its rows can go to several shards.

use std::ops::Range;

use super::cursor::{Cursor, Name};
use super::explain;
use super::keyword::Keyword as K;
use super::lexer::{Dialect, Kind, Token};
use crate::types::oid;

/// Parameters of a statement.
#[derive(Clone, Copy)]
pub struct Parameters<'a> {
    /// Their types as Parse has declared them, 0 for an open one; there may be fewer.
    pub types: &'a [u32],
    /// Does the value come in binary format? By number, from 1.
    pub is_binary: &'a dyn Fn(usize) -> bool,
}

impl Parameters<'_> {
    /// None are declared, none are binary.
    pub const OPEN: Self = Self {
        types: &[],
        is_binary: &|_| false,
    };

    /// Type and number of `$n`.
    fn get(&self, parameter: &[u8]) -> Option<(u32, usize)> {
        let number = std::str::from_utf8(parameter.strip_prefix(b"$")?).ok()?;
        let number: usize = number.parse().ok()?;
        let declared = self.types.get(number.checked_sub(1)?).copied();
        let declared = declared.filter(|of| *of != oid::UNKNOWN);
        Some((declared.unwrap_or(0), number))
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
    let outputs: Option<Vec<_>> = outputs
        .iter()
        .map(|output| Some((position(&output.of)?, text.get(output.cast.clone())?)))
        .collect();
    let outputs = outputs?;
    let mut casts = vec![None; columns.len()];
    for (position, _) in &outputs {
        let kind = Column::of(text, dialect, &rows, *position, columns.len(), parameters)?;
        // A value that is used twice would be made twice.
        if casts[*position].replace(kind).is_some() {
            return None;
        }
    }
    for (position, cast) in casts.iter().enumerate() {
        // What is not inserted may only be the number by which rows are ordered.
        if order == Some(position) || cast.is_none() {
            is_counted(text, &rows, position, columns.len()).then_some(())?;
        }
    }

    let mut out = text.get(..start)?.to_vec();
    out.extend_from_slice(b"VALUES ");
    for (number, row) in rows.iter().enumerate() {
        out.extend_from_slice(if number == 0 { b"(" } else { b", (" });
        for (number, (position, cast)) in outputs.iter().enumerate() {
            if number > 0 {
                out.extend_from_slice(b", ");
            }
            let value = text.get(span(row.get(*position)?)?)?;
            let column = casts.get(*position)?.as_ref()?;
            match column {
                // It has that type already.
                Column::Alone(Some(Kindred::Cast(of))) if *of == spelled(cast) => {
                    out.extend_from_slice(value);
                    continue;
                }
                Column::Declared(name) if matches!(parameters.get(value), Some((0, _))) => {
                    out.extend_from_slice(&[b"(", value, b"::", name.as_bytes()].concat());
                }
                _ => out.extend_from_slice(&[b"(", value].concat()),
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

/// How PostgreSQL reads the values of one column of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Column {
    /// As if each were alone; of which kind those are that are not NULL.
    Alone(Option<Kindred>),
    /// Open parameters as others of the column are declared.
    Declared(&'static str),
}

/// One value of a column, by what its type depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kindred {
    /// NULL fits to all.
    Null,
    Text,
    Number,
    Bool,
    /// With its declared type.
    Parameter(u32),
    Cast(Vec<u8>),
}

impl Column {
    fn of(
        text: &[u8],
        dialect: Dialect,
        rows: &[Vec<Value>],
        position: usize,
        columns: usize,
        parameters: Parameters<'_>,
    ) -> Option<Self> {
        let mut known: Option<Kindred> = None;
        let (mut declared, mut open) = (0, false);
        for row in rows {
            let value = row.get(position).filter(|_| row.len() == columns)?;
            let found = Kindred::of(text, dialect, value, parameters)?;
            match (&known, found) {
                (_, Kindred::Null) => {}
                (None | Some(Kindred::Parameter(_)), Kindred::Parameter(of)) => {
                    declared = match (declared, of) {
                        (one, 0) => {
                            open = true;
                            one
                        }
                        (0, other) => other,
                        (one, other) if one == other => one,
                        (one, other) => wider(one, other)?,
                    };
                    known = Some(Kindred::Parameter(0));
                }
                (None, found) => known = Some(found),
                (Some(known), found) if *known == found => {}
                _ => return None,
            }
        }
        if declared != 0 && open {
            return Some(Self::Declared(type_name(declared)?));
        }
        Some(Self::Alone(known))
    }
}

impl Kindred {
    fn of(
        text: &[u8],
        dialect: Dialect,
        value: &[Token],
        parameters: Parameters<'_>,
    ) -> Option<Self> {
        let word = |token: &Token, word: &str| token.is_word(text, word);
        match value {
            [one] => Some(match one.kind {
                // N'…' has a type.
                Kind::String if one.of(text).first() != Some(&b'\'') => return None,
                Kind::String | Kind::EscapeString | Kind::UnicodeString | Kind::DollarString => {
                    Self::Text
                }
                Kind::Number => Self::Number,
                Kind::Parameter => {
                    let (declared, number) = parameters.get(one.of(text))?;
                    // In the list it would be a text.
                    let misread = declared == 0 && (parameters.is_binary)(number);
                    (!misread).then_some(Self::Parameter(declared))?
                }
                _ if word(one, "null") => Self::Null,
                _ if word(one, "true") || word(one, "false") => Self::Bool,
                _ => return None,
            }),
            [sign, number]
                if sign.kind == Kind::Operator
                    && sign.of(text) == b"-"
                    && number.kind == Kind::Number =>
            {
                Some(Self::Number)
            }
            // A constant or parameter with its type.
            [one, colon, other, ..] if colon.of(text) == b":" && other.of(text) == b":" => {
                let constant = matches!(
                    one.kind,
                    Kind::String
                        | Kind::EscapeString
                        | Kind::UnicodeString
                        | Kind::DollarString
                        | Kind::BitString
                        | Kind::Number
                        | Kind::Parameter
                );
                (constant || word(one, "null")).then_some(())?;
                let all = text.get(span(value)?)?;
                let mut cursor = Cursor::new(all, dialect);
                cursor.advance();
                let of = cast(&mut cursor)?;
                cursor.at_end().then_some(())?;
                Some(Self::Cast(spelled(all.get(of)?)))
            }
            _ => None,
        }
    }
}

/// A type, so that equal ones are spelled alike.
fn spelled(name: &[u8]) -> Vec<u8> {
    match name.contains(&b'"') {
        true => name.to_vec(),
        false => name.to_ascii_lowercase(),
    }
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

/// What PostgreSQL makes of a column that has integers of both types.
fn wider(one: u32, other: u32) -> Option<u32> {
    const WIDTHS: [u32; 3] = [oid::INT2, oid::INT4, oid::INT8];
    let width = |of: u32| WIDTHS.iter().position(|known| *known == of);
    WIDTHS.get(width(one)?.max(width(other)?)).copied()
}

/// The name of a type of PostgreSQL's own.
fn type_name(of: u32) -> Option<&'static str> {
    Some(match of {
        oid::BOOL => "bool",
        oid::BYTEA => "bytea",
        oid::INT2 => "int2",
        oid::INT4 => "int4",
        oid::INT8 => "int8",
        oid::TEXT => "text",
        oid::VARCHAR => "varchar",
        oid::FLOAT4 => "float4",
        oid::FLOAT8 => "float8",
        oid::NUMERIC => "numeric",
        oid::DATE => "date",
        oid::TIME => "time",
        oid::TIMETZ => "timetz",
        oid::TIMESTAMP => "timestamp",
        oid::TIMESTAMPTZ => "timestamptz",
        oid::INTERVAL => "interval",
        oid::UUID => "uuid",
        oid::JSON => "json",
        oid::JSONB => "jsonb",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn become_of(text: &str, types: &[u32]) -> Option<String> {
        let parameters = Parameters {
            types,
            is_binary: &|number| number == 9,
        };
        let made = listed(text.as_bytes(), Dialect::default(), parameters)?;
        Some(String::from_utf8(made).unwrap())
    }

    #[test]
    fn the_list_becomes_the_rows() {
        for (text, types, expected) in [
            // As SQLAlchemy writes it.
            (
                "INSERT INTO items (owner, name) SELECT p0::INTEGER, p1::VARCHAR(30) FROM (VALUES ($1, $2, 0), ($3, $4, 1)) \
                 AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING items.id, items.id AS id__1",
                &[][..],
                "INSERT INTO items (owner, name) VALUES (($1)::INTEGER, ($2)::VARCHAR(30)), (($3)::INTEGER, ($4)::VARCHAR(30)) \
                 RETURNING items.id, items.id AS id__1",
            ),
            (
                "insert into t select v.\"B\"::numeric(10, 2), v.a::int[] from (values ('{1}', -1.5), (null, 2)) v (A, \"B\") ;",
                &[],
                "insert into t VALUES ((-1.5)::numeric(10, 2), ('{1}')::int[]), ((2)::numeric(10, 2), (null)::int[]) ;",
            ),
            (
                "INSERT INTO t (a) SELECT p0::timestamp with time zone FROM (VALUES ($1::timestamptz, 3), ($2::TIMESTAMPTZ, 7)) AS i(p0, n) \
                 ORDER BY i.n ASC ON CONFLICT DO NOTHING",
                &[],
                "INSERT INTO t (a) VALUES (($1::timestamptz)::timestamp with time zone), (($2::TIMESTAMPTZ)::timestamp with time zone) \
                 ON CONFLICT DO NOTHING",
            ),
            (
                "INSERT INTO t (a) SELECT p0::VARCHAR FROM (VALUES ($1::varchar), (NULL)) AS i(p0)",
                &[],
                "INSERT INTO t (a) VALUES ($1::varchar), (NULL) ",
            ),
            (
                "EXPLAIN (COSTS OFF) INSERT INTO t (a) SELECT p0::int FROM (VALUES (1)) AS i(p0)",
                &[],
                "EXPLAIN (COSTS OFF) INSERT INTO t (a) VALUES ((1)::int) ",
            ),
            // As psycopg declares integers by their size, and None not at all.
            (
                "INSERT INTO t (a) SELECT p0::BIGINT FROM (VALUES ($1, 0), ($2, 1), ($3, 2)) AS i(p0, n) ORDER BY n",
                &[oid::INT2, oid::INT4, 0],
                "INSERT INTO t (a) VALUES (($1)::BIGINT), (($2)::BIGINT), (($3::int4)::BIGINT) ",
            ),
            (
                "INSERT INTO t (a) SELECT p0::interval FROM (VALUES ('1'), (NULL)) i(p0)",
                &[],
                "INSERT INTO t (a) VALUES (('1')::interval), ((NULL)::interval) ",
            ),
        ] {
            assert_eq!(become_of(text, types).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_could_mean_something_else_stays() {
        for text in [
            "INSERT INTO t VALUES (1)",
            "INSERT INTO t DEFAULT VALUES",
            "INSERT INTO t SELECT a::int FROM u",
            "SELECT a::int FROM (VALUES (1)) v(a)",
            "WITH w AS (SELECT 1) INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a)",
            // An output that is no column with its type.
            "INSERT INTO t SELECT a FROM (VALUES (1)) v(a)",
            "INSERT INTO t SELECT a::int + 1 FROM (VALUES (1)) v(a)",
            "INSERT INTO t SELECT b::int FROM (VALUES (1)) v(a)",
            "INSERT INTO t SELECT w.a::int FROM (VALUES (1)) v(a)",
            "INSERT INTO t SELECT DISTINCT a::int FROM (VALUES (1)) v(a)",
            "INSERT INTO t SELECT a::int, a::text FROM (VALUES (1)) v(a)",
            "INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a, a)",
            "INSERT INTO t SELECT a::interval hour FROM (VALUES ('1')) v(a)",
            "INSERT INTO t SELECT a::interval(0) FROM (VALUES ('1')) v(a)",
            // Another order, or one that is not known.
            "INSERT INTO t SELECT a::int FROM (VALUES (1, 2), (2, 1)) v(a, n) ORDER BY n",
            "INSERT INTO t SELECT a::int FROM (VALUES (1, 1), (2, 1)) v(a, n) ORDER BY n",
            "INSERT INTO t SELECT a::int FROM (VALUES (1, $1), (2, $2)) v(a, n) ORDER BY n",
            "INSERT INTO t SELECT a::int FROM (VALUES (1, 1), (2, 2)) v(a, n) ORDER BY n DESC",
            "INSERT INTO t SELECT a::int FROM (VALUES (1, 1), (2, 2)) v(a, n) ORDER BY n, a",
            "INSERT INTO t SELECT a::int FROM (VALUES (1, 1), (2, 2)) v(a, n) LIMIT 1",
            "INSERT INTO t SELECT a::int FROM (VALUES (1, 1), (2, 2)) v(a, n) WHERE a > 1",
            "INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a) UNION SELECT 1",
            "INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a), u",
            "INSERT INTO t SELECT a::int FROM (VALUES (1) LIMIT 1) v(a)",
            // A column that is not inserted, and does something.
            "INSERT INTO t SELECT a::int FROM (VALUES (1, nextval('s'))) v(a, n)",
            // Values whose type depends on each other.
            "INSERT INTO t SELECT a::text FROM (VALUES ('05'), (5)) v(a)",
            "INSERT INTO t SELECT a::text FROM (VALUES (5), (true)) v(a)",
            "INSERT INTO t SELECT a::text FROM (VALUES ($1), (5)) v(a)",
            "INSERT INTO t SELECT a::text FROM (VALUES ($1::date), ($2::timestamp)) v(a)",
            "INSERT INTO t SELECT a::text FROM (VALUES ($1::date), ('now')) v(a)",
            "INSERT INTO t SELECT a::text FROM (VALUES ('1'::\"T\"), ('1'::\"t\")) v(a)",
            "INSERT INTO t SELECT a::text FROM (VALUES (N'a ')) v(a)",
            "INSERT INTO t SELECT a::int FROM (VALUES ($9)) v(a)",
            "INSERT INTO t SELECT a::text FROM (VALUES (1 + 1)) v(a)",
            "INSERT INTO t SELECT a::text FROM (VALUES (- 1::int2)) v(a)",
            "INSERT INTO t SELECT a::text FROM (VALUES ('1'::int2 + 1)) v(a)",
            "INSERT INTO t SELECT a::text FROM (VALUES (now())) v(a)",
            "INSERT INTO t SELECT a::text FROM (VALUES (DEFAULT)) v(a)",
            // Rows that PostgreSQL refuses.
            "INSERT INTO t SELECT a::int FROM (VALUES (1), (1, 2)) v(a)",
            "INSERT INTO t SELECT a::int FROM (VALUES ()) v(a)",
            "INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a); SELECT 1",
            "INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a) RETURNING a; SELECT 1",
            "INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a) RETURNING 'a",
            "INSERT INTO t SELECT a::int FROM (VALUES (1)",
            "INSERT INTO t SELECT",
            "INSERT",
            "",
        ] {
            assert_eq!(become_of(text, &[]), None, "{text}");
        }
        let mixed = "INSERT INTO t SELECT a::text FROM (VALUES ($1), ($2)) v(a)";
        assert_eq!(become_of(mixed, &[oid::DATE, oid::TIMESTAMP]), None);
        assert_eq!(become_of(mixed, &[oid::INT4, oid::NUMERIC]), None);
        assert_eq!(become_of(mixed, &[oid::BIT, 0]), None);
        assert!(become_of(mixed, &[oid::DATE, oid::DATE]).is_some());
        let binary = "INSERT INTO t SELECT a::int FROM (VALUES ($9)) v(a)";
        assert!(become_of(binary, &[oid::INT4; 9]).is_some());
    }
}
