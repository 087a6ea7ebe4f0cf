//! Names of encodings: PostgreSQL knows most by several.

/// By these names, and under which one.
///
/// Source: <https://www.postgresql.org/docs/current/multibyte.html#MULTIBYTE-CHARSET-SUPPORTED>, the column of aliases.
const ALIASES: [(&str, &[u8]); 39] = [
    ("unicode", b"utf8"),
    ("mskanji", b"sjis"),
    ("shiftjis", b"sjis"),
    ("win932", b"sjis"),
    ("windows932", b"sjis"),
    ("win936", b"gbk"),
    ("windows936", b"gbk"),
    ("win949", b"uhc"),
    ("windows949", b"uhc"),
    ("win950", b"big5"),
    ("windows950", b"big5"),
    ("alt", b"win866"),
    ("windows866", b"win866"),
    ("windows874", b"win874"),
    ("windows1250", b"win1250"),
    ("win", b"win1251"),
    ("windows1251", b"win1251"),
    ("windows1252", b"win1252"),
    ("windows1253", b"win1253"),
    ("windows1254", b"win1254"),
    ("windows1255", b"win1255"),
    ("windows1256", b"win1256"),
    ("windows1257", b"win1257"),
    ("abc", b"win1258"),
    ("tcvn", b"win1258"),
    ("tcvn5712", b"win1258"),
    ("vscii", b"win1258"),
    ("windows1258", b"win1258"),
    ("koi8", b"koi8r"),
    ("iso88591", b"latin1"),
    ("iso88592", b"latin2"),
    ("iso88593", b"latin3"),
    ("iso88594", b"latin4"),
    ("iso88599", b"latin5"),
    ("iso885910", b"latin6"),
    ("iso885913", b"latin7"),
    ("iso885914", b"latin8"),
    ("iso885915", b"latin9"),
    ("iso885916", b"latin10"),
];

/// Those of clients in which a byte of a character may be a backslash.
///
/// Source: the same page, the encodings that are for clients only.
const OVERLAPPING: [&[u8]; 7] = [
    b"big5",
    b"gb18030",
    b"gbk",
    b"johab",
    b"sjis",
    b"shiftjis2004",
    b"uhc",
];

/// The one name of what has several: letters and digits alone count, in lower case.
fn canonical(name: &[u8]) -> Vec<u8> {
    let letters = name.iter().filter(|byte| byte.is_ascii_alphanumeric());
    let name: Vec<u8> = letters.map(u8::to_ascii_lowercase).collect();
    let alias = ALIASES.iter().find(|(alias, _)| alias.as_bytes() == name);
    alias.map_or(name, |(_, known)| known.to_vec())
}

/// May a byte of a character look like a backslash?
pub(super) fn is_overlapping(name: &[u8]) -> bool {
    let usual = name.is_empty() || name.eq_ignore_ascii_case(b"UTF8");
    !usual && OVERLAPPING.contains(&&*canonical(name))
}

/// Are both names of one encoding?
pub fn are_same(one: &[u8], other: &[u8]) -> bool {
    !one.is_empty() && (one.eq_ignore_ascii_case(other) || canonical(one) == canonical(other))
}

/// Does a client of this encoding send texts as a database of that one stores them? Nothing is converted from or to
/// `SQL_ASCII`. Of one that is not known it does not.
pub fn has_same_bytes(client: &[u8], database: &[u8]) -> bool {
    let raw = |name: &[u8]| canonical(name) == b"sqlascii";
    let known = !client.is_empty() && !database.is_empty();
    known && (are_same(client, database) || raw(client) || raw(database))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_all_their_spellings() {
        for (one, other, same) in [
            ("UTF8", "utf-8", true),
            ("'utf-8'", "Unicode", true),
            ("ISO 8859-1", "LATIN1", true),
            ("LATIN1", "LATIN2", false),
            ("", "", false),
            ("x", "x", true),
        ] {
            let found = are_same(one.as_bytes(), other.as_bytes());
            assert_eq!(found, same, "{one} {other}");
        }
        assert!(has_same_bytes(b"SQL_ASCII", b"UTF8") && has_same_bytes(b"LATIN1", b"SQL_ASCII"));
        assert!(!has_same_bytes(b"LATIN1", b"UTF8") && !has_same_bytes(b"SQL_ASCII", b""));
    }

    #[test]
    fn a_backslash_may_be_half_of_a_character() {
        for name in [
            "SJIS",
            "ShiftJIS",
            "shift_jis",
            "mskanji",
            "win932",
            "Windows-932",
            "SHIFT_JIS_2004",
            "big-5",
            "win950",
            "GBK",
            "windows936",
            "gb-18030",
            "johab",
            "uhc",
            "win949",
        ] {
            assert!(is_overlapping(name.as_bytes()), "{name}");
        }
        for name in ["", "UTF8", "EUC_JP", "euc_jis_2004", "LATIN1", "win1252"] {
            assert!(!is_overlapping(name.as_bytes()), "{name}");
        }
    }
}
