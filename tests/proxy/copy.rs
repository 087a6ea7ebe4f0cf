//! COPY in both directions and both protocols, with every way to fail.

use crate::support::wire::{
    copy_data, copy_done, copy_fail, execute, flush, query, run, sync, transcript,
};
use crate::support::{Config, Pgdog, Postgres, Wire};

fn start() -> (Pgdog, String, Wire) {
    let database = Postgres::shared().database("copy");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1")
        .start();
    let mut client = pgdog.client(&database);
    client.query("CREATE TABLE t (id int, name text)");
    (pgdog, database, client)
}

fn rows(database: &str) -> String {
    Postgres::shared().value(
        database,
        "SELECT coalesce(string_agg(id || name, ',' ORDER BY id), '') FROM t",
    )
}

/// The only server went back to the pool in order.
fn expect_usable(pgdog: &Pgdog, database: &str, client: &mut Wire) {
    assert_eq!(client.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    assert_eq!(
        pgdog.client(database).query("SELECT 2"),
        "T D:2 C:SELECT_1 Z:I"
    );
}

#[test]
fn copy_in() {
    let (pgdog, database, mut client) = start();
    assert_eq!(client.begin_copy("COPY t FROM STDIN"), "G");
    // A row split across messages, an empty message, two rows in one.
    for data in [&b"1\ta\n2"[..], b"\tb", b"", b"\n3\tc\n4\td\n"] {
        client.send(&copy_data(data));
    }
    assert_eq!(client.ask(&[copy_done()]), "C:COPY_4 Z:I");
    assert_eq!(rows(&database), "1a,2b,3c,4d");
    expect_usable(&pgdog, &database, &mut client);
    pgdog.stop();
}

#[test]
fn copy_in_sent_without_waiting() {
    let (pgdog, database, mut client) = start();
    let all = [
        query("COPY t FROM STDIN"),
        copy_data(b"1\ta\n"),
        copy_done(),
        query("SELECT 'then'"),
    ];
    client.send(&all.concat());
    assert_eq!(transcript(&client.read_until(b'Z')), "G C:COPY_1 Z:I");
    assert_eq!(
        transcript(&client.read_until(b'Z')),
        "T D:then C:SELECT_1 Z:I"
    );
    assert_eq!(rows(&database), "1a");
    pgdog.stop();
}

#[test]
fn copy_in_by_the_extended_protocol() {
    let (pgdog, database, mut client) = start();
    client.send(&[run("COPY t FROM STDIN", &[]), flush()].concat());
    assert_eq!(client.expect(3), "1 2 G");
    assert_eq!(
        client.ask(&[copy_data(b"1\ta\n"), copy_done(), sync()]),
        "C:COPY_1 Z:I"
    );

    // As libpq does: Sync goes out with Execute, is ignored during the copy, and sent again after it.
    client.send(&[run("COPY t FROM STDIN", &[]), sync()].concat());
    assert_eq!(client.expect(3), "1 2 G");
    assert_eq!(
        client.ask(&[copy_data(b"2\tb\n"), copy_done(), sync()]),
        "C:COPY_1 Z:I"
    );
    assert_eq!(rows(&database), "1a,2b");
    expect_usable(&pgdog, &database, &mut client);
    pgdog.stop();
}

#[test]
fn copy_in_that_the_client_fails() {
    let (pgdog, database, mut client) = start();
    assert_eq!(client.begin_copy("COPY t FROM STDIN"), "G");
    assert_eq!(
        client.ask(&[copy_data(b"1\ta\n"), copy_fail("changed my mind")]),
        "E:57014 Z:I"
    );
    client.send(&[run("COPY t FROM STDIN", &[]), flush()].concat());
    assert_eq!(client.expect(3), "1 2 G");
    client.send(&[copy_data(b"1\ta\n"), copy_fail("again")].concat());
    assert_eq!(client.expect(1), "E:57014");
    assert_eq!(client.ask(&[run("SELECT 'skipped'", &[]), sync()]), "Z:I");
    assert_eq!(rows(&database), "");
    expect_usable(&pgdog, &database, &mut client);
    pgdog.stop();
}

#[test]
fn copy_in_that_the_server_fails_while_the_client_streams() {
    let (pgdog, database, mut client) = start();
    assert_eq!(client.begin_copy("COPY t FROM STDIN"), "G");
    client.send(&copy_data(b"not a number\ta\n"));
    // One error, at once; the rest of the data is swallowed, and so is the end of the copy.
    for _ in 0..1_000 {
        client.send(&copy_data(&b"1\ta\n".repeat(1_000)));
    }
    client.send(&copy_done());
    assert_eq!(transcript(&client.read_until(b'Z')), "E:22P02 Z:I");
    assert_eq!(rows(&database), "");
    expect_usable(&pgdog, &database, &mut client);
    pgdog.stop();
}

#[test]
fn copy_in_that_the_server_fails_by_the_extended_protocol() {
    let (pgdog, database, mut client) = start();
    client.send(&[run("COPY t FROM STDIN", &[]), flush()].concat());
    assert_eq!(client.expect(3), "1 2 G");
    client.send(&copy_data(b"not a number\ta\n"));
    assert_eq!(client.expect(1), "E:22P02");
    assert_eq!(
        client.ask(&[copy_data(b"1\ta\n"), copy_done(), sync()]),
        "Z:I"
    );
    // A Sync that is sent amid the data is ignored.
    for _ in 0..3 {
        client.send(&[run("COPY t FROM STDIN", &[]), flush()].concat());
        assert_eq!(client.expect(3), "1 2 G");
        let amid = [sync(), copy_data(b"not a number\ta\n")].concat();
        client.send(&[amid, copy_fail("changed my mind"), sync()].concat());
        assert_eq!(transcript(&client.read_until(b'Z')), "E:22P02 Z:I");
        assert_eq!(
            client.ask(&[run("SELECT 1", &[]), sync()]),
            "1 2 D:1 C:SELECT_1 Z:I"
        );
    }
    expect_usable(&pgdog, &database, &mut client);
    pgdog.stop();
}

#[test]
fn copy_in_that_cannot_begin() {
    let (pgdog, database, mut client) = start();
    assert_eq!(client.query("COPY nowhere FROM STDIN"), "E:42P01 Z:I");
    // A client that did not wait: its data is ignored.
    client.send(
        &[
            query("COPY nowhere FROM STDIN"),
            copy_data(b"1\ta\n"),
            copy_done(),
            query("SELECT 3"),
        ]
        .concat(),
    );
    assert_eq!(transcript(&client.read_until(b'Z')), "E:42P01 Z:I");
    assert_eq!(transcript(&client.read_until(b'Z')), "T D:3 C:SELECT_1 Z:I");
    expect_usable(&pgdog, &database, &mut client);
    pgdog.stop();
}

#[test]
fn copy_in_among_other_statements() {
    let (pgdog, database, mut client) = start();
    client.send(&query(
        "SELECT 1; COPY t FROM STDIN; SELECT 2; COPY t FROM STDIN",
    ));
    assert_eq!(client.expect(4), "T D:1 C:SELECT_1 G");
    client.send(&[copy_data(b"1\ta\n"), copy_done()].concat());
    assert_eq!(client.expect(5), "C:COPY_1 T D:2 C:SELECT_1 G");
    assert_eq!(
        client.ask(&[copy_data(b"2\tb\n"), copy_done()]),
        "C:COPY_1 Z:I"
    );
    assert_eq!(rows(&database), "1a,2b");

    client.query("BEGIN");
    assert_eq!(client.begin_copy("COPY t FROM STDIN"), "G");
    assert_eq!(
        client.ask(&[copy_data(b"3\tc\n"), copy_done()]),
        "C:COPY_1 Z:T"
    );
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    assert_eq!(rows(&database), "1a,2b");
    pgdog.stop();
}

#[test]
fn copy_out() {
    let (pgdog, database, mut client) = start();
    client.query("INSERT INTO t VALUES (1, 'a'), (2, NULL)");
    assert_eq!(
        client.query("COPY t TO STDOUT"),
        "H d:1\ta\n d:2\t\\N\n c C:COPY_2 Z:I"
    );
    let batch = [run("COPY t TO STDOUT", &[]), sync()];
    assert_eq!(
        client.ask(&batch),
        "1 2 H d:1\ta\n d:2\t\\N\n c C:COPY_2 Z:I"
    );
    assert_eq!(
        client.query("COPY (SELECT 1/(2 - g) FROM generate_series(1, 9) g) TO STDOUT"),
        "H d:1\n E:22012 Z:I"
    );
    let pipeline = [run("COPY t TO STDOUT", &[]), run("SELECT 5", &[]), sync()];
    assert_eq!(
        client.ask(&pipeline),
        "1 2 H d:1\ta\n d:2\t\\N\n c C:COPY_2 1 2 D:5 C:SELECT_1 Z:I"
    );
    expect_usable(&pgdog, &database, &mut client);
    pgdog.stop();
}

#[test]
fn messages_that_do_not_belong_to_a_copy() {
    let (pgdog, database, mut client) = start();
    // Outside a copy, data and its end are ignored.
    client.send(&[copy_data(b"1\ta\n"), copy_done(), copy_fail("")].concat());
    assert_eq!(client.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    // Inside one, a query is a protocol violation that ends the copy or the connection.
    assert_eq!(client.begin_copy("COPY t FROM STDIN"), "G");
    client.send(&[query("SELECT 2"), execute("", 0)].concat());
    let first = client.read();
    assert_eq!(first.field(b'C'), "08P01");
    drop(client);
    assert_eq!(
        pgdog.client(&database).query("SELECT count(*) FROM t"),
        "T D:0 C:SELECT_1 Z:I"
    );
    pgdog.stop();
}
