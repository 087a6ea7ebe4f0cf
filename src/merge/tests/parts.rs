//! Groups that are divided are the groups of one.

use std::collections::BTreeMap;

use super::*;
use crate::merge::parts::{Given, Share};

const COLUMNS: [(&str, u32); 3] = [("k", oid::TEXT), ("s", oid::INT8), ("n", oid::INT8)];

/// What each leg has: a sum and a count for each key.
type Sums = BTreeMap<u32, (i64, i64)>;

fn plan(in_order: bool, positive: bool) -> MergePlan {
    let condition = Condition {
        column: Column::FromStart(1),
        comparison: Comparison::Greater,
        constant: "0".into(),
    };
    MergePlan {
        order: in_order.then(|| ascending(0)).into_iter().collect(),
        conditions: positive.then_some(condition).into_iter().collect(),
        ..grouped(&[0], &[(1, Function::Sum), (2, Function::Sum)], 0)
    }
}

/// A row; wide ones fill a batch soon.
fn line(key: u32, (sum, count): (i64, i64), wide: bool) -> String {
    let padding = "x".repeat(if wide { 3_000 } else { 0 });
    format!("{key:03}{padding}|{sum}|{count}")
}

/// Lets one part do something.
fn work(merge: &mut Merge, part: usize, share: &mut Share) {
    if let Some(rows) = merge.collected(part) {
        share.take(&rows).unwrap();
        merge.part_holds(part, share.held_bytes());
    } else if merge.is_collected(part) && merge.wants(part, 0) {
        if let Given::Groups { batch, last } = share.give().unwrap() {
            merge.part_holds(part, share.held_bytes());
            merge.returned(part, batch, last);
        }
    }
}

proptest! {
    #[test]
    fn divided_groups_are_those_of_one(
        legs in prop::collection::vec(prop::collection::btree_map(0..60u32, (-3..9i64, 1..5i64), 0..40), 1..4),
        parts in 1..5usize,
        before in 0..40usize,
        in_order: bool,
        positive: bool,
        wide: bool,
        (offset, count) in (0..4u64, prop::option::of(0..20u64)),
        turns in prop::collection::vec(0..5usize, 0..200),
    ) {
        let mut union = Sums::new();
        for (key, (sum, count)) in legs.iter().flatten() {
            let known = union.entry(*key).or_default();
            *known = (known.0 + sum, known.1 + count);
        }
        union.retain(|_, (sum, _)| !positive || *sum > 0);
        let union: Vec<String> = union.into_iter().map(|(key, sums)| line(key, sums, wide)).collect();

        let texts = legs.iter().map(|leg| leg.iter().map(|(key, sums)| line(*key, *sums, wide)).collect::<Vec<_>>());
        let texts: Vec<Vec<String>> = texts.collect();
        let texts: Vec<Vec<&str>> = texts.iter().map(|leg| leg.iter().map(String::as_str).collect()).collect();
        let slices: Vec<&[&str]> = texts.iter().map(Vec::as_slice).collect();
        let messages = selected(&COLUMNS, &slices);

        let slice = Slice { offset, count, with_ties: false };
        let mut merge = merge(plan(in_order, positive), slice, legs.len());
        let (mut out, mut shares, mut fed) = (Vec::new(), Vec::new(), 0);
        let mut next = vec![0; legs.len()];
        let mut progress = Progress::Reading;
        // By chance for a while, then everything until it is done.
        let rest = (0..legs.len().max(parts)).cycle().take(1_000_000);
        for turn in turns.iter().copied().chain(rest) {
            let index = turn % legs.len();
            if let Some(message) = messages[index].get(next[index]).filter(|_| merge.may_read(index)) {
                merge.feed(index, message, &mut out);
                next[index] += 1;
                fed += 1;
            }
            // All legs have described their rows by then, or there is nothing to divide.
            if fed == before && shares.is_empty() {
                shares = merge.divide(parts);
            }
            if let Some(share) = shares.get_mut(turn) {
                work(&mut merge, turn, share);
            }
            progress = merge.pump(64, &mut out);
            if progress == Progress::Done {
                break;
            }
        }
        prop_assert_eq!(progress, Progress::Done);
        prop_assert_eq!(merge.held_bytes(), 0, "nothing is held of what is over");

        let found = words(&out);
        let mut found: Vec<&str> = found.split(' ').collect();
        let (first, last) = (found.remove(0), found.pop().unwrap());
        let skip = usize::try_from(offset).unwrap();
        let rows = count.map_or(usize::MAX, |count| usize::try_from(count).unwrap());
        let rows = rows.min(union.len().saturating_sub(skip));
        prop_assert_eq!(first, "T:k|s|n");
        prop_assert_eq!(last, format!("C:SELECT_{rows}"));
        if in_order {
            prop_assert_eq!(&found[..], &union[skip.min(union.len())..][..rows]);
        } else {
            found.sort_unstable();
            found.dedup();
            prop_assert_eq!(found.len(), rows, "no row twice");
            prop_assert!(found.iter().all(|row| union.iter().any(|of| of == row)), "{:?} of {:?}", found, union);
        }
    }
}

/// Rows `000|…` to `<number>|…` of two legs, described and not yet ended, in a divided merge.
fn divided(number: u32, sum: &str) -> (Merge, Vec<Share>) {
    let mut merge = merge(plan(false, false), Slice::default(), 2);
    let mut out = Vec::new();
    for leg in 0..2 {
        merge.feed(leg, &described(&COLUMNS), &mut out);
    }
    let shares = merge.divide(2);
    for key in 0..number {
        merge.feed(0, &row(&format!("{key:03}|{sum}|1")), &mut out);
    }
    assert_eq!(words(&out), "T:k|s|n");
    (merge, shares)
}

#[test]
fn a_part_that_does_not_keep_up_stops_the_legs() {
    let (mut merge, mut shares) = divided(0, "1");
    let mut out = Vec::new();
    let mut key = 0;
    while merge.may_read(0) {
        merge.feed(0, &row(&line(key, (1, 1), true)), &mut out);
        key += 1;
        assert!(key < 1_000, "there is an end to it");
    }
    assert!(!merge.may_read(1));
    work(&mut merge, 0, &mut shares[0]);
    assert!(merge.may_read(0) && merge.may_read(1));
}

#[test]
fn what_other_cores_hold_counts() {
    let (mut merge, _) = divided(1, "1");
    let mut out = Vec::new();
    merge.part_holds(0, LIMITS.budget_bytes);
    merge.feed(1, &row("001|1|1"), &mut out);
    assert_eq!(words(&out), "E:53200");
    assert!(merge.collected(0).is_none() && !merge.is_collected(0) && !merge.wants(0, 0));
}

#[test]
fn a_part_fails_with_what_the_merge_would_fail_with() {
    let (mut merge, mut shares) = divided(100, "9223372036854775807");
    let mut out = Vec::new();
    for key in 0..100 {
        // Here they fit: those of the other leg have a sum below 0.
        merge.feed(1, &row(&format!("{key:03}|-1|1")), &mut out);
    }
    for leg in 0..2 {
        merge.feed(leg, &done("SELECT 100"), &mut out);
    }
    let rows = merge.collected(0).unwrap();
    shares[0].take(&rows).unwrap();
    // Once more, and they do not.
    let error = shares[0].take(&rows).unwrap_err();
    assert_eq!(error.code, SqlState::NUMERIC_VALUE_OUT_OF_RANGE);
}
