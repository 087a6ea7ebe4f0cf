//! Messages of authentication, both directions: Authentication…, PasswordMessage, SASL…Response.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

use super::wire::{put_message, put_text, put_value, Malformed, Reader};
use super::{backend, frontend};

/// AuthenticationOk.
pub const AUTHENTICATION_OK: [u8; 9] = *b"R\0\0\0\x08\0\0\0\0";

/// AuthenticationCleartextPassword.
pub const AUTHENTICATION_CLEARTEXT_PASSWORD: [u8; 9] = *b"R\0\0\0\x08\0\0\0\x03";

/// A server's demand or answer during authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// The client is who it says.
    Ok,
    /// Send the password as it is.
    CleartextPassword,
    /// Send the password hashed with MD5 and this salt.
    Md5Password {
        /// Four random bytes.
        salt: [u8; 4],
    },
    /// Choose a SASL mechanism.
    Sasl(Mechanisms<'a>),
    /// Next challenge of the mechanism.
    SaslContinue(&'a [u8]),
    /// Last word of the mechanism; Ok follows.
    SaslFinal(&'a [u8]),
    /// Kerberos, GSSAPI, SSPI and whatever comes later.
    Unsupported {
        /// Its code.
        code: i32,
        /// What follows the code.
        data: &'a [u8],
    },
}

impl<'a> Authentication<'a> {
    /// A view of a message's body.
    ///
    /// Errors: a body cut short, or bytes behind its fields.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "Authentication");
        let code = reader.i32()?;
        Ok(match code {
            0 => {
                reader.finish()?;
                Self::Ok
            }
            3 => {
                reader.finish()?;
                Self::CleartextPassword
            }
            5 => {
                let salt = reader.u32()?.to_be_bytes();
                reader.finish()?;
                Self::Md5Password { salt }
            }
            10 => Self::Sasl(Mechanisms::parse(reader)?),
            11 => Self::SaslContinue(reader.rest()),
            12 => Self::SaslFinal(reader.rest()),
            code => Self::Unsupported {
                code,
                data: reader.rest(),
            },
        })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_message(out, backend::tag::AUTHENTICATION, |out| {
            let mut put = |code: i32, data: &[u8]| {
                out.extend_from_slice(&code.to_be_bytes());
                out.extend_from_slice(data);
            };
            match self {
                Self::Ok => put(0, b""),
                Self::CleartextPassword => put(3, b""),
                Self::Md5Password { salt } => put(5, salt),
                Self::Sasl(mechanisms) => {
                    put(10, mechanisms.names);
                    out.push(0);
                }
                Self::SaslContinue(data) => put(11, data),
                Self::SaslFinal(data) => put(12, data),
                Self::Unsupported { code, data } => put(*code, data),
            }
        });
    }

    /// Appends AuthenticationSASL with these mechanisms, best first.
    pub fn encode_sasl<'m>(out: &mut Vec<u8>, mechanisms: impl IntoIterator<Item = &'m str>) {
        put_message(out, backend::tag::AUTHENTICATION, |out| {
            out.extend_from_slice(&10i32.to_be_bytes());
            for mechanism in mechanisms {
                put_text(out, mechanism.as_bytes());
            }
            out.push(0);
        });
    }
}

/// Names of SASL mechanisms in the server's order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanisms<'a> {
    /// Strings, without the final empty one.
    names: &'a [u8],
}

impl<'a> Mechanisms<'a> {
    fn parse(mut reader: Reader<'a>) -> Result<Self, Malformed> {
        let Some((0, names)) = reader.rest().split_last() else {
            return Err(reader.malformed());
        };
        loop {
            let name = reader.text()?;
            if name.is_empty() {
                reader.finish()?;
                return Ok(Self { names });
            }
        }
    }

    /// The names.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> + Clone + 'a {
        let mut reader = Reader::new(self.names, "Authentication");
        std::iter::from_fn(move || reader.text().ok())
    }

    /// Is this one of them?
    pub fn contains(self, name: &str) -> bool {
        self.iter().any(|offered| offered == name.as_bytes())
    }
}

/// A client's answer to CleartextPassword or MD5Password.
///
/// PasswordMessage, SASLInitialResponse and SASLResponse share one tag: what it is follows from what was
/// asked. Neither is printed: they may hold the password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PasswordMessage<'a> {
    /// The password, or its hash.
    pub password: &'a [u8],
}

impl<'a> PasswordMessage<'a> {
    /// A view of a message's body.
    ///
    /// Errors: anything but one string.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "PasswordMessage");
        let password = reader.text()?;
        reader.finish()?;
        Ok(Self { password })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_message(out, frontend::tag::PASSWORD, |out| {
            put_text(out, self.password);
        });
    }
}

impl std::fmt::Debug for PasswordMessage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordMessage").finish_non_exhaustive()
    }
}

/// A client's choice of SASL mechanism and its first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    /// Name of the mechanism.
    pub mechanism: &'a [u8],
    /// First message of the mechanism, unless it begins with the server's.
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    /// A view of a message's body.
    ///
    /// Errors: a body cut short, or bytes behind its fields.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "SASLInitialResponse");
        let mechanism = reader.text()?;
        let data = reader.value()?;
        reader.finish()?;
        Ok(Self { mechanism, data })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_message(out, frontend::tag::PASSWORD, |out| {
            put_text(out, self.mechanism);
            put_value(out, self.data);
        });
    }
}

/// Appends a SASLResponse, whose body is the mechanism's data alone.
pub fn put_sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    put_message(out, frontend::tag::PASSWORD, |out| {
        out.extend_from_slice(data);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demands_have_the_documented_bytes() {
        let check = |demand: Authentication<'_>, bytes: &[u8]| {
            let mut out = Vec::new();
            demand.encode(&mut out);
            assert_eq!(out, bytes);
            assert_eq!(Authentication::parse(&bytes[5..]), Ok(demand));
        };
        check(Authentication::Ok, &AUTHENTICATION_OK);
        check(
            Authentication::CleartextPassword,
            &AUTHENTICATION_CLEARTEXT_PASSWORD,
        );
        check(
            Authentication::Md5Password { salt: *b"salt" },
            b"R\0\0\0\x0c\0\0\0\x05salt",
        );
        check(
            Authentication::SaslContinue(b"r=1"),
            b"R\0\0\0\x0b\0\0\0\x0br=1",
        );
        check(
            Authentication::SaslFinal(b"v=1"),
            b"R\0\0\0\x0b\0\0\0\x0cv=1",
        );
        check(
            Authentication::Unsupported {
                code: 7,
                data: b"gss",
            },
            b"R\0\0\0\x0b\0\0\0\x07gss",
        );
    }

    #[test]
    fn mechanisms_end_with_an_empty_name() {
        let mut out = Vec::new();
        Authentication::encode_sasl(&mut out, ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
        assert_eq!(
            out,
            b"R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
        );
        let parsed = Authentication::parse(&out[5..]).unwrap();
        let Authentication::Sasl(mechanisms) = parsed else {
            panic!("{parsed:?}");
        };
        assert!(mechanisms.contains("SCRAM-SHA-256") && !mechanisms.contains("SCRAM"));
        assert_eq!(mechanisms.iter().count(), 2);
        let mut again = Vec::new();
        parsed.encode(&mut again);
        assert_eq!(again, out);

        for body in [
            &b"\0\0\0\x0a"[..],
            b"\0\0\0\x0aA\0",
            b"\0\0\0\x0aA\0\0B\0\0",
            b"\0\0\0\x0aA",
        ] {
            assert!(
                Authentication::parse(body).is_err(),
                "{}",
                body.escape_ascii()
            );
        }
    }

    #[test]
    fn answers_come_back_and_passwords_are_not_printed() {
        let mut out = Vec::new();
        PasswordMessage { password: b"hush" }.encode(&mut out);
        assert_eq!(out, b"p\0\0\0\x09hush\0");
        let parsed = PasswordMessage::parse(&out[5..]).unwrap();
        assert_eq!(parsed.password, b"hush");
        assert_eq!(format!("{parsed:?}"), "PasswordMessage { .. }");
        assert!(PasswordMessage::parse(b"hush").is_err());
        assert!(PasswordMessage::parse(b"hush\0\0").is_err());

        for data in [None, Some(&b"n,,n=,r=x"[..])] {
            let response = SaslInitialResponse {
                mechanism: b"SCRAM-SHA-256",
                data,
            };
            let mut out = Vec::new();
            response.encode(&mut out);
            assert_eq!(SaslInitialResponse::parse(&out[5..]), Ok(response));
        }
    }
}
