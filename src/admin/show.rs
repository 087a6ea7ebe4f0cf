//! The SHOW commands: which there are, their columns, and their rows from a picture of the process.
//!
//! Names, order and types of columns are those that dashboards know: `spec/admin.md`. A row is about one thing in
//! the whole process, summed over the cores.

mod balance;
mod clients;
mod cores;
mod databases;
mod latencies;
mod pools;
mod servers;
mod stats;

use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use jiff::Timestamp;

use crate::config::Config;
use crate::error::Error;
use crate::metrics::Windows;
use crate::orders::Orders;
use crate::pool::PoolId;
use crate::snapshot::{CoreSnapshot, Scope};

use super::command::{unknown, Missing, Words};
use super::rows::{columns, count, text, Column, Rows, Type, Value};
use super::words::Word;
use super::Answer;

pub use cores::Pace;

/// What can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// Clients, with some of the columns or all.
    Clients(Wanted),
    /// Server connections, with some of the columns or all.
    Servers(Wanted),
    /// Pools and how they are.
    Pools,
    /// Counters of pools.
    Stats,
    /// Settings.
    Config,
    /// How many of what.
    Lists,
    /// Prepared statements.
    Prepared,
    /// This program.
    Version,
    /// This process.
    InstanceId,
    /// Two-phase transactions in flight.
    Transactions,
    /// Banned pools.
    Bans,
    /// What is known of the servers' replication.
    Replication,
    /// Long-running work.
    Tasks,
    /// Tables being copied.
    TableCopies,
    /// Replication slots of resharding.
    ReplicationSlots,
    /// Statements of schema synchronisation.
    SchemaSync,
    /// Cores and how busy they are.
    Cores,
    /// Clients that keep their server, and why.
    Pins,
    /// How long things took, for one database or all.
    Latencies(Span, Option<String>),
    /// Analysed texts that contain this, or all.
    QueryCache(Option<String>),
    /// PgBouncer: memory by what it is for.
    Mem,
    /// PgBouncer: the commands.
    Help,
    /// PgBouncer: entries of `[[databases]]`.
    Databases,
    /// PgBouncer: entries of `[[users]]`.
    Users,
    /// PgBouncer: counters of databases.
    StatsTotals,
    /// PgBouncer: averages of databases.
    StatsAverages,
    /// PgBouncer: counters of all databases.
    Totals,
    /// PgBouncer: is anything paused?
    State,
    /// PgBouncer: names that were looked up and are remembered.
    DnsHosts,
    /// PgBouncer: zones of those.
    DnsZones,
    /// Known, but there is nothing to show yet.
    Missing(Missing),
}

/// Since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// In the last whole `stats_period`.
    Period,
    /// Since the start of the process.
    Start,
}

/// The wanted columns of those that there are; none means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted(Vec<&'static str>);

/// Those without arguments, by their words.
const PLAIN: [(&str, Show); 26] = [
    ("MEM", Show::Mem),
    ("POOLS", Show::Pools),
    ("STATS", Show::Stats),
    ("CONFIG", Show::Config),
    ("LISTS", Show::Lists),
    ("VERSION", Show::Version),
    ("INSTANCE_ID", Show::InstanceId),
    ("TRANSACTIONS", Show::Transactions),
    ("BANS", Show::Bans),
    ("REPLICATION", Show::Replication),
    ("TASKS", Show::Tasks),
    ("TABLE_COPIES", Show::TableCopies),
    ("REPLICATION_SLOTS", Show::ReplicationSlots),
    ("SCHEMA_SYNC", Show::SchemaSync),
    ("CORES", Show::Cores),
    ("PINS", Show::Pins),
    ("HELP", Show::Help),
    ("DATABASES", Show::Databases),
    ("USERS", Show::Users),
    ("STATS_TOTALS", Show::StatsTotals),
    ("STATS_AVERAGES", Show::StatsAverages),
    ("TOTALS", Show::Totals),
    ("STATE", Show::State),
    ("DNS_HOSTS", Show::DnsHosts),
    ("DNS_ZONES", Show::DnsZones),
    ("PREPARED", Show::Prepared),
];

/// Those that have nothing to show.
const MISSING: [Missing; 9] = [
    missing("SHOW MIRRORS", "mirroring is not available yet"),
    missing(
        "SHOW LISTENERS",
        "LISTEN keeps the client's own server: there are no shared channels",
    ),
    missing(
        "SHOW PEERS",
        "finding sibling instances by broadcast is not available yet",
    ),
    missing(
        "SHOW CLIENT MEMORY",
        "clients own no buffers: those of a core are lent while bytes are pending",
    ),
    missing(
        "SHOW SERVER MEMORY",
        "servers own no buffers: those of a core are lent while bytes are pending",
    ),
    missing("SHOW PEER_POOLS", "there are no peers that pools belong to"),
    missing("SHOW FDS", "sockets are not handed over"),
    missing("SHOW SOCKETS", "see SHOW CLIENTS and SHOW SERVERS"),
    missing("SHOW ACTIVE_SOCKETS", "see SHOW CLIENTS and SHOW SERVERS"),
];

const fn missing(command: &'static str, reason: &'static str) -> Missing {
    Missing { command, reason }
}

/// What follows SHOW; `None` if it is nothing that can be shown.
pub(super) fn parse(words: &mut Words<'_>) -> Result<Option<Show>, Error> {
    let before = words.0;
    let Some(keyword) = words.keyword() else {
        return Ok(None);
    };
    let plain = PLAIN.iter().find(|(name, _)| *name == keyword);
    Ok(Some(match (keyword.as_str(), plain) {
        ("CLIENTS", _) => Show::Clients(Wanted::parse(words, clients::COLUMNS)?),
        ("SERVERS", _) => Show::Servers(Wanted::parse(words, servers::COLUMNS)?),
        ("LATENCIES", _) => {
            let span = match words.accept(&["TOTAL"]) {
                true => Span::Start,
                false => Span::Period,
            };
            Show::Latencies(span, words.argument())
        }
        ("QUERY_CACHE", _) => Show::QueryCache(words.argument()),
        ("QUERY", _) if words.accept(&["CACHE"]) => Show::QueryCache(words.argument()),
        ("PREPARED", _) => {
            words.0 = &[];
            Show::Prepared
        }
        (_, Some((_, show))) => show.clone(),
        _ => {
            words.0 = before;
            match MISSING.iter().find(|missing| accepts(words, missing)) {
                Some(missing) => Show::Missing(*missing),
                None => return Ok(None),
            }
        }
    }))
}

/// Does the command of this one come next? Its arguments are of no interest.
fn accepts(words: &mut Words<'_>, missing: &Missing) -> bool {
    let name: Vec<_> = missing.command.split(' ').skip(1).collect();
    let found = words.accept(&name) || words.accept(&[&name.join("_")]);
    if found {
        words.0 = &[];
    }
    found
}

/// A table of columns: types and names, in order.
type Columns = &'static [(Type, &'static [&'static str])];

fn all(table: Columns) -> Vec<Column> {
    table
        .iter()
        .flat_map(|(of, names)| columns(*of, names))
        .collect()
}

impl Wanted {
    /// Columns that are shown whatever is wanted.
    const ALWAYS: [&'static str; 4] = ["user", "database", "addr", "port"];

    fn parse(words: &mut Words<'_>, table: Columns) -> Result<Self, Error> {
        let mut wanted = Vec::new();
        while !words.0.is_empty() {
            let name = words.argument().ok_or_else(unknown)?;
            let names = table.iter().flat_map(|(_, names)| names.iter());
            let known = names
                .copied()
                .find(|known| known.eq_ignore_ascii_case(&name));
            wanted.push(known.ok_or_else(|| unknown().detail(format!("no column {name:?}")))?);
            let more = words.symbol(',');
            if more != matches!(words.0.first(), Some(Word::Bare(_) | Word::Quoted(_))) {
                return Err(unknown());
            }
        }
        Ok(Self(wanted))
    }

    /// Which of these columns are shown.
    fn mask(&self, table: Columns) -> Vec<bool> {
        let names = table.iter().flat_map(|(_, names)| names.iter());
        names
            .map(|name| self.0.is_empty() || Self::ALWAYS.contains(name) || self.0.contains(name))
            .collect()
    }

    /// What is left of one value per column.
    fn of<T>(&self, table: Columns, each: impl IntoIterator<Item = T>) -> Vec<T> {
        let shown = self.mask(table);
        each.into_iter()
            .zip(shown)
            .filter_map(|(value, shown)| shown.then_some(value))
            .collect()
    }
}

/// All that can be shown, at one moment.
pub struct Picture<'a> {
    /// In force.
    pub config: &'a Config,
    /// What the operator has paused and disabled.
    pub orders: &'a Orders,
    /// All cores that run.
    pub cores: &'a [CoreSnapshot],
    /// How busy they were lately, if that is known already.
    pub pace: &'a Pace,
    /// What pools counted lately.
    pub windows: &'a Windows<PoolId>,
    /// What time it is.
    pub clock: &'a Clock,
    /// Our version.
    pub version: &'a str,
    /// Name of this process among its siblings.
    pub instance_id: &'a str,
}

/// What time it is, by both clocks.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The steady one.
    pub now: Instant,
    /// The same moment for people.
    pub wall: Timestamp,
    /// Where they are.
    pub zone: TimeZone,
}

impl Clock {
    /// `YYYY-MM-DD HH:MM:SS.mmm ±hh:mm`.
    fn stamp(&self, then: Instant) -> Value {
        let ago = self.now.saturating_duration_since(then);
        let ahead = then.saturating_duration_since(self.now);
        let wall = self
            .wall
            .saturating_sub(ago)
            .and_then(|at| at.saturating_add(ahead));
        let wall = wall.unwrap_or(self.wall).to_zoned(self.zone.clone());
        text(wall.strftime("%Y-%m-%d %H:%M:%S%.3f %:z").to_string())
    }

    fn since(&self, then: Instant) -> Duration {
        self.now.saturating_duration_since(then)
    }
}

impl Show {
    /// What CommandComplete says, with PgDog's irregularities.
    pub(super) fn tag(&self) -> &'static str {
        match self {
            Self::Clients(_) => "SHOW CLIENTS",
            Self::Servers(_) | Self::Config => "SHOW",
            Self::Pools => "SHOW POOLS",
            Self::Stats => "SHOW STATS",
            Self::Lists => "SHOW LISTS",
            Self::Prepared => "SHOW PREPARED STATEMENTS",
            Self::Version => "SHOW VERSION",
            Self::InstanceId => "SHOW INSTANCE_ID",
            Self::Transactions => "SHOW TRANSACTIONS",
            Self::Bans => "SHOW BANS",
            Self::Replication => "SHOW REPLICATION",
            Self::Tasks => "SHOW TASKS",
            Self::TableCopies => "SHOW TABLE_COPIES",
            Self::ReplicationSlots => "SHOW REPLICATION_SLOTS",
            Self::SchemaSync => "SHOW SCHEMA_SYNC",
            Self::Cores => "SHOW CORES",
            Self::Pins => "SHOW PINS",
            Self::Latencies(..) => "SHOW LATENCIES",
            Self::QueryCache(_) => "SHOW QUERY CACHE",
            Self::Mem => "SHOW MEM",
            Self::Help => "SHOW",
            Self::Databases => "SHOW DATABASES",
            Self::Users => "SHOW USERS",
            Self::StatsTotals => "SHOW STATS_TOTALS",
            Self::StatsAverages => "SHOW STATS_AVERAGES",
            Self::Totals => "SHOW TOTALS",
            Self::State => "SHOW STATE",
            Self::DnsHosts => "SHOW DNS_HOSTS",
            Self::DnsZones => "SHOW DNS_ZONES",
            Self::Missing(missing) => missing.command,
        }
    }

    /// How much of each core it takes to show this; `None`: nothing.
    pub fn scope(&self) -> Option<Scope> {
        let nothing = Scope::default();
        Some(match self {
            Self::Clients(_) | Self::Pins => Scope {
                clients: true,
                ..nothing
            },
            Self::Servers(_) => Scope {
                servers: true,
                ..nothing
            },
            Self::Prepared => Scope {
                statements: true,
                ..nothing
            },
            Self::Databases | Self::Users => Scope {
                clients: true,
                ..nothing
            },
            Self::Latencies(..) => Scope {
                latencies: true,
                ..nothing
            },
            Self::QueryCache(_) => Scope {
                analyses: true,
                ..nothing
            },
            Self::Transactions => Scope {
                commits: true,
                ..nothing
            },
            Self::Pools
            | Self::Stats
            | Self::Lists
            | Self::Replication
            | Self::Bans
            | Self::Cores
            | Self::StatsTotals
            | Self::StatsAverages
            | Self::Totals
            | Self::Mem
            | Self::State => nothing,
            Self::Config
            | Self::Version
            | Self::InstanceId
            | Self::Tasks
            | Self::TableCopies
            | Self::ReplicationSlots
            | Self::SchemaSync
            | Self::Help
            | Self::DnsHosts
            | Self::DnsZones
            | Self::Missing(_) => return None,
        })
    }

    /// Its columns; `None` if it has no result.
    pub fn columns(&self) -> Option<Vec<Column>> {
        Some(match self {
            Self::Clients(wanted) => wanted.of(clients::COLUMNS, all(clients::COLUMNS)),
            Self::Servers(wanted) => wanted.of(servers::COLUMNS, all(servers::COLUMNS)),
            Self::Stats => stats::columns(),
            Self::Help | Self::Missing(_) => return None,
            other => all(other.table()),
        })
    }

    fn table(&self) -> Columns {
        use Type::{Bool, Int4, Int8, Numeric, Text};
        match self {
            Self::Clients(_) => clients::COLUMNS,
            Self::Servers(_) => servers::COLUMNS,
            Self::Pools => pools::COLUMNS,
            Self::Cores => cores::COLUMNS,
            Self::Pins => clients::PINS,
            Self::Latencies(..) => latencies::COLUMNS,
            Self::QueryCache(_) => cores::QUERY_CACHE,
            Self::Mem => cores::MEM,
            Self::Replication => balance::REPLICATION,
            Self::Bans => balance::BANS,
            Self::Prepared => cores::PREPARED,
            Self::Lists => databases::LISTS,
            Self::Databases => databases::DATABASES,
            Self::Users => databases::USERS,
            Self::StatsTotals => stats::PGBOUNCER_TOTALS,
            Self::StatsAverages => stats::PGBOUNCER_AVERAGES,
            Self::Totals => &[(Text, &["name"]), (Numeric, &["value"])],
            Self::Config => &[(Text, &["name", "value"])],
            Self::Version => &[(Text, &["version"])],
            Self::InstanceId => &[(Text, &["instance_id"])],
            Self::Transactions => &[(
                Text,
                &["database", "user", "transaction_name", "transaction_state"],
            )],
            Self::Tasks => &[
                (Int8, &["id"]),
                (
                    Text,
                    &[
                        "scope",
                        "type",
                        "status",
                        "inner_status",
                        "started_at",
                        "updated_at",
                        "elapsed",
                    ],
                ),
                (Int8, &["elapsed_ms"]),
            ],
            Self::TableCopies => &[
                (Text, &["schema", "table", "status"]),
                (Int8, &["rows"]),
                (Text, &["rows_human"]),
                (Int8, &["bytes"]),
                (Text, &["bytes_human"]),
                (Int8, &["bytes_per_sec"]),
                (Text, &["bytes_per_sec_human", "elapsed"]),
                (Int8, &["elapsed_ms"]),
                (Text, &["sql"]),
            ],
            Self::ReplicationSlots => &[
                (Text, &["host"]),
                (Int8, &["port"]),
                (Text, &["database_name", "name", "lsn", "lag"]),
                (Int8, &["lag_bytes"]),
                (Bool, &["copy_data"]),
                (Text, &["last_transaction"]),
                (Int8, &["last_transaction_ms"]),
            ],
            Self::SchemaSync => &[
                (Text, &["database", "user"]),
                (Int8, &["shard"]),
                (Text, &["kind", "sync_state", "started_at", "elapsed"]),
                (Int8, &["elapsed_ms"]),
                (Text, &["table_schema", "table_name", "sql"]),
            ],
            Self::State => &[(Text, &["key", "value"])],
            Self::DnsHosts => &[(Text, &["hostname"]), (Int8, &["ttl"]), (Text, &["addrs"])],
            Self::DnsZones => &[
                (Text, &["zonename"]),
                (Int8, &["serial"]),
                (Int4, &["count"]),
            ],
            Self::Stats | Self::Help | Self::Missing(_) => &[],
        }
    }

    /// Its answer.
    ///
    /// Errors: 0A000 if there is nothing to show yet.
    pub fn answer(&self, picture: &Picture<'_>) -> Result<Answer, Error> {
        let rows = match self {
            Self::Missing(missing) => return Err(super::command::missing(*missing)),
            Self::Help => {
                return Ok(Answer {
                    notice: Some(help()),
                    ..Answer::done(self.tag().to_owned())
                })
            }
            Self::Clients(wanted) => clients::rows(picture)
                .map(|row| wanted.of(clients::COLUMNS, row))
                .collect(),
            Self::Servers(wanted) => servers::rows(picture)
                .map(|row| wanted.of(servers::COLUMNS, row))
                .collect(),
            Self::Pins => clients::pins(picture).collect(),
            Self::Latencies(span, of) => latencies::rows(picture, *span, of.as_deref()),
            Self::QueryCache(part) => cores::query_cache(picture, part.as_deref()),
            Self::Mem => cores::mem(picture),
            Self::Transactions => cores::transactions(picture),
            Self::Pools => pools::rows(picture),
            Self::Replication => balance::replication(picture),
            Self::Bans => balance::bans(picture),
            Self::Stats => stats::rows(picture),
            Self::StatsTotals => stats::pgbouncer_totals(picture),
            Self::StatsAverages => stats::pgbouncer_averages(picture),
            Self::Totals => stats::totals(picture),
            Self::Cores => cores::rows(picture),
            Self::Prepared => cores::prepared(picture),
            Self::Lists => vec![databases::lists(picture)],
            Self::Databases => databases::databases(picture),
            Self::Users => databases::users(picture),
            Self::State => databases::state(picture),
            Self::Config => {
                let settings = picture.config.show().into_iter();
                settings
                    .map(|(name, value)| vec![text(name), text(value)])
                    .collect()
            }
            Self::Version => vec![vec![text(format!("pgdog v{}", picture.version))]],
            Self::InstanceId => vec![vec![text(picture.instance_id.to_owned())]],
            // Nothing of the kind exists while the features behind them do not: that is the whole truth.
            Self::Tasks
            | Self::TableCopies
            | Self::ReplicationSlots
            | Self::SchemaSync
            | Self::DnsHosts
            | Self::DnsZones => Vec::new(),
        };
        Ok(Answer {
            rows: Some(Rows {
                columns: self.columns().unwrap_or_default(),
                rows,
            }),
            ..Answer::done(self.tag().to_owned())
        })
    }
}

/// The text of SHOW HELP.
fn help() -> String {
    let shows: Vec<_> = [
        "CLIENTS [column, ...]",
        "SERVERS [column, ...]",
        "LATENCIES [TOTAL] [database]",
        "QUERY_CACHE [text]",
    ]
    .into_iter()
    .chain(PLAIN.iter().map(|(name, _)| *name))
    .collect();
    format!(
        "commands:\n\tSHOW {}\n\tSET name TO value\n\tRELOAD\n\tRECONNECT [database]\n\
         \tPAUSE [[user] database] [WAIT]\n\tRESUME [[user] database]\n\tMAINTENANCE ON|OFF [database]\n\
         \tBAN [pool_id]\n\tUNBAN [pool_id]\n\tHEALTHCHECK [pool_id]\n\tPROBE url\n\tRESET PREPARED|QUERY_CACHE\n\
         \tDISABLE database\n\tENABLE database\n\tKILL [database]\n\tKILL_CLIENT id\n\tWAIT_CLOSE [database]\n\
         \tSHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]",
        shows.join("\n\tSHOW ")
    )
}

#[cfg(test)]
mod tests {
    use super::super::command::{parse, Command};
    use super::*;
    use crate::protocol::sqlstate::SqlState;

    fn show(line: &str) -> Show {
        match parse(line)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .remove(0)
        {
            Command::Show(show) => show,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn names(show: &Show) -> String {
        let columns = show.columns().unwrap();
        columns
            .iter()
            .map(|column| &*column.name)
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn columns_are_chosen_in_table_order() {
        assert_eq!(
            names(&show("SHOW CLIENTS locked, STATE,id")),
            "id user database addr port state locked"
        );
        assert_eq!(
            names(&show("show servers remote_pid;")),
            "database user addr port remote_pid"
        );
        assert!(names(&show("SHOW CLIENTS"))
            .starts_with("id user database addr port state replication"));
        for line in [
            "SHOW CLIENTS nothing",
            "SHOW CLIENTS id,",
            "SHOW CLIENTS id state",
            "SHOW CLIENTS ,",
        ] {
            assert_eq!(
                parse(line).unwrap_err().code,
                SqlState::SYNTAX_ERROR,
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_missing_says_so() {
        for line in ["SHOW CLIENT MEMORY", "SHOW FDS"] {
            assert!(matches!(show(line), Show::Missing(_)), "{line}");
        }
    }

    #[test]
    fn prepared_ignores_what_follows() {
        assert_eq!(show("SHOW PREPARED STATEMENTS please"), Show::Prepared);
        assert_eq!(show("SHOW PREPARED").tag(), "SHOW PREPARED STATEMENTS");
    }

    #[test]
    fn timestamps_are_local() {
        let now = any_instant();
        let clock = Clock {
            now,
            wall: "2026-11-25T15:00:00.0421Z".parse().unwrap(),
            zone: TimeZone::get("America/St_Johns")
                .unwrap_or(TimeZone::fixed(jiff::tz::offset(-3))),
        };
        let Value::Text(stamp) = clock.stamp(now - Duration::from_secs(60)) else {
            panic!();
        };
        assert!(
            stamp == "2026-11-25 11:29:00.042 -03:30" || stamp == "2026-11-25 11:59:00.042 -03:00",
            "{stamp}"
        );
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn any_instant() -> Instant {
        Instant::now()
    }
}
