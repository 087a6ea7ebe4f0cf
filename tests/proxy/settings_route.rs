//! Settings that say where statements go, in every way to set them: where names are looked for, as whom, on which shard, and how
//! texts are read. What is told too late would be stored where nobody looks for it.

use super::shards::{all, Shards};
use super::support::wire::{run, sync, Wire};

/// Schemas that are also roles, and one whose name has to be quoted.
const SCHEMAS: &str =
    "[[sharded_schemas]]\ndatabase = \"$DATABASE\"\nname = \"route_one\"\nshard = 1\n\
    [[sharded_schemas]]\ndatabase = \"$DATABASE\"\nname = \"route_two\"\nshard = 2\n\
    [[sharded_schemas]]\ndatabase = \"$DATABASE\"\nname = '\"Quoted\"'\nshard = 2\n";

/// Each schema has a table x on every shard, so that no server refuses what should not be there.
fn started(label: &str) -> Shards {
    let shards = Shards::start(label, "workers = 1", SCHEMAS);
    for shard in 0..3 {
        let mut admin = shards.shard(shard);
        if shard == 0 {
            for role in ["route_one", "route_two"] {
                // Roles are the cluster's: another test may have made them.
                admin.query(&format!("CREATE ROLE {role}"));
                admin.query(&format!("GRANT {role} TO alice"));
            }
        }
        admin.query("CREATE TABLE public.x (id int); GRANT ALL ON public.x TO PUBLIC");
        for schema in ["route_one", "route_two", "\"Quoted\""] {
            let made = admin.query(&format!(
                "CREATE SCHEMA {schema}; CREATE TABLE {schema}.x (id int); \
                 GRANT ALL ON SCHEMA {schema} TO PUBLIC; GRANT ALL ON {schema}.x TO PUBLIC"
            ));
            assert!(!made.contains("E:"), "{made}");
        }
    }
    shards
}

/// Where a row is: its table and shard.
fn places(shards: &Shards, id: usize) -> Vec<(&'static str, usize)> {
    let mut found = Vec::new();
    for table in ["public.x", "route_one.x", "route_two.x", "\"Quoted\".x"] {
        let counts = shards.each(&format!("SELECT count(*) FROM {table} WHERE id = {id}"));
        for (shard, count) in counts.iter().enumerate() {
            let times = count.parse().unwrap();
            found.extend(std::iter::repeat_n((table, shard), times));
        }
    }
    found
}

#[test]
fn rows_are_stored_where_the_search_path_of_their_moment_says() {
    const INSERT: &str = "INSERT INTO x VALUES (#)";
    let one = ("route_one.x", 1);
    let shards = started("route_path");
    let mut client = shards.client();
    let cases: &[(&[&str], (&str, usize))] = &[
        (&["BEGIN", "SET LOCAL search_path = route_one", INSERT, "COMMIT"], one),
        (
            &["BEGIN", "SELECT set_config('search_path', 'route_one', true)", INSERT, "COMMIT"],
            one,
        ),
        (
            &[
                "BEGIN",
                "SELECT count(*) FROM route_one.x",
                "SELECT set_config('search_path', 'route_one', true)",
                INSERT,
                "COMMIT",
            ],
            one,
        ),
        (
            &["BEGIN", "SET LOCAL search_path = route_two", "SAVEPOINT a", "SET LOCAL search_path = route_one", INSERT, "COMMIT"],
            one,
        ),
        (
            &["BEGIN", "SET LOCAL search_path = route_one", "SAVEPOINT a", "SET LOCAL search_path = route_two", "ROLLBACK TO a", INSERT, "COMMIT"],
            one,
        ),
        (&["SET search_path = route_one", INSERT, "RESET search_path"], one),
        (&["SET search_path = 'route_one', public", INSERT, "RESET search_path"], one),
        (&["SET search_path = 'Quoted', public", INSERT, "RESET search_path"], ("\"Quoted\".x", 2)),
        (&["SELECT set_config('search_path', '\"Quoted\", public', false)", INSERT, "RESET search_path"], ("\"Quoted\".x", 2)),
        // In one text.
        (&["BEGIN; SET LOCAL search_path = route_one; INSERT INTO x VALUES (#); COMMIT"], one),
        (&["SET search_path = route_one; INSERT INTO x VALUES (#); RESET search_path"], one),
        (&["SET LOCAL search_path = route_one; INSERT INTO x VALUES (#)"], one),
        (&["SELECT set_config('search_path', 'route_one', true); INSERT INTO x VALUES (#)"], one),
        (
            &["SET search_path = route_two", "BEGIN; SET LOCAL search_path = route_one; INSERT INTO x VALUES (#); COMMIT", "RESET search_path"],
            one,
        ),
        (
            &["BEGIN; SET LOCAL search_path = route_two; ROLLBACK; SET search_path = route_one; INSERT INTO x VALUES (#)", "RESET ALL"],
            one,
        ),
        // As somebody else.
        (&["SET ROLE route_one", INSERT, "RESET ROLE"], one),
        (&["BEGIN", "SET LOCAL ROLE route_one", INSERT, "COMMIT"], one),
        (&["BEGIN; SET LOCAL ROLE route_one; INSERT INTO x VALUES (#); COMMIT"], one),
        (&["BEGIN", "SELECT set_config('role', 'route_one', true)", INSERT, "COMMIT"], one),
    ];
    for (id, (texts, place)) in cases.iter().enumerate() {
        let texts: Vec<_> = texts
            .iter()
            .map(|text| text.replace('#', &id.to_string()))
            .collect();
        for text in &texts {
            let answer = client.query(text);
            assert!(!answer.contains("E:"), "{texts:?}: {answer}");
        }
        assert_eq!(places(&shards, id), [*place], "{texts:?}");
    }
    // Without any of it the row is everywhere.
    assert_eq!(
        client.query("INSERT INTO x VALUES (1000)"),
        "C:INSERT_0_1 Z:I"
    );
    let everywhere = [0, 1, 2].map(|shard| ("public.x", shard));
    assert_eq!(places(&shards, 1000), everywhere);
    shards.pgdog.stop();
}

#[test]
fn a_pipeline_is_routed_as_its_messages_set_it() {
    let shards = started("route_pipe");
    let mut client = shards.client();
    let pipelines: [&[&str]; 4] = [
        &[
            "SET search_path = route_one",
            "INSERT INTO x VALUES ($1)",
            "RESET search_path",
        ],
        &[
            "BEGIN",
            "SET LOCAL search_path = route_one",
            "INSERT INTO x VALUES ($1)",
            "COMMIT",
        ],
        &[
            "SELECT set_config('search_path', 'route_one', true)",
            "INSERT INTO x VALUES ($1)",
        ],
        &[
            "BEGIN",
            "SET LOCAL ROLE route_one",
            "INSERT INTO x VALUES ($1)",
            "COMMIT",
        ],
    ];
    for (id, texts) in pipelines.iter().enumerate() {
        let number = id.to_string();
        let of = |text: &&str| match text.contains("$1") {
            true => run(text, &[Some(&number)]),
            false => run(text, &[]),
        };
        let mut messages: Vec<_> = texts.iter().map(of).collect();
        messages.push(sync());
        let answer = client.ask(&messages);
        assert!(!answer.contains("E:"), "{texts:?}: {answer}");
        assert_eq!(places(&shards, id), [("route_one.x", 1)], "{texts:?}");
    }
    shards.pgdog.stop();
}

#[test]
fn a_shard_that_is_set_in_a_text_is_heeded_and_one_that_is_none_refused() {
    let shards = started("route_shard");
    let mut client = shards.client();
    let ends = |client: &mut Wire, text: &str| client.rows(text).last().unwrap()[0].clone();
    for _ in 0..4 {
        let whole = "BEGIN; SET LOCAL pgdog.shard = 1; SELECT current_database(); COMMIT";
        assert!(ends(&mut client, whole).contains("route_shard1"));
        let found = ends(
            &mut client,
            "SET pgdog.shard = 2; SELECT current_database()",
        );
        assert!(found.contains("route_shard2"), "{found}");
        all(&mut client, &["RESET pgdog.shard"]);
    }
    // One that is none is not taken, and locks nobody out.
    assert_eq!(client.query("SET pgdog.shard = 3"), "E:22023 Z:I");
    assert_eq!(client.query("SET pgdog.role = 'other'"), "E:22023 Z:I");
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(client.query("SET LOCAL pgdog.shard = 3"), "E:22023 Z:E");
    assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    // Strings are read as they are meant from there on.
    all(
        &mut client,
        &["BEGIN", "SET LOCAL standard_conforming_strings = off"],
    );
    assert_eq!(client.value(r"SELECT 'it\'s'"), "it's");
    all(&mut client, &["COMMIT"]);
    shards.pgdog.stop();
}
