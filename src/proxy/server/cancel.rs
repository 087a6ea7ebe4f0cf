//! CancelRequest to the server that works for a client, fenced so that it never hits another one.
//!
//! A request is only sent while its client holds the server. It may arrive late all the same; so a server with
//! requests under way is not lent again before each was answered (the server closes that connection after it has
//! sent the signal) and a statement of ours has gone through: see `reset`. If the answer to one was not awaited to its
//! end, that one may still arrive at any time: the server is lent to nobody else.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use cores::TcpOptions;

use crate::protocol::startup::CancelRequest;

use super::super::core_state::CoreState;
use super::super::mail::Mail;

/// How long one cancel request may take. The request is answered long before, or the server is in trouble.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests of its client that a server is sent at the same time. Who asks more often while they go unanswered would
/// achieve nothing, and takes connections from the server that others need.
const UNDER_WAY_MAX: usize = 4;

/// Where to send a cancel request, and what to say there.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) connect: cores::Address,
    /// Its name, if its connection is encrypted: then so is the request.
    pub(crate) host: Option<Box<str>>,
    /// As in its BackendKeyData; `None` if it sent none, and cannot be cancelled.
    pub(crate) key: Option<(i32, Vec<u8>)>,
}

/// A server as cancel requests see it.
pub(crate) struct Target {
    pub(crate) address: Address,
    under_way: Cell<usize>,
    /// Requests were sent since the server was last proven idle.
    touched: Cell<bool>,
    /// A request was sent, and nobody knows when it arrives.
    doomed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Target {
    pub(crate) fn new(address: Address) -> Self {
        Self {
            address,
            under_way: Cell::new(0),
            touched: Cell::new(false),
            doomed: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    /// As the server calls its process, if it did.
    pub(crate) fn process_id(&self) -> Option<i32> {
        self.address.key.as_ref().map(|(process_id, _)| *process_id)
    }

    /// May a cancel request still arrive there?
    #[inline]
    pub(crate) fn is_touched(&self) -> bool {
        self.touched.get()
    }

    /// May one arrive however long it is waited for? Then the server is of no use to others.
    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.get()
    }

    /// Has every request been answered, or given up?
    pub(crate) fn is_settled(&self) -> bool {
        self.under_way.get() == 0
    }

    /// Waits until no request is under way.
    pub(crate) async fn settled(&self) {
        poll_fn(|cx| {
            if self.under_way.get() == 0 {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// A statement of ours went through after the last request was answered.
    pub(super) fn proven_idle(&self) {
        self.touched.set(false);
    }
}

/// The servers of one client.
#[derive(Default)]
pub(crate) enum Targets {
    #[default]
    None,
    One(Rc<Target>),
    /// Those of several shards.
    Many(Box<[Rc<Target>]>),
}

impl Targets {
    #[inline]
    pub(crate) fn as_slice(&self) -> &[Rc<Target>] {
        match self {
            Self::None => &[],
            Self::One(target) => std::slice::from_ref(target),
            Self::Many(targets) => targets,
        }
    }
}

impl From<Vec<Rc<Target>>> for Targets {
    fn from(mut targets: Vec<Rc<Target>>) -> Self {
        match targets.len() {
            0 => Self::None,
            1 => targets.pop().map_or(Self::None, Self::One),
            _ => Self::Many(targets.into()),
        }
    }
}

/// One request under way.
struct UnderWay(Rc<Target>);

impl UnderWay {
    fn new(target: &Rc<Target>) -> Self {
        target.touched.set(true);
        target.under_way.set(target.under_way.get() + 1);
        Self(Rc::clone(target))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
        let waker = self.0.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A request that was sent, and not yet seen to end. Dropped, it may arrive whenever it likes.
struct Unseen<'a>(&'a Target);

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        self.0.doomed.set(true);
    }
}

/// Sends a cancel request and waits until the server has acted on it, or has had its time for that.
pub(crate) async fn send(state: &Rc<CoreState>, target: &Rc<Target>) {
    let Some((process_id, secret)) = &target.address.key else {
        return;
    };
    let _under_way = UnderWay::new(target);
    let mut request = Vec::new();
    CancelRequest {
        process_id: *process_id,
        secret,
    }
    .encode(&mut request);
    let deadline = state.core.now() + CANCEL_TIMEOUT;
    let exchange = async {
        let Address { connect, host, .. } = &target.address;
        let options = TcpOptions::default();
        let (stream, _) =
            super::encrypt::connect(state, connect, host.as_deref(), &options).await?;
        let unseen = Unseen(target);
        stream.send_vec(request);
        stream.flush().await?;
        while stream.recv().await?.is_some() {}
        std::mem::forget(unseen);
        Ok::<_, std::io::Error>(())
    };
    match state.core.timeout_at(Some(deadline), exchange).await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::warn!("cannot send a cancel request: {error}"),
        None => tracing::warn!("a cancel request was not answered within {CANCEL_TIMEOUT:?}"),
    }
}

/// A client's request, at the core of its session. Unknown and wrong keys are met with silence, as PostgreSQL does.
pub(crate) fn requested(state: &Rc<CoreState>, process_id: i32, secret: &[u8]) {
    let known = state.links.borrow().get(&process_id).cloned();
    let away = state.away.borrow().get(&process_id).copied();
    if let (None, Some((core, _))) = (&known, away) {
        return pass_on(state, core, process_id, secret);
    }
    let known = known.filter(|link| link.key.matches(&CancelRequest { process_id, secret }));
    let targets = known.as_ref().map(|link| link.targets.borrow());
    let targets = targets
        .as_ref()
        .map_or(&[][..], |targets| targets.as_slice());
    if targets.is_empty() {
        return state.tally.cancels_unknown.add(1);
    }
    for target in targets {
        if target.under_way.get() >= UNDER_WAY_MAX {
            continue;
        }
        state.tally.cancels_sent.add(1);
        begin(state, target);
    }
}

/// Another core knows the client, or where it is.
pub(crate) fn pass_on(state: &CoreState, core: usize, process_id: i32, secret: &[u8]) {
    let secret = secret.to_vec();
    let mail = Mail::Cancel { process_id, secret };
    if state.send(core, mail).is_err() {
        tracing::warn!("cancel request lost: the other core's mailbox is full");
    }
}

/// Sends a cancel request in a task of its own. It is under way at once: from here on the server cannot be lent to
/// another client, and [`Target::settled`] waits.
pub(crate) fn begin(state: &Rc<CoreState>, target: &Rc<Target>) {
    let under_way = UnderWay::new(target);
    let (context, target) = (Rc::clone(state), Rc::clone(target));
    state.core.spawn(async move {
        send(&context, &target).await;
        drop(under_way);
    });
}
