use super::*;
use crate::actors::testing::money::{FakeMoney, ProbeEdges};
use crate::domain::bets::bet::{BetStatus, SUPPLIER_TIMEOUT};
use crate::domain::bets::bet_events::testing::pending_bet;
use crate::store::money::CancelQueue;

const SECOND: Duration = Duration::from_secs(1);

struct Swept {
    store: Arc<FakeMoney>,
    edges: ProbeEdges,
    metrics: ConfirmationMetrics,
    health: Arc<HealthCell>,
    clock: Clock,
    _sweeper: Addr<OverdueSweeper>,
}

fn start(batch: usize) -> Swept {
    tokio::time::pause();
    let store = Arc::new(FakeMoney::default());
    let metrics = ConfirmationMetrics::new().unwrap();
    let clock = Clock::of_tokio();
    let edges = ProbeEdges::new();
    let decider = edges.decider(&store, &clock, &metrics);
    let settings = SweeperSettings {
        grace: SECOND / 2,
        batch,
    };
    let sweeper = OverdueSweeper::new(
        store.clone(),
        decider,
        settings,
        clock.clone(),
        metrics.clone(),
    );
    let health = sweeper.health();
    Swept {
        store,
        edges,
        metrics,
        health,
        clock,
        _sweeper: sweeper.start(),
    }
}

/// An overdue bet is rejected, its decision is published, and a cancel is opened.
#[actix_web::test]
async fn overdue_bets_are_rejected_and_cancelled() {
    let swept = start(2);
    let now = swept.clock.now();
    let store = swept.store.clone();
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
    assert_eq!(swept.edges.cancel_messages(), 5);
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
    let now = swept.clock.now();
    let store = swept.store.clone();
    let bad = store.place(pending_bet(now, SECOND));
    let good = store.place(pending_bet(now, SECOND));
    store.go_away();
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(
        swept.health.problem().as_deref(),
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
    assert!(swept.health.problem().is_some());
    store.refuse_to_decide(None);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(
        (store.status(bad), swept.health.problem()),
        (BetStatus::Rejected, None)
    );
}
