//! The admin database: who gets in, which columns there are, and that the numbers are true.

use std::collections::HashMap;

use rustix::process::Signal;

use crate::support::pgdog::ADMIN_PASSWORD;
use crate::support::process::{poll, PATIENCE};
use crate::support::programs::{psql_with, python, script, Said};
use crate::support::wire::{
    bind, close, describe, execute, parse, query, run, startup, sync, transcript, Message,
    VERSION_3_0,
};
use crate::support::{Config, Pgdog, Postgres, Wire};

/// Columns of every SHOW, as dashboards know them: `i` int8, `j` int4, `n` numeric, `t` text, `b` bool.
const COLUMNS: &[(&str, &str)] = &[
    (
        "CLIENTS",
        "i id t user t database t addr n port t state t replication t connect_time t last_request n queries \
         n transactions n transactions_2pc n wait_time n query_time n transaction_time n bytes_received n bytes_sent \
         n errors t application_name b locked n prepared_statements",
    ),
    (
        "SERVERS",
        "i pool_id t database t user t addr n port t state t connect_time t request_time n remote_pid i client_id \
         n transactions n queries n rollbacks n prepared_statements n healthchecks n errors n bytes_received \
         n bytes_sent t last_sent t last_received n age t application_name",
    ),
    (
        "POOLS",
        "i id t database t user t addr n port n shard t role n cl_waiting n sv_idle n sv_active n sv_idle_xact \
         n sv_total n maxwait n maxwait_us t pool_mode b paused b banned b healthy n errors n re_synced \
         n out_of_sync n force_closed b online b schema_admin",
    ),
    ("CONFIG", "t name t value"),
    (
        "LISTS",
        "n databases n users n pools n free_clients n used_clients n free_servers n used_servers",
    ),
    (
        "BANS",
        "i id t database t user t addr n port n shard t role t ban_reason n ban_time_left",
    ),
    (
        "REPLICATION",
        "i id t database t user t addr n port n shard t role t replica_lag t pg_lsn t lsn_age t pg_is_in_recovery",
    ),
    (
        "PREPARED STATEMENTS",
        "t name t statement t rewrite n used_by n memory_used",
    ),
    (
        "TRANSACTIONS",
        "t database t user t transaction_name t transaction_state",
    ),
    (
        "TASKS",
        "i id t scope t type t status t inner_status t started_at t updated_at t elapsed i elapsed_ms",
    ),
    (
        "TABLE_COPIES",
        "t schema t table t status i rows t rows_human i bytes t bytes_human i bytes_per_sec t bytes_per_sec_human \
         t elapsed i elapsed_ms t sql",
    ),
    (
        "REPLICATION_SLOTS",
        "t host i port t database_name t name t lsn t lag i lag_bytes b copy_data t last_transaction \
         i last_transaction_ms",
    ),
    (
        "SCHEMA_SYNC",
        "t database t user i shard t kind t sync_state t started_at t elapsed i elapsed_ms t table_schema \
         t table_name t sql",
    ),
    ("INSTANCE_ID", "t instance_id"),
    ("VERSION", "t version"),
    (
        "DATABASES",
        "t name t host j port t database t force_user j pool_size j min_pool_size j reserve_pool_size \
         j server_lifetime t pool_mode t load_balance_hosts j max_connections j current_connections \
         j max_client_connections j current_client_connections j paused j disabled",
    ),
    (
        "USERS",
        "t name t pool_size t reserve_pool_size t pool_mode j max_user_connections j current_connections \
         j max_user_client_connections j current_client_connections",
    ),
    (
        "STATS_TOTALS",
        "t database n server_assignment_count n xact_count n query_count n bytes_received n bytes_sent n xact_time \
         n query_time n wait_time n client_parse_count n server_parse_count n bind_count n client_login_count",
    ),
    (
        "STATS_AVERAGES",
        "t database n server_assignment_count n xact_count n query_count n bytes_received n bytes_sent n xact_time \
         n query_time n wait_time n avg_client_parse_count n avg_server_parse_count n avg_bind_count \
         n avg_client_login_count",
    ),
    ("TOTALS", "t name n value"),
    ("STATE", "t key t value"),
    ("DNS_HOSTS", "t hostname i ttl t addrs"),
    ("DNS_ZONES", "t zonename i serial j count"),
    (
        "CORES",
        "n core n cpu n clients n servers n busy n mail_sent n mail_received n tasks n sockets n panics n moved_in",
    ),
    (
        "PINS",
        "i client t user t database t addr n port n server t reason n age",
    ),
    (
        "LATENCIES",
        "t database t user t metric i count n p50 n p90 n p99 n p999 n max",
    ),
    ("QUERY_CACHE", "t query n hits n direct n multi"),
    ("MEM", "t name j size j used j free j memtotal"),
];

/// What SHOW STATS shows twice, as total and as average.
const STATS: &str = "xact_count xact_2pc_count query_count server_assignment_count received sent xact_time \
    idle_xact_time query_time wait_time server_parse_count bind_count close_count errors cleaned rollbacks \
    connect_time connect_count reads writes auth_attempts rows_inserted rows_updated rows_deleted";

pub(super) fn start(label: &str, general: &str) -> (Pgdog, String) {
    let database = Postgres::shared().database(label);
    let pgdog = Config::of(&database).general(general).admin().start();
    (pgdog, database)
}

/// A SHOW as rows of named values.
#[track_caller]
pub(super) fn show(admin: &mut Wire, what: &str) -> Vec<HashMap<String, String>> {
    admin.send(&query(&format!("SHOW {what}")));
    let messages = admin.read_until(b'Z');
    assert_eq!(messages[0].tag, b'T', "{what}: {}", transcript(&messages));
    let names = messages[0].columns();
    let row = |row: &Message| {
        let values = row.values().into_iter().map(Option::unwrap_or_default);
        names
            .iter()
            .map(|(name, _)| name.clone())
            .zip(values)
            .collect()
    };
    let rows = messages.iter().filter(|message| message.tag == b'D');
    rows.map(row).collect()
}

/// The only row.
#[track_caller]
pub(super) fn one(admin: &mut Wire, what: &str) -> HashMap<String, String> {
    let mut rows = show(admin, what);
    assert_eq!(rows.len(), 1, "{what}: {rows:?}");
    rows.remove(0)
}

/// Some values of a row, in this order.
pub(super) fn values(row: &HashMap<String, String>, names: &str) -> String {
    let values = names.split_whitespace().map(|name| row[name].as_str());
    values.collect::<Vec<_>>().join(" ")
}

#[test]
fn columns_are_those_that_dashboards_know() {
    let (pgdog, _) = start("admin", "");
    let mut admin = pgdog.admin();
    let stats: String = ["total", "avg"]
        .iter()
        .flat_map(|prefix| {
            STATS
                .split_whitespace()
                .map(move |name| format!(" n {prefix}_{name}"))
        })
        .collect();
    let stats = format!("t database t user t addr n port n shard t role{stats}");
    let all = COLUMNS.iter().map(|(what, columns)| (*what, *columns));
    for (what, expected) in all.chain([("STATS", stats.as_str())]) {
        admin.send(&query(&format!("show {};", what.to_lowercase())));
        let messages = admin.read_until(b'Z');
        let found: Vec<_> = messages[0]
            .columns()
            .into_iter()
            .map(|(name, oid)| {
                let letter = match oid {
                    16 => 'b',
                    20 => 'i',
                    23 => 'j',
                    25 => 't',
                    1700 => 'n',
                    other => panic!("{what}.{name}: type {other}"),
                };
                format!("{letter} {name}")
            })
            .collect();
        assert_eq!(found.join(" "), expected, "{what}");
        // Described without being run, it has the same columns.
        let sql = format!("SHOW {what}");
        admin.send(&[parse("", &sql), describe(b'S', ""), sync()].concat());
        let described = admin.read_until(b'Z');
        assert_eq!(described[2].columns(), messages[0].columns(), "{what}");
    }
}

#[test]
fn tags_are_the_commands_words_with_their_irregularities() {
    let (pgdog, _) = start("admin", "");
    let mut admin = pgdog.admin();
    for (command, tag) in [
        ("SHOW POOLS", "C:SHOW_POOLS"),
        ("SHOW BANS", "C:SHOW_BANS"),
        ("SHOW CONFIG", "C:SHOW"),
        ("SHOW SERVERS", "C:SHOW"),
        ("SHOW PREPARED", "C:SHOW_PREPARED_STATEMENTS"),
        ("SHOW VERSION", "C:SHOW_VERSION"),
        ("BEGIN", "C:BEGIN"),
    ] {
        let said = admin.query(command);
        assert!(said.contains(tag), "{command}: {said}");
    }
    let version = one(&mut admin, "VERSION");
    assert!(version["version"].starts_with("pgdog v"), "{version:?}");
    let help = admin.query("SHOW HELP");
    assert!(help.starts_with("N:00000 C:SHOW Z:"), "{help}");
}

#[test]
fn errors_leave_the_session_alive() {
    let (pgdog, _) = start("admin", "");
    let mut admin = pgdog.admin();
    for (command, code) in [
        ("FROBNICATE", "42601"),
        ("SHOW NOTHING", "42601"),
        ("SHOW CLIENTS nothing", "42601"),
        ("PAUSE a b c", "42601"),
        ("SHOW FDS", "0A000"),
        ("RESHARD a b c", "0A000"),
        ("SUSPEND", "0A000"),
    ] {
        assert_eq!(admin.query(command), format!("E:{code} Z:I"), "{command}");
    }
    // The first statement's result, then the error, and nothing of the third.
    let said = admin.query("SHOW STATE; SHOW FDS; SHOW STATE");
    assert_eq!(
        said,
        "T D:active|yes D:paused|no D:suspended|no C:SHOW_STATE E:0A000 Z:I"
    );
    // What is not understood as a whole is not begun.
    assert_eq!(admin.query("SHOW STATE; FROBNICATE"), "E:42601 Z:I");
    assert_eq!(admin.query(""), "I Z:I");
}

#[test]
fn it_has_its_own_password_whatever_others_need() {
    let database = Postgres::shared().database("admin");
    for auth_type in ["scram", "md5", "plain", "trust"] {
        let pgdog = Config::of(&database)
            .general(&format!("auth_type = {auth_type:?}"))
            .admin()
            .start();
        let code = |user: &str, name: &str, password: &str| {
            let refused = Wire::login(pgdog.port(), user, name, password).err()?;
            Some(refused.0.last()?.field(b'C'))
        };
        assert_eq!(code("admin", "admin", ADMIN_PASSWORD), None, "{auth_type}");
        assert_eq!(
            code("admin", "pgbouncer", ADMIN_PASSWORD),
            None,
            "{auth_type}"
        );
        for (user, password) in [
            ("admin", "hunter2"),
            ("admin", ""),
            ("alice", "hunter2"),
            ("alice", ADMIN_PASSWORD),
        ] {
            let refused = code(user, "admin", password);
            assert_eq!(
                refused.as_deref(),
                Some("28P01"),
                "{auth_type} {user} {password}"
            );
        }
    }
}

#[test]
fn without_a_password_nobody_gets_in() {
    let database = Postgres::shared().database("admin");
    let pgdog = Config::of(&database)
        .general("auth_type = \"trust\"")
        .start();
    for password in ["", "admin", "random"] {
        let refused = Wire::login(pgdog.port(), "admin", "admin", password)
            .err()
            .unwrap();
        assert_eq!(refused.0.last().unwrap().field(b'C'), "28P01");
    }
}

#[test]
fn clients_servers_and_pools_are_summed_over_cores() {
    let (pgdog, database) = start("admin", "default_pool_size = 4\nmin_pool_size = 0");
    let mut clients: Vec<_> = (0..6).map(|_| pgdog.client(&database)).collect();
    // Two hold a server, two have one for a moment, two never.
    assert_eq!(
        clients[0].query("BEGIN; CREATE TABLE t (id int)"),
        "C:BEGIN C:CREATE_TABLE Z:T"
    );
    assert_eq!(
        clients[1].query("SELECT pg_advisory_lock(7)"),
        "T D: C:SELECT_1 Z:I"
    );
    assert_eq!(clients[2].query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
    assert_eq!(clients[3].query("SELECT 1/0"), "E:22012 Z:I");
    let mut admin = pgdog.admin();

    let rows = show(&mut admin, "CLIENTS");
    assert_eq!(rows.len(), 7, "{rows:?}");
    let id = |client: &Wire| {
        let key = client.key();
        u32::from_be_bytes(key[..4].try_into().unwrap()).to_string()
    };
    let of = |client: &Wire| rows.iter().find(|row| row["id"] == id(client)).unwrap();
    let names = "user state locked queries transactions errors";
    assert_eq!(
        values(of(&clients[0]), names),
        "alice idle in transaction f 1 0 0"
    );
    assert_eq!(values(of(&clients[1]), names), "alice idle t 1 1 0");
    assert_eq!(values(of(&clients[2]), names), "alice idle f 1 1 0");
    assert_eq!(values(of(&clients[3]), names), "alice idle f 1 1 1");
    assert_eq!(values(of(&clients[4]), names), "alice idle f 0 0 0");
    assert_eq!(
        values(of(&admin), "user database state"),
        "admin admin active"
    );

    let pin = one(&mut admin, "PINS");
    assert_eq!(
        values(&pin, "client user database reason"),
        format!("{} alice {database} advisory lock", id(&clients[1]))
    );
    let locks = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 7";
    assert_eq!(pin["server"], Postgres::shared().value(&database, locks));

    // One that was asked for and came late may be on its way.
    poll(PATIENCE, "as many servers as connections", || {
        let servers = admin.rows("SHOW SERVERS").len();
        (servers == Postgres::shared().connections(&database)).then_some(())
    });
    let servers = show(&mut admin, "SERVERS client_id, remote_pid, state");
    let holder = |client: &Wire| {
        let server = servers.iter().find(|row| row["client_id"] == id(client));
        server.map(|row| row["remote_pid"].clone())
    };
    assert_eq!(holder(&clients[1]), Some(pin["server"].clone()));
    assert!(holder(&clients[0]).is_some() && holder(&clients[2]).is_none());
    assert_eq!(servers.len(), Postgres::shared().connections(&database));

    let pool = one(&mut admin, "POOLS");
    let names = "database user cl_waiting sv_active sv_idle_xact pool_mode paused healthy online";
    assert_eq!(
        values(&pool, names),
        format!("{database} alice 0 2 1 transaction f t t")
    );
    assert_eq!(pool["sv_total"], servers.len().to_string());

    let cores = show(&mut admin, "CORES");
    let sum = |name: &str| {
        cores
            .iter()
            .map(|core| core[name].parse::<usize>().unwrap())
            .sum::<usize>()
    };
    assert_eq!(sum("clients"), 7);
    assert_eq!(sum("servers"), servers.len());
    let lists = one(&mut admin, "LISTS");
    let names = "databases users pools free_clients used_clients free_servers used_servers";
    assert_eq!(
        values(&lists, names),
        format!("1 1 1 0 7 0 {}", servers.len())
    );
    let entry = one(&mut admin, "DATABASES");
    let names = "name port pool_size current_client_connections current_connections";
    let port = Postgres::shared().port();
    assert_eq!(
        values(&entry, names),
        format!("{database} {port} 4 6 {}", servers.len())
    );

    assert_eq!(clients[0].query("ROLLBACK"), "C:ROLLBACK Z:I");
    assert_eq!(
        clients[1].query("SELECT pg_advisory_unlock(7)"),
        "T D:t C:SELECT_1 Z:I"
    );
    // The server is asked whether it still holds something after the client has its answer.
    poll(PATIENCE, "the pin to be gone", || {
        show(&mut admin, "PINS").is_empty().then_some(())
    });
    assert_eq!(one(&mut admin, "POOLS")["sv_active"], "0");
    drop(clients.pop());
    poll(PATIENCE, "a client to be gone", || {
        (show(&mut admin, "CLIENTS").len() == 6).then_some(())
    });
}

#[test]
fn a_client_that_waits_is_seen_waiting() {
    let (pgdog, database) = start("admin", "default_pool_size = 1");
    let mut first = pgdog.client(&database);
    first.query("BEGIN");
    let mut second = pgdog.client(&database);
    second.send(&query("SELECT 1"));
    let mut admin = pgdog.admin();
    poll(PATIENCE, "the client to wait", || {
        (one(&mut admin, "POOLS")["cl_waiting"] == "1").then_some(())
    });
    let waits =
        |row: &HashMap<String, String>| row["state"] == "waiting" && row["wait_time"] != "0.000";
    poll(PATIENCE, "its wait to be seen", || {
        show(&mut admin, "CLIENTS").iter().any(waits).then_some(())
    });
    first.query("COMMIT");
    assert_eq!(transcript(&second.read_until(b'Z')), "T D:1 C:SELECT_1 Z:I");
    assert_eq!(one(&mut admin, "POOLS")["cl_waiting"], "0");
}

#[test]
fn the_extended_protocol_without_parameters() {
    let (pgdog, _) = start("admin", "");
    let mut admin = pgdog.admin();
    let state = "D:active|yes D:paused|no D:suspended|no";
    let said = admin.ask(&[
        parse("s", "SHOW STATE"),
        describe(b'S', "s"),
        bind("", "s", &[]),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(said, format!("1 t T 2 {state} C:SHOW_STATE Z:I"));
    // A portal is continued where it was left.
    let said = admin.ask(&[
        bind("p", "s", &[]),
        execute("p", 1),
        execute("p", 1),
        execute("p", 5),
        close(b'P', "p"),
        sync(),
    ]);
    assert_eq!(
        said,
        "2 D:active|yes s D:paused|no s D:suspended|no C:SHOW_STATE 3 Z:I"
    );
    // After an error everything up to Sync is ignored.
    let said = admin.ask(&[bind("", "nothing", &[]), execute("", 0), sync()]);
    assert_eq!(said, "E:26000 Z:I");
    let said = admin.ask(&[bind("", "s", &[Some("1")]), execute("", 0), sync()]);
    assert_eq!(said, "E:0A000 Z:I");
    assert_eq!(admin.ask(&[run("", &[]), sync()]), "1 2 I Z:I");
    assert_eq!(
        admin.ask(&[run("SHOW FDS", &[]), sync()]),
        "1 2 E:0A000 Z:I"
    );
    assert_eq!(
        admin.ask(&[run("SHOW STATE", &[]), sync()]),
        format!("1 2 {state} C:SHOW_STATE Z:I")
    );
}

#[test]
fn set_changes_a_setting_on_all_cores_at_once() {
    let (pgdog, database) = start("admin", "default_pool_size = 1\ncheckout_timeout = 20000");
    let mut admin = pgdog.admin();
    let mut clients: Vec<_> = (0..4).map(|_| pgdog.client(&database)).collect();
    clients[0].query("BEGIN");
    for client in &mut clients[1..] {
        client.send(&query("BEGIN"));
    }
    poll(PATIENCE, "three to wait", || {
        (one(&mut admin, "POOLS")["cl_waiting"] == "3").then_some(())
    });
    assert_eq!(admin.query("SET default_pool_size TO 4"), "C:SET Z:I");
    for client in &mut clients[1..] {
        assert_eq!(transcript(&client.read_until(b'Z')), "C:BEGIN Z:T");
    }
    let mut setting = |name: &str| {
        let rows = show(&mut admin, "CONFIG");
        rows.iter().find(|row| row["name"] == name).unwrap()["value"].clone()
    };
    assert_eq!(setting("default_pool_size"), "4");
    assert_eq!(setting("checkout_timeout"), "20s", "others stay");
    for (command, reply) in [
        ("SET query_timeout = '1500'", "C:SET Z:I"),
        ("SET client_encoding TO 'UTF8'", "C:SET Z:I"),
        ("SET canonicalize_type_information TO on", "C:SET Z:I"),
        ("SET nonsense TO 5", "E:42704 Z:I"),
        ("SET port TO 5", "E:42704 Z:I"),
        ("SET default_pool_size TO none", "E:22023 Z:I"),
        ("SET default_pool_size TO 0", "E:22023 Z:I"),
        ("SET auth_type TO secret", "E:22023 Z:I"),
    ] {
        assert_eq!(admin.query(command), reply, "{command}");
    }
    let mut sleeper = pgdog.client(&database);
    clients[0].query("COMMIT");
    sleeper.send(&query("SELECT pg_sleep(10)"));
    sleeper.expect_cancelled('I');
}

#[test]
fn an_administrator_ends_another() {
    let (pgdog, _) = start("admin", "");
    let (mut one, mut other) = (pgdog.admin(), pgdog.admin());
    let rows = show(&mut one, "CLIENTS");
    let ids: Vec<_> = rows.iter().map(|row| row["id"].clone()).collect();
    let mine = i32::from_be_bytes(*one.key().first_chunk::<4>().unwrap()).to_string();
    assert_eq!(ids.len(), 2);
    let id = ids.iter().find(|id| **id != mine).expect("the other one");
    assert_eq!(one.query(&format!("KILL_CLIENT {id}")), "C:KILL_CLIENT Z:I");
    assert_eq!(other.rest(), "E:57P01");
    pgdog.stop();
}

#[test]
fn an_admin_that_does_not_read_harms_nobody() {
    let (pgdog, database) = start("admin", "");
    let mut stalled = pgdog.admin();
    stalled.patience(std::time::Duration::from_millis(300));
    // Far more than the sockets hold: it is not read, and so not asked for either.
    let many = query("SHOW CONFIG").repeat(1000);
    while stalled.try_send(&many).is_ok() {}
    let mut client = pgdog.client(&database);
    let mut admin = pgdog.admin();
    for _ in 0..50 {
        assert_eq!(client.query("SELECT 1"), "T D:1 C:SELECT_1 Z:I");
        assert_eq!(one(&mut admin, "POOLS")["sv_active"], "0");
    }
    assert!(pgdog.forget_peak() < 200_000, "kB");
    pgdog.stop();
}

#[test]
fn a_shutdown_lets_administrators_in_and_does_not_wait_for_them() {
    let (mut pgdog, database) = start("admin", "");
    let mut before = pgdog.admin();
    let mut client = pgdog.client(&database);
    client.query("BEGIN; SELECT 1");
    pgdog.signal(Signal::TERM);
    poll(PATIENCE, "clients to be refused", || {
        let mut wire = Wire::open(pgdog.port());
        wire.send(&startup(
            VERSION_3_0,
            &[("user", "alice"), ("database", &database)],
        ));
        let refused = wire.authenticate("alice", "hunter2").err()?.0;
        (refused.last()?.field(b'C') == "57P03").then_some(())
    });
    let mut during = pgdog.admin();
    let pool = one(&mut during, "POOLS");
    assert_eq!(values(&pool, "sv_active sv_idle_xact"), "1 1");
    assert_eq!(one(&mut before, "POOLS")["sv_active"], "1");
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    assert_eq!(client.rest(), "E:57P01");
    assert_eq!(pgdog.wait(PATIENCE).unwrap().code(), Some(0));
    assert_eq!(before.rest(), "E:57P01");
    assert_eq!(during.rest(), "E:57P01");
}

#[test]
fn psql_reads_it() {
    let (pgdog, database) = start("admin", "");
    let user = format!("user=admin password={ADMIN_PASSWORD} dbname=pgbouncer");
    let arguments = ["-d", &user, "-c", "SHOW DATABASES", "-c", "SHOW STATE"];
    let out = psql_with(pgdog.port(), &database, &arguments).ok();
    assert!(out.contains(&format!("{database}|127.0.0.1|")), "{out}");
    assert!(out.ends_with("suspended|no\n"), "{out}");
}

/// Runs a script of `tests/drivers` as the administrator.
fn check_driver(run: impl Fn(u16, &str) -> Said) {
    let (pgdog, _) = start("admin", "cross_shard_disabled = true");
    let out = run(pgdog.port(), ADMIN_PASSWORD).ok();
    assert!(out.ends_with("all well\n"), "{out}");
}

#[test]
fn psycopg_and_asyncpg_read_it() {
    check_driver(|port, password| python("admin_work.py", port, password));
}

#[test]
fn node_postgres_reads_it() {
    check_driver(|port, password| script("node", &[], "admin_work.js", port, password));
}

#[test]
fn pgjdbc_reads_it() {
    let jar = ["-cp", "/usr/share/java/postgresql.jar"];
    check_driver(|port, password| script("java", &jar, "AdminWork.java", port, password));
}
