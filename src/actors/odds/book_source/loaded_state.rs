//! Combines the cached and the stored state of an event.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::ids::MarketKey;
use crate::domain::odds::book::MarketState;

/// The sequence number up to which a new book loads stored state. Later rows are left to the bus,
/// so that each change is published exactly once even if the store is ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplayBoundary {
    after_seq: u64,
    /// If true, later rows are always skipped. On Kafka, which can be replayed from the start, they
    /// are skipped only for markets that the cache holds; for the others the stored row is needed
    /// to reject replayed updates.
    always: bool,
}

impl ReplayBoundary {
    /// No boundary: all state is loaded.
    pub(crate) const NOTHING: ReplayBoundary = ReplayBoundary {
        after_seq: u64::MAX,
        always: true,
    };

    /// A boundary after this sequence number. `always`: see the field.
    pub(crate) fn after(after_seq: u64, always: bool) -> ReplayBoundary {
        ReplayBoundary { after_seq, always }
    }

    /// The sequence number of the update that the book starts for.
    pub(crate) fn next(self) -> Option<u64> {
        self.after_seq.checked_add(1)
    }

    /// Whether a state is left to the bus. `cached` holds the cached states of the event. A state with
    /// the cached revision is not skipped: no record will bring its number.
    fn skips(self, state: &MarketState, cached: &[Arc<MarketState>]) -> bool {
        let is_behind = |held: &Arc<MarketState>| {
            held.update.market == state.update.market
                && held.update.revision < state.update.revision
        };
        state.seq > self.after_seq && (self.always || cached.iter().any(is_behind))
    }
}

/// The cached state of an event.
#[derive(Clone, Debug)]
pub(crate) struct CachedState {
    /// The states.
    pub states: Vec<Arc<MarketState>>,
    /// Whether all of it could be read.
    pub is_read: bool,
    /// Whether it could not be read because the entry of this event is damaged.
    pub is_damaged: bool,
}

impl CachedState {
    /// The highest sequence number among the states.
    pub(crate) fn largest_seq(&self) -> u64 {
        largest_seq(&self.states)
    }

    /// The states of these markets.
    pub(crate) fn of_markets(&self, markets: &BTreeSet<MarketKey>) -> Vec<Arc<MarketState>> {
        let is_wanted = |state: &&Arc<MarketState>| markets.contains(&state.update.market);
        self.states.iter().filter(is_wanted).cloned().collect()
    }
}

/// The stored state of an event.
#[derive(Clone, Debug)]
pub(crate) struct StoredState {
    /// The states.
    pub states: Vec<Arc<MarketState>>,
    /// Whether the store could be read.
    pub is_read: bool,
}

/// The loaded state of an event.
#[derive(Clone, Debug)]
pub(crate) struct LoadedState {
    /// The states; a market may have one from the cache and one from the store.
    pub states: Vec<Arc<MarketState>>,
    /// Whether the cache could be read.
    pub is_cache_read: bool,
    /// Whether the cache could not be read because the entry of this event is damaged.
    pub is_damaged: bool,
    /// Whether an empty result means that the event does not exist.
    pub is_complete: bool,
    is_store_tried: bool,
    /// The highest sequence number that the cache holds for the event.
    pub cached_seq: u64,
    /// The highest sequence number that the cache and the store hold for the event. The store may
    /// be ahead of the cache.
    pub read_seq: u64,
}

impl LoadedState {
    /// Uses the cached state alone. States later than the boundary are skipped, because their own
    /// broadcasts follow.
    pub(crate) fn from_cache(mut cached: CachedState, boundary: ReplayBoundary) -> LoadedState {
        let cached_seq = cached.largest_seq();
        cached.states.retain(|state| !boundary.skips(state, &[]));
        LoadedState {
            states: cached.states,
            is_cache_read: cached.is_read,
            is_damaged: cached.is_damaged,
            is_complete: false,
            is_store_tried: false,
            cached_seq,
            read_seq: cached_seq,
        }
    }

    /// Marks the state as outdated, because it may have changed since it was read. It is loaded
    /// again at once.
    pub(crate) fn mark_outdated(&mut self) {
        self.is_complete = false;
        self.is_cache_read = false;
        self.is_store_tried = false;
    }

    /// Whether the cache responds. A damaged entry affects only this event and does not count as a
    /// cache failure.
    pub(crate) fn is_cache_available(&self) -> bool {
        self.is_cache_read || self.is_damaged
    }

    /// The delay before the next load, or `None` if nothing is missing.
    pub(crate) fn reload_after(&self, after_failure: Duration) -> Option<Duration> {
        let delay = if self.is_store_tried {
            after_failure
        } else {
            Duration::ZERO
        };
        (!self.is_complete).then_some(delay)
    }
}

/// Why state is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoadReason {
    /// A book starts for an update or a broadcast.
    Start,
    /// A client requests an event that has no book.
    Client,
    /// A running book may have missed changes.
    Gap,
    /// An earlier load was incomplete.
    Retry,
}

/// How the cached and the stored state of an event are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MergePolicy {
    /// For books fed from the bus: both are always read, and the later state of each market wins.
    LatestWins,
    /// For mirrors: stored state is used only for markets that the cache does not hold. The store
    /// may be ahead of the broadcasts, which deliver the changes of cached markets one by one.
    CacheWins,
}

impl MergePolicy {
    /// Whether the store need not be read. For a mirror the cache is enough if it holds the event
    /// or, on the live path, if it can be read: a flood of broadcasts for nonexistent events must
    /// not become a flood of store reads that delays valid ones. The book then loads the rest
    /// later.
    pub(super) fn is_cache_enough(self, cached: &CachedState, reason: LoadReason) -> bool {
        match (self, reason) {
            (MergePolicy::LatestWins, _) | (_, LoadReason::Retry) => false,
            (MergePolicy::CacheWins, LoadReason::Start) => {
                !cached.states.is_empty() || cached.is_read
            }
            (MergePolicy::CacheWins, LoadReason::Client | LoadReason::Gap) => {
                !cached.states.is_empty()
            }
        }
    }

    /// Combines what was read, without the part that the boundary leaves to the bus.
    pub(crate) fn merge(
        self,
        mut cached: CachedState,
        mut stored: StoredState,
        boundary: ReplayBoundary,
    ) -> LoadedState {
        let cached_seq = cached.largest_seq();
        let read_seq = cached_seq.max(largest_seq(&stored.states));
        let is_complete = match self {
            MergePolicy::LatestWins => {
                stored
                    .states
                    .retain(|state| !boundary.skips(state, &cached.states));
                stored.is_read
            }
            MergePolicy::CacheWins => {
                stored.states.retain(|state| {
                    !has_market(&cached.states, state) && !boundary.skips(state, &[])
                });
                cached.states.retain(|state| !boundary.skips(state, &[]));
                cached.is_read && stored.is_read
            }
        };
        let mut states = cached.states;
        states.append(&mut stored.states);
        LoadedState {
            states,
            is_cache_read: cached.is_read,
            is_damaged: cached.is_damaged,
            is_complete,
            is_store_tried: true,
            cached_seq,
            read_seq,
        }
    }
}

fn largest_seq(states: &[Arc<MarketState>]) -> u64 {
    states.iter().map(|state| state.seq).max().unwrap_or(0)
}

fn has_market(states: &[Arc<MarketState>], state: &MarketState) -> bool {
    states
        .iter()
        .any(|held| held.update.market == state.update.market)
}

#[cfg(test)]
mod tests;
