//! SHOW SERVERS.

use crate::metrics::Stat;

use super::clients::state;
use super::{count, text, Columns, Picture, Type, Value};

pub(super) const COLUMNS: Columns = &[
    (Type::Int8, &["pool_id"]),
    (Type::Text, &["database", "user", "addr"]),
    (Type::Numeric, &["port"]),
    (Type::Text, &["state", "connect_time", "request_time"]),
    (Type::Numeric, &["remote_pid"]),
    (Type::Int8, &["client_id"]),
    (
        Type::Numeric,
        &[
            "transactions",
            "queries",
            "rollbacks",
            "prepared_statements",
            "healthchecks",
            "errors",
            "bytes_received",
            "bytes_sent",
        ],
    ),
    (Type::Text, &["last_sent", "last_received"]),
    (Type::Numeric, &["age"]),
    (Type::Text, &["application_name"]),
];

pub(super) fn rows<'a>(picture: &'a Picture<'a>) -> impl Iterator<Item = Vec<Value>> + 'a {
    let clock = picture.clock;
    let pools = picture.cores.iter().flat_map(|core| &core.pools);
    let mut servers: Vec<_> = pools
        .flat_map(|pool| pool.servers.iter().map(move |server| (pool, server)))
        .collect();
    servers.sort_by_key(|(pool, server)| (pool.id, server.opened));
    servers.into_iter().map(move |(pool, server)| {
        let pool_config = &pool.config;
        let address = &pool_config.address;
        let client = server.client.as_ref();
        let total = |stat: Stat| count(server.totals[stat]);
        vec![
            Value::from(pool.id.0),
            text(address.database_name.clone()),
            text(pool_config.login.user.clone()),
            text(address.host.to_string()),
            Value::from(address.port),
            text(client.map_or("idle", |client| state(client.activity))),
            clock.stamp(server.opened),
            clock.stamp(server.used),
            server.process_id.map_or(Value::Null, Value::from),
            client.map_or(Value::Null, |client| Value::from(client.id)),
            total(Stat::XactCount),
            total(Stat::QueryCount),
            total(Stat::Rollbacks),
            count(server.statements),
            total(Stat::Healthchecks),
            total(Stat::Errors),
            total(Stat::Received),
            total(Stat::Sent),
            letter(server.last_sent),
            letter(server.last_received),
            count(clock.since(server.opened).as_secs()),
            text(client.map_or_else(String::new, |client| client.application_name.to_string())),
        ]
    })
}

fn letter(tag: u8) -> Value {
    text(char::from(tag).to_string())
}
