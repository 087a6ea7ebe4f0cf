//! `currval()` and `lastval()` where servers are shared: a client is told its own numbers, or none (55000).

use super::across::{setting, Random};
use super::support::pgdog::{Config, Pgdog};
use super::support::postgres::{Postgres, ALICE, PASSWORD};
use super::support::wire::{bind, close, describe, execute, parse, query, sync, transcript, Wire};

const NOTHING: &str = "E:55000 Z:I";

/// Tables whose sequences begin far apart, and clients of a pool with this many servers.
fn started<const CLIENTS: usize>(servers: usize, general: &str) -> (Pgdog, [Wire; CLIENTS]) {
    let database = Postgres::shared().database("recall");
    let pgdog = Config::of(&database)
        .general(&format!("default_pool_size = {servers}\n{general}"))
        .start();
    let mut clients = std::array::from_fn(|_| pgdog.client(&database));
    clients[0].query(
        "CREATE SEQUENCE a_id; CREATE TABLE a (id int DEFAULT nextval('a_id'), up int); \
         CREATE SEQUENCE b_id START 1000; CREATE TABLE b (id int DEFAULT nextval('b_id'), up int)",
    );
    (pgdog, clients)
}

/// A row of a table, and its number, in a transaction of its own.
#[track_caller]
fn insert(client: &mut Wire, table: &str) -> String {
    client.value(&format!("INSERT INTO {table} DEFAULT VALUES RETURNING id"))
}

/// The ways to ask something.
#[derive(Clone, Copy, Debug)]
enum Way {
    Query,
    Batch,
    /// Parsed in a batch before.
    Prepared,
    /// Parsed in a batch before, without a name.
    Unnamed,
    /// Described in a batch before, too, and with a setting to be set in front of it.
    Set,
}

const WAYS: [Way; 5] = [
    Way::Query,
    Way::Batch,
    Way::Prepared,
    Way::Unnamed,
    Way::Set,
];

impl Way {
    /// The first value of an answer, or the error.
    fn ask(self, client: &mut Wire, sql: &str) -> String {
        let run = |name| [bind("", name, &[]), execute("", 0), sync()].concat();
        let message = match self {
            Self::Query => query(sql),
            Self::Batch => [parse("", sql), run("")].concat(),
            Self::Prepared | Self::Set => {
                let prepared = client.ask(&[parse(sql, sql), describe(b'S', sql), sync()]);
                assert!(
                    prepared.starts_with("1 t T") || prepared.starts_with("E:42P05"),
                    "{sql}: {prepared}"
                );
                run(sql)
            }
            Self::Unnamed => {
                assert_eq!(client.ask(&[parse("", sql), sync()]), "1 Z:I", "{sql}");
                run("")
            }
        };
        if let Self::Set = self {
            client.query(&format!("SET application_name = '{client:p}'"));
        }
        client.send(&message);
        let messages = client.read_until(b'Z');
        let row = messages.iter().find(|message| message.tag == b'D');
        let value = row.and_then(|row| row.values().into_iter().next().flatten());
        // Rows are described, or portals bound, before it turns out that there are none.
        let error = || {
            transcript(&messages)
                .trim_start_matches(['1', '2', 'T', ' '])
                .to_owned()
        };
        value.unwrap_or_else(error)
    }
}

/// The first value of an answer to a Query, or the error.
fn ask(client: &mut Wire, sql: &str) -> String {
    Way::Query.ask(client, sql)
}

#[test]
fn a_client_that_is_alone_is_told_its_numbers() {
    for way in WAYS {
        let (pgdog, [mut client]) = started(1, "");
        for sql in ["SELECT lastval()", "SELECT currval('a_id')"] {
            assert_eq!(way.ask(&mut client, sql), NOTHING, "{way:?}");
            let number = insert(&mut client, "a");
            assert_eq!(way.ask(&mut client, sql), number, "{way:?}: {sql}");
            client.query("DISCARD SEQUENCES");
        }
        pgdog.stop();
    }
}

#[test]
fn numbers_of_others_are_told_nobody() {
    for way in WAYS {
        let (pgdog, [mut client, mut other]) = started(1, "workers = 1");
        let current = |table| format!("SELECT currval('{table}_id')");
        insert(&mut client, "a");
        for _ in 0..3 {
            insert(&mut other, "a");
            for sql in ["SELECT lastval()", &current("a"), &current("b")] {
                assert_eq!(way.ask(&mut client, sql), NOTHING, "{way:?}: {sql}");
            }
        }
        // It is known by now that they ask.
        for _ in 0..3 {
            for client in [&mut client, &mut other] {
                let number = insert(client, "a");
                assert_eq!(way.ask(client, &current("a")), number, "{way:?}");
                assert_eq!(way.ask(client, "SELECT lastval()"), number, "{way:?}");
                // The other has counted there, or it itself before the other came.
                assert_eq!(way.ask(client, &current("b")), NOTHING, "{way:?}");
                let number = insert(client, "b");
                assert_eq!(way.ask(client, "SELECT lastval()"), number, "{way:?}");
            }
        }
        pgdog.stop();
    }
}

#[test]
fn numbers_within_a_longer_statement_are_ones_own() {
    let (pgdog, [mut client, mut other]) = started(1, "workers = 1");
    insert(&mut other, "a");
    let into_b = "INSERT INTO b VALUES (currval('a_id')) RETURNING id";
    assert_eq!(client.query(into_b), NOTHING);
    insert(&mut other, "a");
    let number = insert(&mut client, "a");
    assert_eq!(client.value(into_b), number);
    insert(&mut other, "a");
    assert_eq!(client.query(into_b), NOTHING);
    // What it counts itself it knows, wherever it comes to.
    insert(&mut other, "a");
    let tree = "INSERT INTO a VALUES (DEFAULT, currval('a_id')) RETURNING id = up";
    assert_eq!(client.value(tree), "t");
    insert(&mut other, "a");
    let number = client.value("INSERT INTO a VALUES (DEFAULT); SELECT currval('a_id')");
    assert_eq!(client.value("SELECT max(id) FROM a"), number);
    pgdog.stop();
}

#[test]
fn a_transaction_knows_what_it_has_counted() {
    let (pgdog, [mut client, mut other]) = started(1, "workers = 1");
    for _ in 0..2 {
        insert(&mut other, "a");
        client.query("BEGIN");
        let number = insert(&mut client, "a");
        assert_eq!(client.value("SELECT currval('a_id')"), number);
        client.query("COMMIT");
        insert(&mut other, "a");
        // All at once: what comes later waits to see where it is.
        let all = ["BEGIN", "INSERT INTO a DEFAULT VALUES", "SELECT lastval()"];
        client.send(&all.map(query).concat());
        let answers: Vec<_> = all.iter().map(|_| client.read_until(b'Z')).collect();
        let row = answers[2].iter().find(|message| message.tag == b'D');
        let number = row.unwrap().values().remove(0).unwrap();
        assert_eq!(client.value("SELECT max(id) FROM a"), number);
        client.query("COMMIT");
        insert(&mut other, "a");
        let batch = ["INSERT INTO a DEFAULT VALUES", "SELECT lastval()"];
        let batch = batch.map(|sql| [parse("", sql), bind("", "", &[]), execute("", 0)].concat());
        client.send(&[&batch.concat(), &sync()[..]].concat());
        let answer = client.read_until(b'Z');
        let row = answer.iter().find(|message| message.tag == b'D');
        let number = row.unwrap().values().remove(0).unwrap();
        assert_eq!(client.value("SELECT max(id) FROM a"), number);
        // Now it is known that such things are asked outside of one.
        assert_eq!(client.value("SELECT 1"), "1");
        ask(&mut client, "SELECT lastval()");
    }
    pgdog.stop();
}

#[test]
fn requests_that_follow_each_other_at_once_are_told_no_others_numbers() {
    let (pgdog, [mut client, mut other]) = started(1, "workers = 1");
    for _ in 0..3 {
        insert(&mut other, "b");
        let all = ["INSERT INTO a DEFAULT VALUES", "SELECT currval('b_id')"];
        client.send(&all.map(query).concat());
        assert_eq!(transcript(&client.read_until(b'Z')), "C:INSERT_0_1 Z:I");
        let answer = transcript(&client.read_until(b'Z'));
        assert!(answer.ends_with(NOTHING), "{answer}");
        insert(&mut other, "b");
        let all = all.map(|sql| {
            let run = [parse(sql, sql), bind("", sql, &[]), execute("", 0), sync()];
            run.concat()
        });
        client.send(&all.concat());
        client.read_until(b'Z');
        let answer = transcript(&client.read_until(b'Z'));
        assert!(answer.ends_with(NOTHING), "{answer}");
        client.query("DEALLOCATE ALL");
    }
    pgdog.stop();
}

/// What may come in front of a question, in the same batch.
fn fronts() -> [Vec<u8>; 7] {
    [
        close(b'S', "mine"),
        close(b'S', "nobodys"),
        close(b'P', ""),
        describe(b'S', "mine"),
        parse("another", "SELECT 1"),
        parse("", "SELECT 2"),
        [parse("", "SELECT 2"), bind("p", "", &[])].concat(),
    ]
}

const ASKING: &str = "SELECT lastval()";

/// The batch that asks, without its Sync.
fn asking(name: &str) -> Vec<u8> {
    let asking = [parse(name, ASKING), bind("", name, &[]), execute("", 0)];
    asking.concat()
}

#[test]
fn whatever_is_in_front_of_the_question_numbers_of_others_are_told_nobody() {
    let manners = [
        ("extended", ""),
        ("extended", "x"),
        ("extended_anonymous", ""),
        ("disabled", ""),
    ];
    for (manner, name) in manners {
        let general = format!("workers = 1\nprepared_statements = {manner:?}");
        for (at, front) in fronts().iter().enumerate() {
            let (pgdog, [mut client, mut other]) = started(1, &general);
            client.ask(&[parse("mine", "SELECT 1"), sync()]);
            insert(&mut other, "a");
            client.send(&[front, &asking(name)[..], &sync()].concat());
            let answer = transcript(&client.read_until(b'Z'));
            assert!(answer.ends_with(NOTHING), "{manner} {at}: {answer}");
            let number = insert(&mut client, "a");
            assert_eq!(client.value(ASKING), number, "{manner} {at}");
            pgdog.stop();
        }
    }
}

/// Two clients on one server, whose settings travel with their requests: from the second time on they do.
fn started_with_settings() -> (Pgdog, [Wire; 2]) {
    let (pgdog, mut clients) = started(1, "workers = 1");
    for (client, name) in clients.iter_mut().zip(["one", "two"]) {
        client.query(&format!("SET application_name = '{name}'"));
    }
    for _ in 0..3 {
        for client in &mut clients {
            insert(client, "a");
        }
    }
    (pgdog, clients)
}

#[test]
fn settings_go_ahead_of_what_is_in_front_of_the_question() {
    let (pgdog, mut clients) = started_with_settings();
    let [client, _] = &mut clients;
    let front = parse("another", "SELECT 1");
    client.send(&[&front, &asking("")[..], &sync()].concat());
    let answer = transcript(&client.read_until(b'Z'));
    assert!(answer.ends_with(NOTHING), "{answer}");
    pgdog.stop();
}

#[test]
fn a_batch_that_fails_in_front_of_the_question_leaves_it_open() {
    let (pgdog, [mut client, mut other]) = started(1, "workers = 1");
    insert(&mut other, "a");
    client.send(&[&describe(b'S', "nobodys"), &asking("")[..], &sync()].concat());
    assert_eq!(transcript(&client.read_until(b'Z')), "E:26000 Z:I");
    assert_eq!(ask(&mut client, ASKING), NOTHING);
    pgdog.stop();
}

#[test]
fn an_unnamed_statement_that_was_parsed_before_asks_for_no_others_numbers() {
    let ways = [
        vec![bind("", "", &[])],
        vec![describe(b'S', ""), bind("", "", &[])],
        vec![parse("another", "SELECT 1"), bind("", "", &[])],
    ];
    for (way, bound) in ways.iter().enumerate() {
        for behind in [false, true] {
            let (pgdog, [mut client, mut other]) = started(1, "workers = 1");
            client.ask(&[parse("one", "SELECT 1"), sync()]);
            // In a transaction: nobody knows yet that such things are asked outside of one.
            client.query("BEGIN");
            client.ask(&[parse("", ASKING), sync()]);
            // A Query would drop it.
            client.ask(&[
                parse("end", "COMMIT"),
                bind("", "end", &[]),
                execute("", 0),
                sync(),
            ]);
            insert(&mut other, "a");
            let one = [bind("", "one", &[]), execute("", 0), sync()].concat();
            let question = [bound.concat(), execute("", 0), sync()].concat();
            if behind {
                client.send(&[one, question].concat());
                client.read_until(b'Z');
            } else {
                client.send(&question);
            }
            let answer = transcript(&client.read_until(b'Z'));
            assert!(answer.ends_with(NOTHING), "{way} {behind}: {answer}");
            pgdog.stop();
        }
    }
}

#[test]
fn a_client_that_asks_gets_the_server_that_it_had() {
    let (pgdog, [mut client, mut other, mut third]) = started(2, "workers = 1");
    insert(&mut client, "a");
    insert(&mut other, "a");
    assert_eq!(ask(&mut client, "SELECT lastval()"), NOTHING);
    for _ in 0..5 {
        other.query("BEGIN; SELECT 1");
        let number = insert(&mut client, "a");
        // Its server is now the one that would be taken next.
        other.query("COMMIT");
        assert_eq!(client.value("SELECT lastval()"), number);
        other.query("BEGIN; SELECT 1");
        third.query("BEGIN; SELECT 1");
        other.query("COMMIT");
        third.query("COMMIT");
        assert_eq!(ask(&mut client, "SELECT lastval()"), NOTHING);
    }
    pgdog.stop();
}

#[test]
fn settings_in_front_of_the_question_are_made() {
    for way in [Way::Query, Way::Batch] {
        let (pgdog, mut clients) = started_with_settings();
        let [client, other] = &mut clients;
        assert_eq!(way.ask(client, "SELECT lastval()"), NOTHING, "{way:?}");
        insert(other, "a");
        let number = insert(client, "a");
        assert_eq!(way.ask(client, "SELECT lastval()"), number, "{way:?}");
        for (client, name) in clients.iter_mut().zip(["one", "two"]) {
            assert_eq!(client.value("SHOW application_name"), name);
        }
        pgdog.stop();
    }
}

#[test]
fn the_error_says_what_helps() {
    let (pgdog, [mut client]) = started(1, "");
    client.send(&query("SELECT lastval()"));
    let answer = client.read_until(b'Z');
    let error = answer.iter().find(|message| message.tag == b'E').unwrap();
    let fields = String::from_utf8_lossy(&error.body);
    assert!(
        fields.contains("\0Mlastval is not yet defined in this session\0"),
        "{fields}"
    );
    assert!(fields.contains("\0Hask in the transaction"), "{fields}");
    pgdog.stop();
}

#[test]
fn prepared_by_sql_it_is_the_same() {
    let general = "workers = 1\nprepared_statements = \"full\"";
    let (pgdog, [mut client, mut other]) = started(1, general);
    client.query("PREPARE last AS SELECT lastval()");
    for _ in 0..2 {
        insert(&mut client, "a");
        insert(&mut other, "a");
        assert_eq!(ask(&mut client, "EXECUTE last"), NOTHING);
    }
    let number = insert(&mut client, "a");
    assert_eq!(client.value("EXECUTE last"), number);
    pgdog.stop();
    // Right behind another request.
    for execute in ["EXECUTE last", "SELECT 1; EXECUTE last"] {
        let (pgdog, [mut client, mut other]) = started(1, general);
        client.query("PREPARE last AS SELECT currval('b_id')");
        insert(&mut other, "b");
        client.send(
            &["INSERT INTO a DEFAULT VALUES", execute]
                .map(query)
                .concat(),
        );
        assert_eq!(transcript(&client.read_until(b'Z')), "C:INSERT_0_1 Z:I");
        let answer = transcript(&client.read_until(b'Z'));
        assert!(answer.ends_with(NOTHING), "{execute}: {answer}");
        pgdog.stop();
    }
}

#[test]
fn a_client_that_keeps_its_server_keeps_its_numbers() {
    let (pgdog, [mut client, mut other]) = started(2, "workers = 1");
    insert(&mut other, "a");
    client.query("CREATE TEMP TABLE mine ()");
    let number = insert(&mut client, "a");
    insert(&mut other, "a");
    for sql in ["SELECT lastval()", "SELECT currval('a_id')"] {
        assert_eq!(client.value(sql), number);
    }
    pgdog.stop();
    let (pgdog, [mut client, mut other]) = started(2, "pooler_mode = \"session\"");
    for _ in 0..2 {
        let number = insert(&mut client, "a");
        insert(&mut other, "a");
        assert_eq!(client.value("SELECT lastval()"), number);
    }
    pgdog.stop();
}

#[test]
fn a_client_that_keeps_its_server_is_told_nothing_of_those_before_it() {
    let ties = [
        ("CREATE TEMP TABLE mine ()", "DROP TABLE mine"),
        ("LISTEN mine", "UNLISTEN mine"),
        ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)"),
        ("PREPARE mine AS SELECT 1", "DEALLOCATE mine"),
    ];
    for way in WAYS {
        for (begins, ends) in ties {
            let (pgdog, [mut client, mut other]) = started(1, "workers = 1");
            insert(&mut client, "a");
            insert(&mut other, "a");
            client.query(begins);
            for sql in [ASKING, "SELECT currval('a_id')"] {
                assert_eq!(way.ask(&mut client, sql), NOTHING, "{way:?}: {begins}");
            }
            let number = insert(&mut client, "a");
            assert_eq!(way.ask(&mut client, ASKING), number, "{way:?}: {begins}");
            client.query("SELECT 1");
            assert_eq!(way.ask(&mut client, ASKING), number, "{way:?}: {begins}");
            client.query(ends);
            // It is known by now that such things are asked.
            insert(&mut other, "a");
            let number = insert(&mut client, "a");
            assert_eq!(way.ask(&mut client, ASKING), number, "{way:?}: {begins}");
            pgdog.stop();
        }
    }
}

#[test]
fn on_a_primary_with_replicas_it_is_the_same() {
    let postgres = Postgres::shared();
    let (primary, replica) = (postgres.database("recall_p"), postgres.database("recall_r"));
    for strategy in ["conservative", "aggressive"] {
        let of =
            |database: &str, role: &str| format!("database_name = {database:?}\nrole = {role:?}");
        let general =
            format!("workers = 1\ndefault_pool_size = 1\nread_write_strategy = {strategy:?}");
        let pgdog = Config::empty()
            .general(&general)
            .database("recall_pair", &of(&primary, "primary"))
            .database("recall_pair", &of(&replica, "replica"))
            .user(ALICE, "recall_pair", &format!("password = {PASSWORD:?}"))
            .start();
        let [mut client, mut other] = [(); 2].map(|()| pgdog.client("recall_pair"));
        client.query("CREATE SEQUENCE IF NOT EXISTS s");
        client.value("SELECT nextval('s')");
        for _ in 0..2 {
            other.value("SELECT nextval('s')");
            assert_eq!(ask(&mut client, "SELECT lastval()"), NOTHING, "{strategy}");
        }
        let number = client.value("SELECT nextval('s')");
        assert_eq!(client.value("SELECT current_database()"), replica);
        assert_eq!(client.value("SELECT lastval()"), number, "{strategy}");
        pgdog.stop();
    }
}

#[test]
fn a_transaction_that_reads_first_counts_where_it_is() {
    let postgres = Postgres::shared();
    let (primary, replica) = (postgres.database("recall_p"), postgres.database("recall_r"));
    let of = |database: &str, role: &str| format!("database_name = {database:?}\nrole = {role:?}");
    let general = "workers = 1\ndefault_pool_size = 2\nread_write_strategy = \"aggressive\"";
    let pgdog = Config::empty()
        .general(general)
        .database("recall_pair", &of(&primary, "primary"))
        .database("recall_pair", &of(&replica, "replica"))
        .user(ALICE, "recall_pair", &format!("password = {PASSWORD:?}"))
        .start();
    let [mut client, mut other] = [(); 2].map(|()| pgdog.client("recall_pair"));
    client.query("CREATE SEQUENCE IF NOT EXISTS s");
    other.query("BEGIN");
    other.value("SELECT nextval('s')");
    ask(&mut client, ASKING);
    let first = client.value("SELECT nextval('s')");
    assert_eq!(client.value(ASKING), first);
    // The other's server is now the one that would be taken next.
    other.query("COMMIT");
    loop {
        client.query("BEGIN");
        if client.value("SELECT current_database()") == primary {
            break;
        }
        client.query("ROLLBACK");
    }
    let last = client.value("SELECT nextval('s')");
    client.query("COMMIT");
    let told = ask(&mut client, ASKING);
    assert!(
        told == last || told == NOTHING,
        "{told} after {first} and {last}"
    );
    pgdog.stop();
}

/// What a client has counted, as PostgreSQL would know of a session.
#[derive(Default)]
struct Known {
    a: Option<String>,
    b: Option<String>,
    last: Option<String>,
}

#[test]
fn whatever_clients_do_none_is_told_anothers_number() {
    let (pgdog, mut clients) = started::<4>(3, "workers = 2");
    let mut known = [(); 4].map(|()| Known::default());
    let mut random = Random(setting("PGDOG_TEST_SEED", 1));
    let (mut told, mut asked) = (0, 0);
    for _ in 0..600 {
        let who = random.below(4);
        let (client, known) = (&mut clients[who], &mut known[who]);
        for _ in 0..=random.below(3) {
            match random.below(6) {
                0 | 1 => {
                    known.a = Some(insert(client, "a"));
                    known.last.clone_from(&known.a);
                }
                2 => {
                    client.query("BEGIN");
                    known.b = Some(insert(client, "b"));
                    known.last.clone_from(&known.b);
                    client.query("COMMIT");
                }
                3 => {
                    client.query("SELECT 1");
                }
                _ => {
                    let (sql, right) = match random.below(3) {
                        0 => ("SELECT currval('a_id')", &known.a),
                        1 => ("SELECT currval('b_id')", &known.b),
                        _ => ("SELECT lastval()", &known.last),
                    };
                    let way = WAYS[random.below(WAYS.len())];
                    let answer = way.ask(client, sql);
                    asked += 1;
                    if answer != NOTHING {
                        assert_eq!(Some(&answer), right.as_ref(), "{way:?}: {sql}");
                        told += 1;
                    }
                }
            }
        }
    }
    assert!(told * 4 > asked, "{told} of {asked} were told");
    pgdog.stop();
}
