//! COPY TO of several shards as one: the header once, the trailer of the binary format once.
//!
//! A server sends whole rows: a line in each message, the names of columns in a message of their own; in binary format
//! the header in front of the first tuple or trailer, and the trailer in a message of its own or behind the header.

use super::binary::{check_header, header_length};
use super::{CopyError, CopyFormat};

/// The trailer of the binary format, to be sent when every shard has ended.
pub const TRAILER: [u8; 2] = [0xFF, 0xFF];

/// What of the shards' data goes to the client.
#[derive(Clone, Debug)]
pub struct CopyOut {
    format: Kind,
    /// The client has the header.
    headed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Headed,
    Binary,
}

/// One shard's part.
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyOutLeg {
    begun: bool,
}

impl CopyOut {
    /// For data of this format.
    pub fn new(format: &CopyFormat) -> Self {
        let format = match format {
            CopyFormat::Text { header: false, .. } | CopyFormat::Csv { header: false, .. } => {
                Kind::Plain
            }
            CopyFormat::Text { .. } | CopyFormat::Csv { .. } => Kind::Headed,
            CopyFormat::Binary => Kind::Binary,
        };
        Self {
            format,
            headed: false,
        }
    }

    /// What of the contents of a shard's CopyData message is for the client; nothing: drop the message.
    ///
    /// Errors: a binary header that is none.
    pub fn pass<'a>(
        &mut self,
        leg: &mut CopyOutLeg,
        data: &'a [u8],
    ) -> Result<&'a [u8], CopyError> {
        let first = !std::mem::replace(&mut leg.begun, true);
        match self.format {
            Kind::Plain => Ok(data),
            Kind::Headed if first => {
                let again = std::mem::replace(&mut self.headed, true);
                Ok(if again { &[] } else { data })
            }
            Kind::Headed => Ok(data),
            Kind::Binary if first => {
                let malformed = |reason| CopyError::Malformed { row: 1, reason };
                check_header(data).map_err(malformed)?;
                let header = header_length(data).ok_or_else(|| malformed("no whole header"))?;
                let rows = data.get(header..).unwrap_or_default();
                let rows_end = data.len() - if rows == TRAILER { 2 } else { 0 };
                let again = std::mem::replace(&mut self.headed, true);
                let start = if again { header } else { 0 };
                Ok(data.get(start..rows_end).unwrap_or_default())
            }
            // A tuple of no fields has two bytes as well, but they are zero.
            Kind::Binary if data == TRAILER => Ok(&[]),
            Kind::Binary => Ok(data),
        }
    }

    /// What follows the last row, once every shard has ended.
    pub fn end(&self) -> &'static [u8] {
        match self.format {
            Kind::Plain | Kind::Headed => &[],
            Kind::Binary => &TRAILER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
    const TUPLE: &[u8] = b"\0\x01\0\0\0\x01x";

    /// Messages of two shards in this order, and what the client gets.
    fn check(format: &CopyFormat, messages: &[(usize, &[u8])], expected: &[u8]) {
        let mut out = CopyOut::new(format);
        let mut legs = [CopyOutLeg::default(); 2];
        let mut found = Vec::new();
        for (leg, data) in messages {
            found.extend_from_slice(out.pass(&mut legs[*leg], data).unwrap());
        }
        found.extend_from_slice(out.end());
        assert_eq!(found, expected);
    }

    fn text(header: bool) -> CopyFormat {
        CopyFormat::Text {
            delimiter: b'\t',
            null: b"\\N".to_vec(),
            header,
        }
    }

    #[test]
    fn names_of_columns_come_once() {
        let messages: [(usize, &[u8]); 4] = [(1, b"id\n"), (0, b"id\n"), (0, b"1\n"), (1, b"2\n")];
        check(&text(true), &messages, b"id\n1\n2\n");
        check(&text(false), &messages, b"id\nid\n1\n2\n");
    }

    #[test]
    fn binary_has_one_header_and_one_trailer() {
        let begin = [HEADER, TUPLE].concat();
        let empty = [HEADER, &TRAILER].concat();
        let expected = [HEADER, TUPLE, TUPLE, &TRAILER].concat();
        let messages: [(usize, &[u8]); 4] = [(0, &begin), (1, &empty), (0, TUPLE), (0, &TRAILER)];
        check(&CopyFormat::Binary, &messages, &expected);
        let messages: [(usize, &[u8]); 4] = [(1, &empty), (0, &begin), (0, TUPLE), (0, &TRAILER)];
        check(&CopyFormat::Binary, &messages, &expected);
        let messages: [(usize, &[u8]); 2] = [(1, &empty), (0, &empty)];
        check(&CopyFormat::Binary, &messages, &empty);
    }

    #[test]
    fn what_is_no_header() {
        let mut out = CopyOut::new(&CopyFormat::Binary);
        for data in [&b""[..], b"PGCOPY", TUPLE, &HEADER[..16]] {
            assert!(out.pass(&mut CopyOutLeg::default(), data).is_err());
        }
    }
}
