//! What the simulator says about the results of a market.

use super::schedule::RoundTimes;
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::odds::update::OddsUpdate;
use crate::domain::settlement::record::{
    CancelReason, Certainty, Outcome, RecordContent, SelectionResult, Settlement, VoidFactor,
    Window, Won,
};
use crate::domain::timestamp::Timestamp;

/// The result of a market.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MarketResult {
    /// Which of its selections have won, in their order.
    Decided(Vec<bool>),
    /// It is void.
    Void,
}

/// Opens a round: bets from its start on have no result yet.
pub(super) fn opening(market: &OddsUpdate, times: &RoundTimes) -> RecordContent {
    let undecided = market.selections.iter().map(|_| Outcome::Undecided);
    settlement(market, undecided, times, None)
}

/// The result of a round. Bets placed after the markets were closed are void.
pub(super) fn result(
    market: &OddsUpdate,
    result: &MarketResult,
    times: &RoundTimes,
    closed_at: Timestamp,
) -> RecordContent {
    let outcomes = (0..market.selections.len()).map(|index| match result {
        MarketResult::Void => Outcome::Void { removal: None },
        MarketResult::Decided(won) if won.get(index) == Some(&true) => Outcome::Won(Won::WHOLE),
        MarketResult::Decided(_) => Outcome::Lost {
            void: VoidFactor::NONE,
        },
    });
    settlement(market, outcomes, times, Some(closed_at))
}

fn settlement(
    market: &OddsUpdate,
    outcomes: impl Iterator<Item = Outcome>,
    times: &RoundTimes,
    bets_until: Option<Timestamp>,
) -> RecordContent {
    let ids = market
        .selections
        .iter()
        .map(|selection| selection.id.clone());
    let mut selections: Vec<_> = ids
        .zip(outcomes)
        .map(|(id, outcome)| SelectionResult { id, outcome })
        .collect();
    selections.sort();
    RecordContent::Settlement(Settlement {
        selections,
        certainty: Certainty::Confirmed,
        bets_from: Some(times.start),
        bets_until,
    })
}

/// Takes the result of a round back.
pub(super) fn rollback(times: &RoundTimes) -> RecordContent {
    RecordContent::RollbackSettlement {
        selections: None,
        bets_from: Some(times.start),
    }
}

/// Makes all bets of a round void.
pub(super) fn cancellation(times: &RoundTimes) -> Option<RecordContent> {
    Some(RecordContent::Cancel {
        window: Window::new(Some(times.start), Some(times.end)).ok()?,
        reason: CancelReason::new("cancelled_event").ok()?,
    })
}

/// Shows the result in the status of the market and its selections.
pub(super) fn show(market: &mut OddsUpdate, result: &MarketResult) {
    market.status = match result {
        MarketResult::Decided(_) => MarketStatus::Settled,
        MarketResult::Void => MarketStatus::Cancelled,
    };
    for (index, selection) in market.selections.iter_mut().enumerate() {
        selection.status = match result {
            MarketResult::Void => SelectionStatus::Void,
            MarketResult::Decided(won) if won.get(index) == Some(&true) => SelectionStatus::Winner,
            MarketResult::Decided(_) => SelectionStatus::Loser,
        };
    }
}
