//! The settings of a session as a value: compare two, and bring a server from one to the other.
//!
//! A server's own settings, those it has when nothing was set, are not in here: a name that a [`Settings`] lacks
//! has the server's own value, and `RESET name` restores it.

use std::collections::HashSet;
use std::sync::Arc;

use super::cursor::Name;
use super::lexer::{Dialect, Kind, Lexer};
use super::quote;
use super::set::{Change, Scope, Value};

/// What a session has set, by startup parameters or statements. Immutable and shared.
///
/// `Arc`, although cores share no state: a server connection takes its settings along when it changes cores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    /// In order of names, each once.
    entries: Vec<Arc<Setting>>,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Setting {
    /// In lower case.
    pub name: Name,
    /// What it is set to.
    pub value: Value,
    /// Was it set while `role` or `session_authorization` were? Then their privileges may be needed to set it
    /// again.
    pub as_role: bool,
}

/// A statement of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// One statement, without a semicolon.
    pub text: Vec<u8>,
    /// What it does, which its text may not show.
    pub change: Change,
}

const ROLE: &[u8] = b"role";
const AUTHORIZATION: &[u8] = b"session_authorization";
const ENCODING: &[u8] = b"client_encoding";

/// Settings that decide what a literal in a statement means when it is parsed. A statement prepared under other
/// values of these is another statement, although its text is the same.
const READ_BY_PARSER: [&[u8]; 11] = [
    b"array_nulls",
    b"backslash_quote",
    b"client_encoding",
    b"datestyle",
    b"intervalstyle",
    b"lc_monetary",
    b"standard_conforming_strings",
    b"timezone",
    b"timezone_abbreviations",
    b"transform_null_equals",
    b"xmloption",
];

/// Settings that say where names are looked for, `"$user"` among them.
const NAMES_ARE_IN: [&[u8]; 3] = [ROLE, b"search_path", AUTHORIZATION];
/// Settings that say how texts are read.
const TEXTS_ARE_IN: [&[u8]; 2] = [b"client_encoding", b"standard_conforming_strings"];

impl Settings {
    /// Is this setting one of ours, or does it say where names are looked for?
    pub fn leads(name: &[u8]) -> bool {
        name.starts_with(b"pgdog.") || NAMES_ARE_IN.contains(&name)
    }

    /// The value of a setting, if the session has set it.
    pub fn get(&self, name: &[u8]) -> Option<&Value> {
        Some(&self.entry(name)?.value)
    }

    /// Does any of them say where what is written alike goes: is it one of ours, or does it say where names are looked for?
    pub fn lead_elsewhere(&self) -> bool {
        self.iter().any(|setting| Self::leads(&setting.name))
    }

    /// Does this setting say where statements go, or how they are read?
    pub fn routes(name: &[u8]) -> bool {
        Self::leads(name) || TEXTS_ARE_IN.contains(&name)
    }

    /// All settings in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.entries.iter().map(|entry| &**entry)
    }

    /// Is nothing set?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of names and values, for limits.
    pub fn bytes(&self) -> usize {
        self.iter()
            .map(|entry| entry.name.len() + entry.value.sql().len())
            .sum()
    }

    /// Compares quickly where both come from the same [`SettingsStore`].
    pub fn same(a: &Arc<Self>, b: &Arc<Self>) -> bool {
        Arc::ptr_eq(a, b) || a == b
    }

    /// What the meaning of a prepared statement's text depends on; empty unless the session has set something of
    /// the kind, and appended to `context`.
    pub fn parse_context(&self, context: &mut Vec<u8>) {
        for entry in self.iter() {
            if READ_BY_PARSER.contains(&&*entry.name) {
                context.extend(&entry.name[..]);
                context.push(b'=');
                context.extend(entry.value.sql());
                context.push(0);
            }
        }
    }

    /// Does the meaning of a prepared statement's text depend on this setting?
    pub fn is_read_by_parser(name: &[u8]) -> bool {
        READ_BY_PARSER.contains(&name)
    }

    /// Sets or, without a value, forgets a setting. Changing `session_authorization` ends `role`.
    pub(super) fn set(&mut self, name: &[u8], value: Option<Value>) {
        if name == AUTHORIZATION {
            self.put(ROLE, None);
        }
        self.put(name, value);
    }

    /// Puts a setting back to what it is in `baseline`.
    pub(super) fn reset(&mut self, name: &[u8], baseline: &Self) {
        if name == AUTHORIZATION {
            self.copy(ROLE, baseline);
        }
        self.copy(name, baseline);
    }

    /// The settings that are not among others.
    pub(super) fn without(&self, others: &Self) -> Vec<Arc<Setting>> {
        let entries = self.entries.iter();
        let missing = entries.filter(|entry| others.entry(&entry.name).is_none());
        missing.cloned().collect()
    }

    /// `RESET ALL`: all but role and session authorization, and what is kept.
    pub(super) fn reset_all(&mut self, baseline: &Self, kept: &[Arc<Setting>]) {
        let (role, authorization) = (
            self.entry(ROLE).cloned(),
            self.entry(AUTHORIZATION).cloned(),
        );
        *self = baseline.clone();
        for (name, entry) in [(ROLE, role), (AUTHORIZATION, authorization)] {
            self.replace(name, entry);
        }
        for entry in kept {
            self.replace(&entry.name, Some(Arc::clone(entry)));
        }
    }

    /// Role and session authorization, which RESET ALL leaves alone.
    pub(super) fn is_role(name: &[u8]) -> bool {
        is_role(name)
    }

    /// Is this setting changed by a RESET of that name?
    pub(super) fn goes_with(name: &[u8], entry: &[u8]) -> bool {
        entry == name || name == AUTHORIZATION && entry == ROLE
    }

    /// A statement for each of these settings that is asked for, in the order of [`Transition::between`].
    pub(super) fn statements_for(&self, scope: Scope, wanted: impl Fn(&[u8]) -> bool) -> Vec<Own> {
        let (roles, others): (Vec<_>, Vec<_>) = self.iter().partition(|entry| is_role(&entry.name));
        // "role" comes before "session_authorization", and ends with it.
        let entries = others.into_iter().chain(roles.into_iter().rev());
        entries
            .filter(|entry| wanted(&entry.name))
            .filter_map(|entry| {
                let mut text = Vec::new();
                if entry.value.sql().is_ascii() {
                    set(&mut text, entry, scope);
                    text.pop(); // the semicolon
                } else {
                    text = self.in_any_encoding(entry, scope)?;
                }
                let change = Change::Set {
                    scope,
                    name: entry.name.clone(),
                    value: Some(entry.value.clone()),
                };
                Some(Own { text, change })
            })
            .collect()
    }

    /// Sets to a value in the encoding that goes with these settings, in words that are ASCII. `None`: it has escapes.
    fn in_any_encoding(&self, entry: &Setting, scope: Scope) -> Option<Vec<u8>> {
        let mut text = b"SELECT pg_catalog.set_config(".to_vec();
        text.extend(quote::literal(&entry.name));
        text.extend(b",pg_catalog.convert_from(pg_catalog.decode('");
        for byte in entry.value.text()?.iter() {
            text.extend(format!("{byte:02x}").bytes());
        }
        text.extend(b"','hex'),");
        match self.get(ENCODING).map(Value::sql) {
            Some(name) if name.is_ascii() => text.extend(name),
            _ => text.extend(
                b"(SELECT reset_val FROM pg_catalog.pg_settings WHERE name='client_encoding')",
            ),
        }
        text.extend(match scope {
            Scope::Session => &b"),false)"[..],
            Scope::Local => &b"),true)"[..],
        });
        Some(text)
    }

    fn put(&mut self, name: &[u8], value: Option<Value>) {
        let as_role = name != ROLE
            && name != AUTHORIZATION
            && (self.entry(ROLE).is_some() || self.entry(AUTHORIZATION).is_some());
        let entry = value.map(|value| {
            Arc::new(Setting {
                name: name.into(),
                value,
                as_role,
            })
        });
        self.replace(name, entry);
    }

    fn copy(&mut self, name: &[u8], from: &Self) {
        self.replace(name, from.entry(name).cloned());
    }

    fn replace(&mut self, name: &[u8], entry: Option<Arc<Setting>>) {
        let found = self
            .entries
            .binary_search_by(|other| (*other.name).cmp(name));
        match (found, entry) {
            (Ok(at), Some(entry)) => self.entries[at] = entry,
            (Ok(at), None) => {
                self.entries.remove(at);
            }
            (Err(at), Some(entry)) => self.entries.insert(at, entry),
            (Err(_), None) => {}
        }
    }

    fn entry(&self, name: &[u8]) -> Option<&Arc<Setting>> {
        let at = self
            .entries
            .binary_search_by(|entry| (*entry.name).cmp(name));
        self.entries.get(at.ok()?)
    }
}

/// Equal settings of one core, kept once, so that clients with the same settings share a pointer.
#[derive(Debug, Default)]
pub struct SettingsStore {
    kept: HashSet<Arc<Settings>>,
    /// Entries that nobody else holds are dropped when the store has grown to this many.
    sweep_at: usize,
}

/// A store smaller than this is not worth sweeping.
const SWEEP_MIN: usize = 256;

impl SettingsStore {
    /// The one shared copy of these settings.
    pub fn intern(&mut self, settings: Settings) -> Arc<Settings> {
        if let Some(kept) = self.kept.get(&settings) {
            return Arc::clone(kept);
        }
        if self.kept.len() >= self.sweep_at {
            self.kept.retain(|kept| Arc::strong_count(kept) > 1);
            self.sweep_at = (2 * self.kept.len()).max(SWEEP_MIN);
        }
        let settings = Arc::new(settings);
        self.kept.insert(Arc::clone(&settings));
        settings
    }

    /// How many different settings are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Is nothing kept?
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

/// What to send to a server so that it has other settings: one simple query, or two, which may be sent together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transition {
    /// Sent first, if not empty: changes the encoding in which the text of the other is read.
    pub encoding: Vec<u8>,
    /// All other changes. They are one implicit transaction: all or none.
    pub text: Vec<u8>,
}

impl Transition {
    /// From the settings that a server has to those that its next client wants. None if they are the same.
    ///
    /// Order: what was set as another role is undone as that role, then the role ends, then all else follows,
    /// the new role, and what needs it.
    pub fn between(from: &Arc<Settings>, to: &Arc<Settings>) -> Option<Self> {
        if Settings::same(from, to) {
            return None;
        }
        let differs = |name: &[u8]| from.get(name) != to.get(name);
        let authorization = differs(AUTHORIZATION);
        let role = authorization || differs(ROLE);
        let mut text = Vec::new();
        let surplus = |as_role: bool| {
            from.iter().filter(move |entry| {
                !is_role(&entry.name) && entry.as_role == as_role && to.get(&entry.name).is_none()
            })
        };
        let missing = |as_role: bool| {
            to.iter().filter(move |entry| {
                !is_role(&entry.name) && entry.as_role == as_role && differs(&entry.name)
            })
        };
        surplus(true).for_each(|entry| reset(&mut text, &entry.name));
        if authorization && from.get(AUTHORIZATION).is_some() {
            text.extend(b"RESET SESSION AUTHORIZATION;");
        }
        if role && from.get(ROLE).is_some() {
            reset(&mut text, ROLE);
        }
        surplus(false).for_each(|entry| reset(&mut text, &entry.name));
        missing(false).for_each(|entry| set(&mut text, entry, Scope::Session));
        for (changes, name) in [(authorization, AUTHORIZATION), (role, ROLE)] {
            if let Some(entry) = to.entry(name).filter(|_| changes) {
                set(&mut text, entry, Scope::Session);
            }
        }
        missing(true).for_each(|entry| set(&mut text, entry, Scope::Session));

        let mut encoding = Vec::new();
        if differs(ENCODING) && !text.is_ascii() {
            match to.entry(ENCODING) {
                Some(entry) => set(&mut encoding, entry, Scope::Session),
                None => reset(&mut encoding, ENCODING),
            }
        }
        Some(Self { encoding, text }).filter(|transition| !transition.text.is_empty())
    }
}

impl Transition {
    /// The changes one by one; `None` if the encoding has to change first, or the text is not plainly a sequence of
    /// statements as PostgreSQL reads it by default.
    pub fn statements(&self) -> Option<Vec<&[u8]>> {
        if !self.encoding.is_empty() {
            return None;
        }
        let (mut statements, mut from) = (Vec::new(), 0);
        for token in Lexer::new(&self.text, Dialect::default()) {
            match token.kind {
                Kind::Semicolon => {
                    statements.push(self.text.get(from..token.start)?);
                    from = token.end;
                }
                Kind::Unterminated => return None,
                _ => {}
            }
        }
        (from == self.text.len()).then_some(statements)
    }
}

impl Change {
    /// A statement that does the same.
    pub fn statement(&self) -> Vec<u8> {
        let mut text = Vec::new();
        match self {
            Self::ResetAll => text.extend(b"RESET ALL;"),
            Self::Set {
                scope: Scope::Session,
                name,
                value: None,
            } => reset(&mut text, name),
            Self::Set {
                scope: Scope::Local,
                name,
                value: None,
            } => {
                text.extend(b"SET LOCAL ");
                push_name(&mut text, name);
                text.extend(b" TO DEFAULT;");
            }
            Self::Set {
                scope,
                name,
                value: Some(value),
            } => {
                let entry = Setting {
                    name: name.clone(),
                    value: value.clone(),
                    as_role: false,
                };
                set(&mut text, &entry, *scope);
            }
        }
        text
    }
}

impl Settings {
    /// Is a text read in the same way under both, as far as encoding and backslashes go?
    pub fn reads_as(&self, other: &Self) -> bool {
        [ENCODING, b"standard_conforming_strings"]
            .iter()
            .all(|name| self.get(name) == other.get(name))
    }
}

fn is_role(name: &[u8]) -> bool {
    name == ROLE || name == AUTHORIZATION
}

fn reset(text: &mut Vec<u8>, name: &[u8]) {
    text.extend(b"RESET ");
    push_name(text, name);
    text.push(b';');
}

fn set(text: &mut Vec<u8>, entry: &Setting, scope: Scope) {
    let time_zone = *entry.name == *b"timezone";
    let (local, word) = match scope {
        Scope::Session => (&b"false"[..], &b"SET "[..]),
        Scope::Local => (&b"true"[..], &b"SET LOCAL "[..]),
    };
    match &entry.value {
        Value::List(literal) => {
            text.extend(b"SELECT pg_catalog.set_config(");
            text.extend(quote::literal(&entry.name));
            text.push(b',');
            text.extend(&literal[..]);
            text.push(b',');
            text.extend(local);
            text.push(b')');
        }
        // Of all values, only an interval needs this form, and only for the time zone.
        Value::Words(words) if time_zone && words.starts_with(b"interval") => {
            text.extend(word);
            text.extend(b"TIME ZONE ");
            text.extend(&words[..]);
        }
        Value::Words(words) => {
            text.extend(word);
            push_name(text, &entry.name);
            text.extend(b" TO ");
            text.extend(&words[..]);
        }
    }
    text.push(b';');
}

/// Parts of a name with dots may be any word, hence the quotes; names without are PostgreSQL's own, unless a
/// client made something up.
fn push_name(text: &mut Vec<u8>, name: &[u8]) {
    let own = name
        .iter()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_');
    if own && name.first().is_some_and(|first| !first.is_ascii_digit()) {
        text.extend(name);
        return;
    }
    for (index, part) in name.split(|byte| *byte == b'.').enumerate() {
        text.extend(if index == 0 { &b"\""[..] } else { b".\"" });
        for &byte in part {
            if byte == b'"' {
                text.push(byte);
            }
            text.push(byte);
        }
        text.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(value: &str) -> Option<Value> {
        Some(Value::Words(value.as_bytes().into()))
    }

    /// `name=value` pairs, set in this order.
    fn settings(pairs: &[&str]) -> Arc<Settings> {
        let mut settings = Settings::default();
        for pair in pairs {
            let (name, value) = pair.split_once('=').unwrap();
            settings.set(name.as_bytes(), words(value));
        }
        Arc::new(settings)
    }

    #[test]
    fn transitions_are_minimal_and_in_order() {
        let cases: &[(&[&str], &[&str], &str)] = &[
            (&[], &["a=1"], "SET a TO 1;"),
            (&["a=1"], &[], "RESET a;"),
            (&["a=1", "b=2"], &["a=1", "b=3", "c=4"], "SET b TO 3;SET c TO 4;"),
            (&["x.y=1"], &["user.\"b=2"], "RESET \"x\".\"y\";SET \"user\".\"\"\"b\" TO 2;"),
            (&["timezone='UTC'"], &["timezone=interval '1' hour"], "SET TIME ZONE interval '1' hour;"),
            (&["role=a"], &[], "RESET role;"),
            (&["role=a"], &["role=b"], "RESET role;SET role TO b;"),
            (&["session_authorization=a", "role=b"], &["z=1"], "RESET SESSION AUTHORIZATION;RESET role;SET z TO 1;"),
            (
                &["session_authorization=a", "role=b"],
                &["session_authorization=c", "role=b"],
                "RESET SESSION AUTHORIZATION;RESET role;SET session_authorization TO c;SET role TO b;",
            ),
            (
                &["a=1", "role=x", "b=2"],
                &["c=3", "role=y", "d=4"],
                "RESET b;RESET role;RESET a;SET c TO 3;SET role TO y;SET d TO 4;",
            ),
        ];
        for (from, to, expected) in cases {
            let transition = Transition::between(&settings(from), &settings(to)).unwrap();
            assert_eq!(String::from_utf8_lossy(&transition.text), *expected);
            assert!(transition.encoding.is_empty());
        }
        for pairs in [&[][..], &["a=1", "role=x"]] {
            assert_eq!(
                Transition::between(&settings(pairs), &settings(pairs)),
                None
            );
        }
    }

    #[test]
    fn lists_are_replayed_as_lists() {
        let mut to = Settings::default();
        to.set(
            b"search_path",
            Some(Value::from_text(b"search_path", b"a, \"it's\"")),
        );
        to.set(
            b"application_name",
            Some(Value::from_text(b"application_name", b"a, b")),
        );
        let transition = Transition::between(&settings(&[]), &Arc::new(to)).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&transition.text),
            "SET application_name TO 'a, b';SELECT pg_catalog.set_config('search_path','a, \"it''s\"',false);"
        );
    }

    #[test]
    fn the_encoding_changes_before_text_that_depends_on_it() {
        let latin = settings(&["a.b='\u{e9}'", "client_encoding='LATIN1'"]);
        let transition = Transition::between(&settings(&[]), &latin).unwrap();
        assert_eq!(transition.encoding, b"SET client_encoding TO 'LATIN1';");
        let utf = settings(&["a.b='e'", "client_encoding='UTF8'"]);
        let transition = Transition::between(&latin, &utf).unwrap();
        assert!(transition.encoding.is_empty());
    }

    #[test]
    fn settings_are_kept_once_and_forgotten() {
        let mut store = SettingsStore::default();
        let one = store.intern((*settings(&["a=1"])).clone());
        let two = store.intern((*settings(&["a=1"])).clone());
        assert!(Arc::ptr_eq(&one, &two));
        for n in 0..10 * SWEEP_MIN {
            store.intern((*settings(&[&format!("a={n}x")])).clone());
        }
        assert!(store.len() <= SWEEP_MIN + 1, "{}", store.len());
        assert!(Arc::ptr_eq(
            &one,
            &store.intern((*settings(&["a=1"])).clone())
        ));
    }

    #[test]
    fn what_the_parser_reads_is_the_context() {
        let mut context = Vec::new();
        settings(&["work_mem=1", "search_path=a"]).parse_context(&mut context);
        assert!(context.is_empty());
        settings(&["timezone='UTC'", "work_mem=1", "datestyle=iso"]).parse_context(&mut context);
        assert_eq!(context, b"datestyle=iso\0timezone='UTC'\0");
    }

    #[test]
    fn a_transition_is_cut_into_its_statements() {
        let from = settings(&["work_mem='1MB'", "role=none"]);
        let to = settings(&["search_path='a;b', \"c;d\"", "statement_timeout=5"]);
        let transition = Transition::between(&from, &to).unwrap();
        let statements = transition.statements().unwrap();
        assert_eq!(statements.len(), 4, "{statements:?}");
        let mut joined = statements.join(&b";"[..]);
        joined.push(b';');
        assert_eq!(joined, transition.text);
        let broken = Transition {
            text: b"SET a TO 'x;".to_vec(),
            ..Transition::default()
        };
        assert_eq!(broken.statements(), None);
        assert!(to.reads_as(&from));
        assert!(!to.reads_as(&settings(&["client_encoding=latin1"])));
    }
}
