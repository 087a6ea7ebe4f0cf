//! PostgreSQL's frontend/backend protocol 3: bytes to messages and back.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol.html>

pub mod exchange;
pub mod sqlstate;
