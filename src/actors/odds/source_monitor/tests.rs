use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::actors::odds::published_sources::PublishedSources;
use crate::actors::testing::ProbeStore;
use crate::bus::embedded::EmbeddedTopic;
use crate::bus::embedded_compacted::EmbeddedCompactedTopic;
use crate::bus::{ConsumerEvent, NewRecord, Position, Topic};
use crate::domain::ids::Source;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::source_status::SourceReport;
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::odds::update::testing::update;
use crate::domain::timestamp::Timestamp;
use crate::testing::until;

const SILENCE: Duration = Duration::from_secs(2);

/// Records the state of the source `a` whenever it is passed on.
struct ProbeSubscriber(Arc<Mutex<Vec<Option<SourceState>>>>);

impl Actor for ProbeSubscriber {
    type Context = Context<Self>;
}

impl Handler<SourcesReported> for ProbeSubscriber {
    type Result = ();

    fn handle(&mut self, reported: SourcesReported, _: &mut Context<Self>) {
        let status = reported.0.get(&source());
        self.0.lock().unwrap().push(status.map(|it| it.state));
    }
}

fn source() -> Source {
    Source::new("a").unwrap()
}

fn report(state: SourceState) -> NewRecord {
    let report = SourceReport {
        source: source(),
        reporter: "1".to_owned(),
        state,
        at: Timestamp::now(),
    };
    record(serde_json::to_vec(&report).unwrap())
}

fn record(payload: Vec<u8>) -> NewRecord {
    NewRecord {
        key: "a/1".into(),
        payload: payload.into(),
        headers: Vec::new(),
    }
}

struct Fixture {
    passed_on: Arc<Mutex<Vec<Option<SourceState>>>>,
    metrics: ProcessorMetrics,
}

fn start(topic: Arc<dyn CompactedTopic>) -> Fixture {
    start_with(topic, GroupPath::default(), |monitor| monitor)
}

fn start_with(
    topic: Arc<dyn CompactedTopic>,
    path: GroupPath,
    configure: impl FnOnce(SourceMonitor) -> SourceMonitor,
) -> Fixture {
    let passed_on = Arc::default();
    let subscriber = ProbeSubscriber(Arc::clone(&passed_on)).start().recipient();
    let metrics = ProcessorMetrics::new().unwrap();
    let monitor = SourceMonitor::new(topic, SILENCE, path, vec![subscriber], metrics.clone());
    configure(monitor).start();
    Fixture { passed_on, metrics }
}

impl Fixture {
    async fn until_state(&self, state: SourceState) {
        until("the state is passed on", || {
            let last = self.passed_on.lock().unwrap().last().copied();
            last == Some(Some(state))
        })
        .await;
    }

    fn sources(&self, state: &str) -> i64 {
        self.metrics.sources.with_label_values(&[state]).get()
    }
}

#[actix_web::test]
async fn silent_source_becomes_stale() {
    let topic = EmbeddedCompactedTopic::default();
    topic
        .publish(vec![report(SourceState::Live)])
        .await
        .unwrap();
    let fixture = start(Arc::new(topic.clone()));
    // It may have been published long ago.
    fixture.until_state(SourceState::Stale).await;
    topic
        .publish(vec![report(SourceState::Live)])
        .await
        .unwrap();
    fixture.until_state(SourceState::Live).await;
    assert_eq!((fixture.sources("live"), fixture.sources("stale")), (1, 0));
    fixture.until_state(SourceState::Stale).await;
    assert_eq!((fixture.sources("live"), fixture.sources("stale")), (0, 1));
    topic
        .publish(vec![report(SourceState::Recovering)])
        .await
        .unwrap();
    fixture.until_state(SourceState::Recovering).await;
}

/// Its supplier may never connect, and nobody has reported it in the time that Kafka keeps.
#[actix_web::test]
async fn source_of_stored_markets_is_lost_until_it_publishes() {
    let mut open = update(1, 1, 1);
    open.source = source();
    let store = Arc::new(ProbeStore::default());
    store.keep(MarketState {
        update: open.clone(),
        seq: 1,
    });
    store.down.store(true, Ordering::SeqCst);
    let published = Arc::new(PublishedSources::new(Timestamp::now()));
    let topic = Arc::new(EmbeddedCompactedTopic::default());
    let fixture = start_with(topic, GroupPath::default(), |monitor| {
        monitor.with_unreported(store.clone(), published.clone())
    });
    until("nothing is known about it", || {
        fixture.passed_on.lock().unwrap().last() == Some(&None)
    })
    .await;
    store.down.store(false, Ordering::SeqCst);
    fixture.until_state(SourceState::Stale).await;
    let record = crate::bus::Record {
        partition: 0,
        offset: 1,
        published_at: Some(Timestamp::now()),
        record: record(Vec::new()),
    };
    let read = PositionedUpdate {
        trace: None,
        update: open,
        position: 1,
        partition: 0,
    };
    published.read(&[record], &[read]);
    fixture.until_state(SourceState::Live).await;
}

#[actix_web::test]
async fn unreadable_report_is_counted() {
    let topic = EmbeddedCompactedTopic::default();
    let fixture = start(Arc::new(topic.clone()));
    for payload in ["", "{", r#"["a","1","live","2026-01-01T00:00:00Z"]"#] {
        let before = fixture.metrics.source_reports_unreadable.get();
        topic.publish(vec![record(payload.into())]).await.unwrap();
        until("it is counted", || {
            fixture.metrics.source_reports_unreadable.get() > before
        })
        .await;
    }
    topic
        .publish(vec![report(SourceState::Live)])
        .await
        .unwrap();
    fixture.until_state(SourceState::Live).await;
}

/// Fails to read, and then returns these events.
struct FaultyTopic(Mutex<VecDeque<Result<VecDeque<ReadEvent>, BusError>>>);

impl CompactedTopic for FaultyTopic {
    fn publish(&self, _: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn read(&self) -> Result<Box<dyn TopicReader>, BusError> {
        let next = self.0.lock().unwrap().pop_front();
        let events = next.unwrap_or(Err(BusError::Closed))?;
        Ok(Box::new(FaultyReader(events)))
    }
}

struct FaultyReader(VecDeque<ReadEvent>);

impl TopicReader for FaultyReader {
    fn next(&mut self) -> BoxFuture<'_, Result<ReadEvent, BusError>> {
        let next = self.0.pop_front();
        let away = || BusError::Unavailable("away".to_owned());
        std::future::ready(next.ok_or_else(away)).boxed()
    }
}

#[actix_web::test]
async fn topic_is_read_again_after_failures() {
    let published = |state| {
        let record = crate::bus::Record {
            partition: 0,
            offset: 0,
            published_at: None,
            record: report(state),
        };
        ReadEvent::Published(vec![record])
    };
    let reads = [
        Err(BusError::Unavailable("away".to_owned())),
        Ok([ReadEvent::CaughtUp, published(SourceState::Live)].into()),
        Ok([ReadEvent::CaughtUp, published(SourceState::Recovering)].into()),
    ];
    let fixture = start(Arc::new(FaultyTopic(Mutex::new(reads.into()))));
    fixture.until_state(SourceState::Live).await;
    fixture.until_state(SourceState::Recovering).await;
    // Nothing can be read any more.
    fixture.until_state(SourceState::Stale).await;
}

/// A report does not overtake the updates that were published before it.
#[actix_web::test]
async fn source_is_live_after_its_updates_are_applied() {
    let reports = EmbeddedCompactedTopic::default();
    let updates = EmbeddedTopic::new("updates", 1, 10);
    let mut books = updates.subscribe("live").unwrap();
    let path = GroupPath::default().then(Arc::new(updates.clone()), "live".to_owned());
    let fixture = start_with(Arc::new(reports.clone()), path, |monitor| monitor);
    let (state, reported) = tokio::sync::watch::channel(SourceState::Live);
    let reporting = actix_web::rt::spawn(async move {
        loop {
            let state = *reported.borrow();
            reports.publish(vec![report(state)]).await.unwrap();
            tokio::time::sleep(SILENCE / 8).await;
        }
    });
    fixture.until_state(SourceState::Live).await;
    state.send_replace(SourceState::Stale);
    fixture.until_state(SourceState::Stale).await;
    let suspension = record("suspension".into());
    updates.publish(vec![suspension]).await.unwrap();
    state.send_replace(SourceState::Live);
    fixture.until_state(SourceState::Recovering).await;
    // It stays so, however often it is reported.
    let passed_on = || fixture.passed_on.lock().unwrap().clone();
    let recovering = || {
        passed_on()
            .into_iter()
            .filter(|it| *it == Some(SourceState::Recovering))
    };
    until("the state is repeated", || recovering().count() > 2).await;
    let batch = books.next_batch(10, Duration::ZERO).await.unwrap();
    let ConsumerEvent::Records(batch) = batch else {
        panic!("{batch:?}");
    };
    assert_eq!(passed_on().last(), Some(&Some(SourceState::Recovering)));
    books.commit(&Position::after(&batch));
    fixture.until_state(SourceState::Live).await;
    reporting.abort();
}

/// Records what the selector gets about the source `a`.
struct ProbeSelector(Arc<Mutex<Option<SourceState>>>);

impl Actor for ProbeSelector {
    type Context = Context<Self>;
}

impl Handler<ReportsRead> for ProbeSelector {
    type Result = ();

    fn handle(&mut self, ReportsRead(reports): ReportsRead, _: &mut Context<Self>) {
        *self.0.lock().unwrap() = reports.get(&source()).and_then(|reports| reports.state);
    }
}

/// The books wait for records that only the selector can publish.
#[actix_web::test]
async fn selector_gets_reports_before_states_are_passed_on() {
    let reports = EmbeddedCompactedTopic::default();
    reports
        .publish(vec![report(SourceState::Live)])
        .await
        .unwrap();
    let updates = EmbeddedTopic::new("updates", 1, 10);
    let _books = updates.subscribe("live").unwrap();
    updates.publish(vec![record("1".into())]).await.unwrap();
    let path = GroupPath::default().then(Arc::new(updates), "live".to_owned());
    let heard = Arc::default();
    let selector = ProbeSelector(Arc::clone(&heard)).start().recipient();
    let fixture = start_with(Arc::new(reports.clone()), path, |monitor| {
        monitor.with_selector(Some(selector))
    });
    until("the report reaches the selector", || {
        drop(reports.publish(vec![report(SourceState::Live)]));
        *heard.lock().unwrap() == Some(SourceState::Live)
    })
    .await;
    assert!(fixture.passed_on.lock().unwrap().is_empty());
}
