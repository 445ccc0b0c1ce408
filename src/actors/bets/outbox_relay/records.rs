//! The records of outbox rows.

use std::sync::Arc;

use bytes::Bytes;

use crate::bus::dead_letter::{self, header};
use crate::bus::trace_header::begin_send;
use crate::bus::{BusError, NewRecord};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::timestamp::Timestamp;
use crate::store::money::OutboxRow;
use crate::telemetry::trace::Span;

/// The record of a row, for its topic.
pub(super) fn record(row: &OutboxRow) -> NewRecord {
    NewRecord {
        key: row.key.clone().into(),
        payload: row.payload.clone().into(),
        headers: Vec::new(),
    }
}

/// Begins the spans in which the traced rows are sent to a topic, and adds them to their records.
pub(super) fn begin_sends(
    rows: &[Arc<OutboxRow>],
    records: &mut [NewRecord],
    topic: &str,
) -> Vec<Span> {
    let rows = rows.iter().zip(records);
    let traced = rows.filter(|(row, _)| row.trace.is_some());
    let begin = |(row, record): (&Arc<OutboxRow>, &mut NewRecord)| {
        begin_send(row.trace, topic, record).with_bet(&row.key)
    };
    traced.map(begin).collect()
}

/// The record of a row that `topic` rejects, for the dead letters.
pub(super) fn dead_letter(
    row: &OutboxRow,
    rejection: &BusError,
    topic: &str,
    now: Timestamp,
) -> NewRecord {
    let letter = DeadLetter {
        received_at: now,
        origin: format!("outbox/{}", row.id),
        reason: reason(rejection).to_owned(),
        detail: rejection.to_string(),
        raw: Bytes::from(row.payload.clone()),
    };
    let mut record = dead_letter::of_supplier(&letter);
    record.key = row.key.clone().into();
    record.headers.push((
        header::SOURCE_TOPIC.to_owned(),
        Bytes::copy_from_slice(topic.as_bytes()),
    ));
    record
}

/// The reason of a dead letter.
pub(super) fn reason(rejection: &BusError) -> &'static str {
    match rejection {
        BusError::TooLarge(_) => "too_large",
        _ => "refused",
    }
}
