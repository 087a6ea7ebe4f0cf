//! `set_config()`: calls that change settings as `SET` does, with arguments that may come with `Bind`.
//!
//! Source: <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-SET>

use super::cursor::Cursor;
use super::keyword::Keyword as K;
use super::lexer::{Dialect, Kind};
use super::quote;
use super::set::{boolean, is_of_transaction, unquoted, Change, Found, Scope, Value};

/// A call of `set_config()` whose arguments come with `Bind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetConfig {
    name: Argument,
    value: Argument,
    local: Argument,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Argument {
    Literal(Vec<u8>),
    Boolean(bool),
    Null,
    Parameter(u16),
    Unknown,
}

impl SetConfig {
    /// The change that the call makes. `parameter` gives the value of `$n` in `Bind`, in text or binary format;
    /// `Some(None)` is NULL. None: it cannot be told, any setting may have changed.
    pub fn resolve<'a>(
        &self,
        parameter: impl Fn(u16) -> Option<Option<&'a [u8]>>,
    ) -> Option<Change> {
        let text = |argument: &Argument| -> Option<Option<Vec<u8>>> {
            match argument {
                Argument::Literal(literal) => Some(Some(literal.clone())),
                Argument::Null => Some(None),
                Argument::Parameter(n) => Some(parameter(*n)?.map(quote::literal)),
                Argument::Boolean(_) | Argument::Unknown => None,
            }
        };
        let local = match &self.local {
            Argument::Boolean(local) => *local,
            Argument::Null => false,
            Argument::Literal(literal) => boolean(unquoted(literal)?)?,
            Argument::Parameter(n) => match parameter(*n)? {
                Some(bytes) => boolean(bytes)?,
                None => false,
            },
            Argument::Unknown => return None,
        };
        let name = unquoted(&text(&self.name)??)?.to_ascii_lowercase();
        if is_of_transaction(&name) || name == b"seed" {
            return None;
        }
        let value = text(&self.value)?.map(|literal| Value::from_literal(&name, literal));
        Some(Change::Set {
            scope: if local { Scope::Local } else { Scope::Session },
            name: name.into(),
            value,
        })
    }
}

/// Reads a statement that calls `set_config()`. What it does is known if it is nothing but
/// `SELECT set_config(…), …`; then each call happens, once. Otherwise a call counts as unknown, unless its last
/// argument says that it ends with the transaction.
pub(super) fn set_config(text: &[u8], dialect: Dialect, out: &mut Vec<Found>) {
    let mut cursor = Cursor::new(text, dialect);
    let mut calls = Vec::new();
    if only_calls(&mut cursor, &mut calls).is_some() {
        out.extend(calls.into_iter().map(|call| {
            let known = [&call.name, &call.value, &call.local];
            if known
                .iter()
                .any(|argument| matches!(argument, Argument::Parameter(_)))
            {
                return Found::SetConfig(call);
            }
            call.resolve(|_| None).map_or(Found::Unknown, Found::Change)
        }));
        return;
    }
    let mut cursor = Cursor::new(text, dialect);
    while !cursor.at_end() {
        let word = matches!(cursor.kind(), Some(Kind::Word | Kind::QuotedName));
        let bytes = cursor.bytes();
        cursor.advance();
        if word && is_set_config(bytes) && cursor.kind() == Some(Kind::Open) {
            let local = arguments(&mut cursor).map(|call| call.local);
            if local != Some(Argument::Boolean(true)) {
                out.push(Found::Unknown);
                return;
            }
        }
    }
}

fn is_set_config(word: &[u8]) -> bool {
    let inner = word
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    K::find(inner.unwrap_or(word)) == K::SetConfig
}

/// `SELECT [pg_catalog.]set_config(…) [[AS] name], …` and nothing else.
fn only_calls(cursor: &mut Cursor<'_>, calls: &mut Vec<SetConfig>) -> Option<()> {
    if !cursor.eat(K::Select) {
        return None;
    }
    loop {
        if cursor.keyword() == K::PgCatalog {
            cursor.advance();
            if !cursor.eat_kind(Kind::Dot) {
                return None;
            }
        }
        if !is_set_config(cursor.bytes()) {
            return None;
        }
        cursor.advance();
        calls.push(arguments(cursor)?);
        if cursor.eat(K::As)
            || (!cursor.at_end()
                && cursor.keyword() == K::Unknown
                && cursor.kind() != Some(Kind::Comma))
        {
            cursor.name()?;
        }
        if cursor.at_end() {
            return Some(());
        }
        if !cursor.eat_kind(Kind::Comma) {
            return None;
        }
    }
}

/// The three arguments of `set_config`, from the opening parenthesis to behind the closing one.
fn arguments(cursor: &mut Cursor<'_>) -> Option<SetConfig> {
    if !cursor.eat_kind(Kind::Open) {
        return None;
    }
    let name = argument(cursor)?;
    if !cursor.eat_kind(Kind::Comma) {
        return None;
    }
    let value = argument(cursor)?;
    if !cursor.eat_kind(Kind::Comma) {
        return None;
    }
    let local = argument(cursor)?;
    cursor
        .eat_kind(Kind::Close)
        .then_some(SetConfig { name, value, local })
}

/// One argument, up to the comma or parenthesis behind it. A cast to text or bool changes nothing.
fn argument(cursor: &mut Cursor<'_>) -> Option<Argument> {
    let simple = match (cursor.kind()?, cursor.keyword()) {
        (_, K::True) => Argument::Boolean(true),
        (_, K::False) => Argument::Boolean(false),
        (_, K::Null) => Argument::Null,
        (Kind::Parameter, _) => {
            let digits = cursor.bytes().get(1..)?;
            match std::str::from_utf8(digits)
                .ok()
                .and_then(|n| n.parse().ok())
            {
                Some(n) => Argument::Parameter(n),
                None => Argument::Unknown,
            }
        }
        (Kind::String | Kind::EscapeString | Kind::DollarString, _) => {
            match cursor.clone().literal() {
                Some(literal) => Argument::Literal(literal),
                None => Argument::Unknown,
            }
        }
        _ => Argument::Unknown,
    };
    if simple != Argument::Unknown {
        cursor.advance();
        if cursor.kind() == Some(Kind::Other) && cursor.bytes() == b":" {
            cursor.advance();
            cursor.advance(); // the second colon
            if ![&b"text"[..], b"bool", b"boolean"].contains(&cursor.bytes()) {
                return skip_argument(cursor);
            }
            cursor.advance();
        }
        if matches!(cursor.kind(), Some(Kind::Comma | Kind::Close)) {
            return Some(simple);
        }
    }
    skip_argument(cursor)
}

/// To the comma or parenthesis behind an argument that is an expression.
fn skip_argument(cursor: &mut Cursor<'_>) -> Option<Argument> {
    let mut depth = 0_usize;
    loop {
        match cursor.kind()? {
            Kind::Open => depth += 1,
            Kind::Close | Kind::Comma if depth == 0 => return Some(Argument::Unknown),
            Kind::Close => depth -= 1,
            Kind::Other if cursor.bytes() == b"[" => depth += 1,
            Kind::Other if cursor.bytes() == b"]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        cursor.advance();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(text: &str) -> Vec<Found> {
        let mut out = Vec::new();
        set_config(text.as_bytes(), Dialect::default(), &mut out);
        out
    }

    fn change(scope: Scope, name: &str, value: Option<Value>) -> Change {
        Change::Set {
            scope,
            name: name.as_bytes().into(),
            value,
        }
    }

    fn words(value: &str) -> Option<Value> {
        Some(Value::Words(value.as_bytes().into()))
    }

    fn list(value: &str) -> Option<Value> {
        Some(Value::List(value.as_bytes().into()))
    }

    #[test]
    fn plain_calls_of_set_config_are_changes() {
        let cases = [
            ("SELECT set_config('Work_Mem', '1MB', false)", vec![(Scope::Session, "work_mem", words("'1MB'"))]),
            ("SELECT pg_catalog.set_config('search_path', '', false)", vec![(Scope::Session, "search_path", list("''"))]),
            ("SELECT set_config('search_path', 'a, \"B\"', true) AS x", vec![(Scope::Local, "search_path", list("'a, \"B\"'"))]),
            ("SELECT set_config('a.b'::text, 'it''s \\', 'f'), \"set_config\"('c.d', NULL, true)", vec![
                (Scope::Session, "a.b", words("E'it''s \\\\'")),
                (Scope::Local, "c.d", None),
            ]),
        ];
        for (text, expected) in cases {
            let expected: Vec<Found> = expected
                .into_iter()
                .map(|(scope, name, value)| Found::Change(change(scope, name, value)))
                .collect();
            assert_eq!(changes(text), expected, "{text}");
        }
    }

    #[test]
    fn other_calls_of_set_config_are_unknown_unless_they_are_local() {
        for text in [
            "SELECT set_config('a.b', 'c', false) FROM t",
            "SELECT set_config('a.b', 'c', false) WHERE false",
            "SELECT set_config(name, 'c', false)",
            "SELECT set_config('a.b', 'c' || 'd', false)",
            "SELECT set_config('a.b', 'c', x)",
            "SELECT CASE WHEN a THEN set_config('a.b', 'c', false) END",
            "INSERT INTO t SELECT set_config('a.b', 'c', (false))",
            "SELECT set_config('transaction_isolation', 'serializable', false)",
            "SELECT set_config(VARIADIC x)",
            "SELECT set_config('a.b', 'c', false)::int",
        ] {
            assert_eq!(changes(text), [Found::Unknown], "{text}");
        }
        for text in [
            "SELECT 1, set_config('a.b', f(1, 2), true) FROM t",
            "WITH x AS (SELECT set_config($1, $2, true)) SELECT 1",
        ] {
            assert_eq!(changes(text), [], "{text}");
        }
    }

    #[test]
    fn parameters_of_set_config_come_with_bind() {
        let found = changes("SELECT set_config($1, $2, $3)");
        let [Found::SetConfig(call)] = found.as_slice() else {
            panic!("{found:?}");
        };
        type Values<'a> = [Option<&'a [u8]>; 3];
        let cases: &[(Values<'_>, Option<Change>)] = &[
            (
                [Some(b"A.b"), Some(b"it's"), Some(b"f")],
                Some(change(Scope::Session, "a.b", words("'it''s'"))),
            ),
            (
                [Some(b"a.b"), Some(b"c"), Some(&[1])],
                Some(change(Scope::Local, "a.b", words("'c'"))),
            ),
            (
                [Some(b"search_path"), Some(b"a,b"), Some(b"off")],
                Some(change(Scope::Session, "search_path", list("'a,b'"))),
            ),
            (
                [Some(b"a.b"), None, None],
                Some(change(Scope::Session, "a.b", None)),
            ),
            ([None, Some(b"c"), Some(b"f")], None),
            ([Some(b"a.b"), Some(b"c"), Some(b"o")], None),
        ];
        for (values, expected) in cases {
            let found = call.resolve(|n| values.get(usize::from(n) - 1).copied());
            assert_eq!(&found, expected);
        }
        assert_eq!(call.resolve(|_| None), None);
    }
}
