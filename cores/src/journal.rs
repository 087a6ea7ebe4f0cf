//! Lines for a file or standard output that leave a core through a bounded queue, as log records do: a thread of its
//! own writes them, a full queue drops and counts, and no core ever waits.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{bounded, Receiver, Sender};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// How long the caller of [`Journal::direct`] and [`Journal::flush`] waits for a stuck output.
const PATIENCE: Duration = Duration::from_secs(1);

/// The cores' end of the queue.
#[derive(Clone)]
pub struct Journal {
    queue: Sender<Entry>,
    dropped: Arc<AtomicU64>,
}

/// Where lines go.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Opened for appending.
    pub file: Option<File>,
    /// Standard output, too.
    pub stdout: bool,
}

enum Entry {
    Line(Vec<u8>),
    Direct(Outputs),
    Flush(Sender<()>),
}

impl Journal {
    /// Starts the thread, named `journal`. Lines go nowhere until [`Self::direct`] says where to.
    ///
    /// Errors: the thread cannot be started.
    pub fn start(lines_max: usize) -> io::Result<Self> {
        let (queue, entries) = bounded(lines_max.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_out(&entries, &lost))?;
        Ok(Self { queue, dropped })
    }

    /// One line, without its end; the time is put in front of it when it is written.
    pub fn write(&self, line: Vec<u8>) {
        if self.queue.try_send(Entry::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Later lines go there. For the control thread: it may wait for a second.
    ///
    /// Errors: the output is stuck, and lines go where they went.
    pub fn direct(&self, outputs: Outputs) -> io::Result<()> {
        self.queue
            .send_timeout(Entry::Direct(outputs), PATIENCE)
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the output is stuck"))
    }

    /// Waits until what was written before is out, at most for two seconds.
    pub fn flush(&self) {
        let (done, written) = bounded(1);
        if self
            .queue
            .send_timeout(Entry::Flush(done), PATIENCE)
            .is_ok()
        {
            // Nothing better can be done when it does not come.
            let _ = written.recv_timeout(PATIENCE);
        }
    }
}

/// Ends with the last sender. An output that fails loses its lines: the log says so once, and again when another one
/// has failed.
fn write_out(entries: &Receiver<Entry>, dropped: &AtomicU64) {
    let mut outputs = Outputs::default();
    let mut failed = false;
    let mut batch = Vec::new();
    while let Ok(first) = entries.recv() {
        let waiting = entries.len();
        for entry in std::iter::once(first).chain(entries.try_iter().take(waiting)) {
            match entry {
                Entry::Line(line) => put(&mut batch, &line),
                Entry::Direct(next) => {
                    write(&mut outputs, &mut batch, &mut failed);
                    outputs = next;
                    failed = false;
                }
                Entry::Flush(done) => {
                    write(&mut outputs, &mut batch, &mut failed);
                    // It may have given up waiting.
                    let _ = done.try_send(());
                }
            }
        }
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            lost => put(
                &mut batch,
                format!("{lost} lines dropped, the queue was full").as_bytes(),
            ),
        }
        write(&mut outputs, &mut batch, &mut failed);
    }
}

fn put(batch: &mut Vec<u8>, line: &[u8]) {
    let mut time = String::new();
    if SystemTime.format_time(&mut Writer::new(&mut time)).is_ok() {
        batch.extend(time.as_bytes());
        batch.push(b' ');
    }
    batch.extend(line);
    batch.push(b'\n');
}

fn write(outputs: &mut Outputs, batch: &mut Vec<u8>, failed: &mut bool) {
    let to_file = outputs.file.as_mut().map(|file| file.write_all(batch));
    let to_stdout = outputs.stdout.then(|| {
        let mut stdout = io::stdout().lock();
        stdout.write_all(batch)?;
        stdout.flush()
    });
    let failure = [to_file, to_stdout]
        .into_iter()
        .flatten()
        .find_map(Result::err);
    batch.clear();
    batch.shrink_to(64 * 1024);
    match failure {
        Some(error) if !*failed => {
            tracing::error!("lines of the journal are lost: {error}");
            *failed = true;
        }
        Some(_) => {}
        None => *failed = false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn pipe() -> (File, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (File::from(std::os::fd::OwnedFd::from(writer)), reader)
    }

    #[test]
    fn lines_go_where_they_are_directed() {
        let journal = Journal::start(16).unwrap();
        journal.write(b"nowhere".to_vec());
        let ((first, mut first_read), (second, mut second_read)) = (pipe(), pipe());
        for (file, line) in [(first, "one"), (second, "two")] {
            let file = Some(file);
            let stdout = false;
            journal.direct(Outputs { file, stdout }).unwrap();
            journal.write(line.into());
        }
        journal.flush();
        drop(journal);
        for (read, line) in [(&mut first_read, "one"), (&mut second_read, "two")] {
            let mut text = String::new();
            read.read_to_string(&mut text).unwrap();
            assert!(
                text.starts_with("20") && text.ends_with(&format!("Z {line}\n")),
                "{text}"
            );
            assert_eq!(text.lines().count(), 1);
        }
    }

    #[test]
    fn a_stuck_output_costs_lines_but_never_time_and_the_loss_is_told() {
        let journal = Journal::start(8).unwrap();
        let (file, mut read) = pipe();
        let file = Some(file);
        journal
            .direct(Outputs {
                file,
                stdout: false,
            })
            .unwrap();
        let long = vec![b'x'; 100_000]; // more than a pipe holds
        for _ in 0..1000 {
            journal.write(long.clone());
        }
        let reading = thread::spawn(move || {
            let mut text = String::new();
            read.read_to_string(&mut text).unwrap();
            text
        });
        journal.flush();
        drop(journal);
        let text = reading.join().unwrap();
        let written = text.lines().filter(|line| line.ends_with('x')).count();
        let lost = text.lines().filter(|line| line.contains("dropped"));
        let lost: usize = lost
            .map(|line| line.split(' ').nth(1).unwrap().parse::<usize>().unwrap())
            .sum();
        assert_eq!(written + lost, 1000);
        assert!(lost > 900, "{lost}");
    }
}
