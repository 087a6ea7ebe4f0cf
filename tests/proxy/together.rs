//! Several clients on two cores, whose statements follow each other at random: tables come, change, and become others, and
//! all clients use them. Each statement is run through pgdog on three shards and, by the same client's twin, on one
//! PostgreSQL: it must be answered the same, or refused.
//!
//! `PGDOG_TEST_STEPS` sets how many, `PGDOG_TEST_SEED` which. A failure prints both, and the last statements;
//! with `PGDOG_TEST_TRACE` all are printed.

use super::across::{setting, Random};
use super::shards::Shards;
use super::support::postgres::{ALICE, PASSWORD};
use super::support::wire::{
    bind, copy_data, copy_done, describe, execute, parse, query, sync, transcript, Message,
};
use super::support::{Postgres, Wire};
use super::writes::REWRITE;

/// What is sharded: whatever has such a column, or tables by name and what is related to them, the second time by foreign keys,
/// too. The rest has the same rows everywhere.
const TABLES: [&[&str]; 3] = [
    &["column = \"tenant\""],
    &[
        "name = \"a\"\ncolumn = \"tenant\"",
        "name = \"b\"\nschema = \"s\"\ncolumn = \"k\"",
        "name = \"c\"\ncolumn = \"k\"",
    ],
    &["name = \"c\"\ncolumn = \"k\"\nprimary = true"],
];

fn tables(which: usize) -> String {
    let entries = TABLES[which].iter();
    let entries = entries.map(|entry| {
        format!("[[sharded_tables]]\ndatabase = \"$DATABASE\"\n{entry}\ndata_type = \"bigint\"\n")
    });
    entries.collect()
}

const CLIENTS: usize = 4;
const NAMES: [&str; 6] = ["a", "b", "c", "s.a", "public.a", "s.b"];
/// Keys, and values of columns.
const VALUES: usize = 12;

/// A statement that a client has prepared.
struct Prepared {
    name: String,
    sql: String,
    values: usize,
}

struct Client {
    one: Wire,
    many: Wire,
    prepared: Vec<Prepared>,
}

struct World {
    shards: Shards,
    /// The one PostgreSQL's database.
    alone: Wire,
    clients: Vec<Client>,
    /// Who has a transaction open.
    open: Option<usize>,
    done: Done,
    alike: usize,
    refused: usize,
    /// As of [`tables`].
    which: usize,
}

impl World {
    /// `prepares`: all that changes several shards is committed in two phases.
    fn start(label: &str, prepares: bool, which: usize) -> Self {
        let postgres = Postgres::shared();
        let general = format!(
            "workers = 2\nprepared_statements = \"extended\"\n\
            two_phase_commit = {prepares}\ntwo_phase_commit_auto = {prepares}\n"
        );
        let shards = Shards::start(label, &general, &format!("{}{REWRITE}", tables(which)));
        let one = postgres.database(&format!("{label}_one"));
        let client = || Client {
            one: Wire::connect(postgres.port(), ALICE, &one, PASSWORD),
            many: shards.client(),
            prepared: Vec::new(),
        };
        let clients = (0..CLIENTS).map(|_| client()).collect();
        Self {
            alone: postgres.admin(&one),
            shards,
            clients,
            open: None,
            done: Done::default(),
            alike: 0,
            refused: 0,
            which,
        }
    }

    /// Both answer the same, or pgdog refuses. Gives the answer, if it was the same.
    fn ask(&mut self, who: usize, what: &str, messages: &[u8]) -> Option<String> {
        let found = answer(&mut self.clients[who].many, messages);
        self.done.0.push(format!("{who}: {what} -> {found}"));
        // The third: rows that would move to another shard; the last: a COPY that does not name the key.
        let refusals = ["E:0A000", "E:57P03", "E:21000", "E:22P04"];
        let refused = refusals.iter().any(|refusal| found.contains(refusal));
        if refused {
            self.refused += 1;
            if self.open.take().is_some() {
                let client = &mut self.clients[who];
                client.many.query("ROLLBACK");
                client.one.query("ROLLBACK");
                self.done.0.push(format!("{who}: ROLLBACK"));
            }
            return None;
        }
        let expected = answer(&mut self.clients[who].one, messages);
        // There may be more columns than it is ordered by.
        let in_any_order = |answer: &str| {
            let mut words: Vec<_> = answer.split(' ').map(str::to_owned).collect();
            words.sort_unstable();
            words
        };
        match what.ends_with("ORDER BY 1, 2") {
            true => assert_eq!(
                in_any_order(&found),
                in_any_order(&expected),
                "{who}: {what}"
            ),
            false => assert_eq!(found, expected, "{who}: {what}"),
        }
        self.alike += 1;
        self.open = (!found.ends_with("Z:I")).then_some(who);
        Some(found)
    }

    fn run(&mut self, random: &mut Random, who: usize, sql: &str) {
        let messages = match random.one_in(2) {
            true => query(sql),
            false => extended(parse("", sql), bind("", "", &[])),
        };
        // Several statements are one Query only.
        let messages = if sql.contains("; ") {
            query(sql)
        } else {
            messages
        };
        self.ask(who, sql, &messages);
    }

    /// Prepares a statement with values, or runs one that was prepared.
    fn prepare(&mut self, random: &mut Random, who: usize) {
        let prepared = &self.clients[who].prepared;
        if prepared.is_empty() || random.one_in(3) {
            // A server goes on with the table that it has found when one of another schema comes in front of it.
            let table = random.pick(&["public.a", "public.b", "public.c", "s.a", "s.b"]);
            let (sql, values) = match random.below(5) {
                0 => (format!("SELECT count(*), sum(v) FROM {table}"), 0),
                1 => (
                    format!("SELECT count(*), sum(v) FROM {table} WHERE tenant = $1"),
                    1,
                ),
                2 => (
                    format!("INSERT INTO {table} (tenant, v) VALUES ($1, $2)"),
                    2,
                ),
                3 => (format!("UPDATE {table} SET v = v + 1 WHERE tenant = $1"), 1),
                _ => (format!("DELETE FROM {table} WHERE v = $1"), 1),
            };
            let name = format!("p{}", self.done.0.len());
            // Parse alone is answered before a server has seen it.
            let messages = [parse(&name, &sql), describe(b'S', &name), sync()].concat();
            let answered = self.ask(who, &format!("prepare {name}: {sql}"), &messages);
            if answered.is_some_and(|answer| answer.starts_with('1')) {
                let prepared = Prepared { name, sql, values };
                self.clients[who].prepared.push(prepared);
            }
            return;
        }
        let prepared = &prepared[random.below(prepared.len())];
        let values: Vec<_> = (0..prepared.values)
            .map(|_| random.below(VALUES).to_string())
            .collect();
        let texts: Vec<_> = values.iter().map(|value| Some(value.as_str())).collect();
        let what = format!("execute {} {values:?}: {}", prepared.name, prepared.sql);
        let messages = extended(Vec::new(), bind("", &prepared.name, &texts));
        self.ask(who, &what, &messages);
    }

    /// COPY FROM STDIN of some rows.
    fn copy(&mut self, random: &mut Random, who: usize) {
        let name = random.pick(&NAMES);
        let columns = random.pick(&["", " (tenant, v)", " (v, tenant)", " (k, v)"]);
        let rows: String = (0..random.below(6))
            .map(|_| format!("{}\t{}\n", random.below(VALUES), random.below(VALUES)))
            .collect();
        let sql = format!("COPY {name}{columns} FROM STDIN");
        let what = format!("{sql}: {rows:?}");
        // Who refuses the command takes no notice of what follows it.
        let data = [copy_data(rows.as_bytes()), copy_done()].concat();
        self.ask(who, &what, &[query(&sql), data].concat());
    }

    /// The rows of a portal, some at a time.
    fn fetch(&mut self, random: &mut Random, who: usize) {
        let name = random.pick(&NAMES);
        let sql = format!("SELECT v FROM {name} ORDER BY v");
        let mut messages = [parse("", &sql), bind("", "", &[])].concat();
        for _ in 0..=random.below(3) {
            messages.extend(execute("", 2));
        }
        messages.extend(sync());
        self.ask(who, &format!("fetch {sql}"), &messages);
    }

    /// Every client sees all rows of a table, or is refused.
    fn compare_through(&mut self, name: &str) {
        let all = format!("SELECT t::text FROM {name} t ORDER BY 1");
        let count = format!("SELECT count(*) FROM {name}");
        for who in 0..CLIENTS {
            for sql in [&all, &count] {
                let messages = query(sql);
                let found = answer(&mut self.clients[who].many, &messages);
                let expected = answer(&mut self.clients[who].one, &messages);
                let refused = found.starts_with("E:0A000");
                assert!(
                    refused || found == expected,
                    "{who}: {sql}: {found}, not {expected}"
                );
            }
        }
    }

    /// All servers have the same tables; of those that have the key each row is on one shard, where it is looked for, and
    /// the others are the same everywhere.
    fn compare(&mut self) {
        let tables = "SELECT n.nspname || '.' || c.relname, EXISTS (SELECT FROM pg_attribute \
            WHERE attrelid = c.oid AND attname = 'tenant') FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
            WHERE relkind IN ('r', 'm', 'p') AND nspname IN ('public', 's') ORDER BY 1";
        let expected = self.alone.rows(tables);
        for number in 0..3 {
            assert_eq!(
                self.shards.shard(number).rows(tables),
                expected,
                "shard {number}"
            );
        }
        for table in expected {
            if self.which > 0 {
                self.compare_through(&table[0]);
                continue;
            }
            let (name, sharded) = (&table[0], table[1] == "t");
            // Those of tables that inherit from it may be elsewhere.
            let all = format!("SELECT t::text FROM ONLY {name} t ORDER BY 1");
            let expected = self.alone.rows(&all);
            let each = (0..3).map(|number| self.shards.shard(number).rows(&all));
            let each: Vec<_> = each.collect();
            if !sharded {
                assert!(
                    each.iter().all(|rows| *rows == expected),
                    "{name}: {each:?}, not {expected:?}"
                );
                continue;
            }
            let mut found = each.concat();
            found.sort();
            assert_eq!(found, expected, "{name}");
            for who in 0..CLIENTS {
                let key = format!("SELECT count(*) FROM {name} WHERE tenant = {who}");
                let expected = self.alone.value(&key);
                assert_eq!(self.clients[who].many.value(&key), expected, "{who}: {key}");
            }
        }
    }
}

/// What was done, told when it ends badly.
#[derive(Default)]
pub(super) struct Done(pub(super) Vec<String>);

impl Drop for Done {
    fn drop(&mut self) {
        let all = std::env::var_os("PGDOG_TEST_TRACE").is_some();
        let last = self.0.len().saturating_sub(60);
        let first = if all { 0 } else { last };
        if all || std::thread::panicking() {
            eprintln!("{}", self.0[first..].join("\n"));
        }
    }
}

fn extended(parse: Vec<u8>, bind: Vec<u8>) -> Vec<u8> {
    [parse, bind, describe(b'P', ""), execute("", 0), sync()].concat()
}

/// What is answered up to ReadyForQuery. What had been sent before an error differs.
fn answer(server: &mut Wire, messages: &[u8]) -> String {
    server.send(messages);
    let mut answer = server.read_until(b'Z');
    answer.retain(|message| message.tag != b'N');
    if answer.iter().any(|message| message.tag == b'E') {
        answer.retain(|message: &Message| matches!(message.tag, b'E' | b'Z'));
    }
    transcript(&answer)
}

/// In place of what has the name, half of the time.
fn definition(random: &mut Random) -> String {
    let sql = one_definition(random);
    let created = sql
        .strip_prefix("CREATE TABLE ")
        .filter(|_| random.one_in(2));
    let name = created.and_then(|created| created.split(' ').find(|word| NAMES.contains(word)));
    match name {
        Some(name) => format!("DROP TABLE IF EXISTS {name} CASCADE; {sql}"),
        None => sql,
    }
}

fn one_definition(random: &mut Random) -> String {
    let name = random.pick(&NAMES);
    let other = random.pick(&["a", "b", "c"]);
    match random.below(33) {
        0..=3 => {
            let columns = random.pick(&[
                "(tenant bigint, v int)",
                "(v int, tenant bigint)",
                "(tenants bigint, v int)",
                "(v int, k bigint)",
            ]);
            let may_exist = random.pick(&["", "IF NOT EXISTS "]);
            format!("CREATE TABLE {may_exist}{name} {columns}")
        }
        4 => format!("DROP TABLE {}{name}", random.pick(&["", "IF EXISTS "])),
        5 => format!("ALTER TABLE {name} ALTER v SET DEFAULT 5"),
        6 => format!("ALTER TABLE {name} ADD COLUMN w int DEFAULT 3"),
        7 => format!("ALTER TABLE {name} DROP COLUMN w"),
        // A table with another key is another; with rows, that is refused.
        8 | 9 => {
            let empty = match random.one_in(3) {
                true => String::new(),
                false => format!("TRUNCATE {name}; "),
            };
            let change = random.pick(&[
                "RENAME tenants TO tenant",
                "RENAME tenant TO tenants",
                "ADD COLUMN tenant bigint",
                "DROP COLUMN tenant",
                "DROP COLUMN tenant, ADD tenant bigint DEFAULT 2",
                "ALTER tenant TYPE bigint USING tenant + 1",
            ]);
            format!("{empty}ALTER TABLE {name} {change}")
        }
        10 => format!("ALTER TABLE {name} RENAME TO {other}"),
        11 => format!(
            "ALTER TABLE {name} SET SCHEMA {}",
            random.pick(&["s", "public"])
        ),
        12 => format!("CREATE VIEW {name} AS SELECT v FROM {other}"),
        13 => format!("DROP VIEW {name}"),
        14 => format!("TRUNCATE {name}"),
        15 => format!("CREATE TABLE {name} (LIKE {other})"),
        16 => format!("CREATE TABLE {name} (u int) INHERITS ({other})"),
        17 => format!(
            "CREATE TABLE {name} AS SELECT {} FROM {other}",
            random.pick(&["*", "v", "v, tenant", "sum(v) AS v"])
        ),
        18 => format!("CREATE MATERIALIZED VIEW {name} AS SELECT v FROM {other}"),
        19 => format!("DROP MATERIALIZED VIEW {name}"),
        20 => format!(
            "CREATE TABLE {name} ({} bigint, v int) PARTITION BY LIST (v)",
            random.pick(&["tenant", "k"])
        ),
        21 => format!("CREATE TABLE {name} PARTITION OF {other} DEFAULT"),
        22 => format!("CREATE VIEW {name} AS SELECT * FROM {other}"),
        23 => format!("ALTER TABLE {other} ATTACH PARTITION {name} DEFAULT"),
        24 => format!("ALTER TABLE {other} DETACH PARTITION {name}"),
        25 => format!("ALTER TABLE {name} INHERIT {other}"),
        26 => format!("ALTER TABLE {name} NO INHERIT {other}"),
        27 => format!("CREATE TABLE {name} (tenant bigint) INHERITS ({other})"),
        28 => "ALTER TABLE c ADD PRIMARY KEY (k)".to_owned(),
        29 => format!("CREATE TABLE {name} (tenant bigint REFERENCES c, v int)"),
        30 => format!("ALTER TABLE {name} ADD FOREIGN KEY (tenants) REFERENCES c"),
        31 => {
            let name = random.pick(&["a", "b"]);
            format!("ALTER TABLE {name} DROP CONSTRAINT {name}_tenant_fkey")
        }
        _ => "CREATE SCHEMA IF NOT EXISTS s".to_owned(),
    }
}

fn use_of_tables(random: &mut Random) -> String {
    let name = random.pick(&NAMES);
    let (key, value) = (random.below(VALUES), random.below(VALUES));
    let column = random.pick(&["tenant", "tenant", "tenants", "k"]);
    match random.below(16) {
        0..=1 => format!("INSERT INTO {name} VALUES ({key}, {value})"),
        2..=3 => format!("INSERT INTO {name} ({column}, v) VALUES ({key}, {value})"),
        4 => format!("INSERT INTO {name} (v, {column}) VALUES ({value}, {key}), ({key}, {value}), (1, 2)"),
        5 => format!("UPDATE {name} SET v = {value} WHERE {column} = {key}"),
        6 => format!("UPDATE {name} SET v = v + 1"),
        7 => format!("UPDATE {name} SET {column} = {value} WHERE {column} = {key}"),
        8 => format!("DELETE FROM {name} WHERE {column} = {key}"),
        9 => format!("DELETE FROM {name} WHERE v > {value}"),
        10 => format!("SELECT v FROM {name} WHERE {column} = {key} ORDER BY v"),
        11 => format!("SELECT count(*), sum(v), max({column}) FROM {name}"),
        12 => format!("SELECT * FROM {name} ORDER BY 1, 2"),
        13 => {
            let other = random.pick(&NAMES);
            format!("SELECT count(*) FROM {name} x JOIN {other} y ON x.{column} = y.{column}")
        }
        14 => format!("SELECT count(*) FROM {name} WHERE v IN (SELECT v FROM {})", random.pick(&NAMES)),
        _ => format!("INSERT INTO {name} ({column}, v) SELECT {column}, v + 1 FROM {name} WHERE {column} = {key}"),
    }
}

#[test]
fn clients_see_the_same_tables_at_all_times() {
    if std::env::var_os("PGDOG_TEST_DIRECT").is_some() {
        return;
    }
    let steps = setting("PGDOG_TEST_STEPS", 200);
    let seeds = match setting("PGDOG_TEST_SEED", 0) {
        // One for each of `TABLES`.
        0 => vec![3, 4, 5],
        seed => vec![seed],
    };
    seeds.into_iter().for_each(|seed| run(seed, steps));
}

fn run(seed: u64, steps: u64) {
    eprintln!("PGDOG_TEST_STEPS={steps} PGDOG_TEST_SEED={seed}");
    let mut random = Random(seed);
    let which = usize::try_from(seed % 3).unwrap();
    let mut world = World::start("together", seed.is_multiple_of(2), which);
    for sql in [
        "CREATE SCHEMA s",
        "CREATE TABLE a (tenant bigint, v int)",
        "CREATE TABLE b (v int, tenant bigint)",
        "CREATE TABLE c (k bigint, v int)",
        "CREATE TABLE s.a (k bigint, v int)",
    ] {
        world.run(&mut random, 0, sql);
    }
    for step in 0..steps {
        // Locks of a transaction would hold the others up.
        let who = world.open.unwrap_or_else(|| random.below(CLIENTS));
        match random.below(20) {
            0..=1 => {
                let sql = definition(&mut random);
                // A view that has the name of an entry is taken for what that says. Keys are unique on each shard only, unless
                // they are what it is sharded by.
                let views = which == 0 || !sql.contains("VIEW");
                let keys = which == 2 || !sql.contains("KEY") && !sql.contains("REFERENCES");
                if views && keys {
                    world.run(&mut random, who, &sql);
                }
            }
            2..=4 => world.prepare(&mut random, who),
            5 => world.copy(&mut random, who),
            6 => world.fetch(&mut random, who),
            7 if world.open.is_some() => {
                let sql = random.pick(&[
                    "SAVEPOINT one",
                    "SAVEPOINT two",
                    "ROLLBACK TO one",
                    "ROLLBACK TO two",
                    "RELEASE one",
                ]);
                world.run(&mut random, who, sql);
            }
            8 => {
                let path = [
                    "SET search_path = s, public",
                    "SET search_path = public, s",
                    "RESET search_path",
                ];
                let sql = random.pick(&path);
                world.run(&mut random, who, sql);
            }
            9 if world.open.is_none() => world.run(&mut random, who, "BEGIN"),
            9..=10 if world.open.is_some() => {
                let sql = random.pick(&["COMMIT", "COMMIT", "ROLLBACK"]);
                world.run(&mut random, who, sql);
            }
            _ => {
                let sql = use_of_tables(&mut random);
                world.run(&mut random, who, &sql);
            }
        }
        if step % 40 == 39 && world.open.is_none() {
            world.compare();
        }
    }
    if let Some(who) = world.open {
        world.run(&mut random, who, "ROLLBACK");
    }
    world.compare();
    eprintln!("{} alike, {} refused", world.alike, world.refused);
    assert!(world.alike > 4 * world.refused, "{} refused", world.refused);
    let left = "SELECT count(*) FROM pg_prepared_xacts WHERE database LIKE 'together%'";
    assert_eq!(world.alone.value(left), "0");
    world.shards.pgdog.stop();
}
