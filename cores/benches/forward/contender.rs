//! The forwarders: plain epoll, tokio's current-thread runtime, and this crate. All accept on SO_REUSEPORT sockets,
//! one per CPU, connect once per client, switch Nagle's algorithm off and read at most [`BUFFER_BYTES`] at once.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::thread;

use cores::{Address, Core, Listener, Mailbox, PostOffice, Stream, TcpOptions};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::poller::{self, Poller, NOTHING, READ, WRITE};
use crate::BUFFER_BYTES;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Epoll,
    Tokio,
    Ring,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epoll => "epoll",
            Self::Tokio => "tokio",
            Self::Ring => "ring",
        })
    }
}

impl FromStr for Contender {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "epoll" => Ok(Self::Epoll),
            "tokio" => Ok(Self::Tokio),
            "ring" => Ok(Self::Ring),
            other => Err(format!("no contender {other:?}: epoll, tokio or ring")),
        }
    }
}

impl Contender {
    /// Forwards to `target` for ever, one thread per CPU; calls `ready` with the address when clients may come.
    pub(crate) fn forward(
        self,
        target: SocketAddr,
        cpus: Vec<usize>,
        ready: impl FnOnce(SocketAddr),
    ) -> io::Result<()> {
        let serve = match self {
            Self::Epoll => epoll_forwarder,
            Self::Tokio => tokio_forwarder,
            Self::Ring => return ring_forwarder(target, &cpus, ready),
        };
        let first = bind("127.0.0.1:0".parse().unwrap())?;
        let address = first.local_addr()?;
        let mut listeners = vec![first];
        for _ in 1..cpus.len() {
            listeners.push(bind(address)?);
        }
        let threads: Vec<_> = listeners
            .into_iter()
            .zip(cpus)
            .map(|(listener, cpu)| {
                thread::spawn(move || {
                    poller::pin(&[cpu])?;
                    serve(listener, target)
                })
            })
            .collect();
        ready(address);
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap())
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// One direction's receiver: a socket and what it could not take yet.
struct Side {
    stream: TcpStream,
    pending: Vec<u8>,
    interest: u32,
}

impl Side {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
            interest: READ,
        }
    }

    /// Sends what fits; the rest waits.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = match (&self.stream).write(bytes) {
            Ok(count) => count,
            Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
            Err(e) => return Err(e),
        };
        self.pending.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    fn send_pending(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.pending);
        self.send(&bytes)
    }
}

/// The plain way: level-triggered, one shared buffer, a write right after each read.
fn epoll_forwarder(listener: TcpListener, target: SocketAddr) -> io::Result<()> {
    const LISTENER: usize = usize::MAX;
    let mut poller = Poller::new()?;
    let mut events = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut pairs: Vec<Option<[Side; 2]>> = Vec::new();
    let mut free = Vec::new();
    poller.add(&listener, LISTENER, READ)?;
    loop {
        poller.wait(&mut events, None)?;
        // Freed places are used again only after this batch: its later events may still name them.
        let mut freed = Vec::new();
        for event in &events {
            if event.key == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    let server = connect(target)?;
                    client.set_nonblocking(true)?;
                    client.set_nodelay(true)?;
                    let place = free.pop().unwrap_or_else(|| {
                        pairs.push(None);
                        pairs.len() - 1
                    });
                    poller.add(&client, place * 2, READ)?;
                    poller.add(&server, place * 2 + 1, READ)?;
                    pairs[place] = Some([Side::new(client), Side::new(server)]);
                }
                continue;
            }
            let (place, side) = (event.key / 2, event.key % 2);
            let Some(pair) = &mut pairs[place] else {
                continue;
            };
            let [here, there] = pair;
            let (here, there) = if side == 0 {
                (here, there)
            } else {
                (there, here)
            };
            if turn(here, there, event.readable, event.writable, &mut buffer).is_err() {
                pairs[place] = None;
                freed.push(place);
                continue;
            }
            for side in [0, 1] {
                // Back-pressure: nothing is read while the other side cannot take it.
                let read = if pair[1 - side].pending.is_empty() {
                    READ
                } else {
                    NOTHING
                };
                let write = if pair[side].pending.is_empty() {
                    NOTHING
                } else {
                    WRITE
                };
                if pair[side].interest != read | write {
                    pair[side].interest = read | write;
                    poller.set(&pair[side].stream, place * 2 + side, read | write)?;
                }
            }
        }
        free.append(&mut freed);
    }
}

/// Moves bytes as far as possible. Errors, the end of the stream among them, end the pair.
fn turn(
    here: &mut Side,
    there: &mut Side,
    readable: bool,
    writable: bool,
    buffer: &mut [u8],
) -> io::Result<()> {
    if writable && !here.pending.is_empty() {
        here.send_pending()?;
    }
    if readable && there.pending.is_empty() {
        match (&here.stream).read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => there.send(&buffer[..count])?,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Starts connecting. Until it has happened, sends say that they would block.
fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.cloexec(), None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&SockAddr::from(target)) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(socket.into()),
    }
}

fn tokio_forwarder(listener: TcpListener, target: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut client, _) = listener.accept().await?;
            tokio::task::spawn_local(async move {
                client.set_nodelay(true)?;
                let mut server = tokio::net::TcpStream::connect(target).await?;
                server.set_nodelay(true)?;
                tokio::io::copy_bidirectional_with_sizes(
                    &mut client,
                    &mut server,
                    BUFFER_BYTES,
                    BUFFER_BYTES,
                )
                .await
            });
        }
    })
}

fn ring_forwarder(
    target: SocketAddr,
    cpus: &[usize],
    ready: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    // Bound only for its number: a listener that nobody serves would keep its share of the clients waiting.
    let address = cores::bind("127.0.0.1:0".parse().unwrap())?.local_address()?;
    let (listening, listenings) = crossbeam_channel::bounded(cpus.len());
    let cores = cores::start(
        cpus,
        16,
        move |core, mailbox: Mailbox<()>, _: PostOffice<()>| async move {
            let listener = Listener::new(&core, cores::bind(address).unwrap()).unwrap();
            listening.send(()).unwrap();
            let accepting = core.clone();
            core.spawn(async move {
                while let Ok(fd) = listener.accept().await {
                    accepting.spawn(forward(accepting.clone(), fd, target));
                }
            });
            mailbox.recv().await;
        },
    )?;
    listenings.iter().take(cpus.len()).for_each(drop);
    ready(address);
    cores.join()
}

async fn forward(core: Core, client: OwnedFd, target: SocketAddr) {
    let client = Stream::adopt(&core, client);
    let options = TcpOptions::default();
    let server = match Stream::connect(&core, &Address::Tcp(target), &options).await {
        Ok(server) if client.configure(&options).is_ok() => server,
        _ => return,
    };
    poll_fn(|cx| {
        if pump(&client, &server, cx).is_ready() {
            return Poll::Ready(());
        }
        pump(&server, &client, cx)
    })
    .await;
}

/// Moves buffers while there are any and there is room. Ready at the end of either stream.
fn pump(from: &Stream, to: &Stream, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        match to.poll_room(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
        match from.poll_recv(cx) {
            Poll::Ready(Ok(Some(buf))) => to.send(buf),
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
}
