//! Which connections this core accepts, and which of its clients go to other cores, as [`spread`](crate::spread) says.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc::TrySendError;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use cores::{BoundSocket, Listener};

use crate::snapshot::Activity;
use crate::spread::{self, Load, Spread};

use super::core_state::{CoreState, Phase};
use super::link::{remember, Link};
use super::mail::{Event, Mail};
use super::server::connect::tcp_options;
use super::start_session;

/// How often cores look at what they have to do.
const LOOK: Duration = Duration::from_secs(1);
/// The first core hears of another one's work when that has changed by this much, in permille.
const NEWS_PERMILLE: usize = 20;
/// Clients that are sent away at a look.
const SENT_AWAY_MAX: usize = 512;
/// Pause after accept failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How cores share clients, as one of them sees it.
pub(super) struct Doors {
    /// How many serve clients.
    active: Cell<usize>,
    /// How often other cores have left sockets.
    knocks: Cell<u64>,
    /// Of the tasks that serve sockets.
    wakers: Box<[Cell<Option<Waker>>]>,
    /// On the first core: what it decides by.
    spread: RefCell<Spread>,
    busy: Box<[Cell<usize>]>,
    published_busy: Cell<usize>,
    looked: Cell<Option<Looked>>,
    /// Clients were told to go at the last look.
    told: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Looked {
    at: Instant,
    cpu: Duration,
}

impl Doors {
    pub(super) fn new(cores: usize, sockets: usize) -> Self {
        let spread = Spread::new(cores);
        Self {
            active: Cell::new(spread.active()),
            knocks: Cell::new(0),
            wakers: (0..sockets).map(|_| Cell::default()).collect(),
            spread: RefCell::new(spread),
            busy: (0..cores).map(|_| Cell::default()).collect(),
            published_busy: Cell::new(0),
            looked: Cell::new(None),
            told: Cell::new(false),
        }
    }

    /// How many serve clients.
    pub(super) fn active(&self) -> usize {
        self.active.get()
    }

    /// Another core has so much to do.
    pub(super) fn heard_busy(&self, core: usize, permille: usize) {
        if let Some(busy) = self.busy.get(core) {
            busy.set(permille);
        }
    }

    /// So many cores serve clients from now on.
    pub(super) fn turn_to(&self, active: usize) {
        if self.active.replace(active) != active {
            self.wake();
        }
    }

    /// Another core has left a socket: a connection may wait there that nobody was woken for.
    pub(super) fn knocked(&self) {
        self.knocks.set(self.knocks.get() + 1);
        self.wake();
    }

    /// It may be others that serve a socket now.
    pub(super) fn wake(&self) {
        for waker in &self.wakers {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }
}

/// Begins to listen. The control thread hears of it if all goes well.
pub(super) fn open(state: &Rc<CoreState>, sockets: &Arc<[BoundSocket]>) {
    for socket in 0..sockets.len() {
        let door = Door {
            state: Rc::clone(state),
            sockets: Arc::clone(sockets),
            socket,
        };
        let listener = match door.is_ours().then(|| door.listen()).transpose() {
            Ok(listener) => listener,
            Err(error) => {
                let core = state.core.index();
                return tracing::error!(core, "cannot listen: {error}");
            }
        };
        state.core.spawn(async move { door.keep(listener).await });
    }
    let context = Rc::clone(state);
    state.core.spawn(async move {
        while let Err(TrySendError::Full(_)) = context.events.try_send(Event::Listening) {
            context.core.sleep(Duration::from_millis(2)).await;
        }
    });
}

/// A socket as this core serves it, or leaves it to another one.
struct Door {
    state: Rc<CoreState>,
    sockets: Arc<[BoundSocket]>,
    socket: usize,
}

impl Door {
    fn is_ours(&self) -> bool {
        let (here, sockets) = (self.state.core.index(), self.sockets.len());
        match self.state.phase.get() {
            Phase::Serving => {
                spread::serves(here, self.socket, sockets, self.state.doors.active.get())
            }
            // Its own, whoever is active: the others may end before it.
            Phase::Draining => here % sockets == self.socket,
        }
    }

    /// Tells those who serve it, or are about to end and so serve it again, that this core does not.
    fn knock(&self) {
        let (sockets, active) = (self.sockets.len(), self.state.doors.active.get());
        let serves = |core: &usize| {
            spread::serves(*core, self.socket, sockets, active) || core % sockets == self.socket
        };
        for other in self.state.others().filter(serves) {
            self.state.postbag.post(other, Mail::Knock);
        }
    }

    fn listen(&self) -> io::Result<Listener> {
        Listener::new(&self.state.core, self.sockets[self.socket].share()?)
    }

    /// Serves it whenever it is this core's to serve, for as long as the core runs.
    async fn keep(&self, mut listener: Option<Listener>) {
        loop {
            if let Some(listener) = listener.take() {
                self.accept(&listener).await;
                while let Some(fd) = listener.leave().await {
                    welcome(&self.state, fd);
                }
                if !self.is_ours() {
                    self.knock();
                }
            }
            poll_fn(|cx| match self.is_ours() {
                true => Poll::Ready(()),
                false => {
                    self.hear_of_changes(cx);
                    Poll::Pending
                }
            })
            .await;
            match self.listen() {
                Ok(opened) => listener = Some(opened),
                Err(error) => {
                    tracing::error!("cannot listen: {error}");
                    self.state.core.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Accepts until another core is to do so, or has left the socket: who listens anew is given what waits there.
    async fn accept(&self, listener: &Listener) {
        let state = &self.state;
        let knocks = state.doors.knocks.get();
        let mut options = (state.generation(), tcp_options(&state.config().tcp));
        loop {
            let accepted =
                poll_fn(
                    |cx| match self.is_ours() && state.doors.knocks.get() == knocks {
                        true => {
                            self.hear_of_changes(cx);
                            listener.poll_accept(cx).map(Some)
                        }
                        false => Poll::Ready(None),
                    },
                );
            match accepted.await {
                None => return,
                Some(Ok(fd)) => {
                    if options.0 != state.generation() {
                        options = (state.generation(), tcp_options(&state.config().tcp));
                    }
                    if let Err(error) = options.1.apply(cores::SockRef::from(&fd)) {
                        tracing::debug!("cannot set socket options: {error}");
                    }
                    welcome(state, fd);
                }
                Some(Err(error)) => {
                    tracing::error!("cannot accept: {error}");
                    state.core.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn hear_of_changes(&self, cx: &Context<'_>) {
        remember(&self.state.doors.wakers[self.socket], cx);
    }
}

/// A fresh connection stays here, or goes to a less loaded core before its first byte is read.
fn welcome(state: &Rc<CoreState>, fd: OwnedFd) {
    if state.phase.get() != Phase::Serving {
        return start_session(state, fd); // other cores may be gone
    }
    note_load(state);
    let here = state.core.index();
    let active = state.doors.active.get();
    if spread::surplus(here, &state.loads, active) > 0 {
        if let Some(other) = spread::destination(here, &state.loads, active, state.random()) {
            match state.send(other, Mail::Client(fd)) {
                Err(Mail::Client(fd)) => return start_session(state, fd),
                _ => return count_there(state, other),
            }
        }
    }
    start_session(state, fd);
}

/// A client keeps its server, and so its core, for as long as it stays: it goes to a core with fewer clients at once, whether or not
/// that serves others.
pub(super) fn settle_for_good(link: &Link, state: &CoreState) {
    if state.phase.get() != Phase::Serving {
        return;
    }
    note_load(state);
    let (here, cores) = (state.core.index(), state.core.count());
    if spread::surplus(here, &state.loads, cores) > 0 {
        if let Some(core) = spread::destination(here, &state.loads, cores, state.random()) {
            link.send_to(core);
        }
    }
}

/// One client more is on its way to another core, whose news are older.
pub(super) fn count_there(state: &CoreState, core: usize) {
    if let Some(load) = state.loads.get(core) {
        load.set(load.get() + 1);
    }
}

/// Counts this core's clients; the first core looks whether others are to serve some.
fn note_load(state: &CoreState) {
    let here = state.core.index();
    if let Some(load) = state.loads.get(here) {
        load.set(state.load());
    }
    if here == 0 {
        let clients = state.loads.iter().map(Cell::get).sum();
        let mut spread = state.doors.spread.borrow_mut();
        spread.count(clients, state.config().clients.per_core);
        tell(state, &spread);
    }
}

/// All cores hear how many serve clients, if that has changed.
fn tell(state: &CoreState, spread: &Spread) {
    let active = spread.active();
    if active == state.doors.active.get() {
        return;
    }
    tracing::debug!(active, "cores that serve clients");
    state.doors.turn_to(active);
    for other in state.others() {
        state.postbag.post(other, Mail::Active(active));
    }
}

/// Looks at what there is to do, if it is time, and sends clients away that others should serve.
pub(super) fn look(state: &Rc<CoreState>) {
    let (doors, now) = (&state.doors, state.core.now());
    let last = doors.looked.get();
    if last.is_some_and(|last| now.saturating_duration_since(last.at) < LOOK) {
        return;
    }
    let cpu = state.core.cpu_time();
    doors.looked.set(Some(Looked { at: now, cpu }));
    let Some(last) = last else {
        return;
    };
    let passed = now.saturating_duration_since(last.at).as_micros().max(1);
    let took = cpu.saturating_sub(last.cpu).as_micros();
    let permille = usize::try_from(took * 1000 / passed).unwrap_or(usize::MAX);
    if state.phase.get() != Phase::Serving {
        return;
    }
    let here = state.core.index();
    if here == 0 {
        doors.heard_busy(here, permille);
        note_load(state);
        let loads = state.loads.iter().zip(&doors.busy);
        let loads: Vec<_> = loads
            .map(|(clients, busy)| Load {
                clients: clients.get(),
                busy: busy.get(),
            })
            .collect();
        let mut spread = doors.spread.borrow_mut();
        spread.look(&loads, state.config().clients.per_core);
        tell(state, &spread);
    } else if permille.abs_diff(doors.published_busy.get()) >= NEWS_PERMILLE {
        let news = Mail::Busy {
            core: here,
            permille,
        };
        // Nobody is woken for this, and a full box does without until the next look.
        if state.leave(0, news).is_ok() {
            doors.published_busy.set(permille);
        }
    }
    send_away(state);
}

/// Has clients go on at other cores if this one should not serve so many, first of all those that can leave at once. Who has not left
/// by the next look is not asked to any more, unless it is asked again.
fn send_away(state: &CoreState) {
    note_load(state);
    let here = state.core.index();
    let active = state.doors.active.get();
    let links = state.links.borrow();
    if state.doors.told.take() {
        links.values().for_each(|link| link.stay());
    }
    let surplus = spread::surplus(here, &state.loads, active);
    if surplus == 0 {
        return;
    }
    // As it will be if all of them can leave.
    let loads = state.loads.clone();
    let is_idle = |link: &&Rc<Link>| link.activity.get() == Activity::Idle;
    let idle = links.values().filter(is_idle);
    let busy = links.values().filter(|link| !is_idle(link));
    let movable = idle.chain(busy).filter(|link| link.may_be_sent());
    for link in movable.take(surplus.min(SENT_AWAY_MAX)) {
        let Some(core) = spread::destination(here, &loads, active, state.random()) else {
            return;
        };
        link.send_to(core);
        state.doors.told.set(true);
        for (core, change) in [(core, 1), (here, -1)] {
            loads[core].set(loads[core].get().saturating_add_signed(change));
        }
    }
}
