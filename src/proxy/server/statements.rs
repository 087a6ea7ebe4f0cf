//! What a server has prepared, within its limit.

use crate::metrics::Stat;
use crate::prepared::server::Ensure;
use crate::prepared::Id;
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend::{Target, SYNC};

use super::{Server, NOTE_SERVER};

/// Prepared statements that are closed in front of one request because the limit was lowered.
const CLOSED_AT_ONCE_MAX: usize = 1000;

impl Server {
    /// A statement is about to be bound or described: what to send before.
    pub(crate) fn ensure(&mut self, id: Id) -> Ensure {
        let ensure = self.prepared.ensure(id);
        if matches!(ensure, Ensure::Prepare { evict: Some(_) }) {
            self.link.meter.counters().count(Stat::CloseCount);
        }
        ensure
    }

    /// Sends whole messages, in the numbers that the server has for types.
    pub(crate) fn write_messages(&self, messages: &[u8]) {
        match &self.types {
            None => self.stream.write(messages),
            Some(types) => {
                let mut messages = messages.to_vec();
                types.apply_to_request(&mut messages);
                self.stream.send_vec(messages);
            }
        }
    }

    /// Closes prepared statements beyond this limit, which may have been lowered, in front of what comes next. The server
    /// must be at rest.
    #[inline]
    pub(crate) fn trim(&mut self, limit: usize) {
        self.prepared.set_limit(limit);
        if self.prepared.is_beyond() {
            self.close_surplus();
        }
    }

    #[cold]
    fn close_surplus(&mut self) {
        let mut messages = Vec::new();
        for _ in 0..CLOSED_AT_ONCE_MAX {
            let Some(id) = self.prepared.trim() else {
                break;
            };
            Target::Statement(&id.server_name()).encode_close(&mut messages);
            self.exchange
                .sent_with(Owed::CloseComplete, Fate::Drop, NOTE_SERVER);
            self.link.meter.counters().count(Stat::CloseCount);
        }
        messages.extend_from_slice(&SYNC);
        self.stream.send_vec(messages);
        self.sent_to_ready(Owed::Ready, Fate::Drop, 0);
    }
}
