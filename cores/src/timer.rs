//! Deadlines of one core: futures that the driver wakes between turns.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::executor::Core;

/// All timers of a core. For many connections sweep coarsely instead of arming one each.
#[derive(Default)]
pub(crate) struct Timers {
    armed: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next_id: Cell<u64>,
}

impl Timers {
    pub(crate) fn next(&self) -> Option<Instant> {
        self.armed.borrow().keys().next().map(|(at, _)| *at)
    }

    /// Wakes all whose time has come.
    pub(crate) fn fire(&self, now: Instant) {
        loop {
            let due = {
                let mut armed = self.armed.borrow_mut();
                match armed.first_entry() {
                    Some(first) if first.key().0 <= now => first.remove(),
                    _ => return,
                }
            };
            due.wake();
        }
    }
}

/// Completes at its deadline. Costs one map entry while it waits; dropping it removes that.
pub struct Sleep {
    core: Core,
    at: Instant,
    id: Option<u64>,
}

impl Sleep {
    pub(crate) fn new(core: &Core, at: Instant) -> Self {
        Self {
            core: core.clone(),
            at,
            id: None,
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.core.now() >= self.at {
            return Poll::Ready(());
        }
        let timers = self.core.timers();
        let id = self.id.unwrap_or_else(|| {
            timers.next_id.set(timers.next_id.get() + 1);
            timers.next_id.get()
        });
        let old = timers
            .armed
            .borrow_mut()
            .insert((self.at, id), cx.waker().clone());
        drop(old);
        self.id = Some(id);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let old = self.core.timers().armed.borrow_mut().remove(&(self.at, id));
            drop(old);
        }
    }
}
