//! Clients waiting for a connection, longest first; any of them may leave at once.

use std::time::Instant;

use super::ClientId;

/// "No slot": ends the list and the list of free slots.
const NIL: usize = usize::MAX;

/// Slots whose memory is kept when the queue runs empty.
const SLOTS_KEPT: usize = 256;

/// One client's place in the queue. Never valid again once the client was served, failed or cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    slot: usize,
    serial: u64,
}

/// Who waits, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) client: ClientId,
    pub(super) since: Instant,
}

/// A queue as a doubly linked list through a vector:
///
/// ```text
/// slots   [ a | - | c | b ]      head ─► a ⇄ b ⇄ c ◄─ tail
///               └ free ─► NIL
/// ```
///
/// Push (of who has not waited elsewhere), pop and removal are constant time. It has no limit of its own: a client waits in at most one
/// place per pool, so there are never more entries than clients on this core (48 bytes each), and clients
/// are limited where they are accepted.
///
/// Invariant: `since` never decreases from head to tail, so deadlines expire from the head.
#[derive(Debug)]
pub(super) struct Waiters {
    slots: Vec<Slot>,
    head: usize,
    tail: usize,
    free: usize,
    len: usize,
    /// Serial of the next ticket; 0 marks a free slot.
    next_serial: u64,
}

#[derive(Debug)]
struct Slot {
    waiter: Waiter,
    serial: u64,
    prev: usize,
    next: usize,
}

impl Waiters {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            head: NIL,
            tail: NIL,
            free: NIL,
            len: 0,
            next_serial: 1,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Arrival of the client that waits longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.slots.get(self.head).map(|slot| slot.waiter.since)
    }

    /// Joins the queue behind all who have waited for as long: at its end, unless it has waited elsewhere.
    pub(super) fn push(&mut self, client: ClientId, since: Instant) -> Ticket {
        let mut prev = self.tail;
        while let Some(before) = self.slots.get(prev).filter(|at| at.waiter.since > since) {
            prev = before.prev;
        }
        let next = match self.slots.get(prev) {
            Some(before) => before.next,
            None => self.head,
        };
        let serial = self.next_serial;
        self.next_serial += 1;
        let slot = Slot {
            waiter: Waiter { client, since },
            serial,
            prev,
            next,
        };
        let at = if self.free == NIL {
            self.slots.push(slot);
            self.slots.len() - 1
        } else {
            let at = self.free;
            self.free = self.slots[at].next;
            self.slots[at] = slot;
            at
        };
        match self.slots.get_mut(prev) {
            Some(before) => before.next = at,
            None => self.head = at,
        }
        match self.slots.get_mut(next) {
            Some(behind) => behind.prev = at,
            None => self.tail = at,
        }
        self.len += 1;
        Ticket { slot: at, serial }
    }

    /// Takes the client that waits longest.
    pub(super) fn pop(&mut self) -> Option<(Ticket, Waiter)> {
        let serial = self.slots.get(self.head)?.serial;
        let ticket = Ticket {
            slot: self.head,
            serial,
        };
        let waiter = self.remove(ticket).expect("the head is in the queue");
        Some((ticket, waiter))
    }

    /// Takes one client out of the queue; `None` when it is not waiting any more.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let slot = self.slots.get_mut(ticket.slot)?;
        if slot.serial != ticket.serial {
            return None;
        }
        let (waiter, prev, next) = (slot.waiter, slot.prev, slot.next);
        slot.serial = 0;
        slot.next = self.free;
        self.free = ticket.slot;
        match self.slots.get_mut(prev) {
            Some(before) => before.next = next,
            None => self.head = next,
        }
        match self.slots.get_mut(next) {
            Some(after) => after.prev = prev,
            None => self.tail = prev,
        }
        self.len -= 1;
        if self.len == 0 && self.slots.len() > SLOTS_KEPT {
            // After a burst: serials never repeat, so that old tickets stay invalid.
            self.slots.clear();
            self.slots.shrink_to(SLOTS_KEPT);
            self.free = NIL;
        }
        Some(waiter)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pool::tests::start;

    fn drain(waiters: &mut Waiters) -> Vec<u64> {
        std::iter::from_fn(|| waiters.pop().map(|(_, waiter)| waiter.client.0)).collect()
    }

    #[test]
    fn first_come_first_served() {
        let begin = start();
        let mut waiters = Waiters::new();
        for client in 0..4 {
            waiters.push(ClientId(client), begin + Duration::from_millis(client));
        }
        assert_eq!(waiters.oldest(), Some(begin));
        assert_eq!(drain(&mut waiters), [0, 1, 2, 3]);
        assert!(waiters.is_empty());
        assert_eq!(waiters.oldest(), None);
    }

    #[test]
    fn anyone_may_leave() {
        let begin = start();
        for leaving in 0..5 {
            let mut waiters = Waiters::new();
            let tickets: Vec<_> = (0..5).map(|c| waiters.push(ClientId(c), begin)).collect();
            assert!(waiters.remove(tickets[leaving]).is_some());
            assert!(waiters.remove(tickets[leaving]).is_none());
            let again = waiters.push(ClientId(9), begin);
            assert_eq!(
                again.slot, tickets[leaving].slot,
                "the free slot is used again"
            );
            assert!(
                waiters.remove(tickets[leaving]).is_none(),
                "an old ticket is void"
            );
            let mut expected: Vec<u64> = (0..5).filter(|c| *c != leaving as u64).collect();
            expected.push(9);
            assert_eq!(drain(&mut waiters), expected);
        }
    }

    #[test]
    fn who_has_waited_elsewhere_goes_in_front_of_those_who_have_waited_less() {
        let begin = start();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut waiters = Waiters::new();
        for (client, since) in [(0, 20), (1, 30), (2, 20), (3, 10), (4, 25), (5, 30)] {
            waiters.push(ClientId(client), at(since));
        }
        assert_eq!(waiters.oldest(), Some(at(10)));
        assert_eq!(drain(&mut waiters), [3, 0, 2, 4, 1, 5]);
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn memory_of_a_burst_is_returned() {
        let begin = start();
        let mut waiters = Waiters::new();
        let first = waiters.push(ClientId(0), begin);
        for client in 1..5_000 {
            waiters.push(ClientId(client), begin);
        }
        assert_eq!(drain(&mut waiters).len(), 5_000);
        assert!(waiters.slots.capacity() <= SLOTS_KEPT);
        waiters.push(ClientId(1), begin);
        assert!(waiters.remove(first).is_none());
        assert_eq!(waiters.len(), 1);
    }
}
