//! A circuit breaker: whoever fails again and again is left alone for a while, then tried once.
//!
//! Ours and not a library's: its state is asked for by metrics and readiness, and time is given in.

use std::time::Duration;

use crate::domain::string_enum::string_enum;
use crate::domain::timestamp::Timestamp;

string_enum! {
    /// How a breaker stands.
    BreakerState, "breaker state", {
        /// Calls are made.
        Closed = "closed",
        /// No call is made.
        Open = "open",
        /// One call is made, to see.
        HalfOpen = "half_open",
    }
}

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct BreakerPolicy {
    /// So many failures, one after the other, open it.
    pub failures: u32,
    /// After so long one call is tried.
    pub pause: Duration,
}

/// The breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    failures: u32,
    /// When it opened, or when the call was let through that is to show whether it may close.
    since: Option<Timestamp>,
    is_trying: bool,
}

impl Breaker {
    /// A closed one.
    pub fn new(policy: BreakerPolicy) -> Breaker {
        Breaker {
            policy,
            failures: 0,
            since: None,
            is_trying: false,
        }
    }

    /// How it stands.
    pub fn state(&self) -> BreakerState {
        match (self.since, self.is_trying) {
            (None, _) => BreakerState::Closed,
            (Some(_), false) => BreakerState::Open,
            (Some(_), true) => BreakerState::HalfOpen,
        }
    }

    /// Whether a call may be made now; one that may has to be followed by [`Breaker::succeeded`] or
    /// [`Breaker::failed`]. A call that is let through to see and never reports holds nobody up:
    /// after another pause the next one is.
    pub fn permits(&mut self, now: Timestamp) -> bool {
        let Some(since) = self.since else { return true };
        if now.seconds_since(since) < self.policy.pause.as_secs_f64() {
            return false;
        }
        self.since = Some(now);
        self.is_trying = true;
        true
    }

    /// A call did what it should: it closes.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.since = None;
        self.is_trying = false;
    }

    /// A call failed.
    pub fn failed(&mut self, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        // A call that began before it opened says nothing new.
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

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_does_not() {
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
    fn after_the_pause_one_call_is_tried() {
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
    fn a_call_that_never_reports_holds_nobody_up() {
        let mut breaker = opened();
        assert!(breaker.permits(at(2)));
        assert!(!breaker.permits(at(3)));
        assert!(breaker.permits(at(4)));
    }

    #[test]
    fn late_failures_of_calls_from_before_do_not_prolong_the_pause() {
        let mut breaker = opened();
        breaker.failed(at(1));
        assert!(breaker.permits(at(2)));
    }
}
