//! Reads what is in a topic now, from its beginning to where it ends at the start, without a group.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::config::Clients;
use super::events::Events;
use super::reader::read_record;
use crate::bus::{BusError, Record};

/// How long Kafka may take to answer, and to give the next record.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to be reached.
const REACHED: Duration = Duration::from_secs(5);
/// The name that librdkafka wants; nobody joins or commits under it.
const NAME: &str = "sports-bet-scan";

impl ConsumerContext for Events {}

/// A walk through a topic. Blocks, and never longer than ten seconds a step.
pub struct Scan {
    consumer: BaseConsumer<Events>,
    events: Events,
    /// Where each partition ends that is not read to its end.
    left: BTreeMap<u32, u64>,
}

impl Scan {
    /// Begins at the beginning of each partition, or reads only these places. A topic that is
    /// missing has no records.
    pub(super) fn new(
        clients: &Clients,
        topic: &str,
        only: Option<&[(u32, u64)]>,
    ) -> Result<Scan, BusError> {
        let events = Events::new(clients.redaction.clone());
        let mut config = clients.reader(NAME);
        config.set("enable.partition.eof", "true");
        let consumer = BaseConsumer::from_config_and_context(&config, events.clone());
        let consumer = consumer.map_err(|error| BusError::Refused(error.to_string()))?;
        let mut scan = Scan {
            consumer,
            events,
            left: BTreeMap::new(),
        };
        let partitions = scan.partitions(topic)?;
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            let watermarks = scan
                .consumer
                .fetch_watermarks(topic, partition as i32, READ_TIMEOUT);
            let (low, high) = watermarks.map_err(|error| scan.unavailable(&error))?;
            let Some((from, to)) = range(only, partition, low.max(0) as u64, high.max(0) as u64)
            else {
                continue;
            };
            scan.left.insert(partition, to);
            let added =
                list.add_partition_offset(topic, partition as i32, Offset::Offset(from as i64));
            added.map_err(|error| scan.unavailable(&error))?;
        }
        scan.consumer
            .assign(&list)
            .map_err(|error| scan.unavailable(&error))?;
        Ok(scan)
    }

    fn partitions(&self, topic: &str) -> Result<Vec<u32>, BusError> {
        let deadline = Instant::now() + REACHED;
        // Asks again: the first answer may come from before the connection stood.
        let found = loop {
            self.consumer.poll(Duration::ZERO);
            match self
                .consumer
                .fetch_metadata(Some(topic), Duration::from_secs(2))
            {
                Ok(found) => break found,
                Err(error) if Instant::now() >= deadline => {
                    self.consumer.poll(Duration::ZERO);
                    return Err(self.unavailable(&error));
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

    fn unavailable(&self, error: &KafkaError) -> BusError {
        BusError::Unavailable(
            self.events
                .trouble
                .last()
                .unwrap_or_else(|| error.to_string()),
        )
    }

    fn step(&mut self) -> Result<Option<Record>, BusError> {
        let deadline = Instant::now() + READ_TIMEOUT;
        while !self.left.is_empty() {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let record = read_record(&message);
                    let Some(end) = self.left.get(&record.partition).copied() else {
                        continue;
                    };
                    if record.offset + 1 >= end {
                        self.left.remove(&record.partition);
                    }
                    if record.offset < end {
                        return Ok(Some(record));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.left.remove(&(partition as u32));
                }
                Some(Err(error)) if Instant::now() >= deadline => {
                    return Err(self.unavailable(&error));
                }
                None if Instant::now() >= deadline => {
                    let reason = self
                        .events
                        .trouble
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

/// From where to where a partition is read; nothing where it holds nothing that is asked for.
fn range(only: Option<&[(u32, u64)]>, partition: u32, low: u64, high: u64) -> Option<(u64, u64)> {
    let (from, to) = match only {
        None => (low, high),
        Some(places) => {
            let wanted = || {
                places
                    .iter()
                    .filter(|(of, _)| *of == partition)
                    .map(|(_, offset)| *offset)
            };
            (
                wanted().min()?.max(low),
                wanted().max()?.saturating_add(1).min(high),
            )
        }
    };
    (from < to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_and_asked_for_is_read() {
        assert_eq!(range(None, 0, 3, 9), Some((3, 9)));
        assert_eq!(range(None, 0, 9, 9), None);
        let places = [(1, 4), (1, 6), (2, 100)];
        assert_eq!(range(Some(&places), 0, 0, 9), None);
        assert_eq!(range(Some(&places), 1, 0, 9), Some((4, 7)));
        assert_eq!(range(Some(&places), 1, 5, 6), Some((5, 6)));
        assert_eq!(range(Some(&places), 2, 0, 9), None);
        assert_eq!(range(Some(&[(0, u64::MAX)]), 0, 0, u64::MAX), None);
    }
}
