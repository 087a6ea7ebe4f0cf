//! Data of COPY, cut into rows: text, CSV and binary, wherever the messages were cut.
//!
//! [`CopyRows`] takes the contents of CopyData messages and gives rows back as they were received, terminator included,
//! so that they can be sent on without being written anew. A row within one message is a slice of it; only a row that
//! spans messages is copied. [`Row::field`] decodes one field of a row as the server will.
//!
//! Source: <https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS>

mod binary;
mod fields;
mod lines;
pub mod written;

use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;

use binary::{BinaryScan, Piece};
use lines::LineScan;

/// Format of the data and its options, defaults filled in.
///
/// Not for client encodings in which a byte of a longer character may look like ASCII (BIG5, GBK, GB18030, JOHAB,
/// SJIS, UHC): the caller refuses those for text and CSV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// `FORMAT text`.
    Text {
        /// `DELIMITER`, a tab unless given.
        delimiter: u8,
        /// `NULL`, `\N` unless given.
        null: Vec<u8>,
        /// `HEADER`, whether matched or not.
        header: bool,
    },
    /// `FORMAT csv`.
    Csv {
        /// `DELIMITER`, a comma unless given.
        delimiter: u8,
        /// `NULL`, nothing unless given.
        null: Vec<u8>,
        /// `HEADER`, whether matched or not.
        header: bool,
        /// `QUOTE`, a double quote unless given.
        quote: u8,
        /// `ESCAPE`, the quote unless given.
        escape: u8,
        /// Does `\.` on a line of its own end the data? So before PostgreSQL 18.
        end_marker: bool,
    },
    /// `FORMAT binary`.
    Binary,
}

impl CopyFormat {
    /// Is the first line one with the names of columns?
    pub fn has_names(&self) -> bool {
        matches!(
            self,
            Self::Text { header: true, .. } | Self::Csv { header: true, .. }
        )
    }
}

/// What CSV does to NULL in a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForceNull {
    /// The NULL string is NULL unless it is quoted.
    Neither,
    /// `FORCE_NOT_NULL`: it is a string.
    NotNull,
    /// `FORCE_NULL`: it is NULL even if it is quoted.
    Null,
}

/// Why data are no rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyError {
    /// A malformed row: its number from 1, the header's included, and what is wrong with it.
    Malformed {
        /// Which.
        row: u64,
        /// Why.
        reason: &'static str,
    },
    /// A row has more bytes than may be kept of it.
    TooLong {
        /// Which.
        row: u64,
        /// The limit.
        bytes_max: usize,
    },
}

impl From<CopyError> for Error {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Malformed { row, reason } => Self::error(
                Fault::Client,
                SqlState::BAD_COPY_FILE_FORMAT,
                format!("bad COPY row {row}: {reason}"),
            ),
            CopyError::TooLong { row, bytes_max } => Self::error(
                Fault::Client,
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("COPY row {row} has more than {bytes_max} bytes"),
            ),
        }
    }
}

/// What a piece of the data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// The line with names of columns, or the header of the binary format: for every receiver.
    Header,
    /// A row.
    Data,
    /// The trailer of the binary format: for every receiver.
    Trailer,
}

/// One row as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// What it is.
    pub kind: RowKind,
    /// All its bytes, with the terminator. Only the last row may lack one.
    pub bytes: &'a [u8],
    /// From 1; the header has one too.
    pub number: u64,
    /// Bytes of the terminator.
    terminator: usize,
}

/// A field of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// NULL.
    Null,
    /// Its text without quotes and escapes, or its bytes in binary format.
    Value(&'a [u8]),
}

/// Cuts data into rows.
#[derive(Clone, Debug)]
pub struct CopyRows {
    scan: Scan,
    /// The beginning of a row whose end has not come.
    carry: Vec<u8>,
    /// The carry was given out as a row.
    given: bool,
    /// Rows so far.
    count: u64,
    header: bool,
    row_bytes_max: usize,
}

#[derive(Clone, Debug)]
enum Scan {
    Lines(LineScan),
    Binary(BinaryScan),
    /// Behind the end marker, where the server ignores what comes.
    Ended,
    /// Behind the trailer, where nothing may come.
    Closed,
}

/// A carry that one long row has made larger than this is given back.
const CARRY_KEPT_BYTES: usize = 64 * 1024;

impl CopyRows {
    /// For data of this format; a row that spans messages may have `row_bytes_max` bytes.
    pub fn new(format: &CopyFormat, row_bytes_max: usize) -> Self {
        let (scan, header) = match format {
            CopyFormat::Text { header, .. } => (Scan::Lines(LineScan::text()), *header),
            CopyFormat::Csv {
                header,
                quote,
                escape,
                end_marker,
                ..
            } => {
                let scan = LineScan::csv(*quote, *escape, *end_marker);
                (Scan::Lines(scan), *header)
            }
            CopyFormat::Binary => (Scan::Binary(BinaryScan::default()), false),
        };
        Self {
            scan,
            carry: Vec::new(),
            given: false,
            count: 0,
            header,
            row_bytes_max,
        }
    }

    /// The next row that ends within `input`, which is advanced behind it. `None`: all of it was taken, the rest of the
    /// row is still to come.
    pub fn next<'row, 'input: 'row>(
        &'row mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<Row<'row>>, CopyError> {
        self.forget_given();
        if input.is_empty() {
            return Ok(None);
        }
        let number = self.count + 1;
        let malformed = |reason| CopyError::Malformed {
            row: number,
            reason,
        };
        let found = match &mut self.scan {
            Scan::Lines(lines) => {
                let end = lines.feed(input).map_err(malformed)?;
                end.map(|end| (end, RowKind::Data))
            }
            Scan::Binary(binary) => binary.feed(input).map(|(end, piece)| match piece {
                Piece::Header => (end, RowKind::Header),
                Piece::Tuple => (end, RowKind::Data),
                Piece::Trailer => (end, RowKind::Trailer),
            }),
            Scan::Ended => {
                self.skip_if_ended(input);
                return Ok(None);
            }
            Scan::Closed => return Err(malformed("data behind the trailer")),
        };
        let (end, kind) = found.unwrap_or((input.len(), RowKind::Data));
        let (part, rest) = input.split_at_checked(end).unwrap_or((input, &[]));
        *input = rest;
        if self.carry.len() + part.len() > self.row_bytes_max
            && (found.is_none() || !self.carry.is_empty())
        {
            return Err(CopyError::TooLong {
                row: number,
                bytes_max: self.row_bytes_max,
            });
        }
        if found.is_none() {
            self.carry.extend_from_slice(part);
            return Ok(None);
        }
        if self.carry.is_empty() {
            let row = self.row(part, kind)?;
            self.skip_if_ended(input);
            return Ok(row);
        }
        self.carry.extend_from_slice(part);
        self.given = true;
        // The carry is lent while the rest of `self` counts.
        let carry = std::mem::take(&mut self.carry);
        let outcome = self
            .row(&carry, kind)
            .map(|row| row.map(|row| (row.kind, row.number, row.terminator)));
        self.carry = carry;
        self.skip_if_ended(input);
        Ok(outcome?.map(|(kind, number, terminator)| Row {
            kind,
            bytes: &self.carry,
            number,
            terminator,
        }))
    }

    /// At CopyDone: the last row, if it has no terminator.
    pub fn finish(&mut self) -> Result<Option<Row<'_>>, CopyError> {
        self.forget_given();
        let number = self.count + 1;
        let malformed = |reason| CopyError::Malformed {
            row: number,
            reason,
        };
        let terminator = match &self.scan {
            Scan::Lines(lines) => lines.finish(&self.carry).map_err(malformed)?,
            Scan::Binary(binary) if binary.is_between_tuples() => 0,
            Scan::Binary(_) => return Err(malformed("unexpected end of data")),
            Scan::Ended | Scan::Closed => 0,
        };
        if self.carry.is_empty() {
            return Ok(None);
        }
        self.count = number;
        self.given = true;
        Ok(Some(Row {
            kind: self.kind(RowKind::Data),
            bytes: &self.carry,
            number,
            terminator,
        }))
    }

    /// Counts a whole row. `None`: it is the end marker.
    fn row<'a>(&mut self, bytes: &'a [u8], kind: RowKind) -> Result<Option<Row<'a>>, CopyError> {
        let number = self.count + 1;
        let malformed = |reason| CopyError::Malformed {
            row: number,
            reason,
        };
        let mut terminator = 0;
        match &mut self.scan {
            Scan::Lines(lines) => {
                terminator = lines.terminator();
                if lines.end_row(bytes).map_err(malformed)? {
                    self.scan = Scan::Ended;
                    return Ok(None);
                }
            }
            Scan::Binary(_) if kind == RowKind::Header => {
                binary::check_header(bytes).map_err(malformed)?;
            }
            Scan::Binary(_) if kind == RowKind::Trailer => self.scan = Scan::Closed,
            Scan::Binary(_) | Scan::Ended | Scan::Closed => {}
        }
        if kind == RowKind::Data {
            self.count = number;
        }
        Ok(Some(Row {
            kind: self.kind(kind),
            bytes,
            number,
            terminator,
        }))
    }

    /// The first line is the header, if there is one.
    fn kind(&self, kind: RowKind) -> RowKind {
        match kind {
            RowKind::Data if self.header && self.count == 1 => RowKind::Header,
            kind => kind,
        }
    }

    /// What is behind the end marker is nobody's.
    fn skip_if_ended(&self, input: &mut &[u8]) {
        if matches!(self.scan, Scan::Ended) {
            *input = &[];
        }
    }

    fn forget_given(&mut self) {
        if self.given {
            self.given = false;
            self.carry.clear();
            self.carry.shrink_to(CARRY_KEPT_BYTES);
        }
    }
}

impl<'a> Row<'a> {
    /// The row without its terminator.
    pub fn content(&self) -> &'a [u8] {
        let end = self.bytes.len().saturating_sub(self.terminator);
        self.bytes.get(..end).unwrap_or_default()
    }

    /// The field of this column, counted from 0. `scratch` takes a text that had quotes or escapes.
    ///
    /// Errors: there are fewer columns, or the row is malformed.
    pub fn field<'b>(
        &self,
        format: &CopyFormat,
        column: usize,
        force: ForceNull,
        scratch: &'b mut Vec<u8>,
    ) -> Result<Field<'b>, CopyError>
    where
        'a: 'b,
    {
        let field = match format {
            CopyFormat::Text {
                delimiter, null, ..
            } => fields::text(self.content(), *delimiter, null, column, scratch),
            CopyFormat::Csv {
                delimiter,
                null,
                quote,
                escape,
                ..
            } => {
                let syntax = fields::Csv {
                    delimiter: *delimiter,
                    quote: *quote,
                    escape: *escape,
                };
                fields::csv(self.content(), syntax, null, column, force, scratch)
            }
            CopyFormat::Binary => binary::field(self.bytes, column),
        };
        field.map_err(|reason| CopyError::Malformed {
            row: self.number,
            reason,
        })
    }
}

/// Fuzz target: however data are cut, the rows are the same and are the data; no field panics.
#[cfg(any(test, fuzzing))]
pub fn fuzz_copy(data: &[u8]) {
    let [choice, cut, data @ ..] = data else {
        return;
    };
    let format = match choice % 4 {
        0 => CopyFormat::Text {
            delimiter: b'\t',
            null: b"\\N".to_vec(),
            header: choice & 4 != 0,
        },
        1 => CopyFormat::Csv {
            delimiter: b',',
            null: Vec::new(),
            header: choice & 4 != 0,
            quote: b'"',
            escape: b'"',
            end_marker: choice & 8 != 0,
        },
        2 => CopyFormat::Csv {
            delimiter: b';',
            null: b"-".to_vec(),
            header: false,
            quote: b'\'',
            escape: b'\\',
            end_marker: true,
        },
        _ => CopyFormat::Binary,
    };
    let whole = splitting::rows(&format, [data]);
    let size = usize::from(*cut).max(1);
    assert_eq!(splitting::rows(&format, data.chunks(size)), whole);
    let bytes: Vec<u8> = whole
        .rows
        .iter()
        .flat_map(|(_, bytes, _)| bytes.clone())
        .collect();
    assert!(data.starts_with(&bytes));
}

/// Rows of data in pieces, for the fuzz target and the tests.
#[cfg(any(test, fuzzing))]
mod splitting {
    use super::{CopyError, CopyFormat, CopyRows, Field, ForceNull, Row, RowKind};

    pub(super) type Seen = (RowKind, Vec<u8>, Vec<Option<Vec<u8>>>);

    #[derive(Debug, PartialEq)]
    pub(super) struct Outcome {
        pub(super) rows: Vec<Seen>,
        pub(super) error: Option<CopyError>,
    }

    /// A row with its first four fields.
    fn seen(format: &CopyFormat, row: &Row<'_>) -> Seen {
        let field = |column| {
            let mut scratch = Vec::new();
            match row.field(format, column, ForceNull::Neither, &mut scratch) {
                Ok(Field::Null) => Some(None),
                Ok(Field::Value(value)) => Some(Some(value.to_vec())),
                Err(_) => None,
            }
        };
        let fields = match row.kind {
            RowKind::Data => (0..4).map_while(field).collect(),
            RowKind::Header | RowKind::Trailer => Vec::new(),
        };
        (row.kind, row.bytes.to_vec(), fields)
    }

    pub(super) fn rows<'a>(
        format: &CopyFormat,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Outcome {
        let mut splitter = CopyRows::new(format, 1 << 20);
        let mut rows = Vec::new();
        for mut piece in pieces {
            loop {
                match splitter.next(&mut piece) {
                    Ok(Some(row)) => rows.push(seen(format, &row)),
                    Ok(None) => {
                        assert!(piece.is_empty());
                        break;
                    }
                    Err(error) => {
                        let error = Some(error);
                        return Outcome { rows, error };
                    }
                }
            }
        }
        let error = match splitter.finish() {
            Ok(last) => {
                rows.extend(last.map(|row| seen(format, &row)));
                None
            }
            Err(error) => Some(error),
        };
        Outcome { rows, error }
    }
}

#[cfg(test)]
mod tests;
