//! Both logins: exact bytes, each against the other, what must be refused, what must not be told apart.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::keys::{Origin, ITERATIONS};
use super::login::{fuzz_login, LOGIN_MESSAGE_BYTES_MAX};
use super::*;
use crate::error::{Error, Survives};
use crate::protocol::authentication::AUTHENTICATION_OK;

const USER: &str = "alice";
const SECRET: [u8; 32] = [9; 32];

fn login(method: Method, credentials: Credentials, end_point: Option<&[u8]>) -> Login<'static> {
    static INSTANCE: LazyLock<InstanceSecret> = LazyLock::new(|| InstanceSecret::new(SECRET));
    Login::new(LoginRequest {
        user: USER,
        database: "shop",
        method,
        credentials,
        end_point: end_point.map(<[u8]>::to_vec),
        secret: &INSTANCE,
        random: [1; NONCE_BYTES],
    })
}

fn server_login(password: Option<&str>, end_point: Option<&[u8]>) -> ServerLogin {
    ServerLogin::new(ServerLoginRequest {
        user: USER,
        database: "shop",
        secret: password.map(|password| ServerSecret::Password(Password::new(password))),
        end_point: end_point.map(<[u8]>::to_vec),
        random: [2; NONCE_BYTES],
    })
}

fn passwords(passwords: &[&str]) -> Credentials {
    Credentials::Passwords(passwords.iter().map(Password::new).collect())
}

fn stored_scram(password: &str) -> Credentials {
    Credentials::Stored(Verifier::derive(password.as_bytes(), b"stored salt", 2))
}

fn stored_md5(password: &str) -> Credentials {
    let hash = md5::Md5Hash::new(password.as_bytes(), USER.as_bytes());
    Credentials::Stored(Verifier::Md5(hash))
}

/// How an exchange between a client that runs `ServerLogin` and a server that runs `Login` went.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// All messages of the server, and what it had derived.
    server: Vec<Event>,
    accepted: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Sent(Vec<u8>),
    Derived(usize),
    Asked(Password),
    Refused(Error, &'static str),
}

fn exchange(mut server: Login<'_>, mut client: ServerLogin) -> Outcome {
    let mut outcome = Outcome {
        server: Vec::new(),
        accepted: false,
    };
    let mut step = server.start();
    loop {
        let (mut bytes, accepted) = match step {
            Step::Send(bytes) => (bytes, false),
            Step::Accepted(bytes) => ([&bytes, &AUTHENTICATION_OK[..]].concat(), true),
            Step::Derive(derivations) => {
                outcome.server.push(Event::Derived(derivations.len()));
                let keys: Vec<_> = derivations.iter().map(Derivation::run).collect();
                step = server.derived(&keys);
                continue;
            }
            Step::Refused { error, reason } => {
                outcome.server.push(Event::Refused(error, reason));
                return outcome;
            }
            Step::Ask(password) => {
                outcome.server.push(Event::Asked(password));
                return outcome;
            }
        };
        outcome.server.push(Event::Sent(bytes.clone()));
        assert_eq!(accepted, server.is_accepted());
        let mut response = None;
        while !bytes.is_empty() {
            assert_eq!(bytes[0], b'R');
            let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
            let rest = bytes.split_off(1 + length);
            let code = i32::from_be_bytes(bytes[5..9].try_into().unwrap());
            let mut answer = client.authentication(code, &bytes[9..]);
            if let ServerStep::Derive(derivation) = answer {
                answer = client.derived(&derivation.run());
            }
            match answer {
                ServerStep::Send(bytes) => response = Some(bytes),
                ServerStep::Wait => {}
                ServerStep::Accepted { password } => {
                    let asked = outcome.server.len() > 1;
                    assert_eq!(password, asked, "trust proves nothing");
                    outcome.accepted = accepted;
                    return outcome;
                }
                other => panic!("{other:?}"),
            }
            bytes = rest;
        }
        let response = response.expect("the client has something to say");
        assert_eq!(
            u32::from_be_bytes(response[1..5].try_into().unwrap()) as usize + 1,
            response.len()
        );
        step = server.message(response[0], &response[5..]);
    }
}

#[test]
fn every_method_with_every_secret() {
    use Method::{Md5, Plain, Scram, Trust};
    type Secret = fn(&str) -> Credentials;
    let one: Secret = |password| passwords(&[password]);
    let rotated: Secret = |password| passwords(&["older", "", password]);
    let cases: [(Method, Secret, bool); 14] = [
        (Plain, one, true),
        (Plain, rotated, true),
        (Plain, stored_scram, true),
        (Plain, stored_md5, true),
        (Md5, one, true),
        (Md5, rotated, true),
        (Md5, stored_scram, true),
        (Md5, stored_md5, true),
        (Scram, one, true),
        (Scram, rotated, true),
        (Scram, stored_scram, true),
        (Scram, stored_md5, false),
        (Scram, |_| passwords(&[]), false),
        (Plain, |_| Credentials::Unknown, false),
    ];
    let certificate = Some(&b"certificate"[..]);
    for (number, (method, secret, works)) in cases.into_iter().enumerate() {
        for end_points in [
            (None, None),
            (certificate, None),
            (None, certificate),
            (certificate, certificate),
        ] {
            let run = |typed| {
                let server = login(method, secret("pencil"), end_points.0);
                exchange(server, server_login(Some(typed), end_points.1)).accepted
            };
            assert_eq!(run("pencil"), works, "case {number}");
            assert!(!run("Pencil"), "case {number}, wrong password");
        }
    }
    for (credentials, works) in [
        (one("pencil"), true),
        (passwords(&[]), true),
        (Credentials::Unknown, false),
    ] {
        let outcome = exchange(login(Trust, credentials, None), server_login(None, None));
        assert_eq!(outcome.accepted, works);
    }
}

#[test]
fn the_server_is_asked_about_a_password_that_is_not_known() {
    let run = |credentials: Credentials, typed: &str| {
        let server = login(Method::Passthrough, credentials, None);
        let mut outcome = exchange(server, server_login(Some(typed), None));
        (outcome.accepted, outcome.server.pop())
    };
    let asked = |typed: &str| (false, Some(Event::Asked(Password::new(typed))));
    for credentials in [
        passwords(&["pencil", "brush"]),
        stored_scram("pencil"),
        stored_md5("pencil"),
    ] {
        assert!(run(credentials.clone(), "pencil").0);
        assert_eq!(run(credentials, "chalk"), asked("chalk"));
    }
    for credentials in [passwords(&[]), Credentials::Unknown] {
        assert_eq!(run(credentials, "chalk"), asked("chalk"));
    }
    let mut server = login(Method::Passthrough, Credentials::Unknown, None);
    server.start();
    assert!(matches!(server.message(b'p', b"chalk\0"), Step::Ask(_)));
    assert_eq!(server.typed(), Some(&Password::new("chalk")));
    assert!(matches!(server.vouched(), Step::Accepted(_)));
    assert!(server.is_accepted());
}

/// An empty password opens nothing, not even if it is configured.
#[test]
fn empty_passwords() {
    for method in [Method::Plain, Method::Md5, Method::Scram] {
        for credentials in [passwords(&[""]), passwords(&[]), Credentials::Unknown] {
            let outcome = exchange(
                login(method, credentials, None),
                server_login(Some(""), None),
            );
            assert!(!outcome.accepted, "{method:?}");
        }
    }
}

#[test]
fn unknown_users_look_like_wrong_passwords() {
    for method in [Method::Plain, Method::Md5, Method::Scram] {
        for typed in ["wrong", ""] {
            let run = |credentials| {
                let server = login(method, credentials, Some(b"certificate"));
                let client = server_login(Some(typed), Some(b"certificate"));
                let mut events = exchange(server, client).server;
                if method == Method::Scram {
                    // Deriving configured passwords is the caller's to have done before.
                    events.retain(|event| !matches!(event, Event::Derived(_)));
                }
                events
            };
            let unknown = run(Credentials::Unknown);
            let Some(Event::Refused(error, _)) = unknown.last() else {
                panic!("{unknown:?}");
            };
            assert_eq!(
                error.to_string(),
                "FATAL 28P01: authentication failed for user \"alice\", database \"shop\""
            );
            assert_eq!((&error.detail, error.hint), (&None, None));
            assert_eq!(run(passwords(&["pencil"])), unknown, "{method:?}");
            assert_eq!(run(passwords(&["pencil", "brush"])), unknown, "{method:?}");
            assert_eq!(run(passwords(&[])), unknown, "{method:?}");
            if method != Method::Md5 || typed == "wrong" {
                let mut stored = stored_md5("pencil");
                assert_eq!(run(stored), unknown, "{method:?}");
                if method == Method::Plain {
                    stored = stored_scram("pencil");
                    assert_eq!(run(stored), unknown, "{method:?}");
                }
            }
        }
    }
}

/// A client proves itself to a verifier that we have; with what that shows we log in to a server that has it, too.
#[test]
fn a_proof_to_a_verifier_opens_servers_with_the_same() {
    let mut ours = login(Method::Scram, stored_scram("pencil"), None);
    let mut client = server_login(Some("pencil"), None);
    ours.start();
    let ServerStep::Send(first) = client.authentication(10, b"SCRAM-SHA-256\0\0") else {
        panic!();
    };
    let Step::Send(challenge) = ours.message(b'p', &first[5..]) else {
        panic!();
    };
    let ServerStep::Derive(derivation) = client.authentication(11, &challenge[9..]) else {
        panic!();
    };
    let ServerStep::Send(last) = client.derived(&derivation.run()) else {
        panic!();
    };
    assert!(matches!(ours.message(b'p', &last[5..]), Step::Accepted(_)));
    let keys = ours
        .revealed()
        .expect("there was only a verifier")
        .to_text();

    let run = |method, credentials, secret: Option<ServerSecret>| {
        let client = ServerLogin::new(ServerLoginRequest {
            user: USER,
            database: "shop",
            secret,
            end_point: None,
            random: [2; NONCE_BYTES],
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            exchange(login(method, credentials, None), client)
        }));
        outcome.is_ok_and(|outcome| outcome.accepted)
    };
    let secret = || ServerSecret::parse(&keys);
    assert!(run(Method::Scram, stored_scram("pencil"), secret()));
    // Another salt, another password, another method: refused, and the password stays unknown.
    let salted = Verifier::derive(b"pencil", b"another salt", 2);
    assert!(!run(Method::Scram, Credentials::Stored(salted), secret()));
    assert!(!run(Method::Scram, stored_scram("brush"), secret()));
    assert!(!run(Method::Plain, stored_scram("pencil"), secret()));
    assert!(!run(Method::Md5, stored_md5("pencil"), secret()));

    let hash = || {
        Some(ServerSecret::Md5(md5::Md5Hash::new(
            b"pencil",
            USER.as_bytes(),
        )))
    };
    assert!(run(Method::Md5, stored_md5("pencil"), hash()));
    assert!(!run(Method::Md5, stored_md5("brush"), hash()));
    assert!(!run(Method::Plain, stored_md5("pencil"), hash()));
    assert!(!run(Method::Scram, stored_scram("pencil"), hash()));
}

#[test]
fn derivations_can_be_made_before_the_login() {
    let credentials = passwords(&["pencil", "", "brush"]);
    let ahead = credentials.derivations(USER, &InstanceSecret::new(SECRET));
    let mut cache = KeyCache::new(8);
    for derivation in &ahead {
        assert_eq!(
            (derivation.iterations, derivation.origin),
            (ITERATIONS, Origin::Configured)
        );
        cache.insert(derivation, derivation.run());
    }
    let mut server = login(Method::Scram, credentials, None);
    let mut client = server_login(Some("brush"), None);
    server.start();
    let ServerStep::Send(first) = client.authentication(10, b"SCRAM-SHA-256\0\0") else {
        panic!();
    };
    let Step::Send(challenge) = server.message(b'p', &first[5..]) else {
        panic!();
    };
    let ServerStep::Derive(derivation) = client.authentication(11, &challenge[9..]) else {
        panic!();
    };
    let ServerStep::Send(last) = client.derived(&derivation.run()) else {
        panic!();
    };
    let Step::Derive(derivations) = server.message(b'p', &last[5..]) else {
        panic!();
    };
    assert_eq!(derivations, ahead);
    let keys: Vec<_> = derivations
        .iter()
        .map(|derivation| cache.get(derivation).unwrap())
        .collect();
    assert!(matches!(server.derived(&keys), Step::Accepted(_)));
}

#[test]
fn typed_passwords_are_derived_as_such() {
    let mut server = login(Method::Plain, stored_scram("pencil"), None);
    server.start();
    let Step::Derive(derivations) = server.message(b'p', b"pencil\0") else {
        panic!();
    };
    let [derivation] = &derivations[..] else {
        panic!();
    };
    assert_eq!(derivation.origin, Origin::Typed);
    assert_eq!(derivation.password, Password::new("pencil"));
}

#[test]
fn bytes_on_the_wire() {
    let start = |method, end_point| match login(method, passwords(&["pencil"]), end_point).start() {
        Step::Send(bytes) => bytes,
        other => panic!("{other:?}"),
    };
    let trusted = login(Method::Trust, passwords(&["pencil"]), None).start();
    assert!(matches!(trusted, Step::Accepted(bytes) if bytes.is_empty()));
    assert_eq!(start(Method::Plain, None), b"R\0\0\0\x08\0\0\0\x03");
    assert_eq!(
        start(Method::Md5, None),
        b"R\0\0\0\x0c\0\0\0\x05\x01\x01\x01\x01"
    );
    assert_eq!(
        start(Method::Scram, None),
        b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"
    );
    assert_eq!(
        start(Method::Scram, Some(b"certificate")),
        b"R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
    );

    let answer =
        |code, body: &[u8]| match server_login(Some("pencil"), None).authentication(code, body) {
            ServerStep::Send(bytes) => bytes,
            other => panic!("{other:?}"),
        };
    assert_eq!(answer(3, b""), b"p\0\0\0\x0bpencil\0");
    assert_eq!(answer(5, &[1, 2, 3, 4]).len(), 1 + 4 + 35 + 1);
    assert_eq!(
        answer(10, b"SCRAM-SHA-256\0\0"),
        b"p\0\0\0\x36SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=AgICAgICAgICAgICAgICAgIC".as_slice()
    );
}

#[test]
fn a_client_may_send_its_first_message_late() {
    let mut server = login(Method::Scram, stored_scram("pencil"), None);
    server.start();
    let step = server.message(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff");
    let Step::Send(bytes) = step else {
        panic!("{step:?}");
    };
    assert_eq!(bytes, b"R\0\0\0\x08\0\0\0\x0b");
    let step = server.message(b'p', b"n,,n=,r=x");
    assert!(matches!(step, Step::Send(_)), "{step:?}");
}

#[test]
fn clients_that_break_the_protocol() {
    let refusal = |method, tag, body: &[u8]| {
        let mut server = login(method, passwords(&["pencil"]), None);
        server.start();
        match server.message(tag, body) {
            Step::Refused { error, .. } => {
                assert_eq!(error.survives, Survives::Nothing);
                assert!(!server.is_accepted());
                let again = server.message(b'p', b"pencil\0");
                assert!(matches!(again, Step::Refused { .. }), "it stays refused");
                error.to_string()
            }
            other => panic!("{other:?}"),
        }
    };
    let methods = [Method::Plain, Method::Md5, Method::Scram];
    for method in methods {
        assert_eq!(
            refusal(method, b'Q', b"SELECT 1\0"),
            "FATAL 08P01: expected a password message"
        );
        let long = vec![b'x'; LOGIN_MESSAGE_BYTES_MAX + 1];
        assert_eq!(
            refusal(method, b'p', &long),
            "FATAL 08P01: protocol violation: password message too long"
        );
    }
    for body in [&b""[..], b"pencil", b"pencil\0\0", b"pen\0cil\0"] {
        for method in [Method::Plain, Method::Md5] {
            assert_eq!(
                refusal(method, b'p', body),
                "FATAL 08P01: protocol violation: malformed password message"
            );
        }
    }
    let cases: [(&[u8], &str); 9] = [
        (b"", "malformed SASL response"),
        (b"SCRAM-SHA-256", "malformed SASL response"),
        (b"SCRAM-SHA-256\0", "malformed SASL response"),
        (
            b"SCRAM-SHA-256\0\0\0\0\x09n,,n=,r=",
            "malformed SASL response",
        ),
        (
            b"SCRAM-SHA-256\0\xff\xff\xff\xffx",
            "malformed SASL response",
        ),
        (
            b"SCRAM-SHA-256\0\xff\xff\xff\xfe",
            "malformed SASL response",
        ),
        (
            b"SCRAM-SHA-1\0\0\0\0\x09n,,n=,r=x",
            "SASL mechanism was not offered",
        ),
        (
            b"SCRAM-SHA-256-PLUS\0\0\0\0\x09n,,n=,r=x",
            "SASL mechanism was not offered",
        ),
        (
            b"SCRAM-SHA-256\0\0\0\0\x08n,,n=,r=",
            "malformed SCRAM message",
        ),
    ];
    for (body, reason) in cases {
        let expected = format!("FATAL 08P01: protocol violation: {reason}");
        assert_eq!(refusal(Method::Scram, b'p', body), expected);
    }
}

#[test]
fn a_stripped_offer_of_channel_binding_is_an_attack() {
    let mut server = login(Method::Scram, passwords(&["pencil"]), Some(b"certificate"));
    server.start();
    let step = server.message(b'p', b"SCRAM-SHA-256\0\0\0\0\x09y,,n=,r=x");
    let Step::Refused { error, reason } = step else {
        panic!("{step:?}");
    };
    assert_eq!(error.code.to_string(), "28P01");
    assert_eq!(
        reason,
        "client believes that channel binding was not offered"
    );
}

fn server_refusal(client: &mut ServerLogin, code: i32, body: &[u8]) -> String {
    match client.authentication(code, body) {
        ServerStep::Refused(error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn servers_that_ask_for_the_impossible() {
    let unsupported = "ERROR 08001: server authentication method not supported";
    for code in [1, 2, 4, 6, 7, 8, 9, 11, 12, 99, -1] {
        let mut client = server_login(Some("pencil"), None);
        assert_eq!(
            server_refusal(&mut client, code, b""),
            unsupported,
            "{code}"
        );
    }
    for names in [
        &b""[..],
        b"\0",
        b"OAUTHBEARER\0\0",
        b"SCRAM-SHA-256-PLUS\0\0",
        b"SCRAM-SHA-2\0\0",
    ] {
        let mut client = server_login(Some("pencil"), None);
        assert_eq!(server_refusal(&mut client, 10, names), unsupported);
    }
    let cases: [(i32, &[u8]); 3] = [(3, b""), (5, b"salt"), (10, b"SCRAM-SHA-256\0\0")];
    for (code, body) in cases {
        assert_eq!(
            server_refusal(&mut server_login(None, None), code, body),
            "ERROR 08001: cannot connect to server for database \"shop\" \
             (server asks for a password, none is configured)"
        );
    }
    for salt in [&b""[..], b"sal", b"salty"] {
        let refusal = server_refusal(&mut server_login(Some("pencil"), None), 5, salt);
        assert!(
            refusal.ends_with("(malformed authentication message)"),
            "{refusal}"
        );
    }
}

#[test]
fn servers_that_do_not_prove_themselves() {
    let names = b"SCRAM-SHA-256\0\0";
    let challenge = b"r=AgICAgICAgICAgICAgICAgICx,s=c2FsdA==,i=2";
    // How far the server goes before it says that all is well.
    for messages in 1..=2 {
        let mut client = server_login(Some("pencil"), None);
        client.authentication(10, names);
        if messages == 2 {
            let ServerStep::Derive(derivation) = client.authentication(11, challenge) else {
                panic!();
            };
            assert_eq!(derivation.origin, Origin::Configured);
            client.derived(&derivation.run());
        }
        let refusal = server_refusal(&mut client, 0, b"");
        assert!(refusal.contains("skipped its part"), "{refusal}");
        let refusal = server_refusal(&mut client, 0, b"");
        assert!(
            refusal.contains("unexpected"),
            "it stays refused: {refusal}"
        );
    }

    let mut client = server_login(Some("pencil"), None);
    client.authentication(10, names);
    let ServerStep::Derive(derivation) = client.authentication(11, challenge) else {
        panic!();
    };
    client.derived(&derivation.run());
    let forged = b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let refusal = server_refusal(&mut client, 12, forged);
    assert!(
        refusal.ends_with("(server does not know the password)"),
        "{refusal}"
    );
}

/// A server may not turn to another method once it has our answer to the first.
#[test]
fn servers_that_ask_twice() {
    let first: [(i32, &[u8]); 3] = [(3, b""), (5, b"salt"), (10, b"SCRAM-SHA-256\0\0")];
    for (code, body) in first {
        for (again, body_again) in first {
            let mut client = server_login(Some("pencil"), None);
            assert!(matches!(
                client.authentication(code, body),
                ServerStep::Send(_)
            ));
            let refusal = server_refusal(&mut client, again, body_again);
            assert!(refusal.contains("unexpected"), "{code}, {again}: {refusal}");
        }
    }
    let mut client = server_login(Some("pencil"), None);
    assert!(matches!(
        client.authentication(0, b""),
        ServerStep::Accepted { password: false }
    ));
    server_refusal(&mut client, 3, b"");
}

proptest! {
    #[test]
    fn clients_never_make_us_panic(data in any::<Vec<u8>>()) {
        fuzz_login(&data);
    }

    #[test]
    fn sasl_responses_never_make_us_panic(response in "[npyrsicvem=,0-9A-Za-z\\x00]{0,40}", plus: bool) {
        let mechanism = if plus { "SCRAM-SHA-256-PLUS\0" } else { "SCRAM-SHA-256\0" };
        let length = u32::try_from(response.len()).unwrap().to_be_bytes();
        fuzz_login(&[&[u8::from(plus)], mechanism.as_bytes(), &length, response.as_bytes()].concat());
    }

    #[test]
    fn servers_never_make_us_panic(messages in prop::collection::vec((0..14i32, any::<Vec<u8>>()), 0..4), sasl: bool) {
        let mut client = server_login(Some("pencil"), Some(b"certificate"));
        if sasl {
            client.authentication(10, b"SCRAM-SHA-256-PLUS\0\0");
        }
        for (code, body) in messages {
            let step = client.authentication(code, &body);
            let accepted = matches!(step, ServerStep::Accepted { .. });
            prop_assert!(!sasl || !accepted);
        }
    }
}
