//! Commands that are answered when something has happened: PAUSE … WAIT and WAIT_CLOSE.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::admin::Answer;
use crate::error::{Error, Fault};
use crate::orders::Of;
use crate::pool::PoolId;
use crate::protocol::sqlstate::SqlState;
use crate::proxy::{Reply, Setup};
use crate::snapshot::CoreSnapshot;

use super::admin::tell;

/// How often it is looked whether it has happened.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What a command waits for.
pub(super) enum Until {
    /// PAUSE: no connection is left.
    Empty(Of),
    /// WAIT_CLOSE: none is left that is to be closed.
    Closed(Of),
}

/// One command that waits.
pub(super) struct Wait {
    until: Until,
    tag: String,
    reply: Reply,
    /// [`Until::Closed`] was true at the last look, when a connection may have been in the mail between two cores.
    closed_before: bool,
}

/// Those that wait now: one of each admin session at most.
#[derive(Default)]
pub(super) struct Waits {
    waits: Vec<Wait>,
    next_look: Option<Instant>,
}

/// What a look has found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    NotYet,
    Done,
    /// PAUSE was taken back.
    Revoked,
}

impl Waits {
    pub(super) fn begin(&mut self, wait: Wait, now: Instant) {
        self.waits.push(wait);
        self.next_look = Some(now);
    }

    pub(super) fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// Is it time to look? Then a call of `looked` is expected to follow.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.next_look.take_if(|at| *at <= now).is_some()
    }

    /// All cores at one moment; none if they have not all answered in time.
    pub(super) fn looked(&mut self, cores: &[CoreSnapshot], setup: &Setup, now: Instant) {
        for mut wait in std::mem::take(&mut self.waits) {
            let found = match cores {
                [] => Found::NotYet,
                cores => wait.look(cores, setup),
            };
            match found {
                Found::Done => tell(wait.reply, Ok(Answer::done(wait.tag))),
                Found::Revoked => {
                    let code = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
                    let error = Error::error(Fault::Client, code, "resumed meanwhile");
                    tell(wait.reply, Err(error));
                }
                // Of a session that has left, nobody waits for the end.
                Found::NotYet if wait.reply.is_canceled() => {}
                Found::NotYet => self.waits.push(wait),
            }
        }
        if !self.waits.is_empty() {
            self.next_look = Some(now + LOOK_INTERVAL);
        }
    }
}

impl Wait {
    pub(super) fn new(until: Until, tag: String, reply: Reply) -> Self {
        Self {
            until,
            tag,
            reply,
            closed_before: false,
        }
    }

    fn look(&mut self, cores: &[CoreSnapshot], setup: &Setup) -> Found {
        let done = match &self.until {
            Until::Empty(of) if !is_paused(setup, of) => return Found::Revoked,
            Until::Empty(of) => sums(cores, of).values().all(Sum::is_empty),
            Until::Closed(of) => {
                let known: HashSet<PoolId> = setup.pools().map(|(id, _)| id).collect();
                let sums = sums(cores, of);
                let mut pools = sums.iter();
                let closed = pools.all(|(id, sum)| sum.to_be_closed == 0 && known.contains(id));
                std::mem::replace(&mut self.closed_before, closed) && closed
            }
        };
        match done {
            true => Found::Done,
            false => Found::NotYet,
        }
    }
}

fn is_paused(setup: &Setup, of: &Of) -> bool {
    let paused = &setup.orders.paused;
    match of {
        Of::All => paused.is_on_for_all(),
        Of::Database(database) => paused.is_on_for(database),
        Of::User { user, database } => paused.is_on(user, database),
    }
}

/// A pool over all cores.
#[derive(Default)]
struct Sum {
    size: usize,
    /// But for those to be given up.
    permits: isize,
    servers: usize,
    to_be_closed: usize,
}

impl Sum {
    /// Nothing is open, and nothing in the mail between two cores.
    fn is_empty(&self) -> bool {
        self.servers == 0 && self.permits == signed(self.size)
    }
}

/// The pools that this concerns, those on their way out too.
fn sums(cores: &[CoreSnapshot], of: &Of) -> HashMap<PoolId, Sum> {
    let mut sums: HashMap<PoolId, Sum> = HashMap::new();
    for pool in cores.iter().flat_map(|core| &core.pools) {
        let config = &pool.config;
        if of.covers(&config.user, &config.database) {
            let (sum, stats) = (sums.entry(pool.id).or_default(), &pool.stats);
            sum.size = config.limits.size;
            sum.permits += signed(stats.permits) - signed(stats.debt);
            sum.servers += stats.connecting + stats.idle + stats.active + stats.closing;
            sum.to_be_closed += stats.outdated + stats.closing;
        }
    }
    sums
}

fn signed(count: usize) -> isize {
    isize::try_from(count).expect("far fewer connections than addresses")
}
