//! Thread-per-core runtime: one pinned glommio executor per CPU, one io_uring ring of sockets under each.
//!
//! It has never heard of PostgreSQL.

pub mod blocking;
pub mod gate;
pub mod limits;
pub mod log;
pub mod placement;
pub mod preflight;
pub mod signal;
