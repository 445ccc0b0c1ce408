//! The prices at which bets are placed: those of the books that clients see.

use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;

use crate::actors::odds::messages::GetSnapshot;
use crate::domain::ids::EventId;
use crate::domain::odds::book::Snapshot;
use crate::domain::odds::restrictions::{CurrentRestrictions, Restrictions};
use crate::runtime::feed_health::FeedState;

/// Why there are no prices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PricesError {
    /// The books do not receive every change.
    #[error("no changes are arriving, prices may be stale")]
    Stale,
    /// The books do not answer.
    #[error("{0}")]
    Unavailable(String),
}

/// The source of prices: the books that clients see.
pub struct Prices {
    /// Sends requests to the books.
    pub snapshots: Recipient<GetSnapshot>,
    /// Timeout of a request to the books.
    pub timeout: Duration,
    /// Whether the books receive every change.
    pub feed: Arc<FeedState>,
    /// The restrictions on the markets of the books.
    pub restrictions: Arc<CurrentRestrictions>,
}

/// The prices of an event, and what restricts them.
#[derive(Clone, Debug)]
pub struct EventPrices {
    /// The true state of the markets.
    pub book: Snapshot,
    /// The restrictions in force.
    pub restrictions: Arc<Restrictions>,
}

impl Prices {
    /// The prices of an event.
    pub async fn of(&self, event_id: &EventId) -> Result<EventPrices, PricesError> {
        if !self.feed.is_live() {
            return Err(PricesError::Stale);
        }
        let answer = self
            .snapshots
            .send(GetSnapshot(event_id.clone()))
            .timeout(self.timeout)
            .await;
        let book = answer
            .map_err(|error| PricesError::Unavailable(error.to_string()))?
            .map_err(|error| PricesError::Unavailable(error.to_string()))?;
        // The feed may have been lost while the book answered.
        if book.is_stale || !self.feed.is_live() {
            return Err(PricesError::Stale);
        }
        // Read after the book, so that a loss in the meantime is seen.
        let restrictions = self.restrictions.get();
        Ok(EventPrices { book, restrictions })
    }
}
