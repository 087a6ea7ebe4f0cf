//! What we log in to servers with: a password, or what stands for it where only a verifier is known.
//!
//! Who stores a verifier learns, from a client that proves itself by SCRAM, the one key that verifier does not hold:
//! with it the same server can be logged in to, as long as it stores the same verifier. An md5 hash is as good as
//! the password itself, to a server that asks for md5.

use std::fmt;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;

use super::keys::{sha256, Key, Keys, Password, StoredKeys};
use super::md5::Md5Hash;
use super::verifier::{decode_key, parse_iterations, ScramVerifier, SALT_BYTES_MAX};

/// What one login to a server may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerSecret {
    /// Does for every method.
    Password(Password),
    /// Does for SCRAM with this salt.
    Scram(ScramKeys),
    /// Does for md5.
    Md5(Md5Hash),
}

impl ServerSecret {
    /// Reads what [`ScramKeys::to_text`] or an md5 verifier says; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("md5") {
            Some(digits) => Md5Hash::parse(digits.as_bytes()).map(Self::Md5),
            None => ScramKeys::parse(text).map(Self::Scram),
        }
    }
}

/// Prefix of the text form. No verifier begins so.
const PREFIX: &str = "SCRAM-SHA-256-KEYS$";

/// All keys of a password that is not known itself, and what they were derived with.
#[derive(Clone)]
pub struct ScramKeys {
    pub(super) salt: Box<[u8]>,
    pub(super) iterations: u32,
    pub(super) keys: Keys,
}

impl ScramKeys {
    /// A proof against this verifier has revealed the client's key.
    pub(super) fn revealed(verifier: ScramVerifier, client_key: Key) -> Self {
        let ScramVerifier {
            salt,
            iterations,
            keys: stored,
        } = verifier;
        Self {
            salt,
            iterations,
            keys: Keys { client_key, stored },
        }
    }

    /// Do they do for a server that names this salt?
    pub(super) fn are_for(&self, salt: &[u8], iterations: u32) -> bool {
        *self.salt == *salt && self.iterations == iterations
    }

    /// A text to be kept as a secret: whoever reads it can log in.
    pub fn to_text(&self) -> String {
        format!(
            "{PREFIX}{}:{}${}:{}",
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.keys.client_key),
            BASE64.encode(self.keys.stored.server_key),
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let (cost, keys) = text.strip_prefix(PREFIX)?.split_once('$')?;
        let (iterations, salt) = cost.split_once(':')?;
        let (client_key, server_key) = keys.split_once(':')?;
        let salt = BASE64.decode(salt).ok()?;
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return None;
        }
        let client_key = decode_key(client_key.as_bytes())?;
        Some(Self {
            salt: salt.into(),
            iterations: parse_iterations(iterations.as_bytes())?,
            keys: Keys {
                client_key,
                stored: StoredKeys {
                    stored_key: sha256(&client_key),
                    server_key: decode_key(server_key.as_bytes())?,
                },
            },
        })
    }
}

impl PartialEq for ScramKeys {
    fn eq(&self, other: &Self) -> bool {
        self.are_for(&other.salt, other.iterations) && self.keys.stored == other.keys.stored
    }
}

impl Eq for ScramKeys {}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::super::verifier::Verifier;
    use super::*;

    #[test]
    fn keys_survive_their_text() {
        let keys = ScramKeys {
            salt: b"salt".as_slice().into(),
            iterations: 3,
            keys: Keys::derive(b"pencil", b"salt", 3),
        };
        let text = keys.to_text();
        let Some(ServerSecret::Scram(read)) = ServerSecret::parse(&text) else {
            panic!("{text}");
        };
        assert_eq!(read, keys);
        assert_eq!(read.keys.client_key, keys.keys.client_key);
        assert!(read.are_for(b"salt", 3) && !read.are_for(b"salt", 4));
        assert_eq!(format!("{read:?}"), "ScramKeys(..)");
        for cut in 0..text.len() {
            assert_eq!(ServerSecret::parse(&text[..cut]), None, "{}", &text[..cut]);
        }
    }

    #[test]
    fn a_verifier_alone_is_no_key() {
        let verifier = Verifier::derive(b"pencil", b"salt", 3).to_text();
        assert_eq!(ServerSecret::parse(&verifier), None);
        assert_eq!(ServerSecret::parse("pencil"), None);
        let hash = "md57474753e4b2f9e23953d5977773aabb0";
        assert_eq!(
            ServerSecret::parse(hash),
            Some(ServerSecret::Md5(Md5Hash::new(b"pencil", b"m1")))
        );
    }
}
