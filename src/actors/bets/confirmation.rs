//! Processes one record of `bet_placed`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use log::{debug, warn};

use super::decision::BetDecisions;
use super::supplier_client::{CallError, Retry, SupplierClient};
use crate::bus::dead_letter;
use crate::bus::{Record, Topic};
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, BetStatus};
use crate::domain::bets::bet_events::BetPlaced;
use crate::domain::dead_letter::DeadLetter;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::runtime::clock::Clock;
use crate::runtime::health::HealthCell;
use crate::store::StoreError;
use crate::store::money::BetReader;
use crate::store::request_batcher::{ConcurrencyLimit, RequestBatcher};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::ConfirmationMetrics;

/// Dead letter reasons of records that decode: the database has no such bet, or its row is
/// unreadable.
pub(crate) const REASONS: [&str; 2] = [UNKNOWN_BET, "unreadable_bet"];
const UNKNOWN_BET: &str = "unknown_bet";
/// Delay added for each consecutive bet that the database does not know, up to `MAX_UNKNOWN_DELAY`.
const UNKNOWN_DELAY: Duration = Duration::from_millis(10);
const MAX_UNKNOWN_DELAY: Duration = Duration::from_secs(1);
/// Limits the log of dead letters, by reason.
static DEAD_LETTERS: LogLimit =
    LogLimit::growing(Duration::from_secs(10), Duration::from_secs(600));

/// Backoff for failures of the database or the dead letter topic.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(50),
    most: Duration::from_secs(1),
};

/// How a bet is confirmed.
#[derive(Clone, Debug)]
pub(crate) struct ConfirmationSettings {
    /// Name of the topic, for dead letters.
    pub topic: String,
    /// Backoff between confirmation requests for one bet.
    pub retry: BackoffPolicy,
    /// Concurrency limit for reading bets.
    pub turns: ConcurrencyLimit,
    /// Maximum number of bets read in one batch.
    pub max_batch: usize,
}

/// Processes records, any number concurrently.
pub(crate) struct BetConfirmation {
    settings: ConfirmationSettings,
    bets: Arc<RequestBatcher<BetId, Option<Bet>>>,
    supplier: Arc<SupplierClient>,
    decisions: BetDecisions,
    dead_letters: Arc<dyn Topic>,
    /// Consecutive bets that the database did not know.
    unknown: AtomicU32,
    health: Arc<HealthCell>,
    clock: Clock,
    metrics: ConfirmationMetrics,
}

impl BetConfirmation {
    /// Requests confirmation from `supplier`, decides with `decisions`, and publishes invalid
    /// records to `dead_letters`.
    pub(crate) fn new(
        settings: ConfirmationSettings,
        store: Arc<dyn BetReader>,
        supplier: Arc<SupplierClient>,
        decisions: BetDecisions,
        dead_letters: Arc<dyn Topic>,
        clock: Clock,
        metrics: ConfirmationMetrics,
    ) -> BetConfirmation {
        let health = Arc::new(HealthCell::new("bets cannot be decided"));
        let find = move |ids: &[BetId]| store.bets_by_id(ids);
        let bets = RequestBatcher::new(&settings.turns, settings.max_batch, find);
        BetConfirmation {
            settings,
            bets,
            supplier,
            decisions,
            dead_letters,
            unknown: AtomicU32::new(0),
            health,
            clock,
            metrics,
        }
    }

    /// The topic of the records.
    pub(super) fn topic(&self) -> &str {
        &self.settings.topic
    }

    pub(super) fn health(&self) -> Arc<HealthCell> {
        self.health.clone()
    }

    /// Processes a record until it is done, however long the database or the bus is unavailable.
    pub(super) async fn finish(&self, record: &Record) {
        self.metrics.consumed.inc();
        let placed = match BetPlaced::from_json(&record.record.payload) {
            Ok(placed) => placed,
            Err(error) => {
                return self
                    .send_to_dead_letters(record, error.reason(), &error.to_string())
                    .await;
            }
        };
        let id = placed.bet_id;
        let mut backoff = self.backoff(id);
        let bet = loop {
            match self.bets.submit(id).await {
                Ok(Some(bet)) => {
                    self.unknown.store(0, Ordering::Relaxed);
                    break bet;
                }
                Ok(None) => {
                    return self
                        .send_to_dead_letters(record, UNKNOWN_BET, &format!("bet {id} not found"))
                        .await;
                }
                // A retry cannot succeed and would block everything after it.
                Err(error @ StoreError::Unreadable(_)) => {
                    return self
                        .send_to_dead_letters(record, "unreadable_bet", &error.to_string())
                        .await;
                }
                Err(error) => self.record_and_wait(&error, &mut backoff).await,
            }
        };
        if bet.status != BetStatus::Pending {
            return debug!(bet = id.to_string(); "bet already decided: {}", bet.status);
        }
        let outcome = self.confirm(&bet).await;
        let mut backoff = self.backoff(id);
        while let Err(error) = self.decisions.decide(&bet, &outcome).await {
            self.record_and_wait(&error, &mut backoff).await;
        }
        self.health.record_success();
    }

    /// Requests confirmation until the supplier answers or the bet's deadline passes.
    async fn confirm(&self, bet: &Bet) -> BetOutcome {
        let backoff = Backoff::new(self.settings.retry, seed(bet.id));
        let attempt = |left| async move {
            let answer = self.supplier.confirm(bet, left).await;
            if let Err(CallError::Failed(error)) = &answer {
                debug!(bet = bet.id.to_string(); "confirmation failed, retrying: {error}");
            }
            answer.map_err(Retry::from)
        };
        let answer = self.supplier.until(bet.decide_by, backoff, attempt).await;
        answer.map_or(BetOutcome::TimedOut, BetOutcome::from)
    }

    async fn send_to_dead_letters(&self, record: &Record, reason: &str, detail: &str) {
        let topic = &self.settings.topic;
        let letter = dead_letter::letter_of(record, topic, reason, detail, self.clock.now());
        self.log_dead_letter(&letter);
        // Consecutive unknown bets probably belong to another deployment. Dead-letter them slowly,
        // so that an operator may notice.
        let unknown = if reason == UNKNOWN_BET {
            self.unknown.fetch_add(1, Ordering::Relaxed)
        } else {
            0
        };
        if unknown > 0 {
            tokio::time::sleep(UNKNOWN_DELAY.saturating_mul(unknown).min(MAX_UNKNOWN_DELAY)).await;
        }
        let letter = dead_letter::of_record(&letter, topic, record);
        let mut backoff = Backoff::new(RETRY, record.offset);
        while let Err(error) = dead_letter::publish(&*self.dead_letters, vec![letter.clone()]).await
        {
            self.metrics
                .errors
                .with_label_values(&["dead_letter"])
                .inc();
            self.health
                .record_failure(&format_args!("{}: {error}", self.dead_letters.name()));
            tokio::time::sleep(backoff.next_delay()).await;
        }
        self.health.record_success();
        self.metrics.dead_letters.with_label_values(&[reason]).inc();
    }

    fn log_dead_letter(&self, letter: &DeadLetter) {
        let Some(repeated) = DEAD_LETTERS.check(&letter.reason) else {
            return;
        };
        let hint = match letter.reason.as_str() {
            UNKNOWN_BET => {
                "; check that DATABASE_URL matches the bets role and that KAFKA_TOPIC_BET_PLACED is not shared with another deployment"
            }
            _ => "",
        };
        let origin = letter.origin.as_str();
        let reason = letter.reason.as_str();
        let detail = &letter.detail;
        warn!(origin, reason, repeated; "bet_placed record sent to dead letters: {detail}{hint}");
    }

    async fn record_and_wait(&self, error: &StoreError, backoff: &mut Backoff) {
        self.metrics.errors.with_label_values(&["store"]).inc();
        // A lock timeout concerns one wallet only; the bets of other users are still decided.
        if !error.is_lock_timeout() {
            self.health.record_failure(error);
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }

    fn backoff(&self, id: BetId) -> Backoff {
        Backoff::new(RETRY, seed(id))
    }
}

/// Backoff seed of a bet, so that the jitter differs between bets.
fn seed(id: BetId) -> u64 {
    id.0.as_u128() as u64
}
