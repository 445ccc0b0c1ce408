use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::actors::testing::{ProbeEdges, mirror_edges};
use crate::cache::{Broadcast, BroadcastStream, CacheError, OddsCache};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::odds::update::testing::{market_update, update};
use crate::domain::timestamp::Timestamp;

/// Stops a book, as a fault would.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct End;

impl<F: BookFeed> Handler<End> for OddsBook<F> {
    type Result = ();

    fn handle(&mut self, _: End, context: &mut Context<Self>) {
        context.stop();
    }
}

/// A cache that the test writes, with a count of its reads.
#[derive(Default)]
struct ProbeCache {
    states: Mutex<Vec<Arc<MarketState>>>,
    reads: AtomicUsize,
    is_away: AtomicBool,
}

impl OddsCache for ProbeCache {
    fn write(&self, states: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>> {
        *self.states.lock().unwrap() = states;
        std::future::ready(Ok(())).boxed()
    }

    fn read_book(
        &self,
        _: &EventId,
    ) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let is_away = self.is_away.load(Ordering::SeqCst);
        let read = Ok(self.states.lock().unwrap().clone());
        std::future::ready(if is_away {
            Err(CacheError::Unavailable("away".to_owned()))
        } else {
            read
        })
        .boxed()
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn listen(&self) -> Option<Box<dyn BroadcastStream>> {
        None
    }
}

struct Fixture {
    book: Addr<OddsBook<MirrorFeed>>,
    cache: Arc<ProbeCache>,
    probe: ProbeEdges<MirrorFeed>,
}

async fn fixture(states: Vec<Arc<MarketState>>) -> Fixture {
    let cache = Arc::new(ProbeCache::default());
    cache.write(states).await.unwrap();
    let probe = mirror_edges(cache.clone());
    let event = update(1, 1, 1).event_id;
    let boundary = ReplayBoundary::NOTHING;
    let loaded = probe.edges.source.load_for_start(&event, boundary).await;
    let book = OddsBook::new(event, probe.edges.clone(), boundary, loaded).start();
    let fixture = Fixture { book, cache, probe };
    fixture.snapshot().await;
    fixture
}

impl Fixture {
    async fn receive(&self, update: OddsUpdate, seq: Option<u64>) {
        let broadcast = Broadcast {
            trace: None,
            update,
            seq,
            conflated: false,
        };
        self.book
            .send(Apply(vec![broadcast.into()]))
            .await
            .unwrap()
            .unwrap();
    }

    async fn snapshot(&self) -> Snapshot {
        self.book
            .send(GetSnapshot(update(1, 1, 1).event_id))
            .await
            .unwrap()
            .unwrap()
    }

    async fn shown(&self) -> OddsUpdate {
        self.snapshot().await.markets[0].update.clone()
    }

    async fn until_shown(&self, wanted: &OddsUpdate) {
        for _ in 0..1_000 {
            if self.shown().await == *wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 10 s: {:?}", self.shown().await);
    }

    fn reads(&self) -> usize {
        self.cache.reads.load(Ordering::SeqCst)
    }
}

fn state(update: OddsUpdate, seq: u64) -> Vec<Arc<MarketState>> {
    vec![Arc::new(MarketState { update, seq })]
}

fn minutes_ahead(minutes: u64) -> OddsUpdate {
    let mut forged = update(1, 50, 9);
    forged.revision.updated_at = Timestamp::now().later_by(Duration::from_secs(60 * minutes));
    forged
}

/// The store may be ahead of the cache: broadcasts older than the stored state are valid but
/// late.
#[actix_web::test]
async fn late_broadcast_does_not_contradict_store() {
    let cache = Arc::new(ProbeCache::default());
    let probe = mirror_edges(cache.clone());
    probe.store.keep(MarketState {
        update: update(1, 3, 3),
        seq: 28,
    });
    let event = update(1, 1, 1).event_id;
    let boundary = ReplayBoundary::NOTHING;
    let loaded = probe.edges.source.reload(&event, boundary).await;
    let book = OddsBook::new(event, probe.edges.clone(), boundary, loaded).start();
    let fixture = Fixture { book, cache, probe };
    fixture
        .cache
        .write(state(update(1, 2, 2), 27))
        .await
        .unwrap();
    fixture.receive(update(1, 2, 2), Some(27)).await;
    assert_eq!(fixture.shown().await, update(1, 3, 3));
}

#[actix_web::test]
async fn forged_future_price_is_corrected() {
    let fixture = fixture(state(update(1, 1, 1), 5)).await;
    fixture.receive(minutes_ahead(4), Some(6)).await;
    assert_eq!(
        fixture.shown().await,
        update(1, 1, 1),
        "at once, with the answer"
    );
    let published = fixture
        .probe
        .published
        .lock()
        .unwrap()
        .iter()
        .map(|(_, seq)| *seq)
        .collect::<Vec<_>>();
    assert_eq!(
        published,
        [5, 6, 7],
        "every client gets the correction, with a higher number"
    );
    // The next valid price is applied, although its time is before the forged one.
    fixture.receive(update(1, 2, 1), Some(6)).await;
    assert_eq!(fixture.shown().await, update(1, 2, 1));
}

#[actix_web::test]
async fn contradicted_price_is_corrected() {
    let fixture = fixture(state(update(1, 1, 1), 5)).await;
    // Forged, in the past, with a sequence number far above the others.
    fixture
        .receive(update(1, 50, 1), Some(1_700_000_000_000))
        .await;
    assert_eq!(
        fixture.shown().await,
        update(1, 50, 1),
        "nothing contradicts it yet"
    );
    let suspended = OddsUpdate {
        status: MarketStatus::Suspended,
        ..update(1, 2, 1)
    };
    fixture
        .cache
        .write(state(suspended.clone(), 6))
        .await
        .unwrap();
    fixture.receive(suspended.clone(), Some(6)).await;
    fixture.until_shown(&suspended).await;
}

#[actix_web::test]
async fn forged_market_is_suspended() {
    let fixture = fixture(state(update(1, 1, 1), 5)).await;
    let mut forged = market_update("MATCH_001", "made_up", None, 1, 1);
    forged.revision = minutes_ahead(3).revision;
    fixture.receive(forged, Some(6)).await;
    let statuses: Vec<_> = fixture
        .snapshot()
        .await
        .markets
        .iter()
        .map(|state| state.update.status)
        .collect();
    assert_eq!(statuses, [MarketStatus::Open, MarketStatus::Suspended]);
}

/// A market that the cache does not hold is suspended under its own revision, and opens again
/// once the cache holds it.
#[actix_web::test]
async fn suspended_market_reopens_with_same_revision() {
    let fixture = fixture(state(update(1, 1, 1), 5)).await;
    let btts = |time| market_update("MATCH_001", "btts", None, time, 1);
    let early = btts(50);
    fixture.receive(early.clone(), Some(6)).await;
    fixture.receive(btts(40), Some(7)).await;
    let status = async || fixture.snapshot().await.markets[1].update.status;
    assert_eq!(status().await, MarketStatus::Suspended);
    let known = [state(update(1, 1, 1), 5), state(early.clone(), 6)].concat();
    fixture.cache.write(known).await.unwrap();
    fixture.receive(early, Some(6)).await;
    for _ in 0..1_000 {
        if status().await == MarketStatus::Open {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s");
}

#[actix_web::test]
async fn forged_flood_causes_few_reads() {
    let fixture = fixture(state(update(1, 1, 1), 5)).await;
    let before = (fixture.reads(), Instant::now());
    for seq in 6..506 {
        fixture.receive(minutes_ahead(4), Some(seq)).await;
    }
    let max_reads = 2 + before.1.elapsed().as_secs() as usize;
    assert!(
        fixture.reads() - before.0 <= max_reads,
        "{} reads",
        fixture.reads() - before.0
    );
    fixture.until_shown(&update(1, 1, 1)).await;
}

#[actix_web::test]
async fn late_broadcasts_raise_no_doubt() {
    let fixture = fixture(state(update(1, 9, 1), 9)).await;
    // A starting book loads once more, for state that only the store holds.
    while fixture.reads() < 2 {
        tokio::task::yield_now().await;
    }
    let before = fixture.reads();
    for (time, seq) in [(7, 7), (8, 8), (9, 9)] {
        fixture.receive(update(1, time, 1), Some(seq)).await;
    }
    // The original program sends no sequence numbers, and late changes as well.
    fixture.receive(update(1, 8, 1), None).await;
    fixture.receive(update(1, 10, 1), Some(10)).await;
    assert_eq!(fixture.reads(), before);
}

#[actix_web::test]
async fn doubts_outlast_cache_outage() {
    let fixture = fixture(state(update(1, 1, 1), 5)).await;
    fixture.cache.is_away.store(true, Ordering::SeqCst);
    let forged = minutes_ahead(4);
    fixture.receive(forged.clone(), Some(6)).await;
    assert_eq!(fixture.shown().await, forged);
    fixture.cache.is_away.store(false, Ordering::SeqCst);
    fixture.until_shown(&update(1, 1, 1)).await;
}
