//! One pinned executor per CPU: glommio schedules the tasks, one of them drives the ring.
//!
//! The driver runs when nothing else can: it hands all that was queued to the kernel with one enter, waits in that
//! same call for the next completion, deadline or mail, and wakes the tasks concerned.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::{poll_fn, Future};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use glommio::{LocalExecutorBuilder, Placement};

use crate::mailbox::{Bell, ForeignWaker, Mailbox, PostOffice};
use crate::places::Places;
use crate::ring::Ring;
use crate::timer::{Sleep, Timers};

/// Longest wait in the ring. Nothing depends on it.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Rounds of runnable tasks before the ring gets a turn although some still are.
const ROUNDS_MAX: usize = 16;
/// Pieces of patient work in one turn of the ring.
const PATIENT_MAX: usize = 2;
/// How often glommio sees to itself, which is when it frees tasks whose last waker another thread has dropped. Its own
/// 100 ms are a trap: a thread that is held up for that long just after glommio has set this timer, by other threads
/// or by a quota of CPU time, finds it expired before its first task has run, takes that for having none, and sleeps
/// for good with its driver runnable.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// Entries of each of glommio's own three rings per core, which carry no sockets here.
pub const EXECUTOR_ENTRIES: u32 = 64;

/// One core, as its own tasks see it. Cheap to clone; never leaves its thread.
#[derive(Clone)]
pub struct Core(Rc<Inner>);

struct Inner {
    index: usize,
    count: usize,
    cpu: usize,
    ring: Ring,
    timers: Timers,
    now: Cell<Instant>,
    /// Polls of tasks so far: a round of yielding that leaves it unchanged means nothing was runnable.
    polls: Cell<u64>,
    tasks: Cell<usize>,
    panics: Cell<u64>,
    busy: Cell<Duration>,
    turn_watcher: OnceCell<Box<dyn Fn(Duration)>>,
    bell: Arc<Bell>,
    foreign: (Sender<Waker>, Receiver<Waker>),
    inbox: RefCell<Option<Box<dyn Fn() -> bool>>>,
    mail_waker: RefCell<Option<Waker>>,
    /// Of this turn, for what is patient.
    patient: Places,
}

/// How a core is doing.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreStats {
    /// Running tasks.
    pub tasks: usize,
    /// Sockets in the ring.
    pub sockets: usize,
    /// Tasks that panicked so far; each ended alone.
    pub panics: u64,
    /// Receive buffers with the kernel or lent, of [`BUFFER_BYTES`](crate::BUFFER_BYTES) each.
    pub buffers: usize,
    /// Of those, lent: with received bytes that nobody has consumed yet.
    pub buffers_lent: usize,
    /// Time spent not waiting in the ring, in total.
    pub busy: Duration,
}

impl Core {
    /// Its number, from 0.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// How many cores there are.
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// The CPU it is pinned to.
    pub fn cpu(&self) -> usize {
        self.0.cpu
    }

    /// The time, read once per turn of the ring: coarse by the length of a turn, and free.
    #[inline]
    pub fn now(&self) -> Instant {
        self.0.now.get()
    }

    /// The time at this moment, for what is shorter than a turn: a read of the clock.
    pub fn clock(&self) -> Instant {
        Instant::now()
    }

    /// Starts a task on this core. A panic in it is logged and ends it alone.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.0.tasks.set(self.0.tasks.get() + 1);
        glommio::spawn_local(Task {
            core: Running(self.clone()),
            future,
        })
        .detach();
    }

    /// Completes at `at`.
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep::new(self, at)
    }

    /// Completes after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        // A duration beyond the clock's range never ends; a century is as good.
        let century = Duration::from_secs(100 * 365 * 86_400);
        self.sleep_until(self.now() + duration.min(century))
    }

    /// `future`'s output, or `None` when `deadline` comes first (the future is dropped).
    pub async fn timeout_at<T>(
        &self,
        deadline: Option<Instant>,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let Some(deadline) = deadline else {
            return Some(future.await);
        };
        let mut sleep = self.sleep_until(deadline);
        let mut future = std::pin::pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            Pin::new(&mut sleep).poll(cx).map(|()| None)
        })
        .await
    }

    /// Lets every other runnable task run once.
    pub async fn yield_now(&self) {
        yield_now().await;
    }

    /// Lets others go first: of what calls this, only [`PATIENT_MAX`] go on in one turn of the ring, in order of arrival.
    /// Whatever else is runnable runs in every turn.
    pub async fn patiently(&self) {
        self.0.patient.take().await.use_up();
    }

    /// Polls a future that another thread completes (its waker rings this core's bell).
    pub async fn foreign<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        poll_fn(|cx| {
            let waker = Waker::from(Arc::new(ForeignWaker {
                waker: cx.waker().clone(),
                queue: self.0.foreign.0.clone(),
                bell: Arc::clone(&self.0.bell),
            }));
            future.as_mut().poll(&mut Context::from_waker(&waker))
        })
        .await
    }

    /// Counters of this core.
    pub fn stats(&self) -> CoreStats {
        CoreStats {
            tasks: self.0.tasks.get(),
            sockets: self.0.ring.sockets(),
            panics: self.0.panics.get(),
            buffers: self.0.ring.buffers().0,
            buffers_lent: self.0.ring.buffers().1,
            busy: self.0.busy.get(),
        }
    }

    /// CPU time that this core's thread has taken so far: a system call. Less than [`CoreStats::busy`] where others share its
    /// CPU.
    pub fn cpu_time(&self) -> Duration {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the kernel writes one timespec where the pointer says.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        debug_assert_eq!(result, 0, "every thread has this clock");
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
        Duration::new(seconds, nanoseconds)
    }

    /// Calls `watcher` after each turn with how long its tasks ran: as long as a task had to wait for its turn at most.
    /// It costs no reading of the clock. Only the first watcher is heard.
    pub fn watch_turns(&self, watcher: impl Fn(Duration) + 'static) {
        _ = self.0.turn_watcher.set(Box::new(watcher));
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.0.ring
    }

    pub(crate) fn timers(&self) -> &Timers {
        &self.0.timers
    }

    pub(crate) fn watch_inbox(&self, pending: Box<dyn Fn() -> bool>) {
        *self.0.inbox.borrow_mut() = Some(pending);
    }

    pub(crate) fn wake_on_mail(&self, waker: &Waker) {
        let old = self.0.mail_waker.borrow_mut().replace(waker.clone());
        drop(old);
    }

    fn mail_pending(&self) -> bool {
        !self.0.foreign.1.is_empty()
            || self
                .0
                .inbox
                .borrow()
                .as_ref()
                .is_some_and(|pending| pending())
    }

    /// Wakes whoever waits for what other threads have sent.
    fn deliver(&self) {
        while let Ok(waker) = self.0.foreign.1.try_recv() {
            waker.wake();
        }
        if self
            .0
            .inbox
            .borrow()
            .as_ref()
            .is_some_and(|pending| pending())
        {
            let waker = self.0.mail_waker.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Runs tasks until none is runnable; false if some still are after [`ROUNDS_MAX`] rounds.
    async fn drain(&self) -> bool {
        for _ in 0..ROUNDS_MAX {
            let before = self.0.polls.get();
            yield_now().await;
            if self.0.polls.get() == before {
                return true;
            }
        }
        false
    }

    /// Serves the ring until `finished`.
    async fn drive(&self, finished: &Cell<bool>) -> io::Result<()> {
        let mut woke = Instant::now();
        loop {
            let idle = self.drain().await && !self.0.patient.are_wanted();
            if finished.get() {
                self.0.ring.stop_listening();
                return Ok(());
            }
            let now = Instant::now();
            if let Some(watcher) = self.0.turn_watcher.get() {
                watcher(now.saturating_duration_since(self.now()));
            }
            let mut wait = None;
            if idle {
                let until = self.0.timers.next().map_or(WAIT_MAX, |at| {
                    at.saturating_duration_since(now).min(WAIT_MAX)
                });
                self.0.bell.set_sleeping(true);
                wait = Some(until).filter(|until| !until.is_zero() && !self.mail_pending());
            }
            if wait.is_some() {
                self.0
                    .busy
                    .set(self.0.busy.get() + now.saturating_duration_since(woke));
            }
            self.0.ring.turn(wait, now)?;
            self.0.bell.set_sleeping(false);
            let now = Instant::now();
            if wait.is_some() {
                woke = now;
            }
            self.0.now.set(now);
            self.0.timers.fire(now);
            self.deliver();
            // Behind those whom the ring has woken.
            self.0.patient.refill(PATIENT_MAX);
        }
    }
}

/// Counts one running task for as long as it lives.
struct Running(Core);

impl Drop for Running {
    fn drop(&mut self) {
        self.0 .0.tasks.set(self.0 .0.tasks.get() - 1);
    }
}

/// A task's future, whose polls are counted and whose panic is logged. Not an async block around `future`, which
/// would hold it twice: there are as many of these as clients.
struct Task<F> {
    core: Running,
    future: F,
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let core = self.core.0.clone();
        core.0.polls.set(core.0.polls.get() + 1);
        // SAFETY: `future` is pinned with `self`: it is never moved out of, and `Task` has no Drop of its own.
        let future = unsafe { self.map_unchecked_mut(|task| &mut task.future) };
        // After a panic the future is not polled again: this completes, and drops it.
        std::panic::catch_unwind(AssertUnwindSafe(|| future.poll(cx))).unwrap_or_else(|panic| {
            core.0.panics.set(core.0.panics.get() + 1);
            tracing::error!(
                core = core.index(),
                "a task panicked: {}",
                describe(&*panic)
            );
            Poll::Ready(())
        })
    }
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn describe(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("?")
}

/// Cores that run; [`Cores::join`] waits for them.
pub struct Cores<M> {
    office: PostOffice<M>,
    threads: Vec<(usize, glommio::ExecutorJoinHandle<()>)>,
    ends: Receiver<End>,
}

/// Which core has ended, and how; `None`: its thread knows.
type End = (usize, Option<io::Result<()>>);

impl<M> Cores<M> {
    /// For mail to the cores.
    pub fn office(&self) -> &PostOffice<M> {
        &self.office
    }

    /// Waits until every core's `main` has returned.
    ///
    /// Errors: a core has failed, or its `main` has panicked, and why. The others go on, without the mail of that one: the process is
    /// to end.
    pub fn join(self) -> io::Result<()> {
        let mut threads: Vec<_> = self.threads.into_iter().map(Some).collect();
        let joined = |(cpu, thread): (usize, glommio::ExecutorJoinHandle<()>)| {
            let ended = thread.join();
            ended.map_err(|error| io::Error::other(format!("executor on CPU {cpu}: {error}")))
        };
        for _ in 0..threads.len() {
            match self.ends.recv() {
                Ok((_, Some(ended))) => ended?,
                Ok((core, None)) => {
                    let thread = threads.get_mut(core).and_then(Option::take);
                    thread.map_or(Ok(()), joined)?;
                    return Err(io::Error::other(format!("core {core} has panicked")));
                }
                Err(_) => break,
            }
        }
        threads.into_iter().flatten().try_for_each(joined)
    }
}

/// Starts one pinned executor per CPU and runs `main` on each with its mailbox, which holds up to
/// `mailbox_capacity` mails. Returns when all of them are up.
///
/// Errors: what keeps a core from starting (io_uring, memlock, a CPU that is gone), in words.
pub fn start<M, F, Fut>(cpus: &[usize], mailbox_capacity: usize, main: F) -> io::Result<Cores<M>>
where
    M: Send + 'static,
    F: FnOnce(Core, Mailbox<M>, PostOffice<M>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let mut bells = Vec::new();
    let mut readers = Vec::new();
    for _ in cpus {
        let (bell, reader) = Bell::new()?;
        bells.push(bell);
        readers.push(reader);
    }
    let (office, receivers) = PostOffice::new(mailbox_capacity, &bells);
    let (up, ups) = crossbeam_channel::bounded(cpus.len());
    let (end, ends) = crossbeam_channel::bounded(cpus.len());
    let mut threads = Vec::new();
    let parts = cpus.iter().zip(bells).zip(readers).zip(receivers);
    for (index, (((&cpu, bell), reader), receiver)) in parts.enumerate() {
        let (main, office, up, count) = (main.clone(), office.clone(), up.clone(), cpus.len());
        let end = TellsEnd {
            core: index,
            cpu,
            ends: Some(end.clone()),
        };
        let thread = LocalExecutorBuilder::new(Placement::Fixed(cpu))
            .name(&format!("core-{index}"))
            .io_memory(0)
            .ring_depth(EXECUTOR_ENTRIES as usize)
            .preempt_timer(HOUSEKEEPING)
            .spawn(move || async move {
                let core = match Core::new(index, count, cpu, bell, reader) {
                    Ok(core) => core,
                    Err(error) => {
                        let _ = up.send(Err(io::Error::other(format!(
                            "io_uring on CPU {cpu}: {error}"
                        ))));
                        return end.tell(Ok(()));
                    }
                };
                let mailbox = Mailbox::new(&core, receiver);
                let _ = up.send(Ok(()));
                drop(up);
                let finished = Rc::new(Cell::new(false));
                let returned = Rc::new(Cell::new(false));
                let (done, whole) = (Rc::clone(&finished), Rc::clone(&returned));
                let future = main(core.clone(), mailbox, office);
                core.spawn(async move {
                    let _set = SetOnDrop(done);
                    future.await;
                    whole.set(true);
                });
                let driven = core.drive(&finished).await;
                end.tell(driven.and_then(|()| match returned.get() {
                    true => Ok(()),
                    false => Err(io::Error::other("its main task panicked")),
                }));
            })
            .map_err(|error| io::Error::other(format!("executor on CPU {cpu}: {error}")))?;
        threads.push((cpu, thread));
    }
    drop(up);
    let mut started = 0;
    while let Ok(core) = ups.recv() {
        core?;
        started += 1;
    }
    let cores = Cores {
        office,
        threads,
        ends,
    };
    if started < cpus.len() {
        cores.join()?;
        return Err(io::Error::other("a core ended while it started"));
    }
    Ok(cores)
}

/// Tells how a core has ended, in any case.
struct TellsEnd {
    core: usize,
    cpu: usize,
    ends: Option<Sender<End>>,
}

impl TellsEnd {
    fn tell(mut self, outcome: io::Result<()>) {
        let cpu = self.cpu;
        let outcome = outcome.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("the core on CPU {cpu} has ended: {error}"),
            )
        });
        self.told(Some(outcome));
    }

    fn told(&mut self, outcome: Option<io::Result<()>>) {
        if let Some(ends) = self.ends.take() {
            // There is room for each core.
            let _ = ends.try_send((self.core, outcome));
        }
    }
}

impl Drop for TellsEnd {
    fn drop(&mut self) {
        self.told(None);
    }
}

/// A `main` that panics ends its core too.
struct SetOnDrop(Rc<Cell<bool>>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

impl Core {
    fn new(
        index: usize,
        count: usize,
        cpu: usize,
        bell: Arc<Bell>,
        reader: OwnedFd,
    ) -> io::Result<Self> {
        Ok(Self(Rc::new(Inner {
            index,
            count,
            cpu,
            ring: Ring::new(reader)?,
            timers: Timers::default(),
            now: Cell::new(Instant::now()),
            polls: Cell::new(0),
            tasks: Cell::new(0),
            panics: Cell::new(0),
            busy: Cell::new(Duration::ZERO),
            turn_watcher: OnceCell::new(),
            bell,
            foreign: crossbeam_channel::unbounded(),
            inbox: RefCell::new(None),
            mail_waker: RefCell::new(None),
            patient: Places::new(PATIENT_MAX),
        })))
    }
}
