//! Arrays of one dimension, as `array_agg` makes them: their elements one by one.

use super::{fixed, oid, Format, Invalid};

/// The type of the elements of an array type.
///
/// Source: <https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat>
pub const fn element_type(array: u32) -> Option<u32> {
    Some(match array {
        1000 => oid::BOOL,
        1001 => oid::BYTEA,
        1002 => oid::CHAR,
        1003 => oid::NAME,
        1005 => oid::INT2,
        1007 => oid::INT4,
        1009 => oid::TEXT,
        1014 => oid::BPCHAR,
        1015 => oid::VARCHAR,
        1016 => oid::INT8,
        1021 => oid::FLOAT4,
        1022 => oid::FLOAT8,
        1028 => oid::OID,
        1040 => oid::MACADDR,
        1041 => oid::INET,
        1115 => oid::TIMESTAMP,
        1182 => oid::DATE,
        1183 => oid::TIME,
        1185 => oid::TIMESTAMPTZ,
        1187 => oid::INTERVAL,
        1231 => oid::NUMERIC,
        1270 => oid::TIMETZ,
        2951 => oid::UUID,
        _ => return None,
    })
}

/// Calls `each` with every element, `None` for NULL.
///
/// Errors: an array of several dimensions or with bounds of its own, and what is no array.
pub fn elements(
    format: Format,
    value: &[u8],
    mut each: impl FnMut(Option<&[u8]>) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    match format {
        Format::Text => text_elements(value, each),
        Format::Binary => {
            // dimensions, has it NULLs, element type; length and first index of each dimension; elements
            let (header, rest) = value.split_first_chunk::<12>().ok_or(Invalid)?;
            let (length, mut rest) = match header {
                [0, 0, 0, 0, ..] => return rest.is_empty().then_some(()).ok_or(Invalid),
                [0, 0, 0, 1, ..] => rest.split_first_chunk::<8>().ok_or(Invalid)?,
                _ => return Err(Invalid),
            };
            let [a, b, c, d, _, _, _, _] = *length;
            for _ in 0..u32::from_be_bytes([a, b, c, d]) {
                let (length, tail) = rest.split_first_chunk().ok_or(Invalid)?;
                let length = i32::from_be_bytes(*length);
                let (element, tail) = match usize::try_from(length) {
                    Ok(length) => tail
                        .split_at_checked(length)
                        .map(|(e, t)| (Some(e), t))
                        .ok_or(Invalid)?,
                    Err(_) => (None, tail),
                };
                each(element)?;
                rest = tail;
            }
            fixed::<0>(rest).map(|_| ())
        }
    }
}

/// `{1,NULL,"a \"b\" \\"}`
fn text_elements(
    value: &[u8],
    mut each: impl FnMut(Option<&[u8]>) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    let inner = value
        .strip_prefix(b"{")
        .and_then(|rest| rest.strip_suffix(b"}"))
        .ok_or(Invalid)?;
    if inner.is_empty() {
        return Ok(());
    }
    let mut element = Vec::new();
    let mut bytes = inner.iter().copied().peekable();
    loop {
        element.clear();
        let quoted = bytes.next_if_eq(&b'"').is_some();
        let last = loop {
            match bytes.next() {
                None if quoted => return Err(Invalid),
                None => break true,
                Some(b'\\') => element.push(bytes.next().ok_or(Invalid)?),
                Some(b'"') if quoted => match bytes.next() {
                    None => break true,
                    Some(b',') => break false,
                    Some(_) => return Err(Invalid),
                },
                Some(b',') if !quoted => break false,
                Some(b'{' | b'}' | b'"') if !quoted => return Err(Invalid),
                Some(byte) => element.push(byte),
            }
        };
        if !quoted && element.is_empty() {
            return Err(Invalid);
        }
        let null = !quoted && element.eq_ignore_ascii_case(b"NULL");
        each((!null).then_some(element.as_slice()))?;
        if last {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: Format, value: &[u8]) -> Result<Vec<Option<String>>, Invalid> {
        let mut found = Vec::new();
        elements(format, value, |element| {
            found.push(element.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn elements_are_unquoted() {
        let check = |text: &str, expected: &[Option<&str>]| {
            let found = read(Format::Text, text.as_bytes()).unwrap();
            let found: Vec<_> = found.iter().map(Option::as_deref).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("{}", &[]);
        check("{1,-2}", &[Some("1"), Some("-2")]);
        check(
            r#"{NULL,"NULL","","a,b","\"\\"}"#,
            &[None, Some("NULL"), Some(""), Some("a,b"), Some("\"\\")],
        );
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in [
            "",
            "{",
            "{{1}}",
            "[0:1]={1,2}",
            "{1,}",
            "{\"a}",
            "{\"a\"b}",
            "{\\}",
        ] {
            assert_eq!(read(Format::Text, text.as_bytes()), Err(Invalid), "{text}");
        }
    }

    #[test]
    fn binary_arrays() {
        let one = b"\0\0\0\x01\0\0\0\x01\0\0\0\x19\0\0\0\x02\0\0\0\x01\0\0\0\x01a\xff\xff\xff\xff";
        assert_eq!(read(Format::Binary, one), Ok(vec![Some("a".into()), None]));
        assert_eq!(
            read(Format::Binary, b"\0\0\0\0\0\0\0\0\0\0\0\x19"),
            Ok(vec![])
        );
        assert_eq!(read(Format::Binary, &one[..one.len() - 1]), Err(Invalid));
        assert_eq!(read(Format::Binary, &[0, 0, 0, 2]), Err(Invalid));
    }
}
