//! Statements of a text: where each ends, its first word, and the words within that a pooler must look into.
//!
//! A semicolon ends a statement unless it stands in parentheses (`CREATE RULE … DO (a; b)`) or in the body of
//! a routine (`BEGIN ATOMIC a; b; END`). In such a body only a routine's own `END` follows a semicolon, because
//! PostgreSQL admits no `BEGIN` and no `END` statement there; the `END` of a CASE never does.
//!
//! Source: <https://www.postgresql.org/docs/current/sql-createfunction.html>, `sql_body`.

use super::keyword::Keyword as K;
use super::lexer::{Dialect, Kind, Lexer, Token};

/// The statements of a text in order, empty ones left out: as many as the server will answer.
#[derive(Clone, Debug)]
pub struct Statements<'a> {
    lexer: Lexer<'a>,
}

/// One statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    /// From its first token to its last, without the semicolon.
    pub text: &'a [u8],
    /// Offset of `text` in the whole.
    pub start: usize,
    /// Its first word; that of the first SELECT or VALUES if parentheses stand before it.
    pub verb: K,
    /// What its words suggest.
    pub traits: Traits,
}

/// What a statement may do to its session: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits(u16);

impl Traits {
    /// None of the below.
    pub const NONE: Self = Self(0);
    /// Calls `set_config`.
    pub const SET_CONFIG: Self = Self(1);
    /// May take a session-level advisory lock.
    pub const LOCKS: Self = Self(1 << 1);
    /// May release one session-level advisory lock.
    pub const UNLOCKS: Self = Self(1 << 2);
    /// May release all session-level advisory locks.
    pub const UNLOCKS_ALL: Self = Self(1 << 3);
    /// `nextval` or `setval`.
    pub const SEQUENCE_WRITE: Self = Self(1 << 4);
    /// `currval` or `lastval`: the answer depends on what this session did before.
    pub const SEQUENCE_READ: Self = Self(1 << 5);
    /// Makes a temporary object, or may (a name in `pg_temp`).
    pub const TEMPORARY: Self = Self(1 << 6);
    /// Calls a function that we do not know, in a query or a data change. It may do anything, as may triggers
    /// and rules, which no text shows.
    pub const CALLS: Self = Self(1 << 7);
    /// Runs code that we cannot see or do not understand: `DO`, `CALL`, `EXECUTE`, `setseed()`, a form of `SET`
    /// not known to us.
    pub const OPAQUE: Self = Self(1 << 8);
    /// `COPY`.
    pub const COPY: Self = Self(1 << 9);
    /// The text ends within a token, a parenthesis or a routine's body, or its boundaries are not certain. The
    /// server will most likely refuse it; if it does not, treat it as `OPAQUE`.
    pub const MALFORMED: Self = Self(1 << 10);
    /// Updates `pg_settings`, which sets.
    pub const SETTINGS: Self = Self(1 << 11);
    /// `SELECT … INTO UNLOGGED`.
    pub const UNLOGGED: Self = Self(1 << 12);

    /// Is any of these in the set?
    pub const fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// The first word of a text behind white space, comments, empty statements and opening parentheses.
///
/// [`K::Unknown`] if there is none, or if it is a word without meaning for us.
pub fn first_keyword(text: &[u8]) -> K {
    if text.first().is_some_and(u8::is_ascii_alphabetic) {
        let end = text.iter().position(|b| !b.is_ascii_alphabetic());
        let word = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
        let next = text.get(word.len()).copied().unwrap_or(b' ');
        if next == b' ' || next == b';' || next == b'\n' {
            return K::find(word);
        }
    }
    let mut lexer = Lexer::new(text, Dialect::default());
    while let Some(token) = lexer.next_solid() {
        match token.kind {
            Kind::Semicolon | Kind::Open => {}
            Kind::Word => return K::find(token.of(text)),
            _ => break,
        }
    }
    K::Unknown
}

impl<'a> Statements<'a> {
    /// Begins with the first statement of a text.
    pub fn new(text: &'a [u8], dialect: Dialect) -> Self {
        Self {
            lexer: Lexer::new(text, dialect),
        }
    }
}

/// What has been seen of the statement so far.
struct Reading {
    verb: K,
    traits: Traits,
    /// Words so far, as far as they matter: `CREATE OR REPLACE FUNCTION` has four.
    words: u8,
    /// The token before this one, as a word.
    previous: K,
    previous_kind: Kind,
    /// The word before the name that `previous` ends, dots and all: `INTO` in `INTO a.b`.
    lead: K,
    /// Was the last INTO that of INSERT or MERGE?
    into_table: bool,
    /// Open parentheses.
    depth: usize,
    routine: Routine,
}

/// Where in a `CREATE FUNCTION` or `CREATE PROCEDURE` we are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Routine {
    /// Another statement.
    Not,
    /// `CREATE SCHEMA`, which may come to contain routines.
    Schema,
    /// Before the body.
    Head,
    /// This many bodies deep, at least one.
    Body(usize),
}

impl Reading {
    fn new() -> Self {
        Self {
            verb: K::Unknown,
            traits: Traits::NONE,
            words: 0,
            previous: K::Unknown,
            previous_kind: Kind::Semicolon,
            lead: K::Unknown,
            into_table: false,
            depth: 0,
            routine: Routine::Not,
        }
    }

    /// Takes a token in. True: it is the semicolon that ends the statement.
    #[inline]
    fn take(&mut self, token: Token, text: &[u8]) -> bool {
        let mut word = K::Unknown;
        match token.kind {
            Kind::Word => {
                word = K::find(token.of(text));
                self.name();
                if self.words == 0 {
                    self.verb = word;
                }
                self.words = self.words.saturating_add(1);
                if word != K::Unknown {
                    word = self.word(word);
                } else if self.makes() {
                    self.new_name(token.of(text));
                }
            }
            Kind::QuotedName => {
                self.name();
                // What is quoted is no key word, but may name a function or schema.
                let bytes = token.of(text);
                let inner = bytes.get(1..bytes.len().saturating_sub(1));
                let found = K::find(inner.unwrap_or_default());
                if found.is_name() {
                    word = self.word(found);
                } else if self.makes() {
                    self.new_name(inner.unwrap_or_default());
                }
            }
            Kind::UnicodeName => {
                self.name();
                // It may be any.
                if self.makes() {
                    self.traits.add(Traits::TEMPORARY);
                }
                if self.lead == K::Update {
                    self.traits.add(Traits::SETTINGS);
                }
            }
            Kind::Open => {
                self.open();
                self.depth += 1;
                if self.previous == K::Update {
                    word = K::Update; // ONLY (table)
                }
            }
            Kind::Close => self.depth = self.depth.saturating_sub(1),
            Kind::Semicolon if self.depth == 0 && !matches!(self.routine, Routine::Body(_)) => {
                return true;
            }
            Kind::Unterminated => self.traits.add(Traits::MALFORMED),
            _ => {}
        }
        self.previous = word;
        self.previous_kind = token.kind;
        false
    }

    /// A name or word begins, or goes on behind a dot.
    #[inline]
    fn name(&mut self) {
        if self.previous_kind != Kind::Dot {
            self.lead = self.previous;
        }
    }

    /// May a name that comes now be that of something new, or of its schema? In EXPLAIN of whatever is explained.
    #[inline]
    fn makes(&self) -> bool {
        matches!(self.verb, K::Create | K::Explain) || self.lead == K::Into && !self.into_table
    }

    /// `pg_temp_3` is as good as `pg_temp` for the session that it is of.
    fn new_name(&mut self, name: &[u8]) {
        let start = name.get(..b"pg_temp".len());
        if start.is_some_and(|start| start.eq_ignore_ascii_case(b"pg_temp")) {
            self.traits.add(Traits::TEMPORARY);
        }
        if self.lead == K::Into && name.eq_ignore_ascii_case(b"unlogged") {
            self.traits.add(Traits::UNLOGGED);
        }
    }

    /// Takes in a word that has a meaning; answers what the next token shall see before it.
    fn word(&mut self, word: K) -> K {
        match word {
            K::Into => self.into_table = matches!(self.previous, K::Insert | K::Merge),
            K::Local | K::Global if self.previous == K::Into => return K::Into,
            K::Temporary if self.lead == K::Into && !self.into_table => {
                self.traits.add(Traits::TEMPORARY);
            }
            K::PgTemp if self.makes() => self.traits.add(Traits::TEMPORARY),
            K::Only if self.previous == K::Update => return K::Update,
            K::PgSettings if self.lead == K::Update => self.traits.add(Traits::SETTINGS),
            K::Function | K::Procedure if self.verb == K::Create && matches!(self.words, 2 | 4) => {
                self.routine = Routine::Head;
            }
            K::Schema if self.verb == K::Create && self.words == 2 => {
                self.routine = Routine::Schema;
            }
            K::Atomic if self.previous == K::Begin && self.depth == 0 => match self.routine {
                Routine::Head => self.routine = Routine::Body(1),
                Routine::Body(depth) => self.routine = Routine::Body(depth + 1),
                Routine::Schema => self.traits.add(Traits::MALFORMED),
                Routine::Not => {}
            },
            K::End if self.depth == 0 => {
                if let Routine::Body(depth) = self.routine {
                    if self.previous_kind == Kind::Semicolon || self.previous == K::Atomic {
                        self.routine = match depth {
                            0 | 1 => Routine::Head,
                            _ => Routine::Body(depth - 1),
                        };
                    }
                }
            }
            _ => {}
        }
        word
    }

    /// A parenthesis opens: what stood before it may be the name of a function.
    fn open(&mut self) {
        self.traits.add(match (self.previous_kind, self.previous) {
            (Kind::UnicodeName, _) => Traits::OPAQUE,
            (Kind::Word | Kind::QuotedName, previous) => match previous {
                K::Unknown | K::PgSettings => self.unknown_call(),
                K::SetConfig => Traits::SET_CONFIG,
                K::AdvisoryLock => Traits::LOCKS,
                K::AdvisoryUnlock => Traits::UNLOCKS,
                K::AdvisoryUnlockAll => Traits::UNLOCKS_ALL,
                K::SequenceWrite => Traits::SEQUENCE_WRITE,
                K::SequenceRead => Traits::SEQUENCE_READ,
                K::SessionFunction => Traits::OPAQUE,
                _ => Traits::NONE,
            },
            _ => Traits::NONE,
        });
    }

    /// A table with its columns looks like a call, too.
    fn unknown_call(&self) -> Traits {
        let query = matches!(
            self.verb,
            K::Select
                | K::With
                | K::Values
                | K::Insert
                | K::Update
                | K::Delete
                | K::Merge
                | K::Explain
                | K::Copy
                | K::Declare
        );
        let columns = matches!(self.lead, K::Into | K::As | K::With | K::Copy | K::Table);
        if query && !columns {
            Traits::CALLS
        } else {
            Traits::NONE
        }
    }
}

impl<'a> Iterator for Statements<'a> {
    type Item = Statement<'a>;

    fn next(&mut self) -> Option<Statement<'a>> {
        let text = self.lexer.text();
        let mut token = self
            .lexer
            .find(|token| !token.kind.is_blank() && token.kind != Kind::Semicolon)?;
        let start = token.start;
        let mut end = start;
        let mut reading = Reading::new();
        while !reading.take(token, text) {
            end = token.end;
            match self.lexer.next_solid() {
                Some(next) => token = next,
                None => {
                    if reading.depth > 0 || matches!(reading.routine, Routine::Body(_)) {
                        reading.traits.add(Traits::MALFORMED);
                    }
                    break;
                }
            }
        }
        Some(Statement {
            text: text.get(start..end).unwrap_or_default(),
            start,
            verb: reading.verb,
            traits: reading.traits,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(text: &str) -> Vec<&str> {
        Statements::new(text.as_bytes(), Dialect::default())
            .map(|statement| std::str::from_utf8(statement.text).unwrap())
            .collect()
    }

    #[test]
    fn statements_end_where_postgresql_ends_them() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" ;; -- a;\n ; /* ; */", &[]),
            ("SELECT 1", &["SELECT 1"]),
            (" SELECT 1 ; ", &["SELECT 1"]),
            ("a;b; c -- d", &["a", "b", "c"]),
            ("SELECT ';', \";\", $$;$$, E'\\';'; b", &["SELECT ';', \";\", $$;$$, E'\\';'", "b"]),
            ("CREATE RULE r AS ON INSERT TO t DO ALSO (a; b); c", &["CREATE RULE r AS ON INSERT TO t DO ALSO (a; b)", "c"]),
            (
                "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN b END; SELECT 2; END; c",
                &["CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN b END; SELECT 2; END", "c"],
            ),
            ("create or replace procedure p() begin atomic end; c", &["create or replace procedure p() begin atomic end", "c"]),
            (
                "CREATE FUNCTION f() BEGIN ATOMIC CREATE FUNCTION g() BEGIN ATOMIC a; END; END; c",
                &["CREATE FUNCTION f() BEGIN ATOMIC CREATE FUNCTION g() BEGIN ATOMIC a; END; END", "c"],
            ),
            (
                "CREATE FUNCTION f() BEGIN ATOMIC SELECT t.end AS end; SELECT 1 end; END; c",
                &["CREATE FUNCTION f() BEGIN ATOMIC SELECT t.end AS end; SELECT 1 end; END", "c"],
            ),
            ("CREATE VIEW v AS SELECT begin atomic FROM t; c", &["CREATE VIEW v AS SELECT begin atomic FROM t", "c"]),
            ("CREATE FUNCTION f(a int DEFAULT (begin atomic)) AS 'x'; c", &["CREATE FUNCTION f(a int DEFAULT (begin atomic)) AS 'x'", "c"]),
            ("BEGIN; END; c", &["BEGIN", "END", "c"]),
            ("a); b", &["a)", "b"]),
        ];
        for (text, expected) in cases {
            assert_eq!(split(text), *expected, "{text}");
        }
    }

    #[test]
    fn words_are_noticed_where_they_mean_something() {
        let cases = [
            ("SELECT a FROM t WHERE b = $1", Traits::NONE),
            (
                "SELECT count(*), max(a) FROM t WHERE b IN (1, 2)",
                Traits::NONE,
            ),
            (
                "INSERT INTO s.t (a, b) VALUES ($1, now()) ON CONFLICT (a) DO NOTHING",
                Traits::NONE,
            ),
            ("INSERT INTO \"t\" (\"a\") VALUES (1)", Traits::NONE),
            (
                "SELECT set_config FROM t WHERE nextval = 'pg_advisory_lock(1)'",
                Traits::NONE,
            ),
            ("SELECT set_config('a', 'b', false)", Traits::SET_CONFIG),
            (
                "SELECT pg_catalog . Set_Config /* */ ('a', 'b', false)",
                Traits::SET_CONFIG,
            ),
            ("SELECT \"set_config\"('a', 'b', false)", Traits::SET_CONFIG),
            (
                "SELECT U&\"set\\005fconfig\"('a', 'b', false)",
                Traits::OPAQUE,
            ),
            ("SELECT pg_advisory_lock(1)", Traits::LOCKS),
            ("SELECT pg_try_advisory_lock_shared(1, 2)", Traits::LOCKS),
            ("SELECT pg_advisory_xact_lock(1)", Traits::NONE),
            ("SELECT pg_advisory_unlock(1)", Traits::UNLOCKS),
            ("SELECT pg_advisory_unlock_all()", Traits::UNLOCKS_ALL),
            (
                "INSERT INTO t VALUES (nextval('s'))",
                Traits::SEQUENCE_WRITE,
            ),
            ("SELECT currval('s'), lastval()", Traits::SEQUENCE_READ),
            ("SELECT f(1)", Traits::CALLS),
            ("SELECT * FROM s.f(1)", Traits::CALLS),
            ("SELECT setseed(0.5)", Traits::OPAQUE),
            ("SELECT a INTO TEMP t FROM u", Traits::TEMPORARY),
            (
                "SELECT a INTO LOCAL TEMPORARY TABLE t FROM u",
                Traits::TEMPORARY,
            ),
            ("SELECT a INTO pg_temp.t FROM u", Traits::TEMPORARY),
            ("SELECT a INTO Unlogged t FROM u", Traits::UNLOGGED),
            ("SELECT unlogged FROM t", Traits::NONE),
            ("INSERT INTO temp VALUES (1)", Traits::NONE),
            ("INSERT INTO pg_temp.t VALUES (1)", Traits::NONE),
            (
                "WITH a AS (INSERT INTO temp (x) VALUES (1)) SELECT 1",
                Traits::NONE,
            ),
            ("SELECT temp FROM t", Traits::NONE),
            ("SELECT a INTO pg_temp_3.t FROM u", Traits::TEMPORARY),
            (
                "SELECT a INTO U&\"pg_t\\0065mp\".t FROM u",
                Traits::TEMPORARY,
            ),
            ("INSERT INTO pg_temp_3.t VALUES (1)", Traits::NONE),
            ("SELECT pg_temp_3.t FROM pg_temp_3.t", Traits::NONE),
            ("CREATE TABLE pg_temp.t (a int)", Traits::TEMPORARY),
            ("CREATE TABLE \"pg_temp_3\".t (a int)", Traits::TEMPORARY),
            (
                "CREATE TABLE U&\"pg!005ftemp\" UESCAPE '!'.t (a int)",
                Traits::TEMPORARY,
            ),
            ("UPDATE pg_settings SET setting = 'x'", Traits::SETTINGS),
            (
                "UPDATE ONLY pg_catalog.\"pg_settings\" SET setting = 'x'",
                Traits::SETTINGS,
            ),
            (
                "UPDATE U&\"pg\\005fsettings\" SET setting = 'x'",
                Traits::SETTINGS,
            ),
            (
                "WITH a AS (UPDATE pg_settings SET setting = 'x' RETURNING 1) SELECT 1",
                Traits::SETTINGS,
            ),
            (
                "EXPLAIN ANALYZE UPDATE pg_settings SET setting = 'x'",
                Traits::SETTINGS,
            ),
            (
                "UPDATE t SET a = s.setting FROM pg_settings s",
                Traits::NONE,
            ),
            ("SELECT a FROM t, ONLY pg_settings FOR UPDATE", Traits::NONE),
            (
                "CREATE FUNCTION \"pg_temp\".f() RETURNS int LANGUAGE sql AS ''",
                Traits::TEMPORARY,
            ),
            ("SELECT (1", Traits::MALFORMED),
            ("SELECT 'a", Traits::MALFORMED),
            ("CREATE FUNCTION f() BEGIN ATOMIC a;", Traits::MALFORMED),
            (
                "CREATE SCHEMA s CREATE FUNCTION f() BEGIN ATOMIC a; END",
                Traits::MALFORMED,
            ),
        ];
        for (text, expected) in cases {
            let found = Statements::new(text.as_bytes(), Dialect::default()).next();
            assert_eq!(found.unwrap().traits, expected, "{text}");
        }
    }

    #[test]
    fn the_first_word_is_found_behind_anything() {
        let cases = [
            ("", K::Unknown),
            ("select 1", K::Select),
            ("BEGIN", K::Begin),
            ("SELECT* FROM t", K::Select),
            ("\n\t/* SET */ -- SET\n;; ((SELECT 1))", K::Select),
            ("selects", K::Unknown),
            ("set\u{e9} a", K::Unknown),
            ("set_config", K::SetConfig),
            ("'select'", K::Unknown),
            ("SET/**/a=1", K::Set),
        ];
        for (text, expected) in cases {
            assert_eq!(first_keyword(text.as_bytes()), expected, "{text}");
            let first = Statements::new(text.as_bytes(), Dialect::default()).next();
            assert_eq!(first.map_or(K::Unknown, |first| first.verb), expected);
        }
    }

    proptest! {
        /// Statements put together with semicolons come apart again.
        #[test]
        fn joined_statements_are_split(
            parts in prop::collection::vec(prop::sample::select(vec![
                "SELECT 1", "SET a = ';'", "SELECT $$;$$ || E'\\';'", "(SELECT 2)", "BEGIN", "END",
                "CREATE RULE r AS ON INSERT TO t DO (a; b)", "SELECT \";\" /* ; */ FROM t",
                "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; END",
                "SELECT -- ;\n 1",
            ]), 0..8),
            glue in prop::sample::select(vec![";", " ; ", ";;", "; -- ;\n"]),
        ) {
            let text = parts.join(glue);
            prop_assert_eq!(split(&text), parts);
        }

        #[test]
        fn any_bytes_are_split_without_panic(data: Vec<u8>) {
            let mut end = 0;
            for statement in Statements::new(&data, Dialect::default()) {
                prop_assert!(statement.start >= end && !statement.text.is_empty());
                end = statement.start + statement.text.len();
            }
            first_keyword(&data);
        }
    }
}
