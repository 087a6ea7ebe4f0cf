//! The random queries again, copied: the data that one server gives, in text, CSV and binary.

use super::super::support::wire::{query, Message};
use super::super::support::Wire;
use super::queries::{random_query, Random};
use super::{ask, comparable, filled_with, setting};

/// As most databases are: texts are not ordered by their bytes.
const ICU: &str = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";

const OPTIONS: [&str; 4] = [
    "",
    "CSV HEADER FORCE QUOTE *",
    "(FORMAT csv, DELIMITER ';', NULL 'a', QUOTE '''')",
    "(FORMAT binary)",
];

fn copied(client: &mut Wire, sql: &str) -> Vec<Message> {
    client.send(&query(sql));
    let mut messages = client.read_until(b'Z');
    messages.retain(|message| !matches!(message.tag, b'Z' | b'S'));
    messages
}

fn check(one: &mut Wire, client: &mut Wire, seed: u64, queries: u64) {
    let mut random = Random(seed);
    let (mut answered, mut refused) = (0, 0);
    for number in 0..queries {
        let (sql, ordered) = random_query(&mut random);
        let option = random.below(4);
        let binary = option == 3;
        let copy = format!("COPY ({sql}) TO STDOUT {}", OPTIONS[option]);
        let limited = sql.contains(" LIMIT ") || sql.contains(" OFFSET ");
        let messages = copied(client, &copy);
        let is = |code: &str, message: &Message| message.tag == b'E' && message.field(b'C') == code;
        if messages.iter().any(|message| is("0A000", message)) {
            refused += 1;
            let selected = ask(client, &sql, binary);
            assert!(
                selected.iter().any(|message| is("0A000", message)),
                "seed {seed}, query {number}: only its COPY is refused:\n{copy}"
            );
            continue;
        }
        // The last digits of float8 depend on the order of rows, which PostgreSQL leaves open, too.
        let types = ask(one, &sql, false);
        let types = types.iter().find(|message| message.tag == b'T');
        let floats = types.is_some_and(|types| types.columns().iter().any(|(_, oid)| *oid == 701));
        // Without an order a limit chooses any rows, and in binary any row comes with the header.
        if floats || !ordered && (limited || binary) {
            continue;
        }
        let found = comparable(messages, binary, ordered, limited);
        let expected = comparable(copied(one, &copy), binary, ordered, limited);
        let fails = |words: &[String]| words[0].starts_with("error 22");
        if limited && fails(&found) != fails(&expected) {
            continue;
        }
        assert_eq!(found, expected, "seed {seed}, query {number}:\n{copy}");
        answered += 1;
    }
    println!("{answered} the same, {refused} refused");
    assert!(answered > refused);
}

#[test]
fn random_queries_are_copied_as_by_one_server_or_refused() {
    let queries = setting("PGDOG_TEST_QUERIES", 500);
    let seed = setting("PGDOG_TEST_SEED", 4);
    for (name, options) in [("copied", ""), ("copied_icu", ICU)] {
        let (mut one, shards) = filled_with(name, options, "");
        let mut client = shards.client();
        check(&mut one, &mut client, seed, queries);
        shards.pgdog.stop();
    }
}
