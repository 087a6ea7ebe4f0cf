//! Which server a request goes to, where there is a choice.

use std::rc::Rc;

use super::{End, Session};

impl Session {
    /// Turns to the pool that the request in front goes to. False: it was answered with an error.
    pub(super) fn route(&mut self) -> Result<bool, End> {
        let want = match self.wanted() {
            Ok(want) => want,
            Err(error) => return self.answer(&error).map(|()| false),
        };
        if let Some(slot) = self.cluster.pick(0, want) {
            let slot = Rc::clone(slot);
            self.turn_to(slot);
        }
        Ok(true)
    }
}
