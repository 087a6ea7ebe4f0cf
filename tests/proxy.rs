//! pgdog against real PostgreSQL, used by real clients.
//!
//! `make test` installs what these tests need. `PG_BIN` chooses the server; `PGDOG_TEST_DIRECT=1` leaves pgdog out.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "tests may block, sleep, lock and panic"
)]

mod support;

#[path = "proxy/psql.rs"]
mod psql;
