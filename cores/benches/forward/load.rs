//! The two ends: a target that answers every request, and a load generator that keeps one request per connection
//! in flight and takes the time of each. One thread each, both over epoll.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::poller::{self, Poller, READ, WRITE};

/// Size of every request.
pub(crate) const REQUEST_BYTES: usize = 100;

/// One window of ping-pong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) requests: usize,
    /// Used by the contender within the window.
    pub(crate) cpu: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Measured {
    /// Requests per CPU-second of the contender.
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.cpu.as_secs_f64()
    }
}

/// Caches and buffers fill before the window opens.
const WARM_UP: Duration = Duration::from_millis(200);
/// Without any answer for so long the contender has lost a wake-up.
const STALL: Duration = Duration::from_secs(5);

struct Connection {
    stream: TcpStream,
    sent: Instant,
    missing_bytes: usize,
}

/// Runs ping-pong over `connections` connections to `address`; `cpu` reads the contender's clock.
///
/// Errors: a connection broke, or nothing was answered for five seconds (`TimedOut`).
pub(crate) fn measure(
    address: SocketAddr,
    connections: usize,
    answer_bytes: usize,
    window: Duration,
    cpu: &dyn Fn() -> Duration,
) -> io::Result<Measured> {
    let mut poller = Poller::new()?;
    let mut open = Vec::with_capacity(connections);
    for key in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        poller.add(&stream, key, READ)?;
        open.push(Connection {
            stream,
            sent: Instant::now(),
            missing_bytes: 0,
        });
    }
    for connection in &mut open {
        ask(connection, answer_bytes)?;
    }

    let mut buffer = vec![0; 64 * 1024];
    let mut events = Vec::new();
    let mut latencies = Vec::new();
    let mut answered = Instant::now();
    let mut warm = Some(answered + WARM_UP);
    let mut end = answered + WARM_UP + window;
    let mut cpu_start = Duration::ZERO;
    loop {
        poller.wait(&mut events, Some(Duration::from_millis(20)))?;
        let now = Instant::now();
        if warm.is_some_and(|warm| now >= warm) {
            warm = None;
            end = now + window;
            latencies.clear();
            cpu_start = cpu();
        }
        if warm.is_none() && now >= end {
            break;
        }
        if now - answered > STALL {
            return Err(io::Error::new(
                ErrorKind::TimedOut,
                "no answer for 5 s: stalled",
            ));
        }
        for event in &events {
            let Some(connection) = open.get_mut(event.key) else {
                continue;
            };
            if receive(connection, &mut buffer)? {
                answered = Instant::now();
                latencies.push(answered - connection.sent);
                ask(connection, answer_bytes)?;
            }
        }
    }
    let cpu = cpu() - cpu_start;
    latencies.sort_unstable();
    let quantile = |percent: usize| {
        latencies
            .get(latencies.len() * percent / 100)
            .copied()
            .unwrap_or_default()
    };
    Ok(Measured {
        requests: latencies.len(),
        cpu,
        p50: quantile(50),
        p99: quantile(99),
    })
}

fn ask(connection: &mut Connection, answer_bytes: usize) -> io::Result<()> {
    connection.sent = Instant::now();
    connection.missing_bytes = answer_bytes;
    // An empty socket buffer always has room for one request.
    (&connection.stream).write_all(&[b'q'; REQUEST_BYTES])
}

/// Takes what has arrived. True when the answer is complete.
fn receive(connection: &mut Connection, buffer: &mut [u8]) -> io::Result<bool> {
    match (&connection.stream).read(buffer) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(count) if count > connection.missing_bytes => {
            Err(io::Error::other("more bytes than were asked for"))
        }
        Ok(count) => {
            connection.missing_bytes -= count;
            Ok(connection.missing_bytes == 0)
        }
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

/// Starts the target's thread on `cpus`: each request is answered with `answer_bytes`. It ends with the process.
pub(crate) fn start_target(answer_bytes: usize, cpus: Vec<usize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        poller::pin(&cpus).unwrap();
        answer_all(&listener, answer_bytes).unwrap();
    });
    address
}

struct Answering {
    stream: TcpStream,
    /// Of the request that is arriving.
    received_bytes: usize,
    /// Of answers not yet sent.
    owed_bytes: usize,
    interest: u32,
}

fn answer_all(listener: &TcpListener, answer_bytes: usize) -> io::Result<()> {
    const LISTENER: usize = usize::MAX;
    let answer = vec![b'a'; answer_bytes];
    let mut buffer = vec![0; 64 * 1024];
    let mut poller = Poller::new()?;
    let mut events = Vec::new();
    let mut open: Vec<Option<Answering>> = Vec::new();
    listener.set_nonblocking(true)?;
    poller.add(listener, LISTENER, READ)?;
    loop {
        poller.wait(&mut events, None)?;
        for event in &events {
            if event.key == LISTENER {
                // Keys are not used twice: a few thousand connections in the life of this thread.
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    poller.add(&stream, open.len(), READ)?;
                    open.push(Some(Answering {
                        stream,
                        received_bytes: 0,
                        owed_bytes: 0,
                        interest: READ,
                    }));
                }
                continue;
            }
            let Some(place) = open.get_mut(event.key) else {
                continue;
            };
            let Some(connection) = place else {
                continue;
            };
            if connection.turn(&answer, &mut buffer).is_err() {
                *place = None;
                continue;
            }
            let interest = if connection.owed_bytes > 0 {
                READ | WRITE
            } else {
                READ
            };
            if connection.interest != interest {
                connection.interest = interest;
                poller.set(&connection.stream, event.key, interest)?;
            }
        }
    }
}

impl Answering {
    /// One read, then as much of what is owed as fits. Errors end the connection.
    fn turn(&mut self, answer: &[u8], buffer: &mut [u8]) -> io::Result<()> {
        match (&self.stream).read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.received_bytes += count;
                self.owed_bytes += self.received_bytes / REQUEST_BYTES * answer.len();
                self.received_bytes %= REQUEST_BYTES;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        while self.owed_bytes > 0 {
            // All bytes of an answer are alike.
            let piece = &answer[..answer.len().min(self.owed_bytes)];
            match (&self.stream).write(piece) {
                Ok(count) => self.owed_bytes -= count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
