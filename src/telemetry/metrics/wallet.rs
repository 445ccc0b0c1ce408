//! Metrics of the role `wallet`.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::registry::role_metrics;

/// Each wallet operation with each of its outcomes.
fn wallet_operations() -> impl Iterator<Item = [&'static str; 2]> {
    let operations = ["deposit", "withdraw", "reserve", "commit", "refund"];
    operations
        .into_iter()
        .flat_map(|operation| ["done", "refused", "failed"].map(|outcome| [operation, outcome]))
}

role_metrics! {
    /// Metrics of the role `wallet`.
    WalletMetrics {
        /// Requests, by status
        requests: IntCounterVec = "wallet_http_requests_total" ["status"] known ["200", "400", "404", "409", "415", "422", "503"],
        /// Requests refused before routing, by code: a foreign Host, a page of a foreign origin
        refused: IntCounterVec = "wallet_http_refused_total" ["code"],
        /// Wallet operations requested, by operation and outcome: done (including repeated requests), refused, failed
        operations: IntCounterVec = "wallet_operations_total" ["operation", "outcome"] known wallet_operations(),
        /// Reservations that expired because they were not resolved in time
        expired: IntCounter = "wallet_reservations_expired_total",
        /// Ledger verifications completed
        verifications: IntCounter = "wallet_ledger_verifications_total",
        /// Ledger verifications that failed
        verification_failures: IntCounter = "wallet_ledger_verification_failures_total",
        /// Violations found by the last ledger verification; anything but 0 is an alarm
        violations: IntGauge = "wallet_ledger_violations",
        /// Unix time of the last ledger verification
        verified_at: IntGauge = "wallet_ledger_verified_at_seconds",
        /// Duration of a ledger verification
        verification_seconds: Histogram = "wallet_ledger_verification_seconds",
        /// Time from the head of a request to the head of its response, by route template, method and status class
        request_seconds: HistogramVec = "wallet_http_request_duration_seconds" ["route", "method", "status"],
    }
}
