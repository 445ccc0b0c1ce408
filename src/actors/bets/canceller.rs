//! Requests cancellation from the supplier of bets that were rejected without its answer, until the
//! supplier confirms.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{debug, warn};

use super::messages::CancelsWait;
use super::supplier_client::{CallError, Retry, SupplierClient};
use crate::domain::bets::bet::BetId;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::runtime::clock::Clock;
use crate::runtime::health::HealthCell;
use crate::store::StoreError;
use crate::store::blocking::blocking;
use crate::store::money::{BetReader, Cancel, CancelQueue};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::ConfirmationMetrics;

/// How often the canceller queries the database for open cancels.
const INTERVAL: Duration = Duration::from_secs(1);
/// Limits the log of cancels without a bet.
static NO_BET: LogLimit = LogLimit::every(Duration::from_secs(60));
/// Earlier attempts that count towards the backoff; the delay has reached its maximum well before.
const MAX_COUNTED_ATTEMPTS: u32 = 32;

/// Concurrency, backoff and lease of the canceller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CancellerSettings {
    /// Maximum number of cancel requests in flight.
    pub at_once: usize,
    /// Backoff between attempts for one bet. It continues where an earlier process left off.
    pub retry: BackoffPolicy,
    /// How long this process leases a cancel; afterwards any process may take it.
    pub lease: Duration,
}

/// The actor that cancels bets. Any number of processes may run one.
pub(crate) struct Canceller {
    task: Arc<CancelTask>,
    in_flight: HashSet<BetId>,
    is_taking: bool,
    /// Set if another query is requested while one is running or there is no room.
    is_due: bool,
}

struct CancelTask {
    queue: Arc<dyn CancelQueue>,
    bets: Arc<dyn BetReader>,
    supplier: Arc<SupplierClient>,
    settings: CancellerSettings,
    health: Arc<HealthCell>,
    clock: Clock,
    metrics: ConfirmationMetrics,
}

impl Canceller {
    /// Sends the open cancels of `queue` to `supplier`.
    pub(crate) fn new(
        queue: Arc<dyn CancelQueue>,
        bets: Arc<dyn BetReader>,
        supplier: Arc<SupplierClient>,
        settings: CancellerSettings,
        clock: Clock,
        metrics: ConfirmationMetrics,
    ) -> Canceller {
        let health = Arc::new(HealthCell::new("bets cannot be cancelled"));
        let task = CancelTask {
            queue,
            bets,
            supplier,
            settings,
            health,
            clock,
            metrics,
        };
        Canceller {
            task: Arc::new(task),
            in_flight: HashSet::new(),
            is_taking: false,
            is_due: false,
        }
    }

    /// Whether bets can be cancelled.
    #[cfg(test)]
    fn health(&self) -> Arc<HealthCell> {
        self.task.health.clone()
    }

    fn take(&mut self, context: &mut Context<Self>) {
        let room = self
            .task
            .settings
            .at_once
            .saturating_sub(self.in_flight.len());
        if self.is_taking || room == 0 {
            self.is_due = true;
            return;
        }
        self.is_taking = true;
        self.is_due = false;
        let queue = self.task.queue.clone();
        let now = self.task.clock.now();
        let until = now.later_by(self.task.settings.lease);
        let taking = blocking(move || queue.take_cancels(now, until, room));
        context.spawn(
            taking
                .into_actor(self)
                .map(move |taken, canceller, context| {
                    canceller.is_taking = false;
                    match taken {
                        Ok(cancels) => {
                            canceller.task.health.record_success();
                            canceller.is_due |= cancels.len() == room;
                            cancels
                                .into_iter()
                                .for_each(|cancel| canceller.cancel(cancel, until, context));
                        }
                        Err(error) => _ = canceller.task.health.record_failure(&error),
                    }
                    canceller.take_if_due(context);
                }),
        );
    }

    fn take_if_due(&mut self, context: &mut Context<Self>) {
        if self.is_due && self.in_flight.len() < self.task.settings.at_once {
            self.take(context);
        }
    }

    fn cancel(&mut self, cancel: Cancel, until: Timestamp, context: &mut Context<Self>) {
        if !self.in_flight.insert(cancel.bet_id) {
            return;
        }
        let task = self.task.clone();
        let cancelling = async move { task.cancel(cancel, until).await }.into_actor(self);
        context.spawn(cancelling.map(move |(), canceller, context| {
            canceller.in_flight.remove(&cancel.bet_id);
            canceller.take_if_due(context);
        }));
    }

    fn report_open(&self, context: &mut Context<Self>) {
        let queue = self.task.queue.clone();
        let gauge = self.task.metrics.cancels_open.clone();
        let open = blocking(move || queue.open_cancels()).into_actor(self);
        context.spawn(open.map(move |open, _, _| {
            // `take` reports failures of the store.
            if let Ok(open) = open {
                gauge.set(open as i64);
            }
        }));
    }
}

impl Actor for Canceller {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.take(context);
        context.run_interval(INTERVAL, |canceller, context| {
            canceller.take(context);
            canceller.report_open(context);
        });
    }
}

impl Handler<CancelsWait> for Canceller {
    type Result = ();

    fn handle(&mut self, _: CancelsWait, context: &mut Context<Self>) {
        self.take(context);
    }
}

impl CancelTask {
    /// Retries until the cancel is done or the lease ends.
    async fn cancel(&self, cancel: Cancel, until: Timestamp) {
        let id = cancel.bet_id;
        let mut backoff = Backoff::new(self.settings.retry, id.0.as_u128() as u64);
        for _ in 0..cancel.attempts.min(MAX_COUNTED_ATTEMPTS) {
            backoff.next_delay();
        }
        let attempt = |left| self.try_to_cancel(id, left);
        let done = self.supplier.until(until, backoff, attempt).await;
        if done.is_some() {
            debug!(bet = id.to_string(); "supplier cancelled the bet");
            self.metrics.cancels_done.inc();
        }
    }

    async fn try_to_cancel(&self, id: BetId, timeout: Duration) -> Result<(), Retry> {
        let bets = self.bets.clone();
        let Some(bet) = self.store_call(move || bets.bet(id)).await? else {
            if let Some(repeated) = NO_BET.check("") {
                warn!(bet = id.to_string(), repeated; "bet to cancel not found");
            }
            return Ok(());
        };
        let cancelled = self.supplier.cancel(id, &bet.user_id, timeout).await;
        if let Err(CallError::Failed(error)) = &cancelled {
            debug!(bet = id.to_string(); "cancel failed, retrying: {error}");
        }
        cancelled?;
        let queue = self.queue.clone();
        let now = self.clock.now();
        self.store_call(move || queue.cancelled(id, now)).await
    }

    /// Runs a call of the store, and records its failure.
    async fn store_call<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Retry> {
        blocking(call).await.map_err(|error| {
            self.health.record_failure(&error);
            Retry::AfterBackoff
        })
    }
}

#[cfg(test)]
mod tests;
