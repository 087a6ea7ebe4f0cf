//! Messages that every leg sends and the client gets once: ParseComplete, BindComplete, RowDescription …
//!
//! The client gets the first leg's when the last leg has sent its own, so that none is followed by the error of a leg
//! that did not get so far.

use std::collections::VecDeque;

use crate::protocol::backend::tag;

/// Those that some legs have sent and others not yet.
#[derive(Debug, Default)]
pub(super) struct Uniform {
    /// The first leg's bytes where there are any, with the number of legs that have sent it.
    waiting: VecDeque<(Vec<u8>, usize)>,
    passed: usize,
}

impl Uniform {
    /// Is a message of this tag one of them?
    pub(super) const fn is(tag: u8) -> bool {
        matches!(
            tag,
            tag::PARSE_COMPLETE
                | tag::BIND_COMPLETE
                | tag::CLOSE_COMPLETE
                | tag::NO_DATA
                | tag::PARAMETER_DESCRIPTION
                | tag::ROW_DESCRIPTION
                | tag::COPY_IN_RESPONSE
                | tag::COPY_OUT_RESPONSE
        )
    }

    /// How many the client got.
    pub(super) const fn passed(&self) -> usize {
        self.passed
    }

    /// Have all legs sent the same number of them?
    pub(super) fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What the first leg to send the message number `number` sent. `None`: nobody has yet.
    pub(super) fn sent(&self, number: usize) -> Option<&[u8]> {
        let index = number.checked_sub(self.passed)?;
        self.waiting
            .get(index)
            .map(|(message, _)| message.as_slice())
    }

    /// A leg has sent `message` as its message number `number`. Gives the message that the client gets, if now.
    pub(super) fn take(
        &mut self,
        number: usize,
        legs: usize,
        is_first: bool,
        message: &[u8],
    ) -> Option<Vec<u8>> {
        let index = number.checked_sub(self.passed)?;
        match self.waiting.get_mut(index) {
            None => self.waiting.push_back((message.to_vec(), 1)),
            Some((kept, count)) => {
                *count += 1;
                if is_first {
                    *kept = message.to_vec();
                }
            }
        }
        if self
            .waiting
            .front()
            .is_some_and(|(_, count)| *count == legs)
        {
            self.passed += 1;
            return self.waiting.pop_front().map(|(message, _)| message);
        }
        None
    }
}
