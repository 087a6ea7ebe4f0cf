//! The meter of one server connection: what it did, and how long that took.
//!
//! ```text
//!   begin        answered      begin       answered
//!     │  BEGIN      │  client     │  COMMIT    │
//!     ├─────────────┼─────────────┼────────────┤
//!     │  query_time │  idle_xact  │ query_time │
//!     └──────────────── xact_time ─────────────┘
//! ```

use std::cell::Cell;
use std::time::Instant;

use crate::protocol::backend::TransactionStatus;

use super::{elapsed, Counters, Phase, Stat, Totals};

/// Of so many requests to a server one is watched for what it costs here, which takes two readings of the clock.
const OVERHEAD_OF: u64 = 16;

/// What a request does, as far as that was found out before it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestKind {
    /// It only reads.
    Read,
    /// It may write.
    Write,
    /// Its text was not looked at.
    #[default]
    Other,
}

impl RequestKind {
    /// As what its time counts.
    pub fn phase(self) -> Phase {
        match self {
            Self::Read => Phase::QueryRead,
            Self::Write => Phase::QueryWrite,
            Self::Other => Phase::QueryOther,
        }
    }
}

/// One server connection's counters and clocks. Travels with it when it changes cores.
#[derive(Clone, Debug)]
pub struct ServerMeter {
    counters: Counters,
    /// What was counted for other pools' slices before it came to this one.
    carried: Totals,
    opened: Instant,
    /// When the running query began, or the last one ended.
    since: Cell<Instant>,
    /// When the transaction began, while there is one.
    transaction_since: Cell<Option<Instant>>,
    /// A request is under way.
    running: Cell<bool>,
    kind: Cell<RequestKind>,
    /// Nanoseconds spent here on the request that runs, if it is one that is watched.
    overhead: Cell<Option<u64>>,
    last_sent: Cell<u8>,
    last_received: Cell<u8>,
    broken: Cell<bool>,
}

/// A request was answered with ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// What that said.
    pub status: TransactionStatus,
    /// How long the request took, in nanoseconds.
    pub query_time: u64,
    /// How long the transaction took that has ended with it, in nanoseconds.
    pub transaction_time: Option<u64>,
    /// What the request was.
    pub kind: RequestKind,
}

impl ServerMeter {
    /// Of a connection that is being opened.
    pub fn new(now: Instant) -> Self {
        Self {
            counters: Counters::default(),
            carried: Totals::default(),
            opened: now,
            since: Cell::new(now),
            transaction_since: Cell::new(None),
            running: Cell::new(false),
            kind: Cell::default(),
            overhead: Cell::default(),
            last_sent: Cell::new(b'p'),
            last_received: Cell::new(b'Z'),
            broken: Cell::new(false),
        }
    }

    /// The counters, to add to.
    #[inline]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was counted since the connection was opened.
    pub fn totals(&self) -> Totals {
        self.counters.totals()
    }

    /// What was counted since the connection came to this core.
    pub fn totals_here(&self) -> Totals {
        self.counters.totals() - &self.carried
    }

    /// The connection has come to another core: what was counted so far is that of the one that it came from.
    pub fn arrived(&mut self) {
        self.carried = self.counters.totals();
    }

    /// When it was opened.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// When its last query began or, if that is over, ended.
    pub fn last_used(&self) -> Instant {
        self.since.get()
    }

    /// Is it in a transaction with nothing to do?
    pub fn is_idle_in_transaction(&self) -> bool {
        self.transaction_since.get().is_some() && !self.running.get()
    }

    /// The type of the last message to it.
    pub fn last_sent(&self) -> u8 {
        self.last_sent.get()
    }

    /// The type of the last message from it.
    pub fn last_received(&self) -> u8 {
        self.last_received.get()
    }

    /// A message of this type is sent.
    #[inline]
    pub fn sent(&self, tag: u8) {
        self.last_sent.set(tag);
    }

    /// A message of this type was received.
    #[inline]
    pub fn received(&self, tag: u8) {
        self.last_received.set(tag);
    }

    /// Given to a client that has waited for it so many nanoseconds.
    #[inline]
    pub fn assigned(&self, waited: u64, kind: RequestKind) {
        self.counters.count(Stat::ServerAssignmentCount);
        self.kind.set(kind);
        self.counters.add(Stat::WaitTime, waited);
    }

    /// Bytes that came and went.
    #[inline]
    pub fn passed(&self, received: u64, sent: u64) {
        self.counters.add(Stat::Received, received);
        self.counters.add(Stat::Sent, sent);
    }

    /// The first message of a client's request is sent, with nothing else under way. In a transaction, answers how
    /// long that was idle, in nanoseconds.
    #[inline]
    pub fn begin(&self, now: Instant, status: TransactionStatus) -> Option<u64> {
        let since = self.since.replace(now);
        self.running.set(true);
        if status == TransactionStatus::Idle {
            self.transaction_since.set(Some(now));
            return None;
        }
        let idle = elapsed(since, now);
        self.counters.add(Stat::IdleXactTime, idle);
        Some(idle)
    }

    /// A client's request was answered. `more`: there are others under way.
    #[inline]
    pub fn answered(&self, now: Instant, status: TransactionStatus, more: bool) -> Answered {
        let since = self.since.replace(now);
        let query_time = elapsed(since, now);
        self.running.set(more);
        self.counters.count(Stat::QueryCount);
        self.counters.add(Stat::QueryTime, query_time);
        let mut transaction_time = None;
        if status == TransactionStatus::Idle {
            let began = self.transaction_since.get().unwrap_or(now);
            // Most have one request, with which they began.
            let time = match began == since {
                true => query_time,
                false => elapsed(began, now),
            };
            self.count_transaction(time);
            transaction_time = Some(time);
            self.transaction_since.set(more.then_some(now));
        }
        Answered {
            status,
            query_time,
            transaction_time,
            kind: self.kind.get(),
        }
    }

    /// Is the request that has just begun one that is watched?
    #[inline]
    pub fn is_watched(&self) -> bool {
        self.counters.0[Stat::QueryCount as usize]
            .get()
            .is_multiple_of(OVERHEAD_OF)
    }

    /// From the core's waking to the sending of the request that is watched so many nanoseconds went by.
    pub fn handed_over(&self, spent: u64) {
        self.overhead.set(Some(spent));
    }

    /// What was spent on the request that is answered, if it was watched: from its answer on it is not any more.
    #[inline]
    pub fn take_overhead(&self) -> Option<u64> {
        self.overhead.take()
    }

    /// The client is gone, and the server was made fit for another one.
    pub fn abandoned(&self, now: Instant) {
        if let Some(began) = self.transaction_since.take() {
            self.count_transaction(elapsed(began, now));
            self.since.set(now);
        }
        self.running.set(false);
    }

    #[inline]
    fn count_transaction(&self, time: u64) {
        self.counters.count(Stat::XactCount);
        self.counters.add(Stat::XactTime, time);
    }

    /// A statement is complete, with this command tag. True: it has prepared a transaction.
    #[inline]
    pub fn completed(&self, tag: &[u8]) -> bool {
        let (stat, rows) = match tag {
            [b'I', b'N', b'S', b'E', b'R', b'T', ..] => (Stat::RowsInserted, rows(tag)),
            [b'U', b'P', b'D', b'A', b'T', b'E', ..] => (Stat::RowsUpdated, rows(tag)),
            [b'D', b'E', b'L', b'E', b'T', b'E', ..] => (Stat::RowsDeleted, rows(tag)),
            b"PREPARE TRANSACTION" => (Stat::Xact2pcCount, 1),
            _ => return false,
        };
        self.counters.add(stat, rows);
        stat == Stat::Xact2pcCount
    }

    /// The connection is lost, or has said what cannot be.
    pub fn lost(&self) {
        self.broken.set(true);
    }

    /// Has it been lost?
    pub fn is_lost(&self) -> bool {
        self.broken.get()
    }

    /// The connection is about to be closed for another reason than its age: counts why.
    pub fn given_up(&self) {
        self.counters.count(match self.broken.get() {
            true => Stat::Broken,
            false => Stat::ForceClosed,
        });
    }
}

/// The number at the end of a command tag; 0 if there is none.
fn rows(tag: &[u8]) -> u64 {
    let digits = tag.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use TransactionStatus::{Failed, Idle, Transaction};

    /// Plays `(ms, Some((status, more)))` as answers, `(ms, None)` as beginnings; then the totals in ms:
    /// transactions, queries, transaction time, idle time, query time.
    fn play(steps: &[(u64, Option<(TransactionStatus, bool)>)]) -> [u64; 5] {
        let start = any_instant();
        let meter = ServerMeter::new(start);
        let mut status = Idle;
        for (ms, step) in steps {
            let now = start + Duration::from_millis(*ms);
            match step {
                None => assert_eq!(meter.begin(now, status).is_some(), status != Idle),
                Some((said, more)) => {
                    status = *said;
                    assert_eq!(meter.answered(now, *said, *more).status, *said);
                }
            }
        }
        let totals = meter.totals();
        [
            totals[Stat::XactCount],
            totals[Stat::QueryCount],
            totals[Stat::XactTime] / 1_000_000,
            totals[Stat::IdleXactTime] / 1_000_000,
            totals[Stat::QueryTime] / 1_000_000,
        ]
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn any_instant() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_lone_statement_is_a_transaction() {
        assert_eq!(
            play(&[(10, None), (15, Some((Idle, false)))]),
            [1, 1, 5, 0, 5]
        );
    }

    #[test]
    fn time_between_the_statements_of_a_transaction_is_idle() {
        let steps = [
            (10, None),
            (11, Some((Transaction, false))),
            (21, None),
            (23, Some((Failed, false))),
            (53, None),
            (54, Some((Idle, false))),
        ];
        assert_eq!(play(&steps), [1, 3, 44, 40, 4]);
    }

    #[test]
    fn in_a_pipeline_each_begins_where_the_one_before_has_ended() {
        let steps = [
            (10, None),
            (15, Some((Idle, true))),
            (17, Some((Transaction, true))),
            (18, Some((Idle, false))),
            // The server was at rest meanwhile.
            (100, None),
            (101, Some((Idle, false))),
        ];
        assert_eq!(play(&steps), [3, 4, 9, 0, 9]);
    }

    #[test]
    fn an_abandoned_transaction_ends_when_it_is_rolled_back() {
        let start = any_instant();
        let meter = ServerMeter::new(start);
        meter.abandoned(start);
        meter.begin(start, Idle);
        meter.answered(start, Transaction, false);
        meter.abandoned(start + Duration::from_millis(3));
        meter.abandoned(start + Duration::from_millis(4));
        let totals = meter.totals();
        assert_eq!((totals[Stat::XactCount], totals[Stat::QueryCount]), (1, 1));
        assert_eq!(totals[Stat::XactTime], 3_000_000);
    }

    #[test]
    fn rows_are_counted_by_command_tags() {
        let meter = ServerMeter::new(any_instant());
        for tag in [
            &b"INSERT 0 5"[..],
            b"UPDATE 18446744073709551615",
            b"DELETE 0",
            b"DELETE 3",
            b"INSERT x",
            b"UPDATE",
            b"SELECT 7",
            b"MERGE 9",
            b"DEALLOCATE",
            b"",
        ] {
            assert!(!meter.completed(tag));
        }
        assert!(meter.completed(b"PREPARE TRANSACTION"));
        let totals = meter.totals();
        let counted = [
            Stat::RowsInserted,
            Stat::RowsUpdated,
            Stat::RowsDeleted,
            Stat::Xact2pcCount,
        ]
        .map(|stat| totals[stat]);
        assert_eq!(counted, [5, u64::MAX, 3, 1]);
    }

    #[test]
    fn what_another_core_has_counted_is_not_counted_twice() {
        let mut meter = ServerMeter::new(any_instant());
        meter.passed(10, 20);
        let before = meter.totals_here();
        meter.arrived();
        meter.passed(1, 2);
        let mut sum = before;
        sum += &meter.totals_here();
        assert_eq!(sum, meter.totals());
    }
}
