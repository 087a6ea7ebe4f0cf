//! Rows in an order that is known beforehand: which leg has the next one.

use std::sync::Arc;

use super::leg::{End, Leg};
use super::refused;
use crate::error::Error;

/// Walks through the legs' rows.
#[derive(Debug)]
pub(super) struct Turns {
    order: Arc<[usize]>,
    /// `order[..next]` are done.
    next: usize,
    /// Rows that each leg has given.
    given: Vec<usize>,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The first row that waits of this leg.
    Row(usize),
    /// Nothing, before more has come.
    Wait,
    /// Nothing more.
    End,
}

impl Turns {
    pub(super) fn new(order: Arc<[usize]>, legs: usize) -> Self {
        Self {
            order,
            next: 0,
            given: vec![0; legs],
        }
    }

    /// Whose row comes next. The caller takes it.
    ///
    /// Errors: 0A000 where a leg has fewer rows than turns, but some: nobody knows which of them it left out.
    pub(super) fn next(&mut self, legs: &[Leg]) -> Result<Next, Error> {
        while let Some(&index) = self.order.get(self.next) {
            let Some(leg) = legs.get(index) else {
                return Ok(Next::End);
            };
            if !leg.is_empty() {
                self.next += 1;
                if let Some(given) = self.given.get_mut(index) {
                    *given += 1;
                }
                return Ok(Next::Row(index));
            }
            match leg.end {
                None => return Ok(Next::Wait),
                Some(End::Failed) => return Ok(Next::End),
                // It left all of its rows out.
                Some(_) if self.given.get(index) == Some(&0) => self.next += 1,
                Some(_) => {
                    let what = "RETURNING of a multi-row INSERT of which a shard leaves rows out";
                    return Err(refused(what));
                }
            }
        }
        Ok(Next::End)
    }
}
