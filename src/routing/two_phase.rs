//! Two-phase commit over the shards of one transaction: what to send, to log, and to tell the client, event by event.
//!
//! ```text
//!            Begin logged            all prepared        Commit logged           all finished
//! Announcing ───────────► Preparing ──────────► Deciding ────────────► Committing ──────────► Done
//!      │ log fails            │ one fails or is lost  │ one is superseded  one fails or is lost: it is
//!      └──────────────────────┴───────────────────────┴► RollingBack ──► Done  finished in the background
//! ```
//!
//! The decision is the Commit record: without it all is rolled back, by this process or by the one that recovers its log
//! (`log.rs`); with it, commits are tried until they are done. A transaction of fewer than two shards needs none of this
//! ([`is_needed`]). Without a log, [`TwoPhase`] is told at once that its records are logged, and a crash leaves prepared
//! transactions to the operator.

pub mod gid;
pub mod log;
pub mod orphans;

use crate::sharding::Shards;

use gid::TransactionId;

/// Is two-phase commit needed for a transaction that has reached these shards? One of a single shard, or of none,
/// commits as it is.
pub fn is_needed(participants: Shards) -> bool {
    participants.len() > 1
}

/// One transaction on its way to being committed everywhere or nowhere.
#[derive(Clone, Debug)]
pub struct TwoPhase {
    id: TransactionId,
    legs: Vec<Leg>,
    state: State,
    /// Why it is rolled back.
    cause: Option<Cause>,
    answered: bool,
}

/// One shard's part.
#[derive(Clone, Copy, Debug)]
struct Leg {
    shard: u32,
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// In the transaction, as the client left it.
    Open,
    /// Waiting for the answer to this.
    Sent(Statement),
    /// Prepared.
    Prepared,
    /// Prepared, and its connection is gone.
    Detached,
    /// Being finished on other connections.
    Recovering,
    /// Neither in the transaction nor prepared.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Until the Begin record is on disk.
    Announcing,
    Preparing,
    /// Until the Commit record is on disk.
    Deciding,
    Committing,
    RollingBack,
    Done,
}

/// What is sent to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `PREPARE TRANSACTION`.
    Prepare,
    /// `COMMIT PREPARED`.
    CommitPrepared,
    /// `ROLLBACK PREPARED`.
    RollbackPrepared,
    /// `ROLLBACK` of a transaction that was never prepared.
    Rollback,
}

/// How a prepared transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// `COMMIT PREPARED`.
    Commit,
    /// `ROLLBACK PREPARED`.
    Rollback,
}

/// Why a transaction was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// This shard answered with an error: the client gets it.
    Refused(u32),
    /// The connection to this shard was lost before it had prepared.
    Lost(u32),
    /// The log could not be written.
    Log,
}

/// What the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed everywhere.
    Committed,
    /// It is decided, but not done everywhere: 08007, "commit will be completed in background, some shards may lag".
    Completing,
    /// It is not known to be decided, because the log cannot be written; it will be committed once it can: 08007.
    InDoubt,
    /// Rolled back everywhere, or about to be.
    RolledBack(Cause),
}

/// Records of the log, see [`log::Record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// These shards are about to prepare.
    Begin,
    /// All have: it is committed.
    Commit,
    /// Nothing of it is left.
    Done,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The record of the last [`Action::Log`] is on disk.
    Logged,
    /// It may or may not be.
    LogFailed,
    /// A shard did what it was sent.
    Succeeded(u32),
    /// It answered with an error.
    Failed(u32),
    /// The connection was lost, whatever it was doing.
    Lost(u32),
    /// The server of a shard that has prepared is not its primary any more, and the one that is may know nothing of it. It is
    /// undone, unless it may be decided already.
    Superseded(u32),
    /// What [`Action::Recover`] asked for is done.
    Recovered(u32),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write this record, and tell when it is on disk. After a failure the same record may come again: pause then.
    Log(Entry),
    /// Write this record some time.
    Note(Entry),
    /// Send this on the connection of the shard's leg.
    Send(u32, Statement),
    /// Finish the shard's prepared transaction on other connections, for as long as it takes. "Does not exist" (42704)
    /// means done for a commit; for a rollback only once the backend that was preparing is gone, for it may still be at
    /// it.
    Recover(u32, Resolution),
    /// Tell the client.
    Answer(Outcome),
}

impl TwoPhase {
    /// The client said COMMIT: its transaction is open on these shards, at least two.
    pub fn begin(id: TransactionId, participants: Shards, actions: &mut Vec<Action>) -> Self {
        let open = |shard| Leg {
            shard,
            part: Part::Open,
        };
        actions.push(Action::Log(Entry::Begin));
        Self {
            id,
            legs: participants.iter().map(open).collect(),
            state: State::Announcing,
            cause: None,
            answered: false,
        }
    }

    /// Its name in the log and in GIDs.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// The shards that take part.
    pub fn participants(&self) -> Shards {
        self.legs.iter().map(|leg| leg.shard).collect()
    }

    /// How far it is, in words for the operator.
    pub fn stage(&self) -> &'static str {
        match self.state {
            State::Announcing | State::Preparing => "preparing",
            State::Deciding | State::Committing => "committing",
            State::RollingBack => "rolling back",
            State::Done => "done",
        }
    }

    /// Is nothing left to be done?
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes an event; what is to be done is added to `actions`. Events of shards that take no part, or that cannot
    /// happen in this state, change nothing.
    pub fn on(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Logged => self.logged(actions),
            Event::LogFailed => self.log_failed(actions),
            Event::Succeeded(shard) => self.with(shard, |this, leg| this.succeeded(leg, actions)),
            Event::Failed(shard) => self.with(shard, |this, leg| this.failed(leg, actions)),
            Event::Lost(shard) => self.with(shard, |this, leg| this.lost(leg, actions)),
            Event::Superseded(shard) => self.superseded(shard, actions),
            Event::Recovered(shard) => self.with(shard, |_, leg| {
                if leg.part == Part::Recovering {
                    leg.part = Part::Ended;
                }
            }),
        }
        self.advance(actions);
    }

    /// Changes one leg.
    fn with(&mut self, shard: u32, change: impl FnOnce(&mut Self, &mut Leg)) {
        let Some(at) = self.legs.iter().position(|leg| leg.shard == shard) else {
            return;
        };
        let Some(mut leg) = self.legs.get(at).copied() else {
            return;
        };
        change(self, &mut leg);
        if let Some(place) = self.legs.get_mut(at) {
            *place = leg;
        }
    }

    fn logged(&mut self, actions: &mut Vec<Action>) {
        match self.state {
            State::Announcing if self.cause.is_some() => self.roll_back(actions),
            State::Announcing => {
                self.state = State::Preparing;
                self.send_all(Part::Open, Statement::Prepare, actions);
            }
            State::Deciding => {
                self.state = State::Committing;
                self.send_all(Part::Prepared, Statement::CommitPrepared, actions);
                for leg in &mut self.legs {
                    if leg.part == Part::Detached {
                        leg.part = Part::Recovering;
                        actions.push(Action::Recover(leg.shard, Resolution::Commit));
                    }
                }
            }
            State::Preparing | State::Committing | State::RollingBack | State::Done => {}
        }
    }

    fn log_failed(&mut self, actions: &mut Vec<Action>) {
        match self.state {
            State::Announcing => {
                self.cause.get_or_insert(Cause::Log);
                self.roll_back(actions);
            }
            // Neither may be done: the record may be on disk, or not.
            State::Deciding => {
                self.answer(Outcome::InDoubt, actions);
                actions.push(Action::Log(Entry::Commit));
            }
            State::Preparing | State::Committing | State::RollingBack | State::Done => {}
        }
    }

    fn succeeded(&mut self, leg: &mut Leg, actions: &mut Vec<Action>) {
        leg.part = match leg.part {
            Part::Sent(Statement::Prepare) if self.state == State::RollingBack => {
                actions.push(Action::Send(leg.shard, Statement::RollbackPrepared));
                Part::Sent(Statement::RollbackPrepared)
            }
            Part::Sent(Statement::Prepare) => Part::Prepared,
            Part::Sent(_) => Part::Ended,
            part => part,
        };
    }

    fn failed(&mut self, leg: &mut Leg, actions: &mut Vec<Action>) {
        let resolution = match leg.part {
            // A transaction that cannot be prepared is rolled back.
            Part::Sent(Statement::Prepare) => {
                leg.part = Part::Ended;
                self.cause.get_or_insert(Cause::Refused(leg.shard));
                return;
            }
            // It goes with its connection, which the caller closes after such an answer.
            Part::Sent(Statement::Rollback) => {
                leg.part = Part::Ended;
                return;
            }
            Part::Sent(Statement::CommitPrepared) => Resolution::Commit,
            Part::Sent(Statement::RollbackPrepared) => Resolution::Rollback,
            Part::Open | Part::Prepared | Part::Detached | Part::Recovering | Part::Ended => return,
        };
        leg.part = Part::Recovering;
        actions.push(Action::Recover(leg.shard, resolution));
    }

    fn lost(&mut self, leg: &mut Leg, actions: &mut Vec<Action>) {
        let resolution = match leg.part {
            Part::Open | Part::Sent(Statement::Rollback) => {
                leg.part = Part::Ended;
                self.cause.get_or_insert(Cause::Lost(leg.shard));
                return;
            }
            Part::Sent(Statement::Prepare) => {
                self.cause.get_or_insert(Cause::Lost(leg.shard));
                Resolution::Rollback
            }
            // What is prepared outlives its connection.
            Part::Prepared => {
                leg.part = Part::Detached;
                return;
            }
            Part::Sent(Statement::CommitPrepared) => Resolution::Commit,
            Part::Sent(Statement::RollbackPrepared) => Resolution::Rollback,
            Part::Detached | Part::Recovering | Part::Ended => return,
        };
        leg.part = Part::Recovering;
        actions.push(Action::Recover(leg.shard, resolution));
    }

    fn superseded(&mut self, shard: u32, actions: &mut Vec<Action>) {
        let undecided = matches!(self.state, State::Preparing | State::Deciding) && !self.answered;
        let of = |leg: &&mut Leg| leg.shard == shard && leg.part == Part::Prepared;
        if let Some(leg) = self.legs.iter_mut().find(of).filter(|_| undecided) {
            leg.part = Part::Recovering;
            self.cause.get_or_insert(Cause::Lost(shard));
            actions.push(Action::Recover(shard, Resolution::Rollback));
            self.roll_back(actions);
        }
    }

    /// Goes on to what all legs together allow.
    fn advance(&mut self, actions: &mut Vec<Action>) {
        if self.state == State::Preparing {
            let prepared = |leg: &Leg| matches!(leg.part, Part::Prepared | Part::Detached);
            if self.cause.is_some() {
                self.roll_back(actions);
            } else if self.legs.iter().all(prepared) {
                self.state = State::Deciding;
                actions.push(Action::Log(Entry::Commit));
            }
        }
        let waits = |leg: &Leg| matches!(leg.part, Part::Sent(_));
        let ended = |leg: &Leg| leg.part == Part::Ended;
        let finishing = matches!(self.state, State::Committing | State::RollingBack);
        if !finishing || self.legs.iter().any(waits) {
            return;
        }
        let all_ended = self.legs.iter().all(ended);
        let outcome = match (self.state, self.cause) {
            (State::RollingBack, cause) => Outcome::RolledBack(cause.unwrap_or(Cause::Log)),
            (_, _) if all_ended => Outcome::Committed,
            (_, _) => Outcome::Completing,
        };
        self.answer(outcome, actions);
        if all_ended {
            self.state = State::Done;
            actions.push(Action::Note(Entry::Done));
        }
    }

    fn roll_back(&mut self, actions: &mut Vec<Action>) {
        self.state = State::RollingBack;
        self.send_all(Part::Open, Statement::Rollback, actions);
        self.send_all(Part::Prepared, Statement::RollbackPrepared, actions);
        for leg in &mut self.legs {
            if leg.part == Part::Detached {
                leg.part = Part::Recovering;
                actions.push(Action::Recover(leg.shard, Resolution::Rollback));
            }
        }
    }

    fn send_all(&mut self, from: Part, statement: Statement, actions: &mut Vec<Action>) {
        for leg in self.legs.iter_mut().filter(|leg| leg.part == from) {
            leg.part = Part::Sent(statement);
            actions.push(Action::Send(leg.shard, statement));
        }
    }

    fn answer(&mut self, outcome: Outcome, actions: &mut Vec<Action>) {
        if !std::mem::replace(&mut self.answered, true) {
            actions.push(Action::Answer(outcome));
        }
    }
}

impl Statement {
    /// Does it end what is prepared?
    pub fn is_last(self) -> bool {
        matches!(self, Self::CommitPrepared | Self::RollbackPrepared)
    }

    /// Its SQL. GIDs need no escaping.
    pub fn sql(self, gid: &str) -> String {
        match self {
            Self::Prepare => format!("PREPARE TRANSACTION '{gid}'"),
            Self::CommitPrepared => format!("COMMIT PREPARED '{gid}'"),
            Self::RollbackPrepared => format!("ROLLBACK PREPARED '{gid}'"),
            Self::Rollback => "ROLLBACK".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
