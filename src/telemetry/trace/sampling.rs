//! Which work is traced.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::trace_parent::TraceParent;

/// Samples at most so many pieces of work a second: odds arrive by thousands a second, and each
/// update makes spans in several processes.
#[derive(Debug)]
pub(super) struct RateSampler {
    /// Microseconds between two samples; `None` samples nothing.
    interval: Option<u64>,
    /// When the next one is due, in microseconds.
    next: AtomicU64,
}

impl RateSampler {
    pub(super) fn new(per_second: u32) -> RateSampler {
        let interval = 1_000_000_u64.checked_div(u64::from(per_second));
        RateSampler {
            interval,
            next: AtomicU64::new(0),
        }
    }

    /// Whether work at this time is sampled. Concurrent callers do not share one sample.
    pub(super) fn samples(&self, now: u64) -> bool {
        let Some(interval) = self.interval else {
            return false;
        };
        let due = self.next.load(Ordering::Relaxed);
        let order = Ordering::Relaxed;
        let take = |next| self.next.compare_exchange(due, next, order, order).is_ok();
        // The clock may be set back.
        let is_due = now >= due || due - now > interval;
        is_due && take(now.saturating_add(interval))
    }
}

/// Samples a share of all work. It does not look at trace ids: a client chooses them.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShareSampler(pub f64);

impl ShareSampler {
    fn samples(self, random: f64) -> bool {
        random < self.0
    }

    /// The decision for a request. The flag that came with it counts only if its sender is trusted:
    /// any other client could turn sampling on for all of its requests, or off.
    pub(super) fn decides(
        self,
        incoming: Option<TraceParent>,
        is_trusted: bool,
        random: f64,
    ) -> bool {
        match incoming {
            Some(parent) if is_trusted => parent.is_sampled,
            _ => self.samples(random),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn incoming(is_sampled: bool) -> Option<TraceParent> {
        Some(TraceParent {
            trace_id: [1; 16],
            span_id: [2; 8],
            is_sampled,
        })
    }

    #[test]
    fn flag_of_stranger_is_ignored() {
        for flag in [true, false] {
            assert!(!ShareSampler(0.0).decides(incoming(flag), false, 0.0));
            assert!(ShareSampler(1.0).decides(incoming(flag), false, 0.999));
        }
    }

    #[test]
    fn flag_of_trusted_sender_decides() {
        assert!(ShareSampler(0.0).decides(incoming(true), true, 0.5));
        assert!(!ShareSampler(1.0).decides(incoming(false), true, 0.5));
        assert!(ShareSampler(1.0).decides(None, true, 0.5));
        assert!(!ShareSampler(0.0).decides(None, true, 0.5));
    }

    #[test]
    fn rate_zero_samples_nothing() {
        let sampler = RateSampler::new(0);
        assert!((0..9).all(|second| !sampler.samples(second * 1_000_000)));
    }

    #[test]
    fn clock_that_is_set_back_stops_nothing() {
        let sampler = RateSampler::new(10);
        assert!(sampler.samples(3_600_000_000));
        assert!(sampler.samples(1_000_000));
        assert!(!sampler.samples(1_050_000));
        assert!(sampler.samples(1_100_000));
    }

    #[test]
    fn concurrent_callers_share_no_sample() {
        let sampler = RateSampler::new(1);
        let count = || (0..1_000).filter(|_| sampler.samples(5)).count();
        let sampled: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!(sampled, 1);
    }

    proptest! {
        /// In any order of arrivals, no window of a second has more samples than the rate.
        #[test]
        fn no_second_has_more_samples_than_the_rate(
            rate in 1_u32..20,
            gaps in proptest::collection::vec(0_u64..400_000, 1..300),
        ) {
            let sampler = RateSampler::new(rate);
            let mut now = 0;
            let mut sampled = Vec::new();
            for gap in gaps {
                now += gap;
                if sampler.samples(now) {
                    sampled.push(now);
                }
            }
            for first in &sampled {
                let within = |at: &&u64| (*first..*first + 999_999).contains(*at);
                prop_assert!(sampled.iter().filter(within).count() <= rate as usize + 1);
            }
        }
    }
}
