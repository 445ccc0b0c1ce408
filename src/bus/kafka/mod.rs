//! The bus on Apache Kafka.
//!
//! A process has one [`KafkaBus`]; its topics share a producer and a topic monitor thread. Each
//! subscription has its own thread, because librdkafka must be polled however slowly its records
//! are processed.

mod config;
mod events;
mod inbox;
#[cfg(test)]
mod mock;
mod producer;
mod reader;
#[cfg(test)]
mod real_engines;
mod scan;
mod subscription;
#[cfg(test)]
pub(crate) mod testing;
mod topics;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use self::config::Clients;
use self::producer::{ProducerHandle, TopicPublisher};
use self::reader::{Reader, Shared};
pub use self::scan::Scan;
use self::subscription::KafkaSubscription;
use self::topics::{TopicConfig, TopicMonitor, TopicState};
use super::{BusError, NewRecord, Subscription, Topic};
use crate::config::settings::BusSettings;

/// The bus on a Kafka cluster.
pub struct KafkaBus {
    inner: Arc<Inner>,
}

struct Inner {
    clients: Clients,
    producers: Arc<ProducerHandle>,
    keeper: Arc<TopicMonitor>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.keeper.stop();
    }
}

impl KafkaBus {
    /// Validates the settings and creates the clients; never waits for Kafka. `client_id`
    /// identifies this process to the brokers.
    pub fn new(settings: &BusSettings, client_id: &str) -> Result<KafkaBus, BusError> {
        let clients = Clients::new(settings, client_id)?;
        let producers = ProducerHandle::new(clients.clone())?;
        let making = TopicConfig {
            partitions: settings.kafka_topic_partitions,
            replication: settings.kafka_topic_replication,
        };
        let keeper = TopicMonitor::start(clients.clone(), making, producers.clone())?;
        Ok(KafkaBus {
            inner: Arc::new(Inner {
                clients,
                producers,
                keeper,
            }),
        })
    }

    /// Returns a topic. A missing topic is created in the background, also if it is deleted later;
    /// an existing one is not changed.
    pub fn topic(&self, name: &str) -> Arc<dyn Topic> {
        Arc::new(self.kafka_topic(name))
    }

    /// Reads the current contents of a topic, or only some offsets, without a group. Blocks; waits
    /// for Kafka at most ten seconds per step.
    pub fn scan(&self, topic: &str, only: Option<&[(u32, u64)]>) -> Result<Scan, BusError> {
        Scan::new(&self.inner.clients, topic, only)
    }

    fn kafka_topic(&self, name: &str) -> KafkaTopic {
        let Inner {
            producers, keeper, ..
        } = &*self.inner;
        let kept = keeper.keep(name);
        let outbox = Arc::new(TopicPublisher::new(
            kept.clone(),
            keeper.clone(),
            producers.clone(),
        ));
        KafkaTopic {
            inner: self.inner.clone(),
            kept,
            outbox,
        }
    }
}

struct KafkaTopic {
    inner: Arc<Inner>,
    kept: Arc<TopicState>,
    outbox: Arc<TopicPublisher>,
}

impl KafkaTopic {
    fn member(&self, group: &str) -> Result<KafkaSubscription, BusError> {
        let Inner {
            clients,
            producers,
            keeper,
        } = &*self.inner;
        let shared = Arc::new(Shared::new(&self.kept.name, group));
        let trouble = producers.events.trouble.clone();
        let ended = Reader::start(
            clients.clone(),
            shared.clone(),
            keeper.clone(),
            self.kept.clone(),
            trouble,
        )?;
        Ok(KafkaSubscription {
            shared,
            ended,
            _inner: self.inner.clone(),
        })
    }
}

impl Topic for KafkaTopic {
    fn name(&self) -> &str {
        &self.kept.name
    }

    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        let (outbox, inner) = (self.outbox.clone(), self.inner.clone());
        async move {
            let published = outbox.publish(records).await;
            // A running publish keeps the bus alive.
            drop(inner);
            published
        }
        .boxed()
    }

    fn subscribe(&self, group: &str) -> Result<Box<dyn Subscription>, BusError> {
        Ok(Box::new(self.member(group)?))
    }

    fn depth(&self) -> usize {
        self.outbox.waiting()
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), BusError>> {
        let (inner, kept) = (self.inner.clone(), self.kept.clone());
        async move { inner.keeper.ping(&kept).await }.boxed()
    }
}
