//! A compacted topic on Kafka.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::mpsc::unbounded_channel;

use super::Inner;
use super::producer::{DeliveryToken, ProducerHandle};
use super::publisher::send;
use super::topic_reader::{KafkaTopicReader, ReadingThread, Start};
use super::topics::{TopicKind, TopicState};
use crate::bus::{BusError, CompactedTopic, NewRecord, TopicReader};

/// How long Kafka may take to accept a record.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the acknowledgement may take after the producer has dropped a record.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// A compacted topic. It has its own producer, because records that Kafka does not accept in time
/// must be dropped, and those of the other topics must not.
pub(super) struct KafkaCompactedTopic {
    inner: Arc<Inner>,
    name: String,
    producers: Arc<ProducerHandle>,
}

impl KafkaCompactedTopic {
    pub(super) fn new(inner: Arc<Inner>, name: &str) -> KafkaCompactedTopic {
        let config = inner.clients.state_producer(PUBLISH_TIMEOUT);
        let events = inner.producers.events.clone();
        KafkaCompactedTopic {
            inner,
            name: name.to_owned(),
            producers: ProducerHandle::on_demand(config, events),
        }
    }

    fn topic(&self) -> Arc<TopicState> {
        self.inner
            .monitor
            .monitor(&self.name, Some(TopicKind::Compacted))
    }
}

impl CompactedTopic for KafkaCompactedTopic {
    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        let topic = self.topic();
        let inner = self.inner.clone();
        let producers = self.producers.clone();
        async move {
            if !topic.exists() {
                return Err(BusError::Unavailable(inner.monitor.reason()));
            }
            let published = publish(&producers, &topic.name, &records);
            tokio::time::timeout(ANSWER_TIMEOUT, published)
                .await
                .unwrap_or_else(|_| Err(BusError::Unavailable(inner.monitor.reason())))
        }
        .boxed()
    }

    fn read(&self) -> Result<Box<dyn TopicReader>, BusError> {
        let events = ReadingThread::start(self.inner.clone(), self.topic(), Start::Beginning)?;
        Ok(Box::new(KafkaTopicReader::new(events)))
    }
}

/// Sends the records and waits for their acknowledgements.
async fn publish(
    producers: &ProducerHandle,
    topic: &str,
    records: &[NewRecord],
) -> Result<(), BusError> {
    let producer = producers.current()?;
    let (answers, mut answered) = unbounded_channel();
    let failed = |code: RDKafkaErrorCode| BusError::Unavailable(format!("{topic}: {code}"));
    for (index, record) in records.iter().enumerate() {
        let token = Box::new(DeliveryToken {
            index,
            answers: answers.clone(),
        });
        send(&producer, topic, record, token).map_err(failed)?;
    }
    drop(answers);
    let mut result = Ok(());
    while let Some((_, code)) = answered.recv().await {
        result = result.and(code.map_or(Ok(()), |code| Err(failed(code))));
    }
    result
}
