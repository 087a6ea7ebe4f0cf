//! What the service manager hears of us: ready, stopping. Without `NOTIFY_SOCKET` nobody listens.
//!
//! Source: <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service manager's socket.
pub(super) struct Systemd(Option<(UnixDatagram, SocketAddr)>);

impl Systemd {
    /// The one that `NOTIFY_SOCKET` names.
    pub(super) fn from_environment() -> Self {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        Self(name.and_then(|name| {
            let found = open(&name);
            if let Err(error) = &found {
                tracing::warn!("NOTIFY_SOCKET cannot be used: {error}");
            }
            found.ok()
        }))
    }

    /// Sends `READY=1` and the like. Never waits: a notice that finds no room is lost.
    pub(super) fn notify(&self, state: &str) {
        if let Some((socket, address)) = &self.0 {
            if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
                tracing::warn!("the service manager did not hear {state:?}: {error}");
            }
        }
    }
}

/// A path, or behind an `@` a name in the abstract namespace.
fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}
