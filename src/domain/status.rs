//! Status of a market and of a selection.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that names no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is not a {of} status")]
pub struct UnknownStatus {
    /// `market` or `selection`.
    pub of: &'static str,
    /// The text.
    pub got: String,
}

macro_rules! status {
    ($(#[$doc:meta])* $name:ident, $of:literal, { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every status, in the order of a life.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The word on the wire and in the database.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownStatus;

            fn from_str(text: &str) -> Result<$name, UnknownStatus> {
                $name::ALL.iter().copied().find(|status| status.as_str() == text)
                    .ok_or_else(|| UnknownStatus { of: $of, got: text.chars().take(40).collect() })
            }
        }
    };
}

status!(
    /// Status of a market. Bets are taken only while it is open.
    MarketStatus, "market", {
        /// Prices are live and bets are taken.
        #[default]
        Open = "open",
        /// Shown, but no bets are taken.
        Suspended = "suspended",
        /// No more bets; the result is not known yet.
        Closed = "closed",
        /// The result is known.
        Settled = "settled",
        /// The market is void: stakes go back.
        Cancelled = "cancelled",
    }
);
status!(
    /// Status of a selection within a market.
    SelectionStatus, "selection", {
        /// Can be backed while its market is open.
        #[default]
        Active = "active",
        /// Shown, but not to be backed now.
        Suspended = "suspended",
        /// Does not take part any more.
        Removed = "removed",
        /// Has won.
        Winner = "winner",
        /// Has lost.
        Loser = "loser",
        /// Bets on it are void.
        Void = "void",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_same_in_json_and_in_the_database() {
        for status in MarketStatus::ALL {
            assert_eq!(serde_json::to_string(status).unwrap(), format!("\"{status}\""));
            assert_eq!(status.as_str().parse::<MarketStatus>().unwrap(), *status);
        }
        for status in SelectionStatus::ALL {
            assert_eq!(serde_json::to_string(status).unwrap(), format!("\"{status}\""));
            assert_eq!(status.as_str().parse::<SelectionStatus>().unwrap(), *status);
        }
        assert_eq!("OPEN".parse::<MarketStatus>().unwrap_err().to_string(), "`OPEN` is not a market status");
    }
}
