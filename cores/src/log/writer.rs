//! The writer's thread: what has gathered in the queue goes to the output, and what was lost or held back is told.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::time::Instant;

use crossbeam_channel::{at, never, select, Receiver};
use tracing_subscriber::fmt::format;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::repeats::{Held, Repeats};
use super::{Format, Line};

/// Owns the output.
pub(super) struct LineWriter<W: Write> {
    sink: BufWriter<W>,
    shape: Format,
    repeats: Option<Repeats>,
}

impl<W: Write> LineWriter<W> {
    pub(super) fn new(sink: W, shape: Format, repeats: Option<Repeats>) -> Self {
        Self {
            sink: BufWriter::new(sink),
            shape,
            repeats,
        }
    }

    /// Writes until every sender is gone: what has gathered, then the number of records lost meanwhile.
    ///
    /// An output that fails (a closed terminal, a full disk) loses its records; there is nowhere to say so.
    pub(super) fn run(mut self, lines: &Receiver<Line>, dropped: impl Fn() -> u64) {
        loop {
            let end = self.repeats.as_ref().and_then(Repeats::next_end);
            let end = end.map_or_else(never, at);
            select! {
                recv(lines) -> line => match line {
                    Ok(first) => self.write_gathered(first, lines, dropped()),
                    Err(_) => return,
                },
                recv(end) -> _ => {}
            }
            if let Some(repeats) = &mut self.repeats {
                let held = repeats.ended(Instant::now());
                self.write_held(held);
            }
            drop(self.sink.flush());
        }
    }

    fn write_gathered(&mut self, first: Line, lines: &Receiver<Line>, lost: u64) {
        let waiting = lines.len();
        let mut flushed = Vec::new();
        for line in std::iter::once(first).chain(lines.try_iter().take(waiting)) {
            match line {
                Line::Record { key, bytes } => self.write_record(key, bytes),
                Line::Flush(done) => flushed.push(done),
            }
        }
        if lost > 0 {
            self.tell("log records dropped, the queue was full", "dropped", lost);
        }
        if !flushed.is_empty() {
            let held = self.repeats.as_mut().map(Repeats::all);
            self.write_held(held.unwrap_or_default());
        }
        drop(self.sink.flush());
        for done in flushed {
            // The guard may have given up waiting.
            let _ = done.try_send(());
        }
    }

    fn write_record(&mut self, key: Option<u64>, bytes: Vec<u8>) {
        let bytes = match (&mut self.repeats, key) {
            (Some(repeats), Some(key)) => repeats.pass(key, bytes, Instant::now()),
            _ => Some(bytes),
        };
        if let Some(bytes) = bytes {
            self.put(&bytes);
        }
    }

    /// One record, one line: what peers put into it (their names, their statements) does not begin another one. JSON has
    /// escaped it.
    fn put(&mut self, record: &[u8]) {
        let (text, end) = match record.split_last() {
            Some((b'\n', text)) => (text, &b"\n"[..]),
            _ => (record, &[][..]),
        };
        let escaped = match self.shape {
            Format::Text => escape(text),
            Format::Json | Format::JsonFlattened => Cow::Borrowed(text),
        };
        drop(self.sink.write_all(&escaped));
        drop(self.sink.write_all(end));
    }

    fn write_held(&mut self, held: Vec<Held>) {
        for held in held {
            self.put(&held.record);
            self.tell(
                "the record before this one was held back, and as often",
                "repeats",
                held.count,
            );
        }
    }

    /// A record of our own. It goes around the queue and the filter, hence is made by hand.
    fn tell(&mut self, message: &str, name: &str, count: u64) {
        let mut time = String::new();
        if SystemTime
            .format_time(&mut format::Writer::new(&mut time))
            .is_err()
        {
            time.clear();
        }
        let mut line = String::new();
        let target = "cores::log";
        let written = match self.shape {
            Format::Text => writeln!(line, "{time}  WARN log {target}: {message} {name}={count}"),
            Format::Json => writeln!(
                line,
                r#"{{"timestamp":"{time}","level":"WARN","fields":{{"message":"{message}","{name}":{count}}},"target":"{target}","threadName":"log"}}"#
            ),
            Format::JsonFlattened => writeln!(
                line,
                r#"{{"timestamp":"{time}","level":"WARN","message":"{message}","{name}":{count},"target":"{target}","threadName":"log"}}"#
            ),
        };
        debug_assert!(written.is_ok(), "a String takes everything");
        drop(self.sink.write_all(line.as_bytes()));
    }
}

/// Control characters as in a literal of Rust: `\n`, `\x1b`.
fn escape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(u8::is_ascii_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = Vec::with_capacity(text.len() + 16);
    for byte in text {
        match byte.is_ascii_control() {
            true => escaped.extend(byte.escape_ascii()),
            false => escaped.push(*byte),
        }
    }
    Cow::Owned(escaped)
}
