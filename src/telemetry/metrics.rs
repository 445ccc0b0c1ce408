//! Every metric: one struct a role. Doc comments are the help texts. No label grows with events or users, and the values
//! of a label that are known stand there from the start, at 0: a rate over a metric that is not there yet is no rate.

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

/// From a tenth of a millisecond to half a minute, in seconds.
const LATENCY_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];
/// Of requests, in seconds. Fewer than of other times, since each route, method and status class has its own.
const REQUEST_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];
/// Rows in a batch.
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0];

/// A metric that can be made from its name, help text and labels.
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

/// The values of a metric's labels, in their order.
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
            /// What `/metrics` of the role gathers from.
            pub registry: Registry,
            $(#[doc = $help] pub $field: $kind,)+
        }

        impl $struct {
            /// Makes the metrics, with those of the process beside them.
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
        /// Consumers closed because they did not keep up
        lagging_closed: IntCounter = "supplier_ws_lagging_closed_total",
        /// Updates made
        updates: IntCounter = "supplier_updates_total",
        /// Requests refused before they were routed, by code: a foreign Host, a page of a foreign origin
        refused: IntCounterVec = "supplier_http_refused_total" ["code"] known ApiError::DOOR_CODES,
        /// Bets asked about, by answer
        confirmations: IntCounterVec = "supplier_confirmations_total" ["status"],
        /// Questions about bets that met a fault, as the settings say, by fault
        faults: IntCounterVec = "supplier_confirm_faults_total" ["fault"] known Fault::ALL.iter().map(|fault| fault.as_str()),
        /// Bets cancelled
        cancellations: IntCounter = "supplier_cancellations_total",
        /// Time from the head of a request to the head of its answer, by route template, method and status class
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
        /// Frames received from suppliers, heartbeats too
        frames: IntCounter = "odds_ingest_frames_total",
        /// Updates published to the bus
        published: IntCounter = "odds_ingest_updates_published_total",
        /// Frames or updates refused and kept as dead letters, by reason
        refused: IntCounterVec = "odds_ingest_refused_total" ["reason"] known DecodeError::REASONS.into_iter().chain(["future", "old_version"]),
        /// Connections lost or not made, by reason
        disconnects: IntCounterVec = "odds_ingest_disconnects_total" ["reason"] known TransportError::REASONS.into_iter().chain(["closed", "silent", "bus", "future"]),
        /// Markets suspended because their supplier had said nothing for too long
        suspended_as_stale: IntCounter = "odds_ingest_suspended_as_stale_total",
        /// Markets suspended because a connection ended with changes that could not be taken
        suspended_after_loss: IntCounter = "odds_ingest_suspended_after_loss_total",
        /// Connections made
        connects: IntCounter = "odds_ingest_connects_total",
        /// Seconds that feeds waited for the bus to take an update
        bus_wait: Counter = "odds_ingest_bus_wait_seconds_total",
        /// Messages waiting in front of the bus publisher
        publisher_depth: IntGauge = "odds_ingest_publisher_depth",
        /// Records on the bus that some group has not done yet
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
        /// Updates that the books took
        applied: IntCounter = "odds_proc_updates_applied_total",
        /// Updates that the books did not take, by reason
        rejected: IntCounterVec = "odds_proc_updates_rejected_total" ["reason"] known Rejection::ALL.map(Rejection::reason),
        /// Records refused, by path (live passes them over, store keeps them as dead letters) and reason
        refused: IntCounterVec = "odds_proc_records_refused_total" ["path", "reason"] known refused_records(),
        /// States of the cache or the database that books did not take, by reason
        implausible_states: IntCounterVec = "odds_proc_states_refused_total" ["reason"] known Implausible::REASONS,
        /// Records on the bus that a group has not done yet. The purpose is live, store or dead_letters, whatever the group is called
        bus_lag: IntGaugeVec = "odds_proc_bus_lag" ["group", "purpose"],
        /// Updates in a batch of the store
        batch_size: Histogram = "odds_proc_store_batch_size",
        /// Time of a batch of the store
        batch_seconds: Histogram = "odds_proc_store_batch_seconds",
        /// Books of events in memory
        books: IntGauge = "odds_proc_books",
        /// Market states that wait for the cache
        cache_pending: IntGauge = "odds_proc_cache_pending",
        /// Dead letters kept
        dead_letters: IntCounter = "odds_proc_dead_letters_total",
        /// Rows removed when their retention was over, by table
        pruned: IntCounterVec = "odds_proc_pruned_rows_total" ["table"] known ["odds_history", "dead_letters"],
        /// Updates that wait in front of a mailbox, by actor
        mailbox_depth: IntGaugeVec = "odds_proc_mailbox_depth" ["actor"],
    }
}

/// Each movement of money that can be asked for, with each of its outcomes.
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
        /// Requests refused before they were routed, by code: a foreign Host, a page of a foreign origin
        refused: IntCounterVec = "wallet_http_refused_total" ["code"] known ApiError::DOOR_CODES,
        /// Movements of money asked for, by operation and outcome: done (also when asked again), refused, failed
        operations: IntCounterVec = "wallet_operations_total" ["operation", "outcome"] known wallet_operations(),
        /// Reservations that ended because nobody decided them in time
        expired: IntCounter = "wallet_reservations_expired_total",
        /// Looks at the whole ledger that were made
        verifications: IntCounter = "wallet_ledger_verifications_total",
        /// Looks at the whole ledger that failed
        verification_failures: IntCounter = "wallet_ledger_verification_failures_total",
        /// Violations that the last look at the whole ledger found; anything but 0 is an alarm
        violations: IntGauge = "wallet_ledger_violations",
        /// Unix time of the last look at the whole ledger
        verified_at: IntGauge = "wallet_ledger_verified_at_seconds",
        /// Time of a look at the whole ledger
        verification_seconds: Histogram = "wallet_ledger_verification_seconds",
        /// Time from the head of a request to the head of its answer, by route template, method and status class
        request_seconds: HistogramVec = "wallet_http_request_duration_seconds" ["route", "method", "status"] known latency::known(wallet::ROUTES),
    }
}

role_metrics! {
    /// Metrics of the role `bets`.
    BetsMetrics {
        /// Requests, by status
        requests: IntCounterVec = "bets_http_requests_total" ["status"] known ["200", "400", "404", "409", "415", "422", "503"],
        /// Requests refused before they were routed, by code: a foreign Host, a page of a foreign origin
        refused: IntCounterVec = "bets_http_refused_total" ["code"] known ApiError::DOOR_CODES,
        /// Time from the head of a request to the head of its answer, by route template, method and status class
        request_seconds: HistogramVec = "bets_http_request_duration_seconds" ["route", "method", "status"] known latency::known(bets::ROUTES),
        /// Bets asked for, by what became of it: placed, repeated (answered as the first time), or a code
        bets: IntCounterVec = "bets_requests_total" ["outcome"] known BetRefusal::CODES.into_iter().chain(["placed", "repeated", "IDEMPOTENCY_KEY_REUSED"]),
        /// Rows of the outbox that are not known to be published
        outbox_rows: IntGauge = "bets_outbox_rows",
        /// Age of the oldest of them
        outbox_oldest: Gauge = "bets_outbox_oldest_age_seconds",
        /// Rows published, by topic
        outbox_published: IntCounterVec = "bets_outbox_published_total" ["topic"] known OutboxTopic::ALL.map(OutboxTopic::as_str),
        /// Failures of the outbox by stage: take, publish, mark, refused (kept as a dead letter)
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
        /// Sessions that have changes yet to take
        stalled: IntGauge = "odds_ws_stalled_sessions",
        /// Changes handed to sessions
        deliveries: IntCounter = "odds_ws_deliveries_total",
        /// Changes that a later one of the same market replaced before a slow client took them
        conflations: IntCounter = "odds_ws_conflations_total",
        /// Sessions ended from outside because they took nothing
        evictions: IntCounter = "odds_ws_evictions_total",
        /// Sessions ended, by reason
        closes: IntCounterVec = "odds_ws_closes_total" ["reason"] known CloseReason::ALL.map(CloseReason::text).into_iter().chain(["slow", "client", "connection lost"]),
        /// Upgrades refused, by reason
        refused_upgrades: IntCounterVec = "odds_ws_refused_upgrades_total" ["reason"] known ApiError::UPGRADE_CODES,
        /// Messages of clients refused, by code
        refused_messages: IntCounterVec = "odds_ws_refused_messages_total" ["code"] known Refusal::CODES,
        /// From the supplier's updated_at to the write to the last of a thread's clients that a change goes to. Updates older than an hour are recordings and not counted
        latency: Histogram = "odds_end_to_end_seconds",
        /// Changes that wait in front of the registry
        registry_depth: IntGauge = "odds_registry_depth",
        /// Whether broadcasts of other processes are heard: 1 when they are or are not needed, 0 when what is shown may be stale
        feed_live: IntGauge = "odds_feed_live",
        /// Changes heard from other processes
        broadcasts: IntCounter = "odds_broadcasts_total",
        /// Broadcasts that could not be read
        broadcasts_unreadable: IntCounter = "odds_broadcasts_unreadable_total",
        /// Broadcasts refused, by reason: future (a time too far ahead), seq (a number too large), deployment (another deployment's, or one without a name where names are required)
        broadcasts_refused: IntCounterVec = "odds_broadcasts_refused_total" ["reason"] known Implausible::REASONS.into_iter().chain(["deployment"]),
        /// Times that a book compared a doubtful broadcast with the hot copy
        mirror_verifications: IntCounter = "odds_mirror_verifications_total",
        /// Markets that such a comparison put right
        mirror_corrections: IntCounter = "odds_mirror_corrections_total",
        /// States of the cache or the database that the books of this role did not take, by reason
        mirror_implausible: IntCounterVec = "odds_mirror_states_refused_total" ["reason"] known Implausible::REASONS,
        /// Times that broadcasts were lost, or no processor was heard
        broadcast_losses: IntCounter = "odds_broadcast_losses_total",
        /// Books of events in memory, where this role keeps its own
        mirror_books: IntGauge = "odds_mirror_books",
        /// Changes that the books of this role took
        mirror_applied: IntCounter = "odds_mirror_updates_applied_total",
        /// Changes that the books of this role did not take, by reason
        mirror_rejected: IntCounterVec = "odds_mirror_updates_rejected_total" ["reason"] known Rejection::ALL.map(Rejection::reason),
        /// Times that a book of this role could not read the cache or the database
        mirror_hydrate_errors: IntCounter = "odds_mirror_hydrate_errors_total",
        /// Reads for clients that were refused because too many waited for the database
        client_reads_refused: IntCounter = "odds_client_reads_refused_total",
        /// Answers with current odds that were ready: no book was asked
        ready_answers: IntCounter = "odds_http_ready_answers_total",
        /// Time from the head of a request to the head of its answer, by route template, method and status class
        request_seconds: HistogramVec = "odds_http_request_duration_seconds" ["route", "method", "status"] known latency::known(routes::ROUTES),
        /// REST requests, by status
        requests: IntCounterVec = "odds_http_requests_total" ["status"] known ["200", "304", "400", "404", "405", "413", "415", "503"],
        /// Requests refused before they were routed, by code: a foreign Host, a page of a foreign origin
        refused: IntCounterVec = "odds_http_refused_total" ["code"] known ApiError::DOOR_CODES,
    }
}

role_metrics! {
    /// Metrics of the role `confirmation`.
    ConfirmationMetrics {
        /// Records of bets placed that were read
        consumed: IntCounter = "bets_placed_consumed_total",
        /// Records of bets placed that the group has not done yet
        bus_lag: IntGauge = "bets_placed_lag",
        /// Bets in work
        in_flight: IntGauge = "bets_in_flight",
        /// Records that are no bets and were kept as dead letters, by reason
        dead_letters: IntCounterVec = "bets_dead_letters_total" ["reason"] known BadBetPlaced::REASONS.into_iter().chain(confirmation::REASONS),
        /// Errors by stage, each tried again: store, dead_letter
        errors: IntCounterVec = "bets_errors_total" ["stage"] known ["store", "dead_letter"],
        /// Bets decided: confirmed, rejected (by the supplier), or supplier_timeout (rejected because no answer came)
        decided: IntCounterVec = "bets_decided_total" ["outcome"] known decision::OUTCOMES,
        /// From when a bet was placed to when it was decided
        decision_seconds: Histogram = "bets_decision_seconds",
        /// Times that the supplier was asked for a confirmation, by outcome
        supplier_calls: IntCounterVec = "bets_supplier_calls_total" ["outcome"] known SupplierError::KINDS.into_iter().chain(["confirmed", "rejected"]),
        /// Times that the supplier was told to cancel, by outcome
        cancel_calls: IntCounterVec = "bets_cancel_calls_total" ["outcome"] known SupplierError::KINDS.into_iter().chain(["cancelled"]),
        /// How long the supplier took to answer, or not to
        supplier_call_seconds: Histogram = "bets_supplier_call_seconds",
        /// How the breaker in front of the supplier stands: 1 at one of closed, open, half_open
        breaker: IntGaugeVec = "bets_supplier_breaker" ["state"] known BreakerState::ALL.iter().map(|state| state.as_str()),
        /// Bets that were overdue in the database and decided there
        overdue: IntCounter = "bets_overdue_swept_total",
        /// Bets that the supplier has still to be told to cancel
        cancels_open: IntGauge = "bets_cancels_open",
        /// Bets that the supplier has cancelled
        cancels_done: IntCounter = "bets_cancels_done_total",
        /// Rows of the outbox that are not known to be published
        outbox_rows: IntGauge = "bets_outbox_rows",
        /// Age of the oldest of them
        outbox_oldest: Gauge = "bets_outbox_oldest_age_seconds",
        /// Rows published, by topic
        outbox_published: IntCounterVec = "bets_outbox_published_total" ["topic"] known OutboxTopic::ALL.map(OutboxTopic::as_str),
        /// Failures of the outbox by stage: take, publish, mark, refused (kept as a dead letter)
        outbox_failures: IntCounterVec = "bets_outbox_failures_total" ["stage"] known outbox_relay::STAGES,
    }
}

/// What the outbox counts, in the metrics of whichever role publishes it.
#[derive(Clone)]
pub struct OutboxMetrics {
    /// Rows that are not known to be published.
    pub rows: IntGauge,
    /// Age of the oldest, in seconds.
    pub oldest: Gauge,
    /// Rows published, by topic.
    pub published: IntCounterVec,
    /// Failures, by stage.
    pub failures: IntCounterVec,
}

macro_rules! outbox_metrics {
    ($($role:ty),+) => {
        $(impl $role {
            /// Those of the outbox.
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

/// What books count, in the metrics of whichever role keeps them.
#[derive(Clone)]
pub struct BookMetrics {
    /// Books in memory.
    pub books: IntGauge,
    /// Updates that the books took.
    pub applied: IntCounter,
    /// Updates that the books did not take, by reason.
    pub rejected: IntCounterVec,
    /// Times that the cache or the store could not be read.
    pub hydrate_errors: IntCounter,
    /// States of the cache or the store that were not taken, by reason.
    pub implausible: IntCounterVec,
    /// Comparisons of doubtful broadcasts with the hot copy; none where no broadcasts feed the books.
    pub verifications: Option<(IntCounter, IntCounter)>,
}

impl BookMetrics {
    /// A comparison with the hot copy put so many markets right.
    pub fn count_verification(&self, corrected: usize) {
        if let Some((verifications, corrections)) = &self.verifications {
            verifications.inc();
            corrections.inc_by(corrected as u64);
        }
    }
}

impl ProcessorMetrics {
    /// Those of the books that the bus feeds.
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
    /// Those of the books that broadcasts feed.
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
        Opts::new("sports_bet_build_info", "The version that runs; always 1"),
        &["version"],
    )?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(build))?;
    Ok(registry)
}
