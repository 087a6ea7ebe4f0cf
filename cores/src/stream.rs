//! One byte stream of one core, TCP or Unix, plain or encrypted: receives in place, sends in batches.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::buffer::Buf;
use crate::executor::Core;
use crate::ring::{Chunk, SlotId};
use crate::tls::{self, Session};

/// A connected socket served by its core's ring.
///
/// All operations are cancel-safe: the ring owns buffers and operations, never a future. Dropping the stream ends
/// the connection at once; what is queued may be lost ([`Stream::close`] sends it first).
pub struct Stream {
    core: Core,
    id: SlotId,
    /// See [`Stream::take_traffic`].
    traffic: Traffic,
}

/// Bytes of a stream.
#[derive(Debug, Default)]
struct Traffic {
    received: Cell<u64>,
    sent: Cell<u64>,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Options of TCP sockets; `None` leaves the operating system's value. Unix sockets ignore them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Probe idle peers.
    pub keepalive: bool,
    /// Idle time before the first probe.
    pub keepalive_time: Option<Duration>,
    /// Time between probes.
    pub keepalive_interval: Option<Duration>,
    /// Probes without an answer before the connection counts as lost.
    pub keepalive_retries: Option<u32>,
    /// Longest time that sent data may stay unacknowledged.
    pub user_timeout: Option<Duration>,
    /// Name of the congestion control algorithm.
    pub congestion_control: Option<String>,
}

impl TcpOptions {
    /// Tries the options on a socket of its own. Errors: the kernel does not take them.
    pub fn check(&self) -> io::Result<()> {
        // Without IPv4 there may be no socket, but then its options are not the trouble.
        match Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None) {
            Ok(socket) => self.apply(SockRef::from(&socket)),
            Err(_) => Ok(()),
        }
    }

    /// Sets the options, and turns Nagle's algorithm off.
    pub fn apply(&self, socket: SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        if self.keepalive {
            let mut keepalive = TcpKeepalive::new();
            if let Some(time) = self.keepalive_time {
                keepalive = keepalive.with_time(time);
            }
            if let Some(interval) = self.keepalive_interval {
                keepalive = keepalive.with_interval(interval);
            }
            if let Some(retries) = self.keepalive_retries {
                keepalive = keepalive.with_retries(retries);
            }
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if let Some(timeout) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
        if let Some(algorithm) = &self.congestion_control {
            socket.set_tcp_congestion(algorithm.as_bytes())?;
        }
        Ok(())
    }
}

impl Stream {
    /// Connects. Dropping the future gives the attempt up.
    pub async fn connect(
        core: &Core,
        address: &Address,
        options: &TcpOptions,
    ) -> io::Result<Stream> {
        let (socket, to) = match address {
            Address::Tcp(to) => {
                let socket = Socket::new(Domain::for_address(*to), Type::STREAM.cloexec(), None)?;
                options.apply(SockRef::from(&socket))?;
                (socket, SockAddr::from(*to))
            }
            Address::Unix(path) => (
                Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?,
                SockAddr::unix(path)?,
            ),
        };
        let stream = Stream {
            core: core.clone(),
            id: core.ring().connect(OwnedFd::from(socket), to),
            traffic: Traffic::default(),
        };
        poll_fn(|cx| stream.core.ring().poll_connected(stream.id, cx)).await?;
        Ok(stream)
    }

    /// Serves an already connected socket from now on.
    pub fn adopt(core: &Core, fd: OwnedFd) -> Stream {
        Stream {
            core: core.clone(),
            id: core.ring().adopt(fd),
            traffic: Traffic::default(),
        }
    }

    /// The next bytes, in place; `None` at the end of the stream. One task may wait at a time.
    ///
    /// The kernel gets a receive only when this is polled. Where little comes at a time it may go on with one; what that brings
    /// waits here, and ends it: not polling is back-pressure.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        let received = self.core.ring().poll_receive(self.id, cx);
        if let Poll::Ready(Ok(Some(buf))) = &received {
            add(&self.traffic.received, buf.len());
        }
        received
    }

    /// Bytes taken, and bytes queued for sending, since the last call.
    #[inline]
    pub fn take_traffic(&self) -> (u64, u64) {
        let Traffic { received, sent } = &self.traffic;
        (received.take(), sent.take())
    }

    /// The core that serves it.
    #[inline]
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// As [`Stream::poll_recv`].
    pub async fn recv(&self) -> io::Result<Option<Buf>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Has anything come that was not taken: bytes, the end, an error? Also arms the receive, so that the next
    /// call knows. For connections at rest, where anything at all is a surprise.
    pub fn has_received(&self) -> bool {
        self.core.ring().has_received(self.id)
    }

    /// Ready when fewer than four chunks are queued: ask before sending what can wait. One task may wait at a time.
    #[inline]
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.core.ring().poll_room(self.id, cx)
    }

    /// Queues received bytes as they are; they leave at the end of the core's turn.
    ///
    /// A failed connection drops them: the error shows in `poll_room`, `flush` or `recv`.
    pub fn send(&self, buf: Buf) {
        add(&self.traffic.sent, buf.len());
        self.core.ring().send(self.id, Chunk::Lent(buf));
    }

    /// Queues bytes that live forever.
    pub fn send_static(&self, bytes: &'static [u8]) {
        add(&self.traffic.sent, bytes.len());
        self.core.ring().send(self.id, Chunk::Static(bytes));
    }

    /// Queues bytes of our own.
    pub fn send_vec(&self, bytes: Vec<u8>) {
        add(&self.traffic.sent, bytes.len());
        self.core.ring().send(self.id, Chunk::Owned(bytes));
    }

    /// Queues a copy of `bytes`.
    pub fn write(&self, bytes: &[u8]) {
        add(&self.traffic.sent, bytes.len());
        self.core.ring().write(self.id, bytes);
    }

    /// Ready when everything queued has been handed to the kernel.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.core.ring().poll_flushed(self.id, cx)
    }

    /// As [`Stream::poll_flush`].
    pub async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends what is queued, then ends our direction: the peer sees the end of the stream, after close_notify if it
    /// is encrypted.
    pub async fn finish(&self) -> io::Result<()> {
        self.core.ring().say_goodbye(self.id);
        self.flush().await?;
        self.core.ring().shutdown(self.id, Shutdown::Write);
        Ok(())
    }

    /// Sends what is queued, then ends the connection in order.
    pub async fn close(self) -> io::Result<()> {
        self.finish().await
    }

    /// Leaves the ring, to go on elsewhere. Errors: the connection failed, or cannot be decrypted.
    pub async fn detach(self) -> io::Result<Detached> {
        poll_fn(|cx| self.poll_disarm(cx)).await;
        let received = self.core.ring().take_opened(self.id)?;
        self.flush().await?;
        let (socket, session) = self.core.ring().detach(self.id);
        Ok(Detached {
            received,
            socket,
            session,
        })
    }

    /// Serves a connection that was detached from a core, this or another, as it was there.
    pub fn attach(core: &Core, detached: Detached) -> Stream {
        let stream = Stream::adopt(core, detached.socket);
        if let Some(session) = detached.session {
            core.ring().secure(stream.id, session);
        }
        stream
    }

    /// What was settled when it was encrypted; `None` for a plain stream.
    pub fn tls(&self) -> Option<tls::Info> {
        self.core.ring().tls_info(self.id)
    }

    pub(crate) fn poll_disarm(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.core.ring().poll_disarm(self.id, cx)
    }

    /// What receives have brought and nobody has taken.
    pub(crate) fn take_received(&self) -> Vec<Buf> {
        self.core.ring().take_received(self.id)
    }

    pub(crate) fn secure(&self, session: Box<Session>) {
        self.core.ring().secure(self.id, session);
    }

    /// The peer's address; `None` for Unix sockets and lost connections.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.socket(|socket| socket.peer_addr().ok()?.as_socket())
    }

    fn socket<T>(&self, ask: impl FnOnce(SockRef<'_>) -> T) -> T {
        // SAFETY: the slot owns the descriptor and is released only after `self` is gone.
        let fd = unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) };
        ask(SockRef::from(&fd))
    }

    /// Sets TCP options on this socket; does nothing for Unix sockets.
    pub fn configure(&self, options: &TcpOptions) -> io::Result<()> {
        if self.peer().is_some() {
            self.socket(|socket| options.apply(socket))?;
        }
        Ok(())
    }
}

/// Is it this process or its host that lacks something (descriptors, memory), and nothing that a peer has done?
pub fn lacks_resources(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
    )
}

#[inline]
fn add(bytes: &Cell<u64>, more: usize) {
    bytes.set(bytes.get() + more as u64);
}

/// A connection between two cores: a socket, and the state of its TLS.
pub struct Detached {
    /// What was received and not taken: it is the caller's, and does not come again.
    pub received: Vec<u8>,
    socket: OwnedFd,
    session: Option<Box<Session>>,
}

impl std::fmt::Debug for Detached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Detached({} bytes received)", self.received.len())
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.core.ring().fd(self.id)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.core.ring().abandon(self.id);
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({:?})", self.id)
    }
}
