//! Types of users and extensions, whose OIDs are each server's own: those of one shard as another one numbers them.
//!
//! A type is the same on two shards if its schema and name are. What only one of them has stays as it is.

use std::collections::{HashMap, HashSet};

use crate::protocol::backend::tag;

/// Asks a server for the types that it has numbered itself: schema, name, OID.
pub const TYPES_QUERY: &str = "SELECT n.nspname, t.typname, t.oid FROM pg_catalog.pg_type t \
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
    WHERE t.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp)'";

/// The types of one server, by schema and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTypes(HashMap<(Box<str>, Box<str>), u32>);

/// One server's OIDs, and what the first one has for the same types. Only those that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Canonical(HashMap<u32, u32>);

impl ServerTypes {
    /// Adds what one row of the answer says.
    pub fn add(&mut self, row: &[Option<&[u8]>]) {
        let text = |at: usize| std::str::from_utf8((*row.get(at)?)?).ok();
        if let (Some(schema), Some(name), Some(oid)) = (text(0), text(1), text(2)) {
            if let Ok(oid) = oid.parse() {
                self.0.insert((schema.into(), name.into()), oid);
            }
        }
    }

    /// The OIDs of this server that another one has for other types, or for none.
    pub fn ambiguous<'a>(&self, others: impl Iterator<Item = &'a Self>) -> HashSet<u32> {
        let mut found = HashSet::new();
        for other in others {
            let differs =
                |(name, oid): &(&(Box<str>, Box<str>), &u32)| other.0.get(*name) != Some(*oid);
            found.extend(self.0.iter().filter(differs).map(|(_, oid)| *oid));
        }
        found
    }
}

impl Canonical {
    /// What the OIDs of `here` are on the first server.
    pub fn of(first: &ServerTypes, here: &ServerTypes) -> Self {
        let differing = here.0.iter().filter_map(|(name, oid)| {
            let canonical = *first.0.get(name)?;
            (canonical != *oid).then_some((*oid, canonical))
        });
        Self(differing.collect())
    }

    /// Are all the same?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is it a message whose OIDs are to be changed?
    pub const fn concerns(tag: u8) -> bool {
        matches!(tag, tag::ROW_DESCRIPTION | tag::PARAMETER_DESCRIPTION)
    }

    /// Changes the OIDs in the body of a RowDescription or ParameterDescription. One that is malformed is left from there on.
    pub fn apply(&self, tag: u8, body: &mut [u8]) {
        let Some((count, mut rest)) = body.split_first_chunk_mut::<2>() else {
            return;
        };
        for _ in 0..u16::from_be_bytes(*count) {
            // In front of the type: the name with its end, the table's OID and the column's number.
            let before = match tag {
                tag::ROW_DESCRIPTION => match memchr::memchr(0, rest) {
                    Some(end) => end + 1 + 4 + 2,
                    None => return,
                },
                _ => 0,
            };
            // Behind it: size, modifier, format.
            let behind = match tag {
                tag::ROW_DESCRIPTION => 2 + 4 + 2,
                _ => 0,
            };
            let Some((oid, after)) = std::mem::take(&mut rest)
                .get_mut(before..)
                .and_then(|rest| rest.split_first_chunk_mut::<4>())
            else {
                return;
            };
            if let Some(canonical) = self.0.get(&u32::from_be_bytes(*oid)) {
                *oid = canonical.to_be_bytes();
            }
            rest = match after.get_mut(behind..) {
                Some(rest) => rest,
                None => return,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::rows::{Field, RowDescription};

    fn types(of: &[(&str, u32)]) -> ServerTypes {
        let mut types = ServerTypes::default();
        for (name, oid) in of {
            let oid = oid.to_string();
            types.add(&[Some(b"public"), Some(name.as_bytes()), Some(oid.as_bytes())]);
        }
        types
    }

    #[test]
    fn oids_become_those_of_the_first() {
        let first = types(&[("mood", 16400), ("_mood", 16399), ("only", 16500)]);
        let here = types(&[("mood", 16500), ("_mood", 16399), ("here", 16600)]);
        let canonical = Canonical::of(&first, &here);
        assert_eq!(canonical, Canonical(HashMap::from([(16500, 16400)])));
        assert!(Canonical::of(&first, &first).is_empty());
        let ambiguous = first.ambiguous([&first, &here].into_iter());
        assert_eq!(ambiguous, HashSet::from([16400, 16500]));

        let described = |oids: [u32; 3]| {
            let mut out = Vec::new();
            let field = |(name, type_oid): (&'static str, u32)| Field {
                type_oid,
                table_oid: 16500,
                ..Field::text(name.as_bytes())
            };
            let names = ["a", "", "c"];
            RowDescription::encode(&mut out, names.into_iter().zip(oids).map(field));
            out
        };
        let mut message = described([16500, 25, 16600]);
        canonical.apply(b'T', &mut message[5..]);
        assert_eq!(message, described([16400, 25, 16600]));

        let mut body = [0, 2, 0, 0, 0x40, 0x74, 0, 0, 0, 25]; // 16500, 25
        canonical.apply(b't', &mut body);
        assert_eq!(body, [0, 2, 0, 0, 0x40, 0x10, 0, 0, 0, 25]);
        for length in 0..message.len() - 5 {
            let mut cut = described([16500, 16500, 16500])[5..5 + length].to_vec();
            canonical.apply(b'T', &mut cut); // no panic
        }
    }
}
