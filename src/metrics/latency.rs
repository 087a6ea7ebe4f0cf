//! Which times are kept as histograms.

use std::ops::{AddAssign, Index, Sub};

use super::histogram::{Distribution, Histogram};

/// A phase of serving one pool's clients, of which each duration is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From a client's request that only reads, when it has come, to ReadyForQuery; waiting for a server included. In a
    /// pipeline one begins where the one before has ended.
    QueryRead,
    /// The same of one that may write.
    QueryWrite,
    /// The same of one whose text was not looked at.
    QueryOther,
    /// From the first message of a request to its server to ReadyForQuery.
    ServerQuery,
    /// From the wish for a server to its being there, zero included.
    CheckoutWait,
    /// From the first message of a transaction to its end.
    Transaction,
    /// From ReadyForQuery to the client's next message in a transaction.
    IdleInTransaction,
    /// Looking up a server's name.
    ConnectDns,
    /// Connecting to it.
    ConnectTcp,
    /// Encryption.
    ConnectTls,
    /// Authentication, up to its first ReadyForQuery.
    ConnectAuth,
    /// What a request takes here: from the core's waking with it to its being handed to the ring, and the same with its
    /// answer. Of some requests only.
    Overhead,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 12] = [
        Phase::QueryRead,
        Phase::QueryWrite,
        Phase::QueryOther,
        Phase::ServerQuery,
        Phase::CheckoutWait,
        Phase::Transaction,
        Phase::IdleInTransaction,
        Phase::ConnectDns,
        Phase::ConnectTcp,
        Phase::ConnectTls,
        Phase::ConnectAuth,
        Phase::Overhead,
    ];
    /// Requests of all kinds.
    pub const QUERIES: [Phase; 3] = [Phase::QueryRead, Phase::QueryWrite, Phase::QueryOther];
}

/// One core's histograms of a pool.
#[derive(Debug, Default)]
pub struct Latencies([Histogram; Phase::ALL.len()]);

impl Latencies {
    /// Records a time in nanoseconds.
    #[inline]
    pub fn record(&self, phase: Phase, nanoseconds: u64) {
        self.0[phase as usize].record(nanoseconds);
    }

    /// What was recorded so far.
    pub fn read(&self) -> Distributions {
        Distributions(std::array::from_fn(|at| self.0[at].read()))
    }
}

/// What was recorded up to some moment, or between two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distributions([Distribution; Phase::ALL.len()]);

impl Index<Phase> for Distributions {
    type Output = Distribution;

    fn index(&self, phase: Phase) -> &Distribution {
        &self.0[phase as usize]
    }
}

impl AddAssign<&Distributions> for Distributions {
    fn add_assign(&mut self, other: &Distributions) {
        for (mine, more) in self.0.iter_mut().zip(&other.0) {
            *mine += more;
        }
    }
}

impl Sub for &Distributions {
    type Output = Distributions;

    fn sub(self, before: &Distributions) -> Distributions {
        Distributions(std::array::from_fn(|at| &self.0[at] - &before.0[at]))
    }
}
