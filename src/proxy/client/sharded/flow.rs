//! How the servers of a portal with row limits are asked for its rows.
//!
//! Each has a portal of its own, under a name of ours, in the open transaction. Between two slices all of them rest: so
//! whatever else the transaction does can be done, and nothing waits in a socket. A server is asked for as many rows as
//! fit into a window, going by those that it has sent; nothing is known of the first ones.

use crate::merge::plan::Slice;
use crate::merge::MergePlan;
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend::{Execute, SYNC};
use crate::types::canonical::Columns;

use super::call::{Answers, Call, Shown};
use super::charge::Charge;
use super::scatter::LIMITS;

/// Rows that a server is asked for first.
const FIRST_ROWS: u64 = 16;
/// So many times more the next time, as far as they fit.
const GROWTH: u64 = 8;

/// What answers an Execute by itself.
const EXECUTION: &Answers = &[
    (Owed::Execution, Fate::Forward),
    (Owed::Ready, Fate::Forward),
];

/// What the servers of one portal were asked for.
pub(super) struct Flow {
    /// Of the portal, on every server.
    name: Box<[u8]>,
    needs: Needs,
    servers: Vec<Server>,
    /// Columns with OIDs of types within, of the rows of each.
    pub(super) columns: Vec<Columns>,
    /// What the merge holds while the portal is suspended.
    pub(super) held: Option<Charge>,
}

/// What the merge needs to give rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// All rows before it gives the first.
    All,
    /// Nobody knows how many: it drops duplicates.
    Unknown,
    /// As many as it gives.
    AsMany,
}

#[derive(Clone, Copy, Default)]
struct Server {
    /// Rows that it was asked for last.
    rows: u64,
    /// Bytes of a wide row among the last.
    widest: usize,
}

impl Flow {
    /// What a server is sent by [`Self::next`].
    pub(super) const CALL: Call<'static> = Call {
        messages: &[],
        owed: EXECUTION,
        commits: false,
        shown: Shown::Errors,
    };

    pub(super) fn new(name: &[u8], servers: usize, plan: &MergePlan, slice: Slice) -> Self {
        let needs = match (&plan.grouping, plan.leg_rows(1, slice)) {
            (Some(_), _) => Needs::All,
            (None, None) => Needs::Unknown,
            (None, Some(_)) => Needs::AsMany,
        };
        Self {
            name: name.into(),
            needs,
            servers: vec![Server::default(); servers],
            columns: Vec::new(),
            held: None,
        }
    }

    /// Rows that all are asked for first, as Execute has them, if the client wants so many.
    pub(super) fn begin(&mut self, wanted: Option<u64>) -> i32 {
        let rows = self.rows(FIRST_ROWS, wanted);
        for server in &mut self.servers {
            server.rows = rows;
        }
        rows_max(rows)
    }

    /// Execute and Sync for one of them, whose rows are used up while the client still wants so many.
    pub(super) fn next(&mut self, at: usize, wanted: Option<u64>) -> Vec<u8> {
        let server = self.servers.get(at).copied().unwrap_or_default();
        let fitting = LIMITS.window_bytes / server.widest.max(1);
        let rows = server.rows.max(1).saturating_mul(GROWTH);
        let rows = self.rows(rows.min(fitting as u64), wanted);
        if let Some(server) = self.servers.get_mut(at) {
            server.rows = rows;
            server.widest /= 2; // one wide row does not count for ever
        }
        let mut messages = Vec::new();
        Execute {
            portal: &self.name,
            rows_max: rows_max(rows),
        }
        .encode(&mut messages);
        messages.extend_from_slice(&SYNC);
        messages
    }

    /// A row has come.
    pub(super) fn saw(&mut self, at: usize, row_bytes: usize) {
        if let Some(server) = self.servers.get_mut(at) {
            server.widest = server.widest.max(row_bytes);
        }
    }

    /// 0: all that it has; they are read as they are needed.
    fn rows(&self, rows: u64, wanted: Option<u64>) -> u64 {
        match (self.needs, wanted) {
            (Needs::AsMany, Some(wanted)) => rows.min(wanted).max(1),
            (Needs::Unknown, Some(_)) => rows.max(1),
            (Needs::All, _) | (_, None) => 0,
        }
    }
}

/// So many rows as Execute has them.
pub(super) fn rows_max(rows: u64) -> i32 {
    i32::try_from(rows).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::plan::{Distinct, Grouping};

    fn asked(flow: &mut Flow, wanted: Option<u64>) -> i32 {
        let messages = flow.next(0, wanted);
        let body = messages.get(5..messages.len() - SYNC.len()).unwrap();
        Execute::parse(body).unwrap().rows_max
    }

    #[test]
    fn servers_are_asked_for_what_fits_into_a_window() {
        let plan = MergePlan::concatenate();
        let mut flow = Flow::new(b"p", 1, &plan, Slice::default());
        assert_eq!(flow.begin(Some(100_000)), 16);
        flow.saw(0, 100);
        assert_eq!(asked(&mut flow, Some(99_984)), 128);
        flow.saw(0, 100);
        assert_eq!(asked(&mut flow, Some(99_000)), 1024);
        flow.saw(0, 100);
        assert_eq!(asked(&mut flow, Some(98_000)), 2621, "256 KiB");
        assert_eq!(
            asked(&mut flow, Some(7)),
            7,
            "no more than the client wants"
        );
        flow.saw(0, 100_000);
        assert_eq!(asked(&mut flow, Some(98_000)), 2);
        flow.saw(0, 100_000_000);
        assert_eq!(asked(&mut flow, Some(98_000)), 1);
        assert_eq!(asked(&mut flow, None), 0, "as they come");
        let distinct = MergePlan {
            distinct: Distinct::Rows,
            ..plan.clone()
        };
        let mut flow = Flow::new(b"p", 1, &distinct, Slice::default());
        assert_eq!(flow.begin(Some(5)), 16);
        let grouped = MergePlan {
            grouping: Some(Box::new(Grouping {
                keys: Vec::new(),
                aggregates: Vec::new(),
                computed: Vec::new(),
            })),
            ..plan
        };
        let mut flow = Flow::new(b"p", 1, &grouped, Slice::default());
        assert_eq!(flow.begin(Some(5)), 0);
    }
}
