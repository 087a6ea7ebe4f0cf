//! SASLprep as PostgreSQL does it: a password typed in another way is still the same password.
//!
//! PostgreSQL differs from RFC 4013 in two ways, and keys must be the same as its own:
//! - a password that cannot be prepared is used as it is;
//! - what is prohibited is looked for before normalization, not in its output. (U+0340 is prohibited, but
//!   normalization would have replaced it.) That is why `stringprep::saslprep` does not serve.
//!
//! Sources: <https://www.rfc-editor.org/rfc/rfc4013>, and measured against PostgreSQL 15.

use std::borrow::Cow;

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;

/// The bytes to derive keys from: normalized, or `password` itself if it is not UTF-8, holds a prohibited or
/// unassigned character, mixes directions of writing, or would be empty.
pub(super) fn saslprep(password: &[u8]) -> Cow<'_, [u8]> {
    if password.is_ascii() {
        return Cow::Borrowed(password);
    }
    match std::str::from_utf8(password).ok().and_then(prepare) {
        Some(prepared) => Cow::Owned(prepared.into_bytes()),
        None => Cow::Borrowed(password),
    }
}

fn prepare(password: &str) -> Option<String> {
    // U+200B is in both tables; being a space goes first.
    let mapped: Vec<char> = password
        .chars()
        .filter_map(|c| match c {
            c if tables::non_ascii_space_character(c) => Some(' '),
            c if tables::commonly_mapped_to_nothing(c) => None,
            c => Some(c),
        })
        .collect();
    let (first, last) = (*mapped.first()?, *mapped.last()?);
    if mapped.iter().any(|c| is_prohibited(*c)) {
        return None;
    }
    let right_to_left = tables::bidi_r_or_al;
    if mapped.iter().any(|c| right_to_left(*c)) {
        let mixed = mapped.iter().any(|c| tables::bidi_l(*c));
        if mixed || !right_to_left(first) || !right_to_left(last) {
            return None;
        }
    }
    Some(mapped.into_iter().nfkc().collect())
}

/// RFC 4013, sections 2.3 and 2.5.
fn is_prohibited(c: char) -> bool {
    tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
        || tables::unassigned_code_point(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepares_or_gives_up() {
        let same = [
            "",
            "user",
            "\u{7}",       // RFC 4013, section 3: prohibited, but ASCII is not looked at
            "\u{627}1",    // RFC 4013, section 3: does not end right-to-left
            "\u{AD}",      // nothing left
            "\u{AA}\u{7}", // prohibited
            "\u{AA}\u{340}",
            "\u{AA}\u{221}", // unassigned in Unicode 3.2
        ];
        for password in same {
            assert_eq!(
                saslprep(password.as_bytes()),
                password.as_bytes(),
                "{password:?}"
            );
        }
        let changed = [
            ("I\u{AD}X", "IX"),
            ("\u{AA}", "a"),
            ("\u{2168}", "IX"),
            ("a\u{200B}b\u{3000}c", "a b c"),
            ("e\u{301}", "\u{E9}"),
            ("\u{627}\u{AD}\u{628}", "\u{627}\u{628}"),
        ];
        for (password, expected) in changed {
            assert_eq!(
                saslprep(password.as_bytes()),
                expected.as_bytes(),
                "{password:?}"
            );
        }
        assert_eq!(
            saslprep(b"\xc2\xaa\xff").as_ref(),
            b"\xc2\xaa\xff",
            "not UTF-8"
        );
    }
}
