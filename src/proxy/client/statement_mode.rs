//! `pooler_mode = "statement"`: there are no transactions, and what would begin one is refused, wherever it stands.

use crate::config::choice::PoolerMode;
use crate::error::{Error, Fault};
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend::{tag, Bind, Parse, SYNC};
use crate::protocol::sqlstate::SqlState;
use crate::sql::session::{effects, Effect};

use super::{Relay, Session};

/// No server has a statement of this name: what is bound to it fails, as what it stands for has to.
pub(super) const BEGINS: &[u8] = b"__pgdog_begins";

/// What begins a transaction is told.
pub(super) fn no_transactions() -> Error {
    let text = "transactions are not available in statement mode";
    Error::error(Fault::Client, SqlState::FEATURE_NOT_SUPPORTED, text)
}

impl Session {
    /// Would this Query or Parse open a transaction where there are none?
    pub(super) fn begins_in_statement_mode(&self, tag: u8, body: &[u8]) -> bool {
        if self.manner.mode != PoolerMode::Statement {
            return false;
        }
        let text = match tag {
            tag::QUERY => body.strip_suffix(b"\0").unwrap_or(body),
            tag::PARSE => Parse::parse(body).map_or(body, |parse| parse.query),
            _ => return false,
        };
        let effects = effects(text, self.session_dialect());
        let mut steps = effects.steps().iter();
        steps.any(|step| step.effect == Effect::Begin)
    }
}

impl Relay<'_> {
    /// Answers such a message in its turn, behind what the server has not answered: that undoes what came before it in its
    /// batch, and skips the rest.
    pub(super) fn refuse_begin(&mut self, tag: u8) {
        let mut messages = Vec::new();
        Bind::encode(&mut messages, BEGINS, BEGINS, [], [], []);
        self.note(Owed::BindComplete, Fate::Forward, 0);
        if tag == tag::QUERY {
            messages.extend_from_slice(&SYNC);
            self.note(Owed::Ready, Fate::Forward, 0);
        }
        self.server.stream.write(&messages);
    }
}
