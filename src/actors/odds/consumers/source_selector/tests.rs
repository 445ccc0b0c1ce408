use std::sync::atomic::Ordering;

use actix::prelude::*;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::*;

use crate::actors::odds::consumers::testing::{future_update, record, settings};
use crate::actors::odds::messages::ReportsRead;
use crate::actors::testing::{ProbeStore, probe_edges};
use crate::bus::embedded::EmbeddedTopic;
use crate::bus::health::SubscriptionHealth;
use crate::bus::{BusError, ConsumerEvent, Position, dead_letter};
use crate::domain::ids::Source;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::source_status::{CurrentReports, LivePeriod, SourceState};
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::odds::update::testing::update;
use crate::runtime::drain::Drain;
use crate::testing::until;

/// A selector between two embedded topics. Its sources are a, then b.
struct Rig {
    raw: EmbeddedTopic,
    odds: EmbeddedTopic,
    selected: Box<dyn Subscription>,
    dead: EmbeddedTopic,
    selector: Addr<DrainableTask>,
    reports: Addr<latest_reports::ReportsReceiver>,
    store: Arc<ProbeStore>,
    metrics: ProcessorMetrics,
}

fn source(name: &str) -> Source {
    Source::new(name).unwrap()
}

fn update_of(from: &str, time: i64) -> OddsUpdate {
    OddsUpdate {
        source: source(from),
        ..update(1, time, time)
    }
}

/// A subscription whose uncommitted records would survive the process.
struct Durable(Box<dyn Subscription>);

impl Subscription for Durable {
    fn next_batch(
        &mut self,
        max: usize,
        linger: Duration,
    ) -> BoxFuture<'_, Result<ConsumerEvent, BusError>> {
        self.0.next_batch(max, linger)
    }

    fn commit(&mut self, done: &Position) {
        self.0.commit(done);
    }

    fn lag(&self) -> u64 {
        self.0.lag()
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn health(&self) -> SubscriptionHealth {
        self.0.health()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.0.close()
    }
}

impl Rig {
    fn new(odds_capacity: usize) -> Rig {
        Rig::reading(odds_capacity, |subscription| subscription)
    }

    /// Reads through what `subscribe` makes of the subscription.
    fn reading(
        odds_capacity: usize,
        subscribe: impl FnOnce(Box<dyn Subscription>) -> Box<dyn Subscription>,
    ) -> Rig {
        let raw = EmbeddedTopic::new("raw", 2, 20_000);
        let odds = EmbeddedTopic::new("odds", 2, odds_capacity);
        let selected = odds.subscribe("g").unwrap();
        let dead = EmbeddedTopic::new("dead", 1, 100);
        let metrics = ProcessorMetrics::new().unwrap();
        let latest = Arc::new(LatestReports::default());
        let reports = latest.receiver().start();
        let probe = probe_edges();
        let store = probe.store.clone();
        let edges = SelectorEdges {
            odds: Arc::new(odds.clone()),
            dead_letters: Arc::new(dead.clone()),
            published: Arc::into_inner(probe.edges).unwrap().source,
            reports: latest,
        };
        let rules = SelectorRules {
            failover: FailoverRules {
                priority: vec![source("a"), source("b")],
                max_age: Duration::from_secs(30),
                failback_after: Duration::from_secs(30),
            },
            idle_limit: Duration::from_secs(3_600),
        };
        let subscription = subscribe(raw.subscribe("g").unwrap());
        let settings = settings(Duration::ZERO);
        let (task, _) = SourceSelector::task(settings, subscription, rules, edges, metrics.clone());
        Rig {
            raw,
            odds,
            selected,
            dead,
            selector: task.start(),
            reports,
            store,
            metrics,
        }
    }

    async fn send(&self, update: OddsUpdate) {
        let records = vec![record(update.to_json())];
        self.raw.publish(records).await.unwrap();
    }

    async fn report(&self, name: &str, state: SourceState) {
        let is_live = state == SourceState::Live;
        let reports = CurrentReports {
            state: Some(state),
            live_periods: is_live.then_some(LivePeriod(1)).into_iter().collect(),
            is_overdue: false,
        };
        let reports = [(source(name), reports)].into();
        self.reports.send(ReportsRead(reports)).await.unwrap();
    }

    async fn next(&mut self) -> OddsUpdate {
        let reading = self.selected.next_batch(1, Duration::ZERO);
        let event = tokio::time::timeout(Duration::from_secs(60), reading).await;
        let ConsumerEvent::Records(records) = event.unwrap().unwrap() else {
            panic!("revoked")
        };
        self.selected.commit(&Position::after(&records));
        OddsUpdate::from_json(&records[0].record.payload).unwrap()
    }
}

#[actix_web::test]
async fn lost_source_is_replaced_without_another_record() {
    let mut rig = Rig::new(100);
    rig.report("a", SourceState::Live).await;
    rig.send(update_of("a", 2)).await;
    rig.send(update_of("b", 1)).await;
    assert_eq!(rig.next().await, update_of("a", 2));
    until("both are known", || rig.raw.depth() == 0).await;
    rig.report("a", SourceState::Stale).await;
    let shown = rig.next().await;
    assert_eq!(shown.selections, update_of("b", 1).selections);
    assert_eq!(
        (shown.source, shown.status),
        (source("b"), MarketStatus::Open)
    );
    let moved = rig.metrics.failovers.with_label_values(&["lost"]);
    assert_eq!(moved.get(), 1);
    assert_eq!(rig.metrics.failover_markets.get(), 1);
}

#[actix_web::test]
async fn handed_over_market_is_read_from_header() {
    let mut rig = Rig::new(100);
    let mut last = record(update_of("a", 3).to_json());
    let header = (HANDED_OVER.to_owned(), Bytes::from_static(b"1"));
    last.headers.push(header);
    rig.send(update_of("a", 1)).await;
    rig.send(update_of("b", 2)).await;
    rig.raw.publish(vec![last]).await.unwrap();
    assert_eq!(rig.next().await, update_of("a", 1));
    assert_eq!(rig.next().await, update_of("b", 2));
}

/// A record is committed only after the odds topic has accepted what follows from it.
#[actix_web::test]
async fn full_odds_topic_holds_records_back() {
    let mut rig = Rig::new(1);
    for time in 1..=5 {
        rig.send(update_of("a", time)).await;
    }
    until("the topic is full", || rig.odds.depth() == 1).await;
    assert!(rig.raw.depth() > 0);
    let drained = rig.selector.send(Drain);
    for time in 1..=5 {
        assert_eq!(rig.next().await, update_of("a", time));
    }
    drained.await.unwrap();
    assert_eq!(rig.raw.depth(), 0);
}

#[actix_web::test]
async fn unreadable_records_become_dead_letters() {
    let mut rig = Rig::new(100);
    let mut letters = rig.dead.subscribe("g").unwrap();
    let payloads = ["{garbage".to_owned(), future_update(1).to_json()];
    rig.raw.publish(payloads.map(record).into()).await.unwrap();
    rig.send(update_of("a", 1)).await;
    assert_eq!(rig.next().await, update_of("a", 1));
    rig.selector.send(Drain).await.unwrap();
    let ConsumerEvent::Records(dead) = letters.next_batch(9, Duration::ZERO).await.unwrap() else {
        panic!("revoked")
    };
    let reasons: Vec<_> = dead
        .iter()
        .map(|one| dead_letter::read(one).reason)
        .collect();
    assert_eq!(reasons, ["malformed", "future"]);
    for reason in reasons {
        let refused = &rig.metrics.refused;
        assert_eq!(refused.with_label_values(&["selector", &reason]).get(), 1);
    }
}

#[test]
fn updates_carry_their_headers() {
    let records: Vec<_> = ["", HANDED_OVER, UNCONFIRMED]
        .into_iter()
        .zip(0..)
        .map(|(header, offset)| {
            let mut record = record(update_of("a", 1).to_json());
            let header = (header.to_owned(), Bytes::from_static(b"1"));
            record.headers.push(header);
            Record {
                partition: 0,
                offset,
                published_at: None,
                record,
            }
        })
        .collect();
    // The first record has no readable update.
    let positioned = |position| PositionedUpdate {
        trace: None,
        update: update_of("a", 1),
        partition: 0,
        position,
    };
    let heard: Vec<_> = heard(&records, vec![positioned(1), positioned(2)], false)
        .map(|(_, heard)| heard.standing)
        .collect();
    assert_eq!(heard, [Standing::HandedOver, Standing::Unconfirmed]);
    assert_eq!(standing(&records[0]), Standing::Current);
}

/// While the database is away it is unknown whether, and how, a market was published.
#[actix_web::test]
async fn records_wait_for_published_state() {
    let mut rig = Rig::new(100);
    rig.store.down.store(true, Ordering::SeqCst);
    rig.send(update_of("a", 1)).await;
    rig.send(update_of("a", 2)).await;
    until("both are held", || rig.metrics.failover_held.get() == 2).await;
    assert_eq!((rig.raw.depth(), rig.odds.depth()), (2, 0), "not committed");
    rig.store.down.store(false, Ordering::SeqCst);
    assert_eq!(rig.next().await, update_of("a", 1));
    assert_eq!(rig.next().await, update_of("a", 2));
    until("all is committed", || rig.raw.depth() == 0).await;
    assert_eq!(rig.metrics.failover_held.get(), 0);
}

/// A suspension may have been handled by an earlier process shortly after a takeover. It is not
/// committed before it is certain that it was, or it is published.
#[actix_web::test]
async fn suspension_after_takeover_is_published_before_commit() {
    let mut rig = Rig::reading(100, |subscription| Box::new(Durable(subscription)));
    rig.store.keep(MarketState {
        update: update_of("a", 1),
        seq: 1,
    });
    rig.report("a", SourceState::Live).await;
    let mut suspended = update_of("a", 1);
    suspended.status = MarketStatus::Suspended;
    suspended.revision.updated_at = Timestamp::now();
    let mut suspension = record(suspended.to_json());
    let header = (UNCONFIRMED.to_owned(), Bytes::from_static(b"1"));
    suspension.headers.push(header);
    rig.raw.publish(vec![suspension]).await.unwrap();
    until("it is published", || {
        let is_committed = rig.raw.depth() == 0;
        let is_published = rig.odds.depth() > 0;
        assert!(!is_committed || is_published, "committed first");
        is_published
    })
    .await;
    assert_eq!(rig.next().await.status, MarketStatus::Suspended);
    until("it is committed", || rig.raw.depth() == 0).await;
}

/// The records that are held are bounded: with more, nothing is read.
#[actix_web::test]
async fn too_many_held_records_stop_the_reading() {
    let mut rig = Rig::new(20_000);
    rig.store.down.store(true, Ordering::SeqCst);
    let records = (0..MAX_HELD as i64 + 20).map(|time| record(update_of("a", time).to_json()));
    rig.raw.publish(records.collect()).await.unwrap();
    let failed = rig.metrics.errors.with_label_values(&["load"]);
    until("nothing more is held", || failed.get() > 0).await;
    assert_eq!(rig.metrics.failover_held.get(), MAX_HELD as i64);
    rig.store.down.store(false, Ordering::SeqCst);
    for time in 0..MAX_HELD as i64 + 20 {
        assert_eq!(rig.next().await, update_of("a", time));
    }
}
