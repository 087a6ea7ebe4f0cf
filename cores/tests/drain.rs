//! A drain on a real core: it ends when the last session has, not before, and leaves no socket behind.

#![expect(clippy::unwrap_used, reason = "a test, its support functions too")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use cores::gate::Gate;
use cores::placement::{Placement, Wish};
use cores::{bind, start, Core, Listener, Mailbox, PostOffice, Stream};

const CLIENTS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(10);

struct Drain;

#[test]
fn no_session_or_socket_outlives_the_drain() {
    let sockets_before = open_sockets();
    let address = bind("127.0.0.1:0".parse().unwrap())
        .unwrap()
        .local_address()
        .unwrap();
    let (report, reports) = crossbeam_channel::unbounded();
    let main = move |core: Core, mailbox: Mailbox<Drain>, _: PostOffice<Drain>| async move {
        let gate = Gate::new();
        let listener = Listener::new(&core, bind(address).unwrap()).unwrap();
        let (accepting, entrance) = (core.clone(), gate.clone());
        // Whatever owns a socket has a pass, the accepting task too: an executor that ends before its tasks
        // leaks what they own.
        let accepting_pass = gate.enter();
        core.spawn(async move {
            while !entrance.is_closed() {
                let soon = Some(Instant::now() + Duration::from_millis(20));
                let accepted = accepting.timeout_at(soon, listener.accept()).await;
                let Some(Ok(fd)) = accepted else {
                    continue;
                };
                let stream = Stream::adopt(&accepting, fd);
                // A closed gate: the connection ends here.
                let Some(pass) = entrance.enter() else {
                    continue;
                };
                accepting.spawn(async move {
                    while let Ok(Some(bytes)) = stream.recv().await {
                        stream.send(bytes);
                    }
                    drop(stream);
                    drop(pass);
                });
            }
            drop(listener);
            drop(accepting_pass);
        });
        report.send(gate.running()).unwrap();
        mailbox.recv().await;
        gate.close();
        report.send(gate.running()).unwrap();
        gate.drained().await;
        report.send(gate.running()).unwrap();
    };
    let one = Wish {
        workers: Some(1),
        cpus: Vec::new(),
    };
    let cores = start(&Placement::choose(&one).unwrap().cpus, 16, main).unwrap();
    assert_eq!(reports.recv_timeout(PATIENCE), Ok(1), "the accepting task");

    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    clients.iter_mut().for_each(echoed);
    assert!(cores.office().send(0, Drain).is_ok());
    assert_eq!(reports.recv_timeout(PATIENCE), Ok(CLIENTS + 1));

    // Sessions in progress go on, and a newcomer is turned away.
    clients.iter_mut().for_each(echoed);
    if let Ok(mut late) = TcpStream::connect(address) {
        late.set_read_timeout(Some(PATIENCE)).unwrap();
        // The kernel may have taken it, and says that nobody is there when it hears something.
        match late.write_all(b"hello").and_then(|()| late.read(&mut [0])) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    clients.truncate(1);
    clients.iter_mut().for_each(echoed);
    assert!(reports.is_empty(), "one session is still there");
    clients.clear();
    assert_eq!(reports.recv_timeout(PATIENCE), Ok(0));
    cores.join().unwrap();
    assert_eq!(open_sockets(), sockets_before);
}

fn echoed(client: &mut TcpStream) {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
}

/// The only test of its process, so nobody else opens any.
fn open_sockets() -> usize {
    let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
    files
        .filter_map(|file| fs::read_link(file.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}
