//! Bytes of each message by hand, and every message there and back.

use proptest::prelude::*;

use super::super::authentication::put_sasl_response;
use super::super::error_fields::{put_error, put_notice, Severity};
use super::super::frame::{Frames, BODY_BYTES_MAX};
use super::super::frontend::put_copy_data;
use super::super::rows::Field;
use super::super::sqlstate::SqlState;
use super::*;
use crate::error::{Error, Fault};

fn encoded(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out);
    out
}

fn parse(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut frames = Frames::new(bytes, BODY_BYTES_MAX);
    let frame = frames.next().expect("one message").expect("a good length");
    assert_eq!(frame.range, 0..bytes.len());
    Message::parse(frame.tag, frame.body)
}

#[test]
fn messages_without_a_body_are_five_bytes() {
    let check = |bytes: [u8; 5], message: Message<'_>| {
        assert_eq!(parse(&bytes), Ok(message));
        let longer = [bytes[0], 0, 0, 0, 5, b'x'];
        assert!(parse(&longer).is_err(), "{message:?}");
    };
    check(*b"1\0\0\0\x04", Message::ParseComplete);
    check(*b"2\0\0\0\x04", Message::BindComplete);
    check(*b"3\0\0\0\x04", Message::CloseComplete);
    check(*b"I\0\0\0\x04", Message::EmptyQueryResponse);
    check(*b"c\0\0\0\x04", Message::CopyDone);
    check(*b"n\0\0\0\x04", Message::NoData);
    check(*b"s\0\0\0\x04", Message::PortalSuspended);
}

#[test]
fn encoders_write_the_documented_bytes() {
    let check = |put: &dyn Fn(&mut Vec<u8>), bytes: &[u8]| {
        let out = encoded(put);
        assert_eq!(out, bytes, "{}", out.escape_ascii());
    };
    check(
        &|out| out.extend_from_slice(&ready_for_query(TransactionStatus::Failed)),
        b"Z\0\0\0\x05E",
    );
    check(
        &|out| CommandComplete { tag: b"SELECT 1" }.encode(out),
        b"C\0\0\0\x0dSELECT 1\0",
    );
    check(
        &|out| DataRow::encode(out, [Some(&b"ab"[..]), None, Some(b"")]),
        b"D\0\0\0\x14\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0",
    );
    check(
        &|out| ParameterDescription::encode(out, [23, 25]),
        b"t\0\0\0\x0e\0\x02\0\0\0\x17\0\0\0\x19",
    );
    check(
        &|out| CopyResponse::encode(out, tag::COPY_IN_RESPONSE, 1, [1, 1]),
        b"G\0\0\0\x0b\x01\0\x02\0\x01\0\x01",
    );
    check(
        &|out| {
            BackendKeyData {
                process_id: 258,
                secret: b"abcd",
            }
            .encode(out)
        },
        b"K\0\0\0\x0c\0\0\x01\x02abcd",
    );
    check(
        &|out| {
            ParameterStatus {
                name: b"TimeZone",
                value: b"UTC",
            }
            .encode(out)
        },
        b"S\0\0\0\x11TimeZone\0UTC\0",
    );
    check(
        &|out| {
            NotificationResponse {
                process_id: 1,
                channel: b"c",
                payload: b"",
            }
            .encode(out)
        },
        b"A\0\0\0\x0b\0\0\0\x01c\0\0",
    );
    check(
        &|out| FunctionCallResponse { value: None }.encode(out),
        b"V\0\0\0\x08\xff\xff\xff\xff",
    );
    check(&|out| put_copy_data(out, b"1\n"), b"d\0\0\0\x061\n");
    check(&|out| put_sasl_response(out, b"x"), b"p\0\0\0\x05x");
}

#[test]
fn command_tags_are_split_at_their_count() {
    let check = |tag: &'static str, command: &str, rows| {
        let complete = CommandComplete {
            tag: tag.as_bytes(),
        };
        assert_eq!(complete.split(), (command.as_bytes(), rows));
    };
    check("SELECT 5", "SELECT", Some(5));
    check("INSERT 0 12", "INSERT 0", Some(12));
    check("COPY 18446744073709551615", "COPY", Some(u64::MAX));
    check(
        "COPY 18446744073709551616",
        "COPY 18446744073709551616",
        None,
    );
    check("BEGIN", "BEGIN", None);
    check("CREATE TABLE", "CREATE TABLE", None);
    check("7", "7", None);
    check("SELECT ", "SELECT ", None);
    check("", "", None);
}

#[test]
fn refuses_bodies_of_another_layout() {
    for (tag, body) in [
        (b'Z', &b""[..]),
        (b'Z', b"X"),
        (b'Z', b"II"),
        (b'C', b"SELECT 1"),
        (b'C', b"SELECT 1\0\0"),
        (b'K', b"\0\0\0\x01abc"),
        (b'K', &[0; 4 + 257]),
        (b'S', b"a\0b"),
        (b'A', b"\0\0\0\x01a\0"),
        (b'v', b"\0\x03\0\0\xff\xff\xff\xffa\0"),
        (b'v', b"\0\x03\0\0\0\0\0\0a\0"),
        (b't', b"\0\x01\0\0"),
        (b'G', b"\0\0\x01\0"),
        (b'?', b""),
        (b'Q', b"SELECT 1\0"),
    ] {
        let parsed = Message::parse(tag, body);
        assert!(parsed.is_err(), "{} {parsed:?}", tag.escape_ascii());
    }
    let unknown = Error::from(Message::parse(b'?', b"").unwrap_err());
    assert_eq!(
        unknown.to_string(),
        "FATAL 08P01: protocol violation: malformed message: its type is unknown"
    );
}

#[test]
fn secrets_are_not_printed() {
    let key = BackendKeyData {
        process_id: 7,
        secret: b"hush",
    };
    assert_eq!(format!("{key:?}"), "BackendKeyData { process_id: 7, .. }");
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(1u8..=255, 0..12)
}

fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..12))
}

proptest! {
    #[test]
    fn rows_come_back(values in proptest::collection::vec(value(), 0..12)) {
        let bytes = encoded(|out| DataRow::encode(out, values.iter().map(Option::as_deref)));
        let Ok(Message::DataRow(row)) = parse(&bytes) else { panic!() };
        prop_assert_eq!(row.len(), values.len());
        let found: Result<Vec<_>, _> = row.values().map(|v| v.map(|v| v.map(<[u8]>::to_vec))).collect();
        prop_assert_eq!(found, Ok(values));
    }

    #[test]
    fn row_descriptions_come_back(
        fields in proptest::collection::vec((text(), any::<(u32, i16, u32, i16, i32, i16)>()), 0..9)
    ) {
        let fields: Vec<_> = fields.iter().map(|(name, rest)| Field {
            name,
            table_oid: rest.0,
            column: rest.1,
            type_oid: rest.2,
            type_bytes: rest.3,
            type_modifier: rest.4,
            format: rest.5,
        }).collect();
        let bytes = encoded(|out| RowDescription::encode(out, fields.iter().copied()));
        let Ok(Message::RowDescription(description)) = parse(&bytes) else { panic!() };
        prop_assert_eq!(description.len(), fields.len());
        prop_assert_eq!(description.fields().collect::<Result<Vec<_>, _>>(), Ok(fields));
    }

    #[test]
    fn lists_come_back(
        oids in proptest::collection::vec(any::<u32>(), 0..9),
        formats in proptest::collection::vec(any::<i16>(), 0..9),
        format: u8,
        which in 0usize..3,
    ) {
        let bytes = encoded(|out| ParameterDescription::encode(out, oids.iter().copied()));
        let Ok(Message::ParameterDescription(description)) = parse(&bytes) else { panic!() };
        prop_assert_eq!(description.types.iter().collect::<Vec<_>>(), oids);

        let tag = [tag::COPY_IN_RESPONSE, tag::COPY_OUT_RESPONSE, tag::COPY_BOTH_RESPONSE][which];
        let bytes = encoded(|out| CopyResponse::encode(out, tag, format, formats.iter().copied()));
        let response = match (which, parse(&bytes)) {
            (0, Ok(Message::CopyInResponse(r)))
            | (1, Ok(Message::CopyOutResponse(r)))
            | (2, Ok(Message::CopyBothResponse(r))) => r,
            (_, other) => panic!("{other:?}"),
        };
        prop_assert_eq!(response.format, format);
        prop_assert_eq!(response.columns.iter().collect::<Vec<_>>(), formats);
    }

    #[test]
    fn small_messages_come_back(
        process_id: i32,
        secret in proptest::collection::vec(any::<u8>(), 4..=256),
        a in text(),
        b in text(),
        value in value(),
        options in proptest::collection::vec(text(), 0..5),
        version: u32,
    ) {
        let key = BackendKeyData { process_id, secret: &secret };
        assert_eq!(parse(&encoded(|out| key.encode(out))), Ok(Message::BackendKeyData(key)));

        let complete = CommandComplete { tag: &a };
        assert_eq!(parse(&encoded(|out| complete.encode(out))), Ok(Message::CommandComplete(complete)));

        let status = ParameterStatus { name: &a, value: &b };
        assert_eq!(parse(&encoded(|out| status.encode(out))), Ok(Message::ParameterStatus(status)));

        let notification = NotificationResponse { process_id, channel: &a, payload: &b };
        assert_eq!(
            parse(&encoded(|out| notification.encode(out))),
            Ok(Message::NotificationResponse(notification))
        );

        let response = FunctionCallResponse { value: value.as_deref() };
        assert_eq!(
            parse(&encoded(|out| response.encode(out))),
            Ok(Message::FunctionCallResponse(response))
        );

        let version = Version::from_wire(version);
        let bytes = encoded(|out| {
            NegotiateProtocolVersion::encode(out, version, options.iter().map(Vec::as_slice));
        });
        let Ok(Message::NegotiateProtocolVersion(negotiate)) = parse(&bytes) else { panic!() };
        prop_assert_eq!(negotiate.version, version);
        prop_assert_eq!(negotiate.options().map(<[u8]>::to_vec).collect::<Vec<_>>(), options);
    }

    #[test]
    fn errors_come_back(
        message in "[^\0]{0,20}",
        detail in proptest::option::of("[^\0]{0,20}"),
        survives: bool,
    ) {
        let code = SqlState::FEATURE_NOT_SUPPORTED;
        let mut error = if survives {
            Error::error(Fault::Client, code, message.clone())
        } else {
            Error::fatal(Fault::Client, code, message.clone())
        };
        if let Some(detail) = &detail {
            error = error.detail(detail);
        }
        let bytes = encoded(|out| put_error(out, &error));
        let Ok(Message::ErrorResponse(fields)) = parse(&bytes) else { panic!() };
        prop_assert_eq!(fields.code(), Some(code));
        prop_assert_eq!(fields.is_fatal(), !survives);
        prop_assert_eq!(fields.message(), message.as_bytes());
        prop_assert_eq!(fields.get(b'D'), detail.as_ref().map(String::as_bytes));

        let bytes = encoded(|out| put_notice(out, Severity::Notice, code, &message, detail.as_deref(), None));
        let Ok(Message::NoticeResponse(fields)) = parse(&bytes) else { panic!() };
        prop_assert_eq!(fields.severity(), Some(Severity::Notice));
        prop_assert_eq!(fields.message(), message.as_bytes());
    }

    #[test]
    fn random_bytes_never_panic(
        tag in prop_oneof![
            proptest::sample::select(b"RK23CWdcGHDIEVvnNAtS1sZT".to_vec()),
            any::<u8>()
        ],
        body in proptest::collection::vec(prop_oneof![3 => Just(0u8), 1 => 1u8..12, 1 => any::<u8>()], 0..48),
    ) {
        let mut data = vec![tag];
        data.extend_from_slice(&body);
        fuzz_backend(&data);
    }
}
