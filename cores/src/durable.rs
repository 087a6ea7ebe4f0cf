//! Entries that are on disk before anybody is told so: a thread of its own writes what the cores hand it, and one
//! `fdatasync` serves all that came meanwhile.
//!
//! ```text
//!  core: write(entry) ──try_send──► bounded queue ──► gather, append, synchronise ──┐
//!  core: Answer       ◄── wake ◄── one-slot channel, for each entry ◄───────────────┘
//! ```
//!
//! Entries go to segments, files numbered upwards. Each begins with all that still counts ([`Content::begin`]), so that
//! older ones are removed once it is on disk. After a failure nothing is added to a segment any more: what it lacks is in
//! the beginning of the next one, or those who wait are told of the failure.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, Receiver, RecvTimeoutError, Sender};

use crate::blocking::{slot, Answer, Slot};

/// Most entries that one synchronisation serves.
const BATCH_MAX: usize = 4096;

/// What entries mean, and how they are written.
pub trait Content: Send + 'static {
    /// One entry.
    type Entry: Send + 'static;
    /// The beginning of a segment: all that still counts.
    fn begin(&mut self, segment: u64, out: &mut Vec<u8>);
    /// One entry, which may come again after a failure.
    fn append(&mut self, entry: Self::Entry, out: &mut Vec<u8>);
}

/// Limits of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries that may wait for the thread, at least 1; the next one is refused.
    pub entries_max: usize,
    /// A segment of so many bytes is followed by another one.
    pub segment_bytes: u64,
    /// How long the thread waits for more entries before it synchronises.
    pub gather: Duration,
    /// A segment of this age is followed by another one, if there is anything in it.
    pub segment_age: Duration,
}

/// The folder of a log, which no other process has.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Holds the lock.
    file: File,
}

/// The cores' end of a log. The thread ends, and the folder is free, when the last one is dropped.
pub struct Durable<E> {
    queue: Sender<Request<E>>,
}

impl<E> Clone for Durable<E> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

struct Request<E> {
    entry: E,
    /// Whom to tell when it is on disk.
    waits: Option<Slot<Result<(), Unwritten>>>,
}

/// An entry is not known to be on disk; it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwritten;

impl Folder {
    /// Takes the folder, making it if it is not there, and reads its segments by number.
    ///
    /// Errors: it cannot be made or read; another process has it (`WouldBlock`).
    pub fn open(path: &Path) -> io::Result<(Self, BTreeMap<u64, Vec<u8>>)> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
        let file = File::open(path)?;
        file.try_lock()?;
        let folder = Self {
            path: path.to_owned(),
            file,
        };
        let mut segments = BTreeMap::new();
        for number in folder.numbers()? {
            segments.insert(number, fs::read(folder.segment(number))?);
        }
        Ok((folder, segments))
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:016x}.log"))
    }

    /// Of the segments that are there, in order.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(".log"));
            let number = digits.filter(|digits| digits.len() == 16);
            numbers.extend(number.and_then(|digits| u64::from_str_radix(digits, 16).ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// A new segment that begins with these bytes, on disk. Older ones are gone then. Errors: it could not be written, and is gone,
    /// or as much of it as there is may still be there.
    fn begin(&self, number: u64, bytes: &[u8]) -> io::Result<File> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.segment(number))?;
        let written = file
            .write_all(bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| self.file.sync_all());
        if let Err(error) = written {
            // Many of them would fill a disk that is full of inodes, too.
            let _ = fs::remove_file(self.segment(number));
            return Err(error);
        }
        for older in self.numbers()?.into_iter().filter(|older| *older < number) {
            if let Err(error) = fs::remove_file(self.segment(older)) {
                tracing::warn!(%error, segment = older, "cannot remove an old segment");
            }
        }
        Ok(file)
    }
}

impl<E: Send + 'static> Durable<E> {
    /// Begins the segment of this number, above all that there are, and starts the thread, named `durable`.
    ///
    /// Errors: the segment cannot be written, the thread cannot be started.
    pub fn start<C: Content<Entry = E>>(
        folder: Folder,
        segment: u64,
        content: C,
        limits: Limits,
    ) -> io::Result<Self> {
        let (queue, requests) = bounded(limits.entries_max.max(1));
        let mut writer = Writer {
            folder,
            content,
            limits,
            next: segment,
            current: None,
            bytes: Vec::new(),
        };
        writer.begin()?;
        thread::Builder::new()
            .name("durable".to_owned())
            .spawn(move || writer.serve(&requests))?;
        Ok(Self { queue })
    }

    /// Writes an entry; the answer comes when it is on disk, or may not be. The entry is queued at once.
    pub fn write(&self, entry: E) -> Answer<Result<(), Unwritten>> {
        let (waits, answer) = slot();
        let request = Request {
            entry,
            waits: Some(waits),
        };
        match self.queue.try_send(request) {
            Ok(()) => answer,
            Err(_) => Answer::refused(),
        }
    }

    /// Writes an entry some time. Errors: the queue is full, here it is again.
    pub fn note(&self, entry: E) -> Result<(), E> {
        let request = Request { entry, waits: None };
        self.queue
            .try_send(request)
            .map_err(|refused| refused.into_inner().entry)
    }
}

/// What the thread has.
struct Writer<C> {
    folder: Folder,
    content: C,
    limits: Limits,
    /// Number of the next segment.
    next: u64,
    /// `None` after a failure.
    current: Option<Segment>,
    bytes: Vec<u8>,
}

struct Segment {
    file: File,
    bytes: u64,
    begun: Instant,
    /// Something follows its beginning.
    used: bool,
}

impl<C: Content> Writer<C> {
    fn serve(&mut self, requests: &Receiver<Request<C::Entry>>) {
        let mut batch = Vec::new();
        loop {
            // Only a segment with something in it grows too old.
            let patience = match &self.current {
                Some(segment) if segment.used => {
                    let age = segment.begun.elapsed();
                    self.limits.segment_age.saturating_sub(age)
                }
                _ => Duration::MAX,
            };
            match requests.recv_timeout(patience) {
                Ok(first) => batch.push(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let deadline = Instant::now() + self.limits.gather;
            while !batch.is_empty() && batch.len() < BATCH_MAX {
                match requests.recv_deadline(deadline) {
                    Ok(request) => batch.push(request),
                    Err(_) => break,
                }
            }
            self.write(&mut batch);
            // After a failure whoever writes next begins one.
            let full = self.current.as_ref().is_some_and(|segment| {
                let old = segment.begun.elapsed() >= self.limits.segment_age;
                segment.bytes >= self.limits.segment_bytes || old && segment.used
            });
            if full {
                // A failure has been logged.
                let _ = self.begin_or_warn();
            }
        }
    }

    fn write(&mut self, batch: &mut Vec<Request<C::Entry>>) {
        if batch.is_empty() {
            return;
        }
        let mut slots = Vec::new();
        self.bytes.clear();
        for request in batch.drain(..) {
            self.content.append(request.entry, &mut self.bytes);
            slots.extend(request.waits);
        }
        let synchronise = !slots.is_empty();
        let appended = match &mut self.current {
            Some(segment) => segment.append(&self.bytes, synchronise),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        // What could not be added to a segment is in the beginning of the next.
        let outcome = match appended {
            Ok(()) => Ok(()),
            Err(_) => self.begin_or_warn(),
        };
        self.bytes.shrink_to(1 << 20);
        slots.into_iter().for_each(|slot| slot.fill(outcome));
    }

    fn begin_or_warn(&mut self) -> Result<(), Unwritten> {
        self.begin().map_err(|error| {
            tracing::error!(%error, folder = %self.folder.path.display(), "cannot write the log");
            Unwritten
        })
    }

    /// A number is used once: a segment whose beginning failed may still be there, and nothing older counts beside it.
    fn begin(&mut self) -> io::Result<()> {
        self.current = None;
        let number = self.next;
        self.next += 1;
        let mut bytes = Vec::new();
        self.content.begin(number, &mut bytes);
        let file = self.folder.begin(number, &bytes)?;
        self.current = Some(Segment {
            file,
            bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            begun: Instant::now(),
            used: false,
        });
        Ok(())
    }
}

impl Segment {
    fn append(&mut self, bytes: &[u8], synchronise: bool) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.used = true;
        match synchronise {
            true => self.file.sync_data(),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// A sum, and the numbers that were added to it.
    #[derive(Default)]
    struct Sum(u64);

    impl Content for Sum {
        type Entry = u64;

        fn begin(&mut self, segment: u64, out: &mut Vec<u8>) {
            out.extend_from_slice(format!("segment {segment} sum {}\n", self.0).as_bytes());
        }

        fn append(&mut self, entry: u64, out: &mut Vec<u8>) {
            self.0 += entry;
            out.extend_from_slice(format!("add {entry}\n").as_bytes());
        }
    }

    /// What a segment comes to.
    fn sum(bytes: &[u8]) -> u64 {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let number = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        text.lines().map(number).sum()
    }

    struct Place(PathBuf);

    impl Place {
        fn new() -> Self {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("durable-{}-{number}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        /// Once no thread has it.
        fn open(&self) -> (Folder, BTreeMap<u64, Vec<u8>>) {
            if let Ok(folder) = File::open(&self.0) {
                folder.lock().unwrap();
            }
            Folder::open(&self.0).unwrap()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn limits() -> Limits {
        Limits {
            entries_max: 1000,
            segment_bytes: 1 << 20,
            gather: Duration::ZERO,
            segment_age: Duration::from_secs(60),
        }
    }

    fn wait<T>(answer: Answer<T>) -> T {
        let mut answer = pin!(answer);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(result) = answer.as_mut().poll(&mut context) {
                return result.unwrap();
            }
            assert!(Instant::now() < deadline, "no answer within 10 s");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_was_answered_is_there_for_the_next_process() {
        let place = Place::new();
        let (folder, segments) = place.open();
        assert!(segments.is_empty());
        let log = Durable::start(folder, 0, Sum::default(), limits()).unwrap();
        let answers: Vec<_> = (1..=100).map(|number| log.write(number)).collect();
        answers
            .into_iter()
            .for_each(|answer| assert_eq!(wait(answer), Ok(())));
        log.note(1000).unwrap();
        assert_eq!(wait(log.write(1)), Ok(()));
        // The file is as it would be found after a crash.
        let bytes = fs::read(place.0.join("0000000000000000.log")).unwrap();
        assert_eq!(sum(&bytes), 5050 + 1001);
        drop(log);
        let (_, segments) = place.open();
        assert_eq!(segments.keys().collect::<Vec<_>>(), [&0]);
    }

    #[test]
    fn a_full_segment_is_followed_by_one_that_has_it_all() {
        let place = Place::new();
        let (folder, _) = place.open();
        let small = Limits {
            segment_bytes: 60,
            ..limits()
        };
        let log = Durable::start(folder, 7, Sum::default(), small).unwrap();
        for number in 1..=50 {
            assert_eq!(wait(log.write(number)), Ok(()));
        }
        drop(log);
        let (_, segments) = place.open();
        let (number, bytes) = segments.last_key_value().unwrap();
        assert!(*number > 10, "{number}");
        assert_eq!(sum(bytes), 1275);
        assert_eq!(segments.len(), 1, "older ones are gone");
    }

    #[test]
    fn a_failure_is_told_and_overcome() {
        let place = Place::new();
        let (folder, _) = place.open();
        let mut writer = Writer {
            folder,
            content: Sum::default(),
            limits: limits(),
            next: 0,
            current: None,
            bytes: Vec::new(),
        };
        writer.begin().unwrap();
        let write = |writer: &mut Writer<Sum>, entry| {
            let (waits, answer) = slot();
            let waits = Some(waits);
            writer.write(&mut vec![Request { entry, waits }]);
            wait(answer)
        };
        assert_eq!(write(&mut writer, 1), Ok(()));
        // A segment that cannot be written is followed by another one.
        let read_only = File::open(writer.folder.segment(0)).unwrap();
        writer.current.as_mut().unwrap().file = read_only;
        assert_eq!(write(&mut writer, 2), Ok(()));
        assert_eq!(sum(&fs::read(writer.folder.segment(1)).unwrap()), 3);
        // Neither can be: the next number is taken.
        let read_only = File::open(writer.folder.segment(1)).unwrap();
        writer.current.as_mut().unwrap().file = read_only;
        fs::write(writer.folder.segment(2), "").unwrap();
        assert_eq!(write(&mut writer, 4), Err(Unwritten));
        // Then it goes on, with all that was asked for.
        assert_eq!(write(&mut writer, 8), Ok(()));
        assert_eq!(sum(&fs::read(writer.folder.segment(3)).unwrap()), 15);
    }

    #[test]
    fn one_process_at_a_time() {
        let place = Place::new();
        let (folder, _) = place.open();
        let second = Folder::open(&place.0).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(folder);
        assert!(Folder::open(&place.0).is_ok());
    }

    #[test]
    fn old_segments_with_something_in_them_are_followed_by_new_ones() {
        let place = Place::new();
        let (folder, _) = place.open();
        let short = Limits {
            segment_age: Duration::from_millis(5),
            ..limits()
        };
        let log = Durable::start(folder, 0, Sum::default(), short).unwrap();
        assert_eq!(wait(log.write(3)), Ok(()));
        let second = place.0.join("0000000000000001.log");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !second.exists() {
            assert!(Instant::now() < deadline, "no second segment");
            thread::sleep(Duration::from_millis(5));
        }
        drop(log);
    }
}
