//! RELOAD and SIGHUP: both files are read and checked, the differences logged, and every core told.
//!
//! A configuration that is not valid changes nothing. One that is reaches the cores in two rounds: see
//! [`Act::Prepare`] and [`Act::Adopt`].

use std::collections::{HashMap, HashSet};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cores::PostOffice;

use crate::config::guests::{Guests, Unwelcome};
use crate::config::{diff, Config, Guest, Reload, Resolved};
use crate::orders::Orders;
use crate::pool::PoolId;
use crate::proxy::{Act, Done, Mail, Setup};

use super::query_log::QueryLog;
use super::{now, tcp, tls};

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
    /// A guest cannot be known.
    Unwelcome(Unwelcome),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Invalid(problems) => f.write_str(problems),
            Failure::Silent(cores) => write!(f, "no answer from cores {cores:?}"),
            Failure::Unwelcome(why) => write!(f, "{why:?}"),
        }
    }
}

/// The configuration in force, as the control thread knows it.
pub(super) struct Current {
    setup: Setup,
    /// They are part of `setup`, and not of what is read.
    guests: Guests,
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
    /// Errors: certificates that cannot be used, socket options that the kernel does not take.
    pub(super) fn first(config: Config, query_log: QueryLog) -> Result<Self, String> {
        tcp::check(&config.tcp)?;
        let tls = tls::material(&config.tls)?;
        let mut current = Self {
            setup: Setup::first(config, tls),
            guests: Guests::default(),
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
        let (config, guests) = self.with_guests(config, office)?;
        tcp::check(&config.tcp).map_err(Failure::Invalid)?;
        // Read again even if their names are the same: certificates expire.
        let tls = tls::material(&config.tls).map_err(Failure::Invalid)?;
        let over = match self.setup.former().is_empty() {
            true => HashSet::new(),
            false => round(office, &Act::Review)?.over(),
        };
        let next = self.setup.next(config, tls, &over);
        if let Err(failure) = round(office, &Act::Prepare(next.clone())) {
            self.setup.skip_ids_of(&next);
            return Err(failure);
        }
        self.setup = next;
        self.guests = guests;
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

    /// `config` with those guests that somebody is logged in as, and these: with it the others are forgotten.
    fn with_guests(
        &self,
        config: Config,
        office: &PostOffice<Mail>,
    ) -> Result<(Config, Guests), Failure> {
        let mut guests = self.guests.clone();
        if guests.iter().next().is_none() {
            return Ok((config, guests));
        }
        let mut in_use = round(office, &Act::Census)?.in_use;
        // Who was on the way between cores has arrived.
        in_use.extend(round(office, &Act::Census)?.in_use);
        let in_use: HashSet<(&str, &str)> = self
            .setup
            .pools()
            .filter(|(id, _)| in_use.contains(id))
            .map(|(_, pool)| (pool.user.as_str(), pool.database.as_str()))
            .collect();
        guests.review(&config, |guest| {
            in_use.contains(&(guest.user.as_str(), guest.database.as_str()))
        });
        Ok((config.with_guests(guests.iter()), guests))
    }

    /// A server has accepted this guest: known to every core when this returns.
    pub(super) fn introduce(
        &mut self,
        guest: Guest,
        office: &PostOffice<Mail>,
    ) -> Result<(), Failure> {
        let may_change = self.setup.clients.passthrough.allows_change();
        let before = self.guests.clone();
        let news = self.guests.add(guest.clone(), may_change);
        if !news.map_err(Failure::Unwelcome)? {
            return Ok(());
        }
        let (user, database) = (&guest.user, &guest.database);
        tracing::info!(%user, %database, "a server has accepted a user who has no password here");
        let next = self.setup.with_guest(&guest);
        if let Err(failure) = round(office, &Act::Prepare(next.clone())) {
            self.setup.skip_ids_of(&next);
            self.guests = before;
            return Err(failure);
        }
        self.setup = next;
        round(office, &Act::Adopt(self.setup.clone())).map(drop)
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

/// What all cores have done together.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Sessions that were ended.
    pub(super) sessions: usize,
    /// Pools with clients.
    in_use: HashSet<PoolId>,
    /// What all cores together have left of former pools; `None` while there are connections.
    former: HashMap<PoolId, Option<isize>>,
}

impl Outcome {
    /// Former pools without connections, of which nothing is in the mail.
    fn over(&self) -> HashSet<PoolId> {
        let over = self.former.iter().filter(|(_, left)| **left == Some(0));
        over.map(|(id, _)| *id).collect()
    }
}

/// Has every core do something, and waits until all have. Errors: cores that have not done it in time.
pub(super) fn round(office: &PostOffice<Mail>, act: &Act) -> Result<Outcome, Failure> {
    let (done, answers) = mpsc::channel();
    let deadline = now() + ROUND_TIMEOUT;
    let mut silent: Vec<usize> = (0..office.cores()).collect();
    for core in &silent {
        let (act, done) = (act.clone(), done.clone());
        // Who has not got it does not answer.
        let _ = post(office, *core, Mail::Act { act, done }, deadline);
    }
    drop(done);
    let mut outcome = Outcome::default();
    while !silent.is_empty() {
        let left = deadline.saturating_duration_since(now());
        let Ok(Done {
            core,
            count,
            in_use,
            former,
        }) = answers.recv_timeout(left)
        else {
            return Err(Failure::Silent(silent));
        };
        silent.retain(|other| *other != core);
        outcome.sessions += count;
        outcome.in_use.extend(in_use);
        for (id, left) in former {
            let sum = outcome.former.entry(id).or_insert(Some(0));
            *sum = sum.zip(left).map(|(sum, left)| sum + left);
        }
    }
    Ok(outcome)
}

/// Posts an order, for as long as a round may take. False: the core has not emptied its box.
pub(super) fn order(office: &PostOffice<Mail>, core: usize, mail: Mail) -> bool {
    post(office, core, mail, now() + ROUND_TIMEOUT)
}

/// Posts mail that must arrive. False: the core does not empty its box in time.
fn post(office: &PostOffice<Mail>, core: usize, mut mail: Mail, deadline: Instant) -> bool {
    while let Err(back) = office.send(core, mail) {
        if now() >= deadline {
            return false;
        }
        mail = back;
        pause(FULL_BOX_PAUSE);
    }
    true
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
