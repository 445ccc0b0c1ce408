//! What a book starts from.

use super::*;
use crate::domain::odds::book::Snapshot;

/// A book starts from the stored state, but leaves rows after the replay boundary to the bus.
#[actix_web::test]
async fn later_rows_are_left_to_the_bus() {
    let probe = probe_edges();
    let published = || std::mem::take(&mut *probe.published.lock().unwrap());
    probe.store.keep(MarketState {
        update: market_update("MATCH_001", "btts", None, 4, 1),
        seq: 700,
    });
    // The store path is ahead: the updates that start the book are stored already.
    probe.store.keep(MarketState {
        update: update(1, 7, 1),
        seq: 703,
    });
    let router = started(&probe);
    let batch = vec![positioned(1, 5, 700), positioned(1, 6, 701)];
    apply(&router, Apply(batch)).await;
    apply(&router, Apply(vec![positioned(1, 7, 702)])).await;
    let expected = [("btts", 700), ("1x2", 701), ("1x2", 702), ("1x2", 703)];
    assert_eq!(
        published(),
        expected.map(|(market, seq)| (market.to_owned(), seq))
    );
}

/// If the store is ahead of the bus, its state is published as conflated, unless it is exactly
/// the update that the book starts for.
#[actix_web::test]
async fn store_ahead_of_bus_is_conflated() {
    let mut probe = probe_edges();
    let feed = &mut Arc::get_mut(&mut probe.edges).unwrap().feed;
    feed.first_position = None;
    // For one event the store holds exactly the update that starts the book, for the other also
    // the next one.
    probe.store.keep(MarketState {
        update: update(1, 5, 1),
        seq: 701,
    });
    probe.store.keep(MarketState {
        update: update(2, 6, 1),
        seq: 703,
    });
    let router = started(&probe);
    for batch in [
        vec![positioned(1, 5, 700)],
        vec![positioned(2, 5, 701), positioned(2, 6, 702)],
    ] {
        apply(&router, Apply(batch)).await;
    }
    assert_eq!(
        *probe.published.lock().unwrap(),
        [("1x2".to_owned(), 701), ("1x2".to_owned(), 703)]
    );
    assert_eq!(*probe.conflated.lock().unwrap(), [703]);
}

#[actix_web::test]
async fn requested_book_loads_all_stored_state() {
    let probe = probe_edges();
    probe.store.keep(MarketState {
        update: update(1, 5, 1),
        seq: 700,
    });
    let router = started(&probe);
    assert_eq!(snapshot_of(&router, 1).await.seq, 700);
    apply(&router, Apply(vec![positioned(1, 5, 699)])).await;
    apply(&router, Apply(vec![positioned(1, 6, 700)])).await;
    assert_eq!(
        *probe.published.lock().unwrap(),
        [("1x2".to_owned(), 700), ("1x2".to_owned(), 701)]
    );
}

#[actix_web::test]
async fn store_outage_does_not_block_live_path() {
    let probe = probe_edges();
    probe
        .store
        .down
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let router = started(&probe);
    let unknown = router.send(GetSnapshot(id(1))).await.unwrap();
    assert_eq!(
        unknown,
        Err(ApplyError::NotLoaded(id(1))),
        "not the same as an event that does not exist"
    );
    apply(&router, Apply(vec![positioned(1, 5, 9)])).await;
    assert_eq!(*probe.published.lock().unwrap(), [("1x2".to_owned(), 10)]);
    assert_eq!(
        probe.metrics.errors.with_label_values(&["hydrate"]).get(),
        2
    );
    assert_eq!(snapshot_of(&router, 1).await.seq, 10);
    probe
        .store
        .down
        .store(false, std::sync::atomic::Ordering::SeqCst);
    // A failed store is not read again for a moment.
    for _ in 0..500 {
        if let Ok(snapshot) = router.send(GetSnapshot(id(2))).await.unwrap() {
            assert_eq!(snapshot.seq, 0);
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 10 s");
}

#[actix_web::test]
async fn book_loads_stored_state_after_outage() {
    let probe = probe_edges();
    probe
        .store
        .down
        .store(true, std::sync::atomic::Ordering::SeqCst);
    probe.store.keep(MarketState {
        update: market_update("MATCH_001", "btts", None, 3, 1),
        seq: 4,
    });
    probe.store.keep(MarketState {
        update: update(1, 3, 1),
        seq: 5,
    });
    let router = started(&probe);
    apply(&router, Apply(vec![positioned(1, 5, 9)])).await;
    probe
        .store
        .down
        .store(false, std::sync::atomic::Ordering::SeqCst);
    let markets = |snapshot: Snapshot| {
        let market = |state: &Arc<MarketState>| (state.update.market.to_string(), state.seq);
        snapshot.markets.iter().map(market).collect::<Vec<_>>()
    };
    // A number above the published one: clients drop lower ones.
    let whole = [("1x2".to_owned(), 10), ("btts".to_owned(), 11)];
    for _ in 0..500 {
        if markets(snapshot_of(&router, 1).await) == whole {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 10 s");
}
