//! Where a statement goes: which servers may run it, and why.
//!
//! `role` says whether that may be a replica, `verdict` what it asks of several shards, `transaction` what servers hear
//! that join one, `two_phase` how several commit together.

pub mod role;
pub mod transaction;
pub mod two_phase;
pub mod verdict;
