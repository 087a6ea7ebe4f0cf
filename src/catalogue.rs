//! Every metric: its name, type and meaning, and where its numbers come from.
//!
//! Names, types, labels and units are those of PgDog's exporter where it has the metric, so that dashboards go on
//! working. `docs/metrics.md` is written by the test below.

mod pools;
mod series;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::family::{Family, Kind, Labels, Value};
use crate::metrics::{Averages, Distribution, Phase, TallyTotals, Timed};
use crate::pool::PoolId;
use crate::snapshot::{sum, Analysing, CoreSnapshot, LookupsSnapshot, PoolSnapshot, BUFFER_BYTES};

pub use series::Past;

/// What the metrics are made of.
#[derive(Debug, Default)]
pub struct View {
    /// All cores.
    pub cores: Vec<CoreSnapshot>,
    /// What pools have counted that are there no more, for those that have their labels.
    pub past: Vec<PoolSnapshot>,
    /// Of the last `stats_period`, for pools that were there.
    pub averages: HashMap<PoolId, Averages>,
    /// Share of the last `stats_period` that each core was busy, in the order of `cores`.
    pub busy: Vec<f64>,
    /// In front of names, as text.
    pub namespace: String,
    /// Clients may log in.
    pub accepting: bool,
    /// `prepared_statements_limit`.
    pub prepared_statements_limit: u64,
    /// `query_cache_limit`.
    pub query_cache_limit: u64,
    /// Reloads that went well, and that did not.
    pub reloads: [u64; 2],
    /// When the running configuration came into force, since 1970.
    pub configured: Duration,
    /// Memory of the process, as the kernel counts it.
    pub resident_bytes: usize,
}

impl View {
    /// At least one pool is healthy, or there is none.
    pub fn is_healthy(&self) -> bool {
        let pools = sum(&self.cores);
        pools.is_empty() || pools.iter().any(PoolSnapshot::is_healthy)
    }
}

/// All metrics, those without samples included.
pub fn families(view: &View) -> Vec<Family> {
    let pools = series::by_labels(sum(&view.cores), &view.past);
    let mut families = process(view, &pools);
    families.extend(pools::families(view, &pools));
    families.extend(cores(view));
    families.extend(tallies(view));
    families.extend(analyses(view));
    families.extend(over_shards(view));
    families.extend(lookups(view));
    families.extend(without_feature());
    families
}

fn process(view: &View, pools: &[PoolSnapshot]) -> Vec<Family> {
    let of_cores = |number: fn(&CoreSnapshot) -> usize| {
        Value::Count(view.cores.iter().map(number).sum::<usize>() as u64)
    };
    let lone = |name, kind, help, value| {
        let labels: Labels = Arc::from([]);
        Family::new(name, kind, help).with(&labels, value)
    };
    let locked = pools.iter().map(|pool| pool.pinned).sum::<usize>();
    let mut reloads = Family::new(
        "config_reloads",
        Kind::Counter,
        "Reloads of the configuration.",
    );
    for (result, count) in ["ok", "error"].into_iter().zip(view.reloads) {
        reloads.push(
            &labels([("result", result.to_owned())]),
            Value::Count(count),
        );
    }
    let version = labels([
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        (
            "commit",
            option_env!("PGDOG_COMMIT").unwrap_or("unknown").to_owned(),
        ),
    ]);
    vec![
        lone(
            "clients",
            Kind::Gauge,
            "Connected clients.",
            of_cores(|core| core.clients + core.admins),
        ),
        lone(
            "clients_locked",
            Kind::Gauge,
            "Clients pinned to a server connection.",
            Value::Count(locked as u64),
        ),
        lone(
            "prepared_statements_limit",
            Kind::Gauge,
            "Prepared statements that a server connection may have.",
            Value::Count(view.prepared_statements_limit),
        ),
        lone(
            "prepared_statements",
            Kind::Gauge,
            "Prepared statements known, counted on each core.",
            of_cores(|core| core.statements_known),
        ),
        lone(
            "prepared_statements_memory_used",
            Kind::Gauge,
            "Bytes of these.",
            of_cores(|core| core.statement_bytes),
        ),
        Family::new(
            "build_info",
            Kind::Gauge,
            "1; labels say what was built (PGDOG_COMMIT when it was).",
        )
        .with(&version, Value::Count(1)),
        reloads,
        lone(
            "config_last_reload_seconds",
            Kind::Gauge,
            "Unix time at which the running configuration came into force.",
            Value::Number(view.configured.as_secs_f64()),
        ),
    ]
}

fn count(number: usize) -> Value {
    Value::Count(number as u64)
}

/// A histogram by labels, to which several pools add.
struct Group {
    name: &'static str,
    help: &'static str,
    groups: BTreeMap<Vec<(&'static str, String)>, Distribution>,
}

impl Group {
    fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            groups: BTreeMap::new(),
        }
    }

    fn of(
        mut self,
        pools: &[PoolSnapshot],
        phase: Phase,
        labels: impl Fn(&PoolSnapshot) -> Vec<(&'static str, String)>,
    ) -> Family {
        self.add(pools, phase, labels);
        self.family()
    }

    /// What never happened has no samples.
    fn add(
        &mut self,
        pools: &[PoolSnapshot],
        phase: Phase,
        labels: impl Fn(&PoolSnapshot) -> Vec<(&'static str, String)>,
    ) {
        for pool in pools {
            let Some(latencies) = &pool.latencies else {
                continue;
            };
            if !latencies[phase].is_empty() {
                *self.groups.entry(labels(pool)).or_default() += &latencies[phase];
            }
        }
    }

    fn family(self) -> Family {
        let mut family = Family::new(self.name, Kind::Histogram, self.help).unit("seconds");
        for (labels, times) in self.groups {
            family.push(&Arc::from(labels), Value::Times(Arc::new(times)));
        }
        family
    }
}

fn cores(view: &View) -> Vec<Family> {
    let mut busy = Family::new(
        "core_busy_ratio",
        Kind::Gauge,
        "Share of the last period that the core was busy.",
    );
    let mut clients = Family::new("core_clients", Kind::Gauge, "Clients of the core.");
    let mut servers = Family::new(
        "core_servers",
        Kind::Gauge,
        "Server connections of the core.",
    );
    let mut turns = Family::new(
        "executor_poll_seconds",
        Kind::Histogram,
        "Turns of the core: what runs between two looks at its sockets, while all others wait.",
    )
    .unit("seconds")
    .short();
    for (at, core) in view.cores.iter().enumerate() {
        let labels = labels([("core", core.core.to_string())]);
        if let Some(took) = &core.turns {
            turns.push(&labels, Value::Times(Arc::new(took.clone())));
        }
        busy.push(
            &labels,
            Value::Number(view.busy.get(at).copied().unwrap_or(0.0)),
        );
        clients.push(&labels, count(core.clients));
        let open = |pool: &PoolSnapshot| pool.stats.idle + pool.stats.active;
        servers.push(&labels, count(core.pools.iter().map(open).sum()));
    }
    vec![busy, clients, servers, turns]
}

/// What belongs to no pool.
fn tallies(view: &View) -> Vec<Family> {
    let mut totals = TallyTotals::default();
    view.cores.iter().for_each(|core| totals += &core.tally);
    let mut logins = Family::new("client_logins", Kind::Counter, "Logins of clients.");
    for ((database, result), count) in &totals.logins {
        let labels = labels([
            ("database", database.clone()),
            ("result", result.name().to_owned()),
        ]);
        logins.push(&labels, Value::Count(*count));
    }
    let mut errors = Family::new(
        "client_errors",
        Kind::Counter,
        "Errors that clients had from here, not from servers.",
    );
    for ((database, code), count) in &totals.errors {
        let labels = labels([
            ("database", database.clone()),
            ("sqlstate", code.to_string()),
        ]);
        errors.push(&labels, Value::Count(*count));
    }
    let mut times = Family::new(
        "client_login_duration_seconds",
        Kind::Histogram,
        "From a connection to its welcome or refusal.",
    )
    .unit("seconds");
    for ((method, tls), time) in totals.login_times {
        let labels = labels([("method", method.to_owned()), ("tls", tls.to_string())]);
        times.push(&labels, Value::Times(Arc::new(time)));
    }
    let mut cancels = Family::new("cancels", Kind::Counter, "Cancel requests.");
    for (result, count) in ["sent", "unknown"].into_iter().zip(totals.cancels) {
        cancels.push(
            &labels([("result", result.to_owned())]),
            Value::Count(count),
        );
    }
    let mut handoffs = Family::new(
        "core_handoffs",
        Kind::Counter,
        "Messages from one core to another.",
    );
    for core in &view.cores {
        for (to, sent) in core.mail_sent.iter().enumerate() {
            if to != core.core {
                let labels = labels([("from", core.core.to_string()), ("to", to.to_string())]);
                handoffs.push(&labels, Value::Count(*sent));
            }
        }
    }
    let mut families = vec![logins, errors, times, cancels, handoffs, memory(view)];
    families.extend(TIMED.map(|(what, name, help)| {
        let mut family = Family::new(name, Kind::Histogram, help).unit("seconds");
        if what == Timed::Parse {
            family = family.short();
        }
        for ((of, whose), times) in &totals.times {
            if *of == what {
                family.push(
                    &Labels::from(whose.clone()),
                    Value::Times(Arc::new(times.clone())),
                );
            }
        }
        family
    }));
    families
}

const TIMED: [(Timed, &str, &str); 4] = [
    (
        Timed::Parse,
        "query_parse_duration_seconds",
        "Parsing of statements that are not in the cache.",
    ),
    (
        Timed::Healthcheck,
        "healthcheck_duration_seconds",
        "Checks of servers in the background.",
    ),
    (
        Timed::TwoPhase,
        "two_pc_phase_duration_seconds",
        "Phases of two-phase commits.",
    ),
    (
        Timed::Hold,
        "pause_hold_seconds",
        "How long requests were held by PAUSE and MAINTENANCE.",
    ),
];

/// Statements that were analysed, and where they went.
fn analyses(view: &View) -> Vec<Family> {
    let mut sum = Analysing::default();
    view.cores.iter().for_each(|core| sum += core.analysing);
    let recovered = view.cores.iter().map(|core| core.commits_recovered).sum();
    let nobody: Labels = Arc::from([]);
    let counter = |name, help, value| {
        Family::new(name, Kind::Counter, help).with(&nobody, Value::Count(value))
    };
    let gauge =
        |name, help, value| Family::new(name, Kind::Gauge, help).with(&nobody, Value::Count(value));
    vec![
        gauge(
            "query_cache_limit",
            "Analysed statements that are kept at most.",
            view.query_cache_limit,
        ),
        counter(
            "query_cache_hits",
            "Statements that were analysed already.",
            sum.hits,
        ),
        counter(
            "query_cache_misses",
            "Statements that were parsed.",
            sum.misses,
        ),
        counter(
            "query_cache_direct",
            "Statements that went to one shard.",
            sum.direct,
        ),
        counter(
            "query_cache_cross",
            "Statements that went to several shards.",
            sum.cross,
        ),
        gauge(
            "query_cache_size",
            "Analysed statements kept.",
            sum.entries as u64,
        ),
        Family::new(
            "query_cache_parse_time",
            Kind::Counter,
            "Milliseconds of parsing.",
        )
        .with(&nobody, Value::Number(sum.parsing.as_secs_f64() * 1e3)),
        counter(
            "query_cache_fingerprints",
            "Shapes computed: each text is read for its shape once.",
            sum.hits + sum.misses,
        ),
        counter(
            "two_pc_recovered_total",
            "Two-phase transactions found in the log of an earlier process.",
            recovered,
        ),
    ]
}

/// Statements on databases of several shards.
fn over_shards(view: &View) -> [Family; 2] {
    let mut touched = Group::new("shards_per_query", "Shards that statements touched.");
    let mut merges = Group::new(
        "cross_shard_merge_seconds",
        "From the first row of any shard to the last one merged.",
    );
    for one in view.cores.iter().flat_map(|core| &core.over_shards) {
        let database = ("database", one.names.database.clone());
        if !one.touched.is_empty() {
            let whose = vec![("user", one.names.user.clone()), database.clone()];
            *touched.groups.entry(whose).or_default() += &one.touched;
        }
        if !one.merges.is_empty() {
            *merges.groups.entry(vec![database]).or_default() += &one.merges;
        }
    }
    let mut touched = touched.family().numbers();
    touched.unit = None;
    [touched, merges.family()]
}

/// Keys that a query translates: for each user and database, and all together.
fn lookups(view: &View) -> Vec<Family> {
    type Read = fn(&LookupsSnapshot) -> u64;
    let of: [(_, _, _, Read); 6] = [
        (
            "sharding_lookup_cache_hits",
            Kind::Counter,
            "Sharding keys whose translation was known.",
            |one| one.counts.hits,
        ),
        (
            "sharding_lookup_cache_misses",
            Kind::Counter,
            "Sharding keys whose translation was not known.",
            |one| one.counts.misses,
        ),
        (
            "sharding_lookup_cache_evictions",
            Kind::Counter,
            "Translations that made room for others.",
            |one| one.counts.evictions,
        ),
        (
            "sharding_lookup_queries",
            Kind::Counter,
            "Lookup queries run.",
            |one| one.counts.queries,
        ),
        (
            "sharding_lookup_cache_bytes",
            Kind::Gauge,
            "Bytes of translations that are known, about.",
            |one| one.bytes as u64,
        ),
        (
            "sharding_lookup_cache_entries",
            Kind::Gauge,
            "Translations that are known.",
            |one| one.entries as u64,
        ),
    ];
    let mut all: BTreeMap<(&str, &str), Vec<&LookupsSnapshot>> = BTreeMap::new();
    for one in view.cores.iter().flat_map(|core| &core.over_shards) {
        if let Some(lookups) = &one.lookups {
            let whose = (&*one.names.user, &*one.names.database);
            all.entry(whose).or_default().push(lookups);
        }
    }
    let family = |name, kind, help, value: &dyn Fn(&[&LookupsSnapshot]) -> Value| {
        let mut family = Family::new(name, kind, help);
        for ((user, database), of) in &all {
            let whose = [
                ("user", (*user).to_owned()),
                ("database", (*database).to_owned()),
            ];
            family.push(&labels(whose), value(of));
        }
        if !all.is_empty() {
            let every: Vec<_> = all.values().flatten().copied().collect();
            family.push(&labels([]), value(&every));
        }
        family
    };
    let mut families: Vec<_> = of
        .into_iter()
        .map(|(name, kind, help, read)| {
            family(name, kind, help, &|of| {
                Value::Count(of.iter().map(|one| read(one)).sum())
            })
        })
        .collect();
    families.push(family(
        "sharding_lookup_query_time",
        Kind::Counter,
        "Milliseconds in lookup queries.",
        &|of| {
            let time: Duration = of.iter().map(|one| one.counts.query_time).sum();
            Value::Number(time.as_secs_f64() * 1e3)
        },
    ));
    families
}

/// Names that dashboards of PgDog know and whose features are not there: headers without samples.
fn without_feature() -> Vec<Family> {
    use Kind::{Counter, Gauge};
    const MIRRORING: &str = "Mirroring is not there: no samples.";
    const LISTENERS: &str = "LISTEN keeps a client's own server: no samples.";
    [
        ("mirror_total_count", Counter, MIRRORING),
        ("mirror_mirrored_count", Counter, MIRRORING),
        ("mirror_dropped_count", Counter, MIRRORING),
        ("mirror_error_count", Counter, MIRRORING),
        ("mirror_queue_length", Gauge, MIRRORING),
        ("pub_sub_listeners", Gauge, LISTENERS),
        ("pub_sub_listener_received", Counter, LISTENERS),
        ("pub_sub_listener_dropped", Counter, LISTENERS),
    ]
    .map(|(name, kind, help)| Family::new(name, kind, help))
    .to_vec()
}

/// Buffers are counted whole, though only what was written to takes memory, so that the rest may be less.
fn memory(view: &View) -> Family {
    let mut memory = Family::new(
        "memory_bytes",
        Kind::Gauge,
        "Bytes by kind: receive buffers with data, prepared and analysed statements, all the rest of what is resident.",
    );
    let buffers: usize = view.cores.iter().map(|core| core.buffers_lent).sum();
    let buffers = buffers * BUFFER_BYTES;
    let statements: usize = view.cores.iter().map(|core| core.statement_bytes).sum();
    let analyses: usize = view.cores.iter().map(|core| core.analysing.bytes).sum();
    let known = buffers + statements + analyses;
    let other = view.resident_bytes.saturating_sub(known);
    for (kind, bytes) in [
        ("buffers", buffers),
        ("prepared_statements", statements),
        ("query_cache", analyses),
        ("other", other),
    ] {
        memory.push(&labels([("kind", kind.to_owned())]), count(bytes));
    }
    memory
}

fn labels<const N: usize>(labels: [(&'static str, String); N]) -> Labels {
    Arc::from(labels)
}

#[cfg(test)]
mod tests;
