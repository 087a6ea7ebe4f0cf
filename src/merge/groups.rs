//! GROUP BY: a table of groups, each with one of its rows and the state of its aggregates.

use std::collections::hash_map::Entry;
use std::collections::HashMap;

use super::aggregate::{State, ENTRY_BYTES};
use super::columns::{put_keys, Columns};
use super::row::{Places, Row};
use crate::error::Error;
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::rows::DataRow;

/// Groups while rows still come.
#[derive(Debug, Default)]
pub(super) struct Groups {
    table: HashMap<Box<[u8]>, usize>,
    groups: Vec<Group>,
    key: Vec<u8>,
    held_bytes: usize,
}

#[derive(Debug)]
struct Group {
    /// A DataRow's body.
    row: Box<[u8]>,
    states: Box<[State]>,
}

/// A finished row: its place in the order, and a DataRow's body.
pub(super) type Finished = (Box<[u8]>, Box<[u8]>);

impl Groups {
    pub(super) const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes a row of a leg, whose body is `body`.
    pub(super) fn take(
        &mut self,
        columns: &Columns,
        row: Row<'_>,
        body: &[u8],
    ) -> Result<(), Error> {
        self.key.clear();
        put_keys(&columns.groups, row, &mut self.key)?;
        let index = match self.table.entry(self.key.as_slice().into()) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let states: Box<[State]> =
                    columns.aggregates.iter().map(|_| State::Nothing).collect();
                self.held_bytes +=
                    self.key.len() + body.len() + size_of_val::<[State]>(&states) + 2 * ENTRY_BYTES;
                self.groups.push(Group {
                    row: body.into(),
                    states,
                });
                *entry.insert(self.groups.len() - 1)
            }
        };
        let Some(group) = self.groups.get_mut(index) else {
            return Ok(());
        };
        for (computed, state) in columns.aggregates.iter().zip(&mut group.states) {
            self.held_bytes += computed.take(state, row)?;
        }
        Ok(())
    }

    /// The rows of all groups that fulfil the conditions, in order.
    pub(super) fn finish(
        self,
        columns: &Columns,
        places: &mut Places,
    ) -> Result<Vec<Finished>, Error> {
        drop(self.table);
        let mut finished = Vec::with_capacity(self.groups.len());
        let mut message = Vec::new();
        let mut results: Vec<Option<Vec<u8>>> = Vec::new();
        for group in self.groups {
            results.clear();
            for (computed, state) in columns.aggregates.iter().zip(&group.states) {
                let mut result = Vec::new();
                let known = computed.put(state, &mut result)?;
                results.push(known.then_some(result));
            }
            message.clear();
            let row = places.find(&group.row, columns.count)?;
            let computed = |index: usize| {
                columns
                    .aggregates
                    .iter()
                    .position(|computed| computed.index == index)
            };
            let values = (0..columns.count).map(|index| match computed(index) {
                Some(at) => results.get(at).and_then(Option::as_deref),
                None => row.value(index),
            });
            DataRow::encode(&mut message, values);
            // What a formula fails with is told when the group is in the result, or when that depends on it.
            let mut failed = None;
            if !columns.formulas.is_empty() {
                let body = message.get(HEADER_BYTES..).unwrap_or_default();
                let row = places.find(body, columns.count)?;
                let mut computed = Vec::with_capacity(columns.formulas.len());
                for formula in &columns.formulas {
                    let value = formula.value(row);
                    let decides = columns
                        .conditions
                        .iter()
                        .any(|check| check.index == formula.index);
                    computed.push(match value {
                        Ok(value) => value,
                        Err(error) if decides => return Err(error),
                        Err(error) => {
                            failed.get_or_insert(error);
                            None
                        }
                    });
                }
                let values = (0..columns.count).map(|index| {
                    let at = columns
                        .formulas
                        .iter()
                        .position(|formula| formula.index == index);
                    match at {
                        Some(at) => computed.get(at).and_then(Option::as_deref),
                        None => row.value(index),
                    }
                });
                let mut complete = Vec::with_capacity(message.len());
                DataRow::encode(&mut complete, values);
                message = complete;
            }
            let body = message.get(HEADER_BYTES..).unwrap_or_default();
            let row = places.find(body, columns.count)?;
            let mut holds = true;
            for condition in &columns.conditions {
                holds &= condition.holds(row)?;
            }
            if holds {
                if let Some(error) = failed {
                    return Err(error);
                }
                let mut key = Vec::new();
                put_keys(&columns.order, row, &mut key)?;
                finished.push((key.into(), body.into()));
            }
        }
        if !columns.order.is_empty() {
            finished.sort_by(|(a, _): &Finished, (b, _)| a.cmp(b));
        }
        Ok(finished)
    }
}
