//! A metric and its samples, before they are written down in one format or another.

use std::sync::Arc;
use std::time::Duration;

use super::Distribution;

/// All samples of one metric.
#[derive(Clone, Debug)]
pub struct Family {
    /// Without a namespace.
    pub name: String,
    /// How its values behave.
    pub kind: Kind,
    /// Unit, where it is told.
    pub unit: Option<&'static str>,
    /// What it means, one line.
    pub help: &'static str,
    /// Of its buckets, if it is a histogram.
    pub bounds: &'static [Duration],
    /// One for each set of labels.
    pub samples: Vec<Sample>,
}

/// How values behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They go up and down.
    Gauge,
    /// They only grow, until they begin anew.
    Counter,
    /// Durations, counted by length.
    Histogram,
}

impl Kind {
    /// Its name in the text formats.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        }
    }
}

/// Names and values, in the order in which they are written.
pub type Labels = Arc<[(&'static str, String)]>;

/// One value.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What it is about.
    pub labels: Labels,
    /// How much.
    pub value: Value,
}

/// How much.
#[derive(Clone, Debug)]
pub enum Value {
    /// A whole number.
    Count(u64),
    /// Any other.
    Number(f64),
    /// How often something took how long.
    Times(Arc<Distribution>),
    /// How often something was how many.
    Sizes(Arc<Distribution>),
}

/// Upper bounds of histograms, if nothing else is said.
pub const BOUNDS: [Duration; 19] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// Those of what takes microseconds.
pub const BOUNDS_SHORT: [Duration; 13] = [
    Duration::from_micros(1),
    Duration::from_nanos(2500),
    Duration::from_micros(5),
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
];

/// Those of numbers, where a nanosecond stands for one.
pub const BOUNDS_NUMBERS: [Duration; 8] = [
    Duration::from_nanos(1),
    Duration::from_nanos(2),
    Duration::from_nanos(4),
    Duration::from_nanos(8),
    Duration::from_nanos(16),
    Duration::from_nanos(32),
    Duration::from_nanos(64),
    Duration::from_nanos(128),
];

impl Family {
    /// A metric without samples.
    pub fn new(name: impl Into<String>, kind: Kind, help: &'static str) -> Self {
        Self {
            name: name.into(),
            kind,
            unit: None,
            help,
            bounds: &BOUNDS,
            samples: Vec::new(),
        }
    }

    /// A histogram of what takes microseconds.
    #[must_use]
    pub fn short(mut self) -> Self {
        self.bounds = &BOUNDS_SHORT;
        self
    }

    /// A histogram of small numbers, not of times.
    #[must_use]
    pub fn numbers(mut self) -> Self {
        self.bounds = &BOUNDS_NUMBERS;
        for sample in &mut self.samples {
            if let Value::Times(sizes) = &sample.value {
                sample.value = Value::Sizes(Arc::clone(sizes));
            }
        }
        self
    }

    /// Its unit.
    #[must_use]
    pub fn unit(mut self, unit: &'static str) -> Self {
        self.unit = Some(unit);
        self
    }

    /// Adds a sample.
    pub fn push(&mut self, labels: &Labels, value: Value) {
        self.samples.push(Sample {
            labels: Arc::clone(labels),
            value,
        });
    }

    /// Adds a sample.
    #[must_use]
    pub fn with(mut self, labels: &Labels, value: Value) -> Self {
        self.push(labels, value);
        self
    }
}
