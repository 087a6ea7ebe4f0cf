//! Which leg's next row comes first: a binary heap of the legs' first rows by their keys.

use std::cmp::Ordering;

/// The first rows of those legs that have one.
#[derive(Debug)]
pub(super) struct Heads {
    /// Legs; none is less than the one at half its index.
    heap: Vec<usize>,
    /// Key of each leg's first row.
    keys: Vec<Vec<u8>>,
    /// Does the leg wait for a row?
    absent: Vec<bool>,
}

impl Heads {
    pub(super) fn new(legs: usize) -> Self {
        Self {
            heap: Vec::with_capacity(legs),
            keys: vec![Vec::new(); legs],
            absent: vec![true; legs],
        }
    }

    /// Has this leg no row here?
    pub(super) fn is_absent(&self, leg: usize) -> bool {
        self.absent.get(leg).copied().unwrap_or(false)
    }

    /// Adds the first row of a leg that had none. `put` writes its key.
    ///
    /// Gives false when the leg's rows are not in order: this one belongs before the one that it had last.
    pub(super) fn add<E>(
        &mut self,
        leg: usize,
        put: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let (Some(key), Some(absent)) = (self.keys.get_mut(leg), self.absent.get_mut(leg)) else {
            return Ok(false);
        };
        let last = key.len();
        put(key)?;
        let ordered = key.get(..last) <= key.get(last..) || last == 0;
        key.drain(..last);
        *absent = false;
        self.heap.push(leg);
        self.rise(self.heap.len() - 1);
        Ok(ordered)
    }

    /// The leg whose row comes first; of equal ones the first leg.
    pub(super) fn first(&self) -> Option<(usize, &[u8])> {
        let leg = *self.heap.first()?;
        Some((leg, self.keys.get(leg)?))
    }

    /// Takes the first row away: its leg has none until [`Self::add`].
    pub(super) fn take(&mut self) {
        if self.heap.is_empty() {
            return;
        }
        let leg = self.heap.swap_remove(0);
        if let Some(absent) = self.absent.get_mut(leg) {
            *absent = true;
        }
        self.sink();
    }

    fn order(&self, a: usize, b: usize) -> Ordering {
        let key = |at: usize| self.heap.get(at).map(|leg| (self.keys.get(*leg), *leg));
        key(a).cmp(&key(b))
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.order(at, (at - 1) / 2).is_lt() {
            self.heap.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn sink(&mut self) {
        let mut at = 0;
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            if left >= self.heap.len() {
                return;
            }
            let least = if right < self.heap.len() && self.order(right, left).is_lt() {
                right
            } else {
                left
            };
            if self.order(at, least).is_le() {
                return;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }
}
