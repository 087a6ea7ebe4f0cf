//! The startup parameter `options`: a server's command line, as pairs of name and value.
//!
//! Accepted are the two ways to set a parameter, `-c name=value` and `--name=value`. The one-letter
//! switches of the `postgres` program are refused: we could not tell which parameter they change.
//!
//! Source: <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-OPTIONS>

use super::sqlstate::SqlState;
use crate::error::{Error, Fault};

/// Names and values, in the order given.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Names and values in the order given; a later one overrides an earlier one. In names `-` has become `_`.
///
/// Errors: FATAL 42601 in PostgreSQL's words for anything but the two forms above.
pub fn parameters(options: &[u8]) -> Result<Pairs, Error> {
    let mut arguments = if is_form_encoded(options) {
        split(&replace(options, b'+', b' '))
    } else {
        split(options)
    }
    .into_iter();

    let mut parameters = Vec::new();
    while let Some(argument) = arguments.next() {
        let (setting, switch) = if let Some(setting) = argument.strip_prefix(b"--") {
            (setting.to_vec(), "--")
        } else if argument == b"-c" {
            let Some(setting) = arguments.next() else {
                return Err(syntax(format!(
                    "invalid command-line argument for server process: {}",
                    argument.escape_ascii()
                )));
            };
            (setting, "-c ")
        } else if let Some(setting) = argument.strip_prefix(b"-c") {
            (setting.to_vec(), "-c ")
        } else {
            return Err(syntax(format!(
                "invalid command-line argument for server process: {}",
                argument.escape_ascii()
            )));
        };
        let mut sides = setting.splitn(2, |&byte| byte == b'=');
        let (Some(name), Some(value)) = (sides.next(), sides.next()) else {
            return Err(syntax(format!(
                "{switch}{} requires a value",
                setting.escape_ascii()
            )));
        };
        parameters.push((replace(name, b'-', b'_'), value.to_vec()));
    }
    Ok(parameters)
}

/// Splits at white space. A backslash makes the next byte an ordinary one.
///
/// An argument may come out empty, where the text ends in a lone backslash.
pub fn split(options: &[u8]) -> Vec<Vec<u8>> {
    let mut arguments = Vec::new();
    let mut argument: Option<Vec<u8>> = None;
    let mut bytes = options.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => argument.get_or_insert_default().extend(bytes.next()),
            _ if is_space(byte) => arguments.extend(argument.take()),
            _ => argument.get_or_insert_default().push(byte),
        }
    }
    arguments.extend(argument);
    arguments
}

/// Some programs write connection URLs as HTML forms do, with `+` for a space, which libpq leaves alone:
/// `-c+geqo=off`. No parameter's name begins with `+`, so nothing that PostgreSQL understands is lost when
/// such a text is read as it was meant. A `+` in any other text is a plus: `-c TimeZone=Etc/GMT+3`.
fn is_form_encoded(options: &[u8]) -> bool {
    options.starts_with(b"-c+") && !options.iter().copied().any(is_space)
}

/// White space of the C locale.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn replace(text: &[u8], from: u8, to: u8) -> Vec<u8> {
    text.iter()
        .map(|&byte| if byte == from { to } else { byte })
        .collect()
}

fn syntax(message: String) -> Error {
    Error::fatal(Fault::Client, SqlState::SYNTAX_ERROR, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(options: &str, expected: &[(&str, &str)]) {
        let found = parameters(options.as_bytes()).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(n, v)| {
                (
                    std::str::from_utf8(n).unwrap(),
                    std::str::from_utf8(v).unwrap(),
                )
            })
            .collect();
        assert_eq!(found, expected, "{options}");
    }

    #[test]
    fn reads_both_forms() {
        check("", &[]);
        check("  \t", &[]);
        check("-c geqo=off", &[("geqo", "off")]);
        check("-cgeqo=off", &[("geqo", "off")]);
        check("--geqo=off", &[("geqo", "off")]);
        check(
            "--search-path=a -c  statement-timeout=5s",
            &[("search_path", "a"), ("statement_timeout", "5s")],
        );
        check("-c a.b=x=y -c a.b=", &[("a.b", "x=y"), ("a.b", "")]);
    }

    /// Edge case 58.
    #[test]
    fn escaped_spaces_belong_to_the_value() {
        check(r"-c search_path=a,\ b", &[("search_path", "a, b")]);
        check(r"-c x=a\\b\ \\\ c", &[("x", r"a\b \ c")]);
        check("-c x=a\\\tb\\\nc", &[("x", "a\tb\nc")]);
        check(r"\-c x=1", &[("x", "1")]);
        check(r"-c x=end\", &[("x", "end")]);
    }

    /// Edge case 58.
    #[test]
    fn a_plus_is_a_space_only_where_it_cannot_be_a_plus() {
        check("-c+geqo=off", &[("geqo", "off")]);
        check(
            "-c+a=1+-c+b=2+--d-e=3",
            &[("a", "1"), ("b", "2"), ("d_e", "3")],
        );
        check(r"-c+search_path=a,\+b", &[("search_path", "a, b")]);
        check("-c TimeZone=Etc/GMT+3", &[("TimeZone", "Etc/GMT+3")]);
        check("--TimeZone=Etc/GMT+3", &[("TimeZone", "Etc/GMT+3")]);
        check("-cTimeZone=+03", &[("TimeZone", "+03")]);
        check("-c+odd=1 -c b=2+3", &[("+odd", "1"), ("b", "2+3")]);
    }

    #[test]
    fn refuses_in_the_words_of_postgresql() {
        let check = |options: &str, message: &str| {
            let error = parameters(options.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), format!("FATAL 42601: {message}"));
        };
        check(
            "geqo=off",
            "invalid command-line argument for server process: geqo=off",
        );
        check(
            "-c a=1 -W 5",
            "invalid command-line argument for server process: -W",
        );
        check(
            "-c a=1 -c",
            "invalid command-line argument for server process: -c",
        );
        check("-c geqo", "-c geqo requires a value");
        check("--geqo", "--geqo requires a value");
        check("\\", "invalid command-line argument for server process: ");
    }

    proptest! {
        #[test]
        fn splitting_undoes_escaping(
            arguments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..9), 0..6)
        ) {
            let mut text = Vec::new();
            for argument in &arguments {
                text.push(b' ');
                for &byte in argument {
                    if is_space(byte) || byte == b'\\' {
                        text.push(b'\\');
                    }
                    text.push(byte);
                }
            }
            prop_assert_eq!(split(&text), arguments);
        }
    }
}
