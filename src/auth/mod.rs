//! Logging in: clients to us ([`Login`]), we to servers ([`ServerLogin`]).
//!
//! Both are state machines over the bodies of messages. Randomness is an argument, and keys are derived by
//! the caller on a helper thread: a machine says `Derive` and is told the keys.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

pub mod cache;
pub mod certificate;
pub mod iam;
pub mod keys;
pub mod login;
pub mod looked_up;
pub mod md5;
pub mod mock;
pub mod revealed;
mod saslprep;
pub mod scram;
pub mod server_login;
pub mod verifier;

pub use cache::KeyCache;
pub use keys::{Derivation, Keys, Password};
pub use login::{Credentials, Login, LoginRequest, Method, Step};
pub use looked_up::LookedUp;
pub use mock::InstanceSecret;
pub use revealed::{ScramKeys, ServerSecret};
pub use server_login::{ServerLogin, ServerLoginRequest, ServerStep};
pub use verifier::Verifier;

use scram::NONCE_BYTES;

/// Fresh random bytes for one login: the nonce of SCRAM, the salt of `md5`. Never use one twice.
pub type Random = [u8; NONCE_BYTES];

/// Codes of Authentication messages (`R`).
///
/// Source: <https://www.postgresql.org/docs/current/protocol-message-formats.html>
mod code {
    pub(super) const OK: i32 = 0;
    pub(super) const CLEARTEXT_PASSWORD: i32 = 3;
    pub(super) const MD5_PASSWORD: i32 = 5;
    pub(super) const SASL: i32 = 10;
    pub(super) const SASL_CONTINUE: i32 = 11;
    pub(super) const SASL_FINAL: i32 = 12;
}

/// A tagged message of the parts of its body. All that are made here are short.
fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body_bytes: usize = parts.iter().map(|part| part.len()).sum();
    let length = i32::try_from(body_bytes + 4).expect("an authentication message is short");
    let mut message = Vec::with_capacity(1 + 4 + body_bytes);
    message.push(tag);
    message.extend_from_slice(&length.to_be_bytes());
    for part in parts {
        message.extend_from_slice(part);
    }
    message
}

#[cfg(test)]
mod tests;
