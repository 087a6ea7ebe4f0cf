//! Run-time parameters of a session; what must be set before a server may serve a client.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC>

use std::cmp::Ordering;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// Parameters that PostgreSQL reports by ParameterStatus, and the first major version that does.
///
/// A change of any other parameter, and of `search_path` before 18, shows only in the statements.
pub const REPORTED: &[(&str, u32)] = &[
    ("application_name", 9),
    ("client_encoding", 7),
    ("DateStyle", 7),
    ("default_transaction_read_only", 14),
    ("in_hot_standby", 14),
    ("integer_datetimes", 8),
    ("IntervalStyle", 8),
    ("is_superuser", 7),
    ("scram_iterations", 16),
    ("search_path", 18),
    ("server_encoding", 8),
    ("server_version", 7),
    ("session_authorization", 7),
    ("standard_conforming_strings", 8),
    ("TimeZone", 8),
];

/// Parameters that are reported but not for a session to set, or that belong to a transaction and must not
/// outlive it. They are never part of [`changes`].
const NOT_TO_SET: &[&str] = &[
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
];

/// Names and values of run-time parameters, ordered by name.
///
/// Names are compared as PostgreSQL does, without regard to the case of ASCII letters; values exactly. Text
/// is bytes in the client's encoding. Meant to be shared: clients with the same parameters and the servers
/// that serve them hold the same `Rc<Parameters>`, change it by `Rc::make_mut`, and are equal by address.
/// Different ones nearly always differ in a fingerprint, so that entries are compared only to confirm that
/// they are equal. Not bounded here: a client's come from its startup packet and its own statements.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    /// Ordered by [`compare_names`], no name twice.
    entries: Vec<Entry>,
    /// Sum of the entries' hashes.
    fingerprint: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Parameters {
    /// No parameters.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
            fingerprint: 0,
        }
    }

    /// Value of a parameter.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        let at = self.find(name.as_ref()).ok()?;
        self.entries.get(at).map(|entry| &*entry.value)
    }

    /// Sets a parameter. True if that changed anything; the first spelling of a name is kept.
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> bool {
        let (name, value) = (name.as_ref(), value.as_ref());
        match self.find(name) {
            Ok(at) => match self.entries.get_mut(at) {
                Some(entry) if *entry.value != *value => {
                    self.fingerprint = self.fingerprint.wrapping_sub(entry.hash());
                    entry.value = value.into();
                    self.fingerprint = self.fingerprint.wrapping_add(entry.hash());
                    true
                }
                _ => false,
            },
            Err(at) => {
                let entry = Entry {
                    name: name.into(),
                    value: value.into(),
                };
                self.fingerprint = self.fingerprint.wrapping_add(entry.hash());
                self.entries.insert(at, entry);
                true
            }
        }
    }

    /// Forgets a parameter. True if it was there.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) -> bool {
        let Ok(at) = self.find(name.as_ref()) else {
            return false;
        };
        let entry = self.entries.remove(at);
        self.fingerprint = self.fingerprint.wrapping_sub(entry.hash());
        true
    }

    /// Names and values in the order of names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> + Clone {
        self.entries
            .iter()
            .map(|entry| (&*entry.name, &*entry.value))
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// May a session's value of this parameter be set by us? False for what is only reported, or belongs to a
    /// transaction.
    pub fn is_settable(name: &[u8]) -> bool {
        !NOT_TO_SET
            .iter()
            .any(|other| compare_names(name, other.as_bytes()).is_eq())
    }

    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| compare_names(&entry.name, name))
    }
}

impl Entry {
    /// Equal for entries of equal meaning. Not keyed: a client that makes two of its own sets collide gains
    /// a slower comparison, nothing else.
    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.to_ascii_lowercase().hash(&mut hasher);
        self.value.hash(&mut hasher);
        hasher.finish()
    }
}

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
            && self.len() == other.len()
            && self
                .iter()
                .zip(other.iter())
                .all(|(left, right)| left.1 == right.1 && compare_names(left.0, right.0).is_eq())
    }
}

impl Eq for Parameters {}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut parameters = Self::new();
        parameters.extend(pairs);
        parameters
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Extend<(N, V)> for Parameters {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, pairs: I) {
        for (name, value) in pairs {
            self.set(name, value);
        }
    }
}

/// Order of names; equal without regard to the case of ASCII letters.
fn compare_names(left: &[u8], right: &[u8]) -> Ordering {
    left.iter()
        .map(u8::to_ascii_lowercase)
        .cmp(right.iter().map(u8::to_ascii_lowercase))
}

/// What must change on a server before it may serve a client. Empty nearly always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<'a> {
    list: Vec<Change<'a>>,
    /// Encoding that the values are in.
    encoding: &'a [u8],
}

/// One parameter to set, or to reset where the value is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Name of the parameter.
    pub name: &'a [u8],
    /// Its new value; `None` gives it the value that it had when the server's session began.
    pub value: Option<&'a [u8]>,
}

/// What makes a server with the parameters `server` fit for a client with the parameters `client`.
///
/// `server` is what was reported by ParameterStatus or set by us and not reset since. A parameter that only
/// the server has was set for another client and is reset.
pub fn changes<'a>(client: &'a Parameters, server: &'a Parameters) -> Changes<'a> {
    let mut list = Vec::new();
    if client != server {
        let (mut wanted, mut present) = (client.iter().peekable(), server.iter().peekable());
        loop {
            let order = match (wanted.peek(), present.peek()) {
                (Some((left, _)), Some((right, _))) => compare_names(left, right),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let set = wanted.next_if(|_| order.is_le());
            let is = present.next_if(|_| order.is_ge());
            match (set, is) {
                (Some((_, value)), Some((_, same))) if value == same => {}
                (Some((name, value)), _) => list.push(Change {
                    name,
                    value: Some(value),
                }),
                (None, Some((name, _))) => list.push(Change { name, value: None }),
                (None, None) => break,
            }
        }
        list.retain(|change| Parameters::is_settable(change.name));
    }
    Changes {
        list,
        encoding: client.get("client_encoding").unwrap_or(b"UTF8"),
    }
}

impl Changes<'_> {
    /// Is the server fit as it is?
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The parameters in the order of names.
    pub fn list(&self) -> &[Change<'_>] {
        &self.list
    }

    /// The text of one simple query that makes the changes, in ASCII. Empty if there are none.
    ///
    /// It is `SELECT pg_catalog.set_config(…), …` and not `SET`, because `SET` cannot give back every value
    /// that a parameter can have. In `SET search_path TO 'a, b'` the string is one schema's name, and PostgreSQL
    /// turns it into `"a, b"`; to be right, `SET` would need to know which parameters are lists and to take
    /// their values apart. `set_config` takes for any parameter the text that SHOW, ParameterStatus and the
    /// startup packet give, and NULL to reset. One statement also means that either all changes happen or none.
    ///
    /// The text means the same whatever the server's current settings are: a backslash appears only inside
    /// `E''`, so `standard_conforming_strings` does not matter; functions are qualified, so `search_path` does
    /// not; and bytes outside ASCII travel in hexadecimal with the name of the client's encoding, so the
    /// server's `client_encoding` does not, which may be about to change in the same statement.
    pub fn sql(&self) -> String {
        let mut sql = String::new();
        for change in &self.list {
            sql.push_str(if sql.is_empty() { "SELECT " } else { ", " });
            sql.push_str("pg_catalog.set_config(");
            self.put_literal(&mut sql, change.name);
            sql.push_str(", ");
            match change.value {
                Some(value) => self.put_literal(&mut sql, value),
                None => sql.push_str("NULL"),
            }
            sql.push_str(", false)");
        }
        sql
    }

    /// Notes the changes in what is known of the server, once it has confirmed them.
    ///
    /// A ParameterStatus that arrived with the confirmation comes after this: PostgreSQL may spell the value
    /// in its own way (`iso` becomes `ISO, MDY`). Note that in the client's parameters too, or the two will
    /// be found different again.
    pub fn apply(&self, server: &mut Parameters) {
        for change in &self.list {
            match change.value {
                Some(value) => server.set(change.name, value),
                None => server.remove(change.name),
            };
        }
    }

    fn put_literal(&self, sql: &mut String, text: &[u8]) {
        if text.is_ascii() {
            put_ascii_literal(sql, text);
            return;
        }
        sql.push_str("pg_catalog.convert_from(pg_catalog.decode('");
        for byte in text {
            for digit in [byte >> 4, byte & 15] {
                sql.extend(char::from_digit(u32::from(digit), 16));
            }
        }
        sql.push_str("', 'hex'), ");
        // An encoding's name outside ASCII is none; the server will say so of whatever is left of it.
        put_ascii_literal(sql, &self.encoding.to_ascii_lowercase());
        sql.push(')');
    }
}

/// Appends a string literal. Bytes outside ASCII are dropped, and zero bytes, which no parameter can hold.
fn put_ascii_literal(sql: &mut String, text: &[u8]) {
    if text.contains(&b'\\') {
        sql.push('E');
    }
    sql.push('\'');
    for &byte in text {
        match byte {
            b'\'' => sql.push_str("''"),
            b'\\' => sql.push_str("\\\\"),
            1..=127 => sql.push(char::from(byte)),
            _ => {}
        }
    }
    sql.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::rc::Rc;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn parameters(pairs: Pairs<'_>) -> Parameters {
        pairs.iter().copied().collect()
    }

    #[test]
    fn names_have_no_case_and_values_have() {
        let mut one = parameters(&[("TimeZone", "UTC"), ("DateStyle", "ISO, MDY")]);
        assert_eq!(one.get("timezone"), Some(&b"UTC"[..]));
        assert_eq!(
            one,
            parameters(&[("datestyle", "ISO, MDY"), ("TIMEZONE", "UTC")])
        );
        assert_ne!(
            one,
            parameters(&[("datestyle", "iso, mdy"), ("TIMEZONE", "UTC")])
        );
        assert!(!one.set("TIMEZONE", "UTC"));
        assert!(one.set("TIMEZONE", "CET"));
        assert!(one.remove("timezone") && !one.remove("timezone"));
        assert_eq!(one, parameters(&[("DateStyle", "ISO, MDY")]));
        assert_eq!(
            one.iter().next(),
            Some((&b"DateStyle"[..], &b"ISO, MDY"[..]))
        );
    }

    #[test]
    fn snapshots_are_shared_until_one_changes() {
        let mut one = Rc::new(parameters(&[("a", "1")]));
        let two = Rc::clone(&one);
        Rc::make_mut(&mut one).set("a", "2");
        assert_eq!(two.get("a"), Some(&b"1"[..]));
        Rc::make_mut(&mut one).set("a", "1");
        assert_eq!(one, two);
    }

    fn check(client: Pairs<'_>, server: Pairs<'_>, sql: &str) {
        let (client, server) = (parameters(client), parameters(server));
        let changes = changes(&client, &server);
        assert_eq!(changes.sql(), sql);
        assert_eq!(changes.is_empty(), sql.is_empty());
        let mut fit = server.clone();
        changes.apply(&mut fit);
        assert!(super::changes(&client, &fit).is_empty(), "fit once applied");
    }

    #[test]
    fn sets_what_differs_and_resets_what_the_client_does_not_have() {
        check(&[], &[], "");
        check(&[("TimeZone", "UTC")], &[("timezone", "UTC")], "");
        check(
            &[("a", "1"), ("b", "2"), ("d", "4")],
            &[("b", "2"), ("c", "3"), ("d", "5")],
            "SELECT pg_catalog.set_config('a', '1', false), \
             pg_catalog.set_config('c', NULL, false), \
             pg_catalog.set_config('d', '4', false)",
        );
    }

    /// Edge case 43, and parameters that only report.
    #[test]
    fn never_sets_what_no_session_may_carry_over() {
        check(
            &[
                ("server_version", "15.1"),
                ("Is_Superuser", "on"),
                ("transaction_isolation", "serializable"),
                ("transaction_read_only", "on"),
            ],
            &[("server_version", "16.0"), ("in_hot_standby", "on")],
            "",
        );
    }

    /// Edge case 44.
    #[test]
    fn quotes_empty_and_list_values_keep_their_meaning() {
        let quoted = |value: &str, literal: &str| {
            let sql = format!("SELECT pg_catalog.set_config('x', {literal}, false)");
            check(&[("x", value)], &[], &sql);
        };
        quoted("", "''");
        quoted("O'Neil", "'O''Neil'");
        quoted(r#"{"a": ["b"]}"#, r#"'{"a": ["b"]}'"#);
        quoted(r#""$user", public"#, r#"'"$user", public'"#);
        quoted(r"C:\new", r"E'C:\\new'");
        quoted(r"\'; DROP TABLE x; --", r"E'\\''; DROP TABLE x; --'");
        quoted(
            "Zürich",
            "pg_catalog.convert_from(pg_catalog.decode('5ac3bc72696368', 'hex'), 'utf8')",
        );
        check(
            &[("it's", "1")],
            &[],
            "SELECT pg_catalog.set_config('it''s', '1', false)",
        );
    }

    #[test]
    fn bytes_outside_ascii_name_the_encoding_they_are_in() {
        let mut client = parameters(&[("client_encoding", "LATIN1")]);
        let server = client.clone();
        client.set("x", b"Z\xfcrich");
        assert_eq!(
            changes(&client, &server).sql(),
            "SELECT pg_catalog.set_config('x', pg_catalog.convert_from(pg_catalog.decode('5afc72696368', \
             'hex'), 'latin1'), false)"
        );
    }

    #[test]
    fn reported_names_are_spelled_once() {
        let names: Parameters = REPORTED.iter().map(|(name, _)| (name, "")).collect();
        assert_eq!(names.len(), REPORTED.len());
    }

    proptest! {
        #[test]
        fn applying_changes_makes_the_server_fit(
            client in proptest::collection::vec(("[a-cA-C]{1,2}", "[xy']{0,2}"), 0..8),
            server in proptest::collection::vec(("[a-cA-C]{1,2}", "[xy']{0,2}"), 0..8),
        ) {
            let client: Parameters = client.into_iter().collect();
            let mut server: Parameters = server.into_iter().collect();
            let before = server.clone();
            changes(&client, &before).apply(&mut server);
            prop_assert_eq!(&client, &server);
            prop_assert!(changes(&client, &server).is_empty());
        }

        #[test]
        fn a_map_by_folded_name_agrees(
            steps in proptest::collection::vec(("[a-bA-B]{1,2}", proptest::option::of("[xy]{0,1}")), 0..30)
        ) {
            let mut parameters = Parameters::new();
            let mut model = std::collections::BTreeMap::new();
            for (name, value) in steps {
                let key = name.to_ascii_lowercase();
                match value {
                    Some(value) => {
                        let changed = model.insert(key, value.clone()).as_ref() != Some(&value);
                        prop_assert_eq!(parameters.set(&name, &value), changed);
                    }
                    None => prop_assert_eq!(parameters.remove(&name), model.remove(&key).is_some()),
                }
            }
            prop_assert_eq!(&parameters, &model.iter().collect());
            for (key, value) in &model {
                prop_assert_eq!(parameters.get(key), Some(value.as_bytes()));
            }
        }

        #[test]
        fn the_statement_is_ascii_and_its_quotes_pair_up(
            name in proptest::collection::vec(1u8..=255, 1..9),
            value in proptest::collection::vec(1u8..=255, 0..9),
            encoding in proptest::collection::vec(1u8..=255, 0..9),
        ) {
            let mut client = Parameters::new();
            client.set("client_encoding", encoding);
            let server = client.clone();
            client.set(name, value);
            let sql = changes(&client, &server).sql();
            prop_assert!(sql.is_ascii());
            prop_assert_eq!(sql.matches('\'').count() % 2, 0);
        }
    }
}
