//! Memory of statements over shards. Each core has its part of what the process may take for all of them.

use std::rc::Rc;

use crate::error::Error;
use crate::merge::too_much_memory;

use super::super::super::core_state::CoreState;

/// What a statement may take whatever others have: so that who needs little does not suffer from who needs much.
const FREE_BYTES: usize = 1024 * 1024;

/// What one statement holds, as long as this is there.
pub(super) struct Charge {
    state: Rc<CoreState>,
    bytes: usize,
}

impl Charge {
    pub(super) fn new(state: &Rc<CoreState>) -> Self {
        let state = Rc::clone(state);
        Self { state, bytes: 0 }
    }

    /// It holds so many bytes now. Errors: 53200 when it has grown, and all of this core's together hold too much.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), Error> {
        self.set_besides(bytes, 0)
    }

    /// The same where what it belongs to holds `others` besides, of which the same may be had whatever others have.
    pub(super) fn set_besides(&mut self, bytes: usize, others: usize) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let all = &self.state.merging_bytes;
        all.set(all.get() - before + bytes);
        if bytes <= before || bytes + others <= FREE_BYTES {
            return Ok(());
        }
        let part = self.state.config().routing.merge_bytes_max / self.state.sharers();
        match all.get() <= part {
            true => Ok(()),
            false => Err(too_much_memory(part)),
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let all = &self.state.merging_bytes;
        all.set(all.get() - self.bytes);
    }
}
