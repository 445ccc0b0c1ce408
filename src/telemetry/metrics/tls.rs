//! Metrics of TLS for clients. One process has one certificate, so its roles show the same values.

use prometheus::{IntCounter, IntGauge, Registry};

use super::registry::Metric;

/// Metrics of TLS for clients.
#[derive(Clone)]
pub struct TlsMetrics {
    /// When the certificate in use expires.
    pub not_after: IntGauge,
    /// Files that could not be used.
    pub reload_failures: IntCounter,
}

impl TlsMetrics {
    /// Creates the metrics.
    pub fn new() -> prometheus::Result<TlsMetrics> {
        Ok(TlsMetrics {
            not_after: IntGauge::make(
                "process_tls_certificate_not_after_seconds",
                "When the certificate that clients get expires, in seconds of Unix time; 0 without TLS",
                &[],
            )?,
            reload_failures: IntCounter::make(
                "process_tls_reload_failures_total",
                "Checks of the TLS files, every two seconds, that found contents which cannot be used",
                &[],
            )?,
        })
    }

    /// Shows the metrics of the process on the page of a role.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.not_after.clone()))?;
        registry.register(Box::new(self.reload_failures.clone()))
    }
}
