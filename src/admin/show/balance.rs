//! SHOW BANS and SHOW REPLICATION: what is known of servers.

use crate::snapshot::Known;

use super::pools::{place, pools, Whole};
use super::{count, text, Columns, Picture, Type, Value};

pub(super) const BANS: Columns = &[
    (Type::Int8, &["id"]),
    (Type::Text, &["database", "user", "addr"]),
    (Type::Numeric, &["port", "shard"]),
    (Type::Text, &["role", "ban_reason"]),
    (Type::Numeric, &["ban_time_left"]),
];

pub(super) const REPLICATION: Columns = &[
    (Type::Int8, &["id"]),
    (Type::Text, &["database", "user", "addr"]),
    (Type::Numeric, &["port", "shard"]),
    (
        Type::Text,
        &[
            "role",
            "replica_lag",
            "pg_lsn",
            "lsn_age",
            "pg_is_in_recovery",
        ],
    ),
];

/// Banned pools only; milliseconds left, NULL where time does not end the ban.
pub(super) fn bans(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let banned = pools(picture.cores).into_iter().filter_map(|(id, pool)| {
        let ban = pool.known.ban?;
        let left = ban.until.map(|until| {
            let left = until.saturating_duration_since(picture.clock.now);
            count(left.as_millis())
        });
        let mut row = vec![Value::from(id.0)];
        row.extend(placed(&pool));
        row.push(text(ban.reason.text()));
        row.push(left.unwrap_or(Value::Null));
        Some(row)
    });
    banned.collect()
}

/// Lag and age in milliseconds; NULL before the first check.
pub(super) fn replication(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let rows = pools(picture.cores).into_iter().map(|(id, pool)| {
        let Known { lag, seen, .. } = &pool.known;
        let millis = |time: std::time::Duration| text(time.as_millis().to_string());
        let mut row = vec![Value::from(id.0)];
        row.extend(placed(&pool));
        row.push(lag.map_or(Value::Null, |lag| millis(lag.time)));
        match seen {
            None => row.extend([Value::Null, Value::Null, Value::Null]),
            Some(seen) => row.extend([
                text(seen.lsn().to_string()),
                millis(picture.clock.since(seen.at)),
                text(if seen.in_recovery() { "t" } else { "f" }),
            ]),
        }
        row
    });
    rows.collect()
}

/// As [`place`], with the role that was found out, if it was.
fn placed(pool: &Whole<'_>) -> [Value; 6] {
    place(pool.config, pool.known.role)
}
