//! Rows of a query as data of COPY TO, written as PostgreSQL writes them.
//!
//! In the binary format a row is what DataRow has behind its length; lines are made of values in text format.
//!
//! Source: `CopyAttributeOutText` and `CopyAttributeOutCSV` in
//! <https://github.com/postgres/postgres/blob/REL_15_STABLE/src/backend/commands/copyto.c>

use super::CopyFormat;

/// What the binary format begins with: no flags, no extension.
pub const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// The end of the binary format.
pub const TRAILER: &[u8; 2] = b"\xff\xff";

/// How rows are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The format of the data.
    pub format: CopyFormat,
    /// Which values of CSV are quoted.
    pub quoted: Quoted,
}

/// Which values of CSV stand in quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quoted {
    /// Those that have to.
    Needed,
    /// All but NULL.
    All,
    /// Also those of these columns, but for NULL.
    Columns(Vec<Box<str>>),
}

impl Layout {
    /// For each of these columns: are its values quoted in any case? Of several columns of one name it is the first, as on a
    /// server.
    ///
    /// Errors: a name that none of them has.
    pub fn quoted_of(&self, columns: &[&[u8]]) -> Result<Vec<bool>, &str> {
        let mut quoted = vec![self.quoted == Quoted::All; columns.len()];
        if let Quoted::Columns(names) = &self.quoted {
            for name in names {
                let at = columns.iter().position(|column| *column == name.as_bytes());
                let found = at.and_then(|at| quoted.get_mut(at));
                *found.ok_or(&**name)? = true;
            }
        }
        Ok(quoted)
    }

    /// Appends a line of these values. `quoted` has one element for each of them: see [`Self::quoted_of`].
    ///
    /// Not for the binary format, which has no lines.
    pub fn put_line<'v>(
        &self,
        values: impl Iterator<Item = Option<&'v [u8]>>,
        quoted: &[bool],
        out: &mut Vec<u8>,
    ) {
        match &self.format {
            CopyFormat::Text {
                delimiter, null, ..
            } => {
                for (index, value) in values.enumerate() {
                    if index > 0 {
                        out.push(*delimiter);
                    }
                    match value {
                        None => out.extend_from_slice(null),
                        Some(value) => put_text(value, *delimiter, out),
                    }
                }
            }
            CopyFormat::Csv {
                delimiter,
                null,
                quote,
                escape,
                ..
            } => {
                let csv = Csv {
                    delimiter: *delimiter,
                    null,
                    quote: *quote,
                    escape: *escape,
                    alone: quoted.len() == 1,
                };
                for (index, (value, quoted)) in values.zip(quoted).enumerate() {
                    if index > 0 {
                        out.push(*delimiter);
                    }
                    match value {
                        None => out.extend_from_slice(null),
                        Some(value) => csv.put(value, *quoted, out),
                    }
                }
            }
            CopyFormat::Binary => debug_assert!(false, "a line of the binary format"),
        }
        // Whatever the server's system, in the protocol.
        out.push(b'\n');
    }
}

fn put_text(value: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    let mut rest = value;
    let special = |byte: &u8| matches!(byte, 8..=13 | b'\\') || *byte == delimiter;
    while let Some(at) = rest.iter().position(special) {
        let (before, behind) = rest.split_at(at);
        out.extend_from_slice(before);
        if let Some((byte, behind)) = behind.split_first() {
            let letter = match byte {
                8 => b'b',
                b'\t' => b't',
                b'\n' => b'n',
                11 => b'v',
                12 => b'f',
                b'\r' => b'r',
                other => *other,
            };
            out.extend_from_slice(&[b'\\', letter]);
            rest = behind;
        }
    }
    out.extend_from_slice(rest);
}

struct Csv<'a> {
    delimiter: u8,
    null: &'a [u8],
    quote: u8,
    escape: u8,
    /// There is one column only.
    alone: bool,
}

impl Csv<'_> {
    fn put(&self, value: &[u8], quoted: bool, out: &mut Vec<u8>) {
        let special = |byte: &u8| {
            *byte == self.delimiter || *byte == self.quote || matches!(byte, b'\n' | b'\r')
        };
        // Otherwise it would be read as NULL, or as the end of the data.
        let is_other = value == self.null || self.alone && value == b"\\.";
        if !(quoted || is_other || value.iter().any(special)) {
            return out.extend_from_slice(value);
        }
        out.push(self.quote);
        for byte in value {
            if *byte == self.quote || *byte == self.escape {
                out.push(self.escape);
            }
            out.push(*byte);
        }
        out.push(self.quote);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::copy::{CopyRows, Field, ForceNull};

    fn text(delimiter: u8, null: &str) -> CopyFormat {
        CopyFormat::Text {
            delimiter,
            null: null.into(),
            header: false,
        }
    }

    fn csv(delimiter: u8, null: &str, quote: u8, escape: u8) -> CopyFormat {
        CopyFormat::Csv {
            delimiter,
            null: null.into(),
            header: false,
            quote,
            escape,
            end_marker: true,
        }
    }

    fn line(format: CopyFormat, values: &[Option<&str>], quoted: &[bool]) -> String {
        let layout = Layout {
            format,
            quoted: Quoted::Needed,
        };
        let mut out = Vec::new();
        let values = values.iter().map(|value| value.map(str::as_bytes));
        layout.put_line(values, quoted, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Those that are hostile are compared with a server in `tests/proxy/copy_queries.rs`, too.
    #[test]
    fn lines_are_postgresqls() {
        let check = |format: CopyFormat, values: &[Option<&str>], expected: &str| {
            let quoted = vec![false; values.len()];
            assert_eq!(line(format, values, &quoted), expected, "{values:?}");
        };
        let hostile = Some("a\tb\nc\rd\\e\u{8}\u{b}\u{c}\u{1}\u{7f}ü,\"|'");
        check(
            text(b'\t', "\\N"),
            &[None, Some(""), hostile],
            "\\N\t\ta\\tb\\nc\\rd\\\\e\\b\\v\\f\u{1}\u{7f}ü,\"|'\n",
        );
        check(
            text(b'|', "x"),
            &[None, Some("x"), Some("a|\tb")],
            "x|x|a\\|\\tb\n",
        );
        check(text(1, "-"), &[None, Some("\u{1}")], "-\u{1}\\\u{1}\n");
        check(
            csv(b',', "", b'"', b'"'),
            &[None, Some(""), Some("plain \\. 'x'"), hostile],
            ",\"\",plain \\. 'x',\"a\tb\nc\rd\\e\u{8}\u{b}\u{c}\u{1}\u{7f}ü,\"\"|'\"\n",
        );
        check(
            csv(b';', "none", b'\'', b'\\'),
            &[
                None,
                Some("none"),
                Some(""),
                Some("it's"),
                Some("a\\b"),
                Some("a\\;b"),
            ],
            "none;'none';;'it\\'s';a\\b;'a\\\\;b'\n",
        );
        check(csv(b',', "", b'"', b'"'), &[Some("\\.")], "\"\\.\"\n");
        check(csv(b',', "", b'"', b'"'), &[Some("\\."), None], "\\.,\n");
        check(text(b'\t', "\\N"), &[], "\n");
    }

    #[test]
    fn values_are_quoted_where_that_is_asked_for() {
        let layout = |quoted| Layout {
            format: csv(b',', "", b'"', b'"'),
            quoted,
        };
        let columns: [&[u8]; 3] = [b"a", b"b", b"a"];
        let of = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).into()).collect();
            let layout = layout(Quoted::Columns(names));
            layout.quoted_of(&columns).map_err(str::to_owned)
        };
        assert_eq!(of(&["a"]), Ok(vec![true, false, false]));
        assert_eq!(of(&["b", "a"]), Ok(vec![true, true, false]));
        assert_eq!(of(&["b", "A"]), Err("A".to_owned()));
        assert_eq!(layout(Quoted::All).quoted_of(&columns), Ok(vec![true; 3]));
        assert_eq!(
            layout(Quoted::Needed).quoted_of(&columns),
            Ok(vec![false; 3])
        );
        let format = csv(b',', "", b'"', b'"');
        let found = line(format, &[Some("1"), None, Some("2")], &[true, true, false]);
        assert_eq!(found, "\"1\",,2\n");
    }

    /// What is written is read back by what reads COPY FROM.
    #[test]
    fn lines_are_read_as_they_were_written() {
        let values = [
            "",
            "\\N",
            "\\.",
            "a",
            "\t",
            "\n",
            "\r\n",
            "\\",
            "\"",
            "'",
            "|,;",
            "\\n",
            "\u{8}\u{b}",
        ];
        let formats = [
            text(b'\t', "\\N"),
            text(b'|', "none"),
            csv(b',', "", b'"', b'"'),
            csv(b';', "none", b'\'', b'\\'),
        ];
        for format in formats {
            for one in values {
                for other in values {
                    let row = [Some(one), None, Some(other)];
                    let written = line(format.clone(), &row, &[false; 3]);
                    let mut rows = CopyRows::new(&format, 1 << 20);
                    let mut input = written.as_bytes();
                    let read = rows.next(&mut input).unwrap().expect("a whole row");
                    for (column, expected) in row.iter().enumerate() {
                        let mut scratch = Vec::new();
                        let field = read.field(&format, column, ForceNull::Neither, &mut scratch);
                        let expected = match expected {
                            Some(value) => Field::Value(value.as_bytes()),
                            None => Field::Null,
                        };
                        assert_eq!(field, Ok(expected), "{format:?} {row:?}");
                    }
                    assert!(input.is_empty());
                }
            }
        }
    }
}
