mod client_reads;
mod ends;
mod mirrors;
mod reloads;
mod resume;
mod start;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;

use super::*;
use crate::actors::odds::messages::ReloadBooks;
use crate::actors::testing::{ProbeEdges, bus_edges, mirror_edges, probe_edges};
use crate::cache::embedded::EmbeddedCache;
use crate::cache::{Broadcast, BroadcastStream, CacheError, OddsCache};
use crate::domain::odds::book::{MarketState, Snapshot};
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::odds::update::testing::*;
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
        trace: None,
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
    let router = started(&probe);
    let batch = vec![
        positioned(1, 1, 0),
        positioned(2, 1, 1),
        positioned(1, 2, 2),
        positioned(1, 1, 3),
    ];
    apply(&router, Apply(batch)).await;
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
    let snapshot = snapshot_of(&router, 1).await;
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

fn mirror() -> (
    ProbeEdges<MirrorFeed>,
    Addr<BookRouter<MirrorFeed>>,
    Arc<EmbeddedCache>,
) {
    let cache = Arc::new(EmbeddedCache::new(Duration::from_secs(60)));
    let probe = mirror_edges(cache.clone());
    let router = started(&probe);
    (probe, router, cache)
}

/// A router whose books are not dropped.
fn started<F: BookFeed>(probe: &ProbeEdges<F>) -> Addr<BookRouter<F>> {
    BookRouter::new(probe.edges.clone(), Duration::from_secs(60)).start()
}

/// The snapshot of an event.
async fn snapshot_of<F: BookFeed>(router: &Addr<BookRouter<F>>, event: u32) -> Snapshot {
    router.send(GetSnapshot(id(event))).await.unwrap().unwrap()
}

/// Waits until a batch is applied and published.
async fn apply<F: BookFeed>(router: &Addr<BookRouter<F>>, batch: Apply<F::Item>) {
    router.send(batch).await.unwrap().unwrap();
}

fn broadcast(event: u32, time: i64, seq: u64) -> Broadcast {
    Broadcast {
        trace: None,
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
