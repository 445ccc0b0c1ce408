//! Requests of clients and updates, while state is loaded.

use super::*;

/// Distinct ids of nonexistent events.
fn unknown_ids(count: usize) -> impl Iterator<Item = EventId> {
    (0..count).map(|n| EventId::new(&format!("UNKNOWN_{n}")).unwrap())
}

#[actix_web::test]
async fn unknown_flood_does_not_delay_updates() {
    check_unknown_flood(probe_edges(), |event, at| positioned(event, 1, at)).await;
}

#[actix_web::test]
async fn unknown_flood_does_not_delay_broadcasts() {
    let (probe, _, _) = mirror();
    check_unknown_flood(probe, |event, at| broadcast(event, 1, at + 1).into()).await;
}

async fn check_unknown_flood<F: BookFeed>(
    probe: ProbeEdges<F>,
    item: impl Fn(u32, u64) -> F::Item,
) {
    probe.store.held.lock().unwrap().push("UNKNOWN");
    let router = started(&probe);
    let flood: Vec<_> = unknown_ids(200)
        .map(|id| router.send(GetSnapshot(id)))
        .collect();
    let flood = actix::spawn(join_all(flood));
    until_async("the flood fills its queue", async || {
        probe.refused.get() >= 190
    })
    .await;
    // No read of the flood completes before the update is applied.
    apply(&router, Apply(vec![item(1, 0)])).await;
    assert_eq!(snapshot_of(&router, 1).await.markets.len(), 1);
    // An existing event that a client requested first is not delayed either.
    probe.store.held.lock().unwrap().push("MATCH_002");
    let requested = router.send(GetSnapshot(id(2)));
    probe
        .store
        .held
        .lock()
        .unwrap()
        .retain(|held| *held != "MATCH_002");
    apply(&router, Apply(vec![item(2, 0)])).await;
    assert!(matches!(
        requested.await.unwrap(),
        Ok(_) | Err(ApplyError::Busy(_))
    ));
    probe.store.held.lock().unwrap().clear();
    let answers = flood.await.unwrap();
    let busy = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(Err(ApplyError::Busy(_)))))
        .count();
    assert!(busy >= 190, "{busy} were rejected, the others were served");
    assert!(
        probe.store.reads.load(Ordering::SeqCst) <= 16,
        "the queue bounds the reads"
    );
}

#[actix_web::test]
async fn update_overtakes_client_read() {
    let probe = probe_edges();
    probe.store.held.lock().unwrap().push("UNKNOWN");
    let router = started(&probe);
    // Both read slots of the clients are taken, and a third client waits.
    let flood: Vec<_> = unknown_ids(2)
        .map(|id| router.send(GetSnapshot(id)))
        .collect();
    until_async("both are read", async || {
        probe.store.reads.load(Ordering::SeqCst) == 2
    })
    .await;
    let requested = router.send(GetSnapshot(id(1)));
    apply(&router, Apply(vec![positioned(1, 1, 0)])).await;
    assert_eq!(
        requested.await.unwrap().unwrap().markets.len(),
        1,
        "answered by the book that started"
    );
    probe.store.held.lock().unwrap().clear();
    join_all(flood).await;
}

#[actix_web::test]
async fn unknown_event_costs_one_read() {
    let probe = probe_edges();
    let router = started(&probe);
    for _ in 0..10 {
        assert_eq!(snapshot_of(&router, 1).await.markets.len(), 0);
    }
    assert_eq!(probe.store.reads.load(Ordering::SeqCst), 1);
    assert_eq!(probe.metrics.books.get(), 0);
    apply(&router, Apply(vec![positioned(1, 1, 0)])).await;
    assert_eq!(
        snapshot_of(&router, 1).await.markets.len(),
        1,
        "shown at once"
    );
}

#[actix_web::test]
async fn concurrent_requests_share_one_read() {
    let probe = probe_edges();
    probe.store.keep(MarketState {
        update: update(1, 5, 1),
        seq: 7,
    });
    let router = started(&probe);
    let requests: Vec<_> = (0..500).map(|_| router.send(GetSnapshot(id(1)))).collect();
    for answer in join_all(requests).await {
        assert_eq!(answer.unwrap().unwrap().seq, 7);
    }
    assert_eq!(
        (
            probe.store.reads.load(Ordering::SeqCst),
            probe.refused.get()
        ),
        (1, 0)
    );
}

#[actix_web::test]
async fn hanging_read_blocks_one_event() {
    let probe = probe_edges();
    probe.store.held.lock().unwrap().push("MATCH_001");
    let router = started(&probe);
    let first = router.send(Apply(vec![positioned(1, 1, 0), positioned(2, 1, 1)]));
    let second = router.send(Apply(vec![positioned(1, 2, 2), positioned(2, 2, 3)]));
    until_async("the other event is applied", async || {
        probe.published.lock().unwrap().len() == 2
    })
    .await;
    assert_eq!(probe.metrics.applied.get(), 2);
    probe.store.held.lock().unwrap().clear();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    let published = probe.published.lock().unwrap().clone();
    assert_eq!(
        published[2..],
        [("1x2".to_owned(), 1), ("1x2".to_owned(), 3)],
        "in order"
    );
}

#[actix_web::test]
async fn hanging_live_read_times_out() {
    let probe = probe_edges();
    probe.store.held.lock().unwrap().push("MATCH_001");
    let router = started(&probe);
    apply(&router, Apply(vec![positioned(1, 1, 9)])).await;
    assert_eq!(*probe.published.lock().unwrap(), [("1x2".to_owned(), 10)]);
    probe.store.held.lock().unwrap().clear();
}
