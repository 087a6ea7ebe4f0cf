//! SHOW POOLS: slices put together to pools.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::choice::{PoolerMode, Role};
use crate::config::PoolConfig;
use crate::metrics::{Stat, Totals};
use crate::pool::PoolId;
use crate::snapshot::{CoreSnapshot, Known};

use super::{count, text, Columns, Picture, Type, Value};

pub(super) const COLUMNS: Columns = &[
    (Type::Int8, &["id"]),
    (Type::Text, &["database", "user", "addr"]),
    (Type::Numeric, &["port", "shard"]),
    (Type::Text, &["role"]),
    (
        Type::Numeric,
        &[
            "cl_waiting",
            "sv_idle",
            "sv_active",
            "sv_idle_xact",
            "sv_total",
            "maxwait",
            "maxwait_us",
        ],
    ),
    (Type::Text, &["pool_mode"]),
    (Type::Bool, &["paused", "banned", "healthy"]),
    (
        Type::Numeric,
        &["errors", "re_synced", "out_of_sync", "force_closed"],
    ),
    (Type::Bool, &["online", "schema_admin"]),
];

/// A pool, all its slices together.
pub(super) struct Whole<'a> {
    pub(super) config: &'a PoolConfig,
    pub(super) idle: usize,
    pub(super) active: usize,
    pub(super) waiting: usize,
    pub(super) idle_in_transaction: usize,
    pub(super) longest_wait: Duration,
    pub(super) paused: bool,
    pub(super) online: bool,
    connected: Option<Instant>,
    failed: Option<Instant>,
    pub(super) totals: Totals,
    /// All cores know the same, but for what is in the mail.
    pub(super) known: &'a Known,
}

impl Whole<'_> {
    pub(super) fn servers(&self) -> usize {
        self.idle + self.active
    }

    /// Was the last attempt to connect, on any core, a success, and the last check?
    fn is_healthy(&self) -> bool {
        let connects = self
            .failed
            .is_none_or(|failed| Some(failed) < self.connected);
        connects && self.known.healthy
    }
}

/// The pools by id.
pub(super) fn pools(cores: &[CoreSnapshot]) -> BTreeMap<PoolId, Whole<'_>> {
    let mut pools = BTreeMap::new();
    for slice in cores.iter().flat_map(|core| &core.pools) {
        let whole = pools.entry(slice.id).or_insert_with(|| Whole {
            config: &slice.config,
            idle: 0,
            active: 0,
            waiting: 0,
            idle_in_transaction: 0,
            longest_wait: Duration::ZERO,
            paused: false,
            online: true,
            connected: None,
            failed: None,
            totals: Totals::default(),
            known: &slice.known,
        });
        let stats = &slice.stats;
        whole.idle += stats.idle;
        whole.active += stats.active;
        whole.waiting += stats.waiting;
        whole.idle_in_transaction += slice.idle_in_transaction;
        whole.longest_wait = whole.longest_wait.max(stats.longest_wait);
        whole.paused |= stats.paused;
        whole.online &= !stats.drained;
        whole.connected = whole.connected.max(stats.connected).max(slice.used);
        whole.failed = whole.failed.max(stats.failed);
        whole.totals += &slice.totals;
    }
    pools
}

pub(super) fn rows(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let row = |(id, pool): (PoolId, Whole<'_>)| {
        let config = pool.config;
        let user = picture.config.users.find(&config.user, &config.database);
        let total = |stat: Stat| count(pool.totals[stat]);
        let mut row = vec![Value::from(id.0)];
        row.extend(place(config, pool.known.role));
        row.extend([
            count(pool.waiting),
            count(pool.idle),
            count(pool.active),
            count(pool.idle_in_transaction),
            count(pool.servers()),
            count(pool.longest_wait.as_secs()),
            Value::from(pool.longest_wait.subsec_micros()),
            text(mode(config.mode)),
            Value::Bool(pool.paused),
            Value::Bool(pool.known.ban.is_some()),
            Value::Bool(pool.is_healthy()),
            total(Stat::Broken),
            total(Stat::ReSynced),
            total(Stat::OutOfSync),
            total(Stat::ForceClosed),
            Value::Bool(pool.online),
            Value::Bool(user.is_some_and(|user| user.schema_admin)),
        ]);
        row
    };
    pools(picture.cores).into_iter().map(row).collect()
}

/// database, user, addr, port, shard, role: what was `found` out of that, or what is configured.
pub(super) fn place(config: &PoolConfig, found: Option<Role>) -> [Value; 6] {
    [
        text(config.database.clone()),
        text(config.user.clone()),
        text(config.address.host.to_string()),
        Value::from(config.address.port),
        Value::from(config.shard),
        text(match found.unwrap_or(config.role) {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Auto => "auto",
        }),
    ]
}

pub(super) fn mode(mode: PoolerMode) -> &'static str {
    match mode {
        PoolerMode::Transaction => "transaction",
        PoolerMode::Session => "session",
        PoolerMode::Statement => "statement",
    }
}
