//! What a client has sent and nobody has taken yet.

use cores::{Buf, Stream};

use crate::error::Error;
use crate::protocol::frame::{peek, Header, HEADER_BYTES};

/// Largest body of a client's message: PostgreSQL's own limit for those that may be large.
pub(super) const CLIENT_BODY_BYTES_MAX: usize = 0x3fff_fffe - 4;

/// Received bytes, in the receive buffer while they are on their way through, in a vector of their own size when
/// they have to wait. Nothing while the client idles.
#[derive(Default)]
pub(super) struct Inbound {
    pending: Pending,
    /// Bytes at the front that are whole messages of an unfinished request.
    scanned: usize,
    /// Bytes still to come of a message whose beginning was passed on or skipped.
    amid: Option<Amid>,
}

#[derive(Default)]
enum Pending {
    #[default]
    Nothing,
    Lent(Buf),
    Kept {
        bytes: Vec<u8>,
        done: usize,
    },
}

/// In the middle of a message.
#[derive(Clone, Copy)]
enum Amid {
    Passed { bytes_left: usize },
    Skipped { bytes_left: usize },
}

impl Inbound {
    /// What came along with the login.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        let pending = if bytes.is_empty() {
            Pending::Nothing
        } else {
            Pending::Kept { bytes, done: 0 }
        };
        Self {
            pending,
            scanned: 0,
            amid: None,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.pending {
            Pending::Nothing => &[],
            Pending::Lent(buf) => buf,
            Pending::Kept { bytes, done } => bytes.get(*done..).unwrap_or_default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self.pending, Pending::Nothing)
    }

    /// The next message, tag and body, if it is here from beginning to end.
    pub(super) fn whole_message(&self) -> Option<(u8, &[u8])> {
        let here = self.bytes();
        let header = peek(here, CLIENT_BODY_BYTES_MAX).ok()??;
        let body = here.get(HEADER_BYTES..header.frame_bytes())?;
        Some((header.tag, body))
    }

    /// Was a part of a message passed on whose rest has not come?
    pub(super) fn is_amid_message(&self) -> bool {
        matches!(self.amid, Some(Amid::Passed { .. }))
    }

    /// In the middle of a message, passed on or skipped?
    pub(super) fn is_amid(&self) -> bool {
        self.amid.is_some()
    }

    /// How far the request at the front was looked at, as [`Self::note_scanned`] has said since anything was taken out.
    pub(super) fn scanned(&self) -> usize {
        self.scanned
    }

    /// So many bytes at the front are whole messages of the request.
    pub(super) fn note_scanned(&mut self, bytes: usize) {
        self.scanned = bytes;
    }

    /// Adds what has come.
    pub(super) fn push(&mut self, buf: Buf) {
        match &mut self.pending {
            Pending::Nothing => self.pending = Pending::Lent(buf),
            Pending::Lent(_) => {
                self.settle();
                self.push(buf);
            }
            Pending::Kept { bytes, done } => {
                bytes.drain(..std::mem::take(done));
                bytes.extend_from_slice(&buf);
            }
        }
    }

    /// Puts bytes that were taken in front again. Not in the middle of a message.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        self.scanned = 0;
        let bytes = [bytes, self.bytes()].concat();
        self.pending = Pending::Kept { bytes, done: 0 };
    }

    /// Gives the receive buffer back, keeping its bytes.
    pub(super) fn settle(&mut self) {
        if let Pending::Lent(buf) = &self.pending {
            self.pending = match buf.is_empty() {
                true => Pending::Nothing,
                false => Pending::Kept {
                    bytes: buf.to_vec(),
                    done: 0,
                },
            };
        }
    }

    /// The header of the next message; the rest of a skipped one is removed on the way.
    ///
    /// Errors: a length that cannot be. In the middle of a message that was passed on there is no next one.
    pub(super) fn next(&mut self) -> Result<Option<Header>, Error> {
        if let Some(Amid::Skipped { bytes_left }) = self.amid {
            self.amid = None;
            self.skip_bytes(bytes_left);
        }
        if self.amid.is_some() {
            return Ok(None);
        }
        Ok(peek(self.bytes(), CLIENT_BODY_BYTES_MAX)?)
    }

    /// Takes the next `count` bytes out, at most those that are here.
    pub(super) fn take(&mut self, count: usize) -> Vec<u8> {
        let bytes = self.bytes();
        let taken = bytes.get(..count).unwrap_or(bytes).to_vec();
        self.consume(taken.len());
        taken
    }

    /// Removes the next message.
    pub(super) fn skip(&mut self, header: Header) {
        self.skip_bytes(header.frame_bytes());
    }

    /// Removes so many bytes, those that are still to come as well.
    pub(super) fn skip_bytes(&mut self, count: usize) {
        let here = count.min(self.len());
        self.consume(here);
        self.amid = (here < count).then_some(Amid::Skipped {
            bytes_left: count - here,
        });
    }

    /// Passes the rest of a message on that was begun. False when there is none, or no byte of it.
    pub(super) fn pass_rest(&mut self, to: &Stream) -> bool {
        let Some(Amid::Passed { bytes_left }) = self.amid else {
            return false;
        };
        let here = bytes_left.min(self.len());
        self.pass(here, to);
        self.amid = (here < bytes_left).then_some(Amid::Passed {
            bytes_left: bytes_left - here,
        });
        here > 0
    }

    /// Passes `count` bytes on, at most those that are here; the rest follows as it comes.
    pub(super) fn pass_messages(&mut self, count: usize, to: &Stream) {
        let here = count.min(self.len());
        self.pass(here, to);
        self.amid = (here < count).then_some(Amid::Passed {
            bytes_left: count - here,
        });
    }

    fn pass(&mut self, count: usize, to: &Stream) {
        self.scanned = 0;
        match &mut self.pending {
            Pending::Nothing => {}
            Pending::Lent(buf) => to.send(buf.split_to(count)),
            Pending::Kept { bytes, done } => {
                to.write(bytes.get(*done..*done + count).unwrap_or_default())
            }
        }
        if let Pending::Kept { done, .. } = &mut self.pending {
            *done += count;
        }
        self.release_if_done();
    }

    fn consume(&mut self, count: usize) {
        self.scanned = 0;
        match &mut self.pending {
            Pending::Nothing => {}
            Pending::Lent(buf) => buf.advance(count),
            Pending::Kept { done, .. } => *done += count,
        }
        self.release_if_done();
    }

    fn release_if_done(&mut self) {
        if self.bytes().is_empty() {
            self.pending = Pending::Nothing;
        }
    }
}
