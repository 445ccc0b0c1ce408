//! Metrics of the books, which two roles have.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

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
