//! The bus that carries updates from the suppliers to the books and the store: ordered within a key, read by groups,
//! each with its own position.

pub mod embedded;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

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
    /// Its place in the partition, from 0.
    pub offset: u64,
    /// The record as it was published.
    pub record: NewRecord,
}

impl Record {
    /// The value of a header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.record.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// Why the bus did not do as it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The bus is closed: the process stops.
    #[error("the bus is closed")]
    Closed,
    /// The actor in front of the bus did not answer.
    #[error("the bus publisher does not answer: {0}")]
    Unreachable(String),
}

/// A topic of a bus.
pub trait Topic: Send + Sync {
    /// Publishes records in their order. Waits while the topic is full; nothing is dropped.
    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>>;

    /// Reads the topic as a group. A group keeps its position as long as the topic lives.
    fn subscribe(&self, group: &'static str) -> Box<dyn Subscription>;

    /// How many records wait for the slowest group.
    fn depth(&self) -> usize;
}

/// A group's reading of a topic.
pub trait Subscription: Send {
    /// Waits for at least one record, then `linger` longer for up to `max` records.
    fn next_batch(&mut self, max: usize, linger: Duration) -> BoxFuture<'_, Result<Vec<Record>, BusError>>;

    /// Everything given out so far is done.
    fn commit(&mut self);

    /// Gives out again what was given out and not committed.
    fn rewind(&mut self);

    /// How many records are not committed yet.
    fn lag(&self) -> u64;
}
