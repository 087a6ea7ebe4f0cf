//! A network between pgdog and a server, which can be cut: from then on nothing gets through, and nobody is told.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked at whether the network is cut, or not any more.
const TICK: Duration = Duration::from_millis(5);

/// Passes connections on to one port of this machine.
pub(crate) struct Forwarder {
    port: u16,
    cut: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Forwarder {
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let port = listener.local_addr().expect("it is bound").port();
        let (cut, ended) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (is_cut, has_ended) = (Arc::clone(&cut), Arc::clone(&ended));
        std::thread::spawn(move || {
            while !has_ended.load(Ordering::Relaxed) {
                // Whoever connects meanwhile waits, as for packets that do not come.
                let cut = is_cut.load(Ordering::Relaxed);
                match if cut { None } else { listener.accept().ok() } {
                    Some((client, _)) => connect(client, server, &is_cut),
                    None => std::thread::sleep(TICK),
                }
            }
        });
        Self { port, cut, ended }
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

fn connect(client: TcpStream, server: u16, cut: &Arc<AtomicBool>) {
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
    for (from, to) in pairs {
        let (from, to) = (from.expect("a descriptor"), to.expect("a descriptor"));
        let cut = Arc::clone(cut);
        std::thread::spawn(move || pass(from, to, &cut));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
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
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    // Also what the other direction waits for.
    let _ = to.shutdown(Shutdown::Write);
}
