//! SHOW STATS, and PgBouncer's views of the same counters.

use std::collections::BTreeMap;

use crate::metrics::{Averages, Stat, Totals};
use crate::pool::PoolId;

use super::pools::{place, pools, Whole};
use super::{all, count, text, Column, Columns, Picture, Type, Value};

const PLACE: Columns = &[
    (Type::Text, &["database", "user", "addr"]),
    (Type::Numeric, &["port", "shard"]),
    (Type::Text, &["role"]),
];

/// Those of SHOW STATS, in its order.
fn shown() -> impl Iterator<Item = Stat> {
    Stat::ALL.into_iter().take(Stat::SHOWN)
}

pub(super) fn columns() -> Vec<Column> {
    let mut columns = all(PLACE);
    for prefix in ["total", "avg"] {
        columns.extend(shown().map(|stat| Column {
            name: format!("{prefix}_{}", stat.name()).into(),
            of: Type::Numeric,
        }));
    }
    columns
}

pub(super) fn rows(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let row = |(id, pool): (PoolId, Whole<'_>)| {
        let recent = picture.windows.last(id);
        let mut row = Vec::from(place(pool.config, pool.known.role));
        row.extend(shown().map(|stat| match is_time(stat) {
            true => Value::ratio(u128::from(pool.totals[stat]), 1_000_000),
            false => count(pool.totals[stat]),
        }));
        row.extend(shown().map(|stat| {
            let average = recent.map_or(0.0, |recent| recent.averages.get(stat));
            Value::decimal(average)
        }));
        row
    };
    pools(picture.cores).into_iter().map(row).collect()
}

fn is_time(stat: Stat) -> bool {
    matches!(
        stat,
        Stat::XactTime | Stat::IdleXactTime | Stat::QueryTime | Stat::WaitTime | Stat::ConnectTime
    )
}

/// PgBouncer's counters, with ours. It calls bytes received what comes from clients and goes to servers.
const PGBOUNCER: [Stat; 11] = [
    Stat::ServerAssignmentCount,
    Stat::XactCount,
    Stat::QueryCount,
    Stat::Sent,
    Stat::Received,
    Stat::XactTime,
    Stat::QueryTime,
    Stat::WaitTime,
    Stat::ClientParseCount,
    Stat::ServerParseCount,
    Stat::BindCount,
];

pub(super) const PGBOUNCER_TOTALS: Columns = &[
    (Type::Text, &["database"]),
    (
        Type::Numeric,
        &[
            "server_assignment_count",
            "xact_count",
            "query_count",
            "bytes_received",
            "bytes_sent",
            "xact_time",
            "query_time",
            "wait_time",
            "client_parse_count",
            "server_parse_count",
            "bind_count",
            "client_login_count",
        ],
    ),
];

pub(super) const PGBOUNCER_AVERAGES: Columns = &[
    (Type::Text, &["database"]),
    (
        Type::Numeric,
        &[
            "server_assignment_count",
            "xact_count",
            "query_count",
            "bytes_received",
            "bytes_sent",
            "xact_time",
            "query_time",
            "wait_time",
            "avg_client_parse_count",
            "avg_server_parse_count",
            "avg_bind_count",
            "avg_client_login_count",
        ],
    ),
];

/// All of them in PgBouncer's order.
fn pgbouncer() -> impl Iterator<Item = Stat> {
    PGBOUNCER.into_iter().chain([Stat::ClientLoginCount])
}

/// PgBouncer counts microseconds.
fn total(stat: Stat, totals: &Totals) -> Value {
    match is_time(stat) {
        true => count(totals[stat] / 1000),
        false => count(totals[stat]),
    }
}

pub(super) fn pgbouncer_totals(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let mut databases: BTreeMap<&str, Totals> = BTreeMap::new();
    for pool in pools(picture.cores).into_values() {
        *databases.entry(&pool.config.database).or_default() += &pool.totals;
    }
    let row = |(database, totals): (&str, Totals)| {
        let mut row = vec![text(database.to_owned())];
        row.extend(pgbouncer().map(|stat| total(stat, &totals)));
        row
    };
    databases.into_iter().map(row).collect()
}

pub(super) fn pgbouncer_averages(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let mut databases: BTreeMap<&str, Vec<&Averages>> = BTreeMap::new();
    for (id, pool) in pools(picture.cores) {
        let of_pools = databases.entry(&pool.config.database).or_default();
        of_pools.extend(picture.windows.last(id).map(|recent| &recent.averages));
    }
    let row = |(database, of_pools): (&str, Vec<&Averages>)| {
        let mut row = vec![text(database.to_owned())];
        row.extend(pgbouncer().map(|stat| together(&of_pools, stat)));
        row
    };
    databases.into_iter().map(row).collect()
}

/// The average over several pools: rates add up, times weigh as much as there are of what took them.
fn together(pools: &[&Averages], stat: Stat) -> Value {
    let sum = |of: &dyn Fn(&Averages) -> f64| pools.iter().map(|pool| of(pool)).sum::<f64>();
    let per = match stat {
        Stat::XactTime => Stat::XactCount,
        Stat::QueryTime => Stat::QueryCount,
        Stat::WaitTime => Stat::ServerAssignmentCount,
        _ => return Value::whole(sum(&|pool| pool.get(stat))),
    };
    let number = sum(&|pool| pool.get(per));
    match number > 0.0 {
        true => Value::whole(sum(&|pool| pool.get(stat) * pool.get(per)) * 1000.0 / number),
        false => Value::Int(0),
    }
}

/// Sums over all databases, by name.
pub(super) fn totals(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let mut sum = Totals::default();
    for pool in pools(picture.cores).into_values() {
        sum += &pool.totals;
    }
    let names = PGBOUNCER_TOTALS
        .iter()
        .skip(1)
        .flat_map(|(_, names)| *names);
    names
        .zip(pgbouncer())
        .map(|(name, stat)| vec![text(*name), total(stat, &sum)])
        .collect()
}
