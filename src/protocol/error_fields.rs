//! Fields of ErrorResponse and NoticeResponse.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-error-fields.html>

use super::backend::tag;
use super::sqlstate::SqlState;
use super::wire::{put_message, put_text, Malformed, Reader};
use crate::error::Error;

/// Value of field `R` in what we make ourselves, so that clients can tell it from a server's.
pub const ROUTINE: &str = "pgdog";

/// Codes of the fields.
pub mod field {
    /// Severity in the server's language.
    pub const SEVERITY_LOCALIZED: u8 = b'S';
    /// Severity in English; not sent before PostgreSQL 9.6.
    pub const SEVERITY: u8 = b'V';
    /// SQLSTATE.
    pub const CODE: u8 = b'C';
    /// The message.
    pub const MESSAGE: u8 = b'M';
    /// Second line.
    pub const DETAIL: u8 = b'D';
    /// What to do about it.
    pub const HINT: u8 = b'H';
    /// Place in the statement, in characters from 1.
    pub const POSITION: u8 = b'P';
    /// Function that reported it.
    pub const ROUTINE: u8 = b'R';
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// For developers.
    Debug,
    /// For the server's log.
    Log,
    /// Asked for by the user, as by VERBOSE.
    Info,
    /// May be of interest.
    Notice,
    /// Probably a mistake.
    Warning,
    /// The statement failed.
    Error,
    /// The connection ends.
    Fatal,
    /// All connections end.
    Panic,
}

impl Severity {
    /// The word of field `V`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Log => "LOG",
            Self::Info => "INFO",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
        }
    }

    /// A word of field `V`.
    pub fn from_bytes(word: &[u8]) -> Option<Self> {
        [
            Self::Debug,
            Self::Log,
            Self::Info,
            Self::Notice,
            Self::Warning,
            Self::Error,
            Self::Fatal,
            Self::Panic,
        ]
        .into_iter()
        .find(|severity| severity.as_str().as_bytes() == word)
    }
}

/// The body of an ErrorResponse or NoticeResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields<'a> {
    /// Pairs of code and string, without the final zero byte.
    pairs: &'a [u8],
}

impl<'a> Fields<'a> {
    /// A view of a message's body.
    ///
    /// Errors: a field cut short, no final zero byte, or bytes behind it.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let reader = Reader::new(body, "ErrorResponse");
        let Some((0, pairs)) = body.split_last() else {
            return Err(reader.malformed());
        };
        let mut reader = Reader::new(pairs, "ErrorResponse");
        while !reader.rest().is_empty() {
            if reader.u8()? == 0 {
                return Err(reader.malformed());
            }
            reader.text()?;
        }
        Ok(Self { pairs })
    }

    /// Code and text of each field in the order sent. Unknown codes are to be passed over.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &'a [u8])> + Clone + 'a {
        let mut reader = Reader::new(self.pairs, "ErrorResponse");
        std::iter::from_fn(move || Some((reader.u8().ok()?, reader.text().ok()?)))
    }

    /// Text of a field, see [`field`].
    pub fn get(&self, code: u8) -> Option<&'a [u8]> {
        self.iter()
            .find_map(|(found, text)| (found == code).then_some(text))
    }

    /// Severity from field `V`; from `S`, which may be translated, only when there is no `V`.
    pub fn severity(&self) -> Option<Severity> {
        self.get(field::SEVERITY)
            .or_else(|| self.get(field::SEVERITY_LOCALIZED))
            .and_then(Severity::from_bytes)
    }

    /// SQLSTATE.
    pub fn code(&self) -> Option<SqlState> {
        SqlState::from_bytes(self.get(field::CODE)?.try_into().ok()?)
    }

    /// The message, empty without one.
    pub fn message(&self) -> &'a [u8] {
        self.get(field::MESSAGE).unwrap_or_default()
    }

    /// Does the sender close the connection after this?
    pub fn is_fatal(&self) -> bool {
        self.severity() >= Some(Severity::Fatal)
    }

    /// Appends the same fields as an ErrorResponse.
    pub fn encode_error(&self, out: &mut Vec<u8>) {
        self.encode(out, tag::ERROR_RESPONSE);
    }

    /// The same with a hint, which there was none of, as an ErrorResponse.
    pub fn encode_error_with(&self, hint: &str, out: &mut Vec<u8>) {
        put_message(out, tag::ERROR_RESPONSE, |out| {
            out.extend_from_slice(self.pairs);
            out.push(field::HINT);
            put_text(out, hint.as_bytes());
            out.push(0);
        });
    }

    /// The same for a statement that has so many characters more in front, as an ErrorResponse.
    pub fn encode_error_behind(&self, before: usize, out: &mut Vec<u8>) {
        put_message(out, tag::ERROR_RESPONSE, |out| {
            for (code, text) in self.iter() {
                out.push(code);
                let digits = std::str::from_utf8(text).ok();
                let position = digits.and_then(|digits| digits.parse::<usize>().ok());
                match position.filter(|_| code == field::POSITION) {
                    Some(at) => put_text(out, at.saturating_add(before).to_string().as_bytes()),
                    None => put_text(out, text),
                }
            }
            out.push(0);
        });
    }

    /// Appends the same fields as a NoticeResponse.
    pub fn encode_notice(&self, out: &mut Vec<u8>) {
        self.encode(out, tag::NOTICE_RESPONSE);
    }

    fn encode(&self, out: &mut Vec<u8>, tag: u8) {
        put_message(out, tag, |out| {
            out.extend_from_slice(self.pairs);
            out.push(0);
        });
    }
}

/// Appends an error of ours as an ErrorResponse.
pub fn put_error(out: &mut Vec<u8>, error: &Error) {
    put(
        out,
        tag::ERROR_RESPONSE,
        error.severity(),
        error.code,
        &error.message,
        (error.detail.as_deref(), error.hint),
        error.routine.unwrap_or(ROUTINE),
    );
}

/// Appends a notice of ours as a NoticeResponse. `severity` is meant to be below `Error`.
pub fn put_notice(
    out: &mut Vec<u8>,
    severity: Severity,
    code: SqlState,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    put(
        out,
        tag::NOTICE_RESPONSE,
        severity.as_str(),
        code,
        message,
        (detail, hint),
        ROUTINE,
    );
}

fn put(
    out: &mut Vec<u8>,
    tag: u8,
    severity: &str,
    code: SqlState,
    message: &str,
    (detail, hint): (Option<&str>, Option<&str>),
    routine: &str,
) {
    put_message(out, tag, |out| {
        let mut put = |code, text: &str| {
            out.push(code);
            put_text(out, text.as_bytes());
        };
        put(field::SEVERITY_LOCALIZED, severity);
        put(field::SEVERITY, severity);
        put(field::CODE, code.as_str());
        put(field::MESSAGE, message);
        if let Some(detail) = detail {
            put(field::DETAIL, detail);
        }
        if let Some(hint) = hint {
            put(field::HINT, hint);
        }
        put(field::ROUTINE, routine);
        out.push(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;

    #[test]
    fn a_place_moves_with_its_statement() {
        let fields = Fields::parse(b"C42703\0P8\0p9\0\0").unwrap();
        let mut out = Vec::new();
        fields.encode_error_behind(6, &mut out);
        assert_eq!(&out[5..], b"C42703\0P14\0p9\0\0");
    }

    #[test]
    fn our_errors_have_all_fields_and_our_name() {
        let error = Error::error(
            Fault::Client,
            SqlState::INVALID_SQL_STATEMENT_NAME,
            "prepared statement \"a\" does not exist",
        )
        .detail("two are known")
        .hint("Prepare it.");
        let mut out = Vec::new();
        put_error(&mut out, &error);
        assert_eq!(
            out.strip_prefix(b"E\0\0\0\x64").unwrap(),
            b"SERROR\0VERROR\0C26000\0Mprepared statement \"a\" does not exist\0\
              Dtwo are known\0HPrepare it.\0Rpgdog\0\0"
        );
        let fields = Fields::parse(&out[5..]).unwrap();
        assert_eq!(fields.severity(), Some(Severity::Error));
        assert_eq!(fields.code(), Some(SqlState::INVALID_SQL_STATEMENT_NAME));
        assert!(!fields.is_fatal());
    }

    #[test]
    fn a_hint_is_added_to_what_a_server_has_said() {
        let body = b"SERROR\0VERROR\0C55000\0Mlastval is not yet defined\0Rlastval\0\0";
        let mut out = Vec::new();
        Fields::parse(body)
            .unwrap()
            .encode_error_with("Ask elsewhere.", &mut out);
        let (head, rest) = out.split_at(5);
        assert_eq!(head, [b'E', 0, 0, 0, u8::try_from(rest.len() + 4).unwrap()]);
        let fields = Fields::parse(rest).unwrap();
        assert_eq!(fields.get(field::HINT), Some(&b"Ask elsewhere."[..]));
        assert!(rest.starts_with(&body[..body.len() - 1]));
    }

    #[test]
    fn fatal_errors_and_warnings_say_so() {
        let mut out = Vec::new();
        put_error(&mut out, &Error::protocol_violation("x"));
        assert!(Fields::parse(&out[5..]).unwrap().is_fatal());

        let mut out = Vec::new();
        let code = SqlState::NO_ACTIVE_SQL_TRANSACTION;
        let text = "there is no transaction in progress";
        put_notice(&mut out, Severity::Warning, code, text, None, None);
        assert_eq!(out[0], b'N');
        let fields = Fields::parse(&out[5..]).unwrap();
        assert_eq!(fields.severity(), Some(Severity::Warning));
        assert_eq!(fields.message(), text.as_bytes());
        assert_eq!(fields.get(field::ROUTINE), Some(ROUTINE.as_bytes()));
    }

    #[test]
    fn severity_is_read_from_the_untranslated_field() {
        let check = |body: &[u8], severity| {
            assert_eq!(Fields::parse(body).unwrap().severity(), severity);
        };
        check(b"SFATAL\0\0", Some(Severity::Fatal));
        check("SFEHLER\0VERROR\0\0".as_bytes(), Some(Severity::Error));
        check("SFEHLER\0\0".as_bytes(), None);
        check(b"\0", None);
    }

    #[test]
    fn refuses_fields_that_do_not_end() {
        for body in [
            &b""[..],
            b"SERROR",
            b"SERROR\0",
            b"SERROR\0\0\0",
            b"\0\0",
            b"S\0\0x",
        ] {
            assert!(Fields::parse(body).is_err(), "{}", body.escape_ascii());
        }
    }
}
