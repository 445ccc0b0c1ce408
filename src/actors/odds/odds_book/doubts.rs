//! Doubts about a mirrored book: broadcasts that contradict it, or that are ahead of the clock.
//!
//! Anybody who may publish on the channel can forge a broadcast. A forged time of a few minutes
//! ahead is within the skew allowed to suppliers, and would reject every valid price until then.
//! The cache is written atomically with each valid broadcast, so a book in doubt reads the cache
//! and trusts it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::warn;

use super::OddsBook;
use crate::cache::Change;
use crate::domain::ids::MarketKey;
use crate::domain::odds::book::{MarketState, Rejection};
use crate::domain::odds::update::Revision;
use crate::domain::timestamp::Timestamp;

/// Minimum interval between comparisons with the cache, however many doubts arise.
const VERIFY_PAUSE: Duration = Duration::from_secs(1);
/// A broadcast whose time is further ahead of the clock is compared with the cache, although it is
/// within the skew allowed to suppliers: a forged one would reject every valid price until then.
const DOUBTFUL_AHEAD: Duration = Duration::from_secs(2);

/// Reasons to compare a mirrored book with the cache.
#[derive(Default)]
pub(super) struct Doubts {
    /// The markets in doubt; at most as many as the book holds.
    markets: BTreeSet<MarketKey>,
    /// The highest sequence number read from the cache or the store so far. An older broadcast with
    /// a higher number contradicts the book: a valid broadcast is published when the cache accepts
    /// it, and the cache accepts later revisions only.
    read_seq: u64,
    /// When the last comparison started.
    verified: Option<Instant>,
    /// The scheduled comparison, if one has to wait.
    next: Option<SpawnHandle>,
}

impl Doubts {
    /// The latest broadcast time that raises no doubt.
    pub fn latest() -> Timestamp {
        Timestamp::now().later_by(DOUBTFUL_AHEAD)
    }

    /// Whether a broadcast is older than the held state, although its sequence number is higher
    /// than any read so far.
    pub fn is_unexplained(
        &self,
        taken: &Result<Arc<MarketState>, Rejection>,
        seq: Option<u64>,
    ) -> bool {
        *taken == Err(Rejection::Older) && seq.is_some_and(|seq| seq > self.read_seq)
    }

    /// Adds a market if a broadcast contradicts its held state, or if that state is ahead of the
    /// clock.
    pub fn consider(
        &mut self,
        market: MarketKey,
        held: Revision,
        contradicts: bool,
        latest: Timestamp,
    ) {
        if contradicts || held.updated_at > latest {
            self.markets.insert(market);
        }
    }

    /// Records that the cache or the store was read and holds sequence numbers up to this one.
    pub fn record_read(&mut self, read_seq: u64) {
        self.read_seq = self.read_seq.max(read_seq);
    }
}

impl OddsBook {
    /// Whether to verify now. If it is too early, one comparison is scheduled, however many doubts
    /// arise until then.
    pub(super) fn verify_when_due(&mut self, context: &mut Context<Self>) -> bool {
        if self.doubts.markets.is_empty() || self.doubts.next.is_some() {
            return false;
        }
        let pause = self.doubts.verified.map_or(Duration::ZERO, |at| {
            VERIFY_PAUSE.saturating_sub(at.elapsed())
        });
        if pause.is_zero() {
            return true;
        }
        self.doubts.next = Some(context.run_later(pause, |book, context| {
            book.doubts.next = None;
            if context.connected() {
                context.wait(book.verify());
            }
        }));
        false
    }

    /// Compares the markets in doubt with the cache and takes over its state. The cache is written
    /// atomically before each broadcast.
    pub(super) fn verify(&mut self) -> impl ActorFuture<Self, Output = ()> + use<> {
        self.doubts.verified = Some(Instant::now());
        let (edges, event_id) = (self.edges.clone(), self.event_id.clone());
        async move { edges.source.load_hot(&event_id).await }
            .into_actor(self)
            .then(|hot, book, context| {
                if hot.is_read {
                    book.doubts.record_read(hot.largest_seq());
                } else {
                    // A cache outage is reported elsewhere, and every market is stale meanwhile.
                    book.verify_when_due(context);
                }
                let markets = if hot.is_read {
                    std::mem::take(&mut book.doubts.markets)
                } else {
                    BTreeSet::new()
                };
                let corrected = book.book.correct(&markets, &hot.states, Doubts::latest());
                book.edges.metrics.count_verification(corrected.len());
                if !corrected.is_empty() {
                    book.generation.changed();
                    let (event, markets) = (book.event_id.as_str(), corrected.len());
                    warn!(event, markets; "broadcasts contradict the cache, book corrected");
                }
                let edges = book.edges.clone();
                let news = corrected
                    .into_iter()
                    .map(|state| Change {
                        state,
                        conflated: true,
                    })
                    .collect();
                async move { edges.publish(news).await }.into_actor(book)
            })
    }
}

#[cfg(test)]
mod tests;
