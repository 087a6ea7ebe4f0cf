//! A small HTTP/1.1 server for metrics and health checks: one thread per connection, few of them, one request each.
//!
//! Peers are not trusted: heads are short and in time, or their connection is closed. Where there are too many, the one
//! that has waited longest without a request makes room: who has nothing to say keeps nobody out.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::now;

/// Connections at once. For a further one the oldest that has not asked anything is closed; if all have, it is itself.
const CONNECTIONS_MAX: usize = 32;
/// Longest request line and headers together.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Most headers.
const HEADERS_MAX: usize = 64;
/// For reading the request, and once more for writing the response.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after accept failed, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Without a query.
    pub(super) path: String,
    /// The header of the same name, or nothing.
    pub(super) accept: String,
}

/// What is answered.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Response {
    pub(super) fn text(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain",
            body: body.into(),
        }
    }
}

/// Answers GET and HEAD on this port of all addresses, from now on.
///
/// Errors: the port is not to be had.
pub(super) fn serve(
    port: u16,
    respond: impl Fn(Request) -> Response + Send + Sync + 'static,
) -> io::Result<()> {
    let listener = listen(port)?;
    let respond = Arc::new(respond);
    thread::Builder::new()
        .name("http".to_owned())
        .spawn(move || accept(&listener, &respond))
        .map(drop)
}

#[expect(clippy::disallowed_methods, reason = "no core has to do with it")]
fn listen(port: u16) -> io::Result<TcpListener> {
    // Both families, or what there is.
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        }
        bound => bound,
    }
}

fn accept<R>(listener: &TcpListener, respond: &Arc<R>)
where
    R: Fn(Request) -> Response + Send + Sync + 'static,
{
    let mut open: Vec<Weak<Connection>> = Vec::new();
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept an HTTP connection: {error}");
                pause();
                continue;
            }
        };
        open.retain(|connection| connection.strong_count() > 0);
        if open.len() >= CONNECTIONS_MAX {
            let idle = open.iter().position(|connection| {
                let connection = connection.upgrade();
                connection.is_none_or(|connection| connection.make_room())
            });
            let Some(idle) = idle else {
                continue; // closed
            };
            open.remove(idle);
        }
        let respond = Arc::clone(respond);
        let connection = Arc::new(Connection {
            stream,
            settled: AtomicBool::new(false),
        });
        open.push(Arc::downgrade(&connection));
        let spawned = thread::Builder::new()
            .name("http connection".to_owned())
            .spawn(move || {
                // Whatever goes wrong with it concerns its peer only.
                if let Err(error) = converse(&connection, &*respond) {
                    tracing::debug!("HTTP connection: {error}");
                }
            });
        if let Err(error) = spawned {
            tracing::warn!("cannot start a thread: {error}");
        }
    }
}

/// One connection, for its thread and for whoever accepts others.
struct Connection {
    stream: TcpStream,
    /// It has asked something, or is to go because it has not.
    settled: AtomicBool,
}

impl Connection {
    /// Ends it, unless it has asked something.
    fn make_room(&self) -> bool {
        let idle = !self.settled.swap(true, Ordering::Relaxed);
        if idle {
            // Its thread sees the end of the stream; one that is gone already will do.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        idle
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own")]
fn pause() {
    thread::sleep(ACCEPT_PAUSE);
}

fn converse(connection: &Connection, respond: &dyn Fn(Request) -> Response) -> io::Result<()> {
    let mut stream = &connection.stream;
    let deadline = now() + PATIENCE;
    let asked = read_head(stream, deadline)?;
    if connection.settled.swap(true, Ordering::Relaxed) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let (mut response, head, allow) = match asked {
        Asked::Get(request) => (respond(request), false, ""),
        Asked::Head(request) => (respond(request), true, ""),
        Asked::Other => (
            Response::text(405, "GET or HEAD\n"),
            false,
            "Allow: GET, HEAD\r\n",
        ),
        Asked::Malformed(status) => (Response::text(status, "not understood\n"), false, ""),
    };
    let mut message = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        response.status,
        reason(response.status),
        response.content_type,
        response.body.len(),
    );
    if !head {
        message.push_str(&std::mem::take(&mut response.body));
    }
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(message.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    // What the peer still has to say would otherwise reset the connection before it has read the answer.
    let mut rest = [0; 1024];
    for _ in 0..64 {
        if read(stream, &mut rest, deadline)? == 0 {
            break;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Get(Request),
    Head(Request),
    /// Another method.
    Other,
    /// No HTTP, or too much of it; the status to answer.
    Malformed(u16),
}

fn read_head(stream: &TcpStream, deadline: Instant) -> io::Result<Asked> {
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    loop {
        if let Some(head) = parse(&bytes) {
            return Ok(head);
        }
        let count = read(stream, &mut part, deadline)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(part.get(..count).unwrap_or_default());
    }
}

fn read(mut stream: &TcpStream, part: &mut [u8], deadline: Instant) -> io::Result<usize> {
    let left = deadline.saturating_duration_since(now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))?;
    stream.read(part)
}

/// `None`: there is more to come.
fn parse(bytes: &[u8]) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Some(Asked::Malformed(431))
        }
        Err(_) => return Some(Asked::Malformed(400)),
    }
    let accept = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("accept"))
        .map(|header| String::from_utf8_lossy(header.value));
    let target = request.path.unwrap_or_default();
    let asked = Request {
        path: target
            .split(['?', '#'])
            .next()
            .unwrap_or_default()
            .to_owned(),
        accept: accept.collect::<Vec<_>>().join(","),
    };
    Some(match request.method {
        Some("GET") => Asked::Get(asked),
        Some("HEAD") => Asked::Head(asked),
        _ => Asked::Other,
    })
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, accept: &str) -> Option<Asked> {
        Some(Asked::Get(Request {
            path: path.to_owned(),
            accept: accept.to_owned(),
        }))
    }

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let whole = b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nAccept: a/b\r\naccept: c/d\r\n\r\n";
        for bytes in 0..whole.len() {
            assert_eq!(parse(&whole[..bytes]), None, "{bytes}");
        }
        assert_eq!(parse(whole), get("/metrics", "a/b,c/d"));
        assert_eq!(parse(b"GET / HTTP/1.0\r\n\r\n"), get("/", ""));
        assert!(matches!(
            parse(b"HEAD / HTTP/1.1\r\n\r\n"),
            Some(Asked::Head(_))
        ));
        assert_eq!(parse(b"POST / HTTP/1.1\r\n\r\n{"), Some(Asked::Other));
    }

    #[test]
    fn what_is_no_http_or_too_long_is_refused_early() {
        assert_eq!(
            parse(b"\x16\x03\x01\x02\x00\x01"),
            Some(Asked::Malformed(400))
        );
        assert_eq!(
            parse(b"GET / HTTP/9.9\r\n\r\n"),
            Some(Asked::Malformed(400))
        );
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(parse(long.as_bytes()), Some(Asked::Malformed(431)));
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "a: b\r\n".repeat(HEADERS_MAX + 1)
        );
        assert_eq!(parse(many.as_bytes()), Some(Asked::Malformed(431)));
    }
}
