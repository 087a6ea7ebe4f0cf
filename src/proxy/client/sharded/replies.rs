//! What one of several servers has answered, until it is merged.

use cores::Buf;

use crate::metrics::Answered;
use crate::protocol::error_fields::Fields;
use crate::protocol::sqlstate::SqlState;
use crate::types::canonical::Columns;

use super::super::super::server::{OnError, Recipient};

/// Replies of one server that nobody has merged yet.
#[derive(Default)]
pub(super) struct Replies {
    pub(super) bytes: Vec<u8>,
    pub(super) parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// Columns of its rows that have OIDs of types within.
    pub(super) columns: Columns,
    /// The error that the client gets when it is cancelled.
    pub(super) cancelled: Option<Vec<u8>>,
}

impl Replies {
    /// Puts back the last bytes of what was looked at. A large message comes in many pieces: it is not copied for each.
    pub(super) fn keep(&mut self, bytes: Vec<u8>, rest: usize) {
        self.bytes = match bytes.len() - rest {
            0 => bytes,
            looked_at => bytes[looked_at..].to_vec(),
        };
    }
}

impl Recipient for Replies {
    const CLIENT: bool = true;

    fn forward(&mut self, buf: Buf) {
        self.bytes.extend_from_slice(&buf);
    }

    fn forward_copy(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn parameter(&mut self, name: &[u8], value: &[u8]) {
        self.parameters.push((name.to_vec(), value.to_vec()));
    }

    fn failed(&mut self, fields: Option<&Fields<'_>>) -> OnError {
        let code = fields.and_then(Fields::code);
        match &self.cancelled {
            Some(error) if code == Some(SqlState::QUERY_CANCELED) => {
                OnError::Replace(error.clone())
            }
            _ => OnError::Forward,
        }
    }

    fn ready(&mut self, _answered: Option<Answered>) {}
}
