//! Who may watch the program, and how.

use super::environment::Environment;
use super::file::File;
use super::{Observation, Otlp};

/// Exports more often than this are not worth it.
const INTERVAL_MIN: std::time::Duration = std::time::Duration::from_millis(100);

pub(super) fn observation(file: &File, environment: &Environment) -> Observation {
    let general = &file.general.value;
    Observation {
        metrics_port: general.openmetrics_port,
        namespace: general.openmetrics_namespace.clone().unwrap_or_default(),
        health_port: general.healthcheck_port,
        otlp: otlp(file, environment),
    }
}

fn otlp(file: &File, environment: &Environment) -> Option<Otlp> {
    let otel = &file.otel.value;
    let mut headers: Vec<_> = otel
        .datadog_api_key
        .iter()
        .map(|key| ("DD-API-KEY".to_owned(), key.clone()))
        .collect();
    headers.extend(otel.headers.clone());
    let variable = |name| environment.get(name).map(String::as_str);
    Some(Otlp {
        endpoint: otel.endpoint.clone()?,
        namespace: otel.namespace.trim_end_matches(['.', '_']).to_owned(),
        headers,
        interval: otel.push_interval.duration().max(INTERVAL_MIN),
        service: variable("OTEL_SERVICE_NAME").unwrap_or("pgdog").to_owned(),
        attributes: attributes(variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default()),
    })
}

/// `key=value` pairs between commas, percent-encoded. What is no pair is ignored.
fn attributes(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (percent_decoded(key.trim()), percent_decoded(value.trim())))
        .filter(|(key, _)| !key.is_empty())
        .collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let decoded = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() {
            &after[2..]
        } else {
            after
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_attributes_are_pairs_and_percent_decoded() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            attributes("a=1, deployment.environment = pr%6fd%2C eu ,broken,=x,b=c=d,e=%zz%"),
            [
                pair("a", "1"),
                pair("deployment.environment", "prod, eu"),
                pair("b", "c=d"),
                pair("e", "%zz%"),
            ]
        );
        assert_eq!(attributes(""), []);
    }
}
