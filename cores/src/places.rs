//! A number of places on one core: who finds none free waits for one, in order of arrival.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Places that may be taken. Clones are the same places; they stay on their core.
///
/// How many wait is for the callers to bound.
#[derive(Clone)]
pub struct Places(Rc<State>);

struct State {
    free: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
}

struct Waiter {
    stage: Cell<Stage>,
    waker: RefCell<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// A place is his.
    Given,
    /// He has it, or has left.
    Gone,
}

impl Places {
    /// This many, all free.
    pub fn new(count: usize) -> Self {
        Self(Rc::new(State {
            free: Cell::new(count),
            waiting: RefCell::default(),
        }))
    }

    /// Waits for a place. Who gives up waiting holds nobody up.
    pub fn take(&self) -> Taking {
        Taking {
            places: self.clone(),
            waiter: None,
        }
    }

    /// Does anybody wait?
    pub(crate) fn are_wanted(&self) -> bool {
        self.0.free.get() == 0 && !self.0.waiting.borrow().is_empty()
    }

    /// So many places are free, whatever has become of others.
    pub(crate) fn refill(&self, count: usize) {
        self.0.free.set(count);
        while self.0.free.get() > 0 && self.give_one() {
            self.0.free.set(self.0.free.get() - 1);
        }
    }

    /// Gives a place to who has waited for longest. False: nobody waits.
    fn give_one(&self) -> bool {
        loop {
            // Taken out first: a waker may run code that comes back here.
            let Some(next) = self.0.waiting.borrow_mut().pop_front() else {
                return false;
            };
            if next.stage.get() == Stage::Waiting {
                next.stage.set(Stage::Given);
                next.waker.borrow().wake_by_ref();
                return true;
            }
        }
    }

    fn give_back(&self) {
        if !self.give_one() {
            self.0.free.set(self.0.free.get() + 1);
        }
    }
}

/// A place, until dropped.
#[must_use = "dropped at once, it is free again"]
pub struct Place(Option<Places>);

impl Place {
    /// It does not come back.
    pub(crate) fn use_up(mut self) {
        self.0 = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = &self.0 {
            places.give_back();
        }
    }
}

/// The future of [`Places::take`].
#[must_use = "a future does nothing unless awaited"]
pub struct Taking {
    places: Places,
    waiter: Option<Rc<Waiter>>,
}

impl Future for Taking {
    type Output = Place;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Place> {
        let state = &self.places.0;
        if let Some(waiter) = &self.waiter {
            if waiter.stage.get() == Stage::Given {
                waiter.stage.set(Stage::Gone);
                return Poll::Ready(Place(Some(self.places.clone())));
            }
            waiter.waker.borrow_mut().clone_from(cx.waker());
            return Poll::Pending;
        }
        if state.free.get() > 0 {
            state.free.set(state.free.get() - 1);
            return Poll::Ready(Place(Some(self.places.clone())));
        }
        let waiter = Rc::new(Waiter {
            stage: Cell::new(Stage::Waiting),
            waker: RefCell::new(cx.waker().clone()),
        });
        state.waiting.borrow_mut().push_back(Rc::clone(&waiter));
        self.waiter = Some(waiter);
        Poll::Pending
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if let Some(waiter) = &self.waiter {
            if waiter.stage.replace(Stage::Gone) == Stage::Given {
                self.places.give_back();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(taking: &mut Taking) -> Option<Place> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(taking).poll(&mut cx) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    #[test]
    fn who_came_first_is_first() {
        let places = Places::new(2);
        let (mut a, mut b) = (places.take(), places.take());
        let (first, second) = (poll(&mut a).unwrap(), poll(&mut b).unwrap());
        let mut waiting = [places.take(), places.take(), places.take()];
        assert!(waiting.iter_mut().all(|taking| poll(taking).is_none()));
        drop(first);
        assert!(poll(&mut waiting[1]).is_none() && poll(&mut waiting[2]).is_none());
        let third = poll(&mut waiting[0]).unwrap();
        drop((second, third));
        assert!(poll(&mut waiting[1]).is_some() && poll(&mut waiting[2]).is_some());
        assert_eq!(places.0.free.get(), 2, "all were dropped");
    }

    #[test]
    fn who_leaves_the_queue_or_what_it_was_given_holds_nobody_up() {
        let places = Places::new(1);
        let place = poll(&mut places.take()).unwrap();
        let (mut leaves, mut misses, mut last) = (places.take(), places.take(), places.take());
        for taking in [&mut leaves, &mut misses, &mut last] {
            assert!(poll(taking).is_none());
        }
        drop(leaves);
        drop(place);
        drop(misses); // it was given the place, and never heard
        assert!(poll(&mut last).is_some());
        assert_eq!(places.0.free.get(), 1);
    }

    #[test]
    fn places_that_are_used_up_come_back_with_a_refill() {
        let places = Places::new(1);
        poll(&mut places.take()).unwrap().use_up();
        let (mut next, mut last) = (places.take(), places.take());
        assert!(poll(&mut next).is_none() && poll(&mut last).is_none());
        assert!(places.are_wanted());
        places.refill(1);
        poll(&mut next).unwrap().use_up();
        assert!(poll(&mut last).is_none() && places.are_wanted());
        places.refill(3);
        poll(&mut last).unwrap().use_up();
        assert!(!places.are_wanted());
        assert_eq!(places.0.free.get(), 2);
    }
}
