//! A circuit breaker: after repeated failures no call is made for a while, then one trial call.
//!
//! Own code instead of a library, because metrics and readiness read its state, and because the
//! time is an argument.

use std::time::Duration;

use strum::{IntoStaticStr, VariantArray};

use crate::domain::timestamp::Timestamp;

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum BreakerState {
    /// Calls are allowed.
    Closed,
    /// Calls are rejected.
    Open,
    /// One trial call is allowed.
    HalfOpen,
}

impl BreakerState {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BreakerPolicy {
    /// Number of consecutive failures that open the breaker.
    pub failures: u32,
    /// How long the breaker stays open before a trial call.
    pub pause: Duration,
}

/// A circuit breaker.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    policy: BreakerPolicy,
    failures: u32,
    /// When the breaker opened, or when the trial call was allowed.
    since: Option<Timestamp>,
    is_trying: bool,
}

impl Breaker {
    /// A closed breaker.
    pub(crate) fn new(policy: BreakerPolicy) -> Breaker {
        Breaker {
            policy,
            failures: 0,
            since: None,
            is_trying: false,
        }
    }

    /// The current state.
    pub(crate) fn state(&self) -> BreakerState {
        match (self.since, self.is_trying) {
            (None, _) => BreakerState::Closed,
            (Some(_), false) => BreakerState::Open,
            (Some(_), true) => BreakerState::HalfOpen,
        }
    }

    /// Whether a call may be made now. An allowed call must be followed by [`Breaker::succeeded`]
    /// or [`Breaker::failed`]. If a trial call never reports, the next one is allowed after another
    /// pause.
    pub(crate) fn permits(&mut self, now: Timestamp) -> bool {
        let Some(since) = self.since else { return true };
        if now.seconds_since(since) < self.policy.pause.as_secs_f64() {
            return false;
        }
        self.since = Some(now);
        self.is_trying = true;
        true
    }

    /// Reports a successful call: closes the breaker.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.since = None;
        self.is_trying = false;
    }

    /// Reports a failed call.
    pub(crate) fn failed(&mut self, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        // The failure of a call that started before the breaker opened says nothing new.
        if self.is_trying || (self.since.is_none() && self.failures >= self.policy.failures) {
            self.since = Some(now);
            self.is_trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy {
        failures: 3,
        pause: Duration::from_secs(2),
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000).unwrap()
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(POLICY);
        (0..3).for_each(|_| breaker.failed(at(0)));
        breaker
    }

    /// Consecutive failures open the breaker; a success in between resets the count.
    #[test]
    fn consecutive_failures_open_breaker() {
        let mut breaker = Breaker::new(POLICY);
        for failed in [true, true, false, true, true] {
            assert!(breaker.permits(at(0)));
            if failed {
                breaker.failed(at(0))
            } else {
                breaker.succeeded()
            }
            assert_eq!(breaker.state(), BreakerState::Closed);
        }
        breaker.failed(at(0));
        assert_eq!(
            (breaker.state(), breaker.permits(at(1))),
            (BreakerState::Open, false)
        );
    }

    #[test]
    fn one_trial_call_after_pause() {
        let mut breaker = opened();
        assert!(!breaker.permits(at(1)));
        assert!(breaker.permits(at(2)), "the pause is over");
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(!breaker.permits(at(2)), "only one");
        breaker.failed(at(3));
        assert_eq!(
            (breaker.state(), breaker.permits(at(4))),
            (BreakerState::Open, false)
        );
        assert!(breaker.permits(at(5)));
        breaker.succeeded();
        assert_eq!(
            (breaker.state(), breaker.permits(at(5))),
            (BreakerState::Closed, true)
        );
    }

    #[test]
    fn unreported_trial_call_does_not_block() {
        let mut breaker = opened();
        assert!(breaker.permits(at(2)));
        assert!(!breaker.permits(at(3)));
        assert!(breaker.permits(at(4)));
    }

    #[test]
    fn late_failures_do_not_extend_pause() {
        let mut breaker = opened();
        breaker.failed(at(1));
        assert!(breaker.permits(at(2)));
    }
}
