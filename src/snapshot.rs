//! What a core says of itself when it is asked: plain data, for the admin database and for metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::PoolConfig;
use crate::metrics::{Distributions, Totals};
use crate::pool::{PoolId, PoolStats};

/// How much is asked for. Numbers of the core and of its pools are always part of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// How long things took, which is some kilobytes per pool and core.
    pub latencies: bool,
}

/// One core at one moment.
#[derive(Clone, Debug)]
pub struct CoreSnapshot {
    /// Its number, from 0.
    pub core: usize,
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// When this was.
    pub taken: Instant,
    /// Connected clients, those that are logging in included.
    pub clients: usize,
    /// Running tasks.
    pub tasks: usize,
    /// Sockets of clients and servers.
    pub sockets: usize,
    /// Tasks that panicked so far; each ended alone.
    pub panics: u64,
    /// Time spent not waiting, in total.
    pub busy: Duration,
    /// Its slices of the pools.
    pub pools: Vec<PoolSnapshot>,
}

/// One core's slice of a pool.
#[derive(Clone, Debug)]
pub struct PoolSnapshot {
    /// The same on all cores, and never used again for another pool.
    pub id: PoolId,
    /// Whose and where.
    pub config: Arc<PoolConfig>,
    /// Permits, servers, waiting clients.
    pub stats: PoolStats,
    /// What was counted so far.
    pub totals: Totals,
    /// If [`Scope::latencies`] asks for them.
    pub latencies: Option<Distributions>,
}
