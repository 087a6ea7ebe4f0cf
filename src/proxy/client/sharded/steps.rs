//! Statements one after the other, each on the servers that it concerns, in one transaction.

use std::sync::Arc;

use crate::config::choice::PoolerMode;
use crate::error::{Error, Fault};
use crate::merge::plan::{Completion, Source};
use crate::merge::{refused, Export, MergePlan, Promised};
use crate::protocol::backend::{ready_for_query, CommandComplete, EMPTY_QUERY_RESPONSE};
use crate::protocol::error_fields::{put_notice, Severity};
use crate::protocol::frontend::tag;
use crate::protocol::sqlstate::SqlState;
use crate::routing::copy::Copying;
use crate::routing::verdict::{Place, Run, Verdict};
use crate::session::Ties;
use crate::sql::keyword::Keyword;
use crate::sql::session::{Effect, Effects};
use crate::sql::statement::Modes;
use crate::sql::statements::Traits;

use super::super::super::server::Recipient;
use super::super::{End, Session};
use super::call::{Call, Order, Shown};
use super::copy;
use super::flow::rows_max as rows_max_of;
use super::kept::Kept;
use super::plan::{Form, Planned, Wanted};
use super::portals::Asked;
use super::scatter::{self, Outcome};
use super::{Does, Leg, SET_BY_FUNCTION};

/// A text in a transaction of its own, which servers are told when they join.
pub(super) const BEGIN: &[u8] = b"BEGIN";

/// How a statement went, the client having been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stepped {
    Done,
    Failed,
}

impl Session {
    /// Runs the statements of a Query, which is written like this.
    pub(super) async fn run_query(
        &mut self,
        steps: &[Planned<'_>],
        written: &[u8],
    ) -> Result<(), End> {
        let begun = self.state.core.now();
        self.audit_run(tag::QUERY, written);
        if steps.is_empty() {
            self.stream.write(&EMPTY_QUERY_RESPONSE);
        }
        self.run_steps(steps).await?;
        self.stream.write(&ready_for_query(self.status()));
        self.audit_ran(begun);
        Ok(())
    }

    async fn run_steps(&mut self, steps: &[Planned<'_>]) -> Result<(), End> {
        // Several statements are one transaction, and so is one that all of several shards must have done or none. That of
        // a batch in front, which no Sync has ended, ends with them.
        let mut ours = std::mem::take(&mut self.sharded().ours);
        let mut went = Stepped::Done;
        for (at, step) in steps.iter().enumerate() {
            self.room().await?;
            let together = steps.len() > 1 || step.changes_many(self.cluster.shards());
            ours |= self.begin_ours(together, step);
            let anew;
            let step = match at > 0 && (step.effects.recalls() || names_cursor(&step.effects)) {
                false => step,
                // Where those before it have counted, or declared a cursor, is known by now.
                true => match self.planned_anew(step.text).await? {
                    Ok(planned) => {
                        anew = planned;
                        &anew
                    }
                    // Closed by the text itself: that is what it is told.
                    Err(_) if matches!(step.verdict, Verdict::Fetch { .. } | Verdict::Close(_)) => {
                        step
                    }
                    Err(error) => {
                        went = self.failed_with(&error);
                        break;
                    }
                },
            };
            let text;
            let made;
            let step = match step.asking() {
                None => step,
                Some(asking) => {
                    let Some(answered) = self.ask_first(asking).await? else {
                        went = Stepped::Failed;
                        break;
                    };
                    text = answered;
                    made = match self.planned_anew(&text).await? {
                        Ok(made) => made,
                        Err(error) => {
                            went = self.failed_with(&error);
                            break;
                        }
                    };
                    ours |= self.begin_ours(made.changes_many(self.cluster.shards()), &made);
                    &made
                }
            };
            if let (Verdict::Begin(modes), true) = (&step.verdict, ours) {
                went = self.take_on(*modes).await?;
                if went == Stepped::Failed {
                    break;
                }
                // What was a transaction of ours is the client's from here on.
                ours = false;
                self.complete(step.tag_of_begin());
                continue;
            }
            let is_last = at + 1 == steps.len();
            self.sharded().withheld = (ours && is_last).then(Vec::new);
            went = match self.within_ours(&step.verdict, ours) {
                Some(refused) => refused,
                None => self.run_step(step).await?,
            };
            ours &= self.sharded().transaction.is_open();
            if went == Stepped::Failed {
                break;
            }
        }
        let completion = self.sharded().withheld.take().unwrap_or_default();
        if ours && went == Stepped::Failed {
            self.roll_back(false).await?;
        } else if !ours || self.commit(false, None).await? == Stepped::Done {
            self.stream.send_vec(completion);
        }
        Ok(())
    }

    /// Begins a transaction of our own, if a statement has to be in one and is not.
    fn begin_ours(&mut self, together: bool, step: &Planned<'_>) -> bool {
        let transaction = &mut self.sharded().transaction;
        let begins = together && !transaction.is_open() && !step.verdict.is_control();
        if begins {
            transaction.begin(BEGIN, Modes::default());
        }
        begins
    }

    /// What PostgreSQL says of a statement that needs a transaction block where there is only that of several statements, which
    /// is `ours`. `None`: it goes on.
    pub(super) fn within_ours(&mut self, verdict: &Verdict, ours: bool) -> Option<Stepped> {
        match verdict {
            _ if !ours => None,
            Verdict::Savepoint(_) => Some(self.outside("SAVEPOINT")),
            Verdict::Release(_) => Some(self.outside("RELEASE SAVEPOINT")),
            Verdict::RollbackTo(_) => Some(self.outside("ROLLBACK TO SAVEPOINT")),
            Verdict::Commit { chain: true } => Some(self.refuse_chain("COMMIT")),
            Verdict::Rollback { chain: true } => Some(self.refuse_chain("ROLLBACK")),
            Verdict::Commit { .. } | Verdict::Rollback { .. } => {
                self.warn_of_no_transaction();
                None
            }
            _ => None,
        }
    }

    /// Runs one statement. The client gets its results, and no ReadyForQuery.
    pub(super) async fn run_step(&mut self, step: &Planned<'_>) -> Result<Stepped, End> {
        let transaction = &mut self.sharded().transaction;
        let ends = matches!(
            step.verdict,
            Verdict::Commit { .. } | Verdict::Rollback { .. } | Verdict::RollbackTo(_)
        );
        if transaction.is_failed() && !ends {
            return Ok(self.failed_with(&in_failed_transaction()));
        }
        match &step.verdict {
            Verdict::Begin(modes) => {
                if transaction.is_open() {
                    if !self.sharded().ours {
                        let text = "there is already a transaction in progress";
                        self.warn(SqlState::ACTIVE_SQL_TRANSACTION, text);
                    }
                    if self.take_on(*modes).await? == Stepped::Failed {
                        return Ok(Stepped::Failed);
                    }
                } else {
                    transaction.begin(step.text, *modes);
                }
                self.complete(step.tag_of_begin());
                Ok(Stepped::Done)
            }
            Verdict::Commit { chain } => {
                if !transaction.is_open() {
                    if *chain {
                        return Ok(self.refuse_chain("COMMIT"));
                    }
                    self.warn_of_no_transaction();
                    self.complete("COMMIT");
                } else if transaction.is_failed() {
                    self.roll_back(*chain).await?;
                    self.complete("ROLLBACK");
                } else {
                    return self.commit(*chain, Some("COMMIT")).await;
                }
                Ok(Stepped::Done)
            }
            Verdict::Rollback { chain } => {
                if !transaction.is_open() {
                    if *chain {
                        return Ok(self.refuse_chain("ROLLBACK"));
                    }
                    self.warn_of_no_transaction();
                } else {
                    self.roll_back(*chain).await?;
                }
                self.complete("ROLLBACK");
                Ok(Stepped::Done)
            }
            Verdict::Savepoint(name) => {
                if !transaction.is_open() {
                    return Ok(self.outside("SAVEPOINT"));
                }
                if transaction.savepoint(step.text, name.as_bytes()).is_err() {
                    return Ok(self.failed_with(&too_much()));
                }
                self.run_on_legs(step, "SAVEPOINT").await
            }
            Verdict::Release(name) => {
                if !transaction.is_open() {
                    return Ok(self.outside("RELEASE SAVEPOINT"));
                }
                if !transaction.release(name.as_bytes()) {
                    return Ok(self.no_savepoint(name));
                }
                self.sharded().savepoint_released();
                self.run_on_legs(step, "RELEASE").await
            }
            Verdict::RollbackTo(name) => {
                if !transaction.is_open() {
                    return Ok(self.outside("ROLLBACK TO SAVEPOINT"));
                }
                if !transaction.rollback_to(name.as_bytes()) {
                    return Ok(self.no_savepoint(name));
                }
                self.sharded().rolled_back_to_savepoint();
                self.run_on_legs(step, "ROLLBACK").await
            }
            Verdict::Transaction(modes) => {
                if !transaction.is_open() {
                    // The server warns, as it does.
                    return self.run_at(step, &Run::at(Place::Any)).await;
                }
                if !transaction.has_room(step.text) {
                    return Ok(self.failed_with(&too_much()));
                }
                // A server that joins for it is not told before, as with a SET for the session.
                let first = self.sharded().legs.is_empty() && self.is_reported(&step.effects);
                if first && self.run_at(step, &Run::joined()).await? == Stepped::Failed {
                    return Ok(Stepped::Failed);
                }
                let transaction = &mut self.sharded().transaction;
                let remembered = transaction.remember_modes(step.text, *modes);
                debug_assert_eq!(remembered, Ok(()), "there was room");
                if first {
                    return self.restore(step).await;
                }
                match self.run_on_legs(step, step.tag_of_setting()).await? {
                    Stepped::Done => self.restore(step).await,
                    Stepped::Failed => Ok(Stepped::Failed),
                }
            }
            Verdict::Session => {
                let inside = transaction.is_open();
                if inside && !transaction.has_room(step.text) {
                    return Ok(self.failed_with(&too_much()));
                }
                // On whatever servers the session has; others are told when it comes to them. One that joins for it is not told
                // before: it would report what has changed to nobody.
                match self.run_at(step, &Run::joined()).await? {
                    Stepped::Done if inside => {
                        let remembered = self.sharded().transaction.remember(step.text);
                        debug_assert_eq!(remembered, Ok(()), "there was room");
                        self.restore(step).await
                    }
                    went => Ok(went),
                }
            }
            Verdict::Ours if self.is_bound() => {
                let text = "the setting must be set before the first statement";
                let code = SqlState::CANT_CHANGE_RUNTIME_PARAM;
                Ok(self.failed_with(&Error::error(Fault::Client, code, text)))
            }
            Verdict::Ours => {
                if let Err(error) = self.check_ours(&step.effects) {
                    return Ok(self.failed_with(&error));
                }
                let tag = step.tag_of_ours();
                self.end_step(Vec::new(), &step.effects, Some(tag.as_bytes()));
                self.complete(tag);
                Ok(Stepped::Done)
            }
            Verdict::Prepare { name, shard } => self.prepare_by_text(step, name, *shard).await,
            Verdict::Deallocate(name) => Ok(self.deallocate_by_text(name.as_deref())),
            Verdict::Declare { cursor, query } => {
                // Its query is a step of its own.
                Box::pin(self.declare(cursor, query)).await
            }
            Verdict::Fetch { cursor, rows } => self.fetch(step, cursor, *rows).await,
            Verdict::Close(cursor) => self.close_cursor(step, cursor.as_deref()).await,
            Verdict::Run(run) => {
                if let Err(error) = self.check_cursors(&step.effects) {
                    return Ok(self.failed_with(&error));
                }
                let shard = self.shard_of_cursors(&step.effects, &run.place);
                let went = self.run_at(step, run).await?;
                if let (Stepped::Done, Some(shard)) = (went, shard) {
                    self.note_cursors(&step.effects, shard);
                }
                if went == Stepped::Done {
                    self.remember_settings(&step.effects);
                }
                Ok(went)
            }
        }
    }

    /// Runs a statement on all servers of the transaction; answers it when there are none yet, as those that join will
    /// be told.
    pub(super) async fn run_on_legs(
        &mut self,
        step: &Planned<'_>,
        tag: &'static str,
    ) -> Result<Stepped, End> {
        if self.sharded().legs.is_empty() {
            self.end_step(Vec::new(), &step.effects, Some(tag.as_bytes()));
            self.complete(tag);
            return Ok(Stepped::Done);
        }
        self.run_at(step, &Run::joined()).await
    }

    /// Runs a statement where `run` says.
    async fn run_at(&mut self, step: &Planned<'_>, run: &Run) -> Result<Stepped, End> {
        if run.asking.is_some() {
            return Ok(self.failed_with(&refused("a value that a server is asked for")));
        }
        if let Some(reshaping) = &run.reshaping {
            return Box::pin(self.run_reshaping(step, run, reshaping)).await;
        }
        if let Some(Copying::Written(written)) = &run.copying {
            if let Err(error) = written.check() {
                return Ok(self.failed_with(&error));
            }
            let query = Box::new(step.of_query(written));
            return Box::pin(self.run_planned(&query, run)).await;
        }
        self.run_planned(step, run).await
    }

    /// The same of a SELECT as it is planned, and of whatever else is done at once.
    async fn run_planned(&mut self, step: &Planned<'_>, run: &Run) -> Result<Stepped, End> {
        if run.unchecked && !self.is_taken(step).await? {
            return Ok(Stepped::Failed);
        }
        if let Some(apart) = &run.apart {
            return Box::pin(self.run_or_apart(step, run, apart)).await;
        }
        if let Some(across) = &run.gathering {
            return Box::pin(self.run_in_parts(step, run, across, None)).await;
        }
        self.run_as(step, run, None).await
    }

    /// The same. `promised`: where `run` is something else than the client has asked.
    pub(super) async fn run_as(
        &mut self,
        step: &Planned<'_>,
        run: &Run,
        promised: Option<Promised>,
    ) -> Result<Stepped, End> {
        let told = self.sharded().told.take();
        // EXECUTE has those of what it names, COPY was described as having none.
        let told = told.filter(|_| run.executed.is_none() && run.copying.is_none());
        let slice = match step.slice(run) {
            Ok(slice) => slice,
            Err(error) => return Ok(self.failed_with(&error)),
        };
        let mut ties = Ties::default();
        ties.note(&step.effects);
        if ties.asks() || ties.spoilt() {
            let what = "what one server keeps (temporary tables, advisory locks, held cursors)";
            return Ok(self.failed_with(&refused(what)));
        }
        let several = self.sharded().legs.len() > 1;
        let sets = step.effects.sets() || step.effects.traits.has(Traits::SET_CONFIG);
        if several && sets && matches!(step.verdict, Verdict::Run(_)) {
            return Ok(self.failed_with(&refused(SET_BY_FUNCTION)));
        }
        let shards = self.shards_at(&run.place);
        let want = step.want(self.is_decided());
        let Some(mut legs) = self.take_legs(&shards, want).await? else {
            return Ok(Stepped::Failed);
        };
        for (at, leg) in legs.iter_mut().enumerate() {
            leg.scrub |= ties.scrub();
            // Of an echo the first alone counts, and the others are told.
            let counts = step.does.counts && (at == 0 || run.echo.is_none());
            leg.does = leg.does.and(Does {
                counts,
                ..step.does
            });
            if step.does.changes {
                self.counts_on(&leg.held);
            }
        }
        if let Some(Copying::In(rows)) = &run.copying {
            let request = copy::Request {
                text: run.text.as_deref().unwrap_or(step.text),
                rows,
                described: matches!(
                    step.form,
                    Form::Portal {
                        described: true,
                        ..
                    }
                ),
            };
            self.aim(&legs);
            let outcome = copy::run(self, &mut legs, &request).await;
            return self.end_call(legs, &step.effects, outcome);
        }
        if let Some(moving) = &run.moving {
            let outcome = self.run_move(step, moving, &mut legs).await;
            return self.end_call(legs, &step.effects, outcome);
        }
        if let Some(echo) = &run.echo {
            let outcome = self.run_echo(step, echo, &mut legs).await;
            return self.end_call(legs, &step.effects, outcome);
        }
        let rows_max = match &step.wanted {
            Wanted::First(rows) => run.merge.leg_rows(*rows, slice),
            Wanted::Slice { portal, rows } => {
                let asked = Asked {
                    portal,
                    rows: *rows,
                    slice,
                    promised,
                    told,
                };
                let outcome = Box::pin(self.open_portal(step, run, asked, &mut legs)).await;
                return self.end_call(legs, &step.effects, outcome);
            }
            Wanted::All | Wanted::Stored => None,
        };
        let rows_max = rows_max.map_or(0, rows_max_of);
        let (messages, owed, described) = step.messages(run, rows_max);
        let stored = step.wanted == Wanted::Stored;
        let export = match &run.copying {
            Some(Copying::Written(written)) => Some(Box::new(Export::new(
                written.layout.clone(),
                written.before,
            ))),
            Some(Copying::In(_) | Copying::Out { .. }) | None => None,
        };
        let shown = Shown::Reply {
            plan: Arc::new(run.merge.clone()),
            slice,
            described: described || stored || export.is_some(),
            plain: step.is_query(),
            notes: run.notes.clone(),
            names: matches!(run.copying, Some(Copying::Out { names: true })),
            export,
            promised,
            told,
            first: match step.wanted {
                Wanted::First(rows) => Some(rows),
                Wanted::All | Wanted::Slice { .. } | Wanted::Stored => None,
            },
            order: match &run.copying {
                Some(_) => Order::Together,
                None => order(&run.merge),
            },
        };
        let call = Call {
            messages: &messages,
            owed,
            commits: false,
            shown,
        };
        let outcome = match stored {
            true => self.call_and_store(&mut legs, &call, described).await,
            false => self.call(&mut legs, &call).await,
        };
        self.end_call(legs, &step.effects, outcome)
    }

    /// Runs a call on servers that the session has in its hands.
    pub(super) async fn call(&mut self, legs: &mut [Leg], call: &Call<'_>) -> Result<Outcome, End> {
        self.aim_anew(legs);
        scatter::run(self, legs, call, None).await
    }

    /// These servers are to do something that takes the unnamed portal of each, whosever it was.
    pub(super) fn aim_anew(&mut self, legs: &[Leg]) {
        let unnamed = self.sharded().afar.shard_of(b"");
        if legs.iter().any(|leg| Some(leg.shard) == unnamed) {
            self.sharded().afar.forget(b"");
        }
        self.aim(legs);
    }

    /// The same, of which the client hears nothing.
    pub(super) async fn call_for(
        &mut self,
        legs: &mut [Leg],
        call: &Call<'_>,
        kept: &mut Kept,
    ) -> Result<Outcome, End> {
        self.aim_anew(legs);
        scatter::run(self, legs, call, Some(kept)).await
    }

    /// After a call: its servers stay or go.
    pub(super) fn end_call(
        &mut self,
        legs: Vec<Leg>,
        effects: &Effects,
        outcome: Result<Outcome, End>,
    ) -> Result<Stepped, End> {
        match outcome {
            Ok(Outcome::Done(tag)) => {
                self.end_step(legs, effects, Some(&tag));
                Ok(Stepped::Done)
            }
            Ok(Outcome::Failed) => {
                self.sharded().transaction.fail();
                self.end_step(legs, effects, None);
                Ok(Stepped::Failed)
            }
            Err(end) => {
                self.sharded().legs.extend(legs);
                Err(end)
            }
        }
    }

    /// After a statement: what it did to the session is noted, its servers stay or go.
    pub(super) fn end_step(&mut self, legs: Vec<Leg>, effects: &Effects, tag: Option<&[u8]>) {
        {
            let mut store = self.state.settings.borrow_mut();
            match tag {
                Some(tag) => {
                    for step in effects.steps() {
                        self.settings.succeeded(&step.effect, tag, &mut store);
                    }
                }
                None => self.settings.failed(),
            }
        }
        // What it takes away of what the session began with is given back at once, and then reported again.
        let baseline = self.settings.baseline();
        let mut steps = effects.steps().iter();
        let restored = steps.any(|step| !baseline.restoring(&step.effect).is_empty());
        if !(restored && self.sharded().transaction.is_open()) {
            self.note_reports();
        }
        let status = self.status().as_byte();
        let mut store = self.state.settings.borrow_mut();
        self.settings.ready(status, &mut store);
        drop(store);
        let open = self.sharded().transaction.is_open();
        let mut steps = effects.steps().iter();
        let discards = tag.is_some() && steps.any(|step| step.effect == Effect::DiscardAll);
        if discards {
            self.statements.clear();
            self.statements.succeeded();
            self.forget_unnamed();
        }
        for mut leg in legs {
            if discards {
                leg.held.prepared.forget_all();
            }
            if open || leg.kept || self.manner.mode == PoolerMode::Session {
                self.keep(leg);
            } else {
                self.release(leg.held, leg.scrub);
            }
        }
        self.aim(&[]);
    }

    /// What servers have reported with their answers: how settings really are, after what was done.
    pub(super) fn note_reports(&mut self) {
        for (name, value) in std::mem::take(&mut self.sharded().reports) {
            Recipient::parameter(self, &name, &value);
        }
    }

    pub(super) fn shards_at(&mut self, place: &Place) -> Vec<usize> {
        match place {
            Place::These(shards) => shards.clone(),
            Place::All => (0..self.cluster.shards()).collect(),
            Place::Joined if !self.sharded().legs.is_empty() => {
                self.sharded().legs.iter().map(|leg| leg.shard).collect()
            }
            Place::Balanced if self.sharded().legs.is_empty() => {
                vec![self.one_of(self.cluster.shards())]
            }
            Place::Any | Place::Balanced | Place::Joined => vec![self.any_shard()],
        }
    }

    /// The shard of what any shard can do: one that the transaction has, or always the same for this client, so that
    /// what it reads does not go back and forth.
    pub(super) fn any_shard(&mut self) -> usize {
        if let Some(leg) = self.sharded().legs.first() {
            return leg.shard;
        }
        let id = self.link.key.process_id().unsigned_abs() as usize;
        id % self.cluster.shards()
    }

    /// One of so many, at random.
    pub(super) fn one_of(&self, count: usize) -> usize {
        let turn = u64::from_ne_bytes(self.state.random());
        usize::try_from(turn % count.max(1) as u64).unwrap_or_default()
    }

    pub(super) fn complete(&mut self, tag: &str) {
        self.complete_with(tag.as_bytes());
    }

    /// CommandComplete for the client, which waits for the commit if that comes with it.
    pub(super) fn complete_with(&mut self, tag: &[u8]) {
        let mut message = Vec::new();
        CommandComplete { tag }.encode(&mut message);
        match &mut self.sharded().withheld {
            Some(withheld) => *withheld = message,
            None => self.stream.send_vec(message),
        }
    }

    fn warn(&self, code: SqlState, text: &'static str) {
        let mut message = Vec::new();
        put_notice(&mut message, Severity::Warning, code, text, None, None);
        self.stream.send_vec(message);
    }

    fn warn_of_no_transaction(&self) {
        let text = "there is no transaction in progress";
        self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, text);
    }

    pub(super) fn outside(&mut self, what: &str) -> Stepped {
        let text = format!("{what} can only be used in transaction blocks");
        let code = SqlState::NO_ACTIVE_SQL_TRANSACTION;
        self.failed_with(&Error::error(Fault::Client, code, text))
    }

    fn refuse_chain(&mut self, what: &str) -> Stepped {
        self.outside(&format!("{what} AND CHAIN"))
    }

    fn no_savepoint(&mut self, name: &str) -> Stepped {
        let text = format!("savepoint \"{name}\" does not exist");
        let code = SqlState::INVALID_SAVEPOINT_SPECIFICATION;
        self.failed_with(&Error::error(Fault::Client, code, text))
    }
}

/// Where a cursor is that it names depends on what is done before it.
const fn names_cursor(effects: &Effects) -> bool {
    matches!(
        effects.verb,
        Keyword::Fetch | Keyword::Move | Keyword::Close
    )
}

pub(super) fn in_failed_transaction() -> Error {
    let text = "current transaction is aborted, commands ignored until end of transaction block";
    Error::error(Fault::Client, SqlState::IN_FAILED_SQL_TRANSACTION, text)
}

pub(super) fn too_much() -> Error {
    let text = "too many settings and savepoints in a transaction over several shards";
    Error::error(Fault::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, text)
}

/// When servers get what is merged like this.
const fn order(merge: &MergePlan) -> Order {
    match (&merge.completion, &merge.source) {
        (Completion::Same, _) => Order::FirstThenOthers,
        (Completion::Added, Source::EveryLeg) => Order::InTurn,
        _ => Order::Together,
    }
}
