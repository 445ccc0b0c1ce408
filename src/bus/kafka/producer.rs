//! The producer that all topics share, and the thread that polls it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log::warn;
use parking_lot::{Mutex, MutexGuard};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext, PurgeConfig};
use rdkafka::{ClientConfig, ClientContext};
use tokio::sync::mpsc::UnboundedSender;

use super::events::{BrokerVisibility, Events};
use crate::bus::BusError;

/// Where to deliver the acknowledgement of a record.
pub(super) struct DeliveryToken {
    pub(super) index: usize,
    pub(super) answers: UnboundedSender<Answer>,
}

/// The record's index, and the error if it is not on the bus.
pub(super) type Answer = (usize, Option<RDKafkaErrorCode>);

impl ClientContext for ProducerEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.events.log(level, facility, line);
    }

    fn stats(&self, statistics: rdkafka::Statistics) {
        self.brokers.observe(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.error(error, reason);
    }
}

/// The producer context.
pub(super) struct ProducerEvents {
    events: Events,
    brokers: BrokerVisibility,
}

impl ProducerContext for ProducerEvents {
    type DeliveryOpaque = Box<DeliveryToken>;

    fn delivery(&self, result: &DeliveryResult<'_>, token: Box<DeliveryToken>) {
        let code = result.as_ref().err().map(|(error, _)| code_of(error));
        // The publisher may have stopped waiting.
        let _ = token.answers.send((token.index, code));
    }
}

pub(super) fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
}

/// A producer and the thread that polls it. The thread also closes the producer, which can take a
/// moment.
struct PolledProducer {
    producer: Arc<BaseProducer<ProducerEvents>>,
    stop: Arc<AtomicBool>,
}

impl Drop for PolledProducer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The producer of the bus; it is replaced if it fails permanently.
pub(super) struct ProducerHandle {
    config: ClientConfig,
    pub(super) events: Events,
    current: Mutex<Option<PolledProducer>>,
}

impl ProducerHandle {
    /// Creates the producer of this configuration.
    pub(super) fn new(
        config: ClientConfig,
        events: Events,
    ) -> Result<Arc<ProducerHandle>, BusError> {
        let producers = ProducerHandle::on_demand(config, events);
        producers.current()?;
        Ok(producers)
    }

    /// Creates the producer when it is first used.
    pub(super) fn on_demand(config: ClientConfig, events: Events) -> Arc<ProducerHandle> {
        Arc::new(ProducerHandle {
            config,
            events,
            current: Mutex::default(),
        })
    }

    /// The producer. Creates one if there is none or the current one has lost its brokers.
    pub(super) fn current(&self) -> Result<Arc<BaseProducer<ProducerEvents>>, BusError> {
        let mut current = self.lock();
        let discarded =
            current.take_if(|polled| polled.producer.context().brokers.has_lost_brokers());
        if discarded.is_some() {
            warn!("kafka producer has lost all brokers, recreating it");
        }
        if let Some(polled) = &*current {
            return Ok(polled.producer.clone());
        }
        let polled = self.create()?;
        let producer = polled.producer.clone();
        *current = Some(polled);
        Ok(producer)
    }

    /// Discards a producer that accepts no more records.
    pub(super) fn discard(&self, failed: &Arc<BaseProducer<ProducerEvents>>) {
        let mut current = self.lock();
        if current
            .as_ref()
            .is_some_and(|polled| Arc::ptr_eq(&polled.producer, failed))
        {
            warn!(
                "kafka producer failed, recreating it: {}",
                fatal_reason(failed)
            );
            *current = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<PolledProducer>> {
        self.current.lock()
    }

    fn create(&self) -> Result<PolledProducer, BusError> {
        let context = ProducerEvents {
            events: self.events.clone(),
            brokers: BrokerVisibility::default(),
        };
        let producer = BaseProducer::from_config_and_context(&self.config, context);
        let producer = Arc::new(producer.map_err(|error| BusError::Refused(error.to_string()))?);
        let stop = Arc::new(AtomicBool::new(false));
        let polled = producer.clone();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("kafka producer".to_owned());
        let poll = move || {
            // Callers may still wait for the acknowledgements of a discarded producer: it is polled
            // until the last reference is dropped.
            while !stopped.load(Ordering::Relaxed) || Arc::strong_count(&polled) > 1 {
                polled.poll(Duration::from_millis(100));
                fail_unsent(&polled);
            }
        };
        thread
            .spawn(poll)
            .map_err(|failure| BusError::Unavailable(failure.to_string()))?;
        Ok(PolledProducer { producer, stop })
    }
}

/// Fails the records of a producer that sends nothing any more: their publishers would wait forever.
/// It may happen after every poll, because a publisher may still hold the producer. After a fatal
/// error librdkafka empties the queue once itself, and never looks at a record that is put there at
/// the same time.
fn fail_unsent(producer: &BaseProducer<ProducerEvents>) {
    if producer.context().brokers.has_lost_brokers() {
        producer.purge(PurgeConfig::default().queue().inflight());
    } else if producer.client().fatal_error().is_some() {
        producer.purge(PurgeConfig::default().queue());
    }
}

fn fatal_reason(producer: &BaseProducer<ProducerEvents>) -> String {
    producer.client().fatal_error().map_or_else(
        || "no reason given".to_owned(),
        |(code, text)| format!("{code}: {text}"),
    )
}

#[cfg(test)]
mod tests {
    use rdkafka::producer::BaseRecord;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::bus::kafka::config::Clients;
    use crate::bus::kafka::testing::settings;

    /// Records that are sent while the producer fails are answered, too. Without `fail_unsent` one in
    /// about 150 rounds waits forever.
    #[tokio::test]
    async fn every_record_of_failing_producer_is_answered() {
        for _ in 0..5 {
            let kafka = rdkafka::mocking::MockCluster::new(1).unwrap();
            kafka.create_topic("t", 2, 1).unwrap();
            let failed = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER; 3];
            kafka.request_errors(RDKafkaApiKey::Produce, &failed);
            let clients = Clients::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
            let producers = ProducerHandle::new(clients.producer(), Events::default()).unwrap();
            let producer = producers.current().unwrap();
            let (answers, mut answered) = unbounded_channel();
            let send_all = || {
                let mut accepted = 0;
                loop {
                    let index = accepted;
                    let answers = answers.clone();
                    let token = Box::new(DeliveryToken { index, answers });
                    let record = BaseRecord::with_opaque_to("t", token);
                    let record = record.partition(index as i32 % 2).key("k").payload("p");
                    match producer.send(record).map_err(|(error, _)| code_of(&error)) {
                        Ok(()) => accepted += 1,
                        Err(RDKafkaErrorCode::QueueFull) => {}
                        Err(code) => {
                            assert_eq!(code, RDKafkaErrorCode::Fatal);
                            return accepted;
                        }
                    }
                    std::thread::sleep(Duration::from_micros(20));
                }
            };
            let accepted: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(send_all)).collect();
                threads.into_iter().map(|it| it.join().unwrap()).sum()
            });
            for _ in 0..accepted {
                let answer = tokio::time::timeout(Duration::from_secs(20), answered.recv()).await;
                answer.expect("an answer").unwrap();
            }
        }
    }

    /// A record is also answered if its publisher held the producer when it was replaced.
    #[tokio::test]
    async fn record_of_producer_without_brokers_is_answered() {
        let clients = Clients::new(&settings("127.0.0.1:9"), "test").unwrap();
        let producers = ProducerHandle::new(clients.producer(), Events::default()).unwrap();
        let producer = producers.current().unwrap();
        // Its own statistics have the configured broker.
        let lose_brokers = || {
            while !producer.context().brokers.has_lost_brokers() {
                let none = rdkafka::Statistics::default();
                producer.context().brokers.observe(&none);
            }
        };
        lose_brokers();
        let replaced = producers.current().unwrap();
        assert!(!Arc::ptr_eq(&producer, &replaced));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (answers, mut answered) = unbounded_channel();
        let token = Box::new(DeliveryToken { index: 3, answers });
        let record = BaseRecord::with_opaque_to("t", token).key("k").payload("p");
        producer.send(record).map_err(|(error, _)| error).unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                lose_brokers();
                match answered.try_recv() {
                    Ok(answer) => return answer,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
        let (index, code) = answer.await.expect("an answer");
        assert_eq!((index, code), (3, Some(RDKafkaErrorCode::PurgeQueue)));
    }

    #[tokio::test]
    async fn discarded_producer_still_acknowledges() {
        let kafka = rdkafka::mocking::MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let clients = Clients::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let producers = ProducerHandle::new(clients.producer(), Events::default()).unwrap();
        let producer = producers.current().unwrap();
        producers.discard(&producer);
        // By now its thread would have stopped polling.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (answers, mut answered) = unbounded_channel();
        let token = Box::new(DeliveryToken { index: 3, answers });
        producer
            .send(BaseRecord::with_opaque_to("t", token).key("k").payload("p"))
            .map_err(|(error, _)| error)
            .unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(20), answered.recv()).await;
        assert_eq!(answer, Ok(Some((3, None))));
    }
}
