//! What routing takes in time, beside the parser alone: medians of runs that take turns. The counts of instructions
//! (`main.rs`) are what is compared; these say what they mean on a machine.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "times are what it measures and prints"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use pgdog::sql::lexer::Dialect;
use pgdog_benches::sharded::{cold, Sharded, OTHER_LITERAL, REPORT};

const ROUNDS: usize = 101;
const TIMES: u32 = 200;

type Work = Box<dyn FnMut()>;

fn miss(text: &'static [u8]) -> Work {
    let mut cache = cold();
    Box::new(move || {
        black_box(cache.analyse(black_box(text), Dialect::default()));
    })
}

fn parse(text: &'static [u8]) -> Work {
    let text = std::str::from_utf8(text).unwrap();
    Box::new(move || {
        black_box(pg_query::parse(black_box(text), pg_query::ParserOptions::DEFAULT).is_ok());
    })
}

fn main() {
    let mut sharded = Sharded::warm();
    let mut works: Vec<(&str, Work)> = vec![
        (
            "point query, routed from the cache, another literal",
            Box::new(move || assert!(sharded.is_routed_to_one(black_box(OTHER_LITERAL)))),
        ),
        ("point query, analysed anew", miss(OTHER_LITERAL)),
        ("point query, pg_query::parse", parse(OTHER_LITERAL)),
        ("report, analysed anew", miss(REPORT)),
        ("report, pg_query::parse", parse(REPORT)),
    ];
    // Only those whose names contain this: for a profiler.
    if let Some(only) = std::env::args()
        .nth(1)
        .filter(|only| !only.starts_with('-'))
    {
        works.retain(|(name, _)| name.contains(&only));
    }
    let mut times = vec![Vec::new(); works.len()];
    for _ in 0..ROUNDS {
        for ((_, work), times) in works.iter_mut().zip(&mut times) {
            let since = Instant::now();
            (0..TIMES).for_each(|_| work());
            times.push(since.elapsed() / TIMES);
        }
    }
    for ((name, _), times) in works.iter().zip(&mut times) {
        times.sort();
        let median: Duration = times[ROUNDS / 2];
        println!("{name:52} {:>7} ns", median.as_nanos());
    }
}
