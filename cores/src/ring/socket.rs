//! What is known of one socket: what it receives, what it has queued, which operations the kernel has of it.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::Waker;

use socket2::SockAddr;

use crate::buffer::Buf;
use crate::tls::Session;

/// Pieces one send may gather.
const GATHER_MAX: usize = 16;

/// Something to send, owned until the kernel has sent it.
pub(crate) enum Chunk {
    Lent(Buf),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

impl Chunk {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Lent(buf) => buf,
            Chunk::Owned(vec) => vec,
            Chunk::Static(bytes) => bytes,
        }
    }
}

/// A receive that the kernel has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Armed {
    No,
    /// It ends with the first thing that it brings.
    Once,
    /// It goes on.
    Many,
    /// It was cancelled, and has not ended yet.
    Ending,
}

/// What receives have brought, until the reader takes it.
pub(super) enum Receive {
    Nothing,
    /// Wanted while the kernel had no buffer; armed again as soon as it has.
    Starved,
    Data(Buf),
    End,
    Failed(i32),
}

impl Receive {
    /// What there is for the reader, if anything: bytes once, the end or an error for ever.
    #[inline]
    pub(super) fn take(&mut self) -> Option<io::Result<Option<Buf>>> {
        match self {
            Self::Nothing | Self::Starved => None,
            Self::Data(_) => self.take_data().map(|buf| Ok(Some(buf))),
            Self::End => Some(Ok(None)),
            Self::Failed(errno) => Some(Err(io::Error::from_raw_os_error(*errno))),
        }
    }

    /// The same of bytes only.
    #[inline]
    pub(super) fn take_data(&mut self) -> Option<Buf> {
        match mem::replace(self, Self::Nothing) {
            Self::Data(buf) => Some(buf),
            other => {
                *self = other;
                None
            }
        }
    }
}

pub(super) enum Link {
    Connecting(
        #[expect(dead_code, reason = "the kernel reads it until the connect completes")]
        Box<SockAddr>,
    ),
    Connected,
    Failed(i32),
}

#[derive(PartialEq, Eq, Clone, Copy)]
pub(super) enum Sending {
    Nothing,
    /// Has something queued, and is in the ring's list of those.
    Dirty,
    /// The first `chunks` of the queue are with the kernel, `bytes` in all.
    InFlight {
        chunks: u32,
        bytes: usize,
    },
}

// There are as many of these as clients.
const _: () = assert!(size_of::<Sending>() == 16);

impl Sending {
    /// Chunks that are with the kernel.
    pub(super) fn chunks(self) -> usize {
        match self {
            Self::InFlight { chunks, .. } => chunks as usize,
            Self::Nothing | Self::Dirty => 0,
        }
    }
}

/// A socket's send queue; a socket with nothing to send has none.
pub(super) struct Queue {
    pub(super) chunks: VecDeque<Chunk>,
    pub(super) pieces: [libc::iovec; GATHER_MAX],
    pub(super) message: libc::msghdr,
}

pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) link: Link,
    pub(super) receive: Receive,
    pub(super) armed: Armed,
    /// More has come than `receive` holds: [`State::behind`](super::State) has it.
    pub(super) behind: bool,
    /// So many receives end with what they bring, before one goes on.
    pub(super) calm: u8,
    /// The last receive said that there is more: try at once instead of polling first.
    pub(super) more: bool,
    pub(super) sending: Sending,
    pub(super) send_error: Option<i32>,
    pub(super) queue: Option<Box<Queue>>,
    /// Encrypts between the queue and the wire. An empty chunk in the queue is what TLS itself has to say.
    pub(super) tls: Option<Box<Session>>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Its `Stream` is gone; the slot waits for its last completion.
    pub(super) abandoned: bool,
}

pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) accepted: VecDeque<OwnedFd>,
    pub(super) armed: bool,
    pub(super) error: Option<i32>,
    pub(super) waker: Option<Waker>,
    pub(super) abandoned: bool,
    pub(super) holder: Holder,
}

/// Who holds a listening socket, and so decides over its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Us,
    /// Another core, from now on.
    Another,
    ServiceManager,
}

impl Listener {
    /// Refuses new connections at once, unless others are to accept them.
    pub(super) fn refuse(&self) {
        if self.holder == Holder::Us {
            // SAFETY: the descriptor is open: we own it.
            unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_RDWR) };
        }
    }
}

impl Socket {
    pub(super) fn in_flight(&self) -> bool {
        self.armed != Armed::No
            || matches!(self.sending, Sending::InFlight { .. })
            || matches!(self.link, Link::Connecting(_))
    }

    /// Something is queued: has the ring to list it for the end of the turn? From now on it counts as listed.
    pub(super) fn becomes_dirty(&mut self) -> bool {
        let dirty = self.sending == Sending::Nothing && !matches!(self.link, Link::Connecting(_));
        if dirty {
            self.sending = Sending::Dirty;
        }
        dirty
    }
}

impl Queue {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: both are plain C structures for which all zeroes is the empty value.
        let (piece, message) =
            unsafe { (mem::zeroed::<libc::iovec>(), mem::zeroed::<libc::msghdr>()) };
        Box::new(Self {
            chunks: VecDeque::new(),
            pieces: [piece; GATHER_MAX],
            message,
        })
    }

    /// Adds a chunk, as part of the last one if it continues that in memory. The first `fixed` are with the kernel.
    pub(super) fn push(&mut self, chunk: Chunk, fixed: usize) {
        let open = self.chunks.len() > fixed;
        let chunk = match (chunk, self.chunks.back_mut()) {
            (Chunk::Lent(next), Some(Chunk::Lent(last))) if open => match last.join(next) {
                Ok(()) => return,
                Err(next) => Chunk::Lent(next),
            },
            (chunk, _) => chunk,
        };
        self.chunks.push_back(chunk);
    }

    /// Points the message header at the first chunks; returns how many, and their bytes. It stays valid while the queue is in its
    /// box and those chunks are in the queue: the kernel copies header and pieces when the entry is submitted.
    pub(super) fn gather(&mut self) -> (u32, usize) {
        let (mut count, mut total) = (0_u32, 0);
        for (piece, chunk) in self.pieces.iter_mut().zip(&self.chunks) {
            let bytes = chunk.bytes();
            *piece = libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            count += 1;
            total += bytes.len();
        }
        self.message.msg_iov = self.pieces.as_mut_ptr();
        self.message.msg_iovlen = count as usize;
        (count, total)
    }
}
