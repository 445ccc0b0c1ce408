//! The in-process cache. It has no other instances to broadcast to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{BroadcastStream, CacheError, OddsCache, winning_state};
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::odds::book::MarketState;

/// The number of writes between two sweeps for expired events.
const WRITES_BETWEEN_SWEEPS: usize = 1_000;

/// A cache in memory. An event's states expire a fixed time after its last change.
#[derive(Clone)]
pub(crate) struct EmbeddedCache {
    ttl: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    events: HashMap<EventId, Event>,
    writes: usize,
}

struct Event {
    markets: BTreeMap<MarketKey, Arc<MarketState>>,
    expires: Instant,
}

impl EmbeddedCache {
    /// Creates a cache that keeps an event for `ttl` after its last change.
    pub(crate) fn new(ttl: Duration) -> EmbeddedCache {
        EmbeddedCache {
            ttl,
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl OddsCache for EmbeddedCache {
    fn write(&self, states: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>> {
        let now = Instant::now();
        let mut state = self.state();
        for market in states {
            let event = state
                .events
                .entry(market.update.event_id.clone())
                .or_insert_with(|| Event {
                    markets: BTreeMap::new(),
                    expires: now,
                });
            let held = event
                .markets
                .get(&market.update.market)
                .filter(|_| event.expires > now);
            if let Some(market) = winning_state(held.map(Arc::as_ref), &market) {
                if event.expires <= now {
                    event.markets.clear();
                }
                event.expires = now + self.ttl;
                event.markets.insert(market.update.market.clone(), market);
            }
        }
        state.writes += 1;
        if state.writes >= WRITES_BETWEEN_SWEEPS {
            state.writes = 0;
            state.events.retain(|_, event| event.expires > now);
        }
        std::future::ready(Ok(())).boxed()
    }

    fn read_book(
        &self,
        event_id: &EventId,
    ) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>> {
        let state = self.state();
        let event = state
            .events
            .get(event_id)
            .filter(|event| event.expires > Instant::now());
        let markets = event
            .map(|event| event.markets.values().cloned().collect())
            .unwrap_or_default();
        std::future::ready(Ok(markets)).boxed()
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn listen(&self) -> Option<Box<dyn BroadcastStream>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::suite::cache_suite;
    use crate::domain::odds::update::testing::*;

    fn state(market: &str, seq: u64) -> Arc<MarketState> {
        Arc::new(MarketState {
            update: market_update("E", market, None, seq as i64, 1),
            seq,
        })
    }

    cache_suite!((EmbeddedCache::new(Duration::from_secs(60)), ()));

    #[tokio::test(start_paused = true)]
    async fn latest_states_are_kept_until_expiry() {
        let cache = EmbeddedCache::new(Duration::from_secs(60));
        let event = EventId::new("E").unwrap();
        cache
            .write(vec![state("a", 1), state("b", 2), state("a", 3)])
            .await
            .unwrap();
        cache.write(vec![state("a", 2)]).await.unwrap();
        let seqs =
            |book: Vec<Arc<MarketState>>| book.iter().map(|state| state.seq).collect::<Vec<_>>();
        assert_eq!(seqs(cache.read_book(&event).await.unwrap()), [3, 2]);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(cache.read_book(&event).await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn expired_events_are_removed() {
        let cache = EmbeddedCache::new(Duration::from_secs(60));
        cache.write(vec![state("a", 1)]).await.unwrap();
        tokio::time::advance(Duration::from_secs(61)).await;
        for n in 0..WRITES_BETWEEN_SWEEPS {
            let update = market_update("F", "a", None, n as i64, 1);
            cache
                .write(vec![Arc::new(MarketState {
                    update,
                    seq: n as u64,
                })])
                .await
                .unwrap();
        }
        assert_eq!(cache.state().events.len(), 1);
    }
}
