//! A user's database as one core sees it: shards, the pools of their servers, and which of them a request goes to.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cores::Core;

use crate::balance::{
    Asks, Balance, Epoch, Event, LagLimits, Lsn, Member, Part, Pick, Policy, Refusal, Writable,
    Written,
};
use crate::config::choice::{QueryParser, Role};
use crate::config::{Balancing, Config};
use crate::metrics::Histogram;
use crate::pool::PoolId;
use crate::routing::role::{self, Needs};
use crate::sharding::lookups::Lookups;
use crate::sharding::{ShardingTables, SHARDS_MAX};
use crate::snapshot::Names;
use crate::sql::cache::Cache;
use crate::sql::lexer::Dialect;
use crate::sql::statement::Statement;

use super::client::{Learning, Learnt, PlainRows};
use super::pools::PoolSlot;

pub(crate) use crate::balance::Want;

/// Bytes that the analysed texts of one database and user take at most on one core.
const ANALYSES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The pools of one user and database. Made anew by a reload; the pools themselves stay, and so does what is known of
/// their servers.
pub(crate) struct Cluster {
    /// Whose it is.
    pub(crate) names: Arc<Names>,
    shards: Vec<Shard>,
    /// How texts are read by sessions that have set nothing about that, once it is known.
    pub(crate) dialect: Cell<Option<Dialect>>,
    /// Which rows are where.
    pub(crate) sharding: ShardingTables,
    /// Which rows would be where, if it is to be found out what statements would do.
    pub(crate) rehearsal: Option<ShardingTables>,
    /// Texts of this database that were analysed lately.
    pub(crate) analyses: RefCell<Cache>,
    /// Keys that a query translates, as far as they are known.
    pub(crate) lookups: RefCell<Lookups>,
    /// The tables that such queries name.
    pub(crate) translating: HashSet<Box<str>>,
    /// How its statements fared over shards.
    pub(crate) over_shards: Rc<OverShards>,
    /// Counts what may make a request that waits go elsewhere.
    news: Cell<u64>,
    /// Its statements are parsed.
    parses: bool,
    /// `read_your_writes`, and there is a choice of servers.
    reads_own_writes: bool,
    /// What its catalogue says.
    pub(crate) facts: RefCell<Option<Learnt>>,
    /// Counts how often that, or the configuration, has become another one.
    pub(crate) facts_number: Cell<u64>,
    /// What is known of its statements' rows.
    pub(crate) plain_rows: RefCell<PlainRows>,
    /// Who asks it.
    pub(crate) learning: Learning,
}

/// What is told of statements on a database of several shards.
#[derive(Default)]
pub(crate) struct OverShards {
    /// How many each touched; a histogram of numbers.
    pub(crate) touched: Histogram,
    /// From the first row of any shard to the last one.
    pub(crate) merges: Histogram,
}

/// One part of a database.
pub(crate) struct Shard {
    /// Its number, as configured.
    number: u32,
    /// In the order of the file, at least one.
    servers: Vec<Rc<PoolSlot>>,
    balance: RefCell<Balance>,
    /// It is found out who is the primary.
    elected: bool,
    /// Whom writes went to when that was last looked at.
    writable: Cell<Option<Writable>>,
    /// The last server that they went to.
    last: Cell<Option<usize>>,
}

/// What has become of who is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    None,
    /// Somebody else may be, or nobody.
    News,
    /// Somebody else is than this server, which was.
    Superseded(usize),
}

/// Where a request goes.
pub(crate) enum Choice {
    /// To a server of this pool.
    Pool {
        slot: Rc<PoolSlot>,
        /// Only over a connection that was opened under this epoch.
        epoch: Option<Epoch>,
        /// What has to be asked of it.
        asks: Asks,
    },
    /// Nowhere yet: ask again when there is news.
    Wait,
    /// Nowhere.
    Refused(Refusal),
}

#[expect(
    clippy::disallowed_methods,
    reason = "parsing is shorter than a turn of the ring, whose time is coarse"
)]
fn clock() -> Instant {
    Instant::now()
}

impl Cluster {
    /// `pools`: of one user and database, in the order of shards. What `before` knows of their servers is kept.
    pub(super) fn new(
        pools: &[Rc<PoolSlot>],
        before: Option<&Self>,
        config: &Config,
        core: &Core,
    ) -> Self {
        let shards = pools.chunk_by(|a, b| a.config().shard == b.config().shard);
        let first = pools.first().expect("a database has a server");
        let known = |number| before.and_then(|cluster| cluster.shard_numbered(number));
        let shard = |servers: &[Rc<PoolSlot>]| {
            let number = servers.first().map_or(0, |slot| slot.config().shard);
            Shard::new(number, servers, known(number), config, core)
        };
        let analyses_max = config.routing.analyses_max.div_ceil(core.count());
        // Who still has the old cluster has an empty cache from now on.
        let mut analyses = before.map_or_else(
            || Cache::new(0, 0).with_clock(clock),
            |before| before.analyses.replace(Cache::new(0, 0)),
        );
        analyses.resize(analyses_max, ANALYSES_BYTES_MAX);
        let sharding = config.cluster(&first.names.database);
        let own = sharding.is_some_and(|cluster| cluster.read_your_writes);
        let sharded = shards.clone().nth(1).is_some();
        let level = sharding.map_or(QueryParser::Auto, |cluster| cluster.parser);
        let needs = Needs {
            sharded,
            balanced: pools.len() > 1,
            ..Needs::default()
        };
        let shards: Vec<_> = shards.map(shard).collect();
        // Of what is known they depend on nothing that is configured but this.
        let tables = sharding
            .map(|cluster| cluster.sharding.clone())
            .unwrap_or_default();
        let same = |before: &&Self| {
            let slots = before.pools().map(|slot| slot.id);
            before.shards() == shards.len()
                && slots.eq(pools.iter().map(|slot| slot.id))
                && tables == before.sharding
        };
        let lasting = shards.len() == 1;
        let facts = before.filter(same);
        let facts = facts.and_then(|before| before.facts_to_keep(lasting));
        let lookups_max = config.routing.lookups_bytes_max / core.count().max(1);
        // Another configuration may ask other questions.
        let lookups = before.map_or_else(
            || Lookups::new(lookups_max),
            |before| {
                let renewed = before.lookups.borrow().renewed(lookups_max);
                before.lookups.replace(Lookups::new(0));
                renewed
            },
        );
        let rehearses = config.routing.dry_run && shards.len() == 1;
        let rehearsal = sharding.filter(|_| rehearses);
        Self {
            // Without that nobody knows where anything is.
            parses: sharded || role::analyses(level, needs),
            reads_own_writes: own && pools.len() > 1,
            rehearsal: rehearsal.map(|cluster| cluster.sharding.over(SHARDS_MAX)),
            names: Arc::clone(&first.names),
            dialect: Cell::new(None),
            sharding: tables,
            analyses: RefCell::new(analyses),
            lookups: RefCell::new(lookups),
            translating: sharding
                .map(|cluster| tables_asked(&cluster.sharding))
                .unwrap_or_default(),
            over_shards: before
                .map(|before| Rc::clone(&before.over_shards))
                .unwrap_or_default(),
            shards,
            news: Cell::new(before.map_or(0, |cluster| cluster.news.get() + 1)),
            facts: RefCell::new(facts),
            facts_number: Cell::new(before.map_or(0, |cluster| cluster.facts_number.get() + 1)),
            plain_rows: RefCell::default(),
            learning: Learning::default(),
        }
    }

    fn shard_numbered(&self, number: u32) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.number == number)
    }

    /// The pool that sessions belong to when they have no request: it tells what servers report, and holds them up in
    /// MAINTENANCE.
    pub(crate) fn home(&self) -> &Rc<PoolSlot> {
        self.writer_of(0)
    }

    /// The pool of the primary of this shard, as far as that is known; of the first one if there is none of that number.
    pub(crate) fn writer_of(&self, shard: usize) -> &Rc<PoolSlot> {
        let shard = self.shards.get(shard).unwrap_or(&self.shards[0]);
        let primary = shard.balance.borrow().roles().primary();
        let primary = primary.and_then(|primary| shard.servers.get(primary));
        primary
            .or_else(|| shard.configured_primary())
            .unwrap_or(&shard.servers[0])
    }

    /// The pools of all servers of the first shard, [`home`](Self::home) first: any of them knows the users.
    pub(crate) fn homes(&self) -> impl Iterator<Item = &Rc<PoolSlot>> {
        let home = self.home();
        let servers = self.shards[0].servers.iter();
        std::iter::once(home).chain(servers.filter(move |slot| !Rc::ptr_eq(slot, home)))
    }

    /// All pools.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Rc<PoolSlot>> {
        self.shards.iter().flat_map(|shard| &shard.servers)
    }

    /// Are rows on the same shards in both?
    pub(crate) fn is_spread_as(&self, other: &Self) -> bool {
        let same = std::ptr::eq(self, other);
        same || self.shards() == other.shards() && self.sharding == other.sharding
    }

    /// How many shards there are, at least one.
    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// All shards.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    /// Is a request that waits for a server of `pool` right to do so?
    pub(crate) fn is_right(&self, shard: usize, want: Want, pool: PoolId, now: Instant) -> bool {
        self.shards
            .get(shard)
            .is_some_and(|shard| shard.is_right(want, pool, now))
    }

    /// A shard, by its place among the others.
    pub(super) fn shard(&self, shard: usize) -> Option<&Shard> {
        self.shards.get(shard)
    }

    /// The pool of a server of this shard for a request that `tried` others in vain.
    pub(crate) fn pick(
        &self,
        shard: usize,
        (want, written): (Want, Written),
        tried: &[PoolId],
        now: Instant,
        random: impl FnOnce() -> u64,
    ) -> Choice {
        match self.shards.get(shard) {
            Some(shard) => shard.pick(want, written, tried, now, random),
            None => Choice::Refused(Refusal::NoServers),
        }
    }

    /// What a client is told that is refused by `shard`.
    pub(crate) fn number_of(&self, shard: usize) -> u32 {
        self.shards.get(shard).map_or(0, |shard| shard.number)
    }

    /// Is it found out who is the primary of this shard?
    pub(crate) fn is_elected(&self, shard: usize) -> bool {
        self.shards.get(shard).is_some_and(Shard::is_elected)
    }

    /// Is there somebody to write to in this shard, who has not failed lately?
    pub(crate) fn has_healthy_primary(&self, shard: usize, now: Instant) -> bool {
        let shard = self.shards.get(shard);
        let balance = shard.map(|shard| shard.balance.borrow());
        balance.is_some_and(|balance| match balance.roles().writable(now) {
            Writable::Server(server, _) => balance.is_healthy(server),
            Writable::Nobody | Writable::Never => false,
        })
    }

    /// Are statements parsed to tell reads from writes?
    pub(crate) fn parses(&self) -> bool {
        self.parses
    }

    /// Have reads to see what their own session has written?
    pub(crate) fn reads_own_writes(&self) -> bool {
        self.reads_own_writes
    }

    /// Is the server of this pool a replica, as far as is known?
    pub(crate) fn is_replica(&self, shard: usize, pool: PoolId) -> bool {
        let shard = self.shards.get(shard);
        shard.is_some_and(|shard| {
            let server = shard.place(pool);
            server.is_some_and(|server| shard.is_replica(server))
        })
    }

    /// A replica was asked at `at` how far it has come.
    pub(crate) fn has_replayed(&self, shard: usize, pool: PoolId, at: Instant, lsn: Lsn) {
        self.note(shard, pool, |balance, server| {
            balance.replayed(server, at, lsn);
        });
    }

    /// A read has waited for a replica for so long in vain.
    pub(crate) fn stalled(&self, shard: usize, pool: PoolId, now: Instant, waited: Duration) {
        self.note(shard, pool, |balance, server| {
            balance.stalled(server, now, waited);
        });
    }

    fn note(&self, shard: usize, pool: PoolId, note: impl FnOnce(&mut Balance, usize)) {
        let shard = self.shards.get(shard);
        let place = shard.and_then(|shard| Some((shard, shard.place(pool)?)));
        if let Some((shard, server)) = place {
            note(&mut shard.balance.borrow_mut(), server);
        }
    }

    /// Is there a choice between servers that statements have to be looked at for?
    pub(crate) fn is_split(&self) -> bool {
        self.shards.len() > 1 || self.shards.iter().any(|shard| shard.servers.len() > 1)
    }

    /// Another number than before: a request that waits should ask again.
    #[inline]
    pub(crate) fn news(&self) -> u64 {
        self.news.get()
    }

    /// Something has changed that requests which wait should know.
    pub(super) fn announce(&self) {
        self.news.set(self.news.get() + 1);
    }
}

impl Shard {
    fn new(
        number: u32,
        servers: &[Rc<PoolSlot>],
        before: Option<&Self>,
        config: &Config,
        core: &Core,
    ) -> Self {
        let members: Vec<Member> = servers.iter().map(|slot| member(slot, config)).collect();
        let found_out = members.iter().any(|member| member.role == Role::Auto);
        let name = servers.first().map_or("", |slot| &slot.names.database);
        let own = config
            .cluster(name)
            .is_some_and(|cluster| cluster.read_your_writes);
        let policy = policy(&config.balancing, found_out || own);
        let known = before.map(|shard| (shard, shard.balance.borrow()));
        let balance = match known {
            Some((shard, balance)) => {
                let places = servers.iter().map(|slot| shard.place(slot.id));
                balance.reconfigured(members, policy, &places.collect::<Vec<_>>())
            }
            None => Balance::new(members, policy, core.index(), core.count()),
        };
        let last = before.and_then(|shard| {
            let last = shard.servers.get(shard.last.get()?)?;
            servers.iter().position(|slot| slot.id == last.id)
        });
        Self {
            number,
            elected: found_out,
            servers: servers.to_vec(),
            balance: RefCell::new(balance),
            writable: Cell::new(None),
            last: Cell::new(last),
        }
    }

    fn place(&self, pool: PoolId) -> Option<usize> {
        self.servers.iter().position(|slot| slot.id == pool)
    }

    fn configured_primary(&self) -> Option<&Rc<PoolSlot>> {
        let mut servers = self.servers.iter();
        servers.find(|slot| slot.config().role == Role::Primary)
    }

    fn pick(
        &self,
        want: Want,
        written: Written,
        tried: &[PoolId],
        now: Instant,
        random: impl FnOnce() -> u64,
    ) -> Choice {
        if let (Some(only), Want::Write) = (self.sole_primary(), want) {
            return Choice::Pool {
                slot: Rc::clone(only),
                epoch: None,
                asks: Asks::Nothing,
            };
        }
        let is_tried = |server: usize| tried.contains(&self.servers[server].id);
        let active = |server: usize| self.servers[server].active();
        let mut balance = self.balance.borrow_mut();
        match balance.pick(want, written, is_tried, active, now, random()) {
            Pick::Server {
                server,
                epoch,
                asks,
            } => Choice::Pool {
                slot: Rc::clone(&self.servers[server]),
                epoch,
                asks,
            },
            Pick::Wait => {
                // Old evidence ends without anybody noticing: whoever waits has to hear when there is new one of the same.
                self.writable.set(Some(balance.roles().writable(now)));
                Choice::Wait
            }
            Pick::Refused(refusal) => Choice::Refused(refusal),
        }
    }

    /// Its server, if there is no other to write to, whatever it says of itself.
    fn sole_primary(&self) -> Option<&Rc<PoolSlot>> {
        match &*self.servers {
            [only] if !self.elected => Some(only),
            _ => None,
        }
    }

    /// Is it known that a connection to this server, opened under `epoch`, is to one that is written to no more? One that was opened
    /// before anybody knew who was the primary may be to whoever is.
    pub(super) fn is_superseded(&self, server: usize, epoch: Option<Epoch>, now: Instant) -> bool {
        if self.sole_primary().is_some() {
            return false;
        }
        let balance = self.balance.borrow();
        let roles = balance.roles();
        let replaced = epoch.is_some() && roles.is_superseded(server, epoch, now);
        replaced || roles.part(server) == Part::Apart
    }

    fn is_right(&self, want: Want, pool: PoolId, now: Instant) -> bool {
        let Some(server) = self.place(pool) else {
            return false;
        };
        let balance = self.balance.borrow();
        match want {
            _ if self.servers.len() == 1 => true,
            Want::Write => {
                matches!(balance.roles().writable(now), Writable::Server(now, _) if now == server)
            }
            Want::Read | Want::Replica => balance.ban(server, now).is_none(),
        }
    }

    /// Its servers, in the order that its balance counts them in.
    pub(super) fn servers(&self) -> &[Rc<PoolSlot>] {
        &self.servers
    }

    /// What is known of its servers.
    pub(super) fn balance(&self) -> &RefCell<Balance> {
        &self.balance
    }

    /// Do writes go elsewhere than when this was last asked?
    pub(super) fn turn(&self, now: Instant) -> Turn {
        let writable = self.balance.borrow().roles().writable(now);
        if self.writable.replace(Some(writable)) == Some(writable) {
            return Turn::None;
        }
        let Writable::Server(server, _) = writable else {
            return Turn::News;
        };
        match self.last.replace(Some(server)) {
            Some(before) if before != server => Turn::Superseded(before),
            _ => Turn::News,
        }
    }

    /// Is this server a replica, as far as is known?
    pub(super) fn is_replica(&self, server: usize) -> bool {
        self.balance.borrow().roles().part(server) == Part::Replica
    }

    /// Is there nobody to write to at the moment?
    pub(super) fn lacks_primary(&self, now: Instant) -> bool {
        self.balance.borrow().roles().writable(now) == Writable::Nobody
    }

    /// Would such an event change nothing that others should know?
    pub(super) fn is_old_news(&self, server: usize, event: Event, now: Instant) -> bool {
        // A server that has no other beside it is used whatever is known of it; only its health is shown.
        self.balance.borrow().is_old_news(server, event, now)
    }

    /// Is it found out which of its servers is the primary?
    pub(crate) fn is_elected(&self) -> bool {
        self.elected
    }
}

/// The tables that lookup queries name. What they read through views and functions is not among them.
fn tables_asked(tables: &ShardingTables) -> HashSet<Box<str>> {
    let mut cache = Cache::new(0, 0);
    let mut names = HashSet::new();
    for column in &tables.columns {
        let Some(lookup) = &column.lookup else {
            continue;
        };
        let analysed = cache.analyse(lookup.query.as_bytes(), Dialect::default());
        let statements = analysed.analysis.statements.iter().flatten();
        let tables = |statement: &Statement| {
            let tables = statement.tables.iter();
            tables.map(|table| table.name.clone()).collect::<Vec<_>>()
        };
        names.extend(statements.flat_map(tables));
    }
    names
}

fn member(slot: &PoolSlot, config: &Config) -> Member {
    let pool = slot.config();
    let cluster = config.cluster(&pool.database);
    let mut shards = cluster.into_iter().flat_map(|cluster| &cluster.shards);
    let shard = shards.find(|shard| shard.number == pool.shard);
    let mut servers = shard.into_iter().flat_map(|shard| &shard.servers);
    let server = servers.find(|server| server.address == pool.address && server.role == pool.role);
    Member {
        role: pool.role,
        weight: server.map_or(u8::MAX, |server| server.weight),
        resharding_only: server.is_some_and(|server| server.resharding_only),
    }
}

fn policy(balancing: &Balancing, checked: bool) -> Policy {
    Policy {
        split: balancing.split,
        strategy: balancing.strategy,
        ban_timeout: balancing.ban_timeout,
        lag: LagLimits {
            time: balancing.lag_max,
            bytes: balancing.lag_bytes_max,
        },
        role_checks: balancing.roles(checked).map(|pace| pace.interval),
    }
}
