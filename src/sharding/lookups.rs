//! Keys that a query translates, remembered: bounded in bytes and in age.
//!
//! What is remembered is where the rows of a key are. Somebody may change the translation, so it is forgotten after a
//! while, and at once when a change of the table passes here. The entry that makes room is one that was not used for a whole
//! round (second chance, close to least recently used).

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::key::Key;
use super::tables::Placement;

/// For how long a translation is used that was not seen to change.
pub const AGE_MAX: Duration = Duration::from_secs(60);
/// What an entry takes besides its key, twice its pointers included.
const OVERHEAD_BYTES: usize = 128;

/// A key of one column, as bytes that are equal for equal keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyName(Rc<[u8]>);

/// Where the rows of a key are. `None`: no rule takes it.
pub type Translated = Option<u32>;

/// One core's translations of one database.
#[derive(Debug, Default)]
pub struct Lookups {
    known: HashMap<KeyName, Entry>,
    /// The same keys; the first is the next to make room.
    round: VecDeque<KeyName>,
    bytes: usize,
    bytes_max: usize,
    forgotten: u64,
    counts: Counts,
}

#[derive(Debug)]
struct Entry {
    translated: Translated,
    at: Instant,
    used: Cell<bool>,
}

/// What has become of the keys that were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Known.
    pub hits: u64,
    /// To be asked of a server.
    pub misses: u64,
    /// Entries that made room for others.
    pub evictions: u64,
    /// Queries that were run.
    pub queries: u64,
    /// Time in them.
    pub query_time: Duration,
}

impl KeyName {
    /// Of a column, by its place among the sharded columns.
    pub fn new(column: usize, key: &Key<'_>) -> Self {
        let mut name = column.to_be_bytes().to_vec();
        match key {
            Key::Null => name.push(0),
            Key::Integer(number) => {
                name.push(1);
                name.extend(number.to_be_bytes());
            }
            Key::Uuid(uuid) => {
                name.push(2);
                name.extend(uuid);
            }
            Key::Text(text) => {
                name.push(3);
                name.extend(&**text);
            }
            Key::Vector(numbers) => {
                name.push(4);
                // Zeros of both signs are equal.
                let numbers = numbers.iter().map(|number| number + 0.0);
                name.extend(numbers.flat_map(f32::to_be_bytes));
            }
        }
        Self(name.into())
    }

    fn bytes(&self) -> usize {
        self.0.len() + OVERHEAD_BYTES
    }
}

impl Lookups {
    /// Empty, for entries of so many bytes together. Zero: nothing is remembered.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            ..Self::default()
        }
    }

    /// The same limit and counters, with nothing remembered: of another configuration.
    #[must_use]
    pub fn renewed(&self, bytes_max: usize) -> Self {
        Self {
            counts: self.counts,
            ..Self::new(bytes_max)
        }
    }

    /// Where the rows of a key are, if that is known.
    pub fn get(&mut self, name: &KeyName, now: Instant) -> Option<Translated> {
        let known = self.known.get(name);
        let fresh = known.filter(|entry| now.saturating_duration_since(entry.at) < AGE_MAX);
        match fresh {
            Some(entry) => {
                entry.used.set(true);
                self.counts.hits += 1;
                Some(entry.translated)
            }
            None => {
                self.counts.misses += 1;
                None
            }
        }
    }

    /// Remembers what a query has answered `now` that began when so much had been forgotten.
    pub fn learn(
        &mut self,
        name: &KeyName,
        translated: Translated,
        (forgotten, now): (u64, Instant),
    ) {
        // A change that was seen since may not be in it.
        if forgotten != self.forgotten || name.bytes() > self.bytes_max {
            return;
        }
        let entry = Entry {
            translated,
            at: now,
            used: Cell::new(false),
        };
        if let Some(known) = self.known.get_mut(name) {
            *known = entry;
            return;
        }
        while self.bytes + name.bytes() > self.bytes_max {
            self.make_room();
        }
        self.bytes += name.bytes();
        self.round.push_back(name.clone());
        self.known.insert(name.clone(), entry);
    }

    /// Drops the first entry that was not used since its last turn. Each turn takes a mark away, so this ends.
    fn make_room(&mut self) {
        while let Some(name) = self.round.pop_front() {
            let used = self.known.get(&name).map(|entry| entry.used.replace(false));
            if used == Some(true) {
                self.round.push_back(name);
                continue;
            }
            self.bytes -= name.bytes();
            self.known.remove(&name);
            self.counts.evictions += 1;
            return;
        }
    }

    /// A translation may have changed: all are forgotten, and what is being asked is not remembered.
    pub fn forget(&mut self) {
        self.known.clear();
        self.round.clear();
        self.bytes = 0;
        self.forgotten += 1;
    }

    /// How often that was.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// A query was run.
    pub fn asked(&mut self, took: Duration) {
        self.counts.queries += 1;
        self.counts.query_time += took;
    }

    /// What has become of keys so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Keys that are remembered.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Bytes that they take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// As routing has it.
pub fn placement<'a>(translated: Translated) -> Placement<'a> {
    translated.map_or(Placement::Unmatched, Placement::Shard)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do")]
mod tests {
    use super::*;

    fn name(number: i64) -> KeyName {
        KeyName::new(0, &Key::Integer(number))
    }

    #[test]
    fn equal_keys_have_one_name() {
        let keys = [
            Key::Null,
            Key::Integer(1),
            Key::Integer(256),
            Key::Uuid([1; 16]),
            Key::Text(b"a".into()),
            Key::Text(b"".into()),
            Key::Vector(vec![0.0, 1.0]),
        ];
        for (at, one) in keys.iter().enumerate() {
            for (other, key) in keys.iter().enumerate() {
                let same = KeyName::new(1, one) == KeyName::new(1, key);
                assert_eq!(same, at == other, "{one:?} {key:?}");
            }
            assert_ne!(KeyName::new(0, one), KeyName::new(1, one));
        }
        let zeros = [0.0, -0.0].map(|zero| KeyName::new(0, &Key::Vector(vec![zero])));
        assert_eq!(zeros[0], zeros[1]);
    }

    #[test]
    fn translations_are_good_for_a_while() {
        let (mut lookups, now) = (Lookups::new(1 << 20), Instant::now());
        assert_eq!(lookups.get(&name(1), now), None);
        lookups.learn(&name(1), Some(2), (0, now));
        lookups.learn(&name(2), None, (0, now));
        assert_eq!(lookups.get(&name(1), now), Some(Some(2)));
        assert_eq!(lookups.get(&name(2), now), Some(None));
        assert_eq!(lookups.get(&name(1), now + AGE_MAX), None);
        lookups.learn(&name(1), Some(0), (0, now + AGE_MAX));
        assert_eq!(lookups.get(&name(1), now + AGE_MAX), Some(Some(0)));
        assert_eq!((lookups.len(), lookups.counts().misses), (2, 2));
    }

    #[test]
    fn what_was_asked_before_a_change_is_not_remembered() {
        let (mut lookups, now) = (Lookups::new(1 << 20), Instant::now());
        lookups.learn(&name(1), Some(2), (0, now));
        let began = lookups.forgotten();
        lookups.forget();
        assert_eq!(lookups.get(&name(1), now), None);
        lookups.learn(&name(1), Some(2), (began, now));
        assert_eq!(lookups.get(&name(1), now), None);
        lookups.learn(&name(1), Some(1), (lookups.forgotten(), now));
        assert_eq!(lookups.get(&name(1), now), Some(Some(1)));
    }

    #[test]
    fn bytes_are_bounded_and_what_is_used_stays() {
        let (size, now) = (name(0).bytes(), Instant::now());
        let mut lookups = Lookups::new(3 * size);
        for number in 0..100 {
            lookups.learn(&name(number), Some(1), (0, now));
            assert!(lookups.bytes() <= 3 * size && lookups.len() <= 3);
            if number > 0 {
                assert!(lookups.get(&name(0), now).is_some(), "after {number}");
            }
        }
        assert_eq!(lookups.counts().evictions, 97);
        let mut nothing = Lookups::new(0);
        nothing.learn(&name(1), Some(1), (0, now));
        assert!(nothing.is_empty());
    }
}
