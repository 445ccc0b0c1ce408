//! Whether a client is sent only what it has missed.

use super::*;
use crate::domain::streaming::protocol::{
    ResumePoint, SnapshotExtension, SnapshotView, snapshot_message,
};

/// Whether a client that has everything up to 12 is sent only what it misses.
async fn resumes<F: BookFeed>(router: &Addr<BookRouter<F>>) -> bool {
    let snapshot = snapshot_of(router, 1).await;
    let resume = ResumePoint {
        since: 12,
        epoch: Some("e".to_owned()),
    };
    let extension = SnapshotExtension {
        epoch: Some("e"),
        resume: Some(resume),
        ..SnapshotExtension::default()
    };
    let view = SnapshotView {
        extension: Some(extension),
        ..SnapshotView::default()
    };
    let recovers = view.recovers(&snapshot).unwrap();
    let message = snapshot_message(&snapshot, &view);
    assert_eq!(message.contains(r#""epoch""#), recovers, "{message}");
    recovers
}

/// The cache holds one market, and the store, which is down, another one. Nobody knows what a
/// client of this event misses, until the store is read and the next change is applied.
async fn check_partial<F: BookFeed>(
    edges: impl FnOnce(Arc<dyn OddsCache>) -> ProbeEdges<F>,
    apply: impl AsyncFn(&Addr<BookRouter<F>>, u64),
) {
    let cache = Arc::new(EmbeddedCache::new(Duration::from_secs(60)));
    cache.write(cached(1, "1x2", 5, 21)).await.unwrap();
    let probe = edges(cache);
    probe.store.down.store(true, Ordering::SeqCst);
    probe.store.keep(MarketState {
        update: market_update("MATCH_001", "btts", None, 4, 1),
        seq: 15,
    });
    let router = started(&probe);
    assert!(!resumes(&router).await);
    apply(&router, 22).await;
    assert!(!resumes(&router).await);
    probe.store.down.store(false, Ordering::SeqCst);
    until_async("the stored market is loaded", async || {
        let snapshot = snapshot_of(&router, 1).await;
        snapshot.markets.len() == 2
    })
    .await;
    apply(&router, 30).await;
    assert!(resumes(&router).await);
}

#[actix_web::test]
async fn partial_book_is_not_resumed() {
    check_partial(bus_edges, async |router, position| {
        let update = positioned(1, position as i64, position);
        apply(router, Apply(vec![update])).await;
    })
    .await;
}

#[actix_web::test]
async fn partial_mirror_is_not_resumed() {
    check_partial(mirror_edges, async |router, seq| {
        apply(router, heard([broadcast(1, seq as i64, seq)])).await;
    })
    .await;
}

/// The first client of an event can resume it, although its book was started from the cache alone:
/// for the client, or for a broadcast.
#[actix_web::test]
async fn first_client_of_mirror_resumes() {
    for is_broadcast_first in [false, true] {
        let (probe, router, cache) = mirror();
        cache.write(cached(1, "1x2", 5, 21)).await.unwrap();
        if is_broadcast_first {
            let update = broadcast(1, 22, 22);
            apply(&router, heard([update])).await;
        }
        assert!(resumes(&router).await);
        assert!(probe.store.reads.load(Ordering::SeqCst) <= 1);
    }
}
