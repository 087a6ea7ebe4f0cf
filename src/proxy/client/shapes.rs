//! Rows like those that a client was told of: a statement that a server has parsed after a change of its tables may have
//! others, and is refused as PostgreSQL refuses a plan of its own.
//!
//! A server says so by itself of what it had parsed before. Of one that it has parsed since, for this client or another, it is
//! asked to describe the rows, once, before the client's Bind goes there. A Bind whose portal is described before it is
//! executed needs none of that: the client reads what it is told then.

use std::rc::Rc;

use crate::prepared::Statement;
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frame::{peek, Header, HEADER_BYTES};
use crate::protocol::frontend::{tag, Target, FLUSH};
use crate::types::shape::Shape;

use super::super::server::NOTE_SERVER;
use super::inbound::CLIENT_BODY_BYTES_MAX;
use super::request::statement_of_bind;
use super::Relay;

/// No server has a statement of this name: what is bound to it fails, and the client is told why.
pub(super) const STALE: &[u8] = b"__pgdog_stale";

impl Relay<'_> {
    /// Is the server about to say what rows this statement has, which its client was told?
    pub(super) fn awaits_shape(&self, name: &[u8]) -> bool {
        let told = self.session.statements.told(name);
        told.is_some_and(|(statement, _)| self.server.prepared.awaits_shape(statement.id()))
    }

    /// Asks the server what rows a statement has, if it has not said so.
    pub(super) fn asks_shape(&mut self, statement: &Rc<Statement>) -> bool {
        self.ensure(statement);
        let prepared = &mut self.server.prepared;
        if prepared.shape(statement.id()).is_some() {
            return false;
        }
        prepared.describing(statement.id());
        let mut messages = Vec::new();
        Target::Statement(&statement.server_name()).encode_describe(&mut messages);
        messages.extend_from_slice(&FLUSH);
        self.server.stream.write(&messages);
        self.note(Owed::Description, Fate::Drop, NOTE_SERVER);
        true
    }

    /// Would the rows of a statement be others than those that the client was told of?
    pub(super) fn is_stale(&self, statement: &Statement, told: Shape) -> bool {
        let has = self.server.prepared.shape(statement.id());
        let one_server = self.session.cluster.shards() == 1;
        has.is_some_and(|has| !told.agrees(has, one_server))
    }

    /// The statement of the Bind in front, and what the client was told of its rows, if they are not described to it again.
    pub(super) fn told_of_bind(&self, header: Header) -> Option<(Rc<Statement>, Shape)> {
        let statements = &self.session.statements;
        if !statements.has_told() {
            return None;
        }
        let bytes = self.session.inbound.bytes();
        let body = bytes.get(HEADER_BYTES..)?;
        let (_, name) = statement_of_bind(body)?;
        if !self.session.renames(name.is_empty()) {
            return None;
        }
        let (statement, told) = statements.told(name)?;
        let behind = bytes.get(header.frame_bytes()..).unwrap_or_default();
        let described = match peek(behind, CLIENT_BODY_BYTES_MAX) {
            Ok(Some(next)) => next.tag == tag::DESCRIBE && behind.get(HEADER_BYTES) == Some(&b'P'),
            _ => false,
        };
        (!described).then(|| (Rc::clone(statement), told))
    }
}
