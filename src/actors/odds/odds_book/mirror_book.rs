//! The book of a process that serves clients: it mirrors the broadcasts of processors, and the
//! cache corrects it. Records of the odds topic may reach it before their broadcasts.

use std::sync::Arc;
use std::time::Instant;

use super::doubts::Doubts;
pub(super) use super::doubts::Verification;
use super::lead::{IsAhead, Lead, MarketsAhead, ReadRecord};
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
    /// The changed markets, to publish.
    pub changes: Vec<Change>,
    /// How many of them had a state that the cache contradicts. The others were late.
    pub corrected: usize,
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
        let record = match input {
            MirrorInput::Broadcast(broadcast) => {
                return self.apply_broadcast(broadcast, latest, applied);
            }
            MirrorInput::Record(record) => record,
        };
        let read = ReadRecord {
            record,
            latest,
            is_conflated: false,
        };
        if self.core.is_loaded {
            self.apply_record(read, applied);
        } else {
            self.lead.wait(read);
        }
    }

    fn apply_broadcast(&mut self, broadcast: Broadcast, latest: Timestamp, applied: &mut Applied) {
        let Broadcast {
            update,
            seq,
            conflated,
            trace,
        } = broadcast;
        let market = update.market.clone();
        let was_ahead = self.lead.contains(&market);
        // Another revision or another content may be forged: the cache decides.
        let is_held = self.core.book.holds(&update);
        if is_held {
            self.lead.confirm(&market, update.revision);
        }
        let mut outcome = self.mirror(update, seq, latest);
        if is_held && let Some(seq) = seq {
            outcome = self
                .core
                .book
                .agree(&market, seq)
                .ok_or(Rejection::Duplicate);
        }
        // One of a record and its broadcast is always rejected.
        if outcome.is_err() && was_ahead {
            return;
        }
        // A broadcast with another number than the published one arrived out of order.
        let is_late = outcome.is_ok() && !self.core.book.is_shared();
        applied.add(outcome, conflated || is_late, trace);
    }

    /// Applies a record, unless broadcasts with lower numbers are still to come. It is then left to
    /// its own broadcast, which brings it in order and with the right number.
    fn apply_record(&mut self, read: ReadRecord, applied: &mut Applied) {
        if self.lead.is_behind(self.core.book.seq()) {
            return;
        }
        let PositionedUpdate {
            update,
            position,
            trace,
            ..
        } = read.record;
        // Processors give it this number, unless the topic was created again.
        let expected_seq = position.saturating_add(1);
        // Later broadcasts have overtaken it, or a forged one pretends that. It does not count as
        // read, so that its own broadcast contradicts a forged one.
        if self.core.book.is_later_than(&update, expected_seq) {
            return;
        }
        let outcome = self.mirror(update, Some(expected_seq), read.latest);
        // Nobody can forge a record, so it explains that later broadcasts are older than the book.
        let read_seq = outcome.as_ref().map_or(expected_seq, |state| state.seq);
        self.doubts.record_read(read_seq);
        if let Ok(state) = outcome {
            let update = &state.update;
            self.lead.applied(update.market.clone(), update.revision);
            applied.add(Ok(state), read.is_conflated, trace);
        }
    }

    /// Applies a change, and adds its market to those in doubt if it gives a reason.
    fn mirror(
        &mut self,
        update: OddsUpdate,
        seq: Option<u64>,
        latest: Timestamp,
    ) -> Result<Arc<MarketState>, Rejection> {
        let market = update.market.clone();
        let revision = update.revision;
        let differs = self.core.book.contradicts(&update);
        let outcome = self.core.book.mirror(update, seq);
        let held = self.core.book.revision_of(&market).unwrap_or(revision);
        let contradicts = differs || self.doubts.is_unexplained(&outcome, seq);
        self.doubts.consider(market, held, contradicts, latest);
        outcome
    }

    /// Applies the records that waited for the store, once it is read.
    fn apply_waiting(&mut self) -> Vec<Change> {
        let mut applied = Applied::default();
        if self.core.is_loaded {
            for read in self.lead.take_waiting() {
                self.apply_record(read, &mut applied);
            }
        }
        applied.changes
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

    /// Accepts the cached state of the markets in doubt. The cache is written atomically before
    /// each broadcast. Markets that are ahead of it stay in doubt; if it could not be read, all of
    /// them do, and every market is stale meanwhile.
    pub(crate) fn verify(&mut self, cached: &CachedState, now: Timestamp) -> Verified {
        if !cached.is_read {
            return Verified {
                changes: Vec::new(),
                corrected: 0,
                next: self.doubts.retry_verification(),
            };
        }
        self.doubts.record_read(cached.largest_seq());
        self.confirm(&cached.states);
        let markets = self
            .doubts
            .take_markets(|market| self.lead.contains(market));
        let mut changed = self.core.book.catch_up(cached.of_markets(&markets));
        let latest = Doubts::latest(now);
        let corrected = self.core.book.correct(&markets, &cached.states, latest);
        let contradicted = corrected.len();
        changed.extend(corrected);
        if !changed.is_empty() {
            self.core.version.changed();
        }
        Verified {
            changes: conflated(changed),
            corrected: contradicted,
            next: if self.doubts.is_empty() {
                Verification::Unneeded
            } else {
                self.doubts.retry_verification()
            },
        }
    }

    /// Changes may have been missed, so no state is left to the broadcasts any more.
    pub(crate) fn expect_gap(&mut self) {
        self.boundary = ReplayBoundary::NOTHING;
    }

    /// The markets that are ahead of the cache.
    pub(crate) fn markets_ahead(&self) -> MarketsAhead {
        self.lead.markets().clone()
    }

    /// Ends the lead of an idle book after a load. If everything was read and has not confirmed
    /// these markets, nothing will: from now on they count as confirmed. Returns their number. If
    /// not everything was read, the records that wait for it are left to their broadcasts.
    pub(crate) fn end_lead(&mut self, unconfirmed: &MarketsAhead, is_complete: bool) -> usize {
        if is_complete {
            return self.lead.end(unconfirmed);
        }
        if !self.core.is_loaded {
            self.lead.take_waiting();
        }
        0
    }

    fn record_load(&mut self, loaded: &LoadedState) {
        self.doubts.record_read(loaded.read_seq);
        self.lead.record_cached(loaded.cached_seq);
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

    /// Publishes the newer states only, with numbers that grow, and then the records that waited.
    fn reload(&mut self, loaded: LoadedState) -> Restored {
        self.record_load(&loaded);
        self.core.is_loaded |= loaded.is_complete;
        let reload_after = loaded.reload_after(RELOAD_DELAY);
        let newer = if self.core.book.is_empty() {
            self.core.restore(loaded.states)
        } else {
            self.core.book.catch_up(loaded.states)
        };
        let mut changes = conflated(newer);
        changes.append(&mut self.apply_waiting());
        self.core.version.changed();
        Restored {
            changes,
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
mod tests;
