//! What servers say beside their answers while a transaction is committed, for its client.

use crate::protocol::backend::tag;
use crate::protocol::frame::{Frames, BODY_BYTES_MAX};

/// Notifications of each server; notices and settings, which are the same on all, of the first that has answered.
#[derive(Default)]
pub(super) struct Heard {
    messages: Vec<u8>,
    first: Option<u32>,
}

impl Heard {
    /// Takes what came beside an answer of a shard's server: whole messages.
    pub(super) fn take(&mut self, shard: u32, asides: &[u8]) {
        let is_first = *self.first.get_or_insert(shard) == shard;
        for frame in Frames::new(asides, BODY_BYTES_MAX).map_while(Result::ok) {
            if is_first || frame.tag == tag::NOTIFICATION_RESPONSE {
                self.messages.extend_from_slice(frame.message);
            }
        }
    }

    pub(super) fn into_messages(self) -> Vec<u8> {
        self.messages
    }
}
