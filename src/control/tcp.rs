//! Tries socket options: at start, and with every reload.

use crate::config::TcpOptions;
use crate::proxy::tcp_options;

/// Errors: what the kernel does not take, and that all new connections would fail with.
pub(super) fn check(options: &TcpOptions) -> Result<(), String> {
    tcp_options(options)
        .check()
        .map_err(|error| match &options.congestion_control {
            Some(name) => format!("[tcp] cannot be used (congestion_control = {name:?}?): {error}"),
            None => format!("[tcp] cannot be used: {error}"),
        })
}
