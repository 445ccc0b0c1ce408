//! Publishes records in order, acknowledged by every in-sync replica, and retries as long as a
//! retry can help.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use log::debug;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::config::MAX_RECORD_BYTES;
use super::producer::{Answer, DeliveryToken, ProducerEvents, ProducerHandle, code_of};
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

/// Publishes the records of one topic.
pub(super) struct TopicPublisher {
    topic: Arc<TopicState>,
    monitor: Arc<TopicMonitor>,
    producers: Arc<ProducerHandle>,
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
        topic: Arc<TopicState>,
        monitor: Arc<TopicMonitor>,
        producers: Arc<ProducerHandle>,
    ) -> TopicPublisher {
        TopicPublisher {
            topic,
            monitor,
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
        let mut pending: Vec<usize> = Vec::with_capacity(records.len());
        for (index, record) in records.iter().enumerate() {
            match too_large(record, &self.topic.name) {
                Some(error) => refused = refused.or(Some(error)),
                None => pending.push(index),
            }
        }
        let mut backoff = Backoff::new(RETRY_BACKOFF, records.len() as u64);
        while !pending.is_empty() {
            self.topic.wait().await;
            let producer = self.producers.current()?;
            let outcome = self.attempt(&producer, &records, &pending).await;
            if let Some((index, code)) = outcome.refused {
                refused = refused.or(Some(rejection(&records[index], &self.topic.name, code)));
            }
            pending = records_to_retry(&records, &pending, &outcome.failed);
            if let Some(code) = outcome.cause {
                debug!(topic = self.topic.name.as_str(), records = pending.len(); "retrying records: {code}");
                if producer.client().fatal_error().is_some() {
                    self.producers.discard(&producer);
                }
                self.monitor.request_probe();
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends the records with these indexes in order and waits for all acknowledgements.
    async fn attempt(
        &self,
        producer: &BaseProducer<ProducerEvents>,
        records: &[NewRecord],
        pending: &[usize],
    ) -> Outcome {
        let (answers, mut answered) = unbounded_channel();
        let mut outcome = Outcome::default();
        let mut in_flight = 0_usize;
        for (at, index) in pending.iter().enumerate() {
            loop {
                let token = Box::new(DeliveryToken {
                    index: *index,
                    answers: answers.clone(),
                });
                match send(producer, &self.topic.name, &records[*index], token) {
                    Ok(()) => in_flight += 1,
                    Err(RDKafkaErrorCode::QueueFull) => {
                        in_flight -= outcome.wait_for_room(&mut answered, in_flight).await;
                        continue;
                    }
                    Err(code) => outcome.record((*index, Some(code))),
                }
                break;
            }
            // After a failure no later record is sent.
            if outcome.cause.is_some() {
                outcome.failed.extend(&pending[at + 1..]);
                break;
            }
        }
        while in_flight > 0 {
            let Some(answer) = answered.recv().await else {
                break;
            };
            outcome.record(answer);
            in_flight -= 1;
        }
        outcome
    }
}

/// Puts a record into the producer's queue.
pub(super) fn send(
    producer: &BaseProducer<ProducerEvents>,
    topic: &str,
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
    let message = BaseRecord::with_opaque_to(topic, token)
        .key(&record.key[..])
        .payload(&record.payload[..]);
    let message = if record.headers.is_empty() {
        message
    } else {
        message.headers(headers)
    };
    producer.send(message).map_err(|(error, _)| code_of(&error))
}

/// The result of an attempt.
#[derive(Default)]
struct Outcome {
    failed: HashSet<usize>,
    cause: Option<RDKafkaErrorCode>,
    refused: Option<(usize, RDKafkaErrorCode)>,
}

impl Outcome {
    fn record(&mut self, (index, code): Answer) {
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
                self.record(answer);
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
    let mut retried = Vec::new();
    for index in sent {
        let key = &records[*index].key;
        if failed.contains(index) || keys.contains(key) {
            keys.insert(key);
            retried.push(*index);
        }
    }
    retried
}

fn too_large(record: &NewRecord, topic: &str) -> Option<BusError> {
    let size = record.size();
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
            let size = record.size();
            let text = format!("a record of {size} bytes exceeds max.message.bytes of {topic}");
            BusError::TooLarge(text)
        }
        code => BusError::Refused(format!("{topic}: {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
