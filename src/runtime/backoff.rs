//! Retry delays: exponential, bounded and jittered.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Bounds of an exponential delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackoffPolicy {
    /// The delay after the first failure, before jitter.
    pub first: Duration,
    /// The maximum delay, before jitter.
    pub most: Duration,
}

/// The delays of one sequence of failures. Jitter makes each delay up to twice its base, so that
/// concurrent retries do not run in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: BackoffPolicy,
    seed: u64,
    delays: ExponentialBackoff,
    failures: u32,
}

impl Backoff {
    /// Delays within `policy`, with jitter seeded by `seed`.
    pub(crate) fn new(policy: BackoffPolicy, seed: u64) -> Backoff {
        Backoff {
            policy,
            seed,
            delays: delays(policy, seed),
            failures: 0,
        }
    }

    /// Counts a failure and returns the delay before the next attempt.
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.delays.next().unwrap_or(self.policy.most)
    }

    /// Forgets the failures after a success.
    pub(crate) fn reset(&mut self) {
        self.seed = self.seed.wrapping_add(1);
        *self = Backoff::new(self.policy, self.seed);
    }

    /// Number of failures since the last success.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

fn delays(policy: BackoffPolicy, seed: u64) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(policy.first)
        .with_max_delay(policy.most)
        .with_factor(2.0)
        .without_max_times()
        .with_jitter()
        .with_jitter_seed(seed)
        .build()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: BackoffPolicy = BackoffPolicy {
        first: Duration::from_millis(100),
        most: Duration::from_secs(5),
    };

    #[test]
    fn success_resets_backoff() {
        let mut backoff = Backoff::new(POLICY, 7);
        for _ in 0..20 {
            backoff.next_delay();
        }
        assert_eq!(backoff.failures(), 20);
        backoff.reset();
        assert_eq!(backoff.failures(), 0);
        assert!(backoff.next_delay() <= 2 * POLICY.first);
    }

    proptest! {
        #[test]
        fn delays_grow_within_jitter_bounds(seed in any::<u64>()) {
            let mut backoff = Backoff::new(POLICY, seed);
            let mut base = POLICY.first;
            for _ in 0..50 {
                let delay = backoff.next_delay();
                prop_assert!(delay >= base && delay <= 2 * base, "{delay:?} of {base:?}");
                base = (base * 2).min(POLICY.most);
            }
        }

        #[test]
        fn seeds_give_different_delays(seed in any::<u64>()) {
            let row = |seed| { let mut backoff = Backoff::new(POLICY, seed); (0..4).map(|_| backoff.next_delay()).collect::<Vec<_>>() };
            prop_assert_ne!(row(seed), row(seed.wrapping_add(1)));
        }
    }
}
