//! The reading thread of a compacted topic, or of a topic that is followed: it reads every
//! partition, also one that is added later, without a group. After a failure it continues where it
//! was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use log::{debug, info, warn};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{ClientContext, Offset, Statistics, TopicPartitionList};
use tokio::sync::mpsc;

use super::Inner;
use super::events::{BrokerVisibility, Events};
use super::record::read_record;
use super::scan::{Scan, partitions_of, unavailable};
use super::topics::TopicState;
use crate::bus::{BusError, ReadEvent, Record, TopicReader};
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::role;

/// The group name that librdkafka requires of a reader that starts at the beginning. No reader joins
/// its group or commits under its name.
const GROUP: &str = "sports-bet-states";
/// Timeout for the positions of a group.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a poll waits for records.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// Delay before reading is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The maximum number of records in an event.
const MAX_RECORDS: usize = 500;
/// Events that the reader has not taken yet. When it is full, the thread waits.
const MAX_EVENTS: usize = 4;

/// The reader's end of the thread.
pub(super) struct KafkaTopicReader {
    events: mpsc::Receiver<ReadEvent>,
}

impl KafkaTopicReader {
    pub(super) fn new(events: mpsc::Receiver<ReadEvent>) -> KafkaTopicReader {
        KafkaTopicReader { events }
    }
}

impl TopicReader for KafkaTopicReader {
    fn next(&mut self) -> BoxFuture<'_, Result<ReadEvent, BusError>> {
        async move { self.events.recv().await.ok_or(BusError::Closed) }.boxed()
    }
}

/// The consumer context.
struct ReadingEvents {
    events: Events,
    brokers: BrokerVisibility,
}

impl ClientContext for ReadingEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.events.log(level, facility, line);
    }

    fn stats(&self, statistics: Statistics) {
        self.brokers.observe(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.error(error, reason);
    }
}

impl ConsumerContext for ReadingEvents {}

/// Where the thread starts.
pub(super) enum Start {
    /// At the beginning of the topic.
    Beginning,
    /// Where this group has committed, or at the beginning of a partition without a commit, where
    /// the group starts, too.
    Beside(String),
}

/// The state of the thread. It ends when the reader is dropped.
pub(super) struct ReadingThread {
    inner: Arc<Inner>,
    topic: Arc<TopicState>,
    start: Start,
    events: mpsc::Sender<ReadEvent>,
    is_caught_up: bool,
    /// The number of partitions that the consumer reads.
    assigned: usize,
    /// The partitions whose end has not been reached since the consumer was created.
    behind: BTreeSet<u32>,
    /// The next offset of each partition.
    next: BTreeMap<u32, u64>,
    log: FaultLog,
}

/// The reader was dropped.
struct ReaderIsGone;

impl ReadingThread {
    pub(super) fn start(
        inner: Arc<Inner>,
        topic: Arc<TopicState>,
        start: Start,
    ) -> Result<mpsc::Receiver<ReadEvent>, BusError> {
        let (events, received) = mpsc::channel(MAX_EVENTS);
        let name = format!("kafka {}", topic.name);
        let reading = ReadingThread {
            inner,
            topic,
            start,
            events,
            is_caught_up: false,
            assigned: 0,
            behind: BTreeSet::new(),
            next: BTreeMap::new(),
            log: FaultLog::new(),
        };
        let thread = std::thread::Builder::new().name(name);
        thread
            .spawn(role::carry(move || reading.run()))
            .map_err(|failure| BusError::Unavailable(failure.to_string()))?;
        Ok(received)
    }

    fn run(mut self) {
        while !self.events.is_closed() {
            // A missing topic is not an error; the monitor creates it.
            if !self.topic.exists() {
                std::thread::sleep(POLL_TIMEOUT);
                continue;
            }
            match self.read() {
                Ok(Some(ReaderIsGone)) => return,
                Ok(None) => {}
                Err(cause) => self.wait_after(&cause),
            }
        }
    }

    fn wait_after(&self, cause: &BusError) {
        if let Some(repeated) = self.log.failed(&cause.to_string()) {
            warn!(topic = self.topic.name.as_str(), repeated; "cannot read the topic, retrying: {cause}");
        }
        self.inner.monitor.request_probe();
        std::thread::sleep(RETRY_DELAY);
    }

    /// Reads until the reader is dropped, or another consumer is needed.
    fn read(&mut self) -> Result<Option<ReaderIsGone>, BusError> {
        let is_held_first = matches!(self.start, Start::Beginning) && !self.is_caught_up;
        if is_held_first && self.read_held()?.is_some() {
            return Ok(Some(ReaderIsGone));
        }
        let consumer = self.consumer()?;
        let ended = self.follow(&consumer);
        if !matches!(ended, Ok(Some(_))) {
            discard(consumer);
        }
        ended
    }

    /// Reads what the topic holds now.
    fn read_held(&mut self) -> Result<Option<ReaderIsGone>, BusError> {
        let mut held = Vec::new();
        for record in Scan::new(&self.inner.clients, &self.topic.name, None)? {
            held.push(record?);
            if held.len() >= MAX_RECORDS {
                let full = std::mem::take(&mut held);
                if let Err(gone) = self.deliver(full, ReadEvent::Held) {
                    return Ok(Some(gone));
                }
            }
        }
        let delivered = self
            .deliver(held, ReadEvent::Held)
            .and_then(|()| self.send(ReadEvent::CaughtUp));
        self.is_caught_up = true;
        Ok(delivered.err())
    }

    /// A consumer of everything after what was read.
    fn consumer(&mut self) -> Result<BaseConsumer<ReadingEvents>, BusError> {
        let name = self.topic.name.as_str();
        let events = self.inner.producers.events.clone();
        let mut config = match &self.start {
            Start::Beginning => self.inner.clients.reader(GROUP),
            Start::Beside(group) => {
                let mut config = self.inner.clients.reader(group);
                // Shows when the end of a partition is reached.
                config.set("enable.partition.eof", "true");
                config
            }
        };
        // Reports the known brokers: see `events`.
        config.set("statistics.interval.ms", "1000");
        let context = ReadingEvents {
            events: events.clone(),
            brokers: BrokerVisibility::default(),
        };
        let consumer = BaseConsumer::from_config_and_context(&config, context)
            .map_err(|error| BusError::Refused(error.to_string()))?;
        let partitions = partitions_of(&consumer, &events, name)?;
        self.topic.check_complete(partitions.len())?;
        let failed = |error: KafkaError| unavailable(&events, &error);
        let mut list = TopicPartitionList::new();
        for partition in &partitions {
            let next = self.next.get(partition);
            let offset = next.map_or(Offset::Invalid, |next| Offset::Offset(*next as i64));
            list.add_partition_offset(name, *partition as i32, offset)
                .map_err(failed)?;
        }
        let list = self.with_starts(&consumer, list).map_err(failed)?;
        consumer.assign(&list).map_err(failed)?;
        self.assigned = partitions.len();
        self.behind = partitions.into_iter().collect();
        Ok(consumer)
    }

    /// The partitions, with an offset where nothing was read yet.
    fn with_starts(
        &self,
        consumer: &BaseConsumer<ReadingEvents>,
        list: TopicPartitionList,
    ) -> Result<TopicPartitionList, KafkaError> {
        let mut starts = TopicPartitionList::new();
        let is_new = |partition: &TopicPartitionListElem<'_>| partition.offset() == Offset::Invalid;
        let has_new = list.elements().iter().any(is_new);
        let committed = match self.start {
            Start::Beside(_) if has_new => {
                consumer.committed_offsets(list.clone(), ANSWER_TIMEOUT)?
            }
            _ => list.clone(),
        };
        for (read, committed) in list.elements().iter().zip(committed.elements()) {
            committed.error()?;
            let offset = [read.offset(), committed.offset()]
                .into_iter()
                .find(|offset| *offset != Offset::Invalid)
                .unwrap_or(Offset::Beginning);
            starts.add_partition_offset(read.topic(), read.partition(), offset)?;
        }
        Ok(starts)
    }

    /// Delivers what is published until the reader is dropped or the consumer fails. `None`: the
    /// topic has more partitions than the consumer reads.
    fn follow(
        &mut self,
        consumer: &BaseConsumer<ReadingEvents>,
    ) -> Result<Option<ReaderIsGone>, BusError> {
        while !self.events.is_closed() {
            let mut records = Vec::new();
            let mut is_caught_up = self.is_caught_up;
            let mut timeout = POLL_TIMEOUT;
            while records.len() < MAX_RECORDS
                && let Some(polled) = consumer.poll(timeout)
            {
                match polled {
                    Ok(message) => records.push(read_record(&message)),
                    Err(KafkaError::PartitionEOF(partition)) => {
                        self.behind.remove(&(partition as u32));
                        is_caught_up |= self.behind.is_empty();
                    }
                    Err(error) if is_failed(&error) => {
                        return Err(BusError::Unavailable(error.to_string()));
                    }
                    // The monitor logs it.
                    Err(error) => debug!(topic = self.topic.name.as_str(); "read failed: {error}"),
                }
                timeout = Duration::ZERO;
            }
            let event = if self.is_caught_up {
                ReadEvent::Published
            } else {
                ReadEvent::Held
            };
            let mut delivered = self.deliver(records, event);
            if is_caught_up && !self.is_caught_up {
                self.is_caught_up = true;
                delivered = delivered.and_then(|()| self.send(ReadEvent::CaughtUp));
            }
            if let Err(gone) = delivered {
                return Ok(Some(gone));
            }
            let partitions = self.topic.partitions();
            if partitions > self.assigned {
                info!(topic = self.topic.name.as_str(), partitions; "the topic has more partitions");
                return Ok(None);
            }
            if consumer.context().brokers.has_lost_brokers() {
                let text = "the consumer has lost all brokers".to_owned();
                return Err(BusError::Unavailable(text));
            }
        }
        Ok(Some(ReaderIsGone))
    }

    /// Delivers records, if there are any, and moves the position past them.
    fn deliver(
        &mut self,
        records: Vec<Record>,
        event: fn(Vec<Record>) -> ReadEvent,
    ) -> Result<(), ReaderIsGone> {
        if records.is_empty() {
            return Ok(());
        }
        for record in &records {
            self.next.insert(record.partition, record.offset + 1);
        }
        if self.log.recovered() {
            info!(topic = self.topic.name.as_str(); "the topic is read again");
        }
        self.send(event(records))
    }

    fn send(&self, event: ReadEvent) -> Result<(), ReaderIsGone> {
        self.events.blocking_send(event).map_err(|_| ReaderIsGone)
    }
}

/// Whether only a new consumer can read on. A topic that was deleted and created again is another
/// one.
fn is_failed(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumptionFatal(_))
        || matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownPartition)
        )
}

/// Closes a consumer on its own thread: librdkafka may wait for an answer that never comes, and that
/// thread then ends with the process.
pub(super) fn discard<C: ConsumerContext + 'static>(consumer: BaseConsumer<C>) {
    let thread = std::thread::Builder::new().name("kafka close".to_owned());
    if let Err(failure) = thread.spawn(role::carry(move || drop(consumer))) {
        warn!("cannot start a thread to close a consumer: {failure}");
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::bus::kafka::KafkaBus;
    use crate::bus::kafka::testing::settings;

    /// A new consumer continues after what was read, also while the group's positions cannot be
    /// read. Only a partition that is new needs them.
    #[test]
    fn known_position_needs_no_group() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED; 1_000];
        kafka.request_errors(RDKafkaApiKey::FindCoordinator, &refused);
        let bus = KafkaBus::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let mut reading = ReadingThread {
            inner: bus.inner.clone(),
            topic: bus.inner.monitor.monitor("t", None),
            start: Start::Beside("g".to_owned()),
            events: mpsc::channel(1).0,
            is_caught_up: false,
            assigned: 0,
            behind: BTreeSet::new(),
            next: BTreeMap::new(),
            log: FaultLog::new(),
        };
        assert!(reading.consumer().is_err());
        reading.next.insert(0, 7);
        let consumer = reading.consumer().unwrap();
        let assigned = consumer.assignment().unwrap();
        assert_eq!(assigned.elements()[0].offset(), Offset::Offset(7));
    }
}
