//! Messages a server sends: views and encoders.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use super::authentication::Authentication;
use super::error_fields::Fields;
use super::rows::{CopyResponse, DataRow, ParameterDescription, RowDescription};
use super::startup::{Version, SECRET_BYTES_MAX, SECRET_BYTES_MIN};
use super::wire::{put_message, put_text, put_value, Malformed, Reader};

/// First bytes of the messages a server sends.
pub mod tag {
    #![expect(missing_docs, reason = "named as in the protocol chapter")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// BindComplete.
pub const BIND_COMPLETE: [u8; 5] = bare(tag::BIND_COMPLETE);
/// CloseComplete.
pub const CLOSE_COMPLETE: [u8; 5] = bare(tag::CLOSE_COMPLETE);
/// CopyDone, the same in both directions.
pub const COPY_DONE: [u8; 5] = bare(tag::COPY_DONE);
/// EmptyQueryResponse.
pub const EMPTY_QUERY_RESPONSE: [u8; 5] = bare(tag::EMPTY_QUERY_RESPONSE);
/// NoData.
pub const NO_DATA: [u8; 5] = bare(tag::NO_DATA);
/// ParseComplete.
pub const PARSE_COMPLETE: [u8; 5] = bare(tag::PARSE_COMPLETE);
/// PortalSuspended.
pub const PORTAL_SUSPENDED: [u8; 5] = bare(tag::PORTAL_SUSPENDED);

/// A message without a body.
pub(super) const fn bare(tag: u8) -> [u8; 5] {
    [tag, 0, 0, 0, 4]
}

/// ReadyForQuery.
#[inline]
pub const fn ready_for_query(status: TransactionStatus) -> [u8; 6] {
    [tag::READY_FOR_QUERY, 0, 0, 0, 5, status.as_byte()]
}

/// Any message of a server, borrowed from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the protocol chapter")]
pub enum Message<'a> {
    Authentication(Authentication<'a>),
    BackendKeyData(BackendKeyData<'a>),
    BindComplete,
    CloseComplete,
    CommandComplete(CommandComplete<'a>),
    CopyBothResponse(CopyResponse<'a>),
    CopyData(&'a [u8]),
    CopyDone,
    CopyInResponse(CopyResponse<'a>),
    CopyOutResponse(CopyResponse<'a>),
    DataRow(DataRow<'a>),
    EmptyQueryResponse,
    ErrorResponse(Fields<'a>),
    FunctionCallResponse(FunctionCallResponse<'a>),
    NegotiateProtocolVersion(NegotiateProtocolVersion<'a>),
    NoData,
    NoticeResponse(Fields<'a>),
    NotificationResponse(NotificationResponse<'a>),
    ParameterDescription(ParameterDescription<'a>),
    ParameterStatus(ParameterStatus<'a>),
    ParseComplete,
    PortalSuspended,
    ReadyForQuery(TransactionStatus),
    RowDescription(RowDescription<'a>),
}

impl<'a> Message<'a> {
    /// The message of this tag and body.
    ///
    /// Errors: an unknown tag, or a body that is not of its layout.
    pub fn parse(tag: u8, body: &'a [u8]) -> Result<Self, Malformed> {
        let empty = |message, what| Reader::new(body, what).finish().map(|()| message);
        Ok(match tag {
            tag::AUTHENTICATION => Self::Authentication(Authentication::parse(body)?),
            tag::BACKEND_KEY_DATA => Self::BackendKeyData(BackendKeyData::parse(body)?),
            tag::BIND_COMPLETE => empty(Self::BindComplete, "BindComplete")?,
            tag::CLOSE_COMPLETE => empty(Self::CloseComplete, "CloseComplete")?,
            tag::COMMAND_COMPLETE => Self::CommandComplete(CommandComplete::parse(body)?),
            tag::COPY_BOTH_RESPONSE => Self::CopyBothResponse(CopyResponse::parse(body)?),
            tag::COPY_DATA => Self::CopyData(body),
            tag::COPY_DONE => empty(Self::CopyDone, "CopyDone")?,
            tag::COPY_IN_RESPONSE => Self::CopyInResponse(CopyResponse::parse(body)?),
            tag::COPY_OUT_RESPONSE => Self::CopyOutResponse(CopyResponse::parse(body)?),
            tag::DATA_ROW => Self::DataRow(DataRow::parse(body)?),
            tag::EMPTY_QUERY_RESPONSE => empty(Self::EmptyQueryResponse, "EmptyQueryResponse")?,
            tag::ERROR_RESPONSE => Self::ErrorResponse(Fields::parse(body)?),
            tag::FUNCTION_CALL_RESPONSE => {
                Self::FunctionCallResponse(FunctionCallResponse::parse(body)?)
            }
            tag::NEGOTIATE_PROTOCOL_VERSION => {
                Self::NegotiateProtocolVersion(NegotiateProtocolVersion::parse(body)?)
            }
            tag::NO_DATA => empty(Self::NoData, "NoData")?,
            tag::NOTICE_RESPONSE => Self::NoticeResponse(Fields::parse(body)?),
            tag::NOTIFICATION_RESPONSE => {
                Self::NotificationResponse(NotificationResponse::parse(body)?)
            }
            tag::PARAMETER_DESCRIPTION => {
                Self::ParameterDescription(ParameterDescription::parse(body)?)
            }
            tag::PARAMETER_STATUS => Self::ParameterStatus(ParameterStatus::parse(body)?),
            tag::PARSE_COMPLETE => empty(Self::ParseComplete, "ParseComplete")?,
            tag::PORTAL_SUSPENDED => empty(Self::PortalSuspended, "PortalSuspended")?,
            tag::READY_FOR_QUERY => Self::ReadyForQuery(TransactionStatus::parse(body)?),
            tag::ROW_DESCRIPTION => Self::RowDescription(RowDescription::parse(body)?),
            _ => {
                return Err(Malformed {
                    message: "message: its type is unknown",
                })
            }
        })
    }
}

/// What ReadyForQuery says about the session's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionStatus {
    /// Not in a transaction block.
    Idle,
    /// In a transaction block.
    Transaction,
    /// In a failed one: statements are refused until it is rolled back.
    Failed,
}

impl TransactionStatus {
    /// Reads the body of a ReadyForQuery.
    ///
    /// Errors: anything but one of the three bytes.
    #[inline]
    pub const fn parse(body: &[u8]) -> Result<Self, Malformed> {
        match body {
            b"I" => Ok(Self::Idle),
            b"T" => Ok(Self::Transaction),
            b"E" => Ok(Self::Failed),
            _ => Err(Malformed {
                message: "ReadyForQuery",
            }),
        }
    }

    /// `I`, `T` or `E`.
    #[inline]
    pub const fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Transaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// The key with which this session's statements can be cancelled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BackendKeyData<'a> {
    /// Process id.
    pub process_id: i32,
    /// Secret: 4 bytes, from protocol 3.2 up to 256.
    pub secret: &'a [u8],
}

impl std::fmt::Debug for BackendKeyData<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendKeyData")
            .field("process_id", &self.process_id)
            .finish_non_exhaustive()
    }
}

impl<'a> BackendKeyData<'a> {
    /// A view of a message's body.
    ///
    /// Errors: a secret shorter than 4 or longer than 256 bytes.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "BackendKeyData");
        let process_id = reader.i32()?;
        let secret = reader.rest();
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
            return Err(reader.malformed());
        }
        Ok(Self { process_id, secret })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_message(out, tag::BACKEND_KEY_DATA, |out| {
            out.extend_from_slice(&self.process_id.to_be_bytes());
            out.extend_from_slice(self.secret);
        });
    }
}

/// A statement is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandComplete<'a> {
    /// Command tag: `SELECT 5`, `INSERT 0 1`, `BEGIN`.
    pub tag: &'a [u8],
}

impl<'a> CommandComplete<'a> {
    /// A view of a message's body.
    ///
    /// Errors: anything but one string.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "CommandComplete");
        let tag = reader.text()?;
        reader.finish()?;
        Ok(Self { tag })
    }

    /// The number at the end of the tag: rows read or written. `None` for commands that count nothing.
    pub fn rows(&self) -> Option<u64> {
        self.split().1
    }

    /// The tag in two parts: everything before the row count, and the count. `INSERT 0 1` is
    /// `INSERT 0` and 1.
    pub fn split(&self) -> (&'a [u8], Option<u64>) {
        let mut words = self.tag.rsplitn(2, |&byte| byte == b' ');
        match (words.next().and_then(parse_count), words.next()) {
            (Some(count), Some(command)) => (command, Some(count)),
            _ => (self.tag, None),
        }
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_message(out, tag::COMMAND_COMPLETE, |out| put_text(out, self.tag));
    }
}

fn parse_count(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0u64, |count, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        count.checked_mul(10)?.checked_add(digit)
    })
}

/// Result of a function called by FunctionCall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionCallResponse<'a> {
    /// The value, `None` for NULL.
    pub value: Option<&'a [u8]>,
}

impl<'a> FunctionCallResponse<'a> {
    /// A view of a message's body.
    ///
    /// Errors: anything but one value.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "FunctionCallResponse");
        let value = reader.value()?;
        reader.finish()?;
        Ok(Self { value })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_message(out, tag::FUNCTION_CALL_RESPONSE, |out| {
            put_value(out, self.value);
        });
    }
}

/// The server speaks an older version, or does not know some protocol options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiateProtocolVersion<'a> {
    /// The version that the server will speak.
    pub version: Version,
    count: u32,
    options: &'a [u8],
}

impl<'a> NegotiateProtocolVersion<'a> {
    /// A view of a message's body.
    ///
    /// Errors: other than as many strings as it says.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "NegotiateProtocolVersion");
        let version = Version::from_wire(reader.u32()?);
        let count = reader.u32()?;
        let options = reader.rest();
        // Each string takes a byte at least, so a false count ends this loop early.
        for _ in 0..count {
            reader.text()?;
        }
        reader.finish()?;
        Ok(Self {
            version,
            count,
            options,
        })
    }

    /// Number of options that the server does not know.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Does the server know all options?
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names of the options that the server does not know.
    pub fn options(&self) -> impl Iterator<Item = &'a [u8]> + Clone + 'a {
        let mut reader = Reader::new(self.options, "NegotiateProtocolVersion");
        std::iter::from_fn(move || reader.text().ok())
    }

    /// Appends a NegotiateProtocolVersion.
    pub fn encode<'o>(
        out: &mut Vec<u8>,
        version: Version,
        options: impl Iterator<Item = &'o [u8]> + Clone,
    ) {
        put_message(out, tag::NEGOTIATE_PROTOCOL_VERSION, |out| {
            out.extend_from_slice(&version.to_wire().to_be_bytes());
            let count = u32::try_from(options.clone().count())
                .expect("a startup packet of 10,000 bytes holds fewer options");
            out.extend_from_slice(&count.to_be_bytes());
            options.for_each(|option| put_text(out, option));
        });
    }
}

/// A message of another session by NOTIFY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationResponse<'a> {
    /// Process id of the session that sent it.
    pub process_id: i32,
    /// Name of the channel.
    pub channel: &'a [u8],
    /// What was sent.
    pub payload: &'a [u8],
}

impl<'a> NotificationResponse<'a> {
    /// A view of a message's body.
    ///
    /// Errors: a body cut short, or bytes behind its fields.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "NotificationResponse");
        let notification = Self {
            process_id: reader.i32()?,
            channel: reader.text()?,
            payload: reader.text()?,
        };
        reader.finish()?;
        Ok(notification)
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_message(out, tag::NOTIFICATION_RESPONSE, |out| {
            out.extend_from_slice(&self.process_id.to_be_bytes());
            put_text(out, self.channel);
            put_text(out, self.payload);
        });
    }
}

/// Current value of a run-time parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    /// Name of the parameter.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> ParameterStatus<'a> {
    /// A view of a message's body.
    ///
    /// Errors: anything but two strings.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "ParameterStatus");
        let status = Self {
            name: reader.text()?,
            value: reader.text()?,
        };
        reader.finish()?;
        Ok(status)
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_message(out, tag::PARAMETER_STATUS, |out| {
            put_text(out, self.name);
            put_text(out, self.value);
        });
    }
}

impl Message<'_> {
    /// Appends the message from its decoded fields. `None` when a field that is only checked as it is
    /// walked turns out to be malformed.
    pub fn encode(&self, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Authentication(m) => m.encode(out),
            Self::BackendKeyData(m) => m.encode(out),
            Self::BindComplete => out.extend_from_slice(&BIND_COMPLETE),
            Self::CloseComplete => out.extend_from_slice(&CLOSE_COMPLETE),
            Self::CommandComplete(m) => m.encode(out),
            Self::CopyBothResponse(m) => {
                CopyResponse::encode(out, tag::COPY_BOTH_RESPONSE, m.format, m.columns.iter());
            }
            Self::CopyData(data) => super::frontend::put_copy_data(out, data),
            Self::CopyDone => out.extend_from_slice(&COPY_DONE),
            Self::CopyInResponse(m) => {
                CopyResponse::encode(out, tag::COPY_IN_RESPONSE, m.format, m.columns.iter());
            }
            Self::CopyOutResponse(m) => {
                CopyResponse::encode(out, tag::COPY_OUT_RESPONSE, m.format, m.columns.iter());
            }
            Self::DataRow(m) => {
                let values: Vec<_> = m.values().collect::<Result<_, _>>().ok()?;
                DataRow::encode(out, values);
            }
            Self::EmptyQueryResponse => out.extend_from_slice(&EMPTY_QUERY_RESPONSE),
            Self::ErrorResponse(m) => m.encode_error(out),
            Self::FunctionCallResponse(m) => m.encode(out),
            Self::NegotiateProtocolVersion(m) => {
                NegotiateProtocolVersion::encode(out, m.version, m.options());
            }
            Self::NoData => out.extend_from_slice(&NO_DATA),
            Self::NoticeResponse(m) => m.encode_notice(out),
            Self::NotificationResponse(m) => m.encode(out),
            Self::ParameterDescription(m) => ParameterDescription::encode(out, m.types.iter()),
            Self::ParameterStatus(m) => m.encode(out),
            Self::ParseComplete => out.extend_from_slice(&PARSE_COMPLETE),
            Self::PortalSuspended => out.extend_from_slice(&PORTAL_SUSPENDED),
            Self::ReadyForQuery(status) => out.extend_from_slice(&ready_for_query(*status)),
            Self::RowDescription(m) => {
                let fields: Vec<_> = m.fields().collect::<Result<_, _>>().ok()?;
                RowDescription::encode(out, fields);
            }
        }
        Some(())
    }
}

/// Fuzz target: any bytes parse or fail without panic; what parses is found again when encoded.
#[cfg(any(test, fuzzing))]
pub fn fuzz_backend(data: &[u8]) {
    let Some((&tag, body)) = data.split_first() else {
        return;
    };
    let Ok(message) = Message::parse(tag, body) else {
        return;
    };
    if let Message::CommandComplete(complete) = message {
        complete.split();
    }
    if let Message::ErrorResponse(fields) | Message::NoticeResponse(fields) = message {
        let _ = (
            fields.severity(),
            fields.code(),
            fields.message(),
            fields.is_fatal(),
        );
    }
    let mut out = Vec::new();
    if message.encode(&mut out).is_some() {
        let mut expected = Vec::new();
        put_message(&mut expected, tag, |out| out.extend_from_slice(body));
        assert_eq!(out, expected, "{message:?}");
    }
}

#[cfg(test)]
mod tests;
