//! Types whose OIDs differ between shards: clients see those of the first (`canonicalize_type_information`).

use super::shards::Shards;
use super::support::programs::python;
use super::support::wire::{
    bind, describe, execute, flush, parse, query, run, sync, tagged, transcript, Message, Wire,
};

const TABLE: &str = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\n";

/// Each shard has made more types than the one before it when it makes `mood`.
fn started(label: &str, general: &str) -> (Shards, Vec<u32>) {
    let shards = Shards::start(label, general, TABLE);
    let oids = (0..3).map(|number| {
        let mut shard = shards.shard(number);
        for extra in 0..number {
            shard.query(&format!("CREATE DOMAIN extra{extra} AS int"));
        }
        for sql in [
            "CREATE TYPE mood AS ENUM ('sad', 'happy')",
            "CREATE TYPE pair AS (number int, mood mood)",
            "CREATE DOMAIN moods AS mood[]",
            "CREATE TYPE deep AS (all_of moods, pairs pair[])",
            "CREATE TABLE t (id int, mood mood, list mood[], pair pair, deep deep)",
            "ALTER TABLE t OWNER TO alice",
        ] {
            assert!(shard.query(sql).starts_with("C:"), "{sql}");
        }
        shard.value("SELECT 'mood'::regtype::oid").parse().unwrap()
    });
    let oids: Vec<u32> = oids.collect();
    assert!(oids[0] != oids[1] && oids[1] != oids[2] && oids[0] != oids[2]);
    (shards, oids)
}

/// Parse of a statement without a name, of one parameter of this type.
fn declared(oid: u32) -> Vec<u8> {
    parse_as("", "SELECT $1", &[oid])
}

/// Parse of parameters of these types.
fn parse_as(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let count = u16::try_from(types.len()).unwrap().to_be_bytes();
    let types: Vec<_> = types.iter().flat_map(|oid| oid.to_be_bytes()).collect();
    let names = format!("{name}\0{sql}\0");
    tagged(b'P', &[names.as_bytes(), &count, &types].concat())
}

/// Bind of values in binary format, for rows in binary format.
fn bind_binary(portal: &str, name: &str, values: &[Option<&[u8]>]) -> Vec<u8> {
    bind_for(portal, name, values, &[1])
}

/// The same for columns in these formats.
fn bind_for(portal: &str, name: &str, values: &[Option<&[u8]>], formats: &[u16]) -> Vec<u8> {
    let mut body = format!("{portal}\0{name}\0\0\x01\0\x01").into_bytes();
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    values.iter().for_each(|value| body.extend(item(*value)));
    let count = u16::try_from(formats.len()).unwrap();
    let formats = std::iter::once(&count).chain(formats);
    body.extend(formats.flat_map(|number| number.to_be_bytes()));
    tagged(b'B', &body)
}

fn item(value: Option<&[u8]>) -> Vec<u8> {
    let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap());
    [&length.to_be_bytes()[..], value.unwrap_or_default()].concat()
}

/// An array of one dimension, or an empty one, in binary format.
fn array(element: u32, values: &[&[u8]]) -> Vec<u8> {
    let count = u32::try_from(values.len()).unwrap();
    let mut out = [u32::from(count > 0), 0, element]
        .map(u32::to_be_bytes)
        .concat();
    if count > 0 {
        out.extend([count, 1].map(u32::to_be_bytes).concat());
    }
    values
        .iter()
        .for_each(|value| out.extend(item(Some(value))));
    out
}

/// A composite value in binary format.
fn record(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = u32::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
    for (oid, value) in fields {
        out.extend(oid.to_be_bytes());
        out.extend(item(Some(value)));
    }
    out
}

/// The bytes of the rows.
fn rows(answer: &[Message]) -> Vec<&[u8]> {
    let rows = answer.iter().filter(|message| message.tag == b'D');
    rows.map(|row| &row.body[2..]).collect()
}

/// The type of the second column.
fn told(client: &mut Wire, messages: &[Vec<u8>]) -> u32 {
    client.send(&messages.concat());
    let answer = client.read_until(b'Z');
    let described = answer.iter().find(|message| message.tag == b'T');
    let Some(described) = described else {
        panic!("{}", transcript(&answer));
    };
    described.columns()[1].1
}

#[test]
fn clients_see_the_types_of_the_first_shard() {
    let (shards, oids) = started("canonical_on", "canonicalize_type_information = true");
    let mut client = shards.client();
    // A definition changes what is known, and nothing waits for that to be asked again.
    assert_eq!(
        client.query("CREATE TABLE other (id int); INSERT INTO other VALUES (1)"),
        "C:CREATE_TABLE C:INSERT_0_1 Z:I"
    );
    for id in 0..12 {
        let sql = format!("INSERT INTO t VALUES ({id}, 'happy')");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
    }
    let counts = shards.each("SELECT count(*) FROM t");
    assert!(counts.iter().all(|count| count != "0"), "{counts:?}");
    let text = "SELECT id, mood FROM t WHERE id = $1";
    for id in 0..12 {
        let simple = query(&format!("SELECT id, mood FROM t WHERE id = {id}"));
        assert_eq!(told(&mut client, &[simple]), oids[0]);
        let value = id.to_string();
        let extended = [
            parse("", text),
            bind("", "", &[Some(&value)]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ];
        assert_eq!(told(&mut client, &extended), oids[0]);
    }
    let all = query("SELECT id, mood FROM t ORDER BY id");
    assert_eq!(told(&mut client, &[all]), oids[0]);
    // So are the types of parameters, wherever the statement is described.
    for shard in 0..3 {
        let sql = format!("/* pgdog_shard: {shard} */ SELECT 1, $1::mood");
        assert_eq!(
            told(&mut client, &[parse("", &sql), describe(b'S', ""), sync()]),
            oids[0]
        );
        let sql = format!("/* pgdog_shard: {shard} */ SELECT 1, 'sad'::mood");
        assert_eq!(told(&mut client, &[query(&sql)]), oids[0]);
        // What came in parts.
        let wide: Vec<_> = (0..1500)
            .map(|n| format!("'sad'::mood AS {}{n}", "x".repeat(50)))
            .collect();
        let sql = format!("/* pgdog_shard: {shard} */ SELECT 1, {}", wide.join(", "));
        assert_eq!(told(&mut client, &[query(&sql)]), oids[0]);
    }
    let answer = client.ask(&[declared(oids[0]), sync()]);
    assert_eq!(answer, "1 Z:I");
    let answer = client.ask(&[
        declared(23),
        bind("", "", &[Some("7")]),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(answer, "1 2 D:7 C:SELECT_1 Z:I");
    // A type that only some have is nothing to declare a parameter with.
    shards.shard(0).query("CREATE DOMAIN here AS int");
    assert_eq!(
        client.query("CREATE TABLE third (id int)"),
        "C:CREATE_TABLE Z:I"
    );
    let here = shards.shard(0).value("SELECT 'here'::regtype::oid");
    let answer = client.ask(&[declared(here.parse().unwrap()), sync()]);
    assert_eq!(answer, "E:0A000 Z:I");
    let insert = "INSERT INTO t VALUES ($1, $2)";
    assert_eq!(
        client.ask(&[run(insert, &[Some("99"), Some("sad")]), sync()]),
        "1 2 C:INSERT_0_1 Z:I"
    );
    shards.pgdog.stop();
}

/// Values within values, too.
#[test]
fn parameters_have_the_types_of_the_first_shard() {
    let (shards, _) = started("canonical_params", "canonicalize_type_information = true");
    let oid = |name: &str| -> u32 {
        let sql = format!("SELECT '{name}'::regtype::oid");
        shards.shard(0).value(&sql).parse().unwrap()
    };
    let [mood, list, pair, deep] = ["mood", "mood[]", "pair", "deep"].map(oid);
    let (moods, pairs) = (oid("moods"), oid("pair[]"));
    let list_of = |labels: &[&[u8]]| array(mood, labels);
    let pair_of = |number: i32| record(&[(23, &number.to_be_bytes()), (mood, b"sad")]);
    let deep_of = |number: i32| {
        let pairs_of = array(pair, &[&pair_of(number), &pair_of(number + 1)]);
        record(&[(moods, &list_of(&[b"happy"])), (pairs, &pairs_of)])
    };
    let row = |id: i32| -> Vec<Vec<u8>> {
        vec![
            id.to_be_bytes().to_vec(),
            b"happy".to_vec(),
            list_of(&[b"sad", b"happy"]),
            pair_of(id),
            deep_of(id),
        ]
    };
    let mut client = shards.client();
    assert_eq!(
        client.query("CREATE TABLE other (id int)"),
        "C:CREATE_TABLE Z:I"
    );
    let insert = "INSERT INTO t VALUES ($1, $2, $3, $4, $5)";
    let types = [23, mood, list, pair, deep];
    let batch = |name: &str, types: &[u32], id: i32| {
        let row = row(id);
        let values: Vec<_> = row.iter().map(|value| Some(&value[..])).collect();
        let parsed = parse_as(name, insert, types);
        [
            parsed,
            bind_binary("", name, &values),
            execute("", 0),
            sync(),
        ]
    };
    for id in 0..10 {
        assert_eq!(client.ask(&batch("", &types, id)), "1 2 C:INSERT_0_1 Z:I");
    }
    // Parsed once; not declared, as they are in what describes the statement.
    let named = batch("declared", &types, 10);
    assert_eq!(client.ask(&named), "1 2 C:INSERT_0_1 Z:I");
    let open = batch("open", &[], 0);
    assert_eq!(client.ask(&[open[0].clone(), sync()]), "1 Z:I");
    for id in 11..20 {
        let name = if id % 2 == 0 { "open" } else { "declared" };
        assert_eq!(client.ask(&batch(name, &[], id)[1..]), "2 C:INSERT_0_1 Z:I");
    }
    let counts = shards.each("SELECT count(*) FROM t");
    assert!(counts.iter().all(|count| count != "0"), "{counts:?}");
    let wrong = "SELECT count(*) FROM t WHERE mood <> 'happy' OR list <> '{sad,happy}' \
        OR pair <> ROW(id, 'sad')::pair OR (deep).all_of <> '{happy}'";
    assert_eq!(shards.each(wrong), ["0", "0", "0"]);

    let expected = |id: i32| {
        row(id)
            .iter()
            .flat_map(|value| item(Some(value)))
            .collect::<Vec<_>>()
    };
    let one = "SELECT * FROM t WHERE id = $1";
    let parsed = [parse_as("one", one, &[23]), sync()].concat();
    assert_eq!(client.ask(&[parsed]), "1 Z:I");
    for id in 0..20_i32 {
        let id_of = id.to_be_bytes();
        for name in ["", "one", "one"] {
            let bound = bind_binary("", name, &[Some(&id_of)]);
            let parsed = parse_as("", one, &[23]);
            let parsed = if name.is_empty() { parsed } else { Vec::new() };
            client.send(&[parsed, bound, execute("", 0), sync()].concat());
            let answer = client.read_until(b'Z');
            assert_eq!(
                rows(&answer),
                [&expected(id)[..]],
                "{}",
                transcript(&answer)
            );
        }
    }
    let all = "SELECT * FROM t WHERE list = $1 AND mood = ANY($1) ORDER BY id";
    let all_of: Vec<_> = (0..20).map(expected).collect();
    let value = list_of(&[b"sad", b"happy"]);
    for types in [&[list][..], &[]] {
        let parsed = parse_as("", all, types);
        let bound = bind_binary("p", "", &[Some(&value)]);
        client.send(&[parsed.clone(), bound.clone(), execute("p", 0), sync()].concat());
        let answer = client.read_until(b'Z');
        assert_eq!(rows(&answer), all_of, "{}", transcript(&answer));
        // In slices.
        let next = [execute("p", 7), flush()].concat();
        client.send(&[parsed, bound, next.repeat(3), sync()].concat());
        let answer = client.read_until(b'Z');
        assert_eq!(rows(&answer), all_of, "{}", transcript(&answer));
    }
    // Records of no type, and what is compared by pgdog.
    for (sql, expected) in [
        ("SELECT DISTINCT list FROM t", list_of(&[b"sad", b"happy"])),
        (
            "SELECT DISTINCT ROW(mood, list) FROM t WHERE id = 7",
            record(&[(mood, b"happy"), (list, &list_of(&[b"sad", b"happy"]))]),
        ),
    ] {
        client.send(
            &[
                parse("", sql),
                bind_binary("", "", &[]),
                execute("", 0),
                sync(),
            ]
            .concat(),
        );
        let answer = client.read_until(b'Z');
        let expected = item(Some(&expected));
        assert_eq!(rows(&answer), [&expected[..]], "{}", transcript(&answer));
    }
    // What was seen before in text, all of it or the list, and what the same text is with another search path.
    assert_eq!(
        client.query("CREATE SCHEMA other; CREATE TABLE other.t (id int, list int)"),
        "C:CREATE_SCHEMA C:CREATE_TABLE Z:I"
    );
    let two = |text: &str, ids: [i32; 2], formats: &[u16]| {
        let ids = ids.map(i32::to_be_bytes);
        let values = ids.each_ref().map(|id| Some(&id[..]));
        let bound = bind_for("", "", &values, formats);
        [parse_as("", text, &[23, 23]), bound, execute("", 0), sync()].concat()
    };
    for (set, formats) in [
        ("SET search_path = other", &[1][..]),
        ("RESET search_path", &[0]),
        ("RESET search_path", &[1, 0]),
    ] {
        let text = format!("SELECT id, list FROM t WHERE id IN ($1, $2) -- {set} {formats:?}");
        let mut before = shards.client();
        assert!(before.query(set).ends_with("ET Z:I"));
        before.send(&two(&text, [1, 2], formats));
        before.read_until(b'Z');
        for id in 0..20_i32 {
            client.send(&two(&text, [id, id], &[1]));
            let answer = client.read_until(b'Z');
            let expected = [item(Some(&id.to_be_bytes())), item(Some(&value))].concat();
            assert_eq!(
                rows(&answer),
                [&expected[..]],
                "{text}: {}",
                transcript(&answer)
            );
        }
    }
    shards.pgdog.stop();
}

#[test]
fn drivers_use_types_of_users_over_shards() {
    let (shards, _) = started("canonical_drivers", "canonicalize_type_information = true");
    let mut client = shards.client();
    assert_eq!(
        client.query("CREATE TABLE other (id int)"),
        "C:CREATE_TABLE Z:I"
    );
    let out = python("user_types.py", shards.pgdog.port(), &shards.name).ok();
    assert!(out.ends_with("all well\n"), "{out}");
    shards.pgdog.stop();
}

#[test]
fn without_it_they_see_those_of_the_shard() {
    let (shards, oids) = started("canonical_off", "");
    let mut client = shards.client();
    for (shard, oid) in oids.iter().enumerate() {
        let sql = format!("/* pgdog_shard: {shard} */ SELECT 1, 'sad'::mood");
        assert_eq!(told(&mut client, &[query(&sql)]), *oid);
        client.send(&[declared(*oid), sync()].concat());
        let answer = client.read_until(b'Z');
        assert_eq!(transcript(&answer), "E:0A000 Z:I");
        let text = answer[0].field(b'M');
        assert!(text.contains("canonicalize_type_information"), "{text}");
    }
    shards.pgdog.stop();
}
