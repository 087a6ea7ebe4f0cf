//! SHOW LATENCIES: how long things took, as percentiles.

use std::collections::BTreeMap;

use crate::metrics::{Distribution, Distributions, Phase};
use crate::pool::PoolId;

use super::pools::{place, pools};
use super::{count, text, Columns, Picture, Span, Type, Value};

pub(super) const COLUMNS: Columns = &[
    (Type::Text, &["database", "user", "addr"]),
    (Type::Numeric, &["port", "shard"]),
    (Type::Text, &["role", "phase"]),
    (
        Type::Numeric,
        &["count", "mean", "p50", "p90", "p99", "p999", "max"],
    ),
];

/// One row for each pool and phase in which something happened; times in milliseconds.
pub(super) fn rows(picture: &Picture<'_>, span: Span) -> Vec<Vec<Value>> {
    let mut since_start: BTreeMap<PoolId, Distributions> = BTreeMap::new();
    for slice in picture.cores.iter().flat_map(|core| &core.pools) {
        if let Some(latencies) = &slice.latencies {
            *since_start.entry(slice.id).or_default() += latencies;
        }
    }
    let mut rows = Vec::new();
    for (id, pool) in pools(picture.cores) {
        let distributions = match span {
            Span::Start => since_start.get(&id),
            Span::Period => picture.windows.last(id).map(|period| &period.latencies),
        };
        for phase in Phase::ALL {
            let Some(distribution) = distributions
                .map(|all| &all[phase])
                .filter(|one| !one.is_empty())
            else {
                continue;
            };
            let mut row = Vec::from(place(pool.config, pool.known.role));
            row.push(text(name(phase)));
            row.extend(numbers(distribution));
            rows.push(row);
        }
    }
    rows
}

fn numbers(distribution: &Distribution) -> [Value; 7] {
    let number = distribution.count();
    let quantile = |share| Value::millis(distribution.quantile(share));
    let mean = Value::ratio(
        distribution.sum().as_nanos(),
        u128::from(number) * 1_000_000,
    );
    [
        count(number),
        mean,
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
        quantile(0.999),
        Value::millis(distribution.max()),
    ]
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Query => "query",
        Phase::ServerQuery => "server_query",
        Phase::CheckoutWait => "checkout_wait",
        Phase::Transaction => "transaction",
        Phase::IdleInTransaction => "idle_in_transaction",
        Phase::ConnectDns => "connect_dns",
        Phase::ConnectTcp => "connect_tcp",
        Phase::ConnectTls => "connect_tls",
        Phase::ConnectAuth => "connect_auth",
    }
}
