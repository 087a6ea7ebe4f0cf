//! Unknown users: salts and verifiers that look like those of known ones.
//!
//! A login as an unknown user must show nothing that a wrong password would not show. Users with plain
//! passwords and users that do not exist both get their salt here, from the same function of their name.

use std::fmt;

use super::keys::{hmac, Key, StoredKeys, ITERATIONS};
use super::md5::Md5Hash;
use super::verifier::ScramVerifier;

/// What salts are made from: random, and best kept across restarts and shared by the instances of one
/// deployment, since a salt that changes gives away that no stored verifier is behind it.
#[derive(Clone)]
pub struct InstanceSecret([u8; 32]);

impl InstanceSecret {
    /// Takes 32 random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The salt of `user`, for as long as this secret lives. All passwords of a user share it, so that one
    /// proof can be checked against each of them.
    pub fn salt(&self, user: &str) -> [u8; 16] {
        let mut salt = [0; 16];
        salt.copy_from_slice(&self.key("salt", user)[..16]);
        salt
    }

    /// A verifier with the salt of `user` that no password satisfies.
    pub fn scram(&self, user: &str) -> ScramVerifier {
        ScramVerifier {
            salt: self.salt(user).into(),
            iterations: ITERATIONS,
            keys: StoredKeys {
                stored_key: self.key("stored key", user),
                server_key: self.key("server key", user),
            },
        }
    }

    /// A hash that no password satisfies.
    pub fn md5(&self, user: &str) -> Md5Hash {
        Md5Hash::new(&self.key("md5", user), user.as_bytes())
    }

    fn key(&self, purpose: &str, user: &str) -> Key {
        hmac(&self.0, format!("{purpose}\0{user}").as_bytes())
    }
}

impl fmt::Debug for InstanceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InstanceSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_gives_the_same_answer() {
        let secret = InstanceSecret::new([7; 32]);
        let again = InstanceSecret::new([7; 32]);
        let other = InstanceSecret::new([8; 32]);
        assert_eq!(secret.scram("alice"), again.scram("alice"));
        assert_eq!(secret.md5("alice"), again.md5("alice"));
        assert_eq!(&*secret.scram("alice").salt, &secret.salt("alice"));
        assert_ne!(secret.scram("alice").keys, secret.scram("bob").keys);
        assert_ne!(secret.salt("alice"), secret.salt("bob"));
        assert_ne!(secret.salt("alice"), other.salt("alice"));
        assert_ne!(secret.md5("alice"), other.md5("alice"));
    }
}
