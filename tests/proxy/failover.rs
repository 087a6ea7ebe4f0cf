//! A primary and its replicas change places, hang and die while clients read and write.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::process::{poll, PATIENCE};
use crate::support::replicas::SERVERS;
use crate::support::wire::query;
use crate::support::{Config, Pgdog, Postgres, Trio, Wire};

use super::written::{pause, resume};

/// Time between two checks of a server.
pub(crate) const CHECK_INTERVAL_MS: u64 = 1_000;

/// What a client is told of a server that went away while its statement was there: by the server, and by us.
const OF_THE_DYING: [&str; 5] = ["57P01", "57P02", "08006", "08007", "lost"];

/// pgdog in front of the three, whose roles it finds out.
pub(crate) fn pgdog(trio: &Trio, general: &str) -> Pgdog {
    pgdog_before(&ports(trio), general)
}

pub(crate) fn ports(trio: &Trio) -> Vec<u16> {
    (0..SERVERS).map(|server| trio.port(server)).collect()
}

/// The same by other ports.
pub(crate) fn pgdog_before(ports: &[u16], general: &str) -> Pgdog {
    pgdog_of(ports, general, &[(ALICE, "")])
}

/// The same with these users, and what else is said of them.
fn pgdog_of(ports: &[u16], general: &str, users: &[(&str, &str)]) -> Pgdog {
    let mut config = Config::empty().admin().general(&format!(
        "lsn_check_delay = 0\nlsn_check_interval = {CHECK_INTERVAL_MS}\nlsn_check_timeout = {CHECK_INTERVAL_MS}\n\
         idle_healthcheck_delay = 0\nidle_healthcheck_interval = {CHECK_INTERVAL_MS}\n\
         healthcheck_timeout = {CHECK_INTERVAL_MS}\nconnect_timeout = {CHECK_INTERVAL_MS}\n\
         checkout_timeout = 20000\nclient_connection_recovery = \"recover\"\n{general}"
    ));
    for port in ports {
        config = config.server("app", *port, "role = \"auto\"");
    }
    for (user, more) in users {
        config = config.user(user, "app", &format!("password = {PASSWORD:?}\n{more}"));
    }
    config.start()
}

/// What clients of one kind have met with.
#[derive(Default)]
struct Tally {
    done: usize,
    /// By SQLSTATE, with the last time.
    errors: BTreeMap<String, (usize, Instant)>,
    /// Longest time of a request that went well.
    slowest: Duration,
}

impl Tally {
    fn count(&self) -> usize {
        self.errors.values().map(|(count, _)| count).sum()
    }

    fn last_error(&self) -> Option<Instant> {
        self.errors.values().map(|(_, last)| *last).max()
    }

    fn codes(&self) -> Vec<&str> {
        self.errors.keys().map(String::as_str).collect()
    }
}

/// Clients that read and write until they are told to stop; those that are thrown out come back.
struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<HashSet<(usize, usize)>>>,
    reads: Arc<Mutex<Tally>>,
    writes: Arc<Mutex<Tally>>,
}

struct Client {
    port: u16,
    greeting: &'static str,
    wire: Option<Wire>,
}

impl Client {
    /// Errors: the SQLSTATE, or `lost` if the connection ended without one.
    fn run(&mut self, sql: &str) -> Result<(), String> {
        if self.wire.is_none() {
            let wire = Wire::login(self.port, ALICE, "app", PASSWORD).map_err(|refused| {
                refused
                    .0
                    .last()
                    .map_or_else(|| "lost".to_owned(), |last| last.field(b'C'))
            })?;
            self.wire = Some(wire);
            if !self.greeting.is_empty() {
                self.ask(self.greeting)?;
            }
        }
        self.ask(sql)
    }

    fn ask(&mut self, sql: &str) -> Result<(), String> {
        let wire = self.wire.as_mut().expect("it is logged in");
        let mut error = None;
        if wire.try_send(&query(sql)).is_ok() {
            while let Ok(message) = wire.try_read() {
                match message.tag {
                    b'E' => error = Some(message.field(b'C')),
                    b'Z' => return error.map_or(Ok(()), Err),
                    _ => {}
                }
            }
        }
        self.wire = None;
        Err(error.unwrap_or_else(|| "lost".to_owned()))
    }
}

impl Traffic {
    fn start(port: u16, writers: usize, readers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (reads, writes) = (Arc::default(), Arc::default());
        let threads = (0..writers + readers).map(|client| {
            let writer = client < writers;
            let tally: &Arc<Mutex<Tally>> = if writer { &writes } else { &reads };
            let (stop, tally) = (Arc::clone(&stop), Arc::clone(tally));
            std::thread::spawn(move || {
                let greeting = if writer {
                    ""
                } else {
                    "SET pgdog.role = 'replica'"
                };
                let mut connection = Client {
                    port,
                    greeting,
                    wire: None,
                };
                let mut acknowledged = HashSet::new();
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let sql = match writer {
                        true => format!("INSERT INTO t VALUES ({client}, {number})"),
                        false => format!("SELECT count(*) FROM t WHERE number = {number}"),
                    };
                    let began = Instant::now();
                    let outcome = connection.run(&sql);
                    let mut tally = tally.lock().expect("no panic while held");
                    match outcome {
                        Ok(()) => {
                            tally.done += 1;
                            tally.slowest = tally.slowest.max(began.elapsed());
                            if writer {
                                acknowledged.insert((client, number));
                            }
                        }
                        Err(code) => {
                            let now = Instant::now();
                            let error = tally.errors.entry(code).or_insert((0, now));
                            *error = (error.0 + 1, now);
                        }
                    }
                    drop(tally);
                    std::thread::sleep(Duration::from_millis(2));
                }
                acknowledged
            })
        });
        let threads = threads.collect();
        Self {
            stop,
            threads,
            reads,
            writes,
        }
    }

    /// Waits until so many more reads and writes have succeeded.
    fn go_on(&self, requests: usize) {
        let done = |tally: &Arc<Mutex<Tally>>| tally.lock().expect("no panic").done;
        let (reads, writes) = (done(&self.reads) + requests, done(&self.writes) + requests);
        poll(PATIENCE, "traffic to go on", || {
            (done(&self.reads) >= reads && done(&self.writes) >= writes).then_some(())
        });
    }

    /// Takes what was counted since the last time: reads, writes.
    fn take(&self) -> (Tally, Tally) {
        let take =
            |tally: &Arc<Mutex<Tally>>| std::mem::take(&mut *tally.lock().expect("no panic"));
        (take(&self.reads), take(&self.writes))
    }

    /// Which rows were acknowledged.
    fn stop(self) -> HashSet<(usize, usize)> {
        self.stop.store(true, Ordering::Relaxed);
        let threads = self.threads.into_iter();
        threads
            .flat_map(|thread| thread.join().expect("no client panics"))
            .collect()
    }
}

/// Nothing acknowledged is missing, nothing is there twice.
fn check_rows(trio: &Trio, primary: usize, acknowledged: &HashSet<(usize, usize)>) {
    let mut admin = trio.admin(primary, "app");
    let twice = "SELECT client, number FROM t GROUP BY 1, 2 HAVING count(*) > 1";
    assert_eq!(
        admin.rows(twice),
        Vec::<Vec<String>>::new(),
        "applied twice"
    );
    let rows = admin.rows("SELECT client, number FROM t");
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let rows: HashSet<_> = rows
        .iter()
        .map(|row| (number(&row[0]), number(&row[1])))
        .collect();
    let lost: Vec<_> = acknowledged.difference(&rows).collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {lost:?}",
        lost.len(),
        acknowledged.len()
    );
}

pub(crate) fn create_table(pgdog: &Pgdog) {
    let created = pgdog
        .client("app")
        .query("CREATE TABLE t (client int, number int)");
    assert_eq!(created, "C:CREATE_TABLE Z:I");
}

/// Stops the primary in order, promotes a replica, and has the others follow.
fn switch_over(trio: &mut Trio, from: usize, to: usize) {
    trio.stop(from);
    trio.promote(to);
    let other = (0..SERVERS)
        .find(|server| *server != from && *server != to)
        .expect("three");
    trio.follow(other, to);
    trio.rejoin(from, to);
    trio.streams(from);
    trio.streams(other);
}

/// Rounds for two minutes under PGDOG_TEST_LONG, a few otherwise.
fn rounds(few: usize) -> impl Iterator<Item = usize> {
    let long = std::env::var_os("PGDOG_TEST_LONG").is_some();
    let end = Instant::now() + Duration::from_secs(120);
    (0..).take_while(move |round| match long {
        true => Instant::now() < end,
        false => *round < few,
    })
}

fn only_of_the_dying(tally: &Tally, what: &str) {
    for code in tally.codes() {
        assert!(OF_THE_DYING.contains(&code), "{what}: {:?}", tally.errors);
    }
}

#[test]
fn switchovers_under_load_fail_nothing_but_what_was_on_the_dying_server() {
    let mut trio = Trio::start();
    let pgdog = pgdog(&trio, "");
    create_table(&pgdog);
    trio.caught_up(0);
    let traffic = Traffic::start(pgdog.port(), 4, 4);
    traffic.go_on(100);
    let mut primary = 0;
    for round in rounds(3) {
        let next = (primary + 1) % SERVERS;
        traffic.take();
        let began = Instant::now();
        switch_over(&mut trio, primary, next);
        traffic.go_on(100);
        let (reads, writes) = traffic.take();
        println!(
            "round {round}: {:?}; reads {} errors {:?} slowest {:?}; writes {} errors {:?} slowest {:?}",
            began.elapsed(), reads.done, reads.codes(), reads.slowest, writes.done, writes.codes(), writes.slowest
        );
        only_of_the_dying(&reads, "reads");
        only_of_the_dying(&writes, "writes");
        // Each client had one request there, and some more where the server's farewell crossed them.
        assert!(
            writes.count() <= 16 && reads.count() <= 16,
            "{:?} {:?}",
            writes.errors,
            reads.errors
        );
        primary = next;
    }
    let acknowledged = traffic.stop();
    check_rows(&trio, primary, &acknowledged);
    pgdog.stop();
}

/// What is done to a server, and undone.
pub(crate) struct Fault<'a> {
    pub(crate) name: &'static str,
    /// To the primary, or to a replica?
    pub(crate) primary: bool,
    /// How long to wait before it is mended.
    pub(crate) hold: Duration,
    pub(crate) strike: &'a dyn Fn(&mut Trio, usize),
    /// Returns the primary.
    pub(crate) mend: &'a dyn Fn(&mut Trio, usize) -> usize,
}

/// Promotes the replica that has come furthest in place of `dead`, which is rebuilt.
fn replace(trio: &mut Trio, dead: usize) -> usize {
    let others: Vec<_> = (0..SERVERS).filter(|server| *server != dead).collect();
    let next = trio.furthest([others[0], others[1]]);
    let other = others
        .into_iter()
        .find(|server| *server != next)
        .expect("two");
    trio.follow(other, next);
    trio.promote(next);
    trio.rebuild(dead, next);
    trio.streams(dead);
    trio.streams(other);
    next
}

/// The same for one that is not dead: `amid` is done to it while another is the primary, for two intervals.
pub(crate) fn replace_amid(trio: &mut Trio, old: usize, amid: impl FnOnce(&mut Trio)) -> usize {
    let others: Vec<_> = (0..SERVERS).filter(|other| *other != old).collect();
    let next = trio.furthest([others[0], others[1]]);
    let other = others
        .into_iter()
        .find(|other| *other != next)
        .expect("two");
    trio.follow(other, next);
    trio.promote(next);
    amid(trio);
    std::thread::sleep(Duration::from_millis(2 * CHECK_INTERVAL_MS));
    trio.kill(old);
    trio.rebuild(old, next);
    trio.streams(old);
    trio.streams(other);
    next
}

/// The server that says it is the primary.
pub(crate) fn primary_of(trio: &Trio) -> usize {
    let writes = |server: &usize| {
        trio.admin(*server, "postgres")
            .value("SELECT pg_is_in_recovery()")
            == "f"
    };
    (0..SERVERS).find(writes).expect("a primary")
}

const FAULTS: [Fault<'static>; 6] = [
    Fault {
        name: "replica, stopped in order",
        primary: false,
        hold: Duration::ZERO,
        strike: &Trio::stop,
        mend: &|trio, server| {
            trio.launch(server);
            primary_of(trio)
        },
    },
    Fault {
        name: "replica, kill -9",
        primary: false,
        hold: Duration::ZERO,
        strike: &Trio::kill,
        mend: &|trio, server| {
            trio.launch(server);
            primary_of(trio)
        },
    },
    Fault {
        name: "replica, SIGSTOP",
        primary: false,
        hold: Duration::from_millis(4 * CHECK_INTERVAL_MS),
        strike: &|trio, server| trio.freeze(server),
        mend: &|trio, server| {
            trio.thaw(server);
            primary_of(trio)
        },
    },
    Fault {
        name: "primary, kill -9, restarted",
        primary: true,
        hold: Duration::ZERO,
        strike: &Trio::kill,
        mend: &|trio, server| {
            trio.launch(server);
            server
        },
    },
    Fault {
        name: "primary, kill -9, a replica is promoted",
        primary: true,
        hold: Duration::ZERO,
        strike: &Trio::kill,
        mend: &replace,
    },
    Fault {
        name: "primary, SIGSTOP, a replica is promoted",
        primary: true,
        hold: Duration::ZERO,
        strike: &|trio, server| trio.freeze(server),
        // The old one wakes up, and takes itself for the primary still.
        mend: &|trio, server| replace_amid(trio, server, |trio| trio.thaw(server)),
    },
];

#[test]
fn servers_that_die_or_hang_are_passed_over() {
    let mut trio = Trio::start();
    let ports = ports(&trio);
    strike_under_load(&mut trio, &ports, FAULTS);
}

/// Strikes with each fault under load; prints what `docs/failover.md` has in its table.
pub(crate) fn strike_under_load<'a>(
    trio: &mut Trio,
    ports: &[u16],
    faults: impl IntoIterator<Item = Fault<'a>>,
) {
    let pgdog = pgdog_before(
        ports,
        "read_write_split = \"exclude_primary\"\nquery_timeout = 3000",
    );
    create_table(&pgdog);
    trio.caught_up(0);
    let mut admin = pgdog.admin();
    let traffic = Traffic::start(pgdog.port(), 4, 4);
    let mut primary = 0;
    for fault in faults {
        let server = match fault.primary {
            true => primary,
            false => (primary + 1) % SERVERS,
        };
        // What came before is over.
        poll(PATIENCE, "all to serve", || {
            let roles = trio_roles(&mut admin, ports);
            let whole = roles.iter().filter(|role| *role == "replica").count() == 2;
            (whole && admin.rows("SHOW BANS").is_empty()).then_some(())
        });
        traffic.go_on(100);
        traffic.take();
        let began = Instant::now();
        (fault.strike)(trio, server);
        if !fault.primary {
            // Whoever is left serves all.
            traffic.go_on(200);
        }
        std::thread::sleep(fault.hold);
        primary = (fault.mend)(trio, server);
        traffic.go_on(200);
        let (reads, writes) = traffic.take();
        let of = |tally: &Tally| {
            let clean = tally.last_error().map(|last| last - began);
            let errors = tally
                .errors
                .iter()
                .map(|(code, (count, _))| format!("{count} {code}"));
            let errors = errors.collect::<Vec<_>>().join(", ");
            format!(
                "{errors} | {} | {}",
                seconds(clean),
                seconds(Some(tally.slowest))
            )
        };
        println!("| {} | {} | {} |", fault.name, of(&reads), of(&writes));
        for (what, tally) in [("reads", &reads), ("writes", &writes)] {
            for code in tally.codes() {
                let known = OF_THE_DYING.contains(&code)
                    || code == "57014"
                    || code == "57P03"
                    || code == "53300";
                assert!(
                    known && code != "25006",
                    "{}, {what}: {:?}",
                    fault.name,
                    tally.errors
                );
            }
        }
    }
    let acknowledged = traffic.stop();
    check_rows(trio, primary, &acknowledged);
    pgdog.stop();
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(
        || "-".to_owned(),
        |time| format!("{:.1} s", time.as_secs_f64()),
    )
}

fn role_of(admin: &mut Wire, port: u16) -> String {
    let rows = admin.rows("SHOW POOLS");
    let row = rows
        .iter()
        .find(|row| row[4] == port.to_string())
        .expect("a pool");
    row[6].clone()
}

pub(crate) fn trio_roles(admin: &mut Wire, ports: &[u16]) -> Vec<String> {
    let ports = ports.iter();
    ports.map(|port| role_of(admin, *port)).collect()
}

/// What it did last is on another server, which is well.
#[test]
fn a_transaction_over_shards_ends_when_the_primary_of_one_is_replaced() {
    let trio = Trio::start();
    let second = Postgres::shared().database("second");
    let elsewhere = format!("database_name = {second:?}\nrole = \"primary\"\nshard = 1");
    let mut config = Config::empty().admin().general(&format!(
        "lsn_check_delay = 0\nlsn_check_interval = {CHECK_INTERVAL_MS}\nlsn_check_timeout = {CHECK_INTERVAL_MS}\n\
         connect_timeout = {CHECK_INTERVAL_MS}"
    ));
    for port in ports(&trio) {
        config = config.server("app", port, "role = \"auto\"\nshard = 0");
    }
    let pgdog = config
        .server("app", Postgres::shared().port(), &elsewhere)
        .more("[[sharded_tables]]\ndatabase = \"app\"\nname = \"t\"\ncolumn = \"id\"\ndata_type = \"bigint\"\n")
        .user(ALICE, "app", &format!("password = {PASSWORD:?}"))
        .start();
    let mut client = pgdog.client("app");
    // Replicas that do not know the table yet are not asked for it.
    (1..=2).for_each(|replica| pause(&trio, replica));
    assert_eq!(
        client.query("CREATE TABLE t (id bigint, n int)"),
        "C:CREATE_TABLE Z:I"
    );
    for id in 1..20 {
        let insert = format!("INSERT INTO t VALUES ({id}, 0)");
        assert_eq!(client.query(&insert), "C:INSERT_0_1 Z:I");
    }
    (1..=2).for_each(|replica| resume(&trio, replica));
    trio.caught_up(0);
    let least = "SELECT min(id) FROM t";
    let first = trio.alice(0).value(least);
    let second = Postgres::shared().value(&second, least);
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    for id in [first, second] {
        let update = format!("UPDATE t SET n = 1 WHERE id = {id}");
        assert_eq!(client.query(&update), "C:UPDATE_1 Z:T");
    }
    let next = trio.furthest([1, 2]);
    trio.freeze(0);
    // A configuration that comes meanwhile has not forgotten who it was.
    assert_eq!(pgdog.admin().query("RELOAD"), "C:RELOAD Z:I");
    trio.follow(3 - next, next);
    trio.promote(next);
    assert_eq!(client.rest(), "E:08006");
    trio.thaw(0);
    pgdog.stop();
}

/// Between transactions, too: whatever it wrote there would be lost.
#[test]
fn who_keeps_a_primary_that_is_replaced_does_not_go_on_writing_to_it() {
    let trio = Trio::start();
    let pgdog = pgdog_of(
        &ports(&trio),
        "",
        &[
            (ALICE, ""),
            ("sam", "pooler_mode = \"session\"\nserver_user = \"alice\""),
        ],
    );
    create_table(&pgdog);
    let mut tied = pgdog.client("app");
    assert_eq!(
        tied.query("CREATE TEMP TABLE kept (n int)"),
        "C:CREATE_TABLE Z:I"
    );
    let mut session = Wire::connect(pgdog.port(), "sam", "app", PASSWORD);
    for client in [&mut tied, &mut session] {
        assert_eq!(
            client.query("INSERT INTO t VALUES (1, 1)"),
            "C:INSERT_0_1 Z:I"
        );
    }
    trio.caught_up(0);
    trio.follow(2, 1);
    trio.promote(1);
    for client in [&mut tied, &mut session] {
        assert_eq!(client.rest(), "E:08006");
    }
    pgdog.stop();
}

/// Nobody else on the core waits for its catalogue for ever.
#[test]
fn a_server_that_hangs_while_its_catalogue_is_asked_is_given_up() {
    let trio = Trio::start();
    let pgdog = pgdog(&trio, "read_write_split = \"exclude_primary\"\nworkers = 1");
    create_table(&pgdog);
    trio.caught_up(0);
    let mut clients: Vec<_> = (0..3).map(|_| pgdog.client("app")).collect();
    for client in &mut clients {
        assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    }
    assert_eq!(
        clients[0].query("CREATE VIEW seen AS SELECT 1"),
        "C:CREATE_VIEW Z:I"
    );
    trio.freeze(0);
    for client in &mut clients {
        client.send(&query("SELECT count(*) FROM t"));
    }
    for client in &mut clients {
        let row = client.read_until(b'Z').remove(1);
        assert_eq!(row.values(), [Some("0".to_owned())]);
    }
    trio.thaw(0);
    pgdog.stop();
}

/// The first user's password is no longer the right one.
#[test]
fn a_login_that_is_refused_does_not_keep_others_from_a_primary() {
    let trio = Trio::start();
    let wrong = "server_user = \"alice\"\nserver_password = \"wrong\"";
    let pgdog = pgdog_of(&ports(&trio), "", &[("adam", wrong), (ALICE, "")]);
    create_table(&pgdog);
    pgdog.stop();
}
