//! One transaction, from the client's COMMIT to the last shard that can be told.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_channel::oneshot;

use crate::metrics::Timed;
use crate::routing::two_phase::gid::TransactionId;
use crate::routing::two_phase::log::{Pending, Record};
use crate::routing::two_phase::{Action, Entry, Event, Outcome, Statement, TwoPhase};
use crate::sharding::Shards;
use crate::snapshot::Names;

use super::super::core_state::CoreState;
use super::super::pools::Held;
use super::super::server::RunError;
use super::finish::{self, Part, Unfinished};

/// Pause before a record that could not be written is tried again.
const LOG_PAUSE: Duration = Duration::from_millis(100);

/// How it went, for the session.
pub(crate) struct Conclusion {
    pub(crate) outcome: Outcome,
    /// The servers that are still of use, with their shards.
    pub(crate) legs: Vec<(u32, Held)>,
    /// Body of the ErrorResponse of the first server that could not prepare.
    pub(crate) refusal: Option<Vec<u8>>,
}

/// Commits a transaction that is open on these servers, at least two, and rests there. It goes on without the receiver.
///
/// Shards are named by their place, which is their number: the configuration has no gaps.
pub(crate) fn commit(
    state: &Rc<CoreState>,
    names: &Arc<Names>,
    legs: Vec<(u32, Held)>,
) -> oneshot::Receiver<Conclusion> {
    let (reply, conclusion) = oneshot::channel();
    let drive = Drive {
        state: Rc::clone(state),
        id: state.commits.next_id(state.core.index()),
        names: Arc::clone(names),
        legs,
        reply: Some(reply),
        refusal: None,
        to_log: None,
        waiting: VecDeque::new(),
        parts: Vec::new(),
    };
    state.core.spawn(Box::pin(drive.run()));
    conclusion
}

struct Drive {
    state: Rc<CoreState>,
    id: TransactionId,
    names: Arc<Names>,
    /// Those that are not lost.
    legs: Vec<(u32, Held)>,
    reply: Option<oneshot::Sender<Conclusion>>,
    refusal: Option<Vec<u8>>,
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
        now: &'static str,
    ) -> Self {
        let entry = (Arc::clone(names), now);
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
        if let Some((_, stage)) = running.get_mut(&self.id) {
            *stage = now;
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
        let mut stage = Stage::begin(&self.state, self.id, &self.names, machine.stage());
        loop {
            for action in actions.drain(..) {
                self.carry_out(action);
            }
            let event = if let Some(entry) = self.to_log.take() {
                self.log(entry, participants).await
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

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Log(entry) => self.to_log = Some(entry),
            // Written when it is handed over to be finished, which then is soon.
            Action::Note(_) => {}
            Action::Send(shard, statement) => {
                let gid = self.state.commits.owner.gid(self.id, shard);
                if let Some(held) = self.leg(shard) {
                    held.ask(&statement.sql(&gid));
                }
                self.waiting.push_back((shard, statement));
            }
            Action::Recover(shard, resolution) => self.parts.push(Part::new(shard, resolution)),
            Action::Answer(outcome) => self.conclude(outcome),
        }
    }

    fn leg(&mut self, shard: u32) -> Option<&mut Held> {
        let mut legs = self.legs.iter_mut();
        legs.find(|(of, _)| *of == shard).map(|(_, held)| held)
    }

    /// Closes a connection, unless it is gone already.
    fn give_up(&mut self, shard: u32) {
        self.legs.retain(|(of, _)| *of != shard);
    }

    async fn log(&mut self, entry: Entry, participants: Shards) -> Event {
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
                    participants,
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
        let finishes = matches!(
            statement,
            Statement::CommitPrepared | Statement::RollbackPrepared
        );
        let answer = match held.answer().await {
            Err(RunError::Server(body)) if finishes && finish::is_anothers(&body) => {
                finish::as_owner(held, statement, &state.commits.owner.gid(id, shard)).await
            }
            answer => answer,
        };
        let failure = match answer {
            Ok(replies) if replies.tag() == Some(expected) => {
                if statement == Statement::Prepare && self.is_superseded(shard) {
                    // It is prepared where nobody would ever commit it.
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

    /// Is the server of a shard known to be its primary no more?
    fn is_superseded(&mut self, shard: u32) -> bool {
        let Some((pool, epoch)) = self.leg(shard).map(|held| (held.pool(), held.epoch)) else {
            return false;
        };
        let pools = self.state.pools();
        let Some(place) = pools.place(pool) else {
            return false;
        };
        let balance = place.shard().balance().borrow();
        let now = self.state.core.now();
        balance.roles().is_superseded(place.server, epoch, now)
    }

    fn conclude(&mut self, outcome: Outcome) {
        let legs = match outcome {
            // They are still needed.
            Outcome::InDoubt => Vec::new(),
            _ => std::mem::take(&mut self.legs),
        };
        let conclusion = Conclusion {
            outcome,
            legs,
            refusal: self.refusal.take(),
        };
        // If the session is gone its servers are closed.
        let _ = self.reply.take().map(|reply| reply.send(conclusion));
    }
}
