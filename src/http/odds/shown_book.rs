//! A book as clients are shown it: restricted markets are suspended.

use std::sync::Arc;

use super::state::OddsState;
use crate::actors::odds::messages::GetSnapshot;
use crate::domain::ids::EventId;
use crate::domain::odds::book::{MarketState, Snapshot};
use crate::domain::odds::restrictions::Restrictions;
use crate::domain::odds::version_stamp::VersionStamp;
use crate::domain::timestamp::Timestamp;
use crate::http::errors::ApiError;

/// A market as it is shown.
pub(super) struct ShownMarket {
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
pub(super) struct ShownBook {
    pub seq: u64,
    pub markets: Vec<ShownMarket>,
    /// Whether every price may be stale.
    pub is_stale: bool,
    /// Show whether the book or the restrictions have changed since.
    pub versions: [VersionStamp; 2],
}

impl ShownBook {
    /// The book of an event; fails if the event is unknown.
    pub(super) async fn of(state: &OddsState, id: &str) -> Result<ShownBook, ApiError> {
        let not_found = || ApiError::EventNotFound(id.to_owned());
        let event_id = EventId::new(id).map_err(|_| not_found())?;
        let was_live = state.feed.is_live();
        let answer = state
            .snapshots
            .send(GetSnapshot(event_id))
            .timeout(state.snapshot_timeout)
            .await;
        let book = answer.map_err(|error| ApiError::BooksUnavailable(error.to_string()))??;
        if book.markets.is_empty() {
            return Err(not_found());
        }
        let is_stale = book.is_stale || !(was_live && state.feed.is_live());
        Ok(ShownBook::new(book, state, is_stale))
    }

    fn new(book: Snapshot, state: &OddsState, is_stale: bool) -> ShownBook {
        let restricted = state.restrictions.stamp();
        let restrictions = state.restrictions.get();
        let markets = book.markets.iter();
        ShownBook {
            seq: book.seq,
            markets: markets
                .map(|state| ShownMarket::new(state, &restrictions, is_stale))
                .collect(),
            is_stale,
            versions: [book.validity, restricted],
        }
    }
}
