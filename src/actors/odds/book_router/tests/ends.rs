//! When a book ends: idle, revoked or stopped.

use super::*;
use crate::actors::odds::odds_book::IsAhead;
use crate::actors::odds::odds_book::tests::End;

/// Idle books are dropped, and a request for an unknown event leaves no book.
#[actix_web::test]
async fn idle_books_are_dropped() {
    let probe = probe_edges();
    let books = || probe.metrics.books.get();
    let router = BookRouter::new(probe.edges, Duration::from_millis(1)).start();
    let snapshot = snapshot_of(&router, 9).await;
    assert_eq!((snapshot.seq, snapshot.markets.len()), (0, 0));
    apply(&router, Apply(vec![positioned(1, 1, 0)])).await;
    probe.store.keep(MarketState {
        update: update(1, 1, 1),
        seq: 1,
    });
    tokio::time::pause();
    for _ in 0..1_000 {
        if books() == 0 {
            break;
        }
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
    assert_eq!(books(), 0);
    tokio::time::resume();
    let snapshot = snapshot_of(&router, 1).await;
    assert_eq!(snapshot.seq, 1, "it restarts from the store");
}

/// Books of revoked partitions are dropped, and restart when the partition is assigned again.
#[actix_web::test]
async fn revoked_partition_drops_its_books() {
    let probe = probe_edges();
    let router = started(&probe);
    apply(
        &router,
        Apply(vec![positioned(1, 1, 0), positioned(2, 1, 0)]),
    )
    .await;
    let last = router.send(revoked(&[1, 7], false)).await.unwrap();
    let last: Vec<_> = last
        .iter()
        .map(|state| (&state.update, state.seq))
        .collect();
    assert_eq!(last, [(&update(1, 1, 1), 1)]);
    for _ in 0..500 {
        if probe.metrics.books.get() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(probe.metrics.books.get(), 1);
    // In the meantime another process applied a later revision.
    probe.store.keep(MarketState {
        update: update(1, 5, 1),
        seq: 1,
    });
    apply(
        &router,
        Apply(vec![positioned(1, 4, 1), positioned(2, 4, 1)]),
    )
    .await;
    assert_eq!(
        probe.metrics.rejected.with_label_values(&["older"]).get(),
        1,
        "it loaded the stored state"
    );
}

fn revoked(partitions: &[u32], are_records_lost: bool) -> PartitionsRevoked {
    PartitionsRevoked {
        partitions: partitions.to_vec(),
        are_records_lost,
    }
}

/// Another process may have shown a record that is lost. Its number is not used again.
#[actix_web::test]
async fn numbers_jump_over_lost_records() {
    let probe = probe_edges();
    let router = started(&probe);
    apply(&router, Apply(vec![positioned(1, 5, 700)])).await;
    let last = router.send(revoked(&[1], true)).await.unwrap();
    let last: Vec<_> = last.iter().map(|state| state.seq).collect();
    assert_eq!(last, [701 + LOST_NUMBERS], "to be stored");
    apply(&router, Apply(vec![positioned(1, 6, 0)])).await;
    let published = probe.published.lock().unwrap();
    let published: Vec<u64> = published.iter().map(|(_, seq)| *seq).collect();
    let jumped = 701 + LOST_NUMBERS;
    assert_eq!(published, [701, jumped, jumped, jumped + 1]);
}

/// If a partition is assigned again and bus, cache and store have lost its state, sequence
/// numbers and prices still do not go backwards.
#[actix_web::test]
async fn returning_partition_never_moves_prices_back() {
    let probe = probe_edges();
    let router = started(&probe);
    apply(&router, Apply(vec![positioned(1, 5, 700)])).await;
    // The topic was recreated, the cache was emptied, and the store lags.
    router.send(revoked(&[1], false)).await.unwrap();
    apply(
        &router,
        Apply(vec![positioned(1, 4, 0), positioned(1, 6, 1)]),
    )
    .await;
    assert_eq!(
        probe.metrics.rejected.with_label_values(&["older"]).get(),
        1
    );
    let published: Vec<u64> = probe
        .published
        .lock()
        .unwrap()
        .iter()
        .map(|(_, seq)| *seq)
        .collect();
    assert_eq!(
        published,
        [701, 701, 702],
        "the held state is published again, then the new change"
    );
}

#[actix_web::test]
async fn stopped_book_is_an_error_and_restarts() {
    let probe = probe_edges();
    let mut router = BookRouter::new(probe.edges.clone(), Duration::from_secs(60));
    let gone = id(1);
    let boundary = ReplayBoundary::NOTHING;
    let loaded = probe.edges.source.load_for_start(&gone, boundary).await;
    let address = OddsBook::new(id(1), probe.edges, boundary, loaded).start();
    router
        .books
        .insert(&gone, address.clone(), IsAhead::default());
    address.send(End).await.unwrap();
    let router = router.start();
    let answer = router.send(Apply(vec![positioned(1, 1, 0)])).await.unwrap();
    assert_eq!(answer, Err(ApplyError::BookEnded(gone)));
    apply(&router, Apply(vec![positioned(1, 1, 0)])).await;
    assert_eq!(*probe.published.lock().unwrap(), [("1x2".to_owned(), 1)]);
}

/// A router that drops books at once, with the book of a record that no processor has accepted yet.
async fn ahead() -> (ProbeEdges<MirrorFeed>, Addr<BookRouter<MirrorFeed>>) {
    let (probe, _, _) = mirror();
    let router = BookRouter::new(probe.edges.clone(), Duration::ZERO).start();
    let record = positioned(1, 5, 9);
    let sent = InOrder::send(&router.clone().recipient(), ApplyUpdates(vec![record]));
    sent.await.unwrap();
    until("the record is published", || {
        !probe.published.lock().unwrap().is_empty()
    })
    .await;
    (probe, router)
}

/// An idle book is kept until its change is broadcast: what the cache holds is older than what
/// clients have seen.
#[actix_web::test]
async fn book_ahead_of_cache_is_kept() {
    let (probe, router) = ahead().await;
    router.send(DropIdle).await.unwrap();
    assert_eq!(probe.metrics.books.get(), 1);
    apply(&router, heard([broadcast(1, 5, 10)])).await;
    router.send(DropIdle).await.unwrap();
    until("the book is dropped", || probe.metrics.books.get() == 0).await;
    let published = probe.published.lock().unwrap().clone();
    assert_eq!(published, [("1x2".to_owned(), 10)], "once");
}

/// A record that no processor accepts does not keep its book for ever.
#[actix_web::test]
async fn unconfirmed_book_is_dropped_in_the_end() {
    let (probe, router) = ahead().await;
    until_async("the book is dropped", async || {
        router.send(DropIdle).await.unwrap();
        probe.metrics.books.get() == 0
    })
    .await;
}
