//! Typical messages for the benches: what pgbench sends and is answered.

use pgdog::protocol::backend::{self, CommandComplete, TransactionStatus};
use pgdog::protocol::frontend::{Bind, Execute, Parse, Query, Target, SYNC};
use pgdog::protocol::rows::{DataRow, Field, RowDescription};

pub mod sharded;

/// The point query of pgbench, as it prepares it.
pub const SELECT: &[u8] = b"SELECT abalance FROM pgbench_accounts WHERE aid = $1";

/// The same with a literal.
pub const SELECT_LITERAL: &[u8] = b"SELECT abalance FROM pgbench_accounts WHERE aid = 4711;";

/// One `Query` of the point query.
pub fn simple_query() -> Vec<u8> {
    let mut out = Vec::new();
    Query {
        text: SELECT_LITERAL,
    }
    .encode(&mut out);
    out
}

/// Bind, Describe, Execute and Sync of a named statement, so many times.
pub fn prepared_query(times: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..times {
        Bind::encode(&mut out, b"", b"P_0", [], [Some(&b"4711"[..])], []);
        Target::Portal(b"").encode_describe(&mut out);
        Execute {
            portal: b"",
            rows_max: 0,
        }
        .encode(&mut out);
        out.extend(SYNC);
    }
    out
}

/// As [`prepared_query`], with a Parse ahead.
pub fn extended_query() -> Vec<u8> {
    let mut out = Vec::new();
    Parse::encode(&mut out, b"", SELECT, []);
    out.extend(prepared_query(1));
    out
}

/// The answer to a `Query`: so many rows of three columns and 100 bytes.
pub fn rows(count: usize) -> Vec<u8> {
    let mut out = Vec::new();
    RowDescription::encode(
        &mut out,
        [&b"aid"[..], b"abalance", b"filler"].map(Field::text),
    );
    for _ in 0..count {
        let values = [&b"4711"[..], b"-12345", &[b'x'; 73]];
        DataRow::encode(&mut out, values.map(Some));
    }
    complete(&mut out);
    out
}

/// The answer to one [`prepared_query`], so many times.
pub fn prepared_replies(times: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..times {
        out.extend(backend::BIND_COMPLETE);
        RowDescription::encode(&mut out, [Field::text(b"abalance")]);
        DataRow::encode(&mut out, [Some(&b"-12345"[..])]);
        complete(&mut out);
    }
    out
}

fn complete(out: &mut Vec<u8>) {
    CommandComplete { tag: b"SELECT 1" }.encode(out);
    out.extend(backend::ready_for_query(TransactionStatus::Idle));
}
