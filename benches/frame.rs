//! Message boundaries: what the relay does to every byte stream.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group};
use pgdog::protocol::frame::{peek, run, Frames, BODY_BYTES_MAX};
use pgdog_benches as messages;

// Header by header, as the relay goes.
#[library_benchmark]
#[bench::simple_query(messages::simple_query())]
#[bench::extended_query(messages::extended_query())]
#[bench::rows_100(messages::rows(100))]
fn peeked(stream: Vec<u8>) -> (usize, Vec<u8>) {
    let mut at = 0;
    while let Ok(Some(header)) = peek(black_box(&stream[at..]), BODY_BYTES_MAX) {
        at += header.frame_bytes();
    }
    (at, stream)
}

// Message by message, as where bodies are read.
#[library_benchmark]
#[bench::extended_query(messages::extended_query())]
#[bench::rows_100(messages::rows(100))]
fn walked(stream: Vec<u8>) -> (usize, Vec<u8>) {
    let bytes = Frames::new(black_box(&stream), BODY_BYTES_MAX)
        .flatten()
        .map(|frame| frame.body.len())
        .sum();
    (bytes, stream)
}

// Row by row, as the relay goes over a result.
#[library_benchmark]
#[bench::rows_100(messages::rows(100))]
fn run_over(stream: Vec<u8>) -> (usize, Vec<u8>) {
    let description = peek(&stream, BODY_BYTES_MAX).unwrap().unwrap();
    let rows = &stream[description.frame_bytes()..];
    (run(b'D', black_box(rows)), stream)
}

library_benchmark_group!(name = frames, benchmarks = [peeked, walked, run_over]);
