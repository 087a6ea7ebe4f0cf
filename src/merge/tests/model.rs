//! Merged rows and groups against what sorting and adding all of them gives.

use super::*;

/// A row of the model: two keys, of which the second is a text.
type ModelRow = (Option<i32>, String);

fn model_row() -> impl Strategy<Value = ModelRow> {
    (prop::option::weighted(0.8, -3..3i32), "[ab]{0,2}")
}

fn text((number, text): &ModelRow) -> String {
    format!(
        "{}|{text}",
        number.map_or("-".into(), |number| number.to_string())
    )
}

/// PostgreSQL's order: NULLs last, first where it descends.
fn model_order(descending: bool) -> impl Fn(&ModelRow, &ModelRow) -> std::cmp::Ordering {
    move |a, b| {
        let order = (a.0.is_none(), a.0, &a.1).cmp(&(b.0.is_none(), b.0, &b.1));
        if descending {
            order.reverse()
        } else {
            order
        }
    }
}

proptest! {
    /// Ordered by both columns, rows that tie are the same, so that the order is known in full.
    #[test]
    fn merged_rows_are_the_sorted_union(
        mut legs in prop::collection::vec(prop::collection::vec(model_row(), 0..8), 1..5),
        descending: bool,
        distinct: bool,
        offset in 0..4u64,
        count in prop::option::of(0..6u64),
        with_ties: bool,
        turns in prop::collection::vec(0..5usize, 0..80),
        room in 1..200usize,
    ) {
        let with_ties = with_ties && count.is_some();
        let mut union: Vec<ModelRow> = legs.concat();
        union.sort_by(model_order(descending));
        if distinct {
            union.dedup();
        }
        let skip = usize::try_from(offset).unwrap();
        let mut expected: Vec<ModelRow> = union.iter().skip(skip).cloned().collect();
        if let Some(count) = count {
            let mut count = usize::try_from(count).unwrap();
            while with_ties && 0 < count && count < expected.len() && expected[count] == expected[count - 1] {
                count += 1;
            }
            expected.truncate(count);
        }

        let key = |column| OrderKey { descending, nulls_first: descending, ..ascending(column) };
        let plan = MergePlan {
            order: vec![key(0), key(1)],
            distinct: if distinct { Distinct::Rows } else { Distinct::No },
            ..MergePlan::concatenate()
        };
        for leg in &mut legs {
            leg.sort_by(model_order(descending));
        }
        let columns = [("a", oid::INT4), ("b", oid::TEXT)];
        let texts: Vec<Vec<String>> = legs.iter().map(|leg| leg.iter().map(text).collect()).collect();
        let texts: Vec<Vec<&str>> = texts.iter().map(|leg| leg.iter().map(String::as_str).collect()).collect();
        let slices: Vec<&[&str]> = texts.iter().map(Vec::as_slice).collect();
        let messages = selected(&columns, &slices);
        let slice = Slice { offset, count, with_ties };
        let found = interleave(merge(plan, slice, legs.len()), &messages, &turns, room);
        let expected: Vec<String> = expected.iter().map(text).collect();
        prop_assert_eq!(found, format!("T:a|b {} C:SELECT_{}", expected.join(" "), expected.len()).replace("  ", " "));
    }

    /// Sum, count, least and greatest of each group.
    #[test]
    fn merged_groups_are_those_of_the_union(
        legs in prop::collection::vec(prop::collection::vec(model_row(), 0..8), 1..5),
        turns in prop::collection::vec(0..5usize, 0..80),
    ) {
        let group = |rows: &[ModelRow]| {
            let mut groups = std::collections::BTreeMap::<String, Vec<Option<i32>>>::new();
            for (number, key) in rows {
                groups.entry(key.clone()).or_default().push(*number);
            }
            let line = |(key, numbers): (String, Vec<Option<i32>>)| {
                let known = || numbers.iter().flatten().copied();
                let show = |number: Option<i32>| number.map_or_else(|| "-".to_string(), |number| number.to_string());
                let sum = known().next().map(|_| known().sum());
                format!("{key}|{}|{}|{}|{}", show(sum), known().count(), show(known().min()), show(known().max()))
            };
            groups.into_iter().map(line).collect::<Vec<String>>()
        };
        let plan = MergePlan {
            order: vec![ascending(0)],
            ..grouped(&[0], &[(1, Function::Sum), (2, Function::Sum), (3, Function::Least), (4, Function::Greatest)], 0)
        };
        let texts: Vec<Vec<String>> = legs.iter().map(|leg| group(leg)).collect();
        let texts: Vec<Vec<&str>> = texts.iter().map(|leg| leg.iter().map(String::as_str).collect()).collect();
        let slices: Vec<&[&str]> = texts.iter().map(Vec::as_slice).collect();
        let columns = [("k", oid::TEXT), ("s", oid::INT8), ("n", oid::INT8), ("l", oid::INT4), ("g", oid::INT4)];
        let messages = selected(&columns, &slices);
        let found = interleave(merge(plan, Slice::default(), legs.len()), &messages, &turns, usize::MAX);
        let expected = group(&legs.concat());
        prop_assert_eq!(found, format!("T:k|s|n|l|g {} C:SELECT_{}", expected.join(" "), expected.len()).replace("  ", " "));
    }
}

/// Feeds the legs in this order of turns, then to their ends, and pumps into little room.
fn interleave(mut merge: Merge, legs: &[Vec<Vec<u8>>], turns: &[usize], room: usize) -> String {
    let mut out = Vec::new();
    let mut next = vec![0; legs.len()];
    let mut progress = Progress::Reading;
    let rest = (0..legs.len()).cycle().take(legs.len() * 12);
    for index in turns.iter().map(|turn| turn % legs.len()).chain(rest) {
        if let Some(message) = legs[index].get(next[index]) {
            assert!(merge.may_read(index), "the window is wide");
            merge.feed(index, message, &mut out);
            next[index] += 1;
        }
        progress = merge.pump(room, &mut out);
    }
    while progress == Progress::Writing {
        progress = merge.pump(room, &mut out);
    }
    assert_eq!(progress, Progress::Done);
    words(&out)
}
