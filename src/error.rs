//! Errors this program makes: who is at fault, what the client hears, what survives.

use std::borrow::Cow;

use crate::protocol::sqlstate::SqlState;

/// Whose fault an error is. Log level and metric label follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client broke a rule or asked for something that it may not have.
    Client,
    /// A server failed, refused us or went away.
    Server,
    /// We did: a limit, a time-out of ours, an invariant that does not hold.
    Proxy,
}

/// What is left after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// The session goes on: severity ERROR.
    Session,
    /// The client's connection ends: severity FATAL.
    Nothing,
}

/// An error made by this program, on its way to a client.
///
/// The text is a safe sentence: never a password, never the address of a server before authentication.
/// Source of codes and wording: `docs/errors.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Whose fault.
    pub fault: Fault,
    /// What the client is told by code.
    pub code: SqlState,
    /// What the client is told in words: lower-case start, no final full stop.
    pub message: Cow<'static, str>,
    /// Values, settings, time waited.
    pub detail: Option<String>,
    /// What to change.
    pub hint: Option<&'static str>,
    /// Does the session go on?
    pub survives: Survives,
    /// The function of PostgreSQL that would say it, where drivers act on that.
    pub routine: Option<&'static str>,
}

impl Error {
    /// An error after which the session goes on.
    #[expect(
        clippy::self_named_constructors,
        reason = "named after the severity, beside `fatal`"
    )]
    pub fn error(fault: Fault, code: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            fault,
            code,
            message: message.into(),
            detail: None,
            hint: None,
            survives: Survives::Session,
            routine: None,
        }
    }

    /// An error that ends the client's connection.
    pub fn fatal(fault: Fault, code: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            survives: Survives::Nothing,
            ..Self::error(fault, code, message)
        }
    }

    /// `protocol violation: …`, which ends the connection.
    pub fn protocol_violation(what: impl std::fmt::Display) -> Self {
        Self::fatal(
            Fault::Client,
            SqlState::PROTOCOL_VIOLATION,
            format!("protocol violation: {what}"),
        )
    }

    /// The same error with a detail line.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same error with a hint.
    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// The same error, said by this function of PostgreSQL.
    #[must_use]
    pub fn routine(mut self, routine: &'static str) -> Self {
        self.routine = Some(routine);
        self
    }

    /// `ERROR` or `FATAL`.
    pub fn severity(&self) -> &'static str {
        match self.survives {
            Survives::Session => "ERROR",
            Survives::Nothing => "FATAL",
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.severity(), self.code, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
