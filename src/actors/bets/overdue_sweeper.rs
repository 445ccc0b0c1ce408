//! Rejects overdue bets: bets that are still undecided in the database after their deadline, for
//! example because their record was lost on the bus.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::info;

use super::decision::BetDecisions;
use crate::domain::bets::bet::BetOutcome;
use crate::runtime::blocking::blocking;
use crate::runtime::clock::Clock;
use crate::runtime::health::HealthCell;
use crate::store::StoreError;
use crate::store::money::{Decided, MoneyStore};
use crate::telemetry::metrics::ConfirmationMetrics;

/// How often the sweeper queries for overdue bets.
const INTERVAL: Duration = Duration::from_secs(1);

/// Grace period and batch size of the sweeper.
#[derive(Clone, Copy, Debug)]
pub struct SweeperSettings {
    /// Grace period after a bet's deadline before the sweeper rejects it.
    pub grace: Duration,
    /// Maximum number of bets per query.
    pub batch: usize,
}

/// The actor that rejects overdue bets. Any number of processes may run one.
pub struct BetSweeper {
    sweep: Arc<Sweep>,
    is_sweeping: bool,
}

struct Sweep {
    store: Arc<dyn MoneyStore>,
    decider: BetDecisions,
    settings: SweeperSettings,
    trouble: Arc<HealthCell>,
    clock: Clock,
    metrics: ConfirmationMetrics,
}

impl BetSweeper {
    /// Sweeps the bets of `store`.
    pub fn new(
        store: Arc<dyn MoneyStore>,
        decider: BetDecisions,
        settings: SweeperSettings,
        clock: Clock,
        metrics: ConfirmationMetrics,
    ) -> BetSweeper {
        let trouble = Arc::new(HealthCell::new("overdue bets cannot be decided"));
        let sweep = Sweep {
            store,
            decider,
            settings,
            trouble,
            clock,
            metrics,
        };
        BetSweeper {
            sweep: Arc::new(sweep),
            is_sweeping: false,
        }
    }

    /// The sweeper's health, for the readiness check.
    pub fn trouble(&self) -> Arc<HealthCell> {
        self.sweep.trouble.clone()
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

impl Actor for BetSweeper {
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
        match result {
            Ok(()) => self.trouble.over(),
            Err(error) => self.trouble.met(&error),
        }
        if swept > 0 {
            info!(bets = swept; "overdue bets rejected");
        }
    }

    /// Decides one batch of bets and returns how many it decided. A bet that fails does not stop
    /// the others.
    async fn step(&self) -> Result<usize, StoreError> {
        let (store, batch) = (self.store.clone(), self.settings.batch);
        let overdue_at = self.clock.before(self.settings.grace);
        let overdue = blocking(move || store.overdue_bets(overdue_at, batch)).await?;
        let (mut swept, mut failure, mut held) = (0, None, HashSet::new());
        for bet in &overdue {
            // Each further bet of this user would wait for the same lock and delay the bets of
            // other users.
            if held.contains(&bet.user_id) {
                continue;
            }
            match self.decider.decide(bet, &BetOutcome::TimedOut).await {
                Ok(Decided::Now { .. }) => swept += 1,
                Ok(Decided::Before(_) | Decided::Unknown) => {}
                Err(error) if error.is_lock_timeout() => drop(held.insert(&bet.user_id)),
                Err(error) => failure = Some(error),
            }
        }
        self.metrics.overdue.inc_by(swept as u64);
        // Leave the rest to the timer if a bet failed: the next query would return the same bets.
        let is_more_there = overdue.len() == batch && held.is_empty();
        failure.map_or(Ok(if is_more_there { swept } else { 0 }), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::testing::money::{FakeMoney, ProbeEdges};
    use crate::domain::bets::bet::{BetStatus, SUPPLIER_TIMEOUT};
    use crate::domain::bets::bet_events::testing::pending_bet;

    const SECOND: Duration = Duration::from_secs(1);

    struct Swept {
        store: Arc<FakeMoney>,
        edges: ProbeEdges,
        metrics: ConfirmationMetrics,
        trouble: Arc<HealthCell>,
        clock: Clock,
        _sweeper: Addr<BetSweeper>,
    }

    fn start(batch: usize) -> Swept {
        tokio::time::pause();
        let (store, metrics, clock) = (
            Arc::new(FakeMoney::default()),
            ConfirmationMetrics::new().unwrap(),
            Clock::of_tokio(),
        );
        let edges = ProbeEdges::new();
        let decider = edges.decider(&store, &clock, &metrics);
        let settings = SweeperSettings {
            grace: SECOND / 2,
            batch,
        };
        let sweeper = BetSweeper::new(
            store.clone(),
            decider,
            settings,
            clock.clone(),
            metrics.clone(),
        );
        let trouble = sweeper.trouble();
        Swept {
            store,
            edges,
            metrics,
            trouble,
            clock,
            _sweeper: sweeper.start(),
        }
    }

    /// An overdue bet is rejected, its decision is published, and a cancel is opened.
    #[actix_web::test]
    async fn overdue_bets_are_rejected_and_cancelled() {
        let swept = start(2);
        let (now, store) = (swept.clock.now(), swept.store.clone());
        let overdue: Vec<_> = (0..5)
            .map(|_| store.place(pending_bet(now, 2 * SECOND)))
            .collect();
        let in_time = store.place(pending_bet(now, 60 * SECOND));
        tokio::time::sleep(2 * SECOND).await;
        assert!(
            overdue
                .iter()
                .all(|id| store.status(*id) == BetStatus::Pending),
            "the grace period is not over"
        );
        tokio::time::sleep(2 * SECOND).await;
        for id in &overdue {
            assert_eq!(store.get(*id).reason.as_deref(), Some(SUPPLIER_TIMEOUT));
        }
        assert_eq!(store.status(in_time), BetStatus::Pending);
        assert_eq!(
            (swept.metrics.overdue.get(), store.open_cancels().unwrap()),
            (5, 5)
        );
        assert_eq!(swept.edges.rows().len(), 5);
        assert_eq!(swept.edges.cancels_told(), 5);
        assert_eq!(
            swept
                .metrics
                .decided
                .with_label_values(&["supplier_timeout"])
                .get(),
            5
        );
    }

    /// A sweep is retried after a database outage, and a bet that fails does not block the others.
    #[actix_web::test]
    async fn outage_and_failing_bet_are_retried() {
        let swept = start(10);
        let (now, store) = (swept.clock.now(), swept.store.clone());
        let bad = store.place(pending_bet(now, SECOND));
        let good = store.place(pending_bet(now, SECOND));
        store.go_away();
        tokio::time::sleep(3 * SECOND).await;
        assert_eq!(
            swept.trouble.problem().as_deref(),
            Some("overdue bets cannot be decided")
        );
        assert_eq!(store.status(good), BetStatus::Pending);
        store.refuse_to_decide(Some(bad));
        store.come_back();
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(
            (store.status(good), store.status(bad)),
            (BetStatus::Rejected, BetStatus::Pending)
        );
        assert!(swept.trouble.problem().is_some());
        store.refuse_to_decide(None);
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(
            (store.status(bad), swept.trouble.problem()),
            (BetStatus::Rejected, None)
        );
    }
}
