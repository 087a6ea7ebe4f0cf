//! The token that RDS expects, computed from AWS's description of Signature Version 4 and of IAM database
//! authentication alone.
//!
//! Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::collections::BTreeMap;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// Who signs, and for what.
pub(crate) struct Claim<'a> {
    pub(crate) access_key: &'a str,
    pub(crate) secret_key: &'a str,
    pub(crate) session_token: Option<&'a str>,
    pub(crate) region: &'a str,
    /// With its port.
    pub(crate) host: &'a str,
    pub(crate) user: &'a str,
}

/// The parts of a token: what stands before the question mark, and the decoded pairs behind it.
pub(crate) fn parts(token: &str) -> (&str, BTreeMap<String, String>) {
    let (endpoint, query) = token.split_once('?').expect("a query");
    let pairs = query.split('&').map(|pair| {
        let (name, value) = pair.split_once('=').expect("a pair");
        (decoded(name), decoded(value))
    });
    (endpoint, pairs.collect())
}

impl Claim<'_> {
    /// What the pairs of a token of this date (`YYYYMMDDTHHMMSSZ`) have to be.
    pub(crate) fn pairs(&self, date: &str) -> BTreeMap<String, String> {
        let day = &date[..8];
        let scope = format!("{day}/{}/rds-db/aws4_request", self.region);
        let mut pairs: BTreeMap<String, String> = [
            ("Action", "connect".to_owned()),
            ("DBUser", self.user.to_owned()),
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", format!("{}/{scope}", self.access_key)),
            ("X-Amz-Date", date.to_owned()),
            ("X-Amz-Expires", "900".to_owned()),
            ("X-Amz-SignedHeaders", "host".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if let Some(token) = self.session_token {
            pairs.insert("X-Amz-Security-Token".to_owned(), token.to_owned());
        }
        let query: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
            .collect();
        let request = format!(
            "GET\n/\n{}\nhost:{}\n\nhost\n{}",
            query.join("&"),
            self.host,
            hex(&Sha256::digest(b""))
        );
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
            hex(&Sha256::digest(request))
        );
        let first = format!("AWS4{}", self.secret_key).into_bytes();
        let key = [day, self.region, "rds-db", "aws4_request"]
            .iter()
            .fold(first, |key, part| mac(&key, part));
        pairs.insert("X-Amz-Signature".to_owned(), hex(&mac(&key, &to_sign)));
        pairs
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Percent-encoding of all but the unreserved characters of RFC 3986.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |text, byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            text + &char::from(byte).to_string()
        }
        _ => text + &format!("%{byte:02X}"),
    })
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, more @ ..] = rest {
        rest = match (first, more) {
            (b'%', [high, low, more @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("digits"));
                more
            }
            _ => {
                bytes.push(*first);
                more
            }
        };
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// The example of AWS's own signer for RDS.
#[test]
fn a_published_token_is_computed() {
    let claim = Claim {
        access_key: "akid",
        secret_key: "secret",
        session_token: None,
        region: "us-east-1",
        host: "prod-instance.us-east-1.rds.amazonaws.com:3306",
        user: "peccy",
    };
    assert_eq!(
        claim.pairs("20240826T220000Z")["X-Amz-Signature"],
        "dd0cba843009474347af724090233265628ace491ea17ce3eb3da098b983ad89"
    );
}
