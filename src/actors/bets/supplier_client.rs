//! The supplier behind one circuit breaker. All callers share it, so that none calls while the
//! circuit is open.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use log::{info, warn};
use parking_lot::Mutex;
use strum::VariantArray;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::domain::bets::bet::{Bet, BetId};
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::Backoff;
use crate::runtime::circuit_breaker::{Breaker, BreakerPolicy, BreakerState};
use crate::runtime::clock::Clock;
use crate::runtime::health::HealthCell;
use crate::supplier::confirm::{Answer, BetSupplier, SupplierError};
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::ConfirmationMetrics;
use crate::telemetry::trace::{self, Span, SpanKind};

/// Maximum time between two attempts of a waiting caller while the circuit is open.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Timeout and circuit breaker of the supplier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuardSettings {
    /// Timeout of one call.
    pub timeout: Duration,
    /// When the circuit opens, and for how long.
    pub breaker: BreakerPolicy,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// The call was not made because the circuit is open.
    #[error("the supplier's circuit breaker is open")]
    CircuitOpen,
    /// The call failed.
    #[error(transparent)]
    Failed(#[from] SupplierError),
}

/// When [`SupplierClient::until`] repeats a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// As soon as the circuit closes. The attempt does not count towards the backoff.
    WhenClosed,
    /// After the next delay of the backoff.
    AfterBackoff,
}

impl From<CallError> for Retry {
    fn from(error: CallError) -> Retry {
        match error {
            CallError::CircuitOpen => Retry::WhenClosed,
            CallError::Failed(_) => Retry::AfterBackoff,
        }
    }
}

/// The supplier, shared by all actors of a process.
pub(crate) struct SupplierClient {
    supplier: Arc<dyn BetSupplier>,
    settings: GuardSettings,
    breaker: Mutex<Breaker>,
    /// The failure that keeps the circuit open.
    health: HealthCell,
    /// Notifies waiting callers that the circuit has closed.
    closed: watch::Sender<()>,
    clock: Clock,
    log: FaultLog,
    metrics: ConfirmationMetrics,
}

/// How a call ended.
enum Called<T> {
    Answered(T),
    Failed(SupplierError),
    /// The caller's timeout expired before the supplier's.
    CallerTimedOut,
}

impl SupplierClient {
    /// A client for `supplier`, with a closed circuit.
    pub(crate) fn new(
        supplier: Arc<dyn BetSupplier>,
        settings: GuardSettings,
        clock: Clock,
        metrics: ConfirmationMetrics,
    ) -> SupplierClient {
        let client = SupplierClient {
            supplier,
            settings,
            breaker: Mutex::new(Breaker::new(settings.breaker)),
            health: HealthCell::default(),
            closed: watch::Sender::new(()),
            clock,
            log: FaultLog::new(),
            metrics,
        };
        client.publish_state(BreakerState::Closed);
        client
    }

    /// Requests confirmation of a bet; waits no longer than `timeout`.
    pub(crate) async fn confirm(&self, bet: &Bet, timeout: Duration) -> Result<Answer, CallError> {
        let outcome = |answer: &Answer| match answer {
            Answer::Confirmed { .. } => "confirmed",
            Answer::Rejected { .. } => "rejected",
        };
        let mut span = Span::child(trace::current(), SpanKind::Client, "POST /supplier/confirm")
            .with_bet(&bet.id);
        let call = || trace::within(span.context(), || self.supplier.confirm(bet));
        let called = self.call(call, timeout, &self.metrics.supplier_calls, outcome);
        let answer = called.await;
        match &answer {
            // Nothing was sent.
            Err(CallError::CircuitOpen) => span.fail("circuit_open"),
            Err(CallError::Failed(error)) => span.fail(error.kind()),
            Ok(_) => {}
        }
        answer
    }

    /// Requests cancellation of a bet; waits no longer than `timeout`.
    pub(crate) async fn cancel(
        &self,
        bet_id: BetId,
        user_id: &UserId,
        timeout: Duration,
    ) -> Result<(), CallError> {
        let call = || self.supplier.cancel(bet_id, user_id);
        self.call(call, timeout, &self.metrics.cancel_calls, |()| "cancelled")
            .await
    }

    /// Repeats `attempt` until it succeeds. Each attempt receives the time left until `deadline`.
    /// Returns `None` if the deadline passes first.
    pub(crate) async fn until<T, A>(
        &self,
        deadline: Timestamp,
        mut backoff: Backoff,
        attempt: impl Fn(Duration) -> A,
    ) -> Option<T>
    where
        A: Future<Output = Result<T, Retry>>,
    {
        loop {
            let left = self.clock.until(deadline);
            if left.is_zero() {
                return None;
            }
            match attempt(left).await {
                Ok(answer) => return Some(answer),
                Err(Retry::WhenClosed) => self.wait_until_closed(left).await,
                Err(Retry::AfterBackoff) => {
                    let left = self.clock.until(deadline);
                    tokio::time::sleep(backoff.next_delay().min(left)).await;
                }
            }
        }
    }

    /// Waits, no longer than `timeout`, until a call is worth another attempt.
    async fn wait_until_closed(&self, timeout: Duration) {
        let mut closed = self.closed.subscribe();
        let _ = tokio::time::timeout(timeout.min(POLL_INTERVAL), closed.changed()).await;
    }

    /// Why the supplier is not ready, for the readiness check. The full text of the last failure is
    /// in the log.
    pub(crate) fn problem(&self) -> Option<String> {
        let failure = self.health.problem()?;
        Some(format!("circuit breaker open: {failure}"))
    }

    async fn call<T>(
        &self,
        call: impl FnOnce() -> BoxFuture<'static, Result<T, SupplierError>>,
        timeout: Duration,
        calls: &prometheus::IntCounterVec,
        outcome: impl Fn(&T) -> &'static str,
    ) -> Result<T, CallError> {
        if !self.permits() {
            return Err(CallError::CircuitOpen);
        }
        let started = Instant::now();
        let called = match tokio::time::timeout(timeout.min(self.settings.timeout), call()).await {
            Ok(Ok(answer)) => Called::Answered(answer),
            Ok(Err(error)) => Called::Failed(error),
            Err(_) if timeout < self.settings.timeout => Called::CallerTimedOut,
            Err(_) => Called::Failed(SupplierError::Timeout),
        };
        self.metrics
            .supplier_call_seconds
            .observe(started.elapsed().as_secs_f64());
        let kind = match &called {
            Called::Answered(answer) => outcome(answer),
            Called::Failed(error) => error.kind(),
            Called::CallerTimedOut => SupplierError::Timeout.kind(),
        };
        calls.with_label_values(&[kind]).inc();
        self.report(&called);
        match called {
            Called::Answered(answer) => Ok(answer),
            Called::Failed(error) => Err(error.into()),
            Called::CallerTimedOut => Err(SupplierError::Timeout.into()),
        }
    }

    fn permits(&self) -> bool {
        let mut breaker = self.breaker.lock();
        let permits = breaker.permits(self.clock.now());
        self.publish_state(breaker.state());
        permits
    }

    fn report<T>(&self, called: &Called<T>) {
        let mut breaker = self.breaker.lock();
        let before = breaker.state();
        let failure = match called {
            Called::Answered(_) => None,
            // The supplier is available; only this request is wrong.
            Called::Failed(error) if error.is_about_the_question() => None,
            Called::Failed(error) => Some(error),
            // Says nothing about the supplier.
            Called::CallerTimedOut => return,
        };
        match failure {
            None => breaker.succeeded(),
            Some(_) => breaker.failed(self.clock.now()),
        }
        let after = breaker.state();
        self.publish_state(after);
        match failure.filter(|_| after != BreakerState::Closed) {
            Some(failure) => {
                self.health.record_failure(&failure.summary());
                if before == BreakerState::Closed {
                    self.log_opened(failure);
                }
            }
            None => {
                self.health.record_success();
                if before != BreakerState::Closed {
                    self.on_closed();
                }
            }
        }
    }

    fn log_opened(&self, failure: &SupplierError) {
        let failure = failure.to_string();
        if let Some(repeated) = self.log.failed(&failure) {
            warn!(repeated; "supplier circuit breaker opened: {failure}");
        }
    }

    fn on_closed(&self) {
        if self.log.recovered() {
            info!("supplier circuit breaker closed");
        }
        self.closed.send_replace(());
    }

    fn publish_state(&self, now: BreakerState) {
        for state in BreakerState::VARIANTS {
            self.metrics
                .breaker
                .with_label_values(&[state.as_str()])
                .set(i64::from(*state == now));
        }
    }
}

#[cfg(test)]
mod tests;
