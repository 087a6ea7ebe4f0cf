//! SHOW CORES, and what cores have in common: SHOW PREPARED.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::snapshot::CoreSnapshot;

use super::{count, text, Columns, Picture, Type, Value};

pub(super) const COLUMNS: Columns = &[(
    Type::Numeric,
    &[
        "core",
        "cpu",
        "clients",
        "servers",
        "busy",
        "mail_sent",
        "mail_received",
        "tasks",
        "sockets",
        "panics",
    ],
)];

pub(super) const PREPARED: Columns = &[
    (Type::Text, &["name", "statement", "rewrite"]),
    (Type::Numeric, &["used_by", "memory_used"]),
];

/// How busy cores had been by the last two looks.
#[derive(Debug, Default)]
pub struct Pace {
    last: Vec<Look>,
    before: Vec<Look>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    core: usize,
    at: Instant,
    busy: Duration,
}

impl Pace {
    /// Another look.
    pub fn look(&mut self, cores: &[CoreSnapshot]) {
        let look = |core: &CoreSnapshot| Look {
            core: core.core,
            at: core.taken,
            busy: core.busy,
        };
        self.before = std::mem::replace(&mut self.last, cores.iter().map(look).collect());
    }

    /// Share of its time that this core was busy since the look before the last, or since the only one.
    fn busy(&self, core: &CoreSnapshot) -> Option<Value> {
        let (busy, time) = self.since(core)?;
        Some(Value::ratio(busy.as_nanos(), time.as_nanos()))
    }

    /// The same between 0 and 1.
    pub fn share(&self, core: &CoreSnapshot) -> Option<f64> {
        let (busy, time) = self.since(core)?;
        (!time.is_zero()).then(|| busy.as_secs_f64() / time.as_secs_f64())
    }

    fn since(&self, core: &CoreSnapshot) -> Option<(Duration, Duration)> {
        let before = match self.before.is_empty() {
            true => &self.last,
            false => &self.before,
        };
        let then = before.iter().find(|look| look.core == core.core)?;
        let time = core.taken.saturating_duration_since(then.at);
        let busy = core.busy.saturating_sub(then.busy);
        Some((busy, time))
    }
}

pub(super) fn rows(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let row = |core: &CoreSnapshot| {
        let servers = core.pools.iter().map(|pool| pool.stats);
        let servers: usize = servers.map(|stats| stats.idle + stats.active).sum();
        vec![
            count(core.core),
            count(core.cpu),
            count(core.clients + core.admins),
            count(servers),
            picture.pace.busy(core).unwrap_or(Value::Null),
            count(core.mail_sent.iter().sum::<u64>()),
            count(core.mail_received),
            count(core.tasks),
            count(core.sockets),
            count(core.panics),
        ]
    };
    picture.cores.iter().map(row).collect()
}

/// Statements by name: equal ones of several cores are one.
pub(super) fn prepared(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let mut statements: BTreeMap<&str, (&Arc<str>, usize, usize)> = BTreeMap::new();
    for statement in picture.cores.iter().flat_map(|core| &core.statements) {
        let known = statements.entry(&statement.name);
        let (_, used_by, bytes) = known.or_insert((&statement.text, 0, 0));
        *used_by += statement.used_by;
        *bytes += statement.bytes;
    }
    let row = |(name, (definition, used_by, bytes)): (&str, (&Arc<str>, usize, usize))| {
        vec![
            text(name.to_owned()),
            text(definition.to_string()),
            Value::Null, // nothing is rewritten yet
            count(used_by),
            count(bytes),
        ]
    };
    statements.into_iter().map(row).collect()
}
