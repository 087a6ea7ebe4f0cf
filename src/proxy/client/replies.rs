//! What a session makes of its server's replies.

use cores::Buf;

use crate::merge::stale_plan;
use crate::metrics::Answered;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::error_fields::{field, put_error, Fields};
use crate::protocol::parameters::Parameters;
use crate::protocol::sqlstate::SqlState;
use crate::routing::defined::Redefined;
use crate::sql::session::Effect;
use crate::sql::settings::Settings;
use crate::types::shape::Shape;

use super::super::server::{OnError, Recipient};
use super::shapes::STALE;
use super::statement_mode::{no_transactions, BEGINS};
use super::unnamed::Unnamed;
use super::Session;

/// The function of PostgreSQL that says "cached plan must not change result type": the message may be translated.
const STALE_PLAN: &[u8] = b"RevalidateCachedQuery";

impl Recipient for Session {
    const CLIENT: bool = true;

    #[inline]
    fn forward(&mut self, buf: Buf) {
        self.stream.send(buf);
    }

    fn forward_copy(&mut self, bytes: &[u8]) {
        self.stream.write(bytes);
    }

    fn parameter(&mut self, name: &[u8], value: &[u8]) {
        if !Parameters::is_settable(name) {
            return;
        }
        if name == b"application_name" {
            if let Some(face) = self.link.face.get() {
                face.rename(value);
            }
        }
        let own = self.slot.reported(&Settings::default());
        let own = own.as_ref().and_then(|own| own.get(name));
        self.settings.reported(name, value, own);
    }

    fn statement_answered(&mut self) {
        self.statements.succeeded();
    }

    fn statement_described(&mut self, shape: Shape) {
        self.statements.described(shape);
    }

    fn statement_done(&mut self, tag: &[u8]) -> bool {
        let done = self
            .tracker
            .as_mut()
            .and_then(|tracker| tracker.succeeded());
        let Some(done) = done else { return false };
        let mut store = self.state.settings.borrow_mut();
        for step in done.steps() {
            if done.is_one_of_several() && step.effect.forgets_statements() {
                self.statements.succeeded();
            }
            if step.effect == Effect::MakesTable {
                self.redefined = self.redefined.max(Redefined::Tables);
            }
            self.settings.succeeded(&step.effect, tag, &mut store);
        }
        done.hides_next
    }

    fn failed(&mut self, fields: Option<&Fields<'_>>) -> OnError {
        let code = fields.and_then(Fields::code);
        if code == Some(SqlState::FEATURE_NOT_SUPPORTED) {
            let stale = fields.and_then(|fields| fields.get(field::ROUTINE)) == Some(STALE_PLAN);
            if let Some(batch) = self.retry.take().filter(|_| stale) {
                self.inbound.put_back(&batch);
                return OnError::Retry;
            }
        }
        self.link.meter.error();
        self.settings.failed();
        // Whatever the batch parsed may not have been. It is the oldest that is not answered: of later ones nothing
        // is known yet.
        let of_this_batch = self.statements.syncs() == 0;
        if of_this_batch || self.unnamed != Unnamed::ParsedNow {
            self.unnamed = Unnamed::None;
        }
        if self.timed_out && code == Some(SqlState::QUERY_CANCELED) {
            let mut message = Vec::new();
            let database = &self.slot.names.database;
            self.state.tally.error(database, SqlState::QUERY_CANCELED);
            put_error(&mut message, &self.timeout_error());
            return OnError::Replace(message);
        }
        if code == Some(SqlState::INVALID_SQL_STATEMENT_NAME) {
            let message = fields.and_then(|fields| fields.get(field::MESSAGE));
            let names =
                |name| message.is_some_and(|text| memchr::memmem::find(text, name).is_some());
            let ours = match () {
                () if names(STALE) => Some(stale_plan()),
                () if names(BEGINS) => Some(no_transactions()),
                () => None,
            };
            if let Some(error) = ours {
                let mut message = Vec::new();
                put_error(&mut message, &error);
                return OnError::Replace(message);
            }
        }
        if code == Some(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) {
            let told = fields.and_then(|fields| self.recalled_nothing(fields));
            return told.map_or(OnError::Forward, OnError::Replace);
        }
        OnError::Forward
    }

    /// A pooled client outside of a transaction goes on with another server.
    fn hears_farewell(&self, status: TransactionStatus) -> bool {
        status != TransactionStatus::Idle || !self.pools() || self.link.pinned().is_some()
    }

    fn unnamed_skipped(&mut self) {
        if self.unbound_in == 1 {
            self.forget_unnamed();
        }
    }

    fn transaction_prepared(&mut self) {
        self.link.meter.prepared_transaction();
    }

    fn definition_changed(&mut self, tag: &[u8]) {
        self.redefined = self.redefined.max(Redefined::by(tag));
    }

    fn ready(&mut self, answered: Option<Answered>) {
        let ended = answered.is_some_and(|answered| answered.status == TransactionStatus::Idle);
        if ended && self.redefined != Redefined::Nothing {
            self.tell_of_definitions();
        }
        if let Some(answered) = answered {
            let time = self.link.meter.answered(answered);
            self.slot
                .registry
                .latencies()
                .record(answered.kind.phase(), time);
        }
        self.statements.ready();
        self.unbound_in = self.unbound_in.saturating_sub(1);
        if self.audit.is_some() {
            self.audit_answer(self.link.since.get());
        }
        if self.timed_out {
            let targets = self.link.targets.borrow();
            self.timed_out = targets.as_slice().iter().any(|target| !target.is_settled());
        }
        // What the client has sent ahead begins now.
        self.link.since.set(self.state.core.now());
        if let Some(tracker) = &mut self.tracker {
            tracker.ready();
            if let Some(Answered { status, .. }) = answered {
                let mut store = self.state.settings.borrow_mut();
                self.settings.ready(status.as_byte(), &mut store);
            }
        } else if self.settings.is_unfollowed() {
            if let Some(Answered { status, .. }) = answered {
                let mut store = self.state.settings.borrow_mut();
                self.settings.ready_unfollowed(status.as_byte(), &mut store);
            }
        }
    }
}
