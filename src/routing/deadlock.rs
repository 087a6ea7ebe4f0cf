//! Clients that wait for each other in a circle, each on a server that does not see the rest of it.

use std::collections::{BTreeMap, BTreeSet};

/// Who of these is to give up so that all others can go on: of each circle the last by `rank`, which has none for a client
/// that cannot.
///
/// `waits`: the first waits for the second. One of several circles that have a client in common may be left; it is found
/// the next time.
pub fn victims<R: Ord>(waits: &[(i32, i32)], rank: impl Fn(i32) -> Option<R>) -> Vec<i32> {
    let mut next: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for &(waiter, holder) in waits.iter().filter(|(waiter, holder)| waiter != holder) {
        next.entry(waiter).or_default().push(holder);
    }
    let reached = |from: i32| {
        let mut reached = BTreeSet::new();
        let mut open: Vec<i32> = next.get(&from).cloned().unwrap_or_default();
        while let Some(client) = open.pop() {
            if reached.insert(client) {
                open.extend(next.get(&client).into_iter().flatten());
            }
        }
        reached
    };
    let mut candidates: Vec<(R, i32)> = next
        .keys()
        .filter_map(|client| Some((rank(*client)?, *client)))
        .collect();
    candidates.sort();
    let mut chosen: Vec<i32> = Vec::new();
    while let Some((_, client)) = candidates.pop() {
        let found = reached(client);
        // Another one of the same circle is on its way out already.
        let broken = chosen.iter().any(|victim| found.contains(victim));
        if found.contains(&client) && !broken {
            chosen.push(client);
        }
    }
    chosen
}

/// Modes of locks, as `pg_locks` names them, each with those that it excludes: bit 0 is the first one.
///
/// Source: <https://www.postgresql.org/docs/current/explicit-locking.html#TABLE-LOCK-COMPATIBILITY>
const MODES: [(&[u8], u8); 8] = [
    (b"AccessShareLock", 0b1000_0000),
    (b"RowShareLock", 0b1100_0000),
    (b"RowExclusiveLock", 0b1111_0000),
    (b"ShareUpdateExclusiveLock", 0b1111_1000),
    (b"ShareLock", 0b1110_1100),
    (b"ShareRowExclusiveLock", 0b1111_1100),
    (b"ExclusiveLock", 0b1111_1110),
    (b"AccessExclusiveLock", 0b1111_1111),
];

/// Does a lock of one of these modes exclude one of the other on the same object?
pub fn exclude(one: &[u8], other: &[u8]) -> bool {
    let place = |mode: &[u8]| MODES.iter().position(|(name, _)| *name == mode);
    let excluded = MODES.iter().find(|(name, _)| *name == one);
    let bits = excluded.map_or(0, |(_, bits)| *bits);
    place(other).is_some_and(|at| bits & 1 << at != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_exclude_each_other() {
        let names = || MODES.iter().map(|(name, _)| *name);
        for (one, other) in names().flat_map(|one| names().map(move |other| (one, other))) {
            assert_eq!(exclude(one, other), exclude(other, one));
        }
        assert!(exclude(b"ShareLock", b"ExclusiveLock"));
        assert!(!exclude(b"ShareLock", b"ShareLock"));
        assert!(!exclude(b"RowExclusiveLock", b"RowExclusiveLock"));
        assert!(!exclude(b"SIReadLock", b"AccessExclusiveLock"));
    }

    #[test]
    fn of_each_circle_the_last_one_gives_up() {
        let check = |waits: &[(i32, i32)], expected: &[i32]| {
            let mut found = victims(waits, |client| (client < 100).then_some(client));
            found.sort_unstable();
            assert_eq!(found, expected, "{waits:?}");
        };
        check(&[], &[]);
        check(&[(1, 2), (2, 3)], &[]);
        check(&[(1, 1)], &[]);
        check(&[(1, 2), (2, 1)], &[2]);
        check(&[(1, 2), (2, 3), (3, 1), (4, 1)], &[3]);
        // Who waits for a circle is not in it.
        check(&[(9, 1), (1, 2), (2, 1)], &[2]);
        check(&[(1, 2), (2, 1), (5, 6), (6, 5)], &[2, 6]);
        // One that cannot give up.
        check(&[(1, 200), (200, 2), (2, 1)], &[2]);
        check(&[(100, 200), (200, 100)], &[]);
    }
}
