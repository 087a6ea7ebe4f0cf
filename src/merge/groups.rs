//! GROUP BY: a table of groups, each with one of its rows and the states of its aggregates; and what becomes of them, one
//! after the other, so that no turn of a core has to do it for all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{BuildHasher, RandomState};
use std::vec;

use hashbrown::HashTable;

use super::aggregate::{State, ENTRY_BYTES};
use super::columns::{put_keys, Columns};
use super::row::{Places, Row};
use crate::error::Error;
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::rows::DataRow;

/// Groups while rows still come.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// The hash of each group's key, and its number.
    table: HashTable<(u64, usize)>,
    groups: Vec<Group>,
    /// Of all groups in their order, one for each aggregate.
    states: Vec<State>,
    hashing: RandomState,
    /// Of the row that was [identified](Self::identify) last.
    key: Vec<u8>,
    held_bytes: usize,
}

/// The group of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Its number.
    Known(usize),
    /// There was none, and its key has this hash.
    New(u64),
}

#[derive(Debug)]
struct Group {
    /// The key, and behind it the body of a DataRow.
    bytes: Box<[u8]>,
    key_bytes: usize,
}

impl Group {
    fn new(key: &[u8], row: &[u8]) -> Self {
        Self {
            bytes: [key, row].concat().into(),
            key_bytes: key.len(),
        }
    }

    fn key(&self) -> &[u8] {
        self.bytes.get(..self.key_bytes).unwrap_or_default()
    }

    fn row(&self) -> &[u8] {
        self.bytes.get(self.key_bytes..).unwrap_or_default()
    }
}

impl Groups {
    pub(super) const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub(super) const fn len(&self) -> usize {
        self.groups.len()
    }

    /// Which group a row belongs to. The row itself may be [taken](Self::take) next.
    pub(super) fn identify(&mut self, columns: &Columns, row: Row<'_>) -> Result<Which, Error> {
        self.key.clear();
        put_keys(&columns.groups, row, &mut self.key)?;
        let (groups, key) = (&self.groups, self.key.as_slice());
        let hash = self.hashing.hash_one(key);
        let is_it = |&(of, at): &(u64, usize)| {
            of == hash && groups.get(at).is_some_and(|group| group.key() == key)
        };
        Ok(match self.table.find(hash, is_it) {
            Some(&(_, number)) => Which::Known(number),
            None => Which::New(hash),
        })
    }

    /// Takes the row of a leg that was identified last, whose body is `body`.
    pub(super) fn take(
        &mut self,
        which: Which,
        columns: &Columns,
        row: Row<'_>,
        body: &[u8],
    ) -> Result<(), Error> {
        let number = match which {
            Which::Known(number) => number,
            Which::New(hash) => {
                let states = columns.aggregates.len();
                let group = Group::new(&self.key, body);
                self.held_bytes += group_bytes(&group, states);
                self.states
                    .extend(std::iter::repeat_with(|| State::Nothing).take(states));
                let number = self.groups.len();
                self.groups.push(group);
                self.table
                    .insert_unique(hash, (hash, number), |&(hash, _)| hash);
                number
            }
        };
        let first = number * columns.aggregates.len();
        let states = self.states.get_mut(first..).unwrap_or_default();
        for (computed, state) in columns.aggregates.iter().zip(states) {
            self.held_bytes += computed.take(state, row)?;
        }
        Ok(())
    }
}

/// Bytes of memory of a group with so many states.
const fn group_bytes(group: &Group, states: usize) -> usize {
    group.bytes.len() + states * size_of::<State>() + 2 * ENTRY_BYTES
}

/// A finished row: its place in the order, and a DataRow's body.
pub(super) type Finished = (Box<[u8]>, Box<[u8]>);

/// Bytes of memory of a finished row.
const fn finished_bytes((order, row): &Finished) -> usize {
    order.len() + row.len() + size_of::<Finished>()
}

/// Groups whose rows are given.
#[derive(Debug)]
pub(super) struct Giving {
    groups: vec::IntoIter<Group>,
    states: vec::IntoIter<State>,
    /// The next row, where it need not wait for all.
    next: Option<Finished>,
    /// All rows, where it must: in runs that are sorted, so that no turn has to sort them all.
    runs: Vec<vec::IntoIter<Finished>>,
    /// The first row of each run, with its number.
    heads: BinaryHeap<Reverse<(Finished, usize)>>,
    /// Of groups and rows.
    held_bytes: usize,
    scratch: Scratch,
}

/// Kept from group to group.
#[derive(Debug, Default)]
struct Scratch {
    results: Vec<Option<Vec<u8>>>,
    row: Vec<u8>,
    complete: Vec<u8>,
}

impl From<Groups> for Giving {
    fn from(groups: Groups) -> Self {
        Self {
            groups: groups.groups.into_iter(),
            states: groups.states.into_iter(),
            next: None,
            runs: Vec::new(),
            heads: BinaryHeap::new(),
            held_bytes: groups.held_bytes,
            scratch: Scratch::default(),
        }
    }
}

impl Giving {
    pub(super) const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Works on about `steps` groups. True: it is known what comes next.
    pub(super) fn prepare(
        &mut self,
        columns: &Columns,
        places: &mut Places,
        steps: usize,
    ) -> Result<bool, Error> {
        let waits = columns.is_all_or_nothing();
        let mut run = Vec::new();
        for _ in 0..steps {
            if self.next.is_some() {
                return Ok(true);
            }
            let Some(group) = self.groups.next() else {
                break;
            };
            let states = columns.aggregates.len();
            self.held_bytes = self.held_bytes.saturating_sub(group_bytes(&group, states));
            let states = self.states.by_ref().take(states);
            if let Some(row) = self.scratch.finish(columns, places, group.row(), states)? {
                self.held_bytes += finished_bytes(&row);
                match waits {
                    true => run.push(row),
                    false => self.next = Some(row),
                }
            }
        }
        if !run.is_empty() {
            run.sort_unstable();
            self.runs.push(run.into_iter());
            self.next_of(self.runs.len() - 1);
        }
        Ok(self.next.is_some() || self.groups.len() == 0)
    }

    /// The next row of a run comes to the heads.
    fn next_of(&mut self, number: usize) {
        let run = self.runs.get_mut(number);
        if let Some(row) = run.and_then(Iterator::next) {
            self.heads.push(Reverse((row, number)));
        }
    }

    /// What comes next, if it is [known](Self::prepare); `None`: nothing more.
    pub(super) fn front(&self) -> Option<&Finished> {
        let first_of_all = || self.heads.peek().map(|Reverse((row, _))| row);
        self.next.as_ref().or_else(first_of_all)
    }

    /// Takes it away.
    pub(super) fn pop(&mut self) {
        let mut row = self.next.take();
        if row.is_none() {
            if let Some(Reverse((first, run))) = self.heads.pop() {
                self.next_of(run);
                row = Some(first);
            }
        }
        self.held_bytes -= row.as_ref().map_or(0, finished_bytes);
    }
}

impl Scratch {
    /// The row of a group with one of its rows, and the states of its aggregates. `None`: it does not fulfil the
    /// conditions.
    fn finish(
        &mut self,
        columns: &Columns,
        places: &mut Places,
        body: &[u8],
        states: impl Iterator<Item = State>,
    ) -> Result<Option<Finished>, Error> {
        self.results.clear();
        for (computed, state) in columns.aggregates.iter().zip(states) {
            let mut result = Vec::new();
            let known = computed.put(&state, &mut result)?;
            self.results.push(known.then_some(result));
        }
        self.row.clear();
        let row = places.find(body, columns.count)?;
        let computed = |index: usize| {
            columns
                .aggregates
                .iter()
                .position(|computed| computed.index == index)
        };
        let results = &self.results;
        let values = (0..columns.count).map(|index| match computed(index) {
            Some(at) => results.get(at).and_then(Option::as_deref),
            None => row.value(index),
        });
        DataRow::encode(&mut self.row, values);
        // What a formula fails with is told when the group is in the result, or when that depends on it.
        let mut failed = None;
        if !columns.formulas.is_empty() {
            let body = self.row.get(HEADER_BYTES..).unwrap_or_default();
            let row = places.find(body, columns.count)?;
            self.results.clear();
            for formula in &columns.formulas {
                let value = formula.value(row);
                let decides = columns
                    .conditions
                    .iter()
                    .any(|check| check.index == formula.index);
                self.results.push(match value {
                    Ok(value) => value,
                    Err(error) if decides => return Err(error),
                    Err(error) => {
                        failed.get_or_insert(error);
                        None
                    }
                });
            }
            let results = &self.results;
            let values = (0..columns.count).map(|index| {
                let at = columns
                    .formulas
                    .iter()
                    .position(|formula| formula.index == index);
                match at {
                    Some(at) => results.get(at).and_then(Option::as_deref),
                    None => row.value(index),
                }
            });
            self.complete.clear();
            DataRow::encode(&mut self.complete, values);
            std::mem::swap(&mut self.complete, &mut self.row);
        }
        let body = self.row.get(HEADER_BYTES..).unwrap_or_default();
        let row = places.find(body, columns.count)?;
        for condition in &columns.conditions {
            if !condition.holds(row)? {
                return Ok(None);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let mut key = Vec::new();
        put_keys(&columns.order, row, &mut key)?;
        Ok(Some((key.into(), body.into())))
    }
}
