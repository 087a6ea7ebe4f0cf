//! SCRAM-SHA-256 keys and the costly step that makes them from a password.
//!
//! ```text
//! SaltedPassword = PBKDF2(SASLprep(password), salt, iterations)
//! ClientKey      = HMAC(SaltedPassword, "Client Key")     who has it can log in as the client
//! StoredKey      = SHA256(ClientKey)                      checks a client's proof
//! ServerKey      = HMAC(SaltedPassword, "Server Key")     who has it can pose as the server
//! ```
//!
//! Source: <https://www.rfc-editor.org/rfc/rfc5802#section-3>

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::saslprep::saslprep;

/// Iterations of verifiers made here: PostgreSQL's default `scram_iterations`.
pub const ITERATIONS: u32 = 4096;

/// Most iterations accepted, from a server or in a stored verifier.
///
/// A derivation of this length takes seconds of a helper thread; without a limit a hostile server could
/// ask for hours.
pub const ITERATIONS_MAX: u32 = 10_000_000;

/// Length in bytes of every SCRAM-SHA-256 key, signature and proof.
pub const KEY_BYTES: usize = 32;

/// One key, signature or proof.
pub(super) type Key = [u8; KEY_BYTES];

/// A password as configured or as typed by a client. Any bytes; cheap to clone, never printed.
#[derive(Clone)]
pub struct Password(Arc<[u8]>);

impl Password {
    /// Takes the bytes as they are; `SASLprep` is applied when keys are derived.
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        Self(bytes.as_ref().into())
    }

    /// The bytes, to be sent to a server or hashed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// PostgreSQL never accepts an empty password, and neither do we.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is it the same password? Takes as long for every `other` of the same length; digests are compared,
    /// so that not even the length of ours shows.
    pub fn matches(&self, other: &[u8]) -> bool {
        Sha256::digest(&self.0).ct_eq(&Sha256::digest(other)).into()
    }
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Password {}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Where a password to be derived comes from. Decides whether its keys are worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration: as few as there are users.
    Configured,
    /// A client typed it: as many as an attacker likes, so their keys are never cached.
    Typed,
}

/// Keys that somebody has to compute: milliseconds of work, to be done on a helper thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation {
    /// The password, before `SASLprep`.
    pub password: Password,
    /// The salt, as bytes.
    pub salt: Box<[u8]>,
    /// How often the hash is repeated, `1..=ITERATIONS_MAX`.
    pub iterations: u32,
    /// Who named the password.
    pub origin: Origin,
}

impl Derivation {
    /// Does the work: about a millisecond for every few thousand iterations. Never call it on a core.
    pub fn run(&self) -> Keys {
        Keys::derive(self.password.as_bytes(), &self.salt, self.iterations)
    }
}

/// All keys of one password, salt and iteration count.
#[derive(Clone)]
pub struct Keys {
    pub(super) client_key: Key,
    pub(super) stored: StoredKeys,
}

impl Keys {
    /// Derives them; the cost grows with `iterations`, so cores leave this to [`Derivation::run`] elsewhere.
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let mut salted_password = Key::default();
        pbkdf2::pbkdf2_hmac::<Sha256>(&saslprep(password), salt, iterations, &mut salted_password);
        let client_key = hmac(&salted_password, b"Client Key");
        Self {
            client_key,
            stored: StoredKeys {
                stored_key: sha256(&client_key),
                server_key: hmac(&salted_password, b"Server Key"),
            },
        }
    }

    /// The half that a verifier stores.
    pub fn stored(&self) -> &StoredKeys {
        &self.stored
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// The keys a server needs to check a client and to prove itself; they do not allow to log in elsewhere.
#[derive(Clone)]
pub struct StoredKeys {
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

impl PartialEq for StoredKeys {
    fn eq(&self, other: &Self) -> bool {
        (self.stored_key.ct_eq(&other.stored_key) & self.server_key.ct_eq(&other.server_key)).into()
    }
}

impl Eq for StoredKeys {}

impl fmt::Debug for StoredKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredKeys(..)")
    }
}

/// HMAC-SHA-256.
pub(super) fn hmac(key: &[u8], message: &[u8]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// SHA-256.
pub(super) fn sha256(message: &[u8]) -> Key {
    Sha256::digest(message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let derivation = Derivation {
            password: Password::new("pencil"),
            salt: Box::from(*b"salt"),
            iterations: 1,
            origin: Origin::Configured,
        };
        let keys = derivation.run();
        let printed = format!("{derivation:?} {keys:?} {:?}", keys.stored());
        assert!(printed.contains("Password(..)"), "{printed}");
        assert!(printed.contains("Keys(..) StoredKeys(..)"), "{printed}");
        assert!(!printed.contains("pencil"), "{printed}");
        assert!(
            !printed.contains("112"),
            "the first byte of pencil: {printed}"
        );
    }

    #[test]
    fn passwords_match_only_themselves() {
        let password = Password::new("pencil");
        assert!(password.matches(b"pencil"));
        for other in ["", "penci", "pencil ", "Pencil"] {
            assert!(!password.matches(other.as_bytes()), "{other:?}");
        }
    }
}
