//! A few unpinned helper threads for what would block a core: files, key derivation.
//!
//! ```text
//!  core: run(job) ──try_send──► bounded queue ──► helper: job() ──┐
//!  core: Answer   ◄── wake ◄── one-slot channel ◄─────────────────┘
//! ```

use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;

use crossbeam_channel::{bounded, Receiver, Sender, TryRecvError, TrySendError};
use futures_util::task::AtomicWaker;

use crate::placement::CpuMask;

type Job = Box<dyn FnOnce() + Send>;

/// A handle on the helper threads, cloned into every core. They end when the last handle is dropped and the
/// queue is empty.
#[derive(Clone)]
pub struct Blocking {
    queue: Sender<Job>,
}

/// How many helpers, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helpers {
    /// Threads, at least 1.
    pub threads: usize,
    /// Jobs that may wait, at least 1; the next one is refused with [`Lost::QueueFull`].
    pub jobs_max: usize,
    /// CPUs to leave to the cores. Ignored if nothing else is left.
    pub avoid: Vec<usize>,
    /// Added to the nice value: 0 competes with the cores as an equal, 19 yields to everything.
    pub nice: i32,
}

/// Why a job has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It panicked. The thread that ran it goes on.
    Panicked,
    /// It was not accepted: [`Helpers::jobs_max`] are waiting.
    QueueFull,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Panicked => "a job on a helper thread panicked",
            Self::QueueFull => "too many jobs wait for the helper threads",
        })
    }
}

impl std::error::Error for Lost {}

impl From<Lost> for io::Error {
    fn from(lost: Lost) -> Self {
        Self::other(lost)
    }
}

impl Blocking {
    /// Starts the threads, named `helper-0` and so on, allowed on all CPUs of the main thread but `avoid`.
    ///
    /// Errors: a thread cannot be started.
    pub fn start(helpers: &Helpers) -> io::Result<Self> {
        let (queue, jobs) = bounded::<Job>(helpers.jobs_max.max(1));
        let process = libc::pid_t::try_from(std::process::id()).unwrap_or_default();
        let cpus = CpuMask::of_thread(process)?.without(&helpers.avoid);
        for number in 0..helpers.threads.max(1) {
            let (jobs, cpus, nice) = (jobs.clone(), cpus.clone(), helpers.nice);
            thread::Builder::new()
                .name(format!("helper-{number}"))
                .spawn(move || serve(&jobs, &cpus, nice))?;
        }
        Ok(Self { queue })
    }

    /// Runs `job` on a helper thread.
    ///
    /// The job is queued at once, not at the first poll; dropping the answer does not stop it. The waker of
    /// the polling task is called from the helper thread.
    pub fn run<T, F>(&self, job: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (slot, answer) = slot();
        let job = Box::new(move || slot.fill(job()));
        match self.queue.try_send(job) {
            Ok(()) => answer,
            Err(TrySendError::Full(_)) => Answer::refused(),
            Err(TrySendError::Disconnected(_)) => {
                unreachable!("helpers end after their last handle")
            }
        }
    }
}

fn serve(jobs: &Receiver<Job>, cpus: &CpuMask, nice: i32) {
    if let Err(error) = cpus.apply() {
        tracing::warn!(%error, "helper thread keeps the CPUs of its parent");
    }
    if nice != 0 {
        // SAFETY: takes and returns plain numbers; 0 names the calling thread.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    }
    while let Ok(job) = jobs.recv() {
        // What the job captured dies with it; nothing it left half done is looked at again. Its slot is
        // dropped while unwinding, which tells the waiting task.
        drop(catch_unwind(AssertUnwindSafe(job)));
    }
}

/// The future of a job's result.
#[must_use = "the job runs anyway, but its result and its failure are lost"]
pub struct Answer<T> {
    state: State<T>,
}

enum State<T> {
    Refused,
    Queued {
        receiver: Receiver<T>,
        waker: Arc<AtomicWaker>,
    },
}

impl<T> Answer<T> {
    /// That of a full queue.
    pub(crate) fn refused() -> Self {
        Self {
            state: State::Refused,
        }
    }
}

/// Where another thread leaves a result, and the future of it.
pub(crate) fn slot<T>() -> (Slot<T>, Answer<T>) {
    let (result, receiver) = bounded(1);
    let waker = Arc::new(AtomicWaker::new());
    let slot = Slot {
        result: Some(result),
        waker: waker.clone(),
    };
    let state = State::Queued { receiver, waker };
    (slot, Answer { state })
}

impl<T> Future for Answer<T> {
    type Output = Result<T, Lost>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let State::Queued { receiver, waker } = &self.state else {
            return Poll::Ready(Err(Lost::QueueFull));
        };
        let look = || match receiver.try_recv() {
            Ok(result) => Poll::Ready(Ok(result)),
            Err(TryRecvError::Disconnected) => Poll::Ready(Err(Lost::Panicked)),
            Err(TryRecvError::Empty) => Poll::Pending,
        };
        // The second look sees a result that came between the first one and the registration.
        let first = look();
        if first.is_ready() {
            return first;
        }
        waker.register(cx.waker());
        look()
    }
}

/// Where a job leaves its result. Dropped without one, it reports the loss.
pub(crate) struct Slot<T> {
    result: Option<Sender<T>>,
    waker: Arc<AtomicWaker>,
}

impl<T> Slot<T> {
    pub(crate) fn fill(self, value: T) {
        if let Some(result) = &self.result {
            // A failure means that nobody waits any more.
            drop(result.try_send(value));
        }
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        // Disconnect first: whoever is woken must find the channel closed.
        self.result = None;
        self.waker.wake();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};
    use std::time::{Duration, Instant};

    /// Wakes by unparking: a task on a plain thread.
    struct Parked {
        thread: thread::Thread,
        wakes: AtomicUsize,
    }

    impl Wake for Parked {
        fn wake(self: Arc<Self>) {
            self.wakes.fetch_add(1, Ordering::SeqCst);
            self.thread.unpark();
        }
    }

    pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
        let parked = Arc::new(Parked {
            thread: thread::current(),
            wakes: AtomicUsize::new(0),
        });
        let waker = Waker::from(parked.clone());
        let mut future = Box::pin(future);
        loop {
            let seen = parked.wakes.load(Ordering::SeqCst);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            // A late wake of an earlier future may end the park for nothing.
            let deadline = Instant::now() + Duration::from_secs(10);
            while parked.wakes.load(Ordering::SeqCst) == seen {
                assert!(Instant::now() < deadline, "no wake within 10 s");
                thread::park_timeout(Duration::from_secs(1));
            }
        }
    }

    fn start(threads: usize, jobs_max: usize) -> Blocking {
        Blocking::start(&Helpers {
            threads,
            jobs_max,
            avoid: Vec::new(),
            nice: 0,
        })
        .unwrap()
    }

    #[test]
    fn results_come_back_from_named_threads() {
        let blocking = start(2, 8);
        let name = blocking.run(|| thread::current().name().map(str::to_owned));
        let name = block_on(name).unwrap().unwrap();
        assert!(name.starts_with("helper-"), "{name}");
        for n in 0..2000 {
            assert_eq!(block_on(blocking.run(move || n * 2)), Ok(n * 2));
        }
    }

    #[test]
    fn a_panic_is_one_lost_job_and_the_thread_goes_on() {
        let blocking = start(1, 8);
        // Caught and expected: without noise on standard error.
        let id = block_on(blocking.run(|| thread::current().id())).unwrap();
        let lost = block_on(blocking.run(|| std::panic::resume_unwind(Box::new("expected"))));
        let lost: Result<(), Lost> = lost;
        assert_eq!(lost, Err(Lost::Panicked));
        assert_eq!(block_on(blocking.run(|| thread::current().id())), Ok(id));
    }

    #[test]
    fn a_full_queue_refuses_and_the_queued_jobs_still_run() {
        let blocking = start(1, 2);
        let (open, door) = bounded::<()>(0);
        let busy = blocking.run(move || door.recv().is_err());
        // The helper takes the first job sooner or later; then two fit.
        while !blocking.queue.is_empty() {
            thread::yield_now();
        }
        let waiting = [blocking.run(|| 1), blocking.run(|| 2)];
        assert_eq!(block_on(blocking.run(|| 3)), Err(Lost::QueueFull));
        drop(open);
        assert_eq!(block_on(busy), Ok(true));
        assert_eq!(waiting.map(block_on), [Ok(1), Ok(2)]);
        assert_eq!(block_on(blocking.run(|| 4)), Ok(4));
    }

    #[test]
    fn a_dropped_answer_does_not_stop_its_job_and_helpers_end_with_the_last_handle() {
        let blocking = start(1, 8);
        let (done, seen) = bounded(1);
        drop(blocking.run(move || done.send(7)));
        assert_eq!(seen.recv_timeout(Duration::from_secs(10)), Ok(7));

        // A thread-local's destructor runs when the helper itself ends.
        struct AtExit(Sender<()>);
        impl Drop for AtExit {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        thread_local!(static END: std::cell::RefCell<Option<AtExit>> = const { std::cell::RefCell::new(None) });
        let (ended, end) = bounded(1);
        let job = blocking.run(move || END.set(Some(AtExit(ended))));
        assert_eq!(block_on(job), Ok(()));
        drop(blocking);
        assert_eq!(end.recv_timeout(Duration::from_secs(10)), Ok(()));
    }

    #[test]
    fn helpers_use_the_mask_of_the_process_even_if_started_from_a_pinned_thread() {
        let process = CpuMask::of_thread(libc::pid_t::try_from(std::process::id()).unwrap());
        let process: Vec<usize> = process.unwrap().cpus().collect();
        let first = process[0];
        let all_but_first: Vec<usize> = process[1..].to_vec();
        let found = thread::spawn(move || {
            let mask = CpuMask::of_thread(0).unwrap();
            mask.without(&all_but_first).apply().unwrap();
            let mine = CpuMask::of_thread(0).unwrap();
            assert_eq!(mine.cpus().collect::<Vec<_>>(), [first]);
            block_on(start(1, 1).run(|| CpuMask::of_thread(0).unwrap().cpus().collect::<Vec<_>>()))
        });
        assert_eq!(found.join().unwrap(), Ok(process));
    }
}
