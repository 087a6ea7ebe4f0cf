//! Prepared statements: found, named by their content, present on a server or not.

use std::hint::black_box;
use std::rc::Rc;

use gungraun::{library_benchmark, library_benchmark_group};
use pgdog::prepared::server::{Ensure, ServerStatements};
use pgdog::prepared::{ClientStatements, Id, Statement, Statements};
use pgdog::protocol::frontend::Bind;
use pgdog_benches::SELECT;

/// What follows the name in Parse.
fn definition(text: &[u8]) -> Vec<u8> {
    [text, b"\0\0\0"].concat()
}

fn ids(count: usize) -> Vec<Id> {
    let mut statements = Statements::new(1 << 20);
    let id = |n: usize| {
        let text = format!("SELECT {n}");
        statements
            .intern(&definition(text.as_bytes()), b"")
            .unwrap()
            .id()
    };
    (0..count).map(id).collect()
}

fn unknown() -> (Statements, Vec<u8>) {
    let mut statements = Statements::new(1 << 20);
    // The table is there, as on every core that has seen a client.
    statements.intern(&definition(b"SELECT 1"), b"").unwrap();
    (statements, definition(SELECT))
}

fn known() -> (Statements, Vec<u8>) {
    let (mut statements, definition) = unknown();
    statements.intern(&definition, b"").unwrap();
    (statements, definition)
}

// A Parse: by its bytes, and by SHA-256 when it is new.
#[library_benchmark]
#[bench::known(known())]
#[bench::new(unknown())]
fn interned((mut statements, definition): (Statements, Vec<u8>)) -> (Rc<Statement>, Statements) {
    let statement = statements.intern(black_box(&definition), b"").unwrap();
    (statement, statements)
}

// A client's Bind under its own name becomes one under the server's.
#[library_benchmark]
#[bench::one(client_and_bind())]
fn renamed(
    (client, bind, mut out): (ClientStatements, Vec<u8>, Vec<u8>),
) -> (ClientStatements, Vec<u8>) {
    let bind = Bind::parse(black_box(&bind)).unwrap();
    let name = client.get(bind.statement).unwrap().server_name();
    bind.encode_as(&mut out, &name);
    (client, out)
}

fn client_and_bind() -> (ClientStatements, Vec<u8>, Vec<u8>) {
    let (mut statements, definition) = known();
    let mut client = ClientStatements::default();
    for n in 0..20 {
        let name = format!("P_{n}");
        let statement = statements.intern(&definition, b"").unwrap();
        client.prepare(name.as_bytes(), statement).unwrap();
        client.succeeded();
    }
    let bind = pgdog_benches::prepared_query(1);
    let body = pgdog::protocol::frame::Frames::new(&bind, 1 << 20);
    let body = body.flatten().next().unwrap().body.to_vec();
    (client, body, Vec::with_capacity(256))
}

/// A server with 500 statements, its limit, and one that it is to run.
fn server(wanted: usize) -> (ServerStatements, Id) {
    let ids = ids(501);
    let mut server = ServerStatements::new(500);
    for &id in &ids[..500] {
        assert!(matches!(server.ensure(id), Ensure::Prepare { evict: None }));
        server.sync();
        server.succeeded();
        server.ready();
    }
    (server, ids[wanted])
}

#[library_benchmark]
#[bench::hit_newest(server(499))]
#[bench::hit_oldest(server(0))]
#[bench::evict(server(500))]
fn ensured((mut server, id): (ServerStatements, Id)) -> (Ensure, ServerStatements) {
    (server.ensure(black_box(id)), server)
}

// Sync and ReadyForQuery, which every batch has.
#[library_benchmark]
#[bench::nothing_new(server(0))]
fn synchronised((mut server, _): (ServerStatements, Id)) -> ServerStatements {
    server.sync();
    server.ready();
    server
}

library_benchmark_group!(
    name = statements,
    benchmarks = [interned, renamed, ensured, synchronised]
);
