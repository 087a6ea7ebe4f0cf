//! Cores that serve real sockets, for the tests of plain and of encrypted streams.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::future::{poll_fn, Future};
use std::net::SocketAddr;
use std::sync::mpsc;

use cores::{bind, start, Core, Cores, Detached, Listener, Mailbox, PostOffice, Stream};

/// Between the cores of [`serve`] and [`wander`].
pub(crate) enum Mail {
    Stop,
    Move(Detached),
}

/// An address that nobody listens on.
fn free_address() -> SocketAddr {
    let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    first.local_address().unwrap()
}

/// Runs `session` for every connection on these CPUs; the address, on which all listen, and how to stop.
pub(crate) fn serve<F, Fut>(cpus: &[usize], session: F) -> (SocketAddr, impl FnOnce())
where
    F: Fn(Core, Stream) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let address = free_address();
    let (tell, told) = mpsc::channel();
    let cores = start(
        cpus,
        64,
        move |core, mailbox: Mailbox<Mail>, _: PostOffice<Mail>| async move {
            let listener = Listener::new(&core, bind(address).unwrap()).unwrap();
            tell.send(()).unwrap();
            let accepting = core.clone();
            core.spawn(async move {
                while let Ok(fd) = listener.accept().await {
                    accepting.spawn(session(accepting.clone(), Stream::adopt(&accepting, fd)));
                }
            });
            while !matches!(mailbox.recv().await, Mail::Stop) {}
        },
    )
    .unwrap();
    let count = cpus.len();
    assert_eq!(told.iter().take(count).count(), count, "all cores listen");
    (address, move || {
        for core in 0..count {
            assert!(cores.office().send(core, Mail::Stop).is_ok());
        }
        cores.join().unwrap();
    })
}

/// Echoes one connection, made fit by `welcome`, that changes between two cores every so many bytes, in whatever state
/// it is; its address. The cores end with it.
pub(crate) fn wander<F, Fut>(bytes: usize, welcome: F) -> (SocketAddr, Cores<Mail>)
where
    F: Fn(Stream) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Stream> + 'static,
{
    let address = free_address();
    let (tell, told) = mpsc::channel();
    let cores = start(
        &[0, 1],
        64,
        move |core, mailbox: Mailbox<Mail>, office: PostOffice<Mail>| async move {
            let other = 1 - core.index();
            if core.index() == 0 {
                let listener = Listener::new(&core, bind(address).unwrap()).unwrap();
                tell.send(()).unwrap();
                let stream = Stream::adopt(&core, listener.accept().await.unwrap());
                let detached = welcome(stream).await.detach().await.unwrap();
                assert!(office.send(0, Mail::Move(detached)).is_ok());
            }
            while let Mail::Move(mut detached) = mailbox.recv().await {
                let received = std::mem::take(&mut detached.received);
                let stream = Stream::attach(&core, detached);
                let mut seen = received.len();
                stream.send_vec(received);
                let ended = loop {
                    if seen > bytes {
                        break false;
                    }
                    let Some(buf) = stream.recv().await.unwrap() else {
                        break true;
                    };
                    seen += buf.len();
                    poll_fn(|cx| stream.poll_room(cx)).await.unwrap();
                    stream.send(buf);
                };
                if ended {
                    stream.close().await.unwrap();
                    assert!(office.send(0, Mail::Stop).is_ok());
                    assert!(office.send(1, Mail::Stop).is_ok());
                } else {
                    // A receive that is armed must be taken back: arm one first.
                    let _ = stream.has_received();
                    let detached = stream.detach().await.unwrap();
                    assert!(office.send(other, Mail::Move(detached)).is_ok());
                }
            }
        },
    )
    .unwrap();
    told.recv().unwrap();
    (address, cores)
}
