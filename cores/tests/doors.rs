//! Two cores take turns at one socket while connections come, and lose none.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::future::{poll_fn, Future};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use cores::{bind, start, BoundSocket, Core, Listener, Mailbox, PostOffice, Stream};

const TURNS: usize = 20;
const CONNECTIONS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(10);

enum Mail {
    /// The socket is this core's to serve, or is not any more: `done` hears of it.
    Turn(bool),
    End,
}

/// Echoes what the connection says first.
fn answer(core: &Core, fd: OwnedFd) {
    let stream = Stream::adopt(core, fd);
    core.spawn(async move {
        if let Ok(Some(bytes)) = stream.recv().await {
            stream.send(bytes);
        }
        let _ = stream.close().await;
    });
}

/// One connection, which is answered.
fn ask(address: SocketAddr) {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
}

#[test]
fn no_connection_is_lost_when_cores_take_turns_at_a_socket() {
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_address().unwrap();
    let socket: Arc<BoundSocket> = Arc::new(socket);
    let (done, turns) = crossbeam_channel::unbounded();
    let main = move |core: Core, mailbox: Mailbox<Mail>, _: PostOffice<Mail>| async move {
        let mut listener = None;
        loop {
            let mail = match &listener {
                None => Some(mailbox.recv().await),
                Some(listener) => next(&core, listener, &mailbox).await,
            };
            match mail {
                None => {}
                Some(Mail::Turn(true)) => {
                    listener = Some(Listener::new(&core, socket.share().unwrap()).unwrap());
                    done.send(()).unwrap();
                }
                Some(Mail::Turn(false)) => {
                    let left: Option<Listener> = listener.take();
                    while let Some(fd) = left.as_ref().unwrap().leave().await {
                        answer(&core, fd);
                    }
                    done.send(()).unwrap();
                }
                Some(Mail::End) => return,
            }
        }
    };
    let cores = start(&[0, 1], 16, main).unwrap();
    let turn = |core: usize, serves: bool| {
        assert!(cores.office().send(core, Mail::Turn(serves)).is_ok());
        turns.recv_timeout(PATIENCE).unwrap();
    };
    turn(0, true);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..CONNECTIONS * TURNS / 4).for_each(|_| ask(address)));
        }
        for number in 0..TURNS {
            let (from, to) = (number % 2, 1 - number % 2);
            // Now and then nobody serves it for a moment: connections wait.
            if number % 3 == 0 {
                turn(from, false);
                turn(to, true);
            } else {
                turn(to, true);
                turn(from, false);
                // Who left may have been woken for a connection that it did not take: whoever listens anew gets it.
                turn(to, false);
                turn(to, true);
            }
        }
    });
    ask(address);
    // The end of a core that serves it ends it for all.
    for core in 0..2 {
        assert!(cores.office().send(core, Mail::End).is_ok());
    }
    cores.join().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

/// The next mail; `None` if a connection came first, which is answered.
async fn next(core: &Core, listener: &Listener, mailbox: &Mailbox<Mail>) -> Option<Mail> {
    let mut mail = pin!(mailbox.recv());
    poll_fn(|cx| {
        if let Poll::Ready(mail) = mail.as_mut().poll(cx) {
            return Poll::Ready(Some(mail));
        }
        listener.poll_accept(cx).map(|accepted| {
            answer(core, accepted.unwrap());
            None
        })
    })
    .await
}
