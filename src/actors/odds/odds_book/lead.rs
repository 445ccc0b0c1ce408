//! What a mirror has read from the odds topic before the cache holds it.
//!
//! A book whose state is ahead of the cache is not dropped when it is idle, and the cache does not
//! correct it: what would be loaded instead is older than what clients have seen. Records that
//! arrive before the book has read the store wait: without its state they cannot be told from
//! duplicates.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::domain::ids::MarketKey;
use crate::domain::odds::update::{PositionedUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// How many records wait for the store. The changes of further ones arrive as broadcasts.
const MAX_WAITING: usize = 100;

/// Markets that are ahead of the cache, each with its revision.
pub(super) type MarketsAhead = BTreeMap<MarketKey, Revision>;

/// Whether a book is ahead of the cache, for the router.
#[derive(Clone, Debug, Default)]
pub(crate) struct IsAhead(Arc<AtomicBool>);

impl IsAhead {
    /// The current value.
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A record that waits for the store, and the latest time that raised no doubt when it arrived.
#[derive(Debug)]
pub(super) struct WaitingRecord {
    pub record: PositionedUpdate,
    pub latest: Timestamp,
}

/// How far the book is ahead of the cache.
#[derive(Default)]
pub(super) struct Lead {
    markets: MarketsAhead,
    /// The first records since the book started, in order.
    waiting: Vec<WaitingRecord>,
    /// The highest sequence number that the cache held when it was last loaded.
    cached_seq: u64,
    is_ahead: IsAhead,
}

impl Lead {
    /// The book has applied a record of the topic.
    pub(super) fn applied(&mut self, market: MarketKey, revision: Revision) {
        self.markets.insert(market, revision);
        self.publish();
    }

    /// Keeps a record until the store is read.
    pub(super) fn wait(&mut self, waiting: WaitingRecord) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push(waiting);
            self.publish();
        }
    }

    /// Returns the records that waited, and clears them.
    pub(super) fn take_waiting(&mut self) -> Vec<WaitingRecord> {
        let waiting = std::mem::take(&mut self.waiting);
        self.publish();
        waiting
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

    /// The cache was loaded and holds sequence numbers up to this one.
    pub(super) fn record_cached(&mut self, cached_seq: u64) {
        self.cached_seq = self.cached_seq.max(cached_seq);
    }

    /// Whether a book with this last number lacks changes that the cache held when it was loaded:
    /// the load left them to their broadcasts.
    pub(super) fn is_behind(&self, seq: u64) -> bool {
        seq < self.cached_seq
    }

    /// Whether the book is ahead of the cache in this market.
    pub(super) fn contains(&self, market: &MarketKey) -> bool {
        self.markets.contains_key(market)
    }

    /// The markets that are ahead of the cache.
    pub(super) fn markets(&self) -> &MarketsAhead {
        &self.markets
    }

    /// Forgets those of these markets that have not changed since, and returns their number.
    pub(super) fn end(&mut self, unconfirmed: &MarketsAhead) -> usize {
        let before = self.markets.len();
        self.markets
            .retain(|market, revision| unconfirmed.get(market) != Some(revision));
        self.publish();
        before - self.markets.len()
    }

    /// Shows whether the book is ahead of the cache in any market, or will be once the store is
    /// read.
    pub(super) fn is_ahead(&self) -> IsAhead {
        self.is_ahead.clone()
    }

    fn publish(&self) {
        let is_ahead = !self.markets.is_empty() || !self.waiting.is_empty();
        self.is_ahead.0.store(is_ahead, Ordering::Relaxed);
    }
}
