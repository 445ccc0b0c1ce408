//! Decides bets in the database, and tells those who have to know: the outbox relay, and the
//! canceller.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::debug;

use crate::actors::bets::messages::{CancelsWait, PublishOutbox};
use crate::domain::bets::bet::{Bet, BetOutcome};
use crate::domain::bets::bet_events::bet_confirmed;
use crate::domain::ids::UserId;
use crate::runtime::blocking::blocking;
use crate::runtime::clock::Clock;
use crate::runtime::request_batcher::{ConcurrencyLimit, RequestBatcher};
use crate::store::StoreError;
use crate::store::money::{DecideBet, Decided, MoneyStore, OutboxMessage, OutboxRow, OutboxTopic};
use crate::store::user_turns::UserTurns;
use crate::telemetry::metrics::ConfirmationMetrics;

/// How bets are decided, as words for metrics.
pub const OUTCOMES: [&str; 3] = ["confirmed", "rejected", "supplier_timeout"];

/// How the database is asked to decide.
#[derive(Clone, Debug)]
pub struct DeciderSettings {
    /// Decisions that are made together take these turns.
    pub turns: ConcurrencyLimit,
    /// So many are made together.
    pub together: usize,
    /// The turns of those that go by themselves, because their wallet is in use.
    pub users: Arc<UserTurns>,
    /// For so long the relay of this process is the only one to publish what was decided.
    pub lease: Duration,
}

/// What decides.
pub struct BetDecisions {
    store: Arc<dyn MoneyStore>,
    together: Arc<RequestBatcher<DecideBet, Option<Decided>>>,
    /// For those that go by themselves.
    users: Arc<UserTurns>,
    relay: Recipient<PublishOutbox>,
    canceller: Recipient<CancelsWait>,
    lease: Duration,
    clock: Clock,
    metrics: ConfirmationMetrics,
}

impl BetDecisions {
    /// Decides in `store`.
    pub fn new(
        settings: DeciderSettings,
        store: Arc<dyn MoneyStore>,
        relay: Recipient<PublishOutbox>,
        canceller: Recipient<CancelsWait>,
        clock: Clock,
        metrics: ConfirmationMetrics,
    ) -> BetDecisions {
        let DeciderSettings {
            turns,
            together,
            users,
            lease,
        } = settings;
        let decides = store.clone();
        let together = RequestBatcher::new(&turns, together, move |decisions: &[DecideBet]| {
            decides.decide_bets(decisions)
        });
        BetDecisions {
            store,
            together,
            users,
            relay,
            canceller,
            lease,
            clock,
            metrics,
        }
    }

    /// Decides a bet, unless it is decided. Safe to repeat.
    pub async fn decide(&self, bet: &Bet, verdict: &BetOutcome) -> Result<Decided, StoreError> {
        let now = self.clock.now();
        let payload = bet_confirmed(bet, verdict, now);
        let notice = OutboxMessage {
            payload: payload.clone(),
            leased_until: self.clock.after(self.lease),
        };
        let id = bet.id;
        let decided = self
            .write(
                &bet.user_id,
                DecideBet {
                    bet_id: id,
                    verdict: verdict.clone(),
                    notice,
                    at: now,
                },
            )
            .await?;
        match decided {
            Decided::Now { outbox } => {
                self.metrics
                    .decided
                    .with_label_values(&[outcome(verdict)])
                    .inc();
                self.metrics
                    .decision_seconds
                    .observe(now.seconds_since(bet.placed_at).max(0.0));
                debug!(bet = id.to_string(), outcome = outcome(verdict); "a bet is decided");
                let row = OutboxRow {
                    id: outbox,
                    topic: OutboxTopic::BetConfirmed,
                    key: id.to_string(),
                    payload,
                };
                // Where there is no room, the row's lease ends and the relay finds it in the
                // outbox.
                let _ = self.relay.try_send(PublishOutbox(vec![row]));
                if *verdict == BetOutcome::TimedOut {
                    // Without this word the canceller looks by itself.
                    let _ = self.canceller.try_send(CancelsWait);
                }
            }
            Decided::Before(status) => debug!(bet = id.to_string(); "a bet was {status} already"),
            Decided::Unknown => debug!(bet = id.to_string(); "there is no such bet"),
        }
        Ok(decided)
    }

    /// Together with others, or by itself where its wallet is in use.
    async fn write(&self, user_id: &UserId, decision: DecideBet) -> Result<Decided, StoreError> {
        if let Some(decided) = self.together.submit(decision.clone()).await? {
            return Ok(decided);
        }
        // Any number of a user's decisions may wait; they use one connection.
        let place = self.users.queue_unbounded(user_id);
        let _turn = place.turn().await;
        let _call = place.call().await;
        let (
            store,
            DecideBet {
                bet_id,
                verdict,
                notice,
                at,
            },
        ) = (self.store.clone(), decision);
        blocking(move || store.decide_bet(bet_id, &verdict, &notice, at)).await
    }
}

fn outcome(verdict: &BetOutcome) -> &'static str {
    match verdict {
        BetOutcome::Confirmed { .. } => "confirmed",
        BetOutcome::Rejected { .. } => "rejected",
        BetOutcome::TimedOut => "supplier_timeout",
    }
}
