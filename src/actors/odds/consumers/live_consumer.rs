//! The live path: sends updates to the books, with several batches in flight. A position is
//! committed after the cache has confirmed everything before it; until then the bus may deliver it
//! again. Unreadable records are skipped; the store path keeps them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use log::info;
use tokio::time::{Instant, timeout, timeout_at};

use super::batches_in_flight::{BatchesInFlight, oldest_of};
use super::flush_progress::FlushProgress;
use super::state_saver::StateSaver;
use super::update_reader::{UpdateReader, begin_process};
use crate::actors::consumers::LAST_WORK;
use crate::actors::consumers::{BatchError, BatchRetry};
use crate::actors::consumers::{ConsumerSettings, GroupReader, task_of};
use crate::actors::odds::messages::{
    ApplyUpdates, FlushCache, InOrder, PartitionsRevoked, StoreStates,
};
use crate::actors::odds::published_sources::PublishedSources;
use crate::bus::{BusError, ConsumerEvent, Position, Record, Subscription};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backlog::Backlog;
use crate::runtime::drain::DrainableTask;
use crate::runtime::liveness::LivenessProbe;
use crate::telemetry::metrics::ProcessorMetrics;

/// How long a stopping consumer waits for the cache, and for states that are being stored. The next
/// consumer re-reads records that the cache has not taken by then.
const LAST_FLUSH: Duration = Duration::from_secs(1);

/// The actors that a live consumer works with.
pub(crate) struct LiveEdges {
    /// Applies the updates.
    pub books: Recipient<InOrder<ApplyUpdates>>,
    /// Drops the books of revoked partitions.
    pub revoked: Recipient<PartitionsRevoked>,
    /// Confirms that the cache holds the applied updates.
    pub cache: Recipient<FlushCache>,
    /// Stores the last states of books whose records are lost.
    pub store: Recipient<StoreStates>,
}

/// Sends updates to the books.
pub(crate) struct LiveConsumer {
    reader: GroupReader,
    applier: Arc<Applier>,
    revoked: Recipient<PartitionsRevoked>,
    cache: Recipient<FlushCache>,
    applying: BatchesInFlight,
    progress: FlushProgress,
    /// The reply to the flush in flight.
    flush: Option<FlushReply>,
    saver: StateSaver,
    life: Arc<LivenessProbe>,
    backlog: Arc<Backlog>,
    published: Option<Arc<PublishedSources>>,
}

type FlushReply = Pin<Box<dyn Future<Output = Result<(), MailboxError>> + Send>>;

/// Batches in flight, each with its number and whether it succeeded. Kept outside the consumer,
/// since these futures need not be `Send`.
type InFlightBatches = FuturesUnordered<LocalBoxFuture<'static, (u64, bool)>>;

/// Applies batches. Shared by the batches in flight.
struct Applier {
    books: Recipient<InOrder<ApplyUpdates>>,
    reader: UpdateReader,
    retry: BatchRetry,
}

impl Applier {
    /// Sends updates to the books immediately. The returned future completes when they are applied.
    fn send(
        &self,
        updates: Vec<PositionedUpdate>,
    ) -> impl Future<Output = Result<(), BatchError>> + use<> {
        let applying = InOrder::send(&self.books, ApplyUpdates(updates));
        async move {
            applying
                .await
                .map_err(|error| BatchError::new("apply", error))
        }
    }

    /// Waits for the first attempt, and repeats it if it fails, with the batch as it was read at
    /// `read_at`. Returns `false` if the batch is abandoned.
    async fn finish(
        &self,
        batch: &[Record],
        read_at: Timestamp,
        first: impl Future<Output = Result<(), BatchError>>,
    ) -> bool {
        let Err(failure) = first.await else {
            return true;
        };
        let attempt = async || self.send(self.reader.read(batch, read_at).updates).await;
        self.retry.repeat(batch.len(), failure, attempt).await
    }
}

impl LiveConsumer {
    /// Creates a consumer that reads `subscription`.
    pub(crate) fn new(
        settings: ConsumerSettings,
        subscription: Box<dyn Subscription>,
        edges: LiveEdges,
        metrics: ProcessorMetrics,
    ) -> LiveConsumer {
        let applying = BatchesInFlight::new(settings.batch_size);
        let updates = UpdateReader::new(settings.limits, "live", metrics.refused);
        let reader = GroupReader::new(settings, subscription, "live", &metrics.bus_lag);
        let stop = reader.stop().clone();
        let saver = StateSaver::new(edges.store, stop, metrics.errors.clone());
        let applier = Applier {
            books: edges.books,
            reader: updates,
            retry: BatchRetry::new(&reader, metrics.errors),
        };
        LiveConsumer {
            reader,
            applier: Arc::new(applier),
            revoked: edges.revoked,
            cache: edges.cache,
            applying,
            progress: FlushProgress::default(),
            flush: None,
            saver,
            life: Arc::new(LivenessProbe::new()),
            backlog: Arc::default(),
            published: None,
        }
    }

    /// Also records which sources publish.
    pub(crate) fn recording(self, published: Arc<PublishedSources>) -> LiveConsumer {
        LiveConsumer {
            published: Some(published),
            ..self
        }
    }

    /// The age of the oldest record that is not applied yet.
    pub(crate) fn backlog(&self) -> Arc<Backlog> {
        self.backlog.clone()
    }

    /// Touched whenever the consumer polls the bus: after each batch, and often while there is
    /// none.
    pub(crate) fn life(&self) -> Arc<LivenessProbe> {
        self.life.clone()
    }

    /// The actor that runs this consumer.
    pub(crate) fn into_task(self) -> DrainableTask {
        let group = self.reader.group().to_owned();
        let stop = self.reader.stop().clone();
        task_of(group, stop, move || self.run())
    }

    async fn run(mut self) -> Result<(), BusError> {
        let mut in_flight = InFlightBatches::new();
        loop {
            self.life.touch();
            let lag = self.reader.report_lag();
            self.show_backlog(lag);
            if self.reader.is_finished(lag) {
                break;
            }
            self.step(&mut in_flight).await?;
        }
        self.shut_down(&mut in_flight).await;
        Ok(())
    }

    /// Waits for the next batch and starts it, or handles a batch that has ended, or commits the
    /// position that the cache has confirmed.
    async fn step(&mut self, in_flight: &mut InFlightBatches) -> Result<(), BusError> {
        self.request_flush();
        let has_room = self.applying.has_room();
        let event = tokio::select! {
            biased;
            reply = flushed(&mut self.flush) => {
                self.on_flushed(reply);
                None
            }
            Some((number, is_done)) = in_flight.next() => {
                self.on_batch_end(number, is_done);
                None
            }
            event = self.reader.next(has_room) => event?,
        };
        match event {
            Some(ConsumerEvent::Records(batch)) => self.begin(batch, in_flight),
            Some(ConsumerEvent::Revoked {
                partitions,
                are_records_lost,
            }) => {
                let revoked = PartitionsRevoked {
                    partitions,
                    are_records_lost,
                };
                let last = self.revoke(revoked, in_flight).await;
                if are_records_lost {
                    self.life.touch();
                    self.saver.save(last).await;
                }
            }
            Some(ConsumerEvent::Replayed(_)) | None => {}
        }
        Ok(())
    }

    /// Starts to apply a batch. The next one does not wait for it: a slow event blocks no others.
    fn begin(&mut self, batch: Vec<Record>, in_flight: &mut InFlightBatches) {
        let number = self
            .applying
            .begin(Position::after(&batch), batch.len(), oldest_of(&batch));
        self.backlog.set(self.applying.oldest());
        let read_at = Timestamp::now();
        let mut read = self.applier.reader.read(&batch, read_at);
        self.applier.reader.count(&read.bad);
        if let Some(published) = &self.published {
            published.read(&batch, &read.updates);
        }
        let spans = begin_process(&mut read.updates, self.reader.topic());
        // Sent immediately, so that batches reach the books in order.
        let first = self.applier.send(read.updates);
        let applier = self.applier.clone();
        in_flight.push(Box::pin(async move {
            let is_done = applier.finish(&batch, read_at, first).await;
            drop(spans);
            (number, is_done)
        }));
    }

    fn on_batch_end(&mut self, number: u64, is_done: bool) {
        // An abandoned batch and everything after it are left to the next process.
        if is_done && let Some(done) = self.applying.done(number) {
            self.progress.applied(&done);
        }
    }

    /// Drops the books of revoked partitions, and returns the last state of their markets.
    async fn revoke(
        &mut self,
        revoked: PartitionsRevoked,
        in_flight: &mut InFlightBatches,
    ) -> Vec<Arc<MarketState>> {
        // Finish the batches first, so that the books are dropped with their latest state.
        self.finish_all(in_flight).await;
        self.progress.forget(&revoked.partitions);
        info!(group = self.reader.group(); "partitions {:?} revoked", revoked.partitions);
        // An error means that the router is gone; the platform monitors its actors and stops the
        // process.
        self.revoked.send(revoked).await.unwrap_or_default()
    }

    async fn finish_all(&mut self, in_flight: &mut InFlightBatches) {
        while let Some((number, is_done)) = in_flight.next().await {
            self.life.touch();
            self.on_batch_end(number, is_done);
        }
    }

    fn request_flush(&mut self) {
        if self.progress.begin() {
            self.flush = Some(Box::pin(self.cache.send(FlushCache)));
        }
    }

    fn on_flushed(&mut self, reply: Result<(), MailboxError>) {
        self.flush = None;
        if reply.is_err() {
            // The cache writer is gone; the platform monitors its actors and stops the process.
            self.progress.failed();
        } else if let Some(position) = self.progress.confirmed() {
            self.reader.commit(&position);
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

    /// Finishes the batches in flight, as far as time permits, and leaves the group.
    async fn shut_down(&mut self, in_flight: &mut InFlightBatches) {
        let finishing = timeout(LAST_WORK, self.finish_all(in_flight)).await;
        if finishing.is_err() {
            info!(group = self.reader.group(); "shutting down before everything is applied; the next consumer re-reads it");
        }
        let deadline = Instant::now() + LAST_FLUSH;
        if timeout_at(deadline, self.final_flush()).await.is_err() {
            info!(group = self.reader.group(); "shutting down before the cache confirms everything; the next consumer re-reads it");
        }
        // The saver logs what it does not store.
        let _ = timeout_at(deadline, self.saver.wait()).await;
        let lag = self.reader.close().await;
        self.show_backlog(lag);
    }

    /// Flushes until everything that is applied is committed, or the cache writer is gone.
    async fn final_flush(&mut self) {
        while !self.progress.is_complete() {
            self.request_flush();
            let reply = flushed(&mut self.flush).await;
            let is_gone = reply.is_err();
            self.on_flushed(reply);
            if is_gone {
                return;
            }
        }
    }
}

/// Waits for the reply to the flush in flight; forever if there is none.
async fn flushed(flush: &mut Option<FlushReply>) -> Result<(), MailboxError> {
    match flush {
        Some(reply) => reply.as_mut().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
