//! COPY in binary format: a header, tuples of counted fields, a trailer.
//!
//! ```text
//! header   "PGCOPY\n\xff\r\n\0"  flags: i32  length of the extension: i32  extension
//! tuple    number of fields: i16  { length: i32 (-1 is NULL)  value }
//! trailer  -1: i16
//! ```

use super::Field;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Flags that a reader must know; the only one there ever was, OIDs, is gone since PostgreSQL 12.
const CRITICAL_FLAGS: u32 = 0xFFFF_0000;
const TRAILER: u32 = 0xFFFF;

/// What ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Header,
    Tuple,
    Trailer,
}

/// Looks for the end of a tuple, over as many pieces as it takes.
#[derive(Clone, Debug)]
pub(super) struct BinaryScan {
    expects: Expects,
    /// A number of which some bytes have come.
    number: u32,
    number_bytes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    /// Signature and flags, so many bytes more.
    Start(usize),
    ExtensionLength,
    Extension(usize),
    FieldCount,
    /// The length of the first of so many fields.
    Length(u32),
    /// So many bytes of a value, and so many fields behind it.
    Value(usize, u32),
}

impl Default for BinaryScan {
    fn default() -> Self {
        Self {
            expects: Expects::Start(SIGNATURE.len() + 4),
            number: 0,
            number_bytes: 0,
        }
    }
}

impl BinaryScan {
    /// How many bytes of this piece belong to what ends in it. `None`: all of them, and nothing does.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Option<(usize, Piece)> {
        let mut rest = piece;
        loop {
            let ended = match self.expects {
                Expects::Start(bytes) => {
                    let left = skip(&mut rest, bytes);
                    self.expects = match left {
                        0 => Expects::ExtensionLength,
                        left => Expects::Start(left),
                    };
                    None
                }
                Expects::ExtensionLength => {
                    let length = self.take_number(&mut rest, 4)?;
                    self.expects = Expects::Extension(length.try_into().ok()?);
                    // One without bytes has ended.
                    self.end_of_extension()
                }
                Expects::Extension(bytes) => {
                    self.expects = Expects::Extension(skip(&mut rest, bytes));
                    self.end_of_extension()
                }
                Expects::FieldCount => match self.take_number(&mut rest, 2)? {
                    TRAILER => Some(Piece::Trailer),
                    fields => self.next_field(fields),
                },
                Expects::Length(fields) => {
                    let length = self.take_number(&mut rest, 4)?;
                    // A negative length is NULL; the server refuses others than -1.
                    let bytes = i32::from_be_bytes(length.to_be_bytes()).try_into();
                    self.expects = Expects::Value(bytes.unwrap_or(0), fields.saturating_sub(1));
                    self.end_of_value()
                }
                Expects::Value(bytes, fields) => {
                    self.expects = Expects::Value(skip(&mut rest, bytes), fields);
                    self.end_of_value()
                }
            };
            if let Some(ended) = ended {
                return Some((piece.len() - rest.len(), ended));
            }
            if rest.is_empty() {
                return None;
            }
        }
    }

    fn end_of_extension(&mut self) -> Option<Piece> {
        let ended = self.expects == Expects::Extension(0);
        ended.then(|| {
            self.expects = Expects::FieldCount;
            Piece::Header
        })
    }

    fn end_of_value(&mut self) -> Option<Piece> {
        match self.expects {
            Expects::Value(0, fields) => self.next_field(fields),
            _ => None,
        }
    }

    fn next_field(&mut self, fields: u32) -> Option<Piece> {
        self.expects = match fields {
            0 => Expects::FieldCount,
            fields => Expects::Length(fields),
        };
        (fields == 0).then_some(Piece::Tuple)
    }

    fn take_number(&mut self, rest: &mut &[u8], width: u8) -> Option<u32> {
        while self.number_bytes < width {
            let (byte, behind) = rest.split_first()?;
            self.number = (self.number << 8) | u32::from(*byte);
            self.number_bytes += 1;
            *rest = behind;
        }
        self.number_bytes = 0;
        Some(std::mem::take(&mut self.number))
    }

    /// May the data end here? The server does not ask for the trailer.
    pub(super) fn is_between_tuples(&self) -> bool {
        self.expects == Expects::FieldCount && self.number_bytes == 0
    }
}

/// Skips as many bytes as there are; how many are left to skip.
fn skip(rest: &mut &[u8], bytes: usize) -> usize {
    let here = bytes.min(rest.len());
    *rest = rest.get(here..).unwrap_or_default();
    bytes - here
}

/// Is this a header that we understand?
pub(super) fn check_header(header: &[u8]) -> Result<(), &'static str> {
    let flags = header
        .strip_prefix(SIGNATURE)
        .ok_or("COPY file signature not recognized")?
        .first_chunk()
        .map_or(CRITICAL_FLAGS, |flags| u32::from_be_bytes(*flags));
    match flags & CRITICAL_FLAGS {
        0 => Ok(()),
        _ => Err("unrecognized critical flags in COPY file header"),
    }
}

/// The field of this column of a whole tuple.
pub(super) fn field(tuple: &[u8], column: usize) -> Result<Field<'_>, &'static str> {
    let missing = "missing data for the sharding key";
    let (count, mut rest) = tuple.split_first_chunk().ok_or(missing)?;
    if usize::from(u16::from_be_bytes(*count)) <= column {
        return Err(missing);
    }
    for at in 0.. {
        let (length, behind) = rest.split_first_chunk().ok_or(missing)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).ok();
        let (value, behind) = behind
            .split_at_checked(length.unwrap_or(0))
            .ok_or(missing)?;
        if at == column {
            return Ok(length.map_or(Field::Null, |_| Field::Value(value)));
        }
        rest = behind;
    }
    Err(missing)
}
