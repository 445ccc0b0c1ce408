//! Results of markets in the native format. They concern no price: a refused one suspends no market.

use crate::domain::settlement::record::{RecordKind, ResultRecord};
use crate::domain::settlement::trust::is_operator;
use crate::domain::timestamp::Timestamp;
use crate::supplier::{Decoded, Refused, future_time_detail};

/// Whether a `type`, as it stands in the frame, is that of a result.
pub(super) fn is_result(kind: &str) -> bool {
    serde_json::from_str::<RecordKind>(kind).is_ok()
}

/// Decodes a frame with a result. No source is judged by it: a source of results may have no prices.
pub(super) fn decode(frame: &[u8], latest: Option<Timestamp>) -> Decoded {
    match read(frame, latest) {
        Ok(record) => Decoded {
            results: vec![record],
            ..Decoded::default()
        },
        Err(refused) => Decoded {
            refused_results: vec![refused],
            ..Decoded::default()
        },
    }
}

fn read(frame: &[u8], latest: Option<Timestamp>) -> Result<ResultRecord, Refused> {
    let record = ResultRecord::from_json(frame).map_err(|error| Refused {
        reason: error.reason(),
        detail: error.to_string(),
    })?;
    // It would count more than every genuine result after it.
    if let Some(detail) = future_time_detail(record.revision.updated_at, latest) {
        return Err(Refused {
            reason: "future",
            detail,
        });
    }
    if is_operator(&record.source) {
        return Err(Refused {
            reason: "reserved_source",
            detail: format!("a supplier cannot send results of `{}`", record.source),
        });
    }
    Ok(record)
}
