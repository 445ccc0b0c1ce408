//! Settings of traces.

use clap::Args;

use crate::config::address::SecretUrl;
use crate::config::values::{ResourceAttributes, collector_url, service_name, share, whole};

/// Settings of traces. The names that begin with OTEL_ are those of OpenTelemetry.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Traces")]
pub struct TracingSettings {
    /// Collector that gets traces by OTLP/HTTP, as http://host:4318; they are sent to /v1/traces
    /// below it. Nothing is traced if unset
    #[arg(long, env, hide_env_values = true, value_parser = collector_url)]
    pub otel_exporter_otlp_endpoint: Option<SecretUrl>,
    /// Name of this process in traces. By default sports-bet-ROLE if it runs one role, else sports-bet
    #[arg(long, env, value_parser = service_name)]
    pub otel_service_name: Option<String>,
    /// Further attributes of this process in traces, as key=value, comma-separated; for example
    /// deployment.environment.name=test
    #[arg(long, env, default_value = "")]
    pub otel_resource_attributes: ResourceAttributes,
    /// Share of placed bets that are traced, from 0 to 1
    #[arg(long, env, default_value = "1.0", value_parser = share)]
    pub otel_traces_sampler_arg: f64,
    /// Maximum number of odds updates that one ingest traces per second, from the supplier to the
    /// clients; 0 for none
    #[arg(long, env, default_value_t = 1, value_parser = whole(0_u32, 10_000))]
    pub trace_odds_per_second: u32,
}
