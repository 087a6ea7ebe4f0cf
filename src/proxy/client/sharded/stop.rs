//! Why something of several steps of our own does not get further.

use crate::error::Error;
use crate::protocol::backend::tag;
use crate::protocol::wire::put_message;

use super::super::super::server::RunError;
use super::super::{End, Session};
use super::{lost, Leg};

pub(super) enum Stop {
    /// The client is to be told.
    Error(Error),
    /// The client is to be told what a server says: the body of its ErrorResponse.
    Server(Vec<u8>),
    End(End),
}

impl Stop {
    /// A server could not be asked.
    pub(super) fn of(leg: &Leg, why: RunError) -> Self {
        match why {
            RunError::Server(body) => Self::Server(body),
            RunError::Lost(lost) => Self::End(lost::amid(leg, &lost, false)),
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

impl Session {
    /// The client is told.
    pub(super) fn tell_stop(&mut self, stop: Stop) -> Result<(), End> {
        match stop {
            Stop::Error(error) => self.tell(&error),
            Stop::Server(body) => {
                self.link.meter.error();
                let mut message = Vec::new();
                put_message(&mut message, tag::ERROR_RESPONSE, |out| {
                    out.extend_from_slice(&body);
                });
                self.stream.send_vec(message);
            }
            Stop::End(end) => return Err(end),
        }
        Ok(())
    }
}
