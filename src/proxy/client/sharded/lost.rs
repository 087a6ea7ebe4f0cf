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

/// The same of a server whose error the client has: if that was its farewell there is no more to be said, unless it was to commit
/// what others may have committed.
pub(super) fn after_words(leg: &Leg, lost: &Lost) -> End {
    let exchange = &leg.held.exchange;
    if !exchange.said_farewell() || exchange.owes(NOTE_COMMIT) {
        return amid(leg, lost, true);
    }
    leg.held.link.meter.lost();
    End::Silent
}
