//! The control thread's loop: signals, questions of cores and their answers, one after the other.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::process;
use std::rc::Rc;
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError};
use std::thread;

use cores::signal::{Signal, Signals};
use cores::{Cores, PostOffice};

use crate::admin::command::Shutdown;
use crate::catalogue::{Past, View};
use crate::config::Resolved;
use crate::proxy::{Ask, Ending, Event, Events, Mail, EVENTS_MAX};
use crate::snapshot::{sum, Scope};

use super::gather::{Gathered, Gathers};
use super::now;
use super::recent::Recent;
use super::reload::{order, Current};
use super::systemd::Systemd;
use super::waits::Waits;

/// What the control thread knows while cores run.
pub(super) struct Control {
    pub(super) current: Current,
    pub(super) instance_id: Rc<str>,
    pub(super) office: PostOffice<Mail>,
    events: Receiver<Event>,
    gathers: Gathers,
    /// Shared with the questions that are under way.
    pub(super) recent: Rc<RefCell<Recent>>,
    /// What metrics have told of pools that are gone.
    past: Rc<RefCell<Past>>,
    /// Shared with the questions that are asked on their behalf.
    pub(super) waits: Rc<RefCell<Waits>>,
    phase: Phase,
    /// Cores that have nothing left to do.
    drained: HashSet<usize>,
    systemd: Systemd,
    /// Cores that accept connections.
    listening: usize,
}

/// Reads the configuration: see [`super::load`].
pub(super) type Load<'a> = &'a dyn Fn() -> Result<Resolved, String>;

/// Serving, or on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// By SHUTDOWN WAIT_FOR_…; a signal asks for more haste.
    TakingItsTime,
    /// Cores were told to end; another signal ends the process at once.
    ShuttingDown,
}

/// The queue of events.
pub(super) fn channel() -> (Events, Receiver<Event>) {
    sync_channel(EVENTS_MAX)
}

/// Passes signals on to the control thread, which has to start before anybody else is interested in them.
pub(super) fn forward_signals(mut signals: Signals, events: Events) -> io::Result<()> {
    let forward = move || while events.send(Event::Signal(signals.next())).is_ok() {};
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(forward)
        .map(drop)
}

/// Tells the control thread when all cores have ended.
pub(super) fn await_end(cores: Cores<Mail>, events: Events) -> io::Result<()> {
    thread::Builder::new()
        .name("join".to_owned())
        .spawn(move || {
            // Without a receiver the process is ending anyway.
            let _ = events.send(Event::AllEnded(cores.join()));
        })
        .map(drop)
}

impl Control {
    pub(super) fn new(
        current: Current,
        instance_id: String,
        office: PostOffice<Mail>,
        events: Receiver<Event>,
    ) -> Self {
        Self {
            current,
            instance_id: instance_id.into(),
            office,
            events,
            gathers: Gathers::default(),
            recent: Rc::new(RefCell::new(Recent::new(now()))),
            past: Rc::default(),
            waits: Rc::default(),
            phase: Phase::Serving,
            drained: HashSet::new(),
            systemd: Systemd::from_environment(),
            listening: 0,
        }
    }

    /// One more core accepts connections; with the last of them the service is up.
    fn listening(&mut self) {
        self.listening += 1;
        if self.listening == self.office.cores() {
            self.systemd.notify("READY=1");
        }
    }

    /// Works until all cores have ended; `load` reads the configuration. Errors: the first core that failed, and why.
    pub(super) fn run(mut self, load: Load<'_>) -> io::Result<()> {
        loop {
            match self.next() {
                None => {}
                Some(Event::Signal(signal)) => self.signal(signal, load),
                Some(Event::Admin { command, reply }) => self.command(command, load, reply),
                Some(Event::Snapshot { id, snapshot }) => self.gathers.answered(id, *snapshot),
                Some(Event::Guest { guest, reply }) => self.introduce(guest, reply),
                Some(Event::Listening) => self.listening(),
                Some(Event::CoreDrained(core)) => self.core_drained(core),
                Some(Event::Ask(ask)) => self.observe(ask),
                Some(Event::AllEnded(outcome)) => return outcome,
            }
            self.tick();
        }
    }

    /// The next event; `None` when a deadline comes first.
    fn next(&self) -> Option<Event> {
        let deadlines = [
            self.gathers.next_deadline(),
            self.recent.borrow().next(),
            self.waits.borrow().next_look(),
        ];
        let received = match deadlines.into_iter().flatten().min() {
            None => self
                .events
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => self
                .events
                .recv_timeout(at.saturating_duration_since(now())),
        };
        match received {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!("the thread that forwards signals never ends")
            }
        }
    }

    /// Does what time demands.
    fn tick(&mut self) {
        let now = now();
        self.gathers.expire(now);
        self.look(now);
        if self.recent.borrow().next().is_some_and(|next| next <= now) {
            let period = self.current.setup().stats_period;
            self.recent.borrow_mut().begin(now, period);
            let recent = Rc::clone(&self.recent);
            let scope = Scope {
                latencies: true,
                ..Scope::default()
            };
            self.gather(scope, move |gathered| match gathered {
                Ok(cores) => recent.borrow_mut().looked(&cores),
                Err(why) => tracing::warn!("averages are late: {why}"),
            });
        }
    }

    /// Another thread wants to know how things are.
    fn observe(&mut self, Ask { scope, reply }: Ask) {
        let setup = self.current.setup();
        let (reloads, configured) = self.current.history();
        let mut view = View {
            namespace: setup.observation.namespace.clone(),
            accepting: self.phase == Phase::Serving,
            query_cache_limit: setup.routing.analyses_max as u64,
            prepared_statements_limit: setup.prepared.statements_max.unwrap_or(u64::MAX),
            reloads,
            configured,
            resident_bytes: super::observe::resident_bytes(),
            ..View::default()
        };
        let (recent, past) = (Rc::clone(&self.recent), Rc::clone(&self.past));
        self.gather(scope, move |gathered| {
            let answer = gathered.map_err(|why| why.to_string()).map(|cores| {
                recent.borrow().show(&cores, &mut view);
                if scope.latencies {
                    view.past = past.borrow_mut().look(sum(&cores));
                }
                view.cores = cores;
                view
            });
            // Whoever asked may have lost patience.
            let _ = reply.try_send(answer);
        });
    }

    /// Asks all cores, and does something with their answers when they are there.
    pub(super) fn gather(&mut self, scope: Scope, then: impl FnOnce(Gathered) + 'static) {
        self.gathers.ask(&self.office, scope, now(), then);
    }

    fn signal(&mut self, signal: Signal, load: Load<'_>) {
        match (signal, self.phase) {
            (Signal::Hangup, Phase::Serving) => {
                // Whatever went wrong has been logged, and there is nobody else to tell.
                let _ = self.reload(load);
            }
            (Signal::Hangup, Phase::TakingItsTime | Phase::ShuttingDown) => {
                tracing::warn!("shutting down: the configuration is not reloaded")
            }
            (Signal::Interrupt | Signal::Terminate, Phase::Serving | Phase::TakingItsTime) => {
                self.shut_down(Shutdown::Graceful)
            }
            (Signal::Interrupt | Signal::Terminate, Phase::ShuttingDown) => process::exit(1),
        }
    }

    /// The last core that works lets all of them end.
    fn core_drained(&mut self, core: usize) {
        self.drained.insert(core);
        if self.drained.len() < self.office.cores() {
            return;
        }
        for core in 0..self.office.cores() {
            if self.office.send(core, Mail::End).is_err() {
                // Nobody writes to it any more but us and our gathers, which are few.
                tracing::error!(core, "its mailbox is full, ending without it");
                process::exit(1);
            }
        }
    }

    /// Tells all cores to end. A later word replaces an earlier one.
    pub(super) fn shut_down(&mut self, how: Shutdown) {
        let grace = self.current.setup().shutdown.timeout;
        let deadline = grace.and_then(|grace| now().checked_add(grace));
        let (ending, what) = match how {
            Shutdown::Graceful => (Ending::Graceful { deadline }, "transactions to end"),
            Shutdown::WaitForServers => {
                let deadline = None;
                (
                    Ending::Graceful { deadline },
                    "transactions to end, however long it takes",
                )
            }
            Shutdown::WaitForClients => (Ending::WaitForClients, "clients to leave"),
        };
        self.phase = match how {
            Shutdown::Graceful => Phase::ShuttingDown,
            Shutdown::WaitForServers | Shutdown::WaitForClients => Phase::TakingItsTime,
        };
        if self.phase == Phase::ShuttingDown {
            // Said earlier, it would let the service manager's own patience run out.
            self.systemd.notify("STOPPING=1");
        }
        tracing::info!("shutting down: waiting for {what}");
        for core in 0..self.office.cores() {
            if !order(&self.office, core, Mail::Shutdown(ending)) {
                tracing::error!(
                    core,
                    "its mailbox is full: it does not shut down before it is told again"
                );
            }
        }
    }

    /// The configuration in force, and the way to those whom to tell of another.
    pub(super) fn current(&mut self) -> (&mut Current, &PostOffice<Mail>) {
        (&mut self.current, &self.office)
    }

    pub(super) fn is_serving(&self) -> bool {
        self.phase == Phase::Serving
    }
}
