//! Stored secrets, in the text formats of `pg_authid.rolpassword`.
//!
//! ```text
//! SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>      salt and keys in base64
//! md5<32 hexadecimal digits>
//! ```
//!
//! Source: <https://www.postgresql.org/docs/current/catalog-pg-authid.html>

use std::fmt;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;

use super::keys::{Key, Keys, StoredKeys, ITERATIONS_MAX, KEY_BYTES};
use super::md5::Md5Hash;

/// Longest salt accepted, in bytes. PostgreSQL makes salts of 16.
pub const SALT_BYTES_MAX: usize = 256;

/// What can check a password without holding it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verifier {
    /// `SCRAM-SHA-256$…`: serves `scram`, `md5` (by asking for SCRAM instead) and `plain`.
    Scram(ScramVerifier),
    /// `md5…`: serves `md5` and `plain`.
    Md5(Md5Hash),
}

impl Verifier {
    /// A SCRAM-SHA-256 verifier. Costly, see [`Keys::derive`]. PostgreSQL takes a random salt of 16 bytes
    /// and [`ITERATIONS`](super::keys::ITERATIONS).
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        Self::Scram(ScramVerifier {
            salt: salt.into(),
            iterations,
            keys: Keys::derive(password, salt, iterations).stored,
        })
    }

    /// Parses either form. Errors: anything else, more than [`ITERATIONS_MAX`] iterations, a salt that is
    /// empty or longer than [`SALT_BYTES_MAX`].
    pub fn parse(text: &str) -> Result<Self, InvalidVerifier> {
        if let Some(digits) = text.strip_prefix("md5") {
            return Md5Hash::parse(digits.as_bytes())
                .map(Self::Md5)
                .ok_or(InvalidVerifier);
        }
        ScramVerifier::parse(text)
            .map(Self::Scram)
            .ok_or(InvalidVerifier)
    }

    /// The text that [`parse`](Self::parse) reads. As secret as the verifier itself, hence no `Display`.
    pub fn to_text(&self) -> String {
        match self {
            Self::Scram(scram) => format!(
                "SCRAM-SHA-256${}:{}${}:{}",
                scram.iterations,
                BASE64.encode(&scram.salt),
                BASE64.encode(scram.keys.stored_key),
                BASE64.encode(scram.keys.server_key),
            ),
            Self::Md5(hash) => format!("md5{}", hash.digits()),
        }
    }
}

/// A stored SCRAM-SHA-256 secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScramVerifier {
    /// The salt, as bytes, 1 to [`SALT_BYTES_MAX`].
    pub salt: Box<[u8]>,
    /// `1..=ITERATIONS_MAX`.
    pub iterations: u32,
    /// What checks a proof.
    pub keys: StoredKeys,
}

impl ScramVerifier {
    fn parse(text: &str) -> Option<Self> {
        let (cost, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = cost.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let salt = BASE64.decode(salt).ok()?;
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return None;
        }
        Some(Self {
            salt: salt.into(),
            iterations: parse_iterations(iterations.as_bytes())?,
            keys: StoredKeys {
                stored_key: decode_key(stored_key.as_bytes())?,
                server_key: decode_key(server_key.as_bytes())?,
            },
        })
    }
}

/// The text is not a verifier. It is not repeated here, for it may be a password put in the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidVerifier;

impl fmt::Display for InvalidVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither a SCRAM-SHA-256 verifier nor an md5 hash")
    }
}

impl std::error::Error for InvalidVerifier {}

/// Decimal digits, no sign, no leading zero, `1..=ITERATIONS_MAX`.
pub(super) fn parse_iterations(digits: &[u8]) -> Option<u32> {
    if !matches!(digits, [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit)) {
        return None;
    }
    let iterations = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (iterations <= ITERATIONS_MAX).then_some(iterations)
}

/// A key in base64.
pub(super) fn decode_key(text: &[u8]) -> Option<Key> {
    // Four characters are three bytes: of the last four the last one is padding.
    let mut bytes = [0; KEY_BYTES + 1];
    let length = BASE64.decode_slice(text, &mut bytes).ok()?;
    bytes.get(..length)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passwords and the `rolpassword` that PostgreSQL 15 made of them, among them every rule of SASLprep.
    const POSTGRESQL: [(&str, &str); 15] = [
        (
            "pencil",
            "SCRAM-SHA-256$4096:U9z24Ut8cOIHJjvdYjoe/w==$KVh3EiE/8qp8kPLYNf03XXyzGc09cQ7EZTYpXZqB5ag=:ZhE+gs6/TfCN4NyQyhZyCHz677O/PdKu5MukPjgPm3M=",
        ),
        (
            "I\u{AD}X",
            "SCRAM-SHA-256$4096:w6NAU8dyezEyp3W+8KLX7g==$i50vBwLR6G1k5SWprMcfvsPY79deaEm8QUYZaO21GE4=:ikGue8RpmtSJ5JUkpMuy4OdANMZEfnShnXg/C5H1ZHE=",
        ),
        (
            "\u{AA}",
            "SCRAM-SHA-256$4096:jdhwNqB0KOB1gJL0e+sAHg==$zyItvcOclqxUsXe337P9rJOgTRGV+Kdek4/n0AfmLGg=:6DqtwCj0ZJItnoa/8YqLcsIhic6Z7UwUIHsazTSCoxQ=",
        ),
        (
            "\u{2168} \u{A0}x",
            "SCRAM-SHA-256$4096:W8QqAKAPt9flhuqdXLgiRQ==$sUUQAalXEWzRgr7imQGriRlHCX6ZNsccD+QpetCharA=:5M6NdeZoIIXR2xi4g8U6RJmPCDX7cebZSYOxPpxmk7g=",
        ),
        (
            "a\u{200B}b",
            "SCRAM-SHA-256$4096:GpVwaDtLSzsj8KvcL3NNgw==$GFPqACeDdQjO9w26oS4FxyFIgwJrWvbfgEPJYqRpo+Q=:34GKNNP4G5FipGu8FTft0fM5gKBBgHo5Ue4YCe7qZPU=",
        ),
        (
            "\u{AD}",
            "SCRAM-SHA-256$4096:sDVGsFR/koqklQd8RTD6Aw==$Urt0SKUvrU96ipeNS7EIv8PbfGOxvoFNPlTsoIWwCaQ=:7MyTZ0QzpAbSuZtaF6JCWbxBCyTxPR1lO1pptdfqq0Y=",
        ),
        (
            "\u{627}1",
            "SCRAM-SHA-256$4096:b9q7g5fhmbg5F7fSUgAFKg==$F88CfXyXCjB+OjO/fBWM008SMGTtdZG1QrMSFZ4RmZ8=:vv3h7RneJE9+h9OFjrb9uYd4oXLrGp7IDptoIxE66ys=",
        ),
        (
            "x\u{221}y\u{AA}",
            "SCRAM-SHA-256$4096:o9HOr1vj5To5V3RWQzoTeQ==$EK6cRi6uB8ru5u0u3tkdUWU6FmmcKgtZ9qG7d5I0oug=:1coJDKSumGJUews8FvQhQeBDBOS6cuTS0hd0crv8OoU=",
        ),
        (
            "\u{AA}\u{7}",
            "SCRAM-SHA-256$4096:BkX6g7rdhBTi1m1Ss7JP+g==$0nfezrM0cksyOetPXmpCItAG0yuvB9UogQrOfDxKTWg=:XolFJ5CYEpgx9VAhbMvTcwWz44L2iYcB0PBMw09AvnY=",
        ),
        (
            "p\u{E4}ssw\u{F6}rd \u{1F600} \u{FF21}",
            "SCRAM-SHA-256$4096:skW0bcsdAUZRw9++RfI8nA==$Ulw627zbjiWCOHY+I2TzmFuFUv3E7r84Kit63124tjs=:QTrLeRFOUiNOJbe7HBja0+JJiR38Jgpiomn+jRDSzCE=",
        ),
        (
            "\u{627}\u{AD}\u{628}",
            "SCRAM-SHA-256$4096:I8RFOZDAkV+VrR7VW1VHcg==$9+PxrlIVTv2cSxjWL756jptula7i2aqHXUc8oSi0inE=:wbDcelSW2Yqul2uVERjJQTAp64ee/5VqZ/R+vfug2+o=",
        ),
        (
            "e\u{301}",
            "SCRAM-SHA-256$4096:uwh81GQfcEiSr4YpKsvhcQ==$2NtN33x41nYlz6VqI4TUpSUqF4OMrGF6B14S2GU4Q20=:mVVg67kv17jGaSZhYO5QRS9M109wJsVyoN3ATiqJJB4=",
        ),
        (
            "\u{AA}\u{340}",
            "SCRAM-SHA-256$4096:GMkr2NuYp1AgU8a/vui/Cg==$46/5BsMoRMjf7LtoptdOMS/H+WKvI1uVG6nllNlwCv8=:RmbOSvMGBi+UcUzjI61d70QkuVR468aDiTJOyFxCmWo=",
        ),
        (
            "\u{2F868}\u{AA}",
            "SCRAM-SHA-256$4096:48KFMeL5zrF/rdO42lqihQ==$n4J4F68vSUidKqtzvzEoFRGSEg29Z0d8W6Eq8/GlakU=:7TDgKgs3ySl7zDr/k4xO1gYYJ+Ra+efqCC9CE486Sqc=",
        ),
        (
            "A\u{7}b",
            "SCRAM-SHA-256$4096:ZxIqR0ldxXuB7th5PGoASA==$pZq4ACRIbz0XmN0UrivnD+7VfItJiZ0IvC5FLxHDtmw=:zUmjYzuurCyJLt3MADp8Yh4y84CUY7hJKP/BnOo5pBs=",
        ),
    ];

    #[test]
    fn derives_what_postgresql_stores() {
        for (password, stored) in POSTGRESQL {
            let verifier = Verifier::parse(stored).unwrap();
            assert_eq!(verifier.to_text(), stored);
            let Verifier::Scram(scram) = &verifier else {
                panic!("{stored}");
            };
            let derived = Verifier::derive(password.as_bytes(), &scram.salt, scram.iterations);
            assert_eq!(derived.to_text(), stored, "{password:?}");
            assert_eq!(derived, verifier);
        }
    }

    #[test]
    fn reads_md5_hashes() {
        let stored = "md57474753e4b2f9e23953d5977773aabb0";
        let verifier = Verifier::parse(stored).unwrap();
        assert_eq!(verifier, Verifier::Md5(Md5Hash::new(b"pencil", b"m1")));
        assert_eq!(verifier.to_text(), stored);
    }

    #[test]
    fn refuses_everything_else() {
        let key = "KVh3EiE/8qp8kPLYNf03XXyzGc09cQ7EZTYpXZqB5ag=";
        let long_salt = BASE64.encode([0; SALT_BYTES_MAX + 1]);
        let cases = [
            String::new(),
            "pencil".into(),
            "md5".into(),
            "md57474753E4B2F9E23953D5977773AABB0".into(),
            "md57474753e4b2f9e23953d5977773aabb00".into(),
            "SCRAM-SHA-256".into(),
            "SCRAM-SHA-256$".into(),
            format!("SCRAM-SHA-1$4096:c2FsdA==${key}:{key}"),
            format!("SCRAM-SHA-256$0:c2FsdA==${key}:{key}"),
            format!("SCRAM-SHA-256$+4096:c2FsdA==${key}:{key}"),
            format!("SCRAM-SHA-256$10000001:c2FsdA==${key}:{key}"),
            format!("SCRAM-SHA-256$99999999999:c2FsdA==${key}:{key}"),
            format!("SCRAM-SHA-256$4096:${key}:{key}"),
            format!("SCRAM-SHA-256$4096:c2FsdA${key}:{key}"),
            format!("SCRAM-SHA-256$4096:{long_salt}${key}:{key}"),
            format!("SCRAM-SHA-256$4096:c2FsdA==${key}"),
            format!("SCRAM-SHA-256$4096:c2FsdA==${key}:c2FsdA=="),
            format!("SCRAM-SHA-256$4096:c2FsdA==${key}:{key} "),
            format!("SCRAM-SHA-256$4096:c2FsdA==${key}:{key}:{key}"),
        ];
        for text in cases {
            assert_eq!(Verifier::parse(&text), Err(InvalidVerifier), "{text}");
        }
        let longest = BASE64.encode([0; SALT_BYTES_MAX]);
        assert!(Verifier::parse(&format!("SCRAM-SHA-256$10000000:{longest}${key}:{key}")).is_ok());
    }

    #[test]
    fn secrets_are_not_printed() {
        let printed = format!("{:?}", Verifier::derive(b"pencil", b"salt", 1));
        assert!(printed.ends_with("keys: StoredKeys(..) })"), "{printed}");
    }
}
