//! RELOAD and SIGHUP: both files are read and checked, the differences logged, and every core told.
//!
//! A configuration that is not valid changes nothing. One that is reaches the cores in two rounds: see
//! [`Act::Prepare`] and [`Act::Adopt`].

use std::sync::mpsc;
use std::time::{Duration, Instant};

use cores::PostOffice;

use crate::config::{diff, Config, Reload, Resolved};
use crate::orders::Orders;
use crate::proxy::{Act, Done, Mail, Setup};

use super::query_log::QueryLog;
use super::{now, tls};

/// How long the cores may take for one round. A core that takes longer is in trouble of its own.
const ROUND_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before a full mailbox is tried again.
const FULL_BOX_PAUSE: Duration = Duration::from_millis(1);

/// Why a reload changed nothing, or not everything.
#[derive(Debug)]
pub(super) enum Failure {
    /// All that is wrong with the files, one problem a line: file, line, reason.
    Invalid(String),
    /// These cores did not answer. In the second round the others have the new configuration by then.
    Silent(Vec<usize>),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Invalid(problems) => f.write_str(problems),
            Failure::Silent(cores) => write!(f, "no answer from cores {cores:?}"),
        }
    }
}

/// The configuration in force, as the control thread knows it.
pub(super) struct Current {
    setup: Setup,
    /// Settings without effect that were told of.
    absent: Vec<String>,
    query_log: QueryLog,
    /// Reloads that went well, and that did not.
    outcomes: [u64; 2],
    /// When `setup` came into force, since 1970.
    since: Duration,
}

impl Current {
    /// What the process starts with; tells the operator what of it has no effect.
    ///
    /// Errors: certificates that cannot be used.
    pub(super) fn first(config: Config, query_log: QueryLog) -> Result<Self, String> {
        let tls = tls::material(&config.tls)?;
        let mut current = Self {
            setup: Setup::first(config, tls),
            absent: Vec::new(),
            query_log,
            outcomes: [0; 2],
            since: since_1970(),
        };
        current.tell_absent();
        Ok(current)
    }

    pub(super) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Reloads that went well and that did not, and when the configuration came into force.
    pub(super) fn history(&self) -> ([u64; 2], Duration) {
        (self.outcomes, self.since)
    }

    /// Puts what `loaded` says in force on every core, if it is valid. Errors: the old configuration stays.
    pub(super) fn reload(
        &mut self,
        loaded: Result<Resolved, String>,
        office: &PostOffice<Mail>,
    ) -> Result<(), Failure> {
        let outcome = self.replace(loaded, office);
        self.outcomes[usize::from(outcome.is_err())] += 1;
        if outcome.is_ok() {
            self.since = since_1970();
        }
        outcome
    }

    fn replace(
        &mut self,
        loaded: Result<Resolved, String>,
        office: &PostOffice<Mail>,
    ) -> Result<(), Failure> {
        let Resolved { config, warnings } = loaded.map_err(Failure::Invalid)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let changes = diff(&self.setup, &config);
        // Read again even if their names are the same: certificates expire.
        let tls = tls::material(&config.tls).map_err(Failure::Invalid)?;
        let next = self.setup.next(config, tls);
        if let Err(failure) = round(office, &Act::Prepare(next.clone())) {
            self.setup.skip_ids_of(&next);
            return Err(failure);
        }
        self.setup = next;
        for change in &changes {
            match change.reload {
                Reload::Restart => tracing::warn!("reload: {change}"),
                Reload::Live | Reload::Next => tracing::info!("reload: {change}"),
            }
        }
        self.tell_absent();
        if let Err(problem) = self.query_log.direct(&self.setup.log) {
            tracing::error!("reload: {problem}");
        }
        let adopted = round(office, &Act::Adopt(self.setup.clone()));
        let generation = self.setup.generation;
        tracing::info!(
            generation,
            changes = changes.len(),
            "configuration reloaded"
        );
        adopted.map(drop)
    }

    /// Puts an order in force on every core: when this returns, they all obey.
    pub(super) fn order(
        &mut self,
        office: &PostOffice<Mail>,
        change: impl FnOnce(&mut Orders),
    ) -> Result<(), Failure> {
        let mut orders = Orders::clone(&self.setup.orders);
        change(&mut orders);
        self.setup = self.setup.under(orders);
        round(office, &Act::Adopt(self.setup.clone())).map(drop)
    }

    fn tell_absent(&mut self) {
        let absent = self.setup.not_in_effect();
        if !absent.is_empty() && absent != self.absent {
            tracing::warn!("not in effect yet: {}", absent.join(", "));
        }
        self.absent = absent;
    }
}

/// Has every core do something, and waits until all have. Returns how many sessions they have ended. Errors: cores
/// that have not done it in time.
pub(super) fn round(office: &PostOffice<Mail>, act: &Act) -> Result<usize, Failure> {
    let (done, answers) = mpsc::channel();
    let deadline = now() + ROUND_TIMEOUT;
    let mut silent: Vec<usize> = (0..office.cores()).collect();
    for core in &silent {
        let (act, done) = (act.clone(), done.clone());
        post(office, *core, Mail::Act { act, done }, deadline);
    }
    drop(done);
    let mut sessions = 0;
    while !silent.is_empty() {
        let left = deadline.saturating_duration_since(now());
        let Ok(Done { core, count }) = answers.recv_timeout(left) else {
            return Err(Failure::Silent(silent));
        };
        silent.retain(|other| *other != core);
        sessions += count;
    }
    Ok(sessions)
}

/// Posts mail that must arrive, unless the core does not empty its box in time.
fn post(office: &PostOffice<Mail>, core: usize, mut mail: Mail, deadline: Instant) {
    while let Err(back) = office.send(core, mail) {
        if now() >= deadline {
            return;
        }
        mail = back;
        pause(FULL_BOX_PAUSE);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the control thread is no core, and nobody waits for it"
)]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

fn since_1970() -> Duration {
    std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
}
