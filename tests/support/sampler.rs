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
    thread: JoinHandle<usize>,
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
            let mut most = 0;
            let mut before = HashSet::new();
            while !stopped.load(Ordering::Relaxed) {
                let text = admin.value(&sql);
                let seen: HashSet<String> = text.split_whitespace().map(str::to_owned).collect();
                most = most.max(before.intersection(&seen).count());
                before = seen;
                looked.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(3));
            }
            most
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

    /// Ends it. Looks that are lacking are made up for, perhaps at rest: who needs them under load calls `look` before.
    pub(crate) fn stop(self) -> usize {
        poll(PATIENCE, "the sampler to have looked", || {
            (self.looks.load(Ordering::Relaxed) >= 20).then_some(())
        });
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sampler ran to its end")
    }
}
