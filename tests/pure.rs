//! Tests that need no ring and no server: one binary, one module per subject.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[path = "pure/transcripts.rs"]
mod transcripts;
