//! Publishes: in order, acknowledged by every replica in sync, tried again for as long as trying
//! again helps.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use log::{debug, warn};
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

/// Delays between tries of records that failed.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(100),
    most: Duration::from_secs(2),
};
/// How long a full queue is waited for before it is looked at again, where no record of ours is on
/// its way.
const FULL: Duration = Duration::from_millis(20);

/// Where the answer to a record goes.
pub(super) struct DeliveryToken {
    index: usize,
    answers: UnboundedSender<Answer>,
}

/// Which record, and why it is not on the bus.
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

/// The context of the producer.
pub(super) struct ProducerEvents {
    events: Events,
    bearings: BrokerVisibility,
}

impl ProducerContext for ProducerEvents {
    type DeliveryOpaque = Box<DeliveryToken>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<DeliveryToken>) {
        let code = result.as_ref().err().map(|(error, _)| code_of(error));
        // Nobody may wait any more: the publisher gave up.
        let _ = ticket.answers.send((ticket.index, code));
    }
}

fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
}

/// A producer with the thread that polls it, which ends it too: that can take a moment.
struct PolledProducer {
    producer: Arc<BaseProducer<ProducerEvents>>,
    stop: Arc<AtomicBool>,
}

impl Drop for PolledProducer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The producer of the bus; a new one where the old one is beyond help.
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

    /// The producer, made where there is none, or one that is lost.
    pub(super) fn current(&self) -> Result<Arc<BaseProducer<ProducerEvents>>, BusError> {
        let mut current = self.lock();
        if let Some(polled) =
            current.take_if(|polled| polled.producer.context().bearings.has_lost_brokers())
        {
            warn!("the Kafka producer knows no broker any more and is made anew");
            // Whoever waits for its answers would wait for ever.
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

    /// Lets go of a producer that takes nothing any more.
    fn discard(&self, failed: &Arc<BaseProducer<ProducerEvents>>) {
        let mut current = self.lock();
        if current
            .as_ref()
            .is_some_and(|polled| Arc::ptr_eq(&polled.producer, failed))
        {
            warn!(
                "the Kafka producer failed for good and is made anew: {}",
                fatal_reason(failed)
            );
            *current = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<PolledProducer>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
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
            // Others may wait for reports of one that was let go: it is polled until nobody has it
            // any more.
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

/// The way of records to one topic.
pub(super) struct TopicPublisher {
    pub(super) kept: Arc<TopicState>,
    pub(super) keeper: Arc<TopicMonitor>,
    pub(super) producers: Arc<ProducerHandle>,
    /// Whose turn it is. One publisher after the other, so that a record that is sent again cannot
    /// be overtaken.
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
}

/// Counts records for as long as they wait.
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

    /// Publishes; answered when every record that Kafka takes is there. What it refuses is named
    /// after the others are in.
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
        let mut backoff = Backoff::new(RETRY, records.len() as u64);
        while !left.is_empty() {
            self.kept.wait().await;
            let producer = self.producers.current()?;
            let outcome = self.attempt(&producer, &records, &left).await;
            if let Some((index, code)) = outcome.refused {
                refused = refused.or(Some(refusal(&records[index], &self.kept.name, code)));
            }
            left = to_repeat(&records, &left, &outcome.failed);
            if let Some(code) = outcome.cause {
                debug!(topic = self.kept.name.as_str(), records = left.len(); "sends records again: {code}");
                if producer.client().fatal_error().is_some() {
                    self.producers.discard(&producer);
                }
                self.keeper.look();
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends the records at `left` in their order and waits for every answer.
    async fn attempt(
        &self,
        producer: &BaseProducer<ProducerEvents>,
        records: &[NewRecord],
        left: &[usize],
    ) -> Outcome {
        let (answers, mut answered) = unbounded_channel();
        let mut outcome = Outcome::default();
        let mut under_way = 0_usize;
        for (place, index) in left.iter().enumerate() {
            loop {
                let ticket = Box::new(DeliveryToken {
                    index: *index,
                    answers: answers.clone(),
                });
                match self.send(producer, &records[*index], ticket) {
                    Ok(()) => under_way += 1,
                    Err(RDKafkaErrorCode::QueueFull) => {
                        under_way -= outcome.wait_for_room(&mut answered, under_way).await;
                        continue;
                    }
                    Err(code) => outcome.take((*index, Some(code))),
                }
                break;
            }
            // Nothing more is sent behind a record that failed.
            if outcome.cause.is_some() {
                outcome.failed.extend(&left[place + 1..]);
                break;
            }
        }
        while under_way > 0 {
            let Some(answer) = answered.recv().await else {
                break;
            };
            outcome.take(answer);
            under_way -= 1;
        }
        outcome
    }

    fn send(
        &self,
        producer: &BaseProducer<ProducerEvents>,
        record: &NewRecord,
        ticket: Box<DeliveryToken>,
    ) -> Result<(), RDKafkaErrorCode> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header {
                key,
                value: Some(&value[..]),
            });
        }
        let message = BaseRecord::with_opaque_to(&self.kept.name, ticket)
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

/// What became of an attempt.
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

    /// Waits until a record of this publisher was answered, or for a moment where others fill the
    /// queue; says how many were answered.
    async fn wait_for_room(
        &mut self,
        answered: &mut UnboundedReceiver<Answer>,
        under_way: usize,
    ) -> usize {
        if under_way == 0 {
            tokio::time::sleep(FULL).await;
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

/// Whether trying again does not help.
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

/// Which records are to be sent again, in their order: those that failed, and those of the same key
/// behind them, which would stand before them otherwise.
fn to_repeat(records: &[NewRecord], sent: &[usize], failed: &HashSet<usize>) -> Vec<usize> {
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
            "a record of {size} bytes is too large for {topic}: at most {MAX_RECORD_BYTES} are published"
        )
    };
    (size > MAX_RECORD_BYTES).then(|| BusError::TooLarge(text()))
}

fn refusal(record: &NewRecord, topic: &str, code: RDKafkaErrorCode) -> BusError {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => {
            let size = size_of(record);
            let text = format!(
                "a record of {size} bytes is too large for {topic}: its max.message.bytes is less"
            );
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
    fn what_stands_behind_a_failed_record_of_its_key_is_sent_again_too() {
        let records: Vec<_> = ["a", "b", "a", "c", "b", "a"]
            .map(|key| record(key, 1))
            .into();
        let all: Vec<usize> = (0..6).collect();
        let again = |failed: &[usize]| to_repeat(&records, &all, &failed.iter().copied().collect());
        assert_eq!(again(&[]), [0; 0]);
        assert_eq!(again(&[2]), [2, 5]);
        assert_eq!(again(&[1, 5]), [1, 4, 5]);
        assert_eq!(to_repeat(&records, &[2, 5], &HashSet::from([2])), [2, 5]);
    }

    #[tokio::test]
    async fn a_producer_that_was_let_go_answers_for_what_it_has() {
        let kafka = rdkafka::mocking::MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let clients = Clients::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let producers = ProducerHandle::new(clients).unwrap();
        let producer = producers.current().unwrap();
        producers.discard(&producer);
        // Whoever polled it would have stopped by now.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (answers, mut answered) = unbounded_channel();
        let ticket = Box::new(DeliveryToken { index: 3, answers });
        producer
            .send(
                BaseRecord::with_opaque_to("t", ticket)
                    .key("k")
                    .payload("p"),
            )
            .map_err(|(error, _)| error)
            .unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(20), answered.recv()).await;
        assert_eq!(answer, Ok(Some((3, None))));
    }

    #[test]
    fn a_record_that_is_too_large_is_named_with_size_and_limit() {
        assert_eq!(too_large(&record("k", MAX_RECORD_BYTES - 1), "t"), None);
        let text = too_large(&record("k", MAX_RECORD_BYTES), "t")
            .unwrap()
            .to_string();
        assert_eq!(
            text,
            "the bus refused: a record of 2097153 bytes is too large for t: at most 2097152 are published"
        );
    }
}
