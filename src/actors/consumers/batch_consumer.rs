//! A consumer that works on one batch at a time, and commits it before it reads the next.

use std::time::{Duration, Instant};

use log::info;
use prometheus::IntCounterVec;

use super::batch_retry::{BatchError, BatchRetry};
use super::group_reader::{GroupReader, task_of};
use crate::bus::{BusError, ConsumerEvent, Position, Record};
use crate::runtime::drain::DrainableTask;

/// How often a consumer with a batch in flight reports its lag and checks whether to abandon the
/// batch.
const BUSY_POLL: Duration = Duration::from_millis(100);

/// The work on a batch.
pub(in crate::actors) trait BatchHandler: Send + 'static {
    /// Completed steps of a batch, so that a retry repeats none of them.
    type Progress: Default;

    /// Whether an empty batch is attempted while the consumer is idle, for work that time brings.
    const WORKS_WHILE_IDLE: bool = false;

    /// Processes a batch. Repeated after a failure.
    async fn attempt(
        &self,
        batch: &[Record],
        progress: &mut Self::Progress,
    ) -> Result<(), BatchError>;

    /// Whether the position may be committed. A handler that holds records back commits later.
    fn may_commit(&self) -> bool {
        true
    }

    /// Learns from records that were committed earlier. Only for a subscription with a replay.
    async fn replay(&self, _: &[Record]) {}

    /// Drops what is known of partitions that moved to another member.
    fn forget(&self, _: &[u32]) {}
}

/// Reads batches, and passes each to its handler until that succeeds.
pub(in crate::actors) struct BatchConsumer<H> {
    reader: GroupReader,
    retry: BatchRetry,
    handler: H,
    /// The position after the batches that are done.
    done: Position,
}

impl<H: BatchHandler> BatchConsumer<H> {
    /// Reads from `reader`, and counts failed attempts in `errors`.
    pub(in crate::actors) fn new(
        reader: GroupReader,
        handler: H,
        errors: IntCounterVec,
    ) -> BatchConsumer<H> {
        BatchConsumer {
            retry: BatchRetry::new(&reader, errors),
            reader,
            handler,
            done: Position::default(),
        }
    }

    /// The actor that runs this consumer.
    pub(in crate::actors) fn into_task(self) -> DrainableTask {
        let group = self.reader.group().to_owned();
        let stop = self.reader.stop().clone();
        task_of(group, stop, move || self.run())
    }

    async fn run(mut self) -> Result<(), BusError> {
        loop {
            let lag = self.reader.report_lag();
            if self.reader.is_finished(lag) {
                break;
            }
            match self.reader.next(true).await? {
                Some(ConsumerEvent::Records(batch)) => self.process(&batch).await,
                Some(ConsumerEvent::Replayed(batch)) => self.handler.replay(&batch).await,
                Some(ConsumerEvent::Revoked { partitions, .. }) => {
                    info!(group = self.reader.group(); "partitions {partitions:?} revoked");
                    self.handler.forget(&partitions);
                    self.done.forget(&partitions);
                }
                None if H::WORKS_WHILE_IDLE => self.process(&[]).await,
                None => {}
            }
        }
        self.reader.close().await;
        Ok(())
    }

    /// Works on a batch, and commits it unless it is abandoned.
    async fn process(&mut self, batch: &[Record]) {
        let is_done = {
            let mut working = std::pin::pin!(self.finish(batch));
            let mut stopping_since = None;
            loop {
                // A batch may take as long as a database outage, and the lag shows how many records
                // wait after it.
                self.reader.report_lag();
                if let Ok(is_done) = tokio::time::timeout(BUSY_POLL, &mut working).await {
                    break is_done;
                }
                if self.reader.stop().is_cancelled() {
                    let since = *stopping_since.get_or_insert_with(Instant::now);
                    if self.reader.policy().abandons_running(since.elapsed()) {
                        self.retry.log_abandoned(batch.len());
                        break false;
                    }
                }
            }
        };
        if is_done {
            self.done.merge(&Position::after(batch));
            self.commit();
        }
    }

    fn commit(&mut self) {
        if !self.done.is_empty() && self.handler.may_commit() {
            self.reader.commit(&std::mem::take(&mut self.done));
        }
    }

    /// Returns whether the batch is done; it is abandoned otherwise.
    async fn finish(&self, batch: &[Record]) -> bool {
        let mut progress = H::Progress::default();
        let first = self.handler.attempt(batch, &mut progress).await;
        let Err(failure) = first else { return true };
        let attempt = async || self.handler.attempt(batch, &mut progress).await;
        self.retry.repeat(batch.len(), failure, attempt).await
    }
}
