//! Settings that travel ahead of a client's request, in the same write: one round trip less.
//!
//! ```text
//!   Parse Bind Execute   BEGIN
//!   Parse Bind Execute   each change
//!   Parse Bind Execute   COMMIT          no Sync
//!   the client's first batch             its own Sync, or a Query
//! ```
//!
//! Whatever goes wrong with the changes, PostgreSQL ignores all that follows up to a Sync, and so the request; a Query
//! is ignored, too. With the batch after that it would go on: it has to wait until the changes are known to be made.
//! COMMIT keeps them apart from the client's own transaction, whose ROLLBACK must not undo them.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>

use std::rc::Rc;
use std::sync::Arc;

use crate::protocol::backend::{tag, ParameterStatus};
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend::{Bind, Execute, Parse};
use crate::protocol::parameters::Parameters;
use crate::sql::lexer::Dialect;
use crate::sql::settings::{Settings, Transition};

use super::{Lost, Recipient, Server, NOTE_AHEAD};

/// Changes that are sent ahead; more go by a Query of their own.
const CHANGES_MAX: usize = 32;

/// How far changes are that travel ahead.
#[derive(Debug, Default)]
pub(super) enum Ahead {
    /// There are none.
    #[default]
    Nothing,
    /// They were sent, and nothing of the client's behind them yet.
    Fresh,
    /// And something of the client's.
    UnderWay,
    /// They were refused: the body of the ErrorResponse.
    Refused(Vec<u8>),
}

impl Server {
    /// Sends the changes from the settings that the server has to these. The server must be at rest, and the client's
    /// request must follow in this turn. `reported`: what a server with these settings has reported. False: that cannot
    /// be done in this way, and nothing was sent.
    pub(crate) fn send_ahead(
        &mut self,
        settings: &Arc<Settings>,
        reported: &Rc<Parameters>,
    ) -> bool {
        if self.dialect != Dialect::default() || !settings.reads_as(&self.settings) {
            return false;
        }
        let Some(transition) = Transition::between(&self.settings, settings) else {
            return false;
        };
        let Some(changes) = transition
            .statements()
            .filter(|all| all.len() <= CHANGES_MAX)
        else {
            return false;
        };
        let mut message = Vec::with_capacity(transition.text.len() + 40 * (changes.len() + 2));
        let texts = [&b"BEGIN"[..]].into_iter().chain(changes);
        for text in texts {
            self.add_ahead(&mut message, text, 0);
        }
        self.add_ahead(&mut message, b"COMMIT", NOTE_AHEAD);
        self.stream.send_vec(message);
        self.settings = Arc::clone(settings);
        self.ahead = Ahead::Fresh;
        self.reported_ahead = Some(Rc::clone(reported));
        true
    }

    fn add_ahead(&mut self, message: &mut Vec<u8>, text: &[u8], note: u8) {
        Parse::encode(message, b"", text, []);
        Bind::encode(message, b"", b"", [], [], []);
        let portal = b"";
        Execute {
            portal,
            rows_max: 0,
        }
        .encode(message);
        self.exchange.sent(Owed::ParseComplete, Fate::Drop);
        self.exchange.sent(Owed::BindComplete, Fate::Drop);
        self.exchange.sent_with(Owed::Execution, Fate::Drop, note);
    }

    /// Are changes under way?
    #[inline]
    pub(crate) fn has_ahead(&self) -> bool {
        !matches!(self.ahead, Ahead::Nothing)
    }

    /// The first of the client's messages has gone behind them. False: it was not the first, or there are none.
    pub(crate) fn begin_behind(&mut self) -> bool {
        let first = matches!(self.ahead, Ahead::Fresh);
        if first {
            self.ahead = Ahead::UnderWay;
        }
        first
    }

    /// Are there changes, and nothing of the client's behind them yet?
    pub(crate) fn is_fresh_behind(&self) -> bool {
        matches!(self.ahead, Ahead::Fresh)
    }

    /// Has the client's next message to wait until the changes are made?
    #[inline]
    pub(crate) fn holds_behind(&self) -> bool {
        self.has_ahead() && self.exchange.batches_owed() > 0
    }

    /// Is this report due to the changes, and nothing that the client does not know? PostgreSQL 14 and later make it
    /// when they are about to say ReadyForQuery.
    pub(super) fn was_ahead(&self, name: &[u8], value: &[u8]) -> bool {
        let known = self.reported_ahead.as_ref();
        known.is_some_and(|known| known.get(name) == Some(value)) && Parameters::is_settable(name)
    }

    /// The client was told this value.
    #[inline]
    pub(super) fn told(&mut self, name: &[u8], value: &[u8]) {
        if let Some(known) = &mut self.reported_ahead {
            Rc::make_mut(known).set(name, value);
        }
    }

    /// The first ReadyForQuery after the changes. A parameter that the request has set to what it was before them is
    /// not reported, as it did not change; but to the client it did.
    pub(super) fn tell_reported(&mut self, to: &mut impl Recipient) {
        let Some(known) = self.reported_ahead.take() else {
            return;
        };
        let mut message = Vec::new();
        for (name, value) in known.iter() {
            let now = self.reported.get(name).filter(|now| *now != value);
            if let Some(value) = now.filter(|_| Parameters::is_settable(name)) {
                ParameterStatus { name, value }.encode(&mut message);
                to.parameter(name, value);
            }
        }
        if !message.is_empty() {
            to.forward_copy(&message);
        }
    }

    /// A reply came while changes are under way: it is one to them.
    pub(super) fn answered_ahead(&mut self, tag: u8) {
        let note = self.exchange.take_note();
        if tag == tag::COMMAND_COMPLETE && note & NOTE_AHEAD != 0 {
            self.ahead = Ahead::Nothing;
        }
    }

    /// The changes were refused. The connection is in a failed transaction, and ends.
    pub(super) fn refused_ahead(&mut self, body: Option<&[u8]>) {
        self.exchange.note_farewell();
        self.ahead = Ahead::Refused(body.unwrap_or_default().to_vec());
    }

    /// Errors: the changes were refused.
    #[inline]
    pub(super) fn check_ahead(&mut self) -> Result<(), Lost> {
        match &mut self.ahead {
            Ahead::Refused(body) => Err(Lost::Unset(std::mem::take(body))),
            Ahead::Nothing | Ahead::Fresh | Ahead::UnderWay => Ok(()),
        }
    }
}
