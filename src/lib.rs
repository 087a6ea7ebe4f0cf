//! pgdog: a PostgreSQL connection pooler, load balancer and sharder.
//!
//! Every decision (what these bytes mean, may this connection be reused, who waits) is made by plain
//! functions and state machines in the modules below, which never touch a socket, a clock or a thread.
//! `proxy` and `control`, compiled with the feature `runtime`, join them to the sockets of `cores`.
//! `ARCHITECTURE.md` is the map.

pub mod error;

pub mod protocol;
pub mod types;

pub mod sharding;

pub mod config;

pub mod admin;
pub mod auth;
pub mod balance;
pub mod catalogue;
pub mod merge;
pub mod metrics;
pub mod orders;
pub mod pool;
pub mod prepared;
pub mod routing;
pub mod session;
pub mod snapshot;
pub mod spread;
pub mod sql;

#[cfg(feature = "runtime")]
pub mod control;
#[cfg(feature = "runtime")]
pub mod proxy;
