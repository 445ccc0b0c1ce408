//! Doubts about a mirrored book: broadcasts that contradict it, or that are ahead of the clock.
//!
//! Anybody who may publish on the channel can forge a broadcast. A forged time of a few minutes
//! ahead is within the skew allowed to suppliers, and would reject every valid price until then.
//! The cache is written atomically with each valid broadcast, so a book in doubt reads the cache
//! and trusts it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::ids::MarketKey;
use crate::domain::odds::book::{MarketState, Rejection};
use crate::domain::odds::update::Revision;
use crate::domain::timestamp::Timestamp;

/// Minimum interval between comparisons with the cache, however many doubts arise.
const VERIFY_PAUSE: Duration = Duration::from_secs(1);
/// A broadcast whose time is further ahead of the clock is compared with the cache, although it is
/// within the skew allowed to suppliers: a forged one would reject every valid price until then.
const DOUBTFUL_AHEAD: Duration = Duration::from_secs(2);

/// When to compare a book with the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verification {
    /// Nothing is in doubt, or a comparison is scheduled.
    Unneeded,
    /// Before the next batch.
    Now,
    /// After this delay. Returned once until the comparison starts.
    After(Duration),
}

/// Reasons to compare a mirrored book with the cache.
#[derive(Default)]
pub(super) struct Doubts {
    /// The markets in doubt; at most as many as the book holds.
    markets: BTreeSet<MarketKey>,
    /// The highest sequence number read from the cache, the store or the odds topic so far. An
    /// older broadcast or record with a higher number contradicts the book: a valid broadcast is
    /// published when the cache accepts it, and the cache accepts later revisions only.
    read_seq: u64,
    /// When the last comparison started.
    last_started: Option<Instant>,
    /// Whether a comparison is scheduled, because it has to wait.
    is_scheduled: bool,
}

impl Doubts {
    /// The latest broadcast time that raises no doubt.
    pub(super) fn latest(now: Timestamp) -> Timestamp {
        now.later_by(DOUBTFUL_AHEAD)
    }

    /// Whether a broadcast is older than the held state, although its sequence number is higher
    /// than any read so far.
    pub(super) fn is_unexplained(
        &self,
        outcome: &Result<Arc<MarketState>, Rejection>,
        seq: Option<u64>,
    ) -> bool {
        *outcome == Err(Rejection::Older) && seq.is_some_and(|seq| seq > self.read_seq)
    }

    /// Adds a market if a broadcast contradicts its held state, or if that state is ahead of the
    /// clock.
    pub(super) fn consider(
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

    /// Records that the cache, the store or the odds topic was read up to this sequence number.
    pub(super) fn record_read(&mut self, read_seq: u64) {
        self.read_seq = self.read_seq.max(read_seq);
    }

    /// When to compare. If it is too early, one comparison is scheduled, however many doubts arise
    /// until then.
    pub(super) fn next_verification(&mut self, now: Instant) -> Verification {
        if self.markets.is_empty() || self.is_scheduled {
            return Verification::Unneeded;
        }
        let pause = self.pause(now);
        if pause.is_zero() {
            return Verification::Now;
        }
        self.is_scheduled = true;
        Verification::After(pause)
    }

    /// When to compare again after a comparison that could not decide.
    pub(super) fn retry_verification(&mut self) -> Verification {
        self.is_scheduled = true;
        Verification::After(VERIFY_PAUSE)
    }

    /// Records that a comparison starts.
    pub(super) fn start_verification(&mut self, now: Instant) {
        self.last_started = Some(now);
        self.is_scheduled = false;
    }

    /// Returns the markets in doubt and clears them, except those that are to be compared later.
    pub(super) fn take_markets(
        &mut self,
        is_later: impl Fn(&MarketKey) -> bool,
    ) -> BTreeSet<MarketKey> {
        let (later, markets) = std::mem::take(&mut self.markets)
            .into_iter()
            .partition(is_later);
        self.markets = later;
        markets
    }

    /// Whether any market is in doubt.
    pub(super) fn is_empty(&self) -> bool {
        self.markets.is_empty()
    }

    fn pause(&self, now: Instant) -> Duration {
        self.last_started.map_or(Duration::ZERO, |at| {
            VERIFY_PAUSE.saturating_sub(now.saturating_duration_since(at))
        })
    }
}
