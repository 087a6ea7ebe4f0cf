//! What a request needs, where there is a choice between servers.

use super::obtain::Aim;
use super::{End, Session};

impl Session {
    /// What the request in front needs. `None`: it was answered with an error.
    pub(super) fn route(&mut self) -> Result<Option<Aim>, End> {
        match self.wanted() {
            Ok(want) => Ok(Some(Aim { shard: 0, want })),
            Err(error) => self.answer(&error).map(|()| None),
        }
    }
}
