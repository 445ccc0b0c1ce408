//! Keeps the records of a batch that cannot be read as dead letters.

use std::sync::Arc;

use super::update_reader::BadRecord;
use crate::actors::consumers::BatchError;
use crate::actors::consumers::ConsumerSettings;
use crate::bus::{NewRecord, Record, Subscription, Topic, dead_letter};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::timestamp::Timestamp;
use crate::telemetry::metrics::ProcessorMetrics;

/// Publishes the unreadable records of one topic.
pub(super) struct DeadLetters {
    dead_letters: Arc<dyn Topic>,
    /// The name of the topic that the records are read from.
    source: String,
    /// Whether the bus keeps the dead letters.
    is_durable: bool,
    metrics: ProcessorMetrics,
}

impl DeadLetters {
    /// Publishes to `dead_letters` what `subscription` reads.
    pub(super) fn new(
        dead_letters: Arc<dyn Topic>,
        settings: &ConsumerSettings,
        subscription: &dyn Subscription,
        metrics: &ProcessorMetrics,
    ) -> DeadLetters {
        DeadLetters {
            dead_letters,
            source: settings.topic.clone(),
            is_durable: subscription.is_durable(),
            metrics: metrics.clone(),
        }
    }

    /// The dead letters of bad records.
    pub(super) fn of(&self, bad: &[(&Record, BadRecord)]) -> Vec<NewRecord> {
        bad.iter()
            .map(|(record, why)| self.dead_letter(record, why))
            .collect()
    }

    fn dead_letter(&self, record: &Record, error: &BadRecord) -> NewRecord {
        let topic = &self.source;
        let letter = DeadLetter {
            received_at: Timestamp::now(),
            origin: format!("{topic}/{}/{}", record.partition, record.offset),
            reason: error.reason().to_owned(),
            detail: error.to_string(),
            raw: record.record.payload.clone(),
        };
        dead_letter::of_record(&letter, topic, record)
    }

    /// Publishes dead letters, if there are any.
    pub(super) async fn publish(&self, letters: Vec<NewRecord>) -> Result<(), BatchError> {
        if letters.is_empty() {
            return Ok(());
        }
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
}
