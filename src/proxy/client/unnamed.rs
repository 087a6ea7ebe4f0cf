//! The client's unnamed prepared statement: whether its server has it, and what it was if the next one has not.

use std::rc::Rc;

use crate::prepared::Statement;

use super::{Relay, Session};

/// An unnamed statement up to this size is remembered for each client, a larger one with the statements of its core.
const BOUND_BYTES_MAX: usize = 1024;

/// What is known of the unnamed prepared statement on the server that a client has. It is not the client's own by
/// nature: the server may have another client's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Unnamed {
    /// Nothing.
    #[default]
    None,
    /// The client has parsed one since it has this server.
    Parsed,
    /// And in this batch.
    ParsedNow,
}

impl Relay<'_> {
    /// Remembers an unnamed statement that may be bound in a later batch, when the client may have another server.
    pub(super) fn remember_unbound(&mut self, definition: Option<&[u8]>) {
        if let Some(definition) = definition.filter(|_| self.session.translates()) {
            // One that is malformed is none: the server says so.
            self.session.unbound = self.intern(definition).ok();
            self.session.bound.clear();
            self.session.unbound_in = self.session.statements.syncs() + 1;
        }
    }

    /// Remembers an unnamed statement that is bound where it was parsed, and may be again in a later batch.
    pub(super) fn remember_bound(&mut self, definition: Option<&[u8]>) {
        let Some(definition) = definition.filter(|_| self.session.translates()) else {
            return;
        };
        if definition.len() > BOUND_BYTES_MAX {
            return self.remember_unbound(Some(definition));
        }
        let session = &mut *self.session;
        session.unbound = None;
        session.bound.clear();
        session.bound.extend_from_slice(definition);
        session.unbound_in = session.statements.syncs() + 1;
    }

    /// An unnamed statement passes that is too large to be remembered: only the server that it goes to has it.
    pub(super) fn remember_none(&mut self) {
        let session = &mut *self.session;
        session.forget_unnamed();
        session.unnamed = Unnamed::ParsedNow;
        session.unbound_in = session.statements.syncs() + 1;
        if let Some(tracker) = &mut session.tracker {
            tracker.parsed(None);
        }
    }

    /// The unnamed statement that the client has parsed, wherever that was.
    pub(super) fn unnamed(&self) -> Option<Rc<Statement>> {
        match &self.session.bound[..] {
            [] => self.session.unbound.clone(),
            definition => self.intern(definition).ok(),
        }
    }

    /// The same, and it is at hand from here on.
    pub(super) fn remembered(&mut self) -> Option<Rc<Statement>> {
        self.session.unbound = self.unnamed();
        self.session.bound = Vec::new();
        self.session.unbound.clone()
    }

    /// Does the server have this client's unnamed statement for certain?
    pub(super) fn has_unnamed(&self) -> bool {
        match self.session.unnamed {
            _ if !self.session.translates() => true,
            Unnamed::ParsedNow => !self.session.renames(true),
            Unnamed::Parsed => self.server.exchange.nothing_owed(),
            Unnamed::None => false,
        }
    }

    /// Was the unnamed statement parsed in an earlier batch of which nobody knows yet whether it failed?
    pub(super) fn waits_for_unnamed(&self) -> bool {
        let session = &*self.session;
        session.unnamed != Unnamed::ParsedNow && session.unbound_in > 0 && !session.renames(true)
    }
}

impl Session {
    /// It has no unnamed statement any more.
    pub(super) fn forget_unnamed(&mut self) {
        self.unbound = None;
        self.bound.clear();
        self.unbound_in = 0;
    }
}
