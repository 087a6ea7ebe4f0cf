//! What a client is told when a notice ends its session, or the statement that is under way, or when it gets no session at all.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use cores::Stream;

use crate::error::{Error, Fault, Survives};
use crate::metrics::{tally, LoginResult};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::error_fields::put_error;
use crate::protocol::sqlstate::SqlState;
use crate::snapshot::Names;

use super::super::core_state::CoreState;
use super::super::link::Notice;
use super::{adopt, End, Session, CANCEL_PATIENCE};

/// How long a client may take to read what it is told at the end.
pub(super) const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Connections of one core that are being told that they are one too many. What comes on top is closed without a word.
const TURNED_AWAY_MAX: usize = 256;
/// How long they may take to hear it.
const TURNED_AWAY_TIME: Duration = Duration::from_secs(1);

/// Closes a connection that is one too many, and says so. Whoever speaks TLS at once takes that for a failed handshake,
/// all others for an error like any.
pub(crate) fn turn_away(state: &Rc<CoreState>, fd: OwnedFd) {
    let code = SqlState::TOO_MANY_CONNECTIONS;
    let way = ("none", false);
    let took = Duration::ZERO;
    state
        .tally
        .login(tally::OTHER, LoginResult::Limit, way, took);
    if state.turned_away.running() >= TURNED_AWAY_MAX {
        return drop(fd);
    }
    state.tally.error(tally::OTHER, code);
    let (context, pass) = (Rc::clone(state), state.turned_away.enter());
    state.core.spawn(async move {
        let error = Error::fatal(Fault::Proxy, code, "too many clients");
        let stream = Stream::adopt(&context.core, fd);
        goodbye(&context, stream, &error, TURNED_AWAY_TIME).await;
        drop(pass);
    });
}

pub(super) fn log_departure(state: &CoreState, names: &Names) {
    if state.config().log.disconnections {
        let Names { user, database } = names;
        tracing::info!(%user, %database, "client disconnected");
    }
}

/// Tells a client without a session why it has none, and closes its connection.
pub(super) async fn goodbye(state: &CoreState, stream: Stream, error: &Error, patience: Duration) {
    let mut message = Vec::new();
    put_error(&mut message, error);
    stream.send_vec(message);
    close(state, stream, patience).await;
}

/// Closes in order; a client that does not read cannot keep us for longer than that.
pub(super) async fn close(state: &CoreState, stream: Stream, patience: Duration) {
    let deadline = state.core.now() + patience;
    let _ = state.core.timeout_at(Some(deadline), stream.close()).await;
}

impl Session {
    /// The error that goes with a notice.
    pub(super) fn farewell(&self, notice: Notice) -> Error {
        let config = self.state.config();
        let clients = &config.clients;
        let ms = |limit: Option<Duration>| limit.unwrap_or_default().as_millis();
        match notice {
            Notice::Drain | Notice::ShutDown => Error::fatal(
                Fault::Proxy,
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection: shutting down",
            ),
            Notice::Removed => adopt::removed(&self.slot.names.database),
            Notice::Killed => adopt::killed(),
            Notice::Superseded => given_up("another server has become the primary"),
            Notice::Hung => given_up("the server does not answer"),
            Notice::IdleTimeout => {
                let text = format!(
                    "idle for {} ms (client_idle_timeout)",
                    ms(clients.idle_timeout)
                );
                Error::fatal(Fault::Client, SqlState::IDLE_SESSION_TIMEOUT, text)
            }
            Notice::IdleInTransactionTimeout => {
                let limit = ms(clients.idle_in_transaction_timeout);
                let text = format!(
                    "idle in transaction for {limit} ms (client_idle_in_transaction_timeout)"
                );
                Error::fatal(
                    Fault::Client,
                    SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                    text,
                )
            }
            Notice::QueryTimeout => {
                let limit = ms(config.servers.query_timeout);
                let text = format!("statement cancelled by query_timeout ({limit} ms)");
                Error::fatal(Fault::Proxy, SqlState::QUERY_CANCELED, text)
            }
            Notice::Deadlock => {
                let code = SqlState::DEADLOCK_DETECTED;
                let error = Error::fatal(Fault::Client, code, "deadlock detected");
                error.detail("Transactions wait for each other on several servers.")
            }
        }
    }

    /// A server that the session has is given up, at which it does nothing at the moment.
    pub(super) fn lost_kept(&self) -> End {
        let text = match self.status() {
            TransactionStatus::Idle => "server connection lost",
            _ => "server connection lost, transaction state unknown",
        };
        let code = SqlState::CONNECTION_FAILURE;
        End::Fatal(Error::fatal(Fault::Server, code, text))
    }

    /// `query_timeout` has passed, or the statement would wait for ever, and it is cancelled: the next such notice comes when
    /// that has had its time.
    pub(super) fn await_cancel(&self) {
        self.link.dismiss(Notice::QueryTimeout);
        self.link.dismiss(Notice::Deadlock);
        let now = self.state.core.now();
        let limit = self.state.config().servers.query_timeout;
        let elapsed = limit.unwrap_or_default().saturating_sub(CANCEL_PATIENCE);
        self.link.since.set(now.checked_sub(elapsed).unwrap_or(now));
    }

    /// What the client is told of a statement that was cancelled because of `query_timeout`.
    pub(super) fn timeout_error(&self) -> Error {
        self.cancelled(Notice::QueryTimeout)
    }

    /// What the client is told of a request that was cancelled before it was begun.
    pub(super) fn cancelled_ahead(&self) -> Error {
        if self.timed_out {
            return self.timeout_error();
        }
        let text = "canceling statement due to user request";
        Error::error(Fault::Client, SqlState::QUERY_CANCELED, text)
    }

    /// What the client is told of a statement that was cancelled for this reason, and which it survives.
    pub(super) fn cancelled(&self, why: Notice) -> Error {
        Error {
            survives: Survives::Session,
            ..self.farewell(why)
        }
    }
}

/// The error for what was under way on a server that is no primary any more, or hangs.
fn given_up(why: &str) -> Error {
    let text = "server connection lost, transaction state unknown";
    let error = Error::fatal(Fault::Server, SqlState::CONNECTION_FAILURE, text);
    error.detail(why)
}
