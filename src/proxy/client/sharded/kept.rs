//! What is kept of the answers to a call whose rows are not, or not yet, for the client.

use crate::error::Error;
use crate::merge::gather::Gathered;
use crate::protocol::backend::tag;
use crate::protocol::frame::{Frames, BODY_BYTES_MAX};

use super::scatter::{too_large, MESSAGE_BYTES_MAX};

/// What is kept of the answers to a call that are not for the client.
pub(super) struct Kept {
    /// What has come, but for errors.
    pub(super) messages: Messages,
    /// ErrorResponse, if it failed.
    pub(super) error: Option<Vec<u8>>,
}

/// How they are kept.
pub(super) enum Messages {
    /// As they are.
    Whole(Vec<u8>),
    /// Their rows.
    Rows(Gathered),
}

impl Kept {
    pub(super) fn whole() -> Self {
        Self {
            messages: Messages::Whole(Vec::new()),
            error: None,
        }
    }

    pub(super) fn rows(gathered: Gathered) -> Self {
        Self {
            messages: Messages::Rows(gathered),
            error: None,
        }
    }

    /// Bytes of memory.
    pub(super) fn held_bytes(&self) -> usize {
        match &self.messages {
            Messages::Whole(kept) => kept.capacity(),
            Messages::Rows(gathered) => gathered.held_bytes(),
        }
    }

    /// Takes whole messages. Errors: there are too many, or rows that cannot be kept.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut frames = Frames::new(bytes, BODY_BYTES_MAX);
        while let Some(Ok(frame)) = frames.next() {
            if frame.tag == tag::ERROR_RESPONSE {
                self.error.get_or_insert_with(|| frame.message.to_vec());
                continue;
            }
            match &mut self.messages {
                Messages::Whole(kept) if kept.len() + frame.message.len() > MESSAGE_BYTES_MAX => {
                    return Err(too_large());
                }
                Messages::Whole(kept) => kept.extend_from_slice(frame.message),
                Messages::Rows(gathered) => gathered.take(frame.message)?,
            }
        }
        Ok(())
    }
}
