//! Messages that every leg sends and the client gets once: ParseComplete, BindComplete, RowDescription …
//!
//! The client gets the first leg's when the last leg has sent its own, so that none is followed by the error of a leg
//! that did not get so far.

use std::collections::VecDeque;

use crate::protocol::backend::tag;

/// Those that some legs have sent and others not yet.
#[derive(Debug, Default)]
pub(super) struct Uniform {
    waiting: VecDeque<Waiting>,
    passed: usize,
    /// Those that the client got, where other legs send theirs later.
    kept: Option<Vec<(usize, Vec<u8>)>>,
}

#[derive(Debug)]
struct Waiting {
    /// Of leg 0 if that has sent it.
    message: Vec<u8>,
    leg: usize,
    /// How many have sent it.
    count: usize,
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

    /// Not all legs are asked at the same time.
    pub(super) fn keep(&mut self) {
        self.kept = Some(Vec::new());
    }

    /// The message of this number, with the leg that has sent it. `None`: none has yet.
    pub(super) fn sent(&self, number: usize) -> Option<(usize, &[u8])> {
        let Some(index) = number.checked_sub(self.passed) else {
            let (leg, message) = self.kept.as_ref()?.get(number)?;
            return Some((*leg, message));
        };
        let waiting = self.waiting.get(index)?;
        Some((waiting.leg, &waiting.message))
    }

    /// A leg has sent `message` as its message number `number`; `legs` were asked. Gives the message that the client gets, if now: that of leg 0.
    pub(super) fn take(
        &mut self,
        number: usize,
        legs: usize,
        leg: usize,
        message: &[u8],
    ) -> Option<Vec<u8>> {
        let index = number.checked_sub(self.passed)?;
        match self.waiting.get_mut(index) {
            None => self.waiting.push_back(Waiting {
                message: message.to_vec(),
                leg,
                count: 1,
            }),
            Some(waiting) => {
                waiting.count += 1;
                if leg == 0 {
                    waiting.leg = leg;
                    waiting.message = message.to_vec();
                }
            }
        }
        self.next(legs)
    }

    /// The next message that so many legs have sent, for the client.
    pub(super) fn next(&mut self, legs: usize) -> Option<Vec<u8>> {
        if self.waiting.front()?.count < legs {
            return None;
        }
        self.passed += 1;
        let waiting = self.waiting.pop_front()?;
        if let Some(kept) = &mut self.kept {
            kept.push((waiting.leg, waiting.message.clone()));
        }
        Some(waiting.message)
    }
}
