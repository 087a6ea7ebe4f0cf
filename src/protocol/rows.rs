//! Messages that carry or describe values: RowDescription, DataRow, ParameterDescription, Copy…Response.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use super::backend::tag;
use super::wire::{
    put_counted, put_formats, put_message, put_oids, put_text, put_value, FormatCodes, Malformed,
    Reader, TypeOids,
};

/// The columns of the rows that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowDescription<'a> {
    count: u16,
    fields: &'a [u8],
}

/// One column of a [`RowDescription`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Name of the column, in the client's encoding.
    pub name: &'a [u8],
    /// OID of the table it comes from, or 0.
    pub table_oid: u32,
    /// Its number in that table from 1, or 0.
    pub column: i16,
    /// OID of its type.
    pub type_oid: u32,
    /// Size of the type in bytes; negative for variable size.
    pub type_bytes: i16,
    /// Type modifier, -1 for none.
    pub type_modifier: i32,
    /// Format code of its values. Always text in the description of a statement not yet bound.
    pub format: i16,
}

impl<'a> RowDescription<'a> {
    /// A view of a message's body. Fields are checked when walked.
    ///
    /// Errors: a body without a count.
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "RowDescription");
        Ok(Self {
            count: reader.u16()?,
            fields: reader.rest(),
        })
    }

    /// Number of columns.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Has it no columns?
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The columns in order. Ends after the first error: a field cut short, or bytes behind the last.
    pub fn fields(&self) -> impl Iterator<Item = Result<Field<'a>, Malformed>> + Clone + 'a {
        items(self.count, self.fields, "RowDescription", Field::read)
    }

    /// Appends a RowDescription.
    ///
    /// Panics above 65,535 fields; PostgreSQL has at most 1,664.
    pub fn encode<'f>(out: &mut Vec<u8>, fields: impl IntoIterator<Item = Field<'f>>) {
        put_message(out, tag::ROW_DESCRIPTION, |out| {
            put_counted(out, fields, |out, field| field.put(out));
        });
    }
}

impl<'a> Field<'a> {
    /// A column of text that comes from no table, as in the answers of the admin database.
    pub const fn text(name: &'a [u8]) -> Self {
        const TEXT_OID: u32 = 25;
        Self {
            name,
            table_oid: 0,
            column: 0,
            type_oid: TEXT_OID,
            type_bytes: -1,
            type_modifier: -1,
            format: 0,
        }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            name: reader.text()?,
            table_oid: reader.u32()?,
            column: reader.i16()?,
            type_oid: reader.u32()?,
            type_bytes: reader.i16()?,
            type_modifier: reader.i32()?,
            format: reader.i16()?,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_text(out, self.name);
        out.extend_from_slice(&self.table_oid.to_be_bytes());
        out.extend_from_slice(&self.column.to_be_bytes());
        out.extend_from_slice(&self.type_oid.to_be_bytes());
        out.extend_from_slice(&self.type_bytes.to_be_bytes());
        out.extend_from_slice(&self.type_modifier.to_be_bytes());
        out.extend_from_slice(&self.format.to_be_bytes());
    }
}

/// One row of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRow<'a> {
    count: u16,
    values: &'a [u8],
}

impl<'a> DataRow<'a> {
    /// A view of a message's body. Values are checked when walked.
    ///
    /// Errors: a body without a count.
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "DataRow");
        Ok(Self {
            count: reader.u16()?,
            values: reader.rest(),
        })
    }

    /// Number of values.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Has it no values?
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values in order, `None` for NULL. Ends after the first error: a value cut short, or bytes behind
    /// the last.
    #[inline]
    pub fn values(&self) -> impl Iterator<Item = Result<Option<&'a [u8]>, Malformed>> + Clone + 'a {
        items(self.count, self.values, "DataRow", |reader| reader.value())
    }

    /// Appends a DataRow.
    ///
    /// Panics above 65,535 values; PostgreSQL has at most 1,664.
    #[inline]
    pub fn encode<'v>(out: &mut Vec<u8>, values: impl IntoIterator<Item = Option<&'v [u8]>>) {
        put_message(out, tag::DATA_ROW, |out| {
            put_counted(out, values, put_value);
        });
    }
}

/// Types of a prepared statement's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterDescription<'a> {
    /// OIDs of `$1`, `$2` and so on.
    pub types: TypeOids<'a>,
}

impl<'a> ParameterDescription<'a> {
    /// A view of a message's body.
    ///
    /// Errors: a list cut short or followed by bytes.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "ParameterDescription");
        let types = TypeOids::read(&mut reader)?;
        reader.finish()?;
        Ok(Self { types })
    }

    /// Appends a ParameterDescription.
    ///
    /// Panics above 65,535 types, which is PostgreSQL's limit.
    pub fn encode(out: &mut Vec<u8>, types: impl IntoIterator<Item = u32>) {
        put_message(out, tag::PARAMETER_DESCRIPTION, |out| put_oids(out, types));
    }
}

/// Formats of the rows to be copied: CopyInResponse, CopyOutResponse, CopyBothResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyResponse<'a> {
    /// Of the rows as a whole: 0 text or CSV, 1 binary.
    pub format: u8,
    /// Of each column.
    pub columns: FormatCodes<'a>,
}

impl<'a> CopyResponse<'a> {
    /// A view of a message's body.
    ///
    /// Errors: a list cut short or followed by bytes.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, "CopyResponse");
        let format = reader.u8()?;
        let columns = FormatCodes::read(&mut reader)?;
        reader.finish()?;
        Ok(Self { format, columns })
    }

    /// Appends the message `tag`, one of [`tag::COPY_IN_RESPONSE`], [`tag::COPY_OUT_RESPONSE`] and
    /// [`tag::COPY_BOTH_RESPONSE`].
    ///
    /// Panics above 65,535 columns; PostgreSQL has at most 1,600.
    pub fn encode(out: &mut Vec<u8>, tag: u8, format: u8, columns: impl IntoIterator<Item = i16>) {
        debug_assert!(matches!(
            tag,
            tag::COPY_IN_RESPONSE | tag::COPY_OUT_RESPONSE | tag::COPY_BOTH_RESPONSE
        ));
        put_message(out, tag, |out| {
            out.push(format);
            put_formats(out, columns);
        });
    }
}

/// Walks `count` items of `bytes`; an error ends the walk, and so do bytes behind the last item.
#[inline]
pub(super) fn items<'a, T>(
    count: u16,
    bytes: &'a [u8],
    message: &'static str,
    read: impl Fn(&mut Reader<'a>) -> Result<T, Malformed> + Clone + 'a,
) -> impl Iterator<Item = Result<T, Malformed>> + Clone + 'a {
    let mut reader = Reader::new(bytes, message);
    let mut left = Some(count);
    std::iter::from_fn(move || {
        let Some(more) = left?.checked_sub(1) else {
            left = None;
            return reader.finish().err().map(Err);
        };
        let item = read(&mut reader);
        left = item.is_ok().then_some(more);
        Some(item)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_values_and_stops_at_the_first_lie() {
        let check = |body: &'static [u8], expected: &[Result<Option<&[u8]>, ()>]| {
            let row = DataRow::parse(body).unwrap();
            let found: Vec<_> = row.values().map(|v| v.map_err(|_| ())).collect();
            assert_eq!(found, expected, "{}", body.escape_ascii());
        };
        check(b"\0\0", &[]);
        check(b"\0\x01\xff\xff\xff\xff", &[Ok(None)]);
        check(
            b"\0\x02\0\0\0\x01a\0\0\0\0",
            &[Ok(Some(b"a")), Ok(Some(b""))],
        );
        check(b"\0\x02\0\0\0\x01a", &[Ok(Some(b"a")), Err(())]);
        check(b"\0\x02\0\0\0\x09a\0\0\0\0", &[Err(())]);
        check(b"\0\x01\0\0\0\x01ab", &[Ok(Some(b"a")), Err(())]);
        check(b"\0\0x", &[Err(())]);
        assert!(DataRow::parse(b"\0").is_err());
    }

    #[test]
    fn a_text_column_looks_as_postgresql_describes_one() {
        let mut out = Vec::new();
        RowDescription::encode(&mut out, [Field::text(b"name")]);
        assert_eq!(
            out,
            b"T\0\0\0\x1d\0\x01name\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"
        );
    }
}
