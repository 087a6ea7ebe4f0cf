//! Types of users and extensions, whose OIDs are each server's own: those of one shard as another one numbers them.
//!
//! A type is the same on two shards if its schema and name are. What only one of them has stays as it is.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::contents::{item, Content, Contents};
use super::enums::{Enum, Enums};
use crate::protocol::backend::tag;
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::frontend::tag as request;
use crate::protocol::rows::RowDescription;

/// Asks a server for the types that it has numbered itself: schema, name, OID, OID of arrays of it, labels if it is an enum; what
/// it is (`pg_type.typtype`, or `t`: rows of a table), and of what type a domain is.
pub const TYPES_QUERY: &str = "SELECT n.nspname, t.typname, t.oid, t.typarray, \
    CASE t.typtype WHEN 'e' THEN ARRAY(SELECT e.enumlabel FROM pg_catalog.pg_enum e \
        WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) END, \
    CASE WHEN c.relkind <> 'c' THEN 't' ELSE t.typtype END, t.typbasetype \
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
    LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid \
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
    /// What OIDs its values may have within; of arrays their elements' entry says so.
    content: Option<Content>,
    /// It is that of a table's rows.
    of_table: bool,
}

/// One server's OIDs, and what the first one has for the same types. Only those that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Canonical {
    /// By the OIDs of this server.
    firsts: HashMap<u32, u32>,
    /// By the OIDs of the first one.
    own: HashMap<u32, u32>,
    /// By the OIDs of the first one.
    contents: Rc<Contents>,
}

/// OIDs that servers do not agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disagreement {
    /// Others have another one for the same type.
    pub differing: HashSet<u32>,
    /// Others do not have the type.
    pub lacking: HashSet<u32>,
}

impl Disagreement {
    /// Adds that of another server.
    pub fn add(&mut self, other: Self) {
        self.differing.extend(other.differing);
        self.lacking.extend(other.lacking);
    }
}

/// Columns of the rows that follow whose values have OIDs within, with their types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns(Vec<(usize, u32)>);

impl ServerTypes {
    /// Adds what one row of the answer says.
    pub fn add(&mut self, row: &[Option<&[u8]>]) {
        let &[Some(schema), Some(name), Some(oid), Some(array), labels, Some(kind), Some(base)] =
            row
        else {
            return;
        };
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let number = |bytes| text(bytes)?.parse().ok();
        let (Some(schema), Some(name)) = (text(schema), text(name)) else {
            return;
        };
        if let (Some(oid), Some(array), Some(base)) = (number(oid), number(array), number(base)) {
            let labels = labels.and_then(|labels| Enum::new(schema, name, labels).ok());
            let described = ServerType {
                oid,
                array,
                labels: labels.map(Arc::new),
                content: match kind {
                    b"c" | b"t" => Some(Content::Record),
                    b"d" => Some(Content::Domain(base)),
                    _ => None,
                },
                of_table: kind == b"t",
            };
            self.0.insert((schema.into(), name.into()), described);
        }
    }

    /// Are there some that are not the rows of a table, or arrays of these?
    pub fn has_own(&self) -> bool {
        let of_rows = self.0.values().filter(|described| described.of_table);
        let arrays: HashSet<u32> = of_rows.map(|described| described.array).collect();
        let mut all = self.0.values();
        all.any(|described| !described.of_table && !arrays.contains(&described.oid))
    }

    /// The OIDs of this server that others have otherwise.
    pub fn disagreement<'a>(&self, others: impl Iterator<Item = &'a Self>) -> Disagreement {
        let mut found = Disagreement::default();
        for other in others {
            for (name, own) in &self.0 {
                match other.0.get(name) {
                    Some(theirs) if theirs.oid == own.oid => {}
                    Some(_) => drop(found.differing.insert(own.oid)),
                    None => drop(found.lacking.insert(own.oid)),
                }
            }
        }
        found
    }

    /// What values of its types have within.
    pub fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        for described in self.0.values() {
            if let Some(content) = described.content {
                contents.add(described.oid, content);
            }
            if described.array != 0 {
                contents.add(described.array, Content::Array);
            }
        }
        contents
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
    /// What the OIDs of `here` are on the first server, whose types have these contents.
    pub fn of(first: &ServerTypes, here: &ServerTypes, contents: &Rc<Contents>) -> Self {
        let mut found = Self {
            contents: Rc::clone(contents),
            ..Self::default()
        };
        for (name, here) in &here.0 {
            match first.0.get(name) {
                Some(first) if first.oid != here.oid => {
                    found.firsts.insert(here.oid, first.oid);
                    found.own.insert(first.oid, here.oid);
                }
                _ => {}
            }
        }
        found
    }

    /// Are all the same?
    pub fn is_empty(&self) -> bool {
        self.firsts.is_empty()
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
            self.to_first(oid);
            rest = match after.get_mut(behind..) {
                Some(rest) => rest,
                None => return,
            };
        }
    }

    /// Writes the first server's OID, and gives it.
    fn to_first(&self, oid: &mut [u8; 4]) -> u32 {
        let here = u32::from_be_bytes(*oid);
        let first = self.firsts.get(&here).copied().unwrap_or(here);
        *oid = first.to_be_bytes();
        first
    }

    /// Writes this server's OID in place of the first one's, which it gives.
    fn to_own(&self, oid: &mut [u8; 4]) -> u32 {
        let first = u32::from_be_bytes(*oid);
        let here = self.own.get(&first).copied().unwrap_or(first);
        *oid = here.to_be_bytes();
        first
    }

    /// Changes what a client says of types to what this server calls them: in whole messages of a request, the types that Parse
    /// declares, and values in binary format of the statement without a name that was parsed last.
    pub fn apply_to_request(&self, messages: &mut [u8]) {
        let mut types = Vec::new();
        each(messages, |tag, body| {
            let done = match tag {
                request::PARSE => self.declared(body).map(|declared| types = declared),
                request::BIND => self.bound(&types, body),
                _ => None,
            };
            done.unwrap_or_default();
        });
    }

    /// Changes the types that a Parse declares. Gives what they were.
    fn declared(&self, body: &mut [u8]) -> Option<Vec<u32>> {
        let rest = behind_text(behind_text(body)?)?;
        let (count, mut rest) = rest.split_first_chunk_mut::<2>()?;
        let mut types = Vec::new();
        for _ in 0..u16::from_be_bytes(*count) {
            let (oid, behind) = rest.split_first_chunk_mut::<4>()?;
            types.push(self.to_own(oid));
            rest = behind;
        }
        Some(types)
    }

    /// Changes the values of a Bind, whose types are these.
    fn bound(&self, types: &[u32], body: &mut [u8]) -> Option<()> {
        let rest = behind_text(behind_text(body)?)?;
        let (count, rest) = rest.split_first_chunk_mut::<2>()?;
        let count = usize::from(u16::from_be_bytes(*count));
        let (formats, rest) = rest.split_at_mut_checked(count.checked_mul(2)?)?;
        let is_binary = |at: usize| {
            let at = if count == 1 { 0 } else { at };
            formats.chunks_exact(2).nth(at) == Some(&[0, 1][..])
        };
        let (_, mut rest) = rest.split_first_chunk_mut::<2>()?;
        for (at, oid) in types.iter().enumerate() {
            let (value, behind) = item(rest)?;
            if let Some(value) = value.filter(|_| is_binary(at)) {
                self.contents.renumber(*oid, value, &|oid| self.to_own(oid));
            }
            rest = behind;
        }
        Some(())
    }

    /// Changes the OIDs within the values of a DataRow with these columns.
    pub fn apply_to_row(&self, columns: &Columns, body: &mut [u8]) {
        let _: Option<()> = self.row(columns, body);
    }

    fn row(&self, columns: &Columns, body: &mut [u8]) -> Option<()> {
        let (_, mut rest) = body.split_first_chunk_mut::<2>()?;
        let mut at = 0;
        for (column, oid) in &columns.0 {
            loop {
                let (value, behind) = item(rest)?;
                rest = behind;
                at += 1;
                if at > *column {
                    if let Some(value) = value {
                        self.contents
                            .renumber(*oid, value, &|oid| self.to_first(oid));
                    }
                    break;
                }
            }
        }
        Some(())
    }
}

impl Columns {
    /// Those of the body of a RowDescription, as clients get it. None of one that is malformed.
    pub fn of(description: &[u8], contents: &Contents) -> Self {
        let Ok(rows) = RowDescription::parse(description) else {
            return Self::default();
        };
        let fields = rows.fields().enumerate();
        let carrying = fields.filter_map(|(at, field)| {
            let field = field.ok()?;
            (field.format == 1 && contents.carries(field.type_oid)).then_some((at, field.type_oid))
        });
        Self(carrying.collect())
    }

    /// Would any of them have some in binary format, whatever format they are in?
    pub fn could_be(description: &[u8], contents: &Contents) -> bool {
        let rows = RowDescription::parse(description);
        let mut fields = rows.iter().flat_map(RowDescription::fields).flatten();
        fields.any(|field| contents.carries(field.type_oid))
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is behind a text and its end.
fn behind_text(bytes: &mut [u8]) -> Option<&mut [u8]> {
    let end = memchr::memchr(0, bytes)?;
    bytes.get_mut(end + 1..)
}

/// Calls `each` with the tag and the body of every whole message.
pub fn each(messages: &mut [u8], mut each: impl FnMut(u8, &mut [u8])) {
    let mut rest = messages;
    while let Some((tag, behind)) = std::mem::take(&mut rest).split_first_mut() {
        let Some(length) = behind.first_chunk::<4>() else {
            return;
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let Some((message, next)) = behind.split_at_mut_checked(length) else {
            return;
        };
        if let Some(body) = message.get_mut(HEADER_BYTES - 1..) {
            each(*tag, body);
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frontend::{Bind, Parse, SYNC};
    use crate::protocol::rows::{DataRow, Field, RowDescription};

    fn types(of: &[(&str, u32)]) -> ServerTypes {
        let mut types = ServerTypes::default();
        for (name, oid) in of {
            let oid = oid.to_string();
            let [schema, name] = [b"public", name.as_bytes()].map(Some);
            let row = [schema, name, Some(oid.as_bytes()), Some(b"0"), None];
            types.add(&[&row[..], &[Some(b"b"), Some(b"0")]].concat());
        }
        types
    }

    #[test]
    fn oids_become_those_of_the_first() {
        let first = types(&[("mood", 16400), ("_mood", 16399), ("only", 16500)]);
        let here = types(&[("mood", 16500), ("_mood", 16399), ("here", 16600)]);
        let contents = Rc::default();
        let canonical = Canonical::of(&first, &here, &contents);
        assert_eq!(canonical.firsts, HashMap::from([(16500, 16400)]));
        assert!(Canonical::of(&first, &first, &contents).is_empty());
        let disagreement = first.disagreement([&first, &here].into_iter());
        assert_eq!(disagreement.differing, HashSet::from([16400]));
        assert_eq!(disagreement.lacking, HashSet::from([16500]));

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
    fn requests_have_the_oids_of_their_server() {
        let server = |mood: u32| {
            let mut types = ServerTypes::default();
            let mut add = |name: &str, oid: u32, array: u32, kind: &str| {
                let (oid, array) = (oid.to_string(), array.to_string());
                let row = ["public", name, &oid, &array].map(|text| Some(text.as_bytes()));
                types.add(&[&row[..], &[None, Some(kind.as_bytes()), Some(b"0")]].concat());
            };
            add("mood", mood, mood + 1, "e");
            add("_mood", mood + 1, 0, "b");
            types
        };
        let (first, here) = (server(20_000), server(30_000));
        let contents = Rc::new(first.contents());
        let canonical = Canonical::of(&first, &here, &contents);
        let array = |mood: u32| [1, 0, mood, 1, 1, 3].map(u32::to_be_bytes).concat();
        let request = |mood: u32| {
            let value = [&array(mood)[..], b"sad"].concat();
            let mut out = Vec::new();
            Parse::encode(
                &mut out,
                b"",
                b"SELECT $1, $2, $3",
                [mood, mood + 1, mood + 1],
            );
            let values = [Some(&b"sad"[..]), Some(&value[..]), None];
            Bind::encode(&mut out, b"", b"", [0, 1, 1], values, [1]);
            out.extend_from_slice(&SYNC);
            out
        };
        let mut messages = request(20_000);
        canonical.apply_to_request(&mut messages);
        assert_eq!(messages, request(30_000));
        for length in 0..messages.len() {
            canonical.apply_to_request(&mut request(20_000)[..length]); // no panic
        }
        // In text nothing is looked into.
        let mut text = Vec::new();
        Parse::encode(&mut text, b"", b"SELECT $1", [23]);
        let value = [&array(20_000)[..], b"sad"].concat();
        Bind::encode(&mut text, b"", b"", [], [Some(&value[..])], []);
        let before = text.clone();
        canonical.apply_to_request(&mut text);
        assert_eq!(text, before);

        let field = |(type_oid, format)| Field {
            type_oid,
            format,
            ..Field::text(b"c")
        };
        let mut described = Vec::new();
        let types = [(20_001, 0), (20_001, 1), (23, 1), (20_001, 1)];
        RowDescription::encode(&mut described, types.map(field));
        let columns = Columns::of(&described[5..], &contents);
        assert_eq!(columns, Columns(vec![(1, 20_001), (3, 20_001)]));
        for (types, expected) in [
            ([(20_001, 0), (23, 1)], true),
            ([(20_000, 1), (23, 1)], false),
        ] {
            let mut described = Vec::new();
            RowDescription::encode(&mut described, types.map(field));
            assert_eq!(Columns::could_be(&described[5..], &contents), expected);
        }
        let row = |text: u32, binary: u32| {
            let [text, binary] = [text, binary].map(|oid| [&array(oid)[..], b"sad"].concat());
            let mut row = Vec::new();
            DataRow::encode(
                &mut row,
                [Some(&text[..]), Some(&binary), None, Some(&binary)],
            );
            row
        };
        let mut message = row(30_000, 30_000);
        canonical.apply_to_row(&columns, &mut message[5..]);
        assert_eq!(message, row(30_000, 20_000));
    }

    #[test]
    fn enums_are_known_that_are_the_same_everywhere() {
        let server = |mood: u32, labels: &[u8], only: bool| {
            let mut types = ServerTypes::default();
            let [oid, array] = [mood, mood - 1].map(|oid| oid.to_string());
            let [oid, array] = [&oid, &array].map(|oid| Some(oid.as_bytes()));
            let mut add = |name, oid, array, labels, kind| {
                types.add(&[
                    Some(b"s"),
                    Some(name),
                    oid,
                    array,
                    labels,
                    Some(kind),
                    Some(b"0"),
                ]);
            };
            add(b"mood", oid, array, Some(labels), b"e");
            add(b"row", Some(b"17000"), Some(b"0"), None, b"c");
            if only {
                add(b"only", Some(b"18000"), Some(b"0"), Some(b"{a}"), b"e");
            }
            types
        };
        let first = server(16_400, b"{sad,happy}", true);
        let same = server(16_500, b"{sad,happy}", false);
        assert!(first.has_own());
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
