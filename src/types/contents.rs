//! OIDs of types within values in binary format: an array says what its elements are, a record what its fields are.

use std::collections::HashMap;

/// Arrays and records within each other are looked into up to this depth; what is deeper stays as it is.
const DEPTH_MAX: usize = 32;

/// `record`, of no type in particular.
const RECORD: u32 = 2249;
/// An array of these.
const RECORDS: u32 = 2287;
/// An array of whatever type, as in `pg_stats`.
const ANY_ARRAY: u32 = 2277;

/// Types of users whose values in binary format may have OIDs within.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents(HashMap<u32, Content>);

/// What such a value is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Array,
    Record,
    /// Of a domain: what its type is made of.
    Domain(u32),
}

/// Number of a type that stands in a value: writes another one there if need be, and gives the one that is to be looked up.
type Renumber<'a> = dyn Fn(&mut [u8; 4]) -> u32 + 'a;

impl Contents {
    pub(super) fn add(&mut self, oid: u32, content: Content) {
        self.0.insert(oid, content);
    }

    /// May a value of this type in binary format have OIDs of users' types within?
    pub fn carries(&self, oid: u32) -> bool {
        self.of(oid).is_some()
    }

    fn of(&self, oid: u32) -> Option<Content> {
        let mut oid = oid;
        for _ in 0..DEPTH_MAX {
            match (oid, self.0.get(&oid)) {
                (RECORD, _) => return Some(Content::Record),
                (RECORDS | ANY_ARRAY, _) => return Some(Content::Array),
                (_, Some(Content::Domain(of))) => oid = *of,
                (_, found) => return found.copied(),
            }
        }
        None
    }

    /// Renumbers the OIDs within a value of this type. One that is malformed is left from there on.
    pub(super) fn renumber(&self, oid: u32, value: &mut [u8], by: &Renumber<'_>) {
        let _: Option<()> = self.within(oid, value, by, DEPTH_MAX);
    }

    fn within(&self, oid: u32, value: &mut [u8], by: &Renumber<'_>, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match self.of(oid)? {
            Content::Array => {
                // dimensions, has it NULLs, element type; length and first index of each dimension; elements
                let (dimensions, rest) = value.split_first_chunk_mut::<4>()?;
                let dimensions = usize::try_from(i32::from_be_bytes(*dimensions)).ok()?;
                let (element, rest) = rest.get_mut(4..)?.split_first_chunk_mut::<4>()?;
                let element = by(element);
                self.of(element)?;
                let mut rest = rest.get_mut(dimensions.checked_mul(8)?..)?;
                while !rest.is_empty() {
                    rest = self.item(element, rest, by, depth)?;
                }
            }
            Content::Record => {
                // number of fields; type, length and value of each
                let (fields, mut rest) = value.split_first_chunk_mut::<4>()?;
                for _ in 0..u32::from_be_bytes(*fields) {
                    let (field, value) = rest.split_first_chunk_mut::<4>()?;
                    let field = by(field);
                    rest = self.item(field, value, by, depth)?;
                }
            }
            Content::Domain(_) => {}
        }
        Some(())
    }

    /// A length, -1 for NULL, and a value: gives what is behind it.
    fn item<'v>(
        &self,
        oid: u32,
        bytes: &'v mut [u8],
        by: &Renumber<'_>,
        depth: usize,
    ) -> Option<&'v mut [u8]> {
        let (value, rest) = item(bytes)?;
        if let Some(value) = value {
            let _: Option<()> = self.within(oid, value, by, depth);
        }
        Some(rest)
    }
}

/// Takes a length, -1 for NULL, and a value off.
pub(super) fn item(bytes: &mut [u8]) -> Option<(Option<&mut [u8]>, &mut [u8])> {
    let (length, rest) = bytes.split_first_chunk_mut::<4>()?;
    match usize::try_from(i32::from_be_bytes(*length)) {
        Ok(length) => {
            let (value, rest) = rest.split_at_mut_checked(length)?;
            Some((Some(value), rest))
        }
        Err(_) => Some((None, rest)),
    }
}

/// May a value of a type that nobody has told be an array or a record with one of these OIDs within?
pub fn may_contain(value: &[u8], is_one: impl Fn(u32) -> bool) -> bool {
    // Wherever they are: a value of a few bytes that only looks like it costs a question.
    let windows = || {
        value
            .windows(4)
            .filter_map(|bytes| bytes.first_chunk::<4>())
    };
    value.len() >= 8 && windows().any(|oid| is_one(u32::from_be_bytes(*oid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOOD: u32 = 20_000;
    const MOODS: u32 = 20_001;
    const PAIR: u32 = 20_002;
    const PAIRS: u32 = 20_003;
    const CHECKED: u32 = 20_004;

    fn contents() -> Contents {
        let mut contents = Contents::default();
        contents.add(MOODS, Content::Array);
        contents.add(PAIR, Content::Record);
        contents.add(PAIRS, Content::Array);
        contents.add(CHECKED, Content::Domain(MOODS));
        contents
    }

    fn item_of(value: Option<&[u8]>) -> Vec<u8> {
        let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap());
        [&length.to_be_bytes()[..], value.unwrap_or_default()].concat()
    }

    fn array(element: u32, values: &[Option<&[u8]>]) -> Vec<u8> {
        let count = u32::try_from(values.len()).unwrap();
        let head = [1, 0, element, count, 1].map(u32::to_be_bytes).concat();
        let values = values.iter().map(|value| item_of(*value));
        [head, values.collect::<Vec<_>>().concat()].concat()
    }

    fn record(fields: &[(u32, Option<&[u8]>)]) -> Vec<u8> {
        let mut out = u32::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
        for (oid, value) in fields {
            out.extend(oid.to_be_bytes());
            out.extend(item_of(*value));
        }
        out
    }

    /// Of servers that number types a thousand higher.
    fn renumbered(oid: u32, value: &[u8]) -> Vec<u8> {
        let mut value = value.to_vec();
        contents().renumber(oid, &mut value, &|oid| {
            let here = u32::from_be_bytes(*oid);
            if here >= MOOD {
                *oid = (here + 1000).to_be_bytes();
            }
            here
        });
        value
    }

    #[test]
    fn oids_are_found_wherever_they_are() {
        let moods = |by: u32| array(MOOD + by, &[Some(b"sad"), None, Some(b"happy")]);
        let pair = |by: u32| {
            record(&[
                (23, Some(&[0, 0, 0x4e, 0x20])),
                (MOOD + by, None),
                (MOODS + by, Some(&moods(by))),
                (CHECKED + by, Some(&moods(by))),
                (1007, Some(&array(23, &[Some(&[0, 0, 0x4e, 0x20])]))),
            ])
        };
        let pairs = |by: u32| array(PAIR + by, &[None, Some(&pair(by)), Some(b"")]);
        let cases = [
            (MOOD, b"sad".to_vec(), b"sad".to_vec()),
            (MOODS, moods(0), moods(1000)),
            (CHECKED, moods(0), moods(1000)),
            (PAIR, pair(0), pair(1000)),
            (RECORD, pair(0), pair(1000)),
            (
                RECORDS,
                array(RECORD, &[Some(&pair(0))]),
                array(RECORD, &[Some(&pair(1000))]),
            ),
            (PAIRS, pairs(0), pairs(1000)),
            (17, moods(0), moods(0)),
        ];
        for (oid, value, expected) in cases {
            assert_eq!(renumbered(oid, &value), expected, "{oid}");
            for length in 0..value.len() {
                renumbered(oid, &value[..length]); // no panic
            }
        }
    }

    #[test]
    fn what_is_too_deep_or_too_long_is_left() {
        let mut value = Vec::new();
        for _ in 0..2_000 {
            value = record(&[(RECORD, Some(&value))]);
        }
        renumbered(RECORD, &value);
        renumbered(MOODS, &[0x7f; 64]);
        assert!(may_contain(&array(MOOD, &[]), |oid| oid == MOOD));
        assert!(!may_contain(&array(23, &[Some(b"sad")]), |oid| oid == MOOD));
    }
}
