//! A topic that the test publishes to directly, as any other producer may.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use super::engines::Sandbox;
use super::{Folder, kafka_admin, until};

const WAIT: Duration = Duration::from_secs(10);

/// The key and payload of a record.
pub type KeyAndPayload = (Vec<u8>, Vec<u8>);

/// The topic of updates that belongs to a folder.
pub struct OddsTopic {
    brokers: String,
    pub name: String,
}

impl OddsTopic {
    /// Creates the topic, with the partition count the platform would choose.
    pub async fn make(folder: &Folder) -> OddsTopic {
        let value = |variable: &str| folder.sandbox().value(variable).unwrap().to_owned();
        let brokers = value("KAFKA_BROKERS");
        let name = value("KAFKA_TOPIC_ODDS");
        let partitions = value("KAFKA_TOPIC_PARTITIONS").parse().unwrap();
        let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        let made = kafka_admin(&brokers)
            .create_topics([&topic], &AdminOptions::new())
            .await
            .unwrap();
        made.into_iter().next().unwrap().unwrap();
        OddsTopic { brokers, name }
    }

    /// A topic that the platform creates, by its setting.
    pub fn existing(folder: &Folder, variable: &str) -> OddsTopic {
        let value = |variable: &str| folder.sandbox().value(variable).unwrap().to_owned();
        OddsTopic {
            brokers: value("KAFKA_BROKERS"),
            name: value(variable),
        }
    }

    /// Publishes in this order, and returns once Kafka has acknowledged everything.
    pub async fn publish(&self, records: Vec<KeyAndPayload>) {
        let publisher = self.publisher();
        let publishing = tokio::task::spawn_blocking(move || {
            records.iter().for_each(|record| publisher.publish(record));
            publisher.finish();
        });
        publishing.await.unwrap();
    }

    /// Publishes one record after another, without waiting.
    pub fn publisher(&self) -> TopicPublisher {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("partitioner", "murmur2_random")
            .set("enable.idempotence", "true")
            .create()
            .unwrap();
        TopicPublisher {
            producer,
            name: self.name.clone(),
        }
    }

    /// Waits until a group has committed everything in the topic.
    pub async fn until_done(&self, group: &str) {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", group)
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(&self.name), WAIT).unwrap();
        let mut ends = HashMap::new();
        let mut partitions = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            let (_, end) = consumer
                .fetch_watermarks(&self.name, partition.id(), WAIT)
                .unwrap();
            ends.insert(partition.id(), end);
            partitions.add_partition(&self.name, partition.id());
        }
        until(&format!("{group} has committed everything"), async || {
            let committed = consumer
                .committed_offsets(partitions.clone(), WAIT)
                .unwrap();
            let is_done = committed.elements().iter().all(|one| {
                let end = ends[&one.partition()];
                end == 0 || one.offset() == Offset::Offset(end)
            });
            is_done.then_some(())
        })
        .await;
    }
}

/// Publishes to an [`OddsTopic`].
pub struct TopicPublisher {
    producer: ThreadedProducer<DefaultProducerContext>,
    name: String,
}

impl TopicPublisher {
    /// Publishes a record after those before it.
    pub fn publish(&self, (key, payload): &KeyAndPayload) {
        self.producer
            .send(BaseRecord::to(&self.name).key(key).payload(payload))
            .map_err(|(error, _)| error)
            .unwrap();
    }

    /// Waits until Kafka has acknowledged everything.
    pub fn finish(self) {
        self.producer.flush(WAIT).unwrap();
    }
}

/// For each partition: the committed offset of a group, and the end offset.
pub type Positions = BTreeMap<i32, (i64, i64)>;

/// A group's committed offsets of the topic of updates; empty if the topic does not exist.
pub fn positions(sandbox: &Sandbox, group: &str) -> Positions {
    let brokers = sandbox.value("KAFKA_BROKERS").unwrap();
    let topic = sandbox.value("KAFKA_TOPIC_ODDS").unwrap();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), WAIT).unwrap();
    let partitions: Vec<i32> = metadata.topics()[0]
        .partitions()
        .iter()
        .map(|partition| partition.id())
        .collect();
    let mut list = TopicPartitionList::new();
    for partition in &partitions {
        list.add_partition(topic, *partition);
    }
    let committed = consumer.committed_offsets(list, WAIT).unwrap();
    let next = |offset| {
        if let Offset::Offset(offset) = offset {
            offset
        } else {
            0
        }
    };
    let position = |partition| {
        let end = consumer.fetch_watermarks(topic, partition, WAIT).unwrap().1;
        let next = next(committed.find_partition(topic, partition).unwrap().offset());
        (partition, (next, end))
    };
    partitions.into_iter().map(position).collect()
}
