//! Every message that crosses cores.

use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::pool::PoolMail;
use crate::protocol::parameters::Parameters;

use super::server::Parcel;

/// Mails that one core's box holds. A full box makes senders wait (permits, sockets) or do without (loads).
pub(crate) const MAILBOX_CAPACITY: usize = 4096;

/// What cores, and the control thread, send each other.
#[expect(
    clippy::large_enum_variant,
    reason = "pool mail is most of it, and rare; a box would cost an allocation"
)]
pub(crate) enum Mail {
    /// A connection just accepted elsewhere, before its first byte was read.
    Client(OwnedFd),
    /// How many clients a core has; may be stale.
    Load {
        /// Whose.
        core: usize,
        /// How many.
        clients: usize,
    },
    /// Between the slices of one pool.
    Pool {
        /// Which pool, the same index on all cores.
        pool: usize,
        /// For that slice's `receive`.
        mail: PoolMail<Parcel>,
    },
    /// What the servers of a pool report to a session without settings of its own.
    Welcome {
        /// Which pool.
        pool: usize,
        /// Names and values.
        reported: Parameters,
    },
    /// A CancelRequest that reached another core than its session's.
    Cancel {
        /// As issued to the client.
        process_id: i32,
        /// As issued to the client.
        secret: Vec<u8>,
    },
    /// Stop accepting, let transactions finish, then end.
    Shutdown {
        /// When clients are cut off all the same; `None` waits for all.
        deadline: Option<Instant>,
    },
}
