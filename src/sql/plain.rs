//! Proof that a text is one plain query, without reading its tokens.
//!
//! Most texts are. What could make a query more than plain needs an opening parenthesis behind a name (a call),
//! a semicolon with something behind it, the words TEMP and UNLOGGED, `pg_settings`, or a name with escapes. Wherever these stand, be it within strings or
//! comments, each is looked at; so it does not matter where strings and comments begin and end, nor what
//! settings say about it. In doubt there is no proof, and `statements` decides.

use memchr::{memchr2_iter, memchr3_iter, memchr_iter};

use super::keyword::Keyword as K;

const SETTINGS: &[u8] = b"pg_settings";
const UNLOGGED: &[u8] = b"unlogged";

/// The first word of a text that is a single SELECT, INSERT, UPDATE, DELETE, WITH or VALUES without effect on the
/// session, and without a call of a function that we do not know; or is no valid SQL.
pub(super) fn verb(text: &[u8]) -> Option<K> {
    let start = text.iter().position(|&b| !is_space(b))?;
    let first = text.get(start..)?;
    let end = first.iter().position(|&b| !is_word(b));
    let verb = K::find(first.get(..end.unwrap_or(first.len()))?);
    if !matches!(
        verb,
        K::Select | K::Insert | K::Update | K::Delete | K::With | K::Values
    ) {
        return None;
    }
    for at in memchr2_iter(b'p', b'P', text) {
        let word = text.get(at.saturating_sub(3)..=at)?;
        let view = text.get(at..at + SETTINGS.len()).unwrap_or_default();
        if word.eq_ignore_ascii_case(b"temp") || view.eq_ignore_ascii_case(SETTINGS) {
            return None;
        }
    }
    // SELECT INTO makes a table: looked for by its first rare letter.
    let is_unlogged = |at: usize| {
        let word = text.get(at.saturating_sub(4)..).unwrap_or_default();
        let word = word.get(..UNLOGGED.len()).unwrap_or_default();
        word.eq_ignore_ascii_case(UNLOGGED)
    };
    if matches!(verb, K::Select | K::With) && memchr2_iter(b'g', b'G', text).any(is_unlogged) {
        return None;
    }
    // A name with escapes may be any.
    if memchr_iter(b'&', text).any(|at| text.get(at + 1) == Some(&b'"')) {
        return None;
    }
    let mut line_comment = false;
    for at in memchr3_iter(b'(', b';', b'-', text) {
        let (before, from) = text.split_at_checked(at)?;
        match from {
            [b'(', ..] if line_comment || !is_harmless(before) => return None,
            [b';', rest @ ..] => {
                return rest.iter().all(|&b| is_space(b)).then_some(verb);
            }
            [b'-', b'-', ..] => line_comment = true,
            _ => {}
        }
    }
    Some(verb)
}

/// Is what stands before a parenthesis no name, a harmless word, or the name of a table before its columns?
fn is_harmless(before: &[u8]) -> bool {
    let (before, word) = last_word(before);
    let word = match word {
        Last::Nothing => return true,
        Last::Doubt => return false,
        Last::Word(word) => K::find(word),
        Last::Quoted(word) => {
            let found = K::find(word);
            if found.is_name() {
                return false;
            }
            K::Unknown
        }
    };
    if word != K::Unknown {
        return !word.is_name();
    }
    match before.last() {
        Some(b'.') => false,
        _ => match last_word(before).1 {
            Last::Word(word) => matches!(K::find(word), K::Into | K::As | K::With),
            _ => false,
        },
    }
}

enum Last<'a> {
    /// No name: an operator, a comma, the end of a string.
    Nothing,
    Word(&'a [u8]),
    /// What stands between double quotes.
    Quoted(&'a [u8]),
    /// The end of a comment, a number, or of a name that is hard to read.
    Doubt,
}

/// The name or word at the end of a text, and what stands before it.
fn last_word(text: &[u8]) -> (&[u8], Last<'_>) {
    let solid = text
        .iter()
        .rposition(|&b| !is_space(b))
        .map_or(0, |at| at + 1);
    let text = text.get(..solid).unwrap_or_default();
    match text.last() {
        None => (text, Last::Nothing),
        Some(b'/') => (text, Last::Doubt),
        Some(b'"') => {
            let inner = text.get(..text.len() - 1).unwrap_or_default();
            let start = inner.iter().rposition(|&b| !is_word(b));
            match start.and_then(|at| inner.split_at_checked(at)) {
                Some((before, [b'"', word @ ..]))
                    if !matches!(before.last(), Some(b'&' | b'"')) =>
                {
                    (before, Last::Quoted(word))
                }
                _ => (text, Last::Doubt),
            }
        }
        Some(&last) if is_word(last) => {
            let start = text
                .iter()
                .rposition(|&b| !is_word(b))
                .map_or(0, |at| at + 1);
            let (before, word) = text.split_at_checked(start).unwrap_or_default();
            match word.first() {
                // Where a number, or that of a parameter, ends and a name begins depends on the server's version.
                Some(b'0'..=b'9' | b'$') => (text, Last::Doubt),
                _ => (before, Last::Word(word)),
            }
        }
        Some(_) => (text, Last::Nothing),
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql::lexer::Dialect;
    use crate::sql::statements::{Statements, Traits};

    #[test]
    fn plain_queries_are_proven_plain() {
        for text in [
            "SELECT abalance FROM pgbench_accounts WHERE aid = 1;",
            "\n  select 1\n",
            "INSERT INTO pgbench_history (tid, bid) VALUES (1, -2)",
            "INSERT INTO \"users\" (\"name\", \"e;mail\") VALUES ($1, $2) RETURNING \"id\"; ",
            "SELECT count(*), max ( x ) FROM t WHERE a IN (1, 2) AND (b OR c) -- x",
            "/* app */ SELECT 1",
            "WITH a AS (SELECT 1) SELECT * FROM a",
        ] {
            let comment = text.starts_with('/') || text.contains("e;mail");
            assert_eq!(verb(text.as_bytes()).is_none(), comment, "{text}");
        }
    }

    #[test]
    fn in_doubt_nothing_is_proven() {
        for text in [
            "",
            "BEGIN",
            "SELECT 1; SELECT 2",
            "SELECT f(1)",
            "SELECT s.now2(1)",
            "SELECT set_config ('a', 'b', false)",
            "SELECT \"set_config\"('a', 'b', false)",
            "SELECT U&\"set\\005fconfig\"('a', 'b', false)",
            "SELECT set_config/* count */('a', 'b', false)",
            "SELECT set_config -- count\n('a', 'b', false)",
            "SELECT \"f\" (1)",
            "SELECT \"a\"\"f\" (1)",
            "SELECT 1 INTO Temp t",
            "SELECT \"into\" f(1)",
            "UPDATE pg_catalog.PG_SETTINGS SET setting = 1",
            "WITH a AS (UPDATE \"pg_settings\" SET setting = 1 RETURNING 1) SELECT 1",
            "WITH 1countINTO(",
            "WITH $1nextval(",
        ] {
            assert_eq!(verb(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        /// What is proven plain is plain to the lexer, too; or it ends within a token, and no server takes it.
        #[test]
        fn the_proof_agrees_with_the_lexer(
            words in prop::collection::vec(prop::sample::select(vec![
                "set_config", "\"set_config\"", "count", "f", "now", "(", "(", "(", ")", ")", "'a'", "'", "\"",
                "E'\\'", "--", "\n", "/*", "*/", "$$", "$1", ",", ".", ";", "INTO", "TEMP", "temp", "pg_temp", "AS",
                "U&\"f\"", "nextval", "pg_advisory_lock", "pg_settings", "UPDATE", "ONLY", "pg_temp_3", "values", "x", "1", "\\", "é",
            ]), 0..12),
            verb_word in prop::sample::select(vec!["SELECT", "INSERT", "UPDATE", "with", " VALUES"]),
            space in prop::sample::select(vec!["", " "]),
        ) {
            let text = format!("{verb_word} {}", words.join(space));
            if let Some(proven) = verb(text.as_bytes()) {
                for bits in 0..4_u8 {
                    let dialect = Dialect { backslashes: bits & 1 != 0, overlapping: bits & 2 != 0 };
                    let found: Vec<_> = Statements::new(text.as_bytes(), dialect).collect();
                    prop_assert_eq!(found.len(), 1);
                    let first = found.first().unwrap();
                    prop_assert_eq!(first.verb, proven);
                    prop_assert_eq!(first.traits.without(Traits::MALFORMED), Traits::NONE, "{}", text);
                }
            }
        }

        #[test]
        fn any_bytes_are_looked_at_without_panic(data: Vec<u8>) {
            let text = [b"SELECT ".as_slice(), &data].concat();
            verb(&text);
        }
    }
}
