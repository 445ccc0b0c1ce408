use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::bus::{BusError, NewRecord, Subscription};
use crate::cache::{BroadcastStream, CacheError};
use crate::domain::ids::EventId;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::source_status::SourceState;
use crate::telemetry::metrics::OddsMetrics;
use crate::testing::until;

#[derive(Default)]
struct ProbeBus {
    is_away: AtomicBool,
    pings: AtomicUsize,
}

impl Topic for ProbeBus {
    fn name(&self) -> &str {
        "probe"
    }

    fn publish(&self, _: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn subscribe(&self, _: &str) -> Result<Box<dyn Subscription>, BusError> {
        Err(BusError::Closed)
    }

    fn depth(&self) -> usize {
        0
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), BusError>> {
        self.pings.fetch_add(1, Ordering::SeqCst);
        let is_away = self.is_away.load(Ordering::SeqCst);
        let answer = if is_away {
            Err(BusError::Unavailable("away".to_owned()))
        } else {
            Ok(())
        };
        std::future::ready(answer).boxed()
    }
}

/// Counts the heartbeats and keeps the sources of the last one.
#[derive(Default)]
struct ProbeCache(AtomicUsize, Mutex<Option<BTreeMap<Source, SourceStatus>>>);

impl OddsCache for ProbeCache {
    fn write(&self, _: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn read_book(
        &self,
        _: &EventId,
    ) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>> {
        std::future::ready(Ok(Vec::new())).boxed()
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn publish_heartbeat(
        &self,
        sources: &BTreeMap<Source, SourceStatus>,
    ) -> BoxFuture<'static, Result<(), CacheError>> {
        *self.1.lock().unwrap() = Some(sources.clone());
        self.0.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(())).boxed()
    }

    fn listen(&self) -> Option<Box<dyn BroadcastStream>> {
        None
    }
}

struct ProbeRegistry(Arc<Mutex<Vec<FeedStatus>>>);

impl Actor for ProbeRegistry {
    type Context = Context<Self>;
}

impl Handler<FeedChanged> for ProbeRegistry {
    type Result = ();

    fn handle(&mut self, changed: FeedChanged, _: &mut Context<Self>) {
        self.0.lock().unwrap().push(changed.0);
    }
}

async fn no_source_is_lost(heartbeat: &Addr<Heartbeat>) {
    let none = SourcesReported(BTreeMap::new());
    heartbeat.send(none).await.unwrap();
}

/// Until the states are known, the markets of a lost source could be shown as live.
#[actix_web::test]
async fn heartbeat_needs_states_of_sources() {
    let bus = Arc::new(ProbeBus::default());
    let cache = Arc::new(ProbeCache::default());
    let life = Arc::new(LivenessProbe::new());
    let target = HeartbeatTarget::Broadcast(cache.clone(), Arc::default());
    let group = SubscriptionHealth::joined("g");
    let signs = (life.clone(), Arc::default());
    let heartbeat = Heartbeat::new(bus.clone(), signs, group, target).start();
    let waiting = Instant::now();
    until("several attempts", || waiting.elapsed() > 3 * RETRY).await;
    let beats = || cache.0.load(Ordering::SeqCst);
    assert_eq!(beats(), 0, "nothing is known about the sources");
    no_source_is_lost(&heartbeat).await;
    until("a heartbeat is published", || {
        life.touch();
        beats() > 0
    })
    .await;
}

#[actix_web::test]
async fn heartbeat_needs_bus_group_and_consumer() {
    let bus = Arc::new(ProbeBus::default());
    let cache = Arc::new(ProbeCache::default());
    let life = Arc::new(LivenessProbe::new());
    let beats = || cache.0.load(Ordering::SeqCst);
    let pings = || bus.pings.load(Ordering::SeqCst);
    bus.is_away.store(true, Ordering::SeqCst);
    let group = SubscriptionHealth::joining("g");
    let target = HeartbeatTarget::Broadcast(cache.clone(), Arc::default());
    let heartbeat = Heartbeat::new(
        bus.clone(),
        (life.clone(), Arc::default()),
        group.clone(),
        target,
    )
    .start();
    no_source_is_lost(&heartbeat).await;
    until("the bus is pinged", || pings() >= 3).await;
    assert_eq!(beats(), 0, "the bus is away");
    bus.is_away.store(false, Ordering::SeqCst);
    let pings_before = pings();
    until("the bus is pinged", || pings() >= pings_before + 3).await;
    assert_eq!(beats(), 0, "the group is not joined");
    group.join();
    life.touch();
    until("a heartbeat is published", || beats() > 0).await;
    until("the consumer counts as stuck", || {
        life.age() >= CONSUMER_LIMIT
    })
    .await;
    let beats_before = beats();
    let pings_before = pings();
    until("the bus is pinged", || pings() >= pings_before + 2).await;
    assert!(beats() <= beats_before + 1, "one may have been in flight");
    life.touch();
    until("heartbeats resume", || beats() > beats_before + 1).await;
}

/// What the selector holds up does not reach the live consumer.
#[actix_web::test]
async fn heartbeat_needs_selector() {
    let bus = Arc::new(ProbeBus::default());
    let cache = Arc::new(ProbeCache::default());
    let life = Arc::new(LivenessProbe::new());
    let selector = SubscriptionHealth::joining("s");
    let target = HeartbeatTarget::Broadcast(cache.clone(), Arc::default());
    let group = SubscriptionHealth::joined("g");
    let signs = || (life.clone(), Arc::default());
    let heartbeat = Heartbeat::new(bus.clone(), signs(), group, target);
    let heartbeat = heartbeat.with_selector(signs(), selector.clone()).start();
    no_source_is_lost(&heartbeat).await;
    until("the bus is pinged", || {
        life.touch();
        bus.pings.load(Ordering::SeqCst) >= 3
    })
    .await;
    let beats = || cache.0.load(Ordering::SeqCst);
    assert_eq!(beats(), 0, "the selector has not joined");
    selector.join();
    until("a heartbeat is published", || {
        life.touch();
        beats() > 0
    })
    .await;
}

/// Without broadcasts in the cache, the clients of this process are notified.
#[actix_web::test]
async fn local_heartbeat_notifies_own_clients() {
    let bus = Arc::new(ProbeBus::default());
    let recorded = Arc::default();
    let registry = ProbeRegistry(Arc::clone(&recorded)).start();
    let state = Arc::new(FeedState::awaiting_broadcasts(
        OddsMetrics::new().unwrap().feed_live,
    ));
    let here = HeartbeatTarget::Local {
        state: state.clone(),
        feed: registry.recipient(),
    };
    let life = Arc::new(LivenessProbe::new());
    let heartbeat = Heartbeat::new(
        bus.clone(),
        (life.clone(), Arc::default()),
        SubscriptionHealth::joined("g"),
        here,
    )
    .start();
    no_source_is_lost(&heartbeat).await;
    let last = || recorded.lock().unwrap().last().copied();
    let feed_is = |status| {
        life.touch();
        last() == Some(status)
    };
    until("live", || feed_is(FeedStatus::Live)).await;
    assert!(state.is_live());
    bus.is_away.store(true, Ordering::SeqCst);
    until("stale", || feed_is(FeedStatus::Stale)).await;
    assert_eq!(
        state.problem().unwrap(),
        "the bus: the bus is unavailable: away"
    );
    bus.is_away.store(false, Ordering::SeqCst);
    until("live again", || feed_is(FeedStatus::Live)).await;
}

/// A heartbeat says what is known about the sources. A change of state does not wait for the next
/// one that is due.
#[actix_web::test]
async fn changed_source_is_published_at_once() {
    let cache = Arc::new(ProbeCache::default());
    let life = Arc::new(LivenessProbe::new());
    let target = HeartbeatTarget::Broadcast(cache.clone(), Arc::default());
    let group = SubscriptionHealth::joined("g");
    let signs = (life.clone(), Arc::default());
    let heartbeat = Heartbeat::new(Arc::new(ProbeBus::default()), signs, group, target).start();
    let published = || {
        life.touch();
        cache.1.lock().unwrap().clone()
    };
    // Far more changes than seconds: each is published without a wait for the interval.
    for number in 0..30 {
        let state = if number % 2 == 0 {
            SourceState::Live
        } else {
            SourceState::Stale
        };
        let status = SourceStatus { state, at: None };
        let sources: BTreeMap<_, _> = [(Source::new("a").unwrap(), status)].into();
        let beats = cache.0.load(Ordering::SeqCst);
        heartbeat
            .send(SourcesReported(sources.clone()))
            .await
            .unwrap();
        until("the change is published", || {
            published().as_ref() == Some(&sources)
        })
        .await;
        assert!(cache.0.load(Ordering::SeqCst) > beats);
    }
}
