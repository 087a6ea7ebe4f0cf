//! SHOW CORES, and what cores have in common: SHOW PREPARED.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::snapshot::{CommitSnapshot, CoreSnapshot, BUFFER_BYTES};

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
        "moved_in",
    ],
)];

pub(super) const PREPARED: Columns = &[
    (Type::Text, &["name", "statement", "rewrite"]),
    (Type::Numeric, &["used_by", "memory_used"]),
];

pub(super) const QUERY_CACHE: Columns = &[
    (Type::Text, &["query"]),
    (Type::Numeric, &["hits", "direct", "multi"]),
];

pub(super) const MEM: Columns = &[
    (Type::Text, &["name"]),
    (Type::Int4, &["size", "used", "free", "memtotal"]),
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
            count(core.moved_in),
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

/// Texts of all cores, equal ones as one, most hits first; those that contain `part` in any case.
pub(super) fn query_cache(picture: &Picture<'_>, part: Option<&str>) -> Vec<Vec<Value>> {
    let part = part.map(str::to_lowercase);
    let mut texts: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for text in picture.cores.iter().flat_map(|core| &core.analyses) {
        let wanted = |part: &String| text.query.to_lowercase().contains(part);
        if part.as_ref().is_none_or(wanted) {
            let sums = texts.entry(&text.query).or_default();
            let counted = [text.hits, text.direct, text.multi];
            sums.iter_mut()
                .zip(counted)
                .for_each(|(sum, more)| *sum += more);
        }
    }
    let mut texts: Vec<_> = texts.into_iter().collect();
    texts.sort_by_key(|(_, [hits, ..])| std::cmp::Reverse(*hits));
    let row = |(query, counted): (&str, [u64; 3])| {
        let mut row = vec![text(query.to_owned())];
        row.extend(counted.map(count));
        row
    };
    texts.into_iter().map(row).collect()
}

/// Two-phase commits of all cores.
pub(super) fn transactions(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let commits = picture.cores.iter().flat_map(|core| &core.commits);
    let row = |commit: &CommitSnapshot| {
        vec![
            text(commit.names.database.clone()),
            text(commit.names.user.clone()),
            text(commit.name.clone()),
            text(commit.state),
        ]
    };
    commits.map(row).collect()
}

/// What takes memory and is counted: bytes of each, how many are in use and free, bytes of all. Of what has no fixed
/// size, that of the average.
pub(super) fn mem(picture: &Picture<'_>) -> Vec<Vec<Value>> {
    let sum = |number: fn(&CoreSnapshot) -> usize| picture.cores.iter().map(number).sum::<usize>();
    let int = |number: usize| count(i32::try_from(number).unwrap_or(i32::MAX));
    let row = |name: &'static str, used: usize, free: usize, bytes: usize| {
        let size = bytes.checked_div(used + free).unwrap_or(0);
        vec![text(name), int(size), int(used), int(free), int(bytes)]
    };
    let (buffers, lent) = (sum(|core| core.buffers), sum(|core| core.buffers_lent));
    vec![
        row(
            "receive_buffers",
            lent,
            buffers - lent,
            buffers * BUFFER_BYTES,
        ),
        row(
            "prepared_statements",
            sum(|core| core.statements_known),
            0,
            sum(|core| core.statement_bytes),
        ),
        row(
            "query_cache",
            sum(|core| core.analysing.entries),
            0,
            sum(|core| core.analysing.bytes),
        ),
    ]
}
