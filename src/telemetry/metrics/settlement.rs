//! Metrics of the role `settlement`.

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use strum::VariantNames;

use super::outbox::{OutboxMetrics, OutboxStage, outbox_metrics};
use super::registry::role_metrics;
use crate::domain::settlement::payout::SettledAs;
use crate::domain::settlement::record::RecordError;

role_metrics! {
    /// Metrics of the role `settlement`.
    SettlementMetrics {
        /// Records of the results topic that the group has not stored yet, by group and purpose
        bus_lag: IntGaugeVec = "settlement_bus_lag" ["group", "purpose"],
        /// Records of results, by what storing them did: new, known, or conflict (its revision was sent with other contents before; nothing is paid)
        records: IntCounterVec = "settlement_records_total" ["outcome"] known ["new", "known", "conflict"],
        /// Records that are no results and were kept as dead letters, by reason
        dead_letters: IntCounterVec = "settlement_dead_letters_total" ["reason"] known RecordError::VARIANTS,
        /// Errors, by stage, each retried: store, dead_letter, settle
        errors: IntCounterVec = "settlement_errors_total" ["stage"] known ["store", "dead_letter", "settle"],
        /// Settlements of bets, by how the bet stands afterwards: an outcome, or open (its result was withdrawn)
        bets: IntCounterVec = "settlement_bets_total" ["outcome"] known SettledAs::VARIANTS,
        /// Cents paid to users by settlements
        paid_cents: IntCounter = "settlement_paid_cents_total",
        /// Cents taken back from users by settlements, including what they owe now
        taken_back_cents: IntCounter = "settlement_taken_back_cents_total",
        /// Time from the arrival of a result to the last payment of its market
        market_seconds: Histogram = "settlement_market_seconds",
        /// Markets with a result whose bets are not all paid
        due_markets: IntGauge = "settlement_due_markets",
        /// How long the first of them has been waiting
        oldest_unpaid: Gauge = "settlement_oldest_unpaid_seconds",
        /// Markets that wait for an operator because their payout is above the limit
        held_markets: IntGauge = "settlement_held_markets",
        /// Bets that wait for an operator
        held_bets: IntGauge = "settlement_held_bets",
        /// Records whose revision was sent with other contents before
        conflicts: IntGauge = "settlement_conflicts",
        /// Open bets on selections that no record names although their market has a result
        missing_bets: IntGauge = "settlement_missing_selection_bets",
        /// Cents that users owe: payouts that were taken back and already spent
        owed_cents: IntGauge = "settlement_owed_cents",
        /// Outbox rows not known to be published
        outbox_rows: IntGauge = "settlement_outbox_rows",
        /// Age of the oldest outbox row not known to be published
        outbox_oldest: Gauge = "settlement_outbox_oldest_age_seconds",
        /// Outbox rows published, by topic
        outbox_published: IntCounterVec = "settlement_outbox_published_total" ["topic"],
        /// Outbox failures, by stage: take, publish, mark, refused (kept as a dead letter)
        outbox_failures: IntCounterVec = "settlement_outbox_failures_total" ["stage"] known OutboxStage::VARIANTS,
    }
}

outbox_metrics!(SettlementMetrics);
