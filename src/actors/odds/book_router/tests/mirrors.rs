//! Books that follow the broadcasts of processors.

use super::*;

/// A mirrored book publishes each change once, with the sequence number of its broadcast.
#[actix_web::test]
async fn mirror_publishes_each_broadcast_once() {
    let (probe, router, _) = mirror();
    let batch = vec![
        broadcast(1, 1, 10),
        broadcast(2, 1, 12),
        broadcast(1, 2, 11),
        broadcast(1, 1, 10),
    ];
    apply(&router, heard(batch)).await;
    apply(&router, heard([broadcast(1, 3, 4)])).await;
    let mut all = probe.published.lock().unwrap().clone();
    all.sort();
    assert_eq!(
        all,
        [10, 11, 12, 12].map(|seq| ("1x2".to_owned(), seq)),
        "a sequence number never decreases"
    );
    assert_eq!(
        probe.metrics.rejected.with_label_values(&["older"]).get(),
        1
    );
}

/// A mirrored book marks for each change separately whether earlier changes may be missing.
#[actix_web::test]
async fn mirror_marks_conflation_per_change() {
    let (probe, router, _) = mirror();
    let published = vec![
        Broadcast {
            conflated: true,
            ..broadcast(1, 5, 701)
        },
        broadcast(1, 6, 702),
        broadcast(1, 7, 703),
    ];
    apply(&router, heard(published)).await;
    assert_eq!(
        probe
            .published
            .lock()
            .unwrap()
            .iter()
            .map(|(_, seq)| *seq)
            .collect::<Vec<_>>(),
        [701, 702, 703]
    );
    assert_eq!(*probe.conflated.lock().unwrap(), [701]);
}

/// A mirrored book starts from the loaded state and loses no broadcast that arrives in the
/// meantime.
#[actix_web::test]
async fn starting_mirror_loses_no_broadcast() {
    let (probe, router, cache) = mirror();
    cache.write(cached(1, "1x2", 5, 20)).await.unwrap();
    probe.store.keep(MarketState {
        update: market_update("MATCH_001", "btts", None, 1, 1),
        seq: 3,
    });
    // Both wait in the mailbox of the book while its state is loaded.
    let first = router.send(heard([broadcast(1, 5, 20)]));
    let second = router.send(heard([broadcast(1, 6, 21)]));
    let (first, second) = futures_util::future::join(first, second).await;
    first.unwrap().unwrap();
    second.unwrap().unwrap();
    assert_eq!(
        probe.published.lock().unwrap()[..2],
        [20, 21].map(|seq| ("1x2".to_owned(), seq))
    );
    until_async("the store's market is shown", async || {
        snapshot_of(&router, 1).await.markets.len() == 2
    })
    .await;
    assert_eq!(
        probe.published.lock().unwrap()[2..],
        [("btts".to_owned(), 22)]
    );
}

/// A mirrored book that could not read the cache is stale until it can.
#[actix_web::test]
async fn mirror_is_stale_until_cache_is_read() {
    let cache = Arc::new(SlowCache::default());
    *cache.unreadable.lock().unwrap() = vec![id(1)];
    let probe = mirror_edges(Arc::new(Slow(cache.clone())));
    probe.store.keep(MarketState {
        update: update(1, 1, 1),
        seq: 1,
    });
    let router = started(&probe);
    assert!(snapshot_of(&router, 1).await.is_stale);
    cache.unreadable.lock().unwrap().clear();
    until_async("the cache is read", async || {
        !snapshot_of(&router, 1).await.is_stale
    })
    .await;
}

#[actix_web::test]
async fn mirrors_do_not_wait_for_store() {
    let (probe, router, cache) = mirror();
    probe
        .store
        .down
        .store(true, std::sync::atomic::Ordering::SeqCst);
    cache.write(cached(1, "1x2", 5, 20)).await.unwrap();
    assert_eq!(snapshot_of(&router, 1).await.seq, 20);
    assert_eq!(
        router.send(GetSnapshot(id(2))).await.unwrap(),
        Err(ApplyError::NotLoaded(id(2)))
    );
    assert_eq!(router.send(ReloadBooks(None)).await.unwrap(), []);
    apply(&router, heard([broadcast(1, 6, 21)])).await;
    assert_eq!(snapshot_of(&router, 1).await.seq, 21);
}

#[actix_web::test]
async fn nonexistent_events_delay_no_suspension() {
    let (probe, router, _) = mirror();
    probe.store.held.lock().unwrap().push("MATCH_0");
    let made_up = (1..=50).map(|event| broadcast(event, 1, 1));
    let flood = router.send(heard(made_up));
    // No store read completes before this.
    apply(&router, heard([broadcast(60, 1, 1)])).await;
    flood.await.unwrap().unwrap();
    let reads = probe.store.reads.load(Ordering::SeqCst);
    probe.store.held.lock().unwrap().clear();
    assert!(
        reads <= 2,
        "{reads} reads, only of books that load the rest"
    );
}

/// A store that hangs delays the first snapshot of a mirror, and no later one.
#[actix_web::test]
async fn hanging_store_delays_first_snapshot_only() {
    let (probe, router, cache) = mirror();
    cache.write(cached(1, "1x2", 5, 21)).await.unwrap();
    probe.store.held.lock().unwrap().push("MATCH_001");
    let snapshot = || router.send(GetSnapshot(id(1)));
    let first = snapshot().await.unwrap().unwrap();
    assert_eq!((first.seq, first.markets.len()), (21, 1));
    for _ in 0..100 {
        assert_eq!(snapshot().await.unwrap().unwrap().seq, 21);
    }
    probe.store.held.lock().unwrap().clear();
}

/// While the store cannot say whether a record is new, it is not published.
#[actix_web::test]
async fn record_waits_for_the_store() {
    let (probe, router, _) = mirror();
    probe.store.keep(MarketState {
        update: update(1, 6, 1),
        seq: 11,
    });
    probe.store.held.lock().unwrap().push("MATCH_001");
    let records = vec![positioned(1, 5, 9), positioned(1, 7, 11)];
    let sent = InOrder::send(&router.clone().recipient(), ApplyUpdates(records));
    sent.await.unwrap();
    assert!(probe.published.lock().unwrap().is_empty());
    probe.store.held.lock().unwrap().clear();
    until("stored state and new record are published", || {
        probe.published.lock().unwrap().len() == 2
    })
    .await;
    let published = probe.published.lock().unwrap().clone();
    assert_eq!(published, [11, 12].map(|seq| ("1x2".to_owned(), seq)));
}
