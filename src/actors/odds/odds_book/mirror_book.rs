//! The book of a process that serves clients: it mirrors the broadcasts of processors, and the
//! cache corrects it. Records of the odds topic may reach it before their broadcasts.

use std::sync::Arc;
use std::time::Instant;

use super::doubts::Doubts;
pub(super) use super::doubts::Verification;
use super::lead::{IsAhead, Lead};
use super::state::{Applied, BookCore, BookState, RELOAD_DELAY, Restored, conflated};
use crate::actors::odds::book_source::{CachedState, LoadedState, ReplayBoundary};
use crate::cache::{Broadcast, Change};
use crate::domain::ids::EventId;
use crate::domain::odds::book::{MarketState, Rejection, Snapshot};
use crate::domain::odds::update::{OddsUpdate, PositionedUpdate};
use crate::domain::timestamp::Timestamp;

/// An input of a mirror.
#[derive(Debug)]
pub(crate) enum MirrorInput {
    /// A change that a processor has published. The cache holds it.
    Broadcast(Broadcast),
    /// A record of the odds topic. No processor may have read it yet.
    Record(PositionedUpdate),
}

impl MirrorInput {
    /// The update.
    pub(super) fn update(&self) -> &OddsUpdate {
        match self {
            MirrorInput::Broadcast(broadcast) => &broadcast.update,
            MirrorInput::Record(record) => &record.update,
        }
    }

    /// The sequence number that processors give to the change. A broadcast of the original has
    /// none.
    fn seq(&self) -> Option<u64> {
        match self {
            MirrorInput::Broadcast(broadcast) => broadcast.seq,
            MirrorInput::Record(record) => Some(record.position.saturating_add(1)),
        }
    }
}

impl From<Broadcast> for MirrorInput {
    fn from(broadcast: Broadcast) -> MirrorInput {
        MirrorInput::Broadcast(broadcast)
    }
}

impl From<PositionedUpdate> for MirrorInput {
    fn from(record: PositionedUpdate) -> MirrorInput {
        MirrorInput::Record(record)
    }
}

/// The state of a book that follows broadcasts.
pub(crate) struct MirrorBook {
    core: BookCore,
    boundary: ReplayBoundary,
    /// The markets to compare with the cache.
    doubts: Doubts,
    /// The markets that the cache may not hold yet.
    lead: Lead,
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
            lead: Lead::default(),
        }
    }

    /// Applies broadcasts and records, and collects the markets to compare with the cache.
    pub(crate) fn apply(
        &mut self,
        inputs: impl IntoIterator<Item = impl Into<MirrorInput>>,
        now: Timestamp,
    ) -> Applied {
        let latest = Doubts::latest(now);
        let mut applied = Applied::default();
        for input in inputs {
            self.apply_one(input.into(), latest, &mut applied);
        }
        self.core.version.changed();
        applied
    }

    fn apply_one(&mut self, input: MirrorInput, latest: Timestamp, applied: &mut Applied) {
        let seq = input.seq();
        let market = input.update().market.clone();
        let revision = input.update().revision;
        let differs = self.core.book.contradicts(input.update());
        let was_ahead = self.lead.contains(&market);
        let (update, conflated, is_record) = match input {
            MirrorInput::Broadcast(broadcast) => {
                self.lead.confirm(&market, revision);
                (broadcast.update, broadcast.conflated, false)
            }
            MirrorInput::Record(record) => (record.update, false, true),
        };
        let outcome = self.core.book.mirror(update, seq);
        match (&outcome, seq) {
            (Ok(_), _) if is_record => self.lead.applied(market.clone(), revision),
            (Err(Rejection::Duplicate), Some(seq)) if !is_record => {
                self.core.book.agree(&market, seq);
            }
            _ => {}
        }
        let held = self.core.book.revision_of(&market).unwrap_or(revision);
        let contradicts = differs || self.doubts.is_unexplained(&outcome, seq);
        self.doubts.consider(market, held, contradicts, latest);
        if is_record {
            // Nobody can forge it, so it explains that later broadcasts are older than the book.
            self.doubts.record_read(seq.unwrap_or_default());
        }
        // One of a record and its broadcast is always rejected.
        if outcome.is_err() && (is_record || was_ahead) {
            return;
        }
        // A broadcast with another number than the published one arrived out of order. Records are
        // read in order.
        let is_late = !is_record && outcome.is_ok() && !self.core.book.is_shared();
        applied.add(outcome, conflated || is_late);
    }

    /// The cache holds these states.
    fn confirm(&mut self, states: &[Arc<MarketState>]) {
        for state in states {
            let update = &state.update;
            self.lead.confirm(&update.market, update.revision);
        }
    }

    /// When to compare the book with the cache after a batch.
    pub(crate) fn next_verification(&mut self, now: Instant) -> Verification {
        self.doubts.next_verification(now)
    }

    /// Records that a comparison starts.
    pub(crate) fn start_verification(&mut self, now: Instant) {
        self.doubts.start_verification(now);
    }

    /// Accepts the cached state of the markets in doubt, except of those that are ahead of it. The
    /// cache is written atomically before each broadcast. If the cache could not be read, the doubts
    /// stay, and every market is stale until then.
    pub(crate) fn verify(&mut self, cached: &CachedState, now: Timestamp) -> Verified {
        if !cached.is_read {
            return Verified {
                changes: Vec::new(),
                next: self.doubts.retry_verification(),
            };
        }
        self.doubts.record_read(cached.largest_seq());
        self.confirm(&cached.states);
        let mut markets = self.doubts.take_markets();
        markets.retain(|market| !self.lead.contains(market));
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
        self.confirm(&loaded.states);
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

    fn is_ahead(&self) -> IsAhead {
        self.lead.is_ahead()
    }

    /// A mirror shows the cached state and is stale if it could not be read: the store lags behind
    /// it.
    fn snapshot(&self) -> Option<Snapshot> {
        self.core.snapshot(!self.core.is_cache_read)
    }
}

#[cfg(test)]
mod following;
#[cfg(test)]
mod tests;
