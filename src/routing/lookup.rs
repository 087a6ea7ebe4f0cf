//! Keys that a query translates: what a server is asked for one, and what its answer says.

use std::fmt::Write;

use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;
pub use crate::sharding::lookup_failed as failed;
use crate::sharding::{Key, Lookup, Placement, ShardedColumn};
use crate::sql::fill_with;

/// The lookup query with this key in the place of `$1`, which has its type from there, as a parameter would.
pub fn question(lookup: &Lookup, key: &Key<'_>) -> String {
    let Some(text) = key.to_text() else {
        return fill_with(&lookup.query, "NULL");
    };
    // It may be anybody's text: as bytes, which are in the server's encoding, it means the same with every setting.
    let mut literal = String::with_capacity(text.len() * 4 + 3);
    literal.push_str("E'");
    for byte in text {
        // Writing to a String does not fail.
        let _ = write!(literal, "\\x{byte:02x}");
    }
    literal.push('\'');
    fill_with(&lookup.query, &literal)
}

/// Where the rows of a key are, by the answer to its question: the first column of its rows.
///
/// Errors: 22023 without a row or with NULL, 58000 for what says no shard.
pub fn answered<'c>(
    column: &'c ShardedColumn,
    rows: &[Option<Vec<u8>>],
) -> Result<Placement<'c>, Error> {
    match rows {
        [] => column.answered(None),
        [value] => column.answered(value.as_deref()),
        _ => Err(failed("it returned more than one row")),
    }
}

/// It took longer than `sharding_lookup_timeout`.
pub fn timed_out() -> Error {
    let text = "sharding key lookup timed out";
    Error::error(Fault::Proxy, SqlState::QUERY_CANCELED, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sharding::LookupAnswer;

    #[test]
    fn keys_are_written_so_that_nothing_gets_out() {
        let lookup = Lookup {
            query: "SELECT s FROM t WHERE k = $1 -- $1".to_owned(),
            answer: LookupAnswer::Shard,
        };
        for (key, written) in [
            (Key::Integer(-7), r"E'\x2d\x37'"),
            (Key::Text(b"a'\\".into()), r"E'\x61\x27\x5c'"),
            (Key::Text(b"".into()), "E''"),
            (Key::Null, "NULL"),
        ] {
            let expected = format!("SELECT s FROM t WHERE k = {written} -- $1");
            assert_eq!(question(&lookup, &key), expected);
        }
        let uuid = Key::Uuid([0xab; 16]);
        let text = Key::Text(b"abababab-abab-abab-abab-abababababab".as_slice().into());
        assert_eq!(question(&lookup, &uuid), question(&lookup, &text));
    }
}
