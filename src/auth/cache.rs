//! Derived keys, remembered: a login costs a few HMACs instead of milliseconds.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::keys::{Derivation, Key, Keys, Origin};

/// Keys by password, salt and iterations; the least recently used goes first.
///
/// Passwords themselves are not kept, only a digest of the [`Derivation`]. Keys of [`Origin::Typed`] are
/// never kept: a client could push out everybody else's by trying passwords.
#[derive(Debug)]
pub struct KeyCache {
    entries: HashMap<Key, Entry>,
    entries_max: usize,
    /// Counts uses; an entry remembers its last.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    keys: Keys,
    used: u64,
}

impl KeyCache {
    /// Holds at most `entries_max` keys of about 150 bytes each. With 0 it remembers nothing.
    pub fn new(entries_max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            entries_max,
            uses: 0,
        }
    }

    /// The result of this derivation, if it is known.
    pub fn get(&mut self, derivation: &Derivation) -> Option<Keys> {
        self.uses += 1;
        let entry = self.entries.get_mut(&digest(derivation))?;
        entry.used = self.uses;
        Some(entry.keys.clone())
    }

    /// Remembers a result. At the limit the entry longest unused makes room: a walk over all entries,
    /// cheap beside the derivation that has just been made.
    pub fn insert(&mut self, derivation: &Derivation, keys: Keys) {
        if derivation.origin == Origin::Typed || self.entries_max == 0 {
            return;
        }
        let digest = digest(derivation);
        if self.entries.len() >= self.entries_max && !self.entries.contains_key(&digest) {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                self.entries.remove(&oldest);
            }
        }
        self.uses += 1;
        let used = self.uses;
        self.entries.insert(digest, Entry { keys, used });
    }

    /// How many are held, `0..=entries_max`.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is none held?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Names a derivation. The salt's length goes first, so that no two derivations read the same.
fn digest(derivation: &Derivation) -> Key {
    Sha256::new()
        .chain_update(derivation.iterations.to_be_bytes())
        .chain_update(derivation.salt.len().to_be_bytes())
        .chain_update(&derivation.salt)
        .chain_update(derivation.password.as_bytes())
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::super::keys::Password;
    use super::*;

    fn derivation(password: &str, salt: &str, iterations: u32) -> Derivation {
        Derivation {
            password: Password::new(password),
            salt: salt.as_bytes().into(),
            iterations,
            origin: Origin::Configured,
        }
    }

    #[test]
    fn finds_only_the_same_derivation() {
        let mut cache = KeyCache::new(8);
        let known = derivation("pencil", "salt", 2);
        assert!(cache.get(&known).is_none());
        cache.insert(&known, known.run());
        assert_eq!(cache.get(&known).unwrap().stored(), known.run().stored());
        for other in [
            derivation("Pencil", "salt", 2),
            derivation("pencil", "Salt", 2),
            derivation("pencil", "salt", 3),
            derivation("tpencil", "sal", 2),
        ] {
            assert!(cache.get(&other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let mut cache = KeyCache::new(2);
        let [a, b, c] = ["a", "b", "c"].map(|password| derivation(password, "salt", 1));
        cache.insert(&a, a.run());
        cache.insert(&b, b.run());
        cache.insert(&b, b.run());
        assert!(
            cache.get(&a).is_some(),
            "inserting b twice pushes nothing out"
        );
        cache.insert(&c, c.run());
        assert_eq!(cache.len(), 2);
        assert!(cache.get(&b).is_none());
        assert!(cache.get(&a).is_some() && cache.get(&c).is_some());
    }

    #[test]
    fn typed_passwords_are_not_kept() {
        let mut cache = KeyCache::new(2);
        let typed = Derivation {
            origin: Origin::Typed,
            ..derivation("guess", "salt", 1)
        };
        cache.insert(&typed, typed.run());
        assert!(cache.is_empty());
        let mut none = KeyCache::new(0);
        let known = derivation("pencil", "salt", 1);
        none.insert(&known, known.run());
        assert!(none.is_empty());
    }
}
