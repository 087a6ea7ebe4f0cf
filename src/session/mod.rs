//! One client's session, as far as its statements change it: what is under way, and what ties it to its server.
//!
//! `sql::session` says what a text would do; `tracker` learns from the server's replies what of it was done;
//! `sql::session_settings` keeps account of settings; `ties` of what only the server can keep, `recall` of whose numbers of
//! sequences it has.

mod recall;
mod ties;
mod tracker;

pub use recall::{Counters, Recall, Stay, RECALL_HINT, WIPE};
pub use ties::{Ties, CHECK};
pub use tracker::{Done, Tracker};
