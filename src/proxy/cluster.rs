//! A user's database as one core sees it: shards, and the pools of their servers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::config::choice::Role;
use crate::snapshot::Names;
use crate::sql::cache::Cache;

use super::pools::PoolSlot;

/// Analysed texts of one database and user that a core keeps.
const ANALYSES_MAX: usize = 1000;
/// Bytes that they take at most.
const ANALYSES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The pools of one user and database. Made anew by a reload; the pools themselves stay.
pub(crate) struct Cluster {
    /// Whose it is.
    pub(crate) names: Arc<Names>,
    shards: Vec<Shard>,
    /// Texts of this database that were analysed lately.
    pub(crate) analyses: RefCell<Cache>,
}

/// One part of a database.
pub(crate) struct Shard {
    /// In the order of the file, at least one.
    servers: Vec<Rc<PoolSlot>>,
    /// Where the next read goes.
    turn: Cell<usize>,
}

/// What a request asks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// To be the primary.
    Write,
    /// To have the data, be they a moment old.
    Read,
}

impl Cluster {
    /// `pools`: of one user and database, in the order of shards.
    pub(super) fn new(pools: &[Rc<PoolSlot>]) -> Self {
        let shards = pools.chunk_by(|a, b| a.config().shard == b.config().shard);
        let first = pools.first().expect("a database has a server");
        Self {
            names: Arc::clone(&first.names),
            shards: shards.map(Shard::new).collect(),
            analyses: RefCell::new(Cache::new(ANALYSES_MAX, ANALYSES_BYTES_MAX)),
        }
    }

    /// The pool that sessions belong to when they have no request: it tells what servers report, and holds them up in
    /// MAINTENANCE.
    pub(crate) fn home(&self) -> &Rc<PoolSlot> {
        let shard = self.shards.first().expect("chunks are not empty");
        shard.primary().unwrap_or(&shard.servers[0])
    }

    /// All pools.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Rc<PoolSlot>> {
        self.shards.iter().flat_map(|shard| &shard.servers)
    }

    /// How many shards there are, at least one.
    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The pool of a server of this shard for a request. `None`: no such shard.
    pub(crate) fn pick(&self, shard: usize, want: Want) -> Option<&Rc<PoolSlot>> {
        let shard = self.shards.get(shard)?;
        Some(match want {
            Want::Write => shard.primary().unwrap_or(&shard.servers[0]),
            Want::Read => shard.replica().unwrap_or(&shard.servers[0]),
        })
    }

    /// Is there a choice between servers that statements have to be looked at for?
    pub(crate) fn is_split(&self) -> bool {
        self.pools().nth(1).is_some()
    }
}

impl Shard {
    fn new(servers: &[Rc<PoolSlot>]) -> Self {
        Self {
            servers: servers.to_vec(),
            turn: Cell::new(0),
        }
    }

    fn primary(&self) -> Option<&Rc<PoolSlot>> {
        let mut servers = self.servers.iter();
        servers.find(|slot| slot.config().role == Role::Primary)
    }

    /// The next replica in turn.
    fn replica(&self) -> Option<&Rc<PoolSlot>> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let replicas = || {
            self.servers
                .iter()
                .filter(|slot| slot.config().role == Role::Replica)
        };
        let count = replicas().count();
        replicas().nth(turn.checked_rem(count)?)
    }
}
