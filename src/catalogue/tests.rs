use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::balance::Lag;
use crate::config::{resolve, Source, Sources};
use crate::metrics::family::Sample;
use crate::metrics::{Counters, Histogram, Latencies, LoginResult, Stat, Tally};
use crate::pool::PoolStats;
use crate::protocol::sqlstate::SqlState;
use crate::snapshot::{pass_over_gone, Known, LookupsSnapshot, Names, OverShardsSnapshot};

/// What a program with one busy core and one pool shows.
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn view() -> View {
    let source = |path, text| Source {
        path,
        text: Some(text),
    };
    let resolved = resolve(&Sources {
        config: source("p", "[[databases]]\nname = \"shop\"\nhost = \"db1\""),
        users: source(
            "u",
            "[[users]]\nname = \"ann\"\ndatabase = \"shop\"\npassword = \"p\"",
        ),
        environment: &Default::default(),
        overrides: &Default::default(),
    });
    let config = resolved.expect("valid").config;
    let latencies = Latencies::default();
    Phase::ALL
        .iter()
        .for_each(|phase| latencies.record(*phase, 3_000_000));
    let counters = Counters::default();
    counters.add(Stat::XactCount, 7);
    counters.add(Stat::XactTime, 1_500_000);
    let pool = PoolSnapshot {
        id: PoolId(1),
        config: Arc::new(config.pools[0].clone()),
        stats: PoolStats {
            idle: 2,
            ..PoolStats::default()
        },
        totals: counters.totals(),
        latencies: Some(latencies.read()),
        idle_in_transaction: 0,
        pinned: 0,
        used: None,
        servers: Vec::new(),
        known: Known {
            healthy: true,
            lag: Some(Lag::default()),
            ..Known::default()
        },
        gone: false,
    };
    let tally = Tally::default();
    let took = Duration::from_millis(3);
    tally.login("shop", LoginResult::Ok, ("scram", true), took);
    tally.error("shop", SqlState::INVALID_PASSWORD);
    tally.cancels_unknown.add(1);
    for what in [
        Timed::Parse,
        Timed::Healthcheck,
        Timed::TwoPhase,
        Timed::Hold,
    ] {
        let labels: &[&str] = match what {
            Timed::Parse => &[],
            Timed::Healthcheck => &["host", "port", "database"],
            Timed::TwoPhase => &["database", "phase"],
            Timed::Hold => &["database"],
        };
        let whose = labels.iter().map(|label| (*label, "x".to_owned()));
        tally.timed(what, whose.collect(), took);
    }
    let two = Histogram::default();
    two.record(2);
    let core = |number, pool: &PoolSnapshot| CoreSnapshot {
        core: number,
        cpu: number,
        taken: Instant::now(),
        clients: 3,
        tasks: 0,
        sockets: 0,
        panics: 0,
        busy: Duration::ZERO,
        mail_sent: vec![1, 2],
        moved_in: 0,
        mail_received: 0,
        admins: 0,
        sessions: Vec::new(),
        statements: Vec::new(),
        statements_known: 1,
        statement_bytes: 100,
        buffers: 64,
        buffers_lent: 2,
        turns: Some(two.read()),
        tally: tally.totals(),
        analysing: Analysing {
            hits: 3,
            misses: 2,
            parsing: took,
            ..Analysing::default()
        },
        analyses: Vec::new(),
        commits: Vec::new(),
        commits_recovered: 1,
        over_shards: vec![OverShardsSnapshot {
            names: Arc::new(Names {
                user: "ann".to_owned(),
                database: "shop".to_owned(),
            }),
            touched: two.read(),
            merges: two.read(),
            lookups: Some(LookupsSnapshot {
                entries: 3,
                ..LookupsSnapshot::default()
            }),
        }],
        pools: vec![pool.clone()],
    };
    View {
        cores: vec![core(0, &pool), core(1, &pool)],
        resident_bytes: 1_000_000,
        ..View::default()
    }
}

fn by_name() -> BTreeMap<String, Family> {
    let families = families(&view());
    families
        .into_iter()
        .map(|family| (family.name.clone(), family))
        .collect()
}

fn number(family: &Family) -> f64 {
    match family.samples.as_slice() {
        [Sample {
            value: Value::Count(count),
            ..
        }] => *count as f64,
        [Sample {
            value: Value::Number(number),
            ..
        }] => *number,
        other => panic!("{other:?}"),
    }
}

#[test]
fn cores_are_summed_and_times_are_milliseconds() {
    let families = by_name();
    for (name, value) in [
        ("clients", 6.0),
        ("sv_idle", 4.0),
        ("total_xact_count", 14.0),
        ("total_xact_time", 3.0),
        ("avg_xact_time", 0.0),
        ("max_connections", 10.0),
        ("prepared_statements", 2.0),
    ] {
        assert_eq!(number(&families[name]), value, "{name}");
    }
    let labels: Vec<_> = families["sv_idle"].samples[0]
        .labels
        .iter()
        .map(|(label, _)| *label)
        .collect();
    assert_eq!(
        labels,
        ["user", "database", "host", "port", "shard", "role"]
    );
    let Value::Times(times) = &families["transaction_duration_seconds"].samples[0].value else {
        panic!("a histogram")
    };
    assert_eq!(times.count(), 2);
}

const POOL: &str = "user database host port shard role";

/// The names, types and labels of the contract.
#[test]
fn names_and_types_are_those_that_dashboards_know() {
    let families = by_name();
    let kind = |name: &str| families.get(name).map(|family| family.kind);
    for name in [
        "clients",
        "clients_locked",
        "prepared_statements_limit",
        "prepared_statements",
        "prepared_statements_memory_used",
        "max_connections",
        "cl_waiting",
        "sv_active",
        "sv_idle",
        "sv_idle_xact",
        "sv_locked",
        "maxwait",
    ] {
        assert_eq!(kind(name), Some(Kind::Gauge), "{name}");
    }
    for name in ["errors", "out_of_sync"] {
        assert_eq!(kind(name), Some(Kind::Counter), "{name}");
    }
    for name in [
        "xact_count",
        "xact_2pc_count",
        "query_count",
        "received",
        "sent",
        "xact_time",
        "idle_xact_time",
        "query_time",
        "prepared_evictions",
        "server_errors",
        "cleaned",
        "rollbacks",
        "connect_time",
        "connect_count",
        "reads",
        "writes",
        "auth_attempts",
        "rows_inserted",
        "rows_updated",
        "rows_deleted",
        "wait_time",
        "server_assignment_count",
        "server_parse_count",
        "bind_count",
    ] {
        assert_eq!(
            kind(&format!("total_{name}")),
            Some(Kind::Counter),
            "{name}"
        );
        let average = match name {
            "received" => Kind::Counter,
            _ => Kind::Gauge,
        };
        assert_eq!(kind(&format!("avg_{name}")), Some(average), "{name}");
    }
    for (name, of, labels) in [
        ("query_cache_limit", Kind::Gauge, ""),
        ("query_cache_size", Kind::Gauge, ""),
        ("query_cache_hits", Kind::Counter, ""),
        ("query_cache_misses", Kind::Counter, ""),
        ("query_cache_direct", Kind::Counter, ""),
        ("query_cache_cross", Kind::Counter, ""),
        ("query_cache_parse_time", Kind::Counter, ""),
        ("query_cache_fingerprints", Kind::Counter, ""),
        ("two_pc_recovered_total", Kind::Counter, ""),
        (
            "sharding_lookup_cache_entries",
            Kind::Gauge,
            "user database",
        ),
        ("build_info", Kind::Gauge, "version commit"),
        ("config_reloads", Kind::Counter, "result"),
        ("config_last_reload_seconds", Kind::Gauge, ""),
        ("client_logins", Kind::Counter, "database result"),
        ("client_errors", Kind::Counter, "database sqlstate"),
        ("cancels", Kind::Counter, "result"),
        ("core_busy_ratio", Kind::Gauge, "core"),
        ("core_clients", Kind::Gauge, "core"),
        ("core_servers", Kind::Gauge, "core"),
        ("core_handoffs", Kind::Counter, "from to"),
        ("memory_bytes", Kind::Gauge, "kind"),
        ("checkout_timeouts", Kind::Counter, POOL),
        ("pool_healthy", Kind::Gauge, POOL),
        ("pool_banned", Kind::Gauge, POOL),
        ("pool_paused", Kind::Gauge, POOL),
        ("replica_lag_seconds", Kind::Gauge, POOL),
        ("replica_lag_bytes", Kind::Gauge, POOL),
        (
            "bans",
            Kind::Counter,
            "user database host port shard role reason",
        ),
        (
            "query_duration_seconds",
            Kind::Histogram,
            "user database kind",
        ),
        ("proxy_overhead_seconds", Kind::Histogram, "database"),
        ("executor_poll_seconds", Kind::Histogram, "core"),
        (
            "server_query_duration_seconds",
            Kind::Histogram,
            "user database shard role",
        ),
        (
            "checkout_wait_seconds",
            Kind::Histogram,
            "user database shard role",
        ),
        (
            "transaction_duration_seconds",
            Kind::Histogram,
            "user database",
        ),
        (
            "idle_in_transaction_seconds",
            Kind::Histogram,
            "user database",
        ),
        (
            "server_connect_duration_seconds",
            Kind::Histogram,
            "host port phase",
        ),
        (
            "client_login_duration_seconds",
            Kind::Histogram,
            "method tls",
        ),
        ("query_parse_duration_seconds", Kind::Histogram, ""),
        (
            "healthcheck_duration_seconds",
            Kind::Histogram,
            "host port database",
        ),
        ("shards_per_query", Kind::Histogram, "user database"),
        ("cross_shard_merge_seconds", Kind::Histogram, "database"),
        (
            "two_pc_phase_duration_seconds",
            Kind::Histogram,
            "database phase",
        ),
        ("pause_hold_seconds", Kind::Histogram, "database"),
    ] {
        assert_eq!(kind(name), Some(of), "{name}");
        let found = families[name].samples[0].labels.iter();
        let found: Vec<_> = found.map(|(label, _)| *label).collect();
        assert_eq!(found.join(" "), labels, "{name}");
    }
    // Of features that are not there: known, without samples.
    for name in ["mirror_total_count", "pub_sub_listeners"] {
        assert!(families[name].samples.is_empty(), "{name}");
    }
    let units: BTreeSet<_> = families
        .values()
        .filter(|family| family.kind != Kind::Histogram)
        .filter_map(|f| f.unit)
        .collect();
    assert_eq!(units, BTreeSet::from(["seconds"]));
    assert!(families.keys().all(|name| name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')));
}

#[test]
fn a_pool_is_unhealthy_until_something_goes_well_again() {
    let mut view = view();
    assert!(view.is_healthy(), "nobody has tried");
    let now = view.cores[0].taken;
    view.cores[0].pools[0].stats.failed = Some(now);
    assert!(!view.is_healthy());
    view.cores[1].pools[0].used = Some(now + Duration::from_secs(1));
    assert!(view.is_healthy(), "another core got through");
    assert!(View::default().is_healthy(), "no pools at all");
}

fn document() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         With `openmetrics_port` set, pgdog answers GET and HEAD of any path there with all of these, each name behind\n\
         `openmetrics_namespace`: as Prometheus text, or as strict OpenMetrics if the Accept header names\n\
         `application/openmetrics-text` (samples of counters then end in `_total`). With `[otel] endpoint` set it\n\
         pushes them by OTLP over HTTP, counters as differences.\n\
         [`deploy/grafana/pgdog.json`](../deploy/grafana/pgdog.json) shows them, with the namespace `pgdog_`.\n\n\
         Names, types and labels are those of PgDog's exporter where it has the metric. Averages (`avg_…`) are of the last\n\
         `stats_period`: per second; times in milliseconds per transaction, gap between two statements of one, query,\n\
         assignment or connection; reads and writes per transaction. Nothing done is 0. Values of all cores are summed.\n\
         Histograms are exact to 1.6%, in seconds. What the counters count in pipelines, texts of several statements and\n\
         errors is said at `Stat` in `src/metrics/mod.rs`.\n\n\
         Health checks, on `healthcheck_port`: any path is 200 `up`, or 502 `down` when the last checkout or connection of\n\
         every pool has failed; `/live` is 200 while the process runs; `/ready` is 503 also when no clients are taken in.\n\n\
         This file is written by a test: `PGDOG_BLESS=1 cargo test --lib catalogue`.\n\n\
         |Name|Type|Labels|Meaning|\n|-|-|-|-|\n",
    );
    for family in families(&view()) {
        let sample = family.samples.first();
        let labels = sample.map_or(&[][..], |sample| &sample.labels);
        let labels: Vec<_> = labels
            .iter()
            .map(|(label, _)| format!("`{label}`"))
            .collect();
        let labels = labels.join(", ");
        writeln!(
            text,
            "|`{}`|{}|{labels}|{}|",
            family.name,
            family.kind.name(),
            family.help
        )
        .expect("a String");
    }
    text
}

#[test]
fn the_document_lists_every_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    if std::env::var_os("PGDOG_BLESS").is_some() {
        std::fs::write(&path, document()).expect("write the document");
    }
    let found = std::fs::read_to_string(&path).expect("docs/metrics.md");
    assert_eq!(
        found,
        document(),
        "run PGDOG_BLESS=1 cargo test --lib catalogue"
    );
}

#[test]
fn the_dashboard_uses_metrics_that_exist() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana/pgdog.json");
    let text = std::fs::read_to_string(path).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut expressions = Vec::new();
    collect(&dashboard, &mut expressions);
    assert!(expressions.len() > 20, "{expressions:?}");
    let families = by_name();
    for expression in expressions {
        let names = expression.split("pgdog_").skip(1);
        let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let mut used = 0;
        for name in names.map(|rest| rest.split(ends).next().unwrap_or_default()) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
                let family = families.get(name.strip_suffix(suffix)?)?;
                (family.kind == Kind::Histogram).then_some(family)
            });
            assert!(
                base.or_else(|| families.get(name)).is_some(),
                "{name} in {expression}"
            );
            used += 1;
        }
        assert!(used > 0, "no metric in {expression}");
    }
}

/// What is under `expr` anywhere in there, and queries of variables.
fn collect(value: &serde_json::Value, expressions: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == "expr" || name == "definition" => {
                        expressions.push(text.to_owned())
                    }
                    _ => collect(value, expressions),
                }
            }
        }
        serde_json::Value::Array(values) => {
            values.iter().for_each(|value| collect(value, expressions))
        }
        _ => {}
    }
}

/// A reload has made another pool of one: its series are one each, and its counters go on.
#[test]
fn pools_of_the_same_labels_are_one_series() {
    let told = |view: &View| {
        let families = families(view);
        for family in &families {
            let labels: BTreeSet<_> = family.samples.iter().map(|one| &one.labels).collect();
            assert_eq!(labels.len(), family.samples.len(), "{}", family.name);
        }
        let find = |name| families.iter().find(|family| family.name == name);
        let counts = find("total_xact_count").expect("a metric");
        let idle = find("sv_idle").expect("a metric");
        assert_eq!(counts.samples.len(), 1);
        (number(counts), number(idle))
    };
    let mut past = Past::default();
    let mut view = view();
    let look = |view: &mut View, past: &mut Past| {
        view.past = past.look(sum(&view.cores));
        told(view)
    };
    assert_eq!(look(&mut view, &mut past), (14.0, 4.0));
    let mut next = view.cores[0].pools[0].clone();
    next.id = PoolId(2);
    view.cores[0].pools.push(next);
    assert_eq!(look(&mut view, &mut past), (21.0, 6.0));
    for core in &mut view.cores {
        core.pools.retain(|pool| pool.id == PoolId(2));
    }
    for _ in 0..2 {
        assert_eq!(look(&mut view, &mut past), (21.0, 2.0));
    }
    // Nobody has these labels: nothing is remembered.
    let pools = std::mem::take(&mut view.cores[0].pools);
    assert!(past.look(sum(&view.cores)).is_empty());
    view.cores[0].pools = pools;
    assert_eq!(look(&mut view, &mut past), (7.0, 2.0));
}

#[test]
fn a_pool_counts_on_all_cores_until_it_is_gone_from_all() {
    let mut cores = view().cores;
    let slices = |cores: &[CoreSnapshot]| cores.iter().map(|core| core.pools.len()).sum::<usize>();
    let all = slices(&cores);
    cores[0].pools[0].gone = true;
    pass_over_gone(&mut cores);
    assert_eq!(slices(&cores), all);
    cores
        .iter_mut()
        .flat_map(|core| &mut core.pools)
        .for_each(|slice| slice.gone = true);
    pass_over_gone(&mut cores);
    assert_eq!(slices(&cores), 0);
}
