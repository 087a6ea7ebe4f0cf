//! Sharding keys as a real server sees them: `satisfies_hash_partition` and the input functions of the types.

use pgdog::sharding::hash::Hasher;
use pgdog::sharding::{Key, KeyType};

use crate::support::{Postgres, Wire};

/// Compares shards of `count` keys, made from `i` by an expression, with partitions of as many.
fn compare(
    server: &mut Wire,
    key_type: KeyType,
    column: &str,
    expression: &str,
    modulus: u32,
    count: u32,
) {
    server.query(&format!(
        "CREATE TABLE parted (k {column}) PARTITION BY HASH (k)"
    ));
    let cases: String = (0..modulus)
        .map(|remainder| {
            format!("WHEN satisfies_hash_partition('parted'::regclass, {modulus}, {remainder}, k) THEN {remainder} ")
        })
        .collect();
    let rows = server.rows(&format!(
        "SELECT string_agg(k || ' ' || CASE {cases} END, E'\\n')
         FROM (SELECT i, ({expression})::{column} AS k FROM generate_series(1, {count}) i) keys
         GROUP BY i / 10000"
    ));
    server.query("DROP TABLE parted");
    let mut compared = 0;
    for line in rows.iter().flatten().flat_map(|chunk| chunk.split('\n')) {
        let (text, expected) = line.rsplit_once(' ').unwrap();
        let key = key_type.text(text.as_bytes()).unwrap();
        let shard = Hasher::Postgres.shard(&key, modulus);
        assert_eq!(shard, expected.parse().ok(), "{column} {text} of {modulus}");
        compared += 1;
    }
    assert_eq!(compared, count, "{column}");
}

/// Every other number as it is, the others spread over all 64 bits and both signs.
const INTEGERS: &str = "CASE WHEN i % 2 = 0 THEN i ELSE hashint8extended(i, 7) END";

#[test]
fn shards_are_the_partitions_of_a_million_keys_of_each_type() {
    let database = Postgres::shared().database("hash");
    let mut server = Postgres::shared().admin(&database);
    let million = 1_000_000;
    compare(&mut server, KeyType::Bigint, "bigint", INTEGERS, 3, million);
    compare(
        &mut server,
        KeyType::Uuid,
        "uuid",
        "md5(i::text)",
        2,
        million,
    );
    // Of every length up to 89 bytes.
    let texts = "left(repeat(md5(i::text), 3), i % 90)";
    compare(&mut server, KeyType::Varchar, "text", texts, 3, million);
}

#[test]
fn other_types_and_numbers_of_shards() {
    let database = Postgres::shared().database("hash");
    let mut server = Postgres::shared().admin(&database);
    let narrow = "hashint8extended(i, 7) % 2147483648";
    compare(&mut server, KeyType::Bigint, "integer", narrow, 3, 50_000);
    compare(
        &mut server,
        KeyType::Bigint,
        "smallint",
        "i - 32769",
        3,
        65_536,
    );
    let unicode = "repeat('é漢', i % 7) || i";
    compare(&mut server, KeyType::Varchar, "varchar", unicode, 5, 20_000);
    for modulus in [1, 2, 7, 16, 64, 128] {
        compare(
            &mut server,
            KeyType::Bigint,
            "bigint",
            INTEGERS,
            modulus,
            2_000,
        );
    }
    server.query("CREATE TABLE parted (k bigint) PARTITION BY HASH (k)");
    let null = "SELECT satisfies_hash_partition('parted'::regclass, 5, 0, NULL::bigint)";
    assert_eq!(server.value(null), "t");
    assert_eq!(Hasher::Postgres.shard(&Key::Null, 5), Some(0));
}

/// What the server takes as a value of the type is the same key here; what it refuses is none.
#[test]
fn keys_are_read_as_the_server_reads_them() {
    let database = Postgres::shared().database("input");
    let mut server = Postgres::shared().admin(&database);
    server.query(
        "CREATE FUNCTION read(value text, type text) RETURNS text LANGUAGE plpgsql AS $$
         DECLARE result text;
         BEGIN
             EXECUTE format('SELECT %L::%s::text', value, type) INTO result;
             RETURN result;
         EXCEPTION WHEN others THEN RETURN 'refused';
         END $$",
    );
    let integers = [
        "7",
        "007",
        "-0",
        "+5",
        "  12",
        "12 ",
        "\t12\n",
        "1e3",
        "7.0",
        "",
        " ",
        "-",
        "+-5",
        "- 5",
        "5 5",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775809",
        "00000000000000000000000000000001",
        "x",
        "½",
    ];
    let dashed = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let uuids = [
        dashed,
        "A0EEBC999C0B4EF8BB6D6BB9BD380A11",
        "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
        "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        "a0eebc99--9c0b4ef8bb6d6bb9bd380a11",
        " a0eebc999c0b4ef8bb6d6bb9bd380a11",
        "a0eebc999c0b4ef8bb6d6bb9bd380a11 ",
        "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
        "a0eebc999c0b4ef8bb6d6bb9bd380a11}",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-",
        "a0e-ebc999c0b4ef8bb6d6bb9bd380a11",
        "",
        "{}",
    ];
    let all = integers.map(|text| (KeyType::Bigint, text));
    let all = all
        .into_iter()
        .chain(uuids.map(|text| (KeyType::Uuid, text)));
    for (key_type, text) in all {
        let sql = format!("SELECT read('{text}', '{key_type}')");
        let ours = match key_type.text(text.as_bytes()) {
            Ok(key) => String::from_utf8(key.to_text().unwrap()).unwrap(),
            Err(_) => "refused".to_owned(),
        };
        assert_eq!(server.value(&sql), ours, "{key_type} {text:?}");
    }
}
