//! The last steps of a merged row: duplicates dropped, OFFSET and LIMIT, hidden columns cut off.

use std::collections::HashSet;

use super::aggregate::ENTRY_BYTES;
use super::columns::{put_keys, Key};
use super::plan::{Distinct, MergePlan, Slice};
use super::row::Row;
use crate::error::Error;

/// Takes rows in their order and writes what the client gets.
#[derive(Debug)]
pub(super) struct Sink {
    seen: Seen,
    slice: Slice,
    skipped: u64,
    given: u64,
    /// Columns that the client gets.
    visible: usize,
    /// Order of the last row given, for WITH TIES.
    last: Vec<u8>,
    full: bool,
    /// For the keys of DISTINCT, kept from row to row.
    key: Vec<u8>,
    /// Bytes of memory of `seen`.
    held_bytes: usize,
}

/// What DISTINCT remembers.
#[derive(Debug)]
enum Seen {
    Nothing,
    /// All rows so far.
    All(HashSet<Box<[u8]>>),
    /// Those that have the same place in the order as the last one: equal rows do.
    Tied {
        order: Vec<u8>,
        rows: HashSet<Box<[u8]>>,
    },
    /// The last one: equal ones stand together.
    Last(Option<Vec<u8>>),
}

impl Sink {
    pub(super) fn new(plan: &MergePlan, slice: Slice) -> Self {
        let seen = match &plan.distinct {
            Distinct::No => Seen::Nothing,
            _ if plan.order.is_empty() => Seen::All(HashSet::new()),
            // The order says all that is distinct: equal ones stand together.
            Distinct::On(columns) if columns.iter().all(|on| plan.orders_by(*on)) => {
                Seen::Last(None)
            }
            // The order says more than that: equal ones may be in several places of it.
            Distinct::On(columns)
                if !plan.order.iter().all(|key| columns.contains(&key.column)) =>
            {
                Seen::All(HashSet::new())
            }
            Distinct::Rows | Distinct::On(_) => Seen::Tied {
                order: Vec::new(),
                rows: HashSet::new(),
            },
        };
        Self {
            seen,
            slice,
            skipped: 0,
            given: 0,
            visible: 0,
            last: Vec::new(),
            full: slice.count == Some(0),
            key: Vec::new(),
            held_bytes: 0,
        }
    }

    /// At most so many rows are given.
    pub(super) fn cut(&mut self, rows: u64) {
        let count = self.slice.count.map_or(rows, |count| count.min(rows));
        self.slice.count = Some(count);
        self.full |= count == 0;
    }

    pub(super) fn set_visible(&mut self, columns: usize) {
        self.visible = columns;
    }

    /// Can no further row come to the client?
    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    /// Rows that the client got.
    pub(super) const fn given(&self) -> u64 {
        self.given
    }

    /// No further row comes: what DISTINCT remembers is of no use any more.
    pub(super) fn forget(&mut self) {
        self.seen = Seen::Nothing;
        self.held_bytes = 0;
    }

    /// Rows that OFFSET still leaves out.
    pub(super) const fn left_to_skip(&self) -> u64 {
        self.slice.offset.saturating_sub(self.skipped)
    }

    pub(super) const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Counts a row, without looking into it. Gives whether the client gets it.
    pub(super) fn pass(&mut self) -> bool {
        if self.skipped < self.slice.offset {
            self.skipped += 1;
            return false;
        }
        self.given += 1;
        self.full = self.slice.count.is_some_and(|count| self.given >= count);
        true
    }

    /// The next row, whose place in the order is `order`.
    pub(super) fn row(
        &mut self,
        distinct: &[Key],
        row: Row<'_>,
        order: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if self.full || self.is_duplicate(distinct, row, order)? {
            return Ok(());
        }
        if self.skipped < self.slice.offset {
            self.skipped += 1;
            return Ok(());
        }
        match self.slice.count {
            Some(count) if self.given >= count && (!self.slice.with_ties || self.last != order) => {
                self.full = true;
                return Ok(());
            }
            Some(count) if !self.slice.with_ties => self.full = self.given + 1 >= count,
            _ => {}
        }
        if self.slice.with_ties {
            self.last.clear();
            self.last.extend_from_slice(order);
        }
        self.given += 1;
        row.put(self.visible, out);
        Ok(())
    }

    fn is_duplicate(
        &mut self,
        distinct: &[Key],
        row: Row<'_>,
        order: &[u8],
    ) -> Result<bool, Error> {
        if matches!(self.seen, Seen::Nothing) {
            return Ok(false);
        }
        self.key.clear();
        put_keys(distinct, row, &mut self.key)?;
        let set = match &mut self.seen {
            Seen::Nothing => return Ok(false),
            Seen::Last(last) => {
                let duplicate = last.as_ref() == Some(&self.key);
                if !duplicate {
                    *last = Some(self.key.clone());
                }
                return Ok(duplicate);
            }
            Seen::All(rows) => rows,
            Seen::Tied { order: tied, rows } => {
                if tied != order {
                    tied.clear();
                    tied.extend_from_slice(order);
                    rows.clear();
                    self.held_bytes = 0;
                }
                rows
            }
        };
        let duplicate = set.contains(self.key.as_slice());
        if !duplicate {
            set.insert(self.key.as_slice().into());
            self.held_bytes += self.key.len() + ENTRY_BYTES;
        }
        Ok(duplicate)
    }
}
