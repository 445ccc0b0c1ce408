//! Waits until a group has committed what a topic holds, without joining the group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::Inner;
use super::events::Events;
use super::scan::{partitions_of, unavailable};
use super::topic_reader::discard;
use super::topics::TopicState;
use crate::bus::BusError;
use crate::telemetry::role;

/// Interval between two looks at the commits.
const POLL: Duration = Duration::from_millis(100);
/// Timeout for an answer of a broker.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What a group has not committed yet of the records that the topic held at the start.
pub(super) struct GroupProgress {
    /// `None` only while it is dropped.
    consumer: Option<BaseConsumer<Events>>,
    events: Events,
    topic: String,
    /// The end of each partition that the group has not committed.
    behind: BTreeMap<u32, i64>,
}

impl Drop for GroupProgress {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            discard(consumer);
        }
    }
}

impl GroupProgress {
    /// Completes when the group has committed everything that the topic holds now.
    pub(super) async fn passed(
        inner: Arc<Inner>,
        topic: Arc<TopicState>,
        group: String,
    ) -> Result<(), BusError> {
        let mut progress = blocking(move || GroupProgress::open(&inner, &topic, &group)).await?;
        loop {
            progress = blocking(move || progress.advance()).await?;
            if progress.behind.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads where each partition ends. Blocks.
    fn open(inner: &Inner, topic: &TopicState, group: &str) -> Result<GroupProgress, BusError> {
        let events = inner.producers.events.clone();
        let config = inner.clients.reader(group);
        let consumer = BaseConsumer::from_config_and_context(&config, events.clone())
            .map_err(|error| BusError::Refused(error.to_string()))?;
        let mut progress = GroupProgress {
            consumer: Some(consumer),
            events,
            topic: topic.name.clone(),
            behind: BTreeMap::new(),
        };
        progress.behind = progress.ends(topic)?;
        Ok(progress)
    }

    /// The end of each partition that holds records. Blocks.
    fn ends(&self, topic: &TopicState) -> Result<BTreeMap<u32, i64>, BusError> {
        let Some(consumer) = &self.consumer else {
            return Ok(BTreeMap::new());
        };
        let events = &self.events;
        let partitions = partitions_of(consumer, events, &topic.name)?;
        topic.check_complete(partitions.len())?;
        let mut ends = BTreeMap::new();
        for partition in partitions {
            let (low, high) = consumer
                .fetch_watermarks(&topic.name, partition as i32, ANSWER_TIMEOUT)
                .map_err(|error| unavailable(events, &error))?;
            if low < high {
                ends.insert(partition, high);
            }
        }
        Ok(ends)
    }

    /// Forgets the partitions that the group has committed by now. Blocks.
    fn advance(mut self) -> Result<GroupProgress, BusError> {
        let committed = self
            .committed()
            .map_err(|error| unavailable(&self.events, &error))?;
        for element in committed.elements() {
            let partition = element.partition() as u32;
            if let (Offset::Offset(offset), Some(end)) =
                (element.offset(), self.behind.get(&partition))
                && offset >= *end
            {
                self.behind.remove(&partition);
            }
        }
        Ok(self)
    }

    fn committed(&self) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for partition in self.behind.keys() {
            list.add_partition(&self.topic, *partition as i32);
        }
        match &self.consumer {
            Some(consumer) if list.count() > 0 => consumer.committed_offsets(list, ANSWER_TIMEOUT),
            _ => Ok(list),
        }
    }
}

/// Runs work that waits for Kafka on a thread of the blocking pool.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BusError> + Send + 'static,
) -> Result<T, BusError> {
    tokio::task::spawn_blocking(role::carry(work))
        .await
        .unwrap_or_else(|failure| Err(BusError::Unavailable(failure.to_string())))
}
