//! Clients that run one transaction after the other until they are told to stop.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::postgres::{ALICE, PASSWORD};
use super::process::{poll, PATIENCE};
use super::wire::Wire;

/// A thread for each client. A transaction that does not go as it should panics in it.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<usize>>,
}

impl Load {
    /// Logs alice in `clients` times; `transaction` gets the number of the client and that of its transaction.
    pub(crate) fn start(
        port: u16,
        database: &str,
        clients: usize,
        transaction: impl Fn(&mut Wire, usize, usize) + Clone + Send + 'static,
    ) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let threads = (0..clients).map(|client| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let (transaction, database) = (transaction.clone(), database.to_owned());
            std::thread::spawn(move || {
                let mut wire = Wire::connect(port, ALICE, &database, PASSWORD);
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    transaction(&mut wire, client, count);
                    count += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                count
            })
        });
        let threads = threads.collect();
        Self {
            stop,
            done,
            threads,
        }
    }

    /// Transactions so far.
    pub(crate) fn count(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until so many more have been done.
    pub(crate) fn go_on(&self, transactions: usize) {
        let goal = self.count() + transactions;
        poll(PATIENCE, "clients to go on", || {
            assert!(!self.has_failed(), "a client has failed");
            (self.count() >= goal).then_some(())
        });
    }

    /// Has a client stopped by itself?
    pub(crate) fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Lets every client finish its transaction. How many there were in all.
    pub(crate) fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let counts = self.threads.into_iter().map(JoinHandle::join);
        counts.map(|count| count.expect("no client failed")).sum()
    }
}
