//! How many instructions the pure code takes, by callgrind: the same on every run, so that 3% more is a finding.
//!
//! `make bench` compares with `instructions.toml`; `make bench BLESS=1` renews it. Time between cores is in
//! `cores/benches`, the whole proxy in `perf/`.
#![allow(
    missing_docs,
    unused_qualifications,
    reason = "what gungraun's macros make is not documented, and spelt out"
)]
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod auth;
mod exchange;
mod frame;
mod merge;
mod metrics;
mod pool;
mod prepared;
mod route;
mod session;

use auth::logins;
use exchange::exchanges;
use frame::frames;
use merge::merges;
use metrics::meters_of;
use pool::pools;
use prepared::statements;
use route::routes;
use session::sessions;

gungraun::main!(
    library_benchmark_groups = frames,
    exchanges,
    sessions,
    statements,
    routes,
    merges,
    pools,
    logins,
    meters_of
);
