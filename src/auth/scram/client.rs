//! The client's half of SCRAM: we log in to a server.
//!
//! [`client_first`] -> [`AwaitServerFirst`] -> [`Challenge`] -> [`AwaitServerFinal`] -> the server is proven.

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;
use subtle::ConstantTimeEq;

use super::{
    apply_signature, check_length, encode_binding, Attributes, Mechanism, ScramError, END_POINT,
    NONCE_BYTES,
};
use crate::auth::keys::{hmac, Key, Keys};
use crate::auth::verifier::{decode_key, parse_iterations, SALT_BYTES_MAX};

/// What we can say about the channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// No TLS, or no certificate to bind to: flag `n`.
    Unsupported,
    /// We could bind, but the server did not offer SCRAM-SHA-256-PLUS: flag `y`. A server that did offer it
    /// will notice.
    NotOffered,
    /// The `tls-server-end-point` of this connection.
    EndPoint(Vec<u8>),
}

impl Binding {
    /// The mechanism to choose.
    pub fn mechanism(&self) -> Mechanism {
        match self {
            Self::Unsupported | Self::NotOffered => Mechanism::Sha256,
            Self::EndPoint(_) => Mechanism::Sha256Plus,
        }
    }

    fn gs2_header(&self) -> String {
        match self {
            Self::Unsupported => "n,,".into(),
            Self::NotOffered => "y,,".into(),
            Self::EndPoint(_) => format!("p={END_POINT},,"),
        }
    }

    fn end_point(&self) -> Option<&[u8]> {
        match self {
            Self::Unsupported | Self::NotOffered => None,
            Self::EndPoint(end_point) => Some(end_point),
        }
    }
}

/// Makes the client-first message. `nonce` must be random and fresh.
pub fn client_first(binding: Binding, nonce: &[u8; NONCE_BYTES]) -> (AwaitServerFirst, Vec<u8>) {
    // The startup message has named the user; PostgreSQL ignores the name here, and libpq leaves it out.
    start(binding, "", BASE64.encode(nonce))
}

/// [`client_first`] with a nonce in its final form and with a user name.
pub(super) fn start(binding: Binding, user: &str, nonce: String) -> (AwaitServerFirst, Vec<u8>) {
    let bare = format!("n={user},r={nonce}");
    let message = format!("{}{bare}", binding.gs2_header());
    let state = AwaitServerFirst {
        binding,
        nonce,
        bare,
    };
    (state, message.into_bytes())
}

/// The client-first message is sent; the server owes salt and iterations.
#[derive(Debug)]
pub struct AwaitServerFirst {
    binding: Binding,
    nonce: String,
    /// client-first-bare: the message without its header.
    bare: String,
}

impl AwaitServerFirst {
    /// Reads the server-first message. Errors: `Malformed`, `Unsupported`, `Nonce`, `Iterations`.
    pub fn server_first(self, message: &[u8]) -> Result<Challenge, ScramError> {
        check_length(message)?;
        let mut attributes = Attributes::new(message);
        let nonces = attributes.expect(b'r')?;
        let salt = attributes.expect(b's')?;
        let iterations = attributes.expect(b'i')?;
        attributes.finish()?;

        // The server must have added something, and nothing that could end the attribute early.
        match nonces.strip_prefix(self.nonce.as_bytes()) {
            None | Some([]) => return Err(ScramError::Nonce),
            Some(added) if !added.iter().all(u8::is_ascii_graphic) => {
                return Err(ScramError::Malformed)
            }
            Some(_) => {}
        }
        let salt = BASE64.decode(salt).map_err(|_| ScramError::Malformed)?;
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return Err(ScramError::Malformed);
        }
        let iterations = parse_iterations(iterations).ok_or(ScramError::Iterations)?;

        let binding = encode_binding(
            self.binding.gs2_header().as_bytes(),
            self.binding.end_point(),
        );
        let without_proof = [b"c=", binding.as_bytes(), b",r=", nonces].concat();
        let bare = self.bare.as_bytes();
        Ok(Challenge {
            salt: salt.into(),
            iterations,
            auth_message: [bare, b",", message, b",", &without_proof].concat(),
            without_proof,
        })
    }
}

/// What to derive keys from; the client-final message waits for them.
#[derive(Debug)]
pub struct Challenge {
    /// The salt, 1 to [`SALT_BYTES_MAX`] bytes.
    pub salt: Box<[u8]>,
    /// `1..=ITERATIONS_MAX`.
    pub iterations: u32,
    without_proof: Vec<u8>,
    auth_message: Vec<u8>,
}

impl Challenge {
    /// Makes the client-final message with keys derived from our salt and iterations.
    pub fn answer(self, keys: &Keys) -> (AwaitServerFinal, Vec<u8>) {
        let proof = apply_signature(
            &keys.client_key,
            &keys.stored.stored_key,
            &self.auth_message,
        );
        let mut message = self.without_proof;
        message.extend_from_slice(format!(",p={}", BASE64.encode(proof)).as_bytes());
        let state = AwaitServerFinal {
            signature: hmac(&keys.stored.server_key, &self.auth_message),
        };
        (state, message)
    }
}

/// The client-final message is sent; the server owes its own proof.
pub struct AwaitServerFinal {
    signature: Key,
}

impl AwaitServerFinal {
    /// Reads the server-final message; `Ok` says that the server knows the password, or what it stores of it.
    ///
    /// Errors: `Malformed`, `Signature`, `Rejected`.
    pub fn server_final(self, message: &[u8]) -> Result<(), ScramError> {
        check_length(message)?;
        let mut attributes = Attributes::new(message);
        let signature = match attributes.next()? {
            Some((b'v', signature)) => signature,
            Some((b'e', _)) => return Err(ScramError::Rejected),
            _ => return Err(ScramError::Malformed),
        };
        attributes.finish()?;
        let signature = decode_key(signature).ok_or(ScramError::Malformed)?;
        if self.signature.ct_eq(&signature).into() {
            Ok(())
        } else {
            Err(ScramError::Signature)
        }
    }
}

impl std::fmt::Debug for AwaitServerFinal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AwaitServerFinal(..)")
    }
}
