//! An INSERT whose rows are on several shards, divided: each shard gets a statement with its own.

use std::sync::Arc;

use super::values::is_open;
use crate::error::{Error, Fault};
use crate::merge::refused;
use crate::protocol::sqlstate::SqlState;
use crate::sql::insert_rows::{InsertPart, InsertRows};
use crate::sql::lexer::Dialect;

/// Statements for the shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// The shards, in order.
    pub shards: Vec<usize>,
    /// What each of them is told.
    pub parts: Vec<InsertPart>,
    /// For each row of the whole statement, which of `shards` has it.
    pub turns: Arc<[usize]>,
}

/// Parameters of a prepared statement.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    /// Their types as Parse has declared them, 0 for an open one; there may be fewer.
    pub types: &'a [u32],
    /// How many values Bind has.
    pub count: usize,
    /// The statement's name.
    pub statement: &'a [u8],
}

/// Divides the text of one INSERT, whose rows go to these shards. `parameters`: none in the simple protocol.
///
/// Errors: 0A000 for a text that cannot be divided; 08P01 for a number of values that PostgreSQL would refuse.
pub fn divide(
    text: &[u8],
    dialect: Dialect,
    rows: &[u32],
    parameters: Option<Parameters<'_>>,
) -> Result<Division, Error> {
    let unknown = || refused("this form of a multi-row INSERT");
    let found = InsertRows::find(text, dialect).filter(|found| found.count() == rows.len());
    let found = found.ok_or_else(unknown)?;
    if let Some(parameters) = parameters {
        let usage = found.parameters(text, dialect);
        let needed = parameters.types.len().max(usage.highest.into());
        if needed != parameters.count {
            let text = format!(
                "bind message supplies {} parameters, but prepared statement \"{}\" requires {needed}",
                parameters.count,
                String::from_utf8_lossy(parameters.statement),
            );
            return Err(Error::error(
                Fault::Client,
                SqlState::PROTOCOL_VIOLATION,
                text,
            ));
        }
        // What PostgreSQL makes of an open type depends on where it stands first, which parts may not have.
        let open = |number: &&u16| is_open(parameters.types, usize::from(**number));
        if let Some(number) = usage.ambiguous.iter().find(open) {
            let what =
                format!("parameter ${number} of no declared type at several places of an INSERT");
            return Err(refused(&what));
        }
    }
    let mut shards: Vec<usize> = rows.iter().map(|shard| *shard as usize).collect();
    shards.sort_unstable();
    shards.dedup();
    let turns = rows
        .iter()
        .filter_map(|shard| shards.binary_search(&(*shard as usize)).ok())
        .collect();
    let part = |shard: &usize| {
        let keep = |row: usize| rows.get(row).is_some_and(|of| *of as usize == *shard);
        found.part(text, dialect, keep)
    };
    let parts: Option<Vec<_>> = shards.iter().map(part).collect();
    Ok(Division {
        parts: parts.ok_or_else(unknown)?,
        shards,
        turns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, rows: &[u32], types: &[u32], count: usize) -> Result<Vec<String>, String> {
        let parameters = Parameters {
            types,
            count,
            statement: b"s",
        };
        let divided = divide(text.as_bytes(), Dialect::default(), rows, Some(parameters));
        let texts = |parts: Vec<InsertPart>| {
            let texts = parts.into_iter();
            texts
                .map(|part| String::from_utf8(part.text).unwrap())
                .collect()
        };
        divided
            .map(|division| texts(division.parts))
            .map_err(|error| error.message.into_owned())
    }

    #[test]
    fn each_shard_gets_its_rows_and_each_row_its_turn() {
        let text = b"INSERT INTO t VALUES (1), (2), (3), (4) RETURNING *";
        let division = divide(text, Dialect::default(), &[2, 0, 2, 0], None).unwrap();
        assert_eq!(division.shards, [0, 2]);
        assert_eq!(*division.turns, [1, 0, 1, 0]);
        let texts: Vec<_> = division.parts.iter().map(|part| &*part.text).collect();
        let expected = [
            &b"INSERT INTO t VALUES (2), (4) RETURNING *"[..],
            b"INSERT INTO t VALUES (1), (3) RETURNING *",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn parameters_of_open_type_stand_at_one_place_or_at_the_same_of_each_row() {
        for (text, types, fits) in [
            ("INSERT INTO t VALUES ($1, $2), ($3, $4)", &[][..], true),
            (
                "INSERT INTO t VALUES ($1, $4), ($2, $4), ($3, 5)",
                &[],
                true,
            ),
            ("INSERT INTO t VALUES ($1, $3), ($2, $3 + 1)", &[], false),
            (
                "INSERT INTO t VALUES ($1, $3), ($2, $3 + 1)",
                &[20, 20, 20],
                true,
            ),
            ("INSERT INTO t VALUES ($1, $1), ($1, 5)", &[], false),
            ("INSERT INTO t VALUES ($1, $1), ($2, 5)", &[], true),
            (
                "INSERT INTO t VALUES ($1, $3), ($2, 1) ON CONFLICT (a) DO UPDATE SET b = $3",
                &[20],
                false,
            ),
            (
                "INSERT INTO t VALUES ($1, 1), ($2, 1) ON CONFLICT (a) DO UPDATE SET b = $3 + $3",
                &[],
                true,
            ),
            ("INSERT INTO t VALUES ($1, $2), ($3, $2)", &[20, 705], true),
        ] {
            let rows: Vec<u32> = (0..u32::try_from(text.matches('(').count()).unwrap()).collect();
            let rows = rows.get(
                ..InsertRows::find(text.as_bytes(), Dialect::default())
                    .unwrap()
                    .count(),
            );
            let highest = (1..9).rfind(|number| text.contains(&format!("${number}")));
            let found = split(text, rows.unwrap(), types, highest.unwrap());
            assert_eq!(found.is_ok(), fits, "{text}: {found:?}");
        }
    }

    #[test]
    fn the_number_of_values_must_be_that_of_parameters() {
        let text = "INSERT INTO t VALUES ($1), ($2)";
        for (types, count, fits) in [
            (&[][..], 2, true),
            (&[], 1, false),
            (&[], 3, false),
            (&[20, 20, 20], 3, true),
        ] {
            let found = split(text, &[0, 1], types, count);
            assert_eq!(found.is_ok(), fits, "{found:?}");
        }
        let message = split(text, &[0, 1], &[], 1).unwrap_err();
        assert_eq!(
            message,
            "bind message supplies 1 parameters, but prepared statement \"s\" requires 2"
        );
    }
}
