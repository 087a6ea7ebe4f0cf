//! One core's io_uring: sockets in slots, one enter per turn, completions to wakers.
//!
//! ```text
//! user_data:   op (8 bits) | generation (24) | slot (32)
//! ```
//!
//! A slot is free again only when every operation on it has completed, so the kernel never holds a pointer
//! into something freed, and a late completion never meets a new socket.

mod pace;
mod socket;
mod state;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use io_uring::{opcode, types, IoUring};
use socket2::SockAddr;

use crate::buffer::{Buf, Buffers};
use crate::limits::RingSize;
use crate::preflight::RingMode;
use crate::tls::{self, Opened, Session};

use pace::Pace;
use socket::{Armed, Holder, Link, Listener, Receive, Sending, Socket};
use state::{next_generation, Completed, Op, Slot, State, CALM};

pub(crate) use socket::Chunk;
pub(crate) use state::SlotId;

/// Size of every core's ring.
pub(crate) const SIZE: RingSize = RingSize {
    submissions: 512,
    completions: 8192,
    buffers: Buffers::ENTRIES,
};
/// The one group of provided buffers.
const GROUP: u16 = 0;
/// Chunks a socket queues before [`Ring::poll_room`] makes its writer wait.
const QUEUED_MAX: usize = 4;
/// A queued copy grows up to this before another one is begun.
const APPEND_BYTES_MAX: usize = 16 * 1024;

/// The ring of one core. Not `Send`: created inside its executor, used by that thread only.
pub(crate) struct Ring {
    // Before `buffers`, so that the kernel lets go of them first.
    state: RefCell<State>,
    buffers: Rc<Buffers>,
    sockets: Cell<usize>,
}

impl Ring {
    /// `bell` is the read end of a pipe: one byte in it ends a wait.
    pub(crate) fn new(bell: OwnedFd) -> io::Result<Self> {
        let (ring, mode) = build(&SIZE)?;
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
                goes_on: mode == RingMode::Deferred,
                behind: HashMap::new(),
                spare_vectors: Vec::new(),
                spare_queues: Vec::new(),
                wake: Vec::new(),
                pace: Pace::default(),
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

    /// Receive buffers that there are, and how many of them are lent.
    pub(crate) fn buffers(&self) -> (usize, usize) {
        self.buffers.counts()
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
                receive: Receive::Nothing,
                armed: Armed::No,
                behind: false,
                calm: CALM,
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
        if let Some(received) = state.take_received(id) {
            return Poll::Ready(received);
        }
        let old = state.await_receive(id, cx, &self.buffers);
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// The same, decrypted.
    fn poll_opened(&self, id: SlotId, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        loop {
            let mut state = self.state.borrow_mut();
            if state.session(id).is_ended() {
                return Poll::Ready(Ok(None));
            }
            let Some(received) = state.take_received(id) else {
                let old = state.await_receive(id, cx, &self.buffers);
                drop(state);
                drop(old);
                return Poll::Pending;
            };
            let Some(sealed) = received? else {
                // Somebody may have cut it off.
                let text = "connection ended without close_notify";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
            };
            let opened = state.session(id).open(sealed);
            state.let_tls_speak(id);
            match opened? {
                Opened::Plain(buf) => return Poll::Ready(Ok(Some(buf))),
                Opened::End => return Poll::Ready(Ok(None)),
                Opened::Nothing => {}
            }
        }
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
            Receive::Nothing if socket.armed == Armed::No => {
                state.arm_receive(id, &self.buffers);
                false
            }
            Receive::Nothing | Receive::Starved => false,
        }
    }

    /// Queues a chunk; it leaves at the end of the turn.
    pub(crate) fn send(&self, id: SlotId, chunk: Chunk) {
        if !chunk.bytes().is_empty() {
            let mut state = self.state.borrow_mut();
            state.enqueue(id, |queue, fixed, _| queue.push(chunk, fixed));
        }
    }

    /// Queues a copy of `bytes`, appended to what is queued already where that is possible.
    pub(crate) fn write(&self, id: SlotId, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state.borrow_mut();
        state.enqueue(id, |queue, fixed, spare| {
            let appendable = queue.chunks.len() > fixed;
            match queue.chunks.back_mut() {
                Some(Chunk::Owned(last))
                    if appendable && last.len() + bytes.len() <= APPEND_BYTES_MAX =>
                {
                    last.extend_from_slice(bytes);
                }
                _ => {
                    let mut owned = spare.pop().unwrap_or_default();
                    owned.extend_from_slice(bytes);
                    queue.chunks.push_back(Chunk::Owned(owned));
                }
            }
        });
    }

    /// Ready when the socket's queue has room, or its sending has failed.
    #[inline]
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
        let socket = state.socket(id);
        if matches!(socket.receive, Receive::Starved) {
            socket.receive = Receive::Nothing;
        }
        if socket.armed == Armed::No {
            return Poll::Ready(());
        }
        let old = remember(&mut socket.reader, cx);
        state.end_receive(id);
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// What receives have brought and nobody has taken, as it came.
    pub(crate) fn take_received(&self, id: SlotId) -> Vec<Buf> {
        let mut state = self.state.borrow_mut();
        std::iter::from_fn(|| state.take_data(id)).collect()
    }

    /// The same, decrypted. Errors: it cannot be, or the peer has closed.
    pub(crate) fn take_opened(&self, id: SlotId) -> io::Result<Vec<u8>> {
        let received = self.take_received(id);
        if received.is_empty() {
            return Ok(Vec::new());
        }
        let mut state = self.state.borrow_mut();
        let Some(session) = &mut state.socket(id).tls else {
            return Ok(received
                .iter()
                .flat_map(|buf| buf.iter().copied())
                .collect());
        };
        let mut plaintext = Vec::new();
        for buf in received {
            session.open_to(&buf, &mut plaintext)?;
        }
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
            Receive::Nothing | Receive::End
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
        match &socket.link {
            _ if socket.armed != Armed::No => state.end_receive(id),
            Link::Connecting(_) => state.cancel(id, Op::Connect),
            Link::Connected | Link::Failed(_) => {}
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

    /// `inherited`: the socket must outlive us.
    pub(crate) fn listen(&self, fd: OwnedFd, inherited: bool) -> SlotId {
        self.state
            .borrow_mut()
            .insert(Slot::Listener(Box::new(Listener {
                fd,
                accepted: VecDeque::new(),
                armed: false,
                error: None,
                waker: None,
                abandoned: false,
                holder: match inherited {
                    true => Holder::ServiceManager,
                    false => Holder::Us,
                },
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

    /// What was accepted before the listener left its socket to others; `None` when that is all.
    pub(crate) fn poll_leave(&self, id: SlotId, cx: &mut Context<'_>) -> Poll<Option<OwnedFd>> {
        let mut state = self.state.borrow_mut();
        let listener = state.listener(id);
        if let Some(fd) = listener.accepted.pop_front() {
            return Poll::Ready(Some(fd));
        }
        let holder = mem::replace(&mut listener.holder, Holder::Another);
        if !listener.armed {
            return Poll::Ready(None);
        }
        let old = remember(&mut listener.waker, cx);
        if holder != Holder::Another {
            state.cancel(id, Op::Accept);
        }
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// Whoever connects from now on is refused. A ring that is only dropped listens on, until the kernel has taken it
    /// apart: some milliseconds after its process has ended.
    pub(crate) fn stop_listening(&self) {
        for entry in &self.state.borrow().slots {
            if let Slot::Listener(listener) = &entry.slot {
                listener.refuse();
            }
        }
    }

    pub(crate) fn abandon_listener(&self, id: SlotId) {
        let mut state = self.state.borrow_mut();
        let listener = state.listener(id);
        listener.abandoned = true;
        listener.refuse();
        let dropped = (listener.waker.take(), mem::take(&mut listener.accepted));
        if listener.armed {
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

/// Stores the task's waker; the old one is for the caller to drop when nothing is borrowed.
fn remember(place: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        _ => place.replace(cx.waker().clone()),
    }
}

/// As the kernel allows; older ones refuse the first mode.
fn build(size: &RingSize) -> io::Result<(IoUring, RingMode)> {
    let build = |mode: RingMode| mode.build(size).map(|ring| (ring, mode));
    match build(RingMode::Deferred) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => build(RingMode::Cooperative),
        other => other,
    }
}
