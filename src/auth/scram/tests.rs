//! SCRAM: the RFC's exchange, both roles against each other and against the `scram` crate, tampering.

use proptest::prelude::*;

use super::client::{AwaitServerFinal, Binding};
use super::server::AwaitClientFinal;
use super::*;
use crate::auth::keys::{Keys, ITERATIONS_MAX};

const CLIENT_NONCE: [u8; NONCE_BYTES] = [1; NONCE_BYTES];
const SERVER_NONCE: [u8; NONCE_BYTES] = [2; NONCE_BYTES];

/// The exchange of RFC 7677, section 3.
#[test]
fn rfc_7677() {
    let client_first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    let server_first = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    let client_final = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let server_final = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let keys = Keys::derive(b"pencil", &salt, 4096);

    let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
    let (client, message) = client::start(Binding::Unsupported, "user", nonce);
    assert_eq!(message, client_first);
    let challenge = client.server_first(server_first).unwrap();
    assert_eq!((&*challenge.salt, challenge.iterations), (&*salt, 4096));
    let (client, message) = challenge.answer(&keys);
    assert_eq!(message, client_final);
    assert_eq!(client.server_final(server_final), Ok(()));

    let nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let (server, message) =
        server::respond(Mechanism::Sha256, None, client_first, nonce, &salt, 4096).unwrap();
    assert_eq!(message, server_first);
    let proof = server.client_final(client_final).unwrap();
    let proven = proof.check(&[keys.stored]).unwrap();
    assert_eq!(proven.server_final, server_final);
    assert_eq!(proven.client_key, keys.client_key, "the proof reveals it");
}

/// Both roles up to the server-final message, every message passing through `tamper` with its number.
fn exchange(
    binding: Binding,
    end_point: Option<&[u8]>,
    password: &[u8],
    stored: &[&[u8]],
    mut tamper: impl FnMut(usize, &mut Vec<u8>),
) -> Result<(), ScramError> {
    let mechanism = binding.mechanism();
    let (client, mut message) = client::client_first(binding, &CLIENT_NONCE);
    tamper(0, &mut message);
    let (server, mut message) =
        server::client_first(mechanism, end_point, &message, &SERVER_NONCE, b"salt", 2)?;
    tamper(1, &mut message);
    let challenge = client.server_first(&message)?;
    let keys = Keys::derive(password, &challenge.salt, challenge.iterations);
    let (client, mut message) = challenge.answer(&keys);
    tamper(2, &mut message);
    let stored: Vec<_> = stored
        .iter()
        .map(|stored| Keys::derive(stored, b"salt", 2).stored)
        .collect();
    let mut message = server.client_final(&message)?.check(&stored)?.server_final;
    tamper(3, &mut message);
    client.server_final(&message)
}

fn honest(_: usize, _: &mut Vec<u8>) {}

#[test]
fn any_of_several_passwords() {
    let login = |password: &[u8], stored: &[&[u8]]| {
        exchange(Binding::Unsupported, None, password, stored, honest)
    };
    assert_eq!(login(b"new", &[b"old", b"new"]), Ok(()));
    assert_eq!(login(b"old", &[b"old", b"new"]), Ok(()));
    assert_eq!(login(b"other", &[b"old", b"new"]), Err(ScramError::Proof));
    assert_eq!(login(b"", &[]), Err(ScramError::Proof));
}

#[test]
fn channel_binding() {
    let a: &[u8] = b"certificate a";
    let end_point = |bytes: &[u8]| Binding::EndPoint(bytes.to_vec());
    let cases = [
        (Binding::Unsupported, None, Ok(())),
        (Binding::Unsupported, Some(a), Ok(())),
        (Binding::NotOffered, None, Ok(())),
        (Binding::NotOffered, Some(a), Err(ScramError::Downgrade)),
        (end_point(a), Some(a), Ok(())),
        (end_point(b"b"), Some(a), Err(ScramError::Binding)),
        (end_point(a), None, Err(ScramError::BindingFlag)),
    ];
    for (binding, seen, expected) in cases {
        let name = format!("{binding:?}, server sees {seen:?}");
        let result = exchange(binding, seen, b"pencil", &[b"pencil"], honest);
        assert_eq!(result, expected, "{name}");
    }
}

#[test]
fn client_first_messages() {
    let long = format!("n,,n=,r={}", "x".repeat(MESSAGE_BYTES_MAX));
    let longest = format!("n,,n=,r={}", "x".repeat(MESSAGE_BYTES_MAX - 8));
    let cases: [(&[u8], Result<(), ScramError>); 31] = [
        (b"n,,n=,r=x", Ok(())),
        (b"n,,n=*,r=x", Ok(())),
        (b"n,,n=a=2Cb=3D,r=x=y", Ok(())),
        (b"n,,n=\xff,r=x", Ok(())),
        (b"n,,n=,r=x,e=ignored,f=", Ok(())),
        (longest.as_bytes(), Ok(())),
        (long.as_bytes(), Err(ScramError::Malformed)),
        (b"", Err(ScramError::Malformed)),
        (b"n", Err(ScramError::Malformed)),
        (b"n,", Err(ScramError::Malformed)),
        (b"n,,", Err(ScramError::Malformed)),
        (b"n,,n=", Err(ScramError::Malformed)),
        (b"n,,n=,", Err(ScramError::Malformed)),
        (b"n,,n=,r", Err(ScramError::Malformed)),
        (b"n,,n=,r=", Err(ScramError::Malformed)),
        (b"n,,r=x,n=", Err(ScramError::Malformed)),
        (b"n,,n=,r=x,", Err(ScramError::Malformed)),
        (b"n,,n=,r=x,1=y", Err(ScramError::Malformed)),
        (b"n,,n=,r=x y", Err(ScramError::Malformed)),
        (b"n,,n=,r=x\0", Err(ScramError::Malformed)),
        (b"n,,n=\0,r=x", Err(ScramError::Malformed)),
        (b"n,,n=,r=\xc3\xa9", Err(ScramError::Malformed)),
        (b"x,,n=,r=x", Err(ScramError::Malformed)),
        (b"nn,,n=,r=x", Err(ScramError::Malformed)),
        (b"n,b=x,n=,r=x", Err(ScramError::Malformed)),
        (b"n,a=other,n=,r=x", Err(ScramError::Unsupported)),
        (b"n,,m=x,n=,r=x", Err(ScramError::Unsupported)),
        (b"n,,n=,r=x,m=x", Err(ScramError::Unsupported)),
        (
            b"p=tls-server-end-point,,n=,r=x",
            Err(ScramError::BindingFlag),
        ),
        (b"p=tls-unique,,n=,r=x", Err(ScramError::BindingFlag)),
        (b"p,,n=,r=x", Err(ScramError::Malformed)),
    ];
    for (message, expected) in cases {
        let result =
            server::client_first(Mechanism::Sha256, None, message, &SERVER_NONCE, b"salt", 1);
        let name = String::from_utf8_lossy(message);
        assert_eq!(result.map(|_| ()), expected, "{name}");
    }
    for flag in ["n", "y", "p=tls-unique"] {
        let message = format!("{flag},,n=,r=x").into_bytes();
        let end_point = Some(&b"certificate"[..]);
        let plus = Mechanism::Sha256Plus;
        let result = server::client_first(plus, end_point, &message, &SERVER_NONCE, b"salt", 1);
        assert_eq!(result.map(|_| ()), Err(ScramError::BindingFlag), "{flag}");
    }
}

fn await_client_final() -> AwaitClientFinal {
    let first = b"n,,n=,r=x";
    server::respond(Mechanism::Sha256, None, first, "y", b"salt", 1)
        .unwrap()
        .0
}

#[test]
fn client_final_messages() {
    let proof = BASE64.encode([0; 32]);
    let cases = [
        (format!("c=biws,r=xy,p={proof}"), Ok(())),
        (format!("c=biws,r=xy,e=ignored,p={proof}"), Ok(())),
        (format!("c=eSws,r=xy,p={proof}"), Err(ScramError::Binding)),
        (format!("c=,r=xy,p={proof}"), Err(ScramError::Binding)),
        (format!("c=biws,r=xyz,p={proof}"), Err(ScramError::Nonce)),
        (format!("c=biws,r=x,p={proof}"), Err(ScramError::Nonce)),
        (format!("r=xy,c=biws,p={proof}"), Err(ScramError::Malformed)),
        (format!("c=biws,p={proof}"), Err(ScramError::Malformed)),
        (
            format!("c=biws,r=xy,p={proof},e=x"),
            Err(ScramError::Malformed),
        ),
        (
            format!("c=biws,r=xy,p={proof}\0"),
            Err(ScramError::Malformed),
        ),
        (
            format!("c=biws,r=xy,m=x,p={proof}"),
            Err(ScramError::Unsupported),
        ),
        ("c=biws,r=xy,p=c2FsdA==".into(), Err(ScramError::Malformed)),
        ("c=biws,r=xy,p=".into(), Err(ScramError::Malformed)),
        ("c=biws,r=xy".into(), Err(ScramError::Malformed)),
        ("".into(), Err(ScramError::Malformed)),
        (
            format!("c=biws,r=xy,e={},p={proof}", "x".repeat(MESSAGE_BYTES_MAX)),
            Err(ScramError::Malformed),
        ),
    ];
    for (message, expected) in cases {
        let result = await_client_final().client_final(message.as_bytes());
        assert_eq!(result.map(|_| ()), expected, "{message}");
    }
}

#[test]
fn server_first_messages() {
    let long_salt = BASE64.encode([0; 257]);
    let cases = [
        ("r=xy,s=c2FsdA==,i=4096".into(), Ok(())),
        ("r=xy,s=c2FsdA==,i=4096,e=ignored".into(), Ok(())),
        (format!("r=xy,s=c2FsdA==,i={ITERATIONS_MAX}"), Ok(())),
        (
            format!("r=xy,s=c2FsdA==,i={}", ITERATIONS_MAX + 1),
            Err(ScramError::Iterations),
        ),
        ("r=xy,s=c2FsdA==,i=0".into(), Err(ScramError::Iterations)),
        ("r=xy,s=c2FsdA==,i=-1".into(), Err(ScramError::Iterations)),
        ("r=xy,s=c2FsdA==,i=".into(), Err(ScramError::Iterations)),
        (
            "r=xy,s=c2FsdA==,i=99999999999".into(),
            Err(ScramError::Iterations),
        ),
        ("r=x,s=c2FsdA==,i=1".into(), Err(ScramError::Nonce)),
        ("r=yx,s=c2FsdA==,i=1".into(), Err(ScramError::Nonce)),
        ("r=,s=c2FsdA==,i=1".into(), Err(ScramError::Nonce)),
        ("r=x y,s=c2FsdA==,i=1".into(), Err(ScramError::Malformed)),
        ("r=xy,s=,i=1".into(), Err(ScramError::Malformed)),
        ("r=xy,s=c2FsdA,i=1".into(), Err(ScramError::Malformed)),
        (
            format!("r=xy,s={long_salt},i=1"),
            Err(ScramError::Malformed),
        ),
        ("r=xy,i=1,s=c2FsdA==".into(), Err(ScramError::Malformed)),
        ("r=xy,s=c2FsdA==".into(), Err(ScramError::Malformed)),
        ("e=other-error".into(), Err(ScramError::Malformed)),
        ("".into(), Err(ScramError::Malformed)),
        (
            "m=x,r=xy,s=c2FsdA==,i=1".into(),
            Err(ScramError::Unsupported),
        ),
    ];
    for (message, expected) in cases {
        let (client, _) = client::start(Binding::Unsupported, "", "x".into());
        let result = client.server_first(message.as_bytes());
        assert_eq!(result.map(|_| ()), expected, "{message}");
    }
}

#[test]
fn server_final_messages() {
    let await_server_final = || -> AwaitServerFinal {
        let (client, _) = client::start(Binding::Unsupported, "", "x".into());
        let challenge = client.server_first(b"r=xy,s=c2FsdA==,i=1").unwrap();
        challenge.answer(&Keys::derive(b"pencil", b"salt", 1)).0
    };
    let wrong = BASE64.encode([0; 32]);
    let cases = [
        (format!("v={wrong}"), ScramError::Signature),
        ("e=invalid-proof".into(), ScramError::Rejected),
        ("v=".into(), ScramError::Malformed),
        ("v=c2FsdA==".into(), ScramError::Malformed),
        (format!("v={wrong},"), ScramError::Malformed),
        ("".into(), ScramError::Malformed),
        ("x".into(), ScramError::Malformed),
    ];
    for (message, expected) in cases {
        let result = await_server_final().server_final(message.as_bytes());
        assert_eq!(result, Err(expected), "{message}");
    }
}

/// No message survives the loss of its tail or the change of any bit, except that optional extensions and
/// the user name are nobody's business (a changed client-first message still spoils the signature).
#[test]
fn tampering_is_noticed() {
    for binding in [Binding::NotOffered, Binding::EndPoint(b"cert".to_vec())] {
        let end_point = match &binding {
            Binding::EndPoint(end_point) => Some(&end_point[..]),
            _ => None,
        };
        let run = |tamper: &mut dyn FnMut(usize, &mut Vec<u8>)| {
            exchange(binding.clone(), end_point, b"pencil", &[b"pencil"], tamper)
        };
        let mut lengths = [0; 4];
        let result = run(&mut |number, message| lengths[number] = message.len());
        assert_eq!(result, Ok(()));
        for (number, length) in lengths.into_iter().enumerate() {
            for at in 0..length {
                let cut = run(&mut |n, message| {
                    if n == number {
                        message.truncate(at);
                    }
                });
                assert!(cut.is_err(), "message {number} cut to {at} bytes");
                for bit in 0..8 {
                    let flipped = run(&mut |n, message| {
                        if n == number {
                            message[at] ^= 1 << bit;
                        }
                    });
                    assert!(flipped.is_err(), "message {number}, byte {at}, bit {bit}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn roles_agree(password in any::<Vec<u8>>(), text in any::<String>()) {
        for password in [&password[..], text.as_bytes()] {
            let end_point = Binding::EndPoint(b"cert".to_vec());
            let bound = exchange(end_point, Some(b"cert"), password, &[password], honest);
            prop_assert_eq!(bound, Ok(()));
            let longer = [password, b"x"].concat();
            let wrong = exchange(Binding::Unsupported, None, &longer, &[password], honest);
            prop_assert_eq!(wrong, Err(ScramError::Proof));
        }
    }

    #[test]
    fn bytes_never_panic(data in any::<Vec<u8>>()) {
        fuzz_scram(&data);
    }

    /// Closer to the grammar than random bytes.
    #[test]
    fn near_messages_never_panic(text in "[npyrsicvem=,0-9A-Za-z+/\\x00]{0,60}") {
        for flavour in 0..4 {
            fuzz_scram(&[&[flavour], text.as_bytes()].concat());
        }
    }

    /// The `scram` crate knows neither SASLprep nor channel binding, so passwords are ASCII here.
    #[test]
    fn logs_in_to_the_scram_crate(
        password in "[ -~]{1,40}", salt in prop::collection::vec(any::<u8>(), 1..40), nonce: [u8; NONCE_BYTES],
    ) {
        struct Provider { password: String, salt: Vec<u8> }
        impl ::scram::AuthenticationProvider for Provider {
            fn get_password_for(&self, _: &str) -> Option<::scram::server::PasswordInfo> {
                let iterations = std::num::NonZeroU32::new(3).unwrap();
                let hash = ::scram::hash_password(&self.password, iterations, &self.salt);
                Some(::scram::server::PasswordInfo::new(hash.to_vec(), 3, self.salt.clone()))
            }
        }
        for (typed, accepted) in [(password.clone(), true), (format!("{password}x"), false)] {
            let server = ::scram::ScramServer::new(Provider { password: password.clone(), salt: salt.clone() });
            let (client, message) = client::client_first(Binding::Unsupported, &nonce);
            let message = String::from_utf8(message).unwrap();
            let (server, message) = server.handle_client_first(&message).unwrap().server_first();
            let challenge = client.server_first(message.as_bytes()).unwrap();
            prop_assert_eq!((&*challenge.salt, challenge.iterations), (&salt[..], 3));
            let keys = Keys::derive(typed.as_bytes(), &challenge.salt, challenge.iterations);
            let (client, message) = challenge.answer(&keys);
            let message = String::from_utf8(message).unwrap();
            let (status, message) = server.handle_client_final(&message).unwrap().server_final();
            prop_assert_eq!(status == ::scram::AuthenticationStatus::Authenticated, accepted);
            let expected = if accepted { Ok(()) } else { Err(ScramError::Rejected) };
            prop_assert_eq!(client.server_final(message.as_bytes()), expected);
        }
    }

    #[test]
    fn the_scram_crate_logs_in(
        password in "[ -~]{1,40}", salt in prop::collection::vec(any::<u8>(), 1..40), nonce: [u8; NONCE_BYTES],
    ) {
        let stored = [Keys::derive(password.as_bytes(), &salt, 3).stored];
        for (typed, accepted) in [(password.clone(), true), (format!("{password}x"), false)] {
            let (client, message) = ::scram::ScramClient::new("alice", &typed, None).client_first();
            let (server, message) = server::client_first(
                Mechanism::Sha256, None, message.as_bytes(), &nonce, &salt, 3,
            ).unwrap();
            let message = String::from_utf8(message).unwrap();
            let (client, message) = client.handle_server_first(&message).unwrap().client_final();
            let proof = server.client_final(message.as_bytes()).unwrap();
            match proof.check(&stored) {
                Ok(message) => {
                    let message = String::from_utf8(message.server_final).unwrap();
                    prop_assert!(accepted && client.handle_server_final(&message).is_ok());
                }
                Err(error) => prop_assert!(!accepted && error == ScramError::Proof),
            }
        }
    }
}
