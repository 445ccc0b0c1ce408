//! Requests cancellation from the supplier of bets that were rejected without its answer, until the
//! supplier confirms.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{debug, warn};

use super::supplier_client::{CallError, SupplierClient};
use crate::actors::bets::messages::CancelsWait;
use crate::domain::bets::bet::BetId;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::runtime::blocking::blocking;
use crate::runtime::clock::Clock;
use crate::runtime::health::HealthCell;
use crate::store::StoreError;
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
    trouble: Arc<HealthCell>,
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
        let trouble = Arc::new(HealthCell::new("bets cannot be cancelled"));
        let task = CancelTask {
            store,
            supplier,
            settings,
            trouble,
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
    pub fn trouble(&self) -> Arc<HealthCell> {
        self.task.trouble.clone()
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
                            canceller.task.trouble.over();
                            canceller.is_wanted |= cancels.len() == room;
                            cancels
                                .into_iter()
                                .for_each(|cancel| canceller.cancel(cancel, until, context));
                        }
                        Err(error) => canceller.task.trouble.met(&error),
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
                        Failure::Store(error) => self.trouble.met(&error),
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
mod tests {
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
        trouble: Arc<HealthCell>,
        clock: Clock,
        canceller: Addr<Canceller>,
    }

    fn start(failures_to_open: u32) -> Cancelling {
        tokio::time::pause();
        let (store, clock) = (Arc::new(FakeMoney::default()), Clock::of_tokio());
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
            hold: 40 * SECOND,
        };
        let canceller = Canceller::new(
            store.clone(),
            guarded,
            settings,
            clock.clone(),
            metrics.clone(),
        );
        let trouble = canceller.trouble();
        Cancelling {
            store,
            supplier,
            metrics,
            trouble,
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
        assert!(cancelling.trouble.problem().is_some());
        cancelling.store.come_back();
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(
            (
                cancelling.store.open_cancels().unwrap(),
                cancelling.trouble.problem()
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
}
