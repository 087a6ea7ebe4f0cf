//! One client and one server: bytes in both directions, looking only at what the exchange needs.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::config::choice::PoolerMode;
use crate::error::{Error, Fault};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::sqlstate::SqlState;

use super::super::core_state::{Activity, Notice};
use super::super::server::{Lost, Server};
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
}

impl<'a> Relay<'a> {
    pub(super) fn new(session: &'a mut Session, server: &'a mut Server) -> Self {
        Self {
            session,
            server,
            answered: false,
            moved: false,
        }
    }

    /// Until something has passed, the server is at rest again, and the client has nothing half sent.
    pub(super) async fn run(mut self) -> Result<(), End> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        self.session.link.listen(cx);
        if let Some(notice) = self.session.link.notice() {
            if notice != Notice::Drain {
                return Poll::Ready(Err(End::Fatal(self.session.farewell(notice))));
            }
        }
        for _ in 0..BURST {
            let sent = self.poll_client(cx)?;
            let received = self.poll_server(cx)?;
            self.moved |= sent.is_ready() || received.is_ready();
            if self.moved && self.server.at_rest() && !self.session.inbound.is_amid_message() {
                return Poll::Ready(Ok(()));
            }
            if sent.is_pending() && received.is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Client to server. Ready: something moved.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let server = &mut *self.server;
        if server.exchange.is_full() || server.stream.poll_room(cx).is_pending() {
            return Poll::Pending;
        }
        if !self.session.inbound.is_empty() {
            if self.pass_messages()? {
                return Poll::Ready(Ok(()));
            }
            self.session.inbound.settle();
        }
        self.session.poll_inbound(cx)
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
                self.answered = true;
                match server.take(buf, self.session) {
                    Ok(()) => {
                        self.after_replies()?;
                        return Poll::Ready(Ok(()));
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
            && self.session.slot.config.mode == PoolerMode::Statement
        {
            let text = "transactions are not available in statement mode";
            return Err(End::Fatal(Error::fatal(
                Fault::Client,
                SqlState::FEATURE_NOT_SUPPORTED,
                text,
            )));
        }
        if !server.exchange.at_rest() {
            self.session
                .link
                .enter(Activity::IdleInTransaction, self.session.state.core.now());
        }
        Ok(())
    }

    /// The server is gone, amid whatever it did.
    fn lost(&self, lost: &Lost) -> End {
        if self.server.exchange.said_farewell() {
            return End::Silent; // the client has the server's own words
        }
        let error = lost_error(lost);
        let in_transaction = self.server.exchange.status() != TransactionStatus::Idle;
        match (self.answered || in_transaction, lost) {
            (false, _) => End::Fatal(Error {
                survives: crate::error::Survives::Nothing,
                ..error
            }),
            (true, _) => {
                let text = "server connection lost, transaction state unknown";
                End::Fatal(Error::fatal(
                    Fault::Server,
                    SqlState::CONNECTION_FAILURE,
                    text,
                ))
            }
        }
    }
}
