//! How bets are settled.

use std::time::Duration;

use crate::domain::settlement::effective::SettlementRules;
use crate::domain::wallet::amount::Amount;

/// How markets are settled.
#[derive(Clone, Debug)]
pub(crate) struct SettlerSettings {
    /// Which results are paid, and how.
    pub rules: SettlementRules,
    /// The maximum payout of a market.
    pub max_market: Amount,
    /// Maximum number of bets that are read at once.
    pub page: usize,
    /// Maximum number of bets that are settled in one call. A call locks their wallets.
    pub batch: usize,
    /// How long the settler pauses after each call, in percent of the time that the call took: a large
    /// market leaves this time of the database to those who bet meanwhile.
    pub pause_percent: u32,
    /// How long a market is leased to this process.
    pub lease: Duration,
    /// How long a market waits after an attempt that did not settle every bet.
    pub retry: Duration,
    /// How long only this process publishes the records of its settlements.
    pub outbox_lease: Duration,
}

impl SettlerSettings {
    /// The rules as a text, which tells markets that were settled by other rules.
    pub(crate) fn rules_text(&self) -> String {
        let SettlementRules {
            sources,
            settle_on,
            reductions,
        } = &self.rules;
        let limit = self.max_market.cents();
        format!("sources={sources} settle_on={settle_on} reductions={reductions} max={limit}")
    }
}
