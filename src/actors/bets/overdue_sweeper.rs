//! Ends what the bus forgot: bets in the database whose time is over and that nobody decided.

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

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// How it sweeps.
#[derive(Clone, Copy, Debug)]
pub struct SweeperSettings {
    /// Behind its time, so long is left to whoever is about to decide a bet.
    pub grace: Duration,
    /// Bets that are looked up at a time.
    pub batch: usize,
}

/// The actor that sweeps. Any number of processes may have one.
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
    /// Sweeps `store`.
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

    /// What keeps it from its work, for a check of readiness.
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
            info!(bets = swept; "bets that nobody decided in time are rejected");
        }
    }

    /// Decides some bets, and gives how many it did. One that cannot be decided does not keep the
    /// others from it.
    async fn step(&self) -> Result<usize, StoreError> {
        let (store, batch) = (self.store.clone(), self.settings.batch);
        let overdue_at = self.clock.before(self.settings.grace);
        let overdue = blocking(move || store.overdue_bets(overdue_at, batch)).await?;
        let (mut swept, mut failure, mut held) = (0, None, HashSet::new());
        for bet in &overdue {
            // Each of its bets would wait for the lock again, and the other users' bets behind
            // them.
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
        // The next look is the timer's where one failed: the same bets would be given again at
        // once.
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

    #[actix_web::test]
    async fn what_nobody_decided_in_time_is_rejected_published_and_cancelled() {
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
            "its grace is not over"
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

    #[actix_web::test]
    async fn a_database_that_is_away_is_tried_again_and_a_bet_that_fails_keeps_no_other_from_its_end()
     {
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
