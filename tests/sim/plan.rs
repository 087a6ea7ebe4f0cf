//! What a run of the simulator is made of, what goes wrong in it, and what came of it.

use std::time::Duration;

use pgdog::pool::Limits;

use super::talk::Defect;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// What a run is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) cores: usize,
    pub(crate) offset: usize,
    pub(crate) limits: Limits,
    /// For each client the core that it lives on.
    pub(crate) clients: Vec<usize>,
    /// Clients arrive until then; afterwards everything must come to rest.
    pub(crate) busy: Duration,
    /// Mean time between two transactions of a client.
    pub(crate) think: Duration,
    /// Mean length of a transaction; one of fifty is ten times longer.
    pub(crate) transaction: Duration,
    pub(crate) mail_delay: Duration,
    pub(crate) connect_time: Duration,
    pub(crate) close_time: Duration,
    /// Percentage of transactions that end with the loss of the connection.
    pub(crate) lost: usize,
    /// Percentage of waiting clients that leave some time before they are served.
    pub(crate) impatient: usize,
    /// Percentage of connection attempts that fail while the clients are busy.
    pub(crate) failing: usize,
    /// Times at which the server is not there.
    pub(crate) outage: Option<(Duration, Duration)>,
    /// Commands for all cores, in order of time.
    pub(crate) commands: Vec<(Duration, Command)>,
    /// A defect, to prove that it is found.
    pub(crate) fault: Option<Fault>,
}

#[derive(Clone, Debug)]
pub(crate) enum Command {
    Resize(Limits),
    Pause,
    Resume,
    /// The pool leaves the configuration, and comes back while its connections are still busy.
    Drain,
    Revive,
    Reconnect,
    /// The server closes an idle connection of each core.
    KillIdle,
}

/// Defects of the world around the pools or of the pools themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A permit in the mail arrives twice.
    DuplicatePermit,
    /// A connection in the mail gets lost, its socket stays open.
    DropServer,
    /// A permit in the mail gets lost.
    DropPermit,
    /// An ask gets lost, so that somebody waits without anybody knowing.
    DropAsk,
    /// A permit is used again although its connection is not closed yet.
    ReuseBeforeClosed,
    /// A connection that a client returned is forgotten.
    ForgetCheckin,
    /// The pool hands a connection to the wrong waiter.
    WrongOrder,
    /// In every conversation.
    Talk(Defect),
}

/// What came of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) transactions: u64,
    pub(crate) failed: u64,
    pub(crate) mails: u64,
    /// Permits and connections that changed cores.
    pub(crate) gifts: u64,
    pub(crate) longest_wait: Duration,
    pub(crate) connects: u64,
    pub(crate) open_max: usize,
    /// Mails, gifts and transactions of the second half of the busy time.
    pub(crate) late: (u64, u64, u64),
    /// Permits of each core at the end of the busy time.
    pub(crate) permits: Vec<usize>,
    pub(crate) events: u64,
}
