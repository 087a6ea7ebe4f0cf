//! Values as texts that mean the same wherever they are read.

use std::fmt::Write as _;

/// Settings under which a value's text says all of it, whatever the settings where it is read.
const SETTINGS: [(&str, &str); 3] = [
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
];

/// A statement, in a transaction, whose answer is such texts. Its rows come between two of settings.
pub(super) fn plainly(statement: &str) -> String {
    let mut text = "SELECT ".to_owned();
    for (at, (setting, value)) in SETTINGS.iter().enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        let _ = write!(
            text,
            "{comma}pg_catalog.set_config('pgdog.kept_{setting}', pg_catalog.current_setting('{setting}'), true), \
             pg_catalog.set_config('{setting}', '{value}', true)"
        );
    }
    let _ = write!(text, "; {statement}; SELECT ");
    for (at, (setting, _)) in SETTINGS.iter().enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        let _ = write!(
            text,
            "{comma}pg_catalog.set_config('{setting}', pg_catalog.current_setting('pgdog.kept_{setting}'), true)"
        );
    }
    text
}
