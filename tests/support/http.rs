//! A blocking HTTP client that knows as much as these tests need.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{channel, Receiver, Sender};

use super::process::PATIENCE;

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends these bytes and reads to the end. None: the connection was closed without an answer.
pub(crate) fn converse(port: u16, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// GET, with more header lines.
#[track_caller]
pub(crate) fn get_with(port: u16, path: &str, headers: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    converse(port, &request).expect("an answer")
}

/// GET.
#[track_caller]
pub(crate) fn get(port: u16, path: &str) -> Answer {
    get_with(port, path, "")
}

/// The samples of a metrics endpoint.
pub(crate) struct Scrape(HashMap<String, f64>);

impl Scrape {
    #[track_caller]
    pub(crate) fn of(port: u16) -> Self {
        let answer = get(port, "/metrics");
        assert_eq!(answer.status, 200, "{}", answer.body);
        let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
        let pair = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(samples.map(|line| pair(line).expect("a sample")).collect())
    }

    /// The sum over all samples of this metric.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, "")
    }

    /// The sum over the samples whose labels contain this text.
    #[track_caller]
    pub(crate) fn sum_where(&self, name: &str, labels: &str) -> f64 {
        let samples = self.0.iter().filter(|(sample, _)| {
            let (metric, rest) = sample.split_once('{').unwrap_or((sample, ""));
            metric == name && rest.contains(labels)
        });
        let values: Vec<_> = samples.map(|(_, value)| *value).collect();
        assert!(!values.is_empty(), "no sample of {name}");
        values.iter().sum()
    }
}

/// Answers every request with 200, and hands over its head and body.
pub(crate) fn collector() -> (u16, Receiver<(String, String)>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let (requests, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let requests = requests.clone();
            std::thread::spawn(move || take(stream, &requests));
        }
    });
    (port, received)
}

/// Requests of one connection, until it ends.
fn take(mut stream: TcpStream, requests: &Sender<(String, String)>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let lower = head.to_ascii_lowercase();
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))?;
        let mut body = vec![0; length.trim().parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        requests.send((head, String::from_utf8(body).ok()?)).ok()?;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            .ok()?;
    }
}
