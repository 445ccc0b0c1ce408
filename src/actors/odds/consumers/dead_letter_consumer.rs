//! Writes the dead letters of a bus that is not durable to the database.

use actix::prelude::*;

use crate::actors::consumers::BatchError;
use crate::actors::consumers::{BatchConsumer, BatchHandler};
use crate::actors::consumers::{ConsumerSettings, GroupReader};
use crate::actors::odds::messages::StoreBatch;
use crate::bus::{Record, Subscription, dead_letter};
use crate::runtime::drain::DrainableTask;
use crate::telemetry::metrics::ProcessorMetrics;

/// Stores dead letters.
pub(crate) struct DeadLetterConsumer {
    store: Recipient<StoreBatch>,
}

impl DeadLetterConsumer {
    /// The actor that reads dead letters from `subscription` and writes them to `store`.
    pub(crate) fn task(
        settings: ConsumerSettings,
        subscription: Box<dyn Subscription>,
        store: Recipient<StoreBatch>,
        metrics: ProcessorMetrics,
    ) -> DrainableTask {
        let reader = GroupReader::new(settings, subscription, "dead_letters", &metrics.bus_lag);
        BatchConsumer::new(reader, DeadLetterConsumer { store }, metrics.errors).into_task()
    }
}

impl BatchHandler for DeadLetterConsumer {
    type Progress = ();

    async fn attempt(&self, batch: &[Record], (): &mut ()) -> Result<(), BatchError> {
        let batch = StoreBatch {
            updates: Vec::new(),
            dead_letters: batch.iter().map(dead_letter::read).collect(),
        };
        BatchError::of_reply("dead_letter", self.store.send(batch).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::odds::consumers::testing::{ProbeStore, record, settings};
    use crate::bus::Topic;
    use crate::bus::embedded::EmbeddedTopic;
    use crate::runtime::drain::Drain;

    #[actix_web::test]
    async fn failed_dead_letters_are_stored_later() {
        tokio::time::pause();
        let topic = EmbeddedTopic::new("dead", 1, 100);
        let subscription = topic.subscribe("g").unwrap();
        let (store, batches) = ProbeStore::failing(3);
        let metrics = ProcessorMetrics::new().unwrap();
        let consumer = DeadLetterConsumer::task(
            settings(std::time::Duration::ZERO),
            subscription,
            store,
            metrics.clone(),
        )
        .start();
        topic.publish(vec![record(&b"raw"[..])]).await.unwrap();
        consumer.send(Drain).await.unwrap();
        assert_eq!(topic.depth(), 0);
        let batches = std::mem::take(&mut *batches.lock());
        let letters: Vec<_> = batches
            .iter()
            .flat_map(|batch| &batch.dead_letters)
            .collect();
        assert_eq!(letters.len(), 1);
        assert_eq!(
            (&letters[0].raw[..], letters[0].reason.as_str()),
            (&b"raw"[..], "unknown")
        );
        assert_eq!(metrics.errors.with_label_values(&["dead_letter"]).get(), 3);
    }
}
