//! Metrics as text: Prometheus' format, or strict OpenMetrics for those who ask for it.
//!
//! Sources: <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::fmt::{Arguments, Write};

use super::family::{Family, Kind, Value};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Counters are named as they are.
    Prometheus,
    /// Samples of counters end in `_total`, the text in `# EOF`.
    OpenMetrics,
}

impl Format {
    /// What a request's Accept header asks for: OpenMetrics only if it is named, and not refused by `q=0`.
    pub fn accepted(accept: &str) -> Self {
        let wanted = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
            named && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        });
        match wanted {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        }
    }

    /// For the header of the same name.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All of it. `namespace` is put in front of each name as it is.
pub fn write(families: &[Family], namespace: &str, format: Format) -> String {
    let mut text = String::with_capacity(64 * 1024);
    for family in families {
        write_family(&mut text, family, namespace, format).expect("a String takes everything");
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn write_family(
    text: &mut String,
    family: &Family,
    namespace: &str,
    format: Format,
) -> std::fmt::Result {
    let (name, strict) = (&family.name, format == Format::OpenMetrics);
    // OpenMetrics keeps `_total` for samples.
    let name = match (strict, family.kind) {
        (true, Kind::Counter) => name.strip_suffix("_total").unwrap_or(name),
        _ => name,
    };
    writeln!(text, "# TYPE {namespace}{name} {}", family.kind.name())?;
    // There, the unit has to be the end of the name.
    let unit = family.unit.filter(|unit| !strict || ends_in(name, unit));
    if let Some(unit) = unit {
        writeln!(text, "# UNIT {namespace}{name} {unit}")?;
    }
    writeln!(text, "# HELP {namespace}{name} {}", family.help)?;
    for sample in &family.samples {
        let suffix = match (strict, family.kind) {
            (true, Kind::Counter) => "_total",
            _ => "",
        };
        let mut line = |suffix: &str, bound: Option<String>, value: Arguments<'_>| {
            write!(text, "{namespace}{name}{suffix}")?;
            let labels = sample.labels.iter().map(|(label, value)| (*label, value));
            write_labels(
                text,
                labels.chain(bound.as_ref().map(|bound| ("le", bound))),
            )?;
            writeln!(text, " {value}")
        };
        match &sample.value {
            Value::Count(count) => line(suffix, None, format_args!("{count}"))?,
            Value::Number(number) => line(suffix, None, format_args!("{number:.3}"))?,
            Value::Times(times) | Value::Sizes(times) => {
                // Of numbers, a nanosecond stands for one.
                let sizes = matches!(sample.value, Value::Sizes(_));
                let scale = if sizes { 1e9 } else { 1.0 };
                for (bound, count) in family.bounds.iter().zip(times.up_to(family.bounds)) {
                    let bound = written(bound.as_secs_f64() * scale, strict);
                    line("_bucket", Some(bound), format_args!("{count}"))?;
                }
                let (count, sum) = (times.count(), times.sum().as_secs_f64() * scale);
                line("_bucket", Some("+Inf".to_owned()), format_args!("{count}"))?;
                line("_sum", None, format_args!("{sum:.6}"))?;
                line("_count", None, format_args!("{count}"))?;
            }
        }
    }
    Ok(())
}

fn ends_in(name: &str, unit: &str) -> bool {
    name.strip_suffix(unit)
        .is_some_and(|rest| rest.ends_with('_'))
}

/// A bound. OpenMetrics wants whole ones as `1.0`.
fn written(bound: f64, strict: bool) -> String {
    match strict {
        true => format!("{bound:?}"),
        false => bound.to_string(),
    }
}

fn write_labels<'a>(
    text: &mut String,
    labels: impl Iterator<Item = (&'a str, &'a String)>,
) -> std::fmt::Result {
    let mut separator = '{';
    for (label, value) in labels {
        write!(text, "{separator}{label}=\"")?;
        separator = ',';
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if separator == ',' {
        text.push('}');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metrics::family::Labels;
    use crate::metrics::Histogram;

    fn labels(value: &str) -> Labels {
        Arc::from([("database", value.to_owned()), ("shard", "0".to_owned())])
    }

    fn families() -> Vec<Family> {
        let histogram = Histogram::default();
        histogram.record(70_000);
        histogram.record(2_000_000_000);
        let empty: Labels = Arc::from([]);
        vec![
            Family::new("clients", Kind::Gauge, "Connected clients.").with(&empty, Value::Count(3)),
            Family::new("total_sent", Kind::Counter, "Bytes to servers.")
                .with(&labels("a"), Value::Count(5)),
            Family::new("maxwait", Kind::Gauge, "Wait.")
                .unit("seconds")
                .with(&labels("a\"\\\nb"), Value::Number(0.25)),
            Family::new("bans", Kind::Counter, "Bans imposed."),
            Family::new("wait_seconds", Kind::Histogram, "Waits.")
                .unit("seconds")
                .with(&empty, Value::Times(Arc::new(histogram.read()))),
        ]
    }

    #[test]
    fn prometheus_text_has_headers_in_order_plain_integers_and_escaped_labels() {
        let text = write(&families(), "pgdog_", Format::Prometheus);
        let expected = "\
# TYPE pgdog_clients gauge
# HELP pgdog_clients Connected clients.
pgdog_clients 3
# TYPE pgdog_total_sent counter
# HELP pgdog_total_sent Bytes to servers.
pgdog_total_sent{database=\"a\",shard=\"0\"} 5
# TYPE pgdog_maxwait gauge
# UNIT pgdog_maxwait seconds
# HELP pgdog_maxwait Wait.
pgdog_maxwait{database=\"a\\\"\\\\\\nb\",shard=\"0\"} 0.250
# TYPE pgdog_bans counter
# HELP pgdog_bans Bans imposed.
# TYPE pgdog_wait_seconds histogram
# UNIT pgdog_wait_seconds seconds
# HELP pgdog_wait_seconds Waits.
pgdog_wait_seconds_bucket{le=\"0.00005\"} 0
pgdog_wait_seconds_bucket{le=\"0.0001\"} 1
";
        assert_eq!(text.get(..expected.len()), Some(expected));
        assert!(text.ends_with(
            "_bucket{le=\"60\"} 2\npgdog_wait_seconds_bucket{le=\"+Inf\"} 2\npgdog_wait_seconds_sum 2.000070\n\
             pgdog_wait_seconds_count 2\n"
        ));
    }

    #[test]
    fn strict_text_marks_counters_and_the_end() {
        let text = write(&families(), "", Format::OpenMetrics);
        assert!(text.contains("# TYPE total_sent counter\n"));
        assert!(text.contains("\ntotal_sent_total{database=\"a\",shard=\"0\"} 5\n"));
        assert!(!text.contains("# UNIT maxwait"), "not the end of its name");
        assert!(text.contains("# UNIT wait_seconds seconds\n"));
        assert!(text.contains("le=\"60.0\""));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn strict_text_is_for_those_who_name_it() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            (
                "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::Prometheus,
            ),
            (
                "application/openmetrics-text; version=1.0.0,text/plain;q=0.5",
                Format::OpenMetrics,
            ),
            (
                "text/plain, Application/OpenMetrics-Text;q=0.3",
                Format::OpenMetrics,
            ),
            ("application/openmetrics-text;q=0", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }
}
