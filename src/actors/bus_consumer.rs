//! Reads the bus as one group, hands each batch to whoever works on it, and commits once the work is done.

use std::time::Duration;

use actix::prelude::*;
use log::{error, warn};
use prometheus::IntGauge;
use tokio::sync::oneshot;

use super::bus_publisher::header;
use super::messages::{ApplyUpdates, Drain, StoreBatch};
use crate::bus::{BusError, Record, Subscription};
use crate::domain::backoff::{Backoff, BackoffPolicy};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::timestamp::Timestamp;
use crate::domain::update::{DecodeError, OddsUpdate, PositionedUpdate};
use crate::metrics::ProcessorMetrics;

/// An idle consumer looks up this often, to tell its lag and to see whether it should end.
const IDLE_LOOK: Duration = Duration::from_millis(100);
/// Delays between tries of a batch that failed.
const RETRY: BackoffPolicy = BackoffPolicy { first: Duration::from_millis(100), most: Duration::from_secs(5) };

/// What becomes of a batch.
pub enum Work {
    /// The live path: to the books. What cannot be read is passed over; the store path keeps it.
    Books(Recipient<ApplyUpdates>),
    /// The store path: to the database, with what cannot be read as dead letters.
    Store(Recipient<StoreBatch>),
    /// Dead letters of the suppliers: to the database.
    DeadLetters(Recipient<StoreBatch>),
}

/// How a consumer reads.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerSettings {
    /// The group's name, for logs and metrics.
    pub group: &'static str,
    /// The most records a batch.
    pub batch_size: usize,
    /// How long a batch waits to fill up.
    pub linger: Duration,
}

/// The actor that reads for one group. A batch that fails is tried again until it is done: the group's lag grows, and
/// nothing is lost or passed over.
pub struct BusConsumer {
    settings: ConsumerSettings,
    subscription: Option<Box<dyn Subscription>>,
    worker: Option<Worker>,
    draining: Vec<oneshot::Sender<()>>,
}

struct Worker {
    settings: ConsumerSettings,
    work: Work,
    lag: IntGauge,
    metrics: ProcessorMetrics,
}

impl BusConsumer {
    /// Reads `subscription` and gives each batch to `work`.
    pub fn new(
        settings: ConsumerSettings,
        subscription: Box<dyn Subscription>,
        work: Work,
        metrics: ProcessorMetrics,
    ) -> BusConsumer {
        let lag = metrics.bus_lag.with_label_values(&[settings.group]);
        let worker = Worker { settings, work, lag, metrics };
        BusConsumer { settings, subscription: Some(subscription), worker: Some(worker), draining: Vec::new() }
    }

    fn read_on(&mut self, context: &mut Context<Self>) {
        let (Some(subscription), Some(worker)) = (self.subscription.take(), self.worker.take()) else { return };
        let step = read_and_work(subscription, worker).into_actor(self).map(|step, consumer, context| {
            let lag = step.subscription.lag();
            step.worker.lag.set(lag as i64);
            let idle = lag == 0;
            consumer.subscription = Some(step.subscription);
            consumer.worker = Some(step.worker);
            if idle {
                for waiting in consumer.draining.drain(..) {
                    let _ = waiting.send(());
                }
            }
            match step.end {
                Ok(()) => consumer.read_on(context),
                Err(end) => {
                    warn!(group = consumer.settings.group; "consumer ends: {end}");
                    context.stop();
                }
            }
        });
        context.spawn(step);
    }
}

impl Actor for BusConsumer {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.read_on(context);
    }
}

impl Handler<Drain> for BusConsumer {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        let (done, waiting) = oneshot::channel();
        self.draining.push(done);
        Box::pin(async move {
            // An error means that the consumer is gone, so there is nothing left to wait for.
            let _ = waiting.await;
        })
    }
}

struct Step {
    subscription: Box<dyn Subscription>,
    worker: Worker,
    end: Result<(), BusError>,
}

async fn read_and_work(mut subscription: Box<dyn Subscription>, worker: Worker) -> Step {
    let reading = subscription.next_batch(worker.settings.batch_size, worker.settings.linger);
    // The wait for a batch to fill up comes on top: cut short, it would begin again for ever and read nothing.
    let end = match tokio::time::timeout(IDLE_LOOK.saturating_add(worker.settings.linger), reading).await {
        Err(_idle) => Ok(()),
        Ok(Err(end)) => Err(end),
        Ok(Ok(batch)) => {
            let mut working = std::pin::pin!(worker.finish(&batch));
            // A batch may take as long as a database is away, and what waits behind it is the lag that tells of it.
            loop {
                worker.lag.set(subscription.lag() as i64);
                if tokio::time::timeout(IDLE_LOOK, &mut working).await.is_ok() {
                    break;
                }
            }
            subscription.commit();
            Ok(())
        }
    };
    Step { subscription, worker, end }
}

impl Worker {
    /// Works on a batch until it is done.
    async fn finish(&self, batch: &[Record]) {
        if matches!(self.work, Work::Store(_)) {
            self.metrics.consumed.inc_by(batch.len() as u64);
        }
        let mut backoff = Backoff::new(RETRY, Timestamp::now().micros() as u64);
        while let Err((stage, failure)) = self.work_on(batch).await {
            self.metrics.errors.with_label_values(&[stage]).inc();
            let delay = backoff.next_delay();
            error!(group = self.settings.group, tries = backoff.failures(); "batch failed, trying again in {delay:?}: {failure}");
            tokio::time::sleep(delay).await;
        }
    }

    async fn work_on(&self, batch: &[Record]) -> Result<(), (&'static str, String)> {
        match &self.work {
            Work::Books(books) => {
                let updates = batch.iter().filter_map(|record| read_update(record).ok()).collect();
                let applied = books.send(ApplyUpdates(updates)).await;
                applied
                    .map_err(|gone| gone.to_string())
                    .and_then(|result| result.map_err(|error| error.to_string()))
                    .map_err(|failure| ("apply", failure))
            }
            Work::Store(store) => {
                let (mut updates, mut dead_letters) = (Vec::with_capacity(batch.len()), Vec::new());
                for record in batch {
                    match read_update(record) {
                        Ok(update) => updates.push(update),
                        Err(error) => dead_letters.push(unreadable(record, &error)),
                    }
                }
                let unreadable = dead_letters.len() as u64;
                self.store(store, "store", StoreBatch { updates, dead_letters }).await?;
                // Once a batch, however often it was tried.
                self.metrics.errors.with_label_values(&["decode"]).inc_by(unreadable);
                Ok(())
            }
            Work::DeadLetters(store) => {
                let dead_letters = batch.iter().map(read_dead_letter).collect();
                self.store(store, "dead_letter", StoreBatch { updates: Vec::new(), dead_letters }).await
            }
        }
    }

    async fn store(
        &self,
        store: &Recipient<StoreBatch>,
        stage: &'static str,
        batch: StoreBatch,
    ) -> Result<(), (&'static str, String)> {
        let stored = store.send(batch).await;
        stored
            .map_err(|gone| gone.to_string())
            .and_then(|result| result.map_err(|error| error.to_string()))
            .map_err(|failure| (stage, failure))
    }
}

fn read_update(record: &Record) -> Result<PositionedUpdate, DecodeError> {
    Ok(PositionedUpdate { update: OddsUpdate::from_json(&record.record.payload)?, position: record.offset })
}

fn unreadable(record: &Record, error: &DecodeError) -> DeadLetter {
    DeadLetter {
        received_at: Timestamp::now(),
        origin: format!("bus partition {} offset {}", record.partition, record.offset),
        reason: error.reason().to_owned(),
        detail: error.to_string(),
        raw: record.record.payload.clone(),
    }
}

/// Reads a dead letter from its record: its headers say what it is.
pub fn read_dead_letter(record: &Record) -> DeadLetter {
    let header = |name: &str| record.header(name).unwrap_or("unknown").to_owned();
    let received_at = record.header(header::RECEIVED_AT).and_then(|text| text.parse().ok());
    DeadLetter {
        received_at: received_at.unwrap_or_else(Timestamp::now),
        origin: header(header::ORIGIN),
        reason: header(header::REASON),
        detail: header(header::DETAIL),
        raw: record.record.payload.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;

    use super::*;
    use crate::bus::embedded::EmbeddedTopic;
    use crate::bus::{NewRecord, Topic};
    use crate::domain::update::testing::*;
    use crate::store::StoreError;

    /// A store that fails as often as told, then keeps what it is given.
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

    fn record(payload: impl Into<Bytes>) -> NewRecord {
        NewRecord { key: Bytes::from_static(b"k"), payload: payload.into(), headers: Vec::new() }
    }

    #[actix_web::test]
    async fn a_failed_batch_is_tried_again_and_committed_only_when_it_is_done() {
        tokio::time::pause();
        let topic = EmbeddedTopic::new(1, 100);
        let kept = Arc::new(Mutex::new(Vec::new()));
        let store = Probe { failures: 4, kept: kept.clone() }.start();
        let settings = ConsumerSettings { group: "g", batch_size: 10, linger: Duration::ZERO };
        let metrics = ProcessorMetrics::new().unwrap();
        let work = Work::Store(store.recipient());
        let consumer = BusConsumer::new(settings, topic.subscribe("g"), work, metrics.clone()).start();
        let garbage = record(&b"{garbage"[..]);
        topic
            .publish(vec![record(update(1, 1, 1).to_json()), garbage, record(update(1, 2, 2).to_json())])
            .await
            .unwrap();
        consumer.send(Drain).await.unwrap();
        assert_eq!(topic.depth(), 0);
        let kept = kept.lock().unwrap();
        let updates: Vec<_> = kept
            .iter()
            .flat_map(|batch| &batch.updates)
            .map(|one| (one.position, one.update.revision.version))
            .collect();
        assert_eq!(updates, [(0, 1), (2, 2)]);
        let dead: Vec<_> = kept.iter().flat_map(|batch| &batch.dead_letters).collect();
        assert_eq!(dead.len(), 1);
        assert_eq!((&dead[0].raw[..], &dead[0].reason[..]), (&b"{garbage"[..], "malformed"));
        assert_eq!(metrics.errors.with_label_values(&["store"]).get(), 4);
        assert_eq!(metrics.consumed.get(), 3);
    }

    #[actix_web::test]
    async fn a_batch_that_waits_longer_than_an_idle_look_is_read_all_the_same() {
        tokio::time::pause();
        let topic = EmbeddedTopic::new(1, 100);
        let kept = Arc::new(Mutex::new(Vec::new()));
        let store = Probe { failures: 0, kept: kept.clone() }.start();
        let settings = ConsumerSettings { group: "g", batch_size: 10, linger: 3 * IDLE_LOOK };
        let metrics = ProcessorMetrics::new().unwrap();
        let consumer =
            BusConsumer::new(settings, topic.subscribe("g"), Work::Store(store.recipient()), metrics.clone()).start();
        topic.publish(vec![record(update(1, 1, 1).to_json())]).await.unwrap();
        let drained = tokio::time::timeout(20 * IDLE_LOOK, consumer.send(Drain)).await;
        assert!(drained.is_ok(), "one record is no full batch, and is not left lying for that");
        assert_eq!(kept.lock().unwrap().len(), 1);
    }
}
