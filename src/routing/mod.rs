//! Where a statement goes: which servers may run it, and why; what it takes to commit on several.
//!
//! `role` says whether that may be a replica. `two_phase` commits on all shards or on none.

pub mod role;
pub mod two_phase;
