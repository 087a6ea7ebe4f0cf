//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both roles, without nonces or keys of their own making.
//!
//! ```text
//! client                                                  server
//!   client-first   n,,n=,r=<nonce>                    ->
//!                                                     <-  server-first  r=<nonce><nonce>,s=<salt>,i=<n>
//!   client-final   c=<binding>,r=<nonces>,p=<proof>   ->
//!                                                     <-  server-final  v=<signature>
//! ```
//!
//! Each state is a type; feeding it a message consumes it. As PostgreSQL does, the user name of the
//! client-first message is ignored (the startup message names the user) and authorization identities are
//! refused. Sources: <https://www.rfc-editor.org/rfc/rfc5802>, <https://www.rfc-editor.org/rfc/rfc7677>,
//! <https://www.postgresql.org/docs/current/sasl-authentication.html>

pub mod client;
pub mod server;

use std::fmt;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;

use super::keys::{hmac, Key};

/// Longest message read, in bytes; PostgreSQL has the same limit.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// Length in bytes of the randomness behind a nonce. In base64 it is 24 characters, none of them a comma.
pub const NONCE_BYTES: usize = 18;

/// The name of the only channel binding PostgreSQL knows, RFC 5929.
const END_POINT: &str = "tls-server-end-point";

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// `SCRAM-SHA-256`
    Sha256,
    /// `SCRAM-SHA-256-PLUS`, bound to the TLS channel.
    Sha256Plus,
}

impl Mechanism {
    /// The registered name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha256Plus => "SCRAM-SHA-256-PLUS",
        }
    }

    /// The mechanism of that name, unless it is one that we do not speak.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Sha256, Self::Sha256Plus]
            .into_iter()
            .find(|mechanism| mechanism.name().as_bytes() == name)
    }
}

/// Why an exchange ended. The text is for our log; a client hears less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramError {
    /// A message does not follow the grammar, or is longer than [`MESSAGE_BYTES_MAX`].
    Malformed,
    /// The peer insists on an extension (`m=`) or on an authorization identity (`a=`).
    Unsupported,
    /// The mechanism and the channel binding flag contradict each other.
    BindingFlag,
    /// The client was made to believe that we offer no channel binding: somebody sits in between.
    Downgrade,
    /// The peers see different TLS channels: somebody sits in between.
    Binding,
    /// The nonce is not the one of this exchange.
    Nonce,
    /// The server wants more than [`ITERATIONS_MAX`](super::keys::ITERATIONS_MAX) iterations.
    Iterations,
    /// The client does not know the password.
    Proof,
    /// The server does not know the password.
    Signature,
    /// The server ended the exchange with an error of its own.
    Rejected,
}

impl ScramError {
    /// What happened, in words that hold no secrets.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed SCRAM message",
            Self::Unsupported => "unsupported SCRAM extension",
            Self::BindingFlag => "channel binding does not fit the SASL mechanism",
            Self::Downgrade => "client believes that channel binding was not offered",
            Self::Binding => "channel binding does not match",
            Self::Nonce => "SCRAM nonce does not match",
            Self::Iterations => "SCRAM iteration count out of range",
            Self::Proof => "password does not match",
            Self::Signature => "server does not know the password",
            Self::Rejected => "server reported a SCRAM error",
        }
    }

    /// Did the peer break the protocol, rather than fail to authenticate?
    pub fn is_violation(self) -> bool {
        matches!(
            self,
            Self::Malformed | Self::Unsupported | Self::BindingFlag | Self::Nonce
        )
    }
}

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for ScramError {}

/// `name=value` pairs between commas. A value may be empty but holds no zero byte.
struct Attributes<'a> {
    /// What follows the last comma read; `None` after the last pair.
    rest: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    fn new(message: &'a [u8]) -> Self {
        Self {
            rest: Some(message),
        }
    }

    /// The next pair, `None` at the end.
    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, ScramError> {
        let Some(rest) = self.rest else {
            return Ok(None);
        };
        let pair = match split_comma(rest) {
            Some((pair, rest)) => {
                self.rest = Some(rest);
                pair
            }
            None => {
                self.rest = None;
                rest
            }
        };
        match pair {
            [name, b'=', value @ ..]
                if name.is_ascii_alphabetic() && memchr::memchr(0, value).is_none() =>
            {
                Ok(Some((*name, value)))
            }
            _ => Err(ScramError::Malformed),
        }
    }

    /// The next pair, which must have this name.
    fn expect(&mut self, name: u8) -> Result<&'a [u8], ScramError> {
        match self.next()? {
            Some((found, value)) if found == name => Ok(value),
            Some((b'm', _)) => Err(ScramError::Unsupported),
            _ => Err(ScramError::Malformed),
        }
    }

    /// Passes over extensions up to the end. Optional ones may be ignored; one that must be understood
    /// (`m=`) is allowed in front only.
    fn finish(mut self) -> Result<(), ScramError> {
        while let Some((name, _)) = self.next()? {
            if name == b'm' {
                return Err(ScramError::Unsupported);
            }
        }
        Ok(())
    }
}

/// What stands before and after the first comma.
fn split_comma(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let comma = memchr::memchr(b',', message)?;
    let (before, after) = message.split_at_checked(comma)?;
    Some((before, after.get(1..)?))
}

/// What stands before and after the last comma.
fn rsplit_comma(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let comma = memchr::memrchr(b',', message)?;
    let (before, after) = message.split_at_checked(comma)?;
    Some((before, after.get(1..)?))
}

fn check_length(message: &[u8]) -> Result<(), ScramError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramError::Malformed);
    }
    Ok(())
}

/// The value of `c=`: the header of the client-first message with, under `p=`, what identifies the channel.
fn encode_binding(gs2_header: &[u8], end_point: Option<&[u8]>) -> String {
    BASE64.encode([gs2_header, end_point.unwrap_or_default()].concat())
}

/// ClientKey to ClientProof, or back.
fn apply_signature(key: &Key, stored_key: &Key, auth_message: &[u8]) -> Key {
    let mut result = hmac(stored_key, auth_message);
    for (byte, key) in result.iter_mut().zip(key) {
        *byte ^= key;
    }
    result
}

/// Feeds hostile bytes to every state of both roles. The first byte picks the exchange's flavour.
#[cfg(any(test, fuzzing))]
pub fn fuzz_scram(data: &[u8]) {
    use super::keys::Keys;

    let (flavour, message) = data.split_first().unwrap_or((&0, &[]));
    let end_point: Option<&[u8]> = (flavour & 1 == 1).then_some(b"certificate");
    let mechanism = if flavour & 2 == 2 {
        Mechanism::Sha256Plus
    } else {
        Mechanism::Sha256
    };
    let keys = Keys::derive(b"pencil", b"salt", 1);
    let nonce = [*flavour; NONCE_BYTES];

    let _ = server::client_first(mechanism, end_point, message, &nonce, b"salt", 1);
    let (client, first) = client::client_first(client::Binding::Unsupported, &nonce);
    let (server, challenge) =
        server::client_first(Mechanism::Sha256, None, &first, &nonce, b"salt", 1)
            .expect("our own message is well-formed");
    if let Ok(proof) = server.client_final(message) {
        let _ = proof.check(std::slice::from_ref(&keys.stored));
    }
    let _ = client.server_first(message);
    let (client, _) = client::client_first(client::Binding::Unsupported, &nonce);
    let challenge = client
        .server_first(&challenge)
        .expect("our own message is well-formed");
    let (client, _) = challenge.answer(&keys);
    let verified = client.server_final(message);
    assert!(verified.is_err(), "nobody guesses a signature");
}

#[cfg(test)]
mod tests;
