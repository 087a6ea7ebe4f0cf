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

#[cfg(test)]
mod tests {
    use super::*;

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
