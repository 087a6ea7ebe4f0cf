//! Packets without a tag, before the first message: StartupMessage, SSLRequest, GSSENCRequest, CancelRequest.
//!
//! ```text
//!   ┌──────────────┬──────────────────────┬───────────────────────────────────┐
//!   │ length, 4 B  │ version or request   │ name 0 value 0 name 0 value 0 … 0 │
//!   └──────────────┴──────────────────────┴───────────────────────────────────┘
//!     counts itself   3.0 = 0x0003_0000      StartupMessage only
//! ```
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

use super::backend::NegotiateProtocolVersion;
use super::sqlstate::SqlState;
use super::wire::{put_length_prefixed, put_text, Reader};
use crate::error::{Error, Fault};

/// Largest packet before authentication, not counting the length field: PostgreSQL's
/// `MAX_STARTUP_PACKET_LENGTH`. A client needs no more buffer than this plus 4 bytes.
pub const STARTUP_BYTES_MAX: usize = 10_000;

/// Longest secret of a CancelRequest in bytes.
///
/// Source: <https://www.postgresql.org/docs/current/protocol-message-formats.html>
pub const SECRET_BYTES_MAX: usize = 256;

/// Shortest secret of a CancelRequest in bytes.
pub const SECRET_BYTES_MIN: usize = 4;

/// Answer to SSLRequest: go on with TLS.
pub const SSL_ACCEPTED: u8 = b'S';
/// Answer to GSSENCRequest: go on with GSSAPI encryption.
pub const GSS_ACCEPTED: u8 = b'G';
/// Answer to SSLRequest or GSSENCRequest: go on in clear text.
pub const ENCRYPTION_REFUSED: u8 = b'N';

/// First byte of a TLS record: a client that speaks TLS at once, without SSLRequest. No startup packet
/// begins with it, for its length would be above the limit.
pub const DIRECT_TLS_FIRST_BYTE: u8 = 0x16;

/// Protocol that direct TLS must agree on by ALPN.
pub const ALPN_PROTOCOL: &[u8] = b"postgresql";

const CANCEL_REQUEST: Version = Version::new(1234, 5678);
const SSL_REQUEST: Version = Version::new(1234, 5679);
const GSSENC_REQUEST: Version = Version::new(1234, 5680);

/// Parameters whose name begins with this are options of the protocol, not of the session.
const PROTOCOL_OPTION_PREFIX: &[u8] = b"_pq_.";

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Incompatible revisions: 3.
    pub major: u16,
    /// Compatible ones: 0 or 2.
    pub minor: u16,
}

impl Version {
    /// Protocol 3.0, of PostgreSQL 7.4.
    pub const V3_0: Self = Self::new(3, 0);
    /// Protocol 3.2, of PostgreSQL 18: longer cancel keys. 3.1 was never used.
    pub const V3_2: Self = Self::new(3, 2);
    /// The newest we speak.
    pub const LATEST: Self = Self::V3_2;

    /// A version by its two numbers.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// May BackendKeyData carry a secret of other than 4 bytes?
    pub fn has_long_cancel_keys(self) -> bool {
        self >= Self::V3_2
    }

    pub(super) const fn from_wire(wire: u32) -> Self {
        let [a, b, c, d] = wire.to_be_bytes();
        Self::new(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    }

    pub(super) const fn to_wire(self) -> u32 {
        let ([a, b], [c, d]) = (self.major.to_be_bytes(), self.minor.to_be_bytes());
        u32::from_be_bytes([a, b, c, d])
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// One packet without a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The client wants a session.
    Startup(StartupMessage<'a>),
    /// The client wants TLS: answer [`SSL_ACCEPTED`] or [`ENCRYPTION_REFUSED`].
    SslRequest,
    /// The client wants GSSAPI encryption: answer [`GSS_ACCEPTED`] or [`ENCRYPTION_REFUSED`].
    GssEncRequest,
    /// Another session's statement is to be cancelled; nothing is answered.
    CancelRequest(CancelRequest<'a>),
}

/// A packet that cannot be obeyed. The connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartupError {
    /// The length is below 8 or above [`STARTUP_BYTES_MAX`] plus 4.
    Length,
    /// The body does not consist of pairs of strings and a final zero byte.
    Layout,
    /// A major version other than 3.
    Version(Version),
    /// A cancel request without a proper key. PostgreSQL closes without a message, and so should we.
    CancelKey,
}

impl From<StartupError> for Error {
    fn from(error: StartupError) -> Self {
        match error {
            StartupError::Length | StartupError::Layout | StartupError::CancelKey => Self::fatal(
                Fault::Client,
                SqlState::PROTOCOL_VIOLATION,
                "invalid startup packet",
            ),
            StartupError::Version(version) => Self::fatal(
                Fault::Client,
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("protocol version {version} is not supported"),
            ),
        }
    }
}

/// The packet at the front of `buffer` and its size in bytes; `None` while bytes are missing.
///
/// The length is checked as soon as its 4 bytes are there, before anything is kept for the packet. Bytes
/// behind an SSLRequest must not be taken for the client's: they were not encrypted.
///
/// Errors: see [`StartupError`].
pub fn parse(buffer: &[u8]) -> Result<Option<(Packet<'_>, usize)>, StartupError> {
    let Some((length, _)) = buffer.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let packet_bytes = match usize::try_from(i32::from_be_bytes(*length)) {
        Ok(bytes @ 8..) if bytes <= STARTUP_BYTES_MAX + 4 => bytes,
        _ => return Err(StartupError::Length),
    };
    let Some(packet) = buffer.get(4..packet_bytes) else {
        return Ok(None);
    };
    let mut reader = Reader::new(packet, "StartupMessage");
    let version = Version::from_wire(reader.u32().map_err(|_| StartupError::Length)?);
    let body = reader.rest();
    let packet = match version {
        SSL_REQUEST if body.is_empty() => Packet::SslRequest,
        GSSENC_REQUEST if body.is_empty() => Packet::GssEncRequest,
        SSL_REQUEST | GSSENC_REQUEST => return Err(StartupError::Layout),
        CANCEL_REQUEST => Packet::CancelRequest(CancelRequest::parse(body)?),
        Version { major: 3, .. } => Packet::Startup(StartupMessage::parse(version, body)?),
        _ => return Err(StartupError::Version(version)),
    };
    Ok(Some((packet, packet_bytes)))
}

/// What a client asks of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartupMessage<'a> {
    /// Version the client would like to speak; its major number is 3.
    pub version: Version,
    /// Pairs of strings, without the final zero byte.
    pairs: &'a [u8],
    // Values of the parameters that PostgreSQL interprets itself. It compares their names exactly, and takes the last of
    // several.
    user: Option<&'a [u8]>,
    database: Option<&'a [u8]>,
    replication: Option<&'a [u8]>,
    /// Settings as of a command line: [`super::startup_options::parameters`] reads them.
    pub options: Option<&'a [u8]>,
    /// Are there options of the protocol among `pairs`?
    protocol_options: bool,
}

impl<'a> StartupMessage<'a> {
    fn parse(version: Version, body: &'a [u8]) -> Result<Self, StartupError> {
        let Some((0, pairs)) = body.split_last() else {
            return Err(StartupError::Layout);
        };
        let mut message = Self {
            version,
            pairs,
            user: None,
            database: None,
            replication: None,
            options: None,
            protocol_options: false,
        };
        let mut reader = Reader::new(pairs, "StartupMessage");
        while !reader.rest().is_empty() {
            let name = reader.text().map_err(|_| StartupError::Layout)?;
            let value = reader.text().map_err(|_| StartupError::Layout)?;
            match name {
                // It would have been the final zero byte.
                b"" => return Err(StartupError::Layout),
                b"user" => message.user = Some(value),
                b"database" => message.database = Some(value),
                b"replication" => message.replication = Some(value),
                b"options" => message.options = Some(value),
                _ => message.protocol_options |= name.starts_with(PROTOCOL_OPTION_PREFIX),
            }
        }
        Ok(message)
    }

    /// Name and value of each parameter in the order sent, `user`, `database`, `options`, `replication` and
    /// protocol options included.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone + 'a {
        let mut reader = Reader::new(self.pairs, "StartupMessage");
        std::iter::from_fn(move || Some((reader.text().ok()?, reader.text().ok()?)))
    }

    /// Name of the user.
    ///
    /// Errors: 28000 without one.
    pub fn user(&self) -> Result<&'a [u8], Error> {
        match self.user {
            Some(user) if !user.is_empty() => Ok(user),
            _ => Err(Error::fatal(
                Fault::Client,
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                "startup packet has no user name",
            )),
        }
    }

    /// Name of the database; the user's name when there is none.
    ///
    /// Errors: as [`Self::user`].
    pub fn database(&self) -> Result<&'a [u8], Error> {
        match self.database {
            Some(database) if !database.is_empty() => Ok(database),
            _ => self.user(),
        }
    }

    /// Is this a replication connection, and of which kind?
    ///
    /// Errors: 22023 for a value that is neither a boolean nor `database`.
    pub fn replication(&self) -> Result<Replication, Error> {
        let Some(value) = self.replication else {
            return Ok(Replication::None);
        };
        if value == b"database" {
            return Ok(Replication::Logical);
        }
        match parse_bool(value) {
            Some(true) => Ok(Replication::Physical),
            Some(false) => Ok(Replication::None),
            None => Err(Error::fatal(
                Fault::Client,
                SqlState::INVALID_PARAMETER_VALUE,
                "invalid value for parameter \"replication\"",
            )
            .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")),
        }
    }

    /// Parameters of the session: `pairs` without `user`, `database`, `options`, `replication` and protocol
    /// options.
    pub fn session_parameters(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone + 'a {
        self.pairs().filter(|(name, _)| {
            !name.starts_with(PROTOCOL_OPTION_PREFIX)
                && !matches!(*name, b"user" | b"database" | b"options" | b"replication")
        })
    }

    /// What this session will speak.
    pub fn negotiate(&self) -> Negotiation<'a> {
        Negotiation {
            version: self.version.min(Version::LATEST),
            requested: *self,
        }
    }

    /// Appends a StartupMessage.
    pub fn encode<'p>(
        out: &mut Vec<u8>,
        version: Version,
        pairs: impl IntoIterator<Item = (&'p [u8], &'p [u8])>,
    ) {
        put_length_prefixed(out, |out| {
            out.extend_from_slice(&version.to_wire().to_be_bytes());
            for (name, value) in pairs {
                put_text(out, name);
                put_text(out, value);
            }
            out.push(0);
        });
    }
}

/// Kind of a connection by its startup parameter `replication`.
///
/// Source: <https://www.postgresql.org/docs/current/protocol-replication.html>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// An ordinary session.
    None,
    /// Streams the write-ahead log; belongs to no database.
    Physical,
    /// Streams changes of one database.
    Logical,
}

/// PostgreSQL's booleans: `on`, `off`, 1, 0 and unambiguous beginnings of `true`, `false`, `yes`, `no`.
fn parse_bool(value: &[u8]) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &[u8]| !value.is_empty() && word.starts_with(&value);
    match value.as_slice() {
        b"on" | b"1" => Some(true),
        b"of" | b"off" | b"0" => Some(false),
        _ if begins(b"true") || begins(b"yes") => Some(true),
        _ if begins(b"false") || begins(b"no") => Some(false),
        _ => None,
    }
}

/// Outcome of protocol negotiation: the older of the client's and our version. A client of the never
/// released 3.1 gets what it asked for, which is 3.0 in all but name, as from PostgreSQL 18.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiation<'a> {
    /// What the session speaks from now on.
    pub version: Version,
    requested: StartupMessage<'a>,
}

impl<'a> Negotiation<'a> {
    /// Names of protocol options that the client asked for. We know none, so none is granted.
    pub fn refused_options(&self) -> impl Iterator<Item = &'a [u8]> + Clone + 'a {
        self.requested
            .pairs()
            .map(|(name, _)| name)
            .filter(|name| name.starts_with(PROTOCOL_OPTION_PREFIX))
    }

    /// Must the client be told? Only if it got less than it asked for.
    pub fn needs_reply(&self) -> bool {
        self.version != self.requested.version || self.requested.protocol_options
    }

    /// Appends the NegotiateProtocolVersion that the client must get ahead of the first authentication
    /// request, if any is needed.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if self.needs_reply() {
            NegotiateProtocolVersion::encode(out, self.version, self.refused_options());
        }
    }
}

/// A request to cancel what another session is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CancelRequest<'a> {
    /// Process id as issued by BackendKeyData.
    pub process_id: i32,
    /// Secret as issued by BackendKeyData: 4 to 256 bytes. Compare in constant time.
    pub secret: &'a [u8],
}

impl std::fmt::Debug for CancelRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelRequest")
            .field("process_id", &self.process_id)
            .finish_non_exhaustive()
    }
}

impl<'a> CancelRequest<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, StartupError> {
        let mut reader = Reader::new(body, "CancelRequest");
        let process_id = reader.i32().map_err(|_| StartupError::CancelKey)?;
        let secret = reader.rest();
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
            return Err(StartupError::CancelKey);
        }
        Ok(Self { process_id, secret })
    }

    /// Appends a CancelRequest.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_length_prefixed(out, |out| {
            out.extend_from_slice(&CANCEL_REQUEST.to_wire().to_be_bytes());
            out.extend_from_slice(&self.process_id.to_be_bytes());
            out.extend_from_slice(self.secret);
        });
    }
}

/// The packet that asks a server for TLS.
pub const SSL_REQUEST_PACKET: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The packet that asks a server for GSSAPI encryption.
pub const GSSENC_REQUEST_PACKET: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// Fuzz target: any bytes parse or fail without panic; what parses is found again when encoded.
#[cfg(any(test, fuzzing))]
pub fn fuzz_startup(data: &[u8]) {
    let parsed = parse(data);
    if let Some(shorter) = data.len().checked_sub(1) {
        // More bytes never undo an answer.
        match parse(&data[..shorter]) {
            Ok(None) => {}
            earlier => assert_eq!(earlier, parsed),
        }
    }
    let Ok(Some((packet, bytes))) = parsed else {
        return;
    };
    let mut out = Vec::new();
    match packet {
        Packet::Startup(startup) => {
            StartupMessage::encode(&mut out, startup.version, startup.pairs());
            let _ = (startup.user(), startup.database(), startup.replication());
            if let Some(options) = startup.options {
                let _ = super::startup_options::parameters(options);
            }
            startup.negotiate().encode(&mut Vec::new());
        }
        Packet::SslRequest => out.extend_from_slice(&SSL_REQUEST_PACKET),
        Packet::GssEncRequest => out.extend_from_slice(&GSSENC_REQUEST_PACKET),
        Packet::CancelRequest(cancel) => cancel.encode(&mut out),
    }
    assert_eq!(out, &data[..bytes]);
}

#[cfg(test)]
mod tests;
