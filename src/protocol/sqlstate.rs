//! The SQLSTATE codes we send or act on, by documented name.
//!
//! Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>

/// A five-character SQLSTATE.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// 08P01
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    /// 08001
    pub const SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION: Self = Self(*b"08001");
    /// 28P01
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
}

impl std::fmt::Display for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or("XX000"))
    }
}

impl std::fmt::Debug for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
