//! Settings as statements change them: `SET` and `RESET`.
//!
//! Source: <https://www.postgresql.org/docs/current/sql-set.html>

use std::borrow::Cow;

use super::cursor::{Cursor, Name};
use super::keyword::Keyword as K;
use super::lexer::Kind;
use super::quote;
use super::set_config::SetConfig;

/// What a statement does to settings, once it has succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `SET name TO value`; no value is `DEFAULT`, the value from the start of the session.
    Set {
        /// Until when.
        scope: Scope,
        /// In lower case, with its dots.
        name: Name,
        /// What to set it to.
        value: Option<Value>,
    },
    /// `RESET ALL`: all but role and session authorization, which only their own commands reset.
    ResetAll,
}

/// How long a setting lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Until the session ends, if the transaction commits.
    Session,
    /// Until the transaction ends.
    Local,
}

/// A value in a form that can be sent again and means the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// What stands behind `SET name TO`: words in lower case, literals independent of other settings.
    Words(Box<[u8]>),
    /// A string literal that is the whole value of a setting that holds a list of names. `SET` would take it
    /// for one name of the list, `set_config()` does not.
    List(Box<[u8]>),
}

/// Settings for which `SET name TO 'a, b'` means one name with a comma in it (`GUC_LIST_QUOTE`).
const LISTS: [&[u8]; 4] = [
    b"search_path",
    b"temp_tablespaces",
    b"local_preload_libraries",
    b"session_preload_libraries",
];

impl Value {
    /// The value of a startup parameter, or of a parameter of `set_config()`: any text, as it came.
    pub fn from_text(name: &[u8], text: &[u8]) -> Self {
        Self::from_literal(name, quote::literal(text))
    }

    pub(super) fn from_literal(name: &[u8], literal: Vec<u8>) -> Self {
        if LISTS.contains(&name) {
            Self::List(literal.into())
        } else {
            Self::Words(literal.into())
        }
    }

    /// What the value is, if it is one word, name in quotes or literal. `None`: it is more, or has escapes that only the
    /// server reads.
    pub fn text(&self) -> Option<Cow<'_, [u8]>> {
        text_of(self.sql())
    }

    /// The names of a list of them: each is a word, a name in quotes or a literal. It ends with the first that is none of these.
    pub fn names(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        let mut rest = Some(self.sql());
        std::iter::from_fn(move || {
            let (name, behind) = until_comma(rest?);
            rest = behind;
            text_of(name)
        })
    }

    /// The SQL of the value.
    pub fn sql(&self) -> &[u8] {
        let (Self::Words(sql) | Self::List(sql)) = self;
        sql
    }
}

/// What a word, name in quotes or literal stands for. `None`: it is more, or has escapes that only the server reads.
fn text_of(sql: &[u8]) -> Option<Cow<'_, [u8]>> {
    let sql = sql.trim_ascii();
    let (escapes, quoted) = match sql {
        [b'E', literal @ ..] if literal.starts_with(b"'") => (true, literal),
        sql => (false, sql),
    };
    let (quote, inner) = match quoted {
        [quote @ (b'\'' | b'"'), inner @ .., end] if quote == end => (*quote, inner),
        _ => {
            let word = !sql.iter().any(|byte| matches!(byte, b' ' | b'\'' | b'"'));
            return word.then_some(Cow::Borrowed(sql));
        }
    };
    let special = |byte: &u8| *byte == quote || escapes && *byte == b'\\';
    if !inner.iter().any(special) {
        return Some(Cow::Borrowed(inner));
    }
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        // Both stand for themselves when they are doubled.
        if special(byte) && bytes.next() != Some(byte) {
            return None;
        }
        text.push(*byte);
    }
    Some(Cow::Owned(text))
}

/// What is in front of the first comma outside of quotes, and what behind it.
fn until_comma(sql: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut within = None;
    let at = sql.iter().position(|&byte| {
        match within {
            // A doubled quote ends and begins.
            Some(quote) if byte == quote => within = None,
            None if matches!(byte, b'\'' | b'"') => within = Some(byte),
            _ => {}
        }
        within.is_none() && byte == b','
    });
    match at {
        Some(at) => (&sql[..at], sql.get(at + 1..)),
        None => (sql, None),
    }
}

/// What a statement turned out to do to settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Change(Change),
    SetConfig(SetConfig),
    /// Characteristics or constraints of the current transaction.
    Transaction,
    /// Any setting may have changed.
    Unknown,
}

/// Reads `SET …` behind the word SET. None: not a form that we know.
pub(super) fn set(cursor: &mut Cursor<'_>, out: &mut Vec<Found>) -> Option<()> {
    let mut scope = Scope::Session;
    if !assigns(cursor) {
        match cursor.keyword() {
            K::Constraints => {
                out.push(Found::Transaction);
                return Some(());
            }
            K::Local => {
                scope = Scope::Local;
                cursor.advance();
            }
            K::Session if !is_session_phrase(cursor) => cursor.advance(),
            _ => {}
        }
    }
    if assigns(cursor) {
        let name = setting_name(cursor)?;
        if cursor.eat(K::From) {
            return cursor.eat(K::Current).then_some(()); // has a meaning in CREATE FUNCTION only
        }
        if !cursor.eat(K::To) && !cursor.eat_operator(b"=") {
            return None;
        }
        return assign(cursor, scope, name, out);
    }
    let first = cursor.keyword();
    cursor.advance();
    match first {
        K::Time if cursor.eat(K::Zone) => {
            if cursor.after().at_end() && cursor.eat(K::Local) {
                push(out, scope, b"timezone", None);
                return Some(());
            }
            assign(cursor, scope, (*b"timezone").into(), out)
        }
        K::Schema => {
            let literal = cursor.literal()?;
            let value = Value::Words(literal.into());
            push(out, scope, b"search_path", Some(value));
            cursor.at_end().then_some(())
        }
        K::Names if cursor.at_end() => {
            push(out, scope, b"client_encoding", None);
            Some(())
        }
        K::Names => assign(cursor, scope, (*b"client_encoding").into(), out),
        K::Role => assign(cursor, scope, (*b"role").into(), out),
        K::Xml if cursor.eat(K::Option) => assign(cursor, scope, (*b"xmloption").into(), out),
        K::Transaction => {
            out.push(Found::Transaction);
            Some(())
        }
        K::Session if cursor.eat(K::Authorization) => {
            assign(cursor, scope, (*b"session_authorization").into(), out)
        }
        K::Session if cursor.eat(K::Characteristics) => characteristics(cursor, scope, out),
        _ => None,
    }
}

/// Reads `RESET …` behind the word RESET.
pub(super) fn reset(cursor: &mut Cursor<'_>, out: &mut Vec<Found>) -> Option<()> {
    let after = cursor.after();
    let name: Name = match cursor.keyword() {
        K::All if after.at_end() => {
            out.push(Found::Change(Change::ResetAll));
            return Some(());
        }
        K::Session if after.keyword() == K::Authorization => (*b"session_authorization").into(),
        K::Time if after.keyword() == K::Zone => (*b"timezone").into(),
        K::Transaction if after.keyword() == K::Isolation => {
            out.push(Found::Transaction);
            return Some(());
        }
        _ => {
            let name = setting_name(cursor)?;
            if is_of_transaction(&name) {
                out.push(Found::Transaction);
                return cursor.at_end().then_some(());
            }
            push(out, Scope::Session, &name, None);
            return cursor.at_end().then_some(());
        }
    };
    push(out, Scope::Session, &name, None);
    after.after().at_end().then_some(())
}

/// Is a name with `TO`, `=`, `FROM` or a dot behind it next? Then no special form is.
fn assigns(cursor: &Cursor<'_>) -> bool {
    let after = cursor.after();
    matches!(cursor.kind(), Some(Kind::Word | Kind::QuotedName))
        && (after.kind() == Some(Kind::Dot)
            || matches!(after.keyword(), K::To | K::From)
            || after.clone().eat_operator(b"="))
}

/// `SESSION AUTHORIZATION` or `SESSION CHARACTERISTICS AS`, where SESSION does not mean the scope.
fn is_session_phrase(cursor: &Cursor<'_>) -> bool {
    let after = cursor.after();
    match after.keyword() {
        K::Authorization => true,
        K::Characteristics => after.after().keyword() == K::As,
        _ => false,
    }
}

/// A name of one or more parts, which PostgreSQL compares without regard to case.
fn setting_name(cursor: &mut Cursor<'_>) -> Option<Name> {
    let mut name = cursor.name()?.into_vec();
    while cursor.eat_kind(Kind::Dot) {
        name.push(b'.');
        name.extend(cursor.name()?);
    }
    name.make_ascii_lowercase();
    Some(name.into())
}

fn assign(cursor: &mut Cursor<'_>, scope: Scope, name: Name, out: &mut Vec<Found>) -> Option<()> {
    let value = if cursor.keyword() == K::Default && cursor.after().at_end() {
        None
    } else {
        Some(Value::Words(words(cursor)?))
    };
    if is_of_transaction(&name) {
        out.push(Found::Transaction);
    } else if *name == *b"seed" {
        return None; // sets the state of random(), which cannot be replayed
    } else {
        push(out, scope, &name, value);
    }
    Some(())
}

fn push(out: &mut Vec<Found>, scope: Scope, name: &[u8], value: Option<Value>) {
    out.push(Found::Change(Change::Set {
        scope,
        name: name.into(),
        value,
    }));
}

/// The rest of the statement as the value of a setting.
fn words(cursor: &mut Cursor<'_>) -> Option<Box<[u8]>> {
    let mut value = Vec::new();
    let mut glued = true;
    while let Some(token) = cursor.peek() {
        if !glued && token.kind != Kind::Comma {
            value.push(b' ');
        }
        glued = token.kind == Kind::Operator; // a sign
        match token.kind {
            Kind::Word if cursor.bytes().is_ascii() => {
                value.extend(cursor.bytes().to_ascii_lowercase());
            }
            Kind::String | Kind::EscapeString | Kind::DollarString => {
                value.extend(cursor.literal()?);
                continue;
            }
            Kind::Word
            | Kind::QuotedName
            | Kind::UnicodeName
            | Kind::Number
            | Kind::Comma
            | Kind::Operator
            | Kind::Open
            | Kind::Close => value.extend(cursor.bytes()),
            _ => return None,
        }
        cursor.advance();
    }
    (!value.is_empty()).then(|| value.into())
}

/// `SESSION CHARACTERISTICS AS TRANSACTION …` sets the defaults of transactions to come.
fn characteristics(cursor: &mut Cursor<'_>, scope: Scope, out: &mut Vec<Found>) -> Option<()> {
    if !cursor.eat(K::As) || !cursor.eat(K::Transaction) {
        return None;
    }
    while !cursor.at_end() {
        let (name, value): (&[u8], &[u8]) = if cursor.eat(K::Isolation) {
            if !cursor.eat(K::Level) {
                return None;
            }
            let level: &[u8] = if cursor.eat_word("serializable") {
                b"'serializable'"
            } else if cursor.eat_word("repeatable") && cursor.eat(K::Read) {
                b"'repeatable read'"
            } else if cursor.eat(K::Read) && cursor.eat_word("committed") {
                b"'read committed'"
            } else if cursor.eat_word("uncommitted") {
                b"'read uncommitted'"
            } else {
                return None;
            };
            (b"default_transaction_isolation", level)
        } else if cursor.eat(K::Read) {
            let only = cursor.eat(K::Only);
            if !only && !cursor.eat(K::Write) {
                return None;
            }
            let value: &[u8] = if only { b"on" } else { b"off" };
            (b"default_transaction_read_only", value)
        } else {
            let not = cursor.eat(K::Not);
            if !cursor.eat(K::Deferrable) {
                return None;
            }
            let value: &[u8] = if not { b"off" } else { b"on" };
            (b"default_transaction_deferrable", value)
        };
        push(out, scope, name, Some(Value::Words(value.into())));
        cursor.eat_kind(Kind::Comma);
    }
    Some(())
}

/// Settings that describe the current transaction and end with it.
pub(super) fn is_of_transaction(name: &[u8]) -> bool {
    [
        &b"transaction_isolation"[..],
        b"transaction_read_only",
        b"transaction_deferrable",
    ]
    .contains(&name)
}

/// The content of a literal that holds nothing to be decoded.
pub(super) fn unquoted(literal: &[u8]) -> Option<&[u8]> {
    let inner = literal.strip_prefix(b"'")?.strip_suffix(b"'")?;
    (!inner.contains(&b'\'')).then_some(inner)
}

/// PostgreSQL's boolean input, or the one byte of its binary format.
///
/// Source: <https://www.postgresql.org/docs/current/datatype-boolean.html>
pub(super) fn boolean(bytes: &[u8]) -> Option<bool> {
    let word = bytes.trim_ascii().to_ascii_lowercase();
    let begins =
        |full: &str, least: usize| word.len() >= least && full.as_bytes().starts_with(&word);
    match bytes {
        [0] => Some(false),
        [1] => Some(true),
        _ if begins("true", 1) || begins("yes", 1) || begins("on", 2) || word == b"1" => Some(true),
        _ if begins("false", 1) || begins("no", 1) || begins("off", 2) || word == b"0" => {
            Some(false)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_value_is_what_was_meant() {
        for text in [
            "",
            "plain",
            "O'Brien",
            "''",
            "a\\b",
            "'\\'",
            "\"Two\" words, é",
        ] {
            let value = Value::from_text(b"a.b", text.as_bytes());
            assert_eq!(value.text().as_deref(), Some(text.as_bytes()), "{text}");
        }
        for (sql, text) in [
            ("word", Some("word")),
            ("-5", Some("-5")),
            ("\"Na\"\"me\"", Some("Na\"me")),
            ("E'a\\n'", None),
            ("'a', 'b'", None),
            ("two words", None),
        ] {
            let value = Value::Words(sql.as_bytes().into());
            assert_eq!(value.text().as_deref(), text.map(str::as_bytes), "{sql}");
        }
    }
}
