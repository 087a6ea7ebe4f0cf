//! Hints in comments: `/* pgdog_role: replica */`, `/* pgdog_shard: 1 */`, `/* pgdog_sharding_key: 4711 */`.
//!
//! The lexer finds the comments, so that nothing within a string or a dollar quote is one. A hint's value is not
//! part of a statement's shape: thousands of sharding keys share one analysis.

use memchr::memmem;

/// The hints of a text. Of several for one thing the last counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Which server is asked for.
    pub role: Option<Role>,
    /// Which shard is asked for.
    pub shard: Option<u32>,
    /// Where in the text the value stands that decides the shard.
    pub sharding_key: Option<(usize, usize)>,
    /// A hint whose value is none: 22023.
    pub invalid: Option<&'static str>,
}

/// A server that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The server that writes.
    Primary,
    /// One of those that follow it.
    Replica,
}

impl Role {
    /// A value of `pgdog.role`, in any case.
    pub fn parse(word: &[u8]) -> Option<Self> {
        if word.eq_ignore_ascii_case(b"primary") {
            Some(Self::Primary)
        } else if word.eq_ignore_ascii_case(b"replica") {
            Some(Self::Replica)
        } else {
            None
        }
    }
}

impl Hints {
    /// Reads a comment of a text, at `start..end` with its marks. Line comments hold no hints.
    pub(super) fn read(&mut self, text: &[u8], start: usize, end: usize) {
        let Some(comment) = text.get(start..end) else {
            return;
        };
        if !comment.starts_with(b"/*") {
            return;
        }
        for at in memmem::find_iter(comment, PREFIX) {
            let fresh = at.checked_sub(1).and_then(|before| comment.get(before));
            if fresh.is_some_and(|&byte| is_word(byte)) {
                continue;
            }
            let after = comment.get(at + PREFIX.len()..).unwrap_or_default();
            let length = after.iter().position(|&byte| !is_word(byte));
            let (name, rest) = after.split_at(length.unwrap_or(after.len()));
            if let Some((offset, value)) = value(rest) {
                let from = start + at + PREFIX.len() + name.len() + offset;
                self.take(name, value, from);
            }
        }
    }

    fn take(&mut self, name: &[u8], value: &[u8], from: usize) {
        match name {
            b"role" => match Role::parse(value) {
                Some(role) => self.role = Some(role),
                None => self.invalid = Some("pgdog_role"),
            },
            b"shard" => match std::str::from_utf8(value).map(str::parse) {
                Ok(Ok(shard)) => self.shard = Some(shard),
                _ => self.invalid = Some("pgdog_shard"),
            },
            b"sharding_key" if value.is_empty() => self.invalid = Some("pgdog_sharding_key"),
            b"sharding_key" => self.sharding_key = Some((from, from + value.len())),
            _ => {}
        }
    }

    /// The sharding key's bytes in the text that these hints are of.
    pub fn sharding_key<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        let (start, end) = self.sharding_key?;
        text.get(start..end)
    }
}

const PREFIX: &[u8] = b"pgdog_";

/// What follows a hint's name: a colon and a value, up to white space or a comma, or in quotes. Answers it with its
/// offset; none if there is no colon.
fn value(rest: &[u8]) -> Option<(usize, &[u8])> {
    let space = |from: &[u8]| {
        from.iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count()
    };
    let mut at = space(rest);
    if rest.get(at) != Some(&b':') {
        return None;
    }
    at += 1;
    at += space(rest.get(at..)?);
    let value = rest.get(at..)?;
    if let Some(&quote @ (b'\'' | b'"')) = value.first() {
        let inner = value.get(1..)?;
        let end = inner.iter().position(|&byte| byte == quote)?;
        return Some((at + 1, inner.get(..end)?));
    }
    let ends = |&byte: &u8| byte.is_ascii_whitespace() || byte == b',';
    let end = value.iter().position(ends).unwrap_or(value.len());
    let value = value.get(..end)?;
    Some((at, value.strip_suffix(b"*/").unwrap_or(value)))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lexer::{Dialect, Kind, Lexer};

    fn hints(text: &str) -> (Hints, Option<String>) {
        let mut hints = Hints::default();
        for token in Lexer::new(text.as_bytes(), Dialect::default()) {
            if token.kind == Kind::Comment {
                hints.read(text.as_bytes(), token.start, token.end);
            }
        }
        let key = hints.sharding_key(text.as_bytes());
        let key = key.map(|key| String::from_utf8_lossy(key).into_owned());
        (hints, key)
    }

    #[test]
    fn hints_are_read_from_comments() {
        let (found, _) = hints("/* pgdog_role: replica */ SELECT 1");
        assert_eq!(found.role, Some(Role::Replica));
        let (found, _) = hints("SELECT 1 /*pgdog_role:PRIMARY*/");
        assert_eq!(found.role, Some(Role::Primary));
        let (found, _) = hints("/* app=x, pgdog_shard: 3, pgdog_role : primary */ SELECT 1");
        assert_eq!((found.shard, found.role), (Some(3), Some(Role::Primary)));
        for text in [
            "/* pgdog_sharding_key: 47-11 */ SELECT 1",
            "/*pgdog_sharding_key:47-11*/ SELECT 1",
            "SELECT 1 /* pgdog_sharding_key: '47-11' */",
        ] {
            let (found, key) = hints(text);
            assert_eq!(key.as_deref(), Some("47-11"), "{text}");
            assert_eq!(found.invalid, None);
        }
        let (_, key) = hints("/* pgdog_sharding_key: \"new york\" */ SELECT 1");
        assert_eq!(key.as_deref(), Some("new york"));
    }

    #[test]
    fn text_that_looks_like_a_hint_is_none() {
        for text in [
            "SELECT '/* pgdog_shard: 1 */'",
            "SELECT $$ /* pgdog_role: replica */ $$",
            "SELECT \"/* pgdog_role: replica */\"",
            "SELECT E'\\'/* pgdog_role: replica */'",
            "-- pgdog_role: replica\nSELECT 1",
            "/* my_pgdog_role: replica */ SELECT 1",
            "/* pgdog_role replica */ SELECT 1",
            "/* pgdog_unknown: 1 */ SELECT 1",
        ] {
            assert_eq!(hints(text).0, Hints::default(), "{text}");
        }
    }

    #[test]
    fn a_hint_without_a_proper_value_is_named() {
        for (text, name) in [
            ("/* pgdog_role: any */ SELECT 1", "pgdog_role"),
            ("/* pgdog_shard: -1 */ SELECT 1", "pgdog_shard"),
            ("/* pgdog_shard: 99999999999 */ SELECT 1", "pgdog_shard"),
            ("/* pgdog_sharding_key: */ SELECT 1", "pgdog_sharding_key"),
        ] {
            assert_eq!(hints(text).0.invalid, Some(name), "{text}");
        }
    }
}
