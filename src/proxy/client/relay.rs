//! One client and one server: bytes in both directions, looking only at what the exchange needs.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::config::choice::PoolerMode;
use crate::error::{Error, Fault, Survives};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::error_fields::Fields;
use crate::protocol::frontend::tag;
use crate::protocol::sqlstate::SqlState;

use super::super::core_state::Activity;
use super::super::link::Notice;
use super::super::news;
use super::super::server::{cancel, Lost, Server, NOTE_COMMIT};
use super::checkout::refused_settings;
use super::obtain::Aim;
use super::statement_mode::no_transactions;
use super::{lost_error, End, Session};

/// Buffers moved in one poll before others get their turn.
const BURST: usize = 16;

/// A client holding a server.
pub(super) struct Relay<'a> {
    pub(super) session: &'a mut Session,
    pub(super) server: &'a mut Server,
    /// Did the client get any part of the server's answer?
    answered: bool,
    /// Has anything passed at all? A rest that nothing led to is no end: it would come at once, for ever.
    moved: bool,
    /// Has the client's next message to wait for answers to those before it?
    pub(super) awaits: bool,
    pub(super) admits: Admits,
    extent: Extent,
    pub(super) tenure: Tenure,
}

/// Who has the server between transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tenure {
    /// Anybody.
    Lent,
    /// This client.
    Kept,
}

/// Which batches go to the server before those in front of them are answered, where a transaction's end may lead
/// elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admits {
    /// None.
    Nothing,
    /// Those that need what the server was chosen for.
    Same(Aim),
    /// The one in front does.
    InFront(Aim),
}

impl Admits {
    /// The batch in front has been passed on.
    pub(super) fn batch_ended(&mut self) {
        if let Self::InFront(aim) = *self {
            *self = Self::Same(aim);
        }
    }
}

/// How much of a client's requests a server has got that has answered none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing: they are still to be read.
    Nothing,
    /// A batch without its Sync.
    Begun,
    /// A Query, or a batch with its Sync.
    Ended,
    /// And another one, or a part of it: the rest of that would be done alone.
    More,
}

impl Sent {
    fn to(server: &Server) -> Self {
        // Settings that go ahead are no client's.
        let begun = server.exchange.is_unsynced() && !server.is_fresh_behind();
        match (server.exchange.batches_owed(), begun) {
            (0, false) => Self::Nothing,
            (0, true) => Self::Begun,
            (1, false) => Self::Ended,
            _ => Self::More,
        }
    }
}

/// For how long the two are together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Until the server is at rest.
    Transaction,
    /// The same, and where each transaction goes is decided anew: none begins before the one before it has ended.
    OneTransaction,
    /// One request, and what else there is up to its Sync.
    Request,
}

impl<'a> Relay<'a> {
    pub(super) fn new(session: &'a mut Session, server: &'a mut Server, extent: Extent) -> Self {
        let kept = !session.pools() || session.link.pinned().is_some();
        Self {
            extent,
            tenure: if kept { Tenure::Kept } else { Tenure::Lent },
            session,
            server,
            answered: false,
            moved: false,
            awaits: false,
            admits: Admits::Nothing,
        }
    }

    /// The client keeps the server, if it does.
    pub(super) fn keeping(mut self, kept: bool) -> Self {
        if kept {
            self.tenure = Tenure::Kept;
        }
        self
    }

    /// The server was chosen for this: requests for the same need not wait until it is known where those before them
    /// have left it.
    pub(super) fn chosen_for(mut self, aim: Aim) -> Self {
        self.admits = Admits::Same(aim);
        self
    }

    /// Until something has passed, the server is at rest again, and the client has nothing half sent.
    pub(super) async fn run(mut self) -> Result<(), End> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        self.session.link.listen(cx);
        match self.session.link.notice() {
            None => {}
            // A client that keeps its server between transactions ends here, others when they have given it back.
            Some(Notice::Drain | Notice::Removed) if self.moved || !self.is_idle() => {}
            Some(Notice::QueryTimeout) if !self.session.timed_out => self.cancel_statement(),
            Some(notice @ (Notice::Superseded | Notice::Hung)) => {
                self.session.link.dismiss(notice);
                let lost = match notice {
                    Notice::Hung => Lost::Hung,
                    _ => Lost::Superseded,
                };
                return Poll::Ready(Err(self.lost(&lost)));
            }
            Some(notice) => return Poll::Ready(Err(End::Fatal(self.session.farewell(notice)))),
        }
        // Who has nothing now has nothing later in this turn either, unless it was the other side that held it up.
        let (mut sends, mut receives) = (true, true);
        for _ in 0..BURST {
            if receives {
                let received = self.poll_server(cx)?;
                self.moved |= received.is_ready();
                receives = received.is_ready();
            }
            let ends = match self.extent {
                Extent::Transaction | Extent::OneTransaction => self.server.at_rest(),
                Extent::Request => self.server.is_resting(),
            };
            if self.moved && ends && !self.session.inbound.is_amid_message() {
                // What the client sends next is for whoever waits for its next request.
                return Poll::Ready(Ok(()));
            }
            if sends {
                let sent = self.poll_client(cx)?;
                self.moved |= sent.is_ready();
                sends = sent.is_ready() || self.is_held_up();
            }
            if !receives && (!sends || self.is_held_up()) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Does the client keep the server and want nothing of it?
    fn is_idle(&self) -> bool {
        self.session.link.activity.get() == Activity::Idle && self.session.inbound.is_empty()
    }

    /// Is the next request to be looked at by whoever decides where it goes?
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        // Within a transaction, too: what is under way may end it.
        !matches!(self.admits, Admits::InFront(_))
            && self.extent != Extent::Transaction
            && self.server.exchange.batches_owed() > 0
    }

    /// Looks at the batch in front, whose first message begins `bytes`, if others are under way: does it
    /// need what this server was chosen for? Then it goes there whether or not they leave a transaction open. What they
    /// may set could say otherwise.
    #[inline]
    pub(super) fn admit(&mut self, first: u8, bytes: &[u8]) {
        if self.may_admit(first) {
            self.admit_same(bytes);
        }
    }

    /// Is the batch that begins with this message to be looked at?
    #[inline]
    pub(super) fn may_admit(&self, first: u8) -> bool {
        let begins = matches!(first, tag::QUERY | tag::PARSE | tag::BIND | tag::DESCRIBE);
        begins && self.extent == Extent::OneTransaction && self.is_over()
    }

    #[cold]
    fn admit_same(&mut self, bytes: &[u8]) {
        let session = &*self.session;
        if session.tracker.is_some() || self.server.exchange.is_unsynced() {
            return;
        }
        if let (Admits::Same(ours), Ok(Some(aim))) = (self.admits, session.aim_of(bytes)) {
            if aim.want == ours.want && (ours.writes || !aim.writes) {
                self.admits = Admits::InFront(ours);
            }
        }
    }

    /// Has the client to wait until the server has answered more?
    fn is_held_up(&self) -> bool {
        // The cancel request must not hit what comes next.
        let cancelling = self.session.timed_out && !self.server.target.is_settled();
        cancelling || self.awaits || self.server.exchange.is_full() || self.server.holds_behind()
    }

    /// Client to server. Ready: something moved.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.is_held_up() || self.server.stream.poll_room(cx).is_pending() {
            return Poll::Pending;
        }
        // What is answered here, a Close, waits for a client that does not read.
        let ours = self.server.exchange.nothing_owed();
        if ours && self.session.stream.poll_room(cx)?.is_pending() {
            return Poll::Pending;
        }
        if !self.session.inbound.is_empty() {
            if self.begins_where_nobody_writes() {
                return Poll::Ready(Err(self.lost(&Lost::Superseded)));
            }
            if self.pass_messages()? {
                return Poll::Ready(Ok(()));
            }
            self.session.inbound.settle();
            if self.awaits {
                return Poll::Pending;
            }
        }
        self.session.poll_inbound(cx)
    }

    /// Is it the first request since the client was at rest, on a server that it has kept and that is known to be the primary
    /// no more? One for a shard was looked at before.
    fn begins_where_nobody_writes(&self) -> bool {
        let session = &*self.session;
        self.tenure == Tenure::Kept
            && !self.moved
            && self.extent != Extent::Request
            && news::is_superseded(&session.state, session.slot.id, self.server.epoch)
    }

    /// Server to client. Ready: something moved.
    fn poll_server(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.session.stream.poll_room(cx)?.is_pending() {
            return Poll::Pending;
        }
        let server = &mut *self.server;
        let lost = match server.stream.poll_recv(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Some(buf))) => {
                let sent = server.has_ahead().then(|| Sent::to(server));
                let taken = server.take(buf, self.session);
                self.answered |= !server.has_ahead();
                self.awaits = false;
                match taken {
                    Ok(()) => {
                        self.session.count_traffic();
                        self.after_replies()?;
                        return Poll::Ready(Ok(()));
                    }
                    Err(Lost::Unset(body)) => {
                        let sent = sent.unwrap_or(Sent::More);
                        return Poll::Ready(Err(self.refused(&body, sent)));
                    }
                    Err(lost) => lost,
                }
            }
            Poll::Ready(Ok(None)) => Lost::Closed(None),
            Poll::Ready(Err(error)) => Lost::Closed(Some(error)),
        };
        Poll::Ready(Err(self.lost(&lost)))
    }

    fn after_replies(&mut self) -> Result<(), End> {
        let server = &*self.server;
        if !server.exchange.nothing_owed() {
            return Ok(());
        }
        if server.exchange.status() != TransactionStatus::Idle
            && self.session.manner.mode == PoolerMode::Statement
        {
            // A text that is too large to be read has begun one.
            return Err(End::Fatal(Error {
                survives: Survives::Nothing,
                ..no_transactions()
            }));
        }
        if !server.exchange.at_rest() {
            self.session
                .link
                .enter(Activity::IdleInTransaction, self.session.state.core.now());
        }
        Ok(())
    }

    /// The statement has run for longer than `query_timeout`: the server is asked to stop, and has a while to do so.
    fn cancel_statement(&mut self) {
        let session = &mut *self.session;
        session.timed_out = true;
        session.await_cancel();
        let (state, target) = (Rc::clone(&session.state), Rc::clone(&self.server.target));
        let process_id = session.link.key.process_id();
        session.state.core.spawn(async move {
            cancel::send(&state, &target).await;
            let link = state.links.borrow().get(&process_id).cloned();
            if let Some(link) = link {
                link.wake();
            }
        });
    }

    /// The server does not take the client's settings, and has ignored the request behind them, of which so much had been sent.
    fn refused(&mut self, body: &[u8], sent: Sent) -> End {
        let fields = Fields::parse(body);
        let fatal = fields.as_ref().is_ok_and(Fields::is_fatal);
        let cancelled = fields.is_ok_and(|fields| fields.code() == Some(SqlState::QUERY_CANCELED))
            && self.server.target.is_touched();
        let error = if fatal {
            self.server.link.meter.lost();
            lost_error(&Lost::Closed(None)) // it is going away, whatever it was asked
        } else if cancelled {
            // The request was to be cancelled, of which nothing has been done.
            self.session.cancelled_ahead()
        } else {
            refused_settings(body)
        };
        if sent == Sent::More || self.session.inbound.is_amid_message() {
            return End::Fatal(Error {
                survives: Survives::Nothing,
                ..error
            });
        }
        if cancelled {
            return self.session.request_failed(&error, sent);
        }
        self.session.server_lost(error, sent)
    }

    /// The server is gone, amid whatever it did.
    fn lost(&mut self, lost: &Lost) -> End {
        self.server.link.meter.lost();
        let exchange = &self.server.exchange;
        if exchange.said_farewell() {
            return End::Silent; // the client has the server's own words
        }
        let in_transaction = exchange.status() != TransactionStatus::Idle;
        let error = lost_error(lost);
        if exchange.owes(NOTE_COMMIT) {
            let text = "server connection lost during commit, outcome unknown";
            let code = SqlState::TRANSACTION_RESOLUTION_UNKNOWN;
            return End::Fatal(Error::fatal(Fault::Server, code, text));
        }
        if self.answered || in_transaction {
            let text = "server connection lost, transaction state unknown";
            let code = SqlState::CONNECTION_FAILURE;
            return End::Fatal(Error::fatal(Fault::Server, code, text));
        }
        let tied = self.session.link.pinned().is_some();
        let sent = Sent::to(self.server);
        let half_sent = self.session.inbound.is_amid_message();
        if tied || sent == Sent::More || half_sent || !self.session.pools() {
            return End::Fatal(Error {
                survives: Survives::Nothing,
                ..error
            });
        }
        self.session.server_lost(error, sent)
    }
}
