//! Every message that crosses threads: mail between cores, and events for the control thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, SyncSender};
use std::sync::Arc;
use std::time::Instant;

use cores::signal::Signal;
use futures_channel::oneshot;

use crate::admin::{Answer, Command};
use crate::auth::{Derivation, Keys};
use crate::catalogue::View;
use crate::config::Guest;
use crate::error::Error;
use crate::orders::Of;
use crate::pool::{PoolId, PoolMail};
use crate::protocol::parameters::Parameters;
use crate::snapshot::{CoreSnapshot, Names, Scope};

use super::client::Moving;
use super::deadlocks::Round;
use super::news::{Checked, Incident};
use super::room::Room;
use super::server::Parcel;
use super::setup::Setup;
use super::shares::{Order, Report, ShareId};

/// Mails that one core's box holds. A full box makes senders wait (permits, sockets) or do without (loads).
pub(crate) const MAILBOX_CAPACITY: usize = 4096;

/// What cores, and the control thread, send each other.
pub(crate) enum Mail {
    /// A connection just accepted elsewhere, before its first byte was read.
    Client(OwnedFd),
    /// A client of another core, which goes on here.
    Moving(Box<Moving>),
    /// Keys that another core has derived.
    Derived(Box<(Derivation, Keys)>),
    /// A client that this core has told its process id is served by another one, or is gone.
    Whereabouts {
        /// As issued to the client.
        process_id: i32,
        /// Where cancel requests for it go.
        core: Option<usize>,
        /// How often it has moved by then.
        moves: u32,
    },
    /// So many cores serve clients from now on.
    Active(usize),
    /// A core has left a socket that others serve. The kernel wakes one of those that wait there for a connection: if that was the
    /// one that left, the connection would wait for the next one.
    Knock,
    /// How much a core has to do; to the first one, may be stale.
    Busy {
        /// Whose.
        core: usize,
        /// CPU time, in permille of the time that has passed.
        permille: usize,
    },
    /// How many clients a core has; may be stale.
    Load {
        /// Whose.
        core: usize,
        /// How many.
        clients: usize,
    },
    /// Between the slices of one pool.
    Pool {
        /// Which pool.
        pool: PoolId,
        /// For that slice's `receive`.
        mail: PoolMail<Box<Parcel>>,
    },
    /// What the servers of a pool report to a session without settings of its own.
    Welcome {
        /// Which pool.
        pool: PoolId,
        /// Names and values.
        reported: Parameters,
    },
    /// A client of another core had trouble with a server, or none any more.
    Incident(Incident),
    /// A server has no connection left for somebody.
    Room(Room),
    /// The statement of another core's client wants something of its share here.
    Share {
        /// Which one.
        id: ShareId,
        /// What.
        order: Order,
    },
    /// Another core's share of a statement of this core's answers.
    Shared {
        /// Which one.
        id: ShareId,
        /// What.
        report: Report,
    },
    /// Another core has checked a server.
    Checked(Box<Checked>),
    /// A client of another core has changed a definition of this database; it is any user's.
    Defined(Arc<Names>),
    /// Who has which servers, for a core that looks for clients that wait for each other.
    Round(Box<Round>),
    /// A CancelRequest that reached another core than its session's.
    Cancel {
        /// As issued to the client.
        process_id: i32,
        /// As issued to the client.
        secret: Vec<u8>,
    },
    /// The control thread wants to know how this core is doing: [`Event::Snapshot`] is the answer.
    Gather {
        /// To be handed back.
        id: GatherId,
        /// How much of it.
        scope: Scope,
    },
    /// The control thread wants something done, and to hear of it.
    Act {
        /// What.
        act: Act,
        /// For the answer.
        done: Sender<Done>,
    },
    /// Stop accepting, and end. A later one replaces an earlier one.
    Shutdown(Ending),
    /// All cores have nothing left to do: end.
    End,
}

/// What the control thread has all cores do, one thing after the other.
#[derive(Clone)]
pub(crate) enum Act {
    /// A new configuration is coming: be ready for mail of its pools.
    Prepare(Setup),
    /// Every core is ready for this configuration: it is in force.
    Adopt(Setup),
    /// Replace server connections.
    Reconnect(Of),
    /// End sessions.
    Kill(Whom),
    /// Say which pools have clients.
    Census,
    /// Say what is left of pools that have left the configuration.
    Review,
    /// No reads for this pool, or for any.
    Ban(Option<PoolId>),
    /// Reads again for this pool, or for all, whatever they were banned for.
    Unban(Option<PoolId>),
    /// Check the server of this pool now, or all.
    Check(Option<PoolId>),
    /// Forget prepared statements above the limit that nobody has.
    ForgetPrepared,
    /// Forget analysed texts.
    ForgetAnalyses,
}

/// A core has done it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// Its number.
    pub(crate) core: usize,
    /// Sessions that were ended, or pools that were found.
    pub(crate) count: usize,
    /// Pools with clients, if it was asked for them.
    pub(crate) in_use: Vec<PoolId>,
    /// Former pools and their [`leftover`](crate::pool::Pool::leftover), if it was asked for them.
    pub(crate) former: Vec<(PoolId, Option<isize>)>,
}

/// Whose sessions are ended.
#[derive(Clone, Debug)]
pub(crate) enum Whom {
    /// All clients of some pools.
    All(Of),
    /// The client that was told this process id.
    Client(i32),
}

/// How a core ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Each session with its transaction.
    Graceful {
        /// When clients are cut off all the same; `None` waits for all.
        deadline: Option<Instant>,
    },
    /// When the last client has left by itself.
    WaitForClients,
}

/// Events that may wait for the control thread. When it is full, signals wait; cores do without, and whoever asked
/// hears of it when its time is up.
pub(crate) const EVENTS_MAX: usize = 1024;

/// The way to the control thread.
pub(crate) type Events = SyncSender<Event>;

/// Where the answer to an admin session's command goes.
pub(crate) type Reply = oneshot::Sender<Result<Answer, Error>>;

/// Where a login waits to hear that its user is known on all cores.
pub(crate) type Introduced = oneshot::Sender<Result<(), Error>>;

/// One question of the control thread to all cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GatherId(pub(crate) u64);

/// A question of another thread to the control thread.
pub(crate) struct Ask {
    /// How much of it.
    pub(crate) scope: Scope,
    /// For the answer, or why there is none.
    pub(crate) reply: SyncSender<Result<View, String>>,
}

/// What the control thread is told. It works through this in order, and waits for nothing else.
pub(crate) enum Event {
    /// From the operator or the system.
    Signal(Signal),
    /// An admin session has a command.
    Admin {
        /// Not one of `Command::Driver`.
        command: Command,
        /// Dropped, it tells the session that the command was given up; canceled, the session has ended.
        reply: Reply,
    },
    /// A core answers [`Mail::Gather`].
    Snapshot {
        /// As asked.
        id: GatherId,
        /// How it is doing.
        snapshot: Box<CoreSnapshot>,
    },
    /// A server has accepted somebody whom the configuration does not know.
    Guest {
        /// With the password.
        guest: Guest,
        /// Dropped, it tells the login that nothing came of it.
        reply: Introduced,
    },
    /// A core accepts connections.
    Listening,
    /// During a shutdown, a core has no clients left. It goes on for those of other cores, and for administrators.
    CoreDrained(usize),
    /// Another thread wants to know how the program is doing.
    Ask(Ask),
    /// All cores have ended, in order or not.
    AllEnded(io::Result<()>),
}
