//! What the tests against real servers stand on: PostgreSQL, pgdog, a raw protocol client, programs.

pub(crate) mod certificates;
pub(crate) mod forwarder;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod pgdog;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod replicas;
pub(crate) mod sampler;
pub(crate) mod scripted;
pub(crate) mod scripted_tls;
pub(crate) mod sigv4;
pub(crate) mod turnstile;
pub(crate) mod wire;

pub(crate) use certificates::Certificates;
pub(crate) use forwarder::Forwarder;
pub(crate) use pgdog::{Config, Pgdog};
pub(crate) use postgres::Postgres;
pub(crate) use replicas::Trio;
pub(crate) use wire::Wire;
