//! One row of a leg: where its values are, and how it is written without hidden columns.

use crate::protocol::backend::tag;
use crate::protocol::rows::DataRow;
use crate::protocol::wire::Malformed;

/// Places of a row's values; kept from row to row so that walking one allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Option<(u32, u32)>>);

/// A row whose values have been found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    body: &'a [u8],
    places: &'a [Option<(u32, u32)>],
}

impl Places {
    /// Finds the values of a DataRow.
    ///
    /// Errors: other than `count` values, or a row that is not of its layout.
    pub(super) fn find<'a>(
        &'a mut self,
        body: &'a [u8],
        count: usize,
    ) -> Result<Row<'a>, Malformed> {
        self.0.clear();
        let row = DataRow::parse(body)?;
        let mut at = 2u32;
        for value in row.values() {
            at += 4;
            let place = value?.map(|value| (at, u32::try_from(value.len()).unwrap_or(u32::MAX)));
            at += place.map_or(0, |(_, length)| length);
            self.0.push(place);
        }
        if self.0.len() != count {
            return Err(Malformed { message: "DataRow" });
        }
        Ok(Row {
            body,
            places: &self.0,
        })
    }
}

impl<'a> Row<'a> {
    /// A value, `None` for NULL. The index is below the number of columns.
    pub(super) fn value(&self, index: usize) -> Option<&'a [u8]> {
        let (at, length) = self.places.get(index).copied().flatten()?;
        let at = usize::try_from(at).ok()?;
        self.body.get(at..at + usize::try_from(length).ok()?)
    }

    /// Appends the first `visible` columns as a DataRow.
    pub(super) fn put(&self, visible: usize, out: &mut Vec<u8>) {
        if visible == self.places.len() {
            put_row(out, visible, self.body.get(2..).unwrap_or_default());
        } else {
            DataRow::encode(out, (0..visible).map(|index| self.value(index)));
        }
    }
}

fn put_row(out: &mut Vec<u8>, count: usize, values: &[u8]) {
    out.push(tag::DATA_ROW);
    let length = u32::try_from(values.len() + 6).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(values);
}
