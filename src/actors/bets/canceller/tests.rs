use super::*;
use crate::actors::bets::supplier_client::GuardSettings;
use crate::actors::testing::money::FakeMoney;
use crate::actors::testing::supplier::{Behaviour, ProbeSupplier};
use crate::domain::bets::bet_events::testing::pending_bet;
use crate::runtime::circuit_breaker::BreakerPolicy;
use crate::supplier::confirm::SupplierError;

const SECOND: Duration = Duration::from_secs(1);

struct Cancelling {
    store: Arc<FakeMoney>,
    supplier: Arc<ProbeSupplier>,
    metrics: ConfirmationMetrics,
    health: Arc<HealthCell>,
    clock: Clock,
    canceller: Addr<Canceller>,
}

fn start(failures_to_open: u32) -> Cancelling {
    tokio::time::pause();
    let store = Arc::new(FakeMoney::default());
    let clock = Clock::of_tokio();
    let supplier = Arc::new(ProbeSupplier::new(|_, _| Behaviour::Silent));
    let metrics = ConfirmationMetrics::new().unwrap();
    let breaker = BreakerPolicy {
        failures: failures_to_open,
        pause: 5 * SECOND,
    };
    let guard = GuardSettings {
        timeout: SECOND,
        breaker,
    };
    let guarded = Arc::new(SupplierClient::new(
        supplier.clone(),
        guard,
        clock.clone(),
        metrics.clone(),
    ));
    let retry = BackoffPolicy {
        first: SECOND,
        most: 16 * SECOND,
    };
    let settings = CancellerSettings {
        at_once: 3,
        retry,
        lease: 40 * SECOND,
    };
    let canceller = Canceller::new(
        store.clone(),
        store.clone(),
        guarded,
        settings,
        clock.clone(),
        metrics.clone(),
    );
    let health = canceller.health();
    Cancelling {
        store,
        supplier,
        metrics,
        health,
        clock,
        canceller: canceller.start(),
    }
}

impl Cancelling {
    fn open(&self, count: usize) {
        for _ in 0..count {
            let id = self.store.place(pending_bet(self.clock.now(), SECOND));
            self.store.open_cancel(id, self.clock.now());
        }
    }
}

/// All bets are cancelled, at most `at_once` concurrently, and immediately after a
/// notification.
#[actix_web::test]
async fn bets_are_cancelled_concurrently_on_notification() {
    let cancelling = start(100);
    cancelling.supplier.cancel_with(|_| Ok(()), SECOND / 10);
    tokio::time::sleep(SECOND / 100).await;
    cancelling.open(10);
    cancelling.canceller.send(CancelsWait).await.unwrap();
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(
        (
            cancelling.store.open_cancels().unwrap(),
            cancelling.supplier.cancels()
        ),
        (0, 10)
    );
    assert_eq!(cancelling.supplier.most_at_once(), 3);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(
        (
            cancelling.metrics.cancels_done.get(),
            cancelling.metrics.cancels_open.get()
        ),
        (10, 0)
    );
}

/// A cancel is retried with growing delays until the supplier confirms it.
#[actix_web::test]
async fn cancel_is_retried_with_backoff() {
    let cancelling = start(100);
    cancelling.supplier.cancel_with(
        |attempt| match attempt {
            0 => Err(SupplierError::Status(500)),
            1 => Err(SupplierError::UnknownVariant("PENDING".to_owned())),
            2 => Err(SupplierError::Timeout),
            _ if attempt < 8 => Err(SupplierError::Unreachable("gone".to_owned())),
            _ => Ok(()),
        },
        Duration::ZERO,
    );
    cancelling.open(1);
    let mut waited = 0;
    while cancelling.store.open_cancels().unwrap() > 0 {
        tokio::time::sleep(SECOND).await;
        waited += 1;
        assert!(waited < 400, "the bet is never cancelled");
    }
    let times = cancelling.supplier.cancel_times();
    assert_eq!(times.len(), 9);
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[1] > gaps[0] && gaps[2] > gaps[1], "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 41 * SECOND), "{gaps:?}");
    assert_eq!(
        cancelling
            .metrics
            .cancel_calls
            .with_label_values(&["unknown_word"])
            .get(),
        1
    );
    assert_eq!(cancelling.metrics.cancels_done.get(), 1);
}

/// A database outage is reported, and the cancel is sent again after it.
#[actix_web::test]
async fn database_outage_is_reported_and_retried() {
    let cancelling = start(100);
    cancelling.supplier.cancel_with(|_| Ok(()), SECOND / 2);
    cancelling.open(1);
    cancelling.canceller.send(CancelsWait).await.unwrap();
    while cancelling.supplier.cancels() == 0 {
        tokio::time::sleep(SECOND / 20).await;
    }
    cancelling.store.go_away();
    tokio::time::sleep(5 * SECOND).await;
    assert!(cancelling.health.problem().is_some());
    cancelling.store.come_back();
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(
        (
            cancelling.store.open_cancels().unwrap(),
            cancelling.health.problem()
        ),
        (0, None)
    );
    assert!(
        cancelling.supplier.cancels() >= 2,
        "a repeated cancel is harmless"
    );
}

/// No cancel is sent while the circuit is open.
#[actix_web::test]
async fn open_circuit_pauses_cancels() {
    let cancelling = start(2);
    cancelling.supplier.cancel_with(
        |attempt| {
            if attempt < 4 {
                Err(SupplierError::Timeout)
            } else {
                Ok(())
            }
        },
        SECOND / 10,
    );
    cancelling.open(3);
    tokio::time::sleep(4 * SECOND).await;
    let before = cancelling.supplier.cancels();
    assert_eq!(before, 3, "only those in flight when the circuit opened");
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(cancelling.store.open_cancels().unwrap(), 0);
}
