//! Bytes of each message by hand, and every message there and back.

use proptest::prelude::*;

use super::super::frame::{Frames, BODY_BYTES_MAX};
use super::*;

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
fn encoders_write_the_documented_bytes() {
    let check = |put: &dyn Fn(&mut Vec<u8>), bytes: &[u8]| {
        let out = encoded(put);
        assert_eq!(out, bytes, "{}", out.escape_ascii());
        assert!(parse(&out).is_ok());
    };
    check(
        &|out| Query { text: b"SELECT 1" }.encode(out),
        b"Q\0\0\0\x0dSELECT 1\0",
    );
    check(
        &|out| Parse::encode(out, b"s", b"SELECT $1", [23]),
        b"P\0\0\0\x16s\0SELECT $1\0\0\x01\0\0\0\x17",
    );
    // Three lists of different lengths: each is counted by its own.
    check(
        &|out| Bind::encode(out, b"p", b"s", [1], [Some(&b"ab"[..]), None], [0, 1, 0]),
        b"B\0\0\0\x20p\0s\0\0\x01\0\x01\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\x03\0\0\0\x01\0\0",
    );
    check(
        &|out| Target::Statement(b"s").encode_describe(out),
        b"D\0\0\0\x07Ss\0",
    );
    check(
        &|out| Target::Portal(b"").encode_close(out),
        b"C\0\0\0\x06P\0",
    );
    check(
        &|out| {
            Execute {
                portal: b"",
                rows_max: 10,
            }
            .encode(out)
        },
        b"E\0\0\0\x09\0\0\0\0\x0a",
    );
    check(
        &|out| CopyFail { reason: b"no" }.encode(out),
        b"f\0\0\0\x07no\0",
    );
    check(
        &|out| FunctionCall::encode(out, 258, [1], [Some(&b"x"[..])], 1),
        b"F\0\0\0\x15\0\0\x01\x02\0\x01\0\x01\0\x01\0\0\0\x01x\0\x01",
    );
    check(&|out| out.extend_from_slice(&SYNC), b"S\0\0\0\x04");
    check(&|out| out.extend_from_slice(&FLUSH), b"H\0\0\0\x04");
    check(&|out| out.extend_from_slice(&TERMINATE), b"X\0\0\0\x04");
    check(&|out| out.extend_from_slice(&COPY_DONE), b"c\0\0\0\x04");
}

#[test]
fn refuses_bodies_of_another_layout() {
    for (tag, body) in [
        (b'Q', &b"SELECT 1"[..]),
        (b'Q', b"SELECT 1\0; DROP\0"),
        (b'P', b"s\0SELECT 1\0\0\x01\0\0\0"),
        (b'P', b"s\0SELECT 1\0\0\0x"),
        (b'B', b"p\0s"),
        (b'D', b"Xs\0"),
        (b'D', b"Ss"),
        (b'C', b""),
        (b'E', b"p\0\0\0\0"),
        (b'E', b"p\0\0\0\0\0\0"),
        (b'S', b"x"),
        (b'H', b"x"),
        (b'f', b"x"),
        (b'F', b"\0\0\0\x01\0\0\0\x01\0\0\0\x09a\0\0"),
        (b'?', b""),
        (b'Z', b"I"),
    ] {
        let parsed = Message::parse(tag, body);
        assert!(parsed.is_err(), "{} {parsed:?}", tag.escape_ascii());
    }
}

#[test]
fn a_bind_with_false_counts_is_refused_when_its_arguments_are_read() {
    for rest in [
        &b""[..],
        b"\0\x01\0",
        b"\0\0\0\x01\0\0\0\x05a\0\0",
        b"\0\0\xff\xff\0\0\0\0",
        b"\0\0\0\0\0\x01",
        b"\0\0\0\0\0\0x",
    ] {
        let mut body = b"\0\0".to_vec();
        body.extend_from_slice(rest);
        let bind = Bind::parse(&body).unwrap();
        assert!(bind.arguments().is_err(), "{}", rest.escape_ascii());
    }
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(1u8..=255, 0..12)
}

fn values() -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
    let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..12));
    proptest::collection::vec(value, 0..8)
}

fn formats() -> impl Strategy<Value = Vec<i16>> {
    proptest::collection::vec(any::<i16>(), 0..8)
}

proptest! {
    #[test]
    fn parse_comes_back(name in text(), query in text(), types in proptest::collection::vec(any::<u32>(), 0..8), new in text()) {
        let bytes = encoded(|out| Parse::encode(out, &name, &query, types.iter().copied()));
        let Ok(Message::Parse(parsed)) = parse(&bytes) else { panic!() };
        prop_assert_eq!((parsed.statement, parsed.query), (&name[..], &query[..]));
        prop_assert_eq!(&parsed.types.iter().collect::<Vec<_>>(), &types);

        let renamed = encoded(|out| parsed.encode_as(out, &new));
        prop_assert_eq!(renamed, encoded(|out| Parse::encode(out, &new, &query, types)));
    }

    #[test]
    fn bind_comes_back(
        portal in text(),
        name in text(),
        formats in formats(),
        values in values(),
        results in formats(),
        new in text(),
    ) {
        let put = |out: &mut Vec<u8>, name: &[u8]| Bind::encode(
            out, &portal, name, formats.clone(), values.iter().map(Option::as_deref), results.clone(),
        );
        let bytes = encoded(|out| put(out, &name));
        let Ok(Message::Bind(bind)) = parse(&bytes) else { panic!() };
        prop_assert_eq!((bind.portal, bind.statement), (&portal[..], &name[..]));
        let arguments = bind.arguments().unwrap();
        prop_assert_eq!(arguments.formats.iter().collect::<Vec<_>>(), formats.clone());
        prop_assert_eq!(arguments.result_formats.iter().collect::<Vec<_>>(), results.clone());
        prop_assert_eq!(arguments.len(), values.len());
        prop_assert_eq!(arguments.values().map(|v| v.map(<[u8]>::to_vec)).collect::<Vec<_>>(), values.clone());

        prop_assert_eq!(encoded(|out| bind.encode_as(out, &new)), encoded(|out| put(out, &new)));
    }

    #[test]
    fn function_call_comes_back(oid: u32, formats in formats(), values in values(), result: i16) {
        let bytes = encoded(|out| FunctionCall::encode(
            out, oid, formats.clone(), values.iter().map(Option::as_deref), result,
        ));
        let Ok(Message::FunctionCall(call)) = parse(&bytes) else { panic!() };
        prop_assert_eq!((call.function_oid, call.result_format), (oid, result));
        prop_assert_eq!(call.formats.iter().collect::<Vec<_>>(), formats);
        let found: Result<Vec<_>, _> = call.values().map(|v| v.map(|v| v.map(<[u8]>::to_vec))).collect();
        prop_assert_eq!(found, Ok(values));
    }

    #[test]
    fn small_messages_come_back(name in text(), rows_max: i32, data in proptest::collection::vec(any::<u8>(), 0..20)) {
        for target in [Target::Statement(&name), Target::Portal(&name)] {
            assert_eq!(parse(&encoded(|out| target.encode_describe(out))), Ok(Message::Describe(target)));
            assert_eq!(parse(&encoded(|out| target.encode_close(out))), Ok(Message::Close(target)));
        }
        let execute = Execute { portal: &name, rows_max };
        assert_eq!(parse(&encoded(|out| execute.encode(out))), Ok(Message::Execute(execute)));
        let query = Query { text: &name };
        assert_eq!(parse(&encoded(|out| query.encode(out))), Ok(Message::Query(query)));
        let fail = CopyFail { reason: &name };
        assert_eq!(parse(&encoded(|out| fail.encode(out))), Ok(Message::CopyFail(fail)));
        assert_eq!(parse(&encoded(|out| put_copy_data(out, &data))), Ok(Message::CopyData(&data)));
    }

    #[test]
    fn random_bytes_never_panic(
        tag in prop_oneof![
            proptest::sample::select(b"BCdcfDEHFPpQSX".to_vec()),
            any::<u8>()
        ],
        body in proptest::collection::vec(prop_oneof![3 => Just(0u8), 1 => 1u8..12, 1 => any::<u8>()], 0..48),
    ) {
        let mut data = vec![tag];
        data.extend_from_slice(&body);
        fuzz_frontend(&data);
    }
}
