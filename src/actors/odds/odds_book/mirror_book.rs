//! The book of a process that serves clients: it mirrors the broadcasts of processors, and the
//! cache corrects it.

use std::time::Instant;

use super::doubts::Doubts;
pub(super) use super::doubts::Verification;
use super::state::{Applied, BookCore, BookState, RELOAD_DELAY, Restored, conflated};
use crate::actors::odds::book_source::{CachedState, LoadedState, ReplayBoundary};
use crate::cache::{Broadcast, Change};
use crate::domain::ids::EventId;
use crate::domain::odds::book::Snapshot;
use crate::domain::timestamp::Timestamp;

/// The state of a book that follows broadcasts.
pub(crate) struct MirrorBook {
    core: BookCore,
    boundary: ReplayBoundary,
    /// The markets to compare with the cache.
    doubts: Doubts,
}

/// The effects of a comparison with the cache.
#[derive(Debug)]
pub(crate) struct Verified {
    /// The corrected markets, to publish.
    pub changes: Vec<Change>,
    /// When to compare again.
    pub next: Verification,
}

impl MirrorBook {
    /// Creates an empty book that starts at `boundary`.
    pub(crate) fn new(event_id: EventId, boundary: ReplayBoundary) -> MirrorBook {
        MirrorBook {
            core: BookCore::new(event_id),
            boundary,
            doubts: Doubts::default(),
        }
    }

    /// Applies broadcasts and collects the markets to compare with the cache.
    pub(crate) fn apply(&mut self, broadcasts: Vec<Broadcast>, now: Timestamp) -> Applied {
        let latest = Doubts::latest(now);
        let mut applied = Applied::default();
        for broadcast in broadcasts {
            let seq = broadcast.seq;
            let market = broadcast.update.market.clone();
            let revision = broadcast.update.revision;
            let differs = self.core.book.contradicts(&broadcast.update);
            let outcome = self.core.book.mirror(broadcast.update, seq);
            let held = self.core.book.revision_of(&market).unwrap_or(revision);
            let contradicts = differs || self.doubts.is_unexplained(&outcome, seq);
            self.doubts.consider(market, held, contradicts, latest);
            // A change with another number than the published one arrived out of order.
            let is_late = outcome.is_ok() && !self.core.book.is_shared();
            applied.add(outcome, broadcast.conflated || is_late);
        }
        self.core.version.changed();
        applied
    }

    /// When to compare the book with the cache after a batch.
    pub(crate) fn next_verification(&mut self, now: Instant) -> Verification {
        self.doubts.next_verification(now)
    }

    /// Records that a comparison starts.
    pub(crate) fn start_verification(&mut self, now: Instant) {
        self.doubts.start_verification(now);
    }

    /// Accepts the cached state of the markets in doubt. The cache is written atomically before
    /// each broadcast. If the cache could not be read, the doubts stay; every market is stale
    /// meanwhile.
    pub(crate) fn verify(&mut self, cached: &CachedState, now: Timestamp) -> Verified {
        if !cached.is_read {
            return Verified {
                changes: Vec::new(),
                next: self.doubts.retry_verification(),
            };
        }
        self.doubts.record_read(cached.largest_seq());
        let markets = self.doubts.take_markets();
        let latest = Doubts::latest(now);
        let corrected = self.core.book.correct(&markets, &cached.states, latest);
        if !corrected.is_empty() {
            self.core.version.changed();
        }
        Verified {
            changes: conflated(corrected),
            next: Verification::Unneeded,
        }
    }

    /// Changes may have been missed, so no state is left to the broadcasts any more.
    pub(crate) fn expect_gap(&mut self) {
        self.boundary = ReplayBoundary::NOTHING;
    }

    fn record_load(&mut self, loaded: &LoadedState) {
        self.doubts.record_read(loaded.read_seq);
        self.core.is_cache_read = loaded.is_cache_read;
    }
}

impl BookState for MirrorBook {
    /// Publishes the whole book. Changes may be missing before every loaded state.
    fn restore(&mut self, loaded: LoadedState) -> Restored {
        self.record_load(&loaded);
        self.core.is_loaded = loaded.is_complete;
        let reload_after = loaded.reload_after(RELOAD_DELAY);
        let states = self.core.restore(loaded.states);
        self.core.version.changed();
        Restored {
            changes: conflated(states),
            reload_after,
        }
    }

    /// Publishes the newer states only, with numbers that grow.
    fn reload(&mut self, loaded: LoadedState) -> Restored {
        self.record_load(&loaded);
        self.core.is_loaded |= loaded.is_complete;
        let reload_after = loaded.reload_after(RELOAD_DELAY);
        let newer = if self.core.book.is_empty() {
            self.core.restore(loaded.states)
        } else {
            self.core.book.catch_up(loaded.states)
        };
        self.core.version.changed();
        Restored {
            changes: conflated(newer),
            reload_after,
        }
    }

    fn boundary(&self) -> ReplayBoundary {
        self.boundary
    }

    fn is_cache_read(&self) -> bool {
        self.core.is_cache_read
    }

    /// A mirror shows the cached state and is stale if it could not be read: the store lags behind
    /// it.
    fn snapshot(&self) -> Option<Snapshot> {
        self.core.snapshot(!self.core.is_cache_read)
    }
}

#[cfg(test)]
mod tests;
