//! Metrics and health over HTTP, against a known load.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::http::{collector, converse, get, get_with, Scrape};
use crate::support::pgdog::program;
use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::process::{free_port, free_port_of_all_addresses, poll, Folder, PATIENCE};
use crate::support::programs::{pgbench, pgbench_tables, python};
use crate::support::wire::{query, run, startup, sync, VERSION_3_0};
use crate::support::{Config, Pgdog, Postgres, Wire};

const PREFIX: &str = "openmetrics_namespace = \"pgdog_\"";

fn start(config: Config) -> (Pgdog, u16) {
    let port = free_port_of_all_addresses();
    let pgdog = config
        .general(&format!("openmetrics_port = {port}\n{PREFIX}"))
        .start();
    (pgdog, port)
}

#[test]
fn counters_agree_with_what_was_done() {
    let postgres = Postgres::shared();
    let database = postgres.database("metrics");
    let (pgdog, port) = start(Config::of(&database).general("default_pool_size = 1"));
    let mut client = pgdog.client(&database);
    client.query("CREATE TABLE t (id int)");
    let before = Scrape::of(port);
    for _ in 0..3 {
        client.query("SELECT 1");
    }
    for statement in [
        "BEGIN",
        "INSERT INTO t VALUES (1), (2), (3)",
        "UPDATE t SET id = id + 1 WHERE id > 1",
        "DELETE FROM t WHERE id = 1",
        "COMMIT",
    ] {
        client.query(statement);
    }
    client.query("SELECT 1; SELECT 2");
    assert_eq!(client.query("SELECT 1/0"), "E:22012 Z:I");
    let batch = [run("SELECT 3", &[]), sync()].concat();
    client.send(&[&batch[..], &batch].concat());
    client.batches(2);
    let after = Scrape::of(port);
    let counted =
        |name: &str| after.sum(&format!("pgdog_{name}")) - before.sum(&format!("pgdog_{name}"));
    for (name, count) in [
        ("total_query_count", 12.0),
        ("total_xact_count", 8.0),
        ("total_server_errors", 1.0),
        ("total_server_parse_count", 2.0),
        ("total_bind_count", 2.0),
        ("total_rows_inserted", 3.0),
        ("total_rows_updated", 2.0),
        ("total_rows_deleted", 1.0),
        ("total_rollbacks", 0.0),
        ("total_connect_count", 0.0),
        ("query_duration_seconds_count", 12.0),
        ("server_query_duration_seconds_count", 12.0),
        ("transaction_duration_seconds_count", 8.0),
        ("errors", 0.0),
        ("out_of_sync", 0.0),
    ] {
        assert_eq!(counted(name), count, "{name}");
    }
    // The pipeline may come in two parts.
    let assigned = counted("total_server_assignment_count");
    assert!((7.0..=8.0).contains(&assigned), "{assigned}");
    assert_eq!(assigned, counted("checkout_wait_seconds_count"));
    assert_eq!(after.sum("pgdog_idle_in_transaction_seconds_count"), 4.0);
    assert!(counted("total_sent") > 200.0 && counted("total_received") > 300.0);
    let times = ["xact", "query"].map(|what| counted(&format!("total_{what}_time")));
    assert!(times[0] >= times[1] && times[1] > 0.0, "{times:?}");
    pgdog.stop();
}

#[test]
fn reads_are_told_from_writes_and_what_requests_cost_here() {
    let [primary, replica] = ["metrics", "metrics_r"].map(|name| Postgres::shared().database(name));
    let of = |database: &str, role: &str| format!("database_name = {database:?}\nrole = {role:?}");
    let config = Config::empty()
        .general("read_write_split = \"exclude_primary\"")
        .database("pair", &of(&primary, "primary"))
        .database("pair", &of(&replica, "replica"))
        .user(ALICE, "pair", &format!("password = {PASSWORD:?}"));
    let (pgdog, port) = start(config);
    let mut client = pgdog.client("pair");
    client.query("CREATE TABLE t (id int)");
    // The first one is looked up in the catalogue, which is a read, too.
    assert_eq!(client.value("SELECT 1"), "1");
    let before = Scrape::of(port);
    for _ in 0..3 {
        assert_eq!(client.value("SELECT 1"), "1");
    }
    client.query("INSERT INTO t VALUES (1)");
    let scrape = Scrape::of(port);
    for (name, labels, count) in [
        ("query_duration_seconds_count", "kind=\"read\"", 3.0),
        ("query_duration_seconds_count", "kind=\"write\"", 1.0),
        ("total_reads", "role=\"replica\"", 3.0),
        ("total_writes", "role=\"primary\"", 1.0),
    ] {
        let name = format!("pgdog_{name}");
        let counted = scrape.sum_where(&name, labels) - before.sum_where(&name, labels);
        assert_eq!(counted, count, "{name} {labels}");
    }
    // The first request of each server and every sixteenth, and it is a part of the whole.
    assert_eq!(scrape.sum("pgdog_proxy_overhead_seconds_count"), 2.0);
    assert!(scrape.sum("pgdog_proxy_overhead_seconds_sum") > 0.0);
    assert!(scrape.sum("pgdog_executor_poll_seconds_count") > 10.0);
    pgdog.stop();
}

#[test]
fn gauges_show_who_holds_and_who_waits() {
    let database = Postgres::shared().database("metrics");
    let (pgdog, port) =
        start(Config::of(&database).general("default_pool_size = 2\nmin_pool_size = 0"));
    let mut idle = pgdog.client(&database);
    idle.query("BEGIN");
    let mut pinned = pgdog.client(&database);
    pinned.query("CREATE TEMP TABLE mine (id int)");
    let mut waiting = pgdog.client(&database);
    waiting.send(&query("SELECT 1"));
    let expected = [
        ("cl_waiting", 1.0),
        ("max_connections", 2.0),
        ("clients", 3.0),
        ("clients_locked", 1.0),
        ("sv_active", 2.0),
        ("sv_idle", 0.0),
        ("sv_idle_xact", 1.0),
        ("sv_locked", 1.0),
        ("pool_healthy", 1.0),
        ("pool_paused", 0.0),
    ];
    poll(PATIENCE, "the waiting client", || {
        let scrape = Scrape::of(port);
        let found = expected.map(|(name, _)| (name, scrape.sum(&format!("pgdog_{name}"))));
        (found == expected && scrape.sum("pgdog_maxwait") > 0.0).then_some(())
    });
    idle.query("ROLLBACK");
    assert_eq!(waiting.batches(1), "T D:1 C:SELECT_1 Z:I");
    let scrape = Scrape::of(port);
    assert_eq!(scrape.sum("pgdog_cl_waiting"), 0.0);
    assert!(scrape.sum("pgdog_total_wait_time") > 0.0);
    assert_eq!(scrape.sum("pgdog_sv_idle_xact"), 0.0);
    pgdog.stop();
}

#[test]
fn an_abandoned_transaction_and_a_lost_server_are_counted() {
    let database = Postgres::shared().database("metrics");
    let (pgdog, port) = start(Config::of(&database).general("default_pool_size = 1"));
    let mut client = pgdog.client(&database);
    client.query("BEGIN");
    drop(client);
    poll(PATIENCE, "the rollback", || {
        (Scrape::of(port).sum("pgdog_total_rollbacks") == 1.0).then_some(())
    });
    let mut client = pgdog.client(&database);
    client.query("BEGIN");
    client.send(&query("SELECT pg_terminate_backend(pg_backend_pid())"));
    client.rest();
    poll(PATIENCE, "the loss", || {
        let scrape = Scrape::of(port);
        let counts = ["errors", "sv_active"].map(|name| scrape.sum(&format!("pgdog_{name}")));
        (counts == [1.0, 0.0]).then_some(())
    });
    pgdog.stop();
}

#[test]
fn scrapes_during_load_are_whole_and_only_grow() {
    let database = Postgres::shared().database("metrics");
    pgbench_tables(&database);
    let (pgdog, port) =
        start(Config::of(&database).general("default_pool_size = 5\ncheckout_timeout = 60000"));
    let done = AtomicBool::new(false);
    let (transactions, scrapes) = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let (mut last, mut scrapes) = (0.0, 0);
            while !done.load(Ordering::Relaxed) {
                let count = Scrape::of(port).sum("pgdog_total_xact_count");
                assert!(count >= last, "{count} after {last}");
                last = count;
                scrapes += 1;
            }
            scrapes
        });
        let arguments = ["-c", "40", "-j", "2", "-t", "200", "-S", "-M", "prepared"];
        let transactions = pgbench(pgdog.port(), &database, &arguments);
        done.store(true, Ordering::Relaxed);
        (transactions, scraper.join().expect("no panic"))
    });
    assert!(scrapes > 0, "never scraped under load");
    let scrape = Scrape::of(port);
    let counted = scrape.sum("pgdog_total_xact_count");
    // Each client prepares its statement, and pgbench looks at its tables first.
    let more = counted - transactions as f64 - 40.0;
    assert!((0.0..=5.0).contains(&more), "{counted}, not {transactions}");
    assert_eq!(counted, scrape.sum("pgdog_query_duration_seconds_count"));
    assert_eq!(scrape.sum("pgdog_total_query_count"), counted);
    pgdog.stop();
}

/// Logins by how they ended: whoever leaves amid one is counted, whoever only looks whether the port is open is not.
#[test]
fn logins_errors_and_cancel_requests_are_counted() {
    let database = Postgres::shared().database("metrics");
    let (pgdog, port) = start(Config::of(&database).admin());
    let mut client = pgdog.client(&database);
    let log_in = |user: &str, database: &str, password: &str| {
        Wire::login(pgdog.port(), user, database, password).is_ok()
    };
    assert!(!log_in(ALICE, &database, "wrong") && !log_in(ALICE, "nowhere", PASSWORD));
    drop(TcpStream::connect(("127.0.0.1", pgdog.port())));
    let mut abandoned = Wire::open(pgdog.port());
    let names = [("user", ALICE), ("database", &*database)];
    abandoned.send(&startup(VERSION_3_0, &names));
    assert_eq!(abandoned.expect(1), "R");
    drop(abandoned);
    Wire::cancel(pgdog.port(), &[7; 8]);
    client.send(&query("SELECT pg_sleep(60)"));
    poll(PATIENCE, "the statement to be cancelled", || {
        Wire::cancel(pgdog.port(), &client.key());
        (!client.is_silent()).then_some(())
    });
    assert!(client.batches(1).ends_with("E:57014 Z:I"));
    let expected = [
        (
            "client_logins",
            format!("database=\"{database}\",result=\"ok\""),
            1.0,
        ),
        (
            "client_logins",
            format!("database=\"{database}\",result=\"bad_password\""),
            1.0,
        ),
        (
            "client_logins",
            format!("database=\"{database}\",result=\"abandoned\""),
            1.0,
        ),
        (
            "client_logins",
            "database=\"\",result=\"bad_password\"".to_owned(),
            1.0,
        ),
        (
            "client_errors",
            format!("database=\"{database}\",sqlstate=\"28P01\""),
            1.0,
        ),
        (
            "client_errors",
            "database=\"\",sqlstate=\"28P01\"".to_owned(),
            1.0,
        ),
    ];
    let scrape = poll(PATIENCE, "all of it to be counted", || {
        let text = get(port, "/metrics").body;
        let counted = |(name, labels, value): &(&str, String, f64)| {
            text.contains(&format!("pgdog_{name}{{{labels}}} {value}\n"))
        };
        expected.iter().all(counted).then(|| Scrape::of(port))
    });
    assert_eq!(scrape.sum("pgdog_client_logins"), 4.0);
    assert_eq!(scrape.sum("pgdog_client_login_duration_seconds_count"), 4.0);
    assert!(scrape.sum("pgdog_cancels") >= 2.0);
    assert!(scrape.sum("pgdog_memory_bytes") > 1e6);
    pgdog.stop();
}

#[test]
fn averages_are_of_the_last_period() {
    let database = Postgres::shared().database("metrics");
    let (pgdog, port) = start(Config::of(&database).general("stats_period = 300"));
    let mut client = pgdog.client(&database);
    let average = || Scrape::of(port).sum("pgdog_avg_xact_count");
    poll(PATIENCE, "an average", || {
        client.query("SELECT 1");
        (average() > 0.0).then_some(())
    });
    poll(PATIENCE, "a quiet period", || {
        (average() == 0.0).then_some(())
    });
    pgdog.stop();
}

#[test]
fn both_text_formats_are_read_by_prometheus_parsers() {
    let database = Postgres::shared().database("metrics");
    // Labels that need escaping.
    let user = "al\"i\\ce";
    let login =
        format!("password = \"p\"\nserver_user = \"alice\"\nserver_password = {PASSWORD:?}");
    let config = Config::empty()
        .database(&database, "")
        .user(user, &database, &login);
    let (pgdog, port) = start(config);
    let mut client = Wire::connect(pgdog.port(), user, &database, "p");
    client.query("SELECT 1");
    let out = python("metrics_work.py", port, &database).ok();
    assert!(out.ends_with("all well\n"), "{out}");
    pgdog.stop();
}

#[test]
fn requests_are_answered_as_http_has_it() {
    let database = Postgres::shared().database("metrics");
    let (pgdog, port) = start(Config::of(&database));
    let answer = get_with(
        port,
        "/any/path?x=1",
        "Accept: application/openmetrics-text\r\n",
    );
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with("# EOF\n"));
    let head = converse(port, "HEAD /metrics HTTP/1.1\r\n\r\n").expect("an answer");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head
        .head
        .contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"));
    let post = converse(
        port,
        "POST /metrics HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
    )
    .expect("an answer");
    assert_eq!(post.status, 405);
    assert!(post.head.contains("Allow: GET, HEAD"));
    let garbage = converse(port, "\x16\x03\x01\x02").expect("an answer");
    assert_eq!(garbage.status, 400);
    // More idle connections than are served at once: they are closed when their time is up, or at once.
    let idle: Vec<_> = (0..50)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).expect("a connection"))
        .collect();
    for mut stream in &idle {
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nX: ");
    }
    poll(PATIENCE, "a scrape", || {
        let answer = converse(port, "GET /metrics HTTP/1.1\r\n\r\n");
        answer.filter(|answer| answer.status == 200)
    });
    drop(idle);
    pgdog.stop();
}

#[test]
fn connections_that_ask_nothing_keep_nobody_out() {
    let database = Postgres::shared().database("metrics");
    let port = free_port_of_all_addresses();
    let general = format!("healthcheck_port = {port}");
    let pgdog = Config::of(&database).general(&general).start();
    let idle = [(); 40].map(|()| TcpStream::connect(("127.0.0.1", port)).unwrap());
    for _ in 0..10 {
        assert_eq!(get(port, "/live").status, 200);
    }
    // The oldest have made room, the youngest may still ask.
    let mut youngest = idle.last().unwrap();
    youngest.write_all(b"GET /live HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    youngest.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!((&idle[0]).read(&mut [0]).unwrap(), 0);
    pgdog.stop();
}

#[test]
fn health_is_that_of_the_pools() {
    let postgres = Postgres::shared();
    let database = postgres.database("metrics");
    let port = free_port_of_all_addresses();
    let nowhere = free_port();
    let lines = format!("healthcheck_port = {port}\nconnect_timeout = 1000\ncheckout_timeout = 1000\nmin_pool_size = 0");
    let config = |server: u16| {
        Config::empty()
            .general(&lines)
            .server(&database, server, "")
            .user(ALICE, &database, &format!("password = {:?}", PASSWORD))
    };
    let pgdog = config(nowhere).start();
    let said = |path: &str| {
        let answer = get(port, path);
        (answer.status, answer.body)
    };
    let up = |status| (status, "up".to_owned());
    let down = |status| (status, "down".to_owned());
    // Nobody has tried yet.
    assert_eq!(
        [said("/"), said("/ready"), said("/live")],
        [up(200), up(200), up(200)]
    );
    let refused = Wire::login(pgdog.port(), ALICE, &database, PASSWORD);
    assert!(refused.is_err());
    assert_eq!(
        [said("/"), said("/ready"), said("/live")],
        [down(502), down(503), up(200)]
    );
    pgdog.reload(&config(postgres.port()));
    pgdog.client(&database).query("SELECT 1");
    assert_eq!([said("/any"), said("/ready")], [up(200), up(200)]);
    // On the way out no new clients are wanted, those that are here go on.
    let mut client = pgdog.client(&database);
    client.query("BEGIN");
    pgdog.signal(rustix::process::Signal::TERM);
    poll(PATIENCE, "the end of being ready", || {
        (said("/ready") == down(503)).then_some(())
    });
    assert_eq!([said("/"), said("/live")], [up(200), up(200)]);
    client.query("COMMIT");
    let mut pgdog = pgdog;
    assert!(pgdog.wait(PATIENCE).is_some_and(|status| status.success()));
}

#[test]
fn metrics_are_pushed_by_otlp() {
    let database = Postgres::shared().database("metrics");
    let (port, requests) = collector();
    let otel = format!(
        "[otel]\nendpoint = \"http://127.0.0.1:{port}/v1/metrics\"\npush_interval = 200\n\
         datadog_api_key = \"dog\"\nheaders = {{ \"x-more\" = \"yes\" }}"
    );
    let pgdog = Config::of(&database)
        .general(&otel)
        .through(&[
            "env",
            "OTEL_RESOURCE_ATTRIBUTES=zone=a%20b",
            "NODE_ID=node-7",
        ])
        .start();
    let mut client = pgdog.client(&database);
    for _ in 0..5 {
        client.query("SELECT 1");
    }
    // Differences add up to the total, in whatever pushes they come.
    let (mut sum, mut pushes) = (0.0, 0);
    while sum < 5.0 || pushes < 3 {
        let (head, body) = requests.recv_timeout(PATIENCE).expect("a push");
        let lower = head.to_ascii_lowercase();
        assert!(head.starts_with("POST /v1/metrics HTTP/1.1"), "{head}");
        for header in [
            "content-type: application/json",
            "dd-api-key: dog",
            "x-more: yes",
        ] {
            assert!(lower.contains(header), "{header} in {head}");
        }
        let request: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let resource = &request["resourceMetrics"][0];
        let attribute = |name: &str| {
            let attributes = resource["resource"]["attributes"].as_array()?;
            let found = attributes.iter().find(|pair| pair["key"] == name)?;
            found["value"]["stringValue"].as_str()
        };
        let known = ["service.name", "service.instance.id", "zone"].map(attribute);
        assert_eq!(known, [Some("pgdog"), Some("node-7"), Some("a b")]);
        assert!(attribute("host.name").is_some());
        let metrics = resource["scopeMetrics"][0]["metrics"]
            .as_array()
            .expect("metrics");
        assert!((1..=10).contains(&metrics.len()));
        for metric in metrics
            .iter()
            .filter(|metric| metric["name"] == "pgdog.total_query_count")
        {
            assert_eq!(metric["sum"]["aggregationTemporality"], 1);
            sum += metric["sum"]["dataPoints"][0]["asDouble"]
                .as_f64()
                .expect("a number");
            pushes += 1;
        }
    }
    assert_eq!(sum, 5.0);
    pgdog.stop();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let folder = Folder::new("taken");
    let config = format!(
        "[general]\nhost = \"127.0.0.1\"\nport = {}\nopenmetrics_port = {port}\n",
        free_port()
    );
    std::fs::write(folder.path().join("pgdog.toml"), config).expect("write pgdog.toml");
    let output = Command::new(program())
        .current_dir(folder.path())
        .output()
        .expect("run pgdog");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("cannot listen on openmetrics_port = {port}")),
        "{said}"
    );
}

#[test]
fn what_was_counted_of_a_database_that_goes_is_not_forgotten() {
    let postgres = Postgres::shared();
    let (stays, goes) = (postgres.database("metrics"), postgres.database("metrics"));
    let password = format!("password = {PASSWORD:?}");
    let port = free_port_of_all_addresses();
    let one = Config::of(&stays).general(&format!("openmetrics_port = {port}\n{PREFIX}"));
    let both = one
        .clone()
        .database(&goes, "")
        .host(&goes, "localhost", postgres.port(), "role = \"replica\"")
        .user(ALICE, &goes, &password);
    let pgdog = both.start();
    for _ in 0..3 {
        assert_eq!(pgdog.client(&goes).value("SELECT 1"), "1");
    }
    let counted = || Scrape::of(port).sum("pgdog_query_cache_misses");
    let before = counted();
    assert!(before >= 1.0, "{before}");
    pgdog.reload(&one);
    assert!(counted() >= before);
    pgdog.stop();
}
