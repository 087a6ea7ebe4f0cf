//! PostgreSQL's frontend/backend protocol 3: bytes to messages and back.
//!
//! `frame` finds message boundaries, `frontend` and `backend` are views over a message's body and
//! encoders that append to a buffer, `startup` is what comes before the first tagged message. Views borrow
//! the received bytes; text stays bytes, because it is in the client's encoding, which need not be UTF-8.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol.html>
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod frame;

pub mod startup;
pub mod startup_options;

pub mod backend;
pub mod copy;
pub mod frontend;

pub mod authentication;
pub mod error_fields;
pub mod rows;

pub mod cancel_key;
pub mod parameters;

pub mod batch;
pub mod exchange;
pub mod sqlstate;
pub mod wire;
