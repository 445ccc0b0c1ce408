//! Settings of wallets, bets and their confirmation.

use std::time::Duration;

use clap::Args;

use crate::config::address::SecretUrl;
use crate::config::values::{amount, currency, duration_above_zero, http_url, whole};
use crate::domain::wallet::amount::Amount;

/// Settings of wallets and bets.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Wallets and bets")]
pub struct MoneySettings {
    /// Currency of this deployment; all amounts are whole cents of it
    #[arg(long, env, default_value = "BRL", value_parser = currency)]
    pub currency: String,
    /// How long a reservation may stay uncommitted before it expires; a reservation held for a bet
    /// ends with the bet
    #[arg(long, env, value_parser = duration_above_zero, default_value = "1h")]
    pub reservation_ttl: Duration,
    /// Interval between verifications of the whole ledger, as in `sports-bet ledger verify`
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10m")]
    pub ledger_verify_interval: Duration,
    /// Minimum stake, in cents
    #[arg(long, env, default_value = "50", value_parser = amount)]
    pub bet_min_stake_cents: Amount,
    /// Maximum stake, in cents
    #[arg(long, env, default_value = "1000000", value_parser = amount)]
    pub bet_max_stake_cents: Amount,
    /// Maximum payout including the stake, in cents
    #[arg(long, env, default_value = "100000000", value_parser = amount)]
    pub bet_max_payout_cents: Amount,
    /// How long a bet waits for the supplier's answer before it is rejected and its stake is
    /// returned
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub bet_confirm_deadline: Duration,
}

/// Settings of bet confirmation.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Confirmation")]
pub struct ConfirmationSettings {
    /// URL of the supplier's confirmation API, http:// or https://, with user:password@ if it
    /// requires a login. By default this process's simulator if it runs, else http://127.0.0.1:8081
    #[arg(long, env, hide_env_values = true, value_parser = http_url)]
    pub supplier_url: Option<SecretUrl>,
    /// Timeout of one confirmation request
    #[arg(long, env, value_parser = duration_above_zero, default_value = "2s")]
    pub bet_confirm_timeout: Duration,
    /// Maximum number of bets being confirmed concurrently
    #[arg(long, env, default_value_t = 512, value_parser = whole(1_usize, 10_000))]
    pub bet_confirm_concurrency: usize,
    /// Delay before the first retry; it doubles with each failure and has jitter
    #[arg(long, env, value_parser = duration_above_zero, default_value = "100ms")]
    pub bet_confirm_retry_min: Duration,
    /// Maximum retry delay
    #[arg(long, env, value_parser = duration_above_zero, default_value = "2s")]
    pub bet_confirm_retry_max: Duration,
    /// Consecutive failures that open the circuit breaker; while it is open, no requests are sent
    #[arg(long, env, default_value_t = 20, value_parser = whole(1_u32, 100_000))]
    pub bet_confirm_breaker_failures: u32,
    /// How long the circuit breaker stays open before one request is tried
    #[arg(long, env, value_parser = duration_above_zero, default_value = "1s")]
    pub bet_confirm_breaker_pause: Duration,
}
