//! A book as clients are shown it: restricted markets are suspended.

use std::sync::Arc;

use super::{OddsError, OddsQueries};
use crate::actors::odds::messages::GetSnapshot;
use crate::domain::ids::EventId;
use crate::domain::odds::book::{MarketState, Snapshot};
use crate::domain::odds::restrictions::Restrictions;
use crate::domain::odds::version_stamp::VersionStamp;
use crate::domain::timestamp::Timestamp;

/// A market as it is shown.
pub(crate) struct ShownMarket {
    /// Its state.
    pub state: Arc<MarketState>,
    /// Whether its price may be stale.
    pub is_stale: bool,
    /// Until when its source has confirmed it, if the source is lost.
    pub as_of: Option<Timestamp>,
}

impl ShownMarket {
    fn new(state: &Arc<MarketState>, restrictions: &Restrictions, is_stale: bool) -> ShownMarket {
        let source = &state.update.source;
        let is_unconfirmed = restrictions.is_stale(state);
        ShownMarket {
            state: restrictions.shown(state).into_owned(),
            is_stale: is_stale || is_unconfirmed,
            as_of: restrictions
                .confirmed_until(source)
                .filter(|_| is_unconfirmed),
        }
    }
}

/// The markets of an event as they are shown.
pub(crate) struct ShownBook {
    /// The event.
    pub event_id: EventId,
    /// The sequence number of the last change.
    pub seq: u64,
    /// The markets, ordered by key.
    pub markets: Vec<ShownMarket>,
    /// Whether every price may be stale.
    pub is_stale: bool,
    /// Show whether the book or the restrictions have changed since.
    pub versions: [VersionStamp; 2],
}

impl ShownBook {
    /// The book of an event; fails if the event is unknown.
    pub(super) async fn of(odds: &OddsQueries, id: &str) -> Result<ShownBook, OddsError> {
        let not_found = || OddsError::EventNotFound(id.to_owned());
        let event_id = EventId::new(id).map_err(|_| not_found())?;
        let was_live = odds.feed.is_live();
        let answer = odds
            .snapshots
            .send(GetSnapshot(event_id))
            .timeout(odds.snapshot_timeout)
            .await;
        let book = answer.map_err(|error| OddsError::Unavailable(error.to_string()))??;
        if book.markets.is_empty() {
            return Err(not_found());
        }
        let is_stale = book.is_stale || !(was_live && odds.feed.is_live());
        Ok(ShownBook::new(book, odds, is_stale))
    }

    fn new(book: Snapshot, odds: &OddsQueries, is_stale: bool) -> ShownBook {
        let restricted = odds.restrictions.stamp();
        let restrictions = odds.restrictions.get();
        let markets = book.markets.iter();
        ShownBook {
            event_id: book.event_id,
            seq: book.seq,
            markets: markets
                .map(|state| ShownMarket::new(state, &restrictions, is_stale))
                .collect(),
            is_stale,
            versions: [book.validity, restricted],
        }
    }
}
