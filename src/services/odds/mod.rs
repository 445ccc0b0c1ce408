//! Reads of events, current odds and their history.

mod shown_book;

use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;

pub(crate) use self::shown_book::{ShownBook, ShownMarket};
use crate::actors::odds::client_reads::{Busy, ClientReads};
use crate::actors::odds::messages::{ApplyError, GetSnapshot};
use crate::domain::odds::restrictions::CurrentRestrictions;
use crate::runtime::feed_health::FeedState;
use crate::store::blocking::blocking;
use crate::store::events::{EventPage, EventQuery};
use crate::store::{HistoryEntry, HistoryQuery, Store, StoreError};

/// Why odds cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OddsError {
    /// The event does not exist.
    #[error("event `{0}` not found")]
    EventNotFound(String),
    /// The event has no such market.
    #[error("event `{event}` has no market `{market}`")]
    MarketNotFound {
        /// The event.
        event: String,
        /// The market.
        market: String,
    },
    /// The books do not answer.
    #[error("{0}")]
    Unavailable(String),
    /// Too many reads are waiting.
    #[error("too many requests are waiting for the database; retry")]
    Busy,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Busy> for OddsError {
    fn from(_: Busy) -> OddsError {
        OddsError::Busy
    }
}

impl From<ApplyError> for OddsError {
    fn from(error: ApplyError) -> OddsError {
        OddsError::Unavailable(error.to_string())
    }
}

/// A page of the history of a market.
pub struct HistoryPage {
    /// The entries, in the supplier's order.
    pub entries: Vec<HistoryEntry>,
    /// Whether there are later ones.
    pub has_more: bool,
}

/// Reads odds.
pub struct OddsQueries {
    /// Sends requests to the books.
    pub snapshots: Recipient<GetSnapshot>,
    /// Timeout of a request to the books.
    pub snapshot_timeout: Duration,
    /// Whether the books receive every change.
    pub feed: Arc<FeedState>,
    /// The restrictions on the markets of the books.
    pub restrictions: Arc<CurrentRestrictions>,
    /// The database, for lists and history.
    pub store: Arc<dyn Store>,
    /// The queue of reads caused by clients.
    pub reads: Arc<ClientReads>,
}

impl OddsQueries {
    /// The markets of an event as they are shown; fails if the event is unknown.
    pub(crate) async fn book(&self, id: &str) -> Result<ShownBook, OddsError> {
        ShownBook::of(self, id).await
    }

    /// A page of events.
    pub async fn events(&self, query: EventQuery) -> Result<EventPage, OddsError> {
        let store = self.store.clone();
        let _turn = self.reads.enter()?.turn().await?;
        Ok(blocking(move || store.list_events(&query)).await?)
    }

    /// A page of the history of a market; fails if the event or the market does not exist.
    pub async fn history(&self, query: HistoryQuery) -> Result<HistoryPage, OddsError> {
        let limit = query.limit;
        let one_more = HistoryQuery {
            limit: limit + 1,
            ..query
        };
        let mut entries = self.history_rows(one_more).await?;
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        Ok(HistoryPage { entries, has_more })
    }

    async fn history_rows(&self, query: HistoryQuery) -> Result<Vec<HistoryEntry>, OddsError> {
        if self.reads.is_unknown(&query.event_id) {
            return Err(OddsError::EventNotFound(query.event_id.to_string()));
        }
        let _turn = self.reads.enter()?.turn().await?;
        let store = self.store.clone();
        let read = query.clone();
        let (rows, markets) = blocking(move || {
            let rows = store.history(&read)?;
            let markets = if rows.is_empty() {
                store.load_event(&read.event_id)?
            } else {
                Vec::new()
            };
            Ok((rows, markets))
        })
        .await?;
        if rows.is_empty() {
            let event = query.event_id.to_string();
            if markets.is_empty() {
                self.reads.remember_not_stored(&query.event_id);
                return Err(OddsError::EventNotFound(event));
            }
            if !markets.iter().any(|it| it.update.market == query.market) {
                let market = query.market.to_string();
                return Err(OddsError::MarketNotFound { event, market });
            }
        }
        Ok(rows)
    }
}
