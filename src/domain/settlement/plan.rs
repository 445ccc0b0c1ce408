//! What has to be done about a bet: the difference between what the results say and what it has had.

use strum::{Display, EnumString, IntoStaticStr};

use super::effective::{HeldReason, Leg, LegState, SettlementRules};
use super::market_results::MarketResults;
use super::payout::{Entitlement, SettledAs};
use super::postings::BetPosition;
use crate::domain::ids::{MarketName, SelectionId};
use crate::domain::odds::price::Price;
use crate::domain::timestamp::Timestamp;
use crate::domain::unknown_variant::UnknownVariant;
use crate::domain::wallet::amount::Amount;

/// A single bet, with what it has had.
#[derive(Clone, Copy, Debug)]
pub struct SettleableBet<'a> {
    /// The market.
    pub market: &'a MarketName,
    /// The selection.
    pub selection: &'a SelectionId,
    /// The stake.
    pub stake: Amount,
    /// The price.
    pub price: Price,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// What it has had.
    pub position: BetPosition,
    /// How it is settled now.
    pub outcome: Option<SettledAs>,
}

/// What has to be done about a bet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It has had what it is owed.
    Nothing {
        /// What it has had, in cents.
        paid: i64,
        /// Whether its stake is still at risk.
        is_open: bool,
    },
    /// An operator has to decide.
    Hold(HeldReason),
    /// It gets another settlement.
    Settle(Change),
}

/// Another settlement of a bet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// How it is settled, and what it is owed in all, in cents; `None` opens it again.
    pub becomes: Option<(SettledAs, i64)>,
    /// What it is owed less what it has had, in cents.
    pub difference: i64,
    /// Why.
    pub reason: SettlementReason,
}

/// Why a bet gets another settlement.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Display,
    EnumString,
    IntoStaticStr
)]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownVariant, parse_err_fn = unknown_reason)]
pub enum SettlementReason {
    /// The result of the selection.
    Result,
    /// A cancellation covers the time of the bet.
    Cancelled,
    /// The result could be known when the bet was placed.
    LateBet,
    /// The result or the cancellation was taken back.
    Withdrawn,
}

fn unknown_reason(text: &str) -> UnknownVariant {
    UnknownVariant::new("reason of a settlement", text)
}

impl Plan {
    /// What has to be done about a bet, by the results of its market.
    pub fn of(bet: &SettleableBet<'_>, results: &MarketResults, rules: &SettlementRules) -> Plan {
        let leg = Leg {
            market: bet.market,
            selection: bet.selection,
            placed_at: bet.placed_at,
        };
        let state = results.state_of(&leg, rules);
        let becomes = match state.entitlement(bet.stake, bet.price) {
            Entitlement::Held(reason) => return Plan::Hold(reason),
            Entitlement::Open => None,
            Entitlement::Settled { payout, outcome } => Some((outcome, payout)),
        };
        let paid = match bet.position {
            BetPosition::Open => 0,
            BetPosition::Settled { paid } => paid,
        };
        let owed = becomes.map_or(0, |(_, payout)| payout);
        let is_same = becomes.map(|(outcome, _)| outcome) == bet.outcome && owed == paid;
        if is_same {
            let is_open = becomes.is_none();
            return Plan::Nothing { paid, is_open };
        }
        Plan::Settle(Change {
            becomes,
            difference: owed - paid,
            reason: SettlementReason::of(&state),
        })
    }

    /// What the bet will have had afterwards, in cents.
    pub fn paid(&self) -> i64 {
        match self {
            Plan::Nothing { paid, .. } => *paid,
            Plan::Hold(_) => 0,
            Plan::Settle(change) => change.becomes.map_or(0, |(_, payout)| payout),
        }
    }
}

impl SettlementReason {
    /// The reason of the step in the bet's history: why the bet is void whatever its result, else its
    /// outcome. `bets_settle` of PostgreSQL does the same.
    pub fn in_history(self, outcome: Option<SettledAs>) -> &'static str {
        match (self, outcome) {
            (SettlementReason::Result, Some(outcome)) => outcome.into(),
            _ => self.into(),
        }
    }

    fn of(state: &LegState) -> SettlementReason {
        match state {
            LegState::Open | LegState::Held(_) => SettlementReason::Withdrawn,
            LegState::Cancelled => SettlementReason::Cancelled,
            LegState::LateBet => SettlementReason::LateBet,
            LegState::Decided(_) => SettlementReason::Result,
        }
    }
}
