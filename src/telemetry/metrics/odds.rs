//! Metrics of the role `odds`.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};
use strum::VariantNames;

use super::books::BookMetrics;
use super::registry::role_metrics;
use crate::domain::odds::book::Rejection;
use crate::domain::odds::plausible::Implausible;
use crate::domain::odds::update::DecodeError;
use crate::domain::streaming::protocol::{CloseReason, Refusal};
use crate::domain::streaming::session::AuthResult;

role_metrics! {
    /// Metrics of the role `odds`.
    OddsMetrics {
        /// Sessions of WebSocket clients
        sessions: IntGauge = "odds_ws_sessions",
        /// Subscriptions of all sessions
        subscriptions: IntGauge = "odds_ws_subscriptions",
        /// Sessions with pending changes
        stalled: IntGauge = "odds_ws_stalled_sessions",
        /// Changes delivered to sessions
        deliveries: IntCounter = "odds_ws_deliveries_total",
        /// Changes encoded for clients: once for each form that clients get, however many clients there are
        encodings: IntCounter = "odds_ws_encodings_total",
        /// Changes replaced by a later one of the same market before a slow client took them
        conflations: IntCounter = "odds_ws_conflations_total",
        /// Subscriptions that clients resumed, by result: recovered (with only what was missed) or replaced (with the whole event)
        resumes: IntCounterVec = "odds_ws_resumes_total" ["result"] known ["recovered", "replaced"],
        /// Sessions evicted because they accepted nothing
        evictions: IntCounter = "odds_ws_evictions_total",
        /// Sessions ended, by reason
        closes: IntCounterVec = "odds_ws_closes_total" ["reason"] known CloseReason::VARIANTS.iter().copied().chain(["slow", "client", "connection lost"]),
        /// WebSocket upgrades refused, by reason
        refused_upgrades: IntCounterVec = "odds_ws_refused_upgrades_total" ["reason"],
        /// Client messages refused, by code
        refused_messages: IntCounterVec = "odds_ws_refused_messages_total" ["code"] known Refusal::VARIANTS,
        /// Credentials that WebSocket clients presented in auth messages, by result
        auth_messages: IntCounterVec = "odds_ws_auth_messages_total" ["result"] known AuthResult::VARIANTS,
        /// Time from the supplier's updated_at to the write to the last of a thread's clients that get the change. Updates older than an hour are recordings and not counted
        latency: Histogram = "odds_end_to_end_seconds",
        /// Changes waiting for the registry
        registry_depth: IntGauge = "odds_registry_depth",
        /// Whether broadcasts of other processes are received: 1 if they are or are not needed, 0 if clients may see stale odds
        feed_live: IntGauge = "odds_feed_live",
        /// Changes received from other processes
        broadcasts: IntCounter = "odds_broadcasts_total",
        /// Broadcasts that could not be read
        broadcasts_unreadable: IntCounter = "odds_broadcasts_unreadable_total",
        /// Broadcasts refused, by reason: future (a time too far ahead), seq (a number too large), deployment (from another deployment, or without a name where names are required)
        broadcasts_refused: IntCounterVec = "odds_broadcasts_refused_total" ["reason"] known Implausible::VARIANTS.iter().copied().chain(["deployment"]),
        /// Comparisons of a doubtful broadcast with the hot copy
        mirror_verifications: IntCounter = "odds_mirror_verifications_total",
        /// Markets corrected by a comparison with the hot copy
        mirror_corrections: IntCounter = "odds_mirror_corrections_total",
        /// States of the cache or the database refused by the books of this role, by reason
        mirror_implausible: IntCounterVec = "odds_mirror_states_refused_total" ["reason"] known Implausible::VARIANTS,
        /// Times that broadcasts were lost, or no processor was heard
        broadcast_losses: IntCounter = "odds_broadcast_losses_total",
        /// Event books in memory, if this role keeps its own
        mirror_books: IntGauge = "odds_mirror_books",
        /// Changes applied by the books of this role
        mirror_applied: IntCounter = "odds_mirror_updates_applied_total",
        /// Changes rejected by the books of this role, by reason
        mirror_rejected: IntCounterVec = "odds_mirror_updates_rejected_total" ["reason"] known Rejection::VARIANTS,
        /// Records read from the odds topic, if this role follows it
        followed: IntCounter = "odds_mirror_records_total",
        /// Records of the followed odds topic that the books of this role do not apply, by path and reason
        followed_refused: IntCounterVec = "odds_mirror_records_refused_total" ["path", "reason"] known refused_records(),
        /// Failed reads of the cache or the database by the books of this role
        mirror_hydrate_errors: IntCounter = "odds_mirror_hydrate_errors_total",
        /// Holds in force, as last read
        holds: IntGauge = "odds_holds",
        /// Failed reads of the holds
        hold_read_errors: IntCounter = "odds_hold_read_errors_total",
        /// Client reads refused because too many were waiting for the database
        client_reads_refused: IntCounter = "odds_client_reads_refused_total",
        /// Responses with current odds served from the response cache, without a request to a book
        ready_answers: IntCounter = "odds_http_ready_answers_total",
        /// Time from the head of a request to the head of its response, by route template, method and status class
        request_seconds: HistogramVec = "odds_http_request_duration_seconds" ["route", "method", "status"],
        /// REST requests, by status
        requests: IntCounterVec = "odds_http_requests_total" ["status"] known ["200", "304", "400", "404", "405", "413", "415", "503"],
        /// Requests refused before routing, by code: a foreign Host, a page of a foreign origin
        refused: IntCounterVec = "odds_http_refused_total" ["code"],
    }
}

/// Each reason for which a record of the odds topic is not applied.
fn refused_records() -> impl Iterator<Item = [&'static str; 2]> {
    let reasons = DecodeError::VARIANTS.iter().chain(Implausible::VARIANTS);
    reasons.map(|reason| ["follower", *reason])
}

impl OddsMetrics {
    /// The metrics of the books fed by broadcasts.
    pub fn book_metrics(&self) -> BookMetrics {
        BookMetrics {
            books: self.mirror_books.clone(),
            applied: self.mirror_applied.clone(),
            rejected: self.mirror_rejected.clone(),
            hydrate_errors: self.mirror_hydrate_errors.clone(),
            implausible: self.mirror_implausible.clone(),
            verifications: Some((
                self.mirror_verifications.clone(),
                self.mirror_corrections.clone(),
            )),
        }
    }
}
