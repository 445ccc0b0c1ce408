//! Converts messages of librdkafka to records.

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Headers, Message};

use crate::bus::{NewRecord, Record};
use crate::domain::timestamp::Timestamp;

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
