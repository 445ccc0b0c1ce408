//! Decides bets in the database and notifies the outbox relay and the canceller.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::debug;

use super::messages::{CancelsWait, PublishOutbox};
use crate::domain::bets::bet::{Bet, BetOutcome};
use crate::domain::bets::bet_events::bet_confirmed;
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::runtime::clock::Clock;
use crate::store::StoreError;
use crate::store::blocking::blocking;
use crate::store::money::{
    DecideBet, Decided, DecisionStore, OutboxMessage, OutboxRow, OutboxTopic,
};
use crate::store::request_batcher::{ConcurrencyLimit, RequestBatcher};
use crate::store::user_turns::UserTurns;
use crate::telemetry::metrics::ConfirmationMetrics;
use crate::telemetry::trace::{self, Span, SpanKind};

/// How decisions are written to the database.
#[derive(Clone, Debug)]
pub(crate) struct DeciderSettings {
    /// Concurrency limit for batched decisions.
    pub turns: ConcurrencyLimit,
    /// Maximum number of decisions in one batch.
    pub max_batch: usize,
    /// Queues for single decisions, used when a bet's wallet is locked.
    pub users: Arc<UserTurns>,
    /// How long only this process's relay may publish the decision.
    pub lease: Duration,
}

/// Decides bets in the database.
pub(crate) struct BetDecisions {
    store: Arc<dyn DecisionStore>,
    batcher: Arc<RequestBatcher<DecideBet, Option<Decided>>>,
    /// Queues for decisions that are not batched.
    users: Arc<UserTurns>,
    relay: Recipient<PublishOutbox>,
    canceller: Recipient<CancelsWait>,
    lease: Duration,
    clock: Clock,
    metrics: ConfirmationMetrics,
}

impl BetDecisions {
    /// Decides in `store`.
    pub(crate) fn new(
        settings: DeciderSettings,
        store: Arc<dyn DecisionStore>,
        relay: Recipient<PublishOutbox>,
        canceller: Recipient<CancelsWait>,
        clock: Clock,
        metrics: ConfirmationMetrics,
    ) -> BetDecisions {
        let DeciderSettings {
            turns,
            max_batch,
            users,
            lease,
        } = settings;
        let decides = store.clone();
        let batcher = RequestBatcher::new(&turns, max_batch, move |decisions: &[DecideBet]| {
            decides.decide_bets(decisions)
        });
        BetDecisions {
            store,
            batcher,
            users,
            relay,
            canceller,
            lease,
            clock,
            metrics,
        }
    }

    /// Decides a bet, unless it is already decided. Safe to repeat.
    pub(crate) async fn decide(
        &self,
        bet: &Bet,
        outcome: &BetOutcome,
    ) -> Result<Decided, StoreError> {
        let now = self.clock.now();
        let payload = bet_confirmed(bet, outcome, now);
        let id = bet.id;
        let mut span = Span::child(trace::current(), SpanKind::Internal, "decide bet");
        span.set("outcome", outcome.label());
        let mut span = span.with_bet(&id);
        let trace = span.context();
        let notice = OutboxMessage {
            payload: payload.clone(),
            leased_until: now.later_by(self.lease),
            trace,
        };
        let decision = DecideBet {
            bet_id: id,
            outcome: outcome.clone(),
            notice,
            at: now,
        };
        let decided = self.write(&bet.user_id, decision).await;
        if decided.is_err() {
            span.fail("not_decided");
        }
        drop(span);
        let decided = decided?;
        match decided {
            Decided::Now { outbox } => {
                let row = OutboxRow {
                    id: outbox,
                    topic: OutboxTopic::Confirmed,
                    key: id.to_string(),
                    payload,
                    trace,
                };
                self.publish(bet, outcome, row, now);
            }
            Decided::Before(status) => {
                debug!(bet = id.to_string(); "bet already decided: {status}")
            }
            Decided::Unknown => debug!(bet = id.to_string(); "bet not found"),
        }
        Ok(decided)
    }

    /// Counts a decision, and hands its record to the relay.
    fn publish(&self, bet: &Bet, outcome: &BetOutcome, row: OutboxRow, now: Timestamp) {
        self.metrics
            .decided
            .with_label_values(&[outcome.label()])
            .inc();
        self.metrics
            .decision_seconds
            .observe(now.seconds_since(bet.placed_at).max(0.0));
        debug!(bet = bet.id.to_string(), outcome = outcome.label(); "bet decided");
        // If the mailbox is full, the lease expires and the relay finds the row in the outbox.
        let _ = self.relay.try_send(PublishOutbox(vec![row]));
        if *outcome == BetOutcome::TimedOut {
            // If this message is lost, the canceller finds the cancel in its next query.
            let _ = self.canceller.try_send(CancelsWait);
        }
    }

    /// Writes the decision in a batch, or alone if its wallet is locked.
    async fn write(&self, user_id: &UserId, decision: DecideBet) -> Result<Decided, StoreError> {
        if let Some(decided) = self.batcher.submit(decision.clone()).await? {
            return Ok(decided);
        }
        // Any number of a user's decisions may queue; they use one connection.
        let place = self.users.queue_unbounded(user_id);
        let _turn = place.turn().await;
        let _call = place.call().await;
        let store = self.store.clone();
        let DecideBet {
            bet_id,
            outcome,
            notice,
            at,
        } = decision;
        blocking(move || store.decide_bet(bet_id, &outcome, &notice, at)).await
    }
}
