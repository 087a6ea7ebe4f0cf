//! Foreign keys of sharded tables: tables that follow an anchor (`primary = true`), and joins along constraints.

use super::shards::Shards;
use super::support::wire::{run, sync, Wire};

fn started(label: &str, primary: bool) -> (Shards, Wire) {
    let more = format!(
        "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"users\"\ncolumn = \"id\"\nprimary = {primary}\n"
    );
    let shards = Shards::start(label, "expanded_explain = true", &more);
    let mut client = shards.client();
    for sql in [
        "CREATE TABLE users (id bigint PRIMARY KEY, name text)",
        "CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint REFERENCES users)",
        "CREATE TABLE items (n int, owner bigint REFERENCES users, order_id bigint REFERENCES orders)",
        "CREATE TABLE gifts (giver bigint REFERENCES users, taker bigint REFERENCES users)",
    ] {
        assert_eq!(client.query(sql), "C:CREATE_TABLE Z:I", "{sql}");
    }
    (shards, client)
}

/// Where a statement goes, as EXPLAIN tells.
fn place(client: &mut Wire, sql: &str) -> String {
    let plan = client.rows(&format!("EXPLAIN (COSTS off) {sql}"));
    let mut lines = plan.iter().map(|line| &*line[0]);
    let told = lines.find_map(|line| line.strip_prefix("pgdog: "));
    told.unwrap_or_default().to_owned()
}

#[test]
fn tables_follow_their_anchor() {
    let (shards, mut client) = started("references", true);
    for id in 1..=12 {
        for sql in [
            format!("INSERT INTO users VALUES ({id}, 'name')"),
            format!("INSERT INTO orders VALUES ({}, {id})", 100 + id),
            format!("INSERT INTO items VALUES (1, {id}, {})", 100 + id),
        ] {
            assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I", "{sql}");
        }
        let text = "INSERT INTO items VALUES (2, $1, $2)";
        let (owner, order) = (id.to_string(), (100 + id).to_string());
        let batch = [run(text, &[Some(&owner), Some(&order)]), sync()];
        assert_eq!(client.ask(&batch), "1 2 C:INSERT_0_1 Z:I");
    }
    // A definition in the same text does not make them forgotten.
    assert_eq!(
        client.query("CREATE INDEX ON orders (user_id); SELECT count(*) FROM orders"),
        "C:CREATE_INDEX T D:12 C:SELECT_1 Z:I"
    );
    for (table, all) in [("users", 12), ("orders", 12), ("items", 24)] {
        let counts = shards.each(&format!("SELECT count(*) FROM {table}"));
        let sum: u32 = counts
            .iter()
            .map(|count| count.parse::<u32>().unwrap())
            .sum();
        assert_eq!(sum, all, "{table}: {counts:?}");
        let count = client.value(&format!("SELECT count(*) FROM {table}"));
        assert_eq!(count, all.to_string());
    }
    for id in [1, 7, 12] {
        for (sql, found) in [
            (format!("SELECT count(*) FROM orders WHERE user_id = {id}"), "1"),
            (format!("SELECT count(*) FROM items WHERE owner = {id}"), "2"),
            // Not by the key, but by a constraint.
            (
                format!("SELECT count(*) FROM orders o JOIN items i ON i.order_id = o.id WHERE o.user_id = {id}"),
                "2",
            ),
            (
                format!("SELECT count(*) FROM items JOIN orders ON order_id = orders.id LEFT JOIN users u ON u.id = user_id WHERE owner = {id}"),
                "2",
            ),
        ] {
            assert_eq!(client.value(&sql), found, "{sql}");
            let to = place(&mut client, &sql);
            assert!(to.starts_with("shard "), "{sql}: {to}");
        }
    }
    // A row goes where all that it refers to is.
    assert_eq!(
        client.query(
            "DELETE FROM items USING orders WHERE order_id = orders.id AND orders.user_id = 3"
        ),
        "C:DELETE_2 Z:I"
    );
    let all = "SELECT count(*) FROM orders o JOIN items i ON i.order_id = o.id";
    assert_eq!(client.value(all), "22");
    shards.pgdog.stop();
}

#[test]
fn without_an_anchor_nothing_follows() {
    let (shards, mut client) = started("references_none", false);
    client.query("INSERT INTO users VALUES (1, 'x')");
    // On the other shards there is no such user.
    assert_eq!(
        client.query("INSERT INTO orders VALUES (1, 1)"),
        "E:23503 Z:I"
    );
    shards.pgdog.stop();
}

#[test]
fn a_table_that_may_follow_by_two_columns_does_not() {
    let (shards, mut client) = started("references_two", true);
    assert_eq!(
        client.query("INSERT INTO users VALUES (1, 'x')"),
        "C:INSERT_0_1 Z:I"
    );
    assert_eq!(
        client.query("INSERT INTO gifts VALUES (1, 1)"),
        "E:23503 Z:I"
    );
    shards.pgdog.stop();
}
