//! Keeps the records of a batch that cannot be read as dead letters.

use std::sync::Arc;

use super::update_reader::BadRecord;
use crate::actors::consumers::{BatchError, ConsumerSettings, publish_dead_letters};
use crate::bus::{NewRecord, Record, Subscription, Topic, dead_letter};
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
        let (reason, detail) = (error.reason(), error.to_string());
        let now = Timestamp::now();
        let letter = dead_letter::letter_of(record, &self.source, reason, &detail, now);
        dead_letter::of_record(&letter, &self.source, record)
    }

    /// Publishes dead letters, if there are any.
    pub(super) async fn publish(&self, letters: Vec<NewRecord>) -> Result<(), BatchError> {
        if letters.is_empty() {
            return Ok(());
        }
        let count = letters.len() as u64;
        publish_dead_letters(&*self.dead_letters, letters).await?;
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
