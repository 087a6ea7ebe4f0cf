//! Which server a request goes to, where there is a choice.

use std::rc::Rc;

use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;
use crate::sql::settings::Settings;

use super::super::cluster::Want;
use super::{End, Session};

/// The setting by which a session asks for servers of a role.
const ROLE: &[u8] = b"pgdog.role";

impl Session {
    /// Turns to the pool that the request in front goes to. False: it was answered with an error.
    pub(super) fn route(&mut self) -> Result<bool, End> {
        let want = match asked_role(self.settings.committed()) {
            Ok(asked) => asked.unwrap_or(Want::Write),
            Err(error) => return self.answer(&error).map(|()| false),
        };
        if let Some(slot) = self.cluster.pick(0, want) {
            let slot = Rc::clone(slot);
            self.turn_to(slot);
        }
        Ok(true)
    }
}

/// What `pgdog.role` says. Errors: it is neither `primary` nor `replica`.
pub(super) fn asked_role(settings: &Settings) -> Result<Option<Want>, Error> {
    let Some(value) = settings.get(ROLE) else {
        return Ok(None);
    };
    let value = value.sql().trim_ascii();
    let quotes = |byte: &u8| matches!(byte, b'\'' | b'"');
    let bare: Vec<u8> = value.iter().copied().filter(|byte| !quotes(byte)).collect();
    match &*bare.to_ascii_lowercase() {
        b"primary" => Ok(Some(Want::Write)),
        b"replica" => Ok(Some(Want::Read)),
        _ => {
            let text = "invalid value for \"pgdog.role\"";
            let code = SqlState::INVALID_PARAMETER_VALUE;
            Err(Error::error(Fault::Client, code, text))
        }
    }
}
