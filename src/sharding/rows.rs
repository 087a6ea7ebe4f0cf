//! Rows of COPY FROM to their shards.

use crate::error::{Error, Fault};
use crate::protocol::copy::{CopyFormat, CopyRows, Field, ForceNull, RowKind};
use crate::protocol::sqlstate::SqlState;

use super::key::{BadKey, Key, KeyType};
use super::schema::Width;
use super::tables::{Placement, ShardedColumn};

/// Most bytes of a row that spans messages: PostgreSQL's own limit of a value.
pub const ROW_BYTES_MAX: usize = 1 << 30;

/// What is known of the key of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Where it is among the columns of the COPY, from 0.
    pub position: usize,
    /// What CSV does to NULL there.
    pub force: ForceNull,
    /// Type of the column, 0 if that is unknown; only the binary format has use for it.
    pub type_oid: u32,
    /// Are texts of the data in the database's encoding?
    pub encoded_as_stored: bool,
    /// How long texts are in the column.
    pub width: Width,
}

/// Cuts the data of one COPY into rows, and says where each goes.
#[derive(Clone, Debug)]
pub struct CopyRouter {
    format: CopyFormat,
    rows: CopyRows,
    key: KeyColumn,
    /// The key of this row, without quotes and escapes.
    scratch: Vec<u8>,
}

/// Where a row goes.
#[derive(Clone, Debug, PartialEq)]
pub enum RowTarget {
    /// To every shard: headers, trailers.
    Every,
    /// To this shard.
    Shard(u32),
    /// To where the lookup query of the column puts this key.
    Ask {
        /// What is to be looked up.
        key: Key<'static>,
        /// The row's number from 1, for errors.
        row: u64,
    },
}

impl CopyRouter {
    /// For data of this format.
    pub fn new(format: CopyFormat, key: KeyColumn) -> Self {
        Self {
            rows: CopyRows::new(&format, ROW_BYTES_MAX),
            format,
            key,
            scratch: Vec::new(),
        }
    }

    /// The next row that ends within `input`, which is advanced behind it. `None`: all of it was taken.
    ///
    /// Errors: 22P04 for a malformed row or one whose key no rule takes, 22P02 for what is no key, 0A000 for a text in
    /// another encoding, 54000 for a row that is too long. Nothing can be sent after an error.
    pub fn next<'row, 'input: 'row>(
        &'row mut self,
        column: &ShardedColumn,
        input: &mut &'input [u8],
    ) -> Result<Option<(RowTarget, &'row [u8])>, Error> {
        let Some(row) = self.rows.next(input)? else {
            return Ok(None);
        };
        let target = target(row, &self.format, self.key, column, &mut self.scratch)?;
        Ok(Some((target, row.bytes)))
    }

    /// At CopyDone: the last row, if it has no terminator.
    pub fn finish(&mut self, column: &ShardedColumn) -> Result<Option<(RowTarget, &[u8])>, Error> {
        let Some(row) = self.rows.finish()? else {
            return Ok(None);
        };
        let target = target(row, &self.format, self.key, column, &mut self.scratch)?;
        Ok(Some((target, row.bytes)))
    }
}

fn target(
    row: crate::protocol::copy::Row<'_>,
    format: &CopyFormat,
    key_column: KeyColumn,
    column: &ShardedColumn,
    scratch: &mut Vec<u8>,
) -> Result<RowTarget, Error> {
    if row.kind != RowKind::Data {
        return Ok(RowTarget::Every);
    }
    let field = row.field(format, key_column.position, key_column.force, scratch)?;
    let in_row = |bad: BadKey| Error::from(bad).detail(format!("COPY row {}", row.number));
    let key = match (field, format) {
        (Field::Null, _) => Key::Null,
        (Field::Value(text), _)
            if column.key_type == KeyType::Varchar
                && !key_column.encoded_as_stored
                && !text.is_ascii() =>
        {
            return Err(in_row(BadKey::Unsupported("a text in another encoding")));
        }
        (Field::Value(bytes), CopyFormat::Binary) => column
            .key_type
            .binary(key_column.type_oid, bytes)
            .map_err(in_row)?,
        (Field::Value(text), _) => column.key_type.text(text).map_err(in_row)?,
    };
    let key = key.stored(key_column.width).map_err(in_row)?;
    match column.place(&key) {
        Placement::Shard(shard) => Ok(RowTarget::Shard(shard)),
        Placement::Ask(_) => Ok(RowTarget::Ask {
            key: key.into_owned(),
            row: row.number,
        }),
        Placement::Unmatched => Err(unplaced(row.number)),
    }
}

/// No rule takes the key of this row.
pub fn unplaced(row: u64) -> Error {
    let text = format!("bad COPY row {row}: no shard takes its sharding key");
    Error::error(Fault::Client, SqlState::BAD_COPY_FILE_FORMAT, text)
}

#[cfg(test)]
mod tests {
    use super::super::hash::Hasher;
    use super::super::tables::{Function, Lookup, LookupAnswer};
    use super::super::{Rule, RuleKey, Rules};
    use super::*;

    fn column(key_type: KeyType) -> ShardedColumn {
        ShardedColumn {
            schema: None,
            table: Some("t".to_owned()),
            column: "id".to_owned(),
            primary: false,
            key_type,
            function: Function::Hash(Hasher::Postgres),
            lookup: None,
            shards: 3,
        }
    }

    /// Even numbers on shard 0, others on 1.
    fn by_parity() -> ShardedColumn {
        let rule = |values: &[i64], shard| Rule {
            values: values.iter().copied().map(RuleKey::Integer).collect(),
            start: None,
            end: None,
            shard,
        };
        let rules = Rules::new(vec![rule(&[0, 2, 4], 0), rule(&[1, 3, 5], 1)]).unwrap();
        ShardedColumn {
            function: Function::Rules(rules),
            ..column(KeyType::Bigint)
        }
    }

    fn csv(header: bool) -> CopyFormat {
        CopyFormat::Csv {
            delimiter: b',',
            null: Vec::new(),
            header,
            quote: b'"',
            escape: b'"',
            end_marker: true,
        }
    }

    fn key(position: usize) -> KeyColumn {
        KeyColumn {
            position,
            force: ForceNull::Neither,
            type_oid: 0,
            encoded_as_stored: true,
            width: Width::Characters(3),
        }
    }

    /// Data to the bytes for each shard, cut by `size`.
    fn split(
        format: &CopyFormat,
        at: KeyColumn,
        column: &ShardedColumn,
        data: &[u8],
        size: usize,
    ) -> Result<[String; 3], Error> {
        let mut router = CopyRouter::new(format.clone(), at);
        let mut shards: [Vec<u8>; 3] = Default::default();
        let mut take = |target: RowTarget, bytes: &[u8]| match target {
            RowTarget::Every => shards.iter_mut().for_each(|out| out.extend(bytes)),
            RowTarget::Shard(shard) => shards[shard as usize].extend(bytes),
            RowTarget::Ask { key, .. } => panic!("{key:?}"),
        };
        for mut piece in data.chunks(size) {
            while let Some((target, bytes)) = router.next(column, &mut piece)? {
                take(target, bytes);
            }
        }
        if let Some((target, bytes)) = router.finish(column)? {
            take(target, bytes);
        }
        Ok(shards.map(|bytes| String::from_utf8(bytes).unwrap()))
    }

    #[test]
    fn each_row_goes_where_its_key_says() {
        let data = b"name,id\n\"a\n,\",1\nb,\"2\"\nc, 03\nd,4";
        for size in 1..data.len() {
            let found = split(&csv(true), key(1), &by_parity(), data, size).unwrap();
            let header = "name,id\n";
            let expected = [
                format!("{header}b,\"2\"\nd,4"),
                format!("{header}\"a\n,\",1\nc, 03\n"),
                header.to_owned(),
            ];
            assert_eq!(found, expected, "cut by {size}");
        }
    }

    #[test]
    fn null_is_on_the_first_shard_of_a_hash_and_nowhere_among_rules() {
        let null = b"x,\n";
        let found = split(&csv(false), key(1), &column(KeyType::Bigint), null, 9).unwrap();
        assert_eq!(found, ["x,\n", "", ""]);
        let error = split(&csv(false), key(1), &by_parity(), null, 9).unwrap_err();
        assert_eq!(error.code, SqlState::BAD_COPY_FILE_FORMAT);
        assert_eq!(
            error.message,
            "bad COPY row 1: no shard takes its sharding key"
        );
    }

    #[test]
    fn rows_without_a_key() {
        for (data, code) in [
            (&b"1,2\n1\n"[..], SqlState::BAD_COPY_FILE_FORMAT),
            (b"1,2\n1,x\n", SqlState::INVALID_TEXT_REPRESENTATION),
            (b"1,2\n1,1e3\n", SqlState::INVALID_TEXT_REPRESENTATION),
        ] {
            let error = split(&csv(false), key(1), &column(KeyType::Bigint), data, 3);
            assert_eq!(error.unwrap_err().code, code);
        }
    }

    #[test]
    fn texts_of_another_encoding_are_refused_unless_they_are_ascii() {
        let latin = KeyColumn {
            encoded_as_stored: false,
            ..key(0)
        };
        let texts = column(KeyType::Varchar);
        assert!(split(&csv(false), latin, &texts, b"abc\n", 9).is_ok());
        let cut = split(&csv(false), key(0), &texts, b"abc\nabc  \n", 20).unwrap();
        assert!(cut.contains(&"abc\nabc  \n".to_owned()), "{cut:?}");
        let error = split(&csv(false), latin, &texts, b"ab\xe9\n", 9).unwrap_err();
        assert_eq!(error.code, SqlState::FEATURE_NOT_SUPPORTED);
    }

    #[test]
    fn keys_that_must_be_looked_up_are_handed_out() {
        let mut asking = column(KeyType::Varchar);
        asking.lookup = Some(Lookup {
            query: "SELECT shard FROM tenants WHERE name = $1".to_owned(),
            answer: LookupAnswer::Shard,
        });
        let mut router = CopyRouter::new(csv(false), key(0));
        let mut input = &b"ab,1\n"[..];
        let (target, bytes) = router.next(&asking, &mut input).unwrap().unwrap();
        let key = Key::Text(b"ab".to_vec().into());
        assert_eq!(target, RowTarget::Ask { key, row: 1 });
        assert_eq!(bytes, b"ab,1\n");
    }
}
