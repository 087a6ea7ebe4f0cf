//! Portals with row limits over shards: what one PostgreSQL answers to the same messages.

use super::super::support::process::{poll, PATIENCE};
use super::super::support::programs::{python, script};
use super::super::support::wire::{
    bind, close, describe, execute, flush, parse, query, sync, tagged, Message, Wire,
};
use super::{filled, Random};

/// Parse, Bind, Describe of a portal.
fn opened(portal: &str, sql: &str) -> Vec<u8> {
    [
        parse("", sql),
        bind(portal, "", &[]),
        describe(b'P', portal),
    ]
    .concat()
}

/// What a client sends up to a ReadyForQuery.
type Batch = Vec<Vec<u8>>;

/// Sends the same to both, batch after batch, and compares.
#[track_caller]
fn same(one: &mut Wire, client: &mut Wire, batches: &[Batch]) {
    for (number, batch) in batches.iter().enumerate() {
        let expected = one.ask(batch);
        assert_eq!(client.ask(batch), expected, "batch {number}");
    }
}

const BY_ID: &str = "SELECT id, name, age FROM users ORDER BY id";

#[test]
fn a_suspended_portal_goes_on_where_it_was() {
    let (mut one, shards) = filled("portals");
    let mut client = shards.client();
    for sql in [
        BY_ID,
        "SELECT id FROM users ORDER BY age DESC NULLS LAST, id LIMIT 20",
        "SELECT name, id FROM users WHERE id > 5 ORDER BY name NULLS FIRST, id OFFSET 30",
        "SELECT country, count(*), avg(balance) FROM users GROUP BY country ORDER BY country",
        "SELECT DISTINCT level FROM users ORDER BY level",
        "SELECT id, rank() OVER (ORDER BY age, id) FROM users ORDER BY id",
        "SELECT id FROM users WHERE age > (SELECT avg(age) FROM users) ORDER BY id",
        "SELECT id FROM users WHERE id = 7",
        "SELECT id FROM users WHERE id < 0 ORDER BY id",
        "SELECT code FROM countries ORDER BY code",
        "SELECT count(*) FROM users",
        "SELECT 1",
        "SELECT id FROM users ORDER BY id LIMIT 0",
        "VALUES (1), (2), (3)",
        "SHOW standard_conforming_strings",
        "INSERT INTO countries VALUES ('nl', 'Netherlands', false), ('at', 'Austria', false) RETURNING code",
        "UPDATE users SET age = 50 WHERE id IN (1, 2, 3, 4, 5, 6) RETURNING age",
        "UPDATE users SET age = 51 WHERE id < 20",
        "DELETE FROM countries WHERE code = 'nl'",
        // The word alone gives no rows, and others may stand in front of what does.
        "INSERT INTO countries VALUES ('nl', 'returning', false)",
        "UPDATE countries /* RETURNING */ SET title = title",
        "WITH w AS (SELECT 'nl' AS code) INSERT INTO countries SELECT code, 'N', false FROM w RETURNING code",
        "WITH w AS (SELECT 1) DELETE FROM countries RETURNING code",
        "WITH w AS (INSERT INTO countries VALUES ('nl', 'N', false) RETURNING code) SELECT code FROM w",
        "WITH w AS (INSERT INTO countries VALUES ('nl', 'N', false) RETURNING code) DELETE FROM countries",
    ] {
        for rows in [1, 3, 10, 500] {
            let slice = vec![execute("c", rows), sync()];
            let mut batches = vec![
                vec![query("BEGIN")],
                vec![opened("c", sql), execute("c", rows), sync()],
            ];
            batches.extend(vec![slice; if rows == 1 { 5 } else { 3 }]);
            let all: Batch = vec![execute("c", 0), sync()];
            // What has run cannot run again, but a query has no more rows.
            batches.extend([all.clone(), vec![close(b'P', "c"), sync()], all]);
            batches.extend([vec![query("ROLLBACK")]]);
            same(&mut one, &mut client, &batches);
        }
        // All at once, and again.
        let all = || execute("c", 0);
        let batches: [Batch; 4] = [
            vec![query("BEGIN")],
            vec![opened("c", sql), all(), sync()],
            vec![all(), sync()],
            vec![query("ROLLBACK")],
        ];
        same(&mut one, &mut client, &batches);
    }
    shards.pgdog.stop();
}

#[test]
fn a_portal_ends_with_its_transaction() {
    let (mut one, shards) = filled("portals_end");
    let mut client = shards.client();
    let open = |portal: &str, rows: i32| vec![opened(portal, BY_ID), execute(portal, rows)];
    let with = |mut batch: Batch, more: &[Vec<u8>]| {
        batch.extend(more.to_vec());
        batch
    };
    let next = |portal: &str| vec![execute(portal, 2), sync()];
    let ended = |sql: &str| {
        let end = [parse("", sql), bind("e", "", &[]), execute("e", 0)];
        let bound = [opened("c", BY_ID), opened("d", BY_ID), execute("d", 3)];
        [&bound[..], &end].concat()
    };
    let batches: Vec<Batch> = vec![
        // Without a transaction it is over at Sync, and goes on before.
        with(open("c", 2), &[sync()]),
        next("c"),
        with(open("", 2), &[execute("", 3), execute("", 200), sync()]),
        next(""),
        with(open("c", 3), &[flush(), execute("c", 4), flush(), sync()]),
        with(open("c", 90), &[sync()]),
        with(open("c", 91), &[sync()]),
        // With one, it is over at COMMIT and ROLLBACK; names are taken until then.
        vec![query("BEGIN")],
        with(open("c", 2), &[sync()]),
        next("c"),
        with(open("d", 5), &[sync()]),
        next("c"),
        vec![query("COMMIT")],
        next("c"),
        vec![query("BEGIN")],
        with(open("c", 2), &[sync()]),
        with(open("c", 2), &[sync()]),
        next("c"),
        vec![query("ROLLBACK")],
        next("c"),
        vec![query("BEGIN")],
        with(open("c", 2), &[sync()]),
        vec![query("COMMIT AND CHAIN")],
        next("c"),
        vec![query("ROLLBACK")],
        // So it is if that is executed in the same batch, whatever was bound before, and if there was none.
        vec![query("BEGIN")],
        with(ended("COMMIT"), &next("e")),
        vec![query("BEGIN")],
        with(ended("ROLLBACK"), &next("c")),
        vec![query("BEGIN")],
        with(ended("ROLLBACK AND CHAIN"), &next("c")),
        vec![query("ROLLBACK")],
        with(ended("COMMIT"), &next("c")),
        with(ended("COMMIT"), &with(open("c", 2), &next("c"))),
        // One without a name gives way to the next one, and to a Query.
        vec![query("BEGIN")],
        with(open("", 2), &[sync()]),
        next(""),
        with(open("", 1), &[sync()]),
        next(""),
        vec![query("SELECT count(*) FROM users")],
        next(""),
        vec![query("ROLLBACK")],
    ];
    same(&mut one, &mut client, &batches);
    // Nothing is left of it on any server.
    for number in 0..3 {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
        let mut shard = shards.shard(number);
        poll(PATIENCE, "no open transaction", || {
            (shard.value(open) == "0").then_some(())
        });
    }
    shards.pgdog.stop();
}

#[test]
fn a_transaction_goes_on_while_a_portal_is_suspended() {
    let (mut one, shards) = filled("portals_amid");
    let mut client = shards.client();
    let next = |portal: &str, rows| vec![execute(portal, rows), sync()];
    let batches: Vec<Batch> = vec![
        vec![query("BEGIN")],
        vec![opened("a", BY_ID), execute("a", 4), sync()],
        // It does not see what is done after it was opened, nor after it was bound.
        vec![opened("b", "SELECT id, age FROM users ORDER BY id"), sync()],
        vec![query("UPDATE users SET age = 99, name = 'later'")],
        vec![
            opened(
                "c",
                "SELECT age, count(*) FROM users GROUP BY age ORDER BY age",
            ),
            sync(),
        ],
        vec![query("DELETE FROM users WHERE id > 50")],
        next("b", 3),
        next("a", 3),
        next("c", 1),
        vec![query("SELECT count(*), max(age) FROM users")],
        next("a", 30),
        next("b", 0),
        next("c", 0),
        vec![
            opened("e", "SELECT id FROM users ORDER BY id"),
            parse("", "DELETE FROM users"),
            bind("", "", &[]),
            execute("", 0),
            execute("e", 2),
            execute("e", 3),
            sync(),
        ],
        next("e", 4),
        next("a", 200),
        vec![query("ROLLBACK")],
        // Savepoints: what was bound before them stays, and where it is.
        vec![query("BEGIN")],
        vec![opened("a", BY_ID), execute("a", 2), sync()],
        vec![query("SAVEPOINT s")],
        vec![opened("b", BY_ID), execute("b", 2), sync()],
        next("a", 2),
        vec![query("SELECT 1 / 0")],
        next("a", 2),
        next("nothing", 2),
        vec![query("ROLLBACK TO s")],
        next("b", 2),
        vec![query("ROLLBACK TO s")],
        next("a", 2),
        vec![opened("b", BY_ID), execute("b", 2), sync()],
        vec![query("RELEASE s")],
        vec![query("SAVEPOINT s")],
        next("b", 2),
        vec![query("ROLLBACK TO s")],
        next("b", 2),
        next("a", 1),
        // One that fails is over.
        vec![query("SAVEPOINT t")],
        vec![
            parse("", "SELECT id / (id - id) FROM users"),
            bind("f", "", &[]),
            execute("f", 2),
            sync(),
        ],
        vec![query("ROLLBACK TO t")],
        next("f", 2),
        vec![query("ROLLBACK TO t")],
        next("a", 0),
        vec![query("COMMIT")],
    ];
    same(&mut one, &mut client, &batches);
    shards.pgdog.stop();
}

#[test]
fn portals_of_one_shard_and_of_several_live_side_by_side() {
    let (mut one, shards) = filled("portals_beside");
    let mut client = shards.client();
    let of_user = |id: u32| {
        format!("SELECT n FROM generate_series(1, 9) n, users WHERE id = {id} ORDER BY n")
    };
    let next = |portal: &str, rows| vec![execute(portal, rows), sync()];
    let mut batches: Vec<Batch> = vec![vec![query("BEGIN")]];
    for id in 1..9 {
        let name = format!("u{id}");
        batches.push(vec![opened(&name, &of_user(id)), execute(&name, 2), sync()]);
    }
    batches.push(vec![opened("all", BY_ID), execute("all", 5), sync()]);
    for id in 1..9 {
        let name = format!("u{id}");
        batches.extend([next(&name, 3), next("all", 2)]);
        batches.push(vec![describe(b'P', &name), sync()]);
        if id % 2 == 0 {
            batches.push(vec![close(b'P', &name), sync()]);
        }
    }
    batches.push(vec![
        execute("u1", 0),
        execute("u3", 0),
        execute("all", 0),
        sync(),
    ]);
    batches.push(vec![query("COMMIT")]);
    same(&mut one, &mut client, &batches);
    shards.pgdog.stop();
}

#[test]
fn cursors_are_fetched_from_forward() {
    let (mut one, shards) = filled("cursors");
    let mut client = shards.client();
    let simple = |sql: &str| vec![query(sql)];
    let declared = |name: &str, sql: &str| simple(&format!("DECLARE {name} CURSOR FOR {sql}"));
    let extended = |sql: &str| {
        vec![
            parse("", sql),
            bind("", "", &[]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]
    };
    let batches: Vec<Batch> = vec![
        declared("c", BY_ID),
        simple("BEGIN"),
        declared("c", BY_ID),
        simple("FETCH 3 FROM c"),
        simple("FETCH c"),
        simple("UPDATE users SET name = 'changed'"),
        simple("FETCH FORWARD 4 FROM c"),
        extended("FETCH 2 FROM c"),
        vec![execute("c", 2), sync()],
        declared("\"D\"", "SELECT DISTINCT level FROM users ORDER BY level"),
        extended("FETCH ALL FROM \"D\""),
        simple("FETCH 1 FROM \"D\""),
        simple("CLOSE \"D\""),
        simple("SAVEPOINT s"),
        simple("SELECT 1 / 0"),
        simple("ROLLBACK TO s"),
        simple("FETCH 1 FROM c"),
        declared("c", BY_ID),
        simple("ROLLBACK TO s"),
        simple("FETCH ALL c"),
        simple("FETCH NEXT FROM c"),
        // One of a single shard, and one of several.
        declared("e", "SELECT n FROM users, generate_series(1, 9) n WHERE id = 5 ORDER BY n"),
        extended("DECLARE f NO SCROLL CURSOR FOR SELECT count(*) FROM orders"),
        simple("FETCH 2 FROM e; FETCH 2 FROM f; FETCH 1 FROM e"),
        simple("CLOSE ALL"),
        simple("COMMIT"),
        simple("BEGIN; DECLARE g CURSOR FOR SELECT id FROM users ORDER BY id DESC; FETCH 2 FROM g; COMMIT"),
        simple("FETCH g"),
    ];
    same(&mut one, &mut client, &batches);
    // Closed is closed, in one text, too.
    let twice =
        simple("BEGIN; DECLARE h CURSOR FOR SELECT id FROM users ORDER BY id; CLOSE h; CLOSE h");
    same(&mut one, &mut client, &[twice, simple("ROLLBACK")]);
    client.query("BEGIN");
    for sql in [
        "DECLARE c SCROLL CURSOR FOR SELECT id FROM users",
        "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM users",
        "DECLARE c BINARY CURSOR FOR SELECT id FROM users",
        "DECLARE c CURSOR FOR SELECT id FROM users; FETCH BACKWARD 1 FROM c",
        "DECLARE c CURSOR FOR SELECT id FROM users; MOVE 1 FROM c",
    ] {
        assert_eq!(client.query(sql), "E:0A000 Z:E", "{sql}");
        client.query("ROLLBACK");
        client.query("BEGIN");
    }
    // By the extended protocol.
    client.query(&format!("DECLARE c CURSOR FOR {BY_ID}"));
    let fetch = parse("f", "FETCH 2 FROM c");
    let limited = vec![fetch, bind("", "f", &[]), execute("", 1), sync()];
    assert_eq!(client.ask(&limited), "1 2 E:0A000 Z:E");
    client.query("ROLLBACK");
    let with_value = vec![
        parse(
            "",
            "DECLARE c CURSOR FOR SELECT id FROM users WHERE age > $1",
        ),
        bind("", "", &[Some("3")]),
        execute("", 0),
        sync(),
    ];
    client.query("BEGIN");
    assert!(client.ask(&with_value).contains("E:0A000"));
    client.query("ROLLBACK");
    client.query(&format!("BEGIN; DECLARE c CURSOR FOR {BY_ID}"));
    let binary = tagged(b'B', b"\0f\0\0\0\0\0\0\x01\0\x01");
    assert_eq!(
        client.ask(&[binary, execute("", 0), sync()]),
        "2 E:0A000 Z:E"
    );
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    shards.pgdog.stop();
}

#[test]
fn servers_rest_while_a_portal_is_suspended() {
    let (_, shards) = filled("portals_rest");
    let mut client = shards.client();
    client.query("BEGIN");
    let sql = "SELECT u.id, n, repeat('x', 1000) FROM users u, generate_series(1, 1000) n ORDER BY u.id, n";
    client.ask(&[opened("c", sql), execute("c", 1000), sync()]);
    for number in 0..3 {
        let mut shard = shards.shard(number);
        let states = "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%repeat%'";
        let states = shard.rows(states);
        assert_eq!(states, [["idle in transaction"]], "shard {number}");
    }
    // What follows is cancelled like anything else.
    let key = client.key();
    let wait = "SELECT pg_sleep(60) FROM users WHERE id = 3";
    client.send(&query(wait));
    let mut shard = shards.shard(0);
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60) FROM users WHERE id = 3' AND state = 'active'";
    poll(PATIENCE, "the query to sleep", || {
        (shard.value(asleep) == "1").then_some(())
    });
    Wire::cancel(shards.pgdog.port(), &key);
    client.expect_cancelled('E');
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    shards.pgdog.stop();
}

/// All rows of a query, slice by slice, as one reply.
pub(super) fn sliced(
    client: &mut Wire,
    sql: &str,
    binary: bool,
    random: &mut Random,
) -> Vec<Message> {
    let rows = i32::try_from(1 + random.below(40)).unwrap();
    let formats: &[u8] = match binary {
        true => &[b'c', 0, 0, 0, 0, 0, 0, 0, 1, 0, 1],
        false => &[b'c', 0, 0, 0, 0, 0, 0, 0, 0],
    };
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    let mut batch = [
        parse("", sql),
        tagged(b'B', formats),
        describe(b'P', "c"),
        execute("c", rows),
        sync(),
    ]
    .concat();
    let mut all = Vec::new();
    loop {
        client.send(&batch);
        let messages = client.read_until(b'Z');
        let given = messages
            .iter()
            .filter(|message| message.tag == b'D')
            .count();
        let goes_on = messages.iter().any(|message| message.tag == b's');
        assert!(!goes_on || given == usize::try_from(rows).unwrap(), "{sql}");
        all.extend(messages);
        if !goes_on {
            break;
        }
        batch = [execute("c", rows), sync()].concat();
    }
    let ended = client.query("ROLLBACK");
    assert_eq!(ended, "C:ROLLBACK Z:I");
    let total = all.iter().filter(|message| message.tag == b'D').count();
    all.retain(|message| match message.tag {
        b'Z' | b's' => false,
        b'1' | b'2' => binary, // as of a Query
        _ => true,
    });
    for message in all.iter_mut().filter(|message| message.tag == b'C') {
        message.body = format!("SELECT {total}\0").into_bytes();
    }
    all
}

#[test]
fn drivers_fetch_in_slices() {
    let (_, shards) = filled("slices");
    let port = shards.pgdog.port();
    let jar = ["-cp", "/usr/share/java/postgresql.jar"];
    for said in [
        python("psycopg3_slices.py", port, &shards.name),
        script("java", &jar, "Slices.java", port, &shards.name),
    ] {
        let out = said.ok();
        assert!(out.ends_with("all well\n"), "{out}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let parameters = format!(
        "host=127.0.0.1 port={port} user=alice password=hunter2 dbname={}",
        shards.name
    );
    runtime
        .block_on(tokio_postgres_slices(&parameters))
        .unwrap();
    shards.pgdog.stop();
}

async fn tokio_postgres_slices(parameters: &str) -> Result<(), tokio_postgres::Error> {
    let (mut client, connection) =
        tokio_postgres::connect(parameters, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let sql = "SELECT id::text FROM users ORDER BY id";
    let names = |rows: &[tokio_postgres::Row]| -> Vec<String> {
        rows.iter().map(|row| row.get(0)).collect()
    };
    let whole = names(&client.query(sql, &[]).await?);
    assert!(whole.len() > 50);
    let transaction = client.transaction().await?;
    let portal = transaction.bind(sql, &[]).await?;
    let mut found = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 7).await?;
        found.extend(names(&rows));
        if rows.len() < 7 {
            break;
        }
        let counted = transaction
            .query_one("SELECT count(*) FROM users", &[])
            .await?;
        assert!(counted.get::<_, i64>(0) > 50);
    }
    assert_eq!(found, whole);
    drop(portal);
    transaction.commit().await?;
    drop(client);
    connection.await.expect("no panic")
}

/// What a server has under the client's names, and what takes their place there.
#[test]
fn what_one_server_has_is_found_or_gone() {
    let (mut one, shards) = filled("portals_afar");
    let mut client = shards.client();
    let simple = |sql: &str| vec![query(sql)];
    let of_one = "SELECT n FROM generate_series(1, 9) n, users WHERE id = 5 ORDER BY n";
    let batches: Vec<Batch> = vec![
        // Declared by the extended protocol, when there is one server; then there are several.
        simple("BEGIN"),
        vec![
            parse("", &format!("DECLARE e CURSOR FOR {of_one}")),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ],
        simple("SELECT count(*) FROM users"),
        simple("FETCH 2 FROM e"),
        // What was made behind a savepoint goes with it, and its name is free.
        simple("SAVEPOINT s"),
        simple(&format!("DECLARE g CURSOR FOR {of_one}")),
        vec![opened("p", of_one), execute("p", 2), sync()],
        simple("ROLLBACK TO s"),
        simple(&format!("DECLARE g CURSOR FOR {BY_ID}")),
        simple("FETCH 2 FROM g"),
        vec![opened("p", BY_ID), execute("p", 2), sync()],
        vec![execute("p", 2), sync()],
        // Executed to its end it is still there.
        vec![opened("q", of_one), execute("q", 0), sync()],
        vec![execute("q", 0), sync()],
        vec![close(b'P', "q"), sync()],
        simple("ROLLBACK"),
    ];
    same(&mut one, &mut client, &batches);
    // The data of a COPY comes by way of who has bound it.
    client.query("BEGIN");
    let copy = "/* pgdog_sharding_key: 1 */ COPY users FROM STDIN";
    let bound = vec![parse("", copy), bind("c", "", &[]), sync()];
    assert_eq!(client.ask(&bound), "1 2 Z:T");
    client.query("SELECT count(*) FROM users");
    assert_eq!(client.ask(&[execute("c", 0), sync()]), "E:0A000 Z:E");
    client.query("ROLLBACK");
    // An unnamed portal of a server does not outlive what is run there since.
    client.query("BEGIN");
    let unnamed = vec![
        parse("u", of_one),
        bind("", "u", &[]),
        execute("", 2),
        sync(),
    ];
    assert_eq!(client.ask(&unnamed), "1 2 D:1 D:2 s Z:T");
    let other = vec![
        parse("o", BY_ID),
        bind("o", "o", &[]),
        execute("o", 1),
        sync(),
    ];
    assert!(client.ask(&other).ends_with("s Z:T"));
    let rest = client.ask(&[execute("", 0), sync()]);
    assert!(
        rest == "E:34000 Z:E" || rest == "D:3 D:4 D:5 D:6 D:7 D:8 D:9 C:SELECT_7 Z:T",
        "{rest}"
    );
    client.query("ROLLBACK");
    shards.pgdog.stop();
}

/// It has what other clients wait for.
#[test]
fn a_client_that_does_not_read_amid_a_batch_may_leave() {
    let (_, shards) = filled("portals_unread");
    let mut client = shards.client();
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    let changed = client.query("UPDATE users SET age = age");
    assert!(changed.ends_with("Z:T"), "{changed}");
    let columns: Vec<_> = (0..1000).map(|n| format!("{n} AS c{n}")).collect();
    let wide = format!("SELECT id, {} FROM users ORDER BY id", columns.join(", "));
    let asked = client.ask(&[opened("p", &wide), execute("p", 1), sync()]);
    assert!(asked.ends_with("s Z:T"), "{asked}");
    // 140 MB: more than sockets hold.
    client.send(&[describe(b'P', "p").repeat(6000), sync()].concat());
    poll(PATIENCE, "the first answer", || client.peek());
    let open = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL";
    let mut server = shards.shard(0);
    assert_eq!(server.value(open), "1");
    client.end_sending();
    poll(PATIENCE, "its end", || {
        (server.value(open) == "0").then_some(())
    });
    shards.pgdog.stop();
}

/// Others have parsed theirs on the same server, or on another one, since.
#[test]
fn the_unnamed_statement_is_the_one_that_was_parsed_last() {
    let (mut one, shards) = filled("unnamed_shards");
    let mut client = shards.client();
    let simple = |sql: &str| vec![query(sql)];
    let change = "UPDATE users SET age = 1 + id WHERE id = 1";
    let run = |name: &str, sql: &str| vec![parse(name, sql), bind("", name, &[]), execute("", 0)];
    let synced = |mut batch: Batch| {
        batch.push(sync());
        batch
    };
    let again = vec![bind("", "", &[]), execute("", 0), sync()];
    let name = "SELECT name FROM users WHERE id = 1";
    let mut batches: Vec<Batch> = vec![
        simple("BEGIN"),
        synced(run("", change)),
        synced(run("s", "SAVEPOINT a")),
        again.clone(),
        synced(run("l", "SET LOCAL lock_timeout = '1s'")),
        again.clone(),
        synced(run("c", "SELECT count(*) FROM users")),
        again.clone(),
        vec![
            parse("", name),
            flush(),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ],
        again,
        simple("ROLLBACK"),
        // One after the other on several servers.
        simple("BEGIN"),
    ];
    for text in ["'one', id", "'two', name", "'three', level"] {
        let sql = format!("SELECT {text} FROM users WHERE id = $1");
        batches.push(vec![parse("", &sql), sync()]);
        for id in ["1", "2", "3", "4", "5", "1"] {
            batches.push(vec![bind("", "", &[Some(id)]), execute("", 0), sync()]);
        }
    }
    batches.push(simple("ROLLBACK"));
    same(&mut one, &mut client, &batches);
    shards.pgdog.stop();
}

#[test]
fn a_cursor_of_one_server_is_found_among_several() {
    let (mut one, shards) = filled("cursors_among");
    let mut client = shards.client();
    let simple = |sql: &str| vec![query(sql)];
    let codes = "DECLARE c CURSOR FOR SELECT code FROM countries ORDER BY code";
    let user = "DECLARE c CURSOR FOR SELECT name FROM users WHERE id = 5";
    let all = format!("DECLARE c CURSOR FOR {BY_ID}");
    let run = |name: &str, sql: &str| [parse(name, sql), bind(name, name, &[]), execute(name, 0)];
    let described = vec![parse("f", "FETCH 2 FROM c"), describe(b'S', "f"), sync()];
    let fetched = vec![
        bind("", "f", &[]),
        describe(b'P', ""),
        execute("", 0),
        close(b'S', "f"),
        sync(),
    ];
    let batches: Vec<Batch> = vec![
        // Declared when there are several servers.
        simple("BEGIN"),
        simple("SELECT count(*) FROM users"),
        simple(codes),
        simple("FETCH 2 FROM c"),
        described.clone(),
        fetched.clone(),
        simple("CLOSE c"),
        simple("DECLARE c CURSOR FOR SELECT 7 FROM pg_database LIMIT 1"),
        simple("FETCH ALL FROM c"),
        simple("ROLLBACK"),
        // In the same text, or batch.
        simple(&format!(
            "BEGIN; {user}; SELECT count(*) FROM users; FETCH 2 FROM c; CLOSE c; COMMIT"
        )),
        simple("BEGIN; SELECT count(*) FROM users"),
        simple(&format!("{codes}; FETCH 2 FROM c; CLOSE c")),
        [run("d", codes), run("g", "FETCH 2 FROM c")]
            .concat()
            .into_iter()
            .chain([sync()])
            .collect(),
        simple("FETCH 1 FROM c"),
        simple("ROLLBACK"),
        // A name that is taken.
        simple("BEGIN"),
        simple(&all),
        described,
        fetched,
        simple(user),
        simple("ROLLBACK"),
        simple("BEGIN"),
        simple(user),
        simple("SELECT count(*) FROM users"),
        simple(codes),
        simple("ROLLBACK"),
    ];
    same(&mut one, &mut client, &batches);
    shards.pgdog.stop();
}
