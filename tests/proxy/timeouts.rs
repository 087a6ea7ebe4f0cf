//! Every limit of time, and what a client is told when it is used up; servers that are lost, and what of it.

use std::time::Duration;

use crate::support::scripted::{one_row, serve};
use crate::support::wire::{
    bind, copy_data, copy_done, execute, parse, query, run, sync, tagged, Message,
};
use crate::support::{Config, Pgdog, Postgres, Wire};

const ONE: &str = "T D:1 C:SELECT_1 Z:I";

fn start(general: &str) -> (Pgdog, String) {
    let database = Postgres::shared().database("timeouts");
    let pgdog = Config::of(&database).general(general).start();
    (pgdog, database)
}

/// The error that a client gets: severity, code and message.
fn error(messages: &[Message]) -> String {
    let error = messages.iter().find(|message| message.tag == b'E');
    error.map_or(String::new(), |error| {
        [b'V', b'C', b'M'].map(|name| error.field(name)).join(" ")
    })
}

/// What comes unasked, up to the end of the stream.
fn end(client: &mut Wire) -> String {
    let mut messages = Vec::new();
    while let Ok(message) = client.try_read() {
        messages.push(message);
    }
    error(&messages)
}

#[test]
fn client_idle_timeout_ends_idle_clients_only() {
    let (pgdog, database) = start("client_idle_timeout = 2000");
    let mut busy = pgdog.client(&database);
    busy.send(&query("BEGIN; SELECT 1 FROM pg_sleep(3)"));
    let mut idle = pgdog.client(&database);
    let said = end(&mut idle);
    assert_eq!(said, "FATAL 57P05 idle for 2000 ms (client_idle_timeout)");
    assert_eq!(busy.batches(1), "C:BEGIN T D:1 C:SELECT_1 Z:T");
    // Nor does a transaction count as idleness.
    assert_eq!(end(&mut pgdog.client(&database)), said);
    assert_eq!(busy.query("COMMIT"), "C:COMMIT Z:I");
    pgdog.stop();
}

#[test]
fn client_idle_in_transaction_timeout_rolls_back() {
    let (pgdog, database) =
        start("client_idle_in_transaction_timeout = 2000\ndefault_pool_size = 1");
    let (mut client, mut other) = (pgdog.client(&database), pgdog.client(&database));
    client.query("CREATE TABLE t (a int)");
    client.query("BEGIN; INSERT INTO t VALUES (1)");
    let text = "FATAL 25P03 idle in transaction for 2000 ms (client_idle_in_transaction_timeout)";
    assert_eq!(end(&mut client), text);
    assert_eq!(other.value("SELECT count(*) FROM t"), "0");
    // The rest of the data of a COPY that has failed is no activity.
    let mut client = pgdog.client(&database);
    client.query("BEGIN");
    assert_eq!(client.begin_copy("COPY t FROM STDIN"), "G");
    client.send(&copy_data(b"no number\n"));
    assert_eq!(client.batches(1), "E:22P02 Z:E");
    let rest = copy_data(b"1\n2\n3\n");
    client.send(&rest[..8]);
    std::thread::sleep(Duration::from_millis(100));
    client.send(&[&rest[8..], &copy_data(b"4\n"), &copy_done()].concat());
    assert_eq!(end(&mut client), text);
    pgdog.stop();
}

#[test]
fn query_timeout_cancels_the_statement_and_the_session_goes_on() {
    let (pgdog, database) = start("query_timeout = 2000\ndefault_pool_size = 1");
    let (mut client, mut other) = (pgdog.client(&database), pgdog.client(&database));
    let text = "ERROR 57014 statement cancelled by query_timeout (2000 ms)";
    client.send(&query("SELECT pg_sleep(60)"));
    let told = client.read_until(b'Z');
    assert_eq!(error(&told), text);
    assert_eq!(client.query("SELECT 1"), ONE);
    // In a transaction it fails the transaction.
    client.query("BEGIN");
    client.send(&[run("SELECT pg_sleep(60)", &[]), sync()].concat());
    assert_eq!(error(&client.read_until(b'Z')), text);
    assert_eq!(client.query("SELECT 1"), "E:25P02 Z:E");
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    assert_eq!(other.query("SELECT 1"), ONE);
    // Of a pipeline only the statement that takes too long.
    client.send(
        &[
            query("SELECT 1"),
            query("SELECT pg_sleep(60)"),
            query("SELECT 1"),
        ]
        .concat(),
    );
    assert_eq!(client.batches(1), ONE);
    client.expect_cancelled('I');
    assert_eq!(client.batches(1), ONE);
    // Many short ones are not one long one.
    for _ in 0..8 {
        client.send(&query("SELECT 1 FROM pg_sleep(0.3)"));
    }
    assert_eq!(client.batches(8), [ONE; 8].join(" "));
    pgdog.stop();
}

/// A server that does as the text of a query says.
fn odd_server(general: &str) -> Pgdog {
    let port = serve(|mut peer| {
        if peer.log_in(true).is_none() {
            return;
        }
        let mut open = false;
        while let Some(message) = peer.read() {
            let text = message.body.as_slice();
            let word = |word: &[u8]| text.windows(word.len()).any(|part| part == word);
            match message.tag {
                _ if word(b"DIE") => return,
                _ if word(b"HANG") => loop {
                    std::thread::park();
                },
                b'Q' if word(b"BEGIN") || word(b"COMMIT") => {
                    open = word(b"BEGIN");
                    peer.send(&tagged(b'C', if open { b"BEGIN\0" } else { b"COMMIT\0" }));
                    peer.send(&tagged(b'Z', if open { b"T" } else { b"I" }));
                }
                b'Q' if open => {
                    let mut reply = one_row("1");
                    reply.pop();
                    reply.push(b'T');
                    peer.send(&reply);
                }
                b'Q' => peer.send(&one_row("1")),
                b'P' => peer.send(&tagged(b'1', b"")),
                b'B' => peer.send(&tagged(b'2', b"")),
                b'E' => peer.send(&tagged(b'C', b"SELECT 0\0")),
                b'S' => peer.send(&tagged(b'Z', b"I")),
                _ => return,
            }
        }
    });
    Config::empty()
        .general(general)
        .server("odd", port, "")
        .user("alice", "odd", "password = \"hunter2\"")
        .start()
}

#[test]
fn a_server_that_does_not_even_stop_ends_the_client() {
    let pgdog = odd_server("query_timeout = 2000");
    let mut client = pgdog.client("odd");
    client.send(&query("HANG"));
    assert_eq!(
        end(&mut client),
        "FATAL 57014 statement cancelled by query_timeout (2000 ms)"
    );
}

#[test]
fn a_server_lost_before_it_answers_is_an_error_that_the_client_may_survive() {
    let pgdog = odd_server("client_connection_recovery = \"recover\"");
    let mut client = pgdog.client("odd");
    for _ in 0..3 {
        client.send(&query("DIE"));
        assert_eq!(
            error(&client.read_until(b'Z')),
            "ERROR 08006 server connection lost"
        );
        assert_eq!(client.query("SELECT 1"), ONE);
        // Amid a batch: what is left of it is skipped, however it comes.
        assert_eq!(client.ask(&[run("DIE", &[]), sync()]), "E:08006 Z:I");
        client.send(&parse("", "DIE"));
        assert_eq!(client.expect(1), "E:08006");
        client.send(&[bind("", "", &[]), execute("", 0)].concat());
        client.send(&[sync(), query("SELECT 1")].concat());
        assert_eq!(client.batches(2), format!("Z:I {ONE}"));
    }
    // With the beginning of another batch behind it, of which the rest must not be done alone.
    let mut second = pgdog.client("odd");
    second.send(&[run("DIE", &[]), sync(), run("SELECT 1", &[])].concat());
    assert_eq!(end(&mut second), "FATAL 08006 server connection lost");
    // In a transaction nobody knows what is left of it.
    client.query("BEGIN");
    client.send(&query("DIE"));
    let text = "FATAL 08006 server connection lost, transaction state unknown";
    assert_eq!(end(&mut client), text);
}

#[test]
fn a_server_lost_before_it_answers_ends_the_client_by_default() {
    let pgdog = odd_server("");
    let mut client = pgdog.client("odd");
    client.send(&query("DIE"));
    assert_eq!(end(&mut client), "FATAL 08006 server connection lost");
}

#[test]
fn a_commit_in_flight_when_the_server_is_lost_has_an_unknown_outcome() {
    let text = "FATAL 08007 server connection lost during commit, outcome unknown";
    let commits = [
        query("COMMIT /* DIE */"),
        query("SELECT 1; COMMIT; SELECT 'DIE'"),
        [run("END /* DIE */", &[]), sync()].concat(),
    ];
    for commit in commits {
        let pgdog = odd_server("client_connection_recovery = \"recover\"");
        let mut client = pgdog.client("odd");
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        client.send(&commit);
        assert_eq!(end(&mut client), text, "{}", commit.escape_ascii());
    }
}
