//! Golden exchanges: what a real server and libpq said is read as it was meant, however it was split.
//!
//! Each line of a transcript holds direction, length, name, fields and bytes of one message. Names and fields
//! were written by `record.py`, which shares no code with what is tested here.

use pgdog::protocol::authentication::{Authentication, SaslInitialResponse};
use pgdog::protocol::error_fields::Fields;
use pgdog::protocol::frame::{Frames, BODY_BYTES_MAX, HEADER_BYTES};
use pgdog::protocol::frontend::{PasswordFamily, Target};
use pgdog::protocol::rows::{CopyResponse, DataRow};
use pgdog::protocol::startup::{self, Packet, StartupMessage};
use pgdog::protocol::wire::Malformed;
use pgdog::protocol::{backend, frontend};

/// One line of a transcript.
struct Line<'a> {
    from_client: bool,
    name: &'a str,
    fields: &'a str,
    length: usize,
    bytes: Vec<u8>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Self {
        let columns: Vec<_> = line.split('\t').collect();
        let &[direction, length, name, fields, hex] = &columns[..] else {
            panic!("five columns: {line}");
        };
        let bytes = hex.as_bytes().chunks(2).map(|digits| {
            let digits = std::str::from_utf8(digits).unwrap();
            u8::from_str_radix(digits, 16).unwrap()
        });
        Self {
            from_client: direction == "F",
            name,
            fields,
            length: length.parse().unwrap(),
            bytes: bytes.collect(),
        }
    }

    fn rendered(&self) -> (String, String) {
        (self.name.to_owned(), self.fields.to_owned())
    }
}

fn each_transcript(check: impl Fn(&str, &[Line<'_>])) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let mut found = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines: Vec<_> = text.lines().map(Line::parse).collect();
            assert!(!lines.is_empty());
            check(&path.display().to_string(), &lines);
            found += 1;
        }
    }
    assert!(found >= 11, "{found} transcripts");
}

/// What both readers of a connection need to remember.
#[derive(Default)]
struct Reader {
    started: bool,
    mechanism_sent: bool,
    encryption_asked: bool,
}

impl Reader {
    /// The message at the front of `data`, its size, and its bytes encoded again.
    fn read(
        &mut self,
        from_client: bool,
        data: &[u8],
    ) -> Option<((String, String), usize, Vec<u8>)> {
        let mut out = Vec::new();
        if from_client && !self.started {
            let (packet, bytes) = startup::parse(data).unwrap()?;
            self.started = matches!(packet, Packet::Startup(_));
            self.encryption_asked |= packet == Packet::SslRequest;
            return Some((render_packet(packet, &mut out), bytes, out));
        }
        if !from_client && std::mem::take(&mut self.encryption_asked) {
            if let Some(&answer) = data.first() {
                let fields = char::from(answer).to_string();
                return Some((("EncryptionResponse".into(), fields), 1, vec![answer]));
            }
            self.encryption_asked = true;
            return None;
        }
        let frame = Frames::new(data, BODY_BYTES_MAX).next()?.unwrap();
        let rendered = if from_client {
            let message = frontend::Message::parse(frame.tag, frame.body).unwrap();
            message.encode(&mut out).unwrap();
            self.render_frontend(message)
        } else {
            let message = backend::Message::parse(frame.tag, frame.body).unwrap();
            message.encode(&mut out).unwrap();
            render_backend(message)
        };
        let (name, fields) = rendered.unwrap();
        Some(((name.to_owned(), fields), frame.range.end, out))
    }

    fn render_frontend(
        &mut self,
        message: frontend::Message<'_>,
    ) -> Result<(&'static str, String), Malformed> {
        use frontend::Message as M;
        let target = |target| match target {
            Target::Statement(name) => format!("S {}", quoted(name)),
            Target::Portal(name) => format!("P {}", quoted(name)),
        };
        Ok(match message {
            M::Bind(bind) => {
                let arguments = bind.arguments()?;
                let mut fields = vec![quoted(bind.portal), quoted(bind.statement)];
                fields.push(list(arguments.formats.iter()));
                fields.push(arguments.len().to_string());
                fields.extend(arguments.values().map(value));
                fields.push(list(arguments.result_formats.iter()));
                ("Bind", fields.join(" "))
            }
            M::Close(what) => ("Close", target(what)),
            M::CopyData(data) => ("CopyData", raw(data)),
            M::CopyDone => ("CopyDone", String::new()),
            M::CopyFail(fail) => ("CopyFail", quoted(fail.reason)),
            M::Describe(what) => ("Describe", target(what)),
            M::Execute(m) => ("Execute", format!("{} {}", quoted(m.portal), m.rows_max)),
            M::Flush => ("Flush", String::new()),
            M::FunctionCall(call) => {
                let values: Vec<_> = call.values().collect::<Result<_, _>>()?;
                let mut fields = vec![call.function_oid.to_string(), list(call.formats.iter())];
                fields.push(values.len().to_string());
                fields.extend(values.into_iter().map(value));
                fields.push(call.result_format.to_string());
                ("FunctionCall", fields.join(" "))
            }
            M::Parse(m) => (
                "Parse",
                format!(
                    "{} {} {}",
                    quoted(m.statement),
                    quoted(m.query),
                    list(m.types.iter())
                ),
            ),
            M::Password(PasswordFamily(body)) if self.mechanism_sent => ("SASLResponse", raw(body)),
            M::Password(PasswordFamily(body)) => {
                self.mechanism_sent = true;
                let m = SaslInitialResponse::parse(body)?;
                (
                    "SASLInitialResponse",
                    format!("{} {}", quoted(m.mechanism), value(m.data)),
                )
            }
            M::Query(query) => ("Query", quoted(query.text)),
            M::Sync => ("Sync", String::new()),
            M::Terminate => ("Terminate", String::new()),
        })
    }
}

fn render_packet(packet: Packet<'_>, out: &mut Vec<u8>) -> (String, String) {
    match packet {
        Packet::Startup(m) => {
            StartupMessage::encode(out, m.version, m.pairs());
            let mut fields = format!("{} {}", m.version.major, m.version.minor);
            for (name, value) in m.pairs() {
                fields += &format!(" {} {}", quoted(name), quoted(value));
            }
            ("StartupMessage".into(), fields)
        }
        Packet::SslRequest => {
            out.extend_from_slice(&startup::SSL_REQUEST_PACKET);
            ("SSLRequest".into(), String::new())
        }
        Packet::GssEncRequest | Packet::CancelRequest(_) => panic!("not recorded: {packet:?}"),
    }
}

fn render_backend(message: backend::Message<'_>) -> Result<(&'static str, String), Malformed> {
    use backend::Message as M;
    let copy = |m: CopyResponse<'_>| format!("{} {}", m.format, list(m.columns.iter()));
    let none = String::new();
    Ok(match message {
        M::Authentication(m) => match m {
            Authentication::Ok => ("AuthenticationOk", none),
            Authentication::Sasl(m) => {
                let names: Vec<_> = m.iter().map(quoted).collect();
                ("AuthenticationSASL", names.join(" "))
            }
            Authentication::SaslContinue(data) => ("AuthenticationSASLContinue", raw(data)),
            Authentication::SaslFinal(data) => ("AuthenticationSASLFinal", raw(data)),
            _ => panic!("not recorded: {m:?}"),
        },
        M::BackendKeyData(m) => (
            "BackendKeyData",
            format!("{} {}", m.process_id, raw(m.secret)),
        ),
        M::BindComplete => ("BindComplete", none),
        M::CloseComplete => ("CloseComplete", none),
        M::CommandComplete(m) => ("CommandComplete", quoted(m.tag)),
        M::CopyBothResponse(m) => ("CopyBothResponse", copy(m)),
        M::CopyData(data) => ("CopyData", raw(data)),
        M::CopyDone => ("CopyDone", none),
        M::CopyInResponse(m) => ("CopyInResponse", copy(m)),
        M::CopyOutResponse(m) => ("CopyOutResponse", copy(m)),
        M::DataRow(m) => ("DataRow", row(m)?),
        M::EmptyQueryResponse => ("EmptyQueryResponse", none),
        M::ErrorResponse(m) => ("ErrorResponse", report(m)),
        M::FunctionCallResponse(m) => ("FunctionCallResponse", value(m.value)),
        M::NegotiateProtocolVersion(m) => {
            let wire = u32::from(m.version.major) << 16 | u32::from(m.version.minor);
            let options: String = m
                .options()
                .map(|name| format!(" {}", quoted(name)))
                .collect();
            (
                "NegotiateProtocolVersion",
                format!("{wire} {}{options}", m.len()),
            )
        }
        M::NoData => ("NoData", none),
        M::NoticeResponse(m) => ("NoticeResponse", report(m)),
        M::NotificationResponse(m) => (
            "NotificationResponse",
            format!(
                "{} {} {}",
                m.process_id,
                quoted(m.channel),
                quoted(m.payload)
            ),
        ),
        M::ParameterDescription(m) => ("ParameterDescription", list(m.types.iter())),
        M::ParameterStatus(m) => (
            "ParameterStatus",
            format!("{} {}", quoted(m.name), quoted(m.value)),
        ),
        M::ParseComplete => ("ParseComplete", none),
        M::PortalSuspended => ("PortalSuspended", none),
        M::ReadyForQuery(status) => ("ReadyForQuery", char::from(status.as_byte()).to_string()),
        M::RowDescription(m) => {
            let mut fields = m.len().to_string();
            for field in m.fields() {
                let f = field?;
                fields += &format!(
                    " {} {} {} {} {} {} {}",
                    quoted(f.name),
                    f.table_oid,
                    f.column,
                    f.type_oid,
                    f.type_bytes,
                    f.type_modifier,
                    f.format
                );
            }
            ("RowDescription", fields)
        }
    })
}

fn escaped(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| match byte {
            b' '..=b'[' | b']'..=b'~' => char::from(*byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        })
        .collect()
}

fn quoted(text: &[u8]) -> String {
    format!("\"{}\"", escaped(text))
}

fn raw(data: &[u8]) -> String {
    format!("'{}'", escaped(data))
}

fn value(value: Option<&[u8]>) -> String {
    value.map_or_else(
        || "-1".into(),
        |bytes| format!("{} {}", bytes.len(), raw(bytes)),
    )
}

fn list<T: ToString>(items: impl ExactSizeIterator<Item = T>) -> String {
    let mut words = vec![items.len().to_string()];
    words.extend(items.map(|item| item.to_string()));
    words.join(" ")
}

fn row(row: DataRow<'_>) -> Result<String, Malformed> {
    let mut words = vec![row.len().to_string()];
    for v in row.values() {
        words.push(value(v?));
    }
    Ok(words.join(" "))
}

fn report(fields: Fields<'_>) -> String {
    let mut text: String = fields
        .iter()
        .map(|(code, text)| format!("{} {} ", char::from(code), quoted(text)))
        .collect();
    text += "\\x00";
    text
}

#[test]
fn every_message_is_read_as_recorded_and_encoded_to_the_same_bytes() {
    each_transcript(|file, lines| {
        let mut reader = Reader::default();
        for line in lines {
            let (rendered, bytes, again) = reader.read(line.from_client, &line.bytes).unwrap();
            assert_eq!(rendered, line.rendered(), "{file}");
            assert_eq!(bytes, line.bytes.len(), "{file} {}", line.name);
            assert_eq!(again, line.bytes, "{file} {}", line.name);
            let tagged = !matches!(
                line.name,
                "StartupMessage" | "SSLRequest" | "EncryptionResponse"
            );
            assert_eq!(
                line.length + usize::from(tagged),
                bytes,
                "{file} {}",
                line.name
            );
        }
    });
}

#[test]
fn a_stream_is_read_the_same_however_it_is_split() {
    each_transcript(|file, lines| {
        let asks_encryption = lines.iter().any(|line| line.name == "SSLRequest");
        for from_client in [true, false] {
            let lines: Vec<_> = lines
                .iter()
                .filter(|line| line.from_client == from_client)
                .collect();
            let expected: Vec<_> = lines.iter().map(|line| line.rendered()).collect();
            let stream: Vec<u8> = lines.iter().flat_map(|line| line.bytes.clone()).collect();
            for chunk_bytes in [1, 2, HEADER_BYTES, 7, 64, 1000, usize::MAX] {
                let mut reader = Reader {
                    encryption_asked: asks_encryption && !from_client,
                    ..Reader::default()
                };
                let mut found = Vec::new();
                let mut buffer = Vec::new();
                for chunk in stream.chunks(chunk_bytes) {
                    buffer.extend_from_slice(chunk);
                    while let Some((rendered, bytes, _)) = reader.read(from_client, &buffer) {
                        found.push(rendered);
                        buffer.drain(..bytes);
                    }
                }
                assert_eq!(found, expected, "{file} in reads of {chunk_bytes} bytes");
                assert!(buffer.is_empty(), "{file}");
            }
        }
    });
}

/// The transcripts hold what they are named after; an empty or truncated recording would prove nothing.
#[test]
fn the_transcripts_cover_the_protocol() {
    let names = std::cell::RefCell::new(std::collections::BTreeSet::new());
    each_transcript(|_, lines| {
        let mut names = names.borrow_mut();
        names.extend(
            lines
                .iter()
                .map(|line| (line.from_client, line.name.to_owned())),
        );
    });
    let names = names.into_inner();
    let missing: Vec<_> = [
        (true, "Bind Close CopyData CopyDone CopyFail Describe Execute Flush FunctionCall Parse Query"),
        (true, "SASLInitialResponse SASLResponse SSLRequest StartupMessage Sync Terminate"),
        (false, "AuthenticationOk AuthenticationSASL AuthenticationSASLContinue AuthenticationSASLFinal"),
        (false, "BackendKeyData BindComplete CloseComplete CommandComplete CopyData CopyDone CopyInResponse"),
        (false, "CopyOutResponse DataRow EmptyQueryResponse EncryptionResponse ErrorResponse NoData"),
        (false, "FunctionCallResponse NegotiateProtocolVersion NoticeResponse NotificationResponse"),
        (false, "ParameterDescription ParameterStatus ParseComplete PortalSuspended ReadyForQuery"),
        (false, "RowDescription"),
    ]
    .into_iter()
    .flat_map(|(from_client, words)| words.split(' ').map(move |w| (from_client, w.to_owned())))
    .filter(|name| !names.contains(name))
    .collect();
    assert_eq!(missing, []);
}
