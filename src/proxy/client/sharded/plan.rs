//! The request in front: does it concern one shard, whose server then gets it as it is, or is it run here, statement by
//! statement?

use std::rc::Rc;

use crate::error::{Error, Fault};
use crate::merge::plan::Slice;
use crate::merge::refused;
use crate::metrics::Timed;
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend::{Bind, Query};
use crate::protocol::sqlstate::SqlState;
use crate::routing::asking::may_count;
use crate::routing::copy::{Copying, Written};
use crate::routing::reshape::Reshaping;
use crate::routing::role::{primary_by_modes, statement_is_readable};
use crate::routing::values::Argument;
use crate::routing::verdict::{verdict, Place, Run, Verdict};
use crate::sql::asked::Asking;
use crate::sql::insert_rows::InsertPart;
use crate::sql::lexer::Dialect;
use crate::sql::session::{effects, Effects};
use crate::sql::session_settings::SessionSettings;
use crate::sql::settings::Settings;
use crate::sql::statement::{Analysis, Kind, Statement, Unparsed};
use crate::sql::statements::Statements;
use crate::types::Format;

use super::super::super::cluster::Want;
use super::super::role::{defaults, invalid};
use super::super::Session;
use super::call::Answers;
use super::execute::{executing, Names, OWED_BY_PARSE, OWED_BY_SQL};
use super::explain::is_explained;
use super::hearing::shard_of_channel;
use super::lookups::lacks_keys;
use super::messages::{put_bind, put_execute, put_parse, put_part, put_select};
use super::route::Source;
use super::route_copy::copying;
use super::two_phase::reserved;
use super::view::View;
use super::Does;

/// A statement, and what is done for it.
pub(super) struct Planned<'a> {
    pub(super) text: &'a [u8],
    pub(super) verdict: Verdict,
    pub(super) effects: Effects,
    pub(super) does: Does,
    /// It is a query whose rows a server computes as they are fetched.
    pub(super) selects: bool,
    /// What its portal is answered once more when it has given all its rows, if it may be executed again.
    pub(super) again: Option<&'static str>,
    pub(super) form: Form<'a>,
    pub(super) wanted: Wanted,
}

/// How many of its rows the client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All.
    All,
    /// At most so many, and never more.
    First(u64),
    /// A slice, and later others, of servers that have a portal of this name.
    Slice {
        portal: Box<[u8]>,
        /// Of the first slice; 0: it is only opened.
        rows: u64,
    },
    /// Slices of what is computed at once, which is kept here.
    Stored,
}

/// How a statement has come.
#[derive(Clone, Copy)]
pub(super) enum Form<'a> {
    /// In a Query.
    Query,
    /// As a portal.
    Portal {
        /// Of its statement, as in Parse.
        definition: &'a [u8],
        bind: Bind<'a>,
        /// The client wants RowDescription.
        described: bool,
    },
}

impl Planned<'_> {
    /// Does it change settings that servers which join later have to hear of, or that say where statements go?
    pub(super) fn sets(&self) -> bool {
        self.effects.sets() || self.effects.routes()
    }

    pub(super) fn tag_of_begin(&self) -> &'static str {
        let start = self.text.get(..5).unwrap_or_default();
        match start.eq_ignore_ascii_case(b"start") {
            true => "START TRANSACTION",
            false => "BEGIN",
        }
    }

    /// Of SET LOCAL, SET TRANSACTION and SET CONSTRAINTS.
    pub(super) fn tag_of_setting(&self) -> &'static str {
        let upper = self.text.to_ascii_uppercase();
        match upper
            .split(|byte| !byte.is_ascii_alphabetic())
            .filter(|word| !word.is_empty())
            .nth(1)
        {
            Some(b"CONSTRAINTS") => "SET CONSTRAINTS",
            _ => "SET",
        }
    }

    /// Of SET and RESET of a setting of ours.
    pub(super) fn tag_of_ours(&self) -> &'static str {
        match self.text.first() {
            Some(b'r' | b'R') => "RESET",
            _ => "SET",
        }
    }

    /// What each server is sent, what it owes for that, and whether the client gets the description of rows. `rows_max`: of
    /// an Execute, 0 for all.
    pub(super) fn messages(
        &self,
        run: &Run,
        rows_max: i32,
    ) -> (Vec<Vec<u8>>, &'static Answers, bool) {
        if let Some(executed) = &run.executed {
            let (bind, described) = match &self.form {
                Form::Query => (None, true),
                Form::Portal {
                    bind, described, ..
                } => (Some(bind), *described),
            };
            let messages = executing(executed, |out| match bind {
                Some(bind) => put_bind(bind, b"", run.merge.hidden, out),
                None => Bind::encode(out, b"", b"", [], [], []),
            });
            let owed = match executed.by_sql {
                true => OWED_BY_SQL,
                false => OWED_BY_PARSE,
            };
            return (vec![messages], owed, described);
        }
        let messages = match &*run.parts {
            [] => vec![self.whole(run, b"", Some(rows_max))],
            parts => parts.iter().map(|part| self.part(part, true)).collect(),
        };
        (messages, self.owed(), self.is_described())
    }

    /// What a server is sent that opens a portal and gives some of its rows, or none yet, and what it owes for that.
    pub(super) fn opening(
        &self,
        run: &Run,
        portal: &[u8],
        rows_max: Option<i32>,
    ) -> (Vec<u8>, &'static Answers) {
        let owed = match rows_max {
            Some(_) => PORTAL,
            None => OPENING,
        };
        (self.whole(run, portal, rows_max), owed)
    }

    /// The query of a COPY whose rows are written here, as a statement of its own.
    pub(super) fn of_query<'q>(&self, written: &'q Written) -> Planned<'q> {
        Planned {
            text: written.query(),
            verdict: self.verdict.clone(),
            effects: self.effects.clone(),
            does: self.does,
            selects: true,
            again: None,
            form: Form::Portal {
                definition: written.definition(),
                bind: written.bind(),
                described: false,
            },
            wanted: Wanted::All,
        }
    }

    /// Characters that the client has in front of such a query.
    pub(super) fn before(&self) -> usize {
        match &self.verdict {
            Verdict::Run(run) => match &run.copying {
                Some(Copying::Written(written)) => written.before,
                _ => 0,
            },
            _ => 0,
        }
    }

    /// The statement as it is, or what `run` has instead.
    fn whole(&self, run: &Run, portal: &[u8], rows_max: Option<i32>) -> Vec<u8> {
        let mut message = Vec::new();
        let instead = run.text.as_deref();
        match &self.form {
            Form::Query => {
                let text = instead.unwrap_or(self.text);
                Query { text }.encode(&mut message);
            }
            Form::Portal {
                definition, bind, ..
            } if run.part.is_none() => {
                put_parse(definition, instead, &mut message);
                put_bind(bind, portal, run.merge.hidden, &mut message);
                put_execute(&mut message, portal, rows_max);
            }
            Form::Portal { bind, .. } => {
                let text = instead.unwrap_or(self.text);
                put_select(text, run, bind, portal, &mut message);
                put_execute(&mut message, portal, rows_max);
            }
        }
        message
    }

    /// A part of the statement. `shown`: the client gets its rows, in the formats that it wants.
    pub(super) fn part(&self, part: &InsertPart, shown: bool) -> Vec<u8> {
        let mut message = Vec::new();
        match &self.form {
            Form::Query => Query { text: &part.text }.encode(&mut message),
            Form::Portal {
                definition, bind, ..
            } => {
                put_part(part, definition, bind, shown, &mut message);
                put_execute(&mut message, b"", Some(0));
            }
        }
        message
    }

    /// What a server owes for one of those.
    pub(super) fn owed(&self) -> &'static Answers {
        match &self.form {
            Form::Query => RESULTS,
            Form::Portal { .. } => PORTAL,
        }
    }

    /// Did it come in a Query?
    pub(super) fn is_query(&self) -> bool {
        matches!(self.form, Form::Query)
    }

    /// Does the client get the description of rows?
    pub(super) fn is_described(&self) -> bool {
        match &self.form {
            Form::Query => true,
            Form::Portal { described, .. } => *described,
        }
    }

    /// LIMIT and OFFSET of this execution. Errors: a parameter that is no number of rows.
    pub(super) fn slice(&self, run: &Run) -> Result<Slice, Error> {
        if let Some(executed) = &run.executed {
            let slice = run.merge.limit.with_parameters(|number| {
                match executed.arguments.get(number.checked_sub(1)?)? {
                    Argument::Null => Some((Format::Text, None)),
                    Argument::Text { value, .. } => Some((Format::Text, Some(value))),
                    Argument::Unknown => None,
                }
            });
            let known = !executed.arguments.contains(&Argument::Unknown);
            return slice.map_err(|error| match known {
                true => error,
                false => refused("LIMIT or OFFSET by an expression of EXECUTE"),
            });
        }
        let arguments = match &self.form {
            Form::Query => None,
            Form::Portal { bind, .. } => bind.arguments().ok(),
        };
        run.merge.limit.with_parameters(|number| {
            let arguments = arguments.as_ref()?;
            let at = number.checked_sub(1)?;
            let format = match arguments.formats.of(at) {
                Some(1) => Format::Binary,
                _ => Format::Text,
            };
            Some((format, arguments.values().nth(at)?))
        })
    }

    /// What a server is asked first, and where that is.
    pub(super) fn asking(&self) -> Option<(&Asking, &Place)> {
        match &self.verdict {
            Verdict::Run(run) => Some((run.asking.as_deref()?, &run.place)),
            _ => None,
        }
    }

    /// Does it change something on several servers that all of them must have, or none?
    pub(super) fn changes_many(&self, shards: usize) -> bool {
        match &self.verdict {
            // Rows that a client sends are stored when it has sent them all.
            Verdict::Run(run) if run.copies_in() => true,
            Verdict::Run(run) => run.together && run.place.count(shards) > 1,
            _ => false,
        }
    }

    /// Does the client send rows?
    pub(super) fn copies_in(&self) -> bool {
        matches!(&self.verdict, Verdict::Run(run) if run.copies_in())
    }

    /// `decided`: the transaction has its servers, or is one of writes.
    pub(super) fn want(&self, decided: bool) -> Want {
        match &self.verdict {
            Verdict::Run(run) if !decided => run.want,
            _ => Want::Write,
        }
    }
}

/// What answers a Query.
pub(super) const RESULTS: &Answers = &[(Owed::Results, Fate::Forward)];

/// What answers a portal that is made, described, executed and synchronised.
const PORTAL: &Answers = &[
    (Owed::ParseComplete, Fate::Forward),
    (Owed::BindComplete, Fate::Forward),
    (Owed::Description, Fate::Forward),
    (Owed::Execution, Fate::Forward),
    (Owed::Ready, Fate::Forward),
];

/// What answers a portal that is made and described.
const OPENING: &Answers = &[
    (Owed::ParseComplete, Fate::Forward),
    (Owed::BindComplete, Fate::Forward),
    (Owed::Description, Fate::Forward),
    (Owed::Ready, Fate::Forward),
];

/// The settings that a dialect depends on.
const DIALECT: [&str; 2] = ["standard_conforming_strings", "client_encoding"];

impl Session {
    /// The one server that can do all that these verdicts ask for, as it would if there were no other. With each: does
    /// the statement change settings?
    pub(super) fn one_server_for<'v>(
        &mut self,
        verdicts: impl Iterator<Item = (&'v Verdict, bool)>,
    ) -> Option<(usize, Want)> {
        let sharded = self.sharded();
        let in_transaction = sharded.transaction.is_open();
        let joined = sharded.legs.first().map(|leg| leg.shard);
        if sharded.legs.len() > 1 || sharded.transaction.is_failed() || sharded.ours {
            return None;
        }
        let (mut shard, mut count, mut ends) = (None, 0, false);
        let mut want = self.is_decided().then_some(Want::Write);
        let mut balanced = false;
        for (verdict, sets) in verdicts {
            count += 1;
            match verdict {
                // A server that joins later has to hear of it.
                _ if in_transaction && sets => return None,
                // Something is to be added to the answer, or to the question.
                Verdict::Run(run)
                    if !run.notes.is_empty() || run.executed.is_some() || run.asking.is_some() =>
                {
                    return None
                }
                Verdict::Run(run) => {
                    want = Some(want.map_or(run.want, |want| want.and(run.want)));
                    let here = match &run.place {
                        Place::Any | Place::Joined => continue,
                        Place::Balanced => {
                            balanced = true;
                            continue;
                        }
                        place => place.single()?,
                    };
                    if *shard.get_or_insert(here) != here {
                        return None;
                    }
                }
                Verdict::Commit { chain: false } | Verdict::Rollback { chain: false } => {
                    ends = true;
                }
                Verdict::Session if !in_transaction => want = Some(Want::Write),
                _ => return None,
            }
        }
        // What is told here of the end of a transaction has to be all there is of it, and nobody would hear there what
        // becomes of its settings.
        if ends && (count > 1 || joined.is_none() || self.settings.are_changing()) {
            return None;
        }
        let shard = match (shard, joined) {
            (Some(shard), Some(joined)) if shard != joined => return None,
            (Some(shard), _) => shard,
            (None, Some(joined)) => joined,
            (None, None) if balanced => self.one_of(self.cluster.shards()),
            (None, None) => self.any_shard(),
        };
        Some((shard, want.unwrap_or_default()))
    }

    /// Is it settled that what follows goes to primaries, or to the servers that the transaction has?
    pub(super) fn is_decided(&mut self) -> bool {
        let several = self.cluster.shards() > 1;
        let sharded = self.sharded();
        if sharded.transaction.is_open() && (several || !sharded.legs.is_empty()) {
            return true;
        }
        let modes = sharded.transaction.modes();
        primary_by_modes(modes, defaults(self.settings.current())).is_some()
    }

    /// The statements of a text, and what is done for each.
    ///
    /// Errors: one of them cannot be done; then none is. If [`Self::must_look_up`] is true after, what is lacking is to be
    /// looked up, and this asked again.
    pub(super) fn statements_of<'t>(
        &mut self,
        text: &'t [u8],
        bind: Option<&Bind<'_>>,
        types: &[u32],
    ) -> Result<Vec<Planned<'t>>, Error> {
        let mut before = None;
        let planned = self.statements_foreseen(text, (bind, types), &mut before);
        if let Some(before) = before {
            self.settings = before;
        }
        planned
    }

    /// The same, each with the settings that it has if those in front of it succeed. `before`: what the session really has, where
    /// that is not the same.
    fn statements_foreseen<'t>(
        &mut self,
        text: &'t [u8],
        (bind, types): (Option<&Bind<'_>>, &[u32]),
        before: &mut Option<SessionSettings>,
    ) -> Result<Vec<Planned<'t>>, Error> {
        let dialect = self.session_dialect();
        let (analysis, literals) = {
            let cluster = Rc::clone(&self.cluster);
            let mut cache = cluster.analyses.borrow_mut();
            let analysed = cache.analyse(text, dialect);
            let hints = analysed.hints;
            if let Some(name) = hints.invalid {
                return Err(invalid(name));
            }
            if let Some(took) = analysed.parsed_in {
                self.state.tally.timed(Timed::Parse, Vec::new(), took);
            }
            (analysed.analysis, (analysed.literals.to_vec(), hints))
        };
        let statements = match &analysis.statements {
            Ok(statements) => statements,
            Err(other) => return Err(not_analysed(other)),
        };
        // Most texts are one statement.
        let parts: Vec<&[u8]> = match &**statements {
            [only] if only.kind.is_query() => vec![text],
            _ => Statements::new(text, dialect)
                .map(|part| part.text)
                .collect(),
        };
        if parts.len() != statements.len() {
            let what = "a text whose statements cannot be told apart";
            return Err(refused(what));
        }
        let joined = self.sharded().legs.len();
        let several = self.cluster.shards() > 1;
        let mut planned = Vec::with_capacity(parts.len());
        for statement in statements {
            self.heed_changes(statement);
        }
        let cluster = Rc::clone(&self.cluster);
        let mut names = Names::default();
        let mut cursors = super::cursors::Declared::default();
        for (part, statement) in parts.into_iter().zip(statements) {
            self.sharded().defined.heed(statement, &cluster.sharding);
            // What sets a shard, or takes that away, goes to none.
            let asked = match several && !statement.kind.is_of_transactions() {
                true => self.asked_shard(&literals.1)?,
                false => None,
            };
            let source = Source {
                text,
                part,
                dialect,
                literals: &literals.0,
                hints: &literals.1,
                hinted_key: literals.1.sharding_key(text),
                bind,
                types,
                given: &[],
            };
            let mut does = None;
            let verdict = match &statement.kind {
                // All of it is there.
                kind if self.cluster.shards() == 1 && !kind.is_of_transactions() => {
                    Verdict::Run(Box::new(self.route_at_home(statement, &source)?))
                }
                Kind::PrepareTransaction(_)
                | Kind::CommitPrepared(_)
                | Kind::RollbackPrepared(_)
                    if self.reserves_two_phase() =>
                {
                    return Err(reserved())
                }
                Kind::Prepare { name, .. } => {
                    self.foresee(part, name, &mut names)?;
                    does = Some(Effects::default());
                    Verdict::Prepare {
                        name: name.clone(),
                        shard: asked,
                    }
                }
                Kind::Execute { name, arguments } => {
                    let executed = (&**name, &**arguments);
                    let (run, effects) = self.route_execute(executed, &names, &source)?;
                    does = Some(effects);
                    Verdict::Run(Box::new(run))
                }
                Kind::Deallocate(name) => {
                    names.forget(name.as_deref());
                    does = Some(Effects::default());
                    Verdict::Deallocate(name.clone())
                }
                // Those who listen to a channel, and those who notify it, meet on one shard.
                Kind::Listen(channel) | Kind::Notify(channel) | Kind::Unlisten(Some(channel))
                    if asked.is_none() =>
                {
                    let shard = shard_of_channel(channel, self.cluster.shards());
                    Verdict::Run(Box::new(Run::at(Place::These(vec![shard]))))
                }
                Kind::Unlisten(None) if asked.is_none() => {
                    Verdict::Run(Box::new(Run::at(Place::Joined)))
                }
                Kind::Explain {
                    statement: of,
                    analyze,
                } if is_explained(of, *analyze, asked) => {
                    Verdict::Run(Box::new(self.explain(of, *analyze, &source)?))
                }
                // A hint is for everything that a server runs.
                kind if !kind.is_query() && !kind.is_of_transactions() && asked.is_some() => {
                    self.check_hinted(statement, &source)?;
                    Verdict::Run(Box::new(Run {
                        copying: copying(statement),
                        ..Run::at(Place::These(asked.into_iter().collect()))
                    }))
                }
                kind if kind.is_of_cursors() && asked.is_none() => {
                    let planned = self.plan_cursor(statement, &source, &mut cursors)?;
                    match planned {
                        Some(planned) => planned,
                        None => {
                            let mut query = |statement: &_| self.route_query(statement, &source);
                            verdict(statement, joined, &mut query)?
                        }
                    }
                }
                _ => {
                    let mut query = |statement: &_| self.route_query(statement, &source);
                    let mut verdict = verdict(statement, joined, &mut query)?;
                    if let Verdict::Run(run) = &mut verdict {
                        let reshaping = Reshaping::of(statement, &cluster.sharding);
                        run.reshaping = reshaping.filter(|_| run.together).map(Box::new);
                    }
                    verdict
                }
            };
            let does_to_rows = match &verdict {
                Verdict::Run(_) => self.does(statement),
                _ => Does::default(),
            };
            let effects = does.unwrap_or_else(|| effects(part, dialect));
            if statements.len() > 1 {
                self.foresee_settings(&effects, before);
            }
            planned.push(Planned {
                text: part,
                verdict,
                does: does_to_rows,
                selects: statement.selects(),
                again: statement.tag_again(),
                effects,
                form: Form::Query,
                wanted: Wanted::All,
            });
        }
        if self.must_look_up() {
            return Err(lacks_keys());
        }
        self.count_routes(&analysis, &planned);
        Ok(planned)
    }

    /// Has the session the settings that it will have when a statement has done this.
    fn foresee_settings(&mut self, effects: &Effects, before: &mut Option<SessionSettings>) {
        let mut store = self.state.settings.borrow_mut();
        for step in effects.steps() {
            before.get_or_insert_with(|| self.settings.clone());
            self.settings.succeeded(&step.effect, b"", &mut store);
        }
    }

    /// What a statement may do on its servers.
    fn does(&self, statement: &Statement) -> Does {
        let statement = match &statement.kind {
            Kind::Copy(copy) => copy.query.as_deref().unwrap_or(statement),
            _ => statement,
        };
        let facts = self.cluster.known();
        let changes = statement_is_readable(statement, &facts.functions).is_err();
        let view = View::new(self, &facts);
        // Who may ask for its numbers is in the same transaction.
        let counts = changes && self.cluster.shards() > 1 && self.in_transaction();
        Does {
            changes,
            counts: counts && may_count(statement, &view, &facts.functions),
        }
    }

    /// How many shards these statements of one text go to.
    fn count_routes(&self, analysis: &Analysis, planned: &[Planned<'_>]) {
        let shards = self.cluster.shards();
        let mut cache = self.cluster.analyses.borrow_mut();
        for one in planned {
            let Verdict::Run(run) = &one.verdict else {
                continue;
            };
            if run.asking.is_some() {
                continue; // it counts when it is another statement
            }
            let touched = run.place.count(shards);
            cache.route(analysis, touched > 1);
            if shards > 1 {
                self.cluster.over_shards.touched.record(touched as u64);
            }
        }
    }

    /// How this session's texts are read.
    pub(in super::super) fn session_dialect(&self) -> Dialect {
        let settings = self.settings.current();
        let unset = DIALECT
            .iter()
            .all(|name| settings.get(name.as_bytes()).is_none());
        if let (true, Some(dialect)) = (unset, self.cluster.dialect.get()) {
            return dialect;
        }
        let [strings, encoding] = DIALECT.map(|name| self.reported(name));
        let dialect = Dialect::of(&strings, &encoding);
        if unset && !encoding.is_empty() {
            self.cluster.dialect.set(Some(dialect));
        }
        dialect
    }

    /// A parameter, named in lower case, as this session has set it, or as servers report it; empty where they have not yet.
    pub(super) fn reported(&self, name: &str) -> Vec<u8> {
        let settings = self.settings.current();
        if let Some(set) = settings.get(name.as_bytes()) {
            return set.text().unwrap_or_default().into_owned();
        }
        let own = self.slot.reported(&Settings::default());
        let value = own.as_ref().and_then(|own| own.get(name));
        value.map(<[u8]>::to_vec).unwrap_or_default()
    }
}

pub(super) fn not_analysed(why: &Unparsed) -> Error {
    let (code, text) = match why {
        // A server might know a newer grammar, and run on one shard what concerns all.
        Unparsed::Syntax(message) => (SqlState::SYNTAX_ERROR, message.to_string()),
        Unparsed::Encoding => (
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            "invalid byte sequence in statement".to_owned(),
        ),
        Unparsed::TooDeep => (
            SqlState::STATEMENT_TOO_COMPLEX,
            "statement is nested too deeply".to_owned(),
        ),
        other => (
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("statement is {other}"),
        ),
    };
    Error::error(Fault::Client, code, text)
}
