//! Messages a client sends: views, encoders, and copies with another statement name.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use super::backend::bare;
use super::rows::items;
use super::wire::{
    put_counted, put_formats, put_message, put_oids, put_text, put_value, FormatCodes, Malformed,
    Reader, TypeOids,
};

/// First bytes of the messages a client sends.
pub mod tag {
    #![expect(missing_docs, reason = "named as in the protocol chapter")]
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    /// PasswordMessage, SASLInitialResponse, SASLResponse, GSSResponse.
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// CopyDone, the same in both directions.
pub const COPY_DONE: [u8; 5] = super::backend::COPY_DONE;
/// Flush.
pub const FLUSH: [u8; 5] = bare(tag::FLUSH);
/// Sync.
pub const SYNC: [u8; 5] = bare(tag::SYNC);
/// Terminate.
pub const TERMINATE: [u8; 5] = bare(tag::TERMINATE);

/// Any message of a client, borrowed from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the protocol chapter")]
pub enum Message<'a> {
    Bind(Bind<'a>),
    Close(Target<'a>),
    CopyData(&'a [u8]),
    CopyDone,
    CopyFail(CopyFail<'a>),
    Describe(Target<'a>),
    Execute(Execute<'a>),
    Flush,
    FunctionCall(FunctionCall<'a>),
    Parse(Parse<'a>),
    /// What it is depends on what the server asked for: see [`super::authentication`].
    Password(PasswordFamily<'a>),
    Query(Query<'a>),
    Sync,
    Terminate,
}

/// Body of a PasswordMessage, SASLInitialResponse or SASLResponse. Not printed: it may hold a password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PasswordFamily<'a>(pub &'a [u8]);

impl std::fmt::Debug for PasswordFamily<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordFamily(..)")
    }
}

impl<'a> Message<'a> {
    /// The message of this tag and body.
    ///
    /// Errors: an unknown tag, or a body that is not of its layout.
    pub fn parse(tag: u8, body: &'a [u8]) -> Result<Self, Malformed> {
        let empty = |message, what| Reader::new(body, what).finish().map(|()| message);
        Ok(match tag {
            tag::BIND => Self::Bind(Bind::parse(body)?),
            tag::CLOSE => Self::Close(Target::parse(body)?),
            tag::COPY_DATA => Self::CopyData(body),
            tag::COPY_DONE => empty(Self::CopyDone, "CopyDone")?,
            tag::COPY_FAIL => Self::CopyFail(CopyFail::parse(body)?),
            tag::DESCRIBE => Self::Describe(Target::parse(body)?),
            tag::EXECUTE => Self::Execute(Execute::parse(body)?),
            tag::FLUSH => empty(Self::Flush, "Flush")?,
            tag::FUNCTION_CALL => Self::FunctionCall(FunctionCall::parse(body)?),
            tag::PARSE => Self::Parse(Parse::parse(body)?),
            tag::PASSWORD => Self::Password(PasswordFamily(body)),
            tag::QUERY => Self::Query(Query::parse(body)?),
            tag::SYNC => empty(Self::Sync, "Sync")?,
            // libpq and PostgreSQL agree that whatever follows the tag does not matter.
            tag::TERMINATE => Self::Terminate,
            _ => {
                return Err(Malformed {
                    message: "message: its type is unknown",
                })
            }
        })
    }
}

/// A simple query: statements separated by semicolons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The text, in the client's encoding.
    pub text: &'a [u8],
}

impl<'a> Query<'a> {
    /// A view of a message's body.
    ///
    /// Errors: anything but one string.
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "Query");
        let text = reader.text()?;
        reader.finish()?;
        Ok(Self { text })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_message(out, tag::QUERY, |out| put_text(out, self.text));
    }
}

/// Prepares a statement.
///
/// ```text
///   P │ length │ name 0 │ query 0 │ n │ n type OIDs │
///                        └─ rest ───────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Name of the statement; empty for the unnamed one.
    pub statement: &'a [u8],
    /// Text of the statement, in the client's encoding.
    pub query: &'a [u8],
    /// Types of the first parameters; may be fewer than the statement has, and 0 leaves one open.
    pub types: TypeOids<'a>,
    rest: &'a [u8],
}

impl<'a> Parse<'a> {
    /// A view of a message's body.
    ///
    /// Errors: a body cut short, or bytes behind its fields.
    #[expect(
        clippy::self_named_constructors,
        reason = "the message is called Parse, and every view has a parse()"
    )]
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "Parse");
        let statement = reader.text()?;
        let rest = reader.rest();
        let query = reader.text()?;
        let types = TypeOids::read(&mut reader)?;
        reader.finish()?;
        Ok(Self {
            statement,
            query,
            types,
            rest,
        })
    }

    /// The same of what [`Self::content`] gave.
    ///
    /// Errors: a content cut short, or bytes behind its fields.
    pub fn of_content(content: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(content, "Parse");
        let query = reader.text()?;
        let types = TypeOids::read(&mut reader)?;
        reader.finish()?;
        Ok(Self {
            statement: b"",
            query,
            types,
            rest: content,
        })
    }

    /// The body without the name: text and types, which is all that distinguishes two statements.
    pub const fn content(&self) -> &'a [u8] {
        self.rest
    }

    /// Appends the same message under another name.
    #[inline]
    pub fn encode_as(&self, out: &mut Vec<u8>, statement: &[u8]) {
        Self::encode_content(out, statement, self.rest);
    }

    /// Appends a Parse of what [`Self::content`] gave.
    #[inline]
    pub fn encode_content(out: &mut Vec<u8>, statement: &[u8], content: &[u8]) {
        put_message(out, tag::PARSE, |out| {
            put_text(out, statement);
            out.extend_from_slice(content);
        });
    }

    /// Appends a Parse.
    ///
    /// Panics above 65,535 types, which is PostgreSQL's limit.
    pub fn encode(
        out: &mut Vec<u8>,
        statement: &[u8],
        query: &[u8],
        types: impl IntoIterator<Item = u32>,
    ) {
        put_message(out, tag::PARSE, |out| {
            put_text(out, statement);
            put_text(out, query);
            put_oids(out, types);
        });
    }
}

/// Binds values to a prepared statement. Only the names are read until [`Bind::arguments`] is asked for.
///
/// ```text
///   B │ length │ portal 0 │ statement 0 │ n │ formats │ n │ values │ n │ result formats │
///                                        └─ rest ───────────────────────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Name of the portal; empty for the unnamed one.
    pub portal: &'a [u8],
    /// Name of the statement; empty for the unnamed one.
    pub statement: &'a [u8],
    rest: &'a [u8],
}

/// What [`Bind`] carries besides names. Every value was checked to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arguments<'a> {
    /// Formats of the values: see [`FormatCodes::of`].
    pub formats: FormatCodes<'a>,
    /// Formats wanted for the result's columns.
    pub result_formats: FormatCodes<'a>,
    count: u16,
    values: &'a [u8],
}

impl<'a> Arguments<'a> {
    /// The value of `$number`, `Some(None)` if it is NULL. `None`: there is none of that number.
    pub fn parameter(&self, number: u16) -> Option<Option<&'a [u8]>> {
        self.values().nth(usize::from(number).checked_sub(1)?)
    }
}

impl<'a> Bind<'a> {
    /// A view of a message's body that has read its names.
    ///
    /// Errors: a body cut short before the end of the names.
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "Bind");
        Ok(Self {
            portal: reader.text()?,
            statement: reader.text()?,
            rest: reader.rest(),
        })
    }

    /// Reads everything behind the names.
    ///
    /// Errors: a body cut short, or bytes behind its fields.
    pub fn arguments(&self) -> Result<Arguments<'a>, Malformed> {
        let mut reader = Reader::new(self.rest, "Bind");
        let formats = FormatCodes::read(&mut reader)?;
        let count = reader.u16()?;
        let values = reader.rest();
        for _ in 0..count {
            reader.value()?;
        }
        let result_formats = FormatCodes::read(&mut reader)?;
        reader.finish()?;
        Ok(Arguments {
            formats,
            result_formats,
            count,
            values,
        })
    }

    /// Appends the same message for a statement of another name.
    #[inline]
    pub fn encode_as(&self, out: &mut Vec<u8>, statement: &[u8]) {
        put_message(out, tag::BIND, |out| {
            put_text(out, self.portal);
            put_text(out, statement);
            out.extend_from_slice(self.rest);
        });
    }

    /// Appends the same message for the unnamed statement and a portal of this name.
    pub fn encode_for(&self, out: &mut Vec<u8>, portal: &[u8]) {
        put_message(out, tag::BIND, |out| {
            put_text(out, portal);
            put_text(out, b"");
            out.extend_from_slice(self.rest);
        });
    }

    /// Appends a Bind.
    ///
    /// Panics above 65,535 formats, values or result formats, which are PostgreSQL's limits.
    pub fn encode<'v>(
        out: &mut Vec<u8>,
        portal: &[u8],
        statement: &[u8],
        formats: impl IntoIterator<Item = i16>,
        values: impl IntoIterator<Item = Option<&'v [u8]>>,
        result_formats: impl IntoIterator<Item = i16>,
    ) {
        put_message(out, tag::BIND, |out| {
            put_text(out, portal);
            put_text(out, statement);
            put_formats(out, formats);
            put_counted(out, values, put_value);
            put_formats(out, result_formats);
        });
    }
}

impl<'a> Arguments<'a> {
    /// Number of values.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Are there no values?
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values of `$1`, `$2` and so on, `None` for NULL.
    pub fn values(&self) -> impl Iterator<Item = Option<&'a [u8]>> + Clone + 'a {
        // The result formats follow the last value, so the walk must end by the count.
        let mut reader = Reader::new(self.values, "Bind");
        (0..self.count).map_while(move |_| reader.value().ok())
    }
}

/// What Describe and Close name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A prepared statement; empty for the unnamed one.
    Statement(&'a [u8]),
    /// A portal; empty for the unnamed one.
    Portal(&'a [u8]),
}

impl<'a> Target<'a> {
    /// A view of the body of a Describe or Close.
    ///
    /// Errors: anything but `S` or `P` and a name.
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "Describe or Close");
        let kind = reader.u8()?;
        let name = reader.text()?;
        reader.finish()?;
        match kind {
            b'S' => Ok(Self::Statement(name)),
            b'P' => Ok(Self::Portal(name)),
            _ => Err(reader.malformed()),
        }
    }

    /// Appends a Describe of it.
    pub fn encode_describe(self, out: &mut Vec<u8>) {
        self.encode(out, tag::DESCRIBE);
    }

    /// Appends a Close of it.
    pub fn encode_close(self, out: &mut Vec<u8>) {
        self.encode(out, tag::CLOSE);
    }

    fn encode(self, out: &mut Vec<u8>, tag: u8) {
        let (kind, name) = match self {
            Self::Statement(name) => (b'S', name),
            Self::Portal(name) => (b'P', name),
        };
        put_message(out, tag, |out| {
            out.push(kind);
            put_text(out, name);
        });
    }
}

/// Runs a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    /// Name of the portal; empty for the unnamed one.
    pub portal: &'a [u8],
    /// Stop with PortalSuspended after so many rows; no limit if 0 or negative.
    pub rows_max: i32,
}

impl<'a> Execute<'a> {
    /// A view of a message's body.
    ///
    /// Errors: a body cut short, or bytes behind its fields.
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "Execute");
        let portal = reader.text()?;
        let rows_max = reader.i32()?;
        reader.finish()?;
        Ok(Self { portal, rows_max })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_message(out, tag::EXECUTE, |out| {
            put_text(out, self.portal);
            out.extend_from_slice(&self.rows_max.to_be_bytes());
        });
    }
}

/// The client gives up a COPY FROM STDIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFail<'a> {
    /// Why.
    pub reason: &'a [u8],
}

impl<'a> CopyFail<'a> {
    /// A view of a message's body.
    ///
    /// Errors: anything but one string.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "CopyFail");
        let reason = reader.text()?;
        reader.finish()?;
        Ok(Self { reason })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_message(out, tag::COPY_FAIL, |out| put_text(out, self.reason));
    }
}

/// Calls a function by OID, without SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionCall<'a> {
    /// OID of the function.
    pub function_oid: u32,
    /// Formats of the arguments: see [`FormatCodes::of`].
    pub formats: FormatCodes<'a>,
    /// Format wanted for the result.
    pub result_format: i16,
    count: u16,
    values: &'a [u8],
}

impl<'a> FunctionCall<'a> {
    /// A view of a message's body.
    ///
    /// Errors: a body cut short, or bytes behind its fields.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "FunctionCall");
        let function_oid = reader.u32()?;
        let formats = FormatCodes::read(&mut reader)?;
        let count = reader.u16()?;
        let Some((values, result_format)) = reader.rest().split_last_chunk::<2>() else {
            return Err(reader.malformed());
        };
        let call = Self {
            function_oid,
            formats,
            result_format: i16::from_be_bytes(*result_format),
            count,
            values,
        };
        call.values().try_for_each(|value| value.map(drop))?;
        Ok(call)
    }

    /// The arguments in order, `None` for NULL. A message that was parsed has no malformed ones.
    pub fn values(&self) -> impl Iterator<Item = Result<Option<&'a [u8]>, Malformed>> + Clone + 'a {
        items(self.count, self.values, "FunctionCall", |reader| {
            reader.value()
        })
    }

    /// Appends a FunctionCall.
    ///
    /// Panics above 65,535 formats or values; PostgreSQL has at most 100.
    pub fn encode<'v>(
        out: &mut Vec<u8>,
        function_oid: u32,
        formats: impl IntoIterator<Item = i16>,
        values: impl IntoIterator<Item = Option<&'v [u8]>>,
        result_format: i16,
    ) {
        put_message(out, tag::FUNCTION_CALL, |out| {
            out.extend_from_slice(&function_oid.to_be_bytes());
            put_formats(out, formats);
            put_counted(out, values, put_value);
            out.extend_from_slice(&result_format.to_be_bytes());
        });
    }
}

/// Appends a CopyData, the same in both directions.
#[inline]
pub fn put_copy_data(out: &mut Vec<u8>, data: &[u8]) {
    put_message(out, tag::COPY_DATA, |out| out.extend_from_slice(data));
}

impl Message<'_> {
    /// Appends the message from its decoded fields. `None` when a field that is only checked when asked
    /// for turns out to be malformed.
    pub fn encode(&self, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Bind(m) => {
                let arguments = m.arguments().ok()?;
                Bind::encode(
                    out,
                    m.portal,
                    m.statement,
                    arguments.formats.iter(),
                    arguments.values(),
                    arguments.result_formats.iter(),
                );
            }
            Self::Close(m) => m.encode_close(out),
            Self::CopyData(data) => put_copy_data(out, data),
            Self::CopyDone => out.extend_from_slice(&COPY_DONE),
            Self::CopyFail(m) => m.encode(out),
            Self::Describe(m) => m.encode_describe(out),
            Self::Execute(m) => m.encode(out),
            Self::Flush => out.extend_from_slice(&FLUSH),
            Self::FunctionCall(m) => {
                let values: Vec<_> = m.values().collect::<Result<_, _>>().ok()?;
                let formats = m.formats.iter();
                FunctionCall::encode(out, m.function_oid, formats, values, m.result_format);
            }
            Self::Parse(m) => Parse::encode(out, m.statement, m.query, m.types.iter()),
            Self::Password(PasswordFamily(body)) => {
                super::authentication::put_sasl_response(out, body);
            }
            Self::Query(m) => m.encode(out),
            Self::Sync => out.extend_from_slice(&SYNC),
            Self::Terminate => out.extend_from_slice(&TERMINATE),
        }
        Some(())
    }
}

/// Fuzz target: any bytes parse or fail without panic; what parses is found again when encoded, and a new
/// statement name changes nothing but the name.
#[cfg(any(test, fuzzing))]
pub fn fuzz_frontend(data: &[u8]) {
    use super::authentication::{PasswordMessage, SaslInitialResponse};

    let Some((&tag, body)) = data.split_first() else {
        return;
    };
    let _ = PasswordMessage::parse(body);
    let _ = SaslInitialResponse::parse(body);
    let Ok(message) = Message::parse(tag, body) else {
        return;
    };
    let mut out = Vec::new();
    if message != Message::Terminate && message.encode(&mut out).is_some() {
        let mut expected = Vec::new();
        put_message(&mut expected, tag, |out| out.extend_from_slice(body));
        assert_eq!(out, expected, "{message:?}");
    }

    let mut renamed = Vec::new();
    match message {
        Message::Parse(parse) => {
            parse.encode_as(&mut renamed, b"other");
            let other = Parse::parse(&renamed[5..]).expect("only the name differs");
            assert_eq!(
                (other.statement, other.content()),
                (&b"other"[..], parse.content())
            );
        }
        Message::Bind(bind) => {
            bind.encode_as(&mut renamed, b"other");
            let other = Bind::parse(&renamed[5..]).expect("only the name differs");
            assert_eq!(
                (other.statement, other.portal),
                (&b"other"[..], bind.portal)
            );
            assert_eq!(other.arguments(), bind.arguments());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
