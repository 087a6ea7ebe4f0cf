//! One SCRAM login with keys that are known, as all but the first of a user: both roles' steps.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group};
use pgdog::auth::keys::Keys;
use pgdog::auth::scram::client::{self, Binding};
use pgdog::auth::scram::server::{self, AwaitClientFinal, Proof};
use pgdog::auth::scram::{Mechanism, NONCE_BYTES};

const NONCE: [u8; NONCE_BYTES] = [7; NONCE_BYTES];
const SALT: [u8; 16] = [9; 16];
const ITERATIONS: u32 = 4096;

/// A client's first message.
fn hello() -> Vec<u8> {
    client::client_first(Binding::Unsupported, &NONCE).1
}

fn challenge(hello: &[u8]) -> (AwaitClientFinal, Vec<u8>) {
    server::client_first(Mechanism::Sha256, None, hello, &NONCE, &SALT, ITERATIONS).unwrap()
}

/// The server awaits what the client has answered.
fn answered() -> (AwaitClientFinal, Vec<u8>, Keys) {
    let keys = Keys::derive(b"correct horse battery staple", &SALT, ITERATIONS);
    let (client, hello) = client::client_first(Binding::Unsupported, &NONCE);
    let (server, challenge) = challenge(&hello);
    let (_, answer) = client.server_first(&challenge).unwrap().answer(&keys);
    (server, answer, keys)
}

fn proven() -> (Proof, Keys) {
    let (server, answer, keys) = answered();
    (server.client_final(&answer).unwrap(), keys)
}

#[library_benchmark]
#[bench::one(hello())]
fn server_first(hello: Vec<u8>) -> (AwaitClientFinal, Vec<u8>) {
    challenge(black_box(&hello))
}

#[library_benchmark]
#[bench::one(answered())]
fn client_final((server, answer, _): (AwaitClientFinal, Vec<u8>, Keys)) -> Proof {
    server.client_final(black_box(&answer)).unwrap()
}

#[library_benchmark]
#[bench::one(proven())]
fn proof_checked((proof, keys): (Proof, Keys)) -> Vec<u8> {
    proof
        .check(std::slice::from_ref(black_box(keys.stored())))
        .unwrap()
        .server_final
}

library_benchmark_group!(
    name = logins,
    benchmarks = [server_first, client_final, proof_checked]
);
