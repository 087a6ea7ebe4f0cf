//! DECLARE and FETCH: what has to be known of a cursor over several shards.

use super::cursor::Cursor;
use super::lexer::{Dialect, Kind};

/// A DECLARE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared<'a> {
    /// The query whose rows it fetches.
    pub query: &'a [u8],
    /// Neither SCROLL nor BINARY: it may go forward only, and give text.
    pub is_plain: bool,
}

/// Divides a DECLARE; `None` if it is something else.
pub fn declared(text: &[u8], dialect: Dialect) -> Option<Declared<'_>> {
    let mut cursor = Cursor::new(text, dialect);
    if !cursor.eat_word("declare") {
        return None;
    }
    cursor.name()?;
    let mut is_plain = true;
    while !cursor.eat_word("cursor") {
        let says_nothing = cursor.eat_word("no") && cursor.eat_word("scroll")
            || cursor.eat_word("insensitive")
            || cursor.eat_word("asensitive");
        if !says_nothing {
            if !cursor.eat_word("scroll") && !cursor.eat_word("binary") {
                return None;
            }
            is_plain = false;
        }
    }
    if (cursor.eat_word("with") || cursor.eat_word("without")) && !cursor.eat_word("hold") {
        return None;
    }
    if !cursor.eat_word("for") {
        return None;
    }
    let start = cursor.peek()?.start;
    Some(Declared {
        query: text.get(start..)?,
        is_plain,
    })
}

/// How many rows a FETCH that goes forward wants, `Some(None)`: all. `None` for MOVE and any other direction.
pub fn fetched(text: &[u8], dialect: Dialect) -> Option<Option<u64>> {
    let mut cursor = Cursor::new(text, dialect);
    if !cursor.eat_word("fetch") {
        return None;
    }
    // What comes last is the name, whatever it is.
    let is_last = |cursor: &Cursor<'_>| cursor.after().at_end();
    let mut rows = Some(1);
    if !is_last(&cursor) && !cursor.eat_word("next") {
        cursor.eat_word("forward");
        if !is_last(&cursor) {
            if cursor.eat_word("all") {
                rows = None;
            } else if cursor.kind() == Some(Kind::Number) {
                let digits = std::str::from_utf8(cursor.bytes()).ok()?;
                // 0 gives the current row again.
                rows = Some(digits.parse().ok().filter(|rows| *rows > 0)?);
                cursor.advance();
            }
        }
    }
    if !is_last(&cursor) && !cursor.eat_word("from") && !cursor.eat_word("in") {
        return None;
    }
    cursor.name()?;
    cursor.at_end().then_some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declare_has_a_query() {
        let check = |text: &'static str, expected: Option<(&str, bool)>| {
            let found = declared(text.as_bytes(), Dialect::default());
            let found = found.map(|found| {
                let query = std::str::from_utf8(found.query).unwrap();
                (query, found.is_plain)
            });
            assert_eq!(found, expected, "{text}");
        };
        check("DECLARE c CURSOR FOR SELECT 1", Some(("SELECT 1", true)));
        check(
            "declare \"cursor\" /* for */ no scroll insensitive cursor without hold for\n(SELECT 'for')",
            Some(("(SELECT 'for')", true)),
        );
        check(
            "DECLARE c SCROLL CURSOR FOR SELECT 1",
            Some(("SELECT 1", false)),
        );
        check(
            "DECLARE c BINARY CURSOR WITH HOLD FOR VALUES (1)",
            Some(("VALUES (1)", false)),
        );
        check("SELECT 1", None);
        check("DECLARE c CURSOR", None);
    }

    #[test]
    fn a_fetch_says_how_many_rows() {
        let check = |text: &str, expected: Option<Option<u64>>| {
            assert_eq!(
                fetched(text.as_bytes(), Dialect::default()),
                expected,
                "{text}"
            );
        };
        for text in [
            "FETCH c",
            "fetch from c",
            "FETCH NEXT FROM c",
            "FETCH next",
            "FETCH FORWARD c",
            "FETCH forward in c",
            "FETCH NEXT c",
        ] {
            check(text, Some(Some(1)));
        }
        for text in ["FETCH 7 c", "FETCH 7 FROM c", "FETCH FORWARD 7 IN \"c\""] {
            check(text, Some(Some(7)));
        }
        for text in [
            "FETCH ALL c",
            "FETCH ALL FROM c",
            "FETCH FORWARD ALL FROM c",
        ] {
            check(text, Some(None));
        }
        for text in [
            "MOVE 7 FROM c",
            "FETCH 0 c",
            "FETCH -1 c",
            "FETCH PRIOR FROM c",
            "FETCH FIRST c",
            "FETCH BACKWARD ALL c",
            "FETCH ABSOLUTE 7 FROM c",
            "FETCH RELATIVE 1 FROM c",
            "FETCH LAST FROM c",
            "FETCH 1 2 c",
        ] {
            check(text, None);
        }
    }
}
