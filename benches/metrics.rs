//! What counting and timing a transaction adds to it.

use std::time::{Duration, Instant};

use gungraun::{library_benchmark, library_benchmark_group};
use pgdog::metrics::{ClientMeter, Latencies, Phase, RequestKind, ServerMeter};
use pgdog::protocol::backend::TransactionStatus;

/// The meters of a client and a server that have been in use, and the time.
struct Meters {
    client: ClientMeter,
    server: ServerMeter,
    latencies: Latencies,
    now: Instant,
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn meters() -> Box<Meters> {
    let now = Instant::now();
    let mut meters = Box::new(Meters {
        client: ClientMeter::new(now),
        server: ServerMeter::new(now),
        latencies: Latencies::default(),
        now,
    });
    play(&mut meters);
    meters
}

/// All that one statement outside of a transaction block is measured by.
fn play(meters: &mut Meters) {
    let Meters {
        client,
        server,
        latencies,
        now,
    } = meters;
    server.assigned(0, RequestKind::Other);
    client.assigned(0);
    latencies.record(Phase::CheckoutWait, 0);
    server.begin(*now, TransactionStatus::Idle);
    client.begin(*now);
    server.passed(0, 30);
    *now += Duration::from_micros(90);
    server.passed(60, 0);
    for tag in *b"TDCZ" {
        server.received(tag);
    }
    server.completed(b"SELECT 1");
    let answered = server.answered(*now, TransactionStatus::Idle, false);
    latencies.record(Phase::ServerQuery, answered.query_time);
    latencies.record(
        Phase::Transaction,
        answered.transaction_time.unwrap_or_default(),
    );
    latencies.record(Phase::QueryOther, client.answered(answered));
    client.passed(30, 60);
}

#[library_benchmark]
#[bench::statement(meters())]
fn measured(mut meters: Box<Meters>) -> Box<Meters> {
    play(&mut meters);
    meters
}

library_benchmark_group!(name = meters_of, benchmarks = measured);
