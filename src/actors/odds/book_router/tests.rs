use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;

use super::reload::RELOADS_AT_ONCE;
use super::*;
use crate::actors::odds::messages::ReloadBooks;
use crate::actors::odds::odds_book::IsAhead;
use crate::actors::odds::odds_book::tests::End;
use crate::actors::testing::{ProbeEdges, bus_edges, mirror_edges, probe_edges};
use crate::cache::embedded::EmbeddedCache;
use crate::cache::{Broadcast, BroadcastStream, CacheError, OddsCache};
use crate::domain::odds::book::{MarketState, Snapshot};
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::odds::update::testing::*;
use crate::domain::streaming::protocol::{
    ResumePoint, SnapshotExtension, SnapshotView, snapshot_message,
};
use crate::testing::{until, until_async};

/// The live path sends its batches as [`InOrder`]; a plain message is enough for tests.
impl<F: BookFeed> Handler<Apply<F::Item>> for BookRouter<F> {
    type Result = ResponseActFuture<Self, Result<(), ApplyError>>;

    fn handle(&mut self, batch: Apply<F::Item>, context: &mut Context<Self>) -> Self::Result {
        self.apply(batch.0, context)
    }
}

/// Drops idle books now.
#[derive(Message)]
#[rtype(result = "()")]
struct DropIdle;

impl<F: BookFeed> Handler<DropIdle> for BookRouter<F> {
    type Result = ();

    fn handle(&mut self, _: DropIdle, _: &mut Context<Self>) {
        self.books.drop_idle();
    }
}

fn positioned(event: u32, time: i64, position: u64) -> PositionedUpdate {
    PositionedUpdate {
        update: update(event, time, 1),
        partition: event,
        position,
    }
}

fn id(event: u32) -> EventId {
    EventId::new(&format!("MATCH_{event:03}")).unwrap()
}

/// Updates reach their books in order, and every change is published before the reply.
#[actix_web::test]
async fn changes_are_published_before_the_reply() {
    let probe = probe_edges();
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
    let batch = vec![
        positioned(1, 1, 0),
        positioned(2, 1, 1),
        positioned(1, 2, 2),
        positioned(1, 1, 3),
    ];
    router.send(Apply(batch)).await.unwrap().unwrap();
    let mut published = probe.published.lock().unwrap().clone();
    published.sort();
    assert_eq!(
        published,
        [
            ("1x2".to_owned(), 1),
            ("1x2".to_owned(), 2),
            ("1x2".to_owned(), 3)
        ]
    );
    let snapshot = router.send(GetSnapshot(id(1))).await.unwrap().unwrap();
    assert_eq!((snapshot.seq, snapshot.markets.len()), (3, 1));
    assert_eq!(probe.metrics.applied.get(), 3);
    assert_eq!(
        probe.metrics.rejected.with_label_values(&["older"]).get(),
        1
    );
    assert_eq!(
        probe
            .metrics
            .mailbox_depth
            .with_label_values(&["probe"])
            .get(),
        2,
        "one message a book and batch"
    );
}

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
    let router = BookRouter::new(probe.edges.clone(), Duration::from_secs(60)).start();
    let batch = vec![positioned(1, 5, 700), positioned(1, 6, 701)];
    router.send(Apply(batch)).await.unwrap().unwrap();
    router
        .send(Apply(vec![positioned(1, 7, 702)]))
        .await
        .unwrap()
        .unwrap();
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
    let router = BookRouter::new(probe.edges.clone(), Duration::from_secs(60)).start();
    for batch in [
        vec![positioned(1, 5, 700)],
        vec![positioned(2, 5, 701), positioned(2, 6, 702)],
    ] {
        router.send(Apply(batch)).await.unwrap().unwrap();
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
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
    assert_eq!(
        router.send(GetSnapshot(id(1))).await.unwrap().unwrap().seq,
        700
    );
    router
        .send(Apply(vec![positioned(1, 5, 699)]))
        .await
        .unwrap()
        .unwrap();
    router
        .send(Apply(vec![positioned(1, 6, 700)]))
        .await
        .unwrap()
        .unwrap();
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
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
    let unknown = router.send(GetSnapshot(id(1))).await.unwrap();
    assert_eq!(
        unknown,
        Err(ApplyError::NotLoaded(id(1))),
        "not the same as an event that does not exist"
    );
    router
        .send(Apply(vec![positioned(1, 5, 9)]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(*probe.published.lock().unwrap(), [("1x2".to_owned(), 10)]);
    assert_eq!(
        probe.metrics.errors.with_label_values(&["hydrate"]).get(),
        2
    );
    assert_eq!(
        router.send(GetSnapshot(id(1))).await.unwrap().unwrap().seq,
        10
    );
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
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
    router
        .send(Apply(vec![positioned(1, 5, 9)]))
        .await
        .unwrap()
        .unwrap();
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
        if markets(router.send(GetSnapshot(id(1))).await.unwrap().unwrap()) == whole {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 10 s");
}

/// Idle books are dropped, and a request for an unknown event leaves no book.
#[actix_web::test]
async fn idle_books_are_dropped() {
    let probe = probe_edges();
    let books = || probe.metrics.books.get();
    let router = BookRouter::new(probe.edges, Duration::from_millis(1)).start();
    let snapshot = router.send(GetSnapshot(id(9))).await.unwrap().unwrap();
    assert_eq!((snapshot.seq, snapshot.markets.len()), (0, 0));
    router
        .send(Apply(vec![positioned(1, 1, 0)]))
        .await
        .unwrap()
        .unwrap();
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
    let snapshot = router.send(GetSnapshot(id(1))).await.unwrap().unwrap();
    assert_eq!(snapshot.seq, 1, "it restarts from the store");
}

/// Books of revoked partitions are dropped, and restart when the partition is assigned again.
#[actix_web::test]
async fn revoked_partition_drops_its_books() {
    let probe = probe_edges();
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
    router
        .send(Apply(vec![positioned(1, 1, 0), positioned(2, 1, 0)]))
        .await
        .unwrap()
        .unwrap();
    router.send(PartitionsRevoked(vec![1, 7])).await.unwrap();
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
    router
        .send(Apply(vec![positioned(1, 4, 1), positioned(2, 4, 1)]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        probe.metrics.rejected.with_label_values(&["older"]).get(),
        1,
        "it loaded the stored state"
    );
}

/// If a partition is assigned again and bus, cache and store have lost its state, sequence
/// numbers and prices still do not go backwards.
#[actix_web::test]
async fn returning_partition_never_moves_prices_back() {
    let probe = probe_edges();
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
    router
        .send(Apply(vec![positioned(1, 5, 700)]))
        .await
        .unwrap()
        .unwrap();
    // The topic was recreated, the cache was emptied, and the store lags.
    router.send(PartitionsRevoked(vec![1])).await.unwrap();
    router
        .send(Apply(vec![positioned(1, 4, 0), positioned(1, 6, 1)]))
        .await
        .unwrap()
        .unwrap();
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

fn mirror() -> (
    ProbeEdges<MirrorFeed>,
    Addr<BookRouter<MirrorFeed>>,
    Arc<EmbeddedCache>,
) {
    let cache = Arc::new(EmbeddedCache::new(Duration::from_secs(60)));
    let probe = mirror_edges(cache.clone());
    let router = BookRouter::new(probe.edges.clone(), Duration::from_secs(60)).start();
    (probe, router, cache)
}

fn broadcast(event: u32, time: i64, seq: u64) -> Broadcast {
    Broadcast {
        update: update(event, time, 1),
        seq: Some(seq),
        conflated: false,
    }
}

fn heard(broadcasts: impl IntoIterator<Item = Broadcast>) -> Apply<MirrorInput> {
    Apply(broadcasts.into_iter().map(MirrorInput::from).collect())
}

fn cached(event: u32, market: &str, time: i64, seq: u64) -> Vec<Arc<MarketState>> {
    let update = market_update(&format!("MATCH_{event:03}"), market, None, time, 1);
    vec![Arc::new(MarketState { update, seq })]
}

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
    router.send(heard(batch)).await.unwrap().unwrap();
    router
        .send(heard([broadcast(1, 3, 4)]))
        .await
        .unwrap()
        .unwrap();
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
    router.send(heard(published)).await.unwrap().unwrap();
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
        router
            .send(GetSnapshot(id(1)))
            .await
            .unwrap()
            .unwrap()
            .markets
            .len()
            == 2
    })
    .await;
    assert_eq!(
        probe.published.lock().unwrap()[2..],
        [("btts".to_owned(), 22)]
    );
}

/// A reload publishes the missed changes once and no older ones.
#[actix_web::test]
async fn reload_publishes_missed_changes_once() {
    let (probe, router, cache) = mirror();
    let batch = vec![broadcast(1, 5, 20), broadcast(2, 5, 30)];
    router.send(heard(batch)).await.unwrap().unwrap();
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
    assert_eq!(
        router.send(GetSnapshot(id(1))).await.unwrap().unwrap().seq,
        25
    );
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
        let snapshot = router.send(GetSnapshot(id(1))).await.unwrap().unwrap();
        snapshot.seq == 20 && !snapshot.is_stale
    })
    .await;
    assert_eq!(
        router.send(GetSnapshot(id(2))).await.unwrap().unwrap().seq,
        30
    );
}

#[actix_web::test]
async fn partial_reload_forgets_only_its_events() {
    let (probe, router, _) = mirror();
    for event in [1, 2, 1, 2] {
        assert_eq!(
            router
                .send(GetSnapshot(id(event)))
                .await
                .unwrap()
                .unwrap()
                .seq,
            0
        );
    }
    assert_eq!(probe.store.reads.load(Ordering::SeqCst), 2);
    assert_eq!(
        router.send(ReloadBooks(Some(vec![id(2)]))).await.unwrap(),
        []
    );
    for event in [1, 2, 1, 2] {
        assert_eq!(
            router
                .send(GetSnapshot(id(event)))
                .await
                .unwrap()
                .unwrap()
                .seq,
            0
        );
    }
    assert_eq!(
        probe.store.reads.load(Ordering::SeqCst),
        3,
        "the other event is still remembered as nonexistent"
    );
}

/// A cache with slow reads, which fail for the marked events.
#[derive(Default)]
struct SlowCache {
    reads: AtomicUsize,
    in_flight_reads: AtomicUsize,
    max_in_flight: AtomicUsize,
    unreadable: Mutex<Vec<EventId>>,
}

struct Slow(Arc<SlowCache>);

impl OddsCache for Slow {
    fn write(&self, _: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn read_book(
        &self,
        event_id: &EventId,
    ) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>> {
        let cache = self.0.clone();
        let event_id = event_id.clone();
        Box::pin(async move {
            cache.reads.fetch_add(1, Ordering::SeqCst);
            cache.max_in_flight.fetch_max(
                cache.in_flight_reads.fetch_add(1, Ordering::SeqCst) + 1,
                Ordering::SeqCst,
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
            cache.in_flight_reads.fetch_sub(1, Ordering::SeqCst);
            if cache.unreadable.lock().unwrap().contains(&event_id) {
                return Err(CacheError::Unavailable("test".to_owned()));
            }
            Ok(vec![Arc::new(MarketState {
                update: market_update(event_id.as_str(), "1x2", None, 1, 1),
                seq: 1,
            })])
        })
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn listen(&self) -> Option<Box<dyn BroadcastStream>> {
        None
    }
}

/// A bounded number of books reload at a time, and only the failed ones reload again.
#[actix_web::test]
async fn reloads_are_bounded_and_failures_repeated() {
    let cache = Arc::new(SlowCache::default());
    let probe = mirror_edges(Arc::new(Slow(cache.clone())));
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
    let count = 8 * RELOADS_AT_ONCE;
    let batch = (0..count as u32).map(|event| broadcast(event, 1, 1));
    router.send(heard(batch)).await.unwrap().unwrap();
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
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
    assert!(
        router
            .send(GetSnapshot(id(1)))
            .await
            .unwrap()
            .unwrap()
            .is_stale
    );
    cache.unreadable.lock().unwrap().clear();
    until_async("the cache is read", async || {
        !router
            .send(GetSnapshot(id(1)))
            .await
            .unwrap()
            .unwrap()
            .is_stale
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
    assert_eq!(
        router.send(GetSnapshot(id(1))).await.unwrap().unwrap().seq,
        20
    );
    assert_eq!(
        router.send(GetSnapshot(id(2))).await.unwrap(),
        Err(ApplyError::NotLoaded(id(2)))
    );
    assert_eq!(router.send(ReloadBooks(None)).await.unwrap(), []);
    router
        .send(heard([broadcast(1, 6, 21)]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        router.send(GetSnapshot(id(1))).await.unwrap().unwrap().seq,
        21
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
    let router = BookRouter::new(probe.edges.clone(), Duration::from_secs(60)).start();
    assert_eq!(
        router.send(GetSnapshot(id(1))).await.unwrap().unwrap().seq,
        1
    );
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
        router
            .send(GetSnapshot(id(1)))
            .await
            .unwrap()
            .unwrap()
            .markets
            .len()
            == 2
    })
    .await;
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
    router
        .send(Apply(vec![positioned(1, 1, 0)]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(*probe.published.lock().unwrap(), [("1x2".to_owned(), 1)]);
}

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
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
    let flood: Vec<_> = unknown_ids(200)
        .map(|id| router.send(GetSnapshot(id)))
        .collect();
    let flood = actix::spawn(join_all(flood));
    until_async("the flood fills its queue", async || {
        probe.refused.get() >= 190
    })
    .await;
    // No read of the flood completes before the update is applied.
    router.send(Apply(vec![item(1, 0)])).await.unwrap().unwrap();
    assert_eq!(
        router
            .send(GetSnapshot(id(1)))
            .await
            .unwrap()
            .unwrap()
            .markets
            .len(),
        1
    );
    // An existing event that a client requested first is not delayed either.
    probe.store.held.lock().unwrap().push("MATCH_002");
    let requested = router.send(GetSnapshot(id(2)));
    probe
        .store
        .held
        .lock()
        .unwrap()
        .retain(|held| *held != "MATCH_002");
    router.send(Apply(vec![item(2, 0)])).await.unwrap().unwrap();
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
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
    // Both read slots of the clients are taken, and a third client waits.
    let flood: Vec<_> = unknown_ids(2)
        .map(|id| router.send(GetSnapshot(id)))
        .collect();
    until_async("both are read", async || {
        probe.store.reads.load(Ordering::SeqCst) == 2
    })
    .await;
    let requested = router.send(GetSnapshot(id(1)));
    router
        .send(Apply(vec![positioned(1, 1, 0)]))
        .await
        .unwrap()
        .unwrap();
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
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
    for _ in 0..10 {
        assert_eq!(
            router
                .send(GetSnapshot(id(1)))
                .await
                .unwrap()
                .unwrap()
                .markets
                .len(),
            0
        );
    }
    assert_eq!(probe.store.reads.load(Ordering::SeqCst), 1);
    assert_eq!(probe.metrics.books.get(), 0);
    router
        .send(Apply(vec![positioned(1, 1, 0)]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        router
            .send(GetSnapshot(id(1)))
            .await
            .unwrap()
            .unwrap()
            .markets
            .len(),
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
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
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
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
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
async fn nonexistent_events_delay_no_suspension() {
    let (probe, router, _) = mirror();
    probe.store.held.lock().unwrap().push("MATCH_0");
    let made_up = (1..=50).map(|event| broadcast(event, 1, 1));
    let flood = router.send(heard(made_up));
    // No store read completes before this.
    router
        .send(heard([broadcast(60, 1, 1)]))
        .await
        .unwrap()
        .unwrap();
    flood.await.unwrap().unwrap();
    let reads = probe.store.reads.load(Ordering::SeqCst);
    probe.store.held.lock().unwrap().clear();
    assert!(
        reads <= 2,
        "{reads} reads, only of books that load the rest"
    );
}

#[actix_web::test]
async fn hanging_live_read_times_out() {
    let probe = probe_edges();
    probe.store.held.lock().unwrap().push("MATCH_001");
    let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
    router
        .send(Apply(vec![positioned(1, 1, 9)]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(*probe.published.lock().unwrap(), [("1x2".to_owned(), 10)]);
    probe.store.held.lock().unwrap().clear();
}

/// Whether a client that has everything up to 12 is sent only what it misses.
async fn resumes<F: BookFeed>(router: &Addr<BookRouter<F>>) -> bool {
    let snapshot = router.send(GetSnapshot(id(1))).await.unwrap().unwrap();
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
/// client of this event misses.
async fn partial<F: BookFeed>(
    edges: impl FnOnce(Arc<dyn OddsCache>) -> ProbeEdges<F>,
) -> (ProbeEdges<F>, Addr<BookRouter<F>>) {
    let cache = Arc::new(EmbeddedCache::new(Duration::from_secs(60)));
    cache.write(cached(1, "1x2", 5, 21)).await.unwrap();
    let probe = edges(cache);
    probe.store.down.store(true, Ordering::SeqCst);
    probe.store.keep(MarketState {
        update: market_update("MATCH_001", "btts", None, 4, 1),
        seq: 15,
    });
    let router = BookRouter::new(probe.edges.clone(), Duration::from_secs(60)).start();
    assert!(!resumes(&router).await);
    (probe, router)
}

async fn until_complete<F: BookFeed>(probe: &ProbeEdges<F>, router: &Addr<BookRouter<F>>) {
    probe.store.down.store(false, Ordering::SeqCst);
    until_async("the stored market is loaded", async || {
        let snapshot = router.send(GetSnapshot(id(1))).await.unwrap().unwrap();
        snapshot.markets.len() == 2
    })
    .await;
}

#[actix_web::test]
async fn partial_book_is_not_resumed() {
    let (probe, router) = partial(bus_edges).await;
    let apply = async |position| {
        let update = positioned(1, position as i64, position);
        router.send(Apply(vec![update])).await.unwrap().unwrap();
    };
    apply(22).await;
    assert!(!resumes(&router).await);
    until_complete(&probe, &router).await;
    apply(30).await;
    assert!(resumes(&router).await);
}

#[actix_web::test]
async fn partial_mirror_is_not_resumed() {
    let (probe, router) = partial(mirror_edges).await;
    let apply = async |seq| {
        let update = broadcast(1, seq as i64, seq);
        router.send(heard([update])).await.unwrap().unwrap();
    };
    apply(22).await;
    assert!(!resumes(&router).await);
    until_complete(&probe, &router).await;
    apply(30).await;
    assert!(resumes(&router).await);
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
            router.send(heard([update])).await.unwrap().unwrap();
        }
        assert!(resumes(&router).await);
        assert!(probe.store.reads.load(Ordering::SeqCst) <= 1);
    }
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

/// An idle book is kept until its change is broadcast: what the cache holds is older than what
/// clients have seen.
#[actix_web::test]
async fn book_ahead_of_cache_is_kept() {
    let (probe, _, _) = mirror();
    let router = BookRouter::new(probe.edges.clone(), Duration::ZERO).start();
    let record = positioned(1, 5, 9);
    let sent = InOrder::send(&router.clone().recipient(), ApplyUpdates(vec![record]));
    sent.await.unwrap();
    until("the record is published", || {
        !probe.published.lock().unwrap().is_empty()
    })
    .await;
    router.send(DropIdle).await.unwrap();
    assert_eq!(probe.metrics.books.get(), 1);
    router
        .send(heard([broadcast(1, 5, 10)]))
        .await
        .unwrap()
        .unwrap();
    router.send(DropIdle).await.unwrap();
    until("the book is dropped", || probe.metrics.books.get() == 0).await;
    let published = probe.published.lock().unwrap().clone();
    assert_eq!(published, [("1x2".to_owned(), 10)], "once");
}

/// A record that no processor accepts does not keep its book for ever.
#[actix_web::test]
async fn unconfirmed_book_is_dropped_in_the_end() {
    let (probe, _, _) = mirror();
    let router = BookRouter::new(probe.edges.clone(), Duration::ZERO).start();
    let record = positioned(1, 5, 9);
    let sent = InOrder::send(&router.clone().recipient(), ApplyUpdates(vec![record]));
    sent.await.unwrap();
    until("the record is published", || {
        !probe.published.lock().unwrap().is_empty()
    })
    .await;
    until_async("the book is dropped", async || {
        router.send(DropIdle).await.unwrap();
        probe.metrics.books.get() == 0
    })
    .await;
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

/// Books that read the store in the background are reloaded after a gap. The reloads wait for the
/// turns of these reads, which go on while the books wait.
#[actix_web::test]
async fn reloads_do_not_wait_for_each_other() {
    let (probe, router, _) = mirror();
    probe.store.held.lock().unwrap().push("MATCH_0");
    for event in 1..=8 {
        let first = heard([broadcast(event, 1, 1)]);
        router.send(first).await.unwrap().unwrap();
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
