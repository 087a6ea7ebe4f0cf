//! The slots of a ring and the operations on them: what is submitted, and what its completion means.

use std::collections::hash_map::Entry::Occupied;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use io_uring::{cqueue, opcode, squeue, types, EnterFlags, IoUring};

use crate::buffer::{Buf, Buffers, BUFFER_BYTES};
use crate::listener::BACKLOG;
use crate::tls::{self, Session};

use super::pace::Pace;
use super::socket::{Armed, Chunk, Link, Listener, Queue, Receive, Sending, Socket};
use super::{remember, GROUP};

/// Most bytes taken in one receive without TLS, half a buffer: with whole ones 10,000 rows take a quarter more CPU
/// (ARCHITECTURE.md, "Where this differs").
const RECEIVE_BYTES: u32 = 32 * 1024;
const _: () = assert!(RECEIVE_BYTES as usize <= BUFFER_BYTES);
/// Receives of a socket that end with what they bring, before one is armed that goes on (multishot), which saves arming it again: who
/// comes for one request is gone by then, and TLS has begun.
pub(super) const CALM: u8 = 16;
/// Where as much comes at once it is bulk: its reader says when it wants more, and no receive goes on.
const BULK_BYTES: usize = 4096;
/// Accepted sockets that may wait for their listener's task. One turn may bring all that the kernel has kept, and what comes meanwhile.
const ACCEPTED_MAX: usize = 4 * BACKLOG as usize;
/// Small vectors kept for the next write, so that writing allocates nothing.
const SPARE_VECTORS: usize = 64;
const SPARE_VECTOR_BYTES: usize = 4096;
/// Send queues kept for the next socket with something to send.
const SPARE_QUEUES: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
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
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl SlotId {
    pub(super) fn user_data(self, op: Op) -> u64 {
        (op as u64) << 56 | u64::from(self.generation) << 32 | u64::from(self.slot)
    }
}

pub(super) enum Slot {
    Free,
    Socket(Box<Socket>),
    Listener(Box<Listener>),
}

pub(super) struct Entry {
    pub(super) generation: u32,
    pub(super) slot: Slot,
}

pub(super) struct State {
    pub(super) ring: IoUring,
    pub(super) slots: Vec<Entry>,
    pub(super) free: Vec<u32>,
    pub(super) dirty: Vec<SlotId>,
    pub(super) starved: Vec<SlotId>,
    /// The kernel has receives that go on.
    pub(super) goes_on: bool,
    /// By slot, what has come behind what the reader has not taken: one receive may bring several before it is cancelled, so many
    /// at most as the kernel tries in a row (32) and buffers are free.
    pub(super) behind: HashMap<u32, VecDeque<Receive>>,
    pub(super) spare_vectors: Vec<Vec<u8>>,
    #[expect(
        clippy::vec_box,
        reason = "a queue must not move while the kernel reads its message header"
    )]
    pub(super) spare_queues: Vec<Box<Queue>>,
    /// Wakers of a turn, woken after the state is no longer borrowed.
    pub(super) wake: Vec<Waker>,
    pub(super) pace: Pace,
    pub(super) bell: OwnedFd,
    pub(super) bell_bytes: Box<[u8; 64]>,
}

/// What a round of completions brought.
pub(super) struct Completed {
    pub(super) any: bool,
    /// The bell: somebody has sent mail.
    pub(super) rang: bool,
    /// Slots that became free.
    pub(super) released: usize,
}

/// As the kernel's `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArguments {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_usec: u32,
    timeout: u64,
}

impl State {
    pub(super) fn socket(&mut self, id: SlotId) -> &mut Socket {
        socket_in(&mut self.slots, id)
    }

    pub(super) fn session(&mut self, id: SlotId) -> &mut Session {
        let session = &mut self.socket(id).tls;
        session.as_mut().expect("a stream once encrypted stays so")
    }

    /// Sends what TLS itself has to say, if anything, with the next turn.
    pub(super) fn let_tls_speak(&mut self, id: SlotId) {
        if self.session(id).has_to_say() {
            self.queue_for_tls(id);
        }
    }

    pub(super) fn queue_for_tls(&mut self, id: SlotId) {
        self.enqueue(id, |queue, _, _| queue.chunks.push_back(Chunk::Static(&[])));
    }

    pub(super) fn listener(&mut self, id: SlotId) -> &mut Listener {
        match &mut self.slots[id.slot as usize] {
            Entry {
                generation,
                slot: Slot::Listener(listener),
            } if *generation == id.generation => listener,
            _ => unreachable!("a listener's slot holds it until it is released"),
        }
    }

    pub(super) fn insert(&mut self, new: Slot) -> SlotId {
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

    pub(super) fn release(&mut self, id: SlotId) -> Slot {
        self.behind.remove(&id.slot);
        let entry = &mut self.slots[id.slot as usize];
        entry.generation = next_generation(entry.generation);
        self.free.push(id.slot);
        mem::replace(&mut entry.slot, Slot::Free)
    }

    /// Frees an abandoned socket's slot when nothing is in flight. What it held is for the caller to drop.
    pub(super) fn release_if_quiet(&mut self, id: SlotId) -> Option<Slot> {
        let socket = self.socket(id);
        (socket.abandoned && !socket.in_flight()).then(|| self.release(id))
    }

    pub(super) fn push(&mut self, entry: squeue::Entry) {
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

    pub(super) fn cancel(&mut self, id: SlotId, op: Op) {
        let entry = opcode::AsyncCancel::new(id.user_data(op))
            .build()
            .user_data(id.user_data(Op::Cancel));
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS));
    }

    pub(super) fn arm_bell(&mut self) {
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

    /// Sees to it that a receive is armed, and that it wakes this task. The waker that is replaced is for the caller to drop.
    pub(super) fn await_receive(
        &mut self,
        id: SlotId,
        cx: &Context<'_>,
        buffers: &Buffers,
    ) -> Option<Waker> {
        let socket = socket_in(&mut self.slots, id);
        let old = remember(&mut socket.reader, cx);
        if matches!(socket.receive, Receive::Nothing) && socket.armed == Armed::No {
            self.arm_receive(id, buffers);
        }
        old
    }

    pub(super) fn arm_receive(&mut self, id: SlotId, buffers: &Buffers) {
        let socket = socket_in(&mut self.slots, id);
        if !buffers.any_free() && !buffers.grow() {
            socket.receive = Receive::Starved;
            self.starved.push(id);
            return;
        }
        socket.receive = Receive::Nothing;
        let poll_first = if socket.more { 0 } else { RECVSEND_POLL_FIRST };
        let many = self.goes_on && socket.calm == 0 && socket.tls.is_none();
        let (armed, flags, bytes_max) = match (many, &socket.tls) {
            (true, _) => (Armed::Many, poll_first | RECV_MULTISHOT, 0), // a whole buffer
            (false, None) => (Armed::Once, poll_first, RECEIVE_BYTES),
            (false, Some(_)) => (Armed::Once, poll_first, tls::RECEIVE_BYTES),
        };
        socket.armed = armed;
        let entry = opcode::Recv::new(
            types::Fd(socket.fd.as_raw_fd()),
            std::ptr::null_mut(),
            bytes_max,
        )
        .ioprio(flags)
        .buf_group(GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT);
        self.push(entry.user_data(id.user_data(Op::Receive)));
    }

    pub(super) fn feed_starved(&mut self, buffers: &Buffers) {
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

    /// Has `add` queue something on a socket, unless its sending has failed. It is given the queue, how many chunks of that
    /// are with the kernel, and vectors that may be used.
    pub(super) fn enqueue(
        &mut self,
        id: SlotId,
        add: impl FnOnce(&mut Queue, usize, &mut Vec<Vec<u8>>),
    ) {
        let socket = socket_in(&mut self.slots, id);
        if socket.send_error.is_some() {
            return;
        }
        let spare = &mut self.spare_queues;
        let queue = socket
            .queue
            .get_or_insert_with(|| spare.pop().unwrap_or_else(Queue::new));
        add(queue, socket.sending.chunks(), &mut self.spare_vectors);
        if socket.becomes_dirty() {
            self.dirty.push(id);
        }
    }

    /// One send per socket with something queued; the next one only after its completion, which keeps the order.
    pub(super) fn flush(&mut self) {
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
            let (chunks, bytes, sqe) =
                if let (1, Some(chunk)) = (queue.chunks.len(), queue.chunks.front()) {
                    let bytes = chunk.bytes();
                    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    (
                        1,
                        bytes.len(),
                        opcode::Send::new(fd, bytes.as_ptr(), len)
                            .flags(flags)
                            .build(),
                    )
                } else {
                    let (chunks, bytes) = queue.gather();
                    #[expect(clippy::cast_sign_loss, reason = "message flags are bits")]
                    let sqe = opcode::SendMsg::new(fd, &raw const queue.message)
                        .flags(flags as u32)
                        .build();
                    (chunks, bytes, sqe)
                };
            socket.sending = Sending::InFlight { chunks, bytes };
            self.push(sqe.user_data(id.user_data(Op::Send)));
        }
        // `push` may have entered, but never dispatched: nothing became dirty meanwhile.
        self.dirty = dirty;
    }

    /// Submits, runs deferred completions and waits for one if asked to.
    pub(super) fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
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

    pub(super) fn dispatch(&mut self, buffers: &Rc<Buffers>) -> Completed {
        let mut completed = Completed {
            any: false,
            rang: false,
            released: 0,
        };
        loop {
            let Some(cqe) = self.ring.completion().next() else {
                break;
            };
            completed.any = true;
            let data = cqe.user_data();
            #[expect(clippy::cast_possible_truncation, reason = "the fields of user_data")]
            let id = SlotId {
                slot: data as u32,
                generation: (data >> 32) as u32 & GENERATION_MASK,
            };
            let abandoned = match data >> 56 {
                op if op == Op::Receive as u64 => self.received(id, &cqe, buffers),
                op if op == Op::Send as u64 => self.sent(id, cqe.result()),
                op if op == Op::Connect as u64 => self.connected(id, cqe.result()),
                op if op == Op::Accept as u64 => {
                    self.accepted(id, &cqe);
                    continue;
                }
                op if op == Op::Bell as u64 => {
                    self.arm_bell();
                    completed.rang = true;
                    continue;
                }
                _ => continue, // a cancel that found nothing
            };
            if abandoned && self.release_if_quiet(id).is_some() {
                completed.released += 1;
            }
        }
        self.pace.turned();
        completed
    }

    /// Says, as the next two do, whether the socket is one whose stream is gone.
    fn received(&mut self, id: SlotId, cqe: &cqueue::Entry, buffers: &Rc<Buffers>) -> bool {
        let result = cqe.result();
        let bytes = usize::try_from(result).unwrap_or(0);
        let buf = cqueue::buffer_select(cqe.flags()).map(|buffer| buffers.lend(buffer, bytes));
        let socket = socket_in(&mut self.slots, id);
        let abandoned = socket.abandoned;
        let goes_on = cqueue::more(cqe.flags());
        let was = socket.armed;
        if !goes_on {
            socket.armed = Armed::No;
        }
        if result == -libc::ENOBUFS {
            match was {
                // Whoever has ended it may wait for that.
                Armed::Ending => self.wake.extend(socket.reader.take()),
                _ if matches!(socket.receive, Receive::Nothing) && !abandoned && !goes_on => {
                    self.arm_receive(id, buffers);
                }
                _ => {}
            }
            return abandoned;
        }
        self.pace.received(bytes);
        socket.more = cqueue::sock_nonempty(cqe.flags());
        let come = match (result, buf) {
            (1.., Some(buf)) => Some(Receive::Data(buf)),
            (0.., _) => Some(Receive::End),
            (error, _) if error == -libc::ECANCELED || error == -libc::EINTR => None,
            (error, _) => Some(Receive::Failed(-error)),
        };
        match come {
            Some(come) if matches!(socket.receive, Receive::Nothing) => socket.receive = come,
            Some(come) => {
                socket.behind = true;
                self.behind.entry(id.slot).or_default().push_back(come);
            }
            None => {}
        }
        let crowded = socket.behind || bytes >= BULK_BYTES;
        socket.calm = match crowded {
            true => CALM,
            false => socket.calm.saturating_sub(1),
        };
        if let Some(waker) = socket.reader.take() {
            self.wake.push(waker);
        }
        if crowded && goes_on {
            self.end_receive(id);
        }
        abandoned
    }

    /// Cancels the receive that the kernel has.
    pub(super) fn end_receive(&mut self, id: SlotId) {
        let socket = socket_in(&mut self.slots, id);
        if mem::replace(&mut socket.armed, Armed::Ending) != Armed::Ending {
            self.cancel(id, Op::Receive);
        }
    }

    /// What there is for the reader, if anything: bytes once, the end or an error for ever.
    #[inline]
    pub(super) fn take_received(&mut self, id: SlotId) -> Option<io::Result<Option<Buf>>> {
        let taken = socket_in(&mut self.slots, id).receive.take();
        self.advance(id);
        taken
    }

    /// The same of bytes only.
    pub(super) fn take_data(&mut self, id: SlotId) -> Option<Buf> {
        let taken = socket_in(&mut self.slots, id).receive.take_data();
        self.advance(id);
        taken
    }

    /// What has come behind what was taken is next.
    #[inline]
    fn advance(&mut self, id: SlotId) {
        let socket = socket_in(&mut self.slots, id);
        if !socket.behind || !matches!(socket.receive, Receive::Nothing) {
            return;
        }
        let Occupied(mut entry) = self.behind.entry(id.slot) else {
            socket.behind = false;
            return;
        };
        if let Some(next) = entry.get_mut().pop_front() {
            socket.receive = next;
        }
        if entry.get().is_empty() {
            entry.remove();
            socket.behind = false;
        }
    }

    fn sent(&mut self, id: SlotId, result: i32) -> bool {
        let socket = socket_in(&mut self.slots, id);
        let Sending::InFlight { chunks, bytes } =
            mem::replace(&mut socket.sending, Sending::Nothing)
        else {
            unreachable!("a send completes once")
        };
        let mut queue = socket
            .queue
            .take()
            .expect("a socket that sends has a queue");
        // MSG_WAITALL: a short count is a failed send.
        if usize::try_from(result).is_ok_and(|sent| sent == bytes) {
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
        if let Some(waker) = socket.writer.take() {
            self.wake.push(waker);
        }
        if !queue.chunks.is_empty() {
            socket.queue = Some(queue);
            if !socket.abandoned && socket.becomes_dirty() {
                self.dirty.push(id);
            }
        } else if self.spare_queues.len() < SPARE_QUEUES {
            self.spare_queues.push(queue);
        }
        socket.abandoned
    }

    fn connected(&mut self, id: SlotId, result: i32) -> bool {
        let socket = socket_in(&mut self.slots, id);
        socket.link = if result == 0 {
            Link::Connected
        } else {
            Link::Failed(-result)
        };
        self.wake.extend(socket.reader.take());
        if socket.queue.is_some() && socket.becomes_dirty() {
            self.dirty.push(id);
        }
        socket.abandoned
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

/// The socket in a slot that its stream has not released. Beside it the rest of the state stays at hand.
fn socket_in(slots: &mut [Entry], id: SlotId) -> &mut Socket {
    match &mut slots[id.slot as usize] {
        Entry {
            generation,
            slot: Slot::Socket(socket),
        } if *generation == id.generation => socket,
        _ => unreachable!("a stream's slot holds its socket until it is released"),
    }
}

const GENERATION_MASK: u32 = (1 << 24) - 1;
/// `IORING_RECVSEND_POLL_FIRST`: wait for readiness before the first attempt.
const RECVSEND_POLL_FIRST: u16 = 1;
/// `IORING_RECV_MULTISHOT`: go on after what was received.
const RECV_MULTISHOT: u16 = 2;

pub(super) fn next_generation(generation: u32) -> u32 {
    (generation + 1) & GENERATION_MASK
}
