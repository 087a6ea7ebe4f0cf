//! Listening sockets: one per core on the same port, so that the kernel spreads new connections. A core may leave its own to
//! another one for a while.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::{Context, Poll};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::executor::Core;
use crate::ring::SlotId;

/// Connections the kernel keeps for us while we are busy.
pub(crate) const BACKLOG: i32 = 4096;
/// How long the kernel keeps a connection that has not said anything from us: clients of PostgreSQL speak first, and a
/// core that is woken for the first bytes need not be woken for the connection. Silent ones come after this time, for
/// us to lose patience with.
const SILENCE_SECONDS: libc::c_int = 1;

/// A bound socket that any core may serve, or several. It listens from then on: dropped before, it has refused nobody.
pub struct BoundSocket {
    socket: Socket,
    /// The service manager's: it goes on when we end.
    inherited: bool,
}

/// Binds `address` with SO_REUSEPORT: there is one for each core, and the kernel hashes connections to them. Connections are
/// accepted with their first bytes, or after a second (TCP_DEFER_ACCEPT, tcp(7)).
pub fn bind(address: SocketAddr) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    defer_accept(&socket)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(BoundSocket {
        socket,
        inherited: false,
    })
}

/// What socket2 has no name for.
fn defer_accept(socket: &Socket) -> io::Result<()> {
    const OPTION_BYTES: libc::socklen_t = 4;
    let seconds: libc::c_int = SILENCE_SECONDS;
    // SAFETY: the kernel reads as many bytes as it is told from the number that the pointer names.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            OPTION_BYTES,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl BoundSocket {
    /// A socket that listens already. Errors: `InvalidInput` if it is anything else, or not TCP.
    pub(crate) fn inherited(fd: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(fd);
        let address = socket.local_addr()?.as_socket();
        let listens = socket.is_listener()? && socket.r#type()? == Type::STREAM;
        if address.is_none() || !listens {
            let text = "a socket from the service manager does not listen for TCP connections";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        socket.set_cloexec(true)?;
        // Otherwise the ring would not wait for connections.
        socket.set_nonblocking(false)?;
        Ok(Self {
            socket,
            inherited: true,
        })
    }

    /// The same socket, for a core to serve: where several do, they accept from one queue, and the kernel wakes one of
    /// them for each connection.
    pub fn share(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            inherited: self.inherited,
        })
    }

    /// The address it is bound to, with the port the kernel chose if 0 was asked for.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("not an IP socket"))
    }
}

/// Accepts connections on one core. Dropping it, or the end of its core, refuses new ones at once, whoever shares the socket;
/// but those of a socket of the service manager, which wait there. [`Listener::leave`] refuses nobody.
pub struct Listener {
    core: Core,
    id: SlotId,
}

impl Listener {
    /// Serves a bound socket from this core.
    ///
    /// Errors: another process listens on the address without SO_REUSEPORT since it was bound.
    pub fn new(core: &Core, socket: BoundSocket) -> io::Result<Self> {
        socket.socket.listen(BACKLOG)?;
        Ok(Self {
            core: core.clone(),
            id: core
                .ring()
                .listen(OwnedFd::from(socket.socket), socket.inherited),
        })
    }

    /// The next connection: a descriptor that any core may adopt.
    ///
    /// Errors: EMFILE and the like; accepting goes on with the next call.
    pub async fn accept(&self) -> io::Result<OwnedFd> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// As [`Listener::accept`]. One task may wait at a time.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        self.core.ring().poll_accept(self.id, cx)
    }

    /// Stops accepting: another core serves the socket. Its connections that were accepted by then come one by one; whatever
    /// comes later waits for the other core. Where that one waits already, the kernel may have woken this one for a
    /// connection that it leaves: then the other one has to leave and listen anew when this is done, to be given it.
    pub async fn leave(&self) -> Option<OwnedFd> {
        poll_fn(|cx| self.core.ring().poll_leave(self.id, cx)).await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.core.ring().abandon_listener(self.id);
    }
}
