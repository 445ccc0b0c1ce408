use super::*;
use crate::actors::testing::supplier::{Behaviour, ProbeSupplier, confirmed};
use crate::domain::bets::bet_events::testing::pending_bet;
use crate::runtime::backoff::BackoffPolicy;

const SECOND: Duration = Duration::from_secs(1);

fn guarded(supplier: &Arc<ProbeSupplier>) -> (SupplierClient, ConfirmationMetrics) {
    let metrics = ConfirmationMetrics::new().unwrap();
    let breaker = BreakerPolicy {
        failures: 3,
        pause: 2 * SECOND,
    };
    let settings = GuardSettings {
        timeout: SECOND,
        breaker,
    };
    (
        SupplierClient::new(
            supplier.clone(),
            settings,
            Clock::of_tokio(),
            metrics.clone(),
        ),
        metrics,
    )
}

fn state(metrics: &ConfirmationMetrics) -> &'static str {
    let is_at =
        |state: &&BreakerState| metrics.breaker.with_label_values(&[state.as_str()]).get() == 1;
    let at: Vec<_> = BreakerState::VARIANTS.iter().filter(is_at).collect();
    assert_eq!(at.len(), 1);
    at[0].as_str()
}

/// No call is made while the circuit is open, and the first success closes it.
#[tokio::test(start_paused = true)]
async fn open_circuit_blocks_calls_until_success() {
    let supplier = Arc::new(ProbeSupplier::new(|_, _| {
        Behaviour::Fail(SupplierError::Status(500))
    }));
    let (guarded, metrics) = guarded(&supplier);
    let bet = pending_bet(Clock::of_tokio().now(), 60 * SECOND);
    assert_eq!((state(&metrics), guarded.problem()), ("closed", None));
    for _ in 0..3 {
        assert_eq!(
            guarded.confirm(&bet, 9 * SECOND).await,
            Err(SupplierError::Status(500).into())
        );
    }
    assert_eq!(state(&metrics), "open");
    assert_eq!(
        guarded.problem().unwrap(),
        "circuit breaker open: the supplier answered with status 500"
    );
    assert_eq!(
        guarded.confirm(&bet, 9 * SECOND).await,
        Err(CallError::CircuitOpen)
    );
    assert_eq!(
        guarded.cancel(bet.id, &bet.user_id, SECOND).await,
        Err(CallError::CircuitOpen)
    );
    assert_eq!((supplier.confirm_requests(), supplier.cancels()), (3, 0));

    tokio::time::advance(2 * SECOND).await;
    supplier.behave(|_, _| {
        Behaviour::After(
            SECOND / 2,
            Answer::Confirmed {
                provider_ref: String::new(),
            },
        )
    });
    let (tried, others) = tokio::join!(guarded.confirm(&bet, 9 * SECOND), async {
        tokio::time::sleep(SECOND / 4).await;
        assert_eq!(state(&metrics), "half_open");
        assert!(guarded.problem().is_some());
        let other = guarded.confirm(&bet, 9 * SECOND).await;
        let waited = Instant::now();
        while guarded.problem().is_some() {
            guarded.wait_until_closed(9 * SECOND).await;
        }
        assert!(waited.elapsed() <= SECOND / 2, "{:?}", waited.elapsed());
        other
    });
    assert!(tried.is_ok());
    assert_eq!(
        others,
        Err(CallError::CircuitOpen),
        "only one trial call at a time"
    );
    assert_eq!((state(&metrics), guarded.problem()), ("closed", None));
    let calls = |outcome| metrics.supplier_calls.with_label_values(&[outcome]).get();
    assert_eq!(
        (calls("status"), calls("confirmed"), calls("timeout")),
        (3, 1, 0)
    );
}

/// A silent supplier opens the circuit; timeouts of the caller do not.
#[tokio::test(start_paused = true)]
async fn only_supplier_timeouts_open_circuit() {
    let supplier = Arc::new(ProbeSupplier::new(|_, _| Behaviour::Silent));
    let (guarded, metrics) = guarded(&supplier);
    let bet = pending_bet(Clock::of_tokio().now(), 60 * SECOND);
    for _ in 0..9 {
        assert_eq!(
            guarded.confirm(&bet, SECOND / 2).await,
            Err(SupplierError::Timeout.into())
        );
    }
    assert_eq!(state(&metrics), "closed");
    for _ in 0..3 {
        let started = Instant::now();
        assert_eq!(
            guarded.confirm(&bet, 9 * SECOND).await,
            Err(SupplierError::Timeout.into())
        );
        assert_eq!(started.elapsed(), SECOND);
    }
    assert_eq!(state(&metrics), "open");
}

/// A rejected request (422) does not open the circuit.
#[tokio::test(start_paused = true)]
async fn rejected_requests_keep_circuit_closed() {
    let supplier = Arc::new(ProbeSupplier::new(|_, _| {
        Behaviour::Fail(SupplierError::Status(422))
    }));
    let (guarded, metrics) = guarded(&supplier);
    let bet = pending_bet(Clock::of_tokio().now(), 60 * SECOND);
    for _ in 0..9 {
        assert_eq!(
            guarded.confirm(&bet, 9 * SECOND).await,
            Err(SupplierError::Status(422).into())
        );
    }
    assert_eq!(state(&metrics), "closed");
}

/// Attempts end at the deadline, which also cuts the last delay short.
#[tokio::test(start_paused = true)]
async fn attempts_end_at_deadline() {
    let supplier = Arc::new(ProbeSupplier::new(|_, _| {
        Behaviour::Fail(SupplierError::Status(422))
    }));
    let (guarded, _) = guarded(&supplier);
    let bet = pending_bet(guarded.clock.now(), 10 * SECOND);
    let started = Instant::now();
    let attempt = |left| {
        let call = guarded.confirm(&bet, left);
        async { call.await.map_err(Retry::from) }
    };
    let answer = guarded.until(bet.decide_by, backoff(), attempt).await;
    assert_eq!((answer, started.elapsed()), (None, 10 * SECOND));
    // Delays of 1 to 2, 2 to 4, and then 4 to 8 seconds.
    assert!(
        (3..=4).contains(&supplier.confirm_requests()),
        "{}",
        supplier.confirm_requests()
    );
}

/// An attempt is repeated as soon as the circuit closes.
#[tokio::test(start_paused = true)]
async fn open_circuit_does_not_use_backoff() {
    let supplier = Arc::new(ProbeSupplier::new(|_, attempt| match attempt {
        0..3 => Behaviour::Fail(SupplierError::Status(500)),
        _ => confirmed(),
    }));
    let (guarded, _) = guarded(&supplier);
    let bet = pending_bet(guarded.clock.now(), 60 * SECOND);
    for _ in 0..3 {
        assert!(guarded.confirm(&bet, SECOND).await.is_err());
    }
    let started = Instant::now();
    let attempt = |left| {
        let call = guarded.confirm(&bet, left);
        async { call.await.map_err(Retry::from) }
    };
    let answer = guarded.until(bet.decide_by, backoff(), attempt).await;
    assert!(answer.is_some());
    let waited = started.elapsed();
    assert!((2 * SECOND..3 * SECOND).contains(&waited), "{waited:?}");
}

fn backoff() -> Backoff {
    let policy = BackoffPolicy {
        first: SECOND,
        most: 4 * SECOND,
    };
    Backoff::new(policy, 1)
}
