//! Export of metrics by OTLP over HTTP, on a thread of its own.

use std::thread;
use std::time::Duration;

use crate::catalogue::families;
use crate::config::Otlp;
use crate::metrics::otlp::Exporter;
use crate::proxy::Events;

use super::observe::{ask, WHOLE};

/// For one request, from the look-up of the name to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Exports from now on, at every interval.
///
/// Errors: there is no thread to be had.
pub(super) fn start(otlp: Otlp, instance_id: &str, events: Events) -> Result<(), String> {
    let mut attributes = vec![
        ("service.name".to_owned(), otlp.service.clone()),
        ("service.instance.id".to_owned(), instance_id.to_owned()),
    ];
    // Where the kernel does not tell, it is left out.
    if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        attributes.push(("host.name".to_owned(), host.trim_end().to_owned()));
    }
    attributes.extend(otlp.attributes.iter().cloned());
    let exporter = Exporter::new(otlp.namespace.clone(), attributes, since_1970());
    thread::Builder::new()
        .name("otlp".to_owned())
        .spawn(move || export(&otlp, exporter, &events))
        .map(drop)
        .map_err(|error| format!("cannot start a thread: {error}"))
}

fn export(otlp: &Otlp, mut exporter: Exporter, events: &Events) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .user_agent(concat!("pgdog/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    loop {
        pause(otlp.interval);
        let requests = match ask(events, WHOLE) {
            Ok(view) => exporter.requests(&families(&view), since_1970()),
            Err(why) => {
                tracing::warn!("no metrics to export: {why}");
                continue;
            }
        };
        thread::scope(|scope| {
            for body in &requests {
                let agent = &agent;
                scope.spawn(move || {
                    if let Err(error) = post(agent, otlp, body) {
                        tracing::warn!("metrics were not exported: {error}");
                    }
                });
            }
        });
    }
}

fn post(agent: &ureq::Agent, otlp: &Otlp, body: &str) -> Result<(), ureq::Error> {
    let mut request = agent
        .post(&otlp.endpoint)
        .header("Content-Type", "application/json");
    for (name, value) in &otlp.headers {
        request = request.header(name, value.expose());
    }
    request.send(body).map(drop)
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own")]
fn pause(time: Duration) {
    thread::sleep(time);
}

fn since_1970() -> Duration {
    std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
}
