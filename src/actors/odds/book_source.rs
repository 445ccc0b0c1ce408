//! Loads the state of a book: for each market, the later of the cached and the stored state.
//!
//! Reads for the live path, for client requests and for running books have separate limits, so that
//! client requests never delay an update.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, warn};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout_at;

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
/// Pause after a failed store read before the next one.
const STORE_PAUSE: Duration = Duration::from_millis(900);

/// Minimum interval between log lines about the same cause of failed reads.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Which limit applies to a store read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPriority {
    /// Books that start for an update or a broadcast.
    Live,
    /// Running books that reload their state.
    Background,
}

/// Loads the state of books from the cache and the store.
pub struct BookSource {
    cache: Arc<dyn OddsCache>,
    store: Arc<dyn Store>,
    live: Semaphore,
    background: Semaphore,
    clients: Arc<ClientReads>,
    outage: RetryGate,
    failures: LogLimit,
    limits: Plausibility,
    metrics: BookMetrics,
}

/// Skips store reads for a moment after a failure: books that start in this time start without the
/// store at once, so the live path does not wait once per book for a store that is down.
#[derive(Default)]
struct RetryGate {
    /// The error and when it occurred.
    last: Mutex<Option<(String, Instant)>>,
}

impl RetryGate {
    fn last(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        self.last.lock()
    }

    /// The last error, if the pause after it is not over.
    fn too_early(&self) -> Option<String> {
        let last = self.last();
        last.as_ref()
            .filter(|(_, since)| since.elapsed() < STORE_PAUSE)
            .map(|(why, _)| why.clone())
    }

    fn remember(&self, answer: Result<(), String>) {
        *self.last() = answer.err().map(|why| (why, Instant::now()));
    }
}

/// The sequence number up to which a new book loads stored state. Later rows are left to the bus,
/// so that each change is published exactly once even if the store is ahead.
#[derive(Clone, Copy)]
pub struct ReplayBoundary {
    beyond: u64,
    /// If true, later rows are always skipped. On Kafka, which can be replayed from the start, they
    /// are skipped only for markets that the cache holds; for the others the stored row is needed
    /// to reject replayed updates.
    always: bool,
}

impl ReplayBoundary {
    /// No boundary: all state is loaded.
    pub const NOTHING: ReplayBoundary = ReplayBoundary {
        beyond: u64::MAX,
        always: true,
    };

    /// `next_position` is the bus position of the update that the book starts for; in a mirror, the
    /// sequence number before that of the broadcast. `None` if a client requests the book.
    pub fn from(next_position: Option<u64>, always: bool) -> ReplayBoundary {
        ReplayBoundary {
            beyond: next_position.unwrap_or(u64::MAX),
            always,
        }
    }

    /// The sequence number of the update that the book starts for.
    pub fn next(self) -> Option<u64> {
        self.beyond.checked_add(1)
    }

    fn leaves(self, stored: &MarketState, hot: &[Arc<MarketState>]) -> bool {
        let is_hot = || {
            hot.iter()
                .any(|state| state.update.market == stored.update.market)
        };
        stored.seq > self.beyond && (self.always || is_hot())
    }
}

/// The loaded state of an event.
pub struct LoadedState {
    /// The states; a market may have one from the cache and one from the store.
    pub states: Vec<Arc<MarketState>>,
    /// Whether the cache could be read.
    pub is_cache_read: bool,
    /// Whether the cache could not be read because the entry of this event is damaged.
    pub is_damaged: bool,
    /// Whether an empty result means that the event does not exist.
    pub is_complete: bool,
    is_store_asked: bool,
    /// The highest sequence number that the cache and the store hold for the event. The store may
    /// be ahead of the cache.
    pub read_seq: u64,
}

impl LoadedState {
    /// Marks the state as outdated, because it may have changed since it was read. It is loaded
    /// again at once.
    pub fn read_again(&mut self) {
        (self.is_complete, self.is_cache_read, self.is_store_asked) = (false, false, false);
    }

    /// The delay before the next load, or `None` if nothing is missing.
    pub fn next_look(&self, after_failure: Duration) -> Option<Duration> {
        let delay = if self.is_store_asked {
            after_failure
        } else {
            Duration::ZERO
        };
        (!self.is_complete).then_some(delay)
    }
}

impl BookSource {
    /// Creates a source that reads from `cache` and `store`; `clients` limits the reads for
    /// clients.
    pub fn new(
        cache: Arc<dyn OddsCache>,
        store: Arc<dyn Store>,
        clients: Arc<ClientReads>,
        metrics: BookMetrics,
    ) -> BookSource {
        BookSource {
            cache,
            store,
            live: Semaphore::new(LIVE_READS),
            background: Semaphore::new(BACKGROUND_READS),
            clients,
            outage: RetryGate::default(),
            failures: LogLimit::every(LOG_INTERVAL),
            limits: Plausibility::any_time(),
            metrics,
        }
    }

    /// Ignores states outside `limits`: an implausible state kept by an earlier version must not
    /// reject every valid update.
    pub fn within(self, limits: Plausibility) -> BookSource {
        BookSource { limits, ..self }
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
                self.metrics
                    .implausible
                    .with_label_values(&[why.reason()])
                    .inc();
                self.log_skipped(
                    "state",
                    event_id,
                    &format!("market {}: {why}", state.update.market),
                );
                false
            }
        });
        states
    }

    /// The limiter of client reads, which also holds the events found not to exist.
    pub fn clients(&self) -> &ClientReads {
        &self.clients
    }

    /// Loads the state of an event, except for the part that is left to the bus. Failed reads are
    /// skipped: the live path does not wait for a cache or a store that is down.
    pub async fn load(
        &self,
        event_id: &EventId,
        left: ReplayBoundary,
        lane: ReadPriority,
    ) -> LoadedState {
        let hot = self.load_hot(event_id).await;
        let stored = self.load_stored(event_id, lane).await;
        self.merge(hot, stored, left)
    }

    /// Loads the state of a mirrored book. Unless `is_store_wanted`, the cache is enough if it
    /// holds the event or, on the live path, if it can be read: a flood of broadcasts for
    /// nonexistent events must not become a flood of store reads that delays valid ones. The book
    /// then loads the rest later.
    pub async fn load_mirrored(
        &self,
        event_id: &EventId,
        left: ReplayBoundary,
        lane: ReadPriority,
        is_store_wanted: bool,
    ) -> LoadedState {
        let hot = self.load_hot(event_id).await;
        if !is_store_wanted
            && (!hot.states.is_empty() || (hot.is_read && lane == ReadPriority::Live))
        {
            return only_hot(hot, left);
        }
        let stored = self.load_stored(event_id, lane).await;
        merge_mirrored(hot, stored, left)
    }

    /// Loads the state of an event that a client requests. Waits for a turn among the client reads
    /// and fails if none is free in time.
    pub async fn load_for_client(
        &self,
        event_id: &EventId,
        place: ReadPermit,
        is_mirror: bool,
    ) -> Result<LoadedState, ApplyError> {
        let (left, hot) = (ReplayBoundary::NOTHING, self.load_hot(event_id).await);
        if is_mirror && !hot.states.is_empty() {
            return Ok(only_hot(hot, left));
        }
        let _turn = place
            .turn()
            .await
            .map_err(|_| ApplyError::Busy(event_id.clone()))?;
        let stored = self.read_store(event_id, None).await;
        Ok(if is_mirror {
            merge_mirrored(hot, stored, left)
        } else {
            self.merge(hot, stored, left)
        })
    }

    fn merge(
        &self,
        hot: Hot,
        (mut stored, is_store_read): Read,
        left: ReplayBoundary,
    ) -> LoadedState {
        let read_seq = largest_seq(&hot.states).max(largest_seq(&stored));
        stored.retain(|state| !left.leaves(state, &hot.states));
        let states = hot.states.into_iter().chain(stored).collect();
        LoadedState {
            states,
            is_cache_read: hot.is_read,
            is_damaged: hot.is_damaged,
            is_complete: is_store_read,
            is_store_asked: true,
            read_seq,
        }
    }

    /// Whether loading again may return more. If the store is down and the cache was read, nothing
    /// more can be loaded; without this check all books would read the cache and publish their
    /// state over and over.
    pub async fn may_know_more(&self, event_id: &EventId, is_cache_read: bool) -> bool {
        let is_store_down = self.outage.last().is_some();
        !is_cache_read
            || !is_store_down
            || self.load_stored(event_id, ReadPriority::Background).await.1
    }

    /// Reads the cached state of an event.
    pub async fn load_hot(&self, event_id: &EventId) -> Hot {
        match self.cache.read_book(event_id).await {
            Ok(states) => Hot {
                states: self.plausible(event_id, states),
                is_read: true,
                is_damaged: false,
            },
            // Only this event is affected: it counts as stale until a processor rewrites its entry.
            Err(CacheError::Damaged {
                readable, problem, ..
            }) => {
                self.skip("cache entry", event_id, &problem);
                Hot {
                    states: self.plausible(event_id, readable),
                    is_read: false,
                    is_damaged: true,
                }
            }
            Err(error) => Hot {
                states: self.skip("cache", event_id, &error).0,
                is_read: false,
                is_damaged: false,
            },
        }
    }

    async fn load_stored(&self, event_id: &EventId, lane: ReadPriority) -> Read {
        if let Some(why) = self.outage.too_early() {
            return self.skip("store", event_id, &why);
        }
        let deadline = tokio::time::Instant::now() + LIVE_READ_LIMIT;
        // The semaphores are never closed.
        let (_turn, deadline): (Option<SemaphorePermit<'_>>, _) = match lane {
            ReadPriority::Live => match timeout_at(deadline, self.live.acquire()).await {
                Ok(turn) => (turn.ok(), Some(deadline)),
                // The store may be available and only busy, so this does not count as an outage.
                Err(_) => {
                    return self.skip(
                        "store",
                        event_id,
                        &"timed out waiting for a store read slot",
                    );
                }
            },
            ReadPriority::Background => (self.background.acquire().await.ok(), None),
        };
        self.read_store(event_id, deadline).await
    }

    /// Reads the store, unless another read has just found it to be down.
    async fn read_store(&self, event_id: &EventId, deadline: Option<tokio::time::Instant>) -> Read {
        if let Some(why) = self.outage.too_early() {
            return self.skip("store", event_id, &why);
        }
        let (store, event) = (self.store.clone(), event_id.clone());
        let reading = blocking(move || store.load_event(&event));
        let read = match deadline {
            Some(deadline) => timeout_at(deadline, reading).await.unwrap_or_else(|_| {
                let limit = humantime::format_duration(LIVE_READ_LIMIT);
                Err(StoreError::Unavailable(format!("no answer within {limit}")))
            }),
            None => reading.await,
        };
        self.outage
            .remember(read.as_ref().map(drop).map_err(ToString::to_string));
        match read {
            Ok(stored) => (self.plausible(event_id, stored), true),
            Err(error) => self.skip("store", event_id, &error),
        }
    }

    fn skip(&self, cause: &'static str, event_id: &EventId, error: &dyn std::fmt::Display) -> Read {
        self.metrics.hydrate_errors.inc();
        self.log_skipped(cause, event_id, error);
        (Vec::new(), false)
    }

    fn log_skipped(&self, cause: &'static str, event_id: &EventId, error: &dyn std::fmt::Display) {
        debug!(event = event_id.as_str(); "book continues without the state that could not be read: {error}");
        if let Some(repeated) = self.failures.check(cause) {
            warn!(event = event_id.as_str(), repeated; "books continue without the state that could not be read: {error}");
        }
    }
}

/// States and whether they could be read.
type Read = (Vec<Arc<MarketState>>, bool);

fn largest_seq(states: &[Arc<MarketState>]) -> u64 {
    states.iter().map(|state| state.seq).max().unwrap_or(0)
}

/// The cached state of an event.
pub struct Hot {
    /// The states.
    pub states: Vec<Arc<MarketState>>,
    /// Whether all of it could be read.
    pub is_read: bool,
    is_damaged: bool,
}

impl Hot {
    /// The highest sequence number among the states.
    pub fn largest_seq(&self) -> u64 {
        largest_seq(&self.states)
    }
}

/// Uses the cached state alone. States later than the broadcast are left out, because their own
/// broadcasts follow.
fn only_hot(mut hot: Hot, left: ReplayBoundary) -> LoadedState {
    let read_seq = hot.largest_seq();
    hot.states.retain(|state| !left.leaves(state, &[]));
    LoadedState {
        states: hot.states,
        is_cache_read: hot.is_read,
        is_damaged: hot.is_damaged,
        is_complete: false,
        is_store_asked: false,
        read_seq,
    }
}

/// Uses stored state only for markets that the cache does not hold: the store may be ahead of the
/// broadcasts, which deliver the changes of cached markets one by one.
fn merge_mirrored(
    hot: Hot,
    (mut stored, is_store_read): Read,
    left: ReplayBoundary,
) -> LoadedState {
    let read_seq = largest_seq(&hot.states).max(largest_seq(&stored));
    let is_hot = |state: &MarketState| {
        hot.states
            .iter()
            .any(|held| held.update.market == state.update.market)
    };
    stored.retain(|state| !is_hot(state) && !left.leaves(state, &[]));
    let states = hot
        .states
        .into_iter()
        .filter(|state| !left.leaves(state, &[]))
        .chain(stored)
        .collect();
    LoadedState {
        states,
        is_cache_read: hot.is_read,
        is_damaged: hot.is_damaged,
        is_complete: hot.is_read && is_store_read,
        is_store_asked: true,
        read_seq,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::testing::probe_edges;

    #[actix_web::test]
    async fn wait_for_read_slot_is_bounded() {
        let probe = probe_edges();
        let (source, event) = (&probe.edges.source, EventId::new("E").unwrap());
        let turns = source.live.acquire_many(LIVE_READS as u32).await.unwrap();
        let loading = source.load(&event, ReplayBoundary::NOTHING, ReadPriority::Live);
        let loaded = tokio::time::timeout(10 * LIVE_READ_LIMIT, loading)
            .await
            .unwrap();
        assert!(!loaded.is_complete);
        drop(turns);
        let loaded = source
            .load(&event, ReplayBoundary::NOTHING, ReadPriority::Live)
            .await;
        assert!(
            loaded.is_complete,
            "the timed-out wait does not count as an outage"
        );
    }
}
