//! Log records leave a core through a bounded queue; a thread of their own writes them. A full queue drops
//! records and counts them, so a slow terminal or disk never holds up a query.

mod repeats;
mod writer;

use std::io::{self, Write};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{bounded, Sender};
use tracing::dispatcher::{self, Dispatch};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt as format;

pub use repeats::Dedup;

use repeats::{Keyed, Repeats, KEY_DIGITS};
use writer::LineWriter;

/// What to log, how, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Shape of a record.
    pub format: Format,
    /// Directives as in `RUST_LOG`: `info`, or `warn,cores=debug`.
    /// Source: <https://docs.rs/tracing-subscriber/0.3/tracing_subscriber/filter/struct.EnvFilter.html#directives>
    pub filter: String,
    /// Records that may wait to be written, at least 1. Those that find the queue full are dropped.
    pub records_max: usize,
    /// Where records go.
    pub output: Output,
    /// How repeated records are held back, if they are.
    pub dedup: Option<Dedup>,
}

/// Shape of a record, always one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Time, level, thread, target, message, fields.
    #[default]
    Text,
    /// An object per record, the event's fields in an object `fields`.
    Json,
    /// An object per record, the event's fields at its top level.
    JsonFlattened,
}

impl FromStr for Format {
    type Err = io::Error;

    /// Reads `text`, `json` and `json_flattened`. Errors: `InvalidInput` for anything else.
    fn from_str(name: &str) -> io::Result<Self> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "json_flattened" => Ok(Self::JsonFlattened),
            other => Err(invalid(format!(
                "log format {other:?} is none of text, json, json_flattened"
            ))),
        }
    }
}

/// Where records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// Standard error.
    #[default]
    Stderr,
    /// Standard output.
    Stdout,
}

/// Installs the process's logger and starts its thread, named `log`.
///
/// Keep the guard until the end of `main`. Errors: the filter is malformed (`InvalidInput`), a logger is
/// already installed (`AlreadyExists`), or the thread cannot be started.
pub fn start(settings: &LogSettings) -> io::Result<LogGuard> {
    let sink: Box<dyn Write + Send> = match settings.output {
        Output::Stderr => Box::new(io::stderr()),
        Output::Stdout => Box::new(io::stdout()),
    };
    let (dispatch, guard) = build(settings, sink)?;
    dispatcher::set_global_default(dispatch)
        .map_err(|e| io::Error::new(io::ErrorKind::AlreadyExists, e))?;
    Ok(guard)
}

/// When dropped, waits until what was logged before has been written, at most [`FLUSH_TIMEOUT`].
#[must_use = "dropped at once, it flushes nothing at exit"]
pub struct LogGuard {
    records: Arc<Records>,
}

/// How long the end of the process waits for a stuck output.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

impl LogGuard {
    /// Records dropped and not yet reported in the log.
    pub fn dropped(&self) -> u64 {
        self.records.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let (done, written) = bounded(1);
        let asked = self
            .records
            .queue
            .send_timeout(Line::Flush(done), FLUSH_TIMEOUT);
        if asked.is_ok() {
            // Nothing better can be done when it does not come.
            let _ = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

enum Line {
    Record {
        /// What it says, if repeats are held back.
        key: Option<u64>,
        bytes: Vec<u8>,
    },
    Flush(Sender<()>),
}

/// The cores' end of the queue.
struct Records {
    queue: Sender<Line>,
    dropped: AtomicU64,
    /// Records begin with their key.
    keyed: bool,
}

impl Write for &Records {
    /// Takes one formatted record: the subscriber writes each with a single call.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let (key, bytes) = match self.keyed {
            true => record.split_at_checked(KEY_DIGITS).unwrap_or_default(),
            false => (&[][..], record),
        };
        let key = std::str::from_utf8(key).ok();
        let line = Line::Record {
            key: key.and_then(|key| u64::from_str_radix(key, 16).ok()),
            bytes: bytes.to_vec(),
        };
        if self.queue.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn build(
    settings: &LogSettings,
    sink: impl Write + Send + 'static,
) -> io::Result<(Dispatch, LogGuard)> {
    let filter = EnvFilter::builder()
        .parse(&settings.filter)
        .map_err(|e| invalid(format!("log filter {:?}: {e}", settings.filter)))?;
    let (queue, lines) = bounded(settings.records_max.max(1));
    let records = Arc::new(Records {
        queue,
        dropped: AtomicU64::new(0),
        keyed: settings.dedup.is_some(),
    });

    let shape = settings.format;
    let writer = LineWriter::new(sink, shape, settings.dedup.map(Repeats::new));
    let counter = Arc::downgrade(&records);
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            let dropped = || {
                let records = counter.upgrade();
                records.map_or(0, |records| records.dropped.swap(0, Ordering::Relaxed))
            };
            writer.run(&lines, dropped);
        })?;

    let subscriber = format::fmt()
        .with_env_filter(filter)
        .with_thread_names(true)
        .with_writer(records.clone());
    let keyed = settings.dedup.is_some();
    let dispatch = match shape {
        Format::Text => {
            let text = subscriber.with_ansi(false);
            match keyed {
                false => Dispatch::new(text.finish()),
                true => Dispatch::new(text.map_event_format(Keyed).finish()),
            }
        }
        Format::Json | Format::JsonFlattened => {
            let json = subscriber.json().with_span_list(false);
            let json = json.flatten_event(shape == Format::JsonFlattened);
            match keyed {
                false => Dispatch::new(json.finish()),
                true => Dispatch::new(json.map_event_format(Keyed).finish()),
            }
        }
    };
    Ok((dispatch, LogGuard { records }))
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::Receiver;
    use std::time::Instant;

    fn settings(format: Format, filter: &str, records_max: usize) -> LogSettings {
        LogSettings {
            format,
            filter: filter.to_owned(),
            records_max,
            output: Output::Stderr,
            dedup: None,
        }
    }

    /// Hands what is written to the test. With a `door` every write waits until the door is open.
    struct Sink {
        written: Sender<Vec<u8>>,
        door: Option<Receiver<()>>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(door) = &self.door {
                // Open means that the other end was dropped.
                let _ = door.recv();
            }
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn open_sink() -> (Sink, Receiver<Vec<u8>>) {
        let (written, output) = crossbeam_channel::unbounded();
        (
            Sink {
                written,
                door: None,
            },
            output,
        )
    }

    fn text(output: &Receiver<Vec<u8>>) -> String {
        String::from_utf8(output.try_iter().flatten().collect()).unwrap()
    }

    /// One record of each level but debug, logged with `filter`.
    fn logged(format: Format, filter: &str) -> String {
        let (sink, output) = open_sink();
        let (dispatch, guard) = build(&settings(format, filter, 16), sink).unwrap();
        dispatcher::with_default(&dispatch, || {
            tracing::info!(clients = 3, "hello \"you\"");
            tracing::warn!(target: "elsewhere", "second");
        });
        drop(guard);
        text(&output)
    }

    #[test]
    fn text_and_the_guard_flushes() {
        let lines = logged(Format::Text, "info");
        assert_eq!(lines.lines().count(), 2, "{lines}");
        assert!(
            lines.contains(" INFO ") && lines.contains("hello \"you\" clients=3\n"),
            "{lines}"
        );
        assert!(lines.contains("cores::log::tests: hello"), "{lines}");
        assert!(!lines.contains('\u{1b}'), "no colours: {lines:?}");
    }

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        for dedup in [None, Some((600, 1))] {
            let (sink, output) = open_sink();
            let settings = LogSettings {
                dedup: dedup.map(|(seconds, allowed)| Dedup {
                    window: Duration::from_secs(seconds),
                    allowed,
                }),
                ..settings(Format::Text, "info", 16)
            };
            let (dispatch, guard) = build(&settings, sink).unwrap();
            dispatcher::with_default(&dispatch, || {
                let user = "x\n2026-01-01T00:00:00Z  INFO all is well \r\t\u{1b}[2J\u{7f}é";
                for _ in 0..3 {
                    tracing::warn!(%user, "login refused\nnot");
                }
            });
            drop(guard);
            let lines = text(&output);
            let escaped = r"login refused\nnot user=x\n2026-01-01T00:00:00Z  INFO all is well \r\t\x1b[2J\x7fé";
            for line in lines.lines() {
                assert!(
                    line.ends_with(escaped) || line.contains("held back"),
                    "{line}"
                );
            }
            assert!(lines.ends_with('\n'));
        }
    }

    #[test]
    fn json_in_both_shapes() {
        let nested = logged(Format::Json, "info");
        assert!(
            nested.contains(r#""fields":{"message":"hello \"you\"","clients":3}"#),
            "{nested}"
        );
        let flat = logged(Format::JsonFlattened, "info");
        assert!(
            flat.contains(r#""message":"hello \"you\"","clients":3"#),
            "{flat}"
        );
        assert!(!flat.contains("fields"), "{flat}");
    }

    #[test]
    fn filters_as_in_rust_log() {
        assert!(!logged(Format::Text, "warn").contains("hello"));
        let mixed = logged(Format::Text, "off,elsewhere=info");
        assert!(
            mixed.contains("second") && !mixed.contains("hello"),
            "{mixed}"
        );
        let (sink, _) = open_sink();
        let error = build(&settings(Format::Text, "cores=loud", 1), sink)
            .err()
            .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("cores=loud"), "{error}");
    }

    #[test]
    fn formats_by_name() {
        assert_eq!("text".parse::<Format>().unwrap(), Format::Text);
        assert_eq!("json".parse::<Format>().unwrap(), Format::Json);
        assert_eq!(
            "json_flattened".parse::<Format>().unwrap(),
            Format::JsonFlattened
        );
        assert!("xml".parse::<Format>().is_err());
    }

    #[test]
    fn a_stuck_output_costs_records_but_never_time_and_the_loss_is_reported() {
        for format in [Format::Text, Format::Json, Format::JsonFlattened] {
            let (mut sink, output) = open_sink();
            let (open, door) = bounded::<()>(0);
            sink.door = Some(door);
            let (dispatch, guard) = build(&settings(format, "info", 8), sink).unwrap();
            dispatcher::with_default(&dispatch, || {
                for n in 0..1000 {
                    tracing::info!(n, "burst");
                }
            });
            drop(open);
            drop(guard);
            let lines = text(&output);
            let written = lines.lines().filter(|line| line.contains("burst")).count();
            let reported: u64 = lines
                .lines()
                .filter(|line| line.contains("log records dropped"))
                .map(|line| {
                    let number = line.split("dropped").last().unwrap();
                    let digits = |c: &char| c.is_ascii_digit();
                    let from = number.trim_start_matches(['"', ':', '=']);
                    from.chars()
                        .take_while(digits)
                        .collect::<String>()
                        .parse::<u64>()
                        .unwrap()
                })
                .sum();
            assert_eq!(written as u64 + reported, 1000, "{lines}");
            assert!(
                reported > 900,
                "8 waiting, one batch of 8 in the writer's hands: {lines}"
            );
        }
    }

    #[test]
    fn repeats_of_all_threads_are_held_back_and_told_of() {
        for format in [Format::Text, Format::Json, Format::JsonFlattened] {
            let (sink, output) = open_sink();
            let settings = LogSettings {
                dedup: Some(Dedup {
                    window: Duration::from_secs(600),
                    allowed: 2,
                }),
                ..settings(format, "info", 64)
            };
            let (dispatch, guard) = build(&settings, sink).unwrap();
            let log = |client: u32| {
                dispatcher::with_default(&dispatch, || {
                    for _ in 0..5 {
                        tracing::warn!(client, "lost");
                    }
                });
            };
            log(1);
            thread::scope(|scope| scope.spawn(|| log(1)).join().unwrap());
            log(2);
            drop(guard);
            let lines = text(&output);
            // Three and the last one of the first client's ten, likewise of the other's five.
            let lost = lines.lines().filter(|line| line.contains("lost"));
            assert_eq!(lost.count(), 4 + 4, "{lines}");
            let told: Vec<_> = lines.lines().filter(|l| l.contains("held back")).collect();
            assert_eq!(told.len(), 2, "{lines}");
            assert!(told.iter().any(|line| line.contains('7')), "{lines}");
            let first = lines.lines().next().unwrap();
            let start = if format == Format::Text {
                "20"
            } else {
                "{\"timestamp\":\"20"
            };
            assert!(first.starts_with(start), "no key is seen: {first}");
        }
    }

    #[test]
    fn an_output_that_stays_stuck_does_not_hold_up_the_exit() {
        let (mut sink, _output) = open_sink();
        let (_never_open, door) = bounded::<()>(0);
        sink.door = Some(door);
        let (dispatch, guard) = build(&settings(Format::Text, "info", 1), sink).unwrap();
        dispatcher::with_default(&dispatch, || tracing::info!("lost"));
        let start = Instant::now();
        drop(guard);
        assert!(start.elapsed() < FLUSH_TIMEOUT * 2 + Duration::from_secs(5));
    }
}
