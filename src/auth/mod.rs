//! Logging in, both ways.

pub mod cache;
pub mod keys;
pub mod md5;
pub mod mock;
mod saslprep;
pub mod scram;
pub mod verifier;
