//! What a core says of itself when it is asked: plain data, for the admin database and for metrics.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::{BanReason, Banned, Lag, Observation};
use crate::config::choice::Role;
use crate::config::PoolConfig;
use crate::metrics::{ClientTotals, Distribution, Distributions, TallyTotals, Totals};
use crate::pool::{PoolId, PoolStats};
use crate::sharding::lookups::Counts;

/// Bytes of one receive buffer.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// How much is asked for. Numbers of the core and of its pools are always part of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
pub struct Scope {
    /// Each client.
    pub clients: bool,
    /// Each server connection.
    pub servers: bool,
    /// Each prepared statement.
    pub statements: bool,
    /// Each analysed text.
    pub analyses: bool,
    /// Each two-phase commit that is under way.
    pub commits: bool,
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
    /// Mail sent to each core so far, in their order.
    pub mail_sent: Vec<u64>,
    /// Clients that have come from other cores, so far.
    pub moved_in: u64,
    /// Mail received so far, from cores and from the control thread.
    pub mail_received: u64,
    /// Admin sessions; they are not among the `clients`.
    pub admins: usize,
    /// Clients that are logged in, and admin sessions; if [`Scope::clients`].
    pub sessions: Vec<ClientSnapshot>,
    /// If [`Scope::statements`].
    pub statements: Vec<StatementSnapshot>,
    /// How many prepared statements its clients have.
    pub statements_known: usize,
    /// Bytes of these.
    pub statement_bytes: usize,
    /// Receive buffers that there are; 64 KiB each, of which only what was written to takes memory.
    pub buffers: usize,
    /// Those of them with bytes that nobody has consumed yet.
    pub buffers_lent: usize,
    /// How long its turns took: the tasks that run between two looks at the ring; if [`Scope::latencies`].
    pub turns: Option<Distribution>,
    /// What was counted that belongs to no pool.
    pub tally: TallyTotals,
    /// Its caches of analysed texts together.
    pub analysing: Analysing,
    /// If [`Scope::analyses`].
    pub analyses: Vec<AnalysisSnapshot>,
    /// If [`Scope::commits`].
    pub commits: Vec<CommitSnapshot>,
    /// Databases of several shards, if [`Scope::latencies`].
    pub over_shards: Vec<OverShardsSnapshot>,
    /// Two-phase commits that it found in the log of an earlier process.
    pub commits_recovered: u64,
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
    /// Of its checked-out servers, those that idle in a transaction.
    pub idle_in_transaction: usize,
    /// Of its checked-out servers, those that their client keeps between transactions.
    pub pinned: usize,
    /// When a server was last used or opened.
    pub used: Option<Instant>,
    /// If [`Scope::servers`].
    pub servers: Vec<ServerSnapshot>,
    /// What is known of its server.
    pub known: Known,
    /// It has left the configuration, and its connections of this core are closed.
    pub gone: bool,
}

/// Passes over pools that are gone on all cores. Until then each core's slice counts, or sums would go back before they end.
pub fn pass_over_gone(cores: &mut [CoreSnapshot]) {
    let slices = cores.iter().flat_map(|core| &core.pools);
    let left: HashSet<PoolId> = slices
        .filter(|slice| !slice.gone)
        .map(|slice| slice.id)
        .collect();
    for core in cores {
        core.pools.retain(|slice| left.contains(&slice.id));
    }
}

/// What is known of a server: the same on all cores, but for what is in the mail.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// If it is found out, and was.
    pub role: Option<Role>,
    /// Why it gets no reads.
    pub ban: Option<Banned>,
    /// Was its last check a success? True before the first one.
    pub healthy: bool,
    /// How far behind the primary it was.
    pub lag: Option<Lag>,
    /// What it last said of its role and position.
    pub seen: Option<Observation>,
    /// Bans counted by this core, in the order of [`BanReason::ALL`].
    pub bans: [u64; BanReason::ALL.len()],
}

impl PoolSnapshot {
    /// Has a server been of use since one could not be opened?
    pub fn is_healthy(&self) -> bool {
        let connected = self.used.max(self.stats.connected);
        self.known.healthy && (self.stats.failed.is_none() || connected > self.stats.failed)
    }

    /// Adds another core's slice of the same pool, or one that is the same to others.
    pub(crate) fn add(&mut self, other: &Self) {
        self.stats.add(&other.stats);
        self.add_counts(other);
        self.idle_in_transaction += other.idle_in_transaction;
        self.pinned += other.pinned;
        self.used = self.used.max(other.used);
        self.servers.extend_from_slice(&other.servers);
    }

    /// Adds what was counted so far.
    pub(crate) fn add_counts(&mut self, other: &Self) {
        self.totals += &other.totals;
        if let (Some(mine), Some(theirs)) = (&mut self.latencies, &other.latencies) {
            *mine += theirs;
        }
        let bans = self.known.bans.iter_mut().zip(other.known.bans);
        bans.for_each(|(mine, theirs)| *mine += theirs);
    }
}

/// The pools of all cores, each once, in the order of their numbers.
pub fn sum(cores: &[CoreSnapshot]) -> Vec<PoolSnapshot> {
    let mut sums: Vec<PoolSnapshot> = Vec::new();
    for pool in cores.iter().flat_map(|core| &core.pools) {
        match sums.binary_search_by_key(&pool.id, |sum| sum.id) {
            Ok(at) => sums[at].add(pool),
            Err(at) => sums.insert(at, pool.clone()),
        }
    }
    sums
}

/// As whom a client is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Who.
    pub user: String,
    /// Where.
    pub database: String,
}

/// What a client or its server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing.
    Idle,
    /// It waits for a server.
    Waiting,
    /// A request is under way.
    Active,
    /// Nothing, with a transaction open.
    IdleInTransaction,
}

/// One client.
#[derive(Clone, Debug)]
pub struct ClientSnapshot {
    /// The process id that it was told.
    pub id: i32,
    /// Who it is.
    pub names: Arc<Names>,
    /// Where it comes from; `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// What it does.
    pub activity: Activity,
    /// Since when.
    pub since: Instant,
    /// What was counted so far.
    pub totals: ClientTotals,
    /// As it calls itself.
    pub application_name: Arc<str>,
    /// Why it keeps its server, and since when.
    pub pinned: Option<(&'static str, Instant)>,
    /// Named statements that it has prepared.
    pub statements: usize,
    /// The server that it holds.
    pub server: Option<Holding>,
}

/// A server in the hands of a client.
#[derive(Clone, Debug)]
pub struct Holding {
    /// Process id on the server, if it told us one.
    pub process_id: Option<i32>,
    /// Its pool.
    pub pool: Arc<PoolConfig>,
}

/// One server connection.
#[derive(Clone, Debug)]
pub struct ServerSnapshot {
    /// Process id on the server, if it told us one.
    pub process_id: Option<i32>,
    /// When it was opened.
    pub opened: Instant,
    /// When it was last used.
    pub used: Instant,
    /// Who holds it, and what is done with it.
    pub client: Option<Holder>,
    /// What was counted so far.
    pub totals: Totals,
    /// Type of the last message to it.
    pub last_sent: u8,
    /// Type of the last message from it.
    pub last_received: u8,
    /// Statements prepared on it.
    pub statements: usize,
}

/// A client that holds a server.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The process id that it was told.
    pub id: i32,
    /// What it does.
    pub activity: Activity,
    /// As it calls itself.
    pub application_name: Arc<str>,
}

/// A prepared statement, however many clients share it.
#[derive(Clone, Debug)]
pub struct StatementSnapshot {
    /// On servers.
    pub name: String,
    /// As the first client wrote it.
    pub text: Arc<str>,
    /// Names that clients have given it.
    pub used_by: usize,
    /// What it takes, in bytes.
    pub bytes: usize,
}

/// What one core's caches of analysed texts have done and hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Analysing {
    /// Texts found.
    pub hits: u64,
    /// Texts parsed.
    pub misses: u64,
    /// Statements routed to one shard.
    pub direct: u64,
    /// Statements routed to several shards.
    pub cross: u64,
    /// Texts kept.
    pub entries: usize,
    /// Bytes of these.
    pub bytes: usize,
    /// Time spent parsing.
    pub parsing: Duration,
}

impl AddAssign for Analysing {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.direct += other.direct;
        self.cross += other.cross;
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.parsing += other.parsing;
    }
}

/// An analysed text, with `?` for what varies.
#[derive(Clone, Debug)]
pub struct AnalysisSnapshot {
    /// The text.
    pub query: String,
    /// Found so often.
    pub hits: u64,
    /// Routed to one shard so often.
    pub direct: u64,
    /// Routed to several so often.
    pub multi: u64,
}

/// A two-phase commit under way.
#[derive(Clone, Debug)]
pub struct CommitSnapshot {
    /// Whose.
    pub names: Arc<Names>,
    /// What its GIDs begin with.
    pub name: String,
    /// How far it is.
    pub state: &'static str,
}

/// Statements of a user on a database of several shards.
#[derive(Clone, Debug)]
pub struct OverShardsSnapshot {
    /// Whose.
    pub names: Arc<Names>,
    /// How many shards each touched: numbers, not times.
    pub touched: Distribution,
    /// How long merging took.
    pub merges: Distribution,
    /// Keys that a query translates; `None`: none are.
    pub lookups: Option<LookupsSnapshot>,
}

/// Keys that a query translates.
#[derive(Clone, Copy, Debug, Default)]
pub struct LookupsSnapshot {
    /// What has become of them so far.
    pub counts: Counts,
    /// Those that are remembered.
    pub entries: usize,
    /// What these take, about.
    pub bytes: usize,
}
