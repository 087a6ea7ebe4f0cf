//! Strings of bytes and bits: `bytea` in its two text forms, `"char"`.

use super::Invalid;

/// The bytes of a bytea in text format: `\x00ff`, or with `bytea_output` escape `a\\b\000`.
///
/// The two cannot be mixed up: the escape form doubles a backslash.
pub fn bytea(text: &[u8]) -> Result<Vec<u8>, Invalid> {
    if let Some(hex) = text.strip_prefix(b"\\x") {
        return hex_bytes(hex);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return Ok(bytes),
            [b'\\', b'\\', tail @ ..] => {
                bytes.push(b'\\');
                tail
            }
            [b'\\', tail @ ..] => {
                let (byte, tail) = octal(tail)?;
                bytes.push(byte);
                tail
            }
            [byte, tail @ ..] => {
                bytes.push(*byte);
                tail
            }
        };
    }
}

/// The byte of a `"char"` in text format: nothing for zero, `\351` from PostgreSQL 16 for what is not ASCII.
pub fn single_char(text: &[u8]) -> Result<u8, Invalid> {
    match text {
        [] => Ok(0),
        [byte] => Ok(*byte),
        [b'\\', digits @ ..] => match octal(digits)? {
            (byte, []) => Ok(byte),
            _ => Err(Invalid),
        },
        _ => Err(Invalid),
    }
}

/// Two hexadecimal digits per byte.
pub fn hex_bytes(hex: &[u8]) -> Result<Vec<u8>, Invalid> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = hex.chunks(2).map(|pair| match pair {
        [high, low] => {
            let value = digit(*high)
                .zip(digit(*low))
                .map(|(high, low)| high << 4 | low);
            value
                .and_then(|value| u8::try_from(value).ok())
                .ok_or(Invalid)
        }
        _ => Err(Invalid),
    });
    pairs.collect()
}

fn octal(text: &[u8]) -> Result<(u8, &[u8]), Invalid> {
    let Some(([a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7'], tail)) =
        text.split_first_chunk()
    else {
        return Err(Invalid);
    };
    Ok(((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytea_is_read_in_both_forms() {
        let check = |text: &str, expected: Result<&[u8], Invalid>| {
            assert_eq!(
                bytea(text.as_bytes()).as_deref(),
                expected.as_deref(),
                "{text}"
            );
        };
        check("\\x", Ok(b""));
        check("\\x00fFa0", Ok(b"\0\xff\xa0"));
        check("", Ok(b""));
        check("a\\\\b\\000\\377", Ok(b"a\\b\0\xff"));
        check("\\\\x41", Ok(b"\\x41"));
        for text in ["\\x0", "\\x0g", "\\", "\\40", "\\400", "\\8"] {
            check(text, Err(Invalid));
        }
    }

    #[test]
    fn a_single_char_may_be_octal() {
        assert_eq!(single_char(b""), Ok(0));
        assert_eq!(single_char(b"\\"), Ok(b'\\'));
        assert_eq!(single_char(b"\\351"), Ok(0o351));
        assert_eq!(single_char("é".as_bytes()), Err(Invalid));
    }
}
