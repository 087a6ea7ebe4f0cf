//! Changes of rows over shards: the same statements on one PostgreSQL and on three shards, as a simple query and in the
//! extended protocol with values in text and in binary, give the same rows, tags and tables.
//!
//! `PGDOG_TEST_STATEMENTS` sets how many random ones, `PGDOG_TEST_SEED` which. A failure prints both and the statement.

#[path = "writes/random.rs"]
mod random;

use super::across::{setting, Random};
use super::sharding::Pair;
use super::support::wire::{
    describe, execute, parse, query, sync, tagged, transcript, Message, Wire,
};
use random::random_statement;

pub(super) const REWRITE: &str =
    "\n[rewrite]\nenabled = true\nsplit_inserts = \"rewrite\"\nshard_key = \"rewrite\"\n";

/// How a statement and its values are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Simple,
    /// Extended, all in text.
    Text,
    /// Extended, all in binary; with declared types or without.
    Binary {
        declared: bool,
    },
}

pub(super) const FORMS: [Form; 4] = [
    Form::Simple,
    Form::Text,
    Form::Binary { declared: true },
    Form::Binary { declared: false },
];

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Big(i64),
    Int(i32),
    Text(String),
    Null,
}

impl Value {
    fn literal(&self) -> String {
        match self {
            Self::Text(text) => format!("'{}'", text.replace('\'', "''")),
            other => other.text().unwrap_or_else(|| "NULL".to_owned()),
        }
    }

    fn text(&self) -> Option<String> {
        match self {
            Self::Big(number) => Some(number.to_string()),
            Self::Int(number) => Some(number.to_string()),
            Self::Text(text) => Some(text.clone()),
            Self::Null => None,
        }
    }

    fn binary(&self) -> Option<Vec<u8>> {
        match self {
            Self::Big(number) => Some(number.to_be_bytes().into()),
            Self::Int(number) => Some(number.to_be_bytes().into()),
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Null => None,
        }
    }

    fn type_oid(&self) -> u32 {
        match self {
            Self::Big(_) => 20,
            Self::Int(_) => 23,
            Self::Text(_) => 25,
            Self::Null => 0,
        }
    }
}

/// A statement with values between its pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Sql {
    pieces: Vec<String>,
    values: Vec<Value>,
    /// Are its rows in an order?
    ordered: bool,
}

impl Sql {
    pub(super) fn of(text: &str) -> Self {
        Self {
            pieces: vec![text.to_owned()],
            values: Vec::new(),
            ordered: true,
        }
    }

    pub(super) fn unordered(mut self) -> Self {
        self.ordered = false;
        self
    }

    pub(super) fn add(&mut self, text: &str) {
        match self.pieces.last_mut() {
            Some(last) => *last += text,
            None => self.pieces.push(text.to_owned()),
        }
    }

    pub(super) fn value(&mut self, value: Value) {
        self.values.push(value);
        self.pieces.push(String::new());
    }

    fn text(&self, mut value: impl FnMut(usize, &Value) -> String) -> String {
        let mut text = self.pieces[0].clone();
        for (at, (given, piece)) in self.values.iter().zip(&self.pieces[1..]).enumerate() {
            text += &value(at, given);
            text += piece;
        }
        text
    }

    pub(super) fn literal(&self) -> String {
        self.text(|_, value| value.literal())
    }

    fn messages(&self, form: Form) -> Vec<u8> {
        let numbered = || self.text(|at, _| format!("${}", at + 1));
        let (binary, parse) = match form {
            Form::Simple => return query(&self.literal()),
            Form::Binary { declared: true } => {
                let mut body = [b"\0", numbered().as_bytes(), b"\0"].concat();
                body.extend(u16::try_from(self.values.len()).unwrap().to_be_bytes());
                for value in &self.values {
                    body.extend(value.type_oid().to_be_bytes());
                }
                (1_u16, tagged(b'P', &body))
            }
            Form::Text => (0, parse("", &numbered())),
            Form::Binary { .. } => (1, parse("", &numbered())),
        };
        let mut bind = vec![0, 0, 0, 1];
        bind.extend(binary.to_be_bytes());
        bind.extend(u16::try_from(self.values.len()).unwrap().to_be_bytes());
        for value in &self.values {
            let value = match binary {
                0 => value.text().map(String::into_bytes),
                _ => value.binary(),
            };
            match value {
                None => bind.extend((-1_i32).to_be_bytes()),
                Some(value) => {
                    bind.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                    bind.extend(value);
                }
            }
        }
        bind.extend([0, 1]);
        bind.extend(binary.to_be_bytes());
        [
            parse,
            tagged(b'B', &bind),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]
        .concat()
    }

    /// What a server answers.
    pub(super) fn ask(&self, server: &mut Wire, form: Form) -> String {
        server.send(&self.messages(form));
        let mut messages = server.read_until(b'Z');
        if !self.ordered {
            messages.sort_by_key(|message| match message.tag {
                b'D' => (1, message.body.clone()),
                b'C' | b'E' | b'Z' => (2, Vec::new()),
                _ => (0, Vec::new()),
            });
        }
        let columns = messages.iter().find(|message| message.tag == b'T');
        let columns = columns.map(Message::columns).unwrap_or_default();
        // What had been sent before an error differs.
        if messages.iter().any(|message| message.tag == b'E') {
            messages.retain(|message| matches!(message.tag, b'E' | b'Z'));
            return transcript(&messages);
        }
        format!("{columns:?} {}", transcript(&messages))
    }
}

impl Pair {
    /// Both answer alike, in this form.
    #[track_caller]
    pub(super) fn alike(&mut self, sql: &Sql, form: Form) {
        let expected = sql.ask(&mut self.one, form);
        let found = sql.ask(&mut self.many, form);
        assert_eq!(found, expected, "{form:?} {}", sql.literal());
    }

    /// Each row of the sharded tables is on its shard, and all shards together have what the one server has.
    #[track_caller]
    pub(super) fn tables_are_alike(&mut self, context: &str) {
        for (table, key) in [
            ("users", Some("id")),
            ("payments", Some("user_id")),
            ("countries", None),
        ] {
            let rows = format!("SELECT t::text FROM {table} t ORDER BY 1");
            let expected = self.one.rows(&rows);
            let mut found = Vec::new();
            for number in 0..3 {
                let mut shard = self.shards.shard(number);
                let own = shard.rows(&rows);
                let Some(key) = key else {
                    assert_eq!(own, expected, "{table} on shard {number} {context}");
                    continue;
                };
                found.extend(own);
                shard.query("CREATE TABLE IF NOT EXISTS parts (k bigint) PARTITION BY HASH (k)");
                let misplaced = shard.value(&format!(
                    "SELECT count(*) FROM {table} WHERE NOT satisfies_hash_partition('parts'::regclass, 3, {number}, {key})"
                ));
                assert_eq!(misplaced, "0", "{table} on shard {number} {context}");
            }
            if key.is_some() {
                found.sort();
                let mut expected = expected;
                expected.sort();
                assert_eq!(found, expected, "{table} {context}");
            }
        }
    }
}

#[test]
fn rows_of_a_divided_insert_come_back_in_its_order() {
    let mut pair = Pair::start("writes_insert", "", REWRITE);
    for (turn, form) in FORMS.into_iter().enumerate() {
        let mut sql = Sql::of("INSERT INTO users (name, id, age) VALUES ");
        for row in 0..20_i32 {
            let id = i64::from(row * 7) + 1000 * i64::try_from(turn).unwrap();
            sql.add(if row == 0 { "(" } else { ", (" });
            sql.value(Value::Text(format!("it's {row}")));
            sql.add(", ");
            sql.value(Value::Big(id));
            sql.add(", ");
            match row % 3 {
                0 => sql.add("DEFAULT"),
                1 => sql.add("NULL"),
                _ => sql.value(Value::Int(row)),
            }
            sql.add(")");
        }
        let mut returning = sql.clone();
        returning.add(" RETURNING id, name || '!' AS called, age");
        pair.alike(&returning, form);
        // Again: all conflict, and say so in the same order.
        let mut again = sql.clone();
        again.add(" ON CONFLICT (id) DO UPDATE SET age = users.age + 1 RETURNING *");
        pair.alike(&again, form);
        let mut none = sql.clone();
        none.add(" ON CONFLICT DO NOTHING RETURNING id");
        pair.alike(&none, form);
        pair.alike(&sql, form);
        // In a transaction of the client's.
        pair.same("BEGIN");
        pair.same(&format!("DELETE FROM users WHERE id >= {}", 1000 * turn));
        pair.alike(&returning, form);
        pair.same("ROLLBACK");
        pair.tables_are_alike("");
    }
    pair.shards.pgdog.stop();
}

#[test]
fn rows_that_a_shard_leaves_out_of_an_insert_have_no_place_in_its_order() {
    let mut pair = Pair::start("writes_left_out", "", REWRITE);
    let rows: Vec<_> = (0..12).map(|id| format!("({id}, 'x', 1)")).collect();
    let insert = format!(
        "INSERT INTO users VALUES {} ON CONFLICT DO NOTHING",
        rows.join(", ")
    );
    let some: Vec<_> = (0..12)
        .step_by(2)
        .map(|id| format!("({id}, 'x', 1)"))
        .collect();
    pair.same(&format!("INSERT INTO users VALUES {}", some.join(", ")));
    let answer = pair.many.query(&format!("{insert} RETURNING id"));
    assert!(answer.ends_with("E:0A000 Z:I"), "{answer}");
    pair.tables_are_alike("refused, and nothing is stored");
    pair.same(&insert);
    pair.tables_are_alike("without RETURNING");
    pair.shards.pgdog.stop();
}

#[test]
fn a_divided_insert_is_prepared_once_and_run_with_many_values() {
    let mut pair = Pair::start("writes_prepared", "", REWRITE);
    let sql = "INSERT INTO users (id, name, age) VALUES ($1, $5, 1), ($2, $5, $6), ($3, $5, 3), ($4, $5, $6) RETURNING id, name";
    for server in [&mut pair.one, &mut pair.many] {
        let answer = server.ask(&[parse("insert", sql), describe(b'S', "insert"), sync()]);
        assert_eq!(answer, "1 t T Z:I");
    }
    for turn in 0..30 {
        let ids: Vec<_> = (0..4).map(|row| (turn * 4 + row).to_string()).collect();
        let mut values: Vec<_> = ids.iter().map(|id| Some(id.as_str())).collect();
        let age = turn.to_string();
        values.extend([Some("n"), Some(age.as_str())]);
        let batch = [
            super::support::wire::bind("", "insert", &values),
            execute("", 0),
            sync(),
        ];
        let (expected, found) = (pair.one.ask(&batch), pair.many.ask(&batch));
        assert_eq!(found, expected, "{turn}");
    }
    // Too few values, and too many: nothing is sent.
    for values in [
        &[
            Some("501"),
            Some("502"),
            Some("503"),
            Some("504"),
            Some("n"),
        ][..],
        &[Some("501"); 7],
    ] {
        let batch = [
            super::support::wire::bind("", "insert", values),
            execute("", 0),
            sync(),
        ];
        assert!(pair.many.ask(&batch).ends_with("E:08P01 Z:I"));
    }
    // What type it has depends on where it stands first.
    let sql = "INSERT INTO users (id, name, age) VALUES ($1, $2, 1), ($3, $2 || 'x', 2), ($4, 'a', 2), ($5, 'b', 4)";
    let values = [
        Some("601"),
        Some("a"),
        Some("602"),
        Some("603"),
        Some("604"),
    ];
    let answer = pair
        .many
        .ask(&[super::support::wire::run(sql, &values), sync()]);
    assert!(answer.ends_with("E:0A000 Z:I"), "{answer}");
    pair.tables_are_alike("");
    pair.shards.pgdog.stop();
}

#[test]
fn omnisharded_tables_are_changed_alike_on_all_shards_or_not_at_all() {
    let mut pair = Pair::start("writes_everywhere", "", REWRITE);
    for sql in [
        "INSERT INTO countries SELECT 'c' || n, 'name' FROM generate_series(1, 9) n",
        "WITH a AS (UPDATE countries SET name = 'x' WHERE code < 'c4' RETURNING code) SELECT count(*), min(code) FROM a",
        "WITH a AS (DELETE FROM countries WHERE code = 'c5' RETURNING *) SELECT * FROM a",
        "WITH a AS (DELETE FROM countries WHERE code = 'c6' RETURNING *) INSERT INTO countries SELECT code || 'x', name FROM a RETURNING *",
        "DELETE FROM countries WHERE code IN (SELECT code FROM countries WHERE name = 'x' AND code > 'c2') RETURNING code",
        "BEGIN",
        "WITH a AS (INSERT INTO countries VALUES ('in', 'transaction') RETURNING code) SELECT * FROM a",
        "ROLLBACK",
        "SELECT * FROM countries ORDER BY code",
    ] {
        pair.same(sql);
    }
    pair.tables_are_alike("changed");
    pair.same("CREATE VIEW early AS SELECT * FROM countries WHERE code < 'd'");
    pair.same("DELETE FROM early WHERE code = 'c7'");
    pair.same("CREATE VIEW grouped AS SELECT code FROM countries GROUP BY code");
    pair.same("CREATE VIEW placed AS SELECT ctid AS place, code FROM countries");
    for sql in [
        "MERGE INTO countries USING (VALUES ('c1', 'merged'), ('new', 'new')) s (c, n) ON code = c \
         WHEN MATCHED THEN UPDATE SET name = n WHEN NOT MATCHED THEN INSERT VALUES (c, n)",
        "DELETE FROM countries WHERE code IN (SELECT code FROM countries LIMIT 1)",
        "WITH a AS (DELETE FROM countries WHERE code = (SELECT code FROM countries LIMIT 1) RETURNING *) SELECT * FROM a",
        "INSERT INTO countries SELECT code || 'y', name FROM countries ORDER BY random() LIMIT 1 ON CONFLICT (code) DO UPDATE SET name = 'y'",
        "UPDATE countries SET name = gen_random_uuid()::text",
        "UPDATE countries SET name = (SELECT max(name) FROM users)",
        "DELETE FROM grouped",
        "INSERT INTO users (id) SELECT n FROM generate_series(1, 5) n",
        "WITH a AS (DELETE FROM countries RETURNING *) SELECT * FROM a, users",
        "DELETE FROM users WHERE ctid = '(0,1)'",
        "DELETE FROM countries a USING countries b WHERE a.ctid < b.ctid",
        "DELETE FROM placed WHERE place = '(0,1)'",
        "/* pgdog_shard: 1 */ DELETE FROM countries",
        "/* pgdog_shard: 1 */ DELETE FROM countries WHERE code IN (SELECT code FROM countries LIMIT 1)",
        "/* pgdog_shard: 1 */ INSERT INTO countries SELECT 'x', name FROM countries LIMIT 1",
        "/* pgdog_shard: 1 */ DELETE FROM countries WHERE ctid = '(0,1)'",
        "/* pgdog_shard: 1 */ COPY (DELETE FROM countries RETURNING *) TO STDOUT",
        "/* pgdog_shard: 1 */ COPY countries FROM STDIN",
        "/* pgdog_sharding_key: 7 */ COPY countries FROM STDIN",
        "/* pgdog_shard: 1 */ TRUNCATE users, countries",
    ] {
        pair.refused(sql);
    }
    // In a transaction that is kept to one shard.
    pair.many.query("BEGIN");
    pair.many.query("SET LOCAL pgdog.shard = 1");
    assert_eq!(pair.many.query("DELETE FROM countries"), "E:25000 Z:E");
    pair.many.query("ROLLBACK");
    pair.many.query("BEGIN");
    pair.many.query("SET LOCAL pgdog.shard = 1");
    let everywhere = "COPY countries FROM STDIN";
    assert_eq!(pair.many.query(everywhere), "E:25000 Z:E");
    pair.many.query("ROLLBACK");
    pair.many.query("BEGIN");
    pair.many.query("SET LOCAL pgdog.shard = 1");
    let elsewhere = "/* pgdog_shard: 2 */ SELECT 1";
    assert_eq!(pair.many.query(elsewhere), "E:25000 Z:E");
    pair.many.query("ROLLBACK");
    pair.tables_are_alike("refused");
    pair.shards.pgdog.stop();
}

#[test]
fn random_changes_are_done_as_by_one_server_or_refused() {
    let seed = setting("PGDOG_TEST_SEED", 1);
    let count = setting("PGDOG_TEST_STATEMENTS", 400);
    let mut random = Random(seed);
    let mut pair = Pair::start("writes_random", "", REWRITE);
    let (mut done, mut refused, mut in_transaction) = (0, 0, false);
    for number in 0..count {
        let sql = random_statement(&mut random, in_transaction);
        let form = FORMS[random.below(FORMS.len())];
        let context = format!(
            "seed {seed}, statement {number}, {form:?}: {}",
            sql.literal()
        );
        let found = sql.ask(&mut pair.many, form);
        let several = found.starts_with("E:21000") && sql.literal().contains("id = ");
        if found.starts_with("E:0A000") || several {
            refused += 1;
            if std::env::var_os("PGDOG_TEST_SHOW").is_some() {
                println!("refused: {}", sql.literal());
            }
            if in_transaction {
                pair.many.query("ROLLBACK");
                pair.one.query("ROLLBACK");
                in_transaction = false;
            }
            continue;
        }
        let mut expected = sql.ask(&mut pair.one, form);
        // A row that is held where it is, and whose new place is taken: either is said first.
        if found.starts_with("E:23503 ") && sql.literal().contains("SET id = ") {
            expected = expected.replace("E:23505", "E:23503");
        }
        assert_eq!(found, expected, "{context}");
        done += 1;
        in_transaction = !found.ends_with("Z:I");
        if number % 50 == 49 && !in_transaction {
            pair.tables_are_alike(&context);
        }
    }
    if in_transaction {
        pair.same("COMMIT");
    }
    pair.tables_are_alike(&format!("seed {seed}"));
    println!("seed {seed}: {done} done, {refused} refused");
    assert!(done > refused * 2, "{done} done, {refused} refused");
    pair.shards.pgdog.stop();
}
