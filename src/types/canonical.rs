//! Types of users and extensions, whose OIDs are each server's own: those of one shard as another one numbers them.
//!
//! A type is the same on two shards if its schema and name are. What only one of them has stays as it is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::enums::{Enum, Enums};
use crate::protocol::backend::tag;

/// Asks a server for the types that it has numbered itself: schema, name, OID, OID of arrays of it, labels if it is an enum.
pub const TYPES_QUERY: &str = "SELECT n.nspname, t.typname, t.oid, t.typarray, \
    CASE t.typtype WHEN 'e' THEN ARRAY(SELECT e.enumlabel FROM pg_catalog.pg_enum e \
        WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) END \
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
    WHERE t.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp)'";

/// The types of one server, by schema and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTypes(HashMap<(Box<str>, Box<str>), ServerType>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct ServerType {
    oid: u32,
    /// Of arrays of it.
    array: u32,
    labels: Option<Arc<Enum>>,
}

/// One server's OIDs, and what the first one has for the same types. Only those that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Canonical(HashMap<u32, u32>);

impl ServerTypes {
    /// Adds what one row of the answer says.
    pub fn add(&mut self, row: &[Option<&[u8]>]) {
        let &[Some(schema), Some(name), Some(oid), Some(array), labels] = row else {
            return;
        };
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let number = |bytes| text(bytes)?.parse().ok();
        let (Some(schema), Some(name)) = (text(schema), text(name)) else {
            return;
        };
        if let (Some(oid), Some(array)) = (number(oid), number(array)) {
            let labels = labels.and_then(|labels| Enum::new(schema, name, labels).ok());
            let described = ServerType {
                oid,
                array,
                labels: labels.map(Arc::new),
            };
            self.0.insert((schema.into(), name.into()), described);
        }
    }

    /// Are there enums?
    pub fn has_enums(&self) -> bool {
        self.0.values().any(|described| described.labels.is_some())
    }

    /// The OIDs of this server that another one has for other types, or for none.
    pub fn ambiguous<'a>(&self, others: impl Iterator<Item = &'a Self>) -> HashSet<u32> {
        let mut found = HashSet::new();
        for other in others {
            let own = self.0.iter();
            let differing = own.filter(|(name, own)| {
                let theirs = other.0.get(*name);
                theirs.is_none_or(|theirs| theirs.oid != own.oid)
            });
            found.extend(differing.map(|(_, own)| own.oid));
        }
        found
    }
}

/// The enums of each of these servers, without those that are not the same on all of them. `canonical`: as they are seen
/// where the first one's OIDs are everybody's.
pub fn enums(all: &[ServerTypes], canonical: bool) -> Vec<Enums> {
    let mut found = vec![Enums::default(); all.len()];
    let Some(first) = all.first() else {
        return found;
    };
    for (name, described) in &first.0 {
        let Some(labels) = &described.labels else {
            continue;
        };
        let each: Option<Vec<_>> = all.iter().map(|server| server.0.get(name)).collect();
        let same =
            |each: &Vec<&ServerType>| each.iter().all(|here| here.labels == described.labels);
        let Some(each) = each.filter(same) else {
            continue;
        };
        for (enums, here) in found.iter_mut().zip(each) {
            let seen = if canonical { described } else { here };
            enums.add(seen.oid, seen.array, labels);
        }
    }
    found
}

impl Canonical {
    /// What the OIDs of `here` are on the first server.
    pub fn of(first: &ServerTypes, here: &ServerTypes) -> Self {
        let differing = here.0.iter().filter_map(|(name, here)| {
            let canonical = first.0.get(name)?.oid;
            (canonical != here.oid).then_some((here.oid, canonical))
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
            let [schema, name] = [b"public", name.as_bytes()].map(Some);
            types.add(&[schema, name, Some(oid.as_bytes()), Some(b"0"), None]);
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

    #[test]
    fn enums_are_known_that_are_the_same_everywhere() {
        let server = |mood: u32, labels: &[u8], only: bool| {
            let mut types = ServerTypes::default();
            let [oid, array] = [mood, mood - 1].map(|oid| oid.to_string());
            let [oid, array] = [&oid, &array].map(|oid| Some(oid.as_bytes()));
            types.add(&[Some(b"s"), Some(b"mood"), oid, array, Some(labels)]);
            types.add(&[Some(b"s"), Some(b"row"), Some(b"17000"), Some(b"0"), None]);
            if only {
                types.add(&[
                    Some(b"s"),
                    Some(b"only"),
                    Some(b"18000"),
                    Some(b"0"),
                    Some(b"{a}"),
                ]);
            }
            types
        };
        let first = server(16_400, b"{sad,happy}", true);
        let same = server(16_500, b"{sad,happy}", false);
        assert!(first.has_enums());
        let found = enums(&[first.clone(), same.clone()], false);
        assert!(found[0].get(16_400).is_some() && found[0].get(16_399).is_some());
        assert_eq!(found[0].get(16_400), found[1].get(16_500));
        assert_eq!(found[0].get(16_399), found[1].get(16_499));
        for (server, oid) in [(0, 16_500), (1, 16_400), (0, 17_000), (0, 18_000)] {
            assert_eq!(found[server].get(oid), None, "{server} {oid}");
        }
        let found = enums(&[first.clone(), same], true);
        assert_eq!(found[0], found[1], "in the first one's numbers");
        for labels in [&b"{happy,sad}"[..], b"{sad}", b"{sad,happy,glad}"] {
            let other = server(16_500, labels, false);
            let found = enums(&[first.clone(), other], false);
            assert_eq!(found, [Enums::default(), Enums::default()]);
        }
    }
}
