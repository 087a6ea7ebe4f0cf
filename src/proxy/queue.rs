//! What one task of a core leaves for another one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// A queue with one reader, in order. How much it may hold is its writers' business.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    waiting: RefCell<VecDeque<T>>,
    reader: RefCell<Option<Waker>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiting: RefCell::default(),
            reader: RefCell::default(),
        }
    }
}

impl<T> Queue<T> {
    pub(crate) fn push(&self, item: T) {
        self.waiting.borrow_mut().push_back(item);
        let reader = self.reader.borrow_mut().take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    pub(crate) fn poll_next(&self, cx: &Context<'_>) -> Poll<T> {
        match self.waiting.borrow_mut().pop_front() {
            Some(item) => Poll::Ready(item),
            None => {
                *self.reader.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(crate) async fn next(&self) -> T {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}
