//! Reads that see what their own session has written (`read_your_writes`): how far that is, and which replica has it.
//!
//! After a commit the primary says where its WAL ends: the **mark**, which is at or behind the end of that commit. A replica
//! that has replayed up to there shows the commit to every statement that begins afterwards. Positions are compared
//! within one epoch only: the WAL that a server has replayed beyond the point where a timeline forks is not what the new
//! primary writes at the same positions. So a replica has to be on the mark's timeline or a later one, and after a
//! promotion older marks are worth nothing: the primary is read, and says where it is.
//!
//! ```text
//!            writes           gives the server back            the primary has said
//!  Nothing ─────────► Somewhere ─────────► Somewhere, asking ─────────► UpTo(mark)
//!     (anybody)    (only the primary)   (wait for its answer)      (who has replayed it)
//! ```

use std::time::Duration;

use super::{Epoch, Lsn};

/// Answered by a primary with one text: the position behind all that it has inserted into its WAL, flushed or not, and
/// its timeline in hexadecimal digits. A commit, asynchronous or not, was inserted before it was answered.
///
/// Source: <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-BACKUP>
pub const MARK_QUESTION: &str =
    "SELECT pg_catalog.concat_ws(' ', pg_catalog.pg_current_wal_insert_lsn(), \
pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))";

/// Answered by a standby with the position up to which it has replayed.
pub const REPLAYED_QUESTION: &str = "SELECT pg_catalog.pg_last_wal_replay_lsn()";

/// A read that waits for a replica asks again after this; then after twice that, and so on.
const FIRST_PAUSE: Duration = Duration::from_micros(500);
/// But at least this often.
const PAUSE_MAX: Duration = Duration::from_millis(8);

/// A position in the WAL of one reign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Of which data and timeline.
    pub epoch: Epoch,
    /// Up to here.
    pub lsn: Lsn,
}

impl Mark {
    /// From the answer to [`MARK_QUESTION`] of a server that is known to be the primary of `epoch`. `None`: it makes no
    /// sense, or is of another timeline.
    pub fn parse(answer: &[u8], epoch: Epoch) -> Option<Self> {
        let (lsn, timeline) = std::str::from_utf8(answer).ok()?.split_once(' ')?;
        let timeline = u32::from_str_radix(timeline, 16).ok()?;
        let lsn = Lsn::parse(lsn)?;
        (timeline == epoch.timeline).then_some(Self { epoch, lsn })
    }
}

/// What a session has written on a shard, which its reads have to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Written {
    /// Nothing.
    #[default]
    Nothing,
    /// Something, nobody knows where.
    Somewhere,
    /// Nothing behind this.
    UpTo(Mark),
}

/// What a session has written on one shard, while it writes and the primary is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ledger {
    written: Written,
    /// The question under way, if nothing was written since it was asked.
    asking: Option<u64>,
    asked: u64,
}

impl Ledger {
    /// The session has a server on which it may write.
    pub fn writes(&mut self) {
        self.written = Written::Somewhere;
        self.asking = None;
    }

    /// It has ended what it did there, and the server is asked for its position. The number of the question.
    pub fn asks(&mut self) -> u64 {
        self.asked += 1;
        self.asking = Some(self.asked);
        self.asked
    }

    /// A question is answered; `None`: it will not be. One that others have followed means nothing any more.
    pub fn answered(&mut self, question: u64, mark: Option<Mark>) {
        if self.asking == Some(question) {
            self.asking = None;
            self.written = mark.map_or(Written::Somewhere, Written::UpTo);
        }
    }

    /// Is an answer to be waited for?
    pub fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// What is known now.
    pub fn written(&self) -> Written {
        self.written
    }
}

/// How long to pause before a replica is asked for the `turn`th time again, from 0.
pub fn pause(turn: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << turn.min(16)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch {
        system: 7,
        timeline: 3,
    };

    fn mark(lsn: u64) -> Mark {
        Mark {
            epoch: EPOCH,
            lsn: Lsn(lsn),
        }
    }

    #[test]
    fn marks_are_read_and_are_of_the_timeline_that_is_known() {
        for (answer, expected) in [
            ("0/3000148 00000003", Some(mark(0x300_0148))),
            ("FFFFFFFF/FFFFFFFF 00000003", Some(mark(u64::MAX))),
            ("0/3000148 00000004", None),
            ("0/3000148 00000002", None),
            ("0/3000148", None),
            ("3000148 00000003", None),
            ("0/3000148 00000003 1", None),
            ("", None),
        ] {
            assert_eq!(Mark::parse(answer.as_bytes(), EPOCH), expected, "{answer}");
        }
        assert_eq!(Mark::parse(b"\xff 00000003", EPOCH), None);
    }

    #[test]
    fn an_answer_counts_only_for_what_was_written_before_it_was_asked_for() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.written(), Written::Nothing);
        ledger.writes();
        assert_eq!(ledger.written(), Written::Somewhere);
        assert!(!ledger.is_asking());
        let first = ledger.asks();
        assert!(ledger.is_asking());
        ledger.answered(first, Some(mark(1)));
        assert_eq!(ledger.written(), Written::UpTo(mark(1)));
        // It writes again while the answer is on its way.
        ledger.writes();
        let second = ledger.asks();
        ledger.writes();
        ledger.answered(second, Some(mark(2)));
        assert_eq!(ledger.written(), Written::Somewhere, "of the one before");
        let third = ledger.asks();
        ledger.answered(second, Some(mark(2)));
        assert!(ledger.is_asking(), "the older answer came late");
        ledger.answered(third, None);
        assert_eq!(ledger.written(), Written::Somewhere, "the server was lost");
        assert!(!ledger.is_asking());
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let pauses: Vec<_> = (0..100).map(pause).collect();
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert_eq!(pauses[1], FIRST_PAUSE * 2);
        assert_eq!(pauses[99], PAUSE_MAX);
        assert!(pauses.is_sorted());
    }
}
