//! Arrays: their elements one by one, and their dimensions.

use super::{fixed, integer, oid, Format, Invalid};

/// The type of the elements of an array type.
///
/// Source: <https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat>
pub const fn element_type(array: u32) -> Option<u32> {
    Some(match array {
        1000 => oid::BOOL,
        199 => oid::JSON,
        651 => oid::CIDR,
        775 => oid::MACADDR8,
        791 => oid::MONEY,
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
        1561 => oid::BIT,
        1563 => oid::VARBIT,
        2951 => oid::UUID,
        3221 => oid::PG_LSN,
        3807 => oid::JSONB,
        _ => return None,
    })
}

/// Dimensions that an array has at most.
const DIMENSIONS_MAX: usize = 6;

/// One dimension of an array: its length, and the index of its first element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimension {
    /// At least 1.
    pub length: i32,
    /// 1 unless the array says otherwise.
    pub first: i32,
}

/// Calls `each` with every element of an array of one dimension, `None` for NULL.
///
/// Errors: an array of several dimensions or with bounds of its own, and what is no array.
pub fn elements(
    format: Format,
    value: &[u8],
    each: impl FnMut(Option<&[u8]>) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    match *walk(format, value, each)? {
        [] | [Dimension { first: 1, .. }] => Ok(()),
        _ => Err(Invalid),
    }
}

/// Calls `each` with every element, `None` for NULL, and gives the dimensions, of which an empty array has none.
///
/// Errors: what is no array.
pub fn walk(
    format: Format,
    value: &[u8],
    each: impl FnMut(Option<&[u8]>) -> Result<(), Invalid>,
) -> Result<Vec<Dimension>, Invalid> {
    match format {
        Format::Text => walk_text(value, each),
        Format::Binary => walk_binary(value, each),
    }
}

fn walk_binary(
    value: &[u8],
    mut each: impl FnMut(Option<&[u8]>) -> Result<(), Invalid>,
) -> Result<Vec<Dimension>, Invalid> {
    let mut rest = value;
    let mut next = || {
        let (number, tail) = rest.split_first_chunk().ok_or(Invalid)?;
        rest = tail;
        Ok(i32::from_be_bytes(*number))
    };
    // dimensions, has it NULLs, element type; length and first index of each dimension; elements
    let [count, _, _] = [next()?, next()?, next()?];
    if !usize::try_from(count).is_ok_and(|count| count <= DIMENSIONS_MAX) {
        return Err(Invalid);
    }
    let mut dimensions = Vec::new();
    let mut items = i32::from(count > 0);
    for _ in 0..count {
        let [length, first] = [next()?, next()?];
        items = items
            .checked_mul(length)
            .filter(|items| *items > 0)
            .ok_or(Invalid)?;
        dimensions.push(Dimension { length, first });
    }
    for _ in 0..items {
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
    fixed::<0>(rest).map(|_| dimensions)
}

/// `{1,NULL,"a \"b\" \\"}`, `{{1,2},{3,4}}`, `[0:1]={1,2}`
fn walk_text(
    value: &[u8],
    mut each: impl FnMut(Option<&[u8]>) -> Result<(), Invalid>,
) -> Result<Vec<Dimension>, Invalid> {
    let (bounds, value) = bounds(value)?;
    if value == b"{}" && bounds.is_empty() {
        return Ok(bounds);
    }
    // Lengths of the lists at each depth, once one was closed, and of those that are open.
    let mut lengths: Vec<Option<i32>> = Vec::new();
    let mut open: Vec<i32> = Vec::new();
    let mut element = Vec::new();
    let mut bytes = value.iter().copied().peekable();
    // An item has to come, and not a comma or an end.
    let mut wanted = true;
    let mut any = false;
    loop {
        match bytes.peek().copied() {
            Some(b'{') if wanted => {
                bytes.next();
                if let Some(outer) = open.last_mut() {
                    *outer += 1;
                }
                open.push(0);
                if lengths.len() < open.len() {
                    lengths.push(None);
                    // The first element says how deep it goes.
                    if any || open.len() > DIMENSIONS_MAX {
                        return Err(Invalid);
                    }
                }
            }
            Some(b'}') if !wanted => {
                bytes.next();
                let length = open.pop().ok_or(Invalid)?;
                let known = lengths.get_mut(open.len()).ok_or(Invalid)?;
                if *known.get_or_insert(length) != length {
                    return Err(Invalid);
                }
                if open.is_empty() {
                    break;
                }
            }
            Some(b',') if !wanted => {
                bytes.next();
                wanted = true;
            }
            Some(_) if wanted && !open.is_empty() && open.len() == lengths.len() => {
                if let Some(list) = open.last_mut() {
                    *list += 1;
                }
                let null = put_element(&mut bytes, &mut element)?;
                each((!null).then_some(element.as_slice()))?;
                (wanted, any) = (false, true);
            }
            _ => return Err(Invalid),
        }
    }
    if bytes.next().is_some() {
        return Err(Invalid);
    }
    let lengths = lengths.into_iter().map(|length| length.ok_or(Invalid));
    let lengths = lengths.collect::<Result<Vec<i32>, Invalid>>()?;
    let of = |length| Dimension { length, first: 1 };
    let plain: Vec<Dimension> = lengths.iter().copied().map(of).collect();
    if bounds.is_empty() {
        return Ok(plain);
    }
    let same = bounds.iter().map(|dimension| dimension.length).eq(lengths);
    same.then_some(bounds).ok_or(Invalid)
}

/// The bounds in front of an array, and the array: `[0:1][-2:-1]=`.
fn bounds(value: &[u8]) -> Result<(Vec<Dimension>, &[u8]), Invalid> {
    let mut found = Vec::new();
    let mut rest = value;
    while let Some(inner) = rest.strip_prefix(b"[") {
        let end = memchr::memchr(b']', inner).ok_or(Invalid)?;
        let (pair, tail) = inner.split_at(end);
        let colon = memchr::memchr(b':', pair).ok_or(Invalid)?;
        let (first, last) = pair.split_at(colon);
        let number = |text| i32::try_from(integer(text)?).map_err(|_| Invalid);
        let first = number(first)?;
        let last = number(last.get(1..).unwrap_or_default())?;
        let length = last
            .checked_sub(first)
            .and_then(|length| length.checked_add(1));
        let length = length.filter(|length| *length > 0).ok_or(Invalid)?;
        found.push(Dimension { length, first });
        rest = tail.get(1..).unwrap_or_default();
    }
    if found.len() > DIMENSIONS_MAX {
        return Err(Invalid);
    }
    match found.is_empty() {
        true => Ok((found, rest)),
        false => rest
            .strip_prefix(b"=")
            .map(|rest| (found, rest))
            .ok_or(Invalid),
    }
}

/// Reads one element up to what ends it, which stays. Gives whether it is NULL.
fn put_element(
    bytes: &mut std::iter::Peekable<impl Iterator<Item = u8>>,
    element: &mut Vec<u8>,
) -> Result<bool, Invalid> {
    element.clear();
    let quoted = bytes.next_if_eq(&b'"').is_some();
    loop {
        match bytes.peek().copied() {
            None => return Err(Invalid),
            Some(b'"') if quoted => {
                bytes.next();
                return Ok(false);
            }
            Some(b',' | b'}') if !quoted => break,
            Some(b'{' | b'"') if !quoted => return Err(Invalid),
            Some(byte) => {
                bytes.next();
                element.push(match byte {
                    b'\\' => bytes.next().ok_or(Invalid)?,
                    byte => byte,
                });
            }
        }
    }
    match element.is_empty() {
        true => Err(Invalid),
        false => Ok(element.eq_ignore_ascii_case(b"NULL")),
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
    fn dimensions_are_those_that_are_written() {
        let check = |text: &str, expected: &[(i32, i32)]| {
            let mut count = 0;
            let found = walk(Format::Text, text.as_bytes(), |_| {
                count += 1;
                Ok(())
            });
            let found: Vec<_> = found.unwrap().iter().map(|d| (d.length, d.first)).collect();
            assert_eq!(found, expected, "{text}");
            assert_eq!(
                count,
                expected.iter().map(|(length, _)| length).product::<i32>()
                    * i32::from(!expected.is_empty())
            );
        };
        check("{}", &[]);
        check("{{1,2,3},{4,5,6}}", &[(2, 1), (3, 1)]);
        check(r#"{{{"{"}},{{"}"}}}"#, &[(2, 1), (1, 1), (1, 1)]);
        check("[0:1]={1,2}", &[(2, 0)]);
        check("[-2:-1][5:5]={{1},{NULL}}", &[(2, -2), (1, 5)]);
        for wrong in [
            "{{1},{2,3}}",
            "{{1},2}",
            "{1,{2}}",
            "{{1},{{2}}}",
            "[0:2]={1,2}",
            "[0:1]{1,2}",
            "{{}}",
            "{{1}",
            "{1}}",
            "{1}x",
            "[1:2]={}",
        ] {
            assert_eq!(
                walk(Format::Text, wrong.as_bytes(), |_| Ok(())),
                Err(Invalid),
                "{wrong}"
            );
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
