//! Snapshots of all cores: asked for by mail, collected as they come, given up at a deadline.
//!
//! Neither side waits: a core answers between two tasks, and the control thread goes on with other events.

use std::fmt;
use std::time::{Duration, Instant};

use cores::PostOffice;

use crate::proxy::{GatherId, Mail};
use crate::snapshot::{pass_over_gone, CoreSnapshot, Scope};

/// Cores answer within milliseconds; one that does not is in trouble.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Questions under way at once; further ones are refused.
const PENDING_MAX: usize = 64;

/// Why there is no whole picture. Part of it would be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incomplete {
    /// These cores said nothing in time.
    Silent(Vec<usize>),
    /// Too many questions are under way.
    Busy,
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(cores) => {
                write!(f, "cores {cores:?} did not answer within {TIMEOUT:?}")
            }
            Self::Busy => write!(f, "{PENDING_MAX} questions to all cores are under way"),
        }
    }
}

/// Snapshots of all cores, in the order of their numbers.
pub(super) type Gathered = Result<Vec<CoreSnapshot>, Incomplete>;

/// What is done with them, on the control thread.
type Then = Box<dyn FnOnce(Gathered)>;

/// The questions under way.
#[derive(Default)]
pub(super) struct Gathers {
    pending: Vec<Pending>,
    last: u64,
}

struct Pending {
    id: GatherId,
    deadline: Instant,
    missing: Vec<usize>,
    snapshots: Vec<CoreSnapshot>,
    then: Then,
}

impl Gathers {
    /// Asks all cores.
    pub(super) fn ask(
        &mut self,
        office: &PostOffice<Mail>,
        scope: Scope,
        now: Instant,
        then: impl FnOnce(Gathered) + 'static,
    ) {
        if self.pending.len() >= PENDING_MAX {
            return then(Err(Incomplete::Busy));
        }
        self.last += 1;
        let id = GatherId(self.last);
        let missing: Vec<_> = (0..office.cores()).collect();
        for core in &missing {
            // A core with a full box stays missing, and is named at the deadline.
            let _ = office.send(*core, Mail::Gather { id, scope });
        }
        self.pending.push(Pending {
            id,
            deadline: now + TIMEOUT,
            snapshots: Vec::with_capacity(missing.len()),
            missing,
            then: Box::new(then),
        });
        self.complete(|_| false);
    }

    /// A core has answered.
    pub(super) fn answered(&mut self, id: GatherId, snapshot: CoreSnapshot) {
        let core = snapshot.core;
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.id == id) {
            pending.missing.retain(|missing| *missing != core);
            pending.snapshots.push(snapshot);
        }
        self.complete(|_| false);
    }

    /// When to call [`Gathers::expire`].
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pending.iter().map(|pending| pending.deadline).min()
    }

    /// Gives up questions whose time has come.
    pub(super) fn expire(&mut self, now: Instant) {
        self.complete(|pending| pending.deadline <= now);
    }

    fn complete(&mut self, given_up: impl Fn(&Pending) -> bool) {
        let done = self.pending.extract_if(.., |pending| {
            pending.missing.is_empty() || given_up(pending)
        });
        for mut pending in done {
            pending.snapshots.sort_by_key(|snapshot| snapshot.core);
            (pending.then)(match pending.missing.is_empty() {
                true => {
                    pass_over_gone(&mut pending.snapshots);
                    Ok(pending.snapshots)
                }
                false => Err(Incomplete::Silent(pending.missing)),
            });
        }
    }
}
