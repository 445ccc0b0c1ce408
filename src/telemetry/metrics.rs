//! Every metric, in one struct per role. Doc comments are the help texts. No label grows with
//! events or users, and known label values exist from the start, at 0: a rate cannot be computed
//! over a series that does not exist yet.

use prometheus::{
    Counter, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::actors::bets::{confirmation, decision, outbox_relay};
use crate::domain::bets::bet::BetRefusal;
use crate::domain::bets::bet_events::BadBetPlaced;
use crate::domain::odds::book::Rejection;
use crate::domain::odds::plausible::Implausible;
use crate::domain::odds::update::DecodeError;
use crate::domain::streaming::protocol::{CloseReason, Refusal};
use crate::http::errors::ApiError;
use crate::http::odds::routes;
use crate::http::{bets, latency, wallet};
use crate::runtime::circuit_breaker::BreakerState;
use crate::simulator;
use crate::simulator::faults::Fault;
use crate::store::money::OutboxTopic;
use crate::supplier::confirm::SupplierError;
use crate::supplier::transport::TransportError;

/// Buckets from a tenth of a millisecond to half a minute, in seconds.
const LATENCY_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];
/// Buckets of request durations, in seconds. Fewer than for other times, since each route, method
/// and status class has its own.
const REQUEST_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];
/// Buckets of the rows in a batch.
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0];

/// A metric that can be created from its name, help text and labels.
trait Metric: Sized + Clone + prometheus::core::Collector + 'static {
    fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self>;
}

macro_rules! metric {
    ($($kind:ty => |$name:ident, $help:ident, $labels:ident| $make:expr;)+) => {
        $(impl Metric for $kind {
            fn make($name: &str, $help: &str, $labels: &[&str]) -> prometheus::Result<Self> { let _ = $labels; $make }
        })+
    };
}

metric! {
    IntCounter => |name, help, labels| IntCounter::new(name, help);
    Counter => |name, help, labels| Counter::new(name, help);
    IntGauge => |name, help, labels| IntGauge::new(name, help);
    Gauge => |name, help, labels| Gauge::new(name, help);
    IntCounterVec => |name, help, labels| IntCounterVec::new(Opts::new(name, help), labels);
    IntGaugeVec => |name, help, labels| IntGaugeVec::new(Opts::new(name, help), labels);
    Histogram => |name, help, labels| {
        let buckets = if name.ends_with("_seconds") { LATENCY_BUCKETS } else { BATCH_BUCKETS };
        Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
    };
    HistogramVec => |name, help, labels| HistogramVec::new(HistogramOpts::new(name, help).buckets(REQUEST_BUCKETS.to_vec()), labels);
}

/// The values of a metric's labels, in order.
trait LabelValues {
    fn as_slice(&self) -> &[&str];
}

impl LabelValues for &str {
    fn as_slice(&self) -> &[&str] {
        std::slice::from_ref(self)
    }
}

impl<const LABELS: usize> LabelValues for [&str; LABELS] {
    fn as_slice(&self) -> &[&str] {
        self
    }
}

macro_rules! role_metrics {
    ($(#[doc = $about:literal])* $struct:ident { $(#[doc = $help:literal] $field:ident: $kind:ty = $name:literal $([$($label:literal),+] $(known $values:expr)?)?,)+ }) => {
        $(#[doc = $about])*
        #[derive(Clone)]
        pub struct $struct {
            /// The registry that `/metrics` of the role gathers from.
            pub registry: Registry,
            $(#[doc = $help] pub $field: $kind,)+
        }

        impl $struct {
            /// Creates the metrics, together with those of the process.
            pub fn new() -> prometheus::Result<$struct> {
                let registry = registry_of_process()?;
                $(let $field = register(&registry, <$kind as Metric>::make($name, $help.trim(), &[$($($label),+)?])?)?;)+
                $($($(for values in $values { $field.with_label_values(LabelValues::as_slice(&values)); })?)?)+
                Ok($struct { registry, $($field),+ })
            }
        }
    };
}

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
        refused: IntCounterVec = "supplier_http_refused_total" ["code"] known ApiError::DOOR_CODES,
        /// Confirmation requests, by answer
        confirmations: IntCounterVec = "supplier_confirmations_total" ["status"],
        /// Confirmation requests with a fault injected by the settings, by fault
        faults: IntCounterVec = "supplier_confirm_faults_total" ["fault"] known Fault::ALL.iter().map(|fault| fault.as_str()),
        /// Bets cancelled
        cancellations: IntCounter = "supplier_cancellations_total",
        /// Time from the head of a request to the head of its response, by route template, method and status class
        request_seconds: HistogramVec = "supplier_http_request_duration_seconds" ["route", "method", "status"] known latency::known(simulator::ROUTES),
    }
}

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
        /// Frames or updates refused and kept as dead letters, by reason
        refused: IntCounterVec = "odds_ingest_refused_total" ["reason"] known DecodeError::REASONS.into_iter().chain(["future", "old_version"]),
        /// Connections lost or not established, by reason
        disconnects: IntCounterVec = "odds_ingest_disconnects_total" ["reason"] known TransportError::REASONS.into_iter().chain(["closed", "silent", "bus", "future"]),
        /// Markets suspended because their supplier was silent for too long
        suspended_as_stale: IntCounter = "odds_ingest_suspended_as_stale_total",
        /// Markets suspended because a connection ended with changes that could not be applied
        suspended_after_loss: IntCounter = "odds_ingest_suspended_after_loss_total",
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

/// Each path of the bus with each reason for which it refuses a record.
fn refused_records() -> impl Iterator<Item = [&'static str; 2]> {
    let reasons = || DecodeError::REASONS.into_iter().chain(["future"]);
    ["live", "store"]
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
        /// Errors by stage: decode, cache, store, dead_letter, hydrate, apply
        errors: IntCounterVec = "odds_proc_errors_total" ["stage"] known ["decode", "cache", "store", "dead_letter", "hydrate", "apply"],
        /// Updates applied by the books
        applied: IntCounter = "odds_proc_updates_applied_total",
        /// Updates rejected by the books, by reason
        rejected: IntCounterVec = "odds_proc_updates_rejected_total" ["reason"] known Rejection::ALL.map(Rejection::reason),
        /// Records refused, by path (live skips them, store keeps them as dead letters) and reason
        refused: IntCounterVec = "odds_proc_records_refused_total" ["path", "reason"] known refused_records(),
        /// States of the cache or the database refused by the books, by reason
        implausible_states: IntCounterVec = "odds_proc_states_refused_total" ["reason"] known Implausible::REASONS,
        /// Records on the bus that a group has not processed yet. The purpose is live, store or dead_letters, whatever the name of the group
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
        /// Updates waiting for an actor's mailbox, by actor
        mailbox_depth: IntGaugeVec = "odds_proc_mailbox_depth" ["actor"],
    }
}

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
        refused: IntCounterVec = "wallet_http_refused_total" ["code"] known ApiError::DOOR_CODES,
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
        request_seconds: HistogramVec = "wallet_http_request_duration_seconds" ["route", "method", "status"] known latency::known(wallet::ROUTES),
    }
}

role_metrics! {
    /// Metrics of the role `bets`.
    BetsMetrics {
        /// Requests, by status
        requests: IntCounterVec = "bets_http_requests_total" ["status"] known ["200", "400", "404", "409", "415", "422", "503"],
        /// Requests refused before routing, by code: a foreign Host, a page of a foreign origin
        refused: IntCounterVec = "bets_http_refused_total" ["code"] known ApiError::DOOR_CODES,
        /// Time from the head of a request to the head of its response, by route template, method and status class
        request_seconds: HistogramVec = "bets_http_request_duration_seconds" ["route", "method", "status"] known latency::known(bets::ROUTES),
        /// Bets requested, by outcome: placed, repeated (answered like the first request), or an error code
        bets: IntCounterVec = "bets_requests_total" ["outcome"] known BetRefusal::CODES.into_iter().chain(["placed", "repeated", "IDEMPOTENCY_KEY_REUSED"]),
        /// Outbox rows not known to be published
        outbox_rows: IntGauge = "bets_outbox_rows",
        /// Age of the oldest outbox row not known to be published
        outbox_oldest: Gauge = "bets_outbox_oldest_age_seconds",
        /// Outbox rows published, by topic
        outbox_published: IntCounterVec = "bets_outbox_published_total" ["topic"] known OutboxTopic::ALL.map(OutboxTopic::as_str),
        /// Outbox failures, by stage: take, publish, mark, refused (kept as a dead letter)
        outbox_failures: IntCounterVec = "bets_outbox_failures_total" ["stage"] known outbox_relay::STAGES,
    }
}

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
        /// Changes replaced by a later one of the same market before a slow client took them
        conflations: IntCounter = "odds_ws_conflations_total",
        /// Sessions evicted because they accepted nothing
        evictions: IntCounter = "odds_ws_evictions_total",
        /// Sessions ended, by reason
        closes: IntCounterVec = "odds_ws_closes_total" ["reason"] known CloseReason::ALL.map(CloseReason::text).into_iter().chain(["slow", "client", "connection lost"]),
        /// WebSocket upgrades refused, by reason
        refused_upgrades: IntCounterVec = "odds_ws_refused_upgrades_total" ["reason"] known ApiError::UPGRADE_CODES,
        /// Client messages refused, by code
        refused_messages: IntCounterVec = "odds_ws_refused_messages_total" ["code"] known Refusal::CODES,
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
        broadcasts_refused: IntCounterVec = "odds_broadcasts_refused_total" ["reason"] known Implausible::REASONS.into_iter().chain(["deployment"]),
        /// Comparisons of a doubtful broadcast with the hot copy
        mirror_verifications: IntCounter = "odds_mirror_verifications_total",
        /// Markets corrected by a comparison with the hot copy
        mirror_corrections: IntCounter = "odds_mirror_corrections_total",
        /// States of the cache or the database refused by the books of this role, by reason
        mirror_implausible: IntCounterVec = "odds_mirror_states_refused_total" ["reason"] known Implausible::REASONS,
        /// Times that broadcasts were lost, or no processor was heard
        broadcast_losses: IntCounter = "odds_broadcast_losses_total",
        /// Event books in memory, if this role keeps its own
        mirror_books: IntGauge = "odds_mirror_books",
        /// Changes applied by the books of this role
        mirror_applied: IntCounter = "odds_mirror_updates_applied_total",
        /// Changes rejected by the books of this role, by reason
        mirror_rejected: IntCounterVec = "odds_mirror_updates_rejected_total" ["reason"] known Rejection::ALL.map(Rejection::reason),
        /// Failed reads of the cache or the database by the books of this role
        mirror_hydrate_errors: IntCounter = "odds_mirror_hydrate_errors_total",
        /// Client reads refused because too many were waiting for the database
        client_reads_refused: IntCounter = "odds_client_reads_refused_total",
        /// Responses with current odds served from the response cache, without a request to a book
        ready_answers: IntCounter = "odds_http_ready_answers_total",
        /// Time from the head of a request to the head of its response, by route template, method and status class
        request_seconds: HistogramVec = "odds_http_request_duration_seconds" ["route", "method", "status"] known latency::known(routes::ROUTES),
        /// REST requests, by status
        requests: IntCounterVec = "odds_http_requests_total" ["status"] known ["200", "304", "400", "404", "405", "413", "415", "503"],
        /// Requests refused before routing, by code: a foreign Host, a page of a foreign origin
        refused: IntCounterVec = "odds_http_refused_total" ["code"] known ApiError::DOOR_CODES,
    }
}

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
        dead_letters: IntCounterVec = "bets_dead_letters_total" ["reason"] known BadBetPlaced::REASONS.into_iter().chain(confirmation::REASONS),
        /// Errors, by stage, each retried: store, dead_letter
        errors: IntCounterVec = "bets_errors_total" ["stage"] known ["store", "dead_letter"],
        /// Bets decided, by outcome: confirmed, rejected (by the supplier), or supplier_timeout (rejected because no answer came)
        decided: IntCounterVec = "bets_decided_total" ["outcome"] known decision::OUTCOMES,
        /// Time from the placement of a bet to its decision
        decision_seconds: Histogram = "bets_decision_seconds",
        /// Confirmation requests to the supplier, by outcome
        supplier_calls: IntCounterVec = "bets_supplier_calls_total" ["outcome"] known SupplierError::KINDS.into_iter().chain(["confirmed", "rejected"]),
        /// Cancel requests to the supplier, by outcome
        cancel_calls: IntCounterVec = "bets_cancel_calls_total" ["outcome"] known SupplierError::KINDS.into_iter().chain(["cancelled"]),
        /// Duration of a request to the supplier, whether it was answered or not
        supplier_call_seconds: Histogram = "bets_supplier_call_seconds",
        /// State of the circuit breaker of the supplier: 1 for the current one of closed, open, half_open
        breaker: IntGaugeVec = "bets_supplier_breaker" ["state"] known BreakerState::ALL.iter().map(|state| state.as_str()),
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
        outbox_published: IntCounterVec = "bets_outbox_published_total" ["topic"] known OutboxTopic::ALL.map(OutboxTopic::as_str),
        /// Outbox failures, by stage: take, publish, mark, refused (kept as a dead letter)
        outbox_failures: IntCounterVec = "bets_outbox_failures_total" ["stage"] known outbox_relay::STAGES,
    }
}

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

macro_rules! outbox_metrics {
    ($($role:ty),+) => {
        $(impl $role {
            /// The metrics of the outbox.
            pub fn outbox_metrics(&self) -> OutboxMetrics {
                OutboxMetrics {
                    rows: self.outbox_rows.clone(),
                    oldest: self.outbox_oldest.clone(),
                    published: self.outbox_published.clone(),
                    failures: self.outbox_failures.clone(),
                }
            }
        })+
    };
}
outbox_metrics!(BetsMetrics, ConfirmationMetrics);

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

fn register<M: Metric>(registry: &Registry, metric: M) -> prometheus::Result<M> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn registry_of_process() -> prometheus::Result<Registry> {
    let registry = Registry::new();
    #[cfg(target_os = "linux")]
    registry.register(Box::new(
        prometheus::process_collector::ProcessCollector::for_self(),
    ))?;
    let build = IntGaugeVec::new(
        Opts::new("sports_bet_build_info", "The running version; always 1"),
        &["version"],
    )?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(build))?;
    Ok(registry)
}
