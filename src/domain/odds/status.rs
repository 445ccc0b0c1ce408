//! Status of a market and of a selection.

use crate::domain::string_enum::string_enum;

string_enum! {
    /// Status of a market. Bets are accepted only while it is open.
    #[derive(Default)]
    MarketStatus, "market status", {
        /// Prices are live and bets are accepted.
        #[default]
        Open = "open",
        /// Shown, but no bets are accepted.
        Suspended = "suspended",
        /// No more bets; the result is not known yet.
        Closed = "closed",
        /// The result is known.
        Settled = "settled",
        /// The market is void: stakes are returned.
        Cancelled = "cancelled",
    }
}
string_enum! {
    /// Status of an event, derived from its markets.
    EventStatus, "event status", {
        /// No market is in play yet.
        Upcoming = "upcoming",
        /// A market is in play.
        Live = "live",
        /// Every market is closed, settled or cancelled.
        Ended = "ended",
    }
}
string_enum! {
    /// Status of a selection within a market.
    #[derive(Default)]
    SelectionStatus, "selection status", {
        /// Can be backed while its market is open.
        #[default]
        Active = "active",
        /// Shown, but cannot be backed now.
        Suspended = "suspended",
        /// No longer takes part.
        Removed = "removed",
        /// Has won.
        Winner = "winner",
        /// Has lost.
        Loser = "loser",
        /// Bets on it are void.
        Void = "void",
    }
}

impl EventStatus {
    /// Whether the event is in play.
    pub fn is_in_play(self) -> bool {
        self == EventStatus::Live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_database_texts_match() {
        for status in MarketStatus::ALL {
            assert_eq!(
                serde_json::to_string(status).unwrap(),
                format!("\"{status}\"")
            );
            assert_eq!(status.as_str().parse::<MarketStatus>().unwrap(), *status);
        }
        for status in SelectionStatus::ALL {
            assert_eq!(
                serde_json::to_string(status).unwrap(),
                format!("\"{status}\"")
            );
            assert_eq!(status.as_str().parse::<SelectionStatus>().unwrap(), *status);
        }
        assert_eq!(
            "OPEN".parse::<MarketStatus>().unwrap_err().to_string(),
            "`OPEN` is not a market status"
        );
    }
}
