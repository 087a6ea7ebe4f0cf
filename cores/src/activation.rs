//! Sockets that the service manager has opened for us (socket activation): descriptors 3 and up.
//!
//! Source: <https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html>

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::listener::BoundSocket;

/// The first of them.
const FIRST: RawFd = 3;
/// More than this is a mistake.
const SOCKETS_MAX: RawFd = 1024;

/// The listening sockets that came with the process; none if it was not started so, or on a second call.
///
/// Errors: `LISTEN_FDS` is no number, or one of them is no listening TCP socket (`InvalidInput`).
pub fn take() -> io::Result<Vec<BoundSocket>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let count = count(|name| std::env::var(name).ok(), process::id())?;
    if count == 0 || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let descriptors = (FIRST..FIRST + count).map(|fd| {
        // SAFETY: LISTEN_PID names this process, so these descriptors were opened for it before it began and belong
        // to nobody in it; `TAKEN` sees to it that they are taken once.
        unsafe { OwnedFd::from_raw_fd(fd) }
    });
    descriptors.map(BoundSocket::inherited).collect()
}

fn count(variable: impl Fn(&str) -> Option<String>, pid: u32) -> io::Result<RawFd> {
    if variable("LISTEN_PID").is_none_or(|text| text != pid.to_string()) {
        return Ok(0); // meant for a process before us
    }
    let text = variable("LISTEN_FDS").unwrap_or_default();
    let count = text.parse().ok().filter(|n| (0..=SOCKETS_MAX).contains(n));
    count.ok_or_else(|| {
        let text = format!("LISTEN_FDS={text:?} is no number of sockets");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_what_is_meant_for_this_process_counts() {
        let count = |pid: Option<&str>, fds: Option<&str>| {
            let variable = |name: &str| match name {
                "LISTEN_PID" => pid.map(str::to_owned),
                _ => fds.map(str::to_owned),
            };
            super::count(variable, 7).ok()
        };
        assert_eq!(count(None, None), Some(0));
        assert_eq!(count(Some("8"), Some("2")), Some(0));
        assert_eq!(count(Some("7"), Some("2")), Some(2));
        assert_eq!(count(Some("7"), Some("0")), Some(0));
        for wrong in [None, Some("-1"), Some("many"), Some("99999")] {
            assert_eq!(count(Some("7"), wrong), None);
        }
    }
}
