//! One field of a line of COPY, decoded as the server decodes it.

use memchr::memchr2;

use super::{Field, ForceNull};

const MISSING: &str = "missing data for the sharding key";

/// Bytes that mean something in CSV.
#[derive(Clone, Copy, Debug)]
pub(super) struct Csv {
    pub(super) delimiter: u8,
    pub(super) quote: u8,
    pub(super) escape: u8,
}

/// A field in text format. The NULL string is compared before escapes are taken away.
pub(super) fn text<'a>(
    line: &'a [u8],
    delimiter: u8,
    null: &[u8],
    column: usize,
    scratch: &'a mut Vec<u8>,
) -> Result<Field<'a>, &'static str> {
    let mut start = 0;
    for _ in 0..column {
        let (end, _) = text_end(line, delimiter, start);
        start = end + 1;
        if end >= line.len() {
            return Err(MISSING);
        }
    }
    let (end, escaped) = text_end(line, delimiter, start);
    let raw = line.get(start..end).unwrap_or_default();
    if raw == null {
        return Ok(Field::Null);
    }
    if !escaped {
        return Ok(Field::Value(raw));
    }
    unescape(raw, scratch);
    Ok(Field::Value(scratch))
}

/// Where the field that begins here ends, and whether it has escapes.
fn text_end(line: &[u8], delimiter: u8, start: usize) -> (usize, bool) {
    let mut at = start;
    let mut escaped = false;
    while let Some(found) = line
        .get(at..)
        .and_then(|rest| memchr2(delimiter, b'\\', rest))
    {
        at += found;
        if line.get(at) == Some(&delimiter) {
            return (at, escaped);
        }
        escaped = true;
        at += 2;
    }
    (line.len(), escaped)
}

/// Takes backslashes away: `\n` and its like, `\123`, `\x7f`, and any other byte for itself.
fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut rest = raw.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        // The server drops a backslash with nothing behind it.
        let Some(escaped) = rest.next() else {
            return;
        };
        out.push(match escaped {
            b'0'..=b'7' => digits(&mut rest, 8, u32::from(escaped - b'0')),
            b'x' => match rest.peek() {
                Some(next) if next.is_ascii_hexdigit() => digits(&mut rest, 16, 0),
                _ => b'x',
            },
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            other => other,
        });
    }
}

/// Two more digits at most. Of a number that is too large the server keeps the lowest byte, too.
fn digits(
    rest: &mut std::iter::Peekable<impl Iterator<Item = u8>>,
    radix: u32,
    mut value: u32,
) -> u8 {
    for _ in 0..2 {
        let digit = rest
            .peek()
            .and_then(|byte| char::from(*byte).to_digit(radix));
        let Some(digit) = digit else { break };
        value = value * radix + digit;
        rest.next();
    }
    u8::try_from(value & 0xFF).unwrap_or_default()
}

/// A field in CSV format. The NULL string is NULL unless it is quoted, or as `force` says.
pub(super) fn csv<'a>(
    line: &'a [u8],
    syntax: Csv,
    null: &[u8],
    column: usize,
    force: ForceNull,
    scratch: &'a mut Vec<u8>,
) -> Result<Field<'a>, &'static str> {
    let mut start = 0;
    for _ in 0..column {
        let (end, _) = csv_end(line, syntax, start)?;
        start = end + 1;
        if end >= line.len() {
            return Err(MISSING);
        }
    }
    let (end, quoted) = csv_end(line, syntax, start)?;
    let raw = line.get(start..end).unwrap_or_default();
    let value = match quoted {
        false => raw,
        true => {
            unquote(raw, syntax, scratch);
            scratch
        }
    };
    let is_null = match force {
        ForceNull::Neither => !quoted && value == null,
        ForceNull::NotNull => false,
        ForceNull::Null => value == null,
    };
    Ok(match is_null {
        true => Field::Null,
        false => Field::Value(value),
    })
}

/// Where the field that begins here ends, and whether it has quotes.
fn csv_end(line: &[u8], syntax: Csv, start: usize) -> Result<(usize, bool), &'static str> {
    let mut at = start;
    let mut quoted = false;
    while let Some(found) = line
        .get(at..)
        .and_then(|rest| memchr2(syntax.delimiter, syntax.quote, rest))
    {
        at += found;
        if line.get(at) == Some(&syntax.delimiter) {
            return Ok((at, quoted));
        }
        quoted = true;
        at = closing_quote(line, syntax, at + 1).ok_or("unterminated CSV quoted field")? + 1;
    }
    Ok((line.len(), quoted))
}

/// The quote that ends what begins here.
fn closing_quote(line: &[u8], syntax: Csv, mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(syntax.quote, syntax.escape, line.get(at..)?)?;
        if is_escape(line, syntax, at) {
            at += 2;
        } else if line.get(at) == Some(&syntax.quote) {
            return Some(at);
        } else {
            at += 1;
        }
    }
}

/// Within quotes: an escape counts in front of a quote or of an escape only.
fn is_escape(line: &[u8], syntax: Csv, at: usize) -> bool {
    let next = line.get(at + 1);
    line.get(at) == Some(&syntax.escape)
        && (next == Some(&syntax.escape) || next == Some(&syntax.quote))
}

fn unquote(raw: &[u8], syntax: Csv, out: &mut Vec<u8>) {
    out.clear();
    let mut at = 0;
    let mut inside = false;
    while let Some(byte) = raw.get(at).copied() {
        at += 1;
        if inside && is_escape(raw, syntax, at - 1) {
            out.extend(raw.get(at));
            at += 1;
        } else if byte == syntax.quote {
            inside = !inside;
        } else {
            out.push(byte);
        }
    }
}
