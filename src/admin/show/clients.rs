//! SHOW CLIENTS and SHOW PINS.

use std::time::Duration;

use crate::snapshot::{Activity, ClientSnapshot};

use super::{count, text, Columns, Picture, Type, Value};

pub(super) const COLUMNS: Columns = &[
    (Type::Int8, &["id"]),
    (Type::Text, &["user", "database", "addr"]),
    (Type::Numeric, &["port"]),
    (
        Type::Text,
        &["state", "replication", "connect_time", "last_request"],
    ),
    (
        Type::Numeric,
        &[
            "queries",
            "transactions",
            "transactions_2pc",
            "wait_time",
            "query_time",
            "transaction_time",
            "bytes_received",
            "bytes_sent",
            "errors",
        ],
    ),
    (Type::Text, &["application_name"]),
    (Type::Bool, &["locked"]),
    (Type::Numeric, &["prepared_statements"]),
];

pub(super) const PINS: Columns = &[
    (Type::Int8, &["client"]),
    (Type::Text, &["user", "database", "addr"]),
    (Type::Numeric, &["port", "server"]),
    (Type::Text, &["reason"]),
    (Type::Numeric, &["age"]),
];

/// Clients of all cores by id.
fn clients<'a>(picture: &'a Picture<'_>) -> Vec<&'a ClientSnapshot> {
    let mut clients: Vec<_> = picture
        .cores
        .iter()
        .flat_map(|core| &core.sessions)
        .collect();
    clients.sort_by_key(|client| client.id);
    clients
}

pub(super) fn rows<'a>(picture: &'a Picture<'a>) -> impl Iterator<Item = Vec<Value>> + 'a {
    let clock = picture.clock;
    clients(picture).into_iter().map(move |client| {
        let (addr, port) = match client.peer {
            Some(peer) => (text(peer.ip().to_string()), Value::from(peer.port())),
            None => (text("unix"), Value::Int(0)),
        };
        let wait = match client.activity {
            Activity::Waiting => clock.since(client.since),
            _ => Duration::ZERO,
        };
        let totals = &client.totals;
        vec![
            Value::from(client.id),
            text(client.names.user.clone()),
            text(client.names.database.clone()),
            addr,
            port,
            text(state(client.activity)),
            text("none"), // others are refused at login
            clock.stamp(totals.connected),
            clock.stamp(totals.last_request),
            count(totals.queries),
            count(totals.transactions),
            count(totals.transactions_2pc),
            Value::millis(wait),
            nanos(totals.query_time),
            nanos(totals.transaction_time),
            count(totals.received),
            count(totals.sent),
            count(totals.errors),
            text(client.application_name.to_string()),
            Value::Bool(client.pinned.is_some()),
            count(client.statements),
        ]
    })
}

pub(super) fn pins<'a>(picture: &'a Picture<'a>) -> impl Iterator<Item = Vec<Value>> + 'a {
    let clock = picture.clock;
    clients(picture).into_iter().filter_map(move |client| {
        let (reason, since) = client.pinned?;
        let server = client.server.as_ref()?;
        let address = &server.pool.address;
        Some(vec![
            Value::from(client.id),
            text(client.names.user.clone()),
            text(client.names.database.clone()),
            text(address.host.to_string()),
            Value::from(address.port),
            server.process_id.map_or(Value::Null, Value::from),
            text(reason),
            Value::millis(clock.since(since)),
        ])
    })
}

/// As PgDog calls it.
pub(super) fn state(activity: Activity) -> &'static str {
    match activity {
        Activity::Idle => "idle",
        Activity::Waiting => "waiting",
        Activity::Active => "active",
        Activity::IdleInTransaction => "idle in transaction",
    }
}

/// Nanoseconds as milliseconds with three decimals.
pub(super) fn nanos(time: u64) -> Value {
    Value::Milli(i64::try_from(time / 1000).unwrap_or(i64::MAX))
}
