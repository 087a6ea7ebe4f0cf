//! Reads and writes through one endpoint: which server each request goes to. The replica is another database, so that
//! `current_database()` tells.

use super::support::pgdog::{Config, Pgdog};
use super::support::postgres::{Postgres, ALICE, PASSWORD};
use super::support::wire::{bind, execute, fully_described, parse, query, run, sync, Wire};

const WHERE: &str = "SELECT current_database()";

/// A database with a primary and a replica that has other contents.
struct Pair {
    pgdog: Pgdog,
    name: String,
    primary: String,
    replica: String,
}

impl Pair {
    fn start(label: &str, general: &str) -> Self {
        Self::split(label, "exclude_primary", general, "")
    }

    /// With `read_write_split`, more lines of `[general]`, and other sections.
    fn split(label: &str, split: &str, general: &str, more: &str) -> Self {
        let postgres = Postgres::shared();
        let primary = postgres.database(label);
        let replica = postgres.database(&format!("{label}_r"));
        let name = format!("{label}_pair");
        let of =
            |database: &str, role: &str| format!("database_name = {database:?}\nrole = {role:?}");
        let pgdog = Config::empty()
            .general(&format!("read_write_split = {split:?}"))
            .general(general)
            .database(&name, &of(&primary, "primary"))
            .database(&name, &of(&replica, "replica"))
            .more(&more.replace("NAME", &name))
            .user(ALICE, &name, &format!("password = {PASSWORD:?}"))
            .start();
        Self {
            pgdog,
            name,
            primary,
            replica,
        }
    }

    fn client(&self) -> Wire {
        self.pgdog.client(&self.name)
    }

    /// The first value of an answer, as the role of the server that gave it.
    fn role(&self, answer: &str) -> &'static str {
        if answer == self.primary {
            "primary"
        } else if answer == self.replica {
            "replica"
        } else {
            panic!("{answer} is neither")
        }
    }
}

#[test]
fn reads_go_to_the_replica_and_everything_else_to_the_primary() {
    let pair = Pair::start("roles", "");
    let mut client = pair.client();
    for (sql, expected) in [
        (WHERE, "replica"),
        (
            "/* any */ SELECT current_database() FROM pg_class LIMIT 1",
            "replica",
        ),
        (
            "WITH a AS (SELECT current_database() d) SELECT d FROM a",
            "replica",
        ),
        (
            "SELECT current_database() FROM (SELECT 1) s FOR UPDATE",
            "primary",
        ),
        ("SELECT current_database(), txid_current()", "primary"),
        (
            "SELECT current_database(), set_config('a.b', 'c', true)",
            "primary",
        ),
        ("SELECT 1; SELECT current_database()", "primary"),
        (
            "/* pgdog_role: primary */ SELECT current_database()",
            "primary",
        ),
        (
            "/* pgdog_role: replica */ SELECT current_database(), txid_current_if_assigned()",
            "replica",
        ),
    ] {
        let rows = client.rows(sql);
        let database = rows.last().unwrap().first().unwrap();
        assert_eq!(pair.role(database), expected, "{sql}");
    }
    assert_eq!(
        client.query("/* pgdog_role: other */ SELECT 1"),
        "E:22023 Z:I"
    );
    // An explicit transaction is a write.
    client.query("BEGIN");
    assert_eq!(pair.role(&client.value(WHERE)), "primary");
    client.query("COMMIT");
    assert_eq!(pair.role(&client.value(WHERE)), "replica");
    client.query("BEGIN READ ONLY");
    assert_eq!(pair.role(&client.value(WHERE)), "replica");
    client.query("COMMIT");
    // A session may ask for one of them.
    client.query("SET pgdog.role = 'primary'");
    assert_eq!(pair.role(&client.value(WHERE)), "primary");
    client.query("SET pgdog.role = 'replica'");
    assert_eq!(
        pair.role(&client.value("SELECT current_database(), txid_current()")),
        "replica"
    );
    client.query("RESET pgdog.role");
    assert_eq!(pair.role(&client.value(WHERE)), "replica");
    pair.pgdog.stop();
}

/// Its first request decides for all that follow, which may write.
#[test]
fn a_session_that_keeps_its_server_has_the_primary_unless_it_asks_for_a_replica() {
    let pair = Pair::start("roles_session", "pooler_mode = \"session\"");
    for (first, expected) in [
        (WHERE, "primary"),
        ("BEGIN READ ONLY; COMMIT", "primary"),
        ("/* pgdog_role: replica */ SELECT 1", "replica"),
    ] {
        let mut client = pair.client();
        for sql in first.split_inclusive("; ") {
            client.query(sql);
        }
        assert_eq!(pair.role(&client.value(WHERE)), expected, "{first}");
    }
    // By the extended protocol, too.
    let mut client = pair.client();
    client.ask(&[run(WHERE, &[]), sync()]);
    assert_eq!(pair.role(&client.value(WHERE)), "primary");
    pair.pgdog.stop();
}

#[test]
fn prepared_statements_and_pipelines_go_where_their_texts_belong() {
    let pair = Pair::start("roles_ext", "");
    let mut client = pair.client();
    let locks = "SELECT current_database() FROM (SELECT $1) s FOR UPDATE";
    let reads = "SELECT current_database() FROM pg_class WHERE relname = $1";
    client.ask(&[parse("locks", locks), parse("reads", reads), sync()]);
    let values = |messages: Vec<super::support::wire::Message>| -> Vec<String> {
        let rows = messages.iter().filter(|message| message.tag == b'D');
        rows.map(|row| row.values()[0].clone().unwrap()).collect()
    };
    for (name, expected) in [
        ("locks", "primary"),
        ("reads", "replica"),
        ("locks", "primary"),
    ] {
        client.send(&[bind("", name, &[Some("pg_class")]), execute("", 0), sync()].concat());
        let found = values(client.read_until(b'Z'));
        assert_eq!(pair.role(&found[0]), expected, "{name}");
    }
    // All of a batch goes to one server: the one that can do all of it.
    client.send(
        &[
            run(WHERE, &[]),
            bind("", "locks", &[Some("pg_class")]),
            execute("", 0),
            sync(),
        ]
        .concat(),
    );
    let found = values(client.read_until(b'Z'));
    assert_eq!(
        found.iter().map(|name| pair.role(name)).collect::<Vec<_>>(),
        ["primary", "primary"]
    );
    // The unnamed statement of an earlier batch counts like any other.
    let write = [
        parse("", locks),
        bind("", "", &[Some("x")]),
        execute("", 0),
        sync(),
    ];
    client.ask(&write);
    let both = ["reads", ""].map(|name| [bind("", name, &[Some("pg_class")]), execute("", 0)]);
    client.send(&[both.concat().concat(), sync()].concat());
    let found = values(client.read_until(b'Z'));
    assert_eq!(
        found.iter().map(|name| pair.role(name)).collect::<Vec<_>>(),
        ["primary", "primary"]
    );
    // Each request of a pipeline is one of its own.
    let pipeline = [
        query(WHERE),
        query("CREATE TEMP TABLE t ON COMMIT DROP AS SELECT current_database()"),
        [run(WHERE, &[]), sync()].concat(),
        query("BEGIN"),
        query(WHERE),
        query("COMMIT"),
        query(WHERE),
    ];
    client.send(&pipeline.concat());
    let mut roles = Vec::new();
    for _ in 0..7 {
        roles.extend(
            values(client.read_until(b'Z'))
                .iter()
                .map(|name| pair.role(name)),
        );
    }
    assert_eq!(roles, ["replica", "replica", "primary", "replica"]);
    pair.pgdog.stop();
}

#[test]
fn a_request_too_long_to_be_waited_for_is_a_write() {
    let pair = Pair::start("roles_long", "");
    let mut client = pair.client();
    let sql = "SELECT current_database(), length($1)";
    let where_it_ran = |client: &mut Wire, bytes: usize, requests: usize| {
        let text = "x".repeat(bytes);
        let mut batch = Vec::new();
        for _ in 0..requests {
            batch.extend(run(sql, &[Some(&text)]));
        }
        batch.extend(sync());
        let answer = client.ask(&[batch]);
        let name = answer
            .split("D:")
            .nth(1)
            .and_then(|row| row.split('|').next());
        assert_eq!(
            answer.matches(&format!("|{bytes} ")).count(),
            requests,
            "{answer}"
        );
        pair.role(name.unwrap_or_default())
    };
    assert_eq!(where_it_ran(&mut client, 10, 3), "replica");
    assert_eq!(where_it_ran(&mut client, 32 << 20, 3), "primary");
    assert_eq!(where_it_ran(&mut client, 10, 3), "replica");
}

#[test]
fn the_first_statement_of_a_transaction_may_decide_where_it_goes() {
    let pair = Pair::start("roles_aggressive", "read_write_strategy = \"aggressive\"");
    let mut client = pair.client();
    assert_eq!(pair.role(&client.value(WHERE)), "replica");
    for (first, expected) in [
        (WHERE, "replica"),
        ("SELECT current_database(), txid_current()", "primary"),
        (
            "SELECT current_database() FROM (SELECT 1) s FOR UPDATE",
            "primary",
        ),
    ] {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        assert_eq!(client.query("SAVEPOINT a"), "C:SAVEPOINT Z:T");
        assert_eq!(pair.role(&client.value(first)), expected, "{first}");
        // What follows stays there.
        assert_eq!(pair.role(&client.value(WHERE)), expected, "{first}");
        assert_eq!(client.query("ROLLBACK TO a"), "C:ROLLBACK Z:T");
        assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    }
    // Replicas refuse these modes.
    for (begin, role) in [
        ("BEGIN READ WRITE", "primary"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "primary"),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ", "replica"),
    ] {
        assert_eq!(client.query(begin), "C:BEGIN Z:T");
        assert_eq!(pair.role(&client.value(WHERE)), role, "{begin}");
        assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    }
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    let serializable = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE";
    assert_eq!(client.query(serializable), "C:SET Z:T");
    assert_eq!(pair.role(&client.value(WHERE)), "primary");
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    client.query("SET default_transaction_isolation = 'serializable'");
    assert_eq!(pair.role(&client.value(WHERE)), "primary");
    client.query("RESET default_transaction_isolation");
    assert_eq!(pair.role(&client.value(WHERE)), "replica");
    // In the extended protocol, BEGIN in front of the first statement.
    client.send(&[run("BEGIN", &[]), run(WHERE, &[]), sync()].concat());
    let answer = client.read_until(b'Z');
    let row = answer.iter().find(|message| message.tag == b'D').unwrap();
    assert_eq!(pair.role(row.values()[0].as_ref().unwrap()), "replica");
    assert_eq!(client.query("SELECT 1/0"), "E:22012 Z:E");
    assert_eq!(client.query("SELECT 1"), "E:25P02 Z:E");
    assert_eq!(client.query("COMMIT"), "C:ROLLBACK Z:I");
    // BEGIN is described before anybody knows where it goes.
    let begin = fully_described("b", "BEGIN");
    assert_eq!(client.ask(&begin), "1 t n 2 n C:BEGIN Z:T");
    assert_eq!(pair.role(&client.value(WHERE)), "replica");
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    // COPY and the like need no more than their server.
    assert_eq!(
        client.query("CREATE TABLE t (id int)"),
        "C:CREATE_TABLE Z:I"
    );
    assert_eq!(client.begin_copy("COPY t FROM STDIN"), "G");
    let done = [
        super::support::wire::copy_data(b"1\n2\n"),
        super::support::wire::copy_done(),
    ]
    .concat();
    assert_eq!(client.ask(&[done]), "C:COPY_2 Z:I");
    pair.pgdog.stop();
}

/// Which of both answer a statement that is sent often.
fn who(pair: &Pair, client: &mut Wire, sql: &str) -> String {
    let answers = (0..40).map(|_| pair.role(&client.value(sql)));
    let found: std::collections::BTreeSet<_> = answers.collect();
    Vec::from_iter(found).join(",")
}

#[test]
fn every_value_of_read_write_split_says_who_reads() {
    for (split, plain, hinted) in [
        ("include_primary", "primary,replica", "replica"),
        ("exclude_primary", "replica", "replica"),
        ("include_primary_if_replica_banned", "replica", "replica"),
        ("prefer_primary", "primary", "replica"),
    ] {
        let lines = "load_balancing_strategy = \"round_robin\"";
        let pair = Pair::split("roles_split", split, lines, "");
        let mut client = pair.client();
        assert_eq!(who(&pair, &mut client, WHERE), plain, "{split}");
        let sql = "/* pgdog_role: replica */ SELECT current_database()";
        assert_eq!(who(&pair, &mut client, sql), hinted, "{split}");
        let sql = "SELECT current_database() FROM (SELECT 1) s FOR UPDATE";
        assert_eq!(who(&pair, &mut client, sql), "primary", "{split}");
        pair.pgdog.stop();
    }
}

#[test]
fn every_level_of_query_parser_says_whether_reads_are_told_from_writes() {
    let one = |level: &str| format!("[[query_parsers]]\ndatabase = \"NAME\"\nlevel = {level:?}\n");
    for (general, more, plain) in [
        ("", String::new(), "replica"),
        ("query_parser = \"on\"", String::new(), "replica"),
        ("query_parser = \"auto\"", String::new(), "replica"),
        ("query_parser = \"off\"", String::new(), "primary"),
        (
            "query_parser = \"session_control\"",
            String::new(),
            "primary",
        ),
        (
            "query_parser = \"session_control_and_locks\"",
            String::new(),
            "primary",
        ),
        (
            "query_parser = \"off\"\nquery_parser_enabled = true",
            String::new(),
            "replica",
        ),
        ("query_parser = \"off\"", one("on"), "replica"),
        ("query_parser = \"on\"", one("off"), "primary"),
        // There is no first statement that could decide.
        (
            "query_parser = \"off\"\nread_write_strategy = \"aggressive\"",
            String::new(),
            "primary",
        ),
    ] {
        let pair = Pair::split("roles_level", "exclude_primary", general, &more);
        let mut client = pair.client();
        assert_eq!(pair.role(&client.value(WHERE)), plain, "{general} {more}");
        client.query("BEGIN READ ONLY");
        assert_eq!(pair.role(&client.value(WHERE)), plain, "{general} {more}");
        client.query("COMMIT");
        // Hints are no matter of parsing, nor is what a session has set.
        let sql = "/* pgdog_role: replica */ SELECT current_database()";
        assert_eq!(pair.role(&client.value(sql)), "replica", "{general}");
        client.query("SET pgdog.role = 'replica'");
        client.query("SET work_mem = '7MB'");
        assert_eq!(pair.role(&client.value(WHERE)), "replica", "{general}");
        client.query("SET pgdog.role = 'primary'");
        assert_eq!(pair.role(&client.value(WHERE)), "primary", "{general}");
        assert_eq!(client.value("SHOW work_mem"), "7MB", "{general}");
        pair.pgdog.stop();
    }
}

/// Edge case 63: the table of that name which the replica has is another one.
#[test]
fn a_temporary_table_that_hides_another_is_read_where_it_is() {
    for strategy in ["conservative", "aggressive"] {
        let lines = format!("read_write_strategy = {strategy:?}");
        let pair = Pair::start("roles_temp", &lines);
        let sql = "SELECT of, current_database() FROM hidden";
        for (database, of) in [(&pair.primary, "primary"), (&pair.replica, "replica")] {
            let mut direct = Wire::connect(Postgres::shared().port(), ALICE, database, PASSWORD);
            direct.query(&format!("CREATE TABLE hidden AS SELECT '{of}' AS of"));
        }
        let mut client = pair.client();
        assert_eq!(client.value(sql), "replica", "{strategy}");
        client.query("CREATE TEMP TABLE hidden AS SELECT 'mine' AS of");
        for _ in 0..3 {
            let row = client.rows(sql).remove(0);
            assert_eq!(
                (&*row[0], pair.role(&row[1])),
                ("mine", "primary"),
                "{strategy}"
            );
        }
        // Within one transaction, too, and no longer than it is there.
        client.query("DROP TABLE hidden");
        assert_eq!(client.value(sql), "replica", "{strategy}");
        client.query("BEGIN");
        client.query("CREATE TEMP TABLE hidden ON COMMIT DROP AS SELECT 'mine' AS of");
        assert_eq!(client.value(sql), "mine", "{strategy}");
        client.query("COMMIT");
        assert_eq!(client.value(sql), "replica", "{strategy}");
        pair.pgdog.stop();
    }
}

/// Edge case 64.
#[test]
fn what_follows_a_write_or_a_definition_in_its_transaction_is_read_on_the_primary() {
    for strategy in ["conservative", "aggressive"] {
        let lines = format!("read_write_strategy = {strategy:?}");
        let pair = Pair::start("roles_after", &lines);
        let mut client = pair.client();
        client.query("CREATE TABLE t (n int)");
        for write in [
            "INSERT INTO t VALUES (1)",
            "CREATE TABLE u (n int)",
            "SELECT n FROM t FOR UPDATE",
            "SELECT setseed(0)",
        ] {
            client.query("BEGIN");
            client.query(write);
            assert_eq!(
                pair.role(&client.value(WHERE)),
                "primary",
                "{strategy}, {write}"
            );
            // Over the extended protocol as well.
            let answer = client.ask(&[run(WHERE, &[]), sync()]);
            assert!(answer.contains(&format!("D:{}", pair.primary)), "{answer}");
            client.query("ROLLBACK");
            assert_eq!(
                pair.role(&client.value(WHERE)),
                "replica",
                "{strategy}, {write}"
            );
        }
        pair.pgdog.stop();
    }
}

#[test]
fn definitions_of_an_explicit_transaction_are_known_when_it_is_over() {
    let pair = Pair::start("roles_defined", "");
    let mut client = pair.client();
    let mut other = pair.client();
    client.query("CREATE SEQUENCE counter; CREATE VIEW seen AS SELECT 1 AS n");
    for database in [&pair.primary, &pair.replica] {
        let mut direct = Wire::connect(Postgres::shared().port(), ALICE, database, PASSWORD);
        direct.query("CREATE VIEW seen AS SELECT 1 AS n");
    }
    let sql = "SELECT current_database(), n FROM seen";
    for reader in [&mut client, &mut other] {
        assert_eq!(pair.role(&reader.value(sql)), "replica");
    }
    client.query("BEGIN");
    let counts = "CREATE OR REPLACE VIEW seen AS SELECT nextval('counter')::int AS n";
    assert_eq!(client.query(counts), "C:CREATE_VIEW Z:T");
    client.query("COMMIT");
    for reader in [&mut client, &mut other] {
        assert_eq!(pair.role(&reader.value(sql)), "primary");
    }
    pair.pgdog.stop();
}

#[test]
fn what_replicas_do_not_have_as_it_is_is_read_on_the_primary() {
    let pair = Pair::start("roles_unlogged", "");
    let mut client = pair.client();
    assert_eq!(pair.role(&client.value(WHERE)), "replica");
    client.query("CREATE UNLOGGED TABLE fast (n int)");
    client.query("CREATE SEQUENCE counter");
    client.query("CREATE VIEW through AS SELECT count(*) FROM fast");
    for sql in [
        "SELECT current_database(), count(*) FROM fast",
        "SELECT current_database(), last_value FROM counter",
        "SELECT current_database(), count FROM through",
    ] {
        assert_eq!(pair.role(&client.value(sql)), "primary", "{sql}");
    }
    // Their tags are those of queries.
    let mut other = pair.client();
    for (name, made, tag) in [
        (
            "made",
            "CREATE UNLOGGED TABLE made AS SELECT 1 AS n",
            "C:SELECT_1 Z:I",
        ),
        (
            "into_it",
            "SELECT 1 AS n INTO UNLOGGED into_it",
            "C:SELECT_1 Z:I",
        ),
        (
            "none",
            "CREATE UNLOGGED TABLE none AS SELECT 1 AS n WITH NO DATA",
            "C:CREATE_TABLE_AS Z:I",
        ),
    ] {
        assert_eq!(client.query(made), tag, "{made}");
        let sql = format!("SELECT current_database(), count(*) FROM {name}");
        for reader in [&mut client, &mut other] {
            assert_eq!(pair.role(&reader.value(&sql)), "primary", "{made}");
        }
    }
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    let made = [
        run("CREATE UNLOGGED TABLE prepared AS SELECT 1 AS n", &[]),
        run("SELECT 1", &[]),
        sync(),
    ];
    client.ask(&made);
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    let sql = "SELECT current_database(), count(*) FROM prepared";
    assert_eq!(pair.role(&client.value(sql)), "primary");
    assert_eq!(pair.role(&client.value(WHERE)), "replica");
    pair.pgdog.stop();
}

/// It would wait for whoever has the primary's connections, and each of the others after it.
#[test]
fn readers_do_not_wait_for_a_busy_primary_to_tell_of_its_catalogue() {
    let lines = "workers = 1\ndefault_pool_size = 1\ncheckout_timeout = 1000";
    let pair = Pair::start("roles_busy", lines);
    let mut writer = pair.client();
    let mut readers: Vec<_> = (0..3).map(|_| pair.client()).collect();
    for reader in &mut readers {
        assert_eq!(pair.role(&reader.value(WHERE)), "replica");
    }
    assert_eq!(
        writer.query("CREATE VIEW seen AS SELECT 1"),
        "C:CREATE_VIEW Z:I"
    );
    writer.query("BEGIN");
    for reader in &mut readers {
        reader.send(&query(WHERE));
    }
    for reader in &mut readers {
        let row = reader.read_until(b'Z').remove(1);
        assert_eq!(pair.role(row.values()[0].as_ref().unwrap()), "replica");
    }
    writer.query("COMMIT");
    pair.pgdog.stop();
}
