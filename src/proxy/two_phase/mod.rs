//! Two-phase commit at work: what [`TwoPhase`](crate::routing::two_phase::TwoPhase) decides is sent and written, by a
//! task of the core that outlives the client's session; what is left over is finished in the background.
//!
//! ```text
//!  session ─commit()─► drive: log, PREPARE, log, COMMIT PREPARED ─Conclusion─► session
//!                        │ a shard that could not be told
//!                        ▼
//!  log of an earlier ─► finish: other connections, until it is done ─► Done record
//!  process
//! ```

mod drive;
mod finish;
mod heard;
mod watch;
mod whom;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::routing::two_phase::gid::{Owner, TransactionId};
use crate::routing::two_phase::log::{Ledger, Participant, Record};
use crate::routing::two_phase::orphans::Orphans;
use crate::snapshot::{CommitSnapshot, Names};

use super::commit_log::CommitLog;
use super::core_state::CoreState;

pub(crate) use drive::{commit, Conclusion, Underway};
use finish::{Part, Unfinished};
pub(crate) use watch::watch;

/// What cores are started with.
#[derive(Clone)]
pub(crate) struct CommitBoot {
    /// `None`: a crash leaves prepared transactions to the operator.
    pub(crate) log: Option<CommitLog>,
    /// What earlier processes have left in it.
    pub(crate) left: Ledger,
    /// Whose transactions ours are.
    pub(crate) owner: Owner,
    /// Drawn at random: no other process of this owner has it.
    pub(crate) process: u64,
}

/// One under way with its session's servers.
struct Running {
    names: Arc<Names>,
    /// How far it is.
    stage: &'static str,
    /// The client that waits for it, if it still does.
    client: Option<i32>,
}

/// One core's two-phase commits.
pub(crate) struct Commits {
    log: Option<CommitLog>,
    owner: Owner,
    process: u64,
    /// Of the next transaction.
    number: Cell<u64>,
    unfinished: RefCell<Vec<Unfinished>>,
    /// Those under way with their sessions' servers.
    running: RefCell<BTreeMap<TransactionId, Running>>,
    /// Found in the log of an earlier process.
    recovered: Cell<u64>,
    /// Shards of which a task finishes what is unfinished.
    at_it: RefCell<BTreeSet<Participant>>,
    /// A task tells the log what is done, for it was too busy.
    noting: Cell<bool>,
    /// What nobody finishes.
    orphans: RefCell<Orphans>,
}

impl Commits {
    pub(crate) fn new(boot: &CommitBoot) -> Self {
        Self {
            log: boot.log.clone(),
            owner: boot.owner.clone(),
            process: boot.process,
            number: Cell::new(0),
            unfinished: RefCell::default(),
            running: RefCell::default(),
            recovered: Cell::new(0),
            at_it: RefCell::default(),
            noting: Cell::new(false),
            orphans: RefCell::default(),
        }
    }

    /// Found in the log of an earlier process so far.
    pub(super) fn recovered(&self) -> u64 {
        self.recovered.get()
    }

    /// Those that are under way or left over.
    pub(super) fn list(&self) -> Vec<CommitSnapshot> {
        let running = self.running.borrow();
        let running = running.iter().map(|(id, one)| CommitSnapshot {
            names: Arc::clone(&one.names),
            name: self.owner.name(*id),
            state: one.stage,
        });
        let unfinished = self.unfinished.borrow();
        let orphans = self.orphans.borrow();
        let orphans = orphans.iter().map(|((database, _), gid)| CommitSnapshot {
            names: Arc::new(Names {
                user: String::new(),
                database: database.clone(),
            }),
            name: gid.to_owned(),
            state: "prepared elsewhere",
        });
        running
            .chain(unfinished.iter().map(Unfinished::snapshot))
            .chain(orphans)
            .collect()
    }

    /// What clients of this core wait for.
    pub(super) fn by_client(&self) -> HashMap<i32, TransactionId> {
        let running = self.running.borrow();
        let running = running.iter();
        running
            .filter_map(|(id, one)| Some((one.client?, *id)))
            .collect()
    }

    fn next_id(&self, core: usize) -> TransactionId {
        let number = self.number.get();
        self.number.set(number + 1);
        TransactionId {
            process: self.process,
            core: u16::try_from(core).expect("fewer than 65,536 CPUs"),
            number,
        }
    }
}

/// How long the log may take to be up to date at the end.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// The end of this core: the log is brought up to date, and what is left unfinished is named.
pub(crate) async fn end(state: &CoreState) {
    let commits = &state.commits;
    if let Some(log) = commits.log.as_ref().filter(|_| commits.number.get() > 0) {
        // What was noted is on disk once this is, which changes nothing.
        let last = log.write(Record::Done(commits.next_id(state.core.index())));
        let deadline = state.core.now() + LAST_WRITE;
        let written = state.core.foreign(last);
        let _ = state.core.timeout_at(Some(deadline), written).await;
    }
    let unfinished = state.commits.unfinished.borrow();
    let gids: Vec<_> = unfinished.iter().flat_map(Unfinished::gids).collect();
    if gids.is_empty() {
        return;
    }
    let gids = gids.join(", ");
    match state.commits.log {
        Some(_) => tracing::warn!("the next start has to finish what is prepared: {gids}"),
        None => tracing::error!("the operator has to finish what is prepared: {gids}"),
    }
}

/// Begins to finish what earlier processes have left: on one core, for all.
pub(crate) fn recover(state: &Rc<CoreState>, left: &Ledger) {
    if left.is_empty() {
        return;
    }
    tracing::info!(
        transactions = left.len(),
        "two-phase commits of an earlier process are to be finished"
    );
    state.commits.recovered.set(left.len() as u64);
    for (id, pending) in left.iter() {
        let part = |at: &Participant| Part::new(at.clone(), pending.resolution());
        let names = Names {
            user: pending.user.clone(),
            database: pending.database.clone(),
        };
        let unfinished = Unfinished {
            id,
            owner: pending.owner.clone(),
            names: Arc::new(names),
            parts: pending.participants.iter().map(part).collect(),
        };
        finish::add(state, unfinished);
    }
}
