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
/// A receive weighs an eighth in the mean: eleven of 8 KB are bulk, one of 32 KB alone is not. Sixteen small ones
/// end it after pieces of 8 KB, 26 after 32 KB.
const WEIGHT_SHIFT: u32 = 3;

/// The mean size of a core's receives, and what follows from it.
#[derive(Default)]
pub(super) struct Pace {
    mean: u32,
    bulk: bool,
    /// The thread's policy is of our making.
    gives_way: bool,
}

impl Pace {
    /// One receive of `bytes`.
    #[inline]
    pub(super) fn received(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.mean = self.mean - (self.mean >> WEIGHT_SHIFT) + (bytes >> WEIGHT_SHIFT);
    }

    /// Once a turn, by the thread that has received: from now on it pushes others aside when it is woken, or not. A policy
    /// that somebody has given it stays, and where it may not be changed nothing is lost but CPU.
    #[inline]
    pub(super) fn turned(&mut self) {
        match self.news() {
            Some(true) => self.gives_way = change(libc::SCHED_OTHER, libc::SCHED_BATCH),
            Some(false) if std::mem::take(&mut self.gives_way) => {
                change(libc::SCHED_BATCH, libc::SCHED_OTHER);
            }
            _ => {}
        }
    }

    /// Whether it is bulk from now on, if that is news.
    #[inline]
    fn news(&mut self) -> Option<bool> {
        let limit = if self.bulk { CALM_BYTES } else { BULK_BYTES };
        let bulk = self.mean >= limit;
        (std::mem::replace(&mut self.bulk, bulk) != bulk).then_some(bulk)
    }
}

/// Gives this thread the policy `to` if it has `from`; whether it has.
fn change(from: libc::c_int, to: libc::c_int) -> bool {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and `priority` outlives the call.
    unsafe {
        libc::sched_getscheduler(0) == from
            && libc::sched_setscheduler(0, to, &raw const priority) == 0
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
            let mut pace = Pace::default();
            let mut turns = |bytes| {
                for _ in 0..100 {
                    pace.received(bytes);
                    pace.turned();
                }
                policy()
            };
            assert_eq!(turns(8192), libc::SCHED_BATCH);
            assert_eq!(turns(60), libc::SCHED_OTHER);
            for chosen in [libc::SCHED_BATCH, libc::SCHED_IDLE] {
                assert!(change(policy(), chosen));
                assert_eq!(turns(8192), chosen, "somebody's choice");
                assert_eq!(turns(60), chosen, "somebody's choice");
            }
        })
        .join()
        .unwrap();
    }
}
