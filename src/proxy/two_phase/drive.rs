//! One transaction, from the client's COMMIT to the last shard that can be told.

use std::collections::VecDeque;
use std::future::{poll_fn, Future};
use std::pin::{pin, Pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_channel::oneshot;

use crate::metrics::Timed;
use crate::protocol::backend::tag;
use crate::routing::two_phase::gid::TransactionId;
use crate::routing::two_phase::log::{Participant, Pending, Record};
use crate::routing::two_phase::{Action, Entry, Event, Outcome, Statement, TwoPhase};
use crate::sharding::Shards;
use crate::snapshot::Names;

use super::super::cluster::Cluster;
use super::super::core_state::CoreState;
use super::super::link::Link;
use super::super::news;
use super::super::pools::{Held, PoolSlot};
use super::super::server::{cancel, Collector, Lost, RunError, Target};
use super::finish::{self, Part, Unfinished};
use super::heard::Heard;
use super::Running;

/// Pause before a record that could not be written is tried again.
const LOG_PAUSE: Duration = Duration::from_millis(100);
/// A server that prepares is asked to stop so often, since the request may come before what it is about, and given up then.
const STOPS: u32 = 10;
/// Between two of those.
const STOP_PAUSE: Duration = Duration::from_secs(1);

/// What servers say beside their answers.
const ASIDES: [u8; 3] = [
    tag::NOTICE_RESPONSE,
    tag::PARAMETER_STATUS,
    tag::NOTIFICATION_RESPONSE,
];

/// How it went, for the session.
pub(crate) struct Conclusion {
    pub(crate) outcome: Outcome,
    /// The servers that are still of use, with their shards.
    pub(crate) legs: Vec<(u32, Held)>,
    /// Body of the ErrorResponse of the first server that could not prepare.
    pub(crate) refusal: Option<Vec<u8>>,
    /// What the servers have said beside their answers, and the client is to hear: whole messages.
    pub(crate) heard: Vec<u8>,
}

/// A commit, as its session sees it.
pub(crate) struct Underway {
    pub(crate) conclusion: oneshot::Receiver<Conclusion>,
    /// When this is used or dropped the servers that are still preparing are asked to stop: with an error of one of them all
    /// is undone. Once all have prepared it means nothing.
    pub(crate) stop: oneshot::Sender<()>,
}

/// Commits a transaction of `cluster` that is open on these servers, at least two, and rests there. While they prepare they are
/// what cancel requests of `client` are for.
///
/// Shards are named by their place, which is their number: the configuration has no gaps.
pub(crate) fn commit(
    state: &Rc<CoreState>,
    cluster: &Cluster,
    client: Rc<Link>,
    legs: Vec<(u32, Held)>,
) -> Underway {
    let (reply, conclusion) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let participants = legs
        .iter()
        .map(|(shard, held)| participant(cluster, *shard, held));
    let drive = Drive {
        state: Rc::clone(state),
        id: state.commits.next_id(state.core.index()),
        names: Arc::clone(&cluster.names),
        participants: participants.collect(),
        legs,
        client: Some(client),
        stopped: Some(stopped),
        reply: Some(reply),
        refusal: None,
        heard: Heard::default(),
        to_log: None,
        waiting: VecDeque::new(),
        parts: Vec::new(),
    };
    state.core.spawn(Box::pin(drive.run()));
    Underway { conclusion, stop }
}

/// A shard by the addresses of its servers, first the one that prepares.
fn participant(cluster: &Cluster, shard: u32, held: &Held) -> Participant {
    let place = usize::try_from(shard).ok();
    let shard_of = place.and_then(|place| cluster.shard(place));
    let slots = shard_of.map_or(&[][..], |shard| shard.servers());
    let mut slots: Vec<_> = slots.iter().collect();
    slots.sort_by_key(|slot| slot.id != held.pool());
    let address = |slot: &Rc<PoolSlot>| slot.config().address.clone();
    Participant {
        shard,
        servers: slots.into_iter().map(address).collect(),
    }
}

struct Drive {
    state: Rc<CoreState>,
    id: TransactionId,
    names: Arc<Names>,
    participants: Vec<Participant>,
    /// Those that are not lost.
    legs: Vec<(u32, Held)>,
    /// Until it is told.
    client: Option<Rc<Link>>,
    /// Until the servers are asked to stop.
    stopped: Option<oneshot::Receiver<()>>,
    reply: Option<oneshot::Sender<Conclusion>>,
    refusal: Option<Vec<u8>>,
    heard: Heard,
    /// The record that is to be on disk before anything else is done.
    to_log: Option<Entry>,
    /// Shards that have been sent something.
    waiting: VecDeque<(u32, Statement)>,
    /// What has to be done on other connections.
    parts: Vec<Part>,
}

/// How far it is, as the operator sees it, and how long the phases take. No longer listed when this is gone.
struct Stage {
    state: Rc<CoreState>,
    id: TransactionId,
    names: Arc<Names>,
    now: &'static str,
    since: Instant,
}

impl Stage {
    fn begin(
        state: &Rc<CoreState>,
        id: TransactionId,
        names: &Arc<Names>,
        client: Option<i32>,
        now: &'static str,
    ) -> Self {
        let entry = Running {
            names: Arc::clone(names),
            stage: now,
            client,
        };
        state.commits.running.borrow_mut().insert(id, entry);
        Self {
            state: Rc::clone(state),
            id,
            names: Arc::clone(names),
            now,
            since: state.core.now(),
        }
    }

    fn on(&mut self, now: &'static str) {
        if now == self.now {
            return;
        }
        let phase = match self.now {
            "preparing" => "prepare",
            _ => "commit",
        };
        let at = self.state.core.now();
        let whose = vec![
            ("database", self.names.database.clone()),
            ("phase", phase.to_owned()),
        ];
        let took = at.saturating_duration_since(self.since);
        self.state.tally.timed(Timed::TwoPhase, whose, took);
        (self.now, self.since) = (now, at);
        let mut running = self.state.commits.running.borrow_mut();
        if let Some(running) = running.get_mut(&self.id) {
            running.stage = now;
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.state.commits.running.borrow_mut().remove(&self.id);
    }
}

impl Drive {
    async fn run(mut self) {
        let participants: Shards = self.legs.iter().map(|(shard, _)| *shard).collect();
        let mut actions = Vec::new();
        let mut machine = TwoPhase::begin(self.id, participants, &mut actions);
        let client = self.client.as_ref().map(|link| link.key.process_id());
        let mut stage = Stage::begin(&self.state, self.id, &self.names, client, machine.stage());
        loop {
            for action in actions.drain(..) {
                self.carry_out(action).await;
            }
            self.aim();
            let event = if let Some(entry) = self.to_log.take() {
                match self.superseded().filter(|_| entry == Entry::Commit) {
                    Some(shard) => {
                        self.give_up(shard);
                        Event::Superseded(shard)
                    }
                    None => self.log(entry).await,
                }
            } else if let Some((shard, statement)) = self.waiting.pop_front() {
                self.answer_of(shard, statement).await
            } else {
                break;
            };
            machine.on(event, &mut actions);
            stage.on(machine.stage());
        }
        debug_assert!(machine.is_done() || !self.parts.is_empty());
        let commits = &self.state.commits;
        let unfinished = Unfinished {
            id: self.id,
            owner: commits.owner.clone(),
            names: self.names,
            parts: self.parts,
        };
        finish::add(&self.state, unfinished);
    }

    async fn carry_out(&mut self, action: Action) {
        match action {
            Action::Log(entry) => self.to_log = Some(entry),
            // Written when it is handed over to be finished, which then is soon.
            Action::Note(_) => {}
            Action::Send(shard, statement) => {
                let gid = self.state.commits.owner.gid(self.id, shard);
                if statement.is_last() && self.is_superseded(shard) {
                    // The one that is its primary now has to hear of it.
                    self.give_up(shard);
                }
                if let Some(held) = self.leg(shard) {
                    // Only PREPARE TRANSACTION is what cancel requests are for.
                    held.target.settled().await;
                    held.ask(&statement.sql(&gid));
                }
                self.waiting.push_back((shard, statement));
            }
            Action::Recover(shard, resolution) => {
                let mut participants = self.participants.iter();
                if let Some(at) = participants.find(|at| at.shard == shard) {
                    self.parts.push(Part::new(at.clone(), resolution));
                }
            }
            Action::Answer(outcome) => self.conclude(outcome),
        }
    }

    fn leg(&mut self, shard: u32) -> Option<&mut Held> {
        let mut legs = self.legs.iter_mut();
        legs.find(|(of, _)| *of == shard).map(|(_, held)| held)
    }

    /// Cancel requests of the client go to the servers that are preparing, and to no others.
    fn aim(&self) {
        let Some(client) = &self.client else { return };
        let preparing = self.preparing().collect::<Vec<_>>();
        *client.targets.borrow_mut() = preparing.into();
    }

    /// The servers that have been told to prepare, and not been heard.
    fn preparing(&self) -> impl Iterator<Item = Rc<Target>> + '_ {
        let waiting = self.waiting.iter();
        let preparing = waiting.filter(|(_, statement)| *statement == Statement::Prepare);
        preparing.filter_map(|(shard, _)| {
            let mut legs = self.legs.iter();
            let (_, held) = legs.find(|(of, _)| of == shard)?;
            Some(Rc::clone(&held.target))
        })
    }

    /// What a shard answers that prepares, or is asked to stop in the end.
    async fn prepared(&mut self, shard: u32, replies: &mut Collector) -> Result<(), RunError> {
        let mut targets: Vec<_> = self.preparing().collect();
        let mut legs = self.legs.iter_mut();
        let Some((_, held)) = legs.find(|(of, _)| *of == shard) else {
            return Err(RunError::Lost(Lost::Closed(None)));
        };
        targets.push(Rc::clone(&held.target));
        let mut answer = pin!(held.answer_into(replies));
        if let Some(stopped) = &mut self.stopped {
            let answered = poll_fn(|cx| match answer.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                // By the session, or with it.
                Poll::Pending => Pin::new(&mut *stopped).poll(cx).map(|_| None),
            });
            if let Some(answer) = answered.await {
                return answer;
            }
            self.stopped = None;
        }
        for _ in 0..STOPS {
            for target in targets.iter().filter(|target| target.is_settled()) {
                cancel::begin(&self.state, target);
            }
            let next = self.state.core.now() + STOP_PAUSE;
            let answer = self.state.core.timeout_at(Some(next), answer.as_mut());
            if let Some(answer) = answer.await {
                return answer;
            }
        }
        Err(RunError::Lost(Lost::Hung))
    }

    /// Closes a connection, unless it is gone already.
    fn give_up(&mut self, shard: u32) {
        self.legs.retain(|(of, _)| *of != shard);
    }

    async fn log(&mut self, entry: Entry) -> Event {
        let Some(log) = &self.state.commits.log else {
            return Event::Logged;
        };
        let record = match entry {
            Entry::Begin => Record::Begin(
                self.id,
                Pending {
                    owner: self.state.commits.owner.clone(),
                    database: self.names.database.clone(),
                    user: self.names.user.clone(),
                    participants: self.participants.clone(),
                    committed: false,
                },
            ),
            Entry::Commit => Record::Commit(self.id),
            Entry::Done => Record::Done(self.id),
        };
        let written = self.state.core.foreign(log.write(record)).await;
        if let Ok(Ok(())) = written {
            return Event::Logged;
        }
        tracing::error!("a two-phase commit cannot be logged");
        self.state.core.sleep(LOG_PAUSE).await;
        Event::LogFailed
    }

    /// What a shard answers to what it was sent.
    async fn answer_of(&mut self, shard: u32, statement: Statement) -> Event {
        let (state, id) = (Rc::clone(&self.state), self.id);
        let Some(held) = self.leg(shard) else {
            return Event::Lost(shard);
        };
        let expected: &[u8] = match statement {
            Statement::Prepare => b"PREPARE TRANSACTION",
            Statement::CommitPrepared => b"COMMIT PREPARED",
            Statement::RollbackPrepared => b"ROLLBACK PREPARED",
            Statement::Rollback => b"ROLLBACK",
        };
        let mut replies = Collector::default();
        let answered = match statement {
            Statement::Prepare => {
                let answered = self.prepared(shard, &mut replies).await;
                self.aim();
                answered
            }
            _ => held.answer_into(&mut replies).await,
        };
        let asides = replies.messages(&ASIDES);
        let answer = match answered.and_then(|()| replies.outcome()) {
            Err(RunError::Server(body)) if statement.is_last() && finish::is_anothers(&body) => {
                let gid = state.commits.owner.gid(id, shard);
                match self.leg(shard) {
                    Some(held) => finish::as_owner(held, statement, &gid).await,
                    None => Err(RunError::Lost(Lost::Closed(None))),
                }
            }
            answer => answer.map(|()| replies),
        };
        self.heard.take(shard, &asides);
        let failure = match answer {
            Ok(replies) if replies.tag() == Some(expected) => {
                if statement != Statement::Rollback && self.is_superseded(shard) {
                    // It is prepared where nobody would ever commit it, or finished where nobody looks.
                    self.give_up(shard);
                    return Event::Lost(shard);
                }
                return Event::Succeeded(shard);
            }
            // A transaction that had failed on the server is rolled back by PREPARE TRANSACTION.
            Ok(_) => None,
            Err(RunError::Server(body)) => Some(body),
            Err(RunError::Lost(_)) => {
                self.give_up(shard);
                return Event::Lost(shard);
            }
        };
        match statement {
            Statement::Prepare => self.refusal = self.refusal.take().or(failure),
            // In a state that nobody knows.
            Statement::Rollback => self.give_up(shard),
            Statement::CommitPrepared | Statement::RollbackPrepared => {}
        }
        Event::Failed(shard)
    }

    /// A shard whose server is known to be its primary no more, if it is not too late to roll back.
    fn superseded(&self) -> Option<u32> {
        self.reply.as_ref()?;
        let mut shards = self.legs.iter().map(|(shard, _)| *shard);
        shards.find(|shard| self.is_superseded(*shard))
    }

    /// Is the server of a shard known to be its primary no more?
    fn is_superseded(&self, shard: u32) -> bool {
        let mut legs = self.legs.iter().filter(|(of, _)| *of == shard);
        legs.any(|(_, held)| news::is_superseded(&self.state, held.pool(), held.epoch))
    }

    fn conclude(&mut self, outcome: Outcome) {
        self.client = None;
        if let Some(running) = self.state.commits.running.borrow_mut().get_mut(&self.id) {
            running.client = None;
        }
        let legs = match outcome {
            // They are still needed.
            Outcome::InDoubt => Vec::new(),
            _ => std::mem::take(&mut self.legs),
        };
        let conclusion = Conclusion {
            outcome,
            legs,
            refusal: self.refusal.take(),
            heard: std::mem::take(&mut self.heard).into_messages(),
        };
        // If the session is gone its servers are closed.
        let _ = self.reply.take().map(|reply| reply.send(conclusion));
    }
}
