//! Random queries over one PostgreSQL holding all rows, and over three that share them: planned, run on each, merged.
//! What is not refused must be the same: names, types, values, order, tag.
//!
//! `PGDOG_TEST_QUERIES` sets how many, `PGDOG_TEST_SEED` which. A failure prints its query.

#[path = "across/collations.rs"]
mod collations;
#[path = "across/copies.rs"]
mod copies;
#[path = "across/cores.rs"]
mod cores;
#[path = "across/enums.rs"]
mod enums;
#[path = "across/memory.rs"]
mod memory;
#[path = "across/overloads.rs"]
mod overloads;
#[path = "across/parts.rs"]
mod parts;
#[path = "across/portals.rs"]
mod portals;
#[path = "across/queries.rs"]
mod queries;

use std::collections::BTreeMap;
use std::sync::Arc;

use pgdog::error::Error;
use pgdog::merge::gather::{with_rows, Gathered, Terms};
use pgdog::merge::parts::{Given, Share};
use pgdog::merge::{Description, Limits, Merge, Progress, Promised};
use pgdog::protocol::rows::DataRow;
use pgdog::sql::across::{gathered_name, plan_text, Across, Asked, Catalogue, Of, Placed};
use pgdog::sql::lexer::Dialect;
use pgdog::types::canonical::{self, ServerTypes, TYPES_QUERY};
use pgdog::types::enums::Enums;
use pgdog::types::{Session, COLLATIONS_QUERY};

use super::shards::Shards;
use super::support::wire::{
    describe, execute, parse, query, sync, tagged, transcript, Message, Wire,
};
use super::support::Postgres;
use queries::random_query;
pub(super) use queries::Random;

const TABLES: &str = "
CREATE TYPE mood AS ENUM ('sad', 'merry', 'calm', 'x,\"');
CREATE TABLE users (id int8 PRIMARY KEY, name text, age int4, balance numeric(10, 3), amount numeric, score float8, ratio float4, created timestamptz,
    born date, active bool, country text, level int2, token uuid, pause interval, data bytea, mood mood, tags jsonb);
CREATE TABLE orders (id int4, user_id int8, total numeric(10, 2), quantity int2, note varchar(20), placed timestamp, state char(4));
CREATE TABLE countries (code text, title text, big bool);
";

const ROWS: &str = "
SELECT setseed(.1);
INSERT INTO users SELECT n, CASE WHEN n % 7 > 0 THEN chr(97 + n % 5) || n % 3 END, nullif(n * 7 % 20, 3), (n * 37 % 1000)::numeric / 7, round((n * 37 % 1000)::numeric / 7, n % 4),
    CASE WHEN n % 23 = 0 THEN 'NaN' ELSE (n * 13 % 41 - 20) / 8.0 END, (n % 9) / 4.0, '2024-01-01'::timestamptz + n % 30 * '5 h'::interval, '1999-12-25'::date + n % 12, nullif(n % 3, 2)::bool,
    (ARRAY['de', 'fr', 'it', 'xx'])[1 + n % 4], n % 5, md5((n % 11)::text)::uuid, (n % 4) * '29 days 20 h'::interval, decode(md5((n % 6)::text), 'hex'),
    (ARRAY['sad', 'merry', 'calm', 'x,\"', NULL]::mood[])[1 + n % 5], jsonb_build_object('n', n % 4, 'of', ARRAY[n % 2 = 0])
    FROM generate_series(1, 90) n;
INSERT INTO orders SELECT n, 1 + (n * n + n / 3) % 97, (n * 31 % 500) / 4.0, nullif(n % 6, 4), CASE WHEN n % 5 > 0 THEN 'n' || n % 8 END, '2024-02-01'::timestamp + n % 17 * '7 h'::interval, 's' || n % 3
    FROM generate_series(1, 220) n;
INSERT INTO countries VALUES ('de', 'Germany', true), ('fr', 'France', true), ('it', 'Italy', false);
";

struct Tables;

impl Catalogue for Tables {
    fn table(&self, _schema: Option<&str>, table: &str) -> Placed {
        let key = match table {
            "users" => "id",
            "orders" => "user_id",
            _ => return Placed::Everywhere,
        };
        Placed::Sharded {
            key: key.to_owned(),
            family: 0,
        }
    }

    fn has_column(&self, _column: &str) -> Option<bool> {
        None
    }

    fn is_immutable(&self, _schema: Option<&str>, _function: &str) -> bool {
        false
    }
}

/// What a client of the simple protocol gets, or of the extended one with binary results.
fn ask(server: &mut Wire, sql: &str, binary: bool) -> Vec<Message> {
    if binary {
        let bind = tagged(b'B', &[0, 0, 0, 0, 0, 0, 0, 1, 0, 1]);
        server.send(
            &[
                parse("", sql),
                bind,
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]
            .concat(),
        );
    } else {
        server.send(&query(sql));
    }
    let mut messages = server.read_until(b'Z');
    messages.retain(|message| message.tag != b'Z');
    messages
}

/// Leaves 12 digits of float8: the last depend on the order of rows, which PostgreSQL leaves open, too.
fn round_floats(messages: &mut [Message], binary: bool) {
    let Some(types) = messages.iter().find(|message| message.tag == b'T') else {
        return;
    };
    let floats: Vec<bool> = (types.columns().iter())
        .map(|(_, oid)| *oid == 701)
        .collect();
    if !floats.contains(&true) {
        return;
    }
    for message in messages.iter_mut().filter(|message| message.tag == b'D') {
        let values = DataRow::parse(&message.body).unwrap();
        let values = values.values().map(Result::unwrap).zip(&floats);
        let rounded = values.map(|(value, float)| match value {
            Some(value) if *float => {
                let number: f64 = match binary {
                    true => f64::from_be_bytes(value.try_into().unwrap()),
                    false => String::from_utf8_lossy(value).parse().unwrap(),
                };
                Some(format!("{number:.11e}").into_bytes())
            }
            value => value.map(<[u8]>::to_vec),
        });
        let rounded: Vec<_> = rounded.collect();
        let mut row = Vec::new();
        DataRow::encode(&mut row, rounded.iter().map(Option::as_deref));
        message.body = row.split_off(5);
    }
}

/// Type modifiers of a RowDescription.
fn modifiers(message: &Message) -> Vec<&[u8]> {
    let mut rest = &message.body[2..];
    let mut modifiers = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let fixed = &rest[end + 1..];
        modifiers.push(&fixed[12..16]);
        rest = &fixed[18..];
    }
    modifiers
}

/// A shard, and what it calls its enums.
struct Server {
    wire: Wire,
    enums: Arc<Enums>,
}

/// What the proxy does with a plan.
fn answer(
    sql: &str,
    across: &Across,
    shards: &mut [Server],
    binary: bool,
    turns: &mut Random,
) -> Vec<Message> {
    if across.gathered.is_empty() {
        let asked = &across.asked;
        return merged(asked, &asked.text, None, shards, binary, turns);
    }
    let statement = [parse("", sql), describe(b'S', ""), sync()].concat();
    shards[0].wire.send(&statement);
    let mut told = shards[0].wire.read_until(b'Z');
    told.retain(|message| matches!(message.tag, b'E' | b'T'));
    let promised = match told.pop() {
        Some(error) if error.tag == b'E' => return vec![error],
        rows => rows.expect("a description"),
    };
    let promised = Promised {
        rows: tagged(b'T', &promised.body).into(),
        enums: Arc::clone(&shards[0].enums),
    };
    let mut gathered = Vec::new();
    let mut answered = Vec::new();
    for asked in across.gathered.iter().chain([&across.asked]) {
        let last = gathered.len() == across.gathered.len();
        let text = with_rows(&asked.text, &gathered, gathered_name);
        let text = String::from_utf8(text).unwrap();
        let shards = match asked.of {
            Of::EveryShard => &mut *shards,
            Of::AnyShard => {
                let shard = turns.below(shards.len());
                &mut shards[shard..=shard]
            }
        };
        let promised = last.then(|| promised.clone());
        let described_by = Arc::clone(&shards[0].enums);
        answered = merged(asked, &text, promised, shards, binary && last, turns);
        if let Some(error) = answered.iter_mut().find(|message| message.tag == b'E') {
            // As the proxy does: the server has taken the statement as the client has it.
            if error.field(b'C').starts_with("42") {
                error.body = b"C0A000\0Mparts depend on each other\0\0".to_vec();
            }
            break;
        }
        let terms = Terms {
            known: pgdog::types::Known::Yes,
            bytes_max: 1 << 20,
            iso_dates: true,
            floats_exact: true,
            plain_collations: true,
            overlapping: false,
        };
        let mut rows = Gathered::new(terms, described_by);
        for message in answered.iter().filter(|_| !last) {
            if let Err(error) = rows.take(&tagged(message.tag, &message.body)) {
                let body = format!("C{}\0M{}\0\0", error.code.as_str(), error.message);
                return vec![Message {
                    tag: b'E',
                    body: body.into_bytes(),
                }];
            }
        }
        gathered.push(rows);
    }
    answered
}

/// Lets another core's part of the groups do what there is to do.
fn work(merge: &mut Merge, part: usize, share: &mut Share) -> Result<(), Error> {
    if let Some(rows) = merge.collected(part) {
        share.take(&rows)?;
    }
    if merge.is_collected(part) && merge.wants(part, 0) {
        if let Given::Groups { batch, last } = share.give()? {
            merge.returned(part, batch, last);
        }
    }
    Ok(())
}

/// Asks the shards, and merges what they say.
fn merged(
    asked: &Asked,
    text: &str,
    promised: Option<Promised>,
    shards: &mut [Server],
    binary: bool,
    turns: &mut Random,
) -> Vec<Message> {
    let plan = Arc::new(asked.plan.clone());
    let slice = plan.limit.with_parameters(|_| None).unwrap();
    let limits = Limits {
        window_bytes: 1 << 20,
        budget_bytes: 64 << 20,
    };
    let mut merge = Merge::new(
        plan,
        slice,
        shards.len(),
        SESSION,
        Description::Forwarded,
        limits,
    )
    .enums(
        shards
            .iter()
            .map(|shard| Arc::clone(&shard.enums))
            .collect(),
    );
    if let Some(promised) = promised {
        merge = merge.promised(promised);
    }
    let mut legs: Vec<_> = shards
        .iter_mut()
        .map(|shard| ask(&mut shard.wire, text, binary).into_iter())
        .collect();
    let mut out = Vec::new();
    let mut left: Vec<usize> = (0..legs.len()).collect();
    let mut shares = Vec::new();
    while !left.is_empty() {
        // Other cores have a part of the groups, from some time on.
        if shares.is_empty() && turns.below(16) == 0 {
            shares = merge.divide(1 + turns.below(3));
        }
        let at = turns.below(left.len());
        match legs[left[at]].next() {
            Some(message) => merge.feed(left[at], &tagged(message.tag, &message.body), &mut out),
            None => {
                left.swap_remove(at);
            }
        }
        merge.pump(usize::MAX, &mut out);
    }
    while merge.pump(usize::MAX, &mut out) != Progress::Done {
        assert!(!shares.is_empty(), "it waits for nothing else");
        for (part, share) in shares.iter_mut().enumerate() {
            if let Err(error) = work(&mut merge, part, share) {
                merge.fail(&error, &mut out);
            }
        }
    }
    let mut messages = Vec::new();
    let mut rest = out.as_slice();
    while let Some(([tag, length @ ..], _)) = rest.split_first_chunk::<5>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
        messages.push(Message {
            tag: *tag,
            body: rest[5..=length].to_vec(),
        });
        rest = &rest[length + 1..];
    }
    messages
}

/// Without the numbers of tables and their columns, which each server has for itself.
fn comparable(
    mut messages: Vec<Message>,
    binary: bool,
    ordered: bool,
    limited: bool,
) -> Vec<String> {
    round_floats(&mut messages, binary);
    if let Some(error) = messages.iter().find(|message| message.tag == b'E') {
        return vec![format!("error {}", error.field(b'C'))];
    }
    if !ordered {
        if limited {
            messages.retain(|message| message.tag != b'D');
        }
        messages.sort_by(|a, b| (a.tag, &a.body).cmp(&(b.tag, &b.body)));
    }
    let show = |message: &Message| match message.tag {
        b'T' => {
            // Each database numbers the types of its users.
            let columns = message.columns().into_iter();
            let columns: Vec<_> = columns.map(|(name, oid)| (name, oid.min(16_384))).collect();
            format!("T {columns:?} {:?}", modifiers(message))
        }
        tag => format!("{} {}", char::from(tag), message.body.escape_ascii()),
    };
    messages.iter().map(show).collect()
}

fn with_enums(mut wires: Vec<Wire>) -> Vec<Server> {
    let types: Vec<_> = (wires.iter_mut())
        .map(|wire| {
            let mut types = ServerTypes::default();
            for message in ask(wire, TYPES_QUERY, false) {
                if message.tag == b'D' {
                    let row = DataRow::parse(&message.body).unwrap();
                    types.add(&row.values().map(Result::unwrap).collect::<Vec<_>>());
                }
            }
            types
        })
        .collect();
    let known = canonical::enums(&types, false).into_iter().map(Arc::new);
    let servers = wires.into_iter().zip(known);
    servers
        .map(|(wire, enums)| Server { wire, enums })
        .collect()
}

const SESSION: Session = Session {
    known: pgdog::types::Known::Yes,
    text_ordered_by_bytes: true,
    text_equal_by_bytes: true,
    floats_exact: true,
};

pub(super) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn random_queries_over_shards_are_answered_as_by_one_server_or_refused() {
    let postgres = Postgres::shared();
    let mut one = postgres.admin(&postgres.database("across_one"));
    one.query(TABLES);
    one.query(ROWS);
    let wires: Vec<Wire> = (0..3)
        .map(|shard| {
            let mut wire = postgres.admin(&postgres.database(&format!("across_{shard}")));
            if shard == 1 {
                wire.query("CREATE TYPE another AS ENUM ('merry', 'sad')");
            }
            wire.query(TABLES);
            wire.query(ROWS);
            wire.query(&format!("DELETE FROM users WHERE id % 3 <> {shard}; DELETE FROM orders WHERE user_id % 3 <> {shard}"));
            wire
        })
        .collect();
    let mut shards = with_enums(wires);
    let facts = one.rows(COLLATIONS_QUERY);
    assert_eq!(
        facts,
        [["t", "t", "t"]],
        "the tests' cluster has the collation C.UTF-8"
    );
    let seed = setting("PGDOG_TEST_SEED", 1);
    let mut random = Random(seed);
    let mut refused = BTreeMap::<String, (usize, String)>::new();
    let mut refuse = |construct: String, sql: &str| {
        let entry = refused.entry(construct);
        entry.or_insert_with(|| (0, sql.to_owned())).0 += 1;
    };
    let (mut answered, mut failed, mut gathered) = (0, 0, 0);
    for number in 0..setting("PGDOG_TEST_QUERIES", 3_000) {
        let (sql, ordered) = random_query(&mut random);
        let binary = random.one_in(3);
        let limited = sql.contains(" LIMIT ") || sql.contains(" OFFSET ");
        let expected = comparable(ask(&mut one, &sql, binary), binary, ordered, limited);
        let planned = match plan_text(sql.as_bytes(), Dialect::default(), &Tables) {
            Ok(planned) => planned.expect("a SELECT"),
            Err(error) => {
                refuse(error.message.to_string(), &sql);
                continue;
            }
        };
        let messages = answer(&sql, &planned, &mut shards, binary, &mut random);
        gathered += usize::from(!planned.gathered.is_empty());
        if let Some(error) = messages
            .iter()
            .find(|message| message.tag == b'E' && message.field(b'C') == "0A000")
        {
            let early = messages.iter().all(|message| message.tag != b'D');
            assert!(
                early,
                "seed {seed}, query {number}: rows before a refusal: {sql}"
            );
            refuse(error.field(b'M'), &sql);
            continue;
        }
        let shown = transcript(&messages);
        let found = comparable(messages, binary, ordered, limited);
        // Which groups PostgreSQL computes before it cuts them off is up to its plan.
        let fails = |words: &[String]| words[0].starts_with("error 22");
        if limited && fails(&found) != fails(&expected) {
            continue;
        }
        assert_eq!(
            found, expected,
            "seed {seed}, query {number}, binary {binary}:\n{sql}\n{}\n{:?}\n{shown}",
            planned.asked.text, planned.gathered
        );
        answered += 1;
        failed += usize::from(found[0].starts_with("error"));
    }
    println!("{answered} answered, {failed} of them with the same error, {gathered} were asked in parts; refused:");
    for (construct, (count, example)) in &refused {
        println!("{count:6} {construct}, as in {example}");
    }
    let refused: usize = refused.values().map(|(count, _)| count).sum();
    assert!(answered > failed * 10 && answered > refused * 10 && gathered > answered / 10);
}

const CONFIGURED: &str = "
[[sharded_tables]]
database = \"$DATABASE\"
name = \"users\"
column = \"id\"
data_type = \"bigint\"

[[sharded_tables]]
database = \"$DATABASE\"
name = \"orders\"
column = \"user_id\"
data_type = \"bigint\"

[[omnisharded_tables]]
database = \"$DATABASE\"
tables = [\"countries\"]
";

/// One server with all rows, and a pgdog over three that share them.
fn filled(name: &str) -> (Wire, Shards) {
    filled_with(name, "", "")
}

/// The same with databases of these options, and settings of pgdog.
fn filled_with(name: &str, options: &str, general: &str) -> (Wire, Shards) {
    let postgres = Postgres::shared();
    let alone = postgres.database_with(&format!("{name}_alone"), options);
    let mut one = postgres.admin(&alone);
    one.query(TABLES);
    one.query(ROWS);
    let shards = Shards::start_with(options, &[], name, general, CONFIGURED);
    let mut client = shards.client();
    for sql in TABLES
        .split_inclusive(';')
        .filter(|sql| sql.contains("CREATE"))
    {
        let answer = client.query(sql);
        assert!(
            ["C:CREATE_TYPE Z:I", "C:CREATE_TABLE Z:I"].contains(&answer.as_str()),
            "{answer}"
        );
    }
    for number in 0..3 {
        let mut shard = shards.shard(number);
        shard.query(ROWS);
        // PostgreSQL itself says which rows are whose.
        shard.query(&format!(
            "CREATE TABLE keys (id int8) PARTITION BY HASH (id);
             DELETE FROM users WHERE NOT satisfies_hash_partition('keys'::regclass, 3, {number}, id);
             DELETE FROM orders WHERE NOT satisfies_hash_partition('keys'::regclass, 3, {number}, user_id);
             DROP TABLE keys"
        ));
    }
    (one, shards)
}

/// The same rows from both, in both formats.
#[track_caller]
fn same_in_both_formats(one: &mut Wire, client: &mut Wire, sql: &str) {
    for binary in [false, true] {
        let found = comparable(ask(client, sql, binary), binary, true, false);
        let expected = comparable(ask(one, sql, binary), binary, true, false);
        assert_eq!(found, expected, "{sql}, binary {binary}");
        assert!(!found[0].starts_with("error"), "{sql}: {}", found[0]);
    }
}

#[test]
fn arrays_are_ordered_and_grouped_as_by_one_server() {
    let (mut one, shards) = filled("across_arrays");
    let mut client = shards.client();
    for sql in [
        "SELECT DISTINCT ARRAY[age, level] FROM users ORDER BY 1",
        "SELECT ARRAY[name, country] AS a, count(*), min(ARRAY[balance]) FROM users GROUP BY 1 ORDER BY 1 DESC NULLS LAST",
        "SELECT id, ARRAY[[level, 1], [age, 2]] AS a FROM users ORDER BY a, id LIMIT 20",
        "SELECT max(ARRAY[score]), min(ARRAY[born]), count(*) FROM users",
        "SELECT array_fill(level, ARRAY[2], ARRAY[age]) AS a, sum(balance) FROM users WHERE age > 0 GROUP BY 1 ORDER BY 1",
    ] {
        same_in_both_formats(&mut one, &mut client, sql);
    }
    shards.pgdog.stop();
}

/// The same queries, by clients of pgdog; a third of them in slices.
fn check_random(one: &mut Wire, client: &mut Wire, seed: u64, queries: u64) {
    let mut random = Random(seed);
    let (mut answered, mut refused) = (0, 0);
    for number in 0..queries {
        let (sql, ordered) = random_query(&mut random);
        let binary = random.one_in(3);
        let limited = sql.contains(" LIMIT ") || sql.contains(" OFFSET ");
        let messages = match random.one_in(3) {
            true => portals::sliced(client, &sql, binary, &mut random),
            false => ask(client, &sql, binary),
        };
        let refusal = messages
            .iter()
            .any(|message| message.tag == b'E' && message.field(b'C') == "0A000");
        if refusal {
            refused += 1;
            continue;
        }
        let found = comparable(messages, binary, ordered, limited);
        let expected = comparable(ask(one, &sql, binary), binary, ordered, limited);
        let fails = |words: &[String]| words[0].starts_with("error 22");
        if limited && fails(&found) != fails(&expected) {
            continue;
        }
        assert_eq!(
            found, expected,
            "seed {seed}, query {number}, binary {binary}:\n{sql}"
        );
        answered += 1;
    }
    println!("{answered} answered, {refused} refused");
    assert!(answered > refused * 5);
}

#[test]
fn random_queries_through_pgdog_are_answered_as_by_one_server_or_refused() {
    let (mut one, shards) = filled("across");
    let mut client = shards.client();
    let queries = setting("PGDOG_TEST_QUERIES", 1_000);
    let seed = setting("PGDOG_TEST_SEED", 2);
    check_random(&mut one, &mut client, seed, queries);

    // A format for each column, and a column more that the client does not know of.
    let sql = "SELECT name, age FROM users ORDER BY id LIMIT 3";
    let bind = tagged(b'B', &[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]);
    let messages = [
        parse("", sql),
        bind,
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    assert_eq!(client.ask(&messages), one.ask(&messages));
    shards.pgdog.stop();
}
