//! Rows and fields of every format, cut anywhere.

use proptest::prelude::*;

use super::splitting::{rows, Outcome};
use super::*;

fn text() -> CopyFormat {
    CopyFormat::Text {
        delimiter: b'\t',
        null: b"\\N".to_vec(),
        header: false,
    }
}

fn csv() -> CopyFormat {
    CopyFormat::Csv {
        delimiter: b',',
        null: Vec::new(),
        header: false,
        quote: b'"',
        escape: b'"',
        end_marker: true,
    }
}

/// CSV whose quotes are escaped by another character.
fn odd_csv() -> CopyFormat {
    CopyFormat::Csv {
        delimiter: b';',
        null: b"-".to_vec(),
        header: false,
        quote: b'\'',
        escape: b'\\',
        end_marker: true,
    }
}

/// Rows as their first fields: `_` is NULL. In every cut of the data.
fn check(format: &CopyFormat, data: &[u8], expected: &[&[&str]]) {
    for size in 1..=data.len().max(1) {
        let found = rows(format, data.chunks(size));
        assert_eq!(found.error, None, "cut by {size}");
        let show = |field: &Option<Vec<u8>>| match field {
            None => "_".to_owned(),
            Some(text) => String::from_utf8_lossy(text).into_owned(),
        };
        let fields: Vec<Vec<_>> = found
            .rows
            .iter()
            .filter(|(kind, ..)| *kind == RowKind::Data)
            .map(|(_, _, fields)| fields.iter().map(show).collect())
            .collect();
        assert_eq!(fields, expected, "cut by {size}");
    }
}

fn check_error(format: &CopyFormat, data: &[u8], row: u64, reason: &'static str) {
    for size in 1..=data.len() {
        let Outcome { error, .. } = rows(format, data.chunks(size));
        let expected = Some(CopyError::Malformed { row, reason });
        assert_eq!(error, expected, "cut by {size}");
    }
}

#[test]
fn text_rows() {
    check(&text(), b"1\ta\n2\t\\N\n", &[&["1", "a"], &["2", "_"]]);
    check(&text(), b"1\ta\r\n2\tb\r\n", &[&["1", "a"], &["2", "b"]]);
    check(&text(), b"1\ta\r2\tb", &[&["1", "a"], &["2", "b"]]);
    check(&text(), b"1\ta\r\n2\tb", &[&["1", "a"], &["2", "b"]]);
    check(&text(), b"", &[]);
    check(&text(), b"\n\n", &[&[""], &[""]]);
}

#[test]
fn text_escapes() {
    check(&text(), b"a\\tb\\nc\\\\d\te\n", &[&["a\tb\nc\\d", "e"]]);
    check(
        &text(),
        b"\\101\\x42\\x4g\\18\\q\\0605\n",
        &[&["AB\u{4}g\u{1}8q05"]],
    );
    // An escaped tab and an escaped newline are data.
    check(&text(), b"a\\\tb\tc\\\nd\n", &[&["a\tb", "c\nd"]]);
    // NULL is compared with its escapes: this is the text N.
    check(&text(), b"\\\\N\t\\N\tN\n", &[&["\\N", "_", "N"]]);
}

#[test]
fn end_markers() {
    check(&text(), b"1\n\\.\n2\n", &[&["1"]]);
    check(&text(), b"1\r\n\\.\r\n\xff\\", &[&["1"]]);
    check(&csv(), b"1\n\\.\nrest \"", &[&["1"]]);
    check(
        &csv(),
        b"1\n\\.x\n\"\\.\"\n",
        &[&["1"], &["\\.x"], &["\\."]],
    );
    let CopyFormat::Csv {
        delimiter,
        null,
        header,
        quote,
        escape,
        ..
    } = csv()
    else {
        unreachable!()
    };
    let newer = CopyFormat::Csv {
        delimiter,
        null,
        header,
        quote,
        escape,
        end_marker: false,
    };
    check(&newer, b"1\n\\.\n2\n", &[&["1"], &["\\."], &["2"]]);
    // An escaped backslash in front of a point is none.
    check(&text(), b"\\\\.\n", &[&["\\."]]);
    check_error(
        &text(),
        b"1\n2\\.\n",
        2,
        "end-of-copy marker is not alone on its line",
    );
    check_error(&text(), b"1\n\\.", 2, "end-of-copy marker corrupt");
}

#[test]
fn csv_rows() {
    check(
        &csv(),
        b"1,\"a,\"\"b\"\"\nc\"\n2,\n3,\"\"\n",
        &[&["1", "a,\"b\"\nc"], &["2", "_"], &["3", ""]],
    );
    check(&csv(), b"a\"b,c\"d,e\n", &[&["ab,cd", "e"]]);
    check(
        &csv(),
        b"\"a\r\nb\",c\r\nd,e",
        &[&["a\r\nb", "c"], &["d", "e"]],
    );
    check(
        &odd_csv(),
        b"'a\\'b\\\\';-;'-'\n\\;c\\\n",
        &[&["a'b\\", "_", "-"], &["\\", "c\\"]],
    );
    check(&odd_csv(), b"'a\\b'\n'\\\\'\n", &[&["a\\b"], &["\\"]]);
}

#[test]
fn malformed_lines() {
    check_error(&csv(), b"1\n\"a\n", 2, "unterminated CSV quoted field");
    check_error(&text(), b"1\n2\r3\n", 2, "literal carriage return");
    check_error(&text(), b"1\r\n2\n", 2, "literal newline");
    check_error(&csv(), b"1\r\n2\r3", 2, "literal carriage return");
    check_error(&csv(), b"1\r2\n", 2, "literal newline");
}

#[test]
fn the_header_is_a_row_of_its_own() {
    let format = CopyFormat::Csv {
        delimiter: b',',
        null: Vec::new(),
        header: true,
        quote: b'"',
        escape: b'"',
        end_marker: true,
    };
    let found = rows(&format, [&b"\"i\nd\",n\n1,2\n"[..]]);
    let kinds: Vec<_> = found.rows.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [RowKind::Header, RowKind::Data]);
    assert_eq!(found.rows[0].1, b"\"i\nd\",n\n");
    assert_eq!(rows(&format, [&b"id"[..]]).rows[0].0, RowKind::Header);
}

#[test]
fn force_null_and_not_null() {
    let line = Row {
        kind: RowKind::Data,
        bytes: b",\"\"",
        number: 1,
        terminator: 0,
    };
    for (column, force, expected) in [
        (0, ForceNull::Neither, Field::Null),
        (1, ForceNull::Neither, Field::Value(b"")),
        (0, ForceNull::NotNull, Field::Value(b"")),
        (1, ForceNull::Null, Field::Null),
    ] {
        let mut scratch = Vec::new();
        let found = line.field(&csv(), column, force, &mut scratch);
        assert_eq!(found, Ok(expected), "{column} {force:?}");
    }
}

#[test]
fn a_row_with_too_few_columns() {
    for (format, bytes) in [
        (text(), &b"1\t2"[..]),
        (csv(), b"1,2"),
        (CopyFormat::Binary, b"\0\x02\0\0\0\x01a\xff\xff\xff\xff"),
    ] {
        let row = Row {
            kind: RowKind::Data,
            bytes,
            number: 7,
            terminator: 0,
        };
        let mut scratch = Vec::new();
        assert!(row
            .field(&format, 1, ForceNull::Neither, &mut scratch)
            .is_ok());
        let mut scratch = Vec::new();
        let error = row.field(&format, 2, ForceNull::Neither, &mut scratch);
        let reason = "missing data for the sharding key";
        assert_eq!(error, Err(CopyError::Malformed { row: 7, reason }));
    }
}

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\x01\0\0\0\x03ext";
const TUPLE: &[u8] = b"\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0";

#[test]
fn binary_rows() {
    let empty_tuple = &b"\0\0"[..];
    let data = [HEADER, TUPLE, empty_tuple, TUPLE, written::TRAILER].concat();
    check(
        &CopyFormat::Binary,
        &data,
        &[&["ab", "_", ""], &[], &["ab", "_", ""]],
    );
    let found = rows(&CopyFormat::Binary, [&data[..]]);
    assert_eq!(found.rows[0], (RowKind::Header, HEADER.to_vec(), vec![]));
    assert_eq!(found.rows[4].0, RowKind::Trailer);
    // The trailer may be missing.
    check(
        &CopyFormat::Binary,
        &data[..data.len() - 2],
        &[&["ab", "_", ""], &[], &["ab", "_", ""]],
    );
}

#[test]
fn malformed_binary_data() {
    let binary = CopyFormat::Binary;
    let cut = [HEADER, &TUPLE[..9]].concat();
    check_error(&binary, &cut, 1, "unexpected end of data");
    check_error(&binary, &HEADER[..12], 1, "unexpected end of data");
    let more = [HEADER, written::TRAILER, TUPLE].concat();
    check_error(&binary, &more, 1, "data behind the trailer");
    let other = HEADER.to_ascii_lowercase();
    check_error(&binary, &other, 1, "COPY file signature not recognized");
    let mut with_oids = HEADER.to_vec();
    with_oids[12] = 1;
    check_error(
        &binary,
        &with_oids,
        1,
        "unrecognized critical flags in COPY file header",
    );
}

#[test]
fn rows_that_span_messages_are_bounded() {
    let mut splitter = CopyRows::new(&text(), 8);
    let mut whole = &b"0123456789abcdef\n"[..];
    assert!(
        splitter.next(&mut whole).unwrap().is_some(),
        "within one message"
    );
    let mut piece = &b"12345678"[..];
    assert_eq!(splitter.next(&mut piece), Ok(None));
    let mut piece = &b"9\n"[..];
    let error = splitter.next(&mut piece).unwrap_err();
    assert_eq!(
        error,
        CopyError::TooLong {
            row: 2,
            bytes_max: 8
        }
    );
}

/// Data made of what matters to the formats.
fn tokens() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        &b"\n"[..],
        b"\r",
        b"\r\n",
        b"\\",
        b"\\.",
        b"\\.\n",
        b"\\N",
        b"\t",
        b",",
        b";",
        b"\"",
        b"'",
        b"a",
        b"12",
        b"-",
        b"\0\x01\0\0\0\x01",
        b"\xff\xff",
        b"\0\x02",
        HEADER,
    ]);
    prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn cuts_do_not_matter(choice in any::<u8>(), cut in 1_u8..9, data in tokens(), whole in any::<bool>()) {
        let mut input = vec![choice, cut];
        if whole && choice % 4 == 3 {
            input.extend_from_slice(HEADER);
        }
        input.extend_from_slice(&data);
        fuzz_copy(&input);
    }
}
