//! What the slices of one pool send each other. `slice` and `drift` say when.

use std::time::{Duration, Instant};

use super::Lease;

/// What slices of one pool send each other.
///
/// To be delivered exactly once, and in order between any two cores: permits and connections travel in it.
#[derive(Debug)]
pub enum PoolMail<C> {
    /// `asker` holds no permit, and clients wait there. Back at `asker`: nobody had one to spare.
    Seek {
        /// Who seeks.
        asker: usize,
    },
    /// To the home: `asker` holds no permit, and a client there waits since `ask.since`. Replaces an earlier one.
    Ask {
        /// Who asks.
        asker: usize,
        /// What for.
        ask: Ask,
    },
    /// To the home: `asker` needs nothing any more.
    Withdraw {
        /// Who had asked.
        asker: usize,
    },
    /// From the home: a client on a core without permits waits since then; or nobody does.
    Wanted {
        /// The oldest ask.
        since: Option<Instant>,
    },
    /// To the home: a permit for the oldest ask.
    Release {
        /// Where it comes from.
        from: usize,
        /// The permit.
        gift: Gift<C>,
        /// `from` has none left, and clients wait there.
        ask: Option<Ask>,
    },
    /// From the home, in answer to an ask, or to a release that was not needed.
    Grant {
        /// The permit.
        gift: Gift<C>,
        /// The ask that is answered.
        serial: u32,
        /// As in `Wanted`.
        wanted: Option<Instant>,
    },
    /// From any core that has more than it needs, in answer to `Seek` or `Nudge`.
    Donate {
        /// The permit.
        gift: Gift<C>,
    },
    /// `asker` holds too few permits for `want` clients.
    Nudge {
        /// Who asks.
        asker: usize,
        /// How long clients have to wait there, as an average of the last moments.
        wait: Duration,
        /// Permits wished for.
        want: usize,
    },
    /// `grower` has grown by so many permits. On its way round they pay what other cores still owe from when the
    /// pool shrank; what comes back is `grower`'s.
    Growth {
        /// Who has grown.
        grower: usize,
        /// Permits that are left.
        permits: usize,
    },
    /// What a core cannot bear itself after a resize, because permits have moved; goes round until someone can.
    Burden {
        /// Permits to give up.
        debt: usize,
        /// Connections to be kept open, or, if negative, fewer to be kept open.
        duty: isize,
    },
}

/// A permit that changes cores.
#[derive(Debug)]
pub struct Gift<C> {
    /// The idle connection that it is bound to; without one it is a permit to open one.
    pub lease: Option<Lease<C>>,
    /// The duty to keep one connection of `min_pool_size` open comes along.
    pub duty: bool,
}

/// The need of a core without permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Arrival of the client that waits longest.
    pub since: Instant,
    /// Counts the asks of one core, so that it knows which of them a grant has answered.
    pub serial: u32,
}

impl<C> PoolMail<C> {
    /// The mail without the connection that it carries, if it does, for a way on which connections look different.
    pub fn unload<D>(self) -> (PoolMail<D>, Option<Lease<C>>) {
        let (mut lease, empty) = (None, |duty| Gift { lease: None, duty });
        let mut unload = |gift: Gift<C>| {
            lease = gift.lease;
            empty(gift.duty)
        };
        let mail = match self {
            Self::Seek { asker } => PoolMail::Seek { asker },
            Self::Ask { asker, ask } => PoolMail::Ask { asker, ask },
            Self::Withdraw { asker } => PoolMail::Withdraw { asker },
            Self::Wanted { since } => PoolMail::Wanted { since },
            Self::Release { from, gift, ask } => PoolMail::Release {
                from,
                gift: unload(gift),
                ask,
            },
            Self::Grant {
                gift,
                serial,
                wanted,
            } => PoolMail::Grant {
                gift: unload(gift),
                serial,
                wanted,
            },
            Self::Donate { gift } => PoolMail::Donate { gift: unload(gift) },
            Self::Nudge { asker, wait, want } => PoolMail::Nudge { asker, wait, want },
            Self::Growth { grower, permits } => PoolMail::Growth { grower, permits },
            Self::Burden { debt, duty } => PoolMail::Burden { debt, duty },
        };
        (mail, lease)
    }

    /// Gives the connection back that was unloaded.
    pub fn load(&mut self, loaded: Lease<C>) {
        match self {
            Self::Release { gift, .. } | Self::Grant { gift, .. } | Self::Donate { gift } => {
                gift.lease = Some(loaded);
            }
            _ => debug_assert!(false, "only gifts carry connections"),
        }
    }
}
