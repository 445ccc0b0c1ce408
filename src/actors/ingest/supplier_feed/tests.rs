use clap::Parser;

use super::publish_plan::DENSE_BATCH;
use super::*;
use crate::bus::BusError;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::odds::update::testing::*;
use crate::supplier::frame_batch::MAX_FRAMES;

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
            publisher.clone(),
            publisher,
            gathering,
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
            publisher.clone(),
            publisher,
            Duration::ZERO,
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
