//! What a statement's text says, without asking a server.
//!
//! `plain` lets pass what is plainly a query; `lexer` cuts a text into tokens, `statements` into statements, `session` says what each does to its session;
//! `settings` and `session_settings` keep account of what a session has set.

mod cursor;
mod fill;
pub mod keyword;
pub mod lexer;
mod plain;
mod sample;
pub mod session;
pub mod session_settings;
pub mod set;
pub mod settings;
pub mod statements;

pub use cursor::Name;
pub use fill::fill;
pub use sample::sample;
