//! A session as the rest of its core sees it, and what it is told from outside.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use crate::config::choice::PoolerMode;
use crate::metrics::ClientMeter;
use crate::pool::{Lease, WaitError};
use crate::protocol::cancel_key::CancelKey;
use crate::snapshot::{Activity, Names};

use super::core_state::CoreState;
use super::pools::{Conn, PoolSlot};
use super::server::Targets;

/// What a session is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// End at the next transaction boundary.
    Drain,
    /// User or database are gone from the configuration. Told while nothing is going on; others find out.
    Removed,
    /// The administrator ends it, and its server connection.
    Killed,
    /// Another server has become the primary: the one that it has is given up, whatever it would answer.
    Superseded,
    /// The replica that it has does not answer any more: the same.
    Hung,
    /// End now.
    ShutDown,
    IdleTimeout,
    IdleInTransactionTimeout,
    QueryTimeout,
    /// It waits for others, and they for it, on several servers.
    Deadlock,
}

/// One session as the rest of its core sees it.
pub(crate) struct Link {
    pub(crate) key: CancelKey,
    /// The pool that its requests go to.
    pub(crate) slot: RefCell<Rc<PoolSlot>>,
    pub(crate) activity: Cell<Activity>,
    pub(crate) since: Cell<Instant>,
    /// Boxed: most of the time there is none.
    pin: Cell<Option<Box<Pinned>>>,
    notice: Cell<Option<Notice>>,
    waker: Cell<Option<Waker>>,
    /// The core where it should go on, counted from 1.
    bound_for: Cell<Option<NonZeroU16>>,
    /// It goes on there.
    has_left: Cell<bool>,
    /// How often it has changed cores.
    pub(crate) moves: Cell<u32>,
    /// The servers it holds, for cancel requests.
    pub(crate) targets: RefCell<Targets>,
    pub(crate) meter: ClientMeter,
    /// Named statements that it has prepared.
    pub(crate) statements: Cell<u32>,
    /// Who it is; nobody while it is a login that only visits the pool.
    pub(crate) face: OnceCell<Face>,
    /// Boxed: most of the time there is none.
    served: Cell<Option<Box<Served>>>,
}

/// Why a client keeps its server, and since when.
pub(crate) type Pinned = (&'static str, Instant);

/// What a client shows of itself.
pub(crate) struct Face {
    pub(crate) names: Arc<Names>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) application_name: RefCell<Arc<str>>,
}

impl Face {
    pub(crate) fn application_name(&self) -> Arc<str> {
        Arc::clone(&self.application_name.borrow())
    }

    /// The application calls itself so.
    pub(crate) fn rename(&self, name: &[u8]) {
        let name = String::from_utf8_lossy(name);
        let mut known = self.application_name.borrow_mut();
        if **known != *name {
            *known = Arc::from(name);
        }
    }
}

/// A session's entry in its core's list, which goes when the session does.
pub(crate) struct Enrolled {
    link: Rc<Link>,
    state: Rc<CoreState>,
}

impl Deref for Enrolled {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Enrolled {
    pub(super) fn new(link: Rc<Link>, state: &Rc<CoreState>) -> Self {
        Self {
            link,
            state: Rc::clone(state),
        }
    }

    pub(crate) fn link(&self) -> Rc<Link> {
        Rc::clone(&self.link)
    }

    /// The session goes on at core number `to`: its `moves`th move.
    pub(crate) fn leave(self, to: usize, moves: u32) {
        self.link.has_left.set(true);
        let process_id = self.link.key.process_id();
        // Another home hears of it from the core where it arrives.
        if self.state.home_of(process_id) == Some(self.state.core.index()) {
            self.state.away.borrow_mut().insert(process_id, (to, moves));
        }
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        let process_id = self.link.key.process_id();
        self.state.links.borrow_mut().remove(&process_id);
        if !self.link.has_left.get() {
            let moves = self.link.moves.get();
            self.state.note_whereabouts(process_id, None, moves);
        }
    }
}

/// What a waiting client gets.
pub(crate) type Served = Result<Lease<Conn>, WaitError>;

impl Link {
    pub(super) fn new(
        key: CancelKey,
        slot: &Rc<PoolSlot>,
        meter: ClientMeter,
        now: Instant,
    ) -> Self {
        Self {
            key,
            slot: RefCell::new(Rc::clone(slot)),
            activity: Cell::new(Activity::Idle),
            since: Cell::new(now),
            pin: Cell::new(None),
            notice: Cell::new(None),
            waker: Cell::new(None),
            bound_for: Cell::new(None),
            has_left: Cell::new(false),
            moves: Cell::new(0),
            targets: RefCell::default(),
            meter,
            statements: Cell::new(0),
            face: OnceCell::new(),
            served: Cell::new(None),
        }
    }

    /// Tells the session something; a later notice replaces one that it has not seen, but that it is killed.
    pub(crate) fn notify(&self, notice: Notice) {
        if self.notice.get() != Some(Notice::Killed) {
            self.notice.set(Some(notice));
        }
        self.wake();
    }

    /// What the session was told, without forgetting it.
    #[inline]
    pub(crate) fn notice(&self) -> Option<Notice> {
        self.notice.get()
    }

    /// Tells the session that it should go on at core number `core`, when it can.
    pub(crate) fn send_to(&self, core: usize) {
        let number = u16::try_from(core + 1).ok();
        self.bound_for.set(number.and_then(NonZeroU16::new));
        self.wake();
    }

    /// Is it a session that could go on at another core, when it comes to rest?
    pub(crate) fn may_be_sent(&self) -> bool {
        self.face.get().is_some()
            && self.pinned().is_none()
            && self.notice.get().is_none()
            && self.slot.borrow().config().mode != PoolerMode::Session
    }

    /// Where the session should go on, if it is told so.
    #[inline]
    pub(crate) fn bound_for(&self) -> Option<usize> {
        let number = self.bound_for.get()?;
        Some(usize::from(number.get()) - 1)
    }

    /// It cannot go on elsewhere now.
    pub(crate) fn stay(&self) {
        self.bound_for.set(None);
    }

    /// The session has heeded this notice, and goes on.
    pub(crate) fn dismiss(&self, notice: Notice) {
        if self.notice.get() == Some(notice) {
            self.notice.set(None);
        }
    }

    /// The session has another server, or none: what was said of the one that it had is not about it.
    pub(crate) fn forget_server(&self) {
        self.dismiss(Notice::Superseded);
        self.dismiss(Notice::Hung);
    }

    /// Remembers whom to wake.
    #[inline]
    pub(crate) fn listen(&self, cx: &Context<'_>) {
        remember(&self.waker, cx);
    }

    pub(crate) fn serve(&self, served: Served) {
        self.served.set(Some(Box::new(served)));
        self.wake();
    }

    pub(crate) fn take_served(&self) -> Option<Served> {
        self.served.take().map(|served| *served)
    }

    /// Why it keeps its server, and since when.
    #[inline]
    pub(crate) fn pinned(&self) -> Option<Pinned> {
        let pin = self.pin.take();
        let pinned = pin.as_deref().copied();
        self.pin.set(pin);
        pinned
    }

    pub(crate) fn pin(&self, pinned: Option<Pinned>) {
        self.pin.set(pinned.map(Box::new));
    }

    #[inline]
    pub(crate) fn enter(&self, activity: Activity, now: Instant) {
        self.activity.set(activity);
        self.since.set(now);
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
        }
    }
}

/// Keeps whom to wake; the same one as before is not copied.
#[inline]
pub(super) fn remember(place: &Cell<Option<Waker>>, cx: &Context<'_>) {
    let known = place.take();
    let same = known.filter(|waker| waker.will_wake(cx.waker()));
    place.set(Some(same.unwrap_or_else(|| cx.waker().clone())));
}
