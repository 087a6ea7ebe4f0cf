//! What a client is told when a notice ends its session, or the statement that is under way.

use std::time::Duration;

use crate::error::{Error, Fault, Survives};
use crate::protocol::sqlstate::SqlState;

use super::super::core_state::Notice;
use super::{adopt, Session, CANCEL_PATIENCE};

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
