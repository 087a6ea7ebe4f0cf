//! Logs: what is in them, and that no password ever is.

use std::path::Path;

use crate::shards::Shards;
use crate::support::postgres::{ALICE, MD5_USER, PASSWORD, PLAIN_USER};
use crate::support::process::{poll, Folder, PATIENCE};
use crate::support::wire::{bind, describe, execute, parse, query, run, sync};
use crate::support::{Config, Postgres, Wire};

/// The log's lines that hold all of these.
fn lines(log: &str, words: &[&str]) -> Vec<String> {
    let found = log
        .lines()
        .filter(|line| words.iter().all(|word| line.contains(word)));
    found.map(str::to_owned).collect()
}

/// The query log without times and clients.
fn queries(path: &Path, count: usize) -> Vec<String> {
    poll(PATIENCE, "queries in the log", || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().filter_map(|line| {
            let (_time, line) = line.split_once(' ')?;
            let (who, rest) = line.split_once(" [")?;
            let (_client, text) = rest.split_once("] ")?;
            Some(format!("{who}: {text}"))
        });
        let lines: Vec<_> = lines.collect();
        (lines.len() >= count).then_some(lines)
    })
}

#[test]
fn no_login_leaves_a_password_in_the_log() {
    let database = Postgres::shared().database("logs");
    for auth_type in ["trust", "plain", "md5", "scram"] {
        let mut config = Config::empty()
            .general(&format!("auth_type = {auth_type:?}\nlog_level = \"trace\""))
            .database(&database, "");
        // Their servers ask for SCRAM, md5 and the password itself.
        for user in [ALICE, MD5_USER, PLAIN_USER] {
            config = config.user(user, &database, &format!("password = {PASSWORD:?}"));
        }
        let pgdog = config.start();
        for user in [ALICE, MD5_USER, PLAIN_USER] {
            let mut client = Wire::connect(pgdog.port(), user, &database, PASSWORD);
            assert_eq!(client.value("SELECT current_user"), user);
            let refused = Wire::login(pgdog.port(), user, &database, "wr0ng-guess");
            assert_eq!(refused.is_err(), auth_type != "trust");
        }
        let mut client = pgdog.client(&database);
        client.query("ALTER ROLE nobody_of_that_name PASSWORD 'n3w-secret'");
        let log = pgdog.log();
        assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
        for secret in [PASSWORD, "wr0ng-guess", "n3w-secret", "SCRAM-SHA-256$"] {
            assert!(
                !log.contains(secret),
                "{secret} after logins by {auth_type}"
            );
        }
        pgdog.stop();
    }
}

#[test]
fn every_query_is_logged_once_and_passwords_are_hidden() {
    let database = Postgres::shared().database("logs");
    let folder = Folder::new("queries");
    let path = folder.path().join("queries.log");
    let config = |lines: &str| {
        let file = format!("query_log = {:?}\n{lines}", path.display().to_string());
        Config::of(&database).general(&file)
    };
    let pgdog = config("query_log_stdout = true").start();
    let mut client = pgdog.client(&database);
    client.query("SELECT 1;\nSELECT 2");
    client.query("SET application_name TO 'shop'");
    client.query("CREATE USER MAPPING FOR me SERVER s OPTIONS (password 'hidden')");
    client.ask(&[
        parse("", "SELECT $1::int"),
        bind("", "", &[Some("3")]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ]);
    client.ask(&[parse("named", "SELECT $1::text"), sync()]);
    for value in ["4", "5"] {
        let value = Some(value);
        client.ask(&[bind("", "named", &[value]), execute("", 0), sync()]);
    }
    let who = format!("{ALICE}@{database}: ");
    let expected = [
        "SELECT 1; SELECT 2",
        "SET application_name TO 'shop'",
        "CREATE USER MAPPING FOR me SERVER s OPTIONS (password '***')",
        "SELECT $1::int",
        "SELECT $1::text",
        "SELECT $1::text",
    ];
    let expected = expected.map(|text| who.clone() + text);
    assert_eq!(queries(&path, expected.len()), expected);
    let printed = lines(&pgdog.log(), &["SELECT 1; SELECT 2", &database]);
    assert_eq!(printed.len(), 1, "{printed:?}");

    // Rotated: the file has gone, and a reload opens it anew; lines are cut as configured.
    std::fs::rename(&path, folder.path().join("queries.old")).unwrap();
    pgdog.reload(&config("log_query_sample_length = 8"));
    client.query("SELECT 1234");
    assert_eq!(queries(&path, 1), [who + "SELECT 1…"]);
    pgdog.stop();
}

#[test]
fn slow_queries_are_warned_about_with_their_own_text() {
    let database = Postgres::shared().database("logs");
    let config =
        |limit: &str| Config::of(&database).general(&format!("log_min_duration_query = {limit}"));
    let pgdog = config("0").start();
    let mut client = pgdog.client(&database);
    client.query("SELECT 'alone'");
    client.send(
        &["first", "second", "third"]
            .map(|word| query(&format!("SELECT '{word}'")))
            .concat(),
    );
    client.batches(3);
    client.ask(&[
        parse("", "SELECT 'batch'"),
        bind("", "", &[]),
        execute("", 0),
        parse("", "SELECT 'its rest'"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ]);
    let warned = poll(PATIENCE, "five warnings", || {
        let found = lines(&pgdog.log(), &["slow query", &database, " ms="]);
        (found.len() >= 5).then_some(found)
    });
    assert_eq!(warned.len(), 5, "{warned:?}");
    for (line, word) in warned
        .iter()
        .zip(["alone", "first", "second", "third", "batch"])
    {
        assert!(line.contains(&format!("SELECT '{word}'")), "{line}");
    }
    pgdog.reload(&config("600000"));
    client.query("SELECT 'quick'");
    assert_eq!(client.value("SELECT 'answered'"), "answered");
    assert!(lines(&pgdog.log(), &["slow query", "quick"]).is_empty());
    pgdog.stop();
}

/// Also what is run on several servers, or none.
#[test]
fn queries_over_shards_are_logged_once_and_warned_about() {
    let folder = Folder::new("queries");
    let path = folder.path().join("queries.log");
    let general = format!(
        "query_log = {:?}\nlog_min_duration_query = 200",
        path.display().to_string()
    );
    let table = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\n";
    let shards = Shards::start("logs_shards", &general, table);
    let mut client = shards.client();
    let texts = [
        "CREATE TABLE t (id bigint, n int)",
        "INSERT INTO t VALUES (1, 1)",
        "SELECT n FROM t WHERE id = 1",
        "BEGIN",
        "UPDATE t SET n = 2; SELECT count(*) FROM t",
        "COMMIT",
        "UPDATE t SET n = n WHERE pg_sleep(0.3) IS NOT NULL",
    ];
    for sql in texts {
        client.query(sql);
    }
    client.ask(&[run("SELECT sum(n) FROM t", &[]), sync()]);
    client.ask(&[parse("named", "SELECT max(n) FROM t"), sync()]);
    client.ask(&[bind("", "named", &[]), execute("", 0), sync()]);
    let who = format!("{ALICE}@{}: ", shards.name);
    let expected = [
        &texts[..],
        &["SELECT sum(n) FROM t", "SELECT max(n) FROM t"],
    ]
    .concat();
    let expected: Vec<_> = expected.iter().map(|text| who.clone() + text).collect();
    assert_eq!(queries(&path, expected.len()), expected);
    let warned = poll(PATIENCE, "a warning", || {
        let found = lines(&shards.pgdog.log(), &["slow query", &shards.name, " ms="]);
        (!found.is_empty()).then_some(found)
    });
    assert!(warned[0].contains("pg_sleep"), "{warned:?}");
    shards.pgdog.stop();
}

#[test]
fn repeats_are_held_back() {
    let database = Postgres::shared().database("logs");
    let pgdog = Config::of(&database)
        .general("log_dedup_window = 600000\nlog_dedup_threshold = 1")
        .server("absent", 1, "")
        .user(ALICE, "absent", "password = \"hunter2\"")
        .start();
    for _ in 0..5 {
        let refused = Wire::login(pgdog.port(), ALICE, "absent", PASSWORD);
        assert!(refused.is_err());
    }
    let _ = pgdog.client(&database).value("SELECT 1");
    let log = pgdog.log();
    let refused = lines(&log, &["Connection refused", "absent"]);
    assert!((1..=2).contains(&refused.len()), "{refused:?}");
    pgdog.stop();
}
