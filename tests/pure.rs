//! Tests that need neither a ring nor a server.

#[path = "sim/mod.rs"]
mod sim;
