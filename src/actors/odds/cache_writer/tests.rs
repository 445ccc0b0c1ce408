use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::actors::odds::messages::Restated;
use crate::cache::BroadcastStream;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::testing::*;

#[derive(Default)]
struct ProbeCache {
    away: AtomicBool,
    connection: AtomicU64,
    written: Mutex<Vec<(String, u64)>>,
    conflated: Mutex<Vec<u64>>,
}

impl OddsCache for ProbeCache {
    fn write(&self, states: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>> {
        if self.away.load(Ordering::SeqCst) {
            return std::future::ready(Err(CacheError::Unavailable("away".to_owned()))).boxed();
        }
        let states = states
            .iter()
            .map(|state| (state.update.market.to_string(), state.seq));
        self.written.lock().unwrap().extend(states);
        std::future::ready(Ok(())).boxed()
    }

    fn write_changes(
        &self,
        changes: Vec<Change>,
    ) -> BoxFuture<'static, Result<Vec<EventId>, CacheError>> {
        let conflated = changes
            .iter()
            .filter(|change| change.conflated)
            .map(|change| change.state.seq);
        *self.conflated.lock().unwrap() = conflated.collect();
        let writing = self.write(changes.into_iter().map(|change| change.state).collect());
        async move { writing.await.map(|()| Vec::new()) }.boxed()
    }

    fn read_book(
        &self,
        _: &EventId,
    ) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>> {
        std::future::ready(Ok(Vec::new())).boxed()
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>> {
        self.write(Vec::new())
    }

    fn connection(&self) -> u64 {
        self.connection.load(Ordering::SeqCst)
    }

    fn listen(&self) -> Option<Box<dyn BroadcastStream>> {
        None
    }
}

fn changed(market: &str, seq: u64) -> BookChanged {
    let update = market_update("E", market, None, seq as i64, 1);
    BookChanged {
        traced: None,
        states: Arc::new([Arc::new(MarketState { update, seq })]),
        conflated: false,
        restated: None,
    }
}

/// While the cache is down, the latest state of each market is kept, and written on recovery.
#[actix_web::test]
async fn outage_keeps_latest_of_each_market() {
    tokio::time::pause();
    let cache = Arc::new(ProbeCache::default());
    cache.away.store(true, Ordering::SeqCst);
    let metrics = ProcessorMetrics::new().unwrap();
    let writer = CacheWriter::new(cache.clone(), metrics.clone());
    let health = writer.health();
    let writer = writer.start();
    for (market, seq) in [("a", 1), ("b", 2), ("a", 3), ("a", 4)] {
        writer.send(changed(market, seq)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(metrics.errors.with_label_values(&["cache"]).get() > 0);
    assert_eq!(
        health.problem().unwrap(),
        "the cache is unavailable: away",
        "although it answers pings"
    );
    cache.away.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        *cache.written.lock().unwrap(),
        [("b".to_owned(), 2), ("a".to_owned(), 4)]
    );
    assert_eq!(
        *cache.conflated.lock().unwrap(),
        [4],
        "changes of a were skipped, none of b"
    );
    assert_eq!((metrics.cache_sets.get(), health.problem()), (2, None));
}

#[actix_web::test]
async fn flush_waits_for_earlier_changes() {
    tokio::time::pause();
    let cache = Arc::new(ProbeCache::default());
    let writer = CacheWriter::new(cache.clone(), ProcessorMetrics::new().unwrap()).start();
    writer.send(FlushCache).await.unwrap();
    writer.send(changed("a", 1)).await.unwrap();
    writer.send(FlushCache).await.unwrap();
    assert_eq!(cache.written.lock().unwrap().len(), 1);
    cache.away.store(true, Ordering::SeqCst);
    writer.send(changed("a", 2)).await.unwrap();
    let flush = writer.send(FlushCache);
    writer.send(changed("b", 3)).await.unwrap();
    let flush = tokio::spawn(flush);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!flush.is_finished());
    cache.away.store(false, Ordering::SeqCst);
    flush.await.unwrap().unwrap();
    assert!(cache.written.lock().unwrap().contains(&("a".to_owned(), 2)));
}

#[actix_web::test]
async fn empty_cache_is_refilled_without_changes() {
    tokio::time::pause();
    let cache = Arc::new(ProbeCache::default());
    // Connections are numbered from 1, as with Redis.
    cache.connection.store(1, Ordering::SeqCst);
    let writer = CacheWriter::new(cache.clone(), ProcessorMetrics::new().unwrap()).start();
    let held = changed("held", 1);
    writer.send(held.clone()).await.unwrap();
    writer.send(FlushCache).await.unwrap();
    let written = || std::mem::take(&mut *cache.written.lock().unwrap());
    assert_eq!(written(), [("held".to_owned(), 1)]);
    cache.away.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Nothing is pending, so a flush returns at once.
    writer.send(FlushCache).await.unwrap();
    cache.away.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(written(), [("held".to_owned(), 1)]);
    // Another user detected the loss, and the writer sees only the new connection.
    cache.connection.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(written(), [("held".to_owned(), 1)]);
}

#[actix_web::test]
async fn empty_cache_gets_states_of_books() {
    tokio::time::pause();
    let cache = Arc::new(ProbeCache::default());
    let writer = CacheWriter::new(cache.clone(), ProcessorMetrics::new().unwrap()).start();
    let held = changed("held", 1);
    let dropped = changed("dropped", 2);
    writer.send(held.clone()).await.unwrap();
    writer.send(dropped).await.unwrap();
    writer.send(FlushCache).await.unwrap();
    cache.written.lock().unwrap().clear();
    cache.away.store(true, Ordering::SeqCst);
    writer.send(changed("new", 3)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    cache.away.store(false, Ordering::SeqCst);
    writer.send(FlushCache).await.unwrap();
    writer.send(FlushCache).await.unwrap();
    assert_eq!(
        *cache.written.lock().unwrap(),
        [("new".to_owned(), 3), ("held".to_owned(), 1)]
    );
}

/// The stored state does not change with the restrictions on it.
#[actix_web::test]
async fn restated_changes_are_not_written() {
    let cache = Arc::new(ProbeCache::default());
    let writer = CacheWriter::new(cache.clone(), ProcessorMetrics::new().unwrap()).start();
    let restated = BookChanged {
        restated: Some(Restated::default()),
        ..changed("a", 1)
    };
    writer.send(restated).await.unwrap();
    writer.send(changed("b", 2)).await.unwrap();
    writer.send(FlushCache).await.unwrap();
    assert_eq!(*cache.written.lock().unwrap(), [("b".to_owned(), 2)]);
}
