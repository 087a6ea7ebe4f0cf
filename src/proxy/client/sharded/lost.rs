//! What a client hears of a server that is lost amid what it does for it.

use crate::error::{Error, Fault, Survives};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::sqlstate::SqlState;

use super::super::super::server::{Lost, NOTE_COMMIT};
use super::super::{lost_error, End};
use super::Leg;

/// A server is lost. `begun`: the client has got something of the reply.
pub(super) fn amid(leg: &Leg, lost: &Lost, begun: bool) -> End {
    let server = &*leg.held;
    server.link.meter.lost();
    let error = lost_error(lost);
    if server.exchange.owes(NOTE_COMMIT) {
        let text = "server connection lost during commit, outcome unknown";
        let code = SqlState::TRANSACTION_RESOLUTION_UNKNOWN;
        return End::Fatal(Error::fatal(Fault::Server, code, text));
    }
    let in_transaction = server.exchange.status() != TransactionStatus::Idle;
    if in_transaction || begun {
        let text = "server connection lost, transaction state unknown";
        let code = SqlState::CONNECTION_FAILURE;
        return End::Fatal(Error::fatal(Fault::Server, code, text));
    }
    End::Fatal(Error {
        survives: Survives::Nothing,
        ..error
    })
}

/// The server whose error the client has, in its own words, if it has one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WordsOf(Option<usize>);

impl WordsOf {
    /// The client gets the error of this server.
    pub(super) fn said(&mut self, at: usize) {
        self.0 = Some(at);
    }

    /// This server is lost. If the client has its farewell there is no more to be said, unless it was to commit what others
    /// may have committed. `begun`: the client has got something of the reply.
    pub(super) fn lost(self, at: usize, leg: &Leg, lost: &Lost, begun: bool) -> End {
        let said = self.0 == Some(at);
        let exchange = &leg.held.exchange;
        if !said || !exchange.said_farewell() || exchange.owes(NOTE_COMMIT) {
            return amid(leg, lost, begun || said);
        }
        leg.held.link.meter.lost();
        End::Silent
    }
}

/// Has a server said its farewell amid a commit? What it says of itself is not what became of the transaction, and is followed
/// by its end, of which the client hears.
pub(super) fn leaves_amid_commit(leg: &Leg) -> bool {
    let exchange = &leg.held.exchange;
    exchange.said_farewell() && exchange.owes(NOTE_COMMIT)
}
