//! What drivers and pools of connections say to any server: session parameters, transactions, probes.
//!
//! Nothing of it has an effect beyond the session; but a driver must find it in order, or it would not go on.

use std::collections::BTreeMap;

use super::command::Words;
use super::rows::{self, Column, Rows, Type, Value};
use super::words::Word;
use super::Answer;

/// Session parameters that clients make, remembered for SHOW; further ones are accepted and forgotten.
const PARAMETERS_MAX: usize = 64;
/// Their values, in bytes.
const VALUE_BYTES_MAX: usize = 256;

/// The server version that drivers are told: what they expect of a current one holds here, too.
const SERVER_VERSION: &str = "16.0";

/// Parameters that PostgreSQL reports of itself, with what they are here; `server_version` comes in front of these.
const REPORTED: [(&str, &str); 10] = [
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "Etc/UTC"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("is_superuser", "on"),
];

/// Further parameters that clients ask for or make, and what they are until then.
const QUIET: [(&str, &str); 22] = [
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_min_messages", "notice"),
    ("default_transaction_deferrable", "off"),
    ("default_transaction_isolation", "read committed"),
    ("escape_string_warning", "on"),
    ("extra_float_digits", "1"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("jit", "off"),
    ("lc_messages", "C"),
    ("lc_monetary", "C"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    ("role", "none"),
    ("row_security", "on"),
    ("search_path", "public"),
    ("session_replication_role", "origin"),
    ("statement_timeout", "0"),
    ("synchronous_commit", "on"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
];

/// One of these statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// BEGIN and its synonyms.
    Begin,
    /// COMMIT and its synonyms.
    Commit,
    /// ROLLBACK and its synonyms.
    Rollback,
    /// SET of a session parameter.
    Set {
        /// As PostgreSQL spells it.
        name: &'static str,
        /// As written.
        value: String,
    },
    /// SHOW of a session parameter.
    Show(&'static str),
    /// SELECT of constants.
    Select(Vec<(String, Item)>),
    /// RESET of all or one session parameter.
    Reset(Option<&'static str>),
    /// What has nothing to act upon here, with its command tag.
    Nothing(&'static str),
}

/// What a probe may select.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A constant.
    Constant(Type, Value),
    /// A session parameter.
    Setting(&'static str),
    /// `version()`.
    Version,
    /// `current_user`, `session_user`.
    User,
    /// `current_database()`.
    Database,
    /// `pg_backend_pid()`.
    ProcessId,
}

impl Driver {
    pub(super) fn tag(&self) -> String {
        match self {
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::Rollback => "ROLLBACK",
            Self::Set { .. } => "SET",
            Self::Show(_) => "SHOW",
            Self::Select(_) => "SELECT 1",
            Self::Reset(_) => "RESET",
            Self::Nothing(tag) => tag,
        }
        .to_owned()
    }

    /// Columns of its result, if it has one.
    pub fn columns(&self) -> Option<Vec<Column>> {
        match self {
            Self::Show(name) => Some(rows::columns(Type::Text, &[name]).collect()),
            Self::Select(items) => {
                let columns = items.iter().map(|(name, item)| Column {
                    name: name.clone().into(),
                    of: item.of(),
                });
                Some(columns.collect())
            }
            _ => None,
        }
    }
}

impl Item {
    fn of(&self) -> Type {
        match self {
            Self::Constant(of, _) => *of,
            Self::ProcessId => Type::Int4,
            Self::Setting(_) | Self::Version | Self::User | Self::Database => Type::Text,
        }
    }
}

/// A statement that begins with this keyword; `None` if it is none of these.
pub(super) fn parse(keyword: &str, words: &mut Words<'_>) -> Option<Driver> {
    match keyword {
        "BEGIN" | "START" => transaction(words, Driver::Begin),
        "COMMIT" | "END" => transaction(words, Driver::Commit),
        "ROLLBACK" | "ABORT" => transaction(words, Driver::Rollback),
        "RESET" if words.accept(&["ALL"]) => Some(Driver::Reset(None)),
        "RESET" => known(&words.argument()?).map(|name| Driver::Reset(Some(name))),
        "DISCARD" => all(words, "DISCARD ALL"),
        "DEALLOCATE" => {
            words.accept(&["PREPARE"]);
            all(words, "DEALLOCATE ALL")
        }
        "CLOSE" => all(words, "CLOSE CURSOR ALL"),
        "UNLISTEN" => words.symbol('*').then_some(Driver::Nothing("UNLISTEN")),
        "SELECT" => select(words),
        _ => None,
    }
}

/// Modes of transactions make no difference; savepoints are not there.
fn transaction(words: &mut Words<'_>, driver: Driver) -> Option<Driver> {
    let word = |word: &Word| {
        let Word::Bare(word) = word else {
            return matches!(word, Word::Symbol(','));
        };
        let word = word.to_ascii_uppercase();
        matches!(
            word.as_str(),
            "TRANSACTION"
                | "WORK"
                | "ISOLATION"
                | "LEVEL"
                | "READ"
                | "COMMITTED"
                | "UNCOMMITTED"
                | "REPEATABLE"
                | "SERIALIZABLE"
                | "ONLY"
                | "WRITE"
                | "NOT"
                | "DEFERRABLE"
                | "AND"
                | "NO"
                | "CHAIN"
        )
    };
    words.0.iter().all(word).then(|| {
        words.0 = &[];
        driver
    })
}

fn all(words: &mut Words<'_>, tag: &'static str) -> Option<Driver> {
    words.accept(&["ALL"]).then_some(Driver::Nothing(tag))
}

/// The rest of SET, if it is about a session parameter.
pub(super) fn set(words: &mut Words<'_>) -> Option<Driver> {
    let before = words.0;
    let scoped = words.accept(&["SESSION"]) || words.accept(&["LOCAL"]);
    if words.accept(&["TRANSACTION"]) || words.accept(&["CHARACTERISTICS", "AS", "TRANSACTION"]) {
        return transaction(words, Driver::Nothing("SET"));
    }
    let name = if words.accept(&["TIME", "ZONE"]) {
        Some("TimeZone")
    } else {
        let name = words.argument().and_then(|name| known(&name));
        (name.is_some() && (words.symbol('=') || words.accept(&["TO"])))
            .then_some(name)
            .flatten()
    };
    let Some(name) = name else {
        if !scoped {
            words.0 = before;
        }
        return None;
    };
    let mut value = words.argument()?;
    while words.symbol(',') {
        value = format!("{value}, {}", words.argument()?);
    }
    Some(Driver::Set { name, value })
}

/// The rest of SHOW, if it is about a session parameter.
pub(super) fn show(words: &mut Words<'_>) -> Option<Driver> {
    if words.accept(&["TRANSACTION", "ISOLATION", "LEVEL"]) {
        return Some(Driver::Show("transaction_isolation"));
    }
    if words.accept(&["TIME", "ZONE"]) {
        return Some(Driver::Show("TimeZone"));
    }
    known(&words.argument()?).map(Driver::Show)
}

/// The parameter of this name in any case.
fn known(name: &str) -> Option<&'static str> {
    let names = REPORTED.iter().chain(&QUIET).map(|(name, _)| *name);
    names
        .chain(["server_version"])
        .find(|known| known.eq_ignore_ascii_case(name))
}

fn select(words: &mut Words<'_>) -> Option<Driver> {
    let mut items = Vec::new();
    loop {
        let (mut name, item) = item(words)?;
        if words.accept(&["AS"]) {
            name = words.argument()?;
        }
        items.push((name, item));
        if !words.symbol(',') {
            return Some(Driver::Select(items));
        }
    }
}

fn item(words: &mut Words<'_>) -> Option<(String, Item)> {
    let constant = |of, value| Some(("?column?".to_owned(), Item::Constant(of, value)));
    let word = match words.0.split_first()? {
        (Word::Quoted(text), rest) => {
            words.0 = rest;
            return constant(Type::Text, rows::text(text.clone()));
        }
        (Word::Symbol(_), _) => return None,
        (Word::Bare(_), _) => words.argument()?.to_ascii_lowercase(),
    };
    if let Ok(number) = word.parse::<i32>() {
        return constant(Type::Int4, Value::from(number));
    }
    let truth = |value| {
        Some((
            "bool".to_owned(),
            Item::Constant(Type::Bool, Value::Bool(value)),
        ))
    };
    let name = word.strip_prefix("pg_catalog.").unwrap_or(&word);
    let called = words.symbol('(');
    let argument = called.then(|| words.argument()).flatten();
    if called && !words.symbol(')') {
        return None;
    }
    let item = match (name, called, argument) {
        ("true", false, None) => return truth(true),
        ("false", false, None) => return truth(false),
        ("null", false, None) => return constant(Type::Text, Value::Null),
        ("current_user" | "session_user" | "user" | "current_role", false, None) => Item::User,
        ("current_database", true, None) | ("current_catalog", false, None) => Item::Database,
        ("current_schema", _, None) => Item::Constant(Type::Text, rows::text("public")),
        ("version", true, None) => Item::Version,
        ("pg_backend_pid", true, None) => Item::ProcessId,
        ("pg_is_in_recovery", true, None) => Item::Constant(Type::Bool, Value::Bool(false)),
        ("pg_advisory_unlock_all", true, None) => Item::Constant(Type::Text, rows::text("")),
        ("current_setting", true, Some(name)) => Item::Setting(known(&name)?),
        _ => return None,
    };
    Some((name.to_owned(), item))
}

/// A session's own state.
#[derive(Debug)]
pub struct Session {
    user: String,
    database: String,
    process_id: i32,
    version: String,
    made: BTreeMap<&'static str, String>,
    in_transaction: bool,
}

impl Session {
    /// A session with the parameters of its startup packet. `program` is our own version.
    pub fn new<'a>(
        user: &str,
        database: &str,
        process_id: i32,
        program: &str,
        startup: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Self {
        let mut session = Self {
            user: user.to_owned(),
            database: database.to_owned(),
            process_id,
            version: format!("{SERVER_VERSION} (pgdog {program})"),
            made: BTreeMap::new(),
            in_transaction: false,
        };
        for (name, value) in startup {
            if let Some(name) = known(&String::from_utf8_lossy(name)) {
                session.make(name, String::from_utf8_lossy(value).into_owned());
            }
        }
        session
    }

    /// What a server reports after the login.
    pub fn reported(&self) -> impl Iterator<Item = (&str, &str)> {
        let fixed = REPORTED.iter().map(|(name, _)| *name);
        ["server_version", "application_name"]
            .into_iter()
            .chain(fixed)
            .map(|name| (name, self.value(name)))
            .chain([("session_authorization", self.user.as_str())])
    }

    /// The name that the client gave itself.
    pub fn application_name(&self) -> &str {
        self.value("application_name")
    }

    /// Is it, as far as the driver knows, in a transaction?
    pub fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Does what there is to do.
    pub fn run(&mut self, driver: &Driver) -> Answer {
        let mut answer = Answer::done(driver.tag());
        match driver {
            Driver::Begin => self.in_transaction = true,
            Driver::Commit | Driver::Rollback => self.in_transaction = false,
            Driver::Set { name, value } => {
                self.make(name, value.clone());
                if *name == "application_name" {
                    answer.status = Some((name, self.value(name).to_owned()));
                }
            }
            Driver::Reset(Some(name)) => drop(self.made.remove(name)),
            Driver::Reset(None) => self.made.clear(),
            Driver::Nothing(_) => {}
            Driver::Show(name) => {
                answer.rows = Some(self.one(driver, [rows::text(self.value(name).to_owned())]))
            }
            Driver::Select(items) => {
                let values = items.iter().map(|(_, item)| self.item(item));
                answer.rows = Some(self.one(driver, values));
            }
        }
        answer
    }

    fn one(&self, driver: &Driver, row: impl IntoIterator<Item = Value>) -> Rows {
        Rows {
            columns: driver.columns().unwrap_or_default(),
            rows: vec![row.into_iter().collect()],
        }
    }

    fn item(&self, item: &Item) -> Value {
        match item {
            Item::Constant(_, value) => value.clone(),
            Item::Setting(name) => rows::text(self.value(name).to_owned()),
            Item::Version => rows::text(format!("PostgreSQL {}", self.version)),
            Item::User => rows::text(self.user.clone()),
            Item::Database => rows::text(self.database.clone()),
            Item::ProcessId => Value::from(self.process_id),
        }
    }

    fn value(&self, name: &str) -> &str {
        if name == "server_version" {
            return &self.version;
        }
        let own = REPORTED.iter().chain(&QUIET);
        let own = || own.clone().find(|(known, _)| *known == name);
        match self.made.get(name) {
            Some(made) => made,
            None => own().map_or("", |(_, value)| value),
        }
    }

    /// Texts are UTF-8 here, and what PostgreSQL says of itself stays as it is: of the reported ones only the time
    /// zone and styles change.
    fn make(&mut self, name: &'static str, value: String) {
        let fixed = matches!(
            name,
            "server_version"
                | "server_encoding"
                | "client_encoding"
                | "integer_datetimes"
                | "standard_conforming_strings"
                | "is_superuser"
                | "in_hot_standby"
        );
        let room = self.made.len() < PARAMETERS_MAX || self.made.contains_key(name);
        if !fixed && room && value.len() <= VALUE_BYTES_MAX {
            self.made.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::{parse, Command};
    use super::*;

    fn session() -> Session {
        let startup: [(&[u8], &[u8]); 2] = [(b"application_name", b"psql"), (b"geqo", b"off")];
        Session::new("admin", "pgbouncer", 7, "0.1", startup)
    }

    fn run(session: &mut Session, text: &str) -> (String, Vec<Value>) {
        match parse(text)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
            .remove(0)
        {
            Command::Driver(driver) => {
                let mut answer = session.run(&driver);
                let row = answer.rows.as_mut().map_or(Vec::new(), |rows| {
                    assert_eq!(Some(&rows.columns), driver.columns().as_ref(), "{text}");
                    rows.rows.remove(0)
                });
                (answer.tag, row)
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn statements_of_drivers_go_through() {
        let mut session = session();
        for (text, tag) in [
            ("SET client_encoding TO 'UTF8'", "SET"),
            ("SET extra_float_digits = 3", "SET"),
            (
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                "SET",
            ),
            ("SET TIME ZONE 'Europe/Berlin'", "SET"),
            ("SET LOCAL lock_timeout = '5s'", "SET"),
            ("SET search_path TO a, b", "SET"),
            ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET"),
            ("RESET ALL", "RESET"),
            ("reset datestyle", "RESET"),
            ("DISCARD ALL", "DISCARD ALL"),
            ("DEALLOCATE ALL", "DEALLOCATE ALL"),
            ("CLOSE ALL", "CLOSE CURSOR ALL"),
            ("UNLISTEN *", "UNLISTEN"),
            ("BEGIN", "BEGIN"),
            (
                "START TRANSACTION READ ONLY, ISOLATION LEVEL REPEATABLE READ",
                "BEGIN",
            ),
            ("commit", "COMMIT"),
            ("ROLLBACK", "ROLLBACK"),
        ] {
            assert_eq!(run(&mut session, text).0, tag, "{text}");
        }
        assert!(parse("ROLLBACK TO SAVEPOINT a").is_err());
        assert!(
            parse("SET nonsense TO 5").is_ok(),
            "known only where settings are"
        );
    }

    #[test]
    fn probes_are_answered() {
        let mut session = session();
        let mut check = |text: &str, expected: &[Value]| {
            assert_eq!(run(&mut session, text).1, expected, "{text}");
        };
        let string = |value: &'static str| rows::text(value);
        check("SELECT 1", &[Value::Int(1)]);
        check(
            "select 1 as one, 'x', NULL, true",
            &[Value::Int(1), string("x"), Value::Null, Value::Bool(true)],
        );
        check(
            "select pg_catalog.version()",
            &[string("PostgreSQL 16.0 (pgdog 0.1)")],
        );
        check(
            "SELECT current_database(), current_user",
            &[string("pgbouncer"), string("admin")],
        );
        check(
            "SELECT pg_catalog.pg_is_in_recovery()",
            &[Value::Bool(false)],
        );
        check("SHOW transaction_read_only", &[string("off")]);
        check(
            "SHOW TRANSACTION ISOLATION LEVEL",
            &[string("read committed")],
        );
        check("SET DateStyle = 'ISO, DMY'", &[]);
        check("SHOW datestyle", &[string("ISO, DMY")]);
        check("SET client_encoding TO LATIN1", &[]);
        check("SHOW client_encoding", &[string("UTF8")]);
        check(
            "SELECT current_setting('application_name')",
            &[string("psql")],
        );
        for text in [
            "SELECT",
            "SELECT x",
            "SELECT 1 +",
            "SELECT version",
            "SELECT f(1)",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_transaction_is_where_the_driver_believes_it_to_be() {
        let mut session = session();
        assert!(!session.in_transaction());
        run(&mut session, "BEGIN");
        assert!(session.in_transaction());
        run(&mut session, "COMMIT");
        assert!(!session.in_transaction());
    }
}
