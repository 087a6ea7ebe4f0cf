//! Random sessions through pgdog and, word for word the same, directly to PostgreSQL: clients must not be able to tell.
//!
//! Two clients share one server of pgdog and are served in turns; their twins have a server each. What each is
//! answered, and the parameters it has been told, are compared after every step. `TWINS_SEED=17` runs one seed
//! again, `TWINS_SEEDS=500` runs more of them.

#[path = "twins/session_mode.rs"]
mod session_mode;
#[path = "twins/shards.rs"]
mod shards;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::wire::{
    bind, close, describe, execute, parse, query, startup, sync, transcript, Message, VERSION_3_0,
};
use crate::support::{Config, Pgdog, Postgres, Wire};

/// Seeds of an ordinary run, and steps of each.
const SEEDS: u64 = 8;
const STEPS: usize = 60;

struct Random(u64);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % count.max(1) as u64).unwrap()
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// One session and what it was told of its parameters.
struct Twin {
    wire: Wire,
    told: BTreeMap<String, String>,
}

impl Twin {
    fn log_in(port: u16, database: &str, parameters: &[(&str, &str)]) -> Self {
        let mut wire = Wire::open(port);
        let who = [("user", ALICE), ("database", database)];
        wire.send(&startup(VERSION_3_0, &[&who[..], parameters].concat()));
        let messages = wire.authenticate(ALICE, PASSWORD).unwrap();
        let mut twin = Self {
            wire,
            told: BTreeMap::new(),
        };
        twin.hear(&messages);
        twin
    }

    fn hear(&mut self, messages: &[Message]) {
        for message in messages.iter().filter(|message| message.tag == b'S') {
            let text = String::from_utf8_lossy(&message.body).into_owned();
            let mut words = text.split('\0');
            let (name, value) = (words.next().unwrap(), words.next().unwrap());
            self.told.insert(name.to_owned(), value.to_owned());
        }
    }

    /// The answer to messages that end in this many ReadyForQuery.
    fn ask(&mut self, messages: &[u8], batches: usize) -> String {
        self.wire.send(messages);
        let mut answer = Vec::new();
        for _ in 0..batches {
            answer.extend(self.wire.read_until(b'Z'));
        }
        self.hear(&answer);
        transcript(&answer)
    }
}

/// Two sessions through pgdog and their twins, which began in the same way.
struct Pair {
    through: [Twin; 2],
    direct: [Twin; 2],
    /// Is the client that was served last in a transaction, and has that failed?
    open: bool,
    failed: bool,
    /// Is it open which of its statements is the unnamed one?
    unsure: [bool; 2],
    done: Vec<String>,
    _pgdog: Pgdog,
}

const BEGINNINGS: [&[(&str, &str)]; 2] = [
    &[
        // Who gives none has the pool's.
        ("application_name", "twin"),
        ("TimeZone", "Asia/Tokyo"),
        ("options", "-c statement_timeout=11s -c app.x=start"),
    ],
    &[("application_name", "other")],
];

impl Pair {
    fn new(general: &str) -> Self {
        let postgres = Postgres::shared();
        let databases = [(); 2].map(|()| postgres.database("twins"));
        for database in &databases {
            let mut admin = postgres.admin(database);
            admin.query(
                "DO $$BEGIN CREATE ROLE twin_role; EXCEPTION WHEN duplicate_object THEN END$$",
            );
            admin.query("GRANT twin_role TO alice");
            admin.query("CREATE TABLE t (a int); GRANT ALL ON t TO PUBLIC");
            admin.query("CREATE SEQUENCE numbers; GRANT ALL ON numbers TO PUBLIC");
        }
        let [through, direct] = databases;
        let pgdog = Config::of(&through).general(general).start();
        Self {
            through: BEGINNINGS.map(|with| Twin::log_in(pgdog.port(), &through, with)),
            direct: BEGINNINGS.map(|with| Twin::log_in(postgres.port(), &direct, with)),
            open: false,
            failed: false,
            unsure: [false; 2],
            done: Vec::new(),
            _pgdog: pgdog,
        }
    }

    /// Both twins do the same.
    fn step(&mut self, who: usize, what: &str, messages: &[u8], batches: usize) {
        self.done.push(format!("{who}: {what}"));
        let expected = self.direct[who].ask(messages, batches);
        self.done.push(format!("-> {expected}"));
        let found = self.through[who].ask(messages, batches);
        assert_eq!(found, expected, "answered to {what}");
        self.open = !found.ends_with("Z:I");
        self.failed = found.ends_with("Z:E");
    }
}

impl Pair {
    /// Both twins believe the same of their parameters. What RESET has taken from a client it is told again with its
    /// next answer.
    fn compare_parameters(&self, who: usize) {
        let (told, directly) = (&self.through[who].told, &self.direct[who].told);
        for (name, value) in told {
            assert_eq!(Some(value), directly.get(name), "{name}");
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.done.join("\n"));
        }
    }
}

/// The seeds of this run, of which an ordinary one has so many.
fn seeds(count: u64) -> Range<u64> {
    let number = |name| Some(std::env::var(name).ok()?.parse::<u64>().unwrap());
    match number("TWINS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TWINS_SEEDS").unwrap_or(count),
    }
}

/// Runs sessions of `step` for every seed.
fn check(general: &str, step: impl Fn(&mut Random, &mut Pair, usize)) {
    if std::env::var_os("PGDOG_TEST_DIRECT").is_some() {
        return;
    }
    for seed in seeds(SEEDS) {
        eprintln!("TWINS_SEED={seed}");
        let mut random = Random(seed);
        let mut pair = Pair::new(general);
        let mut who = 0;
        for _ in 0..STEPS {
            // The only server is with whoever has a transaction open.
            who = if pair.open { who } else { random.below(2) };
            step(&mut random, &mut pair, who);
        }
    }
}

const SETTINGS: [(&str, [&str; 3]); 8] = [
    ("statement_timeout", ["'71s'", "'72s'", "'73s'"]),
    ("TimeZone", ["'UTC'", "'Asia/Tokyo'", "'America/New_York'"]),
    (
        "search_path",
        ["public", "pg_catalog, \"Odd, one\"", "'public', x"],
    ),
    ("work_mem", ["'1MB'", "'2MB'", "4096"]),
    ("application_name", ["'one'", "''", "'it''s'"]),
    ("app.x", ["'1'", "'{\"a\": 2}'", "''"]),
    ("role", ["twin_role", "none", "alice"]),
    ("DateStyle", ["'ISO, DMY'", "'German'", "'SQL, MDY'"]),
];

fn setting_statement(random: &mut Random) -> String {
    let (name, values) = SETTINGS[random.below(SETTINGS.len())];
    let value = random.pick(&values);
    let text = value.starts_with('\'') && name != "role";
    match random.below(20) {
        0..=4 => format!("SET {name} TO {value}"),
        5 => format!("SET LOCAL {name} TO {value}"),
        6 => format!("/* why */ set session {name} = {value} -- so"),
        7 if text => format!("SELECT set_config('{name}', {value}, false)"),
        8 if text => format!("SELECT pg_catalog.set_config('{name}', {value}, true)"),
        7..=9 => format!("RESET {name} /* back */"),
        10 => format!("SET {}{name} TO DEFAULT", random.pick(&["", "LOCAL "])),
        11 => "RESET ALL".to_owned(),
        12 => "SELECT 1/0".to_owned(),
        13 => "SELECT 1".to_owned(),
        14 => format!("SAVEPOINT {}", random.pick(&["a", "b"])),
        15 => format!("ROLLBACK TO {}", random.pick(&["a", "b"])),
        16 => format!("RELEASE {}", random.pick(&["a", "b"])),
        17 => random
            .pick(&["BEGIN", "START TRANSACTION READ ONLY", "BEGIN"])
            .to_owned(),
        18 => random
            .pick(&["COMMIT", "END", "COMMIT AND CHAIN"])
            .to_owned(),
        _ => random
            .pick(&["ROLLBACK", "ABORT", "ROLLBACK AND CHAIN"])
            .to_owned(),
    }
}

#[test]
fn sessions_that_change_settings_at_random() {
    // A name of nobody's that was ever set in a session is empty there when it is reset, not null.
    let look = SETTINGS.map(|(name, _)| format!("coalesce(current_setting('{name}', true), '')"));
    let look = format!(
        "SELECT current_user, current_setting('transaction_read_only'), {}",
        look.join(", ")
    );
    check("default_pool_size = 1", |random, pair, who| {
        let statements = (0..=random.below(4)).map(|_| setting_statement(random));
        let statements = statements.collect::<Vec<_>>();
        match random.below(4) {
            // DISCARD ALL is for itself.
            0 if !pair.open && random.below(4) == 0 => {
                pair.step(who, "DISCARD ALL", &query("DISCARD ALL"), 1)
            }
            0 => {
                let once = |sql: &String| [parse("", sql), bind("", "", &[]), execute("", 0)];
                let mut messages = statements
                    .iter()
                    .flat_map(once)
                    .collect::<Vec<_>>()
                    .concat();
                messages.extend(sync());
                pair.step(who, &format!("{statements:?}, Sync"), &messages, 1);
            }
            1 => {
                let messages = statements.iter().map(|sql| query(sql)).collect::<Vec<_>>();
                pair.step(
                    who,
                    &format!("{statements:?}"),
                    &messages.concat(),
                    messages.len(),
                );
            }
            _ => {
                let text = statements.join("; ");
                pair.step(who, &text, &query(&text), 1);
            }
        }
        if random.below(3) > 0 {
            pair.step(who, "look", &query(&look), 1);
            pair.compare_parameters(who);
        }
    });
}

const TEXTS: [&str; 18] = [
    "SELECT 1; DEALLOCATE s; SELECT 1/0",
    "SELECT 1; SELECT 1/0; DEALLOCATE s",
    "SELECT 1",
    "SELECT $1::int",
    "SELECT g FROM generate_series(1, 5) g",
    "INSERT INTO t VALUES ($1)",
    "SELECT count(*) FROM t",
    "SELECT * FROM missing",
    "SELECT 1/0",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SET work_mem = '1MB'",
    "DEALLOCATE s",
    "DEALLOCATE ALL",
    "SELEC",
    "",
    "SHOW work_mem",
];

const SQL_TEXTS: [&str; 6] = [
    "PREPARE s AS SELECT 2",
    "PREPARE q (int) AS SELECT $1",
    "EXECUTE s",
    "EXECUTE q (4)",
    "DEALLOCATE q",
    "SELECT 1; EXECUTE s; SELECT 3",
];

/// A message of the extended protocol, in words and in bytes. `unnamed`: may it use the unnamed statement of before?
fn any_message(random: &mut Random, texts: &[&str], unnamed: bool) -> (String, Vec<u8>) {
    let names = ["s", "r", "s", "r", ""];
    let statement = random.pick(&names[..if unnamed { 5 } else { 4 }]);
    let portal = random.pick(&["p", "", ""]);
    match random.below(14) {
        0..=2 => {
            let text = random.pick(texts);
            (
                format!("Parse {statement:?} {text}"),
                parse(statement, text),
            )
        }
        3 | 12 | 13 => {
            let text = random.pick(texts);
            let values = [Some("7")];
            let values = &values[..text.matches('$').count()];
            let words = format!("Parse and Bind {portal:?} {text}");
            (words, [parse("", text), bind(portal, "", values)].concat())
        }
        4..=6 => {
            let values = [Some("7")];
            let values = &values[..random.below(2)];
            let words = format!("Bind {portal:?} {statement:?} {values:?}");
            (words, bind(portal, statement, values))
        }
        7 => (
            format!("Describe S {statement:?}"),
            describe(b'S', statement),
        ),
        8 => (format!("Describe P {portal:?}"), describe(b'P', portal)),
        9 | 10 => {
            let rows = i32::try_from(random.below(3)).unwrap();
            (format!("Execute {portal:?} {rows}"), execute(portal, rows))
        }
        _ if random.below(2) == 0 => (format!("Close S {statement:?}"), close(b'S', statement)),
        _ => (format!("Close P {portal:?}"), close(b'P', portal)),
    }
}

/// One to three batches or queries at once.
fn any_batches(
    random: &mut Random,
    pair: &mut Pair,
    who: usize,
    texts: &[&'static str],
    queries: &[&'static str],
) {
    let (mut words, mut bytes) = (Vec::new(), Vec::new());
    // In a failed transaction a server that lacks a statement cannot be given it.
    let batches = if pair.open { 1 } else { random.below(3) + 1 };
    let allowed = |texts: &[&'static str]| {
        let mut texts = texts.to_vec();
        texts.retain(|text| batches == 1 || *text != "BEGIN");
        texts
    };
    let (texts, queries) = (&allowed(texts), &allowed(queries));
    if pair.failed {
        return pair.step(who, "ROLLBACK", &query("ROLLBACK"), 1);
    }
    for batch in 0..batches {
        // Which it is after an error that may have skipped a Parse of it is known to the server alone: here it is none.
        let mut unnamed = batch == 0 && !pair.unsure[who];
        if random.below(4) == 0 {
            let text = random.pick(queries);
            words.push(format!("Query {text}"));
            bytes.extend(query(text));
            continue;
        }
        for _ in 0..random.below(7) {
            let (word, message) = any_message(random, texts, unnamed);
            unnamed |= word.starts_with("Parse and") || word.starts_with("Parse \"\"");
            words.push(word);
            bytes.extend(message);
        }
        words.push("Sync".to_owned());
        bytes.extend(sync());
    }
    let words = words.join(", ");
    pair.step(who, &words, &bytes, batches);
    let parses = words.contains("Parse and") || words.contains("Parse \"\"");
    let fails = pair.done.last().is_some_and(|answer| answer.contains("E:"));
    pair.unsure[who] = fails || pair.unsure[who] && !parses && !words.contains("Query");
}

#[test]
fn pipelines_of_the_extended_protocol_at_random() {
    check("default_pool_size = 1", |random, pair, who| {
        any_batches(random, pair, who, &TEXTS, &TEXTS)
    });
}

#[test]
fn pipelines_with_sql_prepare_at_random() {
    let texts = [&TEXTS[..], &["DEALLOCATE q"]].concat();
    let queries = [&TEXTS[..], &SQL_TEXTS].concat();
    // EXECUTE among other statements may tie a client to its server, which leaves one for the other.
    let full = "default_pool_size = 2\nprepared_statements = \"full\"";
    check(full, |random, pair, who| {
        any_batches(random, pair, who, &texts, &queries)
    });
}
