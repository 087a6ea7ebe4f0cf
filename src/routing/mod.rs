//! Where a statement goes: which servers may run it, and why.
//!
//! `role` says whether that may be a replica.

pub mod role;
