//! Metrics of the gRPC API of a role.

use prometheus::{IntCounterVec, IntGauge, Registry};

use super::registry::{Metric, create_series};

/// Codes that every method has from the start.
const CODES: [&str; 2] = ["OK", "UNAVAILABLE"];

/// Metrics of the gRPC API of a role.
#[derive(Clone)]
pub struct GrpcMetrics {
    calls: IntCounterVec,
    /// Open streams.
    pub streams: IntGauge,
}

impl GrpcMetrics {
    /// Creates the metrics of a role with these methods, and registers them; those of streams only
    /// if it has some. `prefix` begins the names.
    pub fn new(
        registry: &Registry,
        prefix: &str,
        methods: &[&'static str],
        has_streams: bool,
    ) -> prometheus::Result<GrpcMetrics> {
        let calls = IntCounterVec::make(
            &format!("{prefix}_grpc_calls_total"),
            "gRPC calls, by method and code; a stream is counted when it ends",
            &["method", "code"],
        )?;
        let known = methods
            .iter()
            .flat_map(|method| CODES.map(|code| [*method, code]));
        create_series(&calls, known);
        let streams = IntGauge::make(&format!("{prefix}_grpc_streams"), "Open gRPC streams", &[])?;
        registry.register(Box::new(calls.clone()))?;
        if has_streams {
            registry.register(Box::new(streams.clone()))?;
        }
        Ok(GrpcMetrics { calls, streams })
    }

    /// Counts a call.
    pub fn count(&self, method: &str, code: &str) {
        self.calls.with_label_values(&[method, code]).inc();
    }
}
