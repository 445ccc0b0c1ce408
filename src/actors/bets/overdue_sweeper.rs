//! Rejects overdue bets: bets that are still undecided in the database after their deadline, for
//! example because their record was lost on the bus.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::info;

use super::decision::BetDecisions;
use crate::domain::bets::bet::BetOutcome;
use crate::runtime::clock::Clock;
use crate::runtime::health::HealthCell;
use crate::store::StoreError;
use crate::store::blocking::blocking;
use crate::store::money::{Decided, DecisionStore};
use crate::telemetry::metrics::ConfirmationMetrics;

/// How often the sweeper queries for overdue bets.
const INTERVAL: Duration = Duration::from_secs(1);

/// Grace period and batch size of the sweeper.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SweeperSettings {
    /// Grace period after a bet's deadline before the sweeper rejects it.
    pub grace: Duration,
    /// Maximum number of bets per query.
    pub batch: usize,
}

/// The actor that rejects overdue bets. Any number of processes may run one.
pub(crate) struct OverdueSweeper {
    sweep: Arc<Sweep>,
    is_sweeping: bool,
}

struct Sweep {
    store: Arc<dyn DecisionStore>,
    decisions: BetDecisions,
    settings: SweeperSettings,
    health: Arc<HealthCell>,
    clock: Clock,
    metrics: ConfirmationMetrics,
}

impl OverdueSweeper {
    /// Sweeps the bets of `store`.
    pub(crate) fn new(
        store: Arc<dyn DecisionStore>,
        decisions: BetDecisions,
        settings: SweeperSettings,
        clock: Clock,
        metrics: ConfirmationMetrics,
    ) -> OverdueSweeper {
        let health = Arc::new(HealthCell::new("overdue bets cannot be decided"));
        let sweep = Sweep {
            store,
            decisions,
            settings,
            health,
            clock,
            metrics,
        };
        OverdueSweeper {
            sweep: Arc::new(sweep),
            is_sweeping: false,
        }
    }

    /// Whether overdue bets can be decided.
    #[cfg(test)]
    fn health(&self) -> Arc<HealthCell> {
        self.sweep.health.clone()
    }

    fn sweep(&mut self, context: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_sweeping, true) {
            return;
        }
        let sweep = self.sweep.clone();
        let sweeping = async move { sweep.run().await }.into_actor(self);
        context.spawn(sweeping.map(|(), sweeper, _| sweeper.is_sweeping = false));
    }
}

impl Actor for OverdueSweeper {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.sweep(context);
        context.run_interval(INTERVAL, |sweeper, context| sweeper.sweep(context));
    }
}

impl Sweep {
    async fn run(&self) {
        let mut swept = 0;
        let result = loop {
            match self.step().await {
                Ok(0) => break Ok(()),
                Ok(decided) => swept += decided,
                Err(error) => break Err(error),
            }
        };
        self.health.record(&result);
        if swept > 0 {
            info!(bets = swept; "overdue bets rejected");
        }
    }

    /// Decides one batch of bets and returns how many it decided. A bet that fails does not stop
    /// the others.
    async fn step(&self) -> Result<usize, StoreError> {
        let store = self.store.clone();
        let batch = self.settings.batch;
        let overdue_at = self.clock.now().earlier_by(self.settings.grace);
        let overdue = blocking(move || store.overdue_bets(overdue_at, batch)).await?;
        let mut swept = 0;
        let mut failure = None;
        let mut locked = HashSet::new();
        for bet in &overdue {
            // Each further bet of this user would wait for the same lock and delay the bets of
            // other users.
            if locked.contains(&bet.user_id) {
                continue;
            }
            match self.decisions.decide(bet, &BetOutcome::TimedOut).await {
                Ok(Decided::Now { .. }) => swept += 1,
                Ok(Decided::Before(_) | Decided::Unknown) => {}
                Err(error) if error.is_lock_timeout() => drop(locked.insert(&bet.user_id)),
                Err(error) => failure = Some(error),
            }
        }
        self.metrics.overdue.inc_by(swept as u64);
        // Leave the rest to the timer if a bet failed: the next query would return the same bets.
        let is_more_there = overdue.len() == batch && locked.is_empty();
        failure.map_or(Ok(if is_more_there { swept } else { 0 }), Err)
    }
}

#[cfg(test)]
mod tests;
