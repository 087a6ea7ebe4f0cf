//! Analysed texts by their shape, bounded in entries and bytes.
//!
//! A hit costs one pass over the text and one look-up, or less where one like it was seen before (`exemplars`); texts
//! that differ in lifted literals share an entry. What is kept is compared byte by byte: no hash of hostile texts can
//! lead to another text's analysis. The entry that makes room is one that was not used for a whole round (second
//! chance, close to least recently used).
//!
//! Texts that do not parse are not kept: whether one does may depend on a literal.

use std::borrow::Borrow;
use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::{Duration, Instant};

use exemplars::Exemplars;

use super::depth;
use super::hints::Hints;
use super::lexer::Dialect;
use super::parse::parse;
use super::shape::{Literal, Shape};
use super::statement::{Analysis, Statement, Unparsed, Usage};

/// Longer texts are not parsed: a tree takes some hundred times the text.
pub const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One core's analysed texts of one database.
#[derive(Debug)]
pub struct Cache {
    kept: HashSet<Kept>,
    exemplars: Exemplars,
    /// The same entries; the first is the next to make room.
    round: VecDeque<Rc<Entry>>,
    bytes: usize,
    entries_max: usize,
    bytes_max: usize,
    hits: u64,
    misses: u64,
    routed: Routed,
    /// Tells how long parsing takes.
    clock: Option<fn() -> Instant>,
    parsing: Duration,
    shape: Shape,
}

/// A text's analysis, and what is the text's own.
#[derive(Debug)]
pub struct Analysed<'c> {
    /// What all texts of this shape have in common.
    pub analysis: Rc<Analysis>,
    /// The literals that were lifted out, in order: offsets in the text.
    pub literals: &'c [Literal],
    /// Hints in its comments.
    pub hints: Hints,
    /// How long it took to parse; `None` if it was known, or without a clock.
    pub parsed_in: Option<Duration>,
}

/// Statements by where they went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// To one shard.
    pub direct: u64,
    /// To several.
    pub cross: u64,
}

/// What is kept, for `SHOW QUERY_CACHE`.
#[derive(Debug)]
pub struct Listed<'c> {
    /// The shape, with `?` for what was lifted out.
    pub query: String,
    /// Its counters.
    pub usage: &'c Usage,
}

#[derive(Debug)]
struct Entry {
    key: Box<[u8]>,
    analysis: Rc<Analysis>,
    used: Cell<bool>,
    bytes: usize,
}

/// Found by its key.
#[derive(Debug)]
struct Kept(Rc<Entry>);

impl Borrow<[u8]> for Kept {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

impl Hash for Kept {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Kept {}

/// What an entry takes besides its key and its statements, about.
const OVERHEAD_BYTES: usize = 256;
/// Buffers that a long text has grown are given back.
const SCRATCH_BYTES_MAX: usize = 64 * 1024;

impl Cache {
    /// Empty, for this many texts that take this many bytes together. Zero of either: nothing is kept.
    pub fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self {
            kept: HashSet::new(),
            exemplars: Exemplars::default(),
            round: VecDeque::new(),
            bytes: 0,
            entries_max,
            bytes_max,
            hits: 0,
            misses: 0,
            routed: Routed::default(),
            clock: None,
            parsing: Duration::ZERO,
            shape: Shape::default(),
        }
    }

    /// The same, where times of parsing are of interest.
    pub fn with_clock(self, clock: fn() -> Instant) -> Self {
        Self {
            clock: Some(clock),
            ..self
        }
    }

    /// What a text says. `dialect` is the session's.
    pub fn analyse(&mut self, text: &[u8], dialect: Dialect) -> Analysed<'_> {
        self.shape.shrink(SCRATCH_BYTES_MAX);
        let (analysis, parsed_in) = self.look_up(text, dialect);
        Analysed {
            parsed_in,
            analysis,
            literals: &self.shape.literals,
            hints: self.shape.hints,
        }
    }

    /// The same, if the text has no hints and it is known what it says. It counts as used when [`Self::used`] says so.
    pub fn find(&mut self, text: &[u8], dialect: Dialect) -> Option<(Rc<Analysis>, &[Literal])> {
        self.shape.shrink(SCRATCH_BYTES_MAX);
        let entry = self.read(text, dialect).ok()?;
        let plain = self.shape.hints == Hints::default();
        plain.then(|| (Rc::clone(&entry.analysis), self.shape.literals.as_slice()))
    }

    /// The entry of a text's shape. Error: there is none; may there be one?
    fn read(&mut self, text: &[u8], dialect: Dialect) -> Result<Rc<Entry>, bool> {
        let literals = &mut self.shape.literals;
        let entry = if let Some(entry) = self.exemplars.find(text, dialect, literals) {
            self.shape.hints = Hints::default();
            entry
        } else {
            let shaped = self.shape.read(text, dialect);
            let kept = self.kept.get(self.shape.key.as_slice());
            let Kept(entry) = kept.filter(|_| shaped).ok_or(shaped)?;
            if self.shape.hints == Hints::default() {
                let literals = &self.shape.literals;
                self.exemplars.note(text, dialect, literals, entry);
            }
            Rc::clone(entry)
        };
        entry.used.set(true);
        Ok(entry)
    }

    /// What was found has spared a text its analysis.
    pub fn used(&mut self, analysis: &Analysis) {
        let hits = &analysis.usage.hits;
        hits.set(hits.get() + 1);
        self.hits += 1;
    }

    /// The hints in a text, which is not parsed.
    pub fn hints(&mut self, text: &[u8], dialect: Dialect) -> Hints {
        self.shape.shrink(SCRATCH_BYTES_MAX);
        self.shape.read(text, dialect);
        self.shape.hints
    }

    fn look_up(&mut self, text: &[u8], dialect: Dialect) -> (Rc<Analysis>, Option<Duration>) {
        let shaped = match self.read(text, dialect) {
            Ok(entry) => {
                let analysis = Rc::clone(&entry.analysis);
                self.used(&analysis);
                return (analysis, None);
            }
            Err(shaped) => shaped,
        };
        self.misses += 1;
        let began = self.clock.map(|clock| clock());
        let statements = match text.len() {
            0..=TEXT_BYTES_MAX => {
                // A text that was not read to its end may be of any depth.
                let levels = match shaped {
                    true => depth::levels(text, dialect),
                    false => text.len(),
                };
                parse(text, dialect, levels, &self.shape.literals)
            }
            _ => Err(Unparsed::TooLong),
        };
        let analysis = Rc::new(Analysis {
            statements,
            usage: Usage::default(),
            decisive: Cell::default(),
        });
        let now = self.clock.map(|clock| clock());
        let took = began.zip(now);
        let took = took.map(|(began, now)| now.saturating_duration_since(began));
        self.parsing += took.unwrap_or_default();
        if shaped {
            self.keep(&analysis);
        }
        (analysis, took)
    }

    fn keep(&mut self, analysis: &Rc<Analysis>) {
        let Ok(statements) = &analysis.statements else {
            return;
        };
        let size: usize = statements.iter().map(Statement::size).sum();
        let bytes = self.shape.key.len() + size + OVERHEAD_BYTES;
        if self.entries_max == 0 || bytes > self.bytes_max {
            return;
        }
        while self.round.len() >= self.entries_max || self.bytes + bytes > self.bytes_max {
            self.make_room();
        }
        let entry = Rc::new(Entry {
            key: self.shape.key.as_slice().into(),
            analysis: Rc::clone(analysis),
            used: Cell::new(false),
            bytes,
        });
        self.bytes += bytes;
        self.round.push_back(Rc::clone(&entry));
        self.kept.insert(Kept(entry));
    }

    /// Drops the first entry that was not used since its last turn. Each turn takes a mark away, so this ends.
    fn make_room(&mut self) {
        while let Some(entry) = self.round.pop_front() {
            if entry.used.replace(false) {
                self.round.push_back(entry);
            } else {
                self.bytes -= entry.bytes;
                self.kept.remove(&*entry.key);
                self.exemplars.forget(&entry);
                return;
            }
        }
    }

    /// Takes other limits; what is too much goes.
    pub fn resize(&mut self, entries_max: usize, bytes_max: usize) {
        self.entries_max = entries_max;
        self.bytes_max = bytes_max;
        while self.round.len() > entries_max || self.bytes > bytes_max {
            self.make_room();
        }
    }

    /// `RESET QUERY_CACHE`: forgets all texts, not the counters.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.exemplars.clear();
        self.round.clear();
        self.bytes = 0;
    }

    /// What is kept, in no particular order.
    pub fn list(&self) -> impl Iterator<Item = Listed<'_>> {
        self.round.iter().map(|entry| Listed {
            query: display(&entry.key),
            usage: &entry.analysis.usage,
        })
    }

    /// Texts kept.
    pub fn len(&self) -> usize {
        self.round.len()
    }

    /// Is nothing kept?
    pub fn is_empty(&self) -> bool {
        self.round.is_empty()
    }

    /// Bytes of what is kept, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A statement of this text goes to one shard, or to several.
    pub fn route(&mut self, analysis: &Analysis, several: bool) {
        let (usage, all) = match several {
            true => (&analysis.usage.multi, &mut self.routed.cross),
            false => (&analysis.usage.direct, &mut self.routed.direct),
        };
        usage.set(usage.get() + 1);
        *all += 1;
    }

    /// Statements that were routed so far.
    pub fn routed(&self) -> Routed {
        self.routed
    }

    /// Time spent parsing, with a clock.
    pub fn parsing(&self) -> Duration {
        self.parsing
    }

    /// Texts found, and texts parsed, since the beginning.
    pub fn counts(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }
}

/// A key for human eyes.
fn display(key: &[u8]) -> String {
    let mut shown = Vec::with_capacity(key.len());
    let mut bytes = key.iter().skip(1);
    while let Some(&byte) = bytes.next() {
        if byte == 0 {
            bytes.next();
            shown.push(b'?');
        } else {
            shown.push(byte);
        }
    }
    String::from_utf8_lossy(&shown).into_owned()
}

mod exemplars;

#[cfg(test)]
mod tests;
