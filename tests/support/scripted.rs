//! A server that speaks as the test wants, for what real PostgreSQL never does.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::wire::{tagged, Message};

/// Listens on a free port and runs `session` for every connection, on a thread each.
pub(crate) fn serve(session: impl Fn(Peer) + Send + Sync + Clone + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let session = session.clone();
            std::thread::spawn(move || session(Peer(stream)));
        }
    });
    port
}

/// One client of the scripted server.
pub(crate) struct Peer(TcpStream);

impl Peer {
    /// Reads the startup message, refusing encryption before it, and lets the client in.
    ///
    /// None when it was something else: a cancel request or a closed connection.
    pub(crate) fn log_in(&mut self, backend_key: bool) -> Option<()> {
        loop {
            let mut length = [0; 4];
            self.0.read_exact(&mut length).ok()?;
            let mut body = vec![
                0;
                usize::try_from(u32::from_be_bytes(length))
                    .ok()?
                    .checked_sub(4)?
            ];
            self.0.read_exact(&mut body).ok()?;
            match body.get(..4)? {
                [0, 3, ..] => break,
                [4, 210, 22, 47 | 48] => self.0.write_all(b"N").ok()?,
                _ => return None,
            }
        }
        let mut reply = tagged(b'R', &[0; 4]);
        for (name, value) in [
            ("server_version", "15.0"),
            ("client_encoding", "UTF8"),
            ("standard_conforming_strings", "on"),
        ] {
            reply.extend(tagged(b'S', format!("{name}\0{value}\0").as_bytes()));
        }
        if backend_key {
            reply.extend(tagged(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]));
        }
        reply.extend(tagged(b'Z', b"I"));
        self.0.write_all(&reply).ok()
    }

    /// The client's next message; None when it is gone.
    pub(crate) fn read(&mut self) -> Option<Message> {
        let mut header = [0; 5];
        self.0.read_exact(&mut header).ok()?;
        let [tag, length @ ..] = header;
        let mut body = vec![
            0;
            usize::try_from(u32::from_be_bytes(length))
                .ok()?
                .checked_sub(4)?
        ];
        self.0.read_exact(&mut body).ok()?;
        Some(Message { tag, body })
    }

    /// Sends bytes and closes the connection, in one packet.
    pub(crate) fn send_last(mut self, bytes: &[u8]) {
        let _ = rustix::net::sockopt::set_tcp_cork(&self.0, true);
        self.send(bytes);
    }

    /// Sends bytes; a client that is gone does not matter.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }
}

/// One row with one text column, its tag and ReadyForQuery idle.
pub(crate) fn one_row(value: &str) -> Vec<u8> {
    let column = [
        &b"v\0"[..],
        &[0; 6],
        &25_u32.to_be_bytes(),
        &[255, 255, 255, 255, 255, 255, 0, 0],
    ]
    .concat();
    let length = u32::try_from(value.len()).expect("short").to_be_bytes();
    [
        tagged(b'T', &[&[0, 1][..], &column].concat()),
        tagged(b'D', &[&[0, 1][..], &length, value.as_bytes()].concat()),
        tagged(b'C', b"SELECT 1\0"),
        tagged(b'Z', b"I"),
    ]
    .concat()
}
