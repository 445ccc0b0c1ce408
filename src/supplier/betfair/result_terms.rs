//! The parts of a definition that results are read from.

use serde_json::value::RawValue;

use super::wire::{MarketDefinition, RunnerDefinition};
use crate::domain::odds::price::parse_exact;
use crate::domain::settlement::record::{Reduction, Removal};
use crate::domain::timestamp::Timestamp;

/// What a market says about its results.
#[derive(Debug)]
pub(crate) struct ResultTerms {
    /// Betfair has closed the market.
    pub is_closed: bool,
    /// Its prices are odds, and each of its runners wins or loses.
    pub is_supported: bool,
    /// How many runners win; `None` if that is not known.
    pub number_of_winners: Option<usize>,
    /// When it was settled.
    pub settled_time: Option<Timestamp>,
}

/// What the definition says about the result of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunnerResult {
    /// Still takes part.
    Active,
    /// It was removed.
    Removed(RunnerRemoval),
    /// Not shown. It may come back until the market is closed.
    Hidden,
    /// Has won.
    Winner,
    /// Is placed, in an each way market.
    Placed,
    /// Has lost.
    Loser,
}

/// The removal of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunnerRemoval {
    /// Without effect on the others.
    Plain {
        /// When it was removed.
        removed_at: Option<Timestamp>,
    },
    /// The prices of the others fall.
    Reducing(Removal),
    /// The effect or the time is not readable.
    Unreadable,
}

impl ResultTerms {
    pub(super) fn read(wire: &MarketDefinition<'_>) -> ResultTerms {
        let has_odds = wire.betting_type.as_deref() == Some("ODDS");
        let is_each_way = wire.each_way_divisor.is_some();
        let winners = wire.number_of_winners.map(RawValue::get);
        ResultTerms {
            is_closed: wire.status == "CLOSED",
            is_supported: has_odds && !is_each_way,
            number_of_winners: winners.and_then(|text| text.parse().ok()),
            settled_time: wire.settled_time.and_then(time),
        }
    }
}

impl RunnerResult {
    /// The status is one of those that `SelectionStatus` is read from.
    pub(super) fn read(wire: &RunnerDefinition<'_>) -> RunnerResult {
        match wire.status.as_str() {
            "REMOVED" | "REMOVED_VACANT" => RunnerResult::Removed(RunnerRemoval::read(wire)),
            "HIDDEN" => RunnerResult::Hidden,
            "WINNER" => RunnerResult::Winner,
            "PLACED" => RunnerResult::Placed,
            "LOSER" => RunnerResult::Loser,
            _ => RunnerResult::Active,
        }
    }
}

impl RunnerRemoval {
    fn read(wire: &RunnerDefinition<'_>) -> RunnerRemoval {
        let removed_at = wire.removal_date.map(time);
        let reduction = wire.adjustment_factor.map(reduction);
        match (reduction, removed_at) {
            (None, Some(None)) | (Some(None), _) => RunnerRemoval::Unreadable,
            (None, removed_at) => RunnerRemoval::Plain {
                removed_at: removed_at.flatten(),
            },
            (Some(Some(reduction)), Some(Some(removed_at))) => RunnerRemoval::Reducing(Removal {
                reduction,
                removed_at,
            }),
            (Some(Some(_)), _) => RunnerRemoval::Unreadable,
        }
    }
}

fn time(text: &RawValue) -> Option<Timestamp> {
    serde_json::from_str(text.get()).ok()
}

/// Betfair's factors have up to three decimals.
fn reduction(text: &RawValue) -> Option<Reduction> {
    let max = i64::from(Reduction::MAX.thousandths());
    let thousandths = parse_exact(text.get(), (0, "0"), (max, "100")).ok()?;
    u32::try_from(thousandths)
        .ok()
        .and_then(Reduction::from_thousandths)
}
