//! Enums: their labels are ordered as they were declared, which only a server's catalogue tells.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{array, Format, Invalid};

/// An enum type: what it is called, and its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enum {
    name: Box<str>,
    places: HashMap<Box<[u8]>, u32>,
}

impl Enum {
    /// A type of this schema and name, with the labels that an array of them has as its text.
    ///
    /// Errors: what is no such array.
    pub fn new(schema: &str, name: &str, labels: &[u8]) -> Result<Self, Invalid> {
        let mut places = HashMap::new();
        array::elements(Format::Text, labels, |label| {
            let place = u32::try_from(places.len()).map_err(|_| Invalid)?;
            places.insert(label.ok_or(Invalid)?.into(), place);
            Ok(())
        })?;
        let quoted = |name: &str| name.replace('"', "\"\"");
        Ok(Self {
            name: format!("\"{}\".\"{}\"", quoted(schema), quoted(name)).into(),
            places,
        })
    }

    /// As it is written in SQL, with its schema and in quotes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many labels are declared before this one. Labels are written the same in text and in binary format.
    ///
    /// Errors: one that is not known.
    pub(super) fn place(&self, label: &[u8]) -> Result<u32, Invalid> {
        self.places.get(label).copied().ok_or(Invalid)
    }
}

/// What the OID of a user's type means to one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserType {
    /// An enum.
    Enum(Arc<Enum>),
    /// An array of an enum.
    Array(Arc<Enum>),
}

/// The enums of one server, and arrays of them, by the OIDs in its descriptions of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enums(BTreeMap<u32, UserType>);

impl Enums {
    /// Of a server of which nothing is known.
    pub const NONE: &'static Self = &Self(BTreeMap::new());

    /// Adds a type, and the type of its arrays.
    pub fn add(&mut self, oid: u32, array: u32, described: &Arc<Enum>) {
        self.0.insert(oid, UserType::Enum(Arc::clone(described)));
        self.0.insert(array, UserType::Array(Arc::clone(described)));
    }

    /// What this OID means. `None`: no enum, or one that is too new to be known.
    pub fn get(&self, oid: u32) -> Option<&UserType> {
        self.0.get(&oid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_the_places_of_their_declaration() {
        let mood = Enum::new("s", "a \"mood\"", br#"{sad,"so, so",happy}"#).unwrap();
        assert_eq!(mood.name(), r#""s"."a ""mood""""#);
        assert_eq!(mood.place(b"sad"), Ok(0));
        assert_eq!(mood.place(b"so, so"), Ok(1));
        assert_eq!(mood.place(b"happy"), Ok(2));
        assert_eq!(mood.place(b"glad"), Err(Invalid));
        assert_eq!(Enum::new("s", "n", b"{}").unwrap().place(b""), Err(Invalid));
        for labels in ["", "{NULL}", "{{a},{b}}", "a"] {
            assert_eq!(Enum::new("s", "n", labels.as_bytes()), Err(Invalid));
        }
    }

    #[test]
    fn oids_are_of_values_and_of_arrays() {
        let mood = Arc::new(Enum::new("s", "mood", b"{sad,happy}").unwrap());
        let mut enums = Enums::default();
        enums.add(16_400, 16_399, &mood);
        assert_eq!(enums.get(16_400), Some(&UserType::Enum(Arc::clone(&mood))));
        assert_eq!(enums.get(16_399), Some(&UserType::Array(mood)));
        assert_eq!(enums.get(16_401), None);
    }
}
