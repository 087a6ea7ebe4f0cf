//! Watches how many server connections a database has while a test runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::postgres::Postgres;

/// A thread that counts the connections in `pg_stat_activity` every few milliseconds.
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
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
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND backend_type = 'client backend'"
        );
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut admin = Postgres::shared().admin("postgres");
            let mut sampled = Sampled {
                most: 0,
                samples: 0,
            };
            while !stopped.load(Ordering::Relaxed) {
                sampled.most = sampled
                    .most
                    .max(admin.value(&sql).parse().expect("a count"));
                sampled.samples += 1;
                std::thread::sleep(Duration::from_millis(3));
            }
            sampled
        });
        Self { stop, thread }
    }

    /// Ends it; it must have looked often enough to mean something.
    pub(crate) fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let Sampled { most, samples } = self.thread.join().expect("the sampler ran to its end");
        assert!(samples >= 20, "only {samples} samples");
        most
    }
}
