//! Whom a pool serves and for how long it makes the others wait; servers that cannot be reached or will not let us in.

use std::net::TcpStream;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::postgres::{ALICE, MD5_USER, PASSWORD, PLAIN_USER};
use crate::support::process::{poll, PATIENCE};
use crate::support::scripted::{one_row, serve, Peer};
use crate::support::wire::{query, tagged, transcript, Message};
use crate::support::{Config, Postgres, Wire};

const ONE: &str = "T D:1 C:SELECT_1 Z:I";

/// Severity, code, message and detail of the error among these messages.
fn error(messages: &[Message]) -> String {
    let error = messages.iter().find(|message| message.tag == b'E');
    error.map_or(String::new(), |error| {
        let words = [b'V', b'C', b'M', b'D'].map(|name| error.field(name));
        words.join(" ").trim_end().to_owned()
    })
}

/// What comes unasked, up to the end of the stream.
fn end(client: &mut Wire) -> String {
    let mut messages = Vec::new();
    while let Ok(message) = client.try_read() {
        messages.push(message);
    }
    error(&messages)
}

fn scripted(general: &str, session: impl Fn(Peer) + Send + Sync + Clone + 'static) -> Config {
    let port = serve(session);
    Config::empty()
        .general(&format!("min_pool_size = 0\n{general}"))
        .server("odd", port, "")
        .user(ALICE, "odd", &format!("password = {PASSWORD:?}"))
}

/// Answers every query with one row.
fn answer(peer: &mut Peer) {
    while let Some(message) = peer.read() {
        if message.tag == b'Q' {
            peer.send(&one_row("1"));
        }
    }
}

fn refusal(code: &str, text: &str) -> Vec<u8> {
    tagged(
        b'E',
        format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0").as_bytes(),
    )
}

#[test]
fn checkout_timeout_ends_the_client_or_the_request() {
    let text = "53300 checkout timeout: no server connection free within 2000 ms";
    for recovery in ["drop", "rollback_only", "recover"] {
        let database = Postgres::shared().database("limits");
        let pgdog = Config::of(&database)
            .general(&format!(
                "default_pool_size = 1\ncheckout_timeout = 2000\nclient_connection_recovery = {recovery:?}"
            ))
            .start();
        let (mut holder, mut waiting) = (pgdog.client(&database), pgdog.client(&database));
        assert_eq!(holder.query("BEGIN"), "C:BEGIN Z:T");
        waiting.send(&query("SELECT 1"));
        if recovery == "recover" {
            let told = error(&waiting.read_until(b'Z'));
            assert_eq!(told, format!("ERROR {text}"));
            assert_eq!(holder.query("COMMIT"), "C:COMMIT Z:I");
            assert_eq!(waiting.query("SELECT 1"), ONE);
        } else {
            assert_eq!(end(&mut waiting), format!("FATAL {text}"), "{recovery}");
            assert_eq!(holder.query("COMMIT"), "C:COMMIT Z:I");
        }
        pgdog.stop();
    }
}

#[test]
fn client_login_timeout_ends_a_login_that_stalls() {
    let database = Postgres::shared().database("limits");
    let pgdog = Config::of(&database)
        .general("client_login_timeout = 2000")
        .start();
    let mut silent = Wire::open(pgdog.port());
    let text = "FATAL 57014 login not finished within 2000 ms (client_login_timeout)";
    assert_eq!(end(&mut silent), text);
    assert_eq!(pgdog.client(&database).query("SELECT 1"), ONE);
    pgdog.stop();
}

#[test]
fn connect_timeout_fails_those_who_wait() {
    // The first connection lets clients log in, later ones never answer.
    let logins = Arc::new(AtomicUsize::new(0));
    let pgdog = scripted(
        "connect_timeout = 2000\ndefault_pool_size = 2\nclient_connection_recovery = \"recover\"",
        move |mut peer| {
            if logins.fetch_add(1, Ordering::Relaxed) > 0 {
                return thread::park();
            }
            if peer.log_in(true).is_some() {
                while let Some(message) = peer.read() {
                    if message.body.starts_with(b"DIE") {
                        return;
                    }
                    peer.send(&one_row("1"));
                }
            }
        },
    )
    .start();
    let mut client = pgdog.client("odd");
    assert_eq!(client.query("SELECT 1"), ONE);
    assert!(client.query("DIE").starts_with("E:08006"));
    client.send(&query("SELECT 1"));
    let text = "ERROR 08001 cannot connect to server for database \"odd\" connect_timeout";
    assert_eq!(error(&client.read_until(b'Z')), text);
}

#[test]
fn a_server_that_is_starting_up_keeps_those_who_wait() {
    for code in ["57P03", "53300"] {
        let logins = Arc::new(AtomicUsize::new(0));
        let pgdog = scripted("checkout_timeout = 20000", move |mut peer| {
            if logins.fetch_add(1, Ordering::Relaxed) < 4 {
                return peer.send(&refusal(code, "not yet"));
            }
            if peer.log_in(true).is_some() {
                answer(&mut peer);
            }
        })
        .start();
        let mut client = pgdog.client("odd");
        assert_eq!(client.query("SELECT 1"), ONE, "{code}");
    }
}

/// Another server serves them, as if it were banned. Where there is none they wait for it.
#[test]
fn reads_leave_a_replica_that_has_no_connection_left() {
    let full = serve(|mut peer| peer.send(&refusal("53300", "sorry, too many clients already")));
    let well = serve(|mut peer| {
        if peer.log_in(true).is_some() {
            answer(&mut peer);
        }
    });
    let general = "checkout_timeout = 60000\nidle_healthcheck_interval = 0\n\
        load_balancing_strategy = \"round_robin\"";
    for (split, other) in [
        ("include_primary", None),
        ("include_primary_if_replica_banned", None),
        ("exclude_primary", Some(well)),
    ] {
        let mut config = Config::empty()
            .admin()
            .general(&format!("{general}\nread_write_split = {split:?}"))
            .server("odd", well, "")
            .server("odd", full, "role = \"replica\"");
        if let Some(other) = other {
            let lines = "role = \"replica\"\ndatabase_name = \"other\"";
            config = config.server("odd", other, lines);
        }
        let pgdog = config
            .user(ALICE, "odd", &format!("password = {PASSWORD:?}"))
            .start();
        let mut client = pgdog.client("odd");
        for _ in 0..10 {
            assert_eq!(client.query("SELECT 1"), ONE, "{split}");
        }
        assert!(pgdog.admin().rows("SHOW BANS").is_empty(), "{split}");
        pgdog.stop();
    }
    let pgdog = Config::empty()
        .general("checkout_timeout = 300\nread_write_split = \"exclude_primary\"")
        .general("idle_healthcheck_interval = 0\nclient_connection_recovery = \"recover\"")
        .server("odd", well, "")
        .server("odd", full, "role = \"replica\"")
        .user(ALICE, "odd", &format!("password = {PASSWORD:?}"))
        .start();
    let mut client = pgdog.client("odd");
    client.send(&query("SELECT 1"));
    let text = "ERROR 53300 checkout timeout: no server connection free within 300 ms";
    assert_eq!(error(&client.read_until(b'Z')), text);
    pgdog.stop();
}

/// It goes from one to the other as they are banned, and its time does not begin anew.
#[test]
fn what_a_read_has_waited_for_one_replica_counts_at_the_next() {
    let server = || {
        serve(|mut peer| {
            if peer.log_in(true).is_none() {
                return;
            }
            while let Some(message) = peer.read() {
                let held = memchr::memmem::find(&message.body, b"held").is_some();
                if message.tag == b'Q' && !held {
                    peer.send(&one_row("1"));
                }
            }
        })
    };
    let general = "workers = 1\ndefault_pool_size = 1\ncheckout_timeout = 1500\nidle_healthcheck_interval = 0\n\
        read_write_split = \"exclude_primary\"\nload_balancing_strategy = \"round_robin\"\n\
        client_connection_recovery = \"recover\"";
    let pgdog = Config::empty()
        .admin()
        .general(general)
        .server("odd", server(), "")
        .server("odd", server(), "role = \"replica\"")
        .server("odd", server(), "role = \"replica\"")
        .user(ALICE, "odd", &format!("password = {PASSWORD:?}"))
        .start();
    let mut holders = [pgdog.client("odd"), pgdog.client("odd")];
    for holder in &mut holders {
        assert_eq!(holder.query("SELECT 1"), ONE);
    }
    for holder in &mut holders {
        holder.send(&query("SELECT 'held'"));
    }
    let mut admin = pgdog.admin();
    let active = |admin: &mut Wire| {
        let rows = admin.rows("SHOW SERVERS");
        let active = rows
            .iter()
            .filter(|row| row.iter().any(|value| value == "active"));
        active.count()
    };
    poll(PATIENCE, "both replicas are held", || {
        (active(&mut admin) == 2).then_some(())
    });
    let pools = admin.rows("SHOW POOLS");
    let replicas = pools
        .into_iter()
        .filter(|row| row.iter().any(|value| value == "replica"));
    let replicas: Vec<_> = replicas.map(|row| row[0].clone()).collect();
    assert_eq!(replicas.len(), 2);
    let mut waiting = pgdog.client("odd");
    let told = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for pool in replicas.iter().cycle() {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                assert_eq!(admin.query(&format!("BAN {pool}")), "C:BAN Z:I");
                assert_eq!(admin.query(&format!("UNBAN {pool}")), "C:UNBAN Z:I");
            }
        });
        waiting.send(&query("SELECT 1"));
        let answer = catch_unwind(AssertUnwindSafe(|| waiting.read_until(b'Z')));
        told.store(true, Ordering::Relaxed);
        let text = "ERROR 53300 checkout timeout: no server connection free within 1500 ms";
        assert_eq!(error(&answer.unwrap()), text);
    });
}

/// A server that lets one connection in and refuses all others.
fn refuses(code: &'static str, text: &'static str) -> (Config, Arc<AtomicUsize>) {
    let logins = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&logins);
    let config = scripted(
        "client_connection_recovery = \"recover\"\ncheckout_timeout = 20000",
        move |mut peer| {
            if count.fetch_add(1, Ordering::Relaxed) > 0 {
                return peer.send(&refusal(code, text));
            }
            if peer.log_in(true).is_some() {
                let _ = peer.read();
            }
        },
    );
    (config, logins)
}

#[test]
fn a_missing_database_or_a_wrong_password_fails_those_who_wait_with_the_servers_words() {
    for (code, text, expected) in [
        (
            "3D000",
            "database \"x\" does not exist",
            "ERROR 08001 cannot connect to server for database \"odd\" database \"x\" does not exist (3D000)",
        ),
        (
            "28P01",
            "password authentication failed",
            "ERROR 08001 cannot connect to server for database \"odd\" password authentication failed (28P01)",
        ),
    ] {
        let (config, _) = refuses(code, text);
        let pgdog = config.start();
        let mut client = pgdog.client("odd");
        assert!(client.query("DIE").starts_with("E:08006"));
        client.send(&query("SELECT 1"));
        assert_eq!(error(&client.read_until(b'Z')), expected);
    }
}

#[test]
fn a_known_bad_password_is_not_tried_for_every_client() {
    let (config, logins) = refuses("28P01", "password authentication failed");
    let pgdog = config.general("workers = 1").start();
    let mut clients = (0..40).map(|_| pgdog.client("odd")).collect::<Vec<_>>();
    let mut requests = 0;
    assert!(clients[0].query("DIE").starts_with("E:08006"));
    for client in &mut clients {
        client.send(&query("SELECT 1"));
        requests += 1;
    }
    for client in &mut clients {
        assert!(error(&client.read_until(b'Z')).contains("28P01"));
    }
    let tried = logins.load(Ordering::Relaxed);
    assert!(tried <= 1 + 20, "{tried} logins for {requests} requests");
}

#[test]
fn a_cold_pool_opens_connections_in_parallel_as_many_as_are_waited_for() {
    let (begun, logins) = mpsc::channel::<()>();
    let (open, gate) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(std::sync::Barrier::new(4)),
    );
    let count = Arc::clone(&open);
    let pgdog = scripted("default_pool_size = 20\nworkers = 1", move |mut peer| {
        // The first lets clients log in; of the others none is let in before three of them are there.
        if count.fetch_add(1, Ordering::Relaxed) > 0 {
            let _ = begun.send(());
            gate.wait();
        }
        if peer.log_in(true).is_some() {
            while let Some(message) = peer.read() {
                if message.tag == b'Q' {
                    // In a transaction: the server is not free for the next.
                    peer.send(&tagged(b'C', b"BEGIN\0"));
                    peer.send(&tagged(b'Z', b"T"));
                }
            }
        }
    })
    .start();
    let mut clients = (0..5).map(|_| pgdog.client("odd")).collect::<Vec<_>>();
    for client in &mut clients {
        client.send(&query("BEGIN"));
    }
    for client in &mut clients {
        assert_eq!(client.batches(1), "C:BEGIN Z:T");
    }
    assert_eq!(logins.try_iter().count(), 4, "one for each who waited");
}

#[test]
fn three_users_of_one_database_are_served_alike() {
    let database = Postgres::shared().database("limits");
    Postgres::shared()
        .admin(&database)
        .query("CREATE TABLE t (who text); GRANT ALL ON t TO PUBLIC");
    let users = [ALICE, MD5_USER, PLAIN_USER];
    let mut config = Config::empty()
        .general("default_pool_size = 1\ncheckout_timeout = 60000")
        .database(&database, "");
    for user in users {
        config = config.user(user, &database, &format!("password = {PASSWORD:?}"));
    }
    let pgdog = config.start();
    // One user has far more clients than the others, and they wait; its queue is not theirs.
    let mut holder = pgdog.client(&database);
    assert_eq!(holder.query("BEGIN"), "C:BEGIN Z:T");
    let counts = [30, 3, 3];
    let mut clients = Vec::new();
    for (user, count) in users.into_iter().zip(counts) {
        for _ in 0..count {
            let mut client = Wire::connect(pgdog.port(), user, &database, PASSWORD);
            client.send(&query("INSERT INTO t SELECT current_user"));
            clients.push(client);
        }
    }
    for client in &mut clients[30..] {
        assert_eq!(client.batches(1), "C:INSERT_0_1 Z:I");
    }
    let crowd = "SELECT count(*) FROM t WHERE who = 'alice'";
    assert_eq!(Postgres::shared().value(&database, crowd), "0");
    assert_eq!(holder.query("COMMIT"), "C:COMMIT Z:I");
    for client in &mut clients[..30] {
        assert_eq!(client.batches(1), "C:INSERT_0_1 Z:I");
    }
    pgdog.stop();
}

#[test]
fn a_server_by_its_unix_socket_serves_every_core() {
    let postgres = Postgres::shared();
    let database = postgres.database("limits");
    let sockets = postgres.value("postgres", "SHOW unix_socket_directories");
    let pgdog = Config::empty()
        .general("default_pool_size = 4")
        .host(&database, &sockets, postgres.port(), "")
        .user(ALICE, &database, &format!("password = {PASSWORD:?}"))
        .start();
    let mut clients = (0..8).map(|_| pgdog.client(&database)).collect::<Vec<_>>();
    let sql = "SELECT coalesce(client_addr::text, 'unix') FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    for client in &mut clients {
        assert_eq!(client.value(sql), "unix");
    }
    // A cancel request goes the same way.
    let (key, mut other) = (clients[0].key(), postgres.admin(&database));
    clients[0].send(&query("SELECT pg_sleep(60)"));
    poll(PATIENCE, "the query to run", || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        (other.value(running) == "1").then_some(())
    });
    Wire::cancel(pgdog.port(), &key);
    assert!(clients[0].batches(1).ends_with("E:57014 Z:I"));
    pgdog.stop();
}

#[test]
fn pending_cancels_never_block_new_logins() {
    // Cancel requests are never answered; there is one server for them all, and room for another.
    let (told, cancels) = mpsc::channel();
    let pgdog = scripted("default_pool_size = 2\nworkers = 1", move |mut peer| {
        if peer.log_in(true).is_none() {
            let _ = told.send(());
            return thread::park();
        }
        while let Some(message) = peer.read() {
            if message.body.starts_with(b"SELECT 1") {
                peer.send(&one_row("1"));
            }
        }
    })
    .start();
    let mut stuck = pgdog.client("odd");
    stuck.send(&query("HANG"));
    for _ in 0..200 {
        Wire::cancel(pgdog.port(), &stuck.key());
    }
    let start = Instant::now();
    let mut other = pgdog.client("odd");
    assert_eq!(other.query("SELECT 1"), ONE);
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    let sent = cancels.try_iter().count();
    assert!(
        sent <= 8,
        "{sent} cancel requests at a time for one statement"
    );
}

/// Half of the files that may be open are for those who have not logged in; the others are not theirs to take.
#[test]
fn one_too_many_that_does_not_log_in_hears_so() {
    let database = Postgres::shared().database("limits");
    let pgdog = Config::of(&database)
        .through(&["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""])
        .start();
    let mut client = pgdog.client(&database);
    let silent: Vec<_> = (0..150)
        .map(|_| TcpStream::connect(("127.0.0.1", pgdog.port())).expect("it listens"))
        .collect();
    let told = || {
        let told = silent.iter().filter(|socket| {
            socket.set_nonblocking(true).expect("a socket");
            let mut bytes = [0; 256];
            let read = socket.peek(&mut bytes).unwrap_or(0);
            let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
            text.starts_with('E') && text.contains("53300") && text.contains("too many clients")
        });
        let told = told.count();
        (told > 0).then_some(told)
    };
    let told = poll(PATIENCE, "somebody to be turned away", told);
    assert!(told < 150, "some may stay");
    // Whoever is in notices nothing, and there is room again when they have left.
    assert_eq!(client.value("SELECT 1"), "1");
    drop(silent);
    let again = poll(PATIENCE, "room", || {
        Wire::login(pgdog.port(), ALICE, &database, PASSWORD).ok()
    });
    drop(again);
    pgdog.stop();
}

/// Pools in front of a server that has room for fewer connections than they may have; none is closed for its age, and
/// there are no checks that would count.
fn crowded(port: u16, pools: &[(&str, &str)]) -> Config {
    let mut config = Config::empty().general(
        "workers = 2\ndefault_pool_size = 4\nmin_pool_size = 0\nidle_timeout = 600000\n\
         checkout_timeout = 60000\nidle_healthcheck_interval = 0",
    );
    let mut databases: Vec<_> = pools.iter().map(|(_, database)| database).collect();
    databases.sort();
    databases.dedup();
    for database in databases {
        config = config.server(database, port, "");
    }
    for (user, database) in pools {
        config = config.user(user, database, &format!("password = {PASSWORD:?}"));
    }
    config
}

/// Clients of one pool that use as many connections at the same time.
fn together(port: u16, (user, database): (&str, &str), count: usize) {
    let mut clients: Vec<_> = (0..count)
        .map(|_| Wire::connect(port, user, database, PASSWORD))
        .collect();
    for client in &mut clients {
        client.send(&query("BEGIN"));
    }
    for client in &mut clients {
        assert_eq!(client.batches(1), "C:BEGIN Z:T", "{user} {database}");
    }
    for client in &mut clients {
        assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    }
}

#[test]
fn pools_of_a_full_server_make_room_for_each_other() {
    let mut postgres = Postgres::own();
    let database = postgres.database("crowded");
    let mut admin = postgres.admin("postgres");
    // Superusers have three of them.
    admin.query("ALTER SYSTEM SET max_connections = 6");
    admin.query("ALTER SYSTEM SET superuser_reserved_connections = 3");
    drop(admin);
    postgres.restart();
    let pools = [ALICE, MD5_USER, PLAIN_USER].map(|user| (user, &*database));
    let pgdog = crowded(postgres.port(), &pools).start();
    for pool in pools.repeat(2) {
        together(pgdog.port(), pool, 3);
    }
    // What is in use is waited for.
    let [mut one, mut other] = [ALICE, MD5_USER]
        .map(|user| [(); 3].map(|()| Wire::connect(pgdog.port(), user, &database, PASSWORD)));
    for client in &mut one {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    }
    for client in &mut other {
        client.send(&query("SELECT 1"));
    }
    pgdog.logged("server has no connection left");
    for client in &mut one {
        assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    }
    for client in &mut other {
        assert_eq!(client.batches(1), ONE);
    }
    pgdog.stop();
}

#[test]
fn who_has_no_part_in_a_limit_gives_nothing_up_for_it() {
    let postgres = Postgres::shared();
    let [one, other] = [(); 2].map(|()| postgres.database("limits"));
    let mut admin = postgres.admin("postgres");
    for role in ["crowd_one", "crowd_other"] {
        admin.query(&format!("CREATE ROLE {role} LOGIN PASSWORD {PASSWORD:?}").replace('"', "'"));
    }
    let pools = [
        ("crowd_one", &*one),
        ("crowd_one", &*other),
        ("crowd_other", &*one),
        ("crowd_other", &*other),
    ];
    let pid = "SELECT pg_backend_pid()";
    for (limit, crowd, free) in [
        // The connections of a user, and those to a database.
        ("ALTER ROLE crowd_one CONNECTION LIMIT", [0, 1], [2, 3]),
        (
            &format!("ALTER DATABASE {one} CONNECTION LIMIT"),
            [0, 2],
            [1, 3],
        ),
    ] {
        assert!(admin.query(&format!("{limit} 1")).starts_with("C:"));
        let pgdog = crowded(postgres.port(), &pools).start();
        let log_in = |at: usize| {
            let (user, database) = pools[at];
            Wire::connect(pgdog.port(), user, database, PASSWORD)
        };
        let mut bystanders = free.map(log_in);
        let before = bystanders.each_mut().map(|client| client.value(pid));
        let mut clients = crowd.map(log_in);
        for _ in 0..5 {
            for client in &mut clients {
                assert_eq!(client.query("SELECT 1"), ONE, "{limit}");
            }
        }
        let after = bystanders.each_mut().map(|client| client.value(pid));
        assert_eq!(after, before, "{limit}");
        pgdog.stop();
        assert!(admin.query(&format!("{limit} -1")).starts_with("C:"));
    }
}

/// A socket that could not be made tells nothing of the server.
#[test]
fn descriptors_that_are_lacking_are_no_news_of_a_server() {
    const FILES: usize = 100;
    let database = Postgres::shared().database("limits_files");
    let pgdog = Config::of(&database)
        .admin()
        .general("workers = 1\nauth_type = \"plain\"\ncheckout_timeout = 20000")
        .through(&[
            "sh",
            "-c",
            &format!("ulimit -n {FILES}; exec \"$0\" \"$@\""),
        ])
        .start();
    let mut admin = pgdog.admin();
    let mut clients = vec![pgdog.client(&database)];
    assert_eq!(clients[0].query("BEGIN"), "C:BEGIN Z:T");
    while pgdog.open_files() < FILES {
        clients.push(pgdog.client(&database));
    }
    let mut waiting = clients.swap_remove(1);
    waiting.send(&query("SELECT 1"));
    pgdog.logged("Too many open files");
    assert_eq!(clients[0].query("SELECT 1"), "T D:1 C:SELECT_1 Z:T");
    assert_eq!(admin.rows("SHOW BANS"), Vec::<Vec<String>>::new());
    clients.truncate(FILES / 4);
    assert_eq!(
        transcript(&waiting.read_until(b'Z')),
        "T D:1 C:SELECT_1 Z:I"
    );
    drop(clients);
    pgdog.stop();
}
