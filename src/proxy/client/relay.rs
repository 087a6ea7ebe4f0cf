//! One client and one server: bytes in both directions, looking only at what the exchange needs.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::config::choice::PoolerMode;
use crate::error::{Error, Fault};
use crate::pool::Lease;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frame::{peek, BODY_BYTES_MAX};
use crate::protocol::frontend::tag;
use crate::protocol::sqlstate::SqlState;

use super::super::core_state::{Activity, Notice};
use super::super::pools::Conn;
use super::super::server::Lost;
use super::{lost_error, End, Session};

/// Buffers moved in one poll before others get their turn.
const BURST: usize = 16;

/// A client holding a server.
pub(super) struct Relay<'a> {
    session: &'a mut Session,
    lease: &'a mut Lease<Conn>,
    /// Did the client get any part of the server's answer?
    answered: bool,
}

impl<'a> Relay<'a> {
    pub(super) fn new(session: &'a mut Session, lease: &'a mut Lease<Conn>) -> Self {
        Self {
            session,
            lease,
            answered: false,
        }
    }

    /// Until the server is at rest again and the client has nothing half sent.
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
            if self.lease.server.at_rest() && !self.session.inbound.is_amid_message() {
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
        let server = &mut self.lease.server;
        if server.exchange.is_full() || server.stream.poll_room(cx).is_pending() {
            return Poll::Pending;
        }
        if self.session.inbound.is_empty() || !self.has_whole_header() {
            self.session.inbound.settle();
            match self.session.poll_inbound(cx)? {
                Poll::Ready(()) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        self.pass_messages().map_err(|end| end)?;
        Poll::Ready(Ok(()))
    }

    fn has_whole_header(&self) -> bool {
        self.session.inbound.is_amid_message()
            || matches!(
                peek(self.session.inbound.bytes(), BODY_BYTES_MAX),
                Ok(Some(_)) | Err(_)
            )
    }

    /// Passes on all messages that have come, noting what each will be answered.
    fn pass_messages(&mut self) -> Result<(), End> {
        let Session {
            inbound,
            link,
            state,
            ..
        } = &mut *self.session;
        let server = &mut self.lease.server;
        inbound.pass_rest(&server.stream);
        if inbound.is_amid_message() {
            return Ok(());
        }
        let bytes = inbound.bytes();
        let mut at = 0;
        let mut terminate = false;
        while let Some(header) = peek(bytes.get(at..).unwrap_or_default(), BODY_BYTES_MAX)
            .map_err(|error| End::Fatal(error.into()))?
        {
            let owed = match header.tag {
                tag::QUERY | tag::FUNCTION_CALL => Some(Owed::Results),
                tag::PARSE => Some(Owed::ParseComplete),
                tag::BIND => Some(Owed::BindComplete),
                tag::DESCRIBE => Some(Owed::Description),
                tag::EXECUTE => Some(Owed::Execution),
                tag::CLOSE => Some(Owed::CloseComplete),
                tag::SYNC => Some(Owed::Ready),
                tag::COPY_DONE | tag::COPY_FAIL => Some(Owed::CopyEnd),
                tag::FLUSH | tag::COPY_DATA => None,
                tag::TERMINATE => {
                    terminate = true;
                    break;
                }
                other => {
                    let what = format!("unexpected message '{}'", other.escape_ascii());
                    return Err(End::Fatal(Error::protocol_violation(what)));
                }
            };
            if let Some(owed) = owed {
                server.exchange.sent(owed, Fate::Forward);
            }
            at += header.frame_bytes();
            if at >= bytes.len() {
                break;
            }
        }
        if at > 0 {
            inbound.pass_messages(at, &server.stream);
            if link.activity.get() != Activity::Active {
                link.enter(Activity::Active, state.core.now());
            }
        }
        if terminate {
            return Err(End::Left);
        }
        Ok(())
    }

    /// Server to client. Ready: something moved.
    fn poll_server(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.session.stream.poll_room(cx)?.is_pending() {
            return Poll::Pending;
        }
        let server = &mut self.lease.server;
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
        let server = &self.lease.server;
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
        let error = lost_error(lost);
        let in_transaction = self.lease.server.exchange.status() != TransactionStatus::Idle;
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
