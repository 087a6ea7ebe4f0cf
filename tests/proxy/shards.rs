//! Databases of several shards: what goes to one of them, what to all, and transactions over several.

use std::time::Duration;

use super::support::pgdog::{Config, Pgdog};
use super::support::postgres::{Postgres, ALICE, PASSWORD};
use super::support::process::{poll, PATIENCE};
use super::support::wire::{
    bind, describe, execute, flush, fully_described, parse, query, run, sync, Wire,
};

/// The table t has rows on all of them; hints say on which.
const TABLE: &str = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\n";

/// One database in three shards, which are databases of the shared cluster.
pub(crate) struct Shards {
    pub(crate) pgdog: Pgdog,
    pub(crate) name: String,
    names: Vec<String>,
    config: Config,
}

impl Shards {
    /// Starts pgdog in front of three empty shards. `more`: more lines of pgdog.toml.
    pub(crate) fn start(label: &str, general: &str, more: &str) -> Self {
        Self::start_through(&[], label, general, more)
    }

    /// The same with another program in front of pgdog.
    pub(crate) fn start_through(wrapper: &[&str], label: &str, general: &str, more: &str) -> Self {
        Self::start_with("", wrapper, label, general, more)
    }

    /// The same with shards that are made with these options of CREATE DATABASE.
    pub(crate) fn start_with(
        options: &str,
        wrapper: &[&str],
        label: &str,
        general: &str,
        more: &str,
    ) -> Self {
        let postgres = Postgres::shared();
        let names: Vec<_> = (0..3)
            .map(|n| postgres.database_with(&format!("{label}{n}"), options))
            .collect();
        let name = format!("{label}_sharded");
        let mut config = Config::empty().general(general);
        for (shard, database) in names.iter().enumerate() {
            let lines = format!("shard = {shard}\ndatabase_name = {database:?}");
            config = config.database(&name, &lines);
        }
        let password = format!("password = {PASSWORD:?}");
        let config = config
            .through(wrapper)
            .user(ALICE, &name, &password)
            .admin();
        let pgdog = config
            .clone()
            .more(&more.replace("$DATABASE", &name))
            .start();
        Self {
            pgdog,
            name,
            names,
            config,
        }
    }

    /// Has pgdog read its configuration again, with other lines at its end.
    pub(crate) fn reload(&self, more: &str) {
        let more = more.replace("$DATABASE", &self.name);
        self.pgdog.reload(&self.config.clone().more(&more));
    }

    /// The same with other general lines.
    pub(crate) fn reload_general(&self, general: &str, more: &str) {
        let more = more.replace("$DATABASE", &self.name);
        let config = self.config.clone().only_general(general);
        self.pgdog.reload(&config.more(&more));
    }

    pub(crate) fn client(&self) -> Wire {
        self.pgdog.client(&self.name)
    }

    /// A connection to one shard itself.
    pub(crate) fn shard(&self, number: usize) -> Wire {
        Postgres::shared().admin(&self.names[number])
    }

    /// The answer of every shard to a query of one value.
    pub(crate) fn each(&self, sql: &str) -> Vec<String> {
        (0..self.names.len())
            .map(|number| self.shard(number).value(sql))
            .collect()
    }
}

/// Runs these, none of which fails.
#[track_caller]
pub(crate) fn all(client: &mut Wire, texts: &[&str]) {
    for sql in texts {
        let answer = client.query(sql);
        assert!(answer.starts_with("C:"), "{sql}: {answer}");
    }
}

#[test]
fn definitions_and_settings_reach_every_shard() {
    let shards = Shards::start("shards_ddl", "", TABLE);
    let mut client = shards.client();
    assert_eq!(
        client.query("CREATE TABLE t (id int)"),
        "C:CREATE_TABLE Z:I"
    );
    assert_eq!(
        shards.each("SELECT count(*) FROM pg_tables WHERE tablename = 't'"),
        ["1", "1", "1"]
    );
    // What one refuses, none has.
    shards.shard(1).query("CREATE TABLE u ()");
    assert_eq!(client.query("CREATE TABLE u (id int)"), "E:42P07 Z:I");
    assert_eq!(
        shards.each("SELECT count(*) FROM pg_tables WHERE tablename = 'u'"),
        ["0", "1", "0"]
    );
    // Outside of a transaction block, where PostgreSQL demands it.
    assert_eq!(
        client.query("CREATE INDEX CONCURRENTLY i ON t (id)"),
        "C:CREATE_INDEX Z:I"
    );
    assert_eq!(
        shards.each("SELECT count(*) FROM pg_indexes WHERE indexname = 'i'"),
        ["1", "1", "1"]
    );
    // A sign is not part of the operator in front of it.
    assert_eq!(client.query("SET work_mem=+7168"), "C:SET Z:I");
    for shard in 0..3 {
        let sql = format!(
            "/* pgdog_shard: {shard} */ SELECT current_setting('work_mem'), current_database()"
        );
        assert_eq!(client.rows(&sql), [["7MB", &*shards.names[shard]]]);
    }
    assert_eq!(client.query("RESET work_mem"), "C:RESET Z:I");
    assert_eq!(client.value("/* pgdog_shard: 2 */ SHOW work_mem"), "4MB");
    shards.pgdog.stop();
}

/// What a transaction sets is so on all shards when it has committed, whichever of them it was on; and nothing is left of what
/// was for it alone, or undone.
#[test]
fn what_a_transaction_sets_holds_everywhere_or_nowhere_after_it() {
    let shards = Shards::start("shards_set", "workers = 1\ndefault_pool_size = 1", TABLE);
    let (mut client, mut other) = (shards.client(), shards.client());
    client.query("CREATE TABLE t (id bigint)");
    let insert = "INSERT INTO t SELECT g FROM generate_series(1, 5) g";
    (0..3).for_each(|shard| drop(shards.shard(shard).query(insert)));
    let each = |client: &mut Wire| {
        let shown = (0..3).map(|shard| {
            let sql = format!("/* pgdog_shard: {shard} */ SHOW work_mem");
            client.value(&sql)
        });
        let mut shown: Vec<_> = shown.collect();
        shown.dedup();
        // Not those of one that was asked for.
        assert_eq!(client.value("SELECT count(*) FROM t"), "15");
        shown.join(" ")
    };
    let before = ["", "SELECT * FROM t WHERE id = 3", "SELECT count(*) FROM t"];
    let mut megabytes = 4;
    for first in before {
        for then in before {
            for (set, end, holds) in [
                ("SET work_mem = ", "COMMIT", true),
                ("SET work_mem = ", "ROLLBACK", false),
                ("SET LOCAL work_mem = ", "COMMIT", false),
                ("SET LOCAL work_mem = ", "ROLLBACK", false),
            ] {
                let wanted = megabytes + 1;
                let set = format!("{set}'{wanted}MB'");
                let local = ["SET LOCAL pgdog.shard = 1", ""][usize::from(!first.is_empty())];
                for sql in ["BEGIN", local, first, &set, then, end] {
                    if !sql.is_empty() {
                        let answer = client.query(sql);
                        assert!(!answer.contains("E:"), "{sql}: {answer}");
                    }
                }
                megabytes = if holds { wanted } else { megabytes };
                let context = format!("{first}; {set}; {then}; {end}");
                assert_eq!(each(&mut client), format!("{megabytes}MB"), "{context}");
                assert_eq!(each(&mut other), "4MB", "of another client: {context}");
                // What comes next is as it was, in a transaction and without one.
                assert_eq!(client.query("SET lock_timeout = 0"), "C:SET Z:I");
                assert_eq!(each(&mut client), format!("{megabytes}MB"), "{context}");
            }
        }
    }
    let pins = super::admin::show(&mut shards.pgdog.admin(), "PINS");
    assert!(pins.is_empty(), "{pins:?}");
    shards.pgdog.stop();
}

/// As those do who tell row-level security by a setting of the transaction whom a request is for.
#[test]
fn what_a_function_sets_is_so_on_servers_that_join() {
    let shards = Shards::start(
        "shards_set_config",
        "workers = 1\ndefault_pool_size = 1",
        TABLE,
    );
    let mut client = shards.client();
    client.query("CREATE TABLE t (id bigint)");
    for id in 0..9 {
        assert_eq!(
            client.query(&format!("INSERT INTO t VALUES ({id})")),
            "C:INSERT_0_1 Z:I"
        );
    }
    let seen = |client: &mut Wire| {
        let seen = (0..9).map(|id| {
            let sql =
                format!("SELECT current_setting('app.who', true) || '.' FROM t WHERE id = {id}");
            client.rows(&sql)[0][0].clone()
        });
        let mut seen: Vec<_> = seen.collect();
        seen.sort();
        seen.dedup();
        seen.join(" ")
    };
    let literal = query("SELECT set_config('app.who', 'me', true)");
    let bound = [
        run("SELECT set_config('app.who', $1, true)", &[Some("me")]),
        sync(),
    ]
    .concat();
    for set in [&literal, &bound] {
        client.query("BEGIN");
        assert!(client.ask(std::slice::from_ref(set)).contains("D:me"));
        assert_eq!(seen(&mut client), "me.");
        assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
        assert_eq!(seen(&mut client), ".", "it was for the transaction alone");
    }
    // For longer, and undone.
    client.query("BEGIN; SAVEPOINT a");
    client.query("SELECT set_config('app.who', 'me', false)");
    client.query("ROLLBACK TO a");
    assert_eq!(seen(&mut client), ".");
    // Where others have joined, they would have to be told at once.
    client.query("ROLLBACK");
    let set = "SELECT set_config('app.who', 'you', false)";
    for refused in [set, "SELECT set_config('app.who', 'you', true)"] {
        client.query("BEGIN");
        assert_eq!(seen(&mut client), ".");
        assert_eq!(client.query(refused), "E:0A000 Z:E");
        client.query("ROLLBACK");
    }
    for sql in ["BEGIN", set, "COMMIT"] {
        assert!(client.query(sql).ends_with(['I', 'T']), "{sql}");
    }
    assert_eq!(seen(&mut client), "you.");
    // What is set cannot be known: no other server may join.
    client.query("BEGIN");
    let by_row = "SELECT set_config('app.who', id::text, true) FROM t WHERE id = 3";
    assert_eq!(client.query(by_row), "T D:3 C:SELECT_1 Z:T");
    assert_eq!(
        client.query("SELECT count(*) FROM t WHERE id = 3"),
        "T D:1 C:SELECT_1 Z:T"
    );
    assert_eq!(client.query("SELECT count(*) FROM t"), "E:0A000 Z:E");
    client.query("ROLLBACK");
    assert_eq!(seen(&mut client), "you.");
    shards.pgdog.stop();
}

#[test]
fn a_transaction_spans_the_shards_that_it_touches() {
    let shards = Shards::start("shards_tx", "", TABLE);
    let mut client = shards.client();
    client.query("CREATE TABLE t (id int)");
    let count = "SELECT count(*) FROM t";
    let on = |shard: usize, sql: &str| format!("/* pgdog_shard: {shard} */ {sql}");
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(
        client.query(&on(0, "INSERT INTO t VALUES (1)")),
        "C:INSERT_0_1 Z:T"
    );
    assert_eq!(client.query("SAVEPOINT a"), "C:SAVEPOINT Z:T");
    assert_eq!(
        client.query(&on(2, "INSERT INTO t VALUES (2)")),
        "C:INSERT_0_1 Z:T"
    );
    assert_eq!(client.query("ROLLBACK TO a"), "C:ROLLBACK Z:T");
    assert_eq!(
        client.query(&on(1, "INSERT INTO t VALUES (3)")),
        "C:INSERT_0_1 Z:T"
    );
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(shards.each(count), ["1", "1", "0"]);
    // An error on one fails all.
    assert_eq!(
        client.query("START TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
        "C:START_TRANSACTION Z:T"
    );
    assert_eq!(
        client.value(&on(1, "SHOW transaction_isolation")),
        "serializable"
    );
    assert_eq!(client.query(&on(2, "DELETE FROM t")), "C:DELETE_0 Z:T");
    assert_eq!(client.query(&on(1, "DELETE FROM t")), "C:DELETE_1 Z:T");
    assert_eq!(client.query(&on(0, "SELECT 1/0")), "E:22012 Z:E");
    assert_eq!(client.query(&on(1, "SELECT 1")), "E:25P02 Z:E");
    assert_eq!(client.query("COMMIT"), "C:ROLLBACK Z:I");
    assert_eq!(shards.each(count), ["1", "1", "0"]);
    // Another begins where one ends.
    client.query("BEGIN");
    client.query(&on(0, "DELETE FROM t"));
    client.query(&on(1, "DELETE FROM t"));
    assert_eq!(client.query("COMMIT AND CHAIN"), "C:COMMIT Z:T");
    client.query(&on(0, "INSERT INTO t VALUES (1)"));
    client.query(&on(1, "INSERT INTO t VALUES (1)"));
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    assert_eq!(shards.each(count), ["0", "0", "0"]);
    // Of nothing.
    assert_eq!(client.query("COMMIT"), "N:25P01 C:COMMIT Z:I");
    client.query("BEGIN");
    assert_eq!(client.query("BEGIN"), "N:25001 C:BEGIN Z:T");
    assert_eq!(client.query("END"), "C:COMMIT Z:I");
    shards.pgdog.stop();
}

#[test]
fn a_session_begins_another_transaction_on_the_servers_that_it_keeps() {
    let shards = Shards::start("shards_kept", "pooler_mode = \"session\"", TABLE);
    let mut client = shards.client();
    client.query("CREATE TABLE t (id int)");
    for (end, counts) in [("COMMIT", "1"), ("ROLLBACK", "1"), ("COMMIT", "2")] {
        client.query("BEGIN");
        for shard in 0..3 {
            let sql = format!("/* pgdog_shard: {shard} */ INSERT INTO t VALUES (1)");
            assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:T");
        }
        assert_eq!(client.query(end), format!("C:{end} Z:I"));
        assert_eq!(shards.each("SELECT count(*) FROM t"), [counts; 3]);
    }
    shards.pgdog.stop();
}

#[test]
fn a_prepared_statement_is_known_whatever_server_has_parsed_it() {
    let modes = [
        "pooler_mode = \"session\"",
        "prepared_statements = \"disabled\"",
    ];
    for (number, general) in modes.into_iter().enumerate() {
        let shards = Shards::start(&format!("shards_known{number}"), general, TABLE);
        let mut client = shards.client();
        client.query("CREATE TABLE t (id int)");
        client.query("INSERT INTO t (id) VALUES (1)");
        for name in ["", "s"] {
            let parsed = [parse(name, "SELECT count(*) FROM t"), describe(b'S', name)];
            assert_eq!(
                client.ask(&[&parsed[..], &[sync()]].concat()),
                "1 t T Z:I",
                "{general}"
            );
            for _ in 0..2 {
                let bound = [bind("", name, &[]), execute("", 0), sync()];
                assert_eq!(client.ask(&bound), "2 D:1 C:SELECT_1 Z:I", "{general}");
            }
        }
        let of_one = "SELECT count(*) FROM t WHERE id = $1::int";
        assert_eq!(client.ask(&[parse("x", of_one), sync()]), "1 Z:I");
        assert_eq!(
            client.query("SELECT count(*) FROM t"),
            "T D:1 C:SELECT_1 Z:I"
        );
        assert_eq!(client.query("EXECUTE x (1)"), "T D:1 C:SELECT_1 Z:I");
        assert_eq!(client.ask(&[parse("x", of_one), sync()]), "E:42P05 Z:I");
        client.query("BEGIN");
        for id in ["1", "2", "3", "1"] {
            let bound = [bind("", "x", &[Some(id)]), execute("", 0), sync()];
            let count = u8::from(id == "1");
            assert_eq!(
                client.ask(&bound),
                format!("2 D:{count} C:SELECT_1 Z:T"),
                "{general}"
            );
        }
        client.query("COMMIT");
        client.query("DISCARD ALL");
        assert_eq!(
            client.ask(&[bind("", "x", &[Some("1")]), sync()]),
            "E:26000 Z:I"
        );
        shards.pgdog.stop();
    }
}

/// It is not idle, as its transaction would be between two statements.
#[test]
fn a_long_statement_in_a_transaction_of_several_shards() {
    let general = "client_idle_in_transaction_timeout = 2000";
    let shards = Shards::start("shards_long", general, "");
    let mut client = shards.client();
    client.query("CREATE TABLE t (id int); CREATE TABLE u (id int)");
    assert_eq!(client.query("INSERT INTO u VALUES (1)"), "C:INSERT_0_1 Z:I");
    let mut holder = shards.shard(1);
    holder.query("BEGIN; LOCK t");
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(client.query("INSERT INTO u VALUES (2)"), "C:INSERT_0_1 Z:T");
    client.send(&query("INSERT INTO t VALUES (1)"));
    client.patience(Duration::from_secs(4));
    assert_eq!(client.peek(), None, "it waits");
    client.patience(PATIENCE);
    holder.query("COMMIT");
    assert_eq!(client.batches(1), "C:INSERT_0_1 Z:T");
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    shards.pgdog.stop();
}

#[test]
fn several_statements_in_one_query_are_one_transaction() {
    let shards = Shards::start("shards_multi", "", TABLE);
    let mut client = shards.client();
    let made = client.query("CREATE TABLE t (id int primary key); CREATE TABLE u (id int)");
    assert_eq!(made, "C:CREATE_TABLE C:CREATE_TABLE Z:I");
    let failed = client.query("CREATE TABLE v (); SELECT 1/0; CREATE TABLE w ()");
    assert_eq!(failed, "C:CREATE_TABLE E:22012 Z:I");
    assert_eq!(
        shards.each("SELECT count(*) FROM pg_tables WHERE tablename = 'v'"),
        ["0", "0", "0"]
    );
    let tags = client.query("BEGIN; CREATE TABLE v (); COMMIT; DROP TABLE u");
    assert_eq!(tags, "C:BEGIN C:CREATE_TABLE C:COMMIT C:DROP_TABLE Z:I");
    assert_eq!(
        shards.each("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"),
        ["2", "2", "2"]
    );
    assert_eq!(client.query(""), "I Z:I");
    assert_eq!(client.query("SELECT FROM WHERE"), "E:42601 Z:I");
    shards.pgdog.stop();
}

#[test]
fn the_extended_protocol_works_over_shards() {
    let shards = Shards::start("shards_ext", "", TABLE);
    let mut client = shards.client();
    assert_eq!(
        client.ask(&[run("CREATE TABLE t (id int)", &[]), sync()]),
        "1 2 C:CREATE_TABLE Z:I"
    );
    let begin = fully_described("b", "BEGIN");
    assert_eq!(client.ask(&begin), "1 t n 2 n C:BEGIN Z:T");
    let insert = "/* pgdog_shard: 1 */ INSERT INTO t VALUES ($1)";
    assert_eq!(
        client.ask(&[parse("i", insert), describe(b'S', "i"), sync()]),
        "1 t n Z:T"
    );
    assert_eq!(
        client.ask(&[bind("", "i", &[Some("5")]), execute("", 0), sync()]),
        "2 C:INSERT_0_1 Z:T"
    );
    assert_eq!(
        client.ask(&[run("COMMIT", &[]), sync()]),
        "1 2 C:COMMIT Z:I"
    );
    assert_eq!(shards.each("SELECT count(*) FROM t"), ["0", "1", "0"]);
    // Several executions before Sync are one transaction.
    let batch = [
        run("/* pgdog_shard: 0 */ INSERT INTO t VALUES (1)", &[]),
        run(
            "/* pgdog_shard: 2 */ INSERT INTO t VALUES ($1)",
            &[Some("x")],
        ),
        run("/* pgdog_shard: 1 */ INSERT INTO t VALUES (1)", &[]),
        sync(),
    ];
    assert_eq!(client.ask(&batch), "1 2 C:INSERT_0_1 1 2 E:22P02 Z:I");
    assert_eq!(shards.each("SELECT count(*) FROM t"), ["0", "1", "0"]);
    // Flush shows what has been done, Sync commits it.
    client.send(
        &[
            run("/* pgdog_shard: 0 */ INSERT INTO t VALUES (1)", &[]),
            flush(),
        ]
        .concat(),
    );
    assert_eq!(client.expect(3), "1 2 C:INSERT_0_1");
    assert_eq!(shards.each("SELECT count(*) FROM t"), ["0", "1", "0"]);
    assert_eq!(
        client.ask(&[run("/* pgdog_shard: 2 */ TABLE t", &[]), sync()]),
        "1 2 C:SELECT_0 Z:I"
    );
    assert_eq!(shards.each("SELECT count(*) FROM t"), ["1", "1", "0"]);
    // What is parsed on one server is known on the next.
    let sql = "SELECT current_database(), $1::int";
    client.ask(&[parse("s", sql), sync()]);
    let batch = [
        bind("", "s", &[Some("7")]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    let answer = client.ask(&batch);
    assert!(
        answer.starts_with("2 T D:shards_ext") && answer.ends_with("|7 C:SELECT_1 Z:I"),
        "{answer}"
    );
    assert_eq!(
        client.ask(&[bind("", "nobody", &[]), sync()]),
        "E:26000 Z:I"
    );
    shards.pgdog.stop();
}

#[test]
fn what_only_a_server_keeps_stays_with_its_client() {
    let shards = Shards::start("shards_ties", "default_pool_size = 1", TABLE);
    let mut client = shards.client();
    client.query("CREATE TABLE t (id int); CREATE TABLE o (id int)");
    let on = |shard: usize, sql: &str| format!("/* pgdog_shard: {shard} */ {sql}");
    // A hint is for everything; the server stays as long as the table does.
    assert_eq!(
        client.query(&on(1, "CREATE TEMP TABLE mine (id int)")),
        "C:CREATE_TABLE Z:I"
    );
    assert_eq!(
        client.query(&on(1, "INSERT INTO mine VALUES (1)")),
        "C:INSERT_0_1 Z:I"
    );
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    assert_eq!(client.value(&on(1, "SELECT count(*) FROM mine")), "1");
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(
        client.query(&on(0, "INSERT INTO t VALUES (1)")),
        "C:INSERT_0_1 Z:T"
    );
    assert_eq!(
        client.query(&on(1, "INSERT INTO mine VALUES (2)")),
        "C:INSERT_0_1 Z:T"
    );
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(client.value(&on(1, "SELECT count(*) FROM mine")), "2");
    drop(client);
    let mut other = shards.client();
    assert_eq!(other.query(&on(1, "SELECT * FROM mine")), "E:42P01 Z:I");
    // Among other statements, or on several servers, nobody could tell where it is.
    for sql in [
        "CREATE TEMP TABLE a (); SELECT 1",
        "UPDATE t SET id = id WHERE id > 0; SELECT pg_advisory_lock(1)",
        "UPDATE t SET id = id WHERE id > 0; LISTEN c",
    ] {
        assert_eq!(other.query(sql), "E:0A000 Z:I", "{sql}");
    }
    // A table that is the same everywhere is not written to on one shard.
    assert_eq!(
        other.query(&on(1, "INSERT INTO o VALUES (1)")),
        "E:0A000 Z:I"
    );
    assert_eq!(other.query("INSERT INTO o VALUES (1)"), "C:INSERT_0_1 Z:I");
    assert_eq!(shards.each("SELECT count(*) FROM o"), ["1", "1", "1"]);
    shards.pgdog.stop();
}

/// Whichever shard a client is otherwise sent to.
#[test]
fn sequences_locks_and_large_objects_are_the_same_for_all_clients() {
    let shards = Shards::start("shards_common", "", TABLE);
    let mut clients: Vec<_> = (0..9).map(|_| shards.client()).collect();
    assert_eq!(
        clients[0].query("CREATE SEQUENCE numbers"),
        "C:CREATE_SEQUENCE Z:I"
    );
    let mut numbers = Vec::new();
    for client in clients.iter_mut().chain([&mut shards.client()]) {
        numbers.push(client.value("SELECT nextval('numbers')"));
        let batch = [run("SELECT nextval($1)", &[Some("numbers")]), sync()];
        let answer = client.ask(&batch);
        let number = answer.split("D:").nth(1).unwrap().split(' ').next();
        numbers.push(number.unwrap().to_owned());
    }
    let expected: Vec<_> = (1..=20).map(|number| number.to_string()).collect();
    assert_eq!(numbers, expected);
    let set = clients[1].query("SELECT setval('numbers', 100)");
    assert_eq!(set, "T D:100 C:SELECT_1 Z:I");
    assert_eq!(shards.each("SELECT last_value FROM numbers"), ["100"; 3]);
    assert_eq!(clients[2].value("SELECT nextval('numbers')"), "101");

    let oid = clients[3].value("SELECT lo_from_bytea(0, 'abc')");
    for client in &mut clients {
        let read = format!("SELECT lo_get({oid})");
        assert_eq!(client.value(&read), "\\x616263");
    }
    assert_eq!(clients[4].value(&format!("SELECT lo_unlink({oid})")), "1");

    let (holder, others) = clients.split_first_mut().unwrap();
    holder.value("SELECT pg_advisory_lock(7)");
    for client in others.iter_mut() {
        assert_eq!(client.value("SELECT pg_try_advisory_lock(7)"), "f");
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        // Another server of the transaction does not matter.
        client.query("/* pgdog_shard: 1 */ SELECT 1");
        let sql = "SELECT pg_try_advisory_xact_lock(7)";
        assert_eq!(client.value(sql), "f");
        assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    }
    assert_eq!(holder.value("SELECT pg_advisory_unlock(7)"), "t");
    assert_eq!(others[0].value("SELECT pg_try_advisory_lock(7)"), "t");
    assert_eq!(holder.value("SELECT pg_try_advisory_lock(7)"), "f");
    shards.pgdog.stop();
}

#[test]
fn a_cancel_request_reaches_whichever_servers_are_at_work() {
    let shards = Shards::start("shards_cancel", "", TABLE);
    let mut client = shards.client();
    client.query("CREATE TABLE t (id int)");
    let key = client.key();
    let at_work = |shard: usize, what: &str| {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
             AND pid <> pg_backend_pid() AND query LIKE '{what}%'"
        );
        let mut direct = shards.shard(shard);
        poll(PATIENCE, "the statement to run", || {
            (direct.value(&sql) == "1").then_some(())
        });
    };
    // One server, by the relay.
    client.send(&query("/* pgdog_shard: 1 */ SELECT pg_sleep(60)"));
    at_work(1, "/* pgdog_shard: 1 */");
    Wire::cancel(shards.pgdog.port(), &key);
    client.expect_cancelled('I');
    // All of them, one of which waits for a lock.
    let mut holder = shards.shard(2);
    holder.query("BEGIN; LOCK TABLE t");
    client.send(&query("TRUNCATE t"));
    at_work(2, "TRUNCATE");
    Wire::cancel(shards.pgdog.port(), &key);
    assert_eq!(client.batches(1), "E:57014 Z:I");
    holder.query("ROLLBACK");
    assert_eq!(client.query("TRUNCATE t"), "C:TRUNCATE_TABLE Z:I");
    shards.pgdog.stop();
}
