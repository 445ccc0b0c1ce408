//! The bus on Apache Kafka.
//!
//! A process has one [`KafkaBus`]; its topics share a producer and a topic monitor thread. Each
//! subscription has its own thread, because librdkafka must be polled however slowly its records
//! are processed.

mod commit_in_flight;
mod commits;
mod compacted;
mod config;
mod events;
mod group_progress;
mod inbox;
mod member_state;
#[cfg(test)]
mod mock;
mod producer;
mod publisher;
mod reader;
mod reader_events;
mod reader_thread;
#[cfg(test)]
mod real_engines;
mod record;
mod scan;
mod subscription;
#[cfg(test)]
pub(crate) mod testing;
mod topic_identity;
mod topic_reader;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use rdkafka::ClientConfig;

use self::compacted::KafkaCompactedTopic;
use self::config::Clients;
use self::events::Events;
use self::group_progress::GroupProgress;
use self::member_state::MemberState;
use self::producer::ProducerHandle;
use self::publisher::TopicPublisher;
use self::reader::Reader;
pub(crate) use self::scan::Scan;
use self::subscription::KafkaSubscription;
use self::topic_reader::{KafkaTopicReader, ReadingThread, Start};
use self::topics::{TopicConfig, TopicKind, TopicMonitor, TopicState};
use super::{
    Acknowledgement, BusError, CompactedTopic, NewRecord, Subscription, Topic, TopicReader,
};
use crate::config::settings::BusSettings;
use crate::telemetry::role;

/// The bus on a Kafka cluster.
pub(crate) struct KafkaBus {
    inner: Arc<Inner>,
}

struct Inner {
    clients: Clients,
    producers: Arc<ProducerHandle>,
    monitor: Arc<TopicMonitor>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.monitor.stop();
    }
}

impl KafkaBus {
    /// Validates the settings and creates the clients; never waits for Kafka. `client_id`
    /// identifies this process to the brokers.
    pub(crate) fn new(settings: &BusSettings, client_id: &str) -> Result<KafkaBus, BusError> {
        KafkaBus::open(settings, client_id, Clients::producer)
    }

    /// The same for a process that only reads: it needs no permission to write.
    pub(crate) fn for_reading(
        settings: &BusSettings,
        client_id: &str,
    ) -> Result<KafkaBus, BusError> {
        KafkaBus::open(settings, client_id, Clients::metadata_client)
    }

    fn open(
        settings: &BusSettings,
        client_id: &str,
        producer: fn(&Clients) -> ClientConfig,
    ) -> Result<KafkaBus, BusError> {
        let clients = Clients::new(settings, client_id)?;
        let events = Events::new(clients.redaction.clone());
        let producers = ProducerHandle::new(producer(&clients), events)?;
        let config = TopicConfig {
            partitions: settings.kafka_topic_partitions,
            replication: settings.kafka_topic_replication,
        };
        let monitor = TopicMonitor::start(clients.clone(), config, producers.clone())?;
        Ok(KafkaBus {
            inner: Arc::new(Inner {
                clients,
                producers,
                monitor,
            }),
        })
    }

    /// Returns a topic. A missing topic is created in the background, also if it is deleted later;
    /// an existing one is not changed.
    pub(crate) fn topic(&self, name: &str) -> Arc<dyn Topic> {
        Arc::new(self.kafka_topic(name, Some(TopicKind::Log)))
    }

    /// Returns a topic that other processes create. A missing one is waited for.
    pub(crate) fn existing_topic(&self, name: &str) -> Arc<dyn Topic> {
        Arc::new(self.kafka_topic(name, None))
    }

    /// Returns a compacted topic. It is created in the background once it is read or written.
    pub(crate) fn compacted_topic(&self, name: &str) -> Arc<dyn CompactedTopic> {
        Arc::new(KafkaCompactedTopic::new(self.inner.clone(), name))
    }

    /// Reads the current contents of a topic, or only some offsets, without a group. Blocks; waits
    /// for Kafka at most ten seconds per step.
    pub(crate) fn scan(&self, topic: &str, only: Option<&[(u32, u64)]>) -> Result<Scan, BusError> {
        Scan::new(&self.inner.clients, topic, only)
    }

    fn kafka_topic(&self, name: &str, kind: Option<TopicKind>) -> KafkaTopic {
        let Inner {
            producers, monitor, ..
        } = &*self.inner;
        let topic = monitor.monitor(name, kind);
        let publisher = Arc::new(TopicPublisher::new(
            topic.clone(),
            monitor.clone(),
            producers.clone(),
        ));
        KafkaTopic {
            inner: self.inner.clone(),
            topic,
            publisher,
        }
    }
}

struct KafkaTopic {
    inner: Arc<Inner>,
    topic: Arc<TopicState>,
    publisher: Arc<TopicPublisher>,
}

impl KafkaTopic {
    fn member(&self, group: &str, replay: Option<Duration>) -> Result<KafkaSubscription, BusError> {
        self.read_as(MemberState::new(&self.topic.name, group, replay))
    }

    fn read_as(&self, member: MemberState) -> Result<KafkaSubscription, BusError> {
        let Inner {
            clients,
            producers,
            monitor,
        } = &*self.inner;
        let member = Arc::new(member);
        let last_error = producers.events.last_error.clone();
        let ended = Reader::start(
            clients.clone(),
            member.clone(),
            monitor.clone(),
            self.topic.clone(),
            last_error,
        )?;
        Ok(KafkaSubscription {
            member,
            ended,
            _inner: self.inner.clone(),
        })
    }
}

impl Topic for KafkaTopic {
    fn name(&self) -> &str {
        &self.topic.name
    }

    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        let enqueueing = self.enqueue(records);
        async move { enqueueing.await.received().await }.boxed()
    }

    fn enqueue(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Acknowledgement> {
        if records.is_empty() {
            return ready(Acknowledgement::new(ready(Ok(())))).boxed();
        }
        let publisher = self.publisher.clone();
        let inner = self.inner.clone();
        async move {
            let sent = match publisher.send_batch(records).await {
                Ok(sent) => sent,
                Err(error) => return Acknowledgement::new(ready(Err(error))),
            };
            // A task, so that a failed batch does not wait for one whose caller does not poll.
            let finishing = tokio::spawn(role::inherit(async move {
                let published = publisher.finish(sent).await;
                // A running publish keeps the bus alive.
                drop(inner);
                published
            }));
            Acknowledgement::new(async move { finishing.await.unwrap_or(Err(BusError::Closed)) })
        }
        .boxed()
    }

    fn subscribe(&self, group: &str) -> Result<Box<dyn Subscription>, BusError> {
        Ok(Box::new(self.member(group, None)?))
    }

    fn subscribe_with_replay(
        &self,
        group: &str,
        window: Duration,
    ) -> Result<Box<dyn Subscription>, BusError> {
        Ok(Box::new(self.member(group, Some(window))?))
    }

    fn subscribe_in_bulk(&self, group: &str) -> Result<Box<dyn Subscription>, BusError> {
        let mut member = MemberState::new(&self.topic.name, group, None);
        member.is_bulk = true;
        Ok(Box::new(self.read_as(member)?))
    }

    fn follow(&self, group: &str) -> Result<Box<dyn TopicReader>, BusError> {
        let start = Start::Beside(group.to_owned());
        let events = ReadingThread::start(self.inner.clone(), self.topic.clone(), start)?;
        Ok(Box::new(KafkaTopicReader::new(events)))
    }

    fn committed_by(
        &self,
        group: &str,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), BusError>> {
        let (inner, topic) = (self.inner.clone(), self.topic.clone());
        GroupProgress::passed(inner, topic, group.to_owned(), patience).boxed()
    }

    fn depth(&self) -> usize {
        self.publisher.waiting()
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), BusError>> {
        let inner = self.inner.clone();
        let topic = self.topic.clone();
        async move { inner.monitor.ping(&topic).await }.boxed()
    }
}
