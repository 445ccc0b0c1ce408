//! The store path: writes every update to the database. Unreadable records become dead letters.

use std::sync::Arc;

use actix::prelude::*;

use super::batch_consumer::{BatchConsumer, BatchHandler};
use super::batch_retry::BatchError;
use super::group_reader::{ConsumerSettings, GroupReader};
use super::update_reader::{BadRecord, ReadBatch, UpdateReader};
use crate::actors::odds::messages::StoreBatch;
use crate::bus::{NewRecord, Record, Subscription, Topic, dead_letter};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::timestamp::Timestamp;
use crate::runtime::drain::DrainableTask;
use crate::telemetry::metrics::ProcessorMetrics;

/// Stores updates.
pub(crate) struct StoreConsumer {
    store: Recipient<StoreBatch>,
    dead_letters: Arc<dyn Topic>,
    reader: UpdateReader,
    /// The topic's name, for dead letters.
    topic: String,
    /// Whether the bus keeps the dead letters.
    is_durable: bool,
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
            dead_letters,
            reader: UpdateReader::new(settings.limits, "store", metrics.refused.clone()),
            topic: settings.topic.clone(),
            is_durable: subscription.is_durable(),
            metrics: metrics.clone(),
        };
        let reader = GroupReader::new(settings, subscription, "store", &metrics.bus_lag);
        BatchConsumer::new(reader, consumer, metrics.errors).into_task()
    }

    async fn store(&self, updates: Vec<PositionedUpdate>) -> Result<(), BatchError> {
        let batch = StoreBatch {
            updates,
            dead_letters: Vec::new(),
        };
        BatchError::of_reply("store", self.store.send(batch).await)
    }

    async fn publish_dead_letters(&self, letters: Vec<NewRecord>) -> Result<(), BatchError> {
        let count = letters.len() as u64;
        let topic = &*self.dead_letters;
        dead_letter::publish(topic, letters)
            .await
            .map_err(|error| {
                BatchError::new("dead_letter", format!("{}: {error}", topic.name()))
            })?;
        self.metrics
            .errors
            .with_label_values(&["decode"])
            .inc_by(count);
        if self.is_durable {
            // A durable bus keeps them, so they are counted here. Otherwise they are counted when
            // they are stored.
            self.metrics.dead_letters.inc_by(count);
        }
        Ok(())
    }

    fn dead_letter(&self, record: &Record, error: &BadRecord) -> NewRecord {
        let topic = &self.topic;
        let letter = DeadLetter {
            received_at: Timestamp::now(),
            origin: format!("{topic}/{}/{}", record.partition, record.offset),
            reason: error.reason().to_owned(),
            detail: error.to_string(),
            raw: record.record.payload.clone(),
        };
        dead_letter::of_record(&letter, topic, record)
    }
}

/// Completed steps of a batch.
#[derive(Default)]
pub(super) struct StoreProgress {
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
        let letters: Vec<_> = bad
            .iter()
            .map(|(record, why)| self.dead_letter(record, why))
            .collect();
        if !updates.is_empty() && !progress.is_stored {
            self.store(updates).await?;
        }
        progress.is_stored = true;
        if letters.is_empty() {
            return Ok(());
        }
        self.publish_dead_letters(letters).await
    }
}

#[cfg(test)]
mod tests;
