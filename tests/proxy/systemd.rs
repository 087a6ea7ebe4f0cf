//! Under a service manager: it is told when we are ready and when we stop, and its sockets are served.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use rustix::io::{fcntl_setfd, FdFlags};
use rustix::process::Signal;

use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::process::{poll, Folder, PATIENCE};
use crate::support::{Config, Postgres, Wire};

fn next_notice(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut notice = [0; 256];
    let length = socket.recv(&mut notice).expect("a notice");
    String::from_utf8_lossy(&notice[..length]).into_owned()
}

#[test]
fn the_service_manager_hears_when_it_is_ready_and_when_it_stops() {
    let database = Postgres::shared().database("systemd");
    let folder = Folder::new("systemd");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let name = format!("NOTIFY_SOCKET={}", path.display());
    let mut pgdog = Config::of(&database).through(&["env", &name]).start();
    assert_eq!(next_notice(&socket), "READY=1");
    assert_eq!(pgdog.client(&database).value("SELECT 1"), "1");
    pgdog.signal(Signal::TERM);
    assert_eq!(next_notice(&socket), "STOPPING=1");
    let status = pgdog.wait(PATIENCE);
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
fn sockets_of_the_service_manager_are_served_by_all_cores_and_outlive_us() {
    let database = Postgres::shared().database("systemd");
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // As systemd hands it over: inherited, and, to make it harder, without waiting.
    listener.set_nonblocking(true).unwrap();
    fcntl_setfd(&listener, FdFlags::empty()).unwrap();
    let activate = format!(
        "exec 3<&{}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"",
        listener.as_raw_fd()
    );
    // Nobody listens on the configured port then.
    let config = Config::of(&database).through(&["bash", "-c", &activate, "bash"]);
    let mut pgdog = config.start_on(port);
    let mut clients: Vec<_> = (0..16)
        .map(|_| Wire::connect(port, ALICE, &database, PASSWORD))
        .collect();
    for client in &mut clients {
        assert_eq!(client.value("SELECT 1"), "1");
    }
    let log = pgdog.log();
    assert!(
        log.contains(&format!("listens on 127.0.0.1:{port}")),
        "{log}"
    );
    drop(clients);
    pgdog.signal(Signal::TERM);
    assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));

    // Who comes during the restart waits in the socket's queue.
    let early = std::thread::spawn(move || {
        Wire::connect(port, ALICE, &database, PASSWORD).value("SELECT 2")
    });
    let waits = std::net::TcpStream::connect(("127.0.0.1", port));
    assert!(waits.is_ok(), "nobody is refused");
    drop(waits);
    let pgdog = config.start_on(port);
    assert_eq!(early.join().unwrap(), "2");
    pgdog.stop();
}

#[test]
fn a_socket_that_cannot_be_served_is_an_error_at_start() {
    let database = Postgres::shared().database("systemd");
    let activate = "exec 3</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
    let config = Config::of(&database).through(&["sh", "-c", activate, "sh"]);
    let mut pgdog = config.begin();
    let status = pgdog.wait(PATIENCE);
    assert_eq!(status.unwrap().code(), Some(1));
    let log = poll(PATIENCE, "the reason", || {
        Some(pgdog.log()).filter(|log| !log.is_empty())
    });
    assert!(
        log.contains("cannot use the service manager's sockets"),
        "{log}"
    );
}
