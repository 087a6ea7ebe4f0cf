//! Signals as values: SIGINT, SIGTERM and SIGHUP are blocked everywhere and read by one plain thread.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread;

use crossbeam_channel::{bounded, Receiver};

/// What the operator or the system asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, from a terminal.
    Interrupt,
    /// SIGTERM, from a service manager.
    Terminate,
    /// SIGHUP, by convention: read the configuration again.
    Hangup,
}

/// Proof that the signals are blocked, and the way to receive them.
#[derive(Debug)]
pub struct Signals {
    set: libc::sigset_t,
}

/// Values that may wait in the channel of [`Signals::watch`]. Beyond that the kernel keeps each signal pending
/// once, so none is forgotten but repetitions merge.
const WAITING_MAX: usize = 16;

impl Signals {
    /// Blocks the three signals in the calling thread and ignores SIGPIPE in the process.
    ///
    /// Call it first in `main`: threads and child processes started later inherit the mask, those started
    /// before would still die of a signal. A child that is to be stopped by SIGTERM must unblock it itself.
    ///
    /// Errors: those of pthread_sigmask(3) and signal(2), none expected.
    pub fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set it is given, before anything reads it.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: the set is initialised and the number a valid signal.
            unsafe { libc::sigaddset(&raw mut set, number) };
        }
        // SAFETY: the set is initialised; the old mask is not asked for.
        let error =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: SIG_IGN installs no handler, so no code of ours runs in signal context.
        if unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { set })
    }

    /// Waits for the next signal, blocking the thread.
    #[expect(
        clippy::should_implement_trait,
        reason = "it never ends, and a for loop would hide that it blocks"
    )]
    pub fn next(&mut self) -> Signal {
        loop {
            let mut number = 0;
            // SAFETY: the set is initialised and the kernel writes one integer.
            let error = unsafe { libc::sigwait(&raw const self.set, &raw mut number) };
            debug_assert!(error == 0 || error == libc::EINTR, "the set is valid");
            match number {
                libc::SIGINT => return Signal::Interrupt,
                libc::SIGTERM => return Signal::Terminate,
                libc::SIGHUP => return Signal::Hangup,
                _ => {} // interrupted
            }
        }
    }

    /// Starts a thread named `signals` that passes every signal on. It lives until the process ends, or until
    /// the first signal after the receiver was dropped.
    ///
    /// Errors: the thread cannot be started.
    pub fn watch(mut self) -> io::Result<Receiver<Signal>> {
        let (sender, receiver) = bounded(WAITING_MAX);
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || while sender.send(self.next()).is_ok() {})?;
        Ok(receiver)
    }
}
