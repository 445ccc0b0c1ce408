//! Loads the state of a book from the cache and the store.
//!
//! Reads for the live path, for client requests and for running books have separate limits, so that
//! client requests never delay an update.

mod loaded_state;
mod retry_gate;

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, warn};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use self::loaded_state::LoadReason;
pub(crate) use self::loaded_state::{
    CachedState, LoadedState, MergePolicy, ReplayBoundary, StoredState,
};
use self::retry_gate::RetryGate;
use super::client_reads::{ClientReads, ReadPermit};
use super::messages::ApplyError;
use crate::cache::{CacheError, OddsCache};
use crate::domain::ids::EventId;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::plausible::Plausibility;
use crate::domain::timestamp::Timestamp;
use crate::store::blocking::blocking;
use crate::store::{Store, StoreError};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::BookMetrics;

/// Concurrent store reads for books that start for an update.
const LIVE_READS: usize = 4;
/// Concurrent store reads for running books that reload their state.
const BACKGROUND_READS: usize = 2;
/// Time limit for a store read of the live path, including the wait for its turn. A longer read
/// counts as failed: the book starts without the store and loads the rest later, as it does while
/// the store is down.
const LIVE_READ_LIMIT: Duration = Duration::from_secs(1);
/// Minimum interval between log lines about the same cause of failed reads.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Loads the state of books from the cache and the store.
pub(crate) struct BookSource {
    cache: Arc<dyn OddsCache>,
    store: Arc<dyn Store>,
    policy: MergePolicy,
    live: Semaphore,
    background: Semaphore,
    clients: Arc<ClientReads>,
    store_gate: RetryGate,
    failures: LogLimit,
    limits: Plausibility,
    metrics: BookMetrics,
}

impl BookSource {
    /// Creates a source that reads from `cache` and `store`, and combines them by `policy`.
    /// `clients` limits the reads for clients.
    pub(crate) fn new(
        policy: MergePolicy,
        cache: Arc<dyn OddsCache>,
        store: Arc<dyn Store>,
        clients: Arc<ClientReads>,
        metrics: BookMetrics,
    ) -> BookSource {
        BookSource {
            cache,
            store,
            policy,
            live: Semaphore::new(LIVE_READS),
            background: Semaphore::new(BACKGROUND_READS),
            clients,
            store_gate: RetryGate::default(),
            failures: LogLimit::every(LOG_INTERVAL),
            limits: Plausibility::any_time(),
            metrics,
        }
    }

    /// Ignores states outside `limits`: an implausible state kept by an earlier version must not
    /// reject every valid update.
    pub(crate) fn within(self, limits: Plausibility) -> BookSource {
        BookSource { limits, ..self }
    }

    /// The limiter of client reads, which also holds the events found not to exist.
    pub(crate) fn clients(&self) -> &ClientReads {
        &self.clients
    }

    /// Loads the state of a book that starts for an update or a broadcast. Failed reads are
    /// skipped: the live path does not wait for a cache or a store that is down.
    pub(crate) async fn load_for_start(
        &self,
        event_id: &EventId,
        boundary: ReplayBoundary,
    ) -> LoadedState {
        self.load(event_id, boundary, LoadReason::Start).await
    }

    /// Loads the state of a running book that may have missed changes.
    pub(crate) async fn load_after_gap(&self, event_id: &EventId) -> LoadedState {
        self.load(event_id, ReplayBoundary::NOTHING, LoadReason::Gap)
            .await
    }

    /// Loads the state of a running book again, after an incomplete load.
    pub(crate) async fn reload(&self, event_id: &EventId, boundary: ReplayBoundary) -> LoadedState {
        self.load(event_id, boundary, LoadReason::Retry).await
    }

    async fn load(
        &self,
        event_id: &EventId,
        boundary: ReplayBoundary,
        reason: LoadReason,
    ) -> LoadedState {
        let cached = self.load_cached(event_id).await;
        if self.policy.is_cache_enough(&cached, reason) {
            return LoadedState::from_cache(cached, boundary);
        }
        let stored = if reason == LoadReason::Start {
            self.load_stored_live(event_id).await
        } else {
            self.load_stored_in_background(event_id).await
        };
        self.policy.merge(cached, stored, boundary)
    }

    /// Loads the state of an event that a client requests. Waits for a turn among the client reads
    /// and fails if none is free in time.
    pub(crate) async fn load_for_client(
        &self,
        event_id: &EventId,
        permit: ReadPermit,
    ) -> Result<LoadedState, ApplyError> {
        let boundary = ReplayBoundary::NOTHING;
        let cached = self.load_cached(event_id).await;
        if self.policy.is_cache_enough(&cached, LoadReason::Client) {
            return Ok(LoadedState::from_cache(cached, boundary));
        }
        let _turn = permit
            .turn()
            .await
            .map_err(|_| ApplyError::Busy(event_id.clone()))?;
        let stored = self.read_store(event_id, None).await;
        Ok(self.policy.merge(cached, stored, boundary))
    }

    /// Whether loading again may return more. If the store is down and the cache was read, nothing
    /// more can be loaded; without this check all books would read the cache and publish their
    /// state over and over.
    pub(crate) async fn is_reload_useful(&self, event_id: &EventId, is_cache_read: bool) -> bool {
        !is_cache_read
            || !self.store_gate.has_failed()
            || self.load_stored_in_background(event_id).await.is_read
    }

    /// Reads the cached state of an event.
    pub(crate) async fn load_cached(&self, event_id: &EventId) -> CachedState {
        match self.cache.read_book(event_id).await {
            Ok(states) => CachedState {
                states: self.plausible(event_id, states),
                is_read: true,
                is_damaged: false,
            },
            // Only this event is affected: it counts as stale until a processor rewrites its entry.
            Err(CacheError::Damaged {
                readable, problem, ..
            }) => {
                self.record_failed_read("cache entry", event_id, &problem);
                CachedState {
                    states: self.plausible(event_id, readable),
                    is_read: false,
                    is_damaged: true,
                }
            }
            Err(error) => {
                self.record_failed_read("cache", event_id, &error);
                CachedState {
                    states: Vec::new(),
                    is_read: false,
                    is_damaged: false,
                }
            }
        }
    }

    async fn load_stored_live(&self, event_id: &EventId) -> StoredState {
        if let Some(error) = self.store_gate.recent_error(Instant::now()) {
            return self.without_store(event_id, &error);
        }
        let deadline = tokio::time::Instant::now() + LIVE_READ_LIMIT;
        // The semaphore is never closed.
        match timeout_at(deadline, self.live.acquire()).await {
            Ok(_turn) => self.read_store(event_id, Some(deadline)).await,
            // The store may be available and only busy, so this does not count as an outage.
            Err(_) => self.without_store(event_id, &"timed out waiting for a store read slot"),
        }
    }

    async fn load_stored_in_background(&self, event_id: &EventId) -> StoredState {
        if let Some(error) = self.store_gate.recent_error(Instant::now()) {
            return self.without_store(event_id, &error);
        }
        let _turn = self.background.acquire().await;
        self.read_store(event_id, None).await
    }

    /// Reads the store, unless another read has just found it to be down.
    async fn read_store(
        &self,
        event_id: &EventId,
        deadline: Option<tokio::time::Instant>,
    ) -> StoredState {
        if let Some(error) = self.store_gate.recent_error(Instant::now()) {
            return self.without_store(event_id, &error);
        }
        let store = self.store.clone();
        let event = event_id.clone();
        let reading = blocking(move || store.load_event(&event));
        let read = match deadline {
            Some(deadline) => timeout_at(deadline, reading).await.unwrap_or_else(|_| {
                let limit = humantime::format_duration(LIVE_READ_LIMIT);
                Err(StoreError::Unavailable(format!("no answer within {limit}")))
            }),
            None => reading.await,
        };
        let outcome = read.as_ref().map(drop).map_err(ToString::to_string);
        self.store_gate.record(outcome, Instant::now());
        match read {
            Ok(states) => StoredState {
                states: self.plausible(event_id, states),
                is_read: true,
            },
            Err(error) => self.without_store(event_id, &error),
        }
    }

    fn without_store(&self, event_id: &EventId, error: &dyn Display) -> StoredState {
        self.record_failed_read("store", event_id, error);
        StoredState {
            states: Vec::new(),
            is_read: false,
        }
    }

    /// Removes states outside the limits.
    fn plausible(
        &self,
        event_id: &EventId,
        mut states: Vec<Arc<MarketState>>,
    ) -> Vec<Arc<MarketState>> {
        let now = Timestamp::now();
        states.retain(|state| match self.limits.check_state(state, now) {
            Ok(()) => true,
            Err(why) => {
                let reason = why.reason();
                self.metrics.implausible.with_label_values(&[reason]).inc();
                let market = &state.update.market;
                self.log_skipped("state", event_id, &format!("market {market}: {why}"));
                false
            }
        });
        states
    }

    fn record_failed_read(&self, cause: &'static str, event_id: &EventId, error: &dyn Display) {
        self.metrics.hydrate_errors.inc();
        self.log_skipped(cause, event_id, error);
    }

    fn log_skipped(&self, cause: &'static str, event_id: &EventId, error: &dyn Display) {
        debug!(event = event_id.as_str(); "book continues without the state that could not be read: {error}");
        if let Some(repeated) = self.failures.check(cause) {
            warn!(event = event_id.as_str(), repeated; "books continue without the state that could not be read: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::testing::probe_edges;

    #[actix_web::test]
    async fn wait_for_read_slot_is_bounded() {
        let probe = probe_edges();
        let source = &probe.edges.source;
        let event = EventId::new("E").unwrap();
        let turns = source.live.acquire_many(LIVE_READS as u32).await.unwrap();
        let loading = source.load_for_start(&event, ReplayBoundary::NOTHING);
        let loaded = tokio::time::timeout(10 * LIVE_READ_LIMIT, loading)
            .await
            .unwrap();
        assert!(!loaded.is_complete);
        drop(turns);
        let loaded = source.load_for_start(&event, ReplayBoundary::NOTHING).await;
        assert!(
            loaded.is_complete,
            "the timed-out wait does not count as an outage"
        );
    }
}
