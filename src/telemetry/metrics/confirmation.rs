//! Metrics of the role `confirmation`.

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use strum::VariantNames;

use super::outbox::{OutboxMetrics, OutboxStage, outbox_metrics};
use super::registry::role_metrics;
use crate::domain::bets::bet::BetOutcome;
use crate::domain::bets::bet_events::BadBetPlaced;

role_metrics! {
    /// Metrics of the role `confirmation`.
    ConfirmationMetrics {
        /// Records of placed bets consumed
        consumed: IntCounter = "bets_placed_consumed_total",
        /// Records of placed bets that the group has not processed yet
        bus_lag: IntGauge = "bets_placed_lag",
        /// Bets waiting for a decision in this process
        in_flight: IntGauge = "bets_in_flight",
        /// Records that are not bets and were kept as dead letters, by reason
        dead_letters: IntCounterVec = "bets_dead_letters_total" ["reason"] known BadBetPlaced::VARIANTS,
        /// Errors, by stage, each retried: store, dead_letter
        errors: IntCounterVec = "bets_errors_total" ["stage"] known ["store", "dead_letter"],
        /// Bets decided, by outcome: confirmed, rejected (by the supplier), or supplier_timeout (rejected because no answer came)
        decided: IntCounterVec = "bets_decided_total" ["outcome"] known BetOutcome::VARIANTS,
        /// Time from the placement of a bet to its decision
        decision_seconds: Histogram = "bets_decision_seconds",
        /// Confirmation requests to the supplier, by outcome
        supplier_calls: IntCounterVec = "bets_supplier_calls_total" ["outcome"] known ["confirmed", "rejected"],
        /// Cancel requests to the supplier, by outcome
        cancel_calls: IntCounterVec = "bets_cancel_calls_total" ["outcome"] known ["cancelled"],
        /// Duration of a request to the supplier, whether it was answered or not
        supplier_call_seconds: Histogram = "bets_supplier_call_seconds",
        /// State of the circuit breaker of the supplier: 1 for the current one of closed, open, half_open
        breaker: IntGaugeVec = "bets_supplier_breaker" ["state"],
        /// Overdue bets found in the database and decided
        overdue: IntCounter = "bets_overdue_swept_total",
        /// Bets still to be cancelled at the supplier
        cancels_open: IntGauge = "bets_cancels_open",
        /// Bets cancelled at the supplier
        cancels_done: IntCounter = "bets_cancels_done_total",
        /// Outbox rows not known to be published
        outbox_rows: IntGauge = "bets_outbox_rows",
        /// Age of the oldest outbox row not known to be published
        outbox_oldest: Gauge = "bets_outbox_oldest_age_seconds",
        /// Outbox rows published, by topic
        outbox_published: IntCounterVec = "bets_outbox_published_total" ["topic"],
        /// Outbox failures, by stage: take, publish, mark, refused (kept as a dead letter)
        outbox_failures: IntCounterVec = "bets_outbox_failures_total" ["stage"] known OutboxStage::VARIANTS,
    }
}

outbox_metrics!(ConfirmationMetrics);
