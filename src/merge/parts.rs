//! Groups divided among cores: rows of one group go to one part, whose groups no other part has.
//!
//! ```text
//!  legs ──► which group? ─┬──► here: those from before, and some of the others ─┐
//!                         ├─ rows ──► Share: part 0, elsewhere ──── groups ──►   │ in order, or as they come ──► client
//!                         └─ rows ──► Share: part 1, elsewhere ──── groups ──►   ┘
//! ```
//!
//! Legs have aggregated their own rows, so there is nothing to gain by putting those of one leg together once more: what
//! costs is to decode each row, to find its group among all and to write it. Of that the client's core only looks at the
//! key of what goes elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;

use super::columns::Columns;
use super::groups::{Finished, Giving, Groups, Which};
use super::leg::header;
use super::paced::Pace;
use super::row::Places;
use super::{Merge, Rows, Stage};
use crate::error::Error;
use crate::protocol::frame::HEADER_BYTES;

/// Groups from which on they are divided. With fewer a division costs more than it brings: `cargo bench --bench groups`.
pub const DIVIDED_FROM: usize = 8 * 1024;
/// Parts of one merge at most: each further one brings less.
pub const PARTS_MAX: usize = 8;
/// Bytes of rows, or of finished groups, that go from core to core at a time: half a millisecond of work.
pub const BATCH_BYTES: usize = 32 * 1024;
/// Legs are not read on while so many bytes wait for one part, and a part is not asked for more while so many of it wait.
const WINDOW_BYTES: usize = 8 * BATCH_BYTES;
/// Groups that a share finishes before its core does something else.
const STEPS: usize = 256;

/// A part that another core has: plain data.
#[derive(Debug)]
pub struct Share {
    columns: Arc<Columns>,
    groups: Groups,
    giving: Option<Giving>,
    places: Places,
}

/// What a share gives.
#[derive(Debug, PartialEq, Eq)]
pub enum Given {
    /// It has more to do before it can.
    NotYet,
    /// Finished groups, for [`Merge::returned`]. `last`: all of them.
    Groups {
        /// As [`Share::give`] writes them.
        batch: Vec<u8>,
        /// Are these the last ones?
        last: bool,
    },
}

impl Share {
    /// Takes rows that [`Merge::collected`] gave for this part.
    ///
    /// Errors: what the merge itself would have failed with. The share is of no further use.
    pub fn take(&mut self, mut rows: &[u8]) -> Result<(), Error> {
        while !rows.is_empty() {
            let (_, length) = header(rows)?;
            let Some((message, rest)) = rows.split_at_checked(length) else {
                return Ok(());
            };
            let body = message.get(HEADER_BYTES..).unwrap_or_default();
            let row = self.places.find(body, self.columns.count)?;
            let which = self.groups.identify(&self.columns, row)?;
            self.groups.take(which, &self.columns, row, body)?;
            rows = rest;
        }
        Ok(())
    }

    /// Bytes of memory.
    pub fn held_bytes(&self) -> usize {
        let giving = self.giving.as_ref().map_or(0, Giving::held_bytes);
        self.groups.held_bytes() + giving
    }

    /// All rows have been taken: does a little work, or gives about [`BATCH_BYTES`] of groups, in order if there is one.
    ///
    /// Errors: as of [`Self::take`].
    pub fn give(&mut self) -> Result<Given, Error> {
        let groups = &mut self.groups;
        let giving = self
            .giving
            .get_or_insert_with(|| std::mem::take(groups).into());
        let mut batch = Vec::new();
        while batch.len() < BATCH_BYTES {
            if !giving.prepare(&self.columns, &mut self.places, STEPS)? {
                if batch.is_empty() {
                    return Ok(Given::NotYet);
                }
                break;
            }
            let Some((order, body)) = giving.front() else {
                return Ok(Given::Groups { batch, last: true });
            };
            for bytes in [order, body] {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                batch.extend_from_slice(&length.to_be_bytes());
                batch.extend_from_slice(bytes);
            }
            giving.pop();
        }
        Ok(Given::Groups { batch, last: false })
    }
}

/// What the client's core has to do with parts. None, as long as groups were not [divided](Merge::divide).
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Those but the first, which is the merge's own.
    others: Vec<Part>,
}

/// One of them.
#[derive(Debug, Default)]
struct Part {
    /// Rows that were not sent yet.
    outbox: Vec<u8>,
    /// Finished groups, as of [`Share::give`].
    returned: VecDeque<Vec<u8>>,
    /// Of the first of them, `..at` is done.
    at: usize,
    returned_bytes: usize,
    /// The last ones have come.
    over: bool,
    /// Bytes that its core holds, as last heard.
    held_bytes: usize,
}

/// Whose group comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// That of the merge itself.
    Own,
    /// That of another part.
    Of(usize),
    /// It depends on groups that have not come yet.
    Unknown,
    /// There is none left.
    Nothing,
}

impl Part {
    /// Its next group: place in the order, and row.
    fn front(&self) -> Option<(&[u8], &[u8])> {
        let batch = self.returned.front()?.get(self.at..)?;
        let (order, rest) = piece(batch)?;
        Some((order, piece(rest)?.0))
    }
}

/// Which of so many parts has a group whose key has this hash. The first one gets half as many as each other: its core
/// takes all rows in, and gives all groups out, too.
const fn part_of(hash: u64, parts: usize) -> usize {
    (((hash >> 32) as usize * (2 * parts - 1)) >> 32).div_ceil(2)
}

/// Bytes behind their length, and what follows.
fn piece(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

impl Parts {
    /// Where a row of this group goes. `None`: it stays here, as all of groups do that are here already.
    pub(super) fn of(&mut self, which: Which) -> Option<&mut Vec<u8>> {
        let Which::New(hash) = which else {
            return None;
        };
        let part = part_of(hash, self.others.len() + 1).checked_sub(1)?;
        self.others.get_mut(part).map(|part| &mut part.outbox)
    }

    pub(super) fn held_bytes(&self) -> usize {
        let bytes = |part: &Part| part.outbox.len() + part.returned_bytes + part.held_bytes;
        self.others.iter().map(bytes).sum()
    }

    /// Is there room for further rows?
    pub(super) fn keep_up(&self) -> bool {
        self.others
            .iter()
            .all(|part| part.outbox.len() < WINDOW_BYTES)
    }

    /// Whose group comes first; `own` is the next one of the merge itself. `waits`: only when all of them are known.
    pub(super) fn first(&self, own: Option<&Finished>, waits: bool) -> First {
        let mut first = own.map(|(order, _)| (First::Own, &**order));
        let mut all_over = true;
        for (number, part) in self.others.iter().enumerate() {
            if !waits && first.is_some() {
                break;
            }
            match part.front() {
                Some((order, _)) if first.is_none_or(|(_, least)| order < least) => {
                    first = Some((First::Of(number), order));
                }
                Some(_) => {}
                None if part.over => {}
                None if waits => return First::Unknown,
                None => all_over = false,
            }
        }
        match first {
            Some((first, _)) => first,
            None if all_over => First::Nothing,
            None => First::Unknown,
        }
    }

    /// The next group of one of them.
    pub(super) fn front(&self, part: usize) -> Option<(&[u8], &[u8])> {
        self.others.get(part)?.front()
    }

    /// Takes it away.
    pub(super) fn pop(&mut self, part: usize) {
        let Some(part) = self.others.get_mut(part) else {
            return;
        };
        let bytes = part
            .front()
            .map_or(0, |(order, body)| order.len() + body.len() + 8);
        part.at += bytes;
        part.returned_bytes -= bytes;
        let batch = part.returned.front().map_or(0, Vec::len);
        if part.at >= batch {
            part.returned.pop_front();
            part.at = 0;
        }
    }
}

impl Merge {
    /// Are there so many groups that other cores should have a part of them?
    pub fn is_worth_dividing(&self) -> bool {
        let groups = match &self.rows {
            Rows::Grouped(groups) => groups.len(),
            _ => 0,
        };
        groups >= DIVIDED_FROM
            && self.parts.others.is_empty()
            && self.pace == Pace::Whole
            && !self.sink.is_full()
    }

    /// Divides the groups that will come into this number of parts (at least 1); those that are here stay. All parts but
    /// the first, which is the merge itself, are for other cores: number `n` of what is given is part `n` of what
    /// follows. Nothing is given where there are no groups, and where somebody may ask for them in slices.
    pub fn divide(&mut self, parts: usize) -> Vec<Share> {
        let divisible = self.parts.others.is_empty() && self.pace == Pace::Whole;
        let (Rows::Grouped(_), Some(columns), true) = (&self.rows, &self.columns, divisible) else {
            return Vec::new();
        };
        let others = parts.saturating_sub(1);
        self.parts.others = (0..others).map(|_| Part::default()).collect();
        let share = || Share {
            columns: Arc::clone(columns),
            groups: Groups::default(),
            giving: None,
            places: Places::default(),
        };
        (0..others).map(|_| share()).collect()
    }

    /// Rows for a part: a batch of them, or less when no more will come. `None`: there is nothing to send now.
    pub fn collected(&mut self, part: usize) -> Option<Vec<u8>> {
        let rest = self.legs.iter().all(|leg| leg.end.is_some());
        let part = self.parts.others.get_mut(part)?;
        let least = if rest { 1 } else { BATCH_BYTES };
        (part.outbox.len() >= least).then(|| {
            let room = Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 4);
            std::mem::replace(&mut part.outbox, room)
        })
    }

    /// Have all rows of a part been [collected](Self::collected)? Then it may begin to give its groups.
    pub fn is_collected(&self, part: usize) -> bool {
        let part = self.parts.others.get(part);
        self.stage == Stage::Open
            && self
                .legs
                .iter()
                .all(|leg| leg.end.is_some() && leg.is_empty())
            && part.is_some_and(|part| part.outbox.is_empty())
    }

    /// Should a part be asked for groups, of which so many batches are on their way?
    pub fn wants(&self, part: usize, coming: usize) -> bool {
        let part = self.parts.others.get(part);
        let expected = |part: &Part| part.returned_bytes + coming * BATCH_BYTES;
        part.is_some_and(|part| !part.over && expected(part) < WINDOW_BYTES)
    }

    /// A part has given groups. `last`: it has no more.
    pub fn returned(&mut self, part: usize, batch: Vec<u8>, last: bool) {
        let Some(part) = self.parts.others.get_mut(part) else {
            return;
        };
        part.over |= last;
        if !batch.is_empty() {
            part.returned_bytes += batch.len();
            part.returned.push_back(batch);
        }
    }

    /// A part holds so many bytes.
    pub fn part_holds(&mut self, part: usize, bytes: usize) {
        if let Some(part) = self.parts.others.get_mut(part) {
            part.held_bytes = bytes;
        }
    }
}
