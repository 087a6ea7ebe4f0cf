//! Errors and warnings about the configuration: where, and why.

use std::fmt;
use std::sync::Arc;

/// One error or warning: where and why.
///
/// Shown as `pgdog.toml:12: general.port: expected a whole number, found a string`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Path of the file as given, or the name of a variable or flag.
    pub file: Arc<str>,
    /// Line in the file, from 1.
    pub line: Option<usize>,
    /// Section and key; empty for the file as a whole.
    pub key: String,
    /// What is wrong and what belongs there. Never contains a secret.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Errors and warnings found so far.
#[derive(Debug, Default)]
pub(super) struct Problems {
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// A file could not be parsed, so that what it would say is unknown.
    pub(super) syntax_error: bool,
}

impl Problems {
    pub(super) fn merge(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.warnings.extend(other.warnings);
        self.syntax_error |= other.syntax_error;
    }
}
