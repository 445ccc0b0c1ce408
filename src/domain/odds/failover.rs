//! Failover between the sources of a market: one source at a time owns a market, and only its state
//! is shown.
//!
//! The owner is the first source in the order of priority that is live and offers the market. A
//! source that is lost, or that hands the market over, is followed by the next one; it gets the
//! market back once it has been live long enough. A suspension by the owner is a statement about
//! the market, so it is shown and never failed over.

mod held;
mod lives;
mod market;
mod selection;

use std::time::Duration;

use strum::{IntoStaticStr, VariantNames};

pub use self::lives::SourceLives;
pub use self::market::{Basis, Decision, MarketSources, Received, SourceUpdate, Standing};
pub use self::selection::{Effect, MAX_IDLE_HANDED_OVER, PublishedStates, SourceSelection};
use crate::domain::ids::Source;

/// Maximum number of sources in the order of priority, and of sources of one market.
pub const MAX_SOURCES: usize = 8;

/// How far the clocks of two machines may differ.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(1);

/// When a market changes its owner.
#[derive(Clone, Debug)]
pub struct FailoverRules {
    /// The sources, most trusted first. A source that is not listed ranks after those that are, in
    /// the order of the names.
    pub priority: Vec<Source>,
    /// The maximum age of a state that replaces the one of a lost source.
    pub max_age: Duration,
    /// How long a source must have been live before it takes a market from a live one.
    pub failback_after: Duration,
}

impl FailoverRules {
    /// The rank of a source; the lowest is the most trusted one.
    fn rank<'a>(&self, source: &'a Source) -> (usize, &'a Source) {
        let listed = self.priority.iter().position(|listed| listed == source);
        (listed.unwrap_or(self.priority.len()), source)
    }
}

/// Why a market changed its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum FailoverCause {
    /// The owner was lost.
    Lost,
    /// The owner handed the market over.
    HandedOver,
    /// A source of higher priority has been live long enough.
    Back,
}

impl FailoverCause {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Why a live source did not become the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum FailoverRefusal {
    /// Its selections are not those of the owner.
    Selections,
    /// Its state is older than [`FailoverRules::max_age`].
    TooOld,
}

impl FailoverRefusal {
    /// The metric label.
    pub fn reason(self) -> &'static str {
        self.into()
    }
}

/// Why the record of a source is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum DroppedRecord {
    /// The source itself has sent a later revision of the market.
    Late,
    /// The market already has [`MAX_SOURCES`] other sources.
    TooManySources,
    /// The market is new, and the event already has the maximum number.
    TooManyMarkets,
}

impl DroppedRecord {
    /// The metric label.
    pub fn reason(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests;
