//! CommandComplete of all legs together.

use super::plan::Completion;
use crate::error::{Error, Fault};
use crate::protocol::backend::CommandComplete;
use crate::protocol::sqlstate::SqlState;

/// The tag that the client gets for those of the legs, of whom it got `rows` rows.
///
/// Errors: XX001 when copies of an omnisharded table turn out to differ, XX000 when the legs did different things.
pub fn tag<'a>(
    completion: Completion,
    rows: u64,
    mut tags: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, Error> {
    let first = CommandComplete {
        tag: tags.next().unwrap_or_default(),
    };
    let (command, count) = first.split();
    match (completion, count) {
        (Completion::Selected, Some(_)) if command == b"SELECT" => {
            Ok([b"SELECT ", rows.to_string().as_bytes()].concat())
        }
        (Completion::Inserted, Some(count)) if command == b"SELECT" => {
            Ok([b"INSERT 0 ", count.to_string().as_bytes()].concat())
        }
        (Completion::Moved, Some(1)) if command == b"INSERT 0" => Ok(b"UPDATE 1".to_vec()),
        (Completion::Moved, _) => Err(Error::error(
            Fault::Server,
            SqlState::INTERNAL_ERROR,
            "the shard that a row moves to did not store it",
        )),
        (Completion::Added, Some(count)) => {
            let mut total = count;
            for tag in tags {
                let (other, count) = CommandComplete { tag }.split();
                let (Some(count), true) = (count, other == command) else {
                    return Err(different(first.tag, tag, SqlState::INTERNAL_ERROR));
                };
                total = total.saturating_add(count);
            }
            Ok([command, b" ", total.to_string().as_bytes()].concat())
        }
        _ => {
            let code = match count {
                Some(_) => SqlState::DATA_CORRUPTED,
                None => SqlState::INTERNAL_ERROR,
            };
            match tags.find(|tag| *tag != first.tag) {
                Some(other) => Err(different(first.tag, other, code)),
                None => Ok(first.tag.to_vec()),
            }
        }
    }
}

fn different(first: &[u8], other: &[u8], code: SqlState) -> Error {
    let detail = format!(
        "{} and {}",
        String::from_utf8_lossy(first),
        String::from_utf8_lossy(other)
    );
    Error::error(
        Fault::Server,
        code,
        "shards disagree on what the statement did",
    )
    .detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_added_compared_or_made() {
        let check = |completion, tags: &[&str], expected: Result<&str, &str>| {
            let found = tag(completion, 7, tags.iter().map(|tag| tag.as_bytes()));
            let found = found
                .map(|tag| String::from_utf8(tag).unwrap())
                .map_err(|error| error.code);
            assert_eq!(
                found.as_deref().map_err(SqlState::as_str),
                expected,
                "{tags:?}"
            );
        };
        check(
            Completion::Selected,
            &["SELECT 1", "SELECT 2"],
            Ok("SELECT 7"),
        );
        check(Completion::Selected, &["SHOW", "SHOW"], Ok("SHOW"));
        check(
            Completion::Added,
            &["INSERT 0 1", "INSERT 0 2"],
            Ok("INSERT 0 3"),
        );
        check(
            Completion::Added,
            &["UPDATE 0", "UPDATE 0", "UPDATE 1"],
            Ok("UPDATE 1"),
        );
        check(
            Completion::Added,
            &["TRUNCATE TABLE", "TRUNCATE TABLE"],
            Ok("TRUNCATE TABLE"),
        );
        check(Completion::Added, &["UPDATE 1", "DELETE 1"], Err("XX000"));
        check(Completion::Moved, &["INSERT 0 1"], Ok("UPDATE 1"));
        check(Completion::Moved, &["INSERT 0 0"], Err("XX000"));
        check(Completion::Inserted, &["SELECT 3"], Ok("INSERT 0 3"));
        check(Completion::Same, &["UPDATE 3", "UPDATE 3"], Ok("UPDATE 3"));
        check(Completion::Same, &["UPDATE 3", "UPDATE 2"], Err("XX001"));
        check(
            Completion::Same,
            &["CREATE TABLE", "DROP TABLE"],
            Err("XX000"),
        );
    }
}
