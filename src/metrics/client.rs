//! The meter of one client.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::{nanoseconds, Answered, Counter};

/// One client's counters. An idle client keeps them: they are few.
#[derive(Clone, Debug)]
pub struct ClientMeter {
    connected: Instant,
    last_request: Cell<Instant>,
    /// How long the request that is about to begin had to wait for a server.
    waited: Counter,
    queries: Counter,
    transactions: Counter,
    transactions_2pc: Counter,
    query_time: Counter,
    transaction_time: Counter,
    received: Counter,
    sent: Counter,
    errors: Counter,
}

/// What was counted for one client. What the numbers mean is said at [`Stat`](super::Stat) for its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTotals {
    /// When it was logged in.
    pub connected: Instant,
    /// When it last began a request that needed a server; before the first, as `connected`.
    pub last_request: Instant,
    /// Requests answered by servers.
    pub queries: u64,
    /// Transactions ended.
    pub transactions: u64,
    /// Transactions prepared.
    pub transactions_2pc: u64,
    /// Nanoseconds.
    pub query_time: u64,
    /// Nanoseconds.
    pub transaction_time: u64,
    /// Bytes from the client, without encryption; those of the login do not count.
    pub received: u64,
    /// Bytes to the client, without encryption.
    pub sent: u64,
    /// Errors sent to it, the servers' and ours.
    pub errors: u64,
}

impl ClientMeter {
    /// Of a client that has just logged in.
    pub fn new(now: Instant) -> Self {
        Self {
            connected: now,
            last_request: Cell::new(now),
            waited: Counter::default(),
            queries: Counter::default(),
            transactions: Counter::default(),
            transactions_2pc: Counter::default(),
            query_time: Counter::default(),
            transaction_time: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            errors: Counter::default(),
        }
    }

    /// It begins a request.
    #[inline]
    pub fn begin(&self, now: Instant) {
        self.last_request.set(now);
    }

    /// It was given a server, for which it had to wait so many nanoseconds.
    #[inline]
    pub fn assigned(&self, waited: u64) {
        self.waited.add(waited);
    }

    /// Its server has answered a request. Answers how long that took, the wait included, in nanoseconds.
    #[inline]
    pub fn answered(&self, answered: Answered) -> u64 {
        self.queries.add(1);
        self.query_time.add(answered.query_time);
        if let Some(time) = answered.transaction_time {
            self.transactions.add(1);
            self.transaction_time.add(time);
        }
        answered.query_time.wrapping_add(self.waited.take())
    }

    /// A request of its was answered without a server, in this time.
    pub fn served(&self, time: Duration) {
        self.queries.add(1);
        self.query_time.add(nanoseconds(time));
    }

    /// It has prepared a transaction.
    pub fn prepared_transaction(&self) {
        self.transactions_2pc.add(1);
    }

    /// Bytes that came and went.
    #[inline]
    pub fn passed(&self, received: u64, sent: u64) {
        self.received.add(received);
        self.sent.add(sent);
    }

    /// It is sent an error.
    pub fn error(&self) {
        self.errors.add(1);
    }

    /// What was counted so far.
    pub fn totals(&self) -> ClientTotals {
        ClientTotals {
            connected: self.connected,
            last_request: self.last_request.get(),
            queries: self.queries.get(),
            transactions: self.transactions.get(),
            transactions_2pc: self.transactions_2pc.get(),
            query_time: self.query_time.get(),
            transaction_time: self.transaction_time.get(),
            received: self.received.get(),
            sent: self.sent.get(),
            errors: self.errors.get(),
        }
    }
}
