//! Background checks of servers: does it answer, what is its role, how far has it come?
//!
//! Each server is checked by one core, on a connection of its own that no pool counts: a pool that has nothing free says
//! nothing about the server (edge case 70). What is found out goes to all cores (`news`). A server is asked again at an
//! interval while that goes well, soon and then less and less often while it does not, at once when a client had
//! trouble with it, and often while nobody knows who is the primary.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::balance::{BanReason, Event, Observation, Schedule, ROLE_QUESTION};
use crate::config::choice::Role;
use crate::config::Pace;
use crate::metrics::{Stat, Timed};
use crate::pool::{ConnectFailure, PoolId};

use super::core_state::CoreState;
use super::news::{self, Checked};
use super::pools::PoolSlot;
use super::reload::{Instance, Place};
use super::server::connect::{self, Purpose};
use super::server::{RunError, Server};

/// Asks nothing, and is answered.
const PING: &str = "";
/// While nobody may be written to, those that might be the next primary are asked this often, if not more often.
const ELECTION_PACE: Duration = Duration::from_millis(250);
/// Logins that one check tries. The next check goes on with those that follow, if there are more.
const LOGINS_MAX: usize = 3;
/// A connection for checks that are further apart is closed in between.
const KEEP_MAX: Duration = Duration::from_secs(10);
/// While a server is not to be checked at all, how often that is looked at again.
const NOTHING_TO_DO: Duration = Duration::from_secs(3600);

/// The servers that this core checks.
#[derive(Default)]
pub(super) struct Probers {
    running: RefCell<HashMap<Arc<Instance>, Rc<Probe>>>,
}

/// The checking of one server.
struct Probe {
    schedule: Cell<Schedule>,
    /// The pool whose login is tried first.
    login: Cell<Option<PoolId>>,
    waker: RefCell<Option<Waker>>,
}

impl Probe {
    fn change(&self, change: impl FnOnce(&mut Schedule)) {
        let mut schedule = self.schedule.get();
        change(&mut schedule);
        self.schedule.set(schedule);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits for `at`, or until the schedule is changed.
    async fn changed_or(&self, state: &CoreState, at: Instant) {
        let before = self.schedule.get();
        let changed = poll_fn(|cx| {
            if self.schedule.get() != before {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        });
        let _ = state.core.timeout_at(Some(at), changed).await;
    }
}

/// What is to be asked of a server, and by whose login.
struct Task {
    /// Pools whose logins may do, in the order in which they are tried; at least one.
    slots: Vec<Rc<PoolSlot>>,
    /// Checks count for bans.
    health: Option<Pace>,
    roles: Option<Pace>,
    timeout: Option<Duration>,
    /// Its role is found out.
    found_out: bool,
    /// A primary is looked for among servers of which it is one.
    election: bool,
}

impl Task {
    /// `None`: it is not in the configuration any more.
    fn of(state: &CoreState, instance: &Instance) -> Option<Self> {
        let pools = state.pools();
        let config = state.config();
        let balancing = &config.balancing;
        let now = state.core.now();
        // One that can log in by itself.
        let knows = |slot: &Rc<PoolSlot>| {
            let login = &slot.config().login;
            !login.passwords.is_empty() || login.keys.is_some()
        };
        let slots = || pools.places(instance).filter_map(|place| place.slot());
        let mut able: Vec<_> = slots().filter(|slot| knows(slot)).map(Rc::clone).collect();
        if able.is_empty() {
            able.push(Rc::clone(slots().next()?));
        }
        let found_out = slots().any(|slot| slot.config().role == Role::Auto);
        let own = |place: &Place| place.cluster.reads_own_writes();
        let roles = balancing.roles(found_out || pools.places(instance).any(own));
        let mut places = pools.places(instance);
        let election = found_out && places.any(|place| place.shard().lacks_primary(now));
        Some(Self {
            slots: able,
            health: balancing.checks,
            roles,
            timeout: match roles {
                Some(_) => balancing.role_timeout,
                None => balancing.check_timeout,
            },
            found_out,
            election,
        })
    }

    /// Begins with the login of this pool.
    fn begin_with(&mut self, login: Option<PoolId>) {
        let first = self.slots.iter().position(|slot| Some(slot.id) == login);
        self.slots.rotate_left(first.unwrap_or_default());
    }

    fn delay(&self) -> Option<Duration> {
        let delays = [self.health, self.roles].into_iter().flatten();
        delays.map(|pace| pace.delay).min()
    }

    /// Evidence of roles holds for the interval, so the next one is asked for before that is over.
    fn interval(&self) -> Option<Duration> {
        let roles = self.roles.map(|pace| pace.interval * 3 / 4);
        let election = self.election.then_some(ELECTION_PACE);
        let health = self.health.map(|pace| pace.interval);
        [roles, health, election].into_iter().flatten().min()
    }

    /// Are roles asked for at `now`? Not before their delay is over.
    fn asks_role(&self, since: Instant, now: Instant) -> bool {
        let delayed = |pace: Pace| now.saturating_duration_since(since) >= pace.delay;
        self.roles.is_some_and(delayed)
    }
}

/// Does this core check the server?
pub(super) fn is_ours(state: &CoreState, instance: &Instance) -> bool {
    let mut hasher = DefaultHasher::new();
    instance.hash(&mut hasher);
    let cores = u64::try_from(state.core.count()).unwrap_or(1);
    usize::try_from(hasher.finish() % cores) == Ok(state.core.index())
}

/// Begins with the servers that this core checks, ends with those that are gone, and has the others look at their
/// schedule again: after a start or a reload.
pub(super) fn adapt(state: &Rc<CoreState>) {
    let pools = state.pools();
    let mut begun = Vec::new();
    let mut running = state.probers.running.borrow_mut();
    running.values().for_each(|probe| {
        // Another interval may be sooner.
        probe.change(|schedule| schedule.reconsider(state.core.now()));
    });
    for instance in pools
        .instances()
        .filter(|instance| is_ours(state, instance))
    {
        if running.contains_key(instance) {
            continue;
        }
        let now = state.core.now();
        let delay = Task::of(state, instance).and_then(|task| task.delay());
        let first = now + delay.unwrap_or_default().min(NOTHING_TO_DO);
        let probe = Rc::new(Probe {
            schedule: Cell::new(Schedule::new(first)),
            login: Cell::default(),
            waker: RefCell::default(),
        });
        running.insert(Arc::clone(instance), Rc::clone(&probe));
        begun.push((Arc::clone(instance), probe));
    }
    drop(running);
    // A task runs as soon as it is spawned, and may end at once.
    for (instance, probe) in begun {
        let context = Rc::clone(state);
        state.core.spawn(async move {
            watch(&context, &instance, &probe).await;
            context.probers.running.borrow_mut().remove(&instance);
        });
    }
}

/// Somebody had trouble with this server: it is checked at once, by the core that does so.
pub(super) fn hurry(state: &CoreState, instance: &Instance) {
    if let Some(probe) = state.probers.running.borrow().get(instance) {
        probe.change(|schedule| schedule.hurry(state.core.now()));
    }
}

/// HEALTHCHECK: has the server of a pool, or all servers, checked now. How many pools that concerns.
pub(super) fn check_now(state: &CoreState, pool: Option<PoolId>) -> usize {
    let pools = state.pools();
    let places = pools.all_places();
    let asked = places.filter(|place| {
        let id = place.slot().map(|slot| slot.id);
        pool.is_none_or(|pool| Some(pool) == id)
    });
    asked.inspect(|place| hurry(state, &place.instance)).count()
}

/// Checks one server for as long as it is in the configuration.
async fn watch(state: &Rc<CoreState>, instance: &Arc<Instance>, probe: &Probe) {
    let began = state.core.now();
    let mut connection = None;
    // Also while clients are waited for: they need to know who is the primary.
    loop {
        let Some(mut task) = Task::of(state, instance) else {
            return; // and the connection is closed
        };
        let now = state.core.now();
        let Some(interval) = task.interval() else {
            connection = None;
            probe.changed_or(state, now + NOTHING_TO_DO).await;
            continue;
        };
        let due = probe.schedule.get().next();
        let election = task.election.then(|| probe.schedule.get().last()).flatten();
        let due = election.map_or(due, |last| due.min(last + ELECTION_PACE));
        if now < due {
            // A primary may be missed meanwhile.
            let look = match task.found_out {
                true => due.min(now + ELECTION_PACE),
                false => due,
            };
            probe.changed_or(state, look).await;
            continue;
        }
        let asks_role = task.asks_role(began, now);
        task.begin_with(probe.login.get());
        let outcome = check(state, &task, probe, &mut connection, asks_role).await;
        if interval > KEEP_MAX {
            if let Some(server) = connection.take() {
                let context = Rc::clone(state);
                state
                    .core
                    .spawn(async move { Box::new(server).close(&context).await });
            }
        }
        let random = u64::from_ne_bytes(state.random());
        // From when it was asked: evidence is as old as the question.
        probe.change(|schedule| match outcome.event {
            Some(Event::Failed(_)) => schedule.failed(state.core.now(), interval, random),
            _ => schedule.passed(now, interval, random),
        });
        news::checked(
            state,
            &Checked {
                instance: Arc::clone(instance),
                at: now,
                event: outcome.event.filter(|_| task.health.is_some()),
                role: asks_role.then_some(outcome.role),
                random,
            },
        );
    }
}

/// What one check has shown.
struct Outcome {
    event: Option<Event>,
    role: Option<Observation>,
}

impl Outcome {
    fn of(event: Event) -> Self {
        Self {
            event: Some(event),
            role: None,
        }
    }

    /// It is there, and has no answer for us: nothing is known.
    const SILENT: Self = Self {
        event: None,
        role: None,
    };
}

async fn check(
    state: &Rc<CoreState>,
    task: &Task,
    probe: &Probe,
    connection: &mut Option<Server>,
    asks_role: bool,
) -> Outcome {
    let began = state.core.now();
    let deadline = task.timeout.and_then(|timeout| began.checked_add(timeout));
    let kept = connection.take();
    let asked = Box::pin(ask(state, task, probe, kept, asks_role));
    let (outcome, kept) = match state.core.timeout_at(deadline, asked).await {
        Some(answered) => answered,
        None => (Outcome::of(Event::Failed(BanReason::CheckTimeout)), None),
    };
    *connection = kept;
    let slot = &task.slots[0];
    slot.registry.counters().count(Stat::Healthchecks);
    let pool = slot.config();
    let whose = vec![
        ("host", pool.address.host.to_string()),
        ("port", pool.address.port.to_string()),
        ("database", pool.database.clone()),
    ];
    let took = state.core.now().saturating_duration_since(began);
    state.tally.timed(Timed::Healthcheck, whose, took);
    outcome
}

/// One question on the connection that there is, or on a new one if that turns out to be gone.
async fn ask(
    state: &Rc<CoreState>,
    task: &Task,
    probe: &Probe,
    kept: Option<Server>,
    asks_role: bool,
) -> (Outcome, Option<Server>) {
    let at = state.core.now();
    if let Some(mut server) = kept {
        if server.take_unprompted().is_ok() {
            match question(&mut server, asks_role, at).await {
                Ok(outcome) => return (outcome, Some(server)),
                Err(RunError::Server(_)) => {
                    return (Outcome::of(Event::Failed(BanReason::Check)), None)
                }
                Err(RunError::Lost(_)) => {}
            }
        }
    }
    let mut server = match log_in(state, task, probe).await {
        Ok(server) => server,
        Err(outcome) => return (outcome, None),
    };
    match question(&mut server, asks_role, at).await {
        Ok(outcome) => (outcome, Some(server)),
        Err(_) => (Outcome::of(Event::Failed(BanReason::Check)), None),
    }
}

/// A connection by the first login that the server accepts: what one user is refused is no news of the server.
async fn log_in(state: &Rc<CoreState>, task: &Task, probe: &Probe) -> Result<Server, Outcome> {
    let mut outcome = Outcome::SILENT;
    for slot in task.slots.iter().take(LOGINS_MAX) {
        match connect::connect(state, slot, Purpose::Check).await {
            Ok(server) => {
                probe.login.set(Some(slot.id));
                return Ok(server);
            }
            Err(failure) => {
                outcome = refused(slot, &failure);
                if !matches!(failure, ConnectFailure::Fatal(_) | ConnectFailure::Full(_)) {
                    return Err(outcome);
                }
            }
        }
    }
    let next = task.slots.get(LOGINS_MAX).or_else(|| task.slots.first());
    probe.login.set(next.map(|slot| slot.id));
    Err(outcome)
}

async fn question(server: &mut Server, asks_role: bool, at: Instant) -> Result<Outcome, RunError> {
    let text = if asks_role { ROLE_QUESTION } else { PING };
    let answer = server.run(text).await?;
    let role = answer.value().filter(|_| asks_role);
    Ok(Outcome {
        event: Some(Event::Passed),
        role: role.and_then(|answer| Observation::parse(at, answer)),
    })
}

fn refused(slot: &PoolSlot, failure: &ConnectFailure) -> Outcome {
    let address = &slot.config().address;
    match failure {
        ConnectFailure::Unreachable(error) => {
            tracing::debug!(%address, "check failed: {error}");
            Outcome::of(Event::Failed(BanReason::Connect))
        }
        // Starting up or shutting down.
        ConnectFailure::Retryable => Outcome::of(Event::Failed(BanReason::Check)),
        // It is there. Whether it lets clients in, they find out.
        ConnectFailure::Full(_) => Outcome::SILENT,
        ConnectFailure::Ours(error) => {
            tracing::warn!(%address, "cannot check: {error}");
            Outcome::SILENT
        }
        ConnectFailure::Fatal(error) => {
            tracing::debug!(%address, "cannot log in for a check: {error}");
            Outcome::SILENT
        }
    }
}
