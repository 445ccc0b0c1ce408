//! Publishes a heartbeat once a second while this process keeps up with the bus: its live consumer
//! works, its group lets it read, and the bus answers. Processes that show prices treat them as
//! stale when no heartbeat arrives.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{Level, info, log};
use tokio::time::timeout;

use super::applying::Backlog;
use super::cache_writer::CacheHealth;
use crate::actors::streaming::messages::FeedChanged;
use crate::bus::Topic;
use crate::bus::health::SubscriptionHealth;
use crate::cache::OddsCache;
use crate::domain::streaming::protocol::FeedStatus;
use crate::runtime::feed_health::FeedState;
use crate::runtime::liveness::LivenessProbe;
use crate::telemetry::log_limit::FaultLog;

/// Interval between heartbeats.
const INTERVAL: Duration = Duration::from_secs(1);
/// Delay before a failed heartbeat is retried.
const RETRY: Duration = Duration::from_millis(250);
/// Timeout for replies of the bus and the cache.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// A consumer does not keep up if it has not polled the bus, or not applied a record, for this
/// long.
const CONSUMER_LIMIT: Duration = Duration::from_secs(2);

/// Where heartbeats go.
#[derive(Clone)]
pub enum HeartbeatTarget {
    /// The subscribed processes, through the cache, while it accepts writes.
    Broadcast(Arc<dyn OddsCache>, Arc<CacheHealth>),
    /// The clients of this process, if the cache has no broadcasts.
    Local {
        /// The state of the feed.
        state: Arc<FeedState>,
        /// The registry.
        feed: Recipient<FeedChanged>,
    },
}

/// Publishes the heartbeats.
pub struct Heartbeat {
    bus: Arc<dyn Topic>,
    consumer: Arc<LivenessProbe>,
    backlog: Arc<Backlog>,
    group: SubscriptionHealth,
    told: HeartbeatTarget,
    /// The component that failed the last time.
    in_the_way: Option<&'static str>,
    /// Whether a heartbeat has succeeded before.
    has_followed: bool,
    log: FaultLog,
}

/// The liveness of a consumer and the age of its backlog.
pub type ConsumerSigns = (Arc<LivenessProbe>, Arc<Backlog>);

/// The component that failed, and the reason.
type Problem = (&'static str, String);

impl Heartbeat {
    /// Sends heartbeats to `told` while `bus` answers, `consumer` is alive, its `group` is healthy
    /// and its `backlog` is not old.
    pub fn new(
        bus: Arc<dyn Topic>,
        (consumer, backlog): ConsumerSigns,
        group: SubscriptionHealth,
        told: HeartbeatTarget,
    ) -> Heartbeat {
        Heartbeat {
            bus,
            consumer,
            backlog,
            group,
            told,
            in_the_way: None,
            has_followed: false,
            log: FaultLog::new(),
        }
    }

    fn beat(&mut self, context: &mut Context<Self>) {
        let (bus, told) = (self.bus.clone(), self.told.clone());
        let (consumer, backlog, group) = (
            self.consumer.clone(),
            self.backlog.clone(),
            self.group.clone(),
        );
        let beating = async move {
            let follows = follows(&*bus, &consumer, &backlog, &group).await;
            told.publish(follows).await
        };
        context.spawn(
            beating
                .into_actor(self)
                .map(|published, heartbeat, context| {
                    let pause = if published.is_ok() { INTERVAL } else { RETRY };
                    heartbeat.report(published.err());
                    context.run_later(pause, Self::beat);
                }),
        );
    }

    /// Logs each failed component once, however long the failure lasts.
    fn report(&mut self, problem: Option<Problem>) {
        self.has_followed |= problem.is_none();
        let in_the_way = problem.as_ref().map(|(what, _)| *what);
        if in_the_way == self.in_the_way {
            return;
        }
        self.in_the_way = in_the_way;
        match problem {
            Some((what, why)) => {
                if let Some(repeated) = self.log.failed(what) {
                    // Joining a group takes seconds at every start, so it is not worth a warning.
                    let level = if self.has_followed {
                        Level::Warn
                    } else {
                        Level::Info
                    };
                    log!(level, repeated; "waiting for the {what}, prices may be stale until then: {why}");
                }
            }
            None if self.log.recovered() => info!("the live consumer keeps up with the bus"),
            None => {}
        }
    }
}

impl Actor for Heartbeat {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.beat(context);
    }
}

/// Checks that the bus answers, the group lets the consumer read, and the consumer keeps up.
async fn follows(
    bus: &dyn Topic,
    consumer: &LivenessProbe,
    backlog: &Backlog,
    group: &SubscriptionHealth,
) -> Result<(), Problem> {
    answer("bus", bus.ping()).await?;
    if let Some(problem) = group.problem() {
        return Err(("live group", problem));
    }
    let lag = consumer.age().max(backlog.age());
    if lag < CONSUMER_LIMIT {
        Ok(())
    } else {
        Err(("live consumer", format!("it lags by {} s", lag.as_secs())))
    }
}

async fn answer<E: std::fmt::Display>(
    what: &'static str,
    answer: impl Future<Output = Result<(), E>>,
) -> Result<(), Problem> {
    match timeout(ANSWER_LIMIT, answer).await {
        Ok(answer) => answer.map_err(|error| (what, error.to_string())),
        Err(_) => Err((
            what,
            format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
        )),
    }
}

impl HeartbeatTarget {
    async fn publish(&self, follows: Result<(), Problem>) -> Result<(), Problem> {
        match self {
            HeartbeatTarget::Broadcast(cache, health) => {
                follows?;
                if let Some(problem) = health.problem() {
                    return Err(("cache", problem));
                }
                answer("cache", cache.publish_heartbeat()).await
            }
            HeartbeatTarget::Local { state, feed } => {
                let status = match &follows {
                    Ok(()) => {
                        state.set_live();
                        FeedStatus::Live
                    }
                    Err((what, why)) => {
                        state.set_lost(&format!("the {what}: {why}"));
                        FeedStatus::Stale
                    }
                };
                // Without the registry nobody can be notified; the platform monitors its actors and
                // stops the process.
                let _ = feed.send(FeedChanged(status)).await;
                follows
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::bus::{BusError, NewRecord, Subscription};
    use crate::cache::{BroadcastStream, CacheError};
    use crate::domain::ids::EventId;
    use crate::domain::odds::book::MarketState;
    use crate::telemetry::metrics::OddsMetrics;

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

    /// Counts the heartbeats.
    #[derive(Default)]
    struct ProbeCache(AtomicUsize);

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

        fn publish_heartbeat(&self) -> BoxFuture<'static, Result<(), CacheError>> {
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

    async fn until(what: &str, holds: impl Fn() -> bool) {
        for _ in 0..1_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 10 s: {what}");
    }

    #[actix_web::test]
    async fn heartbeat_needs_bus_group_and_consumer() {
        let (bus, cache) = (
            Arc::new(ProbeBus::default()),
            Arc::new(ProbeCache::default()),
        );
        let life = Arc::new(LivenessProbe::new());
        let beats = || cache.0.load(Ordering::SeqCst);
        let pings = || bus.pings.load(Ordering::SeqCst);
        bus.is_away.store(true, Ordering::SeqCst);
        let group = SubscriptionHealth::joining("g");
        let told = HeartbeatTarget::Broadcast(cache.clone(), Arc::default());
        Heartbeat::new(
            bus.clone(),
            (life.clone(), Arc::default()),
            group.clone(),
            told,
        )
        .start();
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
        let (beats_before, pings_before) = (beats(), pings());
        until("the bus is pinged", || pings() >= pings_before + 2).await;
        assert!(beats() <= beats_before + 1, "one may have been in flight");
        life.touch();
        until("heartbeats resume", || beats() > beats_before + 1).await;
    }

    /// Without broadcasts in the cache, the clients of this process are notified.
    #[actix_web::test]
    async fn local_heartbeat_notifies_own_clients() {
        let (bus, told) = (Arc::new(ProbeBus::default()), Arc::default());
        let registry = ProbeRegistry(Arc::clone(&told)).start();
        let state = Arc::new(FeedState::not_heard_yet(
            OddsMetrics::new().unwrap().feed_live,
        ));
        let here = HeartbeatTarget::Local {
            state: state.clone(),
            feed: registry.recipient(),
        };
        let life = Arc::new(LivenessProbe::new());
        Heartbeat::new(
            bus.clone(),
            (life.clone(), Arc::default()),
            SubscriptionHealth::joined("g"),
            here,
        )
        .start();
        let last = || told.lock().unwrap().last().copied();
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
}
