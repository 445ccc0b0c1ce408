//! Settings of the gateway.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Role;
use crate::config::address::SecretUrl;
use crate::config::values::{duration_above_zero, service_url};

/// Settings of the gateway.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Gateway")]
pub struct GatewaySettings {
    /// Where the gateway forwards /api/odds, as http://host:port or https://host:port. Required if
    /// the gateway runs in a process without the role odds; otherwise it serves the role itself
    #[arg(long, env, hide_env_values = true, value_parser = service_url)]
    pub gateway_odds_url: Option<SecretUrl>,
    /// Where the gateway forwards /api/wallet. Required if it runs in a process without the role
    /// wallet
    #[arg(long, env, hide_env_values = true, value_parser = service_url)]
    pub gateway_wallet_url: Option<SecretUrl>,
    /// Where the gateway forwards /api/bets. Required if it runs in a process without the role bets
    #[arg(long, env, hide_env_values = true, value_parser = service_url)]
    pub gateway_bets_url: Option<SecretUrl>,
    /// PEM file with additional certificate authorities for https:// addresses of services; the
    /// system's are always trusted
    #[arg(long, env)]
    pub gateway_ca_file: Option<PathBuf>,
    /// How long the gateway waits for a connection to a service
    #[arg(long, env, value_parser = duration_above_zero, default_value = "1s")]
    pub gateway_connect_timeout: Duration,
    /// How long the gateway waits for the answer of a service, and for each further part of it
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub gateway_answer_timeout: Duration,
}

impl GatewaySettings {
    /// The roles behind the gateway, the settings of their addresses, and the addresses.
    pub fn services(&self) -> [(Role, &'static str, Option<&SecretUrl>); 3] {
        [
            (
                Role::Odds,
                "GATEWAY_ODDS_URL",
                self.gateway_odds_url.as_ref(),
            ),
            (
                Role::Wallet,
                "GATEWAY_WALLET_URL",
                self.gateway_wallet_url.as_ref(),
            ),
            (
                Role::Bets,
                "GATEWAY_BETS_URL",
                self.gateway_bets_url.as_ref(),
            ),
        ]
    }
}
