//! The SQLSTATE codes we send or act on, by documented name.
//!
//! Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>

/// A five-character SQLSTATE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SqlState([u8; 5]);

/// One constant per code: the condition name of the appendix in capitals.
macro_rules! codes {
    ($($name:ident = $code:literal;)*) => {
        impl SqlState {
            $(
                #[doc = concat!("`", $code, "`")]
                pub const $name: Self = Self::literal($code);
            )*
        }

        /// Every constant above with its name.
        #[cfg(test)]
        const ALL: &[(&str, SqlState)] = &[$((stringify!($name), SqlState::$name)),*];
    };
}

codes! {
    SUCCESSFUL_COMPLETION = "00000";
    WARNING = "01000";
    SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION = "08001";
    SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION = "08004";
    CONNECTION_FAILURE = "08006";
    TRANSACTION_RESOLUTION_UNKNOWN = "08007";
    PROTOCOL_VIOLATION = "08P01";
    FEATURE_NOT_SUPPORTED = "0A000";
    CARDINALITY_VIOLATION = "21000";
    NUMERIC_VALUE_OUT_OF_RANGE = "22003";
    CHARACTER_NOT_IN_REPERTOIRE = "22021";
    DIVISION_BY_ZERO = "22012";
    INVALID_PARAMETER_VALUE = "22023";
    INVALID_ROW_COUNT_IN_LIMIT_CLAUSE = "2201W";
    INVALID_ROW_COUNT_IN_RESULT_OFFSET_CLAUSE = "2201X";
    INVALID_TEXT_REPRESENTATION = "22P02";
    BAD_COPY_FILE_FORMAT = "22P04";
    NOT_NULL_VIOLATION = "23502";
    INVALID_TRANSACTION_STATE = "25000";
    ACTIVE_SQL_TRANSACTION = "25001";
    READ_ONLY_SQL_TRANSACTION = "25006";
    NO_ACTIVE_SQL_TRANSACTION = "25P01";
    IN_FAILED_SQL_TRANSACTION = "25P02";
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = "25P03";
    INVALID_SQL_STATEMENT_NAME = "26000";
    INVALID_AUTHORIZATION_SPECIFICATION = "28000";
    INVALID_PASSWORD = "28P01";
    INVALID_CURSOR_NAME = "34000";
    INVALID_SAVEPOINT_SPECIFICATION = "3B001";
    INVALID_CATALOG_NAME = "3D000";
    SERIALIZATION_FAILURE = "40001";
    DEADLOCK_DETECTED = "40P01";
    GENERATED_ALWAYS = "428C9";
    INSUFFICIENT_PRIVILEGE = "42501";
    SYNTAX_ERROR = "42601";
    UNDEFINED_COLUMN = "42703";
    UNDEFINED_OBJECT = "42704";
    DATATYPE_MISMATCH = "42804";
    UNDEFINED_PARAMETER = "42P02";
    DUPLICATE_CURSOR = "42P03";
    DUPLICATE_PREPARED_STATEMENT = "42P05";
    OUT_OF_MEMORY = "53200";
    TOO_MANY_CONNECTIONS = "53300";
    PROGRAM_LIMIT_EXCEEDED = "54000";
    STATEMENT_TOO_COMPLEX = "54001";
    OBJECT_NOT_IN_PREREQUISITE_STATE = "55000";
    CANT_CHANGE_RUNTIME_PARAM = "55P02";
    LOCK_NOT_AVAILABLE = "55P03";
    QUERY_CANCELED = "57014";
    ADMIN_SHUTDOWN = "57P01";
    CRASH_SHUTDOWN = "57P02";
    CANNOT_CONNECT_NOW = "57P03";
    IDLE_SESSION_TIMEOUT = "57P05";
    SYSTEM_ERROR = "58000";
    IO_ERROR = "58030";
    CONFIG_FILE_ERROR = "F0000";
    INTERNAL_ERROR = "XX000";
    DATA_CORRUPTED = "XX001";
}

impl SqlState {
    /// A code as a server sent it. Anything but five digits or capital letters is none.
    pub fn from_bytes(code: [u8; 5]) -> Option<Self> {
        code.iter()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
            .then_some(Self(code))
    }

    /// The five characters as they travel in field `C`.
    pub const fn as_bytes(&self) -> &[u8; 5] {
        &self.0
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("both constructors admit ASCII only")
    }

    /// The class, its first two characters: `08`, `57`.
    pub const fn class(&self) -> [u8; 2] {
        let [first, second, ..] = self.0;
        [first, second]
    }

    const fn literal(code: &str) -> Self {
        match code.as_bytes() {
            [a, b, c, d, e] => Self([*a, *b, *c, *d, *e]),
            _ => panic!("a SQLSTATE has five characters"),
        }
    }
}

impl std::fmt::Display for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Debug for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_constant_is_a_valid_code_and_named_once() {
        for (index, (name, code)) in ALL.iter().enumerate() {
            assert_eq!(
                SqlState::from_bytes(*code.as_bytes()),
                Some(*code),
                "{name}"
            );
            let twins = ALL.iter().filter(|(_, other)| other == code).count();
            assert_eq!(twins, 1, "{name} at {index} is a duplicate");
        }
    }

    #[test]
    fn refuses_what_is_no_code() {
        for bytes in [*b"57p01", *b"57 01", *b"\xff\xff\xff\xff\xff", [0; 5]] {
            assert_eq!(SqlState::from_bytes(bytes), None);
        }
        assert_eq!(SqlState::ADMIN_SHUTDOWN.to_string(), "57P01");
        assert_eq!(SqlState::ADMIN_SHUTDOWN.class(), *b"57");
    }
}
