//! Metrics of the outbox relay, which two roles have.

use prometheus::{Gauge, IntCounterVec, IntGauge};
use strum::{IntoStaticStr, VariantNames};

/// Outbox metrics, part of the metrics of the role that publishes the outbox.
#[derive(Clone)]
pub struct OutboxMetrics {
    /// Rows not known to be published.
    pub rows: IntGauge,
    /// Age of the oldest such row, in seconds.
    pub oldest: Gauge,
    /// Rows published, by topic.
    pub published: IntCounterVec,
    /// Failures, by stage.
    pub failures: IntCounterVec,
}

impl OutboxMetrics {
    /// Counts a failure.
    pub fn count_failure(&self, stage: OutboxStage) {
        let stage: &'static str = stage.into();
        self.failures.with_label_values(&[stage]).inc();
    }
}

/// The stage at which the outbox relay failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum OutboxStage {
    /// Reading rows from the database.
    Take,
    /// Publishing rows to the bus.
    Publish,
    /// Marking rows as published.
    Mark,
    /// The bus refused a row, which became a dead letter.
    Refused,
}

/// Gives the metrics of a role the method `outbox_metrics`.
macro_rules! outbox_metrics {
    ($role:ty) => {
        impl $role {
            /// The metrics of the outbox.
            pub fn outbox_metrics(&self) -> OutboxMetrics {
                OutboxMetrics {
                    rows: self.outbox_rows.clone(),
                    oldest: self.outbox_oldest.clone(),
                    published: self.outbox_published.clone(),
                    failures: self.outbox_failures.clone(),
                }
            }
        }
    };
}
pub(super) use outbox_metrics;
