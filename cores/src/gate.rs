//! Counts one core's running tasks, so that a drain knows when the last one has left.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A way in that can be closed. Clones are the same gate; it stays on its core.
///
/// ```text
///          enter()            close()            last Pass dropped
///  open ───────────► open ──────────────► closed ────────────────► drained
///          Some(Pass)         enter(): None
/// ```
#[derive(Clone, Default)]
pub struct Gate {
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    running: Cell<usize>,
    closed: Cell<bool>,
    /// Tasks awaiting [`Gate::drained`]; rarely more than one.
    waiting: RefCell<Vec<Waker>>,
}

impl Gate {
    /// An open gate that nobody has entered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts the caller in until the pass is dropped. `None` once the gate is closed.
    pub fn enter(&self) -> Option<Pass> {
        (!self.is_closed()).then(|| self.admit())
    }

    /// Lets in who has come from another gate, where it is closed for others. `None` once all have left.
    pub fn enter_late(&self) -> Option<Pass> {
        let drained = self.state.is_drained();
        (!drained).then(|| self.admit())
    }

    fn admit(&self) -> Pass {
        self.state.running.set(self.running() + 1);
        Pass {
            state: self.state.clone(),
        }
    }

    /// Lets nobody in any more. Those inside are not disturbed: telling them is the caller's business.
    pub fn close(&self) {
        self.state.closed.set(true);
        self.state.wake_if_drained();
    }

    /// Passes that exist now.
    pub fn running(&self) -> usize {
        self.state.running.get()
    }

    /// Whether [`Gate::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    /// Resolves when the gate is closed and everybody has left. It sets no deadline.
    pub fn drained(&self) -> Drained {
        Drained {
            state: self.state.clone(),
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("running", &self.running())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl State {
    fn is_drained(&self) -> bool {
        self.closed.get() && self.running.get() == 0
    }

    fn wake_if_drained(&self) {
        if self.is_drained() {
            // Taken out first: a waker may run code that comes back here.
            let waiting = self.waiting.take();
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// Counts as one running task until dropped, also when the task panics.
#[must_use = "dropped at once, it counts nothing"]
pub struct Pass {
    state: Rc<State>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.state.running.set(self.state.running.get() - 1);
        self.state.wake_if_drained();
    }
}

/// The future of [`Gate::drained`].
#[must_use = "a future does nothing unless awaited"]
pub struct Drained {
    state: Rc<State>,
}

impl Future for Drained {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.state.is_drained() {
            return Poll::Ready(());
        }
        let mut waiting = self.state.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{catch_unwind, AssertUnwindSafe};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Arc;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Waiter {
        wakes: Arc<Count>,
        drained: Drained,
    }

    impl Waiter {
        fn new(gate: &Gate) -> Self {
            Self {
                wakes: Arc::default(),
                drained: gate.drained(),
            }
        }

        fn is_done(&mut self) -> bool {
            let waker = Waker::from(self.wakes.clone());
            let mut cx = Context::from_waker(&waker);
            Pin::new(&mut self.drained).poll(&mut cx).is_ready()
        }

        fn wakes(&self) -> usize {
            self.wakes.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn drained_when_closed_and_empty_and_not_before() {
        let gate = Gate::new();
        let mut waiter = Waiter::new(&gate);
        let first = gate.enter().unwrap();
        let second = gate.enter().unwrap();
        assert_eq!(gate.running(), 2);
        drop(first);
        assert!(!waiter.is_done());
        gate.close();
        assert!(gate.enter().is_none());
        assert!(!waiter.is_done());
        assert_eq!(waiter.wakes(), 0);
        drop(second);
        assert_eq!(waiter.wakes(), 1, "polled twice, woken once");
        assert!(waiter.is_done());
        assert_eq!(gate.running(), 0);
    }

    #[test]
    fn who_comes_late_is_let_in_while_others_are_there() {
        let gate = Gate::new();
        let mut waiter = Waiter::new(&gate);
        let first = gate.enter().unwrap();
        gate.close();
        let late = gate.enter_late().unwrap();
        drop(first);
        assert!(!waiter.is_done());
        drop(late);
        assert!(waiter.is_done());
        assert!(gate.enter_late().is_none());
    }

    #[test]
    fn an_empty_open_gate_is_not_drained_until_it_closes() {
        let gate = Gate::new();
        let mut waiter = Waiter::new(&gate);
        drop(gate.enter());
        assert!(!waiter.is_done());
        assert_eq!(waiter.wakes(), 0);
        gate.close();
        assert_eq!(waiter.wakes(), 1);
        assert!(waiter.is_done());
        assert!(Waiter::new(&gate).is_done());
    }

    #[test]
    fn everybody_waiting_is_woken() {
        let gate = Gate::new();
        let pass = gate.enter();
        let mut waiters = [Waiter::new(&gate), Waiter::new(&gate)];
        assert!(!waiters.iter_mut().any(Waiter::is_done));
        gate.close();
        drop(pass);
        assert_eq!(waiters.each_ref().map(Waiter::wakes), [1, 1]);
    }

    #[test]
    fn a_panic_leaves_the_gate() {
        let gate = Gate::new();
        let inside = gate.clone();
        let task = AssertUnwindSafe(move || {
            let _pass = inside.enter();
            std::panic::resume_unwind(Box::new("expected"));
        });
        assert!(catch_unwind(task).is_err());
        assert_eq!(gate.running(), 0);
    }
}
