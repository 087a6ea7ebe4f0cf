//! What is counted: plain integers of one core, summed over all cores when somebody asks.
//!
//! A [`Counters`] is a row of cells that its core adds to and nobody else sees; [`Totals`] is what was in it at some
//! moment, and can be sent, added and subtracted. Servers and clients have a meter each ([`ServerMeter`],
//! [`ClientMeter`]), which also measures time; a pool's totals are those of its servers, past and present, and what
//! is counted for the pool itself.

mod client;
pub mod family;
mod histogram;
mod latency;
pub mod openmetrics;
pub mod otlp;
mod server;
pub mod tally;
mod window;

use std::cell::Cell;
use std::ops::{AddAssign, Index, Sub};
use std::time::{Duration, Instant};

pub use client::{ClientMeter, ClientTotals};
pub use histogram::{Distribution, Histogram};
pub use latency::{Distributions, Latencies, Phase};
pub use server::{Answered, RequestKind, ServerMeter};
pub use tally::{LoginResult, Tally, TallyTotals, Timed};
pub use window::{Averages, Period, Windows};

/// The enumeration of what is counted per pool, with names.
macro_rules! stats {
    ($($(#[$doc:meta])+ $stat:ident $name:literal,)+) => {
        /// What is counted for each pool and server connection. Times are in nanoseconds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stat {
            $($(#[$doc])+ $stat,)+
        }

        impl Stat {
            /// All of them, in the order of `SHOW STATS`; what follows its columns is not in there.
            pub const ALL: [Stat; Stat::COUNT] = [$(Stat::$stat,)+];
            /// How many there are.
            pub const COUNT: usize = [$($name,)+].len();

            /// Its name in `SHOW STATS`, without `total_` or `avg_`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Stat::$stat => $name,)+
                }
            }
        }
    };
}

stats! {
    /// Transactions that ended: each ReadyForQuery of status idle that a client was given. So a statement outside of
    /// BEGIN is one, a text of several statements is one, failed and rolled back ones count, and in a pipeline each
    /// Sync ends one. Also those of vanished clients that we have rolled back; not those whose server was lost.
    XactCount "xact_count",
    /// Transactions that a server has prepared (PREPARE TRANSACTION).
    Xact2pcCount "xact_2pc_count",
    /// Requests of clients that were answered, with success or not: each Query, FunctionCall or Sync that a server
    /// answered with ReadyForQuery. A text of several statements is one, and so is a batch of several Executes. What
    /// is answered here, or is ours (settings, prepared statements brought in line, clean-up), does not count.
    QueryCount "query_count",
    /// Servers given to clients.
    ServerAssignmentCount "server_assignment_count",
    /// Bytes from servers after the login, without encryption.
    Received "received",
    /// Bytes to servers after the login, without encryption.
    Sent "sent",
    /// Time in transactions: from the first message of each to its ReadyForQuery. In a pipeline, one begins where
    /// the one before has ended.
    XactTime "xact_time",
    /// Time in transactions with nothing to do: from ReadyForQuery to the next message.
    IdleXactTime "idle_xact_time",
    /// Time of queries: from the first message of each to its ReadyForQuery, be it that the server works or that the
    /// rest of the messages or the data of COPY are awaited. In a pipeline, one begins where the one before has ended.
    QueryTime "query_time",
    /// Time that clients had to wait until a server was given to them.
    WaitTime "wait_time",
    /// Statements that servers have parsed for the extended protocol, the clients' and ours.
    ServerParseCount "server_parse_count",
    /// Statements bound.
    BindCount "bind_count",
    /// Prepared statements closed to respect the limit per server.
    CloseCount "close_count",
    /// ErrorResponses after the login, whoever caused them.
    Errors "errors",
    /// Servers on which all that a client had set was discarded before the next one.
    Cleaned "cleaned",
    /// Transactions that their client abandoned and we rolled back.
    Rollbacks "rollbacks",
    /// Time of opening connections, from name look-up to ReadyForQuery.
    ConnectTime "connect_time",
    /// Connections opened.
    ConnectCount "connect_count",
    /// Servers given to clients that were only going to read.
    Reads "reads",
    /// Servers given to clients that might write.
    Writes "writes",
    /// Logins at servers tried.
    AuthAttempts "auth_attempts",
    /// Rows by the command tags of INSERT, whatever became of the transaction.
    RowsInserted "rows_inserted",
    /// The same of UPDATE.
    RowsUpdated "rows_updated",
    /// The same of DELETE.
    RowsDeleted "rows_deleted",
    /// Connections that were lost, or said what cannot be.
    Broken "broken",
    /// Servers that came back amid work.
    OutOfSync "out_of_sync",
    /// Of those, how many were made fit again.
    ReSynced "re_synced",
    /// Connections closed because a client left them in a state that nobody should have.
    ForceClosed "force_closed",
    /// Statements that clients have asked to parse for the extended protocol, be it that a server had them.
    ClientParseCount "client_parse_count",
    /// Clients that have logged in.
    ClientLoginCount "client_login_count",
    /// Clients that got no server within `checkout_timeout`.
    CheckoutTimeouts "checkout_timeouts",
    /// Checks of connections at checkout, and of servers in the background.
    Healthchecks "healthchecks",
}

impl Stat {
    /// How many are columns of `SHOW STATS`: the first ones.
    pub const SHOWN: usize = Stat::RowsDeleted as usize + 1;
}

/// A number that one core adds to.
#[derive(Clone, Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Adds.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.set(self.0.get().wrapping_add(more));
    }

    /// The number.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.get()
    }

    /// The number, which is zero afterwards.
    #[inline]
    fn take(&self) -> u64 {
        self.0.take()
    }
}

/// One core's counters of a pool or a server.
#[derive(Clone, Debug, Default)]
pub struct Counters([Counter; Stat::COUNT]);

impl Counters {
    /// Adds one.
    #[inline]
    pub fn count(&self, stat: Stat) {
        self.add(stat, 1);
    }

    /// Adds some.
    #[inline]
    pub fn add(&self, stat: Stat, more: u64) {
        self.0[stat as usize].add(more);
    }

    /// Adds a time.
    #[inline]
    pub fn add_time(&self, stat: Stat, more: Duration) {
        self.add(stat, nanoseconds(more));
    }

    /// Adds what others have counted.
    pub fn add_all(&self, more: &Totals) {
        for (counter, more) in self.0.iter().zip(more.0) {
            counter.add(more);
        }
    }

    /// What was counted so far.
    pub fn totals(&self) -> Totals {
        Totals(std::array::from_fn(|at| self.0[at].get()))
    }
}

/// What was counted up to some moment, or between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals([u64; Stat::COUNT]);

impl Default for Totals {
    fn default() -> Self {
        Self([0; Stat::COUNT])
    }
}

impl Index<Stat> for Totals {
    type Output = u64;

    fn index(&self, stat: Stat) -> &u64 {
        &self.0[stat as usize]
    }
}

impl AddAssign<&Totals> for Totals {
    fn add_assign(&mut self, other: &Totals) {
        for (mine, more) in self.0.iter_mut().zip(other.0) {
            *mine = mine.wrapping_add(more);
        }
    }
}

/// What was counted since; nothing where a counter has shrunk, as it began anew.
impl Sub<&Totals> for Totals {
    type Output = Totals;

    fn sub(self, before: &Totals) -> Totals {
        Totals(std::array::from_fn(|at| {
            self.0[at].saturating_sub(before.0[at])
        }))
    }
}

/// A duration as counters keep it. 584 years fit.
#[inline]
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    time.as_secs()
        .wrapping_mul(1_000_000_000)
        .wrapping_add(u64::from(time.subsec_nanos()))
}

#[inline]
pub(crate) fn elapsed(since: Instant, now: Instant) -> u64 {
    nanoseconds(now.saturating_duration_since(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_show_stats_in_its_order() {
        let names = Stat::ALL.map(Stat::name);
        assert_eq!(
            names[..Stat::SHOWN].join(" "),
            "xact_count xact_2pc_count query_count server_assignment_count received sent xact_time idle_xact_time \
             query_time wait_time server_parse_count bind_count close_count errors cleaned rollbacks connect_time \
             connect_count reads writes auth_attempts rows_inserted rows_updated rows_deleted"
        );
        for (at, stat) in Stat::ALL.into_iter().enumerate() {
            assert_eq!(stat as usize, at);
        }
    }

    #[test]
    fn totals_add_and_differ() {
        let counters = Counters::default();
        counters.count(Stat::XactCount);
        counters.add_time(Stat::XactTime, Duration::new(3, 5));
        let before = counters.totals();
        counters.add_all(&before);
        let mut after = counters.totals();
        assert_eq!(after[Stat::XactTime], 6_000_000_010);
        assert_eq!(after - &before, before);
        assert_eq!(before - &after, Totals::default(), "a counter that shrank");
        after += &before;
        assert_eq!(after[Stat::XactCount], 3);
    }
}
