//! What a text does to the session that runs it.
//!
//! A pooler must know what PostgreSQL keeps between transactions: settings, prepared statements, cursors,
//! locks, listeners, temporary objects. Plain queries keep nothing, and are told from the others in the one
//! pass of `statements`; the few statements that matter are read again word by word.
//!
//! What no text shows: a function, trigger or rule may do all of this, too. Calls of functions that we do not
//! know carry [`Traits::CALLS`].

mod create;

use self::create::{create, explain};
use super::cursor::{Cursor, Name};
use super::keyword::Keyword as K;
use super::lexer::{Dialect, Kind};
use super::plain;
use super::set::{self, Change, Found};
use super::set_config::{set_config, SetConfig};
use super::settings::Settings;
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

    /// Makes a table of a query's rows, which its command tag does not tell: `SELECT … INTO UNLOGGED`, `CREATE TABLE … AS`. Not a
    /// temporary one.
    MakesTable,
    /// Makes a temporary table, view, sequence or function that outlives the transaction.
    Temporary,
    /// `DROP …`: a temporary object may be gone.
    Drop,
    /// `LOAD`
    Load,
}

impl Effect {
    /// Does it end prepared statements of a name, or of any?
    pub fn forgets_statements(&self) -> bool {
        matches!(
            self,
            Effect::Deallocate(_) | Effect::DeallocateAll | Effect::DiscardAll
        )
    }

    /// A setting that ends with the transaction, and that no prepared statement's meaning depends on. One that goes
    /// back to where the session began is followed: that is not where its server began.
    fn is_local(&self) -> bool {
        match self {
            Effect::Setting(Change::Set {
                scope: set::Scope::Local,
                name,
                value: Some(_),
            }) => !Settings::is_read_by_parser(name),
            _ => false,
        }
    }
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

    /// Do its statements begin, end or divide transactions, and do nothing else to the session?
    pub fn only_transactions(&self) -> bool {
        let control = |step: &Step| {
            matches!(
                step.effect,
                Effect::Begin
                    | Effect::Commit { .. }
                    | Effect::Rollback { .. }
                    | Effect::Savepoint(_)
                    | Effect::Release(_)
                    | Effect::RollbackTo(_)
                    | Effect::TransactionMode
                    | Effect::FinishPrepared
                    | Effect::Notify(_)
            ) || step.effect.is_local()
        };
        let harmless = Traits::CALLS
            .with(Traits::SET_CONFIG)
            .with(Traits::COPY)
            .with(Traits::SEQUENCE_READ)
            .with(Traits::SEQUENCE_WRITE);
        self.traits.without(harmless) == Traits::NONE && self.steps().iter().all(control)
    }

    /// May it commit a transaction block?
    pub fn commits(&self) -> bool {
        let mut steps = self.steps().iter();
        steps.any(|step| matches!(step.effect, Effect::Commit { .. }))
    }

    /// Do its statements change what the session is to have elsewhere, too: settings that outlive the transaction,
    /// the meaning of prepared statements, their names?
    pub fn sets(&self) -> bool {
        self.steps().iter().any(|step| {
            matches!(
                step.effect,
                Effect::SetConfig(_)
                    | Effect::SettingsUnknown
                    | Effect::DiscardAll
                    | Effect::Deallocate(_)
                    | Effect::DeallocateAll
            ) || matches!(step.effect, Effect::Setting(_)) && !step.effect.is_local()
        })
    }

    /// May its statements change where those behind them go, or how they are read, for a transaction or longer?
    pub fn routes(&self) -> bool {
        let routes = |step: &Step| match &step.effect {
            Effect::Setting(Change::Set { name, .. }) => Settings::routes(name),
            Effect::Setting(Change::ResetAll)
            | Effect::SetConfig(_)
            | Effect::SettingsUnknown
            | Effect::DiscardAll => true,
            _ => false,
        };
        let known = |step: &Step| matches!(step.effect, Effect::Setting(_));
        let mut steps = self.steps().iter();
        steps.clone().any(routes) || self.traits.has(Traits::SET_CONFIG) && !steps.any(known)
    }

    /// Does one of its statements make a table that its command tag does not tell of?
    pub fn makes_tables(&self) -> bool {
        let mut steps = self.steps().iter();
        steps.any(|step| step.effect == Effect::MakesTable)
    }

    /// Do its statements ask what the session's sequences have done?
    pub fn recalls(&self) -> bool {
        self.traits.has(Traits::SEQUENCE_READ)
    }

    /// Do its statements take settings away, for a transaction or for longer, so that others are in force?
    pub fn resets(&self) -> bool {
        self.steps().iter().any(|step| {
            matches!(
                step.effect,
                Effect::DiscardAll
                    | Effect::Setting(Change::ResetAll | Change::Set { value: None, .. })
            )
        })
    }

    /// The same with the parameters of Bind in place of `$n`; see [`SetConfig::resolve`].
    pub fn resolved<'a>(&self, parameter: impl Fn(u16) -> Option<Option<&'a [u8]>>) -> Self {
        let mut resolved = Self {
            steps: Steps::None,
            ..self.clone()
        };
        for step in self.steps() {
            let effect = match &step.effect {
                Effect::SetConfig(call) => match call.resolve(&parameter) {
                    Some(change) => Effect::Setting(change),
                    None => Effect::SettingsUnknown,
                },
                effect => effect.clone(),
            };
            resolved.push_step(Step {
                statement: step.statement,
                effect,
            });
        }
        resolved
    }

    /// The same, and one of its statements (from 0) executes another, which does this: what that is to settings, nobody
    /// tells; statements that it deallocates are gone.
    pub fn with_executed(&self, statement: u32, executed: &Self) -> Self {
        let forgets = executed.steps().iter().map(|step| &step.effect);
        let forgets = forgets.filter(|effect| effect.forgets_statements());
        let mut all = self.clone();
        if executed.recalls() {
            all.traits = all.traits.with(Traits::SEQUENCE_READ);
        }
        for effect in forgets.chain([&Effect::SettingsUnknown]) {
            all.push_step(Step {
                statement,
                effect: effect.clone(),
            });
        }
        if let Steps::Many(steps) = &mut all.steps {
            steps.sort_by_key(|step| step.statement);
        }
        all
    }

    /// The same, where one of its statements (from 0) is known to do this to a setting, and nothing else.
    pub fn doing(self, statement: u32, change: Change) -> Self {
        let effect = Effect::Setting(change);
        let mut steps = self.steps().to_vec();
        steps.retain(|step| step.statement != statement);
        let at = steps.partition_point(|step| step.statement < statement);
        steps.insert(at, Step { statement, effect });
        let mut known = Self {
            steps: Steps::None,
            ..self
        };
        steps.into_iter().for_each(|step| known.push_step(step));
        known
    }

    /// Do its statements name prepared statements that were there before?
    pub fn names_statements(&self) -> bool {
        let mut steps = self.steps().iter();
        steps.any(|step| matches!(step.effect, Effect::Execute(_) | Effect::Deallocate(_)))
    }

    /// Is there a call of `set_config()` whose arguments come with Bind?
    pub fn needs_arguments(&self) -> bool {
        let mut steps = self.steps().iter();
        steps.any(|step| matches!(step.effect, Effect::SetConfig(_)))
    }

    fn push(&mut self, effect: Effect) {
        let step = Step {
            statement: self.statements.saturating_sub(1),
            effect,
        };
        self.push_step(step);
    }

    fn push_step(&mut self, step: Step) {
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
                traits = traits.without(
                    Traits::SET_CONFIG
                        .with(Traits::SETTINGS)
                        .with(Traits::CALLS)
                        .with(LOCKS),
                );
            }
        } else if traits.has(Traits::TEMPORARY) {
            effects.push(Effect::Temporary);
        } else if traits.has(Traits::UNLOGGED) {
            effects.push(Effect::MakesTable);
        }
        traits = traits.without(Traits::UNLOGGED);
        if traits.has(Traits::SETTINGS) {
            effects.push(Effect::SettingsUnknown);
        }
        if traits.has(Traits::SET_CONFIG) {
            let mut found = Vec::new();
            set_config(statement.text, dialect, &mut found);
            push_found(found, &mut effects);
        }
        effects.traits.add(traits);
    }
    effects
}

/// The statement within `PREPARE name (types) AS statement`, given what follows the name.
pub fn prepared_body(rest: &[u8], dialect: Dialect) -> Option<&[u8]> {
    let mut cursor = Cursor::new(rest, dialect);
    let mut depth = 0_usize;
    while !cursor.at_end() {
        match cursor.kind() {
            Some(Kind::Open) => depth += 1,
            Some(Kind::Close) => depth = depth.saturating_sub(1),
            _ if depth == 0 && cursor.eat(K::As) => {
                let start = cursor.peek()?.start;
                return rest.get(start..);
            }
            _ => {}
        }
        cursor.advance();
    }
    None
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

/// Feeds hostile text to the analysis, in every dialect. Steps must lie within it.
#[cfg(any(test, fuzzing))]
pub fn fuzz_effects(data: &[u8]) {
    for (backslashes, overlapping) in [(false, false), (true, false), (false, true), (true, true)] {
        let dialect = Dialect {
            backslashes,
            overlapping,
        };
        let effects = effects(data, dialect);
        assert!(effects.steps().len() <= data.len());
        assert!(!(effects.is_plain() && effects.commits()), "{effects:?}");
    }
}

#[cfg(test)]
mod tests;
