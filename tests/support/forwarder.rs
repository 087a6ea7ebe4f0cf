//! A network between pgdog and a server, which can be cut: from then on nothing gets through, and nobody is told. It
//! counts round trips.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often it is looked at whether the network is cut, or not any more.
const TICK: Duration = Duration::from_millis(5);

/// Passes connections on to one port of this machine.
pub(crate) struct Forwarder {
    port: u16,
    cut: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    turns: Arc<Mutex<Vec<Turns>>>,
}

/// How often one connection has changed its direction: an odd number while the server has not answered.
type Turns = Arc<AtomicUsize>;

impl Forwarder {
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let port = listener.local_addr().expect("it is bound").port();
        let (cut, ended) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let turns = Arc::<Mutex<Vec<Turns>>>::default();
        let (is_cut, has_ended) = (Arc::clone(&cut), Arc::clone(&ended));
        let counts = Arc::clone(&turns);
        std::thread::spawn(move || {
            while !has_ended.load(Ordering::Relaxed) {
                // Whoever connects meanwhile waits, as for packets that do not come.
                let cut = is_cut.load(Ordering::Relaxed);
                match if cut { None } else { listener.accept().ok() } {
                    Some((client, _)) => {
                        let turns = Turns::default();
                        counts.lock().expect("whole").push(Arc::clone(&turns));
                        connect(client, server, &is_cut, &turns);
                    }
                    None => std::thread::sleep(TICK),
                }
            }
        });
        Self {
            port,
            cut,
            ended,
            turns,
        }
    }

    /// Requests, or several on the way at once, that were followed by an answer: of the connection with most of them.
    pub(crate) fn round_trips(&self) -> usize {
        let turns = self.turns.lock().expect("whole");
        let most = turns.iter().map(|turns| turns.load(Ordering::Relaxed));
        most.max().unwrap_or(0) / 2
    }

    /// Where pgdog finds it.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whatever is on its way stays there, until the network is mended.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// What was held up goes on.
    pub(crate) fn mend(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.mend();
    }
}

fn connect(client: TcpStream, server: u16, cut: &Arc<AtomicBool>, turns: &Turns) {
    client.set_nonblocking(false).expect("a socket");
    // Refused there is refused here, as far as that can be.
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
        return;
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(TICK)).expect("a socket");
    }
    let pairs = [
        (client.try_clone(), server.try_clone()),
        (Ok(server), Ok(client)),
    ];
    for (direction, (from, to)) in pairs.into_iter().enumerate() {
        let (from, to) = (from.expect("a descriptor"), to.expect("a descriptor"));
        let (cut, turns) = (Arc::clone(cut), Arc::clone(turns));
        std::thread::spawn(move || pass(from, to, &cut, || turn(&turns, direction)));
    }
}

/// Something goes to the server (0), or to the client (1).
fn turn(turns: &AtomicUsize, direction: usize) {
    let seen = turns.load(Ordering::Relaxed);
    if seen % 2 == direction {
        turns.store(seen + 1, Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool, passes: impl Fn()) {
    let mut bytes = [0; 16 * 1024];
    loop {
        while cut.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
        }
        let read = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        while cut.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
        }
        passes();
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    // Also what the other direction waits for.
    let _ = to.shutdown(Shutdown::Write);
}
