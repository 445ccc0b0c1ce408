//! Reads the bus as one consumer group, hands each batch to its handler, and commits it when the
//! work is done.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use log::{error, info, warn};
use prometheus::IntGauge;
use tokio::sync::watch;

use super::batches_in_flight::{BatchesInFlight, oldest_of};
use super::messages::{ApplyUpdates, FlushCache, InOrder, PartitionsRevoked, StoreBatch};
use crate::bus::dead_letter;
use crate::bus::{BusError, ConsumerEvent, Position, Record, Subscription, Topic};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::odds::plausible::{Implausible, Plausibility};
use crate::domain::odds::update::{DecodeError, OddsUpdate, PositionedUpdate};
use crate::domain::timestamp::Timestamp;
use crate::runtime::backlog::Backlog;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::runtime::drain::Drain;
use crate::runtime::liveness::LivenessProbe;
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::ProcessorMetrics;

/// How often an idle consumer wakes up to report its lag and a sign of life.
const IDLE_POLL: Duration = Duration::from_millis(250);
/// How often a consumer with a batch in flight reports its lag and checks whether to abandon the
/// batch.
const BUSY_POLL: Duration = Duration::from_millis(100);
/// Delays between attempts of a batch that failed.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(100),
    most: Duration::from_secs(1),
};
/// How long the batch in flight may take when the process stops and the bus is durable. A locked
/// database answers only after its own timeout, and the shutdown timeout may expire before.
const LAST_BATCH: Duration = Duration::from_secs(2);
/// How long a stopping consumer waits for the cache. The next consumer re-reads records that the
/// cache has not taken by then.
const LAST_FLUSH: Duration = Duration::from_secs(1);

/// How batches are processed.
pub enum Work {
    /// The live path. Unreadable records are skipped; the store path keeps them.
    Books {
        /// Applies the updates.
        books: Recipient<InOrder<ApplyUpdates>>,
        /// Drops the books of revoked partitions.
        revoked: Recipient<PartitionsRevoked>,
        /// Confirms that the cache holds the applied updates. Until then they are not committed,
        /// and the bus may deliver them again.
        cache: Recipient<FlushCache>,
    },
    /// The store path: writes to the database; unreadable records become dead letters.
    Store {
        /// Writes the updates.
        store: Recipient<StoreBatch>,
        /// The topic of the dead letters.
        dead_letters: Arc<dyn Topic>,
    },
    /// Dead letters of a bus that is not durable: written to the database.
    DeadLetters(Recipient<StoreBatch>),
}

impl Work {
    /// The purpose of the group. Alerts and dashboards select by it, since an operator may rename
    /// the group.
    fn purpose(&self) -> &'static str {
        match self {
            Work::Books { .. } => "live",
            Work::Store { .. } => "store",
            Work::DeadLetters(_) => "dead_letters",
        }
    }
}

/// Settings of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// The group's name, for logs and metrics.
    pub group: String,
    /// The topic's name, for dead letters.
    pub topic: String,
    /// Maximum number of records per batch.
    pub batch_size: usize,
    /// How long a batch waits to fill up.
    pub linger: Duration,
    /// Which updates are plausible.
    pub limits: Plausibility,
}

/// Why a record is not an update that may be applied.
#[derive(Debug, thiserror::Error)]
enum BadRecord {
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    #[error(transparent)]
    Implausible(#[from] Implausible),
}

impl BadRecord {
    fn reason(&self) -> &'static str {
        match self {
            BadRecord::Unreadable(error) => error.reason(),
            BadRecord::Implausible(why) => why.reason(),
        }
    }
}

/// Reads the bus for one group. A failed batch is retried until it succeeds: the lag of the group
/// grows, but nothing is lost or skipped.
pub struct BusConsumer {
    reader: Option<Reader>,
    life: Arc<LivenessProbe>,
    backlog: Arc<Backlog>,
    stopping: watch::Sender<bool>,
    finished: watch::Receiver<bool>,
}

impl BusConsumer {
    /// Creates a consumer that reads `subscription` and processes each batch with `work`.
    pub fn new(
        settings: ConsumerSettings,
        subscription: Box<dyn Subscription>,
        work: Work,
        metrics: ProcessorMetrics,
    ) -> BusConsumer {
        let (stopping, stop) = watch::channel(false);
        let (finish, finished) = watch::channel(false);
        let lag = metrics
            .bus_lag
            .with_label_values(&[&settings.group, work.purpose()]);
        let applying = BatchesInFlight::new(settings.batch_size);
        let worker = Arc::new(Worker {
            settings,
            work,
            lag,
            stop,
            log: FaultLog::new(),
            metrics,
        });
        let (unflushed, life, backlog) = (
            Position::default(),
            Arc::new(LivenessProbe::new()),
            Arc::<Backlog>::default(),
        );
        let reader = Reader {
            subscription,
            worker,
            applying,
            unflushed,
            flushing: None,
            life: life.clone(),
            backlog: backlog.clone(),
            finish,
        };
        BusConsumer {
            reader: Some(reader),
            life,
            backlog,
            stopping,
            finished,
        }
    }

    /// The age of the oldest record of the live path that is not applied yet.
    pub fn backlog(&self) -> Arc<Backlog> {
        self.backlog.clone()
    }

    /// Touched whenever the consumer polls the bus: after each batch, and often while there is
    /// none.
    pub fn life(&self) -> Arc<LivenessProbe> {
        self.life.clone()
    }
}

impl Actor for BusConsumer {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        context.spawn(reader.run().into_actor(self).map(|end, _, context| {
            // A drained consumer stays alive and idle: it did not stop because of a fault.
            if let Err((group, end)) = end {
                warn!(group; "consumer stopped: {end}");
                context.stop();
            }
        }));
    }
}

impl Handler<Drain> for BusConsumer {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        self.stopping.send_replace(true);
        let mut finished = self.finished.clone();
        Box::pin(async move {
            // An error means that the reader is gone, so there is nothing left to wait for.
            let _ = finished.wait_for(|finished| *finished).await;
        })
    }
}

/// A flush in flight, and the position to commit when it completes.
struct Flushing {
    until: Position,
    answer: Pin<Box<dyn Future<Output = Result<(), MailboxError>> + Send>>,
}

struct Reader {
    subscription: Box<dyn Subscription>,
    worker: Arc<Worker>,
    /// Batches of the live path in flight.
    applying: BatchesInFlight,
    /// The position that is applied but not yet confirmed by the cache.
    unflushed: Position,
    flushing: Option<Flushing>,
    life: Arc<LivenessProbe>,
    backlog: Arc<Backlog>,
    finish: watch::Sender<bool>,
}

/// Batches of the live path in flight, each with its number and whether it succeeded. Kept outside
/// `Reader`, since these futures need not be `Send`.
type InWork = FuturesUnordered<LocalBoxFuture<'static, (u64, bool)>>;

/// The failed stage and the reason.
type Failure = (&'static str, String);

struct Worker {
    settings: ConsumerSettings,
    work: Work,
    lag: IntGauge,
    stop: watch::Receiver<bool>,
    log: FaultLog,
    metrics: ProcessorMetrics,
}

impl Reader {
    async fn run(mut self) -> Result<(), (String, BusError)> {
        let mut in_work = InWork::new();
        loop {
            self.life.touch();
            let lag = self.subscription.lag();
            self.worker.lag.set(lag as i64);
            self.show_backlog(lag);
            // A durable bus keeps the rest for the next process.
            if *self.worker.stop.borrow() && (lag == 0 || self.subscription.is_durable()) {
                if tokio::time::timeout(LAST_BATCH, self.finish_all(&mut in_work))
                    .await
                    .is_err()
                {
                    info!(group = self.worker.settings.group.as_str(); "shutting down before everything is applied; the next consumer re-reads it");
                }
                self.final_flush().await;
                self.subscription.close().await;
                let lag = self.subscription.lag();
                self.worker.lag.set(lag as i64);
                self.show_backlog(lag);
                self.finish.send_replace(true);
                return Ok(());
            }
            self.step(&mut in_work)
                .await
                .map_err(|end| (self.worker.settings.group.clone(), end))?;
        }
    }

    /// Waits for the next batch and starts it, or handles a batch that has ended, or commits the
    /// position that the cache has confirmed.
    async fn step(&mut self, in_work: &mut InWork) -> Result<(), BusError> {
        self.request_flush();
        let settings = &self.worker.settings;
        // Includes the linger time: a shorter timeout would restart the wait forever and read
        // nothing.
        let limit = IDLE_POLL.saturating_add(settings.linger);
        let has_room = self.applying.has_room();
        let reading = async {
            if has_room {
                self.subscription
                    .next_batch(settings.batch_size, settings.linger)
                    .await
            } else {
                std::future::pending().await
            }
        };
        let mut stop = self.worker.stop.clone();
        let event = tokio::select! {
            biased;
            answer = flushed(&mut self.flushing) => {
                self.on_flushed(answer);
                return Ok(());
            }
            Some((number, is_done)) = in_work.next() => {
                self.on_batch_end(number, is_done);
                return Ok(());
            }
            Ok(_) = stop.wait_for(|stop| *stop), if !*self.worker.stop.borrow() => return Ok(()),
            event = tokio::time::timeout(limit, reading) => event,
        };
        match event {
            Err(_idle) => Ok(()),
            Ok(Err(end)) => Err(end),
            Ok(Ok(ConsumerEvent::Revoked(partitions))) => {
                // Finish the batches first, so that the books are dropped with their latest state.
                self.finish_all(in_work).await;
                // The partitions may return with lower offsets if the topic is recreated.
                self.unflushed.forget(&partitions);
                if let Some(flushing) = &mut self.flushing {
                    flushing.until.forget(&partitions);
                }
                self.worker.drop_books(partitions).await;
                Ok(())
            }
            Ok(Ok(ConsumerEvent::Records(batch))) => {
                match self.worker.work {
                    Work::Books { .. } => self.begin(batch, in_work),
                    Work::Store { .. } | Work::DeadLetters(_) => self.work_on(&batch).await,
                }
                Ok(())
            }
        }
    }

    /// Starts to apply a batch. The next one does not wait for it: a slow event blocks no others.
    fn begin(&mut self, batch: Vec<Record>, in_work: &mut InWork) {
        let number = self
            .applying
            .begin(Position::after(&batch), batch.len(), oldest_of(&batch));
        self.backlog.set(self.applying.oldest());
        let (worker, is_durable) = (self.worker.clone(), self.subscription.is_durable());
        // Sent immediately, so that batches reach the books in order.
        let mut progress = BatchProgress::default();
        let first = worker.apply(&batch, &mut progress);
        in_work.push(Box::pin(async move {
            let is_done = match first.await {
                Ok(()) => true,
                Err(failure) => {
                    worker
                        .retry(&batch, &mut progress, is_durable, failure)
                        .await
                }
            };
            (number, is_done)
        }));
    }

    fn on_batch_end(&mut self, number: u64, is_done: bool) {
        // An abandoned batch and everything after it are left to the next process.
        if is_done && let Some(done) = self.applying.done(number) {
            self.unflushed.merge(&done);
        }
    }

    /// Reports the age of the first batch in flight. If none is in flight and records are left on
    /// the bus, the age of the last batch stays until another is read.
    fn show_backlog(&self, lag: u64) {
        let oldest = self.applying.oldest();
        if oldest.is_some() || lag == 0 {
            self.backlog.set(oldest);
        }
    }

    async fn finish_all(&mut self, in_work: &mut InWork) {
        while let Some((number, is_done)) = in_work.next().await {
            self.life.touch();
            self.on_batch_end(number, is_done);
        }
    }

    async fn work_on(&mut self, batch: &[Record]) {
        let (subscription, worker) = (&self.subscription, &self.worker);
        let mut working = std::pin::pin!(worker.finish(batch, subscription.is_durable()));
        // A batch may take as long as a database outage, and the lag shows how many records wait
        // after it.
        let mut stopping_since = None;
        let done = loop {
            worker.lag.set(subscription.lag() as i64);
            if let Ok(done) = tokio::time::timeout(BUSY_POLL, &mut working).await {
                break done;
            }
            if subscription.is_durable() && *worker.stop.borrow() {
                let since = *stopping_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= LAST_BATCH {
                    worker.abandon(batch);
                    break false;
                }
            }
        };
        if !done {
            return;
        }
        self.subscription.commit(&Position::after(batch));
    }

    fn request_flush(&mut self) {
        if let Work::Books { cache, .. } = &self.worker.work
            && self.flushing.is_none()
            && !self.unflushed.is_empty()
        {
            let until = std::mem::take(&mut self.unflushed);
            self.flushing = Some(Flushing {
                until,
                answer: Box::pin(cache.send(FlushCache)),
            });
        }
    }

    fn on_flushed(&mut self, answer: Result<(), MailboxError>) {
        let Some(Flushing { until, .. }) = self.flushing.take() else {
            return;
        };
        match answer {
            Ok(()) => self.subscription.commit(&until),
            // The cache writer is gone; the platform monitors its actors and stops the process.
            Err(_) => self.unflushed.merge(&until),
        }
    }

    async fn final_flush(&mut self) {
        let flushing = async {
            while self.flushing.is_some() || !self.unflushed.is_empty() {
                self.request_flush();
                let answer = flushed(&mut self.flushing).await;
                let gone = answer.is_err();
                self.on_flushed(answer);
                if gone {
                    return;
                }
            }
        };
        if tokio::time::timeout(LAST_FLUSH, flushing).await.is_err() {
            info!(group = self.worker.settings.group.as_str(); "shutting down before the cache confirms everything; the next consumer re-reads it");
        }
    }
}

/// Waits for the reply to the flush; forever if there is none in flight.
async fn flushed(flushing: &mut Option<Flushing>) -> Result<(), MailboxError> {
    match flushing {
        Some(flushing) => flushing.answer.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Completed steps of a batch, so that a retry repeats none of them.
#[derive(Default)]
struct BatchProgress {
    stored: bool,
    counted: bool,
}

impl Worker {
    /// Processes a batch until it is done. `false` if it was abandoned, because the process stops
    /// and the bus still holds the batch.
    async fn finish(&self, batch: &[Record], is_durable: bool) -> bool {
        if matches!(self.work, Work::Store { .. }) {
            self.metrics.consumed.inc_by(batch.len() as u64);
        }
        let mut progress = BatchProgress::default();
        match self.work_on(batch, &mut progress, is_durable).await {
            Ok(()) => true,
            Err(failure) => self.retry(batch, &mut progress, is_durable, failure).await,
        }
    }

    /// Sends the updates of a batch to the books immediately. The returned future completes when
    /// they are applied.
    fn apply(
        &self,
        batch: &[Record],
        progress: &mut BatchProgress,
    ) -> impl Future<Output = Result<(), Failure>> + use<> {
        let applying = match &self.work {
            Work::Books { books, .. } => {
                let (updates, _) = self.read_updates(batch, "live", progress);
                Some(InOrder::send(books, ApplyUpdates(updates)))
            }
            Work::Store { .. } | Work::DeadLetters(_) => None,
        };
        async move {
            match applying {
                Some(applying) => applying.await.map_err(|error| ("apply", error.to_string())),
                None => Ok(()),
            }
        }
    }

    async fn retry(
        &self,
        batch: &[Record],
        progress: &mut BatchProgress,
        is_durable: bool,
        failure: Failure,
    ) -> bool {
        let mut backoff = Backoff::new(RETRY, Timestamp::now().micros() as u64);
        let mut stop = self.stop.clone();
        let mut logged = None;
        let mut last = Err(failure);
        while let Err((stage, failure)) = last {
            self.metrics.errors.with_label_values(&[stage]).inc();
            let delay = backoff.next_delay();
            let group = self.settings.group.as_str();
            // Log each cause once, however long it lasts.
            if logged.as_ref() != Some(&failure) {
                if let Some(repeated) = self.log.failed(&failure) {
                    error!(group, repeated; "batch failed, retrying until it succeeds: {failure}");
                }
                logged = Some(failure);
            }
            // A stop cuts the wait short, and one more attempt follows.
            let was_stopping = *stop.borrow();
            if was_stopping && is_durable {
                self.abandon(batch);
                return false;
            }
            let stopped = async {
                if was_stopping || stop.wait_for(|stop| *stop).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let _ = tokio::time::timeout(delay, stopped).await;
            last = self.work_on(batch, progress, is_durable).await;
        }
        if logged.is_some() && self.log.recovered() {
            info!(group = self.settings.group.as_str(), tries = backoff.failures(); "batch succeeded after retries");
        }
        true
    }

    /// Leaves a batch to the next process.
    fn abandon(&self, batch: &[Record]) {
        let group = self.settings.group.as_str();
        warn!(group, records = batch.len(); "shutting down mid-batch; the next consumer re-reads it");
    }

    async fn work_on(
        &self,
        batch: &[Record],
        progress: &mut BatchProgress,
        is_durable: bool,
    ) -> Result<(), Failure> {
        match &self.work {
            Work::Books { .. } => self.apply(batch, progress).await,
            Work::Store {
                store,
                dead_letters,
            } => {
                let (updates, bad) = self.read_updates(batch, "store", progress);
                let unreadable: Vec<_> = bad
                    .iter()
                    .map(|(record, why)| self.dead_letter(record, why))
                    .collect();
                if !updates.is_empty() && !progress.stored {
                    let batch = StoreBatch {
                        updates,
                        dead_letters: Vec::new(),
                    };
                    answered(store.send(batch).await).map_err(|failure| ("store", failure))?;
                }
                progress.stored = true;
                let count = unreadable.len() as u64;
                if count > 0 {
                    let published = dead_letter::publish(&**dead_letters, unreadable).await;
                    published.map_err(|error| {
                        ("dead_letter", format!("{}: {error}", dead_letters.name()))
                    })?;
                    self.metrics
                        .errors
                        .with_label_values(&["decode"])
                        .inc_by(count);
                    if is_durable {
                        // A durable bus keeps them, so they are counted here. Otherwise they are
                        // counted when they are stored.
                        self.metrics.dead_letters.inc_by(count);
                    }
                }
                Ok(())
            }
            Work::DeadLetters(store) => {
                let dead_letters = batch.iter().map(dead_letter::read).collect();
                let batch = StoreBatch {
                    updates: Vec::new(),
                    dead_letters,
                };
                answered(store.send(batch).await).map_err(|failure| ("dead_letter", failure))
            }
        }
    }

    /// The updates of a batch, and the records that hold none. Those are counted once, however
    /// often the batch is retried.
    fn read_updates<'a>(
        &self,
        batch: &'a [Record],
        path: &str,
        progress: &mut BatchProgress,
    ) -> (Vec<PositionedUpdate>, Vec<(&'a Record, BadRecord)>) {
        let now = Timestamp::now();
        let (mut updates, mut bad) = (Vec::with_capacity(batch.len()), Vec::new());
        for record in batch {
            match read_update(record, self.settings.limits, now) {
                Ok(update) => updates.push(update),
                Err(why) => bad.push((record, why)),
            }
        }
        if !std::mem::replace(&mut progress.counted, true) {
            for (_, why) in &bad {
                self.metrics
                    .refused
                    .with_label_values(&[path, why.reason()])
                    .inc();
            }
        }
        (updates, bad)
    }

    fn dead_letter(&self, record: &Record, error: &BadRecord) -> crate::bus::NewRecord {
        let topic = &self.settings.topic;
        let letter = DeadLetter {
            received_at: Timestamp::now(),
            origin: format!("{topic}/{}/{}", record.partition, record.offset),
            reason: error.reason().to_owned(),
            detail: error.to_string(),
            raw: record.record.payload.clone(),
        };
        dead_letter::of_record(&letter, topic, record)
    }

    async fn drop_books(&self, partitions: Vec<u32>) {
        info!(group = self.settings.group.as_str(); "partitions {partitions:?} revoked");
        if let Work::Books { revoked, .. } = &self.work {
            // An error means that the router is gone; the platform monitors its actors and stops
            // the process.
            let _ = revoked.send(PartitionsRevoked(partitions)).await;
        }
    }
}

/// Flattens the reply of an actor into one result.
fn answered<E: std::fmt::Display>(
    answer: Result<Result<(), E>, MailboxError>,
) -> Result<(), String> {
    answer
        .map_err(|gone| gone.to_string())
        .and_then(|result| result.map_err(|error| error.to_string()))
}

fn read_update(
    record: &Record,
    limits: Plausibility,
    now: Timestamp,
) -> Result<PositionedUpdate, BadRecord> {
    let update = OddsUpdate::from_json(&record.record.payload)?;
    limits.check_record(update.revision.updated_at, record.published_at, now)?;
    Ok(PositionedUpdate {
        update,
        partition: record.partition,
        position: record.offset,
    })
}

#[cfg(test)]
mod tests;
