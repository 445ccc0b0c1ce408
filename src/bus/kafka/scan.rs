//! Reads the current contents of a topic without a group: from the beginning to its end at the
//! start of the scan.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::config::Clients;
use super::events::Events;
use super::record::read_record;
use crate::bus::{BusError, Record};

/// Timeout for an answer from Kafka, and for the next record.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for the first connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The group name that librdkafka requires; nothing joins or commits under it.
const GROUP: &str = "sports-bet-scan";

impl ConsumerContext for Events {}

/// A scan of a topic. Blocks, at most ten seconds per step.
pub(crate) struct Scan {
    consumer: BaseConsumer<Events>,
    events: Events,
    /// The end offset of each partition that is not finished.
    remaining: BTreeMap<u32, u64>,
}

impl Scan {
    /// Starts at the beginning of each partition, or reads only the given offsets. A missing topic
    /// has no records.
    pub(super) fn new(
        clients: &Clients,
        topic: &str,
        only: Option<&[(u32, u64)]>,
    ) -> Result<Scan, BusError> {
        let events = Events::new(clients.redaction.clone());
        let mut config = clients.reader(GROUP);
        config.set("enable.partition.eof", "true");
        let consumer = BaseConsumer::from_config_and_context(&config, events.clone());
        let consumer = consumer.map_err(|error| BusError::Refused(error.to_string()))?;
        let mut scan = Scan {
            consumer,
            events,
            remaining: BTreeMap::new(),
        };
        let partitions = partitions_of(&scan.consumer, &scan.events, topic)?;
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            let watermarks = scan
                .consumer
                .fetch_watermarks(topic, partition as i32, READ_TIMEOUT);
            let (low, high) = watermarks.map_err(|error| unavailable(&scan.events, &error))?;
            let Some((from, to)) = range(only, partition, low.max(0) as u64, high.max(0) as u64)
            else {
                continue;
            };
            scan.remaining.insert(partition, to);
            let added =
                list.add_partition_offset(topic, partition as i32, Offset::Offset(from as i64));
            added.map_err(|error| unavailable(&scan.events, &error))?;
        }
        scan.consumer
            .assign(&list)
            .map_err(|error| unavailable(&scan.events, &error))?;
        Ok(scan)
    }

    fn step(&mut self) -> Result<Option<Record>, BusError> {
        let deadline = Instant::now() + READ_TIMEOUT;
        while !self.remaining.is_empty() {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let record = read_record(&message);
                    let Some(end) = self.remaining.get(&record.partition).copied() else {
                        continue;
                    };
                    if record.offset + 1 >= end {
                        self.remaining.remove(&record.partition);
                    }
                    if record.offset < end {
                        return Ok(Some(record));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.remaining.remove(&(partition as u32));
                }
                Some(Err(error)) if Instant::now() >= deadline => {
                    return Err(unavailable(&self.events, &error));
                }
                None if Instant::now() >= deadline => {
                    let reason = self
                        .events
                        .last_error
                        .last()
                        .unwrap_or_else(|| "no answer in time".to_owned());
                    return Err(BusError::Unavailable(reason));
                }
                Some(Err(_)) | None => {}
            }
        }
        Ok(None)
    }
}

impl Iterator for Scan {
    type Item = Result<Record, BusError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// The partitions of a topic; none if it is missing. Blocks until Kafka answers, for a bounded time.
pub(super) fn partitions_of<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    events: &Events,
    topic: &str,
) -> Result<Vec<u32>, BusError> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    // Retries: the first query may fail because the connection is not established yet.
    let found = loop {
        consumer.poll(Duration::ZERO);
        match consumer.fetch_metadata(Some(topic), Duration::from_secs(2)) {
            Ok(found) => break found,
            Err(error) if Instant::now() >= deadline => {
                consumer.poll(Duration::ZERO);
                return Err(unavailable(events, &error));
            }
            Err(_) => {}
        }
    };
    let Some(topic) = found.topics().iter().find(|found| found.name() == topic) else {
        return Ok(Vec::new());
    };
    match topic.error().map(RDKafkaErrorCode::from) {
        None => Ok(topic
            .partitions()
            .iter()
            .map(|partition| partition.id() as u32)
            .collect()),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            Ok(Vec::new())
        }
        Some(code) => Err(BusError::Unavailable(format!(
            "the topic {}: {code}",
            topic.name()
        ))),
    }
}

/// The last error on the way to Kafka, or `error` if there was none.
pub(super) fn unavailable(events: &Events, error: &KafkaError) -> BusError {
    BusError::Unavailable(
        events
            .last_error
            .last()
            .unwrap_or_else(|| error.to_string()),
    )
}

/// The offset range to read, or `None` if nothing requested is available.
fn range(only: Option<&[(u32, u64)]>, partition: u32, low: u64, high: u64) -> Option<(u64, u64)> {
    let (from, to) = match only {
        None => (low, high),
        Some(offsets) => {
            let requested = || {
                offsets
                    .iter()
                    .filter(|(of, _)| *of == partition)
                    .map(|(_, offset)| *offset)
            };
            (
                requested().min()?.max(low),
                requested().max()?.saturating_add(1).min(high),
            )
        }
    };
    (from < to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_covers_available_requested_offsets() {
        assert_eq!(range(None, 0, 3, 9), Some((3, 9)));
        assert_eq!(range(None, 0, 9, 9), None);
        let offsets = [(1, 4), (1, 6), (2, 100)];
        assert_eq!(range(Some(&offsets), 0, 0, 9), None);
        assert_eq!(range(Some(&offsets), 1, 0, 9), Some((4, 7)));
        assert_eq!(range(Some(&offsets), 1, 5, 6), Some((5, 6)));
        assert_eq!(range(Some(&offsets), 2, 0, 9), None);
        assert_eq!(range(Some(&[(0, u64::MAX)]), 0, 0, u64::MAX), None);
    }
}
