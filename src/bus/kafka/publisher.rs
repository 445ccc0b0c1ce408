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
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

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
    /// Held while a batch is sent, so that batches keep their order.
    sending: tokio::sync::Mutex<()>,
    /// Shared by the batches that wait for their acknowledgements. A batch with failed records
    /// takes it alone: it is sent again after those in flight, and nothing is sent meanwhile.
    in_flight: Arc<RwLock<()>>,
    waiting: Arc<AtomicUsize>,
}

/// Counts records as waiting until dropped.
struct Waiting(Arc<AtomicUsize>, usize);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// A batch that was sent once and waits for its acknowledgements.
pub(super) struct SentBatch {
    records: Vec<NewRecord>,
    /// The indexes of the records that were sent, or were to be sent.
    pending: Vec<usize>,
    attempt: Attempt,
    /// The error of the first record that Kafka rejects.
    refused: Option<BusError>,
    shared: OwnedRwLockReadGuard<()>,
    _waiting: Waiting,
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
            sending: tokio::sync::Mutex::default(),
            in_flight: Arc::default(),
            waiting: Arc::default(),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Sends records in order, as soon as earlier batches are sent and none of them is repeated.
    pub(super) async fn send_batch(&self, records: Vec<NewRecord>) -> Result<SentBatch, BusError> {
        self.waiting.fetch_add(records.len(), Ordering::Relaxed);
        let waiting = Waiting(self.waiting.clone(), records.len());
        let _sending = self.sending.lock().await;
        let shared = self.in_flight.clone().read_owned().await;
        let mut refused = None;
        let mut pending: Vec<usize> = Vec::with_capacity(records.len());
        for (index, record) in records.iter().enumerate() {
            match too_large(record, &self.topic.name) {
                Some(error) => refused = refused.or(Some(error)),
                None => pending.push(index),
            }
        }
        let attempt = self.attempt(&records, &pending).await?;
        Ok(SentBatch {
            records,
            pending,
            attempt,
            refused,
            shared,
            _waiting: waiting,
        })
    }

    /// Completes when every record that Kafka accepts is stored; a rejection is reported after
    /// that.
    pub(super) async fn finish(&self, sent: SentBatch) -> Result<(), BusError> {
        let SentBatch {
            records,
            mut pending,
            mut attempt,
            mut refused,
            shared,
            _waiting,
        } = sent;
        let mut shared = Some(shared);
        let mut _alone = None;
        let mut backoff = Backoff::new(RETRY_BACKOFF, records.len() as u64);
        loop {
            let outcome = attempt.finish().await;
            if let Some((index, code)) = outcome.refused {
                refused = refused.or(Some(rejection(&records[index], &self.topic.name, code)));
            }
            pending = records_to_retry(&records, &pending, &outcome.failed);
            if let Some(code) = outcome.cause {
                self.report_failure(code, pending.len(), attempt.producer());
            }
            if pending.is_empty() {
                return refused.map_or(Ok(()), Err);
            }
            if shared.take().is_some() {
                _alone = Some(self.in_flight.write().await);
            }
            tokio::time::sleep(backoff.next_delay()).await;
            attempt = self.attempt(&records, &pending).await?;
        }
    }

    fn report_failure(
        &self,
        code: RDKafkaErrorCode,
        records: usize,
        producer: &Arc<BaseProducer<ProducerEvents>>,
    ) {
        debug!(topic = self.topic.name.as_str(), records; "retrying records: {code}");
        if producer.client().fatal_error().is_some() {
            self.producers.discard(producer);
        }
        self.monitor.request_probe();
    }

    /// Sends the records with these indexes in order, once the topic exists.
    async fn attempt(&self, records: &[NewRecord], pending: &[usize]) -> Result<Attempt, BusError> {
        self.topic.wait().await;
        let mut attempt = Attempt::new(self.producers.current()?);
        for (at, index) in pending.iter().enumerate() {
            loop {
                let token = attempt.token(*index);
                match send(
                    attempt.producer(),
                    &self.topic.name,
                    &records[*index],
                    token,
                ) {
                    Ok(()) => attempt.in_flight += 1,
                    Err(RDKafkaErrorCode::QueueFull) => {
                        attempt.wait_for_room().await;
                        continue;
                    }
                    Err(code) => attempt.outcome.record((*index, Some(code))),
                }
                break;
            }
            // After a failure no later record is sent.
            if attempt.outcome.cause.is_some() {
                attempt.outcome.failed.extend(&pending[at + 1..]);
                break;
            }
        }
        Ok(attempt)
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

/// Records that were sent, and the answers about them.
struct Attempt {
    producer: Arc<BaseProducer<ProducerEvents>>,
    answers: UnboundedSender<Answer>,
    answered: UnboundedReceiver<Answer>,
    in_flight: usize,
    outcome: Outcome,
}

impl Attempt {
    fn new(producer: Arc<BaseProducer<ProducerEvents>>) -> Attempt {
        let (answers, answered) = unbounded_channel();
        Attempt {
            producer,
            answers,
            answered,
            in_flight: 0,
            outcome: Outcome::default(),
        }
    }

    fn producer(&self) -> &Arc<BaseProducer<ProducerEvents>> {
        &self.producer
    }

    fn token(&self, index: usize) -> Box<DeliveryToken> {
        let answers = self.answers.clone();
        Box::new(DeliveryToken { index, answers })
    }

    /// Waits until a record of this batch is acknowledged, or for [`QUEUE_FULL_DELAY`] if others
    /// fill the queue.
    async fn wait_for_room(&mut self) {
        if self.in_flight == 0 {
            return tokio::time::sleep(QUEUE_FULL_DELAY).await;
        }
        self.receive().await;
    }

    async fn receive(&mut self) {
        // Cannot end: this attempt keeps a sender.
        if let Some(answer) = self.answered.recv().await {
            self.outcome.record(answer);
        }
        self.in_flight -= 1;
    }

    /// Waits for all acknowledgements.
    async fn finish(&mut self) -> Outcome {
        while self.in_flight > 0 {
            self.receive().await;
        }
        std::mem::take(&mut self.outcome)
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
