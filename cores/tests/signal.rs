//! Signals reach the watching thread and nothing else. A process of its own, without the test harness's
//! threads: they would have been started before the signals were blocked.

#![expect(clippy::unwrap_used, reason = "a test, though not one of the harness")]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use cores::signal::{Signal, Signals};

const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    let signals = Signals::block().unwrap();
    // A thread started later must not die of any of them.
    let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
    let bystander = thread::spawn(move || stopped.recv().is_err());

    // One is already pending when the watch begins.
    raise(libc::SIGHUP);
    let values = signals.watch().unwrap();
    assert_eq!(values.recv_timeout(PATIENCE), Ok(Signal::Hangup));
    for (number, expected) in [
        (libc::SIGTERM, Signal::Terminate),
        (libc::SIGINT, Signal::Interrupt),
        (libc::SIGHUP, Signal::Hangup),
    ] {
        raise(number);
        assert_eq!(values.recv_timeout(PATIENCE), Ok(expected));
    }
    assert!(values.is_empty());

    broken_pipe_is_an_error();
    drop(stop);
    assert!(bystander.join().unwrap());
}

fn raise(number: libc::c_int) {
    let process = libc::pid_t::try_from(std::process::id()).unwrap();
    // SAFETY: sends a signal to this process; it is blocked in every thread.
    assert_eq!(unsafe { libc::kill(process, number) }, 0);
}

fn broken_pipe_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop(listener.accept().unwrap());
    let broken = (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(1));
        stream.write_all(&[0; 1024]).is_err()
    });
    assert!(
        broken,
        "writing to a closed peer must fail, not kill the process"
    );
}
