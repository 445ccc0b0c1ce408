//! The reading thread of one group member. It never waits for the processing of the records it
//! reads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, warn};
use rdkafka::Offset;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use tokio::sync::watch;

use super::config::Clients;
use super::events::LastError;
use super::member_state::MemberState;
use super::reader_events::ReaderEvents;
use super::reader_thread;
use super::record::read_record;
use super::topics::{TopicMonitor, TopicState};
use crate::bus::BusError;
use crate::telemetry::role;

/// How long a poll waits for records; the thread does nothing else meanwhile.
const POLL_TIMEOUT: Duration = Duration::from_millis(50);
/// How often positions are committed.
const COMMIT_INTERVAL: Duration = Duration::from_millis(200);
/// Timeout for seeking to the beginning of a recreated topic.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay before a consumer is recreated after a fatal error.
const RECREATE_DELAY: Duration = Duration::from_secs(1);

/// State owned by the thread.
pub(super) struct Reader {
    clients: Clients,
    member: Arc<MemberState>,
    monitor: Arc<TopicMonitor>,
    topic: Arc<TopicState>,
    last_error: Arc<LastError>,
    /// Partitions that were paused and not resumed since, even if another member owns them now.
    paused: BTreeSet<u32>,
    last_commit: Instant,
}

impl Reader {
    /// Starts the reader; the receiver signals the end of its thread.
    pub(super) fn start(
        clients: Clients,
        member: Arc<MemberState>,
        monitor: Arc<TopicMonitor>,
        topic: Arc<TopicState>,
        last_error: Arc<LastError>,
    ) -> Result<watch::Receiver<bool>, BusError> {
        let reader = Reader {
            clients,
            member,
            monitor,
            topic,
            last_error,
            paused: BTreeSet::new(),
            last_commit: Instant::now(),
        };
        let consumer = reader.consumer()?;
        reader_thread::spawn(reader.member.clone(), move || reader.run(consumer))
    }

    fn consumer(&self) -> Result<BaseConsumer<ReaderEvents>, BusError> {
        let member = self.member.clone();
        let config = if member.is_bulk {
            self.clients.bulk_consumer(&member.group)
        } else {
            self.clients.consumer(&member.group)
        };
        let events = ReaderEvents::new(member, self.topic.clone(), self.last_error.clone());
        BaseConsumer::from_config_and_context(&config, events)
            .map_err(|error| BusError::Refused(error.to_string()))
    }

    fn run(mut self, first: BaseConsumer<ReaderEvents>) {
        let mut consumer = Some(first);
        while !self.member.is_closing() {
            match consumer.take().map_or_else(|| self.consumer(), Ok) {
                Ok(consumer) => {
                    self.read(&consumer);
                    self.close_consumer(consumer);
                }
                Err(error) => {
                    warn!(group = self.member.group.as_str(); "cannot create a kafka consumer: {error}")
                }
            }
            // The old consumer's partitions belong to another member now, or are assigned again.
            let assigned = self.member.inbox().assigned();
            let are_records_lost = self.member.identity.are_records_lost();
            self.member.inbox().revoke(assigned, are_records_lost);
            self.member.filled.notify_one();
            self.paused.clear();
            if !self.member.is_closing() {
                std::thread::sleep(RECREATE_DELAY);
            }
        }
    }

    /// Reads until the subscription is closed or the consumer fails permanently.
    fn read(&mut self, consumer: &BaseConsumer<ReaderEvents>) {
        // A missing topic is not an error; the reader waits for it.
        while !self.topic.exists() && !self.member.is_closing() {
            consumer.poll(POLL_TIMEOUT);
        }
        if let Err(error) = consumer.subscribe(&[&self.member.topic]) {
            warn!(group = self.member.group.as_str(); "cannot subscribe to the topic: {error}");
            return;
        }
        let mut next_check = Instant::now();
        while !self.member.is_closing() {
            let now = Instant::now();
            if now >= next_check {
                self.housekeeping(consumer, now);
                next_check = now + POLL_TIMEOUT / 2;
            }
            match consumer.poll(POLL_TIMEOUT) {
                None => next_check = now,
                Some(Ok(message)) => self.deliver(consumer, &message),
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    return self.report_failed_consumer(&code.to_string());
                }
                Some(Err(error)) => self.on_error(&error),
            }
            if consumer.context().has_lost_brokers() {
                return self.report_failed_consumer("it has lost all brokers");
            }
        }
        let assigned = self.member.inbox().assigned();
        self.member.commit_now(consumer, &assigned);
    }

    /// Closes a consumer, which leaves its group. A failed consumer is closed on its own thread:
    /// librdkafka may wait for an answer that never comes, and that thread then ends with the
    /// process.
    fn close_consumer(&self, consumer: BaseConsumer<ReaderEvents>) {
        if self.member.is_closing() && !consumer.context().has_lost_brokers() {
            return drop(consumer);
        }
        consumer.context().discard();
        let thread = std::thread::Builder::new().name("kafka failed".to_owned());
        if let Err(failure) = thread.spawn(role::carry(move || drop(consumer))) {
            warn!(group = self.member.group.as_str(); "cannot start a thread to close the consumer: {failure}");
        }
    }

    /// Nothing is read until a new consumer has joined the group.
    fn report_failed_consumer(&self, why: &str) {
        self.member
            .health
            .fail(format!("recreating the consumer: {why}"));
        if let Some(repeated) = self.member.log.failed(why) {
            warn!(group = self.member.group.as_str(), repeated; "kafka consumer failed, recreating it: {why}");
        }
    }

    fn on_error(&self, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        if code.is_some_and(is_missing_topic) {
            self.member.identity.set_missing(true);
        }
        // The monitor cannot see this case: the topic exists, but the group does not let the member
        // read.
        if let Some(code) = code.filter(|code| is_group_error(*code)) {
            self.report_group_error(code);
        }
        // The monitor logs all other errors, once.
        debug!(group = self.member.group.as_str(); "read failed: {error}");
        self.monitor.request_probe();
    }

    fn report_group_error(&self, code: RDKafkaErrorCode) {
        let text = code.to_string();
        if !self.member.health.fail(text.clone()) {
            return;
        }
        let Some(repeated) = self.member.log.failed(&text) else {
            return;
        };
        // The original's members use another partition assignment protocol, and Kafka does not mix
        // the two within a group.
        let hint = match code {
            RDKafkaErrorCode::InconsistentGroupProtocol => {
                ": members of another program are in the group and use a different assignment protocol; nothing is read until they leave. To read in parallel, set a separate group (KAFKA_GROUP_STORE, KAFKA_GROUP_LIVE, KAFKA_GROUP_CONFIRMATION)"
            }
            _ => "",
        };
        warn!(group = self.member.group.as_str(), topic = self.member.topic.as_str(), repeated; "cannot read from the topic: {code}{hint}");
    }

    /// Puts a record into the inbox.
    fn deliver(&mut self, consumer: &BaseConsumer<ReaderEvents>, message: &BorrowedMessage<'_>) {
        let identity = &self.member.identity;
        if identity.is_recreated() {
            // The record is read again, from the beginning.
            return self.restart(consumer);
        }
        if identity.is_missing() && self.topic.exists() {
            identity.set_missing(false);
        }
        let record = read_record(message);
        let mut inbox = self.member.inbox();
        let was_empty = inbox.is_empty();
        inbox.push(record);
        let is_full = inbox.is_full();
        drop(inbox);
        if was_empty {
            self.member.filled.notify_one();
        }
        self.member.mark_reading();
        if is_full && !self.member.wait_for_room() {
            self.pause(consumer);
        }
    }

    /// Pauses the partitions while the inbox stays full. The thread keeps polling, so that the
    /// group does not consider it dead.
    fn pause(&mut self, consumer: &BaseConsumer<ReaderEvents>) {
        let assigned = self.member.inbox().assigned();
        let list = self.member.list_at(&assigned, Offset::Invalid);
        if let Err(error) = consumer.pause(&list) {
            debug!(group = self.member.group.as_str(); "cannot pause partitions: {error}");
        }
        self.paused.extend(assigned);
    }

    fn housekeeping(&mut self, consumer: &BaseConsumer<ReaderEvents>, now: Instant) {
        if !self.paused.is_empty() && self.member.inbox().has_room() {
            self.resume(consumer);
        }
        if self.member.identity.is_recreated() {
            self.restart(consumer);
        }
        if now.duration_since(self.last_commit) >= COMMIT_INTERVAL {
            self.last_commit = now;
            self.member.record_positions(consumer);
            self.member.commit(consumer, now);
        }
    }

    /// Resumes all paused partitions, including those that another member owns now: librdkafka
    /// keeps the pause until they come back, and longer.
    fn resume(&mut self, consumer: &BaseConsumer<ReaderEvents>) {
        let list = self.member.list_at(&self.paused, Offset::Invalid);
        match consumer.resume(&list) {
            Ok(()) => self.paused.clear(),
            Err(error) => {
                debug!(group = self.member.group.as_str(); "cannot resume partitions: {error}")
            }
        }
    }

    /// Restarts a recreated topic from its beginning. What was read from the old one is delivered
    /// before.
    fn restart(&self, consumer: &BaseConsumer<ReaderEvents>) {
        let member = &self.member;
        let assigned = member.inbox().assigned();
        if assigned.is_empty() {
            // No partition of the old topic is assigned; later assignments start at the group's
            // position on the bus.
            member.identity.set_recreated(false);
            return;
        }
        let list = member.list_at(&assigned, Offset::Beginning);
        match consumer.seek_partitions(list, SEEK_TIMEOUT) {
            Ok(list)
                if list
                    .elements()
                    .iter()
                    .all(|element| element.error().is_ok()) =>
            {
                member.inbox().restart();
                member.identity.set_recreated(false);
                member.filled.notify_one();
            }
            // The next check retries.
            Ok(_) => {
                debug!(group = member.group.as_str(); "seek to the beginning not finished")
            }
            Err(error) => {
                debug!(group = member.group.as_str(); "seek to the beginning failed: {error}")
            }
        }
    }
}

fn is_missing_topic(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic
    )
}

/// Whether an error means that this member may not read with its group, which only an operator can
/// fix.
fn is_group_error(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::GroupAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::InvalidSessionTimeout
            | Code::InvalidGroupId
            | Code::InconsistentGroupProtocol
            | Code::GroupMaxSizeReached
            | Code::PolicyViolation
            | Code::UnsupportedVersion
    )
}
