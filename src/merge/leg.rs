//! One leg's messages that wait to be merged, one behind the other in one buffer.

use crate::protocol::wire::Malformed;

/// One leg.
#[derive(Debug, Default)]
pub(super) struct Leg {
    buffer: Vec<u8>,
    /// `buffer[..head]` has been taken. `0 <= head <= buffer.len()`
    head: usize,
    /// Messages of which the client gets one from all legs together, see [`super::uniform`].
    pub(super) uniform: usize,
    pub(super) end: Option<End>,
    /// Does it wait to be asked for more rows?
    pub(super) suspended: bool,
    /// Has CopyDone come?
    pub(super) copy_done: bool,
    /// Has any CopyData come?
    pub(super) copy_begun: bool,
}

/// How a leg's reply ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// CommandComplete with this tag.
    Complete(Box<[u8]>),
    /// EmptyQueryResponse.
    Empty,
    /// ErrorResponse.
    Failed,
}

impl Leg {
    pub(super) fn push(&mut self, message: &[u8]) {
        if self.head > self.buffer.len() / 2 {
            self.buffer.drain(..self.head);
            self.head = 0;
        }
        self.buffer.extend_from_slice(message);
    }

    /// The first message that waits: all its bytes.
    pub(super) fn front(&self) -> Option<&[u8]> {
        let rest = self.buffer.get(self.head..)?;
        let (_, length) = header(rest).ok()?;
        rest.get(..length)
    }

    /// Takes the first message away.
    pub(super) fn pop(&mut self) {
        self.head += self.front().map_or(0, <[u8]>::len);
        if self.head == self.buffer.len() {
            self.buffer.clear();
            self.head = 0;
        }
    }

    /// Does nothing more come of it by itself?
    pub(super) const fn is_quiet(&self) -> bool {
        self.end.is_some() || self.suspended
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.head == self.buffer.len()
    }

    /// Bytes that wait.
    pub(super) const fn waiting_bytes(&self) -> usize {
        self.buffer.len() - self.head
    }

    /// Bytes of memory.
    pub(super) const fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    pub(super) fn clear(&mut self) {
        self.buffer = Vec::new();
        self.head = 0;
    }
}

/// Tag of a message, and its length with the header.
pub(super) fn header(message: &[u8]) -> Result<(u8, usize), Malformed> {
    let malformed = Malformed { message: "message" };
    let [tag, a, b, c, d, ..] = *message else {
        return Err(malformed);
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| malformed)?;
    (length >= 4).then_some((tag, length + 1)).ok_or(malformed)
}
