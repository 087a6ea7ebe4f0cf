//! How a core's thread is scheduled while it moves bulk.
//!
//! A large result comes in pieces (PostgreSQL's send buffer has 8 KB). Where server and proxy share a CPU each piece
//! would wake the core's thread, which pushes the server aside to carry that one: two switches for every 8 KB. A thread of
//! `SCHED_BATCH` pushes nobody aside (sched(7)): the server goes on until it sleeps or its slice is over, and what it has
//! sent by then is carried at once. For small messages that would be wrong, for each of them somebody waits.

/// From this mean size of receives on it is bulk, bytes.
const BULK_BYTES: u32 = 6 * 1024;
/// Below this it is not any more.
const CALM_BYTES: u32 = 1024;
/// A receive weighs an eighth in the mean: eleven of 8 KB are bulk, one of 32 KB alone is not, sixteen small ones end it.
const WEIGHT_SHIFT: u32 = 3;

/// The mean size of a core's receives, and what follows from it.
#[derive(Default)]
pub(super) struct Pace {
    mean: u32,
    bulk: bool,
}

impl Pace {
    /// One receive of `bytes`.
    #[inline]
    pub(super) fn received(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.mean = self.mean - (self.mean >> WEIGHT_SHIFT) + (bytes >> WEIGHT_SHIFT);
    }

    /// Whether it is bulk from now on, if that is news.
    #[inline]
    pub(super) fn news(&mut self) -> Option<bool> {
        let limit = if self.bulk { CALM_BYTES } else { BULK_BYTES };
        let bulk = self.mean >= limit;
        (std::mem::replace(&mut self.bulk, bulk) != bulk).then_some(bulk)
    }
}

/// Has this thread push others aside when it is woken, as is usual, or not. A thread that somebody has given another
/// policy than these two keeps it, and so does one that may not choose: it is a matter of cost only.
pub(super) fn give_way(bulk: bool) {
    let (from, to) = match bulk {
        true => (libc::SCHED_OTHER, libc::SCHED_BATCH),
        false => (libc::SCHED_BATCH, libc::SCHED_OTHER),
    };
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and `priority` outlives the call.
    unsafe {
        if libc::sched_getscheduler(0) == from {
            libc::sched_setscheduler(0, to, &raw const priority);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [bool; 0] = [];

    fn after(pace: &mut Pace, receives: &[usize]) -> Vec<bool> {
        receives
            .iter()
            .filter_map(|&bytes| {
                pace.received(bytes);
                pace.news()
            })
            .collect()
    }

    #[test]
    fn large_receives_in_a_row_are_bulk_until_small_ones_are() {
        let mut pace = Pace::default();
        assert_eq!(after(&mut pace, &[8192; 10]), NOTHING);
        assert_eq!(after(&mut pace, &[8192; 1000]), [true]);
        assert_eq!(after(&mut pace, &[60; 15]), NOTHING);
        assert_eq!(after(&mut pace, &[60; 1000]), [false]);
    }

    #[test]
    fn small_messages_and_now_and_then_a_large_one_are_not_bulk() {
        let mut pace = Pace::default();
        for _ in 0..1000 {
            assert_eq!(after(&mut pace, &[60; 20]), NOTHING);
            assert_eq!(after(&mut pace, &[32_768]), NOTHING, "one alone");
        }
        for _ in 0..1000 {
            assert_eq!(after(&mut pace, &[1000, 2000, 4000]), NOTHING);
        }
    }

    #[test]
    fn a_request_between_large_receives_does_not_end_bulk() {
        let mut pace = Pace::default();
        after(&mut pace, &[8192; 11]);
        for _ in 0..1000 {
            assert_eq!(after(&mut pace, &[60, 60, 8192, 8192, 8192]), NOTHING);
        }
    }

    #[test]
    fn no_size_overflows() {
        let mut pace = Pace::default();
        after(&mut pace, &[usize::MAX; 100]);
        after(&mut pace, &[0; 1000]);
        assert!(pace.mean < 16, "nothing but what rounding leaves");
    }

    #[test]
    fn a_thread_gives_way_and_stops_to() {
        // A thread of its own: the policy is the thread's.
        std::thread::spawn(|| {
            // SAFETY: 0 is the calling thread.
            let policy = || unsafe { libc::sched_getscheduler(0) };
            if policy() != libc::SCHED_OTHER {
                return; // these tests run under another policy, which is kept
            }
            give_way(true);
            assert_eq!(policy(), libc::SCHED_BATCH);
            give_way(false);
            assert_eq!(policy(), libc::SCHED_OTHER);
            let priority = libc::sched_param { sched_priority: 0 };
            // SAFETY: as above, and `priority` outlives the call.
            let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const priority) };
            assert_eq!(set, 0);
            give_way(true);
            give_way(false);
            assert_eq!(policy(), libc::SCHED_IDLE, "somebody's choice");
        })
        .join()
        .unwrap();
    }
}
