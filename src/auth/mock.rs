//! Unknown users: salts and verifiers that look like those of known ones.
//!
//! A login as an unknown user must show nothing that a wrong password would not show. Users with plain
//! passwords and users that do not exist both get their salt here, from the same function of their name.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::keys::{Key, StoredKeys, ITERATIONS};
use super::md5::Md5Hash;
use super::verifier::ScramVerifier;

/// What salts are made from: random, and best kept across restarts and shared by the instances of one
/// deployment, since a salt that changes gives away that no stored verifier is behind it.
#[derive(Clone)]
pub struct InstanceSecret {
    mac: Hmac<Sha256>,
    /// Of whoever does not exist: nobody sees them, so they may be the same for all.
    nobody: StoredKeys,
}

impl InstanceSecret {
    /// Takes 32 random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        let mac = Hmac::new_from_slice(&random).expect("HMAC takes keys of any length");
        let nobody = StoredKeys {
            stored_key: key(&mac, "stored key", ""),
            server_key: key(&mac, "server key", ""),
        };
        Self { mac, nobody }
    }

    /// The salt of `user`, for as long as this secret lives. All passwords of a user share it, so that one
    /// proof can be checked against each of them.
    pub fn salt(&self, user: &str) -> [u8; 16] {
        let mut salt = [0; 16];
        salt.copy_from_slice(&key(&self.mac, "salt", user)[..16]);
        salt
    }

    /// A verifier with the salt of `user` that no password satisfies.
    pub fn scram(&self, user: &str) -> ScramVerifier {
        ScramVerifier {
            salt: self.salt(user).into(),
            iterations: ITERATIONS,
            keys: self.nobody.clone(),
        }
    }

    /// A hash that no password satisfies.
    pub fn md5(&self, user: &str) -> Md5Hash {
        Md5Hash::new(&key(&self.mac, "md5", user), user.as_bytes())
    }
}

fn key(mac: &Hmac<Sha256>, purpose: &str, user: &str) -> Key {
    let mac = mac.clone().chain_update(purpose).chain_update([0]);
    mac.chain_update(user).finalize().into_bytes().into()
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
        assert_ne!(secret.scram("alice").keys, other.scram("alice").keys);
        assert_ne!(secret.salt("alice"), secret.salt("bob"));
        assert_ne!(secret.salt("alice"), other.salt("alice"));
        assert_ne!(secret.md5("alice"), other.md5("alice"));
    }
}
