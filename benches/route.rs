//! What a statement is: found by its shape, or parsed; may a replica run it, and which shard has its rows.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group};
use pgdog::routing::role::{readable, Catalogue};
use pgdog::sql::cache::Cache;
use pgdog::sql::lexer::Dialect;
use pgdog_benches::sharded::{cold, known, warm, Sharded, OTHER_LITERAL, REPORT};

#[library_benchmark]
#[bench::hit_point_query(warm(), OTHER_LITERAL)]
#[bench::hit_report(warm(), REPORT)]
#[bench::like_point_query(known(), OTHER_LITERAL)]
#[bench::like_report(known(), REPORT)]
#[bench::miss_point_query(cold(), OTHER_LITERAL)]
#[bench::miss_report(cold(), REPORT)]
fn analysed(mut cache: Cache, text: &[u8]) -> Cache {
    let analysed = cache.analyse(black_box(text), Dialect::default());
    black_box(readable(&analysed.analysis, &Catalogue::default()).is_ok());
    cache
}

// What the parser takes alone, its tree decoded: the measure of a miss.
#[library_benchmark]
#[bench::point_query(cold(), OTHER_LITERAL)]
#[bench::report(cold(), REPORT)]
fn parsed(cache: Cache, text: &[u8]) -> Cache {
    let text = std::str::from_utf8(black_box(text)).unwrap();
    black_box(pg_query::parse(text, pg_query::ParserOptions::DEFAULT).is_ok());
    cache
}

#[library_benchmark]
#[bench::point_query(Sharded::warm())]
fn routed(mut sharded: Sharded) -> Sharded {
    assert!(sharded.is_routed_to_one(black_box(OTHER_LITERAL)));
    sharded
}

library_benchmark_group!(name = routes, benchmarks = [analysed, parsed, routed]);
