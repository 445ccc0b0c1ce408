//! Reloads of books, and how often they read the cache.

use super::*;
use crate::actors::odds::book_router::reload::RELOADS_AT_ONCE;

/// A reload publishes the missed changes once and no older ones.
#[actix_web::test]
async fn reload_publishes_missed_changes_once() {
    let (probe, router, cache) = mirror();
    let batch = vec![broadcast(1, 5, 20), broadcast(2, 5, 30)];
    apply(&router, heard(batch)).await;
    probe.published.lock().unwrap().clear();
    cache.write(cached(1, "1x2", 9, 25)).await.unwrap();
    cache.write(cached(2, "1x2", 4, 29)).await.unwrap();
    cache.write(cached(2, "btts", 6, 31)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(router.send(ReloadBooks(None)).await.unwrap(), []);
    }
    let mut all = probe.published.lock().unwrap().clone();
    all.sort();
    assert_eq!(all, [("1x2".to_owned(), 25), ("btts".to_owned(), 31)]);
    assert_eq!(snapshot_of(&router, 1).await.seq, 25);
}

#[actix_web::test]
async fn reload_reaches_read_in_flight() {
    let (probe, router, cache) = mirror();
    probe.store.held.lock().unwrap().push("MATCH_00");
    probe.store.keep(MarketState {
        update: update(1, 4, 1),
        seq: 3,
    });
    let requested = [1, 2].map(|event| router.send(GetSnapshot(id(event))));
    let requested = actix::spawn(join_all(requested));
    until_async("both are read", async || {
        probe.store.reads.load(Ordering::SeqCst) == 2
    })
    .await;
    // Both changes are missed, and the gap ends.
    cache.write(cached(1, "1x2", 5, 20)).await.unwrap();
    cache.write(cached(2, "1x2", 5, 30)).await.unwrap();
    assert_eq!(router.send(ReloadBooks(None)).await.unwrap(), []);
    probe.store.held.lock().unwrap().clear();
    let answers: Vec<_> = requested
        .await
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let first = answers[0].as_ref().unwrap();
    assert!(first.is_stale || first.seq == 20, "{first:?}");
    assert_eq!(
        answers[1],
        Err(ApplyError::NotLoaded(id(2))),
        "not reported as a nonexistent event"
    );
    until_async("the change is shown", async || {
        let snapshot = snapshot_of(&router, 1).await;
        snapshot.seq == 20 && !snapshot.is_stale
    })
    .await;
    assert_eq!(snapshot_of(&router, 2).await.seq, 30);
}

#[actix_web::test]
async fn partial_reload_forgets_only_its_events() {
    let (probe, router, _) = mirror();
    for event in [1, 2, 1, 2] {
        assert_eq!(snapshot_of(&router, event).await.seq, 0);
    }
    assert_eq!(probe.store.reads.load(Ordering::SeqCst), 2);
    assert_eq!(
        router.send(ReloadBooks(Some(vec![id(2)]))).await.unwrap(),
        []
    );
    for event in [1, 2, 1, 2] {
        assert_eq!(snapshot_of(&router, event).await.seq, 0);
    }
    assert_eq!(
        probe.store.reads.load(Ordering::SeqCst),
        3,
        "the other event is still remembered as nonexistent"
    );
}

/// A bounded number of books reload at a time, and only the failed ones reload again.
#[actix_web::test]
async fn reloads_are_bounded_and_failures_repeated() {
    let cache = Arc::new(SlowCache::default());
    let probe = mirror_edges(Arc::new(Slow(cache.clone())));
    let router = started(&probe);
    let count = 8 * RELOADS_AT_ONCE;
    let batch = (0..count as u32).map(|event| broadcast(event, 1, 1));
    apply(&router, heard(batch)).await;
    // Each book loads its state once more soon after its start.
    until_async("all books are loaded again", async || {
        cache.reads.load(Ordering::SeqCst) == 2 * count
    })
    .await;
    until_async("no read is in flight", async || {
        cache.in_flight_reads.load(Ordering::SeqCst) == 0
    })
    .await;
    cache.max_in_flight.store(0, Ordering::SeqCst);
    *cache.unreadable.lock().unwrap() = vec![id(7)];
    assert_eq!(router.send(ReloadBooks(None)).await.unwrap(), [id(7)]);
    // Reloaded books load once more, concurrently with the next ones.
    assert!(cache.max_in_flight.load(Ordering::SeqCst) <= 4 * RELOADS_AT_ONCE);
    cache.unreadable.lock().unwrap().clear();
    until_async("the books are loaded again", async || {
        cache.reads.load(Ordering::SeqCst) >= 4 * count - 1
    })
    .await;
    assert_eq!(
        router
            .send(ReloadBooks(Some(vec![id(7), id(9_999)])))
            .await
            .unwrap(),
        []
    );
    assert!(
        cache.reads.load(Ordering::SeqCst) < 4 * count + 10,
        "not all of them again"
    );
}

/// Books that have read the cache do not read it again while the store is down.
#[actix_web::test]
async fn store_outage_causes_no_cache_rereads() {
    let cache = Arc::new(SlowCache::default());
    let probe = bus_edges(Arc::new(Slow(cache.clone())));
    reads_cache_at_most(1, &cache, probe).await;
}

/// A mirrored book reads once more when it looks for state beyond the cache.
#[actix_web::test]
async fn store_outage_causes_one_mirror_reread() {
    let cache = Arc::new(SlowCache::default());
    let probe = mirror_edges(Arc::new(Slow(cache.clone())));
    reads_cache_at_most(2, &cache, probe).await;
}

async fn reads_cache_at_most<F: BookFeed>(
    max_reads: usize,
    cache: &SlowCache,
    probe: ProbeEdges<F>,
) {
    probe.store.down.store(true, Ordering::SeqCst);
    let router = started(&probe);
    assert_eq!(snapshot_of(&router, 1).await.seq, 1);
    let failed = || probe.metrics.errors.with_label_values(&["hydrate"]).get();
    until_async("the store was tried often", async || failed() >= 4).await;
    let reads = cache.reads.load(Ordering::SeqCst);
    let published = probe.published.lock().unwrap().len();
    assert!(
        reads <= max_reads && published == 1,
        "{reads} reads, published {published} times"
    );
    probe.store.keep(MarketState {
        update: market_update("MATCH_001", "btts", None, 1, 1),
        seq: 3,
    });
    probe.store.down.store(false, Ordering::SeqCst);
    until_async("the stored market is loaded", async || {
        snapshot_of(&router, 1).await.markets.len() == 2
    })
    .await;
}

/// Books that read the store in the background are reloaded after a gap. The reloads wait for the
/// turns of these reads, which go on while the books wait.
#[actix_web::test]
async fn reloads_do_not_wait_for_each_other() {
    let (probe, router, _) = mirror();
    probe.store.held.lock().unwrap().push("MATCH_0");
    for event in 1..=8 {
        let first = heard([broadcast(event, 1, 1)]);
        apply(&router, first).await;
    }
    let reloading = router.send(ReloadBooks(None));
    let releasing = async {
        // The books wait for their reloads by now.
        tokio::time::sleep(Duration::from_millis(200)).await;
        probe.store.held.lock().unwrap().clear();
    };
    let both = futures_util::future::join(reloading, releasing);
    let (reloaded, ()) = tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .expect("the books wait for each other");
    assert_eq!(reloaded.unwrap(), []);
}
