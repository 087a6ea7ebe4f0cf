//! What a server is asked for before a statement is run: values of which each server would have its own, because it has another clock,
//! other sequences, other random numbers. They stand in the statement's text then, so that all servers store the same, and it is known where
//! that is.

use std::ops::Range;

use super::gaps::{Edit, Slot};
use super::lexer::{Dialect, Kind, Lexer, Token};
use super::quote;
use crate::error::{Error, Fault};
use crate::merge::refused;
use crate::protocol::sqlstate::SqlState;

/// Values of one statement: those of a larger one are not asked for.
const VALUES_MAX: usize = 65_536;

/// A question, and the statement that its answer makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    question: Vec<u8>,
    pieces: Vec<Piece>,
    values: usize,
    dialect: Dialect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    /// The next value, with its type where nothing else says it.
    Value(Option<&'static str>),
}

/// A text that becomes an [`Asking`].
pub struct Draft<'t> {
    text: &'t [u8],
    dialect: Dialect,
    changes: Vec<Change>,
}

struct Change {
    place: Range<usize>,
    /// What stands there instead.
    pieces: Vec<Piece>,
    /// The expressions of its values.
    asked: Vec<Vec<u8>>,
}

impl<'t> Draft<'t> {
    /// Nothing is asked yet.
    pub fn new(text: &'t [u8], dialect: Dialect) -> Self {
        Self {
            text,
            dialect,
            changes: Vec::new(),
        }
    }

    /// Values for columns that are missing: for each, by its index, an expression.
    pub fn columns(&mut self, edits: Vec<Edit>, expressions: &[Vec<u8>]) {
        for (place, slots) in edits {
            let mut asked = Vec::new();
            let pieces = slots.into_iter().map(|slot| match slot {
                Slot::Text(text) => Piece::Text(text.into_bytes()),
                Slot::Value(of) => {
                    asked.extend(expressions.get(of).cloned());
                    Piece::Value(None)
                }
            });
            let pieces = pieces.collect();
            self.changes.push(Change {
                place,
                pieces,
                asked,
            });
        }
    }

    /// The value of what stands in this place, as it is assigned to a column of this type, if that is known.
    pub fn value(&mut self, place: Range<usize>, of_type: Option<&str>) {
        let written = self.text.get(place.clone()).unwrap_or_default();
        let written = [written, b"\n"].concat(); // a comment may be at its end
        let asked = match of_type {
            Some(of_type) => as_text(&written, of_type),
            None => [b"(", &*written, b")::text"].concat(),
        };
        self.changes.push(Change {
            place,
            pieces: vec![Piece::Value(None)],
            asked: vec![asked],
        });
    }

    /// The value of a call.
    pub fn call(&mut self, call: &Call) {
        let written = self.text.get(call.place.clone()).unwrap_or_default();
        let asked = as_text(written, call.known.of_type);
        self.changes.push(Change {
            place: call.place.clone(),
            pieces: vec![Piece::Value(Some(call.known.of_type))],
            asked: vec![asked],
        });
    }

    /// `None`: there is nothing to ask. Errors: there is too much, or it overlaps.
    pub fn finish(mut self) -> Result<Option<Asking>, Error> {
        self.changes.sort_by_key(|change| change.place.start);
        let mut pieces = Vec::new();
        let mut asked: Vec<Vec<u8>> = Vec::new();
        let mut copied = 0;
        for change in self.changes {
            let between = self.text.get(copied..change.place.start);
            let between = between.ok_or_else(|| refused("this statement"))?;
            pieces.push(Piece::Text(between.to_vec()));
            pieces.extend(change.pieces);
            asked.extend(change.asked);
            copied = change.place.end;
        }
        if asked.is_empty() {
            return Ok(None);
        }
        if asked.len() > VALUES_MAX {
            let text = format!("a statement needs more than {VALUES_MAX} values of a server");
            let code = SqlState::PROGRAM_LIMIT_EXCEEDED;
            return Err(Error::error(Fault::Client, code, text));
        }
        let rest = self.text.get(copied..).unwrap_or_default();
        pieces.push(Piece::Text(rest.to_vec()));
        Ok(Some(Asking {
            question: [b"VALUES (", &*asked.join(&b"), ("[..]), b")"].concat(),
            pieces,
            values: asked.len(),
            dialect: self.dialect,
        }))
    }
}

impl Asking {
    /// A query that has a row with one value, as text, for each of those that are asked for, in order.
    pub fn question(&self) -> &[u8] {
        &self.question
    }

    /// Does it take numbers from sequences? Not if only functions of users do.
    pub fn counts(&self) -> bool {
        memchr::memmem::find(&self.question, b"nextval").is_some()
    }

    /// The statement with these values.
    ///
    /// Errors: there are not as many as are asked for (XX000), or they cannot be written in the client's encoding (0A000).
    pub fn statement(&self, values: &[Option<Vec<u8>>]) -> Result<Vec<u8>, Error> {
        if values.len() != self.values {
            let text = "a server's answer has not the values that it was asked for";
            let code = SqlState::INTERNAL_ERROR;
            return Err(Error::error(Fault::Server, code, text));
        }
        let mut values = values.iter();
        let mut out = Vec::new();
        for piece in &self.pieces {
            let of_type = match piece {
                Piece::Text(text) => {
                    out.extend_from_slice(text);
                    continue;
                }
                Piece::Value(of_type) => of_type,
            };
            let value = values.next().and_then(Option::as_deref);
            let what = "a value that a server gives, in this client_encoding,";
            let literal = quote::value(value, self.dialect).ok_or_else(|| refused(what))?;
            match of_type {
                Some(of_type) => {
                    out.push(b'(');
                    out.extend_from_slice(&literal);
                    out.extend_from_slice(b"::");
                    out.extend_from_slice(of_type.as_bytes());
                    out.push(b')');
                }
                None => out.extend_from_slice(&literal),
            }
        }
        Ok(out)
    }
}

/// An expression of this type as text that means the same under all settings. Other forms of dates than ISO 8601 may name a time zone
/// that is not the only one of its name.
pub fn as_text(expression: &[u8], of_type: &str) -> Vec<u8> {
    let cast = [b"(", expression, b")::", of_type.as_bytes()].concat();
    let is_time = of_type == "date" || of_type.starts_with("timestamp");
    match is_time {
        true => [&b"pg_catalog.to_json("[..], &cast, b") #>> '{}'"].concat(),
        false => [&cast, &b"::text"[..]].concat(),
    }
}

/// Is it plain that a default, as the catalogue has it, is the same everywhere? A literal is, with its casts.
pub fn is_constant(expression: &str) -> bool {
    let text = expression.as_bytes();
    let dialect = Dialect::default();
    let tokens: Vec<Token> = Lexer::new(text, dialect)
        .filter(|token| !token.kind.is_blank())
        .collect();
    let mut casts = false;
    let mut each = tokens.iter().enumerate();
    !tokens.is_empty()
        && each.all(|(at, token)| {
            let next = tokens.get(at + 1);
            match token.kind {
                // `::`, and brackets of arrays. A cast of a cast may be of 'now'.
                Kind::Other => {
                    let again = casts && token.of(text) == b":" && !follows_colon(text, *token);
                    casts |= token.of(text) == b":";
                    !again
                }
                Kind::String | Kind::EscapeString | Kind::BitString | Kind::Number => true,
                Kind::Open | Kind::Close | Kind::Comma => {
                    casts &= token.kind != Kind::Comma;
                    true
                }
                Kind::Operator => token.of(text) == b"-",
                Kind::Dot | Kind::QuotedName => casts,
                Kind::Word => {
                    let word = token.of(text).to_ascii_lowercase();
                    let calls = next.is_some_and(|next| next.kind == Kind::Open);
                    let plain = matches!(&*word, b"null" | b"true" | b"false")
                        || word == b"array" && !calls;
                    // Types have modifiers in parentheses, which are numbers.
                    let modified = || tokens.get(at + 2).map(|token| token.kind);
                    let current = [&b"current_"[..], b"local", b"session_user", b"user"];
                    let current = current.iter().any(|prefix| word.starts_with(prefix));
                    plain || casts && !current && (!calls || modified() == Some(Kind::Number))
                }
                _ => false,
            }
        })
}

/// Does an expression call a function of this schema, which it names?
pub fn calls_of_schema(expression: &str, schema: &str) -> bool {
    let text = expression.as_bytes();
    let tokens = Lexer::new(text, Dialect::default()).filter(|token| !token.kind.is_blank());
    let tokens: Vec<Token> = tokens.collect();
    tokens
        .windows(2)
        .any(|pair| pair[0].is_word(text, schema) && pair[1].kind == Kind::Dot)
}

fn follows_colon(text: &[u8], token: Token) -> bool {
    let before = token.start.checked_sub(1).and_then(|at| text.get(at));
    before == Some(&b':')
}

/// A function of which each server has its own answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    name: &'static str,
    /// Of what it answers.
    of_type: &'static str,
    arguments: Arguments,
    /// It answers the same all over a statement.
    pub stable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arguments {
    /// A word that is called without parentheses, a precision in them perhaps.
    Word,
    /// None.
    None,
    /// The name of a sequence.
    Sequence,
}

/// Those that are asked for.
///
/// Source: PostgreSQL's documentation, "Current Date/Time", "Sequence Manipulation Functions", "UUID Functions", "System
/// Information Functions".
static KNOWN: [Known; 21] = {
    const fn known(
        name: &'static str,
        of_type: &'static str,
        arguments: Arguments,
        stable: bool,
    ) -> Known {
        Known {
            name,
            of_type,
            arguments,
            stable,
        }
    }
    use Arguments::{None, Sequence, Word};
    [
        known("now", "timestamptz", None, true),
        known("transaction_timestamp", "timestamptz", None, true),
        known("statement_timestamp", "timestamptz", None, true),
        known("current_timestamp", "timestamptz", Word, true),
        known("current_date", "date", Word, true),
        known("current_time", "timetz", Word, true),
        known("localtime", "time", Word, true),
        known("localtimestamp", "timestamp", Word, true),
        known("current_database", "name", None, true),
        known("current_catalog", "name", Word, true),
        known("currval", "int8", Sequence, true),
        known("lastval", "int8", None, true),
        known("nextval", "int8", Sequence, false),
        known("clock_timestamp", "timestamptz", None, false),
        known("timeofday", "text", None, false),
        known("random", "float8", None, false),
        known("gen_random_uuid", "uuid", None, false),
        known("uuidv4", "uuid", None, false),
        known("uuidv7", "uuid", None, false),
        known("uuid_generate_v1", "uuid", None, false),
        known("uuid_generate_v4", "uuid", None, false),
    ]
};

/// The function of this name, if it is one of those.
pub fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// A call in a text.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    /// Where it is.
    pub place: Range<usize>,
    /// What it calls.
    pub known: &'static Known,
    /// What it is given is the same for each row. Otherwise the place is that of its name alone.
    pub constant: bool,
    /// It is in what the statement returns.
    pub returned: bool,
}

impl Known {
    /// The function's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Is it about what sequences have done in the session?
    pub fn recalls(&self) -> bool {
        matches!(self.name, "currval" | "lastval")
    }
}

/// The calls of such functions in one statement, in order.
pub fn calls(text: &[u8], dialect: Dialect) -> Vec<Call> {
    let tokens: Vec<Token> = Lexer::new(text, dialect)
        .filter(|token| !token.kind.is_blank())
        .collect();
    let mut calls = Vec::new();
    let mut returned = false;
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Word => returned |= depth == 0 && token.is_word(text, "returning"),
            _ => {}
        }
        if let Some((place, known, constant)) = call(text, &tokens, at) {
            calls.push(Call {
                place,
                known,
                constant,
                returned,
            });
        }
    }
    calls
}

/// The call whose name is the token `at`.
fn call(text: &[u8], tokens: &[Token], at: usize) -> Option<(Range<usize>, &'static Known, bool)> {
    let token = tokens.get(at)?;
    let name = match token.kind {
        Kind::Word => token.of(text).to_ascii_lowercase(),
        Kind::QuotedName => token
            .of(text)
            .strip_prefix(b"\"")?
            .strip_suffix(b"\"")?
            .to_vec(),
        _ => return None,
    };
    let known = known(std::str::from_utf8(&name).ok()?)?;
    let before = |count: usize| at.checked_sub(count).and_then(|at| tokens.get(at));
    let qualified = before(1).is_some_and(|token| token.kind == Kind::Dot);
    let kind = |at: usize| tokens.get(at).map(|token| token.kind);
    if known.arguments == Arguments::Word {
        if token.kind != Kind::Word
            || qualified
            || before(1).is_some_and(|one| one.is_word(text, "as"))
        {
            return None;
        }
        let precise =
            [at + 1, at + 2, at + 3].map(kind) == [Kind::Open, Kind::Number, Kind::Close].map(Some);
        let last = if precise { at + 3 } else { at };
        return Some((token.start..tokens.get(last)?.end, known, true));
    }
    if kind(at + 1) != Some(Kind::Open) {
        return None;
    }
    let start = match qualified {
        false => token.start,
        true => {
            let schema = before(2)?;
            let further = before(3).is_some_and(|token| token.kind == Kind::Dot);
            let named = schema.is_word(text, "pg_catalog") || schema.of(text) == b"\"pg_catalog\"";
            if !named || further {
                return None;
            }
            schema.start
        }
    };
    let mut depth = 0_usize;
    let mut constant = true;
    let mut end = None;
    for (index, token) in tokens.iter().enumerate().skip(at + 1) {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => {
                depth -= 1;
                if depth == 0 {
                    end = Some((index, token.end));
                    break;
                }
            }
            Kind::String | Kind::EscapeString | Kind::DollarString => {}
            Kind::Comma | Kind::Dot | Kind::Other => {}
            Kind::Word => {
                const WORDS: [&str; 4] = ["regclass", "text", "pg_catalog", SERIAL];
                constant &= WORDS.iter().any(|word| token.is_word(text, word));
            }
            _ => constant = false,
        }
    }
    let (last, end) = end?;
    let bare = last == at + 2;
    match known.arguments {
        // Of another number of arguments it is another function.
        Arguments::None if !bare => None,
        Arguments::Sequence if bare => None,
        _ if constant => Some((start..end, known, true)),
        _ => Some((token.start..token.end, known, false)),
    }
}

/// It is the same everywhere: the name of a column's sequence.
const SERIAL: &str = "pg_get_serial_sequence";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_constant() {
        for (expression, constant) in [
            ("", false),
            ("7", true),
            ("'-7'::integer", true),
            ("(-7)", true),
            ("'x'::character varying(20)", true),
            ("'x'::\"my\".\"type\"", true),
            ("ARRAY['a'::text, 'b'::text]", true),
            ("'{}'::jsonb", true),
            ("NULL::character varying", true),
            ("true", true),
            ("'2 days'::interval", true),
            ("now()", false),
            ("CURRENT_TIMESTAMP", false),
            ("CURRENT_DATE", false),
            ("nextval('public.s'::regclass)", false),
            ("'x'::text || now()", false),
            ("('now'::text)::date", false),
            ("ARRAY[now()]", false),
            ("'a'::text, now", false),
            ("my.f('x'::text)", false),
            ("upper('x'::text)", false),
            ("('a'::text = CURRENT_USER)", false),
            ("'a'::text AND CURRENT_DATE", false),
            ("SESSION_USER", false),
            ("(1 + 2)", false),
        ] {
            assert_eq!(is_constant(expression), constant, "{expression}");
        }
    }

    #[test]
    fn schemas_are_names_and_not_texts() {
        for (expression, of_ours) in [
            ("pgdog.next_id()", true),
            ("abs(pgdog . next_id('a'::text))", true),
            ("my.f('pgdog.next_id()'::text)", false),
            ("pgdog2.next_id()", false),
        ] {
            assert_eq!(
                calls_of_schema(expression, "pgdog"),
                of_ours,
                "{expression}"
            );
        }
    }

    #[test]
    fn calls_are_found() {
        let told = |text: &str| {
            let calls = calls(text.as_bytes(), Dialect::default());
            let told = calls.iter().map(|call| {
                let mark = match (call.constant, call.returned) {
                    (false, _) => "?",
                    (true, true) => "^",
                    (true, false) => "",
                };
                format!("{mark}{}", &text[call.place.clone()])
            });
            told.collect::<Vec<_>>().join("; ")
        };
        for (text, expected) in [
            ("UPDATE t SET a = now(), b = 'now()'", "now()"),
            ("UPDATE t SET a = Pg_Catalog . \"now\" ( )", "Pg_Catalog . \"now\" ( )"),
            ("UPDATE t SET a = my.now(), b = a.pg_catalog.now(), c = now(1)", ""),
            ("UPDATE now SET a = now.b, c = (now)", ""),
            (
                "SELECT current_timestamp(3), CURRENT_DATE, localtime AS current_date, a.current_time",
                "current_timestamp(3); CURRENT_DATE; localtime",
            ),
            (
                "VALUES (nextval('s'), nextval($1), currval('a.b'::regclass), lastval())",
                "nextval('s'); ?nextval; currval('a.b'::regclass); lastval()",
            ),
            (
                "VALUES (currval(pg_get_serial_sequence('t', 'id')), nextval(f('t')))",
                "currval(pg_get_serial_sequence('t', 'id')); ?nextval",
            ),
            ("DELETE FROM t WHERE a < now() RETURNING now()", "now(); ^now()"),
            (
                "WITH a AS (DELETE FROM t RETURNING now()) INSERT INTO u SELECT random() FROM a",
                "now(); random()",
            ),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn values_stand_where_they_belong() {
        let text = b"INSERT INTO t (a) VALUES (now()), ( f(1) -- x\n, 7.5)";
        let mut draft = Draft::new(text, Dialect::default());
        let calls = calls(text, Dialect::default());
        draft.call(&calls[0]);
        draft.value(36..40, None);
        draft.value(48..51, Some("int8"));
        let append = |end| {
            let slots = vec![Slot::Text(", ".to_owned()), Slot::Value(0)];
            (end..end, slots)
        };
        let at = text.len() - 1;
        draft.columns(vec![append(31), append(at)], &[b"g()".to_vec()]);
        let asking = draft.finish().unwrap().unwrap();
        assert_eq!(
            String::from_utf8_lossy(asking.question()),
            "VALUES (pg_catalog.to_json((now())::timestamptz) #>> '{}'), (g()), ((f(1)\n)::text), ((7.5\n)::int8::text), (g())"
        );
        let values = [Some("n"), None, Some("it's"), Some("8"), Some("2")];
        let values = values.map(|value| value.map(|value| value.as_bytes().to_vec()));
        assert_eq!(
            String::from_utf8(asking.statement(&values).unwrap()).unwrap(),
            "INSERT INTO t (a) VALUES (('n'::timestamptz), NULL), ( 'it''s' -- x\n, '8', '2')"
        );
        assert!(asking.statement(&values[..3]).is_err());
        let nothing = Draft::new(text, Dialect::default()).finish().unwrap();
        assert_eq!(nothing, None);
    }
}
