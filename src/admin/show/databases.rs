//! What is configured, with how much of it is in use: SHOW LISTS, and PgBouncer's DATABASES, USERS and STATE.

use std::collections::BTreeSet;

use crate::config::listing::{DatabaseEntry, UserListing};

use super::pools::{mode, pools, Whole};
use super::{count, text, Columns, Picture, Type, Value};

pub(super) const LISTS: Columns = &[(
    Type::Numeric,
    &[
        "databases",
        "users",
        "pools",
        "free_clients",
        "used_clients",
        "free_servers",
        "used_servers",
    ],
)];

pub(super) const DATABASES: Columns = &[
    (Type::Text, &["name", "host"]),
    (Type::Int4, &["port"]),
    (Type::Text, &["database", "force_user"]),
    (
        Type::Int4,
        &[
            "pool_size",
            "min_pool_size",
            "reserve_pool_size",
            "server_lifetime",
        ],
    ),
    (Type::Text, &["pool_mode", "load_balance_hosts"]),
    (
        Type::Int4,
        &[
            "max_connections",
            "current_connections",
            "max_client_connections",
            "current_client_connections",
            "paused",
            "disabled",
        ],
    ),
];

pub(super) const USERS: Columns = &[
    (
        Type::Text,
        &["name", "pool_size", "reserve_pool_size", "pool_mode"],
    ),
    (
        Type::Int4,
        &[
            "max_user_connections",
            "current_connections",
            "max_user_client_connections",
            "current_client_connections",
        ],
    ),
];

pub(super) fn lists(picture: &Picture<'_>) -> Vec<Value> {
    let users = picture.config.users.iter();
    let users: BTreeSet<_> = users.map(|user| &user.name).collect();
    let pools = pools(picture.cores);
    let servers: usize = pools.values().map(Whole::servers).sum();
    let clients: usize = picture
        .cores
        .iter()
        .map(|core| core.clients + core.admins)
        .sum();
    vec![
        count(picture.config.clusters.len()),
        count(users.len()),
        count(pools.len()),
        Value::Int(0), // nothing is kept for clients and servers to come
        count(clients),
        Value::Int(0),
        count(servers),
    ]
}

/// Clients whose login satisfies this.
fn clients(picture: &Picture<'_>, wanted: impl Fn(&crate::snapshot::Names) -> bool) -> Value {
    let sessions = picture.cores.iter().flat_map(|core| &core.sessions);
    count(sessions.filter(|session| wanted(&session.names)).count())
}

/// How many of something, as a value.
fn servers<'a>(pools: impl Iterator<Item = &'a Whole<'a>>) -> Value {
    count(pools.map(Whole::servers).sum::<usize>())
}

pub(super) fn databases(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let pools = pools(picture.cores);
    let row = |entry: DatabaseEntry| {
        let own = || {
            pools.values().filter(|pool| {
                pool.config.database == entry.name
                    && pool.config.address == entry.address
                    && pool.config.shard == entry.shard
            })
        };
        vec![
            text(entry.name.clone()),
            text(entry.address.host.to_string()),
            Value::from(entry.address.port),
            text(entry.address.database_name.clone()),
            entry.force_user.clone().map_or(Value::Null, text),
            count(entry.pool_size),
            count(entry.pool_size_min),
            Value::Int(0), // there is no reserve
            entry
                .lifetime
                .map_or(Value::Int(0), |lifetime| count(lifetime.as_secs())),
            text(mode(entry.mode)),
            Value::Null,   // each host is an entry of its own
            Value::Int(0), // no limit but those of the pools
            servers(own()),
            Value::Int(0),
            clients(picture, |names| names.database == entry.name),
            Value::from(own().any(|pool| pool.paused)),
            Value::from(picture.orders.disabled.is_on_for(&entry.name)),
        ]
    };
    picture.config.database_entries().map(row).collect()
}

pub(super) fn users(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let pools = pools(picture.cores);
    let row = |entry: UserListing| {
        let own = pools.values().filter(|pool| pool.config.user == entry.name);
        vec![
            text(entry.name.clone()),
            entry
                .pool_size
                .map_or(Value::Null, |size| text(size.to_string())),
            Value::Null,
            entry.mode.map_or(Value::Null, |own| text(mode(own))),
            Value::Int(0), // no limit but those of the pools
            servers(own),
            Value::Int(0),
            clients(picture, |names| names.user == entry.name),
        ]
    };
    picture.config.user_listings().map(row).collect()
}

/// Is anything paused? Suspended it never is.
pub(super) fn state(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let paused = pools(picture.cores).values().any(|pool| pool.paused);
    let row = |name, is: bool| vec![text(name), text(if is { "yes" } else { "no" })];
    vec![
        row("active", !paused),
        row("paused", paused),
        row("suspended", false),
    ]
}
