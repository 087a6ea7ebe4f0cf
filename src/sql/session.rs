//! What a text does to the session that runs it.
//!
//! A pooler must know what PostgreSQL keeps between transactions: settings, prepared statements, cursors,
//! locks, listeners, temporary objects. Plain queries keep nothing, and are told from the others in the one
//! pass of `statements`; the few statements that matter are read again word by word.
//!
//! What no text shows: a function, trigger or rule may do all of this, too. Calls of functions that we do not
//! know carry [`Traits::CALLS`].

use super::cursor::{Cursor, Name};
use super::keyword::Keyword as K;
use super::lexer::{Dialect, Kind};
use super::plain;
use super::set::{self, Change, Found, SetConfig};
use super::statements::{first_keyword, Statement, Statements, Traits};

/// What the statements of a text do, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// How many statements there are, without empty ones: as many replies will come.
    pub statements: u32,
    /// First word of the first statement.
    pub verb: K,
    /// All statements' traits together.
    pub traits: Traits,
    steps: Steps,
}

/// Something that happens when a statement succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which statement, from 0.
    pub statement: u32,
    /// What happens.
    pub effect: Effect,
}

/// One effect of one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `BEGIN`, `START TRANSACTION`
    Begin,
    /// `COMMIT`, `END`; a new transaction follows if `chain`. Its tag is ROLLBACK if the transaction had failed.
    Commit {
        /// `AND CHAIN`
        chain: bool,
    },
    /// `ROLLBACK`, `ABORT`
    Rollback {
        /// `AND CHAIN`
        chain: bool,
    },
    /// `SAVEPOINT name`
    Savepoint(Name),
    /// `RELEASE [SAVEPOINT] name`
    Release(Name),
    /// `ROLLBACK TO [SAVEPOINT] name`
    RollbackTo(Name),
    /// `PREPARE TRANSACTION`: the session leaves the transaction, and keeps its settings as with COMMIT.
    PrepareTransaction,
    /// `COMMIT PREPARED`, `ROLLBACK PREPARED`
    FinishPrepared,
    /// `SET TRANSACTION`, `SET CONSTRAINTS`: ends with the transaction, nothing to keep.
    TransactionMode,

    /// `SET`, `RESET`, `set_config()` with known arguments.
    Setting(Change),
    /// `set_config()` with arguments that come with Bind.
    SetConfig(SetConfig),
    /// Any setting may have changed.
    SettingsUnknown,

    /// `DISCARD ALL`
    DiscardAll,
    /// `DISCARD PLANS`
    DiscardPlans,
    /// `DISCARD SEQUENCES`
    DiscardSequences,
    /// `DISCARD TEMP`
    DiscardTemporary,

    /// `PREPARE name …`
    Prepare(NameAt),
    /// `EXECUTE name …`, also within EXPLAIN and CREATE TABLE AS.
    Execute(NameAt),
    /// `DEALLOCATE name`
    Deallocate(NameAt),
    /// `DEALLOCATE ALL`
    DeallocateAll,

    /// `DECLARE name CURSOR`
    Declare {
        /// Of the cursor.
        name: Name,
        /// `WITH HOLD`: it outlives the transaction.
        hold: bool,
    },
    /// `CLOSE name`
    Close(Name),
    /// `CLOSE ALL`
    CloseAll,

    /// `LISTEN channel`
    Listen(Name),
    /// `UNLISTEN channel`
    Unlisten(Name),
    /// `UNLISTEN *`
    UnlistenAll,
    /// `NOTIFY channel`
    Notify(Name),

    /// Makes a temporary table, view, sequence or function that outlives the transaction.
    Temporary,
    /// `DROP …`: a temporary object may be gone.
    Drop,
    /// `LOAD`
    Load,
}

/// A name and where it stands in the text, so that another can be put in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAt {
    /// As PostgreSQL stores it.
    pub name: Name,
    /// Offset of its first byte.
    pub start: usize,
    /// Offset past its last byte. What follows up to the end of the statement defines a prepared statement.
    pub end: usize,
}

/// No allocation for none or one, which is all but always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Steps {
    #[default]
    None,
    One(Step),
    Many(Vec<Step>),
}

impl Effects {
    /// What happens, in order. Empty for plain queries.
    pub fn steps(&self) -> &[Step] {
        match &self.steps {
            Steps::None => &[],
            Steps::One(step) => std::slice::from_ref(step),
            Steps::Many(steps) => steps,
        }
    }

    /// Is this a text that leaves the session and the transaction as they were, as far as it shows?
    pub fn is_plain(&self) -> bool {
        matches!(self.steps, Steps::None) && self.traits.without(Traits::CALLS) == Traits::NONE
    }

    fn push(&mut self, effect: Effect) {
        let step = Step {
            statement: self.statements.saturating_sub(1),
            effect,
        };
        match &mut self.steps {
            Steps::None => self.steps = Steps::One(step),
            Steps::Many(steps) => steps.push(step),
            Steps::One(_) => {
                let Steps::One(first) = std::mem::take(&mut self.steps) else {
                    return;
                };
                self.steps = Steps::Many(vec![first, step]);
            }
        }
    }
}

/// What the statements of a `Query` or `Parse` do to their session.
///
/// `text` comes without the terminating zero. The cost is one pass over it, for few texts two, and no allocation
/// for plain queries.
pub fn effects(text: &[u8], dialect: Dialect) -> Effects {
    let mut effects = Effects::default();
    if let Some(verb) = plain::verb(text) {
        (effects.statements, effects.verb) = (1, verb);
        return effects;
    }
    if let Some(effect) = bare(text) {
        effects.statements = 1;
        effects.verb = first_keyword(text);
        effects.push(effect);
        return effects;
    }
    for statement in Statements::new(text, dialect) {
        effects.statements = effects.statements.saturating_add(1);
        if effects.statements == 1 {
            effects.verb = statement.verb;
        }
        let mut traits = statement.traits;
        if !matches!(
            statement.verb,
            K::Select | K::Insert | K::Update | K::Delete | K::With | K::Values | K::Unknown
        ) {
            let cursor = Cursor::new(statement.text, dialect);
            match describe(&statement, cursor, &mut effects) {
                Some(more) => traits.add(more),
                None => traits.add(Traits::OPAQUE),
            }
            if statement.verb == K::Prepare {
                // What the prepared statement does, it does when it is executed.
                traits = traits.without(Traits::SET_CONFIG.with(Traits::CALLS).with(LOCKS));
            }
        } else if traits.has(Traits::TEMPORARY) {
            effects.push(Effect::Temporary);
        }
        if traits.has(Traits::SET_CONFIG) {
            let mut found = Vec::new();
            set::set_config(statement.text, dialect, &mut found);
            push_found(found, &mut effects);
        }
        effects.traits.add(traits);
    }
    effects
}

/// BEGIN and COMMIT as most clients write them, which would not be worth a cursor.
fn bare(text: &[u8]) -> Option<Effect> {
    let word = text.trim_ascii_end();
    let word = word.strip_suffix(b";").unwrap_or(word);
    match K::find(word) {
        K::Begin => Some(Effect::Begin),
        K::Commit | K::End => Some(Effect::Commit { chain: false }),
        K::Rollback | K::Abort => Some(Effect::Rollback { chain: false }),
        _ => None,
    }
}

const LOCKS: Traits = Traits::LOCKS
    .with(Traits::UNLOCKS)
    .with(Traits::UNLOCKS_ALL)
    .with(Traits::SEQUENCE_READ)
    .with(Traits::SEQUENCE_WRITE);

fn push_found(found: Vec<Found>, effects: &mut Effects) {
    for found in found {
        let change = match found {
            Found::Transaction => Effect::TransactionMode,
            Found::SetConfig(call) => Effect::SetConfig(call),
            Found::Unknown => Effect::SettingsUnknown,
            Found::Change(change) => {
                if creates_in_temporary_schema(&change) {
                    effects.push(Effect::Temporary);
                }
                Effect::Setting(change)
            }
        };
        effects.push(change);
    }
}

/// With `pg_temp` in the search path, a plain CREATE may make temporary objects.
fn creates_in_temporary_schema(change: &Change) -> bool {
    match change {
        Change::Set {
            name,
            value: Some(value),
            ..
        } if **name == *b"search_path" => value
            .sql()
            .to_ascii_lowercase()
            .windows(b"pg_temp".len())
            .any(|window| window == b"pg_temp"),
        _ => false,
    }
}

/// Reads a statement that is more than a plain query. Answers traits that its words did not show, or none if it
/// is of a form that we do not know.
fn describe(
    statement: &Statement<'_>,
    mut cursor: Cursor<'_>,
    effects: &mut Effects,
) -> Option<Traits> {
    let start = statement.start;
    if cursor.keyword() != statement.verb {
        return None; // in parentheses
    }
    cursor.advance();
    let cursor = &mut cursor;
    let effect = match statement.verb {
        K::Begin => Effect::Begin,
        K::Start if cursor.eat(K::Transaction) => Effect::Begin,
        K::Commit if cursor.eat(K::Prepared) => Effect::FinishPrepared,
        K::Rollback if cursor.eat(K::Prepared) => Effect::FinishPrepared,
        K::Commit | K::End => Effect::Commit {
            chain: chain(cursor)?,
        },
        K::Rollback | K::Abort => {
            if !cursor.eat(K::Work) {
                cursor.eat(K::Transaction);
            }
            if statement.verb == K::Rollback && cursor.eat(K::To) {
                Effect::RollbackTo(savepoint(cursor)?)
            } else {
                Effect::Rollback {
                    chain: chain(cursor)?,
                }
            }
        }
        K::Savepoint => Effect::Savepoint(cursor.name()?),
        K::Release => Effect::Release(savepoint(cursor)?),
        K::Set => return settings(set::set, cursor, effects),
        K::Reset => return settings(set::reset, cursor, effects),
        K::Discard => match cursor.keyword() {
            K::All => Effect::DiscardAll,
            K::Plans => Effect::DiscardPlans,
            K::Sequences => Effect::DiscardSequences,
            K::Temporary => Effect::DiscardTemporary,
            _ => return None,
        },
        K::Prepare => {
            if cursor.keyword() == K::Transaction && cursor.after().kind() == Some(Kind::String) {
                Effect::PrepareTransaction
            } else {
                Effect::Prepare(name_at(cursor, start)?)
            }
        }
        K::Execute => {
            effects.push(Effect::Execute(name_at(cursor, start)?));
            return Some(Traits::OPAQUE);
        }
        K::Deallocate => {
            if cursor.keyword() == K::Prepare && !cursor.after().at_end() {
                cursor.advance();
            }
            if cursor.keyword() == K::All {
                Effect::DeallocateAll
            } else {
                Effect::Deallocate(name_at(cursor, start)?)
            }
        }
        K::Declare => Effect::Declare {
            name: cursor.name()?,
            hold: hold(cursor)?,
        },
        K::Close if cursor.keyword() == K::All => Effect::CloseAll,
        K::Close => Effect::Close(cursor.name()?),
        K::Listen => Effect::Listen(cursor.name()?),
        K::Unlisten if cursor.eat_operator(b"*") => Effect::UnlistenAll,
        K::Unlisten => Effect::Unlisten(cursor.name()?),
        K::Notify => Effect::Notify(cursor.name()?),
        K::Load => Effect::Load,
        K::Drop => Effect::Drop,
        K::Create => return create(statement, cursor, effects),
        K::Explain => return explain(statement, cursor, effects),
        K::Copy => return Some(Traits::COPY),
        K::Do | K::Call => return Some(Traits::OPAQUE),
        _ => return Some(Traits::NONE),
    };
    effects.push(effect);
    Some(Traits::NONE)
}

fn settings(
    read: impl Fn(&mut Cursor<'_>, &mut Vec<Found>) -> Option<()>,
    cursor: &mut Cursor<'_>,
    effects: &mut Effects,
) -> Option<Traits> {
    let mut found = Vec::new();
    let known = read(cursor, &mut found);
    if known.is_none() {
        found = vec![Found::Unknown];
    }
    push_found(found, effects);
    known.map(|()| Traits::NONE)
}

/// `[WORK | TRANSACTION] [AND [NO] CHAIN]` to the end.
fn chain(cursor: &mut Cursor<'_>) -> Option<bool> {
    if !cursor.eat(K::Work) {
        cursor.eat(K::Transaction);
    }
    let mut chain = false;
    if cursor.eat(K::And) {
        chain = !cursor.eat(K::No);
        if !cursor.eat(K::Chain) {
            return None;
        }
    }
    cursor.at_end().then_some(chain)
}

/// `[SAVEPOINT] name`, where the name may be "savepoint".
fn savepoint(cursor: &mut Cursor<'_>) -> Option<Name> {
    if cursor.keyword() == K::Savepoint && !cursor.after().at_end() {
        cursor.advance();
    }
    cursor.name()
}

fn name_at(cursor: &mut Cursor<'_>, statement_start: usize) -> Option<NameAt> {
    let token = cursor.peek()?;
    Some(NameAt {
        name: cursor.name()?,
        start: statement_start + token.start,
        end: statement_start + token.end,
    })
}

/// `… CURSOR [WITH HOLD | WITHOUT HOLD] FOR …` behind the name.
fn hold(cursor: &mut Cursor<'_>) -> Option<bool> {
    while !cursor.eat(K::Cursor) {
        if cursor.at_end() {
            return None;
        }
        cursor.advance();
    }
    Some(cursor.eat(K::With) && cursor.eat(K::Hold))
}

/// Temporary objects, and `CREATE TABLE … AS EXECUTE`.
fn create(
    statement: &Statement<'_>,
    cursor: &mut Cursor<'_>,
    effects: &mut Effects,
) -> Option<Traits> {
    let mut temporary = statement.traits.has(Traits::TEMPORARY);
    if cursor.eat(K::Or) {
        cursor.eat_word("replace");
    }
    if !cursor.eat(K::Local) {
        cursor.eat(K::Global);
    }
    temporary |= cursor.keyword() == K::Temporary;
    let mut traits = Traits::NONE;
    let table = matches!(cursor.keyword(), K::Temporary | K::Table) || cursor.eat_word("unlogged");
    while table && !cursor.at_end() {
        if temporary && cursor.eat(K::On) && cursor.eat(K::Commit) && cursor.eat(K::Drop) {
            temporary = false;
        } else if cursor.eat(K::As) && cursor.eat(K::Execute) {
            effects.push(Effect::Execute(name_at(cursor, statement.start)?));
            traits = Traits::OPAQUE;
        } else {
            cursor.advance();
        }
    }
    if temporary {
        effects.push(Effect::Temporary);
        traits.add(Traits::TEMPORARY);
    }
    Some(traits)
}

/// `EXPLAIN … EXECUTE name`. With ANALYZE, what is explained also runs.
fn explain(
    statement: &Statement<'_>,
    cursor: &mut Cursor<'_>,
    effects: &mut Effects,
) -> Option<Traits> {
    let mut depth = 0_usize;
    loop {
        match (cursor.kind(), cursor.keyword()) {
            (Some(Kind::Open), _) => depth += 1,
            (Some(Kind::Close), _) => depth = depth.saturating_sub(1),
            (_, K::Analyze) => {}
            (Some(Kind::Word), K::Unknown) if cursor.bytes().eq_ignore_ascii_case(b"verbose") => {}
            _ if depth > 0 && !cursor.at_end() => {}
            (_, K::Execute) => {
                cursor.advance();
                effects.push(Effect::Execute(name_at(cursor, statement.start)?));
                return Some(Traits::OPAQUE);
            }
            (_, K::Create) => {
                cursor.advance();
                return create(statement, cursor, effects);
            }
            _ => {
                if statement.traits.has(Traits::TEMPORARY) {
                    effects.push(Effect::Temporary);
                }
                return Some(Traits::NONE);
            }
        }
        cursor.advance();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql::set::{Scope, Value};

    fn name(name: &str) -> Name {
        name.as_bytes().into()
    }

    fn set(scope: Scope, setting: &str, value: &str) -> Effect {
        Effect::Setting(Change::Set {
            scope,
            name: name(setting),
            value: Some(Value::Words(value.as_bytes().into())),
        })
    }

    fn session(setting: &str, value: &str) -> Effect {
        set(Scope::Session, setting, value)
    }

    fn default(scope: Scope, setting: &str) -> Effect {
        Effect::Setting(Change::Set {
            scope,
            name: name(setting),
            value: None,
        })
    }

    fn at(text: &str, start: usize, end: usize) -> NameAt {
        NameAt {
            name: name(text),
            start,
            end,
        }
    }

    fn read(text: &str) -> Effects {
        effects(text.as_bytes(), Dialect::default())
    }

    fn check(text: &str, traits: Traits, expected: &[Effect]) {
        let found = read(text);
        let steps: Vec<Effect> = found
            .steps()
            .iter()
            .map(|step| step.effect.clone())
            .collect();
        assert_eq!(steps, expected, "{text}");
        assert_eq!(found.traits, traits, "{text}");
    }

    #[test]
    fn plain_statements_have_no_effects() {
        for text in [
            "",
            "SELECT abalance FROM pgbench_accounts WHERE aid = 1",
            "INSERT INTO t (a) VALUES ($1) RETURNING id",
            "UPDATE t SET a = 1 WHERE b = 2",
            "WITH x AS (SELECT 1) DELETE FROM t USING x",
            "VALUES (1)",
            "(SELECT 1) UNION (SELECT 2)",
            "SHOW ALL",
            "FETCH ALL FROM c",
            "LOCK TABLE t",
            "CREATE TABLE t (a int)",
            "CREATE INDEX ON t (lower(a))",
            "CREATE FUNCTION f() RETURNS int SET search_path TO pg_catalog LANGUAGE sql AS 'SELECT 1'",
            "CREATE TRIGGER t AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION f()",
            "CREATE TEMP TABLE t (a int) ON COMMIT DROP",
            "ALTER TABLE t SET (fillfactor = 10)",
            "ALTER ROLE r SET search_path TO a",
            "EXPLAIN (ANALYZE, COSTS OFF) SELECT 1",
        ] {
            assert!(read(text).is_plain(), "{text}: {:?}", read(text));
        }
    }

    #[test]
    fn settings_in_every_form() {
        let cases = [
            ("SET a.b = 'c'", session("a.b", "'c'")),
            (
                "/* x */ set -- y\n Work_Mem to 64 ;",
                session("work_mem", "64"),
            ),
            ("SET SESSION x TO -1.5", session("x", "-1.5")),
            ("SET LOCAL x = On", set(Scope::Local, "x", "on")),
            ("SET local = 1", session("local", "1")),
            ("SET session TO a", session("session", "a")),
            (
                "SET search_path TO a, \"B\" , 'c d'",
                session("search_path", "a, \"B\", 'c d'"),
            ),
            ("SET search_path = ''", session("search_path", "''")),
            (
                "SET x TO '{\"a\": \"it''s\"}'",
                session("x", "'{\"a\": \"it''s\"}'"),
            ),
            (r"SET x TO 'a\b'", session("x", r"E'a\\b'")),
            ("SET \"TimeZone\" TO 'UTC'", session("timezone", "'UTC'")),
            ("SET TIME ZONE 'UTC'", session("timezone", "'UTC'")),
            ("SET TIME ZONE -7", session("timezone", "-7")),
            (
                "SET LOCAL TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE",
                set(Scope::Local, "timezone", "interval '-08:00' hour to minute"),
            ),
            ("SET TIME ZONE LOCAL", default(Scope::Session, "timezone")),
            ("SET TIME ZONE DEFAULT", default(Scope::Session, "timezone")),
            ("SET NAMES 'LATIN1'", session("client_encoding", "'LATIN1'")),
            ("SET NAMES", default(Scope::Session, "client_encoding")),
            ("SET names TO 1", session("names", "1")),
            ("SET SCHEMA 'a'", session("search_path", "'a'")),
            ("SET ROLE Bob", session("role", "bob")),
            ("SET ROLE \"Bob\"", session("role", "\"Bob\"")),
            ("SET LOCAL ROLE 'none'", set(Scope::Local, "role", "'none'")),
            ("SET role = x", session("role", "x")),
            ("RESET ROLE", default(Scope::Session, "role")),
            (
                "SET SESSION AUTHORIZATION bob",
                session("session_authorization", "bob"),
            ),
            (
                "SET SESSION SESSION AUTHORIZATION 'bob'",
                session("session_authorization", "'bob'"),
            ),
            (
                "SET LOCAL SESSION AUTHORIZATION DEFAULT",
                default(Scope::Local, "session_authorization"),
            ),
            (
                "RESET SESSION AUTHORIZATION",
                default(Scope::Session, "session_authorization"),
            ),
            ("SET XML OPTION DOCUMENT", session("xmloption", "document")),
            ("SET x TO DEFAULT", default(Scope::Session, "x")),
            ("RESET a.\"B\"", default(Scope::Session, "a.b")),
            ("RESET TIME ZONE", default(Scope::Session, "timezone")),
            ("RESET ALL", Effect::Setting(Change::ResetAll)),
            (
                "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
                Effect::TransactionMode,
            ),
            (
                "SET LOCAL transaction_read_only = on",
                Effect::TransactionMode,
            ),
            ("SET CONSTRAINTS ALL DEFERRED", Effect::TransactionMode),
            ("RESET transaction_isolation", Effect::TransactionMode),
        ];
        for (text, expected) in cases {
            check(text, Traits::NONE, &[expected]);
        }
        check(
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY NOT DEFERRABLE",
            Traits::NONE,
            &[
                session("default_transaction_isolation", "'repeatable read'"),
                session("default_transaction_read_only", "on"),
                session("default_transaction_deferrable", "off"),
            ],
        );
        check(
            "SET search_path TO pg_temp, a",
            Traits::NONE,
            &[Effect::Temporary, session("search_path", "pg_temp, a")],
        );
    }

    #[test]
    fn what_is_not_understood_is_said_to_be() {
        for text in [
            "SET",
            "SET x",
            "SET seed TO 0.5",
            "SET U&\"x\" TO 1",
            "SET x TO $1",
            "RESET",
            "RESET a b",
        ] {
            check(text, Traits::OPAQUE, &[Effect::SettingsUnknown]);
        }
        for text in [
            "DO $$ BEGIN END $$",
            "CALL p(1)",
            "COMMIT x",
            "PREPARE",
            "DISCARD x",
        ] {
            check(text, Traits::OPAQUE, &[]);
        }
        check("SELECT f()", Traits::CALLS, &[]);
    }

    #[test]
    fn everything_else_that_a_session_keeps() {
        let cases = [
            ("BEGIN ISOLATION LEVEL SERIALIZABLE", Effect::Begin),
            ("START TRANSACTION READ ONLY", Effect::Begin),
            ("COMMIT", Effect::Commit { chain: false }),
            ("END WORK AND NO CHAIN", Effect::Commit { chain: false }),
            (
                "COMMIT TRANSACTION AND CHAIN",
                Effect::Commit { chain: true },
            ),
            ("ABORT AND CHAIN", Effect::Rollback { chain: true }),
            ("ROLLBACK", Effect::Rollback { chain: false }),
            (
                "ROLLBACK WORK TO SAVEPOINT A",
                Effect::RollbackTo(name("a")),
            ),
            ("ROLLBACK TO \"A\"", Effect::RollbackTo(name("A"))),
            (
                "ROLLBACK TO savepoint",
                Effect::RollbackTo(name("savepoint")),
            ),
            ("SAVEPOINT a", Effect::Savepoint(name("a"))),
            ("RELEASE SAVEPOINT a", Effect::Release(name("a"))),
            ("PREPARE TRANSACTION 'x'", Effect::PrepareTransaction),
            ("COMMIT PREPARED 'x'", Effect::FinishPrepared),
            ("DISCARD ALL", Effect::DiscardAll),
            ("DISCARD TEMPORARY", Effect::DiscardTemporary),
            ("DISCARD PLANS", Effect::DiscardPlans),
            ("DISCARD SEQUENCES", Effect::DiscardSequences),
            (
                "PREPARE a (int) AS SELECT set_config('x', f($1), false)",
                Effect::Prepare(at("a", 8, 9)),
            ),
            ("DEALLOCATE \"A\"", Effect::Deallocate(at("A", 11, 14))),
            ("DEALLOCATE PREPARE a", Effect::Deallocate(at("a", 19, 20))),
            (
                "DEALLOCATE prepare",
                Effect::Deallocate(at("prepare", 11, 18)),
            ),
            ("DEALLOCATE ALL", Effect::DeallocateAll),
            (
                "DECLARE c BINARY NO SCROLL CURSOR WITH HOLD FOR SELECT 1",
                Effect::Declare {
                    name: name("c"),
                    hold: true,
                },
            ),
            (
                "DECLARE c CURSOR FOR SELECT 1",
                Effect::Declare {
                    name: name("c"),
                    hold: false,
                },
            ),
            (
                "DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1",
                Effect::Declare {
                    name: name("c"),
                    hold: false,
                },
            ),
            ("CLOSE c", Effect::Close(name("c"))),
            ("CLOSE ALL", Effect::CloseAll),
            ("LISTEN \"Ch\"", Effect::Listen(name("Ch"))),
            ("UNLISTEN ch", Effect::Unlisten(name("ch"))),
            ("UNLISTEN *", Effect::UnlistenAll),
            ("NOTIFY ch, 'x'", Effect::Notify(name("ch"))),
            ("LOAD 'x'", Effect::Load),
            ("DROP TABLE t", Effect::Drop),
        ];
        for (text, expected) in cases {
            check(text, Traits::NONE, &[expected]);
        }
        for text in [
            "CREATE TEMP TABLE t (a int)",
            "CREATE LOCAL TEMPORARY TABLE IF NOT EXISTS t AS SELECT 1",
            "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
            "CREATE TEMP SEQUENCE s",
            "CREATE TEMP TABLE t (a int) ON COMMIT DELETE ROWS",
            "CREATE TABLE pg_temp.t (a int)",
            "SELECT 1 INTO TEMP t",
            "EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1",
        ] {
            check(text, Traits::TEMPORARY, &[Effect::Temporary]);
        }
        for (text, name) in [
            ("EXECUTE a (1)", at("a", 8, 9)),
            ("EXPLAIN (ANALYZE, FORMAT json) EXECUTE a", at("a", 39, 40)),
            ("EXPLAIN ANALYZE VERBOSE EXECUTE a", at("a", 32, 33)),
            ("CREATE TABLE t AS EXECUTE a", at("a", 26, 27)),
        ] {
            check(text, Traits::OPAQUE, &[Effect::Execute(name)]);
        }
        check("COPY t (a) FROM STDIN", Traits::COPY, &[]);
        check("SELECT pg_advisory_lock(1)", Traits::LOCKS, &[]);
    }

    #[test]
    fn statements_are_told_apart() {
        let found = read("BEGIN; ; SELECT 1; SET x = 1; EXECUTE a; COMMIT");
        let steps: Vec<(u32, Effect)> = found
            .steps()
            .iter()
            .map(|step| (step.statement, step.effect.clone()))
            .collect();
        assert_eq!(
            steps,
            [
                (0, Effect::Begin),
                (2, session("x", "1")),
                (3, Effect::Execute(at("a", 38, 39))),
                (4, Effect::Commit { chain: false }),
            ]
        );
        assert_eq!(found.statements, 5);
        assert_eq!(found.verb, K::Begin);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(data: Vec<u8>) {
            effects(&data, Dialect::default());
        }

        #[test]
        fn any_words_are_read_without_panic(
            words in prop::collection::vec(prop::sample::select(vec![
                "SET", "RESET", "SESSION", "LOCAL", "TO", "=", "a", "\"b\"", "'c'", ",", "(", ")", ".", "1",
                "ALL", "SELECT", "set_config", "::", "text", "$1", "true", "NULL", "PREPARE", "EXECUTE", "AS",
                "CREATE", "TEMP", "TABLE", "ON", "COMMIT", "DROP", "DECLARE", "CURSOR", "WITH", "HOLD", "AND",
                "CHAIN", "ROLLBACK", "EXPLAIN", "DEALLOCATE", "TRANSACTION", ";", "E'\\'", "[", "TIME", "ZONE",
            ]), 0..14)
        ) {
            let text = words.join(" ");
            for dialect in [Dialect::default(), Dialect { backslashes: true, overlapping: true }] {
                effects(text.as_bytes(), dialect);
            }
        }

        /// Blanks between tokens change nothing but offsets.
        #[test]
        fn comments_between_words_change_nothing(
            text in prop::sample::select(vec![
                "SET a . b = 'c'", "SELECT set_config ( 'a' , 'b' , false )", "RESET ALL",
                "CREATE TEMP TABLE t ( a int )", "COMMIT AND CHAIN", "SET SESSION AUTHORIZATION x",
                "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            ]),
            blank in prop::sample::select(vec!["  ", "/* ; */", "/* /* ' */ */", "-- SET\n", "\n\t"]),
        ) {
            let spaced = format!("{blank}{}{blank}", text.replace(' ', blank));
            prop_assert_eq!(read(&spaced), read(text));
        }
    }
}
