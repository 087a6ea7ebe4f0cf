//! pgdog against real PostgreSQL, used by real clients.
//!
//! `make test` installs what these tests need. `PG_BIN` chooses the server; `PGDOG_TEST_DIRECT=1` leaves pgdog out.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests may block, sleep, lock and panic"
)]

mod support;

#[path = "proxy/across.rs"]
mod across;
#[path = "proxy/admin.rs"]
mod admin;
#[path = "proxy/admin_statements.rs"]
mod admin_statements;
#[path = "proxy/ahead.rs"]
mod ahead;
#[path = "proxy/asked.rs"]
mod asked;
#[path = "proxy/auth.rs"]
mod auth;
#[path = "proxy/auth_query.rs"]
mod auth_query;
#[path = "proxy/balancing.rs"]
mod balancing;
#[path = "proxy/binding.rs"]
mod binding;
#[path = "proxy/cancel.rs"]
mod cancel;
#[path = "proxy/canonical_types.rs"]
mod canonical_types;
#[path = "proxy/checks.rs"]
mod checks;
#[path = "proxy/copy.rs"]
mod copy;
#[path = "proxy/copy_fields.rs"]
mod copy_fields;
#[path = "proxy/copy_queries.rs"]
mod copy_queries;
#[path = "proxy/copy_shards.rs"]
mod copy_shards;
#[path = "proxy/crowd.rs"]
mod crowd;
#[path = "proxy/definitions.rs"]
mod definitions;
#[path = "proxy/direct.rs"]
mod direct;
#[path = "proxy/drivers.rs"]
mod drivers;
#[path = "proxy/echo.rs"]
mod echo;
#[path = "proxy/extended.rs"]
mod extended;
#[path = "proxy/failover.rs"]
mod failover;
#[path = "proxy/generated_keys.rs"]
mod generated_keys;
#[path = "proxy/hearing.rs"]
mod hearing;
#[path = "proxy/keys.rs"]
mod keys;
#[path = "proxy/killed.rs"]
mod killed;
#[path = "proxy/limits.rs"]
mod limits;
#[path = "proxy/listed.rs"]
mod listed;
#[path = "proxy/load.rs"]
mod load;
#[path = "proxy/lock_order.rs"]
mod lock_order;
#[path = "proxy/logs.rs"]
mod logs;
#[path = "proxy/lookups.rs"]
mod lookups;
#[path = "proxy/metrics.rs"]
mod metrics;
#[path = "proxy/moves.rs"]
mod moves;
#[path = "proxy/network.rs"]
mod network;
#[path = "proxy/partition_hash.rs"]
mod partition_hash;
#[path = "proxy/passthrough.rs"]
mod passthrough;
#[path = "proxy/pause.rs"]
mod pause;
#[path = "proxy/pooling.rs"]
mod pooling;
#[path = "proxy/prepared.rs"]
mod prepared;
#[path = "proxy/psql.rs"]
mod psql;
#[path = "proxy/rds_iam.rs"]
mod rds_iam;
#[path = "proxy/recall.rs"]
mod recall;
#[path = "proxy/recovery.rs"]
mod recovery;
#[path = "proxy/references.rs"]
mod references;
#[path = "proxy/reload.rs"]
mod reload;
#[path = "proxy/resets.rs"]
mod resets;
#[path = "proxy/roles.rs"]
mod roles;
#[path = "proxy/routes_told.rs"]
mod routes_told;
#[path = "proxy/session.rs"]
mod session;
#[path = "proxy/settings_route.rs"]
mod settings_route;
#[path = "proxy/shapes.rs"]
mod shapes;
#[path = "proxy/sharding.rs"]
mod sharding;
#[path = "proxy/shards.rs"]
mod shards;
#[path = "proxy/shards_sql.rs"]
mod shards_sql;
#[path = "proxy/shutdown.rs"]
mod shutdown;
#[path = "proxy/spread.rs"]
mod spread;
#[path = "proxy/startup.rs"]
mod startup;
#[path = "proxy/state.rs"]
mod state;
#[path = "proxy/statements.rs"]
mod statements;
#[path = "proxy/streaming.rs"]
mod streaming;
#[path = "proxy/systemd.rs"]
mod systemd;
#[path = "proxy/ties.rs"]
mod ties;
#[path = "proxy/timeouts.rs"]
mod timeouts;
#[path = "proxy/tls.rs"]
mod tls;
#[path = "proxy/together.rs"]
mod together;
#[path = "proxy/twins.rs"]
mod twins;
#[path = "proxy/two_phase.rs"]
mod two_phase;
#[path = "proxy/two_phase_killed.rs"]
mod two_phase_killed;
#[path = "proxy/two_phase_left.rs"]
mod two_phase_left;
#[path = "proxy/two_phase_waits.rs"]
mod two_phase_waits;
#[path = "proxy/types.rs"]
mod types;
#[path = "proxy/unique_ids.rs"]
mod unique_ids;
#[path = "proxy/vectors.rs"]
mod vectors;
#[path = "proxy/writes.rs"]
mod writes;
#[path = "proxy/written.rs"]
mod written;
