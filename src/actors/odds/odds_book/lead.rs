//! What a mirror has read from the odds topic before the cache holds it.
//!
//! A book whose state is ahead of the cache is not dropped when it is idle, and the cache does not
//! correct it: what would be loaded instead is older than what clients have seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::domain::ids::MarketKey;
use crate::domain::odds::update::Revision;

/// Whether a book is ahead of the cache, for the router.
#[derive(Clone, Debug, Default)]
pub(crate) struct IsAhead(Arc<AtomicBool>);

impl IsAhead {
    /// The current value.
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The markets that are ahead of the cache, each with its revision in the book.
#[derive(Default)]
pub(super) struct Lead {
    markets: BTreeMap<MarketKey, Revision>,
    is_ahead: IsAhead,
}

impl Lead {
    /// The book has applied a record of the topic.
    pub(super) fn applied(&mut self, market: MarketKey, revision: Revision) {
        self.markets.insert(market, revision);
        self.publish();
    }

    /// The cache holds this revision of the market, or a later one.
    pub(super) fn confirm(&mut self, market: &MarketKey, revision: Revision) {
        if self
            .markets
            .get(market)
            .is_some_and(|ahead| *ahead <= revision)
        {
            self.markets.remove(market);
            self.publish();
        }
    }

    /// Whether the book is ahead of the cache in this market.
    pub(super) fn contains(&self, market: &MarketKey) -> bool {
        self.markets.contains_key(market)
    }

    /// Shows whether the book is ahead of the cache in any market.
    pub(super) fn is_ahead(&self) -> IsAhead {
        self.is_ahead.clone()
    }

    fn publish(&self) {
        let is_ahead = !self.markets.is_empty();
        self.is_ahead.0.store(is_ahead, Ordering::Relaxed);
    }
}
