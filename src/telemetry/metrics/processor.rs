//! Metrics of the role `processor`.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use strum::{VariantArray, VariantNames};

use super::books::BookMetrics;
use super::registry::role_metrics;
use crate::domain::odds::book::Rejection;
use crate::domain::odds::failover::{DroppedRecord, FailoverCause, FailoverRefusal};
use crate::domain::odds::plausible::Implausible;
use crate::domain::odds::source_status::SourceState;
use crate::domain::odds::update::DecodeError;

/// Each path of the bus with each reason for which it refuses a record.
fn refused_records() -> impl Iterator<Item = [&'static str; 2]> {
    let reasons = || DecodeError::VARIANTS.iter().copied().chain(["future"]);
    ["live", "store", "selector"]
        .into_iter()
        .flat_map(move |path| reasons().map(move |reason| [path, reason]))
}

role_metrics! {
    /// Metrics of the role `processor`.
    ProcessorMetrics {
        /// Records consumed for the store
        consumed: IntCounter = "odds_proc_messages_consumed_total",
        /// Market states written to the cache
        cache_sets: IntCounter = "odds_proc_cache_sets_total",
        /// Updates written to the database, history and current state in one transaction
        db_writes: IntCounter = "odds_proc_db_writes_total",
        /// Errors by stage: decode, cache, store, dead_letter, hydrate, apply, publish
        errors: IntCounterVec = "odds_proc_errors_total" ["stage"] known ["decode", "cache", "store", "dead_letter", "hydrate", "apply", "publish", "load"],
        /// Updates applied by the books
        applied: IntCounter = "odds_proc_updates_applied_total",
        /// Updates rejected by the books, by reason
        rejected: IntCounterVec = "odds_proc_updates_rejected_total" ["reason"] known Rejection::VARIANTS,
        /// Records refused, by path (live skips them, store and selector keep them as dead letters) and reason
        refused: IntCounterVec = "odds_proc_records_refused_total" ["path", "reason"] known refused_records(),
        /// States of the cache or the database refused by the books, by reason
        implausible_states: IntCounterVec = "odds_proc_states_refused_total" ["reason"] known Implausible::VARIANTS,
        /// Records on the bus that a group has not processed yet. The purpose is live, store, selector or dead_letters, whatever the name of the group
        bus_lag: IntGaugeVec = "odds_proc_bus_lag" ["group", "purpose"],
        /// Updates per batch of the store
        batch_size: Histogram = "odds_proc_store_batch_size",
        /// Duration of a batch of the store
        batch_seconds: Histogram = "odds_proc_store_batch_seconds",
        /// Event books in memory
        books: IntGauge = "odds_proc_books",
        /// Market states waiting to be written to the cache
        cache_pending: IntGauge = "odds_proc_cache_pending",
        /// Dead letters stored
        dead_letters: IntCounter = "odds_proc_dead_letters_total",
        /// Rows removed after their retention period, by table
        pruned: IntCounterVec = "odds_proc_pruned_rows_total" ["table"] known ["odds_history", "dead_letters"],
        /// Markets that follow another source than before, by cause
        failovers: IntCounterVec = "odds_proc_failover_total" ["cause"] known FailoverCause::VARIANTS,
        /// Live sources that could not take over a market, by reason
        failovers_refused: IntCounterVec = "odds_proc_failover_refused_total" ["reason"] known FailoverRefusal::VARIANTS,
        /// Open markets suspended because no source offers them
        failover_withdrawn: IntCounter = "odds_proc_failover_withdrawn_total",
        /// Records of sources that the selector dropped, by reason
        failover_dropped: IntCounterVec = "odds_proc_failover_dropped_total" ["reason"] known DroppedRecord::VARIANTS,
        /// Markets whose sources the selector knows
        failover_markets: IntGauge = "odds_proc_failover_markets",
        /// Records that the selector holds until the published state of their market is loaded
        failover_held: IntGauge = "odds_proc_failover_held_records",
        /// Sources that were ever reported, by state. The markets of those that are not live are shown as suspended
        sources: IntGaugeVec = "odds_proc_sources" ["state"] known SourceState::VARIANTS.iter().map(<&'static str>::from),
        /// Reports about sources that could not be read
        source_reports_unreadable: IntCounter = "odds_proc_source_reports_unreadable_total",
        /// Updates waiting for an actor's mailbox, by actor
        mailbox_depth: IntGaugeVec = "odds_proc_mailbox_depth" ["actor"],
    }
}

impl ProcessorMetrics {
    /// The metrics of the books fed by the bus.
    pub fn book_metrics(&self) -> BookMetrics {
        BookMetrics {
            books: self.books.clone(),
            applied: self.applied.clone(),
            rejected: self.rejected.clone(),
            hydrate_errors: self.errors.with_label_values(&["hydrate"]),
            implausible: self.implausible_states.clone(),
            verifications: None,
        }
    }
}
