//! Dead letters on the bus: the bytes as they came, and headers that say what is wrong with them.

use bytes::Bytes;

use super::{NewRecord, Record};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::timestamp::Timestamp;

/// Names of the headers.
pub mod header {
    /// A word for the kind of fault.
    pub const REASON: &str = "reason";
    /// What was wrong, for people.
    pub const DETAIL: &str = "detail";
    /// Where the bytes came from: a supplier's address, or `topic/partition/offset`.
    pub const ORIGIN: &str = "origin";
    /// When they came, RFC 3339.
    pub const RECEIVED_AT: &str = "received_at";
    /// The topic that they were read from, where they were on the bus already.
    pub const SOURCE_TOPIC: &str = "source_topic";
    /// The partition there.
    pub const SOURCE_PARTITION: &str = "source_partition";
    /// The offset there.
    pub const SOURCE_OFFSET: &str = "source_offset";
    /// On a record that was published again: the dead letter that it was, `topic/partition/offset`.
    pub const REPLAYED_FROM: &str = "replayed_from";
}

/// The record of a dead letter that a supplier sent.
pub fn of_supplier(letter: &DeadLetter) -> NewRecord {
    let key = Bytes::copy_from_slice(letter.origin.as_bytes());
    NewRecord { key, payload: letter.raw.clone(), headers: headers(letter) }
}

/// The record of a dead letter that was read from a topic, under the key that it had there.
pub fn of_record(letter: &DeadLetter, topic: &str, record: &Record) -> NewRecord {
    let mut headers = headers(letter);
    headers.extend([
        entry(header::SOURCE_TOPIC, topic),
        entry(header::SOURCE_PARTITION, &record.partition.to_string()),
        entry(header::SOURCE_OFFSET, &record.offset.to_string()),
    ]);
    NewRecord { key: record.record.key.clone(), payload: letter.raw.clone(), headers }
}

/// Reads a dead letter from its record. What a header should say and does not is `unknown`.
pub fn read(record: &Record) -> DeadLetter {
    let text = |name: &str| record.header(name).filter(|text| !text.is_empty()).unwrap_or("unknown").to_owned();
    let received_at = record.header(header::RECEIVED_AT).and_then(|text| text.parse().ok());
    DeadLetter {
        received_at: received_at.unwrap_or_else(Timestamp::now),
        origin: text(header::ORIGIN),
        reason: text(header::REASON),
        detail: text(header::DETAIL),
        raw: record.record.payload.clone(),
    }
}

fn headers(letter: &DeadLetter) -> Vec<(String, Bytes)> {
    vec![
        entry(header::REASON, &letter.reason),
        entry(header::DETAIL, &letter.detail),
        entry(header::ORIGIN, &letter.origin),
        entry(header::RECEIVED_AT, &letter.received_at.to_string()),
    ]
}

fn entry(name: &str, value: &str) -> (String, Bytes) {
    (name.to_owned(), Bytes::copy_from_slice(value.as_bytes()))
}
