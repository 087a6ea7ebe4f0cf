//! Metrics as OTLP: bodies of `ExportMetricsServiceRequest` in JSON.
//!
//! Counters are sent as differences (delta temporality), the whole total first; one that has shrunk is left out once.
//! Histograms are sent whole (cumulative temporality).
//!
//! Source: <https://opentelemetry.io/docs/specs/otlp/#otlphttp>

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{json, Value as Json};

use super::family::{Family, Kind, Labels, Value};

/// Metrics in one request.
pub const METRICS_MAX: usize = 10;

const DELTA: u8 = 1;
const CUMULATIVE: u8 = 2;

/// What was sent so far, and on whose behalf.
#[derive(Debug)]
pub struct Exporter {
    namespace: String,
    attributes: Vec<(String, String)>,
    /// Since 1970: start of the process, and the last export.
    started: Duration,
    last: Duration,
    /// Totals of counters as last sent, by name and labels.
    sent: HashMap<(String, Labels), f64>,
}

impl Exporter {
    /// `namespace` is joined to names with a dot. `attributes` are those of the resource; they are repeated with every
    /// value, as some receivers drop them otherwise.
    pub fn new(namespace: String, attributes: Vec<(String, String)>, now: Duration) -> Self {
        Self {
            namespace,
            attributes,
            started: now,
            last: now,
            sent: HashMap::new(),
        }
    }

    /// The requests that tell these metrics, each a JSON text. They count as sent.
    pub fn requests(&mut self, families: &[Family], now: Duration) -> Vec<String> {
        let known = std::mem::take(&mut self.sent);
        let metrics: Vec<Json> = families
            .iter()
            .filter_map(|family| self.metric(family, &known, now))
            .collect();
        self.last = now;
        let request = |metrics: &[Json]| {
            json!({"resourceMetrics": [{
                "resource": {"attributes": attributes(&self.attributes, &[])},
                "scopeMetrics": [{
                    "scope": {"name": "pgdog", "version": env!("CARGO_PKG_VERSION")},
                    "metrics": metrics,
                }],
            }]})
            .to_string()
        };
        metrics.chunks(METRICS_MAX).map(request).collect()
    }

    /// `None`: it has nothing to tell.
    fn metric(
        &mut self,
        family: &Family,
        known: &HashMap<(String, Labels), f64>,
        now: Duration,
    ) -> Option<Json> {
        let mut points = Vec::new();
        for sample in &family.samples {
            let mut point = json!({
                "attributes": attributes(&self.attributes, &sample.labels),
                "timeUnixNano": unix_nanoseconds(now),
            });
            let value = match &sample.value {
                Value::Count(count) => *count as f64,
                Value::Number(number) => *number,
                Value::Times(times) | Value::Sizes(times) => {
                    // Of numbers, a nanosecond stands for one.
                    let sizes = matches!(sample.value, Value::Sizes(_));
                    let scale = if sizes { 1e9 } else { 1.0 };
                    let up_to: Vec<u64> = times.up_to(family.bounds).collect();
                    let below = [0].iter().chain(&up_to);
                    let all = times.count();
                    let counts = up_to.iter().chain([&all]).zip(below).map(|(a, b)| a - b);
                    point["startTimeUnixNano"] = unix_nanoseconds(self.started);
                    point["count"] = json!(all.to_string());
                    point["sum"] = json!(times.sum().as_secs_f64() * scale);
                    point["bucketCounts"] = counts.map(|count| count.to_string()).collect();
                    point["explicitBounds"] = family
                        .bounds
                        .iter()
                        .map(|bound| bound.as_secs_f64() * scale)
                        .collect();
                    points.push(point);
                    continue;
                }
            };
            let mut told = value;
            if family.kind == Kind::Counter {
                let key = (family.name.clone(), Labels::clone(&sample.labels));
                let before = known.get(&key).copied();
                self.sent.insert(key, value);
                told -= before.unwrap_or(0.0);
                if told < 0.0 {
                    continue;
                }
                let since = match before {
                    Some(_) => self.last,
                    None => self.started,
                };
                point["startTimeUnixNano"] = unix_nanoseconds(since);
            }
            point["asDouble"] = json!(told);
            points.push(point);
        }
        if points.is_empty() {
            return None;
        }
        let data = match family.kind {
            Kind::Gauge => ("gauge", json!({"dataPoints": points})),
            Kind::Counter => (
                "sum",
                json!({"dataPoints": points, "aggregationTemporality": DELTA, "isMonotonic": true}),
            ),
            Kind::Histogram => (
                "histogram",
                json!({"dataPoints": points, "aggregationTemporality": CUMULATIVE}),
            ),
        };
        Some(json!({
            "name": format!("{}.{}", self.namespace, family.name),
            "description": family.help,
            "unit": family.unit.unwrap_or("1"),
            data.0: data.1,
        }))
    }
}

/// 64-bit numbers are texts in this JSON.
fn unix_nanoseconds(time: Duration) -> Json {
    Json::String(time.as_nanos().to_string())
}

fn attributes(common: &[(String, String)], labels: &[(&'static str, String)]) -> Json {
    let common = common.iter().map(|(name, value)| (name.as_str(), value));
    let pairs = common.chain(labels.iter().map(|(name, value)| (*name, value)));
    pairs
        .map(|(name, value)| json!({"key": name, "value": {"stringValue": value}}))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::family;
    use super::*;
    use crate::metrics::Histogram;

    fn counter(value: u64) -> Vec<Family> {
        let labels: Labels = Arc::from([("database", "a".to_owned())]);
        vec![Family::new("total_sent", Kind::Counter, "Bytes.").with(&labels, Value::Count(value))]
    }

    fn exporter() -> Exporter {
        let attributes = vec![("service.name".to_owned(), "pgdog".to_owned())];
        Exporter::new("pgdog".to_owned(), attributes, Duration::from_secs(1))
    }

    /// The only metric of the only request.
    fn only(requests: &[String]) -> Json {
        let [request] = requests else {
            panic!("{requests:?}")
        };
        let request: Json = serde_json::from_str(request).expect("JSON");
        request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0].clone()
    }

    #[test]
    fn counters_are_told_as_differences_and_left_out_once_when_they_shrink() {
        let mut exporter = exporter();
        for (second, value, told) in [
            (10, 5, Some(5.0)),
            (20, 12, Some(7.0)),
            (30, 3, None),
            (40, 4, Some(1.0)),
        ] {
            let requests = exporter.requests(&counter(value), Duration::from_secs(second));
            let Some(told) = told else {
                assert!(requests.is_empty());
                continue;
            };
            let metric = only(&requests);
            assert_eq!(metric["name"], "pgdog.total_sent");
            assert_eq!(metric["unit"], "1");
            let sum = &metric["sum"];
            assert_eq!(
                (&sum["aggregationTemporality"], &sum["isMonotonic"]),
                (&json!(1), &json!(true))
            );
            assert_eq!(sum["dataPoints"][0]["asDouble"], json!(told), "at {second}");
            assert_eq!(
                sum["dataPoints"][0]["attributes"],
                json!([
                    {"key": "service.name", "value": {"stringValue": "pgdog"}},
                    {"key": "database", "value": {"stringValue": "a"}},
                ])
            );
        }
    }

    #[test]
    fn ten_metrics_go_with_one_request() {
        let labels: Labels = Arc::from([]);
        let gauge = |n| {
            Family::new(format!("g{n}"), Kind::Gauge, "A gauge.").with(&labels, Value::Count(n))
        };
        let mut families: Vec<_> = (0..25).map(gauge).collect();
        families.push(Family::new("empty", Kind::Gauge, "Nothing."));
        let requests = exporter().requests(&families, Duration::from_secs(2));
        let counts = requests
            .iter()
            .map(|request| request.matches("\"gauge\"").count());
        assert_eq!(counts.collect::<Vec<_>>(), [10, 10, 5]);
    }

    #[test]
    fn buckets_of_a_histogram_add_up() {
        let histogram = Histogram::default();
        for time in [70_000, 2_000_000_000, 900_000_000_000] {
            histogram.record(time);
        }
        let labels: Labels = Arc::from([]);
        let family = Family::new("wait_seconds", Kind::Histogram, "Waits.")
            .unit("seconds")
            .with(&labels, Value::Times(Arc::new(histogram.read())));
        let metric = only(&exporter().requests(&[family], Duration::from_secs(2)));
        assert_eq!(metric["unit"], "seconds");
        let point = &metric["histogram"]["dataPoints"][0];
        let counts: Vec<u64> = point["bucketCounts"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|count| count.as_str().expect("text").parse().expect("a number"))
            .collect();
        assert_eq!(
            (counts.len(), counts.iter().sum::<u64>()),
            (family::BOUNDS.len() + 1, 3)
        );
        assert_eq!((counts[1], counts[family::BOUNDS.len()]), (1, 1));
        assert_eq!(point["count"], "3");
    }
}
