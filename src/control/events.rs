//! The control thread's loop: signals, questions of cores and their answers, one after the other.

use std::io;
use std::process;
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError};
use std::thread;

use cores::signal::{Signal, Signals};
use cores::{Cores, PostOffice};

use crate::config::Resolved;
use crate::proxy::{Event, Events, Mail, EVENTS_MAX};

use super::gather::Gathers;
use super::now;
use super::reload::Current;

/// What the control thread knows while cores run.
pub(super) struct Control {
    current: Current,
    office: PostOffice<Mail>,
    events: Receiver<Event>,
    gathers: Gathers,
    phase: Phase,
}

/// Reads the configuration: see [`super::load`].
pub(super) type Load<'a> = &'a dyn Fn() -> Result<Resolved, String>;

/// Serving, or on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
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
    pub(super) fn new(current: Current, office: PostOffice<Mail>, events: Receiver<Event>) -> Self {
        Self {
            current,
            office,
            events,
            gathers: Gathers::default(),
            phase: Phase::Serving,
        }
    }

    /// Works until all cores have ended; `load` reads the configuration. Errors: the first core that failed, and why.
    pub(super) fn run(mut self, load: Load<'_>) -> io::Result<()> {
        loop {
            match self.next() {
                None => self.gathers.expire(now()),
                Some(Event::Signal(signal)) => self.signal(signal, load),
                Some(Event::Snapshot { id, snapshot }) => self.gathers.answered(id, *snapshot),
                Some(Event::CoreEnded(core)) => self.gathers.ended(core),
                Some(Event::AllEnded(outcome)) => return outcome,
            }
        }
    }

    /// The next event; `None` when a deadline comes first.
    fn next(&self) -> Option<Event> {
        let received = match self.gathers.next_deadline() {
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

    fn signal(&mut self, signal: Signal, load: Load<'_>) {
        match (signal, self.phase) {
            (Signal::Hangup, Phase::Serving) => {
                if let Err(failure) = self.current.reload(load(), &self.office) {
                    tracing::error!("configuration not changed: {failure}");
                }
            }
            (Signal::Hangup, Phase::ShuttingDown) => {
                tracing::warn!("shutting down: the configuration is not reloaded")
            }
            (Signal::Interrupt | Signal::Terminate, Phase::Serving) => self.shut_down(),
            (Signal::Interrupt | Signal::Terminate, Phase::ShuttingDown) => process::exit(1),
        }
    }

    fn shut_down(&mut self) {
        self.phase = Phase::ShuttingDown;
        tracing::info!("shutting down: waiting for transactions to end");
        let deadline = self
            .current
            .setup()
            .shutdown
            .timeout
            .and_then(|grace| now().checked_add(grace));
        for core in 0..self.office.cores() {
            if self.office.send(core, Mail::Shutdown { deadline }).is_err() {
                tracing::error!(
                    core,
                    "its mailbox is full: it will be ended with the process"
                );
            }
        }
    }
}
