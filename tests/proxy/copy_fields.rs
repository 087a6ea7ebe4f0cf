//! Fields of COPY data as a real server decodes them.

use pgdog::protocol::copy::{CopyFormat, CopyRows, Field, ForceNull, RowKind};

use crate::support::wire::{copy_data, copy_done};
use crate::support::{Postgres, Wire};

/// Copies `data` into three columns of text, and compares what the server stored with what we read; `None`: both refuse.
fn compare(server: &mut Wire, options: &str, format: &CopyFormat, data: &str) {
    server.query("TRUNCATE fields RESTART IDENTITY");
    let begun = server.begin_copy(&format!("COPY fields (a, b, c) FROM STDIN ({options})"));
    assert_eq!(begun, "G", "{options}");
    server.send(&copy_data(data.as_bytes()));
    let outcome = server.ask(&[copy_done()]);
    let shown =
        "coalesce('=' || a, 'NULL'), coalesce('=' || b, 'NULL'), coalesce('=' || c, 'NULL')";
    let stored = server.rows(&format!("SELECT {shown} FROM fields ORDER BY n"));
    let ours = read(format, data.as_bytes());
    match (outcome.starts_with("C:"), ours) {
        (true, Ok(ours)) => assert_eq!(ours, stored, "{options} {data:?}"),
        (false, Err(_)) => {}
        (_, ours) => panic!("{options} {data:?}: the server {outcome}, we {ours:?}"),
    }
}

fn read(format: &CopyFormat, data: &[u8]) -> Result<Vec<Vec<String>>, String> {
    let mut splitter = CopyRows::new(format, 1 << 20);
    let mut input = data;
    let mut rows = Vec::new();
    let mut take = |row: pgdog::protocol::copy::Row<'_>| {
        if row.kind != RowKind::Data {
            return Ok(());
        }
        let mut scratch = Vec::new();
        let mut fields = Vec::new();
        for column in 0..3 {
            let field = row.field(format, column, ForceNull::Neither, &mut scratch);
            fields.push(match field.map_err(|error| format!("{error:?}"))? {
                Field::Null => "NULL".to_owned(),
                Field::Value(text) => format!("={}", String::from_utf8_lossy(text)),
            });
        }
        let mut scratch = Vec::new();
        match row.field(format, 3, ForceNull::Neither, &mut scratch) {
            Ok(_) => Err("extra data".to_owned()),
            Err(_) => {
                rows.push(fields);
                Ok(())
            }
        }
    };
    while let Some(row) = splitter
        .next(&mut input)
        .map_err(|error| format!("{error:?}"))?
    {
        take(row)?;
    }
    if let Some(row) = splitter.finish().map_err(|error| format!("{error:?}"))? {
        take(row)?;
    }
    Ok(rows)
}

/// Lines put together from what matters, in an order that a seed decides.
fn lines(tokens: &[&str], newline: &str, delimiter: &str, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut text = String::new();
    for _ in 0..4 {
        for column in 0..3 {
            for _ in 0..next(4) {
                text.push_str(tokens[next(tokens.len())]);
            }
            text.push_str(if column < 2 { delimiter } else { newline });
        }
    }
    text
}

#[test]
fn fields_are_what_the_server_stores() {
    let database = Postgres::shared().database("copy_fields");
    let mut server = Postgres::shared().admin(&database);
    server
        .query("CREATE TABLE fields (n int GENERATED ALWAYS AS IDENTITY, a text, b text, c text)");
    let text = |delimiter, null: &str, header| CopyFormat::Text {
        delimiter,
        null: null.into(),
        header,
    };
    let csv = |delimiter, null: &str, quote, escape| CopyFormat::Csv {
        delimiter,
        null: null.into(),
        header: false,
        quote,
        escape,
        end_marker: true,
    };
    let text_tokens = [
        "a", "\\N", "\\n", "\\\\", "\\t", "\\101", "\\x42", "\\x", "\\q", "\\\t", "\\|", "é", "\"",
        "\\0608", "NULL",
    ];
    let csv_tokens = [
        "a", "\"", "\"\"", "\"b\"", "\\", "\\.", "é", "'", "\"x,;y\"", "'x;\n,y'", "\"\n\"", "\\'",
        "NULL", " ",
    ];
    for seed in 0..150 {
        for newline in ["\n", "\r\n", "\r"] {
            let data = lines(&text_tokens, newline, "\t", seed);
            compare(
                &mut server,
                "FORMAT text",
                &text(b'\t', "\\N", false),
                &data,
            );
            let data = lines(&csv_tokens, newline, ",", seed);
            compare(&mut server, "FORMAT csv", &csv(b',', "", b'"', b'"'), &data);
        }
        let data = lines(&text_tokens, "\n", "|", seed);
        let options = "FORMAT text, DELIMITER '|', NULL 'NULL', HEADER";
        compare(&mut server, options, &text(b'|', "NULL", true), &data);
        let data = lines(&csv_tokens, "\n", ";", seed);
        let options = "FORMAT csv, DELIMITER ';', NULL 'NULL', QUOTE '''', ESCAPE '\\'";
        compare(
            &mut server,
            options,
            &csv(b';', "NULL", b'\'', b'\\'),
            &data,
        );
    }
    for data in [
        "a\tb\tc",
        "a\tb\tc\n\\.\nd",
        "a\tb\n",
        "a\tb\tc\td\n",
        "\\.",
        "a\tb\\.\n",
        "a\tb\tc\\",
        "a\tb\tc\n\\.\r\n",
    ] {
        compare(&mut server, "FORMAT text", &text(b'\t', "\\N", false), data);
    }
    for data in [
        "a,b,c",
        "a,b,c\n\\.\n\"",
        "a,b,c\n\\.",
        "a,b,\"c",
        "\"\\.\",b,c\n",
        "\r\n",
        "a,b,c\r\nd,e,f\n",
    ] {
        compare(&mut server, "FORMAT csv", &csv(b',', "", b'"', b'"'), data);
    }
}
