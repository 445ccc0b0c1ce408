//! Reports about sources as records of the topic of source states.

use super::{NewRecord, Record};
use crate::domain::json;
use crate::domain::odds::source_status::SourceReport;

/// The record of a report.
pub(crate) fn record_of(report: &SourceReport) -> NewRecord {
    NewRecord {
        key: format!("{}/{}", report.source, report.reporter).into(),
        payload: serde_json::to_vec(report).unwrap_or_default().into(),
        headers: Vec::new(),
    }
}

/// Reads the report of a record.
pub(crate) fn read(record: &Record) -> Result<SourceReport, serde_json::Error> {
    json::from_slice(&record.record.payload)
}
