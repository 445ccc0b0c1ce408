//! Metrics of the role `bets`.

use prometheus::{Gauge, HistogramVec, IntCounterVec, IntGauge};
use strum::VariantNames;

use super::outbox::{OutboxMetrics, OutboxStage, outbox_metrics};
use super::registry::role_metrics;
use crate::domain::bets::bet::BetRefusal;

role_metrics! {
    /// Metrics of the role `bets`.
    BetsMetrics {
        /// Requests, by status
        requests: IntCounterVec = "bets_http_requests_total" ["status"] known ["200", "400", "404", "409", "415", "422", "503"],
        /// Requests refused before routing, by code: a foreign Host, a page of a foreign origin
        refused: IntCounterVec = "bets_http_refused_total" ["code"],
        /// Time from the head of a request to the head of its response, by route template, method and status class
        request_seconds: HistogramVec = "bets_http_request_duration_seconds" ["route", "method", "status"],
        /// Bets requested, by outcome: placed, repeated (answered like the first request), or an error code
        bets: IntCounterVec = "bets_requests_total" ["outcome"] known BetRefusal::VARIANTS.iter().copied().chain(["placed", "repeated", "IDEMPOTENCY_KEY_REUSED"]),
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

outbox_metrics!(BetsMetrics);
