//! Reads all partitions of a topic beside a group, without joining it.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::member_state::MemberState;
use super::reader_events::ReaderEvents;

/// Timeout for an answer from Kafka.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Assigns all partitions, each from where the group has committed: what the group has not done yet
/// is read, and what it has done is in the cache and the store. A partition without a commit is read
/// from its beginning, as the group reads it. Returns the ends of the partitions that hold records
/// to read.
pub(super) fn assign_all(
    consumer: &BaseConsumer<ReaderEvents>,
    member: &MemberState,
) -> Result<Vec<(u32, u64)>, KafkaError> {
    let partitions = partitions_of(consumer, &member.topic)?;
    let list = member.list_at(&partitions, Offset::Invalid);
    let committed = consumer.committed_offsets(list, ANSWER_TIMEOUT)?;
    let mut start = TopicPartitionList::new();
    let mut ends = Vec::new();
    for element in committed.elements() {
        element.error()?;
        let partition = element.partition();
        let (low, end) = consumer.fetch_watermarks(&member.topic, partition, ANSWER_TIMEOUT)?;
        let from = match element.offset() {
            Offset::Offset(offset) if offset >= low => offset,
            _ => low,
        };
        if from < end {
            ends.push((partition as u32, end as u64));
        }
        start.add_partition_offset(&member.topic, partition, Offset::Offset(from))?;
    }
    member.identity.set_missing(false);
    member.inbox().assign(&partitions);
    consumer.assign(&start)?;
    Ok(ends)
}

fn partitions_of(
    consumer: &BaseConsumer<ReaderEvents>,
    topic: &str,
) -> Result<Vec<u32>, KafkaError> {
    let found = consumer.fetch_metadata(Some(topic), ANSWER_TIMEOUT)?;
    let found = found.topics().iter().find(|found| found.name() == topic);
    let missing = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
    let found = found.ok_or(missing)?;
    if let Some(error) = found.error() {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    let partitions = found.partitions().iter();
    Ok(partitions.map(|partition| partition.id() as u32).collect())
}
