//! What PostgreSQL keeps in a session and nobody can carry elsewhere: it ties the client to its server.
//!
//! No text tells for certain: an advisory lock may not have been granted, a table may have been made by a
//! procedure, a transaction rolled back. So a text only raises the question; the server answers it with
//! [`CHECK`], between transactions, and a tie lasts exactly as long as its cause.

use crate::sql::session::{Effect, Effects};
use crate::sql::statements::Traits;

/// Asks a server what its session holds: one row of one text, a letter for each kind of thing. Only meaningful
/// between transactions.
///
/// Temporary objects are looked for as PostgreSQL itself does when it drops them: what depends on their schema.
pub const CHECK: &str = "SELECT pg_catalog.concat(\
    CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' \
        AND pid = pg_catalog.pg_backend_pid()) THEN 'a' END, \
    CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_depend \
        WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass \
        AND refobjid = pg_catalog.pg_my_temp_schema()) THEN 't' END, \
    CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_cursors) THEN 'c' END, \
    CASE WHEN EXISTS (SELECT pg_catalog.pg_listening_channels()) THEN 'l' END, \
    CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_prepared_statements \
        WHERE from_sql AND pg_catalog.left(name, 8) <> '__pgdog_') THEN 'p' END)";

/// Kinds of things, their letter in the answer to [`CHECK`], and what an operator is told.
const KINDS: [(u8, &str); 5] = [
    (b'a', "advisory lock"),
    (b't', "temporary object"),
    (b'c', "cursor"),
    (b'l', "listen"),
    (b'p', "prepared statement"),
];

/// A tie that only the session's end undoes, and that the server does not survive.
const LIBRARY: u8 = 1 << 7;
/// Something that is not known to us, because the server would not say.
const UNKNOWN: u8 = 1 << 6;

/// What ties a client to the server that it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ties {
    /// A bit for each of [`KINDS`], and those above.
    held: u8,
    asks: bool,
    scrub: bool,
}

impl Ties {
    /// A text is about to be run that does this to its session.
    pub fn note(&mut self, effects: &Effects) {
        let traits = effects.traits;
        let ends = Traits::UNLOCKS
            .with(Traits::UNLOCKS_ALL)
            .with(Traits::OPAQUE);
        let begins = Traits::LOCKS.with(Traits::TEMPORARY).with(Traits::OPAQUE);
        self.asks |= traits.has(begins) || self.held != 0 && traits.has(ends);
        self.scrub |= traits.has(Traits::OPAQUE.with(Traits::MALFORMED));
        for step in effects.steps() {
            match &step.effect {
                Effect::Temporary
                | Effect::Listen(_)
                | Effect::Prepare(_)
                | Effect::Declare { hold: true, .. } => self.asks = true,
                Effect::DiscardAll
                | Effect::DiscardTemporary
                | Effect::Drop
                | Effect::Close(_)
                | Effect::CloseAll
                | Effect::Unlisten(_)
                | Effect::UnlistenAll
                | Effect::Deallocate(_)
                | Effect::DeallocateAll => self.asks |= self.held != 0,
                Effect::Load => self.held |= LIBRARY,
                _ => {}
            }
        }
    }

    /// A text is about to be run that was not read.
    pub fn note_unread(&mut self) {
        self.asks = true;
        self.scrub = true;
    }

    /// A FunctionCall with this body is about to be sent, of which the OID of the function is here. What it does nobody
    /// tells, unless it is one for large objects: these leave nothing behind that outlives the transaction.
    pub fn note_call(&mut self, body: &[u8]) {
        let oid = body.first_chunk().map(|oid| u32::from_be_bytes(*oid));
        // lo_create, lo_import, lo_export, lo_open to lo_tell, lo_unlink, lo_truncate, those with 64 bits, lo_from_bytea to
        // lo_put.
        let large_object = matches!(
            oid,
            Some(715 | 764 | 765 | 767 | 952..=958 | 964 | 1004 | 3170..=3172 | 3457..=3460)
        );
        if !large_object {
            self.note_unread();
        }
    }

    /// Must the server be asked, as soon as no transaction is open?
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// What the server answered to [`CHECK`]; None if it refused to.
    pub fn answered(&mut self, letters: Option<&[u8]>) {
        self.asks = false;
        let mut held = if letters.is_none() { UNKNOWN } else { 0 };
        for (bit, (letter, _)) in KINDS.iter().enumerate() {
            if letters.is_some_and(|letters| letters.contains(letter)) {
                held |= 1 << bit;
            }
        }
        self.held = held | self.held & LIBRARY;
    }

    /// Why the client keeps its server, if it does.
    pub fn reason(&self) -> Option<&'static str> {
        if self.held & LIBRARY != 0 {
            return Some("library");
        }
        let first = (0..KINDS.len()).find(|bit| self.held & 1 << bit != 0);
        let known = first.and_then(|bit| KINDS.get(bit)).map(|(_, name)| *name);
        known.or_else(|| (self.held != 0).then_some("unknown"))
    }

    /// Must the session be cleaned before the server serves another client?
    pub fn scrub(&self) -> bool {
        self.scrub || self.held != 0 || self.asks
    }

    /// Is there something that cannot be cleaned, so that the server has to be closed?
    pub fn spoilt(&self) -> bool {
        self.held & LIBRARY != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lexer::Dialect;
    use crate::sql::session::effects;

    fn after(held: &[u8], text: &str) -> Ties {
        let mut ties = Ties::default();
        ties.answered(Some(held));
        ties.note(&effects(text.as_bytes(), Dialect::default()));
        ties
    }

    #[test]
    fn what_may_begin_a_tie_raises_the_question() {
        let texts = [
            "CREATE TEMP TABLE t (a int)",
            "CREATE TABLE pg_temp.t (a int)",
            "SELECT 1 INTO TEMP t",
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_try_advisory_lock(1)",
            "LISTEN c",
            "PREPARE p AS SELECT 1",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "SELECT 1; LISTEN c",
            "DO $$BEGIN END$$",
            "CALL p()",
        ];
        for text in texts {
            assert!(after(b"", text).asks(), "{text}");
            assert!(after(b"", text).scrub(), "{text}");
        }
    }

    #[test]
    fn what_may_end_a_tie_raises_it_where_there_is_one() {
        let texts = [
            "DROP TABLE t",
            "DISCARD TEMP",
            "DISCARD ALL",
            "SELECT pg_advisory_unlock(1)",
            "SELECT pg_advisory_unlock_all()",
            "UNLISTEN c",
            "UNLISTEN *",
            "CLOSE c",
            "CLOSE ALL",
            "DEALLOCATE p",
            "DEALLOCATE ALL",
        ];
        for text in texts {
            assert!(!after(b"", text).asks(), "{text}");
            assert!(after(b"a", text).asks(), "{text}");
        }
    }

    #[test]
    fn what_ties_nobody_asks_nothing() {
        let texts = [
            "SELECT 1",
            "BEGIN",
            "SELECT pg_advisory_xact_lock(1)",
            "DECLARE c CURSOR FOR SELECT 1",
            "CREATE TEMP TABLE t (a int) ON COMMIT DROP",
            "SET a.b = 1",
            "NOTIFY c",
        ];
        for text in texts {
            assert_eq!(after(b"", text), Ties::default(), "{text}");
            assert!(!after(b"t", text).asks(), "{text}");
        }
    }

    #[test]
    fn the_server_has_the_last_word() {
        let mut ties = after(b"", "SELECT pg_try_advisory_lock(1)");
        ties.answered(Some(b""));
        assert_eq!(ties, Ties::default());
        for (letter, reason) in KINDS {
            ties.answered(Some(&[letter]));
            assert_eq!(ties.reason(), Some(reason));
            assert!(ties.scrub() && !ties.spoilt());
        }
        ties.answered(None);
        assert_eq!(ties.reason(), Some("unknown"));
        ties.answered(Some(b""));
        assert_eq!((ties.reason(), ties.scrub()), (None, false));
    }

    #[test]
    fn a_library_stays_for_good() {
        let mut ties = after(b"", "LOAD 'auto_explain'");
        ties.answered(Some(b""));
        assert_eq!(ties.reason(), Some("library"));
        assert!(ties.spoilt());
    }

    #[test]
    fn functions_that_are_called_by_number_are_cleaned_after_unless_they_are_for_large_objects() {
        let called = |body: &[u8]| {
            let mut ties = Ties::default();
            ties.note_call(body);
            ties.asks() && ties.scrub()
        };
        for (oid, expected) in [(952_u32, false), (3172, false), (2880, true), (2078, true)] {
            let body = [&oid.to_be_bytes()[..], &[0; 6]].concat();
            assert_eq!(called(&body), expected, "{oid}");
        }
        assert!(called(b""));
    }

    #[test]
    fn code_that_we_cannot_see_is_cleaned_after() {
        let mut ties = after(b"", "DO $$BEGIN END$$");
        ties.answered(Some(b""));
        assert_eq!((ties.reason(), ties.scrub()), (None, true));
    }
}
