//! What a statement's text says, without asking a server.
//!
//! `lexer` cuts it into tokens, `statements` into statements, `session` says what each does to its session;
//! `settings` and `session_settings` keep account of what a session has set.

pub mod keyword;
pub mod lexer;
pub mod statements;
