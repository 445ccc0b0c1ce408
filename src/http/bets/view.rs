//! The JSON form of bets.

use serde::Serialize;

use crate::domain::bets::bet::{Bet, BetId, BetStatus, BetStep};
use crate::domain::ids::{EventId, MarketName, SelectionId, UserId};
use crate::domain::odds::price::{Line, Price};
use crate::domain::settlement::payout::SettledAs;
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::services::bets::placement::PlacedBet;

/// The response to a placed bet.
#[derive(Serialize)]
pub(super) struct PlacedBody {
    #[serde(rename = "betId")]
    bet_id: BetId,
    status: BetStatus,
    new_balance: i64,
    odd_value: Price,
}

impl From<PlacedBet> for PlacedBody {
    fn from(placed: PlacedBet) -> PlacedBody {
        PlacedBody {
            bet_id: placed.bet_id,
            status: BetStatus::Pending,
            new_balance: placed.new_balance,
            odd_value: placed.price,
        }
    }
}

/// A bet.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BetView<'a> {
    bet_id: BetId,
    status: BetStatus,
    user_id: &'a UserId,
    event_id: &'a EventId,
    market: &'a MarketName,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<Line>,
    selection: &'a SelectionId,
    #[serde(rename = "stake_cents")]
    stake_cents: Amount,
    #[serde(rename = "odd_value")]
    odd_value: Price,
    /// Stake and winnings, if the bet wins.
    #[serde(rename = "potential_payout_cents")]
    potential_payout_cents: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_ref: Option<&'a str>,
    placed_at: Timestamp,
    decide_by: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<SettledAs>,
    /// What it has been paid in all, including returned stake.
    #[serde(rename = "payout_cents", skip_serializing_if = "Option::is_none")]
    payout_cents: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settled_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<StepView<'a>>>,
}

#[derive(Serialize)]
struct StepView<'a> {
    from: Option<BetStatus>,
    to: BetStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    at: Timestamp,
}

impl<'a> BetView<'a> {
    /// A bet as part of a list, without its history.
    pub(super) fn new(bet: &'a Bet) -> BetView<'a> {
        BetView {
            bet_id: bet.id,
            status: bet.status,
            user_id: &bet.user_id,
            event_id: &bet.event_id,
            market: &bet.market.name,
            line: bet.market.line,
            selection: &bet.selection,
            stake_cents: bet.stake,
            odd_value: bet.price,
            potential_payout_cents: i64::try_from(bet.stake.payout_at(bet.price))
                .unwrap_or(i64::MAX),
            reason: bet.reason.as_deref(),
            provider_ref: bet.provider_ref.as_deref(),
            placed_at: bet.placed_at,
            decide_by: bet.decide_by,
            decided_at: bet.decided_at,
            outcome: bet.settlement.map(|settlement| settlement.outcome),
            payout_cents: bet.settlement.map(|settlement| settlement.payout_cents),
            settled_at: bet.settlement.map(|settlement| settlement.settled_at),
            history: None,
        }
    }

    /// A bet with its history.
    pub(super) fn with_history(bet: &'a Bet, steps: &'a [BetStep]) -> BetView<'a> {
        BetView {
            history: Some(steps.iter().map(StepView::new).collect()),
            ..BetView::new(bet)
        }
    }
}

impl<'a> StepView<'a> {
    fn new(step: &'a BetStep) -> StepView<'a> {
        StepView {
            from: step.from,
            to: step.to,
            reason: step.reason.as_deref(),
            at: step.at,
        }
    }
}
