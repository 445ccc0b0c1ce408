//! Requests cancellation from the supplier of bets that were rejected without its answer, until the
//! supplier confirms.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{debug, warn};

use super::messages::CancelsWait;
use super::supplier_client::{CallError, SupplierClient};
use crate::domain::bets::bet::BetId;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::runtime::clock::Clock;
use crate::runtime::health::HealthCell;
use crate::store::StoreError;
use crate::store::blocking::blocking;
use crate::store::money::{Cancel, MoneyStore};
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
pub struct CancellerSettings {
    /// Maximum number of cancel requests in flight.
    pub at_once: usize,
    /// Backoff between attempts for one bet. It continues where an earlier process left off.
    pub retry: BackoffPolicy,
    /// How long this process leases a cancel; afterwards any process may take it.
    pub hold: Duration,
}

/// The actor that cancels bets. Any number of processes may run one.
pub struct Canceller {
    task: Arc<CancelTask>,
    in_work: HashSet<BetId>,
    is_taking: bool,
    /// Set if another query is requested while one is running or there is no room.
    is_wanted: bool,
}

struct CancelTask {
    store: Arc<dyn MoneyStore>,
    supplier: Arc<SupplierClient>,
    settings: CancellerSettings,
    health: Arc<HealthCell>,
    clock: Clock,
    metrics: ConfirmationMetrics,
}

impl Canceller {
    /// Sends the open cancels of `store` to `supplier`.
    pub fn new(
        store: Arc<dyn MoneyStore>,
        supplier: Arc<SupplierClient>,
        settings: CancellerSettings,
        clock: Clock,
        metrics: ConfirmationMetrics,
    ) -> Canceller {
        let health = Arc::new(HealthCell::new("bets cannot be cancelled"));
        let task = CancelTask {
            store,
            supplier,
            settings,
            health,
            clock,
            metrics,
        };
        Canceller {
            task: Arc::new(task),
            in_work: HashSet::new(),
            is_taking: false,
            is_wanted: false,
        }
    }

    /// The canceller's health, for the readiness check.
    pub fn health(&self) -> Arc<HealthCell> {
        self.task.health.clone()
    }

    fn take(&mut self, context: &mut Context<Self>) {
        let room = self
            .task
            .settings
            .at_once
            .saturating_sub(self.in_work.len());
        if self.is_taking || room == 0 {
            self.is_wanted = true;
            return;
        }
        (self.is_taking, self.is_wanted) = (true, false);
        let (store, clock, hold) = (
            self.task.store.clone(),
            &self.task.clock,
            self.task.settings.hold,
        );
        let (now, until) = (clock.now(), clock.after(hold));
        let taking = blocking(move || store.take_cancels(now, until, room));
        context.spawn(
            taking
                .into_actor(self)
                .map(move |taken, canceller, context| {
                    canceller.is_taking = false;
                    match taken {
                        Ok(cancels) => {
                            canceller.task.health.record_success();
                            canceller.is_wanted |= cancels.len() == room;
                            cancels
                                .into_iter()
                                .for_each(|cancel| canceller.cancel(cancel, until, context));
                        }
                        Err(error) => _ = canceller.task.health.record_failure(&error),
                    }
                    canceller.take_if_wanted(context);
                }),
        );
    }

    fn take_if_wanted(&mut self, context: &mut Context<Self>) {
        if self.is_wanted && self.in_work.len() < self.task.settings.at_once {
            self.take(context);
        }
    }

    fn cancel(&mut self, cancel: Cancel, until: Timestamp, context: &mut Context<Self>) {
        if !self.in_work.insert(cancel.bet_id) {
            return;
        }
        let task = self.task.clone();
        let cancelling = async move { task.cancel(cancel, until).await }.into_actor(self);
        context.spawn(cancelling.map(move |(), canceller, context| {
            canceller.in_work.remove(&cancel.bet_id);
            canceller.take_if_wanted(context);
        }));
    }

    fn report_open(&self, context: &mut Context<Self>) {
        let (store, gauge) = (
            self.task.store.clone(),
            self.task.metrics.cancels_open.clone(),
        );
        let open = blocking(move || store.open_cancels()).into_actor(self);
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

/// Why an attempt failed.
enum Failure {
    CircuitOpen,
    Supplier(CallError),
    Store(StoreError),
}

impl CancelTask {
    /// Retries until the cancel is done or the lease ends.
    async fn cancel(&self, cancel: Cancel, until: Timestamp) {
        let id = cancel.bet_id;
        let mut backoff = Backoff::new(self.settings.retry, id.0.as_u128() as u64);
        for _ in 0..cancel.attempts.min(MAX_COUNTED_ATTEMPTS) {
            backoff.next_delay();
        }
        loop {
            let left = self.clock.until(until);
            if left.is_zero() {
                return;
            }
            match self.try_to_cancel(id, left).await {
                Ok(()) => {
                    debug!(bet = id.to_string(); "supplier cancelled the bet");
                    self.metrics.cancels_done.inc();
                    return;
                }
                Err(Failure::CircuitOpen) => self.supplier.wait_until_closed(left).await,
                Err(failure) => {
                    match failure {
                        Failure::Store(error) => _ = self.health.record_failure(&error),
                        Failure::Supplier(error) => {
                            debug!(bet = id.to_string(); "cancel failed, retrying: {error}")
                        }
                        Failure::CircuitOpen => {}
                    }
                    tokio::time::sleep(backoff.next_delay().min(self.clock.until(until))).await;
                }
            }
        }
    }

    async fn try_to_cancel(&self, id: BetId, timeout: Duration) -> Result<(), Failure> {
        let store = self.store.clone();
        let Some(bet) = blocking(move || store.bet(id))
            .await
            .map_err(Failure::Store)?
        else {
            if let Some(repeated) = NO_BET.check("") {
                warn!(bet = id.to_string(), repeated; "bet to cancel not found");
            }
            return Ok(());
        };
        match self.supplier.cancel(id, &bet.user_id, timeout).await {
            Err(CallError::CircuitOpen) => return Err(Failure::CircuitOpen),
            answer => answer.map_err(Failure::Supplier)?,
        }
        let (store, now) = (self.store.clone(), self.clock.now());
        blocking(move || store.cancelled(id, now))
            .await
            .map_err(Failure::Store)
    }
}

#[cfg(test)]
mod tests;
