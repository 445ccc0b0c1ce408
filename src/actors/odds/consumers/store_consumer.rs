//! The store path: writes every update to the database. Unreadable records become dead letters.

use std::sync::Arc;

use actix::prelude::*;

use super::dead_letters::DeadLetters;
use super::update_reader::{ReadBatch, UpdateReader};
use crate::actors::consumers::BatchError;
use crate::actors::consumers::{BatchConsumer, BatchHandler};
use crate::actors::consumers::{ConsumerSettings, GroupReader};
use crate::actors::odds::messages::StoreBatch;
use crate::bus::{Record, Subscription, Topic};
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::timestamp::Timestamp;
use crate::runtime::drain::DrainableTask;
use crate::telemetry::metrics::ProcessorMetrics;
use crate::telemetry::trace::{Span, SpanKind};

/// Stores updates.
pub(crate) struct StoreConsumer {
    store: Recipient<StoreBatch>,
    dead_letters: DeadLetters,
    reader: UpdateReader,
    metrics: ProcessorMetrics,
}

impl StoreConsumer {
    /// The actor that reads updates from `subscription` and writes them to `store`.
    pub(crate) fn task(
        settings: ConsumerSettings,
        subscription: Box<dyn Subscription>,
        store: Recipient<StoreBatch>,
        dead_letters: Arc<dyn Topic>,
        metrics: ProcessorMetrics,
    ) -> DrainableTask {
        let consumer = StoreConsumer {
            store,
            dead_letters: DeadLetters::new(dead_letters, &settings, &*subscription, &metrics),
            reader: UpdateReader::new(settings.limits, "store", metrics.refused.clone()),
            metrics: metrics.clone(),
        };
        let reader = GroupReader::new(settings, subscription, "store", &metrics.bus_lag);
        BatchConsumer::new(reader, consumer, metrics.errors).into_task()
    }

    async fn store(&self, updates: Vec<PositionedUpdate>) -> Result<(), BatchError> {
        let traced = updates.iter().filter_map(|update| update.trace);
        let mut span = Span::batch(SpanKind::Consumer, "store odds", traced);
        span.set("batch.size", updates.len() as i64);
        let batch = StoreBatch {
            updates,
            dead_letters: Vec::new(),
        };
        let stored = BatchError::of_reply("store", self.store.send(batch).await);
        if stored.is_err() {
            span.fail("store");
        }
        stored
    }
}

/// Completed steps of a batch.
#[derive(Default)]
pub(in crate::actors) struct StoreProgress {
    /// When the batch was first read.
    read_at: Option<Timestamp>,
    is_counted: bool,
    is_stored: bool,
}

impl BatchHandler for StoreConsumer {
    type Progress = StoreProgress;

    async fn attempt(
        &self,
        batch: &[Record],
        progress: &mut StoreProgress,
    ) -> Result<(), BatchError> {
        let read_at = *progress.read_at.get_or_insert_with(Timestamp::now);
        let ReadBatch { updates, bad } = self.reader.read(batch, read_at);
        if !std::mem::replace(&mut progress.is_counted, true) {
            self.metrics.consumed.inc_by(batch.len() as u64);
            self.reader.count(&bad);
        }
        let letters = self.dead_letters.of(&bad);
        if !updates.is_empty() && !progress.is_stored {
            self.store(updates).await?;
        }
        progress.is_stored = true;
        self.dead_letters.publish(letters).await
    }
}

#[cfg(test)]
mod tests;
