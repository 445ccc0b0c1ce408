//! Status of a market and of a selection.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use crate::domain::unknown_variant::UnknownVariant;

/// Status of a market. Bets are accepted only while it is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive()]
#[derive(Serialize, Deserialize)]
#[derive(Display, EnumString, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownVariant, parse_err_fn = unknown_market_status)]
pub enum MarketStatus {
    /// Prices are live and bets are accepted.
    #[default]
    Open,
    /// Shown, but no bets are accepted.
    Suspended,
    /// No more bets; the result is not known yet.
    Closed,
    /// The result is known.
    Settled,
    /// The market is void: stakes are returned.
    Cancelled,
}

impl MarketStatus {
    /// The text on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether no more bets will be accepted.
    pub fn has_ended(self) -> bool {
        !matches!(self, MarketStatus::Open | MarketStatus::Suspended)
    }
}

fn unknown_market_status(text: &str) -> UnknownVariant {
    UnknownVariant::new("market status", text)
}

/// Status of an event, derived from its markets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive()]
#[derive(Serialize, Deserialize)]
#[derive(Display, EnumString, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownVariant, parse_err_fn = unknown_event_status)]
pub enum EventStatus {
    /// No market is in play yet.
    Upcoming,
    /// A market is in play.
    Live,
    /// Every market is closed, settled or cancelled.
    Ended,
}

impl EventStatus {
    /// The text on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether the event is in play.
    pub fn is_in_play(self) -> bool {
        self == EventStatus::Live
    }
}

fn unknown_event_status(text: &str) -> UnknownVariant {
    UnknownVariant::new("event status", text)
}

/// Status of a selection within a market.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive()]
#[derive(Serialize, Deserialize)]
#[derive(Display, EnumString, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownVariant, parse_err_fn = unknown_selection_status)]
pub enum SelectionStatus {
    /// Can be backed while its market is open.
    #[default]
    Active,
    /// Shown, but cannot be backed now.
    Suspended,
    /// No longer takes part.
    Removed,
    /// Has won.
    Winner,
    /// Has lost.
    Loser,
    /// Bets on it are void.
    Void,
}

fn unknown_selection_status(text: &str) -> UnknownVariant {
    UnknownVariant::new("selection status", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_database_texts_match() {
        for status in MarketStatus::VARIANTS {
            assert_eq!(
                serde_json::to_string(status).unwrap(),
                format!("\"{status}\"")
            );
            assert_eq!(status.as_str(), status.to_string());
            assert_eq!(status.as_str().parse::<MarketStatus>().unwrap(), *status);
        }
        for status in SelectionStatus::VARIANTS {
            assert_eq!(
                serde_json::to_string(status).unwrap(),
                format!("\"{status}\"")
            );
            assert_eq!(
                status.to_string().parse::<SelectionStatus>().unwrap(),
                *status
            );
        }
        assert_eq!(
            "OPEN".parse::<MarketStatus>().unwrap_err().to_string(),
            "`OPEN` is not a market status"
        );
    }
}
