//! Repeated records: the same event with the same fields, of whichever thread, is written a few times per window and
//! then only counted.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// When repeats are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dedup {
    /// Counted from the first of equal records.
    pub window: Duration,
    /// Repeats that are written all the same.
    pub allowed: usize,
}

/// Different records counted at the same time. Further ones are written as if they were new.
const KEYS_MAX: usize = 1024;

/// What was seen of late. Belongs to the writer's thread, so that it counts for all.
pub(super) struct Repeats {
    rule: Dedup,
    seen: HashMap<u64, Seen>,
}

struct Seen {
    until: Instant,
    written: usize,
    held: u64,
    /// The last one held back.
    record: Vec<u8>,
}

/// The end of a window in which something was held back.
pub(super) struct Held {
    /// The last one, with its own time.
    pub(super) record: Vec<u8>,
    /// How many there were.
    pub(super) count: u64,
}

impl Repeats {
    pub(super) fn new(rule: Dedup) -> Self {
        Self {
            rule,
            seen: HashMap::new(),
        }
    }

    /// The record, if it is to be written.
    pub(super) fn pass(&mut self, key: u64, record: Vec<u8>, now: Instant) -> Option<Vec<u8>> {
        if let Some(seen) = self.seen.get_mut(&key) {
            if seen.written <= self.rule.allowed {
                seen.written += 1;
                return Some(record);
            }
            seen.held += 1;
            seen.record = record;
            return None;
        }
        if self.seen.len() < KEYS_MAX {
            let seen = Seen {
                until: now + self.rule.window,
                written: 1,
                held: 0,
                record: Vec::new(),
            };
            self.seen.insert(key, seen);
        }
        Some(record)
    }

    /// When to call [`Self::ended`].
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.seen.values().map(|seen| seen.until).min()
    }

    /// Forgets windows that have ended, and gives what they held back.
    pub(super) fn ended(&mut self, now: Instant) -> Vec<Held> {
        let ended = self.seen.extract_if(|_, seen| seen.until <= now);
        held(ended.map(|(_, seen)| seen))
    }

    /// The same of all windows, at the end of the process.
    pub(super) fn all(&mut self) -> Vec<Held> {
        held(self.seen.drain().map(|(_, seen)| seen))
    }
}

fn held(seen: impl Iterator<Item = Seen>) -> Vec<Held> {
    let mut held: Vec<_> = seen.filter(|seen| seen.held > 0).collect();
    held.sort_by_key(|seen| seen.until);
    let held = held.into_iter().map(|seen| Held {
        record: seen.record,
        count: seen.held,
    });
    held.collect()
}

/// Hexadecimal digits in front of a record.
pub(super) const KEY_DIGITS: usize = 16;

/// Writes a record's key in front of it: what it says, without when and by which thread.
pub(super) struct Keyed<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for Keyed<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut key = Key(DefaultHasher::new());
        event.metadata().callsite().hash(&mut key.0);
        event.record(&mut key);
        write!(writer, "{:0KEY_DIGITS$x}", key.0.finish())?;
        self.0.format_event(context, writer, event)
    }
}

struct Key(DefaultHasher);

impl Visit for Key {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.write(field.name().as_bytes());
        let hashed = write!(self, "{value:?}");
        debug_assert!(hashed.is_ok(), "a hasher takes everything");
    }
}

impl fmt::Write for Key {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_counted_until_their_window_ends() {
        let second = Duration::from_secs(1);
        let mut repeats = Repeats::new(Dedup {
            window: second,
            allowed: 1,
        });
        let start = Instant::now();
        let mut pass = |key, text: &str, at| {
            let passed = repeats.pass(key, text.as_bytes().to_vec(), at);
            passed.is_some()
        };
        assert!(pass(1, "a at 0", start));
        assert!(pass(1, "a at 1", start));
        assert!(!pass(1, "a at 2", start));
        assert!(pass(2, "b at 3", start + second / 2), "others are others");
        assert!(!pass(1, "a at 4", start + second / 2));
        assert_eq!(repeats.next_end(), Some(start + second));
        assert!(repeats.ended(start + second / 2).is_empty());
        let held = repeats.ended(start + second);
        assert_eq!(held.len(), 1);
        assert_eq!((&held[0].record[..], held[0].count), (&b"a at 4"[..], 2));
        assert!(repeats
            .pass(1, b"a at 5".to_vec(), start + second)
            .is_some());
        assert!(repeats.all().is_empty(), "nothing was held back since");
    }

    #[test]
    fn when_too_many_are_different_all_are_written() {
        let mut repeats = Repeats::new(Dedup {
            window: Duration::from_secs(1),
            allowed: 0,
        });
        let now = Instant::now();
        for _ in 0..2 {
            let keys = 0..KEYS_MAX as u64 + 10;
            let passed = keys.filter(|key| repeats.pass(*key, Vec::new(), now).is_some());
            let _ = passed.count();
        }
        assert_eq!(repeats.seen.len(), KEYS_MAX);
        assert!(repeats.pass(u64::MAX, Vec::new(), now).is_some());
        assert!(repeats.pass(0, Vec::new(), now).is_none());
    }
}
