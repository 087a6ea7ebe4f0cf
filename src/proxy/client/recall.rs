//! `currval` and `lastval` outside of a transaction: what a client asks of sequences, and which server may answer that
//! (`session::Counters`).

use crate::pool::Lease;
use crate::protocol::error_fields::{field, Fields};
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend::Query;
use crate::session::{RECALL_HINT, WIPE};
use crate::sql::session::{Effect, Effects};

use super::super::cluster::Want;
use super::super::pools::Conn;
use super::super::server::{Lost, RunError, Server, NOTE_WIPE};
use super::obtain::Aim;
use super::prepared::Amid;
use super::relay::Tenure;
use super::unnamed::Unnamed;
use super::{Relay, Session};

/// Is what a server is wanted for more than to read? Replicas do not count.
fn may_count(aim: Aim) -> bool {
    aim.writes || aim.want == Want::Write
}

/// The functions of PostgreSQL that say that nothing has counted: the message may be translated.
const ROUTINES: [&[u8]; 2] = [b"currval_oid", b"lastval"];

impl Session {
    /// A server is this client's, to do this.
    #[inline]
    pub(super) fn stays(&mut self, server: &mut Server, aim: Aim) {
        let stays = &self.state.stays;
        let stay = server.counters.taken(self.recall.stay, || {
            stays.set(stays.get().next());
            stays.get()
        });
        if may_count(aim) {
            self.recall.stay = stay;
        }
    }

    /// It may count on a server that it has already, perhaps to read.
    pub(super) fn counts_on(&mut self, server: &Server) {
        self.recall.stay = server.counters.stay();
    }

    /// May it ask what it has counted, as others of its pool have?
    #[inline]
    fn may_recall(&self, aim: Aim) -> bool {
        self.slot.recalls.get() && may_count(aim) && self.recall.may_ask() && self.pools()
    }

    /// The server that it had last, if it may ask that, and nobody has had it since.
    #[inline]
    pub(super) fn checkout_again(&self, aim: Aim) -> Option<Lease<Conn>> {
        let recalls = self.may_recall(aim);
        recalls.then(|| self.slot.take_last_of(self.recall.stay))?
    }

    /// What the client is told where its server says that nothing has counted: it may have elsewhere. `None`: this is
    /// something else.
    pub(super) fn recalled_nothing(&self, fields: &Fields<'_>) -> Option<Vec<u8>> {
        let routine = fields.get(field::ROUTINE)?;
        if !ROUTINES.contains(&routine) || fields.get(field::HINT).is_some() || !self.pools() {
            return None;
        }
        let mut message = Vec::new();
        fields.encode_error_with(RECALL_HINT, &mut message);
        Some(message)
    }

    /// The client keeps this server from here on: what others have counted there it is not told.
    pub(super) async fn wipe(&mut self, server: &mut Server) -> Result<(), Lost> {
        self.unnamed = Unnamed::None; // a Query drops it
        match server.run(WIPE).await {
            Ok(answer) => {
                server.counters.wiped();
                self.pass_asides(&answer)
            }
            Err(RunError::Server(_)) => Ok(()),
            Err(RunError::Lost(lost)) => Err(lost),
        }
    }

    /// Is a server to be wiped before it serves this client?
    #[inline]
    pub(super) fn is_to_be_wiped(&self, server: &Server, aim: Aim) -> bool {
        self.may_recall(aim) && self.recall.needs_wiped(&server.counters)
    }
}

impl Relay<'_> {
    /// Is it open whether a message that comes now begins a transaction, on a server that would have to be wiped then?
    #[inline]
    pub(super) fn awaits_recall(&self) -> bool {
        self.tenure == Tenure::Lent
            && self.server.counters.are_mixed()
            && self.server.exchange.begins_transaction().is_none()
    }

    /// Does a statement that does this ask for such numbers, or may one that it names?
    pub(super) fn asks(&self, effects: &Effects) -> bool {
        effects.recalls()
            || effects.steps().iter().any(|step| {
                let Effect::Execute(at) = &step.effect else {
                    return false;
                };
                let named = self.session.statements.get(&at.name).ok();
                named
                    .and_then(|named| named.effects(self.dialect()))
                    .is_some_and(|does| does.recalls() || does.names_statements())
            })
    }

    /// A statement is about to be sent that does this: one that asks for numbers of sequences is told none of others, unless
    /// it is in a transaction that has begun before.
    pub(super) fn recall(&mut self, effects: &Effects, amid: Amid) {
        if !effects.recalls() || !self.session.pools() {
            return;
        }
        let exchange = &self.server.exchange;
        if exchange.begins_transaction() != Some(true) {
            return;
        }
        let mixed = self.tenure == Tenure::Lent && self.server.counters.are_mixed();
        let wipes = mixed && !exchange.owes(NOTE_WIPE);
        self.session.slot.recalls.set(true);
        self.session.recall.asked();
        if !wipes {
            return;
        }
        if amid == Amid::Batch || self.server.exchange.is_unsynced() {
            self.execute_own(WIPE.as_bytes(), NOTE_WIPE, None);
        } else {
            let mut message = Vec::new();
            let text = WIPE.as_bytes();
            Query { text }.encode(&mut message);
            self.server.stream.write(&message);
            self.server
                .sent_to_ready(Owed::Results, Fate::Drop, NOTE_WIPE);
        }
    }
}
