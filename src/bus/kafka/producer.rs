//! Publishes records in order, acknowledged by every in-sync replica, and retries as long as a
//! retry can help.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use log::{debug, warn};
use parking_lot::{Mutex, MutexGuard};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::config::{Clients, MAX_RECORD_BYTES};
use super::events::{BrokerVisibility, Events};
use super::topics::{TopicMonitor, TopicState};
use crate::bus::{BusError, NewRecord};
use crate::runtime::backoff::{Backoff, BackoffPolicy};

/// Backoff between attempts to send failed records.
const RETRY_BACKOFF: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(100),
    most: Duration::from_secs(2),
};
/// Delay before a full queue is tried again if no record of this publisher is in flight.
const QUEUE_FULL_DELAY: Duration = Duration::from_millis(20);

/// Where to deliver the acknowledgement of a record.
pub(super) struct DeliveryToken {
    index: usize,
    answers: UnboundedSender<Answer>,
}

/// The record's index, and the error if it is not on the bus.
type Answer = (usize, Option<RDKafkaErrorCode>);

impl ClientContext for ProducerEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.events.log(level, facility, line);
    }

    fn stats(&self, statistics: rdkafka::Statistics) {
        self.bearings.look(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.error(error, reason);
    }
}

/// The producer context.
pub(super) struct ProducerEvents {
    events: Events,
    bearings: BrokerVisibility,
}

impl ProducerContext for ProducerEvents {
    type DeliveryOpaque = Box<DeliveryToken>;

    fn delivery(&self, result: &DeliveryResult<'_>, token: Box<DeliveryToken>) {
        let code = result.as_ref().err().map(|(error, _)| code_of(error));
        // The publisher may have stopped waiting.
        let _ = token.answers.send((token.index, code));
    }
}

fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
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
    clients: Clients,
    pub(super) events: Events,
    current: Mutex<Option<PolledProducer>>,
}

impl ProducerHandle {
    pub(super) fn new(clients: Clients) -> Result<Arc<ProducerHandle>, BusError> {
        let events = Events::new(clients.redaction.clone());
        let producers = ProducerHandle {
            clients,
            events,
            current: Mutex::default(),
        };
        producers.current()?;
        Ok(Arc::new(producers))
    }

    /// The producer. Creates one if there is none or the current one has lost its brokers.
    pub(super) fn current(&self) -> Result<Arc<BaseProducer<ProducerEvents>>, BusError> {
        let mut current = self.lock();
        if let Some(polled) =
            current.take_if(|polled| polled.producer.context().bearings.has_lost_brokers())
        {
            warn!("kafka producer has lost all brokers, recreating it");
            // Otherwise callers would wait for its acknowledgements forever.
            polled
                .producer
                .purge(PurgeConfig::default().queue().inflight());
        }
        if let Some(polled) = &*current {
            return Ok(polled.producer.clone());
        }
        let polled = self.make()?;
        let producer = polled.producer.clone();
        *current = Some(polled);
        Ok(producer)
    }

    /// Discards a producer that accepts no more records.
    fn discard(&self, failed: &Arc<BaseProducer<ProducerEvents>>) {
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

    fn make(&self) -> Result<PolledProducer, BusError> {
        let context = ProducerEvents {
            events: self.events.clone(),
            bearings: BrokerVisibility::default(),
        };
        let producer = BaseProducer::from_config_and_context(&self.clients.producer(), context);
        let producer = Arc::new(producer.map_err(|error| BusError::Refused(error.to_string()))?);
        let stop = Arc::new(AtomicBool::new(false));
        let (polled, stopped) = (producer.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("kafka producer".to_owned());
        let poll = move || {
            // Callers may still wait for the acknowledgements of a discarded producer: it is polled
            // until the last reference is dropped.
            while !stopped.load(Ordering::Relaxed) || Arc::strong_count(&polled) > 1 {
                polled.poll(Duration::from_millis(100));
            }
        };
        thread
            .spawn(poll)
            .map_err(|failure| BusError::Unavailable(failure.to_string()))?;
        Ok(PolledProducer { producer, stop })
    }
}

fn fatal_reason(producer: &BaseProducer<ProducerEvents>) -> String {
    producer.client().fatal_error().map_or_else(
        || "no reason given".to_owned(),
        |(code, text)| format!("{code}: {text}"),
    )
}

/// Publishes the records of one topic.
pub(super) struct TopicPublisher {
    pub(super) kept: Arc<TopicState>,
    pub(super) keeper: Arc<TopicMonitor>,
    pub(super) producers: Arc<ProducerHandle>,
    /// Serializes publishers, so that no record overtakes one that is sent again.
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
}

/// Counts records as waiting until dropped.
struct Waiting<'a>(&'a AtomicUsize, usize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl TopicPublisher {
    pub(super) fn new(
        kept: Arc<TopicState>,
        keeper: Arc<TopicMonitor>,
        producers: Arc<ProducerHandle>,
    ) -> TopicPublisher {
        TopicPublisher {
            kept,
            keeper,
            producers,
            turn: tokio::sync::Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Publishes records. Completes when every record that Kafka accepts is stored; a rejection is
    /// reported after that.
    pub(super) async fn publish(&self, records: Vec<NewRecord>) -> Result<(), BusError> {
        if records.is_empty() {
            return Ok(());
        }
        self.waiting.fetch_add(records.len(), Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting, records.len());
        let _turn = self.turn.lock().await;
        let mut refused = None;
        let mut left: Vec<usize> = Vec::with_capacity(records.len());
        for (index, record) in records.iter().enumerate() {
            match too_large(record, &self.kept.name) {
                Some(error) => refused = refused.or(Some(error)),
                None => left.push(index),
            }
        }
        let mut backoff = Backoff::new(RETRY_BACKOFF, records.len() as u64);
        while !left.is_empty() {
            self.kept.wait().await;
            let producer = self.producers.current()?;
            let outcome = self.attempt(&producer, &records, &left).await;
            if let Some((index, code)) = outcome.refused {
                refused = refused.or(Some(rejection(&records[index], &self.kept.name, code)));
            }
            left = records_to_retry(&records, &left, &outcome.failed);
            if let Some(code) = outcome.cause {
                debug!(topic = self.kept.name.as_str(), records = left.len(); "retrying records: {code}");
                if producer.client().fatal_error().is_some() {
                    self.producers.discard(&producer);
                }
                self.keeper.look();
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends the records at `left` in order and waits for all acknowledgements.
    async fn attempt(
        &self,
        producer: &BaseProducer<ProducerEvents>,
        records: &[NewRecord],
        left: &[usize],
    ) -> Outcome {
        let (answers, mut answered) = unbounded_channel();
        let mut outcome = Outcome::default();
        let mut in_flight = 0_usize;
        for (place, index) in left.iter().enumerate() {
            loop {
                let token = Box::new(DeliveryToken {
                    index: *index,
                    answers: answers.clone(),
                });
                match self.send(producer, &records[*index], token) {
                    Ok(()) => in_flight += 1,
                    Err(RDKafkaErrorCode::QueueFull) => {
                        in_flight -= outcome.wait_for_room(&mut answered, in_flight).await;
                        continue;
                    }
                    Err(code) => outcome.take((*index, Some(code))),
                }
                break;
            }
            // After a failure no later record is sent.
            if outcome.cause.is_some() {
                outcome.failed.extend(&left[place + 1..]);
                break;
            }
        }
        while in_flight > 0 {
            let Some(answer) = answered.recv().await else {
                break;
            };
            outcome.take(answer);
            in_flight -= 1;
        }
        outcome
    }

    fn send(
        &self,
        producer: &BaseProducer<ProducerEvents>,
        record: &NewRecord,
        token: Box<DeliveryToken>,
    ) -> Result<(), RDKafkaErrorCode> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header {
                key,
                value: Some(&value[..]),
            });
        }
        let message = BaseRecord::with_opaque_to(&self.kept.name, token)
            .key(&record.key[..])
            .payload(&record.payload[..]);
        let message = if record.headers.is_empty() {
            message
        } else {
            message.headers(headers)
        };
        producer.send(message).map_err(|(error, _)| code_of(&error))
    }
}

/// The result of an attempt.
#[derive(Default)]
struct Outcome {
    failed: HashSet<usize>,
    cause: Option<RDKafkaErrorCode>,
    refused: Option<(usize, RDKafkaErrorCode)>,
}

impl Outcome {
    fn take(&mut self, (index, code): Answer) {
        match code {
            None => {}
            Some(code) if is_refusal(code) => self.refused = self.refused.or(Some((index, code))),
            Some(code) => {
                self.failed.insert(index);
                self.cause = self.cause.or(Some(code));
            }
        }
    }

    /// Waits until a record of this publisher is acknowledged, or for [`QUEUE_FULL_DELAY`] if other
    /// publishers fill the queue. Returns how many were acknowledged.
    async fn wait_for_room(
        &mut self,
        answered: &mut UnboundedReceiver<Answer>,
        in_flight: usize,
    ) -> usize {
        if in_flight == 0 {
            tokio::time::sleep(QUEUE_FULL_DELAY).await;
            return 0;
        }
        match answered.recv().await {
            Some(answer) => {
                self.take(answer);
                1
            }
            None => 0,
        }
    }
}

/// Whether a retry cannot help.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::PolicyViolation
    )
}

/// The records to send again, in order: the failed ones and later records with the same key, which
/// would otherwise overtake them.
fn records_to_retry(records: &[NewRecord], sent: &[usize], failed: &HashSet<usize>) -> Vec<usize> {
    let mut keys: HashSet<&Bytes> = HashSet::new();
    let mut again = Vec::new();
    for index in sent {
        let key = &records[*index].key;
        if failed.contains(index) || keys.contains(key) {
            keys.insert(key);
            again.push(*index);
        }
    }
    again
}

fn size_of(record: &NewRecord) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    record.key.len() + record.payload.len() + headers
}

fn too_large(record: &NewRecord, topic: &str) -> Option<BusError> {
    let size = size_of(record);
    let text = || {
        format!(
            "a record of {size} bytes is too large for {topic}: the limit is {MAX_RECORD_BYTES} bytes"
        )
    };
    (size > MAX_RECORD_BYTES).then(|| BusError::TooLarge(text()))
}

fn rejection(record: &NewRecord, topic: &str, code: RDKafkaErrorCode) -> BusError {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => {
            let size = size_of(record);
            let text = format!("a record of {size} bytes exceeds max.message.bytes of {topic}");
            BusError::TooLarge(text)
        }
        code => BusError::Refused(format!("{topic}: {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::kafka::testing::settings;

    fn record(key: &'static str, size: usize) -> NewRecord {
        NewRecord {
            key: Bytes::from_static(key.as_bytes()),
            payload: vec![b'x'; size].into(),
            headers: Vec::new(),
        }
    }

    #[test]
    fn later_records_of_failed_key_are_resent() {
        let records: Vec<_> = ["a", "b", "a", "c", "b", "a"]
            .map(|key| record(key, 1))
            .into();
        let all: Vec<usize> = (0..6).collect();
        let again =
            |failed: &[usize]| records_to_retry(&records, &all, &failed.iter().copied().collect());
        assert_eq!(again(&[]), [0; 0]);
        assert_eq!(again(&[2]), [2, 5]);
        assert_eq!(again(&[1, 5]), [1, 4, 5]);
        assert_eq!(
            records_to_retry(&records, &[2, 5], &HashSet::from([2])),
            [2, 5]
        );
    }

    #[tokio::test]
    async fn discarded_producer_still_acknowledges() {
        let kafka = rdkafka::mocking::MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let clients = Clients::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let producers = ProducerHandle::new(clients).unwrap();
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

    #[test]
    fn oversized_record_error_names_limit() {
        assert_eq!(too_large(&record("k", MAX_RECORD_BYTES - 1), "t"), None);
        let text = too_large(&record("k", MAX_RECORD_BYTES), "t")
            .unwrap()
            .to_string();
        assert_eq!(
            text,
            "the bus refused: a record of 2097153 bytes is too large for t: the limit is 2097152 bytes"
        );
    }
}
