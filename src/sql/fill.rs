//! A value in the place of `$1`, where a query has to go by the simple protocol.

use super::lexer::{Dialect, Kind, Lexer};

/// The text with `value` wherever it says `$1`. The value may be anybody's: it goes in as hexadecimal digits, which
/// mean the same in every encoding and with every setting.
pub fn fill(text: &str, value: &str) -> String {
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    fill_with(
        text,
        &format!("convert_from(decode('{hex}', 'hex'), 'UTF8')"),
    )
}

/// The text with this expression wherever it says `$1`.
pub fn fill_with(text: &str, value: &str) -> String {
    let bytes = text.as_bytes();
    let mut filled = String::with_capacity(text.len() + value.len());
    for token in Lexer::new(bytes, Dialect::default()) {
        match (token.kind, text.get(token.start..token.end)) {
            (Kind::Parameter, Some("$1")) => filled += value,
            (_, part) => filled += part.unwrap_or_default(),
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_parameter_is_replaced() {
        let a = "convert_from(decode('61', 'hex'), 'UTF8')";
        for (text, expected) in [
            ("SELECT 1", "SELECT 1".to_owned()),
            ("f($1)", format!("f({a})")),
            ("$1 || $1", format!("{a} || {a}")),
            ("$10, $2", "$10, $2".to_owned()),
            (
                "'$1' || \"$1\" /* $1 */",
                "'$1' || \"$1\" /* $1 */".to_owned(),
            ),
            ("$x$ $1 $x$, 'é', $1", format!("$x$ $1 $x$, 'é', {a}")),
        ] {
            assert_eq!(fill(text, "a"), expected);
        }
    }

    #[test]
    fn no_value_gets_out_of_its_place() {
        for value in ["'", "\\", "');DROP TABLE t--", "é\u{1F600}", ""] {
            let filled = fill("$1", value);
            let digits = filled
                .strip_prefix("convert_from(decode('")
                .and_then(|rest| rest.strip_suffix("', 'hex'), 'UTF8')"))
                .expect("one call around the digits");
            assert!(
                digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{digits}"
            );
            assert_eq!(digits.len(), 2 * value.len());
        }
    }
}
