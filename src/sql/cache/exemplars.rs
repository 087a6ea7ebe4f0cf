//! One text of a shape, by which the next one is known: what takes a [`Shape`](super::Shape) a pass over all tokens is here
//! a comparison of the bytes between the literals.
//!
//! A text has the exemplar's shape if it differs from it in nothing but lifted literals, and each of them is written as the
//! exemplar's is and begins alike. Then all tokens in front of a literal end where the exemplar's do, since none of them looks farther
//! than the first byte behind it, and whatever is decided by them is decided alike.
//!
//! Which exemplar a text is compared with is told by a hash of what comes before its first number or string. To forge
//! one costs whoever does it the pass that was to be spared.

use std::rc::Rc;

use super::super::lexer::{Dialect, Kind, Lexer};
use super::super::shape::{lifted_as, Literal};
use super::Entry;

/// Longer texts are no exemplars.
const TEXT_BYTES_MAX: usize = 1024;
/// Nor are those with more lifted literals.
const LITERALS_MAX: usize = 32;
/// Exemplars of one hash.
const WAYS: usize = 2;
/// Hashes told apart: with the above, 128 KiB at most.
const SETS: usize = 32;

/// The exemplars of a cache.
#[derive(Debug)]
pub(super) struct Exemplars {
    sets: Vec<[Option<Exemplar>; WAYS]>,
}

#[derive(Debug)]
struct Exemplar {
    text: Box<[u8]>,
    dialect: Dialect,
    lifted: Box<[Lifted]>,
    entry: Rc<Entry>,
    /// Since another text wanted its place.
    used: bool,
}

/// A literal of the exemplar.
#[derive(Clone, Copy, Debug)]
struct Lifted {
    start: u16,
    end: u16,
    /// What stands in the key for it.
    code: u8,
}

impl Default for Exemplars {
    fn default() -> Self {
        let mut sets = Vec::new();
        sets.resize_with(SETS, Default::default);
        Self { sets }
    }
}

impl Exemplars {
    /// The entry of a text that an exemplar is like; its literals are in `literals` then.
    pub(super) fn find(
        &mut self,
        text: &[u8],
        dialect: Dialect,
        literals: &mut Vec<Literal>,
    ) -> Option<Rc<Entry>> {
        let set = self.sets.get_mut(set_of(text))?;
        let mut all = set.iter_mut().flatten();
        let found = all.find(|one| one.dialect == dialect && one.is_like(text, literals))?;
        found.used = true;
        Some(Rc::clone(&found.entry))
    }

    /// Notes a text without hints, whose shape the entry has, unless those in its place are used still.
    pub(super) fn note(
        &mut self,
        text: &[u8],
        dialect: Dialect,
        literals: &[Literal],
        entry: &Rc<Entry>,
    ) {
        let Some(set) = self.sets.get_mut(set_of(text)) else {
            return;
        };
        for place in set {
            if is_used(place) {
                continue;
            }
            if let Some(fresh) = Exemplar::new(text, dialect, literals, entry) {
                *place = Some(fresh);
            }
            return;
        }
    }

    /// The entry is kept no longer.
    pub(super) fn forget(&mut self, entry: &Rc<Entry>) {
        for place in self.sets.iter_mut().flatten() {
            place.take_if(|one| Rc::ptr_eq(&one.entry, entry));
        }
    }

    /// None is.
    pub(super) fn clear(&mut self) {
        self.sets
            .iter_mut()
            .flatten()
            .for_each(|place| *place = None);
    }
}

/// Was an exemplar used since this was asked last?
fn is_used(place: &mut Option<Exemplar>) -> bool {
    place
        .as_mut()
        .is_some_and(|one| std::mem::take(&mut one.used))
}

impl Exemplar {
    fn new(text: &[u8], dialect: Dialect, literals: &[Literal], entry: &Rc<Entry>) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX || literals.len() > LITERALS_MAX {
            return None;
        }
        let lifted = literals.iter().map(|literal| {
            let code = starts_plainly(literal.kind, text, literal.start)
                .then(|| lifted_as(literal.kind, literal.of(text)))?;
            let (start, end) = (literal.start.try_into().ok()?, literal.end.try_into().ok()?);
            Some(Lifted { start, end, code })
        });
        Some(Self {
            lifted: lifted.collect::<Option<_>>()?,
            text: text.into(),
            dialect,
            entry: Rc::clone(entry),
            used: true,
        })
    }

    fn is_like(&self, text: &[u8], literals: &mut Vec<Literal>) -> bool {
        literals.clear();
        let lexer = Lexer::new(text, self.dialect);
        let (mut at, mut from) = (0, 0);
        for lifted in &self.lifted {
            let Some(between) = self.text.get(from..usize::from(lifted.start)) else {
                return false;
            };
            let rest = text.get(at..).unwrap_or_default();
            if !rest.starts_with(between) {
                return false;
            }
            let start = at + between.len();
            let Some(token) = lexer.token_at(start) else {
                return false;
            };
            let literal = Literal {
                start,
                end: token.end,
                kind: token.kind,
            };
            let written = literal.of(text);
            let alike = starts_plainly(token.kind, text, start)
                && lifted_as(token.kind, written) == lifted.code
                && !written.contains(&0);
            if !alike {
                return false;
            }
            literals.push(literal);
            (at, from) = (token.end, usize::from(lifted.end));
        }
        text.get(at..) == self.text.get(from..)
    }
}

/// Does a literal begin with a digit or a quote? What stands before it is read alike before all of those.
fn starts_plainly(kind: Kind, text: &[u8], start: usize) -> bool {
    let first = text.get(start).copied().unwrap_or_default();
    match kind {
        Kind::Number => first.is_ascii_digit(),
        Kind::String => first == b'\'',
        _ => false,
    }
}

/// Where exemplars of a text are: by its whole words of eight bytes up to the one in which a number or string begins.
fn set_of(text: &[u8]) -> usize {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * EACH;
    /// High bits of bytes below `limit`, which is 128 at most. Of bytes above 127 the lower bits count.
    const fn below(bytes: u64, limit: u64) -> u64 {
        !((bytes & !HIGH) + (0x80 - limit) * EACH) & HIGH
    }
    let mut hash = 0_u64;
    let mut last = 0x80;
    let (words, _) = text.as_chunks::<8>();
    for word in words {
        let bytes = u64::from_le_bytes(*word);
        let digits = below(bytes, 0x3a) & !below(bytes, 0x30);
        // Behind a blank, an operator or the like; within a name a digit is like any letter.
        let apart = below(bytes, 0x40) & !digits;
        let begins = digits & (apart << 8 | last);
        let quotes = below(bytes ^ (0x27 * EACH), 1);
        if begins | quotes != 0 {
            break;
        }
        last = apart >> 56;
        hash = (hash.rotate_left(5) ^ bytes).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    usize::try_from(hash >> 32).unwrap_or_default() % SETS
}

#[cfg(test)]
mod tests;
