//! What a client of several shards hears of its servers, and what comes of it: one that is lost amid a transaction,
//! notifications, settings that are reported.

use super::shards::{all, Shards};
use super::support::postgres::Postgres;
use super::support::process::{poll, PATIENCE};
use super::support::wire::{
    bind, execute, flush, parse, query, run, sync, transcript, Message, Wire,
};

const TABLE: &str = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\n";

/// Rows 0 to 19, and one of them of each shard.
fn filled(label: &str, general: &str) -> (Shards, Vec<String>) {
    let shards = Shards::start(label, general, TABLE);
    let mut client = shards.client();
    client.query("CREATE TABLE t (id bigint, n int, s text)");
    for id in 0..20 {
        client.query(&format!("INSERT INTO t VALUES ({id}, 0)"));
    }
    let ids = shards.each("SELECT min(id) FROM t");
    (shards, ids)
}

/// Ends the server of a transaction that is idle on this shard.
fn end_idle(shards: &Shards, shard: usize) {
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'idle in transaction'";
    poll(PATIENCE, "a server idle in transaction", || {
        (shards.shard(shard).value(sql) == "1").then_some(())
    });
}

/// What the server of a client says of one of its settings, the last time in these messages.
fn reported(messages: &[Message], name: &str) -> Option<String> {
    let name = format!("S:{name}_");
    let mut texts = messages.iter().rev().map(ToString::to_string);
    texts.find_map(|text| text.strip_prefix(&name).map(str::to_owned))
}

fn said(client: &mut Wire, sql: &str) -> Vec<Message> {
    client.send(&query(sql));
    let messages = client.read_until(b'Z');
    assert!(!transcript(&messages).contains("E:"), "{messages:?}");
    messages
}

#[test]
fn a_transaction_ends_with_its_first_server_that_is_lost() {
    let (shards, ids) = filled("hearing_lost", "");
    let none = || assert_eq!(shards.each("SELECT sum(n) FROM t"), ["0"; 3]);
    // It is told at once, as by PostgreSQL.
    let mut client = shards.client();
    all(&mut client, &["BEGIN", "UPDATE t SET n = 1"]);
    end_idle(&shards, 1);
    assert_eq!(client.rest(), "E:57P01");
    none();
    // It was idle for too long while another one was at work.
    let mut client = shards.client();
    let limit = "SET LOCAL idle_in_transaction_session_timeout = 300";
    let update = |shard: usize| format!("UPDATE t SET n = 1 WHERE id = {}", ids[shard]);
    all(&mut client, &["BEGIN", limit, &update(0)]);
    let slow = format!("{} RETURNING pg_sleep(3)", update(1));
    client.send(&[query(&slow), query("COMMIT")].concat());
    let rest = client.rest();
    assert!(rest.ends_with("E:25P03"), "{rest}");
    none();
    // So it is with what is one transaction without saying so.
    let mut client = shards.client();
    let text = format!("{}; {slow}", update(0));
    client.send(&query(&text));
    // The one is done with its part when the other is at work.
    let at_work = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND state = 'active' AND wait_event = 'PgSleep'";
    poll(PATIENCE, "the other server to be at work", || {
        (shards.shard(1).value(at_work) == "1").then_some(())
    });
    end_idle(&shards, 0);
    let rest = client.rest();
    assert!(rest.ends_with("E:57P01"), "{rest}");
    none();
    // It ends amid its part: that is told once.
    let amid = |messages: &[u8]| {
        let mut other = shards.shard(1);
        all(&mut other, &["BEGIN", "LOCK TABLE t IN EXCLUSIVE MODE"]);
        let mut client = shards.client();
        client.send(messages);
        let waiting = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        poll(PATIENCE, "a server that waits for the table", || {
            (shards.shard(1).value(waiting) == "1").then_some(())
        });
        let rest = client.rest();
        assert!(rest.ends_with("E:57P01"), "{rest}");
        assert_eq!(rest.matches("E:").count(), 1, "{rest}");
        assert_eq!(other.query("ROLLBACK"), "C:ROLLBACK Z:I");
        none();
    };
    amid(&query("UPDATE t SET n = 1"));
    amid(&query("SELECT id FROM t ORDER BY id FOR UPDATE"));
    amid(&[run("UPDATE t SET n = 1", &[]), sync()].concat());
    amid(&query("COPY t FROM STDIN"));
    // Amid its part of a COMMIT, where others may have committed: the client is told that, and no more.
    client_ends_amid_commit(&shards);
    // A portal gives no more of the rows that it has.
    let mut client = shards.client();
    client.query("BEGIN");
    let portal = [
        parse("", "SELECT id FROM t ORDER BY id"),
        bind("p", "", &[]),
        execute("p", 3),
        sync(),
    ];
    assert_eq!(client.ask(&portal), "1 2 D:0 D:1 D:2 s Z:T");
    end_idle(&shards, 1);
    let _ = client.try_send(&[execute("p", 3), sync()].concat());
    let rest = client.rest();
    assert!(rest.ends_with("E:57P01"), "{rest}");
    shards.pgdog.stop();
}

fn client_ends_amid_commit(shards: &Shards) {
    let mut client = shards.client();
    let waits = "CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS \
        'BEGIN PERFORM pg_advisory_xact_lock(77); RETURN NULL; END'";
    let trigger =
        "CREATE CONSTRAINT TRIGGER waits AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED \
        FOR EACH ROW EXECUTE FUNCTION waits()";
    all(&mut client, &[waits, trigger]);
    let mut other = shards.shard(1);
    other.query("SELECT pg_advisory_lock(77)");
    all(&mut client, &["BEGIN", "UPDATE t SET n = n"]);
    client.send(&query("COMMIT"));
    let waiting = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
        WHERE datname = current_database() AND wait_event = 'advisory'";
    poll(PATIENCE, "a server that waits for the lock", || {
        (shards.shard(1).value(waiting) == "1").then_some(())
    });
    assert_eq!(client.rest(), "E:08007");
    other.query("SELECT pg_advisory_unlock(77)");
    all(&mut shards.client(), &["DROP TRIGGER waits ON t"]);
}

#[test]
fn settings_of_a_transaction_are_reported() {
    for (label, general) in [
        ("hearing_set", ""),
        ("hearing_set_2pc", "two_phase_commit = true"),
    ] {
        let (shards, ids) = filled(label, general);
        let mut client = shards.client();
        let set = "SET LOCAL client_encoding = 'LATIN1'";
        let name = "client_encoding";
        for end in ["COMMIT", "ROLLBACK"] {
            // As the first statement.
            client.query("BEGIN");
            let told = reported(&said(&mut client, "SET client_encoding = 'LATIN1'"), name);
            assert_eq!(told.as_deref(), Some("LATIN1"), "{general} {end}");
            client.query("UPDATE t SET n = 1");
            let told = reported(&said(&mut client, "ROLLBACK"), name);
            assert_eq!(told.as_deref(), Some("UTF8"), "{general} {end}");
            for (name, value) in [
                ("client_encoding", "LATIN1"),
                ("TimeZone", "Asia/Tokyo"),
                ("DateStyle", "German, DMY"),
                ("IntervalStyle", "iso_8601"),
                ("standard_conforming_strings", "off"),
                ("application_name", "for now"),
            ] {
                client.query("BEGIN");
                let set = format!("SET LOCAL {name} = '{value}'");
                let told = reported(&said(&mut client, &set), name);
                let shown = value.replace(' ', "_");
                assert_eq!(told, Some(shown), "{general} {end}");
                client.query("UPDATE t SET n = 1");
                assert_eq!(client.value(&format!("SHOW {name}")), value);
                let told = reported(&said(&mut client, end), name);
                let back = client.value(&format!("SHOW {name}"));
                assert_ne!(back, value);
                assert_eq!(told, Some(back.replace(' ', "_")), "{general} {end} {name}");
            }
            // On servers that have begun.
            client.query("BEGIN");
            client.query("UPDATE t SET n = 1");
            let told = reported(&said(&mut client, set), name);
            assert_eq!(told.as_deref(), Some("LATIN1"), "{general} {end}");
            let told = reported(&said(&mut client, end), name);
            assert_eq!(told.as_deref(), Some("UTF8"), "{general} {end}");
            let id = &ids[1];
            client.query(&format!("UPDATE t SET s = 'é' WHERE id = {id}"));
            let stored =
                format!("SELECT encode(convert_to(s, 'UTF8'), 'hex') FROM t WHERE id = {id}");
            assert_eq!(client.value(&stored), "c3a9", "{general} {end}");
        }
        // What has failed is not said to servers that join.
        all(&mut client, &["BEGIN", "SAVEPOINT a"]);
        assert_eq!(client.query("SET work_mem = 'much'"), "E:22023 Z:E");
        assert_eq!(client.query("ROLLBACK TO a"), "C:ROLLBACK Z:T");
        assert_eq!(
            client.query("SELECT count(*) FROM t"),
            "T D:20 C:SELECT_1 Z:T"
        );
        client.query("ROLLBACK");
        shards.pgdog.stop();
    }
}

#[test]
fn notifications_of_a_time_in_a_transaction_are_heard_at_its_end() {
    for (label, general) in [
        ("hearing_notify", ""),
        ("hearing_notify_2pc", "two_phase_commit = true"),
    ] {
        let (shards, _) = filled(label, general);
        let (mut client, mut other) = (shards.client(), shards.client());
        for channel in ["alpha", "beta", "gamma", "delta"] {
            client.query(&format!("LISTEN {channel}"));
            for text in ["UPDATE t SET n = n + 1", "SELECT count(*) FROM t"] {
                for end in ["COMMIT", "ROLLBACK"] {
                    all(&mut client, &["BEGIN"]);
                    client.query(text);
                    other.query(&format!("NOTIFY {channel}"));
                    let mut tags: Vec<_> = said(&mut client, end)
                        .iter()
                        .map(|message| message.tag)
                        .collect();
                    tags.sort_unstable();
                    if tags == b"CZ" {
                        tags.push(client.read().tag);
                        tags.sort_unstable();
                    }
                    assert_eq!(tags, b"ACZ", "{general} {channel} {text} {end}");
                }
            }
            client.query(&format!("UNLISTEN {channel}"));
        }
        shards.pgdog.stop();
    }
}

#[test]
fn explain_analyze_changes_no_shard_alone() {
    let shards = Shards::start("hearing_explain", "", TABLE);
    let mut client = shards.client();
    client.query("CREATE TABLE same (id int)");
    client.query("INSERT INTO same VALUES (1), (2), (3)");
    let delete = "DELETE FROM same WHERE id = 1";
    let within = "WITH x AS (DELETE FROM same WHERE id = 1 RETURNING 1) SELECT count(*) FROM x";
    for explained in [delete, within] {
        for hint in ["", "/* pgdog_shard: 1 */ "] {
            let answer = client.query(&format!("{hint}EXPLAIN ANALYZE {explained}"));
            assert_eq!(answer, "E:0A000 Z:I", "{hint}{explained}");
        }
        all(&mut client, &["SET pgdog.shard = 1"]);
        let answer = client.query(&format!("EXPLAIN ANALYZE {explained}"));
        assert_eq!(answer, "E:0A000 Z:I", "{explained}");
        all(&mut client, &["RESET pgdog.shard"]);
        let plan = client.query(&format!("/* pgdog_shard: 1 */ EXPLAIN {explained}"));
        assert!(plan.ends_with("C:EXPLAIN Z:I"), "{plan}");
    }
    assert_eq!(shards.each("SELECT count(*) FROM same"), ["3"; 3]);
    shards.pgdog.stop();
}

#[test]
fn discard_all_forgets_what_was_prepared() {
    let shards = Shards::start("hearing_discard", "pooler_mode = \"session\"", TABLE);
    let mut client = shards.client();
    all(&mut client, &["CREATE TABLE t (id bigint)"]);
    all(&mut client, &["PREPARE p AS SELECT count(*) FROM t"]);
    assert_eq!(client.query("EXECUTE p"), "T D:0 C:SELECT_1 Z:I");
    assert_eq!(client.query("DISCARD ALL"), "C:DISCARD_ALL Z:I");
    assert_eq!(client.query("EXECUTE p"), "E:26000 Z:I");
    all(&mut client, &["PREPARE p AS SELECT count(*) FROM t"]);
    shards.pgdog.stop();
}

/// It ends the transaction of the batch, which is no block.
#[test]
fn a_query_behind_an_unsynced_batch_over_shards() {
    let (shards, ids) = filled("hearing_unsynced", "");
    let mut one = Postgres::shared().admin(&Postgres::shared().database("hearing_one"));
    one.query("CREATE TABLE t (id bigint, n int, s text)");
    let insert = "INSERT INTO t SELECT g, 0 FROM generate_series(0, 19) g";
    one.query(insert);
    let mut client = shards.client();
    let update = "UPDATE t SET n = n + 1";
    let here = format!("SELECT n FROM t WHERE id = {}", ids[1]);
    let broken = format!("SELECT 1 / (n - n) FROM t WHERE id = {}", ids[1]);
    for text in [
        "SELECT sum(n) FROM t",
        &here,
        "",
        "SELECT nothing FROM t",
        &broken,
        "SAVEPOINT a",
    ] {
        let [ours, theirs] = [&mut client, &mut one].map(|wire| {
            wire.send(&[run(update, &[]), flush()].concat());
            wire.expect(3);
            let mut said = vec![wire.query(text)];
            for then in ["ROLLBACK", "SELECT sum(n) FROM t"] {
                said.push(wire.query(then));
            }
            said
        });
        assert_eq!(ours, theirs, "{text}");
    }
    shards.pgdog.stop();
}
