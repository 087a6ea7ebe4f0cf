//! Tests that need neither a ring nor a server: one binary, one module per subject.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[path = "pure/documents.rs"]
mod documents;
#[path = "sim/mod.rs"]
mod sim;
#[path = "pure/transcripts.rs"]
mod transcripts;
