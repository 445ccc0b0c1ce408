use std::sync::Mutex;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::*;
use crate::bus::NewRecord;
use crate::bus::embedded::EmbeddedTopic;
use crate::bus::health::SubscriptionHealth;
use crate::domain::odds::update::testing::*;
use crate::store::StoreError;

/// A store that fails a given number of times, then keeps its batches.
struct Probe {
    failures: usize,
    kept: Arc<Mutex<Vec<StoreBatch>>>,
}

impl Actor for Probe {
    type Context = Context<Self>;
}

impl Handler<StoreBatch> for Probe {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, batch: StoreBatch, _: &mut Context<Self>) -> Self::Result {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(StoreError::Unavailable("down".to_owned()));
        }
        self.kept.lock().unwrap().push(batch);
        Ok(())
    }
}

fn settings(linger: Duration) -> ConsumerSettings {
    let limits = Plausibility::within(Duration::from_secs(300));
    ConsumerSettings {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        batch_size: 10,
        linger,
        limits,
    }
}

fn record(payload: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        key: Bytes::from_static(b"k"),
        payload: payload.into(),
        headers: Vec::new(),
    }
}

#[actix_web::test]
async fn failed_batch_is_retried_before_commit() {
    tokio::time::pause();
    let topic = EmbeddedTopic::new("t", 1, 100);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let store = Probe {
        failures: 4,
        kept: kept.clone(),
    }
    .start();
    let dead = EmbeddedTopic::new("dead", 1, 100);
    let mut dead_group = dead.subscribe("g").unwrap();
    let metrics = ProcessorMetrics::new().unwrap();
    let work = Work::Store {
        store: store.recipient(),
        dead_letters: Arc::new(dead),
    };
    let subscription = topic.subscribe("g").unwrap();
    let consumer = BusConsumer::new(
        settings(Duration::ZERO),
        subscription,
        work,
        metrics.clone(),
    )
    .start();
    let garbage = record(&b"{garbage"[..]);
    topic
        .publish(vec![
            record(update(1, 1, 1).to_json()),
            garbage,
            record(update(1, 2, 2).to_json()),
        ])
        .await
        .unwrap();
    consumer.send(Drain).await.unwrap();
    assert_eq!(topic.depth(), 0);
    let kept = std::mem::take(&mut *kept.lock().unwrap());
    let updates: Vec<_> = kept
        .iter()
        .flat_map(|batch| &batch.updates)
        .map(|one| (one.position, one.update.revision.version))
        .collect();
    assert_eq!(updates, [(0, 1), (2, 2)]);
    let ConsumerEvent::Records(dead) = dead_group.next_batch(9, Duration::ZERO).await.unwrap()
    else {
        panic!("revoked")
    };
    assert_eq!(dead.len(), 1, "once, regardless of retries");
    let letter = dead_letter::read(&dead[0]);
    assert_eq!(
        (&letter.raw[..], &letter.reason[..], &letter.origin[..]),
        (&b"{garbage"[..], "malformed", "t/0/1")
    );
    assert_eq!(
        (&dead[0].record.key[..], dead[0].header("source_offset")),
        (&b"k"[..], Some("1"))
    );
    assert_eq!(metrics.errors.with_label_values(&["store"]).get(), 4);
    assert_eq!(
        (
            metrics.errors.with_label_values(&["decode"]).get(),
            metrics.consumed.get()
        ),
        (1, 3)
    );
}

fn ahead(version: i64) -> crate::domain::odds::update::OddsUpdate {
    let mut update = update(1, 1, version);
    update.revision.updated_at = "2099-01-01T00:00:00Z".parse().unwrap();
    update
}

#[actix_web::test]
async fn future_record_becomes_dead_letter() {
    let topic = EmbeddedTopic::new("t", 1, 100);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let store = Probe {
        failures: 2,
        kept: kept.clone(),
    }
    .start();
    let dead = EmbeddedTopic::new("dead", 1, 100);
    let mut dead_group = dead.subscribe("g").unwrap();
    let metrics = ProcessorMetrics::new().unwrap();
    let work = Work::Store {
        store: store.recipient(),
        dead_letters: Arc::new(dead),
    };
    let subscription = topic.subscribe("g").unwrap();
    let consumer = BusConsumer::new(
        settings(Duration::ZERO),
        subscription,
        work,
        metrics.clone(),
    )
    .start();
    let settlement = ahead(1)
        .to_json()
        .replacen('{', r#"{"type":"settlement","#, 1);
    let payloads = [ahead(1).to_json(), update(1, 2, 2).to_json(), settlement];
    topic.publish(payloads.map(record).into()).await.unwrap();
    consumer.send(Drain).await.unwrap();
    let kept = std::mem::take(&mut *kept.lock().unwrap());
    let positions: Vec<_> = kept
        .iter()
        .flat_map(|batch| &batch.updates)
        .map(|one| one.position)
        .collect();
    assert_eq!(positions, [1]);
    let ConsumerEvent::Records(dead) = dead_group.next_batch(9, Duration::ZERO).await.unwrap()
    else {
        panic!("revoked")
    };
    let reasons: Vec<_> = dead
        .iter()
        .map(|one| dead_letter::read(one).reason)
        .collect();
    assert_eq!(reasons, ["future", "unknown_type"]);
    for reason in reasons {
        let count = metrics.refused.with_label_values(&["store", &reason]).get();
        assert_eq!(count, 1, "{reason}: once, regardless of retries");
    }
}

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
    type Result = ();

    fn handle(&mut self, _: PartitionsRevoked, _: &mut Context<Self>) {}
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
    let work = Work::Books {
        books: books.clone().recipient(),
        revoked: books.clone().recipient(),
        cache: books.recipient(),
    };
    let subscription = topic.subscribe("g").unwrap();
    let consumer = BusConsumer::new(settings(Duration::ZERO), subscription, work, metrics).start();
    topic
        .publish(vec![record(ahead(9).to_json())])
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

#[actix_web::test]
async fn linger_may_exceed_idle_poll() {
    tokio::time::pause();
    let topic = EmbeddedTopic::new("t", 1, 100);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let store = Probe {
        failures: 0,
        kept: kept.clone(),
    }
    .start();
    let metrics = ProcessorMetrics::new().unwrap();
    let dead_letters = Arc::new(EmbeddedTopic::new("dead", 1, 100));
    let work = Work::Store {
        store: store.recipient(),
        dead_letters,
    };
    let subscription = topic.subscribe("g").unwrap();
    let consumer = BusConsumer::new(settings(3 * IDLE_POLL), subscription, work, metrics).start();
    topic
        .publish(vec![record(update(1, 1, 1).to_json())])
        .await
        .unwrap();
    let drained = tokio::time::timeout(20 * IDLE_POLL, consumer.send(Drain)).await;
    assert!(drained.is_ok(), "a batch that is not full is processed too");
    assert_eq!(kept.lock().unwrap().len(), 1);
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
        let (mut stuck, applied) = (self.stuck.clone(), self.applied.clone());
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
            applied.lock().unwrap().extend(versions);
            let _ = apply.done.send(Ok(()));
        });
    }
}

impl Handler<PartitionsRevoked> for StuckBooks {
    type Result = ();

    fn handle(&mut self, _: PartitionsRevoked, _: &mut Context<Self>) {}
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
    let work = Work::Books {
        books: books.clone().recipient(),
        revoked: books.clone().recipient(),
        cache: books.recipient(),
    };
    let subscription = topic.subscribe("g").unwrap();
    let metrics = ProcessorMetrics::new().unwrap();
    let consumer = BusConsumer::new(settings(Duration::ZERO), subscription, work, metrics);
    let backlog = consumer.backlog();
    let consumer = consumer.start();
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
        *applied.lock().unwrap() == [2, 3]
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
    until("the bound is reached", &|| {
        applied.lock().unwrap().len() >= 159
    })
    .await;
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
    let work = Work::Books {
        books: books.clone().recipient(),
        revoked: books.clone().recipient(),
        cache: books.recipient(),
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
    let consumer = BusConsumer::new(
        settings,
        subscription,
        work,
        ProcessorMetrics::new().unwrap(),
    );
    let (backlog, life) = (consumer.backlog(), consumer.life());
    let _consumer = consumer.start();
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
        topic.unread("g") == 0 && *applied.lock().unwrap() == [2, 3]
    })
    .await;
    assert!(is_behind());
    release.send_replace(false);
    until("the consumer has caught up", &|| backlog.age().is_zero()).await;
    assert_eq!(*applied.lock().unwrap(), [2, 3, 1]);
}
