//! What a definition makes of a table is known before anybody uses it: on other cores, of tables that were made elsewhere,
//! and within the transaction that makes one. Here tables are sharded by the name of a column.

use super::admin::show;
use super::shards::{all, Shards};
use super::support::process::{poll, PATIENCE};
use super::support::wire::{query, tagged};
use super::support::Wire;

const ANY_TABLE: &str =
    "[[sharded_tables]]\ndatabase = \"$DATABASE\"\ncolumn = \"tenant\"\ndata_type = \"bigint\"\n";

/// So many that each core has some.
const CLIENTS: usize = 8;

fn started(label: &str) -> (Shards, Vec<Wire>) {
    let shards = Shards::start(label, "workers = 2", ANY_TABLE);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| shards.client()).collect();
    let made = clients[0].query("CREATE TABLE base (v int, tenant bigint)");
    assert_eq!(made, "C:CREATE_TABLE Z:I");
    // All cores have asked the catalogue.
    for client in &mut clients {
        assert_eq!(client.value("SELECT count(*) FROM base"), "0");
    }
    let cores = show(&mut shards.pgdog.admin(), "CORES");
    assert!(cores.len() == 2 && cores.iter().all(|core| core["clients"] != "0"));
    (shards, clients)
}

/// Every client stores a row, without a list of columns, and sees those of all.
#[track_caller]
fn is_sharded(shards: &Shards, clients: &mut [Wire], table: &str) {
    for (tenant, client) in clients.iter_mut().enumerate() {
        let sql = format!("INSERT INTO {table} VALUES (1, {tenant})");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I", "{sql}");
    }
    let count = format!("SELECT count(*) FROM {table}");
    for client in clients.iter_mut() {
        assert_eq!(client.value(&count), clients_count(), "{table}");
    }
    let stored = shards.each(&count);
    let stored: usize = stored
        .iter()
        .map(|count| count.parse::<usize>().unwrap())
        .sum();
    assert_eq!(stored, CLIENTS, "{table}");
}

fn clients_count() -> String {
    CLIENTS.to_string()
}

#[test]
fn definitions_are_known_on_all_cores() {
    let (shards, mut clients) = started("defined_elsewhere");
    for round in 0..CLIENTS {
        let mut define = |sql: &str| {
            let answer = clients[round].query(sql);
            assert!(answer.starts_with("C:"), "{sql}: {answer}");
        };
        // One that nobody knows, and one that is another from here on.
        define(&format!("CREATE TABLE new{round} (v int, tenant bigint)"));
        is_sharded(&shards, &mut clients, &format!("new{round}"));
        let mut define = |sql: &str| {
            let answer = clients[round].query(sql);
            assert!(answer.starts_with("C:"), "{sql}: {answer}");
        };
        define(&format!(
            "CREATE TABLE other{round} (v int, tenants bigint)"
        ));
        define(&format!("INSERT INTO other{round} VALUES (1, 2)"));
        for client in &mut clients {
            let count = client.value(&format!("SELECT count(*) FROM other{round}"));
            assert_eq!(count, "1", "the same on every shard");
        }
        let answer = clients[round].query(&format!(
            "DELETE FROM other{round}; ALTER TABLE other{round} RENAME tenants TO tenant"
        ));
        assert_eq!(answer, "C:DELETE_1 C:ALTER_TABLE Z:I");
        is_sharded(&shards, &mut clients, &format!("other{round}"));
    }
    shards.pgdog.stop();
}

#[test]
fn tables_that_were_made_on_the_servers_are_asked_for() {
    let (shards, mut clients) = started("defined_on_servers");
    for number in 0..3 {
        let mut shard = shards.shard(number);
        shard.query("CREATE TABLE elsewhere (v int, tenant bigint)");
        shard.query("ALTER TABLE elsewhere OWNER TO alice");
        shard.query("CREATE TABLE copied (v int, tenant bigint)");
        shard.query("ALTER TABLE copied OWNER TO alice");
    }
    is_sharded(&shards, &mut clients, "elsewhere");
    let client = &mut clients[0];
    client.begin_copy("COPY copied FROM STDIN");
    let rows = tagged(b'd', b"1\t1\n1\t2\n1\t3\n1\t4\n1\t5\n");
    assert_eq!(client.ask(&[rows, tagged(b'c', b"")]), "C:COPY_5 Z:I");
    assert_eq!(client.value("SELECT count(*) FROM copied"), "5");
    assert_eq!(client.query("SELECT FROM nowhere"), "E:42P01 Z:I");
    assert_eq!(
        client.query("INSERT INTO nowhere VALUES (1)"),
        "E:42P01 Z:I"
    );
    shards.pgdog.stop();
}

/// What depends on a catalogue that may not be read is refused as that is, and is done when it may.
#[test]
fn what_the_catalogue_has_not_told_is_tried_again() {
    let table = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\n";
    let shards = Shards::start("defined_unasked", "workers = 1", table);
    let mut client = shards.client();
    all(
        &mut client,
        &[
            "CREATE TYPE mood AS ENUM ('sad', 'glad')",
            "CREATE TABLE t (id bigint, s text, m mood)",
            "CREATE FUNCTION own(n bigint) RETURNS bigint AS 'SELECT n' LANGUAGE sql IMMUTABLE",
            "CREATE TABLE u (s text)",
        ],
    );
    for id in 0..9 {
        let row = format!("INSERT INTO t VALUES ({id}, 'a', 'sad')");
        all(&mut client, &[&row]);
    }
    let texts = [
        "SELECT DISTINCT m FROM t",
        "SELECT s FROM t GROUP BY s",
        "SELECT count(DISTINCT s) FROM t",
        "SELECT max(s) FROM t",
        "SELECT max(own(id)) FROM t",
        "SELECT t.id FROM t NATURAL JOIN u",
    ];
    let each = |sql: &str| (0..3).for_each(|shard| drop(shards.shard(shard).query(sql)));
    for (lacking, refused) in [("pg_attribute", &texts[1..]), ("pg_enum", &texts[..1])] {
        // They are asked again when something is defined.
        each(&format!("REVOKE SELECT ON {lacking} FROM public"));
        all(&mut client, &["ALTER TABLE u ALTER s DROP NOT NULL"]);
        for sql in refused {
            assert_eq!(client.query(sql), "E:42501 Z:I", "{lacking} {sql}");
        }
        each(&format!("GRANT SELECT ON {lacking} TO public"));
        for sql in texts {
            poll(PATIENCE, sql, || {
                client.query(sql).starts_with("T ").then_some(())
            });
        }
    }
    shards.pgdog.stop();
}

/// A statement that waits for a server while somebody defines something, or reloads, is merged by what was known when it was planned.
#[test]
fn neither_a_definition_nor_a_reload_changes_what_is_planned() {
    let table = "[[sharded_tables]]\ndatabase = \"$DATABASE\"\nname = \"t\"\ncolumn = \"id\"\n";
    let general = "workers = 1\ndefault_pool_size = 1";
    let shards = Shards::start("defined_meanwhile", general, table);
    let (mut one, mut other) = (shards.client(), shards.client());
    all(&mut one, &["CREATE TABLE t (id bigint, s text)"]);
    for id in 0..9 {
        all(&mut one, &[&format!("INSERT INTO t VALUES ({id}, 'a')")]);
    }
    let sql = "SELECT s FROM t GROUP BY s";
    assert_eq!(other.value(sql), "a");
    let wait = |other: &mut Wire, sql: &str| {
        other.send(&query(sql));
        poll(PATIENCE, "a client that waits", || {
            let clients = show(&mut shards.pgdog.admin(), "CLIENTS");
            let mut states = clients.iter().map(|client| client["state"].as_str());
            states.any(|state| state == "waiting").then_some(())
        });
    };
    all(
        &mut one,
        &["BEGIN", "UPDATE t SET s = s", "CREATE TABLE u (n int)"],
    );
    wait(&mut other, sql);
    all(&mut one, &["COMMIT"]);
    assert_eq!(other.batches(1), "T D:a C:SELECT_1 Z:I");
    all(&mut one, &["BEGIN", "UPDATE t SET s = s"]);
    wait(&mut other, &format!("{sql}; SELECT max(s) FROM t"));
    assert_eq!(shards.pgdog.admin().query("RELOAD"), "C:RELOAD Z:I");
    all(&mut one, &["COMMIT"]);
    let both = "T D:a C:SELECT_1 T D:a C:SELECT_1 Z:I";
    assert_eq!(other.batches(1), both);
    shards.pgdog.stop();
}

/// Who has the only server of a pool asks without waiting for it, also while somebody else does.
#[test]
fn who_has_servers_does_not_wait_for_them_to_ask_the_catalogue() {
    let general = "workers = 1\ndefault_pool_size = 1\ncheckout_timeout = 60000";
    let shards = Shards::start("defined_exhausted", general, ANY_TABLE);
    let [mut holder, mut other] = [(); 2].map(|()| shards.client());
    let made = holder.query("CREATE TABLE base (v int, tenant bigint)");
    assert_eq!(made, "C:CREATE_TABLE Z:I");
    assert_eq!(holder.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(holder.value("SELECT count(*) FROM base"), "0");
    for number in 0..3 {
        let mut shard = shards.shard(number);
        shard.query("CREATE TABLE elsewhere (v int, tenant bigint)");
        shard.query("ALTER TABLE elsewhere OWNER TO alice");
    }
    other.send(&query("SELECT count(*) FROM elsewhere"));
    poll(PATIENCE, "the other one to wait", || {
        let pools = show(&mut shards.pgdog.admin(), "POOLS");
        let waits = pools.iter().any(|pool| pool["cl_waiting"] != "0");
        waits.then_some(())
    });
    for tenant in 0..4 {
        let sql = format!("INSERT INTO elsewhere VALUES (1, {tenant})");
        assert_eq!(holder.query(&sql), "C:INSERT_0_1 Z:T");
    }
    assert_eq!(holder.query("COMMIT"), "C:COMMIT Z:I");
    let answer = other.batches(1);
    assert!(answer.ends_with("C:SELECT_1 Z:I"), "{answer}");
    shards.pgdog.stop();
}

/// Views and functions that were made on the servers, or on another core, are none of the tables that are everywhere.
#[test]
fn views_and_functions_are_asked_for() {
    let (shards, mut clients) = started("defined_views");
    for (tenant, client) in clients.iter_mut().enumerate() {
        client.query(&format!("INSERT INTO base VALUES (1, {tenant})"));
    }
    let (maker, others) = clients.split_first_mut().unwrap();
    for number in 0..3 {
        let mut shard = shards.shard(number);
        shard.query("CREATE VIEW all_of_it AS SELECT v FROM base");
        shard.query("CREATE FUNCTION how_many() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM base'");
        shard.query("GRANT SELECT ON all_of_it TO alice");
    }
    for client in others.iter_mut() {
        assert_eq!(
            client.query("SELECT count(*) FROM all_of_it"),
            "E:0A000 Z:I"
        );
        assert_eq!(client.query("SELECT how_many()"), "E:0A000 Z:I");
    }
    let made = maker.query(
        "CREATE FUNCTION again() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM base'",
    );
    assert_eq!(made, "C:CREATE_FUNCTION Z:I");
    for client in others.iter_mut() {
        assert_eq!(client.query("SELECT again()"), "E:0A000 Z:I");
        assert_eq!(client.query("SELECT no_such_function()"), "E:42883 Z:I");
    }
    shards.pgdog.stop();
}

/// Names are looked for where the server does that, also if nobody has said so to pgdog.
#[test]
fn the_search_path_of_a_database_is_known() {
    let shards = Shards::start("defined_path", "workers = 2", ANY_TABLE);
    for number in 0..3 {
        let mut shard = shards.shard(number);
        let database = shard.value("SELECT current_database()");
        for sql in [
            &format!("ALTER DATABASE {database} SET search_path = app, public"),
            "CREATE SCHEMA app AUTHORIZATION alice",
            "CREATE TABLE public.same (v int)",
            "CREATE TABLE app.same (v int, tenant bigint)",
            "GRANT ALL ON app.same, public.same TO alice",
        ] {
            assert!(shard.query(sql).starts_with("C:"), "{sql}");
        }
    }
    assert_eq!(shards.pgdog.admin().query("RECONNECT"), "C:RECONNECT Z:I");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| shards.client()).collect();
    is_sharded(&shards, &mut clients, "app.same");
    let client = &mut clients[0];
    for tenant in 0..CLIENTS {
        let sql = format!("INSERT INTO same VALUES (1, {tenant})");
        assert_eq!(client.query(&sql), "C:INSERT_0_1 Z:I");
    }
    let twice = (2 * CLIENTS).to_string();
    assert_eq!(client.value("SELECT count(*) FROM same"), twice);
    assert_eq!(
        client.query("INSERT INTO public.same VALUES (1)"),
        "C:INSERT_0_1 Z:I"
    );
    assert_eq!(client.value("SELECT count(*) FROM public.same"), "1");
    client.query("SET search_path = public");
    assert_eq!(client.value("SELECT count(*) FROM same"), "1");
    shards.pgdog.stop();
}

/// Nobody but its transaction sees such a table, and it does not say which columns it has.
#[test]
fn a_table_of_the_open_transaction_is_used_by_its_key_or_not_at_all() {
    let (shards, mut clients) = started("defined_here");
    let client = &mut clients[0];
    let create = "CREATE TABLE own (v int, tenant bigint)";
    for sql in [
        "INSERT INTO own VALUES (1, 2)",
        "SELECT count(*) FROM own",
        "UPDATE own SET v = 2",
        "COPY own FROM STDIN",
    ] {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        assert_eq!(client.query(create), "C:CREATE_TABLE Z:T");
        assert_eq!(client.query(sql), "E:0A000 Z:E", "{sql}");
        assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
        // Nothing of such a text is done.
        if !sql.starts_with("COPY") {
            assert_eq!(client.query(&format!("{create}; {sql}")), "E:0A000 Z:I");
        }
    }
    // What says enough of itself, or is said to be everywhere.
    for (create, insert) in [
        ("CREATE TABLE plain (v int)", "INSERT INTO plain VALUES (1)"),
        (
            "CREATE TABLE IF NOT EXISTS base (v int)",
            "INSERT INTO base VALUES (1, 2)",
        ),
        (
            "ALTER TABLE base ADD w int",
            "INSERT INTO base (v, tenant) VALUES (1, 2)",
        ),
        ("ALTER TABLE base ADD w int", "SELECT count(*) FROM base"),
        ("CREATE INDEX ON base (v)", "INSERT INTO base VALUES (1, 2)"),
        ("DROP TABLE base", "SELECT 1"),
    ] {
        for sql in ["BEGIN", create, insert, "ROLLBACK"] {
            let answer = client.query(sql);
            assert!(!answer.contains("E:"), "{create}; {sql}: {answer}");
        }
    }
    for (define, sql) in [
        ("ALTER TABLE base DROP v", "INSERT INTO base VALUES (1)"),
        (
            "ALTER TABLE base RENAME TO renamed",
            "SELECT count(*) FROM renamed",
        ),
        ("DROP TABLE base", "SELECT count(*) FROM base"),
        (
            "CREATE VIEW seen AS SELECT * FROM base",
            "SELECT count(*) FROM seen",
        ),
        (
            "CREATE FUNCTION seen() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM base'",
            "SELECT seen()",
        ),
    ] {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
        assert!(client.query(define).starts_with("C:"), "{define}");
        assert_eq!(client.query(sql), "E:0A000 Z:E", "{define}; {sql}");
        assert_eq!(client.query("ROLLBACK"), "C:ROLLBACK Z:I");
    }
    assert_eq!(client.value("SELECT count(*) FROM base"), "0");
    for sql in [
        "BEGIN",
        create,
        "INSERT INTO own (v, tenant) VALUES (1, 2), (1, 2)",
        "COMMIT",
    ] {
        assert!(client.query(sql).starts_with("C:"), "{sql}");
    }
    let stored = shards.each("SELECT count(*) FROM own");
    let mut stored: Vec<_> = stored.iter().map(String::as_str).collect();
    stored.sort_unstable();
    assert_eq!(stored, ["0", "0", "2"]);
    assert_eq!(client.value("SELECT count(*) FROM own"), "2");
    shards.pgdog.stop();
}

/// Of a view whose rows are where its key says, and of one that is the same everywhere; of others nobody knows what a server's
/// part of them is.
#[test]
fn views_are_like_tables_where_each_server_has_its_part() {
    let (shards, mut clients) = started("defined_views");
    let mut client = clients.remove(0);
    for sql in [
        "CREATE TABLE plain (k int, w text)",
        "INSERT INTO plain VALUES (1, 'one'), (2, 'two')",
        "INSERT INTO base VALUES (1, 1)",
        "INSERT INTO base VALUES (2, 2)",
        "INSERT INTO base VALUES (3, 3)",
        "INSERT INTO base VALUES (2, 4)",
        "CREATE VIEW large AS SELECT tenant, v * 10 AS v FROM base WHERE v > 1",
        "CREATE VIEW joined AS SELECT s.tenant, p.w FROM large s JOIN plain p ON p.k * 10 = s.v",
        "CREATE VIEW everywhere AS SELECT upper(w) AS w FROM plain",
        "CREATE VIEW changed AS SELECT tenant, v FROM base",
        "CREATE VIEW last AS SELECT max(tenant) AS tenant FROM base",
        "CREATE VIEW called AS SELECT k AS tenant FROM plain",
        "CREATE VIEW other AS SELECT v AS tenant FROM base",
        "CREATE VIEW parts AS SELECT v FROM base",
    ] {
        let answer = client.query(sql);
        assert!(answer.starts_with("C:"), "{sql}: {answer}");
    }
    for (sql, expected) in [
        ("SELECT sum(v), count(*) FROM large", "70 3"),
        ("SELECT v FROM large WHERE tenant = 3", "30"),
        (
            "SELECT tenant, w FROM joined ORDER BY tenant",
            "2 two, 4 two",
        ),
        ("SELECT w FROM everywhere ORDER BY w", "ONE, TWO"),
        ("SELECT count(*) FROM everywhere", "2"),
        (
            "SELECT count(*) FROM base b JOIN changed c USING (tenant)",
            "4",
        ),
    ] {
        let rows = client.rows(sql);
        let rows: Vec<_> = rows.iter().map(|row| row.join(" ")).collect();
        assert_eq!(rows.join(", "), expected, "{sql}");
    }
    assert_eq!(
        client.query("UPDATE changed SET v = 7 WHERE tenant = 4"),
        "C:UPDATE_1 Z:I"
    );
    assert_eq!(
        client.query("DELETE FROM changed WHERE v = 7"),
        "C:DELETE_1 Z:I"
    );
    for sql in [
        "SELECT * FROM last",
        "SELECT * FROM called",
        "SELECT * FROM called WHERE tenant = 2",
        "SELECT * FROM other WHERE tenant = 2",
        "SELECT * FROM parts",
        "SELECT count(*) FROM base, parts",
    ] {
        assert_eq!(client.query(sql), "E:0A000 Z:I", "{sql}");
    }
    assert_eq!(
        client.value("/* pgdog_shard: 0 */ SELECT count(*) >= 0 FROM parts"),
        "t"
    );
    shards.pgdog.stop();
}
