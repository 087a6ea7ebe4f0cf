//! Run-time parameters as servers report them and startup packets name them.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC>

use std::cmp::Ordering;

/// Parameters that are reported but not for a session to set, or that belong to a transaction and must not
/// outlive it.
const NOT_TO_SET: &[&str] = &[
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
];

/// Names and values of run-time parameters, ordered by name.
///
/// Names are compared as PostgreSQL does, without regard to the case of ASCII letters; values exactly. Text
/// is bytes in the client's encoding. Not bounded here: they come from one startup packet or one server.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    /// Ordered by [`compare_names`], no name twice.
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Parameters {
    /// No parameters.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// Value of a parameter.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        let at = self.find(name.as_ref()).ok()?;
        self.entries.get(at).map(|entry| &*entry.value)
    }

    /// Sets a parameter. True if that changed anything; the first spelling of a name is kept.
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> bool {
        let (name, value) = (name.as_ref(), value.as_ref());
        match self.find(name) {
            Ok(at) => match self.entries.get_mut(at) {
                Some(entry) if *entry.value != *value => {
                    entry.value = value.into();
                    true
                }
                _ => false,
            },
            Err(at) => {
                let entry = Entry {
                    name: name.into(),
                    value: value.into(),
                };
                self.entries.insert(at, entry);
                true
            }
        }
    }

    /// Names and values in the order of names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> + Clone {
        self.entries
            .iter()
            .map(|entry| (&*entry.name, &*entry.value))
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// May a session's value of this parameter be set by us? False for what is only reported, or belongs to a
    /// transaction.
    pub fn is_settable(name: &[u8]) -> bool {
        !NOT_TO_SET
            .iter()
            .any(|other| compare_names(name, other.as_bytes()).is_eq())
    }

    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| compare_names(&entry.name, name))
    }
}

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self
                .iter()
                .zip(other.iter())
                .all(|(left, right)| left.1 == right.1 && compare_names(left.0, right.0).is_eq())
    }
}

impl Eq for Parameters {}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut parameters = Self::new();
        parameters.extend(pairs);
        parameters
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Extend<(N, V)> for Parameters {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, pairs: I) {
        for (name, value) in pairs {
            self.set(name, value);
        }
    }
}

/// Order of names; equal without regard to the case of ASCII letters.
fn compare_names(left: &[u8], right: &[u8]) -> Ordering {
    left.iter()
        .map(u8::to_ascii_lowercase)
        .cmp(right.iter().map(u8::to_ascii_lowercase))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn parameters(pairs: Pairs<'_>) -> Parameters {
        pairs.iter().copied().collect()
    }

    #[test]
    fn names_have_no_case_and_values_have() {
        let mut one = parameters(&[("TimeZone", "UTC"), ("DateStyle", "ISO, MDY")]);
        assert_eq!(one.get("timezone"), Some(&b"UTC"[..]));
        assert_eq!(
            one,
            parameters(&[("datestyle", "ISO, MDY"), ("TIMEZONE", "UTC")])
        );
        assert_ne!(
            one,
            parameters(&[("datestyle", "iso, mdy"), ("TIMEZONE", "UTC")])
        );
        assert!(!one.set("TIMEZONE", "UTC"));
        assert!(one.set("TIMEZONE", "CET"));
        assert_eq!(
            one.iter().next(),
            Some((&b"DateStyle"[..], &b"ISO, MDY"[..]))
        );
    }
}
