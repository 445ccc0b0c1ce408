//! The reading thread of one group member. It never waits for the processing of the records it
//! reads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use log::{debug, info, warn};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, Statistics, TopicPartitionList};
use tokio::sync::{Notify, watch};

use super::config::Clients;
use super::events::{self, BrokerVisibility, LastError};
use super::inbox::{Inbox, Limits};
use super::topics::{TopicMonitor, TopicState};
use crate::bus::health::SubscriptionHealth;
use crate::bus::{BusError, NewRecord, Record};
use crate::domain::timestamp::Timestamp;
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::role;

/// The maximum that waits in the inbox.
const LIMITS: Limits = Limits {
    records: 10_000,
    bytes: 32 * 1024 * 1024,
};
/// How long to wait for inbox space before pausing partitions. Pausing discards the messages
/// librdkafka has prefetched, so pausing early stalls a backlog for longer than processing the
/// inbox takes.
const SPACE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a poll waits for records; the thread does nothing else meanwhile.
const POLL_TIMEOUT: Duration = Duration::from_millis(50);
/// How often positions are committed.
const COMMIT_INTERVAL: Duration = Duration::from_millis(200);
/// A commit without an answer is repeated after this time.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a revoked partition waits for the work on its delivered records.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for seeking to the beginning of a recreated topic.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay before a consumer is recreated after a fatal error.
const RECREATE_DELAY: Duration = Duration::from_secs(1);

/// State shared by the thread and the subscription.
pub(super) struct Shared {
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) health: SubscriptionHealth,
    inbox: Mutex<Inbox>,
    /// Notified when an event was put into the inbox.
    pub(super) filled: Notify,
    /// Notified when records were delivered or committed.
    moved: Condvar,
    pub(super) closing: AtomicBool,
    log: FaultLog,
    /// The topic id, as far as known, and whether it has changed since the partitions were set to
    /// their beginning.
    id: Mutex<Option<String>>,
    made_again: AtomicBool,
    /// The topic is missing. Commits stop: an old position could be taken as a position in the
    /// recreated topic.
    gone: AtomicBool,
    committing: Mutex<Option<Instant>>,
}

impl Shared {
    pub(super) fn new(topic: &str, group: &str) -> Shared {
        Shared {
            topic: topic.to_owned(),
            group: group.to_owned(),
            health: SubscriptionHealth::joining(group),
            inbox: Mutex::new(Inbox::new(LIMITS)),
            filled: Notify::new(),
            moved: Condvar::new(),
            closing: AtomicBool::new(false),
            log: FaultLog::new(),
            id: Mutex::default(),
            made_again: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            committing: Mutex::default(),
        }
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock()
    }

    /// Wakes the thread if it waits for space or for work to finish.
    pub(super) fn notify_moved(&self) {
        self.moved.notify_all();
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.moved.notify_all();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The group assigned a share, or a record arrived.
    fn mark_reading(&self) {
        if self.health.join() && self.log.recovered() {
            info!(group = self.group.as_str(); "kafka consumer recovered, reading again");
        }
    }

    /// Waits up to [`SPACE_TIMEOUT`] for inbox space. Returns whether there is any.
    fn wait_for_room(&self) -> bool {
        let mut inbox = self.inbox();
        self.moved.wait_while_for(
            &mut inbox,
            |inbox| inbox.is_full() && !self.is_closing(),
            SPACE_TIMEOUT,
        );
        !inbox.is_full()
    }

    fn wait_for_work(&self, partitions: &[u32]) {
        let deadline = Instant::now() + REVOKE_TIMEOUT;
        let mut inbox = self.inbox();
        while !inbox.is_done(partitions) && !self.is_closing() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let group = self.group.as_str();
                warn!(group, partitions:? = partitions; "partitions revoked before their work is done; the next owner repeats it");
                return;
            }
            self.moved.wait_for(&mut inbox, left);
        }
    }

    fn list(&self, offsets: impl IntoIterator<Item = (u32, Offset)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            // Fails only for special offsets without a number; none is used here.
            let _ = list.add_partition_offset(&self.topic, partition as i32, offset);
        }
        list
    }

    fn due(&self, of: impl Fn(u32) -> bool) -> Option<TopicPartitionList> {
        if self.gone.load(Ordering::Relaxed) || self.made_again.load(Ordering::Relaxed) {
            return None;
        }
        let due = self.inbox().to_commit(of);
        let offsets = due
            .into_iter()
            .map(|(partition, offset)| (partition, Offset::Offset(offset as i64)));
        let list = self.list(offsets);
        (list.count() > 0).then_some(list)
    }

    /// Records the reader's positions. Must be called on the reading thread between polls, when
    /// every record it has passed is in the inbox. Not while the consumer closes: it keeps polling
    /// until it is closed, and the records of those polls are dropped.
    fn record_positions(&self, consumer: &BaseConsumer<ReaderEvents>) {
        if self.made_again.load(Ordering::Relaxed) || self.is_closing() {
            return;
        }
        let Ok(places) = consumer.position() else {
            return;
        };
        let mut inbox = self.inbox();
        for element in places.elements() {
            if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset())
                && let (Ok(partition), Ok(offset)) =
                    (u32::try_from(element.partition()), u64::try_from(offset))
            {
                inbox.passed(partition, offset);
            }
        }
    }

    fn record_commit(&self, list: &TopicPartitionList) {
        let mut inbox = self.inbox();
        for element in list.elements() {
            if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset()) {
                inbox.committed(element.partition() as u32, offset.max(0) as u64);
            }
        }
    }
}

/// The consumer context. All callbacks run on the reading thread, within a poll.
pub(super) struct ReaderEvents {
    shared: Arc<Shared>,
    kept: Arc<TopicState>,
    trouble: Arc<LastError>,
    bearings: BrokerVisibility,
    /// The consumer was discarded and another one reads now.
    is_over: AtomicBool,
}

impl ReaderEvents {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) {
        let shared = &self.shared;
        let partitions = partitions_of(list);
        shared.gone.store(false, Ordering::Relaxed);
        if shared.made_again.load(Ordering::Relaxed) {
            if list.set_all_offsets(Offset::Beginning).is_err() {
                warn!(group = shared.group.as_str(); "cannot seek to the beginning of the recreated topic");
            }
            // Partitions that were already assigned are not in the list; the next check resets
            // them.
            let all = all_in(&shared.inbox().assigned(), &partitions);
            shared.made_again.store(!all, Ordering::Relaxed);
        }
        shared.inbox().assign(&partitions);
        debug!(group = shared.group.as_str(), partitions:?; "partitions assigned");
        if let Err(error) = consumer.incremental_assign(list) {
            warn!(group = shared.group.as_str(); "cannot take over partitions: {error}");
        }
        shared.mark_reading();
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let shared = &self.shared;
        let partitions = partitions_of(list);
        debug!(group = shared.group.as_str(), partitions:?; "partitions revoked");
        shared.inbox().drop_unread(&partitions);
        if consumer.assignment_lost() || self.bearings.has_lost_brokers() {
            // Nothing is read until the group accepts the member again. That may take a session
            // timeout after Kafka is back: a group that Kafka must first load from disk waits for
            // the previous incarnation of this member.
            shared
                .health
                .fail("the session expired, rejoining".to_owned());
        } else {
            shared.wait_for_work(&partitions);
            self.commit_now(consumer, &partitions);
        }
        if let Err(error) = consumer.incremental_unassign(list) {
            warn!(group = shared.group.as_str(); "cannot release partitions: {error}");
        }
        shared.inbox().revoke(partitions);
        shared.filled.notify_one();
    }

    /// Commits completed work and waits for the answer, if Kafka can be reached.
    fn commit_now(&self, consumer: &BaseConsumer<Self>, partitions: &[u32]) {
        self.shared.record_positions(consumer);
        let Some(list) = self.shared.due(|partition| partitions.contains(&partition)) else {
            return;
        };
        let group = self.shared.group.as_str();
        if !self.kept.is_there() {
            info!(group; "final positions not committed, kafka is unavailable; some records will be read again");
            return;
        }
        match consumer.commit(&list, CommitMode::Sync) {
            Ok(()) => self.shared.record_commit(&list),
            Err(error) => {
                info!(group; "final positions not committed, some records will be read again: {error}")
            }
        }
    }
}

fn partitions_of(list: &TopicPartitionList) -> Vec<u32> {
    list.elements()
        .iter()
        .map(|element| element.partition() as u32)
        .collect()
}

/// Whether the new assignment contains every partition that is assigned already.
fn all_in(here: &[u32], came: &[u32]) -> bool {
    here.iter().all(|partition| came.contains(partition))
}

impl ClientContext for ReaderEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.trouble.log_line(level, facility, line);
        let Some(id) = events::new_id(&self.shared.topic, line) else {
            return;
        };
        let before = self.shared.id.lock().replace(id.to_owned());
        if before.is_some_and(|before| before != id) {
            warn!(topic = self.shared.topic.as_str(), group = self.shared.group.as_str(); "topic recreated, reading it from the beginning");
            self.shared.made_again.store(true, Ordering::Relaxed);
        }
    }

    fn stats(&self, statistics: Statistics) {
        if self.is_over() {
            return;
        }
        self.bearings.look(&statistics);
        let Some(topic) = statistics.topics.get(&self.shared.topic) else {
            return;
        };
        let known = |offset: i64| u64::try_from(offset).ok();
        let mut inbox = self.shared.inbox();
        for (partition, found) in &topic.partitions {
            if let Ok(partition) = u32::try_from(*partition) {
                let (low, end, on_bus) = (
                    found.lo_offset,
                    found.ls_offset,
                    known(found.committed_offset),
                );
                inbox.observe(partition, known(low), known(end), on_bus);
                if let Some(on_bus) = on_bus {
                    inbox.committed(partition, on_bus);
                }
            }
        }
        drop(inbox);
        // librdkafka does not report the end of an asynchronous commit to clients that use events
        // instead of callbacks, as rdkafka does. The statistics are the only sign. A commit that is
        // still in flight is repeated, which is harmless.
        *self.shared.committing.lock() = None;
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.trouble.record(&error, reason);
    }
}

impl ConsumerContext for ReaderEvents {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            // The current consumer does not own the partitions of the discarded one.
            _ if self.is_over() => drop(consumer.incremental_unassign(list)),
            _ => self.revoke(consumer, list),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if self.is_over() {
            return;
        }
        *self.shared.committing.lock() = None;
        match result {
            Ok(()) => self.shared.record_commit(offsets),
            // The next commit includes these positions.
            Err(error) => {
                debug!(group = self.shared.group.as_str(); "commit failed: {error}")
            }
        }
    }
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

/// State owned by the thread.
pub(super) struct Reader {
    clients: Clients,
    shared: Arc<Shared>,
    keeper: Arc<TopicMonitor>,
    kept: Arc<TopicState>,
    trouble: Arc<LastError>,
    /// Partitions that were paused and not resumed since, even if another member owns them now.
    paused: BTreeSet<u32>,
    last_commit: Instant,
}

/// Signals the end of the thread, also after a panic, so that no caller waits forever.
struct End {
    shared: Arc<Shared>,
    end: watch::Sender<bool>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.end.send_replace(true);
        self.shared.filled.notify_one();
    }
}

/// Spawns the thread; the receiver signals its end.
pub(super) fn spawn(
    shared: Arc<Shared>,
    run: impl FnOnce() + Send + 'static,
) -> Result<watch::Receiver<bool>, BusError> {
    let (end, ended) = watch::channel(false);
    let thread = std::thread::Builder::new().name(format!("kafka {}", shared.group));
    let end = End { shared, end };
    let run = move || {
        let _end = end;
        run();
    };
    thread
        .spawn(role::carry(run))
        .map_err(|failure| BusError::Unavailable(failure.to_string()))?;
    Ok(ended)
}

impl Reader {
    /// Starts the reader; the receiver signals the end of its thread.
    pub(super) fn start(
        clients: Clients,
        shared: Arc<Shared>,
        keeper: Arc<TopicMonitor>,
        kept: Arc<TopicState>,
        trouble: Arc<LastError>,
    ) -> Result<watch::Receiver<bool>, BusError> {
        let reader = Reader {
            clients,
            shared,
            keeper,
            kept,
            trouble,
            paused: BTreeSet::new(),
            last_commit: Instant::now(),
        };
        let consumer = reader.consumer()?;
        spawn(reader.shared.clone(), move || reader.run(consumer))
    }

    fn consumer(&self) -> Result<BaseConsumer<ReaderEvents>, BusError> {
        let (shared, kept, trouble) =
            (self.shared.clone(), self.kept.clone(), self.trouble.clone());
        let (bearings, is_over) = (BrokerVisibility::default(), AtomicBool::new(false));
        let events = ReaderEvents {
            shared,
            kept,
            trouble,
            bearings,
            is_over,
        };
        BaseConsumer::from_config_and_context(&self.clients.consumer(&self.shared.group), events)
            .map_err(|error| BusError::Refused(error.to_string()))
    }

    fn run(mut self, first: BaseConsumer<ReaderEvents>) {
        let mut consumer = Some(first);
        while !self.shared.is_closing() {
            match consumer.take().map_or_else(|| self.consumer(), Ok) {
                Ok(consumer) => {
                    self.read(&consumer);
                    self.close_consumer(consumer);
                }
                Err(error) => {
                    warn!(group = self.shared.group.as_str(); "cannot create a kafka consumer: {error}")
                }
            }
            // The old consumer's partitions belong to another member now, or are assigned again.
            let assigned = self.shared.inbox().assigned();
            self.shared.inbox().revoke(assigned);
            self.shared.filled.notify_one();
            self.paused.clear();
            if !self.shared.is_closing() {
                std::thread::sleep(RECREATE_DELAY);
            }
        }
    }

    /// Reads until the subscription is closed or the consumer fails permanently.
    fn read(&mut self, consumer: &BaseConsumer<ReaderEvents>) {
        // A missing topic is not an error; the reader waits for it.
        while !self.kept.is_there() && !self.shared.is_closing() {
            consumer.poll(POLL_TIMEOUT);
        }
        if let Err(error) = consumer.subscribe(&[&self.shared.topic]) {
            warn!(group = self.shared.group.as_str(); "cannot subscribe to the topic: {error}");
            return;
        }
        let mut next_check = Instant::now();
        while !self.shared.is_closing() {
            let now = Instant::now();
            if now >= next_check {
                self.housekeeping(consumer, now);
                next_check = now + POLL_TIMEOUT / 2;
            }
            match consumer.poll(POLL_TIMEOUT) {
                None => next_check = now,
                Some(Ok(message)) => self.put(consumer, &message),
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    return self.give_up(&code.to_string());
                }
                Some(Err(error)) => self.failed(&error),
            }
            if consumer.context().bearings.has_lost_brokers() {
                return self.give_up("it has lost all brokers");
            }
        }
        let assigned = self.shared.inbox().assigned();
        consumer.context().commit_now(consumer, &assigned);
    }

    /// Closes a consumer, which leaves its group. A failed consumer is closed on its own thread:
    /// librdkafka may wait for an answer that never comes, and that thread then ends with the
    /// process.
    fn close_consumer(&self, consumer: BaseConsumer<ReaderEvents>) {
        if self.shared.is_closing() && !consumer.context().bearings.has_lost_brokers() {
            return drop(consumer);
        }
        consumer.context().is_over.store(true, Ordering::Relaxed);
        let thread = std::thread::Builder::new().name("kafka failed".to_owned());
        if let Err(failure) = thread.spawn(move || drop(consumer)) {
            warn!(group = self.shared.group.as_str(); "cannot start a thread to close the consumer: {failure}");
        }
    }

    /// Nothing is read until a new consumer has joined the group.
    fn give_up(&self, why: &str) {
        self.shared
            .health
            .fail(format!("recreating the consumer: {why}"));
        let Some(repeated) = self.shared.log.failed(why) else {
            return;
        };
        warn!(group = self.shared.group.as_str(), repeated; "kafka consumer failed, recreating it: {why}");
    }

    fn failed(&mut self, error: &KafkaError) {
        let missing = [
            RDKafkaErrorCode::UnknownTopicOrPartition,
            RDKafkaErrorCode::UnknownTopic,
        ];
        if error
            .rdkafka_error_code()
            .is_some_and(|code| missing.contains(&code))
        {
            self.shared.gone.store(true, Ordering::Relaxed);
        }
        // The monitor cannot see this case: the topic exists, but the group does not let the member
        // read.
        if let Some(code) = error
            .rdkafka_error_code()
            .filter(|code| is_group_error(*code))
            && self.shared.health.fail(code.to_string())
            && let Some(repeated) = self.shared.log.failed(&code.to_string())
        {
            // The original's members use another partition assignment protocol, and Kafka does not
            // mix the two within a group.
            let hint = match code {
                RDKafkaErrorCode::InconsistentGroupProtocol => {
                    ": members of another program are in the group and use a different assignment protocol; nothing is read until they leave. To read in parallel, set a separate group (KAFKA_GROUP_STORE, KAFKA_GROUP_LIVE, KAFKA_GROUP_CONFIRMATION)"
                }
                _ => "",
            };
            warn!(group = self.shared.group.as_str(), topic = self.shared.topic.as_str(), repeated; "cannot read from the topic: {code}{hint}");
        }
        // The monitor logs all other errors, once.
        debug!(group = self.shared.group.as_str(); "read failed: {error}");
        self.keeper.look();
    }

    fn put(&mut self, consumer: &BaseConsumer<ReaderEvents>, message: &BorrowedMessage<'_>) {
        if self.shared.made_again.load(Ordering::Relaxed) {
            // The record is read again, from the beginning.
            return self.restart(consumer);
        }
        if self.shared.gone.load(Ordering::Relaxed) && self.kept.is_there() {
            self.shared.gone.store(false, Ordering::Relaxed);
        }
        let record = read_record(message);
        let mut inbox = self.shared.inbox();
        let was_empty = inbox.is_empty();
        inbox.push(record);
        let full = inbox.is_full();
        drop(inbox);
        if was_empty {
            self.shared.filled.notify_one();
        }
        self.shared.mark_reading();
        if full && !self.shared.wait_for_room() {
            self.pause(consumer);
        }
    }

    /// Pauses the partitions while the inbox stays full. The thread keeps polling, so that the
    /// group does not consider it dead.
    fn pause(&mut self, consumer: &BaseConsumer<ReaderEvents>) {
        let assigned = self.shared.inbox().assigned();
        let list = self.shared.list(
            assigned
                .iter()
                .map(|partition| (*partition, Offset::Invalid)),
        );
        if let Err(error) = consumer.pause(&list) {
            debug!(group = self.shared.group.as_str(); "cannot pause partitions: {error}");
        }
        self.paused.extend(assigned);
    }

    fn housekeeping(&mut self, consumer: &BaseConsumer<ReaderEvents>, now: Instant) {
        if !self.paused.is_empty() && self.shared.inbox().has_room() {
            // Includes partitions that another member owns now: librdkafka keeps the pause until
            // they come back, and longer.
            let list = self.shared.list(
                self.paused
                    .iter()
                    .map(|partition| (*partition, Offset::Invalid)),
            );
            match consumer.resume(&list) {
                Ok(()) => self.paused.clear(),
                Err(error) => {
                    debug!(group = self.shared.group.as_str(); "cannot resume partitions: {error}")
                }
            }
        }
        if self.shared.made_again.load(Ordering::Relaxed) {
            self.restart(consumer);
        }
        if now.duration_since(self.last_commit) >= COMMIT_INTERVAL {
            self.last_commit = now;
            self.shared.record_positions(consumer);
            self.commit(consumer, now);
        }
    }

    fn commit(&self, consumer: &BaseConsumer<ReaderEvents>, now: Instant) {
        let waits = self
            .shared
            .committing
            .lock()
            .is_some_and(|since| now.duration_since(since) < COMMIT_TIMEOUT);
        if waits {
            return;
        }
        let Some(list) = self.shared.due(|_| true) else {
            return;
        };
        *self.shared.committing.lock() = Some(now);
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            *self.shared.committing.lock() = None;
            debug!(group = self.shared.group.as_str(); "commit failed: {error}");
        }
    }

    /// Restarts a recreated topic from its beginning and drops everything read from the old one.
    fn restart(&self, consumer: &BaseConsumer<ReaderEvents>) {
        let assigned = self.shared.inbox().assigned();
        if assigned.is_empty() {
            // No partition of the old topic is assigned; later assignments start at the group's
            // position on the bus.
            self.shared.made_again.store(false, Ordering::Relaxed);
            return;
        }
        let list = self.shared.list(
            assigned
                .iter()
                .map(|partition| (*partition, Offset::Beginning)),
        );
        match consumer.seek_partitions(list, SEEK_TIMEOUT) {
            Ok(list)
                if list
                    .elements()
                    .iter()
                    .all(|element| element.error().is_ok()) =>
            {
                self.shared.inbox().restart();
                self.shared.made_again.store(false, Ordering::Relaxed);
                self.shared.filled.notify_one();
            }
            // The next check retries.
            Ok(_) => {
                debug!(group = self.shared.group.as_str(); "seek to the beginning not finished")
            }
            Err(error) => {
                debug!(group = self.shared.group.as_str(); "seek to the beginning failed: {error}")
            }
        }
    }
}

/// Converts a message to a record. A missing key or payload becomes an empty one.
pub(super) fn read_record(message: &BorrowedMessage<'_>) -> Record {
    let bytes = |part: Option<&[u8]>| part.map(Bytes::copy_from_slice).unwrap_or_default();
    let headers = message.headers().map(|headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), bytes(header.value)))
            .collect()
    });
    Record {
        partition: u32::try_from(message.partition()).unwrap_or_default(),
        offset: u64::try_from(message.offset()).unwrap_or_default(),
        published_at: message
            .timestamp()
            .to_millis()
            .and_then(Timestamp::from_millis),
        record: NewRecord {
            key: bytes(message.key()),
            payload: bytes(message.payload()),
            headers: headers.unwrap_or_default(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Subscription;
    use crate::bus::kafka::KafkaBus;
    use crate::bus::kafka::subscription::KafkaSubscription;
    use crate::bus::kafka::testing::settings;

    #[test]
    fn kept_partitions_preserve_recreated_flag() {
        assert!(all_in(&[], &[]) && all_in(&[], &[1]) && all_in(&[0, 1], &[1, 0, 2]));
        assert!(!all_in(&[0, 1], &[1, 2]) && !all_in(&[0], &[]));
    }

    #[tokio::test]
    async fn panicking_thread_closes_subscription() {
        let bus = KafkaBus::new(&settings("127.0.0.1:9"), "test").unwrap();
        let shared = Arc::new(Shared::new("t", "g"));
        let ended = spawn(shared.clone(), || panic!("on purpose")).unwrap();
        let mut group = KafkaSubscription {
            shared,
            ended,
            _inner: bus.inner.clone(),
        };
        let event =
            tokio::time::timeout(Duration::from_secs(10), group.next_batch(1, Duration::ZERO))
                .await;
        assert_eq!(event, Ok(Err(BusError::Closed)));
    }
}
