use super::*;
use proptest::prelude::*;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn packet(version: Version, pairs: Pairs<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let pairs = pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
    StartupMessage::encode(&mut out, version, pairs);
    out
}

fn startup(bytes: &[u8]) -> StartupMessage<'_> {
    match parse(bytes) {
        Ok(Some((Packet::Startup(startup), used))) if used == bytes.len() => startup,
        other => panic!("no startup message: {other:?}"),
    }
}

#[test]
fn reads_parameters_in_order() {
    let bytes = packet(
        Version::V3_0,
        &[
            ("user", "alice"),
            ("DateStyle", "ISO"),
            ("options", "-c geqo=off"),
            ("_pq_.x", "1"),
        ],
    );
    assert_eq!(&bytes[..8], b"\0\0\0\x3f\0\x03\0\0");
    let message = startup(&bytes);
    assert_eq!(message.user(), Ok(&b"alice"[..]));
    assert_eq!(message.database(), Ok(&b"alice"[..]));
    assert_eq!(message.options, Some(&b"-c geqo=off"[..]));
    assert_eq!(message.replication(), Ok(Replication::None));
    assert_eq!(
        message.session_parameters().collect::<Vec<_>>(),
        [(&b"DateStyle"[..], &b"ISO"[..])]
    );
}

#[test]
fn the_last_of_two_equal_names_counts() {
    let bytes = packet(
        Version::V3_0,
        &[
            ("user", "a"),
            ("database", "x"),
            ("options", "-c a=1"),
            ("database", "y"),
            ("options", ""),
        ],
    );
    let message = startup(&bytes);
    assert_eq!(message.database(), Ok(&b"y"[..]));
    assert_eq!(message.options, Some(&b""[..]));
}

#[test]
fn a_startup_packet_needs_a_user() {
    for pairs in [&[][..], &[("user", "")], &[("database", "x")]] {
        let bytes = packet(Version::V3_0, pairs);
        let error = startup(&bytes).user().unwrap_err();
        assert_eq!(
            error.to_string(),
            "FATAL 28000: startup packet has no user name"
        );
    }
}

#[test]
fn replication_is_a_boolean_or_a_database() {
    let check = |value, expected| {
        let bytes = packet(Version::V3_0, &[("user", "u"), ("replication", value)]);
        assert_eq!(startup(&bytes).replication().ok(), expected, "{value}");
    };
    for value in ["true", "ON", "1", "t", "yes", "y"] {
        check(value, Some(Replication::Physical));
    }
    for value in ["false", "off", "0", "of", "n", "F"] {
        check(value, Some(Replication::None));
    }
    check("database", Some(Replication::Logical));
    for value in ["", "o", "Database", "truex", "2"] {
        check(value, None);
    }
}

/// Edge case 12.
#[test]
fn hostile_length_fields_are_refused_at_once() {
    for length in [i32::MIN, -1, 0, 4, 7, 10_005, i32::MAX] {
        assert_eq!(
            parse(&length.to_be_bytes()),
            Err(StartupError::Length),
            "{length}"
        );
    }
    for length in [8, 10_004] {
        assert_eq!(parse(&i32::to_be_bytes(length)), Ok(None), "{length}");
    }
    assert_eq!(parse(b"\0\0\x27"), Ok(None));
}

#[test]
fn refuses_a_layout_that_postgresql_refuses() {
    for body in [
        &b""[..],             // no terminator
        b"user\0alice\0",     // no terminator
        b"user\0alice\0\0\0", // bytes behind it
        b"user\0alice",       // unterminated value
        b"user\0",            // no value
    ] {
        let mut bytes = Vec::new();
        put_length_prefixed(&mut bytes, |out| {
            out.extend_from_slice(&Version::V3_0.to_wire().to_be_bytes());
            out.extend_from_slice(body);
        });
        assert_eq!(
            parse(&bytes),
            Err(StartupError::Layout),
            "{}",
            body.escape_ascii()
        );
    }
}

#[test]
fn other_major_versions_are_named_in_the_error() {
    let check = |major, minor, text: &str| {
        let bytes = packet(Version::new(major, minor), &[("user", "u")]);
        let error = Error::from(parse(&bytes).unwrap_err());
        assert_eq!(error.to_string(), text);
    };
    check(2, 0, "FATAL 0A000: protocol version 2.0 is not supported");
    check(4, 1, "FATAL 0A000: protocol version 4.1 is not supported");
    check(0, 0, "FATAL 0A000: protocol version 0.0 is not supported");
}

/// Edge case 13. Answers as recorded in PostgreSQL 18's source.
#[test]
fn negotiation_answers_as_postgresql_18() {
    let check = |minor, options: Pairs<'_>, spoken, reply: &[u8]| {
        let mut pairs = vec![("user", "u")];
        pairs.extend_from_slice(options);
        let bytes = packet(Version::new(3, minor), &pairs);
        let negotiation = startup(&bytes).negotiate();
        assert_eq!(negotiation.version.minor, spoken);
        let mut out = Vec::new();
        negotiation.encode(&mut out);
        assert_eq!(out, reply, "{}", out.escape_ascii());
    };
    check(0, &[], 0, b"");
    check(1, &[], 1, b"");
    check(2, &[], 2, b"");
    check(3, &[], 2, b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0");
    check(9999, &[], 2, b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0");
    check(
        0,
        &[("_pq_.a", "1"), ("_pq_.b", "")],
        0,
        b"v\0\0\0\x1a\0\x03\0\0\0\0\0\x02_pq_.a\0_pq_.b\0",
    );
    assert!(!Version::new(3, 1).has_long_cancel_keys());
    assert!(Version::V3_2.has_long_cancel_keys());
}

#[test]
fn encryption_requests_have_no_body() {
    assert_eq!(
        parse(&SSL_REQUEST_PACKET),
        Ok(Some((Packet::SslRequest, 8)))
    );
    assert_eq!(
        parse(&GSSENC_REQUEST_PACKET),
        Ok(Some((Packet::GssEncRequest, 8)))
    );
    // Bytes behind it belong to the next layer.
    let mut bytes = SSL_REQUEST_PACKET.to_vec();
    bytes.extend_from_slice(b"\x16\x03\x01");
    assert_eq!(parse(&bytes), Ok(Some((Packet::SslRequest, 8))));
    assert_eq!(
        parse(b"\0\0\0\x09\x04\xd2\x16\x2fx"),
        Err(StartupError::Layout)
    );
}

#[test]
fn cancel_secrets_have_4_to_256_bytes() {
    let check = |secret_bytes: usize, fits| {
        let cancel = CancelRequest {
            process_id: 7,
            secret: &vec![9; secret_bytes],
        };
        let mut bytes = Vec::new();
        cancel.encode(&mut bytes);
        let expected = if fits {
            Ok(Some((Packet::CancelRequest(cancel), bytes.len())))
        } else {
            Err(StartupError::CancelKey)
        };
        assert_eq!(parse(&bytes), expected, "{secret_bytes}");
    };
    for (bytes, fits) in [
        (0, false),
        (3, false),
        (4, true),
        (32, true),
        (256, true),
        (257, false),
    ] {
        check(bytes, fits);
    }
}

#[test]
fn secrets_are_not_printed() {
    let cancel = CancelRequest {
        process_id: 7,
        secret: b"hush",
    };
    assert_eq!(format!("{cancel:?}"), "CancelRequest { process_id: 7, .. }");
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(1u8..=255, 1..9)
}

proptest! {
    #[test]
    fn decoding_an_encoded_startup_gives_it_back(
        minor: u16,
        pairs in proptest::collection::vec((word(), word()), 0..9),
        cut in 0usize..400,
    ) {
        let version = Version::new(3, minor);
        let mut bytes = Vec::new();
        StartupMessage::encode(&mut bytes, version, pairs.iter().map(|(n, v)| (&n[..], &v[..])));
        let message = startup(&bytes);
        prop_assert_eq!(message.version, version);
        let found: Vec<_> = message.pairs().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        prop_assert_eq!(found, pairs);
        if cut < bytes.len() {
            prop_assert_eq!(parse(&bytes[..cut]), Ok(None));
        }
        fuzz_startup(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(
        length in 0u32..64,
        version in prop_oneof![
            Just(0x0003_0000u32), Just(0x0003_0002), Just(80877102), Just(80877103), Just(80877104), any::<u32>()
        ],
        body in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..64),
        raw in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut data = length.to_be_bytes().to_vec();
        data.extend_from_slice(&version.to_be_bytes());
        data.extend_from_slice(&body);
        fuzz_startup(&data);
        fuzz_startup(&raw);
    }
}
