use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;
use crate::actors::odds::consumers::testing::{ProbeStateStore, future_update, record, settings};
use crate::bus::Topic;
use crate::bus::embedded::EmbeddedTopic;
use crate::bus::health::SubscriptionHealth;
use crate::domain::odds::update::testing::*;
use crate::domain::timestamp::Timestamp;
use crate::runtime::drain::Drain;

/// Books and a cache: everything is applied, and the cache confirms only when the test lets it.
struct ProbeBooks {
    cache_is_away: watch::Receiver<bool>,
}

impl Actor for ProbeBooks {
    type Context = Context<Self>;
}

impl Handler<InOrder<ApplyUpdates>> for ProbeBooks {
    type Result = ();

    fn handle(&mut self, apply: InOrder<ApplyUpdates>, _: &mut Context<Self>) {
        let _ = apply.done.send(Ok(()));
    }
}

impl Handler<PartitionsRevoked> for ProbeBooks {
    type Result = MessageResult<PartitionsRevoked>;

    fn handle(&mut self, _: PartitionsRevoked, _: &mut Context<Self>) -> Self::Result {
        MessageResult(Vec::new())
    }
}

impl Handler<FlushCache> for ProbeBooks {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FlushCache, _: &mut Context<Self>) -> Self::Result {
        let mut away = self.cache_is_away.clone();
        Box::pin(async move { drop(away.wait_for(|away| !away).await) })
    }
}

/// The live path reads on without the cache, and commits only what the cache has confirmed.
#[actix_web::test]
async fn live_path_commits_what_cache_confirms() {
    let topic = EmbeddedTopic::new("t", 1, 100);
    let (cache_is_away, away) = watch::channel(true);
    let books = ProbeBooks {
        cache_is_away: away,
    }
    .start();
    let metrics = ProcessorMetrics::new().unwrap();
    let refused = metrics.refused.clone();
    let edges = LiveEdges {
        books: books.clone().recipient(),
        revoked: books.clone().recipient(),
        cache: books.recipient(),
        store: ProbeStateStore::failing(0).0,
    };
    let subscription = topic.subscribe("g").unwrap();
    let consumer = LiveConsumer::new(settings(Duration::ZERO), subscription, edges, metrics)
        .into_task()
        .start();
    topic
        .publish(vec![record(future_update(9).to_json())])
        .await
        .unwrap();
    for version in 1..=3 {
        topic
            .publish(vec![record(update(1, 1, version).to_json())])
            .await
            .unwrap();
        tokio::time::timeout(Duration::from_secs(10), async {
            while topic.unread("g") > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    }
    assert_eq!(topic.depth(), 4, "all records are read, none is committed");
    assert_eq!(
        refused.with_label_values(&["live", "future"]).get(),
        1,
        "skipped"
    );
    cache_is_away.send_replace(false);
    consumer.send(Drain).await.unwrap();
    assert_eq!(topic.depth(), 0);
}

/// Books, some of which do not reply until the test lets them.
struct StuckBooks {
    stuck: watch::Receiver<bool>,
    applied: Arc<Mutex<Vec<i64>>>,
}

impl Actor for StuckBooks {
    type Context = Context<Self>;
}

impl Handler<InOrder<ApplyUpdates>> for StuckBooks {
    type Result = ();

    fn handle(&mut self, apply: InOrder<ApplyUpdates>, _: &mut Context<Self>) {
        let mut stuck = self.stuck.clone();
        let applied = self.applied.clone();
        let versions: Vec<_> = apply
            .message
            .0
            .iter()
            .map(|one| one.update.revision.version)
            .collect();
        actix::spawn(async move {
            if versions.contains(&1) {
                drop(stuck.wait_for(|stuck| !stuck).await);
            }
            applied.lock().extend(versions);
            let _ = apply.done.send(Ok(()));
        });
    }
}

impl Handler<PartitionsRevoked> for StuckBooks {
    type Result = MessageResult<PartitionsRevoked>;

    fn handle(&mut self, _: PartitionsRevoked, _: &mut Context<Self>) -> Self::Result {
        MessageResult(Vec::new())
    }
}

impl Handler<FlushCache> for StuckBooks {
    type Result = ();

    fn handle(&mut self, _: FlushCache, _: &mut Context<Self>) {}
}

/// Later batches are applied, nothing is committed, and the age of the waiting records is
/// known.
#[actix_web::test]
async fn stuck_batch_blocks_only_the_position() {
    let topic = EmbeddedTopic::new("t", 1, 1_000);
    let (release, stuck) = watch::channel(true);
    let applied = Arc::new(Mutex::new(Vec::new()));
    let books = StuckBooks {
        stuck,
        applied: applied.clone(),
    }
    .start();
    let edges = LiveEdges {
        books: books.clone().recipient(),
        revoked: books.clone().recipient(),
        cache: books.recipient(),
        store: ProbeStateStore::failing(0).0,
    };
    let subscription = topic.subscribe("g").unwrap();
    let metrics = ProcessorMetrics::new().unwrap();
    let consumer = LiveConsumer::new(settings(Duration::ZERO), subscription, edges, metrics);
    let backlog = consumer.backlog();
    let consumer = consumer.into_task().start();
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        for _ in 0..1_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 10 s: {what}");
    };
    for version in 1..=3 {
        topic
            .publish(vec![record(update(1, 1, version).to_json())])
            .await
            .unwrap();
        until("the record is read", &|| topic.unread("g") == 0).await;
    }
    until("the other batches are applied", &|| {
        *applied.lock() == [2, 3]
    })
    .await;
    until("the age of the backlog is known", &|| {
        backlog.age() > Duration::from_millis(20)
    })
    .await;
    assert_eq!(topic.depth(), 3, "none is committed");
    // More records than may be in flight wait on the bus.
    for version in 4..=400 {
        topic
            .publish(vec![record(update(1, 1, version).to_json())])
            .await
            .unwrap();
    }
    until("the bound is reached", &|| applied.lock().len() >= 159).await;
    assert!(topic.unread("g") > 200, "{} are left", topic.unread("g"));
    release.send_replace(false);
    consumer.send(Drain).await.unwrap();
    assert_eq!((topic.depth(), backlog.age()), (0, Duration::ZERO));
}

/// Delivers the first batch at once and the others when allowed. All records are an hour old.
struct OldRecords {
    topic: Box<dyn Subscription>,
    may_deliver: watch::Receiver<bool>,
    is_first: bool,
}

impl Subscription for OldRecords {
    fn next_batch(
        &mut self,
        max: usize,
        linger: Duration,
    ) -> BoxFuture<'_, Result<ConsumerEvent, BusError>> {
        Box::pin(async move {
            if !self.is_first {
                drop(self.may_deliver.wait_for(|may| *may).await);
            }
            let mut event = self.topic.next_batch(max, linger).await?;
            self.is_first = false;
            if let ConsumerEvent::Records(records) = &mut event {
                let hour_ago = Timestamp::now().earlier_by(Duration::from_secs(3_600));
                records
                    .iter_mut()
                    .for_each(|record| record.published_at = Some(hour_ago));
            }
            Ok(event)
        })
    }

    fn commit(&mut self, done: &Position) {
        self.topic.commit(done);
    }

    fn lag(&self) -> u64 {
        self.topic.lag()
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn health(&self) -> SubscriptionHealth {
        self.topic.health()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.topic.close()
    }
}

/// A process that starts with a backlog lags by the age of its records, until the last one is
/// applied. The age of that last record no longer matters then.
#[actix_web::test]
async fn old_backlog_lags_until_applied() {
    let topic = EmbeddedTopic::new("t", 1, 1_000);
    let subscription = topic.subscribe("g").unwrap();
    for version in [2, 3, 1] {
        topic
            .publish(vec![record(update(1, 1, version).to_json())])
            .await
            .unwrap();
    }
    let ((release, stuck), (deliver, may_deliver)) = (watch::channel(true), watch::channel(false));
    let applied = Arc::new(Mutex::new(Vec::new()));
    let books = StuckBooks {
        stuck,
        applied: applied.clone(),
    }
    .start();
    let edges = LiveEdges {
        books: books.clone().recipient(),
        revoked: books.clone().recipient(),
        cache: books.recipient(),
        store: ProbeStateStore::failing(0).0,
    };
    let subscription = Box::new(OldRecords {
        topic: subscription,
        may_deliver,
        is_first: true,
    });
    let settings = ConsumerSettings {
        batch_size: 1,
        ..settings(Duration::ZERO)
    };
    let consumer = LiveConsumer::new(
        settings,
        subscription,
        edges,
        ProcessorMetrics::new().unwrap(),
    );
    let backlog = consumer.backlog();
    let life = consumer.life();
    let _consumer = consumer.into_task().start();
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        for _ in 0..1_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 10 s: {what}");
    };
    let is_behind = || backlog.age() >= Duration::from_secs(3_000);
    until("the first record is applied and committed", &|| {
        topic.depth() == 2
    })
    .await;
    until("the consumer is idle", &|| {
        life.age() > Duration::from_millis(50)
    })
    .await;
    assert!(
        is_behind(),
        "nothing is in flight, and the rest waits on the bus"
    );
    deliver.send_replace(true);
    until("the last record is in flight", &|| {
        topic.unread("g") == 0 && *applied.lock() == [2, 3]
    })
    .await;
    assert!(is_behind());
    release.send_replace(false);
    until("the consumer has caught up", &|| backlog.age().is_zero()).await;
    assert_eq!(*applied.lock(), [2, 3, 1]);
}

/// Delivers one revocation, and nothing after it.
struct Revocation {
    are_records_lost: bool,
    is_delivered: watch::Sender<bool>,
    health: SubscriptionHealth,
}

impl Subscription for Revocation {
    fn next_batch(
        &mut self,
        _: usize,
        _: Duration,
    ) -> BoxFuture<'_, Result<ConsumerEvent, BusError>> {
        let is_first = !self.is_delivered.send_replace(true);
        if !is_first {
            return Box::pin(std::future::pending());
        }
        Box::pin(std::future::ready(Ok(ConsumerEvent::Revoked {
            partitions: vec![0],
            are_records_lost: self.are_records_lost,
        })))
    }

    fn commit(&mut self, _: &Position) {}

    fn lag(&self) -> u64 {
        0
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn health(&self) -> SubscriptionHealth {
        self.health.clone()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A router whose dropped books held one market, with the number 7.
struct DroppedBooks;

impl Actor for DroppedBooks {
    type Context = Context<Self>;
}

impl Handler<PartitionsRevoked> for DroppedBooks {
    type Result = MessageResult<PartitionsRevoked>;

    fn handle(&mut self, _: PartitionsRevoked, _: &mut Context<Self>) -> Self::Result {
        let update = update(1, 1, 1);
        MessageResult(vec![Arc::new(MarketState { update, seq: 7 })])
    }
}

/// Only what no other process can read again is stored.
#[actix_web::test]
async fn last_states_of_lost_records_are_stored() {
    for are_records_lost in [true, false] {
        let (_cache_is_away, away) = watch::channel(false);
        let books = ProbeBooks {
            cache_is_away: away,
        }
        .start();
        let (store, stored) = ProbeStateStore::failing(0);
        let edges = LiveEdges {
            books: books.clone().recipient(),
            revoked: DroppedBooks.start().recipient(),
            cache: books.recipient(),
            store,
        };
        let subscription = Box::new(Revocation {
            are_records_lost,
            is_delivered: watch::Sender::new(false),
            health: SubscriptionHealth::joining("g"),
        });
        let metrics = ProcessorMetrics::new().unwrap();
        let mut delivered = subscription.is_delivered.subscribe();
        let consumer = LiveConsumer::new(settings(Duration::ZERO), subscription, edges, metrics)
            .into_task()
            .start();
        drop(delivered.wait_for(|delivered| *delivered).await);
        consumer.send(Drain).await.unwrap();
        let stored: Vec<u64> = stored.lock().iter().flatten().map(|it| it.seq).collect();
        let expected: &[u64] = if are_records_lost { &[7] } else { &[] };
        assert_eq!(stored, expected);
    }
}
