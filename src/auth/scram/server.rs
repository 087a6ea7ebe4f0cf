//! The server's half of SCRAM: a client logs in to us.
//!
//! [`client_first`] -> [`AwaitClientFinal`] -> [`Proof`] -> the server-final message.
//! Keys are needed only for the last step, so they may still be derived while the client is thinking.

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::{
    apply_signature, check_length, encode_binding, rsplit_comma, split_comma, Attributes,
    Mechanism, ScramError, END_POINT, NONCE_BYTES,
};
use crate::auth::keys::{hmac, sha256, Key, StoredKeys};
use crate::auth::verifier::decode_key;

/// What follows the nonces in a server-first message, with a salt of 16 bytes, usually fits.
const SALT_AND_COST_BYTES: usize = 64;
/// A server-final message.
const SERVER_FINAL_BYTES: usize = 2 + 44;

/// Reads the client-first message and makes the server-first message.
///
/// `end_point` is the `tls-server-end-point` of this connection, present exactly when
/// SCRAM-SHA-256-PLUS was offered. `nonce` must be random and fresh.
///
/// Errors: `Malformed`, `Unsupported`, `BindingFlag`, `Downgrade`.
pub fn client_first(
    mechanism: Mechanism,
    end_point: Option<&[u8]>,
    message: &[u8],
    nonce: &[u8; NONCE_BYTES],
    salt: &[u8],
    iterations: u32,
) -> Result<(AwaitClientFinal, Vec<u8>), ScramError> {
    let nonce = BASE64.encode(nonce);
    respond(mechanism, end_point, message, &nonce, salt, iterations)
}

/// [`client_first`] with a nonce in its final form.
pub(super) fn respond(
    mechanism: Mechanism,
    end_point: Option<&[u8]>,
    message: &[u8],
    nonce: &str,
    salt: &[u8],
    iterations: u32,
) -> Result<(AwaitClientFinal, Vec<u8>), ScramError> {
    check_length(message)?;
    // gs2-header = flag "," [authzid] ","
    let (flag, rest) = split_comma(message).ok_or(ScramError::Malformed)?;
    let (authzid, bare) = split_comma(rest).ok_or(ScramError::Malformed)?;
    let bound = read_flag(flag, mechanism, end_point)?;
    match authzid {
        [] => {}
        [b'a', b'=', ..] => return Err(ScramError::Unsupported),
        _ => return Err(ScramError::Malformed),
    }

    let mut attributes = Attributes::new(bare);
    let _user = attributes.expect(b'n')?;
    let client_nonce = attributes.expect(b'r')?;
    attributes.finish()?;
    if client_nonce.is_empty() || !client_nonce.iter().all(u8::is_ascii_graphic) {
        return Err(ScramError::Malformed);
    }

    let mut rest = String::with_capacity(SALT_AND_COST_BYTES);
    rest.push_str(",s=");
    BASE64.encode_string(salt, &mut rest);
    rest.push_str(",i=");
    rest.push_str(&iterations.to_string());
    let nonces = [client_nonce, nonce.as_bytes()].concat();
    let server_first = [b"r=", &nonces[..], rest.as_bytes()].concat();
    let gs2_header = message.strip_suffix(bare).unwrap_or_default();
    let state = AwaitClientFinal {
        binding: encode_binding(gs2_header, bound),
        nonces,
        auth_message: [bare, b",", &server_first].concat(),
    };
    Ok((state, server_first))
}

/// Checks the flag against what was offered and chosen; answers the channel that must be bound to.
fn read_flag<'a>(
    flag: &[u8],
    mechanism: Mechanism,
    end_point: Option<&'a [u8]>,
) -> Result<Option<&'a [u8]>, ScramError> {
    match (flag, mechanism) {
        (b"n", Mechanism::Sha256) => Ok(None),
        // The client could bind but thinks that we cannot. If we offered to, the offer was removed on its way.
        (b"y", Mechanism::Sha256) if end_point.is_some() => Err(ScramError::Downgrade),
        (b"y", Mechanism::Sha256) => Ok(None),
        ([b'p', b'=', name @ ..], Mechanism::Sha256Plus) if name == END_POINT.as_bytes() => {
            end_point.map(Some).ok_or(ScramError::BindingFlag)
        }
        (b"n" | b"y" | [b'p', b'=', ..], _) => Err(ScramError::BindingFlag),
        _ => Err(ScramError::Malformed),
    }
}

/// The server-first message is sent; the client owes its proof.
#[derive(Debug)]
pub struct AwaitClientFinal {
    /// The `c=` that we expect.
    binding: String,
    /// The `r=` that we expect.
    nonces: Vec<u8>,
    /// `client-first-bare "," server-first`
    auth_message: Vec<u8>,
}

impl AwaitClientFinal {
    /// Reads the client-final message. Errors: `Malformed`, `Unsupported`, `Binding`, `Nonce`.
    pub fn client_final(self, message: &[u8]) -> Result<Proof, ScramError> {
        check_length(message)?;
        let (without_proof, proof) = rsplit_comma(message).ok_or(ScramError::Malformed)?;
        let mut attributes = Attributes::new(without_proof);
        let binding = attributes.expect(b'c')?;
        let nonces = attributes.expect(b'r')?;
        attributes.finish()?;
        let proof = Attributes::new(proof).expect(b'p')?;
        let proof = decode_key(proof).ok_or(ScramError::Malformed)?;

        if binding != self.binding.as_bytes() {
            return Err(ScramError::Binding);
        }
        if nonces != self.nonces {
            return Err(ScramError::Nonce);
        }
        Ok(Proof {
            proof,
            auth_message: [&self.auth_message[..], b",", without_proof].concat(),
        })
    }
}

/// The client has proven that it knows the password.
pub struct Proven {
    /// Our own proof, to be sent.
    pub server_final: Vec<u8>,
    /// The key that no verifier holds.
    pub(in crate::auth) client_key: Key,
}

impl std::fmt::Debug for Proven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proven(..)")
    }
}

/// A well-formed proof, not yet checked.
pub struct Proof {
    proof: Key,
    /// All that both sides have said, which the proof signs.
    auth_message: Vec<u8>,
}

impl Proof {
    /// Does the proof belong to one of these keys? All of them must have the salt and the iterations of the
    /// server-first message.
    ///
    /// Takes the same time whichever key fits, if any. Errors: `Proof`.
    pub fn check(&self, candidates: &[StoredKeys]) -> Result<Proven, ScramError> {
        let mut known = Choice::from(0);
        let mut server_key = Key::default();
        let mut revealed = Key::default();
        for candidate in candidates {
            let client_key =
                apply_signature(&self.proof, &candidate.stored_key, &self.auth_message);
            let fits = sha256(&client_key).ct_eq(&candidate.stored_key);
            known |= fits;
            for (byte, candidate) in server_key.iter_mut().zip(&candidate.server_key) {
                byte.conditional_assign(candidate, fits);
            }
            for (byte, candidate) in revealed.iter_mut().zip(&client_key) {
                byte.conditional_assign(candidate, fits);
            }
        }
        let signature = hmac(&server_key, &self.auth_message);
        let mut server_final = String::with_capacity(SERVER_FINAL_BYTES);
        server_final.push_str("v=");
        BASE64.encode_string(signature, &mut server_final);
        if bool::from(known) {
            Ok(Proven {
                server_final: server_final.into_bytes(),
                client_key: revealed,
            })
        } else {
            Err(ScramError::Proof)
        }
    }
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof(..)")
    }
}
