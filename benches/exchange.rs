//! Which replies a server owes: noted for each message, checked for each reply.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group};
use pgdog::protocol::exchange::{Exchange, Fate, Owed};
use pgdog::protocol::frame::{peek, BODY_BYTES_MAX, HEADER_BYTES};
use pgdog_benches as messages;

/// One transaction, or several in one pipeline: what is noted, and what the server answers.
struct Script {
    exchange: Exchange,
    owed: Vec<Owed>,
    replies: Vec<u8>,
}

/// An exchange that has been in use, as most are.
fn script(owed: Vec<Owed>, replies: Vec<u8>) -> Script {
    let exchange = Exchange::default();
    let mut script = Script {
        exchange,
        owed,
        replies,
    };
    play(&mut script);
    script
}

fn simple(rows: usize) -> Script {
    script(vec![Owed::Results], messages::rows(rows))
}

fn prepared(times: usize) -> Script {
    let batch = [
        Owed::BindComplete,
        Owed::Description,
        Owed::Execution,
        Owed::Ready,
    ];
    script(batch.repeat(times), messages::prepared_replies(times))
}

fn play(script: &mut Script) {
    for &owed in &script.owed {
        script.exchange.sent(owed, Fate::Forward);
    }
    let mut at = 0;
    while let Ok(Some(header)) = peek(&script.replies[at..], BODY_BYTES_MAX) {
        let first = script.replies.get(at + HEADER_BYTES).copied();
        let fate = script.exchange.received(header.tag, first);
        assert_eq!(black_box(fate), Ok(Fate::Forward));
        at += header.frame_bytes();
    }
    assert!(script.exchange.at_rest());
}

#[library_benchmark]
#[bench::simple_query(simple(1))]
#[bench::rows_100(simple(100))]
#[bench::prepared_query(prepared(1))]
#[bench::pipeline_of_20(prepared(20))]
fn transaction(mut script: Script) -> Script {
    play(&mut script);
    script
}

library_benchmark_group!(name = exchanges, benchmarks = transaction);
