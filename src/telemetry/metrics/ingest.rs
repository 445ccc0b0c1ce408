//! Metrics of the role `ingest`.

use prometheus::{Counter, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use strum::{VariantArray, VariantNames};

use super::registry::role_metrics;
use crate::domain::odds::source_status::SourceState;
use crate::domain::odds::update::DecodeError;

role_metrics! {
    /// Metrics of the role `ingest`.
    IngestMetrics {
        /// Suppliers configured
        suppliers: IntGauge = "odds_ingest_suppliers",
        /// Suppliers connected and alive
        suppliers_connected: IntGauge = "odds_ingest_suppliers_connected",
        /// Frames received from suppliers, including heartbeats
        frames: IntCounter = "odds_ingest_frames_total",
        /// Updates published to the bus
        published: IntCounter = "odds_ingest_updates_published_total",
        /// Results of markets published to the bus
        results_published: IntCounter = "odds_ingest_results_published_total",
        /// Frames or updates refused and kept as dead letters, by reason
        refused: IntCounterVec = "odds_ingest_refused_total" ["reason"] known DecodeError::VARIANTS.iter().copied().chain(["future", "old_version"]),
        /// Connections lost or not established, by reason
        disconnects: IntCounterVec = "odds_ingest_disconnects_total" ["reason"] known ["closed", "silent", "bus", "future"],
        /// Markets suspended because their supplier was silent for too long
        suspended_as_stale: IntCounter = "odds_ingest_suspended_as_stale_total",
        /// Markets suspended because a connection ended with changes that could not be applied
        suspended_after_loss: IntCounter = "odds_ingest_suspended_after_loss_total",
        /// Open markets of the database suspended because their source did not send them after a start
        suspended_unsent: IntCounter = "odds_ingest_suspended_unsent_total",
        /// Updates that are older than what their source said before; they are published and judged by their revision
        late: IntCounter = "odds_ingest_late_updates_total",
        /// Sources of the suppliers, by state
        sources: IntGaugeVec = "odds_ingest_sources" ["state"] known SourceState::VARIANTS.iter().map(<&str>::from),
        /// Recoveries requested after a connect, by result
        recoveries: IntCounterVec = "odds_ingest_recoveries_total" ["result"] known ["finished", "given_up"],
        /// States of sources that could not be published
        source_reports_failed: IntCounter = "odds_ingest_source_reports_failed_total",
        /// Reads of a source's open markets from the database that failed
        store_checks_failed: IntCounter = "odds_ingest_store_checks_failed_total",
        /// Reads of a source's open or suspended markets from the database that were cut short, because there are too many
        store_checks_truncated: IntCounter = "odds_ingest_store_checks_truncated_total",
        /// Connections established
        connects: IntCounter = "odds_ingest_connects_total",
        /// Seconds that feeds waited for the bus to accept an update
        bus_wait: Counter = "odds_ingest_bus_wait_seconds_total",
        /// Messages waiting for the bus publisher
        publisher_depth: IntGauge = "odds_ingest_publisher_depth",
        /// Records on the bus that at least one group has not processed yet
        bus_depth: IntGauge = "odds_ingest_bus_depth",
    }
}
