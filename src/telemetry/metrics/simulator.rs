//! Metrics of the role `simulator`.

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::registry::role_metrics;

role_metrics! {
    /// Metrics of the role `simulator`.
    SimulatorMetrics {
        /// Consumers connected to /ws
        connections: IntGauge = "supplier_ws_connections",
        /// Updates sent to consumers
        messages_sent: IntCounter = "supplier_ws_messages_sent_total",
        /// Consumers disconnected because they did not keep up
        lagging_closed: IntCounter = "supplier_ws_lagging_closed_total",
        /// Updates generated
        updates: IntCounter = "supplier_updates_total",
        /// Requests refused before routing, by code: a foreign Host, a page of a foreign origin
        refused: IntCounterVec = "supplier_http_refused_total" ["code"],
        /// Confirmation requests, by answer
        confirmations: IntCounterVec = "supplier_confirmations_total" ["status"],
        /// Confirmation requests with a fault injected by the settings, by fault
        faults: IntCounterVec = "supplier_confirm_faults_total" ["fault"],
        /// Bets cancelled
        cancellations: IntCounter = "supplier_cancellations_total",
        /// Time from the head of a request to the head of its response, by route template, method and status class
        request_seconds: HistogramVec = "supplier_http_request_duration_seconds" ["route", "method", "status"],
    }
}
