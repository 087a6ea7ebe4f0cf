//! One core's io_uring: sockets in slots, one enter per turn, completions to wakers.
//!
//! ```text
//! user_data:   op (8 bits) | generation (24) | slot (32)
//! ```
//!
//! A slot is free again only when every operation on it has completed, so the kernel never holds a pointer
//! into something freed, and a late completion never meets a new socket.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{ready, Context, Poll, Waker};
use std::time::{Duration, Instant};

use io_uring::{cqueue, opcode, squeue, types, EnterFlags, IoUring};
use socket2::SockAddr;

use crate::buffer::{Buf, Buffers, BUFFER_BYTES_U32};
use crate::limits::RingSize;
use crate::preflight::RingMode;
use crate::tls::{self, Opened, Session};

/// Size of every core's ring.
pub(crate) const SIZE: RingSize = RingSize {
    submissions: 512,
    completions: 8192,
    buffers: Buffers::ENTRIES,
};
/// The one group of provided buffers.
const GROUP: u16 = 0;
/// Pieces one send may gather.
const GATHER_MAX: usize = 16;
/// Chunks a socket queues before [`Ring::poll_room`] makes its writer wait.
const QUEUED_MAX: usize = 4;
/// Accepted sockets that may wait for their listener's task.
const ACCEPTED_MAX: usize = 1024;
/// A queued copy grows up to this before another one is begun.
const APPEND_BYTES_MAX: usize = 16 * 1024;
/// Small vectors kept for the next write, so that writing allocates nothing.
const SPARE_VECTORS: usize = 64;
const SPARE_VECTOR_BYTES: usize = 4096;
/// Send queues kept for the next socket with something to send.
const SPARE_QUEUES: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Op {
    Receive = 1,
    Send,
    Connect,
    Accept,
    Cancel,
    Bell,
}

/// A socket's place in its ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotId {
    slot: u32,
    generation: u32,
}

impl SlotId {
    fn user_data(self, op: Op) -> u64 {
        (op as u64) << 56 | u64::from(self.generation) << 32 | u64::from(self.slot)
    }
}

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

/// What a receive brought, until the reader takes it.
enum Receive {
    Idle,
    Armed,
    /// Wanted while the kernel had no buffer; armed again as soon as it has.
    Starved,
    Data(Buf),
    End,
    Failed(i32),
}

enum Link {
    Connecting(
        #[expect(dead_code, reason = "the kernel reads it until the connect completes")]
        Box<SockAddr>,
    ),
    Connected,
    Failed(i32),
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Sending {
    Nothing,
    /// Has something queued, and is in the ring's list of those.
    Dirty,
    /// The first `chunks` of the queue are with the kernel.
    InFlight {
        chunks: usize,
    },
}

impl Sending {
    /// Chunks that are with the kernel.
    fn chunks(self) -> usize {
        match self {
            Self::InFlight { chunks } => chunks,
            Self::Nothing | Self::Dirty => 0,
        }
    }
}

/// A socket's send queue; a socket with nothing to send has none.
struct Queue {
    chunks: VecDeque<Chunk>,
    pieces: [libc::iovec; GATHER_MAX],
    message: libc::msghdr,
}

struct Socket {
    fd: OwnedFd,
    link: Link,
    receive: Receive,
    /// The last receive said that there is more: try at once instead of polling first.
    more: bool,
    sending: Sending,
    send_error: Option<i32>,
    queue: Option<Box<Queue>>,
    /// Encrypts between the queue and the wire. An empty chunk in the queue is what TLS itself has to say.
    tls: Option<Box<Session>>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Its `Stream` is gone; the slot waits for its last completion.
    abandoned: bool,
}

struct Listener {
    fd: OwnedFd,
    accepted: VecDeque<OwnedFd>,
    armed: bool,
    error: Option<i32>,
    waker: Option<Waker>,
    abandoned: bool,
    /// Others listen on the same socket.
    shared: bool,
}

enum Slot {
    Free,
    Socket(Box<Socket>),
    Listener(Box<Listener>),
}

struct Entry {
    generation: u32,
    slot: Slot,
}

struct State {
    ring: IoUring,
    slots: Vec<Entry>,
    free: Vec<u32>,
    dirty: Vec<SlotId>,
    starved: Vec<SlotId>,
    spare_vectors: Vec<Vec<u8>>,
    #[expect(
        clippy::vec_box,
        reason = "a queue must not move while the kernel reads its message header"
    )]
    spare_queues: Vec<Box<Queue>>,
    /// Wakers of a turn, woken after the state is no longer borrowed.
    wake: Vec<Waker>,
    batch: Vec<cqueue::Entry>,
    bell: OwnedFd,
    bell_bytes: Box<[u8; 64]>,
}

/// The ring of one core. Not `Send`: created inside its executor, used by that thread only.
pub(crate) struct Ring {
    // Before `buffers`, so that the kernel lets go of them first.
    state: RefCell<State>,
    buffers: Rc<Buffers>,
    sockets: Cell<usize>,
}

/// What a round of completions brought.
struct Completed {
    any: bool,
    /// The bell: somebody has sent mail.
    rang: bool,
    /// Slots that became free.
    released: usize,
}

/// As the kernel's `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArguments {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_usec: u32,
    timeout: u64,
}

impl Ring {
    /// `bell` is the read end of a pipe: one byte in it ends a wait.
    pub(crate) fn new(bell: OwnedFd) -> io::Result<Self> {
        let ring = build(&SIZE)?;
        let buffers = Rc::new(Buffers::new()?);
        // SAFETY: address and length describe the mapping that `buffers` owns, and `buffers` outlives the ring.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                buffers.ring_address(),
                Buffers::ENTRIES,
                GROUP,
                0,
            )?;
        }
        let ring = Self {
            state: RefCell::new(State {
                ring,
                slots: Vec::new(),
                free: Vec::new(),
                dirty: Vec::new(),
                starved: Vec::new(),
                spare_vectors: Vec::new(),
                spare_queues: Vec::new(),
                wake: Vec::new(),
                batch: Vec::new(),
                bell,
                bell_bytes: Box::new([0; 64]),
            }),
            buffers,
            sockets: Cell::new(0),
        };
        ring.state.borrow_mut().arm_bell();
        Ok(ring)
    }

    /// Sockets there are, those that wait for their last completion included.
    pub(crate) fn sockets(&self) -> usize {
        self.sockets.get()
    }

    /// Takes a connected socket over.
    pub(crate) fn adopt(&self, fd: OwnedFd) -> SlotId {
        self.insert(fd, Link::Connected)
    }

    /// Starts to connect `fd`; [`Ring::poll_connected`] tells how it went.
    pub(crate) fn connect(&self, fd: OwnedFd, address: SockAddr) -> SlotId {
        let raw = fd.as_raw_fd();
        let address = Box::new(address);
        let (at, len) = (address.as_ptr().cast(), address.len());
        let id = self.insert(fd, Link::Connecting(address));
        let entry = opcode::Connect::new(types::Fd(raw), at, len).build();
        self.state
            .borrow_mut()
            .push(entry.user_data(id.user_data(Op::Connect)));
        id
    }

    fn insert(&self, fd: OwnedFd, link: Link) -> SlotId {
        self.sockets.set(self.sockets.get() + 1);
        self.state
            .borrow_mut()
            .insert(Slot::Socket(Box::new(Socket {
                fd,
                link,
                receive: Receive::Idle,
                more: false,
                sending: Sending::Nothing,
                send_error: None,
                queue: None,
                tls: None,
                reader: None,
                writer: None,
                abandoned: false,
            })))
    }

    pub(crate) fn fd(&self, id: SlotId) -> RawFd {
        self.state.borrow_mut().socket(id).fd.as_raw_fd()
    }

    pub(crate) fn poll_connected(&self, id: SlotId, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        let socket = state.socket(id);
        match socket.link {
            Link::Connected => Poll::Ready(Ok(())),
            Link::Failed(errno) => Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
            Link::Connecting(_) => {
                let old = remember(&mut socket.reader, cx);
                drop(state);
                drop(old);
                Poll::Pending
            }
        }
    }

    /// The next bytes; `None` at the end of the stream.
    pub(crate) fn poll_receive(
        &self,
        id: SlotId,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Buf>>> {
        let mut state = self.state.borrow_mut();
        if state.socket(id).tls.is_some() {
            drop(state);
            return self.poll_opened(id, cx);
        }
        self.poll_arrived(state, id, cx)
    }

    /// The same, decrypted.
    fn poll_opened(&self, id: SlotId, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        loop {
            let mut state = self.state.borrow_mut();
            if state.session(id).is_ended() {
                return Poll::Ready(Ok(None));
            }
            let Some(sealed) = ready!(self.poll_arrived(state, id, cx))? else {
                // Somebody may have cut it off.
                let text = "connection ended without close_notify";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
            };
            state = self.state.borrow_mut();
            let opened = state.session(id).open(sealed);
            state.let_tls_speak(id);
            match opened? {
                Opened::Plain(buf) => return Poll::Ready(Ok(Some(buf))),
                Opened::End => return Poll::Ready(Ok(None)),
                Opened::Nothing => {}
            }
        }
    }

    /// The next bytes as they came.
    fn poll_arrived(
        &self,
        mut state: RefMut<'_, State>,
        id: SlotId,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Buf>>> {
        let socket = state.socket(id);
        match mem::replace(&mut socket.receive, Receive::Idle) {
            Receive::Data(buf) => return Poll::Ready(Ok(Some(buf))),
            Receive::End => {
                socket.receive = Receive::End;
                return Poll::Ready(Ok(None));
            }
            Receive::Failed(errno) => {
                socket.receive = Receive::Failed(errno);
                return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
            }
            Receive::Idle => state.arm_receive(id, &self.buffers),
            pending @ (Receive::Armed | Receive::Starved) => socket.receive = pending,
        }
        let old = remember(&mut state.socket(id).reader, cx);
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// Has something come (bytes, the end, an error) that nobody has taken? Arms the receive when nothing is armed.
    pub(crate) fn has_received(&self, id: SlotId) -> bool {
        let mut state = self.state.borrow_mut();
        let socket = state.socket(id);
        if socket.tls.as_ref().is_some_and(|tls| tls.is_ended()) {
            return true;
        }
        match socket.receive {
            Receive::Data(_) | Receive::End | Receive::Failed(_) => true,
            Receive::Armed | Receive::Starved => false,
            Receive::Idle => {
                state.arm_receive(id, &self.buffers);
                false
            }
        }
    }

    /// Queues a chunk; it leaves at the end of the turn.
    pub(crate) fn send(&self, id: SlotId, chunk: Chunk) {
        if chunk.bytes().is_empty() {
            return;
        }
        let mut state = self.state.borrow_mut();
        if state.socket(id).send_error.is_some() {
            drop(state);
            return; // the chunk is dropped here, outside the borrow
        }
        let fixed = state.socket(id).sending.chunks();
        state.queue(id).push(chunk, fixed);
        state.mark_dirty(id);
    }

    /// Queues a copy of `bytes`, appended to what is queued already where that is possible.
    pub(crate) fn write(&self, id: SlotId, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state.borrow_mut();
        if state.socket(id).send_error.is_some() {
            return;
        }
        let fixed = state.socket(id).sending.chunks();
        let queue = state.queue(id);
        let appendable = queue.chunks.len() > fixed;
        match queue.chunks.back_mut() {
            Some(Chunk::Owned(last))
                if appendable && last.len() + bytes.len() <= APPEND_BYTES_MAX =>
            {
                last.extend_from_slice(bytes);
            }
            _ => {
                let mut owned = state.spare_vectors.pop().unwrap_or_default();
                owned.extend_from_slice(bytes);
                state.queue(id).chunks.push_back(Chunk::Owned(owned));
            }
        }
        state.mark_dirty(id);
    }

    /// Ready when the socket's queue has room, or its sending has failed.
    pub(crate) fn poll_room(&self, id: SlotId, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_queue(id, cx, QUEUED_MAX - 1)
    }

    /// Ready when all that was queued is with the peer's kernel, or its sending has failed.
    pub(crate) fn poll_flushed(&self, id: SlotId, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_queue(id, cx, 0)
    }

    fn poll_queue(
        &self,
        id: SlotId,
        cx: &mut Context<'_>,
        queued_max: usize,
    ) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        let socket = state.socket(id);
        if let Some(errno) = socket.send_error {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        if socket
            .queue
            .as_ref()
            .is_none_or(|queue| queue.chunks.len() <= queued_max)
        {
            return Poll::Ready(Ok(()));
        }
        let old = remember(&mut socket.writer, cx);
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// Stops a receive that is armed. Ready when none is: what it had brought stays to be taken.
    pub(crate) fn poll_disarm(&self, id: SlotId, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        match state.socket(id).receive {
            Receive::Starved => {
                state.socket(id).receive = Receive::Idle;
                Poll::Ready(())
            }
            Receive::Armed => {
                state.cancel(id, Op::Receive);
                let old = remember(&mut state.socket(id).reader, cx);
                drop(state);
                drop(old);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// What a receive has brought and nobody has taken, as it came.
    pub(crate) fn take_received(&self, id: SlotId) -> Option<Buf> {
        let mut state = self.state.borrow_mut();
        let socket = state.socket(id);
        match mem::replace(&mut socket.receive, Receive::Idle) {
            Receive::Data(buf) => Some(buf),
            other => {
                socket.receive = other;
                None
            }
        }
    }

    /// The same, decrypted. Errors: it cannot be, or the peer has closed.
    pub(crate) fn take_opened(&self, id: SlotId) -> io::Result<Vec<u8>> {
        let Some(buf) = self.take_received(id) else {
            return Ok(Vec::new());
        };
        let mut state = self.state.borrow_mut();
        let Some(session) = &mut state.socket(id).tls else {
            return Ok(buf.to_vec());
        };
        let mut plaintext = Vec::new();
        session.open_to(&buf, &mut plaintext)?;
        let ended = session.is_ended();
        state.let_tls_speak(id);
        match ended {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(plaintext),
        }
    }

    /// From here on the connection is encrypted. No receive may be armed, nor anything queued.
    pub(crate) fn secure(&self, id: SlotId, session: Box<Session>) {
        let mut state = self.state.borrow_mut();
        debug_assert!(matches!(
            state.socket(id).receive,
            Receive::Idle | Receive::End
        ));
        state.socket(id).tls = Some(session);
        state.let_tls_speak(id);
    }

    pub(crate) fn tls_info(&self, id: SlotId) -> Option<tls::Info> {
        let mut state = self.state.borrow_mut();
        state.socket(id).tls.as_ref().map(|session| session.info())
    }

    /// Queues close_notify, if the connection is encrypted.
    pub(crate) fn say_goodbye(&self, id: SlotId) {
        let mut state = self.state.borrow_mut();
        if let Some(session) = &mut state.socket(id).tls {
            session.close();
            state.queue_for_tls(id);
        }
    }

    /// Gives the descriptor back, and the state of its TLS. Nothing may be in flight, nor received and not taken.
    pub(crate) fn detach(&self, id: SlotId) -> (OwnedFd, Option<Box<Session>>) {
        let mut state = self.state.borrow_mut();
        let entry = &mut state.slots[id.slot as usize];
        let Slot::Socket(socket) = mem::replace(&mut entry.slot, Slot::Free) else {
            unreachable!("a stream's slot holds its socket until it is released")
        };
        entry.generation = next_generation(entry.generation);
        state.free.push(id.slot);
        self.sockets.set(self.sockets.get() - 1);
        debug_assert!(!socket.in_flight());
        let Socket { fd, tls, .. } = *socket;
        (fd, tls)
    }

    /// The stream is gone: ends the connection, sends nothing more, frees the slot after its last completion.
    pub(crate) fn abandon(&self, id: SlotId) {
        let mut state = self.state.borrow_mut();
        if state.slots[id.slot as usize].generation != id.generation {
            return; // detached
        }
        let socket = state.socket(id);
        socket.abandoned = true;
        let wakers = (socket.reader.take(), socket.writer.take());
        if socket.in_flight() {
            // Closing is not enough: the kernel's operations hold the socket open.
            // SAFETY: the descriptor is open: `socket` owns it.
            unsafe { libc::shutdown(socket.fd.as_raw_fd(), libc::SHUT_RDWR) };
        }
        match (&socket.receive, &socket.link) {
            (Receive::Armed, _) => state.cancel(id, Op::Receive),
            (_, Link::Connecting(_)) => state.cancel(id, Op::Connect),
            _ => {}
        }
        let released = state.release_if_quiet(id);
        drop(state);
        if released.is_some() {
            self.sockets.set(self.sockets.get() - 1);
        }
        drop((released, wakers));
    }

    pub(crate) fn shutdown(&self, id: SlotId, how: Shutdown) {
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        // SAFETY: the descriptor is open: its slot owns it.
        unsafe { libc::shutdown(self.fd(id), how) };
    }

    /// `shared`: others listen on the same socket, which must outlive us.
    pub(crate) fn listen(&self, fd: OwnedFd, shared: bool) -> SlotId {
        self.state
            .borrow_mut()
            .insert(Slot::Listener(Box::new(Listener {
                fd,
                accepted: VecDeque::new(),
                armed: false,
                error: None,
                waker: None,
                abandoned: false,
                shared,
            })))
    }

    pub(crate) fn poll_accept(
        &self,
        id: SlotId,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<OwnedFd>> {
        let mut state = self.state.borrow_mut();
        let listener = state.listener(id);
        if let Some(fd) = listener.accepted.pop_front() {
            return Poll::Ready(Ok(fd));
        }
        if let Some(errno) = listener.error.take() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        let old = remember(&mut listener.waker, cx);
        if !mem::replace(&mut listener.armed, true) {
            let entry = opcode::AcceptMulti::new(types::Fd(listener.fd.as_raw_fd()))
                .flags(libc::SOCK_CLOEXEC)
                .build();
            state.push(entry.user_data(id.user_data(Op::Accept)));
        }
        drop(state);
        drop(old);
        Poll::Pending
    }

    pub(crate) fn abandon_listener(&self, id: SlotId) {
        let mut state = self.state.borrow_mut();
        let listener = state.listener(id);
        listener.abandoned = true;
        let dropped = (listener.waker.take(), mem::take(&mut listener.accepted));
        if listener.armed {
            if !listener.shared {
                // A listening socket that is shut down refuses new connections at once.
                // SAFETY: the descriptor is open: `listener` owns it.
                unsafe { libc::shutdown(listener.fd.as_raw_fd(), libc::SHUT_RDWR) };
            }
            state.cancel(id, Op::Accept);
            drop(state);
            drop(dropped);
            return;
        }
        let released = state.release(id);
        drop(state);
        drop((released, dropped));
    }

    /// One turn: submits all that is queued with one enter, waits up to `wait` for a first completion (not at all
    /// if `None`), and wakes the tasks whose operations completed.
    ///
    /// `now` is the time at which `wait` begins.
    pub(crate) fn turn(&self, wait: Option<Duration>, now: Instant) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        let mut left = wait;
        loop {
            state.feed_starved(&self.buffers);
            state.flush();
            state.enter(left)?;
            let Completed {
                any,
                rang,
                released,
            } = state.dispatch(&self.buffers);
            self.sockets.set(self.sockets.get() - released);
            if rang || !any || !state.wake.is_empty() {
                break;
            }
            // Sends were completed, and nobody waits for that: so do we, without a round through the executor.
            left = wait.map(|wait| wait.saturating_sub(now.elapsed()));
            if left.is_none_or(|left| left.is_zero()) {
                break;
            }
        }
        let mut wake = mem::take(&mut state.wake);
        drop(state);
        wake.drain(..).for_each(Waker::wake);
        self.state.borrow_mut().wake = wake;
        Ok(())
    }
}

impl Socket {
    fn in_flight(&self) -> bool {
        matches!(self.receive, Receive::Armed)
            || matches!(self.sending, Sending::InFlight { .. })
            || matches!(self.link, Link::Connecting(_))
    }
}

impl State {
    fn socket(&mut self, id: SlotId) -> &mut Socket {
        match &mut self.slots[id.slot as usize] {
            Entry {
                generation,
                slot: Slot::Socket(socket),
            } if *generation == id.generation => socket,
            _ => unreachable!("a stream's slot holds its socket until it is released"),
        }
    }

    fn session(&mut self, id: SlotId) -> &mut Session {
        let session = &mut self.socket(id).tls;
        session.as_mut().expect("a stream once encrypted stays so")
    }

    /// Sends what TLS itself has to say, if anything, with the next turn.
    fn let_tls_speak(&mut self, id: SlotId) {
        if self.session(id).has_to_say() {
            self.queue_for_tls(id);
        }
    }

    fn queue_for_tls(&mut self, id: SlotId) {
        if self.socket(id).send_error.is_none() {
            self.queue(id).chunks.push_back(Chunk::Static(&[]));
            self.mark_dirty(id);
        }
    }

    fn listener(&mut self, id: SlotId) -> &mut Listener {
        match &mut self.slots[id.slot as usize] {
            Entry {
                generation,
                slot: Slot::Listener(listener),
            } if *generation == id.generation => listener,
            _ => unreachable!("a listener's slot holds it until it is released"),
        }
    }

    fn insert(&mut self, new: Slot) -> SlotId {
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.slots[slot as usize];
            entry.slot = new;
            return SlotId {
                slot,
                generation: entry.generation,
            };
        }
        let slot = u32::try_from(self.slots.len())
            .expect("fewer sockets than descriptors, which are 32-bit");
        self.slots.push(Entry {
            generation: 0,
            slot: new,
        });
        SlotId {
            slot,
            generation: 0,
        }
    }

    fn release(&mut self, id: SlotId) -> Slot {
        let entry = &mut self.slots[id.slot as usize];
        entry.generation = next_generation(entry.generation);
        self.free.push(id.slot);
        mem::replace(&mut entry.slot, Slot::Free)
    }

    /// Frees an abandoned socket's slot when nothing is in flight. What it held is for the caller to drop.
    fn release_if_quiet(&mut self, id: SlotId) -> Option<Slot> {
        let socket = self.socket(id);
        (socket.abandoned && !socket.in_flight()).then(|| self.release(id))
    }

    fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: whatever the entry points at (buffers, addresses, message headers) is owned by its slot, which
            // is not released before the completion of the operation.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // The submission queue is full: hand it over. EBUSY and EINTR are answered by trying again.
            let _ = self.enter(None);
        }
    }

    fn cancel(&mut self, id: SlotId, op: Op) {
        let entry = opcode::AsyncCancel::new(id.user_data(op))
            .build()
            .user_data(id.user_data(Op::Cancel));
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS));
    }

    fn arm_bell(&mut self) {
        let (fd, at) = (
            types::Fd(self.bell.as_raw_fd()),
            self.bell_bytes.as_mut_ptr(),
        );
        let id = SlotId {
            slot: 0,
            generation: 0,
        };
        self.push(
            opcode::Read::new(fd, at, 64)
                .build()
                .user_data(id.user_data(Op::Bell)),
        );
    }

    fn arm_receive(&mut self, id: SlotId, buffers: &Buffers) {
        if !buffers.any_free() && !buffers.grow() {
            self.socket(id).receive = Receive::Starved;
            self.starved.push(id);
            return;
        }
        let socket = self.socket(id);
        socket.receive = Receive::Armed;
        let poll_first = if socket.more { 0 } else { RECVSEND_POLL_FIRST };
        let bytes_max = match socket.tls {
            None => BUFFER_BYTES_U32,
            Some(_) => tls::RECEIVE_BYTES,
        };
        let entry = opcode::Recv::new(
            types::Fd(socket.fd.as_raw_fd()),
            std::ptr::null_mut(),
            bytes_max,
        )
        .ioprio(poll_first)
        .buf_group(GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT);
        self.push(entry.user_data(id.user_data(Op::Receive)));
    }

    fn feed_starved(&mut self, buffers: &Buffers) {
        if self.starved.is_empty() || !(buffers.any_free() || buffers.grow()) {
            return;
        }
        for id in mem::take(&mut self.starved) {
            let Some(entry) = self.slots.get_mut(id.slot as usize) else {
                continue;
            };
            match &mut entry.slot {
                Slot::Socket(socket)
                    if entry.generation == id.generation
                        && matches!(socket.receive, Receive::Starved) =>
                {
                    self.arm_receive(id, buffers);
                }
                _ => {}
            }
        }
    }

    fn queue(&mut self, id: SlotId) -> &mut Queue {
        if self.socket(id).queue.is_none() {
            let queue = self.spare_queues.pop().unwrap_or_else(Queue::new);
            self.socket(id).queue = Some(queue);
        }
        self.socket(id).queue.as_mut().expect("set above")
    }

    fn mark_dirty(&mut self, id: SlotId) {
        let socket = self.socket(id);
        if socket.sending == Sending::Nothing && !matches!(socket.link, Link::Connecting(_)) {
            socket.sending = Sending::Dirty;
            self.dirty.push(id);
        }
    }

    /// One send per socket with something queued; the next one only after its completion, which keeps the order.
    fn flush(&mut self) {
        let mut dirty = mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let Some(entry) = self.slots.get_mut(id.slot as usize) else {
                continue;
            };
            let Slot::Socket(socket) = &mut entry.slot else {
                continue;
            };
            if entry.generation != id.generation || socket.sending != Sending::Dirty {
                continue;
            }
            let fd = types::Fd(socket.fd.as_raw_fd());
            let Some(queue) = socket
                .queue
                .as_mut()
                .filter(|queue| !queue.chunks.is_empty())
            else {
                socket.sending = Sending::Nothing;
                continue;
            };
            if let Some(session) = &mut socket.tls {
                let sealed = self.spare_vectors.pop().unwrap_or_default();
                if session.seal(&mut queue.chunks, sealed).is_err() {
                    queue.chunks.clear();
                    socket.send_error = Some(libc::EPIPE);
                }
                if queue.chunks.is_empty() {
                    socket.sending = Sending::Nothing;
                    self.wake.extend(socket.writer.take());
                    continue;
                }
            }
            let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
            let (chunks, sqe) = if let (1, Some(chunk)) = (queue.chunks.len(), queue.chunks.front())
            {
                let bytes = chunk.bytes();
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                (
                    1,
                    opcode::Send::new(fd, bytes.as_ptr(), len)
                        .flags(flags)
                        .build(),
                )
            } else {
                let chunks = queue.gather();
                #[expect(clippy::cast_sign_loss, reason = "message flags are bits")]
                let sqe = opcode::SendMsg::new(fd, &raw const queue.message)
                    .flags(flags as u32)
                    .build();
                (chunks, sqe)
            };
            socket.sending = Sending::InFlight { chunks };
            self.push(sqe.user_data(id.user_data(Op::Send)));
        }
        // `push` may have entered, but never dispatched: nothing became dirty meanwhile.
        self.dirty = dirty;
    }

    /// Submits, runs deferred completions and waits for one if asked to.
    fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let pending = !self.ring.completion().is_empty();
        let submissions = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
        let wait = wait.filter(|_| !pending).unwrap_or_default();
        let timeout = types::Timespec::from(wait);
        let arguments = WaitArguments {
            sigmask: 0,
            sigmask_bytes: 0,
            min_wait_usec: 0,
            timeout: (&raw const timeout) as u64,
        };
        let wanted = u32::from(!wait.is_zero());
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // SAFETY: `arguments` has the layout that EXT_ARG asks for, and outlives the call, as does `timeout`.
        match unsafe {
            self.ring
                .submitter()
                .enter(submissions, wanted, flags.bits(), Some(&arguments))
        } {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Time ran out; a signal; completions must be taken first, which the caller does.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn dispatch(&mut self, buffers: &Rc<Buffers>) -> Completed {
        let mut completed = Completed {
            any: false,
            rang: false,
            released: 0,
        };
        let mut batch = mem::take(&mut self.batch);
        batch.extend(self.ring.completion());
        for cqe in batch.drain(..) {
            completed.any = true;
            let data = cqe.user_data();
            #[expect(clippy::cast_possible_truncation, reason = "the fields of user_data")]
            let id = SlotId {
                slot: data as u32,
                generation: (data >> 32) as u32 & GENERATION_MASK,
            };
            match data >> 56 {
                op if op == Op::Receive as u64 => self.received(id, &cqe, buffers),
                op if op == Op::Send as u64 => self.sent(id, cqe.result()),
                op if op == Op::Connect as u64 => self.connected(id, cqe.result()),
                op if op == Op::Accept as u64 => self.accepted(id, &cqe),
                op if op == Op::Bell as u64 => {
                    self.arm_bell();
                    completed.rang = true;
                    continue;
                }
                _ => continue, // a cancel that found nothing
            }
            if self.is_abandoned_socket(id) && self.release_if_quiet(id).is_some() {
                completed.released += 1;
            }
        }
        self.batch = batch;
        completed
    }

    fn is_abandoned_socket(&self, id: SlotId) -> bool {
        matches!(self.slots.get(id.slot as usize),
            Some(Entry { generation, slot: Slot::Socket(socket) }) if *generation == id.generation && socket.abandoned)
    }

    fn received(&mut self, id: SlotId, cqe: &cqueue::Entry, buffers: &Rc<Buffers>) {
        let result = cqe.result();
        let bytes = usize::try_from(result).unwrap_or(0);
        let buf = cqueue::buffer_select(cqe.flags()).map(|buffer| buffers.lend(buffer, bytes));
        if result == -libc::ENOBUFS {
            return self.arm_receive_again(id, buffers);
        }
        let socket = self.socket(id);
        socket.more = cqueue::sock_nonempty(cqe.flags());
        socket.receive = match (result, buf) {
            (1.., Some(buf)) => Receive::Data(buf),
            (0.., _) => Receive::End,
            (error, _) if error == -libc::ECANCELED || error == -libc::EINTR => Receive::Idle,
            (error, _) => Receive::Failed(-error),
        };
        let waker = socket.reader.take();
        self.wake.extend(waker);
    }

    fn arm_receive_again(&mut self, id: SlotId, buffers: &Buffers) {
        if self.socket(id).abandoned {
            self.socket(id).receive = Receive::Idle;
        } else {
            self.arm_receive(id, buffers);
        }
    }

    fn sent(&mut self, id: SlotId, result: i32) {
        let socket = self.socket(id);
        let Sending::InFlight { chunks } = mem::replace(&mut socket.sending, Sending::Nothing)
        else {
            unreachable!("a send completes once")
        };
        let mut queue = socket
            .queue
            .take()
            .expect("a socket that sends has a queue");
        let total: usize = queue
            .chunks
            .iter()
            .take(chunks)
            .map(|chunk| chunk.bytes().len())
            .sum();
        // MSG_WAITALL: a short count is a failed send.
        if usize::try_from(result).is_ok_and(|bytes| bytes == total) {
            for _ in 0..chunks {
                if let Some(Chunk::Owned(mut vec)) = queue.chunks.pop_front() {
                    if vec.capacity() <= SPARE_VECTOR_BYTES
                        && self.spare_vectors.len() < SPARE_VECTORS
                    {
                        vec.clear();
                        self.spare_vectors.push(vec);
                    }
                }
            }
        } else {
            socket.send_error = Some(if result < 0 { -result } else { libc::EPIPE });
            queue.chunks.clear();
        }
        let waker = self.socket(id).writer.take();
        self.wake.extend(waker);
        if !queue.chunks.is_empty() {
            self.socket(id).queue = Some(queue);
            if !self.socket(id).abandoned {
                self.mark_dirty(id);
            }
        } else if self.spare_queues.len() < SPARE_QUEUES {
            self.spare_queues.push(queue);
        }
    }

    fn connected(&mut self, id: SlotId, result: i32) {
        let socket = self.socket(id);
        socket.link = if result == 0 {
            Link::Connected
        } else {
            Link::Failed(-result)
        };
        let waker = socket.reader.take();
        let queued = socket.queue.is_some();
        self.wake.extend(waker);
        if queued {
            self.mark_dirty(id);
        }
    }

    fn accepted(&mut self, id: SlotId, cqe: &cqueue::Entry) {
        use std::os::fd::FromRawFd;

        let result = cqe.result();
        // SAFETY: a non-negative result of accept is a descriptor that nobody else owns.
        let fd = (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) });
        let listener = self.listener(id);
        listener.armed = cqueue::more(cqe.flags());
        match fd {
            Some(fd) if listener.accepted.len() < ACCEPTED_MAX && !listener.abandoned => {
                listener.accepted.push_back(fd)
            }
            Some(refused) => drop(refused),
            None if result == -libc::ECANCELED => {}
            None => listener.error = Some(-result),
        }
        let (waker, finished) = (listener.waker.take(), listener.abandoned && !listener.armed);
        self.wake.extend(waker);
        if finished {
            drop(self.release(id));
        }
    }
}

impl Queue {
    fn new() -> Box<Self> {
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
    fn push(&mut self, chunk: Chunk, fixed: usize) {
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

    /// Points the message header at the first chunks; returns how many. It stays valid while the queue is in its
    /// box and those chunks are in the queue: the kernel copies header and pieces when the entry is submitted.
    fn gather(&mut self) -> usize {
        let mut count = 0;
        for (piece, chunk) in self.pieces.iter_mut().zip(&self.chunks) {
            let bytes = chunk.bytes();
            *piece = libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            count += 1;
        }
        self.message.msg_iov = self.pieces.as_mut_ptr();
        self.message.msg_iovlen = count;
        count
    }
}

const GENERATION_MASK: u32 = (1 << 24) - 1;
/// `IORING_RECVSEND_POLL_FIRST`: wait for readiness before the first attempt.
const RECVSEND_POLL_FIRST: u16 = 1;

fn next_generation(generation: u32) -> u32 {
    (generation + 1) & GENERATION_MASK
}

/// Stores the task's waker; the old one is for the caller to drop when nothing is borrowed.
fn remember(place: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        _ => place.replace(cx.waker().clone()),
    }
}

/// As the kernel allows; older ones refuse the first mode.
fn build(size: &RingSize) -> io::Result<IoUring> {
    match RingMode::Deferred.build(size) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            RingMode::Cooperative.build(size)
        }
        other => other,
    }
}
