//! PostgreSQL's partition hash, bit for bit, and SHA-1.
//!
//! `PARTITION BY HASH` hashes a key with the extended hash function of its type and a fixed seed, combines that with
//! the (here: empty) hash of the columns before it, and takes the remainder by the number of partitions. The byte hash is
//! Bob Jenkins' lookup3 of 2006, on a little-endian machine.
//!
//! Source: <https://www.postgresql.org/docs/current/functions-info.html> (`satisfies_hash_partition`, with which
//! `tests/proxy/partition_hash.rs` compares it) and <https://burtleburtle.net/bob/c/lookup3.c>

use sha1::{Digest, Sha1};

use super::key::Key;

/// Which hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hasher {
    /// That of `PARTITION BY HASH`.
    Postgres,
    /// The last four bytes of the SHA-1 of a text, as a big-endian number. Defined for texts only: which bytes of an
    /// integer or of a UUID PgDog digests is not documented.
    ///
    /// Source: <https://github.com/pgdogdev/pgdog/pull/1239>, its description.
    Sha1,
}

/// `HASH_PARTITION_SEED` of PostgreSQL.
const PARTITION_SEED: u64 = 0x7A5B_2236_7996_DCFD;
/// What combining with an empty hash adds: the constant of `hash_combine64`.
const COMBINE: u64 = 0x49A0_F4DD_15E5_A8E3;

impl Hasher {
    /// The shard of a key, of so many. NULL is on shard 0, as `PARTITION BY HASH` has it; `None` for vectors, which
    /// have no hash.
    pub fn shard(self, key: &Key<'_>, shards: u32) -> Option<u32> {
        let hash = match (self, key) {
            (_, Key::Null) => 0,
            (Self::Postgres, Key::Integer(value)) => partition_hash(integer(*value)),
            (Self::Postgres, Key::Uuid(bytes)) => partition_hash(bytes_hash(bytes)),
            (Self::Postgres, Key::Text(text)) => partition_hash(bytes_hash(text)),
            (Self::Sha1, Key::Text(text)) => sha1_tail(text),
            (Self::Sha1, Key::Integer(_) | Key::Uuid(_)) | (_, Key::Vector(_)) => return None,
        };
        let shard = hash.checked_rem(u64::from(shards))?;
        u32::try_from(shard).ok()
    }
}

/// The remainder of this by the modulus is what `PARTITION BY HASH` compares.
fn partition_hash(hash: u64) -> u64 {
    hash.wrapping_add(COMBINE)
}

/// `hashint8extended`; the hashes of smaller integers are the same.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "both halves of the integer are used"
)]
fn integer(value: i64) -> u64 {
    let (low, high) = (value as u32, (value >> 32) as u32);
    let folded = low ^ if value >= 0 { high } else { !high };
    let mut state = State::seeded(4);
    state.a = state.a.wrapping_add(folded);
    state.finish()
}

/// `hash_any_extended`.
fn bytes_hash(bytes: &[u8]) -> u64 {
    let mut state = State::seeded(bytes.len());
    let mut blocks = bytes.chunks_exact(12);
    for block in &mut blocks {
        state.add(word(block, 0), word(block, 4), word(block, 8));
        state.mix();
    }
    // The lowest byte of the third word is left to the length.
    let rest = blocks.remainder();
    let third = word(rest, 8) << 8;
    state.add(word(rest, 0), word(rest, 4), third);
    state.finish()
}

/// Four bytes as a little-endian number; those that are not there are zero.
fn word(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..).unwrap_or_default();
    if let Some(whole) = part.first_chunk() {
        return u32::from_le_bytes(*whole);
    }
    part.iter()
        .rev()
        .fold(0, |word, byte| (word << 8) | u32::from(*byte))
}

/// The three words of the hash.
struct State {
    a: u32,
    b: u32,
    c: u32,
}

impl State {
    /// For a key of so many bytes, with the partition seed in it.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "halves of the seed; PostgreSQL takes the length as 32 bits, no value is longer"
    )]
    fn seeded(length: usize) -> Self {
        let start = 0x9E37_79B9_u32
            .wrapping_add(length as u32)
            .wrapping_add(3_923_095);
        let mut state = Self {
            a: start.wrapping_add((PARTITION_SEED >> 32) as u32),
            b: start.wrapping_add(PARTITION_SEED as u32),
            c: start,
        };
        state.mix();
        state
    }

    fn add(&mut self, a: u32, b: u32, c: u32) {
        self.a = self.a.wrapping_add(a);
        self.b = self.b.wrapping_add(b);
        self.c = self.c.wrapping_add(c);
    }

    fn mix(&mut self) {
        let Self { a, b, c } = self;
        /// One of six steps: subtract, xor the rotated, add the third.
        fn step(x: &mut u32, y: &mut u32, z: u32, rotation: u32) {
            *x = x.wrapping_sub(*y) ^ y.rotate_left(rotation);
            *y = y.wrapping_add(z);
        }
        step(a, c, *b, 4);
        step(b, a, *c, 6);
        step(c, b, *a, 8);
        step(a, c, *b, 16);
        step(b, a, *c, 19);
        step(c, b, *a, 4);
    }

    fn finish(self) -> u64 {
        let Self {
            mut a,
            mut b,
            mut c,
        } = self;
        fn step(x: &mut u32, y: u32, rotation: u32) {
            *x = (*x ^ y).wrapping_sub(y.rotate_left(rotation));
        }
        step(&mut c, b, 14);
        step(&mut a, c, 11);
        step(&mut b, a, 25);
        step(&mut c, b, 16);
        step(&mut a, c, 4);
        step(&mut b, a, 14);
        step(&mut c, b, 24);
        (u64::from(b) << 32) | u64::from(c)
    }
}

fn sha1_tail(text: &[u8]) -> u64 {
    let digest: [u8; 20] = Sha1::digest(text).into();
    let tail = digest.last_chunk().copied().unwrap_or_default();
    u64::from(u32::from_be_bytes(tail))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn text(text: &str) -> Key<'_> {
        Key::Text(Cow::Borrowed(text.as_bytes()))
    }

    #[test]
    fn sha1_of_a_text() {
        // printf 'abc' | sha1sum ends in 9cd0d89d, of '' in afd80709.
        assert_eq!(sha1_tail(b"abc"), 0x9cd0_d89d);
        assert_eq!(sha1_tail(b""), 0xafd8_0709);
        let shard = Hasher::Sha1.shard(&text("abc"), 7);
        assert_eq!(shard, Some(0x9cd0_d89d % 7));
        assert_eq!(Hasher::Sha1.shard(&Key::Integer(1), 7), None);
    }

    #[test]
    fn null_is_on_the_first_shard_and_nothing_on_none() {
        assert_eq!(Hasher::Postgres.shard(&Key::Null, 5), Some(0));
        assert_eq!(Hasher::Postgres.shard(&Key::Integer(1), 0), None);
    }
}
