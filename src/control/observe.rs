//! What others may see of the program: metrics and health over HTTP.

use std::io;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use crate::catalogue::{families, View};
use crate::config::Observation;
use crate::metrics::openmetrics::{self, Format};
use crate::proxy::{Ask, Event, Events};
use crate::snapshot::Scope;

use super::http::{self, Request, Response};

/// What metrics are made of.
pub(super) const WHOLE: Scope = Scope {
    clients: false,
    servers: false,
    statements: false,
    analyses: false,
    commits: false,
    latencies: true,
};

/// The control thread answers sooner, with an error if cores do not.
const PATIENCE: Duration = Duration::from_secs(4);

/// Opens the ports that are configured.
///
/// Errors: one is not to be had; names it.
pub(super) fn serve(observation: &Observation, events: &Events) -> Result<(), String> {
    let open = |port: Option<u16>, name, respond: fn(&Events, Request) -> Response| {
        let Some(port) = port else { return Ok(()) };
        let events = events.clone();
        http::serve(port, move |request| respond(&events, request))
            .map_err(|error: io::Error| format!("cannot listen on {name} = {port}: {error}"))
    };
    open(observation.metrics_port, "openmetrics_port", metrics)?;
    open(observation.health_port, "healthcheck_port", health)
}

/// Asks the control thread, from another one.
pub(super) fn ask(events: &Events, scope: Scope) -> Result<View, String> {
    let (reply, answer) = sync_channel(1);
    events
        .try_send(Event::Ask(Ask { scope, reply }))
        .map_err(|_| "the control thread has too much to do".to_owned())?;
    answer
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| Err("the control thread does not answer".to_owned()))
}

/// What the process takes of memory; 0 if the kernel does not tell.
pub(super) fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    kilobytes.map_or(0, |kilobytes: usize| kilobytes * 1024)
}

fn metrics(events: &Events, request: Request) -> Response {
    let format = Format::accepted(&request.accept);
    match ask(events, WHOLE) {
        Ok(view) => Response {
            status: 200,
            content_type: format.content_type(),
            body: openmetrics::write(&families(&view), &view.namespace, format),
        },
        // Half of the numbers would be wrong ones.
        Err(why) => Response::text(503, format!("{why}\n")),
    }
}

fn health(events: &Events, request: Request) -> Response {
    if request.path == "/live" {
        return Response::text(200, "up");
    }
    let view = ask(events, Scope::default());
    let healthy = view.as_ref().is_ok_and(View::is_healthy);
    let accepting = view.is_ok_and(|view| view.accepting);
    match (request.path.as_str(), healthy) {
        ("/ready", true) if accepting => Response::text(200, "up"),
        ("/ready", _) => Response::text(503, "down"),
        (_, true) => Response::text(200, "up"),
        (_, false) => Response::text(502, "down"),
    }
}
