//! A dead letter from Kafka or from the database.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::Deserialize;

use crate::bus::dead_letter::{self, header};
use crate::bus::{NewRecord, Record};
use crate::domain::json;
use crate::domain::timestamp::Timestamp;
use crate::store::StoredDeadLetter;

/// The id of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// Its partition and offset on Kafka.
    Place(u32, u64),
    /// Its number in the database.
    Number(i64),
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Place(partition, offset) => write!(formatter, "{partition}:{offset}"),
            Id::Number(number) => write!(formatter, "{number}"),
        }
    }
}

impl FromStr for Id {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Id, Self::Err> {
        let id = match text.split_once(':') {
            Some((partition, offset)) => partition
                .parse()
                .ok()
                .zip(offset.parse().ok())
                .map(|(p, o)| Id::Place(p, o)),
            None => text
                .parse()
                .ok()
                .filter(|number| *number > 0)
                .map(Id::Number),
        };
        id.ok_or("partition:offset like 0:12, or a number like 12")
    }
}

/// A dead letter with its metadata.
#[derive(Clone, Debug)]
pub(super) struct DeadLetterEntry {
    pub(super) id: Id,
    pub(super) received_at: Timestamp,
    pub(super) reason: String,
    pub(super) origin: String,
    /// Names and values for display.
    pub(super) headers: Vec<(String, String)>,
    pub(super) raw: Bytes,
    /// The key of its record on Kafka.
    key: Bytes,
    /// Its original position on the bus, `topic/partition/offset`.
    source: Option<String>,
}

impl DeadLetterEntry {
    /// Whether its bytes were truncated because it was too large for the dead-letter topic.
    pub(super) fn is_truncated(&self) -> bool {
        self.headers
            .iter()
            .any(|(name, _)| name == header::TRUNCATED_FROM)
    }

    pub(super) fn of_record(record: Record) -> DeadLetterEntry {
        let letter = dead_letter::read(&record);
        let part = |name| record.header(name);
        let source = part(header::SOURCE_TOPIC)
            .zip(part(header::SOURCE_PARTITION))
            .zip(part(header::SOURCE_OFFSET))
            .map(|((topic, partition), offset)| format!("{topic}/{partition}/{offset}"));
        let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
        let mut headers: Vec<_> = record
            .record
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect();
        headers.push(("key".to_owned(), text(&record.record.key)));
        DeadLetterEntry {
            id: Id::Place(record.partition, record.offset),
            received_at: letter.received_at,
            reason: letter.reason,
            origin: letter.origin,
            headers,
            raw: letter.raw,
            key: record.record.key,
            source,
        }
    }

    pub(super) fn of_store(stored: StoredDeadLetter) -> DeadLetterEntry {
        let letter = stored.letter;
        let headers = [
            (header::REASON, letter.reason.clone()),
            (header::DETAIL, letter.detail),
            (header::ORIGIN, letter.origin.clone()),
            (header::RECEIVED_AT, letter.received_at.to_string()),
        ];
        DeadLetterEntry {
            id: Id::Number(stored.id),
            received_at: letter.received_at,
            reason: letter.reason,
            origin: letter.origin,
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
            raw: letter.raw,
            key: Bytes::new(),
            source: None,
        }
    }

    /// Identifies a letter across duplicate records: the position that it was read from.
    pub(super) fn identity(&self) -> String {
        self.source
            .clone()
            .unwrap_or_else(|| format!("at {}", self.id))
    }

    /// Truncates its bytes for display.
    pub(super) fn shorten(&mut self, bytes: usize) {
        self.raw = Bytes::copy_from_slice(&self.raw[..self.raw.len().min(bytes)]);
    }

    /// The record to publish again. A letter from a supplier is keyed by the supplier's address, so
    /// an update gets its event id as the key instead.
    pub(super) fn again(&self, topic: &str) -> NewRecord {
        #[derive(Deserialize)]
        struct Event {
            event_id: String,
        }
        let had_key = self.source.is_some() && !self.key.is_empty();
        let event = || {
            json::from_slice::<Event>(&self.raw)
                .ok()
                .map(|event| Bytes::from(event.event_id))
        };
        let key = if had_key {
            self.key.clone()
        } else {
            event().unwrap_or_else(|| self.key.clone())
        };
        let from = match self.id {
            Id::Place(partition, offset) => format!("{topic}/{partition}/{offset}"),
            Id::Number(number) => number.to_string(),
        };
        NewRecord {
            key,
            payload: self.raw.clone(),
            headers: vec![(header::REPLAYED_FROM.to_owned(), from.into())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_as_text() {
        for text in ["0:0", "11:18446744073709551615", "7"] {
            assert_eq!(text.parse::<Id>().unwrap().to_string(), text);
        }
        for bad in ["", ":", "1:", ":1", "-1:2", "1:2:3", "x", "0", "-4", "1.5"] {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
    }

    fn letter(key: &'static str, payload: &'static str, from_bus: bool) -> DeadLetterEntry {
        let source = [
            (header::SOURCE_TOPIC, "t"),
            (header::SOURCE_PARTITION, "1"),
            (header::SOURCE_OFFSET, "2"),
        ];
        let headers = source.iter().filter(|_| from_bus);
        let headers =
            headers.map(|(name, value)| ((*name).to_owned(), Bytes::from_static(value.as_bytes())));
        let record = NewRecord {
            key: key.into(),
            payload: payload.into(),
            headers: headers.collect(),
        };
        DeadLetterEntry::of_record(Record {
            partition: 3,
            offset: 4,
            published_at: None,
            record,
        })
    }

    #[test]
    fn replay_uses_original_key_or_event() {
        let key = |letter: &DeadLetterEntry| letter.again("t_dlq").key;
        let update = r#"{"event_id":"MATCH_001","odds":7}"#;
        assert_eq!(key(&letter("k", update, true)), "k");
        assert_eq!(key(&letter("", update, true)), "MATCH_001");
        assert_eq!(key(&letter("ws://supplier", update, false)), "MATCH_001");
        assert_eq!(key(&letter("ws://supplier", "{]", false)), "ws://supplier");
        let again = letter("k", update, true).again("t_dlq");
        assert_eq!(again.payload, update);
        assert_eq!(
            again.headers,
            [("replayed_from".to_owned(), Bytes::from_static(b"t_dlq/3/4"))]
        );
        assert_eq!(letter("k", "", true).identity(), "t/1/2");
        assert_eq!(letter("k", "", false).identity(), "at 3:4");
    }

    #[test]
    fn truncated_letter_is_detected() {
        let truncated = |headers| {
            let record = NewRecord {
                key: Bytes::new(),
                payload: Bytes::new(),
                headers,
            };
            DeadLetterEntry::of_record(Record {
                partition: 0,
                offset: 0,
                published_at: None,
                record,
            })
            .is_truncated()
        };
        assert!(!truncated(Vec::new()));
        assert!(truncated(vec![(
            "truncated_from".to_owned(),
            Bytes::from_static(b"3000000")
        )]));
    }
}
