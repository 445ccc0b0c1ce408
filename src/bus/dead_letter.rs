//! Dead letters on the bus: the bytes as they came, and headers that say what is wrong with them.

use std::time::Duration;

use bytes::Bytes;
use log::warn;

use super::{BusError, NewRecord, Record, Topic};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::timestamp::Timestamp;
use crate::telemetry::log_limit::LogLimit;

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
    /// On one that was cut because the topic takes none of its size: how many bytes came.
    pub const TRUNCATED_FROM: &str = "truncated_from";
    /// On a record that was published again: the dead letter that it was, `topic/partition/offset`.
    pub const REPLAYED_FROM: &str = "replayed_from";
}

/// The record of a dead letter that a supplier sent.
pub fn of_supplier(letter: &DeadLetter) -> NewRecord {
    let key = Bytes::copy_from_slice(letter.origin.as_bytes());
    NewRecord {
        key,
        payload: letter.raw.clone(),
        headers: headers(letter),
    }
}

/// The record of a dead letter that was read from a topic, under the key that it had there.
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

/// What is left of a dead letter that its topic does not take: tried in turn.
const CUTS: [usize; 3] = [256 * 1024, 64 * 1024, 4 * 1024];

/// What is published by itself, as it may be refused for its size.
const LARGE: usize = 64 * 1024;
/// What is left of a header then.
const HEADER: usize = 1024;
/// Letters that are cut are logged so often at most, of each topic.
static CUT_LOG: LogLimit = LogLimit::every(Duration::from_secs(60));

/// Publishes dead letters. One that the topic does not take for its size is cut: a record that can
/// neither be read nor put away would be tried without end, and hold up everything behind it.
pub async fn publish(topic: &dyn Topic, letters: Vec<NewRecord>) -> Result<(), BusError> {
    let is_large = |letter: &NewRecord| letter.payload.len() + letter.key.len() > LARGE;
    let (mut large, small): (Vec<_>, Vec<_>) = letters.into_iter().partition(is_large);
    match topic.publish(small.clone()).await {
        // Those that it took stand there twice, which readers of dead letters know.
        Err(BusError::TooLarge(_)) => large.extend(small),
        published => published?,
    }
    // One by one: which of several was refused is not told.
    for letter in large {
        publish_or_cut(topic, letter).await?;
    }
    Ok(())
}

async fn publish_or_cut(topic: &dyn Topic, letter: NewRecord) -> Result<(), BusError> {
    let mut published = topic.publish(vec![letter.clone()]).await;
    for most in CUTS {
        let Err(BusError::TooLarge(text)) = &published else {
            break;
        };
        if let Some(repeated) = CUT_LOG.check(topic.name()) {
            warn!(topic = topic.name(), repeated; "a dead letter is cut to {most} bytes: {text}");
        }
        published = topic.publish(vec![cut(&letter, most)]).await;
    }
    published
}

fn cut(letter: &NewRecord, most: usize) -> NewRecord {
    let short = |bytes: &Bytes| match bytes.get(..HEADER) {
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
    let first = |bytes: &Bytes| bytes.slice(..bytes.len().min(most));
    NewRecord {
        key: first(&letter.key),
        payload: first(&letter.payload),
        headers,
    }
}

/// Reads a dead letter from its record. What a header should say and does not is `unknown`.
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
