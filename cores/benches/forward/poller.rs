//! A thin epoll, level-triggered, for the load, the target and the contender to beat.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Interest in nothing but errors.
pub(crate) const NOTHING: u32 = 0;
/// Interest in bytes, a connection to accept, or the end of the stream.
pub(crate) const READ: u32 = 1;
/// Interest in room to send.
pub(crate) const WRITE: u32 = 4;

const _: () = assert!(libc::EPOLLIN == 1 && libc::EPOLLOUT == 4);

/// What happened to the descriptor registered under `key`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) key: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

pub(crate) struct Poller {
    epoll: OwnedFd,
    raw: Vec<libc::epoll_event>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes a flag, returns a new descriptor or -1.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Self {
            // SAFETY: just created and owned by nobody else.
            epoll: unsafe { OwnedFd::from_raw_fd(fd) },
            raw: vec![libc::epoll_event { events: 0, u64: 0 }; 512],
        })
    }

    pub(crate) fn add(&self, fd: &impl AsRawFd, key: usize, interest: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), key, interest)
    }

    pub(crate) fn set(&self, fd: &impl AsRawFd, key: usize, interest: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), key, interest)
    }

    fn control(&self, op: i32, fd: RawFd, key: usize, interest: u32) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest,
            u64: key as u64,
        };
        // SAFETY: both descriptors are open, and the kernel only reads the event.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), op, fd, &raw mut event) }).map(drop)
    }

    /// Waits for something to happen and replaces `events` with it; empty after the timeout.
    pub(crate) fn wait(
        &mut self,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let timeout_ms = timeout.map_or(-1, |t| i32::try_from(t.as_millis()).unwrap_or(i32::MAX));
        let room = i32::try_from(self.raw.len()).unwrap_or(i32::MAX);
        // SAFETY: the kernel writes at most `room` events into a buffer of that length.
        let result = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.raw.as_mut_ptr(),
                room,
                timeout_ms,
            )
        };
        events.clear();
        let count = match check(result) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            count => usize::try_from(count?).unwrap_or_default(),
        };
        events.extend(self.raw.iter().take(count).map(|raw| Event {
            key: usize::try_from(raw.u64).unwrap_or_default(),
            readable: raw.events & !WRITE != 0,
            writable: raw.events & WRITE != 0,
        }));
        Ok(())
    }
}

/// Lets the calling thread, and those it starts later, run on these CPUs only.
pub(crate) fn pin(cpus: &[usize]) -> io::Result<()> {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus.iter().filter(|cpu| **cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: the number is inside the set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the kernel reads the set, whose size is given.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }).map(drop)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
