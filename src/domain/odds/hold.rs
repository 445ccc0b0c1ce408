//! Holds: an operator stops bets on everything, a source, an event, a market or a selection.
//!
//! A hold is stronger than any feed: what it covers is shown as suspended, and no bet on it is
//! accepted, until the hold is released or ends.

use crate::domain::ids::{EventId, MarketKey, SelectionId, Source};
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;

/// What a hold covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldScope {
    /// Every market.
    All,
    /// The markets whose current state is from this source.
    Source(Source),
    /// The markets of an event.
    Event(EventId),
    /// One market.
    Market(EventId, MarketKey),
    /// One selection of a market.
    Selection(EventId, MarketKey, SelectionId),
}

/// A hold in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its number.
    pub id: i64,
    /// What it covers.
    pub scope: HoldScope,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
}

impl HoldScope {
    /// Whether it covers the whole market of this update.
    pub fn covers_market(&self, update: &OddsUpdate) -> bool {
        match self {
            HoldScope::All => true,
            HoldScope::Source(source) => *source == update.source,
            HoldScope::Event(event) => *event == update.event_id,
            HoldScope::Market(event, market) => {
                *event == update.event_id && *market == update.market
            }
            HoldScope::Selection(..) => false,
        }
    }

    /// The selection that it covers, if it covers one selection of the market of this update.
    pub fn selection_of(&self, update: &OddsUpdate) -> Option<&SelectionId> {
        match self {
            HoldScope::Selection(event, market, selection)
                if *event == update.event_id && *market == update.market =>
            {
                Some(selection)
            }
            _ => None,
        }
    }
}

impl Hold {
    /// Whether it has not ended at this time.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}
