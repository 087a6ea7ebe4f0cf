//! Portals: what was bound, until its batch or its transaction ends, and how much of its rows the client has got.
//!
//! ```text
//!             Execute                      Execute of all, or of the last rows
//!   Bound ─────────────────────────────────────────────────────────────────────► Done
//!     │ Execute with a row limit, DECLARE                                          ▲
//!     ├──► Open:   a SELECT: each server has a portal, which is asked for rows ────┤
//!     └──► Stored: anything else: it is done, its rows are here ───────────────────┘
//! ```
//!
//! A portal that is still bound when its transaction goes on is opened, so that it sees what it saw when it was bound.

use std::rc::Rc;

use crate::error::{Error, Fault};
use crate::merge::plan::Slice;
use crate::merge::{refused, Description, Merge, Promised};
use crate::prepared::Statement;
use crate::protocol::backend::{BIND_COMPLETE, EMPTY_QUERY_RESPONSE, PORTAL_SUSPENDED};
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend::{Bind, Execute, Target, SYNC};
use crate::protocol::sqlstate::SqlState;
use crate::routing::verdict::{Run, Verdict};
use crate::sql::session::Effects;
use crate::sql::statement::Modes;
use crate::types::shape::Shape;

use super::super::super::cluster::Want;
use super::super::{End, Session};
use super::batch::malformed;
use super::call::{Answers, Call, Shown};
use super::charge::Charge;
use super::cursors::already_exists;
use super::flow::Flow;
use super::plan::{Planned, Wanted};
use super::scatter::{self, Outcome, LIMITS};
use super::steps::{in_failed_transaction, Stepped, BEGIN};
use super::stored::Stored;
use super::{Leg, Sharded};

/// Portals that a batch or transaction may have: a client that wants more is refused.
pub(super) const PORTALS_MAX: usize = 1024;

/// What answers Close of a portal of ours.
const CLOSING: &Answers = &[
    (Owed::CloseComplete, Fate::Drop),
    (Owed::Ready, Fate::Forward),
];

/// What answers Execute of a portal that a server has under the client's name.
const AFAR_EXECUTED: &Answers = &[
    (Owed::Execution, Fate::Forward),
    (Owed::Ready, Fate::Forward),
];

/// A statement with its values.
pub(super) struct Portal {
    pub(super) name: Box<[u8]>,
    pub(super) statement: Rc<Statement>,
    /// Body of the Bind.
    pub(super) bind: Box<[u8]>,
    /// What that takes, as long as it is here.
    _held: Charge,
    /// Its rows are described when it is executed.
    pub(super) described: bool,
    /// What the rows of its statement were described like before.
    told: Option<Shape>,
    /// A server was asked for the values of its statement.
    asked: bool,
    /// Savepoints that were in force when it was bound.
    depth: usize,
    pub(super) state: State,
    /// Who has a portal of ours for it.
    servers: Option<Servers>,
}

pub(super) enum State {
    Bound,
    Open(Box<Merge>, Flow),
    Stored(Stored),
    /// The client has got all. The tag of what it gets if it asks again, if it may.
    Done(Option<&'static str>),
    /// It cannot be run any more.
    Failed(Why),
    /// It has ended the transaction that it was bound in.
    Ended,
}

#[derive(Clone, Copy)]
pub(super) enum Why {
    /// It has failed.
    Error,
    /// It was opened amid what was rolled back.
    Savepoint,
}

pub(super) struct Servers {
    /// Of the portal on all of them.
    portal: Box<[u8]>,
    shards: Vec<usize>,
    /// Savepoints that were in force when they got it.
    depth: usize,
}

/// What a statement has left of its rows.
pub(super) enum Left {
    Open(Box<Merge>, Flow, Servers),
    Stored(Stored),
}

/// A slice of a portal that servers have not got yet.
pub(super) struct Asked<'a> {
    pub(super) portal: &'a [u8],
    pub(super) rows: u64,
    pub(super) slice: Slice,
    pub(super) promised: Option<Promised>,
    pub(super) told: Option<Shape>,
}

impl Sharded {
    /// After RELEASE: what was done since is of the level around it.
    pub(super) fn savepoint_released(&mut self) {
        let depth = self.transaction.savepoints();
        for portal in &mut self.portals {
            portal.depth = portal.depth.min(depth);
            if let Some(servers) = &mut portal.servers {
                servers.depth = servers.depth.min(depth);
            }
        }
        self.afar.released(depth);
    }

    /// After ROLLBACK TO: portals bound since are gone. Those that servers got since are gone there.
    pub(super) fn rolled_back_to_savepoint(&mut self) {
        let depth = self.transaction.savepoints();
        self.portals.retain(|portal| portal.depth < depth);
        self.afar.rolled_back(depth);
        for portal in &mut self.portals {
            let opened = |servers: &mut Servers| servers.depth >= depth;
            if portal.servers.take_if(opened).is_some() {
                portal.state = State::Failed(Why::Savepoint);
            }
        }
    }
}

impl Session {
    /// Bind.
    pub(super) async fn bind(&mut self, body: &[u8]) -> Result<Stepped, End> {
        let mut portal = match self.bound(body) {
            Ok(portal) => portal,
            Err(error) => return Ok(self.failed_with(&error)),
        };
        if self.declare_values(&mut portal).await? == Stepped::Failed {
            return Ok(Stepped::Failed);
        }
        // One without a name is replaced.
        if portal.name.is_empty() && self.drop_portal(b"").await? == Stepped::Failed {
            return Ok(Stepped::Failed);
        }
        self.sharded().portals.push(portal);
        self.stream.write(&BIND_COMPLETE);
        Ok(Stepped::Done)
    }

    /// What a Bind makes.
    fn bound(&mut self, body: &[u8]) -> Result<Portal, Error> {
        let bind = Bind::parse(body).map_err(malformed)?;
        let statement = self.statement(bind.statement)?;
        let told = self.statements.told(bind.statement);
        let told = told.map(|(_, shape)| shape);
        let statement = self.as_executed(statement, Some(&bind))?;
        self.check_not_failed(statement.text())?;
        let portal = self.new_portal(bind.portal, statement, body)?;
        Ok(Portal { told, ..portal })
    }

    /// A portal of a name that is not taken.
    pub(super) fn new_portal(
        &mut self,
        name: &[u8],
        statement: Rc<Statement>,
        bind: &[u8],
    ) -> Result<Portal, Error> {
        if !name.is_empty() && self.has_portal(name) {
            return Err(already_exists(name));
        }
        let sharded = self.sharded();
        if sharded.portals.len() >= PORTALS_MAX {
            let text = format!("more than {PORTALS_MAX} portals at a time");
            let code = SqlState::PROGRAM_LIMIT_EXCEEDED;
            return Err(Error::error(Fault::Client, code, text));
        }
        let others = sharded.portals.iter().map(|portal| portal.bind.len()).sum();
        let mut held = Charge::new(&self.state);
        held.set_besides(bind.len(), others)?;
        let sharded = self.sharded();
        Ok(Portal {
            name: name.into(),
            statement,
            bind: bind.into(),
            _held: held,
            described: false,
            told: None,
            asked: false,
            depth: sharded.transaction.savepoints(),
            state: State::Bound,
            servers: None,
        })
    }

    /// What a portal does, keys that a query translates looked up.
    pub(super) async fn plan_portal<'p>(
        &mut self,
        statement: &'p Statement,
        bind: &Bind<'p>,
        described: bool,
    ) -> Result<Result<Option<Planned<'p>>, Error>, End> {
        loop {
            let planned = self.planned(statement, bind, described);
            if !self.must_look_up() {
                return Ok(planned);
            }
            if let Err(error) = Box::pin(self.look_up()).await? {
                return Ok(Err(error));
            }
        }
    }

    /// Takes a portal out.
    pub(super) fn portal(&mut self, name: &[u8]) -> Result<Portal, Error> {
        let portals = &mut self.sharded().portals;
        let at = portals.iter().position(|portal| *portal.name == *name);
        at.map(|at| portals.swap_remove(at)).ok_or_else(|| {
            let text = format!(
                "portal \"{}\" does not exist",
                String::from_utf8_lossy(name)
            );
            Error::error(Fault::Client, SqlState::INVALID_CURSOR_NAME, text)
        })
    }

    /// Close of a portal, if there is one of this name, with what servers have of it.
    pub(super) async fn drop_portal(&mut self, name: &[u8]) -> Result<Stepped, End> {
        let Some(sharded) = self.sharded.as_mut() else {
            return Ok(Stepped::Done);
        };
        let mut closing = None;
        if let Some(at) = sharded.portals.iter().position(|one| *one.name == *name) {
            let servers = sharded.portals.swap_remove(at).servers;
            closing = servers.map(|servers| (servers.portal, servers.shards));
        }
        if let Some(shard) = sharded.afar.forget(name) {
            // Servers forget an unnamed one by themselves.
            closing = (!name.is_empty()).then(|| (name.into(), vec![shard]));
        }
        let Some((portal, shards)) = closing else {
            return Ok(Stepped::Done);
        };
        if !sharded.transaction.is_open() || sharded.transaction.is_failed() {
            return Ok(Stepped::Done);
        }
        let mut messages = Vec::new();
        Target::Portal(&portal).encode_close(&mut messages);
        messages.extend_from_slice(&SYNC);
        Box::pin(self.call_at(&shards, messages, CLOSING, Shown::Errors)).await
    }

    /// Has these shards' servers, which the transaction has, do something of which nothing is left to note.
    pub(super) async fn call_at(
        &mut self,
        shards: &[usize],
        messages: Vec<u8>,
        owed: &Answers,
        shown: Shown,
    ) -> Result<Stepped, End> {
        let Some(mut legs) = self.take_legs(shards, Want::Write).await? else {
            return Ok(Stepped::Failed);
        };
        let call = Call {
            messages: &[messages],
            owed,
            commits: false,
            shown,
        };
        // Not by `call`, before which servers' unnamed portals are taken for gone.
        self.aim(&legs);
        let outcome = scatter::run(self, &mut legs, &call, None).await;
        self.end_call(legs, &Effects::default(), outcome)
    }

    /// Execute. `lone`: of its batch. `behind`: what follows of that.
    pub(super) async fn execute(
        &mut self,
        execute: Execute<'_>,
        lone: bool,
        behind: &[u8],
    ) -> Result<Stepped, End> {
        let rows = u64::try_from(execute.rows_max)
            .ok()
            .filter(|rows| *rows > 0);
        if let Some(shard) = self.sharded().afar.shard_of(execute.portal) {
            if self.sharded().afar.copies_in(execute.portal) {
                let what = "COPY FROM by a portal that was bound before there were several servers";
                return Ok(self.failed_with(&refused(what)));
            }
            let mut messages = Vec::new();
            execute.encode(&mut messages);
            messages.extend_from_slice(&SYNC);
            return self
                .call_at(&[shard], messages, AFAR_EXECUTED, Shown::Description)
                .await;
        }
        let mut portal = match self.portal(execute.portal) {
            Ok(portal) => portal,
            Err(error) => return Ok(self.failed_with(&error)),
        };
        if self.sharded().transaction.is_failed() && !matches!(portal.state, State::Bound) {
            self.sharded().portals.push(portal);
            return Ok(self.failed_with(&in_failed_transaction()));
        }
        let state = std::mem::replace(&mut portal.state, State::Failed(Why::Error));
        let (went, state) = match state {
            State::Bound => Box::pin(self.execute_bound(&mut portal, rows, lone, behind)).await?,
            State::Open(merge, flow) => {
                self.execute_open(&portal, rows, "SELECT", (merge, flow))
                    .await?
            }
            State::Stored(mut stored) => {
                self.stream.send_vec(stored.give(rows));
                (Stepped::Done, State::Stored(stored))
            }
            State::Done(Some(tag)) => {
                self.complete(tag);
                (Stepped::Done, State::Done(Some(tag)))
            }
            state @ (State::Done(None) | State::Failed(Why::Error)) => {
                let name = String::from_utf8_lossy(&portal.name);
                let text = format!("portal \"{name}\" cannot be run");
                let code = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
                let error = Error::error(Fault::Client, code, text);
                (self.failed_with(&error), state)
            }
            state @ State::Ended => (Stepped::Done, state),
            state @ State::Failed(Why::Savepoint) => {
                let what = "a portal that was opened after the savepoint that was rolled back to";
                (self.failed_with(&refused(what)), state)
            }
        };
        portal.state = state;
        match portal.state {
            // It has ended its transaction, and so have all others.
            State::Ended => self.sharded().portals.clear(),
            _ => self.sharded().portals.push(portal),
        }
        Ok(went)
    }

    /// Begins a transaction of our own, until the batch ends, if what is executed has to be in one.
    fn begin_batch(&mut self, together: bool) {
        let sharded = self.sharded();
        if together && !sharded.transaction.is_open() {
            sharded.transaction.begin(BEGIN, Modes::default());
            sharded.ours = true;
        }
    }

    /// The first Execute.
    async fn execute_bound(
        &mut self,
        portal: &mut Portal,
        rows: Option<u64>,
        lone: bool,
        behind: &[u8],
    ) -> Result<(Stepped, State), End> {
        let failed = |went| Ok((went, State::Failed(Why::Error)));
        let Ok(bind) = Bind::parse(&portal.bind) else {
            return failed(self.failed_with(&Error::protocol_violation("Bind")));
        };
        let statement = Rc::clone(&portal.statement);
        let mut planned = match self
            .plan_portal(&statement, &bind, portal.described)
            .await?
        {
            Ok(Some(planned)) => planned,
            Ok(None) => {
                self.stream.write(&EMPTY_QUERY_RESPONSE);
                return Ok((Stepped::Done, State::Done(None)));
            }
            Err(error) => return failed(self.failed_with(&error)),
        };
        let ends = matches!(
            planned.verdict,
            Verdict::Commit { .. } | Verdict::Rollback { .. } | Verdict::RollbackTo(_)
        );
        if self.sharded().transaction.is_failed() && !ends {
            return Ok((self.failed_with(&in_failed_transaction()), State::Bound));
        }
        if let Some(asking) = planned.asking().filter(|_| !portal.asked) {
            self.begin_batch(!lone || planned.changes_many(self.cluster.shards()));
            let Some(text) = self.ask_first(asking).await? else {
                return failed(Stepped::Failed);
            };
            // The types of parameters follow the text.
            let types = statement.definition().get(statement.text().len()..);
            let made = self.intern(&[&text, types.unwrap_or_default()].concat());
            match made {
                Ok(made) => portal.statement = made,
                Err(error) => return failed(self.failed_with(&error)),
            }
            portal.asked = true;
            return Box::pin(self.execute_bound(portal, rows, lone, behind)).await;
        }
        let goes_on = !lone || self.sharded().transaction.is_open();
        planned.wanted = match (&planned.verdict, rows) {
            (Verdict::Run(run), Some(rows)) if planned.selects && run.executed.is_none() => {
                match goes_on || has_ties(run) {
                    true => self.slice(rows),
                    false => Wanted::First(rows),
                }
            }
            (Verdict::Run(run), Some(_)) if run.moving.is_some() => {
                return failed(
                    self.failed_with(&refused("a row limit of an UPDATE that moves rows")),
                );
            }
            (Verdict::Run(run), Some(_)) if run.copying.is_none() => Wanted::Stored,
            (Verdict::Fetch { .. }, Some(_)) => {
                return failed(self.failed_with(&refused("a row limit of FETCH")));
            }
            _ => Wanted::All,
        };
        if planned.copies_in() {
            // As on a server: what comes from here on belongs to the data, or is ignored, or wrong.
            self.inbound.put_back(behind);
            self.sharded().put_back = true;
        }
        let told = portal.told.filter(|_| !portal.described);
        let together = !lone
            || told.is_some() && planned.does.changes
            || planned.changes_many(self.cluster.shards())
            || matches!(planned.wanted, Wanted::Slice { .. });
        self.begin_batch(together && !planned.verdict.is_control());
        let ours = self.sharded().ours;
        if let Some(refused) = self.within_ours(&planned.verdict, ours) {
            return failed(refused);
        }
        let alters = planned.does.changes || matches!(planned.verdict, Verdict::Savepoint(_));
        if alters && self.open_bound().await? == Stepped::Failed {
            return failed(Stepped::Failed);
        }
        (self.sharded().told, self.sharded().carrying) = (told, false);
        let went = self.run_step(&planned).await?;
        self.sharded().told = None;
        if went == Stepped::Done {
            let carrying = self.sharded().carrying;
            self.note_rows(&statement, carrying);
        }
        let open = self.sharded().transaction.is_open();
        self.sharded().ours &= open;
        if went == Stepped::Failed {
            return failed(went);
        }
        if planned.verdict.is_control() {
            // What was a transaction of ours is the client's, or over.
            self.sharded().ours = false;
        }
        if matches!(
            planned.verdict,
            Verdict::Commit { .. } | Verdict::Rollback { .. }
        ) {
            return Ok((went, State::Ended));
        }
        let again = planned.again.filter(|_| planned.wanted == Wanted::All);
        drop(planned);
        let state = match self.sharded().left.take() {
            Some(Left::Open(merge, flow, servers)) => {
                portal.servers = Some(servers);
                if !merge.is_complete() {
                    self.stream.write(&PORTAL_SUSPENDED);
                }
                State::Open(merge, flow)
            }
            Some(Left::Stored(mut stored)) => {
                self.stream.send_vec(stored.give(rows));
                State::Stored(stored)
            }
            None => State::Done(again),
        };
        Ok((went, state))
    }

    /// A slice of a portal that has none yet, with a name for it.
    fn slice(&mut self, rows: u64) -> Wanted {
        let number = &mut self.sharded().portal_number;
        *number += 1;
        Wanted::Slice {
            portal: format!("__pgdog_portal_{number}").into_bytes().into(),
            rows,
        }
    }

    /// The next Execute of a portal that servers have.
    pub(super) async fn execute_open(
        &mut self,
        portal: &Portal,
        rows: Option<u64>,
        verb: &'static str,
        (mut merge, flow): (Box<Merge>, Flow),
    ) -> Result<(Stepped, State), End> {
        if merge.is_complete() {
            self.complete(&format!("{verb} 0"));
            return Ok((Stepped::Done, State::Open(merge, flow)));
        }
        let failed = State::Failed(Why::Error);
        let shards = portal.servers.iter().flat_map(|servers| &servers.shards);
        let shards: Vec<_> = shards.copied().collect();
        let Some(mut legs) = self.take_legs(&shards, Want::Write).await? else {
            return Ok((Stepped::Failed, failed));
        };
        merge.allow(rows, verb);
        self.aim(&legs);
        let flowed = scatter::flow(self, &mut legs, None, (merge, flow)).await;
        let (outcome, left) = match flowed {
            Ok((outcome, left)) => (Ok(outcome), left),
            Err(end) => (Err(end), None),
        };
        let went = self.end_call(legs, &Effects::default(), outcome)?;
        Ok(match (went, left) {
            (Stepped::Done, Some((merge, flow))) => {
                match (merge.is_complete(), rows) {
                    (false, Some(rows)) if verb == "FETCH" => {
                        self.complete(&format!("FETCH {rows}"))
                    }
                    (false, _) => self.stream.write(&PORTAL_SUSPENDED),
                    (true, _) => {}
                }
                (went, State::Open(merge, flow))
            }
            _ => (Stepped::Failed, failed),
        })
    }

    /// Opens a portal on these servers, and gives the client its first rows. What it leaves is in `left`.
    pub(super) async fn open_portal(
        &mut self,
        step: &Planned<'_>,
        run: &Run,
        asked: Asked<'_>,
        legs: &mut [Leg],
    ) -> Result<Outcome, End> {
        let described = match step.is_described() {
            true => Description::Forwarded,
            false => Description::Kept,
        };
        let plan = std::sync::Arc::new(run.merge.clone());
        let facts = self.value_facts();
        let merge = Merge::new(plan, asked.slice, legs.len(), facts, described, LIMITS)
            .enums(self.enums_of(legs))
            .told(asked.told);
        let mut merge = match asked.promised {
            Some(promised) => merge.promised(promised),
            None => merge,
        };
        let mut flow = Flow::new(asked.portal, legs.len(), &run.merge, asked.slice);
        merge = merge.paced(asked.rows);
        let begin = (asked.rows > 0).then(|| flow.begin(merge.rows_left()));
        let (messages, owed) = step.opening(run, asked.portal, begin);
        let call = Call {
            messages: &[messages],
            owed,
            commits: false,
            shown: Shown::Errors,
        };
        self.aim(legs);
        let merge = Box::new(merge);
        let (outcome, left) = scatter::flow(self, legs, Some(&call), (merge, flow)).await?;
        if let (Outcome::Done(_), Some((merge, flow))) = (&outcome, left) {
            let servers = Servers {
                portal: asked.portal.into(),
                shards: legs.iter().map(|leg| leg.shard).collect(),
                depth: self.sharded().transaction.savepoints(),
            };
            self.sharded().left = Some(Left::Open(merge, flow, servers));
        }
        Ok(outcome)
    }

    /// Opens what is still bound and would see something else later.
    async fn open_bound(&mut self) -> Result<Stepped, End> {
        let sharded = self.sharded();
        if !sharded.transaction.is_open() || sharded.transaction.is_failed() {
            return Ok(Stepped::Done);
        }
        let mut portals = std::mem::take(&mut sharded.portals);
        let mut went = Ok(Stepped::Done);
        for portal in &mut portals {
            if matches!(portal.state, State::Bound) && matches!(went, Ok(Stepped::Done)) {
                // Why it cannot be planned is told when it is executed, if it ever is.
                let opened = self.open_one(portal).await;
                went = opened.map(|opened| opened.unwrap_or(Stepped::Done));
            }
        }
        self.sharded().portals.append(&mut portals);
        went
    }

    /// Opens one, if it can be. Errors within: it cannot be planned, which nobody was told.
    pub(super) async fn open_one(
        &mut self,
        portal: &mut Portal,
    ) -> Result<Result<Stepped, Error>, End> {
        let Ok(bind) = Bind::parse(&portal.bind) else {
            return Ok(Err(Error::protocol_violation("Bind")));
        };
        let described = portal.described;
        let mut planned = match self
            .plan_portal(&portal.statement, &bind, described)
            .await?
        {
            Ok(Some(planned)) => planned,
            Ok(None) => return Ok(Ok(Stepped::Done)),
            Err(error) => return Ok(Err(error)),
        };
        let opens = match &planned.verdict {
            Verdict::Run(run) => planned.selects && run.executed.is_none(),
            _ => false,
        };
        if !opens {
            return Ok(Ok(Stepped::Done));
        }
        planned.wanted = self.slice(0);
        self.sharded().told = portal.told;
        let went = self.run_step(&planned).await?;
        self.sharded().told = None;
        drop(planned);
        portal.state = match (went, self.sharded().left.take()) {
            (Stepped::Done, Some(Left::Open(merge, flow, servers))) => {
                portal.servers = Some(servers);
                State::Open(merge, flow)
            }
            _ => State::Failed(Why::Error),
        };
        Ok(Ok(went))
    }

    /// At Sync: portals live as long as the transaction does.
    pub(super) async fn keep_portals(&mut self) -> Result<(), End> {
        let sharded = self.sharded();
        if !sharded.transaction.is_open() {
            sharded.portals.clear();
            return Ok(());
        }
        let is_over = |portal: &Portal| {
            portal.name.is_empty()
                && portal.servers.is_none()
                && matches!(portal.state, State::Done(_) | State::Failed(_))
        };
        sharded.portals.retain(|portal| !is_over(portal));
        let _: Stepped = self.open_bound().await?; // told, either way
        Ok(())
    }
}

/// Does a row limit not say where it ends?
fn has_ties(run: &Run) -> bool {
    let parts = run.gathering.as_deref();
    let merge = parts.map_or(&run.merge, |across| &across.asked.plan);
    merge.limit.with_ties
}
