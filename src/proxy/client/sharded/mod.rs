//! A session on a database of several shards: a request that concerns one of them goes there by the relay, others go to
//! several servers at once.
//!
//! BEGIN is answered here. A server joins the transaction when a statement needs its shard (`routing::transaction`), and
//! all end it together.

mod afar;
mod ask;
mod batch;
mod call;
mod charge;
mod copy;
mod crew;
mod cursors;
mod described;
mod direct;
mod echo;
mod ending;
mod execute;
mod explain;
mod flow;
mod gather;
mod hearing;
mod inquiry;
mod kept;
mod lookups;
mod lost;
mod messages;
mod moves;
mod numbered;
mod plan;
mod portals;
mod rehearse;
mod replies;
mod reshape;
mod restore;
mod rewrite;
mod route;
mod route_copy;
mod scatter;
mod steps;
mod stop;
mod stored;
mod two_phase;
mod unknown;
mod view;

pub(crate) use numbered::PlainRows;

use std::rc::Rc;

use crate::config::choice::{PoolerMode, ReadWriteStrategy};
use crate::error::{Error, Fault, Survives};
use crate::merge::refused;
use crate::protocol::backend::{ready_for_query, tag as backend, TransactionStatus};
use crate::protocol::batch::{extent, extent_from, messages, BatchEnd, Extent as BatchExtent};
use crate::protocol::error_fields::{put_error, Fields};
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::frontend::tag;
use crate::protocol::sqlstate::SqlState;
use crate::routing::defined::Defined;
use crate::routing::transaction::{TooLong, Transaction};
use crate::sql::listed::Parameters;
use crate::sql::session::{Effect, Effects};
use crate::sql::statement::Modes;
use crate::sql::statements::Traits;
use crate::types::canonical::Canonical;
use crate::types::shape::Shape;

use super::super::cluster::Want;
use super::super::core_state::Activity;
use super::super::news;
use super::super::pools::Held;
use super::super::server::{Collector, RunError};
use super::checkout::Way;
use super::inbound::CLIENT_BODY_BYTES_MAX;
use super::obtain::Aim;
use super::relay::{Extent, Relay};
use super::unnamed::Unnamed;
use super::{lost_error, End, Session};
use afar::Afar;
use plan::Planned;
use steps::Stepped;

/// Bytes of a request that goes on as a write before all of it is there, where one server gets it in any case.
const WRITE_BYTES_MIN: usize = 64 * 1024 * 1024;

/// Refused: a server would have a setting that others have not.
const SET_BY_FUNCTION: &str = "a setting that a function makes while there are several servers";

/// What a session has on shards.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Sharded {
    /// Servers of the open transaction, or kept between transactions, in the order of shards.
    legs: Vec<Leg>,
    pub(super) transaction: Transaction,
    /// The transaction is one of ours, for the batch or text under way.
    ours: bool,
    /// CommandComplete of the last statement of a text whose transaction is ours: it is for when that is committed.
    withheld: Option<Vec<u8>>,
    /// Settings that servers have reported with the answers to what is under way.
    reports: Vec<(Vec<u8>, Vec<u8>)>,
    /// What the batch under way, or the open transaction, has bound.
    portals: Vec<portals::Portal>,
    /// What servers have under the client's names.
    afar: Afar,
    /// The shard whose server [`Session::unnamed`] is about.
    parsed_on: Option<usize>,
    /// What the statement under way has left of its rows.
    left: Option<portals::Left>,
    /// What the client was told of the rows of the statement that is about to run.
    told: Option<Shape>,
    /// What it was last told of rows.
    shown: Option<Shape>,
    /// Were rows of the statement under way described as having OIDs of types within, if they are in binary format?
    carrying: bool,
    /// The last number of a portal on servers.
    portal_number: u64,
    /// What the request or transaction under way has changed of the catalogue.
    defined: Defined,
    /// It changes what is known of keys that a query translates.
    retranslates: bool,
    /// What the request under way knows of such keys.
    translations: lookups::Translations,
    /// What follows of the batch under way was put back: it is read amid the data of a COPY.
    put_back: bool,
}

impl Sharded {
    /// Does it hold nothing on any shard?
    pub(super) fn is_at_rest(&self) -> bool {
        self.legs.is_empty()
            && self.transaction.status() == TransactionStatus::Idle
            && !self.ours
            && self.withheld.is_none()
            && self.portals.is_empty()
            && self.left.is_none()
            && !self.put_back
    }
}

/// A server of one shard.
struct Leg {
    shard: usize,
    held: Held,
    /// What it may have done in the open transaction.
    does: Does,
    /// It has something of the client that only a server can keep: it stays between transactions.
    kept: bool,
    /// What was run on it may have left something behind.
    scrub: bool,
}

/// What a statement may do on its servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Does {
    /// More than read.
    changes: bool,
    /// Take numbers from sequences.
    counts: bool,
}

impl Does {
    /// Both.
    fn and(self, other: Self) -> Self {
        Self {
            changes: self.changes | other.changes,
            counts: self.counts | other.counts,
        }
    }
}

impl Leg {
    fn new(shard: usize, held: Held) -> Self {
        Self {
            shard,
            held,
            does: Does::default(),
            kept: false,
            scrub: false,
        }
    }
}

impl Sharded {
    /// A server has reported a setting with its answer.
    fn report(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.reports.retain(|(known, _)| *known != name);
        self.reports.push((name, value));
    }

    /// The transaction, and all its portals, are over.
    fn end_transaction(&mut self, chain: bool) {
        self.transaction.end(chain);
        self.portals.clear();
        self.afar.clear();
        self.parsed_on = None;
    }
}

impl Session {
    /// What ReadyForQuery says when we send it.
    pub(super) fn status(&self) -> TransactionStatus {
        match &self.sharded {
            Some(sharded) => sharded.transaction.status(),
            None => TransactionStatus::Idle,
        }
    }

    /// Is BEGIN answered here, because the first statement decides where the transaction goes? So it is with several
    /// shards, and where reads of a transaction may go to a replica.
    pub(super) fn defers_transactions(&self) -> bool {
        let aggressive = || {
            let config = self.state.config();
            config.routing.strategy == ReadWriteStrategy::Aggressive
                && self.manner.mode != PoolerMode::Session
        };
        let split = self.cluster.is_split() && self.cluster.parses();
        self.cluster.shards() > 1 || split && aggressive()
    }

    /// Serves the request in front, which is there as a whole.
    pub(super) async fn serve_sharded(&mut self) -> Result<(), End> {
        self.link.enter(Activity::Active, self.state.core.now());
        let outcome = self.serve_on_shards().await;
        let ended = self.status() == TransactionStatus::Idle;
        let sharded = self
            .sharded
            .as_mut()
            .filter(|sharded| sharded.defined.any());
        if let (Some(sharded), true) = (sharded, ended) {
            sharded.defined = Defined::default();
            if self.state.config().routing.reload_schema_on_ddl {
                news::definitions_changed(&self.state, &self.cluster.names);
            }
        }
        if let Some(sharded) = self.sharded.as_mut() {
            sharded.translations.clear();
            if sharded.retranslates {
                sharded.retranslates = !ended;
                self.forget_translations();
            }
        }
        if outcome.is_err() {
            self.leave_shards();
        }
        let activity = match self.status() {
            TransactionStatus::Idle => Activity::Idle,
            _ => Activity::IdleInTransaction,
        };
        self.link.enter(activity, self.state.core.now());
        outcome
    }

    /// If one server can do all of the request it gets it as it is; otherwise it is run here.
    async fn serve_on_shards(&mut self) -> Result<(), End> {
        let bytes = self.inbound.bytes();
        let Ok(BatchExtent::Whole { bytes: length, end }) = extent(bytes, CLIENT_BODY_BYTES_MAX)
        else {
            let text = format!("request of more than {CLIENT_BODY_BYTES_MAX} bytes");
            let code = SqlState::PROGRAM_LIMIT_EXCEEDED;
            return self.answer(&Error::error(Fault::Client, code, text));
        };
        let batch = bytes.get(..length).unwrap_or_default().to_vec();
        match (end, batch.first()) {
            (BatchEnd::Simple, Some(&tag::QUERY)) => {
                if self.drop_portal(b"").await? == Stepped::Failed {
                    // The client was told.
                    self.inbound.skip_bytes(length);
                    self.stream.write(&ready_for_query(self.status()));
                    return Ok(());
                }
                let written = batch.get(HEADER_BYTES..length - 1).unwrap_or_default();
                let replaced = match self.rewritten(written, Parameters::default()) {
                    Ok(replaced) => replaced,
                    Err(error) => return self.answer(&error),
                };
                let text = replaced.as_deref().unwrap_or(written);
                let steps = match self.plans_of(text).await? {
                    Ok(steps) => steps,
                    Err(error) => {
                        self.abandon_batch().await?;
                        // Of more than its syntax nobody asks in a failed transaction.
                        let failed = self.check_not_failed(text).err();
                        let failed = failed.filter(|_| error.code != SqlState::SYNTAX_ERROR);
                        return self.answer(&failed.unwrap_or(error));
                    }
                };
                let verdicts = steps.iter();
                let verdicts = verdicts.map(|step| (&step.verdict, step.sets()));
                let alone = match replaced {
                    None if steps
                        .iter()
                        .all(|step| self.check_cursors(&step.effects).is_ok()) =>
                    {
                        self.one_server_for(verdicts)
                    }
                    _ => None,
                };
                match alone {
                    Some((shard, want)) => {
                        let does = steps
                            .iter()
                            .map(|step| step.does)
                            .fold(Does::default(), Does::and);
                        let effects: Vec<_> = steps.into_iter().map(|step| step.effects).collect();
                        self.relay_to(shard, want, does).await?;
                        for effects in &effects {
                            self.note_cursors(effects, shard);
                            self.remember_settings(effects);
                        }
                        Ok(())
                    }
                    None => {
                        self.check_queries(&batch)?;
                        self.inbound.skip_bytes(length);
                        Box::pin(self.run_query(&steps, written)).await
                    }
                }
            }
            (BatchEnd::Simple, _) => {
                let text = "function call protocol is not supported";
                let code = SqlState::FEATURE_NOT_SUPPORTED;
                self.answer(&Error::error(Fault::Client, code, text))
            }
            (end, _) => {
                let found = loop {
                    let found = self.one_server_for_batch(&batch, end);
                    if !self.must_look_up() {
                        break found;
                    }
                    if let Err(error) = Box::pin(self.look_up()).await? {
                        break Err(error);
                    }
                };
                match found {
                    Ok(Some(relayed)) => {
                        self.relay_to(relayed.shard, relayed.want, relayed.does)
                            .await?;
                        self.note_afar(&batch, &relayed);
                        for effects in &relayed.effects {
                            self.remember_settings(effects);
                        }
                        Ok(())
                    }
                    Err(error) if !self.sharded().transaction.is_failed() => self.answer(&error),
                    // In a failed transaction each message is answered by itself.
                    Ok(None) | Err(_) => {
                        self.check_queries(&batch)?;
                        self.inbound.skip_bytes(length);
                        Box::pin(self.run_batch(&batch, end)).await
                    }
                }
            }
        }
    }

    /// The statements of a Query's text, and what is done for each, when all is known that it takes to say that.
    async fn plans_of<'t>(
        &mut self,
        text: &'t [u8],
    ) -> Result<Result<Vec<Planned<'t>>, Error>, End> {
        loop {
            let planned = self.statements_of(text, None, &[]);
            if !self.must_look_up() {
                return Ok(planned);
            }
            if let Err(error) = Box::pin(self.look_up()).await? {
                return Ok(Err(error));
            }
        }
    }

    /// `query_size_limit` of what is run here; the relay sees to what it passes.
    fn check_queries(&self, batch: &[u8]) -> Result<(), End> {
        let mut queries =
            messages(batch).filter(|(header, _)| matches!(header.tag, tag::QUERY | tag::PARSE));
        queries.try_for_each(|(header, _)| self.check_query_bytes(header, true))
    }

    /// Has the open transaction reached a server?
    fn is_bound(&self) -> bool {
        let sharded = self.sharded.as_deref();
        sharded.is_some_and(|sharded| sharded.transaction.is_open() && !sharded.legs.is_empty())
    }

    /// Is it in the hands of this session what is configured? Not while it has servers, or a transaction.
    pub(super) fn may_adopt(&self) -> bool {
        let sharded = self.sharded.as_deref();
        sharded.is_none_or(|sharded| sharded.legs.is_empty() && !sharded.transaction.is_open())
    }

    fn sharded(&mut self) -> &mut Sharded {
        self.sharded.get_or_insert_default()
    }

    /// Passes the request on to one shard, and its answer back.
    async fn relay_to(&mut self, shard: usize, want: Want, does: Does) -> Result<(), End> {
        // Nobody else has parsed another statement on it meanwhile.
        let same = self.sharded().parsed_on == Some(shard);
        let unnamed = self.unnamed;
        let mut leg = match self.take_leg(shard, want).await? {
            Ok(leg) => leg,
            Err(error) => return self.answer(&error),
        };
        if same {
            self.unnamed = unnamed;
        }
        self.sharded().parsed_on = Some(shard);
        leg.does = leg.does.and(does);
        if does.changes {
            self.counts_on(&leg.held);
        }
        self.aim(std::slice::from_ref(&leg));
        let relay = Relay::new(self, &mut leg.held, Extent::Request).keeping(leg.kept);
        let relayed = relay.run().await;
        if let Err(end) = relayed {
            return match end {
                End::Recovered => {
                    drop(leg);
                    self.let_go();
                    Ok(())
                }
                end => Err(end),
            };
        }
        match leg.held.exchange.status() {
            TransactionStatus::Idle => {
                self.sharded().end_transaction(false);
                if self.tracker.is_none() {
                    let mut store = self.state.settings.borrow_mut();
                    self.settings.ready(b'I', &mut store);
                }
                return self.part(leg).await;
            }
            status => {
                let transaction = &mut self.sharded().transaction;
                if !transaction.is_open() {
                    transaction.begin(steps::BEGIN, Modes::default());
                }
                if status == TransactionStatus::Failed {
                    transaction.fail();
                }
            }
        }
        self.keep(leg);
        Ok(())
    }

    /// After the end of a transaction on one server: does the client keep it?
    async fn part(&mut self, mut leg: Leg) -> Result<(), End> {
        let settled = self.settle(&mut leg.held).await;
        if let Ok(true) = settled {
            leg.kept = true;
            self.keep(leg);
        } else if leg.scrub {
            self.let_go();
            self.release(leg.held, true);
        } else {
            self.give_back(leg.held);
        }
        settled.map(drop)
    }

    /// The servers of these shards, in their order, so that two clients never wait for each other here. `None`: one could not
    /// be had, and the client was told.
    async fn take_legs(&mut self, shards: &[usize], want: Want) -> Result<Option<Vec<Leg>>, End> {
        let mut legs = Vec::with_capacity(shards.len());
        for &shard in shards {
            match self.take_leg(shard, want).await? {
                Ok(leg) => legs.push(leg),
                Err(error) => {
                    self.tell(&error);
                    self.end_step(legs, &Effects::default(), None);
                    return Ok(None);
                }
            }
        }
        Ok(Some(legs))
    }

    /// How the client is to see the types of a shard, if otherwise than that shard numbers them.
    fn types_of(&self, shard: usize) -> Result<Option<Rc<Canonical>>, Error> {
        if self.cluster.shards() == 1 || !self.state.config().routing.canonical_types {
            return Ok(None);
        }
        let facts = self.cluster.known();
        match facts.types_of(shard) {
            Some(types) => Ok(Some(types).filter(|types| !types.is_empty())),
            None => Err(facts.not_known(&format!("how shard {shard} numbers its types"))),
        }
    }

    /// Has it servers that others cannot have?
    pub(in super::super) fn holds_servers(&self) -> bool {
        let sharded = self.sharded.as_deref();
        sharded.is_some_and(|sharded| !sharded.legs.is_empty())
    }

    /// The server of a shard: one that the session has, or one that joins. An error is for the client, who has not heard
    /// of it. What it is taken for may replace the unnamed statement that it has.
    async fn take_leg(&mut self, shard: usize, want: Want) -> Result<Result<Leg, Error>, End> {
        self.unnamed = Unnamed::None;
        self.sharded().parsed_on = None;
        let legs = &mut self.sharded().legs;
        let kept = legs.iter().position(|leg| leg.shard == shard);
        let joined = |at: &usize| legs[*at].held.exchange.status() != TransactionStatus::Idle;
        if let Some(at) = kept.filter(joined) {
            return Ok(Ok(legs.remove(at)));
        }
        if !self.sharded().transaction.is_told() {
            return Ok(Err(refused(SET_BY_FUNCTION)));
        }
        let types = match self.types_of(shard) {
            Ok(types) => types,
            Err(error) => return Ok(Err(error)),
        };
        let mut leg = match kept.map(|at| self.sharded().legs.remove(at)) {
            Some(leg) if news::is_superseded(&self.state, leg.held.pool(), leg.held.epoch) => {
                return Err(self.lost_kept());
            }
            // Kept since an earlier transaction: it joins like any other.
            Some(leg) => Leg {
                does: Does::default(),
                ..leg
            },
            None => match self.new_leg(shard, want).await? {
                Ok(leg) => leg,
                Err(error) => return Ok(Err(error)),
            },
        };
        leg.held.types = types;
        // A read that is asked of a replica by a hint may be anything.
        if want != Want::Read || self.sharded().transaction.is_open() {
            self.note_writes(&mut leg.held, shard, want);
        }
        match self.join(&mut leg).await {
            Ok(()) => Ok(Ok(leg)),
            Err(RunError::Server(body)) => {
                self.release(leg.held, true);
                Ok(Err(of_server(&body)))
            }
            Err(RunError::Lost(lost)) => Err(End::Fatal(Error {
                survives: Survives::Nothing,
                ..lost_error(&lost)
            })),
        }
    }

    /// What a query, and not SET, has set in the open transaction: servers that join later are told, if they can be.
    fn remember_settings(&mut self, effects: &Effects) {
        let transaction = &mut self.sharded().transaction;
        if !transaction.is_open() || transaction.is_failed() {
            return;
        }
        let (mut told, mut secret) = (false, false);
        for step in effects.steps() {
            match &step.effect {
                Effect::Setting(change) => match transaction.remember(&change.statement()) {
                    Ok(()) => told = true,
                    Err(TooLong) => secret = true,
                },
                Effect::SetConfig(_) | Effect::SettingsUnknown => secret = true,
                _ => {}
            }
        }
        // A call that is a part of something sets what only its server knows.
        if secret || effects.traits.has(Traits::SET_CONFIG) && !told {
            transaction.keep_secret();
        }
    }

    /// A server of this shard that the session has not had.
    async fn new_leg(&mut self, shard: usize, want: Want) -> Result<Result<Leg, Error>, End> {
        let before = Rc::clone(&self.cluster);
        let aim = Aim {
            shard,
            want,
            writes: false, // noted by who has the leg
        };
        let obtained = self.obtain(aim, Way::First, None).await?;
        if !before.is_spread_as(&self.cluster) {
            // The shard was chosen by a configuration that is no longer in force.
            if let Ok(held) = obtained {
                self.release(held, false);
            }
            let text = "the shards were reconfigured meanwhile, try again";
            let code = SqlState::CANNOT_CONNECT_NOW;
            return Ok(Err(Error::error(Fault::Proxy, code, text)));
        }
        Ok(obtained.map(|held| Leg::new(shard, held)))
    }

    /// Tells a server what the transaction consists of so far.
    async fn join(&mut self, leg: &mut Leg) -> Result<(), RunError> {
        let Some(sharded) = &self.sharded else {
            return Ok(());
        };
        let prologue: Vec<_> = sharded.transaction.prologue().collect();
        if prologue.is_empty() {
            return Ok(());
        }
        let text = prologue.join(&b";\n"[..]);
        let mut replies = Collector::default();
        let answered = leg.held.run_into(&text, &mut replies).await;
        let notifications = replies.messages(&[backend::NOTIFICATION_RESPONSE]);
        self.stream.send_vec(notifications);
        answered.and_then(|()| replies.outcome())
    }

    fn keep(&mut self, leg: Leg) {
        leg.held.rest();
        let legs = &mut self.sharded().legs;
        let at = legs.partition_point(|other| other.shard < leg.shard);
        legs.insert(at, leg);
        self.aim(&[]);
    }

    /// Cancel requests go to the servers that the session has: these, and those it keeps.
    fn aim(&self, also: &[Leg]) {
        let kept = self.sharded.iter().flat_map(|sharded| &sharded.legs);
        let all = kept.chain(also);
        let targets: Vec<_> = all.map(|leg| Rc::clone(&leg.held.target)).collect();
        *self.link.targets.borrow_mut() = targets.into();
    }

    /// Gives all servers back, with whatever they were at.
    pub(super) fn leave_shards(&mut self) {
        let Some(sharded) = &mut self.sharded else {
            return;
        };
        let legs = std::mem::take(&mut sharded.legs);
        sharded.end_transaction(false);
        sharded.ours = false;
        sharded.put_back = false;
        let scrub = self.manner.mode == PoolerMode::Session || self.tracker.is_some();
        let ties = self.let_go();
        if self.inbound.is_amid_message() || ties.spoilt() {
            return; // dropped, and so closed
        }
        for leg in legs {
            self.release(leg.held, scrub || ties.scrub() || leg.scrub);
        }
    }

    /// Tells the client of an error amid its request; a transaction fails with it.
    pub(super) fn tell(&mut self, error: &Error) {
        self.count_error(error);
        if let Some(sharded) = &mut self.sharded {
            sharded.transaction.fail();
        }
        let mut message = Vec::new();
        put_error(&mut message, error);
        self.stream.send_vec(message);
    }

    /// Is the request in front there as a whole, or as much of it as is waited for?
    pub(super) fn is_batch_whole(&mut self) -> Result<bool, End> {
        let seen = self.inbound.scanned();
        match extent_from(seen, self.inbound.bytes(), CLIENT_BODY_BYTES_MAX) {
            Ok(BatchExtent::Whole { .. }) => Ok(true),
            Ok(BatchExtent::Partial { at, .. }) => {
                self.inbound.note_scanned(at);
                let bytes_max = if self.defers_transactions() {
                    CLIENT_BODY_BYTES_MAX + HEADER_BYTES
                } else {
                    WRITE_BYTES_MIN
                };
                Ok(self.inbound.len() >= bytes_max)
            }
            Err(error) => Err(End::Fatal(error.into())),
        }
    }
}

/// A server's error about what it was told before the client's own statement.
fn of_server(body: &[u8]) -> Error {
    let lost = "server connection lost";
    let Ok(fields) = Fields::parse(body) else {
        return Error::error(Fault::Server, SqlState::CONNECTION_FAILURE, lost);
    };
    let code = fields.code().unwrap_or(SqlState::INTERNAL_ERROR);
    let message = String::from_utf8_lossy(fields.message()).into_owned();
    Error::error(Fault::Server, code, message)
}
