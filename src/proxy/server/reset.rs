//! A server comes back from a client: fit for the next one, made fit, or not.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::config::choice::ConnectionRecovery;
use crate::metrics::Stat;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend;
use crate::session::Counters;

use super::super::core_state::CoreState;
use super::{cancel, Collector, Server};

/// How long abandoned work may go on before it is cancelled on the server.
const DRAIN_PATIENCE: Duration = Duration::from_millis(100);

/// A portal that no client has, to fail an abandoned batch with.
const NO_PORTAL: &[u8] = b"__pgdog_abandoned";

/// What a server needs before it may serve another client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    /// Nothing is open: see to cancel requests only.
    Transaction,
    /// The session of one client ends: everything of it has to go.
    Session,
}

impl Server {
    /// Nothing is in the way of the next client.
    #[inline]
    pub(crate) fn is_fit(&self) -> bool {
        self.at_rest() && !self.target.is_touched() && !self.exchange.said_farewell()
    }

    /// Makes the server fit; false if it is of no further use.
    pub(crate) async fn reset(&mut self, state: &Rc<CoreState>, reset: Reset) -> bool {
        if self.exchange.replicating() || self.exchange.said_farewell() {
            return false;
        }
        let config = state.config();
        let servers = &config.servers;
        match servers.recovery {
            ConnectionRecovery::Drop if !self.at_rest() => return false,
            ConnectionRecovery::RollbackOnly
                if !self.exchange.nothing_owed() || self.exchange.is_unsynced() =>
            {
                return false
            }
            _ => {}
        }
        let deadline = servers
            .rollback_timeout
            .and_then(|timeout| state.core.now().checked_add(timeout));
        state
            .core
            .timeout_at(deadline, self.clean(state, reset))
            .await
            .unwrap_or(false)
    }

    async fn clean(&mut self, state: &Rc<CoreState>, reset: Reset) -> bool {
        let reported = Rc::clone(&self.reported);
        if self.exchange.copying_in() {
            let mut message = Vec::new();
            frontend::CopyFail {
                reason: b"client disconnected",
            }
            .encode(&mut message);
            self.stream.send_vec(message);
            self.exchange.sent(Owed::CopyEnd, Fate::Forward);
        }
        if self.exchange.is_unsynced() {
            // A Sync alone would commit what the client had executed and not wanted yet: fail first.
            let mut message = Vec::new();
            frontend::Execute {
                portal: NO_PORTAL,
                rows_max: 0,
            }
            .encode(&mut message);
            message.extend_from_slice(&frontend::SYNC);
            self.stream.send_vec(message);
            self.exchange.sent(Owed::Execution, Fate::Forward);
            self.sent_to_ready(Owed::Ready, Fate::Forward, 0);
        }
        let patience = state.core.now() + DRAIN_PATIENCE;
        let drained = state
            .core
            .timeout_at(Some(patience), self.drain(&mut Collector::default()))
            .await;
        let drained = match drained {
            Some(drained) => drained,
            None => {
                cancel::send(state, &self.target).await;
                self.drain(&mut Collector::default()).await
            }
        };
        if drained.is_err() {
            return false;
        }
        if self.exchange.status() != TransactionStatus::Idle {
            if self.run("ROLLBACK").await.is_err() {
                return false;
            }
            self.link.meter.counters().count(Stat::Rollbacks);
        }
        self.link.meter.abandoned(state.core.now());
        // What it reported while nobody listened may be a setting that somebody's function made.
        if reset == Reset::Session || *reported != *self.reported {
            self.prepared.forget_all();
            if self.run("DISCARD ALL").await.is_err() {
                return false;
            }
            self.settings = Arc::default();
            self.counters = Counters::default();
            self.link.meter.counters().count(Stat::Cleaned);
        }
        while self.target.is_touched() {
            self.target.settled().await;
            if self.target.is_doomed() {
                return false;
            }
            self.target.proven_idle();
            // A late cancel hits this statement or none: its error is of no interest, its end is.
            match self.run("SELECT 1").await {
                Ok(_) | Err(super::RunError::Server(_)) => {}
                Err(super::RunError::Lost(_)) => return false,
            }
        }
        self.at_rest()
    }
}
