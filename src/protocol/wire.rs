//! Fields of a message: integers, zero-terminated strings and counted values, read and written.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-message-types.html>

use crate::error::Error;

/// A message whose body does not have the layout its tag promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Name of the message in the protocol chapter.
    pub message: &'static str,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed {}", self.message)
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::protocol_violation(malformed)
    }
}

/// Reads the fields of one message's body from front to back. Never copies, never panics.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    message: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `body`; errors will name `message`.
    #[inline]
    pub const fn new(body: &'a [u8], message: &'static str) -> Self {
        Self {
            rest: body,
            message,
        }
    }

    /// The error of this message.
    #[cold]
    pub const fn malformed(&self) -> Malformed {
        Malformed {
            message: self.message,
        }
    }

    /// What has not been read.
    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Succeeds when everything has been read: bytes after the last field are an error.
    #[inline]
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed())
        }
    }

    /// The next `count` bytes.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let Some((bytes, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.malformed());
        };
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.malformed());
        };
        self.rest = rest;
        Ok(*bytes)
    }

    /// Byte1.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// Int16.
    #[inline]
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    /// Int16 used as a count: PostgreSQL counts to 65,535.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    /// Int32.
    #[inline]
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    /// Int32 used as an object identifier.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// String: everything before the next zero byte, in the client's encoding.
    #[inline]
    pub fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let Some(end) = memchr::memchr(0, self.rest) else {
            return Err(self.malformed());
        };
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Ok(text)
    }

    /// Int32 length and as many bytes; length -1 is NULL, anything below is an error.
    #[inline]
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let length = self.i32()?;
        match usize::try_from(length) {
            Ok(count) => self.bytes(count).map(Some),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(self.malformed()),
        }
    }
}

/// A counted list of fixed-size integers: format codes (Int16) or type OIDs (Int32).
///
/// Its length was checked when it was read, so that walking it cannot fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List<'a, const WIDTH: usize> {
    items: &'a [u8],
}

/// Format codes: 0 text, 1 binary. Others are passed on as they are.
///
/// Source: <https://www.postgresql.org/docs/current/protocol-overview.html#PROTOCOL-FORMAT-CODES>
pub type FormatCodes<'a> = List<'a, 2>;

/// Type OIDs of parameters; 0 leaves the type to the server.
pub type TypeOids<'a> = List<'a, 4>;

impl<'a, const WIDTH: usize> List<'a, WIDTH> {
    /// Reads an Int16 count and as many items.
    #[inline]
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = usize::from(reader.u16()?);
        reader.bytes(count * WIDTH).map(|items| Self { items })
    }

    /// Number of items.
    pub const fn len(&self) -> usize {
        self.items.len() / WIDTH
    }

    /// Has it no items?
    pub const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn arrays(self) -> impl ExactSizeIterator<Item = [u8; WIDTH]> + Clone + 'a {
        self.items.chunks_exact(WIDTH).map(|item| {
            item.try_into()
                .expect("chunks_exact yields chunks of WIDTH bytes")
        })
    }
}

impl<'a> FormatCodes<'a> {
    /// The codes in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = i16> + Clone + 'a {
        self.arrays().map(i16::from_be_bytes)
    }

    /// The code that holds for the value at `index`, counted from 0.
    ///
    /// No code means text for all, one code holds for all, else each value has its own; `None` when the
    /// sender gave several codes but none for this value.
    pub fn of(self, index: usize) -> Option<i16> {
        match self.len() {
            0 => Some(0),
            1 => self.iter().next(),
            _ => self.iter().nth(index),
        }
    }
}

impl<'a> TypeOids<'a> {
    /// The OIDs in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u32> + Clone + 'a {
        self.arrays().map(u32::from_be_bytes)
    }
}

/// Appends one message: the tag, the length, and what `body` appends.
///
/// ```text
///  ┌─────┬────────────────┬──────────┐
///  │ tag │ length, 4 to … │ body     │   length counts itself and the body, not the tag
///  └─────┴────────────────┴──────────┘
/// ```
#[inline]
pub fn put_message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    put_length_prefixed(out, body);
}

/// Appends the length and what `body` appends, for packets that have no tag.
#[inline]
pub(super) fn put_length_prefixed(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = i32::try_from(out.len() - start).expect("a message is smaller than 2 GiB");
    patch(out, start, &length.to_be_bytes());
}

/// Appends a String and its zero byte. A zero byte inside would end the string early for the receiver and
/// let the remainder pass for other fields; the text is therefore cut there.
#[inline]
pub(super) fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.extend_from_slice(text.get(..end).unwrap_or(text));
    out.push(0);
}

/// Appends an Int32 length and the bytes, or -1 for NULL.
#[inline]
pub(super) fn put_value(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let length = value.map_or(-1, |bytes| {
        i32::try_from(bytes.len()).expect("a value is smaller than 2 GiB")
    });
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value.unwrap_or_default());
}

/// Appends an Int16 count and each item.
#[inline]
pub(super) fn put_counted<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut put: impl FnMut(&mut Vec<u8>, T),
) {
    let start = out.len();
    out.extend_from_slice(&[0; 2]);
    let mut count = 0usize;
    for item in items {
        put(out, item);
        count += 1;
    }
    let count = u16::try_from(count).expect("a list has at most 65,535 items");
    patch(out, start, &count.to_be_bytes());
}

/// Appends a counted list of format codes.
pub(super) fn put_formats(out: &mut Vec<u8>, formats: impl IntoIterator<Item = i16>) {
    put_counted(out, formats, |out, format| {
        out.extend_from_slice(&format.to_be_bytes());
    });
}

/// Appends a counted list of type OIDs.
pub(super) fn put_oids(out: &mut Vec<u8>, oids: impl IntoIterator<Item = u32>) {
    put_counted(out, oids, |out, oid| {
        out.extend_from_slice(&oid.to_be_bytes());
    });
}

fn patch(out: &mut [u8], at: usize, bytes: &[u8]) {
    out.get_mut(at..at + bytes.len())
        .expect("the place was appended by the caller")
        .copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_in_order() {
        let mut reader = Reader::new(
            b"\x07\xff\xfe\0\0\x01\0name\0\0\0\0\x02ab\xff\xff\xff\xffrest",
            "Test",
        );
        assert_eq!(reader.u8(), Ok(7));
        assert_eq!(reader.i16(), Ok(-2));
        assert_eq!(reader.u32(), Ok(256));
        assert_eq!(reader.text(), Ok(&b"name"[..]));
        assert_eq!(reader.value(), Ok(Some(&b"ab"[..])));
        assert_eq!(reader.value(), Ok(None));
        assert_eq!(reader.rest(), b"rest");
        assert_eq!(reader.finish(), Err(Malformed { message: "Test" }));
    }

    #[test]
    fn refuses_what_is_cut_short_or_lies_about_its_length() {
        let bad = Malformed { message: "Test" };
        let read = |bytes: &'static [u8]| Reader::new(bytes, "Test");
        assert_eq!(read(b"abc").text(), Err(bad));
        assert_eq!(read(b"\0\0\0").i32(), Err(bad));
        assert_eq!(read(b"\0\0\0\x05abcd").value(), Err(bad));
        assert_eq!(read(b"\xff\xff\xff\xfe").value(), Err(bad));
        assert_eq!(read(b"\x7f\xff\xff\xff").value(), Err(bad));
        assert_eq!(FormatCodes::read(&mut read(b"\0\x02\0\0\0")), Err(bad));
        assert_eq!(TypeOids::read(&mut read(b"\xff\xff\0\0\0\0")), Err(bad));
    }

    #[test]
    fn one_format_code_holds_for_all_and_none_means_text() {
        let codes = |bytes: &'static [u8]| FormatCodes::read(&mut Reader::new(bytes, "Test"));
        assert_eq!(codes(b"\0\0").unwrap().of(9), Some(0));
        assert_eq!(codes(b"\0\x01\0\x01").unwrap().of(9), Some(1));
        let two = codes(b"\0\x02\0\0\0\x01").unwrap();
        assert_eq!([two.of(0), two.of(1), two.of(2)], [Some(0), Some(1), None]);
    }

    #[test]
    fn a_zero_byte_cannot_smuggle_fields() {
        let mut out = Vec::new();
        put_text(&mut out, b"name\0secret");
        assert_eq!(out, b"name\0");
    }
}
