//! The log of two-phase commits on disk: what a core writes there before it goes on, and what an earlier process left.
//!
//! [`routing::two_phase::log`](crate::routing::two_phase::log) has the format, [`cores::durable`] the thread and the files.

use cores::blocking::Answer;
use cores::durable::{Content, Durable, Folder, Limits, Unwritten};

use crate::config::CommitLogSettings;
use crate::routing::two_phase::log::{recover, Ledger, Record, SegmentWriter};

/// Records that may wait for the thread. Each commit has one on its way, so this bounds the commits that are.
const RECORDS_MAX: usize = 65_536;

/// The cores' end of the log.
#[derive(Clone)]
pub struct CommitLog {
    durable: Durable<Record>,
}

/// The ledger as the thread keeps it, for the beginning of the next segment.
struct Records {
    ledger: Ledger,
    segment: Option<SegmentWriter>,
}

impl CommitLog {
    /// Opens the log and its thread. Answers what earlier processes have left to be finished, too; it stays in the log
    /// until it is said to be done.
    ///
    /// Errors: the folder cannot be used or is another process's; the log is damaged.
    pub fn open(settings: &CommitLogSettings) -> Result<(Self, Ledger), String> {
        let place = settings.folder.display();
        let failed = |error: &dyn std::fmt::Display| {
            format!("cannot use two_phase_commit_wal_dir {place}: {error}")
        };
        let (folder, segments) = Folder::open(&settings.folder).map_err(|error| failed(&error))?;
        let recovered = recover(&segments).map_err(|damage| failed(&damage))?;
        if recovered.torn_bytes > 0 {
            tracing::warn!(
                bytes = recovered.torn_bytes,
                "the log of two-phase commits ends in a record that was being written"
            );
        }
        let content = Records {
            ledger: recovered.ledger.clone(),
            segment: None,
        };
        let limits = Limits {
            entries_max: RECORDS_MAX,
            segment_bytes: settings.segment_bytes,
            gather: settings.gather,
            segment_age: settings.checkpoint,
        };
        let durable = Durable::start(folder, recovered.next_segment, content, limits)
            .map_err(|error| failed(&error))?;
        Ok((Self { durable }, recovered.ledger))
    }

    /// Writes a record; the answer comes when it is on disk, or may not be. Await it with
    /// [`Core::foreign`](cores::Core::foreign).
    pub fn write(&self, record: Record) -> Answer<Result<(), Unwritten>> {
        self.durable.write(record)
    }

    /// Writes a record some time. Errors: too many are waiting, here it is again.
    pub fn note(&self, record: Record) -> Result<(), Record> {
        self.durable.note(record)
    }
}

impl Content for Records {
    type Entry = Record;

    fn begin(&mut self, segment: u64, out: &mut Vec<u8>) {
        self.segment = Some(SegmentWriter::begin(segment, &self.ledger, out));
    }

    fn append(&mut self, record: Record, out: &mut Vec<u8>) {
        if let Some(segment) = &mut self.segment {
            segment.write(&record, out);
        }
        self.ledger.apply(record);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::path::PathBuf;
    use std::pin::pin;
    use std::sync::mpsc::sync_channel;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    use super::*;
    use crate::routing::two_phase::gid::{Owner, TransactionId};
    use crate::routing::two_phase::log::{Participant, Pending};

    struct Bell(std::sync::mpsc::SyncSender<()>);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            let _ = self.0.try_send(());
        }
    }

    fn wait<T>(answer: Answer<T>) -> T {
        let (bell, rung) = sync_channel(1);
        let waker = Waker::from(Arc::new(Bell(bell)));
        let mut answer = pin!(answer);
        loop {
            if let Poll::Ready(result) = answer.as_mut().poll(&mut Context::from_waker(&waker)) {
                return result.unwrap();
            }
            rung.recv_timeout(Duration::from_secs(10))
                .expect("an answer within 10 s");
        }
    }

    fn id(number: u64) -> TransactionId {
        TransactionId {
            process: 1,
            core: 0,
            number,
        }
    }

    fn begin(number: u64) -> Record {
        let participant = |shard| Participant {
            shard,
            servers: Vec::new(),
        };
        let pending = Pending {
            owner: Owner::new(None, "a-0"),
            database: "shop".to_owned(),
            user: "ann".to_owned(),
            participants: (0..3).map(participant).collect(),
            committed: false,
        };
        Record::Begin(id(number), pending)
    }

    /// Opens the log of an earlier process once its thread has ended, which the lock of its folder tells.
    fn open(settings: &CommitLogSettings) -> (CommitLog, Ledger) {
        if let Ok(folder) = std::fs::File::open(&settings.folder) {
            folder.lock().unwrap();
        }
        CommitLog::open(settings).unwrap_or_else(|error| panic!("{error}"))
    }

    fn folder(name: &str) -> PathBuf {
        let name = format!("commit-log-{}-{name}", std::process::id());
        std::env::temp_dir().join(name)
    }

    fn settings(name: &str, segment_bytes: u64) -> CommitLogSettings {
        CommitLogSettings {
            folder: folder(name),
            segment_bytes,
            gather: Duration::ZERO,
            checkpoint: Duration::from_secs(60),
        }
    }

    #[test]
    fn the_next_process_finds_what_is_not_done() {
        let settings = settings("next", 2_000);
        let (log, left) = open(&settings);
        assert!(left.is_empty());
        for number in 0..100 {
            assert_eq!(wait(log.write(begin(number))), Ok(()));
            if number % 3 > 0 {
                assert_eq!(wait(log.write(Record::Commit(id(number)))), Ok(()));
            }
            if number % 3 > 1 {
                log.note(Record::Done(id(number))).unwrap();
            }
        }
        drop(log);
        let (log, left) = open(&settings);
        assert_eq!(left.len(), 67);
        for (id, pending) in left.iter() {
            assert_eq!(pending.committed, id.number % 3 == 1, "{}", id.number);
            log.note(Record::Done(id)).unwrap();
        }
        drop(log);
        let (_, left) = open(&settings);
        assert!(left.is_empty());
        let _ = std::fs::remove_dir_all(&settings.folder);
    }

    #[test]
    fn a_folder_that_is_none() {
        let mut settings = settings("none", 2_000);
        settings.folder = PathBuf::from("/dev/null/log");
        let error = CommitLog::open(&settings).err().unwrap();
        assert!(
            error.starts_with("cannot use two_phase_commit_wal_dir /dev/null/log: "),
            "{error}"
        );
    }
}
