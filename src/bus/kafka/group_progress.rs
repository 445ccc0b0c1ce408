//! Waits until a group has committed what a topic holds, without joining the group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::{Instant, timeout};

use super::Inner;
use super::events::Events;
use super::scan::{partitions_of, unavailable};
use super::topic_reader::discard;
use super::topics::TopicState;
use crate::bus::BusError;
use crate::bus::commit_wait::CommitWait;
use crate::telemetry::role;

/// Interval between two looks at the commits.
const POLL: Duration = Duration::from_millis(100);
/// Timeout for an answer of a broker.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads what a group has committed of the records that the topic held at the start.
pub(super) struct GroupProgress {
    client: Client,
    topic: String,
    wait: CommitWait,
}

/// A client that reads positions, and no records.
struct Client {
    /// `None` only while it is dropped.
    consumer: Option<BaseConsumer<Events>>,
    events: Events,
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            discard(consumer);
        }
    }
}

impl GroupProgress {
    /// Completes when the group has committed everything that the topic holds now. Fails if it
    /// commits nothing of it for `patience`, or the topic is missing for so long.
    pub(super) async fn passed(
        inner: Arc<Inner>,
        topic: Arc<TopicState>,
        group: String,
        patience: Duration,
    ) -> Result<(), BusError> {
        // At the first start the topic is just being created.
        let missing = |_| {
            let name = &topic.name;
            BusError::Unavailable(format!("the topic {name} was not found for {patience:?}"))
        };
        timeout(patience, topic.wait()).await.map_err(missing)?;
        let opening = move || GroupProgress::open(&inner, &topic, &group, patience);
        let mut progress = blocking(opening).await?;
        loop {
            let is_passed;
            (progress, is_passed) = blocking(move || progress.advance()).await?;
            if is_passed {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads where each partition ends. Blocks.
    fn open(
        inner: &Inner,
        topic: &TopicState,
        group: &str,
        patience: Duration,
    ) -> Result<GroupProgress, BusError> {
        let events = inner.producers.events.clone();
        let config = inner.clients.reader(group);
        let consumer = BaseConsumer::from_config_and_context(&config, events.clone())
            .map_err(|error| BusError::Refused(error.to_string()))?;
        let client = Client {
            consumer: Some(consumer),
            events,
        };
        let name = &topic.name;
        let ends = client.ends(topic)?;
        Ok(GroupProgress {
            client,
            topic: name.clone(),
            wait: CommitWait::new(name, group, ends, patience, Instant::now()),
        })
    }

    /// Reads what the group has committed by now. Returns whether it is everything. Blocks.
    fn advance(mut self) -> Result<(GroupProgress, bool), BusError> {
        let committed = self.client.committed(&self.topic, self.wait.behind())?;
        let is_passed = self.wait.observe(committed, Instant::now())?;
        Ok((self, is_passed))
    }
}

impl Client {
    /// The end of each partition that holds records. Blocks.
    fn ends(&self, topic: &TopicState) -> Result<BTreeMap<u32, u64>, BusError> {
        let Some(consumer) = &self.consumer else {
            return Ok(BTreeMap::new());
        };
        let partitions = partitions_of(consumer, &self.events, &topic.name)?;
        topic.check_complete(partitions.len())?;
        let mut ends = BTreeMap::new();
        for partition in partitions {
            let (low, high) = consumer
                .fetch_watermarks(&topic.name, partition as i32, ANSWER_TIMEOUT)
                .map_err(|error| unavailable(&self.events, &error))?;
            if low < high {
                ends.insert(partition, high as u64);
            }
        }
        Ok(ends)
    }

    /// What the group has committed of these partitions; those without a commit are left out. Blocks.
    fn committed(
        &self,
        topic: &str,
        partitions: impl Iterator<Item = u32>,
    ) -> Result<BTreeMap<u32, u64>, BusError> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(topic, partition as i32);
        }
        let Some(consumer) = self.consumer.as_ref().filter(|_| list.count() > 0) else {
            return Ok(BTreeMap::new());
        };
        let failed = |error: KafkaError| unavailable(&self.events, &error);
        let answer = consumer.committed_offsets(list, ANSWER_TIMEOUT);
        let mut committed = BTreeMap::new();
        for element in answer.map_err(failed)?.elements() {
            element.error().map_err(failed)?;
            if let Offset::Offset(offset) = element.offset() {
                committed.insert(element.partition() as u32, offset as u64);
            }
        }
        Ok(committed)
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
