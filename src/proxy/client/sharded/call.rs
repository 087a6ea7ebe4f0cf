//! A call to several servers: what each is sent, what it owes for it, and what of that the client gets.

use std::sync::Arc;

use crate::merge::plan::Slice;
use crate::merge::{Export, MergePlan, Promised};
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend::Query;
use crate::types::shape::Shape;

use super::super::super::server::NOTE_COMMIT;
use super::Leg;

/// What is sent to each server, and what they owe for it.
pub(super) struct Call<'a> {
    /// Whole messages: for all, or for each.
    pub(super) messages: &'a [Vec<u8>],
    /// What each of them is answered, in order.
    pub(super) owed: &'a Answers,
    /// It may commit.
    pub(super) commits: bool,
    /// What the client gets of the answers.
    pub(super) shown: Shown,
}

/// When the servers of a call get it.
///
/// Whoever waits for a lock on one server and has another on the next may wait for somebody who has it the other way
/// round, and no server sees both. So locks are taken in the order of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// All at once: it takes no locks that others wait for, or its rows come in an order of their own.
    Together,
    /// Each takes the same locks: who has those of the first server has all.
    FirstThenOthers,
    /// One after the other.
    InTurn,
}

/// What is owed, in order, and whether it is the client's.
pub(super) type Answers = [(Owed, Fate)];

/// What the client gets of the answers to a call.
pub(super) enum Shown {
    /// The merged reply.
    Reply {
        plan: Arc<MergePlan>,
        slice: Slice,
        /// RowDescription, too.
        described: bool,
        /// It answers a Query: no NoData.
        plain: bool,
        /// Rows of one column behind those of the servers.
        notes: Vec<String>,
        /// Every server sends a line with the names of columns in front of a COPY.
        names: bool,
        /// The rows are those of a COPY, and the client gets its data.
        export: Option<Box<Export>>,
        /// Where servers are asked something else than the client has.
        promised: Option<Promised>,
        /// What rows the client was told of.
        told: Option<Shape>,
        /// No more than so many rows, after which the portal is suspended for good.
        first: Option<u64>,
        /// When each server gets the call.
        order: Order,
    },
    /// What describes a statement or portal. Of one server.
    Description,
    /// Only an error, once.
    Errors,
}

impl Shown {
    /// The merged reply, all of it, and nothing else.
    pub(super) fn reply(plan: MergePlan, described: bool, plain: bool) -> Self {
        Self::Reply {
            plan: Arc::new(plan),
            slice: Slice::default(),
            described,
            plain,
            notes: Vec::new(),
            names: false,
            export: None,
            promised: None,
            told: None,
            first: None,
            order: Order::Together,
        }
    }

    const fn order(&self) -> Order {
        match self {
            Self::Reply { order, .. } => *order,
            Self::Description | Self::Errors => Order::Together,
        }
    }
}

/// Sends a call to those of its servers that are next, `sent` of which have it. How many have it then?
pub(super) fn begin(legs: &mut [Leg], call: &Call<'_>, sent: usize) -> usize {
    let next = match (call.shown.order(), sent) {
        (Order::Together, _) | (Order::FirstThenOthers, 1..) => legs.len(),
        (Order::FirstThenOthers, 0) | (Order::InTurn, _) => legs.len().min(sent + 1),
    };
    for (at, leg) in legs.iter_mut().enumerate().take(next).skip(sent) {
        let messages = call.messages.get(at).or_else(|| call.messages.first());
        send(leg, call, messages.map_or(&[], Vec::as_slice));
    }
    next
}

/// Sends a call to one of its servers.
pub(super) fn send(leg: &mut Leg, call: &Call<'_>, messages: &[u8]) {
    let server = &mut *leg.held;
    server.write_messages(messages);
    let note = if call.commits { NOTE_COMMIT } else { 0 };
    for &(owed, fate) in call.owed {
        match owed {
            Owed::Ready | Owed::Results => {
                server.sent_to_ready(owed, fate, note);
            }
            _ => {
                server.exchange.sent_with(owed, fate, note);
            }
        }
    }
    let now = server.stream.core().now();
    let status = server.exchange.status();
    server.link.meter.begin(now, status);
    server.count_traffic();
}

/// A text as a Query, for [`Call`].
pub(super) fn query(text: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(text.len() + 6);
    Query { text }.encode(&mut message);
    message
}
