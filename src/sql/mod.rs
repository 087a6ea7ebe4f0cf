//! What a statement's text says, without asking a server.
//!
//! `plain` lets pass what is plainly a query; `lexer` cuts a text into tokens, `statements` into statements, `session` says what each does to its session;
//! `cache` finds what is known of a text by its `shape`, `parse` reads it with PostgreSQL's parser into a `statement`, `hints` are in its
//! comments; `insert_rows` takes an INSERT apart, `update_parts` an UPDATE, `copied` a COPY of a query, `gaps` finds what an INSERT leaves out, `asked` what a server is to be asked for first,
//! `unique_ids` calls of a function that is ours;
//! `settings` and `session_settings` keep account of what a session has set (`date_style` is set by halves), `restore` gives it back what it began with;
//! `quote` writes names and texts into statements; `encodings` knows those of texts by name.

pub mod asked;
pub mod cache;
pub mod copied;
mod cursor;
pub mod cursors;
pub mod date_style;
mod depth;
pub mod encodings;
pub mod explain;
mod fill;
pub mod functions;
pub mod gaps;
pub mod hints;
pub mod insert_rows;
pub mod keys;
pub mod keyword;
pub mod lexer;
pub mod listed;
mod parse;
mod plain;
pub mod quote;
pub mod restore;
mod sample;
pub mod session;
pub mod session_settings;
pub mod set;
pub mod set_config;
pub mod settings;
pub mod shape;
pub mod statement;
pub mod statements;
pub mod unique_ids;
pub mod update_parts;

pub use cursor::Name;
pub use fill::{fill, fill_with};
pub use parse::across;
pub use sample::sample;
