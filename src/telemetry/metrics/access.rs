//! Metrics of authentication. Every role whose clients are callers serves them.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Metrics of what a process checks credentials against. All its roles share them.
#[derive(Clone)]
pub struct AccessMetrics {
    /// When API keys and revocations were last read.
    pub credentials_read_at: IntGauge,
    /// Failed reads of API keys and revocations.
    pub credential_read_errors: IntCounter,
    /// When the keys for tokens were last read, by source.
    pub token_keys_read_at: IntGaugeVec,
    /// Failed reads of the keys for tokens, by source.
    pub token_key_errors: IntCounterVec,
}

impl AccessMetrics {
    /// Creates the metrics with the series of these sources of keys for tokens.
    pub fn new(sources: &[&str]) -> prometheus::Result<AccessMetrics> {
        let metrics = AccessMetrics {
            credentials_read_at: IntGauge::new(
                "access_credentials_read_at_seconds",
                "Unix time of the last successful read of API keys and revocations; 0 if AUTH is off",
            )?,
            credential_read_errors: IntCounter::new(
                "access_credentials_read_errors_total",
                "Failed reads of API keys and revocations",
            )?,
            token_keys_read_at: IntGaugeVec::new(
                Opts::new(
                    "access_token_keys_read_at_seconds",
                    "Unix time of the last successful read of the keys for tokens, by source: file, url",
                ),
                &["source"],
            )?,
            token_key_errors: IntCounterVec::new(
                Opts::new(
                    "access_token_keys_errors_total",
                    "Failed reads of the keys for tokens, by source: file, url",
                ),
                &["source"],
            )?,
        };
        for source in sources {
            metrics.token_keys_read_at.with_label_values(&[source]);
            metrics.token_key_errors.with_label_values(&[source]);
        }
        Ok(metrics)
    }

    /// Serves the metrics in the registry of a role. Returns the counter of the authentications of the
    /// role, with these results.
    pub fn register<'a>(
        &self,
        registry: &Registry,
        results: impl Iterator<Item = &'a str>,
    ) -> prometheus::Result<IntCounterVec> {
        registry.register(Box::new(self.credentials_read_at.clone()))?;
        registry.register(Box::new(self.credential_read_errors.clone()))?;
        registry.register(Box::new(self.token_keys_read_at.clone()))?;
        registry.register(Box::new(self.token_key_errors.clone()))?;
        let help = "Authenticated requests by result: user, service, anonymous, or why a credential was refused";
        let opts = Opts::new("access_authentications_total", help);
        let authentications = IntCounterVec::new(opts, &["result"])?;
        for result in results {
            authentications.with_label_values(&[result]);
        }
        registry.register(Box::new(authentications.clone()))?;
        Ok(authentications)
    }
}
