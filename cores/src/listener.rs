//! Listening sockets: one per core on the same port, so that the kernel spreads new connections.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::executor::Core;
use crate::ring::SlotId;

/// Connections the kernel keeps for us while we are busy.
const BACKLOG: i32 = 4096;

/// A bound socket that any core may serve. It listens from then on: dropped before, it has refused nobody.
pub struct BoundSocket(Socket);

/// Binds `address` with SO_REUSEPORT: every core binds its own, and the kernel hashes connections to them.
pub fn bind(address: SocketAddr) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(BoundSocket(socket))
}

impl BoundSocket {
    /// The address it is bound to, with the port the kernel chose if 0 was asked for.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.0
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("not an IP socket"))
    }
}

/// Accepts connections on one core. Dropping it refuses new ones at once.
pub struct Listener {
    core: Core,
    id: SlotId,
}

impl Listener {
    /// Serves a bound socket from this core.
    ///
    /// Errors: another process listens on the address without SO_REUSEPORT since it was bound.
    pub fn new(core: &Core, socket: BoundSocket) -> io::Result<Self> {
        socket.0.listen(BACKLOG)?;
        Ok(Self {
            core: core.clone(),
            id: core.ring().listen(OwnedFd::from(socket.0)),
        })
    }

    /// The next connection: a descriptor that any core may adopt.
    ///
    /// Errors: EMFILE and the like; accepting goes on with the next call.
    pub async fn accept(&self) -> io::Result<OwnedFd> {
        poll_fn(|cx| self.core.ring().poll_accept(self.id, cx)).await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.core.ring().abandon_listener(self.id);
    }
}
