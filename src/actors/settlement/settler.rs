//! Settles due markets, several at once. Any number of processes may run one: a market is leased, and
//! a bet is settled under the lock of its wallet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::prelude::*;
use log::warn;
use tokio::sync::watch;

use super::market_settler::{Attempt, MarketSettler};
use super::messages::ResultsStored;
use crate::actors::bets::messages::PublishOutbox;
use crate::runtime::clock::Clock;
use crate::runtime::drain::Drain;
use crate::runtime::health::HealthCell;
use crate::store::StoreError;
use crate::store::blocking::blocking;
use crate::store::money::{SettlementBacklog, SettlementStore};
use crate::telemetry::metrics::SettlementMetrics;

/// How often the settler looks for due markets and late bets.
const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of late bets that are taken at once.
const LATE_BETS: usize = 1_000;

/// Limits of the settler.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SettlerLimits {
    /// Maximum number of markets that are settled concurrently.
    pub at_once: usize,
    /// How long shutdown waits for the bets that are being settled.
    pub drain_limit: Duration,
}

/// The actor that settles due markets.
pub(crate) struct Settler {
    work: Arc<Work>,
    limits: SettlerLimits,
    running: usize,
    /// Whether results arrived while all workers were busy.
    has_more: bool,
    has_applied_rules: bool,
    idle: watch::Sender<bool>,
    health: Arc<HealthCell>,
}

/// What the workers use.
struct Work {
    settler: MarketSettler,
    store: Arc<dyn SettlementStore>,
    relay: Recipient<PublishOutbox>,
    is_stopping: AtomicBool,
    clock: Clock,
    metrics: SettlementMetrics,
}

impl Settler {
    /// Settles the markets of `store` with `settler`, and passes the records of settlements to
    /// `relay`.
    pub(crate) fn new(
        settler: MarketSettler,
        store: Arc<dyn SettlementStore>,
        relay: Recipient<PublishOutbox>,
        limits: SettlerLimits,
        clock: Clock,
        metrics: SettlementMetrics,
    ) -> Settler {
        let work = Work {
            settler,
            store,
            relay,
            is_stopping: AtomicBool::new(false),
            clock,
            metrics,
        };
        Settler {
            work: Arc::new(work),
            limits,
            running: 0,
            has_more: false,
            has_applied_rules: false,
            idle: watch::Sender::new(true),
            health: Arc::new(HealthCell::new("bets cannot be settled")),
        }
    }

    /// The settler's health, for the readiness check.
    pub(crate) fn health(&self) -> Arc<HealthCell> {
        self.health.clone()
    }

    fn tick(&mut self, context: &mut Context<Self>) {
        let work = self.work.clone();
        let applies_rules = !self.has_applied_rules;
        let preparing = blocking(move || work.prepare(applies_rules));
        context.spawn(preparing.into_actor(self).map(|done, settler, context| {
            settler.record(&done);
            if let Ok(backlog) = done {
                settler.has_applied_rules = true;
                settler.report(&backlog);
                settler.start_workers(context);
            }
        }));
    }

    fn report(&self, backlog: &SettlementBacklog) {
        let metrics = &self.work.metrics;
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let now = self.work.clock.now();
        let oldest = backlog
            .due_since
            .map_or(0.0, |since| now.seconds_since(since));
        metrics.due_markets.set(gauge(backlog.due_markets));
        metrics.oldest_unpaid.set(oldest.max(0.0));
        metrics.held_markets.set(gauge(backlog.held_markets));
        metrics.held_bets.set(gauge(backlog.held_bets));
        metrics.conflicts.set(gauge(backlog.conflicts));
        metrics.missing_bets.set(gauge(backlog.missing_bets));
        metrics.owed_cents.set(gauge(backlog.owed_cents));
    }

    /// Starts workers up to the limit. A worker that finds nothing ends at once.
    fn start_workers(&mut self, context: &mut Context<Self>) {
        self.has_more = false;
        while self.running < self.limits.at_once && !self.work.is_stopping() {
            self.start_worker(context);
        }
    }

    fn start_worker(&mut self, context: &mut Context<Self>) {
        self.running += 1;
        self.idle.send_replace(false);
        let work = self.work.clone();
        let working = blocking(move || work.settle_next());
        context.spawn(working.into_actor(self).map(|done, settler, context| {
            settler.record(&done);
            settler.running -= 1;
            let found_market = matches!(done, Ok(true));
            let goes_on = found_market || (done.is_ok() && settler.has_more);
            if goes_on && !settler.work.is_stopping() {
                settler.has_more &= found_market;
                settler.start_worker(context);
            }
            settler.idle.send_replace(settler.running == 0);
        }));
    }

    fn record<T>(&self, done: &Result<T, StoreError>) {
        if done.is_err() {
            self.work
                .metrics
                .errors
                .with_label_values(&["settle"])
                .inc();
        }
        self.health.record(done);
    }
}

impl Work {
    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    fn prepare(&self, applies_rules: bool) -> Result<SettlementBacklog, StoreError> {
        if applies_rules {
            self.settler.apply_rules()?;
        }
        while self.store.reopen_markets(self.clock.now(), LATE_BETS)? == LATE_BETS {}
        self.store.settlement_backlog()
    }

    /// Settles the market that has been waiting longest; false if none is due.
    fn settle_next(&self) -> Result<bool, StoreError> {
        let Some(lease) = self.settler.lease()? else {
            return Ok(false);
        };
        let publish = |rows| {
            // If the mailbox is full, the lease expires and the relay finds the rows in the outbox.
            let _ = self.relay.try_send(PublishOutbox(rows));
        };
        let attempt = self
            .settler
            .settle(&lease, &publish, &|| self.is_stopping())?;
        if attempt == Attempt::Finished {
            self.metrics
                .market_seconds
                .observe(self.clock.now().seconds_since(lease.due_since).max(0.0));
        }
        Ok(true)
    }
}

impl Actor for Settler {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.tick(context);
        context.run_interval(INTERVAL, |settler, context| settler.tick(context));
    }
}

impl Handler<ResultsStored> for Settler {
    type Result = ();

    fn handle(&mut self, _: ResultsStored, context: &mut Context<Self>) {
        if self.running == self.limits.at_once {
            self.has_more = true;
        } else {
            self.start_workers(context);
        }
    }
}

impl Handler<Drain> for Settler {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        self.work.is_stopping.store(true, Ordering::Relaxed);
        let mut idle = self.idle.subscribe();
        let limit = self.limits.drain_limit;
        Box::pin(async move {
            let ended = tokio::time::timeout(limit, idle.wait_for(|idle| *idle)).await;
            if ended.is_err() {
                warn!("shutting down while bets are being settled: the others stay due");
            }
        })
    }
}

#[cfg(test)]
mod tests;
