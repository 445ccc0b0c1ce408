//! Dead letters on the bus: the original bytes, with the fault described in headers.

use std::time::Duration;

use bytes::Bytes;
use log::warn;

use super::{BusError, NewRecord, Record, Topic};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::timestamp::Timestamp;
use crate::telemetry::log_limit::LogLimit;

/// Header names.
pub mod header {
    /// The kind of fault, as a code.
    pub const REASON: &str = "reason";
    /// A description of the fault for operators.
    pub const DETAIL: &str = "detail";
    /// The source of the bytes: a supplier's address, or `topic/partition/offset`.
    pub const ORIGIN: &str = "origin";
    /// When the bytes were received, RFC 3339.
    pub const RECEIVED_AT: &str = "received_at";
    /// The topic the record was read from, if it was already on the bus.
    pub const SOURCE_TOPIC: &str = "source_topic";
    /// The partition in the source topic.
    pub const SOURCE_PARTITION: &str = "source_partition";
    /// The offset in the source topic.
    pub const SOURCE_OFFSET: &str = "source_offset";
    /// On a letter that was truncated to fit its topic: the original size in bytes.
    pub const TRUNCATED_FROM: &str = "truncated_from";
    /// On a republished record: the dead letter it comes from, `topic/partition/offset`.
    pub const REPLAYED_FROM: &str = "replayed_from";
}

/// The record of a dead letter that came from a supplier.
pub fn of_supplier(letter: &DeadLetter) -> NewRecord {
    let key = Bytes::copy_from_slice(letter.origin.as_bytes());
    NewRecord {
        key,
        payload: letter.raw.clone(),
        headers: headers(letter),
    }
}

/// The dead letter of a record that was read from a topic.
pub fn letter_of(
    record: &Record,
    topic: &str,
    reason: &str,
    detail: &str,
    received_at: Timestamp,
) -> DeadLetter {
    DeadLetter {
        received_at,
        origin: format!("{topic}/{}/{}", record.partition, record.offset),
        reason: reason.to_owned(),
        detail: detail.to_owned(),
        raw: record.record.payload.clone(),
    }
}

/// The record of a dead letter that was read from a topic. It keeps the key of the source record.
pub fn of_record(letter: &DeadLetter, topic: &str, record: &Record) -> NewRecord {
    let mut headers = headers(letter);
    headers.extend([
        entry(header::SOURCE_TOPIC, topic),
        entry(header::SOURCE_PARTITION, &record.partition.to_string()),
        entry(header::SOURCE_OFFSET, &record.offset.to_string()),
    ]);
    NewRecord {
        key: record.record.key.clone(),
        payload: letter.raw.clone(),
        headers,
    }
}

/// Sizes to truncate a rejected letter to, tried in order.
const TRUNCATED_SIZES: [usize; 3] = [256 * 1024, 64 * 1024, 4 * 1024];

/// Letters above this size are published one by one, because the topic may reject them.
const LARGE_BYTES: usize = 64 * 1024;
/// The maximum size of a header in a truncated letter.
const MAX_HEADER_BYTES: usize = 1024;
/// Limits the log of truncated letters, per topic.
static TRUNCATION_LOG: LogLimit = LogLimit::every(Duration::from_secs(60));

/// Publishes dead letters. A letter that is too large for the topic is truncated: a record that can
/// neither be processed nor stored would be retried forever and block everything after it.
pub async fn publish(topic: &dyn Topic, letters: Vec<NewRecord>) -> Result<(), BusError> {
    let is_large = |letter: &NewRecord| letter.payload.len() + letter.key.len() > LARGE_BYTES;
    let (mut large, small): (Vec<_>, Vec<_>) = letters.into_iter().partition(is_large);
    match topic.publish(small.clone()).await {
        // Letters the topic already accepted are published twice; readers of dead letters handle
        // that.
        Err(BusError::TooLarge(_)) => large.extend(small),
        published => published?,
    }
    // One by one: the error does not say which record was rejected.
    for letter in large {
        publish_or_truncate(topic, letter).await?;
    }
    Ok(())
}

async fn publish_or_truncate(topic: &dyn Topic, letter: NewRecord) -> Result<(), BusError> {
    let mut published = topic.publish(vec![letter.clone()]).await;
    for max_bytes in TRUNCATED_SIZES {
        let Err(BusError::TooLarge(text)) = &published else {
            break;
        };
        if let Some(repeated) = TRUNCATION_LOG.check(topic.name()) {
            warn!(topic = topic.name(), repeated; "dead letter truncated to {max_bytes} bytes: {text}");
        }
        published = topic.publish(vec![truncate(&letter, max_bytes)]).await;
    }
    published
}

fn truncate(letter: &NewRecord, max_bytes: usize) -> NewRecord {
    let short = |bytes: &Bytes| match bytes.get(..MAX_HEADER_BYTES) {
        Some(first) => String::from_utf8_lossy(first).into_owned().into(),
        None => bytes.clone(),
    };
    let mut headers: Vec<_> = letter
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), short(value)))
        .collect();
    headers.push(entry(
        header::TRUNCATED_FROM,
        &letter.payload.len().to_string(),
    ));
    let first = |bytes: &Bytes| bytes.slice(..bytes.len().min(max_bytes));
    NewRecord {
        key: first(&letter.key),
        payload: first(&letter.payload),
        headers,
    }
}

/// Reads a dead letter from its record. Missing or empty headers read as `unknown`.
pub fn read(record: &Record) -> DeadLetter {
    let text = |name: &str| {
        record
            .header(name)
            .filter(|text| !text.is_empty())
            .unwrap_or("unknown")
            .to_owned()
    };
    let received_at = record
        .header(header::RECEIVED_AT)
        .and_then(|text| text.parse().ok());
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
