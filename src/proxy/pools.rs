//! One core's slices of the pools, and the carrying out of what they decide.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cores::Core;

use crate::balance::{BanReason, Epoch, Event};
use crate::config::{Config, PoolConfig};
use crate::metrics::Stat;
use crate::pool::{
    Action, ClientId, Lease, Limits, Place, Pool, PoolId, PoolMail, PoolStats, WaitError,
};
use crate::protocol::parameters::Parameters;
use crate::session::Stay;
use crate::snapshot::Names;
use crate::sql::settings::Settings;

use super::core_state::CoreState;
use super::mail::Mail;
use super::news;
use super::queue::Queue;
use super::room::Refusals;
use super::server::{connect, Parcel, Registry, Server};
use super::setup::Setup;
use super::welcomes::Welcomes;

/// A server connection as pools hold it.
pub(crate) type Conn = Box<Server>;

/// One core's slice of a pool, with what it needs to connect.
pub(crate) struct PoolSlot {
    pub(crate) id: PoolId,
    /// As its clients are logged in.
    pub(crate) names: Arc<Names>,
    config: RefCell<Arc<PoolConfig>>,
    /// It is no longer in the configuration.
    pub(super) leaves: Cell<bool>,
    /// MAINTENANCE: no transaction begins.
    held: Cell<bool>,
    /// A client has asked what its session's sequences have done: others may.
    pub(super) recalls: Cell<bool>,
    /// Its servers, and what is counted.
    pub(crate) registry: Rc<Registry>,
    slice: RefCell<Pool<Conn>>,
    spare: RefCell<Vec<Action<Conn>>>,
    /// Bans imposed, in the order of [`BanReason::ALL`], as far as this core was the one to say so.
    bans: [Cell<u64>; BanReason::ALL.len()],
    welcomes: RefCell<Welcomes>,
    /// By a server that has too many connections.
    pub(super) refusals: Refusals,
}

impl PoolSlot {
    pub(crate) fn new(id: PoolId, pool: &PoolConfig, setup: &Setup, core: &Core) -> Self {
        let place = Place {
            core: core.index(),
            cores: core.count(),
            offset: usize::try_from(id.0).expect("32 bits fit"),
        };
        let seed = u64::from(id.0) << 32 | core.index() as u64;
        let mut slice = Pool::new(place, limits(pool, setup), seed, core.now());
        if setup.orders.paused.is_on(&pool.user, &pool.database) {
            let mut nothing = Vec::new();
            slice.pause(core.now(), &mut nothing);
            debug_assert!(nothing.is_empty(), "there is nothing in it yet");
        }
        Self {
            id,
            names: Arc::new(Names {
                user: pool.user.clone(),
                database: pool.database.clone(),
            }),
            config: RefCell::new(Arc::new(pool.clone())),
            leaves: Cell::new(false),
            held: Cell::new(setup.orders.maintenance.is_on(&pool.user, &pool.database)),
            recalls: Cell::new(false),
            registry: Rc::default(),
            slice: RefCell::new(slice),
            spare: RefCell::new(Vec::new()),
            bans: Default::default(),
            welcomes: RefCell::default(),
            refusals: Refusals::default(),
        }
    }

    /// Where its servers are and how many there may be, as of now.
    pub(crate) fn config(&self) -> Arc<PoolConfig> {
        Arc::clone(&self.config.borrow())
    }

    /// Do transactions have to wait before they begin?
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.held.get()
    }

    /// Takes over what a reload or an order has changed.
    pub(super) fn reconfigure(
        self: &Rc<Self>,
        state: &Rc<CoreState>,
        pool: &PoolConfig,
        setup: &Setup,
    ) {
        let before = self.config();
        if *before != *pool {
            self.config.replace(Arc::new(pool.clone()));
        }
        let limits = limits(pool, setup);
        let paused = setup
            .orders
            .paused
            .is_on(&self.names.user, &self.names.database);
        let held = setup
            .orders
            .maintenance
            .is_on(&self.names.user, &self.names.database);
        self.held.set(held);
        let revived = self.leaves.take();
        self.decide(state, |slice, now, out| {
            if *slice.limits() != limits {
                slice.resize(limits, now, out);
            }
            if before.login != pool.login {
                slice.try_again(now, out);
            }
            if before.startup != pool.startup {
                // What servers were told when they were opened cannot be told them again.
                slice.reconnect(now, out);
            }
            if revived {
                slice.revive(now, out);
            }
            match paused {
                true => slice.pause(now, out),
                false => slice.resume(now, out),
            }
        });
        if before.startup != pool.startup {
            self.welcomes.borrow_mut().clear();
        }
    }

    /// Lets the slice decide, then carries its decision out.
    #[inline]
    pub(crate) fn decide<T>(
        self: &Rc<Self>,
        state: &Rc<CoreState>,
        decision: impl FnOnce(&mut Pool<Conn>, Instant, &mut Vec<Action<Conn>>) -> T,
    ) -> T {
        state.upkeep.stir();
        let mut actions = self.spare.take();
        let outcome = decision(&mut self.slice.borrow_mut(), state.core.now(), &mut actions);
        if !actions.is_empty() {
            for action in actions.drain(..) {
                self.carry_out(state, action);
            }
        }
        self.spare.replace(actions);
        outcome
    }

    fn carry_out(self: &Rc<Self>, state: &Rc<CoreState>, action: Action<Conn>) {
        match action {
            Action::Connect { generation } => {
                let (slot, context) = (Rc::clone(self), Rc::clone(state));
                state
                    .core
                    .spawn(async move { connect::open(context, slot, generation).await });
            }
            Action::Serve { client, lease, .. } => match state.link(client) {
                Some(link) => link.serve(Ok(lease)),
                None => self.decide(state, |pool, now, out| pool.checkin(lease, now, out)),
            },
            Action::Fail { client, why, .. } => {
                if matches!(why, WaitError::Timeout { .. }) {
                    self.registry.counters().count(Stat::CheckoutTimeouts);
                }
                if let Some(link) = state.link(client) {
                    link.serve(Err(why));
                }
            }
            Action::Close { server, reason } => {
                tracing::debug!(pool = %self.id, ?reason, "closing a server connection");
                let (slot, context) = (Rc::clone(self), Rc::clone(state));
                state.core.spawn(async move {
                    server.close(&context).await;
                    slot.decide(&context, Pool::closed);
                });
            }
            Action::Mail { to, mail } => state.postbag.put(to, self.id, mail),
        }
    }

    /// A checked-out connection is of no further use: closes it, and only then frees its permit.
    fn discard(self: &Rc<Self>, state: &Rc<CoreState>, lease: Lease<Conn>) {
        let (slot, context) = (Rc::clone(self), Rc::clone(state));
        state.core.spawn(async move {
            let (server, lease) = lease.take();
            server.close(&context).await;
            slot.decide(&context, |pool, now, out| pool.discard(&lease, now, out));
        });
    }

    /// Whose reign it is at its server, if that is known.
    pub(crate) fn epoch(&self, state: &CoreState) -> Option<Epoch> {
        let pools = state.pools();
        let place = pools.place(self.id)?;
        let balance = place.shard().balance().borrow();
        balance.roles().epoch_of(place.server, state.core.now())
    }

    /// One more.
    pub(super) fn count_ban(&self, reason: BanReason) {
        let reasons = BanReason::ALL.iter().zip(&self.bans);
        for (_, count) in reasons.filter(|(of, _)| **of == reason) {
            count.set(count.get() + 1);
        }
    }

    /// Bans counted by this core.
    pub(super) fn bans(&self) -> [u64; BanReason::ALL.len()] {
        std::array::from_fn(|reason| self.bans[reason].get())
    }

    /// Connections that its clients wait for, and that are not on their way.
    pub(super) fn lacking(&self) -> usize {
        self.slice.borrow().lacking()
    }

    /// Since when connections have not been used that it can do without: at most so many, the oldest first.
    pub(super) fn spares(&self, most: usize) -> Vec<Instant> {
        self.slice.borrow().spares().take(most).collect()
    }

    /// The first of those. It is closed, and comes back by `discard`.
    pub(super) fn take_spare(&self) -> Option<Lease<Conn>> {
        self.slice.borrow_mut().take_spare()
    }

    /// Connections in use on this core.
    #[inline]
    pub(crate) fn active(&self) -> usize {
        self.slice.borrow().active()
    }

    /// An idle connection, if there is one.
    #[inline]
    pub(crate) fn checkout_idle(self: &Rc<Self>, state: &Rc<CoreState>) -> Option<Held> {
        let lease = self.slice.borrow_mut().checkout_idle()?;
        Some(Held::new(state, self, lease))
    }

    /// The idle connection that a client had last, if nobody has had it since.
    pub(super) fn take_last_of(&self, stay: Stay) -> Option<Lease<Conn>> {
        let mut slice = self.slice.borrow_mut();
        slice.take_idle(|server| server.counters.are_last_of(stay))
    }

    /// Closes idle connections whose server has closed them.
    pub(super) fn bury(self: &Rc<Self>, state: &Rc<CoreState>) {
        // What is given back is not looked at again before it has rested.
        let idle = self.slice.borrow().stats(state.core.now()).idle;
        for _ in 0..idle {
            let heard = self
                .slice
                .borrow_mut()
                .take_idle(|server| server.has_heard());
            let Some(lease) = heard else { return };
            let mut held = Held::new(state, self, lease);
            if held.take_unprompted().is_ok() {
                held.check_in();
            }
        }
    }

    /// When the slice wants its next tick.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.slice.borrow().next_deadline()
    }

    /// The slice in numbers.
    pub(crate) fn stats(&self, now: Instant) -> PoolStats {
        self.slice.borrow().stats(now)
    }

    /// Has it left the configuration, and are its connections closed?
    pub(super) fn is_gone(&self) -> bool {
        self.leaves.get() && self.is_drained()
    }

    /// What it has to say when it has left the configuration.
    pub(crate) fn leftover(&self) -> Option<isize> {
        self.slice.borrow().leftover()
    }

    /// Has every connection of a drained slice been closed?
    pub(crate) fn is_drained(&self) -> bool {
        self.slice.borrow().is_drained()
    }

    /// What is known to be reported for these settings.
    pub(crate) fn reported(&self, settings: &Settings) -> Option<Rc<Parameters>> {
        self.welcomes.borrow().reported(settings)
    }

    /// The same, as a client is told.
    pub(crate) fn welcome(&self, settings: &Settings) -> Option<Rc<[u8]>> {
        self.welcomes.borrow().messages(settings)
    }

    /// Remembers what is reported for these settings; as a client is told.
    pub(crate) fn remember(&self, settings: &Arc<Settings>, reported: &Rc<Parameters>) -> Rc<[u8]> {
        self.welcomes.borrow_mut().remember(settings, reported)
    }
}

/// A checked-out server. Dropped on any other way than [`Held::check_in`] it is closed, and its permit freed after
/// that: a session that panics or a login that is given up loses none.
pub(crate) struct Held {
    lease: Option<Lease<Conn>>,
    state: Rc<CoreState>,
    slot: Rc<PoolSlot>,
    /// The shard of which this is the primary, if it has to say where it is when it is given back.
    pub(crate) asks_mark: Option<usize>,
}

impl Held {
    /// The pool that it is of.
    pub(crate) fn pool(&self) -> PoolId {
        self.slot.id
    }

    pub(crate) fn new(state: &Rc<CoreState>, slot: &Rc<PoolSlot>, lease: Lease<Conn>) -> Self {
        Self {
            lease: Some(lease),
            state: Rc::clone(state),
            slot: Rc::clone(slot),
            asks_mark: None,
        }
    }

    /// Gives it back, fit for the next client.
    pub(crate) fn check_in(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.server.rest();
            self.slot.decide(&self.state, |pool, now, out| {
                pool.checkin(lease, now, out);
            });
        }
    }
}

impl Deref for Held {
    type Target = Server;

    fn deref(&self) -> &Server {
        let lease = self.lease.as_ref();
        &lease
            .expect("only check_in and drop take it, and end it")
            .server
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Server {
        let lease = self.lease.as_mut();
        &mut lease
            .expect("only check_in and drop take it, and end it")
            .server
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            if lease.server.link.meter.is_lost() {
                news::happened(&self.state, self.slot.id, Event::Lost);
            }
            lease.server.link.meter.given_up();
            self.slot.discard(&self.state, lease);
        }
    }
}

fn limits(pool: &PoolConfig, config: &Config) -> Limits {
    let forever = Duration::MAX;
    Limits {
        pool_size: pool.limits.size,
        min_pool_size: pool.limits.size_min,
        checkout_timeout: pool.limits.checkout_timeout.unwrap_or(forever),
        connect_attempts: u32::try_from(config.servers.connect_attempts).unwrap_or(u32::MAX),
        connect_attempt_delay: config.servers.connect_attempt_delay,
        idle_timeout: pool.limits.idle_timeout.unwrap_or(forever),
        server_lifetime: pool.limits.lifetime.unwrap_or(forever),
        server_lifetime_jitter: pool.limits.lifetime_jitter,
    }
}

impl CoreState {
    fn link(&self, client: ClientId) -> Option<Rc<super::link::Link>> {
        let process_id = i32::try_from(client.0).ok()?;
        self.links.borrow().get(&process_id).cloned()
    }
}

/// A fresh server's own parameters: known here from now on, and on all cores if they are news.
pub(crate) fn learned(state: &CoreState, slot: &PoolSlot, reported: &Rc<Parameters>) {
    let shown = shown(state, slot, reported);
    let reported = shown.as_ref().unwrap_or(reported);
    if !slot.welcomes.borrow_mut().learn(reported) {
        return;
    }
    let here = state.core.index();
    for other in (0..state.office.cores()).filter(|other| *other != here) {
        // A core that does not hear of it learns by itself.
        let _ = state.send(
            other,
            Mail::Welcome {
                pool: slot.id,
                reported: (**reported).clone(),
            },
        );
    }
}

/// A client of several servers has to do with their primary, too: it is not told that it is on a standby, which some
/// libraries leave for that. `None`: nothing to hide.
fn shown(state: &CoreState, slot: &PoolSlot, reported: &Parameters) -> Option<Rc<Parameters>> {
    let pools = state.pools();
    let place = pools.place(slot.id)?;
    if !place.cluster.is_split() || reported.get("in_hot_standby") != Some(b"on") {
        return None;
    }
    let mut shown = reported.clone();
    shown.set("in_hot_standby", "off");
    Some(Rc::new(shown))
}

/// Another core has learned what this pool's servers report.
pub(crate) fn heard(state: &CoreState, pool: PoolId, reported: Parameters) {
    if let Some(slot) = state.pool(pool) {
        slot.welcomes.borrow_mut().learn(&Rc::new(reported));
    }
}

/// Mail on its way out that must not be lost. One task carries it, in order: connections have to leave this core's ring
/// first, and a full box makes it wait.
#[derive(Default)]
pub(crate) struct Postbag(Queue<(usize, Letter)>);

enum Letter {
    Pool(PoolId, PoolMail<Conn>),
    Ready(Mail),
}

/// Pause before a full mailbox is tried again.
const FULL_BOX_PAUSE: Duration = Duration::from_millis(1);

impl Postbag {
    fn put(&self, to: usize, pool: PoolId, mail: PoolMail<Conn>) {
        self.0.push((to, Letter::Pool(pool, mail)));
    }

    /// For another core, behind what was posted before. Senders bound how much of theirs is under way.
    pub(crate) fn post(&self, to: usize, mail: Mail) {
        self.0.push((to, Letter::Ready(mail)));
    }
}

/// Carries this core's mail, for as long as the core runs.
pub(crate) async fn carry_mail(state: Rc<CoreState>) {
    loop {
        let (to, letter) = state.postbag.0.next().await;
        let mut mail = match letter {
            Letter::Ready(mail) => mail,
            Letter::Pool(pool, mail) => {
                let (mut mail, lease) = mail.unload();
                if let Some((server, rest)) = lease.map(Lease::take) {
                    // If it breaks on the way, at least its permit arrives.
                    if let Ok(parcel) = server.pack().await {
                        mail.load(rest.with(Box::new(parcel)));
                    }
                }
                Mail::Pool { pool, mail }
            }
        };
        while let Err(back) = state.send(to, mail) {
            mail = back;
            state.core.sleep(FULL_BOX_PAUSE).await;
        }
    }
}

/// Takes pool mail in.
pub(crate) fn receive(state: &Rc<CoreState>, pool: PoolId, mail: PoolMail<Box<Parcel>>) {
    let (mut mail, lease) = mail.unload();
    let slot = state.pool(pool);
    if let Some((parcel, rest)) = lease.map(Lease::take) {
        let registry = slot.as_ref().map(|slot| Rc::clone(&slot.registry));
        let server = Server::unpack(&state.core, &registry.unwrap_or_default(), *parcel);
        let server = Box::new(server);
        if slot.is_none() {
            // The pool is gone, and this one was on its way between two cores.
            let context = Rc::clone(state);
            return state
                .core
                .spawn(async move { server.close(&context).await });
        }
        server.rest();
        mail.load(rest.with(server));
    }
    let Some(slot) = slot else { return };
    slot.decide(state, |pool, now, out| pool.receive(mail, now, out));
}
