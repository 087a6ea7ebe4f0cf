//! Metrics of pools: one sample for each of them, or for those that have the same labels.

use super::{count, labels, Group, View};
use crate::balance::{BanReason, Lag};
use crate::config::choice::Role;
use crate::config::{Host, PoolConfig};
use crate::metrics::family::{Family, Kind, Labels, Value};
use crate::metrics::{Phase, Stat};
use crate::snapshot::PoolSnapshot;

/// Names and meanings of what is counted per pool, in the order of `SHOW STATS`.
const STATS: [(Stat, &str, &str); Stat::SHOWN] = [
    (Stat::XactCount, "xact_count", "Transactions."),
    (
        Stat::Xact2pcCount,
        "xact_2pc_count",
        "Two-phase transactions.",
    ),
    (
        Stat::QueryCount,
        "query_count",
        "Queries: requests answered by servers.",
    ),
    (
        Stat::ServerAssignmentCount,
        "server_assignment_count",
        "Servers given to clients.",
    ),
    (Stat::Received, "received", "Bytes from servers."),
    (Stat::Sent, "sent", "Bytes to servers."),
    (Stat::XactTime, "xact_time", "Milliseconds in transactions."),
    (
        Stat::IdleXactTime,
        "idle_xact_time",
        "Milliseconds idle in transactions.",
    ),
    (
        Stat::QueryTime,
        "query_time",
        "Milliseconds of running queries.",
    ),
    (
        Stat::WaitTime,
        "wait_time",
        "Milliseconds that clients waited for servers.",
    ),
    (
        Stat::ServerParseCount,
        "server_parse_count",
        "Statements parsed by servers.",
    ),
    (Stat::BindCount, "bind_count", "Statements bound."),
    (
        Stat::CloseCount,
        "prepared_evictions",
        "Prepared statements closed to respect the limit.",
    ),
    (
        Stat::Errors,
        "server_errors",
        "ErrorResponses from servers.",
    ),
    (
        Stat::Cleaned,
        "cleaned",
        "Connections reset after clients had changed parameters.",
    ),
    (
        Stat::Rollbacks,
        "rollbacks",
        "Abandoned transactions rolled back.",
    ),
    (
        Stat::ConnectTime,
        "connect_time",
        "Milliseconds of opening connections.",
    ),
    (Stat::ConnectCount, "connect_count", "Connections opened."),
    (Stat::Reads, "reads", "Checkouts for reads."),
    (Stat::Writes, "writes", "Checkouts for writes."),
    (Stat::AuthAttempts, "auth_attempts", "Server logins tried."),
    (
        Stat::RowsInserted,
        "rows_inserted",
        "Rows by tags of INSERT.",
    ),
    (Stat::RowsUpdated, "rows_updated", "Rows by tags of UPDATE."),
    (Stat::RowsDeleted, "rows_deleted", "Rows by tags of DELETE."),
];

pub(super) fn families(view: &View, pools: &[PoolSnapshot]) -> Vec<Family> {
    let mut families = gauges(pools);
    families.extend(lags(pools));
    families.extend(counters(view, pools));
    families.push(bans(pools));
    families.extend(histograms(pools));
    families
}

type PoolGauge = fn(&PoolSnapshot) -> Value;

fn gauges(pools: &[PoolSnapshot]) -> Vec<Family> {
    const GAUGES: [(&str, &str, PoolGauge); 10] = [
        (
            "max_connections",
            "Largest number of server connections.",
            |pool| count(pool.config.limits.size),
        ),
        ("cl_waiting", "Clients waiting for a server.", |pool| {
            count(pool.stats.waiting)
        }),
        ("sv_active", "Server connections in use.", |pool| {
            count(pool.stats.active)
        }),
        ("sv_idle", "Server connections at rest.", |pool| {
            count(pool.stats.idle)
        }),
        (
            "sv_idle_xact",
            "Server connections idle in a transaction.",
            |pool| count(pool.idle_in_transaction),
        ),
        (
            "sv_locked",
            "Server connections pinned to a client.",
            |pool| count(pool.pinned),
        ),
        (
            "maxwait",
            "How long the oldest waiting client has been waiting.",
            |pool| Value::Number(pool.stats.longest_wait.as_secs_f64()),
        ),
        (
            "pool_healthy",
            "1 unless the last checkout or connection has failed.",
            |pool| count(pool.is_healthy().into()),
        ),
        ("pool_paused", "1 while PAUSE holds.", |pool| {
            count(pool.stats.paused.into())
        }),
        ("pool_banned", "1 while the server gets no reads.", |pool| {
            count(pool.known.ban.is_some().into())
        }),
    ];
    GAUGES
        .into_iter()
        .map(|(name, help, value)| {
            let mut family = Family::new(name, Kind::Gauge, help);
            family.unit = (name == "maxwait").then_some("seconds");
            for pool in pools {
                family.push(&pool_labels(&pool.config), value(pool));
            }
            family
        })
        .collect()
}

/// How far replicas were behind at their last check; others have no sample.
fn lags(pools: &[PoolSnapshot]) -> [Family; 2] {
    let family = |name, help, value: fn(Lag) -> Value| {
        let mut family = Family::new(name, Kind::Gauge, help);
        for pool in pools {
            if let Some(lag) = pool.known.lag {
                family.push(&pool_labels(&pool.config), value(lag));
            }
        }
        family
    };
    [
        family(
            "replica_lag_seconds",
            "How long a replica was behind the primary.",
            |lag| Value::Number(lag.time.as_secs_f64()),
        ),
        family(
            "replica_lag_bytes",
            "WAL that a replica had not replayed.",
            |lag| Value::Count(lag.bytes),
        ),
    ]
}

fn bans(pools: &[PoolSnapshot]) -> Family {
    let mut family = Family::new("bans", Kind::Counter, "Bans imposed on servers.");
    for pool in pools {
        for (reason, count) in BanReason::ALL.iter().zip(pool.known.bans) {
            let mut labels = pool_labels(&pool.config).to_vec();
            labels.push(("reason", reason.label().to_owned()));
            family.push(&Labels::from(labels), Value::Count(count));
        }
    }
    family
}

fn counters(view: &View, pools: &[PoolSnapshot]) -> Vec<Family> {
    let mut families = Vec::new();
    let mut plain = |stat, name: &str, help| {
        let mut family = Family::new(name, Kind::Counter, help);
        for pool in pools {
            family.push(&pool_labels(&pool.config), Value::Count(pool.totals[stat]));
        }
        families.push(family);
    };
    plain(Stat::Broken, "errors", "Broken server connections.");
    plain(
        Stat::OutOfSync,
        "out_of_sync",
        "Server connections returned amid work.",
    );
    plain(
        Stat::CheckoutTimeouts,
        "checkout_timeouts",
        "Clients that got no server in time.",
    );
    for (stat, name, help) in STATS {
        // PgDog calls this average a counter, and dashboards rely on it.
        let kind = match stat {
            Stat::Received => Kind::Counter,
            _ => Kind::Gauge,
        };
        let mut total = Family::new(format!("total_{name}"), Kind::Counter, help);
        let mut average = Family::new(format!("avg_{name}"), kind, help);
        for pool in pools {
            let labels = pool_labels(&pool.config);
            let counted = pool.totals[stat];
            let value = match stat {
                Stat::XactTime
                | Stat::IdleXactTime
                | Stat::QueryTime
                | Stat::WaitTime
                | Stat::ConnectTime => Value::Number(counted as f64 / 1e6),
                _ => Value::Count(counted),
            };
            total.push(&labels, value);
            let averages = view.averages.get(&pool.id);
            let value = averages.map_or(0.0, |averages| averages.get(stat));
            average.push(&labels, Value::Number(value));
        }
        families.extend([total, average]);
    }
    families
}

fn histograms(pools: &[PoolSnapshot]) -> Vec<Family> {
    let client = |pool: &PoolSnapshot| {
        let PoolConfig { user, database, .. } = &*pool.config;
        vec![("user", user.clone()), ("database", database.clone())]
    };
    let server = |pool: &PoolSnapshot| {
        let mut labels = client(pool);
        labels.push(("shard", pool.config.shard.to_string()));
        labels.push(("role", role(pool.config.role).to_owned()));
        labels
    };
    let address = |pool: &PoolSnapshot, phase: &str| {
        let address = &pool.config.address;
        vec![
            ("host", host(&address.host)),
            ("port", address.port.to_string()),
            ("phase", phase.to_owned()),
        ]
    };
    let mut connect = Group::new(
        "server_connect_duration_seconds",
        "Phases of opening a connection.",
    );
    for (phase, name) in [
        (Phase::ConnectDns, "dns"),
        (Phase::ConnectTcp, "tcp"),
        (Phase::ConnectTls, "tls"),
        (Phase::ConnectAuth, "auth"),
    ] {
        connect.add(pools, phase, |pool| address(pool, name));
    }
    let mut queries = Group::new(
        "query_duration_seconds",
        "From a client's request to ReadyForQuery, the wait for a server included.",
    );
    for (phase, kind) in [
        (Phase::QueryRead, "read"),
        (Phase::QueryWrite, "write"),
        (Phase::QueryOther, "other"),
    ] {
        queries.add(pools, phase, |pool| {
            let mut labels = client(pool);
            labels.push(("kind", kind.to_owned()));
            labels
        });
    }
    let mut families = vec![
        queries.family(),
        Group::new(
            "server_query_duration_seconds",
            "From the first message to the server to ReadyForQuery.",
        )
        .of(pools, Phase::ServerQuery, server),
        Group::new(
            "checkout_wait_seconds",
            "Waits for a server, of no time included.",
        )
        .of(pools, Phase::CheckoutWait, server),
        Group::new("transaction_duration_seconds", "Transactions.").of(
            pools,
            Phase::Transaction,
            client,
        ),
        Group::new(
            "idle_in_transaction_seconds",
            "From a reply to the next message in a transaction.",
        )
        .of(pools, Phase::IdleInTransaction, client),
    ];
    families.push(connect.family());
    let overhead = Group::new(
        "proxy_overhead_seconds",
        "Time that requests and their answers spent here, of one request in 16.",
    );
    let database = |pool: &PoolSnapshot| vec![("database", pool.config.database.clone())];
    families.push(overhead.of(pools, Phase::Overhead, database).short());
    families
}

pub(super) fn pool_labels(pool: &PoolConfig) -> Labels {
    labels([
        ("user", pool.user.clone()),
        ("database", pool.database.clone()),
        ("host", host(&pool.address.host)),
        ("port", pool.address.port.to_string()),
        ("shard", pool.shard.to_string()),
        ("role", role(pool.role).to_owned()),
    ])
}

fn host(host: &Host) -> String {
    host.to_string()
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
        Role::Auto => "auto",
    }
}
