//! Watches how many server connections a database has while a test runs.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::postgres::Postgres;
use super::process::{poll, PATIENCE};

/// A thread that counts the connections in `pg_stat_activity` every few milliseconds: those that it sees twice in a row.
/// That view is read entry by entry, so that one look may have both a connection and the one that took its place.
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicUsize>,
    thread: JoinHandle<Sampled>,
}

/// What it saw.
#[derive(Debug)]
pub(crate) struct Sampled {
    pub(crate) most: usize,
    pub(crate) samples: usize,
}

impl Sampler {
    pub(crate) fn start(database: &str) -> Self {
        let sql = format!(
            "SELECT coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_activity WHERE datname = '{database}' AND backend_type = 'client backend' AND application_name <> 'pgdog check'"
        );
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let looks = Arc::new(AtomicUsize::new(0));
        let looked = Arc::clone(&looks);
        let thread = std::thread::spawn(move || {
            let mut admin = Postgres::shared().admin("postgres");
            let mut sampled = Sampled {
                most: 0,
                samples: 0,
            };
            let mut before = HashSet::new();
            while !stopped.load(Ordering::Relaxed) {
                let text = admin.value(&sql);
                let seen: HashSet<String> = text.split_whitespace().map(str::to_owned).collect();
                sampled.most = sampled.most.max(before.intersection(&seen).count());
                before = seen;
                sampled.samples += 1;
                looked.store(sampled.samples, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(3));
            }
            sampled
        });
        Self {
            stop,
            looks,
            thread,
        }
    }

    /// Waits until it has looked so many times more.
    pub(crate) fn look(&self, times: usize) {
        let goal = self.looks.load(Ordering::Relaxed) + times;
        poll(PATIENCE, "the sampler to look", || {
            (self.looks.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Ends it; it must have looked often enough to mean something.
    pub(crate) fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let Sampled { most, samples } = self.thread.join().expect("the sampler ran to its end");
        assert!(samples >= 20, "only {samples} samples");
        most
    }
}
