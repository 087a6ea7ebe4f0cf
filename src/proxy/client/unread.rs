//! A Query or Parse that is too large to be read (`request::READ_BYTES_MAX`): it passes as it comes.

use std::rc::Rc;

use crate::config::choice::QuerySizeAction;
use crate::error::{Error, Fault};
use crate::protocol::exchange::{Fate, Note, Owed};
use crate::protocol::frame::{Header, HEADER_BYTES};
use crate::protocol::frontend::tag;
use crate::protocol::sqlstate::SqlState;

use super::super::server::{NOTE_CLIENT, NOTE_UNNAMED};
use super::{End, Relay, Session};

impl Relay<'_> {
    /// Passes a message that is too large to be read: whatever it does will be undone before the next client comes.
    pub(super) fn pass_unread(&mut self, header: Header) {
        let (owed, note) = match header.tag {
            tag::QUERY => {
                self.end_batch(tag::QUERY);
                (Owed::Results, 0)
            }
            tag::PARSE => (Owed::ParseComplete, self.parse_unread()),
            _ => (Owed::Execution, 0),
        };
        if owed != Owed::Execution {
            self.session.ties.note_unread();
        }
        self.note(owed, Fate::Forward, note);
        self.session
            .inbound
            .pass_messages(header.frame_bytes(), &self.server.stream);
    }

    /// The Parse in front passes as it is, unread. Answers the note for it.
    fn parse_unread(&mut self) -> Note {
        let body = self.session.inbound.bytes().get(HEADER_BYTES..);
        let name = body.and_then(|body| body.split(|byte| *byte == 0).next());
        let name: Box<[u8]> = name.unwrap_or_default().into();
        self.session.know(&name, &Rc::default());
        match (self.session.renames(name.is_empty()), name.is_empty()) {
            (false, false) => 0,
            (false, true) => {
                self.remember_none();
                NOTE_UNNAMED
            }
            (true, true) => {
                // Until the next one it is unnamed on the server, too.
                self.session.statements.remove(&name);
                NOTE_CLIENT
            }
            (true, false) => {
                if let Some(statement) = self.session.statements.get(&name).ok().cloned() {
                    self.parse_twice(&statement); // what follows is skipped
                }
                0
            }
        }
    }
}

impl Session {
    /// `query_size_limit`. Errors: a Query or Parse above it, if such are refused; others are logged if `says`.
    pub(super) fn check_query_bytes(&self, header: Header, says: bool) -> Result<(), End> {
        let config = self.state.config();
        let clients = &config.clients;
        let bytes = header.frame_bytes() as u64;
        let Some(max) = clients.query_bytes_max.filter(|max| bytes > *max) else {
            return Ok(());
        };
        let text = format!("query of {bytes} bytes exceeds query_size_limit ({max})");
        if clients.query_size_action == QuerySizeAction::Block {
            let code = SqlState::PROGRAM_LIMIT_EXCEEDED;
            return Err(End::Fatal(Error::fatal(Fault::Client, code, text)));
        }
        if says {
            let client = self.link.key.process_id();
            tracing::warn!(client, "{text}");
        }
        Ok(())
    }
}
