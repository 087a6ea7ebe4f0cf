//! The first bytes of a connection: encryption requests, protocol versions, options, nonsense.

use crate::support::process::{poll, PATIENCE};
use crate::support::wire::{
    query, startup, tagged, transcript, untagged, Message, GSSENC_REQUEST, SSL_REQUEST,
    VERSION_3_0, VERSION_3_2,
};
use crate::support::{Config, Pgdog, Postgres, Wire};

fn start() -> (Pgdog, String) {
    let database = Postgres::shared().database("startup");
    (Config::of(&database).start(), database)
}

/// Sends a request for encryption and gives the one byte that answers it.
fn request(wire: &mut Wire, code: u32) -> char {
    wire.send(&untagged(code, &[]));
    let mut answer = [0];
    assert_eq!(wire.read_bytes(&mut answer).unwrap(), 1);
    char::from(answer[0])
}

/// Logs in with this version and these further parameters; gives all messages.
fn log_in(wire: &mut Wire, database: &str, version: u32, more: &[(&str, &str)]) -> Vec<Message> {
    let parameters = [&[("user", "alice"), ("database", database)], more].concat();
    wire.send(&startup(version, &parameters));
    wire.authenticate("alice", "hunter2").expect("alice may")
}

#[test]
fn encryption_requests_are_refused_and_the_login_goes_on() {
    let (pgdog, database) = start();
    for requests in [
        &[SSL_REQUEST][..],
        &[GSSENC_REQUEST],
        &[GSSENC_REQUEST, SSL_REQUEST],
        &[SSL_REQUEST, GSSENC_REQUEST],
    ] {
        let mut wire = Wire::open(pgdog.port());
        for code in requests {
            assert_eq!(request(&mut wire, *code), 'N');
        }
        log_in(&mut wire, &database, VERSION_3_0, &[]);
        assert_eq!(wire.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    }
    pgdog.stop();
}

#[test]
fn protocol_3_2_has_longer_keys() {
    let (pgdog, database) = start();
    let mut wire = Wire::open(pgdog.port());
    let messages = log_in(&mut wire, &database, VERSION_3_2, &[]);
    assert!(
        !messages.iter().any(|message| message.tag == b'v'),
        "3.2 is known: nothing to negotiate"
    );
    let key = wire.key();
    assert!(
        (9..=4 + 256).contains(&key.len()),
        "a key of {} bytes",
        key.len()
    );
    assert_eq!(wire.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");

    wire.send(&query("SELECT pg_sleep(60)"));
    wire.patience(std::time::Duration::from_millis(20));
    poll(PATIENCE, "the cancel to arrive", || {
        Wire::cancel(pgdog.port(), &key);
        wire.peek()
    });
    wire.expect_cancelled('I');
    pgdog.stop();
}

/// Version and option names of the only NegotiateProtocolVersion among these messages.
fn negotiated(messages: &[Message]) -> (u32, Vec<String>) {
    let mut found = messages.iter().filter(|message| message.tag == b'v');
    let message = found.next().expect("a NegotiateProtocolVersion");
    assert!(found.next().is_none(), "only one");
    let (version, rest) = message.body.split_first_chunk::<4>().unwrap();
    let (count, names) = rest.split_first_chunk::<4>().unwrap();
    let names = names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let names = names
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect::<Vec<_>>();
    assert_eq!(
        names.len(),
        usize::try_from(u32::from_be_bytes(*count)).unwrap()
    );
    (u32::from_be_bytes(*version), names)
}

#[test]
fn a_future_minor_version_is_negotiated_down() {
    let (pgdog, database) = start();
    for minor in [3, 9, 3999, 9999] {
        let mut wire = Wire::open(pgdog.port());
        let messages = log_in(&mut wire, &database, 3 << 16 | minor, &[]);
        assert_eq!(negotiated(&messages), (VERSION_3_2, vec![]), "3.{minor}");
        assert_eq!(wire.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    }
    pgdog.stop();
}

#[test]
fn unknown_protocol_options_are_named_and_not_passed_on() {
    let (pgdog, database) = start();
    let mut wire = Wire::open(pgdog.port());
    let options = [
        ("_pq_.future", "1"),
        ("_pq_.other", "x"),
        ("application_name", "tester"),
    ];
    let messages = log_in(&mut wire, &database, VERSION_3_0, &options);
    let (version, names) = negotiated(&messages);
    assert!(matches!(version, VERSION_3_0 | VERSION_3_2), "{version:x}");
    assert_eq!(names, ["_pq_.future", "_pq_.other"]);
    assert_eq!(wire.value("SHOW application_name"), "tester");
    pgdog.stop();
}

#[test]
fn other_major_versions_are_refused() {
    let (pgdog, database) = start();
    for version in [1 << 16, 2 << 16, 4 << 16, 999 << 16 | 1] {
        let mut wire = Wire::open(pgdog.port());
        wire.send(&startup(
            version,
            &[("user", "alice"), ("database", &database)],
        ));
        assert_eq!(wire.rest(), "E:0A000");
    }
    pgdog.stop();
}

#[test]
fn startup_without_a_user() {
    let (pgdog, database) = start();
    let mut wire = Wire::open(pgdog.port());
    wire.send(&startup(VERSION_3_0, &[("database", &database)]));
    assert_eq!(wire.rest(), "E:28000");
    pgdog.stop();
}

#[test]
fn the_database_is_the_users_name_when_none_is_given() {
    let pgdog = Config::empty()
        .database("alice", "database_name = \"postgres\"")
        .user("alice", "alice", "password = \"hunter2\"")
        .start();
    let mut wire = Wire::open(pgdog.port());
    wire.send(&startup(VERSION_3_0, &[("user", "alice")]));
    wire.authenticate("alice", "hunter2").expect("alice may");
    assert_eq!(wire.value("SELECT current_database()"), "postgres");
    pgdog.stop();
}

#[test]
fn startup_parameters_reach_the_session() {
    let (pgdog, database) = start();
    let mut wire = Wire::open(pgdog.port());
    let parameters = [
        ("application_name", "tester"),
        ("DateStyle", "German, DMY"),
        (
            "options",
            "-c statement_timeout=4321 -c search_path=\"a\\ b\"",
        ),
    ];
    log_in(&mut wire, &database, VERSION_3_0, &parameters);
    assert_eq!(wire.value("SHOW application_name"), "tester");
    assert_eq!(wire.value("SHOW DateStyle"), "German, DMY");
    assert_eq!(wire.value("SHOW statement_timeout"), "4321ms");
    assert_eq!(wire.value("SHOW search_path"), "\"a b\"");
    // Not the next client's.
    let mut other = pgdog.client(&database);
    assert_eq!(other.value("SHOW DateStyle"), "ISO, MDY");
    assert_eq!(other.value("SHOW statement_timeout"), "0");
    pgdog.stop();
}

/// Sends bytes before the login; the connection must end without a login, and pgdog stay well.
fn check_hostile(bytes: &[u8]) {
    println!("{bytes:?}");
    let (pgdog, database) = start();
    let before_kb = pgdog.forget_peak();
    let mut wire = Wire::open(pgdog.port());
    // A peer that has already been thrown out cannot be written to.
    let _ = wire.try_send(bytes);
    let answer = wire.rest();
    assert!(
        answer.is_empty() || answer == "E:08P01" || answer == "E:0A000",
        "{bytes:?}: {answer}"
    );
    assert!(
        pgdog.peak_kb() - before_kb < 20_000,
        "nothing is allocated for a length that lies"
    );
    assert_eq!(pgdog.client(&database).value("SELECT 1"), "1");
    pgdog.stop();
}

#[test]
fn hostile_lengths_of_the_startup_packet() {
    for length in [0_i32, 1, 4, 7, 20_000, 1 << 30, i32::MAX, -1, i32::MIN] {
        check_hostile(
            &[
                &length.to_be_bytes()[..],
                &VERSION_3_0.to_be_bytes(),
                b"user\0alice\0\0",
            ]
            .concat(),
        );
    }
}

#[test]
fn malformed_startup_packets() {
    check_hostile(&untagged(VERSION_3_0, b""));
    check_hostile(&untagged(VERSION_3_0, b"user\0alice"));
    check_hostile(&untagged(VERSION_3_0, b"user\0"));
    check_hostile(&untagged(VERSION_3_0, b"user\0alice\0database"));
    check_hostile(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    check_hostile(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0, 0, 0, 0]);
}

#[test]
fn encryption_requested_again_and_again() {
    let (pgdog, _) = start();
    let mut wire = Wire::open(pgdog.port());
    // PostgreSQL answers each kind once; at some point this must end.
    for _ in 0..100 {
        if wire.try_send(&untagged(SSL_REQUEST, &[])).is_err() {
            return;
        }
        let mut answer = [0];
        if wire.read_bytes(&mut answer).unwrap_or(0) == 0 || answer != [b'N'] {
            return;
        }
    }
    panic!("100 requests for encryption were answered");
}

/// Sends bytes after the login; the answer must be a protocol violation.
fn check_violation(bytes: &[u8]) {
    println!("{bytes:?}");
    let (pgdog, database) = start();
    let mut wire = pgdog.client(&database);
    let before_kb = pgdog.forget_peak();
    let _ = wire.try_send(bytes);
    assert_eq!(wire.rest(), "E:08P01", "{bytes:?}");
    assert!(
        pgdog.peak_kb() - before_kb < 20_000,
        "nothing is allocated for a length that lies"
    );
    assert_eq!(pgdog.client(&database).value("SELECT 1"), "1");
    pgdog.stop();
}

#[test]
fn hostile_lengths_after_the_login() {
    for length in [0_i32, 1, 3, -1, i32::MIN, i32::MAX] {
        check_violation(&[b"Q", &length.to_be_bytes()[..], b"SELECT 1\0"].concat());
    }
    // These cannot be long.
    for tag in [b'S', b'H', b'X', b'E', b'D', b'C', b'c'] {
        check_violation(&[&[tag][..], &(1_i32 << 30).to_be_bytes()].concat());
    }
}

#[test]
fn unknown_messages_after_the_login() {
    check_violation(&tagged(b'!', b""));
    check_violation(&tagged(b'Z', b"I"));
    check_violation(&tagged(0, b"\0\0\0\0"));
}

#[test]
fn a_query_without_its_final_zero() {
    let (pgdog, database) = start();
    let mut wire = pgdog.client(&database);
    wire.send(&tagged(b'Q', b"SELECT 1"));
    // Whether it is refused here or by the server, which then goes on.
    assert_eq!(wire.read().field(b'C'), "08P01");
    drop(wire);
    assert_eq!(pgdog.client(&database).value("SELECT 1"), "1");
    pgdog.stop();
}

#[test]
fn every_byte_in_a_packet_of_its_own() {
    let (pgdog, database) = start();
    let mut wire = Wire::open(pgdog.port());
    for byte in startup(VERSION_3_0, &[("user", "alice"), ("database", &database)]) {
        wire.send(&[byte]);
    }
    wire.authenticate("alice", "hunter2").expect("alice may");
    for byte in query("SELECT 'slowly'") {
        wire.send(&[byte]);
    }
    assert_eq!(
        transcript(&wire.read_until(b'Z')),
        "T D:slowly C:SELECT_1 Z:I"
    );
    pgdog.stop();
}

/// With and without settings of their own, logins hear what the newest servers report.
#[test]
fn what_logins_hear_follows_the_database() {
    let database = Postgres::shared().database("startup_news");
    let pgdog = Config::of(&database).general("workers = 1").admin().start();
    let ways: [&[_]; 2] = [&[], &[("application_name", "tester")]];
    let date_style = |more| {
        let mut wire = Wire::open(pgdog.port());
        let messages = log_in(&mut wire, &database, VERSION_3_0, more);
        let mut told = messages.iter().filter(|message| message.tag == b'S');
        let told = told.find_map(|message| message.body.strip_prefix(b"DateStyle\0"));
        wire.value("SELECT 1"); // on a new server, if there is none
        String::from_utf8_lossy(told.expect("servers report it")).into_owned()
    };
    for more in ways {
        assert_eq!(date_style(more), "ISO, MDY\0");
    }
    let sql = format!("ALTER DATABASE {database} SET DateStyle = 'German, DMY'");
    assert!(Postgres::shared()
        .admin("postgres")
        .query(&sql)
        .starts_with("C:"));
    assert_eq!(pgdog.admin().query("RECONNECT"), "C:RECONNECT Z:I");
    for more in ways {
        poll(PATIENCE, "news of the database", || {
            (date_style(more) == "German, DMY\0").then_some(())
        });
    }
    pgdog.stop();
}

#[test]
fn who_asks_before_it_is_let_in_is_idle_afterwards() {
    let database = Postgres::shared().database("hasty");
    let config = Config::of(&database).admin();
    let pgdog = config.general("auth_type = \"trust\"").start();
    let mut client = Wire::open(pgdog.port());
    let hello = startup(VERSION_3_0, &[("user", "alice"), ("database", &database)]);
    client.send(&[hello, query("SELECT 1")].concat());
    client.read_until(b'Z');
    assert_eq!(client.batches(1), "T D:1 C:SELECT_1 Z:I");
    let mut admin = pgdog.admin();
    poll(PATIENCE, "it to be idle", || {
        let clients = admin.rows("SHOW CLIENTS");
        let mut own = clients.iter().filter(|row| row[2] == database);
        own.all(|row| row[5] == "idle").then_some(())
    });
    pgdog.stop();
}

#[test]
fn variables_that_are_no_text_are_passed_over() {
    let database = Postgres::shared().database("startup");
    let set = "export ODD=$(printf '\\377') PGDOG_ODD=$(printf '\\377'); exec \"$0\" \"$@\"";
    let pgdog = Config::of(&database).through(&["sh", "-c", set]).start();
    pgdog.logged("PGDOG_ODD: is not UTF-8, ignored");
    assert_eq!(pgdog.client(&database).value("SELECT 1"), "1");
    pgdog.stop();
}
