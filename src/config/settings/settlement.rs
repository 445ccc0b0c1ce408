//! Settings of settlement.

use clap::{Args, ValueEnum};

use crate::config::values::{amount, source, whole};
use crate::domain::ids::Source;
use crate::domain::settlement::effective::SettlementRules;
use crate::domain::settlement::record::Certainty;
use crate::domain::settlement::reductions::Reductions;
use crate::domain::settlement::trust::TrustedSources;
use crate::domain::wallet::amount::Amount;

/// The value of SETTLEMENT_SOURCES that trusts nobody, also beside a simulator.
const NOBODY: &str = "none";

/// The least certainty of results that are paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SettleOn {
    /// Confirmed results only.
    Confirmed,
    /// Results seen live too.
    Scouted,
}

/// How bets are reduced when selections are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReductionSetting {
    /// Not at all.
    None,
    /// Off the winnings, by the sum of all reductions, at most 90 %.
    Rule4,
    /// As a betting exchange.
    Exchange,
}

/// Settings of settlement.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Settlement")]
pub struct SettlementSettings {
    /// Sources whose results are paid, comma-separated: the names in the field `source` of records.
    /// The results of others are stored and shown. Those of operators are always paid. By default
    /// this process's simulator if it runs, else nobody; `none` is nobody
    #[arg(long, env, value_delimiter = ',', value_parser = source)]
    pub settlement_sources: Vec<Source>,
    /// Least certainty of results that are paid. Results seen live come earlier, and more of them are
    /// taken back
    #[arg(long, env, value_enum, default_value = "confirmed")]
    pub settle_on: SettleOn,
    /// How bets on the other selections are reduced when a selection is removed after they were
    /// placed: none; rule4, off the winnings; exchange, as on a betting exchange
    #[arg(long, env, value_enum, default_value = "none")]
    pub reductions: ReductionSetting,
    /// Maximum payout of a market, in cents. A market above it waits for an operator
    #[arg(long, env, default_value = "100000000", value_parser = amount)]
    pub settlement_max_market_cents: Amount,
    /// Maximum number of markets that are settled concurrently
    #[arg(long, env, default_value_t = 2, value_parser = whole(1_usize, 64))]
    pub settlement_concurrency: usize,
}

impl SettlementSettings {
    /// Which results are paid, and how. `simulator` is the source of this process's simulator.
    pub fn rules(&self, simulator: Option<Source>) -> SettlementRules {
        let named = &self.settlement_sources;
        let sources = if named.is_empty() {
            TrustedSources::new(simulator)
        } else {
            let is_source = |source: &&Source| source.as_str() != NOBODY;
            TrustedSources::new(named.iter().filter(is_source).cloned())
        };
        SettlementRules {
            sources,
            settle_on: match self.settle_on {
                SettleOn::Confirmed => Certainty::Confirmed,
                SettleOn::Scouted => Certainty::Scouted,
            },
            reductions: match self.reductions {
                ReductionSetting::None => Reductions::None,
                ReductionSetting::Rule4 => Reductions::Rule4,
                ReductionSetting::Exchange => Reductions::Exchange,
            },
        }
    }
}
