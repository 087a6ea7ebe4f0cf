//! A way from pgdog to a server that stops at a step: before a statement gets there, or before its answer comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::process::{poll, PATIENCE};

const TICK: Duration = Duration::from_millis(5);

/// Where it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A statement that begins so does not get to the server.
    Before(&'static str),
    /// It does, and its answer does not come back.
    After(&'static str),
    /// It does, and its answer comes back with all that the server says until it closes the connection.
    AtTheEnd(&'static str),
}

/// Passes connections on to one port of this machine, until it is armed.
pub(crate) struct Turnstile {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    armed: Mutex<Option<Step>>,
    reached: AtomicBool,
    ended: AtomicBool,
}

impl Turnstile {
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::<Shared>::default();
        let context = Arc::clone(&shared);
        std::thread::spawn(move || {
            while !context.ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => connect(client, server, &context),
                    Err(_) => std::thread::sleep(TICK),
                }
            }
        });
        Self { port, shared }
    }

    /// Where pgdog finds it.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The next statement of this kind stops here.
    pub(crate) fn arm(&self, step: Step) {
        self.shared.reached.store(false, Ordering::SeqCst);
        *self.shared.armed.lock().expect("nobody panics here") = Some(step);
    }

    /// Waits until one has.
    pub(crate) fn wait(&self) {
        poll(PATIENCE, "the step", || {
            let reached = self.shared.reached.load(Ordering::SeqCst);
            reached.then_some(())
        });
    }

    /// What was stopped is lost with its connection, what comes from here on passes.
    pub(crate) fn disarm(&self) {
        *self.shared.armed.lock().expect("nobody panics here") = None;
    }
}

impl Drop for Turnstile {
    fn drop(&mut self) {
        self.disarm();
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn armed(&self) -> Option<Step> {
        *self.armed.lock().expect("nobody panics here")
    }

    fn hold(&self) {
        self.reached.store(true, Ordering::SeqCst);
        while self.armed().is_some() {
            std::thread::sleep(TICK);
        }
    }
}

fn connect(client: TcpStream, server: u16, shared: &Arc<Shared>) {
    client.set_nonblocking(false).expect("a socket");
    // Refused there is refused here, as far as that can be.
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
        return;
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(TICK)).expect("a socket");
    }
    let withheld = Arc::<AtomicBool>::default();
    let up = (client.try_clone(), server.try_clone());
    let (from, to) = (up.0.expect("a descriptor"), up.1.expect("a descriptor"));
    let (context, withholds) = (Arc::clone(shared), Arc::clone(&withheld));
    std::thread::spawn(move || to_server(from, to, &context, &withholds));
    let context = Arc::clone(shared);
    std::thread::spawn(move || to_client(server, client, &context, &withheld));
}

/// What is there to be read; nothing at the end.
fn next<'b>(from: &mut TcpStream, bytes: &'b mut [u8], shared: &Shared) -> &'b [u8] {
    loop {
        match from.read(bytes) {
            Ok(read) => return &bytes[..read],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if shared.ended.load(Ordering::Relaxed) {
                    return &[];
                }
            }
            Err(_) => return &[],
        }
    }
}

fn to_server(mut from: TcpStream, mut to: TcpStream, shared: &Shared, withheld: &AtomicBool) {
    let mut bytes = [0; 16 * 1024];
    loop {
        let read = next(&mut from, &mut bytes, shared);
        if read.is_empty() {
            break;
        }
        let says = |text: &str| {
            read.windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        match shared.armed() {
            Some(Step::Before(text)) if says(text) => {
                shared.hold();
                let _ = from.shutdown(Shutdown::Both);
                break;
            }
            Some(Step::After(text) | Step::AtTheEnd(text)) if says(text) => {
                withheld.store(true, Ordering::SeqCst);
            }
            _ => {}
        }
        if to.write_all(read).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn to_client(mut from: TcpStream, mut to: TcpStream, shared: &Shared, withheld: &AtomicBool) {
    let mut bytes = [0; 16 * 1024];
    loop {
        let read = next(&mut from, &mut bytes, shared);
        if read.is_empty() {
            break;
        }
        if withheld.load(Ordering::SeqCst) {
            shared.reached.store(true, Ordering::SeqCst);
            if let Some(Step::AtTheEnd(_)) = shared.armed() {
                let mut all = read.to_vec();
                loop {
                    let read = next(&mut from, &mut bytes, shared);
                    if read.is_empty() {
                        break;
                    }
                    all.extend_from_slice(read);
                }
                let _ = to.write_all(&all);
                break;
            }
            // That the server is gone is noticed meanwhile.
            while shared.armed().is_some() && !next_ended(&mut from, &mut bytes) {}
            break;
        }
        if to.write_all(read).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Is there nothing more to come? Asks for a tick.
fn next_ended(from: &mut TcpStream, bytes: &mut [u8]) -> bool {
    match from.read(bytes) {
        Ok(read) => read == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}
