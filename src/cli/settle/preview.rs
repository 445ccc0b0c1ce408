//! What the bets of a market would get.

use super::SettleError;
use crate::domain::ids::EventMarket;
use crate::domain::settlement::effective::SettlementRules;
use crate::domain::settlement::market_results::MarketResults;
use crate::domain::settlement::plan::Plan;
use crate::store::money::{BetState, DueBet, DueBets, SettlementStore};

/// How many bets are read at once.
const PAGE: usize = 1_000;

/// Totals over the bets of a market.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Preview {
    /// Bets that get another settlement.
    pub changed: u64,
    /// Bets that stay as they are.
    pub unchanged: u64,
    /// Bets that wait for an operator.
    pub held: u64,
    /// What is paid, in cents.
    pub paid_cents: i128,
    /// What is taken back, in cents.
    pub taken_back_cents: i128,
}

impl Preview {
    /// Adds a bet, and returns what has to be done about it.
    pub(super) fn add(
        &mut self,
        bet: &DueBet,
        market: &EventMarket,
        results: &MarketResults,
        rules: &SettlementRules,
    ) -> Plan {
        let plan = Plan::of(&bet.on(market), results, rules);
        match plan {
            Plan::Nothing { .. } => self.unchanged += 1,
            Plan::Hold(_) => self.held += 1,
            Plan::Settle(change) => {
                self.changed += 1;
                let difference = i128::from(change.difference);
                self.paid_cents += difference.max(0);
                self.taken_back_cents += (-difference).max(0);
            }
        }
        plan
    }
}

/// Passes all open and settled bets of a market to `each`.
pub(super) fn read<S: SettlementStore + ?Sized>(
    store: &S,
    market: &EventMarket,
    mut each: impl FnMut(&DueBet) -> Result<(), SettleError>,
) -> Result<(), SettleError> {
    for state in [BetState::Open, BetState::Settled] {
        let all = DueBets {
            market,
            generation: u64::MAX,
            state,
            after: None,
            limit: PAGE,
        };
        all.for_each_page(store, |page| {
            page.iter().try_for_each(&mut each).map(|()| true)
        })?;
    }
    Ok(())
}
