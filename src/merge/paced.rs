//! A merge whose rows the client takes in slices: a portal with row limits.
//!
//! Its legs are portals themselves, which are asked for rows when the merge has none of them left ([`Merge::needs`]).
//! What they have sent waits until the client asks for more.

use super::leg::Leg;
use super::{Merge, Rows, Stage};
use crate::error::Error;

/// How many rows the client gets at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// All at once.
    Whole,
    /// So many, and no more are asked for: the portal ends here.
    First(u64),
    /// Slice after slice.
    Slices {
        /// Rows of the slices before this one.
        before: u64,
        /// Rows of this one. `None`: all that are left.
        rows: Option<u64>,
        /// What the client is told to have done.
        verb: &'static str,
    },
}

impl Pace {
    /// Is this slice complete, now that the client has got so many rows in all?
    pub(super) fn is_reached(self, given: u64) -> bool {
        match self {
            Self::Slices {
                before,
                rows: Some(rows),
                ..
            } => given - before >= rows,
            Self::Slices { rows: None, .. } | Self::Whole | Self::First(_) => false,
        }
    }
}

impl Merge {
    /// The same merge of which the client gets no more than `rows`, and then hears that the portal is suspended. It will
    /// not be asked for more.
    #[must_use]
    pub fn first(mut self, rows: u64) -> Self {
        self.sink.cut(rows);
        self.pace = Pace::First(rows);
        self
    }

    /// The same merge for legs that are portals, of which the client has asked for so many rows. What they answer to Execute
    /// is fed; for no rows they have none to answer.
    #[must_use]
    pub fn paced(mut self, rows: u64) -> Self {
        if matches!(self.rows, Rows::Pass) {
            self.rows = Rows::Queued;
        }
        self.pace = Pace::Slices {
            before: 0,
            rows: Some(rows),
            verb: "SELECT",
        };
        for leg in &mut self.legs {
            leg.suspended = rows == 0;
        }
        self
    }

    /// The client asks for so many further rows; `None`: for all. `verb`: SELECT by Execute, FETCH by FETCH.
    pub fn allow(&mut self, rows: Option<u64>, verb: &'static str) {
        self.pace = Pace::Slices {
            before: self.sink.given(),
            rows,
            verb,
        };
    }

    /// Has the client got all rows, and the end of the reply?
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// RowDescription of the client's rows, once all legs have described theirs.
    pub fn row_description(&self) -> &[u8] {
        &self.described
    }

    /// Has the client got as many rows as it has asked for?
    pub fn is_paused(&self) -> bool {
        self.pace.is_reached(self.sink.given())
    }

    /// Rows that the client may still get of this slice, and those that OFFSET skips before. `None`: any number.
    pub fn rows_left(&self) -> Option<u64> {
        match self.pace {
            Pace::Slices {
                before,
                rows: Some(rows),
                ..
            } => {
                let given = self.sink.given() - before;
                Some(rows.saturating_sub(given) + self.sink.left_to_skip())
            }
            Pace::Slices { rows: None, .. } | Pace::Whole | Pace::First(_) => None,
        }
    }

    /// Must this leg, which waits to be asked, give rows for the merge to go on?
    pub fn needs(&self, leg: usize) -> bool {
        let goes_on = self.stage == Stage::Open && !self.is_paused() && !self.sink.is_full();
        let leg = self.legs.get(leg);
        goes_on && leg.is_some_and(|leg| leg.suspended && leg.end.is_none() && leg.is_empty())
    }

    /// This leg was asked for more.
    pub fn asked(&mut self, leg: usize) {
        if let Some(leg) = self.legs.get_mut(leg) {
            leg.suspended = false;
        }
    }

    /// Passes on what waits, as far as the client has asked for it. False: there was no room for more.
    pub(super) fn pass_queued(&mut self, end: usize, out: &mut Vec<u8>) -> Result<bool, Error> {
        if !matches!(self.rows, Rows::Queued) || self.columns.is_none() {
            return Ok(true);
        }
        let mut room = true;
        for index in 0..self.legs.len() {
            let Some(leg) = self.legs.get_mut(index) else {
                continue;
            };
            let mut waiting = std::mem::take(leg);
            let mut passed = Ok(());
            while let (Some(message), Ok(())) = (waiting.front(), &passed) {
                room = out.len() < end;
                if !room || self.sink.is_full() || self.is_paused() {
                    break;
                }
                passed = self.pass(index, message, out);
                waiting.pop();
            }
            if let Some(leg) = self.legs.get_mut(index) {
                *leg = waiting;
            }
            passed?;
            if !room {
                return Ok(false);
            }
        }
        if self.sink.is_full() {
            self.legs.iter_mut().for_each(Leg::clear);
        }
        Ok(true)
    }
}
