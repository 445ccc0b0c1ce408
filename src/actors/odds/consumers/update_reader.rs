//! Reads the updates of a batch, and finds the records that hold none.

use prometheus::IntCounterVec;

use crate::bus::{Record, trace_header};
use crate::domain::odds::plausible::{Implausible, Plausibility};
use crate::domain::odds::update::{DecodeError, OddsUpdate, PositionedUpdate};
use crate::domain::timestamp::Timestamp;
use crate::telemetry::trace::Span;

/// Why a record is not an update that may be applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadRecord {
    /// The record does not decode.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// The update is outside the limits.
    #[error(transparent)]
    Implausible(#[from] Implausible),
}

impl BadRecord {
    /// The reason as a code, for metrics and dead letters.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            BadRecord::Unreadable(error) => error.reason(),
            BadRecord::Implausible(why) => why.reason(),
        }
    }
}

/// The content of a batch.
pub(super) struct ReadBatch<'a> {
    /// The updates, in bus order.
    pub updates: Vec<PositionedUpdate>,
    /// The records without an update, in bus order.
    pub bad: Vec<(&'a Record, BadRecord)>,
}

/// Reads the updates of one path.
pub(super) struct UpdateReader {
    limits: Plausibility,
    /// The path, as a label value of `refused`.
    path: &'static str,
    refused: IntCounterVec,
}

impl UpdateReader {
    /// Reads for `path`, and counts bad records in `refused`.
    pub(super) fn new(
        limits: Plausibility,
        path: &'static str,
        refused: IntCounterVec,
    ) -> UpdateReader {
        UpdateReader {
            limits,
            path,
            refused,
        }
    }

    /// Reads a batch that is judged as of `now`. Retries of a batch must pass the same time: a
    /// record whose time is too far ahead would later count as an update.
    pub(super) fn read<'a>(&self, batch: &'a [Record], now: Timestamp) -> ReadBatch<'a> {
        let mut updates = Vec::with_capacity(batch.len());
        let mut bad = Vec::new();
        for record in batch {
            match read_update(record, self.limits, now) {
                Ok(update) => updates.push(update),
                Err(why) => bad.push((record, why)),
            }
        }
        ReadBatch { updates, bad }
    }

    /// Counts bad records. Must be called once for each batch, however often it is retried.
    pub(super) fn count(&self, bad: &[(&Record, BadRecord)]) {
        for (_, why) in bad {
            self.refused
                .with_label_values(&[self.path, why.reason()])
                .inc();
        }
    }
}

/// Begins the spans in which traced updates of a topic are processed. What follows from an update
/// follows from its span, which lasts as long as the result is kept.
pub(super) fn begin_process(updates: &mut [PositionedUpdate], topic: &str) -> Vec<Span> {
    let traced = updates.iter_mut().filter(|it| it.trace.is_some());
    let begin = |positioned: &mut PositionedUpdate| {
        let update = &positioned.update;
        let span = trace_header::begin_process(positioned.trace, topic);
        let span = span.with_market(&update.event_id, &update.market);
        positioned.trace = span.context();
        span
    };
    traced.map(begin).collect()
}

fn read_update(
    record: &Record,
    limits: Plausibility,
    now: Timestamp,
) -> Result<PositionedUpdate, BadRecord> {
    let update = OddsUpdate::from_json(&record.record.payload)?;
    limits.check_record(update.revision.updated_at, record.published_at, now)?;
    Ok(PositionedUpdate {
        update,
        partition: record.partition,
        position: record.offset,
        trace: record.traceparent(),
    })
}
