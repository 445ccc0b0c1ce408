//! Writes changes to the cache, one pipeline in flight. While the cache is away, only the latest state of each market
//! is kept for it, so memory is bounded by the markets and the live path never waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{info, warn};

use super::messages::BookChanged;
use crate::cache::OddsCache;
use crate::domain::backoff::{Backoff, BackoffPolicy};
use crate::domain::book::MarketState;
use crate::domain::ids::{EventId, MarketKey};
use crate::metrics::ProcessorMetrics;

/// The most states in one pipeline.
const MAX_PIPELINE: usize = 1_000;
/// Delays between tries while the cache is away.
const RETRY: BackoffPolicy = BackoffPolicy { first: Duration::from_millis(50), most: Duration::from_secs(1) };

/// The actor in front of the cache.
pub struct CacheWriter {
    cache: Arc<dyn OddsCache>,
    pending: HashMap<(EventId, MarketKey), Arc<MarketState>>,
    in_flight: bool,
    backoff: Backoff,
    metrics: ProcessorMetrics,
}

impl CacheWriter {
    /// Writes to `cache`.
    pub fn new(cache: Arc<dyn OddsCache>, metrics: ProcessorMetrics) -> CacheWriter {
        CacheWriter { cache, pending: HashMap::new(), in_flight: false, backoff: Backoff::new(RETRY, 0), metrics }
    }

    fn keep_latest(&mut self, state: Arc<MarketState>) {
        let key = (state.update.event_id.clone(), state.update.market.clone());
        match self.pending.get(&key) {
            Some(held) if held.seq >= state.seq => {}
            _ => drop(self.pending.insert(key, state)),
        }
    }

    fn flush(&mut self, context: &mut Context<Self>) {
        if self.in_flight || self.pending.is_empty() {
            return;
        }
        self.in_flight = true;
        let keys: Vec<_> = self.pending.keys().take(MAX_PIPELINE).cloned().collect();
        let mut states: Vec<_> = keys.iter().filter_map(|key| self.pending.remove(key)).collect();
        states.sort_by_key(|state| state.seq);
        self.metrics.cache_pending.set(self.pending.len() as i64);
        let writing = self.cache.write(states.clone()).into_actor(self);
        context.spawn(writing.map(move |written, writer, context| {
            writer.in_flight = false;
            match written {
                Ok(()) => {
                    writer.metrics.cache_sets.inc_by(states.len() as u64);
                    if writer.backoff.failures() > 0 {
                        info!("the cache is back");
                        writer.backoff.reset();
                    }
                    writer.flush(context);
                }
                Err(error) => {
                    writer.metrics.errors.with_label_values(&["cache"]).inc();
                    states.into_iter().for_each(|state| writer.keep_latest(state));
                    if writer.backoff.failures() == 0 {
                        warn!("the latest of each market is kept until the cache is back: {error}");
                    }
                    writer.in_flight = true;
                    context.run_later(writer.backoff.next_delay(), |writer, context| {
                        writer.in_flight = false;
                        writer.flush(context);
                    });
                }
            }
        }));
    }
}

impl Actor for CacheWriter {
    type Context = Context<Self>;
}

impl Handler<BookChanged> for CacheWriter {
    type Result = ();

    fn handle(&mut self, changed: BookChanged, context: &mut Context<Self>) {
        self.metrics.mailbox_depth.with_label_values(&["cache_writer"]).dec();
        changed.states.iter().for_each(|state| self.keep_latest(state.clone()));
        self.metrics.cache_pending.set(self.pending.len() as i64);
        self.flush(context);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::cache::CacheError;
    use crate::domain::update::testing::*;

    #[derive(Default)]
    struct ProbeCache {
        away: AtomicBool,
        written: Mutex<Vec<(String, u64)>>,
    }

    impl OddsCache for ProbeCache {
        fn write(&self, states: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>> {
            if self.away.load(Ordering::SeqCst) {
                return std::future::ready(Err(CacheError::Unavailable("away".to_owned()))).boxed();
            }
            let states = states.iter().map(|state| (state.update.market.to_string(), state.seq));
            self.written.lock().unwrap().extend(states);
            std::future::ready(Ok(())).boxed()
        }

        fn read_book(&self, _: &EventId) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>> {
            std::future::ready(Ok(Vec::new())).boxed()
        }

        fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>> {
            std::future::ready(Ok(())).boxed()
        }
    }

    fn changed(market: &str, seq: u64) -> BookChanged {
        let update = market_update("E", market, None, seq as i64, 1);
        BookChanged { states: Arc::new([Arc::new(MarketState { update, seq })]), conflated: false }
    }

    #[actix_web::test]
    async fn while_the_cache_is_away_the_latest_of_each_market_is_kept_and_written_on_return() {
        tokio::time::pause();
        let cache = Arc::new(ProbeCache::default());
        cache.away.store(true, Ordering::SeqCst);
        let metrics = ProcessorMetrics::new().unwrap();
        let writer = CacheWriter::new(cache.clone(), metrics.clone()).start();
        for (market, seq) in [("a", 1), ("b", 2), ("a", 3), ("a", 4)] {
            writer.send(changed(market, seq)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert!(metrics.errors.with_label_values(&["cache"]).get() > 0);
        cache.away.store(false, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(*cache.written.lock().unwrap(), [("b".to_owned(), 2), ("a".to_owned(), 4)]);
        assert_eq!(metrics.cache_sets.get(), 2);
    }
}
