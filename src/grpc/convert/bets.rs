//! Messages with bets.

use super::{market, price, time};
use crate::domain::bets::bet::{Bet, BetSettlement, BetStatus, BetStep};
use crate::domain::settlement::payout::SettledAs;
use crate::grpc::proto::v1;
use crate::services::bets::placement::PlacedBet;

/// A bet that was just placed.
pub(in crate::grpc) fn placed(placed: &PlacedBet) -> v1::PlaceBetResponse {
    v1::PlaceBetResponse {
        bet_id: placed.bet_id.to_string(),
        status: v1::BetStatus::PendingConfirmation.into(),
        price: Some(price(placed.price)),
        balance_cents: placed.new_balance,
    }
}

/// A bet and its steps; a bet of a list has none.
pub(in crate::grpc) fn bet(bet: &Bet, history: &[BetStep]) -> v1::Bet {
    v1::Bet {
        bet_id: bet.id.to_string(),
        status: bet_status(bet.status).into(),
        user_id: bet.user_id.to_string(),
        event_id: bet.event_id.to_string(),
        market: Some(market(&bet.market)),
        selection_id: bet.selection.to_string(),
        stake_cents: bet.stake.cents(),
        price: Some(price(bet.price)),
        potential_payout_cents: i64::try_from(bet.stake.payout_at(bet.price)).unwrap_or(i64::MAX),
        reason: bet.reason.clone(),
        provider_ref: bet.provider_ref.clone(),
        placed_at: Some(time(bet.placed_at)),
        decide_by: Some(time(bet.decide_by)),
        decided_at: bet.decided_at.map(time),
        settlement: bet.settlement.as_ref().map(settlement),
        history: history.iter().map(step).collect(),
    }
}

fn bet_status(status: BetStatus) -> v1::BetStatus {
    match status {
        BetStatus::Pending => v1::BetStatus::PendingConfirmation,
        BetStatus::Confirmed => v1::BetStatus::Confirmed,
        BetStatus::Rejected => v1::BetStatus::Rejected,
        BetStatus::Settled => v1::BetStatus::Settled,
    }
}

/// The filter of a list; `None` if it is unspecified.
pub(in crate::grpc) fn status_of_bet(status: v1::BetStatus) -> Option<BetStatus> {
    match status {
        v1::BetStatus::Unspecified => None,
        v1::BetStatus::PendingConfirmation => Some(BetStatus::Pending),
        v1::BetStatus::Confirmed => Some(BetStatus::Confirmed),
        v1::BetStatus::Rejected => Some(BetStatus::Rejected),
        v1::BetStatus::Settled => Some(BetStatus::Settled),
    }
}

/// The filter of a list; `None` if it is unspecified.
pub(in crate::grpc) fn outcome_of(outcome: v1::Outcome) -> Option<SettledAs> {
    match outcome {
        v1::Outcome::Unspecified => None,
        v1::Outcome::Won => Some(SettledAs::Won),
        v1::Outcome::Lost => Some(SettledAs::Lost),
        v1::Outcome::Void => Some(SettledAs::Void),
        v1::Outcome::HalfWon => Some(SettledAs::HalfWon),
        v1::Outcome::HalfLost => Some(SettledAs::HalfLost),
        v1::Outcome::DeadHeat => Some(SettledAs::DeadHeat),
        v1::Outcome::Partial => Some(SettledAs::Partial),
    }
}

fn settlement(settlement: &BetSettlement) -> v1::Settlement {
    let outcome = match settlement.outcome {
        SettledAs::Won => v1::Outcome::Won,
        SettledAs::Lost => v1::Outcome::Lost,
        SettledAs::Void => v1::Outcome::Void,
        SettledAs::HalfWon => v1::Outcome::HalfWon,
        SettledAs::HalfLost => v1::Outcome::HalfLost,
        SettledAs::DeadHeat => v1::Outcome::DeadHeat,
        SettledAs::Partial => v1::Outcome::Partial,
    };
    v1::Settlement {
        outcome: outcome.into(),
        payout_cents: settlement.payout_cents,
        settled_at: Some(time(settlement.settled_at)),
    }
}

fn step(step: &BetStep) -> v1::BetStep {
    v1::BetStep {
        from: step
            .from
            .map_or(v1::BetStatus::Unspecified, bet_status)
            .into(),
        to: bet_status(step.to).into(),
        reason: step.reason.clone(),
        at: Some(time(step.at)),
    }
}
