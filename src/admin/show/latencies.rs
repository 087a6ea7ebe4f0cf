//! SHOW LATENCIES: how long things took, as percentiles.

use std::collections::{BTreeMap, HashMap};

use crate::metrics::{Distribution, Distributions, Phase};
use crate::pool::PoolId;

use super::pools::pools;
use super::{count, text, Columns, Picture, Span, Type, Value};

pub(super) const COLUMNS: Columns = &[
    (Type::Text, &["database", "user", "metric"]),
    (Type::Int8, &["count"]),
    (Type::Numeric, &["p50", "p90", "p99", "p999", "max"]),
];

/// One row for each database, user and phase in which something happened, over all their pools; times in milliseconds.
pub(super) fn rows(picture: &Picture<'_>, span: Span, of: Option<&str>) -> Vec<Vec<Value>> {
    let mut since_start: HashMap<PoolId, Distributions> = HashMap::new();
    for slice in picture.cores.iter().flat_map(|core| &core.pools) {
        if let Some(latencies) = &slice.latencies {
            *since_start.entry(slice.id).or_default() += latencies;
        }
    }
    let mut sums: BTreeMap<(&str, &str), Distributions> = BTreeMap::new();
    for (id, pool) in pools(picture.cores) {
        let distributions = match span {
            Span::Start => since_start.get(&id),
            Span::Period => picture.windows.last(id).map(|period| &period.latencies),
        };
        let (database, user) = (&*pool.config.database, &*pool.config.user);
        if let Some(more) = distributions.filter(|_| of.is_none_or(|of| of == database)) {
            *sums.entry((database, user)).or_default() += more;
        }
    }
    let mut rows = Vec::new();
    for ((database, user), distributions) in &sums {
        let mut tell = |name: &str, distribution: &Distribution| {
            if !distribution.is_empty() {
                let who = [*database, user, name];
                let mut row = Vec::from(who.map(|word| text(word.to_owned())));
                row.extend(numbers(distribution));
                rows.push(row);
            }
        };
        let mut queries = Distribution::default();
        for kind in Phase::QUERIES {
            queries += &distributions[kind];
        }
        tell("query", &queries);
        for phase in Phase::ALL {
            tell(name(phase), &distributions[phase]);
        }
    }
    rows
}

fn numbers(distribution: &Distribution) -> [Value; 6] {
    let quantile = |share| Value::millis(distribution.quantile(share));
    [
        count(distribution.count()),
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
        quantile(0.999),
        Value::millis(distribution.max()),
    ]
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::QueryRead => "query_read",
        Phase::QueryWrite => "query_write",
        Phase::QueryOther => "query_other",
        Phase::ServerQuery => "server_query",
        Phase::CheckoutWait => "checkout_wait",
        Phase::Transaction => "transaction",
        Phase::IdleInTransaction => "idle_in_transaction",
        Phase::ConnectDns => "connect_dns",
        Phase::ConnectTcp => "connect_tcp",
        Phase::ConnectTls => "connect_tls",
        Phase::ConnectAuth => "connect_auth",
        Phase::Overhead => "overhead",
    }
}
