//! Server connections of one (user, database, server), shared by all cores: who gets which, and when.
//!
//! Each core owns one [`Pool`], its slice. Together the slices hold exactly `pool_size` **permits**. A permit is
//! free or bound to one server connection, from the moment the connection is begun until its socket is closed;
//! so the server never sees more than `pool_size` of them. Permits, and idle connections with them, move between
//! cores by mail ([`PoolMail`]): `slice` says how a core without any gets one, `drift` how the others are evened
//! out.
//!
//! ```text
//!                Action::Connect          connected           checkout, Action::Serve
//!  free permit ───────────────► connecting ────────► idle ◄──────────────────────────► checked out
//!      ▲  ▲                         │                 │ │          checkin                   │
//!      │  └──────connect_failed─────┘    Action::Close│ └───Action::Mail──► other core       │
//!      ├────────────── closed ◄───────── closing ◄────┘                                      │
//!      └───────────────────────────────── discard ◄──────────────────────────────────────────┘
//! ```
//!
//! The pool decides and does nothing: what is to be done comes out as [`Action`]s. The connection `C` is opaque,
//! and travels inside a [`Lease`] that remembers its age.

mod drift;
mod limits;
mod mail;
mod slice;
mod waiters;

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use crate::error::Error;

pub use self::limits::Limits;
pub use self::mail::{Ask, Gift, PoolMail};
pub use self::slice::{Place, ORDER_SLACK};
pub use self::waiters::Ticket;

use self::drift::Promise;
use self::limits::{Jitter, Pace};
use self::slice::{Home, Told};
use self::waiters::Waiters;

/// A pool's number, the same on all cores and of no other pool of this process, be it gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u32);

impl std::fmt::Display for PoolId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A client of this core, as its owner names it. The pool only hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientId(pub u64);

/// One core's slice of a pool.
#[derive(Debug)]
pub struct Pool<C> {
    /// Connections at rest, the least recently used one in front, the next one to be used at the back.
    idle: VecDeque<Rest<C>>,
    /// Checked out.
    active: usize,
    /// Generations of those that are not of this one, as many times as there are connections.
    strangers: Vec<u32>,
    waiters: Waiters,
    /// Whom a connection goes to if its clients wait for longer than ours: on the home the oldest ask, elsewhere
    /// the home.
    rival: Option<(Instant, usize)>,
    promise: Option<Promise>,
    /// Permits to be given up because the pool shrank; while there are any, no permit is free.
    debt: usize,
    /// Mails of ours that are on their way round to find debts, see [`PoolMail::Growth`].
    growing: usize,
    state: State,
    /// Connections of an older one are closed instead of being used again. The same on all cores, as all of them
    /// are told of every RECONNECT.
    generation: u32,
    /// Connections born then or earlier have reached `server_lifetime`; kept up by `tick`.
    retired: Option<Instant>,
    limits: Limits,

    /// Permits bound to nothing.
    free: usize,
    /// Connections being opened.
    connecting: usize,
    /// Connections being closed.
    closing: usize,
    /// On the home only.
    home: Option<Box<Home>>,
    told: Told,
    /// Of the last ask.
    serial: u32,
    /// Connections that this slice keeps open; negative for a moment when the minimum shrank.
    duty: isize,
    /// Time spent waiting counts from here at the earliest.
    resumed: Instant,
    pace: Pace,
    connected: Option<Instant>,
    failed: Option<Instant>,
    jitter: Jitter,
    next_sweep: Instant,
    next_nudge: Instant,
    /// How long the longest waiting client has been waiting, as an average of the last moments; and when it was
    /// last looked at.
    usual_wait: Duration,
    sampled: Instant,
    /// Permits given to other cores so far.
    given: u64,
    place: Place,
}

/// What a checkout is answered.
#[derive(Debug)]
#[must_use]
pub enum Checkout<C> {
    /// Here it is.
    Ready(Lease<C>),
    /// `Action::Serve` or `Action::Fail` with this ticket will follow, unless the client cancels.
    Wait(Ticket),
    /// The pool was drained: there is another one, or the database is gone.
    Closed,
}

/// What the owner of the pool has to do, in this order.
#[derive(Debug)]
#[must_use]
pub enum Action<C> {
    /// Open one server connection, then call `connected` or `connect_failed`.
    Connect {
        /// To be handed back to `connected`.
        generation: u32,
    },
    /// Give this connection to the waiting client; if it has left meanwhile, check the connection in again.
    Serve {
        /// Who waited.
        client: ClientId,
        /// Its place in the queue, now void.
        ticket: Ticket,
        /// What it gets.
        lease: Lease<C>,
    },
    /// Tell the waiting client that it gets nothing.
    Fail {
        /// Who waited.
        client: ClientId,
        /// Its place in the queue, now void.
        ticket: Ticket,
        /// Why.
        why: WaitError,
    },
    /// Close this connection, then call `closed`: only then may its permit be used again.
    Close {
        /// The connection.
        server: C,
        /// Why.
        reason: CloseReason,
    },
    /// Send this to the same pool on another core. It must arrive, once, and in order.
    Mail {
        /// Index of the other core.
        to: usize,
        /// For its `receive`.
        mail: PoolMail<C>,
    },
}

/// Why a waiting client gets no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// `checkout_timeout` has passed.
    Timeout {
        /// Since the checkout.
        waited: Duration,
    },
    /// The server does not let us in, or is not there.
    Connect(Error),
    /// The pool was drained.
    Closed,
}

/// Why a connection was not opened.
#[derive(Clone, Debug)]
pub enum ConnectFailure {
    /// The server is there and will let us in later: starting up, or shutting down to come back.
    Retryable,
    /// Nobody has asked the server: we lack what that takes, as descriptors.
    Ours(Error),
    /// The server refuses us and will go on refusing: wrong password, no such database.
    Fatal(Error),
    /// The server is there, and has no connection left for us: it will let us in later.
    Full(Crowd),
    /// No server answers there: refused, timed out, name not found, connection lost during the login.
    Unreachable(Error),
}

impl ConnectFailure {
    /// For people, without what is known anyway.
    pub fn reason(self) -> String {
        match self {
            Self::Retryable => "server is not ready yet".to_owned(),
            Self::Full(_) => "server has no connection left".to_owned(),
            Self::Ours(error) | Self::Fatal(error) | Self::Unreachable(error) => {
                error.detail.unwrap_or_else(|| error.message.to_string())
            }
        }
    }
}

/// Whose connections a server has too many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowd {
    /// All of them: `max_connections`.
    Server,
    /// Those to this database.
    Database,
    /// Those of this user.
    User,
}

/// Why a connection is closed by the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// `idle_timeout`.
    Idle,
    /// `server_lifetime`.
    Lifetime,
    /// The pool became smaller.
    Shrunk,
    /// RECONNECT.
    Reconnect,
    /// PAUSE.
    Paused,
    /// The pool is being drained.
    Drained,
}

/// A server connection in the hands of a client. It goes back by `checkin`, or is closed and reported by `discard`;
/// dropping it silently would lose its permit.
#[derive(Debug)]
#[must_use]
pub struct Lease<C> {
    /// The connection.
    pub server: C,
    /// When it was opened, shifted by its share of `server_lifetime_jitter`.
    born: Instant,
    generation: u32,
}

impl<C> Lease<C> {
    fn new(server: C, born: Instant, generation: u32) -> Self {
        Self {
            server,
            born,
            generation,
        }
    }
}

impl<C> Lease<C> {
    /// The connection, and a lease without one, for the way to another core.
    pub fn take(self) -> (C, Lease<()>) {
        (self.server, Lease::new((), self.born, self.generation))
    }
}

impl Lease<()> {
    /// The lease again, with what became of its connection.
    pub fn with<C>(self, server: C) -> Lease<C> {
        Lease::new(server, self.born, self.generation)
    }
}

impl<C> Deref for Lease<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.server
    }
}

impl<C> DerefMut for Lease<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.server
    }
}

/// A slice in numbers. Summed over the cores, `permits` is `pool_size` but for what is in the mail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Held by this core: the sum of the next five.
    pub permits: usize,
    /// Bound to nothing.
    pub free: usize,
    /// Connections being opened.
    pub connecting: usize,
    /// Connections at rest.
    pub idle: usize,
    /// Connections checked out.
    pub active: usize,
    /// Of these, those that will be closed when they come back, because of RECONNECT.
    pub outdated: usize,
    /// Connections being closed.
    pub closing: usize,
    /// Permits to be given up as connections come back, because the pool shrank.
    pub debt: usize,
    /// Clients waiting.
    pub waiting: usize,
    /// How long the longest waiting client has been waiting.
    pub longest_wait: Duration,
    /// Permits, with or without a connection, given to other cores since the start.
    pub given: u64,
    /// Clients of cores without permits are known to wait.
    pub wanted: bool,
    /// PAUSE holds.
    pub paused: bool,
    /// It is on its way out.
    pub drained: bool,
    /// When a connection was last opened here.
    pub connected: Option<Instant>,
    /// When opening one last failed here.
    pub failed: Option<Instant>,
}

impl PoolStats {
    /// Adds another slice of the same pool.
    pub fn add(&mut self, other: &Self) {
        self.permits += other.permits;
        self.free += other.free;
        self.connecting += other.connecting;
        self.idle += other.idle;
        self.active += other.active;
        self.closing += other.closing;
        self.debt += other.debt;
        self.waiting += other.waiting;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
        self.given += other.given;
        self.wanted |= other.wanted;
        self.paused |= other.paused;
        self.drained &= other.drained;
        self.outdated += other.outdated;
        self.connected = self.connected.max(other.connected);
        self.failed = self.failed.max(other.failed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing is idle, nothing is opened, clients wait without a deadline.
    Paused,
    /// As `Paused`, but nobody waits and nobody may.
    Drained,
}

/// A connection at rest.
#[derive(Debug)]
struct Rest<C> {
    lease: Lease<C>,
    since: Instant,
}

impl<C> Pool<C> {
    /// The slice of the core at `place`. `seed` is for jitter only, and best differs from core to core.
    ///
    /// Nothing is opened before the first `tick` or checkout.
    pub fn new(place: Place, limits: Limits, seed: u64, now: Instant) -> Self {
        debug_assert!(place.core < place.cores, "a core outside of the ring");
        let share = limits.share(place);
        Self {
            idle: VecDeque::with_capacity(share.min(64)),
            active: 0,
            strangers: Vec::new(),
            waiters: Waiters::new(),
            rival: None,
            promise: None,
            debt: 0,
            growing: 0,
            state: State::Open,
            generation: 0,
            retired: None,
            free: share,
            connecting: 0,
            closing: 0,
            home: place.is_home().then(|| Box::new(Home::new(place.cores))),
            told: Told::Nothing,
            serial: 0,
            duty: limits.duty(place),
            resumed: now,
            pace: Pace::STEADY,
            connected: None,
            failed: None,
            jitter: Jitter(seed),
            next_sweep: now,
            next_nudge: now,
            usual_wait: Duration::ZERO,
            sampled: now,
            given: 0,
            limits,
            place,
        }
    }

    /// A client wants a connection: the most recently used idle one, or a place in the queue.
    #[inline]
    pub fn checkout(
        &mut self,
        client: ClientId,
        now: Instant,
        out: &mut Vec<Action<C>>,
    ) -> Checkout<C> {
        self.checkout_since(client, now, now, out)
    }

    /// The same for one who has waited elsewhere since then, which counts.
    #[inline]
    pub fn checkout_since(
        &mut self,
        client: ClientId,
        since: Instant,
        now: Instant,
        out: &mut Vec<Action<C>>,
    ) -> Checkout<C> {
        match self.checkout_idle() {
            Some(lease) => Checkout::Ready(lease),
            None => self.queue(client, since, now, out),
        }
    }

    /// The most recently used idle connection, and no place in the queue if there is none.
    #[inline]
    pub fn checkout_idle(&mut self) -> Option<Lease<C>> {
        // While one is idle, nobody waits: see `settle`. While the pool is paused, none is idle.
        let rest = self.idle.pop_back()?;
        self.lend(&rest.lease);
        Some(rest.lease)
    }

    /// A connection comes back fit for reuse: at rest, nothing owed, nothing buffered.
    #[inline]
    pub fn checkin(&mut self, lease: Lease<C>, now: Instant, out: &mut Vec<Action<C>>) {
        self.take_back(lease.generation);
        if self.nobody_waits() && self.unfit(&lease).is_none() {
            self.idle.push_back(Rest { lease, since: now });
        } else {
            self.rest(lease, now, out);
            self.settle(now, out);
        }
    }

    /// A checked-out connection is closed, or broken and dropped: its permit is free at once.
    pub fn discard(&mut self, lease: &Lease<()>, now: Instant, out: &mut Vec<Action<C>>) {
        self.take_back(lease.generation);
        self.free += 1;
        self.settle(now, out);
    }

    /// The connection of an `Action::Close` is closed: its permit is free.
    pub fn closed(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        debug_assert!(self.closing > 0, "nothing is being closed");
        self.closing -= 1;
        self.free += 1;
        self.settle(now, out);
    }

    /// A waiting client leaves. False if it waits no more, because an action with its ticket is on its way.
    pub fn cancel(&mut self, ticket: Ticket, now: Instant, out: &mut Vec<Action<C>>) -> bool {
        let waited = self.waiters.remove(ticket).is_some();
        if waited {
            // A permit may have been kept for it.
            self.settle(now, out);
        }
        waited
    }

    /// Checks out the least recently used idle connection that `wanted` accepts, for a health check or because its
    /// socket was closed by the server. It comes back by `checkin` or `discard`.
    pub fn take_idle(&mut self, mut wanted: impl FnMut(&C) -> bool) -> Option<Lease<C>> {
        let at = self
            .idle
            .iter()
            .position(|rest| wanted(&rest.lease.server))?;
        let rest = self.idle.remove(at)?;
        self.lend(&rest.lease);
        Some(rest.lease)
    }

    /// New limits from a reload. All slices are told, and each adds or gives up its part of the difference; permits
    /// bound to connections are given up as these come back.
    ///
    /// The sum never exceeds the larger of the two sizes; nor, if it is larger, what it is at that moment because the
    /// pool still has to shrink (`debt` in [`PoolStats`]): what grows pays debts first, wherever they are. This holds
    /// if all slices have been told of one resize before any is told of the next.
    pub fn resize(&mut self, limits: Limits, now: Instant, out: &mut Vec<Action<C>>) {
        let (before, after) = (self.limits.share(self.place), limits.share(self.place));
        self.duty += limits.duty(self.place) - self.limits.duty(self.place);
        self.debt += before.saturating_sub(after);
        self.limits = limits;
        self.grow(after.saturating_sub(before), out);
        self.settle(now, out);
    }

    /// PAUSE: idle connections are closed, the others at check-in. Clients wait, and the time does not count.
    /// It is complete when no slice has connections any more.
    pub fn pause(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        if self.state == State::Open {
            self.state = State::Paused;
            self.close_idle(CloseReason::Paused, out);
            self.settle(now, out);
        }
    }

    /// RESUME.
    pub fn resume(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        if self.state == State::Paused {
            self.state = State::Open;
            self.resumed = now;
            self.settle(now, out);
        }
    }

    /// RECONNECT: idle connections are closed, the others at check-in, and new ones take their place.
    pub fn reconnect(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        let of_this_one = self.active - self.strangers.len();
        self.strangers
            .extend(std::iter::repeat_n(self.generation, of_this_one));
        self.generation = self.generation.wrapping_add(1);
        let current = self.generation;
        self.strangers.retain(|generation| *generation != current);
        for _ in 0..self.idle.len() {
            let rest = self.idle.pop_front().expect("counted above");
            if older(rest.lease.generation, current) {
                self.close(rest.lease, CloseReason::Reconnect, out);
            } else {
                self.idle.push_back(rest);
            }
        }
        self.settle(now, out);
    }

    /// The pool is no longer part of the configuration: who waits fails with `WaitError::Closed`, idle connections
    /// are closed, the others at check-in. Mail must still be received until it is over on all cores, see `leftover`.
    pub fn drain(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        self.state = State::Drained;
        self.fail_waiters(&WaitError::Closed, out);
        self.close_idle(CloseReason::Drained, out);
        self.settle(now, out);
    }

    /// A drained pool is part of the configuration again, on all cores. What is still to be closed counts against its
    /// size, wherever it is.
    pub fn revive(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        if self.state == State::Drained {
            self.state = State::Open;
            self.resumed = now;
            self.pace = Pace::STEADY;
            self.settle(now, out);
        }
    }

    /// Permits that a drained slice without connections has beyond its share, or, if negative, lacks. When no slice has
    /// connections and this adds up to nothing, none is in the mail either: the pool is over.
    pub fn leftover(&self) -> Option<isize> {
        let share = self.limits.share(self.place);
        self.is_drained()
            .then(|| signed(self.permits()) - signed(self.debt) - signed(share))
    }

    /// True once a drained slice has no connection any more.
    pub fn is_drained(&self) -> bool {
        self.state == State::Drained && self.servers() + self.closing == 0
    }

    /// Connections checked out.
    #[inline]
    pub fn active(&self) -> usize {
        self.active
    }

    /// The slice in numbers.
    pub fn stats(&self, now: Instant) -> PoolStats {
        PoolStats {
            permits: self.permits(),
            free: self.free,
            connecting: self.connecting,
            idle: self.idle.len(),
            active: self.active,
            outdated: {
                let outdated = |generation: &&u32| older(**generation, self.generation);
                self.strangers.iter().filter(outdated).count()
            },
            closing: self.closing,
            debt: self.debt,
            waiting: self.waiters.len(),
            longest_wait: self
                .waiters
                .oldest()
                .map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
            wanted: self.rival.is_some(),
            given: self.given,
            paused: self.state == State::Paused,
            drained: self.state == State::Drained,
            connected: self.connected,
            failed: self.failed,
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A connection goes to a client.
    #[inline]
    fn lend(&mut self, lease: &Lease<C>) {
        self.active += 1;
        if lease.generation != self.generation {
            self.strangers.push(lease.generation);
        }
    }

    /// A connection of this generation comes back.
    #[inline]
    fn take_back(&mut self, generation: u32) {
        debug_assert!(self.active > 0, "nothing is checked out");
        self.active -= 1;
        if generation != self.generation {
            let at = self.strangers.iter().position(|other| *other == generation);
            let at = at.expect(
                "whoever is of another generation was listed when it was lent, or at RECONNECT",
            );
            self.strangers.swap_remove(at);
        }
    }

    #[cold]
    fn queue(
        &mut self,
        client: ClientId,
        since: Instant,
        now: Instant,
        out: &mut Vec<Action<C>>,
    ) -> Checkout<C> {
        if self.state == State::Drained {
            return Checkout::Closed;
        }
        let ticket = self.waiters.push(client, since);
        self.settle(now, out);
        Checkout::Wait(ticket)
    }

    /// Permits held, free or bound.
    fn permits(&self) -> usize {
        self.free + self.servers() + self.closing
    }

    /// Connections that exist or are about to.
    fn servers(&self) -> usize {
        self.connecting + self.idle.len() + self.active
    }

    /// True when a connection that comes back simply rests.
    fn nobody_waits(&self) -> bool {
        self.waiters.is_empty()
            && self.rival.is_none()
            && self.promise.is_none()
            && self.debt == 0
            && self.state == State::Open
    }

    /// Why this connection may not be used again.
    fn unfit(&self, lease: &Lease<C>) -> Option<CloseReason> {
        match self.state {
            State::Paused => Some(CloseReason::Paused),
            State::Drained => Some(CloseReason::Drained),
            State::Open if older(lease.generation, self.generation) => Some(CloseReason::Reconnect),
            State::Open if self.expired(lease.born) => Some(CloseReason::Lifetime),
            State::Open => None,
        }
    }

    fn close(&mut self, lease: Lease<C>, reason: CloseReason, out: &mut Vec<Action<C>>) {
        self.closing += 1;
        out.push(Action::Close {
            server: lease.server,
            reason,
        });
    }

    fn close_idle(&mut self, reason: CloseReason, out: &mut Vec<Action<C>>) {
        while let Some(rest) = self.idle.pop_front() {
            self.close(rest.lease, reason, out);
        }
    }
}

/// A count of connections as a number that may be compared with a debt.
fn signed(count: usize) -> isize {
    isize::try_from(count).expect("far fewer connections than addresses")
}

/// Is generation `a` before `b`? One that another core has reached before us is not.
fn older(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < u32::MAX / 2
}

#[cfg(test)]
mod tests;
