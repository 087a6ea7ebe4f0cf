//! RESET and its kin go back to what the session began with, at once: not only when the transaction has ended.

use crate::shards::Shards;
use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::wire::{
    bind, close, execute, parse, query, run, startup, sync, terminate, Message, VERSION_3_0,
};
use crate::support::{Config, Pgdog, Postgres, Wire};

/// A client that came with these, and one that came with nothing, on one server.
fn start(general: &str) -> (Pgdog, Wire, Wire) {
    let database = Postgres::shared().database("resets");
    let pgdog = Config::of(&database)
        .general(&format!("default_pool_size = 1\n{general}"))
        .start();
    let mut client = Wire::open(pgdog.port());
    let parameters = [
        ("user", ALICE),
        ("database", &*database),
        ("TimeZone", "Asia/Tokyo"),
        ("client_encoding", "LATIN1"),
        (
            "options",
            "-c search_path=pg_catalog,odd -c statement_timeout=11s",
        ),
    ];
    client.send(&startup(VERSION_3_0, &parameters));
    client.authenticate(ALICE, PASSWORD).unwrap();
    let other = pgdog.client(&database);
    (pgdog, client, other)
}

const LOOK: &str = "SELECT concat_ws(' ', current_setting('TimeZone'), \
    current_setting('search_path'), current_setting('statement_timeout'), \
    current_setting('client_encoding'))";
const BEGAN: &str = "Asia/Tokyo pg_catalog,odd 11s LATIN1";

/// What takes away what `SET_ALL` has set; the tag that it is answered with.
const RESETS: [(&str, &str); 5] = [
    ("RESET ALL", "RESET"),
    ("RESET TIME ZONE; RESET search_path; RESET statement_timeout; RESET client_encoding", "RESET"),
    ("SET TIME ZONE DEFAULT; SET search_path TO DEFAULT; SET statement_timeout TO DEFAULT; SET NAMES", "SET"),
    ("SET LOCAL TimeZone TO DEFAULT; SET LOCAL search_path TO DEFAULT; \
      SET LOCAL statement_timeout TO DEFAULT; SET LOCAL client_encoding TO DEFAULT", "SET"),
    ("/* all */ reset all -- of it", "RESET"),
];
const SET_ALL: &str =
    "SET TimeZone = 'UTC'; SET search_path = public; SET statement_timeout = '12s'; \
    SET client_encoding = 'UTF8'";

/// `RESET; RESET` as the tags of its answers.
fn tags(resets: &str, tag: &str) -> String {
    let count = resets.matches(';').count() + 1;
    vec![format!("C:{tag}"); count].join(" ")
}

#[test]
fn amid_a_transaction() {
    let (pgdog, mut client, mut other) = start("");
    for (resets, tag) in RESETS {
        let done = tags(resets, tag);
        client.query("BEGIN");
        client.query(SET_ALL);
        assert_eq!(client.query(resets), format!("{done} Z:T"), "{resets}");
        assert_eq!(client.value(LOOK), BEGAN, "{resets}");
        client.query("ROLLBACK");
        // One by one.
        client.query("BEGIN");
        client.query(SET_ALL);
        for reset in resets.split("; ") {
            assert_eq!(client.query(reset), format!("C:{tag} Z:T"), "{reset}");
        }
        assert_eq!(client.value(LOOK), BEGAN, "{resets}");
        client.query("COMMIT");
        assert!(other.value(LOOK).ends_with("UTF8"), "{resets}");
    }
    pgdog.stop();
}

#[test]
fn in_front_of_other_statements_of_one_text() {
    let (pgdog, mut client, mut other) = start("");
    for (resets, tag) in RESETS {
        let done = tags(resets, tag);
        client.query(SET_ALL);
        other.query("SELECT 1");
        let text = format!("SELECT 0; {resets}\n;;{LOOK}; SELECT 2");
        let expected =
            format!("T D:0 C:SELECT_1 {done} T D:{BEGAN} C:SELECT_1 T D:2 C:SELECT_1 Z:I");
        assert_eq!(client.query(&text), expected, "{resets}");
        // An error is where it was, and undoes it.
        client.query(SET_ALL);
        let reply = client.query(&format!("{resets}\n; SELECT 1/0"));
        assert_eq!(reply, format!("{done} E:22012 Z:I"), "{resets}");
        assert_eq!(client.value(LOOK), "UTC public 12s UTF8", "{resets}");
        client.query("RESET ALL");
    }
    pgdog.stop();
}

#[test]
fn in_a_pipeline() {
    for mode in ["transaction", "session"] {
        pipelines(&format!("pooler_mode = {mode:?}\ncheckout_timeout = 60000"));
    }
}

fn pipelines(general: &str) {
    let (pgdog, mut client, _other) = start(general);
    let once = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    for reset in ["RESET ALL", "DISCARD ALL"] {
        // Queries in one write.
        client.query(SET_ALL);
        client.send(&[query(reset), query(LOOK)].concat());
        let tag = reset.split(' ').next().unwrap();
        let tag = if tag == "RESET" { tag } else { "DISCARD_ALL" };
        let expected = format!("C:{tag} Z:I T D:{BEGAN} C:SELECT_1 Z:I");
        assert_eq!(client.batches(2), expected, "{reset}");
        // One batch.
        client.query(SET_ALL);
        let reply = client.ask(&[once(reset), once(LOOK), sync()]);
        let expected = format!("1 2 C:{tag} 1 2 D:{BEGAN} C:SELECT_1 Z:I");
        assert_eq!(reply, expected, "{reset}");
        // A named statement.
        client.query(SET_ALL);
        client.ask(&[parse(reset, reset), sync()]);
        let named = [bind("", reset, &[]), execute("", 0), once(LOOK), sync()];
        let expected = format!("2 C:{tag} 1 2 D:{BEGAN} C:SELECT_1 Z:I");
        assert_eq!(client.ask(&named), expected, "{reset}");
        // An unnamed one that is bound in a later batch, by a portal with a name.
        client.query(SET_ALL);
        client.ask(&[parse("", reset), sync()]);
        let later = [bind("p", "", &[]), execute("p", 0), once(LOOK), sync()];
        assert_eq!(client.ask(&later), expected, "{reset}");
    }
    // For the rest of a transaction, which has set nothing before.
    client.query("RESET ALL");
    for name in ["", "local"] {
        let local = "SET LOCAL statement_timeout TO DEFAULT";
        let steps = [
            once("BEGIN"),
            parse(name, local),
            bind("", name, &[]),
            execute("", 0),
            once(LOOK),
            sync(),
        ];
        let expected = format!("1 2 C:BEGIN 1 2 C:SET 1 2 D:{BEGAN} C:SELECT_1 Z:T");
        assert_eq!(client.ask(&steps), expected, "{name:?}");
        client.query("ROLLBACK");
    }
    // The name stands for something else by now.
    client.query(SET_ALL);
    client.ask(&[
        close(b'S', "RESET ALL"),
        parse("RESET ALL", "SELECT 1"),
        sync(),
    ]);
    let reply = client.ask(&[
        bind("", "RESET ALL", &[]),
        execute("", 0),
        once(LOOK),
        sync(),
    ]);
    assert_eq!(
        reply,
        "2 D:1 C:SELECT_1 1 2 D:UTC public 12s UTF8 C:SELECT_1 Z:I"
    );
    pgdog.stop();
}

#[test]
fn to_values_that_are_not_ascii_whatever_the_encoding_is_by_then() {
    let database = Postgres::shared().database("resets");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 1")
        .start();
    for (encoding, text) in [
        ("LATIN1", &b"caf\xe9 it's"[..]),
        ("UTF8", "caf\u{e9} it's".as_bytes()),
    ] {
        let mut client = Wire::open(pgdog.port());
        let mut packet = VERSION_3_0.to_be_bytes().to_vec();
        for (name, value) in [
            ("user", ALICE.as_bytes()),
            ("database", database.as_bytes()),
            ("client_encoding", encoding.as_bytes()),
            ("app.name", text),
        ] {
            packet.extend([name.as_bytes(), b"\0", value, b"\0"].concat());
        }
        packet.push(0);
        let length = u32::try_from(packet.len() + 4).unwrap();
        client.send(&[&length.to_be_bytes()[..], &packet].concat());
        client.authenticate(ALICE, PASSWORD).unwrap();
        let look = "SELECT current_setting('app.name') = U&'caf\\00e9 it''s'";
        assert_eq!(client.value(look), "t", "{encoding}");
        for reset in [
            "RESET app.name",
            "RESET ALL",
            "SET LOCAL app.name TO DEFAULT",
        ] {
            for other in ["UTF8", "LATIN1"] {
                client.query("BEGIN");
                client.query(&format!("SET client_encoding = '{other}'"));
                client.query("SET app.name = 'other'");
                client.query(reset);
                assert_eq!(client.value(look), "t", "{encoding} {other} {reset}");
                client.query("ROLLBACK");
            }
        }
        client.send(&terminate());
    }
    pgdog.stop();
}

#[test]
fn in_a_transaction_over_several_shards() {
    let shards = Shards::start(
        "resets",
        "",
        "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\n",
    );
    let mut client = Wire::open(shards.pgdog.port());
    let parameters = [
        ("user", ALICE),
        ("database", &*shards.name),
        ("options", "-c statement_timeout=11s -c app.x=start"),
    ];
    client.send(&startup(VERSION_3_0, &parameters));
    client.authenticate(ALICE, PASSWORD).unwrap();
    assert_eq!(
        client.query("CREATE TABLE t (id int)"),
        "C:CREATE_TABLE Z:I"
    );
    let insert = |shard| format!("/* pgdog_shard: {shard} */ INSERT INTO t VALUES (1)");
    for (resets, tag) in [
        ("RESET ALL", "RESET"),
        ("RESET statement_timeout; RESET app.x", "RESET"),
        (
            "SET statement_timeout TO DEFAULT; SET app.x TO DEFAULT",
            "SET",
        ),
        (
            "SET LOCAL statement_timeout TO DEFAULT; SET LOCAL app.x TO DEFAULT",
            "SET",
        ),
    ] {
        for extended in [false, true] {
            client.query("BEGIN");
            assert_eq!(client.query(&insert(0)), "C:INSERT_0_1 Z:T");
            client.query("SET statement_timeout = '12s'; SET app.x = 'set'");
            assert_eq!(client.query(&insert(1)), "C:INSERT_0_1 Z:T");
            for reset in resets.split("; ") {
                let reply = match extended {
                    true => client
                        .ask(&[run(reset, &[]), sync()])
                        .replacen("1 2 ", "", 1),
                    false => client.query(reset),
                };
                assert_eq!(reply, format!("C:{tag} Z:T"), "{reset}");
            }
            // The last one joins now.
            for shard in 0..3 {
                let look = format!(
                    "/* pgdog_shard: {shard} */ SELECT current_setting('statement_timeout') || current_setting('app.x') FROM (SELECT 1) s"
                );
                assert_eq!(client.value(&look), "11sstart", "{resets} on {shard}");
            }
            assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
        }
    }
    shards.pgdog.stop();
}

/// The value of client_encoding that was told last.
fn told(messages: &[Message]) -> Option<String> {
    let mut latest = messages.iter().rev().filter(|message| message.tag == b'S');
    latest.find_map(|message| {
        let text = String::from_utf8_lossy(&message.body).into_owned();
        let value = text.strip_prefix("client_encoding\0")?;
        Some(value.trim_end_matches('\0').to_owned())
    })
}

#[test]
fn the_client_is_told_before_it_may_ask_again() {
    let (pgdog, mut client, _other) = start("");
    for reset in [
        "RESET ALL",
        "DISCARD ALL",
        "RESET client_encoding",
        "SET NAMES DEFAULT; SELECT 1",
    ] {
        client.query(SET_ALL);
        client.send(&query(reset));
        let messages = client.read_until(b'Z');
        assert_eq!(told(&messages).as_deref(), Some("LATIN1"), "{reset}");
    }
    pgdog.stop();
}

#[test]
fn in_session_mode() {
    let (pgdog, mut client, _other) = start("pooler_mode = \"session\"\ncheckout_timeout = 60000");
    for (resets, _) in RESETS {
        client.query("BEGIN");
        client.query(SET_ALL);
        client.query(resets);
        assert_eq!(client.value(LOOK), BEGAN, "{resets}");
        client.query("ROLLBACK");
    }
    client.query(SET_ALL);
    client.send(&[query("DISCARD ALL"), query(LOOK)].concat());
    let expected = format!("C:DISCARD_ALL Z:I T D:{BEGAN} C:SELECT_1 Z:I");
    assert_eq!(client.batches(2), expected);
    pgdog.stop();
}
