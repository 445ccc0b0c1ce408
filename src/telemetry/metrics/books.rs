//! Metrics of the books, which two roles have.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

/// Metrics of a consumer that feeds books, part of the metrics of its role.
#[derive(Clone)]
pub struct ConsumerMetrics {
    /// Records refused, by path and reason.
    pub refused: IntCounterVec,
    /// Errors, by stage.
    pub errors: IntCounterVec,
    /// Records not applied yet, by group and purpose.
    pub lag: IntGaugeVec,
}

/// Metrics of the monitor of sources, part of the metrics of its role.
#[derive(Clone)]
pub struct SourceMetrics {
    /// Sources by state.
    pub sources: IntGaugeVec,
    /// Reports that could not be read.
    pub unreadable: IntCounter,
}

/// Book metrics, part of the metrics of the role that keeps the books.
#[derive(Clone)]
pub struct BookMetrics {
    /// Books in memory.
    pub books: IntGauge,
    /// Updates applied by the books.
    pub applied: IntCounter,
    /// Updates rejected by the books, by reason.
    pub rejected: IntCounterVec,
    /// Failed reads of the cache or the store.
    pub hydrate_errors: IntCounter,
    /// States of the cache or the store that were refused, by reason.
    pub implausible: IntCounterVec,
    /// Comparisons of doubtful broadcasts with the hot copy, and the markets corrected by them;
    /// `None` if no broadcasts feed the books.
    pub verifications: Option<(IntCounter, IntCounter)>,
}

impl BookMetrics {
    /// Records a comparison with the hot copy that corrected this many markets.
    pub fn count_verification(&self, corrected: usize) {
        if let Some((verifications, corrections)) = &self.verifications {
            verifications.inc();
            corrections.inc_by(corrected as u64);
        }
    }
}
