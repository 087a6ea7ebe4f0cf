//! Channel binding towards servers: one that takes SCRAM-SHA-256-PLUS and nothing else, and checks what is bound. It is
//! written from RFC 5802, 7677 and 5929, apart from our own.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{channel, Receiver, Sender};

use base64::prelude::{Engine, BASE64_STANDARD};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::process::PATIENCE;
use crate::support::scripted::one_row;
use crate::support::scripted_tls::{accept, certificate, message, untagged};
use crate::support::wire::tagged;
use crate::support::{Certificates, Config, Wire};

const SALT: &[u8] = b"0123456789abcdef";
const ITERATIONS: u32 = 4096;

/// What each client bound comes out.
fn demanding() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let (bound, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let bound = bound.clone();
            std::thread::spawn(move || session(stream, &bound));
        }
    });
    (port, received)
}

fn session(stream: TcpStream, bound: &Sender<String>) -> Option<()> {
    let mut stream = accept(stream)?;
    untagged(&mut stream)?; // the startup message
    let offer = [&10_u32.to_be_bytes()[..], b"SCRAM-SHA-256-PLUS\0\0"].concat();
    stream.write_all(&tagged(b'R', &offer)).ok()?;
    let (_, initial) = message(&mut stream)?;
    let initial = initial.strip_prefix(b"SCRAM-SHA-256-PLUS\0")?;
    let first = std::str::from_utf8(initial.get(4..)?).ok()?;
    let bare = first.strip_prefix("p=tls-server-end-point,,")?;
    let nonce = format!("{}server", bare.split(",r=").nth(1)?);
    let salt = BASE64_STANDARD.encode(SALT);
    let server_first = format!("r={nonce},s={salt},i={ITERATIONS}");
    let challenge = [&11_u32.to_be_bytes()[..], server_first.as_bytes()].concat();
    stream.write_all(&tagged(b'R', &challenge)).ok()?;
    let (_, last) = message(&mut stream)?;
    let last = String::from_utf8(last).ok()?;
    let (without_proof, proof) = last.split_once(",p=")?;
    let channel = without_proof.strip_prefix("c=")?.split(',').next()?;
    bound.send(channel.to_owned()).ok()?;
    let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(PASSWORD.as_bytes(), SALT, ITERATIONS);
    let text = format!("{bare},{server_first},{without_proof}");
    let client_key = mac(&salted, "Client Key");
    let signature = mac(&Sha256::digest(&client_key), &text);
    let expected: Vec<u8> = client_key
        .iter()
        .zip(signature)
        .map(|(a, b)| a ^ b)
        .collect();
    if channel != expected_channel() || proof != BASE64_STANDARD.encode(expected) {
        let error = b"SFATAL\0VFATAL\0C28P01\0Mchannel binding check failed\0\0";
        return stream.write_all(&tagged(b'E', error)).ok();
    }
    let verifier = BASE64_STANDARD.encode(mac(&mac(&salted, "Server Key"), &text));
    let done = [&12_u32.to_be_bytes()[..], b"v=", verifier.as_bytes()].concat();
    let mut reply = tagged(b'R', &done);
    reply.extend(tagged(b'R', &[0; 4]));
    reply.extend(tagged(b'S', b"client_encoding\0UTF8\0"));
    reply.extend(tagged(b'S', b"standard_conforming_strings\0on\0"));
    reply.extend(tagged(b'Z', b"I"));
    stream.write_all(&reply).ok()?;
    while let (b'Q', _) = message(&mut stream)? {
        stream.write_all(&one_row("1")).ok()?;
    }
    Some(())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// `tls-server-end-point`: the hash of the server's certificate, by its signature's own hash, which here is SHA-256.
fn expected_channel() -> String {
    let bound = [
        &b"p=tls-server-end-point,,"[..],
        &Sha256::digest(certificate()),
    ]
    .concat();
    BASE64_STANDARD.encode(bound)
}

#[test]
fn a_server_that_demands_channel_binding_gets_it() {
    let (port, bound) = demanding();
    let authority = Certificates::shared().path("authority.crt");
    let pgdog = Config::empty()
        .general(&format!(
            "min_pool_size = 0\ntls_verify = \"verify_full\"\ntls_server_ca_certificate = {authority:?}"
        ))
        .host("bound", "localhost", port, "")
        .user(ALICE, "bound", &format!("password = {PASSWORD:?}"))
        .start();
    let mut client = Wire::connect(pgdog.port(), ALICE, "bound", PASSWORD);
    assert_eq!(client.value("SELECT 1"), "1");
    let channel = bound.recv_timeout(PATIENCE).expect("a login");
    assert_eq!(channel, expected_channel());
    pgdog.stop();
}
