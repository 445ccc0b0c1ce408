//! The bus carries supplier updates to the books and the store. Records of one key keep their
//! order; consumer groups read independently, each from its own position.

mod commit_wait;
pub mod dead_letter;
pub(crate) mod embedded;
pub(crate) mod embedded_compacted;
pub(crate) mod group_path;
pub(crate) mod health;
pub(crate) mod kafka;
pub(crate) mod progress;
pub(crate) mod source_report;
#[cfg(test)]
mod suite;
pub(crate) mod trace_header;
pub(crate) mod update_header;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use self::health::SubscriptionHealth;
use crate::domain::ids::EventId;
use crate::domain::timestamp::Timestamp;

/// A record to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// Records with the same key keep their order.
    pub key: Bytes,
    /// The content.
    pub payload: Bytes,
    /// Header names and values.
    pub headers: Vec<(String, Bytes)>,
}

impl NewRecord {
    /// A record about an event, without headers. The records of an event keep their order.
    pub(crate) fn of_event(event_id: &EventId, payload: impl Into<Bytes>) -> NewRecord {
        NewRecord {
            key: Bytes::copy_from_slice(event_id.as_str().as_bytes()),
            payload: payload.into(),
            headers: Vec::new(),
        }
    }

    /// The number of bytes of its key, content and headers.
    pub fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.key.len() + self.payload.len() + headers
    }
}

/// A record as a group reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The partition that the key maps to.
    pub partition: u32,
    /// The position in the partition, from 0. Offsets may have gaps.
    pub offset: u64,
    /// Publish time by the publisher's or the broker's clock; `None` if the bus does not report it.
    pub published_at: Option<Timestamp>,
    /// The record as it was published.
    pub record: NewRecord,
}

impl Record {
    /// The value of a header, if it is valid UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .record
            .headers
            .iter()
            .find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// How far a group has read: the next offset of each partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position(BTreeMap<u32, u64>);

impl Position {
    /// The position after these records.
    pub fn after(records: &[Record]) -> Position {
        let mut position = Position::default();
        for record in records {
            position.advance(record.partition, record.offset.saturating_add(1));
        }
        position
    }

    /// Advances a partition to `next`; never moves it back.
    pub fn advance(&mut self, partition: u32, next: u64) {
        let known = self.0.entry(partition).or_insert(next);
        *known = (*known).max(next);
    }

    /// Advances every partition in which `other` is further.
    pub fn merge(&mut self, other: &Position) {
        other
            .iter()
            .for_each(|(partition, next)| self.advance(partition, next));
    }

    /// Removes these partitions.
    pub fn forget(&mut self, partitions: &[u32]) {
        self.0
            .retain(|partition, _| !partitions.contains(partition));
    }

    /// Each partition with its next offset.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        self.0.iter().map(|(partition, next)| (*partition, *next))
    }

    /// Whether it holds no partition.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An event of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerEvent {
    /// At least one record; the records of a partition are in order.
    Records(Vec<Record>),
    /// Records from before the group's position, which were committed earlier. Only from
    /// [`Topic::subscribe_with_replay`], and before the [`ConsumerEvent::Records`] of their
    /// partitions. There is nothing to commit.
    Replayed(Vec<Record>),
    /// Partitions that moved to another member of the group, or that start again from an earlier
    /// offset. No more records of their previous assignment are delivered.
    Revoked {
        /// The partitions.
        partitions: Vec<u32>,
        /// Whether records that were read may be lost on the bus, because the topic was deleted or
        /// created again, or a partition has lost its end. They have been delivered before.
        are_records_lost: bool,
    },
}

/// Why a bus operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The bus is closed because the process is shutting down.
    #[error("the bus is closed")]
    Closed,
    /// The bus cannot be reached or does not answer.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
    /// The record is too large for the bus.
    #[error("the bus refused: {0}")]
    TooLarge(String),
    /// A permanent rejection, such as a topic without write permission.
    #[error("the bus refused: {0}")]
    Refused(String),
    /// The actor that publishes to the bus did not answer.
    #[error("the bus publisher does not answer: {0}")]
    Unreachable(String),
}

impl BusError {
    /// A fixed code for each variant.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            BusError::Closed => "closed",
            BusError::Unavailable(_) => "unavailable",
            BusError::TooLarge(_) => "too_large",
            BusError::Refused(_) => "refused",
            BusError::Unreachable(_) => "unreachable",
        }
    }
}

/// The pending answer of the bus to a batch.
pub struct Acknowledgement(BoxFuture<'static, Result<(), BusError>>);

impl Acknowledgement {
    /// An answer that `published` waits for.
    fn new(
        published: impl Future<Output = Result<(), BusError>> + Send + 'static,
    ) -> Acknowledgement {
        Acknowledgement(published.boxed())
    }

    /// Waits until every record of the batch is durable on the bus, as [`Topic::publish`] does.
    pub async fn received(self) -> Result<(), BusError> {
        self.0.await
    }
}

/// A topic of a bus.
pub trait Topic: Send + Sync {
    /// The topic name.
    fn name(&self) -> &str;

    /// Publishes records; records of one key keep their order. Waits while the topic is full or
    /// unavailable and drops nothing. Completes when every record is durable on the bus. After
    /// [`BusError::Refused`] and [`BusError::TooLarge`] a retry does not help.
    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>>;

    /// Publishes records in two steps, so that several batches can be in flight in order. The
    /// returned future waits while the topic is full or unavailable, and completes when the records
    /// are on their way: batches that are enqueued one after the other keep their order, unless the
    /// bus fails one of them; that one is sent again after those in flight.
    fn enqueue(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Acknowledgement> {
        let publishing = self.publish(records);
        async move { Acknowledgement::new(std::future::ready(publishing.await)) }.boxed()
    }

    /// Joins a consumer group. The group keeps its position as long as the topic exists; a new
    /// group starts at the beginning. Members of one group, also in other processes, share the
    /// partitions.
    fn subscribe(&self, group: &str) -> Result<Box<dyn Subscription>, BusError>;

    /// Like [`Topic::subscribe`]. In addition, the member first reads what was published to its
    /// partitions in the last `window` before the group's position. Nothing by default, because a
    /// bus need not keep what every group has committed.
    fn subscribe_with_replay(
        &self,
        group: &str,
        _window: Duration,
    ) -> Result<Box<dyn Subscription>, BusError> {
        self.subscribe(group)
    }

    /// Like [`Topic::subscribe`], for work that is not urgent: records wait a moment for others, so
    /// that the bus answers few large requests instead of one for each record.
    fn subscribe_in_bulk(&self, group: &str) -> Result<Box<dyn Subscription>, BusError> {
        self.subscribe(group)
    }

    /// Reads every partition beside a group, without joining it: first what the group has not
    /// committed yet, then what is published. Only on a bus that several processes share.
    fn follow(&self, group: &str) -> Result<Box<dyn TopicReader>, BusError> {
        let text = format!("{} cannot be followed beside {group}", self.name());
        Err(BusError::Refused(text))
    }

    /// Completes when `group` has committed everything that the topic holds when the future is first
    /// polled. Fails if the group commits nothing of it for `patience`.
    fn committed_by(
        &self,
        group: &str,
        _patience: Duration,
    ) -> BoxFuture<'static, Result<(), BusError>> {
        let text = format!("{} does not show what {group} has committed", self.name());
        std::future::ready(Err(BusError::Refused(text))).boxed()
    }

    /// Records of this process that are waiting: on the embedded bus for the slowest group, on
    /// Kafka for the broker to accept them.
    fn depth(&self) -> usize;

    /// Checks that the bus answers and has the topic.
    fn ping(&self) -> BoxFuture<'static, Result<(), BusError>>;
}

/// One member of a consumer group.
pub trait Subscription: Send {
    /// Waits for at least one record, then up to `linger` longer for `max` records. Cancel safe:
    /// dropping the future loses nothing.
    fn next_batch(
        &mut self,
        max: usize,
        linger: Duration,
    ) -> BoxFuture<'_, Result<ConsumerEvent, BusError>>;

    /// Commits everything before this position. Partitions that were revoked in the meantime are
    /// skipped.
    fn commit(&mut self, done: &Position);

    /// Uncommitted records in this member's partitions, as far as known.
    fn lag(&self) -> u64;

    /// Whether uncommitted records survive the end of this process.
    fn is_durable(&self) -> bool;

    /// A handle to this member's health, readable while the member is busy.
    fn health(&self) -> SubscriptionHealth;

    /// Leaves the group after all commits are durable on the bus.
    fn close(&mut self) -> BoxFuture<'_, ()>;
}

/// A compacted topic: it keeps the latest record of each key, and every reader reads all of it,
/// without a group.
pub trait CompactedTopic: Send + Sync {
    /// Publishes records. Fails if the topic does not accept them in time; such records are not
    /// retried, because newer ones will replace them.
    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>>;

    /// Reads the topic: first what it holds, then what is published.
    fn read(&self) -> Result<Box<dyn TopicReader>, BusError>;
}

/// A reader of all partitions of a topic, without a group. Reconnects by itself.
pub trait TopicReader: Send {
    /// Waits for the next event. Cancel safe: dropping the future loses nothing.
    fn next(&mut self) -> BoxFuture<'_, Result<ReadEvent, BusError>>;
}

/// An event of a [`TopicReader`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadEvent {
    /// Records that the topic held when the reader started. Later ones of the same key may follow.
    /// If the topic is followed, only those that the group had not committed.
    Held(Vec<Record>),
    /// Everything that the topic held has been read.
    CaughtUp,
    /// Records that were published since.
    Published(Vec<Record>),
}
