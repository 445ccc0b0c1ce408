//! The bus that carries updates from the suppliers to the books and the store: ordered within a
//! key, read by groups, each with its own position.

pub mod dead_letter;
pub mod embedded;
pub mod health;
pub mod kafka;
pub mod progress;
#[cfg(test)]
mod suite;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use self::health::SubscriptionHealth;
use crate::domain::timestamp::Timestamp;

/// A record to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// Records of one key keep their order.
    pub key: Bytes,
    /// The content.
    pub payload: Bytes,
    /// Names and values beside it.
    pub headers: Vec<(String, Bytes)>,
}

/// A record as a group reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The partition that its key led it to.
    pub partition: u32,
    /// Its place in the partition, from 0. Places may be missing.
    pub offset: u64,
    /// When it was published, by its publisher's clock or the broker's; none where the bus does not
    /// say.
    pub published_at: Option<Timestamp>,
    /// The record as it was published.
    pub record: NewRecord,
}

impl Record {
    /// The value of a header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .record
            .headers
            .iter()
            .find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// How far a group has read: of each partition the offset that comes next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position(BTreeMap<u32, u64>);

impl Position {
    /// The position behind records.
    pub fn after(records: &[Record]) -> Position {
        let mut position = Position::default();
        for record in records {
            position.advance(record.partition, record.offset.saturating_add(1));
        }
        position
    }

    /// Moves on to `next` in a partition; never back.
    pub fn advance(&mut self, partition: u32, next: u64) {
        let known = self.0.entry(partition).or_insert(next);
        *known = (*known).max(next);
    }

    /// Moves on to wherever `other` is further.
    pub fn merge(&mut self, other: &Position) {
        other
            .iter()
            .for_each(|(partition, next)| self.advance(partition, next));
    }

    /// Says nothing of these partitions any more.
    pub fn forget(&mut self, partitions: &[u32]) {
        self.0
            .retain(|partition, _| !partitions.contains(partition));
    }

    /// Each partition with the offset that comes next.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        self.0.iter().map(|(partition, next)| (*partition, *next))
    }

    /// Whether it says nothing of any partition.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a subscription gives out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerEvent {
    /// Records, at least one; those of a partition in their order.
    Records(Vec<Record>),
    /// Partitions that another member of the group reads from now on. Nothing of them is given out
    /// before they come back.
    Revoked(Vec<u32>),
}

/// Why the bus did not do as it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The bus is closed: the process stops.
    #[error("the bus is closed")]
    Closed,
    /// The bus cannot be reached, or does not answer.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
    /// The bus refuses a record for its size.
    #[error("the bus refused: {0}")]
    TooLarge(String),
    /// The bus refuses for good: a topic that may not be written to.
    #[error("the bus refused: {0}")]
    Refused(String),
    /// The actor in front of the bus did not answer.
    #[error("the bus publisher does not answer: {0}")]
    Unreachable(String),
}

/// A topic of a bus.
pub trait Topic: Send + Sync {
    /// The topic's name.
    fn name(&self) -> &str;

    /// Publishes records; those of a key in their order. Waits while the topic is full or away,
    /// nothing is dropped: answered when every record is on the bus for good. [`BusError::Refused`]
    /// and [`BusError::TooLarge`] say that trying again does not help.
    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>>;

    /// Reads the topic as a group. A group keeps its position for as long as the topic lives; a new
    /// one starts at the beginning. Several members of one group, also in other processes, share
    /// the partitions.
    fn subscribe(&self, group: &str) -> Result<Box<dyn Subscription>, BusError>;

    /// How many records of this process wait: on the embedded bus for the slowest group, in front
    /// of a real one to be taken by it.
    fn depth(&self) -> usize;

    /// Whether the bus answers and has the topic.
    fn ping(&self) -> BoxFuture<'static, Result<(), BusError>>;
}

/// A group's reading of a topic, as one of its members.
pub trait Subscription: Send {
    /// Waits for at least one record, then `linger` longer for up to `max` records. A caller may
    /// give up waiting (drop the future) and loses nothing.
    fn next_batch(
        &mut self,
        max: usize,
        linger: Duration,
    ) -> BoxFuture<'_, Result<ConsumerEvent, BusError>>;

    /// Everything before this position is done. Partitions that were revoked meanwhile are passed
    /// over.
    fn commit(&mut self, done: &Position);

    /// How many records of this member's partitions are not committed yet, as far as is known.
    fn lag(&self) -> u64;

    /// Whether the bus keeps what is not committed beyond the end of this process.
    fn is_durable(&self) -> bool;

    /// How this member stands, for whoever asks while it is at work.
    fn health(&self) -> SubscriptionHealth;

    /// Leaves the group, with everything that was committed on the bus for good.
    fn close(&mut self) -> BoxFuture<'_, ()>;
}
