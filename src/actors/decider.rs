//! Decides bets in the database, and tells those who have to know: the outbox relay, and the canceller.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::debug;

use super::clock::Clock;
use super::messages::{CancelsWait, PublishOutbox};
use super::store_writer::blocking;
use crate::domain::bet::{Bet, Verdict};
use crate::domain::bet_events::bet_confirmed;
use crate::metrics::ConfirmationMetrics;
use crate::store::StoreError;
use crate::store::money::{Decided, MoneyStore, Notice, OutboxRow, OutboxTopic};

/// How bets are decided, as words for metrics.
pub const OUTCOMES: [&str; 3] = ["confirmed", "rejected", "supplier_timeout"];

/// What decides.
pub struct Decider {
    store: Arc<dyn MoneyStore>,
    relay: Recipient<PublishOutbox>,
    canceller: Recipient<CancelsWait>,
    lease: Duration,
    clock: Clock,
    metrics: ConfirmationMetrics,
}

impl Decider {
    /// Decides in `store`. For so long as `lease` the relay of this process is the only one to publish what was decided.
    pub fn new(
        store: Arc<dyn MoneyStore>,
        relay: Recipient<PublishOutbox>,
        canceller: Recipient<CancelsWait>,
        lease: Duration,
        clock: Clock,
        metrics: ConfirmationMetrics,
    ) -> Decider {
        Decider { store, relay, canceller, lease, clock, metrics }
    }

    /// Decides a bet, unless it is decided. Safe to repeat.
    pub async fn decide(&self, bet: &Bet, verdict: &Verdict) -> Result<Decided, StoreError> {
        let now = self.clock.now();
        let payload = bet_confirmed(bet, verdict, now);
        let notice = Notice { payload: payload.clone(), leased_until: self.clock.after(self.lease) };
        let (store, id, verdict_given) = (self.store.clone(), bet.id, verdict.clone());
        let decided = blocking(move || store.decide_bet(id, &verdict_given, &notice, now)).await?;
        match decided {
            Decided::Now { outbox } => {
                self.metrics.decided.with_label_values(&[outcome(verdict)]).inc();
                self.metrics.decision_seconds.observe(now.seconds_since(bet.placed_at).max(0.0));
                debug!(bet = id.to_string(), outcome = outcome(verdict); "a bet is decided");
                let row = OutboxRow { id: outbox, topic: OutboxTopic::BetConfirmed, key: id.to_string(), payload };
                // Where there is no room, the row's lease ends and the relay finds it in the outbox.
                let _ = self.relay.try_send(PublishOutbox(vec![row]));
                if *verdict == Verdict::TimedOut {
                    // Without this word the canceller looks by itself.
                    let _ = self.canceller.try_send(CancelsWait);
                }
            }
            Decided::Before(status) => debug!(bet = id.to_string(); "a bet was {status} already"),
            Decided::Unknown => debug!(bet = id.to_string(); "there is no such bet"),
        }
        Ok(decided)
    }
}

fn outcome(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Confirmed { .. } => "confirmed",
        Verdict::Rejected { .. } => "rejected",
        Verdict::TimedOut => "supplier_timeout",
    }
}
