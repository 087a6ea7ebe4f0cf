//! PostgreSQL's `md5` method: `md5(md5(password + user) + salt)`, asked and answered.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

use std::fmt;

use ::md5::{Digest, Md5};
use subtle::ConstantTimeEq;

/// `md5(password + user)` as 32 lower-case hexadecimal digits, which is all that the method ever needs:
/// who has it can log in.
#[derive(Clone)]
pub struct Md5Hash([u8; 32]);

impl Md5Hash {
    /// The hash PostgreSQL stores for `user`.
    pub fn new(password: &[u8], user: &[u8]) -> Self {
        Self(hex_digest(password, user))
    }

    /// Parses 32 hexadecimal digits; PostgreSQL writes, and reads, lower case only.
    pub(super) fn parse(digits: &[u8]) -> Option<Self> {
        let digits = <[u8; 32]>::try_from(digits).ok()?;
        digits
            .iter()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            .then_some(Self(digits))
    }

    /// The 32 digits.
    pub(super) fn digits(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }

    /// The answer to a request with this salt, without the terminating zero.
    pub fn answer(&self, salt: [u8; 4]) -> [u8; 35] {
        let mut answer = *b"md5................................";
        answer[3..].copy_from_slice(&hex_digest(&self.0, &salt));
        answer
    }

    /// Is this the right answer? In constant time for answers of the right length.
    pub fn check(&self, salt: [u8; 4], answer: &[u8]) -> bool {
        self.answer(salt).ct_eq(answer).into()
    }

    /// Is this the password that was hashed for `user`?
    pub fn matches(&self, password: &[u8], user: &[u8]) -> bool {
        self == &Self::new(password, user)
    }
}

impl PartialEq for Md5Hash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Md5Hash {}

impl fmt::Debug for Md5Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Hash(..)")
    }
}

fn hex_digest(first: &[u8], second: &[u8]) -> [u8; 32] {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digest = Md5::new()
        .chain_update(first)
        .chain_update(second)
        .finalize();
    let mut hex = [0; 32];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(digest) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_postgresql_does() {
        // rolpassword of PostgreSQL 15: SET password_encryption = md5; CREATE ROLE m1 PASSWORD 'pencil'.
        let hash = Md5Hash::new(b"pencil", b"m1");
        assert_eq!(hash.digits(), "7474753e4b2f9e23953d5977773aabb0");
        assert!(hash.matches(b"pencil", b"m1"));
        assert!(!hash.matches(b"pencil", b"m2"));
        assert!(!hash.matches(b"Pencil", b"m1"));
    }

    #[test]
    fn only_the_right_answer_passes() {
        let hash = Md5Hash::new(b"pencil", b"m1");
        let answer = hash.answer([1, 2, 3, 4]);
        // printf '7474753e4b2f9e23953d5977773aabb0\1\2\3\4' | md5sum
        assert_eq!(answer, *b"md508e65c9992fa1ffc07ba23911d374853");
        assert!(hash.check([1, 2, 3, 4], &answer));
        assert!(!hash.check([1, 2, 3, 5], &answer));
        assert!(!hash.check([1, 2, 3, 4], b""));
        for at in 0..answer.len() {
            let mut wrong = answer;
            wrong[at] ^= 1;
            assert!(!hash.check([1, 2, 3, 4], &wrong), "byte {at}");
            assert!(!hash.check([1, 2, 3, 4], &answer[..at]), "first {at} bytes");
        }
    }

    #[test]
    fn parses_lower_case_digits_only() {
        let digits = b"7474753e4b2f9e23953d5977773aabb0";
        assert_eq!(Md5Hash::parse(digits), Some(Md5Hash::new(b"pencil", b"m1")));
        assert_eq!(Md5Hash::parse(&digits.to_ascii_uppercase()), None);
        assert_eq!(Md5Hash::parse(&digits[1..]), None);
        assert_eq!(Md5Hash::parse(b"7474753e4b2f9e23953d5977773aabbg"), None);
    }
}
