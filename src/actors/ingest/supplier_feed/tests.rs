use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;

use super::publish_plan::DENSE_BATCH;
use super::*;
use crate::actors::ingest::messages::{HeardSource, SourcesHeard};
use crate::actors::ingest::other_reporters::OtherReporters;
use crate::bus::embedded::EmbeddedTopic;
use crate::bus::embedded_compacted::EmbeddedCompactedTopic;
use crate::bus::group_path::GroupPath;
use crate::bus::source_report;
use crate::bus::{
    BusError, CompactedTopic as _, ConsumerEvent, NewRecord, Position, Subscription, Topic,
};
use crate::domain::ids::Source;
use crate::domain::odds::source_status::{SourceReport, SourceState};
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::testing::*;
use crate::domain::odds::update::{OddsUpdate, PositionedUpdate};
use crate::domain::timestamp::Timestamp;
use crate::store::Store;
use crate::store::sqlite::SqliteStore;
use crate::supplier::frame_batch::MAX_FRAMES;
use crate::supplier::transport::Inbound;
use crate::testing::until;

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    suppliers: SupplierSettings,
}

/// Records the time and the number of updates of each message.
struct Publisher(mpsc::UnboundedSender<(Instant, usize)>);

impl Actor for Publisher {
    type Context = Context<Self>;
}

impl Handler<Publish> for Publisher {
    type Result = Result<(), BusError>;

    fn handle(&mut self, message: Publish, _: &mut Context<Self>) -> Self::Result {
        self.0
            .send((Instant::now(), message.updates.len()))
            .unwrap();
        Ok(())
    }
}

/// Publishes everything by one actor.
fn to_one(publisher: Recipient<Publish>) -> FeedPublishers {
    FeedPublishers {
        updates: publisher.clone(),
        dead_letters: publisher.clone(),
        results: publisher,
    }
}

/// Discards the states of sources.
struct Discard;

impl Actor for Discard {
    type Context = Context<Self>;
}

impl Handler<SourcesHeard> for Discard {
    type Result = ();

    fn handle(&mut self, _: SourcesHeard, _: &mut Context<Self>) {}
}

/// No other reporter, and no database.
fn edges() -> SourceEdges {
    SourceEdges {
        reporter: Discard.start().recipient(),
        others: Arc::new(OtherReporters::new(
            Duration::from_secs(3),
            std::time::Instant::now(),
        )),
        local: Arc::default(),
        store: None,
        store_path: GroupPath::default(),
    }
}

/// A feed that receives batches of these sizes, and the messages it publishes.
fn reading(gathering: Duration, rows: &[usize]) -> mpsc::UnboundedReceiver<(Instant, usize)> {
    let (sender, published) = mpsc::unbounded_channel();
    let publisher = Publisher(sender).start().recipient();
    let settings = Settings::parse_from(["test"]).suppliers;
    let endpoint = "ws://127.0.0.1:9/ws".parse().unwrap();
    let metrics = IngestMetrics::new().unwrap();
    let mut versions = 1..;
    let mut frame = || {
        let update = update(1, 1, versions.next().unwrap());
        Ok(Inbound::Frame(update.to_json().into()))
    };
    let rows: Vec<FrameBatch> = rows
        .iter()
        .map(|row| (0..*row).map(|_| frame()).collect())
        .collect();
    SupplierFeed::create(|context| {
        let mut feed = SupplierFeed::new(
            endpoint,
            settings,
            to_one(publisher.clone()),
            gathering,
            edges(),
            metrics,
        );
        let stream = context.add_stream(futures_util::stream::iter(rows));
        let (outbound, _) = mpsc::channel(1);
        feed.open_link(stream, outbound);
        feed
    });
    published
}

#[actix_web::test]
async fn dense_stream_gathers_between_publishes() {
    let gathering = Duration::from_millis(200);
    let mut published = reading(gathering, &[DENSE_BATCH, 1]);
    let (first, updates) = published.recv().await.unwrap();
    assert_eq!(updates, DENSE_BATCH);
    let (second, updates) = published.recv().await.unwrap();
    assert_eq!(updates, 1);
    // The delay starts when the feed sends the batch, a moment before the publisher handles it.
    assert!(second - first >= gathering / 2, "{:?}", second - first);
}

/// Neither a quiet stream nor a backlog is delayed.
#[actix_web::test]
async fn quiet_stream_and_backlog_are_not_delayed() {
    let rows = [1, DENSE_BATCH - 1, MAX_FRAMES, 1];
    let mut published = reading(Duration::from_secs(3_600), &rows);
    for row in rows {
        let next = tokio::time::timeout(Duration::from_secs(20), published.recv()).await;
        assert_eq!(next.unwrap().unwrap().1, row);
    }
}

/// Refuses the first message, and passes on what the others hold.
struct RefusingPublisher(mpsc::UnboundedSender<Vec<OddsUpdate>>, bool);

impl Actor for RefusingPublisher {
    type Context = Context<Self>;
}

impl Handler<Publish> for RefusingPublisher {
    type Result = Result<(), BusError>;

    fn handle(&mut self, message: Publish, _: &mut Context<Self>) -> Self::Result {
        if !std::mem::replace(&mut self.1, true) {
            return Err(BusError::Unreachable("refused".to_owned()));
        }
        self.0.send(message.updates).unwrap();
        Ok(())
    }
}

/// The supplier repeats neither: a closed market stays closed, an open one is suspended.
#[actix_web::test]
async fn refused_batch_leaves_no_market_open() {
    let (sender, mut published) = mpsc::unbounded_channel();
    let publisher = RefusingPublisher(sender, false).start().recipient();
    let arguments = ["test", "--supplier-ping-interval", "100ms"];
    let closed = OddsUpdate {
        status: MarketStatus::Closed,
        ..market_update("MATCH_001", "btts", None, 1, 1)
    };
    let batch: FrameBatch = [update(1, 1, 1), closed.clone()]
        .map(|update| Ok(Inbound::Frame(update.to_json().into())))
        .into_iter()
        .collect();
    SupplierFeed::create(|context| {
        let mut feed = SupplierFeed::new(
            "ws://127.0.0.1:9/ws".parse().unwrap(),
            Settings::parse_from(arguments).suppliers,
            to_one(publisher.clone()),
            Duration::ZERO,
            edges(),
            IngestMetrics::new().unwrap(),
        );
        let stream = context.add_stream(futures_util::stream::iter([batch]));
        let (outbound, _) = mpsc::channel(1);
        feed.open_link(stream, outbound);
        feed
    });
    let next = tokio::time::timeout(Duration::from_secs(20), published.recv()).await;
    let statuses: Vec<_> = next
        .unwrap()
        .unwrap()
        .into_iter()
        .map(|update| (update.market.to_string(), update.status))
        .collect();
    let wanted = [
        ("btts".to_owned(), MarketStatus::Closed),
        ("1x2".to_owned(), MarketStatus::Suspended),
    ];
    assert_eq!(statuses, wanted);
}

/// Passes on the states of sources.
struct Recorder(mpsc::UnboundedSender<SourceState>);

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<SourcesHeard> for Recorder {
    type Result = ();

    fn handle(&mut self, heard: SourcesHeard, _: &mut Context<Self>) {
        for HeardSource { state, .. } in heard.sources {
            let _ = self.0.send(state);
        }
    }
}

async fn until_state(states: &mut mpsc::UnboundedReceiver<SourceState>, wanted: SourceState) {
    let reached = async { while states.recv().await.unwrap() != wanted {} };
    tokio::time::timeout(Duration::from_secs(20), reached)
        .await
        .unwrap();
}

async fn next_published(
    published: &mut mpsc::UnboundedReceiver<Vec<OddsUpdate>>,
) -> Vec<OddsUpdate> {
    let next = tokio::time::timeout(Duration::from_secs(20), published.recv()).await;
    next.unwrap().unwrap()
}

/// A feed that receives one update, and nothing more; what it publishes, and the states of its
/// source.
fn feed_after_update(
    others: &Arc<OtherReporters>,
    store: Option<Arc<dyn Store>>,
    arguments: &[&str],
) -> (
    mpsc::UnboundedReceiver<Vec<OddsUpdate>>,
    mpsc::UnboundedReceiver<SourceState>,
) {
    let (sender, published) = mpsc::unbounded_channel();
    let publisher = RefusingPublisher(sender, true).start().recipient();
    let (recorder, states) = mpsc::unbounded_channel();
    let edges = SourceEdges {
        reporter: Recorder(recorder).start().recipient(),
        others: others.clone(),
        local: Arc::default(),
        store,
        store_path: GroupPath::default(),
    };
    let settings = Settings::parse_from([&["test"], arguments].concat()).suppliers;
    SupplierFeed::create(|context| {
        let mut feed = SupplierFeed::new(
            "ws://127.0.0.1:9/ws".parse().unwrap(),
            settings,
            to_one(publisher.clone()),
            Duration::ZERO,
            edges,
            IngestMetrics::new().unwrap(),
        );
        let batch: FrameBatch = vec![Ok(Inbound::Frame(update(1, 1, 1).to_json().into()))];
        let frames = futures_util::stream::iter([batch]).chain(futures_util::stream::pending());
        let stream = context.add_stream(frames);
        let (outbound, _) = mpsc::channel(1);
        feed.open_link(stream, outbound);
        feed
    });
    (published, states)
}

fn others(topic: &Arc<EmbeddedCompactedTopic>) -> Arc<OtherReporters> {
    let others = Arc::new(OtherReporters::new(
        Duration::from_secs(3),
        std::time::Instant::now(),
    ));
    actix::spawn(others.clone().follow(topic.clone()));
    others
}

/// One of several watchers does not decide alone. When the others are gone, it does.
#[actix_web::test]
async fn markets_that_others_have_live_stay_open() {
    let topic = Arc::new(EmbeddedCompactedTopic::default());
    let others = others(&topic);
    let source = update(1, 1, 1).source;
    let report = SourceReport {
        source: source.clone(),
        reporter: "other".to_owned(),
        state: SourceState::Live,
        at: Timestamp::now(),
    };
    let own = SourceReport {
        reporter: others.new_reporter().to_string(),
        ..report.clone()
    };
    let report_all = |report: SourceReport| {
        let topic = topic.clone();
        actix::spawn(async move {
            loop {
                topic
                    .publish(vec![source_report::record_of(&report)])
                    .await
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    };
    // As long as its own reports arrive, a process knows that it would hear others.
    report_all(own);
    let reporting = report_all(report);
    until("the other one is heard", || {
        others.is_live_elsewhere(&source, std::time::Instant::now())
    })
    .await;
    let quick = [
        "--supplier-stale-after",
        "400ms",
        "--supplier-ping-interval",
        "100ms",
    ];
    let (mut published, mut states) = feed_after_update(&others, None, &quick);
    assert_eq!(next_published(&mut published).await, [update(1, 1, 1)]);
    until_state(&mut states, SourceState::Live).await;
    until_state(&mut states, SourceState::Stale).await;
    until_state(&mut states, SourceState::Stale).await;
    assert!(
        published.try_recv().is_err(),
        "the other one hears the source"
    );
    reporting.abort();
    let suspended = next_published(&mut published).await;
    assert_eq!(suspended[0].status, MarketStatus::Suspended);
}

/// What an earlier process left open is suspended as soon as the database can be read, and until
/// then the source is not live.
#[actix_web::test]
async fn stored_markets_are_checked_before_source_is_live() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("test.db");
    let store = Arc::new(SqliteStore::open(&path.to_string_lossy()).unwrap());
    let others = others(&Arc::default());
    let quiet = ["--supplier-stale-after", "1m"];
    let (mut published, mut states) = feed_after_update(&others, Some(store.clone()), &quiet);
    assert_eq!(next_published(&mut published).await, [update(1, 1, 1)]);
    until_state(&mut states, SourceState::Recovering).await;
    let quiet = PositionedUpdate {
        trace: None,
        update: market_update("MATCH_001", "quiet", None, 1, 1),
        partition: 0,
        position: 0,
    };
    let migrated = SqliteStore::open(&path.to_string_lossy()).unwrap();
    migrated.migrate().unwrap();
    migrated.write_updates(&[quiet]).unwrap();
    let suspended = next_published(&mut published).await;
    assert_eq!(suspended.len(), 1);
    assert_eq!(suspended[0].market.name.as_str(), "quiet");
    assert_eq!(suspended[0].status, MarketStatus::Suspended);
    until_state(&mut states, SourceState::Live).await;
}

/// The edges of a feed whose database holds these updates, and the folder of the database.
fn edges_with_stored(updates: Vec<OddsUpdate>) -> (SourceEdges, tempfile::TempDir) {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("test.db");
    let store = SqliteStore::open(&path.to_string_lossy()).unwrap();
    store.migrate().unwrap();
    let rows: Vec<_> = (0..)
        .zip(updates)
        .map(|(position, update)| PositionedUpdate {
            trace: None,
            update,
            partition: 0,
            position,
        })
        .collect();
    store.write_updates(&rows).unwrap();
    let edges = SourceEdges {
        others: others(&Arc::default()),
        store: Some(Arc::new(store)),
        store_path: GroupPath::default(),
        ..edges()
    };
    (edges, folder)
}

/// Starts a feed that receives these updates at once, and nothing more. `prepare` changes it before.
fn start_feed(
    edges: SourceEdges,
    received: Vec<OddsUpdate>,
    prepare: impl FnOnce(&mut SupplierFeed) + 'static,
) -> mpsc::UnboundedReceiver<Vec<OddsUpdate>> {
    let (sender, published) = mpsc::unbounded_channel();
    let publisher = RefusingPublisher(sender, true).start().recipient();
    let arguments = [
        "test",
        "--supplier-stale-after",
        "1m",
        "--supplier-ping-interval",
        "100ms",
    ];
    SupplierFeed::create(move |context| {
        let mut feed = SupplierFeed::new(
            "ws://127.0.0.1:9/ws".parse().unwrap(),
            Settings::parse_from(arguments).suppliers,
            to_one(publisher.clone()),
            Duration::ZERO,
            edges,
            IngestMetrics::new().unwrap(),
        );
        prepare(&mut feed);
        let frames = received.iter().map(|update| update.to_json().into());
        let batch: FrameBatch = frames.map(|frame| Ok(Inbound::Frame(frame))).collect();
        let frames = futures_util::stream::iter([batch]).chain(futures_util::stream::pending());
        let stream = context.add_stream(frames);
        let (outbound, _) = mpsc::channel(1);
        feed.open_link(stream, outbound);
        feed
    });
    published
}

/// The database may lack what an earlier process has published: it is read after the store path has
/// stored that.
#[actix_web::test]
async fn database_is_read_after_store_path_has_caught_up() {
    let quiet = market_update("MATCH_009", "quiet", None, 1, 1);
    let (edges, _folder) = edges_with_stored(vec![quiet]);
    let updates = EmbeddedTopic::new("updates", 1, 10);
    let mut stored = updates.subscribe("store").unwrap();
    let left = NewRecord {
        key: "a".into(),
        payload: "1".into(),
        headers: Vec::new(),
    };
    updates.publish(vec![left]).await.unwrap();
    let (recorder, mut states) = mpsc::unbounded_channel();
    let edges = SourceEdges {
        reporter: Recorder(recorder).start().recipient(),
        store_path: GroupPath::default().then(Arc::new(updates), "store".to_owned()),
        ..edges
    };
    let mut published = start_feed(edges, vec![update(1, 1, 1)], |_| {});
    assert_eq!(next_published(&mut published).await, [update(1, 1, 1)]);
    for _ in 0..3 {
        assert_eq!(states.recv().await.unwrap(), SourceState::Recovering);
    }
    assert!(published.try_recv().is_err(), "the database is not read");
    let batch = stored.next_batch(1, Duration::ZERO).await.unwrap();
    let ConsumerEvent::Records(batch) = batch else {
        panic!("{batch:?}");
    };
    stored.commit(&Position::after(&batch));
    let suspended = next_published(&mut published).await;
    assert_eq!(suspended[0].market.name.as_str(), "quiet");
    until_state(&mut states, SourceState::Live).await;
}

/// A topic that counts how often somebody waits for the commits of a group.
struct CountingTopic(EmbeddedTopic, Arc<AtomicUsize>);

impl Topic for CountingTopic {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        self.0.publish(records)
    }

    fn subscribe(&self, group: &str) -> Result<Box<dyn Subscription>, BusError> {
        self.0.subscribe(group)
    }

    fn committed_by(
        &self,
        group: &str,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), BusError>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.committed_by(group, patience)
    }

    fn depth(&self) -> usize {
        self.0.depth()
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), BusError>> {
        self.0.ping()
    }
}

/// Each wait for the store path is a client of the bus.
#[actix_web::test]
async fn sources_share_the_wait_for_the_store_path() {
    let (edges, _folder) = edges_with_stored(Vec::new());
    let updates = EmbeddedTopic::new("updates", 1, 10);
    let mut stored = updates.subscribe("store").unwrap();
    updates
        .publish(vec![source_report::record_of(&SourceReport {
            source: update(1, 1, 1).source,
            reporter: "1".to_owned(),
            state: SourceState::Live,
            at: Timestamp::now(),
        })])
        .await
        .unwrap();
    let waits = Arc::default();
    let topic = CountingTopic(updates, Arc::clone(&waits));
    let (recorder, mut states) = mpsc::unbounded_channel();
    let edges = SourceEdges {
        reporter: SourceRecorder(recorder).start().recipient(),
        store_path: GroupPath::default().then(Arc::new(topic), "store".to_owned()),
        ..edges
    };
    let received = (1..=20).map(|number| OddsUpdate {
        source: Source::new(&format!("s{number}")).unwrap(),
        ..update(number, 1, 1)
    });
    let _published = start_feed(edges, received.collect(), |_| {});
    let mut until_all = async |wanted| {
        let reached = async {
            loop {
                let heard = states.recv().await.unwrap();
                if heard.len() == 20 && heard.iter().all(|heard| heard.state == wanted) {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached)
            .await
            .unwrap();
    };
    until_all(SourceState::Recovering).await;
    let batch = stored.next_batch(1, Duration::ZERO).await.unwrap();
    let ConsumerEvent::Records(batch) = batch else {
        panic!("{batch:?}");
    };
    stored.commit(&Position::after(&batch));
    until_all(SourceState::Live).await;
    assert_eq!(waits.load(Ordering::SeqCst), 1);
}

/// A process that hears no reports, not even its own, suspends nothing, and its sources are not live.
/// Both end when it hears reports again.
#[actix_web::test]
async fn check_of_isolated_process_ends_with_the_isolation() {
    let topic = Arc::new(EmbeddedCompactedTopic::default());
    let silence = Duration::from_millis(300);
    let others = Arc::new(OtherReporters::new(silence, std::time::Instant::now()));
    actix::spawn(others.clone().follow(topic.clone()));
    let elsewhere = Source::new("elsewhere").unwrap();
    let report = source_report::record_of(&SourceReport {
        source: elsewhere.clone(),
        reporter: "other".to_owned(),
        state: SourceState::Live,
        at: Timestamp::now(),
    });
    until("reports arrive", || {
        drop(topic.publish(vec![report.clone()]));
        others.is_live_elsewhere(&elsewhere, std::time::Instant::now())
    })
    .await;
    let is_isolated = || others.is_isolated(std::time::Instant::now());
    until("reports do not arrive any more", is_isolated).await;
    let quiet = market_update("MATCH_009", "quiet", None, 1, 1);
    let (edges, _folder) = edges_with_stored(vec![quiet]);
    let (recorder, mut states) = mpsc::unbounded_channel();
    let edges = SourceEdges {
        reporter: Recorder(recorder).start().recipient(),
        others: others.clone(),
        ..edges
    };
    let mut published = start_feed(edges, vec![update(1, 1, 1)], |_| {});
    assert_eq!(next_published(&mut published).await, [update(1, 1, 1)]);
    // They are reported twice a second: the source had the time to send its markets.
    for _ in 0..6 {
        assert_eq!(states.recv().await.unwrap(), SourceState::Recovering);
    }
    assert!(is_isolated() && published.try_recv().is_err());
    let reporting = actix::spawn(async move {
        loop {
            topic.publish(vec![report.clone()]).await.unwrap();
            tokio::time::sleep(silence / 6).await;
        }
    });
    let suspended = next_published(&mut published).await;
    assert_eq!(suspended[0].market.name.as_str(), "quiet");
    until_state(&mut states, SourceState::Live).await;
    reporting.abort();
}

/// Two feeds hear one source. What neither of them sends is suspended, and nothing else.
#[actix_web::test]
async fn stored_market_that_no_feed_sends_is_suspended() {
    let quiet = market_update("MATCH_009", "quiet", None, 1, 1);
    let sent = [update(1, 1, 1), update(2, 1, 1)];
    let stored = vec![quiet, sent[0].clone(), sent[1].clone()];
    let (edges, _folder) = edges_with_stored(stored);
    let feeds = sent.map(|update| start_feed(edges.clone(), vec![update], |_| ()));
    for mut published in feeds {
        assert_eq!(next_published(&mut published).await.len(), 1);
        let suspended = next_published(&mut published).await;
        let seen: Vec<_> = suspended
            .iter()
            .map(|update| (update.market.name.as_str(), update.status))
            .collect();
        assert_eq!(seen, [("quiet", MarketStatus::Suspended)]);
    }
}

/// A feed that knows that it missed changes does not rely on another one that has the market open.
#[actix_web::test]
async fn missed_market_of_shared_source_is_suspended() {
    let (edges, _folder) = edges_with_stored(Vec::new());
    let missed = update(1, 1, 1);
    let other = edges.local.join("other".into());
    other.sent(std::slice::from_ref(&missed));
    let mut published = start_feed(edges, vec![update(2, 1, 1)], move |feed| {
        feed.decoder.on_frame(missed.to_json().as_bytes()).unwrap();
        feed.decoder.record_silence();
        feed.decoder.on_connected();
    });
    let mut all = next_published(&mut published).await;
    while all.iter().all(|update| update.status == MarketStatus::Open) {
        all.extend(next_published(&mut published).await);
    }
    let suspended: Vec<_> = all
        .iter()
        .filter(|update| update.status == MarketStatus::Suspended)
        .map(|update| update.event_id.as_str())
        .collect();
    assert_eq!(suspended, ["MATCH_001"]);
}

/// Refuses the first message, and passes on the others.
struct RefusingOnce(mpsc::UnboundedSender<Publish>, bool);

impl Actor for RefusingOnce {
    type Context = Context<Self>;
}

impl Handler<Publish> for RefusingOnce {
    type Result = Result<(), BusError>;

    fn handle(&mut self, message: Publish, _: &mut Context<Self>) -> Self::Result {
        if !std::mem::replace(&mut self.1, true) {
            return Err(BusError::Unreachable("refused".to_owned()));
        }
        self.0.send(message).unwrap();
        Ok(())
    }
}

/// The source did not suspend the market, so another source may offer it.
#[actix_web::test]
async fn suspension_after_refused_batch_is_marked_unconfirmed() {
    let (sender, mut published) = mpsc::unbounded_channel();
    let publisher = RefusingOnce(sender, false).start().recipient();
    let frame = Ok(Inbound::Frame(update(1, 1, 1).to_json().into()));
    let batch: FrameBatch = [frame].into_iter().collect();
    SupplierFeed::create(|context| {
        let mut feed = SupplierFeed::new(
            "ws://127.0.0.1:9/ws".parse().unwrap(),
            Settings::parse_from(["test", "--supplier-ping-interval", "100ms"]).suppliers,
            to_one(publisher.clone()),
            Duration::ZERO,
            edges(),
            IngestMetrics::new().unwrap(),
        );
        let stream = context.add_stream(futures_util::stream::iter([batch]));
        let (outbound, _) = mpsc::channel(1);
        feed.open_link(stream, outbound);
        feed
    });
    let next = tokio::time::timeout(Duration::from_secs(20), published.recv()).await;
    let message = next.unwrap().unwrap();
    assert_eq!(message.updates[0].status, MarketStatus::Suspended);
    assert_eq!(
        message.unconfirmed,
        [MarketRevision::of(&message.updates[0])]
    );
}

/// Passes on the states of each source.
struct SourceRecorder(mpsc::UnboundedSender<Vec<HeardSource>>);

impl Actor for SourceRecorder {
    type Context = Context<Self>;
}

impl Handler<SourcesHeard> for SourceRecorder {
    type Result = ();

    fn handle(&mut self, heard: SourcesHeard, _: &mut Context<Self>) {
        let _ = self.0.send(heard.sources);
    }
}

/// A connection with an update of two sources each, and then an `alive` of one of them every 50 ms.
fn shared_connection() -> impl futures_util::Stream<Item = FrameBatch> {
    let named = |name: &str, event| OddsUpdate {
        source: Source::new(name).unwrap(),
        ..update(event, 1, 1)
    };
    let alive =
        |name: &str| format!(r#"{{"type":"alive","at":"2026-01-01T00:00:00Z","source":"{name}"}}"#);
    let first = [
        named("dies", 1).to_json(),
        alive("dies"),
        named("lives", 2).to_json(),
        alive("lives"),
    ];
    let batch = |frames: &[String]| -> FrameBatch {
        let frames = frames.iter().cloned();
        frames
            .map(|frame| Ok(Inbound::Frame(frame.into())))
            .collect()
    };
    let later = batch(&[alive("lives")]);
    let first = futures_util::stream::iter([batch(&first)]);
    first.chain(futures_util::stream::unfold((), move |()| {
        let frame = match &later[0] {
            Ok(Inbound::Frame(frame)) => frame.clone(),
            _ => unreachable!(),
        };
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Some((vec![Ok(Inbound::Frame(frame))], ()))
        }
    }))
}

/// The connection is live, and one of its sources is not.
#[actix_web::test]
async fn dead_source_of_live_connection_is_stale() {
    let (sender, mut published) = mpsc::unbounded_channel();
    let publisher = RefusingPublisher(sender, true).start().recipient();
    let (recorder, mut states) = mpsc::unbounded_channel();
    let arguments = [
        "test",
        "--supplier-stale-after",
        "2s",
        "--supplier-ping-interval",
        "100ms",
    ];
    let edges = SourceEdges {
        reporter: SourceRecorder(recorder).start().recipient(),
        others: others(&Arc::default()),
        ..edges()
    };
    SupplierFeed::create(|context| {
        let mut feed = SupplierFeed::new(
            "ws://127.0.0.1:9/ws".parse().unwrap(),
            Settings::parse_from(arguments).suppliers,
            to_one(publisher.clone()),
            Duration::ZERO,
            edges,
            IngestMetrics::new().unwrap(),
        );
        let stream = context.add_stream(Box::pin(shared_connection()));
        let (outbound, _) = mpsc::channel(1);
        feed.open_link(stream, outbound);
        feed
    });
    assert_eq!(next_published(&mut published).await.len(), 2);
    let suspended = next_published(&mut published).await;
    let seen: Vec<_> = suspended
        .iter()
        .map(|update| (update.source.as_str(), update.status))
        .collect();
    assert_eq!(seen, [("dies", MarketStatus::Suspended)]);
    let reported = async {
        loop {
            let mut heard = states.recv().await.unwrap();
            heard.sort_by_key(|heard| heard.source.clone());
            if heard[0].state == SourceState::Stale {
                break heard;
            }
        }
    };
    let heard = tokio::time::timeout(Duration::from_secs(20), reported);
    let heard = heard.await.unwrap();
    assert_eq!(
        (heard[0].source.as_str(), heard[1].source.as_str()),
        ("dies", "lives")
    );
    assert_eq!(heard[1].state, SourceState::Live);
    assert!(
        heard[0].at < heard[1].at,
        "each has its own time: {heard:?}"
    );
}

/// A selector does not count what the source has sent before it was live.
#[actix_web::test]
async fn live_source_is_repeated_for_selector() {
    let arguments = [
        "--supplier-priority",
        "test",
        "--supplier-stale-after",
        "60s",
        "--supplier-read-timeout",
        "60s",
        "--supplier-ping-interval",
        "100ms",
    ];
    let (mut published, _states) = feed_after_update(&others(&Arc::default()), None, &arguments);
    let mut updates = Vec::new();
    while updates.len() < 2 {
        updates.extend(next_published(&mut published).await);
    }
    assert_eq!(updates[..2], [update(1, 1, 1), update(1, 1, 1)]);
}
