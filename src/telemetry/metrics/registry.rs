//! Registers the metrics of a role and creates their series.

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    Counter, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::telemetry::{trace, version};

/// Buckets from a tenth of a millisecond to half a minute, in seconds.
const LATENCY_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];
/// Buckets of request durations, in seconds. Fewer than for other times, since each route, method
/// and status class has its own.
const REQUEST_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];
/// Buckets of the rows in a batch.
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0];

/// A metric that can be created from its name, help text and labels.
pub(super) trait Metric: Sized + Clone + Collector + 'static {
    /// Creates the metric. Only vectors use the labels.
    fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self>;
}

macro_rules! metric {
    ($($kind:ty => |$name:ident, $help:ident, $labels:ident| $make:expr;)+) => {
        $(impl Metric for $kind {
            fn make($name: &str, $help: &str, $labels: &[&str]) -> prometheus::Result<Self> { let _ = $labels; $make }
        })+
    };
}

metric! {
    IntCounter => |name, help, labels| IntCounter::new(name, help);
    Counter => |name, help, labels| Counter::new(name, help);
    IntGauge => |name, help, labels| IntGauge::new(name, help);
    Gauge => |name, help, labels| Gauge::new(name, help);
    IntCounterVec => |name, help, labels| IntCounterVec::new(Opts::new(name, help), labels);
    IntGaugeVec => |name, help, labels| IntGaugeVec::new(Opts::new(name, help), labels);
    Histogram => |name, help, labels| {
        let buckets = if name.ends_with("_seconds") { LATENCY_BUCKETS } else { BATCH_BUCKETS };
        Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
    };
    HistogramVec => |name, help, labels| HistogramVec::new(HistogramOpts::new(name, help).buckets(REQUEST_BUCKETS.to_vec()), labels);
}

/// The values of a metric's labels, in order.
pub trait LabelValues {
    /// One value per label.
    fn as_slice(&self) -> &[&str];
}

impl LabelValues for &str {
    fn as_slice(&self) -> &[&str] {
        std::slice::from_ref(self)
    }
}

impl LabelValues for &&str {
    fn as_slice(&self) -> &[&str] {
        std::slice::from_ref(*self)
    }
}

impl<const LABELS: usize> LabelValues for [&str; LABELS] {
    fn as_slice(&self) -> &[&str] {
        self
    }
}

/// Creates the series of these label values, at 0.
pub fn create_series<B: MetricVecBuilder, V: LabelValues>(
    metric: &MetricVec<B>,
    known: impl IntoIterator<Item = V>,
) {
    for values in known {
        metric.with_label_values(values.as_slice());
    }
}

/// Defines the metrics of a role: the field, its type and the metric's name, labels, and those label
/// values that exist from the start.
macro_rules! role_metrics {
    ($(#[doc = $about:literal])* $struct:ident { $(#[doc = $help:literal] $field:ident: $kind:ty = $name:literal $([$($label:literal),+] $(known $values:expr)?)?,)+ }) => {
        $(#[doc = $about])*
        #[derive(Clone)]
        pub struct $struct {
            /// The registry that `/metrics` of the role gathers from.
            pub registry: prometheus::Registry,
            $(#[doc = $help] pub $field: $kind,)+
        }

        impl $struct {
            /// Creates the metrics, together with those of the process.
            pub fn new() -> prometheus::Result<$struct> {
                use $crate::telemetry::metrics::registry;
                let registry = registry::registry_of_process()?;
                $(let $field: $kind = registry::register(&registry, $name, $help, &[$($($label),+)?])?;)+
                $($($(registry::create_series(&$field, $values);)?)?)+
                Ok($struct { registry, $($field),+ })
            }
        }
    };
}
pub(super) use role_metrics;

/// Creates a metric and registers it.
pub(super) fn register<M: Metric>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<M> {
    let metric = M::make(name, help.trim(), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// A registry with the metrics of the process.
pub(super) fn registry_of_process() -> prometheus::Result<Registry> {
    let registry = Registry::new();
    #[cfg(target_os = "linux")]
    registry.register(Box::new(
        prometheus::process_collector::ProcessCollector::for_self(),
    ))?;
    let build = IntGaugeVec::new(
        Opts::new("sports_bet_build_info", "The running version; always 1"),
        &["version", "commit", "tls"],
    )?;
    build
        .with_label_values(&[version::VERSION, version::COMMIT, version::TLS])
        .set(1);
    registry.register(Box::new(build))?;
    trace::register_metrics(&registry)?;
    Ok(registry)
}
