//! Types whose OIDs differ between shards: clients see those of the first (`canonicalize_type_information`).

use super::shards::Shards;
use super::support::wire::{
    bind, describe, execute, parse, query, run, sync, tagged, transcript, Wire,
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
            "CREATE TABLE t (id int, mood mood)",
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
    // A number that is another type elsewhere, or none, is no number to declare a parameter with.
    let declared = |oid: u32| {
        let mut body = b"\0SELECT $1\0\0\x01".to_vec();
        body.extend(oid.to_be_bytes());
        tagged(b'P', &body)
    };
    let answer = client.ask(&[declared(oids[0]), sync()]);
    assert_eq!(answer, "E:0A000 Z:I");
    let answer = client.ask(&[
        declared(23),
        bind("", "", &[Some("7")]),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(answer, "1 2 D:7 C:SELECT_1 Z:I");
    let insert = "INSERT INTO t VALUES ($1, $2)";
    assert_eq!(
        client.ask(&[run(insert, &[Some("99"), Some("sad")]), sync()]),
        "1 2 C:INSERT_0_1 Z:I"
    );
    shards.pgdog.stop();
}

#[test]
fn without_it_they_see_those_of_the_shard() {
    let (shards, oids) = started("canonical_off", "");
    let mut client = shards.client();
    for (shard, oid) in oids.iter().enumerate() {
        let sql = format!("/* pgdog_shard: {shard} */ SELECT 1, 'sad'::mood");
        assert_eq!(told(&mut client, &[query(&sql)]), *oid);
    }
    shards.pgdog.stop();
}
