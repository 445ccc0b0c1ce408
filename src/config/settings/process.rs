//! Settings of the process and its ports.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;

use crate::config::values::{
    duration, duration_above_zero, exact_origin, host_name, ip_address, log_filter, port,
};
use crate::telemetry::log_format::LogFormat;

/// Settings of the process itself.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Process")]
pub struct ProcessSettings {
    /// Address that every port binds to; use 0.0.0.0 to accept connections from other machines
    #[arg(long, env, default_value = "127.0.0.1", value_parser = ip_address)]
    pub bind_address: IpAddr,
    /// Host names (header Host) under which clients reach the REST and WebSocket ports,
    /// comma-separated; * for any. IP addresses, names without a dot and names under localhost,
    /// internal, svc, local, home.arpa or test are always accepted. If unset, odds accepts any
    /// other name too; wallet, bets, the gateway and the simulator accept no other
    #[arg(long, env, value_delimiter = ',', value_parser = host_name)]
    pub allowed_hosts: Vec<String>,
    /// Additional origins whose pages may move money, place bets and open /ws/odds,
    /// comma-separated, for example `https://example.com`. Same-origin pages and clients other than
    /// browsers are always allowed
    #[arg(long, env, value_delimiter = ',', value_parser = exact_origin)]
    pub allowed_origins: Vec<String>,
    /// Format of log lines: text for people, json for machines
    #[arg(long, env, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Log level: error, warn, info, debug, trace or off; also per module, for example
    /// info,sports_bet_platform::bus=debug
    #[arg(long, env, default_value = "info", value_parser = log_filter)]
    pub rust_log: String,
    /// How long a process that gets SIGTERM still serves new clients, so that load balancers see
    /// /readyz fail first; only roles with ports for clients wait
    #[arg(long, env, value_parser = duration, default_value = "5s")]
    pub drain_delay: Duration,
    /// Over how long the sessions are then told to reconnect and closed, evenly
    #[arg(long, env, value_parser = duration, default_value = "20s")]
    pub drain_spread: Duration,
    /// How long a graceful shutdown may take before unfinished work is cut off
    #[arg(long, env, value_parser = duration_above_zero, default_value = "8s")]
    pub shutdown_timeout: Duration,
}

/// Ports; 0 picks a free one.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Ports (0 picks a free one)")]
pub struct PortSettings {
    /// Odds: REST and /ws/odds
    #[arg(long, env, default_value_t = 8080, value_parser = port)]
    pub http_port_odds: u16,
    /// Simulator: /ws and /supplier/confirm
    #[arg(long, env, default_value_t = 8081, value_parser = port)]
    pub http_port_supplier: u16,
    /// Wallet: REST
    #[arg(long, env, default_value_t = 8082, value_parser = port)]
    pub http_port_wallet: u16,
    /// Bets: REST
    #[arg(long, env, default_value_t = 8083, value_parser = port)]
    pub http_port_bet: u16,
    /// Gateway: REST and WebSocket of odds, wallets and bets under /api
    #[arg(long, env, default_value_t = 8000, value_parser = port)]
    pub http_port_gateway: u16,
    /// Health and metrics of the simulator
    #[arg(long, env, default_value_t = 9094, value_parser = port)]
    pub metrics_port_supplier: u16,
    /// Health and metrics of the odds role
    #[arg(long, env, default_value_t = 9095, value_parser = port)]
    pub metrics_port_odds: u16,
    /// Health and metrics of the ingest role
    #[arg(long, env, default_value_t = 9096, value_parser = port)]
    pub metrics_port_ingest: u16,
    /// Health and metrics of the processor
    #[arg(long, env, default_value_t = 9097, value_parser = port)]
    pub metrics_port_processor: u16,
    /// Health and metrics of the wallet role
    #[arg(long, env, default_value_t = 9098, value_parser = port)]
    pub metrics_port_wallet: u16,
    /// Health and metrics of the bets role
    #[arg(long, env, default_value_t = 9099, value_parser = port)]
    pub metrics_port_bet: u16,
    /// Health and metrics of the confirmation role
    #[arg(long, env, default_value_t = 9100, value_parser = port)]
    pub metrics_port_confirmation: u16,
    /// Health and metrics of the gateway
    #[arg(long, env, default_value_t = 9101, value_parser = port)]
    pub metrics_port_gateway: u16,
    /// Health and metrics of the settlement role
    #[arg(long, env, default_value_t = 9102, value_parser = port)]
    pub metrics_port_settlement: u16,
}
