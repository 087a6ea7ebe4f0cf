//! Reads that see what their own session has written (`read_your_writes`). The primary is asked for its position when
//! the session gives it back, its client having been answered; a replica for its own when a read comes, unless it is
//! known to have replayed enough.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use crate::balance::{pause, Ledger, Lsn, Mark, Written, MARK_QUESTION, REPLAYED_QUESTION};

use super::super::cluster::Want;
use super::super::core_state::{Activity, CoreState};
use super::super::link::Link;
use super::super::pools::Held;
use super::super::server::RunError;
use super::obtain::{Aim, Terms};
use super::{End, Session, SETTLE_TIMEOUT};

/// What a session has written, by shard.
#[derive(Default)]
pub(super) struct Ledgers(RefCell<Vec<Ledger>>);

impl Ledgers {
    fn change<T>(&self, shard: usize, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledgers = self.0.borrow_mut();
        if ledgers.len() <= shard {
            ledgers.resize(shard + 1, Ledger::default());
        }
        change(&mut ledgers[shard])
    }
}

/// The same on its way to another core.
pub(super) struct MovedLedgers(Vec<Ledger>);

impl Ledgers {
    /// For another core; no question is under way.
    pub(super) fn moved(&self) -> MovedLedgers {
        MovedLedgers(self.0.borrow().clone())
    }

    /// As it was on another core.
    pub(super) fn arrived(moved: MovedLedgers) -> Self {
        Self(RefCell::new(moved.0))
    }
}

/// A question to a primary, on its way. Dropped without an answer it has none.
pub(super) struct Asking {
    ledgers: Rc<Ledgers>,
    link: Rc<Link>,
    shard: usize,
    question: u64,
    mark: Option<Mark>,
}

impl Asking {
    /// Asks a server that is at rest. False: it is of no further use.
    pub(super) async fn ask(mut self, state: &CoreState, held: &mut Held) -> bool {
        let deadline = Some(state.core.now() + SETTLE_TIMEOUT);
        match state
            .core
            .timeout_at(deadline, held.run(MARK_QUESTION))
            .await
        {
            Some(Ok(answer)) => {
                let pools = state.pools();
                let place = pools.place(held.pool());
                let epoch = place.and_then(|place| {
                    let balance = place.shard().balance().borrow();
                    balance.roles().epoch_of(place.server, state.core.now())
                });
                self.mark = epoch.and_then(|epoch| Mark::parse(answer.value()?, epoch));
                true
            }
            // It has become a standby.
            Some(Err(RunError::Server(_))) => held.is_fit(),
            Some(Err(RunError::Lost(_))) | None => false,
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let (question, mark) = (self.question, self.mark);
        self.ledgers
            .change(self.shard, |ledger| ledger.answered(question, mark));
        if self.link.activity.get() == Activity::Waiting {
            self.link.wake();
        }
    }
}

impl Session {
    /// The session may write on this server of a shard, which `want` has led to.
    pub(super) fn note_writes(&mut self, held: &mut Held, shard: usize, want: Want) {
        let off = !self.cluster.reads_own_writes();
        // What is on a replica cannot write.
        if off || want != Want::Write && self.cluster.is_replica(shard, held.pool()) {
            return;
        }
        held.asks_mark = Some(shard);
        let ledgers = self.written.get_or_insert_default();
        ledgers.change(shard, Ledger::writes);
    }

    /// The shards may be others than those that were written on.
    pub(super) fn displace_written(&mut self) {
        if let Some(ledgers) = &self.written {
            let mut all = ledgers.0.borrow_mut();
            let shards = self.cluster.shards().max(all.len());
            all.resize(shards, Ledger::default());
            all.iter_mut().for_each(Ledger::writes);
        }
    }

    /// What the primary is to be asked for when the session gives it back.
    pub(super) fn asking(&self, held: &Held) -> Option<Asking> {
        let (shard, ledgers) = held.asks_mark.zip(self.written.as_ref())?;
        Some(Asking {
            question: ledgers.change(shard, Ledger::asks),
            ledgers: Rc::clone(ledgers),
            link: self.link.link(),
            shard,
            mark: None,
        })
    }

    /// What a request has to see, when that is known, or is not found out by `until`.
    pub(super) async fn has_written(&mut self, aim: Aim, until: Instant) -> Result<Written, End> {
        if aim.want == Want::Write || !self.cluster.reads_own_writes() {
            return Ok(Written::Nothing);
        }
        let Some(ledgers) = self.written.clone() else {
            return Ok(Written::Nothing);
        };
        let is_asking = || ledgers.change(aim.shard, |ledger| ledger.is_asking());
        if is_asking() {
            self.link.enter(Activity::Waiting, self.state.core.now());
            self.inbound.settle();
            let core = self.state.core.clone();
            let answered = poll_fn(|cx| {
                self.link.listen(cx);
                match is_asking() {
                    false => Poll::Ready(Ok(())),
                    true => self.poll_waiting(cx).map(Err),
                }
            });
            if let Some(Err(end)) = core.timeout_at(Some(until), answered).await {
                return Err(end);
            }
        }
        Ok(ledgers.change(aim.shard, |ledger| ledger.written()))
    }

    /// Has a replica replayed what a read has to see, or does it within the time that there is for that? `None`: it does
    /// not answer. Errors: it is gone.
    pub(super) async fn has_replayed(
        &self,
        held: &mut Held,
        aim: Aim,
        terms: &Terms,
        needed: Lsn,
    ) -> Option<Result<bool, RunError>> {
        let core = &self.state.core;
        let limit = self.state.config().balancing.check_timeout;
        for turn in 0.. {
            let asked = core.now();
            let until = limit.and_then(|limit| asked.checked_add(limit));
            let answer = core.timeout_at(until, held.run(REPLAYED_QUESTION)).await?;
            let answer = match answer {
                Ok(answer) => answer,
                Err(RunError::Server(_)) if held.is_fit() => return Some(Ok(false)),
                Err(error) => return Some(Err(error)),
            };
            let text = answer
                .value()
                .and_then(|value| std::str::from_utf8(value).ok());
            // None: it has not been a standby since it was started.
            let Some(replayed) = text.and_then(Lsn::parse) else {
                return Some(Ok(false));
            };
            self.cluster
                .has_replayed(aim.shard, held.pool(), asked, replayed);
            if replayed >= needed {
                return Some(Ok(true));
            }
            let again = core.now() + pause(turn);
            if terms.written_by < again {
                break;
            }
            core.sleep_until(again).await;
        }
        let waited = terms.written_by.saturating_duration_since(terms.since);
        if !waited.is_zero() {
            self.cluster
                .stalled(aim.shard, held.pool(), core.now(), waited);
        }
        Some(Ok(false))
    }
}
