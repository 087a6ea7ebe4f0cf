//! Merges of hand-written replies.

use std::sync::Arc;

use proptest::prelude::*;

use super::plan::*;
use super::*;
use crate::protocol::backend::{
    Message, BIND_COMPLETE, COPY_DONE, EMPTY_QUERY_RESPONSE, NO_DATA, PARSE_COMPLETE,
};
use crate::protocol::rows::{DataRow, Field};
use crate::protocol::wire::put_message;
use crate::types::{oid, Known};

mod model;
mod parts;
mod replies;

const LIMITS: Limits = Limits {
    window_bytes: 1_000,
    budget_bytes: 1_000_000,
};

const BYTES: Session = Session {
    known: Known::Yes,
    text_ordered_by_bytes: true,
    text_equal_by_bytes: true,
    floats_exact: true,
};

fn described(columns: &[(&str, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    let fields = columns.iter().map(|(name, type_oid)| Field {
        type_oid: *type_oid,
        ..Field::text(name.as_bytes())
    });
    RowDescription::encode(&mut out, fields);
    out
}

/// Values separated by `|`; `-` is NULL.
fn row(values: &str) -> Vec<u8> {
    let mut out = Vec::new();
    DataRow::encode(
        &mut out,
        values
            .split('|')
            .map(|value| (value != "-").then_some(value.as_bytes())),
    );
    out
}

fn done(tag: &str) -> Vec<u8> {
    let mut out = Vec::new();
    CommandComplete {
        tag: tag.as_bytes(),
    }
    .encode(&mut out);
    out
}

fn failed(code: SqlState) -> Vec<u8> {
    let mut out = Vec::new();
    put_error(&mut out, &Error::error(Fault::Server, code, "on a shard"));
    out
}

/// One word per message.
fn words(bytes: &[u8]) -> String {
    let mut rest = bytes;
    let mut words = Vec::new();
    while let Ok((tag, length)) = header(rest) {
        let (message, tail) = rest.split_at(length);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        words.push(match Message::parse(tag, &message[5..]).unwrap() {
            Message::DataRow(row) => row
                .values()
                .map(|value| value.unwrap().map_or_else(|| "-".into(), text))
                .collect::<Vec<_>>()
                .join("|"),
            Message::RowDescription(columns) => {
                let names: Vec<_> = columns
                    .fields()
                    .map(|field| text(field.unwrap().name))
                    .collect();
                format!("T:{}", names.join("|"))
            }
            Message::CommandComplete(done) => format!("C:{}", text(done.tag).replace(' ', "_")),
            Message::ErrorResponse(fields) => format!("E:{}", fields.code().unwrap()),
            Message::CopyData(data) => format!("d:{}", data.escape_ascii()),
            _ => char::from(tag).to_string(),
        });
        rest = tail;
    }
    assert!(rest.is_empty());
    words.join(" ")
}

fn merge(plan: MergePlan, slice: Slice, legs: usize) -> Merge {
    Merge::new(
        Arc::new(plan),
        slice,
        legs,
        BYTES,
        Description::Forwarded,
        LIMITS,
    )
}

/// Feeds the legs in turn, one message each.
fn run(mut merge: Merge, legs: &[Vec<Vec<u8>>]) -> String {
    let mut out = Vec::new();
    let mut progress = merge.pump(usize::MAX, &mut out);
    for turn in 0..legs.iter().map(Vec::len).max().unwrap_or(0) {
        for (index, leg) in legs.iter().enumerate() {
            if let Some(message) = leg.get(turn) {
                merge.feed(index, message, &mut out);
                progress = merge.pump(usize::MAX, &mut out);
            }
        }
    }
    assert_eq!(progress, Progress::Done, "{}", words(&out));
    words(&out)
}

/// Legs that describe `columns`, give rows, and say how many.
fn selected(columns: &[(&str, u32)], legs: &[&[&str]]) -> Vec<Vec<Vec<u8>>> {
    let leg = |rows: &&[&str]| {
        let rows = rows.iter().map(|values| row(values));
        let end = done(&format!("SELECT {}", rows.len()));
        std::iter::once(described(columns))
            .chain(rows)
            .chain([end])
            .collect()
    };
    legs.iter().map(leg).collect()
}

fn ascending(column: usize) -> OrderKey {
    OrderKey {
        column: Column::FromStart(column),
        descending: false,
        nulls_first: false,
        by_bytes: false,
    }
}

#[test]
fn rows_are_concatenated_and_counted() {
    let legs = selected(&[("a", oid::INT4)], &[&["1", "2"], &[], &["3"]]);
    assert_eq!(
        run(merge(MergePlan::concatenate(), Slice::default(), 3), &legs),
        "T:a 1 3 2 C:SELECT_3"
    );
}

/// Rows of one leg wait for the description of another, and are wrong when it comes.
#[test]
fn an_error_among_rows_that_waited_ends_when_all_have() {
    let plan = MergePlan {
        distinct: Distinct::Rows,
        ..MergePlan::concatenate()
    };
    let mut legs = selected(&[("a", oid::INT4)], &[&["1", "2"], &["x", "3"], &["4"]]);
    let last = legs.pop().unwrap();
    let mut merge = merge(plan, Slice::default(), 3);
    let mut out = Vec::new();
    for (index, leg) in legs.iter().enumerate() {
        leg.iter()
            .for_each(|message| merge.feed(index, message, &mut out));
    }
    last.iter()
        .for_each(|message| merge.feed(2, message, &mut out));
    assert_eq!(merge.pump(usize::MAX, &mut out), Progress::Done);
    assert_eq!(words(&out), "T:a 1 2 E:0A000");
}

#[test]
fn order_is_kept_and_the_hidden_key_cut_off() {
    let plan = MergePlan {
        order: vec![OrderKey {
            column: Column::FromEnd(0),
            descending: true,
            nulls_first: true,
            by_bytes: false,
        }],
        hidden: 1,
        ..MergePlan::concatenate()
    };
    let legs = selected(
        &[("a", oid::TEXT), ("k", oid::INT4)],
        &[&["x|-", "b|10", "e|9"], &["c|10", "d|-2"], &["y|11"]],
    );
    assert_eq!(
        run(merge(plan, Slice::default(), 3), &legs),
        "T:a x y b c e d C:SELECT_6"
    );
}

#[test]
fn limit_and_offset_are_of_the_whole_and_ties_stay() {
    let check = |slice: Slice, expected: &str| {
        let plan = MergePlan {
            order: vec![ascending(0)],
            ..MergePlan::concatenate()
        };
        let legs = selected(&[("a", oid::INT4)], &[&["1", "2", "2", "4"], &["2", "3"]]);
        assert_eq!(run(merge(plan, slice, 2), &legs), format!("T:a {expected}"));
    };
    let slice = |offset, count, with_ties| Slice {
        offset,
        count,
        with_ties,
    };
    check(slice(0, Some(2), false), "1 2 C:SELECT_2");
    check(slice(1, Some(1), true), "2 2 2 C:SELECT_3");
    check(slice(4, None, false), "3 4 C:SELECT_2");
    check(slice(9, Some(1), false), "C:SELECT_0");
    check(slice(0, Some(0), true), "C:SELECT_0");
}

#[test]
fn limit_without_order_counts_off() {
    let legs = selected(&[("a", oid::INT4)], &[&["1", "2"], &["3", "4"]]);
    let slice = Slice {
        offset: 1,
        count: Some(2),
        with_ties: false,
    };
    assert_eq!(
        run(merge(MergePlan::concatenate(), slice, 2), &legs),
        "T:a 3 2 C:SELECT_2"
    );
}

#[test]
fn duplicates_are_dropped_by_the_types_equality() {
    let plan = |order, distinct| MergePlan {
        order,
        distinct,
        ..MergePlan::concatenate()
    };
    let columns = [("a", oid::NUMERIC), ("b", oid::TEXT)];
    let legs = selected(
        &columns,
        &[&["1.0|x", "2|y"], &["1.00|x", "1|z", "-|-"], &["-|-"]],
    );
    assert_eq!(
        run(
            merge(plan(vec![], Distinct::Rows), Slice::default(), 3),
            &legs
        ),
        "T:a|b 1.0|x -|- 2|y 1|z C:SELECT_4"
    );
    assert_eq!(
        run(
            merge(
                plan(vec![ascending(0)], Distinct::Rows),
                Slice::default(),
                3
            ),
            &legs
        ),
        "T:a|b 1.0|x 1|z 2|y -|- C:SELECT_4"
    );
    let on = Distinct::On(vec![Column::FromStart(0)]);
    assert_eq!(
        run(
            merge(plan(vec![ascending(0)], on), Slice::default(), 3),
            &legs
        ),
        "T:a|b 1.0|x 2|y -|- C:SELECT_3"
    );
}

fn grouped(keys: &[usize], aggregates: &[(usize, Function)], hidden: usize) -> MergePlan {
    let aggregate = |(column, function): &(usize, Function)| Aggregate {
        column: Column::FromStart(*column),
        function: *function,
    };
    MergePlan {
        grouping: Some(Box::new(Grouping {
            keys: keys.iter().map(|key| Column::FromStart(*key)).collect(),
            aggregates: aggregates.iter().map(aggregate).collect(),
            computed: Vec::new(),
        })),
        hidden,
        ..MergePlan::concatenate()
    }
}

#[test]
fn aggregates_of_all_rows() {
    let check = |type_oid, function, legs: [&str; 3], expected: &str| {
        let legs = legs.map(|value| [value]);
        let legs: Vec<&[&str]> = legs.iter().map(|leg| &leg[..]).collect();
        let plan = grouped(&[], &[(0, function)], 0);
        let found = run(
            merge(plan, Slice::default(), 3),
            &selected(&[("x", type_oid)], &legs),
        );
        let tail = if expected.starts_with("E:") {
            ""
        } else {
            " C:SELECT_1"
        };
        assert_eq!(found, format!("T:x {expected}{tail}"));
    };
    check(oid::INT8, Function::Sum, ["1", "-", "2"], "3");
    check(oid::INT8, Function::Sum, ["-", "-", "-"], "-");
    check(
        oid::INT4,
        Function::Sum,
        ["2147483647", "1", "0"],
        "E:22003",
    );
    check(
        oid::INT8,
        Function::Sum,
        ["9223372036854775807", "1", "0"],
        "E:22003",
    );
    check(oid::NUMERIC, Function::Sum, ["1.50", "2", "NaN"], "NaN");
    check(oid::NUMERIC, Function::Sum, ["1.50", "2", "-3.5"], "0.00");
    check(
        oid::FLOAT8,
        Function::Sum,
        ["0.5", "1e+15", "-"],
        "1.0000000000000005e+15",
    );
    check(
        oid::FLOAT8,
        Function::Sum,
        ["1e+308", "1e+308", "-"],
        "E:22003",
    );
    check(
        oid::FLOAT8,
        Function::Sum,
        ["1e+308", "Infinity", "-"],
        "Infinity",
    );
    check(oid::FLOAT4, Function::Sum, ["0.5", "0.25", "-"], "0.75");
    check(oid::TEXT, Function::Least, ["b", "-", "B"], "B");
    check(
        oid::FLOAT8,
        Function::Greatest,
        ["Infinity", "NaN", "-"],
        "NaN",
    );
    check(
        oid::INTERVAL,
        Function::Greatest,
        ["1 mon", "29 days 24:00:01", "1 day"],
        "29 days 24:00:01",
    );
    check(oid::BOOL, Function::And, ["t", "-", "f"], "f");
    check(oid::BOOL, Function::Or, ["f", "-", "t"], "t");
    check(oid::INT4, Function::BitAnd, ["7", "13", "-"], "5");
    check(oid::INT2, Function::BitOr, ["1", "4", "-"], "5");
    check(oid::INT4, Function::BitXor, ["7", "13", "-"], "10");
    check(oid::TEXT, Function::Any, ["-", "a", "b"], "a");
}

#[test]
fn averages_and_deviations_from_hidden_parts() {
    let [sum, count, squares] = [1, 2, 3].map(Column::FromStart);
    let average = Function::Average { sum, count };
    let deviation = Function::Deviation {
        sum,
        squares,
        count,
        sample: true,
        root: true,
    };
    let check = |types: [u32; 4], function, legs: &[&[&str]], expected: &str| {
        let columns: Vec<_> = ["x", "s", "n", "q"].into_iter().zip(types).collect();
        let plan = grouped(&[], &[(0, function)], 3);
        let found = run(
            merge(plan, Slice::default(), legs.len()),
            &selected(&columns, legs),
        );
        assert_eq!(found, format!("T:x {expected} C:SELECT_1"));
    };
    let integers = [oid::NUMERIC, oid::INT8, oid::INT8, oid::NUMERIC];
    check(
        integers,
        average,
        &[&["1.0000000000000000|1|1|1"], &["1.5|3|2|5"]],
        "1.3333333333333333",
    );
    check(integers, average, &[&["-|-|0|-"], &["-|-|0|-"]], "-");
    check(
        integers,
        deviation,
        &[&["-|1|1|1"], &["-|2|1|4"]],
        "0.70710678118654752440",
    );
    check(integers, deviation, &[&["-|1|1|1"], &["-|-|0|-"]], "-");
    let floats = [oid::FLOAT8, oid::FLOAT8, oid::INT8, oid::NUMERIC];
    check(floats, average, &[&["1|1|1|-"], &["1|2|3|-"]], "0.75");
}

#[test]
fn groups_are_merged_filtered_and_ordered() {
    let plan = MergePlan {
        conditions: vec![Condition {
            column: Column::FromStart(1),
            comparison: Comparison::Greater,
            constant: "1".into(),
        }],
        order: vec![OrderKey {
            descending: true,
            ..ascending(1)
        }],
        ..grouped(&[0], &[(1, Function::Sum)], 0)
    };
    let columns = [("a", oid::TEXT), ("n", oid::INT8)];
    let legs = selected(
        &columns,
        &[&["x|1", "y|1", "-|5"], &["x|2", "z|1"], &["-|6"]],
    );
    assert_eq!(
        run(merge(plan, Slice::default(), 3), &legs),
        "T:a|n -|11 x|3 C:SELECT_2"
    );
}

#[test]
fn distinct_values_are_counted_once() {
    let values = Column::FromStart(1);
    let plan = grouped(&[], &[(0, Function::CountDistinct { values })], 1);
    let columns = [("n", oid::INT8), ("v", 1231)];
    let legs = selected(&columns, &[&["2|{1.0,2,NULL}"], &["1|{1.00}"], &["0|-"]]);
    assert_eq!(
        run(merge(plan, Slice::default(), 3), &legs),
        "T:n 2 C:SELECT_1"
    );
}

#[test]
fn the_first_error_ends_it_and_the_rest_is_swallowed() {
    let columns = [("a", oid::INT4)];
    let mut legs = selected(&columns, &[&["1", "2"], &["3"], &["4"]]);
    legs[1] = vec![
        described(&columns),
        row("3"),
        failed(SqlState::QUERY_CANCELED),
    ];
    legs[2] = vec![
        described(&columns),
        row("4"),
        row("5"),
        failed(SqlState::INTERNAL_ERROR),
    ];
    assert_eq!(
        run(merge(MergePlan::concatenate(), Slice::default(), 3), &legs),
        "T:a 1 3 4 2 E:57014"
    );
}

#[test]
fn what_cannot_be_compared_is_refused_before_a_row() {
    let check_in = |session, plan: MergePlan, type_oid, expected: &str| {
        let merge = Merge::new(
            Arc::new(plan),
            Slice::default(),
            1,
            session,
            Description::Forwarded,
            LIMITS,
        );
        assert_eq!(
            run(merge, &selected(&[("a", type_oid)], &[&["1"]])),
            expected,
            "{type_oid}"
        );
    };
    let check = |plan, type_oid, expected: &str| {
        check_in(Session::DEFAULT, plan, type_oid, expected);
    };
    let ordered = |by_bytes| MergePlan {
        order: vec![OrderKey {
            by_bytes,
            ..ascending(0)
        }],
        ..MergePlan::concatenate()
    };
    check(ordered(false), oid::TEXT, "E:0A000");
    check(ordered(true), oid::TEXT, "T:a 1 C:SELECT_1");
    check(ordered(false), oid::FIRST_OF_USERS, "E:0A000");
    let distinct = MergePlan {
        distinct: Distinct::Rows,
        ..MergePlan::concatenate()
    };
    check(distinct.clone(), oid::TEXT, "E:0A000");
    check(distinct.clone(), oid::JSONB, "T:a 1 C:SELECT_1");
    check(ordered(false), oid::JSONB, "E:0A000");
    check(distinct, 114, "E:0A000");
    check(
        grouped(&[], &[(0, Function::Sum)], 0),
        oid::MONEY,
        "E:0A000",
    );
    check(grouped(&[], &[(0, Function::And)], 0), oid::INT4, "E:0A000");
    // What the catalogue of a server that is away may tell.
    let unknown_so = |known, plan, type_oid, expected: &str| {
        let session = Session {
            known,
            ..Session::DEFAULT
        };
        check_in(session, plan, type_oid, expected);
    };
    let unknown = |plan, type_oid, expected: &str| {
        unknown_so(Known::NotYet, plan, type_oid, expected);
    };
    unknown(ordered(false), oid::TEXT, "E:57P03");
    unknown(ordered(false), oid::FIRST_OF_USERS, "E:57P03");
    unknown(ordered(false), oid::JSONB, "E:0A000");
    let least = grouped(&[], &[(0, Function::Least)], 0);
    unknown(least, oid::TEXT, "E:57P03");
    let sum = grouped(&[], &[(0, Function::Sum)], 0);
    unknown(sum, oid::MONEY, "E:0A000");
    // Of one that refuses.
    let refused = Known::Refused(SqlState::INSUFFICIENT_PRIVILEGE);
    unknown_so(refused, ordered(false), oid::TEXT, "E:42501");
    unknown_so(refused, ordered(false), oid::JSONB, "E:0A000");
}

#[test]
fn values_of_another_date_style_are_an_error() {
    let plan = MergePlan {
        order: vec![ascending(0)],
        ..MergePlan::concatenate()
    };
    let legs = selected(&[("a", oid::DATE)], &[&["2000-01-02"], &["01/03/2000"]]);
    assert_eq!(run(merge(plan, Slice::default(), 2), &legs), "T:a E:0A000");
}

#[test]
fn rows_out_of_order_are_an_error_and_no_wrong_result() {
    let plan = MergePlan {
        order: vec![ascending(0)],
        ..MergePlan::concatenate()
    };
    let legs = selected(&[("a", oid::TEXT)], &[&["a", "B"], &["c"]]);
    assert_eq!(
        run(merge(plan, Slice::default(), 2), &legs),
        "T:a a E:XX000"
    );
}

#[test]
fn columns_must_agree_but_for_oids_of_users_types() {
    let check = |a: (&str, u32), b: (&str, u32), expected: &str| {
        let legs = [
            vec![described(&[a]), done("SELECT 0")],
            vec![described(&[b]), done("SELECT 0")],
        ];
        assert_eq!(
            run(merge(MergePlan::concatenate(), Slice::default(), 2), &legs),
            expected
        );
    };
    check(("a", oid::INT4), ("a", oid::INT4), "T:a C:SELECT_0");
    check(("a", oid::INT4), ("a", oid::INT8), "E:42804");
    check(("a", oid::INT4), ("b", oid::INT4), "E:42804");
    check(("a", 16_400), ("a", 17_000), "T:a C:SELECT_0");
}

#[test]
fn a_leg_that_is_ahead_is_not_read_on_and_memory_is_bounded() {
    let plan = || MergePlan {
        order: vec![ascending(0)],
        ..MergePlan::concatenate()
    };
    let mut ordered = merge(plan(), Slice::default(), 2);
    let mut out = Vec::new();
    for leg in 0..2 {
        ordered.feed(leg, &described(&[("a", oid::INT4)]), &mut out);
    }
    let mut fed = 0;
    while ordered.may_read(0) {
        ordered.feed(0, &row("1"), &mut out);
        fed += 1;
        assert_eq!(ordered.pump(usize::MAX, &mut out), Progress::Reading);
    }
    assert!(fed < 100 && ordered.may_read(1));
    ordered.feed(1, &row("2"), &mut out);
    assert_eq!(
        ordered.pump(20, &mut out),
        Progress::Writing,
        "the client reads slowly"
    );
    assert_eq!(ordered.pump(usize::MAX, &mut out), Progress::Reading);
    assert!(ordered.may_read(0), "its rows are with the client");

    let mut groups = merge(grouped(&[0], &[], 0), Slice::default(), 1);
    let mut out = Vec::new();
    groups.feed(0, &described(&[("a", oid::INT4)]), &mut out);
    let mut number = 0;
    while !groups.has_failed() {
        groups.feed(0, &row(&number.to_string()), &mut out);
        number += 1;
    }
    assert!(number > 1_000);
    assert_eq!(words(&out), "T:a E:53200");
    groups.feed(0, &done("SELECT 9"), &mut out);
    assert_eq!(groups.pump(usize::MAX, &mut out), Progress::Done);
}

#[test]
fn hostile_messages_end_in_an_error() {
    let check = |messages: &[&[u8]]| {
        let plan = MergePlan {
            order: vec![ascending(0)],
            ..MergePlan::concatenate()
        };
        let mut merge = merge(plan, Slice::default(), 1);
        let mut out = Vec::new();
        for message in messages {
            merge.feed(0, message, &mut out);
            let _ = merge.pump(usize::MAX, &mut out);
        }
        assert!(merge.has_failed(), "{}", words(&out));
    };
    let described = described(&[("a", oid::INT4)]);
    check(&[b""]);
    check(&[b"D\0\0\0\x01"]);
    check(&[b"D\0\0\0\x06\0\0", b"C\0\0\0\x0dSELECT 1\0"]);
    check(&[&described, b"D\0\0\0\x06\0\x05"]);
    check(&[&described, &row("1|2")]);
    check(&[&described, &row("x")]);
    check(&[b"T\0\0\0\x06\0\x01"]);
    check(&[b"Z\0\0\0\x05I"]);
    let legs = [vec![described, done("SELECT 0")], vec![done("SELECT 0")]];
    assert_eq!(
        run(merge(MergePlan::concatenate(), Slice::default(), 2), &legs),
        "E:XX000"
    );
}
