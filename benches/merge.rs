//! Replies of three shards made one: passed on, put in order, grouped. And which shard has a key.

use std::hint::black_box;
use std::sync::Arc;

use gungraun::{library_benchmark, library_benchmark_group};
use pgdog::merge::plan::{Aggregate, Column, Function, Grouping, OrderKey, Slice};
use pgdog::merge::{Description, Limits, Merge, MergePlan, Progress};
use pgdog::protocol::backend::CommandComplete;
use pgdog::protocol::rows::{DataRow, Field, RowDescription};
use pgdog::sharding::hash::Hasher;
use pgdog::sharding::Key;
use pgdog::types::{oid, Session};

const LEGS: usize = 3;
const ROWS: usize = 100;

/// What one shard answers: description, rows of a number and a text, tag.
fn reply(leg: usize) -> Vec<Vec<u8>> {
    let mut messages = vec![Vec::new()];
    let field = |name, type_oid| Field {
        type_oid,
        ..Field::text(name)
    };
    RowDescription::encode(
        &mut messages[0],
        [field(b"id", oid::INT8), field(b"name", oid::TEXT)],
    );
    for row in 0..ROWS {
        let id = (row * LEGS + leg).to_string();
        let mut message = Vec::new();
        DataRow::encode(
            &mut message,
            [Some(id.as_bytes()), Some(b"somebody or other".as_slice())],
        );
        messages.push(message);
    }
    let mut message = Vec::new();
    let tag = format!("SELECT {ROWS}");
    CommandComplete {
        tag: tag.as_bytes(),
    }
    .encode(&mut message);
    messages.push(message);
    messages
}

/// A merge, the replies for it, and room for what the client gets.
fn ready(plan: MergePlan) -> (Merge, Vec<Vec<Vec<u8>>>, Vec<u8>) {
    let merge = Merge::new(
        Arc::new(plan),
        Slice::default(),
        LEGS,
        Session {
            known: pgdog::types::Known::Yes,
            text_ordered_by_bytes: true,
            text_equal_by_bytes: true,
            floats_exact: true,
        },
        Description::Forwarded,
        Limits {
            window_bytes: 1 << 16,
            budget_bytes: 1 << 20,
        },
    );
    let legs = (0..LEGS).map(reply).collect();
    (merge, legs, Vec::with_capacity(1 << 16))
}

fn ordered() -> MergePlan {
    MergePlan {
        order: vec![OrderKey {
            column: Column::FromStart(0),
            descending: false,
            nulls_first: false,
            by_bytes: false,
        }],
        ..MergePlan::concatenate()
    }
}

/// `SELECT sum(id), name … GROUP BY name`
fn grouped() -> MergePlan {
    MergePlan {
        grouping: Some(Box::new(Grouping {
            keys: vec![Column::FromStart(1)],
            aggregates: vec![Aggregate {
                column: Column::FromStart(0),
                function: Function::Sum,
            }],
            computed: Vec::new(),
        })),
        ..MergePlan::concatenate()
    }
}

// 3 times 100 rows, message by message.
#[library_benchmark]
#[bench::passed_on(ready(MergePlan::concatenate()))]
#[bench::in_order(ready(ordered()))]
#[bench::in_groups(ready(grouped()))]
fn merged(
    (mut merge, legs, mut out): (Merge, Vec<Vec<Vec<u8>>>, Vec<u8>),
) -> (Merge, Vec<Vec<Vec<u8>>>, Vec<u8>) {
    let mut progress = Progress::Reading;
    for turn in 0..ROWS + 2 {
        for (leg, messages) in legs.iter().enumerate() {
            merge.feed(leg, black_box(&messages[turn]), &mut out);
            progress = merge.pump(usize::MAX, &mut out);
        }
    }
    assert!(progress == Progress::Done && !merge.has_failed());
    (merge, legs, out)
}

#[library_benchmark]
#[bench::bigint(Key::Integer(4_711))]
#[bench::uuid(Key::Uuid(*b"0123456789abcdef"))]
#[bench::text_of_24_bytes(Key::Text(b"customer-000000000004711".as_slice().into()))]
fn hashed(key: Key<'static>) -> Option<u32> {
    Hasher::Postgres.shard(black_box(&key), 3)
}

library_benchmark_group!(name = merges, benchmarks = [merged, hashed]);
