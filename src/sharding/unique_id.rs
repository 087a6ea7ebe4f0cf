//! IDs that are unique over shards, cores and instances, without asking anybody.
//!
//! ```text
//! standard  0 | milliseconds since 2024, 41 bits | node, 10 bits | sequence, 12 bits     1024 nodes, 4096 IDs a millisecond
//! compact   0 | milliseconds since 2024, 41 bits | node,  6 bits | sequence,  6 bits     64 nodes, 64 IDs a millisecond
//! ```
//!
//! A millisecond and a sequence number together are a slot of the node; the cores of a process take every n-th slot each,
//! so that none needs to ask another. An ID grows with time on each core, and fits into 64 bits until 2093; compact ones
//! fit into the 53 bits of a JavaScript number. `unique_id_min` is added to all.
//!
//! A core that needs more slots than time has brought goes ahead of the clock by [`AHEAD_MAX_MS`] at most; a process
//! begins as far ahead of the clock, so that it gives out nothing that the one before it may have given out. What a clock
//! repeats that is set back while no process runs is beyond this.

use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;

/// 2024-01-01 in milliseconds since 1970.
const EPOCH_MS: u64 = 1_704_067_200_000;
/// Bits of the milliseconds.
const TIME_BITS: u32 = 41;
/// How far IDs may be ahead of the clock, and how far ahead a process begins.
const AHEAD_MAX_MS: u64 = 1_000;

/// Which IDs, as `unique_id_function` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdFunction {
    /// 64 bits.
    Standard,
    /// 53 bits.
    Compact,
}

/// Bits of node and sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    node_bits: u32,
    sequence_bits: u32,
}

const STANDARD: Layout = Layout {
    node_bits: 10,
    sequence_bits: 12,
};
const COMPACT: Layout = Layout {
    node_bits: 6,
    sequence_bits: 6,
};

impl Layout {
    fn of(function: IdFunction) -> Self {
        match function {
            IdFunction::Standard => STANDARD,
            IdFunction::Compact => COMPACT,
        }
    }

    fn id_max(self) -> u64 {
        (1 << (TIME_BITS + self.node_bits + self.sequence_bits)) - 1
    }
}

/// What the generators of a process have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UniqueIds {
    layout: Layout,
    node: u64,
    id_min: u64,
    /// The first slot that the process may use.
    slot_min: u64,
}

/// Gives out the IDs of one core.
#[derive(Clone, Debug)]
pub struct UniqueIdGenerator {
    ids: UniqueIds,
    core: u64,
    cores: u64,
    /// The next slot of this core.
    slot: u64,
}

impl UniqueIds {
    /// `node_id` is `NODE_ID`, which ends in a hyphen and a number; `now_ms` are milliseconds since 1970.
    ///
    /// Errors: F0000 without a number in `node_id`, or with one that is too large for the function.
    pub fn new(
        function: IdFunction,
        node_id: Option<&str>,
        id_min: u64,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let layout = Layout::of(function);
        let fault = |detail: String| {
            Error::error(
                Fault::Proxy,
                SqlState::CONFIG_FILE_ERROR,
                "unique IDs need NODE_ID",
            )
            .detail(detail)
        };
        let nodes = 1_u64 << layout.node_bits;
        let number = node_id.and_then(node_number);
        let node = number.filter(|node| *node < nodes).ok_or_else(|| {
            fault(format!(
                "NODE_ID must end in a hyphen and a number below {nodes}"
            ))
        })?;
        let first_ms = now_ms.saturating_sub(EPOCH_MS) + AHEAD_MAX_MS;
        Ok(Self {
            layout,
            node,
            id_min,
            slot_min: first_ms.saturating_mul(1 << layout.sequence_bits),
        })
    }

    /// The generator of one of so many cores, numbered from 0.
    pub fn generator(self, core: usize, cores: usize) -> UniqueIdGenerator {
        UniqueIdGenerator {
            ids: self,
            core: core.try_into().unwrap_or_default(),
            cores: cores.max(core + 1).try_into().unwrap_or(1),
            slot: 0,
        }
    }
}

/// The number behind the last hyphen.
fn node_number(node_id: &str) -> Option<u64> {
    let (_, number) = node_id.rsplit_once('-')?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| number.parse().ok()).flatten()
}

impl UniqueIdGenerator {
    /// The next ID, above all that this core has given out.
    ///
    /// Errors: 54000 if they are asked for faster than the layout has them, or no longer fit.
    pub fn next(&mut self, now_ms: u64) -> Result<i64, Error> {
        let Layout {
            node_bits,
            sequence_bits,
        } = self.ids.layout;
        let now_ms = now_ms.saturating_sub(EPOCH_MS);
        let earliest = (now_ms << sequence_bits)
            .max(self.ids.slot_min)
            .max(self.slot);
        let slot = earliest + (self.core + self.cores - earliest % self.cores) % self.cores;
        let time_ms = slot >> sequence_bits;
        if time_ms > now_ms + AHEAD_MAX_MS {
            return Err(exhausted("they are asked for too fast"));
        }
        let sequence = slot & ((1 << sequence_bits) - 1);
        let id = time_ms << (node_bits + sequence_bits) | self.ids.node << sequence_bits | sequence;
        let id = id
            .checked_add(self.ids.id_min)
            .filter(|id| *id <= self.ids.layout.id_max())
            .and_then(|id| i64::try_from(id).ok())
            .ok_or_else(|| exhausted("they do not fit any more"))?;
        self.slot = slot + 1;
        Ok(id)
    }
}

fn exhausted(why: &'static str) -> Error {
    Error::error(
        Fault::Proxy,
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        "no unique ID can be generated",
    )
    .detail(why)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NOW: u64 = 1_795_000_000_000;

    fn ids(function: IdFunction, node: u64) -> UniqueIds {
        UniqueIds::new(function, Some(&format!("pgdog-{node}")), 0, NOW).unwrap()
    }

    #[test]
    fn nodes() {
        for (function, node_id, fits) in [
            (IdFunction::Standard, Some("pgdog-prod-0"), true),
            (IdFunction::Standard, Some("a-1023"), true),
            (IdFunction::Standard, Some("a-1024"), false),
            (IdFunction::Compact, Some("a-63"), true),
            (IdFunction::Compact, Some("a-64"), false),
            (IdFunction::Standard, Some("a-"), false),
            (IdFunction::Standard, Some("a-+1"), false),
            (IdFunction::Standard, Some("a1"), false),
            (IdFunction::Standard, None, false),
        ] {
            let found = UniqueIds::new(function, node_id, 0, NOW);
            assert_eq!(found.is_ok(), fits, "{node_id:?}");
            if let Err(error) = found {
                assert_eq!(error.message, "unique IDs need NODE_ID");
            }
        }
    }

    #[test]
    fn an_id_says_when_and_where() {
        let id = ids(IdFunction::Standard, 5)
            .generator(0, 1)
            .next(NOW)
            .unwrap();
        assert_eq!(
            id >> 22,
            i64::try_from(NOW - EPOCH_MS + AHEAD_MAX_MS).unwrap()
        );
        assert_eq!(id >> 12 & 1023, 5);
        let compact = ids(IdFunction::Compact, 63)
            .generator(0, 1)
            .next(NOW)
            .unwrap();
        assert!(compact < 1 << 53);
        assert_eq!(compact >> 6 & 63, 63);
    }

    /// More cores than a compact millisecond has slots, nodes side by side, and clocks that jump.
    #[test]
    fn no_two_are_the_same_and_each_core_counts_up() {
        for function in [IdFunction::Standard, IdFunction::Compact] {
            let mut seen = BTreeSet::new();
            for node in [0, 1, 63] {
                for core in 0..100 {
                    let mut generator = ids(function, node).generator(core, 100);
                    let mut last = 0;
                    for after in [2000, 2000, 2001, 1500, 2070, 2003, 4000] {
                        let id = generator.next(NOW + after).unwrap();
                        assert!(id > last, "{id} after {last}");
                        assert!(seen.insert(id), "{id} twice");
                        last = id;
                    }
                }
            }
        }
    }

    #[test]
    fn a_process_begins_above_all_that_the_one_before_it_could_give() {
        let mut before = ids(IdFunction::Compact, 1).generator(0, 1);
        let mut last = 0;
        let mut given = 0;
        while let Ok(id) = before.next(NOW + 5000) {
            last = id;
            given += 1;
        }
        assert_eq!(given, (AHEAD_MAX_MS + 1) * 64, "then it is too fast");
        // Restarted in the next millisecond.
        let after = UniqueIds::new(IdFunction::Compact, Some("a-1"), 0, NOW + 5001).unwrap();
        assert!(after.generator(0, 1).next(NOW + 5001).unwrap() > last);
    }

    #[test]
    fn the_least_id_is_added() {
        let with = |id_min| UniqueIds::new(IdFunction::Standard, Some("a-0"), id_min, NOW);
        let id = with(1_000_000).unwrap().generator(0, 1).next(NOW).unwrap();
        let plain = with(0).unwrap().generator(0, 1).next(NOW).unwrap();
        assert_eq!(id - plain, 1_000_000);
        let error = with(u64::MAX / 2).unwrap().generator(0, 1).next(NOW);
        assert_eq!(error.unwrap_err().code, SqlState::PROGRAM_LIMIT_EXCEEDED);
    }
}
