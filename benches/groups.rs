//! What it brings to divide groups among cores (`merge::parts`): one thread merges the rows of three legs, or two share the
//! work as two cores do. Nothing else runs: what a database on the same CPUs leaves of it, `perf/aggregate.sh` shows.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "times are what it measures and prints"
)]

use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pgdog::merge::parts::{Given, Share};
use pgdog::merge::plan::{Aggregate, Column, Function, Grouping, Slice};
use pgdog::merge::{Description, Limits, Merge, MergePlan, Progress};
use pgdog::protocol::backend::CommandComplete;
use pgdog::protocol::rows::{DataRow, Field, RowDescription};
use pgdog::types::{oid, Session};

const LEGS: usize = 3;
const ROUNDS: usize = 9;
/// Messages fed before the others are heard: some 32 KB, a buffer of a server.
const FED_AT_A_TIME: usize = 600;

/// What the client's thread tells the other one.
enum Order {
    Begin(Box<Share>),
    Rows(Vec<u8>),
    More,
}

/// What that answers.
enum Report {
    Taken,
    Groups(Vec<u8>, bool),
}

fn plan() -> MergePlan {
    let sum = |column| Aggregate {
        column: Column::FromStart(column),
        function: Function::Sum,
    };
    let (sums, count) = (Column::FromStart(2), Column::FromStart(1));
    let average = Aggregate {
        column: Column::FromStart(3),
        function: Function::Average { sum: sums, count },
    };
    MergePlan {
        grouping: Some(Box::new(Grouping {
            keys: vec![Column::FromStart(0)],
            aggregates: vec![sum(1), sum(2), average],
            computed: Vec::new(),
        })),
        ..MergePlan::concatenate()
    }
}

/// `SELECT item, count(*), sum(total), avg(total) … GROUP BY 1` of one shard.
fn reply(groups: usize) -> Vec<Vec<u8>> {
    let columns = [
        (&b"item"[..], oid::INT4),
        (b"count", oid::INT8),
        (b"sum", oid::NUMERIC),
        (b"avg", oid::NUMERIC),
    ];
    let mut messages = vec![Vec::new()];
    let fields = columns.map(|(name, type_oid)| Field {
        type_oid,
        ..Field::text(name)
    });
    RowDescription::encode(&mut messages[0], fields);
    for group in 0..groups {
        let (item, sum) = (group.to_string(), format!("{}.25", group % 1000));
        let mut message = Vec::new();
        let values = [
            item.as_bytes(),
            b"10",
            sum.as_bytes(),
            b"12.5000000000000000",
        ];
        DataRow::encode(&mut message, values.map(Some));
        messages.push(message);
    }
    let mut message = Vec::new();
    let tag = format!("SELECT {groups}");
    CommandComplete {
        tag: tag.as_bytes(),
    }
    .encode(&mut message);
    messages.push(message);
    messages
}

/// The other core.
fn help(orders: &Receiver<Order>, reports: &Sender<Report>) {
    let mut held = None;
    while let Ok(order) = orders.recv() {
        match (order, &mut held) {
            (Order::Begin(share), _) => held = Some(share),
            (Order::Rows(rows), Some(share)) => {
                share.take(&rows).unwrap();
                let _ = reports.send(Report::Taken);
            }
            (Order::More, Some(share)) => loop {
                if let Given::Groups { batch, last } = share.give().unwrap() {
                    let _ = reports.send(Report::Groups(batch, last));
                    if last {
                        held = None;
                    }
                    break;
                }
            },
            (_, None) => {}
        }
    }
}

/// Merges the same reply of three legs. `helper`: is there somebody to divide it with?
fn merge(reply: &[Vec<u8>], helper: Option<&(Sender<Order>, Receiver<Report>)>) -> Duration {
    let session = Session {
        known: pgdog::types::Known::Yes,
        text_ordered_by_bytes: true,
        text_equal_by_bytes: true,
        floats_exact: true,
    };
    let limits = Limits {
        window_bytes: 1 << 18,
        budget_bytes: 1 << 30,
    };
    let mut merge = Merge::new(
        Arc::new(plan()),
        Slice::default(),
        LEGS,
        session,
        Description::Forwarded,
        limits,
    );
    let since = Instant::now();
    let (mut out, mut given) = (Vec::new(), 0);
    let (mut next, mut divided, mut asked) = (0, false, 0);
    loop {
        let fed = next..reply.len().min(next + FED_AT_A_TIME);
        for (message, leg) in reply[fed.clone()]
            .iter()
            .flat_map(|m| (0..LEGS).map(move |leg| (m, leg)))
        {
            merge.feed(leg, message, &mut out);
        }
        next = fed.end;
        let progress = merge.pump(1 << 16, &mut out);
        given += out.len();
        out.clear();
        if progress == Progress::Done {
            break;
        }
        let Some((orders, reports)) = helper else {
            continue;
        };
        if !divided && merge.is_worth_dividing() {
            divided = true;
            for share in merge.divide(2) {
                orders.send(Order::Begin(Box::new(share))).unwrap();
            }
        }
        if !divided {
            continue;
        }
        while let Some(rows) = merge.collected(0) {
            orders.send(Order::Rows(rows)).unwrap();
        }
        while merge.is_collected(0) && merge.wants(0, asked) {
            asked += 1;
            orders.send(Order::More).unwrap();
        }
        let mut report = reports.try_recv().ok();
        if report.is_none() && progress == Progress::Reading && next == reply.len() {
            report = Some(reports.recv().unwrap());
        }
        while let Some(found) = report {
            if let Report::Groups(batch, last) = found {
                asked -= 1;
                merge.returned(0, batch, last);
            }
            report = reports.try_recv().ok();
        }
    }
    let took = since.elapsed();
    assert!(given > reply.len() * 30);
    took
}

fn main() {
    let (orders, heard) = channel();
    let (told, reports) = channel();
    let helper = (orders, reports);
    let helping = thread::spawn(move || help(&heard, &told));
    println!("groups of three legs, µs with one thread and with two, medians of {ROUNDS} rounds in turns");
    for groups in [4_000, 10_000, 20_000, 50_000, 150_000] {
        let reply = reply(groups);
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            times[0].push(merge(&reply, None));
            times[1].push(merge(&reply, Some(&helper)));
        }
        let [alone, divided] = times.map(|mut times| {
            times.sort();
            times[ROUNDS / 2].as_micros()
        });
        println!("{groups:>8} {alone:>8} {divided:>8}");
    }
    drop(helper);
    helping.join().unwrap();
}
