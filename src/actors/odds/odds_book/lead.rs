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
use crate::domain::odds::book::MAX_MARKETS;
use crate::domain::odds::update::{PositionedUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// How many records wait for the store. Once there are as many, a further one replaces the earlier
/// ones of its market: it may never be broadcast, if no processor runs.
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

/// A record that was read from the topic.
#[derive(Debug)]
pub(super) struct ReadRecord {
    pub record: PositionedUpdate,
    /// The latest time that raised no doubt when it arrived.
    pub latest: Timestamp,
    /// Whether it has replaced earlier records of its market.
    pub is_conflated: bool,
}

/// How far the book is ahead of the cache.
#[derive(Default)]
pub(super) struct Lead {
    markets: MarketsAhead,
    /// The records since the book started, in the order of the topic.
    waiting: Vec<ReadRecord>,
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
    pub(super) fn wait(&mut self, mut read: ReadRecord) {
        if self.waiting.len() >= MAX_WAITING {
            let (market, revision) = (&read.record.update.market, read.record.update.revision);
            let held = |waiting: &ReadRecord| waiting.record.update.market == *market;
            let is_older = |waiting: &ReadRecord| waiting.record.update.revision < revision;
            if self.waiting.iter().any(|it| held(it) && !is_older(it)) {
                return;
            }
            let replaced = self.waiting.extract_if(.., |it| held(it)).count();
            read.is_conflated = replaced > 0;
        }
        if self.waiting.len() < MAX_WAITING + MAX_MARKETS {
            self.waiting.push(read);
        }
        self.publish();
    }

    /// Returns the records that waited, and clears them.
    pub(super) fn take_waiting(&mut self) -> Vec<ReadRecord> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::ids::EventId;
    use crate::domain::odds::book::Book;
    use crate::domain::odds::update::testing::market_update;

    const MARKETS: u8 = 5;

    fn record((position, (market, time)): (u64, (u8, i64))) -> PositionedUpdate {
        PositionedUpdate {
            trace: None,
            update: market_update("MATCH_001", &format!("m{market}"), None, time, 1),
            position,
            partition: 0,
        }
    }

    fn book_of<'a>(records: impl IntoIterator<Item = &'a PositionedUpdate>) -> Book {
        let mut book = Book::new(EventId::new("MATCH_001").unwrap());
        for record in records {
            let _ = book.apply(record.update.clone(), record.position);
        }
        book
    }

    proptest! {
        /// However many records wait, also old ones: the book shows the latest of each market, with
        /// the number that all other books give it.
        #[test]
        fn waiting_records_hold_latest_of_each_market(
            records in proptest::collection::vec((0..MARKETS, 0_i64..200), 0..400),
        ) {
            let records: Vec<_> = (0..).zip(records).map(record).collect();
            let mut lead = Lead::default();
            for record in &records {
                lead.wait(ReadRecord {
                    record: record.clone(),
                    latest: record.update.revision.updated_at,
                    is_conflated: false,
                });
            }
            let waiting = lead.take_waiting();
            prop_assert!(waiting.len() <= MAX_WAITING + usize::from(MARKETS));
            let conflated = book_of(waiting.iter().map(|waiting| &waiting.record));
            let complete = book_of(&records);
            prop_assert_eq!(conflated.snapshot().markets, complete.snapshot().markets);
            let is_complete = waiting.len() == records.len();
            let is_marked = waiting.iter().any(|waiting| waiting.is_conflated);
            prop_assert!(is_complete || is_marked || records.len() > MAX_WAITING);
        }
    }
}
