//! Courses of transactions, by cases and against a naive reference.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::sql::lexer::Dialect;
use crate::sql::session::effects;

/// A client and its server. `run` takes what the server answers from the text itself: a statement `error`
/// fails, and the status follows from BEGIN and COMMIT.
struct Client {
    settings: SessionSettings,
    store: SettingsStore,
    block: bool,
    broken: bool,
}

impl Client {
    fn new(startup: &[(&str, &str)]) -> Self {
        let mut store = SettingsStore::default();
        let startup = startup
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        Self {
            settings: SessionSettings::new(startup, &mut store),
            store,
            block: false,
            broken: false,
        }
    }

    /// One simple query.
    fn run(&mut self, text: &str) {
        for statement in text.split(';') {
            let word = statement.split_whitespace().next().unwrap_or_default();
            let recovers = matches!(word, "ROLLBACK" | "COMMIT");
            if word == "error" || (self.broken && !recovers) {
                self.broken = self.block;
                self.settings.failed();
                break;
            }
            let found = effects(statement.as_bytes(), Dialect::default());
            let tag: &[u8] = if self.broken { b"ROLLBACK" } else { b"" };
            for step in found.steps() {
                self.settings.succeeded(&step.effect, tag, &mut self.store);
                match step.effect {
                    Effect::Begin => self.block = true,
                    Effect::Commit { chain } | Effect::Rollback { chain } => self.block = chain,
                    _ => {}
                }
                if recovers {
                    self.broken = false;
                }
            }
        }
        let status = match (self.block, self.broken) {
            (true, true) => b'E',
            (true, false) => b'T',
            (false, _) => b'I',
        };
        self.settings.ready(status, &mut self.store);
    }

    fn show(settings: &Settings) -> String {
        let entries: Vec<String> = settings
            .iter()
            .map(|entry| {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                format!("{name}={}", String::from_utf8_lossy(entry.value.sql()))
            })
            .collect();
        entries.join(" ")
    }
}

#[test]
fn transactions_undo_end_and_keep_settings() {
    let cases: &[(&[&str], &str)] = &[
        (&["SET a=1"], "a=1"),
        (&["SET a=1", "RESET a"], ""),
        (&["BEGIN", "SET a=1", "ROLLBACK"], ""),
        (&["BEGIN", "SET a=1", "COMMIT"], "a=1"),
        (&["BEGIN", "SET LOCAL a=1", "COMMIT"], ""),
        (&["BEGIN", "SET a=1", "SET LOCAL a=2", "COMMIT"], "a=1"),
        (&["BEGIN", "SET LOCAL a=2", "SET a=1", "COMMIT"], "a=1"),
        (&["BEGIN", "SET a=1", "error", "COMMIT"], ""),
        (
            &[
                "BEGIN",
                "SET a=1",
                "COMMIT AND CHAIN",
                "SET b=2",
                "ROLLBACK",
            ],
            "a=1",
        ),
        (
            &[
                "BEGIN",
                "SET a=1",
                "SAVEPOINT s",
                "SET a=2",
                "SET b=1",
                "ROLLBACK TO s",
                "COMMIT",
            ],
            "a=1",
        ),
        (
            &["BEGIN", "SAVEPOINT s", "SET a=2", "RELEASE s", "COMMIT"],
            "a=2",
        ),
        (
            &[
                "BEGIN",
                "SAVEPOINT s",
                "SET a=2",
                "error",
                "ROLLBACK TO s",
                "SET b=1",
                "COMMIT",
            ],
            "b=1",
        ),
        (
            &[
                "BEGIN",
                "SAVEPOINT s",
                "SET a=1",
                "SAVEPOINT s",
                "SET a=2",
                "RELEASE s",
                "ROLLBACK TO s",
                "COMMIT",
            ],
            "",
        ),
        (&["BEGIN", "SET a=1", "PREPARE TRANSACTION 'x'"], "a=1"),
        (&["SET a=1; SET b=2"], "a=1 b=2"),
        (&["SET a=1; error"], ""),
        (&["SET a=1; BEGIN; SET b=2", "ROLLBACK"], ""),
        (&["SET a=1; COMMIT; SET b=2; error"], "a=1"),
        (&["SET a=1; ROLLBACK; SET b=2"], "b=2"),
        (&["SET ROLE x", "SET a=1", "RESET ALL"], "role=x"),
        (
            &["SET ROLE x", "SET SESSION AUTHORIZATION y"],
            "session_authorization=y",
        ),
        (
            &[
                "SET SESSION AUTHORIZATION y",
                "SET ROLE x",
                "RESET SESSION AUTHORIZATION",
            ],
            "",
        ),
        (&["SET ROLE x", "SET a=1", "DISCARD ALL"], ""),
        (
            &[
                "SELECT set_config('a', 'b', false)",
                "SELECT set_config('c', 'd', true)",
            ],
            "a='b'",
        ),
    ];
    for (texts, expected) in cases {
        let mut client = Client::new(&[]);
        texts.iter().for_each(|text| client.run(text));
        let settings = &client.settings;
        assert_eq!(Client::show(settings.committed()), *expected, "{texts:?}");
        assert!(Settings::same(settings.committed(), settings.on_server()));
        assert!(settings.is_exact(), "{texts:?}");
    }
}

#[test]
fn reset_goes_back_to_the_start_of_the_session_and_the_server_to_its_own() {
    let cases = [
        (
            "SET timezone='x'",
            "a='b' timezone='x'",
            "a='b' timezone='x'",
        ),
        ("RESET TimeZone", "a='b' timezone='UTC'", "a='b'"),
        ("SET timezone TO DEFAULT", "a='b' timezone='UTC'", "a='b'"),
        ("RESET ALL", "a='b' timezone='UTC'", ""),
        ("DISCARD ALL", "a='b' timezone='UTC'", ""),
        (
            "BEGIN; RESET ALL; ROLLBACK",
            "a='b' timezone='UTC'",
            "a='b' timezone='UTC'",
        ),
    ];
    for (text, expected, server) in cases {
        let mut client = Client::new(&[("TimeZone", "UTC"), ("a", "b")]);
        client.run(text);
        assert_eq!(
            Client::show(client.settings.committed()),
            expected,
            "{text}"
        );
        assert_eq!(Client::show(client.settings.on_server()), server, "{text}");
        client.settings.in_line();
        assert_eq!(Client::show(client.settings.on_server()), expected);
    }
}

#[test]
fn losing_account_is_said_until_it_ends() {
    let cases: &[(&[&str], bool)] = &[
        (&["SELECT set_config(x, 'b', false)"], false),
        (&["SELECT set_config(x, 'b', true) FROM t"], true),
        (
            &["BEGIN", "SELECT set_config(x, 'b', false)", "ROLLBACK"],
            true,
        ),
        (
            &["BEGIN", "SELECT set_config(x, 'b', false)", "COMMIT"],
            false,
        ),
        (&["SELECT set_config(x, 'b', false)", "DISCARD ALL"], true),
        (&["SELECT set_config(x, 'b', false)", "RESET ALL"], false),
        (&["SET a='\u{e9}'", "SET client_encoding='LATIN1'"], false),
        (&["SET client_encoding='LATIN1'", "SET a='\u{e9}'"], true),
    ];
    for (texts, expected) in cases {
        let mut client = Client::new(&[]);
        texts.iter().for_each(|text| client.run(text));
        assert_eq!(client.settings.is_exact(), *expected, "{texts:?}");
    }
    let mut client = Client::new(&[]);
    client.run(&format!("SET a='{}'", "x".repeat(SETTINGS_BYTES_MAX)));
    assert!(!client.settings.is_exact());

    let mut client = Client::new(&[]);
    client.run("BEGIN; SET a=1");
    client.block = false; // a procedure has ended it
    client.run("CALL p()");
    assert!(!client.settings.is_exact());
}

#[test]
fn equal_sessions_share_their_settings() {
    let mut store = SettingsStore::default();
    let start = [(&b"TimeZone"[..], &b"UTC"[..])];
    let mut one = SessionSettings::new(start, &mut store);
    let two = SessionSettings::new(start, &mut store);
    assert!(Arc::ptr_eq(one.committed(), two.committed()));
    for text in ["SET a=1", "RESET a"] {
        for step in effects(text.as_bytes(), Dialect::default()).steps() {
            one.succeeded(&step.effect, b"", &mut store);
        }
        one.ready(b'I', &mut store);
    }
    assert!(Arc::ptr_eq(one.committed(), two.committed()));
    assert!(size_of::<SessionSettings>() <= 40);
}

/// The same, told naively: whole maps are copied, and SET LOCAL lies over them.
type Session = BTreeMap<&'static str, u8>;
type Local = BTreeMap<&'static str, Option<u8>>;

#[derive(Clone, Default)]
struct Reference {
    session: Session,
    local: Local,
    block: Option<Session>,
    savepoints: Vec<(&'static str, Session, Local)>,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Begin,
    Commit,
    Rollback,
    Savepoint(&'static str),
    Release(&'static str),
    RollbackTo(&'static str),
    Set(&'static str, Option<u8>),
    SetLocal(&'static str, Option<u8>),
    ResetAll,
}

impl Reference {
    /// The text of the statement, if the server would accept it.
    fn apply(&mut self, op: Op) -> Option<String> {
        let known = |name| {
            self.savepoints
                .iter()
                .rposition(|(other, ..)| *other == name)
        };
        let inside = self.block.is_some();
        Some(match op {
            Op::Begin if !inside => {
                self.block = Some(self.session.clone());
                "BEGIN".into()
            }
            Op::Commit if inside => {
                self.end();
                "COMMIT".into()
            }
            Op::Rollback if inside => {
                self.session = self.block.clone().unwrap();
                self.end();
                "ROLLBACK".into()
            }
            Op::Savepoint(name) if inside => {
                let saved = (name, self.session.clone(), self.local.clone());
                self.savepoints.push(saved);
                format!("SAVEPOINT {name}")
            }
            Op::Release(name) => {
                self.savepoints.truncate(known(name)?);
                format!("RELEASE {name}")
            }
            Op::RollbackTo(name) => {
                self.savepoints.truncate(known(name)? + 1);
                let (_, session, local) = self.savepoints.last().cloned().unwrap();
                (self.session, self.local) = (session, local);
                format!("ROLLBACK TO {name}")
            }
            Op::Set(name, value) => {
                self.local.remove(name);
                match value {
                    Some(value) => self.session.insert(name, value),
                    None => self.session.remove(name),
                };
                match value {
                    Some(value) => format!("SET {name} = {value}"),
                    None => format!("RESET {name}"),
                }
            }
            Op::SetLocal(name, value) if inside => {
                self.local.insert(name, value);
                match value {
                    Some(value) => format!("SET LOCAL {name} = {value}"),
                    None => format!("SET LOCAL {name} TO DEFAULT"),
                }
            }
            Op::ResetAll => {
                // What is at its default for this transaction is passed over.
                self.local.retain(|_, value| value.is_none());
                let passed_over = &self.local;
                self.session
                    .retain(|name, _| passed_over.contains_key(name));
                "RESET ALL".into()
            }
            _ => return None,
        })
    }

    fn end(&mut self) {
        self.block = None;
        self.local.clear();
        self.savepoints.clear();
    }

    fn current(&self) -> String {
        let mut all = self.session.clone();
        for (name, value) in &self.local {
            match value {
                Some(value) => all.insert(name, *value),
                None => all.remove(name),
            };
        }
        let entries: Vec<String> = all
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        entries.join(" ")
    }
}

fn op() -> impl Strategy<Value = Op> {
    let setting = || prop::sample::select(vec!["a", "b", "c.d"]);
    let point = || prop::sample::select(vec!["s", "t"]);
    prop_oneof![
        2 => Just(Op::Begin),
        1 => Just(Op::Commit),
        1 => Just(Op::Rollback),
        2 => point().prop_map(Op::Savepoint),
        1 => point().prop_map(Op::Release),
        2 => point().prop_map(Op::RollbackTo),
        4 => (setting(), any::<Option<u8>>()).prop_map(|(name, value)| Op::Set(name, value)),
        4 => (setting(), any::<Option<u8>>()).prop_map(|(name, value)| Op::SetLocal(name, value)),
        1 => Just(Op::ResetAll),
    ]
}

proptest! {
    #[test]
    fn any_course_of_transactions_agrees_with_the_reference(ops in prop::collection::vec(op(), 0..40)) {
        let mut reference = Reference::default();
        let mut client = Client::new(&[]);
        for op in ops {
            if let Some(text) = reference.apply(op) {
                client.run(&text);
            }
            prop_assert_eq!(Client::show(client.settings.current()), reference.current());
            if reference.block.is_none() {
                prop_assert_eq!(Client::show(client.settings.committed()), reference.current());
                prop_assert_eq!(client.settings.on_server(), client.settings.committed());
            }
        }
        prop_assert!(client.settings.is_exact());
    }

    /// A transition changes one map of settings into the other.
    #[test]
    fn any_transition_leads_where_it_should(
        from in prop::collection::btree_map("[ab]\\.[a-c]|role", 0..4_u8, 0..5),
        to in prop::collection::btree_map("[ab]\\.[a-c]|role", 0..4_u8, 0..5),
    ) {
        use crate::sql::settings::Transition;
        let run = |map: &BTreeMap<String, u8>| {
            let mut client = Client::new(&[]);
            map.iter().for_each(|(name, value)| client.run(&format!("SET {name} = {value}")));
            client
        };
        let (mut server, wanted) = (run(&from), run(&to));
        let before = Client::show(server.settings.committed());
        let expected = Client::show(wanted.settings.committed());
        let transition = Transition::between(server.settings.committed(), wanted.settings.committed());
        prop_assert_eq!(transition.is_none(), before == expected);
        if let Some(transition) = transition {
            server.run(std::str::from_utf8(&transition.text).unwrap());
        }
        prop_assert_eq!(Client::show(server.settings.committed()), expected);
    }
}

/// What is told by reports alone, of a session whose statements nobody follows.
fn report(client: &mut Client, name: &str, value: &str, status: u8) -> String {
    let own = Some(&b"own"[..]);
    let settings = &mut client.settings;
    settings.reported(name.as_bytes(), value.as_bytes(), own);
    settings.ready_unfollowed(status, &mut client.store);
    Client::show(settings.committed())
}

#[test]
fn reports_of_a_transaction_that_nobody_follows_count_when_it_ends() {
    let mut client = Client::new(&[("a", "start")]);
    assert_eq!(report(&mut client, "a", "local", b'T'), "a='start'");
    assert_eq!(report(&mut client, "b", "local", b'T'), "a='start'");
    // Both were local: they are reported as they were.
    client.settings.reported(b"a", b"start", Some(b"own"));
    assert_eq!(report(&mut client, "b", "own", b'I'), "a='start'");
    // One is not.
    assert_eq!(report(&mut client, "a", "kept", b'T'), "a='start'");
    client.settings.ready_unfollowed(b'I', &mut client.store);
    assert_eq!(Client::show(client.settings.committed()), "a='kept'");
    // A statement that is followed comes in the middle, and the transaction is rolled back.
    assert_eq!(report(&mut client, "a", "local", b'T'), "a='kept'");
    client.block = true;
    client.run("SET c TO 1; error");
    client.settings.reported(b"a", b"kept", Some(b"own"));
    client.run("ROLLBACK");
    assert_eq!(Client::show(client.settings.committed()), "a='kept'");
}

#[test]
fn reset_all_passes_over_what_is_at_its_default_for_this_transaction() {
    let mut client = Client::new(&[]);
    client.run("SET a TO 1; SET b TO 2");
    client.run("BEGIN; SET LOCAL a TO DEFAULT; RESET ALL; COMMIT");
    assert_eq!(Client::show(client.settings.committed()), "a=1");
    assert_eq!(Client::show(client.settings.on_server()), "a=1");
}
