//! The thread that reads for one member of a group: it never waits for whoever works on what it
//! reads.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use log::{debug, info, warn};
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

/// What waits to be given out at most.
const LIMITS: Limits = Limits {
    records: 10_000,
    bytes: 32 * 1024 * 1024,
};
/// So long it is waited for room before the flow is stopped. What librdkafka has fetched of a
/// partition is gone when it is paused, and fetched again; a backlog would stand still for longer
/// than it takes to work on what waits.
const ROOM: Duration = Duration::from_millis(500);
/// How long a look for records takes where there are none; nothing else is done meanwhile.
const POLL: Duration = Duration::from_millis(50);
/// What was done is told to the bus this often.
const COMMIT_EVERY: Duration = Duration::from_millis(200);
/// A commit that was not answered for so long is made again.
const COMMIT_ANSWER: Duration = Duration::from_secs(30);
/// How long a partition that moves waits for the work on what was given out of it.
const LAST_WORK: Duration = Duration::from_secs(5);
/// How long the places of a topic that was made again may take to be set.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay before a consumer that failed for good is made anew.
const RECREATE_DELAY: Duration = Duration::from_secs(1);

/// What the thread and the subscription share.
pub(super) struct Shared {
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) health: SubscriptionHealth,
    inbox: Mutex<Inbox>,
    /// Something was put in.
    pub(super) filled: Notify,
    /// Something was given out or done.
    moved: Condvar,
    pub(super) closing: AtomicBool,
    log: FaultLog,
    /// The topic's id, as far as is known, and whether it has changed since the partitions were set
    /// to their beginning.
    id: Mutex<Option<String>>,
    made_again: AtomicBool,
    /// The topic is missing: what is committed now could be taken for a place in the one that comes
    /// after it.
    gone: AtomicBool,
    committing: Mutex<Option<Instant>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks; if it did, each step leaves the state
    // whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        lock(&self.inbox)
    }

    /// Whoever waits for room, or for work to be done, looks again.
    pub(super) fn tell_moved(&self) {
        self.moved.notify_all();
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.moved.notify_all();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The group gave it a share, or a record came.
    fn reads(&self) {
        if self.health.join() && self.log.recovered() {
            info!(group = self.group.as_str(); "reads again");
        }
    }

    /// Waits a while until there is room; gives whether there is.
    fn wait_for_room(&self) -> bool {
        let inbox = self.inbox();
        let waiting = self
            .moved
            .wait_timeout_while(inbox, ROOM, |inbox| inbox.is_full() && !self.is_closing());
        let (inbox, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        !inbox.is_full()
    }

    fn wait_for_work(&self, partitions: &[u32]) {
        let deadline = Instant::now() + LAST_WORK;
        let mut inbox = self.inbox();
        while !inbox.is_done(partitions) && !self.is_closing() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let group = self.group.as_str();
                warn!(group, partitions:? = partitions; "partitions move before their work is done: it is done again");
                return;
            }
            inbox = self
                .moved
                .wait_timeout(inbox, left)
                .map_or_else(|error| error.into_inner().0, |(inbox, _)| inbox);
        }
    }

    fn list(&self, offsets: impl IntoIterator<Item = (u32, Offset)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            // Fails only for offsets that have no number, and none of these is one.
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

    /// Notes where the reader stands. To be called on the reading thread, between polls: what it
    /// has passed is put in. Not while the consumer closes: it polls until it is closed, and what
    /// that returns is dropped, not put in.
    fn note_places(&self, consumer: &BaseConsumer<ReaderEvents>) {
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

    fn note_commit(&self, list: &TopicPartitionList) {
        let mut inbox = self.inbox();
        for element in list.elements() {
            if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset()) {
                inbox.committed(element.partition() as u32, offset.max(0) as u64);
            }
        }
    }
}

/// The context of the consumer. All of it runs on the reading thread, within a poll.
pub(super) struct ReaderEvents {
    shared: Arc<Shared>,
    kept: Arc<TopicState>,
    trouble: Arc<LastError>,
    bearings: BrokerVisibility,
    /// Its consumer was let go: another one reads by now.
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
                warn!(group = shared.group.as_str(); "the beginning of a topic that was made again cannot be asked for");
            }
            // Partitions that stayed are not in the list: they are set back at the next look.
            let all = all_in(&shared.inbox().assigned(), &partitions);
            shared.made_again.store(!all, Ordering::Relaxed);
        }
        shared.inbox().assign(&partitions);
        debug!(group = shared.group.as_str(), partitions:?; "reads partitions");
        if let Err(error) = consumer.incremental_assign(list) {
            warn!(group = shared.group.as_str(); "partitions cannot be taken: {error}");
        }
        shared.reads();
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let shared = &self.shared;
        let partitions = partitions_of(list);
        debug!(group = shared.group.as_str(), partitions:?; "gives partitions up");
        shared.inbox().drop_unread(&partitions);
        if consumer.assignment_lost() || self.bearings.has_lost_brokers() {
            // Nothing is read until the group takes it in again, which may be a session timeout
            // after Kafka is back: a group that Kafka had to read from its disk first waits for the
            // member that this was.
            shared
                .health
                .fail("the session ended, joining again".to_owned());
        } else {
            shared.wait_for_work(&partitions);
            self.commit_now(consumer, &partitions);
        }
        if let Err(error) = consumer.incremental_unassign(list) {
            warn!(group = shared.group.as_str(); "partitions cannot be given up: {error}");
        }
        shared.inbox().revoke(partitions);
        shared.filled.notify_one();
    }

    /// Waits until the bus has what is done, where it can be reached.
    fn commit_now(&self, consumer: &BaseConsumer<Self>, partitions: &[u32]) {
        self.shared.note_places(consumer);
        let Some(list) = self.shared.due(|partition| partitions.contains(&partition)) else {
            return;
        };
        let group = self.shared.group.as_str();
        if !self.kept.is_there() {
            info!(group; "the last positions are not committed, Kafka is away: some is read again");
            return;
        }
        match consumer.commit(&list, CommitMode::Sync) {
            Ok(()) => self.shared.note_commit(&list),
            Err(error) => {
                info!(group; "the last positions are not committed, some is read again: {error}")
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

/// Whether every partition that was here already came again.
fn all_in(here: &[u32], came: &[u32]) -> bool {
    here.iter().all(|partition| came.contains(partition))
}

impl ClientContext for ReaderEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.trouble.log_line(level, facility, line);
        let Some(id) = events::new_id(&self.shared.topic, line) else {
            return;
        };
        let before = lock(&self.shared.id).replace(id.to_owned());
        if before.is_some_and(|before| before != id) {
            warn!(topic = self.shared.topic.as_str(), group = self.shared.group.as_str(); "the topic was made again: reads it from its beginning");
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
        // librdkafka tells the end of an asynchronous commit to nobody who takes events and not
        // callbacks, as rdkafka does. These figures are what tells of it. One that is under way
        // still is made again, which does no harm.
        *lock(&self.shared.committing) = None;
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.trouble.tell(&error, reason);
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
            // What was its share is nothing to the one that reads now.
            _ if self.is_over() => drop(consumer.incremental_unassign(list)),
            _ => self.revoke(consumer, list),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if self.is_over() {
            return;
        }
        *lock(&self.shared.committing) = None;
        match result {
            Ok(()) => self.shared.note_commit(offsets),
            // It is tried again with the next one.
            Err(error) => {
                debug!(group = self.shared.group.as_str(); "positions not committed: {error}")
            }
        }
    }
}

/// Whether an error says that this member may not read with its group, which only people can mend.
fn concerns_the_group(code: RDKafkaErrorCode) -> bool {
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

/// The thread's own things.
pub(super) struct Reader {
    clients: Clients,
    shared: Arc<Shared>,
    keeper: Arc<TopicMonitor>,
    kept: Arc<TopicState>,
    trouble: Arc<LastError>,
    /// Every partition that was paused and not resumed since, whoever has it now.
    paused: BTreeSet<u32>,
    last_commit: Instant,
}

/// Tells the end of the thread, also where it ends by a panic: nobody may wait for it then.
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

/// Runs the thread; the receiver tells its end.
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
        .spawn(run)
        .map_err(|failure| BusError::Unavailable(failure.to_string()))?;
    Ok(ended)
}

impl Reader {
    /// Starts the thread; the receiver tells its end.
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
                    self.let_go(consumer);
                }
                Err(error) => warn!(group = self.shared.group.as_str(); "no consumer: {error}"),
            }
            // What the old one had is another's, or comes again.
            let assigned = self.shared.inbox().assigned();
            self.shared.inbox().revoke(assigned);
            self.shared.filled.notify_one();
            self.paused.clear();
            if !self.shared.is_closing() {
                std::thread::sleep(RECREATE_DELAY);
            }
        }
    }

    /// Reads until the subscription is closed, or the consumer has failed for good.
    fn read(&mut self, consumer: &BaseConsumer<ReaderEvents>) {
        // A topic that is missing is no error here: it is waited for.
        while !self.kept.is_there() && !self.shared.is_closing() {
            consumer.poll(POLL);
        }
        if let Err(error) = consumer.subscribe(&[&self.shared.topic]) {
            warn!(group = self.shared.group.as_str(); "cannot read the topic: {error}");
            return;
        }
        let mut next_look = Instant::now();
        while !self.shared.is_closing() {
            let now = Instant::now();
            if now >= next_look {
                self.look_around(consumer, now);
                next_look = now + POLL / 2;
            }
            match consumer.poll(POLL) {
                None => next_look = now,
                Some(Ok(message)) => self.put(consumer, &message),
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    return self.give_up(&code.to_string());
                }
                Some(Err(error)) => self.failed(&error),
            }
            if consumer.context().bearings.has_lost_brokers() {
                return self.give_up("it knows no broker any more");
            }
        }
        let assigned = self.shared.inbox().assigned();
        consumer.context().commit_now(consumer, &assigned);
    }

    /// Ends a consumer; it leaves its group. Nothing waits for one that failed: librdkafka may wait
    /// for an answer that cannot come, and then it ends with the process.
    fn let_go(&self, consumer: BaseConsumer<ReaderEvents>) {
        if self.shared.is_closing() && !consumer.context().bearings.has_lost_brokers() {
            return drop(consumer);
        }
        consumer.context().is_over.store(true, Ordering::Relaxed);
        let thread = std::thread::Builder::new().name("kafka failed".to_owned());
        if let Err(failure) = thread.spawn(move || drop(consumer)) {
            warn!(group = self.shared.group.as_str(); "no thread to end a consumer in: {failure}");
        }
    }

    /// Nothing is read until a new consumer is in the group.
    fn give_up(&self, why: &str) {
        self.shared
            .health
            .fail(format!("the consumer is made anew: {why}"));
        let Some(repeated) = self.shared.log.failed(why) else {
            return;
        };
        warn!(group = self.shared.group.as_str(), repeated; "the Kafka consumer failed for good and is made anew: {why}");
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
        // What the keeper cannot see: the topic is there, and the group does not let us read it.
        if let Some(code) = error
            .rdkafka_error_code()
            .filter(|code| concerns_the_group(*code))
            && self.shared.health.fail(code.to_string())
            && let Some(repeated) = self.shared.log.failed(&code.to_string())
        {
            // The original's members divide the partitions in another way, and Kafka does not mix
            // the two.
            let hint = match code {
                RDKafkaErrorCode::InconsistentGroupProtocol => {
                    ": another program's members are in the group, and not of our kind; nothing is read until they leave. To read beside them, take a group of our own (KAFKA_GROUP_STORE, KAFKA_GROUP_LIVE, KAFKA_GROUP_CONFIRMATION)"
                }
                _ => "",
            };
            warn!(group = self.shared.group.as_str(), topic = self.shared.topic.as_str(), repeated; "cannot read: {code}{hint}");
        }
        // Everything else is told by the keeper, once.
        debug!(group = self.shared.group.as_str(); "reading: {error}");
        self.keeper.look();
    }

    fn put(&mut self, consumer: &BaseConsumer<ReaderEvents>, message: &BorrowedMessage<'_>) {
        if self.shared.made_again.load(Ordering::Relaxed) {
            // It comes again, from the beginning.
            return self.begin_anew(consumer);
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
        self.shared.reads();
        if full && !self.shared.wait_for_room() {
            self.pause(consumer);
        }
    }

    /// Stops the flow while the queue stays full. The thread goes on polling, so that the group
    /// does not take it for dead.
    fn pause(&mut self, consumer: &BaseConsumer<ReaderEvents>) {
        let assigned = self.shared.inbox().assigned();
        let list = self.shared.list(
            assigned
                .iter()
                .map(|partition| (*partition, Offset::Invalid)),
        );
        if let Err(error) = consumer.pause(&list) {
            debug!(group = self.shared.group.as_str(); "not paused: {error}");
        }
        self.paused.extend(assigned);
    }

    fn look_around(&mut self, consumer: &BaseConsumer<ReaderEvents>, now: Instant) {
        if !self.paused.is_empty() && self.shared.inbox().has_room() {
            // Also those that are another's by now: librdkafka keeps a pause until they come back,
            // and longer.
            let list = self.shared.list(
                self.paused
                    .iter()
                    .map(|partition| (*partition, Offset::Invalid)),
            );
            match consumer.resume(&list) {
                Ok(()) => self.paused.clear(),
                Err(error) => debug!(group = self.shared.group.as_str(); "not resumed: {error}"),
            }
        }
        if self.shared.made_again.load(Ordering::Relaxed) {
            self.begin_anew(consumer);
        }
        if now.duration_since(self.last_commit) >= COMMIT_EVERY {
            self.last_commit = now;
            self.shared.note_places(consumer);
            self.commit(consumer, now);
        }
    }

    fn commit(&self, consumer: &BaseConsumer<ReaderEvents>, now: Instant) {
        let waits = lock(&self.shared.committing)
            .is_some_and(|since| now.duration_since(since) < COMMIT_ANSWER);
        if waits {
            return;
        }
        let Some(list) = self.shared.due(|_| true) else {
            return;
        };
        *lock(&self.shared.committing) = Some(now);
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            *lock(&self.shared.committing) = None;
            debug!(group = self.shared.group.as_str(); "positions not committed: {error}");
        }
    }

    /// The topic is another one under the same name: what was read of the old one is over.
    fn begin_anew(&self, consumer: &BaseConsumer<ReaderEvents>) {
        let assigned = self.shared.inbox().assigned();
        if assigned.is_empty() {
            // Nothing of the old topic is here, and what comes later has its place on the bus.
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
                self.shared.inbox().begin_anew();
                self.shared.made_again.store(false, Ordering::Relaxed);
                self.shared.filled.notify_one();
            }
            // Tried again at the next look.
            Ok(_) => debug!(group = self.shared.group.as_str(); "not at the beginning yet"),
            Err(error) => {
                debug!(group = self.shared.group.as_str(); "not at the beginning yet: {error}")
            }
        }
    }
}

/// A record as it came. A key or a value that is missing is an empty one.
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
    fn partitions_that_stayed_keep_the_flag_of_a_topic_that_was_made_again() {
        assert!(all_in(&[], &[]) && all_in(&[], &[1]) && all_in(&[0, 1], &[1, 0, 2]));
        assert!(!all_in(&[0, 1], &[1, 2]) && !all_in(&[0], &[]));
    }

    #[tokio::test]
    async fn a_thread_that_panics_ends_the_subscription() {
        let bus = KafkaBus::new(&settings("127.0.0.1:9"), "test").unwrap();
        let shared = Arc::new(Shared::new("t", "g"));
        let ended = spawn(shared.clone(), || panic!("on purpose")).unwrap();
        let mut group = KafkaSubscription {
            shared,
            ended,
            _inner: bus.inner.clone(),
        };
        let given =
            tokio::time::timeout(Duration::from_secs(10), group.next_batch(1, Duration::ZERO))
                .await;
        assert_eq!(given, Ok(Err(BusError::Closed)));
    }
}
